/* The clock: calendar, formats, freezing, alarms and flags, CMOS contents. */
#include "platform_fixture.h"

#include <time.h>

static uint8_t cmos(uint8_t reg)
{
	out(0x70, reg);
	return in(0x71);
}

static void set_cmos(uint8_t reg, uint8_t value)
{
	out(0x70, reg);
	out(0x71, value);
}

/* Seconds, minutes, hours, weekday, day, month, year, century. */
static const uint8_t time_regs[8] = { 0, 2, 4, 6, 7, 8, 9, 0x32 };

static void assert_time(const uint8_t expected[8])
{
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(cmos(time_regs[i]), expected[i]);
}

static void set_time(const uint8_t values[8])
{
	for (unsigned i = 0; i < 8; i++)
		set_cmos(time_regs[i], values[i]);
}

static void test_base_date(void **state)
{
	plug(&mc146818rtc_class, "base=2006-06-17T16:01:21");
	assert_time((uint8_t[]){ 0x21, 0x01, 0x16, 7, 0x17, 0x06, 0x06, 0x20 });
	assert_int_equal(cmos(0x0b), 0x02);
	assert_int_equal(cmos(0x0d), 0x80);
	assert_int_equal(cmos(0x0a) & 0x7f, 0x26);
}

static void test_base_errors(void **state)
{
	static const char *const bad[] = { "base=tomorrow", "base=2006-13-01", "base=2006-01-01T1",
					   "base=2006-01-01x", "base=2006-06-17T25:00:00" };

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(try_plug(&mc146818rtc_class, bad[i]), -1);
		assert_non_null(strstr(message, "is no time; there are: utc, localtime"));
	}
	plug(&mc146818rtc_class, "base=2006-06-17");
	assert_int_equal(cmos(4), 0);
}

static void test_utc_is_the_hosts(void **state)
{
	time_t before = time(NULL), after;
	struct tm tm = { 0 };

	plug(&mc146818rtc_class, "clock=rt");
	set_cmos(0x0b, 0x06); /* binary */
	tm.tm_sec = cmos(0);
	tm.tm_min = cmos(2);
	tm.tm_hour = cmos(4);
	tm.tm_mday = cmos(7);
	tm.tm_mon = cmos(8) - 1;
	tm.tm_year = cmos(9) + 100;
	after = time(NULL);
	assert_in_range(timegm(&tm), before - 1, after + 60);
}

/* Against the C library's calendar, day by day over leap years and centuries. */
static void test_calendar(void **state)
{
	plug(&mc146818rtc_class, "");
	set_cmos(0x0b, 0x86);
	for (time_t t = -2208988800 + 43200; t < 7258118400; t += 86400 * 61 + 3661) {
		struct tm tm;

		gmtime_r(&t, &tm);
		set_cmos(0x0b, 0x86);
		set_time((uint8_t[]){ tm.tm_sec, tm.tm_min, tm.tm_hour, 1, tm.tm_mday,
				      tm.tm_mon + 1, tm.tm_year % 100, 19 + tm.tm_year / 100 });
		set_cmos(0x0b, 0x06);
		assert_int_equal(cmos(6), tm.tm_wday + 1);
		assert_int_equal(cmos(7), tm.tm_mday);
		assert_int_equal(cmos(8), tm.tm_mon + 1);
		assert_int_equal(cmos(9), tm.tm_year % 100);
		assert_int_equal(cmos(0x32), 19 + tm.tm_year / 100);
		assert_int_equal(cmos(4), tm.tm_hour);
	}
}

static void test_twelve_hours(void **state)
{
	plug(&mc146818rtc_class, "base=2020-01-01T00:30:00");
	set_cmos(0x0b, 0x00);
	assert_int_equal(cmos(4), 0x12);
	set_cmos(4, 0x92);
	assert_int_equal(cmos(4), 0x92);
	set_cmos(0x0b, 0x02);
	assert_int_equal(cmos(4), 0x12);
	set_cmos(4, 0x23);
	set_cmos(0x0b, 0x00);
	assert_int_equal(cmos(4), 0x91);
}

static void test_set_freezes(void **state)
{
	plug(&mc146818rtc_class, "base=2020-02-29T23:59:58");
	set_cmos(0x0b, 0x82);
	set_time((uint8_t[]){ 0x59, 0x59, 0x23, 1, 0x29, 0x02, 0x20, 0x20 });
	usleep(1100000);
	assert_int_equal(cmos(0), 0x59);
	assert_int_equal(cmos(0x0a) & 0x80, 0);
	set_cmos(0x0b, 0x02);
	usleep(1100000);
	assert_int_equal(cmos(8), 0x03);
	assert_int_equal(cmos(7), 0x01);
	assert_int_equal(cmos(4), 0x00);
}

/* The first update comes half a second after the divider starts. */
static void test_divider(void **state)
{
	plug(&mc146818rtc_class, "");
	set_cmos(0x0a, 0x76);
	set_time((uint8_t[]){ 0x10, 0x00, 0x00, 1, 0x01, 0x01, 0x20, 0x20 });
	set_cmos(0x0a, 0x26);
	assert_int_equal(cmos(0), 0x10);
	usleep(560000);
	assert_in_range(cmos(0), 0x11, 0x12);
}

static void test_flags_without_interrupts(void **state)
{
	plug(&mc146818rtc_class, "base=2020-01-01T00:00:00");
	set_cmos(1, 0xff);
	set_cmos(3, 0xff);
	set_cmos(5, 0xff);
	cmos(0x0c);
	usleep(1020000);
	assert_int_equal(cmos(0x0c), 0x70); /* periodic, alarm, update; nothing enabled */
	assert_int_equal(cmos(0x0c) & 0x30, 0);
	assert_false(irq_is_high(8));
	/* Nothing was asked of the main loop. */
	run_loop(5);
	assert_false(irq_is_high(8));
}

static void test_update_interrupt(void **state)
{
	plug(&mc146818rtc_class, "");
	cmos(0x0c);
	set_cmos(0x0b, 0x12);
	run_loop(1100);
	assert_true(irq_is_high(8));
	assert_int_equal(cmos(0x0c) & 0x90, 0x90);
	assert_false(irq_is_high(8));
	run_loop(1100);
	assert_true(irq_is_high(8));
	machine_reset_devices(&m);
	assert_false(irq_is_high(8));
	run_loop(1100);
	assert_false(irq_is_high(8));
}

static void test_alarm(void **state)
{
	plug(&mc146818rtc_class, "base=2020-01-01T23:59:59");
	set_cmos(1, 0x00);
	set_cmos(3, 0x00);
	set_cmos(5, 0x00);
	cmos(0x0c);
	set_cmos(0x0b, 0x22);
	assert_false(irq_is_high(8));
	run_loop(1100);
	assert_true(irq_is_high(8));
	assert_int_equal(cmos(0x0c) & 0xa0, 0xa0);
	/* An hour that does not exist never comes. */
	set_cmos(5, 0x77);
	run_loop(1100);
	assert_false(irq_is_high(8));
}

static void test_periodic(void **state)
{
	unsigned interrupts = 0;

	plug(&mc146818rtc_class, "");
	set_cmos(0x0a, 0x2b); /* 32 Hz */
	cmos(0x0c);
	set_cmos(0x0b, 0x42);
	for (unsigned i = 0; i < 8; i++) {
		run_loop(34);
		interrupts += irq_is_high(8);
		assert_true(!irq_is_high(8) || cmos(0x0c) & 0x40);
	}
	assert_in_range(interrupts, 6, 8);
}

static void test_stopped_clock(void **state)
{
	uint8_t second;

	plug(&mc146818rtc_class, "clock=vm,base=2020-01-01T00:00:10");
	machine_pause_devices(&m);
	usleep(2100000);
	machine_resume_devices(&m);
	second = cmos(0);
	assert_in_range(second, 0x10, 0x11);
}

static void test_memory_bytes(void **state)
{
	plug(&mc146818rtc_class, "");
	assert_int_equal(cmos(0x15) | cmos(0x16) << 8, 640);
	assert_int_equal(cmos(0x17) | cmos(0x18) << 8, 0xffff);
	assert_int_equal(cmos(0x30) | cmos(0x31) << 8, 0xffff);
	assert_int_equal(cmos(0x34) | cmos(0x35) << 8, (2048 - 16) * 16);
	assert_int_equal(cmos(0x5b) | cmos(0x5c) << 8 | cmos(0x5d) << 16, 3 * 1024 * 16);
	assert_int_equal(cmos(0x5f), 3);
	set_cmos(0x44, 0x99);
	machine_reset_devices(&m);
	assert_int_equal(cmos(0xc4), 0x99); /* bit 7 of the index is not the clock's */
	assert_int_equal(in(0x70), 0xff);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		MACHINE_TEST(test_base_date),        MACHINE_TEST(test_base_errors),
		MACHINE_TEST(test_utc_is_the_hosts), MACHINE_TEST(test_calendar),
		MACHINE_TEST(test_twelve_hours),     MACHINE_TEST(test_set_freezes),
		MACHINE_TEST(test_divider),          MACHINE_TEST(test_flags_without_interrupts),
		MACHINE_TEST(test_update_interrupt), MACHINE_TEST(test_alarm),
		MACHINE_TEST(test_periodic),         MACHINE_TEST(test_stopped_clock),
		MACHINE_TEST(test_memory_bytes),
	};

	return RUN_TESTS("rtc", tests);
}
