/*
 * Requests and their queues: see block.h.
 *
 * A request is one or several steps of I/O (struct io), one at a time; when an engine reports the
 * end of a step, request_step_done() decides on the next. As a rule a read or a write is a single
 * step with the caller's own iovec. It goes on piece by piece after a short transfer, where there
 * are more buffers than the kernel takes, and where O_DIRECT does not like the buffers' alignment;
 * then the piece is a buffer of the queue's own (bounce). Zeroes are written by fallocate() where
 * the file system has it, else piece by piece from a page of zeroes.
 *
 * Finished requests gather on the ready list. queue_serve() is the one place that calls done() and
 * that submits: it goes round until nothing is left to do, so a completion may submit and kick as
 * it likes without the stack growing.
 */
#include "block/internal.h"

#include "base/error.h"
#include "base/iov.h"
#include "base/util.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/mman.h>

/* After so many rounds others on the loop get their turn. */
#define MAX_ROUNDS   16
#define POOL_THREADS 4

/* Never written; not const, so that it lies in .bss and costs neither file nor memory. */
static uint8_t zeroes[BOUNCE_SIZE] __attribute__((aligned(4096)));

void request_list_init(struct request_list *list)
{
	list->first = NULL;
	list->last = &list->first;
}

void request_list_add(struct request_list *list, struct block_request *req)
{
	state_of(req)->next = NULL;
	*list->last = req;
	list->last = &state_of(req)->next;
}

struct block_request *request_list_take(struct request_list *list)
{
	struct block_request *req = list->first;

	if (!req)
		return NULL;
	list->first = state_of(req)->next;
	if (!list->first)
		list->last = &list->first;
	return req;
}

/* --- Steps ---- */

/* io_uring has no ioctl(), and where it has one worker what may take long would keep that. */
static bool for_uring(const struct block_queue *queue, unsigned op)
{
	if (!queue->uring || op == IO_DISCARD)
		return false;
	return op == IO_READ || op == IO_WRITE || !uring_has_one_worker(queue->uring);
}

static void begin_step(struct block_queue *queue, struct block_request *req)
{
	if (for_uring(queue, state_of(req)->io.op))
		uring_queue(queue->uring, req);
	else
		pool_queue(queue->pool, req);
}

static void whole_range(struct block_queue *queue, struct block_request *req, enum io_op op)
{
	state_of(req)->io = (struct io){ .op = op, .offset = req->offset, .bytes = req->bytes };
	begin_step(queue, req);
}

static bool aligned(const struct block *block, const struct block_request *req)
{
	const uintptr_t mem = block->mem_align - 1, len = block->info.request_align - 1;

	for (int i = 0; i < req->n_iov; i++)
		if ((uintptr_t)req->iov[i].iov_base & mem || req->iov[i].iov_len & len)
			return false;
	return true;
}

static uint8_t *take_bounce(struct block_queue *queue)
{
	return queue->n_free_bounce ? queue->free_bounce[--queue->n_free_bounce] : NULL;
}

/* What of the caller's buffers lies at state->done. */
static struct iovec rest_of_piece(const struct block_request *req, uint64_t done)
{
	struct iovec iov = { 0 };

	for (int i = 0; i < req->n_iov; i++) {
		iov = req->iov[i];
		if (done < iov.iov_len)
			break;
		done -= iov.iov_len;
	}
	iov.iov_base = (char *)iov.iov_base + done;
	iov.iov_len -= done;
	return iov;
}

static void next_piece(struct block_queue *queue, struct block_request *req)
{
	struct request_state *s = state_of(req);
	const uint64_t left = req->bytes - s->done;

	if (s->zeroes) {
		s->piece = (struct iovec){ zeroes, MIN(left, sizeof(zeroes)) };
	} else if (queue->block->direct) {
		if (!s->bounce && !(s->bounce = take_bounce(queue))) {
			request_list_add(&queue->waiting, req);
			return;
		}
		s->piece = (struct iovec){ s->bounce, MIN(left, BOUNCE_SIZE) };
		if (s->io.op == IO_WRITE)
			iov_to_buf(req->iov, req->n_iov, s->done, s->bounce, s->piece.iov_len);
	} else {
		s->piece = rest_of_piece(req, s->done);
	}
	s->io.iov = &s->piece;
	s->io.n_iov = 1;
	s->io.offset = req->offset + s->done;
	s->io.bytes = s->piece.iov_len;
	begin_step(queue, req);
}

static void start_transfer(struct block_queue *queue, struct block_request *req, enum io_op op)
{
	struct request_state *s = state_of(req);

	s->io = (struct io){ .op = op,
			     .dsync = req->flags & BLOCK_REQ_FUA && op == IO_WRITE &&
				      !queue->block->no_flush };
	if (s->zeroes || req->n_iov > IOV_MAX ||
	    (queue->block->direct && !aligned(queue->block, req))) {
		s->pieces = true;
		next_piece(queue, req);
		return;
	}
	s->io.iov = req->iov;
	s->io.n_iov = req->n_iov;
	s->io.offset = req->offset;
	s->io.bytes = req->bytes;
	begin_step(queue, req);
}

/* The first way of these that works here: deallocate, if that is wanted; zero; write zeroes. */
static void start_zeroes(struct block_queue *queue, struct block_request *req)
{
	struct block *block = queue->block;
	struct request_state *s = state_of(req);
	const bool unmap = req->flags & BLOCK_REQ_UNMAP && block->discard;

	if (unmap && !block->no_punch && !s->no_fallocate) {
		whole_range(queue, req, IO_PUNCH);
	} else if (!block->no_zero_range && !s->no_fallocate) {
		whole_range(queue, req, IO_ZERO);
	} else {
		s->zeroes = true;
		start_transfer(queue, req, IO_WRITE);
	}
}

static void start_discard(struct block_queue *queue, struct block_request *req)
{
	const struct block *block = queue->block;

	/* A hint that may be ignored. */
	if (!block->discard || (!block->device && block->no_punch))
		request_finish(queue, req, 0);
	else
		whole_range(queue, req, block->device ? IO_DISCARD : IO_PUNCH);
}

static void start_flush(struct block_queue *queue, struct block_request *req)
{
	struct block *block = queue->block;

	if (block->no_flush || block->info.read_only)
		request_finish(queue, req, 0);
	else if (block->flush_failed)
		request_finish(queue, req, -EIO);
	else
		whole_range(queue, req, IO_SYNC);
}

static bool all_zeroes(const struct block_request *req)
{
	for (int i = 0; i < req->n_iov; i++) {
		const uint8_t *p = req->iov[i].iov_base;
		const size_t len = req->iov[i].iov_len;

		if (len && (p[0] || memcmp(p, p + 1, len - 1) != 0))
			return false;
	}
	return true;
}

static void start_write(struct block_queue *queue, struct block_request *req)
{
	const enum detect_zeroes detect = queue->block->detect_zeroes;

	if (detect == DETECT_ZEROES_OFF || !all_zeroes(req)) {
		start_transfer(queue, req, IO_WRITE);
		return;
	}
	req->op = BLOCK_WRITE_ZEROES;
	if (detect == DETECT_ZEROES_UNMAP)
		req->flags |= BLOCK_REQ_UNMAP;
	start_zeroes(queue, req);
}

void request_start(struct block_queue *queue, struct block_request *req)
{
	switch (req->op) {
	case BLOCK_READ: start_transfer(queue, req, IO_READ); break;
	case BLOCK_WRITE: start_write(queue, req); break;
	case BLOCK_FLUSH: start_flush(queue, req); break;
	case BLOCK_DISCARD: start_discard(queue, req); break;
	case BLOCK_WRITE_ZEROES: start_zeroes(queue, req); break;
	}
}

/* --- The end of a step ---- */

/* The rest of a read lies beyond the end of the file: its padded tail, or a file cut short. */
static void read_past_end(struct block_queue *queue, struct block_request *req)
{
	uint64_t done = state_of(req)->done;

	while (done < req->bytes) {
		uint64_t n = MIN(req->bytes - done, sizeof(zeroes));

		iov_from_buf(req->iov, req->n_iov, done, zeroes, n);
		done += n;
	}
	request_finish(queue, req, 0);
}

static void transferred(struct block_queue *queue, struct block_request *req, int64_t n)
{
	struct request_state *s = state_of(req);
	const struct block *block = queue->block;
	const bool read = s->io.op == IO_READ;

	if (n < 0 || (n == 0 && !read)) {
		request_finish(queue, req, n < 0 ? (int)n : -EIO);
		return;
	}
	if (read && s->bounce)
		iov_from_buf(req->iov, req->n_iov, s->done, s->bounce, n);
	s->done += n;
	if (s->done >= req->bytes) {
		request_finish(queue, req, 0);
	} else if (n == 0 || (read && s->done % block->info.request_align)) {
		/* O_DIRECT stops short of a block only where the file ends. */
		read_past_end(queue, req);
	} else {
		s->pieces = true;
		next_piece(queue, req);
	}
}

/* fallocate() and BLKDISCARD say so in many ways. */
static bool unsupported(int64_t result)
{
	return result == -EOPNOTSUPP || result == -ENOSYS || result == -ENOTTY;
}

static void deallocated(struct block_queue *queue, struct block_request *req, int64_t result)
{
	struct request_state *s = state_of(req);
	struct block *block = queue->block;

	if (unsupported(result)) {
		if (s->io.op == IO_PUNCH)
			block->no_punch = true;
		else if (s->io.op == IO_ZERO)
			block->no_zero_range = true;
	}
	if (req->op == BLOCK_DISCARD) {
		request_finish(queue, req, unsupported(result) ? 0 : (int)result);
	} else if (unsupported(result)) {
		start_zeroes(queue, req);
	} else if (result == -EINVAL) { /* a range this device does not like */
		s->no_fallocate = true;
		start_zeroes(queue, req);
	} else if (result == 0 && req->flags & BLOCK_REQ_FUA) {
		start_flush(queue, req);
	} else {
		request_finish(queue, req, (int)result);
	}
}

/*
 * After a failed fdatasync() the kernel may have marked clean what it could not write, and the next
 * one would succeed: never believe it again (QEMU does not either).
 */
static void synced(struct block_queue *queue, struct block_request *req, int64_t result)
{
	if (result < 0 && !queue->block->direct)
		queue->block->flush_failed = true;
	request_finish(queue, req, (int)result);
}

void request_step_done(struct block_queue *queue, struct block_request *req, int64_t result)
{
	if (result == -EAGAIN || result == -EINTR) {
		begin_step(queue, req);
		return;
	}
	switch ((enum io_op)state_of(req)->io.op) {
	case IO_READ:
	case IO_WRITE: transferred(queue, req, result); break;
	case IO_SYNC: synced(queue, req, result); break;
	case IO_PUNCH:
	case IO_ZERO:
	case IO_DISCARD: deallocated(queue, req, result); break;
	}
}

static void give_bounce(struct block_queue *queue, struct request_state *s)
{
	struct block_request *next;

	if (!s->bounce)
		return;
	queue->free_bounce[queue->n_free_bounce++] = s->bounce;
	s->bounce = NULL;
	next = request_list_take(&queue->waiting);
	if (next)
		next_piece(queue, next);
}

void request_finish(struct block_queue *queue, struct block_request *req, int result)
{
	struct request_state *s = state_of(req);

	give_bounce(queue, s);
	s->result = result;
	request_list_add(&queue->ready, req);
}

/* --- Queues ---- */

static bool run_ready(struct block_queue *queue)
{
	struct block_request *req = request_list_take(&queue->ready);

	if (!req)
		return false;
	for (; req; req = request_list_take(&queue->ready)) {
		queue->in_flight--;
		req->done(req, state_of(req)->result);
	}
	return true;
}

void queue_serve(struct block_queue *queue)
{
	bool left = false;
	unsigned rounds = 0;

	queue->again = true;
	if (queue->serving)
		return;
	queue->serving = true;
	while (queue->again && rounds++ < MAX_ROUNDS) {
		queue->again = false;
		left = queue->uring && uring_run(queue->uring);
		if (queue->pool && pool_busy(queue->pool))
			pool_run(queue->pool);
		if (!run_ready(queue))
			continue;
		if (queue->batch)
			queue->batch(queue->batch_opaque);
		queue->again = true;
	}
	queue->serving = false;
	if (queue->again || left)
		loop_post(queue->loop, &queue->again_call);
}

static void serve_again(void *opaque)
{
	queue_serve(opaque);
}

void block_submit(struct block_queue *queue, struct block_request *req)
{
	const struct block *block = queue->block;
	const bool ranged = req->op != BLOCK_FLUSH, reads = req->op == BLOCK_READ;

	memset(req->private, 0, sizeof(req->private));
	queue->in_flight++;
	if (ranged &&
	    (req->bytes > block->info.size || req->offset > block->info.size - req->bytes))
		request_finish(queue, req, -EIO);
	else if (ranged && !reads && block->info.read_only)
		request_finish(queue, req, -EROFS);
	else if (ranged && !req->bytes)
		request_finish(queue, req, 0);
	else
		block->driver->start(queue, req);
}

void block_kick(struct block_queue *queue)
{
	queue_serve(queue);
}

/* May be called inside done() and batch(), with queue_serve() on the stack: does its work itself.
 */
void block_drain(struct block_queue *queue)
{
	const bool serving = queue->serving;

	queue->serving = true;
	while (queue->in_flight) {
		if (queue->uring)
			uring_run(queue->uring);
		if (queue->pool)
			pool_run(queue->pool);
		if (run_ready(queue) || !queue->in_flight)
			continue;
		if (queue->pool && pool_busy(queue->pool))
			pool_wait(queue->pool);
		else
			uring_wait(queue->uring);
	}
	queue->serving = serving;
}

void block_queue_on_batch(struct block_queue *queue, void (*fn)(void *opaque), void *opaque)
{
	queue->batch = fn;
	queue->batch_opaque = opaque;
}

static int make_engine(struct block_queue *queue, struct error **err)
{
	const struct block *block = queue->block;
	struct error *why = NULL;
	unsigned n_threads = MIN(queue->depth, POOL_THREADS);

	if (block->aio != BLOCK_AIO_THREADS)
		queue->uring = uring_new(queue, &why);
	if (why) {
		error_propagate(err, why);
		return -1;
	}
	if (!queue->uring && block->aio == BLOCK_AIO_URING) {
		error_set(err, "aio=io_uring: this host does not let us: %s; use aio=threads",
			  uring_unavailable());
		return -1;
	}
	if (queue->uring) {
		if (!(block->device && block->discard) && !uring_has_one_worker(queue->uring))
			return 0;
		n_threads = 1; /* for what is not for_uring() */
	}
	queue->pool = pool_new(queue, n_threads, err);
	return queue->pool ? 0 : -1;
}

/* Address space only: memory where O_DIRECT needs it. */
static int make_bounce(struct block_queue *queue, struct error **err)
{
	uint8_t *p;

	if (!queue->block->direct)
		return 0;
	p = mmap(NULL, BOUNCE_BUFFERS * BOUNCE_SIZE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED) {
		error_set_errno(err, errno, "no memory for the buffers of a disk");
		return -1;
	}
	queue->bounce = p;
	for (unsigned i = 0; i < BOUNCE_BUFFERS; i++)
		queue->free_bounce[queue->n_free_bounce++] = p + i * BOUNCE_SIZE;
	return 0;
}

struct block_queue *block_queue_new(struct block *block, struct loop *loop, unsigned depth,
				    struct error **err)
{
	struct block_queue *queue = xcalloc(1, sizeof(*queue));

	queue->block = block;
	queue->loop = loop;
	queue->depth = depth;
	queue->again_call = (struct loop_call){ .fn = serve_again, .opaque = queue };
	request_list_init(&queue->ready);
	request_list_init(&queue->waiting);
	if (make_engine(queue, err) < 0 || make_bounce(queue, err) < 0) {
		block_queue_free(queue);
		return NULL;
	}
	return queue;
}

/* #syscalls:io,main munmap */
void block_queue_free(struct block_queue *queue)
{
	if (!queue)
		return;
	loop_unpost(queue->loop, &queue->again_call);
	uring_free(queue->uring);
	pool_free(queue->pool);
	if (queue->bounce)
		munmap(queue->bounce, BOUNCE_BUFFERS * BOUNCE_SIZE);
	free(queue);
}
