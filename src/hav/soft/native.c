/*
 * Software backend: instructions the host's processor does.
 *
 * Guest and host speak the same language, so nothing computes like the instruction itself,
 *undefined flags included. A stub is a few instructions of host code around it:
 *
 *	load the guest registers it uses into the same host registers
 *	load the guest's arithmetic flags, if it needs them
 *	the instruction
 *	store what it may have changed
 *
 * The guest's x87 and SSE registers are in the host's anyway (soft_fpu_take()).
 *
 * It is encoded anew: its memory operand is replaced by [a register], which holds a host address
 *that soft_span() checked; RSP by another register, as the host needs its own. Stubs that come out
 * as the same bytes are one.
 *
 * A stub may fault (division, an unaligned SSE operand, unmasked floating-point exceptions, an
 *instruction the host does not have). The host's signal handler then leaves the stub by
 *soft_stub_fault, no guest register having been stored, and the fault becomes the guest's. A fault
 *anywhere else goes to the handler that was there before ours.
 *
 * Stubs are written through one mapping of a memfd and run in another: no page is both writable and
 *executable.
 */
#include "hav/soft/decode.h"

#include "base/error.h"
#include "base/log.h"
#include "base/util.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/mman.h>
#include <ucontext.h>

#define ARITHMETIC (RFLAGS_CF | RFLAGS_PF | RFLAGS_AF | RFLAGS_ZF | RFLAGS_SF | RFLAGS_OF)
#define MAX_STUB   512

/* In FXSAVE's image (Intel SDM vol. 1 §10.5.1). */
#define FX_FIP     8
#define FX_FDP     16
#define FX_MXCSR   24

#define HOST_MXCSR 0x1f80u
#define MXCSR_MM   BIT(17)

/* int soft_stub_call(cpu, memory, stub): 0, or 1 + the number of the exception. */
int soft_stub_call(struct soft_vcpu *cpu, void *memory, const void *stub);
extern const char soft_stub_fault[];

__asm__(".text\n"
	".globl soft_stub_call, soft_stub_fault\n"
	".hidden soft_stub_call, soft_stub_fault\n"
	"soft_stub_call:\n"
	"	push %rbx\n"
	"	push %rbp\n"
	"	push %r12\n"
	"	push %r13\n"
	"	push %r14\n"
	"	push %r15\n"
	"	mov %rsp, (%rdi)\n"
	"	call *%rdx\n"
	"	xor %eax, %eax\n"
	"1:	pop %r15\n"
	"	pop %r14\n"
	"	pop %r13\n"
	"	pop %r12\n"
	"	pop %rbp\n"
	"	pop %rbx\n"
	"	ret\n"
	/* rdi: &cpu->frame; eax: what to return. */
	"soft_stub_fault:\n"
	"	mov (%rdi), %rsp\n"
	"	jmp 1b\n");

_Static_assert(offsetof(struct soft_stub_frame, host_rsp) == 0, "soft_stub_call");

#define OFFSET_GPR(n) (int)(offsetof(struct soft_stub_frame, gpr) + 8 * (n))
#define OFFSET(field) (int)offsetof(struct soft_stub_frame, field)

/* --- Faults ---- */

/* Whose code this thread runs just now. */
static __thread struct soft_vcpu *running;

void soft_native_running(struct soft_vcpu *cpu)
{
	running = cpu;
	atomic_signal_fence(memory_order_seq_cst);
}

static struct sigaction previous[NSIG];

static void on_fault(int signal, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	greg_t *regs = uc->uc_mcontext.gregs;
	struct soft_vcpu *cpu = running;
	unsigned trap = regs[REG_TRAPNO];
	uint64_t to, rcx;

	if (cpu && soft_in_stubs(&cpu->stubs, regs[REG_RIP]) && trap != EXC_PF) {
		regs[REG_RIP] = (greg_t)soft_stub_fault;
		regs[REG_RDI] = (greg_t)&cpu->frame;
		regs[REG_RAX] = trap + 1;
		return;
	}
	if (cpu && trap != EXC_PF && soft_jit_fault(cpu, regs[REG_RIP], &to, &rcx)) {
		regs[REG_RIP] = to;
		regs[REG_RCX] = rcx;
		return;
	}
	if (previous[signal].sa_flags & SA_SIGINFO)
		previous[signal].sa_sigaction(signal, info, context);
	else if (previous[signal].sa_handler != SIG_DFL && previous[signal].sa_handler != SIG_IGN)
		previous[signal].sa_handler(signal);
	else
		sigaction(signal, &previous[signal],
			  NULL); /* it happens again, and ends the process */
}

/* #syscalls:vcpu rt_sigreturn rt_sigaction */
static void install_handlers(void)
{
	static const int signals[] = { SIGFPE, SIGSEGV, SIGILL, SIGBUS };
	struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER };

	for (unsigned i = 0; i < ARRAY_SIZE(signals); i++)
		sigaction(signals[i], &action, &previous[signals[i]]);
}

/* Which bits of MXCSR there are (Intel SDM vol. 1 §11.6.6). */
static uint32_t mxcsr_mask = 0xffbf;

static void find_mxcsr_mask(void)
{
	uint8_t fx[512] __attribute__((aligned(16)));
	uint32_t mask;

	__asm__ volatile("fxsave64 %0" : "=m"(fx));
	memcpy(&mask, fx + FX_MXCSR + 4, sizeof(mask));
	if (mask)
		mxcsr_mask = mask;
}

uint32_t soft_mxcsr_mask(void)
{
	return mxcsr_mask;
}

static void init(void)
{
	install_handlers();
	find_mxcsr_mask();
}

void soft_native_init(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, init);
}

/* --- Room for stubs ---- */

int soft_stubs_create(struct soft_stubs *stubs, struct error **err)
{
	int fd AUTO_CLOSE = memfd_create("revirt-stubs", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, SOFT_STUBS_SIZE) < 0)
		goto fail;
	stubs->writable = mmap(NULL, SOFT_STUBS_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (stubs->writable == MAP_FAILED)
		goto fail_map;
	stubs->code = mmap(NULL, SOFT_STUBS_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	if (stubs->code == MAP_FAILED)
		goto fail_code;
	stubs->hash = xcalloc(SOFT_STUBS_HASH, sizeof(*stubs->hash));
	return 0;
fail_code:
	munmap(stubs->writable, SOFT_STUBS_SIZE);
fail_map:
	stubs->writable = NULL;
fail:
	error_set_errno(err, errno, "cannot make room for translated code");
	return -1;
}

void soft_stubs_destroy(struct soft_stubs *stubs)
{
	if (!stubs->writable)
		return;
	munmap(stubs->writable, SOFT_STUBS_SIZE);
	munmap((void *)stubs->code, SOFT_STUBS_SIZE);
	free(stubs->hash);
}

static uint32_t hash_bytes(const uint8_t *bytes, unsigned n)
{
	uint32_t h = 2166136261u;

	for (unsigned i = 0; i < n; i++)
		h = (h ^ bytes[i]) * 16777619u;
	return h;
}

/* Where in hash a stub of these bytes is or would be. */
static uint32_t place_of(const struct soft_stubs *stubs, const uint8_t *bytes, unsigned n)
{
	uint32_t h = hash_bytes(bytes, n) % SOFT_STUBS_HASH;

	for (; stubs->hash[h]; h = (h + 1) % SOFT_STUBS_HASH) {
		const uint8_t *stub = stubs->writable + stubs->hash[h];
		uint16_t length;

		memcpy(&length, stub - sizeof(length), sizeof(length));
		if (length == n && memcmp(stub, bytes, n) == 0)
			break;
	}
	return h;
}

/* Decoded instructions name stubs: they go with them. The one under way is not looked at again. */
static void flush_stubs(struct soft_vcpu *cpu)
{
	struct soft_stubs *stubs = &cpu->stubs;

	soft_code_flush(cpu);
	memset(stubs->hash, 0, SOFT_STUBS_HASH * sizeof(*stubs->hash));
	stubs->used = stubs->n = 0;
}

/* The stub with these bytes. Stubs are kept with their length before them. */
static const void *keep(struct soft_vcpu *cpu, const uint8_t *bytes, unsigned n)
{
	struct soft_stubs *stubs = &cpu->stubs;
	uint16_t length = n;
	uint32_t h, at;

	if (stubs->used + MAX_STUB + 18 > SOFT_STUBS_SIZE || stubs->n == SOFT_STUBS_HASH / 2)
		flush_stubs(cpu);
	h = place_of(stubs, bytes, n);
	if (!stubs->hash[h]) {
		at = ALIGN_UP(stubs->used + sizeof(length), 16);
		memcpy(stubs->writable + at - sizeof(length), &length, sizeof(length));
		memcpy(stubs->writable + at, bytes, n);
		stubs->used = at + n;
		stubs->hash[h] = at;
		stubs->n++;
	}
	return stubs->code + stubs->hash[h];
}

/* --- Making a stub ---- */

struct emitter {
	uint8_t bytes[MAX_STUB];
	unsigned n;
};

static void emit(struct emitter *e, unsigned n, const uint8_t *bytes)
{
	memcpy(e->bytes + e->n, bytes, n);
	e->n += n;
}
#define EMIT(e, ...) emit(e, sizeof((uint8_t[]){ __VA_ARGS__ }), (uint8_t[]){ __VA_ARGS__ })

/* op reg, [base + disp32] with 64-bit operands; escape: 0x0f before op. */
static void emit_memory(struct emitter *e, bool escape, uint8_t op, unsigned reg, unsigned base,
			int disp)
{
	EMIT(e, 0x48 | (reg >> 3) << 2 | base >> 3);
	if (escape)
		EMIT(e, 0x0f);
	EMIT(e, op, 0x80 | (reg & 7) << 3 | (base & 7));
	if ((base & 7) == RSP)
		EMIT(e, 0x24);
	emit(e, 4, (const uint8_t *)&disp);
}

static void emit_move(struct emitter *e, unsigned to, unsigned from)
{
	EMIT(e, 0x48 | (from >> 3) << 2 | to >> 3, 0x89, 0xc0 | (from & 7) << 3 | (to & 7));
}

/* push [base + disp], pop [base + disp] */
static void emit_push(struct emitter *e, unsigned base, int disp)
{
	emit_memory(e, false, 0xff, 6, base, disp);
}
static void emit_pop(struct emitter *e, unsigned base, int disp)
{
	emit_memory(e, false, 0x8f, 0, base, disp);
}

struct plan {
	uint16_t used, written; /* guest registers, a bit each */
	bool high_byte;
	unsigned context, memory, rsp; /* host registers */
	bool loads_flags, stores_flags;
};

static unsigned pick(uint16_t *taken, const uint8_t *candidates, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (!(*taken & BIT(candidates[i]))) {
			*taken |= BIT(candidates[i]);
			return candidates[i];
		}
	return NO_REG;
}

static bool plan_registers(const struct soft_decoded *d, struct plan *p)
{
	static const uint8_t high[] = { R11, R10, R9, R8, R15, R14, R13, R12 };
	/* Without a REX prefix, which AH and the like do not go with. */
	static const uint8_t low[] = { RSI, RBX, RBP, RDX, RCX, RAX };
	uint16_t taken = BIT(RSP) | BIT(RDI);

	for (unsigned i = 0; i < d->insn.operand_count; i++) {
		const ZydisDecodedOperand *op = &d->ops[i];
		ZydisRegister reg = op->reg.value;
		unsigned n;

		if (op->type != ZYDIS_OPERAND_TYPE_REGISTER)
			continue;
		switch (ZydisRegisterGetClass(reg)) {
		case ZYDIS_REGCLASS_GPR8:
		case ZYDIS_REGCLASS_GPR16:
		case ZYDIS_REGCLASS_GPR32:
		case ZYDIS_REGCLASS_GPR64: break;
		case ZYDIS_REGCLASS_FLAGS:
		case ZYDIS_REGCLASS_X87:
		case ZYDIS_REGCLASS_MMX:
		case ZYDIS_REGCLASS_XMM: continue;
		default:
			/* Control words of the FPU are in fx; others are not the host's business.
			 */
			if (reg == ZYDIS_REGISTER_MXCSR || reg == ZYDIS_REGISTER_X87CONTROL ||
			    reg == ZYDIS_REGISTER_X87STATUS || reg == ZYDIS_REGISTER_X87TAG)
				continue;
			return false;
		}
		n = soft_gpr_of(reg);
		if (n == RSP && i >= d->insn.operand_count_visible)
			return false;
		p->high_byte |= reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH;
		p->used |= BIT(n);
		if (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
			p->written |= BIT(n);
	}
	taken |= p->used;
	p->context = pick(&taken, high, ARRAY_SIZE(high));
	p->memory = pick(&taken, low, ARRAY_SIZE(low));
	p->rsp = p->high_byte ? pick(&taken, low, ARRAY_SIZE(low))
			      : pick(&taken, high, ARRAY_SIZE(high));
	return p->context != NO_REG && p->memory != NO_REG && p->rsp != NO_REG;
}

static void plan_flags(const ZydisDecodedInstruction *insn, struct plan *p)
{
	const ZydisAccessedFlags *flags = insn->cpu_flags;
	uint32_t sets;

	if (!flags)
		return;
	sets = (flags->modified | flags->set_0 | flags->set_1 | flags->undefined) & ARITHMETIC;
	p->stores_flags = sets;
	/* Also where some are kept as they were: those not set, those undefined (which on some
	 * processors means that), and all when a shift's count is 0. */
	p->loads_flags = (flags->tested & ARITHMETIC) || (sets && sets != ARITHMETIC) ||
			 (flags->undefined & ARITHMETIC) ||
			 insn->meta.category == ZYDIS_CATEGORY_SHIFT ||
			 insn->meta.category == ZYDIS_CATEGORY_ROTATE;
}

static ZydisRegister substitute(ZydisRegister reg, unsigned n)
{
	return ZydisRegisterEncode(
		ZydisRegisterGetClass(reg),
		ZydisRegisterGetClass(reg) == ZYDIS_REGCLASS_GPR8 && n >= RSP ? n + 4 : n);
}

/* The instruction itself, with its operands where the stub has them. */
static bool emit_instruction(struct emitter *e, const struct soft_decoded *d, const struct plan *p)
{
	ZydisEncoderRequest req;
	ZyanUSize length = MAX_STUB - e->n;

	if (!ZYAN_SUCCESS(ZydisEncoderDecodedInstructionToEncoderRequest(
		    &d->insn, d->ops, d->insn.operand_count_visible, &req)))
		return false;
	req.machine_mode = ZYDIS_MACHINE_MODE_LONG_64;
	req.prefixes &=
		~(ZYDIS_ATTRIB_HAS_SEGMENT | ZYDIS_ATTRIB_HAS_XACQUIRE | ZYDIS_ATTRIB_HAS_XRELEASE);
	req.address_size_hint = ZYDIS_ADDRESS_SIZE_HINT_NONE;
	for (unsigned i = 0; i < req.operand_count; i++) {
		ZydisEncoderOperand *op = &req.operands[i];

		if (op->type == ZYDIS_OPERAND_TYPE_REGISTER && soft_is_gpr(op->reg.value) &&
		    soft_gpr_of(op->reg.value) == RSP &&
		    !(op->reg.value >= ZYDIS_REGISTER_AH && op->reg.value <= ZYDIS_REGISTER_BH)) {
			op->reg.value = substitute(op->reg.value, p->rsp);
		} else if (op->type == ZYDIS_OPERAND_TYPE_MEMORY) {
			op->mem.base = ZydisRegisterEncode(ZYDIS_REGCLASS_GPR64, p->memory);
			op->mem.index = ZYDIS_REGISTER_NONE;
			op->mem.scale = 0;
			op->mem.displacement = 0;
		}
	}
	if (!ZYAN_SUCCESS(ZydisEncoderEncodeInstruction(&req, e->bytes + e->n, &length)))
		return false;
	e->n += length;
	return true;
}

static unsigned host_register(const struct plan *p, unsigned guest)
{
	return guest == RSP ? p->rsp : guest;
}

static void emit_registers(struct emitter *e, const struct plan *p, uint16_t which, uint8_t op)
{
	for (unsigned n = 0; n < 16; n++)
		if (which & BIT(n))
			emit_memory(e, false, op, host_register(p, n), p->context, OFFSET_GPR(n));
}

const void *soft_stub(struct soft_vcpu *cpu, const struct soft_decoded *d, struct soft_insn *insn)
{
	struct emitter e = { .n = 0 };
	struct plan p = { 0 };

	if (!plan_registers(d, &p))
		return NULL;
	plan_flags(&d->insn, &p);
	emit_move(&e, p.context, RDI);
	if (p.memory != RSI)
		emit_move(&e, p.memory, RSI);
	emit_registers(&e, &p, p.used, 0x8b);
	if (p.loads_flags) {
		emit_push(&e, p.context, OFFSET(arithmetic));
		EMIT(&e, 0x9d); /* popfq */
	}
	if (!emit_instruction(&e, d, &p))
		return NULL;
	if (p.stores_flags) {
		EMIT(&e, 0x9c); /* pushfq */
		emit_pop(&e, p.context, OFFSET(arithmetic));
		insn->flags |= INSN_SETS_FLAGS;
	}
	emit_registers(&e, &p, p.written, 0x89);
	EMIT(&e, 0xc3);
	return keep(cpu, e.bytes, e.n);
}

/* --- Running one ---- */

/* Bits of FSW and FCW (Intel SDM vol. 1 §8.1.3). */
#define X87_EXCEPTIONS 0x3f
#define X87_PE         (1u << 5)
#define X87_ES         (1u << 7)

/* The host's x87 noted addresses of its own; the guest is to see its own. */
void soft_fpu_save(struct soft_vcpu *cpu)
{
	static const uint32_t mxcsr = HOST_MXCSR;

	__asm__ volatile("fxsave64 %0\n\tfninit\n\tldmxcsr %1" : "=m"(cpu->frame.fx) : "m"(mxcsr));
	memcpy(cpu->frame.fx + FX_FIP, &cpu->x87_ip, 8);
	memcpy(cpu->frame.fx + FX_FDP, &cpu->x87_dp, 8);
	cpu->fpu_live = false;
}

/* MXCSR.MM: some SSE instructions do not ask for alignment then (APM vol. 1 §4.3.2). */
static bool host_decides_alignment(const struct soft_vcpu *cpu)
{
	uint32_t mxcsr;

	if (cpu->fpu_live)
		__asm__ volatile("stmxcsr %0" : "=m"(mxcsr));
	else
		memcpy(&mxcsr, cpu->frame.fx + FX_MXCSR, sizeof(mxcsr));
	return mxcsr & MXCSR_MM;
}

/* BT and the like reach beyond their operand: by this many bytes. */
static int64_t bit_offset(const struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	uint64_t bit;

	switch (insn->mnemonic) {
	case ZYDIS_MNEMONIC_BT:
	case ZYDIS_MNEMONIC_BTC:
	case ZYDIS_MNEMONIC_BTR:
	case ZYDIS_MNEMONIC_BTS: break;
	default: return 0;
	}
	if (insn->op[1].kind != OPERAND_GPR)
		return 0;
	bit = cpu->frame.gpr[insn->op[1].reg];
	switch (insn->op[1].size) {
	case 2: return ((int16_t)bit >> 4) * 2;
	case 4: return ((int32_t)bit >> 5) * 4;
	default: return ((int64_t)bit >> 6) * 8;
	}
}

static enum soft_result check_fpu(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	if (insn->mnemonic == ZYDIS_MNEMONIC_FWAIT)
		return (cpu->cr0 & CR0_TS) && (cpu->cr0 & CR0_MP) ? soft_raise(cpu, EXC_NM)
								  : SOFT_DONE;
	if (insn->flags & INSN_X87)
		return cpu->cr0 & (CR0_TS | CR0_EM) ? soft_raise(cpu, EXC_NM) : SOFT_DONE;
	if ((cpu->cr0 & CR0_EM) || ((insn->flags & INSN_SSE) && !(cpu->cr4 & CR4_OSFXSR)))
		return soft_raise(cpu, EXC_UD);
	return cpu->cr0 & CR0_TS ? soft_raise(cpu, EXC_NM) : SOFT_DONE;
}

static void note_x87(struct soft_vcpu *cpu, const struct soft_insn *insn, uint64_t linear)
{
	cpu->x87_ip = cpu->rip;
	if (insn->memory_size)
		cpu->x87_dp = linear;
}

static enum soft_result stub_fault(struct soft_vcpu *cpu, const struct soft_insn *insn,
				   unsigned vector)
{
	if (vector == EXC_UD) {
		soft_log_undefined(cpu, insn);
		return soft_raise(cpu, EXC_UD);
	}
	if (vector == EXC_XM && !(cpu->cr4 & CR4_OSXMMEXCPT))
		return soft_raise(cpu, EXC_UD);
	if (vector == EXC_GP || vector == EXC_AC)
		return soft_raise_error(cpu, vector, 0);
	return soft_raise(cpu, vector);
}

static enum soft_result run_stub(struct soft_vcpu *cpu, const struct soft_insn *insn, void *memory)
{
	int trap;

	cpu->frame.arithmetic = (cpu->rflags & ARITHMETIC) | RFLAGS_ONE;
	if (insn->flags & INSN_FPU)
		soft_fpu_take(cpu);
	running = cpu;
	atomic_signal_fence(memory_order_seq_cst);
	trap = soft_stub_call((void *)&cpu->frame, memory, insn->stub);
	atomic_signal_fence(memory_order_seq_cst);
	running = NULL;
	if (unlikely(trap))
		return stub_fault(cpu, insn, trap - 1);
	if (insn->flags & INSN_SETS_FLAGS)
		cpu->rflags = (cpu->rflags & ~(uint64_t)ARITHMETIC) |
			      (cpu->frame.arithmetic & ARITHMETIC);
	return SOFT_DONE;
}

/* Does it wait for the x87's pending exceptions, and report them? */
static bool waits(const struct soft_insn *insn)
{
	switch (insn->mnemonic) {
	case ZYDIS_MNEMONIC_FNSTCW:
	case ZYDIS_MNEMONIC_FNSTSW: return false;
	default: return insn->flags & (INSN_X87 | INSN_MMX);
	}
}

bool soft_x87_pending(struct soft_vcpu *cpu)
{
	uint16_t status;

	soft_fpu_take(cpu);
	__asm__ volatile("fnstsw %0" : "=m"(status));
	return status & X87_ES;
}

/* Has an x87 store, which just raised an exception that is not masked, left memory alone? Then only
 * an inexact result is stored all the same (Intel SDM vol. 1 §8.5). */
static bool did_not_store(const struct soft_insn *insn)
{
	uint16_t control, status;

	if ((insn->flags & (INSN_X87 | INSN_X87_CONTROL)) != INSN_X87)
		return false;
	__asm__ volatile("fnstcw %0\n\tfnstsw %1" : "=m"(control), "=m"(status));
	return status & ~control & (X87_EXCEPTIONS & ~X87_PE);
}

/* The address that the instruction itself moves on from; it may lie anywhere. */
static void *before_operand(const struct soft_span *span, int64_t offset)
{
	return (void *)((uintptr_t)span->host - offset);
}

/* With a copy of the operand, which is written back in the end; if that must wait, nothing has
 * happened. */
static enum soft_result run_bounced(struct soft_vcpu *cpu, const struct soft_insn *insn,
				    struct soft_span *span, int64_t offset)
{
	struct soft_stub_frame before;
	uint64_t rflags = cpu->rflags;
	enum soft_result r;

	soft_fpu_release(cpu);
	before = cpu->frame;
	r = run_stub(cpu, insn, before_operand(span, offset));
	if (!r && !did_not_store(insn))
		r = soft_span_done(cpu, span);
	if (r == SOFT_EXIT) {
		soft_fpu_release(cpu);
		cpu->frame = before;
		cpu->rflags = rflags;
	}
	return r;
}

static enum soft_result run_on_memory(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	unsigned access = (insn->flags & INSN_READS ? ACCESS_READ : 0) |
			  (insn->flags & INSN_WRITES ? ACCESS_WRITE : 0);
	int64_t offset = bit_offset(cpu, insn);
	uint64_t linear, at = soft_address(insn, soft_offset(cpu, insn) + offset);
	struct soft_span span;
	enum soft_result r;

	if ((insn->flags & INSN_ALIGNED) && !soft_is_aligned(cpu, insn->segment, at) &&
	    !((insn->flags & INSN_FPU) && host_decides_alignment(cpu)))
		r = soft_raise_error(cpu, EXC_GP, 0);
	else
		r = soft_linear(cpu, insn->segment, at, insn->memory_size, access, &linear);
	if (!r)
		r = soft_span(cpu, &span, linear, insn->memory_size, access);
	if (unlikely(r))
		return waits(insn) && soft_x87_pending(cpu) ? soft_raise(cpu, EXC_MF) : r;
	if (span.bounced)
		return run_bounced(cpu, insn, &span, offset);
	r = run_stub(cpu, insn, before_operand(&span, offset));
	if (!r)
		r = soft_span_done(cpu, &span);
	if (!r && (insn->flags & (INSN_X87 | INSN_X87_CONTROL)) == INSN_X87)
		note_x87(cpu, insn, linear);
	return r;
}

/* A locked operation that the host cannot do in one piece, as its operand spans pages, excludes its
 * like. */
static enum soft_result run_locked(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	uint64_t offset =
		soft_offset(cpu, insn) + bit_offset(cpu, insn) + cpu->seg[insn->segment].base;
	enum soft_result r;

	if (likely((offset & SOFT_PAGE_MASK) + insn->memory_size <= SOFT_PAGE))
		return run_on_memory(cpu, insn);
	pthread_mutex_lock(&cpu->vm->split_lock);
	r = run_on_memory(cpu, insn);
	pthread_mutex_unlock(&cpu->vm->split_lock);
	return r;
}

/* Instructions are a vCPU's own: they may be written to. */
enum soft_result soft_exec_unstubbed(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	struct soft_insn *own = (struct soft_insn *)insn;
	struct soft_decoded d;
	struct soft_insn again;

	if (soft_decode(cpu, insn->bytes, insn->length, &again, &d))
		own->stub = soft_stub(cpu, &d, own);
	own->fn = own->stub ? soft_exec_native : soft_exec_undefined;
	return own->fn(cpu, own);
}

enum soft_result soft_exec_native(struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	enum soft_result r;

	if (insn->flags & INSN_FPU) {
		r = check_fpu(cpu, insn);
		if (unlikely(r))
			return r;
	}
	if (insn->memory_size)
		return insn->flags & INSN_LOCK ? run_locked(cpu, insn) : run_on_memory(cpu, insn);
	r = run_stub(cpu, insn, NULL);
	if (!r && (insn->flags & (INSN_X87 | INSN_X87_CONTROL)) == INSN_X87)
		note_x87(cpu, insn, 0);
	return r;
}
