/* Software backend: what the translator's own files share: translate.c, access.c,
 * copy.c. */
#ifndef REVIRT_HAV_SOFT_TRANSLATE_H
#define REVIRT_HAV_SOFT_TRANSLATE_H

#include "hav/soft/jit.h"

#define MAX_BLOCK  64 /* instructions */
#define MAX_COLD   (MAX_BLOCK * 16)
#define MAX_GROUPS 32
#define NOWHERE    INT32_MIN /* no place that a jump goes to */
#define MAX_LOOP   20        /* instructions of a loop that is unrolled */
#define MAX_ROUNDS 4

/* Code that is seldom run, put behind the block. */
struct cold {
	uint8_t *site; /* the rel32 that goes there */
	enum { COLD_LEAVE, COLD_CHAIN, COLD_CROSS } kind;
	uint32_t word;  /* what the translated code returns */
	int64_t target; /* COLD_CROSS: from the page */
};

/* An access to memory at a register plus a constant, as a member of a group: translate.c. */
struct member {
	int group;     /* or -1 */
	int32_t at;    /* from the value the register had when the group began */
	int32_t moved; /* by how much the register has changed since then */
};

/* An instruction of a block. */
struct step {
	struct soft_insn insn;
	struct soft_decoded d;
	unsigned offset;     /* in its page */
	int follows;         /* the offset of the next in the block, or NOWHERE */
	const uint8_t *cold; /* of a hot block: the instruction's cold code */
	struct member operand, stack;
};

/* Accesses that one look-up serves: the same registers, close together. */
struct group {
	uint8_t base, index, scale, segment; /* segment: FS, GS or DS for all others */
	bool write;
	unsigned version, index_version; /* how often the registers were changed before */
	int32_t low, high;
	unsigned n;
	int slot; /* of cpu->jit_ranges, or -1: not worth it */
};

/*
 * The translator's registers, a bit each: while it needs them for nothing else they hold guest
 * registers that live in memory. In hot code from instruction to instruction, and what was
 * changed is stored only before the block may be left.
 */
enum { SCRATCH_COUNT = 1, SCRATCH_PLACE = 2, SCRATCH_LINEAR = 4, SCRATCH_ALL = 7 };
struct scratch {
	uint8_t guest; /* NO_REG: free */
	bool dirty;
	unsigned used; /* when last */
};

struct translation {
	struct soft_vcpu *cpu;
	struct soft_jit *jit;
	struct soft_jit_page *page;
	struct emitter e;
	struct step *s; /* the instruction that is translated */
	bool ended;
	int follows; /* what comes next in the block, an offset; NOWHERE: see the instruction */
	bool hot;
	uint32_t established; /* groups whose look-up has been done, a bit each */
	struct scratch scratch[3];
	unsigned pinned, clock; /* scratch registers that the instruction needs */
	struct group groups[MAX_GROUPS];
	unsigned n_groups, n_cold;
	struct cold *cold;
};

/* The state of the vCPU that is at an offset; an element of a table there, at HOST_PLACE. */
struct emit_mem translate_state(size_t offset);
struct emit_mem translate_table(size_t offset);
struct emit_mem translate_gpr(unsigned reg);
/* HOST_LINEAR = the page's linear address + distance. */
void translate_from_page(struct translation *t, int32_t distance);
/* The host register that has a guest's; those that live in memory are loaded into spare. */
unsigned translate_in_register(struct translation *t, unsigned reg, unsigned spare);
/*
 * HOST_PLACE = what leads from linear addresses in [linear, linear + size) to the host's. In cold
 * code HOST_LINEAR is the address, too.
 */
void translate_lookup(struct translation *t, unsigned linear, unsigned size, bool write);
/*
 * The memory operand of the instruction, looked up: *m is where it is, in terms of HOST_PLACE,
 * HOST_LINEAR and the guest's registers. linear, unless NULL: where its linear address is to be
 * kept, in the vCPU.
 */
bool translate_operand(struct translation *t, unsigned size, bool write,
		       const struct emit_mem *linear, struct emit_mem *m);

/* Eight bytes at a distance from the top of the stack: access.c. */
struct emit_mem translate_stack(struct translation *t, int32_t distance, bool write);
/* Finds the accesses that may share look-ups. */
void translate_plan_groups(struct translation *t, struct step *steps, unsigned n);
/* From here: the interpreter is to do this instruction. */
void translate_to_interpreter(struct translation *t);

/*
 * A host register for a guest's that lives in memory, one of these; with its value, if load. -1:
 * none is left. One that is written must be said to be.
 */
int translate_scratch(struct translation *t, unsigned guest, unsigned among, bool load);
void translate_written(struct translation *t, unsigned guest);
/* Stores what was changed; and frees some. */
void translate_save(struct translation *t);
void translate_free(struct translation *t, unsigned which);

/* An instruction with other registers; false when it cannot be: copy.c. */
bool translate_copy(struct translation *t);

#endif
