/*
 * KVM: a vCPU's architectural state in and out, one pair of functions a group of hav.h.
 *
 * MSRs. Which there are differs between hosts, and a kernel may list one it then refuses (facts of
 * life with emulated and partial KVMs): reading and writing stop at the refused one, so it is
 * skipped and the rest goes on.
 */
#include "hav/kvm/kvm.h"

#include "base/error.h"
#include "base/util.h"
#include "x86/registers.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#define LIST_MAX_MSRS 512

static struct kvm_vcpu *to_kvm(struct hav_vcpu *vcpu)
{
	return container_of(vcpu, struct kvm_vcpu, vcpu);
}

/* --- General registers ---- */

#define EACH_REG(X) \
	X(rax)      \
	X(rbx)      \
	X(rcx)      \
	X(rdx)      \
	X(rsi)      \
	X(rdi) X(rsp) X(rbp) X(r8) X(r9) X(r10) X(r11) X(r12) X(r13) X(r14) X(r15) X(rip) X(rflags)
#define COPY_REG(name) to->name = from->name;

static int get_regs(struct kvm_vcpu *vcpu, struct hav_state *state)
{
	struct kvm_regs regs, *from = &regs;
	struct hav_regs *to = &state->regs;

	if (ioctl(vcpu->fd, KVM_GET_REGS, &regs) < 0)
		return -1;
	EACH_REG(COPY_REG)
	return 0;
}

static int set_regs(struct kvm_vcpu *vcpu, const struct hav_state *state)
{
	struct kvm_regs regs = {}, *to = &regs;
	const struct hav_regs *from = &state->regs;

	EACH_REG(COPY_REG)
	/* What the last exit said is no longer so; the next one says it anew. */
	if (!(from->rflags & RFLAGS_IF))
		vcpu->run->ready_for_interrupt_injection = 0;
	return ioctl(vcpu->fd, KVM_SET_REGS, &regs);
}

/* --- Segments and control registers ---- */

static struct hav_segment segment_from_kvm(const struct kvm_segment *s)
{
	return (struct hav_segment){
		.base = s->base,
		.limit = s->limit,
		.selector = s->selector,
		.attr = s->type | s->s << 4 | s->dpl << 5 | s->present << 7 | s->avl << 8 |
			s->l << 9 | s->db << 10 | s->g << 11 |
			(s->unusable ? HAV_SEGMENT_UNUSABLE : 0),
	};
}

static struct kvm_segment segment_to_kvm(const struct hav_segment *s)
{
	return (struct kvm_segment){
		.base = s->base,
		.limit = s->limit,
		.selector = s->selector,
		.type = s->attr & 15,
		.s = s->attr >> 4 & 1,
		.dpl = s->attr >> 5 & 3,
		.present = s->attr >> 7 & 1,
		.avl = s->attr >> 8 & 1,
		.l = s->attr >> 9 & 1,
		.db = s->attr >> 10 & 1,
		.g = s->attr >> 11 & 1,
		.unusable = s->attr & HAV_SEGMENT_UNUSABLE ? 1 : 0,
	};
}

#define EACH_SEGMENT(X)        X(cs) X(ds) X(es) X(fs) X(gs) X(ss)
#define EACH_CONTROL(X)        X(cr0) X(cr2) X(cr3) X(cr4) X(cr8) X(efer) X(apic_base)
#define SEGMENT_FROM_KVM(name) to->name = segment_from_kvm(&from.name);
#define SEGMENT_TO_KVM(name)   to.name = segment_to_kvm(&from->name);
#define CONTROL_FROM_KVM(name) to->name = from.name;
#define CONTROL_TO_KVM(name)   to.name = from->name;

static int get_sregs(struct kvm_vcpu *vcpu, struct hav_state *state)
{
	struct hav_sregs *to = &state->sregs;
	struct kvm_sregs from;

	if (ioctl(vcpu->fd, KVM_GET_SREGS, &from) < 0)
		return -1;
	EACH_SEGMENT(SEGMENT_FROM_KVM)
	to->tr = segment_from_kvm(&from.tr);
	to->ldt = segment_from_kvm(&from.ldt);
	to->gdt = (struct hav_table){ from.gdt.base, from.gdt.limit };
	to->idt = (struct hav_table){ from.idt.base, from.idt.limit };
	EACH_CONTROL(CONTROL_FROM_KVM)
	return 0;
}

static int set_sregs(struct kvm_vcpu *vcpu, const struct hav_state *state)
{
	const struct hav_sregs *from = &state->sregs;
	struct kvm_sregs to = {};

	EACH_SEGMENT(SEGMENT_TO_KVM)
	to.tr = segment_to_kvm(&from->tr);
	to.ldt = segment_to_kvm(&from->ldt);
	to.gdt = (struct kvm_dtable){ .base = from->gdt.base, .limit = from->gdt.limit };
	to.idt = (struct kvm_dtable){ .base = from->idt.base, .limit = from->idt.limit };
	EACH_CONTROL(CONTROL_TO_KVM)
	/* Without local APICs KVM takes CR8 from here at each entry. */
	vcpu->run->cr8 = from->cr8;
	return ioctl(vcpu->fd, KVM_SET_SREGS, &to);
}

/* --- Extended state ---- */

static int get_xsave(struct kvm_vcpu *vcpu, struct hav_state *state)
{
	unsigned size = vcpu->vm->kvm->xsave_size;
	struct kvm_xcrs xcrs;

	if (ioctl(vcpu->fd, size > sizeof(struct kvm_xsave) ? KVM_GET_XSAVE2 : KVM_GET_XSAVE,
		  state->xsave) < 0 ||
	    ioctl(vcpu->fd, KVM_GET_XCRS, &xcrs) < 0)
		return -1;
	state->xsave_size = size;
	state->xcr0 = xcrs.nr_xcrs ? xcrs.xcrs[0].value : 1;
	return 0;
}

static int set_xsave(struct kvm_vcpu *vcpu, const struct hav_state *state)
{
	struct kvm_xcrs xcrs = { .nr_xcrs = 1, .xcrs[0].value = state->xcr0 };

	if (ioctl(vcpu->fd, KVM_SET_XCRS, &xcrs) < 0)
		return -1;
	return ioctl(vcpu->fd, KVM_SET_XSAVE, state->xsave);
}

/* --- Debug registers ---- */

static int get_debug(struct kvm_vcpu *vcpu, struct hav_state *state)
{
	struct kvm_debugregs debug;

	if (ioctl(vcpu->fd, KVM_GET_DEBUGREGS, &debug) < 0)
		return -1;
	memcpy(state->dr, debug.db, sizeof(state->dr));
	state->dr6 = debug.dr6;
	state->dr7 = debug.dr7;
	return 0;
}

static int set_debug(struct kvm_vcpu *vcpu, const struct hav_state *state)
{
	struct kvm_debugregs debug = { .dr6 = state->dr6, .dr7 = state->dr7 };

	memcpy(debug.db, state->dr, sizeof(state->dr));
	return ioctl(vcpu->fd, KVM_SET_DEBUGREGS, &debug);
}

/* --- Pending events ---- */

static int get_events(struct kvm_vcpu *vcpu, struct hav_state *state)
{
	struct hav_events *to = &state->events;
	struct kvm_vcpu_events from;

	if (ioctl(vcpu->fd, KVM_GET_VCPU_EVENTS, &from) < 0)
		return -1;
	*to = (struct hav_events){
		.exception_pending = from.exception.injected || from.exception.pending,
		.exception_has_error = from.exception.has_error_code,
		.exception_vector = from.exception.nr,
		.exception_error = from.exception.error_code,
		.interrupt_pending = from.interrupt.injected,
		.interrupt_soft = from.interrupt.soft,
		.interrupt_vector = from.interrupt.nr,
		.interrupt_shadow = from.interrupt.shadow,
		.nmi_pending = from.nmi.pending,
		.nmi_injected = from.nmi.injected,
		.nmi_masked = from.nmi.masked,
	};
	return 0;
}

static int set_events(struct kvm_vcpu *vcpu, const struct hav_state *state)
{
	const struct hav_events *from = &state->events;
	struct kvm_vcpu_events to = {
		/* The SMM part, all zero, also takes back an INIT that was on its way. */
		.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW |
			 KVM_VCPUEVENT_VALID_SMM,
		.exception = { .injected = from->exception_pending,
			       .nr = from->exception_vector,
			       .has_error_code = from->exception_has_error,
			       .error_code = from->exception_error },
		.interrupt = { .injected = from->interrupt_pending,
			       .nr = from->interrupt_vector,
			       .soft = from->interrupt_soft,
			       .shadow = from->interrupt_shadow ? KVM_X86_SHADOW_INT_STI : 0 },
		.nmi = { .pending = from->nmi_pending,
			 .injected = from->nmi_injected,
			 .masked = from->nmi_masked },
	};

	return ioctl(vcpu->fd, KVM_SET_VCPU_EVENTS, &to);
}

/* --- Multiprocessor state ---- */

static const uint32_t mp_states[] = {
	[HAV_MP_RUNNABLE] = KVM_MP_STATE_RUNNABLE,
	[HAV_MP_WAIT_INIT] = KVM_MP_STATE_UNINITIALIZED,
	[HAV_MP_INIT_RECEIVED] = KVM_MP_STATE_INIT_RECEIVED,
	[HAV_MP_HALTED] = KVM_MP_STATE_HALTED,
	[HAV_MP_SIPI_RECEIVED] = KVM_MP_STATE_SIPI_RECEIVED,
};

static int get_mp(struct kvm_vcpu *vcpu, struct hav_state *state)
{
	struct kvm_mp_state mp;

	if (vcpu->vm->vm.config.irqchip == HAV_IRQCHIP_NONE) {
		state->mp = HAV_MP_RUNNABLE;
		return 0;
	}
	if (ioctl(vcpu->fd, KVM_GET_MP_STATE, &mp) < 0)
		return -1;
	state->mp = HAV_MP_RUNNABLE;
	for (unsigned i = 0; i < ARRAY_SIZE(mp_states); i++)
		if (mp_states[i] == mp.mp_state)
			state->mp = i;
	return 0;
}

static int set_mp(struct kvm_vcpu *vcpu, const struct hav_state *state)
{
	struct kvm_mp_state mp = { .mp_state = mp_states[state->mp] };

	if (vcpu->vm->vm.config.irqchip == HAV_IRQCHIP_NONE)
		return 0;
	return ioctl(vcpu->fd, KVM_SET_MP_STATE, &mp);
}

/* --- MSRs ---- */

/* The host's list, read once: hav_open() need not pay for it. */
static struct kvm_msr_list *msr_list(struct kvm_hav *kvm)
{
	struct kvm_msr_list *list = kvm->msr_list;

	if (list)
		return list;
	list = xcalloc(1, sizeof(*list) + LIST_MAX_MSRS * sizeof(list->indices[0]));
	list->nmsrs = LIST_MAX_MSRS;
	if (ioctl(kvm->fd, KVM_GET_MSR_INDEX_LIST, list) < 0)
		list->nmsrs = 0;
	kvm->msr_list = list;
	return list;
}

/* A kvm_msrs with room for n entries. */
static struct kvm_msrs *msrs_new(unsigned n)
{
	struct kvm_msrs *msrs = xcalloc(1, sizeof(*msrs) + n * sizeof(msrs->entries[0]));

	msrs->nmsrs = n;
	return msrs;
}

/* Runs request over all of them, hopping over each at which it stops. */
static void each_msr(struct kvm_vcpu *vcpu, unsigned long request, struct kvm_msrs *all,
		     bool *refused)
{
	struct kvm_msrs *part AUTO_FREE = msrs_new(all->nmsrs);

	for (unsigned first = 0; first < all->nmsrs; first++) {
		unsigned n = all->nmsrs - first;
		int done;

		part->nmsrs = n;
		memcpy(part->entries, all->entries + first, n * sizeof(all->entries[0]));
		done = ioctl(vcpu->fd, request, part);
		done = MAX(done, 0);
		memcpy(all->entries + first, part->entries, done * sizeof(all->entries[0]));
		first += done;
		if (first < all->nmsrs)
			refused[first] = true;
	}
}

static int get_msrs(struct kvm_vcpu *vcpu, struct hav_state *state)
{
	struct kvm_msr_list *list = msr_list(vcpu->vm->kvm);
	struct kvm_msrs *all AUTO_FREE = msrs_new(MIN(list->nmsrs, LIST_MAX_MSRS));
	bool refused[LIST_MAX_MSRS] = {};

	for (unsigned i = 0; i < all->nmsrs; i++)
		all->entries[i].index = list->indices[i];
	each_msr(vcpu, KVM_GET_MSRS, all, refused);
	state->n_msrs = 0;
	for (unsigned i = 0; i < all->nmsrs && state->n_msrs < HAV_MAX_MSRS; i++)
		if (!refused[i])
			state->msrs[state->n_msrs++] =
				(struct hav_msr){ all->entries[i].index, all->entries[i].data };
	return 0;
}

static int set_msrs(struct kvm_vcpu *vcpu, const struct hav_state *state)
{
	struct kvm_msrs *all AUTO_FREE = msrs_new(MIN(state->n_msrs, HAV_MAX_MSRS));
	bool refused[HAV_MAX_MSRS] = {};

	for (unsigned i = 0; i < all->nmsrs; i++)
		all->entries[i] = (struct kvm_msr_entry){ .index = state->msrs[i].index,
							  .data = state->msrs[i].value };
	each_msr(vcpu, KVM_SET_MSRS, all, refused);
	return 0;
}

/* --- The local APIC ---- */

static int get_lapic(struct kvm_vcpu *vcpu, struct hav_state *state)
{
	if (vcpu->vm->vm.config.irqchip == HAV_IRQCHIP_NONE)
		return 0;
	return ioctl(vcpu->fd, KVM_GET_LAPIC, state->lapic);
}

static int set_lapic(struct kvm_vcpu *vcpu, const struct hav_state *state)
{
	if (vcpu->vm->vm.config.irqchip == HAV_IRQCHIP_NONE)
		return 0;
	return ioctl(vcpu->fd, KVM_SET_LAPIC, state->lapic);
}

/* In the order they are written: MSRs depend on control registers, events come last. */
static const struct {
	unsigned group;
	const char *name;
	int (*get)(struct kvm_vcpu *vcpu, struct hav_state *state);
	int (*set)(struct kvm_vcpu *vcpu, const struct hav_state *state);
} groups_table[] = {
	{ HAV_STATE_SREGS, "system registers", get_sregs, set_sregs },
	{ HAV_STATE_REGS, "registers", get_regs, set_regs },
	{ HAV_STATE_XSAVE, "extended state", get_xsave, set_xsave },
	{ HAV_STATE_DEBUG, "debug registers", get_debug, set_debug },
	{ HAV_STATE_LAPIC, "local APIC", get_lapic, set_lapic },
	{ HAV_STATE_MSRS, "MSRs", get_msrs, set_msrs },
	{ HAV_STATE_MP, "multiprocessor state", get_mp, set_mp },
	{ HAV_STATE_EVENTS, "pending events", get_events, set_events },
};

static int failed(struct error **err, const char *verb, const char *group)
{
	error_set_errno(err, errno, "KVM: cannot %s a vCPU's %s", verb, group);
	return -1;
}

/*
 * #syscalls:main,vcpu ioctl=KVM_GET_SREGS ioctl=KVM_SET_SREGS ioctl=KVM_GET_REGS ioctl=KVM_SET_REGS
 * #syscalls:main ioctl=KVM_SET_XSAVE ioctl=KVM_SET_XCRS ioctl=KVM_SET_LAPIC
 * #syscalls:main ioctl=KVM_GET_XSAVE ioctl=KVM_GET_XSAVE2 ioctl=KVM_GET_XCRS ioctl=KVM_GET_MSRS
 * #syscalls:main ioctl=KVM_GET_MP_STATE
 * #syscalls:main,vcpu ioctl=KVM_SET_DEBUGREGS ioctl=KVM_SET_VCPU_EVENTS
 * #syscalls:main ioctl=KVM_SET_MSRS ioctl=KVM_SET_MP_STATE
 */
int kvm_get_state(struct hav_vcpu *hvcpu, unsigned groups, struct hav_state *state,
		  struct error **err)
{
	for (unsigned i = 0; i < ARRAY_SIZE(groups_table); i++)
		if (groups & groups_table[i].group && groups_table[i].get(to_kvm(hvcpu), state) < 0)
			return failed(err, "read", groups_table[i].name);
	return 0;
}

int kvm_set_state(struct hav_vcpu *hvcpu, unsigned groups, const struct hav_state *state,
		  struct error **err)
{
	for (unsigned i = 0; i < ARRAY_SIZE(groups_table); i++)
		if (groups & groups_table[i].group && groups_table[i].set(to_kvm(hvcpu), state) < 0)
			return failed(err, "write", groups_table[i].name);
	return 0;
}
