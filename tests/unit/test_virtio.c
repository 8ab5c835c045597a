/* The life of a virtio device as its driver sees it over PCI, and what a bad driver gets. */
#include "virtio_pci_driver.h"

#include <stdlib.h>

#define QUEUES      3
#define QUEUE_MAX   128
#define FEATURE     5
#define CONFIG_SIZE 12

/* --- A device that echoes: what it reads comes back in what it may write ---- */

struct echo {
	struct virtio_pci vpci;
	struct virtio_device vd;
	uint8_t config[CONFIG_SIZE];
	unsigned started, stopped, notified[QUEUES];
	uint64_t features;
	bool fail_next;
};

static struct echo *the_echo;

static void echo_config_read(struct virtio_device *vd, unsigned offset, void *buf, unsigned len)
{
	assert_true(offset + len <= CONFIG_SIZE);
	memcpy(buf, the_echo->config + offset, len);
}

static void echo_config_write(struct virtio_device *vd, unsigned offset, const void *buf,
			      unsigned len)
{
	assert_true(offset + len <= CONFIG_SIZE);
	memcpy(the_echo->config + offset, buf, len);
}

static void echo_set_features(struct virtio_device *vd, uint64_t features)
{
	the_echo->features = features;
}

static void echo_start(struct virtio_device *vd)
{
	assert_true(vd->running);
	the_echo->started++;
}

static void echo_stop(struct virtio_device *vd)
{
	assert_false(vd->running);
	the_echo->stopped++;
}

static void echo_notify(struct virtio_device *vd, unsigned q)
{
	struct virtq *vq = &vd->queues[q];
	struct virtq_chain chain;
	struct iovec iov[16];
	char buf[256];
	int ret;

	the_echo->notified[q]++;
	if (the_echo->fail_next) {
		the_echo->fail_next = false;
		virtio_fail(vd, "queue %u: told to", q);
		return;
	}
	while ((ret = virtq_pop(vq, &chain, iov, 16)) > 0) {
		size_t n = iov_to_buf(chain.iov, chain.n_out, 0, buf, sizeof(buf));

		n = iov_from_buf(chain.iov + chain.n_out, chain.n_in, 0, buf, n);
		virtq_push(vq, chain.head, n);
	}
	if (ret < 0)
		virtio_fail_queue(vd, q);
	else
		virtio_signal(vd, q);
}

static const struct virtio_ops echo_ops = {
	echo_config_read, echo_config_write, echo_set_features, echo_start, echo_stop, echo_notify,
};

static const struct prop no_props[] = { {} };
static const struct device_class echo_class;

static int echo_create(struct machine *machine, const struct props *props, struct device **device,
		       struct error **err)
{
	struct echo *echo = xcalloc(1, sizeof(*echo));

	echo->vpci.dev.class = &echo_class;
	if (virtio_init(&echo->vd, &echo_ops, 42, "virtio-echo-pci", QUEUES, QUEUE_MAX, CONFIG_SIZE,
			BIT(FEATURE), &machine->mem, machine->main_loop, err) < 0 ||
	    virtio_pci_plug(&echo->vpci, machine, props, &echo->vd, 0x00ff00, err) < 0) {
		virtio_destroy(&echo->vd);
		free(echo);
		return -1;
	}
	the_echo = echo;
	*device = &echo->vpci.dev;
	return 0;
}

static void echo_destroy(struct device *device)
{
	struct echo *echo = container_of(device, struct echo, vpci.dev);

	virtio_pci_unplug(&echo->vpci);
	virtio_destroy(&echo->vd);
	free(echo);
}

static const struct device_class echo_class = {
	"virtio-echo-pci", "PCI",        "echo",           no_props,
	virtio_pci_props,  echo_create,  virtio_pci_reset, virtio_pci_pause,
	virtio_pci_resume, echo_destroy,
};

/* --- Fixture ---- */

static struct driver drv;

static int setup(void **state)
{
	struct error *err = NULL;

	driver_machine_init(&drv);
	if (!driver_plug(&drv, &echo_class, "id=e0", &err))
		fail_msg("%s", error_message(err));
	return 0;
}

static int teardown(void **state)
{
	driver_machine_destroy(&drv);
	return 0;
}

static void stop_loop(void *opaque)
{
	loop_stop(opaque);
}

/* What the device's loop has to do. */
static void turn(void)
{
	struct loop_call stop = { .fn = stop_loop, .opaque = drv.machine.main_loop };

	loop_post(drv.machine.main_loop, &stop);
	loop_run(drv.machine.main_loop);
}

static uint16_t echo(unsigned q, const char *text)
{
	const size_t len = strlen(text);
	const struct driver_piece pieces[] = { { DRIVER_BUFFERS, len, false },
					       { DRIVER_BUFFERS + 0x1000, 64, true } };

	memcpy(gmem_slice(&drv.machine.mem, DRIVER_BUFFERS, len), text, len);
	return driver_add(&drv.queues[q], pieces, 2);
}

static bool echoed(unsigned q, const char *text)
{
	struct virtq_used_elem elem;

	return driver_used(&drv.queues[q], &elem) && elem.len == strlen(text) &&
	       memcmp(gmem_slice(&drv.machine.mem, DRIVER_BUFFERS + 0x1000, 64), text, elem.len) ==
		       0;
}

static unsigned messages(void)
{
	return drv.machine.irqs.last_msi.count;
}

/* --- What it looks like ---- */

static void identity(void **state)
{
	assert_int_equal(driver_config(&drv, 0, 4), 0x106a1af4);
	assert_int_equal(driver_config(&drv, 8, 4), 0x00ff0001);
	assert_int_equal(driver_config(&drv, 0x2c, 4), 0x11001af4);
	assert_int_equal(driver_config(&drv, PCI_INTERRUPT_PIN, 1), 1);
	assert_true(drv.common && drv.isr && drv.config && drv.notify && drv.cfg_cap);
	assert_int_equal(drv.notify_multiplier, 4);
	assert_true(drv.msix_cap);
	assert_int_equal(driver_config(&drv, drv.msix_cap + 2, 2) & 0x7ff, QUEUES); /* N - 1 */
	assert_int_equal(driver_get(&drv, NUM_QUEUES, 2), QUEUES);
	assert_int_equal(driver_offered(&drv), BIT(FEATURE) | BIT(VIRTIO_F_VERSION_1) |
						       BIT(VIRTIO_F_EVENT_IDX) |
						       BIT(VIRTIO_F_INDIRECT_DESC));
	driver_set(&drv, DEVICE_FEATURE_SELECT, 4, 2);
	assert_int_equal(driver_get(&drv, DEVICE_FEATURE, 4), 0);
	for (unsigned q = 0; q < QUEUES; q++) {
		driver_set(&drv, QUEUE_SELECT, 2, q);
		assert_int_equal(driver_get(&drv, QUEUE_SIZE, 2), QUEUE_MAX);
		assert_int_equal(driver_get(&drv, QUEUE_ENABLE, 2), 0);
		assert_int_equal(driver_get(&drv, QUEUE_NOTIFY_OFF, 2), q);
		assert_int_equal(driver_get(&drv, QUEUE_VECTOR, 2), 0xffff);
	}
	driver_set(&drv, QUEUE_SELECT, 2, QUEUES);
	assert_int_equal(driver_get(&drv, QUEUE_SIZE, 2), 0);
	driver_set(&drv, QUEUE_SELECT, 2, 0xffff);
	assert_int_equal(driver_get(&drv, QUEUE_SIZE, 2), 0);
	driver_set(&drv, QUEUE_ENABLE, 2, 1);
	driver_set(&drv, QUEUE_VECTOR, 2, 1);
	driver_set(&drv, QUEUE_SIZE, 2, 2);
	driver_set64(&drv, QUEUE_DESC, 0x1000);
}

static void properties(void **state)
{
	static const struct {
		const char *text, *words;
	} refused[] = {
		{ "disable-modern=on", "only the modern interface" },
		{ "disable-legacy=off", "disable-legacy=on or auto" },
		{ "iommu_platform=on", "iommu_platform=on is not supported" },
		{ "packed=on", "split rings" },
		{ "vectors=4000", "vectors" },
		{ "bus=pci.9", "pci.9" },
		{ "nonsense=1", "nonsense" },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(refused); i++) {
		struct error *err ERROR_AUTO = NULL;

		assert_null(driver_plug(&drv, &echo_class, refused[i].text, &err));
		if (!strstr(error_message(err), refused[i].words))
			fail_msg("%s: %s", refused[i].text, error_message(err));
	}
	assert_non_null(driver_plug(
		&drv, &echo_class, "vectors=0,event_idx=off,indirect_desc=off,ioeventfd=off,addr=7",
		NULL));
	assert_int_equal(drv.slot, 7);
	assert_int_equal(driver_offered(&drv), BIT(FEATURE) | BIT(VIRTIO_F_VERSION_1));
	assert_int_equal(drv.vpci->pci.msix.n_vectors, 0);
}

/* --- Its life ---- */

static void a_good_driver(void **state)
{
	driver_start(&drv, BIT(FEATURE), 16);
	assert_int_equal(driver_status(&drv), DRIVER_READY);
	assert_int_equal(the_echo->started, 1);
	assert_int_equal(the_echo->features, BIT(FEATURE) | BIT(VIRTIO_F_VERSION_1));
	assert_int_equal(the_echo->notified[2], 1); /* once after start */
	echo(1, "hello");
	assert_false(echoed(1, "hello"));
	driver_kick(&drv, 1);
	turn();
	assert_true(echoed(1, "hello"));
	assert_int_equal(the_echo->notified[1], 2);
	driver_set(&drv, DEVICE_STATUS, 1, 0);
	assert_int_equal(driver_status(&drv), 0);
	assert_int_equal(the_echo->stopped, 1);
	driver_set(&drv, QUEUE_SELECT, 2, 1);
	assert_int_equal(driver_get(&drv, QUEUE_ENABLE, 2), 0);
	assert_int_equal(driver_get(&drv, QUEUE_SIZE, 2), QUEUE_MAX);
	assert_int_equal(driver_get(&drv, QUEUE_VECTOR, 2), 0xffff);
	/* What is left of a kick finds nobody. */
	driver_kick(&drv, 1);
	turn();
	assert_int_equal(the_echo->notified[1], 2);
	/* And once more. */
	driver_start(&drv, 0, QUEUE_MAX);
	echo(0, "again");
	driver_kick(&drv, 0);
	turn();
	assert_true(echoed(0, "again"));
}

static void features_are_checked(void **state)
{
	static const struct {
		uint64_t features;
		bool ok;
	} cases[] = {
		{ BIT(VIRTIO_F_VERSION_1), true },
		{ 0, false },
		{ BIT(FEATURE), false },
		{ BIT(VIRTIO_F_VERSION_1) | BIT(FEATURE), true },
		{ BIT(VIRTIO_F_VERSION_1) | BIT(FEATURE + 1), false },
		{ BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_F_ACCESS_PLATFORM), false },
		{ UINT64_MAX, false },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		driver_set(&drv, DEVICE_STATUS, 1, 0);
		driver_set(&drv, DEVICE_STATUS, 1, 3);
		driver_accept(&drv, cases[i].features);
		driver_set(&drv, DEVICE_STATUS, 1, 3 | VIRTIO_STATUS_FEATURES_OK);
		assert_int_equal(driver_status(&drv), cases[i].ok ? 11 : 3);
		/* Settled is settled; refused may be tried again. */
		driver_accept(&drv, BIT(VIRTIO_F_VERSION_1));
		driver_set(&drv, DEVICE_STATUS, 1, 3 | VIRTIO_STATUS_FEATURES_OK);
		assert_int_equal(driver_status(&drv), 11);
		assert_int_equal(the_echo->features,
				 cases[i].ok ? cases[i].features : BIT(VIRTIO_F_VERSION_1));
	}
	/* Words beyond the second are nothing. */
	driver_set(&drv, DEVICE_STATUS, 1, 0);
	driver_set(&drv, DRIVER_FEATURE_SELECT, 4, 2);
	driver_set(&drv, DRIVER_FEATURE, 4, 7);
	assert_int_equal(driver_get(&drv, DRIVER_FEATURE, 4), 0);
}

static void driver_ok_too_early(void **state)
{
	driver_set(&drv, DEVICE_STATUS, 1, 7);
	assert_int_equal(driver_status(&drv), 3 | VIRTIO_STATUS_NEEDS_RESET);
	assert_int_equal(the_echo->started, 0);
	driver_set(&drv, DEVICE_STATUS, 1, 15);
	assert_false(driver_status(&drv) & VIRTIO_STATUS_DRIVER_OK);
	driver_start(&drv, 0, 16); /* a reset heals it */
	assert_int_equal(driver_status(&drv), DRIVER_READY);
}

static void status_bits_stay(void **state)
{
	driver_start(&drv, 0, 16);
	driver_set(&drv, DEVICE_STATUS, 1, VIRTIO_STATUS_ACKNOWLEDGE);
	assert_int_equal(driver_status(&drv), DRIVER_READY);
	driver_set(&drv, DEVICE_STATUS, 1, DRIVER_READY | VIRTIO_STATUS_NEEDS_RESET);
	assert_int_equal(driver_status(&drv), DRIVER_READY);
	driver_set(&drv, DEVICE_STATUS, 1, DRIVER_READY | VIRTIO_STATUS_FAILED);
	assert_int_equal(the_echo->stopped, 1);
	echo(0, "x");
	driver_kick(&drv, 0);
	turn();
	assert_false(echoed(0, "x"));
	virtio_pause(drv.vd);
	virtio_resume(drv.vd);
	assert_int_equal(the_echo->started, 1);
}

static void queue_registers(void **state)
{
	static const uint32_t sizes[] = { 0, 3, 100, 129, 256, 0xffff };

	driver_negotiate(&drv, 0);
	driver_set(&drv, QUEUE_SELECT, 2, 1);
	driver_set(&drv, QUEUE_SIZE, 2, 32);
	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
		driver_set(&drv, QUEUE_SIZE, 2, sizes[i]);
		assert_int_equal(driver_get(&drv, QUEUE_SIZE, 2), 32);
	}
	driver_set_queue(&drv, 1, 32);
	/* Enabled: no register of it changes any more. */
	driver_set(&drv, QUEUE_SIZE, 2, 64);
	driver_set64(&drv, QUEUE_DESC, 0xdead0000);
	driver_set64(&drv, QUEUE_DRIVER, 0xdead0000);
	driver_set64(&drv, QUEUE_DEVICE, 0xdead0000);
	driver_set(&drv, QUEUE_ENABLE, 2, 0);
	assert_int_equal(driver_get(&drv, QUEUE_SIZE, 2), 32);
	assert_int_equal(driver_get(&drv, QUEUE_ENABLE, 2), 1);
	assert_int_equal(driver_get(&drv, QUEUE_DESC, 4), drv.queues[1].desc_gpa);
	assert_int_equal(driver_get(&drv, QUEUE_DRIVER, 4), drv.queues[1].avail_gpa);
	assert_int_equal(driver_get(&drv, QUEUE_DEVICE, 4), drv.queues[1].used_gpa);
	driver_ready(&drv);
	/* Nor can a queue be enabled after DRIVER_OK. */
	driver_set(&drv, QUEUE_SELECT, 2, 2);
	driver_set(&drv, QUEUE_SIZE, 2, 16);
	driver_set(&drv, QUEUE_ENABLE, 2, 1);
	assert_int_equal(driver_get(&drv, QUEUE_SIZE, 2), QUEUE_MAX);
	assert_int_equal(driver_get(&drv, QUEUE_ENABLE, 2), 0);
	driver_kick(&drv, 2);
	turn();
	assert_int_equal(the_echo->notified[2], 0);
	/* Registers are written whole. */
	driver_set(&drv, QUEUE_SELECT, 1, 1);
	driver_set(&drv, QUEUE_SELECT, 4, 1);
	driver_set(&drv, QUEUE_SELECT + 1, 1, 0);
	assert_int_equal(driver_get(&drv, QUEUE_SELECT, 2), 2);
	/* But read in any piece; a 64-bit one in halves, or at once. */
	driver_set(&drv, QUEUE_SELECT, 2, 1);
	assert_int_equal(driver_read(&drv, drv.common + QUEUE_DESC, 8), drv.queues[1].desc_gpa);
	assert_int_equal(driver_get(&drv, QUEUE_DESC + 1, 1), drv.queues[1].desc_gpa >> 8 & 0xff);
}

static void bad_rings(void **state)
{
	static const struct {
		unsigned reg;
		uint64_t value;
	} cases[] = {
		{ QUEUE_DESC, DRIVER_RAM },   { QUEUE_DESC, 0x1008 },
		{ QUEUE_DRIVER, UINT64_MAX }, { QUEUE_DRIVER, 0x2001 },
		{ QUEUE_DEVICE, 0xfee00000 }, { QUEUE_DEVICE, 0x3002 },
	};

	driver_enable_msix(&drv, QUEUES + 1);
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		const unsigned before = messages();

		driver_negotiate(&drv, 0);
		driver_set(&drv, CONFIG_VECTOR, 2, 0);
		driver_set_queue(&drv, 0, 16);
		driver_set(&drv, QUEUE_SELECT, 2, 1);
		driver_set64(&drv, QUEUE_DESC, 0x20000);
		driver_set64(&drv, QUEUE_DRIVER, 0x30000);
		driver_set64(&drv, QUEUE_DEVICE, 0x40000);
		driver_set64(&drv, cases[i].reg, cases[i].value);
		driver_set(&drv, QUEUE_ENABLE, 2, 1);
		driver_ready(&drv);
		assert_true(driver_needs_reset(&drv));
		assert_int_equal(the_echo->started, 0);
		assert_int_equal(messages(), before + 1); /* §2.1.2 */
		assert_int_equal(drv.machine.irqs.last_msi.data, 0x40);
	}
}

static void a_broken_queue(void **state)
{
	driver_enable_msix(&drv, QUEUES + 1);
	driver_start(&drv, 0, 16);
	driver_offer(&drv.queues[1], 99);
	driver_publish(&drv.queues[1]);
	driver_kick(&drv, 1);
	turn();
	assert_int_equal(driver_status(&drv), DRIVER_READY | VIRTIO_STATUS_NEEDS_RESET);
	assert_int_equal(the_echo->stopped, 1);
	assert_int_equal(drv.machine.irqs.last_msi.data, 0x40);
	/* The other queues are off too, and nothing more happens. */
	echo(0, "x");
	driver_kick(&drv, 0);
	turn();
	assert_false(echoed(0, "x"));
	assert_int_equal(the_echo->notified[0], 1);
	virtio_pause(drv.vd);
	virtio_resume(drv.vd);
	assert_int_equal(the_echo->started, 1);

	driver_start(&drv, 0, 16);
	assert_false(driver_needs_reset(&drv));
	the_echo->fail_next = true;
	driver_kick(&drv, 0);
	turn();
	assert_true(driver_needs_reset(&drv));
}

/* --- Interrupts ---- */

static void messages_by_vector(void **state)
{
	unsigned before;

	driver_enable_msix(&drv, QUEUES + 1);
	driver_negotiate(&drv, 0);
	driver_set(&drv, CONFIG_VECTOR, 2, QUEUES + 1); /* there is none */
	assert_int_equal(driver_get(&drv, CONFIG_VECTOR, 2), 0xffff);
	driver_set(&drv, CONFIG_VECTOR, 2, QUEUES);
	assert_int_equal(driver_get(&drv, CONFIG_VECTOR, 2), QUEUES);
	driver_set_queue(&drv, 0, 16);
	driver_set_queue(&drv, 1, 16);
	driver_set(&drv, QUEUE_VECTOR, 2, 2000);
	assert_int_equal(driver_get(&drv, QUEUE_VECTOR, 2), 0xffff);
	driver_ready(&drv);

	before = messages();
	echo(0, "x");
	driver_kick(&drv, 0);
	turn();
	assert_int_equal(messages(), before + 1);
	assert_int_equal(drv.machine.irqs.last_msi.data, 0x41);
	echo(1, "x"); /* its vector is none: no interrupt */
	driver_kick(&drv, 1);
	turn();
	assert_true(echoed(1, "x"));
	assert_int_equal(messages(), before + 1);
	virtio_config_changed(drv.vd);
	assert_int_equal(messages(), before + 2);
	assert_int_equal(drv.machine.irqs.last_msi.data, 0x40 + QUEUES);
	/* §2.7.7: it asks not to be interrupted. */
	drv.queues[0].avail->flags = VIRTQ_AVAIL_F_NO_INTERRUPT;
	echo(0, "x");
	driver_kick(&drv, 0);
	turn();
	assert_int_equal(messages(), before + 2);
}

static void the_old_pin(void **state)
{
	const unsigned gsi = pci_intx_gsi(drv.slot, 0);
	const uint16_t *high = drv.machine.irqs.high;

	driver_start(&drv, 0, 16);
	driver_read(&drv, drv.isr, 1);
	assert_int_equal(high[gsi], 0);
	echo(0, "x");
	driver_kick(&drv, 0);
	turn();
	assert_int_equal(high[gsi], 1);
	assert_int_equal(driver_config(&drv, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT,
			 PCI_STATUS_INTERRUPT);
	virtio_config_changed(drv.vd);
	assert_int_equal(driver_read(&drv, drv.isr, 1), 3);
	assert_int_equal(high[gsi], 0);
	assert_int_equal(driver_config(&drv, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT, 0);
	assert_int_equal(driver_read(&drv, drv.isr, 1), 0);
	/* A reset takes it back too. */
	virtio_config_changed(drv.vd);
	assert_int_equal(high[gsi], 1);
	driver_set(&drv, DEVICE_STATUS, 1, 0);
	assert_int_equal(high[gsi], 0);
}

/* --- Configuration ---- */

static void device_configuration(void **state)
{
	uint8_t generation;

	for (unsigned i = 0; i < CONFIG_SIZE; i++)
		the_echo->config[i] = 0x10 + i;
	assert_int_equal(driver_read(&drv, drv.config, 4), 0x13121110);
	assert_int_equal(driver_read(&drv, drv.config + 5, 1), 0x15);
	assert_int_equal(driver_read(&drv, drv.config + 4, 8), 0x1b1a191817161514);
	assert_int_equal(driver_read(&drv, drv.config + 10, 4), 0x1b1a); /* the rest is not there */
	assert_int_equal(driver_read(&drv, drv.config + 0xffc, 4), 0);
	driver_write(&drv, drv.config + 2, 2, 0xbeef);
	assert_int_equal(driver_read(&drv, drv.config, 4), 0xbeef1110);
	driver_write(&drv, drv.config + 10, 4, 0xffffffff);
	driver_write(&drv, drv.config + 0x800, 4, 0xffffffff);
	assert_int_equal(driver_read(&drv, drv.config + 10, 2), 0x1b1a);

	generation = driver_get(&drv, CONFIG_GENERATION, 1);
	driver_read(&drv, drv.config, 4);
	assert_int_equal(driver_get(&drv, CONFIG_GENERATION, 1), generation);
	for (unsigned i = 0; i < 256; i++)
		virtio_config_changed(drv.vd); /* does not wrap */
	driver_read(&drv, drv.config, 4);
	assert_int_equal(driver_get(&drv, CONFIG_GENERATION, 1), (uint8_t)(generation + 1));
}

/* §4.1.4.9: everything through PCI configuration space. */
static uint32_t window(uint8_t bar, uint32_t offset, uint32_t length, bool write, uint32_t value)
{
	driver_write(&drv, driver_ecam(&drv, drv.cfg_cap + 4), 1, bar);
	driver_write(&drv, driver_ecam(&drv, drv.cfg_cap + 8), 4, offset);
	driver_write(&drv, driver_ecam(&drv, drv.cfg_cap + 12), 4, length);
	if (!write)
		return driver_config(&drv, drv.cfg_cap + 16, MIN(length, 4));
	driver_write(&drv, driver_ecam(&drv, drv.cfg_cap + 16), MIN(length, 4), value);
	return 0;
}

static void access_window(void **state)
{
	const uint64_t bar = driver_bar(&drv, 4);
	const uint32_t common = drv.common - bar, notify = drv.notify - bar, isr = drv.isr - bar;

	window(4, common + DEVICE_STATUS, 1, true, 3);
	assert_int_equal(driver_status(&drv), 3);
	assert_int_equal(window(4, common + NUM_QUEUES, 2, false, 0), QUEUES);
	assert_int_equal(window(4, common + DEVICE_STATUS, 1, false, 0), 3);
	/* Things that are not there. */
	window(3, common + DEVICE_STATUS, 1, true, 0);
	window(4, common + DEVICE_STATUS, 3, true, 0);
	window(4, 0xfffffffc, 4, true, 0);
	window(4, common + 1, 4, true, 0xffffffff);
	window(4, common + DEVICE_STATUS, 0x80000000, false, 0);
	assert_int_equal(driver_status(&drv), 3);

	driver_start(&drv, 0, 16);
	echo(2, "by config");
	window(4, notify + 2 * drv.notify_multiplier, 2, true, 2);
	turn();
	assert_true(echoed(2, "by config"));
	assert_int_equal(window(4, isr, 1, false, 0), 1);
	assert_int_equal(window(4, isr, 1, false, 0), 0);
}

/* --- Pause, and a machine's reset ---- */

static void pause_keeps_queues(void **state)
{
	driver_start(&drv, 0, 16);
	virtio_pci_pause(drv.device);
	assert_int_equal(the_echo->stopped, 1);
	echo(0, "later");
	driver_kick(&drv, 0);
	turn();
	assert_false(echoed(0, "later"));
	virtio_pci_resume(drv.device);
	assert_int_equal(the_echo->started, 2);
	assert_true(echoed(0, "later")); /* resuming looks at every queue */
	echo(0, "and on");
	driver_kick(&drv, 0);
	turn();
	assert_true(echoed(0, "and on"));
	/* DRIVER_OK while paused starts it at resume. */
	virtio_pci_pause(drv.device);
	driver_start(&drv, 0, 16);
	assert_int_equal(the_echo->started, 2);
	virtio_pci_resume(drv.device);
	assert_int_equal(the_echo->started, 3);
}

static void machine_reset(void **state)
{
	driver_enable_msix(&drv, QUEUES + 1);
	driver_start(&drv, 0, 16);
	virtio_pci_reset(drv.device);
	assert_int_equal(the_echo->stopped, 1);
	assert_false(pci_msix_enabled(&drv.vpci->pci));
	pci_assign(drv.machine.pci);
	assert_int_equal(driver_status(&drv), 0);
	assert_int_equal(driver_get(&drv, CONFIG_VECTOR, 2), 0xffff);
	driver_start(&drv, 0, 16);
	assert_int_equal(driver_status(&drv), DRIVER_READY);
}

/* --- Noise: any access anywhere, with live queues behind it ---- */

static void noise(void **state)
{
	static const unsigned widths[] = { 1, 2, 4, 8 };
	const uint64_t bar = driver_bar(&drv, 4);

	driver_enable_msix(&drv, QUEUES + 1);
	for (unsigned i = 0; i < 200000; i++) {
		const unsigned size = widths[rand() % 4];
		const uint64_t value = (uint64_t)rand() << 33 ^ rand();
		uint64_t at = bar + 0x1000 * (rand() % 4) + rand() % 128;

		if (i % 500 == 0) {
			pci_assign(drv.machine.pci);
			driver_start(&drv, rand() % 2 ? BIT(VIRTIO_F_EVENT_IDX) : 0, 16);
			driver_enable_msix(&drv, QUEUES + 1);
		}
		if (rand() % 8 == 0)
			at = driver_ecam(&drv, drv.cfg_cap + rand() % 20);
		if (at >= drv.common && at < drv.common + 64 && rand() % 3)
			at = drv.common + 16 + rand() % 40;
		if (rand() % 16 == 0)
			memset((uint8_t *)drv.queues[rand() % QUEUES].desc + rand() % 256, rand(),
			       16);
		if (rand() % 4 == 0)
			driver_read(&drv, at, size);
		else if (at != drv.common + DEVICE_STATUS || rand() % 50 == 0)
			driver_write(&drv, at, size, rand() % 3 ? value % 20 : value);
		if (rand() % 8 == 0) {
			echo(rand() % QUEUES, "noise");
			driver_kick(&drv, rand() % QUEUES);
			turn();
		}
	}
	driver_set(&drv, DEVICE_STATUS, 1, 0);
	driver_start(&drv, 0, 16);
	echo(0, "still here");
	driver_kick(&drv, 0);
	turn();
	assert_true(echoed(0, "still here"));
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(identity),
		T(properties),
		T(a_good_driver),
		T(features_are_checked),
		T(driver_ok_too_early),
		T(status_bits_stay),
		T(queue_registers),
		T(bad_rings),
		T(a_broken_queue),
		T(messages_by_vector),
		T(the_old_pin),
		T(device_configuration),
		T(access_window),
		T(pause_keeps_queues),
		T(machine_reset),
		T(noise),
	};

	srand(20220701);
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
