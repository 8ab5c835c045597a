/*
 * isa-debug-exit: a port by which a test guest ends the monitor and gives it an exit status.
 *
 * A write of v ends the process with status (v << 1) | 1, of which the host keeps eight bits; the
 * status is odd, so it never reads as plain success.
 */
#include "machine/device_list.h"

#include "base/util.h"
#include "machine/machine.h"

struct debug_exit {
	struct device dev;
	struct region port;
};

static uint64_t debug_exit_read(void *opaque, uint64_t offset, unsigned size)
{
	return 0;
}

static void debug_exit_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct debug_exit *exit = opaque;
	struct machine *machine = exit->dev.machine;

	machine->events.exit(machine->events.opaque, (value << 1 | 1) & 0xff);
}

static const struct region_ops debug_exit_ops = { debug_exit_read, debug_exit_write, 4 };

static void debug_exit_destroy(struct device *dev)
{
	struct debug_exit *exit = container_of(dev, struct debug_exit, dev);

	bus_unmap(&exit->port);
	free(exit);
}

static int debug_exit_create(struct machine *machine, const struct props *props,
			     struct device **device, struct error **err)
{
	struct debug_exit *exit = xcalloc(1, sizeof(*exit));

	exit->dev.machine = machine;
	exit->port = (struct region){ "isa-debug-exit", props_u64(props, "iosize"), &debug_exit_ops,
				      exit };
	if (bus_map(machine->io, &exit->port, props_u64(props, "iobase"), err) < 0) {
		free(exit);
		return -1;
	}
	*device = &exit->dev;
	return 0;
}

static const struct prop debug_exit_props[] = {
	{ "iobase", PROP_INT, "0x501", "first port", .max = 0xffff },
	{ "iosize", PROP_INT, "2", "number of ports", .min = 1, .max = 16 },
	{},
};

const struct device_class isa_debug_exit_class = {
	.name = "isa-debug-exit",
	.bus = "ISA",
	.desc = "port that ends the process with (value << 1) | 1",
	.props = debug_exit_props,
	.create = debug_exit_create,
	.destroy = debug_exit_destroy,
};
