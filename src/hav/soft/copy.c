/*
 * Software backend: instructions that are translated into themselves, with other registers.
 *
 * The fields of the ModRM byte, of VEX and of the opcode that name general registers get the host's
 * (soft_host_reg); guest registers that are in memory are loaded into spare ones before and stored
 * after, or later (struct scratch). A memory operand becomes one in host memory, which
 * translate_operand() has looked up. What an instruction uses without naming it must be in the same
 * register on the host, but for RCX.
 */
#include "hav/soft/exec.h"
#include "hav/soft/translate.h"

/* Which host registers a copy names. */
struct copy {
	bool memory, write, high, byte, count_in, count_out;
	bool keeps;                /* perhaps writes no register at all */
	unsigned size;             /* of the memory operand */
	int reg, rm, vvvv, opcode; /* host registers in those fields, or -1 */
	struct {
		uint8_t guest;
		bool load, store, byte;
		int *fields[3];
		unsigned n_fields;
	} moved[3]; /* guest registers that are in memory */
	unsigned n_moved;
};

static bool move(struct copy *c, unsigned guest, int *field, const ZydisDecodedOperand *op)
{
	unsigned i;

	for (i = 0; i < c->n_moved; i++)
		if (c->moved[i].guest == guest)
			break;
	if (i == c->n_moved) {
		if (i == ARRAY_SIZE(c->moved))
			return false;
		c->moved[c->n_moved++].guest = guest;
	}
	/* What is written in part, or perhaps (BSF), keeps the rest. */
	if ((op->actions & ~(unsigned)ZYDIS_OPERAND_ACTION_WRITE) || op->size < 32 || c->keeps)
		c->moved[i].load = true;
	if (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
		c->moved[i].store = true;
	if (op->size == 8)
		c->moved[i].byte = true;
	c->moved[i].fields[c->moved[i].n_fields++] = field;
	return true;
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
		return move(c, guest, field, op);
	*field = host;
	if (op->size == 8 && host >= 4)
		c->byte = true;
	return true;
}

static bool plan_copy(struct translation *t, struct copy *c)
{
	const ZydisDecodedInstruction *insn = &t->s->d.insn;

	*c = (struct copy){ .reg = -1, .rm = -1, .vvvv = -1, .opcode = -1 };
	c->keeps = insn->mnemonic == ZYDIS_MNEMONIC_BSF || insn->mnemonic == ZYDIS_MNEMONIC_BSR;
	for (unsigned i = 0; i < insn->operand_count; i++) {
		const ZydisDecodedOperand *op = &t->s->d.ops[i];

		if (op->type == ZYDIS_OPERAND_TYPE_MEMORY && op->mem.type == ZYDIS_MEMOP_TYPE_MEM) {
			c->memory = true;
			c->write |= !!(op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE);
			c->size = op->size / 8;
		}
	}
	for (unsigned i = 0; i < insn->operand_count; i++) {
		const ZydisDecodedOperand *op = &t->s->d.ops[i];

		if (op->type == ZYDIS_OPERAND_TYPE_REGISTER && soft_is_gpr(op->reg.value) &&
		    !take_register(c, op))
			return false;
	}
	return !(c->high && (c->count_out || c->count_in || c->n_moved));
}

/*
 * Where the memory operand is, and which scratch registers are left. AH and the like go with no REX
 * prefix, so with old registers only.
 */
static void choose_operand(struct translation *t, const struct copy *c, struct emit_mem *m,
			   unsigned *left)
{
	unsigned to = c->high ? HOST_COUNT : HOST_PLACE;
	bool linear = m->base == HOST_LINEAR;

	*left = SCRATCH_COUNT | SCRATCH_LINEAR;
	if (c->count_in || c->count_out || c->high || m->base == HOST_COUNT)
		*left &= ~(unsigned)SCRATCH_COUNT;
	if (linear)
		*left &= ~(unsigned)SCRATCH_LINEAR;
	if (c->high)
		translate_free(t, SCRATCH_COUNT);
	if (!c->high && (!linear || (unsigned)__builtin_popcount(*left) >= c->n_moved))
		return;
	emit_op_mem(&t->e, LEA, to, *m);
	*m = (struct emit_mem){ to, NO_REG, 1, 0 };
	if (linear)
		*left |= SCRATCH_LINEAR;
}

/* Brings guest registers from memory into some that are left. */
static bool fetch(struct translation *t, struct copy *c, unsigned left)
{
	if (c->count_in || c->count_out) {
		left &= ~(unsigned)SCRATCH_COUNT;
		translate_free(t, SCRATCH_COUNT);
	}
	t->pinned = 0;
	for (unsigned i = 0; i < c->n_moved; i++) {
		int host = translate_scratch(t, c->moved[i].guest, left, c->moved[i].load);

		if (host < 0)
			return false;
		for (unsigned n = 0; n < c->moved[i].n_fields; n++)
			*c->moved[i].fields[n] = host;
		c->byte |= c->moved[i].byte;
	}
	return true;
}

/* May its execution fault? */
static bool may_fault(const struct translation *t)
{
	return (t->s->insn.flags & INSN_FPU) || t->s->insn.mnemonic == ZYDIS_MNEMONIC_DIV ||
	       t->s->insn.mnemonic == ZYDIS_MNEMONIC_IDIV;
}

static unsigned field(int host, unsigned original)
{
	return host >= 0 ? (unsigned)host : original;
}

/* The registers' numbers in the ModRM byte, or what was there (SSE registers, parts of the opcode).
 */
static void emit_legacy(struct translation *t, const struct copy *c, struct emit_mem m)
{
	const ZydisDecodedInstruction *insn = &t->s->d.insn;
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
	const ZydisDecodedInstruction *insn = &t->s->d.insn;
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
	const struct soft_insn *i = &t->s->insn;

	if (i->hidden_memory || ((i->flags & INSN_FPU) && !t->jit->fpu))
		return false;
	switch (i->mnemonic) {
	case ZYDIS_MNEMONIC_MOV: /* to and from general registers, not by an address of its own */
		for (unsigned n = 0; n < 2; n++)
			if (i->op[n].kind >= OPERAND_SEGMENT)
				return false;
		return !(t->s->d.insn.opcode >= 0xa0 && t->s->d.insn.opcode <= 0xa3);
	case ZYDIS_MNEMONIC_BT:
	case ZYDIS_MNEMONIC_BTC:
	case ZYDIS_MNEMONIC_BTR:
	case ZYDIS_MNEMONIC_BTS: /* with a register they reach beyond their operand */
		return i->op[0].kind != OPERAND_MEMORY || i->op[1].kind == OPERAND_IMM;
	case ZYDIS_MNEMONIC_CLC:
	case ZYDIS_MNEMONIC_STC:
	case ZYDIS_MNEMONIC_CMC: return true;
	default: return soft_is_native(i);
	}
}

/* x87 instructions that leave their address and their operand's. */
static bool notes_address(const struct translation *t)
{
	return (t->s->insn.flags & (INSN_X87 | INSN_X87_CONTROL)) == INSN_X87;
}

static void emit_x87_addresses(struct translation *t, bool memory)
{
	translate_free(t, SCRATCH_LINEAR);
	translate_from_page(t, t->s->offset);
	emit_op_mem(&t->e, MOV_STORE, HOST_LINEAR, STATE(x87_ip));
	if (memory) {
		emit_op_mem(&t->e, MOV_LOAD, HOST_LINEAR, STATE(jit_saved));
		emit_op_mem(&t->e, MOV_STORE, HOST_LINEAR, STATE(x87_dp));
	}
}

bool translate_copy(struct translation *t)
{
	const ZydisDecodedInstruction *insn = &t->s->d.insn;
	const struct emit_mem saved = STATE(jit_saved);
	struct emit_mem operand = saved;
	unsigned left = SCRATCH_ALL;
	struct copy c;

	if (!may_be_copied(t) || !plan_copy(t, &c))
		return false;
	if (may_fault(t))
		translate_save(t);
	if (c.memory) {
		if (!translate_operand(t, c.size, c.write, notes_address(t) ? &saved : NULL,
				       &operand))
			return false;
		choose_operand(t, &c, &operand, &left);
	}
	if (!fetch(t, &c, left))
		return false;
	if (c.count_in || c.count_out)
		emit_mov(&t->e, HOST_COUNT, soft_host_reg[RCX]);
	if (c.high && (c.byte || c.reg >= 8 || c.rm >= 8 || insn->raw.rex.W))
		return false;
	if (insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
		emit_vex(t, &c, operand);
	else
		emit_legacy(t, &c, operand);
	if (insn->raw.imm[0].size)
		emit_bytes(&t->e, t->s->insn.bytes + insn->raw.imm[0].offset,
			   insn->length - insn->raw.imm[0].offset);
	if (c.count_out)
		emit_mov(&t->e, soft_host_reg[RCX], HOST_COUNT);
	for (unsigned i = 0; i < c.n_moved; i++)
		if (c.moved[i].store)
			translate_written(t, c.moved[i].guest);
	if (notes_address(t))
		emit_x87_addresses(t, c.memory);
	return true;
}
