/*
 * Legacy protected mode, 16 and 32 bits, without paging: limits, segment types, gates, privilege
 * changes through the TSS, I/O permission, and the instructions long mode has lost.
 */
#include "arch.h"

/* TCG checks no limits and no types of segments on access: .wrong_on = ANY_TCG all over. */

static void segments(struct state *s)
{
	(void)s;
	set_free(0, descriptor(DATA_AT, 0xfff, 0x93, 4));     /* c0: bytes */
	set_free(1, descriptor(DATA_AT, 0xfff, 0x97, 4));     /* c8: expand-down, 32-bit */
	set_free(2, descriptor(DATA_AT, 0xfff, 0x97, 0));     /* d0: expand-down, 16-bit */
	set_free(3, descriptor(DATA_AT, 0xfff, 0x91, 4));     /* d8: read-only */
	set_free(4, descriptor(CODE_AT, 0xff, 0x99, 4));      /* e0: code, execute-only */
	set_free(5, descriptor(CODE_AT, 0xffff, 0x9f, 4));    /* e8: code, conforming, readable */
	set_free(6, descriptor(CODE_AT, 0x0f, 0x9b, 4));      /* f0: code, 16 bytes */
	set_free(7, descriptor(STACK_AT, 0x7fff, 0xf3, 4));   /* f8: a stack for CPL 3 */
	set_free(8, gate32(CODE_AT + 0x40, CS32, 0xc, 3, 2)); /* 100: call gate, 2 parameters */
	set_free(9, gate32(CODE_AT + 0x40, CS32, 0xc, 0, 0)); /* 108: call gate, DPL 0 */
	set_free(10, gate32(0x40, CS16, 0x4, 3, 1));          /* 110: 16-bit call gate */
	set_free(11,
		 descriptor(0, 0xfffff, 0x9b, 0xc) & ~(1ull << 47)); /* 118: code, not present */
	set_free(12, descriptor(STACK_AT, 0x7fff, 0x93, 0)); /* 120: a small stack, 16-bit */
	set_free(13, gate32(CODE_AT + 0x40, CS32 + 0x10, 0xc, 3, 0)); /* 128: gate to CPL 3 code */
	set_free(14, gate32(0, TSS32, 0x5, 3, 0));                    /* 130: a task gate */
	tss32.esp0 = STACK_AT + 0x8000;
}

#define PROT(id, mode, ...) CASE(id, mode, __VA_ARGS__, .setup = segments)

/* --- Limits and types ---- */

#define WITH_DS(sel) "movl $" sel ", %ecx; movl %ecx, %ds;"
PROT(base, P32, WITH_DS("0xc0") "movl $7, 0x10; movl %cs:0x20010, %eax", .rax = 7);
PROT(limit_last, P32, WITH_DS("0xc0") "movl 0xffc, %eax");
PROT(limit_past, P32, WITH_DS("0xc0") HERE "movl 0xffd, %eax", .v = GP, .wrong_on = ANY_TCG);
PROT(limit_wraps, P32, WITH_DS("0xc0") HERE "movl 0xffffffff, %eax", .v = GP, .wrong_on = ANY_TCG);
PROT(limit_write, P32, WITH_DS("0xc0") HERE "movw %ax, 0xfff", .v = GP, .wrong_on = ANY_TCG);
PROT(limit_16_bit, P16, "movw $0xc0, %cx; movw %cx, %ds;" HERE "movb 0x1000, %al", .v = GP,
     .wrong_on = ANY_TCG);
PROT(limit_string, P32,
     WITH_DS("0xc0") "movl $0xffa, %esi; movl $0x21000, %edi; movl $3, %ecx;" HERE "rep movsl",
     .v = GP, .wrong_on = ANY_TCG);
PROT(expand_down_in, P32, WITH_DS("0xc8") "movl 0x1000, %eax");
PROT(expand_down_out, P32, WITH_DS("0xc8") HERE "movl 0xfff, %eax", .v = GP, .wrong_on = ANY_TCG);
PROT(expand_down_16_in, P32, WITH_DS("0xd0") "movb 0xffff, %al", .any_rax = true);
PROT(expand_down_16_out, P32, WITH_DS("0xd0") HERE "movb 0x10000, %al", .v = GP,
     .wrong_on = ANY_TCG);
PROT(read_only_read, P32, WITH_DS("0xd8") "movl 0, %eax");
PROT(read_only_write, P32, WITH_DS("0xd8") HERE "movl %eax, 0", .v = GP, .wrong_on = ANY_TCG);
PROT(read_only_rmw, P32, WITH_DS("0xd8") HERE "orl %eax, 0", .v = GP, .wrong_on = ANY_TCG);
PROT(exec_only_read, P32, "ljmp $0xe0, $(1f - code_exec_only_read); 1:" HERE "movl %cs:0, %eax",
     .v = GP, .wrong_on = ANY_TCG, .any_rip = true);
PROT(code_write, P32, HERE "movl %eax, %cs:0x20000", .v = GP, .wrong_on = ANY_TCG);
PROT(null_read, P32, WITH_DS("0") HERE "movl 0x20000, %eax", .v = GP, .wrong_on = ANY_TCG);
PROT(null_write, Q32, WITH_DS("3") HERE "movb %al, 0x20000", .v = GP, .wrong_on = ANY_TCG);
PROT(stack_limit, Q32, "movl $0xfb, %ecx; movl %ecx, %ss; movl $0x9000, %esp;" HERE "pushl %eax",
     .v = SS, .wrong_on = ANY_TCG);
PROT(stack_limit_pop, Q32, "movl $0xfb, %ecx; movl %ecx, %ss; movl $0x7ffd, %esp;" HERE "popl %eax",
     .v = SS, .wrong_on = ANY_TCG);
PROT(stack_limit_ebp, Q32,
     "movl $0xfb, %ecx; movl %ecx, %ss; movl $0x8000, %ebp;" HERE "movb (%ebp), %al", .v = SS,
     .wrong_on = ANY_TCG);
PROT(code_limit_jump, P32,
     "ljmp $0xf0, $0x9; nop; nop; jmp 1f; .org code_code_limit_jump + 0x20; 1:", .any_rip = true,
     .v = GP, .wrong_on = ANY_TCG);
PROT(null_es_string, P32, "xorl %ecx, %ecx; movl %ecx, %es; movl $0x20000, %edi;" HERE "stosl",
     .v = GP, .wrong_on = ANY_TCG);
PROT(null_lea, P32, "xorl %ecx, %ecx; movl %ecx, %ds; leal 5, %eax", .rax = 5);
PROT(load_exec_only, P32, "movl $0xe0, %ecx;" HERE "movl %ecx, %es", .v = GP, .e = 0xe0);
PROT(load_np, P32, "movl $0x118, %ecx;" HERE "movl %ecx, %es", .v = NP, .e = 0x118);
PROT(load_ss_null, P32, "xorl %ecx, %ecx;" HERE "movl %ecx, %ss", .v = GP);
PROT(mov_ss_16, P16,
     "movw $0x120, %cx; movw %cx, %ss; movl $0x12346002, %esp; pushw $5; popl %ecx;"
     "movl %esp, %eax",
     .rax = 0x12346004);
PROT(stack_16_wraps, P16, "movl $0xabcd0000, %esp; pushw $0x55; movl %esp, %eax",
     .rax = 0xabcdfffe);
PROT(stack_16_enter, P16,
     "movl $0x11118000, %esp; movl $0x22222222, %ebp; enter $16, $0;"
     "movl %ebp, %eax; xorl %esp, %eax",
     .rax = 0x33335dee, .any_rax = true);

/* --- Operand and address sizes ---- */

PROT(address_16_in_32, P32,
     WITH_DS("0xc0") "movl $9, 0x20; movl $0x7fff0010, %ebx;"
		     "movl $0x10, %esi; addr16 movl (%bx,%si), %eax",
     .rax = 9);
PROT(address_16_wraps, P16,
     "movw $3, 0x10; movw $0xfff8, %bx; movw $0x18, %si; movw (%bx,%si), %ax", .rax = 3);
PROT(address_32_in_16, P16, "movl $4, 0x400; movl $0x100, %ebx; movl 0x0(,%ebx,4), %eax", .rax = 4);
PROT(loop_16, P16, "movl $0x10002, %ecx; 1: incl %eax; loop 1b; shll $20, %eax; orl %ecx, %eax",
     .rax = 0x210000);
PROT(loop_32_in_16, P16, "movl $2, %ecx; 1: incl %eax; addr32 loop 1b", .rax = 2);
PROT(jcxz, P32, "movl $0x10000, %ecx; jcxz 1f; ud2; 1: movl $1, %eax", .rax = 1);
PROT(pusha_32, P32,
     "movl $1, %eax; movl $2, %ecx; movl $8, %edi; pushal; movl 28(%esp), %eax;"
     "addl (%esp), %eax; movl 12(%esp), %edx; subl %esp, %edx; shll $8, %edx; orl %edx, %eax",
     .rax = 0x2009);
PROT(popa_32, P32,
     "pushl $1; pushl $2; pushl $3; pushl $4; pushl $99; pushl $6; pushl $7; pushl $8;"
     "popal; shll $4, %eax; orl %edi, %eax; shll $4, %eax; orl %ebx, %eax; shll $4, %eax;"
     "orl %ecx, %eax",
     .rax = 0x1842);
PROT(pusha_16, P32,
     "movl $0x1111, %eax; pushaw; popl %ecx; popl %ecx; popl %ecx; popl %eax;"
     "shrl $16, %eax",
     .rax = 0x1111);
PROT(push_fs_32_keeps, P32, "pushl $-1; popl %eax; pushl %fs; popl %eax; andl $0xffff, %eax",
     .rax = DS0);
PROT(enter_level_2, P32,
     "movl $0x3e000, %ebp; movl $0x77, -4(%ebp); enter $8, $2;"
     "movl %ebp, %eax; subl %esp, %eax; addl -4(%ebp), %eax; addl -8(%ebp), %eax;"
     "subl %ebp, %eax",
     .rax = 0x87);

/* --- Instructions long mode has lost ---- */

PROT(bound_in, P32,
     "movl $0x20000, %ebx; movl $-5, (%ebx); movl $9, 4(%ebx); movl $-5, %eax;"
     "boundl %eax, (%ebx); movl $9, %eax; boundl %eax, (%ebx)",
     .rax = 9);
PROT(bound_out, P32,
     "movl $0x20000, %ebx; movl $-5, (%ebx); movl $9, 4(%ebx); movl $10, %eax;" HERE
     "boundl %eax, (%ebx)",
     .v = BR, .rax = 10);
PROT(bound_16, P32,
     "movl $0x20000, %ebx; movl $0x00030001, (%ebx); movl $0x10000, %eax;" HERE
     "boundw %ax, (%ebx)",
     .v = BR, .rax = 0x10000);
PROT(into, Q32, "movb $0x80, %al; decb %al; into;" HERE, .v = OF, .rax = 0x7f);
PROT(les_fault_keeps, P32,
     "movl $0x20000, %ebx; movw $0x118, 4(%ebx); movl $3, %eax;" HERE "les (%ebx), %eax", .v = NP,
     .e = 0x118, .rax = 3);
PROT(lds_16, P16, "movw $0x1234, 0; movw $0x60, 2; lds 0, %ax", .rax = 0x1234);
PROT(salc, P32, "stc; .byte 0xd6", .rax = 0xff);

/* --- Far transfers and gates ---- */

PROT(ljmp_16, P32, "ljmp $0x58, $(1f - code_ljmp_16); .code16; 1: movw %cs, %ax; incw %ax",
     .rax = CS16 + 1, .any_rip = true, .v = UD);
PROT(ljmp_conforming, Q32,
     "ljmp $0xe8, $(1f - code_ljmp_conforming); 1: movl %cs, %eax;" HERE "cli", .rax = 0xeb,
     .v = GP, .any_rip = true);
PROT(ljmp_limit, P32, "ljmp $0xf0, $0x10", .v = GP);
PROT(ljmp_np, P32, "ljmp $0x118, $0x10000", .v = NP, .e = 0x118);
PROT(ljmp_data, P32, "ljmp $0x10, $0x10000", .v = GP, .e = 0x10);
PROT(lcall_lret, P32,
     "lcall $0x38, $(0x10000 + 1f - code_lcall_lret); incl %eax; jmp 2f;"
     "1: movl 4(%esp), %eax; lret; 2:",
     .rax = CS32 + 1);
PROT(lret_imm, P32,
     "pushl $9; pushl $8; pushl $7; pushl %cs; pushl $(0x10000 + 1f - code_lret_imm);"
     "lret $8; 1: popl %eax",
     .rax = 9);
PROT(lret_outer, P32,
     "pushl $0x53; pushl $0x3e000; pushl $0xaa; pushl $0x4b;"
     "pushl $(0x10000 + 1f - code_lret_outer); lret $4; 1: movl %esp, %eax; movl %ss, %ecx;"
     "addl %ecx, %eax",
     .rax = 0x3e004 + 0x53);
PROT(iret_outer, P32,
     "pushl $0x53; pushl $0x3e000; pushl $0x202; pushl $0x4b;"
     "pushl $(0x10000 + 1f - code_iret_outer); iretl; 1: movl %cs, %eax",
     .rax = 0x4b);
PROT(iret_ss_np, P32,
     "pushl $0x11b; pushl $0x3e000; pushl $2; pushl $0x4b; pushl $0x10000;" HERE "iretl", .v = GP,
     .e = 0x118);
PROT(int_dpl, Q32, "int $0x41", .v = GP, .e = 0x41 * 8 + 2);
PROT(popf_user, Q32, "pushl $0x3203; popfl", .flags = 3, .flags_mask = 0x3203);
PROT(popf_kernel, P32, "pushl $0x3003; popfl", .flags = 0x3003, .flags_mask = 0x3203);
PROT(popf_16, P32, "pushl $0x40000; popfl; pushw $1; popfw; pushfl; popl %eax", .rax = 0x40003);

/* Parameters are copied, the outer stack is on the inner one. */
static void gate_check(const struct state *s)
{
	const uint32_t *at = (const uint32_t *)(uint64_t)s->rsp;

	CHECK_EQUAL(s->rsp, STACK_AT + 0x8000 - 24);
	CHECK_EQUAL(at[5], DS3);
	CHECK_EQUAL(at[4], STACK_AT + STACK_TOP - 8);
	CHECK_EQUAL(at[3], 0x111);
	CHECK_EQUAL(at[2], 0x222);
	CHECK_EQUAL(at[1], CS32U);
	CHECK_EQUAL(at[0], CODE_AT + 17);
}
PROT(call_gate, Q32,
     "pushl $0x111; pushl $0x222; lcall $0x103, $0; nop; .org code_call_gate + 0x40;"
     "movl %cs, %eax",
     .rax = CS32, .check = gate_check);
PROT(call_gate_back, Q32,
     "pushl $0x111; pushl $0x222; lcall $0x103, $0; movl %esp, %eax; jmp 1f;"
     ".org code_call_gate_back + 0x40; lret $8; 1:",
     .rax = STACK_AT + STACK_TOP);
PROT(call_gate_dpl, Q32, "lcall $0x10b, $0", .v = GP, .e = 0x108);
PROT(jmp_gate_same, P32, "ljmp $0x108, $0; .org code_jmp_gate_same + 0x40; movl $1, %eax",
     .rax = 1);
PROT(jmp_gate_inner, Q32, "ljmp $0x103, $0", .v = GP, .e = CS32);
PROT(call_gate_16, Q32,
     "pushw $0x1234; lcall $0x113, $0; .org code_call_gate_16 + 0x40; .code16;"
     "movl %esp, %eax",
     .rax = STACK_AT + 0x8000 - 10, .any_rip = true, .v = UD);

/* The inner stack's selector is the TSS's fault; ring 1, so that the handler has a sound stack. */
static void ring_1(struct state *s, uint16_t ss1)
{
	segments(s);
	set_free(20, descriptor(0, 0xfffff, 0xbb, 0xc)); /* 160: code, DPL 1 */
	set_free(21, gate32(CODE_AT, 0x161, 0xc, 3, 0)); /* 168: a gate to it */
	set_free(22, descriptor(0, 0xfffff, 0x33, 0xc)); /* 170: data, DPL 1, not present */
	tss32.ss1 = ss1;
	tss32.esp1 = STACK_AT + 0x8000;
}
static void stack_rpl(struct state *s)
{
	ring_1(s, DS3);
}
static void stack_null(struct state *s)
{
	ring_1(s, 0);
}
static void stack_np(struct state *s)
{
	ring_1(s, 0x171);
}
CASE(ts_stack_rpl, Q32, "lcall $0x16b, $0", .v = TS, .e = 0x20, .setup = stack_rpl);
CASE(ts_stack_null, Q32, "lcall $0x16b, $0", .v = TS, .setup = stack_null);
CASE(ts_stack_np, Q32, "lcall $0x16b, $0", .v = SS, .e = 0x170, .setup = stack_np,
     .wrong_on = ANY_TCG);

/* --- Task switches ---- */

static struct tss32 other;
static void tasks(struct state *s)
{
	segments(s);
	memset(&other, 0, sizeof(other));
	other.eip = CODE_AT + 0x40;
	other.cs = CS32;
	other.ss = other.ds = other.es = other.fs = other.gs = DS0;
	other.esp = STACK_AT + 0x8000;
	other.eflags = 2;
	other.ecx = 0x1234;
	other.iomap = sizeof(other);
	set_free(16, descriptor((uint32_t)(uint64_t)&other, sizeof(other) - 1, 0x89, 0)); /* 140 */
	set_free(17, gate32(0, 0x140, 0x5, 3, 0)); /* 148: a task gate */
	idt32[0x43] = gate32(0, 0x140, 0x5, 3, 0);
}
static void task_jumped(const struct state *s)
{
	CHECK_EQUAL(gdt[0x140 / 8] >> 40 & 15, 0xb);
	CHECK_EQUAL(gdt[TSS32 / 8] >> 40 & 15, 9);
	CHECK_EQUAL(tss32.ebx, 0x99);
	CHECK_EQUAL(s->rsp, STACK_AT + 0x8000);
	CHECK_EQUAL(s->rbx, 0);
}
static void task_called(const struct state *s)
{
	CHECK_EQUAL(other.link, TSS32);
	CHECK_EQUAL(gdt[0x140 / 8] >> 40 & 15, 9);
	CHECK_EQUAL(gdt[TSS32 / 8] >> 40 & 15, 0xb);
	CHECK_EQUAL(s->rbx, 0x99);
}
CASE(task_jump, P32,
     "movl $0x99, %ebx; ljmp $0x140, $0; .org code_task_jump + 0x40; movl %ecx, %eax",
     .rax = 0x1234, .setup = tasks, .check = task_jumped);
CASE(task_call_iret, P32,
     "movl $0x99, %ebx; lcall $0x140, $0; movl $0x20000, %ecx; movl (%ecx), %eax;"
     "jmp 1f; .org code_task_call_iret + 0x40; pushfl; popl 0x20000; movl %ecx, %eax; iretl; 1:",
     .rax = 0x4002, .setup = tasks, .check = task_called);
CASE(task_gate, Q32,
     "movl $0x99, %ebx; lcall $0x14b, $0; movl 0x20000, %eax; jmp 1f;"
     ".org code_task_gate + 0x40; str 0x20000; iretl; 1:",
     .rax = 0x140, .setup = tasks, .check = task_called);
CASE(task_interrupt, P32,
     "movl $0x99, %ebx; int $0x43; movl 0x20000, %eax; jmp 1f;"
     ".org code_task_interrupt + 0x40; str 0x20000; iretl; 1:",
     .rax = 0x140, .setup = tasks, .check = task_called);
CASE(task_busy, P32, "ljmp $0x98, $0", .v = GP, .e = TSS32, .setup = tasks);
CASE(task_sets_ts, P32, "ljmp $0x140, $0; .org code_task_sets_ts + 0x40; smsw %ax; andl $8, %eax",
     .rax = 8, .setup = tasks);

/* --- SYSENTER and SYSEXIT ---- */

static void sysenter(struct state *s)
{
	(void)s;
	wrmsr(0x174, CS32);
	wrmsr(0x175, STACK_AT + 0x8000);
	wrmsr(0x176, CODE_AT + 0x40);
}
static void sysenter_check(const struct state *s)
{
	CHECK_EQUAL(s->cs, CS32);
	CHECK_EQUAL(s->ss, CS32 + 8);
	CHECK_EQUAL(s->rsp, STACK_AT + 0x8000);
}
CASE(sysenter, Q32, "sysenter; .org code_sysenter + 0x40; nop", .setup = sysenter,
     .check = sysenter_check, .flags = 0, .flags_mask = FLAG_IF);
CASE(sysenter_null, Q32, "sysenter", .v = GP);
CASE(sysexit, P32,
     "movl $0x3e000, %ecx; movl $(0x10000 + 1f - code_sysexit), %edx; sysexit;"
     "1: movl %cs, %eax; movl %ss, %ecx; shll $8, %eax; orl %ecx, %eax",
     .rax = 0x4b53, .setup = sysenter);
CASE(sysexit_user, Q32, "sysexit", .v = GP, .setup = sysenter);
CASE(sysexit_null, P32, "sysexit", .v = GP);

/* --- I/O permission ---- */

#define PORT 0x3fd /* COM1's line status: reading it changes nothing that matters here */

static void allow(struct state *s)
{
	segments(s);
	memset(tss32.bitmap, 0xff, sizeof(tss32.bitmap));
	tss32.iomap = __builtin_offsetof(struct tss32, bitmap);
	tss32.bitmap[PORT / 8] &= ~(1 << (PORT & 7));
}
static void short_map(struct state *s)
{
	allow(s);
	gdt[TSS32 / 8] = descriptor((uint32_t)(uint64_t)&tss32, tss32.iomap + PORT / 8, 0x89, 0);
}
static void high_iopl(struct state *s)
{
	s->rflags |= IOPL(3);
}
CASE(in_denied, Q32, "movl $0x3fd, %edx;" HERE "inb %dx, %al", .v = GP);
CASE(in_allowed, Q32, "movl $0x3fd, %edx; inb %dx, %al", .any_rax = true, .setup = allow);
CASE(in_neighbour, Q32, "movl $0x3fc, %edx;" HERE "inb %dx, %al", .v = GP, .setup = allow);
CASE(in_wide, Q32, "movl $0x3fc, %edx;" HERE "inw %dx, %ax", .v = GP, .setup = allow);
CASE(in_map_too_short, Q32, "movl $0x3fd, %edx;" HERE "inb %dx, %al", .v = GP, .setup = short_map);
CASE(in_iopl, Q32, "movl $0x3fd, %edx; inb %dx, %al", .any_rax = true, .setup = high_iopl);
CASE(out_denied, Q32, HERE "outb %al, $0x80", .v = GP);
CASE(ins_denied, Q32, "movl $0x3fc, %edx; movl $0x20000, %edi;" HERE "insb", .v = GP,
     .setup = allow);
CASE(cli_denied, Q32, "cli", .v = GP);
CASE(sti_iopl, Q32, "cli; nop", .setup = high_iopl);
CASE(hlt_iopl, Q32, "hlt", .v = GP, .setup = high_iopl);

/* --- Privileged instructions at CPL 3 ---- */

CASE(lgdt_user, Q32, "lgdt 0x20000", .v = GP);
CASE(mov_cr0_user, Q32, "movl %cr0, %eax", .v = GP);
CASE(mov_dr_user, Q32, "movl %dr0, %eax", .v = GP);
CASE(rdmsr_user, Q32, "rdmsr", .v = GP);
CASE(invlpg_user, Q32, "invlpg (%eax)", .v = GP);
CASE(clts_user, Q32, "clts", .v = GP);
CASE(lmsw_user, Q32, "lmsw %ax", .v = GP);
CASE(smsw_user, Q32, "smsw %eax; andl $1, %eax", .rax = 1);
CASE(sgdt_user, Q32, "sgdt 0x20000; movzwl 0x20000, %eax", .rax = GDT_SIZE - 1);
CASE(lmsw_cannot_clear_pe, P32, "smsw %ax; xorl $1, %eax; lmsw %ax; smsw %ax; andl $1, %eax",
     .rax = 1);
CASE(pg_without_pe, P32,
     "movl %cr0, %ecx; andl $~1, %ecx; orl $0x80000000, %ecx;" HERE "movl %ecx, %cr0", .v = GP,
     .wrong_on = ANY_TCG); /* hangs */
CASE(nw_without_cd, P32, "movl %cr0, %ecx; orl $0x20000000, %ecx;" HERE "movl %ecx, %cr0", .v = GP,
     .wrong_on = ANY_TCG);
