/*
 * ELF images, 32 and 64 bit, for the PVH and multiboot loaders (System V ABI, chapter 5).
 *
 * Only program headers count. They are read into one form and checked once: what boot_elf_parse()
 * lets through lies in RAM from 1 MiB on and does not overlap.
 */
#include "machine/boot_loader.h"

#include "base/error.h"
#include "base/util.h"

#include <elf.h>
#include <string.h>

#define MAX_HEADERS   128
#define MAX_NOTE_SIZE (64 * KIB)

bool boot_elf_match(const struct boot_job *job)
{
	return job->head_size >= sizeof(Elf64_Ehdr) && memcmp(job->head, ELFMAG, SELFMAG) == 0;
}

/* The file header, of either class. */
struct header {
	uint16_t machine, phentsize, phnum;
	uint64_t phoff;
};

static struct header read_header(const struct boot_job *job, struct boot_elf *elf)
{
	Elf64_Ehdr h64;
	Elf32_Ehdr h32;

	elf->is64 = job->head[EI_CLASS] == ELFCLASS64;
	if (elf->is64) {
		memcpy(&h64, job->head, sizeof(h64));
		elf->entry = h64.e_entry;
		return (struct header){ h64.e_machine, h64.e_phentsize, h64.e_phnum, h64.e_phoff };
	}
	memcpy(&h32, job->head, sizeof(h32));
	elf->entry = h32.e_entry;
	return (struct header){ h32.e_machine, h32.e_phentsize, h32.e_phnum, h32.e_phoff };
}

static int check_header(const struct boot_job *job, const struct boot_elf *elf,
			const struct header *h, struct error **err)
{
	size_t entry_size = elf->is64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);

	if (job->head[EI_DATA] != ELFDATA2LSB || (h->machine != EM_X86_64 && h->machine != EM_386))
		return boot_error(&job->kernel, err,
				  "is an ELF file for another processor (machine %u): give one for "
				  "x86",
				  h->machine);
	if (h->phentsize != entry_size || h->phnum == 0 || h->phnum > MAX_HEADERS)
		return boot_error(&job->kernel, err,
				  "is an ELF file that can't be loaded: it has %u program headers "
				  "of %u bytes",
				  h->phnum, h->phentsize);
	return 0;
}

static struct boot_elf_segment segment_at(const struct boot_elf *elf, const void *table, unsigned i)
{
	const Elf64_Phdr *p64 = (const Elf64_Phdr *)table + i;
	const Elf32_Phdr *p32 = (const Elf32_Phdr *)table + i;

#define SEGMENT_FROM(p)                                                                \
	(struct boot_elf_segment)                                                      \
	{                                                                              \
		(p)->p_type, (p)->p_flags, (p)->p_offset, (p)->p_filesz, (p)->p_vaddr, \
			(p)->p_paddr, (p)->p_memsz, (p)->p_align                       \
	}
	return elf->is64 ? SEGMENT_FROM(p64) : SEGMENT_FROM(p32);
#undef SEGMENT_FROM
}

static bool overlap(const struct boot_elf_segment *a, const struct boot_elf_segment *b)
{
	return a->paddr < b->paddr + b->memsz && b->paddr < a->paddr + a->memsz;
}

static int check_load(const struct boot_job *job, const struct boot_elf *elf,
		      const struct boot_elf_segment *seg, struct error **err)
{
	uint64_t end;

	if (seg->filesz > seg->memsz || __builtin_add_overflow(seg->paddr, seg->memsz, &end))
		return boot_error(&job->kernel, err,
				  "is a broken ELF file: a segment of %#llx bytes at %#llx has "
				  "%#llx bytes in the file",
				  (unsigned long long)seg->memsz, (unsigned long long)seg->paddr,
				  (unsigned long long)seg->filesz);
	if (seg->paddr < BOOT_KERNEL_MIN_GPA)
		return boot_error(&job->kernel, err,
				  "has a segment at %#llx: kernels can be loaded from 1 MiB on",
				  (unsigned long long)seg->paddr);
	if (end > job->gm->low_size)
		return boot_no_room(job, &job->kernel, end, err);
	for (unsigned i = 0; i < elf->n_segments; i++)
		if (elf->segments[i].type == PT_LOAD && overlap(seg, &elf->segments[i]))
			return boot_error(&job->kernel, err,
					  "is a broken ELF file: its segments at %#llx and %#llx "
					  "overlap",
					  (unsigned long long)elf->segments[i].paddr,
					  (unsigned long long)seg->paddr);
	return 0;
}

int boot_elf_parse(const struct boot_job *job, struct boot_elf *elf, struct error **err)
{
	struct header h = read_header(job, elf);
	Elf64_Phdr table[MAX_HEADERS];

	elf->n_segments = 0;
	elf->end = 0;
	if (check_header(job, elf, &h, err) < 0 ||
	    boot_image_read(&job->kernel, h.phoff, table, (uint64_t)h.phnum * h.phentsize, err) < 0)
		return -1;
	for (unsigned i = 0; i < h.phnum; i++) {
		struct boot_elf_segment seg = segment_at(elf, table, i);

		if (!(seg.type == PT_LOAD && seg.memsz) && !(seg.type == PT_NOTE && seg.filesz))
			continue;
		if (seg.type == PT_LOAD && check_load(job, elf, &seg, err) < 0)
			return -1;
		if (elf->n_segments == BOOT_ELF_MAX_SEGMENTS)
			return boot_error(&job->kernel, err,
					  "is an ELF file with more than %u segments",
					  BOOT_ELF_MAX_SEGMENTS);
		elf->segments[elf->n_segments++] = seg;
		if (seg.type == PT_LOAD)
			elf->end = MAX(elf->end, seg.paddr + seg.memsz);
	}
	return 0;
}

int boot_elf_load(const struct boot_job *job, const struct boot_elf *elf, struct error **err)
{
	for (unsigned i = 0; i < elf->n_segments; i++) {
		const struct boot_elf_segment *seg = &elf->segments[i];

		if (seg->type != PT_LOAD)
			continue;
		if (seg->filesz && boot_image_load(job, &job->kernel, seg->offset, seg->paddr,
						   seg->filesz, err) < 0)
			return -1;
		if (seg->memsz > seg->filesz)
			boot_zero(job, seg->paddr + seg->filesz, seg->memsz - seg->filesz);
	}
	return 0;
}

bool boot_elf_covers(const struct boot_elf *elf, uint64_t gpa)
{
	for (unsigned i = 0; i < elf->n_segments; i++) {
		const struct boot_elf_segment *seg = &elf->segments[i];

		if (seg->type == PT_LOAD && gpa >= seg->paddr && gpa - seg->paddr < seg->memsz)
			return true;
	}
	return false;
}

/* Kernels are linked to run elsewhere than where they start; the entry may be given in either way.
 */
uint64_t boot_elf_entry(const struct boot_elf *elf)
{
	for (unsigned i = 0; i < elf->n_segments; i++) {
		const struct boot_elf_segment *seg = &elf->segments[i];

		if (seg->type == PT_LOAD && (seg->flags & PF_X) && elf->entry >= seg->vaddr &&
		    elf->entry - seg->vaddr < seg->memsz)
			return seg->paddr + (elf->entry - seg->vaddr);
	}
	return boot_elf_covers(elf, elf->entry) ? elf->entry : 0;
}

/* 1: the value was found in the notes. */
static int search_notes(const uint8_t *notes, uint64_t size, uint64_t align, const char *owner,
			uint32_t type, uint64_t *value)
{
	uint64_t at = 0;

	while (size - at >= sizeof(Elf64_Nhdr)) {
		Elf64_Nhdr note; /* the same in both classes */
		uint64_t name = at + sizeof(note), desc;

		memcpy(&note, notes + at, sizeof(note));
		desc = name + ALIGN_UP((uint64_t)note.n_namesz, align);
		at = desc + ALIGN_UP((uint64_t)note.n_descsz, align);
		if (desc > size || note.n_descsz > size - desc)
			return 0;
		if (note.n_type == type && note.n_namesz == strlen(owner) + 1 &&
		    memcmp(notes + name, owner, note.n_namesz) == 0 &&
		    (note.n_descsz == 4 || note.n_descsz == 8)) {
			*value = 0;
			memcpy(value, notes + desc, note.n_descsz);
			return 1;
		}
		if (at > size)
			return 0;
	}
	return 0;
}

int boot_elf_note(const struct boot_job *job, const struct boot_elf *elf, const char *owner,
		  uint32_t type, uint64_t *value, struct error **err)
{
	for (unsigned i = 0; i < elf->n_segments; i++) {
		const struct boot_elf_segment *seg = &elf->segments[i];
		AUTO_FREE uint8_t *notes = NULL;

		if (seg->type != PT_NOTE || seg->filesz > MAX_NOTE_SIZE)
			continue;
		notes = xcalloc(1, seg->filesz);
		if (boot_image_read(&job->kernel, seg->offset, notes, seg->filesz, err) < 0)
			return -1;
		if (search_notes(notes, seg->filesz, seg->align == 8 ? 8 : 4, owner, type, value))
			return 1;
	}
	return 0;
}
