/* What arch guests' C and assembly share: selectors, addresses, struct state's layout. See arch.h.
 */
#ifndef GUEST_ARCH_ASM_H
#define GUEST_ARCH_ASM_H

/* Selectors. SYSCALL and SYSENTER take theirs from CS64 on, in legacy mode from CS32 on. */
#define CS64     0x08
#define DS0      0x10
#define CS32U    (0x18 | 3)
#define DS3      (0x20 | 3)
#define CS64U    (0x28 | 3)
#define CS32     0x38
#define CS16     0x58
#define DS16     0x60
#define SS16     0x68
#define CS16U    (0x70 | 3)
#define DS16U    (0x78 | 3)
#define SS16U    (0x80 | 3)
#define TSS64    0x88
#define TSS32    0x98
#define LDT      0xa0
#define RCS16    0xb0
#define RDS16    0xb8
#define FREE     0xc0 /* from here on descriptors are a case's own */
#define GDT_SIZE 0x200

/* Low memory: what is tested runs in [CODE_AT, 0x40000), on data and a stack of its own. */
#define REAL_STATE 0x7000
#define TRAMPOLINE 0x8000
#define REAL_STUBS 0x9000
#define CODE_AT    0x10000
#define DATA_AT    0x20000
#define STACK_AT   0x30000
#define LOW_END    0x40000
#define STACK_TOP  0xf000 /* in 16-bit segments; STACK_AT + STACK_TOP in flat ones */

#define MSR_EFER   0xc0000080
#define EFER_LME   0x100
#define CR0_HOST   0x80000033 /* PG, NE, ET, MP, PE */
#define CR4_HOST   0x00000620 /* PAE, OSFXSR, OSXMMEXCPT */

/* struct state */
#define S_RAX    0
#define S_RBX    8
#define S_RCX    16
#define S_RDX    24
#define S_RSI    32
#define S_RDI    40
#define S_RBP    48
#define S_R8     56
#define S_R9     64
#define S_R10    72
#define S_R11    80
#define S_R12    88
#define S_R13    96
#define S_R14    104
#define S_R15    112
#define S_RIP    120
#define S_CS     128
#define S_RFLAGS 136
#define S_RSP    144
#define S_SS     152
#define S_DS     160
#define S_ES     168
#define S_FS     176
#define S_GS     184
#define S_VECTOR 192
#define S_ERROR  200
#define S_CR2    208
#define S_RSP_SS 216 /* for LSS */

#endif
