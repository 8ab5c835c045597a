/*
 * Running the machine for a debugger: see gdb_internal.h.
 *
 * All vCPUs stop together, when one of them meets a breakpoint or for whatever else pauses the
 * machine, and gdb is told of one stop. When a vCPU is to take a single step only those that step
 * run, whatever gdb says of the others: one instruction of one processor is what a person who steps
 * through a kernel wants to see, and interrupts wait as well (sstep).
 *
 * A vCPU's stop is noted on its own thread and taken up by the main loop, which pauses the machine.
 * Others may have stopped meanwhile. Those that stand before an instruction with a breakpoint meet
 * it again when they go on, so this is forgotten; an access that was watched for is over and does
 * not come again, so it is told at once when gdb lets that vCPU go.
 */
#include "revirter/gdb_internal.h"

#include "base/error.h"
#include "base/log.h"
#include "base/util.h"
#include "hav.h"
#include "machine/vcpu.h"
#include "revirter/vm.h"

#include <string.h>

static struct machine *machine_of(const struct gdb_stub *gdb)
{
	return &gdb->vm->machine;
}

/* --- Telling ---- */

/*
 * An INT3 may be met at another linear address than gdb's: another mapping of the page, or gdb's
 * are physical. A swbreak where gdb has no breakpoint would be one of the past to it, and it would
 * go on, and meet it again for ever. As a mere SIGTRAP it is shown.
 */
static bool is_gdbs(const struct gdb_stub *gdb, const struct gdb_stop *stop)
{
	return gdb_break_there(&gdb->target, stop->type, stop->address);
}

static void add_reason(struct gdb_stub *gdb, const struct gdb_stop *stop)
{
	static const char *const watches[] = {
		[GDB_WATCH_WRITE] = "watch",
		[GDB_WATCH_READ] = "rwatch",
		[GDB_WATCH_ACCESS] = "awatch",
	};

	if (stop->kind == GDB_STOP_WATCH)
		gdb_addf(&gdb->reply, "%s:%llx;", watches[stop->type],
			 (unsigned long long)stop->address);
	if (stop->kind != GDB_STOP_BREAK)
		return;
	if (stop->type == GDB_BREAK_SOFTWARE && gdb->swbreak && is_gdbs(gdb, stop))
		gdb_reply(gdb, "swbreak:;");
	if (stop->type == GDB_BREAK_HARDWARE && gdb->hwbreak)
		gdb_reply(gdb, "hwbreak:;");
}

void gdb_add_stop(struct gdb_stub *gdb)
{
	gdb_addf(&gdb->reply, "T%02xthread:", gdb->signal);
	gdb_add_thread(gdb, gdb->stopped_vcpu);
	gdb_reply(gdb, ";");
	add_reason(gdb, &gdb->stop);
}

static void tell_stop(struct gdb_stub *gdb, unsigned signal, unsigned vcpu,
		      const struct gdb_stop *stop)
{
	gdb->signal = signal;
	gdb->stopped_vcpu = gdb->other = gdb->resumed = vcpu;
	gdb->stop = *stop;
	if (!gdb->waiting)
		return;
	gdb->waiting = false;
	gdb_add_stop(gdb);
	gdb_send(gdb);
}

/* --- Stopping ---- */

static unsigned signal_of(enum vm_state state)
{
	switch (state) {
	case VM_DEBUG: return GDB_SIGNAL_TRAP;
	case VM_PAUSED: return GDB_SIGNAL_INT;
	case VM_SHUTDOWN: return GDB_SIGNAL_QUIT;
	case VM_IO_ERROR: return GDB_SIGNAL_STOP;
	case VM_INTERNAL_ERROR: return GDB_SIGNAL_ABRT;
	default: return GDB_SIGNAL_UNKNOWN;
	}
}

/* A vCPU that has stopped for a breakpoint or step, or n_vcpus. */
static unsigned find_news(const struct gdb_stub *gdb)
{
	unsigned i = 0;

	while (i < machine_of(gdb)->n_vcpus && !gdb->vcpus[i].news)
		i++;
	return i;
}

static void forget_what_comes_again(struct gdb_stub *gdb)
{
	for (unsigned i = 0; i < machine_of(gdb)->n_vcpus; i++)
		if (gdb->vcpus[i].stop.kind != GDB_STOP_WATCH)
			gdb->vcpus[i].news = false;
}

/* A debug exception ends HLT (Intel SDM vol. 2, HLT), so a step of a halted vCPU is the instruction
 * after it. */
static void end_hlt(struct vcpu *vcpu)
{
	struct hav_state *state AUTO_FREE = xcalloc(1, sizeof(*state));
	struct error *err ERROR_AUTO = NULL;
	int r;

	/* Either the local APIC's model knows of it, or the backend. */
	vcpu->irq.halted = false;
	r = hav_vcpu_get_state(vcpu->hav, HAV_STATE_MP, state, &err);
	if (r == 0 && state->mp == HAV_MP_HALTED) {
		state->mp = HAV_MP_RUNNABLE;
		r = hav_vcpu_set_state(vcpu->hav, HAV_STATE_MP, state, &err);
	}
	if (r < 0)
		LOG_ONCE("gdb: %s", error_message(err));
}

static void set_vcpu(struct gdb_stub *gdb, unsigned i, bool hold, bool step)
{
	struct vcpu *vcpu = &machine_of(gdb)->vcpus[i];
	const bool was_stepping = gdb->vcpus[i].stepping;
	struct error *err ERROR_AUTO = NULL;

	vcpu_hold(vcpu, hold);
	gdb->vcpus[i].stepping = step;
	if (!step && !was_stepping && !gdb->target.changed)
		return;
	if (step)
		end_hlt(vcpu);
	if (gdb_break_apply(&gdb->target, vcpu, step, gdb->sstep & GDB_SSTEP_NOIRQ, &err) < 0)
		LOG_ONCE("gdb: %s", error_message(err));
}

/* Nobody is held and nobody steps any more: whoever says cont next may not know of it. */
static void set_all_free(struct gdb_stub *gdb)
{
	for (unsigned i = 0; i < machine_of(gdb)->n_vcpus; i++)
		set_vcpu(gdb, i, false, false);
	gdb->target.changed = false;
}

/* vm_pause() has stopped the machine, for whatever reason. */
static void on_paused(void *opaque)
{
	struct gdb_stub *gdb = opaque;
	const unsigned n = machine_of(gdb)->n_vcpus;
	const unsigned signal = signal_of(gdb->vm->state);
	unsigned vcpu = find_news(gdb);
	struct gdb_stop stop = {};

	if (gdb->vm->state == VM_DEBUG && vcpu < n) {
		stop = gdb->vcpus[vcpu].stop;
		gdb->vcpus[vcpu].news = false;
	} else {
		vcpu = gdb->resumed;
	}
	forget_what_comes_again(gdb);
	set_all_free(gdb);
	tell_stop(gdb, signal, vcpu, &stop);
}

/* A debug exit, on the vCPU's thread. */
static bool on_debug_exit(void *opaque, unsigned i, const struct hav_exit *exit)
{
	struct gdb_stub *gdb = opaque;
	struct gdb_vcpu *v = &gdb->vcpus[i];
	const struct gdb_stop stop =
		gdb_break_classify(&gdb->target, &machine_of(gdb)->vcpus[i], v->stepping, exit);

	if (stop.kind == GDB_STOP_NONE)
		return false;
	v->stop = stop;
	v->news = true;
	loop_post(machine_of(gdb)->main_loop, &gdb->news);
	return true;
}

/* And on the main loop. When somebody else was quicker to pause, that is how it stands. */
static void on_news(void *opaque)
{
	struct gdb_stub *gdb = opaque;

	if (find_news(gdb) < machine_of(gdb)->n_vcpus)
		vm_pause(gdb->vm, VM_DEBUG);
}

/* --- Going on ---- */

/* vm_resume() is about to, whoever asked for it. */
static void on_resume(void *opaque)
{
	struct gdb_stub *gdb = opaque;

	if (gdb->target.changed)
		set_all_free(gdb);
}

/* An access that was watched for, and happened as the machine stopped for something else. */
static bool tell_old_news(struct gdb_stub *gdb, const enum gdb_action *actions)
{
	for (unsigned i = 0; i < machine_of(gdb)->n_vcpus; i++) {
		struct gdb_vcpu *v = &gdb->vcpus[i];

		if (!v->news || actions[i] == GDB_HOLD)
			continue;
		v->news = false;
		if (!gdb_break_there(&gdb->target, v->stop.type, v->stop.address))
			continue;
		tell_stop(gdb, GDB_SIGNAL_TRAP, i, &v->stop);
		return true;
	}
	return false;
}

/* The first vCPU with this action, or n_vcpus. */
static unsigned first(const struct gdb_stub *gdb, const enum gdb_action *actions,
		      enum gdb_action action)
{
	unsigned i = 0;

	while (i < machine_of(gdb)->n_vcpus && actions[i] != action)
		i++;
	return i;
}

void gdb_go(struct gdb_stub *gdb, const enum gdb_action *actions)
{
	const bool steps = gdb->sstep & GDB_SSTEP_ENABLE &&
			   first(gdb, actions, GDB_STEP) < machine_of(gdb)->n_vcpus;
	struct error *err ERROR_AUTO = NULL;

	gdb->waiting = true;
	if (tell_old_news(gdb, actions))
		return;
	if (steps)
		gdb->resumed = first(gdb, actions, GDB_STEP);
	for (unsigned i = 0; i < machine_of(gdb)->n_vcpus; i++) {
		const bool runs = steps ? actions[i] == GDB_STEP : actions[i] != GDB_HOLD;

		set_vcpu(gdb, i, !runs, steps && runs);
	}
	gdb->target.changed = false;
	if (vm_resume(gdb->vm, &err) == 0)
		return;
	LOG_ONCE("gdb: %s", error_message(err));
	set_all_free(gdb);
	tell_stop(gdb, signal_of(gdb->vm->state), gdb->resumed, &(struct gdb_stop){});
}

/* "c", "C05", "s", "S05" or "t", and ":thread" or nothing, which is all of them. */
static bool parse_action(const char **text, enum gdb_action *action, int64_t *thread)
{
	const char what = **text;
	uint64_t signal;

	if (!what || !strchr("cCsSt", what))
		return false;
	(*text)++;
	/* There are no signals to be passed to a machine. */
	if ((what == 'C' || what == 'S') && !gdb_parse_hex(text, &signal))
		return false;
	*action = what == 't' ? GDB_HOLD : what == 's' || what == 'S' ? GDB_STEP : GDB_CONTINUE;
	*thread = GDB_ALL;
	return !gdb_parse_char(text, ':') || gdb_parse_thread(text, thread);
}

/* The leftmost action that fits a thread is its. */
static bool give_action(const struct gdb_stub *gdb, int64_t thread, enum gdb_action action,
			enum gdb_action *actions, bool *given)
{
	unsigned only;

	if (thread != GDB_ALL && !gdb_vcpu_of(gdb, thread, gdb->resumed, &only))
		return false;
	for (unsigned i = 0; i < machine_of(gdb)->n_vcpus; i++) {
		if (given[i] || (thread != GDB_ALL && i != only))
			continue;
		actions[i] = action;
		given[i] = true;
	}
	return true;
}

bool gdb_vcont(struct gdb_stub *gdb, const char *text)
{
	enum gdb_action actions[MACHINE_MAX_VCPUS] = {}, action;
	const unsigned n = machine_of(gdb)->n_vcpus;
	bool given[MACHINE_MAX_VCPUS] = {};
	int64_t thread;

	while (gdb_parse_char(&text, ';'))
		if (!parse_action(&text, &action, &thread) ||
		    !give_action(gdb, thread, action, actions, given))
			return false;
	if (*text || (first(gdb, actions, GDB_STEP) == n && first(gdb, actions, GDB_CONTINUE) == n))
		return false;
	gdb_go(gdb, actions);
	return true;
}

/* --- Life ---- */

void gdb_clean(struct gdb_stub *gdb)
{
	const bool running = vm_is_running(gdb->vm);
	/* As it runs for this gdb, vCPUs may be held. */
	const bool ours = gdb->waiting || gdb->target.n_breakpoints;

	gdb->waiting = false;
	if (running && ours)
		vm_pause(gdb->vm, VM_PAUSED);
	if (!vm_is_running(gdb->vm)) {
		gdb_break_remove_all(&gdb->target);
		for (unsigned i = 0; i < machine_of(gdb)->n_vcpus; i++)
			gdb->vcpus[i].news = false;
		set_all_free(gdb);
	}
	if (running && !vm_is_running(gdb->vm))
		vm_resume(gdb->vm, NULL);
}

void gdb_run_init(struct gdb_stub *gdb)
{
	static const struct vm_debugger ops = {
		.paused = on_paused,
		.resume = on_resume,
		.exit = on_debug_exit,
	};

	gdb->vcpus = xcalloc(machine_of(gdb)->n_vcpus, sizeof(*gdb->vcpus));
	gdb->news = (struct loop_call){ on_news, gdb };
	gdb->sstep = GDB_SSTEP_ENABLE | GDB_SSTEP_NOIRQ;
	gdb->signal = GDB_SIGNAL_TRAP;
	gdb->target.machine = machine_of(gdb);
	gdb_break_remove_all(&gdb->target);
	gdb->target.changed = false;
	gdb->vm->debugger_opaque = gdb;
	gdb->vm->debugger = &ops;
}

void gdb_run_end(struct gdb_stub *gdb)
{
	loop_unpost(machine_of(gdb)->main_loop, &gdb->news);
	free(gdb->vcpus);
}
