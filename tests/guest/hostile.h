/* What the parts of the hostile guest share: the victim, and how a test is written. */
#ifndef GUEST_HOSTILE_H
#define GUEST_HOSTILE_H

#include "virtio.h"

/* What must become of the device. Whatever it is, a reset must make it work again. */
enum expected {
	BREAKS, /* it asks for a reset */
	LIVES,  /* it goes on working */
	EITHER, /* as it likes, but not hang */
};

struct test {
	const char *name;
	enum expected expected;
	void (*run)(struct vdev *vd);
	/* The test initializes the device itself, after a reset. */
	bool starts;
	unsigned types;  /* 1 << enum virtio_type; 0: any */
	uint64_t wanted; /* features, besides the common ones */
};

extern const struct test queue_tests[];  /* broken descriptors and rings */
extern const struct test config_tests[]; /* broken initialization and configuration */
extern const struct test device_tests[]; /* broken requests */
void run_noise(struct vdev *vd);

/* The queue of a device that its plain requests go through. */
unsigned work_queue(const struct vdev *vd);
/*
 * Puts a plain request into descriptors 0 to n - 1 of the work queue, head 0; returns n. Its first
 * descriptor is one the device reads, but for RNG.
 */
unsigned plain_request(struct vdev *vd);
/* Is the request well done? After vdev_wait(). */
bool plain_request_done(struct vdev *vd);
/* The test has seen something wrong: it has failed, whatever becomes of the device. */
void complain(const char *what);
/* The first address past low memory: what the map keeps for firmware included. */
uint32_t memory_end(void);
/* Offers descriptor chain `head` of the work queue and notifies the device. */
void submit(struct vdev *vd, uint16_t head);

/* Where buffers of plain requests are; the rest of the arena is free for tests. */
#define PLAIN_HEADER (BUFFERS + 0x0000)
#define PLAIN_DATA   (BUFFERS + 0x1000)
#define PLAIN_STATUS (BUFFERS + 0x2000)
#define SCRATCH      (BUFFERS + 0x4000)

/* An address nothing answers at: in the PCI hole, clear of BARs. */
#define NOWHERE 0xd0000000u

#endif
