/*
 * The guest's clock: see vclock.h.
 *
 * One thread sleeps until the earliest deadline, on a futex, whose word counts the reasons to look
 * again. It says until when it sleeps; who sets an earlier deadline than that wakes it. While it
 * looks through the alarms it says "for ever", so that none that is set meanwhile is missed: the
 * word has changed before the thread sleeps on it. An alarm that is moved to a later time costs
 * nothing now, and a look that finds nothing due then.
 */
#include "machine/vclock.h"

#include "base/error.h"
#include "base/loop.h"
#include "base/util.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>

#define NS    UINT64_C(1000000000)
#define GOING 1u

struct vclock_alarm {
	struct vclock *clock;
	void (*fn)(void *opaque);
	void *opaque;
	_Atomic uint64_t deadline;
	struct vclock_alarm *next;
};

struct vclock {
	/* Times two, plus one while it goes: how much it is behind CLOCK_MONOTONIC; while it does
	 * not, the time itself. One word, so that no reader sees half a change. */
	_Atomic uint64_t state;
	struct vclock_alarm *alarms;
	_Atomic uint64_t sleeps_until; /* on the guest's clock */
	_Atomic uint32_t changes;      /* the futex */
	_Atomic bool quit;
	bool has_thread;
	pthread_t thread;
	void (*enter)(void);
};

uint64_t vclock_now(const struct vclock *clock)
{
	uint64_t state = clock->state;

	return state & GOING ? now_ns() - state / 2 : state / 2;
}

uint64_t vclock_to_host(const struct vclock *clock, uint64_t deadline)
{
	uint64_t state = clock->state, host;

	if (!(state & GOING) || __builtin_add_overflow(deadline, state / 2, &host))
		return VCLOCK_NEVER;
	return host;
}

/* #syscalls futex */
static void wake(struct vclock *clock)
{
	atomic_fetch_add(&clock->changes, 1);
	syscall(SYS_futex, &clock->changes, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

void vclock_stop(struct vclock *clock)
{
	clock->state = vclock_now(clock) * 2;
}

void vclock_go(struct vclock *clock)
{
	uint64_t state = clock->state;

	if (state & GOING)
		return;
	clock->state = (now_ns() - state / 2) * 2 | GOING;
	wake(clock);
}

/* --- Alarms ---- */

struct vclock_alarm *vclock_alarm_new(struct vclock *clock, void (*fn)(void *opaque), void *opaque)
{
	struct vclock_alarm *alarm = xcalloc(1, sizeof(*alarm));

	alarm->clock = clock;
	alarm->fn = fn;
	alarm->opaque = opaque;
	alarm->deadline = VCLOCK_NEVER;
	alarm->next = clock->alarms;
	clock->alarms = alarm;
	return alarm;
}

void vclock_alarm_set(struct vclock_alarm *alarm, uint64_t deadline)
{
	alarm->deadline = deadline;
	if (deadline < alarm->clock->sleeps_until)
		wake(alarm->clock);
}

/* Returns the earliest deadline that is left. */
static uint64_t run_alarms(struct vclock *clock)
{
	uint64_t now = vclock_now(clock), earliest = VCLOCK_NEVER;

	for (struct vclock_alarm *a = clock->alarms; a; a = a->next) {
		uint64_t deadline = a->deadline;

		if (deadline <= now &&
		    atomic_compare_exchange_strong(&a->deadline, &deadline, VCLOCK_NEVER)) {
			a->fn(a->opaque);
			deadline = a->deadline;
		}
		earliest = MIN(earliest, deadline);
	}
	return earliest;
}

/* A signal or a deadline that has passed only mean another look. */
static void sleep_until(struct vclock *clock, uint64_t deadline, uint32_t changes)
{
	uint64_t host = vclock_to_host(clock, deadline);
	struct timespec ts = { host / NS, host % NS };

	syscall(SYS_futex, &clock->changes, FUTEX_WAIT_BITSET_PRIVATE, changes,
		host == VCLOCK_NEVER ? NULL : &ts, NULL, FUTEX_BITSET_MATCH_ANY);
}

static void *alarm_thread(void *opaque)
{
	struct vclock *clock = opaque;

	/* Timers as exact as the host has them; the default is 50 us late. */
	prctl(PR_SET_TIMERSLACK, 1);
	if (clock->enter)
		clock->enter();
	while (!clock->quit) {
		uint32_t changes = clock->changes;
		uint64_t earliest = VCLOCK_NEVER;

		clock->sleeps_until = VCLOCK_NEVER;
		if (clock->state & GOING)
			earliest = run_alarms(clock);
		clock->sleeps_until = earliest;
		sleep_until(clock, earliest, changes);
	}
	return NULL;
}

int vclock_start_thread(struct vclock *clock, void (*enter)(void), struct error **err)
{
	sigset_t all, old;
	int r;

	clock->enter = enter;
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &old);
	r = pthread_create(&clock->thread, NULL, alarm_thread, clock);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (r) {
		error_set_errno(err, r, "cannot start the clock's thread");
		return -1;
	}
	clock->has_thread = true;
	pthread_setname_np(clock->thread, "clock");
	return 0;
}

/* --- Life ---- */

struct vclock *vclock_new(void)
{
	struct vclock *clock = xcalloc(1, sizeof(*clock));

	clock->sleeps_until = VCLOCK_NEVER;
	return clock;
}

void vclock_end_thread(struct vclock *clock)
{
	if (!clock || !clock->has_thread)
		return;
	clock->quit = true;
	wake(clock);
	pthread_join(clock->thread, NULL);
	clock->has_thread = false;
}

void vclock_free(struct vclock *clock)
{
	if (!clock)
		return;
	vclock_end_thread(clock);
	while (clock->alarms) {
		struct vclock_alarm *next = clock->alarms->next;

		free(clock->alarms);
		clock->alarms = next;
	}
	free(clock);
}
