/* What pci.c (functions) and pci_host.c (buses and the host bridge) share. */
#ifndef REVIRT_MACHINE_PCI_INTERNAL_H
#define REVIRT_MACHINE_PCI_INTERNAL_H

#include "machine/pci.h"

struct bus *pci_space(struct pci_bus *bus, bool io);
void pci_unplug(struct pci_device *dev);
void pci_update_mappings(struct pci_device *dev);
void pci_set_bar_address(struct pci_device *dev, unsigned n, uint64_t address);
/* offset + size <= PCI_CONFIG_SIZE, size 1, 2 or 4. With the host's lock held. */
void pci_config_write(struct pci_device *dev, unsigned offset, unsigned size, uint32_t value);
uint32_t pci_config_read(struct pci_device *dev, unsigned offset, unsigned size);

#endif
