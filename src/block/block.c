/*
 * Disks: see block.h. What an image is, as its properties say; requests are in request.c.
 *
 * Nothing is probed: an image is raw unless format= (or driver=) says otherwise, and raw and
 * "nothing" is all there is yet. What begins like another format gets a warning, no more.
 */
#include "block/internal.h"

#include "base/error.h"
#include "base/log.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

static const struct block_driver *const drivers[] = { &block_raw };

static const char *const cache_modes[] = { "none",       "writeback", "writethrough",
					   "directsync", "unsafe",    NULL };
static const char *const discard_modes[] = { "ignore", "off", "unmap", "on", NULL };
static const char *const detect_zeroes_modes[] = { "off", "on", "unmap", NULL };
static const char *const locking_modes[] = { "auto", "on", "off", NULL };
static const char *const report_only[] = { "report", NULL };
static const char *const interfaces[] = { "none", "virtio", "ide", NULL };
static const char *const media[] = { "disk", "cdrom", NULL };

const struct prop block_props[] = {
	{ "id", PROP_STRING, .help = "name devices know it by" },
	{ "node-name", PROP_STRING, .help = "name other nodes and QMP know it by" },
	{ "if", PROP_ENUM, .help = "what it is plugged in with", .choices = interfaces },
	{ "index", PROP_INT, .help = "which of that interface" },
	{ "media", PROP_ENUM, "disk", "what the guest sees", .choices = media },
	{ "file", PROP_STRING, .help = "the image; with driver=raw also the name of another node" },
	{ "filename", PROP_STRING, .help = "the image" },
	{ "file.filename", PROP_STRING, .alias_of = "filename" },
	{ "format", PROP_STRING, .help = "format of the image: raw" },
	{ "driver", PROP_STRING, .help = "raw, or how the file is reached: file, host_device" },
	{ "file.driver", PROP_STRING, .help = "how the file is reached: file, host_device" },
	{ "read-only", PROP_BOOL, "off", "never write to the image" },
	{ "readonly", PROP_BOOL, .alias_of = "read-only" },
	{ "file.read-only", PROP_BOOL, .alias_of = "read-only" },
	{ "auto-read-only", PROP_BOOL, "off", "open it read-only where it cannot be written" },
	{ "file.auto-read-only", PROP_BOOL, .alias_of = "auto-read-only" },
	{ "cache", PROP_ENUM, "writeback", "use of the host's page cache", .choices = cache_modes },
	{ "cache.direct", PROP_BOOL, .help = "by-pass the host's page cache (O_DIRECT)" },
	{ "file.cache.direct", PROP_BOOL, .alias_of = "cache.direct" },
	{ "cache.no-flush", PROP_BOOL, .help = "ignore flushes: a host crash loses the image" },
	{ "file.cache.no-flush", PROP_BOOL, .alias_of = "cache.no-flush" },
	{ "cache.writeback", PROP_BOOL, .help = "the disk has a write cache" },
	{ "aio", PROP_STRING, .help = "engine: io_uring, threads; io_uring where the host has it" },
	{ "file.aio", PROP_STRING, .alias_of = "aio" },
	{ "discard", PROP_ENUM, "ignore", "give back what the guest discards",
	  .choices = discard_modes },
	{ "file.discard", PROP_ENUM, .alias_of = "discard" },
	{ "detect-zeroes", PROP_ENUM, "off", "look for zeroes in writes",
	  .choices = detect_zeroes_modes },
	{ "locking", PROP_ENUM, "auto", "lock the image against other users",
	  .choices = locking_modes },
	{ "file.locking", PROP_ENUM, .alias_of = "locking" },
	{ "werror", PROP_ENUM, "report", "on a failed write", .choices = report_only },
	{ "rerror", PROP_ENUM, "report", "on a failed read", .choices = report_only },
	{},
};

static struct block *all; /* main thread's; newest first */

static int pick_driver(struct block *block, const char *name, const char *word, struct error **err)
{
	for (unsigned i = 0; i < ARRAY_SIZE(drivers); i++) {
		if (strcmp(drivers[i]->name, name) == 0) {
			block->driver = drivers[i];
			return 0;
		}
	}
	error_set(err, "%s '%s' is not supported; supported: raw", word, name);
	return -1;
}

/* driver= may say the format or the protocol. */
static int read_format(struct block *block, const struct props *props, struct error **err)
{
	const char *driver = props_str(props, "driver"), *format = props_str(props, "format");

	if (driver && (strcmp(driver, "file") == 0 || strcmp(driver, "host_device") == 0))
		driver = NULL;
	if (driver && format && strcmp(driver, format) != 0) {
		error_set(err, "driver=%s and format=%s contradict each other", driver, format);
		return -1;
	}
	if (driver)
		return pick_driver(block, driver, "driver", err);
	return pick_driver(block, format ? format : "raw", "format", err);
}

static const struct {
	const char *name;
	bool direct, no_flush, writeback;
} caches[] = {
	{ "none", true, false, true },           { "writeback", false, false, true },
	{ "writethrough", false, false, false }, { "directsync", true, false, false },
	{ "unsafe", false, true, true },
};

static void read_cache(struct block *block, const struct props *props)
{
	for (unsigned i = 0; i < ARRAY_SIZE(caches); i++) {
		if (strcmp(caches[i].name, props_str(props, "cache")) != 0)
			continue;
		block->direct = caches[i].direct;
		block->no_flush = caches[i].no_flush;
		block->info.write_cache = caches[i].writeback;
	}
	if (props_has(props, "cache.direct"))
		block->direct = props_bool(props, "cache.direct");
	if (props_has(props, "cache.no-flush"))
		block->no_flush = props_bool(props, "cache.no-flush");
	if (props_has(props, "cache.writeback"))
		block->info.write_cache = props_bool(props, "cache.writeback");
}

static int read_aio(struct block *block, const struct props *props, struct error **err)
{
	const char *aio = props_str(props, "aio");

	if (!aio) {
		block->aio = BLOCK_AIO_AUTO;
	} else if (strcmp(aio, "io_uring") == 0) {
		block->aio = BLOCK_AIO_URING;
	} else if (strcmp(aio, "threads") == 0) {
		block->aio = BLOCK_AIO_THREADS;
	} else {
		error_set(err, "aio=%s is not supported; supported: io_uring, threads", aio);
		return -1;
	}
	return 0;
}

static int read_zeroes(struct block *block, const struct props *props, struct error **err)
{
	const char *discard = props_str(props, "discard"),
		   *zeroes = props_str(props, "detect-zeroes");

	block->discard = strcmp(discard, "unmap") == 0 || strcmp(discard, "on") == 0;
	block->detect_zeroes = strcmp(zeroes, "off") == 0  ? DETECT_ZEROES_OFF
			       : strcmp(zeroes, "on") == 0 ? DETECT_ZEROES_ON
							   : DETECT_ZEROES_UNMAP;
	if (block->detect_zeroes == DETECT_ZEROES_UNMAP && !block->discard) {
		error_set(err, "detect-zeroes=unmap needs discard=unmap");
		return -1;
	}
	return 0;
}

static void read_locking(struct block *block, const struct props *props)
{
	const char *locking = props_str(props, "locking");

	block->locking = strcmp(locking, "on") == 0    ? BLOCK_LOCKING_ON
			 : strcmp(locking, "off") == 0 ? BLOCK_LOCKING_OFF
						       : BLOCK_LOCKING_AUTO;
}

static int read_props(struct block *block, const struct props *props, struct error **err)
{
	if (read_format(block, props, err) < 0 || read_aio(block, props, err) < 0 ||
	    read_zeroes(block, props, err) < 0)
		return -1;
	read_cache(block, props);
	read_locking(block, props);
	block->info.read_only = props_bool(props, "read-only") ||
				strcmp(props_str(props, "media"), "cdrom") == 0;
	return 0;
}

struct block *block_first(void)
{
	return all;
}

static struct block *find_node(const char *name)
{
	for (struct block *b = all; b; b = b->next)
		if ((b->node_name && strcmp(b->node_name, name) == 0) || strcmp(b->id, name) == 0)
			return b;
	return NULL;
}

/* A node over another: the same open file under another name. */
static int view_node(struct block *block, struct block *below, struct error **err)
{
	const bool read_only = block->info.read_only, write_cache = block->info.write_cache;

	if (below->above) {
		error_set(err, "node '%s' is in use by '%s' already", below->id, below->above->id);
		return -1;
	}
	if (below->info.read_only && !read_only) {
		error_set(err, "node '%s' is read-only; add read-only=on here too", below->id);
		return -1;
	}
	block->fd = fcntl(below->fd, F_DUPFD_CLOEXEC, 0);
	if (block->fd < 0) {
		error_set_errno(err, errno, "cannot duplicate the descriptor of '%s'", below->id);
		return -1;
	}
	block->filename = xstrdup(below->filename);
	block->device = below->device;
	block->direct = below->direct;
	block->no_flush |= below->no_flush;
	block->discard &= below->discard;
	block->aio = below->aio;
	block->locking = below->locking;
	block->mem_align = below->mem_align;
	block->info = below->info;
	block->info.read_only = read_only;
	block->info.write_cache = write_cache;
	block->info.discard = block->discard;
	block->below = below;
	below->above = block;
	return 0;
}

/* What a forgotten format= looks like. */
static void warn_of_format(const struct block *block)
{
	static const struct {
		const char *name, *magic;
		size_t size;
	} formats[] = { { "qcow2", "QFI\xfb", 4 },
			{ "vmdk", "KDMV", 4 },
			{ "vhdx", "vhdxfile", 8 } };
	char head[4096] __attribute__((aligned(4096)));

	if (pread(block->fd, head, sizeof(head), 0) < 8)
		return;
	for (unsigned i = 0; i < ARRAY_SIZE(formats); i++)
		if (memcmp(head, formats[i].magic, formats[i].size) == 0)
			log_warn("'%s' begins like a %s image; the guest gets it as it is, raw. "
				 "qemu-img convert -O raw makes a raw one of it",
				 block->filename, formats[i].name);
}

struct block *block_open(const char *id, const struct props *props, struct error **err)
{
	struct block *block = xcalloc(1, sizeof(*block));
	const char *driver = props_str(props, "driver"), *file = props_str(props, "file");
	struct block *below = driver && strcmp(driver, "raw") == 0 && file ? find_node(file) : NULL;

	block->fd = block->lock_fd = -1;
	block->id = xstrdup(id);
	if (props_has(props, "node-name"))
		block->node_name = xstrdup(props_str(props, "node-name"));
	if (read_props(block, props, err) < 0 ||
	    (below ? view_node(block, below, err) : file_open(block, props, err)) < 0 ||
	    (block->driver->open && block->driver->open(block, props, err) < 0)) {
		block_close(block);
		return NULL;
	}
	if (!props_has(props, "format") && !driver)
		warn_of_format(block);
	block->next = all;
	all = block;
	return block;
}

void block_close(struct block *block)
{
	if (!block)
		return;
	for (struct block **b = &all; *b; b = &(*b)->next) {
		if (*b == block) {
			*b = block->next;
			break;
		}
	}
	if (block->below)
		block->below->above = NULL;
	if (block->above)
		((struct block *)block->above)->below = NULL;
	if (block->driver && block->driver->close)
		block->driver->close(block);
	unlock_image(block);
	if (block->fd >= 0)
		close(block->fd);
	free(block->id);
	free(block->node_name);
	free(block->filename);
	free(block);
}

const char *block_id(const struct block *block)
{
	return block->id;
}

const char *block_filename(const struct block *block)
{
	return block->filename;
}

const char *block_format(const struct block *block)
{
	return block->driver->name;
}

void block_get_info(const struct block *block, struct block_info *info)
{
	*info = block->info;
}

/* #syscalls:main fstat newfstatat */
uint64_t block_allocated(const struct block *block)
{
	struct stat st;

	return fstat(block->fd, &st) < 0 ? 0 : (uint64_t)st.st_blocks * 512;
}

int block_lock(struct block *block, bool share_rw, struct error **err)
{
	if (block->above) {
		error_set(err, "node '%s' is in use by '%s'; use that one", block->id,
			  block->above->id);
		return -1;
	}
	return block->lock_fd >= 0 ? 0 : lock_image(block, share_rw, err);
}
