/*
 * Software backend: encoding of host instructions (Intel SDM vol. 2 chapter 2). Only the few that
 * translated code is made of; those of the guest are copied with other registers (translate.c).
 */
#include "hav/soft/emit.h"

void emit32(struct emitter *e, uint32_t value)
{
	emit_bytes(e, &value, sizeof(value));
}

void emit_bytes(struct emitter *e, const void *bytes, unsigned n)
{
	memcpy(e->at, bytes, n);
	e->at += n;
}

static void emit_opcode(struct emitter *e, uint32_t op, unsigned reg, unsigned index, unsigned base)
{
	uint8_t rex = (op & OP_W ? 8 : 0) | (reg >> 3 & 1) << 2 |
		      (index != NO_REG && index >= 8 ? 2 : 0) |
		      (base != NO_REG && base >= 8 ? 1 : 0);

	if (rex || (op & OP_REX))
		emit8(e, 0x40 | rex);
	if (op & OP_0F)
		emit8(e, 0x0f);
	emit8(e, op);
}

void emit_modrm_mem(struct emitter *e, unsigned reg, struct emit_mem m)
{
	static const uint8_t scales[] = { [1] = 0x00, [2] = 0x40, [4] = 0x80, [8] = 0xc0 };
	bool sib = m.index != NO_REG || m.base == NO_REG || (m.base & 7) == RSP;
	bool byte = m.disp == (int8_t)m.disp;
	unsigned mod;

	if (m.base == NO_REG || (!m.disp && (m.base & 7) != RBP))
		mod = 0;
	else
		mod = byte ? 1 : 2;
	emit8(e, mod << 6 | (reg & 7) << 3 | (sib ? 4 : (m.base & 7)));
	if (sib)
		emit8(e, (m.index != NO_REG ? scales[m.scale] | (m.index & 7) << 3 : 4 << 3) |
				 (m.base == NO_REG ? 5 : (m.base & 7)));
	if (m.base == NO_REG || mod == 2)
		emit32(e, m.disp);
	else if (mod == 1)
		emit8(e, m.disp);
}

void emit_op_mem(struct emitter *e, uint32_t op, unsigned reg, struct emit_mem m)
{
	emit_opcode(e, op, reg, m.index, m.base);
	emit_modrm_mem(e, reg, m);
}

void emit_op_reg(struct emitter *e, uint32_t op, unsigned reg, unsigned rm)
{
	emit_opcode(e, op, reg, NO_REG, rm);
	emit8(e, 0xc0 | (reg & 7) << 3 | (rm & 7));
}

void emit_mov(struct emitter *e, unsigned to, unsigned from)
{
	if (to != from)
		emit_op_reg(e, MOV_STORE, from, to);
}

void emit_mov_imm32(struct emitter *e, unsigned to, uint32_t value)
{
	if (to >= 8)
		emit8(e, 0x41);
	emit8(e, 0xb8 | (to & 7));
	emit32(e, value);
}

/* VEX.LZ.{66,F2}.0F38.W{0,1} F7 /r */
static void emit_shift(struct emitter *e, unsigned w_pp, unsigned to, unsigned from, unsigned count)
{
	const uint8_t bytes[] = {
		0xc4,
		(to < 8 ? 0x80 : 0) | 0x40 | (from < 8 ? 0x20 : 0) | 2,
		(~count & 15) << 3 | w_pp,
		0xf7,
		0xc0 | (to & 7) << 3 | (from & 7),
	};

	emit_bytes(e, bytes, sizeof(bytes));
}

void emit_shrx(struct emitter *e, unsigned to, unsigned from, unsigned count)
{
	emit_shift(e, 0x83, to, from, count);
}

void emit_shrx32(struct emitter *e, unsigned to, unsigned from, unsigned count)
{
	emit_shift(e, 0x03, to, from, count);
}

void emit_shlx(struct emitter *e, unsigned to, unsigned from, unsigned count)
{
	emit_shift(e, 0x81, to, from, count);
}

void emit_skip_if_zero(struct emitter *e)
{
	emit8(e, 0xe3); /* jrcxz */
	emit8(e, 5);
}

void emit_jmp(struct emitter *e, const uint8_t *to)
{
	emit_close(emit_jmp_open(e), to);
}

void emit_call(struct emitter *e, const uint8_t *to)
{
	emit8(e, 0xe8);
	emit32(e, 0);
	emit_close(e->at - 4, to);
}

uint8_t *emit_jmp_open(struct emitter *e)
{
	emit8(e, 0xe9);
	emit32(e, 0);
	return e->at - 4;
}

uint8_t *emit_jcc_open(struct emitter *e, unsigned condition)
{
	emit8(e, 0x0f);
	emit8(e, 0x80 | condition);
	emit32(e, 0);
	return e->at - 4;
}

void emit_close(uint8_t *site, const uint8_t *to)
{
	int32_t distance = to - (site + 4);

	memcpy(site, &distance, sizeof(distance));
}
