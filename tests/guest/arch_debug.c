/*
 * Debugging and its relatives: single step over awkward instructions, breakpoint registers, general
 * detect, and the interrupt shadow of STI and MOV SS, for which the local APIC sends an interrupt
 * to this processor.
 */
#include "arch.h"

#define DR6_B0 1u
#define DR6_BD (1u << 13)
#define DR6_BS (1u << 14)
#define DR7(i, type, length) \
	(1u << (2 * (i)) | (type) << (16 + 4 * (i)) | ((length)-1u) << (18 + 4 * (i)) | 0x400)
enum { ON_EXEC, ON_WRITE, ON_IO, ON_ACCESS };
#define LENGTH_8 3 /* the code 2 */

/* --- Single step ---- */

/* Runs with TF set; after each step RIP must be the next of offsets, the last that of the end. */
static void step(enum mode mode, const uint8_t *code, const uint8_t *end, uint64_t flags,
		 const uint8_t *offsets, unsigned n)
{
	struct state s;

	state_init(&s, mode);
	code_load(code, end);
	s.rflags |= flags;
	s.rcx = 3;
	s.rsi = DATA_AT;
	s.rdi = DATA_AT + 64;
	for (unsigned i = 0; i < n; i++) {
		write_dr6(0xffff0ff0);
		run(&s, mode);
		if (!CHECK_EQUAL(s.vector, DB))
			return;
		CHECK_EQUAL(read_dr6() & 0xe00f, DR6_BS);
		if (!CHECK_EQUAL(s.rip - CODE_AT, offsets[i]))
			return;
	}
	run(&s, mode);
	CHECK_EQUAL(s.vector, END);
}
#define STEP(id, mode, flags, text, ...) STEP_BUT(id, 0, mode, flags, text, __VA_ARGS__)
#define STEP_BUT(id, wrong, mode, flags, text, ...)                                         \
	CODE(step_##id, mode, text);                                                        \
	TEST(step_##id, .wrong_on = wrong)                                                  \
	{                                                                                   \
		static const uint8_t offsets[] = { __VA_ARGS__ };                           \
		step(mode, code_step_##id, end_step_##id, flags, offsets, sizeof(offsets)); \
	}
STEP(plain, U64, FLAG_TF, "nop; nop; incl %eax", 1, 2, 4)
STEP(jump, U64, FLAG_TF, "jmp 1f; nop; 1: nop", 3, 4)
STEP(loop, U64, FLAG_TF, "1: nop; loop 1b", 1, 0, 1, 0, 1, 3)
/* Each iteration is a step; RIP stays until the last. */
STEP(rep, U64, FLAG_TF, "rep movsb; nop", 0, 0, 2, 3)
STEP(repe, U64, FLAG_TF, "repe cmpsb; nop", 0, 0, 2, 3)
/* POPF that clears TF is still stepped; that sets it takes effect after the next. */
STEP(popf_clears, U64, FLAG_TF, "pushq $2; popfq; nop; nop", 2, 3)
STEP(popf_sets, U64, 0, "pushq $0x102; popfq; nop; nop", 7, 8)
/* After MOV SS and POP SS the trap waits for one instruction more. */
STEP(mov_ss, K64, FLAG_TF, "movl %ss, %eax; movl %eax, %ss; nop; nop", 2, 5, 6)
STEP(pushf, U64, FLAG_TF, "pushfq; popq %rax", 1, 2)
/* STI holds up interrupts, not traps (SDM vol. 3 §6.8.3 speaks of MOV SS only). */
STEP_BUT(sti, ANY_TCG, K64, FLAG_TF, "cli; sti; nop; cli", 1, 2, 3, 4)
STEP(iret_sets, K64, 0,
     "leaq 1f(%rip), %rdx; pushq $0x10; pushq %rsp; pushq $0x102; pushq $8;"
     "pushq %rdx; iretq; 1: nop; nop",
     0x15, 0x16)
STEP(cpuid, U64, FLAG_TF, "cpuid; nop", 2, 3)
STEP(rdtsc, U64, FLAG_TF, "rdtsc; nop", 2, 3)
STEP(sse, U64, FLAG_TF, "xorps %xmm0, %xmm0; fninit; nop", 3, 5, 6)

CODE(step_int, U64, "int $0x40; nop");
TEST(step_int_clears, .wrong_on = PVM)
{
	struct state s;

	state_init(&s, U64);
	code_load(code_step_int, end_step_int);
	gate64(0x40, (uint64_t)&stubs64[16 * 0x40], CS64, 1, 0xe, 3);
	s.rflags |= FLAG_TF;
	run(&s, U64);
	CHECK_EQUAL(s.vector, 0x40);
	CHECK_EQUAL(s.rip, CODE_AT + 2);
	CHECK_EQUAL(s.rflags & FLAG_TF, FLAG_TF);
}

/* --- Breakpoint registers ---- */

static void break_on(uint64_t address, uint32_t dr7)
{
	write_dr0(address);
	write_dr6(0xffff0ff0);
	write_dr7(dr7);
}

#define WATCHED (DATA_AT + 0x10)
static void write_4(struct state *s)
{
	s->rbx = WATCHED;
	break_on(WATCHED, DR7(0, ON_WRITE, 4u));
}
static void access_2(struct state *s)
{
	s->rbx = WATCHED;
	break_on(WATCHED, DR7(0, ON_ACCESS, 2u));
}
static void write_8(struct state *s)
{
	s->rbx = WATCHED;
	break_on(WATCHED, DR7(0, ON_WRITE, LENGTH_8));
}
static void hit_0(const struct state *s)
{
	(void)s;
	CHECK_EQUAL(read_dr6() & 0xe00f, DR6_B0);
}
static void not_hit(const struct state *s)
{
	(void)s;
	CHECK_EQUAL(read_dr6() & 0xe000, 0);
}
#define HIT(id, mode, text, how, ...) \
	CASE(break_##id, mode, text, .v = DB, .setup = how, .check = hit_0, __VA_ARGS__)
#define MISS(id, mode, text, how) \
	CASE(break_##id, mode, text, .setup = how, .check = not_hit, .any_rax = true)
HIT(write, U64, "nop; movl %eax, (%rbx);" HERE "nop", write_4, );
HIT(write_last_byte, U64, "movb %al, 3(%rbx);" HERE "nop", write_4, );
HIT(write_overlaps, U64, "movq %rax, -7(%rbx);" HERE "nop", write_4, );
HIT(write_rmw, U64, "incl (%rbx);" HERE "nop", write_4, );
HIT(write_push, U64, "leaq 8(%rbx), %rsp; pushq %rax;" HERE "nop", write_4, );
HIT(write_string, U64, "movq %rbx, %rdi; subq $2, %rdi; movl $5, %ecx;" HERE "rep stosb; nop",
    write_4, .wrong_on = BOCHS);
HIT(write_sse, U64, "movups %xmm0, -8(%rbx);" HERE "nop", write_4, );
HIT(write_8_high, U64, "movb %al, 7(%rbx);" HERE "nop", write_8, );
HIT(access_read, U64, "movw (%rbx), %ax;" HERE "nop", access_2, );
HIT(access_write, K64, "movb %al, 1(%rbx);" HERE "nop", access_2, );
MISS(write_read, U64, "movl (%rbx), %eax", write_4);
MISS(write_before, U64, "movl %eax, -4(%rbx)", write_4);
MISS(write_after, U64, "movl %eax, 4(%rbx)", write_4);
MISS(access_after, U64, "movb 2(%rbx), %al", access_2);

static void exec_at_1(struct state *s)
{
	(void)s;
	break_on(CODE_AT + 1, DR7(0, ON_EXEC, 1u));
}
static void exec_at_1_rf(struct state *s)
{
	exec_at_1(s);
	s->rip++;
	s->rflags |= FLAG_RF;
}
static void exec_inside(struct state *s)
{
	(void)s;
	break_on(CODE_AT + 2, DR7(0, ON_EXEC, 1u));
}
static void io_at_80(struct state *s)
{
	write_cr4(CR4_HOST | CR4_DE);
	break_on(0x80, DR7(0, ON_IO, 1u));
	s->rflags |= IOPL(3);
}
static void general_detect(struct state *s)
{
	(void)s;
	write_dr6(0xffff0ff0);
	write_dr7(0x2400);
}
static void detected(const struct state *s)
{
	(void)s;
	CHECK_EQUAL(read_dr7() & 0x2000, 0);
	CHECK_EQUAL(read_dr6() & DR6_BD, DR6_BD);
}
HIT(exec, U64, "nop;" HERE "movl $1, %eax", exec_at_1, );
MISS(exec_rf, U64, "nop; nop; nop", exec_at_1_rf);
MISS(exec_inside, U64, "nop; movl $1, %eax", exec_inside);
HIT(io, U64, "outb %al, $0x80;" HERE "nop", io_at_80, .wrong_on = TESTBED | PVM);
MISS(io_other, U64, "outb %al, $0x81", io_at_80);
CASE(general_detect, K64, "nop;" HERE "movq %dr0, %rax", .v = DB, .setup = general_detect,
     .check = detected, .wrong_on = ANY_TCG);
CASE(dr4_alias, K64, "movq %dr6, %rcx; .byte 0x0f, 0x21, 0xe0; subl %ecx, %eax");

static void de_on(struct state *s)
{
	(void)s;
	write_cr4(CR4_HOST | CR4_DE);
}
CASE(dr4_de, K64, ".byte 0x0f, 0x21, 0xe0", .v = UD, .setup = de_on);
CASE(dr7_high, K64, "movabsq $0x100000400, %rcx;" HERE "movq %rcx, %dr7", .v = GP,
     .wrong_on = ANY_TCG);
CASE(dr_keeps, K64, "movq $0x1234567, %rcx; movq %rcx, %dr3; movq %dr3, %rax", .rax = 0x1234567);

TEST(break_resumes)
{
	struct state s;

	state_init(&s, U64);
	code_load(code_step_plain, end_step_plain);
	exec_at_1(&s);
	run(&s, U64);
	CHECK_EQUAL(s.vector, DB);
	s.rflags |= FLAG_RF;
	run(&s, U64);
	CHECK_EQUAL(s.vector, END);
	CHECK_EQUAL(s.rax, 1);
}

/* --- Interrupt shadow ---- */

#define APIC     0xfee00000
#define APIC_EOI (APIC + 0xb0)
#define APIC_SVR (APIC + 0xf0)
#define APIC_ICR (APIC + 0x300)
#define ICR_SELF 0x40000
#define ICR_BUSY 0x1000

static void interrupt_pending(struct state *s)
{
	(void)s;
	wrmsr(0x1b, rdmsr(0x1b) | 0x800);
	write32(APIC_SVR, 0x1ff);
	write32(APIC_ICR, ICR_SELF | IPI);
	while (read32(APIC_ICR) & ICR_BUSY)
		;
	for (unsigned i = 0; i < 100; i++)
		read32(APIC_SVR);
}
/* Takes the interrupt that is left, if any, so that the next case has none. */
static void interrupt_done(const struct state *s)
{
	struct state left;

	if (s->vector != IPI) {
		RUN(&left, step_sti, K64);
		CHECK_EQUAL(left.vector, IPI);
	}
	write32(APIC_EOI, 0);
}
#define SHADOW(id, text, ...)                                                             \
	CASE(shadow_##id, K64, text, .setup = interrupt_pending, .check = interrupt_done, \
	     __VA_ARGS__)
/* With an interrupt that cannot be taken, KVM in TCG ends the whole testbed. */
SHADOW(sti, "sti; nop;" HERE "nop; cli", .v = IPI);
SHADOW(sti_cli, "sti; cli; nop; nop", .wrong_on = TESTBED);
SHADOW(sti_sti, "sti; sti;" HERE "nop; nop; cli", .v = IPI);
SHADOW(sti_mov_ss, "movl %ss, %ecx; sti; movl %ecx, %ss; nop;" HERE "nop; cli", .v = IPI,
       .any_rip = true); /* whether one shadow follows another is the processor's choice */
SHADOW(popf, "pushq $0x202; popfq;" HERE "nop; nop; cli", .v = IPI);
SHADOW(hlt, "sti; hlt;" HERE "nop; cli", .v = IPI);
SHADOW(mov_cr8,
       "movl $15, %ecx; movq %rcx, %cr8; sti; nop; nop; nop; cli; xorl %ecx, %ecx;"
       "movq %rcx, %cr8",
       .wrong_on = TESTBED | BOCHS);
SHADOW(iret,
       "movq %rsp, %rcx; leaq 99f(%rip), %rdx; pushq $0x10; pushq %rcx; pushq $0x202; pushq $8;"
       "pushq %rdx; iretq;" HERE "nop; cli",
       .v = IPI);
