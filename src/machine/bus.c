/*
 * Address spaces: see bus.h.
 *
 * Two tables, each a fixed array: the mappings (address order within a priority is of no concern),
 * and the view made of them: disjoint ranges in address order, each naming the region that is seen
 * there. Changing a mapping rebuilds the view under the lock, between two steps of a sequence
 * counter; a reader that sees the counter odd or changed looks again. Entries are read and written
 * as relaxed atomics, which on x86 are plain moves.
 */
#include "machine/bus.h"

#include "base/error.h"
#include "base/log.h"
#include "base/util.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>

/* 32 root slots with 6 BARs each and as many behind ports would be 400; Jailhouse counts, we bound.
 */
#define BUS_MAX_REGIONS 512
#define BUS_MAX_RANGES  (2 * BUS_MAX_REGIONS)

struct range {
	_Atomic uint64_t start, end; /* end is exclusive */
	_Atomic(struct region *) region;
};

struct bus {
	enum hav_space space;
	struct hav_vm *vm;
	pthread_mutex_t lock; /* of changes */
	struct region *mapped[BUS_MAX_REGIONS];
	unsigned n_mapped;
	atomic_uint sequence;
	atomic_uint n_ranges;
	struct range ranges[BUS_MAX_RANGES];
};

struct bus *bus_new(enum hav_space space, struct hav_vm *vm)
{
	struct bus *bus = xcalloc(1, sizeof(*bus));

	bus->space = space;
	bus->vm = vm;
	pthread_mutex_init(&bus->lock, NULL);
	return bus;
}

void bus_free(struct bus *bus)
{
	if (!bus)
		return;
	while (bus->n_mapped)
		bus_unmap(bus->mapped[0]);
	pthread_mutex_destroy(&bus->lock);
	free(bus);
}

/* --- Look-up ---- */

static struct region *search(struct bus *bus, uint64_t address, uint64_t *offset)
{
	unsigned lo = 0, hi = atomic_load_explicit(&bus->n_ranges, memory_order_relaxed);

	while (lo < hi) {
		unsigned mid = lo + (hi - lo) / 2;
		struct range *r = &bus->ranges[mid];
		uint64_t start = atomic_load_explicit(&r->start, memory_order_relaxed);

		if (address < start) {
			hi = mid;
		} else if (address >= atomic_load_explicit(&r->end, memory_order_relaxed)) {
			lo = mid + 1;
		} else {
			struct region *region =
				atomic_load_explicit(&r->region, memory_order_relaxed);

			*offset = address - region->base;
			return region;
		}
	}
	return NULL;
}

static struct region *lookup(struct bus *bus, uint64_t address, uint64_t *offset)
{
	struct region *region;
	unsigned before;

	do {
		before = atomic_load_explicit(&bus->sequence, memory_order_acquire) & ~1u;
		region = search(bus, address, offset);
		atomic_thread_fence(memory_order_acquire);
	} while (before != atomic_load_explicit(&bus->sequence, memory_order_relaxed));
	/* The region may have moved since; an offset from its old place is still within it or
	 * refused. */
	return region && *offset < region->size ? region : NULL;
}

/* --- Access ---- */

static uint64_t all_ones(unsigned size)
{
	return size == 8 ? UINT64_MAX : (UINT64_C(1) << (8 * size)) - 1;
}

/* How much of an access of `size` bytes at offset one callback gets. */
static unsigned piece(const struct region *region, uint64_t offset, unsigned size)
{
	unsigned max = region->ops->max_size ? region->ops->max_size : 8;

	size = MIN(size, max);
	while (size > region->size - offset)
		size /= 2;
	return size;
}

uint64_t bus_read(struct bus *bus, uint64_t address, unsigned size)
{
	uint64_t value = 0, offset;

	for (unsigned done = 0, n; done < size; done += n) {
		struct region *region = lookup(bus, address + done, &offset);
		uint64_t part = UINT64_MAX;

		/* Nobody decodes the cycle, not even one who sits a few bytes further on. */
		n = region ? piece(region, offset, size - done) : size - done;
		if (region)
			part = region->ops->read(region->opaque, offset, n) & all_ones(n);
		value |= part << (8 * done);
	}
	return value & all_ones(size);
}

/* #syscalls:vcpu write */
static bool ring(const struct region *region, uint64_t offset, unsigned size)
{
	for (unsigned i = 0; i < region->n_doorbells; i++) {
		const struct region_doorbell *bell = &region->doorbells[i];
		uint64_t one = 1;

		if (bell->offset != offset || (bell->size && bell->size != size))
			continue;
		if (write(bell->fd, &one, sizeof(one)) < 0 && errno != EAGAIN)
			LOG_ONCE("%s: doorbell not rung: %s", region->name, strerror(errno));
		return true;
	}
	return false;
}

void bus_write(struct bus *bus, uint64_t address, unsigned size, uint64_t value)
{
	uint64_t offset;

	for (unsigned done = 0, n; done < size; done += n) {
		struct region *region = lookup(bus, address + done, &offset);

		n = region ? piece(region, offset, size - done) : size - done;
		if (region && !ring(region, offset, n))
			region->ops->write(region->opaque, offset, n,
					   value >> (8 * done) & all_ones(n));
	}
}

/* --- Change ---- */

static void doorbell_bind(struct region *region, const struct region_doorbell *bell, bool on)
{
	struct hav_vm *vm = region->bus->vm;
	struct hav_doorbell doorbell = {
		.space = region->bus->space,
		.address = region->base + bell->offset,
		.size = bell->size,
		.fd = bell->fd,
	};

	if (!vm)
		return;
	/* A failure leaves the slower way, by bus_write(). */
	if (on)
		hav_ioeventfd_bind(vm, &doorbell, NULL);
	else
		hav_ioeventfd_unbind(vm, &doorbell, NULL);
}

static void doorbells_bind(struct region *region, bool on)
{
	for (unsigned i = 0; i < region->n_doorbells; i++)
		doorbell_bind(region, &region->doorbells[i], on);
}

static struct region *seen_at(struct bus *bus, uint64_t address)
{
	struct region *best = NULL;

	for (unsigned i = 0; i < bus->n_mapped; i++) {
		struct region *r = bus->mapped[i];

		if (address >= r->base && address - r->base < r->size &&
		    (!best || r->priority > best->priority))
			best = r;
	}
	return best;
}

static int compare_u64(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* Between two neighbouring edges exactly one region, or none, is seen. */
static void rebuild(struct bus *bus)
{
	uint64_t edges[2 * BUS_MAX_REGIONS];
	unsigned n_edges = 0, n = 0;

	for (unsigned i = 0; i < bus->n_mapped; i++) {
		edges[n_edges++] = bus->mapped[i]->base;
		edges[n_edges++] = bus->mapped[i]->base + bus->mapped[i]->size;
	}
	qsort(edges, n_edges, sizeof(edges[0]), compare_u64);
	for (unsigned i = 0; i + 1 < n_edges; i++) {
		struct region *region;

		if (edges[i] == edges[i + 1] || !(region = seen_at(bus, edges[i])))
			continue;
		bus->ranges[n].start = edges[i];
		bus->ranges[n].end = edges[i + 1];
		bus->ranges[n].region = region;
		n++;
	}
	bus->n_ranges = n;
}

static struct region *overlapping(struct bus *bus, const struct region *region, uint64_t base)
{
	for (unsigned i = 0; i < bus->n_mapped; i++) {
		struct region *r = bus->mapped[i];

		if (r->priority == region->priority && base < r->base + r->size &&
		    r->base < base + region->size)
			return r;
	}
	return NULL;
}

static int check_map(struct bus *bus, const struct region *region, uint64_t base,
		     struct error **err)
{
	struct region *other;

	if (!region->size || base + region->size < base) {
		error_set(err, "%s: no region of 0x%llx bytes fits at 0x%llx", region->name,
			  (unsigned long long)region->size, (unsigned long long)base);
	} else if (bus->n_mapped == BUS_MAX_REGIONS) {
		error_set(err, "%s: the bus already has its %u regions", region->name,
			  BUS_MAX_REGIONS);
	} else if ((other = overlapping(bus, region, base))) {
		error_set(err, "%s at 0x%llx overlaps %s at 0x%llx", region->name,
			  (unsigned long long)base, other->name, (unsigned long long)other->base);
	} else {
		return 0;
	}
	return -1;
}

int bus_map(struct bus *bus, struct region *region, uint64_t base, struct error **err)
{
	pthread_mutex_lock(&bus->lock);
	if (check_map(bus, region, base, err) < 0) {
		pthread_mutex_unlock(&bus->lock);
		return -1;
	}
	atomic_fetch_add(&bus->sequence, 1);
	region->bus = bus;
	region->base = base;
	bus->mapped[bus->n_mapped++] = region;
	rebuild(bus);
	atomic_fetch_add(&bus->sequence, 1);
	doorbells_bind(region, true);
	pthread_mutex_unlock(&bus->lock);
	return 0;
}

void bus_unmap(struct region *region)
{
	struct bus *bus = region->bus;

	if (!bus)
		return;
	pthread_mutex_lock(&bus->lock);
	doorbells_bind(region, false);
	atomic_fetch_add(&bus->sequence, 1);
	for (unsigned i = 0; i < bus->n_mapped; i++) {
		if (bus->mapped[i] == region) {
			bus->mapped[i] = bus->mapped[--bus->n_mapped];
			break;
		}
	}
	region->bus = NULL;
	rebuild(bus);
	atomic_fetch_add(&bus->sequence, 1);
	pthread_mutex_unlock(&bus->lock);
}

int region_add_doorbell(struct region *region, uint64_t offset, uint32_t size, int fd,
			struct error **err)
{
	if (region->n_doorbells == REGION_MAX_DOORBELLS) {
		error_set(err, "%s: more than %d doorbells", region->name, REGION_MAX_DOORBELLS);
		return -1;
	}
	if (!region->doorbells)
		region->doorbells = xcalloc(REGION_MAX_DOORBELLS, sizeof(*region->doorbells));
	region->doorbells[region->n_doorbells++] =
		(struct region_doorbell){ .offset = offset, .size = size, .fd = fd };
	if (region->bus)
		doorbell_bind(region, &region->doorbells[region->n_doorbells - 1], true);
	return 0;
}

const struct region *bus_region_at(struct bus *bus, unsigned i)
{
	return i < bus->n_ranges ? bus->ranges[i].region : NULL;
}
