/*
 * Broken requests, device by device: well-formed chains whose content makes no sense. Virtio 1.2
 * §5.1 (net), §5.2 (blk), §5.3 (console), §5.4 (rng), §5.5 (balloon).
 */
#include "hostile.h"

#define ANSWER_MS 1000

static unsigned n_pieces;

/* Adds a piece to the chain being made in queue q, from descriptor 0 on. */
static void add(struct queue *q, uint64_t addr, uint32_t len, bool device_writes)
{
	if (n_pieces)
		q->desc[n_pieces - 1].flags |= DESC_NEXT;
	queue_desc(q, n_pieces, addr, len, device_writes ? DESC_WRITE : 0, n_pieces + 1);
	n_pieces++;
}

static void send(struct vdev *vd, unsigned q)
{
	queue_offer(&vd->queues[q], 0);
	vdev_kick(vd, q);
	n_pieces = 0;
}

static bool answered(struct vdev *vd, unsigned q)
{
	return vdev_wait(vd, q, ANSWER_MS * 1000) && !vdev_needs_reset(vd);
}

/* --- Block ---- */

#define BLK(name) static void blk_##name(struct vdev *vd)
enum { BLK_IN = 0, BLK_OUT = 1, BLK_FLUSH = 4, BLK_GET_ID = 8, BLK_DISCARD = 11, BLK_ZEROES = 13 };
enum { BLK_S_OK = 0, BLK_S_IOERR = 1, BLK_S_UNSUPP = 2 };
#define BLK_F_DISCARD (1ull << 13)
#define BLK_F_ZEROES  (1ull << 14)

static void blk_header(uint32_t type, uint64_t sector)
{
	write32(PLAIN_HEADER, type);
	write32(PLAIN_HEADER + 4, 0);
	write32(PLAIN_HEADER + 8, sector);
	write32(PLAIN_HEADER + 12, sector >> 32);
	write8(PLAIN_STATUS, 0xff);
}

/* A request with one buffer; the answer, or -1 when the device broke or never answered. */
static int blk(struct vdev *vd, uint32_t type, uint64_t sector, uint32_t len, bool device_writes)
{
	struct queue *q = &vd->queues[0];

	blk_header(type, sector);
	add(q, PLAIN_HEADER, 16, false);
	if (len)
		add(q, SCRATCH, len, device_writes);
	add(q, PLAIN_STATUS, 1, true);
	send(vd, 0);
	return answered(vd, 0) ? read8(PLAIN_STATUS) : -1;
}

BLK(no_status)
{
	blk_header(BLK_IN, 0);
	add(&vd->queues[0], PLAIN_HEADER, 16, false);
	send(vd, 0);
}

BLK(status_only)
{
	add(&vd->queues[0], PLAIN_STATUS, 1, true);
	send(vd, 0);
}

BLK(header_short)
{
	blk_header(BLK_IN, 0);
	add(&vd->queues[0], PLAIN_HEADER, 8, false);
	add(&vd->queues[0], PLAIN_STATUS, 1, true);
	send(vd, 0);
}

/* No framing may be assumed (§2.7.4): this one is fine. */
BLK(header_split)
{
	struct queue *q = &vd->queues[0];

	blk_header(BLK_IN, 0);
	add(q, PLAIN_HEADER, 3, false);
	add(q, PLAIN_HEADER + 3, 13, false);
	add(q, SCRATCH, 200, true);
	add(q, SCRATCH + 200, 312, true);
	add(q, PLAIN_STATUS, 1, true);
	send(vd, 0);
	if (!answered(vd, 0) || read8(PLAIN_STATUS) != BLK_S_OK)
		complain("A header in two pieces is refused");
}

BLK(status_nowhere)
{
	struct queue *q = &vd->queues[0];

	blk_header(BLK_IN, 0);
	add(q, PLAIN_HEADER, 16, false);
	add(q, SCRATCH, 512, true);
	add(q, NOWHERE, 1, true);
	send(vd, 0);
}

BLK(unknown_type)
{
	if (blk(vd, 0x1234, 0, 512, true) != BLK_S_UNSUPP)
		complain("An unknown request is not answered with UNSUPP");
}

BLK(past_end)
{
	if (blk(vd, BLK_IN, 1ull << 40, 512, true) != BLK_S_IOERR)
		complain("A read past the end is not answered with IOERR");
	if (blk(vd, BLK_OUT, 1ull << 40, 512, false) != BLK_S_IOERR)
		complain("A write past the end is not answered with IOERR");
}

BLK(sector_wraps)
{
	static const uint64_t sectors[] = { ~0ull, 1ull << 55, (1ull << 55) - 1, 1ull << 63,
					    0x7fffffffffffffull };

	for (unsigned i = 0; i < ARRAY_SIZE(sectors); i++) {
		if (blk(vd, BLK_IN, sectors[i], 1024, true) != BLK_S_IOERR)
			complain("A sector whose byte offset wraps is not answered with IOERR");
		if (blk(vd, BLK_OUT, sectors[i], 1024, false) != BLK_S_IOERR)
			complain("A sector whose byte offset wraps is not answered with IOERR");
	}
}

BLK(odd_length)
{
	if (blk(vd, BLK_IN, 0, 513, true) == BLK_S_OK)
		complain("A read of 513 bytes goes well");
}

BLK(no_data)
{
	blk(vd, BLK_IN, 0, 0, true);
	blk(vd, BLK_OUT, 0, 0, false);
	blk(vd, BLK_GET_ID, 0, 0, true);
}

BLK(wrong_direction)
{
	blk(vd, BLK_IN, 0, 512, false);
	blk(vd, BLK_OUT, 0, 512, true);
	blk(vd, BLK_GET_ID, 0, 20, false);
}

BLK(huge)
{
	struct queue *q = &vd->queues[0];

	blk_header(BLK_IN, 0);
	add(q, PLAIN_HEADER, 16, false);
	while (n_pieces < QUEUE_SIZE - 1)
		add(q, SCRATCH, BUFFERS_SIZE - 0x10000, true);
	add(q, PLAIN_STATUS, 1, true);
	send(vd, 0);
}

BLK(id_short)
{
	blk(vd, BLK_GET_ID, 0, 5, true);
	blk(vd, BLK_GET_ID, 0, 4096, true);
}

/* §5.2.6: segments of sector, number of sectors, flags. */
static void segments(struct vdev *vd, uint32_t type)
{
	static const struct {
		uint64_t sector;
		uint32_t n, flags, len;
	} wrong[] = {
		{ 0, 0xffffffff, 0, 16 }, { ~0ull, 1, 0, 16 },      { ~0ull, 0xffffffff, 0, 16 },
		{ 0, 1, 0xffffffff, 16 }, { 0, 1, 0, 15 },          { 0, 1, 0, 1 },
		{ 0, 0, 0, 16 },          { 1ull << 55, 8, 0, 16 }, { 0, 8, 0, 0x100000 },
		{ 0, 8, 1, 16 },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(wrong); i++) {
		write32(SCRATCH, wrong[i].sector);
		write32(SCRATCH + 4, wrong[i].sector >> 32);
		write32(SCRATCH + 8, wrong[i].n);
		write32(SCRATCH + 12, wrong[i].flags);
		blk(vd, type, 0, wrong[i].len, false);
	}
}

BLK(discard)
{
	segments(vd, BLK_DISCARD);
}

BLK(write_zeroes)
{
	segments(vd, BLK_ZEROES);
}

BLK(flush_with_data)
{
	blk(vd, BLK_FLUSH, ~0ull, 4096, false);
	blk(vd, BLK_FLUSH, 0, 4096, true);
}

/* The disk's first sector becomes the descriptor table. */
BLK(read_over_descriptors)
{
	struct queue *q = &vd->queues[0];

	blk_header(BLK_IN, 0);
	add(q, PLAIN_HEADER, 16, false);
	add(q, (uint32_t)q->desc, 512, true);
	add(q, PLAIN_STATUS, 1, true);
	send(vd, 0);
	vdev_wait(vd, 0, ANSWER_MS * 1000);
}

/* --- Network ---- */

#define NET(name)      static void net_##name(struct vdev *vd)
#define NET_HEADER     12
#define NET_F_CTRL     (1ull << 17 | 1ull << 18 | 1ull << 19 | 1ull << 22 | 1ull << 23)
#define NET_F_CTRL_VQ  17
#define NET_F_OFFLOADS 0x7fffull
#define NET_TX         1

NET(header_short)
{
	add(&vd->queues[NET_TX], PLAIN_HEADER, 4, false);
	send(vd, NET_TX);
}

NET(header_only)
{
	memset((void *)PLAIN_HEADER, 0, NET_HEADER);
	add(&vd->queues[NET_TX], PLAIN_HEADER, NET_HEADER, false);
	send(vd, NET_TX);
}

NET(one_byte_frame)
{
	memset((void *)PLAIN_HEADER, 0, NET_HEADER + 1);
	add(&vd->queues[NET_TX], PLAIN_HEADER, NET_HEADER + 1, false);
	send(vd, NET_TX);
}

NET(huge_frame)
{
	struct queue *q = &vd->queues[NET_TX];

	memset((void *)PLAIN_HEADER, 0, NET_HEADER);
	add(q, PLAIN_HEADER, NET_HEADER, false);
	while (n_pieces < QUEUE_SIZE)
		add(q, SCRATCH, 0x40000, false);
	send(vd, NET_TX);
}

NET(device_writes_tx)
{
	add(&vd->queues[NET_TX], SCRATCH, 1514, true);
	send(vd, NET_TX);
}

/* §5.1.6.2: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset that contradict. */
NET(offloads)
{
	for (unsigned i = 0; i < 32 && !vdev_needs_reset(vd); i++) {
		uint32_t len = 14 + random_below(9000);

		write8(PLAIN_HEADER, random32());
		write8(PLAIN_HEADER + 1, i & 1 ? random32() : 1 + random_below(5));
		for (unsigned at = 2; at < NET_HEADER; at += 2)
			write16(PLAIN_HEADER + at, i & 2 ? random32() : random_below(2048));
		add(&vd->queues[NET_TX], PLAIN_HEADER, NET_HEADER, false);
		add(&vd->queues[NET_TX], SCRATCH, len, false);
		send(vd, NET_TX);
		vdev_wait(vd, NET_TX, ANSWER_MS * 1000);
	}
}

/* Receive buffers of one byte, none the device may write, one nowhere. */
NET(receive_buffers)
{
	struct queue *q = &vd->queues[0];

	queue_desc(q, 0, SCRATCH, 1, DESC_WRITE, 0);
	queue_desc(q, 1, SCRATCH, 2048, 0, 0);
	queue_desc(q, 2, SCRATCH, 0, DESC_WRITE, 0);
	queue_desc(q, 3, NOWHERE, 2048, DESC_WRITE, 0);
	for (unsigned i = 0; i < 4; i++)
		queue_offer(q, i);
	vdev_kick(vd, 0);
	sleep_us(5000);
}

/* §5.1.6.5: class, command, data; the device answers with one byte. */
NET(control)
{
	static const struct {
		uint8_t class, command;
		uint32_t len, word;
	} wrong[] = {
		{ 0xff, 0xff, 16, 0 },   { 0, 0, 0, 0 },          { 0, 0xff, 1, 1 },
		{ 1, 0, 4, 0xffffffff }, { 1, 0, 3, 0 },          { 1, 0, 70000, 11000 },
		{ 1, 1, 5, 0 },          { 2, 0, 1, 0 },          { 2, 0, 2, 0xffff },
		{ 4, 0, 2, 0 },          { 4, 0, 2, 0x8001 },     { 4, 0, 1, 0 },
		{ 4, 1, 4, 0xffffffff }, { 5, 0, 8, 0xffffffff }, { 4, 0, 2, 2 },
	};
	unsigned ctrl = vd->n_queues - 1;
	struct queue *q = &vd->queues[ctrl];

	if (!(vd->features >> NET_F_CTRL_VQ & 1))
		return;
	for (unsigned i = 0; i < ARRAY_SIZE(wrong) && !vdev_needs_reset(vd); i++) {
		write8(PLAIN_HEADER, wrong[i].class);
		write8(PLAIN_HEADER + 1, wrong[i].command);
		write32(SCRATCH, wrong[i].word);
		add(q, PLAIN_HEADER, 2, false);
		if (wrong[i].len)
			add(q, SCRATCH, wrong[i].len, false);
		add(q, PLAIN_STATUS, 1, true);
		send(vd, ctrl);
		if (!vdev_wait(vd, ctrl, ANSWER_MS * 1000))
			complain("A control request is never answered");
	}
}

NET(control_without_answer)
{
	unsigned ctrl = vd->n_queues - 1;

	if (!(vd->features >> NET_F_CTRL_VQ & 1))
		return;
	add(&vd->queues[ctrl], PLAIN_HEADER, 2, false);
	send(vd, ctrl);
	vdev_wait(vd, ctrl, 100000);
	if (vdev_needs_reset(vd))
		return;
	add(&vd->queues[ctrl], PLAIN_HEADER, 1, false);
	add(&vd->queues[ctrl], PLAIN_STATUS, 1, true);
	send(vd, ctrl);
	vdev_wait(vd, ctrl, 100000);
}

/* --- Console ---- */

#define CONSOLE(name)       static void console_##name(struct vdev *vd)
#define CONSOLE_F_MULTIPORT (1ull << 1)
#define CONSOLE_TX          1
#define CONSOLE_CONTROL_TX  3

CONSOLE(huge_output)
{
	struct queue *q = &vd->queues[CONSOLE_TX];

	while (n_pieces < QUEUE_SIZE)
		add(q, SCRATCH, 0x10000, false);
	send(vd, CONSOLE_TX);
}

CONSOLE(device_writes_output)
{
	add(&vd->queues[CONSOLE_TX], SCRATCH, 64, true);
	send(vd, CONSOLE_TX);
}

CONSOLE(input_read_only)
{
	add(&vd->queues[0], SCRATCH, 64, false);
	send(vd, 0);
	sleep_us(5000);
}

/* §5.3.6.2: id, event, value */
CONSOLE(control)
{
	static const struct {
		uint32_t id;
		uint16_t event, value, len;
	} wrong[] = {
		{ 0xffffffff, 3, 1, 8 }, { 0, 0, 0, 8 },          { 0, 3, 1, 8 },
		{ 0, 3, 1, 8 },          { 0, 6, 1, 8 },          { 0, 6, 0, 8 },
		{ 0, 6, 0xffff, 8 },     { 31, 6, 1, 8 },         { 32, 6, 1, 8 },
		{ 0, 0xffff, 1, 8 },     { 0, 3, 1, 3 },          { 0, 3, 1, 0 },
		{ 0, 7, 1, 4096 },       { 0x80000000, 6, 1, 8 }, { 0, 0, 1, 8 },
		{ 0, 3, 1, 8 },
	};
	struct queue *q = &vd->queues[CONSOLE_CONTROL_TX];

	if (!(vd->features & CONSOLE_F_MULTIPORT))
		return;
	for (unsigned i = 0; i < ARRAY_SIZE(wrong) && !vdev_needs_reset(vd); i++) {
		write32(SCRATCH, wrong[i].id);
		write16(SCRATCH + 4, wrong[i].event);
		write16(SCRATCH + 6, wrong[i].value);
		add(q, SCRATCH, wrong[i].len, false);
		send(vd, CONSOLE_CONTROL_TX);
		if (!vdev_wait(vd, CONSOLE_CONTROL_TX, ANSWER_MS * 1000))
			complain("A control message is never taken");
	}
}

/* --- Entropy ---- */

#define RNG(name) static void rng_##name(struct vdev *vd)

RNG(device_reads)
{
	add(&vd->queues[0], SCRATCH, 64, false);
	send(vd, 0);
}

RNG(huge)
{
	while (n_pieces < QUEUE_SIZE)
		add(&vd->queues[0], SCRATCH, BUFFERS_SIZE - 0x10000, true);
	send(vd, 0);
}

RNG(over_rings)
{
	struct queue *q = &vd->queues[0];

	add(q, (uint32_t)q->desc, 256, true);
	send(vd, 0);
	vdev_wait(vd, 0, ANSWER_MS * 1000);
}

/* --- Balloon ---- */

#define BALLOON(name)       static void balloon_##name(struct vdev *vd)
#define BALLOON_F_STATS     (1ull << 1)
#define BALLOON_F_REPORTING (1ull << 5)

static void balloon_send(struct vdev *vd, unsigned q, uint32_t len)
{
	add(&vd->queues[q], SCRATCH, len, false);
	send(vd, q);
	vdev_wait(vd, q, ANSWER_MS * 1000);
}

BALLOON(page_none_of)
{
	static const uint32_t pages[] = { 0xffffffff, 0x7fffffff, NOWHERE >> 12,
					  0xfee00,    0x100000,   0x80000 };

	for (unsigned i = 0; i < ARRAY_SIZE(pages); i++)
		write32(SCRATCH + 4 * i, pages[i]);
	balloon_send(vd, 0, sizeof(pages));
	if (!vdev_needs_reset(vd))
		balloon_send(vd, 1, sizeof(pages));
}

BALLOON(odd_length)
{
	static const uint32_t lengths[] = { 1, 2, 3, 5, 7, 1023 };

	for (unsigned i = 0; i < 1024; i++)
		write32(SCRATCH + 4 * i, (ARENA + ARENA_SIZE - 0x1000) >> 12);
	for (unsigned i = 0; i < ARRAY_SIZE(lengths) && !vdev_needs_reset(vd); i++)
		balloon_send(vd, i & 1, lengths[i]);
}

/* A page a thousand times over, and back what never was inflated. */
BALLOON(same_page)
{
	for (unsigned i = 0; i < 1000; i++)
		write32(SCRATCH + 4 * i, (ARENA + ARENA_SIZE - 0x1000) >> 12);
	balloon_send(vd, 0, 4000);
	for (unsigned i = 0; i < 8; i++)
		write32(SCRATCH + 4 * i, i + (ARENA >> 12));
	if (!vdev_needs_reset(vd))
		balloon_send(vd, 1, 32);
}

/* The rings' own page: what the device reads next is zeroes. */
BALLOON(own_rings)
{
	vdev_start(vd);
	write32(SCRATCH, ARENA >> 12);
	write32(SCRATCH + 4, (ARENA >> 12) + 1);
	write32(SCRATCH + 8, (ARENA >> 12) + 2);
	add(&vd->queues[0], SCRATCH, 12, false);
	send(vd, 0);
	sleep_us(20000);
	vd->queues[0].size = 0;
}

BALLOON(device_writes)
{
	add(&vd->queues[0], SCRATCH, 64, true);
	send(vd, 0);
}

BALLOON(statistics)
{
	static const uint32_t lengths[] = { 10, 9, 100, 10000, 1 };

	if (!(vd->features & BALLOON_F_STATS))
		return;
	memset((void *)SCRATCH, 0xff, 4096);
	for (unsigned i = 0; i < ARRAY_SIZE(lengths) && !vdev_needs_reset(vd); i++) {
		/* The device keeps the buffer till it wants news: nothing to wait for. */
		add(&vd->queues[2], SCRATCH, lengths[i], false);
		send(vd, 2);
		sleep_us(2000);
	}
}

BALLOON(reporting)
{
	unsigned q = vd->n_queues - 1;

	if (!(vd->features & BALLOON_F_REPORTING))
		return;
	add(&vd->queues[q], SCRATCH + 1, 0x1ffe, true);
	add(&vd->queues[q], ARENA + ARENA_SIZE - 0x2000, 0x1000, true);
	send(vd, q);
	vdev_wait(vd, q, 100000);
	if (vdev_needs_reset(vd))
		return;
	add(&vd->queues[q], SCRATCH, 0x1000, false);
	send(vd, q);
	vdev_wait(vd, q, 100000);
}

#define FOR(type) .types = 1u << VIRTIO_##type

const struct test device_tests[] = {
	{ "blk-no-status", EITHER, blk_no_status, FOR(BLK) },
	{ "blk-status-only", EITHER, blk_status_only, FOR(BLK) },
	{ "blk-header-short", EITHER, blk_header_short, FOR(BLK) },
	{ "blk-header-split", LIVES, blk_header_split, FOR(BLK) },
	{ "blk-status-nowhere", BREAKS, blk_status_nowhere, FOR(BLK) },
	{ "blk-unknown-type", LIVES, blk_unknown_type, FOR(BLK) },
	{ "blk-past-end", LIVES, blk_past_end, FOR(BLK) },
	{ "blk-sector-wraps", LIVES, blk_sector_wraps, FOR(BLK) },
	{ "blk-odd-length", EITHER, blk_odd_length, FOR(BLK) },
	{ "blk-no-data", EITHER, blk_no_data, FOR(BLK) },
	{ "blk-wrong-direction", EITHER, blk_wrong_direction, FOR(BLK) },
	{ "blk-huge", EITHER, blk_huge, FOR(BLK) },
	{ "blk-id-short", EITHER, blk_id_short, FOR(BLK) },
	{ "blk-discard", EITHER, blk_discard, FOR(BLK), BLK_F_DISCARD },
	{ "blk-write-zeroes", EITHER, blk_write_zeroes, FOR(BLK), BLK_F_ZEROES },
	{ "blk-flush-with-data", EITHER, blk_flush_with_data, FOR(BLK), 1ull << 9 },
	{ "blk-read-over-descriptors", EITHER, blk_read_over_descriptors, FOR(BLK) },
	{ "net-header-short", EITHER, net_header_short, FOR(NET) },
	{ "net-header-only", EITHER, net_header_only, FOR(NET) },
	{ "net-one-byte-frame", EITHER, net_one_byte_frame, FOR(NET) },
	{ "net-huge-frame", EITHER, net_huge_frame, FOR(NET) },
	{ "net-device-writes-tx", EITHER, net_device_writes_tx, FOR(NET) },
	{ "net-offloads", EITHER, net_offloads, FOR(NET), NET_F_OFFLOADS },
	{ "net-offloads-refused", EITHER, net_offloads, FOR(NET) },
	{ "net-receive-buffers", EITHER, net_receive_buffers, FOR(NET) },
	{ "net-control", EITHER, net_control, FOR(NET), NET_F_CTRL },
	{ "net-control-without-answer", EITHER, net_control_without_answer, FOR(NET), NET_F_CTRL },
	{ "console-huge-output", EITHER, console_huge_output, FOR(CONSOLE) },
	{ "console-device-writes-output", EITHER, console_device_writes_output, FOR(CONSOLE) },
	{ "console-input-read-only", EITHER, console_input_read_only, FOR(CONSOLE) },
	{ "console-control", EITHER, console_control, FOR(CONSOLE), CONSOLE_F_MULTIPORT },
	{ "rng-device-reads", EITHER, rng_device_reads, FOR(RNG) },
	{ "rng-huge", EITHER, rng_huge, FOR(RNG) },
	{ "rng-over-rings", EITHER, rng_over_rings, FOR(RNG) },
	{ "balloon-page-none-of", EITHER, balloon_page_none_of, FOR(BALLOON) },
	{ "balloon-odd-length", EITHER, balloon_odd_length, FOR(BALLOON) },
	{ "balloon-same-page", EITHER, balloon_same_page, FOR(BALLOON) },
	{ "balloon-own-rings", EITHER, balloon_own_rings, .starts = true, FOR(BALLOON) },
	{ "balloon-device-writes", EITHER, balloon_device_writes, FOR(BALLOON) },
	{ "balloon-statistics", EITHER, balloon_statistics, FOR(BALLOON), BALLOON_F_STATS },
	{ "balloon-reporting", EITHER, balloon_reporting, FOR(BALLOON), BALLOON_F_REPORTING },
	{},
};
