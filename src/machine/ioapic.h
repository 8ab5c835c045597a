/*
 * The IOAPIC (ICH9 §13.5; 82093AA datasheet): 24 pins, each with an entry that says which message a
 * change on it becomes. Pure: what it sends goes to its host, which may be asked from any thread
 * and is called with the IOAPIC's lock held.
 */
#ifndef REVIRT_MACHINE_IOAPIC_H
#define REVIRT_MACHINE_IOAPIC_H

#include <stdbool.h>
#include <stdint.h>

#define IOAPIC_PINS 24
#define IOAPIC_SIZE 0x1000

struct ioapic_host {
	void *opaque;
	void (*send)(void *opaque, uint64_t address, uint32_t data);
	/* A level-triggered pin stands for this message from now on; address 0: it is none. */
	void (*route)(void *opaque, unsigned pin, uint64_t address, uint32_t data); /* or NULL */
};

struct ioapic;

struct ioapic *ioapic_new(const struct ioapic_host *host);
void ioapic_free(struct ioapic *io); /* NULL is fine */
void ioapic_reset(struct ioapic *io);
void ioapic_set(struct ioapic *io, unsigned pin, bool level);
void ioapic_eoi(struct ioapic *io, uint8_t vector);
/* Registers: offsets from its base; accesses of up to 4 bytes. */
uint32_t ioapic_read(struct ioapic *io, unsigned offset);
void ioapic_write(struct ioapic *io, unsigned offset, uint32_t value);

#endif
