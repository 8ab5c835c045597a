/*
 * Direct boot: a kernel file, without firmware, into guest memory and the first vCPU's registers.
 *
 * Three kinds of kernel are told apart by what is in the file, in QEMU's order: a bzImage (Linux
 * Documentation/arch/x86/boot.rst), a multiboot-1 image (Multiboot Specification 0.6.96), an ELF
 * image with a PVH entry (Xen docs/misc/pvh.pandoc). Everything in the files may be wrong; each way
 * to be wrong is one line that names the file.
 */
#ifndef REVIRT_MACHINE_BOOT_H
#define REVIRT_MACHINE_BOOT_H

#include "machine/gmem.h"

struct error;
struct hav_state;

enum boot_kind { BOOT_LINUX, BOOT_MULTIBOOT, BOOT_PVH };

/* A piece of the memory map: INT 15h/E820h's types (ACPI 6.4 §15.1). */
enum boot_range_type { BOOT_RANGE_RAM = 1, BOOT_RANGE_RESERVED = 2 };
struct boot_range {
	uint64_t base, size;
	uint32_t type;
};
#define BOOT_MAX_RANGES 128

/* A file given to a multiboot kernel. */
struct boot_module {
	int fd;
	const char *name; /* for messages */
	const char *args; /* what the kernel is told: the file's name and its arguments */
};
#define BOOT_MAX_MODULES 128

struct boot_config {
	int kernel_fd; /* stays open as long as the machine may be reset, as all of them */
	const char *kernel_name;
	int initrd_fd; /* -1: none */
	const char *initrd_name;
	const char *cmdline; /* NULL: empty */
	uint64_t rsdp_gpa;   /* 0: no ACPI */
	const struct boot_range *map;
	unsigned n_map; /* at most BOOT_MAX_RANGES */
	/* Multiboot kernels only. With none, initrd_fd is the one module there is. */
	const struct boot_module *modules;
	unsigned n_modules; /* at most BOOT_MAX_MODULES */
};

/* What kind of kernel a file is, or an error that says what the file seems to be instead. */
int boot_identify(int kernel_fd, const char *kernel_name, enum boot_kind *kind, struct error **err);

/*
 * QEMU's -initrd for a multiboot kernel is a list, "file args,file args", in which ",," is a comma.
 * The next element's args and the file's name (up to the first space) become *args and *name, the
 * caller's to free; *list moves on, to NULL after the last. Call it while *list is not NULL.
 */
void boot_next_module(const char **list, char **args, char **name);

/* The memory map of a machine without firmware; ecam_base 0: no PCI. Returns the number filled. */
#define BOOT_STANDARD_RANGES 6
unsigned boot_standard_map(const struct gmem *gm, uint64_t ecam_base,
			   struct boot_range map[BOOT_STANDARD_RANGES]);

/*
 * Loads the kernel and what goes with it and fills the REGS and SREGS groups of bsp with what the
 * kernel's boot protocol wants at its entry. Its MSRS group then holds the few registers that
 * firmware would have set, on each vCPU and not only this one. To be called again at each reset.
 */
int boot_load(const struct gmem *gm, const struct boot_config *config, struct hav_state *bsp,
	      struct error **err);

#endif
