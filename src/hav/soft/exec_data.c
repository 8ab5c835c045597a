/*
 * Software backend: moves, stack instructions, flags, and what 64-bit code has no encoding for
 * (decimal arithmetic, PUSHA, BOUND and the like), so that the host cannot do it.
 */
#include "hav/soft/exec.h"

static enum soft_result mov(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	uint64_t value;
	enum soft_result r = soft_get(cpu, insn, &insn->op[1], &value);

	return r ? r : soft_set(cpu, insn, &insn->op[0], value);
}

/* The usual cases, without looking at operand kinds again. */
static enum soft_result mov_load64(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	return soft_load(cpu, insn->segment, soft_offset(cpu, insn),
			 &cpu->frame.gpr[insn->op[0].reg], 8);
}

static enum soft_result mov_store64(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	return soft_store(cpu, insn->segment, soft_offset(cpu, insn),
			  &cpu->frame.gpr[insn->op[1].reg], 8);
}

static enum soft_result mov_register64(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	cpu->frame.gpr[insn->op[0].reg] = cpu->frame.gpr[insn->op[1].reg];
	return SOFT_DONE;
}

static soft_fn *choose_mov(const struct soft_insn *insn)
{
	const struct soft_operand *to = &insn->op[0], *from = &insn->op[1];

	if (to->size != 8)
		return mov;
	if (to->kind == OPERAND_GPR && from->kind == OPERAND_MEMORY)
		return mov_load64;
	if (to->kind == OPERAND_MEMORY && from->kind == OPERAND_GPR)
		return mov_store64;
	if (to->kind == OPERAND_GPR && from->kind == OPERAND_GPR)
		return mov_register64;
	return mov;
}

/* MOV from a segment register: 16 bits to memory, the operand's size, zero-extended, to a register.
 */
static enum soft_result mov_from_segment(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	uint64_t selector = cpu->seg[insn->op[1].reg].selector;

	if (insn->op[0].kind == OPERAND_MEMORY)
		return soft_store(cpu, insn->segment, soft_offset(cpu, insn), &selector, 2);
	soft_set_reg(cpu, insn->op[0].reg, insn->op[0].size, selector);
	return SOFT_DONE;
}

/* With SS, traps too, as RSP is still to come. */
static void hold_traps(struct soft_vcpu *cpu)
{
	cpu->ss_loaded = true;
}

static void hold_interrupts(struct soft_vcpu *cpu)
{
	cpu->shadow_next = true;
	atomic_fetch_or(&cpu->attention, ATTENTION_EVENT);
}

static enum soft_result mov_to_segment(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	uint64_t selector = 0;
	enum soft_result r;

	if (insn->op[0].reg == CS)
		return soft_raise(cpu, EXC_UD);
	if (insn->op[1].kind == OPERAND_MEMORY)
		r = soft_load(cpu, insn->segment, soft_offset(cpu, insn), &selector, 2);
	else
		r = soft_get(cpu, insn, &insn->op[1], &selector);
	if (!r)
		r = soft_load_segment(cpu, insn->op[0].reg, selector);
	if (!r && insn->op[0].reg == SS) {
		hold_interrupts(cpu);
		hold_traps(cpu);
	}
	return r;
}

static enum soft_result lea(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	soft_set_gpr(cpu, &insn->op[0], soft_offset(cpu, insn));
	return SOFT_DONE;
}

static enum soft_result xlat(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	uint64_t offset = soft_address(insn, cpu->frame.gpr[RBX] + (uint8_t)cpu->frame.gpr[RAX]),
		 value = 0;
	enum soft_result r = soft_load(cpu, insn->segment, offset, &value, 1);

	if (!r)
		soft_set_reg(cpu, RAX, 1, value);
	return r;
}

/* --- The stack ---- */

static enum soft_result push_value(struct soft_vcpu *cpu, uint64_t value, unsigned size)
{
	struct soft_stack stack;
	enum soft_result r;

	soft_stack_here(cpu, &stack);
	r = soft_stack_push(cpu, &stack, value, size);
	if (!r)
		soft_stack_commit(cpu, &stack);
	return r;
}

static enum soft_result push(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	uint64_t value;
	enum soft_result r = soft_get(cpu, insn, &insn->op[0], &value);

	return r ? r : push_value(cpu, value, insn->opsize);
}

static enum soft_result push64(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	uint64_t sp = cpu->frame.gpr[RSP] - 8;
	enum soft_result r = soft_store(cpu, SS, sp, &cpu->frame.gpr[insn->op[0].reg], 8);

	if (!r)
		cpu->frame.gpr[RSP] = sp;
	return r;
}

static enum soft_result pop64(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	uint64_t value;
	enum soft_result r = soft_load(cpu, SS, cpu->frame.gpr[RSP], &value, 8);

	if (!r) {
		cpu->frame.gpr[RSP] += 8;
		cpu->frame.gpr[insn->op[0].reg] = value;
	}
	return r;
}

/* A memory operand with RSP counts from after the pop; a pop into RSP wins over it. */
static enum soft_result pop(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	uint64_t value, before = cpu->frame.gpr[RSP];
	struct soft_stack stack;
	enum soft_result r;

	soft_stack_here(cpu, &stack);
	r = soft_stack_pop(cpu, &stack, &value, insn->opsize);
	if (r)
		return r;
	soft_stack_commit(cpu, &stack);
	r = soft_set(cpu, insn, &insn->op[0], value);
	if (r)
		cpu->frame.gpr[RSP] = before;
	return r;
}

static enum soft_result pop_segment(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	struct soft_stack stack;
	enum soft_result r;
	uint64_t value;

	soft_stack_here(cpu, &stack);
	r = soft_stack_pop(cpu, &stack, &value, insn->opsize);
	if (!r)
		r = soft_load_segment(cpu, insn->op[0].reg, value);
	if (r)
		return r;
	soft_stack_commit(cpu, &stack);
	if (insn->op[0].reg == SS) {
		hold_interrupts(cpu);
		hold_traps(cpu);
	}
	return SOFT_DONE;
}

static soft_fn *choose_push(const struct soft_insn *insn)
{
	return insn->op[0].kind == OPERAND_GPR && insn->opsize == 8 ? push64 : push;
}

static soft_fn *choose_pop(const struct soft_insn *insn)
{
	if (insn->op[0].kind == OPERAND_SEGMENT)
		return pop_segment;
	return insn->op[0].kind == OPERAND_GPR && insn->opsize == 8 ? pop64 : pop;
}

static enum soft_result pusha(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	struct soft_stack stack;

	soft_stack_here(cpu, &stack);
	for (unsigned i = 0; i < 8; i++) {
		enum soft_result r = soft_stack_push(cpu, &stack, cpu->frame.gpr[i], insn->opsize);

		if (r)
			return r;
	}
	soft_stack_commit(cpu, &stack);
	return SOFT_DONE;
}

static enum soft_result popa(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	struct soft_stack stack;
	uint64_t values[8];

	soft_stack_here(cpu, &stack);
	for (int i = 7; i >= 0; i--) {
		enum soft_result r = soft_stack_pop(cpu, &stack, &values[i], insn->opsize);

		if (r)
			return r;
	}
	soft_stack_commit(cpu, &stack);
	for (unsigned i = 0; i < 8; i++)
		if (i != RSP)
			soft_set_reg(cpu, i, insn->opsize, values[i]);
	return SOFT_DONE;
}

static enum soft_result pushf(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	return push_value(cpu, cpu->rflags & ~(uint64_t)(RFLAGS_VM | RFLAGS_RF), insn->opsize);
}

static enum soft_result popf(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	struct soft_stack stack;
	enum soft_result r;
	uint64_t flags;

	soft_stack_here(cpu, &stack);
	r = soft_stack_pop(cpu, &stack, &flags, insn->opsize);
	if (r)
		return r;
	soft_stack_commit(cpu, &stack);
	soft_set_flags(cpu, flags & ~(uint64_t)RFLAGS_RF, soft_flags_allowed(cpu, insn->opsize));
	return SOFT_DONE;
}

static enum soft_result enter(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	unsigned level = insn->imm2 & 31, size = insn->opsize;
	uint64_t allocate = (uint16_t)insn->imm, frame, linear;
	struct soft_stack stack, frames;
	enum soft_result r;

	soft_stack_here(cpu, &stack);
	r = soft_stack_push(cpu, &stack, cpu->frame.gpr[RBP], size);
	frame = stack.sp;
	frames = stack;
	frames.sp = cpu->frame.gpr[RBP];
	for (unsigned i = 1; !r && i < level; i++) {
		uint64_t value;

		frames.sp = (frames.sp - size) & frames.mask;
		r = soft_stack_pop(cpu, &frames, &value, size);
		frames.sp = (frames.sp - size) & frames.mask;
		if (!r)
			r = soft_stack_push(cpu, &stack, value, size);
	}
	if (!r && level)
		r = soft_stack_push(cpu, &stack, frame, size);
	stack.sp = (stack.sp - allocate) & stack.mask;
	/* The new top must be writable. */
	if (!r)
		r = soft_linear(cpu, SS, stack.sp, size, ACCESS_WRITE, &linear);
	if (!r)
		r = soft_probe(cpu, linear, size, ACCESS_WRITE, cpu->tlb_now);
	if (r)
		return r;
	soft_stack_commit(cpu, &stack);
	soft_set_reg(cpu, RBP, size, frame);
	return SOFT_DONE;
}

static enum soft_result leave(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	struct soft_stack stack;
	enum soft_result r;
	uint64_t value;

	soft_stack_here(cpu, &stack);
	stack.sp = cpu->frame.gpr[RBP] & stack.mask;
	r = soft_stack_pop(cpu, &stack, &value, insn->opsize);
	if (r)
		return r;
	soft_stack_commit(cpu, &stack);
	soft_set_reg(cpu, RBP, insn->opsize, value);
	return SOFT_DONE;
}

/* --- Flags ---- */

static enum soft_result clc(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	cpu->rflags &= ~(uint64_t)RFLAGS_CF;
	return SOFT_DONE;
}
static enum soft_result stc(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	cpu->rflags |= RFLAGS_CF;
	return SOFT_DONE;
}
static enum soft_result cmc(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	cpu->rflags ^= RFLAGS_CF;
	return SOFT_DONE;
}
static enum soft_result cld(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	cpu->rflags &= ~(uint64_t)RFLAGS_DF;
	return SOFT_DONE;
}
static enum soft_result std(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	cpu->rflags |= RFLAGS_DF;
	return SOFT_DONE;
}

static bool may_change_if(const struct soft_vcpu *cpu)
{
	return cpu->cpl <= (cpu->rflags & RFLAGS_IOPL) >> 12;
}

static enum soft_result cli(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	if (!may_change_if(cpu))
		return soft_raise_error(cpu, EXC_GP, 0);
	cpu->rflags &= ~(uint64_t)RFLAGS_IF;
	return SOFT_DONE;
}

static enum soft_result sti(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	if (!may_change_if(cpu))
		return soft_raise_error(cpu, EXC_GP, 0);
	if (!(cpu->rflags & RFLAGS_IF)) {
		cpu->rflags |= RFLAGS_IF;
		hold_interrupts(cpu);
	}
	return SOFT_DONE;
}

static enum soft_result stac(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	if (cpu->cpl)
		return soft_raise(cpu, EXC_UD);
	cpu->rflags |= RFLAGS_AC;
	soft_tlb_choose(cpu);
	return SOFT_DONE;
}
static enum soft_result clac(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	if (cpu->cpl)
		return soft_raise(cpu, EXC_UD);
	cpu->rflags &= ~(uint64_t)RFLAGS_AC;
	soft_tlb_choose(cpu);
	return SOFT_DONE;
}

/* --- What 64-bit code lacks ---- */

static void set_result_flags(struct soft_vcpu *cpu, uint8_t al, bool cf, bool af)
{
	cpu->rflags &= ~(uint64_t)ARITHMETIC_FLAGS;
	cpu->rflags |= (cf ? RFLAGS_CF : 0) | (af ? RFLAGS_AF : 0) | (al ? 0 : RFLAGS_ZF) |
		       (al & 0x80 ? RFLAGS_SF : 0) | (__builtin_parity(al) ? 0 : RFLAGS_PF);
}

/* DAA and DAS (Intel SDM vol. 2). */
static enum soft_result decimal_adjust(struct soft_vcpu *cpu, bool add)
{
	uint8_t old = cpu->frame.gpr[RAX], al = old;
	bool af = cpu->rflags & RFLAGS_AF, cf = cpu->rflags & RFLAGS_CF, carry = cf;

	if ((al & 0xf) > 9 || af) {
		carry = cf || (add ? al > 0xf9 : al < 6);
		al += add ? 6 : -6;
		af = true;
	}
	if (old > 0x99 || cf) {
		al += add ? 0x60 : -0x60;
		carry = true;
	} else if (add) {
		carry = false;
	}
	soft_set_reg(cpu, RAX, 1, al);
	set_result_flags(cpu, al, carry, af);
	return SOFT_DONE;
}
static enum soft_result daa(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	return decimal_adjust(cpu, true);
}
static enum soft_result das(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	return decimal_adjust(cpu, false);
}

static enum soft_result ascii_adjust(struct soft_vcpu *cpu, bool add)
{
	uint16_t ax = cpu->frame.gpr[RAX];
	bool adjust = (ax & 0xf) > 9 || (cpu->rflags & RFLAGS_AF);

	if (adjust)
		ax += add ? 0x106 : -0x106;
	ax &= 0xff0f;
	soft_set_reg(cpu, RAX, 2, ax);
	set_result_flags(cpu, ax, adjust, adjust);
	return SOFT_DONE;
}
static enum soft_result aaa(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	return ascii_adjust(cpu, true);
}
static enum soft_result aas(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	return ascii_adjust(cpu, false);
}

static enum soft_result aam(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	uint8_t al = cpu->frame.gpr[RAX], base = insn->imm;

	if (!base)
		return soft_raise(cpu, EXC_DE);
	soft_set_reg(cpu, RAX, 2, (al / base) << 8 | al % base);
	set_result_flags(cpu, al % base, false, false);
	return SOFT_DONE;
}

static enum soft_result aad(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	uint16_t ax = cpu->frame.gpr[RAX];
	uint8_t al = ax + (ax >> 8) * (uint8_t)insn->imm;

	soft_set_reg(cpu, RAX, 2, al);
	set_result_flags(cpu, al, false, false);
	return SOFT_DONE;
}

static enum soft_result salc(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	soft_set_reg(cpu, RAX, 1, cpu->rflags & RFLAGS_CF ? 0xff : 0);
	return SOFT_DONE;
}

static int64_t sign_extend(uint64_t value, unsigned size)
{
	return (int64_t)(value << (64 - 8 * size)) >> (64 - 8 * size);
}

static enum soft_result bound(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	unsigned size = insn->opsize;
	uint64_t offset = soft_offset(cpu, insn), low = 0, high = 0;
	int64_t index = sign_extend(soft_gpr(cpu, &insn->op[0]), size);
	enum soft_result r = soft_load(cpu, insn->segment, offset, &low, size);

	if (!r)
		r = soft_load(cpu, insn->segment, soft_address(insn, offset + size), &high, size);
	if (!r && (index < sign_extend(low, size) || index > sign_extend(high, size)))
		r = soft_raise(cpu, EXC_BR);
	return r;
}

/* LDS, LES, LSS, LFS, LGS */
static enum soft_result load_far_pointer(struct soft_vcpu *cpu, const struct soft_insn *insn,
					 unsigned segment)
{
	/* AMD's processors do not heed REX.W here. */
	unsigned size = insn->opsize == 8 && soft_is_amd(cpu) ? 4 : insn->opsize;
	uint64_t at = soft_offset(cpu, insn), offset = 0, selector = 0;
	enum soft_result r = soft_load(cpu, insn->segment, at, &offset, size);

	if (!r)
		r = soft_load(cpu, insn->segment, soft_address(insn, at + size), &selector, 2);
	if (!r)
		r = soft_load_segment(cpu, segment, selector);
	if (!r)
		soft_set_reg(cpu, insn->op[0].reg, size, offset);
	return r;
}
static enum soft_result lds(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	return load_far_pointer(cpu, insn, DS);
}
static enum soft_result les(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	return load_far_pointer(cpu, insn, ES);
}
static enum soft_result lss(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	return load_far_pointer(cpu, insn, SS);
}
static enum soft_result lfs(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	return load_far_pointer(cpu, insn, FS);
}
static enum soft_result lgs(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	return load_far_pointer(cpu, insn, GS);
}

static enum soft_result nothing(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	return SOFT_DONE;
}

static enum soft_result pause_(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	soft_pause(cpu);
	return SOFT_DONE;
}

static const struct soft_table table[] = {
	{ ZYDIS_MNEMONIC_LEA, lea },      { ZYDIS_MNEMONIC_XLAT, xlat },
	{ ZYDIS_MNEMONIC_PUSHA, pusha },  { ZYDIS_MNEMONIC_PUSHAD, pusha },
	{ ZYDIS_MNEMONIC_POPA, popa },    { ZYDIS_MNEMONIC_POPAD, popa },
	{ ZYDIS_MNEMONIC_PUSHF, pushf },  { ZYDIS_MNEMONIC_PUSHFD, pushf },
	{ ZYDIS_MNEMONIC_PUSHFQ, pushf }, { ZYDIS_MNEMONIC_POPF, popf },
	{ ZYDIS_MNEMONIC_POPFD, popf },   { ZYDIS_MNEMONIC_POPFQ, popf },
	{ ZYDIS_MNEMONIC_ENTER, enter },  { ZYDIS_MNEMONIC_LEAVE, leave },
	{ ZYDIS_MNEMONIC_CLC, clc },      { ZYDIS_MNEMONIC_STC, stc },
	{ ZYDIS_MNEMONIC_CMC, cmc },      { ZYDIS_MNEMONIC_CLD, cld },
	{ ZYDIS_MNEMONIC_STD, std },      { ZYDIS_MNEMONIC_CLI, cli },
	{ ZYDIS_MNEMONIC_STI, sti },      { ZYDIS_MNEMONIC_STAC, stac },
	{ ZYDIS_MNEMONIC_CLAC, clac },    { ZYDIS_MNEMONIC_DAA, daa },
	{ ZYDIS_MNEMONIC_DAS, das },      { ZYDIS_MNEMONIC_AAA, aaa },
	{ ZYDIS_MNEMONIC_AAS, aas },      { ZYDIS_MNEMONIC_AAM, aam },
	{ ZYDIS_MNEMONIC_AAD, aad },      { ZYDIS_MNEMONIC_SALC, salc },
	{ ZYDIS_MNEMONIC_BOUND, bound },  { ZYDIS_MNEMONIC_LDS, lds },
	{ ZYDIS_MNEMONIC_LES, les },      { ZYDIS_MNEMONIC_LSS, lss },
	{ ZYDIS_MNEMONIC_LFS, lfs },      { ZYDIS_MNEMONIC_LGS, lgs },
	{ ZYDIS_MNEMONIC_NOP, nothing },  { ZYDIS_MNEMONIC_PAUSE, pause_ },
};

static bool is_same_register(const struct soft_insn *insn)
{
	return insn->op[0].kind == OPERAND_GPR && insn->op[1].kind == OPERAND_GPR &&
	       insn->op[0].reg == insn->op[1].reg;
}

soft_fn *soft_exec_data(const struct soft_insn *insn)
{
	switch (insn->mnemonic) {
	case ZYDIS_MNEMONIC_MOV:
		if (insn->op[0].kind == OPERAND_SEGMENT)
			return mov_to_segment;
		if (insn->op[1].kind == OPERAND_SEGMENT)
			return mov_from_segment;
		/* Control and debug registers: exec_system.c */
		if (insn->op[0].kind >= OPERAND_CONTROL || insn->op[1].kind >= OPERAND_CONTROL)
			return NULL;
		return choose_mov(insn);
	/* Encoded anew, 87 C0 would be 90, which leaves the upper half alone. */
	case ZYDIS_MNEMONIC_XCHG: return is_same_register(insn) ? mov : NULL;
	case ZYDIS_MNEMONIC_PUSH: return choose_push(insn);
	case ZYDIS_MNEMONIC_POP: return choose_pop(insn);
	default: return soft_find(table, ARRAY_SIZE(table), insn);
	}
}
