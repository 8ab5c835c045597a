/*
 * virtio-balloon-pci: memory the guest lends back (§5.5). On the main loop, like QMP that asks for
 * it.
 *
 * Inflating: the guest names pages it will not use, by page frame numbers of 4 KiB; the host takes
 * them away, so that they read as zeroes when the guest touches them again. Deflating asks nothing
 * of the host. Neighbouring pages are given back with one system call.
 *
 * Free page reporting: the same for pages the guest has not in use at the moment, in large pieces
 * and without a count. A guest that fills free pages with a poison expects it there when it takes
 * them back; then they stay (§5.5.6.6).
 *
 * Statistics: the guest leaves a buffer with us, which is returned when we want to know how things
 * are, and comes back filled.
 */
#include "virtio/balloon.h"

#include "base/error.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "machine/machine.h"
#include "virtio/device_list.h"
#include "virtio/pci.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

/* §5.5.3 */
#define VIRTIO_BALLOON_F_STATS_VQ       1
#define VIRTIO_BALLOON_F_DEFLATE_ON_OOM 2
#define VIRTIO_BALLOON_F_PAGE_POISON    4
#define VIRTIO_BALLOON_F_REPORTING      5

#define QUEUE_SIZE                      128
#define CLASS_OTHERS                    0x00ff00
#define PAGE_SHIFT                      12 /* §5.5.6: whatever the architecture's pages */
#define PAGE                            (UINT64_C(1) << PAGE_SHIFT)
#define MAX_PFNS                        65536 /* in one request; Linux sends up to 256 */
#define PFNS_AT_A_TIME                  256
#define BUDGET                          16 /* requests before others have their turn */
#define NS_PER_S                        UINT64_C(1000000000)

/* Queues, §5.5.2; as in Linux and QEMU a queue without its feature is not counted. */
enum { INFLATE, DEFLATE, STATS, REPORTING };

/* struct virtio_balloon_config, §5.5.4 */
struct balloon_config {
	uint32_t num_pages, actual;
	uint32_t free_page_hint_cmd_id;
	uint32_t poison_val;
};

/* struct virtio_balloon_stat, §5.5.6.3 */
struct balloon_stat {
	uint16_t tag;
	uint64_t value;
} __attribute__((packed));

struct virtio_balloon {
	struct virtio_pci vpci; /* first */
	struct virtio_device vd;
	struct machine *machine;
	char *name;
	_Atomic uint32_t num_pages, actual, poison_val;
	bool again_inflate, again_deflate, again_reporting;
	struct loop_timer *again;
	/* Statistics: the guest's buffer, if it is with us, and what it said last. */
	bool stats_held;
	uint16_t stats_head;
	unsigned polling_interval; /* seconds; 0: off */
	struct loop_timer *poll;
	struct balloon_stats stats;
	struct iovec iov[VIRTQ_MAX_SEGMENTS];
};

static const char *const stat_names[BALLOON_STATS] = {
	"stat-swap-in",      "stat-swap-out",     "stat-major-faults",     "stat-minor-faults",
	"stat-free-memory",  "stat-total-memory", "stat-available-memory", "stat-disk-caches",
	"stat-htlb-pgalloc", "stat-htlb-pgfail",
};

static struct virtio_balloon *of(struct virtio_device *vd)
{
	return container_of(vd, struct virtio_balloon, vd);
}

static struct virtio_balloon *of_device(struct device *device)
{
	return container_of(device, struct virtio_balloon, vpci.dev);
}

/* --- Giving memory back ---- */

/* [host, host + len) was checked to be RAM. Pages of a memfd are given back for all who map it. */
/* #syscalls:main madvise=MADV_DONTNEED madvise=MADV_REMOVE */
static void discard(struct virtio_balloon *b, void *host, size_t len)
{
	const int advice = b->machine->mem.fd >= 0 ? MADV_REMOVE : MADV_DONTNEED;

	if (madvise(host, len, advice) < 0)
		LOG_ONCE("%s: cannot give %zu bytes of guest memory back to the host: %s", b->name,
			 len, strerror(errno));
}

/* A run of pages to be given back together. */
struct run {
	uint64_t first, n;
};

static void end_run(struct virtio_balloon *b, struct run *run)
{
	const uint64_t len = run->n << PAGE_SHIFT;
	void *host = run->n ? gmem_slice(&b->machine->mem, run->first << PAGE_SHIFT, len) : NULL;

	if (host) {
		discard(b, host, len);
		gmem_written(&b->machine->mem, run->first << PAGE_SHIFT, len);
	} else if (run->n) {
		log_item(LOG_GUEST_ERRORS, "%s: pages from 0x%llx are not RAM", b->name,
			 (unsigned long long)run->first << PAGE_SHIFT);
	}
	run->n = 0;
}

/* Each page is looked up by itself: a run may lead out of RAM, or from one region to another. */
static void add_page(struct virtio_balloon *b, struct run *run, uint32_t pfn)
{
	const struct gmem *mem = &b->machine->mem;

	if (run->n && pfn == run->first + run->n &&
	    gmem_slice(mem, run->first << PAGE_SHIFT, (run->n + 1) << PAGE_SHIFT)) {
		run->n++;
	} else if (run->n && (uint64_t)pfn + 1 == run->first &&
		   gmem_slice(mem, (uint64_t)pfn << PAGE_SHIFT, (run->n + 1) << PAGE_SHIFT)) {
		run->first--;
		run->n++;
	} else {
		end_run(b, run);
		*run = (struct run){ pfn, 1 };
	}
}

static void inflate(struct virtio_balloon *b, const struct virtq_chain *chain)
{
	uint32_t pfns[PFNS_AT_A_TIME];
	struct run run = {};
	size_t offset = 0, len;

	while ((len = iov_to_buf(chain->iov, chain->n_out, offset, pfns, sizeof(pfns)))) {
		for (size_t i = 0; i < len / sizeof(*pfns); i++)
			add_page(b, &run, pfns[i]);
		offset += len;
	}
	end_run(b, &run);
}

static bool check_pfns(struct virtio_balloon *b, const struct virtq_chain *chain)
{
	if (chain->out_bytes % sizeof(uint32_t) == 0 &&
	    chain->out_bytes <= MAX_PFNS * sizeof(uint32_t))
		return true;
	virtio_fail(&b->vd, "list of page numbers of %llu bytes",
		    (unsigned long long)chain->out_bytes);
	return false;
}

/* §5.5.6.6: whole pages of this host only; the poison must survive. */
static void report(struct virtio_balloon *b, const struct virtq_chain *chain)
{
	if (virtio_has(&b->vd, VIRTIO_BALLOON_F_PAGE_POISON) && b->poison_val)
		return;
	for (unsigned i = 0; i < chain->n_in; i++) {
		const struct iovec *iov = &chain->iov[chain->n_out + i];

		if ((uintptr_t)iov->iov_base % PAGE || iov->iov_len % PAGE)
			log_item(LOG_GUEST_ERRORS, "%s: reports a part of a page as free", b->name);
		else
			discard(b, iov->iov_base, iov->iov_len);
	}
}

/* --- Queues ---- */

static bool *again_flag(struct virtio_balloon *b, unsigned q)
{
	return q == INFLATE   ? &b->again_inflate
	       : q == DEFLATE ? &b->again_deflate
			      : &b->again_reporting;
}

/* Returns false when the device has failed. */
static bool serve_request(struct virtio_balloon *b, unsigned q, const struct virtq_chain *chain)
{
	switch (q) {
	case INFLATE:
		if (!check_pfns(b, chain))
			return false;
		inflate(b, chain);
		return true;
	case DEFLATE: return check_pfns(b, chain);
	case REPORTING: report(b, chain); return true;
	default: return true;
	}
}

static void serve(struct virtio_balloon *b, unsigned q)
{
	struct virtq *vq = &b->vd.queues[q];
	struct virtq_chain chain;
	int got = 1;

	virtq_disable_notify(vq);
	for (unsigned i = 0; i < BUDGET; i++) {
		got = virtq_pop(vq, &chain, b->iov, ARRAY_SIZE(b->iov));
		if (got <= 0)
			break;
		if (!serve_request(b, q, &chain))
			return;
		virtq_push(vq, chain.head, 0);
	}
	if (got < 0) {
		virtio_fail_queue(&b->vd, q);
		return;
	}
	virtio_signal(&b->vd, q);
	if (got > 0 || virtq_enable_notify(vq)) {
		*again_flag(b, q) = true;
		loop_timer_set(b->again, 0);
	}
}

static void on_again(void *opaque)
{
	static const unsigned queues[] = { INFLATE, DEFLATE, REPORTING };
	struct virtio_balloon *b = opaque;

	for (unsigned i = 0; i < ARRAY_SIZE(queues); i++) {
		bool *again = again_flag(b, queues[i]);

		if (*again && b->vd.running) {
			*again = false;
			serve(b, queues[i]);
		}
	}
}

/* --- Statistics ---- */

static void clear_stats(struct virtio_balloon *b)
{
	b->stats.last_update = 0;
	for (unsigned i = 0; i < BALLOON_STATS; i++) {
		b->stats.stats[i].name = stat_names[i];
		b->stats.stats[i].value = UINT64_MAX;
	}
}

/* #syscalls:main clock_gettime */
static void read_stats(struct virtio_balloon *b, const struct virtq_chain *chain)
{
	struct balloon_stat stat;
	struct timespec now;
	size_t offset = 0;

	clear_stats(b);
	for (unsigned i = 0; i < 2 * BALLOON_STATS; i++) {
		if (iov_to_buf(chain->iov, chain->n_out, offset, &stat, sizeof(stat)) !=
		    sizeof(stat))
			break;
		offset += sizeof(stat);
		if (stat.tag < BALLOON_STATS)
			b->stats.stats[stat.tag].value = stat.value;
	}
	clock_gettime(CLOCK_REALTIME, &now);
	b->stats.last_update = now.tv_sec;
}

/* §5.5.6.3: the driver has one buffer; a second one lets the first go. */
static void take_stats(struct virtio_balloon *b)
{
	struct virtq *vq = &b->vd.queues[STATS];
	struct virtq_chain chain;
	int got = 1;

	for (unsigned i = 0; i < BUDGET; i++) {
		got = virtq_pop(vq, &chain, b->iov, ARRAY_SIZE(b->iov));
		if (got <= 0)
			break;
		if (b->stats_held)
			virtq_push(vq, b->stats_head, 0);
		b->stats_held = true;
		b->stats_head = chain.head;
		/* The first buffer of a driver is a token without content, or with. */
		if (chain.out_bytes >= sizeof(struct balloon_stat))
			read_stats(b, &chain);
	}
	if (got < 0)
		virtio_fail_queue(&b->vd, STATS);
	else
		virtio_signal(&b->vd, STATS);
}

static void schedule_poll(struct virtio_balloon *b)
{
	if (b->polling_interval)
		loop_timer_set(b->poll, now_ns() + b->polling_interval * NS_PER_S);
	else
		loop_timer_cancel(b->poll);
}

static void on_poll(void *opaque)
{
	struct virtio_balloon *b = opaque;

	if (b->vd.running && b->stats_held) {
		b->stats_held = false;
		virtq_push(&b->vd.queues[STATS], b->stats_head, 0);
		virtio_signal(&b->vd, STATS);
	}
	schedule_poll(b);
}

/* --- What the driver sees ---- */

static void config_read(struct virtio_device *vd, unsigned offset, void *buf, unsigned len)
{
	const struct virtio_balloon *b = of(vd);
	const struct balloon_config config = {
		.num_pages = b->num_pages,
		.actual = b->actual,
		.poison_val = b->poison_val,
	};

	memcpy(buf, (const char *)&config + offset, len);
}

static uint64_t actual_bytes(const struct virtio_balloon *b)
{
	const uint64_t inflated = (uint64_t)b->actual << PAGE_SHIFT, size = b->machine->mem.size;

	return inflated < size ? size - inflated : 0;
}

static void config_write(struct virtio_device *vd, unsigned offset, const void *buf, unsigned len)
{
	struct virtio_balloon *b = of(vd);
	const struct machine_events *events = &b->machine->events;
	struct balloon_config config;
	const uint32_t before = b->actual;

	config_read(vd, 0, &config, sizeof(config));
	memcpy((char *)&config + offset, buf, len);
	b->actual = config.actual;
	if (virtio_has(vd, VIRTIO_BALLOON_F_PAGE_POISON))
		b->poison_val = config.poison_val;
	if (b->actual != before && events->balloon)
		events->balloon(events->opaque, actual_bytes(b));
}

/* A new driver: what the one before left with us is no longer of interest. */
static void set_features(struct virtio_device *vd, uint64_t features)
{
	struct virtio_balloon *b = of(vd);

	b->poison_val = 0;
	b->stats_held = false;
}

static void start(struct virtio_device *vd)
{
	struct virtio_balloon *b = of(vd);

	b->again_inflate = b->again_deflate = b->again_reporting = false;
}

static void stop(struct virtio_device *vd)
{
	loop_timer_cancel(of(vd)->again);
}

static void notify(struct virtio_device *vd, unsigned q)
{
	if (q == STATS)
		take_stats(of(vd));
	else
		serve(of(vd), q);
}

static const struct virtio_ops balloon_ops = {
	.config_read = config_read,
	.config_write = config_write,
	.set_features = set_features,
	.start = start,
	.stop = stop,
	.notify = notify,
};

/* --- What QMP sees ---- */

struct device *balloon_find(struct machine *machine)
{
	for (struct device *d = machine->devices; d; d = d->next)
		if (d->class == &virtio_balloon_pci_class)
			return d;
	return NULL;
}

void balloon_set_target(struct device *device, uint64_t bytes)
{
	struct virtio_balloon *b = of_device(device);
	const uint64_t size = b->machine->mem.size;

	b->num_pages = bytes < size ? (size - bytes) >> PAGE_SHIFT : 0;
	virtio_config_changed(&b->vd);
}

uint64_t balloon_actual(struct device *device)
{
	return actual_bytes(of_device(device));
}

void balloon_get_stats(struct device *device, struct balloon_stats *stats)
{
	*stats = of_device(device)->stats;
}

unsigned balloon_polling_interval(struct device *device)
{
	return of_device(device)->polling_interval;
}

void balloon_set_polling_interval(struct device *device, unsigned seconds)
{
	struct virtio_balloon *b = of_device(device);

	b->polling_interval = seconds;
	schedule_poll(b);
}

/* --- Making it ---- */

static const struct prop balloon_props[] = {
	{ "deflate-on-oom", PROP_BOOL, "off", "let the guest deflate when it is out of memory" },
	{ "free-page-reporting", PROP_BOOL, "off", "take free pages of the guest back" },
	{ "page-poison", PROP_BOOL, "on", "let the guest say what it fills free pages with" },
	{ "free-page-hint", PROP_BOOL, "off", "only off is supported" },
	{ "guest-stats-polling-interval", PROP_INT, "0",
	  "seconds between two questions for statistics; 0: none", .max = UINT32_MAX / 2 },
	{},
};

static const struct {
	const char *property;
	unsigned feature;
} features[] = {
	{ "deflate-on-oom", VIRTIO_BALLOON_F_DEFLATE_ON_OOM },
	{ "page-poison", VIRTIO_BALLOON_F_PAGE_POISON },
	{ "free-page-reporting", VIRTIO_BALLOON_F_REPORTING },
};

static void free_balloon(struct virtio_balloon *b)
{
	virtio_destroy(&b->vd);
	loop_timer_free(b->again);
	loop_timer_free(b->poll);
	free(b->name);
	free(b);
}

static int init(struct virtio_balloon *b, const struct props *props, struct error **err)
{
	const bool reporting = props_bool(props, "free-page-reporting");
	uint64_t offered = BIT(VIRTIO_BALLOON_F_STATS_VQ);

	for (unsigned i = 0; i < ARRAY_SIZE(features); i++)
		if (props_bool(props, features[i].property))
			offered |= BIT(features[i].feature);
	if (virtio_init(&b->vd, &balloon_ops, VIRTIO_ID_BALLOON, b->name,
			reporting ? REPORTING + 1 : STATS + 1, QUEUE_SIZE,
			props_bool(props, "page-poison")
				? sizeof(struct balloon_config)
				: offsetof(struct balloon_config, free_page_hint_cmd_id),
			offered, &b->machine->mem, b->machine->main_loop, err) < 0)
		return -1;
	return virtio_pci_plug(&b->vpci, b->machine, props, &b->vd, CLASS_OTHERS, err);
}

static int create(struct machine *machine, const struct props *props, struct device **device,
		  struct error **err)
{
	const char *id = props_str(props, "id");
	struct virtio_balloon *b;

	if (props_bool(props, "free-page-hint")) {
		error_set(err, "free-page-hint=on is not supported: it serves migration only");
		return -1;
	}
	if (balloon_find(machine)) {
		error_set(err, "there is a balloon already, and a machine has one");
		return -1;
	}
	b = xcalloc(1, sizeof(*b));
	b->vpci.dev.class = &virtio_balloon_pci_class;
	b->machine = machine;
	b->name = xasprintf("virtio-balloon-pci '%s'", id ? id : "");
	b->again = loop_timer_new(machine->main_loop, on_again, b);
	b->poll = loop_timer_new(machine->main_loop, on_poll, b);
	clear_stats(b);
	if (init(b, props, err) < 0) {
		free_balloon(b);
		return -1;
	}
	*device = &b->vpci.dev;
	balloon_set_polling_interval(*device, props_u64(props, "guest-stats-polling-interval"));
	return 0;
}

static void destroy(struct device *device)
{
	struct virtio_balloon *b = of_device(device);

	virtio_pci_unplug(&b->vpci);
	free_balloon(b);
}

/* A guest that starts anew has all its memory. */
static void reset(struct device *device)
{
	struct virtio_balloon *b = of_device(device);

	virtio_pci_reset(device);
	b->actual = 0;
	b->poison_val = 0;
	clear_stats(b);
}

const struct device_class virtio_balloon_pci_class = {
	.name = "virtio-balloon-pci",
	.bus = "PCI",
	.desc = "memory balloon",
	.props = balloon_props,
	.more_props = virtio_pci_props,
	.create = create,
	.reset = reset,
	.pause = virtio_pci_pause,
	.resume = virtio_pci_resume,
	.destroy = destroy,
};
