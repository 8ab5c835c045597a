/* Page tables: see paging.h. */
#include "x86/paging.h"

#define ENTRIES    (PAGE_TABLE_SIZE / sizeof(uint64_t))
#define LARGE_PAGE ((uint64_t)2 << 20)

void paging_identity_map(void *tables, uint64_t gpa, unsigned gib)
{
	uint64_t *pml4 = tables;
	uint64_t *pdpt = pml4 + ENTRIES;
	uint64_t *pd = pdpt + ENTRIES;

	for (unsigned i = 0; i < ENTRIES; i++) {
		pml4[i] = 0;
		pdpt[i] = i < gib ? (gpa + (2 + i) * PAGE_TABLE_SIZE) | PTE_P | PTE_RW : 0;
	}
	pml4[0] = (gpa + PAGE_TABLE_SIZE) | PTE_P | PTE_RW;
	for (unsigned i = 0; i < gib * ENTRIES; i++)
		pd[i] = i * LARGE_PAGE | PTE_P | PTE_RW | PTE_PS;
}
