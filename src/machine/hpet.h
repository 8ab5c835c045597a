/*
 * The High Precision Event Timers (IA-PC HPET Specification 1.0a): one counter of 64 bits at 100
 * MHz, three comparators. Pure; any thread; the host's functions are called with its lock held.
 */
#ifndef REVIRT_MACHINE_HPET_H
#define REVIRT_MACHINE_HPET_H

#include <stdbool.h>
#include <stdint.h>

#define HPET_SIZE   0x400
#define HPET_TIMERS 3
/* The lower half of its first register, which the ACPI table repeats. */
#define HPET_ID (0x8086u << 16 | 1u << 15 | 1u << 13 | (HPET_TIMERS - 1) << 8 | 1)

struct hpet_host {
	void *opaque;
	uint64_t (*now)(void *opaque); /* nanoseconds */
	/* A timer's output; gsi 0 is the PIT's, 8 the RTC's. High goes before low, on the same. */
	void (*irq)(void *opaque, unsigned timer, unsigned gsi, bool level);
	void (*arm)(void *opaque, uint64_t deadline); /* call hpet_run() then; UINT64_MAX: never */
	/* The PIT and the RTC are (not) cut off from their interrupts. */
	void (*legacy)(void *opaque, bool on);
};

struct hpet;

struct hpet *hpet_new(const struct hpet_host *host);
void hpet_free(struct hpet *hpet); /* NULL is fine */
void hpet_reset(struct hpet *hpet);
void hpet_run(struct hpet *hpet);
/* Registers, at multiples of 4: halves of 4 bytes, or 8 bytes whole. */
uint64_t hpet_read(struct hpet *hpet, unsigned offset, unsigned size);
void hpet_write(struct hpet *hpet, unsigned offset, unsigned size, uint64_t value);

#endif
