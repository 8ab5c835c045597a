/*
 * Virtio over PCI from a driver's side, as bare as can be: every register and ring within reach, no
 * care taken of what is put there. Interrupts are not used; a request is done when the used index
 * says so.
 *
 * All rings and buffers lie in an arena at fixed addresses, so that tests can aim at them.
 */
#ifndef GUEST_VIRTIO_H
#define GUEST_VIRTIO_H

#include "pci.h"

/* Device ids, Virtio 1.2 §5 */
enum virtio_type {
	VIRTIO_NET = 1,
	VIRTIO_BLK = 2,
	VIRTIO_CONSOLE = 3,
	VIRTIO_RNG = 4,
	VIRTIO_BALLOON = 5,
};

/* §2.1 */
#define STATUS_ACKNOWLEDGE 1
#define STATUS_DRIVER      2
#define STATUS_DRIVER_OK   4
#define STATUS_FEATURES_OK 8
#define STATUS_NEEDS_RESET 64

/* §4.1.4.3: common configuration, offsets */
enum {
	COMMON_DEVICE_FEATURE_SELECT = 0x00,
	COMMON_DEVICE_FEATURE = 0x04,
	COMMON_DRIVER_FEATURE_SELECT = 0x08,
	COMMON_DRIVER_FEATURE = 0x0c,
	COMMON_CONFIG_VECTOR = 0x10,
	COMMON_NUM_QUEUES = 0x12,
	COMMON_STATUS = 0x14,
	COMMON_GENERATION = 0x15,
	COMMON_QUEUE_SELECT = 0x16,
	COMMON_QUEUE_SIZE = 0x18,
	COMMON_QUEUE_VECTOR = 0x1a,
	COMMON_QUEUE_ENABLE = 0x1c,
	COMMON_QUEUE_NOTIFY_OFF = 0x1e,
	COMMON_QUEUE_DESC = 0x20,
	COMMON_QUEUE_DRIVER = 0x28,
	COMMON_QUEUE_DEVICE = 0x30,
	COMMON_SIZE = 0x38,
};

/* §2.7 */
#define DESC_NEXT     1
#define DESC_WRITE    2
#define DESC_INDIRECT 4

struct desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};

struct avail {
	uint16_t flags, idx, ring[];
};

struct used {
	uint16_t flags, idx;
	struct {
		uint32_t id, len;
	} ring[];
};

#define ARENA        0x400000u
#define ARENA_SIZE   0x400000u
#define QUEUE_ARENA  0x4000u /* a queue: descriptors at 0, avail at 0x1000, used at 0x2000 */
#define BUFFERS      (ARENA + 0x100000u)
#define BUFFERS_SIZE 0x300000u
#define MAX_QUEUES   8
#define QUEUE_SIZE   16 /* unless the test wants another */

struct queue {
	uint16_t size;
	volatile struct desc *desc;
	volatile struct avail *avail;
	volatile struct used *used;
	uint16_t avail_idx; /* what we told the device */
	uint16_t seen;      /* used entries we have taken */
	uint32_t notify;    /* where to write */
};

struct vdev {
	enum virtio_type type;
	pci_t fn;
	uint32_t common, isr, notify, config, notify_multiplier, config_size;
	uint64_t features;
	uint64_t wanted; /* features to negotiate besides VERSION_1, of those offered */
	unsigned n_queues;
	struct queue queues[MAX_QUEUES];
};

#define F_INDIRECT  28
#define F_EVENT_IDX 29
#define F_VERSION_1 32

/* Finds the n-th device of a type and its registers. */
bool vdev_find(struct vdev *vd, enum virtio_type type, unsigned n);
/* Finds the registers anew, and the queues' notification registers: BARs have moved. */
bool vdev_find_registers(struct vdev *vd);

uint8_t vdev_status(struct vdev *vd);
void vdev_set_status(struct vdev *vd, uint8_t status);
/* Writes 0 and waits for it to read back (§3.1.1 item 1). */
bool vdev_reset(struct vdev *vd);
/* Steps of initialization, §3.1.1; each can be left out or done wrong. */
bool vdev_negotiate(struct vdev *vd);
void vdev_select(struct vdev *vd, unsigned q);
void vdev_place_queue(struct vdev *vd, unsigned q, uint64_t desc, uint64_t avail, uint64_t used);
void vdev_setup_queue(struct vdev *vd, unsigned q, unsigned size);
void vdev_enable_queue(struct vdev *vd, unsigned q);
void vdev_driver_ok(struct vdev *vd);
/* All of them. */
bool vdev_start(struct vdev *vd);

static inline bool vdev_needs_reset(struct vdev *vd)
{
	return vdev_status(vd) & STATUS_NEEDS_RESET;
}

/* Fills descriptor i. */
void queue_desc(struct queue *q, unsigned i, uint64_t addr, uint32_t len, uint16_t flags,
		uint16_t next);
/* Offers the chain that begins at head, without telling the device. */
void queue_offer(struct queue *q, uint16_t head);
void vdev_kick(struct vdev *vd, unsigned q);
/* Waits till everything offered is used, the device needs a reset, or the time is over. */
bool vdev_wait(struct vdev *vd, unsigned q, uint32_t us);

#endif
