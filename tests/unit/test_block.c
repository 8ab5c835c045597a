/*
 * Images: what is opened and what is refused, locks against QEMU's own tools, and requests through
 * both engines against a model of the disk.
 */
#include "base/error.h"
#include "base/fdset.h"
#include "base/loop.h"
#include "base/util.h"
#include "block/block.h"

#include <stdarg.h>
#include <setjmp.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define IMAGE_SIZE (1 * MIB)

static char dir[] = "/tmp/revirt-test-block-XXXXXX";
static char image[64];

/* --- Helpers ---- */

static void make_file(const char *path, uint64_t size)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, size), 0);
	close(fd);
}

static int setup(void **state)
{
	if (!strstr(dir, "XXXXXX"))
		return 0;
	assert_non_null(mkdtemp(dir));
	snprintf(image, sizeof(image), "%s/disk.img", dir);
	return 0;
}

static int teardown(void **state)
{
	unlink(image);
	rmdir(dir);
	return 0;
}

static struct block *open_with(const char *file, const char *options, struct error **err)
{
	const struct prop *const tables[] = { block_props, NULL };
	char *text AUTO_FREE = xasprintf("%s%s%s%s", file ? "file=" : "", file ? file : "",
					 file && *options ? "," : "", options);
	struct props *props = props_parse(text, NULL, tables, err);
	struct block *block = props ? block_open("d0", props, err) : NULL;

	props_free(props);
	return block;
}

static struct block *must_open(const char *options)
{
	struct error *err ERROR_AUTO = NULL;
	struct block *block = open_with(image, options, &err);

	if (!block)
		fail_msg("%s: %s", options, error_message(err));
	return block;
}

static void must_refuse(const char *file, const char *options, const char *words)
{
	struct error *err ERROR_AUTO = NULL;

	assert_null(open_with(file, options, &err));
	if (!strstr(error_message(err), words))
		fail_msg("'%s' does not say '%s'", error_message(err), words);
	assert_null(strchr(error_message(err), '\n'));
}

/* One request at a time. */
static void note_result(struct block_request *req, int result)
{
	*(int *)req->opaque = result;
}

static int run(struct block_queue *queue, enum block_op op, unsigned flags, uint64_t offset,
	       uint64_t bytes, const struct iovec *iov, int n_iov)
{
	int result = 1;
	struct block_request req = {
		op, flags, offset, bytes, iov, n_iov, note_result, &result, {}
	};

	block_submit(queue, &req);
	assert_int_equal(result, 1); /* never from there */
	block_kick(queue);
	block_drain(queue);
	return result;
}

static int transfer(struct block_queue *queue, enum block_op op, uint64_t offset, void *buf,
		    size_t len)
{
	struct iovec iov = { buf, len };

	return run(queue, op, 0, offset, len, &iov, 1);
}

struct disk {
	struct loop *loop;
	struct block *block;
	struct block_queue *queue;
};

static struct disk open_disk(const char *options)
{
	struct error *err ERROR_AUTO = NULL;
	struct disk d;

	d.loop = loop_new(NULL);
	assert_non_null(d.loop);
	d.block = must_open(options);
	if (block_lock(d.block, false, &err) < 0)
		fail_msg("%s", error_message(err));
	d.queue = block_queue_new(d.block, d.loop, 64, NULL);
	assert_non_null(d.queue);
	assert_int_equal(block_start_threads(NULL, NULL), 0);
	return d;
}

static void close_disk(struct disk *d)
{
	block_queue_free(d->queue);
	block_close(d->block);
	loop_free(d->loop);
}

/* --- Opening ---- */

static void refusals(void **state)
{
	make_file(image, IMAGE_SIZE);
	must_refuse("/nonexistent/x.img", "", "cannot open '/nonexistent/x.img'");
	must_refuse(NULL, "format=raw", "file= names one");
	must_refuse(dir, "read-only=on", "is a directory");
	must_refuse("/dev/null", "", "is a character device");
	must_refuse(image, "format=qcow2", "format 'qcow2' is not supported; supported: raw");
	must_refuse(image, "driver=qcow2", "driver 'qcow2' is not supported; supported: raw");
	must_refuse(image, "driver=raw,format=vmdk", "contradict");
	must_refuse(image, "file.driver=nbd", "file.driver 'nbd' is not supported");
	must_refuse(image, "file.driver=host_device", "is a file; use file");
	must_refuse(image, "aio=native",
		    "aio=native is not supported; supported: io_uring, threads");
	must_refuse(image, "detect-zeroes=unmap", "needs discard=unmap");
	must_refuse(image, "cache=sometimes", "cache");
	must_refuse(image, "werror=enospc", "werror");
	must_refuse(image, "nonsense=1", "nonsense");
}

static void spellings(void **state)
{
	static const char *const ok[] = {
		"",
		"format=raw,if=none,media=disk,index=3",
		"driver=file",
		"driver=raw",
		"file.driver=file,format=raw,node-name=n",
		"readonly=on",
		"discard=on,detect-zeroes=unmap",
		"cache.direct=off,cache.no-flush=on,aio=threads",
		"werror=report,rerror=report,locking=off",
	};

	make_file(image, IMAGE_SIZE);
	for (unsigned i = 0; i < ARRAY_SIZE(ok); i++) {
		struct block *block = must_open(ok[i]);

		assert_string_equal(block_format(block), "raw");
		assert_string_equal(block_filename(block), image);
		block_close(block);
	}
}

static void facts(void **state)
{
	struct block_info info;
	struct block *block;

	make_file(image, 1000);
	block = must_open("cache=writethrough");
	block_get_info(block, &info);
	assert_int_equal(info.size, 1024);
	assert_false(info.read_only);
	assert_false(info.write_cache);
	assert_false(info.discard);
	assert_int_equal(info.request_align, 1);
	block_close(block);

	make_file(image, 0);
	block = must_open("read-only=on,discard=unmap");
	block_get_info(block, &info);
	assert_int_equal(info.size, 0);
	assert_true(info.read_only);
	assert_true(info.write_cache);
	assert_true(info.discard);
	block_close(block);

	make_file(image, IMAGE_SIZE);
	block = must_open("media=cdrom,cache=none");
	block_get_info(block, &info);
	assert_true(info.read_only);
	assert_in_range(info.request_align, 512, 4096);
	block_close(block);
}

static void from_a_descriptor(void **state)
{
	struct error *err ERROR_AUTO = NULL;
	struct block *block;
	int64_t set;
	char path[32];

	make_file(image, IMAGE_SIZE);
	set = fdset_add(FDSET_NEW, open(image, O_RDONLY | O_CLOEXEC), NULL, NULL);
	assert_true(set >= 0);
	snprintf(path, sizeof(path), "/dev/fdset/%d", (int)set);
	must_refuse(path, "", "for writing");
	block = open_with(path, "read-only=on", &err);
	assert_non_null(block);
	block_close(block);
	assert_int_equal(fdset_remove(set, -1, NULL), 0);
}

/* libvirt's way: -blockdev driver=file, and one of driver=raw over it. */
static void a_node_over_another(void **state)
{
	const struct prop *const tables[] = { block_props, NULL };
	char *text AUTO_FREE = NULL;
	struct error *err = NULL;
	struct props *props;
	struct block *file, *raw;
	struct block_info info;

	make_file(image, IMAGE_SIZE);
	text = xasprintf("driver=file,filename=%s,node-name=storage,discard=unmap", image);
	props = props_parse(text, NULL, tables, &err);
	file = block_open("storage", props, &err);
	assert_non_null(file);
	props_free(props);

	props = props_parse("driver=raw,file=storage,node-name=format,read-only=on", NULL, tables,
			    &err);
	raw = block_open("format", props, &err);
	assert_non_null(raw);
	block_get_info(raw, &info);
	assert_true(info.read_only);
	assert_false(info.discard); /* both would have to say so */
	assert_int_equal(info.size, IMAGE_SIZE);
	assert_null(block_open("second", props, &err));
	assert_non_null(strstr(error_message(err), "'storage' is in use by 'format'"));
	error_free(err);
	err = NULL;
	props_free(props);

	assert_int_equal(block_lock(file, false, &err), -1);
	error_free(err);
	assert_int_equal(block_lock(raw, false, NULL), 0);
	block_close(raw);
	assert_int_equal(block_lock(file, false, NULL), 0);
	block_close(file);
}

/* --- Locks ---- */

static void locks_among_ourselves(void **state)
{
	struct error *err = NULL;
	struct block *a, *b;

	make_file(image, IMAGE_SIZE);
	a = must_open("");
	b = must_open("");
	assert_int_equal(block_lock(a, false, NULL), 0);
	assert_int_equal(block_lock(b, false, &err), -1);
	assert_non_null(strstr(error_message(err), "two devices of this machine"));
	error_free(err);
	err = NULL;
	block_close(a);
	assert_int_equal(block_lock(b, false, NULL), 0); /* nothing was left behind */
	block_close(b);

	a = must_open("");
	b = must_open("");
	assert_int_equal(block_lock(a, true, NULL), 0);
	assert_int_equal(block_lock(b, true, NULL), 0);
	block_close(a);
	block_close(b);

	a = must_open("read-only=on");
	b = must_open("read-only=on");
	assert_int_equal(block_lock(a, false, NULL), 0);
	assert_int_equal(block_lock(b, false, NULL), 0);
	block_close(b);
	b = must_open("");
	assert_int_equal(block_lock(b, true, NULL), -1); /* a does not let others write */
	block_close(b);
	b = must_open("locking=off");
	assert_int_equal(block_lock(b, false, NULL), 0);
	block_close(b);
	block_close(a);
}

/* Runs a command; its output in out; returns its exit status. */
static int command(char *out, size_t size, const char *fmt, const char *arg)
{
	char *line AUTO_FREE = xasprintf(fmt, arg);
	FILE *f = popen(line, "r");
	size_t n;

	assert_non_null(f);
	n = fread(out, 1, size - 1, f);
	out[n] = '\0';
	return WEXITSTATUS(pclose(f));
}

static void qemu_meets_our_lock(void **state)
{
	static const struct {
		const char *options, *command;
		bool share, works;
	} cases[] = {
		{ "", "qemu-io -f raw -c 'write 0 512' %s 2>&1", false, false },
		{ "", "qemu-io -r -f raw -c 'read 0 512' %s 2>&1", false, true },
		{ "", "qemu-io -r -U -f raw -c 'read 0 512' %s 2>&1", false, true },
		{ "", "qemu-img resize -f raw %s 2M 2>&1", false, false },
		{ "", "qemu-io -f raw -c 'write 0 512' %s 2>&1", true, true },
		{ "read-only=on", "qemu-io -f raw -c 'write 0 512' %s 2>&1", false, false },
		{ "read-only=on", "qemu-io -r -f raw -c 'read 0 512' %s 2>&1", false, true },
		{ "locking=off", "qemu-io -f raw -c 'write 0 512' %s 2>&1", false, true },
	};
	char out[4096];

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct block *block;
		int status;

		make_file(image, IMAGE_SIZE);
		block = must_open(cases[i].options);
		assert_int_equal(block_lock(block, cases[i].share, NULL), 0);
		status = command(out, sizeof(out), cases[i].command, image);
		if ((status == 0) != cases[i].works)
			fail_msg("%u: %s: %d: %s", i, cases[i].command, status, out);
		if (!cases[i].works)
			assert_non_null(strstr(out, "lock"));
		block_close(block);
		status =
			command(out, sizeof(out), "qemu-io -f raw -c 'write 0 512' %s 2>&1", image);
		assert_int_equal(status, 0);
	}
}

/* A QEMU with the image for a disk; returns when it has locked it. */
static pid_t start_qemu(const char *options)
{
	char *drive AUTO_FREE = xasprintf("file=%s,format=raw,if=virtio%s", image, options);
	int fd = open(image, O_RDWR | O_CLOEXEC);
	struct flock lock;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		freopen("/dev/null", "w", stderr);
		execlp("qemu-system-x86_64", "qemu-system-x86_64", "-M", "q35", "-accel", "tcg",
		       "-m", "16", "-nodefaults", "-display", "none", "-S", "-drive", drive,
		       (char *)NULL);
		_exit(127);
	}
	for (unsigned i = 0; i < 1000; i++) {
		/* the byte for "nobody else may write" */
		lock = (struct flock){ .l_type = F_WRLCK, .l_start = 201, .l_len = 1 };
		assert_int_equal(fcntl(fd, F_OFD_GETLK, &lock), 0);
		if (lock.l_type != F_UNLCK)
			break;
		assert_int_equal(waitpid(pid, NULL, WNOHANG), 0);
		usleep(10000);
	}
	close(fd);
	return pid;
}

static void we_meet_qemus_lock(void **state)
{
	static const struct {
		const char *qemu, *options;
		bool share, works;
	} cases[] = {
		{ "", "", false, false },
		{ "", "", true, false },
		{ "", "read-only=on", false, false },
		{ "", "read-only=on", true, true },
		{ "", "locking=off", false, true },
		{ ",readonly=on", "", false, false },
		{ ",readonly=on", "read-only=on", false, true },
	};

	make_file(image, IMAGE_SIZE);
	for (unsigned i = 0; i < ARRAY_SIZE(cases);) {
		const char *qemu = cases[i].qemu;
		pid_t pid = start_qemu(qemu);
		char who[32];

		snprintf(who, sizeof(who), "(pid %d)", (int)pid);
		for (; i < ARRAY_SIZE(cases) && strcmp(cases[i].qemu, qemu) == 0; i++) {
			struct error *err ERROR_AUTO = NULL;
			struct block *block = must_open(cases[i].options);

			assert_int_equal(block_lock(block, cases[i].share, &err),
					 cases[i].works ? 0 : -1);
			if (!cases[i].works && !strstr(error_message(err), who))
				fail_msg("%s", error_message(err));
			block_close(block);
		}
		kill(pid, SIGTERM);
		waitpid(pid, NULL, 0);
	}
}

/* --- Requests ---- */

static const char *const engines[] = { "aio=io_uring", "aio=threads" };
static const char *const caches[] = { "none", "writeback", "writethrough", "directsync", "unsafe" };

static void plain_requests(void **state)
{
	static uint8_t data[8192] __attribute__((aligned(4096)));
	static uint8_t back[8192] __attribute__((aligned(4096)));

	for (unsigned i = 0; i < ARRAY_SIZE(engines) * ARRAY_SIZE(caches); i++) {
		char *options AUTO_FREE = xasprintf("%s,cache=%s", engines[i % 2], caches[i / 2]);
		struct disk d;

		make_file(image, IMAGE_SIZE);
		d = open_disk(options);
		memset(data, 0x40 + i, sizeof(data));
		assert_int_equal(transfer(d.queue, BLOCK_WRITE, 4096, data, 8192), 0);
		assert_int_equal(run(d.queue, BLOCK_FLUSH, 0, 0, 0, NULL, 0), 0);
		assert_int_equal(transfer(d.queue, BLOCK_READ, 4096, back, 8192), 0);
		assert_memory_equal(data, back, 8192);
		/* buffers O_DIRECT does not like */
		memset(data, 0x80 + i, sizeof(data));
		assert_int_equal(transfer(d.queue, BLOCK_WRITE, 8192, data + 3, 4096), 0);
		assert_int_equal(transfer(d.queue, BLOCK_READ, 4096, back + 1, 4096 + 512), 0);
		assert_int_equal(back[1], 0x40 + i);
		assert_int_equal(back[4097], 0x80 + i);
		assert_int_equal(run(d.queue, BLOCK_WRITE, BLOCK_REQ_FUA, 0, 512,
				     &(struct iovec){ data, 512 }, 1),
				 0);
		close_disk(&d);
	}
}

static void bounds(void **state)
{
	static uint8_t buf[1024];
	struct disk d;

	make_file(image, IMAGE_SIZE);
	d = open_disk("");
	assert_int_equal(transfer(d.queue, BLOCK_READ, IMAGE_SIZE - 512, buf, 1024), -EIO);
	assert_int_equal(transfer(d.queue, BLOCK_READ, IMAGE_SIZE, buf, 512), -EIO);
	assert_int_equal(transfer(d.queue, BLOCK_WRITE, UINT64_MAX - 511, buf, 512), -EIO);
	assert_int_equal(run(d.queue, BLOCK_DISCARD, 0, 512, UINT64_MAX - 511, NULL, 0), -EIO);
	assert_int_equal(run(d.queue, BLOCK_WRITE_ZEROES, 0, UINT64_MAX - 511, 1024, NULL, 0),
			 -EIO);
	assert_int_equal(run(d.queue, BLOCK_READ, 0, 512, 0, NULL, 0), 0);
	close_disk(&d);

	d = open_disk("read-only=on");
	assert_int_equal(transfer(d.queue, BLOCK_READ, 0, buf, 512), 0);
	assert_int_equal(transfer(d.queue, BLOCK_WRITE, 0, buf, 512), -EROFS);
	assert_int_equal(run(d.queue, BLOCK_DISCARD, 0, 0, 512, NULL, 0), -EROFS);
	assert_int_equal(run(d.queue, BLOCK_WRITE_ZEROES, 0, 0, 512, NULL, 0), -EROFS);
	assert_int_equal(run(d.queue, BLOCK_FLUSH, 0, 0, 0, NULL, 0), 0);
	close_disk(&d);
}

/* An image whose size is no multiple of 512, and one that is cut short under us. */
static void past_the_end(void **state)
{
	static uint8_t buf[4096] __attribute__((aligned(4096)));

	for (unsigned i = 0; i < 4; i++) {
		char *options AUTO_FREE =
			xasprintf("%s,cache=%s", engines[i % 2], i / 2 ? "none" : "writeback");
		struct disk d;
		struct stat st;

		make_file(image, 4096 + 700);
		d = open_disk(options);
		memset(buf, 0xee, sizeof(buf));
		assert_int_equal(transfer(d.queue, BLOCK_WRITE, 0, buf, 4096), 0);
		assert_int_equal(transfer(d.queue, BLOCK_READ, 4096, buf, 1024), 0);
		for (unsigned k = 0; k < 1024; k++)
			assert_int_equal(buf[k], 0);
		memset(buf, 0xdd, sizeof(buf));
		assert_int_equal(transfer(d.queue, BLOCK_WRITE, 4096 + 512, buf, 512), 0);
		assert_int_equal(stat(image, &st), 0);
		assert_int_equal(st.st_size, 4096 + 1024);

		assert_int_equal(truncate(image, 512), 0);
		memset(buf, 0xcc, sizeof(buf));
		assert_int_equal(transfer(d.queue, BLOCK_READ, 0, buf, 4096), 0);
		assert_int_equal(buf[511], 0xee);
		assert_int_equal(buf[512], 0);
		assert_int_equal(buf[4095], 0);
		close_disk(&d);
	}
}

static uint64_t allocated(void)
{
	struct stat st;

	assert_int_equal(stat(image, &st), 0);
	return st.st_blocks * 512ull;
}

static void fill(struct disk *d)
{
	uint8_t *buf AUTO_FREE = xcalloc(1, IMAGE_SIZE);

	memset(buf, 0xaa, IMAGE_SIZE);
	assert_int_equal(transfer(d->queue, BLOCK_WRITE, 0, buf, IMAGE_SIZE), 0);
	assert_int_equal(run(d->queue, BLOCK_FLUSH, 0, 0, 0, NULL, 0), 0);
}

static void assert_byte(struct disk *d, uint64_t offset, uint8_t value)
{
	uint8_t buf[512];

	assert_int_equal(transfer(d->queue, BLOCK_READ, ALIGN_DOWN(offset, 512), buf, 512), 0);
	assert_int_equal(buf[offset % 512], value);
}

static void discards_and_zeroes(void **state)
{
	static uint8_t zero[64 * 1024];

	for (unsigned i = 0; i < ARRAY_SIZE(engines); i++) {
		char *plain AUTO_FREE = xasprintf("%s", engines[i]);
		char *unmap AUTO_FREE = xasprintf("%s,discard=unmap", engines[i]);
		char *on AUTO_FREE = xasprintf("%s,detect-zeroes=on", engines[i]);
		char *both AUTO_FREE =
			xasprintf("%s,discard=unmap,detect-zeroes=unmap", engines[i]);
		struct disk d;

		make_file(image, IMAGE_SIZE);
		d = open_disk(plain);
		fill(&d);
		assert_int_equal(run(d.queue, BLOCK_DISCARD, 0, 0, 512 * KIB, NULL, 0), 0);
		assert_true(allocated() >= IMAGE_SIZE);
		assert_byte(&d, 0, 0xaa); /* ignored */
		assert_int_equal(run(d.queue, BLOCK_WRITE_ZEROES, BLOCK_REQ_UNMAP | BLOCK_REQ_FUA,
				     4096, 8192, NULL, 0),
				 0);
		assert_byte(&d, 4095, 0xaa);
		assert_byte(&d, 4096, 0);
		assert_byte(&d, 12287, 0);
		assert_byte(&d, 12288, 0xaa);
		assert_true(allocated() >= IMAGE_SIZE);
		close_disk(&d);

		d = open_disk(unmap);
		fill(&d);
		assert_int_equal(run(d.queue, BLOCK_DISCARD, 0, 0, 512 * KIB, NULL, 0), 0);
		assert_true(allocated() < 600 * KIB);
		assert_byte(&d, 0, 0);
		assert_int_equal(run(d.queue, BLOCK_WRITE_ZEROES, BLOCK_REQ_UNMAP, 512 * KIB,
				     256 * KIB, NULL, 0),
				 0);
		assert_true(allocated() < 300 * KIB);
		assert_byte(&d, 512 * KIB, 0);
		assert_byte(&d, 768 * KIB, 0xaa);
		close_disk(&d);

		d = open_disk(on);
		fill(&d);
		assert_int_equal(transfer(d.queue, BLOCK_WRITE, 0, zero, sizeof(zero)), 0);
		assert_byte(&d, 0, 0);
		assert_byte(&d, sizeof(zero), 0xaa);
		assert_true(allocated() >= IMAGE_SIZE);
		close_disk(&d);

		d = open_disk(both);
		fill(&d);
		assert_int_equal(transfer(d.queue, BLOCK_WRITE, 64 * KIB, zero, sizeof(zero)), 0);
		assert_byte(&d, 64 * KIB, 0);
		assert_true(allocated() <= IMAGE_SIZE - 60 * KIB);
		close_disk(&d);
	}
}

/* A file system without fallocate(): zeroes are written out. */
static void zeroes_the_hard_way(void **state)
{
	struct disk d;

	/* FALLOC_FL_ZERO_RANGE is unknown to tmpfs. */
	strcpy(image, "/dev/shm/revirt-test-block.img");
	make_file(image, IMAGE_SIZE);
	d = open_disk("");
	fill(&d);
	assert_int_equal(run(d.queue, BLOCK_WRITE_ZEROES, 0, 4096, 300 * KIB, NULL, 0), 0);
	assert_byte(&d, 4095, 0xaa);
	assert_byte(&d, 4096, 0);
	assert_byte(&d, 4096 + 300 * KIB - 1, 0);
	assert_byte(&d, 4096 + 300 * KIB, 0xaa);
	close_disk(&d);
	unlink(image);
	snprintf(image, sizeof(image), "%s/disk.img", dir);
}

/* --- At random, many at once, against a model ---- */

#define SLOTS   32
#define REGION  (IMAGE_SIZE / SLOTS) /* each slot has its own: no two requests overlap */
#define N_STEPS 3000

struct slot {
	struct block_request req;
	struct iovec iov[8];
	uint8_t *buf; /* REGION + 64 */
	uint8_t *model;
	uint64_t base;
	bool busy;
};

static struct slot slots[SLOTS];
static unsigned n_done, n_batches;

static void check_slot(struct block_request *req, int result)
{
	struct slot *s = req->opaque;
	uint8_t *model = s->model + (req->offset - s->base);
	uint64_t at = 0;

	assert_int_equal(result, 0);
	if (req->op == BLOCK_READ) {
		for (int i = 0; i < req->n_iov; at += req->iov[i++].iov_len)
			assert_memory_equal(req->iov[i].iov_base, model + at, req->iov[i].iov_len);
	}
	s->busy = false;
	n_done++;
}

static void count_batch(void *opaque)
{
	n_batches++;
}

/* Cuts a buffer into pieces, aligned or not. */
static void cut(struct slot *s, uint64_t bytes, bool aligned)
{
	uint8_t *p = s->buf + (aligned ? 0 : rand() % 64);
	unsigned n = 0;

	while (bytes) {
		uint64_t len = n == ARRAY_SIZE(s->iov) - 1 ? bytes : 1 + rand() % bytes;

		if (aligned && n < ARRAY_SIZE(s->iov) - 1)
			len = MIN(bytes, ALIGN_UP(len, 4096));
		s->iov[n++] = (struct iovec){ p, len };
		p += len;
		bytes -= len;
	}
	s->req.iov = s->iov;
	s->req.n_iov = n;
}

static void random_request(struct slot *s)
{
	static const enum block_op ops[] = { BLOCK_READ,  BLOCK_READ,         BLOCK_WRITE,
					     BLOCK_WRITE, BLOCK_WRITE_ZEROES, BLOCK_FLUSH };
	const enum block_op op = ops[rand() % ARRAY_SIZE(ops)];
	uint64_t offset = 512 * (rand() % (REGION / 512));
	uint64_t bytes = 512 * (1 + rand() % ((REGION - offset) / 512));
	uint8_t *model = s->model + offset;

	s->req = (struct block_request){ .op = op,
					 .offset = s->base + offset,
					 .bytes = bytes,
					 .done = check_slot,
					 .opaque = s };
	s->req.flags = rand() % 4 ? 0 : BLOCK_REQ_FUA | BLOCK_REQ_UNMAP;
	if (op == BLOCK_READ || op == BLOCK_WRITE)
		cut(s, bytes, rand() % 2);
	if (op == BLOCK_WRITE) {
		const bool zero = rand() % 4 == 0;

		for (int i = 0; i < s->req.n_iov; i++) {
			uint8_t *p = s->iov[i].iov_base;

			for (size_t k = 0; k < s->iov[i].iov_len; k++)
				*model++ = p[k] = zero ? 0 : rand();
		}
	} else if (op == BLOCK_WRITE_ZEROES) {
		memset(model, 0, bytes);
	}
	s->busy = true;
}

static void stop_when_idle(void *opaque)
{
	loop_stop(opaque);
}

static void random_requests(const char *options)
{
	unsigned submitted = 0;
	uint8_t *content AUTO_FREE = xcalloc(1, IMAGE_SIZE);
	struct disk d;
	int fd;

	make_file(image, IMAGE_SIZE);
	d = open_disk(options);
	block_queue_on_batch(d.queue, count_batch, NULL);
	n_done = n_batches = 0;
	for (unsigned i = 0; i < SLOTS; i++) {
		slots[i].base = i * REGION;
		slots[i].model = xcalloc(1, REGION);
		assert_int_equal(posix_memalign((void **)&slots[i].buf, 4096, REGION + 4096), 0);
		slots[i].busy = false;
	}
	while (submitted < N_STEPS) {
		for (unsigned i = rand() % 8; i; i--) {
			struct slot *s = &slots[rand() % SLOTS];

			if (s->busy)
				continue;
			random_request(s);
			block_submit(d.queue, &s->req);
			submitted++;
		}
		block_kick(d.queue);
		if (rand() % 50 == 0) {
			block_drain(d.queue);
		} else {
			/* One turn of the loop: what is ready, then ourselves. */
			struct loop_call stop = { .fn = stop_when_idle, .opaque = d.loop };

			loop_post(d.loop, &stop);
			loop_run(d.loop);
		}
	}
	block_drain(d.queue);
	assert_int_equal(n_done, submitted);
	assert_true(n_batches > 0);
	close_disk(&d);

	fd = open(image, O_RDONLY | O_CLOEXEC);
	assert_int_equal(pread(fd, content, IMAGE_SIZE, 0), IMAGE_SIZE);
	close(fd);
	for (unsigned i = 0; i < SLOTS; i++) {
		assert_memory_equal(content + slots[i].base, slots[i].model, REGION);
		free(slots[i].model);
		free(slots[i].buf);
	}
}

static void random_uring(void **state)
{
	random_requests("aio=io_uring");
}

static void random_uring_direct(void **state)
{
	random_requests("aio=io_uring,cache=none,discard=unmap,detect-zeroes=unmap");
}

static void random_threads(void **state)
{
	random_requests("aio=threads,detect-zeroes=on");
}

static void random_threads_direct(void **state)
{
	random_requests("aio=threads,cache=directsync,discard=unmap");
}

/* --- A completion that submits, kicks and drains ---- */

struct chainer {
	struct disk d;
	struct block_request req;
	struct iovec iov;
	uint8_t buf[512];
	unsigned left, depth;
};

static void next_link(struct block_request *req, int result)
{
	struct chainer *c = req->opaque;

	assert_int_equal(result, 0);
	assert_int_equal(c->depth, 0); /* never inside itself */
	c->depth++;
	if (c->left--) {
		c->req.op = c->left % 3 ? BLOCK_FLUSH : BLOCK_READ;
		block_submit(c->d.queue, &c->req);
		block_kick(c->d.queue);
	}
	c->depth--;
}

static void completions_submit(void **state)
{
	struct chainer c = { .left = 50000 };

	make_file(image, IMAGE_SIZE);
	c.d = open_disk("cache=unsafe");
	c.iov = (struct iovec){ c.buf, 512 };
	c.req = (struct block_request){ BLOCK_FLUSH, 0, 0, 512, &c.iov, 1, next_link, &c, {} };
	block_submit(c.d.queue, &c.req);
	block_kick(c.d.queue);
	block_drain(c.d.queue);
	assert_int_equal(c.left, UINT32_MAX);
	close_disk(&c.d);
}

static void drain_it(void *opaque)
{
	struct chainer *c = opaque;

	block_drain(c->d.queue);
}

static void drain_inside_a_batch(void **state)
{
	for (unsigned i = 0; i < ARRAY_SIZE(engines); i++) {
		static uint8_t buf[8][512];
		struct block_request reqs[8];
		struct iovec iovs[8];
		int results[8];
		struct chainer c = { 0 };

		make_file(image, IMAGE_SIZE);
		c.d = open_disk(engines[i]);
		block_queue_on_batch(c.d.queue, drain_it, &c);
		for (unsigned k = 0; k < 8; k++) {
			results[k] = 1;
			iovs[k] = (struct iovec){ buf[k], 512 };
			reqs[k] = (struct block_request){ k % 2 ? BLOCK_WRITE : BLOCK_FLUSH,
							  0,
							  512 * k,
							  512,
							  &iovs[k],
							  1,
							  note_result,
							  &results[k],
							  {} };
			block_submit(c.d.queue, &reqs[k]);
		}
		block_kick(c.d.queue);
		block_drain(c.d.queue);
		for (unsigned k = 0; k < 8; k++)
			assert_int_equal(results[k], 0);
		close_disk(&c.d);
	}
}

/* More than one batch of submissions, and more than the submission queue holds. */
static void a_deep_queue(void **state)
{
	static struct block_request reqs[256];
	static uint8_t buf[256][512];
	static struct iovec iovs[256];
	static int results[256];
	struct loop *loop = loop_new(NULL);
	struct block *block;
	struct block_queue *queue;

	make_file(image, IMAGE_SIZE);
	block = must_open("aio=io_uring");
	queue = block_queue_new(block, loop, 256, NULL);
	assert_non_null(queue);
	for (unsigned k = 0; k < 256; k++) {
		results[k] = 1;
		iovs[k] = (struct iovec){ buf[k], 512 };
		reqs[k] = (struct block_request){ BLOCK_READ,  0,           512 * k,
						  512,         &iovs[k],    1,
						  note_result, &results[k], {} };
		block_submit(queue, &reqs[k]);
	}
	block_kick(queue);
	block_drain(queue);
	for (unsigned k = 0; k < 256; k++)
		assert_int_equal(results[k], 0);
	block_queue_free(queue);
	block_close(block);
	loop_free(loop);
}

/* The ring takes no more orders about itself than about other files. */
static void the_ring_is_restricted(void **state)
{
	char path[64], target[64];
	struct disk d;
	bool found = false;

	make_file(image, IMAGE_SIZE);
	d = open_disk("aio=io_uring");
	for (int fd = 3; fd < 256; fd++) {
		int files[] = { 0 };
		ssize_t n;

		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		n = readlink(path, target, sizeof(target) - 1);
		if (n < 0)
			continue;
		target[n] = '\0';
		if (!strstr(target, "io_uring"))
			continue;
		found = true;
		/* IORING_UNREGISTER_FILES, IORING_REGISTER_FILES */
		assert_int_equal(syscall(__NR_io_uring_register, fd, 3, NULL, 0), -1);
		assert_int_equal(errno, EACCES);
		assert_int_equal(syscall(__NR_io_uring_register, fd, 2, files, 1), -1);
		assert_int_equal(errno, EACCES);
	}
	assert_true(found);
	close_disk(&d);
}

/* --- Block devices ---- */

static void block_devices(void **state)
{
	static uint8_t data[8192] __attribute__((aligned(4096)));
	struct block_info info;
	char device[64];
	struct disk d;

	if (geteuid() != 0)
		skip();
	make_file(image, IMAGE_SIZE);
	if (command(device, sizeof(device), "losetup -f --show %s", image) != 0)
		fail_msg("losetup does not work here");
	*strchrnul(device, '\n') = '\0';

	must_refuse(device, "driver=file", "is a block device; use host_device");
	for (unsigned i = 0; i < ARRAY_SIZE(engines) * ARRAY_SIZE(caches); i++) {
		struct error *err ERROR_AUTO = NULL;
		char *options AUTO_FREE = xasprintf("%s,cache=%s,driver=host_device,discard=unmap",
						    engines[i % 2], caches[i / 2]);

		d.loop = loop_new(NULL);
		d.block = open_with(device, options, &err);
		if (!d.block)
			fail_msg("%s", error_message(err));
		block_get_info(d.block, &info);
		assert_int_equal(info.size, IMAGE_SIZE);
		assert_int_equal(block_lock(d.block, false, NULL), 0);
		d.queue = block_queue_new(d.block, d.loop, 16, NULL);
		assert_int_equal(block_start_threads(NULL, NULL), 0);
		memset(data, 0x11, sizeof(data));
		assert_int_equal(transfer(d.queue, BLOCK_WRITE, 4096, data, 8192), 0);
		assert_int_equal(run(d.queue, BLOCK_FLUSH, 0, 0, 0, NULL, 0), 0);
		assert_int_equal(run(d.queue, BLOCK_DISCARD, 0, 4096, 4096, NULL, 0), 0);
		assert_int_equal(
			run(d.queue, BLOCK_WRITE_ZEROES, BLOCK_REQ_UNMAP, 8192, 2048, NULL, 0), 0);
		assert_int_equal(transfer(d.queue, BLOCK_READ, 8192, data, 4096), 0);
		assert_int_equal(data[2047], 0);
		assert_int_equal(data[2048], 0x11);
		close_disk(&d);
	}
	/* A device that is read-only. */
	assert_int_equal(command((char *)data, sizeof(data), "blockdev --setro %s", device), 0);
	must_refuse(device, "", "read-only=on");
	assert_int_equal(command((char *)data, sizeof(data), "blockdev --setrw %s", device), 0);
	assert_int_equal(command((char *)data, sizeof(data), "losetup -d %s", device), 0);
}

#define T(fn) cmocka_unit_test(fn)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(refusals),
		T(spellings),
		T(facts),
		T(from_a_descriptor),
		T(a_node_over_another),
		T(locks_among_ourselves),
		T(qemu_meets_our_lock),
		T(we_meet_qemus_lock),
		T(plain_requests),
		T(bounds),
		T(past_the_end),
		T(discards_and_zeroes),
		T(zeroes_the_hard_way),
		T(random_uring),
		T(random_uring_direct),
		T(random_threads),
		T(random_threads_direct),
		T(completions_submit),
		T(drain_inside_a_batch),
		T(a_deep_queue),
		T(the_ring_is_restricted),
		T(block_devices),
	};

	srand(20220701);
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, setup, teardown);
}
