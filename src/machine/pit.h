/*
 * The 8254 interval timer (datasheet; ICH9 §13.3) and port 0x61, the gate and output of its third
 * counter. Pure; any thread; the host's functions are called with the PIT's lock held.
 */
#ifndef REVIRT_MACHINE_PIT_H
#define REVIRT_MACHINE_PIT_H

#include <stdbool.h>
#include <stdint.h>

#define PIT_HZ UINT64_C(1193182)

struct pit_host {
	void *opaque;
	uint64_t (*now)(void *opaque);                /* nanoseconds */
	void (*irq)(void *opaque, bool level);        /* counter 0's output */
	void (*arm)(void *opaque, uint64_t deadline); /* call pit_run() then; UINT64_MAX: never */
};

struct pit;

struct pit *pit_new(const struct pit_host *host);
void pit_free(struct pit *pit); /* NULL is fine */
void pit_reset(struct pit *pit);
void pit_run(struct pit *pit);

/* offset: 0 to 2 the counters, 3 the control word */
uint8_t pit_read(struct pit *pit, unsigned offset);
void pit_write(struct pit *pit, unsigned offset, uint8_t value);
uint8_t pit_read_port61(struct pit *pit);
void pit_write_port61(struct pit *pit, uint8_t value);

#endif
