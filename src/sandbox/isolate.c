/*
 * Leaving the host's namespaces and root directory.
 *
 * Namespaces. A new network namespace has no interface that is up; descriptors opened before (taps,
 * sockets) go on working. A new IPC namespace hides System V objects and message queues. Mounts and
 * the host name are out of reach without capabilities, so their namespaces are not worth the time
 * it takes to make and (at exit) to unmake them; a PID namespace would need a fork. Without
 * CAP_SYS_ADMIN, a user namespace comes first: it gives the capabilities to do all this, which are
 * dropped with the rest afterwards.
 *
 * The empty root is /proc/tty/ldisc, a directory that Linux keeps for old programs' sake: it has
 * been empty since 2.6.31, and nothing can be made in it. It spares a mount of an empty file
 * system, whose end would wait for all CPUs.
 */
#include "sandbox/layers.h"

#include "base/log.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

#define EMPTY_DIRECTORY "/proc/tty/ldisc"

static int make_namespaces(bool keep_network)
{
	int flags = CLONE_NEWIPC | (keep_network ? 0 : CLONE_NEWNET);

	if (unshare(flags) == 0)
		return 0;
	return errno == EPERM ? unshare(CLONE_NEWUSER | flags) : -1;
}

/* The working directory moves along: relative names would still lead out from the old one. */
static int empty_root(void)
{
	return chroot(EMPTY_DIRECTORY) < 0 || chdir("/") < 0 ? -1 : 0;
}

void sandbox_isolate(bool keep_network)
{
	if (make_namespaces(keep_network) < 0)
		log_item(LOG_UNIMP, "sandbox: no namespaces of its own: %s", strerror(errno));
	if (empty_root() < 0)
		log_item(LOG_UNIMP, "sandbox: the root directory stays: %s", strerror(errno));
}
