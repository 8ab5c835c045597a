/*
 * PCI buses and the q35 host bridge: see pci.h.
 *
 * Configuration space is reached through ports 0xcf8/0xcfc (PCI local bus 3.0 §3.2.2.3.2) and ECAM,
 * a plain array of 4 KiB pages indexed by bus, device, function. Both end in find_function(), which
 * walks from the root bus through bridges whose secondary..subordinate range holds the bus number,
 * as a type 1 cycle would.
 */
#include "machine/pci.h"

#include "base/error.h"
#include "base/util.h"
#include "machine/pci_internal.h"

#include <stdio.h>
#include <string.h>

#define PCI_DEVFNS       256
#define CONFIG_ADDRESS   0xcf8
#define CONFIG_ENABLE    0x80000000u
#define ECAM_BUS_SIZE    MIB
#define ECAM_BUSES       256
#define IO_WINDOW_ALIGN  0x1000
#define MEM_WINDOW_ALIGN MIB
#define MAX_BRIDGE_DEPTH 8
#define Q35_HOST_VENDOR  0x8086
#define Q35_HOST_DEVICE  0x29c0

struct pci_bus {
	struct pci_host *host;
	struct pci_device *bridge; /* NULL: the root bus */
	char *name;
	struct pci_device *devices[PCI_DEVFNS];
	struct pci_bus *next;
};

struct pci_host {
	struct bus *io, *memory;
	struct irqs *irqs;
	struct pci_windows windows;
	pthread_mutex_t lock; /* of configuration accesses */
	uint32_t config_address;
	struct region ports, ecam;
	struct pci_bus *root;
	struct pci_bus *buses;    /* all, the root first */
	unsigned last_bus;        /* number */
	struct pci_device bridge; /* 00:00.0 */
};

unsigned pci_intx_gsi(unsigned slot, unsigned pin)
{
	return 16 + ((slot + pin) & 7);
}

struct bus *pci_space(struct pci_bus *bus, bool io)
{
	return io ? bus->host->io : bus->host->memory;
}

const char *pci_bus_name(const struct pci_bus *bus)
{
	return bus->name;
}

unsigned pci_bus_number(const struct pci_bus *bus)
{
	return bus->bridge ? bus->bridge->config[PCI_SECONDARY_BUS] : 0;
}

struct pci_device *pci_bus_device(struct pci_bus *bus, unsigned devfn)
{
	return devfn < PCI_DEVFNS ? bus->devices[devfn] : NULL;
}

struct pci_bus *pci_host_root(struct pci_host *host)
{
	return host->root;
}

struct pci_bus *pci_bus_new(struct pci_host *host, struct pci_device *bridge, const char *name)
{
	struct pci_bus *bus = xcalloc(1, sizeof(*bus)), **last = &host->buses;

	bus->host = host;
	bus->bridge = bridge;
	bus->name = xstrdup(name);
	while (*last)
		last = &(*last)->next;
	*last = bus;
	if (bridge)
		bridge->secondary = bus;
	return bus;
}

struct pci_bus *pci_host_find_bus(struct pci_host *host, const char *name, struct error **err)
{
	char *names AUTO_FREE = xstrdup("");

	for (struct pci_bus *bus = host->buses; bus; bus = bus->next) {
		char *longer;

		if (strcmp(bus->name, name) == 0)
			return bus;
		longer = xasprintf("%s%s%s", names, *names ? ", " : "", bus->name);
		free(names);
		names = longer;
	}
	error_set(err, "no PCI bus '%s'; there are: %s", name, names);
	return NULL;
}

/* The pin of a function behind root ports arrives swizzled at the root slot (PCI bridge 1.2 §9.1).
 */
static unsigned route_intx(const struct pci_device *dev)
{
	const struct pci_bus *bus = dev->bus;
	unsigned slot = dev->devfn >> 3, pin = 0;

	for (; bus->bridge; bus = bus->bridge->bus) {
		pin = (slot + pin) & 3;
		slot = bus->bridge->devfn >> 3;
	}
	return pci_intx_gsi(slot, pin);
}

static int choose_slot(struct pci_bus *bus, struct pci_device *dev, int slot, int function,
		       struct error **err)
{
	/* A root port is a link: there is one device behind it. */
	int slots = bus->bridge ? 1 : PCI_SLOTS;
	struct pci_device *holder;

	if (slot < 0)
		for (slot = 0; slot < slots && bus->devices[slot << 3]; slot++)
			;
	if (slot >= slots) {
		error_set(err, "%s: no free slot on bus '%s', which has %d", dev->name, bus->name,
			  slots);
		return -1;
	}
	holder = bus->devices[slot << 3 | function];
	if (holder) {
		error_set(err, "%s: slot %x.%x of bus '%s' is taken by %s", dev->name, slot,
			  function, bus->name, holder->name);
		return -1;
	}
	return slot << 3 | function;
}

int pci_plug(struct pci_bus *bus, struct pci_device *dev, int slot, int function,
	     struct error **err)
{
	int devfn = choose_slot(bus, dev, slot, function, err);

	if (devfn < 0)
		return -1;
	dev->bus = bus;
	dev->devfn = devfn;
	irq_line_init(&dev->intx, bus->host->irqs, route_intx(dev));
	bus->devices[devfn] = dev;
	return 0;
}

void pci_unplug(struct pci_device *dev)
{
	if (dev->bus)
		dev->bus->devices[dev->devfn] = NULL;
	dev->bus = NULL;
}

/* --- Configuration space ---- */

static struct pci_bus *find_bus(struct pci_bus *bus, unsigned number, unsigned depth)
{
	if (number == pci_bus_number(bus))
		return bus;
	for (unsigned devfn = 0; devfn < PCI_DEVFNS && depth < MAX_BRIDGE_DEPTH; devfn++) {
		struct pci_device *dev = bus->devices[devfn];

		if (dev && dev->secondary && number >= dev->config[PCI_SECONDARY_BUS] &&
		    number <= dev->config[PCI_SUBORDINATE_BUS] && dev->config[PCI_SECONDARY_BUS])
			return find_bus(dev->secondary, number, depth + 1);
	}
	return NULL;
}

static struct pci_device *find_function(struct pci_host *host, unsigned bus_number, unsigned devfn)
{
	struct pci_bus *bus = find_bus(host->root, bus_number, 0);

	return bus ? bus->devices[devfn] : NULL;
}

static uint64_t config_read(struct pci_host *host, unsigned bus, unsigned devfn, unsigned offset,
			    unsigned size)
{
	struct pci_device *dev;
	uint32_t value = UINT32_MAX;

	pthread_mutex_lock(&host->lock);
	dev = find_function(host, bus, devfn);
	if (dev && offset + size <= PCI_CONFIG_SIZE)
		value = pci_config_read(dev, offset, size);
	pthread_mutex_unlock(&host->lock);
	return value;
}

static void config_write(struct pci_host *host, unsigned bus, unsigned devfn, unsigned offset,
			 unsigned size, uint32_t value)
{
	struct pci_device *dev;

	pthread_mutex_lock(&host->lock);
	dev = find_function(host, bus, devfn);
	if (dev && offset + size <= PCI_CONFIG_SIZE)
		pci_config_write(dev, offset, size, value);
	pthread_mutex_unlock(&host->lock);
}

/* Ports 0xcf8 to 0xcff: the address register takes 32-bit accesses only, data any within it. */
static uint64_t ports_read(void *opaque, uint64_t offset, unsigned size)
{
	struct pci_host *host = opaque;
	uint32_t address = host->config_address;

	if (offset < 4)
		return size == 4 ? address : UINT32_MAX;
	if (!(address & CONFIG_ENABLE))
		return UINT32_MAX;
	return config_read(host, address >> 16 & 0xff, address >> 8 & 0xff,
			   (address & 0xfc) + (offset - 4), size);
}

static void ports_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct pci_host *host = opaque;
	uint32_t address = host->config_address;

	if (offset < 4) {
		if (offset == 0 && size == 4)
			host->config_address = value & ~3u;
	} else if (address & CONFIG_ENABLE) {
		config_write(host, address >> 16 & 0xff, address >> 8 & 0xff,
			     (address & 0xfc) + (offset - 4), size, value);
	}
}

static uint64_t ecam_read(void *opaque, uint64_t offset, unsigned size)
{
	return config_read(opaque, offset >> 20, offset >> 12 & 0xff, offset & 0xfff, size);
}

static void ecam_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	config_write(opaque, offset >> 20, offset >> 12 & 0xff, offset & 0xfff, size, value);
}

static const struct region_ops ports_ops = { ports_read, ports_write, 4 };
static const struct region_ops ecam_ops = { ecam_read, ecam_write, 4 };

/* --- Addresses, as firmware gives them out ---- */

struct allocator {
	uint64_t next_io, next_mem32, next_mem64;
	unsigned next_bus;
};

static uint64_t allocate(uint64_t *next, uint64_t size)
{
	uint64_t at = ALIGN_UP(*next, size);

	*next = at + size;
	return at;
}

static void assign_bars(struct pci_device *dev, struct allocator *a, bool below_bridge)
{
	for (unsigned n = 0; n < PCI_BARS; n++) {
		uint64_t size = dev->bars[n].region.size, *next = &a->next_mem32;

		if (dev->bars[n].kind == PCI_BAR_NONE)
			continue;
		if (dev->bars[n].kind == PCI_BAR_IO)
			next = &a->next_io;
		/* A bridge's non-prefetchable window reaches below 4 GiB only. */
		else if (dev->bars[n].kind == PCI_BAR_MEM64_PREF ||
			 (dev->bars[n].kind == PCI_BAR_MEM64 && !below_bridge))
			next = &a->next_mem64;
		pci_set_bar_address(dev, n, allocate(next, size));
	}
}

static void assign_bus(struct pci_bus *bus, struct allocator *a);

/* base/limit registers hold the upper bits of an inclusive range; base above limit is "none". */
static void set_window(struct pci_device *bridge, uint64_t start, uint64_t end, unsigned base_reg)
{
	bool empty = start == end;

	pci_set16(bridge, base_reg, (empty ? 0xfff0 : start >> 16 & 0xfff0));
	pci_set16(bridge, base_reg + 2, (empty ? 0 : (end - 1) >> 16 & 0xfff0));
}

static void set_pref_window(struct pci_device *bridge, uint64_t start, uint64_t end)
{
	bool empty = start == end;

	pci_set16(bridge, PCI_PREF_MEMORY_BASE, (empty ? 0xfff0 : start >> 16 & 0xfff0) | 1);
	pci_set16(bridge, PCI_PREF_MEMORY_LIMIT, (empty ? 0 : (end - 1) >> 16 & 0xfff0) | 1);
	pci_set32(bridge, PCI_PREF_BASE_UPPER32, empty ? 0 : start >> 32);
	pci_set32(bridge, PCI_PREF_LIMIT_UPPER32, empty ? 0 : (end - 1) >> 32);
}

static void set_io_window(struct pci_device *bridge, uint64_t start, uint64_t end)
{
	bool empty = start == end;

	bridge->config[PCI_IO_BASE] = empty ? 0xf0 : start >> 8 & 0xf0;
	bridge->config[PCI_IO_LIMIT] = empty ? 0 : (end - 1) >> 8 & 0xf0;
}

static void assign_bridge(struct pci_device *bridge, struct allocator *a)
{
	uint64_t io, mem32, mem64;

	bridge->config[PCI_PRIMARY_BUS] = pci_bus_number(bridge->bus);
	bridge->config[PCI_SECONDARY_BUS] = a->next_bus++;
	bridge->config[PCI_SUBORDINATE_BUS] = 0xff; /* until it is known */
	io = a->next_io = ALIGN_UP(a->next_io, IO_WINDOW_ALIGN);
	mem32 = a->next_mem32 = ALIGN_UP(a->next_mem32, MEM_WINDOW_ALIGN);
	mem64 = a->next_mem64 = ALIGN_UP(a->next_mem64, MEM_WINDOW_ALIGN);
	assign_bus(bridge->secondary, a);
	bridge->config[PCI_SUBORDINATE_BUS] = a->next_bus - 1;
	a->next_io = ALIGN_UP(a->next_io, IO_WINDOW_ALIGN);
	a->next_mem32 = ALIGN_UP(a->next_mem32, MEM_WINDOW_ALIGN);
	a->next_mem64 = ALIGN_UP(a->next_mem64, MEM_WINDOW_ALIGN);
	set_io_window(bridge, io, a->next_io);
	set_window(bridge, mem32, a->next_mem32, PCI_MEMORY_BASE);
	set_pref_window(bridge, mem64, a->next_mem64);
}

static void assign_bus(struct pci_bus *bus, struct allocator *a)
{
	for (unsigned devfn = 0; devfn < PCI_DEVFNS; devfn++) {
		struct pci_device *dev = bus->devices[devfn];

		if (!dev)
			continue;
		assign_bars(dev, a, bus->bridge);
		if (dev->secondary)
			assign_bridge(dev, a);
		if (dev->config[PCI_INTERRUPT_PIN])
			dev->config[PCI_INTERRUPT_LINE] = dev->intx.gsi;
		/* Bus mastering is the driver's to turn on; bridges forward theirs. */
		pci_set16(dev, PCI_COMMAND,
			  PCI_COMMAND_IO | PCI_COMMAND_MEMORY |
				  (dev->secondary ? PCI_COMMAND_MASTER : 0));
		pci_update_mappings(dev);
	}
}

void pci_assign(struct pci_host *host)
{
	struct allocator a = {
		.next_io = host->windows.io_base,
		.next_mem32 = host->windows.mem32_base,
		.next_mem64 = host->windows.mem64_base,
		.next_bus = 1,
	};

	pthread_mutex_lock(&host->lock);
	assign_bus(host->root, &a);
	host->last_bus = a.next_bus - 1;
	pthread_mutex_unlock(&host->lock);
}

unsigned pci_last_bus(const struct pci_host *host)
{
	return host->last_bus;
}

/* --- The host bridge ---- */

struct pci_host *pci_host_new(struct bus *io, struct bus *memory, struct irqs *irqs,
			      const struct pci_windows *windows, struct error **err)
{
	struct pci_host *host = xcalloc(1, sizeof(*host));
	const struct pci_device_id id = {
		Q35_HOST_VENDOR, Q35_HOST_DEVICE, 0x1af4, 0x1100, 0, 0x06, 0x00, 0x00
	};

	host->io = io;
	host->memory = memory;
	host->irqs = irqs;
	host->windows = *windows;
	pthread_mutex_init(&host->lock, NULL);
	host->root = pci_bus_new(host, NULL, "pcie.0");
	host->ports = (struct region){ "pci-config", 8, &ports_ops, host };
	host->ecam = (struct region){ "pcie-ecam", ECAM_BUSES * ECAM_BUS_SIZE, &ecam_ops, host };
	pci_device_init(&host->bridge, "q35-host-bridge", &id);
	if (bus_map(io, &host->ports, CONFIG_ADDRESS, err) < 0 ||
	    bus_map(memory, &host->ecam, windows->ecam_base, err) < 0 ||
	    pci_plug(host->root, &host->bridge, 0, 0, err) < 0) {
		pci_host_free(host);
		return NULL;
	}
	return host;
}

void pci_host_free(struct pci_host *host)
{
	if (!host)
		return;
	bus_unmap(&host->ports);
	bus_unmap(&host->ecam);
	for (struct pci_bus *bus = host->buses, *next; bus; bus = next) {
		next = bus->next;
		free(bus->name);
		free(bus);
	}
	pthread_mutex_destroy(&host->lock);
	free(host);
}
