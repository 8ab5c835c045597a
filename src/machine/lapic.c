/*
 * Local APICs: registers, priorities, modes. The timer is in lapic_timer.c, what they send each
 * other in lapic_message.c.
 *
 * Registers are an array of atomics. Requests (IRR, TMR) are set by any thread; the rest is written
 * by the processor's own thread, and read by others to see whether a message is for this one (ID,
 * LDR, DFR, SVR) and whether it can be taken now (PPR). A sender sets the request, then looks at
 * the PPR; the owner lowers the PPR, then, before it enters the guest, looks at the requests. Both
 * are sequentially consistent, so one of them sees the other.
 */
#include "machine/lapic.h"

#include "base/log.h"
#include "base/util.h"

#define VERSION          0x00050014u /* six entries in the local vector table, 0x14: integrated */
#define DEFAULT_BASE     UINT64_C(0xfee00000)
#define BASE_ADDRESS     UINT64_C(0xffffffffff000) /* bits 51 to 12 */
#define DFR_FLAT         0xffffffffu
#define SVR_RESET        0xffu
#define ESR_WRITABLE     0u

#define MSR_APIC_BASE    0x1b
#define MSR_TSC_DEADLINE 0x6e0
#define MSR_X2APIC       0x800

/* What may be done with a register, and in an x2APIC (§11.12.1.2). */
enum { R = 1, W = 2, X2_R = 4, X2_W = 8 };
#define RW    (R | W | X2_R | X2_W)
#define R_ALL (R | X2_R)

static const struct register_rule {
	uint8_t access;
	uint32_t bits; /* that can be written; others are 0, and a fault in an x2APIC */
} rules[LAPIC_REGS] = {
	[LAPIC_ID] = { R_ALL },
	[LAPIC_VERSION] = { R_ALL },
	[LAPIC_TPR] = { RW, 0xff },
	[0x09] = { R }, /* arbitration priority */
	[LAPIC_PPR] = { R_ALL },
	[LAPIC_EOI] = { W | X2_W, 0 },
	[LAPIC_LDR] = { R_ALL | W, 0xff000000 },
	[LAPIC_DFR] = { R | W, 0xffffffff },
	[LAPIC_SVR] = { RW, 0x3ff },
	[LAPIC_ISR... LAPIC_ESR - 1] = { R_ALL },
	[LAPIC_ESR] = { RW, ESR_WRITABLE },
	[LAPIC_ICR] = { RW, 0x000ccfff },
	[LAPIC_ICR_HIGH] = { R | W, 0xff000000 },
	[LAPIC_LVT_TIMER] = { RW, 0x000700ff },
	[LAPIC_LVT_THERMAL] = { RW, 0x000107ff },
	[LAPIC_LVT_PERFORMANCE] = { RW, 0x000107ff },
	[LAPIC_LVT_LINT0] = { RW, 0x0001a7ff },
	[LAPIC_LVT_LINT1] = { RW, 0x0001a7ff },
	[LAPIC_LVT_ERROR] = { RW, 0x000100ff },
	[LAPIC_TIMER_INITIAL] = { RW, 0xffffffff },
	[LAPIC_TIMER_CURRENT] = { R_ALL },
	[LAPIC_TIMER_DIVIDE] = { RW, 0xb },
	[LAPIC_SELF_IPI] = { X2_W, 0xff },
};

static void set_reg(struct lapic *l, unsigned reg, uint32_t value)
{
	atomic_store_explicit(&l->regs[reg], value, memory_order_relaxed);
}

static bool is_enabled(const struct lapic *l)
{
	return l->base & LAPIC_BASE_EN;
}

/* --- Priorities (§11.8.3) ---- */

static int highest(const struct lapic *l, unsigned first)
{
	for (int word = 7; word >= 0; word--) {
		uint32_t bits = atomic_load(&l->regs[first + word]);

		if (bits)
			return word * 32 + 31 - __builtin_clz(bits);
	}
	return -1;
}

static void update_ppr(struct lapic *l)
{
	uint32_t tpr = lapic_reg(l, LAPIC_TPR);
	int isr = highest(l, LAPIC_ISR);
	uint32_t served = isr < 0 ? 0 : isr & 0xf0;

	atomic_store(&l->regs[LAPIC_PPR], (tpr & 0xf0) >= served ? tpr : served);
}

static void set_tpr(struct lapic *l, uint32_t tpr)
{
	if (tpr == lapic_reg(l, LAPIC_TPR))
		return;
	set_reg(l, LAPIC_TPR, tpr);
	update_ppr(l);
}

void lapic_set_cr8(struct lapic *l, unsigned cr8)
{
	if (cr8 != lapic_cr8(l))
		set_tpr(l, cr8 << 4);
}

unsigned lapic_cr8(const struct lapic *l)
{
	return lapic_reg(l, LAPIC_TPR) >> 4;
}

int lapic_pending(const struct lapic *l)
{
	int vector = highest(l, LAPIC_IRR);

	if (vector < 0 || !is_enabled(l) || (vector & 0xf0u) <= (lapic_reg(l, LAPIC_PPR) & 0xf0))
		return -1;
	return vector;
}

void lapic_accept(struct lapic *l, uint8_t vector)
{
	atomic_fetch_and(&l->regs[LAPIC_IRR + vector / 32], ~(1u << vector % 32));
	atomic_fetch_or(&l->regs[LAPIC_ISR + vector / 32], 1u << vector % 32);
	update_ppr(l);
}

static void end_of_interrupt(struct lapic *l)
{
	int vector = highest(l, LAPIC_ISR);
	uint32_t bit;

	if (vector < 0)
		return;
	bit = 1u << vector % 32;
	atomic_fetch_and(&l->regs[LAPIC_ISR + vector / 32], ~bit);
	update_ppr(l);
	if (lapic_reg(l, LAPIC_TMR + vector / 32) & bit)
		l->all->host.eoi(l->all->host.opaque, vector);
}

/* --- Requests ---- */

static void notify(struct lapic *l)
{
	l->all->host.notify(l->all->host.opaque, l->cpu);
}

void lapic_request(struct lapic *l, uint8_t vector, bool level)
{
	uint32_t bit = 1u << vector % 32;

	if (!is_enabled(l) || !(lapic_reg(l, LAPIC_SVR) & LAPIC_SVR_ENABLE))
		return;
	if (vector < LAPIC_FIRST_VECTOR) {
		lapic_error(l, LAPIC_ERROR_RECEIVE_VECTOR);
		return;
	}
	if (level)
		atomic_fetch_or(&l->regs[LAPIC_TMR + vector / 32], bit);
	else if (lapic_reg(l, LAPIC_TMR + vector / 32) & bit)
		atomic_fetch_and(&l->regs[LAPIC_TMR + vector / 32], ~bit);
	if (atomic_fetch_or(&l->regs[LAPIC_IRR + vector / 32], bit) & bit)
		return;
	if ((vector & 0xf0u) > (atomic_load(&l->regs[LAPIC_PPR]) & 0xf0))
		notify(l);
}

void lapic_request_event(struct lapic *l, unsigned event)
{
	atomic_fetch_or(&l->events, event);
	notify(l);
}

void lapic_signal(struct lapic *l, unsigned reg)
{
	uint32_t entry = lapic_reg(l, reg);

	if (entry & LAPIC_LVT_MASKED)
		return;
	switch (entry >> 8 & 7) {
	case LAPIC_MODE_FIXED: lapic_request(l, entry & 0xff, false); break;
	case LAPIC_MODE_NMI: lapic_request_event(l, LAPIC_NMI); break;
	default: break;
	}
}

/* An error interrupt with a bad vector is an error too, but one that needs no interrupt. */
void lapic_error(struct lapic *l, uint32_t error)
{
	uint32_t before = atomic_fetch_or(&l->errors, error);

	if (!(before & error))
		lapic_signal(l, LAPIC_LVT_ERROR);
}

bool lapic_accepts_pic(const struct lapic *l)
{
	uint32_t lint0 = lapic_reg(l, LAPIC_LVT_LINT0);

	if (!is_enabled(l))
		return l->bootstrap;
	return !(lint0 & LAPIC_LVT_MASKED) && (lint0 >> 8 & 7) == LAPIC_MODE_EXTINT;
}

/* --- Registers ---- */

static uint32_t read_reg(struct lapic *l, unsigned reg)
{
	switch (reg) {
	case LAPIC_ID: return lapic_is_x2(l) ? l->id : l->id << 24;
	case LAPIC_VERSION: return VERSION;
	case LAPIC_LDR:
		return lapic_is_x2(l) ? l->id >> 4 << 16 | 1u << (l->id & 15) : lapic_reg(l, reg);
	case LAPIC_TIMER_CURRENT: return lapic_timer_current(l);
	default: return lapic_reg(l, reg);
	}
}

/* Turned off by software, an APIC keeps its local interrupts masked (§11.4.7.2). */
static void write_svr(struct lapic *l, uint32_t value)
{
	set_reg(l, LAPIC_SVR, value);
	if (value & LAPIC_SVR_ENABLE)
		return;
	for (unsigned reg = LAPIC_LVT_TIMER; reg <= LAPIC_LVT_ERROR; reg++)
		set_reg(l, reg, lapic_reg(l, reg) | LAPIC_LVT_MASKED);
}

static void write_lvt(struct lapic *l, unsigned reg, uint32_t value)
{
	uint32_t before = lapic_reg(l, reg);

	if (!(lapic_reg(l, LAPIC_SVR) & LAPIC_SVR_ENABLE))
		value |= LAPIC_LVT_MASKED;
	set_reg(l, reg, value);
	if (reg == LAPIC_LVT_TIMER)
		lapic_timer_written(l, reg, before);
	/* The PICs may have waited for it. */
	if (reg == LAPIC_LVT_LINT0 && lapic_accepts_pic(l))
		notify(l);
}

static void write_reg(struct lapic *l, unsigned reg, uint32_t value)
{
	uint32_t before = lapic_reg(l, reg);

	switch (reg) {
	case LAPIC_TPR: set_tpr(l, value); break;
	case LAPIC_EOI: end_of_interrupt(l); break;
	case LAPIC_DFR: set_reg(l, reg, value | 0x0fffffff); break;
	case LAPIC_SVR: write_svr(l, value); break;
	case LAPIC_ESR: set_reg(l, reg, atomic_exchange(&l->errors, 0)); break;
	case LAPIC_LVT_TIMER ... LAPIC_LVT_ERROR: write_lvt(l, reg, value); break;
	case LAPIC_TIMER_INITIAL:
	case LAPIC_TIMER_DIVIDE:
		set_reg(l, reg, value);
		lapic_timer_written(l, reg, before);
		break;
	case LAPIC_ICR:
		set_reg(l, reg, value);
		lapic_send(l, value, lapic_reg(l, LAPIC_ICR_HIGH) >> 24);
		break;
	default: set_reg(l, reg, value); break;
	}
}

bool lapic_decodes(const struct lapic *l, uint64_t gpa)
{
	uint64_t base = l->base;

	return (base & (LAPIC_BASE_EN | LAPIC_BASE_EXTD)) == LAPIC_BASE_EN &&
	       (gpa & ~(uint64_t)(LAPIC_SIZE - 1)) == (base & BASE_ADDRESS);
}

static bool may(unsigned offset, unsigned access)
{
	return offset / 16 < LAPIC_REGS && rules[offset / 16].access & access;
}

static void bad_access(struct lapic *l, unsigned offset)
{
	log_item(LOG_GUEST_ERRORS, "lapic %u: no such access to register 0x%x", l->id, offset);
	if (offset / 16 >= LAPIC_REGS || !rules[offset / 16].access)
		lapic_error(l, LAPIC_ERROR_REGISTER);
}

uint32_t lapic_read(struct lapic *l, unsigned offset, unsigned size)
{
	if (offset % 16 + size > 4 || !may(offset, R)) {
		bad_access(l, offset);
		return 0;
	}
	return read_reg(l, offset / 16) >> offset % 4 * 8;
}

void lapic_write(struct lapic *l, unsigned offset, unsigned size, uint32_t value)
{
	if (offset % 16 || size != 4 || !may(offset, W)) {
		bad_access(l, offset);
		return;
	}
	write_reg(l, offset / 16, value & rules[offset / 16].bits);
}

/* --- MSRs ---- */

/* Off, xAPIC, x2APIC: from each only to the next, and off at any time (§11.12.5). */
static bool write_base(struct lapic *l, uint64_t value)
{
	uint64_t mode = value & (LAPIC_BASE_EN | LAPIC_BASE_EXTD);
	uint64_t old = l->base & (LAPIC_BASE_EN | LAPIC_BASE_EXTD);

	if (value & ~(BASE_ADDRESS | LAPIC_BASE_BSP | LAPIC_BASE_EN | LAPIC_BASE_EXTD) ||
	    mode == LAPIC_BASE_EXTD || (mode == LAPIC_BASE_EN && old & LAPIC_BASE_EXTD) ||
	    (mode & LAPIC_BASE_EXTD && !old))
		return false;
	if ((value & BASE_ADDRESS) != DEFAULT_BASE)
		LOG_ONCE("a guest moved a local APIC to 0x%llx: where there is RAM, it is not seen",
			 (unsigned long long)(value & BASE_ADDRESS));
	l->base = value;
	if (!mode && old)
		lapic_init(l);
	return true;
}

static bool read_x2(struct lapic *l, unsigned reg, uint64_t *value)
{
	if (!lapic_is_x2(l) || !may(reg * 16, X2_R))
		return false;
	*value = read_reg(l, reg);
	if (reg == LAPIC_ICR)
		*value |= (uint64_t)lapic_reg(l, LAPIC_ICR_HIGH) << 32;
	return true;
}

static bool write_x2(struct lapic *l, unsigned reg, uint64_t value)
{
	uint32_t high = value >> 32, low = value;

	if (!lapic_is_x2(l) || !may(reg * 16, X2_W) || low & ~rules[reg].bits ||
	    (high && reg != LAPIC_ICR))
		return false;
	switch (reg) {
	case LAPIC_ICR:
		set_reg(l, LAPIC_ICR, low);
		set_reg(l, LAPIC_ICR_HIGH, high);
		lapic_send(l, low, high);
		break;
	case LAPIC_SELF_IPI:
		if (low < LAPIC_FIRST_VECTOR)
			lapic_error(l, LAPIC_ERROR_SEND_VECTOR);
		else
			lapic_request(l, low, false);
		break;
	default: write_reg(l, reg, low); break;
	}
	return true;
}

bool lapic_read_msr(struct lapic *l, uint32_t index, uint64_t *value)
{
	switch (index) {
	case MSR_APIC_BASE: *value = l->base; return true;
	case MSR_TSC_DEADLINE:
		*value = lapic_timer_by_tsc(l) ? l->tsc_deadline : 0;
		return l->all->tsc_khz;
	case MSR_X2APIC ... MSR_X2APIC + 0xff: return read_x2(l, index - MSR_X2APIC, value);
	default: return false;
	}
}

bool lapic_write_msr(struct lapic *l, uint32_t index, uint64_t value)
{
	switch (index) {
	case MSR_APIC_BASE: return write_base(l, value);
	case MSR_TSC_DEADLINE:
		if (l->all->tsc_khz)
			lapic_set_tsc_deadline(l, value);
		return l->all->tsc_khz;
	case MSR_X2APIC ... MSR_X2APIC + 0xff: return write_x2(l, index - MSR_X2APIC, value);
	default: return false;
	}
}

/* --- Life ---- */

/*
 * §11.4.7.1. The bootstrap processor takes the PICs' interrupts, as firmware leaves it (MP
 * Specification 1.4 §3.6.2.2).
 */
void lapic_init(struct lapic *l)
{
	for (unsigned reg = 0; reg < LAPIC_REGS; reg++)
		set_reg(l, reg, 0);
	for (unsigned reg = LAPIC_LVT_TIMER; reg <= LAPIC_LVT_ERROR; reg++)
		set_reg(l, reg, LAPIC_LVT_MASKED);
	if (l->bootstrap)
		set_reg(l, LAPIC_LVT_LINT0, LAPIC_MODE_EXTINT << 8);
	set_reg(l, LAPIC_DFR, DFR_FLAT);
	set_reg(l, LAPIC_SVR, SVR_RESET);
	l->errors = 0;
	l->deadline = LAPIC_NEVER;
	l->tsc_deadline = 0;
}

void lapic_reset(struct lapic *l)
{
	l->base = DEFAULT_BASE | LAPIC_BASE_EN | (l->bootstrap ? LAPIC_BASE_BSP : 0);
	l->events = 0;
	lapic_init(l);
}

struct lapics *lapics_new(const uint32_t *ids, unsigned n, uint32_t tsc_khz,
			  const struct lapic_host *host)
{
	struct lapics *all = xcalloc(1, sizeof(*all));

	all->lapic = xcalloc(n, sizeof(*all->lapic));
	all->n = n;
	all->tsc_khz = tsc_khz;
	all->host = *host;
	for (unsigned i = 0; i < n; i++) {
		struct lapic *l = &all->lapic[i];

		l->all = all;
		l->cpu = i;
		l->id = ids[i];
		l->bootstrap = i == 0;
		lapic_reset(l);
	}
	return all;
}

void lapics_free(struct lapics *all)
{
	if (!all)
		return;
	free(all->lapic);
	free(all);
}
