/* Descriptors handed in from outside: see fdset.h. */
#include "base/fdset.h"

#include "base/error.h"
#include "base/props.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>

#define MAX_FDS 256
#define PREFIX  "/dev/fdset/"

struct member {
	int64_t set;
	int fd;
	char *opaque;
};

/* Ordered by set, then by age. */
static struct member members[MAX_FDS];
static unsigned n_members;

/* Members are ordered, so the first number that is not where it should be is free. */
static int64_t free_number(void)
{
	int64_t number = 0;

	for (unsigned i = 0; i < n_members; i++)
		if (members[i].set == number)
			number++;
	return number;
}

int64_t fdset_add(int64_t set, int fd, const char *opaque, struct error **err)
{
	unsigned i = 0;

	if (n_members == MAX_FDS) {
		error_set(err, "there are %d descriptors in sets, the most there can be", MAX_FDS);
		return -1;
	}
	if (set == FDSET_NEW)
		set = free_number();
	while (i < n_members && members[i].set <= set)
		i++;
	memmove(&members[i + 1], &members[i], (n_members - i) * sizeof(members[0]));
	members[i] = (struct member){ set, fd, opaque ? xstrdup(opaque) : NULL };
	n_members++;
	return set;
}

/* #syscalls:main close */
static void remove_member(unsigned i)
{
	close(members[i].fd);
	free(members[i].opaque);
	n_members--;
	memmove(&members[i], &members[i + 1], (n_members - i) * sizeof(members[0]));
}

int fdset_remove(int64_t set, int fd, struct error **err)
{
	unsigned removed = 0;

	for (unsigned i = 0; i < n_members;) {
		if (members[i].set == set && (fd < 0 || members[i].fd == fd)) {
			remove_member(i);
			removed++;
		} else {
			i++;
		}
	}
	if (removed)
		return 0;
	if (fd < 0)
		error_set(err, "File descriptor named 'fdset-id:%" PRId64 "' not found", set);
	else
		error_set(err, "File descriptor named 'fdset-id:%" PRId64 ", fd:%d' not found", set,
			  fd);
	return -1;
}

bool fdset_at(unsigned i, int64_t *set, int *fd, const char **opaque)
{
	if (i >= n_members)
		return false;
	*set = members[i].set;
	*fd = members[i].fd;
	*opaque = members[i].opaque;
	return true;
}

static int open_set(int64_t set, int flags)
{
	bool found = false;

	for (unsigned i = 0; i < n_members; i++) {
		if (members[i].set != set)
			continue;
		found = true;
		if ((fcntl(members[i].fd, F_GETFL) & O_ACCMODE) == (flags & O_ACCMODE))
			return fcntl(members[i].fd, F_DUPFD_CLOEXEC, 3);
	}
	errno = found ? EACCES : ENOENT;
	return -1;
}

int fdset_open(const char *path, int flags, mode_t mode)
{
	uint64_t set;

	if (strncmp(path, PREFIX, strlen(PREFIX)) != 0)
		return open(path, flags, mode);
	if (parse_u64(path + strlen(PREFIX), &set, NULL) < 0 || set > INT64_MAX) {
		errno = ENOENT;
		return -1;
	}
	return open_set(set, flags);
}
