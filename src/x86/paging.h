/*
 * Page tables of long mode (Intel SDM vol. 3 §4.5; APM vol. 2 §5.3). Freestanding.
 */
#ifndef REVIRT_X86_PAGING_H
#define REVIRT_X86_PAGING_H

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

#endif
