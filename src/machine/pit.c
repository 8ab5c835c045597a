/*
 * The 8254: see pit.h.
 *
 * Nothing counts. A counter knows when it was started; its count and output follow from the ticks
 * since. While its gate holds it, the ticks stay what they were. Counter 0's output interrupts when
 * it goes high: the host is told when that is next.
 */
#include "machine/pit.h"

#include "base/util.h"

#include <pthread.h>

#define NS                  UINT64_C(1000000000)
#define NEVER               UINT64_MAX
#define MIN_PERIOD_NS       50000 /* interrupts come no closer */

#define CONTROL_READ_BACK   3
#define READ_BACK_NO_COUNT  0x20
#define READ_BACK_NO_STATUS 0x10

/* Port 0x61 (ICH9 §13.7.1) */
#define PORT61_GATE     0x01
#define PORT61_WRITABLE 0x0f
#define PORT61_REFRESH  0x10 /* toggles */
#define PORT61_OUT      0x20
#define REFRESH_NS      15085

enum { LATCH, LOW, HIGH, WORD }; /* control word bits 5 and 4: how counts are read and written */

struct counter {
	uint8_t mode, access;
	bool bcd, gate, loaded;
	bool read_high, write_high; /* the second byte of a word is next */
	uint8_t low;                /* the first, that was written */
	uint32_t count;             /* 1 to 0x10000 */
	uint64_t start;             /* when it counted from there, while its gate lets it */
	uint64_t held_ticks;        /* while it does not */
	uint8_t n_latched;          /* bytes of latch still to be read */
	uint16_t latch;
	bool status_latched;
	uint8_t status;
};

struct pit {
	struct pit_host host;
	pthread_mutex_t lock;
	struct counter counter[3];
	uint8_t port61;
	uint64_t next; /* when counter 0's output goes high, in its ticks */
};

static uint64_t now(const struct pit *pit)
{
	return pit->host.now(pit->host.opaque);
}

static uint64_t ns_to_ticks(uint64_t ns)
{
	return ns / NS * PIT_HZ + ns % NS * PIT_HZ / NS;
}

/* Rounded up, so that the tick has come when the time has. */
static uint64_t ticks_to_ns(uint64_t ticks)
{
	return ticks / PIT_HZ * NS + (ticks % PIT_HZ * NS + PIT_HZ - 1) / PIT_HZ;
}

/* --- A counter; modes as in the datasheet ---- */

/* Modes 1 and 5 start with the gate, and are not held by it. */
static bool is_triggered(const struct counter *c)
{
	return c->mode == 1 || c->mode == 5;
}

static bool is_held(const struct counter *c)
{
	return !c->gate && !is_triggered(c);
}

static uint64_t ticks_of(const struct counter *c, uint64_t t)
{
	return is_held(c) ? c->held_ticks : ns_to_ticks(t - c->start);
}

static bool output_of(const struct counter *c, uint64_t t)
{
	uint64_t ticks;

	if (!c->loaded)
		return c->mode != 0;
	ticks = ticks_of(c, t);
	switch (c->mode) {
	case 0:
	case 1: return ticks >= c->count;
	case 2: return is_held(c) || ticks % c->count != c->count - 1;
	case 3: return is_held(c) || ticks % c->count < (c->count + 1) / 2;
	default: return ticks != c->count;
	}
}

static uint16_t to_bcd(unsigned value)
{
	return value / 1000 % 10 << 12 | value / 100 % 10 << 8 | value / 10 % 10 << 4 | value % 10;
}

static unsigned from_bcd(uint16_t value)
{
	return (value >> 12) * 1000 + (value >> 8 & 15) * 100 + (value >> 4 & 15) * 10 +
	       (value & 15);
}

static uint16_t count_of(const struct counter *c, uint64_t t)
{
	unsigned modulus = c->bcd ? 10000 : 0x10000, left;
	uint64_t ticks;

	if (!c->loaded)
		return 0;
	ticks = ticks_of(c, t);
	if (c->mode == 2)
		left = c->count - ticks % c->count;
	else if (c->mode == 3)
		left = c->count - 2 * ticks % c->count;
	else
		left = (c->count + modulus - ticks % modulus) % modulus;
	return c->bcd ? to_bcd(left) : left;
}

/* --- Counter 0's interrupt; with the lock held ---- */

/* The next tick after `ticks` at which the output goes high. */
static uint64_t next_rise(const struct counter *c, uint64_t ticks)
{
	if (!c->loaded)
		return NEVER;
	switch (c->mode) {
	case 0: return ticks < c->count ? c->count : NEVER;
	case 2:
	case 3: return (ticks / c->count + 1) * c->count;
	case 4: return ticks <= c->count ? c->count + 1 : NEVER;
	default: return NEVER; /* its gate is always high, so nothing triggers it */
	}
}

static void arm(struct pit *pit, uint64_t t)
{
	struct counter *c = &pit->counter[0];
	uint64_t deadline = NEVER;

	pit->next = next_rise(c, c->loaded ? ticks_of(c, t) : 0);
	if (pit->next != NEVER)
		deadline = c->start + ticks_to_ns(pit->next);
	if (c->mode == 2 || c->mode == 3)
		deadline = MAX(deadline, t + MIN_PERIOD_NS);
	pit->host.arm(pit->host.opaque, deadline);
}

void pit_run(struct pit *pit)
{
	struct counter *c = &pit->counter[0];
	uint64_t t;

	pthread_mutex_lock(&pit->lock);
	t = now(pit);
	if (pit->next != NEVER && ticks_of(c, t) >= pit->next) {
		pit->host.irq(pit->host.opaque, false);
		pit->host.irq(pit->host.opaque, true);
		arm(pit, t);
	} else if (pit->next != NEVER) {
		pit->host.arm(pit->host.opaque, c->start + ticks_to_ns(pit->next));
	}
	pthread_mutex_unlock(&pit->lock);
}

static void start(struct pit *pit, struct counter *c)
{
	uint64_t t = now(pit);

	c->start = t;
	c->held_ticks = 0;
	if (c != &pit->counter[0])
		return;
	if (c->mode == 0)
		pit->host.irq(pit->host.opaque, false);
	arm(pit, t);
}

static void set_gate(struct pit *pit, struct counter *c, bool gate)
{
	uint64_t t = now(pit);

	if (gate == c->gate)
		return;
	if (gate && (is_triggered(c) || c->mode == 2 || c->mode == 3))
		c->start = t;
	else if (gate)
		c->start = t - ticks_to_ns(c->held_ticks);
	else
		c->held_ticks = ticks_of(c, t);
	c->gate = gate;
}

/* --- Registers ---- */

static void latch_count(struct counter *c, uint64_t t)
{
	if (c->n_latched)
		return;
	c->latch = count_of(c, t);
	if (c->access == HIGH)
		c->latch >>= 8;
	c->n_latched = c->access == WORD ? 2 : 1;
}

static void latch_status(struct counter *c, uint64_t t)
{
	if (c->status_latched)
		return;
	c->status = output_of(c, t) << 7 | !c->loaded << 6 | c->access << 4 | c->mode << 1 | c->bcd;
	c->status_latched = true;
}

static void read_back(struct pit *pit, uint8_t value)
{
	uint64_t t = now(pit);

	for (unsigned i = 0; i < 3; i++) {
		struct counter *c = &pit->counter[i];

		if (!(value & 2u << i))
			continue;
		if (!(value & READ_BACK_NO_COUNT))
			latch_count(c, t);
		if (!(value & READ_BACK_NO_STATUS))
			latch_status(c, t);
	}
}

static void write_control(struct pit *pit, uint8_t value)
{
	struct counter *c;

	if (value >> 6 == CONTROL_READ_BACK) {
		read_back(pit, value);
		return;
	}
	c = &pit->counter[value >> 6];
	if ((value >> 4 & 3) == LATCH) {
		latch_count(c, now(pit));
		return;
	}
	*c = (struct counter){
		.access = value >> 4 & 3, .mode = value >> 1 & 7, .bcd = value & 1, .gate = c->gate
	};
	if (c->mode > 5)
		c->mode -= 4; /* 6 and 7 are 2 and 3 */
	if (c != &pit->counter[0])
		return;
	pit->host.irq(pit->host.opaque, c->mode != 0);
	arm(pit, now(pit));
}

static void load(struct pit *pit, struct counter *c, uint16_t value)
{
	unsigned count = c->bcd ? from_bcd(value) : value;

	c->count = count ? count : c->bcd ? 10000 : 0x10000;
	/* A count of 1 is none that modes 2 and 3 can have. */
	if (c->count == 1 && (c->mode == 2 || c->mode == 3))
		c->count = 2;
	c->loaded = true;
	start(pit, c);
}

static void write_counter(struct pit *pit, struct counter *c, uint8_t value)
{
	switch (c->access) {
	case LOW: load(pit, c, value); break;
	case HIGH: load(pit, c, value << 8); break;
	case WORD:
		if (c->write_high)
			load(pit, c, value << 8 | c->low);
		else
			c->low = value;
		c->write_high = !c->write_high;
		break;
	}
}

static uint8_t read_counter(struct pit *pit, struct counter *c)
{
	uint16_t count;
	uint8_t value;

	if (c->status_latched) {
		c->status_latched = false;
		return c->status;
	}
	if (c->n_latched) {
		value = c->latch;
		c->latch >>= 8;
		c->n_latched--;
		return value;
	}
	count = count_of(c, now(pit));
	if (c->access == HIGH || (c->access == WORD && c->read_high))
		count >>= 8;
	c->read_high = c->access == WORD && !c->read_high;
	return count;
}

void pit_write(struct pit *pit, unsigned offset, uint8_t value)
{
	pthread_mutex_lock(&pit->lock);
	if (offset < 3)
		write_counter(pit, &pit->counter[offset], value);
	else
		write_control(pit, value);
	pthread_mutex_unlock(&pit->lock);
}

uint8_t pit_read(struct pit *pit, unsigned offset)
{
	uint8_t value = 0;

	pthread_mutex_lock(&pit->lock);
	if (offset < 3)
		value = read_counter(pit, &pit->counter[offset]);
	pthread_mutex_unlock(&pit->lock);
	return value;
}

uint8_t pit_read_port61(struct pit *pit)
{
	uint8_t value;
	uint64_t t;

	pthread_mutex_lock(&pit->lock);
	t = now(pit);
	value = pit->port61 | (output_of(&pit->counter[2], t) ? PORT61_OUT : 0) |
		(t / REFRESH_NS & 1 ? PORT61_REFRESH : 0);
	pthread_mutex_unlock(&pit->lock);
	return value;
}

void pit_write_port61(struct pit *pit, uint8_t value)
{
	pthread_mutex_lock(&pit->lock);
	pit->port61 = value & PORT61_WRITABLE;
	set_gate(pit, &pit->counter[2], value & PORT61_GATE);
	pthread_mutex_unlock(&pit->lock);
}

/* --- Life ---- */

/* No counter counts before it is given a mode. */
void pit_reset(struct pit *pit)
{
	pthread_mutex_lock(&pit->lock);
	for (unsigned i = 0; i < 3; i++)
		pit->counter[i] = (struct counter){ .access = WORD, .gate = i != 2 };
	pit->port61 = 0;
	pit->next = NEVER;
	pit->host.irq(pit->host.opaque, false);
	pit->host.arm(pit->host.opaque, NEVER);
	pthread_mutex_unlock(&pit->lock);
}

struct pit *pit_new(const struct pit_host *host)
{
	struct pit *pit = xcalloc(1, sizeof(*pit));

	pit->host = *host;
	pthread_mutex_init(&pit->lock, NULL);
	pit_reset(pit);
	return pit;
}

void pit_free(struct pit *pit)
{
	if (!pit)
		return;
	pthread_mutex_destroy(&pit->lock);
	free(pit);
}
