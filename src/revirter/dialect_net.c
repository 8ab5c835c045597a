/*
 * -netdev and -nic: network ends on the host, and the NICs that are connected to them.
 *
 * There is one kind of NIC, virtio-net-pci. Those of -nic come before the devices of -device, as
 * QEMU's on-board NICs do. Without any of these options there is no NIC.
 */
#include "revirter/dialect_internal.h"

#include "base/error.h"
#include "base/util.h"
#include "net/net.h"

#include <string.h>

#define NIC_CLASS "virtio-net-pci"

static const char *const nic_models[] = { "virtio-net-pci", "virtio", NULL };
static const struct prop nic_props[] = {
	{ "id", PROP_STRING, .help = "name QMP knows the network end by" },
	{ "model", PROP_ENUM, NIC_CLASS, "kind of NIC", .choices = nic_models },
	{ "mac", PROP_STRING, .help = "its address" },
	{ "macaddr", PROP_STRING, .alias_of = "mac" },
	{},
};

static const struct netdev_class *find_class(const char *name, struct error **err)
{
	const struct netdev_class *const *c = netdev_classes();
	char *names AUTO_FREE = NULL;

	for (; *c; c++) {
		if (!strcmp((*c)->name, name))
			return *c;
		add_name(&names, (*c)->name);
	}
	error_set(err, "no such network end; there are: %s", names);
	return NULL;
}

/* Takes argument apart; *class is NULL when it was about help. */
static int split_netdev(struct dialect *d, const char *argument, const char *kind_if_none,
			const struct prop *own, struct item_source *source,
			const struct netdev_class **class, struct error **err)
{
	*class = NULL;
	if (item_split(argument, "type", true, source, err) < 0)
		return -1;
	if (!source->kind && kind_if_none)
		source->kind = xstrdup(kind_if_none);
	if (!source->kind) {
		error_set(err, "property 'type' is missing");
		return -1;
	}
	if (is_help(source->kind)) {
		help_netdevs();
		d->done = true;
		return 0;
	}
	d->subject = xstrdup(source->kind);
	*class = find_class(source->kind, err);
	if (!*class)
		return -1;
	if (source->help) {
		props_print_help((const struct prop *const[]){ own, (*class)->props, NULL });
		d->done = true;
		*class = NULL;
	}
	return 0;
}

int option_netdev(struct dialect *d, const char *argument, struct error **err)
{
	struct item_source source ITEM_AUTO;
	const struct netdev_class *class;
	struct props *props;

	if (split_netdev(d, argument, NULL, id_props, &source, &class, err) < 0)
		return -1;
	if (!class)
		return 0;
	props = item_props(&source, (const struct prop *const[]){ id_props, class->props, NULL },
			   err);
	if (!props)
		return -1;
	if (check_id(props_str(props, "id"), err) < 0) {
		props_free(props);
		return -1;
	}
	return list_add(&d->desc->netdevs, props_str(props, "id"), class, props, err);
}

/* Takes over props. */
static int add_nic(struct dialect *d, const struct netdev_class *class, struct props *props,
		   struct error **err)
{
	const char *mac = props_str(props, "mac");
	struct props *nic;
	char *id AUTO_FREE = NULL;

	if (props_has(props, "id"))
		id = xstrdup(props_str(props, "id"));
	else
		id = xasprintf("__org.qemu.nic%u", d->n_nics);
	d->n_nics++;
	if (list_add(&d->desc->netdevs, id, class, props, err) < 0 ||
	    add_plain_device(&d->nics, NIC_CLASS, "netdev", id, &nic, err) < 0)
		return -1;
	return mac ? props_set(nic, "mac", mac, err) : 0;
}

int option_nic(struct dialect *d, const char *argument, struct error **err)
{
	struct item_source source ITEM_AUTO = { 0 };
	const struct netdev_class *class;
	struct props *props;

	if (!strcmp(argument, "none") || !strcmp(argument, "type=none"))
		return 0;
	if (split_netdev(d, argument, "user", nic_props, &source, &class, err) < 0)
		return -1;
	if (!class)
		return 0;
	props = item_props(&source, (const struct prop *const[]){ nic_props, class->props, NULL },
			   err);
	if (!props)
		return -1;
	if (props_has(props, "id") && check_id(props_str(props, "id"), err) < 0) {
		props_free(props);
		return -1;
	}
	return add_nic(d, class, props, err);
}

int option_net(struct dialect *d, const char *argument, struct error **err)
{
	if (!strcmp(argument, "none"))
		return 0;
	error_set(err, "only 'none' is supported; -nic TYPE,... makes a NIC and what it is "
		       "connected to");
	return -1;
}
