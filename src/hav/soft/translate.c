/*
 * Software backend: from guest instructions to host code.
 *
 * One instruction after the other, each by itself: before and after it all of the guest's state is
 * where soft_host_reg says, flags in the host's flags, so that translated code may be entered and
 * left between any two. Nothing the translator adds touches flags (LEA, MOV, SHRX, JRCXZ).
 *
 * An instruction that computes is copied, with other registers in its ModRM byte and its memory
 * operand replaced by [R8], which a look-up in the TLB has filled. Jumps within the page become
 * jumps in the host code; others, calls and returns look for the target in a table by linear
 * address. Whatever does not succeed at once leaves to the interpreter, which does the whole
 * instruction: up to there nothing has been changed.
 *
 * Code is keyed by guest-physical address, so it must not know where it is: cpu->page_base is the
 * linear address of the page being run.
 */
#include "hav/soft/exec.h"
#include "hav/soft/jit.h"

#define MAX_BLOCK 64 /* instructions */

const uint8_t soft_host_reg[16] = {
	[RAX] = RAX, [RCX] = R9,  [RDX] = RDX,   [RBX] = RBX,   [RSP] = R10,    [RBP] = RBP,
	[RSI] = RSI, [RDI] = RDI, [R8] = NO_REG, [R9] = NO_REG, [R10] = NO_REG, [R11] = NO_REG,
	[R12] = R12, [R13] = R13, [R14] = R14,   [R15] = R15,
};

/* Code that is seldom run, put behind the block. */
struct cold {
	uint8_t *site; /* the rel32 that goes there */
	enum { COLD_LEAVE, COLD_CHAIN, COLD_CROSS } kind;
	uint32_t word;  /* what the translated code returns */
	int64_t target; /* COLD_CROSS: from the page */
};
#define MAX_COLD (MAX_BLOCK * 8)

struct translation {
	struct soft_vcpu *cpu;
	struct soft_jit *jit;
	struct soft_jit_page *page;
	struct emitter e;
	unsigned offset; /* of the instruction, in its page */
	struct soft_decoded d;
	struct soft_insn insn;
	bool ended;
	unsigned n_cold;
	struct cold *cold;
};

static struct emit_mem state_at(size_t offset)
{
	return (struct emit_mem){ RSP, NO_REG, 1, SOFT_JIT_RSP + (int)offset };
}

static struct emit_mem gpr_at(unsigned reg)
{
	return state_at(offsetof(struct soft_vcpu, frame.gpr) + 8 * reg);
}

/* An element of a table in the vCPU, at the place in HOST_PLACE. */
static struct emit_mem table_at(size_t offset)
{
	return (struct emit_mem){ RSP, HOST_PLACE, 8, SOFT_JIT_RSP + (int)offset };
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
	add_cold(t, emit_jmp_open(&t->e), COLD_LEAVE, JIT_WORD(JIT_INTERPRET, t->offset), 0);
}

/* Unless HOST_COUNT is 0. */
static void interpret_unless_zero(struct translation *t)
{
	emit8(&t->e, 0xe3); /* jrcxz over the jump */
	emit8(&t->e, 5);
	to_interpreter(t);
}

/* When somebody wants the vCPU's attention, leaves to go on at an offset. */
static void poll(struct translation *t, uint32_t word)
{
	emit_op_mem(&t->e, MOV_LOAD32, HOST_COUNT, STATE(attention));
	emit8(&t->e, 0xe3);
	emit8(&t->e, 5);
	add_cold(t, emit_jmp_open(&t->e), COLD_LEAVE, word, 0);
}

/* --- Addresses ---- */

/* The host register that has a guest's; those that live in memory are loaded into spare. */
static unsigned in_register(struct translation *t, unsigned reg, unsigned spare)
{
	if (soft_host_reg[reg] != NO_REG)
		return soft_host_reg[reg];
	emit_op_mem(&t->e, MOV_LOAD, spare, gpr_at(reg));
	return spare;
}

/* HOST_LINEAR = the page's linear address + distance. */
static void emit_from_page(struct translation *t, int32_t distance)
{
	emit_op_mem(&t->e, MOV_LOAD, HOST_LINEAR, STATE(page_base));
	emit_op_mem(&t->e, LEA, HOST_LINEAR, (struct emit_mem){ HOST_LINEAR, NO_REG, 1, distance });
}

/* Base, index and displacement of the memory operand, without the segment, into to: as many bytes.
 */
static bool emit_offset(struct translation *t, unsigned to, unsigned size)
{
	const struct soft_insn *i = &t->insn;
	struct emit_mem m = { NO_REG, NO_REG, 1, 0 };
	int64_t disp = i->disp;

	if (i->addrsize == 2)
		return false;
	if (i->base == RIP_REG) {
		disp += t->offset + i->length;
		if (disp != (int32_t)disp || i->addrsize != 8)
			return false;
		emit_op_mem(&t->e, MOV_LOAD, to, STATE(page_base));
		m.base = to;
	} else {
		if (disp != (int32_t)disp)
			return false;
		if (i->base != NO_REG)
			m.base = in_register(t, i->base, HOST_LINEAR);
		if (i->index != NO_REG) {
			m.index = in_register(t, i->index, HOST_PLACE);
			m.scale = i->scale;
		}
	}
	m.disp = disp;
	emit_op_mem(&t->e, i->addrsize == 8 && size == 8 ? LEA : LEA & ~OP_W, to, m);
	return true;
}

/* HOST_LINEAR = the linear address of the memory operand. */
static bool emit_linear(struct translation *t)
{
	if (!emit_offset(t, HOST_LINEAR, 8))
		return false;
	if (t->insn.segment < FS)
		return true;
	emit_op_mem(&t->e, MOV_LOAD, HOST_COUNT,
		    state_at(offsetof(struct soft_vcpu, seg[0].base) +
			     t->insn.segment * sizeof(struct hav_segment)));
	emit_op_mem(&t->e, LEA, HOST_LINEAR, (struct emit_mem){ HOST_LINEAR, HOST_COUNT, 1, 0 });
	return true;
}

/* Where HOST_OPERAND is then: the host address for an access at HOST_LINEAR. */
#define HOST_OPERAND ((struct emit_mem){ HOST_LINEAR, HOST_PLACE, 1, 0 })
static void emit_lookup(struct translation *t, unsigned size, bool write)
{
	size_t tlb = offsetof(struct soft_vcpu, tlb) + t->page->tlb * sizeof(struct soft_tlb);

	emit_shrx32(&t->e, HOST_PLACE, HOST_LINEAR, RSP);
	emit_op_mem(&t->e, MOV_LOAD, HOST_COUNT,
		    table_at(tlb + (write ? offsetof(struct soft_tlb, write)
					  : offsetof(struct soft_tlb, read))));
	emit_op_mem(&t->e, MOV_LOAD, HOST_PLACE, table_at(tlb + offsetof(struct soft_tlb, addend)));
	emit_op_mem(&t->e, LEA, HOST_COUNT,
		    (struct emit_mem){ HOST_LINEAR, HOST_COUNT, 1, size - 1 });
	emit_shrx(&t->e, HOST_COUNT, HOST_COUNT, RSP);
	interpret_unless_zero(t);
}

static bool emit_operand(struct translation *t, unsigned size, bool write)
{
	if (!emit_linear(t))
		return false;
	emit_lookup(t, size, write);
	return true;
}

/* --- Jumps ---- */

static unsigned after(const struct translation *t)
{
	return t->offset + t->insn.length;
}

/* Goes to the instruction at an offset of this page, from a rel32 at site. */
static void link_within(struct translation *t, uint8_t *site, unsigned target)
{
	if (t->page->at[target])
		emit_close(site, t->jit->writable + (t->page->at[target] & ~JIT_SPANS));
	else
		add_cold(t, site, COLD_CHAIN, JIT_WORD(JIT_CHAIN, target), 0);
}

static void jump_within(struct translation *t, unsigned target)
{
	if (target <= t->offset)
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
	emit8(&t->e, 0xe3);
	emit8(&t->e, 5);
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
	*target = (int64_t)after(t) + t->insn.imm;
	return *target == (int32_t)*target;
}

static bool within(int64_t target)
{
	return target >= 0 && target < SOFT_PAGE;
}

/* HOST_OPERAND is the stack below its top. */
static void emit_push_place(struct translation *t)
{
	emit_op_mem(&t->e, LEA, HOST_LINEAR,
		    (struct emit_mem){ soft_host_reg[RSP], NO_REG, 1, -8 });
	emit_lookup(t, 8, true);
}

static void emit_move_stack(struct translation *t, int32_t by)
{
	emit_op_mem(&t->e, LEA, soft_host_reg[RSP],
		    (struct emit_mem){ soft_host_reg[RSP], NO_REG, 1, by });
}

/* The return address, below the top of the stack, which does not move yet. */
static void emit_return_address(struct translation *t)
{
	emit_push_place(t);
	emit_op_mem(&t->e, MOV_LOAD, HOST_COUNT, STATE(page_base));
	emit_op_mem(&t->e, LEA, HOST_COUNT,
		    (struct emit_mem){ HOST_COUNT, NO_REG, 1, (int32_t)after(t) });
	emit_op_mem(&t->e, MOV_STORE, HOST_COUNT, HOST_OPERAND);
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
	emit_from_page(t, target);
	emit_jump_linear(t, call ? -8 : 0, JIT_WORD(JIT_INTERPRET, t->offset));
	return true;
}

/* The target is in a register or in memory. */
static bool indirect(struct translation *t, bool call)
{
	const struct soft_operand *op = &t->insn.op[0];
	bool memory = op->kind == OPERAND_MEMORY;

	if (memory) {
		if (!emit_operand(t, 8, false))
			return false;
		emit_op_mem(&t->e, MOV_LOAD, HOST_LINEAR, HOST_OPERAND);
		if (call)
			emit_op_mem(&t->e, MOV_STORE, HOST_LINEAR, STATE(jit_saved));
	}
	if (call)
		emit_return_address(t);
	if (!memory)
		emit_mov(&t->e, HOST_LINEAR, in_register(t, op->reg, HOST_LINEAR));
	else if (call)
		emit_op_mem(&t->e, MOV_LOAD, HOST_LINEAR, STATE(jit_saved));
	emit_jump_linear(t, call ? -8 : 0, JIT_WORD(JIT_INTERPRET, t->offset));
	t->ended = true;
	return true;
}

static bool jump(struct translation *t, bool call)
{
	if (t->insn.far_branch || t->insn.opsize != 8)
		return false;
	return t->insn.op[0].kind == OPERAND_IMM ? direct(t, call) : indirect(t, call);
}

static bool ret(struct translation *t)
{
	if (t->insn.far_branch || t->insn.opsize != 8)
		return false;
	emit_mov(&t->e, HOST_LINEAR, soft_host_reg[RSP]);
	emit_lookup(t, 8, false);
	emit_op_mem(&t->e, MOV_LOAD, HOST_LINEAR, HOST_OPERAND);
	emit_jump_linear(t, 8 + (uint16_t)t->insn.imm, JIT_WORD(JIT_INTERPRET, t->offset));
	t->ended = true;
	return true;
}

static bool jcc(struct translation *t)
{
	unsigned condition = t->d.insn.opcode & 15;
	int64_t target;

	if (t->insn.opsize != 8 || !direct_target(t, &target))
		return false;
	if (!within(target)) {
		add_cold(t, emit_jcc_open(&t->e, condition), COLD_CROSS,
			 JIT_WORD(JIT_INTERPRET, t->offset), target);
	} else if (target <= t->offset) {
		uint8_t *over;

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

static bool push(struct translation *t)
{
	const struct soft_operand *op = &t->insn.op[0];

	if (t->insn.opsize != 8 || op->kind == OPERAND_SEGMENT)
		return false;
	if (op->kind == OPERAND_MEMORY) {
		if (!emit_operand(t, 8, false))
			return false;
		emit_op_mem(&t->e, MOV_LOAD, HOST_LINEAR, HOST_OPERAND);
		emit_op_mem(&t->e, MOV_STORE, HOST_LINEAR, STATE(jit_saved));
	}
	emit_push_place(t);
	if (op->kind == OPERAND_IMM) {
		emit_op_mem(&t->e, OP_W | 0xc7, 0, HOST_OPERAND);
		emit32(&t->e, t->insn.imm);
	} else if (op->kind == OPERAND_MEMORY) {
		emit_op_mem(&t->e, MOV_LOAD, HOST_COUNT, STATE(jit_saved));
		emit_op_mem(&t->e, MOV_STORE, HOST_COUNT, HOST_OPERAND);
	} else {
		emit_op_mem(&t->e, MOV_STORE, in_register(t, op->reg, HOST_COUNT), HOST_OPERAND);
	}
	emit_move_stack(t, -8);
	return true;
}

/* A guest register gets HOST_OPERAND. */
static void load_register(struct translation *t, unsigned reg)
{
	unsigned to = soft_host_reg[reg] == NO_REG ? HOST_COUNT : soft_host_reg[reg];

	emit_op_mem(&t->e, MOV_LOAD, to, HOST_OPERAND);
	if (to == HOST_COUNT)
		emit_op_mem(&t->e, MOV_STORE, to, gpr_at(reg));
}

static bool pop(struct translation *t)
{
	const struct soft_operand *op = &t->insn.op[0];

	if (t->insn.opsize != 8 || op->kind != OPERAND_GPR || op->reg == RSP)
		return false;
	emit_mov(&t->e, HOST_LINEAR, soft_host_reg[RSP]);
	emit_lookup(t, 8, false);
	load_register(t, op->reg);
	emit_move_stack(t, 8);
	return true;
}

static bool leave(struct translation *t)
{
	if (t->insn.opsize != 8)
		return false;
	emit_mov(&t->e, HOST_LINEAR, RBP);
	emit_lookup(t, 8, false);
	emit_op_mem(&t->e, LEA, soft_host_reg[RSP], (struct emit_mem){ RBP, NO_REG, 1, 8 });
	emit_op_mem(&t->e, MOV_LOAD, RBP, HOST_OPERAND);
	return true;
}

static bool lea(struct translation *t)
{
	const struct soft_operand *op = &t->insn.op[0];
	unsigned to = soft_host_reg[op->reg];

	if (op->size == 2)
		return false;
	if (!emit_offset(t, to == NO_REG ? HOST_LINEAR : to, op->size))
		return false;
	if (to == NO_REG)
		emit_op_mem(&t->e, MOV_STORE, HOST_LINEAR, gpr_at(op->reg));
	return true;
}

/* --- Instructions that are copied ---- */

/* Which host registers a copy names. */
struct copy {
	bool memory, write, high, byte, count_in, count_out;
	bool keeps;    /* perhaps writes no register at all */
	bool sum;      /* HOST_LINEAR is given away: HOST_OPERAND must be summed up before */
	unsigned size; /* of the memory operand */
	int reg, rm, vvvv, opcode; /* host registers in those fields, or -1 */
	unsigned n_spare;
	uint8_t spares[3]; /* host registers not yet given to a guest's */
	struct {
		uint8_t guest, host;
		bool load, store;
	} moved[3]; /* guest registers that are in memory */
	unsigned n_moved;
};

static int spare_for(struct copy *c, unsigned guest, const ZydisDecodedOperand *op)
{
	unsigned i;

	for (i = 0; i < c->n_moved; i++)
		if (c->moved[i].guest == guest)
			break;
	if (i == c->n_moved) {
		if (!c->n_spare)
			return -1;
		c->moved[i].guest = guest;
		c->moved[i].host = c->spares[--c->n_spare];
		c->moved[i].load = c->moved[i].store = false;
		c->n_moved++;
	}
	/* What is written in part, or perhaps (BSF), keeps the rest. */
	if ((op->actions & ~(unsigned)ZYDIS_OPERAND_ACTION_WRITE) || op->size < 32 || c->keeps)
		c->moved[i].load = true;
	if (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
		c->moved[i].store = true;
	return c->moved[i].host;
}

static bool take_register(struct copy *c, const ZydisDecodedOperand *op)
{
	unsigned guest = soft_gpr_of(op->reg.value);
	bool high = op->reg.value >= ZYDIS_REGISTER_AH && op->reg.value <= ZYDIS_REGISTER_BH;
	int host = soft_host_reg[guest], *field;

	switch (op->encoding) {
	case ZYDIS_OPERAND_ENCODING_MODRM_REG: field = &c->reg; break;
	case ZYDIS_OPERAND_ENCODING_MODRM_RM: field = &c->rm; break;
	case ZYDIS_OPERAND_ENCODING_NDSNDD: field = &c->vvvv; break;
	case ZYDIS_OPERAND_ENCODING_OPCODE: field = &c->opcode; break;
	default: /* named by the opcode itself */
		if (guest == RCX) {
			c->count_in |= !!(op->actions & ZYDIS_OPERAND_ACTION_MASK_READ);
			c->count_out |= !!(op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE);
			return true;
		}
		return soft_host_reg[guest] == guest;
	}
	if (high) {
		c->high = true;
		*field = guest + 4;
		return guest != RCX;
	}
	if (host == NO_REG)
		host = spare_for(c, guest, op);
	*field = host;
	if (op->size == 8 && host >= 4)
		c->byte = true;
	return host >= 0;
}

static bool plan_copy(struct translation *t, struct copy *c)
{
	const ZydisDecodedInstruction *insn = &t->d.insn;

	*c = (struct copy){ .reg = -1, .rm = -1, .vvvv = -1, .opcode = -1 };
	c->keeps = insn->mnemonic == ZYDIS_MNEMONIC_BSF || insn->mnemonic == ZYDIS_MNEMONIC_BSR;
	for (unsigned i = 0; i < insn->operand_count; i++) {
		const ZydisDecodedOperand *op = &t->d.ops[i];

		if (op->type == ZYDIS_OPERAND_TYPE_MEMORY && op->mem.type == ZYDIS_MEMOP_TYPE_MEM) {
			c->memory = true;
			c->write |= !!(op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE);
			c->size = op->size / 8;
		}
		if (op->type == ZYDIS_OPERAND_TYPE_REGISTER && soft_gpr_of(op->reg.value) == RCX &&
		    soft_is_gpr(op->reg.value) && op->encoding == ZYDIS_OPERAND_ENCODING_NONE)
			c->count_in = true;
	}
	/* Taken from the end. */
	c->spares[c->n_spare++] = HOST_LINEAR;
	if (!c->memory)
		c->spares[c->n_spare++] = HOST_PLACE;
	if (!c->count_in)
		c->spares[c->n_spare++] = HOST_COUNT;
	c->count_in = false;
	for (unsigned i = 0; i < insn->operand_count; i++) {
		const ZydisDecodedOperand *op = &t->d.ops[i];

		if (op->type == ZYDIS_OPERAND_TYPE_REGISTER && soft_is_gpr(op->reg.value) &&
		    !take_register(c, op))
			return false;
	}
	for (unsigned i = 0; i < c->n_moved; i++)
		c->sum |= c->memory && c->moved[i].host == HOST_LINEAR;
	return !(c->high && (c->count_out || c->count_in || c->n_moved));
}

/* Where the memory operand is. AH and the like go with no REX prefix, so with old registers only.
 */
static struct emit_mem choose_operand(struct translation *t, const struct copy *c)
{
	unsigned to = c->high ? HOST_COUNT : HOST_PLACE;

	if (!c->sum && !c->high)
		return HOST_OPERAND;
	emit_op_mem(&t->e, LEA, to, HOST_OPERAND);
	return (struct emit_mem){ to, NO_REG, 1, 0 };
}

static unsigned field(int host, unsigned original)
{
	return host >= 0 ? (unsigned)host : original;
}

/* The registers' numbers in the ModRM byte, or what was there (SSE registers, parts of the opcode).
 */
static void emit_legacy(struct translation *t, const struct copy *c, struct emit_mem m)
{
	const ZydisDecodedInstruction *insn = &t->d.insn;
	unsigned reg = field(c->reg, insn->raw.modrm.reg | insn->raw.rex.R << 3);
	unsigned rm = field(c->rm, insn->raw.modrm.rm | insn->raw.rex.B << 3);
	bool modrm = insn->attributes & ZYDIS_ATTRIB_HAS_MODRM;
	uint8_t rex = insn->raw.rex.W << 3;

	if (!modrm)
		rm = c->opcode >= 0 ? c->opcode : 0;
	if (c->memory)
		rm = m.base;
	for (unsigned i = 0; i < insn->raw.prefix_count; i++) {
		uint8_t prefix = insn->raw.prefixes[i].value;

		if (prefix == 0x66 || prefix == 0xf0 || prefix == 0xf2 || prefix == 0xf3)
			emit8(&t->e, prefix);
	}
	rex |= (modrm && reg >= 8 ? 4 : 0) | (rm >= 8 ? 1 : 0);
	rex |= c->memory && m.index != NO_REG && m.index >= 8 ? 2 : 0;
	if (rex || c->byte)
		emit8(&t->e, 0x40 | rex);
	if (insn->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT)
		emit8(&t->e, 0x0f);
	if (insn->opcode_map == ZYDIS_OPCODE_MAP_0F38 || insn->opcode_map == ZYDIS_OPCODE_MAP_0F3A)
		emit8(&t->e, insn->opcode_map == ZYDIS_OPCODE_MAP_0F38 ? 0x38 : 0x3a);
	emit8(&t->e, c->opcode >= 0 ? (insn->opcode & ~7) | (c->opcode & 7) : insn->opcode);
	if (modrm && c->memory)
		emit_modrm_mem(&t->e, reg, m);
	else if (modrm)
		emit8(&t->e, 0xc0 | (reg & 7) << 3 | (rm & 7));
}

/* VEX with three bytes: BMI1 and BMI2 (Intel SDM vol. 2 §2.3.5). */
static void emit_vex(struct translation *t, const struct copy *c, struct emit_mem m)
{
	const ZydisDecodedInstruction *insn = &t->d.insn;
	unsigned reg = field(c->reg, insn->raw.modrm.reg);
	unsigned rm = c->memory ? m.base : (unsigned)c->rm;
	unsigned vvvv = field(c->vvvv, 0);
	bool x = c->memory && m.index != NO_REG && m.index >= 8;

	emit8(&t->e, 0xc4);
	emit8(&t->e,
	      (reg < 8 ? 0x80 : 0) | (x ? 0 : 0x40) | (rm < 8 ? 0x20 : 0) | insn->raw.vex.m_mmmm);
	emit8(&t->e,
	      insn->raw.vex.W << 7 | (~vvvv & 15) << 3 | insn->raw.vex.L << 2 | insn->raw.vex.pp);
	emit8(&t->e, insn->opcode);
	if (c->memory)
		emit_modrm_mem(&t->e, reg, m);
	else
		emit8(&t->e, 0xc0 | (reg & 7) << 3 | (rm & 7));
}

static bool may_be_copied(const struct translation *t)
{
	const struct soft_insn *i = &t->insn;

	if (i->hidden_memory || ((i->flags & INSN_FPU) && !t->jit->fpu))
		return false;
	switch (i->mnemonic) {
	case ZYDIS_MNEMONIC_MOV: /* to and from general registers, not by an address of its own */
		for (unsigned n = 0; n < 2; n++)
			if (i->op[n].kind >= OPERAND_SEGMENT)
				return false;
		return !(t->d.insn.opcode >= 0xa0 && t->d.insn.opcode <= 0xa3);
	case ZYDIS_MNEMONIC_BT:
	case ZYDIS_MNEMONIC_BTC:
	case ZYDIS_MNEMONIC_BTR:
	case ZYDIS_MNEMONIC_BTS: /* with a register they reach beyond their operand */
		return i->op[0].kind != OPERAND_MEMORY || i->op[1].kind == OPERAND_IMM;
	/* These store the host's idea of where the last instruction was. */
	case ZYDIS_MNEMONIC_FNSTENV:
	case ZYDIS_MNEMONIC_FNSAVE: return false;
	case ZYDIS_MNEMONIC_CLC:
	case ZYDIS_MNEMONIC_STC:
	case ZYDIS_MNEMONIC_CMC:
	case ZYDIS_MNEMONIC_PAUSE: return true;
	default: return soft_is_native(i);
	}
}

/* x87 instructions that leave their address and their operand's. */
static bool notes_address(const struct translation *t)
{
	return (t->insn.flags & (INSN_X87 | INSN_X87_CONTROL)) == INSN_X87;
}

static void emit_x87_addresses(struct translation *t, bool memory)
{
	emit_from_page(t, t->offset);
	emit_op_mem(&t->e, MOV_STORE, HOST_LINEAR, STATE(x87_ip));
	if (memory) {
		emit_op_mem(&t->e, MOV_LOAD, HOST_LINEAR, STATE(jit_saved));
		emit_op_mem(&t->e, MOV_STORE, HOST_LINEAR, STATE(x87_dp));
	}
}

static bool copy(struct translation *t)
{
	const ZydisDecodedInstruction *insn = &t->d.insn;
	struct emit_mem operand = HOST_OPERAND;
	struct copy c;

	if (!may_be_copied(t) || !plan_copy(t, &c))
		return false;
	if (c.memory) {
		if (!emit_linear(t))
			return false;
		if (notes_address(t))
			emit_op_mem(&t->e, MOV_STORE, HOST_LINEAR, STATE(jit_saved));
		emit_lookup(t, c.size, c.write);
		operand = choose_operand(t, &c);
	}
	for (unsigned i = 0; i < c.n_moved; i++)
		if (c.moved[i].load)
			emit_op_mem(&t->e, MOV_LOAD, c.moved[i].host, gpr_at(c.moved[i].guest));
	if (c.count_in || c.count_out)
		emit_mov(&t->e, HOST_COUNT, soft_host_reg[RCX]);
	if (c.high && (c.byte || c.reg >= 8 || c.rm >= 8 || insn->raw.rex.W))
		return false;
	if (insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
		emit_vex(t, &c, operand);
	else
		emit_legacy(t, &c, operand);
	if (insn->raw.imm[0].size)
		emit_bytes(&t->e, t->insn.bytes + insn->raw.imm[0].offset,
			   insn->length - insn->raw.imm[0].offset);
	if (c.count_out)
		emit_mov(&t->e, soft_host_reg[RCX], HOST_COUNT);
	if (notes_address(t))
		emit_x87_addresses(t, c.memory);
	for (unsigned i = 0; i < c.n_moved; i++)
		if (c.moved[i].store)
			emit_op_mem(&t->e, MOV_STORE, c.moved[i].host, gpr_at(c.moved[i].guest));
	return true;
}

/* --- A block ---- */

static bool is_nothing(const struct translation *t)
{
	switch (t->d.insn.meta.category) {
	case ZYDIS_CATEGORY_NOP:
	case ZYDIS_CATEGORY_WIDENOP:
	case ZYDIS_CATEGORY_PREFETCH: return t->insn.mnemonic != ZYDIS_MNEMONIC_PAUSE;
	default:
		return t->insn.mnemonic == ZYDIS_MNEMONIC_ENDBR64 ||
		       t->insn.mnemonic == ZYDIS_MNEMONIC_ENDBR32;
	}
}

static bool one(struct translation *t)
{
	if (t->insn.fn == soft_exec_undefined)
		return false;
	if (is_nothing(t))
		return true;
	if (t->d.insn.meta.category == ZYDIS_CATEGORY_COND_BR &&
	    t->d.insn.opcode_map <= ZYDIS_OPCODE_MAP_0F &&
	    (t->d.insn.opcode & 0xf0) ==
		    (t->d.insn.opcode_map == ZYDIS_OPCODE_MAP_0F ? 0x80 : 0x70))
		return jcc(t);
	switch (t->insn.mnemonic) {
	case ZYDIS_MNEMONIC_CALL: return jump(t, true);
	case ZYDIS_MNEMONIC_JMP: return jump(t, false);
	case ZYDIS_MNEMONIC_RET: return ret(t);
	case ZYDIS_MNEMONIC_PUSH: return push(t);
	case ZYDIS_MNEMONIC_POP: return pop(t);
	case ZYDIS_MNEMONIC_LEAVE: return leave(t);
	case ZYDIS_MNEMONIC_LEA: return lea(t);
	default: return copy(t);
	}
}

/* One instruction; what was emitted of one that cannot be is taken back. */
static void instruction(struct translation *t, const uint8_t *bytes, unsigned n)
{
	struct soft_jit *jit = t->jit;
	uint8_t *start = t->e.at;
	unsigned n_cold = t->n_cold;

	jit->origins[jit->n_origins++] =
		(struct soft_jit_origin){ start - jit->writable, t->offset };
	if (soft_decode(t->cpu, bytes, n, &t->insn, &t->d) && one(t))
		return;
	t->e.at = start;
	t->n_cold = n_cold;
	t->ended = true;
	to_interpreter(t);
}

/* To this offset, wherever code for its linear address is. */
static void go_by_table(struct translation *t)
{
	emit_from_page(t, t->offset);
	emit_jump_linear(t, 0, JIT_WORD(JIT_GO, t->offset));
}

/* One that perhaps goes on in the next page: what that is depends on the linear address. */
static void last_instruction(struct translation *t, unsigned n)
{
	uint8_t bytes[SOFT_MAX_INSN];

	memcpy(bytes, t->page->host + t->offset, n);
	if (soft_decode(t->cpu, bytes, n, &t->insn, &t->d)) {
		instruction(t, bytes, n);
		return;
	}
	t->page->at[t->offset] |= JIT_SPANS;
	t->ended = true;
	go_by_table(t);
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
			emit_from_page(t, c->target);
			emit_jump_linear(t, 0, c->word);
			continue;
		}
		if (c->kind == COLD_CHAIN)
			emit_mov_imm32(&t->e, HOST_LINEAR, c->site - t->jit->writable);
		emit_mov_imm32(&t->e, HOST_COUNT, c->word);
		emit_jmp(&t->e, t->jit->writable + t->jit->leave);
	}
}

static void finish(struct translation *t)
{
	put_cold(t);
	t->jit->used = ALIGN_UP(t->e.at - t->jit->writable, 16);
}

void soft_translate_code(struct soft_vcpu *cpu, struct soft_jit_page *page, unsigned offset)
{
	struct soft_jit *jit = cpu->jit;
	struct cold cold[MAX_COLD];
	struct translation t = {
		.cpu = cpu, .jit = jit, .page = page, .offset = offset, .cold = cold
	};

	t.e.at = jit->writable + jit->used;
	for (unsigned n = 0; !t.ended; n++) {
		if (t.offset >= SOFT_PAGE) {
			go_by_table(&t);
			break;
		}
		if (n && (page->at[t.offset] || n == MAX_BLOCK)) {
			link_within(&t, emit_jmp_open(&t.e), t.offset);
			break;
		}
		page->at[t.offset] = t.e.at - jit->writable;
		if (SOFT_PAGE - t.offset < SOFT_MAX_INSN)
			last_instruction(&t, SOFT_PAGE - t.offset);
		else
			instruction(&t, page->host + t.offset, SOFT_MAX_INSN);
		t.offset += t.insn.length;
	}
	finish(&t);
}

uint32_t soft_translate_span(struct soft_vcpu *cpu, struct soft_jit_page *page, unsigned offset,
			     const struct soft_jit_page *second)
{
	struct soft_jit *jit = cpu->jit;
	unsigned n = SOFT_PAGE - offset;
	uint8_t bytes[SOFT_MAX_INSN];
	struct cold cold[MAX_COLD];
	struct translation t = {
		.cpu = cpu, .jit = jit, .page = page, .offset = offset, .cold = cold
	};
	uint32_t start = jit->used;

	memcpy(bytes, page->host + offset, n);
	memcpy(bytes + n, second->host, SOFT_MAX_INSN - n);
	t.e.at = jit->writable + start;
	instruction(&t, bytes, SOFT_MAX_INSN);
	t.offset += t.insn.length;
	if (!t.ended)
		go_by_table(&t);
	finish(&t);
	return start;
}
