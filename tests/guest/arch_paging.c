/*
 * Paging in long mode: every access against every combination of bits that matters, compared with a
 * model written from APM vol. 2 §5 (below: model()), A and D bits included; then what translation
 * look-aside buffers may and may not do, and accesses that cross pages.
 */
#include "arch.h"

#define TEST_VA 0x8000000000ull /* a top-level entry of its own */
#define PAGE    DATA_AT
#define OTHER   (DATA_AT + 0x1000)

enum access { READ, WRITE, RMW, FETCH, N_ACCESSES };
enum { PF_P = 1, PF_W = 2, PF_U = 4, PF_RSVD = 8, PF_I = 16 };
#define NO_FAULT ((uint32_t)-1)

/* The entries on the way to the page under test, the leaf last: levels 4, or fewer for big pages.
 */
static struct {
	unsigned levels;
	uint64_t entry[4];
	uint64_t reserved[4];
} walk;
static uint64_t tables[3][512] __attribute__((aligned(4096)));

struct setting {
	bool user, wp, nxe, smep, smap, ac;
};

/* The error code an access gives, or NO_FAULT. */
static uint32_t model(enum access access, const struct setting *how)
{
	bool u = true, w = true, x = true, write = access == WRITE || access == RMW;
	uint32_t code = (write ? PF_W : 0) | (how->user ? PF_U : 0) |
			(access == FETCH && (how->smep || how->nxe) ? PF_I : 0);

	for (unsigned i = 0; i < walk.levels; i++) {
		uint64_t e = walk.entry[i];

		if (!(e & PTE_P))
			return code;
		if (e & (walk.reserved[i] | (how->nxe ? 0 : PTE_NX)))
			return code | PF_P | PF_RSVD;
		u &= !!(e & PTE_U);
		w &= !!(e & PTE_W);
		x &= !(e & PTE_NX);
	}
	code |= PF_P;
	if (how->user ? !u : u && (access == FETCH ? how->smep : how->smap && !how->ac))
		return code;
	if (write && !w && (how->user || how->wp))
		return code;
	return access == FETCH && !x ? code : NO_FAULT;
}

static uint64_t *slot(unsigned level)
{
	return level == 0 ? &pml4[1] : &tables[level - 1][0];
}

static void write_tables(void)
{
	for (unsigned i = 0; i < walk.levels; i++)
		*slot(i) = walk.entry[i];
	invlpg(TEST_VA);
}

/* A walk in which everything is allowed; big pages lie where PAGE is, too. */
static void walk_init(unsigned levels)
{
	static const uint64_t leaf_reserved[] = { [2] = 0x3fffe000, [3] = 0x1fe000, [4] = 0 };

	walk.levels = levels;
	for (unsigned i = 0; i < levels; i++) {
		walk.entry[i] = (uint64_t)tables[i] | PTE_ALL;
		walk.reserved[i] = 1ull << 51 | (i == 0 ? PTE_PS : 0);
	}
	walk.entry[levels - 1] = levels == 4 ? PAGE | PTE_ALL : PTE_ALL | PTE_PS;
	walk.reserved[levels - 1] |= leaf_reserved[levels];
	memset(tables, 0, sizeof(tables));
}

static uint64_t test_address(void)
{
	return TEST_VA + (walk.levels == 4 ? 0 : PAGE);
}

CODE(read, K64, "movl (%rbx), %eax");
CODE(write, K64, "movl %eax, (%rbx)");
CODE(rmw, K64, "lock; addl $0, (%rbx)");
CODE(fetch, K64, "jmp *%rbx");
static const uint8_t *const access_code[N_ACCESSES][2] = {
	[READ] = { code_read, end_read },
	[WRITE] = { code_write, end_write },
	[RMW] = { code_rmw, end_rmw },
	[FETCH] = { code_fetch, end_fetch },
};

static void apply(const struct setting *how)
{
	uint64_t flags = PTE_P | PTE_W | (how->user ? PTE_U : 0);

	low_page(CODE_AT, flags);
	low_page(STACK_AT + 0xe000, flags);
	write_cr0(how->wp ? CR0_HOST | CR0_WP : CR0_HOST);
	wrmsr(MSR_EFER, EFER_LME | (how->nxe ? EFER_NXE : 0));
}

/* What an access did to the tables must be what it had to: A everywhere, D in the leaf if written.
 */
static void check_bits(enum access access, bool faulted)
{
	for (unsigned i = 0; i < walk.levels; i++) {
		bool leaf = i == walk.levels - 1;
		uint64_t e = *slot(i), a = faulted ? e & PTE_A : PTE_A;
		uint64_t d = leaf && !faulted && (access == WRITE || access == RMW) ? PTE_D : 0;

		CHECK_EQUAL(e, walk.entry[i] | a | d);
	}
}

static void check_access(enum access access, const struct setting *how)
{
	uint32_t code = model(access, how);
	enum mode mode = how->user ? U64 : K64;
	struct state s;

	/* TCG reads first where it should write; and forgets P beside RSVD (APM vol. 2 §8.4.2). */
	if ((oracle() & ANY_TCG) && access == RMW)
		return;
	if ((oracle() & ANY_TCG) && code != NO_FAULT && (code & PF_RSVD))
		code &= ~PF_P;
	write_tables();
	write16(PAGE, 0x0b0f); /* UD2 */
	state_init(&s, mode);
	code_load(access_code[access][0], access_code[access][1]);
	s.rbx = test_address();
	s.rflags |= how->ac ? FLAG_AC : 0;
	write_cr4(CR4_HOST | (how->smep ? CR4_SMEP : 0) | (how->smap ? CR4_SMAP : 0));
	run(&s, mode);
	write_cr4(CR4_HOST);
	if (code == NO_FAULT) {
		CHECK_THAT(access == FETCH ? s.vector == UD && s.rip == s.rbx : s.vector == END);
	} else {
		CHECK_EQUAL(s.vector, PF);
		CHECK_EQUAL(s.error, code);
		CHECK_EQUAL(s.cr2, test_address());
		CHECK_EQUAL(s.rip, access == FETCH ? test_address() : CODE_AT);
	}
	check_bits(access, code != NO_FAULT);
}

/* Each bit at each level, and pairs of permissions at two levels. */
static void check_walks(const struct setting *how)
{
	static const uint64_t flips[] = {
		0, PTE_P, PTE_W, PTE_U, PTE_W | PTE_U, PTE_NX, 1ull << 51
	};

	for (unsigned level = 0; level < walk.levels; level++)
		for (unsigned i = level ? 1 : 0; i < ARRAY_SIZE(flips); i++)
			for (enum access access = READ; access < N_ACCESSES; access++) {
				uint64_t kept = walk.entry[level];

				walk.entry[level] ^= flips[i];
				check_access(access, how);
				walk.entry[level] = kept;
			}
}

static void check_settings(unsigned levels, bool with_smep)
{
	walk_init(levels);
	for (unsigned i = 0; i < (with_smep ? 16 : 8); i++) {
		struct setting how = { .user = i & 1, .wp = i & 2, .nxe = i & 4 };

		if (with_smep)
			how = (struct setting){ i & 1, true, true, i & 2, i & 4, i & 8 };
		apply(&how);
		check_walks(&how);
	}
	/* Reserved address bits and PS where it cannot be. */
	apply(&(struct setting){ .nxe = true });
	for (unsigned level = 0; level < levels; level++)
		for (unsigned bit = 7; bit < 52; bit++)
			if (walk.reserved[level] >> bit & 1) {
				walk.entry[level] ^= 1ull << bit;
				check_access(READ, &(struct setting){ .nxe = true });
				walk.entry[level] ^= 1ull << bit;
			}
}

TEST(pages_4k)
{
	check_settings(4, false);
}
TEST(pages_2m)
{
	check_settings(3, false);
}
TEST(pages_1g, .when = has_1g)
{
	check_settings(2, false);
}
TEST(smep_smap_4k, .when = has_smap)
{
	check_settings(4, true);
}

/* --- SMAP and SMEP beside data accesses ---- */

static void smap_on(struct state *s)
{
	(void)s;
	low_page(CODE_AT, PTE_P | PTE_W);
	low_page(STACK_AT + 0xe000, PTE_P | PTE_W);
	write_cr4(CR4_HOST | CR4_SMAP);
}
CASE(stac, K64, "stac; movl 0x20000, %ecx; movl $1, %eax", .rax = 1, .setup = smap_on,
     .when = has_smap);
CASE(clac, K64, "stac; movl 0x20000, %eax; clac;" HERE "movl 0x20000, %eax", .v = PF, .e = 1,
     .cr2 = DATA_AT, .setup = smap_on, .when = has_smap);
CASE(stac_user, U64, "stac", .v = UD, .when = has_smap);
CASE(smap_push, K64, "movl $0x3e000, %esp;" HERE "pushq %rax", .v = PF, .e = 3, .cr2 = 0x3dff8,
     .setup = smap_on, .when = has_smap);
/* --- Look-aside buffers ---- */

static volatile uint32_t *const test_word = (volatile uint32_t *)TEST_VA;

static void map(uint64_t entry)
{
	walk_init(4);
	walk.entry[3] = entry;
	write_tables();
	write32(PAGE, 0x1111);
	write32(OTHER, 0x2222);
}
static void remap(uint64_t entry)
{
	*(volatile uint64_t *)slot(3) = entry;
}

TEST(invlpg_remaps)
{
	map(PAGE | PTE_ALL);
	CHECK_EQUAL(*test_word, 0x1111);
	remap(OTHER | PTE_ALL);
	invlpg(TEST_VA);
	CHECK_EQUAL(*test_word, 0x2222);
}
TEST(invlpg_any_byte_of_the_page)
{
	map(PAGE | PTE_ALL);
	CHECK_EQUAL(*test_word, 0x1111);
	remap(OTHER | PTE_ALL);
	invlpg(TEST_VA + 0xfff);
	CHECK_EQUAL(*test_word, 0x2222);
}
TEST(invlpg_global)
{
	write_cr4(CR4_HOST | CR4_PGE);
	map(PAGE | PTE_ALL | PTE_G);
	CHECK_EQUAL(*test_word, 0x1111);
	remap(OTHER | PTE_ALL | PTE_G);
	invlpg(TEST_VA);
	CHECK_EQUAL(*test_word, 0x2222);
}
TEST(invlpg_noncanonical_is_nop)
{
	invlpg(0x800000000000ull);
}
TEST(cr3_remaps)
{
	map(PAGE | PTE_ALL);
	CHECK_EQUAL(*test_word, 0x1111);
	remap(OTHER | PTE_ALL);
	write_cr3(read_cr3());
	CHECK_EQUAL(*test_word, 0x2222);
}
TEST(cr3_global_without_pge)
{
	map(PAGE | PTE_ALL | PTE_G);
	CHECK_EQUAL(*test_word, 0x1111);
	remap(OTHER | PTE_ALL | PTE_G);
	write_cr3(read_cr3());
	CHECK_EQUAL(*test_word, 0x2222);
}
TEST(pge_off_flushes_globals)
{
	write_cr4(CR4_HOST | CR4_PGE);
	map(PAGE | PTE_ALL | PTE_G);
	CHECK_EQUAL(*test_word, 0x1111);
	remap(OTHER | PTE_ALL | PTE_G);
	write_cr4(CR4_HOST);
	CHECK_EQUAL(*test_word, 0x2222);
}
TEST(pge_on_flushes)
{
	map(PAGE | PTE_ALL | PTE_G);
	CHECK_EQUAL(*test_word, 0x1111);
	remap(OTHER | PTE_ALL | PTE_G);
	write_cr4(CR4_HOST | CR4_PGE);
	CHECK_EQUAL(*test_word, 0x2222);
}
TEST(upper_level_invlpg)
{
	static uint64_t other_table[512] __attribute__((aligned(4096)));

	map(PAGE | PTE_ALL);
	CHECK_EQUAL(*test_word, 0x1111);
	other_table[0] = OTHER | PTE_ALL;
	*(volatile uint64_t *)slot(2) = (uint64_t)other_table | PTE_ALL;
	invlpg(TEST_VA);
	CHECK_EQUAL(*test_word, 0x2222);
}
TEST(big_page_invlpg_whole)
{
	walk_init(3);
	write_tables();
	write32(PAGE, 0x1111);
	CHECK_EQUAL(*(volatile uint32_t *)(TEST_VA + PAGE), 0x1111);
	*(volatile uint64_t *)slot(2) = 0x200000 | PTE_ALL | PTE_PS;
	invlpg(TEST_VA + 0x1000);
	CHECK_EQUAL(*(volatile uint32_t *)(TEST_VA + PAGE), read32(0x200000 + PAGE));
}
TEST(other_tables_same_address)
{
	static uint64_t top[512] __attribute__((aligned(4096)));
	static uint64_t other[3][512] __attribute__((aligned(4096)));
	uint64_t cr3 = read_cr3();

	map(PAGE | PTE_ALL);
	memcpy(top, pml4, sizeof(top));
	top[1] = (uint64_t)other[0] | PTE_ALL;
	other[0][0] = (uint64_t)other[1] | PTE_ALL;
	other[1][0] = (uint64_t)other[2] | PTE_ALL;
	other[2][0] = OTHER | PTE_ALL;
	for (unsigned i = 0; i < 8; i++) {
		CHECK_EQUAL(*test_word, 0x1111);
		write_cr3((uint64_t)top);
		CHECK_EQUAL(*test_word, 0x2222);
		write_cr3(cr3);
	}
}

/* Translations that fault are not kept: what becomes allowed needs no flush (SDM vol. 3 §4.10.4.3).
 */
static void run_on_test_page(struct state *s, enum mode mode, enum access access)
{
	state_init(s, mode);
	code_load(access_code[access][0], access_code[access][1]);
	s->rbx = TEST_VA;
	run(s, mode);
}
TEST(present_without_flush)
{
	struct state s;

	map((PAGE | PTE_ALL) & ~PTE_P);
	run_on_test_page(&s, U64, READ);
	CHECK_EQUAL(s.vector, PF);
	remap(PAGE | PTE_ALL);
	run(&s, U64);
	CHECK_EQUAL(s.vector, END);
	CHECK_EQUAL(s.rax, 0x1111);
}
TEST(writable_after_one_fault)
{
	struct state s;

	map((PAGE | PTE_ALL) & ~PTE_W);
	run_on_test_page(&s, U64, READ);
	remap(PAGE | PTE_ALL);
	run_on_test_page(&s, U64, WRITE);
	if (s.vector == PF)
		run(&s, U64); /* the fault has flushed it */
	CHECK_EQUAL(s.vector, END);
}
TEST(dirty_again)
{
	map(PAGE | PTE_ALL);
	*test_word = 5;
	CHECK_THAT(*slot(3) & PTE_D);
	remap(PAGE | PTE_ALL);
	invlpg(TEST_VA);
	CHECK_EQUAL(*test_word, 5);
	CHECK_EQUAL(*slot(3), PAGE | PTE_ALL | PTE_A);
	*test_word = 6;
	CHECK_EQUAL(*slot(3), PAGE | PTE_ALL | PTE_A | PTE_D);
}
TEST(cmpxchg_that_fails_writes)
{
	uint32_t eax = 1;

	map(PAGE | PTE_ALL);
	__asm__ volatile("cmpxchgl %1, (%2)" : "+a"(eax) : "r"(2), "r"(test_word) : "memory");
	CHECK_EQUAL(eax, 0x1111);
	CHECK_THAT(*slot(3) & PTE_D);
}
TEST(aliases)
{
	map(PAGE | PTE_ALL);
	for (uint32_t i = 0; i < 16; i++) {
		*test_word = i;
		CHECK_EQUAL(read32(PAGE), i);
		write32(PAGE, ~i);
		CHECK_EQUAL(*test_word, ~i);
	}
}
TEST(tables_through_themselves)
{
	map((uint64_t)tables[2] | PTE_ALL);
	*(volatile uint64_t *)TEST_VA = PAGE | PTE_ALL;
	invlpg(TEST_VA);
	CHECK_EQUAL(*test_word, 0x1111);
}
TEST(a20)
{
	write32(DATA_AT, 0x1234);
	write32(DATA_AT + 0x200000, 0x5678);
	CHECK_EQUAL(read32(DATA_AT), 0x1234);
	CHECK_THAT(read32(DATA_AT + 0x100000) != 0x1234);
}

/* --- Crossing into a page that faults ---- */

/* TCG's read-modify-write reads first, and says so; its 16-byte stores are two. */

/* 0x20000-0x20fff is there, 0x21000 not; what crosses must leave the first page as it is. */
static void second_missing(struct state *s)
{
	(void)s;
	memset((void *)(DATA_AT + 0xff0), 0x5a, 16);
	low_page(DATA_AT + 0x1000, 0);
}
static void second_read_only(struct state *s)
{
	second_missing(s);
	low_page(DATA_AT + 0x1000, PTE_P | PTE_U);
}
static void nothing_written(const struct state *s)
{
	(void)s;
	for (unsigned i = 0; i < 16; i++)
		CHECK_EQUAL(read8(DATA_AT + 0xff0 + i), 0x5a);
}
#define CROSS(id, code, error, ...)                                                             \
	CASE(cross_##id, U64, "movl $0x20ffe, %ebx; movl %ebx, %esp; addl $2, %esp;" HERE code, \
	     .v = PF, .e = error, .cr2 = 0x21000, .setup = second_missing,                      \
	     .check = nothing_written, __VA_ARGS__)
CROSS(mov_store, "movl %eax, (%rbx)", 6);
CROSS(mov_store_8, "movq %rax, -2(%rbx)", 6);
CROSS(mov_load, "movl (%rbx), %eax", 4);
CROSS(add, "addl %ebx, (%rbx)", 6, .wrong_on = ANY_TCG);
CROSS(lock_add, "lock; addl %ebx, (%rbx)", 6, .wrong_on = ANY_TCG);
CROSS(xchg, "xchgl %eax, (%rbx)", 6, .wrong_on = ANY_TCG);
CROSS(cmpxchg, "cmpxchgl %ecx, (%rbx)", 6, .wrong_on = ANY_TCG);
CROSS(cmpxchg8b, "cmpxchg8b (%rbx)", 6, .wrong_on = ANY_TCG);
CROSS(shld, "shldl $3, %ecx, (%rbx)", 6, .wrong_on = ANY_TCG);
CROSS(not, "notl (%rbx)", 6, .wrong_on = ANY_TCG);
CROSS(movups_store, "movups %xmm0, -6(%rbx)", 6, .wrong_on = ANY_TCG);
CROSS(movups_load, "movups -6(%rbx), %xmm0", 4);
CROSS(fstpt, "fninit; fldz; 99: fstpt -4(%rbx)", 6);
CROSS(fstpl, "fninit; fldz; 99: fstpl -4(%rbx)", 6);
CROSS(bts, "btsl %ecx, (%rbx)", 6, .wrong_on = ANY_TCG);
CROSS(push, "addl $4, %esp; 99: pushq %rcx", 6);
CASE(cross_read_only, U64, "movl $0x20ffe, %ebx;" HERE "movl %eax, (%rbx)", .v = PF, .e = 7,
     .cr2 = 0x21000, .setup = second_read_only, .check = nothing_written);
CASE(cross_fxsave, U64, "movl $0x20f00, %ebx;" HERE "fxsave (%rbx)", .v = PF, .e = 6,
     .cr2 = 0x21000, .setup = second_missing);
CASE(cross_push_16, U64, "movl $0x21001, %esp;" HERE "pushw %ax", .v = PF, .e = 6, .cr2 = 0x21000,
     .any_rax = true, .setup = second_missing);

/* An instruction whose last bytes are missing: CR2 is the first missing byte, RIP its first byte.
 */
static void fetch_crossing(struct state *s)
{
	static const uint8_t mov_eax_imm32[] = { 0xb8, 1, 0, 0, 0 };

	memcpy((void *)(DATA_AT + 0xffe), mov_eax_imm32, 2);
	s->rip = DATA_AT + 0xffe;
	low_page(DATA_AT + 0x1000, 0);
}
TEST(fetch_crossing)
{
	struct state s;

	state_init(&s, U64);
	fetch_crossing(&s);
	run(&s, U64);
	CHECK_EQUAL(s.vector, PF);
	CHECK_EQUAL(s.cr2, DATA_AT + 0x1000);
	CHECK_EQUAL(s.rip, DATA_AT + 0xffe);
	low_page(DATA_AT + 0x1000, PTE_ALL);
	write32(DATA_AT + 0x1000, 0x0f000000);
	write8(DATA_AT + 0x1004, 0x0b);
	run(&s, U64);
	CHECK_EQUAL(s.vector, UD);
	CHECK_EQUAL(s.rax, 1);
	CHECK_EQUAL(s.rip, DATA_AT + 0x1003);
}
TEST(fetch_nx_second)
{
	struct state s;

	state_init(&s, U64);
	fetch_crossing(&s);
	low_page(DATA_AT + 0x1000, PTE_ALL | PTE_NX);
	run(&s, U64);
	CHECK_EQUAL(s.vector, PF);
	CHECK_EQUAL(s.error, PF_P | PF_U | PF_I);
	CHECK_EQUAL(s.cr2, DATA_AT + 0x1000);
}
