/*
 * query-pci: see qmp_pci.h. What is told is read from the functions' configuration space, as the
 * guest or its firmware left it.
 */
#include "revirter/qmp_pci.h"

#include "base/util.h"
#include "machine/pci.h"

#include <json-c/json.h>

#define HEADER_TYPE_MASK   0x7f
#define HEADER_TYPE_BRIDGE 1

static void add_int(struct json_object *to, const char *name, int64_t value)
{
	json_object_object_add(to, name, json_object_new_int64(value));
}

/* PCI Code and ID Assignment Specification §1, of what there is in Revirt or passed through. */
static const struct {
	uint16_t class;
	const char *name;
} classes[] = {
	{ 0x0100, "SCSI controller" },
	{ 0x0101, "IDE controller" },
	{ 0x0106, "SATA controller" },
	{ 0x0108, "NVMe controller" },
	{ 0x0200, "Ethernet controller" },
	{ 0x0300, "VGA controller" },
	{ 0x0380, "Display controller" },
	{ 0x0403, "Audio controller" },
	{ 0x0600, "Host bridge" },
	{ 0x0601, "ISA bridge" },
	{ 0x0604, "PCI bridge" },
	{ 0x0c03, "USB controller" },
	{ 0x0c05, "SMBus" },
};

const char *qmp_pci_class_name(unsigned class)
{
	for (unsigned i = 0; i < ARRAY_SIZE(classes); i++)
		if (classes[i].class == class)
			return classes[i].name;
	return NULL;
}

static bool is_bridge(const struct pci_device *dev)
{
	return (dev->config[PCI_HEADER_TYPE] & HEADER_TYPE_MASK) == HEADER_TYPE_BRIDGE;
}

static struct json_object *describe_class(const struct pci_device *dev)
{
	struct json_object *info = json_object_new_object();
	unsigned class = pci_get16(dev, PCI_CLASS_DEVICE);
	const char *name = qmp_pci_class_name(class);

	add_int(info, "class", class);
	if (name)
		json_object_object_add(info, "desc", json_object_new_string(name));
	return info;
}

static struct json_object *describe_id(const struct pci_device *dev)
{
	struct json_object *id = json_object_new_object();

	add_int(id, "device", pci_get16(dev, PCI_DEVICE_ID));
	add_int(id, "vendor", pci_get16(dev, PCI_VENDOR_ID));
	if (!is_bridge(dev)) {
		add_int(id, "subsystem", pci_get16(dev, PCI_SUBSYSTEM_ID));
		add_int(id, "subsystem-vendor", pci_get16(dev, PCI_SUBSYSTEM_VENDOR));
	}
	return id;
}

/* --- Regions ---- */

static struct json_object *describe_bar(const struct pci_bar *bar, unsigned n)
{
	struct json_object *region = json_object_new_object();
	bool memory = bar->kind != PCI_BAR_IO;

	if (memory) {
		json_object_object_add(region, "prefetch",
				       json_object_new_boolean(bar->kind == PCI_BAR_MEM64_PREF));
		json_object_object_add(region, "mem_type_64",
				       json_object_new_boolean(bar->kind != PCI_BAR_MEM32));
	}
	add_int(region, "bar", n);
	add_int(region, "size", bar->region.size);
	add_int(region, "address", bar->region.bus ? (int64_t)bar->region.base : -1);
	json_object_object_add(region, "type", json_object_new_string(memory ? "memory" : "io"));
	return region;
}

static struct json_object *describe_bars(const struct pci_device *dev)
{
	struct json_object *regions = json_object_new_array();

	for (unsigned n = 0; n < PCI_BARS; n++)
		if (dev->bars[n].kind != PCI_BAR_NONE)
			json_object_array_add(regions, describe_bar(&dev->bars[n], n));
	return regions;
}

/* --- Bridges, PCI-to-PCI Bridge Architecture 1.2 §3.2.5 ---- */

static struct json_object *range(uint64_t base, uint64_t limit)
{
	struct json_object *r = json_object_new_object();

	add_int(r, "base", base);
	add_int(r, "limit", limit);
	return r;
}

static struct json_object *io_range(const struct pci_device *dev)
{
	return range((dev->config[PCI_IO_BASE] & 0xf0) << 8,
		     (dev->config[PCI_IO_LIMIT] & 0xf0) << 8 | 0xfff);
}

static struct json_object *memory_range(const struct pci_device *dev)
{
	return range((uint64_t)(pci_get16(dev, PCI_MEMORY_BASE) & 0xfff0) << 16,
		     (uint64_t)(pci_get16(dev, PCI_MEMORY_LIMIT) & 0xfff0) << 16 | 0xfffff);
}

static struct json_object *prefetchable_range(const struct pci_device *dev)
{
	uint64_t base = (uint64_t)(pci_get16(dev, PCI_PREF_MEMORY_BASE) & 0xfff0) << 16;
	uint64_t limit = (uint64_t)(pci_get16(dev, PCI_PREF_MEMORY_LIMIT) & 0xfff0) << 16 | 0xfffff;

	return range(base | (uint64_t)pci_get32(dev, PCI_PREF_BASE_UPPER32) << 32,
		     limit | (uint64_t)pci_get32(dev, PCI_PREF_LIMIT_UPPER32) << 32);
}

static struct json_object *describe_devices(struct pci_bus *bus, unsigned depth);

static struct json_object *describe_bridge(const struct pci_device *dev, unsigned depth)
{
	struct json_object *bridge = json_object_new_object(), *bus = json_object_new_object();

	json_object_object_add(bus, "prefetchable_range", prefetchable_range(dev));
	json_object_object_add(bus, "memory_range", memory_range(dev));
	add_int(bus, "secondary", dev->config[PCI_SECONDARY_BUS]);
	json_object_object_add(bus, "io_range", io_range(dev));
	add_int(bus, "number", dev->config[PCI_PRIMARY_BUS]);
	add_int(bus, "subordinate", dev->config[PCI_SUBORDINATE_BUS]);
	json_object_object_add(bridge, "bus", bus);
	if (dev->secondary && depth)
		json_object_object_add(bridge, "devices", describe_devices(dev->secondary, depth));
	return bridge;
}

/* --- Functions and buses ---- */

#define MAX_DEPTH 16 /* bridges behind bridges */

static struct json_object *describe_device(struct pci_bus *bus, const struct pci_device *dev,
					   unsigned depth)
{
	struct json_object *d = json_object_new_object();
	unsigned pin = dev->config[PCI_INTERRUPT_PIN];

	add_int(d, "irq_pin", pin);
	add_int(d, "bus", pci_bus_number(bus));
	if (is_bridge(dev))
		json_object_object_add(d, "pci_bridge", describe_bridge(dev, depth));
	json_object_object_add(d, "qdev_id", json_object_new_string(dev->id ? dev->id : ""));
	if (pin)
		add_int(d, "irq", dev->config[PCI_INTERRUPT_LINE]);
	add_int(d, "slot", dev->devfn >> 3);
	json_object_object_add(d, "class_info", describe_class(dev));
	json_object_object_add(d, "id", describe_id(dev));
	add_int(d, "function", dev->devfn & 7);
	json_object_object_add(d, "regions", describe_bars(dev));
	return d;
}

static struct json_object *describe_devices(struct pci_bus *bus, unsigned depth)
{
	struct json_object *devices = json_object_new_array();

	for (unsigned devfn = 0; devfn < PCI_SLOTS * 8; devfn++) {
		const struct pci_device *dev = pci_bus_device(bus, devfn);

		if (dev)
			json_object_array_add(devices, describe_device(bus, dev, depth - 1));
	}
	return devices;
}

struct json_object *qmp_describe_pci(struct pci_host *host)
{
	struct json_object *buses = json_object_new_array(), *root;

	if (!host)
		return buses;
	root = json_object_new_object();
	add_int(root, "bus", 0);
	json_object_object_add(root, "devices", describe_devices(pci_host_root(host), MAX_DEPTH));
	json_object_array_add(buses, root);
	return buses;
}
