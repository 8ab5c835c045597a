/*
 * QMP servers: see qmp.h.
 *
 * Each server has a chardev. A peer that connects is greeted and has to say qmp_capabilities before
 * anything else works or any event is sent. Commands are run one after the other as they come, and
 * answered before the next is looked at; while a client does not read its answers, nothing more is
 * read from it, and events it could not get are dropped once BACKLOG_MAX wait.
 */
#include "revirter/qmp_internal.h"

#include "base/error.h"
#include "base/log.h"
#include "base/util.h"
#include "chardev/chardev.h"
#include "revirter/vm.h"

#include <string.h>
#include <sys/time.h>

#define READ_MAX    4096
#define BACKLOG_MAX (1u << 20) /* bytes of output beyond the chardev's buffer */

struct qmp {
	struct vm *vm;
	struct chardev *chr;
	bool pretty, negotiated;
	struct qmp_framer framer;
	struct named_fds named;
	char *backlog; /* what the chardev has not taken yet */
	size_t backlog_start, backlog_len;
	struct qmp *next;
};

/* vm->emit_opaque: all servers of the VM. */
struct servers {
	struct qmp *first;
};

const char *const qmp_event_names[] = {
	"BALLOON_CHANGE", "GUEST_CRASHLOADED", "GUEST_PANICKED", "POWERDOWN", "RESET",
	"RESUME",         "SHUTDOWN",          "STOP",           NULL,
};

bool qmp_negotiated(const struct qmp *qmp)
{
	return qmp->negotiated;
}

void qmp_set_negotiated(struct qmp *qmp)
{
	qmp->negotiated = true;
}

int qmp_take_fd(struct qmp *qmp)
{
	return chardev_take_fd(qmp->chr);
}

struct named_fds *qmp_named_fds(struct qmp *qmp)
{
	return &qmp->named;
}

/* --- Sending ---- */

static void drop_backlog(struct qmp *qmp)
{
	free(qmp->backlog);
	qmp->backlog = NULL;
	qmp->backlog_start = qmp->backlog_len = 0;
}

static void push_backlog(struct qmp *qmp)
{
	size_t n = chardev_write_from(qmp->chr, qmp, qmp->backlog + qmp->backlog_start,
				      qmp->backlog_len);

	qmp->backlog_start += n;
	qmp->backlog_len -= n;
	if (!qmp->backlog_len)
		drop_backlog(qmp);
}

static void keep(struct qmp *qmp, const char *text, size_t len)
{
	char *all = xcalloc(1, qmp->backlog_len + len);

	if (qmp->backlog_len)
		memcpy(all, qmp->backlog + qmp->backlog_start, qmp->backlog_len);
	memcpy(all + qmp->backlog_len, text, len);
	free(qmp->backlog);
	qmp->backlog = all;
	qmp->backlog_start = 0;
	qmp->backlog_len += len;
}

static void send_value(struct qmp *qmp, struct json_object *value)
{
	size_t len, n = 0;
	char *text AUTO_FREE = qmp_print(value, qmp->pretty, &len);

	if (!qmp->backlog_len)
		n = chardev_write_from(qmp->chr, qmp, text, len);
	if (n < len)
		keep(qmp, text + n, len - n);
}

static struct json_object *error_value(const struct error *err)
{
	struct json_object *value = json_object_new_object();

	json_object_object_add(value, "class", json_object_new_string(error_class(err)));
	json_object_object_add(value, "desc", json_object_new_string(error_message(err)));
	return value;
}

/* Takes over the references to id and result; err stays the caller's. */
static void answer(struct qmp *qmp, struct json_object *id, bool has_id, struct json_object *result,
		   const struct error *err)
{
	struct json_object *value = json_object_new_object();

	if (result)
		json_object_object_add(value, "return", result);
	if (has_id)
		json_object_object_add(value, "id", id);
	if (!result)
		json_object_object_add(value, "error", error_value(err));
	send_value(qmp, value);
	json_object_put(value);
}

static void greet(struct qmp *qmp)
{
	struct json_object *value = json_object_new_object(), *inner = json_object_new_object();

	json_object_object_add(inner, "version", qmp_execute(qmp->vm, "query-version", NULL, NULL));
	json_object_object_add(inner, "capabilities", json_object_new_array());
	json_object_object_add(value, "QMP", inner);
	send_value(qmp, value);
	json_object_put(value);
}

/* --- Arguments ---- */

static const struct {
	const char *name;
	enum json_type json;
} types[] = {
	[QMP_STRING] = { "string", json_type_string },
	[QMP_INT] = { "integer", json_type_int },
	[QMP_ARRAY] = { "array", json_type_array },
	[QMP_ANY] = { "value", json_type_null },
};

/* A NUL in a string would hide what follows it from everybody who compares. */
static bool is_plain(struct json_object *string)
{
	return strlen(json_object_get_string(string)) == (size_t)json_object_get_string_len(string);
}

static bool type_fits(struct json_object *value, enum qmp_type type)
{
	if (type == QMP_ANY)
		return true;
	return json_object_is_type(value, types[type].json) &&
	       (type != QMP_STRING || is_plain(value));
}

static const struct qmp_arg *find_arg(const struct qmp_arg *args, const char *name)
{
	for (; args && args->name; args++)
		if (strcmp(args->name, name) == 0)
			return args;
	return NULL;
}

static int check_args(const struct qmp_command *command, struct json_object *given,
		      struct error **err)
{
	struct json_object *value;

	for (const struct qmp_arg *a = command->args; a && a->name; a++) {
		if (!json_object_object_get_ex(given, a->name, &value)) {
			if (a->optional)
				continue;
			error_set(err, "Parameter '%s' is missing", a->name);
			return -1;
		}
		if (!type_fits(value, a->type)) {
			error_set(err, "Invalid parameter type for '%s', expected: %s", a->name,
				  types[a->type].name);
			return -1;
		}
	}
	json_object_object_foreach(given, key, unused)
	{
		(void)unused;
		if (!find_arg(command->args, key)) {
			error_set(err, "Parameter '%s' is unexpected", key);
			return -1;
		}
	}
	return 0;
}

bool qmp_arg_given(const struct qmp_call *call, const char *name)
{
	return json_object_object_get_ex(call->args, name, NULL);
}

const char *qmp_arg_string(const struct qmp_call *call, const char *name)
{
	struct json_object *value;

	return json_object_object_get_ex(call->args, name, &value) ? json_object_get_string(value)
								   : "";
}

int64_t qmp_arg_int(const struct qmp_call *call, const char *name)
{
	struct json_object *value;

	return json_object_object_get_ex(call->args, name, &value) ? json_object_get_int64(value)
								   : 0;
}

/* --- Commands ---- */

const struct qmp_command *qmp_command_at(unsigned n)
{
	const struct qmp_command *const tables[] = { qmp_control_commands, qmp_query_commands,
						     qmp_fd_commands };

	for (unsigned t = 0; t < ARRAY_SIZE(tables); t++)
		for (const struct qmp_command *c = tables[t]; c->name; c++)
			if (n-- == 0)
				return c;
	return NULL;
}

static const struct qmp_command *find_command(const char *name)
{
	const struct qmp_command *c;

	for (unsigned i = 0; (c = qmp_command_at(i)); i++)
		if (strcmp(c->name, name) == 0)
			return c;
	return NULL;
}

static struct json_object *run(const struct qmp_command *command, struct vm *vm, struct qmp *qmp,
			       struct json_object *given, struct error **err)
{
	struct json_object *args = given ? json_object_get(given) : json_object_new_object();
	const struct qmp_call call = { vm, qmp, args };
	struct json_object *result = NULL;

	if (check_args(command, args, err) == 0)
		result = command->run(&call, err);
	json_object_put(args);
	return result;
}

static void not_found(const char *name, struct error **err)
{
	error_set(err, "The command %s has not been found", name);
	error_set_class(err, "CommandNotFound");
}

struct json_object *qmp_execute(struct vm *vm, const char *name, struct json_object *args,
				struct error **err)
{
	const struct qmp_command *command = find_command(name);

	if (command)
		return run(command, vm, NULL, args, err);
	not_found(name, err);
	return NULL;
}

/* --- Requests ---- */

struct request {
	struct json_object *execute, *arguments, *id;
	bool has_id;
};

static int read_member(struct request *r, const char *key, struct json_object *value,
		       struct error **err)
{
	if (strcmp(key, "execute") == 0) {
		if (!json_object_is_type(value, json_type_string)) {
			error_set(err, "QMP input member 'execute' must be a string");
			return -1;
		}
		r->execute = value;
	} else if (strcmp(key, "arguments") == 0) {
		if (!json_object_is_type(value, json_type_object)) {
			error_set(err, "QMP input member 'arguments' must be an object");
			return -1;
		}
		r->arguments = value;
	} else if (strcmp(key, "id") != 0) {
		error_set(err, "QMP input member '%s' is unexpected", key);
		return -1;
	}
	return 0;
}

static int read_request(struct request *r, struct json_object *value, struct error **err)
{
	if (!json_object_is_type(value, json_type_object)) {
		error_set(err, "QMP input must be a JSON object");
		return -1;
	}
	/* First, so that it stands beside any error. */
	r->has_id = json_object_object_get_ex(value, "id", &r->id);
	json_object_object_foreach(value, key, member)
	{
		if (read_member(r, key, member, err) < 0)
			return -1;
	}
	if (!r->execute) {
		error_set(err, "QMP input lacks member 'execute'");
		return -1;
	}
	return 0;
}

static struct json_object *run_request(struct qmp *qmp, const struct request *r, struct error **err)
{
	const char *name = json_object_get_string(r->execute);
	const struct qmp_command *command = is_plain(r->execute) ? find_command(name) : NULL;

	if (!qmp->negotiated && (!command || strcmp(name, "qmp_capabilities") != 0)) {
		error_set(err, "Expecting capabilities negotiation with 'qmp_capabilities'");
		error_set_class(err, "CommandNotFound");
		return NULL;
	}
	if (command)
		return run(command, qmp->vm, qmp, r->arguments, err);
	not_found(name, err);
	return NULL;
}

static void handle_value(struct qmp *qmp, struct json_object *value, struct error *parse_error)
{
	struct error *err ERROR_AUTO = parse_error;
	struct json_object *result = NULL;
	struct request r = {};

	if (!err && read_request(&r, value, &err) == 0)
		result = run_request(qmp, &r, &err);
	answer(qmp, json_object_get(r.id), r.has_id, result, err);
}

/* --- The chardev's side ---- */

static size_t qmp_can_receive(void *opaque)
{
	struct qmp *qmp = opaque;

	return qmp->backlog_len ? 0 : READ_MAX;
}

static void qmp_receive(void *opaque, const uint8_t *data, size_t len)
{
	struct qmp *qmp = opaque;

	while (len) {
		bool complete, nothing;
		size_t n = qmp_framer_push(&qmp->framer, (const char *)data, len, &complete);
		struct error *err = NULL;
		struct json_object *value;

		data += n;
		len -= n;
		if (!complete)
			break;
		value = qmp_framer_next(&qmp->framer, &nothing, &err);
		if (!nothing)
			handle_value(qmp, value, err);
		json_object_put(value);
	}
}

static void qmp_event(void *opaque, enum chardev_event event)
{
	struct qmp *qmp = opaque;

	if (event != CHARDEV_OPENED && event != CHARDEV_CLOSED)
		return;
	qmp->negotiated = false;
	qmp_framer_reset(&qmp->framer);
	drop_backlog(qmp);
	if (event == CHARDEV_OPENED)
		greet(qmp);
}

static void qmp_writable(void *opaque)
{
	struct qmp *qmp = opaque;

	if (qmp->backlog_len)
		push_backlog(qmp);
	if (!qmp->backlog_len)
		chardev_accept_input(qmp->chr);
}

static const struct chardev_handler qmp_handler = {
	.can_receive = qmp_can_receive,
	.receive = qmp_receive,
	.event = qmp_event,
	.writable = qmp_writable,
	.monitor = true,
};

/* --- Events ---- */

static struct json_object *timestamp(void)
{
	struct json_object *value = json_object_new_object();
	struct timeval tv;

	gettimeofday(&tv, NULL);
	json_object_object_add(value, "seconds", json_object_new_int64(tv.tv_sec));
	json_object_object_add(value, "microseconds", json_object_new_int64(tv.tv_usec));
	return value;
}

static void broadcast(void *opaque, const char *event, struct json_object *data)
{
	struct servers *servers = opaque;
	struct json_object *value = json_object_new_object();

	json_object_object_add(value, "timestamp", timestamp());
	json_object_object_add(value, "event", json_object_new_string(event));
	if (data)
		json_object_object_add(value, "data", data);
	for (struct qmp *qmp = servers->first; qmp; qmp = qmp->next) {
		if (!qmp->negotiated || !chardev_is_open(qmp->chr))
			continue;
		if (qmp->backlog_len < BACKLOG_MAX)
			send_value(qmp, value);
		else
			LOG_ONCE("QMP client of chardev '%s' does not read; it misses events",
				 chardev_id(qmp->chr));
	}
	json_object_put(value);
}

/* --- Life ---- */

struct qmp *qmp_new(struct vm *vm, struct chardev *chr, bool pretty, struct error **err)
{
	struct qmp *qmp = xcalloc(1, sizeof(*qmp));
	struct servers *servers;

	qmp->vm = vm;
	qmp->chr = chr;
	qmp->pretty = pretty;
	if (chardev_attach(chr, &qmp_handler, qmp, err) < 0) {
		free(qmp);
		return NULL;
	}
	if (!vm->emit) {
		vm->emit = broadcast;
		vm->emit_opaque = xcalloc(1, sizeof(struct servers));
	}
	servers = vm->emit_opaque;
	qmp->next = servers->first;
	servers->first = qmp;
	return qmp;
}

static void qmp_free(struct qmp *qmp)
{
	/* What the client has not had yet; the rest waits in the chardev for its end. */
	if (qmp->backlog_len)
		push_backlog(qmp);
	chardev_attach(qmp->chr, NULL, qmp, NULL);
	qmp_framer_reset(&qmp->framer);
	drop_backlog(qmp);
	named_fds_close(&qmp->named);
	free(qmp);
}

void qmp_free_all(struct vm *vm)
{
	struct servers *servers = vm->emit_opaque;

	if (!servers)
		return;
	while (servers->first) {
		struct qmp *qmp = servers->first;

		servers->first = qmp->next;
		qmp_free(qmp);
	}
	vm->emit = NULL;
	vm->emit_opaque = NULL;
	free(servers);
}
