/*
 * Long mode's segments and control transfers: segment loads with every fault, descriptor
 * inspection, far transfers, gates, IRET, SYSCALL, bases, canonical addresses.
 */
#include "arch.h"

#define CANONICAL_END 0x0000800000000000ull
#define TRAPS(vector) ((vector)*8 + 2) /* error code of a fault in an IDT entry */

/* Descriptors that something is wrong with, or that are of a rarer kind. */
static void descriptors(struct state *s)
{
	uint32_t ldt = (uint32_t)(uint64_t)(gdt + (FREE + 0x90) / 8);

	(void)s;
	set_free(0, descriptor(0, 0xfffff, 0x13, 0xc));  /* c0: data, not present */
	set_free(1, descriptor(0, 0xfffff, 0x99, 0xa));  /* c8: code, execute-only */
	set_free(2, descriptor(0, 0xfffff, 0xf1, 0xc));  /* d0: data, read-only, DPL 3 */
	set_free(3, descriptor(0, 0xfffff, 0x91, 0xc));  /* d8: data, read-only */
	set_free(4, descriptor(0, 0xfffff, 0x9e, 0xc));  /* e0: code, conforming, readable */
	set_free(5, descriptor(ldt, 0xf, 0x82, 0));      /* e8: an LDT */
	set_free(6, 0);                                  /* f0: its upper half */
	set_free(7, descriptor(0, 0xfffff, 0x9b, 0xe));  /* f8: code, L and D */
	set_free(8, descriptor(0, 0xfffff, 0x1b, 0xa));  /* 100: code, not present */
	set_free(9, descriptor(0x1000, 0xff, 0x92, 4));  /* 108: data, base, byte limit, fresh */
	set_free(10, descriptor(0, 0xfffff, 0xf2, 0xc)); /* 110: data, DPL 3, fresh */
	call_gate64(11, CODE_AT, CS64, 3);               /* 118: call gate, DPL 3 */
	call_gate64(13, CODE_AT, CS64, 0);               /* 128: call gate, DPL 0 */
	set_free(15, descriptor(0, 0xfffff, 0x81, 0));   /* 138: 16-bit TSS, none in long mode */
	set_free(16, 0);
	set_free(17, gate32(CODE_AT, CS64, 0xe, 3, 0));    /* 148: an interrupt gate */
	set_free(18, descriptor(DATA_AT, 0xfff, 0xf2, 4)); /* 150: also the LDT's first */
	set_free(19, descriptor(0, 0xfffff, 0xfa, 0xa));   /* 158: 64-bit code, DPL 3 */
	set_free(20, descriptor(0, 0xfffff, 0x02, 0));     /* 160: an LDT, not present */
	set_free(21, 0);
}

#define SEG_CASE(id, mode, ...) CASE(id, mode, __VA_ARGS__, .setup = descriptors)

/* --- Loading segment registers ---- */

SEG_CASE(mov_ds_null, K64, "movl $3, %ecx; movl %ecx, %ds; movl %ds, %eax", .rax = 3);
SEG_CASE(mov_ds_data, K64, "movl $0x108, %ecx; movl %ecx, %ds; movl %ds, %eax", .rax = 0x108);
SEG_CASE(mov_ds_np, K64, "movl $0xc0, %ecx;" HERE "movl %ecx, %ds", .v = NP, .e = 0xc0);
SEG_CASE(mov_ds_exec_only, K64, "movl $0xc8, %ecx;" HERE "movl %ecx, %ds", .v = GP, .e = 0xc8);
SEG_CASE(mov_ds_system, K64, "movl $0xe8, %ecx;" HERE "movl %ecx, %ds", .v = GP, .e = 0xe8);
SEG_CASE(mov_ds_past_limit, K64, "movl $0x208, %ecx;" HERE "movl %ecx, %ds", .v = GP, .e = 0x208);
SEG_CASE(mov_ds_no_ldt, K64, "movl $0x0f, %ecx;" HERE "movl %ecx, %ds", .v = GP, .e = 0x0c);
SEG_CASE(mov_ds_rpl, K64, "movl $0x13, %ecx;" HERE "movl %ecx, %ds", .v = GP, .e = 0x10);
SEG_CASE(mov_ds_conforming, U64, "movl $0xe3, %ecx; movl %ecx, %ds; movl %ds, %eax", .rax = 0xe3);
SEG_CASE(mov_ds_cpl, U64, "movl $0x10, %ecx;" HERE "movl %ecx, %ds", .v = GP, .e = 0x10);
SEG_CASE(mov_ds_user_ro, U64, "movl $0xd3, %ecx; movl %ecx, %ds; movl %ds, %eax", .rax = 0xd3);
SEG_CASE(mov_ds_fault_keeps, K64,
	 "movl $0x108, %eax; movl %eax, %ds; movl $0xc0, %ecx;" HERE "movl %ecx, %ds", .v = NP,
	 .e = 0xc0, .rax = 0x108);
SEG_CASE(mov_fs_np, K64, "movl $0xc0, %ecx;" HERE "movl %ecx, %fs", .v = NP, .e = 0xc0);
SEG_CASE(mov_ss_null, K64, "xorl %ecx, %ecx; movl %ecx, %ss; movl %ss, %eax; pushq $5; popq %rax",
	 .rax = 5);
SEG_CASE(mov_ss_null_user, U64, "movl $3, %ecx;" HERE "movl %ecx, %ss", .v = GP);
SEG_CASE(mov_ss_null_compat, K32, "xorl %ecx, %ecx;" HERE "movl %ecx, %ss", .v = GP);
SEG_CASE(mov_ss_ro, K64, "movl $0xd8, %ecx;" HERE "movl %ecx, %ss", .v = GP, .e = 0xd8);
SEG_CASE(mov_ss_np, K64, "movl $0xc0, %ecx;" HERE "movl %ecx, %ss", .v = SS, .e = 0xc0);
SEG_CASE(mov_ss_code, K64, "movl $0x08, %ecx;" HERE "movl %ecx, %ss", .v = GP, .e = 0x08);
SEG_CASE(mov_ss_dpl, K64, "movl $0x20, %ecx;" HERE "movl %ecx, %ss", .v = GP, .e = 0x20);
SEG_CASE(mov_ss_rpl, K64, "movl $0x13, %ecx;" HERE "movl %ecx, %ss", .v = GP, .e = 0x10);
SEG_CASE(mov_ss_user_dpl0, U64, "movl $0x13, %ecx;" HERE "movl %ecx, %ss", .v = GP, .e = 0x10);
SEG_CASE(mov_cs, K64, "movl $8, %ecx;" HERE ".byte 0x8e, 0xc9", .v = UD);
SEG_CASE(mov_to_seg_6, K64, ".byte 0x8e, 0xf1", .v = UD);
SEG_CASE(mov_from_seg_7, K64, ".byte 0x8c, 0xf9", .v = UD);
SEG_CASE(mov_from_ds_16, K64, "movl $-1, %eax; movw %ds, %ax", .rax = 0xffff0010);
SEG_CASE(mov_from_ds_32, K64, "movq $-1, %rax; movl %ds, %eax", .rax = 0x10);
SEG_CASE(mov_from_ds_64, K64, "movq $-1, %rax; movq %ds, %rax", .rax = 0x10);
SEG_CASE(pop_fs, K64, "pushq $0x108; popq %fs; movl %fs, %eax", .rax = 0x108);

static void rsp_kept(const struct state *s)
{
	CHECK_EQUAL(s->rsp, STACK_AT + STACK_TOP - 8);
}
SEG_CASE(pop_gs_np, K64, "pushq $0xc0;" HERE "popq %gs", .v = NP, .e = 0xc0, .check = rsp_kept);
SEG_CASE(pop_ds_64, K64, ".byte 0x1f", .v = UD);
SEG_CASE(push_es_64, K64, ".byte 0x06", .v = UD);
SEG_CASE(pop_ds_32, K32, "pushl $0x108; popl %ds; movl %ds, %eax", .rax = 0x108);
SEG_CASE(pop_es_32_np, K32, "pushl $0xc0;" HERE "popl %es", .v = NP, .e = 0xc0);
SEG_CASE(pop_ss_32_null, K32, "pushl $0;" HERE "popl %ss", .v = GP);
SEG_CASE(push_cs_32, K32, "pushl $-1; popl %eax; pushl %cs; popl %eax; movzwl %ax, %eax",
	 .rax = CS32);
SEG_CASE(les_32, K32,
	 "movl $0x20000, %ebx; movl $77, (%ebx); movw $0x108, 4(%ebx);"
	 "les (%ebx), %eax; movl %es, %ecx; addl %ecx, %eax",
	 .rax = 77 + 0x108);
SEG_CASE(
	lfs_64, K64,
	"movl $0x20000, %ebx; movq $-5, (%rbx); movw $0x108, 8(%rbx);"
	".byte 0x48, 0x0f, 0xb4, 0x03",
	.rax = 0xfffffffb,
	/* AMD's load 4 bytes with REX.W and take bytes 4-5 for the selector: -1. Intel's differ. */
	.any_rax = true, .any_rip = true, .v = GP, .e = 0xfffc, .when = has_amd,
	.wrong_on = ANY_TCG | BOCHS);
SEG_CASE(lgs_np_keeps, K64,
	 "movl $0x20000, %ebx; movl $77, (%rbx); movw $0xc0, 4(%rbx);"
	 "movl $9, %eax;" HERE "lgs (%rbx), %eax",
	 .v = NP, .e = 0xc0, .rax = 9);
SEG_CASE(lss_32, K64,
	 "movl $0x20000, %ebx; movl $0x3e000, (%rbx); movw $0x10, 4(%rbx);"
	 "lss (%rbx), %esp; movl %esp, %eax",
	 .rax = 0x3e000);
SEG_CASE(lss_register, K64, ".byte 0x0f, 0xb2, 0xc0", .v = UD);
SEG_CASE(lds_is_vex, K64, ".byte 0xc5, 0x00", .v = UD, .any_rip = true);

static void fresh_accessed(const struct state *s)
{
	(void)s;
	CHECK_THAT(gdt[0x108 / 8] >> 40 & 1);
	CHECK_THAT(!(gdt[0x110 / 8] >> 40 & 1));
}
SEG_CASE(load_sets_accessed, K64, "movl $0x108, %ecx; movl %ecx, %fs", .check = fresh_accessed);
SEG_CASE(lar_leaves_accessed, K64,
	 "movl $0x110, %ecx; lar %ecx, %edx; movl $0x108, %ecx;"
	 "movl %ecx, %gs",
	 .check = fresh_accessed);

/* Bases: of no effect in 64-bit mode but for FS and GS, of full effect in compatibility mode. */
SEG_CASE(ds_base_64, K64,
	 "movl $0x150, %ecx; movl %ecx, %ds; movl $1, 0x20000;"
	 "movl $2, 0x24000; movl 0x20000, %eax",
	 .rax = 1);
SEG_CASE(fs_base_64, K64,
	 "movl $7, 0x20010; movl $0x150, %ecx; movl %ecx, %fs;"
	 "movl %fs:0x10, %eax",
	 .rax = 7);
SEG_CASE(fs_limit_64, K64, "movl $0x150, %ecx; movl %ecx, %fs; movl %fs:0x2000, %eax", .rax = 0);
SEG_CASE(ds_base_32, K32,
	 "movl $7, 0x20010; movl $0x150, %ecx; movl %ecx, %ds;"
	 "movl 0x10, %eax",
	 .rax = 7);
SEG_CASE(ds_limit_32, K32,
	 "movl $0x150, %ecx; movl %ecx, %ds; movb 0xfff, %al;" HERE "movl 0xffd, %eax", .v = GP,
	 .wrong_on = ANY_TCG);
SEG_CASE(fs_null_32, K32, "xorl %ecx, %ecx; movl %ecx, %fs;" HERE "movl %fs:0, %eax", .v = GP,
	 .wrong_on = ANY_TCG);
SEG_CASE(ds_ro_write_32, K32, "movl $0xd8, %ecx; movl %ecx, %ds;" HERE "movl %eax, 0x20000",
	 .v = GP, .wrong_on = ANY_TCG);

/* --- LDT and TR ---- */

SEG_CASE(lldt, K64, "movl $0xe8, %ecx; lldt %cx; sldt %eax; movl $4, %ecx; movl %ecx, %ds",
	 .rax = 0xe8);
SEG_CASE(ldt_past_limit, K64, "movl $0xe8, %ecx; lldt %cx; movl $0x14, %ecx;" HERE "movl %ecx, %ds",
	 .v = GP, .e = 0x14);
SEG_CASE(lldt_null, K64, "xorl %ecx, %ecx; lldt %cx; sldt %eax");
SEG_CASE(lldt_not_ldt, K64, "movl $0x10, %ecx;" HERE "lldt %cx", .v = GP, .e = 0x10);
SEG_CASE(lldt_np, K64, "movl $0x160, %ecx;" HERE "lldt %cx", .v = NP, .e = 0x160);
SEG_CASE(lldt_in_ldt, K64, "movl $0xc, %ecx;" HERE "lldt %cx", .v = GP, .e = 0xc);
SEG_CASE(ltr_busy, K64, "movl $0x88, %ecx;" HERE "ltr %cx", .v = GP, .e = 0x88);
SEG_CASE(ltr_null, K64, "xorl %ecx, %ecx;" HERE "ltr %cx", .v = GP,
	 .wrong_on = ANY_TCG); /* takes it, and QEMU aborts at the next interrupt */
SEG_CASE(ltr_16_bit, K64, "movl $0x138, %ecx;" HERE "ltr %cx", .v = GP, .e = 0x138,
	 .wrong_on = ANY_TCG); /* takes it, too */
SEG_CASE(str, U64, "str %eax", .rax = TSS64);

static void tss_busy(const struct state *s)
{
	(void)s;
	CHECK_EQUAL(gdt[TSS64 / 8] >> 40 & 0x1f, 0xb);
}
SEG_CASE(ltr_makes_busy, K64, "nop", .check = tss_busy);

/* --- LAR, LSL, VERR, VERW, ARPL ---- */

#define ZF_SET         .flags = FLAG_ZF, .flags_mask = FLAG_ZF
#define ZF_CLEAR       .flags = 0, .flags_mask = FLAG_ZF
#define PROBE(op, sel) "movl $-1, %eax; movl $" sel ", %ecx; " op " %ecx, %eax"
#define VER(op, sel)   "movl $" sel ", %ecx; " op " %cx"

SEG_CASE(lar_code64, K64, PROBE("lar", "8") "; pushfq; andl $0x00f0ff00, %eax; popfq",
	 .rax = 0x00a09b00, ZF_SET);
SEG_CASE(lar_data_user, U64, PROBE("lar", "0x23") "; pushfq; andl $0x00f0ff00, %eax; popfq",
	 .rax = 0x00c0f300, ZF_SET);
SEG_CASE(lar_kernel_from_user, U64, PROBE("lar", "0x10"), .rax = 0xffffffff, ZF_CLEAR);
SEG_CASE(lar_conforming_from_user, U64,
	 PROBE("lar", "0xe3") "; pushfq; andl $0x00f0ff00, %eax;"
			      "popfq",
	 .rax = 0x00c09e00, ZF_SET);
SEG_CASE(lar_null, K64, PROBE("lar", "0"), .rax = 0xffffffff, ZF_CLEAR);
SEG_CASE(lar_past_limit, K64, PROBE("lar", "0x208"), .rax = 0xffffffff, ZF_CLEAR);
SEG_CASE(lar_call_gate, K64, PROBE("lar", "0x118") "; pushfq; andl $0x0000ff00, %eax; popfq",
	 .rax = 0xec00, ZF_SET);
SEG_CASE(lar_interrupt_gate, K64, PROBE("lar", "0x148"), .rax = 0xffffffff, ZF_CLEAR);
SEG_CASE(lar_tss16, K64, PROBE("lar", "0x138"), .rax = 0xffffffff, ZF_CLEAR, .wrong_on = ANY_TCG);
SEG_CASE(lar_np, K64, PROBE("lar", "0xc0") "; pushfq; andl $0x00f0ff00, %eax; popfq",
	 .rax = 0x00c01300, ZF_SET);
SEG_CASE(lar_16, K64, "movl $-1, %eax; movl $8, %ecx; lar %cx, %ax", .rax = 0xffff9b00, ZF_SET);
SEG_CASE(lsl_pages, K64, PROBE("lsl", "0x10"), .rax = 0xffffffff, ZF_SET);
SEG_CASE(lsl_bytes, K64, PROBE("lsl", "0x108"), .rax = 0xff, ZF_SET);
SEG_CASE(lsl_ldt, K64, PROBE("lsl", "0xe8"), .rax = 0xf, ZF_SET);
SEG_CASE(lsl_call_gate, K64, PROBE("lsl", "0x118"), .rax = 0xffffffff, ZF_CLEAR);
SEG_CASE(lsl_from_user, U64, PROBE("lsl", "0x10b"), .rax = 0xffffffff, ZF_CLEAR);
SEG_CASE(verr_data, K64, VER("verr", "0x10"), ZF_SET);
SEG_CASE(verr_exec_only, K64, VER("verr", "0xc8"), ZF_CLEAR);
SEG_CASE(verr_user, U64, VER("verr", "0x10"), ZF_CLEAR);
SEG_CASE(verr_conforming, U64, VER("verr", "0xe3"), ZF_SET);
SEG_CASE(verr_system, K64, VER("verr", "0xe8"), ZF_CLEAR);
SEG_CASE(verw_data, U64, VER("verw", "0x23"), ZF_SET);
SEG_CASE(verw_ro, U64, VER("verw", "0xd3"), ZF_CLEAR);
SEG_CASE(verw_code, K64, VER("verw", "8"), ZF_CLEAR);
SEG_CASE(arpl_adjusts, K32, "movl $0x10, %eax; movl $3, %ecx; arpl %cx, %ax", .rax = 0x13, ZF_SET);
SEG_CASE(arpl_leaves, K32, "movl $0x13, %eax; movl $1, %ecx; arpl %cx, %ax", .rax = 0x13, ZF_CLEAR);
SEG_CASE(arpl_is_movsxd, K64, "movl $-2, %ecx; .byte 0x48, 0x63, 0xc1", .rax = -2ull);

/* --- Far transfers ---- */

#define FAR_SLOT "movl $0x20000, %ebx; movl $0x10000, (%rbx); movw $"
SEG_CASE(ljmp_null, K64, FAR_SLOT "0, 4(%rbx);" HERE "ljmpl *(%rbx)", .v = GP);
SEG_CASE(ljmp_data, K64, FAR_SLOT "0x10, 4(%rbx);" HERE "ljmpl *(%rbx)", .v = GP, .e = 0x10);
SEG_CASE(ljmp_np, K64, FAR_SLOT "0x100, 4(%rbx);" HERE "ljmpl *(%rbx)", .v = NP, .e = 0x100);
/* The APM (vol. 2 §4.8.1) reserves L with D, and calls for #GP on such a far transfer. */
SEG_CASE(ljmp_l_and_d, K64, FAR_SLOT "0xf8, 4(%rbx);" HERE "ljmpl *(%rbx)", .v = GP, .e = 0xf8,
	 .wrong_on = ANY_TCG);
SEG_CASE(ljmp_dpl, K64, FAR_SLOT "0x158, 4(%rbx);" HERE "ljmpl *(%rbx)", .v = GP, .e = 0x158);
SEG_CASE(ljmp_tss, K64, FAR_SLOT "0x88, 4(%rbx);" HERE "ljmpl *(%rbx)", .v = GP, .e = 0x88);
SEG_CASE(ljmp_direct_64, K64, ".byte 0xea; .long 0; .word 8", .v = UD);
SEG_CASE(lcall_direct_64, K64, ".byte 0x9a; .long 0; .word 8", .v = UD);
SEG_CASE(ljmp_conforming_user, U32,
	 "ljmp $0xe3, $(0x10000 + 1f - code_ljmp_conforming_user);"
	 "ud2; 1: movl %cs, %eax",
	 .rax = 0xe3);

static void far_jump_compat(const struct state *s)
{
	CHECK_EQUAL(s->cs, CS32);
	CHECK_EQUAL(s->rax, 7);
}
SEG_CASE(ljmp_to_compat, K64,
	 "leaq 1f(%rip), %rax; movl $0x20000, %ebx; movl %eax, (%rbx);"
	 "movw $0x38, 4(%rbx); xorl %eax, %eax; ljmpl *(%rbx); .code32; 1: movl $7, %eax;"
	 ".byte 0x40; decl %eax; incl %eax; decl %eax",
	 .rax = 7, .check = far_jump_compat);
SEG_CASE(lret_to_compat_and_back, K64,
	 "leaq 1f(%rip), %rcx; pushq $0x38; pushq %rcx; lretq; .code32; 1: movl %cs, %eax;"
	 "call 3f; 3: popl %ecx; addl $(2f - 3b), %ecx; pushl $8; pushl %ecx; lretl; .code64;"
	 "2: movl %cs, %ecx; shll $8, %ecx; orl %ecx, %eax",
	 .rax = 0x838);
SEG_CASE(lret_outer, K64,
	 "leaq 1f(%rip), %rcx; pushq $0x23; pushq $0x3e000; pushq $0x2b;"
	 "pushq %rcx; lretq; 1: movl %ss, %eax; shll $8, %eax; movl %cs, %ecx; orl %ecx, %eax;"
	 "shll $4, %eax; movl %esp, %ecx; shrl $12, %ecx; addl %ecx, %eax",
	 .rax = 0x232ee);
SEG_CASE(lret_outer_clears_ds, K64,
	 "movl $0x10, %ecx; movl %ecx, %ds; leaq 1f(%rip), %rcx;"
	 "pushq $0x23; pushq $0x3e000; pushq $0x2b; pushq %rcx; lretq; 1: movl %ds, %eax");
SEG_CASE(lret_inner, U64, "pushq $8; pushq $0x10000;" HERE "lretq", .v = GP, .e = 8);
SEG_CASE(lret_noncanonical, K64,
	 "movabsq $0x800000000000, %rcx; pushq $8; pushq %rcx;" HERE "lretq", .v = GP,
	 .wrong_on = ANY_TCG);
SEG_CASE(lret_null_cs, K64, "pushq $0; pushq $0;" HERE "lretq", .v = GP);
SEG_CASE(lret_outer_null_ss, K64,
	 "leaq 1f(%rip), %rcx; pushq $0; pushq $0x3e000; pushq $0x2b;"
	 "pushq %rcx;" HERE "lretq; 1:",
	 .v = GP);

/* Through a call gate: 8-byte pushes of SS, RSP, CS, RIP on RSP0. */
static void gate_setup(struct state *s)
{
	descriptors(s);
	call_gate64(11, CODE_AT + 0x40, CS64, 3);
	tss64.rsp[0] = STACK_AT + 0x8000;
}

static void gate_check(const struct state *s)
{
	const uint64_t *at = (const uint64_t *)(STACK_AT + 0x8000);

	CHECK_EQUAL(s->cs, CS64);
	CHECK_EQUAL(s->ss, 0);
	CHECK_EQUAL(s->rsp, (uint64_t)(at - 4));
	CHECK_EQUAL(at[-1], DS3);
	CHECK_EQUAL(at[-2], STACK_AT + STACK_TOP);
	CHECK_EQUAL(at[-3], CS64U);
	CHECK_EQUAL(at[-4], CODE_AT + s->rbx);
}
CASE(call_gate_to_inner, U64,
     "movl $0x20000, %ecx; movw $0x11b, 4(%rcx); movl $(1f - code_call_"
     "gate_to_inner), %ebx; lcall *(%rcx); 1: nop; .org code_call_gate_to_inner + 0x40; nop",
     .setup = gate_setup, .check = gate_check);
CASE(call_gate_compat_to_inner, U32,
     "movl $(1f - code_call_gate_compat_to_inner), %ebx;"
     "lcall $0x11b, $0x12345678; 1: nop; .org code_call_gate_compat_to_inner + 0x40; .code64; nop",
     .any_rax = true, .setup = gate_setup);
CASE(call_gate_and_back, U64,
     "movl $0x20000, %ecx; movw $0x11b, 4(%rcx); lcall *(%rcx);"
     "movl %cs, %ecx; shll $8, %eax; orl %ecx, %eax; jmp 2f; .org code_call_gate_and_back + 0x40;"
     "movl %cs, %eax; lretq; 2:",
     .rax = 0x82b, .setup = gate_setup);
SEG_CASE(call_gate_dpl, U64, "movl $0x20000, %ecx; movw $0x12b, 4(%rcx);" HERE "lcall *(%rcx)",
	 .v = GP, .e = 0x128);
CASE(jmp_gate_to_inner, U64, "movl $0x20000, %ecx; movw $0x11b, 4(%rcx);" HERE "ljmp *(%rcx)",
     .v = GP, .e = 8, .setup = gate_setup);

/* --- IRET ---- */

#define IRET_TO(ss, rsp, flags, cs, rip)                                                   \
	"leaq 1f(%rip), %rdx; pushq $" ss "; pushq $" rsp "; pushq $" flags "; pushq $" cs \
	"; pushq " rip ";"
SEG_CASE(iret_same, K64,
	 IRET_TO("0x10", "0x3e000", "0x202", "8", "%rdx") "iretq; 1: movl %esp, "
							  "%eax; cli",
	 .rax = 0x3e000);
SEG_CASE(iret_null_ss, K64, IRET_TO("0", "0x3e000", "2", "8", "%rdx") "iretq; 1: movl %ss, %eax");
SEG_CASE(iret_user, K64,
	 IRET_TO("0x23", "0x3e000", "0x3202", "0x2b", "%rdx") "iretq;"
							      "1: movl %cs, %eax",
	 .rax = 0x2b, .flags = 0x3200, .flags_mask = 0x3200);
SEG_CASE(iret_user_null_ss, K64,
	 IRET_TO("0", "0x3e000", "2", "0x2b", "%rdx") HERE "iretq; 1:", .v = GP);
SEG_CASE(iret_compat, K64,
	 IRET_TO("0x23", "0x3e000", "2", "0x1b", "%rdx") "iretq; .code32;"
							 "1: movl %cs, %eax; incl %eax",
	 .rax = 0x1c);
SEG_CASE(iret_compat_null_ss, K64,
	 IRET_TO("0", "0x3e000", "2", "0x38", "%rdx") HERE "iretq; 1:", .v = GP,
	 .wrong_on = ANY_TCG);
SEG_CASE(iret_nt, K64,
	 IRET_TO("0x10", "0x3e000", "2", "8", "%rdx") "pushq $0x4002; popfq;" HERE "iretq; 1:",
	 .v = GP);
SEG_CASE(iret_ss_rpl, K64,
	 IRET_TO("0x10", "0x3e000", "2", "0x2b", "%rdx") HERE "iretq; 1:", .v = GP, .e = 0x10);
SEG_CASE(iret_ss_code, K64,
	 IRET_TO("0x2b", "0x3e000", "2", "0x2b", "%rdx") HERE "iretq; 1:", .v = GP, .e = 0x28);
SEG_CASE(iret_ss_np, K64, IRET_TO("0xc0", "0x3e000", "2", "8", "%rdx") HERE "iretq; 1:", .v = SS,
	 .e = 0xc0, .wrong_on = BOCHS | ANY_TCG);
SEG_CASE(iret_cs_np, K64,
	 IRET_TO("0x10", "0x3e000", "2", "0x100", "%rdx") HERE "iretq; 1:", .v = NP, .e = 0x100);
SEG_CASE(iret_cs_data, K64,
	 IRET_TO("0x10", "0x3e000", "2", "0x10", "%rdx") HERE "iretq; 1:", .v = GP, .e = 0x10);
SEG_CASE(iret_cs_null, K64, IRET_TO("0x10", "0x3e000", "2", "0", "%rdx") HERE "iretq; 1:", .v = GP);
SEG_CASE(iret_inner, U64, IRET_TO("0x10", "0x3e000", "2", "8", "%rdx") HERE "iretq; 1:", .v = GP,
	 .e = 8);
SEG_CASE(iret_noncanonical, K64,
	 "movabsq $0x800000000000, %rcx;" IRET_TO("0x10", "0x3e000", "2", "8", "%rcx") HERE
	 "iretq; 1:",
	 .v = GP, .wrong_on = ANY_TCG);
SEG_CASE(iret_user_flags, U64,
	 IRET_TO("0x23", "0x3e000", "0x3203", "0x2b", "%rdx") "iretq; 1:", .flags = 1,
	 .flags_mask = 0x3201);
SEG_CASE(iretl_64, K64,
	 "leaq 1f(%rip), %rdx; subq $20, %rsp; movl %edx, (%rsp); movl $8, 4(%rsp);"
	 "movl $3, 8(%rsp); movl $0x3e000, 12(%rsp); movl $0x10, 16(%rsp); iretl; 1: sbbl %ecx, "
	 "%ecx;"
	 "movl %esp, %eax; subl %ecx, %eax",
	 .rax = 0x3e001, .wrong_on = BOCHS);
SEG_CASE(iret_keeps_ss_rsp_order, K64,
	 IRET_TO("0x10", "0x3e000", "0x40002", "8",
		 "%rdx") "iretq; 1: pushfq; popq %rax; andl $0x40000, %eax",
	 .rax = 0x40000);
SEG_CASE(iret_clears_user_segments, K64,
	 "movl $0x10, %ecx; movl %ecx, %fs; movl $0x23, %ecx;"
	 "movl %ecx, %gs;" IRET_TO(
		 "0x23", "0x3e000", "2", "0x2b",
		 "%rdx") "iretq;"
			 "1: movl %fs, %eax; shll $8, %eax; movl %gs, %ecx; orl %ecx, %eax",
	 .rax = 0x23);

/* --- INT n and gates ---- */

SEG_CASE(int_dpl, U64, "int $0x41", .v = GP, .e = TRAPS(0x41), .wrong_on = ANY_TCG);
SEG_CASE(int_0x40, K64, "int $0x40;" HERE, .v = 0x40, .wrong_on = PVM);
SEG_CASE(int3_user, U64, "int3;" HERE, .v = BP);
SEG_CASE(int_3_long, U64, "int $3;" HERE, .v = BP);
SEG_CASE(icebp, U64, ".byte 0xf1;" HERE, .v = DB, .wrong_on = ANY_TCG);
SEG_CASE(into_64, U64, ".byte 0xce", .v = UD);
SEG_CASE(into_32, U32, "movb $0x7f, %al; incb %al; into;" HERE, .v = OF, .rax = 0x80);
SEG_CASE(into_32_not, U32, "xorl %eax, %eax; into");

static void gate_np(struct state *s)
{
	(void)s;
	idt64[0x42][0] &= ~(0x80ull << 40);
}
static void gate_bad_type(struct state *s)
{
	(void)s;
	gate64(0x42, CODE_AT, CS64, 1, 0x5, 3);
}
static void gate_bad_cs(struct state *s)
{
	(void)s;
	gate64(0x42, CODE_AT, DS0, 1, 0xe, 3);
}
static void gate_compat_cs(struct state *s)
{
	(void)s;
	gate64(0x42, CODE_AT, CS32, 1, 0xe, 3);
}
static void gate_noncanonical(struct state *s)
{
	(void)s;
	gate64(0x42, CANONICAL_END, CS64, 1, 0xe, 3);
}
CASE(int_gate_np, K64, "int $0x42", .v = NP, .e = TRAPS(0x42), .setup = gate_np,
     .wrong_on = PVM | ANY_TCG);
CASE(int_gate_type, K64, "int $0x42", .v = GP, .e = TRAPS(0x42), .setup = gate_bad_type,
     .wrong_on = PVM | ANY_TCG);
CASE(int_gate_cs_data, K64, "int $0x42", .v = GP, .e = DS0, .setup = gate_bad_cs, .wrong_on = PVM);
CASE(int_gate_cs_compat, K64, "int $0x42", .v = GP, .e = CS32, .setup = gate_compat_cs,
     .wrong_on = PVM);
CASE(int_gate_noncanonical, K64, "int $0x42", .v = GP, .any_rip = true, .setup = gate_noncanonical,
     .wrong_on = PVM);
CASE(int_past_limit, K64,
     "movl $0x20000, %ebx; movw $0x41f, (%rbx); movq $idt64, 2(%rbx);"
     "lidt (%rbx);" HERE "int $0x42",
     .v = GP, .e = TRAPS(0x42), .wrong_on = PVM | ANY_TCG);

/* The frame as the handler finds it: pushed on an aligned stack, flags cleared. */
static void handler_inside(struct state *s)
{
	gate64(0x42, CODE_AT + 0x40, CS64, 2, s->rax ? 0xf : 0xe, 3);
	tss64.ist[1] = STACK_AT + 0x8009;
	s->rax = 0;
	s->rsp = STACK_AT + 0x7005;
	s->rflags = 0x246 | IOPL(3);
}
static void trap_inside(struct state *s)
{
	s->rax = 1;
	handler_inside(s);
}
static void frame_check(const struct state *s)
{
	const uint64_t *at = (const uint64_t *)(STACK_AT + 0x8000 - 40);

	CHECK_EQUAL(s->rsp, (uint64_t)at);
	CHECK_EQUAL(at[0], CODE_AT + 2);
	CHECK_EQUAL(at[1], CS64U);
	CHECK_EQUAL(at[2], 0x246 | IOPL(3));
	CHECK_EQUAL(at[3], STACK_AT + 0x7005);
	CHECK_EQUAL(at[4], DS3);
	CHECK_EQUAL(s->ss, 0);
}
CASE(int_frame_ist, U64, "int $0x42; .org code_int_frame_ist + 0x40; nop", .setup = handler_inside,
     .check = frame_check, .flags = 0, .flags_mask = FLAG_IF | FLAG_TF | FLAG_NT);
CASE(int_frame_trap_gate, U64, "int $0x42; .org code_int_frame_trap_gate + 0x40; nop; cli",
     .setup = trap_inside, .check = frame_check, .flags = IOPL(3), .flags_mask = IOPL(3));

static void same_level(struct state *s)
{
	gate64(0x42, CODE_AT + 0x40, CS64, 0, 0xe, 3);
	s->rsp = STACK_AT + 0x7fff;
}
CASE(int_kernel_aligns, K64, "int $0x42; .org code_int_kernel_aligns + 0x40; movl %esp, %eax",
     .rax = STACK_AT + 0x7ff0 - 40, .setup = same_level, .wrong_on = PVM);

/* --- SYSCALL, SYSRET, SYSENTER ---- */

static void syscall_setup(struct state *s)
{
	wrmsr(0xc0000082, CODE_AT + 0x40); /* LSTAR */
	wrmsr(0xc0000083, CODE_AT + 0x40); /* CSTAR */
	wrmsr(0xc0000084, 0x4701);         /* FMASK */
	s->rflags = 0x203;
}
static void syscall_check(const struct state *s)
{
	CHECK_EQUAL(s->cs, CS64);
	CHECK_EQUAL(s->ss, DS0);
	CHECK_EQUAL(s->rcx, CODE_AT + 2);
	CHECK_EQUAL(s->r11, 0x203);
	CHECK_EQUAL(s->rsp, STACK_AT + STACK_TOP);
}
CASE(syscall, U64, "syscall; .org code_syscall + 0x40; nop", .setup = syscall_setup,
     .check = syscall_check, .flags = 0, .flags_mask = FLAG_IF | FLAG_CF);
CASE(syscall_kernel, K64, "syscall; .org code_syscall_kernel + 0x40; nop", .setup = syscall_setup,
     .check = syscall_check);
CASE(syscall_compat, U32, "syscall; .org code_syscall_compat + 0x40; .code64; nop",
     .setup = syscall_setup, .when = has_amd, .flags = 0, .flags_mask = FLAG_IF | FLAG_CF);
CASE(sysret_64, K64,
     "leaq 1f(%rip), %rcx; movl $0x13203, %r11d; sysretq; 1: movl %cs, %eax;"
     "movl %ss, %ecx; shll $8, %ecx; orl %ecx, %eax; pushfq; popq %rdx",
     .rax = 0x232b, .flags = 0x3202, .flags_mask = 0x3202);
CASE(sysret_32, K64,
     "leaq 1f(%rip), %rcx; movl $2, %r11d; sysretl; .code32; 1: movl %cs, %eax;"
     "incl %eax",
     .rax = CS32U + 1);
CASE(sysret_user, U64, "sysretq", .v = GP);

static void sce_off(struct state *s)
{
	(void)s;
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~(uint64_t)EFER_SCE);
}
CASE(syscall_off, U64, "syscall", .v = UD, .setup = sce_off);
CASE(sysret_off, K64, "sysretq", .v = UD, .setup = sce_off);
CASE(sysenter_long_amd, U64, "sysenter", .v = UD, .when = has_no_sysenter_long);
CASE(sysenter_long_intel, U64, "sysenter", .v = GP, .when = has_sysenter_long);

/* --- FS and GS bases, SWAPGS ---- */

static void bases(struct state *s)
{
	(void)s;
	write_cr4(read_cr4() | (has_fsgsbase() ? CR4_FSGSBASE : 0));
	write32(DATA_AT, 0x1111);
	write32(DATA_AT + 0x1000, 0x2222);
}
#define WRMSR(msr, value) "movl $" msr ", %ecx; movl $" value ", %eax; xorl %edx, %edx; wrmsr;"
CASE(fs_base_msr, K64, WRMSR("0xc0000100", "0x20000") "movl %fs:0, %eax", .rax = 0x1111,
     .setup = bases);
CASE(gs_base_msr, K64, WRMSR("0xc0000101", "0x21000") "movl %gs:0, %eax", .rax = 0x2222,
     .setup = bases);
CASE(gs_negative, K64, WRMSR("0xc0000101", "0x22000") "movq $-0x1000, %rbx; movl %gs:(%rbx), %eax",
     .rax = 0x2222, .setup = bases);
CASE(swapgs, K64,
     WRMSR("0xc0000101", "0x20000")
	     WRMSR("0xc0000102",
		   "0x21000") "swapgs; movl %gs:0, %eax; swapgs; shll $16, %eax; orl %gs:0, %eax",
     .rax = 0x22221111, .setup = bases);
CASE(swapgs_user, U64, "swapgs", .v = GP);
CASE(fs_base_noncanonical, K64, "movl $0xc0000100, %ecx; movl $0x8000, %edx;" HERE "wrmsr", .v = GP,
     .wrong_on = ANY_TCG);
CASE(lstar_noncanonical, K64, "movl $0xc0000082, %ecx; movl $0x8000, %edx;" HERE "wrmsr", .v = GP,
     .wrong_on = ANY_TCG);
CASE(wrfsbase, U64,
     "movl $0x21000, %ecx; wrfsbase %rcx; movl %fs:0, %eax; rdfsbase %rdx;"
     "addl %edx, %eax",
     .rax = 0x23222, .setup = bases, .when = has_fsgsbase);
CASE(wrgsbase_32, U64, "movq $-1, %rcx; movl $0x20000, %ecx; wrgsbase %ecx; movl %gs:0, %eax",
     .rax = 0x1111, .setup = bases, .when = has_fsgsbase);
CASE(wrfsbase_noncanonical, U64, "movabsq $0x800000000000, %rcx;" HERE "wrfsbase %rcx", .v = GP,
     .setup = bases, .when = has_fsgsbase, .wrong_on = ANY_TCG);
CASE(rdfsbase_off, U64, "rdfsbase %rax", .v = UD);
CASE(rdfsbase_compat, U32, ".byte 0xf3, 0x0f, 0xae, 0xc0", .v = UD, .setup = bases);

/* --- Canonical addresses ---- */

#define BAD "movabsq $0x800000000000, %rbx; "
CASE(noncanonical_read, K64, BAD HERE "movl (%rbx), %eax", .v = GP);
CASE(noncanonical_write, U64, BAD HERE "movl %eax, (%rbx)", .v = GP);
CASE(noncanonical_low_end, K64, BAD HERE "movl -2(%rbx), %eax", .v = GP, .wrong_on = ANY_TCG);
CASE(noncanonical_stack, K64, BAD "movq %rbx, %rbp;" HERE "movl (%rbp), %eax", .v = SS,
     .wrong_on = ANY_TCG);
CASE(noncanonical_push, K64, "movabsq $0x800000000008, %rsp;" HERE "pushq %rax", .v = SS,
     .wrong_on = ANY_TCG);
CASE(noncanonical_pop, U64, BAD "movq %rbx, %rsp;" HERE "popq %rax", .v = SS, .wrong_on = ANY_TCG);
CASE(noncanonical_fs, K64, BAD HERE "movl %fs:(%rbx), %eax", .v = GP);
/* AMD's fault at the target of a near jump, Intel's at the jump (SDM vol. 2, JMP: #GP(0)). */
CASE(noncanonical_jump, K64, BAD HERE "jmp *%rbx", .v = GP, .any_rip = true);
CASE(noncanonical_ret, K64, BAD "pushq %rbx;" HERE "ret", .v = GP, .any_rip = true);
CASE(noncanonical_lea, K64, BAD "leaq 8(%rbx), %rax", .rax = 0x800000000008);
CASE(address_size_wraps, K64,
     "movl $5, 0x20000; movq $0x20001, %rbx; movl $-1, %ecx;"
     "movl (%ebx, %ecx), %eax",
     .rax = 5);
/* The case begins with its page: jumps go to the byte before, and to its first from the end. */
CASE(jumps_out_of_the_page, K64,
     "9: movb $0xc3, 0xffff; leaq 1f(%rip), %rbx; pushq %rbx; xorl %eax, %eax; jz 9b - 1; ud2;"
     "1: leaq 2f(%rip), %rbx; pushq %rbx; jmp 9b - 1; ud2; 2: call 9b - 1; incl %eax",
     .rax = 1);
CASE(rip_relative, K64, "movl 1f(%rip), %eax; jmp 2f; 1: .long 0x1234; 2:", .rax = 0x1234);
