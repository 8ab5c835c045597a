/*
 * KVM: running a vCPU, and what its exits mean.
 *
 * A vCPU shares a page with the kernel (struct kvm_run) in which an exit is described and its
 * answer left. A kick sets immediate_exit there, which stops the next entry, and sends the thread a
 * signal, which ends the present one. The signal is KICK_SIGNAL; its handler does nothing.
 */
#include "hav/kvm/kvm.h"

#include "base/error.h"
#include "base/util.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#define KICK_SIGNAL SIGUSR1

static struct kvm_vcpu *to_kvm(struct hav_vcpu *vcpu)
{
	return container_of(vcpu, struct kvm_vcpu, vcpu);
}

static void ignore_kick(int signal)
{
}

/* A program that uses the signal itself keeps its handler; any handler will do. */
int kvm_install_kick_signal(struct error **err)
{
	struct sigaction action = { .sa_handler = ignore_kick }, old;

	if (sigaction(KICK_SIGNAL, NULL, &old) < 0)
		goto fail;
	if (old.sa_handler != SIG_DFL && old.sa_handler != SIG_IGN)
		return 0;
	if (sigaction(KICK_SIGNAL, &action, NULL) < 0)
		goto fail;
	return 0;
fail:
	return kvm_error(err, "cannot install the signal that stops vCPUs");
}

static void share_ring(struct kvm_vcpu *vcpu)
{
	unsigned page = vcpu->vm->kvm->coalesced_page;
	struct kvm_coalesced_mmio_ring *expected = NULL;

	if (page && (page + 1) * 4096 <= (unsigned)vcpu->vm->kvm->run_size)
		atomic_compare_exchange_strong(&vcpu->vm->ring, &expected,
					       (void *)((char *)vcpu->run + page * 4096));
}

int kvm_vcpu_create(struct hav_vm *hvm, uint32_t id, struct hav_vcpu **out, struct error **err)
{
	struct kvm_vm *vm = container_of(hvm, struct kvm_vm, vm);
	struct kvm_vcpu *vcpu;

	if (kvm_irqchip_create(vm, err) < 0)
		return -1;
	vcpu = xcalloc(1, sizeof(*vcpu));
	vcpu->vcpu.ops = &hav_backend_kvm;
	vcpu->vm = vm;
	vcpu->id = id;
	vcpu->fd = ioctl(vm->fd, KVM_CREATE_VCPU, (unsigned long)id);
	if (vcpu->fd < 0) {
		kvm_error(err, "cannot create a vCPU");
		goto fail;
	}
	vcpu->run = mmap(NULL, vm->kvm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
	if (vcpu->run == MAP_FAILED) {
		vcpu->run = NULL;
		kvm_error(err, "cannot map a vCPU's shared area");
		goto fail;
	}
	share_ring(vcpu);
	vcpu->tsc_khz = MAX(ioctl(vcpu->fd, KVM_GET_TSC_KHZ, 0), 0);
	*out = &vcpu->vcpu;
	return 0;
fail:
	kvm_vcpu_destroy(&vcpu->vcpu);
	return -1;
}

void kvm_vcpu_destroy(struct hav_vcpu *hvcpu)
{
	struct kvm_vcpu *vcpu = to_kvm(hvcpu);
	struct kvm_coalesced_mmio_ring *mine;

	if (vcpu->run) {
		mine = (void *)((char *)vcpu->run + vcpu->vm->kvm->coalesced_page * 4096);
		atomic_compare_exchange_strong(&vcpu->vm->ring, &mine, NULL);
		munmap(vcpu->run, vcpu->vm->kvm->run_size);
	}
	if (vcpu->fd >= 0)
		close(vcpu->fd);
	free(vcpu);
}

int kvm_set_cpuid(struct hav_vcpu *hvcpu, const struct hav_cpuid *entries, size_t n,
		  struct error **err)
{
	struct kvm_cpuid2 *list AUTO_FREE =
		xcalloc(1, sizeof(*list) + n * sizeof(list->entries[0]));

	list->nent = n;
	for (size_t i = 0; i < n; i++)
		list->entries[i] = (struct kvm_cpuid_entry2){
			.function = entries[i].leaf,
			.index = entries[i].subleaf,
			.flags = entries[i].has_subleaves ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
			.eax = entries[i].eax,
			.ebx = entries[i].ebx,
			.ecx = entries[i].ecx,
			.edx = entries[i].edx,
		};
	if (ioctl(to_kvm(hvcpu)->fd, KVM_SET_CPUID2, list) < 0)
		return kvm_error(err, "cannot set CPUID");
	return 0;
}

/* --- Exits ---- */

static void exit_io(struct kvm_run *run, struct hav_exit *exit)
{
	exit->reason = HAV_EXIT_IO;
	exit->io.port = run->io.port;
	exit->io.size = run->io.size;
	exit->io.write = run->io.direction == KVM_EXIT_IO_OUT;
	exit->io.count = run->io.count;
	exit->io.data = (uint8_t *)run + run->io.data_offset;
}

static void exit_mmio(struct kvm_run *run, struct hav_exit *exit)
{
	exit->reason = HAV_EXIT_MMIO;
	exit->mmio.gpa = run->mmio.phys_addr;
	exit->mmio.size = run->mmio.len;
	exit->mmio.write = run->mmio.is_write;
	exit->mmio.data = run->mmio.data;
}

static void exit_hypercall(struct kvm_run *run, struct hav_exit *exit)
{
	exit->reason = HAV_EXIT_HYPERCALL;
	exit->hypercall.nr = run->hypercall.nr;
	for (unsigned i = 0; i < ARRAY_SIZE(exit->hypercall.args); i++)
		exit->hypercall.args[i] = run->hypercall.args[i];
	exit->hypercall.ret = (uint64_t *)&run->hypercall.ret;
}

static void exit_failed(struct hav_exit *exit, uint32_t suberror, const char *text)
{
	exit->reason = HAV_EXIT_FAILED;
	exit->failed.suberror = suberror;
	exit->failed.text = text;
}

static void exit_internal_error(struct kvm_run *run, struct hav_exit *exit)
{
	switch (run->internal.suberror) {
	case KVM_INTERNAL_ERROR_EMULATION:
		exit_failed(exit, run->internal.suberror, "an instruction KVM cannot emulate");
		break;
	default: exit_failed(exit, run->internal.suberror, "an internal error of KVM"); break;
	}
}

static void exit_msr(struct kvm_vcpu *vcpu, bool write, struct hav_exit *exit)
{
	exit->reason = HAV_EXIT_MSR;
	exit->msr.index = vcpu->run->msr.index;
	exit->msr.write = write;
	exit->msr.value = (uint64_t *)&vcpu->run->msr.data;
	exit->msr.fault = (bool *)&vcpu->run->msr.error;
}

static void exit_system_event(struct kvm_run *run, struct hav_exit *exit)
{
	if (run->system_event.type == KVM_SYSTEM_EVENT_SHUTDOWN ||
	    run->system_event.type == KVM_SYSTEM_EVENT_RESET)
		exit->reason = HAV_EXIT_SHUTDOWN;
	else
		exit_failed(exit, run->system_event.type, "the guest crashed");
}

static void translate(struct kvm_vcpu *vcpu, struct hav_exit *exit)
{
	struct kvm_run *run = vcpu->run;

	switch (run->exit_reason) {
	case KVM_EXIT_IO: exit_io(run, exit); break;
	case KVM_EXIT_MMIO: exit_mmio(run, exit); break;
	case KVM_EXIT_HLT: exit->reason = HAV_EXIT_HLT; break;
	case KVM_EXIT_SHUTDOWN: exit->reason = HAV_EXIT_SHUTDOWN; break;
	case KVM_EXIT_HYPERCALL: exit_hypercall(run, exit); break;
	case KVM_EXIT_DEBUG: kvm_exit_debug(run, exit); break;
	case KVM_EXIT_INTR: exit->reason = HAV_EXIT_INTERRUPTED; break;
	case KVM_EXIT_IRQ_WINDOW_OPEN: exit->reason = HAV_EXIT_IRQ_WINDOW; break;
	case KVM_EXIT_SET_TPR: exit->reason = HAV_EXIT_TPR; break;
	case KVM_EXIT_IOAPIC_EOI:
		exit->reason = HAV_EXIT_EOI;
		exit->eoi.vector = run->eoi.vector;
		break;
	case KVM_EXIT_X86_RDMSR: exit_msr(vcpu, false, exit); break;
	case KVM_EXIT_X86_WRMSR: exit_msr(vcpu, true, exit); break;
	case KVM_EXIT_SYSTEM_EVENT: exit_system_event(run, exit); break;
	case KVM_EXIT_INTERNAL_ERROR:
		if (!kvm_is_unknown_int3(vcpu, exit))
			exit_internal_error(run, exit);
		break;
	case KVM_EXIT_FAIL_ENTRY:
		exit_failed(exit, run->fail_entry.hardware_entry_failure_reason,
			    "the processor refused the guest's state");
		break;
	default: exit_failed(exit, run->exit_reason, "an exit this backend does not know"); break;
	}
}

/* #syscalls:vcpu ioctl=KVM_RUN gettid */
int kvm_run(struct hav_vcpu *hvcpu, struct hav_exit *exit, struct error **err)
{
	struct kvm_vcpu *vcpu = to_kvm(hvcpu);

	if (!vcpu->tid)
		vcpu->tid = gettid();
	if (ioctl(vcpu->fd, KVM_RUN, 0) < 0) {
		if (errno != EINTR && errno != EAGAIN)
			return kvm_error(err, "cannot run a vCPU");
		vcpu->run->immediate_exit = 0;
		exit->reason = HAV_EXIT_INTERRUPTED;
	} else {
		translate(vcpu, exit);
	}
	kvm_flush_coalesced(&vcpu->vm->vm);
	return 0;
}

/* #syscalls getpid tgkill */
void kvm_kick(struct hav_vcpu *hvcpu)
{
	struct kvm_vcpu *vcpu = to_kvm(hvcpu);
	int tid;

	__atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	tid = vcpu->tid;
	if (tid)
		tgkill(getpid(), tid, KICK_SIGNAL);
}

/* --- Events for the guest ---- */

/*
 * With local APICs in the kernel, what comes from the PICs of a split controller.
 * #syscalls:vcpu ioctl=KVM_INTERRUPT
 */
int kvm_interrupt(struct hav_vcpu *hvcpu, uint8_t vector, struct error **err)
{
	struct kvm_vcpu *vcpu = to_kvm(hvcpu);
	struct kvm_interrupt interrupt = { .irq = vector };

	if (vcpu->vm->vm.config.irqchip == HAV_IRQCHIP_KERNEL) {
		error_set(err, "this VM's interrupt controllers are KVM's");
		errno = EINVAL;
		return -1;
	}
	if (!kvm_interruptible(hvcpu)) {
		error_set(err, "the guest has interrupts off");
		errno = EAGAIN;
		return -1;
	}
	if (ioctl(vcpu->fd, KVM_INTERRUPT, &interrupt) < 0)
		return kvm_error(err, "cannot interrupt a vCPU");
	vcpu->run->ready_for_interrupt_injection = 0;
	return 0;
}

bool kvm_interruptible(const struct hav_vcpu *hvcpu)
{
	return container_of(hvcpu, struct kvm_vcpu, vcpu)->run->ready_for_interrupt_injection;
}

void kvm_want_irq_window(struct hav_vcpu *hvcpu, bool want)
{
	to_kvm(hvcpu)->run->request_interrupt_window = want;
}

/* #syscalls:vcpu ioctl=KVM_NMI */
int kvm_nmi(struct hav_vcpu *hvcpu, struct error **err)
{
	if (ioctl(to_kvm(hvcpu)->fd, KVM_NMI, 0) < 0)
		return kvm_error(err, "cannot send an NMI");
	return 0;
}

unsigned kvm_get_cr8(const struct hav_vcpu *hvcpu)
{
	return container_of(hvcpu, struct kvm_vcpu, vcpu)->run->cr8;
}

void kvm_set_cr8(struct hav_vcpu *hvcpu, unsigned cr8)
{
	to_kvm(hvcpu)->run->cr8 = cr8;
}

/* --- The time-stamp counter ---- */

#define MSR_TSC 0x10

uint32_t kvm_tsc_khz(const struct hav_vcpu *hvcpu)
{
	return container_of(hvcpu, struct kvm_vcpu, vcpu)->tsc_khz;
}

/*
 * The guest may set its counter at any time without an exit, so no offset is kept.
 * #syscalls:vcpu ioctl=KVM_GET_MSRS
 */
uint64_t kvm_tsc(struct hav_vcpu *hvcpu)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} msrs = { .head.nmsrs = 1, .entry.index = MSR_TSC };

	ioctl(to_kvm(hvcpu)->fd, KVM_GET_MSRS, &msrs);
	return msrs.entry.data;
}
