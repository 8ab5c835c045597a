/* Software backend: what Zydis says of an instruction, for decode.c and native.c. */
#ifndef REVIRT_HAV_SOFT_DECODE_H
#define REVIRT_HAV_SOFT_DECODE_H

#include "hav/soft/soft.h"

#include <Zydis/Zydis.h>

struct soft_decoded {
	ZydisDecodedInstruction insn;
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
};

#define SOFT_MAX_INSN 15
/* Decodes; false when these n bytes are no instruction or not all of one. */
bool soft_decode(struct soft_vcpu *cpu, const uint8_t *bytes, unsigned n, struct soft_insn *insn,
		 struct soft_decoded *decoded);
/* Is this one for the host's processor to do? */
bool soft_is_native(const struct soft_insn *insn);
/* The guest-physical address to fetch from. */
enum soft_result soft_fetch_gpa(struct soft_vcpu *cpu, uint64_t linear, uint64_t *gpa);

bool soft_is_gpr(ZydisRegister reg);
/* The number of the register that this is, or is a part of. */
uint8_t soft_gpr_of(ZydisRegister reg);

/* Host code for an instruction, NULL when there can be none. */
const void *soft_stub(struct soft_vcpu *cpu, const struct soft_decoded *decoded,
		      struct soft_insn *insn);
/* Makes that, then does the instruction. */
soft_fn soft_exec_unstubbed;

#endif
