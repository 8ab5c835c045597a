/* Differential tests: a block while it is made. */
#ifndef TESTS_DIFF_GENERATOR_H
#define TESTS_DIFF_GENERATOR_H

#include "diff.h"

#include <Zydis/Zydis.h>

/* Something that will hold the address of a later instruction, or of an earlier one. */
struct fixup {
	enum { FIX_RELATIVE, FIX_REGISTER, FIX_POKE } kind;
	bool backward;
	uint8_t insn;      /* whose it is */
	uint8_t first;     /* backward: the earliest instruction it may go to */
	uint8_t at, size;  /* of the displacement, in the block, in bytes */
	uint8_t end;       /* of the instruction */
	uint8_t reg, poke; /* FIX_REGISTER, FIX_POKE */
};

struct gen {
	struct rng r;
	struct diff_case *c;
	uint8_t code[MAX_BLOCK];
	unsigned n;                    /* bytes so far */
	uint8_t starts[MAX_INSNS + 1]; /* of instructions */
	uint16_t writes[MAX_INSNS];    /* registers an instruction changes, a bit each */
	uint16_t assigned;             /* registers that were given a value to begin with */
	uint16_t written;              /* ... that no longer hold what they began with */
	uint16_t near;                 /* ... and of these, that hold nearly that */
	bool bases_written;            /* FS and GS are not known any more */
	bool careful;                  /* faults are to be rare */
	bool last;                     /* no more instructions */
	struct fixup fixups[2 * MAX_INSNS];
	unsigned n_fixups;
};

/* An instruction that may go to the end of the block. */
struct candidate {
	uint8_t bytes[15];
	ZydisDecodedInstruction insn;
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	uint64_t aimed; /* where its operand is; 0 when not known */
	uint8_t aimed_op;
};

/*
 * Gives the registers and memory it uses values that make sense, as far as they have none yet;
 * false when it would only be wild.
 */
bool gen_arrange(struct gen *g, struct candidate *k);

/* The number of a general register, whatever part of it is meant; -1 for others. */
int gen_register(ZydisRegister reg);

#endif
