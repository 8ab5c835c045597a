/*
 * Paging in legacy mode: two levels with pages of 4 KiB and 4 MiB, and PAE with 4 KiB and 2 MiB.
 * Each permission bit at each level against each access, as arch_paging.c does in long mode. Low
 * memory is mapped one to one by big pages; the page under test is at TEST_VA.
 */
#include "arch.h"

#define TEST_VA 0x80000000u
#define PAGE    DATA_AT

enum { READ, WRITE, FETCH, N_ACCESSES };
CODE(read, P32, "movl (%ebx), %eax");
CODE(write, P32, "movl %eax, (%ebx)");
CODE(fetch, P32, "jmp *%ebx");
static const uint8_t *const access_code[][2] = {
	{ code_read, end_read },
	{ code_write, end_write },
	{ code_fetch, end_fetch },
};

static uint32_t pd32[1024] __attribute__((aligned(4096)));
static uint32_t pt32[1024] __attribute__((aligned(4096)));
static uint64_t pdpt_pae[4] __attribute__((aligned(4096)));
static uint64_t pd_pae[512] __attribute__((aligned(4096)));
static uint64_t pd_test[512] __attribute__((aligned(4096)));
static uint64_t pt_pae[512] __attribute__((aligned(4096)));

/* upper and lower are the bits of the two levels; without lower the upper maps a big page. */
static void build(bool pae, uint32_t upper, uint32_t lower, bool big)
{
	uint32_t page = big ? (uint32_t)PTE_PS : 0;

	pd32[0] = PTE_ALL | PTE_PS;
	pd32[TEST_VA >> 22] = (big ? 0 : (uint32_t)(uint64_t)pt32) | upper | page;
	pt32[0] = PAGE | lower;
	pdpt_pae[0] = (uint64_t)pd_pae | PTE_P;
	pdpt_pae[2] = (uint64_t)pd_test | PTE_P;
	for (unsigned i = 0; i < 4; i++)
		pd_pae[i] = (uint64_t)i << 21 | PTE_ALL | PTE_PS;
	pd_test[0] = (big ? 0 : (uint64_t)pt_pae) | upper | page;
	pt_pae[0] = PAGE | lower;
	legacy_cr3 = (uint32_t)(uint64_t)(pae ? (void *)pdpt_pae : (void *)pd32);
	legacy_cr4 = pae ? CR4_PAE : CR4_PSE;
}

static void check(bool pae, uint32_t upper, uint32_t lower, bool big, unsigned access, bool user,
		  bool wp)
{
	uint32_t all = big ? upper : upper & lower, wanted = 0, at = TEST_VA + (big ? PAGE : 0);
	uint32_t code = (access == WRITE ? 2 : 0) | (user ? 4 : 0) |
			(access == FETCH && pae && has_nx() ? 16 : 0);
	enum mode mode = user ? Q32 : P32;
	struct state s;
	bool faults;

	faults = !(all & PTE_P) || (user && !(all & PTE_U)) ||
		 (access == WRITE && !(all & PTE_W) && (user || wp));
	wanted = code | (all & PTE_P ? 1 : 0);
	build(pae, upper, lower, big);
	legacy_cr0 = CR0_PE | 0x10 | CR0_PG | (wp ? CR0_WP : 0);
	write16(PAGE, 0x0b0f); /* UD2 */
	state_init(&s, mode);
	code_load(access_code[access][0], access_code[access][1]);
	s.rbx = at;
	run(&s, mode);
	if (faults) {
		CHECK_EQUAL(s.vector, PF);
		CHECK_EQUAL(s.error, wanted);
		CHECK_EQUAL(s.cr2, at);
	} else {
		uint64_t leaf = pae ? (big ? pd_test[0] : pt_pae[0])
				    : (big ? pd32[TEST_VA >> 22] : pt32[0]);

		CHECK_THAT(access == FETCH ? s.vector == UD && s.rip == at : s.vector == END);
		CHECK_EQUAL(leaf & (PTE_A | PTE_D), access == WRITE ? PTE_A | PTE_D : PTE_A);
	}
}

static void check_all(bool pae, bool big)
{
	static const uint32_t bits[] = { PTE_ALL, PTE_P | PTE_W, PTE_P | PTE_U, PTE_W | PTE_U };

	for (unsigned i = 0; i < ARRAY_SIZE(bits); i++)
		for (unsigned j = 0; j < (big ? 1 : ARRAY_SIZE(bits)); j++)
			for (unsigned how = 0; how < N_ACCESSES * 4; how++)
				check(pae, bits[i], bits[j], big, how >> 2, how & 1, how & 2);
}
TEST(two_levels_4k)
{
	check_all(false, false);
}
TEST(two_levels_4m)
{
	check_all(false, true);
}
TEST(pae_4k)
{
	check_all(true, false);
}
TEST(pae_2m)
{
	check_all(true, true);
}
/* Without CR4.PSE the bit means nothing: the entry leads to a table. */
TEST(pse_off)
{
	struct state s;

	build(false, PTE_ALL, PTE_ALL, false);
	for (unsigned i = 0; i < 1024; i++)
		pt32[i] = i << 12 | PTE_ALL;
	pd32[0] = (uint32_t)(uint64_t)pt32 | PTE_ALL;
	pd32[TEST_VA >> 22] = (uint32_t)(uint64_t)pt32 | PTE_ALL | PTE_PS;
	legacy_cr4 = 0;
	legacy_cr0 = CR0_PE | 0x10 | CR0_PG;
	write32(PAGE, 0x1234);
	state_init(&s, Q32);
	code_load(code_read, end_read);
	s.rbx = TEST_VA + PAGE;
	run(&s, Q32);
	CHECK_EQUAL(s.vector, END);
	CHECK_EQUAL(s.rax, 0x1234);
}
