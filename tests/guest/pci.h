/* PCI from a guest's side: configuration by ports and by ECAM, finding functions, BARs. */
#ifndef GUEST_PCI_H
#define GUEST_PCI_H

#include "rt.h"

#define PCI_ECAM_BASE      0xb0000000u
#define PCI_COMMAND        0x04
#define PCI_COMMAND_IO     1
#define PCI_COMMAND_MEMORY 2
#define PCI_COMMAND_MASTER 4
#define PCI_HEADER_TYPE    0x0e
#define PCI_BAR0           0x10
#define PCI_SUBSYSTEM      0x2e
#define PCI_CAPABILITIES   0x34
#define PCI_CAP_VENDOR     0x09
#define PCI_CAP_MSIX       0x11

/* A function: bus << 8 | slot << 3 | function. */
typedef uint16_t pci_t;

uint32_t pci_read(pci_t fn, unsigned reg, unsigned size);
void pci_write(pci_t fn, unsigned reg, unsigned size, uint32_t value);
static inline uint32_t pci_ecam(pci_t fn, unsigned reg)
{
	return PCI_ECAM_BASE + ((uint32_t)fn << 12) + reg;
}

/* The next function at or after fn that is there; false past the last of the first buses. */
bool pci_next(pci_t *fn);
/* The next capability `id` after `after` (0: the first); 0 when there is none. */
unsigned pci_find_cap(pci_t fn, unsigned id, unsigned after);
/*
 * Where BAR n is, moved below 4 GiB if it is not there, with decoding on; *size in bytes (may be
 * NULL). 0: there is no such BAR.
 */
uint32_t pci_bar(pci_t fn, unsigned n, uint32_t *size);
/* A free range of memory-mapped addresses, for moving BARs. */
uint32_t pci_window(uint32_t size);

#endif
