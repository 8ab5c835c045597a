/*
 * QMP commands about descriptors: getfd and closefd, add-fd, remove-fd and query-fdsets. A client
 * on a unix socket passes a descriptor along with the command (SCM_RIGHTS).
 */
#include "revirter/qmp_internal.h"

#include "base/error.h"
#include "base/fdset.h"
#include "base/util.h"

#include <ctype.h>
#include <string.h>

static int passed_fd(const struct qmp_call *call, struct error **err)
{
	int fd = call->qmp ? qmp_take_fd(call->qmp) : -1;

	if (fd < 0)
		error_set(err, "No file descriptor supplied via SCM_RIGHTS");
	return fd;
}

/* --- By name ---- */

static struct named_fd *find_named(struct named_fds *named, const char *name)
{
	for (unsigned i = 0; i < named->n; i++)
		if (strcmp(named->fds[i].name, name) == 0)
			return &named->fds[i];
	return NULL;
}

/* #syscalls:main close */
void named_fds_close(struct named_fds *named)
{
	while (named->n) {
		struct named_fd *last = &named->fds[--named->n];

		close(last->fd);
		free(last->name);
	}
}

/* #syscalls:main close */
static struct json_object *cmd_getfd(const struct qmp_call *call, struct error **err)
{
	const char *name = qmp_arg_string(call, "fdname");
	int fd AUTO_CLOSE = passed_fd(call, err);
	struct named_fds *named;
	struct named_fd *old;

	if (fd < 0)
		return NULL;
	if (isdigit((unsigned char)name[0])) {
		error_set(err, "Parameter 'fdname' expects a name not starting with a digit");
		return NULL;
	}
	named = qmp_named_fds(call->qmp);
	old = find_named(named, name);
	if (old) {
		close(old->fd);
		old->fd = TAKE_FD(fd);
		return json_object_new_object();
	}
	if (named->n == QMP_MAX_NAMED_FDS) {
		error_set(err, "%d descriptors have names, the most there can be; closefd one",
			  QMP_MAX_NAMED_FDS);
		return NULL;
	}
	named->fds[named->n++] = (struct named_fd){ xstrdup(name), TAKE_FD(fd) };
	return json_object_new_object();
}

/* #syscalls:main close */
static struct json_object *cmd_closefd(const struct qmp_call *call, struct error **err)
{
	const char *name = qmp_arg_string(call, "fdname");
	struct named_fds *named = call->qmp ? qmp_named_fds(call->qmp) : NULL;
	struct named_fd *fd = named ? find_named(named, name) : NULL;

	if (!fd) {
		error_set(err, "File descriptor named '%s' not found", name);
		return NULL;
	}
	close(fd->fd);
	free(fd->name);
	*fd = named->fds[--named->n];
	return json_object_new_object();
}

/* --- In sets ---- */

static struct json_object *cmd_add_fd(const struct qmp_call *call, struct error **err)
{
	int fd AUTO_CLOSE = passed_fd(call, err);
	int64_t set = FDSET_NEW;
	struct json_object *result;

	if (fd < 0)
		return NULL;
	if (qmp_arg_given(call, "fdset-id")) {
		set = qmp_arg_int(call, "fdset-id");
		if (set < 0) {
			error_set(err, "Parameter 'fdset-id' expects a non-negative value");
			return NULL;
		}
	}
	set = fdset_add(set, fd,
			qmp_arg_given(call, "opaque") ? qmp_arg_string(call, "opaque") : NULL, err);
	if (set < 0)
		return NULL;
	result = json_object_new_object();
	json_object_object_add(result, "fd", json_object_new_int(TAKE_FD(fd)));
	json_object_object_add(result, "fdset-id", json_object_new_int64(set));
	return result;
}

static struct json_object *cmd_remove_fd(const struct qmp_call *call, struct error **err)
{
	int64_t set = qmp_arg_int(call, "fdset-id"), fd = -1;

	if (qmp_arg_given(call, "fd")) {
		fd = qmp_arg_int(call, "fd");
		if (fd < 0 || fd > INT32_MAX)
			fd = INT32_MAX;
	}
	return fdset_remove(set, fd, err) < 0 ? NULL : json_object_new_object();
}

static struct json_object *fd_entry(int fd, const char *opaque)
{
	struct json_object *entry = json_object_new_object();

	json_object_object_add(entry, "fd", json_object_new_int(fd));
	if (opaque)
		json_object_object_add(entry, "opaque", json_object_new_string(opaque));
	return entry;
}

static struct json_object *cmd_query_fdsets(const struct qmp_call *call, struct error **err)
{
	struct json_object *sets = json_object_new_array(), *set, *fds = NULL;
	int64_t number, last = -1;
	const char *opaque;
	int fd;

	for (unsigned i = 0; fdset_at(i, &number, &fd, &opaque); i++) {
		if (number != last) {
			set = json_object_new_object();
			fds = json_object_new_array();
			json_object_object_add(set, "fds", fds);
			json_object_object_add(set, "fdset-id", json_object_new_int64(number));
			json_object_array_add(sets, set);
			last = number;
		}
		json_object_array_add(fds, fd_entry(fd, opaque));
	}
	return sets;
}

static const struct qmp_arg name_args[] = { { "fdname", QMP_STRING }, {} };
static const struct qmp_arg add_args[] = { { "fdset-id", QMP_INT, true },
					   { "opaque", QMP_STRING, true },
					   {} };
static const struct qmp_arg remove_args[] = { { "fdset-id", QMP_INT },
					      { "fd", QMP_INT, true },
					      {} };

const struct qmp_command qmp_fd_commands[] = {
	{ "add-fd", add_args, cmd_add_fd },          { "closefd", name_args, cmd_closefd },
	{ "getfd", name_args, cmd_getfd },           { "query-fdsets", NULL, cmd_query_fdsets },
	{ "remove-fd", remove_args, cmd_remove_fd }, {},
};
