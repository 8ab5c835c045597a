/* The registers gdb sees: their order, description, and where they are in a vCPU's state. */
#ifndef REVIRT_REVIRTER_GDB_REGISTERS_H
#define REVIRT_REVIRTER_GDB_REGISTERS_H

#include "hav.h"

struct gdb_buffer;

#define GDB_REGISTER_MAX 16 /* bytes of the largest */

unsigned gdb_n_registers(void);
unsigned gdb_register_size(unsigned n);  /* bytes */
unsigned gdb_register_group(unsigned n); /* the HAV_STATE_* that has it */

/* In the target's byte order. The group is in *state. */
void gdb_register_read(const struct hav_state *state, unsigned n, uint8_t *bytes);
/* False: it can not be set to that. */
bool gdb_register_write(struct hav_state *state, unsigned n, const uint8_t *bytes);

/* target.xml (GDB manual, appendix G). */
void gdb_register_xml(struct gdb_buffer *xml);

#endif
