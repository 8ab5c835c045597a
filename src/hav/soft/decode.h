/* Software backend: what Zydis says of an instruction, for decode.c and native.c. */
#ifndef REVIRT_HAV_SOFT_DECODE_H
#define REVIRT_HAV_SOFT_DECODE_H

#include "hav/soft/soft.h"

#include <Zydis/Zydis.h>

struct soft_decoded {
	ZydisDecodedInstruction insn;
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
};

bool soft_is_gpr(ZydisRegister reg);
/* The number of the register that this is, or is a part of. */
uint8_t soft_gpr_of(ZydisRegister reg);

/* Host code for an instruction, NULL when there can be none. */
const void *soft_stub(struct soft_vcpu *cpu, const struct soft_decoded *decoded,
		      struct soft_insn *insn);

#endif
