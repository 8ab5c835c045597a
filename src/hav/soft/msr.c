/*
 * Software backend: model-specific registers.
 *
 * Those that are a value and no more are in a table; the rest have a case each. IA32_APIC_BASE, the
 * x2APIC's and IA32_TSC_DEADLINE belong to the caller's local APIC and leave with HAV_EXIT_MSR.
 * Any other does not exist: #GP, and one line in the log.
 */
#include "hav/soft/exec.h"

#include "base/log.h"

#include <x86intrin.h>

enum {
	MSR_TSC = 0x10,
	MSR_APIC_BASE = 0x1b,
	MSR_TSC_ADJUST = 0x3b,
	MSR_BIOS_SIGN_ID = 0x8b,
	MSR_MTRRCAP = 0xfe,
	MSR_MCG_CAP = 0x179,
	MSR_MTRR_PHYS_BASE0 = 0x200, /* base and mask in turn */
	MSR_MTRR_PHYS_LAST = 0x20f,
	MSR_TSC_DEADLINE = 0x6e0,
	MSR_X2APIC_FIRST = 0x800,
	MSR_X2APIC_LAST = 0x8ff,
};
#define MSR_EFER           0xc0000080u
#define MSR_FS_BASE        0xc0000100u
#define MSR_GS_BASE        0xc0000101u
#define MSR_KERNEL_GS_BASE 0xc0000102u

/* Configuration of AMD's processors that Linux reads, or sets a bit in: zeros that stay. */
#define MSR_AMD_SYSCFG      0xc0010010u
#define MSR_AMD_HWCR        0xc0010015u
#define MSR_AMD_NB_CFG      0xc001001fu
#define MSR_AMD_INT_PENDING 0xc0010055u
#define MSR_AMD_LS_CFG      0xc0011020u
#define MSR_AMD_DE_CFG      0xc0011029u

#define N_MTRRS             8
#define EFER_DEFINED        (EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE)

struct plain_msr {
	uint32_t index;
	size_t offset;
	uint64_t reserved; /* #GP when written as ones */
	bool canonical;
};

#define AT(field) offsetof(struct soft_vcpu, field)
static const struct plain_msr plain[] = {
	{ 0x174, AT(sysenter_cs), 0, false },
	{ 0x175, AT(sysenter_esp), 0, true },
	{ 0x176, AT(sysenter_eip), 0, true },
	{ 0x17a, AT(mcg_status), 0, false },
	{ MSR_IA32_MISC_ENABLE, AT(misc_enable), 0, false },
	{ 0x250, AT(mtrr_fixed[0]), 0, false },
	{ 0x258, AT(mtrr_fixed[1]), 0, false },
	{ 0x259, AT(mtrr_fixed[2]), 0, false },
	{ 0x268, AT(mtrr_fixed[3]), 0, false },
	{ 0x269, AT(mtrr_fixed[4]), 0, false },
	{ 0x26a, AT(mtrr_fixed[5]), 0, false },
	{ 0x26b, AT(mtrr_fixed[6]), 0, false },
	{ 0x26c, AT(mtrr_fixed[7]), 0, false },
	{ 0x26d, AT(mtrr_fixed[8]), 0, false },
	{ 0x26e, AT(mtrr_fixed[9]), 0, false },
	{ 0x26f, AT(mtrr_fixed[10]), 0, false },
	{ 0x277, AT(pat), UINT64_C(0xf8f8f8f8f8f8f8f8), false },
	{ MSR_IA32_MTRR_DEF_TYPE, AT(mtrr_def_type), ~UINT64_C(0xcff), false },
	{ 0xc0000081, AT(star), 0, false },
	{ 0xc0000082, AT(lstar), 0, true },
	{ 0xc0000083, AT(cstar), 0, true },
	{ 0xc0000084, AT(fmask), 0, false },
	{ MSR_FS_BASE, AT(seg[FS].base), 0, true },
	{ MSR_GS_BASE, AT(seg[GS].base), 0, true },
	{ MSR_KERNEL_GS_BASE, AT(kernel_gs_base), 0, true },
	{ 0xc0000103, AT(tsc_aux), ~UINT64_C(0xffffffff), false },
};

static const struct plain_msr *find_plain(uint32_t index)
{
	for (size_t i = 0; i < ARRAY_SIZE(plain); i++)
		if (plain[i].index == index)
			return &plain[i];
	return NULL;
}

bool soft_msr_read(struct soft_vcpu *cpu, uint32_t index, uint64_t *value)
{
	const struct plain_msr *msr = find_plain(index);

	if (msr) {
		*value = *(uint64_t *)((char *)cpu + msr->offset);
		return true;
	}
	if (index >= MSR_MTRR_PHYS_BASE0 && index <= MSR_MTRR_PHYS_LAST) {
		*value = cpu->mtrr_variable[index - MSR_MTRR_PHYS_BASE0];
		return true;
	}
	switch (index) {
	case MSR_TSC: *value = soft_tsc(cpu); return true;
	case MSR_TSC_ADJUST: *value = cpu->tsc_adjust; return true;
	case MSR_APIC_BASE: *value = cpu->apic_base; return true;
	case MSR_EFER: *value = cpu->efer; return true;
	case MSR_MTRRCAP: *value = 0x500 | N_MTRRS; return true; /* fixed ranges, write-combining */
	case MSR_BIOS_SIGN_ID: /* the microcode's revision, in the upper half */
	case MSR_MCG_CAP:
	case MSR_AMD_SYSCFG:
	case MSR_AMD_HWCR:
	case MSR_AMD_NB_CFG:
	case MSR_AMD_INT_PENDING:
	case MSR_AMD_LS_CFG:
	case MSR_AMD_DE_CFG: *value = 0; return true;
	default: return false;
	}
}

static bool write_efer(struct soft_vcpu *cpu, uint64_t value)
{
	if ((value & ~(uint64_t)EFER_DEFINED) ||
	    (((value ^ cpu->efer) & EFER_LME) && (cpu->cr0 & CR0_PG)))
		return false;
	/* LMA is the processor's to set. */
	value = (value & ~(uint64_t)EFER_LMA) | (cpu->efer & EFER_LMA);
	if ((value ^ cpu->efer) & EFER_NXE)
		soft_tlb_flush(cpu, true);
	cpu->efer = value;
	return true;
}

bool soft_msr_write(struct soft_vcpu *cpu, uint32_t index, uint64_t value)
{
	const struct plain_msr *msr = find_plain(index);

	if (msr) {
		if ((value & msr->reserved) || (msr->canonical && !soft_canonical(value)))
			return false;
		*(uint64_t *)((char *)cpu + msr->offset) = value;
		return true;
	}
	if (index >= MSR_MTRR_PHYS_BASE0 && index <= MSR_MTRR_PHYS_LAST) {
		cpu->mtrr_variable[index - MSR_MTRR_PHYS_BASE0] = value;
		return true;
	}
	switch (index) {
	case MSR_TSC:
		cpu->tsc_adjust += value - soft_tsc(cpu);
		cpu->tsc_offset += value - soft_tsc(cpu);
		return true;
	case MSR_TSC_ADJUST:
		cpu->tsc_offset += value - cpu->tsc_adjust;
		cpu->tsc_adjust = value;
		return true;
	case MSR_APIC_BASE: cpu->apic_base = value; return true;
	case MSR_EFER: return write_efer(cpu, value);
	case MSR_BIOS_SIGN_ID:
	case MSR_AMD_SYSCFG:
	case MSR_AMD_HWCR:
	case MSR_AMD_NB_CFG:
	case MSR_AMD_INT_PENDING:
	case MSR_AMD_LS_CFG:
	case MSR_AMD_DE_CFG: return true;
	default: return false;
	}
}

/*
 * The vCPUs of a VM are set one after the other, to the same number: less than a second from the
 * last one's count, the last one's is meant, as guests compare them. TSC_ADJUST is only what the
 * guest will read.
 */
void soft_msr_set(struct soft_vcpu *cpu, uint32_t index, uint64_t value)
{
	uint64_t second = cpu->vm->tsc_khz * UINT64_C(1000);
	uint64_t offset = atomic_load(&cpu->vm->tsc_offset), other = value - __rdtsc();

	switch (index) {
	case MSR_TSC:
		if (offset - other + second > 2 * second)
			offset = other;
		atomic_store(&cpu->vm->tsc_offset, offset);
		cpu->tsc_offset = offset;
		break;
	case MSR_TSC_ADJUST: cpu->tsc_adjust = value; break;
	default: soft_msr_write(cpu, index, value);
	}
}

/* What of these the caller keeps. */
static bool is_callers(uint32_t index)
{
	return index == MSR_APIC_BASE || index == MSR_TSC_DEADLINE ||
	       (index >= MSR_X2APIC_FIRST && index <= MSR_X2APIC_LAST);
}

/* Asks the caller; when it has answered the instruction is begun anew and comes here again. */
static enum soft_result ask_caller(struct soft_vcpu *cpu, uint32_t index, bool write,
				   uint64_t *value)
{
	if (!cpu->msr_asked) {
		cpu->msr_asked = true;
		cpu->msr_fault = false;
		cpu->msr_value = *value;
		cpu->exit.msr.index = index;
		cpu->exit.msr.write = write;
		cpu->exit.msr.value = &cpu->msr_value;
		cpu->exit.msr.fault = &cpu->msr_fault;
		return soft_exit(cpu, HAV_EXIT_MSR);
	}
	cpu->msr_asked = false;
	*value = cpu->msr_value;
	return cpu->msr_fault ? soft_raise_error(cpu, EXC_GP, 0) : SOFT_DONE;
}

static enum soft_result no_such_msr(struct soft_vcpu *cpu, uint32_t index, bool write)
{
	soft_fpu_release(cpu);
	log_item(LOG_UNIMP, "soft: %s of MSR 0x%x, which does not exist here: #GP for the guest",
		 write ? "WRMSR" : "RDMSR", index);
	return soft_raise_error(cpu, EXC_GP, 0);
}

enum soft_result soft_rdmsr(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	uint32_t index = cpu->frame.gpr[RCX];
	enum soft_result r = SOFT_DONE;
	uint64_t value = 0;

	if (cpu->cpl)
		return soft_raise_error(cpu, EXC_GP, 0);
	if (is_callers(index))
		r = ask_caller(cpu, index, false, &value);
	else if (!soft_msr_read(cpu, index, &value))
		r = no_such_msr(cpu, index, false);
	if (r)
		return r;
	cpu->frame.gpr[RAX] = (uint32_t)value;
	cpu->frame.gpr[RDX] = value >> 32;
	return SOFT_DONE;
}

enum soft_result soft_wrmsr(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	uint32_t index = cpu->frame.gpr[RCX];
	uint64_t value = (uint32_t)cpu->frame.gpr[RAX] | cpu->frame.gpr[RDX] << 32;

	if (cpu->cpl)
		return soft_raise_error(cpu, EXC_GP, 0);
	if (is_callers(index))
		return ask_caller(cpu, index, true, &value);
	if (soft_msr_write(cpu, index, value))
		return SOFT_DONE;
	return find_plain(index) || index == MSR_EFER ? soft_raise_error(cpu, EXC_GP, 0)
						      : no_such_msr(cpu, index, true);
}

/* --- State in and out ---- */

void soft_msrs_get(struct soft_vcpu *cpu, struct hav_state *state)
{
	static const uint32_t others[] = { MSR_TSC, MSR_TSC_ADJUST };

	state->n_msrs = 0;
	for (size_t i = 0; i < ARRAY_SIZE(plain); i++)
		if (plain[i].index != MSR_FS_BASE && plain[i].index != MSR_GS_BASE)
			state->msrs[state->n_msrs++].index = plain[i].index;
	for (uint32_t i = MSR_MTRR_PHYS_BASE0; i <= MSR_MTRR_PHYS_LAST; i++)
		state->msrs[state->n_msrs++].index = i;
	for (size_t i = 0; i < ARRAY_SIZE(others); i++)
		state->msrs[state->n_msrs++].index = others[i];
	for (unsigned i = 0; i < state->n_msrs; i++)
		soft_msr_read(cpu, state->msrs[i].index, &state->msrs[i].value);
}
