/*
 * The registers gdb sees: see gdb_registers.h.
 *
 * One table in the order of gdb's numbers, cut into the features whose names gdb knows (GDB manual,
 * §G.5.6), and one of our own for what only kernels look at. The target is x86-64 whatever mode a
 * vCPU is in, as gdb takes one description a connection.
 *
 * x87 and SSE registers are in XSAVE's legacy region (Intel SDM vol. 1 §10.5.1, §13.4), which has
 * one tag bit a register where gdb wants the classic two.
 */
#include "revirter/gdb_registers.h"

#include "base/util.h"
#include "revirter/gdb_packet.h"
#include "x86/registers.h"

#include <string.h>

#define MSR_KERNEL_GS_BASE 0xc0000102
#define XSAVE_ST           32
#define XSAVE_XMM          160
#define XSAVE_BV           512 /* XSTATE_BV, which components are not in their first state */
#define XSTATE_X87         BIT(0)
#define XSTATE_SSE         BIT(1)

enum kind {
	GENERAL,  /* 8 bytes at `at` of struct hav_state */
	FLAGS,    /* the lower half of RFLAGS */
	SELECTOR, /* of the struct hav_segment at `at` */
	BASE,     /* of it */
	CONTROL,  /* 8 bytes at `at` */
	GS_MSR,
	X87,   /* a part of XSAVE's x87 state, see x87_fields */
	ST,    /* 10 bytes at `at` of xsave */
	XMM,   /* 16 bytes there */
	MXCSR, /* 4 bytes there */
};

static const struct {
	uint8_t bytes;
	unsigned group;
} kinds[] = {
	[GENERAL] = { 8, HAV_STATE_REGS },   [FLAGS] = { 4, HAV_STATE_REGS },
	[SELECTOR] = { 4, HAV_STATE_SREGS }, [BASE] = { 8, HAV_STATE_SREGS },
	[CONTROL] = { 8, HAV_STATE_SREGS },  [GS_MSR] = { 8, HAV_STATE_MSRS },
	[X87] = { 4, HAV_STATE_XSAVE },      [ST] = { 10, HAV_STATE_XSAVE },
	[XMM] = { 16, HAV_STATE_XSAVE },     [MXCSR] = { 4, HAV_STATE_XSAVE },
};

/* In the order of gdb's numbers: fctrl to fop. Offsets in XSAVE's legacy region. */
enum { FTAG = 2, N_X87 = 8 };
static const struct {
	uint8_t at, bytes;
} x87_fields[N_X87] = {
	{ 0, 2 },  /* fctrl */
	{ 2, 2 },  /* fstat */
	{ 4, 1 },  /* ftag, abridged */
	{ 12, 2 }, /* fiseg: the upper part of a 64-bit pointer */
	{ 8, 4 },  /* fioff */
	{ 20, 2 }, /* foseg */
	{ 16, 4 }, /* fooff */
	{ 6, 2 },  /* fop */
};

struct reg {
	const char *name, *type;
	enum kind kind;
	unsigned at;
};

#define G(name, type)                                                       \
	{                                                                   \
#name, type, GENERAL, offsetof(struct hav_state, regs.name) \
	}
#define SEL(name)                                                                \
	{                                                                        \
#name, "int32", SELECTOR, offsetof(struct hav_state, sregs.name) \
	}
#define SEG_BASE(n, seg)                                                \
	{                                                               \
		n, "int64", BASE, offsetof(struct hav_state, sregs.seg) \
	}
#define C(name, type)                                                        \
	{                                                                    \
#name, type, CONTROL, offsetof(struct hav_state, sregs.name) \
	}
#define R_ST(n)                                              \
	{                                                    \
		"st" #n, "i387_ext", ST, XSAVE_ST + 16 * (n) \
	}
#define R_XMM(n)                                              \
	{                                                     \
		"xmm" #n, "vec128", XMM, XSAVE_XMM + 16 * (n) \
	}
#define F(name, i)                  \
	{                           \
		name, "int", X87, i \
	}

static const struct reg regs[] = {
	/* org.gnu.gdb.i386.core */
	G(rax, "int64"),
	G(rbx, "int64"),
	G(rcx, "int64"),
	G(rdx, "int64"),
	G(rsi, "int64"),
	G(rdi, "int64"),
	G(rbp, "data_ptr"),
	G(rsp, "data_ptr"),
	G(r8, "int64"),
	G(r9, "int64"),
	G(r10, "int64"),
	G(r11, "int64"),
	G(r12, "int64"),
	G(r13, "int64"),
	G(r14, "int64"),
	G(r15, "int64"),
	G(rip, "code_ptr"),
	{ "eflags", "x86_eflags", FLAGS, 0 },
	SEL(cs),
	SEL(ss),
	SEL(ds),
	SEL(es),
	SEL(fs),
	SEL(gs),
	R_ST(0),
	R_ST(1),
	R_ST(2),
	R_ST(3),
	R_ST(4),
	R_ST(5),
	R_ST(6),
	R_ST(7),
	F("fctrl", 0),
	F("fstat", 1),
	F("ftag", FTAG),
	F("fiseg", 3),
	F("fioff", 4),
	F("foseg", 5),
	F("fooff", 6),
	F("fop", 7),
	/* org.gnu.gdb.i386.sse */
	R_XMM(0),
	R_XMM(1),
	R_XMM(2),
	R_XMM(3),
	R_XMM(4),
	R_XMM(5),
	R_XMM(6),
	R_XMM(7),
	R_XMM(8),
	R_XMM(9),
	R_XMM(10),
	R_XMM(11),
	R_XMM(12),
	R_XMM(13),
	R_XMM(14),
	R_XMM(15),
	{ "mxcsr", "x86_mxcsr", MXCSR, 24 },
	/* org.gnu.gdb.i386.segments */
	SEG_BASE("fs_base", fs),
	SEG_BASE("gs_base", gs),
	/* our own */
	{ "k_gs_base", "int64", GS_MSR, 0 },
	C(cr0, "x86_cr0"),
	C(cr2, "int64"),
	C(cr3, "int64"),
	C(cr4, "x86_cr4"),
	C(cr8, "int64"),
	C(efer, "x86_efer"),
};

enum { FIRST_SSE = 40, FIRST_SEGMENTS = 57, FIRST_SYSTEM = 59 };
static const struct {
	const char *name;
	unsigned first;
} features[] = {
	{ "org.gnu.gdb.i386.core", 0 },
	{ "org.gnu.gdb.i386.sse", FIRST_SSE },
	{ "org.gnu.gdb.i386.segments", FIRST_SEGMENTS },
	{ "org.revirt.x86.system", FIRST_SYSTEM },
};

/* Types that registers of a feature have: bits by name (Intel SDM vol. 3 §2.3, §2.5, §2.2.1). */
struct bit {
	uint8_t n;
	const char *name;
};
static const struct {
	const char *name;
	unsigned feature, bytes;
	const struct bit bits[24];
} flag_types[] = {
	{ "x86_eflags",
	  0,
	  4,
	  { { 0, "CF" },
	    { 2, "PF" },
	    { 4, "AF" },
	    { 6, "ZF" },
	    { 7, "SF" },
	    { 8, "TF" },
	    { 9, "IF" },
	    { 10, "DF" },
	    { 11, "OF" },
	    { 14, "NT" },
	    { 16, "RF" },
	    { 17, "VM" },
	    { 18, "AC" },
	    { 19, "VIF" },
	    { 20, "VIP" },
	    { 21, "ID" } } },
	{ "x86_mxcsr",
	  1,
	  4,
	  { { 0, "IE" },
	    { 1, "DE" },
	    { 2, "ZE" },
	    { 3, "OE" },
	    { 4, "UE" },
	    { 5, "PE" },
	    { 6, "DAZ" },
	    { 7, "IM" },
	    { 8, "DM" },
	    { 9, "ZM" },
	    { 10, "OM" },
	    { 11, "UM" },
	    { 12, "PM" },
	    { 15, "FZ" } } },
	{ "x86_cr0",
	  3,
	  8,
	  { { 0, "PE" },
	    { 1, "MP" },
	    { 2, "EM" },
	    { 3, "TS" },
	    { 4, "ET" },
	    { 5, "NE" },
	    { 16, "WP" },
	    { 18, "AM" },
	    { 29, "NW" },
	    { 30, "CD" },
	    { 31, "PG" } } },
	{ "x86_cr4", 3, 8, { { 0, "VME" },       { 1, "PVI" },         { 2, "TSD" },
			     { 3, "DE" },        { 4, "PSE" },         { 5, "PAE" },
			     { 6, "MCE" },       { 7, "PGE" },         { 8, "PCE" },
			     { 9, "OSFXSR" },    { 10, "OSXMMEXCPT" }, { 11, "UMIP" },
			     { 12, "LA57" },     { 13, "VMXE" },       { 14, "SMXE" },
			     { 16, "FSGSBASE" }, { 17, "PCIDE" },      { 18, "OSXSAVE" },
			     { 20, "SMEP" },     { 21, "SMAP" },       { 22, "PKE" } } },
	{ "x86_efer",
	  3,
	  8,
	  { { 0, "SCE" },
	    { 8, "LME" },
	    { 10, "LMA" },
	    { 11, "NXE" },
	    { 12, "SVME" },
	    { 14, "FFXSR" } } },
};

/* What an SSE register can be read as. */
static const struct {
	const char *vector, *element, *field;
	unsigned count;
} vectors[] = {
	{ "v4f", "ieee_single", "v4_float", 4 }, { "v2d", "ieee_double", "v2_double", 2 },
	{ "v16i8", "int8", "v16_int8", 16 },     { "v8i16", "int16", "v8_int16", 8 },
	{ "v4i32", "int32", "v4_int32", 4 },     { "v2i64", "int64", "v2_int64", 2 },
};

unsigned gdb_n_registers(void)
{
	return ARRAY_SIZE(regs);
}

unsigned gdb_register_size(unsigned n)
{
	return kinds[regs[n].kind].bytes;
}

unsigned gdb_register_group(unsigned n)
{
	return kinds[regs[n].kind].group;
}

/* --- The x87 tag word ---- */

enum { TAG_VALID, TAG_ZERO, TAG_SPECIAL, TAG_EMPTY };

static unsigned classify(const uint8_t st[10])
{
	uint64_t mantissa;
	uint16_t exponent;

	memcpy(&mantissa, st, 8);
	memcpy(&exponent, st + 8, 2);
	exponent &= 0x7fff;
	if (!exponent && !mantissa)
		return TAG_ZERO;
	/* Normal numbers have their integer bit set; infinities and NaNs the largest exponent. */
	return exponent && exponent != 0x7fff && mantissa >> 63 ? TAG_VALID : TAG_SPECIAL;
}

/* Tags go by physical register, the values by their distance from the top of the stack. */
static uint16_t full_tags(const uint8_t *xsave)
{
	const unsigned top = xsave[3] >> 3 & 7;
	uint16_t tags = 0;

	for (unsigned i = 0; i < 8; i++) {
		unsigned tag = TAG_EMPTY;

		if (xsave[4] & 1u << i)
			tag = classify(xsave + XSAVE_ST + 16 * ((i - top) & 7));
		tags |= tag << 2 * i;
	}
	return tags;
}

static uint8_t abridged_tags(uint16_t tags)
{
	uint8_t result = 0;

	for (unsigned i = 0; i < 8; i++)
		if ((tags >> 2 * i & 3) != TAG_EMPTY)
			result |= 1u << i;
	return result;
}

/* --- Reading ---- */

static void read_x87(const uint8_t *xsave, unsigned field, uint8_t *bytes)
{
	uint16_t tags = full_tags(xsave);

	memset(bytes, 0, 4);
	if (field == FTAG)
		memcpy(bytes, &tags, 2);
	else
		memcpy(bytes, xsave + x87_fields[field].at, x87_fields[field].bytes);
}

static uint64_t find_msr(const struct hav_state *state, uint32_t index)
{
	for (unsigned i = 0; i < state->n_msrs; i++)
		if (state->msrs[i].index == index)
			return state->msrs[i].value;
	return 0;
}

void gdb_register_read(const struct hav_state *state, unsigned n, uint8_t *bytes)
{
	const struct reg *r = &regs[n];
	const struct hav_segment *segment = (const void *)((const char *)state + r->at);
	const unsigned size = gdb_register_size(n);
	uint64_t value;

	switch (r->kind) {
	case GENERAL:
	case CONTROL: memcpy(bytes, (const char *)state + r->at, size); return;
	case X87: read_x87(state->xsave, r->at, bytes); return;
	case ST:
	case XMM:
	case MXCSR: memcpy(bytes, state->xsave + r->at, size); return;
	case FLAGS: value = state->regs.rflags; break;
	case SELECTOR: value = segment->selector; break;
	case BASE: value = segment->base; break;
	case GS_MSR: value = find_msr(state, MSR_KERNEL_GS_BASE); break;
	default: value = 0; break;
	}
	memcpy(bytes, &value, size);
}

/* --- Writing ---- */

static void write_x87(uint8_t *xsave, unsigned field, const uint8_t *bytes)
{
	uint16_t tags;

	if (field == FTAG) {
		memcpy(&tags, bytes, 2);
		xsave[4] = abridged_tags(tags);
	} else {
		memcpy(xsave + x87_fields[field].at, bytes, x87_fields[field].bytes);
	}
}

/* Outside real mode a selector stands for a descriptor, which the processor loads, not we. */
static bool write_selector(struct hav_state *state, struct hav_segment *segment, uint32_t selector)
{
	if (selector == segment->selector)
		return true;
	if (state->sregs.cr0 & CR0_PE || selector > UINT16_MAX)
		return false;
	segment->selector = selector;
	segment->base = selector << 4;
	return true;
}

static void mark_used(struct hav_state *state, uint64_t components)
{
	uint64_t used;

	memcpy(&used, state->xsave + XSAVE_BV, sizeof(used));
	used |= components;
	memcpy(state->xsave + XSAVE_BV, &used, sizeof(used));
}

bool gdb_register_write(struct hav_state *state, unsigned n, const uint8_t *bytes)
{
	const struct reg *r = &regs[n];
	struct hav_segment *segment = (void *)((char *)state + r->at);
	const unsigned size = gdb_register_size(n);
	uint64_t value = 0;

	memcpy(&value, bytes, MIN(size, sizeof(value)));
	switch (r->kind) {
	case GENERAL:
	case CONTROL: memcpy((char *)state + r->at, bytes, size); break;
	case FLAGS: state->regs.rflags = value | RFLAGS_ONE; break;
	case SELECTOR: return write_selector(state, segment, value);
	case BASE: segment->base = value; break;
	case GS_MSR:
		state->n_msrs = 1;
		state->msrs[0] = (struct hav_msr){ MSR_KERNEL_GS_BASE, value };
		break;
	case X87:
		write_x87(state->xsave, r->at, bytes);
		mark_used(state, XSTATE_X87);
		break;
	case ST:
	case XMM:
	case MXCSR:
		memcpy(state->xsave + r->at, bytes, size);
		mark_used(state, r->kind == ST ? XSTATE_X87 : XSTATE_SSE);
		break;
	}
	return true;
}

/* --- The description ---- */

static void describe_flags(struct gdb_buffer *xml, unsigned feature)
{
	for (unsigned i = 0; i < ARRAY_SIZE(flag_types); i++) {
		if (flag_types[i].feature != feature)
			continue;
		gdb_addf(xml, "<flags id=\"%s\" size=\"%u\">", flag_types[i].name,
			 flag_types[i].bytes);
		for (const struct bit *b = flag_types[i].bits; b->name; b++)
			gdb_addf(xml, "<field name=\"%s\" start=\"%u\" end=\"%u\"/>", b->name, b->n,
				 b->n);
		gdb_addf(xml, "</flags>\n");
	}
}

static void describe_vectors(struct gdb_buffer *xml)
{
	for (unsigned i = 0; i < ARRAY_SIZE(vectors); i++)
		gdb_addf(xml, "<vector id=\"%s\" type=\"%s\" count=\"%u\"/>\n", vectors[i].vector,
			 vectors[i].element, vectors[i].count);
	gdb_addf(xml, "<union id=\"vec128\">");
	for (unsigned i = 0; i < ARRAY_SIZE(vectors); i++)
		gdb_addf(xml, "<field name=\"%s\" type=\"%s\"/>", vectors[i].field,
			 vectors[i].vector);
	gdb_addf(xml, "<field name=\"uint128\" type=\"uint128\"/></union>\n");
}

void gdb_register_xml(struct gdb_buffer *xml)
{
	gdb_addf(xml, "<?xml version=\"1.0\"?>\n<!DOCTYPE target SYSTEM \"gdb-target.dtd\">\n"
		      "<target version=\"1.0\">\n<architecture>i386:x86-64</architecture>\n");
	for (unsigned f = 0; f < ARRAY_SIZE(features); f++) {
		const bool last = f + 1 == ARRAY_SIZE(features);
		const unsigned end = last ? gdb_n_registers() : features[f + 1].first;

		gdb_addf(xml, "<feature name=\"%s\">\n", features[f].name);
		describe_flags(xml, f);
		if (features[f].first == FIRST_SSE)
			describe_vectors(xml);
		for (unsigned n = features[f].first; n < end; n++)
			gdb_addf(xml,
				 "<reg name=\"%s\" bitsize=\"%u\" type=\"%s\" regnum=\"%u\"/>\n",
				 regs[n].name, 8 * gdb_register_size(n), regs[n].type, n);
		gdb_addf(xml, "</feature>\n");
	}
	gdb_addf(xml, "</target>\n");
}
