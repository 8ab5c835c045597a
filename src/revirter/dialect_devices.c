/*
 * -device and -object, and the ids that devices refer to: checked when all of argv is known,
 * because what is referred to may come later.
 */
#include "revirter/dialect_internal.h"

#include "base/error.h"
#include "base/util.h"
#include "revirter/devices.h"

#include <string.h>

/* --- -object ---- */

static const struct object_class *find_object_class(const char *name, struct error **err)
{
	char *names AUTO_FREE = NULL;

	for (const struct object_class *c = object_classes; c->name; c++) {
		if (!strcmp(c->name, name))
			return c;
		add_name(&names, c->name);
	}
	error_set(err, "no such object; there are: %s", names);
	return NULL;
}

static int add_object(struct dialect *d, const struct item_source *source, struct error **err)
{
	const struct object_class *class = find_object_class(source->kind, err);
	struct props *props;

	if (!class)
		return -1;
	const struct prop *const tables[] = { id_props, class->props, class->more, NULL };

	if (source->help) {
		props_print_help(tables);
		d->done = true;
		return 0;
	}
	props = item_props(source, tables, err);
	if (!props)
		return -1;
	if (check_id(props_str(props, "id"), err) < 0) {
		props_free(props);
		return -1;
	}
	return list_add(&d->desc->objects, props_str(props, "id"), class, props, err);
}

int option_object(struct dialect *d, const char *argument, struct error **err)
{
	struct item_source source ITEM_AUTO;

	if (item_split(argument, "qom-type", true, &source, err) < 0)
		return -1;
	if (!source.kind) {
		error_set(err, "property 'qom-type' is missing");
		return -1;
	}
	if (is_help(source.kind)) {
		help_objects();
		d->done = true;
		return 0;
	}
	d->subject = xstrdup(source.kind);
	return add_object(d, &source, err);
}

/* --- -device ---- */

static bool has_prop(const struct device_class *class, const char *name)
{
	for (const struct prop *p = class->props; p && p->name; p++) {
		if (!strcmp(p->name, name))
			return true;
	}
	return false;
}

static const struct device_class *find_device_class(const char *name, struct error **err)
{
	const struct device_class *class = device_class_find(name);
	char *names AUTO_FREE = NULL;

	if (class)
		return class;
	for (const struct device_class *const *c = device_classes; *c; c++)
		add_name(&names, (*c)->name);
	error_set(err, "no such device; there are: %s", names ? names : "none");
	return NULL;
}

int add_plain_device(struct desc_list *list, const char *class_name, const char *name,
		     const char *value, struct props **props, struct error **err)
{
	const struct device_class *class = find_device_class(class_name, err);
	const struct prop *tables[DEVICE_TABLES];

	if (!class)
		return -1;
	device_class_tables(class, tables);
	*props = props_new(tables);
	if (props_set(*props, name, value, err) < 0) {
		props_free(*props);
		return -1;
	}
	return list_add(list, NULL, class, *props, err);
}

static int add_device(struct dialect *d, const struct item_source *source, struct error **err)
{
	const struct device_class *class = find_device_class(source->kind, err);
	const struct prop *tables[DEVICE_TABLES];
	struct props *props;
	const char *id;

	if (!class)
		return -1;
	if (source->help) {
		help_device(class);
		d->done = true;
		return 0;
	}
	device_class_tables(class, tables);
	props = item_props(source, tables, err);
	if (!props)
		return -1;
	id = props_str(props, "id");
	if (id && check_id(id, err) < 0) {
		props_free(props);
		return -1;
	}
	/* As in QEMU, who plugs serial ports in by hand gets none by default. */
	if (!strcmp(class->name, "isa-serial"))
		d->has_serial = true;
	return list_add(&d->desc->devices, id, class, props, err);
}

int option_device(struct dialect *d, const char *argument, struct error **err)
{
	struct item_source source ITEM_AUTO;

	if (item_split(argument, "driver", true, &source, err) < 0)
		return -1;
	if (!source.kind) {
		error_set(err, "property 'driver' is missing");
		return -1;
	}
	if (is_help(source.kind)) {
		help_devices();
		d->done = true;
		return 0;
	}
	d->subject = xstrdup(source.kind);
	return add_device(d, &source, err);
}

/* --- References ---- */

static const struct reference {
	const char *prop, *what;
	size_t list; /* where in the description */
	int kind;    /* of an object; -1: any item of the list */
	int kind2;
} references[] = {
	{ "drive", "-drive or -blockdev", offsetof(struct description, drives), -1, -1 },
	{ "netdev", "-netdev", offsetof(struct description, netdevs), -1, -1 },
	{ "chardev", "-chardev", offsetof(struct description, chardevs), -1, -1 },
	{ "rng", "-object rng-...", offsetof(struct description, objects), OBJECT_RNG_RANDOM,
	  OBJECT_RNG_BUILTIN },
	{ "iothread", "-object iothread", offsetof(struct description, objects), OBJECT_IOTHREAD,
	  OBJECT_IOTHREAD },
};

static bool fits(const struct reference *r, const struct desc_item *item)
{
	return r->kind < 0 || (int)item->object->kind == r->kind ||
	       (int)item->object->kind == r->kind2;
}

static int check_reference(const struct description *desc, const struct desc_item *device,
			   const struct reference *r, struct error **err)
{
	const struct desc_list *list = (const struct desc_list *)((const char *)desc + r->list);
	const char *id = props_str(device->props, r->prop);
	const struct desc_item *item = id ? desc_find(list, id) : NULL;
	char *names AUTO_FREE = NULL;

	if (!id || (item && fits(r, item)))
		return 0;
	for (size_t i = 0; i < list->n; i++) {
		if (fits(r, &list->items[i]))
			add_name(&names, list->items[i].id);
	}
	error_set(err, "-device %s: %s=%s: there is no %s of that id; there are: %s",
		  device->device->name, r->prop, id, r->what, names ? names : "none");
	return -1;
}

static int check_device(const struct description *desc, const struct desc_item *device,
			struct error **err)
{
	if (!strcmp(device->device->bus, "PCI") && !desc->machine.pcie) {
		error_set(err, "-device %s: the machine has no PCI with pcie=off",
			  device->device->name);
		return -1;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(references); i++) {
		if (has_prop(device->device, references[i].prop) &&
		    check_reference(desc, device, &references[i], err) < 0)
			return -1;
	}
	return 0;
}

/* The order QEMU plugs in: NICs of -nic, what -device says, disks of -drive. */
int finish_devices(struct dialect *d, struct error **err)
{
	struct desc_list *devices = &d->desc->devices;
	struct desc_list explicit = *devices;

	*devices = d->nics;
	d->nics = (struct desc_list){ 0 };
	list_append(devices, &explicit);
	for (unsigned i = 0; i < DIALECT_MAX_DISKS; i++)
		list_append(devices, &d->disks[i]);
	for (size_t i = 0; i < devices->n; i++) {
		if (check_device(d->desc, &devices->items[i], err) < 0)
			return -1;
	}
	return 0;
}
