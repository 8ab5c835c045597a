/*
 * Software backend: from bytes to struct soft_insn.
 *
 * What is decoded is kept, for each page of guest memory and mode (16, 32, 64 bits), by the offset
 * in the page. Each vCPU keeps its own, so nothing here is locked. A page's decoded code is void as
 * soon as the page's generation is not the one it was decoded in (vm.c). An instruction that spans
 * two pages is decoded each time it is met.
 *
 * Zydis decodes. An instruction then gets the function that does it: one of exec_*.c, or
 * soft_exec_native() and a stub of host code, which is made when it is first run. Instructions of
 * extensions that are not listed in offered() do not exist.
 */
#include "hav/soft/decode.h"

#include "base/error.h"
#include "base/util.h"

#include <errno.h>
#include <sys/mman.h>

static const struct {
	ZydisMachineMode machine;
	ZydisStackWidth stack;
} modes[] = {
	[1] = { ZYDIS_MACHINE_MODE_LONG_COMPAT_16, ZYDIS_STACK_WIDTH_16 },
	[2] = { ZYDIS_MACHINE_MODE_LONG_COMPAT_32, ZYDIS_STACK_WIDTH_32 },
	[4] = { ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64 },
};

/* Instruction-set extensions a guest has. */
static bool offered(const ZydisDecodedInstruction *insn)
{
	if (insn->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
	    insn->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX)
		return false;
	switch (insn->meta.isa_ext) {
	case ZYDIS_ISA_EXT_ADOX_ADCX:
	case ZYDIS_ISA_EXT_AES:
	case ZYDIS_ISA_EXT_BASE:
	case ZYDIS_ISA_EXT_BMI1:
	case ZYDIS_ISA_EXT_BMI2:
	case ZYDIS_ISA_EXT_CLFLUSHOPT:
	case ZYDIS_ISA_EXT_CLFSH:
	case ZYDIS_ISA_EXT_CLWB:
	case ZYDIS_ISA_EXT_LONGMODE:
	case ZYDIS_ISA_EXT_LZCNT:
	case ZYDIS_ISA_EXT_MMX:
	case ZYDIS_ISA_EXT_MOVBE:
	case ZYDIS_ISA_EXT_PAUSE:
	case ZYDIS_ISA_EXT_PCLMULQDQ:
	case ZYDIS_ISA_EXT_RDRAND:
	case ZYDIS_ISA_EXT_RDSEED:
	case ZYDIS_ISA_EXT_RDTSCP:
	case ZYDIS_ISA_EXT_RDWRFSGS:
	case ZYDIS_ISA_EXT_SHA:
	case ZYDIS_ISA_EXT_SMAP:
	case ZYDIS_ISA_EXT_SSE:
	case ZYDIS_ISA_EXT_SSE2:
	case ZYDIS_ISA_EXT_SSE3:
	case ZYDIS_ISA_EXT_SSE4:
	case ZYDIS_ISA_EXT_SSSE3:
	case ZYDIS_ISA_EXT_X87: return true;
	case ZYDIS_ISA_EXT_AMD3DNOW:
		return insn->mnemonic == ZYDIS_MNEMONIC_PREFETCHW ||
		       insn->mnemonic == ZYDIS_MNEMONIC_PREFETCH;
	/* Without shadow stacks these are NOPs. */
	case ZYDIS_ISA_EXT_CET:
		return insn->mnemonic == ZYDIS_MNEMONIC_ENDBR64 ||
		       insn->mnemonic == ZYDIS_MNEMONIC_ENDBR32 ||
		       insn->mnemonic == ZYDIS_MNEMONIC_RDSSPD ||
		       insn->mnemonic == ZYDIS_MNEMONIC_RDSSPQ;
	case ZYDIS_ISA_EXT_SVM: return insn->mnemonic == ZYDIS_MNEMONIC_VMMCALL;
	case ZYDIS_ISA_EXT_VTX: return insn->mnemonic == ZYDIS_MNEMONIC_VMCALL;
	default:
		return insn->meta.category == ZYDIS_CATEGORY_WIDENOP ||
		       insn->meta.category == ZYDIS_CATEGORY_NOP ||
		       insn->meta.category == ZYDIS_CATEGORY_PREFETCH;
	}
}

static unsigned fpu_flags(const ZydisDecodedInstruction *insn)
{
	switch (insn->meta.isa_ext) {
	case ZYDIS_ISA_EXT_X87:
		switch (insn->mnemonic) {
		case ZYDIS_MNEMONIC_FNINIT:
		case ZYDIS_MNEMONIC_FNCLEX:
		case ZYDIS_MNEMONIC_FLDCW:
		case ZYDIS_MNEMONIC_FNSTCW:
		case ZYDIS_MNEMONIC_FNSTSW:
		case ZYDIS_MNEMONIC_FNSTENV:
		case ZYDIS_MNEMONIC_FLDENV:
		case ZYDIS_MNEMONIC_FNSAVE:
		case ZYDIS_MNEMONIC_FRSTOR:
		case ZYDIS_MNEMONIC_FWAIT: return INSN_FPU | INSN_X87 | INSN_X87_CONTROL;
		default: return INSN_FPU | INSN_X87;
		}
	case ZYDIS_ISA_EXT_MMX: return INSN_FPU;
	case ZYDIS_ISA_EXT_SSE4:
		if (insn->mnemonic == ZYDIS_MNEMONIC_CRC32 ||
		    insn->mnemonic == ZYDIS_MNEMONIC_POPCNT)
			return 0;
		return INSN_FPU | INSN_SSE;
	case ZYDIS_ISA_EXT_SSE:
	case ZYDIS_ISA_EXT_SSE2:
		switch (insn->mnemonic) {
		case ZYDIS_MNEMONIC_MOVNTI:
		case ZYDIS_MNEMONIC_LFENCE:
		case ZYDIS_MNEMONIC_MFENCE:
		case ZYDIS_MNEMONIC_SFENCE:
		case ZYDIS_MNEMONIC_PREFETCHNTA:
		case ZYDIS_MNEMONIC_PREFETCHT0:
		case ZYDIS_MNEMONIC_PREFETCHT1:
		case ZYDIS_MNEMONIC_PREFETCHT2: return 0;
		default: return INSN_FPU | INSN_SSE;
		}
	case ZYDIS_ISA_EXT_AES:
	case ZYDIS_ISA_EXT_PCLMULQDQ:
	case ZYDIS_ISA_EXT_SHA:
	case ZYDIS_ISA_EXT_SSSE3: return INSN_FPU | INSN_SSE;
	case ZYDIS_ISA_EXT_SSE3:
		return INSN_FPU | (insn->mnemonic == ZYDIS_MNEMONIC_FISTTP ? INSN_X87 : INSN_SSE);
	default: return 0;
	}
}

bool soft_is_gpr(ZydisRegister reg)
{
	ZydisRegisterClass class = ZydisRegisterGetClass(reg);

	return class == ZYDIS_REGCLASS_GPR8 || class == ZYDIS_REGCLASS_GPR16 ||
	       class == ZYDIS_REGCLASS_GPR32 || class == ZYDIS_REGCLASS_GPR64;
}

uint8_t soft_gpr_of(ZydisRegister reg)
{
	if (reg == ZYDIS_REGISTER_NONE)
		return NO_REG;
	if (reg == ZYDIS_REGISTER_RIP || reg == ZYDIS_REGISTER_EIP)
		return RIP_REG;
	return ZydisRegisterGetId(
		ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg));
}

/* Of those with 16 bytes in memory; or it is up to the processor, as with SHA (Intel's need it). */
static bool may_be_unaligned(unsigned mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_SHA1MSG1:
	case ZYDIS_MNEMONIC_SHA1MSG2:
	case ZYDIS_MNEMONIC_SHA1NEXTE:
	case ZYDIS_MNEMONIC_SHA1RNDS4:
	case ZYDIS_MNEMONIC_SHA256MSG1:
	case ZYDIS_MNEMONIC_SHA256MSG2:
	case ZYDIS_MNEMONIC_SHA256RNDS2:
	case ZYDIS_MNEMONIC_LDDQU:
	case ZYDIS_MNEMONIC_MOVDQU:
	case ZYDIS_MNEMONIC_MOVUPD:
	case ZYDIS_MNEMONIC_MOVUPS:
	case ZYDIS_MNEMONIC_PCMPESTRI:
	case ZYDIS_MNEMONIC_PCMPESTRM:
	case ZYDIS_MNEMONIC_PCMPISTRI:
	case ZYDIS_MNEMONIC_PCMPISTRM: return true;
	default: return false;
	}
}

static void take_memory(struct soft_insn *insn, const ZydisDecodedOperand *op)
{
	insn->base = soft_gpr_of(op->mem.base);
	insn->index = soft_gpr_of(op->mem.index);
	insn->scale = op->mem.scale;
	insn->disp = op->mem.disp.value;
	insn->segment =
		op->mem.segment == ZYDIS_REGISTER_NONE ? DS : ZydisRegisterGetId(op->mem.segment);
	insn->memory_size = op->size / 8;
	if (op->actions & ZYDIS_OPERAND_ACTION_MASK_READ)
		insn->flags |= INSN_READS;
	if (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
		insn->flags |= INSN_WRITES;
	/* What is only written sometimes keeps its old value otherwise. */
	if (op->actions & ZYDIS_OPERAND_ACTION_CONDWRITE)
		insn->flags |= INSN_READS;
	if (insn->memory_size == 16 && !may_be_unaligned(insn->mnemonic))
		insn->flags |= INSN_ALIGNED;
}

static void take_register(struct soft_insn *insn, struct soft_operand *to, ZydisRegister reg)
{
	switch (ZydisRegisterGetClass(reg)) {
	case ZYDIS_REGCLASS_GPR8:
		to->kind = reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH ? OPERAND_GPR_HIGH
										: OPERAND_GPR;
		to->reg = soft_gpr_of(reg);
		break;
	case ZYDIS_REGCLASS_GPR16:
	case ZYDIS_REGCLASS_GPR32:
	case ZYDIS_REGCLASS_GPR64:
		to->kind = OPERAND_GPR;
		to->reg = soft_gpr_of(reg);
		break;
	case ZYDIS_REGCLASS_SEGMENT:
		to->kind = OPERAND_SEGMENT;
		to->reg = ZydisRegisterGetId(reg);
		break;
	case ZYDIS_REGCLASS_CONTROL:
		to->kind = OPERAND_CONTROL;
		to->reg = ZydisRegisterGetId(reg);
		break;
	case ZYDIS_REGCLASS_DEBUG:
		to->kind = OPERAND_DEBUG;
		to->reg = ZydisRegisterGetId(reg);
		break;
	case ZYDIS_REGCLASS_MMX: insn->flags |= INSN_MMX; /* fall through */
	default: to->kind = OPERAND_OTHER; to->reg = ZydisRegisterGetId(reg);
	}
}

static void take_operand(struct soft_insn *insn, const ZydisDecodedOperand *op)
{
	struct soft_operand *to = &insn->op[insn->n_operands++];

	to->size = op->size / 8;
	switch (op->type) {
	case ZYDIS_OPERAND_TYPE_REGISTER: take_register(insn, to, op->reg.value); break;
	case ZYDIS_OPERAND_TYPE_MEMORY:
		to->kind = OPERAND_MEMORY;
		take_memory(insn, op);
		break;
	case ZYDIS_OPERAND_TYPE_IMMEDIATE:
		to->kind = OPERAND_IMM;
		/* ENTER has two. */
		if (insn->has_imm)
			insn->imm2 = op->imm.value.u;
		else
			insn->imm = op->imm.value.s;
		insn->has_imm = true;
		break;
	case ZYDIS_OPERAND_TYPE_POINTER:
		to->kind = OPERAND_FAR;
		insn->imm = op->ptr.offset;
		insn->disp = op->ptr.segment;
		break;
	default: to->kind = OPERAND_NONE; break;
	}
}

/* The segment of a hidden operand is always ES where RDI names it, but here. */
static bool is_masked_store(unsigned mnemonic)
{
	return mnemonic == ZYDIS_MNEMONIC_MASKMOVQ || mnemonic == ZYDIS_MNEMONIC_MASKMOVDQU;
}

/* Segment and address of the operand that string instructions and XLAT name by a register. */
static void take_hidden_memory(struct soft_insn *insn, const struct soft_decoded *d)
{
	for (unsigned i = d->insn.operand_count_visible; i < d->insn.operand_count; i++) {
		const ZydisDecodedOperand *op = &d->ops[i];

		if (op->type != ZYDIS_OPERAND_TYPE_MEMORY)
			continue;
		insn->hidden_memory = true;
		if (soft_gpr_of(op->mem.base) == RSI || insn->mnemonic == ZYDIS_MNEMONIC_XLAT ||
		    is_masked_store(insn->mnemonic))
			insn->segment = ZydisRegisterGetId(op->mem.segment);
		if (!insn->memory_size)
			insn->memory_size = op->size / 8;
	}
}

/* 0F 0D: on others it is a NOP. */
static bool is_prefetch_of_register(const ZydisDecodedInstruction *insn)
{
	return insn->opcode_map == ZYDIS_OPCODE_MAP_0F && insn->opcode == 0x0d &&
	       insn->raw.modrm.mod == 3;
}

static soft_fn *function_of(const struct soft_insn *insn)
{
	soft_fn *fn = soft_exec_data(insn);

	fn = fn ? fn : soft_exec_flow(insn);
	fn = fn ? fn : soft_exec_string(insn);
	fn = fn ? fn : soft_exec_system(insn);
	fn = fn ? fn : soft_exec_fpu(insn);
	return fn;
}

static void take(const struct soft_vcpu *cpu, const struct soft_decoded *d, struct soft_insn *insn)
{
	insn->mnemonic = d->insn.mnemonic;
	insn->opsize = d->insn.operand_width / 8;
	insn->addrsize = d->insn.address_width / 8;
	insn->far_branch = d->insn.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR;
	insn->base = insn->index = NO_REG;
	insn->segment = DS;
	insn->flags = fpu_flags(&d->insn);
	if ((d->insn.attributes & ZYDIS_ATTRIB_HAS_LOCK) || d->insn.mnemonic == ZYDIS_MNEMONIC_XCHG)
		insn->flags |= INSN_LOCK;
	if (d->insn.attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE))
		insn->flags |= INSN_REP;
	if (d->insn.attributes & ZYDIS_ATTRIB_HAS_REPNE)
		insn->flags |= INSN_REPNE;
	for (unsigned i = 0; i < d->insn.operand_count_visible && i < ARRAY_SIZE(insn->op); i++)
		take_operand(insn, &d->ops[i]);
	take_hidden_memory(insn, d);
	if (!offered(&d->insn) || (is_prefetch_of_register(&d->insn) && soft_is_amd(cpu))) {
		insn->fn = soft_exec_undefined;
		return;
	}
	insn->fn = function_of(insn);
	if (!insn->fn)
		insn->fn = insn->hidden_memory ? soft_exec_undefined : soft_exec_unstubbed;
}

bool soft_is_native(const struct soft_insn *insn)
{
	return insn->fn == soft_exec_unstubbed;
}

/* --- What Zydis 4.0 takes for something else ---- */

/* The last of the prefixes F2 and F3, 0 when there is none. */
static uint8_t repeat_prefix(const ZydisDecodedInstruction *insn)
{
	uint8_t last = 0;

	for (unsigned i = 0; i < insn->raw.prefix_count; i++)
		if (insn->raw.prefixes[i].value == 0xf2 || insn->raw.prefixes[i].value == 0xf3)
			last = insn->raw.prefixes[i].value;
	return last;
}

/* Processors take F2 LOOPE for LOOPNE, and F3 LOOPNE for LOOPE. */
static bool is_other_loop(const ZydisDecodedInstruction *insn)
{
	uint8_t repeat = repeat_prefix(insn);

	return (insn->mnemonic == ZYDIS_MNEMONIC_LOOPE && repeat == 0xf2) ||
	       (insn->mnemonic == ZYDIS_MNEMONIC_LOOPNE && repeat == 0xf3);
}

/* Bytes that say to Zydis what these mean, as many of them; false when it is right. */
static bool reword(const ZydisDecodedInstruction *insn, uint8_t *bytes)
{
	if (is_other_loop(insn)) {
		bytes[insn->length - 2] ^= 0xe0 ^ 0xe1;
		return true;
	}
	/* With REX.B it is XCHG with R8: DS for REP. */
	if (insn->mnemonic == ZYDIS_MNEMONIC_PAUSE && insn->raw.rex.B) {
		for (unsigned i = 0; i < insn->raw.prefix_count; i++)
			if (bytes[i] == 0xf3)
				bytes[i] = 0x3e;
		return true;
	}
	return false;
}

/* REX.B is taken for a base where a SIB byte says that there is none (APM vol. 3 §1.4.2). */
static void correct_sib(struct soft_decoded *d)
{
	if (!(d->insn.attributes & ZYDIS_ATTRIB_HAS_SIB) || d->insn.raw.modrm.mod != 0 ||
	    d->insn.raw.sib.base != 5)
		return;
	for (unsigned i = 0; i < d->insn.operand_count_visible; i++)
		if (d->ops[i].type == ZYDIS_OPERAND_TYPE_MEMORY) {
			d->ops[i].mem.base = ZYDIS_REGISTER_NONE;
			d->ops[i].mem.disp.value = d->insn.raw.disp.value;
		}
}

static void correct(const ZydisDecoder *decoder, const uint8_t *bytes, struct soft_decoded *d)
{
	uint8_t other[SOFT_MAX_INSN];

	memcpy(other, bytes, d->insn.length);
	if (reword(&d->insn, other))
		ZydisDecoderDecodeFull(decoder, other, d->insn.length, &d->insn, d->ops);
	correct_sib(d);
}

/* What is no instruction becomes one that is #UD. */
static ZyanStatus decode(struct soft_vcpu *cpu, const uint8_t *bytes, unsigned n,
			 struct soft_insn *insn, struct soft_decoded *d)
{
	ZydisDecoder decoder;
	ZyanStatus status;

	soft_fpu_release(cpu);
	*insn = (struct soft_insn){ .length = 1, .fn = soft_exec_undefined };
	memcpy(insn->bytes, bytes, n);
	ZydisDecoderInit(&decoder, modes[cpu->mode / 16].machine, modes[cpu->mode / 16].stack);
	status = ZydisDecoderDecodeFull(&decoder, bytes, n, &d->insn, d->ops);
	if (ZYAN_SUCCESS(status)) {
		correct(&decoder, bytes, d);
		insn->length = d->insn.length;
		take(cpu, d, insn);
	}
	return status;
}

bool soft_decode(struct soft_vcpu *cpu, const uint8_t *bytes, unsigned n, struct soft_insn *insn,
		 struct soft_decoded *d)
{
	return ZYAN_SUCCESS(decode(cpu, bytes, n, insn, d));
}

/* The same to be run; false when more than these n bytes are needed. */
static bool decode_to_run(struct soft_vcpu *cpu, const uint8_t *bytes, unsigned n,
			  struct soft_insn *insn)
{
	struct soft_decoded d;
	ZyanStatus status = decode(cpu, bytes, n, insn, &d);

	if (status == ZYDIS_STATUS_NO_MORE_DATA && n < SOFT_MAX_INSN)
		return false;
	if (status == ZYDIS_STATUS_INSTRUCTION_TOO_LONG || status == ZYDIS_STATUS_NO_MORE_DATA)
		insn->fn = soft_exec_too_long;
	return true;
}

/* --- Pages ---- */

static struct soft_code_page **bucket(struct soft_vcpu *cpu, uint64_t gpa, unsigned mode)
{
	return &cpu->code[(gpa / SOFT_PAGE * 3 + mode / 16) % SOFT_CODE_HASH];
}

void soft_code_flush(struct soft_vcpu *cpu)
{
	memset(cpu->code, 0, sizeof(cpu->code));
	cpu->n_code_pages = 0;
	cpu->n_insns = 1; /* 0 says "not decoded" */
	cpu->page = NULL;
}

static void *reserve(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

int soft_code_create(struct soft_vcpu *cpu, struct error **err)
{
	cpu->code_pages = reserve(SOFT_CODE_PAGES * sizeof(*cpu->code_pages));
	cpu->insns = reserve(SOFT_INSNS * sizeof(*cpu->insns));
	if (!cpu->code_pages || !cpu->insns) {
		error_set_errno(err, errno, "cannot make room for decoded code");
		return -1;
	}
	soft_code_flush(cpu);
	return 0;
}

void soft_code_destroy(struct soft_vcpu *cpu)
{
	if (cpu->code_pages)
		munmap(cpu->code_pages, SOFT_CODE_PAGES * sizeof(*cpu->code_pages));
	if (cpu->insns)
		munmap(cpu->insns, SOFT_INSNS * sizeof(*cpu->insns));
}

static struct soft_code_page *code_page(struct soft_vcpu *cpu, uint64_t gpa,
					const struct soft_slot *slot)
{
	struct soft_code_page **head = bucket(cpu, gpa, cpu->mode), *page;

	for (page = *head; page; page = page->next)
		if (page->gpa == gpa && page->mode == cpu->mode)
			break;
	if (!page) {
		if (cpu->n_code_pages == SOFT_CODE_PAGES)
			soft_code_flush(cpu);
		page = &cpu->code_pages[cpu->n_code_pages++];
		memset(page, 0, sizeof(*page));
		page->gpa = gpa;
		page->mode = cpu->mode;
		page->current = &slot->code[(gpa - slot->gpa) / SOFT_PAGE];
		page->host = slot->host + (gpa - slot->gpa);
		page->next = *head;
		*head = page;
	}
	if (!soft_is_code(page->generation) || atomic_load(page->current) != page->generation) {
		memset(page->at, 0, sizeof(page->at));
		page->generation = soft_code_begin(cpu, page->current);
	}
	return page;
}

/* Where linear is to be fetched from. */
enum soft_result soft_fetch_gpa(struct soft_vcpu *cpu, uint64_t linear, uint64_t *gpa)
{
	unsigned tlb = cpu->cpl == 3 ? TLB_USER : TLB_SUPERVISOR;
	uint32_t place = soft_tlb_place(linear);

	if (soft_tlb_fits(cpu->tlb[tlb].exec[place], linear, 1)) {
		*gpa = cpu->tlb[tlb].gpa[place] | (linear & SOFT_PAGE_MASK);
		return SOFT_DONE;
	}
	return soft_translate(cpu, linear, ACCESS_EXEC, tlb, gpa);
}

/* Instructions that go on in the next page: decoded into cpu->spanning. */
static enum soft_result fetch_spanning(struct soft_vcpu *cpu, const uint8_t *first, unsigned n,
				       uint64_t linear, const struct soft_insn **insn)
{
	uint8_t bytes[SOFT_MAX_INSN];
	uint64_t gpa, next = linear + n;
	enum soft_result r;
	const uint8_t *host;

	if (cpu->mode != 64)
		next = (uint32_t)next;
	r = soft_fetch_gpa(cpu, next, &gpa);
	if (r)
		return r;
	host = soft_host(cpu->vm, gpa, SOFT_MAX_INSN - n);
	memcpy(bytes, first, n);
	if (host)
		memcpy(bytes + n, host, SOFT_MAX_INSN - n);
	else
		memset(bytes + n, 0xff, SOFT_MAX_INSN - n);
	decode_to_run(cpu, bytes, SOFT_MAX_INSN, &cpu->spanning);
	*insn = &cpu->spanning;
	return SOFT_DONE;
}

/* Memory that is not there reads as ones, which is no instruction. */
static enum soft_result fetch_nothing(struct soft_vcpu *cpu, const struct soft_insn **insn)
{
	cpu->spanning = (struct soft_insn){ .length = 1, .fn = soft_exec_undefined };
	*insn = &cpu->spanning;
	return SOFT_DONE;
}

static enum soft_result fetch_new(struct soft_vcpu *cpu, struct soft_code_page *page,
				  uint64_t linear, const struct soft_insn **insn)
{
	unsigned offset = linear & SOFT_PAGE_MASK,
		 n = MIN(SOFT_PAGE - offset, (unsigned)SOFT_MAX_INSN);
	struct soft_insn *kept = &cpu->insns[cpu->n_insns];
	uint8_t bytes[SOFT_MAX_INSN];

	memcpy(bytes, page->host + offset, n);
	if (!decode_to_run(cpu, bytes, n, kept))
		return fetch_spanning(cpu, bytes, n, linear, insn);
	page->at[offset] = cpu->n_insns++;
	*insn = kept;
	return SOFT_DONE;
}

enum soft_result soft_fetch(struct soft_vcpu *cpu, const struct soft_insn **insn)
{
	uint64_t linear = cpu->rip, gpa;
	struct soft_code_page *page = cpu->page;
	enum soft_result r;
	unsigned at;

	if (cpu->mode == 64) {
		if (unlikely(!soft_canonical(linear)))
			return soft_raise_error(cpu, EXC_GP, 0);
	} else {
		if (unlikely(cpu->rip > cpu->seg[CS].limit))
			return soft_raise_error(cpu, EXC_GP, 0);
		linear = (uint32_t)(cpu->seg[CS].base + cpu->rip);
	}
	if (unlikely(!page || cpu->page_linear != (linear & ~(uint64_t)SOFT_PAGE_MASK) ||
		     atomic_load_explicit(page->current, memory_order_acquire) !=
			     page->generation)) {
		const struct soft_slot *slot;

		r = soft_fetch_gpa(cpu, linear, &gpa);
		if (r)
			return r;
		gpa &= ~(uint64_t)SOFT_PAGE_MASK;
		slot = soft_slot(cpu->vm, gpa);
		if (!slot)
			return fetch_nothing(cpu, insn);
		if (cpu->n_insns + SOFT_PAGE >= SOFT_INSNS)
			soft_code_flush(cpu);
		page = cpu->page = code_page(cpu, gpa, slot);
		cpu->page_linear = linear & ~(uint64_t)SOFT_PAGE_MASK;
	}
	at = page->at[linear & SOFT_PAGE_MASK];
	if (likely(at)) {
		*insn = &cpu->insns[at];
		return SOFT_DONE;
	}
	return fetch_new(cpu, page, linear, insn);
}
