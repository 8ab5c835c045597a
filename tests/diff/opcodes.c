/*
 * Differential tests: the instructions there are, by class.
 *
 * A candidate is a few prefixes, an opcode of the class, and random bytes behind it, so that all
 * addressing modes, sizes and registers come up. Zydis then says what it is, if anything, and
 * diff_acceptable() whether it is for us: user-level, offered to guests (docs/soft-backend.md), and
 * the same each time it is run. Left out on purpose, beside the clocks, random numbers and system
 * calls: loads of segment registers and far transfers, as the segments are the host kernel's; what
 * UMIP lets kernels emulate (SGDT and the like); and near branches with an operand-size prefix, on
 * which processors differ.
 */
#include "diff.h"

#include <Zydis/Zydis.h>

/* Mandatory prefixes that a range of opcodes is tried with. */
enum { NP = 1, P66 = 2, PF3 = 4, PF2 = 8, SIMD = NP | P66 | PF3 | PF2 };
/* Opcode maps (APM vol. 3, appendix A). */
enum { ONE, TWO, MAP_38, MAP_3A, VEX_38, VEX_3A };

struct range {
	uint8_t map, first, last, prefixes;
};

enum { LOCKED = 1, FAULTS = 2, UNDEFINED = 4, NO_REX = 8, MEMORY = 16 };

struct class
{
	const char *name;
	unsigned weight, flags;
	struct range ranges[28];
};

static const struct class classes[] = {
	{ "alu",
	  14,
	  0,
	  { { ONE, 0x00, 0x05 },
	    { ONE, 0x08, 0x0d },
	    { ONE, 0x10, 0x15 },
	    { ONE, 0x18, 0x1d },
	    { ONE, 0x20, 0x25 },
	    { ONE, 0x28, 0x2d },
	    { ONE, 0x30, 0x35 },
	    { ONE, 0x38, 0x3d },
	    { ONE, 0x80, 0x81 },
	    { ONE, 0x83, 0x85 },
	    { ONE, 0x98, 0x99 },
	    { ONE, 0x9e, 0x9f },
	    { ONE, 0xa8, 0xa9 },
	    { ONE, 0xf5, 0xf9 },
	    { ONE, 0xfc, 0xff },
	    { TWO, 0xc0, 0xc1 },
	    { TWO, 0xb0, 0xb1 },
	    { MAP_38, 0xf6, 0xf6, P66 | PF3 } } },
	{ "mov",
	  10,
	  0,
	  { { ONE, 0x63, 0x63 },
	    { ONE, 0x86, 0x8d },
	    { ONE, 0x90, 0x97 },
	    { ONE, 0xa0, 0xa3 },
	    { ONE, 0xb0, 0xbf },
	    { ONE, 0xc6, 0xc7 },
	    { ONE, 0xd7, 0xd7 },
	    { TWO, 0x40, 0x4f },
	    { TWO, 0x90, 0x9f },
	    { TWO, 0xb6, 0xb7 },
	    { TWO, 0xbe, 0xbf },
	    { TWO, 0xc3, 0xc3 },
	    { TWO, 0xc8, 0xcf },
	    { TWO, 0xae, 0xae, PF3 },
	    { MAP_38, 0xf0, 0xf1, NP | P66 } } },
	{ "shift",
	  7,
	  0,
	  { { ONE, 0xc0, 0xc1 }, { ONE, 0xd0, 0xd3 }, { TWO, 0xa4, 0xa5 }, { TWO, 0xac, 0xad } } },
	{ "bit",
	  7,
	  0,
	  { { TWO, 0xa3, 0xa3 },
	    { TWO, 0xab, 0xab },
	    { TWO, 0xb3, 0xb3 },
	    { TWO, 0xbb, 0xbb },
	    { TWO, 0xba, 0xba },
	    { TWO, 0xbc, 0xbd, NP | P66 | PF3 },
	    { TWO, 0xb8, 0xb8, PF3 },
	    { MAP_38, 0xf0, 0xf1, PF2 } } },
	{ "muldiv", 7, 0, { { ONE, 0xf6, 0xf7 }, { ONE, 0x69, 0x6b }, { TWO, 0xaf, 0xaf } } },
	{ "bmi",
	  4,
	  NO_REX,
	  { { VEX_38, 0xf2, 0xf3, SIMD },
	    { VEX_38, 0xf5, 0xf7, SIMD },
	    { VEX_3A, 0xf0, 0xf0, SIMD } } },
	{ "stack",
	  7,
	  0,
	  { { ONE, 0x50, 0x5f },
	    { ONE, 0x68, 0x68 },
	    { ONE, 0x6a, 0x6a },
	    { ONE, 0x8f, 0x8f },
	    { ONE, 0x9c, 0x9d },
	    { ONE, 0xc8, 0xc9 },
	    { ONE, 0xff, 0xff },
	    { TWO, 0xa0, 0xa0 },
	    { TWO, 0xa8, 0xa8 } } },
	{ "flow",
	  8,
	  0,
	  { { ONE, 0x70, 0x7f },
	    { ONE, 0xe0, 0xe3 },
	    { ONE, 0xe8, 0xe9 },
	    { ONE, 0xeb, 0xeb },
	    { ONE, 0xc2, 0xc3 },
	    { ONE, 0xff, 0xff },
	    { TWO, 0x80, 0x8f } } },
	{ "string", 6, 0, { { ONE, 0xa4, 0xa7 }, { ONE, 0xaa, 0xaf } } },
	{ "atomic",
	  6,
	  LOCKED | MEMORY,
	  { { ONE, 0x00, 0x01 },
	    { ONE, 0x08, 0x09 },
	    { ONE, 0x10, 0x11 },
	    { ONE, 0x18, 0x19 },
	    { ONE, 0x20, 0x21 },
	    { ONE, 0x28, 0x29 },
	    { ONE, 0x30, 0x31 },
	    { ONE, 0x80, 0x81 },
	    { ONE, 0x83, 0x83 },
	    { ONE, 0x86, 0x87 },
	    { ONE, 0xf6, 0xf7 },
	    { ONE, 0xfe, 0xff },
	    { TWO, 0xab, 0xab },
	    { TWO, 0xb3, 0xb3 },
	    { TWO, 0xba, 0xbb },
	    { TWO, 0xb0, 0xb1 },
	    { TWO, 0xc0, 0xc1 },
	    { TWO, 0xc7, 0xc7 } } },
	{ "sse",
	  14,
	  0,
	  { { TWO, 0x10, 0x17, SIMD },
	    { TWO, 0x28, 0x2f, SIMD },
	    { TWO, 0x50, 0x5f, SIMD },
	    { TWO, 0x60, 0x7f, P66 | PF3 | PF2 },
	    { TWO, 0xc2, 0xc2, SIMD },
	    { TWO, 0xc3, 0xc6, NP | P66 },
	    { TWO, 0xd0, 0xff, P66 | PF3 | PF2 } } },
	{ "sse4",
	  6,
	  0,
	  { { MAP_38, 0x00, 0x41, P66 },
	    { MAP_3A, 0x08, 0x22, P66 },
	    { MAP_3A, 0x40, 0x63, P66 } } },
	{ "crypto",
	  4,
	  0,
	  { { MAP_38, 0xc8, 0xcd, NP },
	    { MAP_38, 0xdb, 0xdf, P66 },
	    { MAP_3A, 0x44, 0x44, P66 },
	    { MAP_3A, 0xcc, 0xcc, NP },
	    { MAP_3A, 0xdf, 0xdf, P66 } } },
	{ "mmx",
	  6,
	  0,
	  { { TWO, 0x60, 0x7f, NP },
	    { TWO, 0xd1, 0xfe, NP },
	    { TWO, 0xc4, 0xc5, NP },
	    { TWO, 0x2a, 0x2d, NP | P66 },
	    { TWO, 0xd6, 0xd6, PF3 | PF2 },
	    { MAP_38, 0x00, 0x1e, NP },
	    { MAP_3A, 0x0f, 0x0f, NP } } },
	{ "x87", 10, 0, { { ONE, 0xd8, 0xdf }, { ONE, 0x9b, 0x9b } } },
	{ "fxstate",
	  3,
	  0,
	  { { TWO, 0xae, 0xae, NP | P66 },
	    { ONE, 0xd9, 0xd9 },
	    { ONE, 0xdb, 0xdb },
	    { ONE, 0xdd, 0xdd } } },
	{ "nop",
	  2,
	  0,
	  { { TWO, 0x0d, 0x0d },
	    { TWO, 0x18, 0x1f, SIMD },
	    { TWO, 0xae, 0xae, NP | P66 },
	    { ONE, 0x90, 0x90, NP | P66 | PF3 } } },
	{ "undefined",
	  1,
	  FAULTS | UNDEFINED,
	  { { TWO, 0x0b, 0x0b },
	    { TWO, 0xb9, 0xb9 },
	    { ONE, 0x06, 0x07 },
	    { ONE, 0x0e, 0x0e },
	    { ONE, 0x16, 0x17 },
	    { ONE, 0x1e, 0x1f },
	    { ONE, 0x27, 0x27 },
	    { ONE, 0x2f, 0x2f },
	    { ONE, 0x37, 0x37 },
	    { ONE, 0x3f, 0x3f },
	    { ONE, 0x60, 0x61 },
	    { ONE, 0x82, 0x82 },
	    { ONE, 0x9a, 0x9a },
	    { ONE, 0xce, 0xce },
	    { ONE, 0xd4, 0xd6 },
	    { ONE, 0xea, 0xea } } },
	{ "unlockable",
	  1,
	  FAULTS | UNDEFINED | LOCKED,
	  { { ONE, 0x00, 0x05 },
	    { ONE, 0x38, 0x3d },
	    { ONE, 0x88, 0x8b },
	    { ONE, 0x84, 0x87 },
	    { ONE, 0xf6, 0xf7 },
	    { ONE, 0xa4, 0xaf },
	    { TWO, 0x28, 0x29, SIMD },
	    { TWO, 0xa3, 0xa3 },
	    { TWO, 0xb6, 0xb7 } } },
	{ "privileged",
	  1,
	  FAULTS,
	  { { ONE, 0xf4, 0xf4 },
	    { ONE, 0xfa, 0xfb },
	    { ONE, 0xe4, 0xe7 },
	    { ONE, 0xec, 0xef },
	    { ONE, 0x6c, 0x6f },
	    { ONE, 0xcc, 0xcd },
	    { TWO, 0x06, 0x06 },
	    { TWO, 0x08, 0x09 },
	    { TWO, 0x20, 0x23 },
	    { TWO, 0x30, 0x30 },
	    { TWO, 0x32, 0x32 } } },
};

unsigned diff_n_classes(void)
{
	return COUNT(classes);
}

const char *diff_class_name(unsigned class)
{
	return classes[class].name;
}

int diff_class_find(const char *name)
{
	for (unsigned i = 0; i < COUNT(classes); i++)
		if (strcmp(classes[i].name, name) == 0)
			return i;
	return -1;
}

bool diff_class_faults(unsigned class)
{
	return classes[class].flags & FAULTS;
}

bool diff_class_undefined(unsigned class)
{
	return classes[class].flags & UNDEFINED;
}

unsigned diff_class_pick(struct rng *r)
{
	unsigned total = 0, at, i;

	for (i = 0; i < COUNT(classes); i++)
		total += classes[i].weight;
	at = rng_below(r, total);
	for (i = 0; at >= classes[i].weight; i++)
		at -= classes[i].weight;
	return i;
}

/* --- Candidates ---- */

struct bytes {
	uint8_t *at;
	unsigned n;
};

static void put(struct bytes *b, uint8_t byte)
{
	if (b->n < 15)
		b->at[b->n++] = byte;
}

static void put_prefixes(struct rng *r, struct bytes *b, const struct class *class,
			 const struct range *range)
{
	static const uint8_t segments[] = { 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x64, 0x65, 0x65 };
	static const uint8_t mandatory[] = { 0, 0x66, 0xf3, 0xf2 };

	if (rng_percent(r, 6))
		put(b, segments[rng_below(r, COUNT(segments))]);
	if (rng_percent(r, 8))
		put(b, 0x67);
	if (class->flags & LOCKED)
		put(b, 0xf0);
	if (range->map >= VEX_38)
		return;
	if (range->prefixes) {
		unsigned i;

		do
			i = rng_below(r, 4);
		while (!(range->prefixes & 1 << i));
		if (i && rng_percent(r, 8)) /* has no meaning beside the other, or a 16-bit one */
			put(b, 0x66);
		if (i)
			put(b, mandatory[i]);
		return;
	}
	if (rng_percent(r, 22))
		put(b, 0x66);
	if (rng_percent(r,
			range->first >= 0xa4 && range->last <= 0xaf && range->map == ONE ? 60 : 4))
		put(b, rng_percent(r, 50) ? 0xf2 : 0xf3);
}

static void put_opcode(struct rng *r, struct bytes *b, const struct class *class,
		       const struct range *range)
{
	uint8_t opcode = range->first + rng_below(r, range->last - range->first + 1);

	if (range->map >= VEX_38) {
		uint8_t map = range->map == VEX_38 ? 2 : 3;

		put(b, 0xc4);
		put(b, (rng_next(r) & 0xe0) | map);
		put(b, rng_next(r) & 0xfb); /* VEX.L is 0 */
	} else {
		if (!(class->flags & NO_REX) && rng_percent(r, 55))
			put(b, 0x40 | (rng_next(r) & 15));
		if (range->map != ONE)
			put(b, 0x0f);
		if (range->map == MAP_38 || range->map == MAP_3A)
			put(b, range->map == MAP_38 ? 0x38 : 0x3a);
	}
	put(b, opcode);
}

void diff_candidate(struct rng *r, unsigned which, uint8_t bytes[15])
{
	const struct class *class = &classes[which];
	struct bytes b = { .at = bytes };
	unsigned n = 0;
	const struct range *range;
	uint8_t modrm = rng_next(r);

	while (n < COUNT(class->ranges) && (class->ranges[n].first || class->ranges[n].last))
		n++;
	range = &class->ranges[rng_below(r, n)];
	put_prefixes(r, &b, class, range);
	put_opcode(r, &b, class, range);
	if ((class->flags & MEMORY) && modrm >= 0xc0)
		modrm -= 0x40;
	put(&b, modrm);
	/* What follows something undefined is nothing. */
	while (b.n < 15)
		put(&b, class->flags & UNDEFINED && rng_percent(r, 90) ? 0xcc : rng_next(r));
}

/* --- What is for us ---- */

/* As the backend's decoder has it. */
static bool offered(const ZydisDecodedInstruction *insn)
{
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
	case ZYDIS_ISA_EXT_RDWRFSGS:
	case ZYDIS_ISA_EXT_SHA:
	case ZYDIS_ISA_EXT_SSE:
	case ZYDIS_ISA_EXT_SSE2:
	case ZYDIS_ISA_EXT_SSE3:
	case ZYDIS_ISA_EXT_SSE4:
	case ZYDIS_ISA_EXT_SSSE3:
	case ZYDIS_ISA_EXT_X87: return true;
	default:
		return insn->meta.category == ZYDIS_CATEGORY_WIDENOP ||
		       insn->meta.category == ZYDIS_CATEGORY_NOP ||
		       insn->meta.category == ZYDIS_CATEGORY_PREFETCH;
	}
}

/* Not the same each time, or the host kernel's business. */
static bool left_out(const ZydisDecodedInstruction *insn)
{
	switch (insn->mnemonic) {
	case ZYDIS_MNEMONIC_CPUID:
	case ZYDIS_MNEMONIC_LAR:
	case ZYDIS_MNEMONIC_LSL:
	case ZYDIS_MNEMONIC_LFS:
	case ZYDIS_MNEMONIC_LGS:
	case ZYDIS_MNEMONIC_LSS:
	case ZYDIS_MNEMONIC_IRET:
	case ZYDIS_MNEMONIC_IRETD:
	case ZYDIS_MNEMONIC_IRETQ:
	case ZYDIS_MNEMONIC_RDPMC:
	case ZYDIS_MNEMONIC_RDTSC:
	case ZYDIS_MNEMONIC_RDTSCP:
	case ZYDIS_MNEMONIC_SGDT:
	case ZYDIS_MNEMONIC_SIDT:
	case ZYDIS_MNEMONIC_SLDT:
	case ZYDIS_MNEMONIC_SMSW:
	case ZYDIS_MNEMONIC_STR:
	case ZYDIS_MNEMONIC_SYSCALL:
	case ZYDIS_MNEMONIC_SYSENTER:
	case ZYDIS_MNEMONIC_SYSEXIT:
	case ZYDIS_MNEMONIC_SYSRET:
	case ZYDIS_MNEMONIC_VERR:
	case ZYDIS_MNEMONIC_VERW: return true;
	default: return false;
	}
}

static bool is_far(const ZydisDecodedInstruction *insn)
{
	return insn->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR;
}

static bool is_near_branch(const ZydisDecodedInstruction *insn)
{
	return insn->meta.branch_type == ZYDIS_BRANCH_TYPE_NEAR ||
	       insn->meta.branch_type == ZYDIS_BRANCH_TYPE_SHORT;
}

static bool loads_segment(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops)
{
	for (unsigned i = 0; i < insn->operand_count_visible; i++)
		if (ops[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    ZydisRegisterGetClass(ops[i].reg.value) == ZYDIS_REGCLASS_SEGMENT &&
		    (ops[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
			return true;
	return false;
}

/* INT n whose vectors have no gate for users; INT3 and INTO's have one. */
static bool is_system_call(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops)
{
	return insn->mnemonic == ZYDIS_MNEMONIC_INT && ops[0].imm.value.u >= 0x20;
}

static bool is_undefined(const ZydisDecodedInstruction *insn)
{
	return insn->mnemonic == ZYDIS_MNEMONIC_UD0 || insn->mnemonic == ZYDIS_MNEMONIC_UD1 ||
	       insn->mnemonic == ZYDIS_MNEMONIC_UD2;
}

bool diff_acceptable(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops,
		     bool undefined)
{
	if (!insn)
		return undefined;
	if (undefined || is_undefined(insn))
		return undefined && is_undefined(insn);
	if (insn->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
	    insn->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX)
		return false;
	if (!offered(insn) || left_out(insn) || is_far(insn) || loads_segment(insn, ops) ||
	    is_system_call(insn, ops))
		return false;
	return !(is_near_branch(insn) && (insn->attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE));
}
