/*
 * The split virtqueue (Virtio 1.2 §2.7), device side.
 *
 * All three rings and every descriptor are written by the guest while we read them. Each field is
 * read once, checked, and turned into host iovecs through gmem; any violation breaks the queue
 * (virtq_pop() returns -1 with a reason), after which its device asks for a reset (virtio_fail())
 * and touches it no more: on a queue that is broken or off, pop finds nothing and push does
 * nothing. A chain has at most VIRTQ_MAX_SEGMENTS pieces whatever its descriptors say, and no more
 * than `size` chains are ever in flight, so every loop and every table is bounded. A queue is used
 * by one thread.
 *
 * A device has written its buffers when it pushes them: that is told to who watches guest memory
 * (gmem_written()), before the driver can know.
 *
 * What is pushed is published in batches: virtq_push() only writes the used element;
 * virtq_should_signal() (so virtio_signal()) and virtq_flush() make all that is written visible.
 */
#ifndef REVIRT_VIRTIO_QUEUE_H
#define REVIRT_VIRTIO_QUEUE_H

#include "base/iov.h"
#include "machine/gmem.h"

#define VIRTQ_MAX_SIZE     1024
#define VIRTQ_MAX_SEGMENTS 1024 /* of one chain */

/* §2.7.5, §2.7.6, §2.7.8: the rings as they lie in guest memory, little-endian as we are. */
#define VIRTQ_DESC_F_NEXT          1
#define VIRTQ_DESC_F_WRITE         2
#define VIRTQ_DESC_F_INDIRECT      4
#define VIRTQ_AVAIL_F_NO_INTERRUPT 1
#define VIRTQ_USED_F_NO_NOTIFY     1

struct virtq_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};

struct virtq_avail {
	uint16_t flags, idx;
	uint16_t ring[]; /* size; then used_event with EVENT_IDX */
};

struct virtq_used_elem {
	uint32_t id, len;
};

struct virtq_used {
	uint16_t flags, idx;
	struct virtq_used_elem ring[]; /* size; then avail_event with EVENT_IDX */
};

struct virtq {
	const struct gmem *gm;
	/* Set by the transport while the queue is off: */
	uint16_t size, max_size;
	uint64_t desc_gpa, driver_gpa, device_gpa;
	bool enabled;
	/* While on: */
	bool event_idx, broken;
	bool no_notify;       /* the device wants no notifications now */
	uint16_t last_avail;  /* next available entry to pop */
	uint16_t avail_idx;   /* the driver's index as last read */
	uint16_t looked;      /* how far pop has ever been: unpop does not set it back */
	uint16_t avail_event; /* what we last wrote there */
	uint16_t used_idx;    /* the device's index as the guest sees it */
	uint16_t unpublished; /* elements pushed beyond it */
	uint16_t signalled;   /* used_idx when we last decided about an interrupt */
	uint16_t in_flight;   /* popped and not yet pushed */
	struct virtq_desc *desc;
	struct virtq_avail *avail;
	struct virtq_used *used;
	const char *reason; /* why it broke, a string constant */
};

/* One request: readable (driver to device) pieces first, then writable ones. */
struct virtq_chain {
	uint16_t head;
	uint16_t n_out, n_in;
	uint64_t out_bytes, in_bytes;
	struct iovec *iov; /* n_out + n_in, in storage the caller gave */
};

/*
 * Maps the rings at DRIVER_OK; -1 with vq->reason set when addresses, size or alignment are wrong.
 * The size is taken from vq once, here: it must not change until virtq_stop().
 */
int virtq_start(struct virtq *vq, bool event_idx);
/* Turns the queue off, whatever state it is in. Transport registers (size, addresses) stay. */
void virtq_stop(struct virtq *vq);
/* Breaks the queue for a reason of the device's own (a string constant); returns -1. */
int virtq_break(struct virtq *vq, const char *reason);

/*
 * Takes the next chain. 1: chain filled, using iov[0..max_iov) (host-adjacent pieces are merged);
 * 0: none; -1: the queue is broken now. A chain with more than max_iov pieces breaks the queue.
 */
int virtq_pop(struct virtq *vq, struct virtq_chain *chain, struct iovec *iov, unsigned max_iov);
/*
 * Gives back the chain popped last, as if it had not been popped; repeat it to give back several.
 * Only while nothing popped later has been pushed.
 */
void virtq_unpop(struct virtq *vq);
/* Is there a chain to pop? */
bool virtq_has_work(struct virtq *vq);

/*
 * Returns a chain with len bytes written. The guest sees it, with all others pushed before, after
 * virtio_signal() (virtq_should_signal()), or virtq_flush(vq, 0).
 */
void virtq_push(struct virtq *vq, uint16_t head, uint32_t len);
/*
 * For a packet over several chains that must appear at once (mergeable receive buffers): writes
 * the offset-th element after those pushed, for virtq_flush(vq, n) to publish.
 */
void virtq_fill(struct virtq *vq, unsigned offset, uint16_t head, uint32_t len);
/* Publishes what was pushed, and then n filled elements (0 when there are pushed ones only). */
void virtq_flush(struct virtq *vq, unsigned n);
/*
 * Publishes what was pushed. Must the driver be interrupted for what was published since the last
 * call?
 */
bool virtq_should_signal(struct virtq *vq);

/*
 * Turns the driver's notifications on or off; they are on after virtq_start(). Take work in a loop
 *	do {
 *		virtq_disable_notify(vq);
 *		while (virtq_pop(vq, ...) > 0)
 *			...
 *	} while (virtq_enable_notify(vq));
 * and one kick serves a whole batch. virtq_enable_notify() returns true when chains were added
 * that virtq_pop() has not looked at yet (a chain given back by virtq_unpop() it has).
 */
bool virtq_enable_notify(struct virtq *vq);
void virtq_disable_notify(struct virtq *vq);

#endif
