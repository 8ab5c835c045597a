/*
 * Virtual CPUs and their threads: see vcpu.h.
 *
 * A vCPU's thread runs the guest until hav says it was kicked, and only then looks whether it is to
 * stand still or end: a guest exit costs no look at shared state. One lock and one condition serve
 * all: they are used when VMs are paused, reset and ended.
 *
 * The reset state is what the backend gave vCPU 0 when it was made; the others' differs from it in
 * the bootstrap flag, the APIC id, and in that they wait for INIT (Intel SDM vol. 3 §9.4).
 */
#include "machine/vcpu.h"

#include "base/error.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "hav.h"
#include "machine/lapic.h"
#include "x86/cpuid.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#define APIC_BASE_BSP   BIT(8) /* IA32_APIC_BASE, Intel SDM vol. 3 §11.4.4 */
#define LAPIC_ID_OFFSET 0x20
#define VECTOR_DB       1
#define DR6_BS          BIT(14)
#define MAX_CPUID       256

/* --- Exits ---- */

static void do_io(struct machine *machine, struct hav_exit *exit)
{
	uint8_t *data = exit->io.data;

	for (uint32_t i = 0; i < exit->io.count; i++, data += exit->io.size) {
		uint64_t value = 0;

		if (exit->io.write) {
			memcpy(&value, data, exit->io.size);
			bus_write(machine->io, exit->io.port, exit->io.size, value);
		} else {
			value = bus_read(machine->io, exit->io.port, exit->io.size);
			memcpy(data, &value, exit->io.size);
		}
	}
}

/* Odd sizes (an access that crosses a page) come as pieces of powers of two. */
static void do_mmio(struct machine *machine, struct hav_exit *exit)
{
	unsigned size = exit->mmio.size;

	for (unsigned done = 0, n; done < size; done += n) {
		uint64_t value = 0;

		n = size - done >= 8 ? 8 : size - done >= 4 ? 4 : size - done >= 2 ? 2 : 1;
		if (exit->mmio.write) {
			memcpy(&value, exit->mmio.data + done, n);
			bus_write(machine->memory, exit->mmio.gpa + done, n, value);
		} else {
			value = bus_read(machine->memory, exit->mmio.gpa + done, n);
			memcpy(exit->mmio.data + done, &value, n);
		}
	}
}

static void trace_exit(const struct vcpu *vcpu, const struct hav_exit *exit)
{
	switch (exit->reason) {
	case HAV_EXIT_IO:
		log_item(LOG_EXITS, "vcpu %u: IO %s port 0x%x size %u", vcpu->id,
			 exit->io.write ? "write" : "read", exit->io.port, exit->io.size);
		break;
	case HAV_EXIT_MMIO:
		log_item(LOG_EXITS, "vcpu %u: MMIO %s 0x%llx size %u", vcpu->id,
			 exit->mmio.write ? "write" : "read", (unsigned long long)exit->mmio.gpa,
			 exit->mmio.size);
		break;
	default: log_item(LOG_EXITS, "vcpu %u: %s", vcpu->id, hav_exit_name(exit->reason)); break;
	}
}

/* The guest can't go on from here: stand still until the main loop has paused, and then reset, the
 * machine. */
static void wait_for_pause(struct vcpu_set *set)
{
	pthread_mutex_lock(&set->lock);
	while (!set->paused && !set->quit)
		pthread_cond_wait(&set->changed, &set->lock);
	pthread_mutex_unlock(&set->lock);
}

static void report_failure(struct vcpu *vcpu, const char *text, unsigned code)
{
	struct hav_state *state AUTO_FREE = xcalloc(1, sizeof(*state));

	log_warn("vCPU %u stopped: %s (%u)", vcpu->id, text, code);
	if (hav_vcpu_get_state(vcpu->hav, HAV_STATE_REGS | HAV_STATE_SREGS, state, NULL) == 0)
		log_warn("vCPU %u: rip 0x%llx rsp 0x%llx cs 0x%x cr0 0x%llx cr3 0x%llx efer 0x%llx",
			 vcpu->id, (unsigned long long)state->regs.rip,
			 (unsigned long long)state->regs.rsp, state->sregs.cs.selector,
			 (unsigned long long)state->sregs.cr0, (unsigned long long)state->sregs.cr3,
			 (unsigned long long)state->sregs.efer);
	vcpu->machine->events.failed(vcpu->machine->events.opaque);
	wait_for_pause(vcpu->machine->vcpu_set);
}

/* What no debugger takes is the guest's own. */
static bool handle_debug(struct vcpu *vcpu, const struct hav_exit *exit)
{
	struct machine_events *events = &vcpu->machine->events;
	struct error *err ERROR_AUTO = NULL;

	if (events->debug && events->debug(events->opaque, vcpu->id, exit)) {
		wait_for_pause(vcpu->machine->vcpu_set);
		return false;
	}
	if (hav_vcpu_reflect_debug(vcpu->hav, exit, &err) == 0)
		return true;
	report_failure(vcpu, error_message(err), error_errno(err));
	return false;
}

/* A HLT that left the guest instead of ending the step that it was. */
static bool was_step(struct vcpu *vcpu)
{
	const struct hav_exit step = { .reason = HAV_EXIT_DEBUG,
				       .debug = { .exception = VECTOR_DB, .dr6 = DR6_BS } };
	struct machine_events *events = &vcpu->machine->events;

	if (!events->debug || !events->debug(events->opaque, vcpu->id, &step))
		return false;
	wait_for_pause(vcpu->machine->vcpu_set);
	return true;
}

/* False when the thread should look at what is wanted of it. */
static bool handle_exit(struct vcpu *vcpu, struct hav_exit *exit)
{
	struct machine *machine = vcpu->machine;

	if (log_enabled(LOG_EXITS))
		trace_exit(vcpu, exit);
	if (vcpu_irq_exit(vcpu, exit))
		return exit->reason != HAV_EXIT_HLT || !was_step(vcpu);
	switch (exit->reason) {
	case HAV_EXIT_IO: do_io(machine, exit); return true;
	case HAV_EXIT_MMIO: do_mmio(machine, exit); return true;
	case HAV_EXIT_INTERRUPTED: return false;
	case HAV_EXIT_SHUTDOWN:
		machine_reset_request(machine, CAUSE_GUEST_RESET);
		wait_for_pause(machine->vcpu_set);
		return false;
	case HAV_EXIT_DEBUG: return handle_debug(vcpu, exit);
	case HAV_EXIT_FAILED:
		report_failure(vcpu, exit->failed.text, exit->failed.suberror);
		return false;
	default: report_failure(vcpu, hav_exit_name(exit->reason), exit->reason); return false;
	}
}

static void run_until_kicked(struct vcpu *vcpu)
{
	struct error *err ERROR_AUTO = NULL;
	struct hav_exit exit;
	int r;

	do {
		r = vcpu_irq_enter(vcpu, &err);
		if (r == 0)
			return;
		if (r > 0) {
			r = hav_vcpu_run(vcpu->hav, &exit, &err);
			vcpu_irq_left(vcpu);
		}
		if (r < 0) {
			report_failure(vcpu, error_message(err), error_errno(err));
			return;
		}
	} while (handle_exit(vcpu, &exit));
}

/* --- Threads ---- */

bool vcpu_is_wanted(const struct vcpu *vcpu)
{
	return vcpu->machine->vcpu_set->wanted;
}

/* Stands still while paused; false when the thread is to end. */
static bool park(struct vcpu *vcpu)
{
	struct vcpu_set *set = vcpu->machine->vcpu_set;
	bool run;

	/* Interrupts kick too. */
	if (!set->wanted && !vcpu->held)
		return true;

	pthread_mutex_lock(&set->lock);
	if ((set->paused || vcpu->held) && !set->quit) {
		set->n_parked++;
		loop_post(vcpu->machine->main_loop, &set->parked_note);
		while ((set->paused || vcpu->held) && !set->quit)
			pthread_cond_wait(&set->changed, &set->lock);
		set->n_parked--;
	}
	run = !set->quit;
	pthread_mutex_unlock(&set->lock);
	return run;
}

static void *vcpu_thread(void *opaque)
{
	struct vcpu *vcpu = opaque;
	struct vcpu_set *set = vcpu->machine->vcpu_set;

	vcpu->tid = gettid();
	vcpu_irq_thread(vcpu);
	set->enter();
	if (vcpu->id == 0 && park(vcpu) && set->first_entry)
		set->first_entry(set->first_entry_opaque);
	while (park(vcpu))
		run_until_kicked(vcpu);
	return NULL;
}

static void nothing(void *opaque)
{
}

int vcpus_start(struct machine *machine, void (*enter)(void), void (*first_entry)(void *opaque),
		void *opaque, struct error **err)
{
	static const int own[] = { SIGUSR1, SIGFPE, SIGSEGV, SIGILL, SIGBUS };
	struct vcpu_set *set = machine->vcpu_set;
	sigset_t all, old;
	int r = 0;

	set->enter = enter;
	set->first_entry = first_entry;
	set->first_entry_opaque = opaque;
	/* Signals are the main loop's business, except for the kick and those that an instruction
	 * causes: a backend may run the guest's on this very thread. */
	sigfillset(&all);
	for (size_t i = 0; i < ARRAY_SIZE(own); i++)
		sigdelset(&all, own[i]);
	pthread_sigmask(SIG_BLOCK, &all, &old);
	for (unsigned i = 0; i < machine->n_vcpus && r == 0; i++) {
		struct vcpu *vcpu = &machine->vcpus[i];
		char name[16];

		r = pthread_create(&vcpu->thread, NULL, vcpu_thread, vcpu);
		if (r)
			break;
		vcpu->started = true;
		snprintf(name, sizeof(name), "vcpu %u", i);
		pthread_setname_np(vcpu->thread, name);
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (r)
		error_set_errno(err, r, "cannot start a vCPU's thread");
	return r ? -1 : 0;
}

/* --- Pause and resume ---- */

static unsigned n_started(const struct machine *machine)
{
	unsigned n = 0;

	for (unsigned i = 0; i < machine->n_vcpus; i++)
		n += machine->vcpus[i].started;
	return n;
}

static bool all_parked(void *opaque)
{
	struct machine *machine = opaque;
	struct vcpu_set *set = machine->vcpu_set;
	bool all;

	pthread_mutex_lock(&set->lock);
	all = set->n_parked == n_started(machine);
	pthread_mutex_unlock(&set->lock);
	return all;
}

static void kick_all(struct machine *machine)
{
	for (unsigned i = 0; i < machine->n_vcpus; i++)
		vcpu_kick(&machine->vcpus[i]);
}

void vcpus_pause(struct machine *machine)
{
	struct vcpu_set *set = machine->vcpu_set;

	pthread_mutex_lock(&set->lock);
	set->paused = true;
	set->wanted = true;
	pthread_cond_broadcast(&set->changed);
	pthread_mutex_unlock(&set->lock);
	kick_all(machine);
	loop_run_calls_until(machine->main_loop, all_parked, machine);
	set->clock_valid = hav_vm_get_clock(machine->vm, &set->clock_ns, NULL) == 0;
}

void vcpus_resume(struct machine *machine)
{
	struct vcpu_set *set = machine->vcpu_set;

	if (set->clock_valid)
		hav_vm_set_clock(machine->vm, set->clock_ns, NULL);
	set->clock_valid = false;
	pthread_mutex_lock(&set->lock);
	set->paused = false;
	set->wanted = set->quit;
	pthread_cond_broadcast(&set->changed);
	pthread_mutex_unlock(&set->lock);
}

void vcpu_hold(struct vcpu *vcpu, bool held)
{
	struct vcpu_set *set = vcpu->machine->vcpu_set;

	pthread_mutex_lock(&set->lock);
	vcpu->held = held;
	pthread_mutex_unlock(&set->lock);
}

/* --- Making, resetting, ending ---- */

static int make_vcpu(struct machine *machine, unsigned i, const struct hav_cpuid *cpuid,
		     size_t n_cpuid, const struct cpu_topology *topology, struct error **err)
{
	struct vcpu *vcpu = &machine->vcpus[i];
	struct hav_cpuid own[MAX_CPUID];

	vcpu->machine = machine;
	vcpu->id = i;
	vcpu->apic_id = cpuid_apic_id(topology, i);
	memcpy(own, cpuid, n_cpuid * sizeof(own[0]));
	cpuid_set_topology(own, n_cpuid, topology, vcpu->apic_id);
	if (hav_vcpu_create(machine->vm, vcpu->apic_id, &vcpu->hav, err) < 0)
		return -1;
	return hav_vcpu_set_cpuid(vcpu->hav, own, n_cpuid, err);
}

int vcpus_create(struct machine *machine, unsigned n, const struct hav_cpuid *cpuid, size_t n_cpuid,
		 const struct cpu_topology *topology, struct error **err)
{
	struct vcpu_set *set = xcalloc(1, sizeof(*set));

	pthread_mutex_init(&set->lock, NULL);
	pthread_cond_init(&set->changed, NULL);
	set->paused = true;
	set->wanted = true;
	set->parked_note.fn = nothing;
	machine->vcpu_set = set;
	machine->vcpus = xcalloc(n, sizeof(*machine->vcpus));
	for (unsigned i = 0; i < n; i++) {
		machine->n_vcpus = i + 1;
		if (make_vcpu(machine, i, cpuid, n_cpuid, topology, err) < 0)
			return -1;
	}
	if (vcpus_make_lapics(machine, err) < 0)
		return -1;
	set->reset_state = xcalloc(1, sizeof(*set->reset_state));
	return hav_vcpu_get_state(machine->vcpus[0].hav, HAV_STATE_ALL, set->reset_state, err);
}

const struct hav_state *vcpus_reset_state(const struct machine *machine)
{
	return machine->vcpu_set->reset_state;
}

static int reset_one(struct vcpu *vcpu, struct hav_state *state, struct error **err)
{
	uint32_t lapic_id = vcpu->apic_id << 24;

	memcpy(state->lapic + LAPIC_ID_OFFSET, &lapic_id, sizeof(lapic_id));
	state->mp = vcpu->id == 0 ? HAV_MP_RUNNABLE : HAV_MP_WAIT_INIT;
	if (vcpu->id == 0)
		state->sregs.apic_base |= APIC_BASE_BSP;
	else
		state->sregs.apic_base &= ~APIC_BASE_BSP;
	vcpu_irq_reset(vcpu);
	return hav_vcpu_set_state(vcpu->hav, HAV_STATE_ALL, state, err);
}

int vcpus_reset(struct machine *machine, const struct hav_state *bsp, struct error **err)
{
	struct vcpu_set *set = machine->vcpu_set;

	/* Before the first run all of them are in reset state already. */
	for (unsigned i = 0; i < machine->n_vcpus && set->has_run; i++)
		if (reset_one(&machine->vcpus[i], set->reset_state, err) < 0)
			return -1;
	set->has_run = true;
	return hav_vcpu_set_state(machine->vcpus[0].hav, bsp->groups, bsp, err);
}

void vcpus_end(struct machine *machine)
{
	struct vcpu_set *set = machine->vcpu_set;

	if (!set)
		return;
	pthread_mutex_lock(&set->lock);
	set->quit = true;
	set->wanted = true;
	pthread_cond_broadcast(&set->changed);
	pthread_mutex_unlock(&set->lock);
	for (unsigned i = 0; i < machine->n_vcpus; i++) {
		struct vcpu *vcpu = &machine->vcpus[i];

		if (!vcpu->started)
			continue;
		vcpu_kick(vcpu);
		pthread_join(vcpu->thread, NULL);
		vcpu->started = false;
	}
}

void vcpus_destroy(struct machine *machine)
{
	struct vcpu_set *set = machine->vcpu_set;

	if (!set)
		return;
	vcpus_end(machine);
	for (unsigned i = 0; i < machine->n_vcpus; i++)
		hav_vcpu_destroy(machine->vcpus[i].hav);
	free(machine->vcpus);
	lapics_free(machine->irqs.lapics);
	machine->irqs.lapics = NULL;
	free(set->reset_state);
	free(set);
	machine->vcpus = NULL;
	machine->vcpu_set = NULL;
	machine->n_vcpus = 0;
}
