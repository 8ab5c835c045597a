/*
 * The HPET: see hpet.h.
 *
 * The main counter is the clock's time since it was enabled. Each timer keeps when, on that
 * counter, it matches next; the host is told of the earliest. A comparator that is set to a value
 * the counter has passed matches when the counter has wrapped, as the standard has it: guests look
 * at the counter again after they have written it.
 */
#include "machine/hpet.h"

#include "base/util.h"

#include <pthread.h>

#define NEVER     UINT64_MAX
#define TICK_NS   10
#define PERIOD_FS UINT64_C(10000000)
/* Interrupts come no closer. */
#define MIN_PERIOD_NS 50000

enum { REG_ID = 0x000, REG_CONFIG = 0x010, REG_STATUS = 0x020, REG_COUNTER = 0x0f0 };
enum { REG_TIMERS = 0x100, TIMER_SPACE = 0x20 };
enum { TIMER_CONFIG = 0x00, TIMER_COMPARATOR = 0x08 };

#define CONFIG_ENABLE BIT(0)
#define CONFIG_LEGACY BIT(1)

/* §2.3.8 */
#define TN_LEVEL    BIT(1)
#define TN_ENABLE   BIT(2)
#define TN_PERIODIC BIT(3)
#define TN_PER_CAP  BIT(4)
#define TN_SIZE_CAP BIT(5)
#define TN_SET      BIT(6)
#define TN_32BIT    BIT(8)
#define TN_ROUTE    9
#define TN_WRITABLE (TN_LEVEL | TN_ENABLE | TN_PERIODIC | TN_SET | TN_32BIT | 0x1full << TN_ROUTE)
#define TN_ROUTES   UINT64_C(0x00ff0104) /* GSIs 2, 8, 16 to 23 */

struct timer {
	uint64_t config, comparator, period;
	uint64_t match; /* on the main counter, which never wraps here; NEVER */
	unsigned gsi;   /* where its output is */
	bool high;
};

struct hpet {
	struct hpet_host host;
	pthread_mutex_t lock;
	uint64_t config, status;
	uint64_t base; /* enabled: the clock when the counter was 0; else the counter */
	struct timer timer[HPET_TIMERS];
};

static uint64_t counter(const struct hpet *h)
{
	if (!(h->config & CONFIG_ENABLE))
		return h->base;
	return h->host.now(h->host.opaque) / TICK_NS - h->base;
}

static void set_counter(struct hpet *h, uint64_t value)
{
	h->base = h->config & CONFIG_ENABLE ? h->host.now(h->host.opaque) / TICK_NS - value : value;
}

/* --- Outputs ---- */

static unsigned wanted_gsi(const struct hpet *h, unsigned n)
{
	if (h->config & CONFIG_LEGACY && n < 2)
		return n ? 8 : 0;
	return h->timer[n].config >> TN_ROUTE & 0x1f;
}

static void drive(struct hpet *h, unsigned n, bool level)
{
	struct timer *t = &h->timer[n];

	if (t->high == level)
		return;
	if (level)
		t->gsi = wanted_gsi(h, n);
	/* Nothing is wired to the others. */
	if (t->gsi == 0 || TN_ROUTES >> t->gsi & 1)
		h->host.irq(h->host.opaque, n, t->gsi, level);
	t->high = level;
}

static bool is_level(const struct hpet *h, unsigned n)
{
	return h->timer[n].config & TN_LEVEL && !(h->config & CONFIG_LEGACY && n < 2);
}

static void update_output(struct hpet *h, unsigned n)
{
	drive(h, n,
	      is_level(h, n) && h->status & BIT(n) && h->timer[n].config & TN_ENABLE &&
		      h->config & CONFIG_ENABLE);
}

static void fire(struct hpet *h, unsigned n)
{
	if (h->timer[n].config & TN_LEVEL)
		h->status |= BIT(n);
	if (is_level(h, n)) {
		update_output(h, n);
	} else if (h->timer[n].config & TN_ENABLE) {
		drive(h, n, true);
		drive(h, n, false);
	}
}

/* --- Matches ---- */

static uint64_t mask_of(const struct timer *t)
{
	return t->config & TN_32BIT ? UINT32_MAX : UINT64_MAX;
}

/* The next time the counter will be what the comparator says. */
static void set_match(struct hpet *h, struct timer *t)
{
	uint64_t now = counter(h), mask = mask_of(t);
	uint64_t ahead = (t->comparator - now) & mask;

	if (!ahead)
		ahead = mask;
	if (__builtin_add_overflow(now, ahead, &t->match))
		t->match = NEVER;
}

static void next_match(struct timer *t, uint64_t now)
{
	uint64_t step = t->config & TN_PERIODIC ? t->period : t->config & TN_32BIT ? BIT(32) : 0;

	if (!step) {
		t->match = NEVER;
		return;
	}
	/* Periods nobody was there for are one interrupt. */
	step *= (now - t->match) / step + 1;
	t->match += step;
	if (t->config & TN_PERIODIC)
		t->comparator = (t->comparator + step) & mask_of(t);
}

static void arm(struct hpet *h)
{
	uint64_t earliest = NEVER, deadline = NEVER;
	bool periodic = false;

	for (unsigned n = 0; n < HPET_TIMERS; n++) {
		const struct timer *t = &h->timer[n];

		if (!(t->config & TN_ENABLE) || t->match >= earliest)
			continue;
		earliest = t->match;
		periodic = t->config & TN_PERIODIC;
	}
	if (h->config & CONFIG_ENABLE && earliest < NEVER / TICK_NS / 2)
		deadline = (earliest + h->base) * TICK_NS;
	if (periodic)
		deadline = MAX(deadline, h->host.now(h->host.opaque) + MIN_PERIOD_NS);
	h->host.arm(h->host.opaque, deadline);
}

void hpet_run(struct hpet *h)
{
	uint64_t now;

	pthread_mutex_lock(&h->lock);
	now = counter(h);
	for (unsigned n = 0; n < HPET_TIMERS && h->config & CONFIG_ENABLE; n++) {
		struct timer *t = &h->timer[n];

		if (t->match > now)
			continue;
		next_match(t, now);
		fire(h, n);
	}
	arm(h);
	pthread_mutex_unlock(&h->lock);
}

/* --- Registers ---- */

static uint64_t read_timer(const struct timer *t, unsigned offset)
{
	switch (offset) {
	case TIMER_CONFIG: return t->config | TN_PER_CAP | TN_SIZE_CAP | TN_ROUTES << 32;
	case TIMER_COMPARATOR: return t->comparator;
	default: return 0;
	}
}

static uint64_t read_reg(struct hpet *h, unsigned offset)
{
	unsigned n = (offset - REG_TIMERS) / TIMER_SPACE;

	switch (offset) {
	case REG_ID: return PERIOD_FS << 32 | HPET_ID;
	case REG_CONFIG: return h->config;
	case REG_STATUS: return h->status;
	case REG_COUNTER: return counter(h);
	default:
		if (offset < REG_TIMERS || n >= HPET_TIMERS)
			return 0;
		return read_timer(&h->timer[n], offset % TIMER_SPACE);
	}
}

static void write_config(struct hpet *h, uint64_t value)
{
	uint64_t now = counter(h), changed = value ^ h->config;

	h->config = value & (CONFIG_ENABLE | CONFIG_LEGACY);
	set_counter(h, now);
	for (unsigned n = 0; n < HPET_TIMERS; n++) {
		if (h->config & CONFIG_ENABLE)
			set_match(h, &h->timer[n]);
		update_output(h, n);
	}
	if (changed & CONFIG_LEGACY)
		h->host.legacy(h->host.opaque, value & CONFIG_LEGACY);
}

static void write_timer_config(struct hpet *h, unsigned n, uint64_t value)
{
	struct timer *t = &h->timer[n];

	drive(h, n, false);
	t->config = value & TN_WRITABLE;
	if (!(TN_ROUTES >> (t->config >> TN_ROUTE & 0x1f) & 1))
		t->config &= ~(0x1full << TN_ROUTE);
	if (t->config & TN_32BIT) {
		t->comparator &= UINT32_MAX;
		t->period &= UINT32_MAX;
	}
	set_match(h, t);
	update_output(h, n);
}

/*
 * §2.3.9.2.2: of a periodic timer, with "set" the comparator is written, and without the period; so
 * that a guest that writes one value twice, or with "set" only, gets both.
 */
static void write_comparator(struct hpet *h, struct timer *t, uint64_t value)
{
	value &= mask_of(t);
	if (!(t->config & TN_PERIODIC) || t->config & TN_SET)
		t->comparator = value;
	if (t->config & TN_PERIODIC)
		t->period = MAX(value, 1);
	t->config &= ~TN_SET;
	set_match(h, t);
}

static void write_reg(struct hpet *h, unsigned offset, uint64_t value)
{
	unsigned n = (offset - REG_TIMERS) / TIMER_SPACE;

	switch (offset) {
	case REG_CONFIG: write_config(h, value); return;
	case REG_STATUS:
		h->status &= ~value;
		for (n = 0; n < HPET_TIMERS; n++)
			update_output(h, n);
		return;
	case REG_COUNTER:
		set_counter(h, value);
		for (n = 0; n < HPET_TIMERS; n++)
			set_match(h, &h->timer[n]);
		return;
	default: break;
	}
	if (offset < REG_TIMERS || n >= HPET_TIMERS)
		return;
	if (offset % TIMER_SPACE == TIMER_CONFIG)
		write_timer_config(h, n, value);
	else if (offset % TIMER_SPACE == TIMER_COMPARATOR)
		write_comparator(h, &h->timer[n], value);
}

uint64_t hpet_read(struct hpet *h, unsigned offset, unsigned size)
{
	uint64_t value;

	pthread_mutex_lock(&h->lock);
	value = read_reg(h, offset & ~7u);
	pthread_mutex_unlock(&h->lock);
	return size == 8 ? value : value >> offset % 8 * 8;
}

/* Half a register: the other half is what it was, but for status bits, which writing 1 clears. */
void hpet_write(struct hpet *h, unsigned offset, unsigned size, uint64_t value)
{
	unsigned reg = offset & ~7u, shift = offset % 8 * 8;
	uint64_t mask = size == 8 ? UINT64_MAX : (uint64_t)UINT32_MAX << shift;

	if (size < 4 || offset % size)
		return;
	pthread_mutex_lock(&h->lock);
	value = value << shift & mask;
	if (mask != UINT64_MAX && reg != REG_STATUS)
		value |= read_reg(h, reg) & ~mask;
	write_reg(h, reg, value);
	arm(h);
	pthread_mutex_unlock(&h->lock);
}

/* --- Life ---- */

void hpet_reset(struct hpet *h)
{
	pthread_mutex_lock(&h->lock);
	for (unsigned n = 0; n < HPET_TIMERS; n++) {
		drive(h, n, false);
		h->timer[n] =
			(struct timer){ .comparator = UINT64_MAX, .match = NEVER, .period = 1 };
	}
	h->config = 0;
	h->status = 0;
	h->base = 0;
	h->host.legacy(h->host.opaque, false);
	h->host.arm(h->host.opaque, NEVER);
	pthread_mutex_unlock(&h->lock);
}

struct hpet *hpet_new(const struct hpet_host *host)
{
	struct hpet *h = xcalloc(1, sizeof(*h));

	h->host = *host;
	pthread_mutex_init(&h->lock, NULL);
	hpet_reset(h);
	return h;
}

void hpet_free(struct hpet *h)
{
	if (!h)
		return;
	pthread_mutex_destroy(&h->lock);
	free(h);
}
