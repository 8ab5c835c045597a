/* The kinds of network ends, and what they share: see net.h and internal.h. */
#include "net/internal.h"

#include "base/error.h"

#include <errno.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

const struct netdev_class *const *netdev_classes(void)
{
	static const struct netdev_class *const classes[] = {
		&net_stream_class,
		&net_tap_class,
		&net_user_class,
		NULL,
	};

	return classes;
}

size_t net_iov_size(const struct iovec *iov, int n)
{
	size_t size = 0;

	for (int i = 0; i < n; i++)
		size += iov[i].iov_len;
	return size;
}

int net_refuse(const struct props *props, const struct net_refusal *refusals, struct error **err)
{
	for (; refusals->name; refusals++) {
		if (props_given(props, refusals->name)) {
			error_set(err, "%s= is not supported: %s", refusals->name, refusals->why);
			return -1;
		}
	}
	return 0;
}

/* Signals are as a program started from a shell finds them, whatever we have made of ours. */
static int set_attributes(posix_spawnattr_t *attr, bool detached)
{
	short flags = POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF;
	sigset_t none, all;

	sigemptyset(&none);
	sigfillset(&all);
	if (detached)
		flags |= POSIX_SPAWN_SETSID;
	posix_spawnattr_setsigmask(attr, &none);
	posix_spawnattr_setsigdefault(attr, &all);
	return posix_spawnattr_setflags(attr, flags);
}

pid_t net_spawn(const char *const argv[], const int *fds, unsigned n, bool detached,
		struct error **err)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	pid_t pid;
	int errnum;

	posix_spawn_file_actions_init(&actions);
	posix_spawnattr_init(&attr);
	errnum = set_attributes(&attr, detached);
	for (unsigned i = 0; i < n && !errnum; i++) {
		if (fds[i] >= 0)
			errnum = posix_spawn_file_actions_adddup2(&actions, fds[i], i);
	}
	if (!errnum)
		errnum = posix_spawnp(&pid, argv[0], &actions, &attr, (char *const *)argv, environ);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&actions);
	if (!errnum)
		return pid;
	error_set_errno(err, errnum, "cannot run '%s'", argv[0]);
	return -1;
}

/* #syscalls:main wait4 */
int net_wait(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0) {
		if (errno != EINTR)
			return -1;
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
