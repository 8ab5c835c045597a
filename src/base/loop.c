/*
 * The event loop: see loop.h.
 *
 * One epoll descriptor waits for everything. Its wait ends at the nearest timer's deadline; timers
 * are few, so they stand in an unsorted list. An eventfd wakes it for calls posted by other
 * threads, which queue up in a list under the loop's only lock.
 *
 * A callback may free any watch or timer, also one whose event epoll has already returned: freed
 * ones are marked, and released when no callback is on the stack.
 */
#include "base/loop.h"

#include "base/error.h"
#include "base/util.h"

#include <errno.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <time.h>

#define MAX_EVENTS 32
#define NEVER      UINT64_MAX

struct loop_watch {
	struct loop *loop;
	int fd;
	uint32_t events;
	void (*fn)(void *opaque, uint32_t events);
	void *opaque;
	bool dead;
	struct loop_watch *next;
};

struct loop_timer {
	struct loop *loop;
	uint64_t deadline;
	void (*fn)(void *opaque);
	void *opaque;
	bool dead;
	struct loop_timer *next;
};

struct loop {
	int epoll_fd, wake_fd;
	struct loop_watch *watches;
	struct loop_timer *timers;
	bool garbage; /* some watch or timer is dead */
	_Atomic bool stop;

	pthread_mutex_t lock; /* of what follows */
	pthread_cond_t changed;
	struct loop_call *first, **last;
	unsigned generation; /* counts what is posted */
	bool running;
	pthread_t thread;
};

uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * UINT64_C(1000000000) + ts.tv_nsec;
}

struct loop *loop_new(struct error **err)
{
	struct loop *loop = xcalloc(1, sizeof(*loop));
	struct epoll_event event = { .events = EPOLLIN, .data.ptr = NULL };

	loop->last = &loop->first;
	pthread_mutex_init(&loop->lock, NULL);
	pthread_cond_init(&loop->changed, NULL);
	loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (loop->epoll_fd < 0 || loop->wake_fd < 0 ||
	    epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, loop->wake_fd, &event) < 0) {
		error_set_errno(err, errno, "cannot make an event loop");
		loop_free(loop);
		return NULL;
	}
	return loop;
}

static void sweep(struct loop *loop, bool all)
{
	struct loop_watch **w = &loop->watches;
	struct loop_timer **t = &loop->timers;

	while (*w) {
		struct loop_watch *watch = *w;

		if (all || watch->dead) {
			*w = watch->next;
			free(watch);
		} else {
			w = &watch->next;
		}
	}
	while (*t) {
		struct loop_timer *timer = *t;

		if (all || timer->dead) {
			*t = timer->next;
			free(timer);
		} else {
			t = &timer->next;
		}
	}
	loop->garbage = false;
}

/* #syscalls close */
void loop_free(struct loop *loop)
{
	if (!loop)
		return;
	sweep(loop, true);
	if (loop->epoll_fd >= 0)
		close(loop->epoll_fd);
	if (loop->wake_fd >= 0)
		close(loop->wake_fd);
	pthread_cond_destroy(&loop->changed);
	pthread_mutex_destroy(&loop->lock);
	free(loop);
}

/* #syscalls write */
static void wake(struct loop *loop)
{
	uint64_t one = 1;

	if (write(loop->wake_fd, &one, sizeof(one)) < 0)
		return; /* full: it is awake already */
}

/* #syscalls epoll_ctl */
struct loop_watch *loop_watch_new(struct loop *loop, int fd, uint32_t events,
				  void (*fn)(void *opaque, uint32_t events), void *opaque,
				  struct error **err)
{
	struct loop_watch *watch = xcalloc(1, sizeof(*watch));
	struct epoll_event event = { .events = events, .data.ptr = watch };

	*watch = (struct loop_watch){ loop, fd, events, fn, opaque, false, loop->watches };
	if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0) {
		error_set_errno(err, errno, "cannot watch descriptor %d", fd);
		free(watch);
		return NULL;
	}
	loop->watches = watch;
	return watch;
}

void loop_watch_set(struct loop_watch *watch, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = watch };

	if (watch->events == events)
		return;
	watch->events = events;
	epoll_ctl(watch->loop->epoll_fd, EPOLL_CTL_MOD, watch->fd, &event);
}

void loop_watch_free(struct loop_watch *watch)
{
	if (!watch)
		return;
	epoll_ctl(watch->loop->epoll_fd, EPOLL_CTL_DEL, watch->fd, NULL);
	watch->dead = true;
	watch->loop->garbage = true;
}

struct loop_timer *loop_timer_new(struct loop *loop, void (*fn)(void *opaque), void *opaque)
{
	struct loop_timer *timer = xcalloc(1, sizeof(*timer));

	*timer = (struct loop_timer){ loop, NEVER, fn, opaque, false, loop->timers };
	loop->timers = timer;
	return timer;
}

void loop_timer_set(struct loop_timer *timer, uint64_t deadline_ns)
{
	timer->deadline = deadline_ns;
}

void loop_timer_cancel(struct loop_timer *timer)
{
	timer->deadline = NEVER;
}

void loop_timer_free(struct loop_timer *timer)
{
	if (!timer)
		return;
	timer->deadline = NEVER;
	timer->dead = true;
	timer->loop->garbage = true;
}

/* Milliseconds until the nearest deadline, rounded up; -1 for none. */
static int next_timeout(struct loop *loop)
{
	uint64_t nearest = NEVER, now;

	for (struct loop_timer *t = loop->timers; t; t = t->next)
		nearest = MIN(nearest, t->deadline);
	if (nearest == NEVER)
		return -1;
	now = now_ns();
	if (nearest <= now)
		return 0;
	return MIN((nearest - now + 999999) / 1000000, 3600u * 1000);
}

static void run_timers(struct loop *loop)
{
	uint64_t now = now_ns();

	for (struct loop_timer *t = loop->timers; t; t = t->next) {
		if (t->deadline > now)
			continue;
		t->deadline = NEVER;
		t->fn(t->opaque);
	}
}

/* The first call that is queued, or of those that somebody stands still for. */
static struct loop_call *take_call(struct loop *loop, bool only_awaited)
{
	struct loop_call *call, **link;

	pthread_mutex_lock(&loop->lock);
	for (link = &loop->first; (call = *link); link = &call->next)
		if (call->awaited || !only_awaited)
			break;
	if (call) {
		*link = call->next;
		if (!call->next)
			loop->last = link;
		call->queued = false;
	}
	pthread_mutex_unlock(&loop->lock);
	return call;
}

/* The call's memory may be reused or gone as soon as fn runs: it is read before. */
static void run_calls(struct loop *loop, bool only_awaited)
{
	struct loop_call *call;

	while ((call = take_call(loop, only_awaited))) {
		void (*fn)(void *) = call->fn;

		fn(call->opaque);
	}
}

/* #syscalls read */
static void drain_wake(struct loop *loop)
{
	uint64_t count;

	if (read(loop->wake_fd, &count, sizeof(count)) < 0)
		return; /* another wake-up took it */
}

static void set_running(struct loop *loop, bool running)
{
	pthread_mutex_lock(&loop->lock);
	loop->running = running;
	loop->thread = pthread_self();
	pthread_mutex_unlock(&loop->lock);
}

/* #syscalls epoll_wait */
void loop_run(struct loop *loop)
{
	struct epoll_event events[MAX_EVENTS];

	set_running(loop, true);
	while (!loop->stop) {
		int n = epoll_wait(loop->epoll_fd, events, MAX_EVENTS, next_timeout(loop));

		for (int i = 0; i < n; i++) {
			struct loop_watch *watch = events[i].data.ptr;

			if (!watch)
				drain_wake(loop);
			else if (!watch->dead)
				watch->fn(watch->opaque, events[i].events);
		}
		run_calls(loop, false);
		run_timers(loop);
		if (loop->garbage)
			sweep(loop, false);
	}
	loop->stop = false;
	set_running(loop, false);
	run_calls(loop, false);
}

void loop_stop(struct loop *loop)
{
	loop->stop = true;
	wake(loop);
}

bool loop_is_current(const struct loop *loop)
{
	return loop->running && pthread_equal(loop->thread, pthread_self());
}

static unsigned generation(struct loop *loop)
{
	unsigned value;

	pthread_mutex_lock(&loop->lock);
	value = loop->generation;
	pthread_mutex_unlock(&loop->lock);
	return value;
}

/* done() is asked without the lock: what it looks at may have one of its own. */
void loop_run_calls_until(struct loop *loop, bool (*done)(void *opaque), void *opaque)
{
	for (;;) {
		unsigned seen = generation(loop);

		run_calls(loop, true);
		if (done(opaque))
			return;
		pthread_mutex_lock(&loop->lock);
		while (loop->generation == seen)
			pthread_cond_wait(&loop->changed, &loop->lock);
		pthread_mutex_unlock(&loop->lock);
	}
}

/* With the lock held. */
static void enqueue(struct loop *loop, struct loop_call *call)
{
	loop->generation++;
	pthread_cond_broadcast(&loop->changed);
	if (call->queued)
		return;
	call->queued = true;
	call->next = NULL;
	*loop->last = call;
	loop->last = &call->next;
}

void loop_post(struct loop *loop, struct loop_call *call)
{
	pthread_mutex_lock(&loop->lock);
	enqueue(loop, call);
	pthread_mutex_unlock(&loop->lock);
	wake(loop);
}

void loop_unpost(struct loop *loop, struct loop_call *call)
{
	pthread_mutex_lock(&loop->lock);
	for (struct loop_call **c = &loop->first; call->queued && *c; c = &(*c)->next) {
		if (*c != call)
			continue;
		*c = call->next;
		if (loop->last == &call->next)
			loop->last = c;
		call->queued = false;
		break;
	}
	pthread_mutex_unlock(&loop->lock);
}

struct sync_call {
	struct loop_call call;
	struct loop *loop;
	void (*fn)(void *opaque);
	void *opaque;
	bool done;
};

static void run_sync_call(void *opaque)
{
	struct sync_call *sync = opaque;

	sync->fn(sync->opaque);
	pthread_mutex_lock(&sync->loop->lock);
	sync->done = true;
	pthread_cond_broadcast(&sync->loop->changed);
	pthread_mutex_unlock(&sync->loop->lock);
}

/* #syscalls futex */
void loop_call(struct loop *loop, void (*fn)(void *opaque), void *opaque)
{
	struct sync_call sync = {
		{ .fn = run_sync_call, .awaited = true }, loop, fn, opaque, false
	};

	sync.call.opaque = &sync;
	pthread_mutex_lock(&loop->lock);
	if (!loop->running || pthread_equal(loop->thread, pthread_self())) {
		pthread_mutex_unlock(&loop->lock);
		fn(opaque);
		return;
	}
	enqueue(loop, &sync.call);
	wake(loop);
	while (!sync.done)
		pthread_cond_wait(&loop->changed, &loop->lock);
	pthread_mutex_unlock(&loop->lock);
}
