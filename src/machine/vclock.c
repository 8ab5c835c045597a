/*
 * The guest's clock: see vclock.h.
 *
 * One thread waits on a timerfd for the earliest deadline. Who sets an earlier one moves the
 * timerfd, which is one system call and wakes nobody; an alarm that is moved to a later time costs
 * nothing now, and a look that finds nothing due then.
 *
 * `earliest` is what the timerfd is set to, or about to be. It only ever gets smaller, but for the
 * thread, which begins each look through the alarms with "never": what is set after that is seen by
 * the look or moves the timerfd. Two who move it at once may do so in the wrong order, so each
 * looks at `earliest` again afterwards.
 */
#include "machine/vclock.h"

#include "base/error.h"
#include "base/loop.h"
#include "base/util.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/timerfd.h>
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
	_Atomic uint64_t earliest; /* on the guest's clock */
	int fd;
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

/*
 * VCLOCK_NEVER disarms; what has passed, 0 too, is at once.
 * #syscalls timerfd_settime
 */
static void set_timer(struct vclock *clock, uint64_t host)
{
	struct itimerspec when = { .it_value = { host / NS, host % NS } };

	if (host == 0)
		when.it_value.tv_nsec = 1;
	else if (host == VCLOCK_NEVER)
		when = (struct itimerspec){};
	timerfd_settime(clock->fd, TFD_TIMER_ABSTIME, &when, NULL);
}

#define AT_ONCE 0

/* The thread is to look at the alarms at that time, or sooner. AT_ONCE: also a clock at rest. */
static void look_at(struct vclock *clock, uint64_t deadline)
{
	uint64_t earliest = clock->earliest;

	do {
		if (deadline >= earliest)
			return;
	} while (!atomic_compare_exchange_weak(&clock->earliest, &earliest, deadline));
	do {
		earliest = deadline;
		set_timer(clock, deadline == AT_ONCE ? 0 : vclock_to_host(clock, deadline));
		deadline = clock->earliest;
	} while (deadline < earliest);
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
	look_at(clock, AT_ONCE);
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
	look_at(alarm->clock, deadline);
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

/* #syscalls:io read */
static void *alarm_thread(void *opaque)
{
	struct vclock *clock = opaque;
	uint64_t expirations;

	if (clock->enter)
		clock->enter();
	while (!clock->quit) {
		clock->earliest = VCLOCK_NEVER;
		if (clock->state & GOING)
			look_at(clock, run_alarms(clock));
		if (read(clock->fd, &expirations, sizeof(expirations)) < 0 && errno != EINTR)
			break;
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

struct vclock *vclock_new(struct error **err)
{
	struct vclock *clock = xcalloc(1, sizeof(*clock));

	clock->earliest = VCLOCK_NEVER;
	clock->fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
	if (clock->fd < 0) {
		error_set_errno(err, errno, "cannot make a timer");
		free(clock);
		return NULL;
	}
	return clock;
}

void vclock_end_thread(struct vclock *clock)
{
	if (!clock || !clock->has_thread)
		return;
	clock->quit = true;
	look_at(clock, AT_ONCE);
	pthread_join(clock->thread, NULL);
	clock->has_thread = false;
}

void vclock_free(struct vclock *clock)
{
	if (!clock)
		return;
	vclock_end_thread(clock);
	close(clock->fd);
	while (clock->alarms) {
		struct vclock_alarm *next = clock->alarms->next;

		free(clock->alarms);
		clock->alarms = next;
	}
	free(clock);
}
