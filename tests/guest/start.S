/*
 * Where a guest begins: multiboot-1 header (Multiboot Specification 0.6.96 §3.1), PVH entry note
 * (Xen docs/misc/pvh.pandoc), and an entry that serves both. Either way the processor is in 32-bit
 * protected mode with flat segments and no paging; EAX and EBX tell the two apart in rt.c.
 *
 * With PVH_ONLY there is no multiboot header: monitors that know both would take that.
 */
#define MULTIBOOT_MAGIC 0x1badb002
#define MULTIBOOT_FLAGS 0x00000003 /* page-aligned modules, memory information */
#define XEN_ELFNOTE_PHYS32_ENTRY 18

#ifndef PVH_ONLY
	.section .multiboot, "a"
	.balign 4
	.long MULTIBOOT_MAGIC
	.long MULTIBOOT_FLAGS
	.long -(MULTIBOOT_MAGIC + MULTIBOOT_FLAGS)
#endif

	.section .note.Xen, "a", @note
	.balign 4
	.long 4
	.long 4
	.long XEN_ELFNOTE_PHYS32_ENTRY
	.asciz "Xen"
	.long _start

	.text
	.globl _start
_start:
	movl %eax, boot_state + 0
	movl %ebx, boot_state + 4
	movl %ebp, boot_state + 8
	movl %cr0, %eax
	movl %eax, boot_state + 12
	movl %cr4, %eax
	movl %eax, boot_state + 16
	movl $stack_top, %esp
	pushfl
	popl %eax
	movl %eax, boot_state + 20
	movw %cs, boot_state + 24
	movw %ds, boot_state + 26
	movw %ss, boot_state + 28
	movw %es, boot_state + 30
	cld
	call rt_start

	.bss
	.balign 16
	.skip 16384
stack_top:
	.section .note.GNU-stack, "", @progbits
