/*
 * Exceptions: what is saved of each, restart of every kind of instruction after page faults, and
 * what comes of faults on the way to a handler.
 */
#include "arch.h"

/* --- Each vector ---- */

#define RF_SET   .flags = FLAG_RF, .flags_mask = FLAG_RF
#define RF_CLEAR .flags = 0, .flags_mask = FLAG_RF

/* Faults are saved with RF set, traps without (SDM vol. 3 §17.3.1.1). TCG saves none. */
CASE(div_zero, U64, "xorl %ecx, %ecx;" HERE "divl %ecx", .v = DE);
CASE(div_overflow, U64, "movl $1, %edx; movl $1, %ecx;" HERE "divl %ecx", .v = DE);
CASE(idiv_min, U64, "movl $0x80000000, %eax; cltd; movl $-1, %ecx;" HERE "idivl %ecx", .v = DE,
     .rax = 0x80000000);
CASE(idiv_64_min, U64, "movabsq $0x8000000000000000, %rax; cqto; movq $-1, %rcx;" HERE "idivq %rcx",
     .v = DE, .rax = 0x8000000000000000);
CASE(div_8_overflow, U64, "movl $0x200, %eax; movb $2, %cl;" HERE "divb %cl", .v = DE,
     .rax = 0x200);
CASE(aam_zero, U32, HERE ".byte 0xd4, 0", .v = DE);
CASE(fault_rf, U64, "nop;" HERE "ud2", .v = UD, RF_SET, .wrong_on = ANY_TCG);
CASE(trap_rf, U64, "int3;" HERE, .v = BP, RF_CLEAR);
CASE(ud2, U64, "nop;" HERE "ud2", .v = UD);
CASE(ud1, U64, HERE ".byte 0x0f, 0xb9, 0xc0", .v = UD);

static void ts_on(struct state *s)
{
	(void)s;
	write_cr0(CR0_HOST | CR0_TS);
}
static void em_on(struct state *s)
{
	(void)s;
	write_cr0((CR0_HOST | CR0_EM) & ~CR0_MP);
}
static void ts_only(struct state *s)
{
	(void)s;
	write_cr0((CR0_HOST | CR0_TS) & ~CR0_MP);
}
static void no_sse(struct state *s)
{
	(void)s;
	write_cr4(CR4_HOST & ~CR4_OSFXSR);
}
CASE(nm_x87, U64, "fnop", .v = NM, .setup = ts_on);
CASE(nm_sse, U64, "xorps %xmm0, %xmm0", .v = NM, .setup = ts_on);
CASE(nm_mmx, U64, "emms", .v = NM, .setup = ts_on, .wrong_on = ANY_TCG);
CASE(nm_fwait, U64, "fwait", .v = NM, .setup = ts_on);
CASE(nm_fwait_not, U64, "fwait", .setup = ts_only);
CASE(nm_fxsave, U64, "movl $0x20000, %ebx;" HERE "fxsave (%rbx)", .v = NM, .setup = ts_on);
CASE(nm_em, U64, "fnop", .v = NM, .setup = em_on);
CASE(em_sse, U64, "xorps %xmm0, %xmm0", .v = UD, .setup = em_on);
CASE(em_mmx, U64, "emms", .v = UD, .setup = em_on, .wrong_on = ANY_TCG);
CASE(no_osfxsr, U64, "xorps %xmm0, %xmm0", .v = UD, .setup = no_sse);
CASE(clts, K64, "clts; fnop", .setup = ts_on);

/* The x87's are told at the next waiting instruction. */
#define UNMASK "movl $0x20000, %ebx; fninit; movw $0x37b, (%rbx); fldcw (%rbx);"
CASE(mf, U64, UNMASK "fld1; fldz; fdivrp; movl $1, %eax;" HERE "fldz", .v = MF, .rax = 1,
     .wrong_on = ANY_TCG);
CASE(mf_fwait, U64, UNMASK "fld1; fldz; fdivrp; nop;" HERE "fwait", .v = MF);
CASE(mf_not_told_to_fnstsw, U64,
     UNMASK "fld1; fldz; fdivrp; fnstsw %ax; fnclex; andl $0x8084, %eax", .rax = 0x8084);
CASE(mf_fnop_waits, U64, UNMASK "fld1; fldz; fdivrp;" HERE "fnop", .v = MF, .wrong_on = ANY_TCG);
CASE(mf_mmx, U64, UNMASK "fld1; fldz; fdivrp;" HERE "paddb %mm0, %mm0", .v = MF,
     .wrong_on = ANY_TCG);

#define MXCSR_DIV                                                                        \
	"movl $0x20000, %ebx; movl $0x1d80, (%rbx); ldmxcsr (%rbx); xorps %xmm1, %xmm1;" \
	"movl $0x3f800000, %ecx; movd %ecx, %xmm0;"
static void no_xm(struct state *s)
{
	(void)s;
	write_cr4(CR4_HOST & ~CR4_OSXMMEXCPT);
}
static void mxcsr_back(const struct state *s)
{
	uint32_t mxcsr = 0x1f80, was;

	__asm__ volatile("stmxcsr %0" : "=m"(was));
	CHECK_EQUAL(was & 0x3f, s->vector == XM || s->vector == UD ? 4 : 0);
	__asm__ volatile("ldmxcsr %0" : : "m"(mxcsr));
}
CASE(xm, U64, MXCSR_DIV HERE "divss %xmm1, %xmm0", .v = XM, .check = mxcsr_back,
     .wrong_on = ANY_TCG);
CASE(xm_keeps_target, U64, MXCSR_DIV "divss %xmm1, %xmm0", .v = XM, .any_rip = true,
     .check = mxcsr_back, .wrong_on = ANY_TCG);
CASE(xm_without_support, U64, MXCSR_DIV HERE "divss %xmm1, %xmm0", .v = UD, .setup = no_xm,
     .check = mxcsr_back, .wrong_on = ANY_TCG);
CASE(ldmxcsr_reserved, U64, "movl $0x20000, %ebx; movl $0x10000, (%rbx);" HERE "ldmxcsr (%rbx)",
     .v = GP, .wrong_on = ANY_TCG);

static void align_checks(struct state *s)
{
	write_cr0(CR0_HOST | CR0_AM);
	s->rflags |= FLAG_AC;
	s->rbx = DATA_AT;
}
CASE(ac, U64, HERE "movl 1(%rbx), %eax", .v = AC, .setup = align_checks, .wrong_on = ANY_TCG);
CASE(ac_word_aligned, U64, "movw 2(%rbx), %ax", .setup = align_checks);
CASE(ac_8, U64, HERE "movq 4(%rbx), %rax", .v = AC, .setup = align_checks, .wrong_on = ANY_TCG);
CASE(ac_kernel, K64, "movl 1(%rbx), %eax", .setup = align_checks);
CASE(sse_unaligned, U64, "movl $0x20001, %ebx;" HERE "movaps (%rbx), %xmm0", .v = GP,
     .wrong_on = ANY_TCG);
CASE(sse_unaligned_op, U64, "movl $0x20008, %ebx;" HERE "paddb (%rbx), %xmm0", .v = GP,
     .wrong_on = ANY_TCG);
CASE(movups_unaligned, U64, "movl $0x20001, %ebx; movups (%rbx), %xmm0");
CASE(fxsave_unaligned, U64, "movl $0x20008, %ebx;" HERE "fxsave (%rbx)", .v = GP);
CASE(cmpxchg16b_unaligned, U64, "movl $0x20008, %ebx;" HERE "cmpxchg16b (%rbx)", .v = GP);

/* --- On the way to a handler ---- */

static void pf_gate_missing(struct state *s)
{
	(void)s;
	idt64[PF][0] &= ~(0x80ull << 40);
	low_page(DATA_AT, 0);
}
static void gp_gate_missing(struct state *s)
{
	(void)s;
	idt64[GP][0] &= ~(0x80ull << 40);
}
static void ud_gate_missing(struct state *s)
{
	(void)s;
	idt64[UD][0] &= ~(0x80ull << 40);
}
static void ud_stack_missing(struct state *s)
{
	(void)s;
	gate64(UD, CODE_AT, CS64, 3, 0xe, 0);
	tss64.ist[2] = DATA_AT + 0x800;
	low_page(DATA_AT, 0);
}
static void gp_stack_missing(struct state *s)
{
	(void)s;
	gate64(GP, CODE_AT, CS64, 3, 0xe, 0);
	tss64.ist[2] = DATA_AT + 0x800;
	low_page(DATA_AT, 0);
}
static void pf_stack_missing(struct state *s)
{
	ud_stack_missing(s);
	gate64(PF, CODE_AT, CS64, 3, 0xe, 0);
	gate64(UD, (uint64_t)&stubs64[16 * UD], CS64, 1, 0xe, 0);
}
static void ud_stack_noncanonical(struct state *s)
{
	(void)s;
	gate64(UD, CODE_AT, CS64, 3, 0xe, 0);
	tss64.ist[2] = 0x900000000000ull;
}
/* Two contributory faults, or a page fault and either, are one double fault (SDM vol. 3 §6.15). */
CASE(df_gp_np, U64, "cli", .v = DF, .setup = gp_gate_missing);
CASE(df_pf_np, U64, "movl $0x20000, %ebx;" HERE "movl (%rbx), %eax", .v = DF,
     .setup = pf_gate_missing);
CASE(df_pf_pf, U64, "movl $0x20000, %ebx;" HERE "movl (%rbx), %eax", .v = DF,
     .setup = pf_stack_missing);
CASE(ud_np_is_np, U64, "movl $1, %eax;" HERE ".byte 0x0f, 0xb9, 0xc0", .v = NP, .e = UD * 8 + 3,
     .rax = 1, .setup = ud_gate_missing, .wrong_on = ANY_TCG /* error code, as INT n */);
CASE(ud_pf_is_pf, U64, "movl $1, %eax;" HERE ".byte 0x0f, 0xb9, 0xc0", .v = PF, .e = 2,
     .cr2 = DATA_AT + 0x7f8, .rax = 1, .setup = ud_stack_missing);
/* #GP is contributory, but the page fault after it is served as such. */
CASE(gp_pf_is_pf, U64, HERE "cli", .v = PF, .e = 2, .cr2 = DATA_AT + 0x7f8,
     .setup = gp_stack_missing);
CASE(ud_ss_is_ss, U64, HERE ".byte 0x0f, 0xb9, 0xc0", .v = SS, .e = 1, .wrong_on = ANY_TCG | BOCHS,
     .setup = ud_stack_noncanonical);

/* --- Restart ---- */

#define PAGES 3

static uint8_t pattern(unsigned i)
{
	return i * 7 + (i >> 8) * 13 + 5;
}

static void restart_init(struct state *s, enum mode mode, const uint8_t *code, const uint8_t *end)
{
	for (unsigned i = 0; i < PAGES * 4096; i++)
		write8(DATA_AT + i, pattern(i));
	state_init(s, mode);
	code_load(code, end);
	s->rbx = DATA_AT + 0xffe;
	s->rsi = DATA_AT + 0xff0;
	s->rdi = DATA_AT + 0x1ff0;
	s->rcx = 0x20;
	s->rdx = 0x1234;
	s->rax = 0x55;
	s->rbp = DATA_AT + 0x1ffc;
	s->rsp = DATA_AT + 0x1004;
}

static uint32_t memory_sum(void)
{
	uint32_t sum = 0;

	for (unsigned i = 0; i < PAGES * 1024; i++)
		sum = (sum << 1 | sum >> 31) + read32(DATA_AT + 4 * i);
	return sum;
}

/* Once with all pages there; once with none, each given when it is missed. All must be the same. */
static void restart(enum mode mode, const uint8_t *code, const uint8_t *end)
{
	struct state plain, s;
	uint32_t sum, faults = 0;

	restart_init(&plain, mode, code, end);
	run(&plain, mode);
	sum = memory_sum();
	restart_init(&s, mode, code, end);
	for (unsigned i = 0; i < PAGES; i++)
		low_page(DATA_AT + i * 4096, 0);
	for (run(&s, mode); s.vector == PF && faults < 16; faults++) {
		CHECK_THAT(s.cr2 >= DATA_AT && s.cr2 < DATA_AT + PAGES * 4096);
		low_page(s.cr2, PTE_ALL);
		run(&s, mode);
	}
	for (unsigned i = 0; i < PAGES; i++)
		low_page(DATA_AT + i * 4096, PTE_ALL);
	CHECK_EQUAL(s.vector, END);
	CHECK_THAT(faults > 0);
	s.cr2 = plain.cr2;
	s.rflags = plain.rflags;
	CHECK_THAT(memcmp(&s, &plain, __builtin_offsetof(struct state, rsp_ss)) == 0);
	CHECK_EQUAL(memory_sum(), sum);
}
#define RESTART(id, mode, text)                                     \
	CODE(restart_##id, mode, text);                             \
	TEST(restart_##id)                                          \
	{                                                           \
		restart(mode, code_restart_##id, end_restart_##id); \
	}

RESTART(push, U64, "pushq %rcx; pushq %rdx; pushw %cx; pushq %rcx")
RESTART(push_mem, U64, "pushq (%rbx)")
RESTART(push_imm, U64, "pushq $-5")
RESTART(pop, U64, "subq $8, %rsp; popq %rax; popw %cx; popq %rdx")
RESTART(pop_mem, U64, "movl $0x20ff0, %esp; popq 8(%rbx); popq -4(%rbx)")
RESTART(pop_mem_rsp, U64, "popq (%rsp)")
RESTART(pushf, U64, "pushfq; popq %rax")
RESTART(popf, U64, "pushq $0x246; popfq")
RESTART(call, U64, "call 1f; 1: call 2f; 2: popq %rax")
RESTART(call_mem, U64,
	"leaq 1f(%rip), %rax; movq %rax, (%rbx); movl $0x22004, %esp; call *(%rbx); 1:")
RESTART(jmp_mem, U64, "leaq 1f(%rip), %rax; movq %rax, (%rbx); jmp *(%rbx); ud2; 1:")
RESTART(ret, U64,
	"leaq 1f(%rip), %rax; pushq %rax; ret; 1: leaq 2f(%rip), %rax; pushq %rax; ret $16; 2:")
RESTART(enter, U64, "enter $0x20, $0")
RESTART(enter_nested, U64, "enter $0x20, $3")
RESTART(leave, U64, "leave")
RESTART(movs, U64, "movsq; movsb")
RESTART(rep_movsb, U64, "movl $0x1000, %ecx; rep movsb")
RESTART(rep_movsq_down, U64,
	"std; movl $0x22e00, %edi; movl $0x21e00, %esi; movl $0x180, %ecx;"
	"rep movsq; cld")
RESTART(rep_movsw_crossing, U64, "incq %rsi; movl $0x7f0, %ecx; rep movsw")
RESTART(rep_stosq, U64, "movl $0x20f01, %edi; movl $0x300, %ecx; rep stosq")
RESTART(rep_stosb_down, U64, "std; movl $0x21005, %edi; rep stosb; cld")
RESTART(repe_cmpsb, U64, "movq %rsi, %rdi; repe cmpsb; pushfq; popq %rax")
RESTART(repe_cmpsl, U64, "movq %rsi, %rdi; addq $4, %rdi; repe cmpsl; pushfq; popq %rax")
RESTART(repne_scasb, U64,
	"movl $0x20fe0, %edi; movl $0x1801, %ecx; movb $0xaa, %al; repne scasb;"
	"pushfq; popq %rdx")
RESTART(rep_lodsb, U64, "rep lodsb")
RESTART(xchg, U64, "xchgl %eax, (%rbx); xchgb %al, 3(%rbx)")
RESTART(xadd, U64, "xaddq %rax, (%rbx)")
RESTART(cmpxchg, U64, "movl (%rbx), %eax; cmpxchgl %edx, (%rbx); cmpxchgl %ecx, 8(%rbx)")
RESTART(cmpxchg8b, U64, "xchgq %rbx, %rsi; cmpxchg8b 12(%rsi)")
RESTART(cmpxchg16b, U64, "xchgq %rbx, %rsi; cmpxchg16b 2(%rsi)")
RESTART(lock_add, U64, "lock; addq %rdx, -2(%rbx)")
RESTART(lock_crossing, U64, "lock; addq %rdx, (%rbx)")
RESTART(adc, U64, "stc; adcl %edx, (%rbx)")
RESTART(rcl, U64, "stc; rcll $5, (%rbx)")
RESTART(shrd, U64, "shrdl %cl, %edx, (%rbx)")
RESTART(bts_far, U64,
	"movl $0x9003, %ecx; btsl %ecx, (%rbx); movl $-77, %edx; movslq %edx, %rdx;"
	"btcq %rdx, (%rbx)")
RESTART(mul_div, U64, "mull (%rbx); movl $1, %edx; divl -8(%rbx)")
RESTART(xlat, U64, "xlatb")
RESTART(not, U64, "notq (%rbx); negw 0x800(%rbx)")
RESTART(mov_seg, U64, "movw $0x23, (%rbx); movw (%rbx), %fs; movw %fs, 8(%rbx)")
RESTART(lar, U64, "movw $0x23, (%rbx); lar (%rbx), %eax")
RESTART(smsw, U64, "smsw (%rbx)")
RESTART(fxsave, U64, "fninit; movl $0x20f00, %ebx; fxsave (%rbx); fxrstor (%rbx)")
RESTART(fsave, U64, "fninit; fldpi; fnsave -0x20(%rbx); frstor -0x20(%rbx); fstpt -5(%rbx); fninit")
RESTART(fldenv, U64, "fninit; fnstenv -0x10(%rbx); fldenv -0x10(%rbx)")
RESTART(fild, U64, "fninit; fildll (%rbx); fistpll 16(%rbx); fninit")
RESTART(fbstp, U64, "fninit; fld1; fbstp -3(%rbx); fninit")
RESTART(movdqu, U64, "movdqu -4(%rbx), %xmm0; movdqu %xmm0, -3(%rbx); pxor %xmm0, %xmm0")
RESTART(movaps, U64, "movaps -14(%rbx), %xmm1; movaps %xmm1, 2(%rbx); movmskps %xmm1, %eax")
RESTART(movnti, U64, "movnti %eax, (%rbx)")
RESTART(iret, K64,
	"movl $0x21008, %esp; pushq $0x10; pushq $0x22000; pushq $0x246; pushq $8;"
	"leaq 1f(%rip), %rax; pushq %rax; iretq; 1: cli")
RESTART(lgdt, K64, "movw $0x1ff, (%rbx); movq $gdt, 2(%rbx); lgdt (%rbx)")
RESTART(lret, K64, "pushq $8; leaq 1f(%rip), %rax; pushq %rax; lretq; 1:")
RESTART(pusha, U32, "pushal; popal; pushaw")
RESTART(les, U32, "movl $0x23, 4(%ebx); movl $1, (%ebx); les (%ebx), %eax")
RESTART(bound, U32, "movl $0, (%ebx); movl $0x100, 4(%ebx); bound %eax, (%ebx)")
RESTART(push_es, U32, "pushl %es; popl %es")

/* A REP that faults has done what was before, and says where it is. */
TEST(rep_state_at_fault)
{
	struct state s;

	restart_init(&s, U64, code_restart_rep_movsb, end_restart_rep_movsb);
	low_page(DATA_AT + 0x2000, 0);
	run(&s, U64);
	CHECK_EQUAL(s.vector, PF);
	CHECK_EQUAL(s.error, 6);
	CHECK_EQUAL(s.cr2, DATA_AT + 0x2000);
	CHECK_EQUAL(s.rdi, DATA_AT + 0x2000);
	CHECK_EQUAL(s.rsi, DATA_AT + 0x1000);
	CHECK_EQUAL(s.rcx, 0x1000 - 0x10);
	CHECK_EQUAL(s.rip, CODE_AT + 5);
}
