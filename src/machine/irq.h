/*
 * Interrupts on their way to the guest.
 *
 * A device drives a global system interrupt (GSI: an IOAPIC pin; below 16 a PIC line too) by way of
 * an irq_line, or sends a message (MSI). Level-triggered GSIs are shared: each line remembers its
 * own level, and the GSI is high while any is. All calls may be made from any thread.
 */
#ifndef REVIRT_MACHINE_IRQ_H
#define REVIRT_MACHINE_IRQ_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define IRQ_GSIS 24

struct hav_vm;
struct irqchip;
struct lapics;

struct irqs {
	struct hav_vm *vm;     /* NULL: unit tests, see last_msi */
	struct irqchip *chip;  /* NULL: the backend's */
	struct lapics *lapics; /* NULL: the backend's */
	pthread_mutex_t lock;
	uint16_t high[IRQ_GSIS]; /* how many lines hold each GSI high */
	struct {
		uint64_t address;
		uint32_t data;
		unsigned count;
	} last_msi; /* for tests without a VM */
};

struct irq_line {
	struct irqs *irqs;
	uint8_t gsi;
	bool level;
};

void irqs_init(struct irqs *irqs, struct hav_vm *vm);
void irq_line_init(struct irq_line *line, struct irqs *irqs, unsigned gsi);
void irq_set(struct irq_line *line, bool level);
void irq_pulse(struct irq_line *line); /* one edge */
void irq_msi(struct irqs *irqs, uint64_t address, uint32_t data);

#endif
