/*
 * The driver's side of a split virtqueue, for tests: rings and buffers in guest memory without a
 * VM. It does what it is told, right or wrong.
 */
#ifndef REVIRT_TESTS_VIRTIO_DRIVER_H
#define REVIRT_TESTS_VIRTIO_DRIVER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "base/util.h"
#include "machine/gmem.h"
#include "virtio/queue.h"

#define DRIVER_RAM     (4 * MIB)
#define DRIVER_RINGS   0x1000 /* of queue 0; each has 64 KiB */
#define DRIVER_BUFFERS 0x200000

struct driver_queue {
	struct gmem *gm;
	uint16_t size;
	uint64_t desc_gpa, avail_gpa, used_gpa;
	struct virtq_desc *desc;
	struct virtq_avail *avail;
	struct virtq_used *used;
	uint16_t avail_idx; /* not yet published */
	uint16_t last_used;
	uint16_t next_desc;
};

static inline void driver_memory(struct gmem *gm)
{
	const struct gmem_config config = { .size = DRIVER_RAM, .low_max = GIB };

	memset(gm, 0, sizeof(*gm));
	assert_int_equal(gmem_init(gm, NULL, &config, NULL), 0);
}

static inline void driver_queue_init(struct driver_queue *d, struct gmem *gm, unsigned index,
				     uint16_t size)
{
	const uint64_t base = DRIVER_RINGS + index * 0x10000ull;

	*d = (struct driver_queue){ .gm = gm, .size = size };
	d->desc_gpa = base;
	d->avail_gpa = base + 0x8000;
	d->used_gpa = base + 0xa000;
	d->desc = gmem_slice(gm, d->desc_gpa, 16 * size);
	d->avail = gmem_slice(gm, d->avail_gpa, 6 + 2 * size);
	d->used = gmem_slice(gm, d->used_gpa, 6 + 8 * size);
	memset(d->desc, 0, 16 * size);
	memset(d->avail, 0, 6 + 2 * size);
	memset(d->used, 0, 6 + 8 * size);
}

static inline void driver_desc(struct virtq_desc *desc, uint64_t addr, uint32_t len, uint16_t flags,
			       uint16_t next)
{
	*desc = (struct virtq_desc){ addr, len, flags, next };
}

/* Puts a chain's head in the ring; driver_publish() makes it seen. */
static inline void driver_offer(struct driver_queue *d, uint16_t head)
{
	d->avail->ring[d->avail_idx++ % d->size] = head;
}

static inline void driver_publish(struct driver_queue *d)
{
	__atomic_store_n(&d->avail->idx, d->avail_idx, __ATOMIC_RELEASE);
}

struct driver_piece {
	uint64_t gpa;
	uint32_t len;
	bool write;
};

/* Lays a chain of pieces into the next descriptors, round and round, and offers it. */
static inline uint16_t driver_add(struct driver_queue *d, const struct driver_piece *pieces,
				  unsigned n)
{
	const uint16_t head = d->next_desc % d->size;

	for (unsigned i = 0; i < n; i++) {
		const uint16_t at = d->next_desc++ % d->size;

		driver_desc(&d->desc[at], pieces[i].gpa, pieces[i].len,
			    (pieces[i].write ? VIRTQ_DESC_F_WRITE : 0) |
				    (i + 1 < n ? VIRTQ_DESC_F_NEXT : 0),
			    (at + 1) % d->size);
	}
	driver_offer(d, head);
	driver_publish(d);
	return head;
}

/* The next used element; false when there is none. */
static inline bool driver_used(struct driver_queue *d, struct virtq_used_elem *elem)
{
	if (__atomic_load_n(&d->used->idx, __ATOMIC_ACQUIRE) == d->last_used)
		return false;
	*elem = d->used->ring[d->last_used++ % d->size];
	return true;
}

static inline uint16_t *driver_used_event(struct driver_queue *d)
{
	return &d->avail->ring[d->size];
}

static inline uint16_t driver_avail_event(struct driver_queue *d)
{
	return __atomic_load_n((uint16_t *)&d->used->ring[d->size], __ATOMIC_RELAXED);
}

#endif
