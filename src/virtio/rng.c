/*
 * virtio-rng-pci: entropy for the guest (§5.4), and the sources it comes from.
 *
 * A buffer is filled from the source straight in guest memory, at most CHUNK bytes of it (§5.4.6.1:
 * one byte would do), so that no guest occupies the main loop for long. max-bytes in each period
 * (milliseconds) bound what a guest may draw; buffers beyond that wait for the next period.
 */
#include "virtio/rng.h"

#include "base/error.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "machine/backends.h"
#include "machine/machine.h"
#include "virtio/device_list.h"
#include "virtio/pci.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>

#define QUEUE_SIZE   8
#define CLASS_OTHERS 0x00ff00
#define CHUNK        (64 * KIB)
#define BUDGET       16 /* buffers at a time */
#define NS_PER_MS    1000000

struct virtio_rng {
	struct virtio_pci vpci; /* first */
	struct virtio_device vd;
	char *name;
	struct rng *rng, *own; /* own: made for us, as no rng= was given */
	struct loop_watch *readable;
	struct loop_timer *again, *next_period;
	uint64_t max_bytes, quota, period_ns;
	bool in_period; /* next_period runs: from the first byte drawn on */
	bool dry;       /* the source has come to its end */
	struct iovec iov[VIRTQ_MAX_SEGMENTS];
};

static struct virtio_rng *of(struct virtio_device *vd)
{
	return container_of(vd, struct virtio_rng, vd);
}

/* --- Sources ---- */

struct rng *rng_open(const char *filename, struct error **err)
{
	struct rng *rng = xcalloc(1, sizeof(*rng));
	struct stat st;

	rng->fd = -1;
	if (!filename)
		return rng;
	rng->fd = open(filename, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (rng->fd < 0)
		error_set_errno(err, errno, "cannot open entropy source '%s'", filename);
	else if (fstat(rng->fd, &st) == 0 && S_ISDIR(st.st_mode))
		error_set(err, "entropy source '%s' is a directory: give a file or device",
			  filename);
	else
		return rng;
	rng_close(rng);
	return NULL;
}

/* #syscalls:main close */
void rng_close(struct rng *rng)
{
	if (!rng)
		return;
	if (rng->fd >= 0)
		close(rng->fd);
	free(rng);
}

/* Bytes put into the pieces, up to max; -EAGAIN when there are none now, 0 when there never will
 * be. */
/* #syscalls:main getrandom read */
static ssize_t draw(const struct rng *rng, const struct iovec *iov, unsigned n, size_t max)
{
	ssize_t total = 0;

	for (unsigned i = 0; i < n && max; i++) {
		const size_t part = MIN(iov[i].iov_len, max);
		const ssize_t got = rng->fd < 0 ? getrandom(iov[i].iov_base, part, GRND_NONBLOCK)
						: read(rng->fd, iov[i].iov_base, part);

		if (got < 0 && !total)
			return errno == EAGAIN || errno == EINTR ? -EAGAIN : -errno;
		if (got <= 0)
			break;
		total += got;
		max -= got;
		if ((size_t)got < part)
			break;
	}
	return total;
}

/* --- The device ---- */

static void stop_listening(struct virtio_rng *r)
{
	loop_watch_free(r->readable);
	r->readable = NULL;
}

static void serve(struct virtio_rng *r);

static void on_readable(void *opaque, uint32_t events)
{
	struct virtio_rng *r = opaque;

	stop_listening(r);
	serve(r);
}

static void on_timer(void *opaque)
{
	struct virtio_rng *r = opaque;

	if (r->vd.running)
		serve(r);
}

static void on_next_period(void *opaque)
{
	struct virtio_rng *r = opaque;

	r->quota = r->max_bytes;
	r->in_period = false;
	if (r->vd.running)
		serve(r);
}

/* The source has nothing now, or failed. */
static void wait_for_source(struct virtio_rng *r, int result)
{
	struct error *err ERROR_AUTO = NULL;

	if (result == -EAGAIN && r->rng->fd >= 0)
		r->readable = loop_watch_new(r->vd.loop, r->rng->fd, EPOLLIN, on_readable, r, &err);
	else if (result == -EAGAIN)
		loop_timer_set(r->again, now_ns() + NS_PER_MS);
	r->dry = result != -EAGAIN || err;
	if (r->dry)
		log_warn("%s: the entropy source has no more to give", r->name);
}

static void count(struct virtio_rng *r, size_t bytes)
{
	r->quota -= bytes;
	if (r->in_period || r->max_bytes == INT64_MAX)
		return;
	r->in_period = true;
	loop_timer_set(r->next_period, now_ns() + r->period_ns);
}

/* Fills one buffer. True: there may be more to do. */
static bool serve_one(struct virtio_rng *r)
{
	struct virtq *vq = &r->vd.queues[0];
	struct virtq_chain chain;
	ssize_t bytes;
	int got = virtq_pop(vq, &chain, r->iov, ARRAY_SIZE(r->iov));

	if (got < 0)
		virtio_fail_queue(&r->vd, 0);
	else if (got && !chain.in_bytes)
		virtio_fail(&r->vd, "buffer without room for a random byte");
	if (got <= 0 || !r->vd.running)
		return false;
	bytes = draw(r->rng, chain.iov + chain.n_out, chain.n_in, MIN(CHUNK, r->quota));
	if (bytes <= 0) {
		virtq_unpop(vq);
		wait_for_source(r, bytes);
		return false;
	}
	count(r, bytes);
	virtq_push(vq, chain.head, bytes);
	return true;
}

static void serve(struct virtio_rng *r)
{
	struct virtq *vq = &r->vd.queues[0];
	bool more = true;

	if (r->readable || r->dry)
		return;
	virtq_disable_notify(vq);
	for (unsigned i = 0; i < BUDGET && more && r->quota; i++)
		more = serve_one(r);
	if (!r->vd.running)
		return;
	virtio_signal(&r->vd, 0);
	if (r->readable || r->dry || !r->quota)
		return;
	if (more || virtq_enable_notify(vq))
		loop_timer_set(r->again, 0);
}

static void notify(struct virtio_device *vd, unsigned q)
{
	serve(of(vd));
}

static void stop(struct virtio_device *vd)
{
	struct virtio_rng *r = of(vd);

	stop_listening(r);
	loop_timer_cancel(r->again);
}

static const struct virtio_ops rng_ops = {
	.notify = notify,
	.stop = stop,
};

/* --- Making it ---- */

static const struct prop rng_props[] = {
	{ "rng", PROP_STRING,
	  .help = "id of the entropy source (default: the kernel's generator)" },
	{ "max-bytes", PROP_INT, "0x7fffffffffffffff", "bytes a guest may draw in a period",
	  .min = 1, .max = INT64_MAX },
	{ "period", PROP_INT, "65536", "length of a period, milliseconds", .min = 1,
	  .max = UINT32_MAX },
	{},
};

static void free_rng(struct virtio_rng *r)
{
	virtio_destroy(&r->vd);
	loop_timer_free(r->again);
	loop_timer_free(r->next_period);
	rng_close(r->own);
	free(r->name);
	free(r);
}

static int connect_source(struct virtio_rng *r, struct machine *machine, const struct props *props,
			  struct error **err)
{
	if (props_has(props, "rng"))
		r->rng = backends_take(machine->backends, BACKEND_RNG, props_str(props, "rng"),
				       r->name, err);
	else
		r->rng = r->own = rng_open(NULL, err);
	return r->rng ? 0 : -1;
}

static int create(struct machine *machine, const struct props *props, struct device **device,
		  struct error **err)
{
	struct virtio_rng *r = xcalloc(1, sizeof(*r));
	const char *id = props_str(props, "id");

	r->vpci.dev.class = &virtio_rng_pci_class;
	r->name = xasprintf("virtio-rng-pci '%s'", id ? id : "");
	r->max_bytes = r->quota = props_u64(props, "max-bytes");
	r->period_ns = props_u64(props, "period") * NS_PER_MS;
	r->again = loop_timer_new(machine->main_loop, on_timer, r);
	r->next_period = loop_timer_new(machine->main_loop, on_next_period, r);
	if (connect_source(r, machine, props, err) < 0 ||
	    virtio_init(&r->vd, &rng_ops, VIRTIO_ID_RNG, r->name, 1, QUEUE_SIZE, 0, 0,
			&machine->mem, machine->main_loop, err) < 0 ||
	    virtio_pci_plug(&r->vpci, machine, props, &r->vd, CLASS_OTHERS, err) < 0) {
		free_rng(r);
		return -1;
	}
	*device = &r->vpci.dev;
	return 0;
}

static void destroy(struct device *device)
{
	struct virtio_rng *r = container_of(device, struct virtio_rng, vpci.dev);

	virtio_pci_unplug(&r->vpci);
	free_rng(r);
}

const struct device_class virtio_rng_pci_class = {
	.name = "virtio-rng-pci",
	.bus = "PCI",
	.desc = "entropy source",
	.props = rng_props,
	.more_props = virtio_pci_props,
	.create = create,
	.reset = virtio_pci_reset,
	.pause = virtio_pci_pause,
	.resume = virtio_pci_resume,
	.destroy = destroy,
};
