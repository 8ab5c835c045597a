/*
 * The split virtqueue: see queue.h.
 *
 * Indices run freely over 16 bits and are reduced modulo the size only to address a ring. Our own
 * positions (last_avail, used_idx) are kept in struct virtq and never read back from the guest.
 *
 * Order of memory accesses. The driver writes descriptors and ring entry, then its index; we load
 * the index with acquire before we read what it covers. We write used elements (and buffers) and
 * then store our index with release. Suppression of notifications and interrupts is a store by one
 * side, a load by the other, in both directions at once (Dekker's pattern): there a full fence
 * stands between our store and our load, without which x86 too may load first.
 *
 * A chain is walked with a cursor over one table at a time: the queue's own, and at most once an
 * indirect one, which by the standard is the last thing in a chain. The number of descriptors
 * visited is bounded, which also ends loops.
 */
#include "virtio/queue.h"

/* Guest memory: aligned as the guest likes, and read exactly once. */
typedef uint64_t __attribute__((aligned(1), may_alias)) guest_u64;

static inline uint16_t load_acquire(const uint16_t *p)
{
	return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

static inline uint16_t load_relaxed(const uint16_t *p)
{
	return __atomic_load_n(p, __ATOMIC_RELAXED);
}

static inline void store_relaxed(uint16_t *p, uint16_t value)
{
	__atomic_store_n(p, value, __ATOMIC_RELAXED);
}

static inline void full_fence(void)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static inline bool live(const struct virtq *vq)
{
	return vq->avail && !vq->broken;
}

/* §2.7.6: the last word of the available ring, with EVENT_IDX. */
static uint16_t used_event(const struct virtq *vq)
{
	return load_relaxed(&vq->avail->ring[vq->size]);
}

/* §2.7.8: the last word of the used ring, with EVENT_IDX. */
static void set_avail_event(struct virtq *vq, uint16_t idx)
{
	if (vq->avail_event == idx)
		return;
	vq->avail_event = idx;
	store_relaxed((uint16_t *)&vq->used->ring[vq->size], idx);
}

int virtq_break(struct virtq *vq, const char *reason)
{
	if (!vq->broken)
		vq->reason = reason;
	vq->broken = true;
	return -1;
}

/* §2.7: alignment and size of each part. */
static void *map_ring(struct virtq *vq, uint64_t gpa, unsigned align, uint64_t len)
{
	return gpa % align ? NULL : gmem_slice(vq->gm, gpa, len);
}

int virtq_start(struct virtq *vq, bool event_idx)
{
	const unsigned n = vq->size;

	virtq_stop(vq);
	vq->event_idx = event_idx;
	if (!n || n & (n - 1) || n > vq->max_size || n > VIRTQ_MAX_SIZE)
		return virtq_break(vq, "bad queue size");
	vq->desc = map_ring(vq, vq->desc_gpa, 16, 16 * n);
	vq->used = map_ring(vq, vq->device_gpa, 4, 6 + 8 * n);
	vq->avail = map_ring(vq, vq->driver_gpa, 2, 6 + 2 * n);
	if (!vq->desc || !vq->used || !vq->avail) {
		virtq_stop(vq);
		return virtq_break(vq, "a ring is misaligned or not in RAM");
	}
	store_relaxed(&vq->used->flags, 0);
	if (event_idx)
		store_relaxed((uint16_t *)&vq->used->ring[n], 0);
	return 0;
}

void virtq_stop(struct virtq *vq)
{
	vq->desc = NULL;
	vq->avail = NULL;
	vq->used = NULL;
	vq->broken = vq->no_notify = false;
	vq->reason = NULL;
	vq->last_avail = vq->avail_idx = vq->looked = vq->avail_event = 0;
	vq->used_idx = vq->unpublished = vq->signalled = vq->in_flight = 0;
}

/* Reads the driver's index anew; -1 when it cannot be true. */
static int refresh(struct virtq *vq)
{
	uint16_t idx = load_acquire(&vq->avail->idx);

	if ((uint16_t)(idx - vq->last_avail) > vq->size)
		return virtq_break(vq, "available index is ahead by more than the queue's size");
	vq->avail_idx = idx;
	return 0;
}

/* Are there entries between last_avail and the driver's index? -1: broken. */
static int look(struct virtq *vq)
{
	if (vq->avail_idx != vq->last_avail)
		return 1;
	if (refresh(vq) < 0)
		return -1;
	if (vq->avail_idx == vq->last_avail && vq->event_idx && !vq->no_notify &&
	    vq->avail_event != vq->last_avail) {
		/* Going to wait: ask to be told of the next entry, then look once more. */
		set_avail_event(vq, vq->last_avail);
		full_fence();
		if (refresh(vq) < 0)
			return -1;
	}
	return vq->avail_idx != vq->last_avail;
}

/* The state of one walk along a chain. */
struct walk {
	struct virtq *vq;
	struct virtq_chain *chain; /* to be filled; NULL: the device is done with it */
	unsigned max_iov;
	uint64_t told;        /* bytes */
	const uint8_t *table; /* of 16-byte descriptors */
	uint32_t entries;
	bool indirect;
	unsigned pieces;
};

static struct virtq_desc read_desc(const uint8_t *table, uint32_t i)
{
	const volatile guest_u64 *words = (const volatile guest_u64 *)(table + 16ull * i);
	uint64_t addr = words[0], rest = words[1];

	return (struct virtq_desc){
		.addr = addr, .len = (uint32_t)rest, .flags = rest >> 32, .next = rest >> 48
	};
}

/* Adds the descriptor's buffer to the chain's iovecs. */
static int add_piece(struct walk *w, const struct virtq_desc *desc)
{
	struct virtq_chain *chain = w->chain;
	const bool write = desc->flags & VIRTQ_DESC_F_WRITE;
	unsigned n = chain->n_out + chain->n_in;
	void *host;

	if (w->pieces++ == VIRTQ_MAX_SEGMENTS)
		return virtq_break(w->vq, "chain is too long or loops");
	if (!write && chain->n_in)
		return virtq_break(w->vq, "readable buffer after a writable one");
	if (!desc->len)
		return virtq_break(w->vq, "zero-length buffer");
	if (chain->out_bytes + chain->in_bytes + desc->len > UINT32_MAX)
		return virtq_break(w->vq, "chain of 4 GiB or more");
	host = gmem_slice(w->vq->gm, desc->addr, desc->len);
	if (!host)
		return virtq_break(w->vq, "buffer outside RAM");

	*(write ? &chain->in_bytes : &chain->out_bytes) += desc->len;
	if (write ? chain->n_in : chain->n_out) {
		struct iovec *last = &chain->iov[n - 1];

		if ((char *)last->iov_base + last->iov_len == host) {
			last->iov_len += desc->len;
			return 0;
		}
	}
	if (n == w->max_iov)
		return virtq_break(w->vq, "chain has too many buffers for this device");
	chain->iov[n] = (struct iovec){ host, desc->len };
	*(write ? &chain->n_in : &chain->n_out) += 1;
	return 0;
}

/* §2.7.5.3: turns the walk into the table that desc refers to. Its WRITE flag is ignored. */
static int enter_indirect(struct walk *w, const struct virtq_desc *desc)
{
	if (w->indirect)
		return virtq_break(w->vq, "indirect table inside an indirect table");
	if (desc->flags & VIRTQ_DESC_F_NEXT)
		return virtq_break(w->vq, "descriptor is both indirect and chained");
	if (!desc->len || desc->len % sizeof(*desc))
		return virtq_break(w->vq, "bad length of an indirect table");
	w->table = gmem_slice(w->vq->gm, desc->addr, desc->len);
	if (!w->table)
		return virtq_break(w->vq, "indirect table outside RAM");
	w->entries = desc->len / sizeof(*desc);
	w->indirect = true;
	return 0;
}

/* What the device could write, it may have written. */
static int tell_piece(struct walk *w, const struct virtq_desc *desc)
{
	if (w->pieces++ == VIRTQ_MAX_SEGMENTS || w->told + desc->len > UINT32_MAX)
		return virtq_break(w->vq, "descriptors changed while the device had them");
	w->told += desc->len;
	if (desc->flags & VIRTQ_DESC_F_WRITE)
		gmem_written(w->vq->gm, desc->addr, desc->len);
	return 0;
}

static int walk_chain(struct walk *w, uint32_t i)
{
	/* Ends: a round takes one of a bounded number of pieces, or the only indirect table. */
	for (;;) {
		const struct virtq_desc desc = read_desc(w->table, i);

		if (desc.flags & VIRTQ_DESC_F_INDIRECT) {
			if (enter_indirect(w, &desc) < 0)
				return -1;
			i = 0;
			continue;
		}
		if ((w->chain ? add_piece(w, &desc) : tell_piece(w, &desc)) < 0)
			return -1;
		if (!(desc.flags & VIRTQ_DESC_F_NEXT))
			return 0;
		if (desc.next >= w->entries)
			return virtq_break(w->vq, "next descriptor outside the table");
		i = desc.next;
	}
}

int virtq_pop(struct virtq *vq, struct virtq_chain *chain, struct iovec *iov, unsigned max_iov)
{
	struct walk w = { .vq = vq,
			  .chain = chain,
			  .max_iov = max_iov,
			  .table = (const uint8_t *)vq->desc,
			  .entries = vq->size };
	int work;

	if (!live(vq))
		return vq->broken ? -1 : 0;
	work = look(vq);
	if (work <= 0)
		return work;
	if (vq->in_flight == vq->size)
		return virtq_break(vq, "more chains in flight than the queue has entries");
	*chain = (struct virtq_chain){ .iov = iov };
	chain->head = load_relaxed(&vq->avail->ring[vq->last_avail & (vq->size - 1)]);
	if (chain->head >= vq->size)
		return virtq_break(vq, "head of a chain outside the table");
	if (walk_chain(&w, chain->head) < 0)
		return -1;
	vq->in_flight++;
	vq->last_avail++;
	if ((int16_t)(vq->last_avail - vq->looked) > 0)
		vq->looked = vq->last_avail;
	return 1;
}

void virtq_unpop(struct virtq *vq)
{
	if (!live(vq) || !vq->in_flight)
		return;
	vq->last_avail--;
	vq->in_flight--;
}

bool virtq_has_work(struct virtq *vq)
{
	return live(vq) && look(vq) > 0;
}

/*
 * A chain comes back. Whether it is then shown to the driver or not, its buffers were written, also
 * by requests that failed. The descriptors are looked at once more instead of being remembered: the
 * driver leaves them alone meanwhile, or hurts itself.
 */
static void tell_written(struct virtq *vq, uint16_t head)
{
	struct walk w = { .vq = vq, .table = (const uint8_t *)vq->desc, .entries = vq->size };

	if (vq->gm->watcher && vq->desc && head < vq->size)
		walk_chain(&w, head);
}

static void write_used(struct virtq *vq, unsigned offset, uint16_t head, uint32_t len)
{
	uint16_t slot = (uint16_t)(vq->used_idx + vq->unpublished + offset) & (vq->size - 1);

	vq->used->ring[slot] = (struct virtq_used_elem){ .id = head, .len = len };
}

void virtq_push(struct virtq *vq, uint16_t head, uint32_t len)
{
	tell_written(vq, head);
	if (!live(vq))
		return;
	write_used(vq, 0, head, len);
	vq->unpublished++;
	vq->in_flight--;
}

void virtq_fill(struct virtq *vq, unsigned offset, uint16_t head, uint32_t len)
{
	tell_written(vq, head);
	if (live(vq))
		write_used(vq, offset, head, len);
}

void virtq_flush(struct virtq *vq, unsigned n)
{
	if (!live(vq) || !(vq->unpublished + n))
		return;
	vq->used_idx += vq->unpublished + n;
	vq->unpublished = 0;
	vq->in_flight -= n;
	__atomic_store_n(&vq->used->idx, vq->used_idx, __ATOMIC_RELEASE);
}

/* §2.7.7 */
bool virtq_should_signal(struct virtq *vq)
{
	uint16_t old = vq->signalled, event;

	virtq_flush(vq, 0);
	if (!live(vq) || vq->used_idx == old)
		return false;
	vq->signalled = vq->used_idx;
	full_fence();
	if (!vq->event_idx)
		return !(load_relaxed(&vq->avail->flags) & VIRTQ_AVAIL_F_NO_INTERRUPT);
	/* Has the index passed the event since we last looked? */
	event = used_event(vq);
	return (uint16_t)(vq->used_idx - event - 1) < (uint16_t)(vq->used_idx - old);
}

bool virtq_enable_notify(struct virtq *vq)
{
	if (!live(vq))
		return false;
	if (vq->event_idx)
		set_avail_event(vq, vq->avail_idx);
	else if (vq->no_notify)
		store_relaxed(&vq->used->flags, 0);
	vq->no_notify = false;
	full_fence();
	/* An impossible index is "work" too: virtq_pop() will say what is wrong with it. */
	return refresh(vq) < 0 || vq->avail_idx != vq->looked;
}

/* §2.7.10: with EVENT_IDX an event index left behind is silence enough. */
void virtq_disable_notify(struct virtq *vq)
{
	if (!live(vq) || vq->no_notify)
		return;
	vq->no_notify = true;
	if (!vq->event_idx)
		store_relaxed(&vq->used->flags, VIRTQ_USED_F_NO_NOTIFY);
}
