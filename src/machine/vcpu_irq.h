/*
 * How vCPUs' threads meet interrupts, where the backend leaves those to us: all of them
 * (HAV_IRQCHIP_NONE), or those of the PICs (HAV_IRQCHIP_SPLIT).
 *
 * Before each entry into the guest a thread asks vcpu_irq_enter(), which delivers what has come,
 * and sleeps while the guest halts. Anyone who has something for a vCPU stores it, then calls
 * vcpu_notify(), which gets it out of the guest or of its sleep.
 */
#ifndef REVIRT_MACHINE_VCPU_IRQ_H
#define REVIRT_MACHINE_VCPU_IRQ_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct error;
struct hav_exit;
struct lapic;
struct machine;
struct vclock_alarm;
struct vcpu;

struct vcpu_irq {
	struct lapic *lapic; /* NULL: the backend's */
	bool pics;           /* what the PICs say may be for this one */
	_Atomic uint32_t where;
	atomic_bool timer_due;
	struct vclock_alarm *alarm;
	uint64_t armed; /* what the alarm is set to */
	bool halted, waits_for_sipi, wants_window;
};

/* After the vCPUs are made. */
int vcpus_make_lapics(struct machine *machine, struct error **err);
/* Once, on the vCPU's thread, before it is locked in. */
void vcpu_irq_thread(struct vcpu *vcpu);
void vcpu_irq_reset(struct vcpu *vcpu);

/* On the vCPU's thread. 1: run the guest; 0: look what is wanted of the thread; -1: an error. */
int vcpu_irq_enter(struct vcpu *vcpu, struct error **err);
void vcpu_irq_left(struct vcpu *vcpu);
/* True when the exit was about interrupts. */
bool vcpu_irq_exit(struct vcpu *vcpu, struct hav_exit *exit);

/* Any thread: */
void vcpu_notify(struct vcpu *vcpu); /* there is something for vcpu_irq_enter() */
void vcpu_kick(struct vcpu *vcpu);   /* out of the guest or its sleep, to look what is wanted */
void vcpus_notify_pic(struct machine *machine);

#endif
