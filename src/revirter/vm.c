/*
 * The VM as its operator sees it: see vm.h.
 *
 * What vCPU and I/O threads report (machine_events) is noted in atomics and posted to the main loop
 * as calls that live in struct vm_requests, one a kind: a guest that asks a thousand times before
 * the loop gets to it is served once.
 */
#include "revirter/vm.h"

#include "base/error.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "hav.h"
#include "machine/acpi.h"
#include "machine/vcpu.h"

#include <errno.h>
#include <json-c/json.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>

/* QEMU tells of balloon changes at most once a second. */
#define BALLOON_EVENT_INTERVAL_NS UINT64_C(1000000000)

struct vm_requests {
	struct loop_call shutdown, reset, powerdown, quit, panicked, exit, failed, balloon;
	atomic_int shutdown_cause, reset_cause, exit_status;
	enum machine_cause quit_cause;
	_Atomic(const char *) panic_action;
	_Atomic uint64_t balloon_actual;
	uint64_t balloon_told_ns;
	struct loop_timer *balloon_timer;
	int signal_fd;
	struct loop_watch *signal_watch;
};

const char *vm_state_name(enum vm_state state)
{
	static const char *const names[] = {
		[VM_PRELAUNCH] = "prelaunch", [VM_RUNNING] = "running",
		[VM_PAUSED] = "paused",       [VM_DEBUG] = "debug",
		[VM_SHUTDOWN] = "shutdown",   [VM_GUEST_PANICKED] = "guest-panicked",
		[VM_IO_ERROR] = "io-error",   [VM_INTERNAL_ERROR] = "internal-error",
	};

	return names[state];
}

bool vm_is_running(const struct vm *vm)
{
	return vm->state == VM_RUNNING;
}

static void emit(struct vm *vm, const char *event, struct json_object *data)
{
	if (vm->emit)
		vm->emit(vm->emit_opaque, event, data);
	else
		json_object_put(data);
}

static struct json_object *cause_data(enum machine_cause cause)
{
	struct json_object *data = json_object_new_object();

	json_object_object_add(data, "guest",
			       json_object_new_boolean(machine_cause_is_guest(cause)));
	json_object_object_add(data, "reason", json_object_new_string(machine_cause_name(cause)));
	return data;
}

/* --- Running and standing still ---- */

void vm_pause(struct vm *vm, enum vm_state state)
{
	if (!vm_is_running(vm))
		return;
	vcpus_pause(&vm->machine);
	machine_pause_devices(&vm->machine);
	vm->state = state;
	emit(vm, "STOP", NULL);
	if (vm->debugger)
		vm->debugger->paused(vm->debugger_opaque);
}

int vm_resume(struct vm *vm, struct error **err)
{
	switch (vm->state) {
	case VM_RUNNING: return 0;
	case VM_SHUTDOWN:
	case VM_GUEST_PANICKED:
	case VM_INTERNAL_ERROR:
		error_set(err, "the VM is in state %s; it needs system_reset first",
			  vm_state_name(vm->state));
		return -1;
	default: break;
	}
	if (vm->debugger)
		vm->debugger->resume(vm->debugger_opaque);
	vm->state = VM_RUNNING;
	emit(vm, "RESUME", NULL);
	machine_resume_devices(&vm->machine);
	vcpus_resume(&vm->machine);
	return 0;
}

/* --- Loading and resetting ---- */

/* Registers that firmware would have set on each processor, beside what the boot processor starts
 * with. */
static int set_firmware_msrs(struct vm *vm, struct hav_state *state, struct error **err)
{
	for (unsigned i = 0; i < vm->machine.n_vcpus && state->groups & HAV_STATE_MSRS; i++)
		if (hav_vcpu_set_state(vm->machine.vcpus[i].hav, HAV_STATE_MSRS, state, err) < 0)
			return -1;
	return 0;
}

int vm_load(struct vm *vm, struct error **err)
{
	struct machine *machine = &vm->machine;
	struct hav_state *state AUTO_FREE = xcalloc(1, sizeof(*state));

	if (machine->pci) {
		pci_assign(machine->pci);
		if (vm->acpi)
			vm->acpi->last_bus = pci_last_bus(machine->pci);
	}
	if (vm->acpi && acpi_build(&machine->mem, vm->acpi, &vm->boot.rsdp_gpa, err) < 0)
		return -1;
	*state = *vcpus_reset_state(machine);
	state->groups = HAV_STATE_REGS | HAV_STATE_SREGS;
	if (boot_load(&machine->mem, &vm->boot, state, err) < 0 ||
	    vcpus_reset(machine, state, err) < 0)
		return -1;
	return set_firmware_msrs(vm, state, err);
}

static void stop_for_error(struct vm *vm, const char *what, struct error *err)
{
	log_warn("%s: %s", what, error_message(err));
	vm->exit_status = 1;
	vm_quit(vm, CAUSE_HOST_ERROR);
}

static void reset_now(struct vm *vm, enum machine_cause cause)
{
	struct error *err ERROR_AUTO = NULL;
	const bool running = vm_is_running(vm);

	if (vm->no_reboot) {
		vm_shutdown(vm, cause);
		return;
	}
	log_item(LOG_RESET, "reset: %s", machine_cause_name(cause));
	if (running) {
		vcpus_pause(&vm->machine);
		machine_pause_devices(&vm->machine);
	}
	/* Guests ask several times before they stand still: all that is this reset. */
	loop_unpost(vm->machine.main_loop, &vm->requests->reset);
	machine_reset_devices(&vm->machine);
	if (vm_load(vm, &err) < 0) {
		stop_for_error(vm, "cannot reset", err);
		return;
	}
	emit(vm, "RESET", cause_data(cause));
	if (!running) {
		/* As after -S, whatever it stood still for: who wants it to run says cont. */
		vm->state = VM_PRELAUNCH;
		return;
	}
	machine_resume_devices(&vm->machine);
	vcpus_resume(&vm->machine);
}

/* --- The end ---- */

static void do_powerdown(void *opaque)
{
	struct vm *vm = opaque;

	emit(vm, "POWERDOWN", NULL);
	if (vm->machine.power_button)
		vm->machine.power_button(&vm->machine);
}

void vm_powerdown(struct vm *vm)
{
	loop_post(vm->machine.main_loop, &vm->requests->powerdown);
}

static void do_quit(void *opaque)
{
	struct vm *vm = opaque;

	emit(vm, "SHUTDOWN", cause_data(vm->requests->quit_cause));
	loop_stop(vm->machine.main_loop);
}

void vm_quit(struct vm *vm, enum machine_cause cause)
{
	vm->requests->quit_cause = cause;
	loop_post(vm->machine.main_loop, &vm->requests->quit);
}

void vm_shutdown(struct vm *vm, enum machine_cause cause)
{
	if (!vm->no_shutdown || !machine_cause_is_guest(cause)) {
		vm_quit(vm, cause);
		return;
	}
	emit(vm, "SHUTDOWN", cause_data(cause));
	vm_pause(vm, VM_SHUTDOWN);
}

/* --- What the machine reports, on any thread; and what is done about it, on the main loop ---- */

static void on_shutdown(void *opaque, enum machine_cause cause)
{
	struct vm *vm = opaque;

	vm->requests->shutdown_cause = cause;
	loop_post(vm->machine.main_loop, &vm->requests->shutdown);
}

static void do_shutdown(void *opaque)
{
	struct vm *vm = opaque;

	vm_shutdown(vm, vm->requests->shutdown_cause);
}

static void on_reset(void *opaque, enum machine_cause cause)
{
	struct vm *vm = opaque;

	vm->requests->reset_cause = cause;
	loop_post(vm->machine.main_loop, &vm->requests->reset);
}

static void do_reset(void *opaque)
{
	struct vm *vm = opaque;

	reset_now(vm, vm->requests->reset_cause);
}

void vm_reset(struct vm *vm, enum machine_cause cause)
{
	on_reset(vm, cause);
}

static void on_panicked(void *opaque, const char *action)
{
	struct vm *vm = opaque;

	vm->requests->panic_action = action;
	loop_post(vm->machine.main_loop, &vm->requests->panicked);
}

static void emit_panic(struct vm *vm, const char *event, const char *action)
{
	struct json_object *data = json_object_new_object();

	json_object_object_add(data, "action", json_object_new_string(action));
	emit(vm, event, data);
}

/* "run": a crash kernel takes over. Otherwise the VM ends, or with -no-shutdown stays to be looked
 * at. */
static void do_panicked(void *opaque)
{
	struct vm *vm = opaque;

	if (strcmp(vm->requests->panic_action, "run") == 0) {
		emit_panic(vm, "GUEST_CRASHLOADED", "run");
		return;
	}
	emit_panic(vm, "GUEST_PANICKED", vm->no_shutdown ? "pause" : "poweroff");
	vm_pause(vm, VM_GUEST_PANICKED);
	if (!vm->no_shutdown)
		vm_quit(vm, CAUSE_GUEST_PANIC);
}

static void on_exit_status(void *opaque, int status)
{
	struct vm *vm = opaque;

	vm->requests->exit_status = status;
	loop_post(vm->machine.main_loop, &vm->requests->exit);
}

static void do_exit(void *opaque)
{
	struct vm *vm = opaque;

	vm->exit_status = vm->requests->exit_status;
	vm_quit(vm, CAUSE_GUEST_SHUTDOWN);
}

static void on_failed(void *opaque)
{
	struct vm *vm = opaque;

	loop_post(vm->machine.main_loop, &vm->requests->failed);
}

static void do_failed(void *opaque)
{
	vm_pause(opaque, VM_INTERNAL_ERROR);
}

static bool on_debug(void *opaque, unsigned vcpu, const struct hav_exit *exit)
{
	struct vm *vm = opaque;

	return vm->debugger && vm->debugger->exit(vm->debugger_opaque, vcpu, exit);
}

static void on_balloon(void *opaque, uint64_t actual)
{
	struct vm *vm = opaque;

	vm->requests->balloon_actual = actual;
	loop_post(vm->machine.main_loop, &vm->requests->balloon);
}

static void tell_balloon(void *opaque)
{
	struct vm *vm = opaque;
	struct json_object *data = json_object_new_object();

	vm->requests->balloon_told_ns = now_ns();
	json_object_object_add(data, "actual", json_object_new_int64(vm->requests->balloon_actual));
	emit(vm, "BALLOON_CHANGE", data);
}

static void do_balloon(void *opaque)
{
	struct vm *vm = opaque;
	uint64_t due = vm->requests->balloon_told_ns + BALLOON_EVENT_INTERVAL_NS;

	if (!vm->requests->balloon_told_ns || now_ns() >= due)
		tell_balloon(vm);
	else
		loop_timer_set(vm->requests->balloon_timer, due);
}

/* --- Signals ---- */

/* #syscalls:main read */
static void on_signal(void *opaque, uint32_t events)
{
	struct vm *vm = opaque;
	struct signalfd_siginfo info;

	if (read(vm->requests->signal_fd, &info, sizeof(info)) != sizeof(info))
		return;
	log_info("terminating on signal %u from pid %u", info.ssi_signo, info.ssi_pid);
	vm_quit(vm, CAUSE_HOST_SIGNAL);
}

/* Threads made later inherit the mask, so the signals reach nobody but the main loop. */
int vm_watch_signals(struct vm *vm, struct error **err)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	signal(SIGPIPE, SIG_IGN);
	vm->requests->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (vm->requests->signal_fd < 0 || sigprocmask(SIG_BLOCK, &set, NULL) < 0) {
		error_set_errno(err, errno, "cannot take over signals");
		return -1;
	}
	vm->requests->signal_watch = loop_watch_new(vm->machine.main_loop, vm->requests->signal_fd,
						    EPOLLIN, on_signal, vm, err);
	return vm->requests->signal_watch ? 0 : -1;
}

/* --- Life ---- */

void vm_init(struct vm *vm)
{
	struct vm_requests *r = vm->requests = xcalloc(1, sizeof(*r));

	r->shutdown = (struct loop_call){ do_shutdown, vm };
	r->reset = (struct loop_call){ do_reset, vm };
	r->powerdown = (struct loop_call){ do_powerdown, vm };
	r->quit = (struct loop_call){ do_quit, vm };
	r->panicked = (struct loop_call){ do_panicked, vm };
	r->exit = (struct loop_call){ do_exit, vm };
	r->failed = (struct loop_call){ do_failed, vm };
	r->balloon = (struct loop_call){ do_balloon, vm };
	r->balloon_timer = loop_timer_new(vm->machine.main_loop, tell_balloon, vm);
	r->signal_fd = -1;
	vm->machine.events = (struct machine_events){
		.shutdown = on_shutdown,
		.reset = on_reset,
		.panicked = on_panicked,
		.exit = on_exit_status,
		.failed = on_failed,
		.balloon = on_balloon,
		.debug = on_debug,
		.opaque = vm,
	};
	vm->state = VM_PRELAUNCH;
}

void vm_destroy(struct vm *vm)
{
	struct vm_requests *r = vm->requests;

	if (!r)
		return;
	loop_timer_free(r->balloon_timer);
	loop_watch_free(r->signal_watch);
	if (r->signal_fd >= 0)
		close(r->signal_fd);
	free(r);
	vm->requests = NULL;
}
