/*
 * Differential tests: whether two results are the same, and how they differ.
 *
 * Not compared: flags that are the kernel's (IF, IOPL, RF) or that stop programs (TF, AC, NT); the
 * addresses that the x87 notes; what is behind the image of FXSAVE, and MXCSR_MASK, which tells of
 * extensions; whether a page of the kernel's half is present, which Linux hides; and where in a
 * page a load or store of many bytes failed, as they are many accesses in an order of the
 * processor's own.
 */
#include "diff.h"

#include <stdio.h>

#define FLAGS  (ARITHMETIC | FLAG_DF | FLAG_ID)
#define PF_P   1u
#define EXC_PF 14

static uint32_t error_of(const struct diff_case *c, const struct diff_result *r)
{
	return r->how == EXC_PF && (r->cr2 >= USER_END - PAGE || c->loose_cr2) ? r->error & ~PF_P
									       : r->error;
}

/* Offsets in the image of FXSAVE that count: not FOP, FIP and FDP, the mask of MXCSR, padding. */
static bool fx_counts(unsigned at)
{
	if (at < FX_ST0)
		return at <= FX_FTW || (at >= FX_MXCSR && at < FX_MXCSR + 4);
	return at >= FX_XMM0 || (at - FX_ST0) % 16 < 10;
}

static bool same_fx(const uint8_t *a, const uint8_t *b)
{
	if (memcmp(a, b, FX_END) == 0)
		return true;
	for (unsigned i = 0; i < FX_END; i++)
		if (a[i] != b[i] && fx_counts(i))
			return false;
	return true;
}

static bool is_ignored(const struct diff_case *c, unsigned at)
{
	for (unsigned i = 0; i < c->n_ignored; i++)
		if (at - c->ignored[i].offset < c->ignored[i].length)
			return true;
	return false;
}

static bool same_memory(const struct diff_case *c, const uint8_t *a, const uint8_t *b)
{
	if (memcmp(a, b, RW_SIZE) == 0)
		return true;
	for (unsigned i = 0; i < RW_SIZE; i++)
		if (a[i] != b[i] && !is_ignored(c, i))
			return false;
	return true;
}

bool diff_same(const struct diff_case *c, const struct diff_result *a, const struct diff_result *b)
{
	return a->how == b->how && error_of(c, a) == error_of(c, b) &&
	       (a->how != EXC_PF || c->loose_cr2 || a->cr2 == b->cr2) &&
	       a->state.rip == b->state.rip && a->state.fs_base == b->state.fs_base &&
	       a->state.gs_base == b->state.gs_base &&
	       ((a->state.rflags ^ b->state.rflags) & FLAGS) == 0 &&
	       memcmp(a->state.gpr, b->state.gpr, sizeof(a->state.gpr)) == 0 &&
	       same_fx(a->state.fx, b->state.fx) && same_memory(c, a->memory, b->memory);
}

/* --- Printing ---- */

static const char *const gpr_names[] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
					 "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15" };

static void print_flags(uint64_t flags)
{
	static const struct {
		uint64_t bit;
		char name[4];
	} names[] = { { FLAG_CF, "cf" }, { FLAG_PF, "pf" }, { FLAG_AF, "af" }, { FLAG_ZF, "zf" },
		      { FLAG_SF, "sf" }, { FLAG_DF, "df" }, { FLAG_OF, "of" }, { FLAG_ID, "id" } };

	for (unsigned i = 0; i < COUNT(names); i++)
		if (flags & names[i].bit)
			printf(" %s", names[i].name);
}

static void print_bytes(const uint8_t *bytes, unsigned n)
{
	while (n-- > 0)
		printf("%02x", bytes[n]);
}

static void print_how(const char *who, const struct diff_result *r)
{
	printf("#   %s ends ", who);
	switch (r->how) {
	case ENDED_WELL: printf("well\n"); return;
	case ENDED_LATE: printf("not in time, at 0x%llx\n", (long long)r->state.rip); return;
	case ENDED_SYSCALL: printf("in a system call\n"); return;
	case ENDED_STRANGELY: printf("strangely, at 0x%llx\n", (long long)r->state.rip); return;
	}
	printf("with vector %u, error 0x%x, rip 0x%llx", r->how, r->error, (long long)r->state.rip);
	if (r->how == EXC_PF)
		printf(", cr2 0x%llx", (long long)r->cr2);
	printf("\n");
}

static void print_values(const char *name, const uint8_t *in, const uint8_t *host,
			 const uint8_t *guest, unsigned n, bool all)
{
	if (!all && memcmp(host, guest, n) == 0)
		return;
	printf("#   %s%s", name, memcmp(host, guest, n) ? "\t!" : "\t");
	printf(" in ");
	print_bytes(in, n);
	printf(" host ");
	print_bytes(host, n);
	printf(" guest ");
	print_bytes(guest, n);
	printf("\n");
}

static void print_fx(const uint8_t *in, const uint8_t *host, const uint8_t *guest, bool all)
{
	char name[16];

	print_values("fcw", in + FX_FCW, host + FX_FCW, guest + FX_FCW, 2, all);
	print_values("fsw", in + FX_FSW, host + FX_FSW, guest + FX_FSW, 2, all);
	print_values("ftw", in + FX_FTW, host + FX_FTW, guest + FX_FTW, 1, all);
	print_values("mxcsr", in + FX_MXCSR, host + FX_MXCSR, guest + FX_MXCSR, 4, all);
	for (unsigned i = 0; i < 24; i++) {
		unsigned at = FX_ST0 + 16 * i;

		snprintf(name, sizeof(name), i < 8 ? "st%u" : "xmm%u", i < 8 ? i : i - 8);
		print_values(name, in + at, host + at, guest + at, i < 8 ? 10 : 16, all);
	}
}

static void print_memory(const struct diff_case *c, const uint8_t *in, const uint8_t *host,
			 const uint8_t *guest, bool all)
{
	unsigned shown = 0;
	char name[16];

	for (unsigned i = 0; i < RW_SIZE && shown < 16; i += 8) {
		bool differs = false;

		for (unsigned j = i; j < i + 8; j++)
			differs |= host[j] != guest[j] && !is_ignored(c, j);
		if (!differs && !(all && memcmp(in + i, host + i, 8)))
			continue;
		snprintf(name, sizeof(name), "[%x]", RW + i);
		print_values(name, in + i, host + i, guest + i, 8, true);
		shown++;
	}
}

void diff_print(const struct diff_case *c, const uint8_t *code, const uint8_t *memory,
		const struct diff_result *host, const struct diff_result *guest, bool all)
{
	const struct diff_state *in = &c->in, *h = &host->state, *g = &guest->state;

	diff_disassemble(c, code);
	print_how("host ", host);
	print_how("guest", guest);
	for (unsigned i = 0; i < 16; i++)
		print_values(gpr_names[i], (const uint8_t *)&in->gpr[i],
			     (const uint8_t *)&h->gpr[i], (const uint8_t *)&g->gpr[i], 8, all);
	print_values("fs", (const uint8_t *)&in->fs_base, (const uint8_t *)&h->fs_base,
		     (const uint8_t *)&g->fs_base, 8, all);
	print_values("gs", (const uint8_t *)&in->gs_base, (const uint8_t *)&h->gs_base,
		     (const uint8_t *)&g->gs_base, 8, all);
	if (all || (h->rflags ^ g->rflags) & FLAGS) {
		printf("#   flags\t%s in", (h->rflags ^ g->rflags) & FLAGS ? "!" : "");
		print_flags(in->rflags);
		printf(", host");
		print_flags(h->rflags);
		printf(", guest");
		print_flags(g->rflags);
		printf("\n");
	}
	print_fx(in->fx, h->fx, g->fx, all);
	print_memory(c, memory, host->memory, guest->memory, all);
}
