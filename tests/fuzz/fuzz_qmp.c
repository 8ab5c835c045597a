/*
 * libFuzzer: what clients say to QMP and people type at the human monitor.
 *
 * The first byte chooses the monitor and how the rest is cut into pieces. The chardev and the VM
 * are stand-ins. Whatever is said, QMP answers with lines of JSON, each a greeting, an answer with
 * exactly one of "return" and "error", or an event.
 */
#include "base/error.h"
#include "base/util.h"
#include "chardev/chardev.h"
#include "hav/backend.h"
#include "machine/backends.h"
#include "revirter/description.h"
#include "revirter/monitor.h"
#include "revirter/qmp.h"
#include "revirter/vm.h"
#include "virtio/balloon.h"

#include <json-c/json.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* --- The chardev ---- */

static const struct chardev_handler *handler;
static void *frontend;
static bool is_qmp;
static char line[1 << 22];
static size_t line_len;

static void check_line(void)
{
	struct json_object *value = json_tokener_parse(line);
	bool result = json_object_object_get_ex(value, "return", NULL);
	bool error = json_object_object_get_ex(value, "error", NULL);
	bool event = json_object_object_get_ex(value, "event", NULL);
	bool greeting = json_object_object_get_ex(value, "QMP", NULL);

	if (!value || result + error + event + greeting != 1)
		abort();
	json_object_put(value);
}

static void check_output(const char *data, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		if (data[i] != '\n') {
			if (line_len == sizeof(line) - 1)
				abort();
			line[line_len++] = data[i];
			continue;
		}
		line[line_len] = '\0';
		line_len = 0;
		check_line();
	}
}

int chardev_attach(struct chardev *chr, const struct chardev_handler *h, void *opaque,
		   struct error **err)
{
	handler = h;
	frontend = opaque;
	if (h)
		h->event(opaque, CHARDEV_OPENED);
	return 0;
}

size_t chardev_write_from(struct chardev *chr, void *opaque, const void *data, size_t len)
{
	if (is_qmp)
		check_output(data, len);
	return len;
}

void chardev_accept_input(struct chardev *chr)
{
}

int chardev_take_fd(struct chardev *chr)
{
	return -1;
}

bool chardev_is_open(struct chardev *chr)
{
	return true;
}

const char *chardev_id(const struct chardev *chr)
{
	return "c0";
}

const char *chardev_filename(const struct chardev *chr)
{
	return "null";
}

const char *chardev_base_filename(const struct chardev *chr)
{
	return NULL;
}

bool chardev_frontend_open(const struct chardev *chr)
{
	return true;
}

/* --- The VM ---- */

static struct vm vm;

static void emit(const char *event)
{
	if (vm.emit)
		vm.emit(vm.emit_opaque, event, NULL);
}

const char *vm_state_name(enum vm_state state)
{
	return "running";
}

bool vm_is_running(const struct vm *v)
{
	return true;
}

void vm_pause(struct vm *v, enum vm_state state)
{
	emit("STOP");
}

int vm_resume(struct vm *v, struct error **err)
{
	error_set(err, "not now");
	return -1;
}

void vm_reset(struct vm *v, enum machine_cause cause)
{
	emit("RESET");
}

void vm_powerdown(struct vm *v)
{
	emit("POWERDOWN");
}

void vm_quit(struct vm *v, enum machine_cause cause)
{
	emit("SHUTDOWN");
}

/* --- The balloon ---- */

static struct device_class balloon_class = { .name = "virtio-balloon-pci" };
static char balloon_id[] = "b";
static struct device balloon = { .class = &balloon_class, .id = balloon_id };

struct device *balloon_find(struct machine *machine)
{
	return &balloon;
}

void balloon_set_target(struct device *device, uint64_t bytes)
{
	if (!bytes || bytes > INT64_MAX)
		abort();
}

uint64_t balloon_actual(struct device *device)
{
	return 0;
}

void balloon_get_stats(struct device *device, struct balloon_stats *stats)
{
	memset(stats, 0, sizeof(*stats));
	for (unsigned i = 0; i < BALLOON_STATS; i++)
		stats->stats[i].name = (const char *const[]){ "a", "b", "c" }[i % 3];
}

unsigned balloon_polling_interval(struct device *device)
{
	return 0;
}

void balloon_set_polling_interval(struct device *device, unsigned seconds)
{
}

/* --- */

static void set_up(void)
{
	static const struct hav_backend backend = { .name = "kvm" };
	static struct hav hav = { .ops = &backend };
	static struct description desc = { .smp = { 1, 1, 1, 1, 1 } };

	vm.desc = &desc;
	vm.machine.hav = &hav;
	vm.machine.devices = &balloon;
	vm.machine.backends = backends_new();
}

static void feed(const uint8_t *data, size_t size, size_t piece)
{
	while (size) {
		size_t n = MIN(MIN(size, piece), handler->can_receive(frontend));

		if (!n)
			return;
		handler->receive(frontend, data, n);
		data += n;
		size -= n;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char negotiate[] = "{\"execute\": \"qmp_capabilities\"}";

	if (!vm.desc)
		set_up();
	if (size < 1)
		return 0;
	is_qmp = data[0] & 1;
	line_len = 0;
	if (is_qmp) {
		qmp_new(&vm, NULL, false, NULL);
		if (data[0] & 2)
			feed((const uint8_t *)negotiate, strlen(negotiate), 100);
	} else {
		monitor_new(&vm, NULL, NULL);
	}
	feed(data + 1, size - 1, (data[0] >> 2) + 1);
	monitor_free_all(&vm);
	qmp_free_all(&vm);
	return 0;
}
