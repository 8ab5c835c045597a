/*
 * The split virtqueue (Virtio 1.2 §2.7), device side.
 *
 * All three rings and every descriptor are written by the guest while we read them. Each field is
 * read once, checked, and turned into host iovecs through gmem; any violation breaks the queue
 * (virtq_pop() returns -1 with a reason), after which its device asks for a reset and touches it no
 * more. A chain has at most VIRTQ_MAX_SEGMENTS pieces whatever its descriptors say, so every loop
 * is bounded. A queue is used by one thread.
 */
#ifndef REVIRT_VIRTIO_QUEUE_H
#define REVIRT_VIRTIO_QUEUE_H

#include "machine/gmem.h"

#define VIRTQ_MAX_SIZE     1024
#define VIRTQ_MAX_SEGMENTS 1024 /* of one chain */

struct virtq {
	const struct gmem *gm;
	/* Set by the transport while the queue is off: */
	uint16_t size, max_size;
	uint64_t desc_gpa, driver_gpa, device_gpa;
	bool enabled;
	/* While on: */
	bool event_idx, broken;
	bool no_notify; /* without EVENT_IDX: VIRTQ_USED_F_NO_NOTIFY is set */
	uint16_t last_avail, used_idx, signalled_used;
	bool signalled_valid;
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

/* Maps the rings at DRIVER_OK; -1 with vq->reason set when addresses, size or alignment are wrong.
 */
int virtq_start(struct virtq *vq, bool event_idx);
void virtq_stop(struct virtq *vq);

/*
 * Takes the next chain. 1: chain filled, using iov[0..max_iov) (host-adjacent pieces are merged);
 * 0: none; -1: the queue is broken now. A chain with more than max_iov pieces breaks the queue.
 */
int virtq_pop(struct virtq *vq, struct virtq_chain *chain, struct iovec *iov, unsigned max_iov);
/* Gives back the last popped chain, as if it had not been popped. Only right after virtq_pop(). */
void virtq_unpop(struct virtq *vq);
bool virtq_has_work(struct virtq *vq);

/* Returns a chain with len bytes written; visible to the guest at virtq_flush() at the latest. */
void virtq_push(struct virtq *vq, uint16_t head, uint32_t len);
/* For mergeable receive buffers: fills the offset-th next used element, published by virtq_flush().
 */
void virtq_fill(struct virtq *vq, unsigned offset, uint16_t head, uint32_t len);
/* Publishes n filled elements. */
void virtq_flush(struct virtq *vq, unsigned n);
/* Must the driver be interrupted for what was pushed since the last call? */
bool virtq_should_signal(struct virtq *vq);

/*
 * Turns the driver's notifications on or off. virtq_enable_notify() returns true when work came in
 * the meantime (then process again).
 */
bool virtq_enable_notify(struct virtq *vq);
void virtq_disable_notify(struct virtq *vq);

/* Byte-wise access to an iovec array, bounded by what is there; returns bytes copied. */
size_t iov_to_buf(const struct iovec *iov, unsigned n, size_t offset, void *buf, size_t len);
size_t iov_from_buf(const struct iovec *iov, unsigned n, size_t offset, const void *buf,
		    size_t len);
/* Drops `skip` bytes from the front in place; returns the first piece left, *n updated. */
struct iovec *iov_skip(struct iovec *iov, unsigned *n, size_t skip);

#endif
