/*
 * Software backend: linear addresses.
 *
 * Page tables are walked as in APM vol. 2 §5 (32-bit, PAE, long mode; no paging at all). What a
 * walk found goes into a TLB by which most accesses find host memory with a compare and an add.
 * There are three, as what may be accessed depends on who asks: CPL 3, the others, and the others
 * when SMAP does not hold them back.
 *
 * An entry lets through only what needs no further thought: a write only when the page is dirty, is
 * memory, and holds no decoded code. All else takes the slow way, which also splits accesses that
 * cross pages, asks devices, checks data breakpoints and alignment (while either is on, no entry
 * lets anything through).
 *
 * A whole access is translated before any byte of it is written.
 */
#include "hav/soft/soft.h"

#include "base/util.h"

#include <errno.h>

#define PTE_P     (1u << 0)
#define PTE_RW    (1u << 1)
#define PTE_US    (1u << 2)
#define PTE_A     (1u << 5)
#define PTE_D     (1u << 6)
#define PTE_PS    (1u << 7)
#define PTE_G     (1u << 8)
#define PTE_NX    BIT(63)
#define PHYS_MASK (BIT(SOFT_PHYS_BITS) - 1)
#define RESERVED  (BIT(52) - 1 - PHYS_MASK)

#define PF_P      (1u << 0)
#define PF_W      (1u << 1)
#define PF_U      (1u << 2)
#define PF_RSVD   (1u << 3)
#define PF_I      (1u << 4)

/* --- The TLB ---- */

void soft_journal_add(struct soft_journal *j, uint32_t place, bool global)
{
	uint8_t *state = &j->state[place], listed = JOURNAL_LISTED << global;

	if (!(*state & listed))
		j->places[global][j->n[global]++] = place;
	*state = (*state & ~JOURNAL_NOW_GLOBAL) | listed | (global ? JOURNAL_NOW_GLOBAL : 0);
}

static void forget(struct soft_tlb *tlb, uint32_t place)
{
	tlb->read[place] = tlb->write[place] = tlb->exec[place] = soft_tlb_no_tag(place);
}

/* Zeroes are no tags, but at place 0, and at the last, from where accesses may reach around to 0.
 */
void soft_tlb_init(struct soft_vcpu *cpu)
{
	for (unsigned t = 0; t < N_TLBS; t++) {
		forget(&cpu->tlb[t], 0);
		forget(&cpu->tlb[t], SOFT_PLACES - 1);
	}
}

static void flush_journal(struct soft_tlb *tlb, unsigned which)
{
	struct soft_journal *j = &tlb->journal;

	for (unsigned i = 0; i < j->n[which]; i++) {
		uint32_t place = j->places[which][i];
		uint8_t *state = &j->state[place];

		if (which == JOURNAL_GLOBAL || !(*state & JOURNAL_NOW_GLOBAL))
			forget(tlb, place);
		*state &= ~(JOURNAL_LISTED << which);
	}
	j->n[which] = 0;
}

void soft_tlb_flush(struct soft_vcpu *cpu, bool global_too)
{
	for (unsigned t = 0; t < N_TLBS; t++) {
		flush_journal(&cpu->tlb[t], JOURNAL_OTHER);
		if (global_too)
			flush_journal(&cpu->tlb[t], JOURNAL_GLOBAL);
	}
	if (global_too)
		cpu->large.n = 0;
	cpu->page = NULL;
	soft_jumps_flush(cpu, global_too);
}

static bool may_be_large(const struct soft_large *large, uint64_t linear)
{
	for (unsigned i = 0; i < large->n; i++)
		if (linear >= large->at[i].first && linear <= large->at[i].last)
			return true;
	return false;
}

/* Neighbours within this are one range. */
#define LARGE_GAP BIT(30)

static void note_large(struct soft_large *large, uint64_t first, uint64_t last)
{
	unsigned i;

	for (i = 0; i < large->n; i++)
		if (first <= large->at[i].last + LARGE_GAP &&
		    large->at[i].first <= last + LARGE_GAP)
			break;
	if (i == large->n && large->n < SOFT_LARGE) {
		large->at[large->n].first = first;
		large->at[large->n++].last = last;
		return;
	}
	i = MIN(i, SOFT_LARGE - 1u);
	large->at[i].first = MIN(large->at[i].first, first);
	large->at[i].last = MAX(large->at[i].last, last);
}

/* All of a large page goes when any address in it is asked for, but there is an entry for each 4
 * KiB. */
void soft_tlb_flush_page(struct soft_vcpu *cpu, uint64_t linear)
{
	if (may_be_large(&cpu->large, linear)) {
		soft_tlb_flush(cpu, true);
		return;
	}
	for (unsigned t = 0; t < N_TLBS; t++)
		forget(&cpu->tlb[t], soft_tlb_place(linear));
	cpu->page = NULL;
	soft_jumps_flush_page(cpu, linear);
}

void soft_tlb_flush_writes(struct soft_vcpu *cpu)
{
	for (unsigned t = 0; t < N_TLBS; t++) {
		struct soft_tlb *tlb = &cpu->tlb[t];

		for (unsigned which = 0; which < 2; which++)
			for (unsigned i = 0; i < tlb->journal.n[which]; i++) {
				uint32_t place = tlb->journal.places[which][i];

				tlb->write[place] = soft_tlb_no_tag(place);
			}
	}
}

void soft_tlb_choose(struct soft_vcpu *cpu)
{
	bool align = cpu->cpl == 3 && (cpu->cr0 & CR0_AM) && (cpu->rflags & RFLAGS_AC);
	bool watch = align || (cpu->dr7 & 0xff) || (cpu->debug.enabled && (cpu->debug.dr7 & 0xff));

	if (cpu->cpl == 3)
		cpu->tlb_now = TLB_USER;
	else if ((cpu->cr4 & CR4_SMAP) && !(cpu->rflags & RFLAGS_AC))
		cpu->tlb_now = TLB_SUPERVISOR;
	else
		cpu->tlb_now = TLB_SUPERVISOR_AC;
	cpu->align = align;
	if (watch != cpu->watch) {
		cpu->watch = watch;
		soft_tlb_flush(cpu, true);
	}
}

/* --- Page walks ---- */

struct walk {
	uint64_t gpa;    /* of the address */
	uint64_t rights; /* PTE_RW, PTE_US and PTE_NX as they hold for all levels together */
	uint64_t page_mask;
	bool global, dirty;
	unsigned levels;
	struct {
		void *host;
		uint64_t pte;
	} at[4];
};

struct level {
	unsigned shift, bits;
	bool may_be_large;
};

static const struct level long_mode[] = {
	{ 39, 9, false }, { 30, 9, true }, { 21, 9, true }, { 12, 9, false }
};
static const struct level pae[] = { { 30, 2, false }, { 21, 9, true }, { 12, 9, false } };
static const struct level legacy[] = { { 22, 10, true }, { 12, 10, false } };

static uint64_t load_pte(const void *host, bool wide)
{
	return wide ? __atomic_load_n((const uint64_t *)host, __ATOMIC_RELAXED)
		    : __atomic_load_n((const uint32_t *)host, __ATOMIC_RELAXED);
}

static bool reserved_bits(struct soft_vcpu *cpu, uint64_t pte, const struct level *level,
			  bool large, bool wide)
{
	uint64_t reserved = wide ? RESERVED : 0;

	if (wide && !(cpu->efer & EFER_NXE))
		reserved |= PTE_NX;
	if (level->shift == 39)
		reserved |= PTE_PS;
	if (level->bits == 2) /* PDPTEs of PAE hold no rights */
		reserved |= PTE_RW | PTE_US | BIT(63) | 0x1e0;
	else if (wide && !(cpu->efer & EFER_LMA))
		reserved |= (BIT(63) - 1) & ~(BIT(52) - 1);
	if (large && wide)
		reserved |= (BIT(level->shift) - 1) & ~(BIT(13) - 1);
	if (large && !wide)
		reserved |= BIT(21); /* above it: PSE-36's upper address bits */
	return pte & reserved;
}

/* The large page's frame. */
static uint64_t large_frame(uint64_t pte, const struct level *level, bool wide)
{
	if (wide)
		return pte & PHYS_MASK & ~(BIT(level->shift) - 1);
	return (pte & 0xffc00000u) | (pte >> 13 & 0xff) << 32;
}

/* 0, or the bits of a page fault's error code that the walk alone knows, plus 1 << 31. */
static uint32_t walk(struct soft_vcpu *cpu, uint64_t linear, struct walk *w)
{
	bool wide = cpu->cr4 & CR4_PAE;
	const struct level *level = cpu->efer & EFER_LMA ? long_mode : wide ? pae : legacy;
	uint64_t table = cpu->cr3 & (cpu->efer & EFER_LMA ? PHYS_MASK & ~(uint64_t)SOFT_PAGE_MASK
				     : wide               ? 0xffffffe0u
							  : 0xfffff000u);

	w->levels = 0;
	w->rights = PTE_RW | PTE_US;
	for (;; level++) {
		uint64_t index = linear >> level->shift & (BIT(level->bits) - 1);
		void *host = soft_host(cpu->vm, table + index * (wide ? 8 : 4), 8);
		uint64_t pte = host ? load_pte(host, wide) : 0;
		bool large = level->shift == 12 || (level->may_be_large && (pte & PTE_PS) &&
						    (wide || (cpu->cr4 & CR4_PSE)));

		if (!(pte & PTE_P))
			return BIT(31);
		if (reserved_bits(cpu, pte, level, large && level->shift != 12, wide))
			return BIT(31) | PF_P | PF_RSVD;
		w->at[w->levels].host = host;
		w->at[w->levels++].pte = pte;
		if (level->bits != 2) {
			w->rights &= pte | ~(uint64_t)(PTE_RW | PTE_US);
			w->rights |= wide ? pte & PTE_NX : 0;
		}
		if (level->shift == 12) {
			w->gpa = (wide ? pte & PHYS_MASK & ~(uint64_t)SOFT_PAGE_MASK
				       : pte & 0xfffff000u) |
				 (linear & SOFT_PAGE_MASK);
		} else if (large) {
			w->gpa = large_frame(pte, level, wide) | (linear & (BIT(level->shift) - 1));
		} else {
			table = wide ? pte & PHYS_MASK & ~(uint64_t)SOFT_PAGE_MASK
				     : pte & 0xfffff000u;
			continue;
		}
		w->page_mask = BIT(level->shift) - 1;
		w->global = (pte & PTE_G) && (cpu->cr4 & CR4_PGE);
		w->dirty = pte & PTE_D;
		return 0;
	}
}

/* May this be done with such a page? */
static bool allowed(struct soft_vcpu *cpu, const struct walk *w, unsigned access, unsigned tlb)
{
	bool user_page = w->rights & PTE_US;

	if ((access & ACCESS_EXEC) && (w->rights & PTE_NX))
		return false;
	if (tlb == TLB_USER)
		return user_page && (!(access & ACCESS_WRITE) || (w->rights & PTE_RW));
	if ((access & ACCESS_EXEC) && user_page && (cpu->cr4 & CR4_SMEP))
		return false;
	if (!(access & ACCESS_EXEC) && user_page && tlb == TLB_SUPERVISOR && (cpu->cr4 & CR4_SMAP))
		return false;
	return !(access & ACCESS_WRITE) || (w->rights & PTE_RW) || !(cpu->cr0 & CR0_WP);
}

/* Sets the accessed and dirty bits; false when a table changed meanwhile: walk again. */
static bool mark(struct soft_vcpu *cpu, struct walk *w, bool write)
{
	bool wide = cpu->cr4 & CR4_PAE;

	for (unsigned i = 0; i < w->levels; i++) {
		bool last = i + 1 == w->levels;
		uint64_t old = w->at[i].pte, new = old | PTE_A | (last && write ? PTE_D : 0);
		uint32_t old32 = old;

		if (new == old || (i == 0 && wide && !(cpu->efer & EFER_LMA)))
			continue;
		if (wide ? !__atomic_compare_exchange_n((uint64_t *)w->at[i].host, &old, new, false,
							__ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)
			 : !__atomic_compare_exchange_n((uint32_t *)w->at[i].host, &old32,
							(uint32_t) new, false, __ATOMIC_SEQ_CST,
							__ATOMIC_SEQ_CST))
			return false;
		/* Decoded code in a page table would be odd, but must not go stale. */
		w->at[i].pte = new;
	}
	w->dirty |= write;
	return true;
}

static enum soft_result page_fault(struct soft_vcpu *cpu, uint64_t linear, uint32_t error,
				   unsigned access, unsigned tlb)
{
	error &= ~BIT(31);
	if (access & ACCESS_WRITE)
		error |= PF_W;
	if (tlb == TLB_USER)
		error |= PF_U;
	if ((access & ACCESS_EXEC) &&
	    ((cpu->cr4 & CR4_SMEP) || ((cpu->cr4 & CR4_PAE) && (cpu->efer & EFER_NXE))))
		error |= PF_I;
	cpu->fault_address = linear;
	return soft_raise_error(cpu, EXC_PF, error);
}

static enum soft_result walk_and_mark(struct soft_vcpu *cpu, uint64_t linear, unsigned access,
				      unsigned tlb, struct walk *w)
{
	uint32_t error;

	if (!(cpu->cr0 & CR0_PG)) {
		*w = (struct walk){
			.gpa = linear, .rights = PTE_RW | PTE_US, .global = true, .dirty = true
		};
		return SOFT_DONE;
	}
	do {
		error = walk(cpu, linear, w);
		if (error)
			return page_fault(cpu, linear, error, access, tlb);
		if (!allowed(cpu, w, access, tlb))
			return page_fault(cpu, linear, PF_P, access, tlb);
	} while (!mark(cpu, w, access & ACCESS_WRITE));
	return SOFT_DONE;
}

/* A page found: what of it may go the fast way from now on? */
static void fill(struct soft_vcpu *cpu, uint64_t linear, unsigned which, const struct walk *w)
{
	struct soft_tlb *tlb = &cpu->tlb[which];
	uint32_t place = soft_tlb_place(linear);
	uint64_t gpa = w->gpa & ~(uint64_t)SOFT_PAGE_MASK, tag = soft_tlb_tag(linear),
		 none = soft_tlb_no_tag(place);
	const struct soft_slot *slot = soft_slot(cpu->vm, gpa);
	bool paging = cpu->cr0 & CR0_PG, writable;

	if (!slot)
		return;
	if (w->page_mask > SOFT_PAGE_MASK)
		note_large(&cpu->large, linear & ~w->page_mask, linear | w->page_mask);
	writable = w->dirty && slot->writable &&
		   (!paging || allowed(cpu, w, ACCESS_WRITE, which)) &&
		   !(atomic_load(&slot->code[(gpa - slot->gpa) / SOFT_PAGE]) & SOFT_CODE_WATCHED);
	tlb->gpa[place] = gpa;
	tlb->addend[place] =
		(uintptr_t)(slot->host + (gpa - slot->gpa)) - (linear & ~(uint64_t)SOFT_PAGE_MASK);
	tlb->exec[place] = !paging || allowed(cpu, w, ACCESS_EXEC, which) ? tag : none;
	tlb->read[place] = !cpu->watch && (!paging || allowed(cpu, w, ACCESS_READ, which)) ? tag
											   : 0;
	tlb->write[place] = !cpu->watch && writable ? tag : none;
	soft_journal_add(&tlb->journal, place, w->global);
}

enum soft_result soft_translate(struct soft_vcpu *cpu, uint64_t linear, unsigned access,
				unsigned tlb, uint64_t *gpa)
{
	struct walk w = {};
	enum soft_result r = walk_and_mark(cpu, linear, access, tlb, &w);

	if (r)
		return r;
	*gpa = w.gpa;
	fill(cpu, linear, tlb, &w);
	return SOFT_DONE;
}

/* --- The slow way ---- */

/* One or two pieces, each in one page. */
struct pieces {
	unsigned n;
	struct {
		uint64_t gpa;
		unsigned size;
	} at[2];
};

/* What is not aligned to is #AC (Intel SDM vol. 3 table 6-7). */
static unsigned alignment(unsigned size)
{
	switch (size) {
	case 10: return 8; /* a number of the x87 */
	case 14:
	case 94: return 2; /* its environment and state, as 16-bit code has them */
	case 28:
	case 108: return 4;
	case 512: return 16;
	default: return size & (size - 1) ? 1 : size;
	}
}

static enum soft_result translate_pieces(struct soft_vcpu *cpu, uint64_t linear, unsigned size,
					 unsigned access, unsigned tlb, struct pieces *p)
{
	unsigned first = MIN(size, SOFT_PAGE - (unsigned)(linear & SOFT_PAGE_MASK));
	uint64_t second = linear + first;
	enum soft_result r;

	if (cpu->align && (linear & (alignment(size) - 1)) && tlb == TLB_USER)
		return soft_raise_error(cpu, EXC_AC, 0);
	p->n = 1;
	p->at[0].size = first;
	r = soft_translate(cpu, linear, access, tlb, &p->at[0].gpa);
	if (r || first == size)
		return r;
	if (cpu->mode != 64)
		second = (uint32_t)second;
	p->n = 2;
	p->at[1].size = size - first;
	return soft_translate(cpu, second, access, tlb, &p->at[1].gpa);
}

/* What a breakpoint register waits for (Intel SDM vol. 3 §17.2.4). */
enum { BREAK_EXEC, BREAK_WRITE, BREAK_IO, BREAK_ACCESS };

/* Notes breakpoints of these kinds, a bit each, that lie in [first, first + size): the trap comes
 * after the instruction. */
static void check_watch(struct soft_vcpu *cpu, uint64_t first, unsigned size, unsigned kinds)
{
	static const uint8_t lengths[] = { 1, 2, 8, 4 };
	bool outer = cpu->debug.enabled && (cpu->debug.dr7 & 0xff);
	uint64_t dr7 = outer ? cpu->debug.dr7 : cpu->dr7;

	for (unsigned i = 0; i < 4; i++) {
		unsigned kind = dr7 >> (16 + 4 * i) & 3, length = lengths[dr7 >> (18 + 4 * i) & 3];
		uint64_t at = (outer ? cpu->debug.dr[i] : cpu->dr[i]) & ~(uint64_t)(length - 1);

		if (!(dr7 >> (2 * i) & 3) || !(kinds >> kind & 1))
			continue;
		if (first < at + length && at < first + size) {
			cpu->trap_pending = true;
			cpu->dr6_pending |= BIT(i);
		}
	}
}

static void check_data_watch(struct soft_vcpu *cpu, uint64_t linear, unsigned size, unsigned access)
{
	check_watch(cpu, linear, size,
		    BIT(BREAK_ACCESS) | (access & ACCESS_WRITE ? BIT(BREAK_WRITE) : 0));
}

void soft_check_io_watch(struct soft_vcpu *cpu, uint16_t port, unsigned size)
{
	if (cpu->watch && (cpu->cr4 & CR4_DE))
		check_watch(cpu, port, size, BIT(BREAK_IO));
}

/* Single accesses of these sizes are done in one piece, as the guest's other processors may look.
 */
void soft_copy(void *to, const void *from, unsigned size)
{
	typedef uint16_t __attribute__((may_alias, aligned(1))) u16;
	typedef uint32_t __attribute__((may_alias, aligned(1))) u32;
	typedef uint64_t __attribute__((may_alias, aligned(1))) u64;

	switch (size) {
	case 1: *(volatile uint8_t *)to = *(const volatile uint8_t *)from; break;
	case 2: *(volatile u16 *)to = *(const volatile u16 *)from; break;
	case 4: *(volatile u32 *)to = *(const volatile u32 *)from; break;
	case 8: *(volatile u64 *)to = *(const volatile u64 *)from; break;
	default: memcpy(to, from, size); break;
	}
}

/* A piece of at most a page at gpa: memory, or a device. */
static enum soft_result access_physical(struct soft_vcpu *cpu, uint64_t gpa, uint8_t *data,
					unsigned size, bool write)
{
	const struct soft_slot *slot = soft_slot(cpu->vm, gpa);
	enum soft_result r;

	if (slot && (!write || slot->writable)) {
		uint8_t *host = slot->host + (gpa - slot->gpa);

		soft_copy(write ? host : data, write ? data : host, size);
		if (write)
			soft_code_written(cpu->vm, &slot->code[(gpa - slot->gpa) / SOFT_PAGE]);
		return SOFT_DONE;
	}
	while (size) {
		unsigned part = MIN(size, 8u);

		while (part & (part - 1))
			part &= part - 1;
		r = soft_device(cpu, false, write, gpa, data, part);
		if (r)
			return r;
		gpa += part;
		data += part;
		size -= part;
	}
	return SOFT_DONE;
}

static enum soft_result access_slow(struct soft_vcpu *cpu, uint64_t linear, uint8_t *data,
				    unsigned size, bool write, unsigned tlb)
{
	unsigned access = write ? ACCESS_WRITE : ACCESS_READ;
	struct pieces p;
	enum soft_result r = translate_pieces(cpu, linear, size, access, tlb, &p);

	for (unsigned i = 0; !r && i < p.n; i++) {
		r = access_physical(cpu, p.at[i].gpa, data, p.at[i].size, write);
		data += p.at[i].size;
	}
	if (!r && cpu->watch)
		check_data_watch(cpu, linear, size, access);
	return r;
}

enum soft_result soft_read_slow(struct soft_vcpu *cpu, uint64_t linear, void *data, unsigned size,
				unsigned tlb)
{
	return access_slow(cpu, linear, data, size, false, tlb);
}

enum soft_result soft_write_slow(struct soft_vcpu *cpu, uint64_t linear, const void *data,
				 unsigned size, unsigned tlb)
{
	return access_slow(cpu, linear, (uint8_t *)data, size, true, tlb);
}

enum soft_result soft_probe(struct soft_vcpu *cpu, uint64_t linear, unsigned size, unsigned access,
			    unsigned tlb)
{
	struct pieces p;

	return translate_pieces(cpu, linear, size, access, tlb, &p);
}

/* --- Spans ---- */

static bool fast_span(struct soft_vcpu *cpu, struct soft_span *span)
{
	const struct soft_tlb *tlb = &cpu->tlb[cpu->tlb_now];
	void *host;

	/* What may be written may be read. */
	host = soft_tlb_find(tlb, span->access & ACCESS_WRITE ? tlb->write : tlb->read,
			     span->linear, span->size);
	span->host = host;
	return host;
}

enum soft_result soft_span(struct soft_vcpu *cpu, struct soft_span *span, uint64_t linear,
			   unsigned size, unsigned access)
{
	const struct soft_slot *slot;
	struct pieces p;
	enum soft_result r;

	*span = (struct soft_span){ .linear = linear, .size = size, .access = access };
	if (likely(fast_span(cpu, span)))
		return SOFT_DONE;
	r = translate_pieces(cpu, linear, size, access, cpu->tlb_now, &p);
	if (r)
		return r;
	slot = soft_slot(cpu->vm, p.at[0].gpa);
	if (p.n == 1 && slot && (slot->writable || !(access & ACCESS_WRITE))) {
		span->host = slot->host + (p.at[0].gpa - slot->gpa);
		if (access & ACCESS_WRITE)
			span->code = &slot->code[(p.at[0].gpa - slot->gpa) / SOFT_PAGE];
		if (cpu->watch)
			check_data_watch(cpu, linear, size, access);
		return SOFT_DONE;
	}
	/* As far into its 64 bytes as the guest's address: alignment counts. */
	span->bounced = true;
	span->host = cpu->bounce + (linear & 63);
	if (!(access & ACCESS_READ))
		return SOFT_DONE;
	return access_slow(cpu, linear, span->host, size, false, cpu->tlb_now);
}

enum soft_result soft_span_done(struct soft_vcpu *cpu, struct soft_span *span)
{
	if (!(span->access & ACCESS_WRITE))
		return SOFT_DONE;
	if (span->bounced)
		return access_slow(cpu, span->linear, span->host, span->size, true, cpu->tlb_now);
	if (unlikely(span->code))
		soft_code_written(cpu->vm, span->code);
	return SOFT_DONE;
}
