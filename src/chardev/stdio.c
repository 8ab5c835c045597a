/*
 * stdio: the terminal, or whatever standard input and output are.
 *
 * A terminal is put into raw mode, so that keys reach the guest as they are pressed, and gets its
 * modes back at exit, on any way out that leaves time for it: chardev_free(), exit(), and
 * chardev_restore_terminal() for handlers of fatal signals. After a stop (Ctrl-Z, with signal=on)
 * and SIGCONT it is raw again.
 *
 * Non-blocking mode belongs to the open file, which we share with the shell and with everybody in
 * its pipeline. So terminals and pipes are opened anew by way of /proc, and only where that is not
 * possible is the shared one changed, and changed back at the end.
 */
#include "chardev/backend.h"

#include "base/error.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/major.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <termios.h>

/* There is one terminal a process, and signal handlers have no other way to it. */
static struct {
	bool taken;
	volatile sig_atomic_t raw; /* saved is valid */
	struct termios saved, ours;
	int old_flags[2]; /* of descriptors 0 and 1 where they had to be changed; else -1 */
	int resize_fd;
} terminal = { .old_flags = { -1, -1 }, .resize_fd = -1 };

struct stdio {
	struct loop_watch *resize_watch;
};

/* --- The terminal's modes ---- */

/* tcsetattr() reads the modes back. */
/* #syscalls ioctl=TCSETS ioctl=TCGETS */
void chardev_restore_terminal(void)
{
	int saved_errno = errno;

	if (terminal.raw)
		tcsetattr(STDIN_FILENO, TCSANOW, &terminal.saved);
	terminal.raw = 0;
	errno = saved_errno;
}

/* Handlers run on whichever thread the kernel picks. */
/* tcsetattr() reads the modes back. */
/* #syscalls ioctl=TCSETS ioctl=TCGETS */
static void on_continue(int signo)
{
	int saved_errno = errno;

	if (terminal.raw)
		tcsetattr(STDIN_FILENO, TCSANOW, &terminal.ours);
	errno = saved_errno;
}

/* #syscalls write */
static void on_resize(int signo)
{
	uint64_t one = 1;
	int saved_errno = errno;

	if (write(terminal.resize_fd, &one, sizeof(one)) < 0)
		errno = saved_errno; /* it is full: the mark is set already */
}

/* Bytes pass unchanged, except that output keeps its newline translation, as QEMU leaves it. */
static struct termios raw_modes(const struct termios *modes, bool signals)
{
	struct termios raw = *modes;

	raw.c_iflag &= ~(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
	raw.c_oflag |= OPOST;
	raw.c_lflag &= ~(ECHO | ECHONL | ICANON | IEXTEN);
	if (!signals)
		raw.c_lflag &= ~ISIG;
	raw.c_cflag &= ~(CSIZE | PARENB);
	raw.c_cflag |= CS8;
	raw.c_cc[VMIN] = 1;
	raw.c_cc[VTIME] = 0;
	return raw;
}

static void make_raw(bool signals)
{
	static bool registered;

	if (tcgetattr(STDIN_FILENO, &terminal.saved) < 0)
		return;
	terminal.ours = raw_modes(&terminal.saved, signals);
	terminal.raw = 1;
	if (!registered)
		atexit(chardev_restore_terminal);
	registered = true;
	sigaction(SIGCONT, &(struct sigaction){ .sa_handler = on_continue, .sa_flags = SA_RESTART },
		  NULL);
	tcsetattr(STDIN_FILENO, TCSANOW, &terminal.ours);
}

/* --- Descriptors ---- */

static int share(int fd, struct error **err)
{
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);

	if (copy < 0)
		error_set_errno(err, errno, "standard %s is not open", fd ? "output" : "input");
	return copy;
}

/* A non-blocking descriptor for what `fd` is. */
static int open_again(int fd, int mode, struct error **err)
{
	char path[32];
	struct stat st;
	int copy = -1;

	if (fstat(fd, &st) == 0 && (isatty(fd) || S_ISFIFO(st.st_mode))) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		copy = open(path, mode | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	}
	if (copy >= 0)
		return copy;
	copy = share(fd, err);
	if (copy >= 0 && !chardev_always_ready(copy)) {
		terminal.old_flags[fd] = fcntl(fd, F_GETFL);
		fcntl(fd, F_SETFL, terminal.old_flags[fd] | O_NONBLOCK);
	}
	return copy;
}

bool chardev_always_ready(int fd)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return false;
	return S_ISREG(st.st_mode) || S_ISDIR(st.st_mode) || S_ISBLK(st.st_mode) ||
	       (S_ISCHR(st.st_mode) && major(st.st_rdev) == MEM_MAJOR);
}

/* --- Window size ---- */

/* #syscalls ioctl=TIOCGWINSZ */
bool chardev_window_size(struct chardev *chr, unsigned *columns, unsigned *rows)
{
	struct winsize size;

	if (chr->class != &chardev_stdio_class || ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0 ||
	    !size.ws_col || !size.ws_row)
		return false;
	*columns = size.ws_col;
	*rows = size.ws_row;
	return true;
}

/* #syscalls:main read */
static void on_resize_event(void *opaque, uint32_t events)
{
	uint64_t count;

	if (read(terminal.resize_fd, &count, sizeof(count)) == sizeof(count))
		chardev_send_event(opaque, CHARDEV_RESIZED);
}

static int watch_resize(struct chardev *chr, struct error **err)
{
	struct stdio *s = chr->backend;

	if (terminal.resize_fd < 0)
		terminal.resize_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (terminal.resize_fd < 0) {
		error_set_errno(err, errno, "cannot make an eventfd");
		return -1;
	}
	s->resize_watch =
		loop_watch_new(chr->loop, terminal.resize_fd, EPOLLIN, on_resize_event, chr, err);
	if (!s->resize_watch)
		return -1;
	sigaction(SIGWINCH, &(struct sigaction){ .sa_handler = on_resize, .sa_flags = SA_RESTART },
		  NULL);
	return 0;
}

/* --- Life ---- */

/* #syscalls:main fcntl=F_SETFL */
static void stdio_close(struct chardev *chr)
{
	struct stdio *s = chr->backend;

	chardev_restore_terminal();
	for (int fd = 0; fd < 2; fd++) {
		if (terminal.old_flags[fd] >= 0)
			fcntl(fd, F_SETFL, terminal.old_flags[fd]);
		terminal.old_flags[fd] = -1;
	}
	loop_watch_free(s->resize_watch);
	free(s);
	terminal.taken = false;
}

static const struct chardev_ops stdio_ops = { .close = stdio_close };

static int stdio_open(struct chardev *chr, const struct props *props, struct error **err)
{
	int in, out;

	if (terminal.taken) {
		error_set(err, "stdio is taken by another character device; to share it, say "
			       "-serial mon:stdio or mux=on");
		return -1;
	}
	terminal.taken = true;
	chr->backend = xcalloc(1, sizeof(struct stdio));
	chr->ops = &stdio_ops;
	in = open_again(STDIN_FILENO, O_RDONLY, err);
	if (in < 0)
		return -1;
	out = open_again(STDOUT_FILENO, O_WRONLY, err);
	if (out < 0) {
		close(in);
		return -1;
	}
	chr->in_always = chardev_always_ready(in);
	chardev_connect(chr, in, out);
	if (isatty(STDIN_FILENO))
		make_raw(props_bool(props, "signal"));
	return isatty(STDOUT_FILENO) ? watch_resize(chr, err) : 0;
}

static const struct prop stdio_props[] = {
	{ "signal", PROP_BOOL, .def = "on", .help = "Ctrl-C ends the VM; off: the guest gets it" },
	{},
};

const struct chardev_class chardev_stdio_class = {
	.name = "stdio",
	.desc = "standard input and output",
	.props = stdio_props,
	.open = stdio_open,
};
