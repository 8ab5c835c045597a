/* Software backend: host instructions, written one after the other. */
#ifndef REVIRT_HAV_SOFT_EMIT_H
#define REVIRT_HAV_SOFT_EMIT_H

#include "hav/soft/soft.h"

struct emitter {
	uint8_t *at;
};

/* A host memory operand. */
struct emit_mem {
	uint8_t base, index, scale; /* NO_REG: none */
	int32_t disp;
};

/* An opcode, and what goes before it. */
#define OP_W       0x10000u /* 64-bit operands */
#define OP_0F      0x20000u
#define OP_REX     0x40000u /* even an empty one: byte registers from SPL on */

#define MOV_LOAD   (OP_W | 0x8b)
#define MOV_STORE  (OP_W | 0x89)
#define MOV_LOAD32 0x8b
#define LEA        (OP_W | 0x8d)

static inline void emit8(struct emitter *e, uint8_t byte)
{
	*e->at++ = byte;
}
void emit32(struct emitter *e, uint32_t value);
void emit_bytes(struct emitter *e, const void *bytes, unsigned n);

void emit_op_mem(struct emitter *e, uint32_t op, unsigned reg, struct emit_mem mem);
void emit_op_reg(struct emitter *e, uint32_t op, unsigned reg, unsigned rm);
/* ModRM, SIB and displacement alone, for opcodes written by hand. */
void emit_modrm_mem(struct emitter *e, unsigned reg, struct emit_mem mem);
void emit_mov(struct emitter *e, unsigned to, unsigned from);
void emit_mov_imm32(struct emitter *e, unsigned to, uint32_t value);
/* SHRX (and of 32 bits) and SHLX: to = from shifted by count. */
void emit_shrx(struct emitter *e, unsigned to, unsigned from, unsigned count);
void emit_shrx32(struct emitter *e, unsigned to, unsigned from, unsigned count);
void emit_shlx(struct emitter *e, unsigned to, unsigned from, unsigned count);
/* Skips the next instruction, which must be a jump of five bytes, when RCX is 0. */
void emit_skip_if_zero(struct emitter *e);
/* jmp rel32 to a place in the same code; and one to be named later: where its rel32 is. */
void emit_jmp(struct emitter *e, const uint8_t *to);
void emit_call(struct emitter *e, const uint8_t *to);
uint8_t *emit_jmp_open(struct emitter *e);
uint8_t *emit_jcc_open(struct emitter *e, unsigned condition);
void emit_close(uint8_t *site, const uint8_t *to);

#endif
