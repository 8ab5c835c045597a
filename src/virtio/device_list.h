/* The device classes of this room, by name: what a -device option may plug in. */
#ifndef REVIRT_VIRTIO_DEVICE_LIST_H
#define REVIRT_VIRTIO_DEVICE_LIST_H

#include "machine/device.h"

extern const struct device_class virtconsole_class;        /* "virtconsole" */
extern const struct device_class virtio_balloon_pci_class; /* "virtio-balloon-pci" */
extern const struct device_class virtio_blk_pci_class;     /* "virtio-blk-pci" */
extern const struct device_class virtio_net_pci_class;     /* "virtio-net-pci" */
extern const struct device_class virtio_rng_pci_class;     /* "virtio-rng-pci" */
extern const struct device_class virtio_serial_pci_class;  /* "virtio-serial-pci" */
extern const struct device_class virtserialport_class;     /* "virtserialport" */

#endif
