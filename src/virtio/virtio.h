/*
 * A Virtio 1.2 device apart from its transport: status, features, queues, configuration.
 *
 * Threads. A device belongs to one loop (its I/O thread's). The transport gets register accesses on
 * vCPU threads and carries those that change the device's life (status, reset, configuration
 * writes) to that loop with loop_call(), so ops run on one thread and need no locks; queue
 * notifications arrive there by eventfd. The exception is config_read. Only virtio_signal() (for
 * the thread that uses the queue) and virtio_config_changed() may be called from elsewhere.
 *
 * Hostile guests. Anything a driver must not do ends in virtio_fail(): one log line,
 * DEVICE_NEEDS_RESET, a configuration interrupt, queues off until the driver resets the device
 * (§2.1.2).
 */
#ifndef REVIRT_VIRTIO_VIRTIO_H
#define REVIRT_VIRTIO_VIRTIO_H

#include "machine/device.h"
#include "virtio/queue.h"

#include <stdatomic.h>

struct loop;
struct loop_watch;
struct virtio_device;
struct virtio_kick;

#define VIRTIO_MAX_QUEUES 64

/* Device status, §2.1 */
#define VIRTIO_STATUS_ACKNOWLEDGE 1
#define VIRTIO_STATUS_DRIVER      2
#define VIRTIO_STATUS_DRIVER_OK   4
#define VIRTIO_STATUS_FEATURES_OK 8
#define VIRTIO_STATUS_NEEDS_RESET 64
#define VIRTIO_STATUS_FAILED      128

/* Device ids, §5 */
#define VIRTIO_ID_NET     1
#define VIRTIO_ID_BLOCK   2
#define VIRTIO_ID_CONSOLE 3
#define VIRTIO_ID_RNG     4
#define VIRTIO_ID_BALLOON 5

/* Reserved feature bits, §6 */
#define VIRTIO_F_INDIRECT_DESC   28
#define VIRTIO_F_EVENT_IDX       29
#define VIRTIO_F_VERSION_1       32
#define VIRTIO_F_ACCESS_PLATFORM 33

struct virtio_ops {
	/*
	 * Reads of the device-specific configuration, §2.5, always within config_size. On a vCPU's
	 * thread, beside everything else: it copies fields, and those that change are single
	 * aligned ones (the driver re-reads when the generation tells of a change).
	 */
	void (*config_read)(struct virtio_device *vd, unsigned offset, void *buf, unsigned len);
	void (*config_write)(struct virtio_device *vd, unsigned offset, const void *buf,
			     unsigned len); /* NULL: read-only */
	/* Features are settled (FEATURES_OK accepted). May be NULL. */
	void (*set_features)(struct virtio_device *vd, uint64_t features);
	/* DRIVER_OK, or resume: enabled queues are mapped. May be NULL. */
	void (*start)(struct virtio_device *vd);
	/*
	 * Reset, failure or pause: finish what is in flight, touch no queue afterwards. running is
	 * false already. May be called inside notify, by virtio_fail(). May be NULL.
	 */
	void (*stop)(struct virtio_device *vd);
	/* The driver notified queue q, which is on; also called once for each after start and
	 * resume. */
	void (*notify)(struct virtio_device *vd, unsigned q);
};

struct virtio_device {
	const struct virtio_ops *ops;
	const char *name; /* for log lines: "virtio-blk-pci 'disk0'" */
	uint16_t device_id;
	uint32_t config_size;
	uint64_t host_features;   /* offered */
	uint64_t driver_features; /* as the driver wrote them, unchecked; the transport's */
	uint64_t features;        /* negotiated; 0 before FEATURES_OK */
	_Atomic uint8_t status;
	_Atomic uint8_t config_generation;
	_Atomic bool config_changed; /* since the driver last read any of it */
	unsigned n_queues;
	struct virtq *queues;
	const struct gmem *gm;
	struct loop *loop;
	bool running; /* between ops->start and ops->stop */
	bool paused;
	unsigned failures;
	/* Notifications: one eventfd a queue, for the transport to signal or bind */
	int *kick_fds;
	struct loop_watch **kick_watches;
	struct virtio_kick *kicks;
	/* The transport's: */
	void *transport;
	void (*signal_queue)(struct virtio_device *vd, unsigned q);
	void (*signal_config)(struct virtio_device *vd);
};

/*
 * Sets up vd (zeroed storage of the caller) with n queues of at most queue_size entries, and its
 * kick_fds. host_features gets VERSION_1, INDIRECT_DESC and EVENT_IDX added. name, gm and loop
 * outlive vd. On failure nothing is left behind.
 */
int virtio_init(struct virtio_device *vd, const struct virtio_ops *ops, uint16_t device_id,
		const char *name, unsigned n_queues, unsigned queue_size, uint32_t config_size,
		uint64_t host_features, const struct gmem *gm, struct loop *loop,
		struct error **err);
/* Stops the device. Any thread while the loop runs; afterwards any thread too. */
void virtio_destroy(struct virtio_device *vd);

static inline bool virtio_has(const struct virtio_device *vd, unsigned feature)
{
	return vd->features >> feature & 1;
}

/* On the device's loop. 0 resets. The result is in vd->status, see §2.1, §3.1. */
void virtio_set_status(struct virtio_device *vd, uint8_t status);
void virtio_pause(struct virtio_device *vd);  /* any thread: waits for the loop */
void virtio_resume(struct virtio_device *vd); /* any thread */
/* On the device's loop. The caller returns to the loop soon, touching no queue. */
void virtio_fail(struct virtio_device *vd, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
/* virtio_fail() for a queue that virtq_pop() found broken. */
void virtio_fail_queue(struct virtio_device *vd, unsigned q);
/* Publishes what was pushed to queue q, and interrupts the driver if it asked to be. */
void virtio_signal(struct virtio_device *vd, unsigned q);
/* Calls notify() for queue q again, after others on the loop have had their turn. */
void virtio_notify_again(struct virtio_device *vd, unsigned q);
/* Configuration changed: new generation, interrupt. Any thread. */
void virtio_config_changed(struct virtio_device *vd);

/* For transports: the driver's accesses to the device-specific configuration, on a vCPU's thread.
 * What lies outside reads as 0. */
void virtio_read_config(struct virtio_device *vd, unsigned offset, void *buf, unsigned len);
void virtio_write_config(struct virtio_device *vd, unsigned offset, const void *buf, unsigned len);

#endif
