/*
 * Software backend: from guest instructions to host code, a block at a time.
 *
 * Code is cold at first: each instruction stands by itself: before and after it all of the guest's
 * state is where soft_host_reg says, flags in the host's flags, so that code may be entered and
 * left between any two; look-ups and jumps out of the page are calls of shared helpers, so it is
 * small and quickly made. What is often begun becomes hot: it is translated once more, on through
 * jumps and calls within the page, look-ups in line and shared by groups of accesses (access.c),
 * guest registers that live in memory kept in spare ones. Hot code is entered at its head only;
 * whatever does not succeed at once goes on in cold code at the same instruction. Nothing the
 * translator adds touches flags (LEA, MOV, SHRX, JRCXZ).
 *
 * Most instructions are copied (copy.c). Jumps within the page become jumps in the host code;
 * others, calls and returns look for the target in a table by linear address. What cold code cannot
 * do leaves to the interpreter, which does the whole instruction: up to there nothing has been
 * changed.
 *
 * Code is keyed by guest-physical address, so it must not know where it is: cpu->page_base is the
 * linear address of the page being run.
 */
#include "hav/soft/translate.h"

#include "hav/soft/exec.h"

const uint8_t soft_host_reg[16] = {
	[RAX] = RAX, [RCX] = R9,  [RDX] = RDX,    [RBX] = RBX,    [RSP] = R10,    [RBP] = RBP,
	[RSI] = RSI, [RDI] = RDI, [R8] = R14,     [R9] = R15,     [R10] = NO_REG, [R11] = NO_REG,
	[R12] = R12, [R13] = R13, [R14] = NO_REG, [R15] = NO_REG,
};

struct emit_mem translate_state(size_t offset)
{
	return (struct emit_mem){ RSP, NO_REG, 1, SOFT_JIT_RSP + (int)offset };
}

struct emit_mem translate_gpr(unsigned reg)
{
	return translate_state(offsetof(struct soft_vcpu, frame.gpr) + 8 * reg);
}

struct emit_mem translate_table(size_t offset)
{
	return (struct emit_mem){ RSP, HOST_PLACE, 8, SOFT_JIT_RSP + (int)offset };
}

/* --- Guest registers that live in memory ---- */

static const uint8_t scratch_hosts[3] = { HOST_COUNT, HOST_PLACE, HOST_LINEAR };

void translate_save(struct translation *t)
{
	for (unsigned i = 0; i < 3; i++)
		if (t->scratch[i].dirty) {
			emit_op_mem(&t->e, MOV_STORE, scratch_hosts[i],
				    translate_gpr(t->scratch[i].guest));
			t->scratch[i].dirty = false;
		}
}

void translate_free(struct translation *t, unsigned which)
{
	for (unsigned i = 0; i < 3; i++) {
		if (!(which & 1u << i))
			continue;
		if (t->scratch[i].dirty)
			emit_op_mem(&t->e, MOV_STORE, scratch_hosts[i],
				    translate_gpr(t->scratch[i].guest));
		t->scratch[i].guest = NO_REG;
		t->scratch[i].dirty = false;
	}
}

static int choose_scratch(const struct translation *t, unsigned among)
{
	int best = -1;

	for (unsigned i = 0; i < 3; i++) {
		if (!(among & ~t->pinned & 1u << i))
			continue;
		if (t->scratch[i].guest == NO_REG)
			return i;
		if (best < 0 || t->scratch[i].used < t->scratch[best].used)
			best = i;
	}
	return best;
}

int translate_scratch(struct translation *t, unsigned guest, unsigned among, bool load)
{
	int i;

	for (i = 0; i < 3; i++)
		if (t->scratch[i].guest == guest) {
			if (among & 1u << i)
				goto found;
			translate_free(t, 1u << i);
		}
	i = choose_scratch(t, among);
	if (i < 0)
		return -1;
	translate_free(t, 1u << i);
	t->scratch[i].guest = guest;
	if (load)
		emit_op_mem(&t->e, MOV_LOAD, scratch_hosts[i], translate_gpr(guest));
found:
	t->scratch[i].used = ++t->clock;
	t->pinned |= 1u << i;
	return scratch_hosts[i];
}

void translate_written(struct translation *t, unsigned guest)
{
	for (unsigned i = 0; i < 3; i++)
		if (t->scratch[i].guest == guest)
			t->scratch[i].dirty = true;
}

/* --- Ways out ---- */

static void add_cold(struct translation *t, uint8_t *site, unsigned kind, uint32_t word,
		     int64_t target)
{
	t->cold[t->n_cold++] = (struct cold){ site, kind, word, target };
}

void translate_to_interpreter(struct translation *t)
{
	add_cold(t, emit_jmp_open(&t->e), COLD_LEAVE, JIT_WORD(JIT_INTERPRET, t->s->offset), 0);
}

/* When somebody wants the vCPU's attention, leaves to go on at an offset. */
static void poll(struct translation *t, uint32_t word)
{
	emit_op_mem(&t->e, MOV_LOAD32, HOST_COUNT, STATE(attention));
	emit_skip_if_zero(&t->e);
	add_cold(t, emit_jmp_open(&t->e), COLD_LEAVE, word, 0);
}

/* --- Jumps ---- */

static unsigned after(const struct translation *t)
{
	return t->s->offset + t->s->insn.length;
}

/* Goes to the instruction at an offset of this page, from a rel32 at site. */
static void link_within(struct translation *t, uint8_t *site, unsigned target)
{
	uint32_t at = t->page->at[target];

	if (at && !(at & JIT_MIDDLE))
		emit_close(site, t->jit->writable + (at & JIT_CODE));
	else
		add_cold(t, site, COLD_CHAIN, JIT_WORD(JIT_CHAIN, target), 0);
}

static void jump_within(struct translation *t, unsigned target)
{
	if (target <= t->s->offset)
		poll(t, JIT_WORD(JIT_GO, target));
	link_within(t, emit_jmp_open(&t->e), target);
}

void translate_emit_jump(struct emitter *e, unsigned tlb, int32_t stack)
{
	size_t jumps = offsetof(struct soft_vcpu, jumps) + tlb * sizeof(struct soft_jumps);

	if (stack)
		emit_op_mem(e, LEA, soft_host_reg[RSP],
			    (struct emit_mem){ soft_host_reg[RSP], NO_REG, 1, stack });
	emit_shrx(e, HOST_LINEAR, HOST_LINEAR, RSP);
	emit_shlx(e, HOST_LINEAR, HOST_LINEAR, RSP);
	emit_op_mem(e, MOV_STORE, HOST_LINEAR, STATE(page_base));
	emit_op_mem(e, 0xff, 4, translate_table(jumps + offsetof(struct soft_jumps, code)));
}

void translate_emit_find_jump(struct emitter *e, unsigned tlb)
{
	size_t jumps = offsetof(struct soft_vcpu, jumps) + tlb * sizeof(struct soft_jumps);

	emit_op_reg(e, OP_0F | 0xb7, HOST_PLACE, HOST_LINEAR);
	emit_op_mem(e, MOV_LOAD, HOST_COUNT,
		    translate_table(jumps + offsetof(struct soft_jumps, tag)));
	emit_op_mem(e, LEA, HOST_COUNT, (struct emit_mem){ HOST_LINEAR, HOST_COUNT, 1, 0 });
}

/* To the linear address in HOST_LINEAR, if code for it is in the table; the stack pointer moves
 * then. */
static void emit_jump_linear(struct translation *t, int32_t stack, uint32_t word)
{
	unsigned tlb = t->page->tlb;

	if (!t->hot && stack >= -8 && stack <= 8 && stack % 8 == 0) {
		emit_call(&t->e, t->jit->writable + t->jit->helpers.jump[tlb][stack / 8 + 1]);
		emit32(&t->e, word);
		return;
	}
	poll(t, word);
	translate_emit_find_jump(&t->e, tlb);
	emit_skip_if_zero(&t->e);
	add_cold(t, emit_jmp_open(&t->e), COLD_LEAVE, word, 0);
	translate_emit_jump(&t->e, tlb, stack);
}

/* The target of a direct jump, from the page; false when it is too far to be said. */
static bool direct_target(const struct translation *t, int64_t *target)
{
	*target = (int64_t)after(t) + t->s->insn.imm;
	return *target == (int32_t)*target;
}

static bool within(int64_t target)
{
	return target >= 0 && target < SOFT_PAGE;
}

static void emit_move_stack(struct translation *t, int32_t by)
{
	emit_op_mem(&t->e, LEA, soft_host_reg[RSP],
		    (struct emit_mem){ soft_host_reg[RSP], NO_REG, 1, by });
}

/* The return address, below the top of the stack, which does not move yet. */
static void emit_return_address(struct translation *t)
{
	struct emit_mem top = translate_stack(t, -8, true);

	emit_op_mem(&t->e, MOV_LOAD, HOST_COUNT, STATE(page_base));
	emit_op_mem(&t->e, LEA, HOST_COUNT,
		    (struct emit_mem){ HOST_COUNT, NO_REG, 1, (int32_t)after(t) });
	emit_op_mem(&t->e, MOV_STORE, HOST_COUNT, top);
}

static bool direct(struct translation *t, bool call)
{
	int64_t target;

	if (!direct_target(t, &target))
		return false;
	t->ended = target != t->follows;
	if (call)
		emit_return_address(t);
	if (within(target)) {
		if (call)
			emit_move_stack(t, -8);
		if (!t->ended && target <= t->s->offset)
			poll(t, JIT_WORD(JIT_GO, target));
		if (t->ended)
			jump_within(t, target);
		return true;
	}
	translate_from_page(t, target);
	emit_jump_linear(t, call ? -8 : 0, JIT_WORD(JIT_INTERPRET, t->s->offset));
	return true;
}

/* The target is in a register or in memory. */
static bool indirect(struct translation *t, bool call)
{
	const struct soft_operand *op = &t->s->insn.op[0];
	uint32_t word = JIT_WORD(JIT_INTERPRET, t->s->offset);
	struct emit_mem m;

	if (op->kind == OPERAND_MEMORY) {
		if (!translate_operand(t, 8, false, NULL, &m))
			return false;
		emit_op_mem(&t->e, MOV_LOAD, HOST_LINEAR, m);
		if (call) {
			/* The return address may overwrite it: it cannot be read again. */
			emit_op_mem(&t->e, MOV_STORE, HOST_LINEAR, STATE(jit_saved));
			emit_return_address(t);
			emit_op_mem(&t->e, MOV_LOAD, HOST_LINEAR, STATE(jit_saved));
			word = JIT_WORD(JIT_CALLED, t->s->offset);
		}
	} else {
		if (call)
			emit_return_address(t);
		emit_mov(&t->e, HOST_LINEAR, translate_in_register(t, op->reg, HOST_LINEAR));
	}
	emit_jump_linear(t, call ? -8 : 0, word);
	t->ended = true;
	return true;
}

static bool jump(struct translation *t, bool call)
{
	if (t->s->insn.far_branch || t->s->insn.opsize != 8)
		return false;
	return t->s->insn.op[0].kind == OPERAND_IMM ? direct(t, call) : indirect(t, call);
}

static bool ret(struct translation *t)
{
	if (t->s->insn.far_branch || t->s->insn.opsize != 8)
		return false;
	emit_op_mem(&t->e, MOV_LOAD, HOST_LINEAR, translate_stack(t, 0, false));
	emit_jump_linear(t, 8 + (uint16_t)t->s->insn.imm, JIT_WORD(JIT_INTERPRET, t->s->offset));
	t->ended = true;
	return true;
}

static bool jcc(struct translation *t)
{
	unsigned condition = t->s->d.insn.opcode & 15;
	int64_t target;

	if (t->s->insn.opsize != 8 || !direct_target(t, &target))
		return false;
	translate_save(t);
	if (t->follows == target && target != after(t)) {
		link_within(t, emit_jcc_open(&t->e, condition ^ 1), after(t));
	} else if (!within(target)) {
		add_cold(t, emit_jcc_open(&t->e, condition), COLD_CROSS,
			 JIT_WORD(JIT_INTERPRET, t->s->offset), target);
	} else if (target <= t->s->offset) {
		uint8_t *over;

		translate_free(t, SCRATCH_COUNT);
		emit8(&t->e, 0x70 | (condition ^ 1));
		emit8(&t->e, 0);
		over = t->e.at;
		jump_within(t, target);
		over[-1] = t->e.at - over;
	} else {
		link_within(t, emit_jcc_open(&t->e, condition), target);
	}
	return true;
}

/* --- The stack ---- */

/* The host register that has a guest's, or will, while HOST_PLACE and perhaps HOST_LINEAR are in
 * use. */
static unsigned register_for(struct translation *t, unsigned reg, bool load)
{
	t->pinned = 0;
	return soft_host_reg[reg] != NO_REG
		       ? soft_host_reg[reg]
		       : (unsigned)translate_scratch(t, reg, SCRATCH_COUNT, load);
}

static bool push(struct translation *t)
{
	const struct soft_operand *op = &t->s->insn.op[0];
	struct emit_mem m;

	if (t->s->insn.opsize != 8 || op->kind == OPERAND_SEGMENT)
		return false;
	if (op->kind == OPERAND_MEMORY) {
		translate_free(t, SCRATCH_ALL);
		if (!translate_operand(t, 8, false, NULL, &m))
			return false;
		emit_op_mem(&t->e, MOV_LOAD, HOST_LINEAR, m);
		emit_op_mem(&t->e, MOV_STORE, HOST_LINEAR, STATE(jit_saved));
	}
	m = translate_stack(t, -8, true);
	if (op->kind == OPERAND_IMM) {
		emit_op_mem(&t->e, OP_W | 0xc7, 0, m);
		emit32(&t->e, t->s->insn.imm);
	} else if (op->kind == OPERAND_MEMORY) {
		translate_free(t, SCRATCH_COUNT);
		emit_op_mem(&t->e, MOV_LOAD, HOST_COUNT, STATE(jit_saved));
		emit_op_mem(&t->e, MOV_STORE, HOST_COUNT, m);
	} else {
		emit_op_mem(&t->e, MOV_STORE, register_for(t, op->reg, true), m);
	}
	emit_move_stack(t, -8);
	return true;
}

static bool pop(struct translation *t)
{
	const struct soft_operand *op = &t->s->insn.op[0];
	struct emit_mem m;

	if (t->s->insn.opsize != 8 || op->kind != OPERAND_GPR || op->reg == RSP)
		return false;
	m = translate_stack(t, 0, false);
	emit_op_mem(&t->e, MOV_LOAD, register_for(t, op->reg, false), m);
	translate_written(t, op->reg);
	emit_move_stack(t, 8);
	return true;
}

static bool leave(struct translation *t)
{
	if (t->s->insn.opsize != 8)
		return false;
	translate_lookup(t, RBP, 8, false);
	emit_op_mem(&t->e, LEA, soft_host_reg[RSP], (struct emit_mem){ RBP, NO_REG, 1, 8 });
	emit_op_mem(&t->e, MOV_LOAD, RBP, (struct emit_mem){ RBP, HOST_PLACE, 1, 0 });
	return true;
}

/* LEA uses three at most. */
static unsigned lea_register(struct translation *t, unsigned reg, bool load)
{
	return soft_host_reg[reg] != NO_REG
		       ? soft_host_reg[reg]
		       : (unsigned)translate_scratch(t, reg, SCRATCH_ALL, load);
}

static bool lea(struct translation *t)
{
	const struct soft_insn *i = &t->s->insn;
	const struct soft_operand *op = &i->op[0];
	bool wide = op->size == 8 && i->addrsize == 8;
	struct emit_mem m = { NO_REG, NO_REG, 1, i->disp };
	int64_t disp = i->disp + (i->base == RIP_REG ? t->s->offset + i->length : 0);

	if (op->size == 2 || i->addrsize == 2 || disp != (int32_t)disp ||
	    (i->base == RIP_REG && i->addrsize != 8))
		return false;
	m.disp = disp;
	t->pinned = 0;
	if (i->base == RIP_REG) {
		translate_free(t, SCRATCH_LINEAR);
		t->pinned = SCRATCH_LINEAR;
		emit_op_mem(&t->e, MOV_LOAD, HOST_LINEAR, STATE(page_base));
		m.base = HOST_LINEAR;
	} else if (i->base != NO_REG) {
		m.base = lea_register(t, i->base, true);
	}
	if (i->index != NO_REG) {
		m.index = lea_register(t, i->index, true);
		m.scale = i->scale;
	}
	emit_op_mem(&t->e, wide ? LEA : LEA & ~OP_W, lea_register(t, op->reg, false), m);
	translate_written(t, op->reg);
	return true;
}

/* --- A block ---- */

static bool is_nothing(const struct step *s)
{
	switch (s->d.insn.meta.category) {
	case ZYDIS_CATEGORY_NOP:
	case ZYDIS_CATEGORY_WIDENOP:
	case ZYDIS_CATEGORY_PREFETCH: return s->insn.mnemonic != ZYDIS_MNEMONIC_PAUSE;
	default:
		return s->insn.mnemonic == ZYDIS_MNEMONIC_ENDBR64 ||
		       s->insn.mnemonic == ZYDIS_MNEMONIC_ENDBR32;
	}
}

static bool is_jcc(const ZydisDecodedInstruction *insn)
{
	return insn->meta.category == ZYDIS_CATEGORY_COND_BR &&
	       ((insn->opcode_map == ZYDIS_OPCODE_MAP_0F && (insn->opcode & 0xf0) == 0x80) ||
		(insn->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && (insn->opcode & 0xf0) == 0x70));
}

static bool one(struct translation *t)
{
	if (t->s->insn.fn == soft_exec_undefined)
		return false;
	if (is_nothing(t->s))
		return true;
	if (is_jcc(&t->s->d.insn))
		return jcc(t);
	switch (t->s->insn.mnemonic) {
	case ZYDIS_MNEMONIC_PUSH: return push(t);
	case ZYDIS_MNEMONIC_POP: return pop(t);
	case ZYDIS_MNEMONIC_LEA: return lea(t);
	case ZYDIS_MNEMONIC_CALL:
	case ZYDIS_MNEMONIC_JMP:
	case ZYDIS_MNEMONIC_RET:
	case ZYDIS_MNEMONIC_LEAVE: translate_free(t, SCRATCH_ALL); break;
	default: return translate_copy(t);
	}
	switch (t->s->insn.mnemonic) {
	case ZYDIS_MNEMONIC_CALL: return jump(t, true);
	case ZYDIS_MNEMONIC_JMP: return jump(t, false);
	case ZYDIS_MNEMONIC_RET: return ret(t);
	default: return leave(t);
	}
}

static void note_origin(struct translation *t, unsigned offset)
{
	t->jit->origins[t->jit->n_origins++] =
		(struct soft_jit_origin){ t->e.at - t->jit->writable, offset };
}

/* An instruction as cold or hot code; what was emitted of one that cannot be is taken back. */
static void instruction(struct translation *t, struct step *s)
{
	uint8_t *start = t->e.at;
	unsigned n_cold = t->n_cold;
	uint32_t established = t->established;
	struct scratch scratch[3];

	t->s = s;
	memcpy(scratch, t->scratch, sizeof(scratch));
	note_origin(t, s->offset);
	if (one(t)) {
		if (!t->hot)
			translate_free(t, SCRATCH_ALL);
		return;
	}
	t->e.at = start;
	t->n_cold = n_cold;
	t->established = established;
	memcpy(t->scratch, scratch, sizeof(scratch));
	translate_free(t, SCRATCH_ALL);
	t->ended = true;
	translate_to_interpreter(t);
}

/* To an offset, wherever code for its linear address is. */
static void go_by_table(struct translation *t, unsigned offset)
{
	translate_from_page(t, offset);
	emit_jump_linear(t, 0, JIT_WORD(JIT_GO, offset));
}

static void put_cold(struct translation *t)
{
	/* COLD_CROSS adds some while this runs. */
	for (unsigned i = 0; i < t->n_cold; i++) {
		struct cold *c = &t->cold[i];

		if (c->kind == COLD_LEAVE && i && c[-1].kind == COLD_LEAVE &&
		    c[-1].word == c->word) {
			emit_close(c->site, t->e.at - 10);
			continue;
		}
		emit_close(c->site, t->e.at);
		if (c->kind == COLD_CROSS) {
			translate_from_page(t, c->target);
			emit_jump_linear(t, 0, c->word);
			continue;
		}
		if (c->kind == COLD_CHAIN)
			emit_mov_imm32(&t->e, HOST_LINEAR, c->site - t->jit->writable);
		emit_mov_imm32(&t->e, HOST_COUNT, c->word);
		emit_jmp(&t->e, t->jit->writable + t->jit->leave);
	}
	t->n_cold = 0;
	t->jit->used = ALIGN_UP(t->e.at - t->jit->writable, 16);
}

/* After the last instruction of a block: offset is what follows. */
static void go_on(struct translation *t, unsigned offset)
{
	if (t->ended)
		return;
	translate_free(t, SCRATCH_ALL);
	if (offset < SOFT_PAGE)
		link_within(t, emit_jmp_open(&t->e), offset);
	else
		go_by_table(t, offset);
}

/* Decodes what begins at an offset of the page; false when it does not end in it. */
static bool decode_step(struct translation *t, struct step *s, unsigned offset)
{
	unsigned n = MIN(SOFT_PAGE - offset, (unsigned)SOFT_MAX_INSN);
	uint8_t bytes[SOFT_MAX_INSN];

	s->offset = offset;
	memcpy(bytes, t->page->host + offset, n);
	return soft_decode(t->cpu, bytes, n, &s->insn, &s->d) || n == SOFT_MAX_INSN;
}

/* --- Blocks ---- */

/* Cold code counts how often it is begun at its head; when the count is at an end it asks to be
 * hot. */
static void emit_heat(struct translation *t, unsigned offset)
{
	bool eager = t->cpu->vm->vm.config.translation == HAV_TRANSLATE_EAGERLY;

	note_origin(t, offset);
	emit_call(&t->e, t->jit->writable + t->jit->helpers.heat);
	t->cpu->heat[(uint16_t)((uintptr_t)t->jit->code + (t->e.at - t->jit->writable))] =
		eager ? 1 : SOFT_JIT_HOT;
}

/* Cold code, which is where instructions come from. */
static void translate_cold(struct translation *t, unsigned offset)
{
	uint32_t *at = t->page->at;

	for (unsigned n = 0; !t->ended && offset < SOFT_PAGE && n < MAX_BLOCK; n++) {
		struct step s = {};

		if (n && at[offset] && !(at[offset] & JIT_MIDDLE))
			break;
		if (!decode_step(t, &s, offset)) {
			at[offset] = (t->e.at - t->jit->writable) | JIT_SPANS;
			go_by_table(t, offset);
			t->ended = true;
			break;
		}
		if (!n || !at[offset])
			at[offset] = (t->e.at - t->jit->writable) | (n ? JIT_MIDDLE : 0);
		if (!n)
			emit_heat(t, offset);
		instruction(t, &s);
		offset += s.insn.length;
	}
	go_on(t, offset);
	put_cold(t);
}

static void begin(struct translation *t, struct soft_vcpu *cpu, struct soft_jit_page *page,
		  struct cold *cold)
{
	*t = (struct translation){
		.cpu = cpu,
		.jit = cpu->jit,
		.page = page,
		.cold = cold,
		.follows = NOWHERE,
		.scratch = { { NO_REG }, { NO_REG }, { NO_REG } },
	};
	t->e.at = cpu->jit->writable + cpu->jit->used;
}

void soft_translate_code(struct soft_vcpu *cpu, struct soft_jit_page *page, unsigned head)
{
	struct cold cold[MAX_COLD];
	struct translation t;

	begin(&t, cpu, page, cold);
	translate_cold(&t, head);
}

/* Where a direct jump goes in the page, or NOWHERE. */
static int target_within(const struct step *s)
{
	int64_t target = (int64_t)s->offset + s->insn.length + s->insn.imm;

	return s->insn.op[0].kind == OPERAND_IMM && s->insn.opsize == 8 && !s->insn.far_branch &&
			       within(target)
		       ? (int)target
		       : NOWHERE;
}

/* What is run after an instruction in its page, as far as that is known; or NOWHERE. */
static int next_of(const struct step *s)
{
	unsigned after = s->offset + s->insn.length;

	switch (s->insn.mnemonic) {
	case ZYDIS_MNEMONIC_JMP:
	case ZYDIS_MNEMONIC_CALL: return target_within(s);
	case ZYDIS_MNEMONIC_RET: return NOWHERE;
	default: return after < SOFT_PAGE ? (int)after : NOWHERE;
	}
}

/*
 * The instructions of a hot block; each has cold code. A short loop is there several times: then
 * its rounds share look-ups.
 */
static unsigned gather(struct translation *t, struct step *steps, unsigned head)
{
	uint32_t *at = t->page->at;
	uint64_t seen[SOFT_PAGE / 64] = {};
	int offset = head;
	unsigned n = 0, rounds = 1;

	while (n < MAX_BLOCK && offset >= 0 && !(seen[offset / 64] & BIT(offset % 64))) {
		struct step *s = &steps[n];

		if (!at[offset])
			soft_translate_code(t->cpu, t->page, offset);
		if ((at[offset] & JIT_SPANS) || !decode_step(t, s, offset))
			break;
		seen[offset / 64] |= BIT(offset % 64);
		s->cold = t->jit->writable + (at[offset] & JIT_CODE);
		offset = next_of(s);
		n++;
		if (is_jcc(&s->d.insn) && offset >= 0 && target_within(s) == (int)head &&
		    n / rounds <= MAX_LOOP && rounds < MAX_ROUNDS) {
			offset = head;
			rounds++;
			memset(seen, 0, sizeof(seen));
		}
		s->follows = offset;
	}
	/* What is not in the block is jumped to. */
	steps[n - 1].follows = NOWHERE;
	return n;
}

uint32_t soft_translate_hot(struct soft_vcpu *cpu, struct soft_jit_page *page, unsigned head,
			    uint32_t start)
{
	struct soft_jit *jit = cpu->jit;
	struct step steps[MAX_BLOCK];
	struct cold cold[MAX_COLD];
	struct translation t;
	unsigned n;

	begin(&t, cpu, page, cold);
	n = gather(&t, steps, head);
	for (unsigned i = 0; i < n; i++)
		if (steps[i].offset == head)
			steps[i].cold = jit->writable + start + JIT_CALL_SIZE;
	translate_plan_groups(&t, steps, n);
	t.hot = true;
	start = jit->used;
	t.e.at = jit->writable + start;
	page->at[head] = start | JIT_FAST;
	for (unsigned i = 0; i < n && !t.ended; i++) {
		t.follows = steps[i].follows;
		instruction(&t, &steps[i]);
	}
	go_on(&t, after(&t));
	put_cold(&t);
	return start;
}

uint32_t soft_translate_span(struct soft_vcpu *cpu, struct soft_jit_page *page, unsigned offset,
			     const struct soft_jit_page *second)
{
	struct soft_jit *jit = cpu->jit;
	unsigned n = SOFT_PAGE - offset;
	uint8_t bytes[SOFT_MAX_INSN];
	struct cold cold[MAX_COLD];
	struct step s = { .offset = offset };
	struct translation t;
	uint32_t start = jit->used;

	memcpy(bytes, page->host + offset, n);
	memcpy(bytes + n, second->host, SOFT_MAX_INSN - n);
	soft_decode(cpu, bytes, SOFT_MAX_INSN, &s.insn, &s.d);
	begin(&t, cpu, page, cold);
	instruction(&t, &s);
	go_on(&t, offset + s.insn.length);
	put_cold(&t);
	return start;
}
