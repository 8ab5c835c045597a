/* A child process that connects on our behalf: see connector.h. */
#include "chardev/connector.h"

#include "base/error.h"
#include "base/util.h"
#include "chardev/address.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

/* An answer is an errno value; with 0 comes a descriptor. */
static void send_answer(int fd, int connected, int errnum)
{
	struct iovec iov = { &errnum, sizeof(errnum) };
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control = {};
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (connected >= 0) {
		msg.msg_control = &control;
		msg.msg_controllen = sizeof(control.space);
		control.header = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof(int)),
						   .cmsg_level = SOL_SOCKET,
						   .cmsg_type = SCM_RIGHTS };
		memcpy(CMSG_DATA(&control.header), &connected, sizeof(int));
	}
	if (sendmsg(fd, &msg, MSG_NOSIGNAL) < 0)
		_exit(0);
}

static void serve(int fd, const struct address *address)
{
	char question;

	while (recv(fd, &question, 1, 0) == 1) {
		struct error *err = NULL;
		int connected = address_connect(address, &err);
		int errnum = connected < 0 ? error_errno(err) : 0;

		send_answer(fd, connected, connected < 0 && !errnum ? EHOSTUNREACH : errnum);
		if (connected >= 0)
			close(connected);
		error_free(err);
	}
	_exit(0);
}

/* A grandchild, so that nobody has to wait for it; a session of its own, so that no Ctrl-C reaches
 * it. */
static void become_connector(int fd, const struct address *address)
{
	if (fork() != 0)
		_exit(0);
	setsid();
	prctl(PR_SET_NAME, "revirter-conn");
	signal(SIGTERM, SIG_DFL);
	dup2(fd, 0);
	close_range(1, UINT_MAX, 0);
	serve(0, address);
}

int connector_start(const struct address *address, struct error **err)
{
	int fds[2];
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) < 0) {
		error_set_errno(err, errno, "cannot make a socket pair");
		return -1;
	}
	pid = fork();
	if (pid == 0)
		become_connector(fds[1], address);
	close(fds[1]);
	if (pid < 0) {
		error_set_errno(err, errno, "cannot start the process that reconnects");
		close(fds[0]);
		return -1;
	}
	waitpid(pid, NULL, 0);
	return fds[0];
}

/* #syscalls:main send */
void connector_ask(int fd)
{
	char question = 1;

	if (send(fd, &question, 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		return; /* it is gone: there will be no answer */
}

/* #syscalls:main recvmsg */
int connector_answer(int fd)
{
	int errnum = EPIPE, connected = -1;
	struct iovec iov = { &errnum, sizeof(errnum) };
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control = {};
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = &control,
			      .msg_controllen = sizeof(control.space) };
	struct cmsghdr *c;

	if (recvmsg(fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) <= 0) {
		errno = EPIPE;
		return -1;
	}
	c = CMSG_FIRSTHDR(&msg);
	if (c && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof(int)))
		memcpy(&connected, CMSG_DATA(c), sizeof(int));
	errno = errnum;
	return connected;
}
