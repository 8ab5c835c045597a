/* Power: the ACPI block, reset ports, keyboard controller. */
#include "platform_fixture.h"

#include "machine/pm.h"

#define PM MACHINE_PM_BASE

static uint16_t in16(uint16_t port)
{
	return bus_read(m.io, port, 2);
}

static void out16(uint16_t port, uint16_t value)
{
	bus_write(m.io, port, 2, value);
}

static uint32_t timer(void)
{
	return bus_read(m.io, PM + PM_TIMER, 4);
}

static void test_power_off(void **state)
{
	plug(&acpi_pm_class, "");
	assert_int_equal(in16(PM + PM_CONTROL), 0x0001);
	out16(PM + PM_CONTROL, 3 << 10 | 0x2000);
	assert_int_equal(happened.shutdowns, 0);
	out16(PM + PM_CONTROL, 5 << 10);
	assert_int_equal(happened.shutdowns, 0);
	assert_int_equal(in16(PM + PM_CONTROL), 0x1401);
	out16(PM + PM_CONTROL, 5 << 10 | 0x2000);
	assert_int_equal(happened.shutdowns, 1);
	assert_int_equal(happened.cause, CAUSE_GUEST_SHUTDOWN);
	assert_int_equal(in16(PM + PM_CONTROL), 0x1401);
	/* QEMU's S5 */
	out16(PM + PM_CONTROL, 0x2000);
	assert_int_equal(happened.shutdowns, 2);
	/* A byte at a time, and the words around it at once */
	out(PM + PM_CONTROL + 1, 0x34);
	assert_int_equal(happened.shutdowns, 3);
	bus_write(m.io, PM + PM_CONTROL, 4, 5 << 10 | 0x2000);
	assert_int_equal(happened.shutdowns, 4);
}

static void test_power_button(void **state)
{
	plug(&acpi_pm_class, "");
	m.power_button(&m);
	assert_int_equal(in16(PM) & 0x0100, 0x0100);
	assert_false(irq_is_high(MACHINE_SCI_GSI));
	out16(PM + 2, 0x0100);
	assert_true(irq_is_high(MACHINE_SCI_GSI));
	out16(PM, 0x0100);
	assert_false(irq_is_high(MACHINE_SCI_GSI));
	assert_int_equal(in16(PM) & 0x0100, 0);
	m.power_button(&m);
	assert_true(irq_is_high(MACHINE_SCI_GSI));
	machine_reset_devices(&m);
	assert_false(irq_is_high(MACHINE_SCI_GSI));
	assert_int_equal(in16(PM + 2), 0);
}

static void test_timer(void **state)
{
	uint32_t before, after;

	plug(&acpi_pm_class, "");
	before = timer();
	usleep(100000);
	after = timer();
	assert_in_range(after - before, PM_TIMER_HZ / 10, PM_TIMER_HZ / 2);
	bus_write(m.io, PM + PM_TIMER, 4, 0);
	assert_in_range(timer() - after, 0, PM_TIMER_HZ / 2);
	machine_pause_devices(&m);
	after = timer();
	usleep(300000);
	machine_resume_devices(&m);
	assert_in_range(timer() - after, 0, PM_TIMER_HZ / 5);
	/* Its interrupt is minutes away: enabling it arms the loop and nothing else. */
	out16(PM + 2, 0x0001);
	run_loop(2);
	out16(PM + 2, 0);
	run_loop(2);
}

static void test_general_purpose_events(void **state)
{
	plug(&acpi_pm_class, "");
	out(PM + PM_GPE0 + 8, 0xff);
	assert_int_equal(in(PM + PM_GPE0 + 8), 0xff);
	assert_int_equal(in(PM + PM_GPE0), 0);
	out(PM + PM_GPE0, 0xff);
	assert_int_equal(in(PM + PM_GPE0), 0);
	assert_false(irq_is_high(MACHINE_SCI_GSI));
	out(PM + 0x10, 0xff);
	assert_int_equal(in(PM + 0x10), 0);
}

static void test_reset_control(void **state)
{
	plug(&reset_ports_class, "");
	out(0xcf9, 0x02);
	assert_int_equal(happened.resets, 0);
	assert_int_equal(in(0xcf9), 0x02);
	out(0xcf9, 0x06);
	assert_int_equal(happened.resets, 1);
	assert_int_equal(happened.cause, CAUSE_GUEST_RESET);
	assert_int_equal(in(0xcf9), 0x02);
	out(0xcf9, 0x0e);
	assert_int_equal(happened.resets, 2);
	machine_reset_devices(&m);
	assert_int_equal(in(0xcf9), 0);
}

static void test_port_92(void **state)
{
	plug(&reset_ports_class, "");
	assert_int_equal(in(0x92), 0x02);
	out(0x92, 0x00);
	assert_int_equal(happened.resets, 0);
	out(0x92, 0x03);
	assert_int_equal(happened.resets, 1);
	assert_int_equal(in(0x92), 0x03);
	out(0x92, 0x03);
	assert_int_equal(happened.resets, 1);
}

/* Both reset ports stay reachable beside PCI's address register. */
static void test_reset_control_beside_pci(void **state)
{
	static const struct pci_windows windows = { .ecam_base = MACHINE_ECAM_BASE };

	m.pci = pci_host_new(m.io, m.memory, &m.irqs, &windows, NULL);
	assert_non_null(m.pci);
	plug(&reset_ports_class, "");
	bus_write(m.io, 0xcf8, 4, 0x80000600);
	assert_int_equal(bus_read(m.io, 0xcf8, 4), 0x80000600);
	assert_int_equal(happened.resets, 0);
	out(0xcf9, 0x06);
	assert_int_equal(happened.resets, 1);
}

/* --- Keyboard controller ---- */

static uint8_t command(uint8_t cmd)
{
	out(0x64, cmd);
	assert_int_equal(in(0x64) & 1, 1);
	return in(0x60);
}

static void test_keyboard_controller(void **state)
{
	plug(&i8042_class, "");
	assert_int_equal(in(0x64) & 0x01, 0);
	assert_int_equal(command(0xaa), 0x55);
	assert_int_equal(in(0x64) & 0x05, 0x04);
	assert_int_equal(command(0xab), 0x00);
	assert_int_not_equal(command(0xa9), 0x00);
	out(0x64, 0x60);
	out(0x60, 0x74);
	assert_int_equal(command(0x20), 0x74);
	assert_int_equal(command(0xd0) & 0x03, 0x03);
	assert_false(irq_is_high(1));
}

/* What is sent to the absent keyboard comes back as a time-out, with an interrupt if enabled. */
static void test_no_keyboard(void **state)
{
	plug(&i8042_class, "");
	out(0x64, 0x60);
	out(0x60, 0x01);
	out(0x60, 0xf2);
	assert_int_equal(in(0x64) & 0x61, 0x41);
	assert_true(irq_is_high(1));
	assert_int_equal(in(0x60), 0xfe);
	assert_int_equal(in(0x64) & 0x61, 0);
	assert_false(irq_is_high(1));
	/* Linux's test for an auxiliary port: a byte that comes back without the AUX bit. */
	out(0x64, 0xd3);
	out(0x60, 0x5a);
	assert_int_equal(in(0x64) & 0x21, 0x01);
	assert_int_equal(in(0x60), 0x5a);
	out(0x64, 0xd4);
	out(0x60, 0xf2);
	assert_int_equal(in(0x64) & 0x61, 0x61);
	assert_int_equal(in(0x60), 0xfe);
}

static void test_keyboard_controller_resets(void **state)
{
	plug(&i8042_class, "");
	out(0x64, 0xff);
	assert_int_equal(happened.resets, 0);
	out(0x64, 0xfe);
	assert_int_equal(happened.resets, 1);
	out(0x64, 0xd1);
	out(0x60, 0xdf);
	assert_int_equal(happened.resets, 1);
	out(0x64, 0xd1);
	out(0x60, 0xde);
	assert_int_equal(happened.resets, 2);
	assert_int_equal(happened.cause, CAUSE_GUEST_RESET);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		MACHINE_TEST(test_power_off),
		MACHINE_TEST(test_power_button),
		MACHINE_TEST(test_timer),
		MACHINE_TEST(test_general_purpose_events),
		MACHINE_TEST(test_reset_control),
		MACHINE_TEST(test_port_92),
		MACHINE_TEST(test_reset_control_beside_pci),
		MACHINE_TEST(test_keyboard_controller),
		MACHINE_TEST(test_no_keyboard),
		MACHINE_TEST(test_keyboard_controller_resets),
	};

	return RUN_TESTS("pm", tests);
}
