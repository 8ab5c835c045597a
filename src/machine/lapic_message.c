/*
 * What local APICs are sent: by each other (Intel SDM vol. 3 §11.6), by the IOAPIC and by devices
 * (§11.11).
 *
 * A message names its destinations by id or by a mask of logical ids, in 8 bits or, between
 * x2APICs, in 32. There are at most 64 processors: each message looks at all of them, or for one
 * physical destination until it is found.
 */
#include "machine/lapic.h"

#include "base/log.h"

struct message {
	uint32_t dest;
	uint8_t vector, mode;
	bool logical, broadcast, level;
};

/* §11.6.2.2, §11.12.10.2 */
static bool in_logical(const struct lapic *l, uint32_t dest)
{
	uint32_t ldr;

	if (lapic_is_x2(l))
		return dest >> 16 == l->id >> 4 && dest & 1u << (l->id & 15);
	ldr = lapic_reg(l, LAPIC_LDR) >> 24;
	if (lapic_reg(l, LAPIC_DFR) >> 28 == 0xf)
		return ldr & dest;
	return (dest >> 4 == ldr >> 4 || dest >> 4 == 0xf) && ldr & dest & 0xf;
}

static bool is_for(const struct lapic *l, const struct message *m)
{
	if (m->broadcast)
		return true;
	return m->logical ? in_logical(l, m->dest) : l->id == m->dest;
}

static void give(struct lapic *l, const struct message *m)
{
	switch (m->mode) {
	case LAPIC_MODE_FIXED:
	case LAPIC_MODE_LOWEST: lapic_request(l, m->vector, m->level); break;
	case LAPIC_MODE_NMI: lapic_request_event(l, LAPIC_NMI); break;
	case LAPIC_MODE_INIT: lapic_request_event(l, LAPIC_INIT); break;
	case LAPIC_MODE_SIPI:
		l->sipi_vector = m->vector;
		lapic_request_event(l, LAPIC_SIPI);
		break;
	case LAPIC_MODE_EXTINT: lapic_request_event(l, LAPIC_EXTINT); break;
	default: log_item(LOG_UNIMP, "lapic: delivery mode %u goes nowhere", m->mode); break;
	}
}

static bool takes_vectors(const struct lapic *l)
{
	return l->base & LAPIC_BASE_EN && lapic_reg(l, LAPIC_SVR) & LAPIC_SVR_ENABLE;
}

/*
 * One of those it is for. Which, the standard leaves to the chipset; by vector, so that the same
 * device finds the same processor's cache.
 */
static void give_lowest(struct lapics *all, const struct message *m)
{
	struct lapic *found[LAPIC_MAX_CPUS];
	unsigned n = 0;

	for (unsigned i = 0; i < all->n && n < LAPIC_MAX_CPUS; i++)
		if (is_for(&all->lapic[i], m) && takes_vectors(&all->lapic[i]))
			found[n++] = &all->lapic[i];
	if (n)
		give(found[m->vector % n], m);
}

static void deliver(struct lapics *all, const struct message *m)
{
	if (m->mode == LAPIC_MODE_LOWEST) {
		give_lowest(all, m);
		return;
	}
	for (unsigned i = 0; i < all->n; i++) {
		struct lapic *l = &all->lapic[i];

		if (!(l->base & LAPIC_BASE_EN) || !is_for(l, m))
			continue;
		give(l, m);
		if (!m->logical && !m->broadcast)
			break;
	}
}

static void deliver_to_others(struct lapic *self, const struct message *m)
{
	for (unsigned i = 0; i < self->all->n; i++) {
		struct lapic *l = &self->all->lapic[i];

		if (l != self && l->base & LAPIC_BASE_EN)
			give(l, m);
	}
}

enum { TO_DESTINATION, TO_SELF, TO_ALL, TO_OTHERS }; /* ICR bits 19 and 18 */

static bool can_send(struct lapic *l, const struct message *m, unsigned shorthand)
{
	if (m->mode > LAPIC_MODE_LOWEST)
		return shorthand != TO_SELF && (shorthand != TO_ALL || m->mode == LAPIC_MODE_NMI);
	if (m->vector >= LAPIC_FIRST_VECTOR)
		return true;
	lapic_error(l, LAPIC_ERROR_SEND_VECTOR);
	return false;
}

void lapic_send(struct lapic *l, uint32_t icr, uint32_t dest)
{
	unsigned shorthand = icr >> 18 & 3;
	struct message m = {
		.dest = dest,
		.vector = icr,
		.mode = icr >> 8 & 7,
		.logical = icr & 1u << 11,
		.broadcast = dest == (lapic_is_x2(l) ? 0xffffffff : 0xff),
	};

	/* "INIT level de-assert" did something for processors before these (§11.6.1). */
	if (m.mode == LAPIC_MODE_INIT && (icr & 0xc000) == 0x8000)
		return;
	if (!can_send(l, &m, shorthand))
		return;
	switch (shorthand) {
	case TO_DESTINATION: deliver(l->all, &m); break;
	case TO_SELF: give(l, &m); break;
	case TO_ALL:
		give(l, &m);
		deliver_to_others(l, &m);
		break;
	case TO_OTHERS: deliver_to_others(l, &m); break;
	}
}

void lapics_message(struct lapics *all, uint64_t address, uint32_t data)
{
	struct message m = {
		.dest = address >> 12 & 0xff,
		.vector = data,
		.mode = data >> 8 & 7,
		.logical = address & 1u << 2,
		.level = data & 1u << 15,
	};

	m.broadcast = m.dest == 0xff;
	deliver(all, &m);
}
