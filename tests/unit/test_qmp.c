/*
 * QMP and the human monitor, over socket pairs, on a VM that only notes what it is told: the
 * protocol, hostile input, each command, the shapes of QEMU's answers, descriptors, events.
 */
#include "base/error.h"
#include "base/fdset.h"
#include "base/loop.h"
#include "base/util.h"
#include "block/block.h"
#include "chardev/chardev.h"
#include "hav/backend.h"
#include "machine/backends.h"
#include "machine/device_list.h"
#include "machine/iothread.h"
#include "machine/vcpu.h"
#include "revirter/description.h"
#include "revirter/monitor.h"
#include "revirter/qmp.h"
#include "revirter/qmp_internal.h"
#include "revirter/vm.h"
#include "virtio/balloon.h"

#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

#include <cmocka.h>

#define PATIENCE_NS 5000000000
#define N_CPUS      4

/* --- The VM: notes what it is told ---- */

static struct loop *loop;
static struct vm vm;
static struct description desc;
static struct vcpu vcpus[N_CPUS];
static char calls[256];

static void note(const char *what)
{
	assert_true(strlen(calls) + strlen(what) + 2 < sizeof(calls));
	strcat(calls, what);
	strcat(calls, ";");
}

static void expect_calls(const char *text)
{
	assert_string_equal(calls, text);
	calls[0] = '\0';
}

static void emit(const char *event, const char *data)
{
	if (vm.emit)
		vm.emit(vm.emit_opaque, event, data ? json_tokener_parse(data) : NULL);
}

const char *vm_state_name(enum vm_state state)
{
	return state == VM_PRELAUNCH ? "prelaunch" : state == VM_RUNNING ? "running" : "paused";
}

bool vm_is_running(const struct vm *v)
{
	return v->state == VM_RUNNING;
}

void vm_pause(struct vm *v, enum vm_state state)
{
	note("pause");
	v->state = state;
	emit("STOP", NULL);
}

int vm_resume(struct vm *v, struct error **err)
{
	note("resume");
	if (v->state == VM_SHUTDOWN) {
		error_set(err, "it is over");
		return -1;
	}
	v->state = VM_RUNNING;
	emit("RESUME", NULL);
	return 0;
}

void vm_reset(struct vm *v, enum machine_cause cause)
{
	note(cause == CAUSE_HOST_QMP_SYSTEM_RESET ? "reset" : "?");
	emit("RESET", "{\"guest\": false, \"reason\": \"host-qmp-system-reset\"}");
}

void vm_powerdown(struct vm *v)
{
	note("powerdown");
}

void vm_quit(struct vm *v, enum machine_cause cause)
{
	note(cause == CAUSE_HOST_QMP_QUIT ? "quit" : "?");
}

/* --- The balloon ---- */

static struct device_class balloon_class = { .name = "virtio-balloon-pci" };
static char balloon_id[] = "b0", other_id[] = "d1";
static struct device other = { .class = &pcie_root_port_class, .id = other_id };
static struct device balloon = { .class = &balloon_class, .id = balloon_id, .next = &other };
static uint64_t balloon_target;
static unsigned balloon_interval;

struct device *balloon_find(struct machine *machine)
{
	return machine->devices ? &balloon : NULL;
}

void balloon_set_target(struct device *device, uint64_t bytes)
{
	balloon_target = bytes;
}

uint64_t balloon_actual(struct device *device)
{
	return 512 * MIB;
}

void balloon_get_stats(struct device *device, struct balloon_stats *stats)
{
	static const char *const stat_names[BALLOON_STATS] = {
		"stat-swap-in",          "stat-swap-out",    "stat-major-faults",
		"stat-minor-faults",     "stat-free-memory", "stat-total-memory",
		"stat-available-memory", "stat-disk-caches", "stat-htlb-pgalloc",
		"stat-htlb-pgfail",
	};

	stats->last_update = 0;
	for (unsigned i = 0; i < BALLOON_STATS; i++) {
		stats->stats[i].name = stat_names[i];
		stats->stats[i].value = UINT64_MAX;
	}
}

unsigned balloon_polling_interval(struct device *device)
{
	return balloon_interval;
}

void balloon_set_polling_interval(struct device *device, unsigned seconds)
{
	balloon_interval = seconds;
}

/* --- Clients ---- */

struct client {
	struct chardev *chr;
	struct qmp *qmp;
	int fd;
	char buf[200000];
	size_t n;
};

static bool timed_out;
static struct loop_timer *guard;

static void on_guard(void *opaque)
{
	timed_out = true;
	loop_stop(loop);
}

static void on_client(void *opaque, uint32_t events)
{
	struct client *c = opaque;
	ssize_t n = recv(c->fd, c->buf + c->n, sizeof(c->buf) - 1 - c->n, MSG_DONTWAIT);

	if (n > 0)
		c->n += n;
	c->buf[c->n] = '\0';
	loop_stop(loop);
}

/* Runs the loop until something arrives at the client; false when nothing does. */
static bool wait_for_more(struct client *c, uint64_t ns)
{
	struct loop_watch *watch = loop_watch_new(loop, c->fd, EPOLLIN, on_client, c, NULL);
	size_t before = c->n;

	guard = loop_timer_new(loop, on_guard, NULL);
	loop_timer_set(guard, now_ns() + ns);
	timed_out = false;
	while (!timed_out && c->n == before)
		loop_run(loop);
	loop_timer_free(guard);
	loop_watch_free(watch);
	return c->n > before;
}

static char *take_line(struct client *c)
{
	static char line[sizeof(c->buf)];
	char *end;

	while (!(end = strstr(c->buf, "\r\n"))) {
		if (!wait_for_more(c, PATIENCE_NS))
			fail_msg("no answer, only: %s", c->buf);
	}
	*end = '\0';
	strcpy(line, c->buf);
	c->n -= end + 2 - c->buf;
	memmove(c->buf, end + 2, c->n + 1);
	return line;
}

static void expect(struct client *c, const char *line)
{
	assert_string_equal(take_line(c), line);
}

/* The server reads while the loop runs, and only then. */
static void tell(struct client *c, const char *text)
{
	size_t left = strlen(text);

	while (left) {
		ssize_t n = send(c->fd, text, left, MSG_DONTWAIT);

		if (n < 0) {
			wait_for_more(c, 1000000);
			continue;
		}
		text += n;
		left -= n;
	}
}

static void expect_silence(struct client *c)
{
	if (c->n || wait_for_more(c, 20000000))
		fail_msg("unexpected: %s", c->buf);
}

/* A socket chardev with these options. */
static struct chardev *make_chardev(const char *id, const char *options)
{
	const struct chardev_class *const *class = chardev_classes();
	const struct prop *tables[] = { NULL, chardev_common_props, NULL };
	struct error *err = NULL;
	struct chardev *chr = NULL;
	struct props *props;

	while (strcmp((*class)->name, "socket") != 0)
		class ++;
	tables[0] = (*class)->props;
	props = props_parse(options, NULL, tables, &err);
	if (props)
		chr = chardev_new(*class, id, props, loop, &err);
	if (!chr)
		fail_msg("%s: %s", options, error_message(err));
	props_free(props);
	return chr;
}

static struct chardev *make_pair(int *peer, const char *options)
{
	char text[64];
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	*peer = fds[1];
	snprintf(text, sizeof(text), "fd=%d%s", fds[0], options);
	return make_chardev("qmp0", text);
}

#define GREETING                                                                          \
	"{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 0, \"minor\": 2, \"major\": 7}, " \
	"\"package\": \"revirter " REVIRT_VERSION "\"}, \"capabilities\": []}}"

static struct client *connect_client(bool negotiate)
{
	struct client *c = xcalloc(1, sizeof(*c));

	c->chr = make_pair(&c->fd, "");
	c->qmp = qmp_new(&vm, c->chr, false, NULL);
	assert_non_null(c->qmp);
	expect(c, GREETING);
	if (negotiate) {
		tell(c, "{\"execute\": \"qmp_capabilities\"}");
		expect(c, "{\"return\": {}}");
	}
	return c;
}

static void disconnect(struct client *c)
{
	close(c->fd);
	free(c);
}

/* Ends all servers of the VM, then their chardevs, as revirter does. */
static void end(struct client *a, struct client *b)
{
	struct chardev *chr[2] = { a->chr, b ? b->chr : NULL };

	qmp_free_all(&vm);
	assert_null(vm.emit);
	chardev_free(chr[0]);
	chardev_free(chr[1]);
	disconnect(a);
	if (b)
		disconnect(b);
}

/* --- The protocol ---- */

static void test_negotiation(void **state)
{
	struct client *c = connect_client(false);

	tell(c, "{\"execute\": \"query-status\", \"id\": 1}");
	expect(c, "{\"id\": 1, \"error\": {\"class\": \"CommandNotFound\", \"desc\": \"Expecting "
		  "capabilities negotiation with 'qmp_capabilities'\"}}");
	emit("STOP", NULL);
	expect_silence(c);
	tell(c, "{\"execute\": \"qmp_capabilities\", \"arguments\": {\"enable\": [\"oob\"]}}");
	expect(c,
	       "{\"error\": {\"class\": \"GenericError\", \"desc\": \"Parameter 'enable' does not "
	       "accept value 'oob'; no capabilities are offered\"}}");
	tell(c, "{\"execute\": \"qmp_capabilities\", \"arguments\": {\"enable\": []}, "
		"\"id\": {\"a\": [1, null, 2.5]}}");
	expect(c, "{\"return\": {}, \"id\": {\"a\": [1, null, 2.5]}}");
	tell(c, "{\"execute\": \"qmp_capabilities\"}");
	expect(c, "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"Capabilities "
		  "negotiation is "
		  "already complete, command ignored\"}}");
	end(c, NULL);
}

/* What a client says, and what is wrong with it: as QEMU 7.2 puts it. */
static const struct {
	const char *said, *class, *desc;
} mistakes[] = {
	{ "{\"execute\": \"foo\"}", "CommandNotFound", "The command foo has not been found" },
	{ "{\"execute\": \"device_add\", \"arguments\": {\"driver\": \"x\"}}", "CommandNotFound",
	  "The command device_add has not been found" },
	{ "{\"execute\": \"stop\", \"arguments\": {\"x\": 1}}", "GenericError",
	  "Parameter 'x' is unexpected" },
	{ "{\"execute\": \"balloon\"}", "GenericError", "Parameter 'value' is missing" },
	{ "{\"execute\": \"balloon\", \"arguments\": {\"value\": \"x\"}}", "GenericError",
	  "Invalid parameter type for 'value', expected: integer" },
	{ "{\"execute\": \"balloon\", \"arguments\": {\"value\": 1.5}}", "GenericError",
	  "Invalid parameter type for 'value', expected: integer" },
	{ "{\"execute\": \"balloon\", \"arguments\": {\"value\": 5, \"y\": 2}}", "GenericError",
	  "Parameter 'y' is unexpected" },
	{ "{\"execute\": \"balloon\", \"arguments\": []}", "GenericError",
	  "QMP input member 'arguments' must be an object" },
	{ "{\"execute\": \"balloon\", \"arguments\": null}", "GenericError",
	  "QMP input member 'arguments' must be an object" },
	{ "{\"execute\": 5}", "GenericError", "QMP input member 'execute' must be a string" },
	{ "{}", "GenericError", "QMP input lacks member 'execute'" },
	{ "[]", "GenericError", "QMP input must be a JSON object" },
	{ "\"hello\"", "GenericError", "QMP input must be a JSON object" },
	{ "5\n", "GenericError", "QMP input must be a JSON object" },
	{ "null ", "GenericError", "QMP input must be a JSON object" },
	{ "{\"execute\": \"stop\", \"extra\": 1}", "GenericError",
	  "QMP input member 'extra' is unexpected" },
	{ "{\"exec-oob\": \"stop\"}", "GenericError", "QMP input member 'exec-oob' is unexpected" },
	{ "{\"execute\": \"getfd\", \"arguments\": {\"fdname\": \"x\"}}", "GenericError",
	  "No file descriptor supplied via SCM_RIGHTS" },
	{ "{\"execute\": \"closefd\", \"arguments\": {\"fdname\": \"x\"}}", "GenericError",
	  "File descriptor named 'x' not found" },
	{ "{\"execute\": \"add-fd\", \"arguments\": {\"fdset-id\": \"x\"}}", "GenericError",
	  "Invalid parameter type for 'fdset-id', expected: integer" },
	{ "{\"execute\": \"remove-fd\", \"arguments\": {\"fdset-id\": 3}}", "GenericError",
	  "File descriptor named 'fdset-id:3' not found" },
	{ "{\"execute\": \"remove-fd\", \"arguments\": {\"fdset-id\": 3, \"fd\": 2}}",
	  "GenericError", "File descriptor named 'fdset-id:3, fd:2' not found" },
	{ "{\"execute\": \"stop\\u0000x\"}", "CommandNotFound",
	  "The command stop has not been found" },
	{ "{\"execute\": \"closefd\", \"arguments\": {\"fdname\": \"a\\u0000b\"}}", "GenericError",
	  "Invalid parameter type for 'fdname', expected: string" },
	{ "{\"execute\": foo}", "GenericError", NULL },
	{ "{\"execute\" \"stop\"}", "GenericError", NULL },
	{ "{\"execute\": \"stop\"]", "GenericError", NULL },
	{ "}", "GenericError", NULL },
	{ ",", "GenericError", NULL },
	{ "xxx\n", "GenericError", NULL },
	{ "\"a\001", "GenericError", NULL },
	{ "\"\xff", "GenericError", NULL },
	{ "{\"id\": \"\xc3\x28\"}", "GenericError", NULL },
	{ "\"\\ud800\\u0041\\x\"", "GenericError", NULL },
};

static void test_mistakes(void **state)
{
	struct client *c = connect_client(true);

	for (unsigned i = 0; i < ARRAY_SIZE(mistakes); i++) {
		struct json_object *answer, *error;

		tell(c, mistakes[i].said);
		answer = json_tokener_parse(take_line(c));
		assert_true(json_object_object_get_ex(answer, "error", &error));
		assert_string_equal(json_object_get_string(json_object_object_get(error, "class")),
				    mistakes[i].class);
		if (mistakes[i].desc)
			assert_string_equal(
				json_object_get_string(json_object_object_get(error, "desc")),
				mistakes[i].desc);
		json_object_put(answer);
		/* Nothing of it is left behind. */
		tell(c, "{\"execute\": \"query-name\", \"id\": \"after\"}");
		expect(c, "{\"return\": {\"name\": \"the vm\"}, \"id\": \"after\"}");
	}
	expect_calls("");
	end(c, NULL);
}

static void test_id_with_error(void **state)
{
	struct client *c = connect_client(true);

	tell(c, "{\"execute\": 5, \"bogus\": 1, \"id\": null}");
	expect(c, "{\"id\": null, \"error\": {\"class\": \"GenericError\", \"desc\": \"QMP input "
		  "member "
		  "'execute' must be a string\"}}");
	end(c, NULL);
}

static void test_line_breaks_mean_nothing(void **state)
{
	static const char text[] =
		"\xff\r\n  { 'execute'\n:\n\t\"query-name\" , 'id' : \"}\\\"{\" }"
		"{\"execute\":\"query-name\"} {\"execute\":\"query-name\"}\n";
	struct client *c = connect_client(true);

	for (unsigned i = 0; i < strlen(text); i++) {
		char byte[2] = { text[i], 0 };

		tell(c, byte);
		if (i % 7 == 0)
			wait_for_more(c, 1000000);
	}
	expect(c, "{\"return\": {\"name\": \"the vm\"}, \"id\": \"}\\\"{\"}");
	expect(c, "{\"return\": {\"name\": \"the vm\"}}");
	expect(c, "{\"return\": {\"name\": \"the vm\"}}");
	expect_silence(c);
	end(c, NULL);
}

static void expect_error(struct client *c, const char *start)
{
	char *line = take_line(c);

	assert_non_null(strstr(line, "\"error\": "));
	assert_non_null(strstr(line, start));
}

static void test_too_much(void **state)
{
	struct client *c = connect_client(true);
	static char block[65537];

	/* Deeper than there is any reason for. */
	memset(block, '[', 1000);
	memset(block + 1000, ']', 1000);
	tell(c, block);
	expect_error(c, "JSON parse error, nesting too deep");
	/* Longer too: read to its end, not kept. */
	memset(block, ' ', 65536);
	tell(c, "{\"execute\": \"");
	for (unsigned i = 0; i < QMP_MAX_MESSAGE / 65536 + 3; i++)
		tell(c, block);
	tell(c, "stop\"}{\"execute\": \"query-name\"}");
	expect_error(c, "a message is longer than 4194304 bytes");
	expect(c, "{\"return\": {\"name\": \"the vm\"}}");
	end(c, NULL);
}

/* A client that asks and asks and reads nothing: it is not read either, and gets all in the end. */
static void test_client_that_does_not_read(void **state)
{
	struct client *c = connect_client(true);
	static const char question[] = "{\"execute\": \"query-commands\"}";
	unsigned asked = 0, answered = 0;
	struct pollfd p = { .fd = c->fd, .events = POLLOUT };

	for (unsigned idle = 0; idle < 20;) {
		struct loop_timer *t = loop_timer_new(loop, on_guard, NULL);

		if (poll(&p, 1, 0) == 1 && send(c->fd, question, strlen(question), MSG_DONTWAIT) ==
						   (ssize_t)strlen(question)) {
			asked++;
			idle = 0;
		} else {
			idle++;
		}
		loop_timer_set(t, now_ns() + (idle ? 1000000 : 0));
		loop_run(loop);
		loop_timer_free(t);
	}
	assert_true(asked > 100);
	while (answered < asked) {
		assert_memory_equal(take_line(c), "{\"return\": [{\"name\": ", 21);
		answered++;
	}
	expect_silence(c);
	end(c, NULL);
}

static int connect_to(const char *path)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(un.sun_path, path);
	assert_int_equal(connect(fd, (struct sockaddr *)&un, sizeof(un)), 0);
	return fd;
}

/* Each client starts anew, whatever the one before left half said. */
static void test_clients_come_and_go(void **state)
{
	static const char *const last_words[] = { "{\"execute\": \"qmp_capabilities\"}", "{\"exec",
						  "" };
	char dir[] = "/tmp/test-qmp-XXXXXX", path[100], options[150];
	struct client *c = xcalloc(1, sizeof(*c));

	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/s", dir);
	snprintf(options, sizeof(options), "path=%s,server=on,wait=off", path);
	c->chr = make_chardev("qmp0", options);
	assert_non_null(qmp_new(&vm, c->chr, false, NULL));
	for (unsigned i = 0; i < ARRAY_SIZE(last_words); i++) {
		c->fd = connect_to(path);
		expect(c, GREETING);
		tell(c, "{\"execute\": \"query-name\"}");
		expect_error(c, "Expecting capabilities negotiation");
		tell(c, last_words[i]);
		if (i == 0)
			expect(c, "{\"return\": {}}");
		close(c->fd);
	}
	c->fd = -1;
	end(c, NULL);
	unlink(path);
	rmdir(dir);
}

static void test_pretty(void **state)
{
	struct client *c = xcalloc(1, sizeof(*c));

	c->chr = make_pair(&c->fd, "");
	c->qmp = qmp_new(&vm, c->chr, true, NULL);
	while (strcmp(take_line(c), "}") != 0)
		;
	tell(c, "{\"execute\": \"qmp_capabilities\", \"id\": [1, {\"a\": []}]}");
	expect(c, "{");
	expect(c, "    \"return\": {");
	expect(c, "    },");
	expect(c, "    \"id\": [");
	expect(c, "        1,");
	expect(c, "        {");
	expect(c, "            \"a\": [");
	expect(c, "            ]");
	expect(c, "        }");
	expect(c, "    ]");
	expect(c, "}");
	end(c, NULL);
}

/* --- Commands ---- */

static void test_run_state(void **state)
{
	struct client *c = connect_client(true);

	vm.state = VM_PRELAUNCH;
	tell(c, "{\"execute\": \"query-status\"}");
	expect(c, "{\"return\": {\"status\": \"prelaunch\", \"singlestep\": false, "
		  "\"running\": false}}");
	tell(c, "{\"execute\": \"cont\"}");
	assert_non_null(strstr(take_line(c), "\"event\": \"RESUME\"}"));
	expect(c, "{\"return\": {}}");
	tell(c, "{\"execute\": \"stop\"}");
	assert_non_null(strstr(take_line(c), "\"event\": \"STOP\"}"));
	expect(c, "{\"return\": {}}");
	tell(c, "{\"execute\": \"system_reset\"}{\"execute\": \"system_powerdown\"}");
	assert_non_null(strstr(take_line(c), "\"event\": \"RESET\", \"data\": {\"guest\": false, "
					     "\"reason\": \"host-qmp-system-reset\"}}"));
	expect(c, "{\"return\": {}}");
	expect(c, "{\"return\": {}}");
	vm.state = VM_SHUTDOWN;
	tell(c, "{\"execute\": \"cont\"}");
	expect_error(c, "it is over");
	tell(c, "{\"execute\": \"quit\", \"id\": 9}");
	expect(c, "{\"return\": {}, \"id\": 9}");
	expect_calls("resume;pause;reset;powerdown;resume;quit;");
	end(c, NULL);
}

/* What waits when the VM ends still reaches the client. */
static void test_last_words(void **state)
{
	struct client *c = connect_client(true);

	emit("SHUTDOWN", "{\"guest\": true, \"reason\": \"guest-shutdown\"}");
	qmp_free_all(&vm);
	chardev_free(c->chr);
	assert_non_null(strstr(take_line(c), "\"event\": \"SHUTDOWN\", \"data\": {\"guest\": true, "
					     "\"reason\": \"guest-shutdown\"}}"));
	disconnect(c);
}

static void test_balloon(void **state)
{
	struct client *c = connect_client(true);

	tell(c, "{\"execute\": \"query-balloon\"}");
	expect_error(c, "\"class\": \"DeviceNotActive\", \"desc\": \"No balloon device");
	tell(c, "{\"execute\": \"balloon\", \"arguments\": {\"value\": 5}}");
	expect_error(c, "\"class\": \"DeviceNotActive\", \"desc\": \"No balloon device");
	vm.machine.devices = &balloon;
	tell(c, "{\"execute\": \"query-balloon\"}");
	expect(c, "{\"return\": {\"actual\": 536870912}}");
	tell(c, "{\"execute\": \"balloon\", \"arguments\": {\"value\": 0}}");
	expect_error(c, "Parameter 'target' expects a size");
	tell(c, "{\"execute\": \"balloon\", \"arguments\": {\"value\": 268435456}}");
	expect(c, "{\"return\": {}}");
	assert_int_equal(balloon_target, 256 * MIB);
	vm.machine.devices = NULL;
	end(c, NULL);
}

#define QOM(verb, path, rest) \
	"{\"execute\": \"qom-" verb "\", \"arguments\": {\"path\": \"" path "\", " rest "}}"
#define INTERVAL "\"property\": \"guest-stats-polling-interval\""

static void test_qom(void **state)
{
	struct client *c = connect_client(true);

	vm.machine.devices = &balloon;
	tell(c, QOM("get", "/machine/peripheral/b0", INTERVAL));
	expect(c, "{\"return\": 0}");
	tell(c, QOM("set", "/machine/peripheral/b0", INTERVAL ", \"value\": 2"));
	expect(c, "{\"return\": {}}");
	tell(c, QOM("get", "b0", INTERVAL));
	expect(c, "{\"return\": 2}");
	tell(c, QOM("set", "b0", INTERVAL ", \"value\": -1"));
	expect_error(c, "timer value must be greater than zero");
	tell(c, QOM("set", "b0", INTERVAL ", \"value\": \"x\""));
	expect_error(
		c, "Invalid parameter type for 'guest-stats-polling-interval', expected: integer");
	tell(c, QOM("get", "b0", "\"property\": \"guest-stats\""));
	assert_non_null(strstr(take_line(c), "\"stat-free-memory\": 18446744073709551615"));
	tell(c, QOM("set", "b0", "\"property\": \"guest-stats\", \"value\": 1"));
	expect_error(c, "Property 'virtio-balloon-pci.guest-stats' is not writable");
	tell(c, QOM("get", "b0", "\"property\": \"nope\""));
	expect_error(c, "Property 'virtio-balloon-pci.nope' not found");
	tell(c, QOM("get", "/machine/peripheral/d1", "\"property\": \"type\""));
	expect(c, "{\"return\": \"pcie-root-port\"}");
	tell(c, QOM("get", "d1", INTERVAL));
	expect_error(c, "Property 'pcie-root-port.guest-stats-polling-interval' not found");
	tell(c, QOM("get", "/machine/peripheral/nope", "\"property\": \"nope\""));
	expect_error(c, "\"class\": \"DeviceNotFound\", \"desc\": \"Device "
			"'/machine/peripheral/nope' not found\"");
	vm.machine.devices = NULL;
	end(c, NULL);
}

/* --- Descriptors ---- */

static void tell_with_fd(struct client *c, const char *text, int fd)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control = { .header = { CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS } };
	struct iovec iov = { (void *)text, strlen(text) };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = &control,
			      .msg_controllen = sizeof(control.space) };

	memcpy(CMSG_DATA(&control.header), &fd, sizeof(int));
	assert_int_equal(sendmsg(c->fd, &msg, 0), strlen(text));
}

static bool is_open(int fd)
{
	return fcntl(fd, F_GETFD) >= 0;
}

static void test_fds(void **state)
{
	struct client *c = connect_client(true);
	int null = open("/dev/null", O_RDWR | O_CLOEXEC), fd;
	struct json_object *answer, *result;
	char line[200];

	tell_with_fd(c, "{\"execute\": \"getfd\", \"arguments\": {\"fdname\": \"5x\"}}", null);
	expect_error(c, "Parameter 'fdname' expects a name not starting with a digit");
	/* Twice the same name: the second replaces the first. */
	for (unsigned i = 0; i < 2; i++) {
		tell_with_fd(c, "{\"execute\": \"getfd\", \"arguments\": {\"fdname\": \"net\"}}",
			     null);
		expect(c, "{\"return\": {}}");
	}
	tell(c, "{\"execute\": \"closefd\", \"arguments\": {\"fdname\": \"net\"}}");
	expect(c, "{\"return\": {}}");
	tell(c, "{\"execute\": \"closefd\", \"arguments\": {\"fdname\": \"net\"}}");
	expect_error(c, "File descriptor named 'net' not found");

	tell_with_fd(c, "{\"execute\": \"add-fd\", \"arguments\": {\"fdset-id\": -1}}", null);
	expect_error(c, "Parameter 'fdset-id' expects a non-negative value");
	/* The descriptor may come ahead of the command it is for. */
	tell_with_fd(c, " ", null);
	tell(c, "{\"execute\": \"add-fd\", \"arguments\": {\"opaque\": \"a disk\"}}");
	answer = json_tokener_parse(take_line(c));
	assert_true(json_object_object_get_ex(answer, "return", &result));
	assert_int_equal(json_object_get_int(json_object_object_get(result, "fdset-id")), 0);
	fd = json_object_get_int(json_object_object_get(result, "fd"));
	json_object_put(answer);
	assert_true(is_open(fd));
	tell(c, "{\"execute\": \"query-fdsets\"}");
	snprintf(line, sizeof(line),
		 "{\"return\": [{\"fds\": [{\"fd\": %d, \"opaque\": \"a disk\"}], \"fdset-id\": "
		 "0}]}",
		 fd);
	expect(c, line);
	tell(c, "{\"execute\": \"remove-fd\", \"arguments\": {\"fdset-id\": 0}}");
	expect(c, "{\"return\": {}}");
	assert_false(is_open(fd));
	tell(c, "{\"execute\": \"query-fdsets\"}");
	expect(c, "{\"return\": []}");
	close(null);
	end(c, NULL);
}

static void test_fds_are_bounded(void **state)
{
	struct client *c = connect_client(true);
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	unsigned taken = 0;
	int highest;

	for (;; taken++) {
		char text[100];

		snprintf(text, sizeof(text),
			 "{\"execute\": \"getfd\", \"arguments\": {\"fdname\": \"n%u\"}}", taken);
		tell_with_fd(c, text, null);
		if (strcmp(take_line(c), "{\"return\": {}}") != 0)
			break;
	}
	assert_int_equal(taken, QMP_MAX_NAMED_FDS);
	for (taken = 0;; taken++) {
		tell_with_fd(c, "{\"execute\": \"add-fd\", \"arguments\": {\"fdset-id\": 1}}",
			     null);
		if (!strstr(take_line(c), "\"return\""))
			break;
	}
	assert_int_equal(taken, 256);
	assert_int_equal(fdset_remove(1, -1, NULL), 0);
	end(c, NULL);
	highest = dup(null);
	assert_true(highest < 40); /* all were closed */
	close(highest);
	close(null);
}

/* --- Events, and several monitors ---- */

static void test_two_clients(void **state)
{
	struct client *a = connect_client(true), *b = connect_client(false);
	const char *line;
	double seconds, now = time(NULL);

	emit("BALLOON_CHANGE", "{\"actual\": 5}");
	line = take_line(a);
	assert_int_equal(sscanf(line, "{\"timestamp\": {\"seconds\": %lf, ", &seconds), 1);
	assert_true(seconds >= now && seconds < now + 60);
	assert_non_null(
		strstr(line, "}, \"event\": \"BALLOON_CHANGE\", \"data\": {\"actual\": 5}}"));
	expect_silence(b);
	tell(b, "{\"execute\": \"qmp_capabilities\"}");
	expect(b, "{\"return\": {}}");
	tell(a, "{\"execute\": \"stop\", \"id\": \"mine\"}");
	assert_non_null(strstr(take_line(a), "\"STOP\""));
	expect(a, "{\"return\": {}, \"id\": \"mine\"}");
	assert_non_null(strstr(take_line(b), "\"STOP\""));
	expect_silence(b);
	expect_calls("pause;");
	/* One goes; the other hears on. */
	close(a->fd);
	a->fd = dup(b->fd);
	wait_for_more(b, 10000000);
	emit("RESUME", NULL);
	assert_non_null(strstr(take_line(b), "\"RESUME\""));
	end(a, b);
}

/* --- Shapes: QEMU 7.2's own answers, of a VM much like this one ---- */

static const struct shape {
	const char *command, *example;
} shapes[] = {
	{ "query-version", "{'qemu': {'micro': 22, 'minor': 2, 'major': 7}, 'package': 'Debian'}" },
	{ "query-status", "{'status': 'prelaunch', 'singlestep': false, 'running': false}" },
	{ "query-name", "{'name': 'x'}" },
	{ "query-uuid", "{'UUID': '00000000-0000-0000-0000-000000000000'}" },
	{ "query-kvm", "{'enabled': false, 'present': true}" },
	{ "query-commands", "[{'name': 'quit'}]" },
	{ "query-cpus-fast",
	  "[{'thread-id': 18376, 'props': {'core-id': 0, 'thread-id': 0, 'socket-id': 0}, "
	  "'qom-path': '/machine/unattached/device[0]', 'cpu-index': 0, 'target': 'x86_64'}]" },
	{ "query-block",
	  "[{'io-status': 'ok', 'device': 'hd0', 'locked': false, 'removable': false, 'inserted': "
	  "{'iops_rd': 0, 'detect_zeroes': 'off', 'image': {'virtual-size': 1048576, 'filename': "
	  "'d.img', 'format': 'raw', 'actual-size': 0, 'dirty-flag': false}, 'iops_wr': 0, 'ro': "
	  "false, 'node-name': '#block100', 'backing_file_depth': 0, 'drv': 'raw', 'iops': 0, "
	  "'bps_wr': 0, 'write_threshold': 0, 'encrypted': false, 'bps': 0, 'bps_rd': 0, 'cache': "
	  "{'no-flush': false, 'direct': false, 'writeback': true}, 'file': 'd.img'}, 'qdev': "
	  "'/machine/peripheral/vd0/virtio-backend', 'type': 'unknown'}]" },
	{ "query-chardev", "[{'frontend-open': false, 'filename': 'null', 'label': 'c0'}]" },
	{ "query-balloon", "{'actual': 134217728}" },
	{ "query-memory-size-summary", "{'base-memory': 134217728, 'plugged-memory': 0}" },
	{ "query-iothreads", "[{'poll-shrink': 0, 'thread-id': 18374, 'aio-max-batch': 0, "
			     "'poll-grow': 0, 'poll-max-ns': 32768, 'id': 'io1'}]" },
	{ "query-pci",
	  "[{'bus': 0, 'devices': [{'irq_pin': 1, 'bus': 0, 'pci_bridge': {'bus': "
	  "{'prefetchable_range': {'limit': 1048575, 'base': 4293918720}, 'memory_range': "
	  "{'limit': "
	  "1048575, 'base': 4293918720}, 'secondary': 0, 'io_range': {'limit': 4095, 'base': "
	  "61440}, "
	  "'number': 0, 'subordinate': 0}, 'devices': []}, 'qdev_id': 'rp0', 'irq': 0, 'slot': 1, "
	  "'class_info': {'class': 512, 'desc': 'Ethernet controller'}, 'id': {'device': 4096, "
	  "'subsystem-vendor': 6900, 'vendor': 6900, 'subsystem': 1}, 'function': 0, 'regions': "
	  "[{'prefetch': false, 'mem_type_64': false, 'bar': 1, 'size': 4096, 'address': -1, "
	  "'type': "
	  "'memory'}]}]}]" },
};

/* Members QEMU gives or leaves out, as the case may be. */
static const char *const optional[] = {
	"name",      "qdev",     "pci_bridge",  "devices", "irq", "desc", "subsystem-vendor",
	"subsystem", "prefetch", "mem_type_64",
};

static bool is_optional(const char *key)
{
	for (unsigned i = 0; i < ARRAY_SIZE(optional); i++)
		if (strcmp(optional[i], key) == 0)
			return true;
	return false;
}

static void compare(const char *where, struct json_object *ours, struct json_object *theirs)
{
	struct json_object *other_value;

	if (json_object_get_type(ours) != json_object_get_type(theirs))
		fail_msg("%s: %s instead of %s", where, json_object_to_json_string(ours),
			 json_object_to_json_string(theirs));
	if (json_object_is_type(ours, json_type_array)) {
		for (size_t i = 0; i < json_object_array_length(ours); i++)
			if (json_object_array_length(theirs))
				compare(where, json_object_array_get_idx(ours, i),
					json_object_array_get_idx(theirs, 0));
	}
	if (!json_object_is_type(ours, json_type_object))
		return;
	json_object_object_foreach(ours, key, value)
	{
		if (!json_object_object_get_ex(theirs, key, &other_value))
			fail_msg("%s: QEMU has no member %s", where, key);
		compare(key, value, other_value);
	}
	json_object_object_foreach(theirs, their_key, unused)
	{
		(void)unused;
		if (!json_object_object_get_ex(ours, their_key, NULL) && !is_optional(their_key))
			fail_msg("%s: there is no member %s", where, their_key);
	}
}

static void test_shapes(void **state)
{
	vm.machine.devices = &balloon;
	for (unsigned i = 0; i < ARRAY_SIZE(shapes); i++) {
		struct json_object *theirs = json_tokener_parse(shapes[i].example), *ours;

		assert_non_null(theirs);
		ours = qmp_execute(&vm, shapes[i].command, NULL, NULL);
		assert_non_null(ours);
		compare(shapes[i].command, ours, theirs);
		if (json_object_is_type(ours, json_type_array))
			assert_true(json_object_array_length(ours) > 0);
		json_object_put(ours);
		json_object_put(theirs);
	}
	vm.machine.devices = NULL;
}

static struct json_object *ask(const char *command)
{
	struct json_object *result = qmp_execute(&vm, command, NULL, NULL);

	assert_non_null(result);
	return result;
}

static void expect_answer(const char *command, const char *text)
{
	struct json_object *result = ask(command);
	char *printed;
	size_t len;

	printed = qmp_print(result, false, &len);
	assert_int_equal(len, strlen(printed));
	printed[len - 2] = '\0';
	assert_string_equal(printed, text);
	free(printed);
	json_object_put(result);
}

static void test_values(void **state)
{
	struct json_object *pci = ask("query-pci"), *root, *devices, *port, *bridge;

	expect_answer("query-uuid", "{\"UUID\": \"00010203-0405-0607-0809-0a0b0c0d0e0f\"}");
	expect_answer("query-kvm", "{\"enabled\": true, \"present\": true}");
	expect_answer("query-memory-size-summary",
		      "{\"base-memory\": 1073741824, \"plugged-memory\": 0}");
	expect_answer("query-chardev",
		      "[{\"frontend-open\": false, \"filename\": \"mux\", \"label\": \"c0\"}, "
		      "{\"frontend-open\": true, \"filename\": \"null\", \"label\": \"c0-base\"}]");
	root = json_object_array_get_idx(pci, 0);
	devices = json_object_object_get(root, "devices");
	assert_int_equal(json_object_array_length(devices), 2);
	port = json_object_array_get_idx(devices, 1);
	assert_string_equal(json_object_get_string(json_object_object_get(port, "qdev_id")), "rp0");
	bridge = json_object_object_get(port, "pci_bridge");
	assert_int_equal(json_object_array_length(json_object_object_get(bridge, "devices")), 1);
	json_object_put(pci);
}

/* --- The human monitor ---- */

static void expect_human(const char *line, const char *text)
{
	char *got = monitor_execute(&vm, line);

	assert_string_equal(got, text);
	free(got);
}

static void expect_human_has(const char *line, const char *part)
{
	char *got = monitor_execute(&vm, line);

	if (!strstr(got, part))
		fail_msg("%s: no '%s' in: %s", line, part, got);
	free(got);
}

static void test_human_commands(void **state)
{
	vm.state = VM_PRELAUNCH;
	expect_human("info status", "VM status: paused (prelaunch)\r\n");
	expect_human("  c ", "");
	expect_human("info status", "VM status: running\r\n");
	expect_human("s", "");
	expect_human("stop", "");
	expect_human("info status", "VM status: paused\r\n");
	expect_human("system_reset", "");
	expect_human("system_powerdown", "");
	expect_human("q", "");
	expect_calls("resume;pause;pause;reset;powerdown;quit;");
	expect_human("", "");
	expect_human(" \t ", "");
	expect_human("foo bar", "unknown command: 'foo'\r\n");
	expect_human("info foo", "unknown command: 'info foo'\r\n");
	expect_human("help foo", "unknown command: 'foo'\r\n");
	expect_human("stop x", "stop: extraneous characters at the end of line\r\n"
			       "Try \"help stop\" for more information\r\n");
	expect_human("info status x", "info status: extraneous characters at the end of line\r\n"
				      "Try \"help info status\" for more information\r\n");
	expect_human("help stop", "stop|s  -- stop emulation\r\n");
	expect_human("help help", "help|? [cmd]  -- show the help\r\n");
	expect_human("info version", "7.2.0 (revirter " REVIRT_VERSION ")\r\n");
	expect_human("info name", "the vm\r\n");
	expect_human("info uuid", "00010203-0405-0607-0809-0a0b0c0d0e0f\r\n");
	expect_human("info kvm", "kvm support: enabled\r\n");
	expect_human("info chardev", "c0: filename=mux\r\nc0-base: filename=null\r\n");
	expect_human("balloon", "balloon: target is missing\r\n"
				"Try \"help balloon\" for more information\r\n");
	expect_human("balloon 12", "Error: No balloon device has been activated\r\n");
	expect_human("info balloon", "Error: No balloon device has been activated\r\n");
	vm.machine.devices = &balloon;
	expect_human("balloon 12", "");
	assert_int_equal(balloon_target, 12 * MIB);
	expect_human("balloon x", "'x' is not a number of MiB\r\n");
	expect_human("info balloon", "balloon: actual=512\r\n");
	vm.machine.devices = NULL;
	expect_human_has("info cpus", "* CPU #0: thread_id=100\r\n  CPU #1: thread_id=101\r\n");
	expect_human_has("info block", "hd0 (hd0): ");
	expect_human_has("info pci",
			 "  Bus  0, device   0, function 0:\r\n    Host bridge: PCI device "
			 "8086:29c0\r\n");
	expect_human_has("info pci", "      secondary bus 1.\r\n");
	expect_human_has("info mtree", "address-space: memory\r\n");
	expect_human_has("info iothreads", "io1:\r\n");
	expect_human_has("help", "system_powerdown  -- ");
	expect_human_has("help info", "info version  -- ");
	expect_human_has("info", "info version  -- ");
}

static void test_human_by_qmp(void **state)
{
	struct client *c = connect_client(true);

	tell(c, "{\"execute\": \"human-monitor-command\", \"arguments\": {\"command-line\": "
		"\"info name\", \"cpu-index\": 0}}");
	expect(c, "{\"return\": \"the vm\\r\\n\"}");
	end(c, NULL);
}

static void expect_text(struct client *c, const char *text)
{
	while (c->n < strlen(text) && wait_for_more(c, PATIENCE_NS))
		;
	assert_string_equal(c->buf, text);
	c->n = 0;
	c->buf[0] = '\0';
}

#define BANNER "revirter " REVIRT_VERSION " monitor - type 'help' for more information\r\n"

static void test_prompt(void **state)
{
	struct client *c = xcalloc(1, sizeof(*c));

	c->chr = make_pair(&c->fd, "");
	assert_non_null(monitor_new(&vm, c->chr, NULL));
	expect_text(c, BANNER "(qemu) ");
	tell(c, "info name\r\n");
	expect_text(c, "info name\r\nthe vm\r\n(qemu) ");
	tell(c, "xy\177\010\025bad word\027name\027\027info uuix\010d\n");
	wait_for_more(c, 10000000);
	while (!strstr(c->buf, "0e0f\r\n(qemu) ") && wait_for_more(c, PATIENCE_NS))
		;
	c->n = 0;
	tell(c, "\033[A");
	expect_text(c, "info uuid");
	tell(c, "\033OA\r");
	while (!strstr(c->buf, "the vm\r\n(qemu) ") && wait_for_more(c, PATIENCE_NS))
		;
	c->n = 0;
	tell(c, "\033[A\033[B\033[B\033[1;5C\003");
	while (!strstr(c->buf, "\r\n(qemu) ") && wait_for_more(c, PATIENCE_NS))
		;
	c->n = 0;
	monitor_free_all(&vm);
	chardev_free(c->chr);
	disconnect(c);
}

static size_t guest_can_receive(void *opaque)
{
	return 100;
}

static void guest_receive(void *opaque, const uint8_t *data, size_t len)
{
}

static void test_prompt_on_mux(void **state)
{
	static const struct chardev_handler guest = { guest_can_receive, guest_receive };
	struct client *c = xcalloc(1, sizeof(*c));

	c->chr = make_pair(&c->fd, ",mux=on");
	assert_int_equal(chardev_attach(c->chr, &guest, &vm, NULL), 0);
	assert_non_null(monitor_new(&vm, c->chr, NULL));
	expect_silence(c);
	tell(c, "\001cinfo");
	expect_text(c, "\r\n" BANNER "(qemu) info");
	tell(c, "\001c");
	expect_text(c, "\r\n");
	tell(c, "\001c");
	expect_text(c, "\r\n(qemu) info");
	tell(c, " name\r");
	expect_text(c, " name\r\nthe vm\r\n(qemu) ");
	monitor_free_all(&vm);
	chardev_attach(c->chr, NULL, &vm, NULL);
	chardev_free(c->chr);
	disconnect(c);
}

/* A screenful to somebody who does not read: bounded, and all there in the end. */
static void test_prompt_nobody_reads(void **state)
{
	struct client *c = xcalloc(1, sizeof(*c));

	c->chr = make_pair(&c->fd, "");
	assert_non_null(monitor_new(&vm, c->chr, NULL));
	for (unsigned i = 0; i < 2000; i++)
		if (send(c->fd, "help\r", 5, MSG_DONTWAIT) < 0)
			break;
	guard = loop_timer_new(loop, on_guard, NULL);
	loop_timer_set(guard, now_ns() + 200000000);
	loop_run(loop);
	loop_timer_free(guard);
	while (wait_for_more(c, 300000000))
		c->n = 0;
	tell(c, "info name\r");
	expect_text(c, "info name\r\nthe vm\r\n(qemu) ");
	monitor_free_all(&vm);
	chardev_free(c->chr);
	disconnect(c);
}

/* --- The machine of all tests ---- */

static const struct pci_windows windows = {
	.ecam_base = 0xb0000000,
	.mem32_base = 0xc0000000,
	.mem32_size = 0x10000000,
	.mem64_base = 0x100000000,
	.mem64_size = 0x100000000,
	.io_base = 0x6000,
	.io_size = 0x2000,
};

static char disk[] = "/tmp/test-qmp-disk-XXXXXX", drive_id[] = "hd0", guest_name[] = "the vm";
static struct desc_item drive = { .id = drive_id }, disk_device;

static void plug_port(struct machine *m)
{
	static const struct pci_device_id id = { 0x1af4, 0x1041, 0x1af4, 0x1100, 1, 2, 0, 0 };
	static const struct region_ops ops;
	const struct prop *const tables[] = { pcie_root_port_class.props,
					      device_common_props("PCI"), NULL };
	struct props *props = props_parse("id=rp0,chassis=1", NULL, tables, NULL);
	static struct pci_device dev;

	assert_int_equal(machine_add_device(m, &pcie_root_port_class, props, NULL), 0);
	props_free(props);
	pci_device_init(&dev, "virtio-net-pci", &id);
	pci_add_bar(&dev, 0, PCI_BAR_MEM32, 4096, &ops, NULL);
	pci_add_bar(&dev, 4, PCI_BAR_MEM64_PREF, 16384, &ops, NULL);
	pci_add_intx(&dev);
	assert_int_equal(pci_plug(pci_host_find_bus(m->pci, "rp0", NULL), &dev, -1, 0, NULL), 0);
	pci_assign(m->pci);
}

static void make_disk(struct machine *m)
{
	static const struct prop drive_props[] = { { "drive", PROP_STRING }, {} };
	static const struct device_class disk_class = { .name = "disk", .props = drive_props };
	const struct prop *const tables[] = { block_props, NULL };
	const struct prop *const device_tables[] = { drive_props, NULL };
	char text[100];
	int fd = mkstemp(disk);

	assert_int_equal(ftruncate(fd, MIB), 0);
	close(fd);
	snprintf(text, sizeof(text), "file=%s,format=raw,cache=none", disk);
	drive.props = props_parse(text, NULL, tables, NULL);
	assert_non_null(drive.props);
	assert_int_equal(backends_add(m->backends, BACKEND_BLOCK, "hd0",
				      block_open("hd0", drive.props, NULL), NULL),
			 0);
	disk_device.device = &disk_class;
	disk_device.props = props_parse("drive=hd0", NULL, device_tables, NULL);
	desc.drives = (struct desc_list){ &drive, 1 };
	desc.devices = (struct desc_list){ &disk_device, 1 };
}

static void make_mux(struct machine *m)
{
	const struct chardev_class *class;
	struct props *props;
	bool mux;

	assert_int_equal(chardev_parse_legacy("mon:null", &class, &props, &mux, NULL), 0);
	backends_add(m->backends, BACKEND_CHARDEV, "c0",
		     chardev_new(class, "c0", props, loop, NULL), NULL);
	props_free(props);
}

static int setup(void **state)
{
	static const struct hav_backend backend = { .name = "kvm" };
	static struct hav hav = { .ops = &backend };
	struct machine *m = &vm.machine;

	loop = loop_new(NULL);
	vm.desc = &desc;
	desc.name.guest = guest_name;
	desc.smp = (struct desc_smp){ N_CPUS, 1, 1, 2, 2 };
	for (unsigned i = 0; i < 16; i++)
		desc.uuid[i] = i;
	m->hav = &hav;
	m->main_loop = loop;
	m->mem.size = GIB;
	m->vcpus = vcpus;
	m->n_vcpus = N_CPUS;
	for (unsigned i = 0; i < N_CPUS; i++)
		vcpus[i].tid = 100 + i;
	m->io = bus_new(HAV_SPACE_IO, NULL);
	m->memory = bus_new(HAV_SPACE_MEMORY, NULL);
	irqs_init(&m->irqs, NULL);
	m->pci = pci_host_new(m->io, m->memory, &m->irqs, &windows, NULL);
	m->backends = backends_new();
	backends_add(m->backends, BACKEND_IOTHREAD, "io1", iothread_new("io1", NULL), NULL);
	plug_port(m);
	make_disk(m);
	make_mux(m);
	m->devices = NULL;
	return 0;
}

static int teardown(void **state)
{
	struct machine *m = &vm.machine;

	chardev_free(backends_find(m->backends, BACKEND_CHARDEV, "c0"));
	iothread_free(backends_find(m->backends, BACKEND_IOTHREAD, "io1"));
	block_close(backends_find(m->backends, BACKEND_BLOCK, "hd0"));
	backends_free(m->backends);
	props_free(drive.props);
	props_free(disk_device.props);
	unlink(disk);
	m->devices = m->last_device;
	machine_destroy_devices(m);
	pci_host_free(m->pci);
	bus_free(m->io);
	bus_free(m->memory);
	loop_free(loop);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_negotiation),
		cmocka_unit_test(test_mistakes),
		cmocka_unit_test(test_id_with_error),
		cmocka_unit_test(test_line_breaks_mean_nothing),
		cmocka_unit_test(test_too_much),
		cmocka_unit_test(test_client_that_does_not_read),
		cmocka_unit_test(test_clients_come_and_go),
		cmocka_unit_test(test_pretty),
		cmocka_unit_test(test_run_state),
		cmocka_unit_test(test_last_words),
		cmocka_unit_test(test_balloon),
		cmocka_unit_test(test_qom),
		cmocka_unit_test(test_fds),
		cmocka_unit_test(test_fds_are_bounded),
		cmocka_unit_test(test_two_clients),
		cmocka_unit_test(test_shapes),
		cmocka_unit_test(test_values),
		cmocka_unit_test(test_human_commands),
		cmocka_unit_test(test_human_by_qmp),
		cmocka_unit_test(test_prompt),
		cmocka_unit_test(test_prompt_on_mux),
		cmocka_unit_test(test_prompt_nobody_reads),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, setup, teardown);
}
