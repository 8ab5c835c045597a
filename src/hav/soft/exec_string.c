/*
 * Software backend: string instructions, port input and output.
 *
 * With REP each element is a step of its own: registers move on with it, so that a fault or an exit
 * leaves the instruction to be resumed where it is. Interrupts are taken between elements every so
 * often. Elements that lie in one page, away from devices and code, are done many at a time.
 */
#include "hav/soft/exec.h"

#define BATCH 4096 /* elements between two looks at what else there is to do */

static uint64_t index_of(const struct soft_vcpu *cpu, const struct soft_insn *insn, unsigned reg)
{
	return cpu->frame.gpr[reg] & soft_mask(insn->addrsize);
}

static void advance(struct soft_vcpu *cpu, const struct soft_insn *insn, unsigned reg,
		    uint64_t elements)
{
	uint64_t by = elements * insn->memory_size;
	uint64_t value = cpu->frame.gpr[reg] + (cpu->rflags & RFLAGS_DF ? -by : by);

	soft_set_reg(cpu, reg, insn->addrsize, value & soft_mask(insn->addrsize));
}

static bool repeats(const struct soft_insn *insn)
{
	return insn->flags & (INSN_REP | INSN_REPNE);
}

/* Does one element, or up to most at once; how many, or 0 with *r set. */
typedef uint64_t element_fn(struct soft_vcpu *cpu, const struct soft_insn *insn, uint64_t most,
			    enum soft_result *r);

/* compares: ends by ZF, too (CMPS, SCAS). */
static enum soft_result repeat(struct soft_vcpu *cpu, const struct soft_insn *insn,
			       element_fn *element, bool compares)
{
	uint64_t budget = BATCH, at_once = cpu->rflags & RFLAGS_TF ? 1 : BATCH;
	enum soft_result r = SOFT_DONE;

	if (!repeats(insn)) {
		element(cpu, insn, 1, &r);
		return r;
	}
	for (;;) {
		uint64_t count = index_of(cpu, insn, RCX), done;

		if (!count)
			return SOFT_DONE;
		if (!budget) {
			cpu->next_rip = cpu->rip; /* to be gone on with */
			return SOFT_DONE;
		}
		done = element(cpu, insn, MIN(count, MIN(budget, at_once)), &r);
		if (r)
			return r;
		cpu->log.n = cpu->log.at = 0;
		soft_set_reg(cpu, RCX, insn->addrsize, count - done);
		budget -= done;
		if (compares && !!(cpu->rflags & RFLAGS_ZF) != !!(insn->flags & INSN_REP))
			return SOFT_DONE;
		if ((cpu->rflags & RFLAGS_TF) || cpu->trap_pending) {
			if (count != done)
				cpu->next_rip = cpu->rip;
			return SOFT_DONE;
		}
	}
}

/*
 * Host memory for up to *n elements from the one at offset on, upwards, all in one page, when the
 * TLB lets them through; NULL otherwise.
 */
static uint8_t *run_of(struct soft_vcpu *cpu, const struct soft_insn *insn, unsigned segment,
		       uint64_t offset, bool write, uint64_t *n)
{
	unsigned size = insn->memory_size;
	const struct soft_tlb *tlb = &cpu->tlb[cpu->tlb_now];
	uint64_t linear, room;

	if (cpu->mode == 64)
		linear = segment >= FS ? cpu->seg[segment].base + offset : offset;
	else if (cpu->flat[segment])
		linear = (uint32_t)(cpu->seg[segment].base + offset);
	else
		return NULL;
	room = (SOFT_PAGE - (linear & SOFT_PAGE_MASK)) / size;
	/* Not past the end of the address space as the instruction sees it. */
	if (insn->addrsize < 8)
		room = MIN(room, (soft_mask(insn->addrsize) - offset) / size);
	*n = MIN(*n, room);
	return *n ? soft_tlb_find(tlb, write ? tlb->write : tlb->read, linear, size) : NULL;
}

#define HOST_MOVS(suffix) \
	__asm__ volatile("rep movs" suffix : "+D"(to), "+S"(from), "+c"(count) : : "memory")
#define HOST_STOS(suffix) \
	__asm__ volatile("rep stos" suffix : "+D"(to), "+c"(count) : "a"(value) : "memory")

static uint64_t movs_run(struct soft_vcpu *cpu, const struct soft_insn *insn, uint64_t n)
{
	unsigned size = insn->memory_size;
	uint64_t count;
	uint8_t *from, *to;

	if (n < 2 || (cpu->rflags & RFLAGS_DF))
		return 0;
	from = run_of(cpu, insn, insn->segment, index_of(cpu, insn, RSI), false, &n);
	to = from ? run_of(cpu, insn, ES, index_of(cpu, insn, RDI), true, &n) : NULL;
	if (!to)
		return 0;
	count = n;
	/* The same instruction, so that what overlaps comes out alike. */
	switch (size) {
	case 1: HOST_MOVS("b"); break;
	case 2: HOST_MOVS("w"); break;
	case 4: HOST_MOVS("l"); break;
	default: HOST_MOVS("q"); break;
	}
	return n;
}

static uint64_t movs_element(struct soft_vcpu *cpu, const struct soft_insn *insn, uint64_t most,
			     enum soft_result *r)
{
	uint64_t value = 0, done = movs_run(cpu, insn, most);

	if (!done) {
		*r = soft_load(cpu, insn->segment, index_of(cpu, insn, RSI), &value,
			       insn->memory_size);
		if (!*r)
			*r = soft_store(cpu, ES, index_of(cpu, insn, RDI), &value,
					insn->memory_size);
		if (*r)
			return 0;
		done = 1;
	}
	advance(cpu, insn, RSI, done);
	advance(cpu, insn, RDI, done);
	return done;
}

static uint64_t stos_run(struct soft_vcpu *cpu, const struct soft_insn *insn, uint64_t n)
{
	unsigned size = insn->memory_size;
	uint64_t value = cpu->frame.gpr[RAX], count;
	uint8_t *to;

	if (n < 2 || (cpu->rflags & RFLAGS_DF))
		return 0;
	to = run_of(cpu, insn, ES, index_of(cpu, insn, RDI), true, &n);
	if (!to)
		return 0;
	count = n;
	switch (size) {
	case 1: HOST_STOS("b"); break;
	case 2: HOST_STOS("w"); break;
	case 4: HOST_STOS("l"); break;
	default: HOST_STOS("q"); break;
	}
	return n;
}

static uint64_t stos_element(struct soft_vcpu *cpu, const struct soft_insn *insn, uint64_t most,
			     enum soft_result *r)
{
	uint64_t done = stos_run(cpu, insn, most);

	if (!done) {
		*r = soft_store(cpu, ES, index_of(cpu, insn, RDI), &cpu->frame.gpr[RAX],
				insn->memory_size);
		if (*r)
			return 0;
		done = 1;
	}
	advance(cpu, insn, RDI, done);
	return done;
}

static uint64_t lods_element(struct soft_vcpu *cpu, const struct soft_insn *insn, uint64_t most,
			     enum soft_result *r)
{
	uint64_t value = 0;

	*r = soft_load(cpu, insn->segment, index_of(cpu, insn, RSI), &value, insn->memory_size);
	if (*r)
		return 0;
	soft_set_reg(cpu, RAX, insn->memory_size, value);
	advance(cpu, insn, RSI, 1);
	return 1;
}

/* Flags of a - b (Intel SDM vol. 1 appendix A). */
static void compare(struct soft_vcpu *cpu, uint64_t a, uint64_t b, unsigned size)
{
	uint64_t top = UINT64_C(1) << (size * 8 - 1), result;

	a &= soft_mask(size);
	b &= soft_mask(size);
	result = (a - b) & soft_mask(size);
	cpu->rflags &= ~(uint64_t)ARITHMETIC_FLAGS;
	cpu->rflags |= (a < b ? RFLAGS_CF : 0) | (result ? 0 : RFLAGS_ZF) |
		       (result & top ? RFLAGS_SF : 0) |
		       ((a ^ b) & (a ^ result) & top ? RFLAGS_OF : 0) |
		       ((a ^ b ^ result) & 0x10 ? RFLAGS_AF : 0) |
		       (__builtin_parity((uint8_t)result) ? 0 : RFLAGS_PF);
}

static uint64_t cmps_element(struct soft_vcpu *cpu, const struct soft_insn *insn, uint64_t most,
			     enum soft_result *r)
{
	uint64_t a = 0, b = 0;

	*r = soft_load(cpu, ES, index_of(cpu, insn, RDI), &b, insn->memory_size);
	if (!*r)
		*r = soft_load(cpu, insn->segment, index_of(cpu, insn, RSI), &a, insn->memory_size);
	if (*r)
		return 0;
	compare(cpu, a, b, insn->memory_size);
	advance(cpu, insn, RSI, 1);
	advance(cpu, insn, RDI, 1);
	return 1;
}

static uint64_t scas_element(struct soft_vcpu *cpu, const struct soft_insn *insn, uint64_t most,
			     enum soft_result *r)
{
	uint64_t value = 0;

	*r = soft_load(cpu, ES, index_of(cpu, insn, RDI), &value, insn->memory_size);
	if (*r)
		return 0;
	compare(cpu, cpu->frame.gpr[RAX], value, insn->memory_size);
	advance(cpu, insn, RDI, 1);
	return 1;
}

static enum soft_result movs(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	return repeat(cpu, insn, movs_element, false);
}
static enum soft_result stos(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	return repeat(cpu, insn, stos_element, false);
}
static enum soft_result lods(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	return repeat(cpu, insn, lods_element, false);
}
static enum soft_result cmps(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	return repeat(cpu, insn, cmps_element, true);
}
static enum soft_result scas(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	return repeat(cpu, insn, scas_element, true);
}

/* --- Ports ---- */

/* Above IOPL, the TSS has a bit for each port (APM vol. 2 §12.2.5). */
static enum soft_result check_port(struct soft_vcpu *cpu, uint16_t port, unsigned size)
{
	uint16_t map = 0, bits = 0;
	enum soft_result r;

	if (!(cpu->cr0 & CR0_PE) || cpu->cpl <= (cpu->rflags & RFLAGS_IOPL) >> 12)
		return SOFT_DONE;
	if (cpu->tr.limit < 103)
		return soft_raise_error(cpu, EXC_GP, 0);
	r = soft_read_system(cpu, cpu->tr.base + 0x66, &map, 2);
	if (r)
		return r;
	if (map + port / 8u + 1 > cpu->tr.limit)
		return soft_raise_error(cpu, EXC_GP, 0);
	r = soft_read_system(cpu, cpu->tr.base + map + port / 8u, &bits, 2);
	if (!r && (bits >> (port % 8) & ((1u << size) - 1)))
		r = soft_raise_error(cpu, EXC_GP, 0);
	return r;
}

/* The operand that is a port: DX or an immediate. */
static uint16_t port_of(const struct soft_vcpu *cpu, const struct soft_insn *insn,
			const struct soft_operand *op)
{
	return op->kind == OPERAND_IMM ? (uint8_t)insn->imm : (uint16_t)cpu->frame.gpr[RDX];
}

static enum soft_result in(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	uint16_t port = port_of(cpu, insn, &insn->op[1]);
	uint64_t value = 0;
	enum soft_result r = check_port(cpu, port, insn->op[0].size);

	if (!r)
		r = soft_device(cpu, true, false, port, &value, insn->op[0].size);
	if (!r) {
		soft_set_gpr(cpu, &insn->op[0], value);
		soft_check_io_watch(cpu, port, insn->op[0].size);
	}
	return r;
}

static enum soft_result out(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	uint16_t port = port_of(cpu, insn, &insn->op[0]);
	uint64_t value = soft_gpr(cpu, &insn->op[1]);
	enum soft_result r = check_port(cpu, port, insn->op[1].size);

	if (!r)
		r = soft_device(cpu, true, true, port, &value, insn->op[1].size);
	if (!r)
		soft_check_io_watch(cpu, port, insn->op[1].size);
	return r;
}

static uint64_t ins_element(struct soft_vcpu *cpu, const struct soft_insn *insn, uint64_t most,
			    enum soft_result *r)
{
	uint16_t port = cpu->frame.gpr[RDX];
	uint64_t value = 0, offset = index_of(cpu, insn, RDI), linear;
	unsigned size = insn->memory_size;

	/* A device must not be asked for what cannot be stored. */
	*r = soft_linear(cpu, ES, offset, size, ACCESS_WRITE, &linear);
	if (!*r)
		*r = soft_probe(cpu, linear, size, ACCESS_WRITE, cpu->tlb_now);
	if (!*r)
		*r = soft_device(cpu, true, false, port, &value, size);
	if (!*r)
		*r = soft_store(cpu, ES, offset, &value, size);
	if (*r)
		return 0;
	soft_check_io_watch(cpu, port, size);
	advance(cpu, insn, RDI, 1);
	return 1;
}

static uint64_t outs_element(struct soft_vcpu *cpu, const struct soft_insn *insn, uint64_t most,
			     enum soft_result *r)
{
	uint16_t port = cpu->frame.gpr[RDX];
	unsigned size = insn->memory_size;
	uint64_t value = 0;

	*r = soft_load(cpu, insn->segment, index_of(cpu, insn, RSI), &value, size);
	if (!*r)
		*r = soft_device(cpu, true, true, port, &value, size);
	if (*r)
		return 0;
	soft_check_io_watch(cpu, port, size);
	advance(cpu, insn, RSI, 1);
	return 1;
}

/* Without the right to, not even nothing may be exchanged. */
static enum soft_result repeat_port(struct soft_vcpu *cpu, const struct soft_insn *insn,
				    element_fn *element)
{
	enum soft_result r = check_port(cpu, cpu->frame.gpr[RDX], insn->memory_size);

	return r ? r : repeat(cpu, insn, element, false);
}

static enum soft_result ins(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	return repeat_port(cpu, insn, ins_element);
}
static enum soft_result outs(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	return repeat_port(cpu, insn, outs_element);
}

static const struct soft_table table[] = {
	{ ZYDIS_MNEMONIC_MOVSB, movs }, { ZYDIS_MNEMONIC_MOVSW, movs },
	{ ZYDIS_MNEMONIC_MOVSQ, movs }, { ZYDIS_MNEMONIC_STOSB, stos },
	{ ZYDIS_MNEMONIC_STOSW, stos }, { ZYDIS_MNEMONIC_STOSD, stos },
	{ ZYDIS_MNEMONIC_STOSQ, stos }, { ZYDIS_MNEMONIC_LODSB, lods },
	{ ZYDIS_MNEMONIC_LODSW, lods }, { ZYDIS_MNEMONIC_LODSD, lods },
	{ ZYDIS_MNEMONIC_LODSQ, lods }, { ZYDIS_MNEMONIC_CMPSB, cmps },
	{ ZYDIS_MNEMONIC_CMPSW, cmps }, { ZYDIS_MNEMONIC_CMPSQ, cmps },
	{ ZYDIS_MNEMONIC_SCASB, scas }, { ZYDIS_MNEMONIC_SCASW, scas },
	{ ZYDIS_MNEMONIC_SCASD, scas }, { ZYDIS_MNEMONIC_SCASQ, scas },
	{ ZYDIS_MNEMONIC_IN, in },      { ZYDIS_MNEMONIC_OUT, out },
	{ ZYDIS_MNEMONIC_INSB, ins },   { ZYDIS_MNEMONIC_INSW, ins },
	{ ZYDIS_MNEMONIC_INSD, ins },   { ZYDIS_MNEMONIC_OUTSB, outs },
	{ ZYDIS_MNEMONIC_OUTSW, outs }, { ZYDIS_MNEMONIC_OUTSD, outs },
};

soft_fn *soft_exec_string(const struct soft_insn *insn)
{
	/* SSE2 has a MOVSD and a CMPSD too. */
	if (insn->mnemonic == ZYDIS_MNEMONIC_MOVSD && !(insn->flags & INSN_FPU))
		return movs;
	if (insn->mnemonic == ZYDIS_MNEMONIC_CMPSD && !(insn->flags & INSN_FPU))
		return cmps;
	return soft_find(table, ARRAY_SIZE(table), insn);
}
