/*
 * Differential tests: making an instruction meaningful.
 *
 * An instruction with random registers would fault. So registers that form an address get the
 * value, before the block begins, that makes the operand lie where we want it: mostly in writable
 * memory, now and then across pages, in the read-only page, where nothing is, at a non-canonical
 * address. A register can be given a value only once, and only while no earlier instruction of the
 * block has changed it; after that displacements are adjusted, or the instruction is refused.
 */
#include "generator.h"

#define STACK_ROOM 0x400u

int gen_register(ZydisRegister reg)
{
	switch (ZydisRegisterGetClass(reg)) {
	case ZYDIS_REGCLASS_GPR8:
	case ZYDIS_REGCLASS_GPR16:
	case ZYDIS_REGCLASS_GPR32:
	case ZYDIS_REGCLASS_GPR64:
		return ZydisRegisterGetId(
			ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg));
	default: return -1;
	}
}

static bool is_unknown(const struct gen *g, int reg)
{
	return g->written & ~g->near & BIT(reg);
}

static bool assign(struct gen *g, int reg, uint64_t value)
{
	if ((g->assigned | g->written) & BIT(reg))
		return false;
	g->assigned |= BIT(reg);
	g->c->in.gpr[reg] = value;
	return true;
}

/* Puts a value into memory; false when the address is not where that can be done. */
static bool poke(struct gen *g, uint64_t address, uint64_t value)
{
	struct diff_case *c = g->c;

	if (address < RW || address > DATA_END - 8 || c->n_pokes == MAX_POKES)
		return false;
	c->pokes[c->n_pokes++] = (struct diff_poke){ address - RW, value };
	return true;
}

/* --- Where operands lie ---- */

/* Across the border at `at`, as far as an operand of that size can. */
static uint64_t across(struct gen *g, uint64_t at, unsigned size)
{
	return size > 1 ? at - 1 - rng_below(&g->r, size - 1) : at - rng_below(&g->r, 2);
}

static uint64_t aligned_in(struct gen *g, uint64_t from, unsigned room, unsigned size)
{
	unsigned unit = size & (size - 1) || size > 64 ? 16 : size ? size : 1;

	return from + rng_below(&g->r, (room - size) / unit + 1) * unit;
}

static uint64_t not_there(struct gen *g, unsigned size)
{
	switch (rng_below(&g->r, 8)) {
	case 0:
	case 1: return RW - PAGE + rng_below(&g->r, PAGE - size);
	case 2:
	case 3: return DATA_END + rng_below(&g->r, PAGE);
	case 4: return USER_END + (rng_next(&g->r) >> 18);
	case 5: return across(g, USER_END, size > 8 && size != 16 ? 1 : size);
	case 6: return -(uint64_t)rng_below(&g->r, 1 << 20);
	default: return rng_below(&g->r, PAGE);
	}
}

static uint64_t target_for(struct gen *g, unsigned size)
{
	unsigned p = rng_below(&g->r, 100);

	if (g->careful && p >= 80 && rng_percent(&g->r, 85))
		p = 0;
	if (p < 62)
		return aligned_in(g, RW, RW_SIZE, size);
	if (p < 74 && size < 16)
		return RW + rng_below(&g->r, RW_SIZE - size);
	if (p < 80)
		return size < 16 ? across(g, RW + PAGE, size)
				 : RW + PAGE - 16 * (1 + rng_below(&g->r, 1 + size / 16));
	if (p < 83)
		return RW + rng_below(&g->r, RW_SIZE - size);
	if (p < 88)
		return aligned_in(g, RO, PAGE, size);
	if (p < 91)
		return across(g, RO, size);
	if (p < 93)
		return across(g, DATA_END, size);
	if (p < 95)
		return across(g, RW, size);
	return not_there(g, size);
}

/* Locked operations across cache lines are slow; some hosts punish them. */
static uint64_t locked_target(struct gen *g, unsigned size)
{
	uint64_t target = target_for(g, size);

	if ((target & 63) + size > 64 && rng_percent(&g->r, 95))
		target &= ~(uint64_t)15;
	return target;
}

static uint64_t stack_target(struct gen *g, unsigned size)
{
	uint64_t target = RW + STACK_ROOM + 8 * rng_below(&g->r, (RW_SIZE - 2 * STACK_ROOM) / 8);

	if (rng_percent(&g->r, 88))
		return target;
	if (rng_percent(&g->r, 40))
		return target + rng_below(&g->r, 8);
	return target_for(g, size);
}

/* --- Explicit operands ---- */

static uint64_t segment_base(const ZydisDecodedOperand *op)
{
	if (op->mem.segment == ZYDIS_REGISTER_FS)
		return FS_BASE;
	return op->mem.segment == ZYDIS_REGISTER_GS ? GS_BASE : 0;
}

/* Makes the displacement what it is plus delta; false when there is none, or it does not fit. */
static bool adjust(struct candidate *k, uint64_t delta)
{
	unsigned offset = k->insn.raw.disp.offset;

	if (k->insn.raw.disp.size == 64) {
		uint64_t disp = k->insn.raw.disp.value + delta;

		memcpy(k->bytes + offset, &disp, 8);
		return true;
	}
	if (k->insn.raw.disp.size == 32) {
		int64_t wide = k->insn.raw.disp.value + delta;
		int32_t disp = wide;

		if (disp != wide && k->insn.address_width != 32)
			return false;
		memcpy(k->bytes + offset, &disp, 4);
		return true;
	}
	return delta == 0;
}

struct form {
	int base, index;
	unsigned scale, size;
	uint64_t disp, segment, mask;
};

/* The address that the registers and the displacement make now. */
static uint64_t effective(const struct gen *g, const struct form *f)
{
	uint64_t address = f->disp;

	if (f->base >= 0)
		address += g->c->in.gpr[f->base];
	if (f->index >= 0)
		address += g->c->in.gpr[f->index] * f->scale;
	return f->segment + (address & f->mask);
}

static bool in_data(uint64_t address, unsigned size)
{
	return address >= RW && address + size <= DATA_END;
}

/* All registers of the address have values: the displacement must do it. */
static bool aim_by_displacement(struct gen *g, struct candidate *k, struct form *f, uint64_t target)
{
	uint64_t now = effective(g, f);

	if (k->insn.raw.disp.size >= 32 && adjust(k, (target - now) & f->mask)) {
		k->aimed = target;
		return true;
	}
	k->aimed = now;
	return in_data(now, f->size);
}

static uint64_t index_value(struct gen *g)
{
	if (rng_percent(&g->r, 50))
		return rng_value(&g->r);
	return (uint64_t)rng_below(&g->r, 256) - 128;
}

static bool aim_by_registers(struct gen *g, struct candidate *k, struct form *f, uint64_t target)
{
	uint64_t offset = target - f->segment, junk = 0;

	if (f->mask != UINT64_MAX) {
		if (offset & ~f->mask) /* out of reach */
			offset = (target = aligned_in(g, RW, RW_SIZE, f->size)) - f->segment;
		junk = rng_percent(&g->r, 50) ? rng_next(&g->r) & ~f->mask : 0;
	}
	if (f->base >= 0 && f->index >= 0 && f->index != f->base)
		assign(g, f->index, index_value(g));
	if (f->base >= 0 && f->index == f->base) {
		if (!assign(g, f->base, (offset - f->disp) / (1 + f->scale)))
			return aim_by_displacement(g, k, f, target);
	} else if (f->base >= 0) {
		uint64_t index = f->index >= 0 ? g->c->in.gpr[f->index] * f->scale : 0;

		if (!assign(g, f->base, ((offset - f->disp - index) & f->mask) | junk))
			return aim_by_displacement(g, k, f, target);
	} else if (!assign(g, f->index, ((offset - f->disp) / f->scale & f->mask) | junk)) {
		return aim_by_displacement(g, k, f, target);
	}
	k->aimed = effective(g, f);
	return true;
}

static bool is_known_exactly(const struct gen *g, const struct form *f)
{
	return !(f->base >= 0 && g->written & BIT(f->base)) &&
	       !(f->index >= 0 && g->written & BIT(f->index));
}

static bool aim(struct gen *g, struct candidate *k, const ZydisDecodedOperand *op, uint64_t target)
{
	struct form f = {
		.base = gen_register(op->mem.base),
		.index = gen_register(op->mem.index),
		.scale = op->mem.scale ? op->mem.scale : 1,
		.size = op->size / 8,
		.disp = op->mem.disp.value,
		.segment = segment_base(op),
		.mask = k->insn.address_width == 64 ? UINT64_MAX : UINT32_MAX,
	};

	if (op->mem.base == ZYDIS_REGISTER_RIP || op->mem.base == ZYDIS_REGISTER_EIP)
		f.disp += g->c->address + g->n + k->insn.length;
	if (f.segment && g->bases_written)
		return false;
	if ((f.base >= 0 && is_unknown(g, f.base)) || (f.index >= 0 && is_unknown(g, f.index)))
		return rng_percent(&g->r, 3);
	if (f.base < 0 && f.index < 0)
		return aim_by_displacement(g, k, &f, target);
	if (!aim_by_registers(g, k, &f, target))
		return false;
	if (!is_known_exactly(g, &f)) {
		bool ok = in_data(k->aimed, f.size);

		k->aimed = 0;
		return ok;
	}
	return true;
}

/* --- What instructions expect of registers and memory ---- */

static void add_fixup(struct gen *g, struct fixup f)
{
	f.insn = g->c->n_insns;
	f.end = g->n; /* the instruction's length is added when it is taken */
	g->fixups[g->n_fixups++] = f;
}

/* Loops end: what counts is given a small value, and nothing in between changes it. */
static bool may_loop(struct gen *g, struct candidate *k, struct fixup *f)
{
	unsigned first = g->c->n_insns;

	switch (k->insn.mnemonic) {
	case ZYDIS_MNEMONIC_LOOP:
	case ZYDIS_MNEMONIC_LOOPE:
	case ZYDIS_MNEMONIC_LOOPNE: break;
	default: return false;
	}
	while (first > 0 && !(g->writes[first - 1] & BIT(RCX)))
		first--;
	if (first == g->c->n_insns || (g->written & BIT(RCX)) || !rng_percent(&g->r, 75) ||
	    !assign(g, RCX,
		    (k->insn.address_width == 32 ? rng_next(&g->r) << 32 : 0) |
			    (1 + rng_below(&g->r, 6))))
		return false;
	f->backward = true;
	f->first = first;
	return true;
}

static void arrange_relative(struct gen *g, struct candidate *k)
{
	struct fixup f = { .kind = FIX_RELATIVE,
			   .at = g->n + k->insn.raw.imm[0].offset,
			   .size = k->insn.raw.imm[0].size / 8 };

	may_loop(g, k, &f);
	add_fixup(g, f);
}

/* JMP and CALL by register or memory, RET. */
static bool arrange_indirect(struct gen *g, struct candidate *k)
{
	const ZydisDecodedOperand *op = &k->ops[0];

	if (k->insn.operand_count_visible && op->type == ZYDIS_OPERAND_TYPE_REGISTER) {
		int reg = gen_register(op->reg.value);

		if (!assign(g, reg, 0))
			return rng_percent(&g->r, 10);
		add_fixup(g, (struct fixup){ .kind = FIX_REGISTER, .reg = reg });
		return true;
	}
	if (k->aimed && rng_percent(&g->r, 95) && poke(g, k->aimed, 0))
		add_fixup(g, (struct fixup){ .kind = FIX_POKE, .poke = g->c->n_pokes - 1 });
	return true;
}

static bool arrange_flow(struct gen *g, struct candidate *k)
{
	if (k->insn.meta.branch_type == ZYDIS_BRANCH_TYPE_NONE)
		return true;
	if (k->insn.raw.imm[0].size && k->insn.raw.imm[0].is_relative) {
		arrange_relative(g, k);
		return true;
	}
	return arrange_indirect(g, k);
}

static void arrange_division(struct gen *g, struct candidate *k)
{
	unsigned size = k->ops[0].size;

	if (rng_percent(&g->r, 15))
		return;
	if (size == 8)
		assign(g, RAX, rng_next(&g->r) >> (48 + rng_below(&g->r, 10)));
	else if (rng_percent(&g->r, 70))
		assign(g, RDX, rng_percent(&g->r, 70) ? 0 : rng_below(&g->r, 100));
	else
		assign(g, RDX, -1);
}

/* Not with FS and GS: AMD's processors check a sum that these are not yet in. */
static bool arrange_bits(struct gen *g, struct candidate *k)
{
	int reg = gen_register(k->ops[1].reg.value);

	if (k->ops[0].type != ZYDIS_OPERAND_TYPE_MEMORY ||
	    k->ops[1].type != ZYDIS_OPERAND_TYPE_REGISTER)
		return true;
	if (segment_base(&k->ops[0]))
		return false;
	if (rng_percent(&g->r, 90))
		assign(g, reg, (uint64_t)rng_below(&g->r, 4000) - 2000);
	return true;
}

/* Half of them find what they look for. */
static void arrange_exchange(struct gen *g, struct candidate *k)
{
	uint64_t low = rng_value(&g->r), high = rng_value(&g->r);

	if (k->ops[0].type != ZYDIS_OPERAND_TYPE_MEMORY || !k->aimed || rng_percent(&g->r, 40))
		return;
	switch (k->insn.mnemonic) {
	case ZYDIS_MNEMONIC_CMPXCHG:
		if (poke(g, k->aimed, low))
			assign(g, RAX, low);
		break;
	case ZYDIS_MNEMONIC_CMPXCHG8B:
		if (poke(g, k->aimed, high << 32 | (uint32_t)low)) {
			assign(g, RAX, low);
			assign(g, RDX, high);
		}
		break;
	default:
		if (poke(g, k->aimed, low) && poke(g, k->aimed + 8, high)) {
			assign(g, RAX, low);
			assign(g, RDX, high);
		}
	}
}

static void ignore(struct gen *g, uint64_t address, unsigned length)
{
	struct diff_case *c = g->c;
	int64_t offset = address - RW;

	if (offset < 0) {
		length = offset + length > 0 ? offset + length : 0;
		offset = 0;
	}
	if (offset < RW_SIZE && c->n_ignored < MAX_IGNORE)
		c->ignored[c->n_ignored].offset = offset,
		c->ignored[c->n_ignored++].length = length;
}

/* The image has addresses of instructions and operands in it, which are not compared. */
static bool arrange_save(struct gen *g, struct candidate *k, unsigned from, unsigned length)
{
	if (!k->aimed)
		return false;
	ignore(g, k->aimed + from, length);
	g->last = true;
	return true;
}

static bool arrange_environment(struct gen *g, struct candidate *k)
{
	return k->insn.operand_width == 16 ? arrange_save(g, k, 6, 8) : arrange_save(g, k, 12, 16);
}

static void arrange_popf(struct gen *g)
{
	uint64_t flags = rng_next(&g->r);

	if (!rng_percent(&g->r, 4))
		flags &= ~FLAG_TF;
	if (!(g->written & BIT(RSP)))
		poke(g, g->c->in.gpr[RSP], flags);
}

static bool arrange_special(struct gen *g, struct candidate *k)
{
	switch (k->insn.mnemonic) {
	case ZYDIS_MNEMONIC_DIV:
	case ZYDIS_MNEMONIC_IDIV: arrange_division(g, k); break;
	case ZYDIS_MNEMONIC_BT:
	case ZYDIS_MNEMONIC_BTC:
	case ZYDIS_MNEMONIC_BTR:
	case ZYDIS_MNEMONIC_BTS: return arrange_bits(g, k);
	case ZYDIS_MNEMONIC_CMPXCHG:
	case ZYDIS_MNEMONIC_CMPXCHG8B:
	case ZYDIS_MNEMONIC_CMPXCHG16B: arrange_exchange(g, k); break;
	case ZYDIS_MNEMONIC_FNSTENV:
	case ZYDIS_MNEMONIC_FNSAVE: return arrange_environment(g, k);
	case ZYDIS_MNEMONIC_FXSAVE:
	case ZYDIS_MNEMONIC_FXSAVE64:
		return arrange_save(g, k, FX_FOP, 18) && arrange_save(g, k, FX_MXCSR + 4, 4);
	case ZYDIS_MNEMONIC_FXRSTOR:
	case ZYDIS_MNEMONIC_FXRSTOR64:
		if (k->aimed && rng_percent(&g->r, 85))
			poke(g, k->aimed + FX_MXCSR, rng_next(&g->r) & 0xffff);
		break;
	case ZYDIS_MNEMONIC_LDMXCSR:
		if (k->aimed && rng_percent(&g->r, 85))
			poke(g, k->aimed, rng_next(&g->r) & 0xffff);
		break;
	case ZYDIS_MNEMONIC_POPF:
	case ZYDIS_MNEMONIC_POPFQ: arrange_popf(g); break;
	case ZYDIS_MNEMONIC_WRFSBASE:
	case ZYDIS_MNEMONIC_WRGSBASE: g->bases_written = g->c->sets_base = true; break;
	case ZYDIS_MNEMONIC_LEAVE: assign(g, RBP, stack_target(g, 8)); break;
	case ZYDIS_MNEMONIC_ENTER: assign(g, RBP, stack_target(g, 8)); break;
	default: break;
	}
	return true;
}

/* Operands at a register that the instruction does not name. */
static bool aim_hidden(struct gen *g, struct candidate *k, const ZydisDecodedOperand *op)
{
	int base = gen_register(op->mem.base);
	unsigned size = op->size / 8;
	uint64_t target;

	if (base < 0)
		return true;
	if (is_unknown(g, base))
		return rng_percent(&g->r, 3);
	if (base == RSP)
		target = stack_target(g, size);
	else
		target = target_for(g, size) - segment_base(op);
	if (k->insn.address_width == 32)
		target = (uint32_t)target | (rng_percent(&g->r, 50) ? rng_next(&g->r) << 32 : 0);
	assign(g, base, target);
	if (!k->aimed && !(g->written & BIT(base)))
		k->aimed = segment_base(op) + g->c->in.gpr[base];
	return true;
}

#define REPEATED (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE)

static void arrange_repeated(struct gen *g, struct candidate *k)
{
	uint64_t count = rng_below(&g->r, 20);

	if (rng_percent(&g->r, 8))
		count = rng_below(&g->r, 700);
	if (k->insn.address_width == 32 && rng_percent(&g->r, 50))
		count |= rng_next(&g->r) << 32;
	assign(g, RCX, count);
}

static bool is_large(const ZydisDecodedInstruction *insn)
{
	switch (insn->mnemonic) {
	case ZYDIS_MNEMONIC_FLDENV:
	case ZYDIS_MNEMONIC_FNSAVE:
	case ZYDIS_MNEMONIC_FNSTENV:
	case ZYDIS_MNEMONIC_FRSTOR:
	case ZYDIS_MNEMONIC_FXRSTOR:
	case ZYDIS_MNEMONIC_FXRSTOR64:
	case ZYDIS_MNEMONIC_FXSAVE:
	case ZYDIS_MNEMONIC_FXSAVE64: return true;
	default: return false;
	}
}

bool gen_arrange(struct gen *g, struct candidate *k)
{
	k->aimed = 0;
	g->c->loose_cr2 |= is_large(&k->insn);
	if (k->insn.attributes & REPEATED)
		arrange_repeated(g, k);
	for (unsigned i = 0; i < k->insn.operand_count; i++) {
		const ZydisDecodedOperand *op = &k->ops[i];
		unsigned size = op->size / 8;

		if (op->type != ZYDIS_OPERAND_TYPE_MEMORY || op->mem.type == ZYDIS_MEMOP_TYPE_AGEN)
			continue;
		if (op->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN) {
			if (!aim_hidden(g, k, op))
				return false;
		} else if (!aim(g, k, op,
				k->insn.attributes & ZYDIS_ATTRIB_HAS_LOCK ? locked_target(g, size)
									   : target_for(g, size))) {
			return false;
		}
	}
	return arrange_special(g, k) && arrange_flow(g, k);
}
