/* The KVM backend's own structs, shared by its files: kvm.c (system, VM), irq.c, vcpu.c, state.c.
 */
#ifndef REVIRT_HAV_KVM_KVM_H
#define REVIRT_HAV_KVM_KVM_H

#include "hav/backend.h"

#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>

#define KVM_MAX_SLOTS      64
#define KVM_MAX_MSI_ROUTES 128
#define KVM_IOAPIC_PINS    24

struct kvm_hav {
	struct hav hav;
	int fd;
	int run_size; /* bytes of a vCPU's shared area */
	bool ioeventfd, irqfd, split_irqchip, kernel_irqchip, tsc_deadline, debug_blockirq;
	bool msr_exits, tsc_deadline_exits;
	unsigned max_vcpus, max_slots;
	unsigned coalesced_page; /* of the shared area, 0: the kernel has no such ring */
	unsigned xsave_size;
	struct kvm_msr_list *msr_list; /* what state consists of; made when first needed */
};

struct kvm_slot {
	uint64_t gpa, size;
	void *host; /* NULL: the slot is free */
	unsigned flags;
};

struct kvm_msi_route {
	int fd; /* -1: free */
	unsigned gsi;
	struct hav_msi msi;
};

struct kvm_vm {
	struct hav_vm vm;
	struct kvm_hav *kvm;
	int fd;
	pthread_mutex_t lock; /* of slots, routes and irqchip_made */
	bool irqchip_made;
	struct kvm_slot slots[KVM_MAX_SLOTS];
	struct kvm_msi_route routes[KVM_MAX_MSI_ROUTES];
	unsigned n_routes;
	struct hav_msi pins[KVM_IOAPIC_PINS]; /* see hav_ioapic_route(); address 0: none */

	pthread_mutex_t ring_lock;
	struct kvm_coalesced_mmio_ring *_Atomic ring;
	hav_coalesced_fn *coalesced;
	void *coalesced_opaque;
};

struct kvm_vcpu {
	struct hav_vcpu vcpu;
	struct kvm_vm *vm;
	uint32_t id;
	int fd;
	struct kvm_run *run;
	_Atomic int tid; /* of the thread in hav_vcpu_run(), 0 before its first */
	bool software_breakpoints;
	uint64_t hypercall_ret;
	uint32_t tsc_khz;
};

int kvm_error(struct error **err, const char *what);

/* irq.c */
/* Before the first vCPU is made. Once. */
int kvm_irqchip_create(struct kvm_vm *vm, struct error **err);
int kvm_irq_set(struct hav_vm *vm, unsigned gsi, bool level, struct error **err);
int kvm_ioapic_route(struct hav_vm *vm, unsigned pin, const struct hav_msi *msi,
		     struct error **err);
int kvm_msi_send(struct hav_vm *vm, uint64_t address, uint32_t data);
int kvm_irqfd(struct hav_vm *vm, int fd, int resample_fd, unsigned gsi, const struct hav_msi *msi,
	      bool bind, struct error **err);
int kvm_ioeventfd(struct hav_vm *vm, const struct hav_doorbell *doorbell, bool bind,
		  struct error **err);
void kvm_set_coalesced(struct hav_vm *vm, hav_coalesced_fn *fn, void *opaque);
int kvm_coalesce(struct hav_vm *vm, enum hav_space space, uint64_t address, uint32_t size, bool on,
		 struct error **err);
void kvm_flush_coalesced(struct hav_vm *vm);

/* vcpu.c */
int kvm_vcpu_create(struct hav_vm *vm, uint32_t id, struct hav_vcpu **vcpu, struct error **err);
void kvm_vcpu_destroy(struct hav_vcpu *vcpu);
int kvm_set_cpuid(struct hav_vcpu *vcpu, const struct hav_cpuid *entries, size_t n,
		  struct error **err);
int kvm_run(struct hav_vcpu *vcpu, struct hav_exit *exit, struct error **err);
void kvm_kick(struct hav_vcpu *vcpu);
int kvm_interrupt(struct hav_vcpu *vcpu, uint8_t vector, struct error **err);
bool kvm_interruptible(const struct hav_vcpu *vcpu);
void kvm_want_irq_window(struct hav_vcpu *vcpu, bool want);
int kvm_nmi(struct hav_vcpu *vcpu, struct error **err);
unsigned kvm_get_cr8(const struct hav_vcpu *vcpu);
void kvm_set_cr8(struct hav_vcpu *vcpu, unsigned cr8);
uint32_t kvm_tsc_khz(const struct hav_vcpu *vcpu);
uint64_t kvm_tsc(struct hav_vcpu *vcpu);
int kvm_install_kick_signal(struct error **err);

/* debug.c */
int kvm_set_debug(struct hav_vcpu *vcpu, const struct hav_debug *debug, struct error **err);
int kvm_reflect_debug(struct hav_vcpu *vcpu, const struct hav_exit *exit, struct error **err);
void kvm_exit_debug(struct kvm_run *run, struct hav_exit *exit);
/* The internal error at hand is an INT3 that the kernel can't emulate: then exit says so. */
bool kvm_is_unknown_int3(struct kvm_vcpu *vcpu, struct hav_exit *exit);

/* state.c */
int kvm_get_state(struct hav_vcpu *vcpu, unsigned groups, struct hav_state *state,
		  struct error **err);
int kvm_set_state(struct hav_vcpu *vcpu, unsigned groups, const struct hav_state *state,
		  struct error **err);

#endif
