/*
 * What a device is to the machine: a class (one per -device name), and its instances.
 *
 * A device's file exports one `const struct device_class`; revirter's table of classes (devices.c)
 * is where it is found. create() runs before the sandbox closes, on the main thread; reset() runs
 * with all vCPUs paused; pause() and resume() bracket "stop" and "cont".
 */
#ifndef REVIRT_MACHINE_DEVICE_H
#define REVIRT_MACHINE_DEVICE_H

#include "base/props.h"

struct device;
struct machine;

struct device_class {
	const char *name; /* "virtio-blk-pci" */
	const char *bus;  /* "PCI", "ISA", "virtio-serial-bus", "System" */
	const char *desc; /* one line for -device help */
	const struct prop
		*props; /* ends with an entry without a name; id, bus, addr come by `bus` */
	const struct prop
		*more_props; /* those it shares with its kin (virtio_pci_props), or NULL */
	int (*create)(struct machine *machine, const struct props *props, struct device **device,
		      struct error **err);
	void (*reset)(struct device *device); /* may be NULL, as the two below */
	void (*pause)(struct device *device); /* from its return on, guest memory is not touched */
	void (*resume)(struct device *device);
	void (*destroy)(struct device *device);
};

/* The head of every device's own struct. */
struct device {
	const struct device_class *class;
	struct machine *machine;
	char *id; /* may be NULL */
	struct device *next;
};

/* The properties every device of a bus kind has: "bus" and "addr" for PCI; "id" for all. */
const struct prop *device_common_props(const char *bus_kind);

#endif
