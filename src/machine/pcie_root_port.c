/*
 * pcie-root-port: a PCI Express root port, a bridge from the root bus to a link with one device.
 *
 * Its configuration space is a type 1 header and a PCI Express capability; the bus behind it,
 * named after the port's id, is where other devices are plugged with bus=. Slots are filled before
 * the machine starts and stay so: there is no hot-plug, and the link is up exactly when there is a
 * device. Ids are those of QEMU's port, for which every guest has a driver.
 */
#include "machine/device_list.h"

#include "base/error.h"
#include "base/util.h"
#include "machine/machine.h"

#include <string.h>

#define ROOT_PORT_VENDOR 0x1b36 /* Red Hat */
#define ROOT_PORT_DEVICE 0x000c

/* Type 1 header, PCIe base 5.0 §7.5.1.3 */
#define HEADER_TYPE_BRIDGE   0x01
#define HEADER_MULTIFUNCTION 0x80
#define PREF_64BIT           0x0001
#define BRIDGE_CONTROL_RW    0x001f /* parity, SERR#, ISA, VGA, VGA 16-bit */

/* PCI Express capability, §7.5.3: offsets and what is set in them */
#define EXP_SIZE              0x3c
#define EXP_FLAGS             0x02
#define EXP_FLAGS_ROOT_PORT   (2 | 4 << 4 | 1 << 8) /* version 2, root port, slot implemented */
#define EXP_DEVCAP            0x04
#define EXP_DEVCAP_RBER       0x00008000
#define EXP_DEVCTL            0x08
#define EXP_DEVCTL_RW         0x78ff
#define EXP_LNKCAP            0x0c
#define EXP_LNKCAP_DLLLARC    0x00100000
#define EXP_LNKCAP_PORT_SHIFT 24
#define EXP_LNKCTL            0x10
#define EXP_LNKCTL_RW         0x00cb
#define EXP_LNKSTA            0x12
#define EXP_LNKSTA_DLLLA      0x2000
#define EXP_SLTCAP            0x14
#define EXP_SLTCAP_PSN_SHIFT  19
#define EXP_SLTCAP_PSN_MAX    0x1fff
#define EXP_SLTSTA            0x1a
#define EXP_SLTSTA_PDS        0x0040
#define EXP_RTCTL             0x1c
#define EXP_RTCTL_RW          0x000f
#define EXP_DEVCAP2           0x24
#define EXP_DEVCAP2_ARI       0x00000020
#define EXP_DEVCTL2           0x28
#define EXP_DEVCTL2_ARI       0x0020
#define EXP_LNKCAP2           0x2c
#define EXP_LNKCAP2_SPEEDS    0x0000001e /* 2.5 to 16 GT/s */
#define EXP_LNKCTL2           0x30
#define EXP_SPEED_16GT        4
#define EXP_WIDTH_32          (32 << 4)

struct root_port {
	struct device dev;
	struct pci_device pci;
	uint8_t exp; /* where the capability is */
};

/* What a guest may write, and what it finds there after a reset. */
static const struct bridge_register {
	uint8_t offset, size;
	uint32_t initial, writable;
} header_registers[] = {
	{ PCI_PRIMARY_BUS, 1, 0, 0xff },
	{ PCI_SECONDARY_BUS, 1, 0, 0xff },
	{ PCI_SUBORDINATE_BUS, 1, 0, 0xff },
	{ PCI_IO_BASE, 1, 0, 0xf0 },
	{ PCI_IO_LIMIT, 1, 0, 0xf0 },
	{ PCI_MEMORY_BASE, 2, 0, 0xfff0 },
	{ PCI_MEMORY_LIMIT, 2, 0, 0xfff0 },
	{ PCI_PREF_MEMORY_BASE, 2, PREF_64BIT, 0xfff0 },
	{ PCI_PREF_MEMORY_LIMIT, 2, PREF_64BIT, 0xfff0 },
	{ PCI_PREF_BASE_UPPER32, 4, 0, 0xffffffff },
	{ PCI_PREF_LIMIT_UPPER32, 4, 0, 0xffffffff },
	{ PCI_BRIDGE_CONTROL, 2, 0, BRIDGE_CONTROL_RW },
};

static const struct bridge_register exp_registers[] = {
	{ EXP_FLAGS, 2, EXP_FLAGS_ROOT_PORT, 0 }, { EXP_DEVCAP, 4, EXP_DEVCAP_RBER, 0 },
	{ EXP_DEVCTL, 2, 0, EXP_DEVCTL_RW },      { EXP_LNKCTL, 2, 0, EXP_LNKCTL_RW },
	{ EXP_RTCTL, 2, 0, EXP_RTCTL_RW },        { EXP_DEVCAP2, 4, EXP_DEVCAP2_ARI, 0 },
	{ EXP_DEVCTL2, 2, 0, EXP_DEVCTL2_ARI },   { EXP_LNKCAP2, 4, EXP_LNKCAP2_SPEEDS, 0 },
	{ EXP_LNKCTL2, 2, EXP_SPEED_16GT, 0 },
};

static void set_registers(struct pci_device *pci, unsigned base, const struct bridge_register *regs,
			  unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		for (unsigned byte = 0; byte < regs[i].size; byte++) {
			unsigned at = base + regs[i].offset + byte;

			pci->config[at] = regs[i].initial >> (8 * byte);
			pci->writable[at] = regs[i].writable >> (8 * byte);
		}
	}
}

/* Link and slot status say whether there is a device; it may be plugged in after the port. */
static void config_reading(struct pci_device *pci, unsigned offset, unsigned size)
{
	struct root_port *port = pci->opaque;
	bool present = pci->secondary && pci_bus_device(pci->secondary, 0);

	pci_set16(pci, port->exp + EXP_LNKSTA,
		  EXP_SPEED_16GT | EXP_WIDTH_32 | (present ? EXP_LNKSTA_DLLLA : 0));
	pci_set16(pci, port->exp + EXP_SLTSTA, present ? EXP_SLTSTA_PDS : 0);
}

static void root_port_reset(struct device *dev)
{
	struct root_port *port = container_of(dev, struct root_port, dev);

	pci_device_reset(&port->pci);
	set_registers(&port->pci, 0, header_registers, ARRAY_SIZE(header_registers));
	set_registers(&port->pci, port->exp, exp_registers, ARRAY_SIZE(exp_registers));
}

static void init_config(struct root_port *port, const struct props *props)
{
	static const struct pci_device_id id = {
		.vendor = ROOT_PORT_VENDOR,
		.device = ROOT_PORT_DEVICE,
		.class = 0x06,
		.subclass = 0x04,
	};
	struct pci_device *pci = &port->pci;

	pci_device_init(pci, "pcie-root-port", &id);
	pci->opaque = port;
	pci->config_reading = config_reading;
	pci->config[PCI_HEADER_TYPE] =
		HEADER_TYPE_BRIDGE |
		(props_bool(props, "multifunction") ? HEADER_MULTIFUNCTION : 0);
	pci_add_intx(pci);
	port->exp = pci_add_capability(pci, PCI_CAP_ID_PCIE, EXP_SIZE);
	set_registers(pci, 0, header_registers, ARRAY_SIZE(header_registers));
	set_registers(pci, port->exp, exp_registers, ARRAY_SIZE(exp_registers));
	pci_set32(pci, port->exp + EXP_LNKCAP,
		  EXP_SPEED_16GT | EXP_WIDTH_32 | EXP_LNKCAP_DLLLARC |
			  (uint32_t)props_u64(props, "port") << EXP_LNKCAP_PORT_SHIFT);
	pci_set32(pci, port->exp + EXP_SLTCAP,
		  (uint32_t)props_u64(props, "slot") << EXP_SLTCAP_PSN_SHIFT);
}

/* The bus is named after the port's id, or the first "pcie.N" that is free. */
static void make_bus(struct machine *machine, struct root_port *port, const char *id)
{
	char *name AUTO_FREE = id ? xstrdup(id) : NULL;

	for (unsigned n = 1; !id; n++) {
		free(name);
		name = xasprintf("pcie.%u", n);
		if (!pci_host_find_bus(machine->pci, name, NULL))
			break;
	}
	pci_bus_new(machine->pci, &port->pci, name);
}

static void root_port_destroy(struct device *dev)
{
	struct root_port *port = container_of(dev, struct root_port, dev);

	pci_device_destroy(&port->pci);
	free(port);
}

static int plug(struct machine *machine, struct root_port *port, const struct props *props,
		struct error **err)
{
	const char *bus_name = props_str(props, "bus"), *id = props_str(props, "id");
	unsigned slot, function = 0;
	bool placed = props_addr(props, "addr", &slot, &function);
	struct pci_bus *bus;

	if (!machine->pci) {
		error_set(err, "this machine has no PCI");
		return -1;
	}
	if (id && pci_host_find_bus(machine->pci, id, NULL)) {
		error_set(err, "there is a PCI bus '%s' already; choose another id", id);
		return -1;
	}
	bus = bus_name ? pci_host_find_bus(machine->pci, bus_name, err)
		       : pci_host_root(machine->pci);
	if (!bus)
		return -1;
	if (bus != pci_host_root(machine->pci)) {
		error_set(err, "root ports go on bus 'pcie.0', not '%s'", bus_name);
		return -1;
	}
	return pci_plug(bus, &port->pci, placed ? (int)slot : -1, function, err);
}

static int root_port_create(struct machine *machine, const struct props *props,
			    struct device **device, struct error **err)
{
	struct root_port *port;

	if (props_bool(props, "hotplug")) {
		error_set(err, "there is no hot-plug yet; use hotplug=off");
		return -1;
	}
	port = xcalloc(1, sizeof(*port));
	init_config(port, props);
	if (plug(machine, port, props, err) < 0) {
		free(port);
		return -1;
	}
	make_bus(machine, port, props_str(props, "id"));
	port->pci.id = pci_bus_name(port->pci.secondary);
	*device = &port->dev;
	return 0;
}

static const struct prop root_port_props[] = {
	{ "chassis", PROP_INT, "0", "chassis number; has no effect", .max = 255 },
	{ "slot", PROP_INT, "0", "physical slot number", .max = EXP_SLTCAP_PSN_MAX },
	{ "port", PROP_INT, "0", "port number", .max = 255 },
	{ "multifunction", PROP_BOOL, "off", "the slot has several functions" },
	{ "hotplug", PROP_BOOL, "off", "off: devices are plugged at start only" },
	{},
};

const struct device_class pcie_root_port_class = {
	.name = "pcie-root-port",
	.bus = "PCI",
	.desc = "PCI Express root port",
	.props = root_port_props,
	.create = root_port_create,
	.reset = root_port_reset,
	.destroy = root_port_destroy,
};
