/*
 * Bits of the processor's control registers and MSRs, as the manuals name them (Intel SDM vol. 3
 * §2.5, §2.2.1; APM vol. 2 §3.1). Freestanding.
 */
#ifndef REVIRT_X86_REGISTERS_H
#define REVIRT_X86_REGISTERS_H

#define CR0_PE     (1u << 0) /* protected mode */
#define CR0_ET     (1u << 4) /* reads as 1 on every processor since the 486 */
#define CR0_NE     (1u << 5)
#define CR0_WP     (1u << 16)
#define CR0_NW     (1u << 29)
#define CR0_CD     (1u << 30)
#define CR0_PG     (1u << 31)

#define CR4_PAE    (1u << 5)

#define EFER_LME   (1u << 8)
#define EFER_LMA   (1u << 10)

#define RFLAGS_ONE (1u << 1) /* always set */
#define RFLAGS_IF  (1u << 9)

/* Model-specific registers (Intel SDM vol. 4 table 2-2). */
#define APIC_BASE_BSP           (1u << 8) /* in IA32_APIC_BASE */
#define APIC_BASE_EN            (1u << 11)
#define MSR_IA32_MISC_ENABLE    0x1a0
#define MISC_ENABLE_FAST_STRING (1u << 0)
#define MSR_IA32_MTRR_DEF_TYPE  0x2ff
#define MTRR_DEF_TYPE_E         (1u << 11) /* MTRRs are on */
#define MTRR_TYPE_WRITE_BACK    6

#endif
