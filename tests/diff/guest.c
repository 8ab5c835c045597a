/*
 * Differential tests: runs cases in a VM, at CPL 3 of long mode, with the host's linear addresses.
 *
 * Every vector's handler is a HLT of its own, on an interrupt stack: where it was met says which
 * vector it was, and the frame on the stack says the rest. At EXIT is an INT3. A case is entered by
 * an IRETQ. All of that is supervisor memory in the upper half of the address space.
 *
 * Code is copied into place by the guest itself, so that the backend sees that it is new.
 */
#include "diff.h"
#include "hav.h"

#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

/* Guest-physical pages. */
enum {
	PML4 = 1,
	PDPT_LOW,
	PD_LOW,
	PT_CODE,
	PT_EXIT,
	PT_DATA,
	PDPT_HIGH,
	PD_HIGH,
	PT_HIGH,
	GDT,
	IDT,
	HANDLERS,
	STUBS,
	FAULT_STACK,
	ENTRY_STACK,
	EXIT_CODE,
	DATA,
	CODE_AT = 0x20,
	STAGED_AT = CODE_AT + CODE_PAGES,
	N_PAGES = STAGED_AT + CODE_PAGES,
};
#define HIGH         0xffff800000000000u
#define GPA(page)    ((uint64_t)(page)*PAGE)
#define LINEAR(page) (HIGH + GPA(page))

#define PTE_P        BIT(0)
#define PTE_W        BIT(1)
#define PTE_U        BIT(2)
#define PTE_NX       BIT(63)

/* As Linux has them, since a case may read its segment registers. */
#define USER_CS    0x33
#define USER_SS    0x2b
#define KERNEL_CS  0x10
#define TSS        0x40

#define CR0        0x80050033u /* PG AM WP NE ET MP PE */
#define CR4        0x10620u    /* FSGSBASE OSXMMEXCPT OSFXSR PAE */
#define EFER       0xd01u      /* NXE LMA LME SCE */

#define STUB_ENTER 0
#define STUB_COPY  16

struct diff_guest {
	const struct diff_shared *shared;
	struct hav *hav;
	struct hav_vm *vm;
	struct hav_vcpu *vcpu;
	uint8_t *memory;
	struct hav_state state, kernel;
	struct hav_exit exit;
};

static void must(int r, struct error *error, const char *what)
{
	if (r < 0)
		errx(2, "%s: %s", what, hav_error_message(error));
}

static uint64_t *page(struct diff_guest *g, unsigned n)
{
	return (uint64_t *)(g->memory + GPA(n));
}

/* --- Making it ---- */

static void map_pages(struct diff_guest *g, unsigned table, uint64_t linear, unsigned first,
		      unsigned n, uint64_t bits)
{
	for (unsigned i = 0; i < n; i++)
		page(g, table)[(linear / PAGE + i) % 512] = GPA(first + i) | bits | PTE_P;
}

static void make_tables(struct diff_guest *g)
{
	const uint64_t all = PTE_P | PTE_W | PTE_U;

	page(g, PML4)[0] = GPA(PDPT_LOW) | all;
	page(g, PDPT_LOW)[0] = GPA(PD_LOW) | all;
	page(g, PD_LOW)[CODE >> 21] = GPA(PT_CODE) | all;
	page(g, PD_LOW)[EXIT >> 21] = GPA(PT_EXIT) | all;
	page(g, PD_LOW)[RW >> 21] = GPA(PT_DATA) | all;
	map_pages(g, PT_CODE, CODE, CODE_AT, CODE_PAGES, PTE_U);
	map_pages(g, PT_EXIT, EXIT, EXIT_CODE, 1, PTE_U);
	map_pages(g, PT_DATA, RW, DATA, 2, PTE_U | PTE_W | PTE_NX);
	map_pages(g, PT_DATA, RO, DATA + 2, 1, PTE_U | PTE_NX);
	page(g, PML4)[256] = GPA(PDPT_HIGH) | all;
	page(g, PDPT_HIGH)[0] = GPA(PD_HIGH) | all;
	page(g, PD_HIGH)[0] = GPA(PT_HIGH) | all;
	map_pages(g, PT_HIGH, HIGH, 0, N_PAGES, PTE_W);
}

static void make_descriptors(struct diff_guest *g)
{
	uint64_t *gdt = page(g, GDT), tss = LINEAR(GDT) + 0x800;
	uint8_t *state = g->memory + GPA(GDT) + 0x800;
	uint64_t stack = LINEAR(FAULT_STACK) + PAGE;

	gdt[KERNEL_CS / 8] = 0x00af9b000000ffff;
	gdt[KERNEL_CS / 8 + 1] = 0x00cf93000000ffff;
	gdt[USER_SS / 8] = 0x00cff3000000ffff;
	gdt[USER_CS / 8] = 0x00affb000000ffff;
	gdt[TSS / 8] = 0x67 | (tss & 0xffffff) << 16 | 0x8bull << 40 | (tss >> 24 & 0xff) << 56;
	gdt[TSS / 8 + 1] = tss >> 32;
	memcpy(state + 0x24, &stack, 8); /* IST1 */
	memset(state + 0x66, 0x68, 1);   /* no I/O permissions */
}

static void make_handlers(struct diff_guest *g)
{
	memset(g->memory + GPA(HANDLERS), 0xf4, PAGE); /* HLT */
	for (unsigned i = 0; i < 256; i++) {
		uint64_t to = LINEAR(HANDLERS) + 16 * i;
		/* What users may raise: #BP, #OF. */
		uint64_t dpl = i == 3 || i == 4 ? 3 : 0;

		page(g, IDT)[2 * i] = (to & 0xffff) | KERNEL_CS << 16 | 1ull << 32 |
				      (0x8e | dpl << 5) << 40 | (to >> 16 & 0xffff) << 48;
		page(g, IDT)[2 * i + 1] = to >> 32;
	}
}

static void make_stubs(struct diff_guest *g)
{
	static const uint8_t enter[] = { 0x48, 0xcf };            /* iretq */
	static const uint8_t copy[] = { 0xf3, 0x48, 0xa5, 0xf4 }; /* rep movsq; hlt */

	memcpy(g->memory + GPA(STUBS) + STUB_ENTER, enter, sizeof(enter));
	memcpy(g->memory + GPA(STUBS) + STUB_COPY, copy, sizeof(copy));
	memset(g->memory + GPA(EXIT_CODE), 0xcc, PAGE);
}

static void make_state(struct diff_guest *g)
{
	struct hav_sregs *s = &g->state.sregs;
	const struct hav_segment data = { 0, UINT32_MAX, KERNEL_CS + 8, 0xc93 };
	const struct hav_segment none = { .attr = HAV_SEGMENT_UNUSABLE };
	struct error *error = NULL;

	must(hav_vcpu_get_state(g->vcpu, HAV_STATE_REGS | HAV_STATE_SREGS | HAV_STATE_XSAVE,
				&g->state, &error),
	     error, "state");
	s->cs = (struct hav_segment){ 0, UINT32_MAX, KERNEL_CS, 0xa9b };
	s->ss = data;
	s->ds = s->es = s->fs = s->gs = none;
	s->fs.base = FS_BASE;
	s->gs.base = GS_BASE;
	s->ldt = none;
	s->tr = (struct hav_segment){ LINEAR(GDT) + 0x800, 0x67, TSS, 0x8b };
	s->gdt = (struct hav_table){ LINEAR(GDT), TSS + 15 };
	s->idt = (struct hav_table){ LINEAR(IDT), PAGE - 1 };
	s->cr0 = CR0;
	s->cr3 = GPA(PML4);
	s->cr4 = CR4;
	s->efer = EFER;
	g->state.regs = (struct hav_regs){ .rip = LINEAR(STUBS), .rflags = 2 };
	must(hav_vcpu_set_state(g->vcpu, HAV_STATE_REGS | HAV_STATE_SREGS, &g->state, &error),
	     error, "state");
	g->kernel = g->state;
}

static void set_cpuid(struct diff_guest *g)
{
	struct hav_cpuid entries[256];
	struct error *error = NULL;
	size_t n = COUNT(entries);

	must(hav_cpuid_supported(g->hav, entries, &n, &error), error, "CPUID");
	must(hav_vcpu_set_cpuid(g->vcpu, entries, n, &error), error, "CPUID");
}

struct diff_guest *guest_start(const char *backend, const struct diff_shared *shared)
{
	/* As for -accel: a name, perhaps with what it is to be like. */
	const char *jit = strstr(backend, ",jit=");
	const struct hav_vm_config config = {
		.irqchip = HAV_IRQCHIP_NONE,
		.translation = !jit || strcmp(jit, ",jit=on") == 0 ? HAV_TRANSLATE
			       : strcmp(jit, ",jit=off") == 0      ? HAV_INTERPRET
								   : HAV_TRANSLATE_EAGERLY,
	};
	char name[16];
	struct diff_guest *g = calloc(1, sizeof(*g));
	struct error *error = NULL;

	if (!g)
		err(2, "no memory");
	g->shared = shared;
	snprintf(name, sizeof(name), "%.*s", jit ? (int)(jit - backend) : (int)strlen(backend),
		 backend);
	must(hav_open(&g->hav, name, &error), error, name);
	must(hav_vm_create(g->hav, &config, &g->vm, &error), error, "VM");
	g->memory =
		mmap(NULL, GPA(N_PAGES), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (g->memory == MAP_FAILED)
		err(2, "no memory");
	make_tables(g);
	make_descriptors(g);
	make_handlers(g);
	make_stubs(g);
	must(hav_vm_map(g->vm, 0, g->memory, GPA(N_PAGES), HAV_MAP_RW, &error), error, "memory");
	must(hav_vcpu_create(g->vm, 0, &g->vcpu, &error), error, "vCPU");
	set_cpuid(g);
	make_state(g);
	return g;
}

void guest_stop(struct diff_guest *g)
{
	hav_vcpu_destroy(g->vcpu);
	hav_vm_destroy(g->vm);
	hav_close(g->hav);
	munmap(g->memory, GPA(N_PAGES));
	free(g);
}

void guest_interrupt(struct diff_guest *g)
{
	hav_vcpu_kick(g->vcpu);
}

/* --- Running ---- */

static void run(struct diff_guest *g, unsigned groups)
{
	struct error *error = NULL;

	must(hav_vcpu_set_state(g->vcpu, groups, &g->state, &error), error, "state");
	must(hav_vcpu_run(g->vcpu, &g->exit, &error), error, "run");
	must(hav_vcpu_get_state(g->vcpu, HAV_STATE_REGS | HAV_STATE_XSAVE, &g->state, &error),
	     error, "state");
}

/* After something that no handler ended. */
static void recover(struct diff_guest *g)
{
	struct error *error = NULL;

	must(hav_vcpu_set_state(g->vcpu, HAV_STATE_REGS | HAV_STATE_SREGS, &g->kernel, &error),
	     error, "state");
}

void guest_load(struct diff_guest *g, const struct diff_batch *batch)
{
	memcpy(page(g, STAGED_AT), batch->code, CODE_SIZE);
	g->state.groups = HAV_STATE_REGS;
	g->state.regs = (struct hav_regs){ .rip = LINEAR(STUBS) + STUB_COPY,
					   .rsp = LINEAR(ENTRY_STACK) + PAGE,
					   .rsi = LINEAR(STAGED_AT),
					   .rdi = LINEAR(CODE_AT),
					   .rcx = CODE_SIZE / 8,
					   .rflags = 2 };
	run(g, HAV_STATE_REGS);
	if (g->exit.reason != HAV_EXIT_HLT)
		errx(2, "cannot copy code: %s", hav_exit_name(g->exit.reason));
}

static void put_state(struct diff_guest *g, const struct diff_state *s)
{
	const uint64_t *r = s->gpr, components = 3;
	uint64_t *frame = page(g, ENTRY_STACK) + 64;
	const uint64_t iret[] = { s->rip, USER_CS, s->rflags, r[RSP], USER_SS };

	memcpy(frame, iret, sizeof(iret));
	g->state.regs = (struct hav_regs){ r[RAX], r[RBX], r[RCX], r[RDX], r[RSI], r[RDI],
					   0,      r[RBP], r[8],   r[9],   r[10],  r[11],
					   r[12],  r[13],  r[14],  r[15],  0,      2 };
	g->state.regs.rip = LINEAR(STUBS) + STUB_ENTER;
	g->state.regs.rsp = LINEAR(ENTRY_STACK) + 64 * 8;
	memcpy(g->state.xsave, s->fx, FX_END);
	memcpy(g->state.xsave + FX_SIZE, &components, 8);
	g->state.groups = HAV_STATE_REGS | HAV_STATE_XSAVE;
}

static void get_state(struct diff_guest *g, struct diff_state *s)
{
	const struct hav_regs *r = &g->state.regs;
	const uint64_t values[] = {
		r->rax, r->rcx, r->rdx, r->rbx, r->rsp, r->rbp, r->rsi, r->rdi,
		r->r8,  r->r9,  r->r10, r->r11, r->r12, r->r13, r->r14, r->r15
	};

	memcpy(s->gpr, values, sizeof(values));
	memcpy(s->fx, g->state.xsave, FX_END);
	s->rip = r->rip;
	s->rflags = r->rflags;
	s->fs_base = FS_BASE;
	s->gs_base = GS_BASE;
}

static void get_sregs(struct diff_guest *g)
{
	struct error *error = NULL;

	must(hav_vcpu_get_state(g->vcpu, HAV_STATE_SREGS, &g->state, &error), error, "state");
}

/* In a handler: what the processor pushed. */
static void get_frame(struct diff_guest *g, struct diff_result *result)
{
	const uint64_t *top = page(g, FAULT_STACK) + PAGE / 8;
	struct diff_state *s = &result->state;
	unsigned pushed = (LINEAR(FAULT_STACK) + PAGE - s->gpr[RSP]) / 8;

	result->how = (s->rip - LINEAR(HANDLERS)) / 16;
	result->error = pushed == 6 ? top[-6] : 0;
	s->rip = top[-5];
	s->rflags = top[-3];
	s->gpr[RSP] = top[-2];
	if (result->how == 14) {
		get_sregs(g);
		result->cr2 = g->state.sregs.cr2;
	}
	if (result->how == 3 && s->rip == EXIT + 1) {
		result->how = ENDED_WELL;
		s->rip = 0;
	}
}

static void get_bases(struct diff_guest *g, struct diff_state *s)
{
	get_sregs(g);
	s->fs_base = g->state.sregs.fs.base;
	s->gs_base = g->state.sregs.gs.base;
	recover(g);
}

void guest_run(struct diff_guest *g, const struct diff_case *c, struct diff_result *result)
{
	diff_memory(g->shared, c, (uint8_t *)page(g, DATA));
	put_state(g, &c->in);
	run(g, HAV_STATE_REGS | HAV_STATE_XSAVE);
	get_state(g, &result->state);
	result->cr2 = result->error = 0;
	if (g->exit.reason == HAV_EXIT_HLT && result->state.rip >= LINEAR(HANDLERS)) {
		get_frame(g, result);
	} else {
		result->how = g->exit.reason == HAV_EXIT_INTERRUPTED ? ENDED_LATE : ENDED_STRANGELY;
		recover(g);
	}
	if (c->sets_base)
		get_bases(g, &result->state);
	memcpy(result->memory, page(g, DATA), RW_SIZE);
}
