/*
 * Software backend: the translator's parts. jit.c keeps translated code and enters it; translate.c
 * makes it. How it works: jit.c.
 */
#ifndef REVIRT_HAV_SOFT_JIT_H
#define REVIRT_HAV_SOFT_JIT_H

#include "hav/soft/decode.h"
#include "hav/soft/emit.h"

/*
 * Guest registers live in host registers while translated code runs: NO_REG are in the vCPU's
 * memory. The host's RSP is SOFT_JIT_RSP bytes below the vCPU; RCX, R8 and R11 are the
 * translator's.
 */
extern const uint8_t soft_host_reg[16];
#define HOST_COUNT  RCX /* what JRCXZ looks at */
#define HOST_PLACE  R8  /* a place in a table; then a host address */
#define HOST_LINEAR R11 /* a guest's address */
/* Its low six bits are 12: RSP is the count for shifts between addresses and pages. */
#define SOFT_JIT_RSP 52
#define STATE(field) \
	((struct emit_mem){ RSP, NO_REG, 1, SOFT_JIT_RSP + (int)offsetof(struct soft_vcpu, field) })

/* Why translated code was left: bits 16 on of what it returns; the others are where, from the page.
 */
enum {
	JIT_GO,        /* go on there */
	JIT_CHAIN,     /* the same, and the jump at cpu->jit_site may then go there by itself */
	JIT_INTERPRET, /* the instruction there is for the interpreter */
	JIT_CALLED,    /* a CALL there has written its return address and goes to cpu->jit_site */
	JIT_MISSED,    /* the look-up that would have returned to cpu->jit_site: as JIT_INTERPRET */
	JIT_HOT,       /* the count of the cold code that called from cpu->jit_site is at its end */
};
#define JIT_WORD(kind, offset) ((uint32_t)(kind) << 16 | (offset))

/* Translated code of one page, for one TLB. */
struct soft_jit_page {
	uint64_t gpa;
	unsigned tlb;
	uint32_t generation;
	_Atomic uint32_t *current;
	const uint8_t *host;
	struct soft_jit_page *next;
	/* Of the instruction that begins there, where in the cache; 0: nowhere. */
	uint32_t at[SOFT_PAGE];
};
/* In at[]: the instruction goes on in the next page; its code looks for where it is translated. */
#define JIT_SPANS (1u << 31)
/* In at[]: good to go on from, but what jumps there deserves a block of its own. */
#define JIT_MIDDLE (1u << 30)
/* In at[]: hot code. */
#define JIT_FAST (1u << 29)
#define JIT_CODE (JIT_FAST - 1) /* what is left */

/* An instruction that lies in two pages. */
struct soft_jit_span {
	uint64_t gpa; /* where it begins */
	struct soft_jit_page *page[2];
	uint32_t generation[2];
	uint32_t code;
};

/* Of an instruction of translated code, where it came from. */
struct soft_jit_origin {
	uint32_t code;
	uint16_t offset;
};

/* Parts of cold code that are shared: where in the cache. */
#define SOFT_JIT_SIZES 5 /* of accesses: 1, 2, 4, 8 and 16 bytes */
struct soft_jit_helpers {
	uint32_t lookup[N_TLBS][2][SOFT_JIT_SIZES]; /* to read, to write */
	uint32_t jump[N_TLBS][3];                   /* the stack pointer moves by -8, 0, 8 */
	uint32_t heat;                              /* called first where cold code may be begun */
};

#define SOFT_JIT_SIZE    (96u << 20)
#define SOFT_JIT_PAGES   6144u
#define SOFT_JIT_ORIGINS (5u << 20)
#define SOFT_JIT_HASH    4096u
#define SOFT_JIT_SPANS   4096u
struct soft_jit {
	uint8_t *writable;
	const uint8_t *code;         /* the same memory */
	uint32_t used, begin, leave; /* begin: behind the parts that are always there */
	struct soft_jit_helpers helpers;
	struct soft_jit_page *pages;
	struct soft_jit_origin *origins;
	uint32_t n_pages, n_origins, flushes;
	uint64_t resume; /* where the interpreter has left off, or 0 */
	bool fpu;        /* x87, MMX and SSE instructions are translated */
	struct soft_jit_page *hash[SOFT_JIT_HASH];
	struct soft_jit_span spans[SOFT_JIT_SPANS]; /* by a hash of gpa */
};

/* Room that a translation may need at most. */
#define SOFT_JIT_MARGIN         (2u << 20)
#define SOFT_JIT_ORIGINS_MARGIN 8192u

#define JIT_CALL_SIZE           5 /* of a call of a helper */

/* Translates from an offset on; page->at[offset] is set afterwards. */
void soft_translate_code(struct soft_vcpu *cpu, struct soft_jit_page *page, unsigned offset);
/* The same once more, for speed; start is where the cold code begins. Where it is. */
uint32_t soft_translate_hot(struct soft_vcpu *cpu, struct soft_jit_page *page, unsigned offset,
			    uint32_t start);
/* Translates an instruction that goes on in another page. Where its code is. */
uint32_t soft_translate_span(struct soft_vcpu *cpu, struct soft_jit_page *page, unsigned offset,
			     const struct soft_jit_page *second);

/*
 * Of the code: HOST_PLACE = what to add to the address in linear, HOST_COUNT = 0 if that may be
 * done. HOST_COUNT = 0 if code for the address in HOST_LINEAR is in the table of jumps; going
 * there.
 */
void translate_emit_lookup(struct emitter *e, unsigned tlb, unsigned linear, unsigned size,
			   bool write);
void translate_emit_find_jump(struct emitter *e, unsigned tlb);
void translate_emit_jump(struct emitter *e, unsigned tlb, int32_t stack);

#endif
