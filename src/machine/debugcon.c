/*
 * isa-debugcon: a port whose written bytes go to a character device, for firmware and small guests.
 *
 * Reading the port gives `readback`, by which a guest recognizes it (Bochs's 0xe9 port reads as
 * 0xe9). There is no state and no interrupt; bytes a full back end does not take are lost, since
 * the guest has no way to be told.
 */
#include "machine/device_list.h"

#include "base/error.h"
#include "base/util.h"
#include "chardev/chardev.h"
#include "machine/backends.h"
#include "machine/machine.h"

struct debugcon {
	struct device dev;
	struct region port;
	struct chardev *chr;
	uint8_t readback;
};

static uint64_t debugcon_read(void *opaque, uint64_t offset, unsigned size)
{
	struct debugcon *con = opaque;

	return con->readback;
}

static void debugcon_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct debugcon *con = opaque;
	uint8_t byte = value;

	chardev_write_from(con->chr, con, &byte, 1);
}

static const struct region_ops debugcon_ops = { debugcon_read, debugcon_write, 1 };

/* Nothing is received: what people type waits for another front end of the mux. */
static size_t debugcon_can_receive(void *opaque)
{
	return 0;
}

static void debugcon_receive(void *opaque, const uint8_t *data, size_t len)
{
}

static const struct chardev_handler debugcon_handler = { debugcon_can_receive, debugcon_receive };

static void debugcon_destroy(struct device *dev)
{
	struct debugcon *con = container_of(dev, struct debugcon, dev);

	bus_unmap(&con->port);
	if (con->chr)
		chardev_attach(con->chr, NULL, con, NULL);
	free(con);
}

static int debugcon_create(struct machine *machine, const struct props *props,
			   struct device **device, struct error **err)
{
	struct debugcon *con = xcalloc(1, sizeof(*con));
	const char *id = props_str(props, "chardev");

	con->readback = props_u64(props, "readback");
	con->port = (struct region){ "isa-debugcon", 1, &debugcon_ops, con };
	con->chr = backends_take(machine->backends, BACKEND_CHARDEV, id, "isa-debugcon", err);
	if (!con->chr || chardev_attach(con->chr, &debugcon_handler, con, err) < 0) {
		free(con);
		return -1;
	}
	if (bus_map(machine->io, &con->port, props_u64(props, "iobase"), err) < 0) {
		debugcon_destroy(&con->dev);
		return -1;
	}
	*device = &con->dev;
	return 0;
}

static const struct prop debugcon_props[] = {
	{ "chardev", PROP_STRING, .required = true, .help = "where the bytes go" },
	{ "iobase", PROP_INT, "0xe9", "port", .max = 0xffff },
	{ "readback", PROP_INT, "0xe9", "what reading the port gives", .max = 0xff },
	{},
};

const struct device_class isa_debugcon_class = {
	.name = "isa-debugcon",
	.bus = "ISA",
	.desc = "debug console port (Bochs's 0xe9)",
	.props = debugcon_props,
	.create = debugcon_create,
	.destroy = debugcon_destroy,
};
