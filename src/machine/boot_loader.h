/*
 * Between boot.c and the loaders of the three kinds of kernel: what they are given, the helpers
 * they share, and where things lie in low memory.
 */
#ifndef REVIRT_MACHINE_BOOT_LOADER_H
#define REVIRT_MACHINE_BOOT_LOADER_H

#include "machine/boot.h"

#include <stdbool.h>

/*
 * Guest addresses of what a loader leaves behind, below the 640 KiB mark. The first page is the
 * BIOS's (interrupt vectors, data area), and kernels put trampolines at the top of the area; ACPI
 * tables are in 0xe0000..0xfffff. Kernels are loaded at 1 MiB or above.
 */
#define BOOT_BDA_GPA         0x400 /* BIOS data area */
#define BOOT_BDA_SIZE        0x100
#define BOOT_GDT_GPA         0x1000
#define BOOT_INFO_GPA        0x2000 /* zero page, hvm_start_info or multiboot info */
#define BOOT_INFO_SIZE       0x1000
#define BOOT_MAP_GPA         0x3000 /* PVH, multiboot: memory map */
#define BOOT_MAP_SIZE        0x1000
#define BOOT_MODULES_GPA     0x4000 /* PVH, multiboot: list of modules */
#define BOOT_MODULES_SIZE    0x1000
#define BOOT_PAGING_GPA      0x8000  /* 4 GiB mapped one to one: 6 pages */
#define BOOT_STRINGS_GPA     0x10000 /* command lines */
#define BOOT_STRINGS_SIZE    0x10000
#define BOOT_KERNEL_MIN_GPA  0x100000

#define BOOT_BASE_MEMORY_KIB 640

/* The beginning of the kernel file, where all three kinds have their headers. */
#define BOOT_HEAD_SIZE 8192

struct boot_image {
	const char *role; /* "kernel", "initrd", "module": for messages */
	const char *name;
	int fd;
	uint64_t size;
};

struct boot_job {
	const struct gmem *gm;
	const struct boot_config *config;
	const char *cmdline; /* never NULL */
	struct boot_image kernel;
	size_t head_size;
	uint8_t head[BOOT_HEAD_SIZE] __attribute__((aligned(8)));
	uint64_t strings_end; /* the next free byte of BOOT_STRINGS */
};

/* How the kernel wants the processor; registers not named are 0. */
struct boot_entry {
	bool long_mode; /* else 32-bit protected mode without paging */
	uint64_t rip, rax, rbx, rsi;
};

/* One for each kind of kernel. */
bool boot_linux_match(const struct boot_job *job);
int boot_linux_load(struct boot_job *job, struct boot_entry *entry, struct error **err);
bool boot_multiboot_match(const struct boot_job *job);
bool boot_multiboot_has_header(const struct boot_job *job);
int boot_multiboot_load(struct boot_job *job, struct boot_entry *entry, struct error **err);
bool boot_pvh_match(const struct boot_job *job);
int boot_pvh_load(struct boot_job *job, struct boot_entry *entry, struct error **err);

/* Sets an error about a file: "kernel 'name': ...". Returns -1. */
int boot_error(const struct boot_image *image, struct error **err, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* The error that the RAM below 4 GiB does not reach to `end`. Returns -1. */
int boot_no_room(const struct boot_job *job, const struct boot_image *image, uint64_t end,
		 struct error **err);

/* Learns the size of image->fd, which must be a regular file. */
int boot_image_open(struct boot_image *image, struct error **err);
/* The initrd of the configuration; size 0 when there is none. */
int boot_initrd_open(const struct boot_job *job, struct boot_image *initrd, struct error **err);
/* Reads exactly len bytes at offset of the file, to a buffer or to guest memory. */
int boot_image_read(const struct boot_image *image, uint64_t offset, void *buf, uint64_t len,
		    struct error **err);
int boot_image_load(const struct boot_job *job, const struct boot_image *image, uint64_t offset,
		    uint64_t gpa, uint64_t len, struct error **err);

/* Makes [gpa, gpa + len), which is RAM, all zero; pages that are so already are left untouched. */
void boot_zero(const struct boot_job *job, uint64_t gpa, uint64_t len);

/*
 * Loads the initrd into the highest pages below limit and below the end of low RAM, but not below
 * floor. *gpa is 0 when there is none.
 */
int boot_initrd_load(const struct boot_job *job, const struct boot_image *initrd, uint64_t floor,
		     uint64_t limit, uint64_t *gpa, struct error **err);

/* Adds a string to BOOT_STRINGS, first two words separated by a space when both are given. */
int boot_add_string(struct boot_job *job, const char *what, const char *first, const char *second,
		    uint32_t *gpa, struct error **err);

/* --- ELF (boot_elf.c) --- */

#define BOOT_ELF_MAX_SEGMENTS 64

struct boot_elf {
	bool is64;
	uint64_t entry; /* virtual, as the header has it */
	uint64_t end;   /* of the highest segment in memory */
	unsigned n_segments;
	struct boot_elf_segment {
		uint32_t type, flags;
		uint64_t offset, filesz, vaddr, paddr, memsz, align;
	} segments[BOOT_ELF_MAX_SEGMENTS]; /* PT_LOAD and PT_NOTE, empty ones left out */
};

bool boot_elf_match(const struct boot_job *job);
/* Reads and checks the program headers; all of what they load lies in RAM from 1 MiB on. */
int boot_elf_parse(const struct boot_job *job, struct boot_elf *elf, struct error **err);
int boot_elf_load(const struct boot_job *job, const struct boot_elf *elf, struct error **err);
/* Is the physical address in a loaded segment? */
bool boot_elf_covers(const struct boot_elf *elf, uint64_t gpa);
/* The physical address of elf->entry, or 0 when no loaded segment has it. */
uint64_t boot_elf_entry(const struct boot_elf *elf);
/*
 * Looks for the note `type` of `owner` and reads its value, an integer of 4 or 8 bytes. 1: found,
 * 0: not there, -1: error.
 */
int boot_elf_note(const struct boot_job *job, const struct boot_elf *elf, const char *owner,
		  uint32_t type, uint64_t *value, struct error **err);

#endif
