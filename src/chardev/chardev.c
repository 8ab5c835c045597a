/*
 * Character devices: see chardev.h. This file has the table of back ends, a chardev's life, and its
 * front ends; bytes are the business of output.c, input.c and mux.c.
 */
#include "chardev/backend.h"

#include "base/error.h"
#include "base/fdset.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>

const struct prop chardev_common_props[] = {
	{ "id", PROP_STRING, .help = "name other options use" },
	{ "mux", PROP_BOOL, .def = "off",
	  .help = "several front ends share it; Ctrl-A c switches" },
	{ "logfile", PROP_STRING, .help = "file that gets a copy of the output" },
	{ "logappend", PROP_BOOL, .def = "off", .help = "keep what is in the log file" },
	{},
};

const struct chardev_class *const *chardev_classes(void)
{
	static const struct chardev_class *const classes[] = {
		&chardev_file_class,
		&chardev_null_class,
		&chardev_pipe_class,
		&chardev_pty_class,
		&chardev_socket_class,
		&chardev_stdio_class,
		NULL,
	};

	return classes;
}

/* --- Peers ---- */

void chardev_set_filename(struct chardev *chr, const char *name)
{
	free(chr->filename);
	chr->filename = xstrdup(name);
}

void chardev_send_event(struct chardev *chr, enum chardev_event event)
{
	for (unsigned i = 0; i < CHARDEV_MAX_FRONTENDS; i++) {
		struct frontend *fe = &chr->frontends[i];

		if (fe->handler && fe->handler->event)
			fe->handler->event(fe->opaque, event);
	}
}

void chardev_connect(struct chardev *chr, int in_fd, int out_fd)
{
	chr->in_fd = in_fd;
	chr->in_ended = false;
	pthread_mutex_lock(&chr->lock);
	chr->out_fd = out_fd;
	chr->open = true;
	pthread_mutex_unlock(&chr->lock);
	chardev_send_event(chr, CHARDEV_OPENED);
	input_start(chr);
}

void chardev_close_fds(struct chardev *chr)
{
	while (chr->n_fds)
		close(chr->fds[--chr->n_fds]);
}

/* #syscalls:main close */
static void close_descriptors(struct chardev *chr)
{
	int in = chr->in_fd, out;

	input_forget(chr);
	pthread_mutex_lock(&chr->lock);
	out = chr->out_fd;
	chr->out_fd = -1;
	chr->in_fd = -1;
	chr->open = false;
	pthread_mutex_unlock(&chr->lock);
	chr->in_wanted = false;
	if (out >= 0 && out != in)
		close(out);
	if (in >= 0)
		close(in);
	chardev_close_fds(chr);
}

void chardev_disconnect(struct chardev *chr)
{
	close_descriptors(chr);
	output_drop(chr);
	chardev_send_event(chr, CHARDEV_CLOSED);
}

/* --- Life ---- */

static int open_log(struct chardev *chr, const struct props *props, struct error **err)
{
	const char *path = props_str(props, "logfile");
	int how = props_bool(props, "logappend") ? O_APPEND : O_TRUNC;

	if (!path)
		return 0;
	chr->log_fd = fdset_open(path, O_WRONLY | O_CREAT | O_CLOEXEC | how, 0666);
	if (chr->log_fd < 0) {
		error_set_errno(err, errno, "cannot open the log file '%s'", path);
		return -1;
	}
	return 0;
}

struct chardev *chardev_new(const struct chardev_class *class, const char *id,
			    const struct props *props, struct loop *loop, struct error **err)
{
	static const struct chardev_ops no_ops;
	struct chardev *chr;

	if (!id || !*id) {
		error_set(err, "it has no id; write id=NAME");
		return NULL;
	}
	/* A peer that goes away is an error of write(2), not the end of us. */
	signal(SIGPIPE, SIG_IGN);
	chr = xcalloc(1, sizeof(*chr));
	chr->class = class;
	chr->ops = &no_ops;
	chr->id = xstrdup(id);
	chr->filename = xstrdup(class->name);
	chr->loop = loop;
	input_init(chr);
	output_init(chr);
	if (props_bool(props, "mux"))
		chr->mux = mux_new(chr);
	if (open_log(chr, props, err) < 0 || class->open(chr, props, err) < 0) {
		chardev_free(chr);
		return NULL;
	}
	return chr;
}

void chardev_free(struct chardev *chr)
{
	if (!chr)
		return;
	/* Front ends may be gone already: nothing is told any more. */
	for (unsigned i = 0; i < CHARDEV_MAX_FRONTENDS; i++)
		chr->frontends[i].handler = NULL;
	output_destroy(chr);
	close_descriptors(chr);
	if (chr->ops->close)
		chr->ops->close(chr);
	input_destroy(chr);
	pthread_mutex_destroy(&chr->lock);
	if (chr->log_fd >= 0)
		close(chr->log_fd);
	if (chr->mux)
		mux_free(chr);
	free(chr->ring);
	free(chr->filename);
	free(chr->id);
	free(chr);
}

/* --- Front ends ---- */

static struct frontend *find_frontend(struct chardev *chr, const void *opaque)
{
	for (unsigned i = 0; i < CHARDEV_MAX_FRONTENDS; i++)
		if (chr->frontends[i].handler && chr->frontends[i].opaque == opaque)
			return &chr->frontends[i];
	return NULL;
}

static void detach(struct chardev *chr, const void *opaque)
{
	struct frontend *fe = find_frontend(chr, opaque);

	if (!fe)
		return;
	pthread_mutex_lock(&chr->lock);
	fe->handler = NULL;
	fe->open = fe->starved = false;
	pthread_mutex_unlock(&chr->lock);
	if (chr->mux)
		mux_detached(chr, fe - chr->frontends);
}

static struct frontend *free_frontend(struct chardev *chr, struct error **err)
{
	unsigned max = chr->mux ? CHARDEV_MAX_FRONTENDS : 1;

	for (unsigned i = 0; i < max; i++)
		if (!chr->frontends[i].handler)
			return &chr->frontends[i];
	if (chr->mux)
		error_set(err, "chardev '%s' has %d front ends, as many as a mux can have", chr->id,
			  CHARDEV_MAX_FRONTENDS);
	else
		error_set(err, "chardev '%s' is in use; with mux=on several can share it", chr->id);
	return NULL;
}

int chardev_attach(struct chardev *chr, const struct chardev_handler *handler, void *opaque,
		   struct error **err)
{
	struct frontend *fe;

	if (!handler) {
		detach(chr, opaque);
		return 0;
	}
	fe = free_frontend(chr, err);
	if (!fe)
		return -1;
	pthread_mutex_lock(&chr->lock);
	fe->opaque = opaque;
	fe->open = true;
	fe->handler = handler;
	pthread_mutex_unlock(&chr->lock);
	if (chr->open && handler->event)
		handler->event(opaque, CHARDEV_OPENED);
	if (chr->mux)
		mux_attached(chr, fe - chr->frontends);
	input_start(chr);
	return 0;
}

size_t chardev_write_from(struct chardev *chr, void *frontend, const void *data, size_t len)
{
	struct frontend *fe = find_frontend(chr, frontend);

	return output_write(chr, fe ? fe : &chr->frontends[0], data, len);
}

size_t chardev_write(struct chardev *chr, const void *data, size_t len)
{
	return output_write(chr, &chr->frontends[0], data, len);
}

bool chardev_is_open(struct chardev *chr)
{
	return chr->open;
}

void chardev_set_frontend_open(struct chardev *chr, void *frontend, bool open)
{
	struct frontend *fe = find_frontend(chr, frontend);

	if (fe)
		fe->open = open;
}

bool chardev_frontend_open(const struct chardev *chr)
{
	for (unsigned i = 0; i < CHARDEV_MAX_FRONTENDS; i++)
		if (chr->frontends[i].handler && chr->frontends[i].open)
			return true;
	return false;
}

int chardev_take_fd(struct chardev *chr)
{
	int fd = -1;

	if (chr->n_fds) {
		fd = chr->fds[0];
		chr->fds[0] = chr->fds[--chr->n_fds];
	}
	chardev_close_fds(chr);
	return fd;
}

const char *chardev_id(const struct chardev *chr)
{
	return chr->id;
}

const char *chardev_filename(const struct chardev *chr)
{
	return chr->mux ? "mux" : chr->filename;
}

const char *chardev_base_filename(const struct chardev *chr)
{
	return chr->mux ? chr->filename : NULL;
}
