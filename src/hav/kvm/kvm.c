/*
 * The KVM backend: /dev/kvm, and VMs on it. Interrupts are in irq.c, vCPUs in vcpu.c, their state
 * in state.c. Facts are from the kernel's Documentation/virt/kvm/api.rst.
 *
 * Memory mappings are KVM's slots, found again by guest address.
 */
#include "hav/kvm/kvm.h"

#include "base/error.h"
#include "base/util.h"

#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>

#define API_VERSION 12
#define FEATURE_VMX BIT(5) /* CPUID 1 ECX */
/* Three pages below the BIOS area that Intel hosts without unrestricted guest use; as other
 * monitors place them. */
#define TSS_ADDRESS          0xfffbd000ul
#define IDENTITY_MAP_ADDRESS 0xfffbc000ull
#define MAX_CPUID            256

int kvm_error(struct error **err, const char *what)
{
	error_set_errno(err, errno, "KVM: %s", what);
	return -1;
}

/* --- The system ---- */

static unsigned extension(const struct kvm_hav *kvm, int cap)
{
	int r = ioctl(kvm->fd, KVM_CHECK_EXTENSION, cap);

	return r > 0 ? r : 0;
}

/* On Intel hosts KVM takes writes of IA32_TSC_DEADLINE on a fast path that asks no filter. */
static bool has_vmx(void)
{
	unsigned eax, ebx, ecx, edx;

	return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && ecx & FEATURE_VMX;
}

static void ask_capabilities(struct kvm_hav *kvm)
{
	unsigned xsave2 = extension(kvm, KVM_CAP_XSAVE2);

	kvm->ioeventfd = extension(kvm, KVM_CAP_IOEVENTFD);
	kvm->irqfd = extension(kvm, KVM_CAP_IRQFD);
	kvm->kernel_irqchip = extension(kvm, KVM_CAP_IRQCHIP);
	kvm->split_irqchip = extension(kvm, KVM_CAP_SPLIT_IRQCHIP);
	kvm->debug_blockirq = extension(kvm, KVM_CAP_SET_GUEST_DEBUG2) & KVM_GUESTDBG_BLOCKIRQ;
	kvm->tsc_deadline = extension(kvm, KVM_CAP_TSC_DEADLINE_TIMER);
	kvm->max_vcpus = extension(kvm, KVM_CAP_MAX_VCPUS);
	kvm->max_slots = MIN(extension(kvm, KVM_CAP_NR_MEMSLOTS), KVM_MAX_SLOTS);
	if (extension(kvm, KVM_CAP_COALESCED_PIO))
		kvm->coalesced_page = extension(kvm, KVM_CAP_COALESCED_MMIO);
	kvm->msr_exits = extension(kvm, KVM_CAP_X86_USER_SPACE_MSR) &&
			 extension(kvm, KVM_CAP_X86_MSR_FILTER);
	kvm->tsc_deadline_exits = kvm->msr_exits && !has_vmx();
	kvm->xsave_size = xsave2 ? MIN(xsave2, HAV_XSAVE_SIZE) : sizeof(struct kvm_xsave);
}

static const char *open_hint(int errnum)
{
	switch (errnum) {
	case ENOENT: return " (is the kvm module loaded, and virtualization on in the firmware?)";
	case EACCES: return " (is this user in the group kvm?)";
	default: return "";
	}
}

static void kvm_close(struct hav *hav)
{
	struct kvm_hav *kvm = container_of(hav, struct kvm_hav, hav);

	if (kvm->fd >= 0)
		close(kvm->fd);
	free(kvm->msr_list);
	free(kvm);
}

static int kvm_open(struct hav **hav, struct error **err)
{
	struct kvm_hav *kvm = xcalloc(1, sizeof(*kvm));
	int version;

	kvm->hav.ops = &hav_backend_kvm;
	kvm->fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm->fd < 0) {
		error_set_errno(err, errno, "cannot open /dev/kvm%s", open_hint(errno));
		goto fail;
	}
	version = ioctl(kvm->fd, KVM_GET_API_VERSION, 0);
	if (version != API_VERSION) {
		error_set(err, "KVM: API version %d, not %d", version, API_VERSION);
		goto fail;
	}
	kvm->run_size = ioctl(kvm->fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (kvm->run_size < (int)sizeof(struct kvm_run)) {
		kvm_error(err, "cannot tell the size of a vCPU's shared area");
		goto fail;
	}
	if (kvm_install_kick_signal(err) < 0)
		goto fail;
	ask_capabilities(kvm);
	*hav = &kvm->hav;
	return 0;
fail:
	kvm_close(&kvm->hav);
	return -1;
}

static unsigned kvm_capability(const struct hav *hav, enum hav_cap cap)
{
	const struct kvm_hav *kvm = container_of(hav, struct kvm_hav, hav);

	switch (cap) {
	case HAV_CAP_IRQCHIP_KERNEL: return kvm->kernel_irqchip;
	case HAV_CAP_IRQCHIP_SPLIT: return kvm->split_irqchip;
	case HAV_CAP_IOEVENTFD: return kvm->ioeventfd;
	case HAV_CAP_IRQFD: return kvm->irqfd;
	case HAV_CAP_DIRTY_LOG: return 1;
	case HAV_CAP_MAX_VCPUS: return kvm->max_vcpus;
	case HAV_CAP_MAX_SLOTS: return kvm->max_slots;
	case HAV_CAP_CLOCK: return 1;
	case HAV_CAP_COALESCE: return kvm->coalesced_page != 0;
	case HAV_CAP_APIC_MSR_EXITS: return kvm->msr_exits;
	case HAV_CAP_TSC_DEADLINE_EXITS: return kvm->tsc_deadline_exits;
	}
	return 0;
}

/* Leaf 1 ECX: what KVM leaves to its user to add. Guests look for KVM's own leaves only with the
 * second. */
#define FEATURE_TSC_DEADLINE BIT(24)
#define FEATURE_HYPERVISOR   BIT(31)

static void add_own_features(const struct kvm_hav *kvm, struct kvm_cpuid_entry2 *e)
{
	if (e->function == 1)
		e->ecx |= FEATURE_HYPERVISOR | (kvm->tsc_deadline ? FEATURE_TSC_DEADLINE : 0);
}

static int kvm_cpuid_supported(struct hav *hav, struct hav_cpuid *entries, size_t *n,
			       struct error **err)
{
	struct kvm_hav *kvm = container_of(hav, struct kvm_hav, hav);
	struct kvm_cpuid2 *list AUTO_FREE =
		xcalloc(1, sizeof(*list) + MAX_CPUID * sizeof(list->entries[0]));

	list->nent = MAX_CPUID;
	if (ioctl(kvm->fd, KVM_GET_SUPPORTED_CPUID, list) < 0)
		return kvm_error(err, "cannot read the supported CPUID leaves");
	if (list->nent > *n) {
		error_set(err, "KVM: %u CPUID leaves, room for %zu", list->nent, *n);
		return -1;
	}
	for (unsigned i = 0; i < list->nent; i++) {
		struct kvm_cpuid_entry2 *e = &list->entries[i];

		add_own_features(kvm, e);
		entries[i] = (struct hav_cpuid){
			.leaf = e->function,
			.subleaf = e->index,
			.has_subleaves = e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
			.eax = e->eax,
			.ebx = e->ebx,
			.ecx = e->ecx,
			.edx = e->edx,
		};
	}
	*n = list->nent;
	return 0;
}

/* --- VMs ---- */

static void kvm_vm_destroy(struct hav_vm *hvm)
{
	struct kvm_vm *vm = container_of(hvm, struct kvm_vm, vm);

	if (vm->fd >= 0)
		close(vm->fd);
	pthread_mutex_destroy(&vm->lock);
	pthread_mutex_destroy(&vm->ring_lock);
	free(vm);
}

/* Only Intel hosts know these; elsewhere the refusal is of no consequence. */
static void place_intel_pages(struct kvm_vm *vm)
{
	uint64_t identity = IDENTITY_MAP_ADDRESS;

	ioctl(vm->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity);
	ioctl(vm->fd, KVM_SET_TSS_ADDR, TSS_ADDRESS);
}

static int create_vm_fd(struct kvm_hav *kvm)
{
	int fd;

	/* KVM_CREATE_VM can be interrupted by a signal that has nothing to do with it. */
	do {
		fd = ioctl(kvm->fd, KVM_CREATE_VM, 0);
	} while (fd < 0 && errno == EINTR);
	return fd;
}

static int kvm_vm_create(struct hav *hav, const struct hav_vm_config *config, struct hav_vm **out,
			 struct error **err)
{
	struct kvm_hav *kvm = container_of(hav, struct kvm_hav, hav);
	struct kvm_vm *vm = xcalloc(1, sizeof(*vm));

	vm->vm = (struct hav_vm){ &hav_backend_kvm, *config };
	vm->kvm = kvm;
	pthread_mutex_init(&vm->lock, NULL);
	pthread_mutex_init(&vm->ring_lock, NULL);
	vm->fd = create_vm_fd(kvm);
	if (vm->fd < 0) {
		kvm_error(err, "cannot create a VM");
		goto fail;
	}
	place_intel_pages(vm);
	*out = &vm->vm;
	return 0;
fail:
	kvm_vm_destroy(&vm->vm);
	return -1;
}

/* --- Memory ---- */

static struct kvm_slot *find_slot(struct kvm_vm *vm, uint64_t gpa)
{
	for (unsigned i = 0; i < vm->kvm->max_slots; i++)
		if (vm->slots[i].host && vm->slots[i].gpa == gpa)
			return &vm->slots[i];
	return NULL;
}

static struct kvm_slot *free_slot(struct kvm_vm *vm)
{
	for (unsigned i = 0; i < vm->kvm->max_slots; i++)
		if (!vm->slots[i].host)
			return &vm->slots[i];
	return NULL;
}

/* A size of 0 takes the slot away. */
static int set_slot(struct kvm_vm *vm, const struct kvm_slot *slot, uint64_t size)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot - vm->slots,
		.flags = (slot->flags & HAV_MAP_WRITE ? 0 : KVM_MEM_READONLY) |
			 (slot->flags & HAV_MAP_DIRTY_LOG ? KVM_MEM_LOG_DIRTY_PAGES : 0),
		.guest_phys_addr = slot->gpa,
		.memory_size = size,
		.userspace_addr = (uintptr_t)slot->host,
	};

	return ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &region);
}

static int kvm_vm_map(struct hav_vm *hvm, uint64_t gpa, void *host, uint64_t size, unsigned flags,
		      struct error **err)
{
	struct kvm_vm *vm = container_of(hvm, struct kvm_vm, vm);
	struct kvm_slot *slot;
	int r = -1;

	pthread_mutex_lock(&vm->lock);
	slot = free_slot(vm);
	if (!slot) {
		error_set(err, "KVM: all %u memory slots are in use", vm->kvm->max_slots);
	} else {
		*slot = (struct kvm_slot){ gpa, size, host, flags };
		r = set_slot(vm, slot, size);
		if (r < 0) {
			slot->host = NULL;
			error_set_errno(err, errno, "KVM: cannot map 0x%llx bytes at 0x%llx",
					(unsigned long long)size, (unsigned long long)gpa);
		}
	}
	pthread_mutex_unlock(&vm->lock);
	return r;
}

static int no_mapping(struct error **err, uint64_t gpa)
{
	error_set(err, "KVM: no mapping begins at 0x%llx", (unsigned long long)gpa);
	return -1;
}

static int kvm_vm_unmap(struct hav_vm *hvm, uint64_t gpa, struct error **err)
{
	struct kvm_vm *vm = container_of(hvm, struct kvm_vm, vm);
	struct kvm_slot *slot;
	int r;

	pthread_mutex_lock(&vm->lock);
	slot = find_slot(vm, gpa);
	if (!slot)
		r = no_mapping(err, gpa);
	else if ((r = set_slot(vm, slot, 0)) < 0)
		kvm_error(err, "cannot take away a mapping");
	else
		slot->host = NULL;
	pthread_mutex_unlock(&vm->lock);
	return r;
}

static int kvm_dirty_log(struct hav_vm *hvm, uint64_t gpa, uint64_t *bitmap, struct error **err)
{
	struct kvm_vm *vm = container_of(hvm, struct kvm_vm, vm);
	struct kvm_dirty_log log = { .dirty_bitmap = bitmap };
	struct kvm_slot *slot;
	int r;

	pthread_mutex_lock(&vm->lock);
	slot = find_slot(vm, gpa);
	if (!slot) {
		r = no_mapping(err, gpa);
	} else {
		log.slot = slot - vm->slots;
		r = ioctl(vm->fd, KVM_GET_DIRTY_LOG, &log);
		if (r < 0)
			kvm_error(err, "cannot read the dirty log");
	}
	pthread_mutex_unlock(&vm->lock);
	return r;
}

/* --- The paravirtual clock ---- */

/* #syscalls:main ioctl=KVM_GET_CLOCK ioctl=KVM_SET_CLOCK */
static int kvm_get_clock(struct hav_vm *hvm, uint64_t *ns, struct error **err)
{
	struct kvm_vm *vm = container_of(hvm, struct kvm_vm, vm);
	struct kvm_clock_data data = {};

	if (ioctl(vm->fd, KVM_GET_CLOCK, &data) < 0)
		return kvm_error(err, "cannot read the guest's clock");
	*ns = data.clock;
	return 0;
}

static int kvm_set_clock(struct hav_vm *hvm, uint64_t ns, struct error **err)
{
	struct kvm_vm *vm = container_of(hvm, struct kvm_vm, vm);
	struct kvm_clock_data data = { .clock = ns };

	if (ioctl(vm->fd, KVM_SET_CLOCK, &data) < 0)
		return kvm_error(err, "cannot set the guest's clock");
	return 0;
}

const struct hav_backend hav_backend_kvm = {
	.name = "kvm",
	.open = kvm_open,
	.close = kvm_close,
	.capability = kvm_capability,
	.cpuid_supported = kvm_cpuid_supported,
	.vm_create = kvm_vm_create,
	.vm_destroy = kvm_vm_destroy,
	.vm_map = kvm_vm_map,
	.vm_unmap = kvm_vm_unmap,
	.dirty_log = kvm_dirty_log,
	.irq_set = kvm_irq_set,
	.ioapic_route = kvm_ioapic_route,
	.msi_send = kvm_msi_send,
	.irqfd = kvm_irqfd,
	.ioeventfd = kvm_ioeventfd,
	.set_coalesced = kvm_set_coalesced,
	.coalesce = kvm_coalesce,
	.flush_coalesced = kvm_flush_coalesced,
	.get_clock = kvm_get_clock,
	.set_clock = kvm_set_clock,
	.vcpu_create = kvm_vcpu_create,
	.vcpu_destroy = kvm_vcpu_destroy,
	.set_cpuid = kvm_set_cpuid,
	.run = kvm_run,
	.kick = kvm_kick,
	.interrupt = kvm_interrupt,
	.interruptible = kvm_interruptible,
	.want_irq_window = kvm_want_irq_window,
	.nmi = kvm_nmi,
	.get_cr8 = kvm_get_cr8,
	.set_cr8 = kvm_set_cr8,
	.tsc_khz = kvm_tsc_khz,
	.tsc = kvm_tsc,
	.set_debug = kvm_set_debug,
	.reflect_debug = kvm_reflect_debug,
	.get_state = kvm_get_state,
	.set_state = kvm_set_state,
};
