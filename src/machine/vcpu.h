/*
 * Virtual CPUs: one thread each, which runs guest code and carries its accesses to the buses.
 *
 * The main loop starts, pauses and resumes all of them together. A vCPU stands still ("parked") on
 * a condition variable; to park the others it is kicked out of the guest. What a vCPU meets that
 * concerns the whole machine (triple fault, an internal error) goes out by machine->events.
 */
#ifndef REVIRT_MACHINE_VCPU_H
#define REVIRT_MACHINE_VCPU_H

#include "base/loop.h"
#include "machine/machine.h"
#include "machine/vcpu_irq.h"

#include <pthread.h>

struct cpu_topology;
struct hav_cpuid;
struct hav_state;

struct vcpu_set {
	pthread_mutex_t lock;
	pthread_cond_t changed; /* parked vCPUs wait here */
	bool paused, quit;
	atomic_bool wanted; /* either: see without the lock */
	unsigned n_parked;
	struct loop_call parked_note; /* wakes the main loop in vcpus_pause() */
	uint64_t clock_ns;            /* the guest's clock while paused */
	bool clock_valid;
	struct hav_state *reset_state;
	bool has_run; /* since reset_state was read */
	void (*enter)(void);
	void (*first_entry)(void *opaque);
	void *first_entry_opaque;
};

struct vcpu {
	struct machine *machine;
	struct hav_vcpu *hav;
	unsigned id, apic_id;
	pthread_t thread;
	bool started;
	bool held; /* stands still also when the others run */
	int tid;   /* the thread's, for query-cpus-fast */
	struct vcpu_irq irq;
};

/* Makes the vCPUs, in reset state. cpuid entries are the model's; APIC ids and topology are filled
 * in here. */
int vcpus_create(struct machine *machine, unsigned n, const struct hav_cpuid *cpuid, size_t n_cpuid,
		 const struct cpu_topology *topology, struct error **err);

/*
 * Starts the threads, parked. enter runs first in each (it enters the thread's seccomp filter);
 * first_entry, if not NULL, is called once by vCPU 0 just before it first runs the guest.
 */
int vcpus_start(struct machine *machine, void (*enter)(void), void (*first_entry)(void *opaque),
		void *opaque, struct error **err);

/* On the main loop's thread; pause returns when all stand still. */
void vcpus_pause(struct machine *machine);
void vcpus_resume(struct machine *machine);

/* Keeps a vCPU from running when the others resume: for debuggers. While paused. */
void vcpu_hold(struct vcpu *vcpu, bool held);

/* The machine is to pause or end. Any thread. */
bool vcpu_is_wanted(const struct vcpu *vcpu);

/* What every register holds after power-on, on the first vCPU. */
const struct hav_state *vcpus_reset_state(const struct machine *machine);

/* Back to the power-on state; vCPU 0 then gets what state says. While paused. */
int vcpus_reset(struct machine *machine, const struct hav_state *bsp, struct error **err);

/* Ends the threads. Devices may still interrupt the vCPUs, and tell of what they write. */
void vcpus_end(struct machine *machine);
/* Destroys the vCPUs, once no device does anything any more. */
void vcpus_destroy(struct machine *machine);

#endif
