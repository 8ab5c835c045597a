/*
 * A multiboot-1 image: Xen, many small systems (Multiboot Specification 0.6.96).
 *
 * A header of three words somewhere in the first 8 KiB makes any file one. Where the file goes is
 * said by further words of it (the "a.out kludge") or by the file being a 32-bit ELF image. The
 * modules follow the kernel, each on a page of its own. As with QEMU, the kernel's command line and
 * each module's begin with the file's name.
 */
#include "machine/boot_loader.h"

#include "base/error.h"
#include "base/util.h"

#include <elf.h>
#include <string.h>

#define HEADER_MAGIC          0x1badb002
#define LOADER_MAGIC          0x2badb002
#define HEADER_FLAG_ADDRESSES (1u << 16) /* the a.out kludge's words are valid */
#define HEADER_FLAGS_KNOWN    0x7        /* page alignment, memory information, video mode */
#define HEADER_FLAGS_REQUIRED 0xffff     /* those that a loader must know or give up (§3.1.2) */
#define MODULE_ALIGN          4096

enum {
	INFO_MEMORY = 1 << 0,
	INFO_BOOTDEV = 1 << 1,
	INFO_CMDLINE = 1 << 2,
	INFO_MODS = 1 << 3,
	INFO_MEM_MAP = 1 << 6,
	INFO_LOADER_NAME = 1 << 9,
};
#define BOOTDEV_FIRST_DISK 0x8000ffff /* drive 0x80, partition 0 (§3.3) */

struct multiboot_header {
	uint32_t magic, flags, checksum;
	uint32_t header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr;
};

struct multiboot_info {
	uint32_t flags, mem_lower, mem_upper, boot_device, cmdline;
	uint32_t mods_count, mods_addr, syms[4], mmap_length, mmap_addr;
	uint32_t drives_length, drives_addr, config_table, boot_loader_name;
};

struct multiboot_mmap {
	uint32_t size; /* of what follows */
	uint64_t addr, len;
	uint32_t type;
} __attribute__((packed));

struct multiboot_module {
	uint32_t start, end, string, reserved;
};

_Static_assert(sizeof(struct multiboot_mmap) * BOOT_MAX_RANGES <= BOOT_MAP_SIZE, "ranges fit");
_Static_assert(sizeof(struct multiboot_module) * BOOT_MAX_MODULES <= BOOT_MODULES_SIZE,
	       "modules fit");

/* Finds the header; returns its offset in the file, or -1. Words the file has no room for are 0. */
static int find_header(const struct boot_job *job, struct multiboot_header *h)
{
	const size_t least = offsetof(struct multiboot_header, header_addr);

	for (size_t at = 0; at + least <= job->head_size; at += 4) {
		memset(h, 0, sizeof(*h));
		memcpy(h, job->head + at, MIN(sizeof(*h), job->head_size - at));
		if (h->magic == HEADER_MAGIC && h->magic + h->flags + h->checksum == 0)
			return at;
	}
	return -1;
}

bool boot_multiboot_has_header(const struct boot_job *job)
{
	struct multiboot_header h;

	return find_header(job, &h) >= 0;
}

/* A 64-bit ELF image is left to PVH, which it may speak too. */
bool boot_multiboot_match(const struct boot_job *job)
{
	struct multiboot_header h;

	if (find_header(job, &h) < 0)
		return false;
	return (h.flags & HEADER_FLAG_ADDRESSES) || !boot_elf_match(job) ||
	       job->head[EI_CLASS] != ELFCLASS64;
}

/* The a.out kludge: one piece of the file around the header, then zeroes. */
static int load_flat(const struct boot_job *job, const struct multiboot_header *h, uint64_t at,
		     uint64_t *end, struct error **err)
{
	uint64_t before = (uint64_t)h->header_addr - h->load_addr, offset = at - before, size;

	if (h->header_addr < h->load_addr || before > at ||
	    (h->load_end_addr && h->load_end_addr < h->load_addr))
		return boot_error(&job->kernel, err,
				  "has a broken multiboot header: header_addr %#x, load_addr %#x, "
				  "load_end_addr %#x do not fit together",
				  h->header_addr, h->load_addr, h->load_end_addr);
	if (h->load_addr < BOOT_KERNEL_MIN_GPA)
		return boot_error(&job->kernel, err,
				  "wants to be loaded at %#x: kernels can be loaded from 1 MiB on",
				  h->load_addr);
	size = h->load_end_addr ? h->load_end_addr - h->load_addr : job->kernel.size - offset;
	*end = MAX(h->load_addr + size, h->bss_end_addr);
	if (*end > job->gm->low_size)
		return boot_no_room(job, &job->kernel, *end, err);
	if (h->entry_addr < h->load_addr || h->entry_addr >= *end)
		return boot_error(&job->kernel, err,
				  "has a broken multiboot header: its entry %#x is not in what is "
				  "loaded",
				  h->entry_addr);
	if (boot_image_load(job, &job->kernel, offset, h->load_addr, size, err) < 0)
		return -1;
	boot_zero(job, h->load_addr + size, *end - (h->load_addr + size));
	return 0;
}

static int load_elf(const struct boot_job *job, uint64_t *end, uint64_t *entry, struct error **err)
{
	struct boot_elf elf;

	if (!boot_elf_match(job))
		return boot_error(&job->kernel, err,
				  "has a multiboot header without load addresses and is not an ELF "
				  "file either");
	if (boot_elf_parse(job, &elf, err) < 0)
		return -1;
	*end = elf.end;
	*entry = boot_elf_entry(&elf);
	if (!*entry)
		return boot_error(&job->kernel, err,
				  "is a broken ELF file: its entry %#llx is not in what is loaded",
				  (unsigned long long)elf.entry);
	return boot_elf_load(job, &elf, err);
}

static int load_module(struct boot_job *job, const struct boot_module *from, uint64_t *next,
		       struct multiboot_module *to, struct error **err)
{
	struct boot_image image = { .role = "module", .name = from->name, .fd = from->fd };
	uint64_t start = ALIGN_UP(*next, MODULE_ALIGN);

	if (boot_image_open(&image, err) < 0)
		return -1;
	if (image.size > job->gm->low_size || start > job->gm->low_size - image.size)
		return boot_no_room(job, &image, start + image.size, err);
	*to = (struct multiboot_module){ .start = start, .end = start + image.size };
	*next = to->end;
	if (image.size && boot_image_load(job, &image, 0, start, image.size, err) < 0)
		return -1;
	return boot_add_string(job, "arguments of a module", from->args, "", &to->string, err);
}

static int load_modules(struct boot_job *job, uint64_t kernel_end, struct multiboot_info *info,
			struct error **err)
{
	const struct boot_config *config = job->config;
	const struct boot_module initrd = { config->initrd_fd, config->initrd_name,
					    config->initrd_name };
	const struct boot_module *modules = config->n_modules ? config->modules : &initrd;
	unsigned n = config->n_modules ? config->n_modules : config->initrd_fd >= 0;
	struct multiboot_module *list = gmem_slice(job->gm, BOOT_MODULES_GPA, BOOT_MODULES_SIZE);
	uint64_t next = kernel_end;

	for (unsigned i = 0; i < n; i++)
		if (load_module(job, &modules[i], &next, &list[i], err) < 0)
			return -1;
	info->flags |= INFO_MODS;
	info->mods_count = n;
	info->mods_addr = BOOT_MODULES_GPA;
	return 0;
}

static void fill_memory(const struct boot_job *job, struct multiboot_info *info)
{
	struct multiboot_mmap *map = gmem_slice(job->gm, BOOT_MAP_GPA, BOOT_MAP_SIZE);
	const struct boot_config *config = job->config;

	for (unsigned i = 0; i < config->n_map; i++)
		map[i] = (struct multiboot_mmap){
			.size = sizeof(*map) - sizeof(map->size),
			.addr = config->map[i].base,
			.len = config->map[i].size,
			.type = config->map[i].type,
		};
	info->flags |= INFO_MEMORY | INFO_MEM_MAP;
	info->mem_lower = BOOT_BASE_MEMORY_KIB;
	info->mem_upper = (job->gm->low_size - MIB) / KIB;
	info->mmap_length = config->n_map * sizeof(*map);
	info->mmap_addr = BOOT_MAP_GPA;
}

static int fill_strings(struct boot_job *job, struct multiboot_info *info, struct error **err)
{
	info->flags |= INFO_CMDLINE | INFO_LOADER_NAME;
	if (boot_add_string(job, "command line", job->kernel.name, job->cmdline, &info->cmdline,
			    err) < 0)
		return -1;
	return boot_add_string(job, "loader's name", "revirter", "", &info->boot_loader_name, err);
}

int boot_multiboot_load(struct boot_job *job, struct boot_entry *entry, struct error **err)
{
	struct multiboot_info *info = gmem_slice(job->gm, BOOT_INFO_GPA, sizeof(*info));
	struct multiboot_header h = {};
	uint64_t end, at = find_header(job, &h);

	if (h.flags & HEADER_FLAGS_REQUIRED & ~HEADER_FLAGS_KNOWN)
		return boot_error(&job->kernel, err,
				  "asks for multiboot features %#x, which revirter does not have",
				  h.flags & HEADER_FLAGS_REQUIRED & ~HEADER_FLAGS_KNOWN);
	entry->rip = h.entry_addr;
	if (h.flags & HEADER_FLAG_ADDRESSES ? load_flat(job, &h, at, &end, err) < 0
					    : load_elf(job, &end, &entry->rip, err) < 0)
		return -1;
	info->flags = INFO_BOOTDEV;
	info->boot_device = BOOTDEV_FIRST_DISK;
	fill_memory(job, info);
	if (fill_strings(job, info, err) < 0 || load_modules(job, end, info, err) < 0)
		return -1;
	entry->rax = LOADER_MAGIC;
	entry->rbx = BOOT_INFO_GPA;
	return 0;
}

/* Copies up to a comma of its own; ",," stands for one in the text. */
static char *take_element(const char **list)
{
	const char *from = *list;
	char *element = xcalloc(1, strlen(from) + 1), *to = element;

	while (*from == ' ')
		from++;
	while (*from && !(from[0] == ',' && from[1] != ',')) {
		if (*from == ',')
			from++;
		*to++ = *from++;
	}
	*list = *from ? from + 1 : NULL;
	return element;
}

void boot_next_module(const char **list, char **args, char **name)
{
	*args = take_element(list);
	*name = xcalloc(1, strlen(*args) + 1);
	memcpy(*name, *args, strcspn(*args, " "));
}
