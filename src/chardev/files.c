/* Back ends that are a file or two: file, pipe, null; and pty, whose other end comes and goes. */
#include "chardev/backend.h"

#include "base/error.h"
#include "base/fdset.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <termios.h>

/* --- null ---- */

static int null_open(struct chardev *chr, const struct props *props, struct error **err)
{
	chardev_connect(chr, -1, -1);
	return 0;
}

static const struct prop no_props[] = { {} };

const struct chardev_class chardev_null_class = {
	.name = "null",
	.desc = "nothing: output is dropped",
	.props = no_props,
	.open = null_open,
};

/* --- file ---- */

static int file_open(struct chardev *chr, const struct props *props, struct error **err)
{
	const char *path = props_str(props, "path");
	int how = props_bool(props, "append") ? O_APPEND : O_TRUNC;
	int fd = fdset_open(path, O_WRONLY | O_CREAT | O_CLOEXEC | how, 0666);

	if (fd < 0) {
		error_set_errno(err, errno, "cannot open '%s'", path);
		return -1;
	}
	chardev_connect(chr, -1, fd);
	return 0;
}

static const struct prop file_props[] = {
	{ "path", PROP_STRING, .required = true, .help = "file that gets the output" },
	{ "append", PROP_BOOL, .def = "off", .help = "keep what is in it" },
	{},
};

const struct chardev_class chardev_file_class = {
	.name = "file",
	.desc = "a file that gets the output",
	.props = file_props,
	.open = file_open,
};

/* --- pipe ---- */

/* Both ends of each are opened, so that nothing blocks and no end of file comes, as QEMU does. */
static int open_fifo(const char *path)
{
	return open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
}

static int pipe_open(struct chardev *chr, const struct props *props, struct error **err)
{
	const char *path = props_str(props, "path");
	char *in_path AUTO_FREE = xasprintf("%s.in", path);
	char *out_path AUTO_FREE = xasprintf("%s.out", path);
	int in = open_fifo(in_path), out = open_fifo(out_path);

	if (in < 0 || out < 0) {
		if (in >= 0)
			close(in);
		if (out >= 0)
			close(out);
		in = out = open_fifo(path);
	}
	if (in < 0) {
		error_set_errno(err, errno,
				"cannot open '%s', nor '%s' and '%s'; mkfifo makes them", path,
				in_path, out_path);
		return -1;
	}
	chr->in_always = chardev_always_ready(in);
	chardev_connect(chr, in, out);
	return 0;
}

static const struct prop pipe_props[] = {
	{ "path", PROP_STRING, .required = true, .help = "PATH.in and PATH.out, or one PATH" },
	{},
};

const struct chardev_class chardev_pipe_class = {
	.name = "pipe",
	.desc = "named pipes",
	.props = pipe_props,
	.open = pipe_open,
};

/* --- pty ---- */

#define PTY_LOOK_NS 1000000000 /* how often to look for somebody at the other end */

struct pty {
	int master;
	struct loop_timer *timer;
};

/* #syscalls:main poll fcntl=F_DUPFD_CLOEXEC */
static void look_for_peer(void *opaque)
{
	struct chardev *chr = opaque;
	struct pty *pty = chr->backend;
	struct pollfd p = { .fd = pty->master, .events = POLLIN };
	int fd = -1;

	if (poll(&p, 1, 0) >= 0 && !(p.revents & POLLHUP))
		fd = fcntl(pty->master, F_DUPFD_CLOEXEC, 3);
	if (fd >= 0)
		chardev_connect(chr, fd, fd);
	else
		loop_timer_set(pty->timer, now_ns() + PTY_LOOK_NS);
}

static void pty_hangup(struct chardev *chr)
{
	struct pty *pty = chr->backend;

	chardev_disconnect(chr);
	loop_timer_set(pty->timer, now_ns() + PTY_LOOK_NS);
}

static void pty_close(struct chardev *chr)
{
	struct pty *pty = chr->backend;

	close(pty->master);
	loop_timer_free(pty->timer);
	free(pty);
}

static const struct chardev_ops pty_ops = { .hangup = pty_hangup, .close = pty_close };

/* The slave is opened once: to make it raw, and because only then its absence is told (POLLHUP). */
static int prepare_slave(int master, char *name, size_t size)
{
	struct termios modes;
	int slave;

	if (unlockpt(master) < 0 || ptsname_r(master, name, size) != 0)
		return -1;
	slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (slave < 0)
		return -1;
	if (tcgetattr(slave, &modes) == 0) {
		cfmakeraw(&modes);
		tcsetattr(slave, TCSANOW, &modes);
	}
	close(slave);
	return 0;
}

static int pty_open(struct chardev *chr, const struct props *props, struct error **err)
{
	int master = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	char slave[64], name[80];
	struct pty *pty;

	if (master < 0 || prepare_slave(master, slave, sizeof(slave)) < 0) {
		error_set_errno(err, errno, "cannot make a pseudo-terminal");
		if (master >= 0)
			close(master);
		return -1;
	}
	snprintf(name, sizeof(name), "pty:%s", slave);
	chardev_set_filename(chr, name);
	pty = xcalloc(1, sizeof(*pty));
	pty->master = master;
	pty->timer = loop_timer_new(chr->loop, look_for_peer, chr);
	chr->backend = pty;
	chr->ops = &pty_ops;
	/* The very line that people and programs look for in QEMU's output. */
	printf("char device redirected to %s (label %s)\n", slave, chr->id);
	fflush(stdout);
	look_for_peer(chr);
	return 0;
}

const struct chardev_class chardev_pty_class = {
	.name = "pty",
	.desc = "a pseudo-terminal; its name is printed",
	.props = no_props,
	.open = pty_open,
};
