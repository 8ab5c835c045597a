/*
 * Interrupt controllers and timers outside the processors: see irqchip.h.
 *
 * GSIs 0 to 15 are lines of the PICs and pins of the IOAPIC at once, the timer's being pin 2, as
 * the MADT says. The PIT and the HPET wait for their deadlines on alarms of the guest's clock, and
 * interrupt by lines like any device; while the HPET has the legacy routes, the PIT's leads
 * nowhere. (The RTC's stays connected beside it: a guest that gives it to the HPET leaves the RTC's
 * interrupts off.)
 */
#include "machine/irqchip.h"

#include "base/error.h"
#include "base/util.h"
#include "machine/device_list.h"
#include "machine/hpet.h"
#include "machine/ioapic.h"
#include "machine/machine.h"
#include "machine/pic.h"
#include "machine/pit.h"
#include "machine/vclock.h"
#include "machine/vcpu_irq.h"

#define TIMER_GSI   0
#define TIMER_PIN   2
#define PIC_LINES   16

#define PIC_PORTS_1 0x20
#define PIC_PORTS_2 0xa0
#define ELCR_PORTS  0x4d0
#define PIT_PORTS   0x40
#define PORT61      0x61

enum { PIC_1, PIC_2, ELCR, PIT, SPEAKER, N_PORT_REGIONS };

struct irqchip {
	struct device dev;
	struct pic *pic;
	struct ioapic *ioapic;
	struct pit *pit;
	struct hpet *hpet; /* or NULL */
	struct region ports[N_PORT_REGIONS], ioapic_page, hpet_page;
	struct vclock_alarm *pit_alarm, *hpet_alarm;
	struct irq_line pit_line, hpet_line[HPET_TIMERS];
	atomic_bool hpet_legacy;
};

/* --- Lines ---- */

void irqchip_set_gsi(struct irqchip *chip, unsigned gsi, bool level)
{
	if (gsi == TIMER_PIN)
		return;
	if (gsi < PIC_LINES)
		pic_set(chip->pic, gsi, level);
	ioapic_set(chip->ioapic, gsi == TIMER_GSI ? TIMER_PIN : gsi, level);
}

void irqchip_eoi(struct irqchip *chip, uint8_t vector)
{
	ioapic_eoi(chip->ioapic, vector);
}

bool irqchip_pic_output(const struct irqchip *chip)
{
	return pic_output(chip->pic);
}

uint8_t irqchip_pic_acknowledge(struct irqchip *chip)
{
	return pic_acknowledge(chip->pic);
}

static void pic_raised(void *opaque)
{
	struct irqchip *chip = opaque;

	vcpus_notify_pic(chip->dev.machine);
}

static void ioapic_send(void *opaque, uint64_t address, uint32_t data)
{
	struct irqchip *chip = opaque;

	irq_msi(&chip->dev.machine->irqs, address, data);
}

/* Where local APICs are ours, they tell of all EOIs. */
static void ioapic_route(void *opaque, unsigned pin, uint64_t address, uint32_t data)
{
	struct machine *machine = ((struct irqchip *)opaque)->dev.machine;
	const struct hav_msi msi = { address, data };

	if (machine->irqchip == HAV_IRQCHIP_SPLIT)
		hav_ioapic_route(machine->vm, pin, address ? &msi : NULL, NULL);
}

/* --- Timers ---- */

static uint64_t clock_ns(void *opaque)
{
	struct irqchip *chip = opaque;

	return vclock_now(chip->dev.machine->clock);
}

static void pit_irq(void *opaque, bool level)
{
	struct irqchip *chip = opaque;

	irq_set(&chip->pit_line, level && !chip->hpet_legacy);
}

static void pit_arm(void *opaque, uint64_t deadline)
{
	struct irqchip *chip = opaque;

	vclock_alarm_set(chip->pit_alarm, deadline);
}

static void on_pit_alarm(void *opaque)
{
	struct irqchip *chip = opaque;

	pit_run(chip->pit);
}

static void hpet_irq(void *opaque, unsigned timer, unsigned gsi, bool level)
{
	struct irqchip *chip = opaque;

	/* A timer's output moves only while it is low. */
	if (level)
		chip->hpet_line[timer].gsi = gsi == TIMER_PIN ? TIMER_GSI : gsi;
	irq_set(&chip->hpet_line[timer], level);
}

static void hpet_arm(void *opaque, uint64_t deadline)
{
	struct irqchip *chip = opaque;

	vclock_alarm_set(chip->hpet_alarm, deadline);
}

static void on_hpet_alarm(void *opaque)
{
	struct irqchip *chip = opaque;

	hpet_run(chip->hpet);
}

static void hpet_legacy(void *opaque, bool on)
{
	struct irqchip *chip = opaque;

	chip->hpet_legacy = on;
	if (on)
		irq_set(&chip->pit_line, false);
}

/* --- Registers ---- */

static uint64_t pic_1_read(void *opaque, uint64_t offset, unsigned size)
{
	return pic_read(((struct irqchip *)opaque)->pic, 0, offset);
}

static void pic_1_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	pic_write(((struct irqchip *)opaque)->pic, 0, offset, value);
}

static uint64_t pic_2_read(void *opaque, uint64_t offset, unsigned size)
{
	return pic_read(((struct irqchip *)opaque)->pic, 1, offset);
}

static void pic_2_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	pic_write(((struct irqchip *)opaque)->pic, 1, offset, value);
}

static uint64_t elcr_read(void *opaque, uint64_t offset, unsigned size)
{
	return pic_read_elcr(((struct irqchip *)opaque)->pic, offset);
}

static void elcr_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	pic_write_elcr(((struct irqchip *)opaque)->pic, offset, value);
}

static uint64_t pit_port_read(void *opaque, uint64_t offset, unsigned size)
{
	return pit_read(((struct irqchip *)opaque)->pit, offset);
}

static void pit_port_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	pit_write(((struct irqchip *)opaque)->pit, offset, value);
}

static uint64_t port61_read(void *opaque, uint64_t offset, unsigned size)
{
	return pit_read_port61(((struct irqchip *)opaque)->pit);
}

static void port61_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	pit_write_port61(((struct irqchip *)opaque)->pit, value);
}

static uint64_t ioapic_page_read(void *opaque, uint64_t offset, unsigned size)
{
	return ioapic_read(((struct irqchip *)opaque)->ioapic, offset);
}

static void ioapic_page_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	ioapic_write(((struct irqchip *)opaque)->ioapic, offset, value);
}

static uint64_t hpet_page_read(void *opaque, uint64_t offset, unsigned size)
{
	return hpet_read(((struct irqchip *)opaque)->hpet, offset, size);
}

static void hpet_page_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	hpet_write(((struct irqchip *)opaque)->hpet, offset, size, value);
}

static const struct {
	const char *name;
	uint16_t port, n;
	struct region_ops ops;
} port_regions[N_PORT_REGIONS] = {
	[PIC_1] = { "pic-1", PIC_PORTS_1, 2, { pic_1_read, pic_1_write, 1 } },
	[PIC_2] = { "pic-2", PIC_PORTS_2, 2, { pic_2_read, pic_2_write, 1 } },
	[ELCR] = { "elcr", ELCR_PORTS, 2, { elcr_read, elcr_write, 1 } },
	[PIT] = { "pit", PIT_PORTS, 4, { pit_port_read, pit_port_write, 1 } },
	[SPEAKER] = { "port-61", PORT61, 1, { port61_read, port61_write, 1 } },
};
static const struct region_ops ioapic_ops = { ioapic_page_read, ioapic_page_write, 4 };
static const struct region_ops hpet_ops = { hpet_page_read, hpet_page_write, 8 };

static int map_all(struct irqchip *chip, struct machine *machine, struct error **err)
{
	for (unsigned i = 0; i < N_PORT_REGIONS; i++) {
		chip->ports[i] = (struct region){ port_regions[i].name, port_regions[i].n,
						  &port_regions[i].ops, chip };
		if (bus_map(machine->io, &chip->ports[i], port_regions[i].port, err) < 0)
			return -1;
	}
	chip->ioapic_page = (struct region){ "ioapic", IOAPIC_SIZE, &ioapic_ops, chip };
	chip->hpet_page = (struct region){ "hpet", HPET_SIZE, &hpet_ops, chip };
	if (bus_map(machine->memory, &chip->ioapic_page, MACHINE_IOAPIC_BASE, err) < 0)
		return -1;
	return chip->hpet ? bus_map(machine->memory, &chip->hpet_page, MACHINE_HPET_BASE, err) : 0;
}

/* --- Life ---- */

static void irqchip_reset(struct device *dev)
{
	struct irqchip *chip = container_of(dev, struct irqchip, dev);

	ioapic_reset(chip->ioapic);
	pic_reset(chip->pic);
	pit_reset(chip->pit);
	if (chip->hpet)
		hpet_reset(chip->hpet);
}

static void irqchip_destroy(struct device *dev)
{
	struct irqchip *chip = container_of(dev, struct irqchip, dev);

	dev->machine->irqs.chip = NULL;
	for (unsigned i = 0; i < N_PORT_REGIONS; i++)
		bus_unmap(&chip->ports[i]);
	bus_unmap(&chip->ioapic_page);
	bus_unmap(&chip->hpet_page);
	hpet_free(chip->hpet);
	pit_free(chip->pit);
	ioapic_free(chip->ioapic);
	pic_free(chip->pic);
	free(chip);
}

static void make_timers(struct irqchip *chip, struct machine *machine, bool hpet)
{
	chip->pit_alarm = vclock_alarm_new(machine->clock, on_pit_alarm, chip);
	irq_line_init(&chip->pit_line, &machine->irqs, TIMER_GSI);
	chip->pit = pit_new(&(struct pit_host){ chip, clock_ns, pit_irq, pit_arm });
	if (!hpet)
		return;
	chip->hpet_alarm = vclock_alarm_new(machine->clock, on_hpet_alarm, chip);
	for (unsigned i = 0; i < HPET_TIMERS; i++)
		irq_line_init(&chip->hpet_line[i], &machine->irqs, TIMER_GSI);
	chip->hpet =
		hpet_new(&(struct hpet_host){ chip, clock_ns, hpet_irq, hpet_arm, hpet_legacy });
}

static int irqchip_create(struct machine *machine, const struct props *props,
			  struct device **device, struct error **err)
{
	struct irqchip *chip = xcalloc(1, sizeof(*chip));

	chip->dev.machine = machine;
	chip->pic = pic_new(&(struct pic_host){ chip, pic_raised });
	chip->ioapic = ioapic_new(&(struct ioapic_host){ chip, ioapic_send, ioapic_route });
	make_timers(chip, machine, props_bool(props, "hpet"));
	if (map_all(chip, machine, err) < 0) {
		irqchip_destroy(&chip->dev);
		return -1;
	}
	machine->irqs.chip = chip;
	*device = &chip->dev;
	return 0;
}

static const struct prop irqchip_props[] = {
	{ "hpet", PROP_BOOL, "on", "have an HPET" },
	{},
};

const struct device_class irqchip_class = {
	.name = "irqchip",
	.bus = "System",
	.desc = "interrupt controllers and timers",
	.props = irqchip_props,
	.create = irqchip_create,
	.reset = irqchip_reset,
	.destroy = irqchip_destroy,
};
