/*
 * Page tables (Intel SDM vol. 3 §4.3 to §4.5; APM vol. 2 §5). Freestanding.
 */
#ifndef REVIRT_X86_PAGING_H
#define REVIRT_X86_PAGING_H

#include <stdbool.h>
#include <stdint.h>

#define PTE_P           (1u << 0)
#define PTE_RW          (1u << 1)
#define PTE_PS          (1u << 7) /* a large page: 2 MiB in a page directory */

#define PAGE_TABLE_SIZE 4096

/* Room that paging_identity_map() needs: a PML4, a PDPT and a page directory per GiB. */
#define PAGING_IDENTITY_SIZE(gib) ((2 + (gib)) * PAGE_TABLE_SIZE)

/*
 * Fills tables, which will be seen at physical address gpa (page-aligned), so that the first gib
 * GiB (1 to 512) map to themselves, writable and executable, in pages of 2 MiB, which every
 * processor has. CR3 is gpa.
 */
void paging_identity_map(void *tables, uint64_t gpa, unsigned gib);

/* The registers that say how addresses are translated. */
struct paging_mode {
	uint64_t cr0, cr3, cr4, efer;
};

/* Reads an entry of 4 or 8 bytes at a physical address; false when there is no memory. */
typedef bool paging_read_fn(void *opaque, uint64_t gpa, void *entry, unsigned size);

/*
 * Where a linear address leads, in whichever mode; false when nothing is mapped there. *left: so
 * many bytes from there on lie in the same page, at least 1. As a debugger looks: no access is
 * checked, and no accessed or dirty bit set.
 */
bool paging_look_up(const struct paging_mode *mode, uint64_t linear, paging_read_fn *read,
		    void *opaque, uint64_t *gpa, uint64_t *left);

#endif
