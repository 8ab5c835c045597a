/*
 * Real mode: segments, interrupts through the vector table, address wrap, big segments, and the way
 * to protected mode and back from within.
 */
#include "arch.h"

#define REAL_CASE(id, ...) CASE(id, REAL, __VA_ARGS__)

/* --- Segments and addresses ---- */

REAL_CASE(base,
	  "movw $0x2001, %cx; movw %cx, %ds; movw $7, 0; movw $0x2000, %cx; movw %cx, %ds;"
	  "movw 0x10, %ax",
	  .rax = 7);
REAL_CASE(any_selector, "movw $0xffff, %cx; movw %cx, %ds; movw %ds, %ax", .rax = 0xffff);
REAL_CASE(offset_wraps, "movw $3, 0x10; movw $0xfff8, %bx; movw $0x18, %si; movw (%bx,%si), %ax",
	  .rax = 3);
REAL_CASE(limit_word, "movw 0xffff, %ax", .v = GP, .wrong_on = ANY_TCG);
REAL_CASE(limit_stack, "movw $0xffff, %bp;" HERE "movw (%bp), %ax", .v = SS, .wrong_on = ANY_TCG);
REAL_CASE(limit_32, "movl $0x10000, %ebx;" HERE "movb (%ebx), %al", .v = GP, .wrong_on = ANY_TCG);
REAL_CASE(push_wraps, "xorw %sp, %sp; pushw $5; movw %sp, %ax", .rax = 0xfffe);
REAL_CASE(push_sp, "movw $0x8000, %sp; pushw %sp; popw %ax", .rax = 0x8000);
REAL_CASE(pop_sp, "pushw $0x7ffe; popw %sp; movw %sp, %ax", .rax = 0x7ffe);
REAL_CASE(bp_is_stack, "movw $0x1234, %cx; movw $0x100, %bp; movw %cx, (%bp); movw %ss:0x100, %ax",
	  .rax = 0x1234);
REAL_CASE(address_32, "movl $0x100, %ebx; movw $6, 0x400; movw (,%ebx,4), %ax", .rax = 6);
REAL_CASE(operand_32, "movl $0x12345678, %ecx; movl %ecx, 0x20; movl 0x20, %eax",
	  .rax = 0x12345678);
REAL_CASE(high_halves_keep, "movl $0x11112222, %eax; movw $5, %ax", .rax = 0x11110005);
REAL_CASE(a20,
	  "movw $0xffff, %cx; movw %cx, %es; xorw %cx, %cx; movw %cx, %fs;"
	  "movl %es:0x10, %eax",
	  .rax = 0x1badb002); /* 0xffff0 + 0x10 is this image's beginning */
REAL_CASE(string_si_wraps,
	  "movw $0xfffe, %si; movw $0x100, %di; movw $2, %cx; movw $0x55, 0xfffe;"
	  "movw $0x66, 0; rep movsw; movw 0x102, %ax; shll $16, %eax; movw %si, %ax",
	  .rax = 0x660002);
REAL_CASE(string_es,
	  "movw $0x3000, %cx; movw %cx, %es; movw $0x40, %di; movw $9, %ax; stosw;"
	  "movw %es:0x40, %ax",
	  .rax = 9);
REAL_CASE(xlat, "movw $0x100, %bx; movb $0x77, 0x105; movb $5, %al; xlatb", .rax = 0x77);
REAL_CASE(lds, "movw $0x30, 0x10; movw $0x3456, 0x12; ldsw 0x10, %cx; movw %ds, %ax",
	  .rax = 0x3456);
REAL_CASE(loop, "movl $0x10002, %ecx; 1: incw %ax; loop 1b; shll $16, %eax; orl %ecx, %eax",
	  .rax = 0x30000);
REAL_CASE(jcxz, "movl $0x10000, %ecx; jcxz 1f; ud2; 1: movb $1, %al", .rax = 1);
REAL_CASE(pusha, "movw $0x1234, %di; pushaw; popw %ax", .rax = 0x1234);

/* --- Far transfers ---- */

REAL_CASE(ljmp,
	  "ljmp $0xfff, $(1f - code_ljmp + 16); 1: movw %cs, %ax; ljmp $0x1000,"
	  "$(2f - code_ljmp); 2:",
	  .rax = 0xfff);
REAL_CASE(lcall,
	  "lcall $0x1000, $(1f - code_lcall); orw $1, %ax; jmp 2f; 1: movw %sp, %ax; lretw;"
	  "2:",
	  .rax = STACK_TOP - 4 + 1);
REAL_CASE(lret_imm,
	  "pushw $7; pushw $6; pushw %cs; pushw $(1f - code_lret_imm); lretw $2;"
	  "1: popw %ax",
	  .rax = 7);
REAL_CASE(ljmp_indirect,
	  "movw $(1f - code_ljmp_indirect), 0; movw $0x1000, 2; ljmpw *0; ud2;"
	  "1: movb $1, %al",
	  .rax = 1);
REAL_CASE(ljmp_32, ".byte 0x66, 0xea; .long 1f - code_ljmp_32; .word 0x1000; ud2; 1: movb $2, %al",
	  .rax = 2);
REAL_CASE(jmp_past_limit, ".byte 0x66, 0xe9; .long 0x10000", .v = GP, .any_rip = true,
	  .wrong_on = ANY_TCG);

/* --- Interrupts ---- */

REAL_CASE(int_n, "int $0x42;" HERE, .v = 0x42);
REAL_CASE(int3, "int3;" HERE, .v = BP);
REAL_CASE(into, "movb $0x7f, %al; incb %al; into;" HERE, .v = OF, .rax = 0x80);
REAL_CASE(divide, "xorw %cx, %cx;" HERE "divw %cx", .v = DE);
REAL_CASE(divide_big, "movw $1, %dx; movw $1, %cx;" HERE "divw %cx", .v = DE);
REAL_CASE(bound, "movw $1, 0; movw $5, 2; movw $6, %ax;" HERE "boundw %ax, 0", .v = BR, .rax = 6);
REAL_CASE(undefined, "nop;" HERE ".byte 0x0f, 0xff, 0xc0", .v = UD);
REAL_CASE(arpl, ".byte 0x63, 0xc0", .v = UD);
REAL_CASE(lar, ".byte 0x0f, 0x02, 0xc0", .v = UD);
REAL_CASE(sldt, ".byte 0x0f, 0x00, 0xc0", .v = UD);
REAL_CASE(lldt, ".byte 0x0f, 0x00, 0xd0", .v = UD);
REAL_CASE(icebp, ".byte 0xf1;" HERE, .v = DB, .wrong_on = ANY_TCG);

/* The frame: FLAGS, CS, IP; IF and TF cleared in the handler, whose address is in the table. */
REAL_CASE(
	int_frame,
	"pushw $0; popw %es; movl %es:0x10c, %edx; movw $(1f - code_int_frame), %es:0x10c;"
	"movw $0x1000, %es:0x10e; pushw $0x246; popfw; int $0x43; 2: cli; jmp 3f;"
	"1: pushfw; popw %ax; andw $0x300, %ax; movw %sp, %bp; movw 4(%bp), %cx; andw $0x246, %cx;"
	"orw %cx, %ax; iretw; 3: movl %edx, %es:0x10c",
	.rax = 0x246);
REAL_CASE(iretl,
	  "pushl $0x40003; pushl $0x1000; pushl $(1f - code_iretl); iretl; 1: pushfl;"
	  "popl %eax",
	  .rax = 0x40003);
REAL_CASE(
	lidt_moves,
	"movw $0x1ff, 0; movl $0x22000, 2; sidtl 0x10; lidtl 0; pushw $0x2200;"
	"popw %es; movw $(1f - code_lidt_moves), %es:4*0x44; movw $0x1000, %es:4*0x44+2; int $0x44;"
	"1: movb $1, %al; lidtl 0x10",
	.rax = 1);
REAL_CASE(popf_iopl,
	  "pushw $0x7202; popfw; pushfw; popw %ax; cli; andw $0x7200, %ax; pushw $2; popfw",
	  .rax = 0x7200);

/* --- To protected mode and back ---- */

#define PE_ON  "movl %cr0, %ecx; orb $1, %cl; movl %ecx, %cr0;"
#define PE_OFF "movl %cr0, %ecx; andb $0xfe, %cl; movl %ecx, %cr0;"
REAL_CASE(big_real,
	  PE_ON "movw $0x10, %bx; movw %bx, %fs;" PE_OFF "movl $0x100000, %ebx;"
		"movl %fs:(%ebx), %eax",
	  .rax = 0x1badb002);
REAL_CASE(big_real_reload,
	  PE_ON "movw $0x10, %bx; movw %bx, %fs;" PE_OFF
		"movw $0x1000, %bx; movw %bx, %fs; movl $0xf0000, %ebx; movl %fs:(%ebx), %eax",
	  .rax = 0x1badb002);
REAL_CASE(pe_keeps_cs, PE_ON "movw $0x1234, %ax; nop;" PE_OFF "incw %ax", .rax = 0x1235);
REAL_CASE(pe_keeps_bases, "movw $0x99, 0x30;" PE_ON "movw 0x30, %ax;" PE_OFF, .rax = 0x99);
REAL_CASE(to_16_and_back,
	  "cli;" PE_ON "ljmp $0x58, $(1f - code_to_16_and_back); 1: movw $0x60, %bx;"
	  "movw %bx, %ds; movw $0xb8, %bx; movw %bx, %es;" PE_OFF "ljmp $0x1000, $(2f - "
	  "code_to_16_and_back); 2: movw %cs, %ax; movw $0x2000, %bx; movw %bx, %ds",
	  .rax = 0x1000);
REAL_CASE(lmsw_sets_pe, "smsw %ax; orw $1, %ax; lmsw %ax; smsw %ax; andl $1, %eax;" PE_OFF,
	  .rax = 1);
REAL_CASE(smsw, "smsw %ax; andl $1, %eax");
REAL_CASE(cr0_readable, "movl %cr0, %eax; andl $0x10, %eax", .rax = 0x10);
REAL_CASE(sgdt, "sgdtl 0x40; movzwl 0x40, %eax", .rax = GDT_SIZE - 1);
REAL_CASE(cpuid, "xorl %eax, %eax; cpuid; movl $1, %eax", .rax = 1);
REAL_CASE(hlt_less_mov_cr, "movl %cr4, %ecx; movl %ecx, %cr4");
REAL_CASE(lock_ud, HERE ".byte 0xf0; nop", .v = UD);
REAL_CASE(too_long, HERE ".rept 15; .byte 0x66; .endr; nop", .v = GP);
