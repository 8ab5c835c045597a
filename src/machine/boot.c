/*
 * Direct boot: see boot.h.
 *
 * The beginning of the kernel file is read once; a loader recognizes its kind of kernel in it,
 * reads the rest of the file straight into guest memory, leaves what its protocol passes (zero
 * page, start info, ...) in low memory, and says in struct boot_entry how it wants the processor.
 * What is common is here: telling files apart, reading them, finding room, and making the processor
 * state.
 *
 * RAM may hold anything at a reset, so all that must be zero is written. Only RAM below 4 GiB is
 * used, which is one region from 0 on.
 */
#include "machine/boot_loader.h"

#include "base/error.h"
#include "base/util.h"
#include "hav.h"
#include "machine/machine.h"
#include "x86/paging.h"
#include "x86/registers.h"
#include "x86/segments.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define PAGE_SIZE    4096
#define IDENTITY_GIB 4

/* In QEMU's order: an image may be several kinds at once (Xen is multiboot and PVH). */
static const struct {
	bool (*match)(const struct boot_job *job);
	int (*load)(struct boot_job *job, struct boot_entry *entry, struct error **err);
} kinds[] = {
	[BOOT_LINUX] = { boot_linux_match, boot_linux_load },
	[BOOT_MULTIBOOT] = { boot_multiboot_match, boot_multiboot_load },
	[BOOT_PVH] = { boot_pvh_match, boot_pvh_load },
};

/* --- Files --- */

int boot_error(const struct boot_image *image, struct error **err, const char *fmt, ...)
{
	char message[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(message, sizeof(message), fmt, ap);
	va_end(ap);
	error_set(err, "%s '%s' %s", image->role, image->name, message);
	return -1;
}

/* #syscalls:main fstat newfstatat */
int boot_image_open(struct boot_image *image, struct error **err)
{
	struct stat st;

	if (fstat(image->fd, &st) < 0) {
		error_set_errno(err, errno, "cannot look at %s '%s'", image->role, image->name);
		return -1;
	}
	if (!S_ISREG(st.st_mode))
		return boot_error(image, err, "is a %s: give a regular file",
				  S_ISDIR(st.st_mode) ? "directory" : "device or pipe");
	image->size = st.st_size;
	return 0;
}

/* #syscalls:main pread64 */
int boot_image_read(const struct boot_image *image, uint64_t offset, void *buf, uint64_t len,
		    struct error **err)
{
	uint64_t done = 0;

	if (offset > image->size || len > image->size - offset)
		return boot_error(image, err,
				  "is truncated: its headers speak of %llu bytes at %llu, the file "
				  "ends at %llu",
				  (unsigned long long)len, (unsigned long long)offset,
				  (unsigned long long)image->size);
	while (done < len) {
		ssize_t n = pread(image->fd, (char *)buf + done, len - done, offset + done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			error_set_errno(err, errno, "cannot read %s '%s'", image->role,
					image->name);
			return -1;
		}
		if (n == 0)
			return boot_error(image, err, "became shorter while it was read");
		done += n;
	}
	return 0;
}

int boot_image_load(const struct boot_job *job, const struct boot_image *image, uint64_t offset,
		    uint64_t gpa, uint64_t len, struct error **err)
{
	void *host = gmem_slice(job->gm, gpa, len);

	if (!host)
		return boot_no_room(job, image, gpa + len, err);
	if (boot_image_read(image, offset, host, len, err) < 0)
		return -1;
	gmem_written(job->gm, gpa, len);
	return 0;
}

/* --- Room in guest memory --- */

int boot_no_room(const struct boot_job *job, const struct boot_image *image, uint64_t end,
		 struct error **err)
{
	unsigned long long need = ALIGN_UP(end, MIB) / MIB, have = job->gm->low_size / MIB;

	if (job->gm->high_size || end > MACHINE_LOW_RAM_MAX)
		return boot_error(image, err,
				  "needs memory up to %llu MiB, more than can lie below 4 GiB "
				  "(%llu MiB): use a smaller one",
				  need, MACHINE_LOW_RAM_MAX / MIB);
	return boot_error(image, err,
			  "needs memory up to %llu MiB and the guest has %llu MiB: use -m %lluM or "
			  "more",
			  need, have, need);
}

int boot_initrd_open(const struct boot_job *job, struct boot_image *initrd, struct error **err)
{
	*initrd = (struct boot_image){ .role = "initrd",
				       .name = job->config->initrd_name,
				       .fd = job->config->initrd_fd };
	return initrd->fd < 0 ? 0 : boot_image_open(initrd, err);
}

int boot_initrd_load(const struct boot_job *job, const struct boot_image *initrd, uint64_t floor,
		     uint64_t limit, uint64_t *gpa, struct error **err)
{
	uint64_t top = MIN(limit, job->gm->low_size);

	*gpa = 0;
	if (!initrd->size)
		return 0;
	floor = ALIGN_UP(floor, PAGE_SIZE);
	if (floor > top || initrd->size > ALIGN_DOWN(top - floor, PAGE_SIZE)) {
		if (limit > job->gm->low_size)
			return boot_no_room(job, initrd, floor + initrd->size, err);
		return boot_error(initrd, err,
				  "of %llu MiB does not fit between the kernel's end at %llu MiB "
				  "and the kernel's limit of %llu MiB: use a smaller one",
				  (unsigned long long)(initrd->size / MIB),
				  (unsigned long long)(floor / MIB),
				  (unsigned long long)(limit / MIB));
	}
	*gpa = ALIGN_DOWN(top - initrd->size, PAGE_SIZE);
	return boot_image_load(job, initrd, 0, *gpa, initrd->size, err);
}

void boot_zero(const struct boot_job *job, uint64_t gpa, uint64_t len)
{
	char *at = gmem_slice(job->gm, gpa, len);
	uint64_t left = len;

	while (left) {
		size_t n = MIN(left, PAGE_SIZE - (uintptr_t)at % PAGE_SIZE);

		/* Reading fresh memory maps the zero page; only writing would allocate some. */
		if (at[0] || memcmp(at, at + 1, n - 1) != 0)
			memset(at, 0, n);
		at += n;
		left -= n;
	}
	gmem_written(job->gm, gpa, len);
}

int boot_add_string(struct boot_job *job, const char *what, const char *first, const char *second,
		    uint32_t *gpa, struct error **err)
{
	size_t room = BOOT_STRINGS_GPA + BOOT_STRINGS_SIZE - job->strings_end;
	char *to = gmem_slice(job->gm, job->strings_end, room);
	int len = snprintf(to, room, "%s%s%s", first, *first && *second ? " " : "", second);

	if (len < 0 || (size_t)len >= room)
		return boot_error(&job->kernel, err,
				  "can be given %u bytes of command lines, and the %s of %d bytes "
				  "is beyond that: use a shorter one",
				  BOOT_STRINGS_SIZE, what, len);
	*gpa = job->strings_end;
	job->strings_end += len + 1;
	return 0;
}

unsigned boot_standard_map(const struct gmem *gm, uint64_t ecam_base,
			   struct boot_range map[BOOT_STANDARD_RANGES])
{
	unsigned n = 0;

	map[n++] = (struct boot_range){ 0, BOOT_BASE_MEMORY_KIB * KIB, BOOT_RANGE_RAM };
	map[n++] = (struct boot_range){ 0xe0000, 0x20000, BOOT_RANGE_RESERVED }; /* ACPI tables */
	if (gm->low_size > MIB)
		map[n++] = (struct boot_range){ MIB, gm->low_size - MIB, BOOT_RANGE_RAM };
	/* Linux takes ECAM at once when it is reserved here, else only after reading the DSDT. */
	if (ecam_base)
		map[n++] = (struct boot_range){ ecam_base, 256 * MIB, BOOT_RANGE_RESERVED };
	/* Where KVM on Intel processors may put its TSS and page table. */
	map[n++] = (struct boot_range){ 0xfeffc000, 0x4000, BOOT_RANGE_RESERVED };
	if (gm->high_size)
		map[n++] = (struct boot_range){ 4 * GIB, gm->high_size, BOOT_RANGE_RAM };
	return n;
}

/* --- Low memory --- */

/*
 * Kernels look into the BIOS data area for the end of base memory, to put trampolines below it: Xen
 * would put them at address 0 otherwise.
 */
#define BDA_BASE_MEMORY 0x13 /* KiB, two bytes; the extended area's segment at 0x0e stays 0 */

static void clear_low_memory(const struct gmem *gm)
{
	const uint16_t base_memory = BOOT_BASE_MEMORY_KIB;
	uint8_t *bda = gmem_slice(gm, BOOT_BDA_GPA, BOOT_BDA_SIZE);

	memset(bda, 0, BOOT_BDA_SIZE);
	memcpy(bda + BDA_BASE_MEMORY, &base_memory, sizeof(base_memory));
	memset(gmem_slice(gm, BOOT_INFO_GPA, BOOT_INFO_SIZE), 0, BOOT_INFO_SIZE);
}

/* --- Telling files apart --- */

/* What people give by mistake. */
static const struct {
	unsigned len;
	const char *magic, *text;
} mistakes[] = {
	{ 2, "\x1f\x8b", "is compressed with gzip: decompress it first" },
	{ 6,
	  "\xfd"
	  "7zXZ",
	  "is compressed with xz: decompress it first" },
	{ 4, "\x28\xb5\x2f\xfd", "is compressed with zstd: decompress it first" },
	{ 3, "BZh", "is compressed with bzip2: decompress it first" },
	{ 4, "QFI\xfb", "is a qcow2 disk image: give it with -hda" },
	{ 6, "070701", "is a cpio archive: give it with -initrd" },
	{ 2, "MZ",
	  "is an EFI program: a direct boot takes a bzImage, an ELF vmlinux with "
	  "CONFIG_PVH, or a multiboot image" },
};

static int unknown_kind(const struct boot_job *job, struct error **err)
{
	if (job->head_size == 0)
		return boot_error(&job->kernel, err, "is empty");
	for (unsigned i = 0; i < ARRAY_SIZE(mistakes); i++)
		if (job->head_size >= mistakes[i].len &&
		    memcmp(job->head, mistakes[i].magic, mistakes[i].len) == 0)
			return boot_error(&job->kernel, err, "%s", mistakes[i].text);
	return boot_error(&job->kernel, err,
			  "is not a kernel: give a bzImage, an ELF vmlinux with CONFIG_PVH, or a "
			  "multiboot image");
}

static int open_kernel(struct boot_job *job, int fd, const char *name, enum boot_kind *kind,
		       struct error **err)
{
	job->kernel = (struct boot_image){ .role = "kernel", .name = name, .fd = fd };
	if (boot_image_open(&job->kernel, err) < 0)
		return -1;
	job->head_size = MIN(job->kernel.size, sizeof(job->head));
	if (boot_image_read(&job->kernel, 0, job->head, job->head_size, err) < 0)
		return -1;
	for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++) {
		if (kinds[i].match(job)) {
			*kind = i;
			return 0;
		}
	}
	return unknown_kind(job, err);
}

int boot_identify(int kernel_fd, const char *kernel_name, enum boot_kind *kind, struct error **err)
{
	struct boot_job job = {};

	return open_kernel(&job, kernel_fd, kernel_name, kind, err);
}

/* --- The processor --- */

/* Linux wants these two selectors (boot.rst, "32-bit Boot Protocol"); the rest don't mind. */
enum { SELECTOR_CODE = 0x10, SELECTOR_DATA = 0x18, SELECTOR_TSS = 0x20 };

struct table {
	uint64_t null[2], code, data, tss[2];
};

static struct hav_segment flat_segment(uint16_t selector, uint16_t attr)
{
	return (struct hav_segment){ .selector = selector, .attr = attr, .limit = 0xffffffff };
}

static void set_segments(const struct gmem *gm, struct hav_sregs *sregs, bool long_mode)
{
	uint16_t code = long_mode ? SEG_ATTR_CODE64 : SEG_ATTR_CODE32;
	struct table *gdt = gmem_slice(gm, BOOT_GDT_GPA, sizeof(*gdt));

	*gdt = (struct table){
		.code = segment_descriptor(0, 0xffffffff, code),
		.data = segment_descriptor(0, 0xffffffff, SEG_ATTR_DATA),
		.tss = { segment_descriptor(0, 0x67, SEG_ATTR_TSS) },
	};
	sregs->gdt = (struct hav_table){ .base = BOOT_GDT_GPA, .limit = sizeof(*gdt) - 1 };
	sregs->idt = (struct hav_table){};
	sregs->cs = flat_segment(SELECTOR_CODE, code);
	sregs->ds = flat_segment(SELECTOR_DATA, SEG_ATTR_DATA);
	sregs->es = sregs->fs = sregs->gs = sregs->ss = sregs->ds;
	sregs->tr = (struct hav_segment){ .selector = SELECTOR_TSS,
					  .attr = SEG_ATTR_TSS,
					  .limit = 0x67 };
	sregs->ldt = (struct hav_segment){ .attr = HAV_SEGMENT_UNUSABLE };
}

static void set_modes(const struct gmem *gm, struct hav_sregs *sregs, bool long_mode)
{
	sregs->cr0 = CR0_PE | CR0_ET;
	sregs->cr2 = sregs->cr3 = sregs->cr4 = sregs->cr8 = sregs->efer = 0;
	sregs->apic_base = MACHINE_LAPIC_BASE | APIC_BASE_EN | APIC_BASE_BSP;
	if (!long_mode)
		return;
	paging_identity_map(gmem_slice(gm, BOOT_PAGING_GPA, PAGING_IDENTITY_SIZE(IDENTITY_GIB)),
			    BOOT_PAGING_GPA, IDENTITY_GIB);
	sregs->cr3 = BOOT_PAGING_GPA;
	sregs->cr4 = CR4_PAE;
	sregs->efer = EFER_LME | EFER_LMA;
	sregs->cr0 |= CR0_PG;
}

/*
 * What kernels take for granted of a processor that firmware has started: caching is on (memory
 * would be uncached, and Linux gives up on PAT, with the MTRRs off) and so are fast string moves.
 */
static const struct hav_msr firmware_msrs[] = {
	{ MSR_IA32_MTRR_DEF_TYPE, MTRR_DEF_TYPE_E | MTRR_TYPE_WRITE_BACK },
	{ MSR_IA32_MISC_ENABLE, MISC_ENABLE_FAST_STRING },
};

static void set_state(const struct gmem *gm, const struct boot_entry *entry, struct hav_state *bsp)
{
	set_segments(gm, &bsp->sregs, entry->long_mode);
	set_modes(gm, &bsp->sregs, entry->long_mode);
	bsp->regs = (struct hav_regs){ .rip = entry->rip,
				       .rax = entry->rax,
				       .rbx = entry->rbx,
				       .rsi = entry->rsi,
				       .rflags = RFLAGS_ONE };
	memcpy(bsp->msrs, firmware_msrs, sizeof(firmware_msrs));
	bsp->n_msrs = ARRAY_SIZE(firmware_msrs);
	bsp->version = HAV_API_VERSION;
	bsp->groups = HAV_STATE_REGS | HAV_STATE_SREGS | HAV_STATE_MSRS;
}

int boot_load(const struct gmem *gm, const struct boot_config *config, struct hav_state *bsp,
	      struct error **err)
{
	struct boot_job job = { .gm = gm,
				.config = config,
				.cmdline = config->cmdline ? config->cmdline : "",
				.strings_end = BOOT_STRINGS_GPA };
	struct boot_entry entry = {};
	enum boot_kind kind;

	if (open_kernel(&job, config->kernel_fd, config->kernel_name, &kind, err) < 0)
		return -1;
	if (gm->low_size <= BOOT_KERNEL_MIN_GPA)
		return boot_no_room(&job, &job.kernel, BOOT_KERNEL_MIN_GPA + job.kernel.size, err);
	clear_low_memory(gm);
	if (kinds[kind].load(&job, &entry, err) < 0)
		return -1;
	set_state(gm, &entry, bsp);
	/* All that was put together here and there lies below the kernel. */
	gmem_written(gm, 0, BOOT_KERNEL_MIN_GPA);
	return 0;
}
