/*
 * PCI functions: configuration space, capabilities, BARs, MSI-X; see pci.h. Buses, bridges and the
 * host bridge are in pci_host.c.
 *
 * A BAR's region is mapped whenever the command register enables its space and an address is set,
 * and unmapped otherwise; update_mappings() runs after each configuration write that may change
 * that. Where a guest puts a BAR on top of something else, the BAR stays unmapped, with a line in
 * the log.
 */
#include "machine/pci.h"

#include "base/error.h"
#include "base/log.h"
#include "base/util.h"
#include "machine/pci_internal.h"

#include <endian.h>
#include <string.h>

/* MSI-X capability and table, PCIe base 5.0 §7.7.2 */
#define MSIX_CONTROL             2
#define MSIX_CONTROL_ENABLE      0x8000
#define MSIX_CONTROL_MASK_ALL    0x4000
#define MSIX_TABLE               4
#define MSIX_PBA                 8
#define MSIX_ENTRY_SIZE          16
#define MSIX_VECTOR_MASKED       1u
#define MSIX_PBA_OFFSET(entries) ALIGN_UP((entries)*MSIX_ENTRY_SIZE, 2048)

uint16_t pci_get16(const struct pci_device *dev, unsigned offset)
{
	return dev->config[offset] | dev->config[offset + 1] << 8;
}

uint32_t pci_get32(const struct pci_device *dev, unsigned offset)
{
	return pci_get16(dev, offset) | (uint32_t)pci_get16(dev, offset + 2) << 16;
}

void pci_set16(struct pci_device *dev, unsigned offset, uint16_t value)
{
	dev->config[offset] = value;
	dev->config[offset + 1] = value >> 8;
}

void pci_set32(struct pci_device *dev, unsigned offset, uint32_t value)
{
	pci_set16(dev, offset, value);
	pci_set16(dev, offset + 2, value >> 16);
}

static void set_writable16(struct pci_device *dev, unsigned offset, uint16_t mask)
{
	dev->writable[offset] = mask;
	dev->writable[offset + 1] = mask >> 8;
}

static void set_writable32(struct pci_device *dev, unsigned offset, uint32_t mask)
{
	set_writable16(dev, offset, mask);
	set_writable16(dev, offset + 2, mask >> 16);
}

void pci_device_init(struct pci_device *dev, const char *name, const struct pci_device_id *id)
{
	dev->name = name;
	dev->next_cap = 0x40;
	pci_set16(dev, PCI_VENDOR_ID, id->vendor);
	pci_set16(dev, PCI_DEVICE_ID, id->device);
	pci_set16(dev, PCI_SUBSYSTEM_VENDOR, id->subsystem_vendor);
	pci_set16(dev, PCI_SUBSYSTEM_ID, id->subsystem);
	dev->config[PCI_REVISION_ID] = id->revision;
	dev->config[PCI_CLASS_PROG] = id->prog_if;
	dev->config[PCI_CLASS_DEVICE] = id->subclass;
	dev->config[PCI_CLASS_DEVICE + 1] = id->class;
	set_writable16(dev, PCI_COMMAND,
		       PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER |
			       PCI_COMMAND_INTX_OFF);
	dev->writable[PCI_CACHE_LINE_SIZE] = 0xff;
	dev->writable[PCI_INTERRUPT_LINE] = 0xff;
}

uint8_t pci_add_capability(struct pci_device *dev, uint8_t cap_id, uint8_t len)
{
	uint8_t offset = dev->next_cap;
	uint8_t *link = &dev->config[PCI_CAPABILITY_LIST];

	/* Appended: guests walk the list in the order the device added it. */
	while (*link)
		link = &dev->config[*link + 1];
	*link = offset;
	dev->config[offset] = cap_id;
	dev->config[offset + 1] = 0;
	dev->next_cap = ALIGN_UP(offset + len, 4);
	dev->config[PCI_STATUS] |= PCI_STATUS_CAP_LIST;
	return offset;
}

/* --- BARs ---- */

static bool bar_is_64(const struct pci_bar *bar)
{
	return bar->kind == PCI_BAR_MEM64 || bar->kind == PCI_BAR_MEM64_PREF;
}

void pci_add_bar(struct pci_device *dev, unsigned n, enum pci_bar_kind kind, uint64_t size,
		 const struct region_ops *ops, void *opaque)
{
	static const uint8_t type_bits[] = {
		[PCI_BAR_IO] = 1, [PCI_BAR_MEM64] = 4, [PCI_BAR_MEM64_PREF] = 0xc
	};
	struct pci_bar *bar = &dev->bars[n];
	unsigned offset = PCI_BASE_ADDRESS_0 + 4 * n;
	uint64_t mask = ~(size - 1);

	bar->kind = kind;
	bar->region = (struct region){ dev->name, size, ops, opaque };
	dev->config[offset] = kind < ARRAY_SIZE(type_bits) ? type_bits[kind] : 0;
	set_writable32(dev, offset, kind == PCI_BAR_IO ? mask & ~3u : mask & ~15u);
	if (bar_is_64(bar))
		set_writable32(dev, offset + 4, mask >> 32);
}

static uint64_t bar_address(const struct pci_device *dev, unsigned n)
{
	unsigned offset = PCI_BASE_ADDRESS_0 + 4 * n;
	uint64_t address = pci_get32(dev, offset) & ~(dev->bars[n].kind == PCI_BAR_IO ? 3u : 15u);

	if (bar_is_64(&dev->bars[n]))
		address |= (uint64_t)pci_get32(dev, offset + 4) << 32;
	return address;
}

void pci_set_bar_address(struct pci_device *dev, unsigned n, uint64_t address)
{
	unsigned offset = PCI_BASE_ADDRESS_0 + 4 * n;

	pci_set32(dev, offset, address | (pci_get32(dev, offset) & 15));
	if (bar_is_64(&dev->bars[n]))
		pci_set32(dev, offset + 4, address >> 32);
}

static void map_bar(struct pci_device *dev, unsigned n, bool enabled)
{
	struct pci_bar *bar = &dev->bars[n];
	struct bus *bus = pci_space(dev->bus, bar->kind == PCI_BAR_IO);
	uint64_t address = bar_address(dev, n);
	struct error *err ERROR_AUTO = NULL;

	/* Address 0 and "all ones", which sizing leaves behind, are no places. */
	enabled = enabled && address && address + bar->region.size > address &&
		  address != ALIGN_DOWN(UINT32_MAX, bar->region.size);
	if (bar->region.bus && enabled && bar->region.base == address)
		return;
	bus_unmap(&bar->region);
	if (enabled && bus_map(bus, &bar->region, address, &err) < 0)
		log_item(LOG_GUEST_ERRORS, "%s: BAR %u not mapped: %s", dev->name, n,
			 error_message(err));
}

void pci_update_mappings(struct pci_device *dev)
{
	uint16_t command = pci_get16(dev, PCI_COMMAND);

	for (unsigned n = 0; n < PCI_BARS; n++) {
		unsigned enable = dev->bars[n].kind == PCI_BAR_IO ? PCI_COMMAND_IO
								  : PCI_COMMAND_MEMORY;

		if (dev->bars[n].kind != PCI_BAR_NONE && dev->bus)
			map_bar(dev, n, command & enable);
	}
}

/* --- MSI-X ---- */

static uint64_t msix_read(void *opaque, uint64_t offset, unsigned size)
{
	struct pci_device *dev = opaque;
	struct pci_msix *msix = &dev->msix;
	uint64_t pba = MSIX_PBA_OFFSET(msix->n_vectors), value = 0;
	const uint8_t *from = NULL;

	pthread_mutex_lock(&msix->lock);
	if (offset + size <= msix->n_vectors * MSIX_ENTRY_SIZE)
		from = (const uint8_t *)msix->table + offset;
	else if (offset >= pba && offset - pba + size <= ALIGN_UP(msix->n_vectors, 64) / 8)
		from = (const uint8_t *)msix->pending + (offset - pba);
	if (from)
		memcpy(&value, from, size);
	pthread_mutex_unlock(&msix->lock);
	return value;
}

static bool msix_masked(const struct pci_device *dev, unsigned vector)
{
	return dev->config[dev->msix.cap + MSIX_CONTROL + 1] & (MSIX_CONTROL_MASK_ALL >> 8) ||
	       dev->msix.table[vector].control & MSIX_VECTOR_MASKED;
}

static void send(struct pci_device *dev, const struct msix_entry *entry)
{
	irq_msi(dev->intx.irqs, (uint64_t)entry->address_hi << 32 | entry->address_lo, entry->data);
}

/* Sends what waited for vector to be unmasked. With msix->lock held. */
static void deliver_pending(struct pci_device *dev, unsigned vector)
{
	struct pci_msix *msix = &dev->msix;
	uint64_t *word = &msix->pending[vector / 64];

	if (!(*word & BIT(vector % 64)) || !pci_msix_enabled(dev) || msix_masked(dev, vector))
		return;
	*word &= ~BIT(vector % 64);
	send(dev, &msix->table[vector]);
}

static void msix_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct pci_device *dev = opaque;
	struct pci_msix *msix = &dev->msix;

	if (offset + size > msix->n_vectors * MSIX_ENTRY_SIZE)
		return; /* the pending bits are read-only */
	pthread_mutex_lock(&msix->lock);
	memcpy((uint8_t *)msix->table + offset, &value, size);
	deliver_pending(dev, offset / MSIX_ENTRY_SIZE);
	pthread_mutex_unlock(&msix->lock);
}

static const struct region_ops msix_ops = { msix_read, msix_write, 8 };

static void mask_all_vectors(struct pci_msix *msix)
{
	memset(msix->table, 0, msix->n_vectors * sizeof(*msix->table));
	memset(msix->pending, 0, ALIGN_UP(msix->n_vectors, 64) / 8);
	for (unsigned i = 0; i < msix->n_vectors; i++)
		msix->table[i].control = MSIX_VECTOR_MASKED;
}

void pci_add_msix(struct pci_device *dev, unsigned bar, unsigned n_vectors)
{
	struct pci_msix *msix = &dev->msix;
	uint64_t pba = MSIX_PBA_OFFSET(n_vectors), size = 4096;

	while (size < pba + ALIGN_UP(n_vectors, 64) / 8)
		size *= 2;
	msix->n_vectors = n_vectors;
	msix->bar = bar;
	msix->table = xcalloc(n_vectors, sizeof(*msix->table));
	msix->pending = xcalloc(ALIGN_UP(n_vectors, 64) / 64, sizeof(*msix->pending));
	pthread_mutex_init(&msix->lock, NULL);
	mask_all_vectors(msix);
	pci_add_bar(dev, bar, PCI_BAR_MEM32, size, &msix_ops, dev);
	msix->cap = pci_add_capability(dev, PCI_CAP_ID_MSIX, 12);
	pci_set16(dev, msix->cap + MSIX_CONTROL, n_vectors - 1);
	set_writable16(dev, msix->cap + MSIX_CONTROL, MSIX_CONTROL_ENABLE | MSIX_CONTROL_MASK_ALL);
	pci_set32(dev, msix->cap + MSIX_TABLE, bar);
	pci_set32(dev, msix->cap + MSIX_PBA, pba | bar);
}

bool pci_msix_enabled(const struct pci_device *dev)
{
	return dev->msix.n_vectors &&
	       dev->config[dev->msix.cap + MSIX_CONTROL + 1] & (MSIX_CONTROL_ENABLE >> 8);
}

void pci_msix_raise(struct pci_device *dev, unsigned vector)
{
	struct pci_msix *msix = &dev->msix;
	struct msix_entry entry;
	bool masked;

	if (vector >= msix->n_vectors || !pci_msix_enabled(dev))
		return;
	pthread_mutex_lock(&msix->lock);
	entry = msix->table[vector];
	masked = msix_masked(dev, vector);
	if (masked)
		msix->pending[vector / 64] |= BIT(vector % 64);
	pthread_mutex_unlock(&msix->lock);
	if (!masked)
		send(dev, &entry);
}

static void msix_control_written(struct pci_device *dev)
{
	pthread_mutex_lock(&dev->msix.lock);
	for (unsigned i = 0; i < dev->msix.n_vectors; i++)
		deliver_pending(dev, i);
	pthread_mutex_unlock(&dev->msix.lock);
}

/* --- INTx ---- */

void pci_add_intx(struct pci_device *dev)
{
	dev->config[PCI_INTERRUPT_PIN] = 1; /* INTA# */
}

void pci_intx_set(struct pci_device *dev, bool level)
{
	bool off = pci_get16(dev, PCI_COMMAND) & PCI_COMMAND_INTX_OFF;

	if (!dev->config[PCI_INTERRUPT_PIN] || !dev->intx.irqs)
		return;
	dev->intx_wanted = level;
	if (level)
		dev->config[PCI_STATUS] |= PCI_STATUS_INTERRUPT;
	else
		dev->config[PCI_STATUS] &= ~PCI_STATUS_INTERRUPT;
	irq_set(&dev->intx, level && !off);
}

/* --- Configuration accesses ---- */

static bool touches(unsigned offset, unsigned size, unsigned start, unsigned len)
{
	return offset < start + len && start < offset + size;
}

void pci_config_write(struct pci_device *dev, unsigned offset, unsigned size, uint32_t value)
{
	for (unsigned i = 0; i < size; i++) {
		uint8_t mask = dev->writable[offset + i];
		uint8_t byte = value >> (8 * i);

		dev->config[offset + i] = (dev->config[offset + i] & ~mask) | (byte & mask);
	}
	if (touches(offset, size, PCI_COMMAND, 2)) {
		pci_update_mappings(dev);
		if (dev->config[PCI_INTERRUPT_PIN])
			pci_intx_set(dev, dev->intx_wanted);
	} else if (touches(offset, size, PCI_BASE_ADDRESS_0, 4 * PCI_BARS)) {
		pci_update_mappings(dev);
	}
	if (dev->msix.n_vectors && touches(offset, size, dev->msix.cap + MSIX_CONTROL, 2))
		msix_control_written(dev);
	if (dev->config_written)
		dev->config_written(dev, offset, size);
}

uint32_t pci_config_read(struct pci_device *dev, unsigned offset, unsigned size)
{
	uint32_t value = 0;

	if (dev->config_reading)
		dev->config_reading(dev, offset, size);
	for (unsigned i = 0; i < size; i++)
		value |= (uint32_t)dev->config[offset + i] << (8 * i);
	return value;
}

/* --- Life ---- */

void pci_device_reset(struct pci_device *dev)
{
	pci_set16(dev, PCI_COMMAND, 0);
	dev->config[PCI_INTERRUPT_LINE] = 0;
	for (unsigned n = 0; n < PCI_BARS; n++)
		if (dev->bars[n].kind != PCI_BAR_NONE)
			pci_set_bar_address(dev, n, 0);
	pci_update_mappings(dev);
	if (dev->msix.n_vectors) {
		dev->config[dev->msix.cap + MSIX_CONTROL + 1] &=
			~((MSIX_CONTROL_ENABLE | MSIX_CONTROL_MASK_ALL) >> 8);
		pthread_mutex_lock(&dev->msix.lock);
		mask_all_vectors(&dev->msix);
		pthread_mutex_unlock(&dev->msix.lock);
	}
	pci_intx_set(dev, false);
}

void pci_device_destroy(struct pci_device *dev)
{
	for (unsigned n = 0; n < PCI_BARS; n++) {
		if (dev->bars[n].kind == PCI_BAR_NONE)
			continue;
		bus_unmap(&dev->bars[n].region);
		free(dev->bars[n].region.doorbells);
	}
	pci_unplug(dev);
	free(dev->msix.table);
	free(dev->msix.pending);
}
