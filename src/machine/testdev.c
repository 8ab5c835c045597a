/*
 * pc-testdev: what kvm-unit-tests expect of their host.
 *
 *	0xe0-0xe3	a 32-bit word, read and written in any size
 *	0xe4-0xe7	"forget this page": accepted and ignored, since nothing here caches
 *translations that the processor does not keep coherent by itself 0xe8-0xeb	the same word, a
 *byte at a time 0x2000-0x2017	interrupt lines: writing port n sets GSI n to value != 0 0xff000000
 *64 KiB that remember what was written, but are not RAM
 *
 * Accesses from several vCPUs race as they would on hardware: words are stored whole.
 */
#include "machine/device_list.h"

#include "base/util.h"
#include "machine/machine.h"

#include <string.h>

#define TESTDEV_PORT_WORD  0xe0
#define TESTDEV_PORT_FLUSH 0xe4
#define TESTDEV_PORT_BYTE  0xe8
#define TESTDEV_PORT_IRQ   0x2000
#define TESTDEV_MEM        0xff000000
#define TESTDEV_MEM_SIZE   0x10000

struct testdev {
	struct device dev;
	struct region word_port, flush_port, byte_port, irq_ports, memory;
	_Atomic uint32_t word;
	struct irq_line lines[IRQ_GSIS];
	uint8_t buffer[TESTDEV_MEM_SIZE];
};

static uint64_t word_read(void *opaque, uint64_t offset, unsigned size)
{
	struct testdev *test = opaque;

	return test->word >> (8 * offset);
}

static void word_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct testdev *test = opaque;
	uint32_t mask = (uint32_t)(BIT(8 * size) - 1) << (8 * offset);

	test->word = (test->word & ~mask) | ((uint32_t)value << (8 * offset) & mask);
}

static uint64_t nothing_read(void *opaque, uint64_t offset, unsigned size)
{
	return 0;
}

static void nothing_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
}

static void irq_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct testdev *test = opaque;

	irq_set(&test->lines[offset], value != 0);
}

static uint64_t memory_read(void *opaque, uint64_t offset, unsigned size)
{
	struct testdev *test = opaque;
	uint64_t value = 0;

	memcpy(&value, &test->buffer[offset], size);
	return value;
}

static void memory_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct testdev *test = opaque;

	memcpy(&test->buffer[offset], &value, size);
}

static const struct region_ops word_ops = { word_read, word_write, 4 };
static const struct region_ops byte_ops = { word_read, word_write, 1 };
static const struct region_ops flush_ops = { nothing_read, nothing_write, 4 };
static const struct region_ops irq_ops = { nothing_read, irq_write, 1 };
static const struct region_ops memory_ops = { memory_read, memory_write, 8 };

static void testdev_reset(struct device *dev)
{
	struct testdev *test = container_of(dev, struct testdev, dev);

	for (unsigned i = 0; i < IRQ_GSIS; i++)
		irq_set(&test->lines[i], false);
}

static void testdev_destroy(struct device *dev)
{
	struct testdev *test = container_of(dev, struct testdev, dev);

	bus_unmap(&test->word_port);
	bus_unmap(&test->flush_port);
	bus_unmap(&test->byte_port);
	bus_unmap(&test->irq_ports);
	bus_unmap(&test->memory);
	free(test);
}

static int testdev_create(struct machine *machine, const struct props *props,
			  struct device **device, struct error **err)
{
	struct testdev *test = xcalloc(1, sizeof(*test));

	test->word_port = (struct region){ "pc-testdev-word", 4, &word_ops, test };
	test->flush_port = (struct region){ "pc-testdev-flush", 4, &flush_ops, test };
	/* isa-debugcon's usual port is inside; it wins where both are plugged in. */
	test->byte_port = (struct region){ "pc-testdev-byte", 4, &byte_ops, test, -1 };
	test->irq_ports = (struct region){ "pc-testdev-irq", IRQ_GSIS, &irq_ops, test };
	test->memory = (struct region){ "pc-testdev-memory", TESTDEV_MEM_SIZE, &memory_ops, test };
	for (unsigned i = 0; i < IRQ_GSIS; i++)
		irq_line_init(&test->lines[i], &machine->irqs, i);
	if (bus_map(machine->io, &test->word_port, TESTDEV_PORT_WORD, err) < 0 ||
	    bus_map(machine->io, &test->flush_port, TESTDEV_PORT_FLUSH, err) < 0 ||
	    bus_map(machine->io, &test->byte_port, TESTDEV_PORT_BYTE, err) < 0 ||
	    bus_map(machine->io, &test->irq_ports, TESTDEV_PORT_IRQ, err) < 0 ||
	    bus_map(machine->memory, &test->memory, TESTDEV_MEM, err) < 0) {
		testdev_destroy(&test->dev);
		return -1;
	}
	*device = &test->dev;
	return 0;
}

static const struct prop testdev_props[] = { {} };

const struct device_class pc_testdev_class = {
	.name = "pc-testdev",
	.bus = "ISA",
	.desc = "ports and memory that kvm-unit-tests use",
	.props = testdev_props,
	.create = testdev_create,
	.reset = testdev_reset,
	.destroy = testdev_destroy,
};
