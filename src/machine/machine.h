/*
 * The PC: what a `-M q35` or `-M microvm` machine is made of, put together by revirter's
 * assemble.c.
 *
 * The machine owns memory, buses, interrupts, PCI, vCPUs and devices. It knows nothing of options
 * or QMP; what happens to it (the guest asked for power-off, a reset, panicked) it tells through
 * `struct machine_events`.
 */
#ifndef REVIRT_MACHINE_MACHINE_H
#define REVIRT_MACHINE_MACHINE_H

#include "machine/bus.h"
#include "machine/device.h"
#include "machine/gmem.h"
#include "machine/irq.h"
#include "machine/pci.h"

#include <stdatomic.h>

struct backends;
struct coalescer;
struct hav_exit;
struct loop;
struct vclock;
struct vcpu;
struct vcpu_set;

#define MACHINE_MAX_VCPUS 64

/* Where things are; q35's own addresses. */
#define MACHINE_LOW_RAM_MAX 0x80000000ull /* q35: RAM above 2 GiB moves to 4 GiB */
#define MACHINE_ECAM_BASE   0xb0000000ull
#define MACHINE_MEM32_BASE  0xc0000000ull
#define MACHINE_MEM32_END   0xfebff000ull
#define MACHINE_IOAPIC_BASE 0xfec00000ull
#define MACHINE_HPET_BASE   0xfed00000ull
#define MACHINE_LAPIC_BASE  0xfee00000ull
#define MACHINE_PM_BASE     0x0600 /* ACPI PM1a event block; +4 control; +8 timer; +0x20 GPE0 */
#define MACHINE_SCI_GSI     9

enum machine_type { MACHINE_Q35, MACHINE_MICROVM };

/* Why the guest stopped being; QMP's ShutdownCause. */
enum machine_cause {
	CAUSE_HOST_QMP_QUIT,
	CAUSE_HOST_QMP_SYSTEM_RESET,
	CAUSE_HOST_SIGNAL,
	CAUSE_HOST_UI,
	CAUSE_GUEST_SHUTDOWN,
	CAUSE_GUEST_RESET,
	CAUSE_GUEST_PANIC,
	CAUSE_HOST_ERROR,
};
const char *machine_cause_name(enum machine_cause cause); /* "guest-shutdown" */
bool machine_cause_is_guest(enum machine_cause cause);

/* Called on any thread; implementations post to the main loop. */
struct machine_events {
	void (*shutdown)(void *opaque, enum machine_cause cause);
	void (*reset)(void *opaque, enum machine_cause cause);
	void (*panicked)(void *opaque, const char *action); /* "pause", "poweroff", "run" */
	void (*exit)(void *opaque, int status);             /* isa-debug-exit */
	void (*failed)(void *opaque);                   /* a vCPU can't go on: an internal error */
	void (*balloon)(void *opaque, uint64_t actual); /* bytes the guest has now */
	/* HAV_EXIT_DEBUG on its thread. True: a debugger takes it, the vCPU stands still until the
	 * machine is paused; false: it is the guest's own. May be NULL. */
	bool (*debug)(void *opaque, unsigned vcpu, const struct hav_exit *exit);
	void *opaque;
};

struct machine {
	enum machine_type type;
	const char *name;
	struct hav *hav;
	struct hav_vm *vm;
	struct loop *main_loop;
	struct gmem mem;
	struct bus *io, *memory;
	struct irqs irqs;
	enum hav_irqchip irqchip;    /* what of it is the backend's */
	struct vclock *clock;        /* NULL: all of it */
	struct coalescer *coalescer; /* NULL where the backend keeps no writes back */
	struct pci_host *pci;        /* NULL on microvm without PCI */
	struct backends *backends;
	struct machine_events events;
	struct vcpu *vcpus;
	unsigned n_vcpus;
	struct vcpu_set *vcpu_set;
	struct device *devices; /* in order of creation */
	struct device *last_device;
	void (*power_button)(struct machine *machine); /* set by the PM block */
};

void machine_shutdown(struct machine *machine,
		      enum machine_cause cause); /* guest side asks; any thread */
void machine_reset_request(struct machine *machine, enum machine_cause cause); /* any thread */

/* Creates a device of `class` and adds it to the list. */
int machine_add_device(struct machine *machine, const struct device_class *class,
		       const struct props *props, struct error **err);
struct device *machine_find_device(struct machine *machine, const char *id);
void machine_reset_devices(struct machine *machine);
void machine_pause_devices(struct machine *machine);
void machine_resume_devices(struct machine *machine);
void machine_destroy_devices(struct machine *machine);

#endif
