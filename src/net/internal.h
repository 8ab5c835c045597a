/* What the kinds of network ends share. */
#ifndef REVIRT_NET_INTERNAL_H
#define REVIRT_NET_INTERNAL_H

#include "net/net.h"

#include <sys/types.h>

extern const struct netdev_class net_stream_class, net_tap_class, net_user_class;

/* A stream end over a connected socket, which it takes over. kind: a string constant. */
struct netdev *stream_from_fd(const char *id, const char *kind, int fd, struct loop *main_loop);

/* Sums what n pieces hold. */
size_t net_iov_size(const struct iovec *iov, int n);

/* Properties of QEMU's that are known here only to be refused, each with a reason. */
struct net_refusal {
	const char *name, *why;
};
/* The table ends with an entry without a name. Error: "helper= is not supported: why". */
int net_refuse(const struct props *props, const struct net_refusal *refusals, struct error **err);

/*
 * Starts a program with descriptor fds[i] as its i-th, for i below n (-1: ours), in a session of
 * its own when detached. argv[0] is looked for along PATH. Returns its pid, or -1.
 */
pid_t net_spawn(const char *const argv[], const int *fds, unsigned n, bool detached,
		struct error **err);
/* Waits for it to end: its exit status, or 128 and the signal's number. */
int net_wait(pid_t pid);

#endif
