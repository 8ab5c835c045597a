/*
 * Broken descriptors and rings: Virtio 1.2 §2.7. Each test starts from a plain request in
 * descriptors 0 to n - 1 of the work queue and spoils it.
 */
#include "hostile.h"

#define TABLE SCRATCH /* an indirect table */

static struct queue *work(struct vdev *vd)
{
	return &vd->queues[work_queue(vd)];
}

static volatile struct desc *table(void)
{
	return (volatile struct desc *)TABLE;
}

static void set(volatile struct desc *d, uint64_t addr, uint32_t len, uint16_t flags, uint16_t next)
{
	d->addr = addr;
	d->len = len;
	d->flags = flags;
	d->next = next;
}

/* The plain request with the same flags in an indirect table, descriptor 0 pointing there. */
static unsigned indirect_request(struct vdev *vd)
{
	struct queue *q = work(vd);
	unsigned n = plain_request(vd);

	for (unsigned i = 0; i < n; i++)
		set(&table()[i], q->desc[i].addr, q->desc[i].len, q->desc[i].flags,
		    q->desc[i].next);
	queue_desc(q, 0, TABLE, n * sizeof(struct desc), DESC_INDIRECT, 0);
	return n;
}

/* --- Chains ---- */

static void head_out_of_range(struct vdev *vd)
{
	plain_request(vd);
	submit(vd, QUEUE_SIZE + 5);
}

static void head_max(struct vdev *vd)
{
	plain_request(vd);
	submit(vd, 0xffff);
}

static void next_out_of_range(struct vdev *vd)
{
	unsigned last = plain_request(vd) - 1;

	work(vd)->desc[last].flags |= DESC_NEXT;
	work(vd)->desc[last].next = QUEUE_SIZE;
	submit(vd, 0);
}

static void loop_to_self(struct vdev *vd)
{
	plain_request(vd);
	work(vd)->desc[0].flags |= DESC_NEXT;
	work(vd)->desc[0].next = 0;
	submit(vd, 0);
}

static void loop_of_two(struct vdev *vd)
{
	uint16_t direction;

	plain_request(vd);
	direction = work(vd)->desc[0].flags & DESC_WRITE;
	queue_desc(work(vd), 0, SCRATCH, 64, direction | DESC_NEXT, 1);
	queue_desc(work(vd), 1, SCRATCH, 64, direction | DESC_NEXT, 0);
	submit(vd, 0);
}

/* As many descriptors as there are, then back to the first. */
static void loop_of_all(struct vdev *vd)
{
	uint16_t direction;

	plain_request(vd);
	direction = work(vd)->desc[0].flags & DESC_WRITE;
	for (unsigned i = 0; i < QUEUE_SIZE; i++)
		queue_desc(work(vd), i, SCRATCH, 16, direction | DESC_NEXT, (i + 1) % QUEUE_SIZE);
	submit(vd, 0);
}

static void write_before_read(struct vdev *vd)
{
	queue_desc(work(vd), 0, SCRATCH, 64, DESC_WRITE | DESC_NEXT, 1);
	queue_desc(work(vd), 1, SCRATCH, 64, 0, 0);
	submit(vd, 0);
}

/* --- Buffers ---- */

static void spoil_buffer(struct vdev *vd, uint64_t addr, uint32_t len)
{
	plain_request(vd);
	work(vd)->desc[0].addr = addr;
	work(vd)->desc[0].len = len;
	submit(vd, 0);
}

static void buffer_nowhere(struct vdev *vd)
{
	spoil_buffer(vd, NOWHERE, 64);
}

static void buffer_past_ram(struct vdev *vd)
{
	spoil_buffer(vd, memory_end() - 16, 4096);
}

static void buffer_very_high(struct vdev *vd)
{
	spoil_buffer(vd, 1ull << 52, 64);
}

static void buffer_wraps(struct vdev *vd)
{
	spoil_buffer(vd, 0xfffffffffffff000ull, 0x2000);
}

static void buffer_of_4g(struct vdev *vd)
{
	spoil_buffer(vd, SCRATCH, 0xffffffff);
}

static void buffer_on_registers(struct vdev *vd)
{
	spoil_buffer(vd, vd->common, 0x38);
}

static void buffer_on_ecam(struct vdev *vd)
{
	spoil_buffer(vd, PCI_ECAM_BASE, 64);
}

static void buffer_on_apic(struct vdev *vd)
{
	spoil_buffer(vd, 0xfee00000u, 64);
}

static void buffer_empty(struct vdev *vd)
{
	spoil_buffer(vd, SCRATCH, 0);
}

static void unknown_flags(struct vdev *vd)
{
	plain_request(vd);
	work(vd)->desc[0].flags |= 0xfff8;
	submit(vd, 0);
}

/* --- Indirect tables ---- */

static void indirect(struct vdev *vd)
{
	indirect_request(vd);
	submit(vd, 0);
}

static void indirect_in_indirect(struct vdev *vd)
{
	indirect_request(vd);
	set(&table()[0], TABLE, 16, DESC_INDIRECT, 0);
	submit(vd, 0);
}

static void indirect_with_next(struct vdev *vd)
{
	indirect_request(vd);
	work(vd)->desc[0].flags |= DESC_NEXT;
	work(vd)->desc[0].next = 1;
	submit(vd, 0);
}

static void indirect_odd_length(struct vdev *vd)
{
	indirect_request(vd);
	work(vd)->desc[0].len += 7;
	submit(vd, 0);
}

static void indirect_empty(struct vdev *vd)
{
	indirect_request(vd);
	work(vd)->desc[0].len = 0;
	submit(vd, 0);
}

static void indirect_nowhere(struct vdev *vd)
{
	indirect_request(vd);
	work(vd)->desc[0].addr = NOWHERE;
	submit(vd, 0);
}

static void indirect_wraps(struct vdev *vd)
{
	indirect_request(vd);
	work(vd)->desc[0].addr = 0xfffffffffffffff0ull;
	work(vd)->desc[0].len = 64;
	submit(vd, 0);
}

/* A table of 4 GiB: whoever sizes an array by it is lost. */
static void indirect_huge(struct vdev *vd)
{
	indirect_request(vd);
	work(vd)->desc[0].len = 0xfffffff0;
	submit(vd, 0);
}

static void indirect_loop(struct vdev *vd)
{
	indirect_request(vd);
	table()[0].flags |= DESC_NEXT;
	table()[0].next = 0;
	submit(vd, 0);
}

static void indirect_next_out_of_range(struct vdev *vd)
{
	unsigned n = indirect_request(vd);

	table()[n - 1].flags |= DESC_NEXT;
	table()[n - 1].next = n;
	submit(vd, 0);
}

/* More pieces than any request may have: 128 KiB of table. */
static void indirect_long_chain(struct vdev *vd)
{
	unsigned n = 2048;
	uint16_t direction;

	plain_request(vd);
	direction = work(vd)->desc[0].flags & DESC_WRITE;
	for (unsigned i = 0; i < n; i++)
		set(&table()[i], BUFFERS + 0x100000 + i * 32, 16, direction | DESC_NEXT, i + 1);
	table()[n - 1].flags = direction;
	queue_desc(work(vd), 0, TABLE, n * sizeof(struct desc), DESC_INDIRECT, 0);
	submit(vd, 0);
}

/* --- Rings ---- */

static void avail_jumps(struct vdev *vd)
{
	struct queue *q = work(vd);

	plain_request(vd);
	q->avail->idx = q->avail_idx += QUEUE_SIZE + 1;
	vdev_kick(vd, work_queue(vd));
}

static void avail_jumps_far(struct vdev *vd)
{
	struct queue *q = work(vd);

	plain_request(vd);
	q->avail->idx = q->avail_idx += 0x8000;
	vdev_kick(vd, work_queue(vd));
}

static void avail_goes_back(struct vdev *vd)
{
	struct queue *q = work(vd);

	plain_request(vd);
	submit(vd, 0);
	vdev_wait(vd, work_queue(vd), 1000000);
	q->avail->idx = q->avail_idx -= 1;
	vdev_kick(vd, work_queue(vd));
}

/* The same chain offered as often as the ring takes. */
static void same_head_again(struct vdev *vd)
{
	plain_request(vd);
	for (unsigned i = 0; i < QUEUE_SIZE; i++)
		queue_offer(work(vd), 0);
	vdev_kick(vd, work_queue(vd));
}

static void notify_without_work(struct vdev *vd)
{
	for (unsigned i = 0; i < 200; i++)
		vdev_kick(vd, i % (vd->n_queues + 2));
}

/* Notification registers of queues there are none of, in every size. */
static void notify_odd(struct vdev *vd)
{
	static const uint16_t values[] = { 0, 1, 7, 0x8000, 0xffff };

	for (unsigned i = 0; i < ARRAY_SIZE(values); i++) {
		write16(vd->notify, values[i]);
		write32(vd->notify, values[i]);
		write8(vd->notify + 1, values[i]);
		write16(vd->notify + 2, values[i]);
		write32(vd->notify + 0xffc, values[i]);
	}
}

static void used_flags_scribbled(struct vdev *vd)
{
	struct queue *q = work(vd);

	plain_request(vd);
	q->used->flags = 0xffff;
	q->avail->flags = 0xfffe;
	q->used->idx = 0;
	submit(vd, 0);
}

const struct test queue_tests[] = {
	{ "head-out-of-range", BREAKS, head_out_of_range },
	{ "head-max", BREAKS, head_max },
	{ "next-out-of-range", BREAKS, next_out_of_range },
	{ "loop-to-self", BREAKS, loop_to_self },
	{ "loop-of-two", BREAKS, loop_of_two },
	{ "loop-of-all", BREAKS, loop_of_all },
	{ "write-before-read", BREAKS, write_before_read },
	{ "buffer-nowhere", BREAKS, buffer_nowhere },
	{ "buffer-past-ram", BREAKS, buffer_past_ram },
	{ "buffer-very-high", BREAKS, buffer_very_high },
	{ "buffer-wraps", BREAKS, buffer_wraps },
	{ "buffer-of-4g", BREAKS, buffer_of_4g },
	{ "buffer-on-registers", BREAKS, buffer_on_registers },
	{ "buffer-on-ecam", BREAKS, buffer_on_ecam },
	{ "buffer-on-apic", BREAKS, buffer_on_apic },
	{ "buffer-empty", EITHER, buffer_empty },
	{ "unknown-flags", EITHER, unknown_flags },
	{ "indirect", LIVES, indirect },
	{ "indirect-in-indirect", BREAKS, indirect_in_indirect },
	{ "indirect-with-next", BREAKS, indirect_with_next },
	{ "indirect-odd-length", BREAKS, indirect_odd_length },
	{ "indirect-empty", BREAKS, indirect_empty },
	{ "indirect-nowhere", BREAKS, indirect_nowhere },
	{ "indirect-wraps", BREAKS, indirect_wraps },
	{ "indirect-huge", BREAKS, indirect_huge },
	{ "indirect-loop", BREAKS, indirect_loop },
	{ "indirect-next-out-of-range", BREAKS, indirect_next_out_of_range },
	{ "indirect-long-chain", EITHER, indirect_long_chain },
	{ "avail-jumps", BREAKS, avail_jumps },
	{ "avail-jumps-far", BREAKS, avail_jumps_far },
	{ "avail-goes-back", BREAKS, avail_goes_back },
	{ "same-head-again", EITHER, same_head_again },
	{ "notify-without-work", LIVES, notify_without_work },
	{ "notify-odd", LIVES, notify_odd },
	{ "flags-scribbled", LIVES, used_flags_scribbled },
	{},
};
