/*
 * Software backend: the translator's cache, and running what is in it.
 *
 * Each vCPU has a cache of its own and translates for itself: nothing here is locked, and code may
 * name its vCPU. Translated code is kept by the page it came from and by TLB, as that is part of it
 * (translate.c); page->at[] says where an instruction's code is, and code may be entered at any.
 *
 * In a page, jumps go straight from code to code: when one is first taken, code is left with
 * JIT_CHAIN, and then the jump is made to go there. Beyond a page the mapping decides, and that may
 * change; so cpu->jumps, a table by linear address, says where to go; it is filled here, and
 * flushed with the TLB.
 *
 * A page that is written gets a new generation (vm.c) and all vCPUs are asked for their attention.
 * Code looks for that wherever it jumps backwards or out of its page. Then code of pages that are
 * not what they were is forgotten, with the table of jumps: nothing else leads into a page.
 *
 * What all cold code shares, look-ups and jumps by the table, are helpers in front of the cache,
 * which it calls. One of them counts how often a block is begun: then the code is left with
 * JIT_HOT, the block is translated once more, and its cold code begins with a jump to the hot.
 *
 * While code runs, host registers are the guest's (soft_host_reg); RSP is right below the vCPU,
 * with room for signal handlers' frames under it.
 */
#include "hav/soft/jit.h"

#include "base/error.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <sys/mman.h>

_Static_assert(sizeof(struct soft_vcpu) < INT32_MAX, "reached by displacements");

typedef uint32_t enter_fn(struct soft_vcpu *cpu, const void *code);

/* --- In and out ---- */

static const uint8_t saved[] = { RBX, RBP, R12, R13, R14, R15 };

static struct emit_mem gpr_at(unsigned reg)
{
	return (struct emit_mem){ RSP, NO_REG, 1,
				  SOFT_JIT_RSP + (int)offsetof(struct soft_vcpu, frame.gpr) +
					  8 * (int)reg };
}

static void emit_guest_registers(struct emitter *e, uint32_t op)
{
	for (unsigned reg = 0; reg < 16; reg++)
		if (soft_host_reg[reg] != NO_REG)
			emit_op_mem(e, op, soft_host_reg[reg], gpr_at(reg));
}

/* uint32_t enter(cpu, code): the C library's calling convention on the outside. */
static void emit_enter(struct emitter *e)
{
	static const uint8_t flags[] = {
		0x04, 0x7f, /* add al, 0x7f: OF, if it was 1 */
		0x9e,       /* sahf */
	};

	for (unsigned i = 0; i < ARRAY_SIZE(saved); i++) {
		if (saved[i] >= 8)
			emit8(e, 0x41);
		emit8(e, 0x50 | (saved[i] & 7));
	}
	emit_op_mem(e, MOV_STORE, RSP,
		    (struct emit_mem){ RDI, NO_REG, 1, (int)offsetof(struct soft_vcpu, host_rsp) });
	emit_op_mem(e, LEA, RSP, (struct emit_mem){ RDI, NO_REG, 1, -SOFT_JIT_RSP });
	emit_op_mem(e, MOV_STORE, RSI, STATE(jit_target));
	emit_op_mem(e, OP_0F | 0xb7, RAX, STATE(jit_of)); /* movzx eax, [OF and the others] */
	emit_bytes(e, flags, sizeof(flags));
	emit_guest_registers(e, MOV_LOAD);
	emit_op_mem(e, 0xff, 4, STATE(jit_target));
}

/* Where translated code goes with JIT_WORD() in ECX, and its own place in R11 to be chained. */
static void emit_leave(struct emitter *e)
{
	static const uint8_t flags[] = {
		0x9f,             /* lahf */
		0x0f, 0x90, 0xc0, /* seto al */
		0x66,
	};

	emit_guest_registers(e, MOV_STORE);
	emit_bytes(e, flags, sizeof(flags));
	emit_op_mem(e, 0x89, RAX, STATE(jit_of));
	emit_op_mem(e, MOV_STORE, HOST_LINEAR, STATE(jit_site));
	emit_op_reg(e, 0x89, HOST_COUNT, RAX);
	emit_op_mem(e, MOV_LOAD, RSP, STATE(host_rsp));
	for (unsigned i = ARRAY_SIZE(saved); i-- > 0;) {
		if (saved[i] >= 8)
			emit8(e, 0x41);
		emit8(e, 0x58 | (saved[i] & 7));
	}
	emit8(e, 0xc3);
}

/*
 * A helper is called: the return address is below RSP, as it is moved back at once, and stays, as
 * no signal's handler writes to the 128 bytes there.
 */
static void emit_called(struct emitter *e)
{
	emit_op_mem(e, LEA, RSP, (struct emit_mem){ RSP, NO_REG, 1, 8 });
}

static const struct emit_mem return_address = { RSP, NO_REG, 1, -8 };

static void emit_lookup_helper(struct emitter *e, const struct soft_jit *jit, unsigned tlb,
			       unsigned size, bool write)
{
	emit_called(e);
	translate_emit_lookup(e, tlb, HOST_LINEAR, size, write);
	emit8(e, 0xe3); /* jrcxz over what follows, up to the RET */
	emit8(e, 5 + 5 + 5);
	emit_op_mem(e, MOV_LOAD, HOST_LINEAR, return_address);
	emit_mov_imm32(e, HOST_COUNT, JIT_WORD(JIT_MISSED, 0));
	emit_jmp(e, jit->writable + jit->leave);
	emit_op_mem(e, LEA, RSP, return_address);
	emit8(e, 0xc3);
}

/* What would return is the word to leave with. */
static void emit_jump_helper(struct emitter *e, const struct soft_jit *jit, unsigned tlb,
			     int32_t stack)
{
	uint8_t *out[2];

	emit_called(e);
	emit_op_mem(e, MOV_LOAD32, HOST_COUNT, STATE(attention));
	emit_skip_if_zero(e);
	out[0] = emit_jmp_open(e);
	translate_emit_find_jump(e, tlb);
	emit_skip_if_zero(e);
	out[1] = emit_jmp_open(e);
	translate_emit_jump(e, tlb, stack);
	emit_close(out[0], e->at);
	emit_close(out[1], e->at);
	emit_op_mem(e, MOV_LOAD, HOST_COUNT, return_address);
	emit_op_mem(e, MOV_LOAD32, HOST_COUNT, (struct emit_mem){ HOST_COUNT, NO_REG, 1, 0 });
	emit_jmp(e, jit->writable + jit->leave);
}

/* Where it returns to says which count is meant. */
static void emit_heat_helper(struct emitter *e, const struct soft_jit *jit)
{
	const struct emit_mem count = { RSP, HOST_COUNT, 1,
					SOFT_JIT_RSP + (int)offsetof(struct soft_vcpu, heat) };

	emit_called(e);
	emit_op_mem(e, MOV_LOAD, HOST_LINEAR, return_address);
	emit_op_reg(e, OP_0F | 0xb7, HOST_COUNT, HOST_LINEAR); /* movzx, 16 bits */
	emit_op_mem(e, OP_0F | 0xb6, HOST_PLACE, count);
	emit_op_mem(e, LEA & ~OP_W, HOST_PLACE, (struct emit_mem){ HOST_PLACE, NO_REG, 1, -1 });
	emit_op_mem(e, 0x88, HOST_PLACE, count);
	emit_op_reg(e, OP_0F | 0xb6, HOST_COUNT, HOST_PLACE);
	emit8(e, 0xe3); /* jrcxz over the way back */
	emit8(e, 6);
	emit_op_mem(e, LEA, RSP, return_address);
	emit8(e, 0xc3);
	emit_mov_imm32(e, HOST_COUNT, JIT_WORD(JIT_HOT, 0));
	emit_jmp(e, jit->writable + jit->leave);
}

static uint32_t align_code(struct emitter *e, const struct soft_jit *jit)
{
	uint32_t at = ALIGN_UP(e->at - jit->writable, 64);

	e->at = jit->writable + at;
	return at;
}

static void emit_helpers(struct emitter *e, struct soft_jit *jit)
{
	for (unsigned tlb = 0; tlb < N_TLBS; tlb++) {
		for (unsigned i = 0; i < 2 * SOFT_JIT_SIZES; i++) {
			jit->helpers.lookup[tlb][i % 2][i / 2] = align_code(e, jit);
			emit_lookup_helper(e, jit, tlb, 1u << i / 2, i % 2);
		}
		for (unsigned i = 0; i < 3; i++) {
			jit->helpers.jump[tlb][i] = align_code(e, jit);
			emit_jump_helper(e, jit, tlb, 8 * ((int32_t)i - 1));
		}
	}
	jit->helpers.heat = align_code(e, jit);
	emit_heat_helper(e, jit);
}

/* No address that belongs at this place has this tag. */
static void forget(struct soft_jumps *jumps, uint32_t place)
{
	jumps->tag[place] = -(uint64_t)(place ^ 1);
	jumps->code[place] = NULL;
}

/* --- The cache ---- */

static void *reserve(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static int map_cache(struct soft_jit *jit)
{
	int fd AUTO_CLOSE = memfd_create("revirt-code", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, SOFT_JIT_SIZE) < 0)
		return -1;
	jit->writable = mmap(NULL, SOFT_JIT_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	jit->code = mmap(NULL, SOFT_JIT_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	jit->pages = reserve(SOFT_JIT_PAGES * sizeof(*jit->pages));
	jit->origins = reserve(SOFT_JIT_ORIGINS * sizeof(*jit->origins));
	return jit->writable == MAP_FAILED || jit->code == MAP_FAILED || !jit->pages ||
			       !jit->origins
		       ? -1
		       : 0;
}

/* Without BMI2 there is no translator. */
static bool host_can(void)
{
	return __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("bmi");
}

int soft_jit_create(struct soft_vcpu *cpu, struct error **err)
{
	struct soft_jit *jit;
	struct emitter e;

	if (!host_can() || cpu->vm->vm.config.translation == HAV_INTERPRET)
		return 0;
	jit = xcalloc(1, sizeof(*jit));
	cpu->jit = jit;
	if (map_cache(jit) < 0) {
		error_set_errno(err, errno, "cannot make room for translated code");
		return -1;
	}
	e.at = jit->writable;
	emit_enter(&e);
	jit->leave = ALIGN_UP(e.at - jit->writable, 16);
	e.at = jit->writable + jit->leave;
	emit_leave(&e);
	emit_helpers(&e, jit);
	jit->begin = align_code(&e, jit);
	soft_jit_flush(cpu);
	jit->flushes = 0;
	for (unsigned t = 0; t < N_TLBS; t++)
		forget(&cpu->jumps[t], 0); /* 0 as a tag would do for address 0 only */
	return 0;
}

static void release(void *p, size_t size)
{
	if (p && p != MAP_FAILED)
		munmap(p, size);
}

void soft_jit_destroy(struct soft_vcpu *cpu)
{
	struct soft_jit *jit = cpu->jit;

	if (!jit)
		return;
	release(jit->writable, SOFT_JIT_SIZE);
	release((void *)jit->code, SOFT_JIT_SIZE);
	release(jit->pages, SOFT_JIT_PAGES * sizeof(*jit->pages));
	release(jit->origins, SOFT_JIT_ORIGINS * sizeof(*jit->origins));
	free(jit);
	cpu->jit = NULL;
}

void soft_jit_flush(struct soft_vcpu *cpu)
{
	struct soft_jit *jit = cpu->jit;

	if (!jit)
		return;
	jit->used = jit->begin;
	jit->n_pages = jit->n_origins = 0;
	jit->flushes++;
	memset(jit->hash, 0, sizeof(jit->hash));
	memset(jit->spans, 0, sizeof(jit->spans));
	soft_jumps_flush(cpu, true);
}

void soft_jit_validate(struct soft_vcpu *cpu)
{
	struct soft_jit *jit = cpu->jit;
	bool any = false;

	for (uint32_t i = 0; jit && i < jit->n_pages; i++) {
		struct soft_jit_page *page = &jit->pages[i];

		if (page->generation && atomic_load(page->current) != page->generation) {
			page->generation = 0;
			any = true;
		}
	}
	if (any)
		soft_jumps_flush(cpu, true);
}

static uint32_t peek(const uint32_t *value)
{
	return __atomic_load_n(value, __ATOMIC_RELAXED);
}

bool soft_jit_code_cache(const struct hav_vcpu *vcpu, struct hav_code_cache *cache)
{
	const struct soft_jit *jit = ((const struct soft_vcpu *)vcpu)->jit;

	if (!jit)
		return false;
	*cache = (struct hav_code_cache){
		.used = peek(&jit->used) - jit->begin,
		.size = SOFT_JIT_SIZE - jit->begin,
		.pages = peek(&jit->n_pages),
		.max_pages = SOFT_JIT_PAGES,
		.origins = peek(&jit->n_origins),
		.max_origins = SOFT_JIT_ORIGINS,
		.flushes = peek(&jit->flushes),
	};
	return true;
}

/* --- Jumps by linear address ---- */

static void flush_jumps(struct soft_jumps *jumps, bool global_too)
{
	struct soft_journal *j = &jumps->journal;

	for (unsigned which = 0; which <= global_too; which++) {
		for (unsigned i = 0; i < j->n[which]; i++) {
			uint32_t place = j->places[which][i];

			if (which == JOURNAL_GLOBAL || !(j->state[place] & JOURNAL_NOW_GLOBAL)) {
				forget(jumps, place);
			}
			j->state[place] &= ~(JOURNAL_LISTED << which);
		}
		j->n[which] = 0;
	}
	if (global_too)
		memset(jumps->pages, 0, sizeof(jumps->pages));
}

void soft_jumps_flush(struct soft_vcpu *cpu, bool global_too)
{
	for (unsigned t = 0; t < N_TLBS; t++)
		flush_jumps(&cpu->jumps[t], global_too);
}

void soft_jumps_flush_page(struct soft_vcpu *cpu, uint64_t linear)
{
	for (unsigned t = 0; t < N_TLBS; t++)
		if (cpu->jumps[t].pages[linear >> 18 & 63] & BIT(linear >> 12 & 63))
			flush_jumps(&cpu->jumps[t], true);
}

static void note_page(struct soft_jumps *jumps, uint64_t rip)
{
	jumps->pages[rip >> 18 & 63] |= BIT(rip >> 12 & 63);
}

static void add_jump(struct soft_vcpu *cpu, uint64_t rip, const void *code)
{
	struct soft_jumps *jumps = &cpu->jumps[cpu->tlb_now];
	const struct soft_tlb *tlb = &cpu->tlb[cpu->cpl == 3 ? TLB_USER : TLB_SUPERVISOR];
	uint16_t place = rip;

	jumps->tag[place] = -rip;
	jumps->code[place] = code;
	note_page(jumps, rip);
	note_page(jumps, rip + SOFT_MAX_INSN - 1);
	soft_journal_add(&jumps->journal, place,
			 tlb->journal.state[soft_tlb_place(rip)] & JOURNAL_NOW_GLOBAL);
}

/* --- Code for an address ---- */

/* Room for a page and its code is made before: make_room(). */
static struct soft_jit_page *page_of(struct soft_vcpu *cpu, uint64_t gpa)
{
	struct soft_jit *jit = cpu->jit;
	const struct soft_slot *slot = soft_slot(cpu->vm, gpa);
	struct soft_jit_page **head, *page;

	if (!slot)
		return NULL;
	head = &jit->hash[(gpa / SOFT_PAGE * N_TLBS + cpu->tlb_now) % SOFT_JIT_HASH];
	for (page = *head; page; page = page->next)
		if (page->gpa == gpa && page->tlb == cpu->tlb_now)
			break;
	if (!page) {
		page = &jit->pages[jit->n_pages++];
		page->gpa = gpa;
		page->tlb = cpu->tlb_now;
		page->generation = 0;
		page->current = &slot->code[(gpa - slot->gpa) / SOFT_PAGE];
		page->host = slot->host + (gpa - slot->gpa);
		page->next = *head;
		*head = page;
	}
	if (!page->generation || atomic_load(page->current) != page->generation) {
		if (page->generation) /* jumps may still lead into what it was */
			soft_jumps_flush(cpu, true);
		memset(page->at, 0, sizeof(page->at));
		page->generation = soft_code_begin(cpu, page->current);
	}
	return page;
}

static void make_room(struct soft_vcpu *cpu)
{
	const struct soft_jit *jit = cpu->jit;

	if (jit->used + SOFT_JIT_MARGIN > SOFT_JIT_SIZE || jit->n_pages + 2 > SOFT_JIT_PAGES ||
	    jit->n_origins + SOFT_JIT_ORIGINS_MARGIN > SOFT_JIT_ORIGINS)
		soft_jit_flush(cpu);
}

static uint32_t find_span(struct soft_vcpu *cpu, struct soft_jit_page *page, unsigned offset)
{
	struct soft_jit *jit = cpu->jit;
	uint64_t gpa, at = page->gpa + offset;
	struct soft_jit_span *span =
		&jit->spans[(at / SOFT_PAGE * 4 + offset + cpu->tlb_now * 5) % SOFT_JIT_SPANS];
	struct soft_jit_page *second;

	if (soft_fetch_gpa(cpu, (cpu->rip | SOFT_PAGE_MASK) + 1, &gpa))
		return 0;
	second = page_of(cpu, gpa);
	if (!second)
		return 0;
	if (!span->code || span->gpa != at || span->page[0] != page || span->page[1] != second ||
	    span->generation[0] != page->generation || span->generation[1] != second->generation)
		*span = (struct soft_jit_span){
			.gpa = at,
			.page = { page, second },
			.generation = { page->generation, second->generation },
			.code = soft_translate_span(cpu, page, offset, second),
		};
	return span->code;
}

/*
 * NULL when the instruction must be interpreted: it faults, or there is nothing. *middle: the
 * middle of a block will do; and whether it is one.
 */
static const void *find(struct soft_vcpu *cpu, bool *middle)
{
	uint64_t rip = cpu->rip, gpa;
	struct soft_jit_page *page;
	unsigned offset = rip & SOFT_PAGE_MASK;
	uint32_t code;

	if (!soft_canonical(rip) || soft_fetch_gpa(cpu, rip, &gpa))
		return NULL;
	make_room(cpu);
	page = page_of(cpu, gpa & ~(uint64_t)SOFT_PAGE_MASK);
	if (!page)
		return NULL;
	code = page->at[offset];
	if (!code || ((code & JIT_MIDDLE) && !*middle)) {
		soft_translate_code(cpu, page, offset);
		code = page->at[offset];
	}
	*middle = code & JIT_MIDDLE;
	if (code & JIT_SPANS)
		code = find_span(cpu, page, offset);
	return code & JIT_CODE ? cpu->jit->code + (code & JIT_CODE) : NULL;
}

static const void *find_fast(struct soft_vcpu *cpu)
{
	const struct soft_jumps *jumps = &cpu->jumps[cpu->tlb_now];
	uint16_t place = cpu->rip;
	bool middle = cpu->rip == cpu->jit->resume;
	const void *code;

	if (likely(jumps->code[place] && jumps->tag[place] == -cpu->rip))
		return jumps->code[place];
	code = find(cpu, &middle);
	if (code && !middle)
		add_jump(cpu, cpu->rip, code);
	return code;
}

/* The jump that led here may go on by itself from now on. */
static void chain(struct soft_vcpu *cpu, uint32_t site)
{
	struct soft_jit *jit = cpu->jit;
	uint32_t flushes = jit->flushes;
	bool middle = false;
	const uint8_t *code = find(cpu, &middle);

	if (code && jit->flushes == flushes)
		emit_close(jit->writable + site, jit->writable + (code - jit->code));
}

/* The instruction of translated code that has what is at this place. */
static unsigned origin_of(const struct soft_jit *jit, uint32_t at)
{
	uint32_t low = 0, high;

	/* The last that begins at or before it. */
	for (high = jit->n_origins; high - low > 1;) {
		uint32_t middle = low + (high - low) / 2;

		*(jit->origins[middle].code <= at ? &low : &high) = middle;
	}
	return jit->origins[low].offset;
}

/* In the cache: where the call was that would have returned here. */
static uint32_t call_of(const struct soft_jit *jit, uint64_t back)
{
	return back - (uintptr_t)jit->code - JIT_CALL_SIZE;
}

/* The cold code that begins at this place has ended its count: from now on it leads to hot code. */
static void heat(struct soft_vcpu *cpu, uint32_t start)
{
	struct soft_jit *jit = cpu->jit;
	struct emitter e = { jit->writable + start };
	uint32_t flushes = jit->flushes, hot;
	struct soft_jit_page *page;
	unsigned offset;
	uint64_t gpa;

	offset = origin_of(jit, start);
	cpu->rip += offset;
	make_room(cpu);
	if (jit->flushes != flushes || soft_fetch_gpa(cpu, cpu->rip, &gpa))
		return;
	page = page_of(cpu, gpa & ~(uint64_t)SOFT_PAGE_MASK);
	/* The page may have been written meanwhile. */
	if (!page || page->at[offset] != start)
		return;
	hot = soft_translate_hot(cpu, page, offset, start);
	emit_jmp(&e, jit->writable + hot);
	add_jump(cpu, cpu->rip, jit->code + hot);
}

/* --- Running ---- */

#define LAHF_FLAGS (RFLAGS_CF | RFLAGS_PF | RFLAGS_AF | RFLAGS_ZF | RFLAGS_SF)

/* May the guest use floating point without being asked? Once it may, code counts on that. */
static bool fpu_fits(struct soft_vcpu *cpu)
{
	bool may = !(cpu->cr0 & (CR0_TS | CR0_EM)) && (cpu->cr4 & CR4_OSFXSR);

	if (likely(may == cpu->jit->fpu))
		return true;
	if (!may)
		return false;
	cpu->jit->fpu = true;
	soft_jit_flush(cpu);
	return true;
}

/* Code was left at cpu->rip. */
static enum soft_result left(struct soft_vcpu *cpu, unsigned why)
{
	uint64_t rip = cpu->rip;
	enum soft_result r;

	switch (why) {
	case JIT_CHAIN: chain(cpu, cpu->jit_site); return SOFT_DONE;
	case JIT_HOT: heat(cpu, call_of(cpu->jit, cpu->jit_site)); return SOFT_DONE;
	case JIT_MISSED:
		rip += origin_of(cpu->jit, call_of(cpu->jit, cpu->jit_site));
		cpu->rip = rip;
		__attribute__((fallthrough));
	case JIT_INTERPRET:
		r = soft_interpret(cpu);
		cpu->jit->resume = cpu->rip - rip <= SOFT_MAX_INSN ? cpu->rip : 0;
		return r;
	case JIT_CALLED:
		if (!soft_canonical(cpu->jit_site))
			return soft_interpret(cpu);
		cpu->frame.gpr[RSP] -= 8;
		cpu->rip = cpu->jit_site;
		return SOFT_DONE;
	default: return SOFT_DONE;
	}
}

enum soft_result soft_jit_run(struct soft_vcpu *cpu)
{
	const void *code = fpu_fits(cpu) ? find_fast(cpu) : NULL;
	uint32_t word;

	if (unlikely(!code))
		return soft_interpret(cpu);
	if (cpu->jit->fpu)
		soft_fpu_take(cpu);
	cpu->page_base = cpu->rip & ~(uint64_t)SOFT_PAGE_MASK;
	cpu->jit_of = !!(cpu->rflags & RFLAGS_OF);
	cpu->jit_flags = cpu->rflags;
	soft_native_running(cpu);
	word = ((enter_fn *)cpu->jit->code)(cpu, code);
	soft_native_running(NULL);
	cpu->rflags = (cpu->rflags & ~(uint64_t)(LAHF_FLAGS | RFLAGS_OF)) |
		      (cpu->jit_flags & LAHF_FLAGS) | (cpu->jit_of ? RFLAGS_OF : 0);
	cpu->rip = cpu->page_base + (word & 0xffff);
	return left(cpu, word >> 16);
}

bool soft_jit_fault(const struct soft_vcpu *cpu, uint64_t rip, uint64_t *to, uint64_t *rcx)
{
	const struct soft_jit *jit = cpu->jit;
	uint32_t at;

	if (!jit || rip - (uintptr_t)jit->code >= jit->used)
		return false;
	at = rip - (uintptr_t)jit->code;
	if (at < jit->begin)
		return false;
	*to = (uintptr_t)(jit->code + jit->leave);
	*rcx = JIT_WORD(JIT_INTERPRET, origin_of(jit, at));
	return true;
}
