/*
 * Virtio over PCI, modern (§4.1): what a virtio device's -device NAME-pci is plugged in with.
 *
 * One 64-bit BAR (4) holds common configuration, ISR, device configuration and notification area,
 * one page each and one notify register a queue (notify_off_multiplier 4); BAR 1 holds MSI-X, as in
 * QEMU. Common configuration may also be reached through the PCI configuration access capability.
 */
#ifndef REVIRT_VIRTIO_PCI_H
#define REVIRT_VIRTIO_PCI_H

#include "machine/pci.h"
#include "virtio/virtio.h"

struct virtio_pci {
	struct device dev; /* first: what the device's class sees */
	struct pci_device pci;
	struct virtio_device *vd;
	/* registers of the common configuration structure, §4.1.4.3 */
	uint32_t device_feature_select, driver_feature_select;
	uint64_t driver_features;
	uint16_t config_vector, queue_select;
	uint16_t *queue_vectors;
	_Atomic uint8_t isr;
};

/* Properties all virtio PCI devices share: vectors, iommu_platform, disable-legacy, disable-modern,
 * ... */
extern const struct prop virtio_pci_props[];

/*
 * Plugs vd (after virtio_init) into the bus and slot its properties name. class_code as in QEMU:
 * 0x010000 for blk, 0x020000 net, 0x078000 console, 0x00ff00 rng and balloon.
 */
int virtio_pci_plug(struct virtio_pci *vpci, struct machine *machine, const struct props *props,
		    struct virtio_device *vd, uint32_t class_code, struct error **err);
/* For the device classes' own reset, pause, resume and destroy. */
void virtio_pci_reset(struct device *dev);
void virtio_pci_pause(struct device *dev);
void virtio_pci_resume(struct device *dev);
void virtio_pci_unplug(struct virtio_pci *vpci);

#endif
