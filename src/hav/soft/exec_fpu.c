/*
 * Software backend: floating-point instructions that reach memory in ways a stub cannot: FXSAVE and
 * FXRSTOR, whose layouts depend on the mode; the x87's state, which has addresses in it; and the
 * masked stores of MMX and SSE2.
 */
#include "hav/soft/exec.h"

/* Offsets in the image of FXSAVE (Intel SDM vol. 1 §10.5.1). */
#define FX_FIP   8
#define FX_FDP   16
#define FX_MXCSR 24
#define FX_ST0   32
#define FX_XMM0  160
#define FX_XMM8  288
#define FX_END   416
#define FX_SIZE  512

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

/* The image, all of which must be accessible, and how much of it this mode has. */
static enum soft_result image(struct soft_vcpu *cpu, const struct soft_insn *insn, unsigned access,
			      uint64_t *linear, unsigned *size)
{
	uint64_t offset = soft_offset(cpu, insn);
	enum soft_result r = check(cpu);

	*size = cpu->mode == 64 ? FX_END : FX_XMM8;
	if (!(cpu->cr4 & CR4_OSFXSR))
		*size = FX_XMM0;
	if (!r)
		r = soft_linear(cpu, insn->segment, offset, FX_SIZE, access, linear);
	if (!r && (*linear & 15))
		r = soft_raise_error(cpu, cpu->align && access == ACCESS_WRITE ? EXC_AC : EXC_GP,
				     0);
	return r ? r : soft_probe(cpu, *linear, FX_SIZE, access, cpu->tlb_now);
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
	if (size > FX_XMM0 && (mxcsr & ~soft_mxcsr_mask()))
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
	soft_fpu_take(cpu); /* the processor knows which bits there are */
	return SOFT_DONE;
}

/* --- The x87's environment and state ---- */

/* Where the last instruction and its operand are in an environment of 32 bits, of 16. */
struct pointers {
	uint8_t ip, cs, dp, ds;
};
static const struct pointers pointers32 = { 12, 16, 20, 24 }, pointers16 = { 6, 8, 10, 12 };

static bool is_narrow(const struct soft_insn *insn)
{
	return insn->memory_size == 14 || insn->memory_size == 94;
}

static enum soft_result check_x87(struct soft_vcpu *cpu)
{
	return cpu->cr0 & (CR0_EM | CR0_TS) ? soft_raise(cpu, EXC_NM) : SOFT_DONE;
}

/* The guest is to see its own addresses, not those of host code; selectors are no longer noted. */
static void put_pointers(const struct soft_vcpu *cpu, const struct soft_insn *insn, uint8_t *bytes)
{
	const struct pointers *p = is_narrow(insn) ? &pointers16 : &pointers32;

	memcpy(bytes + p->ip, &cpu->x87_ip, is_narrow(insn) ? 2 : 4);
	memcpy(bytes + p->dp, &cpu->x87_dp, is_narrow(insn) ? 2 : 4);
	memset(bytes + p->cs, 0, 2);
	memset(bytes + p->ds, 0, 2);
}

static void take_pointers(struct soft_vcpu *cpu, const struct soft_insn *insn, const uint8_t *bytes)
{
	const struct pointers *p = is_narrow(insn) ? &pointers16 : &pointers32;

	cpu->x87_ip = cpu->x87_dp = 0;
	memcpy(&cpu->x87_ip, bytes + p->ip, is_narrow(insn) ? 2 : 4);
	memcpy(&cpu->x87_dp, bytes + p->dp, is_narrow(insn) ? 2 : 4);
}

typedef uint8_t x87_image[108];

static void host_store(const struct soft_insn *insn, x87_image *to)
{
	bool all = insn->mnemonic == ZYDIS_MNEMONIC_FNSAVE;

	if (is_narrow(insn) && all)
		__asm__ volatile("data16 fnsave %0" : "=m"(*to));
	else if (is_narrow(insn))
		__asm__ volatile("data16 fnstenv %0" : "=m"(*to));
	else if (all)
		__asm__ volatile("fnsave %0" : "=m"(*to));
	else
		__asm__ volatile("fnstenv %0" : "=m"(*to));
}

static void host_load(const struct soft_insn *insn, const x87_image *from)
{
	bool all = insn->mnemonic == ZYDIS_MNEMONIC_FRSTOR;

	if (is_narrow(insn) && all)
		__asm__ volatile("data16 frstor %0" : : "m"(*from));
	else if (is_narrow(insn))
		__asm__ volatile("data16 fldenv %0" : : "m"(*from));
	else if (all)
		__asm__ volatile("frstor %0" : : "m"(*from));
	else
		__asm__ volatile("fldenv %0" : : "m"(*from));
}

/* FNSTENV and FNSAVE, which change the x87 too: if the image must wait, nothing has happened. */
static enum soft_result store_x87(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	uint8_t before[FX_END];
	x87_image bytes;
	uint64_t linear;
	enum soft_result r = check_x87(cpu);

	if (!r)
		r = soft_linear(cpu, insn->segment, soft_offset(cpu, insn), insn->memory_size,
				ACCESS_WRITE, &linear);
	if (!r)
		r = soft_probe(cpu, linear, insn->memory_size, ACCESS_WRITE, cpu->tlb_now);
	if (r)
		return r;
	soft_fpu_release(cpu);
	memcpy(before, cpu->frame.fx, FX_END);
	soft_fpu_take(cpu);
	host_store(insn, &bytes);
	put_pointers(cpu, insn, bytes);
	r = soft_write(cpu, linear, bytes, insn->memory_size, cpu->tlb_now);
	if (r) {
		soft_fpu_release(cpu);
		memcpy(cpu->frame.fx, before, FX_END);
	} else if (insn->mnemonic == ZYDIS_MNEMONIC_FNSAVE) {
		cpu->x87_ip = cpu->x87_dp = 0;
	}
	return r;
}

static enum soft_result load_x87(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	x87_image bytes;
	enum soft_result r = check_x87(cpu);

	if (!r && soft_x87_pending(cpu))
		r = soft_raise(cpu, EXC_MF);
	if (!r)
		r = soft_load(cpu, insn->segment, soft_offset(cpu, insn), bytes, insn->memory_size);
	if (r)
		return r;
	soft_fpu_take(cpu);
	host_load(insn, &bytes);
	take_pointers(cpu, insn, bytes);
	return SOFT_DONE;
}

static enum soft_result fninit(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	enum soft_result r = check_x87(cpu);

	if (r)
		return r;
	soft_fpu_take(cpu);
	__asm__ volatile("fninit");
	cpu->x87_ip = cpu->x87_dp = 0;
	return SOFT_DONE;
}

/* --- Masked stores ---- */

static const uint8_t *simd_register(const struct soft_vcpu *cpu, bool mmx, unsigned reg)
{
	return cpu->frame.fx + (mmx ? FX_ST0 : FX_XMM0) + 16 * reg;
}

/* As any instruction does that uses MMX registers, whatever becomes of it: the x87's top is its
 * first register. */
static void enter_mmx(struct soft_vcpu *cpu)
{
	uint64_t nobody;

	soft_fpu_take(cpu);
	__asm__ volatile("movq %%mm0, %0" : "=m"(nobody));
}

static enum soft_result check_masked(struct soft_vcpu *cpu, bool mmx)
{
	enum soft_result r = check(cpu);

	if (!r && !mmx && !(cpu->cr4 & CR4_OSFXSR))
		r = soft_raise(cpu, EXC_UD);
	if (!r && mmx && soft_x87_pending(cpu))
		r = soft_raise(cpu, EXC_MF);
	return r;
}

/* MASKMOVQ and MASKMOVDQU: bytes of the first register where the second's sign bits are set. All of
 * the memory must be accessible. */
static enum soft_result masked_store(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	bool mmx = insn->mnemonic == ZYDIS_MNEMONIC_MASKMOVQ;
	unsigned n = mmx ? 8 : 16;
	uint64_t offset = soft_address(insn, cpu->frame.gpr[RDI]), linear;
	enum soft_result r = check_masked(cpu, mmx);
	const uint8_t *data, *mask;

	if (r)
		return r;
	if (mmx)
		enter_mmx(cpu);
	soft_fpu_release(cpu);
	data = simd_register(cpu, mmx, insn->op[0].reg);
	mask = simd_register(cpu, mmx, insn->op[1].reg);
	r = soft_linear(cpu, insn->segment, offset, n, ACCESS_WRITE, &linear);
	if (!r)
		r = soft_probe(cpu, linear, n, ACCESS_WRITE, cpu->tlb_now);
	for (unsigned i = 0; !r && i < n; i++)
		if (mask[i] & 0x80)
			r = soft_store(cpu, insn->segment, soft_address(insn, offset + i), &data[i],
				       1);
	return r;
}

static const struct soft_table table[] = {
	{ ZYDIS_MNEMONIC_FXSAVE, fxsave },           { ZYDIS_MNEMONIC_FXSAVE64, fxsave },
	{ ZYDIS_MNEMONIC_FXRSTOR, fxrstor },         { ZYDIS_MNEMONIC_FXRSTOR64, fxrstor },
	{ ZYDIS_MNEMONIC_FNSTENV, store_x87 },       { ZYDIS_MNEMONIC_FNSAVE, store_x87 },
	{ ZYDIS_MNEMONIC_FLDENV, load_x87 },         { ZYDIS_MNEMONIC_FRSTOR, load_x87 },
	{ ZYDIS_MNEMONIC_FNINIT, fninit },           { ZYDIS_MNEMONIC_MASKMOVQ, masked_store },
	{ ZYDIS_MNEMONIC_MASKMOVDQU, masked_store },
};

soft_fn *soft_exec_fpu(const struct soft_insn *insn)
{
	return soft_find(table, ARRAY_SIZE(table), insn);
}
