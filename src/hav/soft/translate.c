/*
 * Software backend: from guest instructions to host code, a block at a time.
 *
 * A block is translated twice. In the slow variant each instruction stands by itself: before and
 * after it all of the guest's state is where soft_host_reg says, flags in the host's flags, so that
 * code may be entered and left between any two. In the fast variant, which is entered at its head
 * only, accesses at the same register (the stack above all) share one look-up for all of their
 * range; whatever does not succeed at once goes on in the slow variant at the same instruction.
 * Nothing the translator adds touches flags (LEA, MOV, SHRX, JRCXZ).
 *
 * Most instructions are copied (copy.c). Jumps within the page become jumps in the host code;
 * others, calls and returns look for the target in a table by linear address. What the slow variant
 * cannot do leaves to the interpreter, which does the whole instruction: up to there nothing has
 * been changed.
 *
 * Code is keyed by guest-physical address, so it must not know where it is: cpu->page_base is the
 * linear address of the page being run.
 */
#include "hav/soft/translate.h"

#include "hav/soft/exec.h"

const uint8_t soft_host_reg[16] = {
	[RAX] = RAX, [RCX] = R9,  [RDX] = RDX,   [RBX] = RBX,   [RSP] = R10,    [RBP] = RBP,
	[RSI] = RSI, [RDI] = RDI, [R8] = NO_REG, [R9] = NO_REG, [R10] = NO_REG, [R11] = NO_REG,
	[R12] = R12, [R13] = R13, [R14] = R14,   [R15] = R15,
};

struct emit_mem translate_state(size_t offset)
{
	return (struct emit_mem){ RSP, NO_REG, 1, SOFT_JIT_RSP + (int)offset };
}

struct emit_mem translate_gpr(unsigned reg)
{
	return translate_state(offsetof(struct soft_vcpu, frame.gpr) + 8 * reg);
}

/* An element of a table in the vCPU, at the place in HOST_PLACE. */
static struct emit_mem table_at(size_t offset)
{
	return (struct emit_mem){ RSP, HOST_PLACE, 8, SOFT_JIT_RSP + (int)offset };
}

/* --- Guest registers that live in memory ---- */

static const uint8_t scratch_hosts[3] = { HOST_COUNT, HOST_PLACE, HOST_LINEAR };

void translate_save(struct translation *t)
{
	for (unsigned i = 0; i < 3; i++)
		if (t->scratch[i].dirty) {
			emit_op_mem(&t->e, MOV_STORE, scratch_hosts[i],
				    translate_gpr(t->scratch[i].guest));
			t->scratch[i].dirty = false;
		}
}

void translate_free(struct translation *t, unsigned which)
{
	for (unsigned i = 0; i < 3; i++) {
		if (!(which & 1u << i))
			continue;
		if (t->scratch[i].dirty)
			emit_op_mem(&t->e, MOV_STORE, scratch_hosts[i],
				    translate_gpr(t->scratch[i].guest));
		t->scratch[i].guest = NO_REG;
		t->scratch[i].dirty = false;
	}
}

static int choose_scratch(const struct translation *t, unsigned among)
{
	int best = -1;

	for (unsigned i = 0; i < 3; i++) {
		if (!(among & ~t->pinned & 1u << i))
			continue;
		if (t->scratch[i].guest == NO_REG)
			return i;
		if (best < 0 || t->scratch[i].used < t->scratch[best].used)
			best = i;
	}
	return best;
}

int translate_scratch(struct translation *t, unsigned guest, unsigned among, bool load)
{
	int i;

	for (i = 0; i < 3; i++)
		if (t->scratch[i].guest == guest) {
			if (among & 1u << i)
				goto found;
			translate_free(t, 1u << i);
		}
	i = choose_scratch(t, among);
	if (i < 0)
		return -1;
	translate_free(t, 1u << i);
	t->scratch[i].guest = guest;
	if (load)
		emit_op_mem(&t->e, MOV_LOAD, scratch_hosts[i], translate_gpr(guest));
found:
	t->scratch[i].used = ++t->clock;
	t->pinned |= 1u << i;
	return scratch_hosts[i];
}

void translate_written(struct translation *t, unsigned guest)
{
	for (unsigned i = 0; i < 3; i++)
		if (t->scratch[i].guest == guest)
			t->scratch[i].dirty = true;
}

/* --- Ways out ---- */

static void add_cold(struct translation *t, uint8_t *site, unsigned kind, uint32_t word,
		     int64_t target)
{
	t->cold[t->n_cold++] = (struct cold){ site, kind, word, target };
}

/* From here: the interpreter is to do this instruction. */
static void to_interpreter(struct translation *t)
{
	add_cold(t, emit_jmp_open(&t->e), COLD_LEAVE, JIT_WORD(JIT_INTERPRET, t->s->offset), 0);
}

/* Skips the next five bytes when HOST_COUNT is 0. */
static void skip_if_zero(struct translation *t)
{
	emit8(&t->e, 0xe3); /* jrcxz */
	emit8(&t->e, 5);
}

/* When somebody wants the vCPU's attention, leaves to go on at an offset. */
static void poll(struct translation *t, uint32_t word)
{
	emit_op_mem(&t->e, MOV_LOAD32, HOST_COUNT, STATE(attention));
	skip_if_zero(t);
	add_cold(t, emit_jmp_open(&t->e), COLD_LEAVE, word, 0);
}

/* --- Addresses ---- */

/* The host register that has a guest's; those that live in memory are loaded into spare. */
static unsigned in_register(struct translation *t, unsigned reg, unsigned spare)
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

/* What base, index and displacement of the memory operand are on the host, without the segment. */
static bool offset_of(struct translation *t, unsigned spare, struct emit_mem *m)
{
	const struct soft_insn *i = &t->s->insn;
	int64_t disp = i->disp;

	*m = (struct emit_mem){ NO_REG, NO_REG, 1, 0 };
	if (i->addrsize == 2)
		return false;
	if (i->base == RIP_REG) {
		disp += t->s->offset + i->length;
		if (disp != (int32_t)disp || i->addrsize != 8)
			return false;
		emit_op_mem(&t->e, MOV_LOAD, spare, STATE(page_base));
		m->base = spare;
	} else {
		if (disp != (int32_t)disp)
			return false;
		if (i->base != NO_REG)
			m->base = in_register(t, i->base, HOST_LINEAR);
		if (i->index != NO_REG) {
			m->index = in_register(t, i->index, HOST_PLACE);
			m->scale = i->scale;
		}
	}
	m->disp = disp;
	return true;
}

/* The register that has the linear address of the memory operand, or NO_REG. */
static unsigned emit_linear(struct translation *t)
{
	const struct soft_insn *i = &t->s->insn;
	struct emit_mem m;

	if (!offset_of(t, HOST_LINEAR, &m))
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

/* HOST_PLACE = what leads from linear addresses in [linear, linear + size) to the host's. */
static void emit_lookup(struct translation *t, unsigned linear, unsigned size, bool write)
{
	size_t tlb = offsetof(struct soft_vcpu, tlb) + t->page->tlb * sizeof(struct soft_tlb);

	emit_shrx32(&t->e, HOST_PLACE, linear, RSP);
	emit_op_mem(&t->e, MOV_LOAD, HOST_COUNT,
		    table_at(tlb + (write ? offsetof(struct soft_tlb, write)
					  : offsetof(struct soft_tlb, read))));
	emit_op_mem(&t->e, MOV_LOAD, HOST_PLACE, table_at(tlb + offsetof(struct soft_tlb, addend)));
	emit_op_mem(&t->e, LEA, HOST_COUNT, (struct emit_mem){ linear, HOST_COUNT, 1, size - 1 });
	emit_shrx(&t->e, HOST_COUNT, HOST_COUNT, RSP);
	skip_if_zero(t);
	if (t->fast)
		emit_jmp(&t->e, t->s->slow);
	else
		to_interpreter(t);
}

/* --- Groups of accesses ---- */

/* How a register that groups begin with is reached: the host's, or HOST_LINEAR. */
static unsigned group_base(struct translation *t, const struct group *g)
{
	if (g->base != RIP_REG && soft_host_reg[g->base] != NO_REG)
		return soft_host_reg[g->base];
	translate_free(t, SCRATCH_LINEAR);
	if (g->base != RIP_REG)
		return in_register(t, g->base, HOST_LINEAR);
	emit_op_mem(&t->e, MOV_LOAD, HOST_LINEAR, STATE(page_base));
	return HOST_LINEAR;
}

/* Is this access one of a group here? Then *m is where it is. */
static bool emit_member(struct translation *t, const struct member *member, struct emit_mem *m)
{
	const struct group *g;
	struct emit_mem slot;
	unsigned base;

	if (!t->fast || member->group < 0 || t->groups[member->group].slot < 0)
		return false;
	g = &t->groups[member->group];
	slot = translate_state(offsetof(struct soft_vcpu, jit_ranges) + 8 * g->slot);
	if (t->established & 1u << member->group) {
		translate_free(t, SCRATCH_PLACE);
		emit_op_mem(&t->e, MOV_LOAD, HOST_PLACE, slot);
		base = group_base(t, g);
	} else {
		translate_free(t, SCRATCH_ALL);
		base = group_base(t, g);
		emit_op_mem(&t->e, LEA, HOST_LINEAR,
			    (struct emit_mem){ base, NO_REG, 1, g->low - member->moved });
		emit_lookup(t, HOST_LINEAR, g->high - g->low, g->write);
		emit_op_mem(&t->e, MOV_STORE, HOST_PLACE, slot);
		t->established |= 1u << member->group;
		if (base == HOST_LINEAR) {
			*m = (struct emit_mem){ base, HOST_PLACE, 1, member->at - g->low };
			return true;
		}
	}
	*m = (struct emit_mem){ base, HOST_PLACE, 1, member->at - member->moved };
	return true;
}

bool translate_operand(struct translation *t, unsigned size, bool write,
		       const struct emit_mem *linear, struct emit_mem *m)
{
	unsigned reg;

	if (!linear && emit_member(t, &t->s->operand, m))
		return true;
	translate_free(t, SCRATCH_ALL);
	reg = emit_linear(t);
	if (reg == NO_REG)
		return false;
	if (linear)
		emit_op_mem(&t->e, MOV_STORE, reg, *linear);
	emit_lookup(t, reg, size, write);
	*m = (struct emit_mem){ reg, HOST_PLACE, 1, 0 };
	return true;
}

/* Eight bytes at a distance from the top of the stack. */
static struct emit_mem emit_stack(struct translation *t, int32_t distance, bool write)
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
	emit_lookup(t, reg, 8, write);
	return (struct emit_mem){ reg, HOST_PLACE, 1, 0 };
}

#define MAX_RANGE 2048 /* bytes that a group may span */

/* Finds or makes the group for an access. */
static int join(struct translation *t, unsigned base, unsigned version, bool write, int32_t at,
		unsigned size)
{
	int32_t end = at + (int32_t)size;
	struct group *g;

	for (unsigned i = 0; i < t->n_groups; i++) {
		g = &t->groups[i];
		if (g->base != base || g->version != version || g->write != write ||
		    (int64_t)end - g->low > MAX_RANGE || (int64_t)g->high - at > MAX_RANGE)
			continue;
		g->low = MIN(g->low, at);
		g->high = MAX(g->high, end);
		g->n++;
		return i;
	}
	if (t->n_groups == MAX_GROUPS)
		return -1;
	t->groups[t->n_groups] = (struct group){ base, write, version, at, end, 1, -1 };
	return t->n_groups++;
}

/* Registers as a block changes them. */
struct registers {
	unsigned version[16];
	int32_t stack; /* by how much RSP has moved since its version began */
};

static void join_operand(struct translation *t, struct step *s, const struct registers *r)
{
	const struct soft_insn *i = &s->insn;
	bool memory = false;
	int64_t at = i->disp;

	for (unsigned n = 0; n < s->d.insn.operand_count_visible; n++)
		memory |= s->d.ops[n].type == ZYDIS_OPERAND_TYPE_MEMORY &&
			  s->d.ops[n].mem.type == ZYDIS_MEMOP_TYPE_MEM;
	if (!memory || i->base == NO_REG || i->index != NO_REG || i->addrsize != 8 ||
	    i->segment >= FS || !i->memory_size || i->memory_size > 64)
		return;
	if (i->base == RIP_REG)
		at += s->offset + i->length;
	if (i->base == RSP)
		s->operand.moved = r->stack;
	at += s->operand.moved;
	if (at != (int32_t)at || at > INT32_MAX - MAX_RANGE || at < INT32_MIN + MAX_RANGE)
		return;
	s->operand.at = at;
	s->operand.group = join(t, i->base, i->base == RIP_REG ? 0 : r->version[i->base],
				i->base == RSP || (i->flags & INSN_WRITES), at, i->memory_size);
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

/* Does it add a constant to RSP? */
static bool moves_stack(const struct soft_insn *i, int32_t *by)
{
	if (i->op[0].kind != OPERAND_GPR || i->op[0].reg != RSP || i->op[0].size != 8)
		return false;
	if (i->op[1].kind == OPERAND_IMM && i->imm == (int16_t)i->imm) {
		*by = i->mnemonic == ZYDIS_MNEMONIC_SUB ? -i->imm : i->imm;
		return i->mnemonic == ZYDIS_MNEMONIC_SUB || i->mnemonic == ZYDIS_MNEMONIC_ADD;
	}
	*by = i->disp;
	return i->mnemonic == ZYDIS_MNEMONIC_LEA && i->base == RSP && i->index == NO_REG &&
	       i->addrsize == 8 && i->disp == (int16_t)i->disp;
}

static void change_registers(const struct step *s, struct registers *r)
{
	int32_t at, by;
	bool moved = stack_use(&s->insn, &at, &by) || moves_stack(&s->insn, &by);

	/* Not without end. */
	if (moved && r->stack + by == (int16_t)(r->stack + by))
		r->stack += by;
	else
		moved = false;
	for (unsigned n = 0; n < s->d.insn.operand_count; n++) {
		const ZydisDecodedOperand *op = &s->d.ops[n];
		unsigned reg;

		if (op->type != ZYDIS_OPERAND_TYPE_REGISTER || !soft_is_gpr(op->reg.value) ||
		    !(op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
			continue;
		reg = soft_gpr_of(op->reg.value);
		if (reg == RSP && moved && !(n == 0 && s->insn.mnemonic == ZYDIS_MNEMONIC_POP))
			continue;
		r->version[reg]++;
		if (reg == RSP)
			r->stack = 0;
	}
}

/* Finds the accesses that may share look-ups; false when there are none. */
static bool plan_groups(struct translation *t, struct step *steps, unsigned n)
{
	struct registers r = { .stack = 0 };
	int slots = 0;

	for (struct step *s = steps; s < steps + n; s++) {
		int32_t at, by;

		s->operand = s->stack = (struct member){ .group = -1 };
		join_operand(t, s, &r);
		if (stack_use(&s->insn, &at, &by)) {
			s->stack.at = r.stack + at;
			s->stack.moved = r.stack;
			s->stack.group = join(t, RSP, r.version[RSP], true, s->stack.at, 8);
		}
		change_registers(s, &r);
	}
	for (unsigned i = 0; i < t->n_groups; i++)
		if (t->groups[i].n > 1 && slots < SOFT_JIT_RANGES)
			t->groups[i].slot = slots++;
	return slots;
}

/* --- Jumps ---- */

static unsigned after(const struct translation *t)
{
	return t->s->offset + t->s->insn.length;
}

/* Goes to the instruction at an offset of this page, from a rel32 at site. */
static void link_within(struct translation *t, uint8_t *site, unsigned target)
{
	uint32_t at = t->page->at[target];

	if (at && !(at & JIT_MIDDLE))
		emit_close(site, t->jit->writable + (at & ~JIT_SPANS));
	else
		add_cold(t, site, COLD_CHAIN, JIT_WORD(JIT_CHAIN, target), 0);
}

static void jump_within(struct translation *t, unsigned target)
{
	if (target <= t->s->offset)
		poll(t, JIT_WORD(JIT_GO, target));
	link_within(t, emit_jmp_open(&t->e), target);
}

/* To the linear address in HOST_LINEAR, if code for it is in the table; the stack pointer moves
 * then. */
static void emit_jump_linear(struct translation *t, int32_t stack, uint32_t word)
{
	size_t jumps = offsetof(struct soft_vcpu, jumps) + t->page->tlb * sizeof(struct soft_jumps);

	poll(t, word);
	emit_op_reg(&t->e, OP_0F | 0xb7, HOST_PLACE, HOST_LINEAR);
	emit_op_mem(&t->e, MOV_LOAD, HOST_COUNT,
		    table_at(jumps + offsetof(struct soft_jumps, tag)));
	emit_op_mem(&t->e, LEA, HOST_COUNT, (struct emit_mem){ HOST_LINEAR, HOST_COUNT, 1, 0 });
	skip_if_zero(t);
	add_cold(t, emit_jmp_open(&t->e), COLD_LEAVE, word, 0);
	if (stack)
		emit_op_mem(&t->e, LEA, soft_host_reg[RSP],
			    (struct emit_mem){ soft_host_reg[RSP], NO_REG, 1, stack });
	emit_shrx(&t->e, HOST_LINEAR, HOST_LINEAR, RSP);
	emit_shlx(&t->e, HOST_LINEAR, HOST_LINEAR, RSP);
	emit_op_mem(&t->e, MOV_STORE, HOST_LINEAR, STATE(page_base));
	emit_op_mem(&t->e, 0xff, 4, table_at(jumps + offsetof(struct soft_jumps, code)));
}

/* The target of a direct jump, from the page; false when it is too far to be said. */
static bool direct_target(const struct translation *t, int64_t *target)
{
	*target = (int64_t)after(t) + t->s->insn.imm;
	return *target == (int32_t)*target;
}

static bool within(int64_t target)
{
	return target >= 0 && target < SOFT_PAGE;
}

static void emit_move_stack(struct translation *t, int32_t by)
{
	emit_op_mem(&t->e, LEA, soft_host_reg[RSP],
		    (struct emit_mem){ soft_host_reg[RSP], NO_REG, 1, by });
}

/* The return address, below the top of the stack, which does not move yet. */
static void emit_return_address(struct translation *t)
{
	struct emit_mem top = emit_stack(t, -8, true);

	emit_op_mem(&t->e, MOV_LOAD, HOST_COUNT, STATE(page_base));
	emit_op_mem(&t->e, LEA, HOST_COUNT,
		    (struct emit_mem){ HOST_COUNT, NO_REG, 1, (int32_t)after(t) });
	emit_op_mem(&t->e, MOV_STORE, HOST_COUNT, top);
}

static bool direct(struct translation *t, bool call)
{
	int64_t target;

	if (!direct_target(t, &target))
		return false;
	t->ended = true;
	if (call)
		emit_return_address(t);
	if (within(target)) {
		if (call)
			emit_move_stack(t, -8);
		jump_within(t, target);
		return true;
	}
	translate_from_page(t, target);
	emit_jump_linear(t, call ? -8 : 0, JIT_WORD(JIT_INTERPRET, t->s->offset));
	return true;
}

/* The target is in a register or in memory. */
static bool indirect(struct translation *t, bool call)
{
	const struct soft_operand *op = &t->s->insn.op[0];
	uint32_t word = JIT_WORD(JIT_INTERPRET, t->s->offset);
	struct emit_mem m;

	if (op->kind == OPERAND_MEMORY) {
		if (!translate_operand(t, 8, false, NULL, &m))
			return false;
		emit_op_mem(&t->e, MOV_LOAD, HOST_LINEAR, m);
		if (call) {
			/* The return address may overwrite it: it cannot be read again. */
			emit_op_mem(&t->e, MOV_STORE, HOST_LINEAR, STATE(jit_saved));
			emit_return_address(t);
			emit_op_mem(&t->e, MOV_LOAD, HOST_LINEAR, STATE(jit_saved));
			word = JIT_WORD(JIT_CALLED, t->s->offset);
		}
	} else {
		if (call)
			emit_return_address(t);
		emit_mov(&t->e, HOST_LINEAR, in_register(t, op->reg, HOST_LINEAR));
	}
	emit_jump_linear(t, call ? -8 : 0, word);
	t->ended = true;
	return true;
}

static bool jump(struct translation *t, bool call)
{
	if (t->s->insn.far_branch || t->s->insn.opsize != 8)
		return false;
	return t->s->insn.op[0].kind == OPERAND_IMM ? direct(t, call) : indirect(t, call);
}

static bool ret(struct translation *t)
{
	if (t->s->insn.far_branch || t->s->insn.opsize != 8)
		return false;
	emit_op_mem(&t->e, MOV_LOAD, HOST_LINEAR, emit_stack(t, 0, false));
	emit_jump_linear(t, 8 + (uint16_t)t->s->insn.imm, JIT_WORD(JIT_INTERPRET, t->s->offset));
	t->ended = true;
	return true;
}

static bool jcc(struct translation *t)
{
	unsigned condition = t->s->d.insn.opcode & 15;
	int64_t target;

	if (t->s->insn.opsize != 8 || !direct_target(t, &target))
		return false;
	translate_save(t);
	if (!within(target)) {
		add_cold(t, emit_jcc_open(&t->e, condition), COLD_CROSS,
			 JIT_WORD(JIT_INTERPRET, t->s->offset), target);
	} else if (target <= t->s->offset) {
		uint8_t *over;

		translate_free(t, SCRATCH_COUNT);
		emit8(&t->e, 0x70 | (condition ^ 1));
		emit8(&t->e, 0);
		over = t->e.at;
		jump_within(t, target);
		over[-1] = t->e.at - over;
	} else {
		link_within(t, emit_jcc_open(&t->e, condition), target);
	}
	return true;
}

/* --- The stack ---- */

/* The host register that has a guest's, or will, while HOST_PLACE and perhaps HOST_LINEAR are in
 * use. */
static unsigned register_for(struct translation *t, unsigned reg, bool load)
{
	t->pinned = 0;
	return soft_host_reg[reg] != NO_REG
		       ? soft_host_reg[reg]
		       : (unsigned)translate_scratch(t, reg, SCRATCH_COUNT, load);
}

static bool push(struct translation *t)
{
	const struct soft_operand *op = &t->s->insn.op[0];
	struct emit_mem m;

	if (t->s->insn.opsize != 8 || op->kind == OPERAND_SEGMENT)
		return false;
	if (op->kind == OPERAND_MEMORY) {
		translate_free(t, SCRATCH_ALL);
		if (!translate_operand(t, 8, false, NULL, &m))
			return false;
		emit_op_mem(&t->e, MOV_LOAD, HOST_LINEAR, m);
		emit_op_mem(&t->e, MOV_STORE, HOST_LINEAR, STATE(jit_saved));
	}
	m = emit_stack(t, -8, true);
	if (op->kind == OPERAND_IMM) {
		emit_op_mem(&t->e, OP_W | 0xc7, 0, m);
		emit32(&t->e, t->s->insn.imm);
	} else if (op->kind == OPERAND_MEMORY) {
		translate_free(t, SCRATCH_COUNT);
		emit_op_mem(&t->e, MOV_LOAD, HOST_COUNT, STATE(jit_saved));
		emit_op_mem(&t->e, MOV_STORE, HOST_COUNT, m);
	} else {
		emit_op_mem(&t->e, MOV_STORE, register_for(t, op->reg, true), m);
	}
	emit_move_stack(t, -8);
	return true;
}

static bool pop(struct translation *t)
{
	const struct soft_operand *op = &t->s->insn.op[0];
	struct emit_mem m;

	if (t->s->insn.opsize != 8 || op->kind != OPERAND_GPR || op->reg == RSP)
		return false;
	m = emit_stack(t, 0, false);
	emit_op_mem(&t->e, MOV_LOAD, register_for(t, op->reg, false), m);
	translate_written(t, op->reg);
	emit_move_stack(t, 8);
	return true;
}

static bool leave(struct translation *t)
{
	if (t->s->insn.opsize != 8)
		return false;
	emit_lookup(t, RBP, 8, false);
	emit_op_mem(&t->e, LEA, soft_host_reg[RSP], (struct emit_mem){ RBP, NO_REG, 1, 8 });
	emit_op_mem(&t->e, MOV_LOAD, RBP, (struct emit_mem){ RBP, HOST_PLACE, 1, 0 });
	return true;
}

/* LEA uses three at most. */
static unsigned lea_register(struct translation *t, unsigned reg, bool load)
{
	return soft_host_reg[reg] != NO_REG
		       ? soft_host_reg[reg]
		       : (unsigned)translate_scratch(t, reg, SCRATCH_ALL, load);
}

static bool lea(struct translation *t)
{
	const struct soft_insn *i = &t->s->insn;
	const struct soft_operand *op = &i->op[0];
	bool wide = op->size == 8 && i->addrsize == 8;
	struct emit_mem m = { NO_REG, NO_REG, 1, i->disp };
	int64_t disp = i->disp + (i->base == RIP_REG ? t->s->offset + i->length : 0);

	if (op->size == 2 || i->addrsize == 2 || disp != (int32_t)disp ||
	    (i->base == RIP_REG && i->addrsize != 8))
		return false;
	m.disp = disp;
	t->pinned = 0;
	if (i->base == RIP_REG) {
		translate_free(t, SCRATCH_LINEAR);
		t->pinned = SCRATCH_LINEAR;
		emit_op_mem(&t->e, MOV_LOAD, HOST_LINEAR, STATE(page_base));
		m.base = HOST_LINEAR;
	} else if (i->base != NO_REG) {
		m.base = lea_register(t, i->base, true);
	}
	if (i->index != NO_REG) {
		m.index = lea_register(t, i->index, true);
		m.scale = i->scale;
	}
	emit_op_mem(&t->e, wide ? LEA : LEA & ~OP_W, lea_register(t, op->reg, false), m);
	translate_written(t, op->reg);
	return true;
}

/* --- A block ---- */

static bool is_nothing(const struct step *s)
{
	switch (s->d.insn.meta.category) {
	case ZYDIS_CATEGORY_NOP:
	case ZYDIS_CATEGORY_WIDENOP:
	case ZYDIS_CATEGORY_PREFETCH: return s->insn.mnemonic != ZYDIS_MNEMONIC_PAUSE;
	default:
		return s->insn.mnemonic == ZYDIS_MNEMONIC_ENDBR64 ||
		       s->insn.mnemonic == ZYDIS_MNEMONIC_ENDBR32;
	}
}

static bool is_jcc(const ZydisDecodedInstruction *insn)
{
	return insn->meta.category == ZYDIS_CATEGORY_COND_BR &&
	       ((insn->opcode_map == ZYDIS_OPCODE_MAP_0F && (insn->opcode & 0xf0) == 0x80) ||
		(insn->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && (insn->opcode & 0xf0) == 0x70));
}

static bool one(struct translation *t)
{
	if (t->s->insn.fn == soft_exec_undefined)
		return false;
	if (is_nothing(t->s))
		return true;
	if (is_jcc(&t->s->d.insn))
		return jcc(t);
	switch (t->s->insn.mnemonic) {
	case ZYDIS_MNEMONIC_PUSH: return push(t);
	case ZYDIS_MNEMONIC_POP: return pop(t);
	case ZYDIS_MNEMONIC_LEA: return lea(t);
	case ZYDIS_MNEMONIC_CALL:
	case ZYDIS_MNEMONIC_JMP:
	case ZYDIS_MNEMONIC_RET:
	case ZYDIS_MNEMONIC_LEAVE: translate_free(t, SCRATCH_ALL); break;
	default: return translate_copy(t);
	}
	switch (t->s->insn.mnemonic) {
	case ZYDIS_MNEMONIC_CALL: return jump(t, true);
	case ZYDIS_MNEMONIC_JMP: return jump(t, false);
	case ZYDIS_MNEMONIC_RET: return ret(t);
	default: return leave(t);
	}
}

/* An instruction in the present variant; what was emitted of one that cannot be is taken back. */
static void instruction(struct translation *t, struct step *s)
{
	struct soft_jit *jit = t->jit;
	uint8_t *start = t->e.at;
	unsigned n_cold = t->n_cold;
	uint32_t established = t->established;
	struct scratch scratch[3];

	t->s = s;
	memcpy(scratch, t->scratch, sizeof(scratch));
	jit->origins[jit->n_origins++] =
		(struct soft_jit_origin){ start - jit->writable, s->offset };
	if (one(t)) {
		if (!t->fast)
			translate_free(t, SCRATCH_ALL);
		return;
	}
	t->e.at = start;
	t->n_cold = n_cold;
	t->established = established;
	memcpy(t->scratch, scratch, sizeof(scratch));
	translate_free(t, SCRATCH_ALL);
	t->ended = true;
	to_interpreter(t);
}

/* To an offset, wherever code for its linear address is. */
static void go_by_table(struct translation *t, unsigned offset)
{
	translate_from_page(t, offset);
	emit_jump_linear(t, 0, JIT_WORD(JIT_GO, offset));
}

static void put_cold(struct translation *t)
{
	/* COLD_CROSS adds some while this runs. */
	for (unsigned i = 0; i < t->n_cold; i++) {
		struct cold *c = &t->cold[i];

		if (c->kind == COLD_LEAVE && i && c[-1].kind == COLD_LEAVE &&
		    c[-1].word == c->word) {
			emit_close(c->site, t->e.at - 10);
			continue;
		}
		emit_close(c->site, t->e.at);
		if (c->kind == COLD_CROSS) {
			translate_from_page(t, c->target);
			emit_jump_linear(t, 0, c->word);
			continue;
		}
		if (c->kind == COLD_CHAIN)
			emit_mov_imm32(&t->e, HOST_LINEAR, c->site - t->jit->writable);
		emit_mov_imm32(&t->e, HOST_COUNT, c->word);
		emit_jmp(&t->e, t->jit->writable + t->jit->leave);
	}
	t->n_cold = 0;
	t->jit->used = ALIGN_UP(t->e.at - t->jit->writable, 16);
}

/* After the last instruction of a variant: offset is what follows. */
static void go_on(struct translation *t, unsigned offset)
{
	if (t->ended)
		return;
	translate_free(t, SCRATCH_ALL);
	if (offset < SOFT_PAGE)
		link_within(t, emit_jmp_open(&t->e), offset);
	else
		go_by_table(t, offset);
}

/* Decodes what begins at an offset of the page; false when it does not end in it. */
static bool decode_step(struct translation *t, struct step *s, unsigned offset)
{
	unsigned n = MIN(SOFT_PAGE - offset, (unsigned)SOFT_MAX_INSN);
	uint8_t bytes[SOFT_MAX_INSN];

	s->offset = offset;
	memcpy(bytes, t->page->host + offset, n);
	return soft_decode(t->cpu, bytes, n, &s->insn, &s->d) || n == SOFT_MAX_INSN;
}

/* The slow variant, which is where instructions come from; returns what follows the last one. */
static unsigned translate_slow(struct translation *t, struct step *steps, unsigned *n,
			       unsigned offset)
{
	uint32_t *at = t->page->at;

	for (*n = 0; !t->ended && offset < SOFT_PAGE && *n < MAX_BLOCK; ++*n) {
		struct step *s = &steps[*n];

		if (*n && at[offset] && !(at[offset] & JIT_MIDDLE))
			break;
		s->slow = t->e.at;
		if (!decode_step(t, s, offset)) {
			at[offset] = (t->e.at - t->jit->writable) | JIT_SPANS;
			go_by_table(t, offset);
			t->ended = true;
			break;
		}
		if (!*n || !at[offset])
			at[offset] = (t->e.at - t->jit->writable) | (*n ? JIT_MIDDLE : 0);
		instruction(t, s);
		offset += s->insn.length;
	}
	return offset;
}

void soft_translate_code(struct soft_vcpu *cpu, struct soft_jit_page *page, unsigned head)
{
	struct soft_jit *jit = cpu->jit;
	struct step steps[MAX_BLOCK];
	struct cold cold[MAX_COLD];
	struct translation t = {
		.cpu = cpu,
		.jit = jit,
		.page = page,
		.cold = cold,
		.scratch = { { NO_REG }, { NO_REG }, { NO_REG } },
	};
	unsigned n, next;

	t.e.at = jit->writable + jit->used;
	next = translate_slow(&t, steps, &n, head);
	go_on(&t, next);
	put_cold(&t);
	if (!plan_groups(&t, steps, n))
		return;
	t.fast = true;
	t.ended = false;
	t.e.at = jit->writable + jit->used;
	page->at[head] = jit->used;
	for (unsigned i = 0; i < n; i++)
		instruction(&t, &steps[i]);
	go_on(&t, next);
	put_cold(&t);
}

uint32_t soft_translate_span(struct soft_vcpu *cpu, struct soft_jit_page *page, unsigned offset,
			     const struct soft_jit_page *second)
{
	struct soft_jit *jit = cpu->jit;
	unsigned n = SOFT_PAGE - offset;
	uint8_t bytes[SOFT_MAX_INSN];
	struct cold cold[MAX_COLD];
	struct step s = { .offset = offset };
	struct translation t = {
		.cpu = cpu,
		.jit = jit,
		.page = page,
		.cold = cold,
		.scratch = { { NO_REG }, { NO_REG }, { NO_REG } },
	};
	uint32_t start = jit->used;

	memcpy(bytes, page->host + offset, n);
	memcpy(bytes + n, second->host, SOFT_MAX_INSN - n);
	soft_decode(cpu, bytes, SOFT_MAX_INSN, &s.insn, &s.d);
	t.e.at = jit->writable + start;
	instruction(&t, &s);
	go_on(&t, offset + s.insn.length);
	put_cold(&t);
	return start;
}
