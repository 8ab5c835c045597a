/* The front of Revirt-U: the public calls, on whichever backend. See hav.h and backend.h. */
#include "hav.h"

#include "base/error.h"
#include "base/util.h"
#include "hav/backend.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define EXPORT    __attribute__((visibility("default")))
#define PAGE_SIZE 4096

/* In the order hav_open(NULL) tries them. */
static const struct hav_backend *const backends[] = {
	&hav_backend_kvm,
	&hav_backend_soft,
};

EXPORT const char *hav_error_message(const struct error *err)
{
	return error_message(err);
}

EXPORT void hav_error_free(struct error *err)
{
	error_free(err);
}

static int refuse(struct error **err, const char *what)
{
	error_set(err, "%s", what);
	errno = EINVAL;
	return -1;
}

/* --- Backends ---- */

EXPORT const char *hav_backend_at(unsigned i)
{
	return i < ARRAY_SIZE(backends) ? backends[i]->name : NULL;
}

static int open_named(struct hav **hav, const char *name, struct error **err)
{
	for (size_t i = 0; i < ARRAY_SIZE(backends); i++)
		if (strcmp(backends[i]->name, name) == 0)
			return backends[i]->open(hav, err);
	error_set(err, "no backend '%s'; there are: kvm, soft", name);
	return -1;
}

/* Takes the first at full speed. A slow one is kept in case there is no better. */
static int open_best(struct hav **out, struct error **err)
{
	struct error *first_error = NULL;
	struct hav *slow = NULL;

	for (size_t i = 0; i < ARRAY_SIZE(backends); i++) {
		bool last = i + 1 == ARRAY_SIZE(backends);
		struct hav_speed speed;
		struct hav *hav;

		if (backends[i]->open(&hav, first_error ? NULL : &first_error) < 0)
			continue;
		if ((last && !slow) ||
		    (hav_calibrate(hav, &speed, NULL) == 0 && speed.full_speed)) {
			hav_close(slow);
			slow = hav;
			break;
		}
		if (slow)
			hav_close(hav);
		else
			slow = hav;
	}
	if (!slow) {
		error_propagate(err, first_error);
		return -1;
	}
	error_free(first_error);
	*out = slow;
	return 0;
}

EXPORT int hav_open(struct hav **hav, const char *backend, struct error **err)
{
	return backend ? open_named(hav, backend, err) : open_best(hav, err);
}

EXPORT void hav_close(struct hav *hav)
{
	if (hav)
		hav->ops->close(hav);
}

EXPORT const char *hav_backend_name(const struct hav *hav)
{
	return hav->ops->name;
}

EXPORT unsigned hav_capability(const struct hav *hav, enum hav_cap cap)
{
	return hav->ops->capability(hav, cap);
}

EXPORT int hav_cpuid_supported(struct hav *hav, struct hav_cpuid *entries, size_t *n,
			       struct error **err)
{
	return hav->ops->cpuid_supported(hav, entries, n, err);
}

/* --- VMs ---- */

EXPORT int hav_vm_create(struct hav *hav, const struct hav_vm_config *config, struct hav_vm **vm,
			 struct error **err)
{
	struct hav_vm_config checked = *config;
	unsigned max = hav_capability(hav, HAV_CAP_MAX_VCPUS);

	if (!checked.max_vcpus)
		checked.max_vcpus = 1;
	if (checked.max_vcpus > max) {
		error_set(err, "%u vCPUs are more than the %u that %s supports", checked.max_vcpus,
			  max, hav->ops->name);
		return -1;
	}
	if ((checked.irqchip == HAV_IRQCHIP_KERNEL &&
	     !hav_capability(hav, HAV_CAP_IRQCHIP_KERNEL)) ||
	    (checked.irqchip == HAV_IRQCHIP_SPLIT && !hav_capability(hav, HAV_CAP_IRQCHIP_SPLIT)))
		return refuse(err, "the backend lacks these interrupt controllers");
	return hav->ops->vm_create(hav, &checked, vm, err);
}

EXPORT void hav_vm_destroy(struct hav_vm *vm)
{
	if (vm)
		vm->ops->vm_destroy(vm);
}

EXPORT int hav_vm_map(struct hav_vm *vm, uint64_t gpa, void *host, uint64_t size, unsigned flags,
		      struct error **err)
{
	if ((gpa | (uintptr_t)host | size) % PAGE_SIZE || !size || gpa + size < gpa ||
	    !(flags & HAV_MAP_READ))
		return refuse(err, "memory must be mapped readable, in whole pages of 4 KiB");
	return vm->ops->vm_map(vm, gpa, host, size, flags, err);
}

EXPORT int hav_vm_unmap(struct hav_vm *vm, uint64_t gpa, struct error **err)
{
	return vm->ops->vm_unmap(vm, gpa, err);
}

EXPORT int hav_vm_dirty_log(struct hav_vm *vm, uint64_t gpa, uint64_t *bitmap, struct error **err)
{
	return vm->ops->dirty_log(vm, gpa, bitmap, err);
}

EXPORT void hav_vm_memory_written(struct hav_vm *vm, uint64_t gpa, uint64_t size)
{
	if (vm->ops->memory_written)
		vm->ops->memory_written(vm, gpa, size);
}

EXPORT bool hav_vm_watches_memory(const struct hav_vm *vm)
{
	return vm->ops->memory_written;
}

EXPORT int hav_irq_set(struct hav_vm *vm, unsigned gsi, bool level, struct error **err)
{
	if (vm->config.irqchip != HAV_IRQCHIP_KERNEL)
		return refuse(err, "this VM's interrupt controllers are the caller's");
	return vm->ops->irq_set(vm, gsi, level, err);
}

EXPORT int hav_ioapic_route(struct hav_vm *vm, unsigned pin, const struct hav_msi *msi,
			    struct error **err)
{
	if (vm->config.irqchip != HAV_IRQCHIP_SPLIT)
		return refuse(err, "only VMs with local APICs alone are told of an IOAPIC's pins");
	return vm->ops->ioapic_route(vm, pin, msi, err);
}

EXPORT int hav_msi_send(struct hav_vm *vm, uint64_t address, uint32_t data)
{
	if (vm->config.irqchip == HAV_IRQCHIP_NONE)
		return refuse(NULL, "");
	return vm->ops->msi_send(vm, address, data);
}

EXPORT int hav_irqfd_bind(struct hav_vm *vm, int fd, int resample_fd, unsigned gsi,
			  const struct hav_msi *msi, struct error **err)
{
	if (!vm->ops->irqfd || vm->config.irqchip == HAV_IRQCHIP_NONE || vm->config.plain)
		return refuse(err, "the backend has no irqfd for this VM");
	return vm->ops->irqfd(vm, fd, resample_fd, gsi, msi, true, err);
}

EXPORT int hav_irqfd_unbind(struct hav_vm *vm, int fd, unsigned gsi, struct error **err)
{
	if (!vm->ops->irqfd)
		return refuse(err, "the backend has no irqfd");
	return vm->ops->irqfd(vm, fd, -1, gsi, NULL, false, err);
}

static int ioeventfd(struct hav_vm *vm, const struct hav_doorbell *doorbell, bool bind,
		     struct error **err)
{
	if (!vm->ops->ioeventfd || vm->config.plain)
		return refuse(err, "the backend has no ioeventfd");
	return vm->ops->ioeventfd(vm, doorbell, bind, err);
}

EXPORT int hav_ioeventfd_bind(struct hav_vm *vm, const struct hav_doorbell *doorbell,
			      struct error **err)
{
	return ioeventfd(vm, doorbell, true, err);
}

EXPORT int hav_ioeventfd_unbind(struct hav_vm *vm, const struct hav_doorbell *doorbell,
				struct error **err)
{
	return ioeventfd(vm, doorbell, false, err);
}

EXPORT void hav_vm_set_coalesced(struct hav_vm *vm, hav_coalesced_fn *fn, void *opaque)
{
	if (vm->ops->set_coalesced)
		vm->ops->set_coalesced(vm, fn, opaque);
}

EXPORT int hav_vm_coalesce(struct hav_vm *vm, enum hav_space space, uint64_t address, uint32_t size,
			   bool on, struct error **err)
{
	if (!vm->ops->coalesce || vm->config.plain)
		return refuse(err, "the backend keeps no writes back");
	return vm->ops->coalesce(vm, space, address, size, on, err);
}

EXPORT void hav_vm_flush_coalesced(struct hav_vm *vm)
{
	if (vm->ops->flush_coalesced)
		vm->ops->flush_coalesced(vm);
}

EXPORT int hav_vm_get_clock(struct hav_vm *vm, uint64_t *ns, struct error **err)
{
	if (!vm->ops->get_clock || vm->config.plain)
		return refuse(err, "the backend has no paravirtual clock");
	return vm->ops->get_clock(vm, ns, err);
}

EXPORT int hav_vm_set_clock(struct hav_vm *vm, uint64_t ns, struct error **err)
{
	if (!vm->ops->set_clock || vm->config.plain)
		return refuse(err, "the backend has no paravirtual clock");
	return vm->ops->set_clock(vm, ns, err);
}

/* --- vCPUs ---- */

EXPORT int hav_vcpu_create(struct hav_vm *vm, uint32_t id, struct hav_vcpu **vcpu,
			   struct error **err)
{
	if (id >= vm->config.max_vcpus) {
		error_set(err, "vCPU id %u is not below the VM's max_vcpus, %u", id,
			  vm->config.max_vcpus);
		return -1;
	}
	return vm->ops->vcpu_create(vm, id, vcpu, err);
}

EXPORT void hav_vcpu_destroy(struct hav_vcpu *vcpu)
{
	if (vcpu)
		vcpu->ops->vcpu_destroy(vcpu);
}

EXPORT int hav_vcpu_set_cpuid(struct hav_vcpu *vcpu, const struct hav_cpuid *entries, size_t n,
			      struct error **err)
{
	return vcpu->ops->set_cpuid(vcpu, entries, n, err);
}

EXPORT int hav_vcpu_run(struct hav_vcpu *vcpu, struct hav_exit *exit, struct error **err)
{
	return vcpu->ops->run(vcpu, exit, err);
}

EXPORT void hav_vcpu_kick(struct hav_vcpu *vcpu)
{
	vcpu->ops->kick(vcpu);
}

EXPORT int hav_vcpu_interrupt(struct hav_vcpu *vcpu, uint8_t vector, struct error **err)
{
	return vcpu->ops->interrupt(vcpu, vector, err);
}

EXPORT bool hav_vcpu_interruptible(const struct hav_vcpu *vcpu)
{
	return vcpu->ops->interruptible(vcpu);
}

EXPORT void hav_vcpu_want_irq_window(struct hav_vcpu *vcpu, bool want)
{
	vcpu->ops->want_irq_window(vcpu, want);
}

EXPORT int hav_vcpu_nmi(struct hav_vcpu *vcpu, struct error **err)
{
	return vcpu->ops->nmi(vcpu, err);
}

EXPORT unsigned hav_vcpu_get_cr8(const struct hav_vcpu *vcpu)
{
	return vcpu->ops->get_cr8(vcpu);
}

EXPORT void hav_vcpu_set_cr8(struct hav_vcpu *vcpu, unsigned cr8)
{
	vcpu->ops->set_cr8(vcpu, cr8 & 15);
}

EXPORT uint32_t hav_vcpu_tsc_khz(const struct hav_vcpu *vcpu)
{
	return vcpu->ops->tsc_khz(vcpu);
}

EXPORT uint64_t hav_vcpu_tsc(struct hav_vcpu *vcpu)
{
	return vcpu->ops->tsc(vcpu);
}

EXPORT bool hav_vcpu_code_cache(const struct hav_vcpu *vcpu, struct hav_code_cache *cache)
{
	return vcpu->ops->code_cache && vcpu->ops->code_cache(vcpu, cache);
}

EXPORT int hav_vcpu_set_debug(struct hav_vcpu *vcpu, const struct hav_debug *debug,
			      struct error **err)
{
	struct hav_debug checked = *debug;

	checked.block_interrupts = debug->enabled && debug->single_step && debug->block_interrupts;
	return vcpu->ops->set_debug(vcpu, &checked, err);
}

#define BP_VECTOR 3
#define DR6_CAUSE 0xe00full /* B0-B3, BD, BS, BT: Intel SDM vol. 3 §18.2.3 */

static int reflect_by_state(struct hav_vcpu *vcpu, const struct hav_exit *exit, struct error **err)
{
	const unsigned groups = HAV_STATE_REGS | HAV_STATE_DEBUG | HAV_STATE_EVENTS;
	struct hav_state *state AUTO_FREE = xcalloc(1, sizeof(*state));

	if (hav_vcpu_get_state(vcpu, groups, state, err) < 0)
		return -1;
	if (exit->debug.exception == BP_VECTOR)
		state->regs.rip++;
	else
		state->dr6 |= exit->debug.dr6 & DR6_CAUSE;
	state->events.exception_pending = true;
	state->events.exception_vector = exit->debug.exception;
	state->events.exception_has_error = false;
	return hav_vcpu_set_state(vcpu, groups, state, err);
}

EXPORT int hav_vcpu_reflect_debug(struct hav_vcpu *vcpu, const struct hav_exit *exit,
				  struct error **err)
{
	return vcpu->ops->reflect_debug ? vcpu->ops->reflect_debug(vcpu, exit, err)
					: reflect_by_state(vcpu, exit, err);
}

EXPORT int hav_vcpu_get_state(struct hav_vcpu *vcpu, unsigned groups, struct hav_state *state,
			      struct error **err)
{
	state->version = HAV_API_VERSION;
	state->groups = groups;
	return vcpu->ops->get_state(vcpu, groups, state, err);
}

EXPORT int hav_vcpu_set_state(struct hav_vcpu *vcpu, unsigned groups, const struct hav_state *state,
			      struct error **err)
{
	if (state->version != HAV_API_VERSION) {
		error_set(err, "vCPU state has version %u; this library knows %u", state->version,
			  HAV_API_VERSION);
		return -1;
	}
	if (groups & ~state->groups)
		return refuse(err, "vCPU state lacks some of the groups to set");
	return vcpu->ops->set_state(vcpu, groups, state, err);
}

EXPORT const char *hav_exit_name(enum hav_exit_reason reason)
{
	static const char *const names[] = {
		[HAV_EXIT_IO] = "IO",
		[HAV_EXIT_MMIO] = "MMIO",
		[HAV_EXIT_HLT] = "HLT",
		[HAV_EXIT_SHUTDOWN] = "SHUTDOWN",
		[HAV_EXIT_HYPERCALL] = "HYPERCALL",
		[HAV_EXIT_DEBUG] = "DEBUG",
		[HAV_EXIT_INTERRUPTED] = "INTERRUPTED",
		[HAV_EXIT_IRQ_WINDOW] = "IRQ_WINDOW",
		[HAV_EXIT_EOI] = "EOI",
		[HAV_EXIT_MSR] = "MSR",
		[HAV_EXIT_FAILED] = "FAILED",
		[HAV_EXIT_TPR] = "TPR",
	};

	return (unsigned)reason < ARRAY_SIZE(names) ? names[reason] : "?";
}
