/*
 * libFuzzer: kernel files of every kind, broken in every way.
 *
 * The first byte of the input says what the file shall pass for, so that the fuzzer need not find
 * the magic numbers by itself; the rest is the file. Whatever it is, boot_load() must come back
 * with an error, or with an entry in RAM, and what it loads must stay in RAM (ASan, and the guard
 * pages around guest memory, watch over that).
 */
#include "base/error.h"
#include "base/util.h"
#include "hav.h"
#include "machine/boot.h"
#include "machine/machine.h"

#include <string.h>
#include <sys/mman.h>

#define RAM_SIZE     (4 * MIB)
#define MAX_FILE     (64 * KIB)
#define MULTIBOOT_AT 0x100
#define NOTE_AT      0x200 /* the PVH note */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { RAW, BZIMAGE, ELF64, PVH, ELF32_MULTIBOOT, FLAT_MULTIBOOT, KINDS };

struct world {
	struct gmem gm;
	struct boot_range map[BOOT_STANDARD_RANGES];
	unsigned n_map;
	int kernel, initrd;
};

static void make_world(struct world *w)
{
	const struct gmem_config memory = { .size = RAM_SIZE, .low_max = MACHINE_LOW_RAM_MAX };

	w->kernel = memfd_create("kernel", MFD_CLOEXEC);
	w->initrd = memfd_create("initrd", MFD_CLOEXEC);
	if (gmem_init(&w->gm, NULL, &memory, NULL) < 0 || w->kernel < 0 || w->initrd < 0 ||
	    write(w->initrd, "initrd", 6) != 6)
		abort();
	w->n_map = boot_standard_map(&w->gm, MACHINE_ECAM_BASE, w->map);
}

static void put(uint8_t *file, size_t size, size_t offset, const void *bytes, size_t n)
{
	if (offset + n <= size)
		memcpy(file + offset, bytes, n);
}

static void put_multiboot(uint8_t *file, size_t size)
{
	uint32_t header[3] = { 0x1badb002 };

	if (MULTIBOOT_AT + sizeof(header) > size)
		return;
	memcpy(&header[1], file + MULTIBOOT_AT + 4, 4);
	header[1] &= 0x10007; /* others are refused at once */
	header[2] = -(header[0] + header[1]);
	memcpy(file + MULTIBOOT_AT, header, sizeof(header));
}

static void put_elf64(uint8_t *file, size_t size)
{
	put(file, size, 0, "\177ELF\2\1\1", 7);
	put(file, size, 18, "\x3e\0", 2);
	put(file, size, 54, "\x38\0", 2);
}

/* Two program headers, for the note and a segment. */
static void put_pvh(uint8_t *file, size_t size)
{
	put_elf64(file, size);
	put(file, size, 32, "\x40\0\0\0\0\0\0\0", 8);
	put(file, size, 56, "\2\0", 2);
	put(file, size, 64, "\4\0\0\0", 4);
	put(file, size, 72, "\0\2\0\0\0\0\0\0", 8);
	put(file, size, 96, "\x18\0\0\0\0\0\0\0", 8);
	put(file, size, 120, "\1\0\0\0", 4);
	put(file, size, 144, "\0\0\x10\0\0\0\0\0", 8);
	put(file, size, NOTE_AT + 16, "\0\0\x10\0", 4);
	put(file, size, NOTE_AT, "\4\0\0\0\4\0\0\0\x12\0\0\0Xen", 16);
}

static void pass_for(unsigned kind, uint8_t *file, size_t size)
{
	switch (kind) {
	case BZIMAGE:
		put(file, size, 0x1fe, "\x55\xaa", 2);
		put(file, size, 0x202, "HdrS", 4);
		break;
	case ELF64: put_elf64(file, size); break;
	case PVH: put_pvh(file, size); break;
	case ELF32_MULTIBOOT:
		put(file, size, 0, "\177ELF\1\1\1", 7);
		put(file, size, 18, "\3\0", 2);
		put(file, size, 42, "\x20\0", 2);
		put_multiboot(file, size);
		break;
	case FLAT_MULTIBOOT: put_multiboot(file, size); break;
	default: break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct world world;
	static struct hav_state state;
	static uint8_t file[MAX_FILE];
	struct boot_config config;
	struct error *err = NULL;

	if (!world.n_map)
		make_world(&world);
	if (size < 1 || size > sizeof(file))
		return 0;
	memcpy(file, data + 1, size - 1);
	pass_for(data[0] % KINDS, file, size - 1);
	if (ftruncate(world.kernel, 0) < 0 ||
	    pwrite(world.kernel, file, size - 1, 0) != (ssize_t)size - 1)
		abort();
	config = (struct boot_config){
		.kernel_fd = world.kernel,
		.kernel_name = "kernel",
		.initrd_fd = data[0] & 0x80 ? world.initrd : -1,
		.initrd_name = "initrd",
		.map = world.map,
		.n_map = world.n_map,
	};
	if (boot_load(&world.gm, &config, &state, &err) < 0) {
		if (!err)
			abort();
		error_free(err);
	} else if (err || !gmem_slice(&world.gm, state.regs.rip, 1)) {
		abort();
	}
	return 0;
}
