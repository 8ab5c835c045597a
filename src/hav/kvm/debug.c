/*
 * KVM: a debugger outside the guest.
 *
 * Kernels that emulate what the guest's kernel runs, as nested and software KVMs do, may not know
 * INT3 in protected mode and give up at it; with breakpoints set that is the exit a debugger waits
 * for. It is told by the instruction's bytes, which come with the failure.
 */
#include "hav/kvm/kvm.h"

#include "base/error.h"
#include "base/util.h"

#include <sys/ioctl.h>

#define OPCODE_INT3 0xcc
#define VECTOR_BP   3
#define VECTOR_DB   1
#define DR6_CAUSE   0xe00f /* B0-B3, BD, BS, BT: Intel SDM vol. 3 §18.2.3 */

static struct kvm_vcpu *to_kvm(struct hav_vcpu *vcpu)
{
	return container_of(vcpu, struct kvm_vcpu, vcpu);
}

/* #syscalls:main ioctl=KVM_SET_GUEST_DEBUG */
int kvm_set_debug(struct hav_vcpu *hvcpu, const struct hav_debug *debug, struct error **err)
{
	struct kvm_vcpu *vcpu = to_kvm(hvcpu);
	struct kvm_guest_debug args = {};

	if (debug->enabled) {
		args.control = KVM_GUESTDBG_ENABLE |
			       (debug->single_step ? KVM_GUESTDBG_SINGLESTEP : 0) |
			       (debug->software_breakpoints ? KVM_GUESTDBG_USE_SW_BP : 0) |
			       (debug->dr7 ? KVM_GUESTDBG_USE_HW_BP : 0);
		if (debug->single_step && debug->block_interrupts && vcpu->vm->kvm->debug_blockirq)
			args.control |= KVM_GUESTDBG_BLOCKIRQ;
		for (unsigned i = 0; i < ARRAY_SIZE(debug->dr); i++)
			args.arch.debugreg[i] = debug->dr[i];
		args.arch.debugreg[7] = debug->dr7;
	}
	if (ioctl(vcpu->fd, KVM_SET_GUEST_DEBUG, &args) < 0)
		return kvm_error(err, "cannot set breakpoints");
	vcpu->software_breakpoints = debug->enabled && debug->software_breakpoints;
	return 0;
}

void kvm_exit_debug(struct kvm_run *run, struct hav_exit *exit)
{
	exit->reason = HAV_EXIT_DEBUG;
	exit->debug.exception = run->debug.arch.exception;
	exit->debug.pc = run->debug.arch.pc;
	exit->debug.dr6 = run->debug.arch.dr6;
	exit->debug.dr7 = run->debug.arch.dr7;
}

static bool is_int3(const struct kvm_run *run)
{
	return run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION &&
	       run->emulation_failure.ndata > 1 &&
	       run->emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES &&
	       run->emulation_failure.insn_size &&
	       run->emulation_failure.insn_bytes[0] == OPCODE_INT3;
}

bool kvm_is_unknown_int3(struct kvm_vcpu *vcpu, struct hav_exit *exit)
{
	struct kvm_sregs sregs;
	struct kvm_regs regs;

	if (!vcpu->software_breakpoints || !is_int3(vcpu->run) ||
	    ioctl(vcpu->fd, KVM_GET_SREGS, &sregs) < 0 || ioctl(vcpu->fd, KVM_GET_REGS, &regs) < 0)
		return false;
	exit->reason = HAV_EXIT_DEBUG;
	exit->debug.exception = VECTOR_BP;
	exit->debug.pc = sregs.cs.l ? regs.rip : (uint32_t)(sregs.cs.base + regs.rip);
	exit->debug.dr6 = exit->debug.dr7 = 0;
	return true;
}

static int add_to_dr6(struct kvm_vcpu *vcpu, uint64_t bits)
{
	struct kvm_debugregs debug;

	if (ioctl(vcpu->fd, KVM_GET_DEBUGREGS, &debug) < 0)
		return -1;
	debug.dr6 |= bits & DR6_CAUSE;
	return ioctl(vcpu->fd, KVM_SET_DEBUGREGS, &debug);
}

/*
 * KVM delivers a #BP that stands at an INT3 as that instruction would. Flags of zero leave alone
 * what else is on its way.
 *
 * #syscalls:vcpu ioctl=KVM_GET_DEBUGREGS ioctl=KVM_SET_DEBUGREGS
 * #syscalls:vcpu ioctl=KVM_GET_VCPU_EVENTS ioctl=KVM_SET_VCPU_EVENTS
 */
int kvm_reflect_debug(struct hav_vcpu *hvcpu, const struct hav_exit *exit, struct error **err)
{
	struct kvm_vcpu *vcpu = to_kvm(hvcpu);
	struct kvm_vcpu_events events;

	if ((exit->debug.exception == VECTOR_DB && add_to_dr6(vcpu, exit->debug.dr6) < 0) ||
	    ioctl(vcpu->fd, KVM_GET_VCPU_EVENTS, &events) < 0)
		goto fail;
	events.flags = 0;
	events.exception.injected = 1;
	events.exception.pending = 0;
	events.exception.nr = exit->debug.exception;
	events.exception.has_error_code = 0;
	if (ioctl(vcpu->fd, KVM_SET_VCPU_EVENTS, &events) == 0)
		return 0;
fail:
	return kvm_error(err, "cannot give the guest its own breakpoint");
}
