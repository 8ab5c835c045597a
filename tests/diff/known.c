/*
 * Differential tests: differences that are known, each with its reason. They are counted, not
 * reported, unless --all asks for them; an entry goes when what it excuses is put right.
 */
#include "diff.h"

#include <Zydis/Zydis.h>

enum { EXC_DB = 1, EXC_GP = 13, EXC_PF = 14, EXC_AC = 17 };

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

static bool large_at_end(const struct look *l)
{
	return ended_here(l) && l->host->how == EXC_PF && l->guest->how == EXC_GP &&
	       USER_END - l->host->cr2 < FX_SIZE;
}

static bool compares(const struct look *l)
{
	return l->insn->i.mnemonic == ZYDIS_MNEMONIC_CMPSB &&
	       (l->insn->i.attributes & ZYDIS_ATTRIB_HAS_REPE) && ended_here(l) &&
	       memcmp(l->host->state.gpr, l->guest->state.gpr, sizeof(l->host->state.gpr)) == 0;
}

static bool call_pushes_first(const struct look *l)
{
	return l->insn->i.mnemonic == ZYDIS_MNEMONIC_CALL && ended_here(l) &&
	       l->host->how == EXC_GP && l->guest->how == EXC_GP;
}

/* Intel SDM vol. 2, FXSAVE: with alignment checks the processor may give #AC in place of #GP. */
static bool misaligned_state(const struct look *l)
{
	switch (l->insn->i.mnemonic) {
	case ZYDIS_MNEMONIC_FXSAVE:
	case ZYDIS_MNEMONIC_FXSAVE64:
	case ZYDIS_MNEMONIC_FXRSTOR:
	case ZYDIS_MNEMONIC_FXRSTOR64:
		return ended_here(l) && l->host->how == EXC_AC && l->guest->how == EXC_GP;
	default: return false;
	}
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
	{ "operands of many bytes at the end of the lower half", large_at_end },
	{ "CALL to a non-canonical address, translated, writes the stack", call_pushes_first },
	{ "REPE CMPSB: of two faults, the other", compares },
	{ "FXSAVE and FXRSTOR, misaligned, with alignment checks: #GP for #AC", misaligned_state },
	{ "INT1, as some hypervisors do it, is a fault", int1 },
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
