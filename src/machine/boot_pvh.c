/*
 * An ELF image with a PVH entry, such as a vmlinux with CONFIG_PVH: Xen's "x86/HVM direct boot ABI"
 * (Xen docs/misc/pvh.pandoc, xen/include/public/arch-x86/hvm/start_info.h).
 *
 * The image's note XEN_ELFNOTE_PHYS32_ENTRY holds the physical address at which it is entered in
 * 32-bit protected mode without paging, EBX pointing to hvm_start_info.
 */
#include "machine/boot_loader.h"

#include "base/error.h"
#include "base/util.h"

#include <string.h>

#define XEN_ELFNOTE_PHYS32_ENTRY 18
#define HVM_START_MAGIC_VALUE    0x336ec578
#define HVM_START_INFO_VERSION   1 /* the one with a memory map */

struct hvm_start_info {
	uint32_t magic, version, flags, nr_modules;
	uint64_t modlist_paddr, cmdline_paddr, rsdp_paddr, memmap_paddr;
	uint32_t memmap_entries, reserved;
};

struct hvm_modlist_entry {
	uint64_t paddr, size, cmdline_paddr, reserved;
};

struct hvm_memmap_table_entry {
	uint64_t addr, size;
	uint32_t type, reserved;
};

_Static_assert(sizeof(struct hvm_memmap_table_entry) * BOOT_MAX_RANGES <= BOOT_MAP_SIZE,
	       "every range fits");

bool boot_pvh_match(const struct boot_job *job)
{
	return boot_elf_match(job);
}

static int find_entry(const struct boot_job *job, const struct boot_elf *elf, uint64_t *entry,
		      struct error **err)
{
	int found = boot_elf_note(job, elf, "Xen", XEN_ELFNOTE_PHYS32_ENTRY, entry, err);

	if (found < 0)
		return -1;
	if (!found && boot_multiboot_has_header(job))
		return boot_error(&job->kernel, err,
				  "is a multiboot image in a 64-bit ELF file: give a 32-bit one");
	if (!found)
		return boot_error(&job->kernel, err,
				  "is an ELF file without a PVH entry: give a vmlinux built with "
				  "CONFIG_PVH=y, or its bzImage");
	if (!boot_elf_covers(elf, *entry))
		return boot_error(&job->kernel, err,
				  "is a broken ELF file: its PVH entry %#llx is not in what is "
				  "loaded",
				  (unsigned long long)*entry);
	return 0;
}

static void fill_start_info(const struct boot_job *job, uint32_t cmdline, uint64_t initrd_gpa,
			    uint64_t initrd_size)
{
	struct hvm_start_info *info = gmem_slice(job->gm, BOOT_INFO_GPA, sizeof(*info));
	struct hvm_memmap_table_entry *map = gmem_slice(job->gm, BOOT_MAP_GPA, BOOT_MAP_SIZE);
	struct hvm_modlist_entry *module = gmem_slice(job->gm, BOOT_MODULES_GPA, sizeof(*module));
	const struct boot_config *config = job->config;

	for (unsigned i = 0; i < config->n_map; i++)
		map[i] = (struct hvm_memmap_table_entry){
			.addr = config->map[i].base,
			.size = config->map[i].size,
			.type = config->map[i].type,
		};
	*module = (struct hvm_modlist_entry){ .paddr = initrd_gpa, .size = initrd_size };
	*info = (struct hvm_start_info){
		.magic = HVM_START_MAGIC_VALUE,
		.version = HVM_START_INFO_VERSION,
		.nr_modules = initrd_size ? 1 : 0,
		.modlist_paddr = initrd_size ? BOOT_MODULES_GPA : 0,
		.cmdline_paddr = cmdline,
		.rsdp_paddr = config->rsdp_gpa,
		.memmap_paddr = BOOT_MAP_GPA,
		.memmap_entries = config->n_map,
	};
}

int boot_pvh_load(struct boot_job *job, struct boot_entry *entry, struct error **err)
{
	struct boot_image initrd;
	struct boot_elf elf;
	uint64_t initrd_gpa;
	uint32_t cmdline;

	if (boot_elf_parse(job, &elf, err) < 0 || find_entry(job, &elf, &entry->rip, err) < 0 ||
	    boot_initrd_open(job, &initrd, err) < 0 || boot_elf_load(job, &elf, err) < 0)
		return -1;
	/* The start info has no upper limit for modules. */
	if (boot_initrd_load(job, &initrd, elf.end, UINT64_MAX, &initrd_gpa, err) < 0)
		return -1;
	if (boot_add_string(job, "command line", job->cmdline, "", &cmdline, err) < 0)
		return -1;
	fill_start_info(job, cmdline, initrd_gpa, initrd.size);
	entry->rbx = BOOT_INFO_GPA;
	return 0;
}
