/* The small ISA devices that tests and panicking guests use. */
#include "platform_fixture.h"

static void test_debugcon(void **state)
{
	plug(&isa_debugcon_class, "chardev=chr");
	assert_int_equal(in(0xe9), 0xe9);
	for (const char *c = "text"; *c; c++)
		out(0xe9, *c);
	assert_int_equal(test_chardev.n_out, 4);
	assert_memory_equal(test_chardev.out, "text", 4);
	test_chardev.room = 0;
	out(0xe9, 'x'); /* lost, and nothing waits */
	assert_int_equal(test_chardev.handler->can_receive(test_chardev.opaque), 0);
}

static void test_debugcon_elsewhere(void **state)
{
	plug(&isa_debugcon_class, "chardev=chr,iobase=0x402,readback=0x12");
	assert_int_equal(in(0x402), 0x12);
	assert_int_equal(in(0xe9), 0xff);
}

static void test_debug_exit(void **state)
{
	plug(&isa_debug_exit_class, "");
	assert_int_equal(in(0x501), 0);
	out(0x501, 0);
	assert_int_equal(happened.status, 1);
	out(0x502, 0x10);
	assert_int_equal(happened.status, 0x21);
	bus_write(m.io, 0x501, 2, 0x1ff);
	assert_int_equal(happened.status, 0xff);
	assert_int_equal(happened.exits, 3);
}

static void test_debug_exit_elsewhere(void **state)
{
	plug(&isa_debug_exit_class, "iobase=0xf4,iosize=4");
	bus_write(m.io, 0xf4, 4, 0x31);
	assert_int_equal(happened.status, 0x63);
}

static void test_pvpanic(void **state)
{
	plug(&pvpanic_class, "");
	assert_int_equal(in(0x505), 3);
	out(0x505, 4);
	assert_int_equal(happened.panics, 0);
	out(0x505, 2);
	assert_int_equal(happened.panics, 1);
	assert_string_equal(happened.action, "run");
	out(0x505, 1);
	assert_int_equal(happened.panics, 2);
	assert_string_equal(happened.action, "poweroff");
}

static void test_testdev_word(void **state)
{
	plug(&pc_testdev_class, "");
	bus_write(m.io, 0xe0, 4, 0x12345678);
	assert_int_equal(bus_read(m.io, 0xe0, 4), 0x12345678);
	assert_int_equal(bus_read(m.io, 0xe2, 2), 0x1234);
	out(0xe1, 0xff);
	assert_int_equal(bus_read(m.io, 0xe8, 4), 0x1234ff78);
	out(0xeb, 0xab);
	assert_int_equal(bus_read(m.io, 0xe0, 4), 0xab34ff78);
	bus_write(m.io, 0xe4, 4, 0x1000);
}

static void test_testdev_irqs(void **state)
{
	plug(&pc_testdev_class, "");
	out(0x2000 + 14, 1);
	assert_true(irq_is_high(14));
	out(0x2000 + 23, 1);
	assert_true(irq_is_high(23));
	out(0x2000 + 14, 0);
	assert_false(irq_is_high(14));
	machine_reset_devices(&m);
	assert_false(irq_is_high(23));
}

static void test_testdev_memory(void **state)
{
	plug(&pc_testdev_class, "");
	bus_write(m.memory, 0xff000000, 8, 0x1122334455667788);
	assert_true(bus_read(m.memory, 0xff000000, 8) == 0x1122334455667788);
	assert_int_equal(bus_read(m.memory, 0xff000003, 2), 0x4455);
	bus_write(m.memory, 0xff00ffff, 1, 0x5a);
	assert_int_equal(bus_read(m.memory, 0xff00ffff, 1), 0x5a);
}

/* kvm-unit-tests run with both, and expect the debug console at its port. */
static void test_testdev_beside_debugcon(void **state)
{
	plug(&isa_debugcon_class, "chardev=chr");
	plug(&pc_testdev_class, "");
	assert_int_equal(in(0xe9), 0xe9);
	out(0xe9, 'x');
	assert_int_equal(test_chardev.n_out, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		MACHINE_TEST(test_debugcon),
		MACHINE_TEST(test_debugcon_elsewhere),
		MACHINE_TEST(test_debug_exit),
		MACHINE_TEST(test_debug_exit_elsewhere),
		MACHINE_TEST(test_pvpanic),
		MACHINE_TEST(test_testdev_word),
		MACHINE_TEST(test_testdev_irqs),
		MACHINE_TEST(test_testdev_memory),
		MACHINE_TEST(test_testdev_beside_debugcon),
	};

	return RUN_TESTS("isa", tests);
}
