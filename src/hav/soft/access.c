/*
 * Software backend: how translated code reaches the guest's memory.
 *
 * A look-up takes a linear address to what must be added to it to have the host's, by the TLB's
 * entry for its page. Cold code calls for it (struct soft_jit_helpers); hot code has it in line,
 * and in hot code accesses at the same registers and close together form a group: the first
 * looks up the range of all and keeps what it has found in a slot of cpu->jit_ranges.
 */
#include "hav/soft/translate.h"

#include "base/util.h"

/* --- Addresses ---- */

/* The host register that has a guest's; those that live in memory are loaded into spare. */
unsigned translate_in_register(struct translation *t, unsigned reg, unsigned spare)
{
	if (soft_host_reg[reg] != NO_REG)
		return soft_host_reg[reg];
	/* It may be in another one, changed. */
	translate_save(t);
	emit_op_mem(&t->e, MOV_LOAD, spare, translate_gpr(reg));
	return spare;
}

void translate_from_page(struct translation *t, int32_t distance)
{
	emit_op_mem(&t->e, MOV_LOAD, HOST_LINEAR, STATE(page_base));
	emit_op_mem(&t->e, LEA, HOST_LINEAR, (struct emit_mem){ HOST_LINEAR, NO_REG, 1, distance });
}

/* What base, index and displacement of the memory operand are on the host, without the segment;
 * further on by more. */
static bool offset_of(struct translation *t, int32_t more, struct emit_mem *m)
{
	const struct soft_insn *i = &t->s->insn;
	int64_t disp = i->disp + more;

	*m = (struct emit_mem){ NO_REG, NO_REG, 1, 0 };
	if (i->addrsize == 2)
		return false;
	if (i->base == RIP_REG)
		disp += t->s->offset + i->length;
	if (disp != (int32_t)disp || (i->base == RIP_REG && i->addrsize != 8))
		return false;
	if (i->base == RIP_REG) {
		emit_op_mem(&t->e, MOV_LOAD, HOST_LINEAR, STATE(page_base));
		m->base = HOST_LINEAR;
	} else if (i->base != NO_REG) {
		m->base = translate_in_register(t, i->base, HOST_LINEAR);
	}
	if (i->index != NO_REG) {
		m->index = translate_in_register(t, i->index, HOST_PLACE);
		m->scale = i->scale;
	}
	m->disp = disp;
	return true;
}

/* The register that has the linear address of the memory operand, and more, or NO_REG. */
static unsigned emit_linear(struct translation *t, int32_t more)
{
	const struct soft_insn *i = &t->s->insn;
	struct emit_mem m;

	if (!offset_of(t, more, &m))
		return NO_REG;
	if (i->segment < FS && m.index == NO_REG && m.base != NO_REG && !m.disp && i->addrsize == 8)
		return m.base;
	emit_op_mem(&t->e, i->addrsize == 8 ? LEA : LEA & ~OP_W, HOST_LINEAR, m);
	if (i->segment >= FS) {
		emit_op_mem(&t->e, MOV_LOAD, HOST_COUNT,
			    translate_state(offsetof(struct soft_vcpu, seg[0].base) +
					    i->segment * sizeof(struct hav_segment)));
		emit_op_mem(&t->e, LEA, HOST_LINEAR,
			    (struct emit_mem){ HOST_LINEAR, HOST_COUNT, 1, 0 });
	}
	return HOST_LINEAR;
}

/* --- Look-ups ---- */

static int size_class(unsigned size)
{
	return size && size <= 1u << (SOFT_JIT_SIZES - 1) && !(size & (size - 1))
		       ? __builtin_ctz(size)
		       : -1;
}

/* The TLB's entry for the page of an address: HOST_PLACE is what to add, HOST_COUNT 0 if it may be.
 */
void translate_emit_lookup(struct emitter *e, unsigned tlb, unsigned linear, unsigned size,
			   bool write)
{
	size_t at = offsetof(struct soft_vcpu, tlb) + tlb * sizeof(struct soft_tlb);

	emit_shrx32(e, HOST_PLACE, linear, RSP);
	emit_op_mem(e, MOV_LOAD, HOST_COUNT,
		    translate_table(at + (write ? offsetof(struct soft_tlb, write)
						: offsetof(struct soft_tlb, read))));
	emit_op_mem(e, MOV_LOAD, HOST_PLACE,
		    translate_table(at + offsetof(struct soft_tlb, addend)));
	emit_op_mem(e, LEA, HOST_COUNT,
		    (struct emit_mem){ linear, HOST_COUNT, 1, (int32_t)size - 1 });
	emit_shrx(e, HOST_COUNT, HOST_COUNT, RSP);
}

/*
 * HOST_PLACE = what leads from linear addresses in [linear, linear + size) to the host's. In cold
 * code HOST_LINEAR is the address, too.
 */
void translate_lookup(struct translation *t, unsigned linear, unsigned size, bool write)
{
	int class = size_class(size);

	if (!t->hot && class >= 0) {
		emit_mov(&t->e, HOST_LINEAR, linear);
		emit_call(&t->e,
			  t->jit->writable + t->jit->helpers.lookup[t->page->tlb][write][class]);
		return;
	}
	translate_emit_lookup(&t->e, t->page->tlb, linear, size, write);
	emit_skip_if_zero(&t->e);
	if (t->hot)
		emit_jmp(&t->e, t->s->cold);
	else
		translate_to_interpreter(t);
}

/* --- Groups of accesses ---- */

static bool is_plain(const struct group *g)
{
	return g->segment < FS && g->index == NO_REG && g->base < 16;
}

/* The address is a register plus a constant. */
static void emit_plain(struct translation *t, const struct group *g, const struct member *member,
		       struct emit_mem slot, bool established, struct emit_mem *m)
{
	int32_t low = g->low - member->moved;
	unsigned base;

	translate_free(t, established ? SCRATCH_PLACE : SCRATCH_ALL);
	if (soft_host_reg[g->base] == NO_REG)
		translate_free(t, SCRATCH_LINEAR);
	base = translate_in_register(t, g->base, HOST_LINEAR);
	*m = (struct emit_mem){ base, HOST_PLACE, 1, member->at - member->moved };
	if (established) {
		emit_op_mem(&t->e, MOV_LOAD, HOST_PLACE, slot);
		return;
	}
	if (low) {
		emit_op_mem(&t->e, LEA, HOST_LINEAR, (struct emit_mem){ base, NO_REG, 1, low });
		if (base == HOST_LINEAR)
			m->disp = member->at - g->low;
		base = HOST_LINEAR;
	}
	translate_lookup(t, base, g->high - g->low, g->write);
	emit_op_mem(&t->e, MOV_STORE, HOST_PLACE, slot);
}

/* The address is a constant, as long as the page is where it is: the slot has the host's. */
static void emit_fixed(struct translation *t, const struct group *g, const struct member *member,
		       struct emit_mem slot, bool established, struct emit_mem *m)
{
	*m = (struct emit_mem){ HOST_PLACE, NO_REG, 1, member->at - g->low };
	if (established) {
		translate_free(t, SCRATCH_PLACE);
		emit_op_mem(&t->e, MOV_LOAD, HOST_PLACE, slot);
		return;
	}
	translate_free(t, SCRATCH_ALL);
	translate_from_page(t, g->low);
	translate_lookup(t, HOST_LINEAR, g->high - g->low, g->write);
	emit_op_mem(&t->e, LEA, HOST_PLACE, (struct emit_mem){ HOST_LINEAR, HOST_PLACE, 1, 0 });
	emit_op_mem(&t->e, MOV_STORE, HOST_PLACE, slot);
}

/* Any other: it is computed each time. */
static void emit_computed(struct translation *t, const struct group *g, const struct member *member,
			  struct emit_mem slot, bool established, struct emit_mem *m)
{
	unsigned linear;

	translate_free(t, SCRATCH_ALL);
	linear = emit_linear(t, established ? 0 : g->low - member->at);
	*m = (struct emit_mem){ linear, HOST_PLACE, 1, established ? 0 : member->at - g->low };
	if (established) {
		emit_op_mem(&t->e, MOV_LOAD, HOST_PLACE, slot);
		return;
	}
	translate_lookup(t, linear, g->high - g->low, g->write);
	emit_op_mem(&t->e, MOV_STORE, HOST_PLACE, slot);
}

/* Is this access one of a group here? Then *m is where it is. */
static bool emit_member(struct translation *t, const struct member *member, struct emit_mem *m)
{
	const struct group *g;
	struct emit_mem slot;
	bool established;

	if (!t->hot || member->group < 0 || t->groups[member->group].slot < 0)
		return false;
	g = &t->groups[member->group];
	slot = translate_state(offsetof(struct soft_vcpu, jit_ranges) + 8 * g->slot);
	established = t->established & 1u << member->group;
	if (is_plain(g))
		emit_plain(t, g, member, slot, established, m);
	else if (g->base == RIP_REG)
		emit_fixed(t, g, member, slot, established, m);
	else
		emit_computed(t, g, member, slot, established, m);
	t->established |= 1u << member->group;
	return true;
}

bool translate_operand(struct translation *t, unsigned size, bool write,
		       const struct emit_mem *linear, struct emit_mem *m)
{
	unsigned reg;

	if (!linear && emit_member(t, &t->s->operand, m))
		return true;
	translate_free(t, SCRATCH_ALL);
	reg = emit_linear(t, 0);
	if (reg == NO_REG)
		return false;
	if (linear)
		emit_op_mem(&t->e, MOV_STORE, reg, *linear);
	translate_lookup(t, reg, size, write);
	*m = (struct emit_mem){ reg, HOST_PLACE, 1, 0 };
	return true;
}

struct emit_mem translate_stack(struct translation *t, int32_t distance, bool write)
{
	unsigned reg = soft_host_reg[RSP];
	struct emit_mem m;

	if (emit_member(t, &t->s->stack, &m))
		return m;
	translate_free(t, SCRATCH_ALL);
	if (distance) {
		emit_op_mem(&t->e, LEA, HOST_LINEAR, (struct emit_mem){ reg, NO_REG, 1, distance });
		reg = HOST_LINEAR;
	}
	translate_lookup(t, reg, 8, write);
	return (struct emit_mem){ reg, HOST_PLACE, 1, 0 };
}

/* --- Which accesses form groups ---- */

#define MAX_RANGE 2048 /* bytes that a group may span */
#define MAX_MIX   256  /* between what is read and what is written, in one group */

/* Registers as a block changes them. */
struct registers {
	struct {
		unsigned version; /* how often it became something else */
		int32_t moved;    /* by how much since then */
		unsigned changes;
	} of[16];
};

static bool same_place(const struct group *a, const struct group *b)
{
	return a->base == b->base && a->index == b->index && a->scale == b->scale &&
	       a->segment == b->segment && a->version == b->version &&
	       a->index_version == b->index_version;
}

/* Finds or makes the group for an access. */
static int join(struct translation *t, const struct group *place, int32_t at, unsigned size)
{
	int32_t end = at + (int32_t)size;
	struct group *g;

	for (unsigned i = 0; i < t->n_groups; i++) {
		g = &t->groups[i];
		if (!same_place(g, place) || (int64_t)end - g->low > MAX_RANGE ||
		    (int64_t)g->high - at > MAX_RANGE)
			continue;
		/* What is read far from where it is written may be where nothing can be. */
		if (g->write != place->write && !(at < g->high + MAX_MIX && end > g->low - MAX_MIX))
			continue;
		g->write |= place->write;
		g->low = MIN(g->low, at);
		g->high = MAX(g->high, end);
		g->n++;
		return i;
	}
	if (t->n_groups == MAX_GROUPS)
		return -1;
	g = &t->groups[t->n_groups];
	*g = *place;
	g->low = at;
	g->high = end;
	g->n = 1;
	g->slot = -1;
	return t->n_groups++;
}

static bool has_memory(const struct step *s)
{
	for (unsigned n = 0; n < s->d.insn.operand_count_visible; n++)
		if (s->d.ops[n].type == ZYDIS_OPERAND_TYPE_MEMORY &&
		    s->d.ops[n].mem.type == ZYDIS_MEMOP_TYPE_MEM)
			return true;
	return false;
}

static void join_operand(struct translation *t, struct step *s, const struct registers *r)
{
	const struct soft_insn *i = &s->insn;
	struct group place = {
		.base = i->base,
		.index = i->index,
		.scale = i->index == NO_REG ? 1 : i->scale,
		.segment = i->segment < FS ? DS : i->segment,
		.write = i->base == RSP || (i->flags & INSN_WRITES),
	};
	int64_t at = i->disp;

	if (!has_memory(s) || i->addrsize != 8 || !i->memory_size || i->memory_size > 64)
		return;
	if (i->base == RIP_REG && (i->index != NO_REG || i->segment >= FS))
		return;
	if (i->base == RIP_REG) {
		at += s->offset + i->length;
	} else if (is_plain(&place)) {
		place.version = r->of[i->base].version;
		s->operand.moved = r->of[i->base].moved;
	} else if (i->base < 16) {
		place.version = r->of[i->base].changes;
	}
	if (i->index != NO_REG)
		place.index_version = r->of[i->index].changes;
	at += s->operand.moved;
	if (at != (int32_t)at || at > INT32_MAX - MAX_RANGE || at < INT32_MIN + MAX_RANGE)
		return;
	s->operand.at = at;
	s->operand.group = join(t, &place, at, i->memory_size);
}

/* PUSH, POP, CALL and RET: where they access the stack, and by how much they move it. */
static bool stack_use(const struct soft_insn *i, int32_t *at, int32_t *by)
{
	if (i->opsize != 8 || i->far_branch)
		return false;
	switch (i->mnemonic) {
	case ZYDIS_MNEMONIC_PUSH:
	case ZYDIS_MNEMONIC_CALL: *at = *by = -8; return true;
	case ZYDIS_MNEMONIC_POP:
	case ZYDIS_MNEMONIC_RET:
		*at = 0;
		*by = 8;
		return true;
	default: return false;
	}
}

/* Does it add a constant to a register? */
static bool moves(const struct soft_insn *i, unsigned *reg, int64_t *by)
{
	*reg = i->op[0].reg;
	if (i->op[0].kind != OPERAND_GPR || i->op[0].size != 8)
		return false;
	switch (i->mnemonic) {
	case ZYDIS_MNEMONIC_ADD: *by = i->imm; return i->op[1].kind == OPERAND_IMM;
	case ZYDIS_MNEMONIC_SUB: *by = -i->imm; return i->op[1].kind == OPERAND_IMM;
	case ZYDIS_MNEMONIC_INC: *by = 1; return true;
	case ZYDIS_MNEMONIC_DEC: *by = -1; return true;
	case ZYDIS_MNEMONIC_LEA:
		*by = i->disp;
		return i->base == *reg && i->index == NO_REG && i->addrsize == 8;
	default: return false;
	}
}

static void change_registers(const struct step *s, struct registers *r)
{
	unsigned moved = NO_REG;
	int32_t at, stack;
	int64_t by;

	if (stack_use(&s->insn, &at, &stack)) {
		moved = RSP;
		by = stack;
	} else if (!moves(&s->insn, &moved, &by)) {
		moved = NO_REG;
	}
	/* Not without end. */
	if (moved != NO_REG &&
	    (by != (int16_t)by || r->of[moved].moved + by != (int16_t)(r->of[moved].moved + by)))
		moved = NO_REG;
	if (moved != NO_REG) {
		r->of[moved].moved += by;
		r->of[moved].changes++;
	}
	for (unsigned n = 0; n < s->d.insn.operand_count; n++) {
		const ZydisDecodedOperand *op = &s->d.ops[n];
		unsigned reg;

		if (op->type != ZYDIS_OPERAND_TYPE_REGISTER || !soft_is_gpr(op->reg.value) ||
		    !(op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
			continue;
		reg = soft_gpr_of(op->reg.value);
		if (reg == moved && !(n == 0 && s->insn.mnemonic == ZYDIS_MNEMONIC_POP))
			continue;
		r->of[reg].version++;
		r->of[reg].changes++;
		r->of[reg].moved = 0;
	}
}

void translate_plan_groups(struct translation *t, struct step *steps, unsigned n)
{
	struct registers r = {};
	int slots = 0;

	for (struct step *s = steps; s < steps + n; s++) {
		int32_t at, by;

		s->operand = s->stack = (struct member){ .group = -1 };
		join_operand(t, s, &r);
		if (stack_use(&s->insn, &at, &by)) {
			const struct group place = {
				.base = RSP,
				.index = NO_REG,
				.scale = 1,
				.segment = DS,
				.write = true,
				.version = r.of[RSP].version,
			};

			s->stack.at = r.of[RSP].moved + at;
			s->stack.moved = r.of[RSP].moved;
			s->stack.group = join(t, &place, s->stack.at, 8);
		}
		change_registers(s, &r);
	}
	for (unsigned i = 0; i < t->n_groups; i++)
		if (t->groups[i].n > 1 && slots < SOFT_JIT_RANGES)
			t->groups[i].slot = slots++;
}
