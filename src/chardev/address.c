/* Where a socket listens or connects to: see address.h. */
#include "chardev/address.h"

#include "base/error.h"
#include "base/tidy.h"
#include "base/util.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define BACKLOG 1 /* there is one peer at a time; the next may wait */

/* --- unix ---- */

static int fill_unix(const char *path, struct sockaddr_un *un, struct error **err)
{
	size_t len = strlen(path), max = sizeof(un->sun_path) - 1;

	*un = (struct sockaddr_un){ .sun_family = AF_UNIX };
	if (len > max) {
		error_set(err, "unix socket path is %zu bytes, at most %zu: '%s'", len, max, path);
		return -1;
	}
	if (!len) {
		error_set(err, "unix socket path is empty");
		return -1;
	}
	memcpy(un->sun_path, path, len);
	return 0;
}

static int unix_connect(const char *path, struct error **err)
{
	int fd AUTO_CLOSE = -1;
	struct sockaddr_un un;

	if (fill_unix(path, &un, err) < 0)
		return -1;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&un, sizeof(un)) < 0) {
		error_set_errno(err, errno, "cannot connect to '%s'", path);
		return -1;
	}
	return TAKE_FD(fd);
}

/* QEMU removes whatever is there; we remove sockets, since anything else is a slip of the pen. */
static int make_way(const char *path, struct error **err)
{
	struct stat st;

	if (lstat(path, &st) < 0)
		return 0;
	if (!S_ISSOCK(st.st_mode)) {
		error_set(err, "'%s' is there already and is no socket; choose another path", path);
		return -1;
	}
	if (unlink(path) < 0) {
		error_set_errno(err, errno, "cannot replace the old socket '%s'", path);
		return -1;
	}
	return 0;
}

static int unix_listen(const char *path, struct error **err)
{
	int fd AUTO_CLOSE = -1;
	struct sockaddr_un un;

	if (fill_unix(path, &un, err) < 0 || make_way(path, err) < 0)
		return -1;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&un, sizeof(un)) < 0 || listen(fd, BACKLOG) < 0) {
		error_set_errno(err, errno, "cannot listen on '%s'", path);
		return -1;
	}
	return tidy_at_exit(path, err) < 0 ? -1 : TAKE_FD(fd);
}

/* --- TCP ---- */

static struct addrinfo *resolve(const struct address *a, bool passive, struct error **err)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM,
				  .ai_flags = passive ? AI_PASSIVE : 0 };
	const char *host = a->host && *a->host ? a->host : NULL;
	struct addrinfo *list = NULL;
	int r;

	if (a->ipv4 != a->ipv6)
		hints.ai_family = a->ipv4 ? AF_INET : AF_INET6;
	r = getaddrinfo(host, a->port, &hints, &list);
	if (r != 0) {
		error_set(err, "cannot find '%s' port '%s': %s", host ? host : "", a->port,
			  gai_strerror(r));
		return NULL;
	}
	return list;
}

static int try_tcp(const struct addrinfo *ai, bool passive, bool nodelay)
{
	int fd AUTO_CLOSE = -1;
	int on = 1, r;

	fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | (passive ? SOCK_NONBLOCK : 0), 0);
	if (fd < 0)
		return -1;
	/* What is set on a listener, accepted sockets inherit. */
	if (nodelay)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	if (passive) {
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
		r = bind(fd, ai->ai_addr, ai->ai_addrlen) < 0 ? -1 : listen(fd, BACKLOG);
	} else {
		r = connect(fd, ai->ai_addr, ai->ai_addrlen);
	}
	return r < 0 ? -1 : TAKE_FD(fd);
}

static int tcp_open(const struct address *a, bool passive, struct error **err)
{
	struct addrinfo *list = resolve(a, passive, err);
	int fd = -1;

	if (!list)
		return -1;
	for (struct addrinfo *ai = list; ai && fd < 0; ai = ai->ai_next)
		fd = try_tcp(ai, passive, a->nodelay);
	if (fd < 0)
		error_set_errno(err, errno, "cannot %s '%s' port '%s'",
				passive ? "listen on" : "connect to", a->host ? a->host : "",
				a->port);
	freeaddrinfo(list);
	return fd;
}

/* --- Both ---- */

int address_connect(const struct address *a, struct error **err)
{
	return a->path ? unix_connect(a->path, err) : tcp_open(a, false, err);
}

int address_listen(const struct address *a, struct error **err)
{
	return a->path ? unix_listen(a->path, err) : tcp_open(a, true, err);
}

char *address_text(const struct address *a, int listener)
{
	char host[NI_MAXHOST], port[NI_MAXSERV];
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);

	if (a->path)
		return xasprintf("unix:%s", a->path);
	if (listener < 0 || getsockname(listener, (struct sockaddr *)&ss, &len) < 0 ||
	    getnameinfo((struct sockaddr *)&ss, len, host, sizeof(host), port, sizeof(port),
			NI_NUMERICHOST | NI_NUMERICSERV) != 0)
		return xasprintf("tcp:%s:%s", a->host ? a->host : "", a->port);
	return xasprintf(ss.ss_family == AF_INET6 ? "tcp:[%s]:%s" : "tcp:%s:%s", host, port);
}
