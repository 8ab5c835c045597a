/*
 * Virtio over PCI, modern (§4.1): what a virtio device's -device NAME-pci is plugged in with.
 *
 * One 64-bit BAR (4) holds common configuration, ISR, device configuration and notification area,
 * one page each and one notify register a queue (notify_off_multiplier 4); BAR 1 holds MSI-X, as in
 * QEMU. All of it may also be reached through the PCI configuration access capability.
 */
#ifndef REVIRT_VIRTIO_PCI_H
#define REVIRT_VIRTIO_PCI_H

#include "machine/machine.h"
#include "machine/pci.h"
#include "virtio/virtio.h"

struct virtio_pci {
	struct device dev; /* first: what the device's class sees */
	struct pci_device pci;
	struct virtio_device *vd;
	char *id;
	uint8_t cfg_cap; /* where the PCI configuration access capability is */
	/*
	 * Registers of the common configuration structure, §4.1.4.3; a lock orders accesses of
	 * several vCPUs. The loop's thread never takes it: it is held during loop_call().
	 */
	pthread_mutex_t lock;
	uint32_t device_feature_select, driver_feature_select;
	uint16_t queue_select;
	_Atomic uint16_t config_vector;
	_Atomic uint16_t *queue_vectors;
	/* Without MSI-X: ISR and INTx change together. */
	pthread_mutex_t isr_lock;
	uint8_t isr;
};

/* Properties all virtio PCI devices share: vectors, iommu_platform, disable-legacy, disable-modern,
 * ... For another default of vectors than one a queue and one for the configuration, a device's own
 * table has an entry of that name, with .def. */
extern const struct prop virtio_pci_props[];

/*
 * Plugs vd (after virtio_init) into the bus and slot its properties name. vpci->dev.class is set
 * before. class_code as in QEMU: 0x010000 for blk, 0x020000 net, 0x078000 console, 0x00ff00 rng and
 * balloon. On failure nothing is left plugged; vd stays the caller's.
 */
int virtio_pci_plug(struct virtio_pci *vpci, struct machine *machine, const struct props *props,
		    struct virtio_device *vd, uint32_t class_code, struct error **err);
/* For the device classes' own reset, pause, resume and destroy. */
void virtio_pci_reset(struct device *dev);
void virtio_pci_pause(struct device *dev);
void virtio_pci_resume(struct device *dev);
/* Before virtio_destroy(). Nothing to do for one that is not plugged. */
void virtio_pci_unplug(struct virtio_pci *vpci);

#endif
