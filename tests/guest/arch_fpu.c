/*
 * x87, MMX and SSE: results against those worked out by hand or by other instructions, control and
 * status words, the environment's formats, FXSAVE and XSAVE.
 */
#include "arch.h"

#define U(id, ...) CASE(id, U64, __VA_ARGS__)
#define M          "movl $0x20000, %ebx;"
#define INIT       M "fninit;"
/* XMM0's low half to RAX; XMM0 of a 64-bit constant in RCX, both halves. */
#define OUT "; movq %xmm0, %rax"
#define IN(reg, value) \
	"movabsq $" value ", %rcx; movq %rcx, %" reg "; punpcklqdq %" reg ", %" reg ";"

/* --- x87 ---- */

U(fninit,
  INIT "fnstcw (%rbx); movzwl (%rbx), %eax; fnstsw 2(%rbx); shll $16, %eax;"
       "movw 2(%rbx), %ax",
  .rax = 0x37f0000);
U(fld_top, INIT "fld1; fldz; fnstsw %ax", .rax = 0x3000);
U(stack_overflow, INIT ".rept 9; fld1; .endr; fnstsw %ax", .rax = 0x3a41, .wrong_on = ANY_TCG);
U(stack_underflow, INIT "fstp %st(0); fnstsw %ax", .rax = 0x0841, .wrong_on = ANY_TCG);
U(divide_by_zero,
  INIT "fld1; fldz; fdivrp; fnstsw %ax; andl $0xff, %eax; fstpl (%rbx);"
       "orq (%rbx), %rax",
  .rax = 0x7ff0000000000004);
U(inexact, INIT "fld1; movl $3, (%rbx); fidivl (%rbx); fnstsw %ax; andl $0x3f, %eax", .rax = 0x20);
U(sqrt_negative, INIT "fld1; fchs; fsqrt; fnstsw %ax; andl $0x3f, %eax", .rax = 1);
U(fist_rounds_even,
  INIT "movq $5, (%rbx); fildll (%rbx); fld1; fadd %st(0); fdivrp; fistpl (%rbx);"
       "movl (%rbx), %eax",
  .rax = 2);
U(fist_truncates,
  INIT "movw $0xf7f, (%rbx); fldcw (%rbx); movl $-7, (%rbx); fildl (%rbx); movl $2,"
       "(%rbx); fidivl (%rbx); fistpl (%rbx); movl (%rbx), %eax",
  .rax = 0xfffffffd);
U(fisttp,
  INIT "movl $7, (%rbx); fildl (%rbx); movl $2, (%rbx); fidivl (%rbx); fisttpl (%rbx);"
       "movl (%rbx), %eax",
  .rax = 3);
U(fist_indefinite, INIT "fld1; fldz; fdivrp; fistpll (%rbx); movq (%rbx), %rax",
  .rax = 0x8000000000000000);
U(precision_single,
  INIT "movw $0x7f, (%rbx); fldcw (%rbx); fld1; movl $3, (%rbx); fidivl (%rbx);"
       "fstpl (%rbx); movq (%rbx), %rax",
  .rax = 0x3fd5555560000000);
U(precision_extended, INIT "fld1; movl $3, (%rbx); fidivl (%rbx); fstpt (%rbx); movq (%rbx), %rax",
  .rax = 0xaaaaaaaaaaaaaaab);
U(fldpi, INIT "fldpi; fstpt (%rbx); movq (%rbx), %rax", .rax = 0xc90fdaa22168c235);
U(fcomi, INIT "fldz; fld1; fcomi %st(1); seta %al; setb %ah", .rax = 1);
U(fucom_unordered, INIT "fldz; fldz; fdivrp; fld1; fucom; fnstsw %ax; andl $0x4500, %eax",
  .rax = 0x4500);
U(fxam_empty, INIT "fxam; fnstsw %ax; andl $0x4500, %eax", .rax = 0x4100);
U(fprem,
  INIT "movl $3, (%rbx); fildl (%rbx); movl $17, (%rbx); fildl (%rbx); fprem; fistpl (%rbx);"
       "movl (%rbx), %eax",
  .rax = 2);
U(frndint,
  INIT "movl $5, (%rbx); fildl (%rbx); movl $2, (%rbx); fidivl (%rbx); frndint;"
       "fistpl (%rbx); movl (%rbx), %eax",
  .rax = 2);
U(fscale, INIT "movl $10, (%rbx); fildl (%rbx); fld1; fscale; fistpl (%rbx); movl (%rbx), %eax",
  .rax = 1024);
U(fbstp, INIT "movl $123456, (%rbx); fildl (%rbx); fbstp (%rbx); movq (%rbx), %rax",
  .rax = 0x123456);
U(fbld, INIT "movl $0x99, (%rbx); fbld (%rbx); fistpl (%rbx); movl (%rbx), %eax", .rax = 99);
U(fxch_ffree, INIT "fld1; fldz; fxch; ffree %st(1); fistpl (%rbx); movl (%rbx), %eax", .rax = 1);
U(fincstp, INIT "fincstp; fnstsw %ax", .rax = 0x0800);
U(fcmov, INIT "fldz; fld1; stc; fcmovb %st(1), %st; fistpl (%rbx); movl (%rbx), %eax");
U(snan_quiet, INIT "movl $0x7fa00000, (%rbx); flds (%rbx); fstps (%rbx); movl (%rbx), %eax",
  .rax = 0x7fe00000);

/* The environment: 28 bytes in 32 and 64 bits, 14 in 16; tags of a 1, a 0, an infinity. */
#define TAGGED "fld1; fldz; fld1; fldz; fdivrp;"
U(fnstenv_tags, INIT TAGGED "fnstenv (%rbx); movzwl 8(%rbx), %eax", .rax = 0x1bff);
U(fnstenv_masks,
  INIT "movw $0x340, (%rbx); fldcw (%rbx); fnstenv (%rbx); fnstcw (%rbx);"
       "movzwl (%rbx), %eax; fninit",
  .rax = 0x37f, .wrong_on = ANY_TCG);
U(fnstenv_status, INIT TAGGED "fnstenv (%rbx); movzwl 4(%rbx), %eax; andl $0x38ff, %eax",
  .rax = 0x2804);
CASE(fnstenv_16, U32,
     "fninit; fld1; movl $0x20000, %ebx; .byte 0x66; fnstenv (%ebx);"
     "movl 2(%ebx), %eax",
     .rax = 0x3fff3800, .wrong_on = PVM);
CASE(fnstenv_real, REAL, "fninit; fld1; fnstenv 0; movw 4, %ax", .rax = 0x3fff, .wrong_on = PVM);
CASE(fnsave_32, U32,
     "fninit; fldpi; movl $0x20000, %ebx; fnsave (%ebx); fnstsw %ax;"
     "xorl 28+4(%ebx), %eax",
     .rax = 0xc90fdaa2, .wrong_on = PVM);
U(frstor,
  INIT "fldpi; fld1; fnsave (%rbx); fldz; frstor (%rbx); fistpl 0x100(%rbx); fstpt (%rbx);"
       "movl 4(%rbx), %eax",
  .rax = 0xc90fdaa2);
U(fldenv, INIT "fld1; fnstenv (%rbx); fld1; fldenv (%rbx); fnstsw %ax", .rax = 0x3800);
U(fnclex, INIT "fld1; fldz; fdivrp; fnclex; fnstsw %ax", .rax = 0x3800);
U(fip, INIT "leaq 1f(%rip), %rcx; 1: fld1; fnstenv (%rbx); movl 12(%rbx), %eax; subl %ecx, %eax");

U(fip_again, INIT "leaq 1f(%rip), %rdx; movl $3, %ecx; 1: fld1; fnstenv (%rbx); loop 1b;"
		  "movl 12(%rbx), %eax; subl %edx, %eax; xorl %edx, %edx");
U(fdp, INIT "flds 0x100(%rbx); fnstenv (%rbx); movl 20(%rbx), %eax", .rax = 0x20100);
U(fldenv_pointers,
  INIT "fnstenv (%rbx); movl $0x1234, 12(%rbx); movl $0x5678, 20(%rbx); fldenv (%rbx);"
       "fnsave (%rbx); movl 12(%rbx), %eax; addl 20(%rbx), %eax",
  .rax = 0x1234 + 0x5678, .wrong_on = ANY_TCG);
/* An invalid operand that is not masked is not stored, across pages neither. */
U(fistp_nothing,
  INIT "movw $0x37e, (%rbx); fldcw (%rbx); fld1; fldz; fdivrp; movl $0x20ffe, %ebx;"
       "movl $0x11223344, (%rbx); fistpl (%rbx); fnclex; fninit; movl (%rbx), %eax",
  .rax = 0x11223344, .wrong_on = ANY_TCG);

/* --- MMX ---- */

U(mmx_add,
  "fninit; movl $0x7f80ff01, %ecx; movd %ecx, %mm0; paddusb %mm0, %mm0; movd %mm0, %eax; emms",
  .rax = 0xfeffff02);
U(mmx_tags,
  M "fninit; movd %ecx, %mm3; fnstenv (%rbx); movzwl 8(%rbx), %eax; emms; fnstenv (%rbx);"
    "movzwl 8(%rbx), %ecx; shll $16, %ecx; orl %ecx, %eax",
  .any_rax = true);
U(mmx_exponent,
  M "fninit; movq $-1, %rcx; movq %rcx, %mm0; fstpt (%rbx); movzwl 8(%rbx), %eax; emms",
  .rax = 0xffff, .wrong_on = ANY_TCG);
U(maskmovq,
  M "fninit; fld1; movl %ebx, %edi; movq $-1, (%rbx); movl $0x80, %ecx; movd %ecx, %mm1;"
    "movl $0x12345678, %ecx; movd %ecx, %mm2; fninit; fld1; maskmovq %mm1, %mm2; fnstsw %ax;"
    "andl $0x3800, %eax; orl (%rbx), %eax; emms",
  .rax = 0xffffff78);
U(mmx_top, M "fninit; fld1; pxor %mm0, %mm0; fnstsw %ax; andl $0x3800, %eax; emms");

/* --- SSE to SSE4.2 ---- */

U(paddb, IN("xmm0", "0x01ff7f8000112233") IN("xmm1", "0x0101010101010101") "paddb %xmm1, %xmm0" OUT,
  .rax = 0x0200808101122334);
U(paddsw, IN("xmm0", "0x7fff800000011234") "paddsw %xmm0, %xmm0" OUT, .rax = 0x7fff800000022468);
U(pmullw, IN("xmm0", "0xffff000300040005") "pmullw %xmm0, %xmm0" OUT, .rax = 0x0001000900100019);
U(pmaddwd, IN("xmm0", "0x8000800000020003") "pmaddwd %xmm0, %xmm0" OUT, .rax = 0x800000000000000d);
U(packuswb, IN("xmm0", "0x0100ffff007f00ff") "packuswb %xmm0, %xmm0" OUT,
  .rax = 0xff007fffff007fff);
U(pshufd, IN("xmm0", "0x1111111122222222") "pshufd $0x11, %xmm0, %xmm0" OUT,
  .rax = 0x2222222211111111);
U(pshufb,
  IN("xmm0", "0x0706050403020100") IN("xmm1", "0x8000010203040506") "pshufb %xmm1, %xmm0" OUT,
  .rax = 0x0000010203040506);
U(palignr,
  IN("xmm0", "0x1111111111111111") IN("xmm1", "0x2222222222222222") "palignr $12, %xmm1, %xmm0" OUT,
  .rax = 0x1111111122222222);
U(psllq, IN("xmm0", "0x8000000000000001") "psllq $1, %xmm0" OUT, .rax = 2);
U(psrldq, IN("xmm0", "0x1122334455667788") "psrldq $9, %xmm0" OUT, .rax = 0x0011223344556677);
U(psraw_big, IN("xmm0", "0x8000000000007fff") "psraw $99, %xmm0" OUT, .rax = 0xffff000000000000);
U(pcmpeqb, IN("xmm0", "0x0011") "pxor %xmm1, %xmm1; pcmpeqb %xmm1, %xmm0" OUT,
  .rax = 0xffffffffffffff00);
U(pmovmskb, IN("xmm0", "0x8000000000000080") "pmovmskb %xmm0, %eax", .rax = 0x8181);
U(ptest, IN("xmm0", "1") "ptest %xmm0, %xmm0; setz %al; setc %ah", .rax = 0x100);
U(pmulld, IN("xmm0", "0xffffffff00010000") "pmulld %xmm0, %xmm0" OUT, .rax = 0x100000000);
U(phminposuw, IN("xmm0", "0x0003000200010004") "phminposuw %xmm0, %xmm0" OUT, .rax = 0x10001);
U(pcmpistri,
  IN("xmm0", "0x0000000000636261")
	  IN("xmm1", "0x0000006362617978") "pcmpistri $0x0c, %xmm1, %xmm0; movl %ecx, %eax",
  .rax = 2);
U(pcmpestri,
  IN("xmm0", "0x61") IN("xmm1", "0x6162") "movl $1, %eax; movl $2, %edx;"
					  "pcmpestri $0, %xmm1, %xmm0; movl %ecx, %eax",
  .rax = 1);
U(dpps, IN("xmm0", "0x3f8000003f800000") "dpps $0xff, %xmm0, %xmm0; movd %xmm0, %eax",
  .rax = 0x40800000);
U(roundsd, IN("xmm0", "0x4004000000000000") "roundsd $0, %xmm0, %xmm0" OUT,
  .rax = 0x4000000000000000);
U(insertps, IN("xmm0", "0x1111111122222222") "insertps $0x4e, %xmm0, %xmm0; movd %xmm0, %eax",
  .rax = 0x11111111);
U(cvttsd2si, IN("xmm0", "0xc01e000000000000") "cvttsd2si %xmm0, %rax", .rax = -7ull);
U(cvtsd2si_big, IN("xmm0", "0x7ff0000000000000") "cvtsd2si %xmm0, %rax", .rax = 0x8000000000000000);
U(cvtsi2sd, "movq $-2, %rcx; cvtsi2sd %rcx, %xmm0" OUT, .rax = 0xc000000000000000);
U(minsd_nan_second,
  IN("xmm0", "0x7ff8000000000000") IN("xmm1", "0x3ff0000000000000") "minsd %xmm1, %xmm0" OUT,
  .rax = 0x3ff0000000000000);
U(ucomisd_nan, IN("xmm0", "0x7ff8000000000000") "ucomisd %xmm0, %xmm0; setp %al; setc %ah",
  .rax = 0x101);
U(sqrtsd, IN("xmm0", "0x4000000000000000") "sqrtsd %xmm0, %xmm0" OUT, .rax = 0x3ff6a09e667f3bcd);
U(divsd, IN("xmm0", "0x3ff0000000000000") IN("xmm1", "0x4008000000000000") "divsd %xmm1, %xmm0" OUT,
  .rax = 0x3fd5555555555555);
U(movss_load_clears, M IN("xmm0", "-1") "movl $5, (%rbx); movss (%rbx), %xmm0" OUT, .rax = 5);
U(movss_register_keeps, IN("xmm0", "-1") "pxor %xmm1, %xmm1; movss %xmm1, %xmm0" OUT,
  .rax = 0xffffffff00000000);
U(movhlps, IN("xmm0", "7") "movlhps %xmm0, %xmm0; movhlps %xmm0, %xmm0" OUT, .rax = 7);
U(maskmovdqu,
  "movl $0x20000, %edi;" IN("xmm0", "0x1122334455667788")
	  IN("xmm1", "0x80000000000080") "maskmovdqu %xmm1, %xmm0; movq (%rdi), %rax",
  .rax = 0x0022000000000088);
U(movq_clears_high, IN("xmm0", "-1") "movq %xmm0, %xmm0; psrldq $8, %xmm0" OUT);
U(aesenc, "pxor %xmm0, %xmm0; pxor %xmm1, %xmm1; aesenc %xmm1, %xmm0" OUT,
  .rax = 0x6363636363636363, .when = has_aes);
U(aesdeclast, "pxor %xmm0, %xmm0; pxor %xmm1, %xmm1; aesdeclast %xmm1, %xmm0" OUT,
  .rax = 0x5252525252525252, .when = has_aes);
U(aeskeygenassist, "pxor %xmm0, %xmm0; aeskeygenassist $1, %xmm0, %xmm0; psrldq $4, %xmm0" OUT,
  .rax = 0x6363636363636362, .any_rax = true, .when = has_aes);
U(pclmulqdq, IN("xmm0", "3") "pclmulqdq $0, %xmm0, %xmm0" OUT, .rax = 5, .when = has_pclmul);
U(sha1nexte,
  IN("xmm0", "0") IN("xmm1", "0x4000000000000000") "pslldq $8, %xmm0; pxor %xmm1, %xmm1;"
						   "sha1nexte %xmm1, %xmm0" OUT,
  .when = has_sha);
U(sha256msg1, IN("xmm0", "0x0000000100000001") "sha256msg1 %xmm0, %xmm0; movd %xmm0, %eax",
  .rax = 0x02004001, .when = has_sha);

/* --- MXCSR ---- */

U(mxcsr_flags,
  M "movl $0x1f80, (%rbx); ldmxcsr (%rbx); xorps %xmm1, %xmm1;" IN(
	  "xmm0", "0x3f8000003f800000") "divss %xmm1, %xmm0; stmxcsr (%rbx); movl (%rbx), %eax; "
					"movl $0x1f80, (%rbx);"
					"ldmxcsr (%rbx)",
  .rax = 0x1f84);
U(mxcsr_round_up,
  M "movl $0x5f80, (%rbx); ldmxcsr (%rbx);" IN("xmm0", "0x3ff0000000000000")
	  IN("xmm1",
	     "0x4008000000000000") "divsd %xmm1, %xmm0; movl $0x1f80, (%rbx); ldmxcsr (%rbx)" OUT,
  .rax = 0x3fd5555555555556);
U(mxcsr_ftz,
  M "movl $0x9f80, (%rbx); ldmxcsr (%rbx);" IN("xmm0", "0x0010000000000000")
	  IN("xmm1",
	     "0x4000000000000000") "divsd %xmm1, %xmm0; movl $0x1f80, (%rbx); ldmxcsr (%rbx)" OUT);
U(mxcsr_daz,
  M "movl $0x1fc0, (%rbx); ldmxcsr (%rbx);" IN("xmm0",
					       "1") "addsd %xmm0, %xmm0;"
						    "movl $0x1f80, (%rbx); ldmxcsr (%rbx)" OUT);

/* APM vol. 1 §4.3.2: with MXCSR.MM some operands need no alignment, with MOVAPS they do. */
#define MM    M "movl $0x21f80, (%rbx); ldmxcsr (%rbx); movq $0x1234, 1(%rbx);"
#define PLAIN "; movl $0x1f80, (%rbx); ldmxcsr (%rbx)"
U(mxcsr_mm, MM "pxor %xmm0, %xmm0; paddd 1(%rbx), %xmm0" PLAIN OUT, .rax = 0x1234,
  .when = has_misalignsse);
U(mxcsr_mm_across_pages,
  MM "movq $0x1234, 0xff9(%rbx); movq $0, 0x1001(%rbx); pxor %xmm0, %xmm0;"
     "paddd 0xff9(%rbx), %xmm0" PLAIN OUT,
  .rax = 0x1234, .when = has_misalignsse);
U(mxcsr_mm_movaps, MM HERE "movaps 1(%rbx), %xmm0", .v = GP, .when = has_misalignsse);
U(mxcsr_mm_fxrstor, MM "fxsave (%rbx); fxrstor (%rbx); movl 24(%rbx), %eax" PLAIN, .rax = 0x21f80,
  .when = has_misalignsse);

/* --- FXSAVE and XSAVE ---- */

U(fxsave_round,
  INIT "fldpi;" IN("xmm7", "0x1234") "fxsave (%rbx); fninit; pxor %xmm7, %xmm7;"
				     "fxrstor (%rbx); movq %xmm7, %rax; fstpt 0x300(%rbx); movq "
				     "0x300(%rbx), %rcx; xorq %rcx, %rax",
  .rax = 0xc90fdaa22168c235 ^ 0x1234);
U(fxsave_tags, INIT "fld1; fxsave (%rbx); movzbl 4(%rbx), %eax; fninit", .rax = 0x80);
U(fxsave_mask, INIT "fxsave (%rbx); movl 24(%rbx), %eax", .rax = 0x1f80);
U(fxrstor_bad_mxcsr, INIT "fxsave (%rbx); movl $0x10000, 24(%rbx);" HERE "fxrstor (%rbx)", .v = GP,
  .wrong_on = ANY_TCG);

static void xsave_on(struct state *s)
{
	(void)s;
	write_cr4(CR4_HOST | CR4_OSXSAVE);
	__asm__ volatile("xsetbv" : : "a"(3), "d"(0), "c"(0));
}
#define X(id, ...) CASE(id, U64, __VA_ARGS__, .setup = xsave_on, .when = has_xsave)
X(xgetbv, "xorl %ecx, %ecx; xgetbv", .rax = 3, .wrong_on = PVM);
X(xsave_round,
  M "fninit;" IN("xmm7", "0x1234") "movl $3, %eax; xsave (%rbx); pxor %xmm7, %xmm7;"
				   "xrstor (%rbx); movq %xmm7, %rax",
  .rax = 0x1234);
X(xsave_part, M IN("xmm7", "0x1234") "movl $1, %eax; xorl %edx, %edx; xsave (%rbx); movl $2, %eax;"
				     "movq 0x110(%rbx), %rax");
X(xrstor_init, M "movl $3, %eax; xorl %edx, %edx; xsave (%rbx); movq $0, 0x200(%rbx);" IN(
		       "xmm7", "0x1234") "movl $2, %eax; xrstor (%rbx); movq %xmm7, %rax");
X(xrstor_bad_header,
  M "movl $3, %eax; xorl %edx, %edx; xsave (%rbx); movl $4, 0x200(%rbx);" HERE "xrstor (%rbx)",
  .v = GP, .rax = 3, .wrong_on = PVM);
X(xsave_unaligned, "movl $0x20010, %ebx; movl $3, %eax;" HERE "xsave (%rbx)", .v = GP, .rax = 3);
X(xsetbv_user, HERE "xsetbv", .v = GP);
CASE(xsetbv_without_x87, K64, "movl $2, %eax; xorl %edx, %edx; xorl %ecx, %ecx;" HERE "xsetbv",
     .v = GP, .rax = 2, .setup = xsave_on, .when = has_xsave);

/* --- CPUID ---- */

TEST(cpuid_sane)
{
	uint32_t r[4];

	cpuid(0, 0, r);
	CHECK_THAT(r[0] >= 1);
	cpuid(1, 0, r);
	/* x86-64-v2: FPU TSC MSR PAE CX8 PGE CMOV FXSR SSE SSE2; SSE3 SSSE3 CX16 SSE4.1 SSE4.2
	 * POPCNT. */
	CHECK_EQUAL(r[3] & 0x0700a171, 0x0700a171);
	CHECK_EQUAL(r[2] & 0x00982201, 0x00982201);
	cpuid(0x80000000, 0, r);
	CHECK_THAT(r[0] >= 0x80000008);
	cpuid(0x80000001, 0, r);
	CHECK_THAT(r[3] >> 29 & 1);
	CHECK_THAT(r[2] & 1);
	cpuid(0x80000008, 0, r);
	CHECK_THAT((r[0] & 0xff) >= 36 && (r[0] >> 8 & 0xff) >= 48);
}
TEST(cpuid_osxsave, .when = has_xsave)
{
	uint32_t r[4];

	cpuid(1, 0, r);
	CHECK_EQUAL(r[2] >> 27 & 1, 0);
	xsave_on(NULL);
	cpuid(1, 0, r);
	CHECK_EQUAL(r[2] >> 27 & 1, 1);
	cpuid(0xd, 0, r);
	CHECK_EQUAL(r[1], 576);
}
