/*
 * The threads of a queue: what does its I/O where there is no io_uring, or what io_uring has no
 * operation or no worker for.
 *
 * Two lists under one lock: what is to be done, and what has been. A worker takes from the first,
 * makes one system call, and puts the request on the second; an edge-triggered eventfd tells the
 * loop when that was empty. The threads are created by block_start_threads(), once the process has
 * locked itself in; what is queued earlier waits.
 */
#include "block/internal.h"

#include "base/error.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>

#define MAX_THREADS 8
#define STACK_SIZE  (64 * KIB)

struct pool {
	struct block_queue *queue;
	int fd;        /* of the image */
	unsigned busy; /* requests that are with us; the loop's */
	int event_fd;
	struct loop_watch *watch;
	unsigned n_threads, n_started;
	pthread_t threads[MAX_THREADS];
	pthread_mutex_t lock; /* of what follows */
	pthread_cond_t has_work, has_done;
	struct request_list work, done;
	bool stop;
	struct pool *next;
};

static struct pool *all; /* main thread's */
static void (*thread_enter)(void);

static void on_done(void *opaque, uint32_t events)
{
	struct pool *pool = opaque;

	queue_serve(pool->queue);
}

struct pool *pool_new(struct block_queue *queue, unsigned n_threads, struct error **err)
{
	struct pool *pool = xcalloc(1, sizeof(*pool));

	pool->queue = queue;
	pool->fd = queue->block->fd;
	pool->n_threads = MIN(n_threads, MAX_THREADS);
	request_list_init(&pool->work);
	request_list_init(&pool->done);
	pthread_mutex_init(&pool->lock, NULL);
	pthread_cond_init(&pool->has_work, NULL);
	pthread_cond_init(&pool->has_done, NULL);
	pool->next = all;
	all = pool;
	pool->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (pool->event_fd < 0)
		error_set_errno(err, errno, "cannot make an eventfd");
	else
		pool->watch = loop_watch_new(queue->loop, pool->event_fd, EPOLLIN | EPOLLET,
					     on_done, pool, err);
	if (!pool->watch) {
		pool_free(pool);
		return NULL;
	}
	return pool;
}

static void forget(struct pool *pool)
{
	struct pool **link = &all;

	while (*link && *link != pool)
		link = &(*link)->next;
	if (*link)
		*link = pool->next;
}

void pool_free(struct pool *pool)
{
	if (!pool)
		return;
	forget(pool);
	pthread_mutex_lock(&pool->lock);
	pool->stop = true;
	pthread_cond_broadcast(&pool->has_work);
	pthread_mutex_unlock(&pool->lock);
	for (unsigned i = 0; i < pool->n_started; i++)
		pthread_join(pool->threads[i], NULL);
	loop_watch_free(pool->watch);
	if (pool->event_fd >= 0)
		close(pool->event_fd);
	pthread_cond_destroy(&pool->has_work);
	pthread_cond_destroy(&pool->has_done);
	pthread_mutex_destroy(&pool->lock);
	free(pool);
}

/* #syscalls:io preadv pwritev pwritev2 fdatasync fallocate ioctl=BLKDISCARD */
static ssize_t do_io(int fd, const struct io *io)
{
	const int keep = FALLOC_FL_KEEP_SIZE;
	uint64_t range[2] = { io->offset, io->bytes };

	switch ((enum io_op)io->op) {
	case IO_READ: return preadv(fd, io->iov, io->n_iov, io->offset);
	case IO_WRITE:
		return io->dsync ? pwritev2(fd, io->iov, io->n_iov, io->offset, RWF_DSYNC)
				 : pwritev(fd, io->iov, io->n_iov, io->offset);
	case IO_SYNC: return fdatasync(fd);
	case IO_PUNCH: return fallocate(fd, keep | FALLOC_FL_PUNCH_HOLE, io->offset, io->bytes);
	case IO_ZERO: return fallocate(fd, keep | FALLOC_FL_ZERO_RANGE, io->offset, io->bytes);
	case IO_DISCARD: return ioctl(fd, BLKDISCARD, range);
	}
	return -1;
}

static void run_one(struct pool *pool, struct block_request *req)
{
	ssize_t n;

	pthread_mutex_unlock(&pool->lock);
	n = do_io(pool->fd, &state_of(req)->io);
	state_of(req)->result = n < 0 ? -errno : (int)n;
	pthread_mutex_lock(&pool->lock);
}

/* #syscalls:io write futex madvise=MADV_DONTNEED munmap exit rseq set_robust_list rt_sigprocmask */
static void *work(void *opaque)
{
	struct pool *pool = opaque;
	const uint64_t one = 1;
	bool tell;

	if (thread_enter)
		thread_enter();
	pthread_mutex_lock(&pool->lock);
	while (!pool->stop) {
		struct block_request *req = request_list_take(&pool->work);

		if (!req) {
			pthread_cond_wait(&pool->has_work, &pool->lock);
			continue;
		}
		run_one(pool, req);
		tell = !pool->done.first;
		request_list_add(&pool->done, req);
		pthread_cond_signal(&pool->has_done);
		if (tell && write(pool->event_fd, &one, sizeof(one)) < 0)
			break; /* cannot be: nobody fills the counter */
	}
	pthread_mutex_unlock(&pool->lock);
	return NULL;
}

void pool_queue(struct pool *pool, struct block_request *req)
{
	pool->busy++;
	pthread_mutex_lock(&pool->lock);
	request_list_add(&pool->work, req);
	pthread_cond_signal(&pool->has_work);
	pthread_mutex_unlock(&pool->lock);
}

bool pool_busy(const struct pool *pool)
{
	return pool->busy;
}

static struct block_request *take_done(struct pool *pool)
{
	struct block_request *req;

	pthread_mutex_lock(&pool->lock);
	req = request_list_take(&pool->done);
	pthread_mutex_unlock(&pool->lock);
	return req;
}

void pool_run(struct pool *pool)
{
	struct block_request *req;

	while ((req = take_done(pool))) {
		pool->busy--;
		request_step_done(pool->queue, req, state_of(req)->result);
	}
}

/* Something is with us. */
void pool_wait(struct pool *pool)
{
	pthread_mutex_lock(&pool->lock);
	while (!pool->done.first)
		pthread_cond_wait(&pool->has_done, &pool->lock);
	pthread_mutex_unlock(&pool->lock);
}

/* Signals are the main thread's: all others block them. */
static int start_thread(struct pool *pool)
{
	pthread_attr_t attr;
	sigset_t all_signals, old;
	int errnum;

	sigfillset(&all_signals);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_SIZE);
	pthread_sigmask(SIG_SETMASK, &all_signals, &old);
	errnum = pthread_create(&pool->threads[pool->n_started], &attr, work, pool);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	return errnum;
}

int block_start_threads(void (*enter)(void), struct error **err)
{
	thread_enter = enter;
	for (struct pool *pool = all; pool; pool = pool->next) {
		while (pool->n_started < pool->n_threads) {
			int errnum = start_thread(pool);

			if (errnum) {
				error_set_errno(err, errnum, "cannot start a thread of disk '%s'",
						block_id(pool->queue->block));
				return -1;
			}
			pool->n_started++;
		}
	}
	return 0;
}
