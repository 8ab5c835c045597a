/* Differential tests: the process that runs cases on the host's processor (host.c). */
#include "diff.h"

#include <err.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

struct diff_runner {
	pid_t pid;
	int fd;
	struct diff_shared *shared;
};

struct diff_runner *runner_start(const char *program, struct diff_shared **shared)
{
	struct diff_runner *r = calloc(1, sizeof(*r));
	int memory = memfd_create("diff", 0), pair[2];
	char number[16];

	if (!r || memory < 0 || ftruncate(memory, sizeof(**shared)) < 0 ||
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		err(2, "cannot start %s", program);
	*shared = r->shared =
		mmap(NULL, sizeof(**shared), PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
	if (r->shared == MAP_FAILED)
		err(2, "cannot map what is shared with %s", program);
	snprintf(number, sizeof(number), "%d", memory);
	r->pid = fork();
	if (r->pid == 0) {
		dup2(pair[1], 0);
		dup2(pair[1], 1);
		execl(program, program, number, NULL);
		err(127, "%s", program);
	}
	close(pair[1]);
	close(memory);
	r->fd = pair[0];
	return r;
}

void runner_stop(struct diff_runner *r)
{
	close(r->fd);
	waitpid(r->pid, NULL, 0);
	munmap(r->shared, sizeof(*r->shared));
	free(r);
}

void runner_submit(struct diff_runner *r, unsigned which)
{
	uint8_t byte = which;

	if (send(r->fd, &byte, 1, MSG_NOSIGNAL) != 1)
		warn("diff-host is gone");
}

bool runner_wait(struct diff_runner *r)
{
	uint8_t byte;

	return TEMP_FAILURE_RETRY(read(r->fd, &byte, 1)) == 1;
}
