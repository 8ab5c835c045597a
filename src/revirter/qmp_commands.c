/* QMP commands that do something: run state, power, balloon, capabilities, object properties. */
#include "revirter/qmp_internal.h"

#include "base/error.h"
#include "base/util.h"
#include "revirter/monitor.h"
#include "revirter/vm.h"
#include "virtio/balloon.h"

#include <string.h>

/* --- Negotiation ---- */

static struct json_object *cmd_qmp_capabilities(const struct qmp_call *call, struct error **err)
{
	struct json_object *enable;

	if (call->qmp && qmp_negotiated(call->qmp)) {
		error_set(err, "Capabilities negotiation is already complete, command ignored");
		error_set_class(err, "CommandNotFound");
		return NULL;
	}
	if (json_object_object_get_ex(call->args, "enable", &enable) &&
	    json_object_array_length(enable) > 0) {
		error_set(err,
			  "Parameter 'enable' does not accept value '%s'; no capabilities are "
			  "offered",
			  json_object_get_string(json_object_array_get_idx(enable, 0)));
		return NULL;
	}
	if (call->qmp)
		qmp_set_negotiated(call->qmp);
	return json_object_new_object();
}

/* --- Run state and power ---- */

static struct json_object *cmd_stop(const struct qmp_call *call, struct error **err)
{
	vm_pause(call->vm, VM_PAUSED);
	return json_object_new_object();
}

static struct json_object *cmd_cont(const struct qmp_call *call, struct error **err)
{
	return vm_resume(call->vm, err) < 0 ? NULL : json_object_new_object();
}

static struct json_object *cmd_system_reset(const struct qmp_call *call, struct error **err)
{
	vm_reset(call->vm, CAUSE_HOST_QMP_SYSTEM_RESET);
	return json_object_new_object();
}

static struct json_object *cmd_system_powerdown(const struct qmp_call *call, struct error **err)
{
	vm_powerdown(call->vm);
	return json_object_new_object();
}

static struct json_object *cmd_quit(const struct qmp_call *call, struct error **err)
{
	vm_quit(call->vm, CAUSE_HOST_QMP_QUIT);
	return json_object_new_object();
}

/* --- Balloon ---- */

static struct json_object *cmd_balloon(const struct qmp_call *call, struct error **err)
{
	struct device *balloon = balloon_find(&call->vm->machine);
	int64_t target = qmp_arg_int(call, "value");

	if (!balloon) {
		error_set(err, "No balloon device has been activated");
		error_set_class(err, "DeviceNotActive");
		return NULL;
	}
	if (target <= 0) {
		error_set(err, "Parameter 'target' expects a size");
		return NULL;
	}
	balloon_set_target(balloon, target);
	return json_object_new_object();
}

/* --- Properties of objects: those of the balloon's statistics ---- */

static struct json_object *get_stats(struct device *balloon)
{
	struct json_object *result = json_object_new_object(), *list = json_object_new_object();
	struct balloon_stats stats;

	balloon_get_stats(balloon, &stats);
	for (unsigned i = 0; i < BALLOON_STATS; i++)
		json_object_object_add(list, stats.stats[i].name,
				       json_object_new_uint64(stats.stats[i].value));
	json_object_object_add(result, "stats", list);
	json_object_object_add(result, "last-update", json_object_new_int64(stats.last_update));
	return result;
}

static struct json_object *get_interval(struct device *balloon)
{
	return json_object_new_int64(balloon_polling_interval(balloon));
}

static int set_interval(struct device *balloon, struct json_object *value, struct error **err)
{
	int64_t seconds = json_object_get_int64(value);

	if (!json_object_is_type(value, json_type_int)) {
		error_set(err, "Invalid parameter type for 'guest-stats-polling-interval', "
			       "expected: integer");
		return -1;
	}
	if (seconds < 0 || seconds > UINT32_MAX) {
		error_set(err, seconds < 0 ? "timer value must be greater than zero"
					   : "timer value is too big");
		return -1;
	}
	balloon_set_polling_interval(balloon, seconds);
	return 0;
}

static const struct {
	const char *name;
	struct json_object *(*get)(struct device *balloon);
	int (*set)(struct device *balloon, struct json_object *value, struct error **err);
} balloon_properties[] = {
	{ "guest-stats", get_stats, NULL },
	{ "guest-stats-polling-interval", get_interval, set_interval },
};

/* "/machine/peripheral/ID", or just "ID". */
static struct device *find_device(const struct qmp_call *call, struct error **err)
{
	static const char prefix[] = "/machine/peripheral/";
	const char *path = qmp_arg_string(call, "path");
	bool full = strncmp(path, prefix, strlen(prefix)) == 0;
	struct device *device =
		machine_find_device(&call->vm->machine, full ? path + strlen(prefix) : path);

	if (!device) {
		error_set(err, "Device '%s' not found", path);
		error_set_class(err, "DeviceNotFound");
	}
	return device;
}

/* Row of the property in balloon_properties, or -1. */
static int find_property(const struct qmp_call *call, struct device *device, struct error **err)
{
	const char *name = qmp_arg_string(call, "property");
	bool is_balloon = device == balloon_find(&call->vm->machine);

	for (unsigned i = 0; is_balloon && i < ARRAY_SIZE(balloon_properties); i++)
		if (strcmp(balloon_properties[i].name, name) == 0)
			return i;
	error_set(err, "Property '%s.%s' not found", device->class->name, name);
	return -1;
}

static struct json_object *cmd_qom_get(const struct qmp_call *call, struct error **err)
{
	struct device *device = find_device(call, err);
	int row;

	if (!device)
		return NULL;
	if (strcmp(qmp_arg_string(call, "property"), "type") == 0)
		return json_object_new_string(device->class->name);
	row = find_property(call, device, err);
	return row < 0 ? NULL : balloon_properties[row].get(device);
}

static struct json_object *cmd_qom_set(const struct qmp_call *call, struct error **err)
{
	struct device *device = find_device(call, err);
	struct json_object *value = NULL;
	int row;

	if (!device)
		return NULL;
	row = find_property(call, device, err);
	if (row < 0)
		return NULL;
	if (!balloon_properties[row].set) {
		error_set(err, "Property '%s.%s' is not writable", device->class->name,
			  balloon_properties[row].name);
		return NULL;
	}
	json_object_object_get_ex(call->args, "value", &value);
	return balloon_properties[row].set(device, value, err) < 0 ? NULL
								   : json_object_new_object();
}

/* --- The human monitor's words ---- */

static struct json_object *cmd_human_monitor_command(const struct qmp_call *call,
						     struct error **err)
{
	char *text AUTO_FREE = monitor_execute(call->vm, qmp_arg_string(call, "command-line"));

	return json_object_new_string(text);
}

static const struct qmp_arg capabilities_args[] = { { "enable", QMP_ARRAY, true }, {} };
static const struct qmp_arg balloon_args[] = { { "value", QMP_INT }, {} };
static const struct qmp_arg get_args[] = { { "path", QMP_STRING }, { "property", QMP_STRING }, {} };
static const struct qmp_arg set_args[] = {
	{ "path", QMP_STRING }, { "property", QMP_STRING }, { "value", QMP_ANY }, {}
};
static const struct qmp_arg human_args[] = { { "command-line", QMP_STRING },
					     { "cpu-index", QMP_INT, true },
					     {} };

const struct qmp_command qmp_control_commands[] = {
	{ "balloon", balloon_args, cmd_balloon },
	{ "cont", NULL, cmd_cont },
	{ "human-monitor-command", human_args, cmd_human_monitor_command },
	{ "qmp_capabilities", capabilities_args, cmd_qmp_capabilities },
	{ "qom-get", get_args, cmd_qom_get },
	{ "qom-set", set_args, cmd_qom_set },
	{ "quit", NULL, cmd_quit },
	{ "stop", NULL, cmd_stop },
	{ "system_powerdown", NULL, cmd_system_powerdown },
	{ "system_reset", NULL, cmd_system_reset },
	{},
};
