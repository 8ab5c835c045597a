/* The table of device classes: the names -device knows. */
#ifndef REVIRT_REVIRTER_DEVICES_H
#define REVIRT_REVIRTER_DEVICES_H

#include "machine/device.h"

extern const struct device_class *const device_classes[]; /* NULL-terminated, sorted by name */

const struct device_class *device_class_find(const char *name); /* NULL: none */

/* All tables of properties of a class, NULL-terminated. */
#define DEVICE_TABLES 4
void device_class_tables(const struct device_class *class,
			 const struct prop *tables[DEVICE_TABLES]);

#endif
