/*
 * ACPI fixed hardware: power-off, power button, PM timer (ACPI 6.4 §4.8); its layout is in pm.h.
 *
 * The block is an array of bytes with three kinds of them: status bits, which writing 1 clears;
 * enable and control bits, which are stored; and the PM timer, made from the host's clock at each
 * read. The SCI is high while some status bit and its enable bit are.
 *
 * The timer's status bit is set lazily, from what the timer was when last looked at. Only a guest
 * that enables its interrupt costs the main loop a timer, once in 20 minutes.
 */
#include "machine/pm.h"

#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "machine/device_list.h"
#include "machine/machine.h"

#include <string.h>

/* §4.8.3.1 and .2: PM1 status and enable, both little-endian 16-bit words */
#define PM1_TMR    0x0001
#define PM1_PWRBTN 0x0100
#define PM1_EVENTS (PM1_TMR | PM1_PWRBTN)
/*
 * Events that never come, but whose enable bits hold what is written: guests take a bit that does
 * not for broken hardware (GBL_EN, SLPBTN_EN, RTC_EN).
 */
#define PM1_ENABLES (PM1_EVENTS | 0x0020 | 0x0200 | 0x0400)
/* §4.8.3.2.1: PM1 control */
#define PM1_SCI_EN         0x0001
#define PM1_BM_RLD         0x0002
#define PM1_SLP_TYP_SHIFT  10
#define PM1_SLP_TYP_MASK   0x1c00
#define PM1_SLP_EN         0x2000

#define TIMER_TOGGLE_SHIFT 31 /* TMR_STS follows the highest bit */
#define NS                 UINT64_C(1000000000)

enum {
	PM_STATUS = PM_EVENT,
	PM_ENABLE = PM_EVENT + 2,
	PM_GPE0_ENABLE = PM_GPE0 + PM_GPE0_SIZE / 2
};

struct pm {
	struct device dev;
	struct region ports;
	struct irq_line sci;
	struct loop_timer *timer;
	struct loop_call rearm;
	pthread_mutex_t lock; /* of what follows */
	uint8_t bytes[PM_SIZE];
	uint64_t stopped_ns; /* how long the machine was paused in all */
	uint64_t paused_at;
	uint64_t seen; /* timer ticks up to which TMR_STS is computed */
};

static uint16_t get16(const struct pm *pm, unsigned offset)
{
	return pm->bytes[offset] | pm->bytes[offset + 1] << 8;
}

static void put16(struct pm *pm, unsigned offset, uint16_t value)
{
	pm->bytes[offset] = value;
	pm->bytes[offset + 1] = value >> 8;
}

/* --- Timer and SCI; with the lock held ---- */

/* #syscalls clock_gettime */
static uint64_t ticks(const struct pm *pm)
{
	uint64_t ns = now_ns() - pm->stopped_ns;

	return ns / NS * PM_TIMER_HZ + ns % NS * PM_TIMER_HZ / NS;
}

static void update_sci(struct pm *pm)
{
	uint64_t now = ticks(pm);
	bool level;

	if (now >> TIMER_TOGGLE_SHIFT != pm->seen >> TIMER_TOGGLE_SHIFT)
		put16(pm, PM_STATUS, get16(pm, PM_STATUS) | PM1_TMR);
	pm->seen = now;
	level = get16(pm, PM_STATUS) & get16(pm, PM_ENABLE) & PM1_EVENTS;
	for (unsigned i = 0; i < PM_GPE0_SIZE / 2; i++)
		level |= pm->bytes[PM_GPE0 + i] & pm->bytes[PM_GPE0_ENABLE + i];
	irq_set(&pm->sci, level);
}

static bool wants_timer(const struct pm *pm)
{
	return get16(pm, PM_ENABLE) & ~get16(pm, PM_STATUS) & PM1_TMR;
}

static void on_main_loop(void *opaque)
{
	struct pm *pm = opaque;
	uint64_t left;

	pthread_mutex_lock(&pm->lock);
	update_sci(pm);
	left = BIT(TIMER_TOGGLE_SHIFT) - (pm->seen & (BIT(TIMER_TOGGLE_SHIFT) - 1));
	if (wants_timer(pm))
		loop_timer_set(pm->timer, now_ns() + (left + 1) * NS / PM_TIMER_HZ);
	else
		loop_timer_cancel(pm->timer);
	pthread_mutex_unlock(&pm->lock);
}

/* --- Registers ---- */

static uint64_t pm_read(void *opaque, uint64_t offset, unsigned size)
{
	struct pm *pm = opaque;
	uint64_t value = 0;
	uint32_t timer;

	pthread_mutex_lock(&pm->lock);
	update_sci(pm);
	timer = pm->seen;
	memcpy(&pm->bytes[PM_TIMER], &timer, sizeof(timer));
	memcpy(&value, &pm->bytes[offset], size);
	pthread_mutex_unlock(&pm->lock);
	return value;
}

static void sleep_request(struct pm *pm)
{
	unsigned type = (get16(pm, PM_CONTROL) & PM1_SLP_TYP_MASK) >> PM1_SLP_TYP_SHIFT;

	if (type == PM_SLP_TYP_S5 || type == 0)
		machine_shutdown(pm->dev.machine, CAUSE_GUEST_SHUTDOWN);
	else
		log_item(LOG_GUEST_ERRORS, "acpi-pm: sleep type %u is none that _S5 names", type);
}

static void write_byte(struct pm *pm, unsigned offset, uint8_t value)
{
	uint8_t *byte = &pm->bytes[offset];

	switch (offset) {
	case PM_STATUS:
	case PM_STATUS + 1:
	case PM_GPE0 ... PM_GPE0_ENABLE - 1: *byte &= ~value; break;
	case PM_ENABLE: *byte = value & (PM1_ENABLES & 0xff); break;
	case PM_ENABLE + 1: *byte = value & (PM1_ENABLES >> 8); break;
	case PM_CONTROL: *byte = (value & PM1_BM_RLD) | PM1_SCI_EN; break;
	case PM_CONTROL + 1: *byte = value & (PM1_SLP_TYP_MASK >> 8); break;
	case PM_GPE0_ENABLE ... PM_GPE0 + PM_GPE0_SIZE - 1: *byte = value; break;
	default: break; /* the timer is read-only, the rest reserved */
	}
}

static void pm_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct pm *pm = opaque;
	unsigned high = PM_CONTROL + 1 - offset; /* where PM1 control's high byte is in value */
	bool sleeps = high < size && value >> (8 * high) & (PM1_SLP_EN >> 8), timed;

	pthread_mutex_lock(&pm->lock);
	timed = wants_timer(pm);
	update_sci(pm);
	for (unsigned i = 0; i < size; i++)
		write_byte(pm, offset + i, value >> (8 * i));
	update_sci(pm);
	timed = timed != wants_timer(pm);
	if (sleeps)
		sleep_request(pm);
	pthread_mutex_unlock(&pm->lock);
	if (timed)
		loop_post(pm->dev.machine->main_loop, &pm->rearm);
}

static const struct region_ops pm_ops = { pm_read, pm_write, 4 };

/* --- Life ---- */

static void power_button(struct machine *machine)
{
	struct device *dev = machine->devices;
	struct pm *pm;

	while (dev && dev->class != &acpi_pm_class)
		dev = dev->next;
	if (!dev)
		return;
	pm = container_of(dev, struct pm, dev);
	pthread_mutex_lock(&pm->lock);
	put16(pm, PM_STATUS, get16(pm, PM_STATUS) | PM1_PWRBTN);
	update_sci(pm);
	pthread_mutex_unlock(&pm->lock);
}

static void pm_reset(struct device *dev)
{
	struct pm *pm = container_of(dev, struct pm, dev);

	pthread_mutex_lock(&pm->lock);
	memset(pm->bytes, 0, sizeof(pm->bytes));
	pm->bytes[PM_CONTROL] = PM1_SCI_EN;
	pm->seen = ticks(pm);
	update_sci(pm);
	loop_timer_cancel(pm->timer);
	pthread_mutex_unlock(&pm->lock);
}

static void pm_pause(struct device *dev)
{
	struct pm *pm = container_of(dev, struct pm, dev);

	pm->paused_at = now_ns();
}

static void pm_resume(struct device *dev)
{
	struct pm *pm = container_of(dev, struct pm, dev);

	pthread_mutex_lock(&pm->lock);
	pm->stopped_ns += now_ns() - pm->paused_at;
	pthread_mutex_unlock(&pm->lock);
	on_main_loop(pm);
}

static void pm_destroy(struct device *dev)
{
	struct pm *pm = container_of(dev, struct pm, dev);

	bus_unmap(&pm->ports);
	loop_timer_free(pm->timer);
	pthread_mutex_destroy(&pm->lock);
	free(pm);
}

static int pm_create(struct machine *machine, const struct props *props, struct device **device,
		     struct error **err)
{
	struct pm *pm = xcalloc(1, sizeof(*pm));

	pm->dev.machine = machine;
	pm->ports = (struct region){ "acpi-pm", PM_SIZE, &pm_ops, pm };
	pm->rearm = (struct loop_call){ on_main_loop, pm };
	pm->timer = loop_timer_new(machine->main_loop, on_main_loop, pm);
	pthread_mutex_init(&pm->lock, NULL);
	irq_line_init(&pm->sci, &machine->irqs, MACHINE_SCI_GSI);
	pm_reset(&pm->dev);
	if (bus_map(machine->io, &pm->ports, MACHINE_PM_BASE, err) < 0) {
		pm_destroy(&pm->dev);
		return -1;
	}
	machine->power_button = power_button;
	*device = &pm->dev;
	return 0;
}

static const struct prop pm_props[] = { {} };

const struct device_class acpi_pm_class = {
	.name = "acpi-pm",
	.bus = "System",
	.desc = "ACPI power management block",
	.props = pm_props,
	.create = pm_create,
	.reset = pm_reset,
	.pause = pm_pause,
	.resume = pm_resume,
	.destroy = pm_destroy,
};
