/*
 * The table of device classes. Adding a device touches its own file, its room's device_list.h and
 * one line here.
 */
#include "revirter/devices.h"

#include "base/util.h"
#include "machine/device_list.h"
#include "virtio/device_list.h"

#include <string.h>

const struct device_class *const device_classes[] = {
	&isa_debug_exit_class, &isa_debugcon_class,
	&isa_serial_class,     &pc_testdev_class,
	&pcie_root_port_class, &pvpanic_class,
	&virtconsole_class,    &virtio_balloon_pci_class,
	&virtio_blk_pci_class, &virtio_net_pci_class,
	&virtio_rng_pci_class, &virtio_serial_pci_class,
	&virtserialport_class, NULL,
};

/* QEMU's shorter names. */
static const struct {
	const char *name, *means;
} aliases[] = {
	{ "virtio-balloon", "virtio-balloon-pci" }, { "virtio-blk", "virtio-blk-pci" },
	{ "virtio-net", "virtio-net-pci" },         { "virtio-rng", "virtio-rng-pci" },
	{ "virtio-serial", "virtio-serial-pci" },
};

const struct device_class *device_class_find(const char *name)
{
	for (unsigned i = 0; i < ARRAY_SIZE(aliases); i++) {
		if (!strcmp(aliases[i].name, name))
			name = aliases[i].means;
	}
	for (const struct device_class *const *c = device_classes; *c; c++) {
		if (!strcmp((*c)->name, name))
			return *c;
	}
	return NULL;
}

void device_class_tables(const struct device_class *class, const struct prop *tables[DEVICE_TABLES])
{
	unsigned n = 0;

	tables[n++] = device_common_props(class->bus);
	if (class->props)
		tables[n++] = class->props;
	if (class->more_props)
		tables[n++] = class->more_props;
	tables[n] = NULL;
}
