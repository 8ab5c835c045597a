/*
 * The gdb stub: a debugger for what runs in the machine, by GDB's remote serial protocol on a
 * chardev. One a VM.
 */
#ifndef REVIRT_REVIRTER_GDBSTUB_H
#define REVIRT_REVIRTER_GDBSTUB_H

struct chardev;
struct error;
struct gdb_stub;
struct vm;

/* Serves gdb on chr. Before the vCPUs start. */
struct gdb_stub *gdbstub_new(struct vm *vm, struct chardev *chr, struct error **err);
/* Says good-bye to a gdb that waits, and lets go of the chardev. */
void gdbstub_close(struct gdb_stub *gdb); /* NULL is fine */
/* When the vCPUs are gone. */
void gdbstub_free(struct gdb_stub *gdb); /* NULL is fine */

#endif
