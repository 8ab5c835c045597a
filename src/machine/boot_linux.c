/*
 * A bzImage, by Linux's 64-bit boot protocol, or its 32-bit one for a kernel without a 64-bit entry
 * (Linux Documentation/arch/x86/boot.rst).
 *
 * The file is a real-mode part of setup_sects sectors, which begins with the setup header and is
 * not run, and the rest, which is loaded at the address the kernel prefers. The kernel decompresses
 * itself in the init_size bytes from there on, so the initrd goes to the top of low RAM, out of the
 * way. The zero page (struct boot_params) carries everything else.
 */
#include "machine/boot_loader.h"

#include "base/error.h"
#include "base/util.h"

#include <asm/bootparam.h>
#include <stddef.h>
#include <string.h>

#define HEADER_OFFSET      0x1f1
#define BOOT_FLAG          0xaa55
#define HEADER_MAGIC       0x53726448 /* "HdrS" */
#define SECTOR             512
#define PARAGRAPH          16
#define OLDEST_VERSION     0x0206 /* cmdline_size; Linux 2.6.22 */
#define PREF_ADDRESS_SINCE 0x020a /* with init_size */
#define XLOADFLAGS_SINCE   0x020c
#define LOADER_UNDEFINED   0xff
#define ENTRY_64           0x200

_Static_assert(offsetof(struct boot_params, hdr) == HEADER_OFFSET, "zero page layout");
_Static_assert(BOOT_INFO_SIZE == sizeof(struct boot_params), "the zero page is a page");
_Static_assert(BOOT_MAX_RANGES == E820_MAX_ENTRIES_ZEROPAGE, "the zero page holds every range");

/* What of the header matters here, checked. */
struct plan {
	struct setup_header hdr;
	uint64_t file_offset, load_size; /* of the protected-mode part */
	uint64_t gpa;                    /* where it goes */
	uint64_t end;                    /* of the memory the kernel starts up in */
	uint64_t initrd_limit;
};

bool boot_linux_match(const struct boot_job *job)
{
	uint16_t flag;
	uint32_t magic;

	if (job->head_size < 2 * SECTOR)
		return false;
	memcpy(&flag, job->head + offsetof(struct boot_params, hdr.boot_flag), sizeof(flag));
	memcpy(&magic, job->head + offsetof(struct boot_params, hdr.header), sizeof(magic));
	return flag == BOOT_FLAG && magic == HEADER_MAGIC;
}

/* The header ends where its own jump instruction leads to; what is beyond is the kernel's code. */
static void read_header(const struct boot_job *job, struct setup_header *hdr)
{
	size_t jump = offsetof(struct boot_params, hdr.header);
	size_t size = jump + job->head[jump - 1] - HEADER_OFFSET;

	memset(hdr, 0, sizeof(*hdr));
	memcpy(hdr, job->head + HEADER_OFFSET, MIN(size, sizeof(*hdr)));
}

static int check_version(const struct boot_job *job, const struct setup_header *hdr,
			 struct error **err)
{
	if (hdr->version < OLDEST_VERSION)
		return boot_error(&job->kernel, err,
				  "speaks boot protocol %u.%02u, and 2.06 (Linux 2.6.22) is the "
				  "oldest supported",
				  hdr->version >> 8, hdr->version & 0xff);
	if (!(hdr->loadflags & LOADED_HIGH))
		return boot_error(&job->kernel, err,
				  "is a zImage, to be loaded low: build a bzImage");
	return 0;
}

static int plan_file(const struct boot_job *job, struct plan *plan, struct error **err)
{
	unsigned setup_sects = plan->hdr.setup_sects ? plan->hdr.setup_sects : 4;
	uint64_t promised = (uint64_t)plan->hdr.syssize * PARAGRAPH;

	plan->file_offset = (setup_sects + 1) * SECTOR;
	if (plan->file_offset >= job->kernel.size ||
	    promised > ALIGN_UP(job->kernel.size - plan->file_offset, PARAGRAPH))
		return boot_error(&job->kernel, err,
				  "is truncated: its header promises %llu bytes, the file has %llu",
				  (unsigned long long)(plan->file_offset + promised),
				  (unsigned long long)job->kernel.size);
	/* What follows what is promised, such as a signature, is not for memory. */
	plan->load_size = job->kernel.size - plan->file_offset;
	if (promised)
		plan->load_size = MIN(plan->load_size, promised);
	return 0;
}

/*
 * Not below the preferred address, however little RAM there is: a relocatable kernel moves itself
 * up to it ("pref_address").
 */
static int plan_memory(const struct boot_job *job, struct plan *plan, struct error **err)
{
	const struct setup_header *hdr = &plan->hdr;
	uint64_t need = plan->load_size,
		 align = hdr->relocatable_kernel ? hdr->kernel_alignment : 1;

	plan->gpa = BOOT_KERNEL_MIN_GPA;
	if (hdr->version >= PREF_ADDRESS_SINCE) {
		plan->gpa = hdr->pref_address;
		need = MAX(need, hdr->init_size);
	}
	if (!align || (align & (align - 1)))
		return boot_error(&job->kernel, err, "has a broken header: its alignment is %#llx",
				  (unsigned long long)align);
	if (plan->gpa < BOOT_KERNEL_MIN_GPA || plan->gpa > UINT32_MAX)
		return boot_error(&job->kernel, err,
				  "has a broken header: it wants to be loaded at %#llx",
				  (unsigned long long)plan->gpa);
	/* It moves up to a multiple of its alignment before it needs that much. */
	plan->end = ALIGN_UP(plan->gpa, align) + need;
	if (plan->end > job->gm->low_size)
		return boot_no_room(job, &job->kernel, plan->end, err);
	plan->initrd_limit = (uint64_t)hdr->initrd_addr_max + 1;
	return 0;
}

static int check_cmdline(const struct boot_job *job, const struct setup_header *hdr,
			 struct error **err)
{
	size_t len = strlen(job->cmdline);

	if (len > hdr->cmdline_size)
		return boot_error(&job->kernel, err,
				  "takes a command line of at most %u bytes, and -append has %zu",
				  hdr->cmdline_size, len);
	return 0;
}

static void fill_zero_page(const struct boot_job *job, const struct plan *plan, uint32_t cmdline,
			   uint64_t initrd_gpa, uint64_t initrd_size)
{
	struct boot_params *zero = gmem_slice(job->gm, BOOT_INFO_GPA, sizeof(*zero));
	const struct boot_config *config = job->config;

	zero->hdr = plan->hdr;
	zero->hdr.type_of_loader = LOADER_UNDEFINED;
	zero->hdr.setup_data = 0;
	zero->hdr.code32_start = plan->gpa;
	zero->hdr.cmd_line_ptr = cmdline;
	zero->hdr.ramdisk_image = initrd_gpa;
	zero->hdr.ramdisk_size = initrd_size;
	zero->acpi_rsdp_addr = config->rsdp_gpa;
	zero->alt_mem_k = (job->gm->low_size - MIB) / KIB;
	zero->e820_entries = config->n_map;
	for (unsigned i = 0; i < config->n_map; i++)
		zero->e820_table[i] = (struct boot_e820_entry){
			.addr = config->map[i].base,
			.size = config->map[i].size,
			.type = config->map[i].type,
		};
}

static bool has_64bit_entry(const struct setup_header *hdr)
{
	return hdr->version >= XLOADFLAGS_SINCE && (hdr->xloadflags & XLF_KERNEL_64);
}

int boot_linux_load(struct boot_job *job, struct boot_entry *entry, struct error **err)
{
	struct plan plan;
	struct boot_image initrd;
	uint64_t initrd_gpa;
	uint32_t cmdline;

	read_header(job, &plan.hdr);
	if (check_version(job, &plan.hdr, err) < 0 || check_cmdline(job, &plan.hdr, err) < 0 ||
	    plan_file(job, &plan, err) < 0 || plan_memory(job, &plan, err) < 0 ||
	    boot_initrd_open(job, &initrd, err) < 0)
		return -1;
	if (boot_image_load(job, &job->kernel, plan.file_offset, plan.gpa, plan.load_size, err) < 0)
		return -1;
	if (boot_initrd_load(job, &initrd, plan.end, plan.initrd_limit, &initrd_gpa, err) < 0)
		return -1;
	if (boot_add_string(job, "command line", job->cmdline, "", &cmdline, err) < 0)
		return -1;
	fill_zero_page(job, &plan, cmdline, initrd_gpa, initrd.size);
	entry->rsi = BOOT_INFO_GPA;
	entry->long_mode = has_64bit_entry(&plan.hdr);
	entry->rip = plan.gpa + (entry->long_mode ? ENTRY_64 : 0);
	return 0;
}
