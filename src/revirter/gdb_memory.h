/* Addresses as a debugger means them, for gdb_memory.c and gdb_break.c. */
#ifndef REVIRT_REVIRTER_GDB_MEMORY_H
#define REVIRT_REVIRTER_GDB_MEMORY_H

#include "x86/paging.h"

struct gmem;
struct vcpu;

#define GDB_INT3 0xcc

struct gdb_translator {
	struct gmem *mem;
	bool by_tables;
	struct paging_mode mode;
};

/* For linear addresses takes the registers of the vCPU; false when they can't be read. On the main
 * loop while it stands still, or on its own thread. */
bool gdb_translator_init(struct gdb_translator *tr, struct vcpu *vcpu, bool physical);
/* Host memory at an address and, cut to what is there in one piece, *len; NULL: no RAM. */
uint8_t *gdb_translate(const struct gdb_translator *tr, uint64_t address, uint64_t *gpa,
		       uint64_t *len);

#endif
