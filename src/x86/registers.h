/*
 * Bits of the processor's control registers and MSRs, as the manuals name them (Intel SDM vol. 3
 * §2.5, §2.2.1; APM vol. 2 §3.1). Freestanding.
 */
#ifndef REVIRT_X86_REGISTERS_H
#define REVIRT_X86_REGISTERS_H

#define CR0_PE         (1u << 0) /* protected mode */
#define CR0_MP         (1u << 1)
#define CR0_EM         (1u << 2)
#define CR0_TS         (1u << 3)
#define CR0_ET         (1u << 4) /* reads as 1 on every processor since the 486 */
#define CR0_NE         (1u << 5)
#define CR0_WP         (1u << 16)
#define CR0_AM         (1u << 18)
#define CR0_NW         (1u << 29)
#define CR0_CD         (1u << 30)
#define CR0_PG         (1u << 31)

#define CR4_TSD        (1u << 2)
#define CR4_DE         (1u << 3)
#define CR4_PSE        (1u << 4)
#define CR4_PAE        (1u << 5)
#define CR4_MCE        (1u << 6)
#define CR4_PGE        (1u << 7)
#define CR4_PCE        (1u << 8)
#define CR4_OSFXSR     (1u << 9)
#define CR4_OSXMMEXCPT (1u << 10)
#define CR4_UMIP       (1u << 11)
#define CR4_LA57       (1u << 12) /* five levels of page tables */
#define CR4_FSGSBASE   (1u << 16)
#define CR4_OSXSAVE    (1u << 18)
#define CR4_SMEP       (1u << 20)
#define CR4_SMAP       (1u << 21)

#define EFER_SCE       (1u << 0)
#define EFER_LME       (1u << 8)
#define EFER_LMA       (1u << 10)
#define EFER_NXE       (1u << 11)

#define RFLAGS_CF      (1u << 0)
#define RFLAGS_ONE     (1u << 1) /* always set */
#define RFLAGS_PF      (1u << 2)
#define RFLAGS_AF      (1u << 4)
#define RFLAGS_ZF      (1u << 6)
#define RFLAGS_SF      (1u << 7)
#define RFLAGS_TF      (1u << 8)
#define RFLAGS_IF      (1u << 9)
#define RFLAGS_DF      (1u << 10)
#define RFLAGS_OF      (1u << 11)
#define RFLAGS_IOPL    (3u << 12)
#define RFLAGS_NT      (1u << 14)
#define RFLAGS_RF      (1u << 16)
#define RFLAGS_VM      (1u << 17)
#define RFLAGS_AC      (1u << 18)
#define RFLAGS_ID      (1u << 21)

/* Model-specific registers (Intel SDM vol. 4 table 2-2). */
#define APIC_BASE_BSP           (1u << 8) /* in IA32_APIC_BASE */
#define APIC_BASE_EN            (1u << 11)
#define MSR_IA32_MISC_ENABLE    0x1a0
#define MISC_ENABLE_FAST_STRING (1u << 0)
#define MSR_IA32_MTRR_DEF_TYPE  0x2ff
#define MTRR_DEF_TYPE_E         (1u << 11) /* MTRRs are on */
#define MTRR_TYPE_WRITE_BACK    6

#endif
