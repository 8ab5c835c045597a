/* Virtio over PCI from a driver's side: see virtio.h. */
#include "virtio.h"

#define VIRTIO_VENDOR       0x1af4
#define VIRTIO_MODERN_BASE  0x1040
#define VIRTIO_TRANSITIONAL 0x1000
#define RESET_TIMEOUT_US    1000000
/* §4.1.4: cfg_type, and offsets in the capability */
#define CFG_COMMON     1
#define CFG_NOTIFY     2
#define CFG_ISR        3
#define CFG_DEVICE     4
#define CAP_TYPE       3
#define CAP_BAR        4
#define CAP_OFFSET     8
#define CAP_LENGTH     12
#define CAP_MULTIPLIER 16

/* Transitional devices (what QEMU has on its root bus) say their type in the subsystem id. */
static enum virtio_type type_of(pci_t fn)
{
	uint32_t id = pci_read(fn, 0, 4), device = id >> 16;

	if ((id & 0xffff) != VIRTIO_VENDOR)
		return 0;
	if (device >= VIRTIO_MODERN_BASE && device < VIRTIO_MODERN_BASE + 64)
		return device - VIRTIO_MODERN_BASE;
	if (device >= VIRTIO_TRANSITIONAL && device < VIRTIO_MODERN_BASE)
		return pci_read(fn, PCI_SUBSYSTEM, 2);
	return 0;
}

static bool find_registers(struct vdev *vd)
{
	uint32_t bars[6] = { 0 };

	for (unsigned cap = 0; (cap = pci_find_cap(vd->fn, PCI_CAP_VENDOR, cap));) {
		unsigned type = pci_read(vd->fn, cap + CAP_TYPE, 1);
		unsigned bar = pci_read(vd->fn, cap + CAP_BAR, 1);
		uint32_t at;

		if (type < CFG_COMMON || type > CFG_DEVICE || bar > 5)
			continue;
		if (!bars[bar])
			bars[bar] = pci_bar(vd->fn, bar, NULL);
		at = bars[bar] + pci_read(vd->fn, cap + CAP_OFFSET, 4);
		switch (type) {
		case CFG_COMMON: vd->common = at; break;
		case CFG_ISR: vd->isr = at; break;
		case CFG_NOTIFY:
			vd->notify = at;
			vd->notify_multiplier = pci_read(vd->fn, cap + CAP_MULTIPLIER, 4);
			break;
		case CFG_DEVICE:
			vd->config = at;
			vd->config_size = pci_read(vd->fn, cap + CAP_LENGTH, 4);
			break;
		}
	}
	return vd->common && vd->notify && vd->isr;
}

bool vdev_find_registers(struct vdev *vd)
{
	uint32_t old = vd->notify;

	if (!find_registers(vd))
		return false;
	for (unsigned i = 0; i < MAX_QUEUES; i++)
		vd->queues[i].notify += vd->notify - old;
	return true;
}

bool vdev_find(struct vdev *vd, enum virtio_type type, unsigned n)
{
	memset(vd, 0, sizeof(*vd));
	for (pci_t fn = 0; pci_next(&fn); fn++) {
		if (type_of(fn) != type || n--)
			continue;
		vd->type = type;
		vd->fn = fn;
		return find_registers(vd);
	}
	return false;
}

uint8_t vdev_status(struct vdev *vd)
{
	return read8(vd->common + COMMON_STATUS);
}

void vdev_set_status(struct vdev *vd, uint8_t status)
{
	write8(vd->common + COMMON_STATUS, status);
}

bool vdev_reset(struct vdev *vd)
{
	uint32_t start = time_us();

	vdev_set_status(vd, 0);
	while (vdev_status(vd) != 0)
		if (time_us() - start > RESET_TIMEOUT_US)
			return false;
	return true;
}

static uint64_t offered(struct vdev *vd)
{
	uint64_t features;

	write32(vd->common + COMMON_DEVICE_FEATURE_SELECT, 1);
	features = (uint64_t)read32(vd->common + COMMON_DEVICE_FEATURE) << 32;
	write32(vd->common + COMMON_DEVICE_FEATURE_SELECT, 0);
	return features | read32(vd->common + COMMON_DEVICE_FEATURE);
}

bool vdev_negotiate(struct vdev *vd)
{
	vdev_set_status(vd, STATUS_ACKNOWLEDGE);
	vdev_set_status(vd, STATUS_ACKNOWLEDGE | STATUS_DRIVER);
	vd->features = offered(vd) & (vd->wanted | 1ull << F_VERSION_1);
	write32(vd->common + COMMON_DRIVER_FEATURE_SELECT, 0);
	write32(vd->common + COMMON_DRIVER_FEATURE, vd->features);
	write32(vd->common + COMMON_DRIVER_FEATURE_SELECT, 1);
	write32(vd->common + COMMON_DRIVER_FEATURE, vd->features >> 32);
	vdev_set_status(vd, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK);
	vd->n_queues = read16(vd->common + COMMON_NUM_QUEUES);
	if (vd->n_queues > MAX_QUEUES)
		vd->n_queues = MAX_QUEUES;
	return vdev_status(vd) & STATUS_FEATURES_OK;
}

void vdev_select(struct vdev *vd, unsigned q)
{
	write16(vd->common + COMMON_QUEUE_SELECT, q);
}

static void write64(uint32_t at, uint64_t value)
{
	write32(at, value);
	write32(at + 4, value >> 32);
}

void vdev_place_queue(struct vdev *vd, unsigned q, uint64_t desc, uint64_t avail, uint64_t used)
{
	vdev_select(vd, q);
	write64(vd->common + COMMON_QUEUE_DESC, desc);
	write64(vd->common + COMMON_QUEUE_DRIVER, avail);
	write64(vd->common + COMMON_QUEUE_DEVICE, used);
}

void vdev_setup_queue(struct vdev *vd, unsigned i, unsigned size)
{
	struct queue *q = &vd->queues[i];
	uint32_t at = ARENA + i * QUEUE_ARENA;

	vdev_select(vd, i);
	write16(vd->common + COMMON_QUEUE_SIZE, size);
	*q = (struct queue){
		.size = size,
		.desc = (volatile struct desc *)at,
		.avail = (volatile struct avail *)(at + 0x1000),
		.used = (volatile struct used *)(at + 0x2000),
		.notify = vd->notify +
			  read16(vd->common + COMMON_QUEUE_NOTIFY_OFF) * vd->notify_multiplier,
	};
	memset((void *)at, 0, size * sizeof(struct desc));
	memset((void *)(at + 0x1000), 0, 6 + 2 * size);
	memset((void *)(at + 0x2000), 0, 6 + 8 * size);
	vdev_place_queue(vd, i, at, at + 0x1000, at + 0x2000);
}

void vdev_enable_queue(struct vdev *vd, unsigned q)
{
	vdev_select(vd, q);
	write16(vd->common + COMMON_QUEUE_ENABLE, 1);
}

void vdev_driver_ok(struct vdev *vd)
{
	vdev_set_status(vd, vdev_status(vd) | STATUS_DRIVER_OK);
}

bool vdev_start(struct vdev *vd)
{
	if (!vdev_reset(vd) || !vdev_negotiate(vd))
		return false;
	for (unsigned i = 0; i < vd->n_queues; i++) {
		vdev_setup_queue(vd, i, QUEUE_SIZE);
		vdev_enable_queue(vd, i);
	}
	vdev_driver_ok(vd);
	return (vdev_status(vd) & (STATUS_DRIVER_OK | STATUS_NEEDS_RESET)) == STATUS_DRIVER_OK;
}

void queue_desc(struct queue *q, unsigned i, uint64_t addr, uint32_t len, uint16_t flags,
		uint16_t next)
{
	q->desc[i].addr = addr;
	q->desc[i].len = len;
	q->desc[i].flags = flags;
	q->desc[i].next = next;
}

void queue_offer(struct queue *q, uint16_t head)
{
	q->avail->ring[q->avail_idx % q->size] = head;
	barrier();
	q->avail->idx = ++q->avail_idx;
}

void vdev_kick(struct vdev *vd, unsigned q)
{
	barrier();
	write16(vd->queues[q].notify, q);
}

bool vdev_wait(struct vdev *vd, unsigned i, uint32_t us)
{
	struct queue *q = &vd->queues[i];
	uint32_t start = time_us();

	while (q->used->idx != q->avail_idx && !vdev_needs_reset(vd))
		if (time_us() - start > us)
			return false;
	q->seen = q->used->idx;
	return true;
}
