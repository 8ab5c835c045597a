/*
 * Software backend: floating-point instructions that reach memory in ways a stub cannot: FXSAVE and
 * FXRSTOR, whose layouts depend on the mode, and the masked stores of MMX and SSE2.
 */
#include "hav/soft/exec.h"

/* Offsets in the image of FXSAVE (Intel SDM vol. 1 §10.5.1). */
#define FX_FIP     8
#define FX_FDP     16
#define FX_MXCSR   24
#define FX_ST0     32
#define FX_XMM0    160
#define FX_XMM8    288
#define FX_END     416

#define MXCSR_MASK 0xffffu

static enum soft_result check(struct soft_vcpu *cpu)
{
	if (cpu->cr0 & CR0_EM)
		return soft_raise(cpu, EXC_UD);
	return cpu->cr0 & CR0_TS ? soft_raise(cpu, EXC_NM) : SOFT_DONE;
}

static bool is_wide(const struct soft_insn *insn)
{
	return insn->mnemonic == ZYDIS_MNEMONIC_FXSAVE64 ||
	       insn->mnemonic == ZYDIS_MNEMONIC_FXRSTOR64;
}

/* How much of the image this mode has, and where. */
static enum soft_result image(struct soft_vcpu *cpu, const struct soft_insn *insn, unsigned access,
			      uint64_t *linear, unsigned *size)
{
	enum soft_result r = check(cpu);

	*size = cpu->mode == 64 ? FX_END : FX_XMM8;
	if (!(cpu->cr4 & CR4_OSFXSR))
		*size = FX_XMM0;
	if (!r)
		r = soft_linear(cpu, insn->segment, soft_offset(cpu, insn), *size, access, linear);
	if (!r && (*linear & 15))
		r = soft_raise_error(cpu, EXC_GP, 0);
	return r;
}

static enum soft_result fxsave(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	uint8_t bytes[FX_END];
	uint64_t linear;
	unsigned size;
	enum soft_result r = image(cpu, insn, ACCESS_WRITE, &linear, &size);

	if (r)
		return r;
	soft_fpu_release(cpu);
	memcpy(bytes, cpu->frame.fx, FX_END);
	if (!is_wide(insn)) { /* selectors in place of the pointers' upper halves */
		memset(bytes + FX_FIP + 4, 0, 4);
		memset(bytes + FX_FDP + 4, 0, 4);
	}
	return soft_write(cpu, linear, bytes, size, cpu->tlb_now);
}

static enum soft_result fxrstor(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	uint8_t bytes[FX_END];
	uint64_t linear;
	uint32_t mxcsr;
	unsigned size;
	enum soft_result r = image(cpu, insn, ACCESS_READ, &linear, &size);

	if (!r)
		r = soft_read(cpu, linear, bytes, size, cpu->tlb_now);
	if (r)
		return r;
	memcpy(&mxcsr, bytes + FX_MXCSR, 4);
	if (size > FX_XMM0 && (mxcsr & ~MXCSR_MASK))
		return soft_raise_error(cpu, EXC_GP, 0);
	if (!is_wide(insn)) {
		memset(bytes + FX_FIP + 4, 0, 4);
		memset(bytes + FX_FDP + 4, 0, 4);
	}
	soft_fpu_release(cpu);
	memcpy(&cpu->x87_ip, bytes + FX_FIP, 8);
	memcpy(&cpu->x87_dp, bytes + FX_FDP, 8);
	memcpy(cpu->frame.fx, bytes, FX_MXCSR);
	if (size > FX_XMM0)
		memcpy(cpu->frame.fx + FX_MXCSR, &mxcsr, 4);
	memcpy(cpu->frame.fx + FX_ST0, bytes + FX_ST0, size - FX_ST0);
	return SOFT_DONE;
}

/* MASKMOVQ and MASKMOVDQU: bytes of the first register where the second's sign bits are set. */
static enum soft_result masked_store(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	bool mmx = insn->mnemonic == ZYDIS_MNEMONIC_MASKMOVQ;
	const uint8_t *data = cpu->frame.fx + (mmx ? FX_ST0 : FX_XMM0) + 16 * insn->op[0].reg;
	const uint8_t *mask = cpu->frame.fx + (mmx ? FX_ST0 : FX_XMM0) + 16 * insn->op[1].reg;
	uint64_t offset = soft_address(insn, cpu->frame.gpr[RDI]);
	enum soft_result r = check(cpu);

	soft_fpu_release(cpu);
	for (unsigned i = 0; !r && i < (mmx ? 8 : 16); i++)
		if (mask[i] & 0x80)
			r = soft_store(cpu, insn->segment, soft_address(insn, offset + i), &data[i],
				       1);
	return r;
}

static const struct soft_table table[] = {
	{ ZYDIS_MNEMONIC_FXSAVE, fxsave },         { ZYDIS_MNEMONIC_FXSAVE64, fxsave },
	{ ZYDIS_MNEMONIC_FXRSTOR, fxrstor },       { ZYDIS_MNEMONIC_FXRSTOR64, fxrstor },
	{ ZYDIS_MNEMONIC_MASKMOVQ, masked_store }, { ZYDIS_MNEMONIC_MASKMOVDQU, masked_store },
};

soft_fn *soft_exec_fpu(const struct soft_insn *insn)
{
	return soft_find(table, ARRAY_SIZE(table), insn);
}
