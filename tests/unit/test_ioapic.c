/* The IOAPIC: what its pins become, and when. */
#include "controllers.h"

#include "machine/ioapic.h"

static struct ioapic *io;
static unsigned n_sent, n_routes;
static uint64_t sent_address, routed_address;
static uint32_t sent_data;

static void on_send(void *opaque, uint64_t address, uint32_t data)
{
	n_sent++;
	sent_address = address;
	sent_data = data;
}

static void on_route(void *opaque, unsigned pin, uint64_t address, uint32_t data)
{
	n_routes++;
	routed_address = address;
}

static void w(unsigned reg, uint32_t value)
{
	ioapic_write(io, 0, reg);
	ioapic_write(io, 0x10, value);
}

static uint32_t r(unsigned reg)
{
	ioapic_write(io, 0, reg);
	return ioapic_read(io, 0x10);
}

static int setup(void **state)
{
	n_sent = n_routes = 0;
	io = ioapic_new(&(struct ioapic_host){ NULL, on_send, on_route });
	return 0;
}

static int teardown(void **state)
{
	ioapic_free(io);
	return 0;
}

static void test_registers(void **state)
{
	assert_int_equal(r(1), 0x170020);
	w(0, 0xffffffff);
	assert_int_equal(r(0), 0x0f000000);
	assert_int_equal(r(0x10), 0x10000);
	w(0x3e, 0xffffffff);
	w(0x3f, 0xffffffff);
	assert_int_equal(r(0x3e), 0x1afff);
	assert_int_equal(r(0x3f), 0xff000000);
	w(0x40, 1);
	assert_int_equal(r(0x40), 0);
	assert_int_equal(r(0xff), 0);
	ioapic_set(io, 24, true);
	ioapic_set(io, 255, true);
	assert_int_equal(n_sent, 0);
}

static void test_edge(void **state)
{
	w(0x19, 0x03000000);
	w(0x18, 0x0834);
	ioapic_set(io, 4, true);
	ioapic_set(io, 4, true);
	assert_int_equal(n_sent, 1);
	assert_int_equal(sent_address, 0xfee03004);
	assert_int_equal(sent_data, 0x34);
	ioapic_set(io, 4, false);
	ioapic_set(io, 4, true);
	assert_int_equal(n_sent, 2);
	/* While masked, it is kept. */
	w(0x18, 0x10834);
	ioapic_set(io, 4, false);
	ioapic_set(io, 4, true);
	ioapic_set(io, 4, false);
	assert_int_equal(n_sent, 2);
	w(0x18, 0x0834);
	assert_int_equal(n_sent, 3);
	w(0x18, 0x0834);
	assert_int_equal(n_sent, 3);
	assert_int_equal(n_routes, 0);
}

static void test_level(void **state)
{
	w(0x22, 0x8051);
	assert_int_equal(n_routes, 1);
	assert_true(routed_address == 0xfee00000);
	ioapic_set(io, 9, true);
	assert_int_equal(n_sent, 1);
	assert_int_equal(sent_data, 0xc051);
	assert_int_equal(r(0x22), 0xc051);
	ioapic_set(io, 9, false);
	ioapic_set(io, 9, true);
	assert_int_equal(n_sent, 1);
	ioapic_eoi(io, 0x50);
	assert_int_equal(n_sent, 1);
	ioapic_eoi(io, 0x51);
	assert_int_equal(n_sent, 2);
	ioapic_set(io, 9, false);
	ioapic_write(io, 0x40, 0x51);
	assert_int_equal(n_sent, 2);
	assert_int_equal(r(0x22), 0x8051);
	/* Masked while high: sent when unmasked. */
	w(0x22, 0x18051);
	ioapic_set(io, 9, true);
	assert_int_equal(n_sent, 2);
	w(0x22, 0x8051);
	assert_int_equal(n_sent, 3);
	/* Linux's way around a missing EOI register: edge and back. */
	w(0x22, 0x10051);
	w(0x22, 0x18051);
	assert_int_equal(r(0x22), 0x18051);
	assert_int_equal(n_routes, 3);
	ioapic_reset(io);
	assert_int_equal(n_routes, 4);
	assert_true(routed_address == 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_registers, setup, teardown),
		cmocka_unit_test_setup_teardown(test_edge, setup, teardown),
		cmocka_unit_test_setup_teardown(test_level, setup, teardown),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
