/*
 * The event loop: one per thread that waits for anything (main, one per I/O thread).
 *
 * A loop belongs to the thread that runs it: watches and timers are made, changed and deleted on
 * that thread (or before it runs), and their callbacks run there, so what a loop serves needs no
 * lock. Other threads reach it by loop_post() and loop_call() only.
 */
#ifndef REVIRT_BASE_LOOP_H
#define REVIRT_BASE_LOOP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

struct error;
struct loop;
struct loop_watch;
struct loop_timer;

struct loop *loop_new(struct error **err);
void loop_free(struct loop *loop); /* frees watches and timers left on it */

/* Runs until loop_stop(). The calling thread becomes the loop's thread. */
void loop_run(struct loop *loop);
void loop_stop(struct loop *loop); /* any thread */
bool loop_is_current(const struct loop *loop);

/*
 * Waits on the loop's own thread until done(opaque) is true, which whoever makes it so tells by a
 * loop_post(). Meanwhile it serves loop_call()s, since what is waited for may be waiting for one,
 * and nothing else: what was posted would find things half done. For "till all vCPUs stand still".
 */
void loop_run_calls_until(struct loop *loop, bool (*done)(void *opaque), void *opaque);

/* Calls fn with the ready EPOLL* bits. fd stays the caller's; delete the watch before closing it.
 */
struct loop_watch *loop_watch_new(struct loop *loop, int fd, uint32_t events,
				  void (*fn)(void *opaque, uint32_t events), void *opaque,
				  struct error **err);
void loop_watch_set(struct loop_watch *watch, uint32_t events); /* 0 silences it */
void loop_watch_free(struct loop_watch *watch); /* allowed in any callback; NULL ok */

/* One-shot timers. now_ns() is CLOCK_MONOTONIC in nanoseconds. */
uint64_t now_ns(void);
struct loop_timer *loop_timer_new(struct loop *loop, void (*fn)(void *opaque), void *opaque);
void loop_timer_set(struct loop_timer *timer, uint64_t deadline_ns);
void loop_timer_cancel(struct loop_timer *timer);
void loop_timer_free(struct loop_timer *timer); /* allowed in any callback; NULL ok */

/*
 * A call into a loop from any thread. The struct is the caller's and must live until fn has run;
 * posting one that is already queued does nothing (so it can serve as a "something changed" mark).
 */
struct loop_call {
	void (*fn)(void *opaque);
	void *opaque;
	struct loop_call *next; /* the rest is the loop's */
	bool queued, awaited;
};
void loop_post(struct loop *loop, struct loop_call *call);
/* Takes back a call that has not begun to run, so that its memory may go. */
void loop_unpost(struct loop *loop, struct loop_call *call);

/* Runs fn(opaque) on the loop's thread and returns after it; directly when called from there, or
 * when the loop is not being run by any thread. */
void loop_call(struct loop *loop, void (*fn)(void *opaque), void *opaque);

#endif
