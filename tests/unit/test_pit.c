/* The 8254 and port 0x61. */
#include "controllers.h"

#include "machine/pit.h"

static struct pit *pit;
static uint64_t deadline;
static unsigned rises;
static bool line;

static void on_irq(void *opaque, bool level)
{
	rises += level && !line;
	line = level;
}

static void on_arm(void *opaque, uint64_t when)
{
	deadline = when;
}

static int setup(void **state)
{
	test_now = 5000;
	line = false;
	pit = pit_new(&(struct pit_host){ NULL, read_now, on_irq, on_arm });
	rises = 0;
	return 0;
}

static int teardown(void **state)
{
	pit_free(pit);
	return 0;
}

static void program(unsigned counter, unsigned mode, uint16_t count)
{
	pit_write(pit, 3, counter << 6 | 3 << 4 | mode << 1);
	rises = 0;
	pit_write(pit, counter, count);
	pit_write(pit, counter, count >> 8);
}

static uint16_t count(unsigned counter)
{
	uint16_t low;

	pit_write(pit, 3, counter << 6);
	low = pit_read(pit, counter);
	return low | pit_read(pit, counter) << 8;
}

static void go(uint64_t ns)
{
	test_now += ns;
	if (test_now >= deadline)
		pit_run(pit);
}

static void test_periodic(void **state)
{
	program(0, 2, 11932); /* 100 Hz */
	assert_in_range(deadline, test_now + 10000000, test_now + 10000200);
	go(5000000);
	assert_in_range(count(0), 5960, 5972);
	assert_int_equal(rises, 0);
	for (unsigned i = 0; i < 10; i++) {
		test_now = deadline;
		pit_run(pit);
	}
	assert_int_equal(rises, 10);
	assert_in_range(test_now, 5000 + 100000000, 5000 + 100000000 + 5000);
	/* Late: the next one comes when it should. */
	go(35000000);
	assert_int_equal(rises, 11);
	assert_in_range(deadline, 5000 + 140000000, 5000 + 140006000);
	program(0, 3, 0);
	assert_in_range(deadline, test_now + 54925000, test_now + 54926000);
	program(0, 2, 1);
	assert_true(deadline >= test_now + 50000);
}

static void test_one_shot(void **state)
{
	program(0, 0, 1193);
	assert_false(line);
	go(999000);
	assert_int_equal(rises, 0);
	go(1000);
	assert_int_equal(rises, 1);
	assert_true(deadline == UINT64_MAX);
	assert_true(line);
	go(1000000);
	assert_int_equal(rises, 1);
	assert_in_range(count(0), 65536 - 1200, 65536 - 1190);
	program(0, 4, 1193);
	go(1001000);
	assert_int_equal(rises, 1);
}

/* As Linux calibrates the TSC. */
static void test_speaker(void **state)
{
	pit_write_port61(pit, (pit_read_port61(pit) & ~2) | 1);
	program(2, 0, 11932);
	assert_int_equal(pit_read_port61(pit) & 0x23, 1);
	go(9990000);
	assert_int_equal(pit_read_port61(pit) & 0x20, 0);
	go(20000);
	assert_int_equal(pit_read_port61(pit) & 0x20, 0x20);
	/* The gate holds it. */
	program(2, 0, 11932);
	go(5000000);
	pit_write_port61(pit, 0);
	go(50000000);
	assert_in_range(count(2), 5960, 5972);
	pit_write_port61(pit, 1);
	go(4000000);
	assert_int_equal(pit_read_port61(pit) & 0x20, 0);
	go(1010000);
	assert_int_equal(pit_read_port61(pit) & 0x20, 0x20);
}

static void test_access(void **state)
{
	uint8_t status;

	program(0, 2, 0x1234);
	pit_write(pit, 3, 0xc2); /* read back count and status of counter 0 */
	status = pit_read(pit, 0);
	assert_int_equal(status & 0x7f, 0x34);
	assert_int_equal(pit_read(pit, 0), 0x34);
	assert_int_equal(pit_read(pit, 0), 0x12);
	/* A latched count stays, however much time goes by. */
	pit_write(pit, 3, 0);
	go(100000);
	assert_int_equal(pit_read(pit, 0), 0x34);
	assert_int_equal(pit_read(pit, 0), 0x12);
	/* Low byte only, high byte only, and BCD. */
	pit_write(pit, 3, 0x14);
	pit_write(pit, 0, 0x80);
	assert_int_equal(pit_read(pit, 0), 0x80);
	assert_int_equal(pit_read(pit, 0), 0x80);
	pit_write(pit, 3, 0x24);
	pit_write(pit, 0, 0x80);
	assert_int_equal(pit_read(pit, 0), 0x80);
	pit_write(pit, 3, 0x31);
	pit_write(pit, 0, 0x34);
	pit_write(pit, 0, 0x12);
	pit_write(pit, 3, 0);
	assert_int_equal(pit_read(pit, 0), 0x34);
	assert_int_equal(pit_read(pit, 0), 0x12);
	/* Before it is given a count, nothing counts. */
	pit_write(pit, 3, 0x70);
	assert_int_equal(count(1), 0);
	for (unsigned v = 0; v < 256; v++) {
		pit_write(pit, 3, v);
		pit_write(pit, v % 3, v);
		pit_write(pit, v % 3, v);
		go(v * 1000);
		pit_read(pit, v % 3);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_periodic, setup, teardown),
		cmocka_unit_test_setup_teardown(test_one_shot, setup, teardown),
		cmocka_unit_test_setup_teardown(test_speaker, setup, teardown),
		cmocka_unit_test_setup_teardown(test_access, setup, teardown),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
