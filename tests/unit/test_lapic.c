/* Local APICs: priorities, delivery, the timer, xAPIC and x2APIC as guests see them. */
#include "controllers.h"

#include "machine/lapic.h"

#define ID           0x020
#define VERSION      0x030
#define TPR          0x080
#define PPR          0x0a0
#define EOI          0x0b0
#define LDR          0x0d0
#define DFR          0x0e0
#define SVR          0x0f0
#define ISR          0x100
#define TMR          0x180
#define IRR          0x200
#define ESR          0x280
#define ICR          0x300
#define ICR2         0x310
#define LVTT         0x320
#define LINT0        0x350
#define LVTERR       0x370
#define TICR         0x380
#define TCCR         0x390
#define TDCR         0x3e0

#define APIC_BASE    0x1b
#define TSC_DEADLINE 0x6e0
#define X2(reg)      (0x800 + (reg) / 16)

static struct lapics *all;
static struct lapic *l;
static uint64_t tsc;
static unsigned notified[4], eois;
static uint8_t eoi_vector;

static uint64_t read_tsc(void *opaque, unsigned cpu)
{
	return tsc;
}

static void notify(void *opaque, unsigned cpu)
{
	notified[cpu]++;
}

static void on_eoi(void *opaque, uint8_t vector)
{
	eois++;
	eoi_vector = vector;
}

static void w(struct lapic *to, unsigned reg, uint32_t value)
{
	lapic_write(to, reg, 4, value);
}

static uint32_t r(struct lapic *from, unsigned reg)
{
	return lapic_read(from, reg, 4);
}

static int setup(void **state)
{
	const uint32_t ids[] = { 0, 1, 2, 5 };
	const struct lapic_host host = { NULL, read_now, read_tsc, notify, on_eoi };

	test_now = 1000;
	tsc = 0;
	all = lapics_new(ids, 4, 2000000, &host);
	l = &all->lapic[0];
	for (unsigned i = 0; i < 4; i++)
		w(&all->lapic[i], SVR, 0x1ff);
	memset(notified, 0, sizeof(notified));
	eois = 0;
	return 0;
}

static int teardown(void **state)
{
	lapics_free(all);
	return 0;
}

/* A message of a device: fixed, physical. */
static void msi(unsigned dest, uint8_t vector)
{
	lapics_message(all, 0xfee00000 | dest << 12, vector);
}

static void test_reset(void **state)
{
	uint64_t base;

	lapic_reset(l);
	assert_int_equal(r(l, VERSION), 0x00050014);
	assert_int_equal(r(l, SVR), 0xff);
	assert_int_equal(r(l, LVTT), 0x10000);
	assert_int_equal(r(l, DFR), 0xffffffff);
	assert_int_equal(r(&all->lapic[3], ID), 5u << 24);
	assert_true(lapic_read_msr(l, APIC_BASE, &base));
	assert_int_equal(base, 0xfee00900);
	assert_true(lapic_read_msr(&all->lapic[1], APIC_BASE, &base));
	assert_int_equal(base, 0xfee00800);
	/* The PICs reach the bootstrap processor, and no other. */
	assert_true(lapic_accepts_pic(l));
	assert_false(lapic_accepts_pic(&all->lapic[1]));
	/* Off, it takes no vectors. */
	msi(0, 0x40);
	assert_int_equal(lapic_pending(l), -1);
}

static void test_priorities(void **state)
{
	msi(0, 0x41);
	msi(0, 0x52);
	assert_int_equal(notified[0], 2);
	assert_int_equal(lapic_pending(l), 0x52);
	lapic_accept(l, 0x52);
	assert_int_equal(r(l, PPR), 0x50);
	assert_int_equal(r(l, ISR + 0x20), 1u << 18);
	assert_int_equal(r(l, IRR + 0x20), 1u << 1);
	assert_int_equal(lapic_pending(l), -1);
	/* Of the same class: it waits, and nobody is disturbed. */
	msi(0, 0x5f);
	assert_int_equal(lapic_pending(l), -1);
	assert_int_equal(notified[0], 2);
	msi(0, 0x60);
	assert_int_equal(lapic_pending(l), 0x60);
	assert_int_equal(notified[0], 3);
	lapic_accept(l, 0x60);
	w(l, EOI, 0);
	w(l, EOI, 0);
	assert_int_equal(lapic_pending(l), 0x5f);
	w(l, TPR, 0x5a);
	assert_int_equal(r(l, PPR), 0x5a);
	assert_int_equal(lapic_pending(l), -1);
	assert_int_equal(lapic_cr8(l), 5);
	lapic_set_cr8(l, 5);
	assert_int_equal(r(l, TPR), 0x5a);
	lapic_set_cr8(l, 3);
	assert_int_equal(r(l, TPR), 0x30);
	assert_int_equal(lapic_pending(l), 0x5f);
	assert_int_equal(eois, 0);
}

static void test_level_eoi(void **state)
{
	lapics_message(all, 0xfee00000, 0xc000 | 0x71);
	assert_int_equal(r(l, TMR + 0x30), 1u << 17);
	lapic_accept(l, 0x71);
	w(l, EOI, 0);
	assert_int_equal(eois, 1);
	assert_int_equal(eoi_vector, 0x71);
	msi(0, 0x71);
	assert_int_equal(r(l, TMR + 0x30), 0);
}

static unsigned who_has(uint8_t vector)
{
	unsigned mask = 0;

	for (unsigned i = 0; i < all->n; i++) {
		if (lapic_pending(&all->lapic[i]) == vector) {
			mask |= 1u << i;
			lapic_accept(&all->lapic[i], vector);
			w(&all->lapic[i], EOI, 0);
		}
	}
	return mask;
}

static void ipi(uint32_t dest, uint32_t icr)
{
	w(l, ICR2, dest << 24);
	w(l, ICR, icr);
}

static void test_destinations(void **state)
{
	msi(5, 0x30);
	assert_int_equal(who_has(0x30), 8);
	msi(4, 0x30);
	assert_int_equal(who_has(0x30), 0);
	msi(0xff, 0x30);
	assert_int_equal(who_has(0x30), 15);
	/* Flat. */
	for (unsigned i = 0; i < 4; i++)
		w(&all->lapic[i], LDR, 1u << (24 + i));
	ipi(0x0a, 0x830);
	assert_int_equal(who_has(0x30), 10);
	lapics_message(all, 0xfee00004 | 0x6 << 12, 0x130);
	assert_int_equal(__builtin_popcount(who_has(0x30) & 6), 1);
	/* Clusters. */
	for (unsigned i = 0; i < 4; i++) {
		w(&all->lapic[i], DFR, 0x0fffffff);
		w(&all->lapic[i], LDR, (i / 2 << 4 | 1u << i % 2) << 24);
	}
	ipi(0x12, 0x830);
	assert_int_equal(who_has(0x30), 8);
	ipi(0xf1, 0x830);
	assert_int_equal(who_has(0x30), 5);
	/* Shorthands. */
	ipi(0, 0x40030);
	assert_int_equal(who_has(0x30), 1);
	ipi(0, 0x80030);
	assert_int_equal(who_has(0x30), 15);
	ipi(0, 0xc0030);
	assert_int_equal(who_has(0x30), 14);
}

static void test_events(void **state)
{
	ipi(1, 0x4500);
	assert_int_equal(all->lapic[1].events, LAPIC_INIT);
	ipi(1, 0x8500); /* de-assert */
	ipi(1, 0x46a5);
	assert_int_equal(all->lapic[1].events, LAPIC_INIT | LAPIC_SIPI);
	assert_int_equal(all->lapic[1].sipi_vector, 0xa5);
	ipi(0, 0xc4400);
	assert_int_equal(all->lapic[0].events, 0);
	assert_int_equal(all->lapic[2].events, LAPIC_NMI);
	lapics_message(all, 0xfee02000, 0x700);
	assert_int_equal(all->lapic[2].events, LAPIC_NMI | LAPIC_EXTINT);
	assert_int_equal(notified[2], 2);
}

static void test_errors(void **state)
{
	w(l, LVTERR, 0xfe);
	ipi(1, 0x5);
	assert_int_equal(lapic_pending(l), 0xfe);
	assert_int_equal(r(l, ESR), 0);
	w(l, ESR, 0);
	assert_int_equal(r(l, ESR), LAPIC_ERROR_SEND_VECTOR);
	w(l, ESR, 0);
	assert_int_equal(r(l, ESR), 0);
	msi(0, 3);
	w(l, 0x3f0, 1);
	w(l, 0x7f0, 1);
	w(l, ESR, 0);
	assert_int_equal(r(l, ESR) & LAPIC_ERROR_RECEIVE_VECTOR, LAPIC_ERROR_RECEIVE_VECTOR);
	/* An error vector that is itself bad ends somewhere. */
	w(l, LVTERR, 0x3);
	ipi(1, 0x5);
	/* Odd places and sizes. */
	lapic_write(l, TPR + 1, 1, 0x55);
	lapic_write(l, TPR, 2, 0x55);
	assert_int_equal(r(l, TPR), 0);
	assert_int_equal(lapic_read(l, VERSION + 2, 1), 5);
	assert_int_equal(lapic_read(l, VERSION + 3, 4), 0);
	assert_int_equal(lapic_read(l, 0xff0, 4), 0);
}

static void tick(uint64_t ns)
{
	test_now += ns;
	lapic_run_timer(l);
}

static void test_timer(void **state)
{
	w(l, TDCR, 0xb); /* by 1 */
	w(l, LVTT, 0x20);
	w(l, TICR, 100000);
	assert_int_equal(l->deadline, test_now + 100000);
	tick(40000);
	assert_int_equal(r(l, TCCR), 60000);
	w(l, TDCR, 0); /* by 2 */
	assert_int_equal(r(l, TCCR), 60000);
	tick(119999);
	assert_int_equal(lapic_pending(l), -1);
	tick(1);
	assert_int_equal(who_has(0x20), 1);
	assert_true(l->deadline == LAPIC_NEVER);
	assert_int_equal(r(l, TCCR), 0);

	w(l, LVTT, 0x20020);
	w(l, TICR, 100000);
	tick(200000);
	assert_int_equal(who_has(0x20), 1);
	/* Late by three and a half periods: one interrupt, and the next on time. */
	tick(700000);
	assert_int_equal(who_has(0x20), 1);
	assert_int_equal(l->deadline, test_now + 100000);
	w(l, LVTT, 0x30020);
	tick(200000);
	assert_int_equal(lapic_pending(l), -1);
	w(l, TICR, 0);
	assert_true(l->deadline == LAPIC_NEVER);
	/* Nobody gets a million interrupts a second. */
	w(l, LVTT, 0x20020);
	w(l, TICR, 1);
	assert_true(l->deadline >= test_now + 50000);
}

static void test_tsc_deadline(void **state)
{
	uint64_t value;

	assert_true(lapic_write_msr(l, TSC_DEADLINE, 5000));
	assert_true(l->deadline == LAPIC_NEVER);
	w(l, LVTT, 0x40020);
	w(l, TICR, 1000);
	assert_true(l->deadline == LAPIC_NEVER);
	tsc = 1000000;
	assert_true(lapic_write_msr(l, TSC_DEADLINE, 3000000));
	assert_int_equal(l->deadline, test_now + 1000000);
	assert_true(lapic_read_msr(l, TSC_DEADLINE, &value));
	assert_int_equal(value, 3000000);
	tsc = 2999000;
	tick(1000000);
	assert_int_equal(lapic_pending(l), -1);
	assert_in_range(l->deadline, test_now + 500, test_now + 502);
	tsc = 3000001;
	tick(502);
	assert_int_equal(who_has(0x20), 1);
	assert_true(lapic_read_msr(l, TSC_DEADLINE, &value));
	assert_int_equal(value, 0);
	/* Long past is now, very far is not never. */
	assert_true(lapic_write_msr(l, TSC_DEADLINE, 1));
	tick(0);
	assert_int_equal(who_has(0x20), 1);
	assert_true(lapic_write_msr(l, TSC_DEADLINE, UINT64_MAX));
	assert_true(l->deadline != LAPIC_NEVER && l->deadline > test_now);
	w(l, LVTT, 0x20);
	assert_true(l->deadline == LAPIC_NEVER);
}

static void test_x2apic(void **state)
{
	struct lapic *other = &all->lapic[3];
	uint64_t value;

	assert_false(lapic_read_msr(l, X2(ID), &value));
	assert_true(lapic_decodes(l, 0xfee00080));
	assert_true(lapic_write_msr(other, APIC_BASE, 0xfee00c00));
	assert_true(lapic_write_msr(l, APIC_BASE, 0xfee00d00));
	assert_false(lapic_decodes(l, 0xfee00080));
	assert_true(lapic_read_msr(other, X2(ID), &value));
	assert_int_equal(value, 5);
	assert_true(lapic_read_msr(other, X2(LDR), &value));
	assert_int_equal(value, 1u << 5);
	assert_true(lapic_write_msr(l, X2(ICR), UINT64_C(5) << 32 | 0x44));
	assert_int_equal(lapic_pending(other), 0x44);
	assert_true(lapic_write_msr(l, X2(ICR), UINT64_C(0x20) << 32 | 0x845));
	assert_int_equal(lapic_pending(other), 0x45);
	assert_true(lapic_write_msr(l, X2(ICR), UINT64_C(0xffffffff) << 32 | 0x46));
	assert_int_equal(lapic_pending(other), 0x46);
	assert_int_equal(lapic_pending(l), 0x46);
	assert_true(lapic_read_msr(l, X2(ICR), &value));
	assert_true(value == (UINT64_C(0xffffffff) << 32 | 0x46));
	assert_true(lapic_write_msr(l, 0x83f, 0x99));
	assert_int_equal(lapic_pending(l), 0x99);
	msi(0xff, 0x50);
	assert_int_equal(lapic_pending(other), 0x50);
	/* #GP */
	assert_false(lapic_write_msr(l, X2(ID), 0));
	assert_false(lapic_write_msr(l, X2(DFR), 0));
	assert_false(lapic_write_msr(l, X2(ICR2), 0));
	assert_false(lapic_write_msr(l, X2(EOI), 1));
	assert_false(lapic_write_msr(l, X2(TPR), 0x100));
	assert_false(lapic_write_msr(l, X2(TPR), UINT64_C(1) << 32));
	assert_false(lapic_write_msr(l, 0x8ff, 0));
	assert_false(lapic_read_msr(l, X2(EOI), &value));
	assert_false(lapic_read_msr(l, 0x83f, &value));
	assert_false(lapic_read_msr(l, 0x850, &value));
	assert_false(lapic_write_msr(l, APIC_BASE, 0xfee00900));
	assert_false(lapic_write_msr(l, APIC_BASE, 0xfee00500));
	assert_true(lapic_write_msr(l, APIC_BASE, 0xfee00100));
	assert_false(lapic_write_msr(l, APIC_BASE, 0xfee00d00));
	assert_false(lapic_write_msr(l, APIC_BASE, 0xfee00901));
	assert_int_equal(lapic_pending(l), -1);
	assert_true(lapic_accepts_pic(l));
	assert_true(lapic_write_msr(l, APIC_BASE, 0xfee00900));
	assert_int_equal(r(l, SVR), 0xff);
	/* INIT keeps the mode. */
	lapic_init(other);
	assert_true(lapic_read_msr(other, APIC_BASE, &value));
	assert_int_equal(value, 0xfee00c00);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_reset, setup, teardown),
		cmocka_unit_test_setup_teardown(test_priorities, setup, teardown),
		cmocka_unit_test_setup_teardown(test_level_eoi, setup, teardown),
		cmocka_unit_test_setup_teardown(test_destinations, setup, teardown),
		cmocka_unit_test_setup_teardown(test_events, setup, teardown),
		cmocka_unit_test_setup_teardown(test_errors, setup, teardown),
		cmocka_unit_test_setup_teardown(test_timer, setup, teardown),
		cmocka_unit_test_setup_teardown(test_tsc_deadline, setup, teardown),
		cmocka_unit_test_setup_teardown(test_x2apic, setup, teardown),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
