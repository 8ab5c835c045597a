/* The guest's clock: stands still and goes on; alarms from other threads, with real time. */
#include "controllers.h"

#include "base/loop.h"
#include "machine/vclock.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

static struct vclock *guest_clock;
static struct vclock_alarm *alarm_1, *alarm_2;
static atomic_uint fired_1, fired_2;

static void on_alarm_1(void *opaque)
{
	fired_1++;
}

/* Sets itself again, ten times. */
static void on_alarm_2(void *opaque)
{
	if (++fired_2 < 10)
		vclock_alarm_set(alarm_2, vclock_now(guest_clock) + 100000);
}

static void pause_ms(unsigned ms)
{
	nanosleep(&(struct timespec){ 0, ms * 1000000 }, NULL);
}

static void await(atomic_uint *what, unsigned n)
{
	for (unsigned i = 0; i < 5000 && *what < n; i++)
		pause_ms(1);
	assert_int_equal(*what, n);
}

static void test_stopping(void **state)
{
	uint64_t t;

	guest_clock = vclock_new(NULL);
	assert_int_equal(vclock_now(guest_clock), 0);
	assert_true(vclock_to_host(guest_clock, 5) == VCLOCK_NEVER);
	vclock_go(guest_clock);
	vclock_go(guest_clock);
	pause_ms(2);
	t = vclock_now(guest_clock);
	assert_true(t >= 2000000);
	vclock_stop(guest_clock);
	t = vclock_now(guest_clock);
	pause_ms(5);
	assert_int_equal(vclock_now(guest_clock), t);
	vclock_stop(guest_clock);
	vclock_go(guest_clock);
	assert_true(vclock_now(guest_clock) >= t);
	assert_true(vclock_now(guest_clock) < now_ns());
	vclock_free(guest_clock);
}

static void test_alarms(void **state)
{
	guest_clock = vclock_new(NULL);
	alarm_1 = vclock_alarm_new(guest_clock, on_alarm_1, NULL);
	alarm_2 = vclock_alarm_new(guest_clock, on_alarm_2, NULL);
	assert_int_equal(vclock_start_thread(guest_clock, NULL, NULL), 0);
	vclock_alarm_set(alarm_1, 1000000);
	pause_ms(5);
	assert_int_equal(fired_1, 0);
	vclock_go(guest_clock);
	await(&fired_1, 1);
	/* An earlier one wakes the sleeper. */
	vclock_alarm_set(alarm_1, vclock_now(guest_clock) + 3600 * UINT64_C(1000000000));
	pause_ms(2);
	vclock_alarm_set(alarm_2, vclock_now(guest_clock) + 100000);
	await(&fired_2, 10);
	assert_int_equal(fired_1, 1);
	/* What is taken back does not come. */
	vclock_alarm_set(alarm_1, vclock_now(guest_clock) + 20000000);
	vclock_alarm_set(alarm_1, VCLOCK_NEVER);
	pause_ms(30);
	assert_int_equal(fired_1, 1);
	for (unsigned i = 2; i < 100; i++) {
		vclock_alarm_set(alarm_1, vclock_now(guest_clock) + i % 3 * 10000);
		await(&fired_1, i);
	}
	vclock_end_thread(guest_clock);
	vclock_free(guest_clock);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_stopping),
		cmocka_unit_test(test_alarms),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
