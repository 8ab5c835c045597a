/*
 * Software backend: instructions that are translated into themselves, with other registers.
 *
 * The fields of the ModRM byte, of VEX and of the opcode that name general registers get the host's
 * (soft_host_reg); guest registers that are in memory are loaded into spare ones before and stored
 * after. A memory operand becomes one in host memory, which translate_operand() has looked up. What
 * an instruction uses without naming it must be in the same register on the host, but for RCX.
 */
#include "hav/soft/exec.h"
#include "hav/soft/translate.h"

/* Which host registers a copy names. */
struct copy {
	bool memory, write, high, byte, count_in, count_out;
	bool keeps;                /* perhaps writes no register at all */
	bool sum;                  /* HOST_LINEAR is given away: no operand may need it */
	unsigned size;             /* of the memory operand */
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
		const ZydisDecodedOperand *op = &t->s->d.ops[i];

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
static struct emit_mem choose_operand(struct translation *t, const struct copy *c,
				      struct emit_mem m)
{
	unsigned to = c->high ? HOST_COUNT : HOST_PLACE;

	if (!c->high && !(c->sum && m.base == HOST_LINEAR))
		return m;
	emit_op_mem(&t->e, LEA, to, m);
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
	return (t->s->insn.flags & (INSN_X87 | INSN_X87_CONTROL)) == INSN_X87;
}

static void emit_x87_addresses(struct translation *t, bool memory)
{
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
	struct copy c;

	if (!may_be_copied(t) || !plan_copy(t, &c))
		return false;
	if (c.memory) {
		if (!translate_operand(t, c.size, c.write, notes_address(t) ? &saved : NULL,
				       &operand))
			return false;
		operand = choose_operand(t, &c, operand);
	}
	for (unsigned i = 0; i < c.n_moved; i++)
		if (c.moved[i].load)
			emit_op_mem(&t->e, MOV_LOAD, c.moved[i].host,
				    translate_gpr(c.moved[i].guest));
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
	if (notes_address(t))
		emit_x87_addresses(t, c.memory);
	for (unsigned i = 0; i < c.n_moved; i++)
		if (c.moved[i].store)
			emit_op_mem(&t->e, MOV_STORE, c.moved[i].host,
				    translate_gpr(c.moved[i].guest));
	return true;
}
