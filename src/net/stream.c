/*
 * -netdev stream: packets over a connected stream socket, each after its length as four bytes in
 * network byte order; what passt and QEMU itself speak.
 *
 * Input is read ahead into a buffer, as many packets at a time as there are, and handed out one by
 * one. A length of 0 or beyond NET_MAX_PACKET means that the peer speaks another language; it is
 * disconnected.
 *
 * Output: small packets are collected and written by flush() with one system call; a large one is
 * written from where it lies, after what was collected. Where the socket takes half of it, the
 * other half is copied, so that a packet that was taken is never asked for again. While the buffer
 * can't be emptied no more is taken.
 *
 * Threads: all of this belongs to the NIC's loop. A server listens on the main loop; what it
 * accepts there travels to the NIC's loop as a posted call, and while there is a peer it does not
 * listen. When the peer leaves, a call posted the other way makes it listen again. A client's lost
 * connection stays lost, as in QEMU 7.2.
 */
#include "net/internal.h"

#include "base/error.h"
#include "base/iov.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/tidy.h"
#include "base/util.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#define LENGTH_BYTES  4
#define SMALL_PACKET  2048
#define IN_BUFFER     (256 * KIB)
#define OUT_BUFFER    (128 * KIB)
#define MAX_IOV       1024 /* UIO_MAXIOV */
#define SOCKET_BUFFER ((int)(1 * MIB))

_Static_assert(OUT_BUFFER >= LENGTH_BYTES + NET_MAX_PACKET, "a packet fits");

struct stream {
	struct netdev nd;
	struct loop *main_loop;

	/* The main loop's: */
	int listen_fd;
	struct loop_watch *listen_watch;
	struct loop_call listen_again;

	_Atomic int accepted; /* a new peer on its way to the NIC's loop; -1: none */
	struct loop_call adopt;

	/* The NIC's loop's: */
	size_t in_start, in_end;
	size_t out_start, out_end;
	struct iovec iov[MAX_IOV];
	uint8_t in[IN_BUFFER], out[OUT_BUFFER];
};

static struct stream *of(struct netdev *nd)
{
	return container_of(nd, struct stream, nd);
}

/* --- Peers come and go ---- */

static void tell(struct stream *s, bool up)
{
	if (s->nd.changed)
		s->nd.changed(s->nd.changed_opaque, up);
}

/* A server's peers may come and go as they like, but not fill our log with it. */
/* #syscalls:io,main close */
static void disconnect(struct stream *s, const char *why)
{
	if (s->listen_fd < 0)
		log_info("netdev '%s': %s; its link is down now", s->nd.id, why);
	else
		log_item(LOG_VIRTIO, "netdev '%s': %s", s->nd.id, why);
	tell(s, false);
	close(s->nd.fd);
	s->nd.fd = -1;
	s->in_start = s->in_end = s->out_start = s->out_end = 0;
	if (s->listen_fd >= 0)
		loop_post(s->main_loop, &s->listen_again);
}

static void adopt(void *opaque)
{
	struct stream *s = opaque;
	int fd = atomic_exchange(&s->accepted, -1);

	if (fd < 0)
		return;
	s->nd.fd = fd;
	tell(s, true);
}

static void listen_again(void *opaque)
{
	struct stream *s = opaque;

	if (s->listen_watch)
		loop_watch_set(s->listen_watch, EPOLLIN);
}

/* #syscalls:main accept4 */
static void on_connection(void *opaque, uint32_t events)
{
	struct stream *s = opaque;
	int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0)
		return;
	loop_watch_set(s->listen_watch, 0);
	s->accepted = fd;
	if (s->nd.loop)
		loop_post(s->nd.loop, &s->adopt);
	else
		adopt(s);
}

/* --- Input ---- */

/* Moves what is left to the front when less than a packet's room is behind it, and reads. */
/* #syscalls:io recvfrom */
static int fill(struct stream *s)
{
	ssize_t n;

	if (s->in_start == s->in_end) {
		s->in_start = s->in_end = 0;
	} else if (s->in_start && IN_BUFFER - s->in_start < LENGTH_BYTES + NET_MAX_PACKET) {
		memmove(s->in, s->in + s->in_start, s->in_end - s->in_start);
		s->in_end -= s->in_start;
		s->in_start = 0;
	}
	do {
		n = recv(s->nd.fd, s->in + s->in_end, IN_BUFFER - s->in_end, MSG_DONTWAIT);
	} while (n < 0 && errno == EINTR);
	if (n > 0)
		s->in_end += n;
	else if (n == 0 || errno != EAGAIN)
		return -EPIPE;
	return n > 0 ? 0 : -EAGAIN;
}

/* Is there a whole packet? Its length, -EAGAIN, or -EPROTO. */
static ssize_t next_packet(const struct stream *s)
{
	uint32_t length;

	if (s->in_end - s->in_start < LENGTH_BYTES)
		return -EAGAIN;
	memcpy(&length, s->in + s->in_start, LENGTH_BYTES);
	length = ntohl(length);
	if (!length || length > NET_MAX_PACKET)
		return -EPROTO;
	return s->in_end - s->in_start - LENGTH_BYTES < length ? -EAGAIN : (ssize_t)length;
}

static ssize_t hand_out(struct stream *s, size_t length, const struct iovec *iov, int n)
{
	const uint8_t *packet = s->in + s->in_start + LENGTH_BYTES;

	s->in_start += LENGTH_BYTES + length;
	return iov_from_buf(iov, n, 0, packet, length);
}

static ssize_t stream_recv(struct netdev *nd, const struct iovec *iov, int n)
{
	struct stream *s = of(nd);
	ssize_t length;
	int result;

	if (nd->fd < 0)
		return -EPIPE;
	while ((length = next_packet(s)) == -EAGAIN) {
		result = fill(s);
		if (result == -EAGAIN)
			return -EAGAIN;
		if (result < 0) {
			disconnect(s, "the peer has closed the connection");
			return -EPIPE;
		}
	}
	if (length < 0) {
		disconnect(s, "the peer does not send packets with their length in front");
		return -EPIPE;
	}
	return hand_out(s, length, iov, n);
}

/* --- Output ---- */

static size_t held_back(const struct stream *s)
{
	return s->out_end - s->out_start;
}

/* Bytes written; 0 when the socket is full. An error ends the connection: -EPIPE. */
/* #syscalls:io sendmsg */
static ssize_t write_iov(struct stream *s, struct iovec *iov, size_t n)
{
	const struct msghdr msg = { .msg_iov = iov, .msg_iovlen = n };
	ssize_t done;

	do {
		done = sendmsg(s->nd.fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
	} while (done < 0 && errno == EINTR);
	if (done >= 0)
		return done;
	if (errno == EAGAIN || errno == ENOBUFS)
		return 0;
	disconnect(s, "the connection is broken");
	return -EPIPE;
}

static void wrote_held_back(struct stream *s, size_t done)
{
	s->out_start += done;
	if (s->out_start == s->out_end)
		s->out_start = s->out_end = 0;
}

static int stream_flush(struct netdev *nd)
{
	struct stream *s = of(nd);
	struct iovec iov = { s->out + s->out_start, held_back(s) };
	ssize_t done;

	if (!iov.iov_len)
		return 0;
	done = write_iov(s, &iov, 1);
	if (done < 0)
		return done;
	wrote_held_back(s, done);
	return held_back(s) ? -EAGAIN : 0;
}

/* Copies pieces from their byte `skip` on. There is room. */
static void hold_back(struct stream *s, const struct iovec *iov, int n, size_t skip)
{
	s->out_end += iov_to_buf(iov, n, skip, s->out + s->out_end, OUT_BUFFER - s->out_end);
}

/* Makes room for `need` bytes: 0, or -EAGAIN. */
static int make_room(struct stream *s, size_t need)
{
	int result;

	if (OUT_BUFFER - s->out_end >= need)
		return 0;
	result = stream_flush(&s->nd);
	return result == -EAGAIN && OUT_BUFFER - s->out_end >= need ? 0 : result;
}

/* Writes what is held back, the length and the packet; holds back what remains of the last two. */
static ssize_t write_packet(struct stream *s, uint32_t *length, const struct iovec *iov, int n)
{
	const size_t before = held_back(s), size = net_iov_size(iov, n);
	struct iovec *all = s->iov;
	ssize_t done;

	all[0] = (struct iovec){ s->out + s->out_start, before };
	all[1] = (struct iovec){ length, LENGTH_BYTES };
	memcpy(&all[2], iov, n * sizeof(*iov));
	done = write_iov(s, all, n + 2);
	if (done < 0)
		return done;
	if ((size_t)done <= before) {
		wrote_held_back(s, done);
		if (held_back(s))
			return -EAGAIN;
		done = before;
	}
	s->out_start = s->out_end = 0;
	if ((size_t)done < before + LENGTH_BYTES + size)
		hold_back(s, &all[1], n + 1, done - before);
	return size;
}

static ssize_t stream_send(struct netdev *nd, const struct iovec *iov, int n)
{
	struct stream *s = of(nd);
	const size_t size = net_iov_size(iov, n);
	uint32_t length = htonl(size);
	int result;

	if (nd->fd < 0)
		return -EPIPE;
	if (!size || size > NET_MAX_PACKET)
		return -EMSGSIZE;
	if (size > SMALL_PACKET && n <= MAX_IOV - 2)
		return write_packet(s, &length, iov, n);
	result = make_room(s, LENGTH_BYTES + size);
	if (result < 0)
		return result;
	hold_back(s, &(struct iovec){ &length, LENGTH_BYTES }, 1, 0);
	hold_back(s, iov, n, 0);
	return size;
}

/* #syscalls:main close */
static void stream_close(struct netdev *nd)
{
	struct stream *s = of(nd);
	int accepted = atomic_exchange(&s->accepted, -1);

	loop_watch_free(s->listen_watch);
	if (s->listen_fd >= 0)
		close(s->listen_fd);
	if (accepted >= 0)
		close(accepted);
	if (nd->fd >= 0)
		close(nd->fd);
	free(nd->id);
	free(s);
}

static const struct netdev_ops stream_ops = {
	.send = stream_send,
	.flush = stream_flush,
	.recv = stream_recv,
	.close = stream_close,
};

/* --- Opening ---- */

static const char *const address_types[] = { "unix", "inet", "fd", NULL };

static const struct prop stream_props[] = {
	{ "server", PROP_BOOL, "off", "wait for a peer instead of connecting to one" },
	{ "addr.type", PROP_ENUM, .help = "kind of address", .choices = address_types,
	  .required = true },
	{ "addr.path", PROP_STRING, .help = "unix: the socket's path" },
	{ "addr.host", PROP_STRING, .help = "inet: host name or address" },
	{ "addr.port", PROP_STRING, .help = "inet: port number or service" },
	{ "addr.str", PROP_STRING, .help = "fd: number of an open socket" },
	{},
};

struct address {
	bool server;
	int family;
	struct sockaddr_storage sa;
	socklen_t len;
	const char *path; /* unix */
};

/* What a type of address needs; another's property is a mistake. */
static int check_address(const struct props *props, struct error **err)
{
	static const struct {
		const char *property, *type;
	} needs[] = {
		{ "addr.path", "unix" },
		{ "addr.host", "inet" },
		{ "addr.port", "inet" },
		{ "addr.str", "fd" },
	};
	const char *type = props_str(props, "addr.type");

	for (unsigned i = 0; i < ARRAY_SIZE(needs); i++) {
		bool wanted = strcmp(needs[i].type, type) == 0;

		if (wanted == props_has(props, needs[i].property))
			continue;
		error_set(err, "addr.type=%s %s %s=", type, wanted ? "needs" : "does not go with",
			  needs[i].property);
		return -1;
	}
	return 0;
}

static int unix_address(const char *path, struct address *a, struct error **err)
{
	struct sockaddr_un *un = (struct sockaddr_un *)&a->sa;

	if (!*path || strlen(path) >= sizeof(un->sun_path)) {
		error_set(err, "socket path '%s' is %s; 1 to %zu bytes are possible", path,
			  *path ? "too long" : "empty", sizeof(un->sun_path) - 1);
		return -1;
	}
	un->sun_family = a->family = AF_UNIX;
	strcpy(un->sun_path, path);
	a->len = sizeof(*un);
	a->path = path;
	return 0;
}

static int inet_address(const char *host, const char *port, struct address *a, struct error **err)
{
	const struct addrinfo hints = { .ai_socktype = SOCK_STREAM,
					.ai_flags = a->server ? AI_PASSIVE : 0 };
	struct addrinfo *list;
	int result = getaddrinfo(*host ? host : NULL, port, &hints, &list);

	if (result) {
		error_set(err, "cannot find '%s' port '%s': %s", host, port, gai_strerror(result));
		return -1;
	}
	a->family = list->ai_family;
	a->len = list->ai_addrlen;
	memcpy(&a->sa, list->ai_addr, list->ai_addrlen);
	freeaddrinfo(list);
	return 0;
}

/* A socket file that nobody listens on, left by one who died. */
static bool is_stale(const struct address *a)
{
	int probe AUTO_CLOSE = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	return connect(probe, (const struct sockaddr *)&a->sa, a->len) < 0 && errno == ECONNREFUSED;
}

static int bind_and_listen(int fd, const struct address *a)
{
	const int on = 1;

	if (a->path && is_stale(a))
		unlink(a->path);
	if (a->family != AF_UNIX)
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(fd, (const struct sockaddr *)&a->sa, a->len) < 0)
		return -1;
	return listen(fd, 1);
}

static int open_socket(const struct address *a, struct error **err)
{
	int fd AUTO_CLOSE = socket(a->family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	const int on = 1;
	int result;

	if (fd < 0) {
		error_set_errno(err, errno, "cannot make a socket");
		return -1;
	}
	if (a->family != AF_UNIX) /* what a listening socket has, the accepted ones get */
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	result = a->server ? bind_and_listen(fd, a)
			   : connect(fd, (const struct sockaddr *)&a->sa, a->len);
	if (result < 0) {
		error_set_errno(err, errno, "cannot %s %s", a->server ? "listen on" : "connect to",
				a->path ? a->path : "that address");
		return -1;
	}
	if (a->server && a->path && tidy_at_exit(a->path, err) < 0)
		return -1;
	return TAKE_FD(fd);
}

static int given_socket(const char *text, struct error **err)
{
	uint64_t fd;
	int type;
	socklen_t len = sizeof(type);

	if (parse_u64(text, &fd, err) < 0)
		return -1;
	if (fd > INT32_MAX || getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0 ||
	    type != SOCK_STREAM) {
		error_set(err, "descriptor %s is not a stream socket", text);
		return -1;
	}
	fcntl(fd, F_SETFD, FD_CLOEXEC);
	return fd;
}

static int make_socket(const struct props *props, struct error **err)
{
	const char *type = props_str(props, "addr.type");
	struct address a = { .server = props_bool(props, "server") };

	if (check_address(props, err) < 0)
		return -1;
	if (strcmp(type, "fd") == 0)
		return given_socket(props_str(props, "addr.str"), err);
	if (strcmp(type, "unix") == 0) {
		if (unix_address(props_str(props, "addr.path"), &a, err) < 0)
			return -1;
	} else if (inet_address(props_str(props, "addr.host"), props_str(props, "addr.port"), &a,
				err) < 0) {
		return -1;
	}
	return open_socket(&a, err);
}

static struct stream *stream_new(const char *id, const char *kind, struct loop *main_loop)
{
	struct stream *s = xcalloc(1, sizeof(*s));

	s->nd.ops = &stream_ops;
	s->nd.id = xstrdup(id);
	s->nd.kind = kind;
	s->accepted = -1;
	s->nd.fd = s->listen_fd = -1;
	s->main_loop = main_loop;
	s->adopt = (struct loop_call){ .fn = adopt, .opaque = s };
	s->listen_again = (struct loop_call){ .fn = listen_again, .opaque = s };
	return s;
}

struct netdev *stream_from_fd(const char *id, const char *kind, int fd, struct loop *main_loop)
{
	struct stream *s = stream_new(id, kind, main_loop);

	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
	/* More than the kernel's default fits before either side has to wait. */
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &(int){ SOCKET_BUFFER }, sizeof(int));
	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &(int){ SOCKET_BUFFER }, sizeof(int));
	s->nd.fd = fd;
	return &s->nd;
}

static int stream_open(const char *id, const struct props *props, struct loop *main_loop,
		       struct netdev **nd, struct error **err)
{
	int fd = make_socket(props, err);
	struct stream *s;

	if (fd < 0)
		return -1;
	if (!props_bool(props, "server")) {
		*nd = stream_from_fd(id, "stream", fd, main_loop);
		return 0;
	}
	s = stream_new(id, "stream", main_loop);
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
	s->listen_fd = fd;
	s->listen_watch = loop_watch_new(main_loop, fd, EPOLLIN, on_connection, s, err);
	if (!s->listen_watch) {
		stream_close(&s->nd);
		return -1;
	}
	*nd = &s->nd;
	return 0;
}

const struct netdev_class net_stream_class = {
	.name = "stream",
	.desc = "a stream socket, each packet after its length (passt, QEMU)",
	.props = stream_props,
	.open = stream_open,
};
