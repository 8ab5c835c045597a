/* Guest memory, buses, interrupt lines, PCI configuration space, BARs, bridges and MSI-X. */
#include "base/error.h"
#include "base/util.h"
#include "machine/bus.h"
#include "machine/gmem.h"
#include "machine/irq.h"
#include "machine/pci.h"

#include <stdarg.h>
#include <setjmp.h>
#include <string.h>

#include <cmocka.h>

/* --- Memory ---- */

static void memory_is_bounded(void **state)
{
	const struct gmem_config config = { .size = 6 * MIB, .low_max = 4 * MIB };
	struct gmem gm;
	uint32_t value = 0x12345678, back = 0;

	assert_int_equal(gmem_init(&gm, NULL, &config, NULL), 0);
	assert_int_equal(gm.low_size, 4 * MIB);
	assert_int_equal(gm.high_size, 2 * MIB);
	assert_non_null(gmem_slice(&gm, 0, 4 * MIB));
	assert_null(gmem_slice(&gm, 0, 4 * MIB + 1));
	assert_null(gmem_slice(&gm, 4 * MIB, 1));
	assert_null(gmem_slice(&gm, 4 * MIB - 1, 2));
	assert_null(gmem_slice(&gm, UINT64_MAX, 2));
	assert_null(gmem_slice(&gm, 1, UINT64_MAX));
	assert_non_null(gmem_slice(&gm, 4 * GIB + 2 * MIB - 1, 1));
	assert_null(gmem_slice(&gm, 4 * GIB + 2 * MIB, 0));
	assert_true(gmem_write(&gm, 4 * GIB + 8, &value, sizeof(value)));
	assert_true(gmem_read(&gm, 4 * GIB + 8, &back, sizeof(back)));
	assert_int_equal(back, value);
	assert_false(gmem_read(&gm, 4 * MIB - 2, &back, sizeof(back)));
	gmem_destroy(&gm);
}

/* --- Buses ---- */

struct registers {
	uint8_t bytes[256];
	unsigned max_seen;
};

static uint64_t registers_read(void *opaque, uint64_t offset, unsigned size)
{
	struct registers *r = opaque;
	uint64_t value = 0;

	r->max_seen = MAX(r->max_seen, size);
	memcpy(&value, r->bytes + offset, size);
	return value;
}

static void registers_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct registers *r = opaque;

	r->max_seen = MAX(r->max_seen, size);
	memcpy(r->bytes + offset, &value, size);
}

static const struct region_ops narrow_ops = { registers_read, registers_write, 2 };
static const struct region_ops wide_ops = { registers_read, registers_write, 8 };

static void bus_finds_regions(void **state)
{
	struct bus *bus = bus_new(HAV_SPACE_MEMORY, NULL);
	struct registers low = {}, high = {}, over = {};
	struct region a = { "a", 256, &wide_ops, &low };
	struct region b = { "b", 256, &narrow_ops, &high };
	struct region c = { "c", 16, &wide_ops, &over, .priority = 1 };
	struct error *err = NULL;

	assert_int_equal(bus_map(bus, &a, 0x1000, NULL), 0);
	assert_int_equal(bus_map(bus, &b, 0x2000, NULL), 0);
	bus_write(bus, 0x1008, 8, 0x1122334455667788);
	assert_int_equal(bus_read(bus, 0x100c, 4), 0x11223344);
	/* Wider than the device takes: in pieces. */
	bus_write(bus, 0x2000, 8, 0x8877665544332211);
	assert_int_equal(high.max_seen, 2);
	assert_int_equal(bus_read(bus, 0x2000, 8), 0x8877665544332211);
	/* Nobody there, and half there. */
	assert_int_equal(bus_read(bus, 0x5000, 4), 0xffffffff);
	bus_write(bus, 0x5000, 4, 1);
	assert_int_equal(bus_read(bus, 0x20fe, 4), 0xffff0000);
	assert_int_equal(bus_read(bus, 0x1ffe, 4), 0xffffffff);
	bus_write(bus, 0x1ffe, 4, 0);
	assert_int_equal(bus_read(bus, 0x2000, 1), 0x11);
	/* The higher priority is seen, and what is below it again afterwards. */
	assert_int_equal(bus_map(bus, &c, 0x1008, NULL), 0);
	assert_int_equal(bus_read(bus, 0x1008, 8), 0);
	bus_unmap(&c);
	assert_int_equal(bus_read(bus, 0x1008, 8), 0x1122334455667788);
	/* Overlaps and overflows are refused. */
	bus_unmap(&b);
	assert_int_equal(bus_map(bus, &b, 0x10ff, &err), -1);
	assert_string_equal(error_message(err), "b at 0x10ff overlaps a at 0x1000");
	error_free(err);
	assert_int_equal(bus_map(bus, &b, UINT64_MAX - 10, NULL), -1);
	assert_null(b.bus);
	bus_free(bus);
}

static void doorbells_ring_without_backend(void **state)
{
	struct bus *bus = bus_new(HAV_SPACE_MEMORY, NULL);
	struct registers regs = {};
	struct region a = { "a", 256, &wide_ops, &regs };
	int fds[2];
	uint64_t one = 0;

	assert_int_equal(pipe(fds), 0);
	assert_int_equal(region_add_doorbell(&a, 4, 2, fds[1], NULL), 0);
	assert_int_equal(bus_map(bus, &a, 0x1000, NULL), 0);
	bus_write(bus, 0x1004, 2, 7);
	assert_int_equal(read(fds[0], &one, sizeof(one)), sizeof(one));
	assert_int_equal(one, 1);
	assert_int_equal(regs.bytes[4], 0);
	bus_write(bus, 0x1004, 4, 7); /* another size is a plain write */
	assert_int_equal(regs.bytes[4], 7);
	close(fds[0]);
	close(fds[1]);
	bus_free(bus);
	free(a.doorbells);
}

static void shared_lines_are_ored(void **state)
{
	struct irqs irqs;
	struct irq_line a, b;

	irqs_init(&irqs, NULL);
	irq_line_init(&a, &irqs, 17);
	irq_line_init(&b, &irqs, 17);
	irq_set(&a, true);
	irq_set(&a, true);
	irq_set(&b, true);
	assert_int_equal(irqs.high[17], 2);
	irq_set(&a, false);
	assert_int_equal(irqs.high[17], 1);
	irq_set(&b, false);
	assert_int_equal(irqs.high[17], 0);
}

/* --- PCI ---- */

struct pc {
	struct bus *io, *memory;
	struct irqs irqs;
	struct pci_host *host;
	struct pci_device dev, port, behind;
	struct registers regs;
};

static const struct pci_device_id test_id = { 0x1234, 0x5678, 0x1af4, 0x1100, 3, 1, 0, 0 };

static void make_pc(struct pc *pc)
{
	const struct pci_windows windows = { 0xb0000000,  0xc0000000, 0x3e000000, 0x100000000,
					     0x100000000, 0x6000,     0xa000 };

	memset(pc, 0, sizeof(*pc));
	pc->io = bus_new(HAV_SPACE_IO, NULL);
	pc->memory = bus_new(HAV_SPACE_MEMORY, NULL);
	irqs_init(&pc->irqs, NULL);
	pc->host = pci_host_new(pc->io, pc->memory, &pc->irqs, &windows, NULL);
	assert_non_null(pc->host);
	pci_device_init(&pc->dev, "test", &test_id);
	pci_add_bar(&pc->dev, 0, PCI_BAR_MEM32, 256, &wide_ops, &pc->regs);
	pci_add_msix(&pc->dev, 1, 3);
	pci_add_bar(&pc->dev, 2, PCI_BAR_IO, 32, &narrow_ops, &pc->regs);
	pci_add_bar(&pc->dev, 4, PCI_BAR_MEM64_PREF, 0x4000, &wide_ops, &pc->regs);
	pci_add_intx(&pc->dev);
	assert_int_equal(pci_plug(pci_host_root(pc->host), &pc->dev, -1, 0, NULL), 0);
}

static void free_pc(struct pc *pc)
{
	pci_device_destroy(&pc->dev);
	pci_host_free(pc->host);
	bus_free(pc->io);
	bus_free(pc->memory);
}

#define ECAM(devfn, offset) (0xb0000000 + ((devfn) << 12) + (offset))
#define DEV                 (1 << 3)

static uint32_t by_ports(struct pc *pc, unsigned devfn, unsigned offset, unsigned size)
{
	bus_write(pc->io, 0xcf8, 4, 0x80000000 | devfn << 8 | (offset & 0xfc));
	return bus_read(pc->io, 0xcfc + (offset & 3), size);
}

static void both_ways_to_configuration_space(void **state)
{
	struct pc pc;

	make_pc(&pc);
	assert_int_equal(bus_read(pc.memory, ECAM(0, 0), 4), 0x29c08086);
	assert_int_equal(bus_read(pc.memory, ECAM(DEV, 0), 4), 0x56781234);
	assert_int_equal(by_ports(&pc, DEV, 2, 2), 0x5678);
	assert_int_equal(by_ports(&pc, DEV, 8, 1), 3);
	assert_int_equal(by_ports(&pc, 2 << 3, 0, 4), 0xffffffff);
	bus_write(pc.io, 0xcf8, 4, 0);
	assert_int_equal(bus_read(pc.io, 0xcfc, 4), 0xffffffff);
	assert_int_equal(bus_read(pc.memory, 0xb0000000 + (200 << 20), 4), 0xffffffff);
	/* Read-only and reserved bits stay. */
	bus_write(pc.memory, ECAM(DEV, 0), 4, 0);
	bus_write(pc.memory, ECAM(DEV, PCI_COMMAND), 2, 0xffff);
	assert_int_equal(bus_read(pc.memory, ECAM(DEV, 0), 4), 0x56781234);
	assert_int_equal(bus_read(pc.memory, ECAM(DEV, PCI_COMMAND), 2), 0x0407);
	free_pc(&pc);
}

static uint64_t size_bar(struct pc *pc, unsigned n)
{
	uint64_t at = ECAM(DEV, PCI_BASE_ADDRESS_0 + 4 * n);
	uint32_t old = bus_read(pc->memory, at, 4), mask;

	bus_write(pc->memory, at, 4, 0xffffffff);
	mask = bus_read(pc->memory, at, 4);
	bus_write(pc->memory, at, 4, old);
	return mask;
}

static void bars_size_and_move(void **state)
{
	struct pc pc;
	uint32_t bar0;

	make_pc(&pc);
	pci_assign(pc.host);
	assert_int_equal(size_bar(&pc, 0), 0xffffff00);
	assert_int_equal(size_bar(&pc, 2), 0xffffffe1);
	assert_int_equal(size_bar(&pc, 4), 0xffffc00c);
	bar0 = bus_read(pc.memory, ECAM(DEV, PCI_BASE_ADDRESS_0), 4);
	pc.regs.bytes[0] = 0x5a;
	assert_int_equal(bus_read(pc.memory, bar0, 1), 0x5a);
	/* The 64-bit BAR is above 4 GiB. */
	assert_true(pc.dev.bars[4].region.base >= 0x100000000);
	bus_write(pc.memory, ECAM(DEV, PCI_BASE_ADDRESS_0), 4, 0xd0000000);
	assert_int_equal(bus_read(pc.memory, bar0, 1), 0xff);
	assert_int_equal(bus_read(pc.memory, 0xd0000000, 1), 0x5a);
	/* Over another BAR, over ECAM, at the end of the address space: not mapped, and not missed.
	 */
	bus_write(pc.memory, ECAM(DEV, PCI_BASE_ADDRESS_0), 4, pc.dev.bars[1].region.base);
	assert_null(pc.dev.bars[0].region.bus);
	bus_write(pc.memory, ECAM(DEV, PCI_BASE_ADDRESS_0), 4, 0xb0000000);
	assert_null(pc.dev.bars[0].region.bus);
	assert_int_equal(bus_read(pc.memory, ECAM(0, 0), 4), 0x29c08086);
	bus_write(pc.memory, ECAM(DEV, PCI_BASE_ADDRESS_0 + 16), 4, 0xffffc000);
	bus_write(pc.memory, ECAM(DEV, PCI_BASE_ADDRESS_0 + 20), 4, 0xffffffff);
	assert_null(pc.dev.bars[4].region.bus);
	/* Decoding off: nothing answers. */
	bus_write(pc.memory, ECAM(DEV, PCI_BASE_ADDRESS_0), 4, 0xd0000000);
	assert_non_null(pc.dev.bars[0].region.bus);
	bus_write(pc.memory, ECAM(DEV, PCI_COMMAND), 2, 0);
	assert_null(pc.dev.bars[0].region.bus);
	pci_device_reset(&pc.dev);
	assert_int_equal(bus_read(pc.memory, ECAM(DEV, PCI_BASE_ADDRESS_0), 4), 0);
	free_pc(&pc);
}

static void msix_masks_and_delivers(void **state)
{
	struct pc pc;
	uint64_t table, control;

	make_pc(&pc);
	pci_assign(pc.host);
	table = pc.dev.bars[1].region.base;
	control = ECAM(DEV, pc.dev.msix.cap + 2);
	pci_msix_raise(&pc.dev, 0);
	assert_int_equal(pc.irqs.last_msi.count, 0); /* off */
	bus_write(pc.memory, control, 2, 0x8000);
	assert_true(pci_msix_enabled(&pc.dev));
	bus_write(pc.memory, table + 16, 8, 0xfee01000);
	bus_write(pc.memory, table + 24, 4, 0x41);
	pci_msix_raise(&pc.dev, 1);
	assert_int_equal(pc.irqs.last_msi.count, 0); /* masked: pending */
	assert_int_equal(bus_read(pc.memory, table + 2048, 8), 2);
	bus_write(pc.memory, table + 28, 4, 0);
	assert_int_equal(pc.irqs.last_msi.count, 1);
	assert_int_equal(pc.irqs.last_msi.address, 0xfee01000);
	assert_int_equal(pc.irqs.last_msi.data, 0x41);
	assert_int_equal(bus_read(pc.memory, table + 2048, 8), 0);
	bus_write(pc.memory, control, 2, 0xc000); /* all masked */
	pci_msix_raise(&pc.dev, 1);
	assert_int_equal(pc.irqs.last_msi.count, 1);
	bus_write(pc.memory, control, 2, 0x8000);
	assert_int_equal(pc.irqs.last_msi.count, 2);
	pci_msix_raise(&pc.dev, 99);
	bus_write(pc.memory, table + 2048, 8, UINT64_MAX);
	assert_int_equal(bus_read(pc.memory, table + 2048, 8), 0);
	free_pc(&pc);
}

static void intx_honours_the_command_register(void **state)
{
	struct pc pc;
	unsigned gsi = pci_intx_gsi(1, 0);

	make_pc(&pc);
	pci_intx_set(&pc.dev, true);
	assert_int_equal(pc.irqs.high[gsi], 1);
	assert_int_equal(bus_read(pc.memory, ECAM(DEV, PCI_STATUS), 2) & 8, 8);
	bus_write(pc.memory, ECAM(DEV, PCI_COMMAND), 2, 0x400);
	assert_int_equal(pc.irqs.high[gsi], 0);
	bus_write(pc.memory, ECAM(DEV, PCI_COMMAND), 2, 0);
	assert_int_equal(pc.irqs.high[gsi], 1);
	pci_intx_set(&pc.dev, false);
	assert_int_equal(pc.irqs.high[gsi], 0);
	free_pc(&pc);
}

static void slots_are_exclusive(void **state)
{
	struct pc pc;
	struct pci_device other = {};
	struct error *err = NULL;

	make_pc(&pc);
	pci_device_init(&other, "other", &test_id);
	assert_int_equal(pci_plug(pci_host_root(pc.host), &other, 1, 0, &err), -1);
	assert_string_equal(error_message(err), "other: slot 1.0 of bus 'pcie.0' is taken by test");
	error_free(err);
	err = NULL;
	assert_null(pci_host_find_bus(pc.host, "nope", &err));
	assert_string_equal(error_message(err), "no PCI bus 'nope'; there are: pcie.0");
	error_free(err);
	free_pc(&pc);
}

/* Anything at all, everywhere: it may be refused, but nothing else. Run under sanitizers too. */
static void noise_does_no_harm(void **state)
{
	struct pc pc;
	uint64_t seed = 0x9e3779b97f4a7c15;

	make_pc(&pc);
	pci_assign(pc.host);
	for (unsigned i = 0; i < 200000; i++) {
		static const unsigned sizes[] = { 1, 2, 4, 8 };
		uint64_t value;
		unsigned size, devfn;

		seed ^= seed << 13;
		seed ^= seed >> 7;
		seed ^= seed << 17;
		size = sizes[seed & 3];
		devfn = seed >> 2 & 15;
		value = seed >> 20;
		if (seed & 0x40)
			bus_write(pc.memory, ECAM(devfn, seed >> 8 & 0xfff), size, value);
		else if (seed & 0x80)
			bus_write(pc.io, 0xcf8 + (seed >> 8 & 7), MIN(size, 4), value);
		else
			bus_read(pc.memory, ECAM(devfn, seed >> 8 & 0xfff), size);
		if (i % 1000 == 0)
			pci_msix_raise(&pc.dev, i & 3);
	}
	pci_device_reset(&pc.dev);
	pci_assign(pc.host);
	assert_non_null(pc.dev.bars[0].region.bus);
	free_pc(&pc);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(memory_is_bounded),
		cmocka_unit_test(bus_finds_regions),
		cmocka_unit_test(doorbells_ring_without_backend),
		cmocka_unit_test(shared_lines_are_ored),
		cmocka_unit_test(both_ways_to_configuration_space),
		cmocka_unit_test(bars_size_and_move),
		cmocka_unit_test(msix_masks_and_delivers),
		cmocka_unit_test(intx_honours_the_command_register),
		cmocka_unit_test(slots_are_exclusive),
		cmocka_unit_test(noise_does_no_harm),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
