/*
 * The balloon: which pages go and which must stay, reporting and poison, statistics, configuration,
 * and drivers that name pages they have not. Entropy too, as both are small.
 */
#include "fake_driver.h"

#include "virtio/balloon.h"
#include "virtio/device_list.h"
#include "virtio/rng.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#define RAM     (32 * MIB)
#define PAGE    4096
#define ALL     (BIT(1) | BIT(2) | BIT(4) | BIT(5))
#define INFLATE (&fm.queues[0])
#define DEFLATE (&fm.queues[1])
#define STATS   (&fm.queues[2])
#define REPORT  (&fm.queues[3])

static struct fake_machine fm;
static struct device *device;
static struct virtio_device *vd;
static uint64_t told;
static unsigned tellings;

static void on_balloon(void *opaque, uint64_t actual)
{
	told = actual;
	tellings++;
}

static void plug(const char *props)
{
	fake_machine_init(&fm, RAM);
	fm.m.events.balloon = on_balloon;
	told = tellings = 0;
	device = fake_device(&fm, &virtio_balloon_pci_class, props, NULL);
	vd = fake_vd(device);
}

static void unplug(void)
{
	fake_machine_destroy(&fm);
}

/* Pages from this one on are the test's; each is filled with its number. */
#define FIRST 2048

static void fill_pages(unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		memset(fake_ptr(&fm, (uint64_t)(FIRST + i) * PAGE), i | 1, PAGE);
}

static bool is_filled(unsigned i)
{
	const uint8_t *p = fake_ptr(&fm, (uint64_t)(FIRST + i) * PAGE);

	assert_true(p[0] == p[PAGE - 1]);
	assert_true(p[0] == 0 || p[0] == (uint8_t)(i | 1));
	return p[0];
}

static void send_pfns(struct fake_queue *fq, const uint32_t *pfns, unsigned n)
{
	const uint64_t gpa = fake_data(&fm, pfns, n * 4);

	fake_add(fq, &FAKE_OUT(gpa, n * 4), 1);
	fake_kick(fq);
}

/* Ascending, descending, alone, twice: exactly those pages go. */
static void check_inflate(void)
{
	static const unsigned list[] = { 3, 4, 5, 9, 8, 7, 20, 4, 31, 30, 32, 40 };
	uint32_t pfns[ARRAY_SIZE(list)];
	bool gone[64] = {};

	fake_start(&fm, vd, 0);
	fill_pages(64);
	for (unsigned i = 0; i < ARRAY_SIZE(list); i++) {
		pfns[i] = FIRST + list[i];
		gone[list[i]] = true;
	}
	send_pfns(INFLATE, pfns, ARRAY_SIZE(list));
	assert_int_equal(fake_wait_used(INFLATE).len, 0);
	for (unsigned i = 0; i < 64; i++)
		assert_int_equal(is_filled(i), !gone[i]);
	fill_pages(64);
	send_pfns(DEFLATE, pfns, ARRAY_SIZE(list));
	fake_wait_used(DEFLATE);
	for (unsigned i = 0; i < 64; i++)
		assert_true(is_filled(i));
}

static void test_inflate(void **state)
{
	plug("");
	check_inflate();
	unplug();
}

/* With memory in a memfd, its pages go for everybody. */
static void test_inflate_shared(void **state)
{
	const struct gmem_config config = { .size = RAM, .low_max = 2 * GIB, .shared = true };
	off_t before, after;
	uint32_t pfns[256];

	fake_machine_init(&fm, RAM);
	gmem_destroy(&fm.m.mem);
	assert_int_equal(gmem_init(&fm.m.mem, NULL, &config, NULL), 0);
	device = fake_device(&fm, &virtio_balloon_pci_class, "", NULL);
	vd = fake_vd(device);
	check_inflate();
	fill_pages(256);
	before = lseek(fm.m.mem.fd, (off_t)FIRST * PAGE, SEEK_HOLE);
	for (unsigned i = 0; i < 256; i++)
		pfns[i] = FIRST + i;
	send_pfns(INFLATE, pfns, 256);
	fake_wait_used(INFLATE);
	after = lseek(fm.m.mem.fd, (off_t)FIRST * PAGE, SEEK_HOLE);
	assert_true(before >= (off_t)(FIRST + 256) * PAGE);
	assert_int_equal(after, (off_t)FIRST * PAGE);
	unplug();
}

/* Pages that are not RAM are passed over; those beside them are not. */
static void test_not_ram(void **state)
{
	const uint32_t end = RAM / PAGE;
	const uint32_t pfns[] = { end,       end - 1,    end,       0xffffffff, 0xfffffffe,
				  FIRST + 1, 0x80000000, FIRST + 2, end + 1,    1u << 20 };
	uint8_t *last;

	plug("");
	fake_start(&fm, vd, 0);
	fill_pages(4);
	last = fake_ptr(&fm, RAM - PAGE);
	memset(last, 7, PAGE);
	send_pfns(INFLATE, pfns, ARRAY_SIZE(pfns));
	fake_wait_used(INFLATE);
	assert_int_equal(last[0], 0);
	assert_true(is_filled(0));
	assert_false(is_filled(1));
	assert_false(is_filled(2));
	assert_true(is_filled(3));
	assert_false(fake_needs_reset(vd));
	unplug();
}

static void test_many(void **state)
{
	static uint32_t pfns[65537];

	plug("");
	fake_start(&fm, vd, 0);
	for (unsigned i = 0; i < ARRAY_SIZE(pfns); i++)
		pfns[i] = FIRST + (i * 7) % 1024;
	send_pfns(INFLATE, pfns, 65536);
	fake_wait_used(INFLATE);
	send_pfns(INFLATE, pfns, 0x10001); /* too many */
	fake_run(vd->loop, 5);
	assert_true(fake_needs_reset(vd));
	fake_start(&fm, vd, 0);
	fake_add(INFLATE, &FAKE_OUT(0, 6), 1); /* one and a half */
	fake_kick(INFLATE);
	fake_run(vd->loop, 5);
	assert_true(fake_needs_reset(vd));
	fake_start(&fm, vd, 0);
	for (unsigned i = 0; i < 100; i++)
		send_pfns(INFLATE, pfns, 16);
	for (unsigned i = 0; i < 100; i++)
		fake_wait_used(INFLATE);
	unplug();
}

static void report(uint64_t gpa, uint32_t len)
{
	fake_add(REPORT, &FAKE_IN(gpa, len), 1);
	fake_kick(REPORT);
	fake_wait_used(REPORT);
}

static void test_reporting(void **state)
{
	const uint64_t gpa = (uint64_t)FIRST * PAGE;
	const uint32_t poison = 0xaaaaaaaa;

	plug("free-page-reporting=on");
	assert_int_equal(vd->n_queues, 4);
	fake_start(&fm, vd, ALL & ~BIT(2));
	fill_pages(16);
	report(gpa + 2 * PAGE, 3 * PAGE);
	for (unsigned i = 0; i < 16; i++)
		assert_int_equal(is_filled(i), i < 2 || i > 4);
	report(gpa + 6 * PAGE + 8, PAGE); /* no whole page */
	report(gpa + 6 * PAGE, 100);
	assert_true(is_filled(6));
	assert_true(is_filled(7));

	/* a poison must survive */
	virtio_write_config(vd, 12, &poison, 4);
	report(gpa + 8 * PAGE, PAGE);
	assert_true(is_filled(8));
	fake_add(REPORT, &FAKE_IN(RAM - PAGE, 2 * PAGE), 1);
	fake_kick(REPORT);
	fake_run(vd->loop, 5);
	assert_true(fake_needs_reset(vd));

	/* without the feature the value means nothing, and a new driver has not said it */
	fake_start(&fm, vd, BIT(5));
	virtio_write_config(vd, 12, &poison, 4);
	fill_pages(16);
	report(gpa, PAGE);
	assert_false(is_filled(0));
	unplug();
}

static void test_target(void **state)
{
	uint32_t pages, actual = 1024;

	plug("deflate-on-oom=on");
	assert_ptr_equal(balloon_find(&fm.m), device);
	fake_start(&fm, vd, ALL & ~BIT(5));
	assert_int_equal(balloon_actual(device), RAM);
	balloon_set_target(device, RAM - 4 * MIB);
	assert_int_equal(fake_config_interrupts(), 1);
	virtio_read_config(vd, 0, &pages, 4);
	assert_int_equal(pages, 1024);
	virtio_write_config(vd, 4, &actual, 4);
	assert_int_equal(told, RAM - 4 * MIB);
	assert_int_equal(balloon_actual(device), RAM - 4 * MIB);
	virtio_write_config(vd, 4, &actual, 4);
	assert_int_equal(tellings, 1);
	actual = 0xffffffff; /* more than there is */
	virtio_write_config(vd, 4, &actual, 4);
	assert_int_equal(told, 0);
	pages = 5; /* not the driver's to write */
	virtio_write_config(vd, 0, &pages, 4);
	virtio_read_config(vd, 0, &pages, 4);
	assert_int_equal(pages, 1024);
	balloon_set_target(device, UINT64_MAX);
	virtio_read_config(vd, 0, &pages, 4);
	assert_int_equal(pages, 0);
	machine_reset_devices(&fm.m);
	assert_int_equal(balloon_actual(device), RAM);
	unplug();

	plug("page-poison=off");
	assert_int_equal(vd->config_size, 8);
	unplug();
}

struct told_stat {
	uint16_t tag;
	uint64_t value;
} __attribute__((packed));

static uint64_t stat_of(const char *name)
{
	struct balloon_stats stats;

	balloon_get_stats(device, &stats);
	for (unsigned i = 0; i < BALLOON_STATS; i++)
		if (strcmp(stats.stats[i].name, name) == 0)
			return stats.stats[i].value;
	fail_msg("no %s", name);
	return 0;
}

static void test_stats(void **state)
{
	struct told_stat s[] = { { 4, 1000 }, { 5, 2000 }, { 99, 3 }, { 0, 7 } };
	struct balloon_stats stats;
	uint64_t gpa;

	plug("guest-stats-polling-interval=1");
	assert_int_equal(balloon_polling_interval(device), 1);
	fake_start(&fm, vd, BIT(1));
	assert_int_equal(stat_of("stat-free-memory"), UINT64_MAX);
	gpa = fake_data(&fm, s, sizeof(s));
	fake_add(STATS, &FAKE_OUT(gpa, sizeof(s)), 1);
	fake_kick(STATS);
	fake_run(vd->loop, 10);
	assert_int_equal(stat_of("stat-free-memory"), 1000);
	assert_int_equal(stat_of("stat-total-memory"), 2000);
	assert_int_equal(stat_of("stat-swap-in"), 7);
	assert_int_equal(stat_of("stat-disk-caches"), UINT64_MAX);
	balloon_get_stats(device, &stats);
	assert_true(stats.last_update > 1000000);

	machine_pause_devices(&fm.m);
	machine_resume_devices(&fm.m);
	fake_wait_used(STATS); /* asked after a second */
	((struct told_stat *)fake_ptr(&fm, gpa))[0].value = 1001;
	fake_add(STATS, &FAKE_OUT(gpa, 10), 1);
	fake_kick(STATS);
	fake_run(vd->loop, 10);
	assert_int_equal(stat_of("stat-free-memory"), 1001);
	assert_int_equal(stat_of("stat-total-memory"), UINT64_MAX);

	/* a second buffer lets the first go; one of noise is no harm */
	balloon_set_polling_interval(device, 0);
	fake_add(STATS, &FAKE_OUT(0, 5), 1);
	fake_add(STATS, &FAKE_OUT(0, MIB), 1);
	fake_kick(STATS);
	fake_wait_used(STATS);
	fake_wait_used(STATS);
	fake_start(&fm, vd, BIT(1));
	fake_add(STATS, &FAKE_OUT(RAM, 10), 1);
	fake_kick(STATS);
	fake_run(vd->loop, 5);
	assert_true(fake_needs_reset(vd));
	unplug();
}

static void refuse(const struct device_class *class, const char *props, const char *part)
{
	struct error *err = NULL;

	assert_null(fake_device(&fm, class, props, &err));
	if (!strstr(error_message(err), part))
		fail_msg("'%s' does not speak of '%s'", error_message(err), part);
	error_free(err);
}

static void test_refused(void **state)
{
	fake_machine_init(&fm, RAM);
	assert_null(balloon_find(&fm.m));
	refuse(&virtio_balloon_pci_class, "free-page-hint=on", "free-page-hint=on");
	fake_device(&fm, &virtio_balloon_pci_class, "", NULL);
	refuse(&virtio_balloon_pci_class, "", "one");
	unplug();
}

/* --- Entropy ---- */

static void plug_rng(struct rng *rng, const char *props)
{
	fake_machine_init(&fm, RAM);
	if (rng)
		backends_add(fm.m.backends, BACKEND_RNG, "r0", rng, NULL);
	device = fake_device(&fm, &virtio_rng_pci_class, props, NULL);
	vd = fake_vd(device);
	fake_start(&fm, vd, BIT(VIRTIO_F_EVENT_IDX));
}

static uint64_t ask(uint32_t len)
{
	const uint64_t gpa = fake_alloc(&fm, len);

	fake_add(&fm.queues[0], &FAKE_IN(gpa, len), 1);
	fake_kick(&fm.queues[0]);
	return gpa;
}

static void test_rng(void **state)
{
	static const uint8_t zeroes[64];
	struct rng *rng = rng_open("/dev/urandom", NULL);
	uint64_t gpa;

	for (unsigned i = 0; i < 2; i++) {
		plug_rng(rng, i ? "rng=r0" : "");
		gpa = ask(64);
		assert_int_equal(fake_wait_used(&fm.queues[0]).len, 64);
		assert_memory_not_equal(fake_ptr(&fm, gpa), zeroes, 64);
		gpa = ask(MIB);
		assert_true(fake_wait_used(&fm.queues[0]).len >= 1);
		for (unsigned j = 0; j < 100; j++) {
			ask(10);
			fake_wait_used(&fm.queues[0]);
		}
		unplug();
	}
	rng_close(rng);
}

static void expect_none(void)
{
	struct virtq_used_elem elem;

	fake_run(vd->loop, 20);
	assert_false(fake_used(&fm.queues[0], &elem));
}

/* A source that has nothing at first, then little, then comes to its end. */
static void test_rng_source(void **state)
{
	struct rng rng;
	int fds[2];
	uint64_t gpa;

	assert_int_equal(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
	rng.fd = fds[0];
	plug_rng(&rng, "rng=r0");
	gpa = ask(16);
	expect_none();
	assert_int_equal(write(fds[1], "abc", 3), 3);
	assert_int_equal(fake_wait_used(&fm.queues[0]).len, 3);
	assert_memory_equal(fake_ptr(&fm, gpa), "abc", 3);
	ask(16);
	expect_none();
	machine_pause_devices(&fm.m);
	assert_int_equal(write(fds[1], "de", 2), 2);
	expect_none();
	machine_resume_devices(&fm.m);
	assert_int_equal(fake_wait_used(&fm.queues[0]).len, 2);
	ask(16);
	expect_none();
	close(fds[1]);
	expect_none();
	unplug();
	close(fds[0]);
}

static void test_rng_limit(void **state)
{
	uint64_t begin = now_ns();

	plug_rng(NULL, "max-bytes=100,period=200");
	ask(80);
	ask(80);
	ask(80);
	assert_int_equal(fake_wait_used(&fm.queues[0]).len, 80);
	assert_int_equal(fake_wait_used(&fm.queues[0]).len, 20);
	expect_none();
	assert_int_equal(fake_wait_used(&fm.queues[0]).len, 80);
	assert_true(now_ns() - begin >= 150000000);
	unplug();
}

static void test_rng_refused(void **state)
{
	struct error *err = NULL;

	assert_null(rng_open("/nonexistent", &err));
	assert_non_null(strstr(error_message(err), "/nonexistent"));
	error_free(err);
	rng_close(NULL);
	fake_machine_init(&fm, RAM);
	refuse(&virtio_rng_pci_class, "rng=none", "none");
	refuse(&virtio_rng_pci_class, "max-bytes=0", "max-bytes");
	refuse(&virtio_rng_pci_class, "period=0", "period");
	unplug();

	plug_rng(NULL, "");
	fake_add(&fm.queues[0], &FAKE_OUT(0, 10), 1); /* readable */
	fake_kick(&fm.queues[0]);
	fake_run(vd->loop, 5);
	assert_true(fake_needs_reset(vd));
	unplug();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_inflate),   cmocka_unit_test(test_inflate_shared),
		cmocka_unit_test(test_not_ram),   cmocka_unit_test(test_many),
		cmocka_unit_test(test_reporting), cmocka_unit_test(test_target),
		cmocka_unit_test(test_stats),     cmocka_unit_test(test_refused),
		cmocka_unit_test(test_rng),       cmocka_unit_test(test_rng_source),
		cmocka_unit_test(test_rng_limit), cmocka_unit_test(test_rng_refused),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
