/*
 * The guest's clock, and alarms on it: the time of controllers that a backend lacks.
 *
 * It is CLOCK_MONOTONIC less all the time the machine stood still; it begins at rest. Alarms are
 * made before the thread starts, and set by any thread, as often as wanted: there is no lock, and a
 * system call only where the new deadline is the earliest.
 */
#ifndef REVIRT_MACHINE_VCLOCK_H
#define REVIRT_MACHINE_VCLOCK_H

#include <stdbool.h>
#include <stdint.h>

struct error;
struct vclock;

#define VCLOCK_NEVER UINT64_MAX

struct vclock *vclock_new(struct error **err);
void vclock_free(struct vclock *clock); /* NULL is fine */

/* enter runs first in the thread (it enters the thread's seccomp filter). */
int vclock_start_thread(struct vclock *clock, void (*enter)(void), struct error **err);

void vclock_end_thread(struct vclock *clock); /* no alarm goes off after it; NULL is fine */

uint64_t vclock_now(const struct vclock *clock); /* nanoseconds */
/* On the main thread; the second call of the same kind does nothing. */
void vclock_stop(struct vclock *clock);
void vclock_go(struct vclock *clock);
/* When deadline will be on CLOCK_MONOTONIC if the clock goes on. */
uint64_t vclock_to_host(const struct vclock *clock, uint64_t deadline);

/* fn runs on the clock's thread once the deadline has come, and may set it again. */
struct vclock_alarm;
struct vclock_alarm *vclock_alarm_new(struct vclock *clock, void (*fn)(void *opaque), void *opaque);
void vclock_alarm_set(struct vclock_alarm *alarm, uint64_t deadline); /* VCLOCK_NEVER: not at all */

#endif
