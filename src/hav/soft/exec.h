/* Software backend: tables from mnemonics to the functions that do them. */
#ifndef REVIRT_HAV_SOFT_EXEC_H
#define REVIRT_HAV_SOFT_EXEC_H

#include "base/util.h"
#include "hav/soft/soft.h"

#include <Zydis/Zydis.h>

struct soft_table {
	ZydisMnemonic mnemonic;
	soft_fn *fn;
};

static inline soft_fn *soft_find(const struct soft_table *table, size_t n,
				 const struct soft_insn *insn)
{
	for (size_t i = 0; i < n; i++)
		if (table[i].mnemonic == insn->mnemonic)
			return table[i].fn;
	return NULL;
}

#define ARITHMETIC_FLAGS (RFLAGS_CF | RFLAGS_PF | RFLAGS_AF | RFLAGS_ZF | RFLAGS_SF | RFLAGS_OF)

#endif
