/*
 * Local APICs, with their timers, for backends that have none (Intel SDM vol. 3 ch. 11; APM vol. 2
 * ch. 16): xAPIC registers at an address, the x2APIC's in MSRs.
 *
 * State machines without threads and clocks of their own: struct lapic_host is all they know of the
 * world. A local APIC belongs to its processor's thread, which makes all calls with a struct lapic;
 * lapics_message() may be made by any thread, and so may what one processor sends another: requests
 * arrive as atomic bits, and no lock is taken.
 */
#ifndef REVIRT_MACHINE_LAPIC_H
#define REVIRT_MACHINE_LAPIC_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define LAPIC_NEVER    UINT64_MAX
#define LAPIC_SIZE     0x1000
#define LAPIC_REGS     64 /* 16 bytes apart */
#define LAPIC_MAX_CPUS 64

struct lapic_host {
	void *opaque;
	uint64_t (*now)(void *opaque);               /* the guest's clock, nanoseconds */
	uint64_t (*tsc)(void *opaque, unsigned cpu); /* that processor's; on its thread */
	/* It has something it can take at once. Any thread. */
	void (*notify)(void *opaque, unsigned cpu);
	/* EOI of a level-triggered interrupt. */
	void (*eoi)(void *opaque, uint8_t vector);
};

/* Requests that are no vectors. */
enum {
	LAPIC_NMI = 1 << 0,
	LAPIC_INIT = 1 << 1,
	LAPIC_SIPI = 1 << 2,
	LAPIC_EXTINT = 1 << 3, /* the PICs know the vector */
};

struct lapics;

struct lapic {
	struct lapics *all;
	unsigned cpu;
	uint32_t id;
	bool bootstrap;
	_Atomic uint64_t base; /* IA32_APIC_BASE */
	_Atomic uint32_t regs[LAPIC_REGS];
	_Atomic uint32_t events; /* LAPIC_* */
	_Atomic uint8_t sipi_vector;
	_Atomic uint32_t errors; /* since ESR was last written */
	uint64_t deadline;       /* of the timer, on the guest's clock */
	uint64_t tsc_deadline;
};

struct lapics {
	struct lapic *lapic;
	unsigned n;
	uint32_t tsc_khz;
	struct lapic_host host;
};

/* ids: APIC ids by processor; processor 0 is the bootstrap processor. */
struct lapics *lapics_new(const uint32_t *ids, unsigned n, uint32_t tsc_khz,
			  const struct lapic_host *host);
void lapics_free(struct lapics *all); /* NULL is fine */

void lapic_reset(struct lapic *l);
void lapic_init(struct lapic *l); /* INIT: all but the id and IA32_APIC_BASE */

/* --- Registers ---- */

/* The page answers to accesses at gpa: it is enabled, and not by MSRs only. */
bool lapic_decodes(const struct lapic *l, uint64_t gpa);
uint32_t lapic_read(struct lapic *l, unsigned offset, unsigned size);
void lapic_write(struct lapic *l, unsigned offset, unsigned size, uint32_t value);

/* IA32_APIC_BASE, IA32_TSC_DEADLINE and 0x800 to 0x8ff. False: #GP, or no MSR of a local APIC. */
bool lapic_read_msr(struct lapic *l, uint32_t index, uint64_t *value);
bool lapic_write_msr(struct lapic *l, uint32_t index, uint64_t value);

/* CR8 is the upper half of the task priority; the lower stays while CR8 is unchanged. */
void lapic_set_cr8(struct lapic *l, unsigned cr8);
unsigned lapic_cr8(const struct lapic *l);

/* --- Interrupts ---- */

/* The vector the processor is to be interrupted with next, or -1. */
int lapic_pending(const struct lapic *l);
/* It was interrupted with it. */
void lapic_accept(struct lapic *l, uint8_t vector);
/* A PIC's output reaches the processor: by LINT0, or because the local APIC is off. Any thread. */
bool lapic_accepts_pic(const struct lapic *l);

/* Delivers a message of an IOAPIC or device (§11.11). */
void lapics_message(struct lapics *all, uint64_t address, uint32_t data);

/* --- The timer ---- */

/* What is due fires; afterwards l->deadline is when to call again, or LAPIC_NEVER. */
void lapic_run_timer(struct lapic *l);

/* --- Between lapic.c, lapic_timer.c and lapic_message.c ---- */

enum { /* §11.4.1, offset / 16 */
       LAPIC_ID = 0x02,
       LAPIC_VERSION = 0x03,
       LAPIC_TPR = 0x08,
       LAPIC_PPR = 0x0a,
       LAPIC_EOI = 0x0b,
       LAPIC_LDR = 0x0d,
       LAPIC_DFR = 0x0e,
       LAPIC_SVR = 0x0f,
       LAPIC_ISR = 0x10,
       LAPIC_TMR = 0x18,
       LAPIC_IRR = 0x20,
       LAPIC_ESR = 0x28,
       LAPIC_ICR = 0x30,
       LAPIC_ICR_HIGH = 0x31,
       LAPIC_LVT_TIMER = 0x32,
       LAPIC_LVT_THERMAL = 0x33,
       LAPIC_LVT_PERFORMANCE = 0x34,
       LAPIC_LVT_LINT0 = 0x35,
       LAPIC_LVT_LINT1 = 0x36,
       LAPIC_LVT_ERROR = 0x37,
       LAPIC_TIMER_INITIAL = 0x38,
       LAPIC_TIMER_CURRENT = 0x39,
       LAPIC_TIMER_DIVIDE = 0x3e,
       LAPIC_SELF_IPI = 0x3f,
};

#define LAPIC_BASE_BSP     (UINT64_C(1) << 8) /* §11.4.4 */
#define LAPIC_BASE_EXTD    (UINT64_C(1) << 10)
#define LAPIC_BASE_EN      (UINT64_C(1) << 11)
#define LAPIC_SVR_ENABLE   (1u << 8)
#define LAPIC_LVT_MASKED   (1u << 16)
#define LAPIC_FIRST_VECTOR 16

enum { /* delivery modes: §11.5.1, §11.6.1, §11.11.2 */
       LAPIC_MODE_FIXED,
       LAPIC_MODE_LOWEST,
       LAPIC_MODE_SMI,
       LAPIC_MODE_NMI = 4,
       LAPIC_MODE_INIT,
       LAPIC_MODE_SIPI,
       LAPIC_MODE_EXTINT,
};

enum { /* ESR: §11.5.3 */
       LAPIC_ERROR_SEND_VECTOR = 1 << 5,
       LAPIC_ERROR_RECEIVE_VECTOR = 1 << 6,
       LAPIC_ERROR_REGISTER = 1 << 7,
};

static inline uint32_t lapic_reg(const struct lapic *l, unsigned reg)
{
	return atomic_load_explicit(&l->regs[reg], memory_order_relaxed);
}

static inline bool lapic_is_x2(const struct lapic *l)
{
	return l->base & LAPIC_BASE_EXTD;
}

/* Any thread: */
void lapic_request(struct lapic *l, uint8_t vector, bool level);
void lapic_request_event(struct lapic *l, unsigned event);
void lapic_error(struct lapic *l, uint32_t error);
/* The local vector table's entry `reg` is signalled. */
void lapic_signal(struct lapic *l, unsigned reg);

void lapic_send(struct lapic *l, uint32_t icr, uint32_t dest);

/* After the register was written; `before` is what it held. */
void lapic_timer_written(struct lapic *l, unsigned reg, uint32_t before);
uint32_t lapic_timer_current(const struct lapic *l);
bool lapic_timer_by_tsc(const struct lapic *l);
void lapic_set_tsc_deadline(struct lapic *l, uint64_t value);

#endif
