/*
 * Breakpoints: see gdb_target.h.
 *
 * A software breakpoint is an INT3 in guest memory, at the physical address that its linear one led
 * to when it was set: so it is one for every process that shares the page, and when a guest maps
 * the page elsewhere it stays with the code. Hardware breakpoints and watchpoints share the four
 * debug registers (Intel SDM vol. 3 §18.2); a range that one can't hold is cut into aligned pieces.
 */
#include "revirter/gdb_target.h"

#include "base/util.h"
#include "hav.h"
#include "machine/machine.h"
#include "machine/vcpu.h"
#include "revirter/gdb_memory.h"

#include <string.h>

#define VECTOR_BP     3
#define DR6_BS        BIT(14)
#define DR7_GE        BIT(9)
#define DR7_GLOBAL(n) BIT(2 * (n) + 1)
/* Kind and length of breakpoint n, in bits 16 and 18 on, four each. */
#define DR7_KIND(n, kind) ((uint64_t)(kind) << (16 + 4 * (n)))
#define DR7_LEN(n, len)   ((uint64_t)(len) << (18 + 4 * (n)))

enum { DR_EXECUTE = 0, DR_WRITE = 1, DR_ACCESS = 3 };

static unsigned dr_kind(enum gdb_break_type type)
{
	return type == GDB_BREAK_HARDWARE ? DR_EXECUTE
	       : type == GDB_WATCH_WRITE  ? DR_WRITE
					  : DR_ACCESS;
}

/* 8 bytes are the fourth code, not the third. */
static unsigned dr_len(unsigned len)
{
	return len == 8 ? 2 : len - 1;
}

static struct gdb_breakpoint *find(const struct gdb_target *t, enum gdb_break_type type,
				   uint64_t address, uint64_t len)
{
	for (unsigned i = 0; i < t->n_breakpoints; i++) {
		const struct gdb_breakpoint *b = &t->breakpoints[i];

		if (b->type == type && b->address == address &&
		    (type == GDB_BREAK_SOFTWARE || b->len == len))
			return (struct gdb_breakpoint *)b;
	}
	return NULL;
}

bool gdb_break_there(const struct gdb_target *t, enum gdb_break_type type, uint64_t address)
{
	for (unsigned i = 0; i < t->n_breakpoints; i++)
		if (t->breakpoints[i].type == type && t->breakpoints[i].address == address)
			return true;
	return false;
}

/* --- Debug registers ---- */

/* The largest aligned piece at the start of a range. */
static unsigned piece(uint64_t address, uint64_t len)
{
	unsigned n = 8;

	while (n > len || address % n)
		n /= 2;
	return n;
}

/* Gives a breakpoint its registers; false when they don't suffice. */
static bool assign(struct gdb_target *t, unsigned owner, unsigned *used)
{
	const struct gdb_breakpoint *b = &t->breakpoints[owner];
	const bool execute = b->type == GDB_BREAK_HARDWARE;
	uint64_t address = b->address, left = execute ? 1 : b->len;

	while (left) {
		const unsigned n = *used, len = execute ? 1 : piece(address, left);

		if (n == GDB_DEBUG_REGISTERS)
			return false;
		t->dr[n] = address;
		t->dr7 |= DR7_GE | DR7_GLOBAL(n) | DR7_KIND(n, dr_kind(b->type)) |
			  DR7_LEN(n, dr_len(len));
		t->owners[n] = owner;
		(*used)++;
		address += len;
		left -= len;
	}
	return true;
}

static bool assign_all(struct gdb_target *t)
{
	unsigned used = 0;
	bool enough = true;

	t->dr7 = 0;
	t->changed = true;
	for (unsigned n = 0; n < GDB_DEBUG_REGISTERS; n++) {
		t->dr[n] = 0;
		t->owners[n] = -1;
	}
	for (unsigned i = 0; i < t->n_breakpoints && enough; i++)
		if (t->breakpoints[i].type != GDB_BREAK_SOFTWARE)
			enough = assign(t, i, &used);
	return enough;
}

/* --- INT3s ---- */

/* The first software breakpoint at a physical address; several linear ones may lead there. */
static const struct gdb_breakpoint *find_at(const struct gdb_target *t, uint64_t gpa)
{
	for (unsigned i = 0; i < t->n_breakpoints; i++)
		if (t->breakpoints[i].type == GDB_BREAK_SOFTWARE && t->breakpoints[i].gpa == gpa)
			return &t->breakpoints[i];
	return NULL;
}

static enum gdb_break_result plant(struct gdb_target *t, struct vcpu *vcpu,
				   struct gdb_breakpoint *b)
{
	struct gdb_translator tr;
	const struct gdb_breakpoint *other;
	uint64_t len = 1;
	uint8_t *host;

	if (!gdb_translator_init(&tr, vcpu, t->physical))
		return GDB_BREAK_NO_MEMORY;
	host = gdb_translate(&tr, b->address, &b->gpa, &len);
	if (!host)
		return GDB_BREAK_NO_MEMORY;
	other = find_at(t, b->gpa);
	b->original = other ? other->original : *host;
	*host = GDB_INT3;
	gmem_written(tr.mem, b->gpa, 1);
	t->n_software++;
	return GDB_BREAK_DONE;
}

/* b is not in the list any more. What is no INT3 now the guest has written, or its loader at a
 * reset. */
static void unplant(struct gdb_target *t, const struct gdb_breakpoint *b)
{
	const struct gmem *mem = &t->machine->mem;
	uint8_t *host = gmem_slice(mem, b->gpa, 1);

	if (host && *host == GDB_INT3 && !find_at(t, b->gpa)) {
		*host = b->original;
		gmem_written(mem, b->gpa, 1);
	}
	t->n_software--;
}

/* --- Setting and taking away ---- */

enum gdb_break_result gdb_break_insert(struct gdb_target *t, struct vcpu *vcpu,
				       enum gdb_break_type type, uint64_t address, uint64_t len)
{
	struct gdb_breakpoint *b = &t->breakpoints[t->n_breakpoints];
	enum gdb_break_result r;

	if (find(t, type, address, len))
		return GDB_BREAK_DONE;
	if (t->n_breakpoints == GDB_MAX_BREAKPOINTS)
		return GDB_BREAK_REFUSED;
	*b = (struct gdb_breakpoint){ .type = type, .address = address, .len = len };
	if (type == GDB_BREAK_SOFTWARE) {
		r = plant(t, vcpu, b);
		if (r == GDB_BREAK_DONE) {
			t->n_breakpoints++;
			t->changed = true;
		}
		return r;
	}
	if (!len || len > GDB_DEBUG_REGISTERS * 8)
		return GDB_BREAK_REFUSED;
	t->n_breakpoints++;
	if (assign_all(t))
		return GDB_BREAK_DONE;
	t->n_breakpoints--;
	assign_all(t);
	return GDB_BREAK_REFUSED;
}

void gdb_break_remove(struct gdb_target *t, enum gdb_break_type type, uint64_t address,
		      uint64_t len)
{
	struct gdb_breakpoint *b = find(t, type, address, len), old;

	if (!b)
		return;
	old = *b;
	*b = t->breakpoints[--t->n_breakpoints];
	if (type == GDB_BREAK_SOFTWARE)
		unplant(t, &old);
	assign_all(t);
}

void gdb_break_remove_all(struct gdb_target *t)
{
	while (t->n_breakpoints) {
		const struct gdb_breakpoint *b = &t->breakpoints[--t->n_breakpoints];

		if (b->type == GDB_BREAK_SOFTWARE)
			unplant(t, b);
	}
	assign_all(t);
}

/* --- Running with them ---- */

int gdb_break_apply(struct gdb_target *t, struct vcpu *vcpu, bool step, bool block_interrupts,
		    struct error **err)
{
	struct hav_debug debug = {
		.enabled = step || t->n_breakpoints,
		.single_step = step,
		.software_breakpoints = t->n_software,
		.block_interrupts = step && block_interrupts,
		.dr7 = t->dr7,
	};

	memcpy(debug.dr, t->dr, sizeof(debug.dr));
	return hav_vcpu_set_debug(vcpu->hav, &debug, err);
}

/* pc is linear, whatever gdb's addresses are. */
static bool is_software(const struct gdb_target *t, struct vcpu *vcpu, uint64_t pc)
{
	struct gdb_translator tr;
	uint64_t gpa, len = 1;

	return t->n_software && gdb_translator_init(&tr, vcpu, false) &&
	       gdb_translate(&tr, pc, &gpa, &len) && find_at(t, gpa);
}

/* A breakpoint among the bits of DR6 that is of this sort; the processor may set bits of others. */
static int owner_of(const struct gdb_target *t, uint64_t dr6, bool watch)
{
	for (unsigned n = 0; n < GDB_DEBUG_REGISTERS; n++) {
		const int owner = t->owners[n];

		if (dr6 & BIT(n) && t->dr7 & DR7_GLOBAL(n) && owner >= 0 &&
		    (t->breakpoints[owner].type != GDB_BREAK_HARDWARE) == watch)
			return owner;
	}
	return -1;
}

struct gdb_stop gdb_break_classify(const struct gdb_target *t, struct vcpu *vcpu, bool stepping,
				   const struct hav_exit *exit)
{
	const uint64_t dr6 = exit->debug.dr6;
	int owner;

	if (exit->debug.exception == VECTOR_BP)
		return is_software(t, vcpu, exit->debug.pc)
			       ? (struct gdb_stop){ GDB_STOP_BREAK, GDB_BREAK_SOFTWARE,
						    exit->debug.pc }
			       : (struct gdb_stop){};
	owner = owner_of(t, dr6, true);
	if (owner >= 0)
		return (struct gdb_stop){ GDB_STOP_WATCH, t->breakpoints[owner].type,
					  t->breakpoints[owner].address };
	if (stepping && dr6 & DR6_BS)
		return (struct gdb_stop){ .kind = GDB_STOP_STEP };
	if (owner_of(t, dr6, false) >= 0)
		return (struct gdb_stop){ GDB_STOP_BREAK, GDB_BREAK_HARDWARE, 0 };
	return (struct gdb_stop){};
}
