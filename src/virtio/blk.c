/*
 * virtio-blk (§5.2): a disk.
 *
 * Each queue has a table of requests, one an entry, made once and touched only as far as the driver
 * goes; none is missing for a driver that keeps no more chains in flight than entries. A kick takes
 * all chains there are, turns each into a request of the block room, and starts them together with
 * one system call; completions come back on the same thread, the disk's own or that of iothread=,
 * and the driver is interrupted once for a batch of them.
 *
 * A chain without room for header and status breaks the device. All else that is wrong with a
 * request (a range beyond the disk, odd lengths, an unknown type) is that request's failure only.
 */
#include "base/error.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "block/block.h"
#include "machine/backends.h"
#include "machine/iothread.h"
#include "machine/machine.h"
#include "virtio/pci.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* §5.2.3 */
#define VIRTIO_BLK_F_SEG_MAX      2
#define VIRTIO_BLK_F_RO           5
#define VIRTIO_BLK_F_BLK_SIZE     6
#define VIRTIO_BLK_F_FLUSH        9
#define VIRTIO_BLK_F_TOPOLOGY     10
#define VIRTIO_BLK_F_CONFIG_WCE   11
#define VIRTIO_BLK_F_MQ           12
#define VIRTIO_BLK_F_DISCARD      13
#define VIRTIO_BLK_F_WRITE_ZEROES 14

/* §5.2.6 */
#define VIRTIO_BLK_T_IN           0
#define VIRTIO_BLK_T_OUT          1
#define VIRTIO_BLK_T_FLUSH        4
#define VIRTIO_BLK_T_GET_ID       8
#define VIRTIO_BLK_T_DISCARD      11
#define VIRTIO_BLK_T_WRITE_ZEROES 13

#define VIRTIO_BLK_S_OK           0
#define VIRTIO_BLK_S_IOERR        1
#define VIRTIO_BLK_S_UNSUPP       2

#define VIRTIO_BLK_ID_BYTES       20
#define SECTOR_BITS               9 /* what the protocol counts in, whatever the block size */
#define SECTOR_SIZE               512u

/* So many ranges a discard or write-zeroes request has, as in QEMU. */
#define MAX_RANGES 1
/* The largest range, in sectors, that fits in 31 bits of bytes; QEMU's limit. */
#define MAX_RANGE_SECTORS (INT32_MAX >> SECTOR_BITS)

/* Of taking what the driver adds meanwhile, before others on the thread have their turn. */
#define MAX_ROUNDS 16

/* Header and status are pieces of their own beside seg_max of data. */
#define EXTRA_PIECES 2
#define CLASS_CODE   0x010000

/* §5.2.4 */
struct virtio_blk_config {
	uint64_t capacity;
	uint32_t size_max;
	uint32_t seg_max;
	uint16_t cylinders;
	uint8_t heads, sectors;
	uint32_t blk_size;
	uint8_t physical_block_exp;
	uint8_t alignment_offset;
	uint16_t min_io_size;
	uint32_t opt_io_size;
	uint8_t writeback;
	uint8_t unused0;
	uint16_t num_queues;
	uint32_t max_discard_sectors;
	uint32_t max_discard_seg;
	uint32_t discard_sector_alignment;
	uint32_t max_write_zeroes_sectors;
	uint32_t max_write_zeroes_seg;
	uint8_t write_zeroes_may_unmap;
	uint8_t unused1[3];
} __attribute__((packed));

struct virtio_blk_req_head {
	uint32_t type, reserved;
	uint64_t sector;
};

struct virtio_blk_range {
	uint64_t sector;
	uint32_t num_sectors;
	uint32_t flags;
};
#define RANGE_UNMAP 1u

struct blk_queue;

struct blk_request {
	struct block_request io;
	struct blk_queue *queue;
	struct blk_request *next_free;
	uint8_t *status;
	uint32_t in_bytes; /* of the chain: data and status */
	uint16_t head;
	struct iovec *iov; /* max_pieces */
};

struct blk_queue {
	struct virtio_blk *blk;
	unsigned index;
	struct block_queue *block_queue;
	struct blk_request *requests;
	struct blk_request *free; /* those used before, the last one first */
	unsigned n_fresh;         /* those never used are the last n_fresh */
	struct iovec *iovs;
	bool taking; /* in blk_notify() */
};

struct virtio_blk {
	struct virtio_pci vpci; /* first */
	struct virtio_device vd;
	char *name;
	struct block *block;
	struct iothread *own_thread;
	struct virtio_blk_config config;
	char serial[VIRTIO_BLK_ID_BYTES];
	uint64_t size; /* bytes */
	uint32_t block_size;
	unsigned max_pieces, queue_size, n_queues;
	bool read_only, initial_writeback;
	struct blk_queue *queues;
};

static struct virtio_blk *of_vd(struct virtio_device *vd)
{
	return container_of(vd, struct virtio_blk, vd);
}

/* --- Requests ---- */

static struct blk_request *take_request(struct blk_queue *queue)
{
	const struct virtio_blk *blk = queue->blk;
	struct blk_request *r = queue->free;
	unsigned i;

	if (r) {
		queue->free = r->next_free;
		return r;
	}
	if (!queue->n_fresh)
		return NULL;
	i = blk->queue_size - queue->n_fresh--;
	r = &queue->requests[i];
	r->queue = queue;
	r->iov = queue->iovs + (size_t)i * blk->max_pieces;
	return r;
}

static void give_request(struct blk_request *r)
{
	r->next_free = r->queue->free;
	r->queue->free = r;
}

/* Failed requests count no bytes but the status, where that comes first. */
static void complete(struct blk_request *r, uint8_t status)
{
	uint32_t len = status == VIRTIO_BLK_S_OK || r->in_bytes == 1 ? r->in_bytes : 0;

	*r->status = status;
	virtq_push(&r->queue->blk->vd.queues[r->queue->index], r->head, len);
	give_request(r);
}

static void io_done(struct block_request *io, int result)
{
	struct blk_request *r = container_of(io, struct blk_request, io);

	if (result < 0)
		log_item(LOG_VIRTIO, "%s: request failed: %s", r->queue->blk->name,
			 strerror(-result));
	complete(r, result < 0 ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK);
}

static bool in_disk(const struct virtio_blk *blk, uint64_t sector, uint64_t bytes)
{
	const uint64_t sectors = blk->size >> SECTOR_BITS, align = blk->block_size;

	return bytes <= blk->size && sector <= sectors &&
	       bytes >> SECTOR_BITS <= sectors - sector && bytes % align == 0 &&
	       (sector << SECTOR_BITS) % align == 0;
}

static void start_io(struct blk_request *r, enum block_op op, uint64_t sector, uint64_t bytes)
{
	const struct virtio_blk *blk = r->queue->blk;

	r->io.op = op;
	r->io.flags |= blk->config.writeback ? 0 : BLOCK_REQ_FUA;
	r->io.offset = sector << SECTOR_BITS;
	r->io.bytes = bytes;
	r->io.done = io_done;
	block_submit(r->queue->block_queue, &r->io);
}

/* iov: the data alone. */
static void transfer(struct blk_request *r, bool write, uint64_t sector, uint64_t bytes)
{
	const struct virtio_blk *blk = r->queue->blk;

	if (!in_disk(blk, sector, bytes) || (write && blk->read_only))
		complete(r, VIRTIO_BLK_S_IOERR);
	else
		start_io(r, write ? BLOCK_WRITE : BLOCK_READ, sector, bytes);
}

static void get_id(struct blk_request *r)
{
	uint32_t data = r->in_bytes - 1;

	iov_from_buf(r->io.iov, r->io.n_iov, 0, r->queue->blk->serial, VIRTIO_BLK_ID_BYTES);
	if (data > VIRTIO_BLK_ID_BYTES) /* the rest, and so the status, is not counted */
		r->in_bytes = VIRTIO_BLK_ID_BYTES;
	complete(r, VIRTIO_BLK_S_OK);
}

/* The checks of a discard or write-zeroes command; a status, S_OK to go on. */
static uint8_t check_range(const struct virtio_blk *blk, bool discard,
			   const struct virtio_blk_range *range)
{
	const uint64_t bytes = (uint64_t)range->num_sectors << SECTOR_BITS;

	if (range->flags & ~RANGE_UNMAP || (discard && range->flags & RANGE_UNMAP))
		return VIRTIO_BLK_S_UNSUPP;
	if (blk->read_only || !in_disk(blk, range->sector, bytes) ||
	    range->num_sectors > (discard ? blk->config.max_discard_sectors
					  : blk->config.max_write_zeroes_sectors))
		return VIRTIO_BLK_S_IOERR;
	return VIRTIO_BLK_S_OK;
}

static void zap(struct blk_request *r, bool discard, uint64_t bytes)
{
	struct virtio_blk *blk = r->queue->blk;
	struct virtio_blk_range range;
	uint8_t status;

	if (!virtio_has(&blk->vd, discard ? VIRTIO_BLK_F_DISCARD : VIRTIO_BLK_F_WRITE_ZEROES) ||
	    bytes != MAX_RANGES * sizeof(range)) {
		complete(r, VIRTIO_BLK_S_UNSUPP);
		return;
	}
	iov_to_buf(r->io.iov, r->io.n_iov, 0, &range, sizeof(range));
	status = check_range(blk, discard, &range);
	if (status != VIRTIO_BLK_S_OK) {
		complete(r, status);
		return;
	}
	r->io.flags = range.flags & RANGE_UNMAP ? BLOCK_REQ_UNMAP : 0;
	start_io(r, discard ? BLOCK_DISCARD : BLOCK_WRITE_ZEROES, range.sector,
		 (uint64_t)range.num_sectors << SECTOR_BITS);
}

static void dispatch(struct blk_request *r, const struct virtio_blk_req_head *head, uint64_t out,
		     uint64_t in)
{
	switch (head->type) {
	case VIRTIO_BLK_T_IN: transfer(r, false, head->sector, in); break;
	case VIRTIO_BLK_T_OUT: transfer(r, true, head->sector, out); break;
	case VIRTIO_BLK_T_FLUSH: start_io(r, BLOCK_FLUSH, 0, 0); break;
	case VIRTIO_BLK_T_GET_ID: get_id(r); break;
	case VIRTIO_BLK_T_DISCARD: zap(r, true, out); break;
	case VIRTIO_BLK_T_WRITE_ZEROES: zap(r, false, out); break;
	default: complete(r, VIRTIO_BLK_S_UNSUPP);
	}
}

/* Takes the status byte off the end; the chain has at least one writable byte. */
static uint8_t *cut_status(struct virtq_chain *chain)
{
	struct iovec *last = &chain->iov[chain->n_out + chain->n_in - 1];
	uint8_t *status = (uint8_t *)last->iov_base + --last->iov_len;

	if (!last->iov_len)
		chain->n_in--;
	return status;
}

/* The framing is the driver's choice (§2.7.4): header, data and status lie in any pieces. */
static void take_chain(struct blk_request *r, struct virtq_chain *chain)
{
	struct virtio_blk_req_head head;
	const uint64_t out = chain->out_bytes - sizeof(head), in = chain->in_bytes - 1;
	unsigned n_out = chain->n_out;
	struct iovec *out_iov;

	iov_to_buf(chain->iov, chain->n_out, 0, &head, sizeof(head));
	r->head = chain->head;
	r->in_bytes = chain->in_bytes;
	r->status = cut_status(chain);
	out_iov = iov_skip(chain->iov, &n_out, sizeof(head));
	r->io.flags = 0;
	if (head.type == VIRTIO_BLK_T_IN || head.type == VIRTIO_BLK_T_GET_ID) {
		r->io.iov = chain->iov + chain->n_out;
		r->io.n_iov = chain->n_in;
	} else {
		r->io.iov = out_iov;
		r->io.n_iov = n_out;
	}
	dispatch(r, &head, out, in);
}

/* Takes what there is; false when the queue broke. */
static bool take_chains(struct blk_queue *queue)
{
	struct virtio_blk *blk = queue->blk;
	struct virtq *vq = &blk->vd.queues[queue->index];
	struct blk_request *r;

	while ((r = take_request(queue))) {
		struct virtq_chain chain;
		int ret = virtq_pop(vq, &chain, r->iov, blk->max_pieces);

		if (ret == 1 && chain.out_bytes >= sizeof(struct virtio_blk_req_head) &&
		    chain.in_bytes >= 1) {
			take_chain(r, &chain);
			continue;
		}
		give_request(r);
		if (ret == 0)
			return true;
		if (ret < 0)
			virtio_fail_queue(&blk->vd, queue->index);
		else
			virtio_fail(&blk->vd, "queue %u: request without header or status",
				    queue->index);
		return false;
	}
	/* All are in flight. */
	if (!virtq_enable_notify(vq))
		return true;
	virtio_fail(&blk->vd, "queue %u: more requests in flight than the queue has entries",
		    queue->index);
	return false;
}

/*
 * The driver is not asked for kicks until there is nothing left to start, and hears of what
 * completed on the way at the end: each spares it exits. Other users of the thread get their turn.
 */
static void blk_notify(struct virtio_device *vd, unsigned q)
{
	struct blk_queue *queue = &of_vd(vd)->queues[q];
	struct virtq *vq = &vd->queues[q];
	bool more = true;

	queue->taking = true;
	for (unsigned round = 0; more && round < MAX_ROUNDS; round++) {
		virtq_disable_notify(vq);
		more = take_chains(queue);
		block_kick(queue->block_queue);
		more = more && virtq_enable_notify(vq);
	}
	queue->taking = false;
	virtio_signal(vd, q);
	if (more)
		virtio_notify_again(vd, q);
}

static void on_batch(void *opaque)
{
	struct blk_queue *queue = opaque;

	if (!queue->taking)
		virtio_signal(&queue->blk->vd, queue->index);
}

static void blk_stop(struct virtio_device *vd)
{
	struct virtio_blk *blk = of_vd(vd);

	for (unsigned q = 0; q < blk->n_queues; q++) {
		block_drain(blk->queues[q].block_queue);
		virtio_signal(vd, q);
	}
}

/* --- Configuration ---- */

static void blk_config_read(struct virtio_device *vd, unsigned offset, void *buf, unsigned len)
{
	memcpy(buf, (const uint8_t *)&of_vd(vd)->config + offset, len);
}

/* Only the cache mode can be written (§5.2.5). */
static void blk_config_write(struct virtio_device *vd, unsigned offset, const void *buf,
			     unsigned len)
{
	struct virtio_blk *blk = of_vd(vd);

	if (offset != offsetof(struct virtio_blk_config, writeback) || len != 1 ||
	    !virtio_has(vd, VIRTIO_BLK_F_CONFIG_WCE)) {
		log_item(LOG_GUEST_ERRORS, "%s: driver writes %u bytes of configuration at 0x%x",
			 blk->name, len, offset);
		return;
	}
	blk->config.writeback = *(const uint8_t *)buf != 0;
}

/* §5.2.5.2, §5.2.6.2: a driver that can neither flush nor say so gets a write-through disk. */
static void blk_set_features(struct virtio_device *vd, uint64_t features)
{
	struct virtio_blk *blk = of_vd(vd);

	blk->config.writeback = blk->initial_writeback && virtio_has(vd, VIRTIO_BLK_F_FLUSH);
}

static const struct virtio_ops blk_ops = {
	.config_read = blk_config_read,
	.config_write = blk_config_write,
	.set_features = blk_set_features,
	.stop = blk_stop,
	.notify = blk_notify,
};

/* --- Making it ---- */

static const char *const auto_on_off[] = { "auto", "on", "off", NULL };

static const struct prop blk_props[] = {
	{ "drive", PROP_STRING, .help = "id of the -drive, or node name of the -blockdev",
	  .required = true },
	{ "serial", PROP_STRING, .help = "serial number, up to 20 characters" },
	{ "num-queues", PROP_INT, .help = "request queues; default one a vCPU", .min = 1,
	  .max = VIRTIO_MAX_QUEUES },
	{ "queue-size", PROP_INT, "256", "entries of a queue, a power of two", .min = 4,
	  .max = VIRTQ_MAX_SIZE },
	{ "seg-max-adjust", PROP_BOOL, "on", "pieces a request may have follow queue-size" },
	{ "iothread", PROP_STRING,
	  .help = "id of the -object iothread that does its I/O; "
		  "default one of its own" },
	{ "logical_block_size", PROP_SIZE, "512", "unit of access", .min = 512, .max = 32768 },
	{ "physical_block_size", PROP_SIZE, .help = "unit the medium writes in", .min = 512,
	  .max = 2 << 20 },
	{ "min_io_size", PROP_SIZE, "0", "smallest access that is efficient", .max = 32 << 20 },
	{ "opt_io_size", PROP_SIZE, "0", "access size that is best", .max = 1u << 31 },
	{ "discard_granularity", PROP_SIZE, .help = "unit of discards", .max = 1u << 31 },
	{ "discard", PROP_BOOL, "on", "offer discard" },
	{ "max-discard-sectors", PROP_INT, .help = "of one discard", .min = 1,
	  .max = MAX_RANGE_SECTORS },
	{ "write-zeroes", PROP_BOOL, "on", "offer write-zeroes" },
	{ "max-write-zeroes-sectors", PROP_INT, .help = "of one write-zeroes", .min = 1,
	  .max = MAX_RANGE_SECTORS },
	{ "config-wce", PROP_BOOL, "on", "let the driver choose the cache mode" },
	{ "write-cache", PROP_ENUM, "auto",
	  "cache mode at first; auto: as the drive's cache=", .choices = auto_on_off },
	{ "share-rw", PROP_BOOL, "off", "others may write to the image at the same time" },
	{ "bootindex", PROP_INT, .help = "for firmware; without meaning when -kernel boots" },
	{},
};

static bool power_of_two(uint64_t n)
{
	return n && !(n & (n - 1));
}

static int check_sizes(const struct virtio_blk *blk, const struct block_info *info,
		       uint64_t physical, uint64_t min_io, uint64_t opt_io, struct error **err)
{
	const uint32_t logical = blk->block_size;

	if (!power_of_two(logical) || !power_of_two(physical) || physical < logical) {
		error_set(err,
			  "logical_block_size=%u and physical_block_size=%llu are powers of two, "
			  "the second not below the first",
			  logical, (unsigned long long)physical);
	} else if (logical < info->request_align) {
		error_set(err,
			  "the host reaches '%s' in units of %u bytes without its page cache; "
			  "use logical_block_size=%u, or cache=writeback on the drive",
			  block_filename(blk->block), info->request_align, info->request_align);
	} else if (min_io % logical || opt_io % logical || min_io / logical > UINT16_MAX) {
		error_set(err, "min_io_size and opt_io_size are multiples of logical_block_size, "
			       "min_io_size up to 65535 of it");
	} else if (!power_of_two(blk->queue_size)) {
		error_set(err, "queue-size=%u is not a power of two", blk->queue_size);
	} else {
		return 0;
	}
	return -1;
}

static int read_sizes(struct virtio_blk *blk, const struct props *props,
		      const struct block_info *info, struct error **err)
{
	struct virtio_blk_config *config = &blk->config;
	uint64_t physical = MAX(info->physical_block_size, props_u64(props, "logical_block_size"));
	uint64_t min_io = props_u64(props, "min_io_size"), opt_io = props_u64(props, "opt_io_size");
	const unsigned seg_max =
		props_bool(props, "seg-max-adjust") ? blk->queue_size - EXTRA_PIECES : 126;

	blk->block_size = props_u64(props, "logical_block_size");
	if (props_has(props, "physical_block_size"))
		physical = props_u64(props, "physical_block_size");
	if (check_sizes(blk, info, physical, min_io, opt_io, err) < 0)
		return -1;
	blk->size = ALIGN_DOWN(info->size, blk->block_size);
	blk->max_pieces = seg_max + EXTRA_PIECES;
	config->capacity = blk->size >> SECTOR_BITS;
	config->seg_max = seg_max;
	config->blk_size = blk->block_size;
	config->physical_block_exp = __builtin_ctzll(physical / blk->block_size);
	config->min_io_size = min_io / blk->block_size;
	config->opt_io_size = opt_io / blk->block_size;
	return 0;
}

static void read_ranges(struct virtio_blk *blk, const struct props *props,
			const struct block_info *info)
{
	struct virtio_blk_config *config = &blk->config;
	uint64_t granularity = MAX(info->discard_granularity, blk->block_size);

	if (props_has(props, "discard_granularity"))
		granularity = MAX(props_u64(props, "discard_granularity"), blk->block_size);
	config->max_discard_sectors = props_has(props, "max-discard-sectors")
					      ? props_u64(props, "max-discard-sectors")
					      : MAX_RANGE_SECTORS;
	config->max_write_zeroes_sectors = props_has(props, "max-write-zeroes-sectors")
						   ? props_u64(props, "max-write-zeroes-sectors")
						   : MAX_RANGE_SECTORS;
	config->max_discard_seg = config->max_write_zeroes_seg = MAX_RANGES;
	config->discard_sector_alignment = granularity >> SECTOR_BITS;
	config->write_zeroes_may_unmap = info->discard;
}

static int read_serial(struct virtio_blk *blk, const struct props *props, struct error **err)
{
	const char *serial = props_str(props, "serial");

	if (serial && strlen(serial) > VIRTIO_BLK_ID_BYTES) {
		error_set(err, "serial '%s' is longer than %d characters", serial,
			  VIRTIO_BLK_ID_BYTES);
		return -1;
	}
	if (serial)
		memcpy(blk->serial, serial, strlen(serial));
	return 0;
}

static int read_props(struct virtio_blk *blk, const struct machine *machine,
		      const struct props *props, struct error **err)
{
	const char *write_cache = props_str(props, "write-cache");
	struct block_info info;

	block_get_info(blk->block, &info);
	blk->read_only = info.read_only;
	blk->queue_size = props_u64(props, "queue-size");
	blk->n_queues = props_has(props, "num-queues")
				? props_u64(props, "num-queues")
				: MIN(MAX(machine->n_vcpus, 1u), VIRTIO_MAX_QUEUES);
	blk->config.num_queues = blk->n_queues;
	blk->initial_writeback = strcmp(write_cache, "auto") == 0 ? info.write_cache
								  : strcmp(write_cache, "on") == 0;
	blk->config.writeback = blk->initial_writeback;
	if (read_serial(blk, props, err) < 0 || read_sizes(blk, props, &info, err) < 0)
		return -1;
	read_ranges(blk, props, &info);
	return 0;
}

static uint64_t features(const struct virtio_blk *blk, const struct props *props)
{
	uint64_t f = BIT(VIRTIO_BLK_F_SEG_MAX) | BIT(VIRTIO_BLK_F_BLK_SIZE) |
		     BIT(VIRTIO_BLK_F_TOPOLOGY) | BIT(VIRTIO_BLK_F_FLUSH);

	if (blk->n_queues > 1)
		f |= BIT(VIRTIO_BLK_F_MQ);
	if (props_bool(props, "config-wce"))
		f |= BIT(VIRTIO_BLK_F_CONFIG_WCE);
	if (blk->read_only)
		return f | BIT(VIRTIO_BLK_F_RO);
	if (props_bool(props, "discard"))
		f |= BIT(VIRTIO_BLK_F_DISCARD);
	if (props_bool(props, "write-zeroes"))
		f |= BIT(VIRTIO_BLK_F_WRITE_ZEROES);
	return f;
}

/* The loop of iothread=, or that of a thread made for this disk. */
static struct loop *find_loop(struct virtio_blk *blk, struct machine *machine,
			      const struct props *props, struct error **err)
{
	const char *id = props_str(props, "iothread");
	struct iothread *iothread;
	char name[16];

	if (id) {
		iothread = backends_find(machine->backends, BACKEND_IOTHREAD, id);
		if (!iothread)
			error_set(err, "no iothread '%s'; -object iothread,id=%s makes one", id,
				  id);
		return iothread ? iothread_loop(iothread) : NULL;
	}
	snprintf(name, sizeof(name), "blk-%.11s", block_id(blk->block));
	blk->own_thread = iothread_new(name, err);
	return blk->own_thread ? iothread_loop(blk->own_thread) : NULL;
}

static int make_queues(struct virtio_blk *blk, struct error **err)
{
	blk->queues = xcalloc(blk->n_queues, sizeof(*blk->queues));
	for (unsigned q = 0; q < blk->n_queues; q++) {
		struct blk_queue *queue = &blk->queues[q];

		*queue = (struct blk_queue){ .blk = blk, .index = q, .n_fresh = blk->queue_size };
		queue->requests = xcalloc(blk->queue_size, sizeof(*queue->requests));
		queue->iovs =
			xcalloc((size_t)blk->queue_size * blk->max_pieces, sizeof(*queue->iovs));
		queue->block_queue =
			block_queue_new(blk->block, blk->vd.loop, blk->queue_size, err);
		if (!queue->block_queue)
			return -1;
		block_queue_on_batch(queue->block_queue, on_batch, queue);
	}
	return 0;
}

static void free_queues(void *opaque)
{
	struct virtio_blk *blk = opaque;

	for (unsigned q = 0; blk->queues && q < blk->n_queues; q++) {
		block_queue_free(blk->queues[q].block_queue);
		free(blk->queues[q].requests);
		free(blk->queues[q].iovs);
	}
	free(blk->queues);
}

/* Undoes what create() has done so far, in reverse. */
static void blk_destroy(struct device *device)
{
	struct virtio_blk *blk = container_of(device, struct virtio_blk, vpci.dev);

	virtio_pci_unplug(&blk->vpci);
	if (blk->vd.loop)
		loop_call(blk->vd.loop, free_queues, blk);
	virtio_destroy(&blk->vd);
	iothread_free(blk->own_thread);
	free(blk->name);
	free(blk);
}

static int blk_make(struct virtio_blk *blk, struct machine *machine, const struct props *props,
		    struct error **err)
{
	const char *drive = props_str(props, "drive"), *id = props_str(props, "id");
	struct loop *loop;

	blk->name = xasprintf("virtio-blk-pci '%s'", id ? id : drive);
	blk->block = backends_take(machine->backends, BACKEND_BLOCK, drive, blk->name, err);
	if (!blk->block || read_props(blk, machine, props, err) < 0 ||
	    block_lock(blk->block, props_bool(props, "share-rw"), err) < 0)
		return -1;
	loop = find_loop(blk, machine, props, err);
	if (!loop || virtio_init(&blk->vd, &blk_ops, VIRTIO_ID_BLOCK, blk->name, blk->n_queues,
				 blk->queue_size, sizeof(blk->config), features(blk, props),
				 &machine->mem, loop, err) < 0)
		return -1;
	if (make_queues(blk, err) < 0)
		return -1;
	return virtio_pci_plug(&blk->vpci, machine, props, &blk->vd, CLASS_CODE, err);
}

extern const struct device_class virtio_blk_pci_class;

static int blk_create(struct machine *machine, const struct props *props, struct device **device,
		      struct error **err)
{
	struct virtio_blk *blk = xcalloc(1, sizeof(*blk));

	blk->vpci.dev.class = &virtio_blk_pci_class;
	if (blk_make(blk, machine, props, err) < 0) {
		blk_destroy(&blk->vpci.dev);
		return -1;
	}
	*device = &blk->vpci.dev;
	return 0;
}

const struct device_class virtio_blk_pci_class = {
	.name = "virtio-blk-pci",
	.bus = "PCI",
	.desc = "disk",
	.props = blk_props,
	.more_props = virtio_pci_props,
	.create = blk_create,
	.reset = virtio_pci_reset,
	.pause = virtio_pci_pause,
	.resume = virtio_pci_resume,
	.destroy = blk_destroy,
};
