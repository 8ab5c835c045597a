/*
 * -drive, -blockdev, -hda, -hdb: images, and the disks the guest sees them as.
 *
 * There is one kind of disk, virtio-blk-pci. A drive without if=none is one; where QEMU would make
 * an IDE disk (-hda, -drive without if=) it is one too. Such disks come after the devices of
 * -device, in the order of their index.
 */
#include "revirter/dialect_internal.h"

#include "base/error.h"
#include "base/util.h"
#include "block/block.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const struct prop *const drive_tables[] = { block_props, NULL };

/* QEMU's names of drives that were given none. */
static char *default_id(const char *interface, unsigned index)
{
	if (!strcmp(interface, "ide"))
		return xasprintf("ide%u-hd0", index);
	return xasprintf("%s%u", interface, index);
}

/* The index of a disk: the one asked for, or the first free one. */
static int take_index(const struct dialect *d, const struct props *props, unsigned *index,
		      struct error **err)
{
	uint64_t wanted = props_u64(props, "index");

	if (!props_given(props, "index")) {
		while (wanted < DIALECT_MAX_DISKS && d->disks[wanted].n)
			wanted++;
	}
	if (wanted >= DIALECT_MAX_DISKS) {
		error_set(err, "index=%" PRIu64 "; from 0 to %d is possible", wanted,
			  DIALECT_MAX_DISKS - 1);
		return -1;
	}
	if (d->disks[wanted].n) {
		error_set(err, "there is already a disk with index=%" PRIu64, wanted);
		return -1;
	}
	*index = wanted;
	return 0;
}

/* The id of a drive, made up when it has none. An image without a disk needs no index. */
static char *drive_id(struct dialect *d, const struct props *props, const char *interface,
		      unsigned *index, struct error **err)
{
	bool disk = strcmp(interface, "none") != 0;

	*index = props_given(props, "index") ? props_u64(props, "index") : d->n_anonymous_drives;
	if (disk && take_index(d, props, index, err) < 0)
		return NULL;
	if (props_has(props, "id"))
		return check_id(props_str(props, "id"), err) < 0 ? NULL
								 : xstrdup(props_str(props, "id"));
	d->n_anonymous_drives += !disk;
	return default_id(interface, *index);
}

/* Takes over props. */
static int add_drive(struct dialect *d, struct props *props, struct error **err)
{
	const char *interface = props_has(props, "if") ? props_str(props, "if") : "ide";
	struct props *device_props;
	char *id AUTO_FREE = NULL;
	unsigned index;

	if (!props_has(props, "file") && !props_has(props, "filename")) {
		error_set(err, "property 'file' is missing");
		props_free(props);
		return -1;
	}
	id = drive_id(d, props, interface, &index, err);
	if (!id) {
		props_free(props);
		return -1;
	}
	if (list_add(&d->desc->drives, id, NULL, props, err) < 0)
		return -1;
	if (!strcmp(interface, "none"))
		return 0;
	if (add_plain_device(&d->disks[index], "virtio-blk-pci", "drive", id, &device_props, err) <
	    0)
		return -1;
	return 0;
}

int option_drive(struct dialect *d, const char *argument, struct error **err)
{
	struct props *props;

	if (is_help(argument)) {
		props_print_help(drive_tables);
		d->done = true;
		return 0;
	}
	props = props_parse(argument, NULL, drive_tables, err);
	return props ? add_drive(d, props, err) : -1;
}

static int add_hd(struct dialect *d, const char *file, const char *index, struct error **err)
{
	struct props *props = props_new(drive_tables);

	if (props_set(props, "file", file, err) == 0 && props_set(props, "index", index, err) == 0)
		return add_drive(d, props, err);
	props_free(props);
	return -1;
}

int option_hda(struct dialect *d, const char *argument, struct error **err)
{
	return add_hd(d, argument, "0", err);
}

int option_hdb(struct dialect *d, const char *argument, struct error **err)
{
	return add_hd(d, argument, "1", err);
}

/* What a block node stands on, the block room finds out: nodes are opened in this order. */
int option_blockdev(struct dialect *d, const char *argument, struct error **err)
{
	struct item_source source ITEM_AUTO;
	struct props *props;
	const char *name;

	if (item_split(argument, "driver", true, &source, err) < 0)
		return -1;
	if (source.help || (source.kind && is_help(source.kind))) {
		props_print_help(drive_tables);
		d->done = true;
		return 0;
	}
	if (!source.kind) {
		error_set(err, "property 'driver' is missing");
		return -1;
	}
	props = item_props(&source, drive_tables, err);
	if (!props)
		return -1;
	name = props_str(props, "node-name");
	if (!name)
		error_set(err, "property 'node-name' is missing");
	if (!name || check_id(name, err) < 0 || props_set(props, "driver", source.kind, err) < 0) {
		props_free(props);
		return -1;
	}
	return list_add(&d->desc->drives, name, NULL, props, err);
}
