/*
 * Software backend: task switches by hardware (Intel SDM vol. 3 §7.3), which only modes before long
 * mode have.
 *
 * The registers go into the old task's TSS and come from the new one's. What can fail up to reading
 * the new TSS faults in the old task; the new task's segments are loaded afterwards, and faults
 * there (#TS, #NP, #SS) are the new task's.
 */
#include "hav/soft/soft.h"

enum { TSS_BUSY = 2, TSS_TYPE_16 = 1, TSS_TYPE_32 = 9 };

/* Where a TSS has what; 0xff: it has not. */
struct layout {
	uint8_t word, cr3, ip, flags, registers, segments, ldt;
	uint8_t n_segments;
	uint16_t limit;
};
static const struct layout layout32 = { 4, 28, 32, 36, 40, 72, 96, 6, 103 };
static const struct layout layout16 = { 2, 0xff, 14, 16, 18, 34, 42, 4, 43 };

static const struct layout *layout_of(const struct hav_segment *tss)
{
	return (tss->attr & 8) ? &layout32 : &layout16;
}

static enum soft_result refuse(struct soft_vcpu *cpu, uint8_t vector, uint16_t selector)
{
	return soft_raise_error(cpu, vector, selector & ~3u);
}

static enum soft_result put(struct soft_vcpu *cpu, uint64_t at, uint64_t value, unsigned size)
{
	return soft_write(cpu, at, &value, size, TLB_SUPERVISOR_AC);
}

static enum soft_result get(struct soft_vcpu *cpu, uint64_t at, uint64_t *value, unsigned size)
{
	*value = 0;
	return soft_read_system(cpu, at, value, size);
}

static enum soft_result set_busy(struct soft_vcpu *cpu, uint64_t descriptor, bool busy)
{
	uint8_t access;
	enum soft_result r = soft_read_system(cpu, descriptor + 5, &access, 1);

	access = busy ? access | TSS_BUSY : access & ~TSS_BUSY;
	return r ? r : soft_write(cpu, descriptor + 5, &access, 1, TLB_SUPERVISOR_AC);
}

static enum soft_result save_old(struct soft_vcpu *cpu, uint64_t rip, uint64_t flags)
{
	const struct layout *l = layout_of(&cpu->tr);
	uint64_t base = cpu->tr.base;
	enum soft_result r = put(cpu, base + l->ip, rip, l->word);

	if (!r)
		r = put(cpu, base + l->flags, flags, l->word);
	for (unsigned i = 0; !r && i < 8; i++)
		r = put(cpu, base + l->registers + i * l->word, cpu->frame.gpr[i], l->word);
	for (unsigned i = 0; !r && i < l->n_segments; i++)
		r = put(cpu, base + l->segments + i * l->word, cpu->seg[i].selector, 2);
	return r;
}

struct new_task {
	uint64_t cr3, ip, flags, registers[8], selectors[N_SEGMENTS], ldt;
};

static enum soft_result read_new(struct soft_vcpu *cpu, const struct hav_segment *tss,
				 struct new_task *t)
{
	const struct layout *l = layout_of(tss);
	enum soft_result r = get(cpu, tss->base + l->ip, &t->ip, l->word);

	*t = (struct new_task){ .ip = t->ip };
	if (!r)
		r = get(cpu, tss->base + l->flags, &t->flags, l->word);
	for (unsigned i = 0; !r && i < 8; i++)
		r = get(cpu, tss->base + l->registers + i * l->word, &t->registers[i], l->word);
	for (unsigned i = 0; !r && i < l->n_segments; i++)
		r = get(cpu, tss->base + l->segments + i * l->word, &t->selectors[i], 2);
	if (!r)
		r = get(cpu, tss->base + l->ldt, &t->ldt, 2);
	if (!r && l->cr3 != 0xff)
		r = get(cpu, tss->base + l->cr3, &t->cr3, 4);
	return r;
}

/* Faults while a task's segments are loaded name TS in place of GP. */
static enum soft_result as_task_fault(struct soft_vcpu *cpu, enum soft_result r)
{
	if (r == SOFT_FAULT && cpu->fault.vector == EXC_GP)
		cpu->fault.vector = EXC_TS;
	return r;
}

static enum soft_result load_ldt(struct soft_vcpu *cpu, uint16_t selector)
{
	struct soft_descriptor d;
	enum soft_result r;

	cpu->ldt = (struct hav_segment){ .selector = selector, .attr = HAV_SEGMENT_UNUSABLE };
	if (!(selector & ~3u))
		return SOFT_DONE;
	if (selector & 4)
		return refuse(cpu, EXC_TS, selector);
	r = soft_read_descriptor(cpu, selector, &d, EXC_TS);
	if (r)
		return r;
	if ((d.segment.attr & (SEG_S | 0xf)) != 2 || !(d.segment.attr & SEG_P))
		return refuse(cpu, EXC_TS, selector);
	cpu->ldt = d.segment;
	return SOFT_DONE;
}

static enum soft_result load_code(struct soft_vcpu *cpu, uint16_t selector)
{
	struct soft_descriptor d;
	enum soft_result r;
	unsigned rpl = selector & 3, dpl;

	if (!(selector & ~3u))
		return refuse(cpu, EXC_TS, selector);
	r = soft_read_descriptor(cpu, selector, &d, EXC_TS);
	if (r)
		return r;
	dpl = soft_dpl(&d.segment);
	if ((d.segment.attr & (SEG_S | 8)) != (SEG_S | 8) ||
	    (soft_is_conforming(&d.segment) ? dpl > rpl : dpl != rpl))
		return refuse(cpu, EXC_TS, selector);
	if (!(d.segment.attr & SEG_P))
		return refuse(cpu, EXC_NP, selector);
	r = soft_mark_accessed(cpu, &d);
	if (!r)
		soft_set_code(cpu, &d.segment, cpu->next_rip, rpl);
	return r;
}

static enum soft_result load_segments(struct soft_vcpu *cpu, const struct new_task *t)
{
	static const uint8_t order[] = { SS, ES, DS, FS, GS };
	enum soft_result r = load_ldt(cpu, t->ldt);

	if (!r)
		r = load_code(cpu, t->selectors[CS]);
	for (unsigned i = 0; !r && i < sizeof(order); i++)
		r = as_task_fault(cpu, soft_load_segment(cpu, order[i], t->selectors[order[i]]));
	if (!r && t->ip > cpu->seg[CS].limit)
		r = soft_raise_error(cpu, EXC_GP, 0);
	return r;
}

static void take_registers(struct soft_vcpu *cpu, const struct new_task *t)
{
	const struct hav_segment none = { .attr = HAV_SEGMENT_UNUSABLE };

	for (unsigned i = 0; i < 8; i++)
		cpu->frame.gpr[i] = t->registers[i];
	for (unsigned i = 0; i < N_SEGMENTS; i++) {
		if (i != CS)
			cpu->seg[i] = none;
		cpu->seg[i].selector = t->selectors[i];
	}
	cpu->rip = cpu->next_rip = t->ip;
	cpu->rflags = (t->flags & 0x257fd5) | RFLAGS_ONE;
}

static enum soft_result check_tss(struct soft_vcpu *cpu, uint16_t selector,
				  enum soft_task_cause cause, struct soft_descriptor *d)
{
	uint8_t vector = cause == TASK_IRET ? EXC_TS : EXC_GP;
	bool busy;
	enum soft_result r;

	if (!(selector & ~3u) || (selector & 4))
		return refuse(cpu, vector, selector);
	r = soft_read_descriptor(cpu, selector, d, vector);
	if (r)
		return r;
	busy = d->segment.attr & TSS_BUSY;
	switch (d->segment.attr & (SEG_S | 0xf) & ~(unsigned)TSS_BUSY) {
	case TSS_TYPE_16:
	case TSS_TYPE_32: break;
	default: return refuse(cpu, vector, selector);
	}
	if (busy != (cause == TASK_IRET))
		return refuse(cpu, vector, selector);
	if (!(d->segment.attr & SEG_P))
		return refuse(cpu, EXC_NP, selector);
	if (d->segment.limit < layout_of(&d->segment)->limit)
		return refuse(cpu, EXC_TS, selector);
	return SOFT_DONE;
}

static bool is_nested(enum soft_task_cause cause)
{
	return cause == TASK_CALL || cause == TASK_INTERRUPT;
}

enum soft_result soft_task_switch(struct soft_vcpu *cpu, uint16_t selector,
				  enum soft_task_cause cause, uint64_t rip)
{
	uint64_t flags = cpu->rflags, old = cpu->gdt.base + (cpu->tr.selector & ~7u);
	uint16_t back = cpu->tr.selector;
	struct soft_descriptor d;
	struct new_task task;
	enum soft_result r = check_tss(cpu, selector, cause, &d);

	if (!r)
		r = read_new(cpu, &d.segment, &task);
	if (!r && !is_nested(cause))
		r = set_busy(cpu, old, false);
	if (!r)
		r = save_old(cpu, rip, cause == TASK_IRET ? flags & ~(uint64_t)RFLAGS_NT : flags);
	if (!r && is_nested(cause))
		r = put(cpu, d.segment.base, back, 2);
	if (!r && cause != TASK_IRET)
		r = set_busy(cpu, d.linear, true);
	if (r)
		return r;
	if (is_nested(cause))
		task.flags |= RFLAGS_NT;
	cpu->tr = d.segment;
	cpu->tr.attr |= TSS_BUSY;
	cpu->cr0 |= CR0_TS;
	if ((cpu->cr0 & CR0_PG) && (d.segment.attr & 8)) {
		cpu->cr3 = task.cr3;
		soft_tlb_flush(cpu, false);
	}
	take_registers(cpu, &task);
	return load_segments(cpu, &task);
}
