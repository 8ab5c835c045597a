/*
 * Inside the block room.
 *
 * From above: a driver (format) turns a request on the image into I/O on its file. request.c runs
 * such I/O, one step at a time, through an engine: the io_uring of the queue, or its threads. An
 * engine does single steps (struct io) and knows nothing of requests beyond that.
 */
#ifndef REVIRT_BLOCK_INTERNAL_H
#define REVIRT_BLOCK_INTERNAL_H

#include "block/block.h"
#include "base/loop.h"

#include <stdatomic.h>

enum detect_zeroes { DETECT_ZEROES_OFF, DETECT_ZEROES_ON, DETECT_ZEROES_UNMAP };
enum block_aio { BLOCK_AIO_AUTO, BLOCK_AIO_URING, BLOCK_AIO_THREADS };
enum block_locking { BLOCK_LOCKING_AUTO, BLOCK_LOCKING_ON, BLOCK_LOCKING_OFF };

/* An image format: how its requests become I/O on the file. */
struct block_driver {
	const char *name; /* of format= */
	int (*open)(struct block *block, const struct props *props, struct error **err);
	void (*close)(struct block *block);
	/* Begins a request that has been checked; it ends in request_finish(). */
	void (*start)(struct block_queue *queue, struct block_request *req);
};
extern const struct block_driver block_raw;

struct block {
	char *id, *node_name, *filename;
	const struct block_driver *driver;
	int fd, lock_fd; /* lock_fd -1: not locked */
	bool device;     /* a block device, not a file */
	bool direct, no_flush;
	bool discard; /* discard=unmap */
	enum detect_zeroes detect_zeroes;
	enum block_aio aio;
	enum block_locking locking;
	uint32_t mem_align; /* of buffers, with direct */
	struct block_info info;
	/* Learnt while running, by any queue's thread: */
	atomic_bool no_punch, no_zero_range; /* fallocate() does not have them here */
	atomic_bool flush_failed;            /* the page cache may have dropped what we wrote */
	struct block *below;                 /* the node this one is a view of */
	const struct block *above;           /* the node that is a view of this one */
	struct block *next;
};

/* The list of all open blocks. */
struct block *block_first(void);

/* file.c: opens the file behind an image, finds its size and limits. */
int file_open(struct block *block, const struct props *props, struct error **err);

/* lock.c */
int lock_image(struct block *block, bool share_rw, struct error **err);
void unlock_image(struct block *block);

/* --- One step of I/O ---- */

enum io_op {
	IO_READ,
	IO_WRITE,
	IO_SYNC,
	IO_PUNCH,   /* fallocate(): deallocate, reads as zeroes */
	IO_ZERO,    /* fallocate(): zeroes, stays allocated where it was */
	IO_DISCARD, /* ioctl(BLKDISCARD) */
};

struct io {
	uint8_t op; /* enum io_op */
	bool dsync;
	int n_iov;
	const struct iovec *iov;
	uint64_t offset, bytes;
};

/* What a request carries while it is ours, in block_request.private. */
struct request_state {
	struct block_request *next; /* on one list at a time */
	struct io io;
	uint64_t done;      /* bytes transferred */
	struct iovec piece; /* where transfers go piece by piece */
	uint8_t *bounce;    /* or NULL */
	int result;
	bool pieces, zeroes, no_fallocate;
};
_Static_assert(sizeof(struct request_state) <= sizeof(((struct block_request *)0)->private),
	       "a request has no room for its state");

static inline struct request_state *state_of(struct block_request *req)
{
	return (struct request_state *)req->private;
}

struct request_list {
	struct block_request *first, **last;
};
void request_list_init(struct request_list *list);
void request_list_add(struct request_list *list, struct block_request *req);
struct block_request *request_list_take(struct request_list *list);

#define BOUNCE_SIZE    (64 * 1024u)
#define BOUNCE_BUFFERS 8

struct block_queue {
	struct block *block;
	struct loop *loop;
	unsigned depth, in_flight;
	struct uring *uring;         /* NULL: threads do all */
	struct pool *pool;           /* NULL: io_uring does all */
	struct request_list ready;   /* finished, done() not yet called */
	struct request_list waiting; /* for a bounce buffer */
	uint8_t *bounce;             /* all of them */
	uint8_t *free_bounce[BOUNCE_BUFFERS];
	unsigned n_free_bounce;
	void (*batch)(void *opaque);
	void *batch_opaque;
	struct loop_call again_call;
	bool serving, again;
};

/* request.c: begins a request on the file as it is: what a format without a layout does. */
void request_start(struct block_queue *queue, struct block_request *req);
/* A step of req has ended with result (bytes, 0, or a negative errno value). */
void request_step_done(struct block_queue *queue, struct block_request *req, int64_t result);
void request_finish(struct block_queue *queue, struct block_request *req, int result);
/* Runs what is ready, submits what is queued, and so on; called by engines' watches. */
void queue_serve(struct block_queue *queue);

/* --- Engines ---- */

/* NULL and no error set: this host has no io_uring for us. */
struct uring *uring_new(struct block_queue *queue, struct error **err);
void uring_free(struct uring *uring);
void uring_queue(struct uring *uring, struct block_request *req);
/* Submits what is queued and takes what has completed. true: something is left to be submitted. */
bool uring_run(struct uring *uring);
void uring_wait(struct uring *uring);
bool uring_has_one_worker(const struct uring *uring);
const char *uring_unavailable(void); /* why there is none, once uring_new() has found out */

struct pool *pool_new(struct block_queue *queue, unsigned n_threads, struct error **err);
void pool_free(struct pool *pool);
void pool_queue(struct pool *pool, struct block_request *req);
void pool_run(struct pool *pool);
void pool_wait(struct pool *pool);
bool pool_busy(const struct pool *pool);

#endif
