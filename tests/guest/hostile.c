/*
 * A guest that does to virtio devices whatever a driver must not do.
 *
 *	dev=net|blk|console|rng|balloon	the victim
 *	test=NAME			only that test; all without
 *	noise=N seed=S			instead of tests, N random accesses to its registers
 *	lenient=1			report, but do not insist: for other monitors
 *
 * Each test begins with the device reset and initialized, does its deed, and looks what became of
 * the device: NEEDS_RESET, or still working. Then the device is reset and must work. One line a
 * test says how it went; the verdict is over all.
 */
#include "hostile.h"

#define SETTLE_US 2000000

static const struct {
	const char *name;
	enum virtio_type type;
} victims[] = {
	{ "net", VIRTIO_NET }, { "blk", VIRTIO_BLK },         { "console", VIRTIO_CONSOLE },
	{ "rng", VIRTIO_RNG }, { "balloon", VIRTIO_BALLOON },
};

unsigned work_queue(const struct vdev *vd)
{
	/* Network and console: transmission of the first port. */
	return vd->type == VIRTIO_NET || vd->type == VIRTIO_CONSOLE ? 1 : 0;
}

static unsigned blk_request(struct queue *q)
{
	/* §5.2.6: VIRTIO_BLK_T_IN, sector 0 */
	memset((void *)PLAIN_HEADER, 0, 16);
	memset((void *)PLAIN_DATA, 0xaa, 512);
	*(volatile uint8_t *)PLAIN_STATUS = 0xff;
	queue_desc(q, 0, PLAIN_HEADER, 16, DESC_NEXT, 1);
	queue_desc(q, 1, PLAIN_DATA, 512, DESC_WRITE | DESC_NEXT, 2);
	queue_desc(q, 2, PLAIN_STATUS, 1, DESC_WRITE, 0);
	return 3;
}

unsigned plain_request(struct vdev *vd)
{
	struct queue *q = &vd->queues[work_queue(vd)];

	switch (vd->type) {
	case VIRTIO_BLK: return blk_request(q);
	case VIRTIO_NET: /* §5.1.6: header, then a frame to nobody */
		memset((void *)PLAIN_HEADER, 0, 12);
		memset((void *)PLAIN_DATA, 0x11, 60);
		queue_desc(q, 0, PLAIN_HEADER, 12, DESC_NEXT, 1);
		queue_desc(q, 1, PLAIN_DATA, 60, 0, 0);
		return 2;
	case VIRTIO_CONSOLE:
		*(volatile uint8_t *)PLAIN_DATA = '.';
		queue_desc(q, 0, PLAIN_DATA, 1, 0, 0);
		return 1;
	case VIRTIO_RNG:
		memset((void *)PLAIN_DATA, 0, 64);
		queue_desc(q, 0, PLAIN_DATA, 64, DESC_WRITE, 0);
		return 1;
	default: /* balloon §5.5.6: inflate by one page of the arena, which is free */
		*(volatile uint32_t *)PLAIN_DATA = (ARENA + ARENA_SIZE - 0x1000) >> 12;
		queue_desc(q, 0, PLAIN_DATA, 4, 0, 0);
		return 1;
	}
}

static bool any_byte_set(uint32_t at, unsigned n)
{
	while (n--)
		if (read8(at + n))
			return true;
	return false;
}

bool plain_request_done(struct vdev *vd)
{
	switch (vd->type) {
	case VIRTIO_BLK: return read8(PLAIN_STATUS) == 0 && read8(PLAIN_DATA + 511) != 0xaa;
	case VIRTIO_RNG: return any_byte_set(PLAIN_DATA, 64);
	default: return true;
	}
}

void submit(struct vdev *vd, uint16_t head)
{
	queue_offer(&vd->queues[work_queue(vd)], head);
	vdev_kick(vd, work_queue(vd));
}

static bool works(struct vdev *vd)
{
	plain_request(vd);
	submit(vd, 0);
	return vdev_wait(vd, work_queue(vd), SETTLE_US) && !vdev_needs_reset(vd) &&
	       plain_request_done(vd);
}

uint32_t memory_end(void)
{
	return (ram_end() + 0xfffff) & ~0xfffffu; /* firmware keeps less than 1 MiB at the top */
}

/* --- Running tests ---- */

static unsigned failures, lenient;
static const char *complaint;

void complain(const char *what)
{
	complaint = what;
}

static const char *outcome(struct vdev *vd, const struct test *t)
{
	uint32_t start = time_us();

	/* What was offered on the work queue is done, or the device says that it is broken. */
	if (vd->queues[work_queue(vd)].size)
		vdev_wait(vd, work_queue(vd), t->expected == BREAKS ? 300000 : SETTLE_US);
	while (t->expected == BREAKS && !vdev_needs_reset(vd) && time_us() - start < 300000)
		;
	if (complaint)
		return complaint;
	if (vdev_needs_reset(vd))
		return t->expected == LIVES ? "BROKE, and should not" : "needs reset";
	if (t->expected == BREAKS)
		return "WENT ON, and should not";
	if (t->starts)
		return "refused";
	return works(vd) ? "works on" : "HANGS";
}

static bool is_failure(const char *text)
{
	return complaint || (*text >= 'A' && *text <= 'Z');
}

static void run(struct vdev *vd, const struct test *t)
{
	const char *text;
	bool ok;

	vd->wanted = 1ull << F_INDIRECT | t->wanted;
	ok = t->starts ? vdev_reset(vd) : vdev_start(vd);
	if (!ok) {
		print("not ok %s: does not start\n", t->name);
		failures++;
		return;
	}
	if (t->starts)
		vd->queues[work_queue(vd)].size = 0;
	complaint = NULL;
	t->run(vd);
	text = outcome(vd, t);
	vd->wanted = 1ull << F_INDIRECT;
	ok = vdev_start(vd) && works(vd);
	failures += is_failure(text) || !ok;
	print("%s %s: %s%s\n", is_failure(text) || !ok ? "not ok" : "ok", t->name, text,
	      ok ? "" : ", DEAD AFTER RESET");
}

static void run_table(struct vdev *vd, const struct test *tests)
{
	for (const struct test *t = tests; t->name; t++) {
		if (t->types && !(t->types & 1u << vd->type))
			continue;
		if (param_given("test") && !param_is("test", t->name))
			continue;
		run(vd, t);
	}
}

void guest_main(void)
{
	static struct vdev vd;
	unsigned i;

	for (i = 0; i < ARRAY_SIZE(victims) && !param_is("dev", victims[i].name); i++)
		;
	CHECK(i < ARRAY_SIZE(victims));
	CHECK(vdev_find(&vd, victims[i].type, param("nth", 0)));
	CHECK(ram_end() >= ARENA + ARENA_SIZE);
	lenient = param("lenient", 0);
	random_seed(param("seed", 1));
	vd.wanted = 1ull << F_INDIRECT;
	CHECK(vdev_start(&vd));
	CHECK(works(&vd));
	if (param_given("noise")) {
		run_noise(&vd);
		CHECK(vdev_start(&vd));
		CHECK(works(&vd));
	} else {
		run_table(&vd, queue_tests);
		run_table(&vd, config_tests);
		run_table(&vd, device_tests);
	}
	vdev_reset(&vd);
	print("%u failures\n", failures);
	verdict(failures && !lenient ? FAIL : PASS);
}
