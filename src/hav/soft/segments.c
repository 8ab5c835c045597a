/*
 * Software backend: segments, and the far transfers that change them.
 *
 * Long mode has bases for FS and GS only; all else here is for the modes before it, which firmware
 * and boot loaders pass through, and for compatibility mode. Checks are in the manuals' order (APM
 * vol. 2 §4; Intel SDM vol. 2, JMP, CALL, RET, IRET), and nothing is loaded before all have passed.
 * Task switches by hardware (task gates, far transfers to a TSS) do not exist: they are #GP, and
 * logged.
 */
#include "hav/soft/soft.h"

#include "base/log.h"

#define TYPE(s)          ((s)->attr & 0xf)
#define IS_CODE(s)       (((s)->attr & (SEG_S | 8)) == (SEG_S | 8))
#define IS_CONFORMING(s) (((s)->attr & (SEG_S | 0xc)) == (SEG_S | 0xc))
#define IS_WRITABLE(s)   (((s)->attr & (SEG_S | 0xa)) == (SEG_S | 0x2))
#define IS_READABLE(s)   (((s)->attr & SEG_S) && (!((s)->attr & 8) || ((s)->attr & 2)))
#define IS_PRESENT(s)    ((s)->attr & SEG_P)

enum {
	TYPE_TSS16 = 1,
	TYPE_LDT = 2,
	TYPE_CALL_GATE16 = 4,
	TYPE_TASK_GATE = 5,
	TYPE_TSS = 9,
	TYPE_CALL_GATE = 0xc
};

static bool real_mode(const struct soft_vcpu *cpu)
{
	return !(cpu->cr0 & CR0_PE);
}

static bool long_mode(const struct soft_vcpu *cpu)
{
	return cpu->efer & EFER_LMA;
}

/* --- Access through a segment ---- */

static bool within(const struct soft_vcpu *cpu, const struct hav_segment *s, uint64_t offset,
		   unsigned size, unsigned access)
{
	uint64_t last = offset + size - 1;

	if (s->attr & HAV_SEGMENT_UNUSABLE)
		return false;
	if (!real_mode(cpu)) {
		if ((access & ACCESS_WRITE) && !IS_WRITABLE(s))
			return false;
		if ((access & ACCESS_READ) && !IS_READABLE(s))
			return false;
	}
	/* Expand-down: what is above the limit. */
	if ((s->attr & (SEG_S | 0xc)) == (SEG_S | 0x4))
		return offset > s->limit && last <= (s->attr & SEG_DB ? UINT32_MAX : UINT16_MAX);
	return last <= s->limit;
}

enum soft_result soft_linear_slow(struct soft_vcpu *cpu, unsigned segment, uint64_t offset,
				  unsigned size, unsigned access, uint64_t *linear)
{
	if (cpu->mode == 64 || !within(cpu, &cpu->seg[segment], offset, size, access))
		return soft_raise_error(cpu, segment == SS ? EXC_SS : EXC_GP, 0);
	*linear = (uint32_t)(cpu->seg[segment].base + offset);
	return SOFT_DONE;
}

static bool is_flat(const struct soft_vcpu *cpu, const struct hav_segment *s)
{
	return s->limit == UINT32_MAX && within(cpu, s, 0, 1, ACCESS_READ | ACCESS_WRITE);
}

void soft_update_mode(struct soft_vcpu *cpu)
{
	if (long_mode(cpu) && (cpu->seg[CS].attr & SEG_L))
		cpu->mode = 64;
	else
		cpu->mode = cpu->seg[CS].attr & SEG_DB ? 32 : 16;
	if (real_mode(cpu))
		cpu->cpl = 0;
	for (unsigned i = 0; i < N_SEGMENTS; i++)
		cpu->flat[i] = is_flat(cpu, &cpu->seg[i]);
	cpu->page = NULL;
	soft_tlb_choose(cpu);
}

/* --- Descriptors ---- */

static void unpack(struct soft_descriptor *d, uint16_t selector)
{
	struct hav_segment *s = &d->segment;
	uint32_t limit = (d->low & 0xffff) | (d->low >> 32 & 0xf0000);

	s->selector = selector;
	s->base = (d->low >> 16 & 0xffffff) | (d->low >> 32 & 0xff000000);
	s->attr = (d->low >> 40 & 0xff) | (d->low >> 44 & 0xf00);
	s->limit = s->attr & SEG_G ? limit << 12 | 0xfff : limit;
}

enum soft_result soft_read_descriptor(struct soft_vcpu *cpu, uint16_t selector,
				      struct soft_descriptor *d, uint8_t vector)
{
	bool local = selector & 4;
	uint32_t limit = local ? cpu->ldt.limit : cpu->gdt.limit;
	enum soft_result r;
	bool wide;

	if ((local && (cpu->ldt.attr & HAV_SEGMENT_UNUSABLE)) || (selector | 7u) > limit)
		return soft_raise_error(cpu, vector, selector & ~3u);
	d->linear = (local ? cpu->ldt.base : cpu->gdt.base) + (selector & ~7u);
	r = soft_read_system(cpu, d->linear, &d->low, 8);
	if (r)
		return r;
	unpack(d, selector);
	/* System descriptors of long mode have a second half. */
	wide = long_mode(cpu) && !(d->segment.attr & SEG_S);
	d->high = 0;
	if (!wide)
		return SOFT_DONE;
	if ((selector | 15u) > limit)
		return soft_raise_error(cpu, vector, selector & ~3u);
	r = soft_read_system(cpu, d->linear + 8, &d->high, 8);
	d->segment.base |= d->high << 32;
	return r;
}

enum soft_result soft_mark_accessed(struct soft_vcpu *cpu, struct soft_descriptor *d)
{
	uint8_t access = d->low >> 40;

	if (access & 1)
		return SOFT_DONE;
	access |= 1;
	d->segment.attr |= 1;
	return soft_write(cpu, d->linear + 5, &access, 1, TLB_SUPERVISOR_AC);
}

/* --- Data segments ---- */

enum soft_result soft_check_stack_segment(struct soft_vcpu *cpu, uint16_t selector, unsigned cpl,
					  uint8_t vector, struct soft_descriptor *d)
{
	enum soft_result r;

	if (!(selector & ~3u))
		return soft_raise_error(cpu, vector, 0);
	r = soft_read_descriptor(cpu, selector, d, vector);
	if (r)
		return r;
	if ((selector & 3u) != cpl || soft_dpl(&d->segment) != cpl || !IS_WRITABLE(&d->segment))
		return soft_raise_error(cpu, vector, selector & ~3u);
	if (!IS_PRESENT(&d->segment))
		return soft_raise_error(cpu, EXC_SS, selector & ~3u);
	return SOFT_DONE;
}

static enum soft_result check_data_segment(struct soft_vcpu *cpu, uint16_t selector,
					   struct soft_descriptor *d)
{
	enum soft_result r = soft_read_descriptor(cpu, selector, d, EXC_GP);
	unsigned rpl = selector & 3;

	if (r)
		return r;
	if (!IS_READABLE(&d->segment) ||
	    (!IS_CONFORMING(&d->segment) &&
	     (soft_dpl(&d->segment) < rpl || soft_dpl(&d->segment) < cpu->cpl)))
		return soft_raise_error(cpu, EXC_GP, selector & ~3u);
	if (!IS_PRESENT(&d->segment))
		return soft_raise_error(cpu, EXC_NP, selector & ~3u);
	return SOFT_DONE;
}

static struct hav_segment null_segment(uint16_t selector, unsigned dpl)
{
	return (struct hav_segment){ .selector = selector,
				     .attr = HAV_SEGMENT_UNUSABLE | dpl << 5 };
}

enum soft_result soft_load_segment(struct soft_vcpu *cpu, unsigned segment, uint16_t selector)
{
	struct soft_descriptor d;
	enum soft_result r;

	if (real_mode(cpu)) {
		cpu->seg[segment].selector = selector;
		cpu->seg[segment].base = (uint32_t)selector << 4;
		soft_update_mode(cpu);
		return SOFT_DONE;
	}
	if (!(selector & ~3u) &&
	    (segment != SS || (cpu->mode == 64 && cpu->cpl < 3 && selector == cpu->cpl))) {
		cpu->seg[segment] = null_segment(selector, segment == SS ? cpu->cpl : 0);
		cpu->flat[segment] = false;
		return SOFT_DONE;
	}
	if (segment == SS)
		r = soft_check_stack_segment(cpu, selector, cpu->cpl, EXC_GP, &d);
	else
		r = check_data_segment(cpu, selector, &d);
	if (!r)
		r = soft_mark_accessed(cpu, &d);
	if (r)
		return r;
	cpu->seg[segment] = d.segment;
	cpu->flat[segment] = is_flat(cpu, &d.segment);
	return SOFT_DONE;
}

/* --- Stacks ---- */

static uint64_t stack_mask(const struct soft_vcpu *cpu, const struct hav_segment *ss)
{
	if (cpu->mode == 64)
		return UINT64_MAX;
	return ss->attr & SEG_DB ? UINT32_MAX : UINT16_MAX;
}

void soft_stack_here(struct soft_vcpu *cpu, struct soft_stack *stack)
{
	stack->ss = cpu->seg[SS];
	stack->mask = stack_mask(cpu, &stack->ss);
	stack->sp = cpu->frame.gpr[RSP] & stack->mask;
	stack->tlb = cpu->tlb_now;
	stack->wide = cpu->mode == 64;
}

static enum soft_result stack_linear(struct soft_vcpu *cpu, const struct soft_stack *stack,
				     uint64_t sp, unsigned size, unsigned access, uint64_t *linear)
{
	if (stack->wide) {
		*linear = sp;
		if (soft_canonical(sp) && soft_canonical(sp + size - 1))
			return SOFT_DONE;
	} else {
		*linear = (uint32_t)(stack->ss.base + sp);
		if (within(cpu, &stack->ss, sp, size, access))
			return SOFT_DONE;
	}
	return soft_raise_error(cpu, EXC_SS, 0);
}

enum soft_result soft_stack_push(struct soft_vcpu *cpu, struct soft_stack *stack, uint64_t value,
				 unsigned size)
{
	uint64_t sp = (stack->sp - size) & stack->mask, linear;
	enum soft_result r = stack_linear(cpu, stack, sp, size, ACCESS_WRITE, &linear);

	if (!r)
		r = soft_write(cpu, linear, &value, size, stack->tlb);
	if (!r)
		stack->sp = sp;
	return r;
}

enum soft_result soft_stack_probe(struct soft_vcpu *cpu, const struct soft_stack *stack,
				  unsigned size)
{
	uint64_t sp = (stack->sp - size) & stack->mask, linear;
	enum soft_result r = stack_linear(cpu, stack, sp, size, ACCESS_WRITE, &linear);

	return r ? r : soft_probe(cpu, linear, size, ACCESS_WRITE, stack->tlb);
}

enum soft_result soft_stack_pop(struct soft_vcpu *cpu, struct soft_stack *stack, uint64_t *value,
				unsigned size)
{
	enum soft_result r;
	uint64_t linear;

	*value = 0;
	r = stack_linear(cpu, stack, stack->sp, size, ACCESS_READ, &linear);
	if (!r)
		r = soft_read(cpu, linear, value, size, stack->tlb);
	if (!r)
		stack->sp = (stack->sp + size) & stack->mask;
	return r;
}

void soft_stack_commit(struct soft_vcpu *cpu, const struct soft_stack *stack)
{
	if (stack->mask == UINT16_MAX)
		soft_set_reg(cpu, RSP, 2, stack->sp);
	else
		cpu->frame.gpr[RSP] = stack->sp;
}

static enum soft_result read_tss(struct soft_vcpu *cpu, unsigned offset, void *value, unsigned size)
{
	if (offset + size - 1 > cpu->tr.limit)
		return soft_raise_error(cpu, EXC_TS, cpu->tr.selector & ~3u);
	return soft_read_system(cpu, cpu->tr.base + offset, value, size);
}

enum soft_result soft_inner_stack(struct soft_vcpu *cpu, unsigned cpl, unsigned ist,
				  struct soft_stack *stack)
{
	bool small = TYPE(&cpu->tr) == TYPE_TSS16 || TYPE(&cpu->tr) == (TYPE_TSS16 | 2);
	struct soft_descriptor d;
	enum soft_result r;
	uint16_t selector = 0;
	uint64_t sp = 0;

	stack->tlb = cpl == 3 ? TLB_USER : cpu->cr4 & CR4_SMAP ? TLB_SUPERVISOR : TLB_SUPERVISOR_AC;
	if (long_mode(cpu)) {
		r = read_tss(cpu, ist ? 0x24 + 8 * (ist - 1) : 4 + 8 * cpl, &sp, 8);
		stack->ss = null_segment(cpl, cpl);
		stack->sp = sp;
		stack->mask = UINT64_MAX;
		stack->wide = true;
		return r;
	}
	r = read_tss(cpu, small ? 2 + 4 * cpl : 4 + 8 * cpl, &sp, small ? 2 : 4);
	if (!r)
		r = read_tss(cpu, small ? 4 + 4 * cpl : 8 + 8 * cpl, &selector, 2);
	if (!r)
		r = soft_check_stack_segment(cpu, selector, cpl, EXC_TS, &d);
	if (!r)
		r = soft_mark_accessed(cpu, &d);
	if (r)
		return r;
	stack->ss = d.segment;
	stack->mask = d.segment.attr & SEG_DB ? UINT32_MAX : UINT16_MAX;
	stack->sp = sp & stack->mask;
	stack->wide = false;
	return SOFT_DONE;
}

/* --- Code segments ---- */

static enum soft_result refuse(struct soft_vcpu *cpu, uint8_t vector, uint16_t selector)
{
	return soft_raise_error(cpu, vector, selector & ~3u);
}

/* Can execution go on at rip in this segment? */
static enum soft_result check_target(struct soft_vcpu *cpu, const struct hav_segment *cs,
				     uint64_t rip)
{
	bool wide = long_mode(cpu) && (cs->attr & SEG_L);

	if (wide && (cs->attr & SEG_DB))
		return refuse(cpu, EXC_GP, cs->selector);
	if (wide ? !soft_canonical(rip) : rip > cs->limit)
		return soft_raise_error(cpu, EXC_GP, 0);
	return SOFT_DONE;
}

void soft_set_code(struct soft_vcpu *cpu, const struct hav_segment *cs, uint64_t rip, unsigned cpl)
{
	cpu->seg[CS] = *cs;
	cpu->seg[CS].selector = (cs->selector & ~3u) | cpl;
	cpu->cpl = cpl;
	cpu->next_rip = rip;
	soft_update_mode(cpu);
}

static void set_stack(struct soft_vcpu *cpu, const struct soft_stack *stack, unsigned cpl)
{
	cpu->seg[SS] = stack->ss;
	cpu->seg[SS].selector = (stack->ss.selector & ~3u) | cpl;
	cpu->seg[SS].attr = (stack->ss.attr & ~(3u << 5)) | cpl << 5;
	soft_stack_commit(cpu, stack);
}

/* For gates: the code segment a selector names, to be entered at a privilege of cpl or more. */
enum soft_result soft_gate_target(struct soft_vcpu *cpu, uint16_t selector, uint32_t external,
				  struct soft_descriptor *d)
{
	enum soft_result r;

	if (!(selector & ~3u))
		return soft_raise_error(cpu, EXC_GP, external);
	r = soft_read_descriptor(cpu, selector, d, EXC_GP);
	if (r) {
		if (r == SOFT_FAULT && cpu->fault.vector == EXC_GP)
			cpu->fault.error |= external;
		return r;
	}
	if (!IS_CODE(&d->segment) || soft_dpl(&d->segment) > cpu->cpl ||
	    (long_mode(cpu) && (d->segment.attr & (SEG_L | SEG_DB)) != SEG_L))
		return soft_raise_error(cpu, EXC_GP, (selector & ~3u) | external);
	if (!IS_PRESENT(&d->segment))
		return soft_raise_error(cpu, EXC_NP, (selector & ~3u) | external);
	return SOFT_DONE;
}

bool soft_is_conforming(const struct hav_segment *s)
{
	return IS_CONFORMING(s);
}

/* A call through a gate to an inner level: SS and SP, the parameters, CS and IP go onto the new
 * stack. */
static enum soft_result call_inner(struct soft_vcpu *cpu, unsigned cpl, unsigned size,
				   unsigned parameters, struct soft_stack *inner)
{
	struct soft_stack outer;
	uint64_t words[31];
	enum soft_result r;

	soft_stack_here(cpu, &outer);
	for (unsigned i = 0; i < parameters; i++) {
		r = soft_stack_pop(cpu, &outer, &words[i], size);
		if (r)
			return r;
	}
	r = soft_inner_stack(cpu, cpl, 0, inner);
	if (!r)
		r = soft_stack_push(cpu, inner, cpu->seg[SS].selector, size);
	if (!r)
		r = soft_stack_push(cpu, inner, cpu->frame.gpr[RSP], size);
	while (!r && parameters--)
		r = soft_stack_push(cpu, inner, words[parameters], size);
	return r;
}

static enum soft_result through_gate(struct soft_vcpu *cpu, uint16_t selector,
				     const struct soft_descriptor *gate, bool call)
{
	bool wide = long_mode(cpu), small = TYPE(&gate->segment) == TYPE_CALL_GATE16;
	unsigned size = wide ? 8 : small ? 2 : 4, rpl = selector & 3, cpl;
	uint64_t rip = (gate->low & 0xffff) | (small ? 0 : gate->low >> 32 & 0xffff0000) |
		       (wide ? gate->high << 32 : 0);
	struct soft_descriptor d;
	struct soft_stack stack;
	enum soft_result r;
	bool inner;

	if (soft_dpl(&gate->segment) < cpu->cpl || soft_dpl(&gate->segment) < rpl)
		return refuse(cpu, EXC_GP, selector);
	if (!IS_PRESENT(&gate->segment))
		return refuse(cpu, EXC_NP, selector);
	r = soft_gate_target(cpu, gate->low >> 16, 0, &d);
	if (r)
		return r;
	inner = !IS_CONFORMING(&d.segment) && soft_dpl(&d.segment) < cpu->cpl;
	if (!call && inner)
		return refuse(cpu, EXC_GP, d.segment.selector);
	cpl = inner ? soft_dpl(&d.segment) : cpu->cpl;
	r = check_target(cpu, &d.segment, rip);
	if (!r && inner)
		r = call_inner(cpu, cpl, size, wide ? 0 : gate->low >> 32 & 31, &stack);
	else
		soft_stack_here(cpu, &stack);
	if (!r && call)
		r = soft_stack_push(cpu, &stack, cpu->seg[CS].selector, size);
	if (!r && call)
		r = soft_stack_push(cpu, &stack, cpu->next_rip, size);
	if (!r)
		r = soft_mark_accessed(cpu, &d);
	if (r)
		return r;
	soft_set_code(cpu, &d.segment, rip, cpl);
	if (inner)
		set_stack(cpu, &stack, cpl);
	else
		soft_stack_commit(cpu, &stack);
	soft_update_mode(cpu);
	return SOFT_DONE;
}

static enum soft_result push_return(struct soft_vcpu *cpu, struct soft_stack *stack, unsigned size)
{
	enum soft_result r;

	soft_stack_here(cpu, stack);
	r = soft_stack_push(cpu, stack, cpu->seg[CS].selector, size);
	return r ? r : soft_stack_push(cpu, stack, cpu->next_rip, size);
}

static enum soft_result far_jump_real(struct soft_vcpu *cpu, unsigned size, uint16_t selector,
				      uint64_t offset, bool call)
{
	struct soft_stack stack;
	enum soft_result r;

	if (offset > cpu->seg[CS].limit)
		return soft_raise_error(cpu, EXC_GP, 0);
	if (call) {
		r = push_return(cpu, &stack, size);
		if (r)
			return r;
		soft_stack_commit(cpu, &stack);
	}
	cpu->seg[CS].selector = selector;
	cpu->seg[CS].base = (uint32_t)selector << 4;
	cpu->next_rip = offset;
	soft_update_mode(cpu);
	return SOFT_DONE;
}

/* Through a task gate, or straight to a TSS. */
static enum soft_result far_task(struct soft_vcpu *cpu, uint16_t selector,
				 const struct soft_descriptor *d, bool call)
{
	unsigned dpl = soft_dpl(&d->segment);
	uint16_t tss = TYPE(&d->segment) == TYPE_TASK_GATE ? d->low >> 16 : selector;

	if (dpl < cpu->cpl || dpl < (selector & 3u))
		return refuse(cpu, EXC_GP, selector);
	if (!IS_PRESENT(&d->segment))
		return refuse(cpu, EXC_NP, selector);
	return soft_task_switch(cpu, tss, call ? TASK_CALL : TASK_JUMP, cpu->next_rip);
}

/* IRET in a nested task: back to the one that called it. */
static enum soft_result return_from_task(struct soft_vcpu *cpu)
{
	uint16_t back;
	enum soft_result r = read_tss(cpu, 0, &back, 2);

	return r ? r : soft_task_switch(cpu, back, TASK_IRET, cpu->next_rip);
}

enum soft_result soft_far_jump(struct soft_vcpu *cpu, const struct soft_insn *insn,
			       uint16_t selector, uint64_t offset, bool call)
{
	struct soft_descriptor d;
	struct soft_stack stack;
	enum soft_result r;
	unsigned rpl = selector & 3;

	if (real_mode(cpu))
		return far_jump_real(cpu, insn->opsize, selector, offset, call);
	if (!(selector & ~3u))
		return soft_raise_error(cpu, EXC_GP, 0);
	r = soft_read_descriptor(cpu, selector, &d, EXC_GP);
	if (r)
		return r;
	if (!(d.segment.attr & SEG_S)) {
		unsigned type = TYPE(&d.segment);

		if (type == TYPE_CALL_GATE || (type == TYPE_CALL_GATE16 && !long_mode(cpu)))
			return through_gate(cpu, selector, &d, call);
		if (!long_mode(cpu) && (type == TYPE_TASK_GATE || (type & ~2u) == TYPE_TSS ||
					(type & ~2u) == TYPE_TSS16))
			return far_task(cpu, selector, &d, call);
		return refuse(cpu, EXC_GP, selector);
	}
	if (!IS_CODE(&d.segment) ||
	    (IS_CONFORMING(&d.segment) ? soft_dpl(&d.segment) > cpu->cpl
				       : rpl > cpu->cpl || soft_dpl(&d.segment) != cpu->cpl))
		return refuse(cpu, EXC_GP, selector);
	if (!IS_PRESENT(&d.segment))
		return refuse(cpu, EXC_NP, selector);
	r = check_target(cpu, &d.segment, offset);
	if (!r && call)
		r = push_return(cpu, &stack, insn->opsize);
	if (!r)
		r = soft_mark_accessed(cpu, &d);
	if (r)
		return r;
	if (call)
		soft_stack_commit(cpu, &stack);
	soft_set_code(cpu, &d.segment, offset, cpu->cpl);
	return SOFT_DONE;
}

/* --- Returns ---- */

/* Flags that IRET and POPF may change at this privilege. */
uint64_t soft_flags_allowed(const struct soft_vcpu *cpu, unsigned size)
{
	uint64_t mask = RFLAGS_CF | RFLAGS_PF | RFLAGS_AF | RFLAGS_ZF | RFLAGS_SF | RFLAGS_OF |
			RFLAGS_TF | RFLAGS_DF | RFLAGS_NT;
	unsigned iopl = (cpu->rflags & RFLAGS_IOPL) >> 12;

	if (size > 2)
		mask |= RFLAGS_AC | RFLAGS_ID | RFLAGS_RF;
	if (cpu->cpl <= iopl)
		mask |= RFLAGS_IF;
	if (cpu->cpl == 0)
		mask |= RFLAGS_IOPL;
	return mask;
}

void soft_set_flags(struct soft_vcpu *cpu, uint64_t flags, uint64_t mask)
{
	cpu->rflags = (cpu->rflags & ~mask) | (flags & mask) | RFLAGS_ONE;
	cpu->rf_loaded = flags & mask & RFLAGS_RF;
	soft_tlb_choose(cpu);
	atomic_fetch_or(&cpu->attention, ATTENTION_EVENT);
}

static enum soft_result return_real(struct soft_vcpu *cpu, unsigned size, unsigned release,
				    bool iret)
{
	uint64_t rip, cs, flags = 0;
	struct soft_stack stack;
	enum soft_result r;

	soft_stack_here(cpu, &stack);
	r = soft_stack_pop(cpu, &stack, &rip, size);
	if (!r)
		r = soft_stack_pop(cpu, &stack, &cs, size);
	if (!r && iret)
		r = soft_stack_pop(cpu, &stack, &flags, size);
	if (r)
		return r;
	if (rip > cpu->seg[CS].limit)
		return soft_raise_error(cpu, EXC_GP, 0);
	stack.sp = (stack.sp + release) & stack.mask;
	soft_stack_commit(cpu, &stack);
	cpu->seg[CS].selector = cs;
	cpu->seg[CS].base = (cs & 0xffff) << 4;
	cpu->next_rip = rip;
	if (iret)
		soft_set_flags(cpu, flags, soft_flags_allowed(cpu, size));
	soft_update_mode(cpu);
	return SOFT_DONE;
}

/* Going out: segments that the outer level may not use become null. */
static void drop_inner_segments(struct soft_vcpu *cpu)
{
	static const uint8_t data[] = { ES, DS, FS, GS };

	for (unsigned i = 0; i < sizeof(data); i++) {
		struct hav_segment *s = &cpu->seg[data[i]];

		if (!(s->attr & HAV_SEGMENT_UNUSABLE) && soft_dpl(s) < cpu->cpl &&
		    !IS_CONFORMING(s))
			*s = null_segment(0, 0);
	}
}

static enum soft_result check_return(struct soft_vcpu *cpu, uint16_t selector,
				     struct soft_descriptor *d)
{
	enum soft_result r;
	unsigned rpl = selector & 3;

	if (!(selector & ~3u))
		return soft_raise_error(cpu, EXC_GP, 0);
	r = soft_read_descriptor(cpu, selector, d, EXC_GP);
	if (r)
		return r;
	if (!IS_CODE(&d->segment) || rpl < cpu->cpl ||
	    (IS_CONFORMING(&d->segment) ? soft_dpl(&d->segment) > rpl
					: soft_dpl(&d->segment) != rpl))
		return refuse(cpu, EXC_GP, selector);
	if (!IS_PRESENT(&d->segment))
		return refuse(cpu, EXC_NP, selector);
	return SOFT_DONE;
}

/* The stack to return to: a null SS is right for 64-bit code that is not CPL 3. */
static enum soft_result check_outer_stack(struct soft_vcpu *cpu, uint16_t selector,
					  const struct soft_descriptor *cs, struct hav_segment *ss)
{
	unsigned rpl = cs->segment.selector & 3;
	struct soft_descriptor d;
	enum soft_result r;

	if (!(selector & ~3u) && long_mode(cpu) && (cs->segment.attr & SEG_L) && rpl < 3 &&
	    (selector & 3u) == rpl) {
		*ss = null_segment(selector, rpl);
		return SOFT_DONE;
	}
	r = soft_check_stack_segment(cpu, selector, rpl, EXC_GP, &d);
	if (!r)
		r = soft_mark_accessed(cpu, &d);
	*ss = d.segment;
	return r;
}

enum soft_result soft_far_return(struct soft_vcpu *cpu, const struct soft_insn *insn,
				 unsigned release, bool iret)
{
	unsigned size = insn->opsize;
	uint64_t rip, cs, flags = 0, sp = 0, ss = 0, allowed = soft_flags_allowed(cpu, size);
	struct soft_stack stack;
	struct soft_descriptor d;
	struct hav_segment new_ss;
	enum soft_result r;
	bool outer;

	if (real_mode(cpu))
		return return_real(cpu, size, release, iret);
	if (iret && (cpu->rflags & RFLAGS_NT))
		return long_mode(cpu) ? soft_raise_error(cpu, EXC_GP, 0) : return_from_task(cpu);
	soft_stack_here(cpu, &stack);
	r = soft_stack_pop(cpu, &stack, &rip, size);
	if (!r)
		r = soft_stack_pop(cpu, &stack, &cs, size);
	if (!r && iret)
		r = soft_stack_pop(cpu, &stack, &flags, size);
	if (!r)
		r = check_return(cpu, cs, &d);
	if (r)
		return r;
	stack.sp = (stack.sp + release) & stack.mask;
	outer = (cs & 3) > cpu->cpl || (iret && cpu->mode == 64);
	if (outer) {
		r = soft_stack_pop(cpu, &stack, &sp, size);
		if (!r)
			r = soft_stack_pop(cpu, &stack, &ss, size);
		if (!r)
			r = check_outer_stack(cpu, ss, &d, &new_ss);
	}
	if (!r)
		r = check_target(cpu, &d.segment, rip);
	if (!r)
		r = soft_mark_accessed(cpu, &d);
	if (r)
		return r;
	if (!outer)
		soft_stack_commit(cpu, &stack);
	soft_set_code(cpu, &d.segment, rip, cs & 3);
	if (outer) {
		cpu->seg[SS] = new_ss;
		soft_update_mode(cpu);
		stack.mask = stack_mask(cpu, &new_ss);
		stack.sp = ((sp & soft_mask(size)) + (iret ? 0 : release)) & stack.mask;
		soft_stack_commit(cpu, &stack);
		drop_inner_segments(cpu);
	}
	if (iret)
		soft_set_flags(cpu, flags, allowed);
	soft_update_mode(cpu);
	return SOFT_DONE;
}
