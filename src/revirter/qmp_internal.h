/*
 * Inside QMP: commands as rows of tables, and the text on the wire.
 *
 * A command is a row of a table: its name, what arguments it takes, the function. To add one, write
 * the function and the row; checking the arguments, the id and the answer are qmp.c's business.
 */
#ifndef REVIRT_REVIRTER_QMP_INTERNAL_H
#define REVIRT_REVIRTER_QMP_INTERNAL_H

#include "revirter/qmp.h"

#include <json-c/json.h>
#include <stddef.h>
#include <stdint.h>

enum qmp_type { QMP_STRING, QMP_INT, QMP_ARRAY, QMP_ANY };

struct qmp_arg {
	const char *name;
	enum qmp_type type;
	bool optional;
};

struct qmp_call {
	struct vm *vm;
	struct qmp *qmp;          /* NULL: not from a client */
	struct json_object *args; /* checked against the row's */
};

struct qmp_command {
	const char *name;
	const struct qmp_arg *args; /* ends with an entry without a name; NULL: none */
	/* The value of "return", or NULL and *err. */
	struct json_object *(*run)(const struct qmp_call *call, struct error **err);
};
/* Each ends with an entry without a name. */
extern const struct qmp_command qmp_control_commands[], qmp_query_commands[], qmp_fd_commands[];

/* The n-th of all commands, or NULL. */
const struct qmp_command *qmp_command_at(unsigned n);
/* Names of all events; ends with NULL. */
extern const char *const qmp_event_names[];

/* Arguments that are there, or were checked to be; "" and 0 otherwise. */
const char *qmp_arg_string(const struct qmp_call *call, const char *name);
int64_t qmp_arg_int(const struct qmp_call *call, const char *name);
bool qmp_arg_given(const struct qmp_call *call, const char *name);

/* --- The monitor a command came by ---- */

bool qmp_negotiated(const struct qmp *qmp);
void qmp_set_negotiated(struct qmp *qmp);
/* The descriptor that came with the command, or -1. */
int qmp_take_fd(struct qmp *qmp);
/* getfd and closefd: descriptors by name. */
struct named_fd {
	char *name;
	int fd;
};
#define QMP_MAX_NAMED_FDS 64
struct named_fds {
	struct named_fd fds[QMP_MAX_NAMED_FDS];
	unsigned n;
};
struct named_fds *qmp_named_fds(struct qmp *qmp);
void named_fds_close(struct named_fds *named);

/* --- qmp_text.c: JSON as text ---- */

#define QMP_MAX_MESSAGE (4u << 20) /* bytes */
#define QMP_MAX_DEPTH   64

/* Cuts a stream into messages, whatever its line breaks. */
struct qmp_framer {
	char *text;
	size_t len, size;
	unsigned depth; /* open brackets */
	char quote;     /* inside a string; 0: not */
	bool escaped, scalar, too_long;
};

/* Takes bytes until a message is complete; returns how many it took. *complete: text and len are
 * it, until qmp_framer_next(). */
size_t qmp_framer_push(struct qmp_framer *framer, const char *data, size_t len, bool *complete);
/* The complete message as a value; NULL and *err when it is none. Starts the next. */
struct json_object *qmp_framer_next(struct qmp_framer *framer, bool *is_null, struct error **err);
void qmp_framer_reset(struct qmp_framer *framer);

/* As QEMU prints it, with a line break at the end; the caller frees it. */
char *qmp_print(struct json_object *value, bool pretty, size_t *len);

#endif
