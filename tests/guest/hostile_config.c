/*
 * Broken initialization and configuration: status, features, where rings are, registers written at
 * the wrong time, BARs moved under a running device. Virtio 1.2 §2.1, §3.1, §4.1.4.
 */
#include "hostile.h"

#define CAP_TYPE   3
#define CAP_BAR    4
#define CAP_OFFSET 8
#define CAP_LENGTH 12
#define CAP_DATA   16
#define CFG_PCI    5 /* VIRTIO_PCI_CAP_PCI_CFG */
#define NO_VECTOR  0xffff
#define BARS       6
#define BAR_IO     1
#define BAR_64     4

/* --- Where rings are ---- */

/* All queues as they should be but the work queue, which is at these addresses; then a request. */
static void place(struct vdev *vd, uint64_t desc, uint64_t avail, uint64_t used)
{
	vdev_negotiate(vd);
	for (unsigned i = 0; i < vd->n_queues; i++) {
		vdev_setup_queue(vd, i, QUEUE_SIZE);
		if (i == work_queue(vd))
			vdev_place_queue(vd, i, desc, avail, used);
		vdev_enable_queue(vd, i);
	}
	vdev_driver_ok(vd);
	plain_request(vd);
	submit(vd, 0);
}

static uint32_t rings(struct vdev *vd)
{
	return ARENA + work_queue(vd) * QUEUE_ARENA;
}

static void desc_nowhere(struct vdev *vd)
{
	place(vd, NOWHERE, rings(vd) + 0x1000, rings(vd) + 0x2000);
}

static void avail_nowhere(struct vdev *vd)
{
	place(vd, rings(vd), NOWHERE, rings(vd) + 0x2000);
}

static void used_nowhere(struct vdev *vd)
{
	place(vd, rings(vd), rings(vd) + 0x1000, NOWHERE);
}

static void used_past_ram(struct vdev *vd)
{
	place(vd, rings(vd), rings(vd) + 0x1000, memory_end() - 8);
}

static void desc_past_ram(struct vdev *vd)
{
	place(vd, memory_end() - 16, rings(vd) + 0x1000, rings(vd) + 0x2000);
}

static void desc_wraps(struct vdev *vd)
{
	place(vd, 0xffffffffffffff80ull, rings(vd) + 0x1000, rings(vd) + 0x2000);
}

static void used_wraps(struct vdev *vd)
{
	place(vd, rings(vd), rings(vd) + 0x1000, 0xfffffffffffffffcull);
}

static void desc_misaligned(struct vdev *vd)
{
	place(vd, rings(vd) + 8, rings(vd) + 0x1000, rings(vd) + 0x2000);
}

static void avail_misaligned(struct vdev *vd)
{
	place(vd, rings(vd), rings(vd) + 0x1001, rings(vd) + 0x2000);
}

static void used_misaligned(struct vdev *vd)
{
	place(vd, rings(vd), rings(vd) + 0x1000, rings(vd) + 0x2002);
}

static void rings_on_registers(struct vdev *vd)
{
	place(vd, vd->common, vd->common, vd->common);
}

static void rings_at_one_place(struct vdev *vd)
{
	place(vd, rings(vd), rings(vd), rings(vd));
}

/* The device writes what it reads next. */
static void used_over_avail(struct vdev *vd)
{
	place(vd, rings(vd), rings(vd) + 0x1000, rings(vd) + 0x1000);
}

static void used_over_desc(struct vdev *vd)
{
	place(vd, rings(vd), rings(vd) + 0x1000, rings(vd));
}

static void all_queues_share_rings(struct vdev *vd)
{
	vdev_negotiate(vd);
	for (unsigned i = 0; i < vd->n_queues; i++) {
		vdev_setup_queue(vd, i, QUEUE_SIZE);
		vdev_place_queue(vd, i, rings(vd), rings(vd) + 0x1000, rings(vd) + 0x2000);
		vdev_enable_queue(vd, i);
	}
	vdev_driver_ok(vd);
	plain_request(vd);
	queue_offer(&vd->queues[work_queue(vd)], 0);
	for (unsigned i = 0; i < vd->n_queues; i++)
		vdev_kick(vd, i);
}

/* --- Sizes ---- */

static void start_with_size(struct vdev *vd, uint16_t size)
{
	vdev_negotiate(vd);
	for (unsigned i = 0; i < vd->n_queues; i++) {
		vdev_setup_queue(vd, i, QUEUE_SIZE);
		vdev_select(vd, i);
		write16(vd->common + COMMON_QUEUE_SIZE, size);
		vdev_enable_queue(vd, i);
	}
	vdev_driver_ok(vd);
	plain_request(vd);
	submit(vd, 0);
	sleep_us(20000);
	vd->queues[work_queue(vd)].size = 0; /* nothing to wait for */
}

static void size_zero(struct vdev *vd)
{
	start_with_size(vd, 0);
}

static void size_three(struct vdev *vd)
{
	start_with_size(vd, 3);
}

static void size_32768(struct vdev *vd)
{
	start_with_size(vd, 32768);
}

static void size_max(struct vdev *vd)
{
	start_with_size(vd, 0xffff);
}

static void requests(struct vdev *vd, unsigned n)
{
	while (n--) {
		plain_request(vd);
		submit(vd, 0);
		if (!vdev_wait(vd, work_queue(vd), 1000000) || vdev_needs_reset(vd))
			return;
	}
}

/* More requests than the new size has room for: whoever believed it is out of step now. */
static void size_changed_after_start(struct vdev *vd)
{
	static const uint16_t sizes[] = { 4, 0, 3, 256, 32768, 0xffff };

	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
		vdev_select(vd, work_queue(vd));
		write16(vd->common + COMMON_QUEUE_SIZE, sizes[i]);
		requests(vd, 5);
	}
}

static void addresses_changed_after_start(struct vdev *vd)
{
	vdev_place_queue(vd, work_queue(vd), NOWHERE, NOWHERE, NOWHERE);
	requests(vd, 2);
}

static void enabled_again(struct vdev *vd)
{
	vdev_enable_queue(vd, work_queue(vd));
	vdev_enable_queue(vd, work_queue(vd));
	requests(vd, 2);
}

static void disabled_after_start(struct vdev *vd)
{
	vdev_select(vd, work_queue(vd));
	write16(vd->common + COMMON_QUEUE_ENABLE, 0);
	requests(vd, 2);
}

static void queue_none_of(struct vdev *vd)
{
	static const uint16_t which[] = { 63, 64, 1024, 0xffff };

	for (unsigned i = 0; i < ARRAY_SIZE(which); i++) {
		vdev_select(vd, which[i]);
		if (read16(vd->common + COMMON_QUEUE_SIZE) && which[i] >= 1024)
			complain("A queue that is none has a size");
		write16(vd->common + COMMON_QUEUE_SIZE, 8);
		vdev_place_queue(vd, which[i], ARENA, ARENA, ARENA);
		vdev_enable_queue(vd, which[i]);
	}
}

static void no_queue_enabled(struct vdev *vd)
{
	vdev_negotiate(vd);
	vdev_driver_ok(vd);
	for (unsigned i = 0; i < 4; i++)
		write16(vd->notify + i * vd->notify_multiplier, i);
	sleep_us(20000);
}

/* --- Status and features ---- */

static void unknown_features(struct vdev *vd)
{
	vdev_set_status(vd, STATUS_ACKNOWLEDGE | STATUS_DRIVER);
	for (unsigned i = 0; i < 2; i++) {
		write32(vd->common + COMMON_DRIVER_FEATURE_SELECT, i);
		write32(vd->common + COMMON_DRIVER_FEATURE, 0xffffffff);
	}
	vdev_set_status(vd, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK);
	if (vdev_status(vd) & STATUS_FEATURES_OK)
		complain("Features it never offered are fine with it");
}

static void features_far_away(struct vdev *vd)
{
	for (unsigned i = 2; i < 6; i++) {
		write32(vd->common + COMMON_DEVICE_FEATURE_SELECT, i);
		if (read32(vd->common + COMMON_DEVICE_FEATURE))
			complain("Features past 64 are offered");
		write32(vd->common + COMMON_DRIVER_FEATURE_SELECT, i * 0x10000001u);
		write32(vd->common + COMMON_DRIVER_FEATURE, 0xffffffff);
	}
}

static void no_features(struct vdev *vd)
{
	vdev_set_status(vd, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK);
	sleep_us(1000);
}

static void features_after_start(struct vdev *vd)
{
	write32(vd->common + COMMON_DRIVER_FEATURE_SELECT, 0);
	write32(vd->common + COMMON_DRIVER_FEATURE, 0xffffffff);
	requests(vd, 2);
}

static void driver_ok_first(struct vdev *vd)
{
	for (unsigned i = 0; i < 2; i++) {
		vdev_setup_queue(vd, i, QUEUE_SIZE);
		vdev_enable_queue(vd, i);
	}
	vdev_set_status(vd, STATUS_DRIVER_OK);
	plain_request(vd);
	submit(vd, 0);
	sleep_us(20000);
	vd->queues[work_queue(vd)].size = 0;
}

static void driver_ok_again(struct vdev *vd)
{
	vdev_driver_ok(vd);
	vdev_driver_ok(vd);
	requests(vd, 2);
}

static void status_all_ones(struct vdev *vd)
{
	vdev_set_status(vd, 0xff);
	sleep_us(1000);
}

/* The driver may only add bits (§2.1.1). */
static void status_goes_back(struct vdev *vd)
{
	vdev_set_status(vd, STATUS_ACKNOWLEDGE);
	sleep_us(1000);
	vdev_start(vd);
}

static void reset_while_busy(struct vdev *vd)
{
	for (unsigned n = 0; n < 5; n++) {
		plain_request(vd);
		for (unsigned i = 0; i < QUEUE_SIZE; i++)
			queue_offer(&vd->queues[work_queue(vd)], 0);
		vdev_kick(vd, work_queue(vd));
		if (!vdev_start(vd))
			complain("A reset while requests are in flight does not end");
	}
}

static void start_twenty_times(struct vdev *vd)
{
	for (unsigned i = 0; i < 20; i++)
		vdev_start(vd);
}

static void vector_out_of_range(struct vdev *vd)
{
	write16(vd->common + COMMON_CONFIG_VECTOR, 0x7ff);
	if (read16(vd->common + COMMON_CONFIG_VECTOR) != NO_VECTOR)
		complain("A vector that is none is taken for configuration");
	vdev_select(vd, work_queue(vd));
	write16(vd->common + COMMON_QUEUE_VECTOR, 0x7ff);
	if (read16(vd->common + COMMON_QUEUE_VECTOR) != NO_VECTOR)
		complain("A vector that is none is taken for a queue");
}

/* --- Odd accesses ---- */

static void config_odd_accesses(struct vdev *vd)
{
	for (uint32_t at = vd->config; at < vd->config + vd->config_size + 16; at += 3) {
		read8(at);
		read16(at);
		read32(at);
	}
	read32(vd->config + 0xffd);
}

static void config_written(struct vdev *vd)
{
	if (!vd->config)
		return;
	for (uint32_t at = vd->config; at < vd->config + vd->config_size + 16; at += 5) {
		write8(at, 0xff);
		write16(at, 0xffff);
		write32(at, 0xffffffff);
	}
}

static void common_odd_reads(struct vdev *vd)
{
	for (uint32_t at = vd->common; at < vd->common + COMMON_SIZE + 8; at++) {
		read8(at);
		read16(at);
		read32(at);
	}
}

/* §4.1.4.9: BARs through configuration space, with every field wrong in turn. */
static void access_by_config_space(struct vdev *vd)
{
	static const uint32_t wrong[][3] = {
		{ 4, 0, 4 }, { 7, 0, 4 }, { 255, 0, 4 },        { 4, 0xfffffffc, 4 },
		{ 4, 0, 3 }, { 4, 0, 0 }, { 4, 0, 0xffffffff }, { 4, 0x3fff, 4 },
		{ 1, 0, 4 }, { 0, 0, 4 }, { 4, 1, 4 },          { 4, 0x3000, 2 },
	};
	unsigned cap = 0;

	while ((cap = pci_find_cap(vd->fn, PCI_CAP_VENDOR, cap)))
		if (pci_read(vd->fn, cap + CAP_TYPE, 1) == CFG_PCI)
			break;
	for (unsigned i = 0; cap && i < ARRAY_SIZE(wrong); i++) {
		pci_write(vd->fn, cap + CAP_BAR, 1, wrong[i][0]);
		pci_write(vd->fn, cap + CAP_OFFSET, 4, wrong[i][1]);
		pci_write(vd->fn, cap + CAP_LENGTH, 4, wrong[i][2]);
		pci_read(vd->fn, cap + CAP_DATA, 4);
		pci_write(vd->fn, cap + CAP_DATA, 4, 0);
		pci_read(vd->fn, cap + CAP_DATA + 1, 1);
	}
	/* One of them reset the device: offset 0 of BAR 4 is no status, but 0x14 is. */
	vdev_start(vd);
}

/* --- PCI under a running device ---- */

struct saved_bars {
	uint32_t bars[BARS];
	uint32_t command;
};

static void save_bars(struct vdev *vd, struct saved_bars *saved)
{
	saved->command = pci_read(vd->fn, PCI_COMMAND, 2);
	for (unsigned i = 0; i < BARS; i++)
		saved->bars[i] = pci_read(vd->fn, PCI_BAR0 + 4 * i, 4);
}

static void restore_bars(struct vdev *vd, const struct saved_bars *saved)
{
	pci_write(vd->fn, PCI_COMMAND, 2, PCI_COMMAND_MASTER);
	for (unsigned i = 0; i < BARS; i++)
		pci_write(vd->fn, PCI_BAR0 + 4 * i, 4, saved->bars[i]);
	pci_write(vd->fn, PCI_COMMAND, 2, saved->command);
}

/* Puts all memory BARs at one address, with decoding on, looks there, and puts them back. */
static void bars_at(struct vdev *vd, uint64_t address)
{
	struct saved_bars saved;

	save_bars(vd, &saved);
	for (unsigned i = 0; i < BARS; i++) {
		if (!saved.bars[i] || saved.bars[i] & BAR_IO)
			continue;
		pci_write(vd->fn, PCI_BAR0 + 4 * i, 4, address);
		if (saved.bars[i] & BAR_64)
			pci_write(vd->fn, PCI_BAR0 + 4 * ++i, 4, address >> 32);
	}
	if (!(address >> 32) && address > memory_end())
		read32(address);
	plain_request(vd);
	queue_offer(&vd->queues[work_queue(vd)], 0);
	restore_bars(vd, &saved);
	vdev_kick(vd, work_queue(vd));
}

static void bars_on_ram(struct vdev *vd)
{
	bars_at(vd, ARENA);
	bars_at(vd, 0x100000);
}

static void bars_on_ecam(struct vdev *vd)
{
	bars_at(vd, PCI_ECAM_BASE);
}

static void bars_on_apics(struct vdev *vd)
{
	bars_at(vd, 0xfec00000);
	bars_at(vd, 0xfee00000);
}

static void bars_at_the_top(struct vdev *vd)
{
	bars_at(vd, 0xfffff000);
	bars_at(vd, 0xfffffffffffff000ull);
	bars_at(vd, 0x8000000000000000ull);
}

static void bars_moved(struct vdev *vd)
{
	struct saved_bars saved;

	save_bars(vd, &saved);
	for (unsigned i = 0; i < BARS; i++) {
		if (!saved.bars[i] || saved.bars[i] & BAR_IO)
			continue;
		pci_write(vd->fn, PCI_BAR0 + 4 * i, 4, pci_window(0x10000));
		if (saved.bars[i] & BAR_64)
			pci_write(vd->fn, PCI_BAR0 + 4 * ++i, 4, 0);
	}
	if (!vdev_find_registers(vd))
		complain("Registers are lost");
	requests(vd, 3);
}

static void decoding_off(struct vdev *vd)
{
	uint32_t command = pci_read(vd->fn, PCI_COMMAND, 2);

	plain_request(vd);
	submit(vd, 0);
	pci_write(vd->fn, PCI_COMMAND, 2, PCI_COMMAND_MASTER);
	if (read16(vd->common + COMMON_NUM_QUEUES) == vd->n_queues)
		complain("Registers answer with decoding off");
	write16(vd->queues[work_queue(vd)].notify, 0);
	pci_write(vd->fn, PCI_COMMAND, 2, command);
}

/* A device may take this for the end of its driver: it is reset afterwards. */
static void bus_master_off(struct vdev *vd)
{
	uint32_t command = pci_read(vd->fn, PCI_COMMAND, 2);

	vdev_start(vd);
	pci_write(vd->fn, PCI_COMMAND, 2, command & ~PCI_COMMAND_MASTER);
	plain_request(vd);
	submit(vd, 0);
	sleep_us(10000);
	pci_write(vd->fn, PCI_COMMAND, 2, command);
	vdev_kick(vd, work_queue(vd));
	vd->queues[work_queue(vd)].size = 0;
}

/*
 * Messages to addresses that are no APIC's, to CPUs there are none of, with vectors there are none
 * of. The delivery mode stays "fixed": this program would not survive an NMI or INIT.
 */
static void interrupts_to_nowhere(struct vdev *vd)
{
	static const uint32_t entries[][3] = {
		{ 0xfee00000, 0, 0x0000 }, { 0xfeeff000, 0, 0x00ff }, { NOWHERE, 0, 0x0040 },
		{ 0xfee00000, ~0u, 0x41 }, { SCRATCH, 0, 0x0042 },    { 0xffffffff, ~0u, 0xf8ff },
		{ 0xfee80010, 0, 0xc041 },
	};
	unsigned cap = pci_find_cap(vd->fn, PCI_CAP_MSIX, 0), vectors;
	uint32_t table;

	if (!cap)
		return;
	table = pci_read(vd->fn, cap + 4, 4);
	table = pci_bar(vd->fn, table & 7, NULL) + (table & ~7u);
	vectors = (pci_read(vd->fn, cap + 2, 2) & 0x7ff) + 1;
	pci_write(vd->fn, cap + 2, 2, 0x8000);
	for (unsigned i = 0; i < ARRAY_SIZE(entries); i++) {
		for (unsigned v = 0; v < vectors; v++) {
			for (unsigned word = 0; word < 3; word++)
				write32(table + 16 * v + 4 * word, entries[i][word]);
			write32(table + 16 * v + 12, 0);
		}
		write16(vd->common + COMMON_CONFIG_VECTOR, i % vectors);
		vdev_select(vd, work_queue(vd));
		write16(vd->common + COMMON_QUEUE_VECTOR, i % vectors);
		requests(vd, 1);
	}
	pci_write(vd->fn, cap + 2, 2, 0x4000);
	pci_write(vd->fn, cap + 2, 2, 0);
}

const struct test config_tests[] = {
	{ "desc-nowhere", BREAKS, desc_nowhere, .starts = true },
	{ "avail-nowhere", BREAKS, avail_nowhere, .starts = true },
	{ "used-nowhere", BREAKS, used_nowhere, .starts = true },
	{ "used-past-ram", BREAKS, used_past_ram, .starts = true },
	{ "desc-past-ram", BREAKS, desc_past_ram, .starts = true },
	{ "desc-wraps", BREAKS, desc_wraps, .starts = true },
	{ "used-wraps", BREAKS, used_wraps, .starts = true },
	{ "desc-misaligned", BREAKS, desc_misaligned, .starts = true },
	{ "avail-misaligned", BREAKS, avail_misaligned, .starts = true },
	{ "used-misaligned", BREAKS, used_misaligned, .starts = true },
	{ "rings-on-registers", BREAKS, rings_on_registers, .starts = true },
	{ "rings-at-one-place", EITHER, rings_at_one_place, .starts = true },
	{ "used-over-avail", EITHER, used_over_avail, .starts = true },
	{ "used-over-desc", EITHER, used_over_desc, .starts = true },
	{ "all-queues-share-rings", EITHER, all_queues_share_rings, .starts = true },
	{ "size-zero", EITHER, size_zero, .starts = true },
	{ "size-three", EITHER, size_three, .starts = true },
	{ "size-32768", EITHER, size_32768, .starts = true },
	{ "size-max", EITHER, size_max, .starts = true },
	{ "size-changed-after-start", EITHER, size_changed_after_start },
	{ "addresses-changed-after-start", EITHER, addresses_changed_after_start },
	{ "enabled-again", LIVES, enabled_again },
	{ "disabled-after-start", EITHER, disabled_after_start },
	{ "queue-none-of", LIVES, queue_none_of },
	{ "no-queue-enabled", EITHER, no_queue_enabled, .starts = true },
	{ "unknown-features", EITHER, unknown_features, .starts = true },
	{ "features-far-away", LIVES, features_far_away },
	{ "no-features", EITHER, no_features, .starts = true },
	{ "features-after-start", LIVES, features_after_start },
	{ "driver-ok-first", EITHER, driver_ok_first, .starts = true },
	{ "driver-ok-again", LIVES, driver_ok_again },
	{ "status-all-ones", EITHER, status_all_ones, .starts = true },
	{ "status-goes-back", EITHER, status_goes_back },
	{ "reset-while-busy", LIVES, reset_while_busy },
	{ "start-twenty-times", LIVES, start_twenty_times },
	{ "vector-out-of-range", LIVES, vector_out_of_range },
	{ "config-odd-accesses", LIVES, config_odd_accesses },
	{ "config-written", LIVES, config_written },
	{ "common-odd-reads", LIVES, common_odd_reads },
	{ "access-by-config-space", LIVES, access_by_config_space },
	{ "bars-on-ram", LIVES, bars_on_ram },
	{ "bars-on-ecam", LIVES, bars_on_ecam },
	{ "bars-on-apics", LIVES, bars_on_apics },
	{ "bars-at-the-top", LIVES, bars_at_the_top },
	{ "bars-moved", LIVES, bars_moved },
	{ "decoding-off", LIVES, decoding_off },
	{ "bus-master-off", EITHER, bus_master_off, .starts = true },
	{ "interrupts-to-nowhere", LIVES, interrupts_to_nowhere },
	{},
};
