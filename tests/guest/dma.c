/*
 * Code that devices write: what was executed at an address is overwritten there by a disk, an
 * entropy source or a balloon, and executed again. The processor must run what is in memory, by the
 * time the driver has seen the used ring move, without having been told that code has changed (the
 * x86 keeps its instruction caches coherent with devices too).
 *
 * Needs a disk of 64 KiB or more (its content is lost), a virtio-rng-pci and a virtio-balloon-pci.
 */
#include "virtio.h"

#define HEADER    (BUFFERS + 0x0000)
#define STATUS    (BUFFERS + 0x1000)
#define TABLE     (BUFFERS + 0x2000) /* an indirect one */
#define DATA      (BUFFERS + 0x3000)
#define CODE      0x600000u /* CODE_TEXT in assembly */
#define CODE_TEXT "0x600000"
#define PAGE      4096u
#define SECTOR    512u
#define WAIT_US   5000000
#define ROUNDS    20

enum { BLK_IN = 0, BLK_OUT = 1 };

static struct vdev blk, rng, balloon;

/* movl $value, %eax; ret */
#define FUNCTION_SIZE 6
static void put_function(uint32_t at, uint32_t value)
{
	write8(at, 0xb8);
	write32(at + 1, value);
	write8(at + 5, 0xc3);
}

static uint32_t call_function(uint32_t at)
{
	return ((uint32_t(*)(void))at)();
}

/* --- The disk ---- */

struct piece {
	uint32_t at, len;
};

/* Puts a request into a table of descriptors: header, data, status. */
static void describe(struct desc *table, uint32_t type, uint32_t sector, const struct piece *pieces,
		     unsigned n)
{
	const uint16_t data_flags = DESC_NEXT | (type == BLK_IN ? DESC_WRITE : 0);

	memset((void *)HEADER, 0, 16);
	write32(HEADER, type);
	write32(HEADER + 8, sector);
	write8(STATUS, 0xff);
	table[0] = (struct desc){ HEADER, 16, DESC_NEXT, 1 };
	for (unsigned i = 0; i < n; i++)
		table[1 + i] = (struct desc){ pieces[i].at, pieces[i].len, data_flags, 2 + i };
	table[1 + n] = (struct desc){ STATUS, 1, DESC_WRITE, 0 };
}

static void offer(uint32_t type, uint32_t sector, const struct piece *pieces, unsigned n)
{
	describe((struct desc *)blk.queues[0].desc, type, sector, pieces, n);
	queue_offer(&blk.queues[0], 0);
}

static void finish(void)
{
	CHECK(vdev_wait(&blk, 0, WAIT_US));
	CHECK(read8(STATUS) == 0);
}

static void transfer(uint32_t type, uint32_t sector, uint32_t at, uint32_t len)
{
	offer(type, sector, &(struct piece){ at, len }, 1);
	vdev_kick(&blk, 0);
	finish();
}

/* Sector i returns i, and so does each further one up to n. */
static void fill_disk(unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		memset((void *)(DATA + i * SECTOR), 0x90, SECTOR);
		put_function(DATA + i * SECTOR, i);
	}
	transfer(BLK_OUT, 0, DATA, n * SECTOR);
}

static void read_over_code(void)
{
	for (unsigned i = 0; i < ROUNDS; i++) {
		transfer(BLK_IN, i, CODE, SECTOR);
		CHECK(call_function(CODE) == i);
	}
}

/* The instruction itself lies in two pages, and only one of them is written. */
static void read_over_half(void)
{
	const uint32_t at = CODE + PAGE - 3;

	for (unsigned i = 0; i < ROUNDS; i++) {
		put_function(at, 0);
		CHECK(call_function(at) == 0);
		memset((void *)DATA, i, SECTOR);
		write8(DATA + 2, 0xc3);
		transfer(BLK_OUT, 100, DATA, SECTOR);
		transfer(BLK_IN, 100, CODE + PAGE, SECTOR);
		CHECK(call_function(at) == i * 0x01010000);
	}
}

/* Many pages by one request, all of which were executed before. */
static void read_many_pages(void)
{
	for (unsigned round = 0; round < 3; round++) {
		for (unsigned i = 0; i < 12; i++)
			put_function(DATA + i * PAGE, round * 100 + i);
		transfer(BLK_OUT, 0, DATA, 12 * PAGE);
		transfer(BLK_IN, 0, CODE, 12 * PAGE);
		for (unsigned i = 0; i < 12; i++)
			CHECK(call_function(CODE + i * PAGE) == round * 100 + i);
	}
}

/* Pieces in any order, through an indirect table where the device has that. */
static void read_pieces(bool indirect)
{
	const struct piece pieces[] = {
		{ CODE + 5 * PAGE, SECTOR },
		{ CODE, SECTOR },
		{ CODE + 2 * PAGE - SECTOR, SECTOR },
		{ CODE + 9 * PAGE, 2 * SECTOR },
	};
	struct queue *q = &blk.queues[0];

	for (unsigned sector = 0; sector < ROUNDS; sector++) {
		offer(BLK_IN, sector, pieces, ARRAY_SIZE(pieces));
		if (indirect) {
			memcpy((void *)TABLE, (const void *)q->desc, 6 * sizeof(struct desc));
			queue_desc(q, 0, TABLE, 6 * sizeof(struct desc), DESC_INDIRECT, 0);
		}
		vdev_kick(&blk, 0);
		finish();
		for (unsigned i = 0; i < ARRAY_SIZE(pieces); i++)
			CHECK(call_function(pieces[i].at) == sector + i);
	}
}

/*
 * Waits without leaving the guest, and goes straight into the new code: a call to a fixed address,
 * as a translator would chain it.
 */
static uint32_t spin_and_call(volatile uint16_t *idx, uint16_t want)
{
	uint32_t result;

	__asm__ volatile("1: cmpw %w2, %1; jne 1b; call " CODE_TEXT
			 : "=&a"(result)
			 : "m"(*idx), "r"((uint32_t)want)
			 : "memory");
	return result;
}

static void spin_into_new_code(void)
{
	struct queue *q = &blk.queues[0];

	for (unsigned i = 0; i < 5 * ROUNDS; i++) {
		offer(BLK_IN, i % ROUNDS, &(struct piece){ CODE, SECTOR }, 1);
		vdev_kick(&blk, 0);
		CHECK(spin_and_call(&q->used->idx, q->avail_idx) == i % ROUNDS);
		finish();
	}
}

/* A loop without an exit or end: movw $0, notify; jmp itself. The disk puts NOPs in its place. */
static void loop_until_overwritten(void)
{
	memset((void *)DATA, 0x90, SECTOR);
	put_function(DATA + SECTOR - FUNCTION_SIZE, 1234);
	transfer(BLK_OUT, 0, DATA, SECTOR);
	for (unsigned i = 0; i < ROUNDS; i++) {
		static const uint8_t movw[] = { 0x90, 0x66, 0xc7, 0x05 };

		memcpy((void *)CODE, movw, sizeof(movw));
		write32(CODE + 4, blk.queues[0].notify);
		write16(CODE + 8, 0);
		write16(CODE + 10, 0xfeeb);
		offer(BLK_IN, 0, &(struct piece){ CODE, SECTOR }, 1);
		CHECK(call_function(CODE) == 1234);
		finish();
	}
}

/* --- Others ---- */

static void random_over_code(void)
{
	struct queue *q = &rng.queues[0];

	for (unsigned i = 0; i < ROUNDS; i++) {
		put_function(CODE, i);
		CHECK(call_function(CODE) == i);
		queue_desc(q, 0, CODE + 1, 4, DESC_WRITE, 0);
		queue_offer(q, 0);
		vdev_kick(&rng, 0);
		CHECK(vdev_wait(&rng, 0, WAIT_US));
		CHECK(call_function(CODE) == read32(CODE + 1));
	}
}

/* Pages given to the balloon read as zeros: so many "addb %al, (%eax)", and at the end a RET. */
static void balloon_over_code(void)
{
	struct queue *q = &balloon.queues[0];

	for (unsigned i = 0; i < 3; i++) {
		uint32_t value = 0, eax = (uint32_t)&value;

		memset((void *)CODE, 0x90, PAGE);
		put_function(CODE + PAGE - FUNCTION_SIZE, 1);
		write8(CODE + PAGE, 0xc3);
		CHECK(call_function(CODE) == 1);
		write32(DATA, CODE / PAGE);
		queue_desc(q, 0, DATA, 4, 0, 0);
		queue_offer(q, 0);
		vdev_kick(&balloon, 0);
		CHECK(vdev_wait(&balloon, 0, WAIT_US));
		__asm__ volatile("call " CODE_TEXT : "+a"(eax) : : "memory");
		CHECK(eax == (uint32_t)&value);
	}
}

void guest_main(void)
{
	CHECK(vdev_find(&blk, VIRTIO_BLK, 0));
	blk.wanted = 1ull << F_INDIRECT;
	CHECK(vdev_start(&blk));
	fill_disk(ROUNDS + 8);
	print("a sector over code\n");
	read_over_code();
	print("half an instruction\n");
	read_over_half();
	print("pieces\n");
	fill_disk(ROUNDS + 8);
	read_pieces(false);
	if (blk.features & 1ull << F_INDIRECT)
		read_pieces(true);
	print("a wait that leads into new code\n");
	spin_into_new_code();
	print("many pages\n");
	read_many_pages();
	print("a loop that is overwritten\n");
	loop_until_overwritten();
	print("random numbers\n");
	CHECK(vdev_find(&rng, VIRTIO_RNG, 0) && vdev_start(&rng));
	random_over_code();
	print("a balloon\n");
	CHECK(vdev_find(&balloon, VIRTIO_BALLOON, 0) && vdev_start(&balloon));
	balloon_over_code();
	print("PASS\n");
	verdict(PASS);
}
