/*
 * The io_uring of a queue.
 *
 * The ring is made, given its one file and restricted before the process locks itself in: from then
 * on it can read, write, sync and deallocate in that file, whatever the thread that owns it is made
 * to put in. System calls by way of a ring are not seen by seccomp filters, hence the ring's own
 * restrictions. Set-up costs some 30 µs; what made it slow elsewhere (registering an eventfd or
 * files on a live ring waits for the kernel's grace periods) is avoided by doing it while the ring
 * is disabled, and by watching the ring's own descriptor in place of an eventfd.
 *
 * Submission is one system call a batch (uring_run()); what completed within it, such as reads of
 * cached pages, is taken at once.
 *
 * What cannot be done without waiting the kernel gives to worker threads. It lets one writer at a
 * time into a file, but wakes a worker for each request: they get into each other's way, and writes
 * through the page cache become a third slower. So where reads need no workers there is one.
 */
#include "block/internal.h"

#include "base/error.h"
#include "base/log.h"
#include "base/util.h"

#include <errno.h>
#include <liburing.h>
#include <linux/falloc.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>

#define MAX_SQ_ENTRIES 64
#define GATHER_PART    4      /* of what is in flight, one in so many is waited for */
#define GATHER_NS      100000 /* so long */

struct uring {
	struct block_queue *queue;
	struct io_uring ring;
	struct loop_watch *watch;
	struct request_list backlog; /* no room in the submission queue */
	bool one_worker;
};

static char why_unavailable[64] = "";

const char *uring_unavailable(void)
{
	return why_unavailable;
}

/* liburing 2.3 does not export its wrappers of some opcodes. */
static int ring_register(struct io_uring *ring, unsigned opcode, const void *arg, unsigned n)
{
	return syscall(__NR_io_uring_register, ring->ring_fd, opcode, arg, n) < 0 ? -errno : 0;
}

static int restrict_ring(struct io_uring *ring, int fd)
{
	static const uint8_t ops[] = { IORING_OP_READ,   IORING_OP_WRITE, IORING_OP_READV,
				       IORING_OP_WRITEV, IORING_OP_FSYNC, IORING_OP_FALLOCATE };
	struct io_uring_restriction rules[ARRAY_SIZE(ops) + 1] = { 0 };
	int ret;

	for (unsigned i = 0; i < ARRAY_SIZE(ops); i++) {
		rules[i].opcode = IORING_RESTRICTION_SQE_OP;
		rules[i].sqe_op = ops[i];
	}
	rules[ARRAY_SIZE(ops)].opcode = IORING_RESTRICTION_SQE_FLAGS_REQUIRED;
	rules[ARRAY_SIZE(ops)].sqe_flags = IOSQE_FIXED_FILE;

	ret = ring_register(ring, IORING_REGISTER_FILES, &fd, 1);
	if (ret == 0)
		ret = ring_register(ring, IORING_REGISTER_RESTRICTIONS, rules, ARRAY_SIZE(rules));
	if (ret == 0)
		ret = ring_register(ring, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
	return ret;
}

/* A regular file whose reads can be tried without waiting, or never wait. */
static bool wants_one_worker(const struct block *block)
{
	uint8_t byte;
	const struct iovec iov = { &byte, sizeof(byte) };
	struct statfs fs;

	if (block->device || block->direct)
		return false;
	if (preadv2(block->fd, &iov, 1, 0, RWF_NOWAIT) >= 0 || errno == EAGAIN)
		return true;
	return fstatfs(block->fd, &fs) == 0 && fs.f_type == TMPFS_MAGIC;
}

static void limit_workers(struct uring *uring)
{
	/* Those of regular files, and of all else; 0 leaves what is. Linux 5.15. */
	const unsigned workers[2] = { 1, 0 };

	uring->one_worker = wants_one_worker(uring->queue->block) &&
			    ring_register(&uring->ring, IORING_REGISTER_IOWQ_MAX_WORKERS, workers,
					  ARRAY_SIZE(workers)) == 0;
}

static unsigned power_of_two(unsigned n)
{
	unsigned p = 1;

	while (p < n)
		p *= 2;
	return p;
}

/* Room for the completion of everything in flight, so that the queue never overflows. */
static int set_up_ring(struct uring *uring)
{
	static const unsigned flags[] = { IORING_SETUP_COOP_TASKRUN, 0 }; /* Linux 5.19 */
	const unsigned depth = power_of_two(uring->queue->depth);
	int ret = -EINVAL;

	for (unsigned i = 0; i < ARRAY_SIZE(flags) && ret == -EINVAL; i++) {
		struct io_uring_params params = {
			.flags = flags[i] | IORING_SETUP_R_DISABLED | IORING_SETUP_CQSIZE,
			.cq_entries = depth,
		};

		ret = io_uring_queue_init_params(MIN(depth, MAX_SQ_ENTRIES), &uring->ring, &params);
	}
	if (ret < 0)
		return ret;
	limit_workers(uring);
	ret = restrict_ring(&uring->ring, uring->queue->block->fd);
	if (ret < 0)
		io_uring_queue_exit(&uring->ring);
	return ret;
}

/*
 * With much in flight the next completions are near. Waiting for some of them, for a while that is
 * not noticed at such a depth, spares wake-ups here and interrupts in the guest.
 */
static void gather(struct uring *uring)
{
	struct __kernel_timespec limit = { .tv_nsec = GATHER_NS };
	const unsigned n = uring->queue->in_flight / GATHER_PART;
	struct io_uring_cqe *cqe;

	if (n > 1 && uring->ring.features & IORING_FEAT_EXT_ARG)
		io_uring_wait_cqes(&uring->ring, &cqe, n, &limit, NULL);
}

static void on_completion(void *opaque, uint32_t events)
{
	struct uring *uring = opaque;

	gather(uring);
	queue_serve(uring->queue);
}

struct uring *uring_new(struct block_queue *queue, struct error **err)
{
	struct uring *uring = xcalloc(1, sizeof(*uring));
	int ret;

	uring->queue = queue;
	request_list_init(&uring->backlog);
	ret = set_up_ring(uring);
	if (ret < 0) {
		snprintf(why_unavailable, sizeof(why_unavailable), "%s", strerror(-ret));
		free(uring);
		return NULL;
	}
	uring->watch = loop_watch_new(queue->loop, uring->ring.ring_fd, EPOLLIN, on_completion,
				      uring, err);
	if (!uring->watch) {
		uring_free(uring);
		return NULL;
	}
	return uring;
}

/* #syscalls:io,main munmap close */
void uring_free(struct uring *uring)
{
	if (!uring)
		return;
	loop_watch_free(uring->watch);
	io_uring_queue_exit(&uring->ring);
	free(uring);
}

static void prepare(struct io_uring_sqe *sqe, struct block_request *req)
{
	const struct io *io = &state_of(req)->io;
	const bool one = io->n_iov == 1;

	memset(sqe, 0, sizeof(*sqe));
	sqe->flags = IOSQE_FIXED_FILE; /* fd 0 is the ring's only one */
	sqe->user_data = (uintptr_t)req;
	sqe->off = io->offset;
	switch ((enum io_op)io->op) {
	case IO_READ:
	case IO_WRITE:
		if (io->op == IO_READ)
			sqe->opcode = one ? IORING_OP_READ : IORING_OP_READV;
		else
			sqe->opcode = one ? IORING_OP_WRITE : IORING_OP_WRITEV;
		sqe->addr = (uintptr_t)(one ? io->iov->iov_base : io->iov);
		sqe->len = one ? MIN(io->iov->iov_len, INT32_MAX) : (unsigned)io->n_iov;
		sqe->rw_flags = io->dsync ? RWF_DSYNC : 0;
		break;
	case IO_SYNC:
		sqe->opcode = IORING_OP_FSYNC;
		sqe->fsync_flags = IORING_FSYNC_DATASYNC;
		break;
	case IO_PUNCH:
	case IO_ZERO:
		sqe->opcode = IORING_OP_FALLOCATE;
		sqe->addr = io->bytes;
		sqe->len = FALLOC_FL_KEEP_SIZE |
			   (io->op == IO_PUNCH ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);
		break;
	case IO_DISCARD: break; /* the pool's */
	}
}

void uring_queue(struct uring *uring, struct block_request *req)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&uring->ring);

	if (sqe)
		prepare(sqe, req);
	else
		request_list_add(&uring->backlog, req);
}

static void queue_backlog(struct uring *uring)
{
	while (uring->backlog.first && io_uring_sq_space_left(&uring->ring))
		prepare(io_uring_get_sqe(&uring->ring), request_list_take(&uring->backlog));
}

static bool unsubmitted(struct uring *uring)
{
	return uring->backlog.first || io_uring_sq_ready(&uring->ring);
}

/* #syscalls:io,main io_uring_enter */
static bool submit(struct uring *uring)
{
	while (unsubmitted(uring)) {
		int ret;

		queue_backlog(uring);
		ret = io_uring_submit(&uring->ring);
		if (ret == 0 || (ret < 0 && ret != -EINTR)) {
			/* No memory, or completions to be taken first: the loop tries again. */
			if (ret != -EAGAIN && ret != -EBUSY)
				LOG_ONCE("io_uring takes no requests: %s", strerror(-ret));
			return false;
		}
	}
	return true;
}

static void reap(struct uring *uring)
{
	struct io_uring_cqe *cqe;

	while (io_uring_peek_cqe(&uring->ring, &cqe) == 0) {
		struct block_request *req = (void *)(uintptr_t)cqe->user_data;
		const int result = cqe->res;

		io_uring_cqe_seen(&uring->ring, cqe);
		request_step_done(uring->queue, req, result);
	}
}

bool uring_run(struct uring *uring)
{
	bool more;

	do {
		more = submit(uring);
		reap(uring);
	} while (more && unsubmitted(uring));
	return unsubmitted(uring);
}

bool uring_has_one_worker(const struct uring *uring)
{
	return uring->one_worker;
}

/* Nothing has completed and something is in flight. */
void uring_wait(struct uring *uring)
{
	queue_backlog(uring);
	io_uring_submit_and_wait(&uring->ring, 1);
}
