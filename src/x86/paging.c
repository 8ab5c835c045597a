/* Page tables: see paging.h. */
#include "x86/paging.h"

#include "x86/registers.h"

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

/* --- Looking up ---- */

#define ADDRESS_MASK  0x000ffffffffff000ull /* bits 12 to 51 of an entry of 8 bytes */
#define CR3_PAE_MASK  0xffffffe0ull
#define CR3_32_MASK   0xfffff000ull
#define PSE36_BITS(e) (((uint64_t)(e) >> 13 & 0xff) << 32)
#define PDPTE_LEVEL   2 /* of PAE paging: an entry there is never a page */

/* Two levels of entries of 4 bytes (§4.3); CR4.PSE makes large pages of 4 MiB. */
static bool look_up_32(const struct paging_mode *mode, uint32_t linear, paging_read_fn *read,
		       void *opaque, uint64_t *gpa, uint64_t *page)
{
	uint32_t entry;

	if (!read(opaque, (mode->cr3 & CR3_32_MASK) + (linear >> 22) * 4, &entry, 4) ||
	    !(entry & PTE_P))
		return false;
	if (entry & PTE_PS && mode->cr4 & CR4_PSE) {
		*page = 1ull << 22;
		*gpa = (entry & 0xffc00000ull) | PSE36_BITS(entry);
		return true;
	}
	if (!read(opaque, (entry & CR3_32_MASK) + (linear >> 12 & 0x3ff) * 4, &entry, 4) ||
	    !(entry & PTE_P))
		return false;
	*page = 1ull << 12;
	*gpa = entry & CR3_32_MASK;
	return true;
}

/* `level` and those below it, of entries of 8 bytes (§4.4, §4.5); level 0 maps pages of 4 KiB. */
static bool look_up_64(uint64_t table, unsigned level, bool pae, uint64_t linear,
		       paging_read_fn *read, void *opaque, uint64_t *gpa, uint64_t *page)
{
	for (;; level--) {
		const unsigned shift = 12 + 9 * level;
		const bool may_be_large = level == 1 || (level == 2 && !pae);
		uint64_t entry;

		if (!read(opaque, table + (linear >> shift & 0x1ff) * 8, &entry, 8) ||
		    !(entry & PTE_P))
			return false;
		if (level == 0 || (may_be_large && entry & PTE_PS)) {
			*page = 1ull << shift;
			*gpa = entry & ADDRESS_MASK & ~(*page - 1);
			return true;
		}
		table = entry & ADDRESS_MASK;
	}
}

static bool is_canonical(uint64_t linear, unsigned levels)
{
	const unsigned unused = 64 - 12 - 9 * levels;

	return (uint64_t)((int64_t)(linear << unused) >> unused) == linear;
}

bool paging_look_up(const struct paging_mode *mode, uint64_t linear, paging_read_fn *read,
		    void *opaque, uint64_t *gpa, uint64_t *left)
{
	const bool long_mode = mode->efer & EFER_LMA;
	const unsigned levels = mode->cr4 & CR4_LA57 ? 5 : 4;
	uint64_t page = 1ull << 12;
	bool found;

	if (!long_mode)
		linear = (uint32_t)linear;
	if (!(mode->cr0 & CR0_PG)) {
		*gpa = linear;
		*left = page - (linear & (page - 1));
		return true;
	}
	if (long_mode)
		found = is_canonical(linear, levels) &&
			look_up_64(mode->cr3 & ADDRESS_MASK, levels - 1, false, linear, read,
				   opaque, gpa, &page);
	else if (mode->cr4 & CR4_PAE)
		found = look_up_64(mode->cr3 & CR3_PAE_MASK, PDPTE_LEVEL, true, linear, read,
				   opaque, gpa, &page);
	else
		found = look_up_32(mode, linear, read, opaque, gpa, &page);
	if (!found)
		return false;
	*gpa |= linear & (page - 1);
	*left = page - (linear & (page - 1));
	return true;
}
