/*
 * KVM: interrupt controllers in the kernel, irqfds, ioeventfds and the ring of writes kept back.
 *
 * GSI routing is one table that is set as a whole: the 24 IOAPIC pins (with the PICs' 16 lines),
 * followed by the messages that irqfds stand for. The kernel's own table is like it, but that it
 * has the interval timer on pin 0.
 */
#include "hav/kvm/kvm.h"

#include "base/error.h"
#include "base/util.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#define IOAPIC_PINS KVM_IOAPIC_PINS
#define PIC_LINES   16
#define IRQ0_PIN    2 /* the PIT reaches IOAPIC pin 2, as the MADT says */

static struct kvm_vm *to_kvm(struct hav_vm *vm)
{
	return container_of(vm, struct kvm_vm, vm);
}

int kvm_irq_set(struct hav_vm *vm, unsigned gsi, bool level, struct error **err)
{
	struct kvm_irq_level irq = { .irq = gsi, .level = level };

	if (ioctl(to_kvm(vm)->fd, KVM_IRQ_LINE, &irq) < 0)
		return kvm_error(err, "cannot drive an interrupt line");
	return 0;
}

int kvm_msi_send(struct hav_vm *vm, uint64_t address, uint32_t data)
{
	struct kvm_msi msi = {
		.address_lo = address,
		.address_hi = address >> 32,
		.data = data,
	};

	return ioctl(to_kvm(vm)->fd, KVM_SIGNAL_MSI, &msi) < 0 ? -1 : 0;
}

/* --- Controllers and routes ---- */

static void route_chip(struct kvm_irq_routing *table, unsigned gsi, unsigned chip, unsigned pin)
{
	table->entries[table->nr++] = (struct kvm_irq_routing_entry){
		.gsi = gsi,
		.type = KVM_IRQ_ROUTING_IRQCHIP,
		.u.irqchip = { chip, pin },
	};
}

static void route_msi(struct kvm_irq_routing *table, unsigned gsi, const struct hav_msi *msi)
{
	table->entries[table->nr++] = (struct kvm_irq_routing_entry){
		.gsi = gsi,
		.type = KVM_IRQ_ROUTING_MSI,
		.u.msi = { .address_lo = msi->address,
			   .address_hi = msi->address >> 32,
			   .data = msi->data },
	};
}

static int write_routing(struct kvm_vm *vm, struct error **err)
{
	unsigned max = PIC_LINES + IOAPIC_PINS + KVM_MAX_MSI_ROUTES;
	struct kvm_irq_routing *table AUTO_FREE =
		xcalloc(1, sizeof(*table) + max * sizeof(table->entries[0]));

	if (vm->vm.config.irqchip == HAV_IRQCHIP_KERNEL) {
		for (unsigned i = 0; i < PIC_LINES; i++)
			route_chip(table, i, i < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE,
				   i & 7);
		for (unsigned i = 0; i < IOAPIC_PINS; i++)
			if (i != IRQ0_PIN)
				route_chip(table, i, KVM_IRQCHIP_IOAPIC, i == 0 ? IRQ0_PIN : i);
	}
	for (unsigned i = 0; i < IOAPIC_PINS; i++)
		if (vm->pins[i].address)
			route_msi(table, i, &vm->pins[i]);
	for (unsigned i = 0; i < vm->n_routes; i++)
		if (vm->routes[i].fd >= 0)
			route_msi(table, vm->routes[i].gsi, &vm->routes[i].msi);
	if (ioctl(vm->fd, KVM_SET_GSI_ROUTING, table) < 0)
		return kvm_error(err, "cannot set interrupt routes");
	return 0;
}

/*
 * KVM finds in its table which vectors' EOIs are an IOAPIC's business.
 * #syscalls ioctl=KVM_SET_GSI_ROUTING
 */
int kvm_ioapic_route(struct hav_vm *hvm, unsigned pin, const struct hav_msi *msi,
		     struct error **err)
{
	struct kvm_vm *vm = to_kvm(hvm);
	int r;

	if (pin >= IOAPIC_PINS) {
		error_set(err, "the IOAPIC has no pin %u", pin);
		return -1;
	}
	pthread_mutex_lock(&vm->lock);
	vm->pins[pin] = msi ? *msi : (struct hav_msi){};
	r = write_routing(vm, err);
	pthread_mutex_unlock(&vm->lock);
	return r;
}

static int create_split(struct kvm_vm *vm, struct error **err)
{
	struct kvm_enable_cap cap = { .cap = KVM_CAP_SPLIT_IRQCHIP, .args = { IOAPIC_PINS } };

	if (ioctl(vm->fd, KVM_ENABLE_CAP, &cap) < 0)
		return kvm_error(err, "cannot create local APICs alone");
	return 0;
}

static int create_full(struct kvm_vm *vm, struct error **err)
{
	struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY };

	if (ioctl(vm->fd, KVM_CREATE_IRQCHIP, 0) < 0)
		return kvm_error(err, "cannot create the interrupt controllers");
	if (ioctl(vm->fd, KVM_CREATE_PIT2, &pit) < 0)
		return kvm_error(err, "cannot create the interval timer");
	return write_routing(vm, err);
}

#define MSR_APIC_BASE    0x1b
#define MSR_TSC_DEADLINE 0x6e0

/*
 * The MSRs of local APICs that are the caller's. The x2APIC's KVM refuses by itself where it has no
 * local APICs, and what it refuses comes out too: whoever runs the vCPU knows which are his.
 */
static int let_msrs_out(struct kvm_vm *vm, struct error **err)
{
	struct kvm_enable_cap cap = {
		.cap = KVM_CAP_X86_USER_SPACE_MSR,
		.args = { KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_FILTER },
	};
	uint8_t none[8] = {}; /* a bit an MSR: 0 lets it out */
	struct kvm_msr_filter filter = { .flags = KVM_MSR_FILTER_DEFAULT_ALLOW };
	const uint32_t msrs[] = { MSR_APIC_BASE, MSR_TSC_DEADLINE };

	if (!vm->kvm->msr_exits)
		return 0;
	for (unsigned i = 0; i < ARRAY_SIZE(msrs); i++)
		filter.ranges[i] = (struct kvm_msr_filter_range){
			.flags = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE,
			.base = msrs[i],
			.nmsrs = 1,
			.bitmap = none,
		};
	if (ioctl(vm->fd, KVM_ENABLE_CAP, &cap) < 0 ||
	    ioctl(vm->fd, KVM_X86_SET_MSR_FILTER, &filter) < 0)
		return kvm_error(err, "cannot take over the local APICs' MSRs");
	return 0;
}

static int create(struct kvm_vm *vm, struct error **err)
{
	switch (vm->vm.config.irqchip) {
	case HAV_IRQCHIP_KERNEL: return create_full(vm, err);
	case HAV_IRQCHIP_SPLIT: return create_split(vm, err);
	case HAV_IRQCHIP_NONE: return let_msrs_out(vm, err);
	}
	return 0;
}

/*
 * Not with the VM, but with its first vCPU, as late as KVM lets us: memory that is mapped after the
 * interval timer was made waits some 10 ms for the kernel to retire its old table of ports.
 */
int kvm_irqchip_create(struct kvm_vm *vm, struct error **err)
{
	int r = 0;

	pthread_mutex_lock(&vm->lock);
	if (!vm->irqchip_made)
		r = create(vm, err);
	vm->irqchip_made = r == 0;
	pthread_mutex_unlock(&vm->lock);
	return r;
}

/* --- irqfd ---- */

static struct kvm_msi_route *find_route(struct kvm_vm *vm, int fd, unsigned gsi)
{
	for (unsigned i = 0; i < vm->n_routes; i++)
		if (vm->routes[i].fd == fd && vm->routes[i].gsi == gsi)
			return &vm->routes[i];
	return NULL;
}

static struct kvm_msi_route *new_route(struct kvm_vm *vm)
{
	for (unsigned i = 0; i < vm->n_routes; i++)
		if (vm->routes[i].fd < 0)
			return &vm->routes[i];
	return vm->n_routes < KVM_MAX_MSI_ROUTES ? &vm->routes[vm->n_routes++] : NULL;
}

static int set_irqfd(struct kvm_vm *vm, int fd, int resample_fd, unsigned gsi, unsigned flags,
		     struct error **err)
{
	struct kvm_irqfd irqfd = { .fd = fd, .gsi = gsi, .flags = flags };

	if (resample_fd >= 0) {
		irqfd.flags |= KVM_IRQFD_FLAG_RESAMPLE;
		irqfd.resamplefd = resample_fd;
	}
	if (ioctl(vm->fd, KVM_IRQFD, &irqfd) < 0)
		return kvm_error(err, "cannot bind an eventfd to an interrupt");
	return 0;
}

static int bind_msi(struct kvm_vm *vm, int fd, unsigned gsi, const struct hav_msi *msi,
		    struct error **err)
{
	struct kvm_msi_route *route = find_route(vm, fd, gsi);
	bool known = route;

	if (gsi < IOAPIC_PINS) {
		error_set(err, "GSI %u is an IOAPIC pin; messages take %u and up", gsi,
			  IOAPIC_PINS);
		return -1;
	}
	if (!known)
		route = new_route(vm);
	if (!route) {
		error_set(err, "KVM: all %d message routes are in use", KVM_MAX_MSI_ROUTES);
		return -1;
	}
	*route = (struct kvm_msi_route){ fd, gsi, *msi };
	if (write_routing(vm, err) == 0 && (known || set_irqfd(vm, fd, -1, gsi, 0, err) == 0))
		return 0;
	if (!known)
		route->fd = -1;
	return -1;
}

static int unbind(struct kvm_vm *vm, int fd, unsigned gsi, struct error **err)
{
	struct kvm_msi_route *route = find_route(vm, fd, gsi);

	if (set_irqfd(vm, fd, -1, gsi, KVM_IRQFD_FLAG_DEASSIGN, err) < 0)
		return -1;
	if (route) {
		route->fd = -1;
		return write_routing(vm, err);
	}
	return 0;
}

int kvm_irqfd(struct hav_vm *hvm, int fd, int resample_fd, unsigned gsi, const struct hav_msi *msi,
	      bool bind, struct error **err)
{
	struct kvm_vm *vm = to_kvm(hvm);
	int r;

	pthread_mutex_lock(&vm->lock);
	if (!bind)
		r = unbind(vm, fd, gsi, err);
	else if (msi)
		r = bind_msi(vm, fd, gsi, msi, err);
	else
		r = set_irqfd(vm, fd, resample_fd, gsi, 0, err);
	pthread_mutex_unlock(&vm->lock);
	return r;
}

/* --- ioeventfd ---- */

/* #syscalls ioctl=KVM_IOEVENTFD */
int kvm_ioeventfd(struct hav_vm *hvm, const struct hav_doorbell *doorbell, bool bind,
		  struct error **err)
{
	struct kvm_ioeventfd args = {
		.datamatch = doorbell->value,
		.addr = doorbell->address,
		.len = doorbell->size,
		.fd = doorbell->fd,
		.flags = (doorbell->space == HAV_SPACE_IO ? KVM_IOEVENTFD_FLAG_PIO : 0) |
			 (doorbell->match ? KVM_IOEVENTFD_FLAG_DATAMATCH : 0) |
			 (bind ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN),
	};

	if (ioctl(to_kvm(hvm)->fd, KVM_IOEVENTFD, &args) < 0)
		return kvm_error(err, "cannot bind an eventfd to an address");
	return 0;
}

/* --- Writes kept back ---- */

void kvm_set_coalesced(struct hav_vm *hvm, hav_coalesced_fn *fn, void *opaque)
{
	struct kvm_vm *vm = to_kvm(hvm);

	vm->coalesced = fn;
	vm->coalesced_opaque = opaque;
}

/* #syscalls ioctl=KVM_REGISTER_COALESCED_MMIO ioctl=KVM_UNREGISTER_COALESCED_MMIO */
int kvm_coalesce(struct hav_vm *hvm, enum hav_space space, uint64_t address, uint32_t size, bool on,
		 struct error **err)
{
	struct kvm_vm *vm = to_kvm(hvm);
	struct kvm_coalesced_mmio_zone zone = {
		.addr = address,
		.size = size,
		.pio = space == HAV_SPACE_IO,
	};

	if (!vm->kvm->coalesced_page) {
		error_set(err, "KVM: the kernel keeps no writes back");
		return -1;
	}
	if (ioctl(vm->fd, on ? KVM_REGISTER_COALESCED_MMIO : KVM_UNREGISTER_COALESCED_MMIO, &zone) <
	    0)
		return kvm_error(err, "cannot keep writes back");
	return 0;
}

#define RING_ENTRIES \
	((4096 - sizeof(struct kvm_coalesced_mmio_ring)) / sizeof(struct kvm_coalesced_mmio))

/* The lock keeps the order among vCPUs that leave the guest at the same time. */
void kvm_flush_coalesced(struct hav_vm *hvm)
{
	struct kvm_vm *vm = to_kvm(hvm);
	struct kvm_coalesced_mmio_ring *ring = vm->ring;

	if (!ring || !vm->coalesced ||
	    __atomic_load_n(&ring->first, __ATOMIC_RELAXED) ==
		    __atomic_load_n(&ring->last, __ATOMIC_ACQUIRE))
		return;
	pthread_mutex_lock(&vm->ring_lock);
	while (ring->first != __atomic_load_n(&ring->last, __ATOMIC_ACQUIRE)) {
		struct kvm_coalesced_mmio entry = ring->coalesced_mmio[ring->first];
		uint64_t value = 0;

		memcpy(&value, entry.data, MIN(entry.len, sizeof(value)));
		__atomic_store_n(&ring->first, (ring->first + 1) % RING_ENTRIES, __ATOMIC_RELEASE);
		vm->coalesced(vm->coalesced_opaque, entry.pio ? HAV_SPACE_IO : HAV_SPACE_MEMORY,
			      entry.phys_addr, entry.len, value);
	}
	pthread_mutex_unlock(&vm->ring_lock);
}
