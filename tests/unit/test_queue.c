/* The split ring: what a driver does right, what it does wrong, and what two threads do at once. */
#include "virtio_driver.h"
#include "watcher.h"

#include "base/iov.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define SIZE    8
#define MAX_IOV 64
#define TABLE   (DRIVER_BUFFERS + 0x10000) /* an indirect one */

static struct gmem gm;
static struct driver_queue drv;
static struct virtq vq;
static struct virtq_chain chain;
static struct iovec iov[MAX_IOV];

static void start(uint16_t size, bool event_idx)
{
	driver_queue_init(&drv, &gm, 0, size);
	vq = (struct virtq){ .gm = &gm, .size = size, .max_size = VIRTQ_MAX_SIZE };
	vq.desc_gpa = drv.desc_gpa;
	vq.driver_gpa = drv.avail_gpa;
	vq.device_gpa = drv.used_gpa;
	vq.enabled = true;
	assert_int_equal(virtq_start(&vq, event_idx), 0);
}

static int setup(void **state)
{
	driver_memory(&gm);
	start(SIZE, false);
	return 0;
}

static int teardown(void **state)
{
	gmem_destroy(&gm);
	return 0;
}

static int pop(void)
{
	return virtq_pop(&vq, &chain, iov, MAX_IOV);
}

static void assert_broken(const char *reason)
{
	assert_int_equal(pop(), -1);
	assert_true(vq.broken);
	assert_string_equal(vq.reason, reason);
	/* And it stays so, quietly. */
	assert_int_equal(pop(), -1);
	virtq_push(&vq, 0, 1);
	virtq_flush(&vq, 0);
	assert_false(virtq_should_signal(&vq));
	assert_false(virtq_has_work(&vq));
	assert_false(virtq_enable_notify(&vq));
	assert_int_equal(drv.used->idx, 0);
}

static void one(uint64_t gpa, uint32_t len, uint16_t flags, uint16_t next)
{
	driver_desc(&drv.desc[0], gpa, len, flags, next);
	driver_offer(&drv, 0);
	driver_publish(&drv);
}

/* --- Right ---- */

static void chain_of_both_kinds(void **state)
{
	const struct driver_piece pieces[] = {
		{ DRIVER_BUFFERS, 16, false },
		{ DRIVER_BUFFERS + 0x1000, 512, true },
		{ DRIVER_BUFFERS + 0x3000, 1, true },
	};
	struct virtq_used_elem elem;

	assert_int_equal(pop(), 0);
	assert_false(virtq_has_work(&vq));
	driver_add(&drv, pieces, 3);
	assert_true(virtq_has_work(&vq));
	assert_int_equal(pop(), 1);
	assert_int_equal(chain.head, 0);
	assert_int_equal(chain.n_out, 1);
	assert_int_equal(chain.n_in, 2);
	assert_int_equal(chain.out_bytes, 16);
	assert_int_equal(chain.in_bytes, 513);
	assert_ptr_equal(chain.iov[0].iov_base, gmem_slice(&gm, DRIVER_BUFFERS, 16));
	assert_ptr_equal(chain.iov[2].iov_base, gmem_slice(&gm, DRIVER_BUFFERS + 0x3000, 1));
	assert_int_equal(pop(), 0);

	virtq_push(&vq, chain.head, 513);
	assert_false(driver_used(&drv, &elem)); /* not yet published */
	virtq_flush(&vq, 0);
	assert_true(driver_used(&drv, &elem));
	assert_int_equal(elem.id, 0);
	assert_int_equal(elem.len, 513);
	assert_true(virtq_should_signal(&vq));
	assert_false(virtq_should_signal(&vq)); /* nothing new */
}

static void adjacent_pieces_merge(void **state)
{
	const struct driver_piece pieces[] = {
		{ DRIVER_BUFFERS, 100, false },     { DRIVER_BUFFERS + 100, 28, false },
		{ DRIVER_BUFFERS + 128, 64, true }, /* adjacent, but of the other kind */
		{ DRIVER_BUFFERS + 192, 64, true }, { DRIVER_BUFFERS + 257, 3, true },
	};

	driver_add(&drv, pieces, 5);
	assert_int_equal(pop(), 1);
	assert_int_equal(chain.n_out, 1);
	assert_int_equal(chain.n_in, 2);
	assert_int_equal(iov[0].iov_len, 128);
	assert_int_equal(iov[1].iov_len, 128);
	assert_int_equal(iov[2].iov_len, 3);
}

static void indirect_table(void **state)
{
	struct virtq_desc *table = gmem_slice(&gm, TABLE + 8, 64); /* alignment is nobody's duty */
	const struct virtq_desc t[] = {
		{ DRIVER_BUFFERS, 16, VIRTQ_DESC_F_NEXT, 2 },
		{ 0, 0, 0, 0 },
		{ DRIVER_BUFFERS + 0x1000, 32, VIRTQ_DESC_F_NEXT | VIRTQ_DESC_F_WRITE, 3 },
		{ DRIVER_BUFFERS + 0x2000, 1, VIRTQ_DESC_F_WRITE, 9999 },
	};

	memcpy(table, t, sizeof(t));
	/* The WRITE flag of the one that refers to a table is ignored, §2.7.5.3.2. */
	one(TABLE + 8, sizeof(t), VIRTQ_DESC_F_INDIRECT | VIRTQ_DESC_F_WRITE, 0);
	assert_int_equal(pop(), 1);
	assert_int_equal(chain.n_out, 1);
	assert_int_equal(chain.n_in, 2);
	assert_int_equal(chain.in_bytes, 33);
}

/* §2.7.5.3.2: zero or more normal descriptors, then one that refers to a table. */
static void direct_then_indirect(void **state)
{
	struct virtq_desc *table = gmem_slice(&gm, TABLE, 16);

	driver_desc(&table[0], DRIVER_BUFFERS + 0x1000, 8, VIRTQ_DESC_F_WRITE, 0);
	driver_desc(&drv.desc[0], DRIVER_BUFFERS, 4, VIRTQ_DESC_F_NEXT, 5);
	driver_desc(&drv.desc[5], TABLE, 16, VIRTQ_DESC_F_INDIRECT, 0);
	driver_offer(&drv, 0);
	driver_publish(&drv);
	assert_int_equal(pop(), 1);
	assert_int_equal(chain.out_bytes, 4);
	assert_int_equal(chain.in_bytes, 8);
}

static void indices_wrap(void **state)
{
	const struct driver_piece piece = { DRIVER_BUFFERS, 64, true };
	struct virtq_used_elem elem;

	start(SIZE, true);
	for (unsigned i = 0; i < 70000; i++) {
		*driver_used_event(&drv) = i; /* an interrupt for each */
		driver_add(&drv, &piece, 1);
		assert_int_equal(pop(), 1);
		assert_int_equal(chain.head, i % SIZE);
		virtq_push(&vq, chain.head, i);
		assert_true(virtq_should_signal(&vq));
		assert_true(driver_used(&drv, &elem));
		assert_int_equal(elem.len, i);
	}
}

static void unpop_gives_back(void **state)
{
	const struct driver_piece piece = { DRIVER_BUFFERS, 64, true };

	for (unsigned i = 0; i < 3; i++)
		driver_add(&drv, &piece, 1);
	assert_int_equal(pop(), 1);
	assert_int_equal(pop(), 1);
	virtq_unpop(&vq);
	virtq_unpop(&vq);
	virtq_unpop(&vq); /* one too many: nothing to give back */
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(pop(), 1);
		assert_int_equal(chain.head, i);
	}
	assert_int_equal(pop(), 0);
}

/* Mergeable buffers: several elements appear at once. */
static void fill_then_flush(void **state)
{
	const struct driver_piece piece = { DRIVER_BUFFERS, 64, true };
	struct virtq_used_elem elem;

	for (unsigned i = 0; i < 4; i++)
		driver_add(&drv, &piece, 1);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(pop(), 1);
	virtq_push(&vq, 0, 10);
	virtq_fill(&vq, 0, 1, 11);
	virtq_fill(&vq, 1, 2, 12);
	assert_false(driver_used(&drv, &elem));
	virtq_flush(&vq, 2);
	for (unsigned i = 0; i < 3; i++) {
		assert_true(driver_used(&drv, &elem));
		assert_int_equal(elem.id, i);
		assert_int_equal(elem.len, 10 + i);
	}
	assert_false(driver_used(&drv, &elem));
	assert_int_equal(vq.in_flight, 1);
}

/* --- Telling what was written ---- */

/* While it is told, the data is there and the driver can't know of it. */
static void not_yet_used(uint64_t gpa, uint64_t size)
{
	assert_int_equal(*(uint8_t *)gmem_slice(&gm, gpa, size), 0x5a);
	assert_int_equal(drv.used->idx, 0);
	assert_int_equal(drv.used->ring[0].len, 0);
}

static void write_all_in(void)
{
	for (unsigned i = 0; i < chain.n_in; i++)
		memset(iov[chain.n_out + i].iov_base, 0x5a, iov[chain.n_out + i].iov_len);
}

static void start_watched(void)
{
	gm.watcher = &watcher;
	watched.n = 0;
	watched.told = not_yet_used;
}

static void pushed_is_told(void **state)
{
	const struct driver_piece pieces[] = {
		{ DRIVER_BUFFERS, 16, false },
		{ DRIVER_BUFFERS + 0x1000, 512, true },
		{ DRIVER_BUFFERS + 0x3000, 1, true },
	};

	start_watched();
	driver_add(&drv, pieces, 3);
	driver_add(&drv, pieces, 1);
	assert_int_equal(pop(), 1);
	write_all_in();
	assert_int_equal(watched.n, 0);
	/* All of it, whatever the length: a request that fails may have written, too. */
	virtq_push(&vq, chain.head, 0);
	assert_int_equal(watched.n, 2);
	assert_true(watcher_knows(DRIVER_BUFFERS + 0x1000, 512));
	assert_true(watcher_knows(DRIVER_BUFFERS + 0x3000, 1));
	assert_int_equal(pop(), 1);
	virtq_push(&vq, chain.head, 0);
	assert_int_equal(watched.n, 2);
}

static void filled_is_told(void **state)
{
	struct virtq_desc *table = gmem_slice(&gm, TABLE, 64);

	start_watched();
	driver_desc(&table[0], DRIVER_BUFFERS, 16, VIRTQ_DESC_F_NEXT, 1);
	driver_desc(&table[1], DRIVER_BUFFERS + 0x1000, 32, VIRTQ_DESC_F_WRITE, 0);
	one(TABLE, 32, VIRTQ_DESC_F_INDIRECT, 0);
	assert_int_equal(pop(), 1);
	write_all_in();
	virtq_fill(&vq, 0, chain.head, 32);
	assert_int_equal(watched.n, 1);
	assert_true(watcher_knows(DRIVER_BUFFERS + 0x1000, 32));
}

/* Of a queue that has broken meanwhile, too; of one that is off there is nothing to look at. */
static void broken_is_told(void **state)
{
	const struct driver_piece piece = { DRIVER_BUFFERS, 64, true };

	start_watched();
	driver_add(&drv, &piece, 1);
	driver_add(&drv, &piece, 1);
	assert_int_equal(pop(), 1);
	write_all_in();
	virtq_break(&vq, "for a test");
	virtq_push(&vq, 0, 1);
	assert_int_equal(watched.n, 1);
	virtq_stop(&vq);
	virtq_push(&vq, 0, 1);
	assert_int_equal(watched.n, 1);
}

/* A driver that makes an endless chain of what the device has in hand. */
static void changed_descriptors(void **state)
{
	const struct driver_piece piece = { DRIVER_BUFFERS, 64, true };

	start_watched();
	driver_add(&drv, &piece, 1);
	assert_int_equal(pop(), 1);
	write_all_in();
	driver_desc(&drv.desc[0], DRIVER_BUFFERS, 64, VIRTQ_DESC_F_WRITE | VIRTQ_DESC_F_NEXT, 0);
	virtq_push(&vq, 0, 1);
	assert_int_equal(watched.n, VIRTQ_MAX_SEGMENTS);
	assert_broken("descriptors changed while the device had them");
}

/* --- Wrong ---- */

static void start_checks_rings(void **state)
{
	static const struct {
		uint16_t size;
		uint64_t desc, avail, used;
		bool ok;
	} cases[] = {
		{ 8, 0x1000, 0x2000, 0x3000, true },
		{ 1, 0x1000, 0x2000, 0x3000, true },
		{ 1024, 0x10000, 0x20000, 0x30000, true },
		{ 0, 0x1000, 0x2000, 0x3000, false },
		{ 12, 0x1000, 0x2000, 0x3000, false },
		{ 2048, 0x10000, 0x20000, 0x30000, false },
		{ 8, 0x1008, 0x2000, 0x3000, false },
		{ 8, 0x1000, 0x2001, 0x3000, false },
		{ 8, 0x1000, 0x2002, 0x3004, true },
		{ 8, 0x1000, 0x2000, 0x3002, false },
		{ 8, DRIVER_RAM - 64, 0x2000, 0x3000, false },
		{ 8, DRIVER_RAM - 128, DRIVER_RAM - 128 - 22, DRIVER_RAM - 256 - 70 - 2, true },
		{ 8, 0x1000, DRIVER_RAM - 20, 0x3000, false },
		{ 8, 0x1000, 0x2000, DRIVER_RAM - 68, false },
		{ 8, UINT64_MAX - 15, 0x2000, 0x3000, false },
		{ 8, 0x1000, 0x2000, UINT64_MAX - 3, false },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		vq = (struct virtq){ .gm = &gm, .size = cases[i].size, .max_size = 1024 };
		vq.desc_gpa = cases[i].desc;
		vq.driver_gpa = cases[i].avail;
		vq.device_gpa = cases[i].used;
		assert_int_equal(virtq_start(&vq, true), cases[i].ok ? 0 : -1);
		assert_true(!vq.reason == cases[i].ok);
		assert_int_equal(pop(), cases[i].ok ? 0 : -1);
	}
	vq = (struct virtq){ .gm = &gm, .size = 256, .max_size = 128, .desc_gpa = 0x10000 };
	vq.driver_gpa = 0x20000;
	vq.device_gpa = 0x30000;
	assert_int_equal(virtq_start(&vq, true), -1);
}

static void off_is_quiet(void **state)
{
	virtq_stop(&vq);
	assert_int_equal(pop(), 0);
	virtq_unpop(&vq);
	virtq_push(&vq, 3, 4);
	virtq_fill(&vq, 2, 3, 4);
	virtq_flush(&vq, 3);
	virtq_disable_notify(&vq);
	assert_false(virtq_enable_notify(&vq));
	assert_false(virtq_should_signal(&vq));
	assert_int_equal(drv.used->idx, 0);
}

static void head_outside(void **state)
{
	driver_offer(&drv, SIZE);
	driver_publish(&drv);
	assert_broken("head of a chain outside the table");
}

static void next_outside(void **state)
{
	one(DRIVER_BUFFERS, 16, VIRTQ_DESC_F_NEXT, SIZE);
	assert_broken("next descriptor outside the table");
}

static void loop_of_itself(void **state)
{
	one(DRIVER_BUFFERS, 16, VIRTQ_DESC_F_NEXT | VIRTQ_DESC_F_WRITE, 0);
	assert_int_equal(virtq_pop(&vq, &chain, iov, 2), -1);
	assert_true(vq.broken);
}

/* Every piece adjacent to the one before: no number of iovecs ends the walk. */
static void loop_that_merges(void **state)
{
	struct virtq_desc *table = gmem_slice(&gm, TABLE, 16 * 2048);

	for (unsigned i = 0; i < 2048; i++)
		driver_desc(&table[i], DRIVER_BUFFERS + i, 1, VIRTQ_DESC_F_NEXT, (i + 1) % 2048);
	one(TABLE, 16 * 2048, VIRTQ_DESC_F_INDIRECT, 0);
	assert_broken("chain is too long or loops");
}

static void bad_lengths(void **state)
{
	one(DRIVER_BUFFERS, 0, 0, 0);
	assert_broken("zero-length buffer");
}

static void outside_ram(void **state)
{
	static const struct {
		uint64_t gpa;
		uint32_t len;
	} cases[] = { { DRIVER_RAM, 1 }, { DRIVER_RAM - 1, 2 },
		      { UINT64_MAX, 1 }, { UINT64_MAX - 1, UINT32_MAX },
		      { 0, UINT32_MAX }, { 0xfee00000, 4 } };

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		start(SIZE, false);
		one(cases[i].gpa, cases[i].len, 0, 0);
		assert_broken("buffer outside RAM");
	}
}

static void readable_after_writable(void **state)
{
	const struct driver_piece pieces[] = { { DRIVER_BUFFERS, 16, true },
					       { DRIVER_BUFFERS + 64, 16, false } };

	driver_add(&drv, pieces, 2);
	assert_broken("readable buffer after a writable one");
}

static void too_many_pieces(void **state)
{
	struct driver_piece pieces[SIZE];

	for (unsigned i = 0; i < SIZE; i++)
		pieces[i] = (struct driver_piece){ DRIVER_BUFFERS + 64 * i, 16, true };
	driver_add(&drv, pieces, SIZE);
	assert_int_equal(virtq_pop(&vq, &chain, iov, SIZE - 1), -1);
	assert_string_equal(vq.reason, "chain has too many buffers for this device");
	start(SIZE, false);
	driver_add(&drv, pieces, SIZE);
	assert_int_equal(virtq_pop(&vq, &chain, iov, SIZE), 1);
}

/* A length of 2^32 in all is reached by naming the same buffer again and again. */
static void too_long(void **state)
{
	struct virtq_desc *table = gmem_slice(&gm, TABLE, 16 * 1024);
	static struct iovec many[VIRTQ_MAX_SEGMENTS];

	for (unsigned i = 0; i < 1024; i++)
		driver_desc(&table[i], 0, DRIVER_RAM, i < 1023 ? VIRTQ_DESC_F_NEXT : 0, i + 1);
	one(TABLE, 16 * 1024, VIRTQ_DESC_F_INDIRECT, 0);
	assert_int_equal(virtq_pop(&vq, &chain, many, VIRTQ_MAX_SEGMENTS), -1);
	assert_string_equal(vq.reason, "chain of 4 GiB or more");
	start(SIZE, false);
	table[1022].flags = 0;
	one(TABLE, 16 * 1024, VIRTQ_DESC_F_INDIRECT, 0);
	assert_int_equal(virtq_pop(&vq, &chain, many, VIRTQ_MAX_SEGMENTS), 1);
	assert_int_equal(chain.out_bytes, 1023ull * DRIVER_RAM);
}

static void bad_indirect(void **state)
{
	struct virtq_desc *table = gmem_slice(&gm, TABLE, 32);
	static const struct {
		uint64_t gpa;
		uint32_t len;
		uint16_t flags;
		const char *reason;
	} cases[] = {
		{ TABLE, 0, 0, "bad length of an indirect table" },
		{ TABLE, 17, 0, "bad length of an indirect table" },
		{ DRIVER_RAM - 16, 32, 0, "indirect table outside RAM" },
		{ UINT64_MAX - 15, 16, 0, "indirect table outside RAM" },
		{ TABLE, 0xfffffff0, 0, "indirect table outside RAM" },
		{ TABLE, 16, VIRTQ_DESC_F_NEXT, "descriptor is both indirect and chained" },
		{ TABLE, 16, 0, "indirect table inside an indirect table" },
	};

	driver_desc(&table[0], TABLE, 16, VIRTQ_DESC_F_INDIRECT, 0);
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		start(SIZE, false);
		one(cases[i].gpa, cases[i].len, VIRTQ_DESC_F_INDIRECT | cases[i].flags, 0);
		assert_broken(cases[i].reason);
	}
	start(SIZE, false);
	driver_desc(&table[0], DRIVER_BUFFERS, 16, VIRTQ_DESC_F_NEXT, 1);
	one(TABLE, 16, VIRTQ_DESC_F_INDIRECT, 0);
	assert_broken("next descriptor outside the table");
}

static void index_runs_ahead(void **state)
{
	drv.avail->idx = SIZE + 1;
	assert_broken("available index is ahead by more than the queue's size");
	start(SIZE, true);
	drv.avail->idx = UINT16_MAX; /* it went backwards */
	assert_broken("available index is ahead by more than the queue's size");
}

/* Ring entries may name heads whose chains are with us already. */
static void too_many_in_flight(void **state)
{
	const struct driver_piece piece = { DRIVER_BUFFERS, 64, true };

	for (unsigned i = 0; i < SIZE; i++) {
		driver_add(&drv, &piece, 1);
		assert_int_equal(pop(), 1);
	}
	assert_int_equal(pop(), 0);
	driver_add(&drv, &piece, 1);
	assert_broken("more chains in flight than the queue has entries");
}

/* --- Suppression ---- */

static void interrupts_by_flag(void **state)
{
	const struct driver_piece piece = { DRIVER_BUFFERS, 64, true };

	for (unsigned i = 0; i < 2; i++) {
		drv.avail->flags = i ? VIRTQ_AVAIL_F_NO_INTERRUPT : 0;
		*driver_used_event(&drv) = 1234; /* means nothing without EVENT_IDX */
		driver_add(&drv, &piece, 1);
		assert_int_equal(pop(), 1);
		virtq_push(&vq, chain.head, 0);
		assert_int_equal(virtq_should_signal(&vq), !i);
	}
}

/* §2.7.7.2: "idx was equal to used_event" for any of the elements since the last decision. */
static void interrupts_by_event(void **state)
{
	const struct driver_piece piece = { DRIVER_BUFFERS, 64, true };
	static const struct {
		uint16_t event;
		unsigned n;
		bool signal;
	} cases[] = {
		{ 0, 1, true },  { 0, 1, false },  { 2, 1, true },  { 5, 2, false },
		{ 5, 1, true },  { 8, 4, true },   { 9, 4, false }, { 13, 1, false },
		{ 15, 3, true }, { 16, 0, false },
	};

	start(SIZE, true);
	drv.avail->flags = VIRTQ_AVAIL_F_NO_INTERRUPT; /* means nothing with EVENT_IDX */
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		*driver_used_event(&drv) = cases[i].event;
		for (unsigned k = 0; k < cases[i].n; k++) {
			driver_add(&drv, &piece, 1);
			assert_int_equal(pop(), 1);
			virtq_push(&vq, chain.head, 0);
		}
		assert_int_equal(virtq_should_signal(&vq), cases[i].signal);
	}
}

static void notifications_by_flag(void **state)
{
	const struct driver_piece piece = { DRIVER_BUFFERS, 64, true };

	virtq_disable_notify(&vq);
	assert_int_equal(drv.used->flags, VIRTQ_USED_F_NO_NOTIFY);
	driver_add(&drv, &piece, 1);
	assert_true(virtq_enable_notify(&vq));
	assert_int_equal(drv.used->flags, 0);
	virtq_disable_notify(&vq);
	assert_int_equal(pop(), 1);
	assert_false(virtq_enable_notify(&vq));
	/* A chain given back is not news. */
	virtq_disable_notify(&vq);
	virtq_unpop(&vq);
	assert_false(virtq_enable_notify(&vq));
	driver_add(&drv, &piece, 1);
	assert_true(virtq_enable_notify(&vq));
}

static void notifications_by_event(void **state)
{
	const struct driver_piece piece = { DRIVER_BUFFERS, 64, true };

	start(SIZE, true);
	for (unsigned i = 0; i < 3; i++)
		driver_add(&drv, &piece, 1);
	virtq_disable_notify(&vq);
	assert_int_equal(drv.used->flags, 0); /* always, §2.7.10.2 */
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(pop(), 1);
	assert_int_equal(pop(), 0);
	assert_int_equal(driver_avail_event(&drv), 0);
	assert_false(virtq_enable_notify(&vq));
	assert_int_equal(driver_avail_event(&drv), 3);
	/* With notifications on, running dry asks for the next one by itself. */
	driver_add(&drv, &piece, 1);
	assert_int_equal(pop(), 1);
	assert_int_equal(pop(), 0);
	assert_int_equal(driver_avail_event(&drv), 4);
	driver_add(&drv, &piece, 1);
	assert_true(virtq_enable_notify(&vq));
}

/* --- iovecs ---- */

static void iov_access(void **state)
{
	char a[4] = "abcd", b[3] = "efg", c[5] = "hijkl", buf[16] = "";
	struct iovec v[] = { { a, 4 }, { b, 3 }, { b, 0 }, { c, 5 } }, *rest;
	unsigned n = 4;

	assert_int_equal(iov_to_buf(v, 4, 3, buf, 6), 6);
	assert_memory_equal(buf, "defghi", 6);
	assert_int_equal(iov_to_buf(v, 4, 10, buf, 6), 2);
	assert_int_equal(iov_to_buf(v, 4, 12, buf, 6), 0);
	assert_int_equal(iov_from_buf(v, 4, 6, "XYZ", 3), 3);
	assert_memory_equal(b, "efX", 3);
	assert_memory_equal(c, "YZjkl", 5);
	rest = iov_skip(v, &n, 8);
	assert_int_equal(n, 1);
	assert_ptr_equal(rest->iov_base, c + 1);
	assert_int_equal(rest->iov_len, 4);
	rest = iov_skip(rest, &n, 4);
	assert_int_equal(n, 0);
}

/* --- At random: what the walker makes of a chain, against what was put into it ---- */

struct expected {
	uint64_t out_bytes, in_bytes;
	uint8_t kinds[VIRTQ_MAX_SEGMENTS];
	struct driver_piece pieces[VIRTQ_MAX_SEGMENTS];
	unsigned n;
};

static void random_pieces(struct expected *e, unsigned n)
{
	const unsigned n_out = rand() % (n + 1);

	*e = (struct expected){ .n = n };
	for (unsigned i = 0; i < n; i++) {
		struct driver_piece *p = &e->pieces[i];

		p->len = 1 + rand() % 3000;
		p->write = i >= n_out;
		p->gpa = DRIVER_BUFFERS + rand() % 0x100000;
		if (i && rand() % 3 == 0)
			p->gpa = p[-1].gpa + p[-1].len;
		*(p->write ? &e->in_bytes : &e->out_bytes) += p->len;
	}
}

static void lay_pieces(struct virtq_desc *table, unsigned entries, const struct expected *e,
		       unsigned from, unsigned *order)
{
	for (unsigned i = from; i < e->n; i++)
		driver_desc(&table[order[i - from] % entries], e->pieces[i].gpa, e->pieces[i].len,
			    (e->pieces[i].write ? VIRTQ_DESC_F_WRITE : 0) |
				    (i + 1 < e->n ? VIRTQ_DESC_F_NEXT : 0),
			    order[i + 1 - from] % entries);
}

static void shuffle(unsigned *order, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		order[i] = i;
	for (unsigned i = n; i > 1; i--) {
		unsigned k = rand() % i, t = order[i - 1];

		order[i - 1] = order[k];
		order[k] = t;
	}
}

/* Address by address, whatever was merged. */
static void compare(const struct expected *e)
{
	unsigned k = 0;
	size_t at = 0;

	assert_int_equal(chain.out_bytes, e->out_bytes);
	assert_int_equal(chain.in_bytes, e->in_bytes);
	for (unsigned i = 0; i < e->n; i++) {
		const struct driver_piece *p = &e->pieces[i];

		assert_true(k < (unsigned)chain.n_out + chain.n_in);
		assert_int_equal(p->write, k >= chain.n_out);
		assert_ptr_equal((char *)iov[k].iov_base + at, gmem_slice(&gm, p->gpa, p->len));
		at += p->len;
		assert_true(at <= iov[k].iov_len);
		if (at == iov[k].iov_len) {
			k++;
			at = 0;
		}
	}
	assert_int_equal(k, chain.n_out + chain.n_in);
}

static void random_chains(void **state)
{
	static struct expected e;
	static unsigned order[257];

	for (unsigned round = 0; round < 20000; round++) {
		const unsigned n = 1 + rand() % 40, direct = rand() % 3 ? rand() % (n + 1) : n;

		start(64, rand() % 2);
		random_pieces(&e, n);
		shuffle(order, 64);
		lay_pieces(drv.desc, 64, &e, 0, order);
		if (direct < n) {
			struct virtq_desc *table = gmem_slice(&gm, TABLE + 0x80000, 16 * 256);
			static unsigned inner[257];

			shuffle(inner + 1, 255);
			for (unsigned i = 1; i < 256; i++)
				inner[i]++;
			inner[0] = 0; /* a table begins at its beginning */
			lay_pieces(table, 256, &e, direct, inner);
			driver_desc(&drv.desc[order[direct]], TABLE + 0x80000, 16 * 256,
				    VIRTQ_DESC_F_INDIRECT, rand());
		}
		driver_offer(&drv, order[0]);
		driver_publish(&drv);
		assert_int_equal(pop(), 1);
		compare(&e);
	}
}

/* --- Two threads: no kick and no interrupt may get lost ---- */

#define PING_PONGS 200000

static sem_t kicked, interrupted;
static volatile bool stop_device;

static void wait_or_die(sem_t *sem, const char *who)
{
	struct timespec deadline;

	clock_gettime(CLOCK_REALTIME, &deadline);
	deadline.tv_sec += 20;
	while (sem_timedwait(sem, &deadline) < 0)
		if (errno == ETIMEDOUT)
			fail_msg("%s waits for what got lost", who);
}

static void *device_thread(void *opaque)
{
	while (!stop_device) {
		do {
			virtq_disable_notify(&vq);
			while (pop() > 0)
				virtq_push(&vq, chain.head, 1);
			if (virtq_should_signal(&vq))
				sem_post(&interrupted);
		} while (virtq_enable_notify(&vq));
		sem_wait(&kicked);
	}
	return NULL;
}

static bool wants_kick(uint16_t old)
{
	const uint16_t new = drv.avail_idx;

	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (!vq.event_idx)
		return !(__atomic_load_n(&drv.used->flags, __ATOMIC_RELAXED) &
			 VIRTQ_USED_F_NO_NOTIFY);
	return (uint16_t)(new - driver_avail_event(&drv) - 1) < (uint16_t)(new - old);
}

static void drive(unsigned total)
{
	const struct driver_piece piece = { DRIVER_BUFFERS, 64, true };
	unsigned added = 0, taken = 0;
	struct virtq_used_elem elem;

	while (taken < total) {
		const uint16_t old = drv.avail_idx;

		for (unsigned n = 1 + added % 3; n && added < total && added - taken < SIZE; n--) {
			driver_add(&drv, &piece, 1);
			added++;
		}
		if (drv.avail_idx != old && wants_kick(old))
			sem_post(&kicked);
		while (driver_used(&drv, &elem))
			taken++;
		if (taken == added)
			continue;
		/* Ask for an interrupt at the next element, and look once more. */
		__atomic_store_n(driver_used_event(&drv), drv.last_used, __ATOMIC_RELAXED);
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		if (__atomic_load_n(&drv.used->idx, __ATOMIC_ACQUIRE) == drv.last_used)
			wait_or_die(&interrupted, "the driver");
	}
}

static void ping_pong(bool event_idx)
{
	pthread_t thread;

	start(SIZE, event_idx);
	sem_init(&kicked, 0, 0);
	sem_init(&interrupted, 0, 0);
	stop_device = false;
	pthread_create(&thread, NULL, device_thread, NULL);
	drive(PING_PONGS);
	stop_device = true;
	sem_post(&kicked);
	pthread_join(thread, NULL);
	assert_false(vq.broken);
	assert_int_equal(vq.in_flight, 0);
}

static void nothing_gets_lost(void **state)
{
	ping_pong(true);
	ping_pong(false);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(chain_of_both_kinds),
		T(adjacent_pieces_merge),
		T(indirect_table),
		T(direct_then_indirect),
		T(indices_wrap),
		T(unpop_gives_back),
		T(fill_then_flush),
		T(pushed_is_told),
		T(filled_is_told),
		T(broken_is_told),
		T(changed_descriptors),
		T(start_checks_rings),
		T(off_is_quiet),
		T(head_outside),
		T(next_outside),
		T(loop_of_itself),
		T(loop_that_merges),
		T(bad_lengths),
		T(outside_ram),
		T(readable_after_writable),
		T(too_many_pieces),
		T(too_long),
		T(bad_indirect),
		T(index_runs_ahead),
		T(too_many_in_flight),
		T(interrupts_by_flag),
		T(interrupts_by_event),
		T(notifications_by_flag),
		T(notifications_by_event),
		T(iov_access),
		T(random_chains),
		T(nothing_gets_lost),
	};

	srand(20220701);
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
