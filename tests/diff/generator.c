/*
 * Differential tests: cases.
 *
 * A block grows by one candidate after the other (opcodes.c, arrange.c); in the end jumps get their
 * targets, which are instructions of the block or its end, and a jump to EXIT is added.
 */
#include "generator.h"

#include <stdio.h>

#define TRIES 60

/* Zydis 4.0 takes REX.B for a base where a SIB byte says that there is none (APM vol. 3 §1.4.2). */
static void correct(struct candidate *k)
{
	if (!(k->insn.attributes & ZYDIS_ATTRIB_HAS_SIB) || k->insn.raw.modrm.mod != 0 ||
	    k->insn.raw.sib.base != 5)
		return;
	for (unsigned i = 0; i < k->insn.operand_count_visible; i++)
		if (k->ops[i].type == ZYDIS_OPERAND_TYPE_MEMORY) {
			k->ops[i].mem.base = ZYDIS_REGISTER_NONE;
			k->ops[i].mem.disp.value = k->insn.raw.disp.value;
		}
}

static bool decode(const uint8_t *bytes, struct candidate *k)
{
	ZydisDecoder decoder;

	ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	if (!ZYAN_SUCCESS(
		    ZydisDecoderDecodeFull(&decoder, bytes, sizeof(k->bytes), &k->insn, k->ops)))
		return false;
	correct(k);
	return true;
}

static bool is_string(const ZydisDecodedInstruction *insn)
{
	return insn->meta.category == ZYDIS_CATEGORY_STRINGOP ||
	       insn->meta.category == ZYDIS_CATEGORY_IOSTRINGOP;
}

/* Registers that it changes, and those of them that stay close to what they were. */
static void note_writes(struct gen *g, const struct candidate *k)
{
	uint16_t writes = 0, near = 0;

	for (unsigned i = 0; i < k->insn.operand_count; i++) {
		const ZydisDecodedOperand *op = &k->ops[i];
		int reg;

		if (is_string(&k->insn) && op->type == ZYDIS_OPERAND_TYPE_MEMORY) {
			writes |= BIT(gen_register(op->mem.base));
			near |= BIT(gen_register(op->mem.base));
			continue;
		}
		if (op->type != ZYDIS_OPERAND_TYPE_REGISTER ||
		    !(op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
			continue;
		reg = gen_register(op->reg.value);
		if (reg < 0)
			continue;
		writes |= BIT(reg);
		if (op->visibility != ZYDIS_OPERAND_VISIBILITY_EXPLICIT &&
		    (reg == RSP || reg == RSI || reg == RDI) &&
		    k->insn.mnemonic != ZYDIS_MNEMONIC_LEAVE)
			near |= BIT(reg);
	}
	g->writes[g->c->n_insns] = writes;
	g->near = (g->near & ~writes) | (near & (g->near | ~g->written));
	g->written |= writes;
}

static void take(struct gen *g, struct candidate *k, unsigned length, unsigned old_fixups)
{
	for (unsigned i = old_fixups; i < g->n_fixups; i++)
		g->fixups[i].end += length;
	memcpy(g->code + g->n, k->bytes, length);
	g->starts[g->c->n_insns] = g->n;
	g->n += length;
	g->c->n_insns++;
	g->starts[g->c->n_insns] = g->n;
}

/* Tries one candidate. What a refused one did to registers that had no value yet does not matter.
 */
static bool add(struct gen *g, unsigned class)
{
	const struct gen before = *g;
	unsigned n_pokes = g->c->n_pokes, n_ignored = g->c->n_ignored;
	bool sets_base = g->c->sets_base, loose_cr2 = g->c->loose_cr2, known;
	struct candidate k;
	struct rng r;

	diff_candidate(&g->r, class, k.bytes);
	known = decode(k.bytes, &k);
	if (!diff_acceptable(known ? &k.insn : NULL, k.ops, diff_class_undefined(class)))
		return false;
	if (!known) {
		take(g, &k, sizeof(k.bytes), g->n_fixups);
		g->last = true;
		return true;
	}
	if (!gen_arrange(g, &k)) {
		r = g->r;
		*g = before;
		g->r = r;
		g->c->n_pokes = n_pokes;
		g->c->n_ignored = n_ignored;
		g->c->sets_base = sets_base;
		g->c->loose_cr2 = loose_cr2;
		return false;
	}
	note_writes(g, &k);
	take(g, &k, k.insn.length, before.n_fixups);
	g->last |= diff_class_faults(class);
	return true;
}

/* --- Targets of jumps ---- */

static void resolve(struct gen *g, const struct fixup *f)
{
	struct diff_case *c = g->c;
	unsigned n = c->n_insns;
	unsigned to = f->backward ? f->first + rng_below(&g->r, f->insn - f->first)
				  : f->insn + 1 + rng_below(&g->r, n - f->insn);
	uint64_t target;
	int32_t relative;

	/* What is in memory may be found by another RET, farther down, which would go round. */
	if (f->kind == FIX_POKE && rng_percent(&g->r, 75))
		to = n;
	target = c->address + g->starts[to];
	relative = g->starts[to] - f->end;
	switch (f->kind) {
	case FIX_RELATIVE: memcpy(g->code + f->at, &relative, f->size); break;
	case FIX_REGISTER: c->in.gpr[f->reg] = target; break;
	case FIX_POKE: c->pokes[f->poke].value = target; break;
	}
}

static void finish(struct gen *g)
{
	uint8_t jump[5] = { 0xe9 };
	int32_t relative = EXIT - (g->c->address + g->n + sizeof(jump));

	for (unsigned i = 0; i < g->n_fixups; i++)
		resolve(g, &g->fixups[i]);
	memcpy(jump + 1, &relative, 4);
	memcpy(g->code + g->n, jump, sizeof(jump));
	g->n += sizeof(jump);
}

/* Slots lie across pages' borders; the last one's blocks go on where nothing is. */
static uint64_t place(struct gen *g, uint64_t number)
{
	unsigned slot = number % BATCH_SIZE;

	if (slot == BATCH_SIZE - 1)
		return CODE_END - 1 - rng_below(&g->r, 48);
	return CODE + SLOT_SIZE / 2 + slot * SLOT_SIZE + rng_below(&g->r, SLOT_SIZE - MAX_BLOCK);
}

/* How far processors read before they see that something is undefined is theirs to decide. */
static unsigned pick_class(struct gen *g)
{
	unsigned class;

	do
		class = diff_class_pick(&g->r);
	while (g->c->address + MAX_BLOCK > CODE_END && diff_class_undefined(class));
	return class;
}

void diff_generate(struct diff_case *c, uint8_t *code, uint64_t seed, uint64_t number,
		   const struct diff_wanted *want)
{
	struct gen g = { .r = rng_make(seed, number), .c = c };
	unsigned wanted, p = rng_below(&g.r, 100), one;
	bool mixed = rng_percent(&g.r, 50);

	c->number = number;
	c->n_insns = c->n_pokes = c->n_ignored = 0;
	c->sets_base = c->loose_cr2 = false;
	c->data_at = rng_below(&g.r, POOL_SIZE / 16) * 16;
	c->address = place(&g, number);
	rng_state(&g.r, &c->in);
	c->in.rip = c->address;
	wanted = p < 35 ? 1 : p < 55 ? 2 : 3 + rng_below(&g.r, MAX_INSNS - 2);
	g.careful = wanted > 2;
	if (want->length)
		wanted = want->length;
	one = want->class >= 0 ? (unsigned)want->class : pick_class(&g);
	c->class = one;
	while (c->n_insns < wanted && !g.last) {
		unsigned tries = 0;

		while (!add(&g, one) && ++tries < TRIES)
			;
		if (mixed && want->class < 0)
			one = pick_class(&g);
	}
	finish(&g);
	c->length = g.n;
	if (g.n > CODE_END - c->address)
		c->length = CODE_END - c->address;
	memcpy(code + (c->address - CODE), g.code, c->length);
}

void diff_disassemble(const struct diff_case *c, const uint8_t *code)
{
	ZydisDisassembledInstruction insn;
	unsigned at = 0;

	while (at < c->length) {
		const uint8_t *bytes = code + (c->address - CODE) + at;
		unsigned n = 1;

		printf("#   %08llx ", (unsigned long long)c->address + at);
		if (ZYAN_SUCCESS(ZydisDisassembleIntel(ZYDIS_MACHINE_MODE_LONG_64, c->address + at,
						       bytes, c->length - at, &insn)))
			n = insn.info.length;
		else
			strcpy(insn.text, "(no instruction)");
		for (unsigned i = 0; i < n; i++)
			printf(" %02x", bytes[i]);
		printf("\t%s\n", insn.text);
		at += n;
	}
}
