/* Interrupts on their way to the guest: see irq.h. */
#include "machine/irq.h"

#include "base/log.h"
#include "hav.h"
#include "machine/irqchip.h"
#include "machine/lapic.h"

#include <errno.h>
#include <string.h>

/* Intel SDM vol. 3 §11.11.1: bits 31 to 20 of a message's address, and none above */
#define MSI_SHIFT  20
#define MSI_PREFIX 0xfee

void irqs_init(struct irqs *irqs, struct hav_vm *vm)
{
	*irqs = (struct irqs){ .vm = vm };
	pthread_mutex_init(&irqs->lock, NULL);
}

void irq_line_init(struct irq_line *line, struct irqs *irqs, unsigned gsi)
{
	*line = (struct irq_line){ .irqs = irqs, .gsi = gsi };
}

/* #syscalls ioctl=KVM_IRQ_LINE */
static void drive_gsi(struct irqs *irqs, unsigned gsi, bool level)
{
	if (irqs->chip)
		irqchip_set_gsi(irqs->chip, gsi, level);
	else if (irqs->vm)
		hav_irq_set(irqs->vm, gsi, level, NULL);
}

/* The GSI is driven with the lock held, so that two lines' changes reach it in their order. */
void irq_set(struct irq_line *line, bool level)
{
	struct irqs *irqs = line->irqs;
	uint16_t before;

	pthread_mutex_lock(&irqs->lock);
	if (line->level != level) {
		line->level = level;
		before = irqs->high[line->gsi];
		irqs->high[line->gsi] += level ? 1 : -1;
		if (!before != !irqs->high[line->gsi])
			drive_gsi(irqs, line->gsi, level);
	}
	pthread_mutex_unlock(&irqs->lock);
}

void irq_pulse(struct irq_line *line)
{
	irq_set(line, true);
	irq_set(line, false);
}

/* #syscalls ioctl=KVM_SIGNAL_MSI */
void irq_msi(struct irqs *irqs, uint64_t address, uint32_t data)
{
	if (irqs->vm && address >> MSI_SHIFT != MSI_PREFIX) {
		LOG_ONCE("a device's interrupt message goes to 0x%llx, where no APIC is: dropped",
			 (unsigned long long)address);
		return;
	}
	if (irqs->lapics) {
		lapics_message(irqs->lapics, address, data);
		return;
	}
	if (irqs->vm) {
		if (hav_msi_send(irqs->vm, address, data) < 0)
			LOG_ONCE("interrupt message 0x%llx/0x%x not delivered: %s",
				 (unsigned long long)address, data, strerror(errno));
		return;
	}
	pthread_mutex_lock(&irqs->lock);
	irqs->last_msi.address = address;
	irqs->last_msi.data = data;
	irqs->last_msi.count++;
	pthread_mutex_unlock(&irqs->lock);
}
