/* The HPET: counter, one-shot and periodic timers, routes. */
#include "controllers.h"

#include "machine/hpet.h"

static struct hpet *hpet;
static uint64_t deadline;
static unsigned rises[32];
static bool high[32], legacy;

static void on_irq(void *opaque, unsigned timer, unsigned gsi, bool level)
{
	assert_true(high[gsi] != level);
	rises[gsi] += level;
	high[gsi] = level;
}

static void on_arm(void *opaque, uint64_t when)
{
	deadline = when;
}

static void on_legacy(void *opaque, bool on)
{
	legacy = on;
}

static int setup(void **state)
{
	test_now = 123456780;
	memset(rises, 0, sizeof(rises));
	memset(high, 0, sizeof(high));
	hpet = hpet_new(&(struct hpet_host){ NULL, read_now, on_irq, on_arm, on_legacy });
	return 0;
}

static int teardown(void **state)
{
	hpet_free(hpet);
	return 0;
}

static void w(unsigned reg, uint64_t value)
{
	hpet_write(hpet, reg, 8, value);
}

static uint64_t r(unsigned reg)
{
	return hpet_read(hpet, reg, 8);
}

static void go(uint64_t ns)
{
	test_now += ns;
	if (test_now >= deadline)
		hpet_run(hpet);
}

static void test_counter(void **state)
{
	assert_true(r(0) == (UINT64_C(10000000) << 32 | 0x8086a201));
	assert_int_equal(r(0xf0), 0);
	go(1000);
	assert_int_equal(r(0xf0), 0);
	w(0x10, 1);
	go(1000);
	assert_int_equal(r(0xf0), 100);
	w(0x10, 0);
	go(1000);
	assert_int_equal(r(0xf0), 100);
	w(0xf0, UINT64_C(0x1ffffffff));
	assert_int_equal(hpet_read(hpet, 0xf4, 4), 1);
	hpet_write(hpet, 0xf0, 4, 7);
	assert_true(r(0xf0) == UINT64_C(0x100000007));
	assert_int_equal(hpet_read(hpet, 0x3fc, 4), 0);
	assert_int_equal(hpet_read(hpet, 0x160, 8), 0);
	w(0x160, 1);
	hpet_write(hpet, 0xf1, 2, 1);
}

/* As Linux has timer 0: legacy route, 32 bits. */
static void test_one_shot(void **state)
{
	w(0x10, 3);
	assert_true(legacy);
	w(0x100, 0x104);
	hpet_write(hpet, 0x108, 4, (uint32_t)r(0xf0) + 1000);
	assert_int_equal(deadline, test_now + 10000);
	go(9990);
	assert_int_equal(rises[0], 0);
	go(10);
	assert_int_equal(rises[0], 1);
	assert_false(high[0]);
	/* A value that has passed comes again when the counter has wrapped. */
	hpet_write(hpet, 0x108, 4, (uint32_t)r(0xf0) - 1);
	assert_true(deadline > test_now + UINT64_C(42000000000));
	w(0x100, 0);
	assert_true(deadline == UINT64_MAX);
}

static void test_periodic(void **state)
{
	w(0x10, 1);
	/* Timer 1 to GSI 20, edge, periodic. */
	w(0x120, 20 << 9 | 0x4c);
	w(0x128, 100000);
	w(0x128, 100000);
	assert_int_equal(deadline, test_now + 1000000);
	for (unsigned i = 0; i < 5; i++)
		go(deadline - test_now);
	assert_int_equal(rises[20], 5);
	/* Late: once. */
	go(3500000);
	assert_int_equal(rises[20], 6);
	assert_int_equal(deadline, test_now + 500000);
	w(0x128, 0);
	go(1000000);
	assert_true(deadline >= test_now + 50000);
}

static void test_level(void **state)
{
	w(0x10, 1);
	w(0x140, 17 << 9 | 0x06);
	w(0x148, 1000);
	go(10000);
	assert_true(high[17]);
	assert_int_equal(r(0x20), 4);
	w(0x20, 3);
	assert_true(high[17]);
	w(0x20, 4);
	assert_false(high[17]);
	/* A route to nowhere is refused. */
	w(0x140, 11 << 9 | 4);
	assert_int_equal(r(0x140) >> 9 & 31, 0);
	hpet_reset(hpet);
	assert_true(deadline == UINT64_MAX);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_counter, setup, teardown),
		cmocka_unit_test_setup_teardown(test_one_shot, setup, teardown),
		cmocka_unit_test_setup_teardown(test_periodic, setup, teardown),
		cmocka_unit_test_setup_teardown(test_level, setup, teardown),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
