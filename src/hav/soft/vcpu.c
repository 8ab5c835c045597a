/*
 * Software backend: running a vCPU.
 *
 * The loop takes instructions one after the other. Whatever else may want a turn (a kick, a request
 * from another vCPU, an interrupt, single step) sets a bit in cpu->attention, the one word that is
 * looked at between two instructions.
 *
 * An exit in the middle of an instruction (a port or device is read) leaves RIP at the instruction.
 * When the caller comes back with the answer the instruction is begun anew, finds the answer in the
 * log and goes on; nothing else gets a turn before it is done.
 */
#include "hav/soft/soft.h"

#include "base/error.h"
#include "base/util.h"

#include <errno.h>
#include <sched.h>
#include <sys/mman.h>
#include <x86intrin.h>

#define DR6_BS      BIT(14)
#define DR7_LE_MASK 0xffu

enum soft_result soft_exit(struct soft_vcpu *cpu, enum hav_exit_reason reason)
{
	cpu->exit.reason = reason;
	return SOFT_EXIT;
}

uint64_t soft_tsc(const struct soft_vcpu *cpu)
{
	return __rdtsc() + cpu->tsc_offset;
}

const struct hav_cpuid *soft_cpuid(const struct soft_vcpu *cpu, uint32_t leaf, uint32_t subleaf)
{
	for (size_t i = 0; i < cpu->n_cpuid; i++)
		if (cpu->cpuid[i].leaf == leaf &&
		    (!cpu->cpuid[i].has_subleaves || cpu->cpuid[i].subleaf == subleaf))
			return &cpu->cpuid[i];
	return NULL;
}

bool soft_is_amd(const struct soft_vcpu *cpu)
{
	const struct hav_cpuid *vendor = soft_cpuid(cpu, 0, 0);

	return vendor && vendor->ebx == 0x68747541; /* "Auth" */
}

enum soft_result soft_device(struct soft_vcpu *cpu, bool io, bool write, uint64_t address,
			     void *data, unsigned size)
{
	struct soft_device_log *log = &cpu->log;
	struct soft_device_access *access;

	if (log->at < log->n) {
		access = &log->access[log->at++];
		if (!write)
			memcpy(data, access->data, size);
		return SOFT_DONE;
	}
	if (log->n == SOFT_DEVICE_LOG) {
		cpu->exit.failed.suberror = 0;
		cpu->exit.failed.text = "an instruction with too many accesses to devices";
		return soft_exit(cpu, HAV_EXIT_FAILED);
	}
	access = &log->access[log->n++];
	*access = (struct soft_device_access){ .size = size };
	if (write)
		memcpy(access->data, data, size);
	if (io) {
		cpu->exit.io.port = address;
		cpu->exit.io.size = size;
		cpu->exit.io.write = write;
		cpu->exit.io.count = 1;
		cpu->exit.io.data = access->data;
		return soft_exit(cpu, HAV_EXIT_IO);
	}
	cpu->exit.mmio.gpa = address;
	cpu->exit.mmio.size = size;
	cpu->exit.mmio.write = write;
	cpu->exit.mmio.data = access->data;
	return soft_exit(cpu, HAV_EXIT_MMIO);
}

/* As many as spinning is cheaper for than giving way is. */
#define PAUSES 64

/* #syscalls:vcpu sched_yield */
void soft_pause(struct soft_vcpu *cpu)
{
	if (++cpu->pauses < PAUSES)
		return;
	cpu->pauses = 0;
	if (atomic_load(&cpu->vm->n_vcpus) > cpu->vm->n_host)
		sched_yield();
}

/* --- Between two instructions ---- */

static enum soft_result exit_debug(struct soft_vcpu *cpu, unsigned exception, uint64_t dr6)
{
	cpu->exit.debug.exception = exception;
	cpu->exit.debug.pc = cpu->mode == 64 ? cpu->rip : (uint32_t)(cpu->seg[CS].base + cpu->rip);
	cpu->exit.debug.dr6 = dr6;
	cpu->exit.debug.dr7 = cpu->debug.dr7;
	return soft_exit(cpu, HAV_EXIT_DEBUG);
}

/* Goes to the handler; what that takes to fail, too. */
static enum soft_result delivered(struct soft_vcpu *cpu, enum soft_result r)
{
	if (r == SOFT_FAULT)
		r = soft_deliver_fault(cpu);
	if (r == SOFT_DONE)
		cpu->rip = cpu->next_rip;
	return r;
}

static bool outer_breakpoints(const struct soft_vcpu *cpu)
{
	return cpu->debug.enabled && (cpu->debug.dr7 & DR7_LE_MASK);
}

/* Instruction breakpoints at rip, a bit each. */
static unsigned breakpoints_here(const struct soft_vcpu *cpu)
{
	uint64_t at = cpu->mode == 64 ? cpu->rip : (uint32_t)(cpu->seg[CS].base + cpu->rip);
	uint64_t dr7 = outer_breakpoints(cpu) ? cpu->debug.dr7 : cpu->dr7;
	unsigned hit = 0;

	for (unsigned i = 0; i < 4; i++)
		if ((dr7 >> (2 * i) & 3) && !(dr7 >> (16 + 4 * i) & 3) &&
		    (outer_breakpoints(cpu) ? cpu->debug.dr[i] : cpu->dr[i]) == at)
			hit |= 1u << i;
	return hit;
}

/* The trap after an instruction: single step, data breakpoints. */
static enum soft_result trap(struct soft_vcpu *cpu)
{
	uint64_t what = cpu->dr6_pending;

	cpu->trap_pending = false;
	cpu->dr6_pending = 0;
	if (cpu->debug.enabled && (cpu->debug.single_step || outer_breakpoints(cpu)))
		return exit_debug(cpu, EXC_DB, what);
	cpu->dr6 |= what;
	return delivered(cpu, soft_deliver(cpu, EXC_DB, EVENT_EXCEPTION, false, 0));
}

static enum soft_result inject_exception(struct soft_vcpu *cpu)
{
	struct hav_events *e = &cpu->events;

	e->exception_pending = false;
	return delivered(cpu,
			 soft_deliver(cpu, e->exception_vector,
				      e->exception_vector == EXC_BP || e->exception_vector == EXC_OF
					      ? EVENT_SOFTWARE
					      : EVENT_EXCEPTION,
				      e->exception_has_error, e->exception_error));
}

/* An event that is due, if any: *none otherwise. */
static enum soft_result take_event(struct soft_vcpu *cpu, bool *none)
{
	struct hav_events *e = &cpu->events;
	bool shadow = cpu->shadow;

	*none = false;
	if (e->exception_pending)
		return inject_exception(cpu);
	if (cpu->trap_pending)
		return trap(cpu);
	if (e->nmi_pending && !e->nmi_masked && !shadow) {
		e->nmi_pending = false;
		e->nmi_masked = true;
		return delivered(cpu, soft_deliver(cpu, EXC_NMI, EVENT_INTERRUPT, false, 0));
	}
	if (e->interrupt_pending && (cpu->rflags & RFLAGS_IF) && !shadow) {
		e->interrupt_pending = false;
		return delivered(cpu,
				 soft_deliver(cpu, e->interrupt_vector, EVENT_INTERRUPT, false, 0));
	}
	if (cpu->tpr_lowered) {
		cpu->tpr_lowered = false;
		return soft_exit(cpu, HAV_EXIT_TPR);
	}
	if (cpu->want_window && (cpu->rflags & RFLAGS_IF) && !shadow && !e->interrupt_pending &&
	    !(cpu->debug.enabled && cpu->debug.block_interrupts))
		return soft_exit(cpu, HAV_EXIT_IRQ_WINDOW);
	*none = true;
	return SOFT_DONE;
}

/* Is every instruction to be watched? */
static bool stepping(const struct soft_vcpu *cpu)
{
	return (cpu->rflags & (RFLAGS_TF | RFLAGS_RF)) || cpu->watch || cpu->shadow_next ||
	       (cpu->debug.enabled && cpu->debug.single_step);
}

static bool waits(const struct soft_vcpu *cpu)
{
	const struct hav_events *e = &cpu->events;

	return stepping(cpu) || e->exception_pending || cpu->trap_pending ||
	       (e->nmi_pending && !e->nmi_masked) ||
	       ((e->interrupt_pending || cpu->want_window) && (cpu->rflags & RFLAGS_IF)) ||
	       cpu->tpr_lowered;
}

/* --- An instruction ---- */

static enum soft_result finish(struct soft_vcpu *cpu, enum soft_result r)
{
	if (likely(r == SOFT_DONE)) {
		cpu->rip = cpu->next_rip;
		cpu->log.n = 0;
		if (unlikely(cpu->halt)) {
			cpu->halt = false;
			return soft_exit(cpu, HAV_EXIT_HLT);
		}
		return SOFT_DONE;
	}
	if (r == SOFT_EXIT)
		return r;
	cpu->faulted = true;
	cpu->trap_pending = cpu->msr_asked = cpu->hypercall_done = false;
	cpu->dr6_pending = 0;
	cpu->log.n = cpu->log.at = 0;
	return delivered(cpu, r);
}

static uint64_t following(const struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	uint64_t rip = cpu->rip + insn->length;

	if (likely(cpu->mode == 64))
		return rip;
	return cpu->mode == 32 ? (uint32_t)rip : (uint16_t)rip;
}

enum soft_result soft_interpret(struct soft_vcpu *cpu)
{
	const struct soft_insn *insn;
	enum soft_result r;

	cpu->log.at = 0;
	r = soft_fetch(cpu, &insn);
	if (likely(r == SOFT_DONE)) {
		cpu->next_rip = following(cpu, insn);
		r = insn->fn(cpu, insn);
	}
	return finish(cpu, r);
}

/* One instruction with everything that may be asked of it. */
static enum soft_result one_watched(struct soft_vcpu *cpu)
{
	bool step = cpu->rflags & RFLAGS_TF, rf = cpu->rflags & RFLAGS_RF;
	uint64_t rip = cpu->rip;
	enum soft_result r;
	unsigned hit;

	cpu->faulted = cpu->ss_loaded = false;
	if (cpu->watch && !rf && cpu->log.n == 0) {
		hit = breakpoints_here(cpu);
		if (hit && outer_breakpoints(cpu))
			return exit_debug(cpu, EXC_DB, hit);
		if (hit) {
			cpu->dr6 |= hit;
			return delivered(cpu, soft_raise(cpu, EXC_DB));
		}
	}
	r = soft_interpret(cpu);
	if (r == SOFT_EXIT && cpu->exit.reason != HAV_EXIT_HLT)
		return r;
	/* RF lasts for one instruction, but IRET and POPF load it for the next. */
	if (rf && cpu->rip != rip && !cpu->rf_loaded)
		cpu->rflags &= ~(uint64_t)RFLAGS_RF;
	cpu->rf_loaded = false;
	if (step && !cpu->faulted && !cpu->ss_loaded) {
		cpu->trap_pending = true;
		cpu->dr6_pending |= DR6_BS;
	}
	if (cpu->debug.enabled && cpu->debug.single_step && r == SOFT_DONE)
		return exit_debug(cpu, EXC_DB, DR6_BS);
	return r;
}

/* With something to look at. */
static enum soft_result attend(struct soft_vcpu *cpu)
{
	unsigned attention = atomic_load(&cpu->attention);
	bool none = true;
	enum soft_result r;

	soft_attend(cpu);
	if (cpu->log.n || cpu->msr_asked || cpu->hypercall_done)
		return one_watched(cpu);
	if (attention & ATTENTION_KICK) {
		atomic_fetch_and(&cpu->attention, ~(unsigned)ATTENTION_KICK);
		return soft_exit(cpu, HAV_EXIT_INTERRUPTED);
	}
	atomic_fetch_and(&cpu->attention, ~(unsigned)ATTENTION_EVENT);
	cpu->shadow = cpu->shadow_next;
	cpu->shadow_next = false;
	r = take_event(cpu, &none);
	if (r == SOFT_DONE && none)
		r = one_watched(cpu);
	if (waits(cpu))
		atomic_fetch_or(&cpu->attention, ATTENTION_EVENT);
	return r;
}

int soft_run(struct hav_vcpu *vcpu, struct hav_exit *exit, struct error **err)
{
	struct soft_vcpu *cpu = to_soft(vcpu);
	enum soft_result r;

	if (cpu->dead) {
		exit->reason = HAV_EXIT_SHUTDOWN;
		return 0;
	}
	cpu->hypercall_done = cpu->exit.reason == HAV_EXIT_HYPERCALL && cpu->exited;
	atomic_store(&cpu->in_guest, true);
	soft_attend(cpu);
	if (waits(cpu) || cpu->log.n)
		atomic_fetch_or(&cpu->attention, ATTENTION_EVENT);
	do {
		if (unlikely(atomic_load_explicit(&cpu->attention, memory_order_relaxed)))
			r = attend(cpu);
		else if (cpu->mode == 64 && cpu->jit)
			r = soft_jit_run(cpu);
		else
			r = soft_interpret(cpu);
	} while (likely(r == SOFT_DONE));
	soft_fpu_release(cpu);
	atomic_store(&cpu->in_guest, false);
	cpu->exited = true;
	*exit = cpu->exit;
	return 0;
}

/* --- What the caller asks ---- */

void soft_kick(struct hav_vcpu *vcpu)
{
	atomic_fetch_or(&to_soft(vcpu)->attention, ATTENTION_KICK);
}

static bool open_for_interrupts(const struct soft_vcpu *cpu)
{
	return (cpu->rflags & RFLAGS_IF) && !cpu->shadow_next &&
	       !(cpu->debug.enabled && cpu->debug.block_interrupts) &&
	       !cpu->events.interrupt_pending && cpu->log.n == 0;
}

bool soft_interruptible(const struct hav_vcpu *vcpu)
{
	return open_for_interrupts((const struct soft_vcpu *)vcpu);
}

int soft_interrupt(struct hav_vcpu *vcpu, uint8_t vector, struct error **err)
{
	struct soft_vcpu *cpu = to_soft(vcpu);

	if (!open_for_interrupts(cpu)) {
		error_set(err, "the guest takes no interrupts now");
		errno = EAGAIN;
		return -1;
	}
	cpu->events.interrupt_pending = true;
	cpu->events.interrupt_vector = vector;
	return 0;
}

void soft_want_irq_window(struct hav_vcpu *vcpu, bool want)
{
	to_soft(vcpu)->want_window = want;
}

int soft_nmi(struct hav_vcpu *vcpu, struct error **err)
{
	to_soft(vcpu)->events.nmi_pending = true;
	return 0;
}

unsigned soft_get_cr8(const struct hav_vcpu *vcpu)
{
	return ((const struct soft_vcpu *)vcpu)->cr8;
}

void soft_set_cr8(struct hav_vcpu *vcpu, unsigned cr8)
{
	to_soft(vcpu)->cr8 = cr8 & 15;
}

uint32_t soft_vcpu_tsc_khz(const struct hav_vcpu *vcpu)
{
	return ((const struct soft_vcpu *)vcpu)->vm->tsc_khz;
}

uint64_t soft_vcpu_tsc(struct hav_vcpu *vcpu)
{
	return soft_tsc(to_soft(vcpu));
}

int soft_set_debug(struct hav_vcpu *vcpu, const struct hav_debug *debug, struct error **err)
{
	struct soft_vcpu *cpu = to_soft(vcpu);

	cpu->debug = *debug;
	soft_code_flush(cpu); /* INT3s may have been put into guest memory, or taken away */
	soft_jit_flush(cpu);
	soft_update_mode(cpu);
	return 0;
}

int soft_set_cpuid(struct hav_vcpu *vcpu, const struct hav_cpuid *entries, size_t n,
		   struct error **err)
{
	struct soft_vcpu *cpu = to_soft(vcpu);

	free(cpu->cpuid);
	cpu->cpuid = xcalloc(n ? n : 1, sizeof(*entries));
	memcpy(cpu->cpuid, entries, n * sizeof(*entries));
	cpu->n_cpuid = n;
	return 0;
}

/* --- State ---- */

static struct hav_segment *segments_of(struct hav_sregs *s, unsigned i)
{
	struct hav_segment *const all[] = { &s->es, &s->cs, &s->ss, &s->ds, &s->fs, &s->gs };

	return all[i];
}

static void get_sregs(struct soft_vcpu *cpu, struct hav_sregs *s)
{
	for (unsigned i = 0; i < N_SEGMENTS; i++)
		*segments_of(s, i) = cpu->seg[i];
	s->tr = cpu->tr;
	s->ldt = cpu->ldt;
	s->gdt = cpu->gdt;
	s->idt = cpu->idt;
	s->cr0 = cpu->cr0;
	s->cr2 = cpu->cr2;
	s->cr3 = cpu->cr3;
	s->cr4 = cpu->cr4;
	s->cr8 = cpu->cr8;
	s->efer = cpu->efer;
	s->apic_base = cpu->apic_base;
}

static void set_sregs(struct soft_vcpu *cpu, const struct hav_sregs *s)
{
	for (unsigned i = 0; i < N_SEGMENTS; i++)
		cpu->seg[i] = *segments_of((struct hav_sregs *)s, i);
	cpu->tr = s->tr;
	cpu->ldt = s->ldt;
	cpu->gdt = s->gdt;
	cpu->idt = s->idt;
	cpu->cr0 = s->cr0;
	cpu->cr2 = s->cr2;
	cpu->cr3 = s->cr3;
	cpu->cr4 = s->cr4;
	cpu->cr8 = s->cr8;
	cpu->efer = s->efer;
	cpu->apic_base = s->apic_base;
	cpu->cpl = s->cr0 & CR0_PE ? soft_dpl(&s->ss) : 0;
	soft_tlb_flush(cpu, true);
	soft_update_mode(cpu);
}

#define XCR0_X87_SSE 3

static void get_xsave(struct soft_vcpu *cpu, struct hav_state *state)
{
	uint64_t components = XCR0_X87_SSE;

	memset(state->xsave, 0, sizeof(state->xsave));
	memcpy(state->xsave, cpu->frame.fx, 416);
	memcpy(state->xsave + 512, &components, sizeof(components));
	state->xsave_size = 576;
	state->xcr0 = cpu->xcr0;
}

/* Components that the header does not name are in their initial state. */
static void set_xsave(struct soft_vcpu *cpu, const struct hav_state *state)
{
	uint64_t components;
	uint32_t mxcsr;

	memcpy(&components, state->xsave + 512, sizeof(components));
	memcpy(&mxcsr, state->xsave + 24, 4);
	soft_fpu_reset(cpu);
	if (components & 1) {
		memcpy(cpu->frame.fx, state->xsave, 24);
		memcpy(cpu->frame.fx + 32, state->xsave + 32, 128);
		memcpy(&cpu->x87_ip, state->xsave + 8, 8);
		memcpy(&cpu->x87_dp, state->xsave + 16, 8);
	}
	if (components & 2) {
		mxcsr &= soft_mxcsr_mask();
		memcpy(cpu->frame.fx + 24, &mxcsr, 4);
		memcpy(cpu->frame.fx + 160, state->xsave + 160, 256);
	}
	cpu->xcr0 = state->xcr0;
}

int soft_get_state(struct hav_vcpu *vcpu, unsigned groups, struct hav_state *state,
		   struct error **err)
{
	struct soft_vcpu *cpu = to_soft(vcpu);

	if (groups & HAV_STATE_REGS) {
		const uint64_t *g = cpu->frame.gpr;

		state->regs = (struct hav_regs){
			g[RAX], g[RBX], g[RCX], g[RDX], g[RSI],   g[RDI],
			g[RSP], g[RBP], g[8],   g[9],   g[10],    g[11],
			g[12],  g[13],  g[14],  g[15],  cpu->rip, cpu->rflags,
		};
	}
	if (groups & HAV_STATE_SREGS)
		get_sregs(cpu, &state->sregs);
	if (groups & HAV_STATE_XSAVE)
		get_xsave(cpu, state);
	if (groups & HAV_STATE_DEBUG) {
		memcpy(state->dr, cpu->dr, sizeof(state->dr));
		state->dr6 = cpu->dr6;
		state->dr7 = cpu->dr7;
	}
	if (groups & HAV_STATE_EVENTS) {
		state->events = cpu->events;
		state->events.interrupt_shadow = cpu->shadow_next;
	}
	if (groups & HAV_STATE_MP)
		state->mp = cpu->mp;
	if (groups & HAV_STATE_MSRS)
		soft_msrs_get(cpu, state);
	state->version = HAV_API_VERSION;
	state->groups = groups;
	return 0;
}

static void set_regs(struct soft_vcpu *cpu, const struct hav_regs *r)
{
	const uint64_t values[] = {
		r->rax, r->rcx, r->rdx, r->rbx, r->rsp, r->rbp, r->rsi, r->rdi,
		r->r8,  r->r9,  r->r10, r->r11, r->r12, r->r13, r->r14, r->r15
	};

	memcpy(cpu->frame.gpr, values, sizeof(values));
	cpu->rip = r->rip;
	cpu->rflags = (r->rflags & 0x3f7fd7) | RFLAGS_ONE;
	/* What was under way is over. */
	cpu->log.n = cpu->log.at = 0;
	cpu->msr_asked = cpu->exited = cpu->dead = cpu->halt = false;
}

int soft_set_state(struct hav_vcpu *vcpu, unsigned groups, const struct hav_state *state,
		   struct error **err)
{
	struct soft_vcpu *cpu = to_soft(vcpu);

	if (groups & HAV_STATE_REGS)
		set_regs(cpu, &state->regs);
	if (groups & HAV_STATE_SREGS)
		set_sregs(cpu, &state->sregs);
	if (groups & HAV_STATE_XSAVE)
		set_xsave(cpu, state);
	if (groups & HAV_STATE_DEBUG) {
		memcpy(cpu->dr, state->dr, sizeof(cpu->dr));
		cpu->dr6 = state->dr6;
		cpu->dr7 = state->dr7;
	}
	if (groups & HAV_STATE_EVENTS) {
		cpu->events = state->events;
		cpu->shadow_next = state->events.interrupt_shadow;
		cpu->trap_pending = false;
		cpu->dr6_pending = 0;
	}
	if (groups & HAV_STATE_MP)
		cpu->mp = state->mp;
	for (unsigned i = 0; (groups & HAV_STATE_MSRS) && i < state->n_msrs && i < HAV_MAX_MSRS;
	     i++)
		soft_msr_set(cpu, state->msrs[i].index, state->msrs[i].value);
	soft_update_mode(cpu);
	return 0;
}

/* --- Making one ---- */

void soft_fpu_reset(struct soft_vcpu *cpu)
{
	static const uint16_t fcw = 0x37f;
	const uint32_t mxcsr[] = { 0x1f80, soft_mxcsr_mask() };

	cpu->fpu_live = false;
	cpu->x87_ip = cpu->x87_dp = 0;
	memset(cpu->frame.fx, 0, sizeof(cpu->frame.fx));
	memcpy(cpu->frame.fx, &fcw, sizeof(fcw));
	memcpy(cpu->frame.fx + 24, mxcsr, sizeof(mxcsr));
}

/* APM vol. 2 §14.1.3 */
static void reset(struct soft_vcpu *cpu)
{
	const struct hav_segment data = { .limit = 0xffff,
					  .attr = SEG_TYPE_DATA_RW | SEG_S | SEG_P };

	for (unsigned i = 0; i < N_SEGMENTS; i++)
		cpu->seg[i] = data;
	cpu->seg[CS] = (struct hav_segment){ .base = 0xffff0000,
					     .limit = 0xffff,
					     .selector = 0xf000,
					     .attr = SEG_TYPE_CODE_RX | SEG_S | SEG_P };
	cpu->tr = (struct hav_segment){ .limit = 0xffff, .attr = SEG_TYPE_TSS_BUSY | SEG_P };
	cpu->ldt = (struct hav_segment){ .limit = 0xffff, .attr = 2 | SEG_P };
	cpu->gdt.limit = cpu->idt.limit = 0xffff;
	cpu->cr0 = CR0_CD | CR0_NW | CR0_ET;
	cpu->rip = 0xfff0;
	cpu->rflags = RFLAGS_ONE;
	cpu->dr6 = 0xffff0ff0;
	cpu->dr7 = 0x400;
	cpu->pat = UINT64_C(0x0007040600070406);
	cpu->misc_enable = MISC_ENABLE_FAST_STRING;
	cpu->apic_base = 0xfee00000 | APIC_BASE_EN | (cpu->id ? 0 : APIC_BASE_BSP);
	cpu->xcr0 = 1;
	cpu->frame.gpr[RDX] = 0x600;
	soft_fpu_reset(cpu);
}

/* Large, of which only what is used becomes memory; below it the stack that signals find while
 * translated code runs, and below that nothing. */
#define BEFORE (SOFT_SIGNAL_STACK + SOFT_PAGE)

static struct soft_vcpu *make(struct error **err)
{
	uint8_t *at = mmap(NULL, BEFORE + sizeof(struct soft_vcpu), PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (at == MAP_FAILED || mprotect(at, SOFT_PAGE, PROT_NONE) < 0) {
		error_set_errno(err, errno, "cannot make a vCPU");
		if (at != MAP_FAILED)
			munmap(at, BEFORE + sizeof(struct soft_vcpu));
		return NULL;
	}
	return (struct soft_vcpu *)(at + BEFORE);
}

static void unmake(struct soft_vcpu *cpu)
{
	munmap((uint8_t *)cpu - BEFORE, BEFORE + sizeof(*cpu));
}

int soft_vcpu_create(struct hav_vm *hvm, uint32_t id, struct hav_vcpu **out, struct error **err)
{
	struct soft_vm *vm = container_of(hvm, struct soft_vm, vm);
	struct soft_vcpu *cpu = make(err);

	if (!cpu)
		return -1;
	cpu->vcpu.ops = hvm->ops;
	cpu->vm = vm;
	cpu->id = id;
	if (soft_code_create(cpu, err) < 0 || soft_stubs_create(&cpu->stubs, err) < 0 ||
	    soft_jit_create(cpu, err) < 0) {
		soft_jit_destroy(cpu);
		soft_stubs_destroy(&cpu->stubs);
		soft_code_destroy(cpu);
		unmake(cpu);
		return -1;
	}
	reset(cpu);
	soft_tlb_init(cpu);
	soft_update_mode(cpu);
	pthread_mutex_lock(&vm->lock);
	atomic_store(&vm->vcpus[id], cpu);
	if (id >= atomic_load(&vm->n_vcpus))
		atomic_store(&vm->n_vcpus, id + 1);
	pthread_mutex_unlock(&vm->lock);
	*out = &cpu->vcpu;
	return 0;
}

void soft_vcpu_destroy(struct hav_vcpu *vcpu)
{
	struct soft_vcpu *cpu = to_soft(vcpu);

	pthread_mutex_lock(&cpu->vm->lock);
	atomic_store(&cpu->vm->vcpus[cpu->id], NULL);
	pthread_mutex_unlock(&cpu->vm->lock);
	soft_code_destroy(cpu);
	soft_stubs_destroy(&cpu->stubs);
	soft_jit_destroy(cpu);
	free(cpu->cpuid);
	unmake(cpu);
}
