/*
 * Character devices: every back end against a real peer, output from another thread, input that
 * stalls, descriptors passed, the mux's keys, and what a person may get wrong.
 */
#include "base/error.h"
#include "base/fdset.h"
#include "base/loop.h"
#include "base/util.h"
#include "chardev/chardev.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>

#include <cmocka.h>

#define PATIENCE_NS 5000000000

static struct loop *loop;
static char dir[] = "/tmp/test-chardev-XXXXXX";

/* --- A front end that notes what happens ---- */

struct front {
	char got[8192];
	size_t n, room;
	unsigned opened, closed, breaks, focus_in, focus_out, resized, writable;
};

static size_t front_can_receive(void *opaque)
{
	struct front *f = opaque;

	return MIN(f->room, sizeof(f->got) - 1 - f->n);
}

static void front_receive(void *opaque, const uint8_t *data, size_t len)
{
	struct front *f = opaque;

	assert_true(len <= front_can_receive(f));
	memcpy(f->got + f->n, data, len);
	f->n += len;
	f->room -= len;
}

static void front_event(void *opaque, enum chardev_event event)
{
	struct front *f = opaque;
	unsigned *const counters[] = {
		[CHARDEV_OPENED] = &f->opened,     [CHARDEV_CLOSED] = &f->closed,
		[CHARDEV_BREAK] = &f->breaks,      [CHARDEV_RESIZED] = &f->resized,
		[CHARDEV_FOCUS_IN] = &f->focus_in, [CHARDEV_FOCUS_OUT] = &f->focus_out,
	};

	++*counters[event];
}

static void front_writable(void *opaque)
{
	((struct front *)opaque)->writable++;
}

static const struct chardev_handler front_handler = { front_can_receive, front_receive, front_event,
						      front_writable };
static const struct chardev_handler monitor_handler = { front_can_receive, front_receive,
							front_event, front_writable, true };

/* --- Running the loop until something is so ---- */

struct until {
	bool (*done)(void *opaque);
	void *opaque;
	uint64_t deadline;
	struct loop_timer *timer;
	bool ok;
};

static void look(void *opaque)
{
	struct until *u = opaque;

	u->ok = u->done(u->opaque);
	if (u->ok || now_ns() > u->deadline)
		loop_stop(loop);
	else
		loop_timer_set(u->timer, now_ns() + 500000);
}

static bool run_for(uint64_t ns, bool (*done)(void *opaque), void *opaque)
{
	struct until u = { done, opaque, now_ns() + ns };

	u.timer = loop_timer_new(loop, look, &u);
	loop_timer_set(u.timer, 0);
	loop_run(loop);
	loop_timer_free(u.timer);
	return u.ok;
}

#define run_until(done, opaque) assert_true(run_for(PATIENCE_NS, done, opaque))

static bool never(void *opaque)
{
	return false;
}

static void run_a_little(void)
{
	run_for(20000000, never, NULL);
}

static bool is_open(void *opaque)
{
	return chardev_is_open(opaque);
}

static bool is_closed(void *opaque)
{
	return !chardev_is_open(opaque);
}

static bool is_true(void *opaque)
{
	return *(unsigned *)opaque != 0;
}

struct want {
	struct front *front;
	const char *text;
};

static bool has_text(void *opaque)
{
	struct want *w = opaque;

	w->front->got[w->front->n] = '\0';
	return strcmp(w->front->got, w->text) == 0;
}

static void expect_input(struct front *f, const char *text)
{
	run_until(has_text, (&(struct want){ f, text }));
	f->n = 0;
}

static bool readable(void *opaque)
{
	struct pollfd p = { .fd = *(int *)opaque, .events = POLLIN };

	return poll(&p, 1, 0) == 1;
}

static void expect_output(int fd, const char *text)
{
	char buf[4096];
	size_t n = 0;

	while (n < strlen(text)) {
		ssize_t r;

		run_until(readable, &fd);
		r = read(fd, buf + n, strlen(text) - n);
		assert_true(r > 0);
		n += r;
	}
	buf[n] = '\0';
	assert_string_equal(buf, text);
}

/* --- Making chardevs ---- */

static const struct chardev_class *find_class(const char *name, size_t len)
{
	for (const struct chardev_class *const *c = chardev_classes(); *c; c++)
		if (strlen((*c)->name) == len && strncmp((*c)->name, name, len) == 0)
			return *c;
	fail_msg("no chardev class %s", name);
	return NULL;
}

/* "socket,path=…" as -chardev takes it. */
static struct chardev *make(const char *text, struct error **err)
{
	size_t len = strcspn(text, ",");
	const struct chardev_class *class = find_class(text, len);
	const struct prop *const tables[] = { class->props, chardev_common_props, NULL };
	struct props *props = props_parse(text[len] ? text + len + 1 : "", NULL, tables, err);
	struct chardev *chr;

	if (!props)
		return NULL;
	chr = chardev_new(class, "c0", props, loop, err);
	props_free(props);
	return chr;
}

static struct chardev *must_make(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static struct chardev *must_make(const char *fmt, ...)
{
	struct error *err = NULL;
	char *text AUTO_FREE = NULL;
	struct chardev *chr;
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(&text, fmt, ap) < 0)
		abort();
	va_end(ap);
	chr = make(text, &err);
	if (!chr)
		fail_msg("%s: %s", text, error_message(err));
	return chr;
}

static void refuse(const char *text, const char *message)
{
	struct error *err = NULL;

	assert_null(make(text, &err));
	assert_string_equal(error_message(err), message);
	error_free(err);
}

static struct front *attach(struct chardev *chr, struct front *f, bool monitor)
{
	struct error *err = NULL;

	*f = (struct front){ .room = SIZE_MAX / 2 };
	assert_int_equal(chardev_attach(chr, monitor ? &monitor_handler : &front_handler, f, &err),
			 0);
	return f;
}

/* A chardev on one end of a socket pair; *peer is the other. */
static struct chardev *make_pair(int *peer, const char *options)
{
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	*peer = fds[1];
	return must_make("socket,fd=%d%s", fds[0], options);
}

static void send_text(int fd, const char *text)
{
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
}

static int connect_to(const char *path)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(un.sun_path, path);
	if (connect(fd, (struct sockaddr *)&un, sizeof(un)) == 0)
		return fd;
	close(fd);
	return -1;
}

static const char *in_dir(const char *name)
{
	static char path[4][200];
	static unsigned next;
	char *p = path[next++ % 4];

	snprintf(p, sizeof(path[0]), "%s/%s", dir, name);
	return p;
}

static void expect_file(const char *path, const char *text)
{
	char buf[4096];
	int fd = open(path, O_RDONLY);
	ssize_t n = read(fd, buf, sizeof(buf) - 1);

	assert_true(n >= 0);
	close(fd);
	buf[n] = '\0';
	assert_string_equal(buf, text);
}

/* --- Output ---- */

static void test_gathers(void **state)
{
	int peer;
	struct chardev *chr = make_pair(&peer, "");
	struct front f;
	char buf[64];

	attach(chr, &f, false);
	/* A line is out when the write returns, without the loop. */
	for (const char *p = "hello\n"; *p; p++)
		assert_int_equal(chardev_write_from(chr, &f, p, 1), 1);
	assert_int_equal(recv(peer, buf, sizeof(buf), MSG_DONTWAIT), 6);
	/* Less than a line comes a moment later, in one piece. */
	for (const char *p = "login: "; *p; p++)
		chardev_write_from(chr, &f, p, 1);
	assert_false(readable(&peer));
	run_until(readable, &peer);
	assert_int_equal(recv(peer, buf, sizeof(buf), MSG_DONTWAIT), 7);
	close(peer);
	chardev_free(chr);
}

struct stream {
	struct chardev *chr;
	struct front *front;
	size_t size;
	_Atomic bool refused, done;
};

/* A vCPU's thread: byte by byte, waiting where nothing is taken. */
static void *write_stream(void *opaque)
{
	struct stream *s = opaque;

	for (size_t i = 0; i < s->size;) {
		uint8_t byte = i % 251;

		if (chardev_write_from(s->chr, s->front, &byte, 1) == 1)
			i++;
		else
			s->refused = !usleep(100);
	}
	s->done = true;
	return NULL;
}

static bool stream_done(void *opaque)
{
	return ((struct stream *)opaque)->done;
}

struct reader {
	const struct stream *stream;
	int fd;
	size_t n, size;
	bool order;
};

static void *read_stream(void *opaque)
{
	struct reader *r = opaque;
	uint8_t buf[5000];
	ssize_t n;

	while (!r->stream->refused) /* let the writer run into a full buffer */
		usleep(1000);
	while (r->n < r->size && (n = read(r->fd, buf, sizeof(buf))) > 0)
		for (ssize_t i = 0; i < n; i++, r->n++)
			r->order = r->order && buf[i] == r->n % 251;
	return NULL;
}

static void test_slow_reader(void **state)
{
	struct front f;
	struct stream s = { .front = &f, .size = 3000000 };
	struct reader r = { .stream = &s, .size = s.size, .order = true };
	pthread_t writer, reader;

	s.chr = make_pair(&r.fd, "");
	attach(s.chr, &f, false);
	pthread_create(&writer, NULL, write_stream, &s);
	pthread_create(&reader, NULL, read_stream, &r);
	run_until(stream_done, &s);
	pthread_join(writer, NULL);
	chardev_free(s.chr); /* gives the reader what is left */
	pthread_join(reader, NULL);
	assert_int_equal(r.n, r.size);
	assert_true(r.order);
	assert_true(f.writable > 0);
	close(r.fd);
}

static void test_bounded(void **state)
{
	uint8_t block[4096] = { 0 };
	size_t total = 0, n;
	int peer;
	struct chardev *chr = make_pair(&peer, "");
	struct front f;

	attach(chr, &f, false);
	while ((n = chardev_write_from(chr, &f, block, sizeof(block))) > 0)
		total += n;
	assert_true(total > 65536);
	assert_int_equal(f.writable, 0);
	run_a_little();
	assert_int_equal(f.writable, 0);
	/* The peer goes: nothing is kept for it, and the front end may go on. */
	close(peer);
	run_until(is_closed, chr);
	assert_int_equal(f.closed, 1);
	assert_int_equal(f.writable, 1);
	assert_int_equal(chardev_write_from(chr, &f, block, sizeof(block)), sizeof(block));
	chardev_free(chr);
}

/* A front end that takes nothing must not hide that the peer has gone. */
static void test_gone_while_stalled(void **state)
{
	int peer;
	struct chardev *chr = make_pair(&peer, "");
	struct front f;

	attach(chr, &f, false);
	f.room = 0;
	send_text(peer, "unread");
	run_a_little();
	close(peer);
	run_until(is_closed, chr);
	assert_int_equal(f.n, 0);
	chardev_free(chr);
}

/* --- Input ---- */

static void test_input_waits_for_room(void **state)
{
	int peer;
	struct chardev *chr = make_pair(&peer, "");
	struct front f;

	attach(chr, &f, false);
	f.room = 3;
	send_text(peer, "abcdefgh");
	expect_input(&f, "abc");
	run_a_little();
	assert_int_equal(f.n, 0);
	f.room = 2;
	chardev_accept_input(chr);
	expect_input(&f, "de");
	f.room = 100;
	chardev_accept_input(chr);
	expect_input(&f, "fgh");
	close(peer);
	chardev_free(chr);
}

static void test_second_front_end(void **state)
{
	int peer;
	struct chardev *chr = make_pair(&peer, "");
	struct front f, g = { .room = 1 };
	struct error *err = NULL;

	attach(chr, &f, false);
	assert_true(chardev_frontend_open(chr));
	assert_int_equal(chardev_attach(chr, &front_handler, &g, &err), -1);
	assert_string_equal(error_message(err),
			    "chardev 'c0' is in use; with mux=on several can share it");
	error_free(err);
	chardev_attach(chr, NULL, &f, NULL);
	assert_false(chardev_frontend_open(chr));
	assert_int_equal(chardev_attach(chr, &front_handler, &g, NULL), 0);
	assert_int_equal(g.opened, 1);
	close(peer);
	chardev_free(chr);
}

static void send_fds(int sock, const int *fds, unsigned n)
{
	char space[CMSG_SPACE(32 * sizeof(int))] = { 0 };
	struct iovec iov = { (char[]){ "x" }, 1 };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = space,
			      .msg_controllen = CMSG_SPACE(n * sizeof(int)) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(n * sizeof(int));
	memcpy(CMSG_DATA(c), fds, n * sizeof(int));
	assert_int_equal(sendmsg(sock, &msg, 0), 1);
}

static unsigned count_fds(void)
{
	unsigned n = 0;

	for (int fd = 0; fd < 200; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static void test_passed_fds(void **state)
{
	int pipes[2], peer, many[30], fd;
	struct chardev *chr = make_pair(&peer, "");
	struct front f;
	unsigned before;
	char byte;

	assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
	attach(chr, &f, false);
	before = count_fds();
	assert_int_equal(chardev_take_fd(chr), -1);
	send_fds(peer, &pipes[1], 1);
	expect_input(&f, "x");
	fd = chardev_take_fd(chr);
	assert_true(fd >= 0);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	assert_int_equal(write(fd, "!", 1), 1);
	assert_int_equal(read(pipes[0], &byte, 1), 1);
	close(fd);
	/* More than can be held, twice: nothing stays behind. */
	for (unsigned i = 0; i < ARRAY_SIZE(many); i++)
		many[i] = pipes[0];
	send_fds(peer, many, ARRAY_SIZE(many));
	expect_input(&f, "x");
	send_fds(peer, many, 3);
	expect_input(&f, "x");
	close(chardev_take_fd(chr));
	assert_int_equal(count_fds(), before);
	send_fds(peer, many, 3);
	expect_input(&f, "x");
	close(peer);
	run_until(is_closed, chr);
	assert_int_equal(count_fds(), before - 2);
	close(pipes[0]);
	close(pipes[1]);
	chardev_free(chr);
}

/* --- Sockets ---- */

static void test_unix_server(void **state)
{
	const char *path = in_dir("server");
	struct chardev *chr = must_make("socket,path=%s,server=on,wait=off", path);
	char name[300];
	struct front f;
	int first, second;

	snprintf(name, sizeof(name), "disconnected:unix:%s,server=on", path);
	assert_string_equal(chardev_filename(chr), name);
	attach(chr, &f, false);
	assert_int_equal(f.opened, 0);
	assert_int_equal(chardev_write_from(chr, &f, "lost", 4), 4);
	first = connect_to(path);
	second = connect_to(path);
	run_until(is_open, chr);
	assert_string_equal(chardev_filename(chr), name + strlen("disconnected:"));
	send_text(second, "two");
	send_text(first, "one");
	expect_input(&f, "one");
	chardev_write_from(chr, &f, "hi\n", 3);
	expect_output(first, "hi\n");
	close(first);
	expect_input(&f, "two"); /* the second's turn */
	assert_int_equal(f.opened, 2);
	assert_int_equal(f.closed, 1);
	chardev_write_from(chr, &f, "you\n", 4);
	expect_output(second, "you\n");
	close(second);
	chardev_free(chr);
}

static void test_bad_sockets(void **state)
{
	char path[200], message[500], text[400];
	int fd;

	memset(path, 'a', sizeof(path) - 1);
	path[0] = '/';
	path[120] = '\0';
	snprintf(text, sizeof(text), "socket,path=%s,server=on,wait=off", path);
	snprintf(message, sizeof(message), "unix socket path is 120 bytes, at most 107: '%s'",
		 path);
	refuse(text, message);
	refuse("socket,path=/nonexistent/x,server=on,wait=off",
	       "cannot listen on '/nonexistent/x': No such file or directory");
	refuse("socket,path=/nonexistent/x",
	       "cannot connect to '/nonexistent/x': No such file or directory");
	refuse("socket", "it needs one of path=PATH, host=HOST,port=PORT and fd=NUMBER");
	refuse("socket,path=/x,host=h",
	       "it needs one of path=PATH, host=HOST,port=PORT and fd=NUMBER");
	refuse("socket,host=h", "host needs a port: port=PORT");
	refuse("socket,path=/x,server=on,reconnect=1",
	       "reconnect is for clients, not with server=on");
	refuse("socket,path=/x,wait=off", "wait is for servers, with server=on");
	refuse("socket,path=/x,telnet=on", "telnet is not supported; a plain stream is");
	refuse("socket,fd=x", "fd: 'x' is not a number");
	refuse("socket,fd=1000", "fd: descriptor 1000 is not a socket");
	/* A file that is no socket stays. */
	fd = open(in_dir("precious"), O_CREAT | O_WRONLY, 0600);
	close(fd);
	snprintf(text, sizeof(text), "socket,path=%s,server=on,wait=off", in_dir("precious"));
	snprintf(message, sizeof(message),
		 "'%s' is there already and is no socket; choose another path", in_dir("precious"));
	refuse(text, message);
	assert_int_equal(access(in_dir("precious"), F_OK), 0);
}

static void test_stale_socket(void **state)
{
	const char *path = in_dir("stale");
	struct chardev *chr = must_make("socket,path=%s,server=on,wait=off", path), *next;
	int fd;

	next = must_make("socket,path=%s,server=on,wait=off", path);
	fd = connect_to(path);
	run_until(is_open, next);
	assert_false(chardev_is_open(chr));
	close(fd);
	chardev_free(chr);
	chardev_free(next);
}

static bool is_gone(void *opaque)
{
	return access(opaque, F_OK) < 0;
}

static void test_socket_file_is_removed(void **state)
{
	char path[200];
	pid_t pid;

	strcpy(path, in_dir("removed"));
	pid = fork();
	if (pid == 0) {
		loop = loop_new(NULL);
		must_make("socket,path=%s,server=on,wait=off", path);
		raise(SIGKILL);
	}
	waitpid(pid, NULL, 0);
	run_until(is_gone, path);
}

static void test_wait(void **state)
{
	const char *path = in_dir("wait");
	struct chardev *chr;
	struct front f;
	pid_t pid = fork();

	if (pid == 0) {
		int fd = -1;

		for (int i = 0; fd < 0 && i < 500; i++) {
			usleep(10000);
			fd = connect_to(path);
		}
		send_text(fd, "here");
		_exit(0);
	}
	chr = must_make("socket,path=%s,server=on", path);
	assert_true(chardev_is_open(chr));
	expect_input(attach(chr, &f, false), "here");
	assert_int_equal(f.opened, 1);
	run_until(is_closed, chr);
	waitpid(pid, NULL, 0);
	/* It listens on. */
	close(connect_to(path));
	run_until(is_true, &(unsigned){ 1 });
	chardev_free(chr);
}

static void test_tcp(void **state)
{
	struct chardev *server =
		must_make("socket,host=127.0.0.1,port=0,server=on,wait=off,nodelay=on");
	struct chardev *client;
	struct front f, g;
	unsigned port;

	assert_int_equal(
		sscanf(chardev_filename(server), "disconnected:tcp:127.0.0.1:%u,server=on", &port),
		1);
	client = must_make("socket,host=localhost,port=%u,ipv4=on", port);
	attach(server, &f, false);
	attach(client, &g, false);
	chardev_write(client, "ping", 4);
	expect_input(&f, "ping");
	assert_non_null(strstr(chardev_filename(server), ",server=on <-> 127.0.0.1:"));
	chardev_write(server, "pong", 4);
	expect_input(&g, "pong");
	chardev_free(server);
	run_until(is_closed, client);
	chardev_free(client);
}

static int listen_at(const char *path)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(un.sun_path, path);
	unlink(path);
	assert_int_equal(bind(fd, (struct sockaddr *)&un, sizeof(un)), 0);
	assert_int_equal(listen(fd, 1), 0);
	return fd;
}

static void test_reconnect(void **state)
{
	char path[200];
	struct chardev *chr;
	struct front f;
	int listener, fd;

	strcpy(path, in_dir("reconnect"));
	chr = must_make("socket,path=%s,reconnect=1", path);
	assert_false(chardev_is_open(chr));
	attach(chr, &f, false);
	run_a_little();
	listener = listen_at(path);
	for (unsigned round = 1; round <= 2; round++) {
		run_until(is_open, chr);
		fd = accept(listener, NULL, NULL);
		send_text(fd, "again");
		expect_input(&f, "again");
		chardev_write(chr, "yes\n", 4);
		expect_output(fd, "yes\n");
		close(fd);
		run_until(is_closed, chr);
		assert_int_equal(f.opened, round);
	}
	close(listener);
	chardev_free(chr);
}

/* --- Files, pipes, ptys ---- */

static void test_file(void **state)
{
	const char *path = in_dir("file"), *log = in_dir("log");
	struct chardev *chr = must_make("file,path=%s,logfile=%s", path, log);
	struct front f;

	attach(chr, &f, false);
	assert_int_equal(f.opened, 1);
	chardev_write(chr, "one\ntwo", 7);
	expect_file(path, "one\ntwo");
	chardev_free(chr);
	expect_file(path, "one\ntwo");
	expect_file(log, "one\ntwo");
	chr = must_make("file,path=%s,append=on,logfile=%s", path, log);
	chardev_write(chr, "three", 5);
	chardev_free(chr); /* no loop has run: nothing is lost all the same */
	expect_file(path, "one\ntwothree");
	expect_file(log, "three");
	refuse("file", "property 'path' is missing");
	refuse("file,path=/nonexistent/x",
	       "cannot open '/nonexistent/x': No such file or directory");
	refuse("null,logfile=/nonexistent/x",
	       "cannot open the log file '/nonexistent/x': No such file or directory");
}

static void test_fdset(void **state)
{
	const char *path = in_dir("fdset");
	int fd = open(path, O_CREAT | O_WRONLY, 0600);
	struct error *err = NULL;
	struct chardev *chr;
	const char *note;
	int64_t set;
	int other;

	assert_int_equal(fdset_add(FDSET_NEW, open("/dev/null", O_RDONLY), "a note", NULL), 0);
	assert_int_equal(fdset_add(7, fd, NULL, NULL), 7);
	assert_int_equal(fdset_add(FDSET_NEW, dup(fd), NULL, NULL), 1);
	assert_true(fdset_at(0, &set, &other, &note));
	assert_string_equal(note, "a note");
	chr = must_make("file,path=/dev/fdset/7");
	chardev_write(chr, "x", 1);
	chardev_free(chr);
	expect_file(path, "x");
	refuse("file,path=/dev/fdset/0", "cannot open '/dev/fdset/0': Permission denied");
	refuse("file,path=/dev/fdset/3", "cannot open '/dev/fdset/3': No such file or directory");
	refuse("file,path=/dev/fdset/x", "cannot open '/dev/fdset/x': No such file or directory");
	assert_int_equal(fdset_remove(7, fd + 1, &err), -1);
	error_free(err);
	assert_int_equal(fdset_remove(7, fd, NULL), 0);
	assert_int_equal(fdset_remove(0, -1, NULL), 0);
	assert_int_equal(fdset_remove(1, -1, NULL), 0);
	assert_false(fdset_at(0, &set, &other, &note));
}

/* A log has what was written while nobody was there. */
static void test_log_without_peer(void **state)
{
	const char *path = in_dir("nobody"), *log = in_dir("nobody.log");
	struct chardev *chr = must_make("socket,path=%s,server=on,wait=off,logfile=%s", path, log);
	struct front f;

	attach(chr, &f, false);
	chardev_write(chr, "boot\n", 5);
	chardev_write(chr, "ing", 3);
	run_a_little();
	expect_file(log, "boot\ning");
	chardev_free(chr);
}

static void test_pipe(void **state)
{
	struct chardev *chr;
	struct front f;
	int in, out;

	assert_int_equal(mkfifo(in_dir("p.in"), 0600), 0);
	assert_int_equal(mkfifo(in_dir("p.out"), 0600), 0);
	chr = must_make("pipe,path=%s", in_dir("p"));
	attach(chr, &f, false);
	in = open(in_dir("p.in"), O_WRONLY);
	out = open(in_dir("p.out"), O_RDONLY);
	send_text(in, "in");
	expect_input(&f, "in");
	close(in); /* no end of file: the next may come */
	run_a_little();
	chardev_write(chr, "out", 3);
	expect_output(out, "out");
	close(out);
	chardev_free(chr);
}

/* Runs fn with standard output going to a file, whose text is left in buf. */
static void with_stdout(void (*fn)(void *opaque), void *opaque, char *buf, size_t size)
{
	int old, fd = open(in_dir("stdout"), O_RDWR | O_CREAT | O_TRUNC, 0600);
	ssize_t n;

	fflush(stdout);
	old = dup(1);
	dup2(fd, 1);
	fn(opaque);
	fflush(stdout);
	dup2(old, 1);
	close(old);
	n = pread(fd, buf, size - 1, 0);
	buf[MAX(n, 0)] = '\0';
	close(fd);
}

static void make_pty(void *opaque)
{
	*(struct chardev **)opaque = must_make("pty");
}

static void test_pty(void **state)
{
	struct chardev *chr;
	char printed[200], expected[200];
	const char *name;
	struct front f;
	int slave;

	with_stdout(make_pty, &chr, printed, sizeof(printed));
	name = chardev_filename(chr);
	assert_memory_equal(name, "pty:/dev/", 9);
	name += 4;
	snprintf(expected, sizeof(expected), "char device redirected to %s (label c0)\n", name);
	assert_string_equal(printed, expected);
	attach(chr, &f, false);
	assert_int_equal(f.opened, 0);
	slave = open(name, O_RDWR | O_NOCTTY);
	run_until(is_open, chr);
	assert_int_equal(f.opened, 1);
	send_text(slave, "\001\r\n");
	expect_input(&f, "\001\r\n");
	chardev_write(chr, "a\r\nb", 4);
	expect_output(slave, "a\r\nb");
	close(slave);
	run_until(is_closed, chr);
	assert_int_equal(f.closed, 1);
	chardev_free(chr);
}

/* --- stdio, in a child whose terminal is a pty ---- */

struct child {
	pid_t pid;
	int master;
};

static void spawn_child(struct child *c, void (*fn)(void))
{
	char name[64];

	c->master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	assert_int_equal(unlockpt(c->master), 0);
	assert_int_equal(ptsname_r(c->master, name, sizeof(name)), 0);
	fflush(stdout);
	c->pid = fork();
	if (c->pid == 0) {
		int slave;

		loop = loop_new(NULL); /* an epoll descriptor is not for sharing */
		setsid();
		slave = open(name, O_RDWR);
		dup2(slave, 0);
		dup2(slave, 1);
		close(slave);
		fn();
		_exit(0);
	}
}

static int join_child(struct child *c)
{
	int status;

	waitpid(c->pid, &status, 0);
	close(c->master);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

#define CHECK(x)                               \
	do {                                   \
		if (!(x))                      \
			_exit(__LINE__ % 256); \
	} while (0)

static void terminal_child(void)
{
	struct termios before, raw, after;
	struct chardev *chr;
	struct front f;
	unsigned columns, rows;
	int flags = fcntl(0, F_GETFL);

	tcgetattr(0, &before);
	ioctl(0, TIOCSWINSZ, &(struct winsize){ .ws_row = 50, .ws_col = 132 });
	chr = must_make("stdio,signal=off,mux=off");
	tcgetattr(0, &raw);
	CHECK(!(raw.c_lflag & (ICANON | ECHO | ISIG)));
	CHECK(!(raw.c_iflag & (ICRNL | IXON)));
	CHECK(raw.c_oflag & OPOST);
	CHECK(fcntl(0, F_GETFL) == flags);
	CHECK(chardev_window_size(chr, &columns, &rows) && columns == 132 && rows == 50);
	attach(chr, &f, false);
	ioctl(0, TIOCSWINSZ, &(struct winsize){ .ws_row = 51, .ws_col = 132 });
	raise(SIGWINCH);
	CHECK(run_for(PATIENCE_NS, is_true, &f.resized));
	chardev_write(chr, "ready\n", 6);
	CHECK(run_for(PATIENCE_NS, has_text, (&(struct want){ &f, "\003go" })));
	/* A shell that took the terminal back while we were stopped. */
	tcsetattr(0, TCSANOW, &before);
	raise(SIGCONT);
	tcgetattr(0, &after);
	CHECK(after.c_lflag == raw.c_lflag);
	chardev_free(chr);
	tcgetattr(0, &after);
	CHECK(after.c_lflag == before.c_lflag && after.c_iflag == before.c_iflag);
	/* Once more, and out without a word: exit() restores too. */
	chr = must_make("stdio");
	tcgetattr(0, &raw);
	CHECK(raw.c_lflag & ISIG);
	chardev_restore_terminal();
	tcgetattr(0, &after);
	CHECK(after.c_lflag == before.c_lflag);
}

static void test_terminal(void **state)
{
	struct child c;

	spawn_child(&c, terminal_child);
	expect_output(c.master, "ready\r\n");
	send_text(c.master, "\003go");
	assert_int_equal(join_child(&c), 0);
}

static void null_stdin_child(void)
{
	int fd = open("/dev/null", O_RDWR), out[2];
	struct chardev *chr;
	struct front f;
	char buf[16];

	CHECK(pipe(out) == 0);
	dup2(fd, 0);
	dup2(out[1], 1);
	chr = must_make("stdio");
	attach(chr, &f, false);
	run_a_little();
	CHECK(f.opened == 1 && f.closed == 0); /* the end of input is not the end of output */
	chardev_write(chr, "on\n", 3);
	CHECK(read(out[0], buf, sizeof(buf)) == 3);
	CHECK(!(fcntl(1, F_GETFL) & O_NONBLOCK));
	close(out[0]);
	chardev_write(chr, "nobody\n", 7); /* EPIPE, no SIGPIPE */
	run_a_little();
	chardev_free(chr);
}

static void test_stdio_without_terminal(void **state)
{
	struct child c;

	spawn_child(&c, null_stdin_child);
	assert_int_equal(join_child(&c), 0);
}

static void file_stdin_child(void)
{
	int fd = open(in_dir("script"), O_RDWR | O_CREAT, 0600);
	struct chardev *chr;
	struct front f;

	send_text(fd, "some input");
	lseek(fd, 0, SEEK_SET);
	dup2(fd, 0);
	chr = must_make("stdio");
	attach(chr, &f, false);
	f.room = 4;
	CHECK(run_for(PATIENCE_NS, has_text, (&(struct want){ &f, "some" })));
	f.room = 100;
	chardev_accept_input(chr);
	CHECK(run_for(PATIENCE_NS, has_text, (&(struct want){ &f, "some input" })));
	CHECK(make("stdio", NULL) == NULL);
	chardev_free(chr);
}

static void test_stdin_is_a_file(void **state)
{
	struct child c;

	spawn_child(&c, file_stdin_child);
	assert_int_equal(join_child(&c), 0);
}

/* --- The mux ---- */

static unsigned quits;

static void note_quit(void *opaque)
{
	quits++;
}

static void test_mux(void **state)
{
	int peer;
	struct chardev *chr = make_pair(&peer, ",mux=on");
	struct front guest, monitor;
	char buf[1024];
	ssize_t n;

	assert_string_equal(chardev_filename(chr), "mux");
	assert_memory_equal(chardev_base_filename(chr), "fd:", 3);
	attach(chr, &monitor, true);
	assert_int_equal(monitor.focus_in, 1);
	attach(chr, &guest, false);
	assert_int_equal(monitor.focus_out, 1);
	send_text(peer, "g\001\001\001b\001zh");
	expect_input(&guest, "g\001h");
	assert_int_equal(guest.breaks, 1);
	send_text(peer, "\001cinfo");
	expect_input(&monitor, "info");
	assert_int_equal(monitor.focus_in, 2);
	assert_int_equal(guest.focus_in, 0);
	send_text(peer, "\001cback");
	expect_input(&guest, "back");
	assert_int_equal(monitor.focus_out, 2);
	/* Both may speak. */
	chardev_write_from(chr, &guest, "G\n", 2);
	chardev_write_from(chr, &monitor, "M\n", 2);
	expect_output(peer, "G\nM\n");
	/* A guest that reads nothing does not shut us out. */
	guest.room = 0;
	chardev_set_quit(note_quit, NULL);
	send_text(peer, "typed in vain");
	send_text(peer, "\001x");
	run_until(is_true, &quits);
	guest.room = 100;
	chardev_accept_input(chr);
	expect_input(&guest, "typed in vain");
	send_text(peer, "\001h");
	run_a_little();
	n = recv(peer, buf, sizeof(buf) - 1, MSG_DONTWAIT);
	assert_true(n > 0);
	buf[n] = '\0';
	assert_non_null(strstr(buf, "terminated\r\n"));
	assert_non_null(strstr(buf, "C-a c    switch"));
	chardev_attach(chr, NULL, &guest, NULL);
	send_text(peer, "m");
	expect_input(&monitor, "m");
	close(peer);
	chardev_free(chr);
}

static void test_mux_timestamps(void **state)
{
	int peer;
	struct chardev *chr = make_pair(&peer, ",mux=on");
	struct front guest;
	unsigned h, m, s, ms;
	char buf[200];
	ssize_t n;

	attach(chr, &guest, false);
	send_text(peer, "\001t.");
	expect_input(&guest, ".");
	chardev_write_from(chr, &guest, "rest\none\ntwo\n", 13);
	n = recv(peer, buf, sizeof(buf) - 1, 0);
	assert_true(n > 0);
	buf[n] = '\0';
	assert_memory_equal(buf, "rest\n[", 6);
	assert_int_equal(sscanf(buf + 5, "[%u:%u:%u.%u] one", &h, &m, &s, &ms), 4);
	assert_int_equal(n, 13 + 2 * strlen("[00:00:00.000] "));
	close(peer);
	chardev_free(chr);
}

static void test_mux_full(void **state)
{
	int peer;
	struct chardev *chr = make_pair(&peer, ",mux=on");
	struct front f[5];
	struct error *err = NULL;

	for (unsigned i = 0; i < 4; i++)
		attach(chr, &f[i], false);
	f[4] = f[3];
	assert_int_equal(chardev_attach(chr, &front_handler, &f[4], &err), -1);
	assert_string_equal(error_message(err),
			    "chardev 'c0' has 4 front ends, as many as a mux can have");
	error_free(err);
	send_text(peer, "3\001c0\001c\001c2");
	run_a_little();
	assert_memory_equal(f[3].got, "3", 1);
	assert_memory_equal(f[0].got, "0", 1);
	assert_memory_equal(f[2].got, "2", 1);
	close(peer);
	chardev_free(chr);
}

/* --- Legacy spellings ---- */

struct spelling {
	const char *text, *class;
	bool mux;
	const char *const values[7]; /* name, value pairs */
};

static void check_spelling(const struct spelling *s)
{
	const struct chardev_class *class;
	struct error *err = NULL;
	struct props *props;
	bool mux;

	if (chardev_parse_legacy(s->text, &class, &props, &mux, &err) < 0)
		fail_msg("%s: %s", s->text, error_message(err));
	assert_string_equal(class->name, s->class);
	assert_int_equal(mux, s->mux);
	assert_int_equal(props_bool(props, "mux"), s->mux);
	for (const char *const *v = s->values; *v; v += 2) {
		if (strcmp(v[1], "on") == 0 || strcmp(v[1], "off") == 0)
			assert_int_equal(props_bool(props, v[0]), strcmp(v[1], "on") == 0);
		else
			assert_string_equal(props_str(props, v[0]), v[1]);
	}
	props_free(props);
}

static void test_legacy(void **state)
{
	static const struct spelling good[] = {
		{ "stdio", "stdio", false, { "signal", "on" } },
		{ "mon:stdio", "stdio", true, { "signal", "off" } },
		{ "null", "null" },
		{ "pty", "pty" },
		{ "file:/a,b", "file", false, { "path", "/a,b" } },
		{ "pipe:/p", "pipe", false, { "path", "/p" } },
		{ "unix:/s,server,nowait",
		  "socket",
		  false,
		  { "path", "/s", "server", "on", "nowait", "on" } },
		{ "mon:unix:/s,server=on,wait=off",
		  "socket",
		  true,
		  { "path", "/s", "server", "on", "wait", "off" } },
		{ "tcp:localhost:4444", "socket", false, { "host", "localhost", "port", "4444" } },
		{ "tcp::4444,server=on", "socket", false, { "host", "", "port", "4444" } },
		{ "tcp:[::1]:5,nodelay=on",
		  "socket",
		  false,
		  { "host", "::1", "port", "5", "nodelay", "on" } },
	};
	static const char *const bad[] = {
		"bogus",     "stdiox", "tcp:x",         "udp:x:1",
		"vc",        "fd:3",   "mon:",          "",
		"tcp::",     "unix:",  "mon:chardev:x", "unix:/x,bogus=1",
		"telnet:x:1"
	};
	const struct chardev_class *class;
	struct props *props;
	bool mux;

	for (unsigned i = 0; i < ARRAY_SIZE(good); i++)
		check_spelling(&good[i]);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		struct error *err = NULL;

		if (chardev_parse_legacy(bad[i], &class, &props, &mux, &err) == 0) {
			/* an empty path is refused when it is opened */
			assert_string_equal(bad[i], "unix:");
			props_free(props);
		}
		error_free(err);
	}
	assert_int_equal(chardev_parse_legacy("chardev:c1", &class, &props, &mux, NULL), 0);
	assert_null(class);
	assert_null(props);
}

/* --- */

static int setup(void **state)
{
	signal(SIGPIPE, SIG_IGN);
	loop = loop_new(NULL);
	return loop && mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
	char *command AUTO_FREE = xasprintf("rm -rf %s", dir);

	loop_free(loop);
	return system(command);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		/* First: what removes files is one a process, and must be the child's alone. */
		cmocka_unit_test(test_socket_file_is_removed),
		cmocka_unit_test(test_gathers),
		cmocka_unit_test(test_slow_reader),
		cmocka_unit_test(test_bounded),
		cmocka_unit_test(test_gone_while_stalled),
		cmocka_unit_test(test_input_waits_for_room),
		cmocka_unit_test(test_second_front_end),
		cmocka_unit_test(test_passed_fds),
		cmocka_unit_test(test_unix_server),
		cmocka_unit_test(test_bad_sockets),
		cmocka_unit_test(test_stale_socket),
		cmocka_unit_test(test_wait),
		cmocka_unit_test(test_tcp),
		cmocka_unit_test(test_reconnect),
		cmocka_unit_test(test_file),
		cmocka_unit_test(test_fdset),
		cmocka_unit_test(test_log_without_peer),
		cmocka_unit_test(test_pipe),
		cmocka_unit_test(test_pty),
		cmocka_unit_test(test_terminal),
		cmocka_unit_test(test_stdio_without_terminal),
		cmocka_unit_test(test_stdin_is_a_file),
		cmocka_unit_test(test_mux),
		cmocka_unit_test(test_mux_timestamps),
		cmocka_unit_test(test_mux_full),
		cmocka_unit_test(test_legacy),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, setup, teardown);
}
