/* Files that must not outlive the process: see tidy.h. */
#include "base/tidy.h"

#include "base/error.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#define MAX_FILES 64

/* What goes through the pipe: a file, or with an empty path the seal. */
struct file {
	dev_t dev;
	ino_t ino;
	char path[PATH_MAX];
};

/* One pipe a process is what there is to have: the child must outlive every part of the program. */
static int pipe_fd = -1;

static void remove_file(const struct file *file)
{
	struct stat st;

	if (lstat(file->path, &st) == 0 && st.st_dev == file->dev && st.st_ino == file->ino)
		unlink(file->path);
}

static bool read_record(int fd, struct file *file)
{
	size_t done = 0;

	while (done < sizeof(*file)) {
		ssize_t n = read(fd, (char *)file + done, sizeof(*file) - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		done += n;
	}
	file->path[PATH_MAX - 1] = '\0';
	return true;
}

/* The child: a session of its own, so that no Ctrl-C reaches it, holding nothing but the pipe. */
static void child(int fd)
{
	struct file *files = calloc(MAX_FILES, sizeof(*files));
	struct file next;
	unsigned n = 0;
	bool sealed = false;

	setsid();
	prctl(PR_SET_NAME, "revirter-tidy");
	dup2(fd, 0);
	close_range(1, UINT_MAX, 0);
	while (files && read_record(0, &next)) {
		sealed = sealed || !next.path[0];
		if (!sealed && n < MAX_FILES)
			files[n++] = next;
	}
	while (n)
		remove_file(&files[--n]);
	_exit(0);
}

static int start_child(struct error **err)
{
	int fds[2];
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC) < 0)
		goto fail;
	pid = fork();
	if (pid == 0) {
		close(fds[1]);
		child(fds[0]);
	}
	close(fds[0]);
	if (pid < 0) {
		close(fds[1]);
		goto fail;
	}
	/* Its end is of no interest: nobody waits for it, and init takes it over. */
	pipe_fd = fds[1];
	return 0;
fail:
	error_set_errno(err, errno, "cannot start the process that removes files at the end");
	return -1;
}

static int send_record(const struct file *file)
{
	return write(pipe_fd, file, sizeof(*file)) == sizeof(*file) ? 0 : -1;
}

int tidy_at_exit(const char *path, struct error **err)
{
	char *absolute AUTO_FREE = realpath(path, NULL);
	struct file file = {};
	struct stat st;

	if (!absolute || lstat(absolute, &st) < 0 || strlen(absolute) >= sizeof(file.path)) {
		error_set_errno(err, errno, "cannot look at '%s'", path);
		return -1;
	}
	if (pipe_fd < 0 && start_child(err) < 0)
		return -1;
	file.dev = st.st_dev;
	file.ino = st.st_ino;
	strcpy(file.path, absolute);
	if (send_record(&file) < 0) {
		error_set_errno(err, errno, "cannot have '%s' removed at the end", path);
		return -1;
	}
	return 0;
}

void tidy_seal(void)
{
	const struct file seal = {};

	if (pipe_fd >= 0 && send_record(&seal) < 0)
		return; /* it is gone: then there is nobody to take names either */
}

int tidy_fd(void)
{
	return pipe_fd;
}
