/*
 * Where an arch guest begins, and its ways between the worlds; see arch.h. The image is 64-bit
 * code in a 32-bit ELF file: _start is entered as start.S is, and goes to long mode.
 *
 * enter_long(), enter_prot() and enter_real() load a whole struct state and run it until an
 * exception or interrupt of any kind; that fills the same struct and returns to the caller in long
 * mode. It is like running a virtual machine, made of nothing but IRET and gates.
 */
#include "arch_asm.h"

	.section .multiboot, "a"
	.balign 4
	.long 0x1badb002
	.long 3
	.long -(0x1badb002 + 3)

	.section .note.Xen, "a", @note
	.balign 4
	.long 4
	.long 4
	.long 18 /* XEN_ELFNOTE_PHYS32_ENTRY */
	.asciz "Xen"
	.long _start

	.text
	.code32
	.globl _start
_start:
	movl %eax, boot_state + 0
	movl %ebx, boot_state + 4
	movl $stack_top, %esp
	cld
	/* The first 4 GiB, one to one, in pages of 2 MiB. */
	movl $(pd + 7), pdpt
	movl $(pd + 0x1000 + 7), pdpt + 8
	movl $(pd + 0x2000 + 7), pdpt + 16
	movl $(pd + 0x3000 + 7), pdpt + 24
	movl $(pdpt + 7), pml4
	movl $0x83, %eax
	movl $pd, %edi
1:	movl %eax, (%edi)
	addl $8, %edi
	addl $0x200000, %eax
	jnc 1b
	lgdt gdtr
	call long_on
	ljmp $CS64, $2f
	.code64
2:	movl $DS0, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	movl $stack_top, %esp
	call rt_start

	.code32
/* 32-bit protected mode without paging to compatibility mode at CPL 0. */
	.globl long_on
long_on:
	movl $CR4_HOST, %eax
	movl %eax, %cr4
	movl $pml4, %eax
	movl %eax, %cr3
	movl $MSR_EFER, %ecx
	rdmsr
	orl $EFER_LME, %eax
	wrmsr
	movl $CR0_HOST, %eax
	movl %eax, %cr0
	ret

/* --- Long mode ---- */

	.code64
	.macro save_host
	pushq %rbx
	pushq %rbp
	pushq %r12
	pushq %r13
	pushq %r14
	pushq %r15
	movq %rsp, host_rsp
	movq %rdi, current
	.endm

	.globl enter_long
enter_long:
	save_host
	pushq S_SS(%rdi)
	pushq S_RSP(%rdi)
	pushq S_RFLAGS(%rdi)
	pushq S_CS(%rdi)
	pushq S_RIP(%rdi)
	movl S_FS(%rdi), %eax
	movl %eax, %fs
	movl S_GS(%rdi), %eax
	movl %eax, %gs
	movl S_ES(%rdi), %eax
	movl %eax, %es
	movl S_DS(%rdi), %eax
	movl %eax, %ds
	movq S_RAX(%rdi), %rax
	movq S_RBX(%rdi), %rbx
	movq S_RCX(%rdi), %rcx
	movq S_RDX(%rdi), %rdx
	movq S_RSI(%rdi), %rsi
	movq S_RBP(%rdi), %rbp
	movq S_R8(%rdi), %r8
	movq S_R9(%rdi), %r9
	movq S_R10(%rdi), %r10
	movq S_R11(%rdi), %r11
	movq S_R12(%rdi), %r12
	movq S_R13(%rdi), %r13
	movq S_R14(%rdi), %r14
	movq S_R15(%rdi), %r15
	movq S_RDI(%rdi), %rdi
	.globl enter_long_iret
enter_long_iret:
	iretq

	.macro has_error vector
	.set has_error_code, (\vector == 8 || (\vector >= 10 && \vector <= 14) || \vector == 17)
	.endm

	.balign 16
	.globl stubs64
stubs64:
	.set vector, 0
	.rept 256
	.balign 16
	has_error vector
	.if !has_error_code
	pushq $0
	.endif
	pushq $vector
	jmp common64
	.set vector, vector + 1
	.endr

common64:
	pushq %rax
	movq current, %rax
	movq %rbx, S_RBX(%rax)
	movq %rcx, S_RCX(%rax)
	movq %rdx, S_RDX(%rax)
	movq %rsi, S_RSI(%rax)
	movq %rdi, S_RDI(%rax)
	movq %rbp, S_RBP(%rax)
	movq %r8, S_R8(%rax)
	movq %r9, S_R9(%rax)
	movq %r10, S_R10(%rax)
	movq %r11, S_R11(%rax)
	movq %r12, S_R12(%rax)
	movq %r13, S_R13(%rax)
	movq %r14, S_R14(%rax)
	movq %r15, S_R15(%rax)
	popq S_RAX(%rax)
	popq S_VECTOR(%rax)
	popq S_ERROR(%rax)
	popq S_RIP(%rax)
	popq S_CS(%rax)
	popq S_RFLAGS(%rax)
	popq S_RSP(%rax)
	popq S_SS(%rax)
	movl %ds, %ecx
	movq %rcx, S_DS(%rax)
	movl %es, %ecx
	movq %rcx, S_ES(%rax)
	movl %fs, %ecx
	movq %rcx, S_FS(%rax)
	movl %gs, %ecx
	movq %rcx, S_GS(%rax)
	movq %cr2, %rcx
	movq %rcx, S_CR2(%rax)
return64:
	movl $DS0, %eax
	movl %eax, %ss
	movl %eax, %ds
	movl %eax, %es
	movq host_rsp, %rsp
	pushq $2
	popfq
	popq %r15
	popq %r14
	popq %r13
	popq %r12
	popq %rbp
	popq %rbx
	ret

/* --- Legacy protected mode: legacy_cr0, _cr3 and _cr4 say how ---- */

	.globl enter_prot
enter_prot:
	save_host
	pushq $CS32
	pushq $long_off
	lretq

	.code32
long_off:
	movl $DS0, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	movl $prot_stack_top, %esp
	movl $(CR0_HOST & 0x7fffffff), %eax
	movl %eax, %cr0
	movl $MSR_EFER, %ecx
	rdmsr
	andl $~EFER_LME, %eax
	wrmsr
	movl legacy_cr4, %eax
	movl %eax, %cr4
	movl legacy_cr3, %eax
	movl %eax, %cr3
	cmpb $0, legacy_real
	jne to_real
	movl legacy_cr0, %eax
	movl %eax, %cr0
	jmp 1f
1:	lidt idtr32
	andb $~2, gdt + TSS32 + 5
	movl $TSS32, %eax
	ltr %ax
	movl current, %ebx
	testb $3, S_CS(%ebx)
	jnz 2f
	lss S_RSP_SS(%ebx), %esp
	jmp 3f
2:	pushl S_SS(%ebx)
	pushl S_RSP(%ebx)
3:	pushl S_RFLAGS(%ebx)
	pushl S_CS(%ebx)
	pushl S_RIP(%ebx)
	pushl S_DS(%ebx)
	pushl S_RBX(%ebx)
	movl S_FS(%ebx), %eax
	movl %eax, %fs
	movl S_GS(%ebx), %eax
	movl %eax, %gs
	movl S_ES(%ebx), %eax
	movl %eax, %es
	movl S_RAX(%ebx), %eax
	movl S_RCX(%ebx), %ecx
	movl S_RDX(%ebx), %edx
	movl S_RSI(%ebx), %esi
	movl S_RDI(%ebx), %edi
	movl S_RBP(%ebx), %ebp
	popl %ebx
	popl %ds
	iretl

	.balign 16
	.globl stubs32
stubs32:
	.set vector, 0
	.rept 256
	.balign 16
	has_error vector
	.if !has_error_code
	pushl $0
	.endif
	pushl $vector
	jmp common32
	.set vector, vector + 1
	.endr

/* Whatever the stack is, pop goes from it to flat memory. */
common32:
	pushl %ebx
	pushl %ds
	movl $DS0, %ebx
	movl %ebx, %ds
	movl current, %ebx
	popl S_DS(%ebx)
	popl S_RBX(%ebx)
	popl S_VECTOR(%ebx)
	popl S_ERROR(%ebx)
	popl S_RIP(%ebx)
	popl S_CS(%ebx)
	popl S_RFLAGS(%ebx)
	movl %eax, S_RAX(%ebx)
	movl %ecx, S_RCX(%ebx)
	movl %edx, S_RDX(%ebx)
	movl %esi, S_RSI(%ebx)
	movl %edi, S_RDI(%ebx)
	movl %ebp, S_RBP(%ebx)
	andl $0xffff, S_CS(%ebx)
	andl $0xffff, S_DS(%ebx)
	testb $3, S_CS(%ebx)
	jnz 1f
	movl %esp, S_RSP(%ebx)
	movl %ss, %eax
	movl %eax, S_SS(%ebx)
	jmp 2f
1:	popl S_RSP(%ebx)
	popl S_SS(%ebx)
	andl $0xffff, S_SS(%ebx)
2:	movl %es, %eax
	movl %eax, S_ES(%ebx)
	movl %fs, %eax
	movl %eax, S_FS(%ebx)
	movl %gs, %eax
	movl %eax, S_GS(%ebx)
	movl %cr2, %eax
	movl %eax, S_CR2(%ebx)
	.globl legacy_back
legacy_back:
	movl $DS0, %eax
	movl %eax, %ss
	movl %eax, %ds
	movl $prot_stack_top, %esp
	movl $(CR0_HOST & 0x7fffffff), %eax
	movl %eax, %cr0
	call long_on
	lgdt gdtr
	lidt idtr64
	andb $~2, gdt + TSS64 + 5
	movl $TSS64, %eax
	ltr %ax
	ljmp $CS64, $return64

/* --- Real mode: trampoline is copied to TRAMPOLINE, the state lies at REAL_STATE ---- */

#define LOW(label) (label - trampoline + TRAMPOLINE)
to_real:
	lidt real_idtr
	ljmp $RCS16, $LOW(real_in)

	.globl trampoline, trampoline_end, real_common, real_idtr
trampoline:
	.code16
real_in:
	movw $RDS16, %ax
	movw %ax, %ds
	movw %ax, %es
	movw %ax, %fs
	movw %ax, %gs
	movw %ax, %ss
	movl $0x10, %eax /* CR0.ET only */
	movl %eax, %cr0
	ljmp $0, $LOW(1f)
1:	xorw %ax, %ax
	movw %ax, %ds
	movw $REAL_STATE, %bx
	movl S_RSP(%bx), %esp
	movw S_SS(%bx), %ss
	pushw S_RFLAGS(%bx)
	pushw S_CS(%bx)
	pushw S_RIP(%bx)
	movw S_ES(%bx), %es
	movw S_FS(%bx), %fs
	movw S_GS(%bx), %gs
	movl S_RAX(%bx), %eax
	movl S_RCX(%bx), %ecx
	movl S_RDX(%bx), %edx
	movl S_RSI(%bx), %esi
	movl S_RDI(%bx), %edi
	movl S_RBP(%bx), %ebp
	pushw S_DS(%bx)
	movl S_RBX(%bx), %ebx
	popw %ds
	iretw

/* From the stubs: vector, IP, CS and FLAGS are on whatever stack there is. */
real_common:
	pushl %ebx
	pushw %ds
	pushw $0
	popw %ds
	movw $REAL_STATE, %bx
	popw S_DS(%bx)
	popl S_RBX(%bx)
	popw S_VECTOR(%bx)
	popw S_RIP(%bx)
	popw S_CS(%bx)
	popw S_RFLAGS(%bx)
	movl %eax, S_RAX(%bx)
	movl %ecx, S_RCX(%bx)
	movl %edx, S_RDX(%bx)
	movl %esi, S_RSI(%bx)
	movl %edi, S_RDI(%bx)
	movl %ebp, S_RBP(%bx)
	movl %esp, S_RSP(%bx)
	movw %ss, S_SS(%bx)
	movw %es, S_ES(%bx)
	movw %fs, S_FS(%bx)
	movw %gs, S_GS(%bx)
	cli
	cld
	lgdtl LOW(low_gdtr)
	movl $0x11, %eax
	movl %eax, %cr0
	ljmpl $CS32, $legacy_back
low_gdtr:
	.word GDT_SIZE - 1
	.long gdt

/* An application processor starts here, with its number's stack; see arch_smp.c. */
	.balign 16
	.globl ap_trampoline
ap_trampoline:
	cli
	xorw %ax, %ax
	movw %ax, %ds
	lgdtl LOW(low_gdtr)
	movl $0x11, %eax
	movl %eax, %cr0
	ljmpl $CS32, $ap_start32
trampoline_end:

	.code32
ap_start32:
	movl $DS0, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	movl ap_stack, %esp
	call long_on
	ljmp $CS64, $1f
	.code64
1:	movl $DS0, %eax
	movl %eax, %ss
	movl %esp, %esp
	lidt idtr64
	call *ap_main
2:	cli
	hlt
	jmp 2b

	.data
	.balign 8
	.globl gdtr, idtr64, idtr32, legacy_cr0, legacy_cr3, legacy_cr4, legacy_real, ap_main, ap_stack
gdtr:	.word GDT_SIZE - 1
	.quad gdt
idtr64:	.word 0xfff
	.quad idt64
idtr32:	.word 0x7ff
	.long idt32
real_idtr: .word 0x3ff
	.long 0
	.balign 8
legacy_cr0: .long 0x11
legacy_cr3: .long 0
legacy_cr4: .long 0
ap_main: .quad 0
ap_stack: .long 0
legacy_real: .byte 0

	.balign 4096
	.globl pml4, pdpt, pd, gdt
pml4:	.skip 4096
pdpt:	.skip 4096
pd:	.skip 4096 * 4

#define SEG(base, limit, access, flags) \
	.word limit & 0xffff, base & 0xffff; \
	.byte base >> 16 & 0xff, access, flags << 4 | limit >> 16, base >> 24
gdt:	.quad 0
	SEG(0, 0xfffff, 0x9b, 0xa)	/* CS64 */
	SEG(0, 0xfffff, 0x93, 0xc)	/* DS0 */
	SEG(0, 0xfffff, 0xfb, 0xc)	/* CS32U */
	SEG(0, 0xfffff, 0xf3, 0xc)	/* DS3 */
	SEG(0, 0xfffff, 0xfb, 0xa)	/* CS64U */
	SEG(0, 0xfffff, 0xf3, 0xc)
	SEG(0, 0xfffff, 0x9b, 0xc)	/* CS32, and what SYSENTER and SYSEXIT take from it */
	SEG(0, 0xfffff, 0x93, 0xc)
	SEG(0, 0xfffff, 0xfb, 0xc)
	SEG(0, 0xfffff, 0xf3, 0xc)
	SEG(CODE_AT, 0xffff, 0x9b, 0)	/* CS16 */
	SEG(DATA_AT, 0xffff, 0x93, 0)	/* DS16 */
	SEG(STACK_AT, 0xffff, 0x93, 0)	/* SS16 */
	SEG(CODE_AT, 0xffff, 0xfb, 0)	/* CS16U */
	SEG(DATA_AT, 0xffff, 0xf3, 0)	/* DS16U */
	SEG(STACK_AT, 0xffff, 0xf3, 0)	/* SS16U */
	.quad 0, 0			/* TSS64 */
	.quad 0				/* TSS32 */
	.quad 0, 0			/* LDT */
	SEG(0, 0xffff, 0x9b, 0)		/* RCS16 */
	SEG(0, 0xffff, 0x93, 0)		/* RDS16 */
	.skip GDT_SIZE - 24 * 8

	.bss
	.balign 16
	.globl host_rsp, current, ist1_top
host_rsp: .skip 8
current: .skip 8
	.balign 16
	.skip 16384
stack_top:
	.skip 4096
prot_stack_top:
	.section .note.GNU-stack, "", @progbits
