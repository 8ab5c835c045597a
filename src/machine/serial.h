/*
 * A 16550A UART: the machine's serial ports. The device class (isa_serial_class) is in
 * device_list.h; this is the part below it, which needs no machine.
 */
#ifndef REVIRT_MACHINE_SERIAL_H
#define REVIRT_MACHINE_SERIAL_H

#include "machine/bus.h"
#include "machine/irq.h"

struct chardev;
struct coalescer;
struct error;
struct serial;

#define SERIAL_PORTS 8 /* ports a UART takes */

/* The usual place of COM1 to COM4 (index 0 to 3). */
struct serial_place {
	uint16_t iobase;
	uint8_t irq;
};
extern const struct serial_place serial_places[4];

/* Puts a UART at iobase. chr may be NULL: what is sent is lost. */
struct serial *serial_new(struct bus *io, struct irqs *irqs, uint16_t iobase, unsigned irq,
			  struct chardev *chr, struct error **err);
/* Before the guest runs; NULL keeps no writes back. */
void serial_set_coalescer(struct serial *serial, struct coalescer *coalescer);
void serial_reset(struct serial *serial);
void serial_free(struct serial *serial); /* NULL is fine */

#endif
