/*
 * A machine without a VM, and a driver that reaches its virtio devices as a guest does: by ECAM and
 * BARs, with interrupts that are counted.
 */
#ifndef REVIRT_TESTS_VIRTIO_PCI_DRIVER_H
#define REVIRT_TESTS_VIRTIO_PCI_DRIVER_H

#include "virtio_driver.h"

#include "base/error.h"
#include "base/loop.h"
#include "machine/backends.h"
#include "machine/machine.h"
#include "virtio/pci.h"

#include <stdio.h>

/* struct virtio_pci_common_cfg, §4.1.4.3 */
#define DEVICE_FEATURE_SELECT 0
#define DEVICE_FEATURE        4
#define DRIVER_FEATURE_SELECT 8
#define DRIVER_FEATURE        12
#define CONFIG_VECTOR         16
#define NUM_QUEUES            18
#define DEVICE_STATUS         20
#define CONFIG_GENERATION     21
#define QUEUE_SELECT          22
#define QUEUE_SIZE            24
#define QUEUE_VECTOR          26
#define QUEUE_ENABLE          28
#define QUEUE_NOTIFY_OFF      30
#define QUEUE_DESC            32
#define QUEUE_DRIVER          40
#define QUEUE_DEVICE          48

struct driver {
	struct machine machine;
	struct device *device;
	struct virtio_pci *vpci;
	struct virtio_device *vd;
	unsigned slot;
	uint64_t common, isr, config, notify; /* addresses */
	uint32_t notify_multiplier;
	uint8_t cfg_cap, msix_cap;
	struct driver_queue queues[8];
	uint64_t msix_table;
};

static const struct pci_windows driver_windows = {
	.ecam_base = MACHINE_ECAM_BASE,
	.mem32_base = MACHINE_MEM32_BASE,
	.mem32_size = MACHINE_MEM32_END - MACHINE_MEM32_BASE,
	.mem64_base = 0x800000000,
	.mem64_size = 0x800000000,
	.io_base = 0x1000,
	.io_size = 0xf000,
};

static inline void driver_machine_init(struct driver *d)
{
	struct machine *m = &d->machine;

	memset(d, 0, sizeof(*d));
	m->type = MACHINE_Q35;
	m->name = "q35";
	m->n_vcpus = 1;
	m->main_loop = loop_new(NULL);
	driver_memory(&m->mem);
	m->io = bus_new(HAV_SPACE_IO, NULL);
	m->memory = bus_new(HAV_SPACE_MEMORY, NULL);
	irqs_init(&m->irqs, NULL);
	m->pci = pci_host_new(m->io, m->memory, &m->irqs, &driver_windows, NULL);
	assert_non_null(m->pci);
	m->backends = backends_new();
}

static inline void driver_machine_destroy(struct driver *d)
{
	struct machine *m = &d->machine;

	machine_destroy_devices(m);
	backends_free(m->backends);
	pci_host_free(m->pci);
	bus_free(m->memory);
	bus_free(m->io);
	gmem_destroy(&m->mem);
	loop_free(m->main_loop);
}

static inline uint64_t driver_read(struct driver *d, uint64_t address, unsigned size)
{
	return bus_read(d->machine.memory, address, size);
}

static inline void driver_write(struct driver *d, uint64_t address, unsigned size, uint64_t value)
{
	bus_write(d->machine.memory, address, size, value);
}

static inline uint64_t driver_ecam(const struct driver *d, unsigned offset)
{
	return MACHINE_ECAM_BASE + (d->slot << 15) + offset;
}

static inline uint32_t driver_config(struct driver *d, unsigned offset, unsigned size)
{
	return driver_read(d, driver_ecam(d, offset), size);
}

static inline uint64_t driver_bar(struct driver *d, unsigned n)
{
	uint64_t low = driver_config(d, 0x10 + 4 * n, 4);

	if ((low & 6) == 4)
		low |= (uint64_t)driver_config(d, 0x14 + 4 * n, 4) << 32;
	return low & ~15ull;
}

/* Walks the capability list as a driver does. */
static inline void driver_find_caps(struct driver *d)
{
	for (unsigned cap = driver_config(d, 0x34, 1), n = 0; cap; n++) {
		const uint8_t id = driver_config(d, cap, 1), type = driver_config(d, cap + 3, 1);
		uint64_t where = 0;

		assert_true(n < 16);
		if (id == PCI_CAP_ID_MSIX) {
			d->msix_cap = cap;
			d->msix_table = driver_bar(d, driver_config(d, cap + 4, 4) & 7);
		} else if (id == PCI_CAP_ID_VNDR && type == 5) {
			d->cfg_cap = cap;
		} else if (id == PCI_CAP_ID_VNDR) {
			where = driver_bar(d, driver_config(d, cap + 4, 1)) +
				driver_config(d, cap + 8, 4);
		}
		if (where && type == 1)
			d->common = where;
		if (where && type == 2) {
			d->notify = where;
			d->notify_multiplier = driver_config(d, cap + 16, 4);
		}
		if (where && type == 3)
			d->isr = where;
		if (where && type == 4)
			d->config = where;
		cap = driver_config(d, cap + 1, 1);
	}
}

static inline struct device *driver_plug(struct driver *d, const struct device_class *class,
					 const char *text, struct error **err)
{
	const struct prop *const tables[] = { class->props, virtio_pci_props,
					      device_common_props("PCI"), NULL };
	struct props *props = props_parse(text, NULL, tables, err);
	int result = props ? machine_add_device(&d->machine, class, props, err) : -1;

	props_free(props);
	if (result < 0)
		return NULL;
	d->device = d->machine.last_device;
	d->vpci = container_of(d->device, struct virtio_pci, dev);
	d->vd = d->vpci->vd;
	d->slot = d->vpci->pci.devfn >> 3;
	pci_assign(d->machine.pci);
	driver_find_caps(d);
	return d->device;
}

static inline uint32_t driver_get(struct driver *d, unsigned reg, unsigned size)
{
	return driver_read(d, d->common + reg, size);
}

static inline void driver_set(struct driver *d, unsigned reg, unsigned size, uint64_t value)
{
	driver_write(d, d->common + reg, size, value);
}

static inline uint8_t driver_status(struct driver *d)
{
	return driver_get(d, DEVICE_STATUS, 1);
}

static inline uint64_t driver_offered(struct driver *d)
{
	uint64_t f;

	driver_set(d, DEVICE_FEATURE_SELECT, 4, 1);
	f = (uint64_t)driver_get(d, DEVICE_FEATURE, 4) << 32;
	driver_set(d, DEVICE_FEATURE_SELECT, 4, 0);
	return f | driver_get(d, DEVICE_FEATURE, 4);
}

static inline void driver_accept(struct driver *d, uint64_t features)
{
	driver_set(d, DRIVER_FEATURE_SELECT, 4, 0);
	driver_set(d, DRIVER_FEATURE, 4, features & UINT32_MAX);
	driver_set(d, DRIVER_FEATURE_SELECT, 4, 1);
	driver_set(d, DRIVER_FEATURE, 4, features >> 32);
}

static inline void driver_set64(struct driver *d, unsigned reg, uint64_t value)
{
	driver_set(d, reg, 4, value & UINT32_MAX);
	driver_set(d, reg + 4, 4, value >> 32);
}

static inline void driver_set_queue(struct driver *d, unsigned q, uint16_t size)
{
	driver_queue_init(&d->queues[q], &d->machine.mem, q, size);
	driver_set(d, QUEUE_SELECT, 2, q);
	driver_set(d, QUEUE_SIZE, 2, size);
	driver_set64(d, QUEUE_DESC, d->queues[q].desc_gpa);
	driver_set64(d, QUEUE_DRIVER, d->queues[q].avail_gpa);
	driver_set64(d, QUEUE_DEVICE, d->queues[q].used_gpa);
	driver_set(d, QUEUE_VECTOR, 2, q + 1);
	driver_set(d, QUEUE_ENABLE, 2, 1);
}

/* Vector v is the message of address 0xfee00000, data 0x40 + v. */
static inline void driver_enable_msix(struct driver *d, unsigned vectors)
{
	for (unsigned v = 0; v < vectors; v++) {
		driver_write(d, d->msix_table + 16 * v, 4, 0xfee00000);
		driver_write(d, d->msix_table + 16 * v + 4, 4, 0);
		driver_write(d, d->msix_table + 16 * v + 8, 4, 0x40 + v);
		driver_write(d, d->msix_table + 16 * v + 12, 4, 0);
	}
	driver_write(d, driver_ecam(d, d->msix_cap + 2), 2, 0x8000);
}

/* Up to FEATURES_OK. */
static inline void driver_negotiate(struct driver *d, uint64_t features)
{
	driver_set(d, DEVICE_STATUS, 1, 0);
	assert_int_equal(driver_status(d), 0);
	driver_set(d, DEVICE_STATUS, 1, VIRTIO_STATUS_ACKNOWLEDGE);
	driver_set(d, DEVICE_STATUS, 1, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER);
	driver_accept(d, features | BIT(VIRTIO_F_VERSION_1));
	driver_set(d, DEVICE_STATUS, 1,
		   VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_FEATURES_OK);
	assert_true(driver_status(d) & VIRTIO_STATUS_FEATURES_OK);
}

#define DRIVER_READY                                                                    \
	(VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_FEATURES_OK | \
	 VIRTIO_STATUS_DRIVER_OK)

static inline void driver_ready(struct driver *d)
{
	driver_set(d, DEVICE_STATUS, 1, DRIVER_READY);
}

/* All of §3.1.1, with queues of that size. */
static inline void driver_start(struct driver *d, uint64_t features, uint16_t size)
{
	driver_negotiate(d, features);
	driver_set(d, CONFIG_VECTOR, 2, 0);
	for (unsigned q = 0; q < d->vd->n_queues && q < ARRAY_SIZE(d->queues); q++)
		driver_set_queue(d, q, size);
	driver_ready(d);
}

static inline void driver_kick(struct driver *d, unsigned q)
{
	driver_write(d, d->notify + q * d->notify_multiplier, 2, q);
}

static inline bool driver_needs_reset(struct driver *d)
{
	return driver_status(d) & VIRTIO_STATUS_NEEDS_RESET;
}

#endif
