/*
 * pvpanic: a port by which a guest kernel says that it has crashed.
 *
 * Reading gives the events the host wants to hear of, one a bit; writing reports some of them. Bit
 * 0: the guest panicked. Bit 1: it panicked and goes on in a crash kernel, which must be left to
 * write its dump.
 */
#include "machine/device_list.h"

#include "base/log.h"
#include "base/util.h"
#include "machine/machine.h"

#define PVPANIC_PANICKED     0x01
#define PVPANIC_CRASH_LOADED 0x02
#define PVPANIC_ALL          (PVPANIC_PANICKED | PVPANIC_CRASH_LOADED)

struct pvpanic {
	struct device dev;
	struct region port;
	uint8_t events;
};

static uint64_t pvpanic_read(void *opaque, uint64_t offset, unsigned size)
{
	struct pvpanic *panic = opaque;

	return panic->events;
}

static void pvpanic_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct pvpanic *panic = opaque;
	struct machine *machine = panic->dev.machine;

	if (value & ~(uint64_t)PVPANIC_ALL)
		log_item(LOG_GUEST_ERRORS, "pvpanic: unknown events 0x%llx",
			 (unsigned long long)value);
	if (value & PVPANIC_PANICKED)
		machine->events.panicked(machine->events.opaque, "poweroff");
	else if (value & PVPANIC_CRASH_LOADED)
		machine->events.panicked(machine->events.opaque, "run");
}

static const struct region_ops pvpanic_ops = { pvpanic_read, pvpanic_write, 1 };

static void pvpanic_destroy(struct device *dev)
{
	struct pvpanic *panic = container_of(dev, struct pvpanic, dev);

	bus_unmap(&panic->port);
	free(panic);
}

static int pvpanic_create(struct machine *machine, const struct props *props,
			  struct device **device, struct error **err)
{
	struct pvpanic *panic = xcalloc(1, sizeof(*panic));

	panic->dev.machine = machine;
	panic->events = props_u64(props, "events");
	panic->port = (struct region){ "pvpanic", 1, &pvpanic_ops, panic };
	if (bus_map(machine->io, &panic->port, props_u64(props, "ioport"), err) < 0) {
		free(panic);
		return -1;
	}
	*device = &panic->dev;
	return 0;
}

static const struct prop pvpanic_props[] = {
	{ "ioport", PROP_INT, "0x505", "port", .max = 0xffff },
	{ "events", PROP_INT, "3", "1: panicked, 2: crash kernel loaded, 3: both", .max = 3 },
	{},
};

const struct device_class pvpanic_class = {
	.name = "pvpanic",
	.bus = "ISA",
	.desc = "tells the host that the guest has panicked",
	.props = pvpanic_props,
	.create = pvpanic_create,
	.destroy = pvpanic_destroy,
};
