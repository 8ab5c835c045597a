/*
 * Guest memory as a debugger sees it: see gdb_target.h.
 *
 * Linear addresses go through the vCPU's page tables, as they are at this moment, page by page; all
 * access is through gmem, so what is not RAM is not there. The INT3s of software breakpoints are
 * ours: reading gives what was there before, and writing changes that.
 */
#include "revirter/gdb_target.h"

#include "base/util.h"
#include "hav.h"
#include "machine/gmem.h"
#include "machine/machine.h"
#include "machine/vcpu.h"
#include "revirter/gdb_memory.h"
#include "x86/paging.h"

#include <string.h>

static bool read_entry(void *opaque, uint64_t gpa, void *entry, unsigned size)
{
	return gmem_read(opaque, gpa, entry, size);
}

bool gdb_translator_init(struct gdb_translator *tr, struct vcpu *vcpu, bool physical)
{
	struct hav_state *state AUTO_FREE = xcalloc(1, sizeof(*state));
	const struct hav_sregs *s = &state->sregs;

	*tr = (struct gdb_translator){ .mem = &vcpu->machine->mem };
	if (physical)
		return true;
	if (hav_vcpu_get_state(vcpu->hav, HAV_STATE_SREGS, state, NULL) < 0)
		return false;
	tr->mode = (struct paging_mode){ s->cr0, s->cr3, s->cr4, s->efer };
	tr->by_tables = true;
	return true;
}

uint8_t *gdb_translate(const struct gdb_translator *tr, uint64_t address, uint64_t *gpa,
		       uint64_t *len)
{
	uint64_t left = 4096 - address % 4096;

	*gpa = address;
	if (tr->by_tables && !paging_look_up(&tr->mode, address, read_entry, tr->mem, gpa, &left))
		return NULL;
	*len = MIN(*len, left);
	return gmem_slice(tr->mem, *gpa, *len);
}

static bool is_at(const struct gdb_breakpoint *b, uint64_t gpa, uint64_t len)
{
	return b->type == GDB_BREAK_SOFTWARE && b->gpa >= gpa && b->gpa - gpa < len;
}

static void hide_breakpoints(const struct gdb_target *t, uint64_t gpa, uint8_t *buf, uint64_t len)
{
	for (unsigned i = 0; i < t->n_breakpoints; i++) {
		const struct gdb_breakpoint *b = &t->breakpoints[i];

		if (is_at(b, gpa, len) && buf[b->gpa - gpa] == GDB_INT3)
			buf[b->gpa - gpa] = b->original;
	}
}

/* What is written below a breakpoint comes to light with its end. */
static void keep_breakpoints(struct gdb_target *t, uint64_t gpa, uint8_t *host, const uint8_t *buf,
			     uint64_t len)
{
	for (unsigned i = 0; i < t->n_breakpoints; i++) {
		struct gdb_breakpoint *b = &t->breakpoints[i];

		if (is_at(b, gpa, len)) {
			b->original = buf[b->gpa - gpa];
			host[b->gpa - gpa] = GDB_INT3;
		}
	}
}

size_t gdb_memory_read(struct gdb_target *t, struct vcpu *vcpu, uint64_t address, void *buf,
		       size_t len)
{
	struct gdb_translator tr;
	size_t done = 0;

	if (!gdb_translator_init(&tr, vcpu, t->physical))
		return 0;
	while (done < len) {
		uint64_t gpa, n = len - done;
		const uint8_t *host = gdb_translate(&tr, address + done, &gpa, &n);

		if (!host)
			break;
		memcpy((uint8_t *)buf + done, host, n);
		hide_breakpoints(t, gpa, (uint8_t *)buf + done, n);
		done += n;
	}
	return done;
}

size_t gdb_memory_write(struct gdb_target *t, struct vcpu *vcpu, uint64_t address, const void *buf,
			size_t len)
{
	struct gdb_translator tr;
	size_t done = 0;

	if (!gdb_translator_init(&tr, vcpu, t->physical))
		return 0;
	while (done < len) {
		const uint8_t *from = (const uint8_t *)buf + done;
		uint64_t gpa, n = len - done;
		uint8_t *host = gdb_translate(&tr, address + done, &gpa, &n);

		if (!host)
			break;
		memcpy(host, from, n);
		keep_breakpoints(t, gpa, host, from, n);
		gmem_written(tr.mem, gpa, n);
		done += n;
	}
	return done;
}
