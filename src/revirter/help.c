/* What -h, -version and the word "help" in other options print, all of it from the tables. */
#include "revirter/dialect_internal.h"

#include "base/util.h"
#include "chardev/chardev.h"
#include "net/net.h"
#include "revirter/devices.h"

#include <stdio.h>
#include <string.h>

#define COLUMN 24
#define WIDTH  80

static void print_option(const struct option *o)
{
	int width = printf("  -%s%s%s", o->name, o->argument ? " " : "",
			   o->argument ? o->argument : "");

	if (width >= COLUMN)
		printf("\n%*s", COLUMN, "");
	else
		printf("%*s", COLUMN - width, "");
	printf("%s\n", o->help);
}

int option_help(struct dialect *d, const char *argument, struct error **err)
{
	printf("revirter " REVIRT_VERSION ": a virtual machine, spoken to in QEMU's language\n"
	       "usage: revirter -kernel FILE [options] [DISK]\n");
	for (unsigned g = 0; g < GROUPS; g++) {
		printf("\n%s:\n", option_group_names[g]);
		for (const struct option *o = dialect_options; o->name; o++) {
			if (o->group == g && o->help)
				print_option(o);
		}
	}
	printf("\nExamples:\n"
	       "  revirter -m 1G -smp 2 -kernel vmlinuz -initrd initrd.img \\\n"
	       "           -append console=ttyS0 -nographic\n"
	       "  revirter -m 1G -kernel vmlinuz -append \"console=hvc0 root=/dev/vda\" \\\n"
	       "           -drive file=root.img,format=raw -nic tap,ifname=tap0,script=no \\\n"
	       "           -nodefaults -chardev stdio,id=c -device virtio-serial-pci \\\n"
	       "           -device virtconsole,chardev=c -qmp unix:/run/vm.qmp,server=on,wait=off\n"
	       "\nMore: man revirter\n");
	d->done = true;
	return 0;
}

/* The first line is what programs that drive QEMU look for. */
int option_version(struct dialect *d, const char *argument, struct error **err)
{
	printf("QEMU emulator version 7.2.0 (revirter " REVIRT_VERSION ")\n"
	       "This is revirter, of Revirt, which speaks the language of that QEMU.\n");
	d->done = true;
	return 0;
}

void help_machines(void)
{
	printf("Supported machines are:\n");
	for (const struct machine_kind *k = machine_kinds; k->name; k++) {
		if (k->alias)
			printf("%-20s %s (alias of %s) (default)\n", k->alias, k->desc, k->name);
		printf("%-20s %s\n", k->name, k->desc);
	}
}

void help_accels(void)
{
	printf("Accelerators supported:\n");
	for (unsigned i = 0; hav_backend_at(i); i++)
		printf("%s\n", hav_backend_at(i));
}

void help_cpus(void)
{
	int column = 0;

	printf("Available CPUs:\n");
	for (const struct cpu_model *m = cpu_models; m->name; m++)
		printf("x86 %-20s  %s\n", m->name, m->desc);
	printf("\nProperties (on or off): kvm pmu migratable check enforce\n"
	       "\nRecognized CPUID flags:\n");
	for (const struct cpu_feature *f = cpu_features; f->name; f++) {
		if (cpu_feature_find(f->name) != f)
			continue;
		if (column && column + 1 + strlen(f->name) > WIDTH) {
			printf("\n");
			column = 0;
		}
		column += printf("%s%s", column ? " " : "  ", f->name);
	}
	printf("\n");
}

void help_log_items(void)
{
	printf("Log items (comma separated):\n%-15s all of them\n", "all");
	for (const struct log_item_name *i = log_item_names; i->name; i++)
		printf("%-15s %s\n", i->name, i->desc);
}

void help_devices(void)
{
	for (const struct device_class *const *c = device_classes; *c; c++)
		printf("name \"%s\", bus %s, desc \"%s\"\n", (*c)->name, (*c)->bus, (*c)->desc);
}

void help_device(const struct device_class *class)
{
	const struct prop *tables[DEVICE_TABLES];

	device_class_tables(class, tables);
	printf("%s options:\n", class->name);
	props_print_help(tables);
}

void help_objects(void)
{
	printf("List of user creatable objects:\n");
	for (const struct object_class *c = object_classes; c->name; c++)
		printf("  %-22s %s\n", c->name, c->desc);
}

void help_chardevs(void)
{
	printf("Available chardev backend types:\n");
	for (const struct chardev_class *const *c = chardev_classes(); *c; c++)
		printf("  %-10s %s\n", (*c)->name, (*c)->desc);
}

void help_netdevs(void)
{
	printf("Available netdev backend types:\n");
	for (const struct netdev_class *const *c = netdev_classes(); *c; c++)
		printf("  %-10s %s\n", (*c)->name, (*c)->desc);
}
