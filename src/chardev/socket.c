/*
 * socket: a stream socket, unix or TCP, connecting or listening, with one peer at a time.
 *
 * A server watches its listener while it has no peer; further clients wait in the kernel's queue
 * until the one before has gone. A client connects once, or with reconnect=N again and again, N
 * seconds after each failure or loss, by way of a child (connector.h). Over a unix socket peers may
 * pass descriptors; those of the last message wait for chardev_take_fd().
 */
#include "chardev/backend.h"

#include "base/error.h"
#include "base/log.h"
#include "base/util.h"
#include "chardev/address.h"
#include "chardev/connector.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

struct socket_backend {
	char *text; /* "unix:/path,server=on" */
	int listener, connector;
	struct loop_watch *listen_watch, *answer_watch;
	struct loop_timer *retry;
	uint64_t retry_ns;
};

/* --- Bytes ---- */

/* QEMU's rule: descriptors of an earlier message that nobody took are closed by the next. */
static void take_fds(struct chardev *chr, struct msghdr *msg)
{
	struct cmsghdr *c;

	for (c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		unsigned n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		chardev_close_fds(chr);
		chr->n_fds = MIN(n, CHARDEV_MAX_FDS);
		memcpy(chr->fds, CMSG_DATA(c), chr->n_fds * sizeof(int));
	}
}

/* #syscalls:main recvmsg close */
static ssize_t socket_read(struct chardev *chr, void *buf, size_t len)
{
	struct iovec iov = { buf, len };
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(CHARDEV_MAX_FDS * sizeof(int))];
	} control;
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = &control,
			      .msg_controllen = sizeof(control.space) };
	ssize_t n = recvmsg(chr->in_fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	if (n >= 0)
		take_fds(chr, &msg);
	return n;
}

/* #syscalls send */
static ssize_t socket_write(struct chardev *chr, const void *buf, size_t len)
{
	return send(chr->out_fd, buf, len, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* --- Peers that come and go ---- */

static void set_disconnected(struct chardev *chr)
{
	struct socket_backend *s = chr->backend;
	char *name AUTO_FREE = xasprintf("disconnected:%s", s->text);

	chardev_set_filename(chr, name);
}

/* As QEMU names it: a TCP server tells its peer too. */
static void set_connected(struct chardev *chr, const struct sockaddr *peer)
{
	struct socket_backend *s = chr->backend;
	char host[INET6_ADDRSTRLEN] = "";
	char *name AUTO_FREE = NULL;

	if (peer && peer->sa_family == AF_INET) {
		const struct sockaddr_in *in = (const struct sockaddr_in *)peer;

		inet_ntop(AF_INET, &in->sin_addr, host, sizeof(host));
		name = xasprintf("%s <-> %s:%u", s->text, host, ntohs(in->sin_port));
	} else if (peer && peer->sa_family == AF_INET6) {
		const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)peer;

		inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof(host));
		name = xasprintf("%s <-> [%s]:%u", s->text, host, ntohs(in6->sin6_port));
	}
	chardev_set_filename(chr, name ? name : s->text);
}

/* #syscalls:main accept4 */
static bool accept_peer(struct chardev *chr)
{
	struct socket_backend *s = chr->backend;
	struct sockaddr_storage ss = {};
	socklen_t len = sizeof(ss);
	int fd = accept4(s->listener, (struct sockaddr *)&ss, &len, SOCK_CLOEXEC);

	if (fd < 0)
		return false;
	if (s->listen_watch)
		loop_watch_set(s->listen_watch, 0);
	set_connected(chr, (struct sockaddr *)&ss);
	chardev_connect(chr, fd, fd);
	return true;
}

static void on_listener(void *opaque, uint32_t events)
{
	struct chardev *chr = opaque;

	if (!chr->open)
		accept_peer(chr);
}

static void on_retry(void *opaque)
{
	struct chardev *chr = opaque;
	struct socket_backend *s = chr->backend;

	connector_ask(s->connector);
}

static void on_answer(void *opaque, uint32_t events)
{
	struct chardev *chr = opaque;
	struct socket_backend *s = chr->backend;
	int fd = connector_answer(s->connector);

	if (fd >= 0) {
		chardev_set_filename(chr, s->text);
		chardev_connect(chr, fd, fd);
		return;
	}
	if (errno == EPIPE) {
		log_warn("chardev '%s': the process that reconnects is gone", chr->id);
		loop_watch_free(s->answer_watch);
		s->answer_watch = NULL;
		return;
	}
	LOG_ONCE("chardev '%s': cannot connect to %s: %s; trying every %u s", chr->id, s->text,
		 strerror(errno), (unsigned)(s->retry_ns / 1000000000));
	loop_timer_set(s->retry, now_ns() + s->retry_ns);
}

static void socket_hangup(struct chardev *chr)
{
	struct socket_backend *s = chr->backend;

	set_disconnected(chr);
	chardev_disconnect(chr);
	if (s->listen_watch)
		loop_watch_set(s->listen_watch, EPOLLIN);
	else if (s->answer_watch)
		loop_timer_set(s->retry, now_ns() + s->retry_ns);
}

static void socket_close(struct chardev *chr)
{
	struct socket_backend *s = chr->backend;

	loop_watch_free(s->listen_watch);
	loop_watch_free(s->answer_watch);
	loop_timer_free(s->retry);
	if (s->listener >= 0)
		close(s->listener);
	if (s->connector >= 0)
		close(s->connector);
	free(s->text);
	free(s);
}

static const struct chardev_ops socket_ops = {
	.read = socket_read,
	.write = socket_write,
	.hangup = socket_hangup,
	.close = socket_close,
};

/* --- Opening ---- */

/* A server without a peer is a server waiting; with wait=on the VM does too. */
static int start_server(struct chardev *chr, bool wait, struct error **err)
{
	struct socket_backend *s = chr->backend;
	struct pollfd p = { .fd = s->listener, .events = POLLIN };

	set_disconnected(chr);
	if (wait) {
		log_info("waiting for connection on: %s", chr->filename);
		while (!accept_peer(chr))
			poll(&p, 1, -1);
	}
	s->listen_watch =
		loop_watch_new(chr->loop, s->listener, wait ? 0 : EPOLLIN, on_listener, chr, err);
	return s->listen_watch ? 0 : -1;
}

static int start_client(struct chardev *chr, const struct address *address, uint64_t reconnect,
			struct error **err)
{
	struct socket_backend *s = chr->backend;
	int fd;

	set_disconnected(chr);
	if (!reconnect) {
		fd = address_connect(address, err);
		if (fd < 0)
			return -1;
		chardev_set_filename(chr, s->text);
		chardev_connect(chr, fd, fd);
		return 0;
	}
	s->retry_ns = reconnect * UINT64_C(1000000000);
	s->retry = loop_timer_new(chr->loop, on_retry, chr);
	s->connector = connector_start(address, err);
	if (s->connector < 0)
		return -1;
	s->answer_watch = loop_watch_new(chr->loop, s->connector, EPOLLIN, on_answer, chr, err);
	if (!s->answer_watch)
		return -1;
	connector_ask(s->connector);
	return 0;
}

/* fd=: a socket we inherited. */
static int inherit(const char *text, bool server, struct error **err)
{
	int listening = 0, fd;
	socklen_t len = sizeof(listening);
	uint64_t number;

	if (parse_u64(text, &number, err) < 0) {
		error_prefix(err, "fd: ");
		return -1;
	}
	fd = number > INT32_MAX ? -1 : (int)number;
	if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) < 0) {
		error_set(err, "fd: descriptor %s is not a socket", text);
		return -1;
	}
	if (server != (listening != 0)) {
		error_set(err, "fd: the socket %s is %slistening; that is for server=%s", text,
			  listening ? "" : "not ", listening ? "on" : "off");
		return -1;
	}
	fcntl(fd, F_SETFD, FD_CLOEXEC);
	if (server)
		fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
	return fd;
}

static bool waits(const struct props *props)
{
	return props_bool(props, "wait") && !props_bool(props, "nowait");
}

static int open_inherited(struct chardev *chr, const struct props *props, struct error **err)
{
	bool server = props_bool(props, "server");
	struct socket_backend *s = chr->backend;
	int fd = inherit(props_str(props, "fd"), server, err);

	if (fd < 0)
		return -1;
	s->text = xasprintf("fd:%d%s", fd, server ? ",server=on" : "");
	if (server) {
		s->listener = fd;
		return start_server(chr, waits(props), err);
	}
	chardev_set_filename(chr, s->text);
	chardev_connect(chr, fd, fd);
	return 0;
}

static const char *const unsupported[] = { "telnet", "tn3270", "websocket" };

static int check_props(const struct props *props, struct error **err)
{
	int places =
		props_given(props, "path") + props_given(props, "host") + props_given(props, "fd");

	for (unsigned i = 0; i < ARRAY_SIZE(unsupported); i++) {
		if (props_bool(props, unsupported[i])) {
			error_set(err, "%s is not supported; a plain stream is", unsupported[i]);
			return -1;
		}
	}
	if (places > 1 || (!places && !props_given(props, "port"))) {
		error_set(err, "it needs one of path=PATH, host=HOST,port=PORT and fd=NUMBER");
		return -1;
	}
	if (props_given(props, "host") && !props_given(props, "port")) {
		error_set(err, "host needs a port: port=PORT");
		return -1;
	}
	if (props_bool(props, "server") && props_u64(props, "reconnect")) {
		error_set(err, "reconnect is for clients, not with server=on");
		return -1;
	}
	if (!props_bool(props, "server") && props_given(props, "wait")) {
		error_set(err, "wait is for servers, with server=on");
		return -1;
	}
	return 0;
}

static int open_address(struct chardev *chr, const struct props *props, struct error **err)
{
	struct socket_backend *s = chr->backend;
	const struct address address = {
		.path = props_str(props, "path"),
		.host = props_str(props, "host"),
		.port = props_str(props, "port"),
		.ipv4 = props_bool(props, "ipv4"),
		.ipv6 = props_bool(props, "ipv6"),
		.nodelay = props_bool(props, "nodelay"),
	};
	char *text AUTO_FREE = NULL;

	if (!props_bool(props, "server")) {
		s->text = address_text(&address, -1);
		return start_client(chr, &address, props_u64(props, "reconnect"), err);
	}
	s->listener = address_listen(&address, err);
	if (s->listener < 0)
		return -1;
	text = address_text(&address, s->listener);
	s->text = xasprintf("%s,server=on", text);
	return start_server(chr, waits(props), err);
}

static int socket_open(struct chardev *chr, const struct props *props, struct error **err)
{
	struct socket_backend *s = xcalloc(1, sizeof(*s));

	s->listener = s->connector = -1;
	chr->backend = s;
	chr->ops = &socket_ops;
	if (check_props(props, err) < 0)
		return -1;
	return props_given(props, "fd") ? open_inherited(chr, props, err)
					: open_address(chr, props, err);
}

static const struct prop socket_props[] = {
	{ "path", PROP_STRING, .help = "unix socket" },
	{ "host", PROP_STRING, .help = "name or address; empty: any" },
	{ "port", PROP_STRING, .help = "number or service" },
	{ "fd", PROP_STRING, .help = "number of an inherited socket" },
	{ "ipv4", PROP_BOOL, .help = "only that" },
	{ "ipv6", PROP_BOOL, .help = "only that" },
	{ "server", PROP_BOOL, .def = "off", .help = "listen, for one client at a time" },
	{ "wait", PROP_BOOL, .def = "on", .help = "server: start when the first client is there" },
	{ "nowait", PROP_BOOL, .help = "the same as wait=off" },
	{ "nodelay", PROP_BOOL, .help = "TCP: send at once" },
	{ "reconnect", PROP_INT, .def = "0", .help = "client: try again after so many seconds",
	  .min = 0, .max = 86400 },
	{ "telnet", PROP_BOOL, .def = "off", .help = "not supported" },
	{ "tn3270", PROP_BOOL, .def = "off", .help = "not supported" },
	{ "websocket", PROP_BOOL, .def = "off", .help = "not supported" },
	{},
};

const struct chardev_class chardev_socket_class = {
	.name = "socket",
	.desc = "a unix or TCP stream socket",
	.props = socket_props,
	.open = socket_open,
};
