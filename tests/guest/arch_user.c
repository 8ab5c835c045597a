/*
 * Instructions as programs use them: integers, flags, strings, decimal arithmetic, the later
 * extensions, undefined opcodes, prefixes. Run at CPL 3, so that KVM-PVM answers for the host.
 */
#include "arch.h"

#define U(id, ...)   CASE(id, U64, __VA_ARGS__)
#define C32(id, ...) CASE(id, U32, __VA_ARGS__)
/* RAX is the low byte of the flags and OF: LAHF's order, OF in bit 0 of AL. */
#define FLAGS "pushfq; popq %rax; andl $0x8d5, %eax"

/* --- Arithmetic and its flags ---- */

U(add_carry, "movl $0xffffffff, %ecx; addl $1, %ecx;" FLAGS, .rax = 0x55);
U(add_overflow, "movl $0x7fffffff, %ecx; addl $1, %ecx;" FLAGS, .rax = 0x894);
U(sub_borrow, "xorl %ecx, %ecx; subl $1, %ecx;" FLAGS, .rax = 0x95);
U(adc_wraps, "movb $0xff, %cl; stc; adcb $0xff, %cl;" FLAGS, .rax = 0x95);
U(sbb_zero, "xorl %ecx, %ecx; stc; sbbl $0xffffffff, %ecx;" FLAGS, .rax = 0x55);
U(inc_keeps_cf, "stc; movb $0x7f, %cl; incb %cl;" FLAGS, .rax = 0x891);
U(dec_keeps_cf, "stc; movb $0x80, %cl; decb %cl;" FLAGS, .rax = 0x811);
U(neg_min, "movl $0x80000000, %ecx; negl %ecx;" FLAGS, .rax = 0x885);
U(neg_zero, "xorl %ecx, %ecx; stc; negl %ecx;" FLAGS, .rax = 0x44);
U(not_no_flags, "xorl %ecx, %ecx; stc; notl %ecx;" FLAGS, .rax = 0x45);
U(and_flags, "movl $0x80000000, %ecx; stc; andl %ecx, %ecx; pushfq; popq %rax; andl $0x8c5, %eax",
  .rax = 0x84);
U(cmp_8, "movb $0x80, %cl; cmpb $1, %cl;" FLAGS, .rax = 0x810);
U(mov_32_clears, "movq $-1, %rax; movl %eax, %eax", .rax = 0xffffffff);
U(mov_16_keeps, "movq $-1, %rax; movw $0, %ax", .rax = 0xffffffffffff0000);
U(cmov_32_clears, "movq $-1, %rax; cmpl %eax, %eax; cmovnel %ecx, %eax", .rax = 0xffffffff);
U(xchg_clears, "movq $-1, %rax; movq $-1, %rcx; xchgl %ecx, %eax", .rax = 0xffffffff);
U(nop_keeps, "movq $-1, %rax; nop", .rax = -1ull);
U(high_bytes, "movl $0x1234, %ecx; movb %ch, %al", .rax = 0x12);
U(rex_bytes, "movl $0x1234, %edi; movb %dil, %al", .rax = 0x34);
U(movzx_high, "movl $0x1234, %ecx; movzbl %ch, %eax", .rax = 0x12);
U(cbw_cwde_cdqe, "movb $0x80, %al; cbw; cwtl; cltq", .rax = 0xffffffffffffff80);
U(cqo, "movabsq $0x8000000000000000, %rax; cqto; movq %rdx, %rax", .rax = -1ull);
U(lahf, "stc; sahf; movb $0xd5, %ah; sahf; movl $0, %eax; lahf", .rax = 0xd700, .when = has_lahf);
U(setcc, "stc; setc %al; setbe %ah", .rax = 0x101);
U(bswap, "movabsq $0x0102030405060708, %rax; bswap %rax", .rax = 0x0807060504030201);
U(movsxd, "movl $0x80000000, %ecx; movslq %ecx, %rax", .rax = 0xffffffff80000000);
U(xadd, "movl $5, %eax; movl $7, %ecx; xaddl %eax, %ecx; shll $8, %eax; orl %ecx, %eax",
  .rax = 0x70c);
U(xadd_self, "movl $5, %eax; xaddl %eax, %eax", .rax = 10);
U(cmpxchg_equal,
  "movl $5, %eax; movl $5, %ecx; movl $9, %edx; cmpxchgl %edx, %ecx; movl %ecx, %eax", .rax = 9);
U(cmpxchg_unequal, "movl $5, %eax; movl $6, %ecx; cmpxchgl %edx, %ecx", .rax = 6);
U(cmpxchg8b,
  "movl $0x20000, %edi; movl $1, %ebx; movl $2, %ecx; cmpxchg8b (%rdi); setz %al;"
  "orl 4(%rdi), %eax",
  .rax = 3);
U(cmpxchg16b_fails, "movl $0x20000, %edi; movq $-3, 8(%rdi); cmpxchg16b (%rdi); movq %rdx, %rax",
  .rax = -3ull);

/* --- Multiplication and division ---- */

U(mul_64, "movq $-1, %rax; movq $-1, %rcx; mulq %rcx; movq %rdx, %rax", .rax = -2ull);
U(imul_64, "movq $-1, %rax; movq $-1, %rcx; imulq %rcx; addq %rdx, %rax", .rax = 1);
U(imul_flags, "movl $0x10000, %ecx; imull %ecx, %ecx; setc %al; seto %ah", .rax = 0x101);
U(imul_imm, "movl $-3, %ecx; imulq $-5, %rcx, %rax", .rax = 0xfffffffd * -5ull);
U(mul_8, "movb $0xff, %al; movb $0xff, %cl; mulb %cl", .rax = 0xfe01);
U(div_64, "movl $1, %edx; xorl %eax, %eax; movl $3, %ecx; divq %rcx", .rax = 0x5555555555555555);
U(idiv_negative, "movq $-7, %rax; cqto; movl $2, %ecx; idivq %rcx; shlq $8, %rax; subq %rdx, %rax",
  .rax = -0x2ffull);
U(idiv_8, "movw $-7, %ax; movb $2, %cl; idivb %cl", .rax = 0xfffd);

/* --- Shifts ---- */

U(shl_0_keeps, "stc; movl $3, %ecx; movb $0, %cl; shll %cl, %ecx; setc %al", .rax = 1);
U(shl_32_is_0, "movl $32, %ecx; movq $-1, %rax; shll %cl, %eax", .rax = 0xffffffff);
U(shl_carry, "movl $0x80000000, %edx; shll $1, %edx; setc %al; seto %ah", .rax = 0x101);
U(shl_8_by_9, "movb $0xff, %al; movb $9, %cl; shlb %cl, %al");
U(shl_64_by_63, "movl $1, %eax; movb $127, %cl; shlq %cl, %rax", .rax = 0x8000000000000000);
U(sar_fills, "movl $0x80000000, %eax; sarl $31, %eax", .rax = 0xffffffff);
U(sar_8_by_31, "movb $0x80, %al; sarb $31, %al", .rax = 0xff);
U(rol_flags, "movl $0x80000001, %eax; roll $1, %eax; setc %cl; shll $8, %ecx; orl %ecx, %eax",
  .rax = 0x103);
U(rol_keeps_zf, "xorl %ecx, %ecx; movb $1, %dl; rolb $1, %dl; setz %al", .rax = 1);
U(rcl_8_by_9, "stc; movb $0x55, %al; rclb $9, %al; setc %ah", .rax = 0x155);
U(rcl_8_by_8, "stc; movb $0x55, %al; rclb $8, %al", .rax = 0xaa);
U(rcr_64, "stc; movl $2, %eax; rcrq $1, %rax", .rax = 0x8000000000000001);
U(rcl_0_keeps, "stc; movb $5, %al; movb $32, %cl; rcll %cl, %eax; setc %ah", .rax = 0x105);
U(shld, "movl $0x12345678, %eax; movl $0xabcdef01, %edx; shldl $8, %edx, %eax", .rax = 0x345678ab);
U(shrd, "movl $0x12345678, %eax; movl $0xabcdef01, %edx; shrdl $8, %edx, %eax", .rax = 0x01123456);
U(bt_register_wraps, "movl $33, %ecx; movl $2, %edx; btl %ecx, %edx; setc %al", .rax = 1);
U(bt_memory_far,
  "movl $0x20000, %ebx; movb $1, 0x100(%rbx); movl $0x800, %ecx; btl %ecx, (%rbx);"
  "setc %al",
  .rax = 1);
U(bts_memory_negative,
  "movl $0x20010, %ebx; movq $-128, %rcx; btsq %rcx, (%rbx); movl 0x20000, %eax", .rax = 1);
U(bsf_zero, "movl $7, %eax; xorl %ecx, %ecx; bsfl %ecx, %edx; setz %al", .rax = 1);
U(bsr, "movl $0x8000, %ecx; bsrl %ecx, %eax", .rax = 15);

/* --- Strings ---- */

#define BUFFERS "movl $0x20000, %esi; movl $0x20100, %edi;"
U(rep_movsb_overlap,
  BUFFERS "movb $5, (%rsi); leaq 1(%rsi), %rdi; movl $7, %ecx; rep movsb;"
	  "movq 0x20000, %rax",
  .rax = 0x0505050505050505);
U(rep_movsl_down,
  BUFFERS "movl $1, (%rsi); movl $2, 4(%rsi); addl $4, %esi; addl $4, %edi;"
	  "movl $2, %ecx; std; rep movsl; cld; movq 4(%rdi), %rax",
  .rax = 0x200000001);
U(rep_zero, BUFFERS "xorl %ecx, %ecx; rep movsq; leaq (%rsi,%rdi), %rax", .rax = 0x40100);
U(repe_cmpsb, BUFFERS "movb $1, 3(%rsi); movl $10, %ecx; repe cmpsb; movl %ecx, %eax", .rax = 6);
U(repe_cmps_zero_keeps,
  BUFFERS "xorl %ecx, %ecx; cmpl $1, %ecx; repe cmpsb; setz %al; sbbl %eax,"
	  "%eax",
  .rax = 0xffffffff);
U(repne_scasb,
  BUFFERS "movb $9, 5(%rdi); movb $9, %al; movl $100, %ecx; repne scasb; movl %edi, %eax",
  .rax = 0x20106);
U(rep_32, "movabsq $0x100000002, %rcx; movl $0x20000, %edi; movl $7, %eax; addr32 rep stosl;"
	  "movl 0x20008, %eax; addq %rcx, %rax");
U(string_32_clears, "movabsq $0x100020000, %rsi; addr32 lodsb; movq %rsi, %rax", .rax = 0x20001);
U(movs_fs_override,
  "movl $0x20000, %esi; movl $0x20010, %edi; movb $3, (%rsi); .byte 0x64; movsb;"
  "movb 0x20010, %al",
  .rax = 3);
U(repne_movs_is_rep, BUFFERS "movl $3, %ecx; .byte 0xf2; movsb; movl %ecx, %eax");
U(lods_16, "movl $0x20000, %esi; movq $-1, %rax; movw $5, (%rsi); lodsw",
  .rax = 0xffffffffffff0005);
U(loop_rcx, "movabsq $0x100000001, %rcx; addr32 loop 1f; movl $1, %eax; 1:", .rax = 1);
U(jrcxz,
  "movabsq $0x100000000, %rcx; jrcxz 1f; incl %eax; 1: addr32 jrcxz 2f; incl %eax; 2:", .rax = 1);

/* --- Decimal arithmetic, in 32 bits ---- */

C32(daa, "movb $0x79, %al; addb $0x35, %al; daa; setc %ah", .rax = 0x114, .wrong_on = PVM);
C32(das, "movb $0x35, %al; subb $0x47, %al; das; setc %ah", .rax = 0x188);
C32(aaa, "movl $0x0a, %eax; clc; addb $0, %al; aaa", .rax = 0x100, .wrong_on = PVM);
C32(aas, "movl $0x200, %eax; subb $1, %al; aas", .rax = 0x109, .wrong_on = PVM);
C32(aam, "movb $63, %al; aam", .rax = 0x603);
C32(aam_16, "movb $0x3f, %al; .byte 0xd4, 16", .rax = 0x30f);
C32(aad, "movl $0x0603, %eax; aad", .rax = 63, .wrong_on = PVM);
C32(inc_short, ".byte 0x40, 0x40, 0x48", .rax = 1);
U(daa_64, ".byte 0x27", .v = UD);
U(aam_64, ".byte 0xd4, 0x0a", .v = UD);
U(pusha_64, ".byte 0x60", .v = UD);
U(salc_64, ".byte 0xd6", .v = UD);
U(group1_82_64, ".byte 0x82, 0xc0, 0x01", .v = UD);
C32(group1_82_32, ".byte 0x82, 0xc0, 0x01", .rax = 1);

/* --- Extensions ---- */

U(popcnt, "movq $-1, %rcx; popcntq %rcx, %rax", .rax = 64);
U(popcnt_flags, "xorl %ecx, %ecx; stc; popcntl %ecx, %ecx;" FLAGS, .rax = 0x40);
U(lzcnt, "movl $1, %ecx; lzcntl %ecx, %eax", .rax = 31, .when = has_bmi);
U(tzcnt_zero, "xorl %ecx, %ecx; tzcntl %ecx, %eax; setc %cl; shll $8, %ecx; orl %ecx, %eax",
  .rax = 0x120, .when = has_bmi);
U(crc32_b, "movb $1, %cl; crc32b %cl, %eax", .rax = 0xf26b8303);

U(movbe, "movl $0x20000, %ebx; movl $0x01020304, (%rbx); movbel (%rbx), %eax", .rax = 0x04030201,
  .when = has_movbe);
U(adcx_adox,
  "xorl %ecx, %ecx; movl $1, %edx; movq $-1, %rax; adoxq %rdx, %rax; seto %cl;"
  "adcxq %rcx, %rax",
  .rax = 1, .when = has_adx, .wrong_on = BOCHS);
U(andn, "movl $0xff, %ecx; movl $0xf0f0, %edx; andnl %edx, %ecx, %eax", .rax = 0xf000,
  .when = has_bmi);
U(bextr, "movl $0x0804, %ecx; movl $0xabcde, %edx; bextrl %ecx, %edx, %eax", .rax = 0xcd,
  .when = has_bmi);
U(blsr, "movl $0x68, %ecx; blsrl %ecx, %eax", .rax = 0x60, .when = has_bmi);
U(pdep, "movl $5, %ecx; movl $0xf0, %edx; pdepl %edx, %ecx, %eax", .rax = 0x50, .when = has_bmi);
U(pext, "movl $0xa5, %ecx; movl $0xf0, %edx; pextl %edx, %ecx, %eax", .rax = 0xa, .when = has_bmi);
U(bzhi, "movl $-1, %ecx; movl $5, %edx; bzhil %edx, %ecx, %eax", .rax = 31, .when = has_bmi);
U(rorx, "stc; movl $1, %ecx; rorxl $1, %ecx, %eax; sbbl $0, %eax", .rax = 0x7fffffff,
  .when = has_bmi);
U(mulx, "movl $0x80000000, %edx; movl $4, %ecx; mulxl %ecx, %ebx, %eax", .rax = 2, .when = has_bmi);
U(shlx, "movl $1, %ecx; movl $33, %edx; shlxl %edx, %ecx, %eax", .rax = 2, .when = has_bmi);
U(rdrand, "1: rdrand %rax; jnc 1b", .any_rax = true, .when = has_rdrand);
U(rdtscp, "rdtscp; movl $1, %eax", .rax = 1, .when = has_rdtscp);
U(rdtsc_grows,
  "rdtsc; shlq $32, %rdx; leaq (%rax,%rdx), %rcx; rdtsc; shlq $32, %rdx; addq %rdx, %rax;"
  "cmpq %rcx, %rax; setae %al; movzbl %al, %eax",
  .rax = 1);
U(prefetch, "xorl %ecx, %ecx; prefetcht0 (%rcx); prefetchnta -1(%rcx); nopl 0x12345(%rcx)");
U(clflush, "movl $0x20000, %ecx; clflush (%rcx)");
U(fences, "lfence; sfence; mfence; pause");

static void tsd(struct state *s)
{
	(void)s;
	write_cr4(CR4_HOST | CR4_TSD);
}
U(rdtsc_tsd, "rdtsc", .v = GP, .setup = tsd, .wrong_on = PVM);
U(rdpmc_user, "rdpmc", .v = GP);
U(sgdt_user, "movl $0x20000, %ebx; sgdt (%rbx); movzwl (%rbx), %eax", .rax = GDT_SIZE - 1,
  .wrong_on = PVM);
static void umip(struct state *s)
{
	(void)s;
	write_cr4(CR4_HOST | CR4_UMIP);
}
U(sgdt_umip, "movl $0x20000, %ebx;" HERE "sgdt (%rbx)", .v = GP, .setup = umip, .when = has_umip);
U(str_umip, "str %eax", .v = GP, .setup = umip, .when = has_umip);

/* --- What is no instruction (TCG takes LOCK and reserved bits of ModRM lightly) ---- */

#define UNDEFINED(id, bytes, ...) \
	U(ud_##id, "nop;" HERE ".byte " bytes "; nop; nop", .v = UD, __VA_ARGS__)
UNDEFINED(0f04, "0x0f, 0x04");
UNDEFINED(0f0a, "0x0f, 0x0a");
UNDEFINED(0fff, "0x0f, 0xff, 0xc0");
UNDEFINED(group_fe_7, "0xfe, 0xf8");
UNDEFINED(group_ff_7, "0xff, 0xf8");
UNDEFINED(far_jmp_register, "0xff, 0xe8");
UNDEFINED(far_call_register, "0xff, 0xd8");
UNDEFINED(lea_register, "0x8d, 0xc0");
UNDEFINED(pop_group, "0x8f, 0xc8", .wrong_on = ANY_TCG);
UNDEFINED(c6_group, "0xc6, 0xc8, 0x00", .wrong_on = ANY_TCG);
UNDEFINED(cmpxchg8b_register, "0x0f, 0xc7, 0xc8");
UNDEFINED(group9_0, "0x0f, 0xc7, 0x00");
UNDEFINED(bt_group_0, "0x0f, 0xba, 0xc0, 0x00");
UNDEFINED(movnti_register, "0x0f, 0xc3, 0xc0");
UNDEFINED(lock_mov, "0xf0, 0x89, 0x03", .wrong_on = ANY_TCG);
UNDEFINED(lock_register, "0xf0, 0x01, 0xc0");
UNDEFINED(lock_cmp, "0xf0, 0x39, 0x03");
UNDEFINED(lock_load, "0xf0, 0x03, 0x03", .wrong_on = ANY_TCG);
UNDEFINED(lock_bt, "0xf0, 0x0f, 0xa3, 0x03", .wrong_on = ANY_TCG);
UNDEFINED(lock_nop, "0xf0, 0x90");
UNDEFINED(lock_shift, "0xf0, 0xd1, 0x23", .wrong_on = ANY_TCG);
UNDEFINED(lock_movs, "0xf0, 0xa4", .wrong_on = ANY_TCG);
UNDEFINED(monitor_user, "0x0f, 0x01, 0xc8", .wrong_on = PVM);
UNDEFINED(vmrun_user, "0x0f, 0x01, 0xc2");
UNDEFINED(movaps_to_self_lock, "0xf0, 0x0f, 0x28, 0xc0");
UNDEFINED(xsave_off, "0x0f, 0x01, 0xd0", .wrong_on = PVM);
U(fourteen_prefixes, ".rept 14; .byte 0x66; .endr; nop; movl $1, %eax", .rax = 1);
U(fifteen_prefixes, ".rept 15; .byte 0x66; .endr; nop", .v = GP);
U(too_long_modrm, ".rept 10; .byte 0x2e; .endr; movl 0x20000(%rcx), %eax", .v = GP,
  .any_rip = true);
U(rep_ret, "call 1f; jmp 2f; 1: rep ret; 2:");
U(segment_overrides_last,
  "movl $0x20000, %ebx; movl $4, (%rbx); .byte 0x64, 0x3e; movl (%rbx), %eax", .any_rax = true);
