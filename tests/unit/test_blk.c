/*
 * virtio-blk on its I/O thread, driven over PCI: what it promises, what it answers to bad requests,
 * and a load of requests against a model of the disk.
 */
#include "virtio_pci_driver.h"

#include "block/block.h"
#include "machine/iothread.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

extern const struct device_class virtio_blk_pci_class;

#define DISK_SIZE      (1 * MIB)
#define SECTORS        (DISK_SIZE / 512)

#define F_SEG_MAX      BIT(2)
#define F_RO           BIT(5)
#define F_BLK_SIZE     BIT(6)
#define F_FLUSH        BIT(9)
#define F_TOPOLOGY     BIT(10)
#define F_CONFIG_WCE   BIT(11)
#define F_MQ           BIT(12)
#define F_DISCARD      BIT(13)
#define F_WRITE_ZEROES BIT(14)
#define F_INDIRECT     BIT(VIRTIO_F_INDIRECT_DESC)
#define F_EVENT_IDX    BIT(VIRTIO_F_EVENT_IDX)

#define T_IN           0
#define T_OUT          1
#define T_FLUSH        4
#define T_GET_ID       8
#define T_DISCARD      11
#define T_WRITE_ZEROES 13

#define S_OK           0
#define S_IOERR        1
#define S_UNSUPP       2
#define S_NONE         0x77 /* not written */

static struct driver drv;
static struct block *disk;
static char image[] = "/tmp/revirt-test-blk-XXXXXX";

/* --- Fixture ---- */

static struct block *open_disk(const char *options)
{
	const struct prop *const tables[] = { block_props, NULL };
	char *text AUTO_FREE = xasprintf("file=%s,%s", image, options);
	struct error *err ERROR_AUTO = NULL;
	struct props *props = props_parse(text, NULL, tables, &err);

	disk = props ? block_open("d0", props, &err) : NULL;
	if (!disk)
		fail_msg("%s", error_message(err));
	props_free(props);
	return disk;
}

static void machine_with(const char *drive)
{
	driver_machine_init(&drv);
	assert_int_equal(
		backends_add(drv.machine.backends, BACKEND_BLOCK, "d0", open_disk(drive), NULL), 0);
}

/* Requests of aio=threads stay in flight until block_start_threads(). */
static void plug_stalled(const char *drive, const char *device)
{
	struct error *err ERROR_AUTO = NULL;
	char *text AUTO_FREE = xasprintf("drive=d0,id=disk0%s", device);

	machine_with(drive);
	if (!driver_plug(&drv, &virtio_blk_pci_class, text, &err))
		fail_msg("%s", error_message(err));
	assert_int_equal(iothread_start_all(NULL), 0);
}

static void plug(const char *drive, const char *device)
{
	plug_stalled(drive, device);
	assert_int_equal(block_start_threads(NULL, NULL), 0);
}

static void unplug(void)
{
	driver_machine_destroy(&drv);
	block_close(disk);
}

static int setup(void **state)
{
	int fd = mkstemp(image);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, DISK_SIZE), 0);
	close(fd);
	return 0;
}

static int teardown(void **state)
{
	unlink(image);
	strcpy(image, "/tmp/revirt-test-blk-XXXXXX");
	return 0;
}

/* --- Requests ---- */

struct head {
	uint32_t type, reserved;
	uint64_t sector;
};

/* Guest memory by request: head, status, data. */
#define HEAD_GPA(i)   (DRIVER_BUFFERS + (i)*0x10000ull)
#define STATUS_GPA(i) (HEAD_GPA(i) + 64)
#define RANGE_GPA(i)  (HEAD_GPA(i) + 128)
#define DATA_GPA(i)   (HEAD_GPA(i) + 0x1000)

static void *guest(uint64_t gpa)
{
	return gmem_slice(&drv.machine.mem, gpa, 1);
}

static uint16_t request(unsigned q, unsigned i, uint32_t type, uint64_t sector,
			const struct driver_piece *data, unsigned n)
{
	struct driver_piece pieces[16] = { { HEAD_GPA(i), sizeof(struct head), false } };

	*(struct head *)guest(HEAD_GPA(i)) = (struct head){ type, 0, sector };
	*(uint8_t *)guest(STATUS_GPA(i)) = S_NONE;
	if (n)
		memcpy(pieces + 1, data, n * sizeof(*data));
	pieces[n + 1] = (struct driver_piece){ STATUS_GPA(i), 1, true };
	return driver_add(&drv.queues[q], pieces, n + 2);
}

static struct virtq_used_elem wait_used(unsigned q)
{
	const uint64_t end = now_ns() + 10 * UINT64_C(1000000000);
	struct virtq_used_elem elem;

	while (!driver_used(&drv.queues[q], &elem)) {
		if (now_ns() > end)
			fail_msg("no answer, device status 0x%x", driver_status(&drv));
		usleep(20);
	}
	return elem;
}

static uint8_t status_of(unsigned i)
{
	return *(uint8_t *)guest(STATUS_GPA(i));
}

/* One request, start to end; its status. */
static uint8_t ask(uint32_t type, uint64_t sector, const struct driver_piece *data, unsigned n,
		   uint32_t *len)
{
	struct virtq_used_elem elem;

	request(0, 0, type, sector, data, n);
	driver_kick(&drv, 0);
	elem = wait_used(0);
	if (len)
		*len = elem.len;
	return status_of(0);
}

static uint8_t read_data(uint64_t sector, uint32_t bytes, uint32_t *len)
{
	return ask(T_IN, sector, &(struct driver_piece){ DATA_GPA(0), bytes, true }, 1, len);
}

static uint8_t write_data(uint64_t sector, uint32_t bytes)
{
	return ask(T_OUT, sector, &(struct driver_piece){ DATA_GPA(0), bytes, false }, 1, NULL);
}

static uint8_t zap(uint32_t type, uint64_t sector, uint32_t n, uint32_t flags, unsigned bytes)
{
	struct {
		uint64_t sector;
		uint32_t n, flags;
	} range[2] = { { sector, n, flags }, { sector, n, flags } };

	memcpy(guest(RANGE_GPA(0)), range, sizeof(range));
	return ask(type, 0, &(struct driver_piece){ RANGE_GPA(0), bytes, false }, 1, NULL);
}

static uint32_t config(unsigned offset, unsigned size)
{
	return driver_read(&drv, drv.config + offset, size);
}

/* --- What it offers ---- */

static void offers(void **state)
{
	const uint64_t ring = F_INDIRECT | F_EVENT_IDX | BIT(VIRTIO_F_VERSION_1);

	plug("discard=unmap", ",serial=abc,num-queues=2,physical_block_size=4096,min_io_size=4k,"
			      "opt_io_size=64k");
	assert_int_equal(driver_config(&drv, 0, 4), 0x10421af4);
	assert_int_equal(driver_config(&drv, 8, 4), 0x01000001);
	assert_int_equal(driver_offered(&drv), ring | F_SEG_MAX | F_BLK_SIZE | F_TOPOLOGY |
						       F_FLUSH | F_CONFIG_WCE | F_MQ | F_DISCARD |
						       F_WRITE_ZEROES);
	assert_int_equal(driver_read(&drv, drv.config, 8), SECTORS);
	assert_int_equal(config(12, 4), 254); /* seg_max */
	assert_int_equal(config(20, 4), 512); /* blk_size */
	assert_int_equal(config(24, 1), 3);   /* physical_block_exp */
	assert_int_equal(config(26, 2), 8);   /* min_io_size */
	assert_int_equal(config(28, 4), 128); /* opt_io_size */
	assert_int_equal(config(32, 1), 1);   /* writeback */
	assert_int_equal(config(34, 2), 2);   /* num_queues */
	assert_int_equal(config(36, 4), 4194303);
	assert_int_equal(config(40, 4), 1);
	assert_int_equal(config(44, 4), 8); /* the file system's blocks */
	assert_int_equal(config(48, 4), 4194303);
	assert_int_equal(config(52, 4), 1);
	assert_int_equal(config(56, 1), 1);
	assert_int_equal(drv.vpci->pci.msix.n_vectors, 3);
	unplug();

	plug("read-only=on", ",logical_block_size=4096,queue-size=64,config-wce=off");
	assert_int_equal(driver_offered(&drv),
			 ring | F_SEG_MAX | F_BLK_SIZE | F_TOPOLOGY | F_FLUSH | F_RO);
	assert_int_equal(config(12, 4), 62);
	assert_int_equal(config(20, 4), 4096);
	assert_int_equal(config(24, 1), 0);
	unplug();
}

static void refuses(void **state)
{
	static const struct {
		const char *device, *words;
	} cases[] = {
		{ "serial=x", "drive" },
		{ "drive=d1", "no drive 'd1'; there are: d0" },
		{ "drive=d0,serial=123456789012345678901", "longer than 20" },
		{ "drive=d0,queue-size=100", "not a power of two" },
		{ "drive=d0,queue-size=2048", "queue-size" },
		{ "drive=d0,num-queues=65", "num-queues" },
		{ "drive=d0,logical_block_size=1000", "powers of two" },
		{ "drive=d0,logical_block_size=4096,physical_block_size=512", "not below" },
		{ "drive=d0,min_io_size=1000", "multiples of logical_block_size" },
		{ "drive=d0,iothread=io9", "no iothread 'io9'" },
		{ "drive=d0,addr=0", "0" },
		{ "drive=d0,scsi=on", "scsi" },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct error *err ERROR_AUTO = NULL;

		machine_with("");
		assert_null(driver_plug(&drv, &virtio_blk_pci_class, cases[i].device, &err));
		if (!strstr(error_message(err), cases[i].words))
			fail_msg("%s: %s", cases[i].device, error_message(err));
		unplug();
	}
}

static void one_device_a_drive(void **state)
{
	struct error *err ERROR_AUTO = NULL;

	plug("", "");
	assert_null(driver_plug(&drv, &virtio_blk_pci_class, "drive=d0", &err));
	assert_non_null(strstr(error_message(err), "used by virtio-blk-pci 'disk0'"));
	unplug();
}

/* --- What it does ---- */

static void does_its_work(void **state)
{
	static const char *const drives[] = { "aio=io_uring", "aio=threads",
					      "aio=io_uring,cache=none",
					      "aio=threads,cache=directsync" };

	for (unsigned i = 0; i < ARRAY_SIZE(drives); i++) {
		uint8_t *data;
		uint32_t len;

		plug(drives[i], ",serial=revirt-0001");
		driver_enable_msix(&drv, 2);
		driver_start(&drv, F_FLUSH | F_CONFIG_WCE, 64);
		data = guest(DATA_GPA(0));
		memset(data, 0x30 + i, 4096);
		assert_int_equal(write_data(8, 4096), S_OK);
		memset(data, 0, 8192);
		assert_int_equal(read_data(7, 4096 + 1024, &len), S_OK);
		assert_int_equal(len, 4096 + 1024 + 1);
		assert_int_equal(data[512], 0x30 + i);
		assert_int_equal(data[4607], 0x30 + i);
		assert_int_equal(data[4608], 0);
		assert_int_equal(ask(T_FLUSH, 0, NULL, 0, &len), S_OK);
		assert_int_equal(len, 1);
		/* Stable from the write on: the driver turned the cache off. */
		driver_write(&drv, drv.config + 32, 1, 0);
		assert_int_equal(config(32, 1), 0);
		assert_int_equal(write_data(100, 512), S_OK);
		memset(data, 0xff, 64);
		assert_int_equal(
			ask(T_GET_ID, 0, &(struct driver_piece){ DATA_GPA(0), 20, true }, 1, &len),
			S_OK);
		assert_int_equal(len, 21);
		assert_memory_equal(data, "revirt-0001\0\0\0\0\0\0\0\0\0", 20);
		assert_int_equal(
			ask(T_GET_ID, 0, &(struct driver_piece){ DATA_GPA(0), 5, true }, 1, &len),
			S_OK);
		assert_int_equal(
			ask(T_GET_ID, 0, &(struct driver_piece){ DATA_GPA(0), 64, true }, 1, &len),
			S_OK);
		assert_int_equal(len, 20);
		assert_true(drv.machine.irqs.last_msi.count > 0);
		assert_int_equal(drv.machine.irqs.last_msi.data, 0x41);
		unplug();
	}
}

/* §2.7.4: any framing of header, data and status. */
static void any_framing(void **state)
{
	const struct driver_piece write[] = {
		{ HEAD_GPA(0), 3, false },       { HEAD_GPA(0) + 3, 13 + 100, false },
		{ DATA_GPA(0) + 1, 300, false }, { DATA_GPA(0) + 1000, 112, false },
		{ STATUS_GPA(0) + 64, 1, true },
	};
	const struct driver_piece read[] = {
		{ HEAD_GPA(0), 16, false },
		{ DATA_GPA(0) + 0x1000, 1, true },
		{ DATA_GPA(0) + 0x1001, 512, true }, /* the last byte is the status */
	};
	uint8_t *data, *back;

	plug("", "");
	driver_start(&drv, 0, 16);
	data = guest(DATA_GPA(0));
	*(struct head *)guest(HEAD_GPA(0)) = (struct head){ T_OUT, 0, 5 };
	memset((uint8_t *)guest(HEAD_GPA(0)) + 16, 'a', 100);
	memset(data + 1, 'b', 300);
	memset(data + 1000, 'c', 112);
	driver_add(&drv.queues[0], write, 5);
	driver_kick(&drv, 0);
	assert_int_equal(wait_used(0).len, 1);
	assert_int_equal(*(uint8_t *)guest(STATUS_GPA(0) + 64), S_OK);

	back = guest(DATA_GPA(0) + 0x1000);
	back[512] = S_NONE;
	*(struct head *)guest(HEAD_GPA(0)) = (struct head){ T_IN, 0, 5 };
	driver_add(&drv.queues[0], read, 3);
	driver_kick(&drv, 0);
	assert_int_equal(wait_used(0).len, 513);
	assert_int_equal(back[512], S_OK);
	assert_int_equal(back[99], 'a');
	assert_int_equal(back[100], 'b');
	assert_int_equal(back[399], 'b');
	assert_int_equal(back[400], 'c');
	assert_int_equal(back[511], 'c');
	unplug();
}

static void bad_requests(void **state)
{
	uint32_t len;

	plug("discard=unmap", "");
	driver_start(&drv, F_FLUSH | F_DISCARD | F_WRITE_ZEROES, 16);
	assert_int_equal(read_data(SECTORS, 512, &len), S_IOERR);
	assert_int_equal(len, 0);
	assert_int_equal(read_data(SECTORS - 1, 1024, NULL), S_IOERR);
	assert_int_equal(read_data(UINT64_MAX, 512, NULL), S_IOERR);
	assert_int_equal(read_data(UINT64_MAX >> 9, 512, NULL), S_IOERR);
	assert_int_equal(read_data(0, 511, NULL), S_IOERR);
	assert_int_equal(write_data(SECTORS, 512), S_IOERR);
	assert_int_equal(write_data(0, 100), S_IOERR);
	assert_int_equal(ask(T_IN, 0, NULL, 0, NULL), S_OK);  /* nothing is read, and that works */
	assert_int_equal(ask(2, 0, NULL, 0, NULL), S_UNSUPP); /* SCSI, long gone */
	assert_int_equal(ask(0x80000001, 0, NULL, 0, NULL), S_UNSUPP);
	assert_int_equal(ask(UINT32_MAX, 0, NULL, 0, &len), S_UNSUPP);
	assert_int_equal(len, 1);

	assert_int_equal(zap(T_DISCARD, 0, 8, 0, 16), S_OK);
	assert_int_equal(zap(T_DISCARD, 0, 8, 1, 16), S_UNSUPP); /* unmap */
	assert_int_equal(zap(T_DISCARD, 0, 8, 2, 16), S_UNSUPP);
	assert_int_equal(zap(T_DISCARD, 0, 8, 0, 15), S_UNSUPP);
	assert_int_equal(zap(T_DISCARD, 0, 8, 0, 32), S_UNSUPP); /* one range is all */
	assert_int_equal(zap(T_DISCARD, 0, SECTORS + 1, 0, 16), S_IOERR);
	assert_int_equal(zap(T_DISCARD, 1, SECTORS, 0, 16), S_IOERR);
	assert_int_equal(zap(T_DISCARD, 0, UINT32_MAX, 0, 16), S_IOERR);
	assert_int_equal(zap(T_DISCARD, UINT64_MAX, 1, 0, 16), S_IOERR);
	assert_int_equal(zap(T_WRITE_ZEROES, 0, 8, 0, 16), S_OK);
	assert_int_equal(zap(T_WRITE_ZEROES, 0, 8, 1, 16), S_OK);
	assert_int_equal(zap(T_WRITE_ZEROES, 0, 8, 3, 16), S_UNSUPP);
	assert_int_equal(zap(T_WRITE_ZEROES, SECTORS - 7, 8, 0, 16), S_IOERR);
	assert_false(driver_needs_reset(&drv));
	unplug();

	plug("read-only=on", "");
	driver_start(&drv, F_RO, 16);
	assert_int_equal(read_data(0, 512, NULL), S_OK);
	assert_int_equal(write_data(0, 512), S_IOERR);
	assert_int_equal(zap(T_DISCARD, 0, 8, 0, 16), S_UNSUPP); /* not offered */
	unplug();

	plug("", ",logical_block_size=4096");
	driver_start(&drv, 0, 16);
	assert_int_equal(read_data(8, 4096, NULL), S_OK);
	assert_int_equal(read_data(1, 4096, NULL), S_IOERR);
	assert_int_equal(read_data(8, 512, NULL), S_IOERR);
	unplug();
}

static void write_cache(void **state)
{
	static const struct {
		const char *drive, *device;
		uint64_t features;
		uint8_t writeback;
	} cases[] = {
		{ "", "", F_FLUSH | F_CONFIG_WCE, 1 },
		{ "", "", F_FLUSH, 1 },
		{ "", "", 0, 0 },
		{ "", "", F_CONFIG_WCE, 0 }, /* §5.2.5.2 */
		{ "cache=writethrough", "", F_FLUSH | F_CONFIG_WCE, 0 },
		{ "cache=writethrough", ",write-cache=on", F_FLUSH | F_CONFIG_WCE, 1 },
		{ "", ",write-cache=off", F_FLUSH, 0 },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		plug(cases[i].drive, cases[i].device);
		driver_start(&drv, cases[i].features, 16);
		assert_int_equal(config(32, 1), cases[i].writeback);
		driver_write(&drv, drv.config + 32, 1, !cases[i].writeback);
		driver_write(&drv, drv.config + 0, 4, 0);
		driver_write(&drv, drv.config + 32, 2, 0x0101);
		assert_int_equal(config(32, 1), cases[i].features & F_CONFIG_WCE
							? !cases[i].writeback
							: cases[i].writeback);
		assert_int_equal(driver_read(&drv, drv.config, 8), SECTORS);
		unplug();
	}
}

static void expect_broken(void)
{
	const uint64_t end = now_ns() + 5 * UINT64_C(1000000000);

	while (!driver_needs_reset(&drv) && now_ns() < end)
		usleep(100);
	assert_true(driver_needs_reset(&drv));
}

static void no_room_for_head_or_status(void **state)
{
	static const struct {
		struct driver_piece pieces[2];
		unsigned n;
	} cases[] = {
		{ { { HEAD_GPA(0), 15, false }, { STATUS_GPA(0), 1, true } }, 2 },
		{ { { HEAD_GPA(0), 16, false } }, 1 },
		{ { { STATUS_GPA(0), 1, true } }, 1 },
		{ { { HEAD_GPA(0), 16, false }, { DRIVER_RAM, 1, true } }, 2 },
	};

	plug("", "");
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		driver_start(&drv, 0, 16);
		*(struct head *)guest(HEAD_GPA(0)) = (struct head){ T_IN, 0, 0 };
		/* Good ones around it: in flight when it breaks. */
		for (unsigned k = 1; k < 4; k++)
			request(0, k, T_IN, 0, &(struct driver_piece){ DATA_GPA(k), 4096, true },
				1);
		driver_add(&drv.queues[0], cases[i].pieces, cases[i].n);
		driver_kick(&drv, 0);
		expect_broken();
	}
	driver_start(&drv, 0, 16);
	assert_int_equal(read_data(0, 512, NULL), S_OK);
	unplug();
}

/* The same chain again and again, while none has come back. */
static void more_in_flight_than_entries(void **state)
{
	struct driver_queue *d = &drv.queues[0];
	uint16_t head;

	plug_stalled("aio=threads", ",queue-size=8");
	driver_start(&drv, 0, 8);
	head = request(0, 0, T_FLUSH, 0, NULL, 0);
	for (unsigned i = 1; i < 8; i++)
		driver_offer(d, head);
	driver_publish(d);
	driver_kick(&drv, 0);
	usleep(50000);
	driver_offer(d, head);
	driver_publish(d);
	driver_kick(&drv, 0);
	usleep(50000);
	assert_int_equal(block_start_threads(NULL, NULL), 0);
	expect_broken();
	driver_start(&drv, 0, 8);
	assert_int_equal(read_data(0, 512, NULL), S_OK);
	unplug();
}

/* --- A load of requests, several queues, indirect tables, pauses and resets in between ---- */

#define SLOTS      20
#define SLOT_BYTES (DISK_SIZE / 32)

static uint8_t model[DISK_SIZE];

static void load_request(unsigned q, unsigned i)
{
	const uint32_t type = (uint32_t[]){ T_IN, T_OUT, T_OUT, T_FLUSH }[rand() % 4];
	const uint32_t bytes = 512 * (1 + rand() % (SLOT_BYTES / 512));
	const uint64_t sector =
		(i * SLOT_BYTES + rand() % ((SLOT_BYTES - bytes) / 512 + 1) * 512) / 512;
	struct driver_piece pieces[4];
	uint8_t *data = guest(DATA_GPA(i));
	unsigned n = 0;

	for (uint32_t at = 0; at < bytes && type != T_FLUSH; n++) {
		const uint32_t some = 1 + rand() % bytes;
		const uint32_t len = n == 3 ? bytes - at : MIN(bytes - at, some);

		pieces[n] = (struct driver_piece){ DATA_GPA(i) + at, len, type == T_IN };
		at += len;
	}
	if (type == T_OUT) {
		for (uint32_t k = 0; k < bytes; k++)
			data[k] = rand();
		memcpy(model + sector * 512, data, bytes);
	}
	request(q, i, type, sector, pieces, n);
}

static void check_load(unsigned i)
{
	const struct head *head = guest(HEAD_GPA(i));

	if (status_of(i) != S_OK)
		fail_msg("slot %u: type %u sector %llu: %u", i, head->type,
			 (unsigned long long)head->sector, status_of(i));
	if (head->type == T_IN) /* its first sector: the length is in the ring no more */
		assert_memory_equal(guest(DATA_GPA(i)), model + head->sector * 512, 512);
}

static void load(const char *drive, uint64_t features)
{
	plug(drive, ",num-queues=2,queue-size=256");
	memset(model, 0, sizeof(model));
	driver_start(&drv, features, 256);
	for (unsigned round = 0; round < 300; round++) {
		unsigned sent[2] = { 0, 0 };

		for (unsigned i = 0; i < SLOTS; i++) {
			if (rand() % 3 == 0)
				continue;
			load_request(i % 2, i);
			sent[i % 2]++;
			if (rand() % 3 == 0)
				driver_kick(&drv, i % 2);
		}
		driver_kick(&drv, 0);
		driver_kick(&drv, 1);
		if (round % 20 == 7) {
			virtio_pci_pause(drv.device);
			virtio_pci_resume(drv.device);
		}
		for (unsigned q = 0; q < 2; q++)
			while (sent[q]--)
				wait_used(q);
		for (unsigned i = 0; i < SLOTS; i++)
			if (status_of(i) != S_NONE)
				check_load(i);
	}
	assert_false(driver_needs_reset(&drv));
	unplug();
}

static void load_uring(void **state)
{
	load("aio=io_uring", F_FLUSH | F_MQ | F_EVENT_IDX);
}

static void load_uring_direct(void **state)
{
	load("aio=io_uring,cache=none", F_MQ);
}

static void load_threads(void **state)
{
	load("aio=threads", F_FLUSH | F_MQ);
}

/* A reset does not come back before what is in flight has ended: the memory is the guest's. */
static void reset_in_flight(void **state)
{
	plug("", "");
	for (unsigned round = 0; round < 200; round++) {
		driver_start(&drv, F_EVENT_IDX, 256);
		for (unsigned i = 0; i < 20; i++)
			load_request(0, i);
		driver_kick(&drv, 0);
		driver_set(&drv, DEVICE_STATUS, 1, 0);
		assert_int_equal(driver_status(&drv), 0);
		/* A late write of data or status would show here. */
		memset(guest(DRIVER_BUFFERS), 0x5a, 20 * 0x10000);
		if (round % 10 == 0)
			usleep(500);
		for (uint8_t *p = guest(DRIVER_BUFFERS);
		     p < (uint8_t *)guest(DRIVER_BUFFERS) + 0x140000; p += 64)
			assert_int_equal(*p, 0x5a);
	}
	unplug();
}

/* --- Threads ---- */

static void shared_iothread(void **state)
{
	struct iothread *io = iothread_new("io0", NULL);
	struct error *err ERROR_AUTO = NULL;

	machine_with("");
	backends_add(drv.machine.backends, BACKEND_IOTHREAD, "io0", io, NULL);
	if (!driver_plug(&drv, &virtio_blk_pci_class, "drive=d0,iothread=io0", &err))
		fail_msg("%s", error_message(err));
	assert_ptr_equal(drv.vd->loop, iothread_loop(io));
	assert_int_equal(iothread_start_all(NULL), 0);
	driver_start(&drv, 0, 16);
	assert_int_equal(read_data(0, 512, NULL), S_OK);
	driver_machine_destroy(&drv);
	iothread_free(io);
	block_close(disk);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(offers),
		T(refuses),
		T(one_device_a_drive),
		T(does_its_work),
		T(any_framing),
		T(bad_requests),
		T(write_cache),
		T(no_room_for_head_or_status),
		T(more_in_flight_than_entries),
		T(load_uring),
		T(load_uring_direct),
		T(load_threads),
		T(reset_in_flight),
		T(shared_iothread),
	};

	srand(20220701);
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
