/*
 * diff-host: into a case and out of it, by a jump to EXIT or by a signal. host_context is a struct
 * context (host.c), which checks these offsets.
 */
#define GPR(n)      host_context + 8 * n(%rip)
#define RIP         host_context + 128(%rip)
#define RFLAGS      host_context + 136(%rip)
#define FS_BASE     host_context + 144(%rip)
#define GS_BASE     host_context + 152(%rip)
#define FX          host_context + 160(%rip)
#define OUR_FS_BASE host_context + 672(%rip)
#define OUR_RSP     host_context + 680(%rip)
#define OUR_RFLAGS  host_context + 688(%rip)
#define OUR_MXCSR   host_context + 696(%rip)
#define SIGNAL_FS   host_context + 704(%rip)
#define SIGNAL_GS   host_context + 712(%rip)

	.text
	.globl	host_enter, host_leave, host_resume, host_signal

host_enter:
	push	%rbx
	push	%rbp
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	mov	%rsp, OUR_RSP
	rdfsbase %rax
	mov	%rax, OUR_FS_BASE
	fxrstor64 FX
	mov	GS_BASE, %rax
	wrgsbase %rax
	mov	FS_BASE, %rax
	wrfsbase %rax
	push	RFLAGS
	popfq
	mov	GPR(0), %rax
	mov	GPR(1), %rcx
	mov	GPR(2), %rdx
	mov	GPR(3), %rbx
	mov	GPR(4), %rsp
	mov	GPR(5), %rbp
	mov	GPR(6), %rsi
	mov	GPR(7), %rdi
	mov	GPR(8), %r8
	mov	GPR(9), %r9
	mov	GPR(10), %r10
	mov	GPR(11), %r11
	mov	GPR(12), %r12
	mov	GPR(13), %r13
	mov	GPR(14), %r14
	mov	GPR(15), %r15
	jmp	*RIP

	/* From EXIT: MOV leaves the flags alone. */
host_leave:
	mov	%rax, GPR(0)
	mov	%rcx, GPR(1)
	mov	%rdx, GPR(2)
	mov	%rbx, GPR(3)
	mov	%rsp, GPR(4)
	mov	%rbp, GPR(5)
	mov	%rsi, GPR(6)
	mov	%rdi, GPR(7)
	mov	%r8, GPR(8)
	mov	%r9, GPR(9)
	mov	%r10, GPR(10)
	mov	%r11, GPR(11)
	mov	%r12, GPR(12)
	mov	%r13, GPR(13)
	mov	%r14, GPR(14)
	mov	%r15, GPR(15)
	mov	OUR_RSP, %rsp
	pushfq
	pop	RFLAGS
	push	OUR_RFLAGS
	popfq
	rdfsbase %rax
	mov	%rax, FS_BASE
	rdgsbase %rax
	mov	%rax, GS_BASE
	mov	OUR_FS_BASE, %rax
	wrfsbase %rax
	fxsave64 FX
	fninit
	ldmxcsr	OUR_MXCSR
	/* From a signal's handler. */
host_resume:
	mov	OUR_RSP, %rsp
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%rbp
	pop	%rbx
	ret

	/* A signal's handler: the kernel leaves AC and the segments as they were. */
host_signal:
	push	OUR_RFLAGS
	popfq
	rdfsbase %rax
	mov	%rax, SIGNAL_FS
	rdgsbase %rax
	mov	%rax, SIGNAL_GS
	mov	OUR_FS_BASE, %rax
	wrfsbase %rax
	sub	$8, %rsp
	call	host_signalled
	add	$8, %rsp
	mov	SIGNAL_FS, %rax
	wrfsbase %rax
	ret

	.section .note.GNU-stack, "", @progbits
