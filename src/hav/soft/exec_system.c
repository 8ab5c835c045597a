/* Software backend: control and debug registers, descriptor tables, CPUID, time, and the like.
 * MSRs: msr.c */
#include "hav/soft/exec.h"

static enum soft_result need_cpl0(struct soft_vcpu *cpu)
{
	return cpu->cpl ? soft_raise_error(cpu, EXC_GP, 0) : SOFT_DONE;
}

/* --- Control registers (APM vol. 2 §3.1) ---- */

#define CR0_DEFINED                                                                                \
	(CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | \
	 CR0_PG)
#define CR4_DEFINED                                                                         \
	(0x1u | 0x2u | CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | CR4_PGE | CR4_PCE | \
	 CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_UMIP | CR4_FSGSBASE | CR4_SMEP | CR4_SMAP)

static enum soft_result write_cr0(struct soft_vcpu *cpu, uint64_t value)
{
	uint64_t changed = cpu->cr0 ^ value;

	if (value >> 32 || ((value & CR0_PG) && !(value & CR0_PE)) ||
	    ((value & CR0_NW) && !(value & CR0_CD)))
		return soft_raise_error(cpu, EXC_GP, 0);
	if ((changed & CR0_PG) && (cpu->efer & EFER_LME)) {
		if ((value & CR0_PG) && (!(cpu->cr4 & CR4_PAE) || (cpu->seg[CS].attr & SEG_L)))
			return soft_raise_error(cpu, EXC_GP, 0);
		if (!(value & CR0_PG) && cpu->mode == 64)
			return soft_raise_error(cpu, EXC_GP, 0);
		cpu->efer = value & CR0_PG ? cpu->efer | EFER_LMA : cpu->efer & ~(uint64_t)EFER_LMA;
	}
	cpu->cr0 = (value & CR0_DEFINED) | CR0_ET;
	if (changed & (CR0_PG | CR0_WP | CR0_PE))
		soft_tlb_flush(cpu, true);
	soft_update_mode(cpu);
	return SOFT_DONE;
}

static enum soft_result write_cr3(struct soft_vcpu *cpu, uint64_t value)
{
	if ((cpu->efer & EFER_LMA) && value >> SOFT_PHYS_BITS)
		return soft_raise_error(cpu, EXC_GP, 0);
	cpu->cr3 = value;
	soft_tlb_flush(cpu, false);
	return SOFT_DONE;
}

static enum soft_result write_cr4(struct soft_vcpu *cpu, uint64_t value)
{
	if ((value & ~(uint64_t)CR4_DEFINED) || ((cpu->efer & EFER_LMA) && !(value & CR4_PAE)))
		return soft_raise_error(cpu, EXC_GP, 0);
	if ((cpu->cr4 ^ value) & (CR4_PSE | CR4_PAE | CR4_PGE | CR4_SMEP | CR4_SMAP))
		soft_tlb_flush(cpu, true);
	cpu->cr4 = value;
	soft_update_mode(cpu);
	return SOFT_DONE;
}

static enum soft_result write_cr8(struct soft_vcpu *cpu, uint64_t value)
{
	bool lowered = value < cpu->cr8;

	if (value > 15)
		return soft_raise_error(cpu, EXC_GP, 0);
	cpu->cr8 = value;
	if (lowered)
		cpu->tpr_lowered = true;
	atomic_fetch_or(&cpu->attention, ATTENTION_EVENT);
	return SOFT_DONE;
}

static enum soft_result mov_to_control(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	uint64_t value = cpu->frame.gpr[insn->op[1].reg];
	enum soft_result r = need_cpl0(cpu);

	if (r)
		return r;
	if (cpu->mode != 64)
		value = (uint32_t)value;
	switch (insn->op[0].reg) {
	case 0: return write_cr0(cpu, value);
	case 2: cpu->cr2 = value; return SOFT_DONE;
	case 3: return write_cr3(cpu, value);
	case 4: return write_cr4(cpu, value);
	case 8: return write_cr8(cpu, value);
	default: return soft_raise(cpu, EXC_UD);
	}
}

static enum soft_result mov_from_control(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	enum soft_result r = need_cpl0(cpu);
	uint64_t value;

	if (r)
		return r;
	switch (insn->op[1].reg) {
	case 0: value = cpu->cr0; break;
	case 2: value = cpu->cr2; break;
	case 3: value = cpu->cr3; break;
	case 4: value = cpu->cr4; break;
	case 8: value = cpu->cr8; break;
	default: return soft_raise(cpu, EXC_UD);
	}
	soft_set_reg(cpu, insn->op[0].reg, cpu->mode == 64 ? 8 : 4, value);
	return SOFT_DONE;
}

/* --- Debug registers (APM vol. 2 §13.1) ---- */

#define DR7_GD (1u << 13)
#define DR6_BD (1u << 13)

static enum soft_result debug_access(struct soft_vcpu *cpu, unsigned *reg)
{
	enum soft_result r = need_cpl0(cpu);

	if (r)
		return r;
	if (*reg == 4 || *reg == 5) {
		if (cpu->cr4 & CR4_DE)
			return soft_raise(cpu, EXC_UD);
		*reg += 2;
	}
	if (*reg > 7)
		return soft_raise(cpu, EXC_UD);
	if (cpu->dr7 & DR7_GD) {
		cpu->dr6 |= DR6_BD;
		cpu->dr7 &= ~(uint64_t)DR7_GD;
		return soft_raise(cpu, EXC_DB);
	}
	return SOFT_DONE;
}

static enum soft_result mov_to_debug(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	uint64_t value = cpu->frame.gpr[insn->op[1].reg];
	unsigned reg = insn->op[0].reg;
	enum soft_result r = debug_access(cpu, &reg);

	if (r)
		return r;
	if (cpu->mode != 64)
		value = (uint32_t)value;
	if (reg >= 6 && value >> 32)
		return soft_raise_error(cpu, EXC_GP, 0);
	if (reg < 4)
		cpu->dr[reg] = value;
	else if (reg == 6)
		cpu->dr6 = (value & 0xe00f) | 0xffff0ff0;
	else
		cpu->dr7 = (value & 0xffff2bff) | 0x400;
	soft_update_mode(cpu);
	atomic_fetch_or(&cpu->attention, ATTENTION_EVENT);
	return SOFT_DONE;
}

static enum soft_result mov_from_debug(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	unsigned reg = insn->op[1].reg;
	enum soft_result r = debug_access(cpu, &reg);

	if (!r)
		soft_set_reg(cpu, insn->op[0].reg, cpu->mode == 64 ? 8 : 4,
			     reg < 4    ? cpu->dr[reg]
			     : reg == 6 ? cpu->dr6
					: cpu->dr7);
	return r;
}

/* --- Machine status ---- */

static enum soft_result lmsw(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	enum soft_result r = need_cpl0(cpu);
	uint64_t value;

	if (!r)
		r = soft_get(cpu, insn, &insn->op[0], &value);
	/* PE can be set, not cleared. */
	return r ? r : write_cr0(cpu, (cpu->cr0 & ~(uint64_t)0xe) | (value & 0xf));
}

static enum soft_result umip(struct soft_vcpu *cpu)
{
	return cpu->cpl && (cpu->cr4 & CR4_UMIP) ? soft_raise_error(cpu, EXC_GP, 0) : SOFT_DONE;
}

static enum soft_result smsw(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	enum soft_result r = umip(cpu);

	return r ? r : soft_set(cpu, insn, &insn->op[0], cpu->cr0);
}

static enum soft_result clts(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	enum soft_result r = need_cpl0(cpu);

	if (!r)
		cpu->cr0 &= ~(uint64_t)CR0_TS;
	return r;
}

/* --- Descriptor tables ---- */

static enum soft_result load_table(struct soft_vcpu *cpu, const struct soft_insn *insn,
				   struct hav_table *table)
{
	uint64_t at = soft_offset(cpu, insn), limit = 0, base = 0;
	enum soft_result r = need_cpl0(cpu);

	if (!r)
		r = soft_load(cpu, insn->segment, at, &limit, 2);
	if (!r)
		r = soft_load(cpu, insn->segment, soft_address(insn, at + 2), &base,
			      cpu->mode == 64 ? 8 : 4);
	if (!r && cpu->mode == 64 && !soft_canonical(base))
		r = soft_raise_error(cpu, EXC_GP, 0);
	if (r)
		return r;
	if (cpu->mode != 64 && insn->opsize == 2)
		base &= 0xffffff;
	*table = (struct hav_table){ .base = base, .limit = limit };
	return SOFT_DONE;
}
static enum soft_result lgdt(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	return load_table(cpu, insn, &cpu->gdt);
}
static enum soft_result lidt(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	return load_table(cpu, insn, &cpu->idt);
}

static enum soft_result store_table(struct soft_vcpu *cpu, const struct soft_insn *insn,
				    const struct hav_table *table)
{
	uint64_t at = soft_offset(cpu, insn), linear;
	unsigned size = cpu->mode == 64 ? 8 : 4;
	uint8_t bytes[10];
	enum soft_result r = umip(cpu);

	memcpy(bytes, &table->limit, 2);
	memcpy(bytes + 2, &table->base, size);
	if (!r)
		r = soft_linear(cpu, insn->segment, at, 2 + size, ACCESS_WRITE, &linear);
	return r ? r : soft_write(cpu, linear, bytes, 2 + size, cpu->tlb_now);
}
static enum soft_result sgdt(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	return store_table(cpu, insn, &cpu->gdt);
}
static enum soft_result sidt(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	return store_table(cpu, insn, &cpu->idt);
}

static enum soft_result protected_only(struct soft_vcpu *cpu)
{
	return cpu->cr0 & CR0_PE ? SOFT_DONE : soft_raise(cpu, EXC_UD);
}

enum { TYPE_LDT = 2, TYPE_TSS16 = 1, TYPE_TSS = 9, TYPE_BUSY = 2 };

static enum soft_result lldt(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	struct soft_descriptor d;
	uint64_t selector;
	enum soft_result r = protected_only(cpu);

	if (!r)
		r = need_cpl0(cpu);
	if (!r)
		r = soft_get(cpu, insn, &insn->op[0], &selector);
	if (r)
		return r;
	if (!(selector & 0xfffc)) {
		cpu->ldt =
			(struct hav_segment){ .selector = selector, .attr = HAV_SEGMENT_UNUSABLE };
		return SOFT_DONE;
	}
	if (selector & 4)
		return soft_raise_error(cpu, EXC_GP, selector & 0xfffc);
	r = soft_read_descriptor(cpu, selector, &d, EXC_GP);
	if (r)
		return r;
	if ((d.segment.attr & (SEG_S | 0xf)) != TYPE_LDT)
		return soft_raise_error(cpu, EXC_GP, selector & 0xfffc);
	if (!(d.segment.attr & SEG_P))
		return soft_raise_error(cpu, EXC_NP, selector & 0xfffc);
	cpu->ldt = d.segment;
	return SOFT_DONE;
}

static enum soft_result ltr(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	struct soft_descriptor d;
	uint64_t selector;
	uint8_t access;
	enum soft_result r = protected_only(cpu);

	if (!r)
		r = need_cpl0(cpu);
	if (!r)
		r = soft_get(cpu, insn, &insn->op[0], &selector);
	if (r)
		return r;
	if (!(selector & 0xfffc))
		return soft_raise_error(cpu, EXC_GP, 0);
	if (selector & 4)
		return soft_raise_error(cpu, EXC_GP, selector & 0xfffc);
	r = soft_read_descriptor(cpu, selector, &d, EXC_GP);
	if (r)
		return r;
	if ((d.segment.attr & (SEG_S | 0xf)) != TYPE_TSS &&
	    ((d.segment.attr & (SEG_S | 0xf)) != TYPE_TSS16 || (cpu->efer & EFER_LMA)))
		return soft_raise_error(cpu, EXC_GP, selector & 0xfffc);
	if (!(d.segment.attr & SEG_P))
		return soft_raise_error(cpu, EXC_NP, selector & 0xfffc);
	d.segment.attr |= TYPE_BUSY;
	access = d.segment.attr;
	r = soft_write(cpu, d.linear + 5, &access, 1, TLB_SUPERVISOR_AC);
	if (!r)
		cpu->tr = d.segment;
	return r;
}

static enum soft_result store_selector(struct soft_vcpu *cpu, const struct soft_insn *insn,
				       uint64_t selector)
{
	enum soft_result r = protected_only(cpu);

	if (!r)
		r = umip(cpu);
	if (r)
		return r;
	if (insn->op[0].kind == OPERAND_MEMORY)
		return soft_store(cpu, insn->segment, soft_offset(cpu, insn), &selector, 2);
	soft_set_gpr(cpu, &insn->op[0], selector);
	return SOFT_DONE;
}
static enum soft_result sldt(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	return store_selector(cpu, insn, cpu->ldt.selector);
}
static enum soft_result str(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	return store_selector(cpu, insn, cpu->tr.selector);
}

/* --- Asking about a selector: LAR, LSL, VERR, VERW ---- */

/* Is there such a descriptor, may this level see it? *visible tells; faults only of memory. */
static enum soft_result look_up(struct soft_vcpu *cpu, const struct soft_insn *insn,
				const struct soft_operand *op, struct soft_descriptor *d,
				bool *visible)
{
	enum soft_result r = protected_only(cpu);
	uint64_t selector = 0;
	unsigned dpl;

	*visible = false;
	if (r)
		return r;
	if (op->kind == OPERAND_MEMORY)
		r = soft_load(cpu, insn->segment, soft_offset(cpu, insn), &selector, 2);
	else
		selector = (uint16_t)cpu->frame.gpr[op->reg];
	if (r || !(selector & 0xfffc))
		return r;
	r = soft_read_descriptor(cpu, selector, d, EXC_GP);
	if (r == SOFT_FAULT && cpu->fault.vector == EXC_GP)
		return SOFT_DONE;
	if (r)
		return r;
	dpl = soft_dpl(&d->segment);
	*visible = soft_is_conforming(&d->segment) || (dpl >= cpu->cpl && dpl >= (selector & 3));
	return SOFT_DONE;
}

static void set_zf(struct soft_vcpu *cpu, bool zf)
{
	cpu->rflags = zf ? cpu->rflags | RFLAGS_ZF : cpu->rflags & ~(uint64_t)RFLAGS_ZF;
}

/* Types of system descriptors that LAR and LSL know, a bit each (Intel SDM vol. 2). */
static bool type_in(const struct soft_vcpu *cpu, const struct soft_descriptor *d, unsigned legacy,
		    unsigned wide)
{
	if (d->segment.attr & SEG_S)
		return true;
	return (cpu->efer & EFER_LMA ? wide : legacy) >> (d->segment.attr & 0xf) & 1;
}

static enum soft_result lar(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	struct soft_descriptor d;
	bool ok;
	enum soft_result r = look_up(cpu, insn, &insn->op[1], &d, &ok);

	if (r)
		return r;
	ok = ok && type_in(cpu, &d, 0x1a3e, 0x1a04);
	set_zf(cpu, ok);
	if (ok)
		soft_set_gpr(cpu, &insn->op[0], d.low >> 32 & 0xf0ff00);
	return SOFT_DONE;
}

static enum soft_result lsl(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	struct soft_descriptor d;
	bool ok;
	enum soft_result r = look_up(cpu, insn, &insn->op[1], &d, &ok);

	if (r)
		return r;
	ok = ok && type_in(cpu, &d, 0x0a0e, 0x0a04);
	set_zf(cpu, ok);
	if (ok)
		soft_set_gpr(cpu, &insn->op[0], d.segment.limit);
	return SOFT_DONE;
}

static enum soft_result verify(struct soft_vcpu *cpu, const struct soft_insn *insn, bool write)
{
	struct soft_descriptor d;
	bool ok;
	enum soft_result r = look_up(cpu, insn, &insn->op[0], &d, &ok);
	unsigned type;

	if (r)
		return r;
	type = ok ? d.segment.attr & (SEG_S | 0xf) : 0;
	ok = ok && (type & SEG_S);
	if (write)
		ok = ok && (type & 0xa) == 2;
	else
		ok = ok && (!(type & 8) || (type & 2));
	set_zf(cpu, ok);
	return SOFT_DONE;
}
static enum soft_result verr(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	return verify(cpu, insn, false);
}
static enum soft_result verw(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	return verify(cpu, insn, true);
}

static enum soft_result arpl(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	uint64_t to, from = soft_gpr(cpu, &insn->op[1]);
	enum soft_result r = protected_only(cpu);

	if (!r)
		r = soft_get(cpu, insn, &insn->op[0], &to);
	if (r)
		return r;
	if ((to & 3) < (from & 3)) {
		r = soft_set(cpu, insn, &insn->op[0], (to & ~UINT64_C(3)) | (from & 3));
		if (!r)
			set_zf(cpu, true);
		return r;
	}
	set_zf(cpu, false);
	return SOFT_DONE;
}

/* --- FS and GS ---- */

static enum soft_result swapgs(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	enum soft_result r = cpu->mode == 64 ? need_cpl0(cpu) : soft_raise(cpu, EXC_UD);
	uint64_t base = cpu->seg[GS].base;

	if (!r) {
		cpu->seg[GS].base = cpu->kernel_gs_base;
		cpu->kernel_gs_base = base;
	}
	return r;
}

static enum soft_result need_fsgsbase(struct soft_vcpu *cpu)
{
	return cpu->mode == 64 && (cpu->cr4 & CR4_FSGSBASE) ? SOFT_DONE : soft_raise(cpu, EXC_UD);
}

static enum soft_result rdbase(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	enum soft_result r = need_fsgsbase(cpu);

	if (!r)
		soft_set_gpr(cpu, &insn->op[0],
			     cpu->seg[insn->mnemonic == ZYDIS_MNEMONIC_RDFSBASE ? FS : GS].base);
	return r;
}

static enum soft_result wrbase(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	enum soft_result r = need_fsgsbase(cpu);
	uint64_t base = soft_gpr(cpu, &insn->op[0]);

	if (!r && !soft_canonical(base))
		r = soft_raise_error(cpu, EXC_GP, 0);
	if (!r)
		cpu->seg[insn->mnemonic == ZYDIS_MNEMONIC_WRFSBASE ? FS : GS].base = base;
	return r;
}

/* --- The rest ---- */

static enum soft_result invlpg(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	enum soft_result r = need_cpl0(cpu);
	uint64_t offset = soft_offset(cpu, insn);

	if (!r) {
		if (cpu->mode != 64 || insn->segment >= FS)
			offset += cpu->seg[insn->segment].base;
		soft_tlb_flush_page(cpu, cpu->mode == 64 ? offset : (uint32_t)offset);
	}
	return r;
}

static enum soft_result privileged_nothing(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	return need_cpl0(cpu);
}

/* CLFLUSH and the like: memory is coherent, but the address must be readable. */
static enum soft_result flush_line(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	uint64_t value;

	return soft_load(cpu, insn->segment, soft_offset(cpu, insn), &value, 1);
}

static enum soft_result nothing(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	return SOFT_DONE;
}

static enum soft_result hlt(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	enum soft_result r = need_cpl0(cpu);

	if (!r)
		cpu->halt = true;
	return r;
}

static enum soft_result cpuid(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	const struct hav_cpuid *leaf =
		soft_cpuid(cpu, (uint32_t)cpu->frame.gpr[RAX], (uint32_t)cpu->frame.gpr[RCX]);
	struct hav_cpuid none = { 0 };

	leaf = leaf ? leaf : &none;
	cpu->frame.gpr[RAX] = leaf->eax;
	cpu->frame.gpr[RBX] = leaf->ebx;
	cpu->frame.gpr[RCX] = leaf->ecx;
	cpu->frame.gpr[RDX] = leaf->edx;
	return SOFT_DONE;
}

static enum soft_result rdtsc(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	uint64_t tsc = soft_tsc(cpu);

	if ((cpu->cr4 & CR4_TSD) && cpu->cpl)
		return soft_raise_error(cpu, EXC_GP, 0);
	cpu->frame.gpr[RAX] = (uint32_t)tsc;
	cpu->frame.gpr[RDX] = tsc >> 32;
	if (insn->mnemonic == ZYDIS_MNEMONIC_RDTSCP)
		cpu->frame.gpr[RCX] = (uint32_t)cpu->tsc_aux;
	return SOFT_DONE;
}

static enum soft_result rdpmc(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	return soft_raise_error(cpu, EXC_GP, 0); /* there are no counters */
}

/* KVM's calls: what the caller answers goes to RAX. */
static enum soft_result hypercall(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	static const uint8_t args[] = { RBX, RCX, RDX, RSI, RDI, R8 };

	if (cpu->hypercall_done) {
		cpu->hypercall_done = false;
		cpu->frame.gpr[RAX] = cpu->hypercall_result;
		return SOFT_DONE;
	}
	cpu->exit.hypercall.nr = cpu->frame.gpr[RAX];
	for (unsigned i = 0; i < ARRAY_SIZE(args); i++)
		cpu->exit.hypercall.args[i] = cpu->frame.gpr[args[i]];
	cpu->hypercall_result = -1000; /* KVM_ENOSYS, unless the caller knows better */
	cpu->exit.hypercall.ret = &cpu->hypercall_result;
	return soft_exit(cpu, HAV_EXIT_HYPERCALL);
}

static const struct soft_table table[] = {
	{ ZYDIS_MNEMONIC_LMSW, lmsw },
	{ ZYDIS_MNEMONIC_SMSW, smsw },
	{ ZYDIS_MNEMONIC_CLTS, clts },
	{ ZYDIS_MNEMONIC_LGDT, lgdt },
	{ ZYDIS_MNEMONIC_LIDT, lidt },
	{ ZYDIS_MNEMONIC_SGDT, sgdt },
	{ ZYDIS_MNEMONIC_SIDT, sidt },
	{ ZYDIS_MNEMONIC_LLDT, lldt },
	{ ZYDIS_MNEMONIC_LTR, ltr },
	{ ZYDIS_MNEMONIC_SLDT, sldt },
	{ ZYDIS_MNEMONIC_STR, str },
	{ ZYDIS_MNEMONIC_LAR, lar },
	{ ZYDIS_MNEMONIC_LSL, lsl },
	{ ZYDIS_MNEMONIC_VERR, verr },
	{ ZYDIS_MNEMONIC_VERW, verw },
	{ ZYDIS_MNEMONIC_ARPL, arpl },
	{ ZYDIS_MNEMONIC_SWAPGS, swapgs },
	{ ZYDIS_MNEMONIC_RDFSBASE, rdbase },
	{ ZYDIS_MNEMONIC_RDGSBASE, rdbase },
	{ ZYDIS_MNEMONIC_WRFSBASE, wrbase },
	{ ZYDIS_MNEMONIC_WRGSBASE, wrbase },
	{ ZYDIS_MNEMONIC_INVLPG, invlpg },
	{ ZYDIS_MNEMONIC_INVD, privileged_nothing },
	{ ZYDIS_MNEMONIC_WBINVD, privileged_nothing },
	{ ZYDIS_MNEMONIC_CLFLUSH, flush_line },
	{ ZYDIS_MNEMONIC_CLFLUSHOPT, flush_line },
	{ ZYDIS_MNEMONIC_CLWB, flush_line },
	{ ZYDIS_MNEMONIC_PREFETCH, nothing },
	{ ZYDIS_MNEMONIC_PREFETCHW, nothing },
	{ ZYDIS_MNEMONIC_PREFETCHNTA, nothing },
	{ ZYDIS_MNEMONIC_PREFETCHT0, nothing },
	{ ZYDIS_MNEMONIC_PREFETCHT1, nothing },
	{ ZYDIS_MNEMONIC_PREFETCHT2, nothing },
	{ ZYDIS_MNEMONIC_ENDBR32, nothing },
	{ ZYDIS_MNEMONIC_ENDBR64, nothing },
	{ ZYDIS_MNEMONIC_RDSSPD, nothing },
	{ ZYDIS_MNEMONIC_RDSSPQ, nothing },
	{ ZYDIS_MNEMONIC_HLT, hlt },
	{ ZYDIS_MNEMONIC_CPUID, cpuid },
	{ ZYDIS_MNEMONIC_RDTSC, rdtsc },
	{ ZYDIS_MNEMONIC_RDTSCP, rdtsc },
	{ ZYDIS_MNEMONIC_RDPMC, rdpmc },
	{ ZYDIS_MNEMONIC_RDMSR, soft_rdmsr },
	{ ZYDIS_MNEMONIC_WRMSR, soft_wrmsr },
	{ ZYDIS_MNEMONIC_VMCALL, hypercall },
	{ ZYDIS_MNEMONIC_VMMCALL, hypercall },
};

soft_fn *soft_exec_system(const struct soft_insn *insn)
{
	if (insn->mnemonic != ZYDIS_MNEMONIC_MOV)
		return soft_find(table, ARRAY_SIZE(table), insn);
	if (insn->op[0].kind == OPERAND_CONTROL)
		return mov_to_control;
	if (insn->op[1].kind == OPERAND_CONTROL)
		return mov_from_control;
	return insn->op[0].kind == OPERAND_DEBUG ? mov_to_debug : mov_from_debug;
}
