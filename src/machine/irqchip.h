/*
 * The interrupt controllers and timers a PC has outside its processors, for backends that lack
 * them: both PICs, the IOAPIC, the PIT, the HPET, wired together and to their addresses.
 *
 * One soldered device, irqchip_class (device_list.h); irq.c is how devices reach it, vcpu_irq.c how
 * processors do.
 */
#ifndef REVIRT_MACHINE_IRQCHIP_H
#define REVIRT_MACHINE_IRQCHIP_H

#include <stdbool.h>
#include <stdint.h>

struct irqchip;

/* Any thread: */
void irqchip_set_gsi(struct irqchip *chip, unsigned gsi, bool level);
void irqchip_eoi(struct irqchip *chip, uint8_t vector); /* of a level-triggered one */
bool irqchip_pic_output(const struct irqchip *chip);
uint8_t irqchip_pic_acknowledge(struct irqchip *chip);

#endif
