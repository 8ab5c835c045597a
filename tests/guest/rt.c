/*
 * The runtime of guests: see rt.h.
 *
 * Output goes to COM1, polled. Instructions may be dear where a guest runs (see rt.h's users), so
 * nothing here loops over more than it must.
 */
#include "rt.h"

#define COM1              0x3f8
#define COM_LSR           5
#define COM_LSR_THRE      0x20
#define DEBUG_EXIT_PORT   0x501
#define PM_TIMER_PORT     (PM_BASE + 8)
#define MULTIBOOT_BOOTED  0x2badb002
#define MULTIBOOT_CMDLINE (1 << 2)
#define MULTIBOOT_MMAP    (1 << 6)
#define HVM_START_MAGIC   0x336ec578

/* Multiboot 0.6.96 §3.3 */
struct multiboot_info {
	uint32_t flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr, syms[4];
	uint32_t mmap_length, mmap_addr;
};

struct multiboot_mmap {
	uint32_t size; /* of what follows */
	uint64_t addr, len;
	uint32_t type;
} __attribute__((packed));

/* xen/include/public/arch-x86/hvm/start_info.h */
struct hvm_start_info {
	uint32_t magic, version, flags, nr_modules;
	uint64_t modlist, cmdline, rsdp, memmap;
	uint32_t memmap_entries, reserved;
};

struct hvm_memmap_entry {
	uint64_t addr, size;
	uint32_t type, reserved;
};

struct boot_state boot_state;
enum boot_protocol boot_protocol;
const char *boot_cmdline = "";

void rt_start(void);

/* --- Console ---- */

static void put(char c)
{
	while (!(inb(COM1 + COM_LSR) & COM_LSR_THRE))
		;
	outb(COM1, c);
}

static void put_number(uint64_t value, unsigned base, unsigned width, char pad)
{
	char digits[24];
	unsigned n = 0;

	do {
		/* Only hexadecimal numbers are wider than 32 bits: no 64-bit division here. */
		if (base == 16) {
			digits[n++] = "0123456789abcdef"[value & 15];
			value >>= 4;
		} else {
			digits[n++] = '0' + (uint32_t)value % 10;
			value = (uint32_t)value / 10;
		}
	} while (value);
	while (n < width && n < sizeof(digits))
		digits[n++] = pad;
	while (n)
		put(digits[--n]);
}

void print(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	for (; *fmt; fmt++) {
		unsigned width = 0;
		char pad = ' ';

		if (*fmt != '%') {
			put(*fmt);
			continue;
		}
		fmt++;
		if (*fmt == '0')
			pad = *fmt++;
		while (*fmt >= '0' && *fmt <= '9')
			width = width * 10 + *fmt++ - '0';
		switch (*fmt) {
		case 'u': put_number(va_arg(ap, unsigned), 10, width, pad); break;
		case 'x': put_number(va_arg(ap, unsigned), 16, width, pad); break;
		case 'X': put_number(va_arg(ap, uint64_t), 16, width, pad); break;
		case 'c': put(va_arg(ap, int)); break;
		case 's':
			for (const char *s = va_arg(ap, const char *); *s; s++)
				put(*s);
			break;
		default: put(*fmt); break;
		}
	}
	va_end(ap);
}

_Noreturn void verdict(unsigned code)
{
	print(code == PASS ? "PASS\n" : "FAIL\n");
	outb(DEBUG_EXIT_PORT, code);
	for (;;)
		__asm__ volatile("cli; hlt");
}

/* --- How it was booted ---- */

static const struct multiboot_info *multiboot(void)
{
	return (const struct multiboot_info *)boot_state.ebx;
}

static const struct hvm_start_info *pvh(void)
{
	return (const struct hvm_start_info *)boot_state.ebx;
}

static bool multiboot_range(unsigned i, struct memory_range *range)
{
	uint32_t at = multiboot()->mmap_addr, end = at + multiboot()->mmap_length;

	if (!(multiboot()->flags & MULTIBOOT_MMAP))
		return false;
	for (; at < end; i--) {
		const struct multiboot_mmap *entry = (const struct multiboot_mmap *)at;

		if (i == 0) {
			*range = (struct memory_range){ entry->addr, entry->len, entry->type };
			return true;
		}
		at += entry->size + sizeof(entry->size);
	}
	return false;
}

static bool pvh_range(unsigned i, struct memory_range *range)
{
	const struct hvm_memmap_entry *entry =
		&((const struct hvm_memmap_entry *)(uint32_t)pvh()->memmap)[i];

	if (pvh()->version < 1 || i >= pvh()->memmap_entries)
		return false;
	*range = (struct memory_range){ entry->addr, entry->size, entry->type };
	return true;
}

bool memory_map(unsigned i, struct memory_range *range)
{
	return boot_protocol == BOOT_MULTIBOOT ? multiboot_range(i, range) : pvh_range(i, range);
}

uint32_t ram_end(void)
{
	uint32_t here = (uint32_t)&rt_start;
	struct memory_range r;

	for (unsigned i = 0; memory_map(i, &r); i++)
		if (r.type == 1 && r.base <= here && here - r.base < r.size)
			return r.base + r.size;
	return 0;
}

static const char *param_value(const char *name)
{
	size_t n = strlen(name);

	for (const char *s = boot_cmdline; *s; s++)
		if ((s == boot_cmdline || s[-1] == ' ') && memcmp(s, name, n) == 0 && s[n] == '=')
			return s + n + 1;
	return NULL;
}

bool param_given(const char *name)
{
	return param_value(name);
}

bool param_is(const char *name, const char *value)
{
	const char *given = param_value(name);
	size_t n = strlen(value);

	return given && memcmp(given, value, n) == 0 && (given[n] == ' ' || given[n] == 0);
}

uint32_t param(const char *name, uint32_t def)
{
	const char *s = param_value(name);
	uint32_t value = 0;

	if (!s || *s < '0' || *s > '9')
		return def;
	for (; *s >= '0' && *s <= '9'; s++)
		value = value * 10 + *s - '0';
	return value;
}

/* --- Time ---- */

/* The timer has 24 bits at least: more would have to pass between two calls to be lost. */
uint32_t time_us(void)
{
	static uint32_t last, us, rest;
	uint32_t now = inl(PM_TIMER_PORT) & 0xffffff, ticks = (now - last) & 0xffffff;

	last = now;
	/* 3.579545 ticks a microsecond: 179/50 is 0.01 % off. */
	rest += ticks * 50;
	us += rest / 179;
	rest %= 179;
	return us;
}

void sleep_us(uint32_t us)
{
	uint32_t start = time_us();

	while (time_us() - start < us)
		;
}

/* --- Memory and numbers ---- */

void *memset(void *to, int byte, size_t n)
{
	void *at = to;

	__asm__ volatile("rep stosb" : "+D"(at), "+c"(n) : "a"(byte) : "memory");
	return to;
}

void *memcpy(void *to, const void *from, size_t n)
{
	void *at = to;

	__asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(n) : : "memory");
	return to;
}

int memcmp(const void *a, const void *b, size_t n)
{
	const uint8_t *x = a, *y = b;

	for (; n; n--, x++, y++)
		if (*x != *y)
			return *x - *y;
	return 0;
}

size_t strlen(const char *s)
{
	size_t n = 0;

	while (s[n])
		n++;
	return n;
}

int strcmp(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return (uint8_t)*a - (uint8_t)*b;
}

static uint32_t random_state = 1;

void random_seed(uint32_t seed)
{
	random_state = seed ? seed : 1;
}

/* Marsaglia's xorshift32 (2003): the same seed gives the same run. */
uint32_t random32(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 17;
	random_state ^= random_state << 5;
	return random_state;
}

uint32_t random_below(uint32_t n)
{
	return random32() % n;
}

/* Called by start.S. */
void rt_start(void)
{
	/* PVH says nothing of EAX, so EBX is looked at first. */
	if (pvh()->magic == HVM_START_MAGIC) {
		boot_protocol = BOOT_PVH;
		if (pvh()->cmdline)
			boot_cmdline = (const char *)(uint32_t)pvh()->cmdline;
	} else if (boot_state.eax == MULTIBOOT_BOOTED) {
		boot_protocol = BOOT_MULTIBOOT;
		if (multiboot()->flags & MULTIBOOT_CMDLINE)
			boot_cmdline = (const char *)multiboot()->cmdline;
	} else {
		print("FAIL: neither multiboot nor PVH: eax %08x ebx %08x\n", boot_state.eax,
		      boot_state.ebx);
		verdict(FAIL);
	}
	guest_main();
	verdict(PASS);
}
