/*
 * Ports by which software resets a PC without the keyboard controller.
 *
 *	0xcf9	reset control (ICH9 §13.7.5): bit 2 going from 0 to 1 resets; bit 1 says how hard
 *		(both are the whole machine here), bit 3 asks for a power cycle, which is the same
 *	0x92	PS/2 system control port A: bit 0 going from 0 to 1 resets, bit 1 is the A20 gate,
 *		which is always open and only remembered
 *
 * 0xcf9 lies within PCI's address port 0xcf8, which takes 32-bit accesses; single bytes come here.
 */
#include "machine/device_list.h"

#include "base/util.h"
#include "machine/machine.h"

#define RESET_CONTROL_PORT 0xcf9
#define RESET_CONTROL_SYS  0x02 /* SYS_RST */
#define RESET_CONTROL_CPU  0x04 /* RST_CPU */
#define RESET_CONTROL_FULL 0x08 /* FULL_RST */
#define PORT_A             0x92
#define PORT_A_INIT        0x01
#define PORT_A_A20         0x02

struct reset_ports {
	struct device dev;
	struct region control, port_a;
	_Atomic uint8_t control_value, port_a_value;
};

static uint64_t control_read(void *opaque, uint64_t offset, unsigned size)
{
	struct reset_ports *ports = opaque;

	return ports->control_value;
}

static void control_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct reset_ports *ports = opaque;
	uint8_t before = ports->control_value;

	/* RST_CPU never reads as 1: the machine is reset by then. */
	ports->control_value = value & (RESET_CONTROL_SYS | RESET_CONTROL_FULL);
	if (value & ~before & RESET_CONTROL_CPU)
		machine_reset_request(ports->dev.machine, CAUSE_GUEST_RESET);
}

static uint64_t port_a_read(void *opaque, uint64_t offset, unsigned size)
{
	struct reset_ports *ports = opaque;

	return ports->port_a_value;
}

static void port_a_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct reset_ports *ports = opaque;
	uint8_t before = ports->port_a_value;

	ports->port_a_value = value & (PORT_A_INIT | PORT_A_A20);
	if (value & ~before & PORT_A_INIT)
		machine_reset_request(ports->dev.machine, CAUSE_GUEST_RESET);
}

static const struct region_ops control_ops = { control_read, control_write, 1 };
static const struct region_ops port_a_ops = { port_a_read, port_a_write, 1 };

static void reset_ports_reset(struct device *dev)
{
	struct reset_ports *ports = container_of(dev, struct reset_ports, dev);

	ports->control_value = 0;
	ports->port_a_value = PORT_A_A20;
}

static void reset_ports_destroy(struct device *dev)
{
	struct reset_ports *ports = container_of(dev, struct reset_ports, dev);

	bus_unmap(&ports->control);
	bus_unmap(&ports->port_a);
	free(ports);
}

static int reset_ports_create(struct machine *machine, const struct props *props,
			      struct device **device, struct error **err)
{
	struct reset_ports *ports = xcalloc(1, sizeof(*ports));

	ports->dev.machine = machine;
	ports->control = (struct region){ "reset-control", 1, &control_ops, ports, 1 };
	ports->port_a = (struct region){ "port-92", 1, &port_a_ops, ports };
	reset_ports_reset(&ports->dev);
	if (bus_map(machine->io, &ports->control, RESET_CONTROL_PORT, err) < 0 ||
	    bus_map(machine->io, &ports->port_a, PORT_A, err) < 0) {
		reset_ports_destroy(&ports->dev);
		return -1;
	}
	*device = &ports->dev;
	return 0;
}

static const struct prop reset_ports_props[] = { {} };

const struct device_class reset_ports_class = {
	.name = "reset-ports",
	.bus = "System",
	.desc = "reset by ports 0xcf9 and 0x92",
	.props = reset_ports_props,
	.create = reset_ports_create,
	.reset = reset_ports_reset,
	.destroy = reset_ports_destroy,
};
