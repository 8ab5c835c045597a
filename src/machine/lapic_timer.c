/*
 * The local APIC's timer (Intel SDM vol. 3 §11.5.4): one-shot, periodic, TSC deadline.
 *
 * Nothing counts: a running timer is a deadline on the guest's clock, and its current count is made
 * from that when it is read. The bus it divides runs at 1 GHz, so a count is a nanosecond. In TSC
 * deadline mode the deadline is an estimate; when it has come the counter itself is asked, as the
 * two clocks need not agree.
 */
#include "machine/lapic.h"

#include "base/util.h"

enum { ONE_SHOT, PERIODIC, TSC_DEADLINE };

/* A guest that asks for more interrupts than it could serve gets fewer. */
#define MIN_PERIOD_NS 50000
/* Farther deadlines are looked at again then. */
#define MAX_DELTA_NS (UINT64_C(3600) * 1000000000)

static unsigned mode(uint32_t lvt)
{
	return lvt >> 17 & 3;
}

bool lapic_timer_by_tsc(const struct lapic *l)
{
	return mode(lapic_reg(l, LAPIC_LVT_TIMER)) == TSC_DEADLINE;
}

static uint64_t now(const struct lapic *l)
{
	return l->all->host.now(l->all->host.opaque);
}

/* Figure 11-10: bits 3, 1 and 0 are the power of two, less one; 7 is 1. */
static unsigned shift_of(uint32_t divide)
{
	return ((divide & 3) + (divide >> 1 & 4) + 1) & 7;
}

static uint64_t period(const struct lapic *l)
{
	uint64_t ns = (uint64_t)lapic_reg(l, LAPIC_TIMER_INITIAL)
		      << shift_of(lapic_reg(l, LAPIC_TIMER_DIVIDE));

	return MAX(ns, MIN_PERIOD_NS);
}

static uint64_t tsc_now(const struct lapic *l)
{
	return l->all->host.tsc(l->all->host.opaque, l->cpu);
}

static void estimate_deadline(struct lapic *l, uint64_t tsc)
{
	uint64_t delta = l->tsc_deadline > tsc ? l->tsc_deadline - tsc : 0;
	unsigned __int128 ns = (unsigned __int128)delta * 1000000 / l->all->tsc_khz;

	l->deadline = now(l) + (ns < MAX_DELTA_NS ? (uint64_t)ns : MAX_DELTA_NS);
}

void lapic_set_tsc_deadline(struct lapic *l, uint64_t value)
{
	if (!lapic_timer_by_tsc(l))
		return;
	l->tsc_deadline = value;
	if (value)
		estimate_deadline(l, tsc_now(l));
	else
		l->deadline = LAPIC_NEVER;
}

static void start(struct lapic *l)
{
	uint64_t count = lapic_reg(l, LAPIC_TIMER_INITIAL);

	if (!count)
		l->deadline = LAPIC_NEVER;
	else if (mode(lapic_reg(l, LAPIC_LVT_TIMER)) == PERIODIC)
		l->deadline = now(l) + period(l);
	else
		l->deadline = now(l) + (count << shift_of(lapic_reg(l, LAPIC_TIMER_DIVIDE)));
}

/* What is left of the count goes on at the new pace. */
static void change_divisor(struct lapic *l, uint32_t before)
{
	uint64_t t = now(l);
	uint64_t left = l->deadline > t ? l->deadline - t : 0;

	if (l->deadline != LAPIC_NEVER)
		l->deadline = t + (left >> shift_of(before)
						   << shift_of(lapic_reg(l, LAPIC_TIMER_DIVIDE)));
}

void lapic_timer_written(struct lapic *l, unsigned reg, uint32_t before)
{
	bool by_tsc = lapic_timer_by_tsc(l);

	switch (reg) {
	case LAPIC_LVT_TIMER:
		/* Coming and going, TSC deadline mode disarms (§11.5.4.1). */
		if (by_tsc != (mode(before) == TSC_DEADLINE)) {
			l->deadline = LAPIC_NEVER;
			l->tsc_deadline = 0;
		}
		break;
	case LAPIC_TIMER_INITIAL:
		if (!by_tsc)
			start(l);
		break;
	case LAPIC_TIMER_DIVIDE:
		if (!by_tsc)
			change_divisor(l, before);
		break;
	}
}

uint32_t lapic_timer_current(const struct lapic *l)
{
	uint64_t t, left;

	if (l->deadline == LAPIC_NEVER || lapic_timer_by_tsc(l))
		return 0;
	t = now(l);
	left = l->deadline > t ? l->deadline - t : 0;
	return left >> shift_of(lapic_reg(l, LAPIC_TIMER_DIVIDE));
}

void lapic_run_timer(struct lapic *l)
{
	uint64_t t, tsc;

	if (l->deadline == LAPIC_NEVER || (t = now(l)) < l->deadline)
		return;
	if (lapic_timer_by_tsc(l)) {
		tsc = tsc_now(l);
		if (tsc < l->tsc_deadline) {
			estimate_deadline(l, tsc);
			/* Sooner would be no later for a clock that is behind by less. */
			l->deadline++;
			return;
		}
		l->tsc_deadline = 0;
		l->deadline = LAPIC_NEVER;
	} else if (mode(lapic_reg(l, LAPIC_LVT_TIMER)) == PERIODIC) {
		/* Periods nobody was there for are one interrupt. */
		l->deadline += period(l) * ((t - l->deadline) / period(l) + 1);
	} else {
		l->deadline = LAPIC_NEVER;
	}
	lapic_signal(l, LAPIC_LVT_TIMER);
}
