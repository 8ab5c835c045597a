/*
 * A machine without a VM, and a driver of its Virtio devices: for tests of devices, with drivers
 * that keep the rules and ones that don't.
 *
 * Loops run when the test says so: fake_run() for a while, fake_wait() until something is true.
 * A device on an I/O thread of its own is served by running that thread's loop here, or by starting
 * the thread.
 */
#ifndef REVIRT_TESTS_FAKE_DRIVER_H
#define REVIRT_TESTS_FAKE_DRIVER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "machine/backends.h"
#include "machine/machine.h"
#include "virtio/pci.h"

#define FAKE_QUEUES     64
#define FAKE_QUEUE_SIZE 1024

/* A driver's side of a queue. */
struct fake_queue {
	struct virtio_device *vd;
	unsigned q, size;
	struct virtq_desc *desc;
	struct virtq_avail *avail;
	struct virtq_used *used;
	uint16_t next_desc; /* descriptors are used in turn */
	uint16_t avail_idx; /* published by fake_add() */
	uint16_t used_seen;
};

struct fake_machine {
	struct machine m;
	uint64_t allocated; /* guest memory, from 0 on */
	struct fake_queue queues[FAKE_QUEUES];
};

/* A piece of a request; use FAKE_OUT and FAKE_IN. */
struct fake_piece {
	uint64_t gpa;
	uint32_t len;
	bool in;
};
#define FAKE_OUT(gpa, len) ((struct fake_piece){ (gpa), (len), false })
#define FAKE_IN(gpa, len)  ((struct fake_piece){ (gpa), (len), true })

void fake_machine_init(struct fake_machine *fm, uint64_t ram);
void fake_machine_destroy(struct fake_machine *fm);

/* Plugs a device in; the test fails when that fails. NULL, with *err, when err is not NULL. */
struct device *fake_device(struct fake_machine *fm, const struct device_class *class,
			   const char *props, struct error **err);
struct virtio_device *fake_vd(struct device *device);

/* Guest memory: a fresh zeroed piece, at a 4 KiB boundary; and where it is in the host. */
uint64_t fake_alloc(struct fake_machine *fm, size_t len);
void *fake_ptr(struct fake_machine *fm, uint64_t gpa);
/* The same with a copy of data in it. */
uint64_t fake_data(struct fake_machine *fm, const void *data, size_t len);

/* Resets the device and brings it to DRIVER_OK with these features (and VERSION_1), queues of its
 * sizes, interrupts on. All its queues are in fm->queues afterwards. */
void fake_start(struct fake_machine *fm, struct virtio_device *vd, uint64_t features);
void fake_reset(struct virtio_device *vd);

/* Makes a request available; returns its head. With more than one piece they are chained. */
uint16_t fake_add(struct fake_queue *fq, const struct fake_piece *pieces, unsigned n);
/* Rings the doorbell. */
void fake_kick(struct fake_queue *fq);
/* The next used element; false when there is none. */
bool fake_used(struct fake_queue *fq, struct virtq_used_elem *elem);

/* Runs a loop, of no thread, for some milliseconds; or until done(opaque), at most 5 s: the test
 * fails then. */
void fake_run(struct loop *loop, unsigned ms);
void fake_wait(struct loop *loop, bool (*done)(void *opaque), void *opaque);
/* fake_wait() for a used element of a queue. */
struct virtq_used_elem fake_wait_used(struct fake_queue *fq);

/* Has the device asked for a reset? */
bool fake_needs_reset(struct virtio_device *vd);
/* Interrupts since fake_start(): of a queue, and of the configuration. */
unsigned fake_interrupts(unsigned q);
unsigned fake_config_interrupts(void);

#endif
