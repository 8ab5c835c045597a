/*
 * Differential tests: differences that are known, each with its reason. They are counted, not
 * reported, unless --all asks for them; an entry goes when what it excuses is put right.
 */
#include "diff.h"

#include <Zydis/Zydis.h>

enum { EXC_DB = 1, EXC_UD = 6, EXC_SS = 12, EXC_GP = 13, EXC_PF = 14, EXC_MF = 16, EXC_AC = 17 };

struct insn {
	uint64_t address;
	ZydisDecodedInstruction i;
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
};

/* Two results that differ, and an instruction of the block. */
struct look {
	const struct insn *insn;
	const struct diff_result *host, *guest;
};

static bool ended_here(const struct look *l)
{
	return l->host->state.rip == l->insn->address && l->guest->state.rip == l->insn->address;
}

static const ZydisDecodedOperand *memory_of(const struct insn *insn)
{
	for (unsigned i = 0; i < insn->i.operand_count_visible; i++)
		if (insn->ops[i].type == ZYDIS_OPERAND_TYPE_MEMORY)
			return &insn->ops[i];
	return NULL;
}

static bool undefined_flags(const struct look *l)
{
	switch (l->insn->i.mnemonic) {
	case ZYDIS_MNEMONIC_DIV:
	case ZYDIS_MNEMONIC_IDIV:
	case ZYDIS_MNEMONIC_IMUL:
	case ZYDIS_MNEMONIC_LZCNT:
	case ZYDIS_MNEMONIC_MUL:
	case ZYDIS_MNEMONIC_TZCNT: return true;
	default: return false;
	}
}

static bool alignment_first(const struct look *l)
{
	const ZydisDecodedOperand *op = memory_of(l->insn);

	return ended_here(l) && op && op->size == 128 && l->host->how == EXC_GP &&
	       (l->guest->how == EXC_PF || l->guest->how == EXC_SS || l->guest->how == EXC_AC);
}

static bool prefetch_register(const struct look *l)
{
	return l->insn->i.opcode_map == ZYDIS_OPCODE_MAP_0F && l->insn->i.opcode == 0x0d &&
	       l->insn->i.raw.modrm.mod == 3 && l->host->how == EXC_UD;
}

static bool pause_is_xchg(const struct look *l)
{
	return l->insn->i.mnemonic == ZYDIS_MNEMONIC_PAUSE && l->insn->i.raw.rex.B;
}

static bool fxrstor_reserved(const struct look *l)
{
	return l->insn->i.mnemonic == ZYDIS_MNEMONIC_FXRSTOR ||
	       l->insn->i.mnemonic == ZYDIS_MNEMONIC_FXRSTOR64;
}

static bool call_pushes_first(const struct look *l)
{
	return l->insn->i.mnemonic == ZYDIS_MNEMONIC_CALL && ended_here(l) &&
	       l->host->how == EXC_GP && l->guest->how == EXC_GP;
}

static bool maskmovq(const struct look *l)
{
	return l->insn->i.mnemonic == ZYDIS_MNEMONIC_MASKMOVQ;
}

static bool maskmov_in_parts(const struct look *l)
{
	return l->insn->i.mnemonic == ZYDIS_MNEMONIC_MASKMOVDQU && l->host->how < ENDED_WELL;
}

static bool maskmov_segment(const struct look *l)
{
	return (l->insn->i.mnemonic == ZYDIS_MNEMONIC_MASKMOVDQU ||
		l->insn->i.mnemonic == ZYDIS_MNEMONIC_MASKMOVQ) &&
	       (l->insn->i.attributes & ZYDIS_ATTRIB_HAS_SEGMENT);
}

static bool xchg_same(const struct look *l)
{
	return l->insn->i.mnemonic == ZYDIS_MNEMONIC_XCHG && l->insn->i.raw.modrm.mod == 3 &&
	       l->insn->i.operand_width == 32 &&
	       l->insn->ops[0].reg.value == l->insn->ops[1].reg.value;
}

static bool fxsave_room(const struct look *l)
{
	return (l->insn->i.mnemonic == ZYDIS_MNEMONIC_FXSAVE ||
		l->insn->i.mnemonic == ZYDIS_MNEMONIC_FXSAVE64) &&
	       l->host->how == EXC_PF && l->host->state.rip == l->insn->address;
}

static bool alignment_of_odd(const struct look *l)
{
	const ZydisDecodedOperand *op = memory_of(l->insn);

	return op && (op->size & (op->size - 1) || op->size > 128) && l->host->how == EXC_AC &&
	       l->host->state.rip == l->insn->address;
}

static bool port_strings(const struct look *l)
{
	return l->insn->i.meta.category == ZYDIS_CATEGORY_IOSTRINGOP && l->host->how == EXC_GP &&
	       (uint32_t)l->host->state.gpr[RCX] == 0;
}

static bool high_byte_and_rsp(const struct look *l)
{
	bool high = false, rsp = false;

	for (unsigned i = 0; i < l->insn->i.operand_count_visible; i++) {
		ZydisRegister reg = l->insn->ops[i].reg.value;

		if (l->insn->ops[i].type != ZYDIS_OPERAND_TYPE_REGISTER)
			continue;
		high |= reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH;
		rsp |= reg == ZYDIS_REGISTER_SP || reg == ZYDIS_REGISTER_ESP ||
		       reg == ZYDIS_REGISTER_RSP;
	}
	return high && rsp && l->guest->how == EXC_UD && l->guest->state.rip == l->insn->address;
}

static bool x87_store(const struct look *l)
{
	const ZydisDecodedOperand *op = memory_of(l->insn);

	return l->insn->i.meta.category == ZYDIS_CATEGORY_X87_ALU && op &&
	       (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) &&
	       memcmp(l->host->memory, l->guest->memory, RW_SIZE);
}

static bool pending_first(const struct look *l)
{
	return ended_here(l) && l->host->how == EXC_MF && l->guest->how >= EXC_SS;
}

static bool no_base(const struct look *l)
{
	const ZydisDecodedOperand *op = memory_of(l->insn);

	return op && op->mem.base == ZYDIS_REGISTER_R13D && l->insn->i.raw.modrm.mod == 0 &&
	       l->insn->i.raw.modrm.rm == 4;
}

static bool compares(const struct look *l)
{
	return l->insn->i.meta.category == ZYDIS_CATEGORY_STRINGOP && ended_here(l) &&
	       memcmp(l->host->state.gpr, l->guest->state.gpr, sizeof(l->host->state.gpr)) == 0;
}

static bool has_repeat(const struct insn *insn)
{
	for (unsigned i = 0; i < insn->i.raw.prefix_count; i++)
		if (insn->i.raw.prefixes[i].value == 0xf2 || insn->i.raw.prefixes[i].value == 0xf3)
			return true;
	return false;
}

static bool loop_prefix(const struct look *l)
{
	return (l->insn->i.mnemonic == ZYDIS_MNEMONIC_LOOPE ||
		l->insn->i.mnemonic == ZYDIS_MNEMONIC_LOOPNE) &&
	       has_repeat(l->insn);
}

static bool large_at_end(const struct look *l)
{
	return ended_here(l) && l->host->how == EXC_PF && l->guest->how == EXC_GP &&
	       USER_END - l->host->cr2 < FX_SIZE;
}

/* Under a hypervisor that emulates it. */
static bool int1(const struct look *l)
{
	return l->insn->i.mnemonic == ZYDIS_MNEMONIC_INT1 && l->host->how == EXC_DB;
}

static const struct {
	const char *reason;
	bool (*applies)(const struct look *l);
} known[] = {
	{ "MUL, DIV, LZCNT, TZCNT: undefined flags are not those before", undefined_flags },
	{ "SSE: #PF, #SS or #AC where alignment is #GP first", alignment_first },
	{ "0F 0D with a register is #UD on AMD", prefetch_register },
	{ "F3 90 with REX.B is XCHG (Zydis: PAUSE)", pause_is_xchg },
	{ "FXRSTOR: reserved bits of FCW and FSW are kept", fxrstor_reserved },
	{ "CALL to a non-canonical address writes the stack", call_pushes_first },
	{ "MASKMOVQ does not enter MMX mode", maskmovq },
	{ "MASKMOVDQU writes bytes before the one that faults", maskmov_in_parts },
	{ "MASKMOVQ, MASKMOVDQU: no segment override", maskmov_segment },
	{ "XCHG of a 32-bit register and itself (87 C0) keeps the upper half", xchg_same },
	{ "FXSAVE of 512 bytes needs rights for 416", fxsave_room },
	{ "#AC for ten bytes, and for images of the x87", alignment_of_odd },
	{ "REP INS and OUTS without privilege and RCX 0 are no #GP", port_strings },
	{ "AH..BH together with RSP is #UD", high_byte_and_rsp },
	{ "x87 stores across pages that do not happen write what was there", x87_store },
	{ "x87: faults of memory before pending #MF", pending_first },
	{ "SIB without base, REX.B, address size 32 (Zydis: R13D)", no_base },
	{ "F2 LOOPE is LOOPNE, F3 LOOPNE is LOOPE", loop_prefix },
	{ "operands of many bytes at the end of the lower half", large_at_end },
	{ "INT1, as some hypervisors do it, is a fault", int1 },
	{ "string instructions: of two faults, the other", compares },
};

unsigned diff_n_known(void)
{
	return COUNT(known);
}

const char *diff_known_reason(unsigned n)
{
	return known[n].reason;
}

static int reason_at(struct look *l, struct insn *insn, const uint8_t *code)
{
	ZydisDecoder decoder;

	ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	insn->i.length = 1;
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, code + (insn->address - CODE),
						 CODE_END - insn->address, &insn->i, insn->ops)))
		return -1;
	for (unsigned i = 0; i < COUNT(known); i++)
		if (known[i].applies(l))
			return i;
	return -1;
}

int diff_known(const struct diff_case *c, const uint8_t *code, const struct diff_result *host,
	       const struct diff_result *guest)
{
	struct insn insn = { .address = c->address };
	struct look l = { &insn, host, guest };
	int reason;

	for (; insn.address < c->address + c->length; insn.address += insn.i.length) {
		reason = reason_at(&l, &insn, code);
		if (reason >= 0)
			return reason;
	}
	/* Jumps may have led elsewhere. */
	insn.address = host->state.rip;
	if (insn.address < CODE || insn.address >= CODE_END)
		return -1;
	return reason_at(&l, &insn, code);
}
