/*
 * Direct boot: small images of each kind, made here, and what is done to memory and registers for
 * them; then everything that can be wrong with a file, each of which must be one line that names
 * it.
 */
#include "base/error.h"
#include "base/util.h"
#include "hav.h"
#include "machine/boot.h"
#include "machine/machine.h"
#include "watcher.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <cmocka.h>

#define RAM_SIZE (64 * MIB)
#define RSDP_GPA 0xe0000

/* What a test fills in before it loads, and finds after. */
struct world {
	struct gmem gm;
	struct boot_range map[BOOT_STANDARD_RANGES];
	struct boot_config config;
	struct hav_state bsp;
	struct error *err;
};

static int make_file(const void *bytes, size_t size)
{
	int fd = memfd_create("image", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, bytes, size), size);
	return fd;
}

static int setup(void **state)
{
	struct world *w = xcalloc(1, sizeof(*w));
	const struct gmem_config memory = { .size = RAM_SIZE, .low_max = MACHINE_LOW_RAM_MAX };

	assert_int_equal(gmem_init(&w->gm, NULL, &memory, NULL), 0);
	w->config = (struct boot_config){
		.kernel_fd = -1,
		.kernel_name = "the-kernel",
		.initrd_fd = -1,
		.initrd_name = "the-initrd",
		.cmdline = "console=ttyS0 quiet",
		.rsdp_gpa = RSDP_GPA,
		.map = w->map,
		.n_map = boot_standard_map(&w->gm, MACHINE_ECAM_BASE, w->map),
	};
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	if (w->config.kernel_fd >= 0)
		close(w->config.kernel_fd);
	if (w->config.initrd_fd >= 0)
		close(w->config.initrd_fd);
	error_free(w->err);
	gmem_destroy(&w->gm);
	free(w);
	return 0;
}

static void kernel_is(struct world *w, const void *bytes, size_t size)
{
	if (w->config.kernel_fd >= 0)
		close(w->config.kernel_fd);
	w->config.kernel_fd = make_file(bytes, size);
}

static void initrd_is(struct world *w, const char *text)
{
	w->config.initrd_fd = make_file(text, strlen(text));
}

/* What changes in memory is told: at a reset there may be code of the guest's there. */
static void load(struct world *w)
{
	uint8_t *before = xcalloc(1, RAM_SIZE), *ram = gmem_slice(&w->gm, 0, RAM_SIZE);

	memcpy(before, ram, RAM_SIZE);
	watched.n = 0;
	w->gm.watcher = &watcher;
	if (boot_load(&w->gm, &w->config, &w->bsp, &w->err) < 0)
		fail_msg("%s", error_message(w->err));
	for (uint64_t gpa = 0; gpa < RAM_SIZE; gpa += 4096)
		if (memcmp(before + gpa, ram + gpa, 4096) != 0)
			assert_true(watcher_knows(gpa, 1));
	free(before);
}

/* The load fails with a message that has all of the parts: "a|b|c". */
static void refused(struct world *w, const char *parts)
{
	char *copy = xstrdup(parts), *rest = copy, *part;

	assert_int_equal(boot_load(&w->gm, &w->config, &w->bsp, &w->err), -1);
	assert_null(strchr(error_message(w->err), '\n'));
	while ((part = strsep(&rest, "|")))
		if (!strstr(error_message(w->err), part))
			fail_msg("'%s' is not in: %s", part, error_message(w->err));
	free(copy);
	error_free(w->err);
	w->err = NULL;
}

static uint64_t get(const struct world *w, uint64_t gpa, unsigned bytes)
{
	uint64_t value = 0;

	assert_true(gmem_read(&w->gm, gpa, &value, bytes));
	return value;
}

static const char *text_at(const struct world *w, uint64_t gpa)
{
	return gmem_slice(&w->gm, gpa, 1);
}

static void put(void *image, size_t offset, uint64_t value, unsigned bytes)
{
	memcpy((uint8_t *)image + offset, &value, bytes);
}

/* --- Processor state --- */

static void is_flat(const struct hav_segment *s, unsigned selector, unsigned attr)
{
	assert_int_equal(s->selector, selector);
	assert_int_equal(s->base, 0);
	assert_int_equal(s->limit, 0xffffffff);
	assert_int_equal(s->attr, attr);
}

/* The descriptor a selector names, as the processor would load it. */
static uint64_t descriptor(const struct world *w, unsigned selector)
{
	assert_true(selector + 7 <= w->bsp.sregs.gdt.limit);
	return get(w, w->bsp.sregs.gdt.base + selector, 8);
}

static void has_common_state(const struct world *w)
{
	const struct hav_sregs *s = &w->bsp.sregs;

	assert_int_equal(w->bsp.version, HAV_API_VERSION);
	assert_int_equal(w->bsp.groups, HAV_STATE_REGS | HAV_STATE_SREGS | HAV_STATE_MSRS);
	assert_int_equal(w->bsp.regs.rflags, 2);
	assert_int_equal(s->apic_base, 0xfee00900);
	is_flat(&s->ds, 0x18, 0xc93);
	is_flat(&s->es, 0x18, 0xc93);
	is_flat(&s->ss, 0x18, 0xc93);
	assert_int_equal(descriptor(w, 0x18), 0x00cf93000000ffff);
	assert_int_equal(s->tr.attr, 0x8b);
	assert_int_equal(s->tr.limit, 0x67);
	assert_int_equal(descriptor(w, s->tr.selector), 0x00008b0000000067);
	assert_true(s->ldt.attr & HAV_SEGMENT_UNUSABLE);
}

static void is_protected_mode(const struct world *w)
{
	has_common_state(w);
	assert_int_equal(w->bsp.sregs.cr0, 0x11);
	assert_int_equal(w->bsp.sregs.cr4, 0);
	assert_int_equal(w->bsp.sregs.efer, 0);
	is_flat(&w->bsp.sregs.cs, 0x10, 0xc9b);
	assert_int_equal(descriptor(w, 0x10), 0x00cf9b000000ffff);
}

/* Walks the tables for an address, 2 MiB pages only. */
static uint64_t translate(const struct world *w, uint64_t address)
{
	uint64_t pml4e = get(w, w->bsp.sregs.cr3 + (address >> 39 & 511) * 8, 8);
	uint64_t pdpte, pde;

	assert_int_equal(pml4e & 0x83, 3);
	pdpte = get(w, (pml4e & ~0xfffull) + (address >> 30 & 511) * 8, 8);
	assert_int_equal(pdpte & 0x83, 3);
	pde = get(w, (pdpte & ~0xfffull) + (address >> 21 & 511) * 8, 8);
	assert_int_equal(pde & 0x83, 0x83);
	return (pde & ~0x1fffffull) + (address & 0x1fffff);
}

static void is_long_mode(const struct world *w)
{
	has_common_state(w);
	assert_int_equal(w->bsp.sregs.cr0, 0x80000011);
	assert_int_equal(w->bsp.sregs.cr4, 0x20);
	assert_int_equal(w->bsp.sregs.efer, 0x500);
	is_flat(&w->bsp.sregs.cs, 0x10, 0xa9b);
	assert_int_equal(descriptor(w, 0x10), 0x00af9b000000ffff);
	for (uint64_t address = 0; address < 4 * GIB; address += 2 * MIB)
		assert_int_equal(translate(w, address + 5), address + 5);
}

/* --- bzImage --- */

#define BZ_SETUP ((4 + 1) * 512)
#define BZ_CODE  4096
#define BZ_SIZE  (BZ_SETUP + BZ_CODE)
enum {
	BZ_SYSSIZE = 0x1f4,
	BZ_VERSION = 0x206,
	BZ_LOADFLAGS = 0x211,
	BZ_INITRD_MAX = 0x22c,
	BZ_ALIGNMENT = 0x230,
	BZ_RELOCATABLE = 0x234,
	BZ_XLOADFLAGS = 0x236,
	BZ_CMDLINE_SIZE = 0x238,
	BZ_PREF_ADDRESS = 0x258,
	BZ_INIT_SIZE = 0x260,
};

struct bzimage {
	uint8_t bytes[BZ_SIZE];
};

static struct bzimage bzimage(void)
{
	struct bzimage bz = {};

	memset(bz.bytes + BZ_SETUP, 0xcc, BZ_CODE);
	put(&bz, 0x1f1, 4, 1);
	put(&bz, BZ_SYSSIZE, BZ_CODE / 16, 4);
	put(&bz, 0x1fe, 0xaa55, 2);
	put(&bz, 0x200, 0x6aeb, 2); /* the header ends at 0x26c */
	put(&bz, 0x26c, 0x1122334455667788, 8);
	memcpy(bz.bytes + 0x202, "HdrS", 4);
	put(&bz, BZ_VERSION, 0x020f, 2);
	put(&bz, BZ_LOADFLAGS, 1, 1);
	put(&bz, BZ_INITRD_MAX, 0x7fffffff, 4);
	put(&bz, BZ_ALIGNMENT, 2 * MIB, 4);
	put(&bz, BZ_RELOCATABLE, 1, 1);
	put(&bz, BZ_XLOADFLAGS, 1, 2);
	put(&bz, BZ_CMDLINE_SIZE, 2047, 4);
	put(&bz, BZ_PREF_ADDRESS, 16 * MIB, 8);
	put(&bz, BZ_INIT_SIZE, 8 * MIB, 4);
	return bz;
}

static void bzimage_with(struct world *w, size_t offset, uint64_t value, unsigned bytes)
{
	struct bzimage bz = bzimage();

	put(&bz, offset, value, bytes);
	kernel_is(w, &bz, sizeof(bz));
}

static void test_bzimage(void **state)
{
	struct world *w = *state;
	struct bzimage bz = bzimage();
	uint64_t zero, ramdisk;

	kernel_is(w, &bz, sizeof(bz));
	initrd_is(w, "some files");
	load(w);
	is_long_mode(w);
	assert_int_equal(w->bsp.regs.rip, 16 * MIB + 0x200);
	assert_memory_equal(gmem_slice(&w->gm, 16 * MIB, BZ_CODE), bz.bytes + BZ_SETUP, BZ_CODE);
	zero = w->bsp.regs.rsi;
	assert_true(zero + 4096 <= 0xa0000);
	assert_int_equal(get(w, zero + 0x1ef, 1), 0); /* the sentinel */
	assert_int_equal(get(w, zero + 0x210, 1), 0xff);
	assert_int_equal(get(w, zero + 0x214, 4), 16 * MIB);
	assert_int_equal(get(w, zero + 0x26c, 8), 0); /* no code after the header */
	assert_int_equal(get(w, zero + 0x070, 8), RSDP_GPA);
	assert_string_equal(text_at(w, get(w, zero + 0x228, 4)), "console=ttyS0 quiet");
	ramdisk = get(w, zero + 0x218, 4);
	assert_int_equal(ramdisk, RAM_SIZE - 4096);
	assert_int_equal(get(w, zero + 0x21c, 4), 10);
	assert_memory_equal(text_at(w, ramdisk), "some files", 10);
	assert_int_equal(get(w, zero + 0x1e8, 1), w->config.n_map);
	for (unsigned i = 0; i < w->config.n_map; i++) {
		assert_int_equal(get(w, zero + 0x2d0 + i * 20, 8), w->map[i].base);
		assert_int_equal(get(w, zero + 0x2d0 + i * 20 + 8, 8), w->map[i].size);
		assert_int_equal(get(w, zero + 0x2d0 + i * 20 + 16, 4), w->map[i].type);
	}
}

/* A second load, as at a reset, leaves nothing of what the guest did to low memory. */
static void test_bzimage_again(void **state)
{
	struct world *w = *state;
	struct bzimage bz = bzimage();
	struct hav_state first;

	kernel_is(w, &bz, sizeof(bz));
	load(w);
	first = w->bsp;
	memset(gmem_slice(&w->gm, 0, RAM_SIZE), 0xa5, RAM_SIZE);
	load(w);
	assert_memory_equal(&first.regs, &w->bsp.regs, sizeof(first.regs));
	assert_memory_equal(&first.sregs, &w->bsp.sregs, sizeof(first.sregs));
	is_long_mode(w);
	assert_int_equal(get(w, w->bsp.regs.rsi + 0x1ef, 1), 0);
	assert_int_equal(get(w, w->bsp.regs.rsi, 8), 0);
	assert_int_equal(get(w, 0x413, 2), 640);
	assert_int_equal(get(w, 0x40e, 2), 0);
}

static void test_bzimage_32bit(void **state)
{
	struct world *w = *state;

	bzimage_with(w, BZ_XLOADFLAGS, 0, 2);
	load(w);
	is_protected_mode(w);
	assert_int_equal(w->bsp.regs.rip, 16 * MIB);
	assert_int_equal(get(w, w->bsp.regs.rsi + 0x202, 4), 0x53726448);
	bzimage_with(w, BZ_VERSION, 0x0209, 2); /* too old to prefer an address */
	load(w);
	is_protected_mode(w);
	assert_int_equal(w->bsp.regs.rip, 1 * MIB);
}

static void test_bzimage_initrd_limits(void **state)
{
	struct world *w = *state;
	AUTO_FREE char *big = xcalloc(1, 41 * MIB);

	bzimage_with(w, BZ_INITRD_MAX, 40 * MIB - 1, 4);
	initrd_is(w, "some files");
	load(w);
	assert_int_equal(get(w, w->bsp.regs.rsi + 0x218, 4), 40 * MIB - 4096);
	close(w->config.initrd_fd);
	w->config.initrd_fd = make_file(big, 40 * MIB);
	refused(w, "initrd 'the-initrd'|40 MiB|24 MiB");
	bzimage_with(w, BZ_INITRD_MAX, 0x7fffffff, 4);
	load(w);
	close(w->config.initrd_fd);
	w->config.initrd_fd = make_file(big, 40 * MIB + 1);
	refused(w, "initrd 'the-initrd'|the guest has 64 MiB|-m 65M");
}

static void test_bzimage_bad_headers(void **state)
{
	static const struct {
		size_t offset;
		uint64_t value;
		unsigned bytes;
		const char *message;
	} cases[] = {
		{ BZ_SYSSIZE, BZ_CODE / 16 + 1, 4, "truncated|6672 bytes|6656" },
		{ BZ_SYSSIZE, 0xffffffff, 4, "truncated" },
		{ 0x1f1, 255, 1, "truncated" },
		{ BZ_VERSION, 0x0205, 2, "protocol 2.05|2.06" },
		{ BZ_LOADFLAGS, 0, 1, "zImage" },
		{ BZ_ALIGNMENT, 0, 4, "alignment" },
		{ BZ_ALIGNMENT, 3, 4, "alignment" },
		{ BZ_ALIGNMENT, 0x80000000, 4, "2048 MiB" },
		{ BZ_PREF_ADDRESS, 0, 8, "loaded at" },
		{ BZ_PREF_ADDRESS, ~(2 * MIB - 1), 8, "loaded at" },
		{ BZ_PREF_ADDRESS, 0xffe00000, 8, "4 GiB" },
		{ BZ_INIT_SIZE, 49 * MIB, 4, "the guest has 64 MiB|-m 65M" },
		{ BZ_INIT_SIZE, 0xffffffff, 4, "below 4 GiB" },
		{ BZ_CMDLINE_SIZE, 18, 4, "at most 18|-append has 19" },
	};
	struct world *w = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		bzimage_with(w, cases[i].offset, cases[i].value, cases[i].bytes);
		refused(w, "kernel 'the-kernel'");
		refused(w, cases[i].message);
	}
}

/* --- ELF with a PVH note --- */

#define ELF_NOTE 0x200
#define ELF_DATA 0x400
#define ELF_SIZE 0x800
enum { ELF_PHDRS = 0x40, ELF_PHDR_SIZE = 56 };
/* Of the i-th program header. */
enum {
	PH_TYPE = 0,
	PH_FLAGS = 4,
	PH_OFFSET = 8,
	PH_VADDR = 16,
	PH_PADDR = 24,
	PH_FILESZ = 32,
	PH_MEMSZ = 40
};

static size_t phdr(unsigned i, unsigned field)
{
	return ELF_PHDRS + i * ELF_PHDR_SIZE + field;
}

struct elf {
	uint8_t bytes[ELF_SIZE];
};

static void add_phdr(struct elf *elf, unsigned i, uint32_t type, uint64_t offset, uint64_t filesz,
		     uint64_t paddr, uint64_t memsz)
{
	put(elf, phdr(i, PH_TYPE), type, 4);
	put(elf, phdr(i, PH_FLAGS), 5, 4);
	put(elf, phdr(i, PH_OFFSET), offset, 8);
	put(elf, phdr(i, PH_VADDR), paddr + 0xffffffff80000000, 8);
	put(elf, phdr(i, PH_PADDR), paddr, 8);
	put(elf, phdr(i, PH_FILESZ), filesz, 8);
	put(elf, phdr(i, PH_MEMSZ), memsz, 8);
}

/* Two segments, the second with a bss, and two notes, the second PVH's. */
static struct elf elf64(void)
{
	struct elf elf = {};

	memcpy(elf.bytes, "\177ELF\2\1\1", 7);
	put(&elf, 16, 2, 2);
	put(&elf, 18, 62, 2);
	put(&elf, 24, 0xffffffff81000000, 8);
	put(&elf, 32, ELF_PHDRS, 8);
	put(&elf, 54, ELF_PHDR_SIZE, 2);
	put(&elf, 56, 3, 2);
	add_phdr(&elf, 0, 1, ELF_DATA, 0x200, 16 * MIB, 0x200);
	add_phdr(&elf, 1, 1, ELF_DATA + 0x200, 0x200, 18 * MIB, 2 * MIB);
	add_phdr(&elf, 2, 4, ELF_NOTE, 16 + 8 + 16 + 8, 0, 0);
	put(&elf, ELF_NOTE, 4 | 5ull << 32, 8);
	put(&elf, ELF_NOTE + 8, 6, 4);
	memcpy(elf.bytes + ELF_NOTE + 12, "Xen\0linux", 9);
	put(&elf, ELF_NOTE + 24, 4 | 8ull << 32, 8);
	put(&elf, ELF_NOTE + 32, 18, 4);
	memcpy(elf.bytes + ELF_NOTE + 36, "Xen", 4);
	put(&elf, ELF_NOTE + 40, 16 * MIB + 0x40, 8);
	memset(elf.bytes + ELF_DATA, 0x11, 0x200);
	memset(elf.bytes + ELF_DATA + 0x200, 0x22, 0x200);
	return elf;
}

static void test_pvh(void **state)
{
	struct world *w = *state;
	struct elf elf = elf64();
	uint64_t info, module, map;

	memset(gmem_slice(&w->gm, 0, RAM_SIZE), 0xa5, RAM_SIZE);
	kernel_is(w, &elf, sizeof(elf));
	initrd_is(w, "some files");
	load(w);
	is_protected_mode(w);
	assert_int_equal(w->bsp.regs.rip, 16 * MIB + 0x40);
	assert_int_equal(get(w, 16 * MIB, 4), 0x11111111);
	assert_int_equal(get(w, 16 * MIB + 0x200, 4), 0xa5a5a5a5);
	assert_int_equal(get(w, 18 * MIB + 0x1fc, 8), 0x0000000022222222);
	for (uint64_t at = 18 * MIB + 0x200; at < 20 * MIB; at += 8)
		assert_int_equal(get(w, at, 8), 0);
	assert_int_equal(get(w, 20 * MIB, 4), 0xa5a5a5a5);

	info = w->bsp.regs.rbx;
	assert_int_equal(get(w, info, 4), 0x336ec578);
	assert_int_equal(get(w, info + 4, 4), 1);
	assert_int_equal(get(w, info + 12, 4), 1);
	module = get(w, info + 16, 8);
	assert_int_equal(get(w, module, 8), RAM_SIZE - 4096);
	assert_int_equal(get(w, module + 8, 8), 10);
	assert_memory_equal(text_at(w, get(w, module, 8)), "some files", 10);
	assert_string_equal(text_at(w, get(w, info + 24, 8)), "console=ttyS0 quiet");
	assert_int_equal(get(w, info + 32, 8), RSDP_GPA);
	map = get(w, info + 40, 8);
	assert_int_equal(get(w, info + 48, 4), w->config.n_map);
	for (unsigned i = 0; i < w->config.n_map; i++) {
		assert_int_equal(get(w, map + i * 24, 8), w->map[i].base);
		assert_int_equal(get(w, map + i * 24 + 8, 8), w->map[i].size);
		assert_int_equal(get(w, map + i * 24 + 16, 8), w->map[i].type);
	}
}

static void test_pvh_nothing_given(void **state)
{
	struct world *w = *state;
	struct elf elf = elf64();
	uint64_t info;

	kernel_is(w, &elf, sizeof(elf));
	w->config.cmdline = NULL;
	w->config.rsdp_gpa = 0;
	load(w);
	info = w->bsp.regs.rbx;
	assert_int_equal(get(w, info + 12, 4), 0);
	assert_int_equal(get(w, info + 16, 8), 0);
	assert_string_equal(text_at(w, get(w, info + 24, 8)), "");
	assert_int_equal(get(w, info + 32, 8), 0);
}

static void test_pvh_bad_images(void **state)
{
	static const struct {
		size_t offset;
		uint64_t value;
		unsigned bytes;
		const char *message;
	} cases[] = {
		{ 18, 183, 2, "another processor|183" },
		{ 5, 2, 1, "another processor" },
		{ 54, 32, 2, "program headers" },
		{ 56, 0, 2, "program headers" },
		{ 56, 0xffff, 2, "program headers" },
		{ 32, ELF_SIZE, 8, "truncated" },
		{ 32, UINT64_MAX - 8, 8, "truncated" },
		{ ELF_PHDRS + PH_FILESZ, 0x201, 8, "broken ELF" },
		{ ELF_PHDRS + PH_OFFSET, ELF_SIZE, 8, "truncated" },
		{ ELF_PHDRS + PH_OFFSET, UINT64_MAX, 8, "truncated" },
		{ ELF_PHDRS + PH_PADDR, 0x9000, 8, "0x9000|1 MiB" },
		{ ELF_PHDRS + PH_PADDR, 64 * MIB - 0x1ff, 8, "-m 65M" },
		{ ELF_PHDRS + PH_PADDR, UINT64_MAX - 1, 8, "broken ELF" },
		{ ELF_PHDRS + PH_PADDR, 1ull << 62, 8, "below 4 GiB" },
		{ ELF_PHDRS + PH_PADDR, 18 * MIB - 1, 8, "overlap" },
		{ ELF_PHDRS + 2 * ELF_PHDR_SIZE + PH_FILESZ, UINT64_MAX, 8, "without a PVH entry" },
		{ ELF_PHDRS + 2 * ELF_PHDR_SIZE + PH_FILESZ, 30, 8, "without a PVH entry" },
		{ ELF_PHDRS + 2 * ELF_PHDR_SIZE + PH_TYPE, 0, 4, "without a PVH entry" },
		{ ELF_NOTE, 0xffffffff, 4, "without a PVH entry" },
		{ ELF_NOTE + 4, 0xffffffff, 4, "without a PVH entry" },
		{ ELF_NOTE + 28, 5, 4, "without a PVH entry" },
		{ ELF_NOTE + 40, 17 * MIB, 8, "PVH entry 0x1100000" },
	};
	struct world *w = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct elf elf = elf64();

		put(&elf, cases[i].offset, cases[i].value, cases[i].bytes);
		kernel_is(w, &elf, sizeof(elf));
		refused(w, "kernel 'the-kernel'");
		refused(w, cases[i].message);
	}
}

/* --- Multiboot --- */

#define MB_HEADER 0x40
#define MB_SIZE   0x1000
enum {
	MB_FLAGS = 4,
	MB_HEADER_ADDR = 12,
	MB_LOAD_ADDR = 16,
	MB_LOAD_END = 20,
	MB_BSS_END = 24,
	MB_ENTRY = 28
};

struct flat {
	uint8_t bytes[MB_SIZE];
};

static void add_multiboot_header(void *image, size_t at, uint32_t flags)
{
	put(image, at, 0x1badb002, 4);
	put(image, at + MB_FLAGS, flags, 4);
	put(image, at + 8, -(0x1badb002 + flags), 4);
}

/* From 0x20 of the file, to 1 MiB. */
static struct flat flat(void)
{
	struct flat image;

	memset(&image, 0x33, sizeof(image));
	add_multiboot_header(&image, MB_HEADER, 0x10003);
	put(&image, MB_HEADER + MB_HEADER_ADDR, MIB + 0x20, 4);
	put(&image, MB_HEADER + MB_LOAD_ADDR, MIB, 4);
	put(&image, MB_HEADER + MB_LOAD_END, 0, 4);
	put(&image, MB_HEADER + MB_BSS_END, 2 * MIB, 4);
	put(&image, MB_HEADER + MB_ENTRY, MIB + 0x100, 4);
	return image;
}

static void has_multiboot_info(const struct world *w)
{
	uint64_t info = w->bsp.regs.rbx, map;

	is_protected_mode(w);
	assert_int_equal(w->bsp.regs.rax, 0x2badb002);
	assert_int_equal(get(w, info, 4), 0x24f);
	assert_int_equal(get(w, info + 4, 4), 640);
	assert_int_equal(get(w, info + 8, 4), 63 * 1024);
	assert_string_equal(text_at(w, get(w, info + 16, 4)), "the-kernel console=ttyS0 quiet");
	assert_string_equal(text_at(w, get(w, info + 64, 4)), "revirter");
	map = get(w, info + 48, 4);
	assert_int_equal(get(w, info + 44, 4), w->config.n_map * 24);
	for (unsigned i = 0; i < w->config.n_map; i++) {
		assert_int_equal(get(w, map + i * 24, 4), 20);
		assert_int_equal(get(w, map + i * 24 + 4, 8), w->map[i].base);
		assert_int_equal(get(w, map + i * 24 + 12, 8), w->map[i].size);
		assert_int_equal(get(w, map + i * 24 + 20, 4), w->map[i].type);
	}
}

static void test_multiboot_flat(void **state)
{
	struct world *w = *state;
	struct flat image = flat();
	uint64_t modules;

	memset(gmem_slice(&w->gm, 0, RAM_SIZE), 0xa5, RAM_SIZE);
	kernel_is(w, &image, sizeof(image));
	initrd_is(w, "some files");
	load(w);
	has_multiboot_info(w);
	assert_int_equal(w->bsp.regs.rip, MIB + 0x100);
	assert_memory_equal(gmem_slice(&w->gm, MIB, MB_SIZE - 0x20), image.bytes + 0x20,
			    MB_SIZE - 0x20);
	assert_int_equal(get(w, MIB + MB_SIZE - 0x20, 8), 0);
	assert_int_equal(get(w, 2 * MIB - 8, 8), 0);
	assert_int_equal(get(w, w->bsp.regs.rbx + 20, 4), 1);
	modules = get(w, w->bsp.regs.rbx + 24, 4);
	assert_int_equal(get(w, modules, 4), 2 * MIB);
	assert_int_equal(get(w, modules + 4, 4), 2 * MIB + 10);
	assert_string_equal(text_at(w, get(w, modules + 8, 4)), "the-initrd");
	assert_memory_equal(text_at(w, 2 * MIB), "some files", 10);
}

/* A 32-bit ELF image whose entry is given by its virtual address, and three modules. */
static void test_multiboot_elf(void **state)
{
	struct world *w = *state;
	struct elf elf = {};
	struct boot_module modules[] = {
		{ make_file("one", 3), "one", "one a=1" },
		{ make_file("", 0), "empty", "empty" },
		{ make_file("three", 5), "three", "three" },
	};
	uint64_t list;

	memcpy(elf.bytes, "\177ELF\1\1\1", 7);
	put(&elf, 16, 2, 2);
	put(&elf, 18, 3, 2);
	put(&elf, 24, 0xc0100010, 4);
	put(&elf, 28, 0x34, 4);
	put(&elf, 42, 32, 2);
	put(&elf, 44, 1, 2);
	put(&elf, 0x34, 1, 4);
	put(&elf, 0x34 + 4, ELF_DATA, 4);
	put(&elf, 0x34 + 8, 0xc0100000, 4);
	put(&elf, 0x34 + 12, MIB, 4);
	put(&elf, 0x34 + 16, 0x400, 4);
	put(&elf, 0x34 + 20, 0x1001, 4);
	put(&elf, 0x34 + 24, 5, 4);
	add_multiboot_header(&elf, ELF_DATA, 0x3);
	kernel_is(w, &elf, sizeof(elf));
	w->config.modules = modules;
	w->config.n_modules = ARRAY_SIZE(modules);
	load(w);
	has_multiboot_info(w);
	assert_int_equal(w->bsp.regs.rip, MIB + 0x10);
	assert_int_equal(get(w, w->bsp.regs.rbx + 20, 4), 3);
	list = get(w, w->bsp.regs.rbx + 24, 4);
	assert_int_equal(get(w, list, 4), MIB + 0x2000);
	assert_string_equal(text_at(w, get(w, list + 8, 4)), "one a=1");
	assert_int_equal(get(w, list + 16, 4), MIB + 0x3000);
	assert_int_equal(get(w, list + 20, 4), MIB + 0x3000);
	assert_int_equal(get(w, list + 32, 4), MIB + 0x3000);
	assert_memory_equal(text_at(w, MIB + 0x3000), "three", 5);
	for (unsigned i = 0; i < ARRAY_SIZE(modules); i++)
		close(modules[i].fd);
	w->config.n_modules = 0;

	put(&elf, 24, 0x12345678, 4);
	kernel_is(w, &elf, sizeof(elf));
	refused(w, "kernel 'the-kernel'|entry 0x12345678");
}

static void test_multiboot_bad_images(void **state)
{
	static const struct {
		size_t offset;
		uint32_t value;
		const char *message;
	} cases[] = {
		{ MB_HEADER_ADDR, MIB - 4, "do not fit together" },
		{ MB_HEADER_ADDR, MIB + 0x44, "do not fit together" },
		{ MB_LOAD_END, MIB - 4, "do not fit together" },
		{ MB_LOAD_END, MIB + 0x1000, "truncated" },
		{ MB_LOAD_ADDR, 0x9000, "fit together" },
		{ MB_BSS_END, 65 * MIB, "-m 65M" },
		{ MB_BSS_END, 0xffffffff, "below 4 GiB" },
		{ MB_ENTRY, 0, "entry 0" },
		{ MB_ENTRY, 2 * MIB, "entry 0x200000" },
	};
	struct world *w = *state;
	struct flat image = flat();

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		image = flat();
		put(&image, MB_HEADER + cases[i].offset, cases[i].value, 4);
		kernel_is(w, &image, sizeof(image));
		refused(w, "kernel 'the-kernel'");
		refused(w, cases[i].message);
	}
	add_multiboot_header(&image, MB_HEADER, 0x10008);
	kernel_is(w, &image, sizeof(image));
	refused(w, "features 0x8");
	add_multiboot_header(&image, MB_HEADER, 0);
	kernel_is(w, &image, sizeof(image));
	refused(w, "not an ELF");
	image = flat();
	put(&image, MB_HEADER + MB_HEADER_ADDR, 0x9020, 4);
	put(&image, MB_HEADER + MB_LOAD_ADDR, 0x9000, 4);
	kernel_is(w, &image, sizeof(image));
	refused(w, "0x9000|1 MiB");
}

static void test_multiboot_big_module(void **state)
{
	struct world *w = *state;
	struct flat image = flat();
	AUTO_FREE char *big = xcalloc(1, 63 * MIB);

	kernel_is(w, &image, sizeof(image));
	w->config.initrd_fd = make_file(big, 63 * MIB);
	refused(w, "module 'the-initrd'|-m 65M");
}

static void test_module_list(void **state)
{
	static const struct {
		const char *args, *name;
	} expected[] = {
		{ "a", "a" }, { "b 1 2", "b" }, { "c,d x", "c,d" }, { "", "" }, { "e", "e" },
	};
	const char *list = "a, b 1 2,c,,d x, ,e";
	unsigned i;

	for (i = 0; list; i++) {
		char *args, *name;

		boot_next_module(&list, &args, &name);
		assert_true(i < ARRAY_SIZE(expected));
		assert_string_equal(args, expected[i].args);
		assert_string_equal(name, expected[i].name);
		free(args);
		free(name);
	}
	assert_int_equal(i, ARRAY_SIZE(expected));
}

/* --- Which kind --- */

static void test_precedence(void **state)
{
	struct world *w = *state;
	struct bzimage bz = bzimage();
	struct elf elf = elf64();
	struct flat image = flat();
	enum boot_kind kind;

	add_multiboot_header(&bz, 0x300, 0);
	kernel_is(w, &bz, sizeof(bz));
	assert_int_equal(boot_identify(w->config.kernel_fd, "k", &kind, NULL), 0);
	assert_int_equal(kind, BOOT_LINUX);

	kernel_is(w, &image, sizeof(image));
	assert_int_equal(boot_identify(w->config.kernel_fd, "k", &kind, NULL), 0);
	assert_int_equal(kind, BOOT_MULTIBOOT);

	/* A 64-bit ELF image with both is PVH's, with only the header it is nobody's. */
	add_multiboot_header(&elf, ELF_DATA, 0);
	kernel_is(w, &elf, sizeof(elf));
	assert_int_equal(boot_identify(w->config.kernel_fd, "k", &kind, NULL), 0);
	assert_int_equal(kind, BOOT_PVH);
	put(&elf, ELF_NOTE + 32, 17, 4);
	kernel_is(w, &elf, sizeof(elf));
	refused(w, "multiboot image in a 64-bit ELF");
}

static void test_not_a_kernel(void **state)
{
	static const struct {
		const char *bytes;
		size_t size;
		const char *message;
	} cases[] = {
		{ "", 0, "is empty" },
		{ "#!/bin/sh\n", 10, "is not a kernel|bzImage|multiboot" },
		{ "\x1f\x8b\x08", 3, "gzip|decompress" },
		{ "QFI\xfb", 4, "qcow2|-hda" },
		{ "MZ\x90", 3, "EFI program" },
		{ "070701", 6, "-initrd" },
		{ "\177ELF", 4, "is not a kernel" },
	};
	struct world *w = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		kernel_is(w, cases[i].bytes, cases[i].size);
		refused(w, "kernel 'the-kernel'");
		refused(w, cases[i].message);
	}
}

static void test_not_a_file(void **state)
{
	struct world *w = *state;
	struct bzimage bz = bzimage();
	int ends[2];

	assert_int_equal(pipe(ends), 0);
	w->config.kernel_fd = ends[0];
	refused(w, "kernel 'the-kernel'|regular file");
	close(ends[1]);
	kernel_is(w, &bz, sizeof(bz));
	w->config.initrd_fd = memfd_create("gone", MFD_CLOEXEC);
	close(w->config.initrd_fd);
	refused(w, "initrd 'the-initrd'|Bad file descriptor");
	w->config.initrd_fd = -1;
}

static void test_long_command_line(void **state)
{
	struct world *w = *state;
	struct elf elf = elf64();
	AUTO_FREE char *line = xcalloc(1, 65537);

	memset(line, 'x', 65536);
	kernel_is(w, &elf, sizeof(elf));
	w->config.cmdline = line;
	refused(w, "65536 bytes|command line");
	line[65535] = 0;
	load(w);
}

static void test_little_ram(void **state)
{
	struct world *w = *state;
	const struct gmem_config memory = { .size = MIB, .low_max = MACHINE_LOW_RAM_MAX };
	struct bzimage bz = bzimage();

	gmem_destroy(&w->gm);
	assert_int_equal(gmem_init(&w->gm, NULL, &memory, NULL), 0);
	kernel_is(w, &bz, sizeof(bz));
	refused(w, "kernel 'the-kernel'|the guest has 1 MiB");
}

static void test_standard_map(void **state)
{
	struct gmem gm = { .low_size = 2 * GIB, .high_size = GIB };
	struct boot_range map[BOOT_STANDARD_RANGES];
	unsigned n = boot_standard_map(&gm, MACHINE_ECAM_BASE, map);
	uint64_t ram = 0;

	assert_int_equal(n, BOOT_STANDARD_RANGES);
	for (unsigned i = 0; i < n; i++) {
		ram += map[i].type == BOOT_RANGE_RAM ? map[i].size : 0;
		if (i)
			assert_true(map[i].base >= map[i - 1].base + map[i - 1].size);
	}
	assert_int_equal(ram, 3 * GIB - 384 * KIB);
	gm.high_size = 0;
	assert_int_equal(boot_standard_map(&gm, 0, map), BOOT_STANDARD_RANGES - 2);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_bzimage),
		TEST(test_bzimage_again),
		TEST(test_bzimage_32bit),
		TEST(test_bzimage_initrd_limits),
		TEST(test_bzimage_bad_headers),
		TEST(test_pvh),
		TEST(test_pvh_nothing_given),
		TEST(test_pvh_bad_images),
		TEST(test_multiboot_flat),
		TEST(test_multiboot_elf),
		TEST(test_multiboot_bad_images),
		TEST(test_multiboot_big_module),
		cmocka_unit_test(test_module_list),
		TEST(test_precedence),
		TEST(test_not_a_kernel),
		TEST(test_not_a_file),
		TEST(test_long_command_line),
		TEST(test_little_ram),
		cmocka_unit_test(test_standard_map),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
