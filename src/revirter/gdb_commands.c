/*
 * What gdb's packets ask for, a row of commands[] each: see gdb_internal.h. A packet is text, but
 * for the data of X; one that makes no sense is refused, one that is not here gets the empty reply.
 */
#include "revirter/gdb_internal.h"

#include "base/error.h"
#include "base/log.h"
#include "base/util.h"
#include "hav.h"
#include "machine/machine.h"
#include "machine/vcpu.h"
#include "revirter/gdb_registers.h"
#include "revirter/vm.h"

#include <string.h>

static struct vcpu *other(const struct gdb_stub *gdb)
{
	return &gdb->vm->machine.vcpus[gdb->other];
}

/* Each command adds its reply; false: the packet makes no sense. */
typedef bool command_fn(struct gdb_stub *gdb, const char *args);

static bool ok(struct gdb_stub *gdb)
{
	gdb_reply(gdb, "OK");
	return true;
}

/* --- Registers ---- */

/* Reads all that registers are made of; a group the backend can't give is not in state->groups. */
static struct hav_state *get_registers(const struct gdb_stub *gdb, unsigned groups)
{
	struct hav_state *state = xcalloc(1, sizeof(*state));
	unsigned got = 0;

	for (unsigned group = 1; group & HAV_STATE_ALL; group <<= 1)
		if (groups & group && hav_vcpu_get_state(other(gdb)->hav, group, state, NULL) == 0)
			got |= group;
	state->groups = got;
	return state;
}

static void add_register(struct gdb_stub *gdb, const struct hav_state *state, unsigned n)
{
	static const char unavailable[] = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";
	uint8_t bytes[GDB_REGISTER_MAX];

	if (state->groups & gdb_register_group(n)) {
		gdb_register_read(state, n, bytes);
		gdb_add_hex(&gdb->reply, bytes, gdb_register_size(n));
	} else {
		gdb_add(&gdb->reply, unavailable, 2 * gdb_register_size(n));
	}
}

#define REGISTER_GROUPS (HAV_STATE_REGS | HAV_STATE_SREGS | HAV_STATE_XSAVE | HAV_STATE_MSRS)

static bool cmd_read_registers(struct gdb_stub *gdb, const char *args)
{
	struct hav_state *state AUTO_FREE = get_registers(gdb, REGISTER_GROUPS);

	for (unsigned n = 0; n < gdb_n_registers(); n++)
		add_register(gdb, state, n);
	return true;
}

static bool cmd_read_register(struct gdb_stub *gdb, const char *args)
{
	struct hav_state *state AUTO_FREE = NULL;
	uint64_t n;

	if (!gdb_parse_hex(&args, &n) || *args || n >= gdb_n_registers())
		return false;
	state = get_registers(gdb, gdb_register_group(n));
	add_register(gdb, state, n);
	return true;
}

static bool put_registers(const struct gdb_stub *gdb, const struct hav_state *state)
{
	for (unsigned group = 1; group & HAV_STATE_ALL; group <<= 1)
		if (state->groups & group &&
		    hav_vcpu_set_state(other(gdb)->hav, group, state, NULL) < 0)
			return false;
	return true;
}

/* One register, in as many digits as it has. A selector needs the mode, which SREGS have too. */
static bool change_register(struct hav_state *state, unsigned n, const char *text, size_t len)
{
	const unsigned size = gdb_register_size(n);
	char digits[2 * GDB_REGISTER_MAX + 1];
	uint8_t bytes[GDB_REGISTER_MAX];

	if (len != 2 * size || !(state->groups & gdb_register_group(n)))
		return false;
	memcpy(digits, text, len);
	digits[len] = '\0';
	return gdb_parse_bytes(digits, bytes, size) && gdb_register_write(state, n, bytes);
}

static bool cmd_write_register(struct gdb_stub *gdb, const char *args)
{
	struct hav_state *state AUTO_FREE = NULL;
	uint64_t n;

	if (!gdb_parse_hex(&args, &n) || !gdb_parse_char(&args, '=') || n >= gdb_n_registers())
		return false;
	state = get_registers(gdb, gdb_register_group(n));
	return change_register(state, n, args, strlen(args)) && put_registers(gdb, state) &&
	       ok(gdb);
}

/* The MSR goes alone: writing all that were read would set clocks back. */
static bool cmd_write_registers(struct gdb_stub *gdb, const char *args)
{
	struct hav_state *state AUTO_FREE = get_registers(gdb, REGISTER_GROUPS);
	size_t left = strlen(args);

	for (unsigned n = 0; n < gdb_n_registers(); n++) {
		const size_t len = 2 * gdb_register_size(n);

		if (left < len || (*args != 'x' && !change_register(state, n, args, len)))
			return false;
		args += len;
		left -= len;
	}
	if (state->n_msrs > 1)
		state->groups &= ~HAV_STATE_MSRS;
	return !left && put_registers(gdb, state) && ok(gdb);
}

/* --- Memory ---- */

/* "address,length"; what follows is left. */
static bool parse_range(const char **args, uint64_t *address, uint64_t *len)
{
	return gdb_parse_hex(args, address) && gdb_parse_char(args, ',') &&
	       gdb_parse_hex(args, len);
}

static bool cmd_read_memory(struct gdb_stub *gdb, const char *args)
{
	uint8_t bytes[GDB_PACKET_MAX / 2];
	uint64_t address, len;
	size_t n;

	if (!parse_range(&args, &address, &len) || *args || len > sizeof(bytes))
		return false;
	n = gdb_memory_read(&gdb->target, other(gdb), address, bytes, len);
	if (len && !n)
		gdb_reply(gdb, GDB_EFAULT);
	gdb_add_hex(&gdb->reply, bytes, n);
	return true;
}

static bool write_memory(struct gdb_stub *gdb, uint64_t address, const void *bytes, size_t len)
{
	if (gdb_memory_write(&gdb->target, other(gdb), address, bytes, len) == len)
		return ok(gdb);
	gdb_reply(gdb, GDB_EFAULT);
	return true;
}

static bool cmd_write_memory(struct gdb_stub *gdb, const char *args)
{
	uint8_t bytes[GDB_PACKET_MAX / 2];
	uint64_t address, len;

	if (!parse_range(&args, &address, &len) || !gdb_parse_char(&args, ':') ||
	    len > sizeof(bytes) || !gdb_parse_bytes(args, bytes, len))
		return false;
	return write_memory(gdb, address, bytes, len);
}

/* Data of a packet may be anything: its length is the packet's. */
static bool cmd_write_binary(struct gdb_stub *gdb, const char *args)
{
	const char *end = gdb->framer.data + gdb->framer.len;
	uint64_t address, len;

	if (!parse_range(&args, &address, &len) || !gdb_parse_char(&args, ':') ||
	    len != (uint64_t)(end - args))
		return false;
	return write_memory(gdb, address, args, len);
}

/* --- Breakpoints ---- */

/* "type,address,kind": for watchpoints kind is how many bytes; x86 has no other use for it. */
static bool parse_break(const char *args, uint64_t *type, uint64_t *address, uint64_t *len)
{
	return gdb_parse_hex(&args, type) && gdb_parse_char(&args, ',') &&
	       parse_range(&args, address, len) && !*args;
}

static bool is_known_break(uint64_t type)
{
	return type <= GDB_WATCH_ACCESS && type != GDB_WATCH_READ;
}

static bool cmd_insert(struct gdb_stub *gdb, const char *args)
{
	uint64_t type, address, len;

	if (!parse_break(args, &type, &address, &len))
		return false;
	if (!is_known_break(type))
		return true;
	switch (gdb_break_insert(&gdb->target, other(gdb), type, address, len)) {
	case GDB_BREAK_DONE: return ok(gdb);
	case GDB_BREAK_NO_MEMORY: gdb_reply(gdb, GDB_EFAULT); return true;
	case GDB_BREAK_REFUSED: break;
	}
	return false;
}

static bool cmd_remove(struct gdb_stub *gdb, const char *args)
{
	uint64_t type, address, len;

	if (!parse_break(args, &type, &address, &len))
		return false;
	if (!is_known_break(type))
		return true;
	gdb_break_remove(&gdb->target, type, address, len);
	return ok(gdb);
}

/* --- Threads ---- */

/* Hg: what registers and memory are of; Hc: whom c and s mean. */
static bool cmd_choose(struct gdb_stub *gdb, const char *args)
{
	const char what = *args++;
	unsigned *chosen = what == 'g' ? &gdb->other : &gdb->resumed;
	int64_t thread;

	if ((what != 'g' && what != 'c') || !gdb_parse_thread(&args, &thread) || *args)
		return false;
	return gdb_vcpu_of(gdb, thread, *chosen, chosen) && ok(gdb);
}

static bool cmd_is_alive(struct gdb_stub *gdb, const char *args)
{
	int64_t thread;
	unsigned vcpu;

	return gdb_parse_thread(&args, &thread) && !*args && gdb_vcpu_of(gdb, thread, 0, &vcpu) &&
	       ok(gdb);
}

/* --- Going on ---- */

static bool set_pc(struct gdb_stub *gdb, uint64_t pc)
{
	struct hav_state *state AUTO_FREE = xcalloc(1, sizeof(*state));
	struct hav_vcpu *vcpu = gdb->vm->machine.vcpus[gdb->resumed].hav;

	if (hav_vcpu_get_state(vcpu, HAV_STATE_REGS, state, NULL) < 0)
		return false;
	state->regs.rip = pc;
	return hav_vcpu_set_state(vcpu, HAV_STATE_REGS, state, NULL) == 0;
}

/* The packets from before vCont: all go on, or the one of Hc steps. */
static bool go(struct gdb_stub *gdb, enum gdb_action action, const char *pc)
{
	enum gdb_action actions[MACHINE_MAX_VCPUS];
	uint64_t address;

	if (*pc && (!gdb_parse_hex(&pc, &address) || *pc || !set_pc(gdb, address)))
		return false;
	for (unsigned i = 0; i < gdb->vm->machine.n_vcpus; i++)
		actions[i] = GDB_CONTINUE;
	actions[gdb->resumed] = action;
	gdb_go(gdb, actions);
	return true;
}

/* "C05;address": there are no signals to be passed to a machine. */
static bool go_with_signal(struct gdb_stub *gdb, enum gdb_action action, const char *args)
{
	uint64_t signal;

	if (!gdb_parse_hex(&args, &signal) || (*args && !gdb_parse_char(&args, ';')))
		return false;
	return go(gdb, action, args);
}

static bool cmd_continue(struct gdb_stub *gdb, const char *args)
{
	return go(gdb, GDB_CONTINUE, args);
}

static bool cmd_step(struct gdb_stub *gdb, const char *args)
{
	return go(gdb, GDB_STEP, args);
}

static bool cmd_continue_signal(struct gdb_stub *gdb, const char *args)
{
	return go_with_signal(gdb, GDB_CONTINUE, args);
}

static bool cmd_step_signal(struct gdb_stub *gdb, const char *args)
{
	return go_with_signal(gdb, GDB_STEP, args);
}

static bool cmd_vcont_actions(struct gdb_stub *gdb, const char *args)
{
	gdb_reply(gdb, "vCont;c;C;s;S;t");
	return true;
}

static bool cmd_why(struct gdb_stub *gdb, const char *args)
{
	gdb_add_stop(gdb);
	return true;
}

static bool cmd_attach(struct gdb_stub *gdb, const char *args)
{
	gdb_add_stop(gdb);
	return true;
}

static bool cmd_extended(struct gdb_stub *gdb, const char *args)
{
	return ok(gdb);
}

/* gdb goes, the machine goes on. */
static bool cmd_detach(struct gdb_stub *gdb, const char *args)
{
	struct error *err ERROR_AUTO = NULL;

	gdb_clean(gdb);
	ok(gdb);
	gdb_send(gdb);
	if (vm_resume(gdb->vm, &err) < 0)
		LOG_ONCE("gdb: detached; %s", error_message(err));
	return true;
}

static void kill_vm(struct gdb_stub *gdb)
{
	log_info("gdb: killed the VM");
	vm_quit(gdb->vm, CAUSE_HOST_UI);
}

static bool cmd_kill(struct gdb_stub *gdb, const char *args)
{
	kill_vm(gdb);
	return true;
}

static bool cmd_vkill(struct gdb_stub *gdb, const char *args)
{
	kill_vm(gdb);
	return ok(gdb);
}

static bool cmd_query(struct gdb_stub *gdb, const char *args)
{
	gdb_query(gdb, gdb->framer.data);
	return true;
}

/* --- The table ---- */

static const struct command {
	const char *name;
	command_fn *run;
	bool no_reply; /* none, or it comes later */
} commands[] = {
	{ "vCont?", cmd_vcont_actions },
	{ "vCont", gdb_vcont, true },
	{ "vAttach;", cmd_attach },
	{ "vKill;", cmd_vkill },
	{ "!", cmd_extended },
	{ "?", cmd_why },
	{ "C", cmd_continue_signal, true },
	{ "D", cmd_detach, true },
	{ "G", cmd_write_registers },
	{ "H", cmd_choose },
	{ "M", cmd_write_memory },
	{ "P", cmd_write_register },
	{ "Q", cmd_query },
	{ "S", cmd_step_signal, true },
	{ "T", cmd_is_alive },
	{ "X", cmd_write_binary },
	{ "Z", cmd_insert },
	{ "c", cmd_continue, true },
	{ "g", cmd_read_registers },
	{ "k", cmd_kill, true },
	{ "m", cmd_read_memory },
	{ "p", cmd_read_register },
	{ "q", cmd_query },
	{ "s", cmd_step, true },
	{ "z", cmd_remove },
};

static const struct command *find_command(const char *text)
{
	for (unsigned i = 0; i < ARRAY_SIZE(commands); i++)
		if (strncmp(text, commands[i].name, strlen(commands[i].name)) == 0)
			return &commands[i];
	return NULL;
}

void gdb_run_packet(struct gdb_stub *gdb)
{
	const char *text = gdb->framer.data;
	const struct command *command = find_command(text);

	gdb->reply.len = 0;
	if (command && !command->run(gdb, text + strlen(command->name))) {
		gdb->reply.len = 0;
		gdb_reply(gdb, GDB_EINVAL);
		gdb_send(gdb);
	} else if (!command || !command->no_reply) {
		gdb_send(gdb);
	}
}
