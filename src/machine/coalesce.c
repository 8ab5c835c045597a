/* Guest writes that are kept back for a moment: see coalesce.h. */
#include "machine/coalesce.h"

#include "base/loop.h"
#include "base/util.h"

#include <stdatomic.h>

/* Short enough not to be noticed on a terminal, long enough to cost nothing. */
#define DELIVERY_NS UINT64_C(2000000)

struct coalescer {
	struct hav_vm *vm;
	struct bus *io, *memory;
	struct loop_timer *timer;
	struct loop *loop;
	struct loop_call arm;
	atomic_bool armed;
};

/* The backend delivers here, before the exit that follows the writes is handled. */
static void deliver(void *opaque, enum hav_space space, uint64_t address, uint32_t size,
		    uint64_t value)
{
	struct coalescer *c = opaque;

	bus_write(space == HAV_SPACE_IO ? c->io : c->memory, address, size, value);
}

static void set_timer(void *opaque)
{
	struct coalescer *c = opaque;

	loop_timer_set(c->timer, now_ns() + DELIVERY_NS);
}

static void deliver_late(void *opaque)
{
	struct coalescer *c = opaque;

	c->armed = false;
	hav_vm_flush_coalesced(c->vm);
}

struct coalescer *coalescer_new(const struct hav *hav, struct hav_vm *vm, struct bus *io,
				struct bus *memory, struct loop *main_loop)
{
	struct coalescer *c;

	if (!hav_capability(hav, HAV_CAP_COALESCE))
		return NULL;
	c = xcalloc(1, sizeof(*c));
	c->vm = vm;
	c->io = io;
	c->memory = memory;
	c->loop = main_loop;
	c->arm = (struct loop_call){ set_timer, c };
	c->timer = loop_timer_new(main_loop, deliver_late, c);
	hav_vm_set_coalesced(vm, deliver, c);
	return c;
}

void coalescer_free(struct coalescer *c)
{
	if (!c)
		return;
	hav_vm_set_coalesced(c->vm, NULL, NULL);
	loop_timer_free(c->timer);
	free(c);
}

bool coalesce_register(struct coalescer *c, const struct region *region, uint64_t offset,
		       uint32_t size, bool on)
{
	bool io;

	if (!c || !region->bus)
		return false;
	io = region->bus == c->io;
	if (hav_vm_coalesce(c->vm, io ? HAV_SPACE_IO : HAV_SPACE_MEMORY, region->base + offset,
			    size, on, NULL) < 0)
		return false;
	return on;
}

void coalesce_expect(struct coalescer *c)
{
	if (c && !atomic_exchange_explicit(&c->armed, true, memory_order_relaxed))
		loop_post(c->loop, &c->arm);
}
