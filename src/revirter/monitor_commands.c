/*
 * The human monitor's words: each runs a QMP command and prints what came of it for people, in
 * QEMU's form, since programs read that too.
 */
#include "revirter/monitor.h"

#include "base/error.h"
#include "base/props.h"
#include "base/util.h"
#include "machine/bus.h"
#include "machine/pci.h"
#include "revirter/qmp.h"
#include "revirter/qmp_pci.h"
#include "revirter/vm.h"

#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

#define MAX_WORDS 4
#define MAX_LINE  4096

struct context {
	struct vm *vm;
	FILE *out;
	const char *arg; /* the argument, if the command takes one */
};

struct command {
	const char *name, *alias; /* alias may be NULL */
	const char *param;        /* name of its one argument; NULL: it takes none */
	bool optional;            /* the argument is */
	const char *help;
	const char *qmp;                                 /* runs that and prints nothing; or */
	void (*run)(struct context *c);                  /* runs this; or */
	void (*print)(FILE *out, struct json_object *v); /* prints what qmp returned */
};

/* The tables stand at the end, since they name the functions. */
static const struct command *commands(void);
static const struct command *infos(void);

/* --- Reading QMP's answers ---- */

static struct json_object *member(struct json_object *object, const char *name)
{
	struct json_object *value = NULL;

	json_object_object_get_ex(object, name, &value);
	return value;
}

static const char *text_of(struct json_object *object, const char *name)
{
	struct json_object *value = member(object, name);

	return value ? json_object_get_string(value) : "";
}

static int64_t int_of(struct json_object *object, const char *name)
{
	return json_object_get_int64(member(object, name));
}

static bool bool_of(struct json_object *object, const char *name)
{
	return json_object_get_boolean(member(object, name));
}

/* --- info ---- */

static void print_status(FILE *out, struct json_object *v)
{
	const char *status = text_of(v, "status");
	bool running = bool_of(v, "running");

	fprintf(out, "VM status: %s", running ? "running" : "paused");
	if (!running && strcmp(status, "paused") != 0)
		fprintf(out, " (%s)", status);
	fputc('\n', out);
}

static void print_version(FILE *out, struct json_object *v)
{
	struct json_object *qemu = member(v, "qemu");

	fprintf(out, "%" PRId64 ".%" PRId64 ".%" PRId64 " (%s)\n", int_of(qemu, "major"),
		int_of(qemu, "minor"), int_of(qemu, "micro"), text_of(v, "package"));
}

static void print_name(FILE *out, struct json_object *v)
{
	if (member(v, "name"))
		fprintf(out, "%s\n", text_of(v, "name"));
}

static void print_uuid(FILE *out, struct json_object *v)
{
	fprintf(out, "%s\n", text_of(v, "UUID"));
}

static void print_kvm(FILE *out, struct json_object *v)
{
	fprintf(out, "kvm support: %s\n",
		bool_of(v, "enabled")   ? "enabled"
		: bool_of(v, "present") ? "disabled"
					: "not compiled");
}

static void print_text(FILE *out, struct json_object *v)
{
	fputs(text_of(v, "human-readable-text"), out);
}

static void print_balloon(FILE *out, struct json_object *v)
{
	fprintf(out, "balloon: actual=%" PRId64 "\n", int_of(v, "actual") >> 20);
}

static void print_cpus(FILE *out, struct json_object *v)
{
	for (size_t i = 0; i < json_object_array_length(v); i++) {
		struct json_object *cpu = json_object_array_get_idx(v, i);

		fprintf(out, "%c CPU #%" PRId64 ": thread_id=%" PRId64 "\n", i == 0 ? '*' : ' ',
			int_of(cpu, "cpu-index"), int_of(cpu, "thread-id"));
	}
}

static void print_chardev(FILE *out, struct json_object *v)
{
	for (size_t i = 0; i < json_object_array_length(v); i++) {
		struct json_object *chr = json_object_array_get_idx(v, i);

		fprintf(out, "%s: filename=%s\n", text_of(chr, "label"), text_of(chr, "filename"));
	}
}

static void print_iothreads(FILE *out, struct json_object *v)
{
	for (size_t i = 0; i < json_object_array_length(v); i++) {
		struct json_object *t = json_object_array_get_idx(v, i);

		fprintf(out, "%s:\n  thread_id=%" PRId64 "\n", text_of(t, "id"),
			int_of(t, "thread-id"));
	}
}

static void print_one_block(FILE *out, struct json_object *block)
{
	struct json_object *in = member(block, "inserted"), *cache = member(in, "cache");

	fprintf(out, "%s (%s): %s (%s%s)\n", text_of(block, "device"), text_of(in, "node-name"),
		text_of(in, "file"), text_of(in, "drv"), bool_of(in, "ro") ? ", read-only" : "");
	if (member(block, "qdev"))
		fprintf(out, "    Attached to:      %s\n", text_of(block, "qdev"));
	fprintf(out, "    Cache mode:       %s%s%s\n",
		bool_of(cache, "writeback") ? "writeback" : "writethrough",
		bool_of(cache, "direct") ? ", direct" : "",
		bool_of(cache, "no-flush") ? ", ignore flushes" : "");
}

static void print_block(FILE *out, struct json_object *v)
{
	for (size_t i = 0; i < json_object_array_length(v); i++) {
		if (i)
			fputc('\n', out);
		print_one_block(out, json_object_array_get_idx(v, i));
	}
}

/* --- info pci ---- */

static void print_range(FILE *out, struct json_object *bus, const char *name, const char *what)
{
	struct json_object *range = member(bus, name);

	fprintf(out, "      %s range [0x%0*" PRIx64 ", 0x%0*" PRIx64 "]\n", what,
		strcmp(what, "IO") ? 8 : 4, int_of(range, "base"), strcmp(what, "IO") ? 8 : 4,
		int_of(range, "limit"));
}

static void print_bar(FILE *out, struct json_object *bar)
{
	uint64_t address = int_of(bar, "address"), last = address + int_of(bar, "size") - 1;

	fprintf(out, "      BAR%" PRId64 ": ", int_of(bar, "bar"));
	if (strcmp(text_of(bar, "type"), "io") == 0)
		fprintf(out, "I/O at 0x%04" PRIx64 " [0x%04" PRIx64 "].\n", address, last);
	else
		fprintf(out, "%d bit%s memory at 0x%08" PRIx64 " [0x%08" PRIx64 "].\n",
			bool_of(bar, "mem_type_64") ? 64 : 32,
			bool_of(bar, "prefetch") ? " prefetchable" : "", address, last);
}

static void print_pci_devices(FILE *out, struct json_object *devices);

static void print_bridge(FILE *out, struct json_object *bridge)
{
	struct json_object *bus = member(bridge, "bus");

	fprintf(out, "      BUS %" PRId64 ".\n", int_of(bus, "number"));
	fprintf(out, "      secondary bus %" PRId64 ".\n", int_of(bus, "secondary"));
	fprintf(out, "      subordinate bus %" PRId64 ".\n", int_of(bus, "subordinate"));
	print_range(out, bus, "io_range", "IO");
	print_range(out, bus, "memory_range", "memory");
	print_range(out, bus, "prefetchable_range", "prefetchable memory");
}

static void print_pci_device(FILE *out, struct json_object *d)
{
	struct json_object *id = member(d, "id"), *class = member(d, "class_info");
	struct json_object *bridge = member(d, "pci_bridge"), *regions = member(d, "regions");

	fprintf(out, "  Bus %2" PRId64 ", device %3" PRId64 ", function %" PRId64 ":\n",
		int_of(d, "bus"), int_of(d, "slot"), int_of(d, "function"));
	if (member(class, "desc"))
		fprintf(out, "    %s", text_of(class, "desc"));
	else
		fprintf(out, "    Class %04" PRId64, int_of(class, "class"));
	fprintf(out, ": PCI device %04" PRIx64 ":%04" PRIx64 "\n", int_of(id, "vendor"),
		int_of(id, "device"));
	if (member(id, "subsystem"))
		fprintf(out, "      PCI subsystem %04" PRIx64 ":%04" PRIx64 "\n",
			int_of(id, "subsystem-vendor"), int_of(id, "subsystem"));
	if (member(d, "irq"))
		fprintf(out, "      IRQ %" PRId64 ", pin %c\n", int_of(d, "irq"),
			(char)('A' + int_of(d, "irq_pin") - 1));
	if (bridge)
		print_bridge(out, bridge);
	for (size_t i = 0; i < json_object_array_length(regions); i++)
		print_bar(out, json_object_array_get_idx(regions, i));
	fprintf(out, "      id \"%s\"\n", text_of(d, "qdev_id"));
	if (bridge && member(bridge, "devices"))
		print_pci_devices(out, member(bridge, "devices"));
}

static void print_pci_devices(FILE *out, struct json_object *devices)
{
	for (size_t i = 0; i < json_object_array_length(devices); i++)
		print_pci_device(out, json_object_array_get_idx(devices, i));
}

static void print_pci(FILE *out, struct json_object *v)
{
	for (size_t i = 0; i < json_object_array_length(v); i++)
		print_pci_devices(out, member(json_object_array_get_idx(v, i), "devices"));
}

/* --- info mtree ---- */

static void print_bus(FILE *out, const char *name, struct bus *bus)
{
	const struct region *r;

	fprintf(out, "address-space: %s\n", name);
	for (unsigned i = 0; bus && (r = bus_region_at(bus, i)); i++)
		fprintf(out, "  %016" PRIx64 "-%016" PRIx64 " (prio %d, i/o): %s\n", r->base,
			r->base + r->size - 1, r->priority, r->name);
	fputc('\n', out);
}

static void info_mtree(struct context *c)
{
	const struct gmem *mem = &c->vm->machine.mem;

	print_bus(c->out, "memory", c->vm->machine.memory);
	print_bus(c->out, "I/O", c->vm->machine.io);
	fprintf(c->out, "ram:\n");
	for (unsigned i = 0; i < mem->n_regions; i++)
		fprintf(c->out, "  %016" PRIx64 "-%016" PRIx64 "\n", mem->regions[i].gpa,
			mem->regions[i].gpa + mem->regions[i].size - 1);
}

/* --- Running ---- */

static void print_error(FILE *out, const struct error *err)
{
	fprintf(out, "Error: %s\n", error_message(err));
}

static void run_qmp(struct context *c, const struct command *command, struct json_object *args)
{
	struct error *err ERROR_AUTO = NULL;
	struct json_object *result = qmp_execute(c->vm, command->qmp, args, &err);

	if (!result)
		print_error(c->out, err);
	else if (command->print)
		command->print(c->out, result);
	json_object_put(result);
}

static void run_balloon(struct context *c)
{
	static const struct command balloon = { .name = "balloon", .qmp = "balloon" };
	struct json_object *args;
	uint64_t mib;

	if (parse_u64(c->arg, &mib, NULL) < 0 || mib > INT64_MAX >> 20) {
		fprintf(c->out, "'%s' is not a number of MiB\n", c->arg);
		return;
	}
	args = json_object_new_object();
	json_object_object_add(args, "value", json_object_new_int64(mib << 20));
	run_qmp(c, &balloon, args);
	json_object_put(args);
}

static const struct command *find(const struct command *table, const char *name)
{
	for (; table->name; table++)
		if (strcmp(table->name, name) == 0 ||
		    (table->alias && strcmp(table->alias, name) == 0))
			return table;
	return NULL;
}

static void print_help(FILE *out, const char *prefix, const struct command *c)
{
	fprintf(out, "%s%s%s%s%s%s  -- %s\n", prefix, c->name, c->alias ? "|" : "",
		c->alias ? c->alias : "", c->param ? " " : "", c->param ? c->param : "", c->help);
}

static void print_all_help(FILE *out, const char *prefix, const struct command *table)
{
	for (; table->name; table++)
		print_help(out, prefix, table);
}

static void run_help(struct context *c)
{
	const struct command *command = c->arg ? find(commands(), c->arg) : NULL;

	if (!c->arg)
		print_all_help(c->out, "", commands());
	else if (!command)
		fprintf(c->out, "unknown command: '%s'\n", c->arg);
	else if (strcmp(command->name, "info") == 0)
		print_all_help(c->out, "info ", infos());
	else
		print_help(c->out, "", command);
}

static void run_command(struct context *c, const char *prefix, const struct command *command,
			char *words[], unsigned n);

static void run_info(struct context *c, char *words[], unsigned n)
{
	const struct command *command = n ? find(infos(), words[0]) : NULL;

	if (!n)
		print_all_help(c->out, "info ", infos());
	else if (!command)
		fprintf(c->out, "unknown command: 'info %s'\n", words[0]);
	else
		run_command(c, "info ", command, words + 1, n - 1);
}

static void try_help(struct context *c, const char *prefix, const struct command *command)
{
	fprintf(c->out, "Try \"help %s%s\" for more information\n", prefix, command->name);
}

static void run_command(struct context *c, const char *prefix, const struct command *command,
			char *words[], unsigned n)
{
	if (strcmp(command->name, "info") == 0) {
		run_info(c, words, n);
		return;
	}
	if (n > (command->param ? 1 : 0)) {
		fprintf(c->out, "%s%s: extraneous characters at the end of line\n", prefix,
			command->name);
		try_help(c, prefix, command);
		return;
	}
	if (command->param && !command->optional && !n) {
		fprintf(c->out, "%s%s: %s is missing\n", prefix, command->name, command->param);
		try_help(c, prefix, command);
		return;
	}
	c->arg = n ? words[0] : NULL;
	if (command->run)
		command->run(c);
	else
		run_qmp(c, command, NULL);
}

static void run_line(struct context *c, char *line)
{
	char *words[MAX_WORDS], *save = NULL;
	const struct command *command;
	unsigned n = 0;

	for (char *w = strtok_r(line, " \t\r\n", &save); w && n < MAX_WORDS;
	     w = strtok_r(NULL, " \t\r\n", &save))
		words[n++] = w;
	if (!n)
		return;
	command = find(commands(), words[0]);
	if (command)
		run_command(c, "", command, words + 1, n - 1);
	else
		fprintf(c->out, "unknown command: '%s'\n", words[0]);
}

static const struct command command_table[] = {
	{ "balloon", NULL, "target", false, "request VM to change its memory allocation (in MB)",
	  .run = run_balloon },
	{ "cont", "c", NULL, false, "resume emulation", "cont" },
	{ "help", "?", "[cmd]", true, "show the help", .run = run_help },
	{ "info", NULL, "[subcommand]", true, "show various information about the system state" },
	{ "quit", "q", NULL, false, "quit the monitor and end the VM", "quit" },
	{ "stop", "s", NULL, false, "stop emulation", "stop" },
	{ "system_powerdown", NULL, NULL, false, "send system power down event",
	  "system_powerdown" },
	{ "system_reset", NULL, NULL, false, "reset the system", "system_reset" },
	{},
};

static const struct command info_table[] = {
	{ "balloon", NULL, NULL, false, "show balloon information", "query-balloon",
	  .print = print_balloon },
	{ "block", NULL, NULL, false, "show the disks", "query-block", .print = print_block },
	{ "chardev", NULL, NULL, false, "show the character devices", "query-chardev",
	  .print = print_chardev },
	{ "cpus", NULL, NULL, false, "show the CPUs and their threads", "query-cpus-fast",
	  .print = print_cpus },
	{ "iothreads", NULL, NULL, false, "show the I/O threads", "query-iothreads",
	  .print = print_iothreads },
	{ "jit", NULL, NULL, false, "show how much translated code there is", "x-query-jit",
	  .print = print_text },
	{ "kvm", NULL, NULL, false, "show KVM information", "query-kvm", .print = print_kvm },
	{ "mtree", NULL, NULL, false, "show what answers at which address", .run = info_mtree },
	{ "name", NULL, NULL, false, "show the VM name", "query-name", .print = print_name },
	{ "pci", NULL, NULL, false, "show PCI information", "query-pci", .print = print_pci },
	{ "status", NULL, NULL, false, "show whether the VM runs", "query-status",
	  .print = print_status },
	{ "uuid", NULL, NULL, false, "show the VM UUID", "query-uuid", .print = print_uuid },
	{ "version", NULL, NULL, false, "show the version", "query-version",
	  .print = print_version },
	{},
};

static const struct command *commands(void)
{
	return command_table;
}

static const struct command *infos(void)
{
	return info_table;
}

/* Terminals in raw mode need the CR. */
static char *with_carriage_returns(const char *text)
{
	char *result = NULL;
	size_t size;
	FILE *out = open_memstream(&result, &size);

	if (!out)
		abort();
	for (; *text; text++) {
		if (*text == '\n')
			fputc('\r', out);
		fputc(*text, out);
	}
	fclose(out);
	return result;
}

char *monitor_execute(struct vm *vm, const char *line)
{
	char *copy AUTO_FREE = strndup(line, MAX_LINE), *text AUTO_FREE = NULL;
	size_t size;
	struct context c = { .vm = vm, .out = open_memstream(&text, &size) };

	if (!copy || !c.out)
		abort();
	run_line(&c, copy);
	fclose(c.out);
	return with_carriage_returns(text);
}
