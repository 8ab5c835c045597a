/*
 * Is this processor an x86-64? What the arch_*.c guests are made of.
 *
 * A case is a few instructions, the mode they run in, and what must come of them:
 *
 *	CASE(div_by_zero, K64, "xorl %ecx, %ecx\n" HERE "divl %ecx", .v = DE);
 *
 * The code is copied to CODE_AT and entered with all registers 0 but RSP; it ends at the first
 * exception or interrupt. With nothing said that must be END, the UD2 that follows the code; RAX
 * (always compared) must be 0. A fault's RIP must be that of HERE, which is the code's beginning
 * if not given. What needs C is a TEST(name) { … }, in which CHECK_THAT() tells what went wrong.
 *
 * A case's results come from the manuals: AMD64 APM volumes 2 and 3, Intel SDM volumes 2 and 3.
 * What an oracle is known to get wrong is marked .wrong_on, and skipped with oracle=NAME on the
 * command line; case=NAME runs one case only, from=N those from a number on, and with trace=1 each
 *is named before it runs.
 */
#ifndef GUEST_ARCH_H
#define GUEST_ARCH_H

#include "arch_asm.h"
#include "rt.h"

enum vector {
	DE,
	DB,
	NMI,
	BP,
	OF,
	BR,
	UD,
	NM,
	DF,
	TS = 10,
	NP,
	SS,
	GP,
	PF,
	MF = 16,
	AC,
	MC,
	XM,
	END = 0x100, /* the #UD of the UD2 that follows each case's code */
	IPI = 0x50,
};

/* Modes: K is CPL 0, U is CPL 3. K/U: in long mode; P: legacy protected, Q that at CPL 3. */
enum mode { NONE, K64, U64, K32, U32, K16, U16, P32, Q32, P16, Q16, REAL };

enum oracle { TCG = 1, TESTBED = 2, PVM = 4, BOCHS = 8, ANY_TCG = TCG | TESTBED };

/* Whose faults are known: see above. */
unsigned oracle(void);

struct state {
	uint64_t rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15;
	uint64_t rip, cs, rflags, rsp, ss, ds, es, fs, gs;
	uint64_t vector, error, cr2; /* how it ended; error is 0 where the vector has none */
	uint32_t rsp_ss[2];
};

struct arch_case {
	const char *name;
	enum mode mode;
	const uint8_t *code, *here, *end;
	void (*test)(void);
	void (*setup)(struct state *s);
	void (*check)(const struct state *s); /* with CHECK_THAT() */
	enum vector v;
	uint32_t e;
	uint64_t rax, cr2;
	uint64_t flags, flags_mask; /* of RFLAGS as saved */
	bool any_rip, any_rax;
	bool (*when)(void); /* the processor has what it takes */
	unsigned wrong_on;
};

#define ASM_K64  ".code64"
#define ASM_U64  ".code64"
#define ASM_K32  ".code32"
#define ASM_U32  ".code32"
#define ASM_K16  ".code16"
#define ASM_U16  ".code16"
#define ASM_P32  ".code32"
#define ASM_Q32  ".code32"
#define ASM_P16  ".code16"
#define ASM_Q16  ".code16"
#define ASM_REAL ".code16"

/* Where the exception's saved RIP must be. */
#define HERE    "99: "

#define STR2(x) #x
#define STR(x)  STR2(x)

/* A piece of code as an object: code_NAME, here_NAME, end_NAME. */
#define CODE(name, mode, text)                                                                \
	extern const uint8_t code_##name[], here_##name[], end_##name[];                      \
	__asm__(".pushsection .text.cases, \"ax\"\n" ASM_##mode                               \
		"\ncode_" #name ":\n99:\n" text "\n.set here_" #name ", 99b\nud2\nend_" #name \
		":\n.code64\n.popsection")

#define CASE_ENTRY(id)                          \
	static const struct arch_case case_##id \
		__attribute__((used, section("arch_cases"), aligned(8)))

#define CASE(id, m, text, ...) \
	CODE(id, m, text);     \
	CASE_ENTRY(id) = { #id, m, code_##id, here_##id, end_##id, .v = END, __VA_ARGS__ }

#define TEST(id, ...)                                                     \
	static void test_##id(void);                                      \
	CASE_ENTRY(id) = { .name = #id, .test = test_##id, __VA_ARGS__ }; \
	static void test_##id(void)

/* Marks the running case as failed. */
#define CHECK_THAT(condition)                                        \
	do {                                                         \
		if (!(condition))                                    \
			case_failed(__FILE__, __LINE__, #condition); \
	} while (0)
#define CHECK_EQUAL(a, b) case_equal(__FILE__, __LINE__, #a, (uint64_t)(a), (uint64_t)(b))
void case_failed(const char *file, unsigned line, const char *what);
bool case_equal(const char *file, unsigned line, const char *what, uint64_t a, uint64_t b);

/* --- Running code ---- */

/* A state to run code in a mode, at CODE_AT. */
void state_init(struct state *s, enum mode mode);
void code_load(const uint8_t *code, const uint8_t *end);
/* Runs until something happens; running again goes on, as IRET does. */
void run(struct state *s, enum mode mode);
/* Loads and runs: s is initialized, then changed by setup if that is not NULL. */
#define RUN(s, name, mode) run_code(s, mode, code_##name, end_##name)
void run_code(struct state *s, enum mode mode, const uint8_t *code, const uint8_t *end);
/* Offset of HERE in a piece of code. */
#define HERE_OF(name) ((uint64_t)(here_##name - code_##name))

/* --- The machine ---- */

extern uint64_t gdt[], pml4[], pdpt[], pd[], idt64[][2], idt32[];
extern uint64_t low_pt[512]; /* the first 2 MiB, in pages of 4 KiB */
extern uint32_t legacy_cr0, legacy_cr3, legacy_cr4;
extern uint8_t stubs64[], stubs32[];

struct tss64 {
	uint32_t reserved0;
	uint64_t rsp[3], reserved1, ist[7], reserved2;
	uint16_t reserved3, iomap;
	uint8_t bitmap[257];
} __attribute__((packed));

struct tss32 {
	uint16_t link, reserved0;
	uint32_t esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags;
	uint32_t eax, ecx, edx, ebx, esp, ebp, esi, edi, es, cs, ss, ds, fs, gs, ldt;
	uint16_t trap, iomap;
	uint8_t bitmap[257];
} __attribute__((packed));

extern struct tss64 tss64;
extern struct tss32 tss32;

/* A descriptor: type is bits 40-47 (P, DPL, S, type), flags G, D/B, L, AVL as 8, 4, 2, 1. */
uint64_t descriptor(uint32_t base, uint32_t limit, unsigned type, unsigned flags);
/* The i-th descriptor that is free for cases; selector FREE + 8 * i. */
static inline void set_free(unsigned i, uint64_t value)
{
	gdt[FREE / 8 + i] = value;
}
/* An IDT gate in long mode: type 0xe interrupt, 0xf trap. */
void gate64(unsigned vector, uint64_t offset, unsigned selector, unsigned ist, unsigned type,
	    unsigned dpl);
/* A call gate in the free descriptors i and i + 1. */
void call_gate64(unsigned i, uint64_t offset, unsigned selector, unsigned dpl);
uint64_t gate32(uint32_t offset, unsigned selector, unsigned type, unsigned dpl, unsigned count);

#define PTE_P   0x001ull
#define PTE_W   0x002ull
#define PTE_U   0x004ull
#define PTE_A   0x020ull
#define PTE_D   0x040ull
#define PTE_PS  0x080ull
#define PTE_G   0x100ull
#define PTE_NX  0x8000000000000000ull
#define PTE_ALL (PTE_P | PTE_W | PTE_U)

/* Sets the page at an address below 2 MiB (to map it one to one: pte = flags), and flushes it. */
void low_page(uint32_t address, uint64_t flags);

#define CR0_PE         (1u << 0)
#define CR0_MP         (1u << 1)
#define CR0_EM         (1u << 2)
#define CR0_TS         (1u << 3)
#define CR0_NE         (1u << 5)
#define CR0_WP         (1u << 16)
#define CR0_AM         (1u << 18)
#define CR0_PG         (1u << 31)

#define CR4_TSD        (1u << 2)
#define CR4_DE         (1u << 3)
#define CR4_PSE        (1u << 4)
#define CR4_PAE        (1u << 5)
#define CR4_PGE        (1u << 7)
#define CR4_OSFXSR     (1u << 9)
#define CR4_OSXMMEXCPT (1u << 10)
#define CR4_UMIP       (1u << 11)
#define CR4_FSGSBASE   (1u << 16)
#define CR4_OSXSAVE    (1u << 18)
#define CR4_SMEP       (1u << 20)
#define CR4_SMAP       (1u << 21)

#define EFER_SCE       (1u << 0)
#define EFER_NXE       (1u << 11)

#define FLAG_CF        0x0001u
#define FLAG_PF        0x0004u
#define FLAG_AF        0x0010u
#define FLAG_ZF        0x0040u
#define FLAG_SF        0x0080u
#define FLAG_TF        0x0100u
#define FLAG_IF        0x0200u
#define FLAG_DF        0x0400u
#define FLAG_OF        0x0800u
#define FLAG_NT        0x4000u
#define FLAG_RF        0x10000u
#define FLAG_AC        0x40000u
#define ARITH          (FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_OF)
#define IOPL(n)        ((n) << 12)

#define REGISTER(name)                                                      \
	static inline uint64_t read_##name(void)                            \
	{                                                                   \
		uint64_t v;                                                 \
		__asm__ volatile("mov %%" #name ", %0" : "=r"(v));          \
		return v;                                                   \
	}                                                                   \
	static inline void write_##name(uint64_t v)                         \
	{                                                                   \
		__asm__ volatile("mov %0, %%" #name : : "r"(v) : "memory"); \
	}
REGISTER(cr0)
REGISTER(cr2)
REGISTER(cr3)
REGISTER(cr4)
REGISTER(dr0)
REGISTER(dr1)
REGISTER(dr2)
REGISTER(dr3)
REGISTER(dr6)
REGISTER(dr7)

uint64_t rdmsr(uint32_t msr);
void wrmsr(uint32_t msr, uint64_t value);
uint64_t rdtsc(void);
void cpuid(uint32_t leaf, uint32_t subleaf, uint32_t r[4]); /* EAX, EBX, ECX, EDX */
void invlpg(uint64_t address);

/* CPUID's features, for .when. */
bool has_smep(void), has_smap(void), has_1g(void), has_nx(void), has_xsave(void), has_bmi(void);
bool has_sysenter_long(void), has_no_sysenter_long(void), has_fsgsbase(void), has_umip(void);
bool has_misalignsse(void), has_sha(void), has_aes(void), has_pclmul(void), has_adx(void),
	has_movbe(void);
bool has_xsaveopt(void), has_rdtscp(void), has_rdrand(void), has_lahf(void), has_amd(void);

#endif
