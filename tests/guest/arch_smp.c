/*
 * Several processors (-smp 2 to 4): LOCK, memory order, code and page tables changed by another.
 * INIT and SIPI through the local APIC in xAPIC mode start them.
 */
#include "arch.h"

#define APIC       0xfee00000
#define APIC_ID    (APIC + 0x20)
#define APIC_EOI   (APIC + 0xb0)
#define APIC_SVR   (APIC + 0xf0)
#define APIC_ICR   (APIC + 0x300)
#define ICR_BUSY   0x1000
#define ICR_OTHERS 0xc0000
#define ICR_INIT   0x4500
#define ICR_SIPI   0x4600
#define MAX_CPUS   4
#define STACK      16384
#define PATIENCE   4000000000ull /* TSC ticks until somebody is given up */

extern uint64_t ap_main;
extern uint32_t ap_stack;
extern uint8_t trampoline[], ap_trampoline[];

static uint8_t stacks[STACK] __attribute__((aligned(16)));
static uint8_t more_stacks[MAX_CPUS][STACK] __attribute__((aligned(16)));
static volatile unsigned present, ready_round, done;
static void (*volatile job)(unsigned cpu);
static unsigned cpus;

static void relax(void)
{
	__asm__ volatile("pause" : : : "memory");
}

/* Processors beside the first take a number, then do what is asked in rounds. */
static void ap_loop(unsigned cpu)
{
	for (unsigned round = 1;; round++) {
		while (ready_round != round)
			relax();
		job(cpu);
		__atomic_fetch_add(&done, 1, __ATOMIC_SEQ_CST);
	}
}
/* All come with the same stack, one after the other; each goes on with its own. */
static void ap_begin(void)
{
	unsigned cpu = __atomic_add_fetch(&present, 1, __ATOMIC_SEQ_CST);

	__asm__ volatile("mov %0, %%rsp; mov %1, %%edi; call *%2"
			 :
			 : "r"(more_stacks[cpu & 3] + STACK), "r"(cpu), "r"((uint64_t)ap_loop)
			 : "memory");
}

static void icr(uint32_t value)
{
	write32(APIC_ICR, value);
	while (read32(APIC_ICR) & ICR_BUSY)
		relax();
}

static bool wait_for(const volatile unsigned *value, unsigned wanted)
{
	uint64_t start = rdtsc();

	while (*value != wanted)
		if (rdtsc() - start > PATIENCE)
			return false;
		else
			relax();
	return true;
}

static void start_others(void)
{
	static bool started;
	unsigned wanted = param("cpus", 1) - 1;

	if (started)
		return;
	started = true;
	ap_main = (uint64_t)ap_begin;
	ap_stack = (uint32_t)(uint64_t)(stacks + STACK);
	/* SIPI starts at a page: a jump there leads to the trampoline. */
	write8(0xa000, 0xea); /* ljmp */
	write16(0xa001, TRAMPOLINE + (ap_trampoline - trampoline));
	write16(0xa003, 0);
	wrmsr(0x1b, rdmsr(0x1b) | 0x800);
	write32(APIC_SVR, 0x1ff);
	icr(ICR_OTHERS | ICR_INIT);
	for (uint64_t start = rdtsc(); rdtsc() - start < 30000000;)
		relax();
	icr(ICR_OTHERS | ICR_SIPI | 0x0a);
	CHECK(wait_for(&present, wanted));
	cpus = wanted + 1;
}

/* Runs a job on all, this one being number 0, and waits for all. */
static void on_all(void (*what)(unsigned cpu))
{
	start_others();
	job = what;
	done = 0;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	ready_round++;
	what(0);
	CHECK(wait_for(&done, cpus - 1));
}

/* --- LOCK ---- */

#define ROUNDS (param("rounds", 20000))
static uint8_t area[3 * 4096] __attribute__((aligned(4096)));
static volatile uint64_t *word;
static uint32_t rounds;

static void counters_reset(unsigned offset)
{
	memset(area, 0, sizeof(area));
	word = (volatile uint64_t *)(area + offset);
	rounds = ROUNDS;
}
#define COUNT(id, offset, expected, text, ...)                                         \
	static void job_##id(unsigned cpu)                                             \
	{                                                                              \
		(void)cpu;                                                             \
		for (uint32_t i = 0; i < rounds; i++)                                  \
			__asm__ volatile(text                                          \
					 :                                             \
					 : "D"(word)                                   \
					 : "memory", "cc", "rax", "rbx", "rcx", "rdx", \
					   ##__VA_ARGS__);                             \
	}                                                                              \
	TEST(count_##id)                                                               \
	{                                                                              \
		counters_reset(offset);                                                \
		on_all(job_##id);                                                      \
		CHECK_EQUAL(*word, (uint64_t)cpus *(expected));                        \
	}
COUNT(inc, 0, rounds, "lock; incl (%%rdi)")
COUNT(add_64, 8, rounds * 3ull, "lock; addq $3, (%%rdi)")
COUNT(xadd, 0, rounds, "movl $1, %%eax; lock; xaddl %%eax, (%%rdi)")
COUNT(cmpxchg, 0, rounds,
      "movl (%%rdi), %%eax; 1: leal 1(%%rax), %%ecx; lock; cmpxchgl %%ecx, (%%rdi); jnz 1b")
COUNT(cmpxchg8b, 0, rounds,
      "movl (%%rdi), %%eax; movl 4(%%rdi), %%edx; 1: movl %%eax, %%ebx; movl %%edx, %%ecx;"
      "addl $1, %%ebx; adcl $0, %%ecx; lock; cmpxchg8b (%%rdi); jnz 1b")
COUNT(cmpxchg16b, 16, rounds,
      "movq (%%rdi), %%rax; movq 8(%%rdi), %%rdx; 1: leaq 1(%%rax), %%rbx; movq %%rdx, %%rcx;"
      "lock; cmpxchg16b (%%rdi); jnz 1b")
COUNT(xchg_lock, 0, rounds,
      "1: movl $1, %%eax; xchgl %%eax, 16(%%rdi); testl %%eax, %%eax; jz 2f; pause; jmp 1b;"
      "2: incl (%%rdi); movl $0, 16(%%rdi)")
COUNT(bts_lock, 0, rounds,
      "1: lock; btsl $5, 16(%%rdi); jnc 2f; pause; jmp 1b; 2: incl (%%rdi); movl $0, 16(%%rdi)")
COUNT(add_sub, 0, 0ull, "lock; addq $7, (%%rdi); lock; subq $7, (%%rdi)")
COUNT(xor_twice, 0, 0ull, "lock; xorq $0x55, (%%rdi); lock; xorq $0x55, (%%rdi)")
COUNT(not_even, 0, 0ull, "lock; notq (%%rdi); lock; notq (%%rdi)")
/* Across cache lines and pages: slow, and atomic all the same. TCG is not. */
COUNT(inc_unaligned, 3, rounds, "lock; incl (%%rdi)")
COUNT(inc_line_crossing, 62, rounds, "lock; incl (%%rdi)")
COUNT(inc_page_crossing, 4094, rounds, "lock; incl (%%rdi)")
COUNT(xadd_page_crossing, 4095, rounds, "movl $1, %%eax; lock; xaddq %%rax, (%%rdi)")

/* Neighbouring bytes are no business of each other. */
static void job_neighbours(unsigned cpu)
{
	volatile uint8_t *mine = (volatile uint8_t *)word + cpu;

	for (uint32_t i = 0; i < rounds; i++)
		(*mine)++;
}
TEST(neighbours)
{
	counters_reset(0);
	on_all(job_neighbours);
	for (unsigned i = 0; i < cpus; i++)
		CHECK_EQUAL(((volatile uint8_t *)word)[i], rounds & 0xff);
}

/* Aligned words are written at once, also those of 16 bytes by cmpxchg16b. */
static volatile uint32_t torn;
static void job_tearing(unsigned cpu)
{
	uint64_t mine = 0x0101010101010101ull * (cpu + 1);

	for (uint32_t i = 0; i < rounds; i++) {
		uint64_t seen = *word;

		if (seen != 0 && seen * 0x100 + (seen & 0xff) != seen)
			torn++;
		*word = mine;
	}
}
TEST(tearing)
{
	counters_reset(0);
	torn = 0;
	on_all(job_tearing);
	CHECK_EQUAL(torn, 0);
}

/* --- Memory order (SDM vol. 3 §8.2) ---- */

static volatile struct {
	uint32_t x __attribute__((aligned(64)));
	uint32_t y __attribute__((aligned(64)));
	uint32_t r0 __attribute__((aligned(64)));
	uint32_t r1 __attribute__((aligned(64)));
	uint32_t turn0 __attribute__((aligned(64)));
	uint32_t turn1 __attribute__((aligned(64)));
	uint32_t bad;
} litmus;

/* Two meet, so that each trial begins at once on both. */
static void meet(unsigned cpu, uint32_t i)
{
	if (cpu == 0) {
		litmus.turn0 = i;
		while (litmus.turn1 < i)
			relax();
	} else {
		litmus.turn1 = i;
		while (litmus.turn0 < i)
			relax();
	}
}
#define LITMUS(id, cpu0, cpu1, forbidden)                          \
	static void job_##id(unsigned cpu)                         \
	{                                                          \
		for (uint32_t i = 1; i < rounds && cpu < 2; i++) { \
			if (cpu == 0)                              \
				litmus.x = litmus.y = 0;           \
			meet(cpu, 2 * i);                          \
			if (cpu == 0) {                            \
				cpu0                               \
			} else {                                   \
				cpu1                               \
			}                                          \
			meet(cpu, 2 * i + 1);                      \
			if (cpu == 0 && (forbidden))               \
				litmus.bad++;                      \
		}                                                  \
	}                                                          \
	TEST(litmus_##id)                                          \
	{                                                          \
		rounds = ROUNDS / 4;                               \
		litmus.turn0 = litmus.turn1 = litmus.bad = 0;      \
		start_others();                                    \
		if (cpus > 1)                                      \
			on_all(job_##id);                          \
		CHECK_EQUAL(litmus.bad, 0);                        \
	}
#define FENCE  __asm__ volatile("mfence" : : : "memory")
#define LOCKED __asm__ volatile("lock; addl $0, (%%rsp)" : : : "memory", "cc")
LITMUS(message_passing, litmus.x = 1; litmus.y = 1;, litmus.r0 = litmus.y; litmus.r1 = litmus.x;
       , litmus.r0 == 1 && litmus.r1 == 0)
LITMUS(load_buffering, litmus.r0 = litmus.x; litmus.y = 1;, litmus.r1 = litmus.y; litmus.x = 1;
       , litmus.r0 == 1 && litmus.r1 == 1)
LITMUS(store_buffering_fenced, litmus.x = 1; FENCE; litmus.r0 = litmus.y;, litmus.y = 1; FENCE;
       litmus.r1 = litmus.x;, litmus.r0 == 0 && litmus.r1 == 0)
LITMUS(store_buffering_locked, litmus.x = 1; LOCKED; litmus.r0 = litmus.y;, litmus.y = 1; LOCKED;
       litmus.r1 = litmus.x;, litmus.r0 == 0 && litmus.r1 == 0)
LITMUS(own_store_first, litmus.x = 1; litmus.r0 = litmus.x;, litmus.r1 = 1;, litmus.r0 != 1)

/* --- What another processor changes ---- */

/* Code: written, then announced; the other serializes and calls it. */
static volatile uint32_t code_version, code_answer;
static void job_code(unsigned cpu)
{
	volatile uint8_t *code = area;
	uint32_t r[4];

	for (uint32_t i = 1; i <= 300 && cpu < 2; i++) {
		if (cpu == 0) {
			code[0] = 0xb8;
			for (unsigned b = 0; b < 4; b++)
				code[1 + b] = i * 0x1010101 >> 8 * b;
			code[5] = 0xc3;
			code_version = i;
			while (code_answer != i)
				relax();
		} else {
			while (code_version != i)
				relax();
			cpuid(0, 0, r);
			if (((uint32_t(*)(void))area)() != i * 0x1010101)
				torn++;
			code_answer = i;
		}
	}
}
TEST(cross_modified_code)
{
	counters_reset(0);
	torn = code_version = code_answer = 0;
	start_others();
	if (cpus > 1)
		on_all(job_code);
	CHECK_EQUAL(torn, 0);
}

/* A page taken away: gone for the other when it has flushed it. */
#define SHARED_VA 0x8000000000ull
static uint64_t shared_tables[3][512] __attribute__((aligned(4096)));
static void job_shootdown(unsigned cpu)
{
	for (uint32_t i = 1; i <= 300 && cpu < 2; i++) {
		if (cpu == 0) {
			*(volatile uint64_t *)&shared_tables[2][0] =
				(uint64_t)(area + (i & 1) * 4096) | PTE_ALL;
			code_version = i;
			while (code_answer != i)
				relax();
		} else {
			while (code_version != i)
				relax();
			invlpg(SHARED_VA);
			if (*(volatile uint32_t *)SHARED_VA != (i & 1))
				torn++;
			code_answer = i;
		}
	}
}
TEST(shootdown)
{
	counters_reset(0);
	area[4096] = 1;
	torn = code_version = code_answer = 0;
	shared_tables[0][0] = (uint64_t)shared_tables[1] | PTE_ALL;
	shared_tables[1][0] = (uint64_t)shared_tables[2] | PTE_ALL;
	pml4[1] = (uint64_t)shared_tables[0] | PTE_ALL;
	start_others();
	if (cpus > 1)
		on_all(job_shootdown);
	CHECK_EQUAL(torn, 0);
}
/* Both set D and A of neighbouring entries, and neither is lost. */
static void job_dirty(unsigned cpu)
{
	for (unsigned i = cpu; i < 512; i += cpus)
		*(volatile uint8_t *)(SHARED_VA + i * 4096) = 0;
}
TEST(dirty_bits)
{
	pml4[1] = (uint64_t)shared_tables[0] | PTE_ALL;
	shared_tables[0][0] = (uint64_t)shared_tables[1] | PTE_ALL;
	shared_tables[1][0] = (uint64_t)shared_tables[2] | PTE_ALL;
	for (unsigned i = 0; i < 512; i++)
		shared_tables[2][i] = (uint64_t)area | PTE_ALL;
	start_others();
	on_all(job_dirty);
	for (unsigned i = 1; i < 512; i++)
		CHECK_EQUAL(shared_tables[2][i] & (PTE_A | PTE_D), PTE_A | PTE_D);
}
