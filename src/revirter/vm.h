/*
 * The VM as its operator sees it: running or paused, reset, powered down, ended.
 *
 * Run state changes only on the main loop. What a guest or a signal asks for arrives there as
 * posted calls; QMP, the human monitor and the terminal's Ctrl-A keys call these functions
 * directly, on that same thread. Every change is told to `emit`, which QMP sets to broadcast it as
 * an event.
 */
#ifndef REVIRT_REVIRTER_VM_H
#define REVIRT_REVIRTER_VM_H

#include "machine/machine.h"

#include "machine/boot.h"

struct description;
struct gdb_stub;
struct json_object;
struct vm_requests;

/* QMP's RunState, the subset there is. */
enum vm_state {
	VM_PRELAUNCH, /* -S or a reset while it stood still, before the next cont */
	VM_RUNNING,
	VM_PAUSED,
	VM_DEBUG,    /* at a breakpoint of the gdb stub's */
	VM_SHUTDOWN, /* the guest powered off and -no-shutdown keeps us */
	VM_GUEST_PANICKED,
	VM_IO_ERROR,
	VM_INTERNAL_ERROR,
};
const char *vm_state_name(enum vm_state state); /* "prelaunch", "running", "paused", ... */

/* Who watches the vCPUs from outside: the gdb stub. */
struct vm_debugger {
	void (*paused)(void *opaque); /* vm_pause() has; state says why */
	void (*resume)(void *opaque); /* vm_resume() is about to; all stands still yet */
	/* machine_events.debug: on the vCPU's thread. */
	bool (*exit)(void *opaque, unsigned vcpu, const struct hav_exit *exit);
};

struct vm {
	struct machine machine;
	const struct description *desc;
	enum vm_state state;
	bool no_reboot, no_shutdown;
	int exit_status;
	/* Set by QMP: tells all monitors. Takes over the reference to data (may be NULL). */
	void (*emit)(void *opaque, const char *event, struct json_object *data);
	void *emit_opaque;
	const struct vm_debugger *debugger; /* NULL: none. Set before the vCPUs start */
	void *debugger_opaque;
	struct gdb_stub *gdb; /* main.c's */
	/* What is loaded at each reset; its descriptors stay open. */
	struct boot_config boot;
	struct acpi_config *acpi;     /* NULL: the machine has no ACPI */
	struct vm_requests *requests; /* vm.c's own */
};

/* Sets up machine.events. machine.main_loop is there. */
void vm_init(struct vm *vm);
/* From now on SIGINT, SIGTERM and SIGHUP end the VM in order. Before any other thread is started.
 */
int vm_watch_signals(struct vm *vm, struct error **err);
void vm_destroy(struct vm *vm);

/* Puts tables and kernel into memory and the vCPUs at the kernel's entry; vCPUs stand still. */
int vm_load(struct vm *vm, struct error **err);

/* stop: on return no vCPU runs and no device touches guest memory. Emits STOP. No-op when paused.
 */
void vm_pause(struct vm *vm, enum vm_state state);
/* cont. Emits RESUME. Error: the guest has shut down or panicked and needs system_reset first. */
int vm_resume(struct vm *vm, struct error **err);
/*
 * The following three happen on the main loop's next turn, so that who asked for them over QMP has
 * the answer before the event, as with QEMU. Any thread may call vm_reset().
 */
/* Resets machine and vCPUs and goes on if it was running. Emits RESET. */
void vm_reset(struct vm *vm, enum machine_cause cause);
/* Presses the power button. Emits POWERDOWN. */
void vm_powerdown(struct vm *vm);
/* Emits SHUTDOWN and ends the main loop, whatever -no-shutdown says. */
void vm_quit(struct vm *vm, enum machine_cause cause);
/* The guest is done: vm_quit(), or with -no-shutdown and a guest's cause a pause. */
void vm_shutdown(struct vm *vm, enum machine_cause cause);
bool vm_is_running(const struct vm *vm);

#endif
