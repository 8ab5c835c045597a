/*
 * What a debugger does to the guest: its memory, through a vCPU's page tables, and breakpoints. No
 * protocol. Main loop, while no vCPU runs, except where it says otherwise.
 */
#ifndef REVIRT_REVIRTER_GDB_TARGET_H
#define REVIRT_REVIRTER_GDB_TARGET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;
struct hav_exit;
struct machine;
struct vcpu;

/* Numbered as the protocol's Z packets. */
enum gdb_break_type {
	GDB_BREAK_SOFTWARE,
	GDB_BREAK_HARDWARE,
	GDB_WATCH_WRITE,
	GDB_WATCH_READ, /* x86 can't watch for reads alone */
	GDB_WATCH_ACCESS,
};

#define GDB_MAX_BREAKPOINTS 1024
#define GDB_DEBUG_REGISTERS 4

struct gdb_breakpoint {
	enum gdb_break_type type;
	uint64_t address, len;
	uint64_t gpa; /* software: where the INT3 is, and what was there */
	uint8_t original;
};

struct gdb_target {
	struct machine *machine;
	bool physical; /* addresses are physical ones */
	bool changed;  /* breakpoints, since they were last given to the vCPUs */
	unsigned n_breakpoints, n_software;
	struct gdb_breakpoint breakpoints[GDB_MAX_BREAKPOINTS];
	/* What the debug registers are set to, and the breakpoint each serves (-1: none). */
	uint64_t dr[GDB_DEBUG_REGISTERS], dr7;
	int owners[GDB_DEBUG_REGISTERS];
};

/* Copy what is there until the first byte that is not in RAM; return how much. Software breakpoints
 * don't show. */
size_t gdb_memory_read(struct gdb_target *t, struct vcpu *vcpu, uint64_t address, void *buf,
		       size_t len);
size_t gdb_memory_write(struct gdb_target *t, struct vcpu *vcpu, uint64_t address, const void *buf,
			size_t len);

enum gdb_break_result { GDB_BREAK_DONE, GDB_BREAK_REFUSED, GDB_BREAK_NO_MEMORY };
/* Inserting one that is there already is done, and so is removing one that is not. */
enum gdb_break_result gdb_break_insert(struct gdb_target *t, struct vcpu *vcpu,
				       enum gdb_break_type type, uint64_t address, uint64_t len);
void gdb_break_remove(struct gdb_target *t, enum gdb_break_type type, uint64_t address,
		      uint64_t len);
void gdb_break_remove_all(struct gdb_target *t);
/* Is there still a breakpoint like this? */
bool gdb_break_there(const struct gdb_target *t, enum gdb_break_type type, uint64_t address);

/* Sets up a vCPU for its next run. */
int gdb_break_apply(struct gdb_target *t, struct vcpu *vcpu, bool step, bool block_interrupts,
		    struct error **err);

enum gdb_stop_kind { GDB_STOP_NONE, GDB_STOP_STEP, GDB_STOP_BREAK, GDB_STOP_WATCH };
struct gdb_stop {
	enum gdb_stop_kind kind;
	enum gdb_break_type type; /* BREAK, WATCH */
	uint64_t address;         /* WATCH: the one gdb asked for; at an INT3: where it was met */
};
/* Whose a HAV_EXIT_DEBUG is; NONE: the guest's own. On the vCPU's thread. */
struct gdb_stop gdb_break_classify(const struct gdb_target *t, struct vcpu *vcpu, bool stepping,
				   const struct hav_exit *exit);

#endif
