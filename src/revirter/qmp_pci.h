/* query-pci: every function of every bus, as QEMU describes them. */
#ifndef REVIRT_REVIRTER_QMP_PCI_H
#define REVIRT_REVIRTER_QMP_PCI_H

struct json_object;
struct pci_host;

/* An array with the root bus; empty when host is NULL. The caller puts it. */
struct json_object *qmp_describe_pci(struct pci_host *host);

/* "Ethernet controller", or NULL. */
const char *qmp_pci_class_name(unsigned class);

#endif
