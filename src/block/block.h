/*
 * Disks: an image opened once, and queues of requests to it.
 *
 * This room knows nothing of machines: requests are iovecs in this process. A block (one image) may
 * be used by several queues, each belonging to one loop's thread; request completions are called on
 * that thread. Submitting does not block and allocates nothing: the request struct is the caller's
 * until done().
 */
#ifndef REVIRT_BLOCK_BLOCK_H
#define REVIRT_BLOCK_BLOCK_H

#include "base/props.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

struct block;
struct block_queue;
struct error;
struct loop;

enum block_op { BLOCK_READ, BLOCK_WRITE, BLOCK_FLUSH, BLOCK_DISCARD, BLOCK_WRITE_ZEROES };

enum {
	BLOCK_REQ_FUA = 1 << 0,   /* write, write-zeroes: stable before done() */
	BLOCK_REQ_UNMAP = 1 << 1, /* write-zeroes may deallocate */
};

struct block_request {
	enum block_op op;
	unsigned flags;
	uint64_t offset, bytes;  /* multiples of block_info.request_align, within its size */
	const struct iovec *iov; /* READ, WRITE; sums to bytes; lives until done() */
	int n_iov;
	/* result: 0, or a negative errno value. Called on the queue's loop, or from block_kick()
	 * and block_drain(); never from block_submit(). The request may be used anew in it. */
	void (*done)(struct block_request *req, int result);
	void *opaque;
	uint64_t private[12]; /* the engine's */
};

struct block_info {
	uint64_t size; /* bytes, a multiple of 512: a file's odd tail is padded */
	bool read_only, write_cache;
	bool discard, write_zeroes; /* reach the file; else they do nothing, or write */
	uint32_t request_align;     /* 1, or 512 to 4096 with cache.direct=on */
	uint32_t physical_block_size, opt_io_size;
	uint32_t discard_granularity;
};

/* -drive/-blockdev properties this room understands: file/filename, format, driver, read-only,
 * cache, cache.direct, cache.no-flush, aio, discard, detect-zeroes, locking, node-name, id, if,
 * ... The values of if, index and media are the dialect's business. */
extern const struct prop block_props[];

/*
 * Opens an image as the properties say. A -blockdev of driver raw whose file= names a block opened
 * before becomes another view of that one.
 */
struct block *block_open(const char *id, const struct props *props, struct error **err);
void block_close(struct block *block); /* NULL is fine; no queues are left */
const char *block_id(const struct block *block);
const char *block_filename(const struct block *block);
const char *block_format(const struct block *block);
void block_get_info(const struct block *block, struct block_info *info);
/* The bytes its file takes on the host's disk, now; 0: unknown. */
uint64_t block_allocated(const struct block *block);

/*
 * For the device that is going to use the image, before its queues: locks it as QEMU does (lock.c).
 * share_rw: others may write to it at the same time.
 */
int block_lock(struct block *block, bool share_rw, struct error **err);

/* depth: requests in flight at most. The engine's set-up (io_uring or threads) happens here. */
struct block_queue *block_queue_new(struct block *block, struct loop *loop, unsigned depth,
				    struct error **err);
void block_queue_free(struct block_queue *queue); /* on the loop's thread, idle; NULL is fine */

/*
 * Called after each batch of done() calls: the place to interrupt a guest, and to submit what has
 * come in the meantime.
 */
void block_queue_on_batch(struct block_queue *queue, void (*fn)(void *opaque), void *opaque);

/* Queues a request; block_kick() then starts all queued ones with one system call. */
void block_submit(struct block_queue *queue, struct block_request *req);
void block_kick(struct block_queue *queue);
/* Waits until nothing is in flight; completions run inside. On the loop's thread. */
void block_drain(struct block_queue *queue);

/*
 * Starts the threads of all queues made so far that need some (none, where io_uring does the work).
 * enter is called first thing on each. Requests submitted earlier wait for them.
 */
int block_start_threads(void (*enter)(void), struct error **err);

#endif
