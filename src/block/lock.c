/*
 * Locks of image files, in QEMU's protocol (its file-posix driver), so that neither of us opens
 * what the other writes to.
 *
 * An image's users say what they do and what they let others do, in permission bits: read
 * consistently, write, write without a change to be seen, resize. Each is told by shared locks on
 * single bytes of the file, of the open-file-description kind: byte 100 + bit for "I do this", byte
 * 200 + bit for "nobody else may do this". Shared locks never conflict with each other; the
 * conflict is found by asking whether an exclusive lock could be had on the opposite bytes. First
 * lock, then look: of two who start at once, at least one sees the other.
 *
 * The locks are on a descriptor that is opened for them alone. An io_uring holds on to the open
 * file it was given for some milliseconds after it is closed, also when a process dies; locks on
 * that one would be met by whoever opens the image next.
 */
#include "block/internal.h"

#include "base/error.h"
#include "base/log.h"
#include "base/util.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define PERM_CONSISTENT_READ 0x1
#define PERM_WRITE           0x2
#define PERM_WRITE_UNCHANGED 0x4
#define PERM_RESIZE          0x8
#define PERM_BITS            4

#define PERM_BASE            100
#define UNSHARED_BASE        200

static struct flock byte_lock(short type, off_t byte)
{
	return (struct flock){ .l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1 };
}

static int lock_bytes(int fd, off_t base, unsigned bits)
{
	for (unsigned bit = 0; bit < PERM_BITS; bit++) {
		struct flock lock = byte_lock(F_RDLCK, base + bit);

		if (bits >> bit & 1 && fcntl(fd, F_OFD_SETLK, &lock) < 0)
			return -1;
	}
	return 0;
}

/* #syscalls:main fcntl=F_OFD_SETLK */
static void unlock_bytes(int fd)
{
	for (unsigned bit = 0; bit < PERM_BITS; bit++) {
		struct flock perm = byte_lock(F_UNLCK, PERM_BASE + bit);
		struct flock unshared = byte_lock(F_UNLCK, UNSHARED_BASE + bit);

		fcntl(fd, F_OFD_SETLK, &perm);
		fcntl(fd, F_OFD_SETLK, &unshared);
	}
}

/* Does anybody else hold one of these bytes? */
static bool held(int fd, off_t base, unsigned bits)
{
	for (unsigned bit = 0; bit < PERM_BITS; bit++) {
		struct flock lock = byte_lock(F_WRLCK, base + bit);

		if (bits >> bit & 1 && fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK)
			return true;
	}
	return false;
}

/* --- Who is it? ---- */

/* Does /proc/PID/fdinfo/FD tell of such locks? */
static bool has_ofd_lock(const char *pid, const char *fd)
{
	char path[64], line[256];
	bool found = false;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%.16s/fdinfo/%.16s", pid, fd);
	f = fopen(path, "re");
	while (f && !found && fgets(line, sizeof(line), f))
		found = strncmp(line, "lock:", 5) == 0 && strstr(line, "OFDLCK");
	if (f)
		fclose(f);
	return found;
}

static bool process_holds(const char *pid, const struct stat *image)
{
	char path[64];
	struct dirent *entry;
	bool found = false;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%.16s/fd", pid);
	dir = opendir(path);
	while (dir && !found && (entry = readdir(dir))) {
		struct stat st;

		found = fstatat(dirfd(dir), entry->d_name, &st, 0) == 0 &&
			st.st_dev == image->st_dev && st.st_ino == image->st_ino &&
			has_ofd_lock(pid, entry->d_name);
	}
	if (dir)
		closedir(dir);
	return found;
}

/*
 * The kernel does not say who holds such a lock; a process we may look into shows it. 0: unknown.
 * Ourselves only when nobody else does: we hold some bytes too by now.
 */
static pid_t find_holder(int fd)
{
	struct stat image;
	struct dirent *entry;
	pid_t holder = 0;
	DIR *proc = opendir("/proc");

	if (fstat(fd, &image) < 0 || !proc)
		return 0;
	while (!holder && (entry = readdir(proc))) {
		pid_t pid = atoi(entry->d_name);

		if (pid > 0 && pid != getpid() && process_holds(entry->d_name, &image))
			holder = pid;
	}
	closedir(proc);
	return holder;
}

/* Another node of this process with the same file. */
static bool opened_twice(const struct block *block, const struct block *others)
{
	struct stat a, b;

	for (const struct block *o = others; o; o = o->next)
		if (o != block && o->lock_fd >= 0 && fstat(o->fd, &b) == 0 &&
		    fstat(block->fd, &a) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino)
			return true;
	return false;
}

static void report_conflict(const struct block *block, struct error **err)
{
	const char *hint = block->info.read_only
				   ? "stop that one, or allow it with locking=off at your own risk"
				   : "stop that one, or use read-only=on or a copy";
	pid_t pid;

	if (opened_twice(block, block_first())) {
		error_set(err,
			  "file '%s' is the disk of two devices of this machine; with share-rw=on "
			  "on both they may share it",
			  block->filename);
		return;
	}
	pid = find_holder(block->fd);
	if (pid)
		error_set(err, "file '%s' is locked by another process (pid %d); %s",
			  block->filename, (int)pid, hint);
	else
		error_set(err, "file '%s' is locked by another process; %s", block->filename, hint);
}

/* A second open file; where it cannot be had (a descriptor from outside), the same once more. */
static int open_for_locks(int fd)
{
	char path[32];
	int lock_fd;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	lock_fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	return lock_fd >= 0 ? lock_fd : fcntl(fd, F_DUPFD_CLOEXEC, 0);
}

/* A host or file system without such locks. */
static int go_without(struct block *block, int errnum, struct error **err)
{
	if (block->locking == BLOCK_LOCKING_ON) {
		error_set_errno(err, errnum, "cannot lock '%s'", block->filename);
		return -1;
	}
	log_warn("'%s' is not locked against other users: %s", block->filename, strerror(errnum));
	return 0;
}

/* As QEMU's devices do: share reading and resizing, and writing only where it is asked for. */
static int take_locks(struct block *block, bool share_rw, struct error **err)
{
	const unsigned perm = PERM_CONSISTENT_READ | (block->info.read_only ? 0 : PERM_WRITE);
	const unsigned unshared = share_rw ? 0 : PERM_WRITE;
	const int fd = block->lock_fd;

	if (lock_bytes(fd, PERM_BASE, perm) == 0 && lock_bytes(fd, UNSHARED_BASE, unshared) == 0) {
		if (!held(fd, UNSHARED_BASE, perm) && !held(fd, PERM_BASE, unshared))
			return 0;
	} else if (errno != EAGAIN && errno != EACCES) { /* those: an exclusive lock, not QEMU's */
		return go_without(block, errno, err);
	}
	report_conflict(block, err);
	return -1;
}

int lock_image(struct block *block, bool share_rw, struct error **err)
{
	if (block->locking == BLOCK_LOCKING_OFF)
		return 0;
	block->lock_fd = open_for_locks(block->fd);
	if (block->lock_fd < 0) {
		error_set_errno(err, errno, "cannot open '%s' a second time, for its lock",
				block->filename);
		return -1;
	}
	if (take_locks(block, share_rw, err) == 0)
		return 0;
	unlock_image(block);
	return -1;
}

void unlock_image(struct block *block)
{
	if (block->lock_fd < 0)
		return;
	unlock_bytes(block->lock_fd);
	close(block->lock_fd);
	block->lock_fd = -1;
}
