/*
 * Software backend: exceptions and interrupts.
 *
 * An instruction that faults says so with soft_raise(); the run loop then delivers. Delivery is all
 * or nothing like an instruction, and may fault itself: by the table of APM vol. 2 §8.2.9 two
 * faults make a double fault, and a fault of that a shutdown.
 */
#include "hav/soft/soft.h"

#include "base/log.h"

enum { GATE_TASK = 5, GATE_INT16 = 6, GATE_TRAP16 = 7, GATE_INT = 0xe, GATE_TRAP = 0xf };

enum soft_result soft_raise(struct soft_vcpu *cpu, uint8_t vector)
{
	cpu->fault = (struct soft_fault){ .vector = vector };
	return SOFT_FAULT;
}

enum soft_result soft_raise_error(struct soft_vcpu *cpu, uint8_t vector, uint32_t error)
{
	cpu->fault = (struct soft_fault){ .vector = vector, .has_error = true, .error = error };
	return SOFT_FAULT;
}

static enum soft_result deliver_real(struct soft_vcpu *cpu, uint8_t vector)
{
	struct soft_stack stack;
	enum soft_result r;
	uint32_t entry;

	if (vector * 4u + 3 > cpu->idt.limit)
		return soft_raise_error(cpu, EXC_GP, vector * 8u + 2);
	r = soft_read_system(cpu, cpu->idt.base + vector * 4u, &entry, 4);
	soft_stack_here(cpu, &stack);
	if (!r)
		r = soft_stack_push(cpu, &stack, cpu->rflags, 2);
	if (!r)
		r = soft_stack_push(cpu, &stack, cpu->seg[CS].selector, 2);
	if (!r)
		r = soft_stack_push(cpu, &stack, cpu->rip, 2);
	if (r)
		return r;
	soft_stack_commit(cpu, &stack);
	cpu->seg[CS].selector = entry >> 16;
	cpu->seg[CS].base = entry >> 16 << 4;
	cpu->next_rip = entry & 0xffff;
	soft_set_flags(cpu, 0, RFLAGS_IF | RFLAGS_TF | RFLAGS_RF | RFLAGS_AC);
	soft_update_mode(cpu);
	return SOFT_DONE;
}

struct gate {
	uint64_t low, high;
	uint64_t rip;
	uint16_t selector;
	unsigned type, dpl, ist;
	bool present;
};

static enum soft_result read_gate(struct soft_vcpu *cpu, uint8_t vector, uint32_t external,
				  struct gate *gate)
{
	bool wide = cpu->efer & EFER_LMA;
	unsigned size = wide ? 16 : 8;
	enum soft_result r;

	if (vector * size + size - 1 > cpu->idt.limit)
		return soft_raise_error(cpu, EXC_GP, (vector * 8u + 2) | external);
	gate->high = 0;
	r = soft_read_system(cpu, cpu->idt.base + vector * size, &gate->low, 8);
	if (!r && wide)
		r = soft_read_system(cpu, cpu->idt.base + vector * size + 8, &gate->high, 8);
	gate->selector = gate->low >> 16;
	gate->type = gate->low >> 40 & 0x1f;
	gate->dpl = gate->low >> 45 & 3;
	gate->present = gate->low >> 47 & 1;
	gate->ist = wide ? gate->low >> 32 & 7 : 0;
	gate->rip = (gate->low & 0xffff) | (gate->low >> 32 & 0xffff0000) | gate->high << 32;
	if (gate->type == GATE_INT16 || gate->type == GATE_TRAP16)
		gate->rip &= 0xffff;
	return r;
}

static enum soft_result check_gate(struct soft_vcpu *cpu, uint8_t vector, unsigned kind,
				   uint32_t external, const struct gate *gate)
{
	bool wide = cpu->efer & EFER_LMA;
	uint32_t error = (vector * 8u + 2) | external;

	switch (gate->type) {
	case GATE_INT:
	case GATE_TRAP: break;
	case GATE_INT16:
	case GATE_TRAP16:
		if (!wide)
			break;
		/* fall through */
	case GATE_TASK:
		if (!wide)
			break;
		/* fall through */
	default: return soft_raise_error(cpu, EXC_GP, error);
	}
	if (kind == EVENT_SOFTWARE && gate->dpl < cpu->cpl)
		return soft_raise_error(cpu, EXC_GP, error);
	if (!gate->present)
		return soft_raise_error(cpu, EXC_NP, error);
	return SOFT_DONE;
}

/* Faults push RF set, so that an instruction breakpoint does not hit the same instruction again. */
static bool pushes_rf(uint8_t vector, unsigned kind, const struct soft_vcpu *cpu)
{
	if (kind != EVENT_EXCEPTION)
		return cpu->rflags & RFLAGS_RF;
	return vector != EXC_DB && vector != EXC_BP && vector != EXC_OF && vector != EXC_NMI;
}

static enum soft_result push_frame(struct soft_vcpu *cpu, struct soft_stack *stack, unsigned size,
				   bool with_stack, uint64_t flags, bool has_error, uint32_t error)
{
	enum soft_result r = SOFT_DONE;

	if (with_stack) {
		r = soft_stack_push(cpu, stack, cpu->seg[SS].selector, size);
		if (!r)
			r = soft_stack_push(cpu, stack, cpu->frame.gpr[RSP], size);
	}
	if (!r)
		r = soft_stack_push(cpu, stack, flags, size);
	if (!r)
		r = soft_stack_push(cpu, stack, cpu->seg[CS].selector, size);
	if (!r)
		r = soft_stack_push(cpu, stack, cpu->rip, size);
	if (!r && has_error)
		r = soft_stack_push(cpu, stack, error, size);
	return r;
}

/* Through a task gate; the error code goes onto the new task's stack. */
static enum soft_result deliver_task(struct soft_vcpu *cpu, const struct gate *gate, bool has_error,
				     uint32_t error)
{
	struct soft_stack stack;
	enum soft_result r = soft_task_switch(cpu, gate->selector, TASK_INTERRUPT, cpu->rip);

	if (r || !has_error)
		return r;
	soft_stack_here(cpu, &stack);
	r = soft_stack_push(cpu, &stack, error, cpu->tr.attr & 8 ? 4 : 2);
	if (!r)
		soft_stack_commit(cpu, &stack);
	return r;
}

static enum soft_result deliver_protected(struct soft_vcpu *cpu, uint8_t vector, unsigned kind,
					  bool has_error, uint32_t error)
{
	bool wide = cpu->efer & EFER_LMA, inner, switches;
	uint32_t external = kind == EVENT_SOFTWARE ? 0 : 1;
	uint64_t flags = cpu->rflags & ~(uint64_t)RFLAGS_RF;
	struct soft_descriptor d;
	struct soft_stack stack;
	struct gate gate;
	enum soft_result r;
	unsigned cpl, size;

	r = read_gate(cpu, vector, external, &gate);
	if (!r)
		r = check_gate(cpu, vector, kind, external, &gate);
	if (!r && gate.type == GATE_TASK)
		return deliver_task(cpu, &gate, has_error, error);
	if (!r)
		r = soft_gate_target(cpu, gate.selector, external, &d);
	if (r)
		return r;
	inner = !soft_is_conforming(&d.segment) && soft_dpl(&d.segment) < cpu->cpl;
	cpl = inner ? soft_dpl(&d.segment) : cpu->cpl;
	switches = inner || gate.ist;
	size = wide ? 8 : gate.type == GATE_INT16 || gate.type == GATE_TRAP16 ? 2 : 4;
	if (switches) {
		r = soft_inner_stack(cpu, cpl, gate.ist, &stack);
		if (r)
			return r;
		if (!inner)
			stack.ss = cpu->seg[SS];
	} else {
		soft_stack_here(cpu, &stack);
		stack.wide = wide;
		if (wide) {
			stack.mask = UINT64_MAX;
			stack.sp = cpu->frame.gpr[RSP];
		}
	}
	if (wide)
		stack.sp &= ~UINT64_C(15);
	if (wide ? !soft_canonical(gate.rip) : gate.rip > d.segment.limit)
		return soft_raise_error(cpu, EXC_GP, external);
	flags |= pushes_rf(vector, kind, cpu) ? RFLAGS_RF : 0;
	r = push_frame(cpu, &stack, size, wide || inner, flags, has_error, error);
	if (r == SOFT_FAULT && cpu->fault.vector == EXC_SS)
		cpu->fault.error |= external;
	if (!r)
		r = soft_mark_accessed(cpu, &d);
	if (r)
		return r;
	cpu->seg[SS] = stack.ss;
	soft_set_code(cpu, &d.segment, gate.rip, cpl);
	soft_stack_commit(cpu, &stack);
	soft_set_flags(cpu, 0,
		       RFLAGS_TF | RFLAGS_NT | RFLAGS_RF | RFLAGS_VM |
			       (gate.type == GATE_INT || gate.type == GATE_INT16 ? RFLAGS_IF : 0));
	soft_update_mode(cpu);
	return SOFT_DONE;
}

enum soft_result soft_deliver(struct soft_vcpu *cpu, uint8_t vector, unsigned kind, bool has_error,
			      uint32_t error)
{
	if (cpu->cr0 & CR0_PE)
		return deliver_protected(cpu, vector, kind, has_error, error);
	return deliver_real(cpu, vector);
}

static bool contributory(uint8_t vector)
{
	return vector == EXC_DE || (vector >= EXC_TS && vector <= EXC_GP);
}

/* Does second, met while first was delivered, make a double fault? */
static bool doubles(uint8_t first, uint8_t second)
{
	if (first == EXC_PF)
		return second == EXC_PF || contributory(second);
	return contributory(first) && contributory(second);
}

enum soft_result soft_deliver_fault(struct soft_vcpu *cpu)
{
	for (;;) {
		struct soft_fault fault = cpu->fault;
		enum soft_result r;

		if (fault.vector == EXC_PF)
			cpu->cr2 = cpu->fault_address;
		r = soft_deliver(cpu, fault.vector, EVENT_EXCEPTION,
				 fault.has_error && (cpu->cr0 & CR0_PE), fault.error);
		if (r != SOFT_FAULT)
			return r;
		if (fault.vector == EXC_DF &&
		    (contributory(cpu->fault.vector) || cpu->fault.vector == EXC_PF)) {
			cpu->dead = true;
			return soft_exit(cpu, HAV_EXIT_SHUTDOWN);
		}
		if (doubles(fault.vector, cpu->fault.vector))
			soft_raise_error(cpu, EXC_DF, 0);
	}
}
