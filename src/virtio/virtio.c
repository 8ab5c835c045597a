/*
 * A Virtio device apart from its transport: see virtio.h.
 *
 * The life of a device is one machine (§3.1):
 *
 *	reset -> ACKNOWLEDGE, DRIVER -> FEATURES_OK -> DRIVER_OK: running
 *	any of them -> NEEDS_RESET or FAILED: stopped, until reset
 *
 * FEATURES_OK sticks only when the driver's choice is a subset of the offer that holds VERSION_1.
 * DRIVER_OK maps the rings. Pausing is beside all that: it stops a running device and keeps its
 * queues, so that resuming goes on where it was.
 *
 * Notifications are edge-triggered eventfds that are never read: each write to one wakes the loop
 * once more, which saves a system call a kick.
 */
#include "virtio/virtio.h"

#include "base/error.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>

/* A guest may fail its devices as often as it likes, but not fill our log with it. */
#define LOUD_FAILURES 8

#define STOPPED       (VIRTIO_STATUS_NEEDS_RESET | VIRTIO_STATUS_FAILED)

struct virtio_kick {
	struct virtio_device *vd;
	unsigned q;
};

static void stop(struct virtio_device *vd)
{
	if (!vd->running)
		return;
	vd->running = false;
	if (vd->ops->stop)
		vd->ops->stop(vd);
}

static void notify(struct virtio_device *vd, unsigned q)
{
	if (vd->running && vd->queues[q].enabled)
		vd->ops->notify(vd, q);
}

static void start(struct virtio_device *vd)
{
	vd->running = true;
	if (vd->ops->start)
		vd->ops->start(vd);
	for (unsigned q = 0; q < vd->n_queues; q++)
		notify(vd, q);
}

static void on_kick(void *opaque, uint32_t events)
{
	struct virtio_kick *kick = opaque;

	notify(kick->vd, kick->q);
}

/* #syscalls:io,main write */
void virtio_notify_again(struct virtio_device *vd, unsigned q)
{
	const uint64_t one = 1;

	if (write(vd->kick_fds[q], &one, sizeof(one)) < 0)
		return; /* full: the loop has not yet seen the last one */
}

static int make_kick(struct virtio_device *vd, unsigned q, struct error **err)
{
	vd->kicks[q] = (struct virtio_kick){ vd, q };
	vd->kick_fds[q] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (vd->kick_fds[q] < 0) {
		error_set_errno(err, errno, "cannot make an eventfd for queue %u", q);
		return -1;
	}
	vd->kick_watches[q] = loop_watch_new(vd->loop, vd->kick_fds[q], EPOLLIN | EPOLLET, on_kick,
					     &vd->kicks[q], err);
	return vd->kick_watches[q] ? 0 : -1;
}

static void reset_queue(struct virtio_device *vd, unsigned q, unsigned size)
{
	struct virtq *vq = &vd->queues[q];

	*vq = (struct virtq){ .gm = vd->gm, .size = size, .max_size = size };
}

int virtio_init(struct virtio_device *vd, const struct virtio_ops *ops, uint16_t device_id,
		const char *name, unsigned n_queues, unsigned queue_size, uint32_t config_size,
		uint64_t host_features, const struct gmem *gm, struct loop *loop,
		struct error **err)
{
	*vd = (struct virtio_device){
		.ops = ops,
		.name = name,
		.device_id = device_id,
		.config_size = config_size,
		.host_features = host_features | BIT(VIRTIO_F_VERSION_1) |
				 BIT(VIRTIO_F_INDIRECT_DESC) | BIT(VIRTIO_F_EVENT_IDX),
		.n_queues = n_queues,
		.gm = gm,
		.loop = loop,
	};
	if (!n_queues || n_queues > VIRTIO_MAX_QUEUES || queue_size < 2 ||
	    queue_size > VIRTQ_MAX_SIZE || queue_size & (queue_size - 1)) {
		error_set(err,
			  "%u queues of %u entries; a device has 1 to %d queues, their size is a "
			  "power of two from 2 to %d",
			  n_queues, queue_size, VIRTIO_MAX_QUEUES, VIRTQ_MAX_SIZE);
		return -1;
	}
	vd->queues = xcalloc(n_queues, sizeof(*vd->queues));
	vd->kicks = xcalloc(n_queues, sizeof(*vd->kicks));
	vd->kick_watches = xcalloc(n_queues, sizeof(*vd->kick_watches));
	vd->kick_fds = xcalloc(n_queues, sizeof(*vd->kick_fds));
	memset(vd->kick_fds, 0xff, n_queues * sizeof(*vd->kick_fds));
	for (unsigned q = 0; q < n_queues; q++) {
		reset_queue(vd, q, queue_size);
		if (make_kick(vd, q, err) < 0) {
			virtio_destroy(vd);
			return -1;
		}
	}
	return 0;
}

static void destroy_on_loop(void *opaque)
{
	struct virtio_device *vd = opaque;

	stop(vd);
	for (unsigned q = 0; q < vd->n_queues; q++) {
		loop_watch_free(vd->kick_watches[q]);
		if (vd->kick_fds[q] >= 0)
			close(vd->kick_fds[q]);
	}
}

/* #syscalls close */
void virtio_destroy(struct virtio_device *vd)
{
	if (!vd->queues)
		return;
	loop_call(vd->loop, destroy_on_loop, vd);
	free(vd->queues);
	free(vd->kicks);
	free(vd->kick_watches);
	free(vd->kick_fds);
	vd->queues = NULL;
}

static void reset(struct virtio_device *vd)
{
	stop(vd);
	for (unsigned q = 0; q < vd->n_queues; q++)
		reset_queue(vd, q, vd->queues[q].max_size);
	vd->features = vd->driver_features = 0;
	vd->config_changed = false;
	/* Last: a driver on another vCPU waits for status 0 before it goes on. */
	vd->status = 0;
}

static void fail(struct virtio_device *vd, const char *what)
{
	const bool driver_ok = vd->status & VIRTIO_STATUS_DRIVER_OK;

	if (vd->status & VIRTIO_STATUS_NEEDS_RESET)
		return;
	if (vd->failures++ < LOUD_FAILURES)
		log_warn("%s: %s; the device needs a reset by its driver", vd->name, what);
	else
		log_item(LOG_GUEST_ERRORS, "%s: %s", vd->name, what);
	for (unsigned q = 0; q < vd->n_queues; q++)
		virtq_break(&vd->queues[q], "the device needs a reset");
	vd->status |= VIRTIO_STATUS_NEEDS_RESET;
	stop(vd);
	/* §2.1.2: told only to a driver that is there. */
	if (driver_ok)
		virtio_config_changed(vd);
}

void virtio_fail(struct virtio_device *vd, const char *fmt, ...)
{
	char what[160];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	fail(vd, what);
}

void virtio_fail_queue(struct virtio_device *vd, unsigned q)
{
	virtio_fail(vd, "queue %u: %s", q, vd->queues[q].reason ? vd->queues[q].reason : "broken");
}

/* §3.1.1 steps 5 and 6, §2.2 */
static bool accept_features(struct virtio_device *vd)
{
	const uint64_t features = vd->driver_features;

	if (features & ~vd->host_features) {
		log_item(LOG_GUEST_ERRORS, "%s: driver wants features 0x%llx that are not offered",
			 vd->name, (unsigned long long)(features & ~vd->host_features));
		return false;
	}
	if (!(features & BIT(VIRTIO_F_VERSION_1))) {
		log_item(LOG_GUEST_ERRORS, "%s: driver does not accept VERSION_1", vd->name);
		return false;
	}
	vd->features = features;
	if (vd->ops->set_features)
		vd->ops->set_features(vd, features);
	return true;
}

/* §3.1.1 step 8 */
static void driver_ok(struct virtio_device *vd)
{
	for (unsigned q = 0; q < vd->n_queues; q++) {
		struct virtq *vq = &vd->queues[q];

		if (vq->enabled && virtq_start(vq, virtio_has(vd, VIRTIO_F_EVENT_IDX)) < 0) {
			virtio_fail_queue(vd, q);
			return;
		}
	}
	if (!vd->paused)
		start(vd);
}

void virtio_set_status(struct virtio_device *vd, uint8_t status)
{
	const uint8_t old = vd->status;
	uint8_t new;

	if (!status) {
		log_item(LOG_VIRTIO, "%s: reset", vd->name);
		reset(vd);
		return;
	}
	if (old & ~status & ~STOPPED)
		log_item(LOG_GUEST_ERRORS, "%s: driver clears status bits 0x%02x without a reset",
			 vd->name, old & ~status);
	/* NEEDS_RESET is ours, and no bit is taken back but by a reset. */
	new = status & ~old & ~VIRTIO_STATUS_NEEDS_RESET;
	if (new &VIRTIO_STATUS_FAILED) {
		log_item(LOG_VIRTIO, "%s: driver has given the device up", vd->name);
		stop(vd);
	}
	if (new &VIRTIO_STATUS_FEATURES_OK && !accept_features(vd))
		new &= ~VIRTIO_STATUS_FEATURES_OK;
	vd->status |= new & ~VIRTIO_STATUS_DRIVER_OK;
	if (!(new &VIRTIO_STATUS_DRIVER_OK))
		return;
	if (vd->status & STOPPED) {
		log_item(LOG_GUEST_ERRORS, "%s: DRIVER_OK for a device that needs a reset",
			 vd->name);
	} else if (!(vd->status & VIRTIO_STATUS_FEATURES_OK)) {
		virtio_fail(vd, "DRIVER_OK without FEATURES_OK");
	} else {
		log_item(LOG_VIRTIO, "%s: driver is ready, features 0x%llx", vd->name,
			 (unsigned long long)vd->features);
		vd->status |= VIRTIO_STATUS_DRIVER_OK;
		driver_ok(vd);
	}
}

static void pause_on_loop(void *opaque)
{
	struct virtio_device *vd = opaque;

	vd->paused = true;
	stop(vd);
}

void virtio_pause(struct virtio_device *vd)
{
	loop_call(vd->loop, pause_on_loop, vd);
}

static void resume_on_loop(void *opaque)
{
	struct virtio_device *vd = opaque;

	vd->paused = false;
	if (vd->status & VIRTIO_STATUS_DRIVER_OK && !(vd->status & STOPPED) && !vd->running)
		start(vd);
}

void virtio_resume(struct virtio_device *vd)
{
	loop_call(vd->loop, resume_on_loop, vd);
}

void virtio_signal(struct virtio_device *vd, unsigned q)
{
	if (virtq_should_signal(&vd->queues[q]) && vd->signal_queue)
		vd->signal_queue(vd, q);
}

void virtio_config_changed(struct virtio_device *vd)
{
	vd->config_changed = true;
	if (vd->status & VIRTIO_STATUS_DRIVER_OK && vd->signal_config)
		vd->signal_config(vd);
}

void virtio_read_config(struct virtio_device *vd, unsigned offset, void *buf, unsigned len)
{
	memset(buf, 0, len);
	if (offset >= vd->config_size)
		return;
	/* §4.1.4.3.1: the generation moves at the first read after a change, so it cannot wrap
	 * between two reads of one value. */
	if (atomic_exchange(&vd->config_changed, false))
		vd->config_generation++;
	vd->ops->config_read(vd, offset, buf, MIN(len, vd->config_size - offset));
}

struct config_write {
	struct virtio_device *vd;
	unsigned offset, len;
	const void *buf;
};

static void config_write_on_loop(void *opaque)
{
	struct config_write *w = opaque;

	w->vd->ops->config_write(w->vd, w->offset, w->buf, w->len);
}

void virtio_write_config(struct virtio_device *vd, unsigned offset, const void *buf, unsigned len)
{
	struct config_write w = { vd, offset, len, buf };

	if (!vd->ops->config_write || offset >= vd->config_size || len > vd->config_size - offset) {
		log_item(LOG_GUEST_ERRORS, "%s: driver writes read-only configuration at 0x%x",
			 vd->name, offset);
		return;
	}
	loop_call(vd->loop, config_write_on_loop, &w);
}
