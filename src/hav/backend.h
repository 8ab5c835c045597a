/*
 * What a backend of Revirt-U is: one table of functions, each with the contract hav.h gives the
 * call of the same name. The front (hav.c) checks arguments that every backend would have to check,
 * and calls these.
 *
 * A function a backend lacks is NULL where hav_capability() says so.
 */
#ifndef REVIRT_HAV_BACKEND_H
#define REVIRT_HAV_BACKEND_H

#include "hav.h"

struct hav_backend {
	const char *name;
	int (*open)(struct hav **hav, struct error **err);
	void (*close)(struct hav *hav);
	unsigned (*capability)(const struct hav *hav, enum hav_cap cap);
	int (*cpuid_supported)(struct hav *hav, struct hav_cpuid *entries, size_t *n,
			       struct error **err);

	int (*vm_create)(struct hav *hav, const struct hav_vm_config *config, struct hav_vm **vm,
			 struct error **err);
	void (*vm_destroy)(struct hav_vm *vm);
	int (*vm_map)(struct hav_vm *vm, uint64_t gpa, void *host, uint64_t size, unsigned flags,
		      struct error **err);
	int (*vm_unmap)(struct hav_vm *vm, uint64_t gpa, struct error **err);
	int (*dirty_log)(struct hav_vm *vm, uint64_t gpa, uint64_t *bitmap, struct error **err);
	/* NULL: nothing to do. */
	void (*memory_written)(struct hav_vm *vm, uint64_t gpa, uint64_t size);
	int (*irq_set)(struct hav_vm *vm, unsigned gsi, bool level, struct error **err);
	int (*ioapic_route)(struct hav_vm *vm, unsigned pin, const struct hav_msi *msi,
			    struct error **err);
	int (*msi_send)(struct hav_vm *vm, uint64_t address, uint32_t data);
	int (*irqfd)(struct hav_vm *vm, int fd, int resample_fd, unsigned gsi,
		     const struct hav_msi *msi, bool bind, struct error **err);
	int (*ioeventfd)(struct hav_vm *vm, const struct hav_doorbell *doorbell, bool bind,
			 struct error **err);
	void (*set_coalesced)(struct hav_vm *vm, hav_coalesced_fn *fn, void *opaque);
	int (*coalesce)(struct hav_vm *vm, enum hav_space space, uint64_t address, uint32_t size,
			bool on, struct error **err);
	void (*flush_coalesced)(struct hav_vm *vm);
	int (*get_clock)(struct hav_vm *vm, uint64_t *ns, struct error **err);
	int (*set_clock)(struct hav_vm *vm, uint64_t ns, struct error **err);

	int (*vcpu_create)(struct hav_vm *vm, uint32_t id, struct hav_vcpu **vcpu,
			   struct error **err);
	void (*vcpu_destroy)(struct hav_vcpu *vcpu);
	int (*set_cpuid)(struct hav_vcpu *vcpu, const struct hav_cpuid *entries, size_t n,
			 struct error **err);
	int (*run)(struct hav_vcpu *vcpu, struct hav_exit *exit, struct error **err);
	void (*kick)(struct hav_vcpu *vcpu);
	int (*interrupt)(struct hav_vcpu *vcpu, uint8_t vector, struct error **err);
	bool (*interruptible)(const struct hav_vcpu *vcpu);
	void (*want_irq_window)(struct hav_vcpu *vcpu, bool want);
	int (*nmi)(struct hav_vcpu *vcpu, struct error **err);
	unsigned (*get_cr8)(const struct hav_vcpu *vcpu);
	void (*set_cr8)(struct hav_vcpu *vcpu, unsigned cr8);
	uint32_t (*tsc_khz)(const struct hav_vcpu *vcpu);
	uint64_t (*tsc)(struct hav_vcpu *vcpu);
	/* NULL: the backend makes none. */
	bool (*code_cache)(const struct hav_vcpu *vcpu, struct hav_code_cache *cache);
	int (*set_debug)(struct hav_vcpu *vcpu, const struct hav_debug *debug, struct error **err);
	/* NULL: a pending exception in HAV_STATE_EVENTS, RIP past the INT3, will do. */
	int (*reflect_debug)(struct hav_vcpu *vcpu, const struct hav_exit *exit,
			     struct error **err);
	int (*get_state)(struct hav_vcpu *vcpu, unsigned groups, struct hav_state *state,
			 struct error **err);
	int (*set_state)(struct hav_vcpu *vcpu, unsigned groups, const struct hav_state *state,
			 struct error **err);
};

/* The heads of every backend's own structs. */
struct hav {
	const struct hav_backend *ops;
};

struct hav_vm {
	const struct hav_backend *ops;
	struct hav_vm_config config;
};

struct hav_vcpu {
	const struct hav_backend *ops;
};

extern const struct hav_backend hav_backend_kvm;
extern const struct hav_backend hav_backend_soft;

#endif
