/* The 16550A: what drivers probe for, interrupts, back-pressure in both directions. */
#include "platform_fixture.h"

#define COM1 0x3f8

enum { RBR, IER, IIR, LCR, MCR, LSR, MSR, SCR };

static void plug_com1(void)
{
	plug(&isa_serial_class, "chardev=chr,index=0");
}

static void receive(const char *text)
{
	size_t room = test_chardev.handler->can_receive(test_chardev.opaque);

	assert_true(room >= strlen(text));
	test_chardev.handler->receive(test_chardev.opaque, (const uint8_t *)text, strlen(text));
}

/* The steps of Linux's and the BSDs' probes. */
static void test_is_a_16550a(void **state)
{
	plug_com1();
	out(COM1 + IER, 0xff);
	assert_int_equal(in(COM1 + IER), 0x0f);
	out(COM1 + IER, 0);
	assert_int_equal(in(COM1 + IER), 0);
	out(COM1 + SCR, 0xa5);
	assert_int_equal(in(COM1 + SCR), 0xa5);
	assert_int_equal(in(COM1 + IIR) & 0xc0, 0);
	out(COM1 + IIR, 0x01);
	assert_int_equal(in(COM1 + IIR), 0xc1);
	out(COM1 + IIR, 0x00);
	assert_int_equal(in(COM1 + IIR) & 0xc0, 0);
	out(COM1 + MCR, 0x1a);
	assert_int_equal(in(COM1 + MSR) & 0xf0, 0x90);
	out(COM1 + MCR, 0x15);
	assert_int_equal(in(COM1 + MSR) & 0xf0, 0x60);
	out(COM1 + MCR, 0x00);
	assert_int_equal(in(COM1 + MSR) & 0xf0, 0xb0);
}

static void test_divisor_latch(void **state)
{
	plug_com1();
	out(COM1 + LCR, 0x83);
	out(COM1, 0x0c);
	out(COM1 + IER, 0x01);
	assert_int_equal(in(COM1), 0x0c);
	assert_int_equal(in(COM1 + IER), 0x01);
	out(COM1 + LCR, 0x03);
	assert_int_equal(in(COM1 + IER), 0);
	assert_int_equal(test_chardev.n_out, 0);
}

static void test_output(void **state)
{
	plug_com1();
	for (const char *c = "hello"; *c; c++) {
		assert_int_equal(in(COM1 + LSR), 0x60);
		out(COM1, *c);
	}
	assert_int_equal(test_chardev.n_out, 5);
	assert_memory_equal(test_chardev.out, "hello", 5);
}

static void test_loopback(void **state)
{
	plug_com1();
	out(COM1 + MCR, 0x10);
	assert_int_equal(test_chardev.handler->can_receive(test_chardev.opaque), 0);
	out(COM1, 'x');
	assert_int_equal(test_chardev.n_out, 0);
	assert_int_equal(in(COM1 + LSR) & 1, 1);
	assert_int_equal(in(COM1), 'x');
	test_chardev.accepts = 0;
	out(COM1 + MCR, 0);
	assert_int_equal(test_chardev.accepts, 1);
}

static void test_transmitter_interrupt(void **state)
{
	plug_com1();
	assert_false(irq_is_high(4));
	out(COM1 + IER, 0x02);
	assert_true(irq_is_high(4));
	assert_int_equal(in(COM1 + IIR), 0x02);
	assert_false(irq_is_high(4));
	assert_int_equal(in(COM1 + IIR), 0x01);
	/* Again, as drivers test for. */
	out(COM1 + IER, 0);
	out(COM1 + IER, 0x02);
	assert_int_equal(in(COM1 + IIR), 0x02);
	out(COM1, 'a');
	assert_true(irq_is_high(4));
}

static void test_back_pressure(void **state)
{
	plug_com1();
	out(COM1 + IIR, 0x01);
	out(COM1 + IER, 0x02);
	in(COM1 + IIR);
	test_chardev.room = 2;
	for (const char *c = "abcde"; *c; c++)
		out(COM1, *c);
	assert_int_equal(test_chardev.n_out, 2);
	assert_int_equal(in(COM1 + LSR) & 0x60, 0);
	in(COM1 + IIR);
	assert_false(irq_is_high(4));
	test_chardev.room = 1;
	test_chardev.handler->writable(test_chardev.opaque);
	assert_false(irq_is_high(4));
	test_chardev.room = SIZE_MAX;
	test_chardev.handler->writable(test_chardev.opaque);
	assert_true(irq_is_high(4));
	assert_int_equal(in(COM1 + LSR) & 0x60, 0x60);
	assert_int_equal(test_chardev.n_out, 5);
	assert_memory_equal(test_chardev.out, "abcde", 5);
}

/* A guest that does not look at THRE loses what does not fit, and nothing else. */
static void test_output_overrun(void **state)
{
	plug_com1();
	test_chardev.room = 0;
	for (unsigned i = 0; i < 40; i++)
		out(COM1, 'a' + i % 26);
	test_chardev.room = SIZE_MAX;
	test_chardev.handler->writable(test_chardev.opaque);
	assert_int_equal(test_chardev.n_out, 16);
	assert_memory_equal(test_chardev.out, "abcdefghijklmnop", 16);
}

static void test_input(void **state)
{
	plug_com1();
	out(COM1 + IER, 0x01);
	assert_int_equal(test_chardev.handler->can_receive(test_chardev.opaque), 1);
	out(COM1 + IIR, 0x81); /* FIFO on, trigger level 8 */
	assert_int_equal(test_chardev.handler->can_receive(test_chardev.opaque), 16);
	receive("abc");
	assert_true(irq_is_high(4));
	assert_int_equal(in(COM1 + IIR), 0xcc); /* time-out */
	receive("defghijk");
	assert_int_equal(in(COM1 + IIR), 0xc4);
	assert_int_equal(test_chardev.handler->can_receive(test_chardev.opaque), 5);
	test_chardev.accepts = 0;
	for (const char *c = "abcdefghijk"; *c; c++) {
		assert_int_equal(in(COM1 + LSR) & 1, 1);
		assert_int_equal(in(COM1), *c);
	}
	assert_int_equal(in(COM1 + LSR) & 1, 0);
	assert_int_equal(test_chardev.accepts, 1);
	assert_false(irq_is_high(4));
}

static void test_input_fifo_clear(void **state)
{
	plug_com1();
	out(COM1 + IIR, 0x01);
	receive("abcdefghijklmnop");
	assert_int_equal(test_chardev.handler->can_receive(test_chardev.opaque), 0);
	test_chardev.accepts = 0;
	out(COM1 + IIR, 0x03);
	assert_int_equal(in(COM1 + LSR), 0x60);
	assert_int_equal(test_chardev.accepts, 1);
}

static void test_break(void **state)
{
	plug_com1();
	out(COM1 + IER, 0x05);
	test_chardev.handler->event(test_chardev.opaque, CHARDEV_BREAK);
	assert_int_equal(in(COM1 + IIR), 0x06);
	assert_int_equal(in(COM1 + LSR) & 0x11, 0x11);
	assert_int_equal(in(COM1 + LSR) & 0x11, 0x01);
	assert_int_equal(in(COM1 + IIR), 0x04);
	assert_int_equal(in(COM1), 0);
	assert_int_equal(in(COM1 + IIR), 0x01);
}

static void test_modem_status_interrupt(void **state)
{
	plug_com1();
	out(COM1 + IER, 0x08);
	out(COM1 + MCR, 0x10);
	assert_true(irq_is_high(4));
	assert_int_equal(in(COM1 + IIR), 0x00);
	assert_int_equal(in(COM1 + MSR), 0x0b);
	assert_false(irq_is_high(4));
	assert_int_equal(in(COM1 + MSR), 0x00);
}

static void test_reset(void **state)
{
	plug_com1();
	out(COM1 + IIR, 0x01);
	out(COM1 + IER, 0x0f);
	receive("abc");
	machine_reset_devices(&m);
	assert_false(irq_is_high(4));
	assert_int_equal(in(COM1 + IER), 0);
	assert_int_equal(in(COM1 + LSR), 0x60);
	assert_int_equal(in(COM1 + IIR), 0x01);
}

static void test_places(void **state)
{
	plug(&isa_serial_class, "");
	plug(&isa_serial_class, "");
	plug(&isa_serial_class, "iobase=0x1000,irq=7");
	assert_int_equal(in(0x3f8 + LSR), 0x60);
	assert_int_equal(in(0x2f8 + LSR), 0x60);
	assert_int_equal(in(0x1000 + LSR), 0x60);
	out(0x2f8 + IER, 0x02);
	assert_true(irq_is_high(3));
	out(0x1000 + IER, 0x02);
	assert_true(irq_is_high(7));
	assert_int_equal(try_plug(&isa_serial_class, "index=0"), -1);
	assert_non_null(strstr(message, "overlaps"));
	plug(&isa_serial_class, "");
	plug(&isa_serial_class, "");
	assert_int_equal(try_plug(&isa_serial_class, ""), -1);
	assert_non_null(strstr(message, "COM1 to COM4 are taken"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		MACHINE_TEST(test_is_a_16550a),
		MACHINE_TEST(test_divisor_latch),
		MACHINE_TEST(test_output),
		MACHINE_TEST(test_loopback),
		MACHINE_TEST(test_transmitter_interrupt),
		MACHINE_TEST(test_back_pressure),
		MACHINE_TEST(test_output_overrun),
		MACHINE_TEST(test_input),
		MACHINE_TEST(test_input_fifo_clear),
		MACHINE_TEST(test_break),
		MACHINE_TEST(test_modem_status_interrupt),
		MACHINE_TEST(test_reset),
		MACHINE_TEST(test_places),
	};

	return RUN_TESTS("serial", tests);
}
