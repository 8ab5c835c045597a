/* The two 8259As, set up as PCs do. */
#include "controllers.h"

#include "machine/pic.h"

static struct pic *pic;
static unsigned raised;

static void on_raised(void *opaque)
{
	raised++;
}

static void init(unsigned chip, uint8_t vector, uint8_t icw4)
{
	pic_write(pic, chip, 0, 0x11);
	pic_write(pic, chip, 1, vector);
	pic_write(pic, chip, 1, chip ? 2 : 4);
	pic_write(pic, chip, 1, icw4);
	pic_write(pic, chip, 1, 0);
}

static int setup(void **state)
{
	raised = 0;
	pic = pic_new(&(struct pic_host){ NULL, on_raised });
	init(0, 0x30, 1);
	init(1, 0x38, 1);
	return 0;
}

static int teardown(void **state)
{
	pic_free(pic);
	return 0;
}

static void test_reset(void **state)
{
	pic_reset(pic);
	for (unsigned i = 0; i < 20; i++)
		pic_set(pic, i, true);
	assert_false(pic_output(pic));
	assert_int_equal(pic_read(pic, 0, 1), 0xff);
}

static void test_edges(void **state)
{
	pic_set(pic, 4, true);
	assert_int_equal(raised, 1);
	assert_int_equal(pic_read(pic, 0, 0), 0x10);
	assert_int_equal(pic_acknowledge(pic), 0x34);
	assert_false(pic_output(pic));
	pic_write(pic, 0, 0, 0x0b);
	assert_int_equal(pic_read(pic, 0, 0), 0x10);
	/* Lower waits, higher does not. */
	pic_set(pic, 5, true);
	assert_false(pic_output(pic));
	pic_set(pic, 1, true);
	assert_int_equal(pic_acknowledge(pic), 0x31);
	pic_write(pic, 0, 0, 0x61);
	pic_write(pic, 0, 0, 0x20);
	assert_int_equal(pic_acknowledge(pic), 0x35);
	pic_write(pic, 0, 0, 0x20);
	assert_false(pic_output(pic));
}

static void test_cascade(void **state)
{
	pic_set(pic, 12, true);
	assert_true(pic_output(pic));
	assert_int_equal(pic_acknowledge(pic), 0x3c);
	pic_set(pic, 4, true);
	assert_false(pic_output(pic));
	pic_write(pic, 1, 0, 0x20);
	assert_false(pic_output(pic));
	pic_write(pic, 0, 0, 0x62);
	assert_int_equal(pic_acknowledge(pic), 0x34);
	pic_write(pic, 0, 0, 0x20);
	pic_write(pic, 1, 1, 0x20);
	pic_set(pic, 13, true);
	assert_false(pic_output(pic));
}

static void test_spurious(void **state)
{
	pic_set(pic, 3, true);
	pic_set(pic, 3, false);
	assert_int_equal(pic_acknowledge(pic), 0x33);
	pic_write(pic, 0, 0, 0x20);
	pic_write_elcr(pic, 0, 8);
	pic_set(pic, 3, true);
	pic_set(pic, 3, false);
	assert_int_equal(pic_acknowledge(pic), 0x37);
	pic_write_elcr(pic, 1, 4);
	pic_set(pic, 10, true);
	pic_set(pic, 10, false);
	assert_false(pic_output(pic));
	pic_write(pic, 0, 0, 0x0b);
	assert_int_equal(pic_read(pic, 0, 0), 0);
}

static void test_level(void **state)
{
	pic_write_elcr(pic, 1, 0xff);
	assert_int_equal(pic_read_elcr(pic, 1), 0xde);
	pic_write_elcr(pic, 0, 0xff);
	assert_int_equal(pic_read_elcr(pic, 0), 0xf8);
	pic_set(pic, 9, true);
	assert_int_equal(pic_acknowledge(pic), 0x39);
	pic_write(pic, 1, 0, 0x20);
	pic_write(pic, 0, 0, 0x20);
	assert_true(pic_output(pic));
	pic_set(pic, 9, false);
	assert_false(pic_output(pic));
}

static void test_modes(void **state)
{
	/* Automatic EOI with rotation: the one served has the lowest priority after it. */
	init(0, 0x30, 3);
	pic_write(pic, 0, 0, 0x80);
	pic_set(pic, 1, true);
	assert_int_equal(pic_acknowledge(pic), 0x31);
	pic_set(pic, 1, false);
	pic_set(pic, 1, true);
	pic_set(pic, 6, true);
	assert_int_equal(pic_acknowledge(pic), 0x36);
	assert_int_equal(pic_acknowledge(pic), 0x31);
	/* Poll. */
	pic_set(pic, 5, true);
	pic_write(pic, 0, 0, 0x0c);
	assert_int_equal(pic_read(pic, 0, 0), 0x85);
	pic_write(pic, 0, 0, 0x0c);
	assert_int_equal(pic_read(pic, 0, 0), 0);
	/* Special mask mode: a masked line that is served holds nobody back. */
	init(0, 0x30, 1);
	pic_set(pic, 0, true);
	assert_int_equal(pic_acknowledge(pic), 0x30);
	pic_set(pic, 7, true);
	assert_false(pic_output(pic));
	pic_write(pic, 0, 1, 1);
	pic_write(pic, 0, 0, 0x68);
	assert_int_equal(pic_acknowledge(pic), 0x37);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_reset, setup, teardown),
		cmocka_unit_test_setup_teardown(test_edges, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cascade, setup, teardown),
		cmocka_unit_test_setup_teardown(test_spurious, setup, teardown),
		cmocka_unit_test_setup_teardown(test_level, setup, teardown),
		cmocka_unit_test_setup_teardown(test_modes, setup, teardown),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
