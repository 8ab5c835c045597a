/*
 * Differential tests: what the programs of tests/diff share.
 *
 *	random.c	numbers, and values that are worth trying
 *	opcodes.c	which instructions there are, by class
 *	arrange.c	registers and memory that make an instruction do something
 *	generator.c	cases
 *	host.c		diff-host: runs cases on the host's processor, in a process of its own
 *	runner.c	talks to diff-host
 *	guest.c		runs cases in a VM
 *	compare.c	says how two results differ
 *	known.c		differences that are known
 *	diff.c		the rest, and main()
 *
 * A case is a block of instructions at a fixed linear address, a processor state and a few words to
 *put into memory. Both sides have the same few pages at the same linear addresses and nothing else
 *below 4 GiB. Everything about a case follows from the seed and its number.
 */
#ifndef TESTS_DIFF_H
#define TESTS_DIFF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define PAGE      4096u
#define PAGE_MASK (PAGE - 1)
#define BIT(n)    (1ull << (n))
#define COUNT(a)  (sizeof(a) / sizeof(*(a)))

/* --- Linear addresses ---- */

#define CODE       0x10000000u /* read, execute; nothing behind it */
#define CODE_PAGES 32u
#define CODE_SIZE  (CODE_PAGES * PAGE)
#define CODE_END   (CODE + CODE_SIZE)
#define EXIT       0x10800000u /* where a block that is done jumps to */
#define RW         0x20001000u /* two pages, nothing before them */
#define RW_SIZE    (2 * PAGE)
#define RO         0x20003000u /* one page, nothing behind it */
#define DATA_SIZE  (RW_SIZE + PAGE)
#define DATA_END   (RW + DATA_SIZE)
#define USER_END   0x800000000000u /* of the lower half */

/* FS and GS, until a case changes them. */
#define FS_BASE 0x1234567u
#define GS_BASE 0x7e5500001000u

/* --- A case ---- */

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI };

#define FLAG_CF    BIT(0)
#define FLAG_PF    BIT(2)
#define FLAG_AF    BIT(4)
#define FLAG_ZF    BIT(6)
#define FLAG_SF    BIT(7)
#define FLAG_TF    BIT(8)
#define FLAG_IF    BIT(9)
#define FLAG_DF    BIT(10)
#define FLAG_OF    BIT(11)
#define FLAG_ID    BIT(21)
#define ARITHMETIC (FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_OF)

/* Offsets in the image of FXSAVE (Intel SDM vol. 1 §10.5.1). */
#define FX_FCW   0
#define FX_FSW   2
#define FX_FTW   4
#define FX_FOP   6
#define FX_MXCSR 24
#define FX_ST0   32
#define FX_XMM0  160
#define FX_END   416
#define FX_SIZE  512

struct diff_state {
	uint64_t gpr[16];
	uint64_t rip, rflags;
	uint64_t fs_base, gs_base;
	uint8_t fx[FX_SIZE];
};

/* What a block ended with, beside the vectors of exceptions. */
#define ENDED_WELL      0x100 /* it jumped to EXIT */
#define ENDED_LATE      0x101 /* it did not end */
#define ENDED_SYSCALL   0x102 /* it called the host's kernel */
#define ENDED_STRANGELY 0x103 /* the VM failed */

struct diff_result {
	struct diff_state state;
	uint32_t how; /* vector, or ENDED_* */
	uint32_t error;
	uint64_t cr2;
	uint8_t memory[RW_SIZE];
};

#define MAX_INSNS  8
#define MAX_BLOCK  (MAX_INSNS * 15 + 5)
#define MAX_POKES  40
#define MAX_IGNORE 2

struct diff_poke {
	uint16_t offset; /* from RW */
	uint64_t value;
};

struct diff_case {
	uint64_t number;
	uint8_t class;
	uint8_t n_insns, n_pokes, n_ignored;
	bool sets_base; /* may change FS and GS */
	bool loose_cr2; /* has accesses of many bytes */
	uint8_t length; /* of the block, with the jump at its end */
	uint64_t address;
	uint32_t data_at; /* where in the pool its memory is from */
	struct diff_poke pokes[MAX_POKES];
	/* Bytes of memory that need not be the same: addresses the x87 noted. */
	struct {
		uint16_t offset, length;
	} ignored[MAX_IGNORE];
	struct diff_state in;
	struct diff_result host; /* filled by diff-host */
};

/* --- A batch: cases that share the code pages ---- */

#define SLOT_SIZE  256u
#define BATCH_SIZE (CODE_SIZE / SLOT_SIZE)

struct diff_batch {
	uint32_t n;
	uint8_t code[CODE_SIZE];
	struct diff_case cases[BATCH_SIZE];
};

#define POOL_SIZE (64u << 10)

/* Memory that the test and diff-host share. */
struct diff_shared {
	uint8_t pool[POOL_SIZE + DATA_SIZE];
	struct diff_batch batches[2];
};

/* The memory that a case begins with. */
static inline void diff_memory(const struct diff_shared *shared, const struct diff_case *c,
			       uint8_t *to)
{
	memcpy(to, shared->pool + c->data_at, DATA_SIZE);
	for (unsigned i = 0; i < c->n_pokes; i++)
		memcpy(to + c->pokes[i].offset, &c->pokes[i].value, 8);
}

/* --- random.c ---- */

struct rng {
	uint64_t state;
};
struct rng rng_make(uint64_t seed, uint64_t number);
uint64_t rng_next(struct rng *r);
/* 0 to n - 1 */
uint32_t rng_below(struct rng *r, uint32_t n);
bool rng_percent(struct rng *r, unsigned percent);
/* A number that is likely to be at some edge. */
uint64_t rng_value(struct rng *r);
void rng_state(struct rng *r, struct diff_state *s);
void rng_pool(struct rng *r, uint8_t *pool, size_t size);

/* --- opcodes.c ---- */

unsigned diff_n_classes(void);
const char *diff_class_name(unsigned class);
/* -1 when there is none of that name. */
int diff_class_find(const char *name);
/* By weight. */
unsigned diff_class_pick(struct rng *r);
/* 15 bytes that may be an instruction of the class. */
void diff_candidate(struct rng *r, unsigned class, uint8_t bytes[15]);

struct ZydisDecodedInstruction_;
struct ZydisDecodedOperand_;
/* It may be tried: it is offered to guests, and does the same each time. */
bool diff_acceptable(const struct ZydisDecodedInstruction_ *insn,
		     const struct ZydisDecodedOperand_ *ops, bool undefined);
/* Its exceptions are what is tried. */
bool diff_class_faults(unsigned class);
/* It consists of what is no instruction. */
bool diff_class_undefined(unsigned class);

/* --- generator.c ---- */

struct diff_wanted {
	int class;       /* -1: any */
	unsigned length; /* instructions in a block; 0: any number */
};
/* Writes the block into code (CODE_SIZE bytes). */
void diff_generate(struct diff_case *c, uint8_t *code, uint64_t seed, uint64_t number,
		   const struct diff_wanted *want);
void diff_disassemble(const struct diff_case *c, const uint8_t *code);

/* --- runner.c ---- */

struct diff_runner;
struct diff_runner *runner_start(const char *program, struct diff_shared **shared);
void runner_stop(struct diff_runner *r);
/* Runs shared->batches[which]; wait before reading the results. */
void runner_submit(struct diff_runner *r, unsigned which);
bool runner_wait(struct diff_runner *r);

/* --- guest.c ---- */

struct diff_guest;
struct diff_guest *guest_start(const char *backend, const struct diff_shared *shared);
void guest_stop(struct diff_guest *g);
void guest_load(struct diff_guest *g, const struct diff_batch *batch);
void guest_run(struct diff_guest *g, const struct diff_case *c, struct diff_result *result);
void guest_interrupt(struct diff_guest *g); /* async-signal-safe */

/* --- compare.c ---- */

bool diff_same(const struct diff_case *c, const struct diff_result *host,
	       const struct diff_result *guest);
void diff_print(const struct diff_case *c, const uint8_t *code, const uint8_t *memory,
		const struct diff_result *host, const struct diff_result *guest, bool all);

/* --- known.c ---- */

/* Which known difference this is; -1: none. */
int diff_known(const struct diff_case *c, const uint8_t *code, const struct diff_result *host,
	       const struct diff_result *guest);
unsigned diff_n_known(void);
const char *diff_known_reason(unsigned n);

#endif
