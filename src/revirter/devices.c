/*
 * The table of device classes. Adding a device touches its own file and one line here; a class is
 * declared here only, because nobody else calls it by name.
 */
#include "revirter/devices.h"

#include <string.h>

const struct device_class *const device_classes[] = { NULL };

const struct device_class *device_class_find(const char *name)
{
	for (const struct device_class *const *c = device_classes; *c; c++) {
		if (!strcmp((*c)->name, name))
			return *c;
	}
	return NULL;
}
