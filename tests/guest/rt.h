/*
 * What a guest stands on: ports, console, time, the command line and memory map it was booted
 * with, and a way to end.
 *
 * A guest is a 32-bit program at CPL 0 without paging, interrupts or a C library. Its main is
 * guest_main(); it ends by verdict(), which the host sees as an exit status: PASS is 3, FAIL 5
 * (isa-debug-exit makes (v << 1) | 1 of v).
 */
#ifndef GUEST_RT_H
#define GUEST_RT_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

enum { PASS = 1, FAIL = 2 };

void guest_main(void);
_Noreturn void verdict(unsigned code);
/* Ends with FAIL and a line that says where, if the condition does not hold. */
#define CHECK(condition)                                                            \
	do {                                                                        \
		if (!(condition)) {                                                 \
			print("FAIL: %s:%u: %s\n", __FILE__, __LINE__, #condition); \
			verdict(FAIL);                                              \
		}                                                                   \
	} while (0)

/* %s %c %u %x %X (64-bit hexadecimal); numbers with width and zero padding. */
void print(const char *fmt, ...);

/* --- How it was booted ---- */

enum boot_protocol { BOOT_MULTIBOOT, BOOT_PVH };
struct boot_state {
	uint32_t eax, ebx, ebp, cr0, cr4, eflags;
	uint16_t cs, ds, ss, es;
};
extern struct boot_state boot_state;
extern enum boot_protocol boot_protocol;
extern const char *boot_cmdline;

struct memory_range {
	uint64_t base, size;
	uint32_t type; /* 1: RAM */
};
/* The i-th range of the map; false past the last. */
bool memory_map(unsigned i, struct memory_range *range);
/* The first address below 4 GiB past the RAM that holds this program. */
uint32_t ram_end(void);

/* The value of NAME=VALUE on the command line, or def. */
bool param_is(const char *name, const char *value);
bool param_given(const char *name);
uint32_t param(const char *name, uint32_t def);

/* --- Time, by the ACPI PM timer ---- */

#define PM_BASE 0x600
uint32_t time_us(void); /* wraps after some 70 minutes */
void sleep_us(uint32_t us);

/* --- Memory and numbers ---- */

void *memset(void *to, int byte, size_t n);
void *memcpy(void *to, const void *from, size_t n);
int memcmp(const void *a, const void *b, size_t n);
size_t strlen(const char *s);
int strcmp(const char *a, const char *b);

void random_seed(uint32_t seed);
uint32_t random32(void);
uint32_t random_below(uint32_t n);

/* --- Ports and registers of devices ---- */

static inline void outb(uint16_t port, uint8_t value)
{
	__asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline void outw(uint16_t port, uint16_t value)
{
	__asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline void outl(uint16_t port, uint32_t value)
{
	__asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline uint8_t inb(uint16_t port)
{
	uint8_t value;

	__asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
	return value;
}

static inline uint16_t inw(uint16_t port)
{
	uint16_t value;

	__asm__ volatile("inw %1, %0" : "=a"(value) : "Nd"(port) : "memory");
	return value;
}

static inline uint32_t inl(uint16_t port)
{
	uint32_t value;

	__asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port) : "memory");
	return value;
}

/* Accesses of exactly this size, in this order. */
static inline uint8_t read8(uint32_t at)
{
	return *(volatile uint8_t *)at;
}

static inline uint16_t read16(uint32_t at)
{
	return *(volatile uint16_t *)at;
}

static inline uint32_t read32(uint32_t at)
{
	return *(volatile uint32_t *)at;
}

static inline void write8(uint32_t at, uint8_t value)
{
	*(volatile uint8_t *)at = value;
}

static inline void write16(uint32_t at, uint16_t value)
{
	*(volatile uint16_t *)at = value;
}

static inline void write32(uint32_t at, uint32_t value)
{
	*(volatile uint32_t *)at = value;
}

static inline void barrier(void)
{
	__asm__ volatile("lock; addl $0, (%%esp)" : : : "memory");
}

#endif
