/* Software backend: jumps, calls and returns, interrupts by instruction, system calls. */
#include "hav/soft/exec.h"

#include "base/log.h"

/* Near targets: within the code segment, or canonical. */
static enum soft_result go(struct soft_vcpu *cpu, uint64_t rip)
{
	if (cpu->mode == 64) {
		if (unlikely(!soft_canonical(rip)))
			return soft_raise_error(cpu, EXC_GP, 0);
	} else if (unlikely(rip > cpu->seg[CS].limit)) {
		return soft_raise_error(cpu, EXC_GP, 0);
	}
	cpu->next_rip = rip;
	return SOFT_DONE;
}

static uint64_t relative(const struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	uint64_t rip = cpu->next_rip + insn->imm;

	if (likely(cpu->mode == 64))
		return rip;
	return insn->opsize == 2 ? (uint16_t)rip : (uint32_t)rip;
}

static enum soft_result target(struct soft_vcpu *cpu, const struct soft_insn *insn, uint64_t *rip)
{
	if (insn->op[0].kind == OPERAND_IMM) {
		*rip = relative(cpu, insn);
		return SOFT_DONE;
	}
	return soft_get(cpu, insn, &insn->op[0], rip);
}

/* A far pointer, in the instruction or in memory: offset, then selector. */
static enum soft_result far(struct soft_vcpu *cpu, const struct soft_insn *insn, bool call)
{
	uint64_t offset = 0, selector = 0, at;
	enum soft_result r = SOFT_DONE;

	if (insn->op[0].kind == OPERAND_FAR) {
		offset = (uint32_t)insn->imm;
		selector = insn->disp;
	} else {
		at = soft_offset(cpu, insn);
		r = soft_load(cpu, insn->segment, at, &offset, insn->opsize);
		if (!r)
			r = soft_load(cpu, insn->segment, soft_address(insn, at + insn->opsize),
				      &selector, 2);
	}
	return r ? r : soft_far_jump(cpu, insn, selector, offset, call);
}

static enum soft_result jmp(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	enum soft_result r;
	uint64_t rip;

	if (unlikely(insn->far_branch))
		return far(cpu, insn, false);
	r = target(cpu, insn, &rip);
	return r ? r : go(cpu, rip);
}

static enum soft_result call(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	struct soft_stack stack;
	enum soft_result r;
	uint64_t rip, back;

	if (unlikely(insn->far_branch))
		return far(cpu, insn, true);
	r = target(cpu, insn, &rip);
	if (r)
		return r;
	soft_stack_here(cpu, &stack);
	back = cpu->next_rip;
	/* What is wrong with the stack comes first, but nothing is written there. */
	if (unlikely(go(cpu, rip))) {
		r = soft_stack_probe(cpu, &stack, insn->opsize);
		return r ? r : soft_raise_error(cpu, EXC_GP, 0);
	}
	r = soft_stack_push(cpu, &stack, back, insn->opsize);
	if (!r)
		soft_stack_commit(cpu, &stack);
	return r;
}

static enum soft_result ret(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	struct soft_stack stack;
	enum soft_result r;
	uint64_t rip;

	soft_stack_here(cpu, &stack);
	r = soft_stack_pop(cpu, &stack, &rip, insn->opsize);
	if (!r)
		r = go(cpu, rip);
	if (r)
		return r;
	stack.sp = (stack.sp + (uint16_t)insn->imm) & stack.mask;
	soft_stack_commit(cpu, &stack);
	return SOFT_DONE;
}

static enum soft_result ret_far(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	return soft_far_return(cpu, insn, (uint16_t)insn->imm, false);
}

static enum soft_result iret(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	enum soft_result r = soft_far_return(cpu, insn, 0, true);

	if (!r)
		cpu->events.nmi_masked = false;
	return r;
}

/* --- Conditions ---- */

static bool condition(const struct soft_vcpu *cpu, unsigned code)
{
	uint64_t f = cpu->rflags;
	bool sf = f & RFLAGS_SF, of = f & RFLAGS_OF, result;

	switch (code >> 1) {
	case 0: result = of; break;
	case 1: result = f & RFLAGS_CF; break;
	case 2: result = f & RFLAGS_ZF; break;
	case 3: result = f & (RFLAGS_CF | RFLAGS_ZF); break;
	case 4: result = sf; break;
	case 5: result = f & RFLAGS_PF; break;
	case 6: result = sf != of; break;
	default: result = (f & RFLAGS_ZF) || sf != of; break;
	}
	return result != (code & 1);
}

#define JCC(name, code)                                                                   \
	static enum soft_result name(struct soft_vcpu *cpu, const struct soft_insn *insn) \
	{                                                                                 \
		return condition(cpu, code) ? go(cpu, relative(cpu, insn)) : SOFT_DONE;   \
	}
JCC(jo, 0x0)
JCC(jno, 0x1)
JCC(jb, 0x2)
JCC(jnb, 0x3)
JCC(jz, 0x4)
JCC(jnz, 0x5)
JCC(jbe, 0x6)
JCC(jnbe, 0x7)
JCC(js, 0x8)
JCC(jns, 0x9)
JCC(jp, 0xa)
JCC(jnp, 0xb)
JCC(jl, 0xc)
JCC(jnl_, 0xd)
JCC(jle, 0xe)
JCC(jnle, 0xf)

static enum soft_result jcxz(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	return cpu->frame.gpr[RCX] & soft_mask(insn->addrsize) ? SOFT_DONE
							       : go(cpu, relative(cpu, insn));
}

static enum soft_result loop_while(struct soft_vcpu *cpu, const struct soft_insn *insn, bool more)
{
	uint64_t count = (cpu->frame.gpr[RCX] - 1) & soft_mask(insn->addrsize);

	if (count && more) {
		enum soft_result r = go(cpu, relative(cpu, insn));

		if (r)
			return r;
	}
	soft_set_reg(cpu, RCX, insn->addrsize, count);
	return SOFT_DONE;
}
static enum soft_result loop(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	return loop_while(cpu, insn, true);
}
static enum soft_result loope(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	return loop_while(cpu, insn, cpu->rflags & RFLAGS_ZF);
}
static enum soft_result loopne(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	return loop_while(cpu, insn, !(cpu->rflags & RFLAGS_ZF));
}

/* --- Interrupts by instruction: the return address is the next instruction ---- */

static enum soft_result software(struct soft_vcpu *cpu, uint8_t vector, unsigned kind)
{
	uint64_t rip = cpu->rip;
	enum soft_result r;

	cpu->rip = cpu->next_rip;
	r = soft_deliver(cpu, vector, kind, false, 0);
	cpu->rip = rip;
	cpu->faulted = true; /* no single-step trap: it ends with TF clear */
	return r;
}

static enum soft_result int_n(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	return software(cpu, insn->imm, EVENT_SOFTWARE);
}

static enum soft_result int3(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	if (cpu->debug.enabled && cpu->debug.software_breakpoints) {
		cpu->exit.debug.exception = EXC_BP;
		cpu->exit.debug.pc = cpu->seg[CS].base * (cpu->mode != 64) + cpu->rip;
		cpu->exit.debug.dr6 = cpu->dr6;
		cpu->exit.debug.dr7 = cpu->dr7;
		return soft_exit(cpu, HAV_EXIT_DEBUG);
	}
	return software(cpu, EXC_BP, EVENT_SOFTWARE);
}

static enum soft_result into(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	return cpu->rflags & RFLAGS_OF ? software(cpu, EXC_OF, EVENT_SOFTWARE) : SOFT_DONE;
}

static enum soft_result int1(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	return software(cpu, EXC_DB, EVENT_EXCEPTION);
}

/* --- System calls (APM vol. 2 §6.1) ---- */

static struct hav_segment flat_code(uint16_t selector, unsigned dpl, bool wide)
{
	return (struct hav_segment){
		.selector = selector,
		.limit = UINT32_MAX,
		.attr = SEG_TYPE_CODE_RX | SEG_S | SEG_P | SEG_G | dpl << 5 |
			(wide ? SEG_L : SEG_DB),
	};
}
static struct hav_segment flat_data(uint16_t selector, unsigned dpl)
{
	return (struct hav_segment){ .selector = selector,
				     .limit = UINT32_MAX,
				     .attr = SEG_ATTR_DATA | dpl << 5 };
}

static void enter_flat(struct soft_vcpu *cpu, uint16_t cs, uint16_t ss, unsigned cpl, bool wide,
		       uint64_t rip)
{
	struct hav_segment code = flat_code(cs, cpl, wide);

	cpu->seg[SS] = flat_data(ss, cpl);
	soft_set_code(cpu, &code, rip, cpl);
	cpu->seg[SS].selector = ss;
}

static enum soft_result syscall_(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	uint16_t cs = (cpu->star >> 32) & 0xfffc;
	uint64_t flags = cpu->rflags, rip;

	if (!(cpu->efer & EFER_SCE) || !(cpu->cr0 & CR0_PE))
		return soft_raise(cpu, EXC_UD);
	if (cpu->efer & EFER_LMA) {
		cpu->frame.gpr[RCX] = cpu->next_rip;
		cpu->frame.gpr[R11] = flags & ~(uint64_t)RFLAGS_RF;
		rip = cpu->mode == 64 ? cpu->lstar : cpu->cstar;
		enter_flat(cpu, cs, cs + 8, 0, true, rip);
		soft_set_flags(cpu, 0, cpu->fmask | RFLAGS_RF);
	} else {
		cpu->frame.gpr[RCX] = (uint32_t)cpu->next_rip;
		enter_flat(cpu, cs, cs + 8, 0, false, (uint32_t)cpu->star);
		soft_set_flags(cpu, 0, RFLAGS_IF | RFLAGS_RF | RFLAGS_VM);
	}
	soft_update_mode(cpu);
	return SOFT_DONE;
}

static enum soft_result sysret(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	uint16_t base = cpu->star >> 48;
	bool wide = insn->opsize == 8;
	uint64_t rip = wide ? cpu->frame.gpr[RCX] : (uint32_t)cpu->frame.gpr[RCX];

	if (!(cpu->efer & EFER_SCE) || !(cpu->cr0 & CR0_PE))
		return soft_raise(cpu, EXC_UD);
	if (cpu->cpl || (wide && !soft_canonical(rip)))
		return soft_raise_error(cpu, EXC_GP, 0);
	enter_flat(cpu, (base + (wide ? 16 : 0)) | 3, (base + 8) | 3, 3, wide, rip);
	if (cpu->efer & EFER_LMA)
		soft_set_flags(cpu, cpu->frame.gpr[R11],
			       ~(uint64_t)(RFLAGS_RF | RFLAGS_VM) & 0x3f7fd5);
	else
		soft_set_flags(cpu, RFLAGS_IF, RFLAGS_IF);
	soft_update_mode(cpu);
	return SOFT_DONE;
}

/* AMD's processors have no SYSENTER and SYSEXIT in long mode (APM vol. 3). */
static bool lacks_sysenter(const struct soft_vcpu *cpu)
{
	return (cpu->efer & EFER_LMA) && soft_is_amd(cpu);
}

static enum soft_result sysenter(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	bool wide = cpu->efer & EFER_LMA;
	uint16_t cs = cpu->sysenter_cs & 0xfffc;

	if (lacks_sysenter(cpu))
		return soft_raise(cpu, EXC_UD);
	if (!(cpu->cr0 & CR0_PE) || !cs)
		return soft_raise_error(cpu, EXC_GP, 0);
	cpu->frame.gpr[RSP] = wide ? cpu->sysenter_esp : (uint32_t)cpu->sysenter_esp;
	enter_flat(cpu, cs, cs + 8, 0, wide,
		   wide ? cpu->sysenter_eip : (uint32_t)cpu->sysenter_eip);
	soft_set_flags(cpu, 0, RFLAGS_IF | RFLAGS_RF | RFLAGS_VM);
	soft_update_mode(cpu);
	return SOFT_DONE;
}

static enum soft_result sysexit(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	bool wide = insn->opsize == 8;
	uint16_t base = cpu->sysenter_cs & 0xfffc;
	uint64_t rip = wide ? cpu->frame.gpr[RDX] : (uint32_t)cpu->frame.gpr[RDX];
	uint64_t rsp = wide ? cpu->frame.gpr[RCX] : (uint32_t)cpu->frame.gpr[RCX];

	if (lacks_sysenter(cpu))
		return soft_raise(cpu, EXC_UD);
	if (cpu->cpl || !(cpu->cr0 & CR0_PE) || !base ||
	    (wide && (!soft_canonical(rip) || !soft_canonical(rsp))))
		return soft_raise_error(cpu, EXC_GP, 0);
	cpu->frame.gpr[RSP] = rsp;
	enter_flat(cpu, (base + (wide ? 32 : 16)) | 3, (base + (wide ? 40 : 24)) | 3, 3, wide, rip);
	soft_update_mode(cpu);
	return SOFT_DONE;
}

/* --- What is no instruction ---- */

void soft_log_undefined(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	const uint8_t *b = insn->bytes;

	soft_fpu_release(cpu);
	LOG_ONCE("soft: an instruction that does not exist here, at 0x%llx: %02x %02x %02x %02x "
		 "%02x %02x %02x %02x "
		 "%02x %02x: #UD for the guest",
		 (unsigned long long)cpu->rip, b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8],
		 b[9]);
}

enum soft_result soft_exec_undefined(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	/* UD2 and the like are meant. */
	if (insn->mnemonic && insn->mnemonic != ZYDIS_MNEMONIC_UD2 &&
	    insn->mnemonic != ZYDIS_MNEMONIC_UD1 && insn->mnemonic != ZYDIS_MNEMONIC_UD0)
		soft_log_undefined(cpu, insn);
	return soft_raise(cpu, EXC_UD);
}

enum soft_result soft_exec_too_long(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	return soft_raise_error(cpu, EXC_GP, 0);
}

static const struct soft_table table[] = {
	{ ZYDIS_MNEMONIC_JMP, jmp },
	{ ZYDIS_MNEMONIC_CALL, call },
	{ ZYDIS_MNEMONIC_RET, ret },
	{ ZYDIS_MNEMONIC_IRET, iret },
	{ ZYDIS_MNEMONIC_IRETD, iret },
	{ ZYDIS_MNEMONIC_IRETQ, iret },
	{ ZYDIS_MNEMONIC_JO, jo },
	{ ZYDIS_MNEMONIC_JNO, jno },
	{ ZYDIS_MNEMONIC_JB, jb },
	{ ZYDIS_MNEMONIC_JNB, jnb },
	{ ZYDIS_MNEMONIC_JZ, jz },
	{ ZYDIS_MNEMONIC_JNZ, jnz },
	{ ZYDIS_MNEMONIC_JBE, jbe },
	{ ZYDIS_MNEMONIC_JNBE, jnbe },
	{ ZYDIS_MNEMONIC_JS, js },
	{ ZYDIS_MNEMONIC_JNS, jns },
	{ ZYDIS_MNEMONIC_JP, jp },
	{ ZYDIS_MNEMONIC_JNP, jnp },
	{ ZYDIS_MNEMONIC_JL, jl },
	{ ZYDIS_MNEMONIC_JNL, jnl_ },
	{ ZYDIS_MNEMONIC_JLE, jle },
	{ ZYDIS_MNEMONIC_JNLE, jnle },
	{ ZYDIS_MNEMONIC_JCXZ, jcxz },
	{ ZYDIS_MNEMONIC_JECXZ, jcxz },
	{ ZYDIS_MNEMONIC_JRCXZ, jcxz },
	{ ZYDIS_MNEMONIC_LOOP, loop },
	{ ZYDIS_MNEMONIC_LOOPE, loope },
	{ ZYDIS_MNEMONIC_LOOPNE, loopne },
	{ ZYDIS_MNEMONIC_INT, int_n },
	{ ZYDIS_MNEMONIC_INT3, int3 },
	{ ZYDIS_MNEMONIC_INTO, into },
	{ ZYDIS_MNEMONIC_INT1, int1 },
	{ ZYDIS_MNEMONIC_SYSCALL, syscall_ },
	{ ZYDIS_MNEMONIC_SYSRET, sysret },
	{ ZYDIS_MNEMONIC_SYSENTER, sysenter },
	{ ZYDIS_MNEMONIC_SYSEXIT, sysexit },
	{ ZYDIS_MNEMONIC_UD0, soft_exec_undefined },
	{ ZYDIS_MNEMONIC_UD1, soft_exec_undefined },
	{ ZYDIS_MNEMONIC_UD2, soft_exec_undefined },
};

soft_fn *soft_exec_flow(const struct soft_insn *insn)
{
	/* RETF is RET to Zydis; the opcode tells. */
	if (insn->mnemonic == ZYDIS_MNEMONIC_RET && insn->far_branch)
		return ret_far;
	return soft_find(table, ARRAY_SIZE(table), insn);
}
