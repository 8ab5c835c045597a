/*
 * The file behind an image: a regular file, or a block device of the host.
 *
 * Found out here, once: its size, what alignment O_DIRECT wants (by trying: file systems differ,
 * and tell it only since Linux 6.1), and for devices the sizes of their blocks.
 */
#include "block/internal.h"

#include "base/error.h"
#include "base/fdset.h"
#include "base/log.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#define MAX_ALIGN 4096u

static int check_driver(struct block *block, const struct props *props, mode_t mode,
			struct error **err)
{
	const char *driver = props_str(props, "file.driver");

	if (!driver && props_has(props, "driver") && strcmp(props_str(props, "driver"), "raw") != 0)
		driver = props_str(props, "driver");
	if (!S_ISREG(mode) && !S_ISBLK(mode)) {
		error_set(err, "'%s' is %s; an image is a regular file or a block device",
			  block->filename,
			  S_ISDIR(mode)   ? "a directory"
			  : S_ISCHR(mode) ? "a character device"
					  : "neither file nor device");
		return -1;
	}
	block->device = S_ISBLK(mode);
	if (!driver)
		return 0;
	if (strcmp(driver, "file") != 0 && strcmp(driver, "host_device") != 0) {
		error_set(err, "file.driver '%s' is not supported; supported: file, host_device",
			  driver);
		return -1;
	}
	if (strcmp(driver, "file") == 0 && block->device) {
		error_set(err,
			  "driver 'file' wants a regular file, '%s' is a block device; "
			  "use host_device",
			  block->filename);
		return -1;
	}
	if (strcmp(driver, "host_device") == 0 && !block->device) {
		error_set(err,
			  "driver 'host_device' wants a block device, '%s' is a file; use file",
			  block->filename);
		return -1;
	}
	return 0;
}

static void explain_open(const struct block *block, int errnum, struct error **err)
{
	const char *name = block->filename;

	if (errnum == EINVAL && block->direct)
		error_set(err,
			  "the file system of '%s' has no O_DIRECT, which cache=none and "
			  "cache.direct=on need; use cache=writeback",
			  name);
	else if ((errnum == EACCES || errnum == EROFS || errnum == EPERM) && !block->info.read_only)
		error_set_errno(err, errnum,
				"cannot open '%s' for writing (read-only=on opens it "
				"for reading)",
				name);
	else
		error_set_errno(err, errnum, "cannot open '%s'", name);
}

static int try_open(const struct block *block)
{
	int flags = O_CLOEXEC | O_NONBLOCK | (block->info.read_only ? O_RDONLY : O_RDWR) |
		    (block->direct ? O_DIRECT : 0);

	return fdset_open(block->filename, flags, 0);
}

/* Opens for writing unless told otherwise; O_NONBLOCK is there only for a FIFO not to hang us. */
static int open_fd(struct block *block, const struct props *props, struct error **err)
{
	block->fd = try_open(block);
	if (block->fd < 0 && !block->info.read_only && props_bool(props, "auto-read-only") &&
	    (errno == EACCES || errno == EROFS || errno == EPERM)) {
		block->info.read_only = true;
		block->fd = try_open(block);
	}
	if (block->fd < 0) {
		explain_open(block, errno, err);
		return -1;
	}
	return 0;
}

/* Descriptors from outside come with flags of their own. */
static int settle_flags(struct block *block, struct error **err)
{
	int flags = fcntl(block->fd, F_GETFL);

	if (flags < 0 || (!block->info.read_only && (flags & O_ACCMODE) != O_RDWR)) {
		error_set(err, "'%s' is not open for reading and writing; add read-only=on",
			  block->filename);
		return -1;
	}
	flags = (flags & ~(O_NONBLOCK | O_DIRECT)) | (block->direct ? O_DIRECT : 0);
	if (fcntl(block->fd, F_SETFL, flags) < 0) {
		explain_open(block, errno, err);
		return -1;
	}
	return 0;
}

/* The least alignment, of length and place or of memory, that a read succeeds with. */
static uint32_t probe_align(int fd, uint8_t *buf, bool memory)
{
	for (uint32_t align = 512; align < MAX_ALIGN; align *= 2)
		if (pread(fd, memory ? buf + align : buf, memory ? MAX_ALIGN : align, 0) >= 0)
			return align;
	return MAX_ALIGN;
}

static int probe_alignment(struct block *block, struct error **err)
{
	const size_t size = 2 * MAX_ALIGN;
	uint8_t *buf;

	block->info.request_align = block->mem_align = 1;
	if (!block->direct)
		return 0;
	buf = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (buf == MAP_FAILED || pread(block->fd, buf, MAX_ALIGN, 0) < 0) {
		error_set_errno(err, errno, "cannot read '%s'", block->filename);
		if (buf != MAP_FAILED)
			munmap(buf, size);
		return -1;
	}
	block->info.request_align = probe_align(block->fd, buf, false);
	block->mem_align = probe_align(block->fd, buf, true);
	munmap(buf, size);
	return 0;
}

/* An attribute of a device's request queue in sysfs; a partition shares its disk's. */
static uint32_t queue_attribute(dev_t dev, const char *name)
{
	static const char *const where[] = { "queue", "../queue" };
	unsigned long value = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(where); i++) {
		char path[128];
		FILE *f;

		snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%s/%s", major(dev), minor(dev),
			 where[i], name);
		f = fopen(path, "re");
		if (!f)
			continue;
		if (fscanf(f, "%lu", &value) != 1)
			value = 0;
		fclose(f);
		return value;
	}
	return 0;
}

static int device_limits(struct block *block, dev_t dev, struct error **err)
{
	struct block_info *info = &block->info;
	unsigned physical = 0;
	int read_only = 0;

	if (ioctl(block->fd, BLKGETSIZE64, &info->size) < 0) {
		error_set_errno(err, errno, "cannot find the size of '%s'", block->filename);
		return -1;
	}
	if (!info->read_only && ioctl(block->fd, BLKROGET, &read_only) == 0 && read_only) {
		error_set(err, "device '%s' is read-only; add read-only=on", block->filename);
		return -1;
	}
	if (ioctl(block->fd, BLKPBSZGET, &physical) == 0)
		info->physical_block_size = physical;
	info->opt_io_size = queue_attribute(dev, "optimal_io_size");
	info->discard_granularity = queue_attribute(dev, "discard_granularity");
	return 0;
}

static int find_limits(struct block *block, const struct stat *st, struct error **err)
{
	struct block_info *info = &block->info;

	info->physical_block_size = 512;
	if (block->device) {
		if (device_limits(block, st->st_rdev, err) < 0)
			return -1;
	} else {
		if ((uint64_t)st->st_size > INT64_MAX - 511) {
			error_set(err, "'%s' is too large", block->filename);
			return -1;
		}
		info->size = ALIGN_UP((uint64_t)st->st_size, 512);
		info->discard_granularity = st->st_blksize;
	}
	info->discard = block->discard;
	info->write_zeroes = true;
	return 0;
}

int file_open(struct block *block, const struct props *props, struct error **err)
{
	const char *name = props_has(props, "filename") ? props_str(props, "filename")
							: props_str(props, "file");
	struct stat st;

	if (!name || !*name) {
		error_set(err, "there is no image: file= names one");
		return -1;
	}
	block->filename = xstrdup(strncmp(name, "file:", 5) == 0 ? name + 5 : name);
	if (open_fd(block, props, err) < 0)
		return -1;
	if (fstat(block->fd, &st) < 0) {
		error_set_errno(err, errno, "cannot look at '%s'", block->filename);
		return -1;
	}
	if (check_driver(block, props, st.st_mode, err) < 0 || settle_flags(block, err) < 0 ||
	    find_limits(block, &st, err) < 0)
		return -1;
	return probe_alignment(block, err);
}
