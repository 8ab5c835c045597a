/*
 * Code that changes, with one processor: in the same block, just ahead, through another mapping,
 * across pages, by string instructions. The processor must see each change at the next branch or,
 * on x86, at the next instruction (APM vol. 2 §7.6.1 asks for nothing between them in the same
 * linear address; for another a serializing instruction or a jump).
 */
#include "arch.h"

#define SMC(id, mode, ...) CASE(smc_##id, mode, __VA_ARGS__)

/* "movl $1, %eax" is b8 01 00 00 00: 1f + 1 is its number. */
SMC(ahead, U64, "leaq 1f(%rip), %rbx; movb $7, 1(%rbx); jmp 1f; 1: movl $1, %eax", .rax = 7);
SMC(next, U64, "leaq 1f(%rip), %rbx; movb $7, 1(%rbx); 1: movl $1, %eax", .rax = 7);
SMC(next_kernel, K64, "leaq 1f(%rip), %rbx; movl $7, 1(%rbx); 1: movl $1, %eax", .rax = 7);
SMC(next_32, U32, "call 2f; 2: popl %ebx; movb $7, (1f - 2b + 1)(%ebx); 1: movl $1, %eax",
    .rax = 7);
SMC(next_real, REAL,
    "movw $0x1000, %cx; movw %cx, %ds; movb $7, 1f - code_smc_next_real + 1;"
    "1: movw $1, %ax",
    .rax = 7);
SMC(loop, U64, "leaq 1f(%rip), %rbx; movl $5, %ecx; 1: addl $1, %eax; incb 2(%rbx); loop 1b",
    .rax = 1 + 2 + 3 + 4 + 5);
SMC(loop_behind, U64,
    "leaq 2f(%rip), %rbx; movl $5, %ecx; 1: jmp 2f; 3: incb 2(%rbx); loop 1b; jmp 4f;"
    "2: addl $1, %eax; jmp 3b; 4:",
    .rax = 15);
SMC(opcode, U64,
    "leaq 1f(%rip), %rbx; movl $8, %eax; movw $0xe8d1, (%rbx); jmp 1f; 1: addl %eax, "
    "%eax",
    .rax = 4);
SMC(itself, U64,
    "leaq 1f(%rip), %rdi; movl $0x90, %eax; movl $2, %ecx; 1: rep stosb; movl $5, %eax", .rax = 5);
SMC(rep_movsb, U64,
    "leaq 1f(%rip), %rsi; leaq 2f(%rip), %rdi; movl $5, %ecx; rep movsb; jmp 2f;"
    "1: movl $9, %eax; 2: movl $1, %eax",
    .rax = 9);
SMC(rep_stos_ahead, U64,
    "leaq 1f(%rip), %rdi; movl $0x90909090, %eax; movl $4, %ecx; rep stosl;"
    "1: .rept 8; ud2; .endr; xorl %eax, %eax");
SMC(push, U64,
    "leaq 1f+8(%rip), %rsp; movabsq $0x9090909090909090, %rax; pushq %rax; xorl %eax, %eax;"
    "1: ud2; ud2; ud2; ud2");
SMC(lock, U64, "leaq 1f(%rip), %rbx; movb $7, %cl; lock; xaddb %cl, 1(%rbx); 1: movl $1, %eax",
    .rax = 8);
SMC(xmm, U64,
    "leaq 1f(%rip), %rbx; leaq 2f(%rip), %rcx; movups (%rcx), %xmm0; movups %xmm0, (%rbx);"
    "jmp 1f; 1: .rept 8; ud2; .endr; jmp 3f; 2: .rept 16; nop; .endr; 3:");
SMC(call_target, U64,
    "leaq 1f(%rip), %rbx; call 1f; movl %eax, %edx; movb $5, 1(%rbx); call 1f;"
    "shll $4, %edx; orl %edx, %eax; jmp 2f; 1: movl $1, %eax; ret; 2:",
    .rax = 0x15);
SMC(data_beside, U64,
    "leaq 1f(%rip), %rbx; movl $1000, %ecx; 2: incl (%rbx); loop 2b;"
    "movl (%rbx), %eax; jmp 3f; 1: .long 0; 3:",
    .rax = 1000);
SMC(fnstcw, U64, "leaq 1f(%rip), %rbx; fninit; fnstcw 1(%rbx); 1: movl $1, %eax", .rax = 0x37f);
SMC(cmpxchg, U64,
    "leaq 1f(%rip), %rbx; movl $1, %eax; movl $6, %ecx; cmpxchgl %ecx, 1(%rbx);"
    "1: movl $1, %eax",
    .rax = 6);

/* The same memory at another address: a jump through a serializing instruction is enough. */
#define ALIAS 0x8000000000ull
static uint64_t alias_tables[3][512] __attribute__((aligned(4096)));
static void map_alias(uint64_t to)
{
	pml4[1] = (uint64_t)alias_tables[0] | PTE_ALL;
	alias_tables[0][0] = (uint64_t)alias_tables[1] | PTE_ALL;
	alias_tables[1][0] = (uint64_t)alias_tables[2] | PTE_ALL;
	for (unsigned i = 0; i < 4; i++) {
		alias_tables[2][i] = (to + i * 4096) | PTE_ALL;
		invlpg(ALIAS + i * 4096);
	}
}
static void alias(struct state *s)
{
	map_alias(CODE_AT);
	s->rdx = ALIAS - CODE_AT;
}
SMC(alias, U64,
    "leaq 1f(%rip), %rbx; call 1f; movl %eax, %esi; movb $7, 1(%rbx,%rdx); pushq %rdx;"
    "pushq %rbx; cpuid; popq %rbx; popq %rdx; call 1f; shll $4, %esi; orl %esi, %eax; jmp 2f;"
    "1: movl $1, %eax; ret; 2:",
    .rax = 0x17, .setup = alias);
SMC(alias_runs, U64,
    "leaq 1f(%rip), %rbx; leaq (%rbx,%rdx), %r8; call *%r8; movl %eax, %esi;"
    "movb $7, 1(%rbx); pushq %rbx; cpuid; popq %rbx; call *%r8; shll $4, %esi; orl %esi, %eax;"
    "jmp 2f; 1: movl $1, %eax; ret; 2:",
    .rax = 0x17, .setup = alias);

/* --- From C ---- */

/* A function at an address: movl $value, %eax; ret */
static void put_function(uint64_t at, uint32_t value)
{
	volatile uint8_t *p = (volatile uint8_t *)at;

	p[0] = 0xb8;
	for (unsigned i = 0; i < 4; i++)
		p[1 + i] = value >> 8 * i;
	p[5] = 0xc3;
}
static uint32_t call_function(uint64_t at)
{
	return ((uint32_t(*)(void))at)();
}

TEST(rewritten_function)
{
	for (uint32_t i = 0; i < 200; i++) {
		put_function(DATA_AT, i * 0x1010101);
		CHECK_EQUAL(call_function(DATA_AT), i * 0x1010101);
	}
}
/* Each byte boundary of a page lies once within the instruction. */
TEST(crossing_pages)
{
	for (unsigned cut = 0; cut < 7; cut++)
		for (uint32_t i = 0; i < 4; i++) {
			uint64_t at = DATA_AT + 0x1000 - cut;

			put_function(at, 0x11223300 + i);
			CHECK_EQUAL(call_function(at), 0x11223300 + i);
			write8(at + 4, 0x55);
			CHECK_EQUAL(call_function(at), 0x55223300 + i);
			write8(at + 1, 0x66);
			CHECK_EQUAL(call_function(at), 0x55223366);
		}
}
/* The second page of a crossing instruction becomes another. */
TEST(crossing_remapped, .wrong_on = BOCHS)
{
	uint64_t at = ALIAS + 0xffe;

	map_alias(DATA_AT);
	put_function(DATA_AT + 0xffe, 0x11111111);
	CHECK_EQUAL(call_function(at), 0x11111111);
	memset((void *)(DATA_AT + 0x2000), 0x22, 3);
	write8(DATA_AT + 0x2003, 0xc3);
	alias_tables[2][1] = (DATA_AT + 0x2000) | PTE_ALL;
	invlpg(ALIAS + 0x1000);
	CHECK_EQUAL(call_function(at), 0x22222211);
}
TEST(remapped)
{
	map_alias(DATA_AT);
	put_function(DATA_AT, 1);
	put_function(DATA_AT + 0x2000, 2);
	for (unsigned i = 0; i < 20; i++) {
		CHECK_EQUAL(call_function(ALIAS), 1);
		alias_tables[2][0] = (DATA_AT + 0x2000) | PTE_ALL;
		invlpg(ALIAS);
		CHECK_EQUAL(call_function(ALIAS), 2);
		alias_tables[2][0] = DATA_AT | PTE_ALL;
		invlpg(ALIAS);
	}
}
TEST(becomes_nx, .when = has_nx)
{
	struct state s;

	put_function(DATA_AT, 1);
	CHECK_EQUAL(call_function(DATA_AT), 1);
	low_page(DATA_AT, PTE_ALL | PTE_NX);
	state_init(&s, U64);
	s.rip = DATA_AT;
	run(&s, U64);
	CHECK_EQUAL(s.vector, PF);
	CHECK_EQUAL(s.error, 0x15);
}
/* One page of code in two modes: what is decoded is not the address's alone. */
TEST(two_modes)
{
	static const uint8_t inc_or_rex[] = { 0x40, 0x90, 0x0f,
					      0x0b }; /* inc %eax; nop, or REX nop */
	static const enum mode order[] = { U64, U32, U16, K64, Q32, U64, U32 };

	for (unsigned i = 0; i < ARRAY_SIZE(order); i++) {
		struct state s;

		state_init(&s, order[i]);
		memcpy((void *)CODE_AT, inc_or_rex, sizeof(inc_or_rex));
		run(&s, order[i]);
		CHECK_EQUAL(s.vector, UD);
		CHECK_EQUAL(s.rax, order[i] != U64 && order[i] != K64);
	}
}
TEST(data_page_becomes_code_and_back)
{
	for (uint32_t i = 0; i < 50; i++) {
		memset((void *)DATA_AT, i, 4096);
		put_function(DATA_AT + 0x100, i);
		CHECK_EQUAL(call_function(DATA_AT + 0x100), i);
		CHECK_EQUAL(read8(DATA_AT + 0x200), i & 0xff);
	}
}
