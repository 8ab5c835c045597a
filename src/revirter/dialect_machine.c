/*
 * -machine, -accel, -m: what kind of machine, what runs its code, how much memory it has.
 *
 * A property of QEMU's whose value here can be only one is in the table with that value as its only
 * choice: saying so is accepted, saying otherwise is refused with what is possible.
 */
#include "revirter/dialect_internal.h"

#include "base/error.h"
#include "base/util.h"

#include <inttypes.h>
#include <string.h>

#define DEFAULT_MEMORY (128 * MIB) /* QEMU's */
#define MIN_MEMORY     (1 * MIB)
#define MAX_MEMORY     (2048 * GIB)
#define MEMORY_ALIGN   8192 /* as QEMU rounds */

static const char *const only_on[] = { "on", NULL };
static const char *const only_off[] = { "off", NULL };
static const char *const auto_or_off[] = { "auto", "off", NULL };
static const char *const on_off_split[] = { "on", "off", "split", NULL };
static const char *const on_off_eager[] = { "on", "off", "eager", NULL };
static const char *const auto_on_off[] = { "auto", "on", "off", NULL };

const struct prop machine_props[] = {
	{ "type", PROP_STRING, "q35", "the machine" },
	{ "accel", PROP_STRING, .help = "accelerators to try, A:B:..." },
	{ "kernel-irqchip", PROP_ENUM, .help = "interrupt controllers of the accelerator's",
	  .choices = on_off_split },
	{ "kernel_irqchip", PROP_ENUM, .alias_of = "kernel-irqchip" },
	{ "memory-backend", PROP_STRING, .help = "-object that is the memory" },
	{ "dump-guest-core", PROP_BOOL, "on", "have guest memory in core dumps" },
	{ "dump_guest_core", PROP_BOOL, .alias_of = "dump-guest-core" },
	{ "mem-merge", PROP_BOOL, "on", "let the kernel merge equal pages" },
	{ "mem_merge", PROP_BOOL, .alias_of = "mem-merge" },
	{ "acpi", PROP_ENUM, "auto", "have ACPI; auto: on", .choices = auto_on_off },
	{ "pcie", PROP_BOOL, "on", "have PCI Express" },
	{ "pic", PROP_ENUM, .help = "interrupt controllers of the AT", .choices = only_on },
	{ "pit", PROP_ENUM, .help = "timer of the AT", .choices = only_on },
	{ "usb", PROP_ENUM, .help = "there is no USB", .choices = only_off },
	{ "nvdimm", PROP_ENUM, .help = "there are no NVDIMMs", .choices = only_off },
	{ "smm", PROP_ENUM, .help = "there is no system management mode", .choices = auto_or_off },
	{ "graphics", PROP_BOOL, .help = "of no effect: there is no display" },
	{ "suppress-vmdesc", PROP_BOOL, .help = "of no effect: there is no migration" },
	{},
};

static const struct prop q35_props[] = {
	{ "i8042", PROP_BOOL, "on", "have a keyboard controller (for reset)" },
	{ "rtc", PROP_ENUM, "on", "have a real-time clock", .choices = only_on },
	{ "isa-serial", PROP_ENUM, "on", "have serial ports", .choices = only_on },
	{ "vmport", PROP_ENUM, .help = "there is no VMware port", .choices = auto_or_off },
	{ "hpet", PROP_BOOL, .help = "have an HPET; on, but with kernel-irqchip=on" },
	{ "sata", PROP_ENUM, .help = "there is no SATA controller", .choices = only_off },
	{ "smbus", PROP_ENUM, .help = "there is no SMBus", .choices = only_off },
	{},
};

/* Without a firmware there are no option ROMs, and no virtio-mmio devices to put on the command
 * line. */
static const struct prop microvm_props[] = {
	{ "i8042", PROP_ENUM, "off", "there is no keyboard controller", .choices = only_off },
	{ "rtc", PROP_ENUM, "auto", "have a real-time clock; auto: off", .choices = auto_on_off },
	{ "isa-serial", PROP_BOOL, "on", "have a serial port" },
	{ "x-option-roms", PROP_ENUM, .help = "there are no option ROMs", .choices = only_off },
	{ "auto-kernel-cmdline", PROP_BOOL, .help = "of no effect: there is nothing to add" },
	{},
};

const struct machine_kind machine_kinds[] = {
	{ "microvm", NULL, MACHINE_MICROVM, "what a direct boot needs, and no more",
	  microvm_props },
	{ "pc-q35-7.2", "q35", MACHINE_Q35, "Standard PC (Q35 + ICH9, 2009)", q35_props },
	{},
};

static const struct prop accel_props[] = {
	{ "kernel-irqchip", PROP_ENUM, .help = "interrupt controllers of the accelerator's",
	  .choices = on_off_split },
	{ "jit", PROP_ENUM, "on",
	  "soft: translate the guest's code; off: interpret it; eager: all of it for speed",
	  .choices = on_off_eager },
	{ "x-plain", PROP_BOOL, "off", "for tests: leave its short cuts unused" },
	{},
};

static const struct prop memory_props[] = {
	{ "size", PROP_SIZE, .unit = MIB },
	{ "slots", PROP_INT },
	{ "maxmem", PROP_SIZE },
	{},
};

/* --- -accel ---- */

static const char *find_accel(const char *name)
{
	for (unsigned i = 0; hav_backend_at(i); i++) {
		if (!strcmp(hav_backend_at(i), name))
			return hav_backend_at(i);
	}
	return NULL;
}

static void no_such_accel(const char *name, struct error **err)
{
	char *names AUTO_FREE = NULL;

	for (unsigned i = 0; hav_backend_at(i); i++)
		add_name(&names, hav_backend_at(i));
	error_set(err, "no accelerator '%s'; there are: %s", name, names ? names : "none");
}

static int add_accel(struct dialect *d, const char *name, struct error **err)
{
	if (d->n_accels == DESC_MAX_ACCELS) {
		error_set(err, "more than %d accelerators", DESC_MAX_ACCELS);
		return -1;
	}
	d->accels[d->n_accels++] = name;
	return 0;
}

/* QEMU has it with the machine and with the accelerator. */
static void set_irqchip(struct desc_machine *machine, const struct props *props)
{
	const char *irqchip = props_str(props, "kernel-irqchip");

	if (!irqchip)
		return;
	machine->irqchip_given = true;
	machine->irqchip = !strcmp(irqchip, "on")      ? HAV_IRQCHIP_KERNEL
			   : !strcmp(irqchip, "split") ? HAV_IRQCHIP_SPLIT
						       : HAV_IRQCHIP_NONE;
}

static void set_translation(struct desc_accel *accel, const char *jit)
{
	if (strcmp(jit, "off") == 0)
		accel->translation = HAV_INTERPRET;
	else if (strcmp(jit, "eager") == 0)
		accel->translation = HAV_TRANSLATE_EAGERLY;
}

/* "A:B:...": those that exist, in that order; QEMU too goes on to the next where one is missing. */
static int split_accels(struct dialect *d, const char *list, struct error **err)
{
	char *copy AUTO_FREE = xstrdup(list), *rest = copy, *name;

	while ((name = strsep(&rest, ":"))) {
		if (find_accel(name) && add_accel(d, find_accel(name), err) < 0)
			return -1;
	}
	if (d->n_accels)
		return 0;
	no_such_accel(list, err);
	return -1;
}

int option_accel(struct dialect *d, const char *argument, struct error **err)
{
	const struct prop *const tables[] = { accel_props, NULL };
	struct item_source source ITEM_AUTO;
	struct props *props;

	if (item_split(argument, "accel", false, &source, err) < 0)
		return -1;
	if (source.help || !source.kind || is_help(source.kind)) {
		help_accels();
		d->done = true;
		return 0;
	}
	if (!strchr(source.kind, ':') && !find_accel(source.kind)) {
		no_such_accel(source.kind, err);
		return -1;
	}
	props = item_props(&source, tables, err);
	if (!props)
		return -1;
	set_irqchip(&d->desc->machine, props);
	d->desc->accel.plain |= props_bool(props, "x-plain");
	set_translation(&d->desc->accel, props_str(props, "jit"));
	props_free(props);
	return split_accels(d, source.kind, err);
}

int option_enable_kvm(struct dialect *d, const char *argument, struct error **err)
{
	d->enable_kvm = true;
	return 0;
}

int option_no_acpi(struct dialect *d, const char *argument, struct error **err)
{
	collect(&d->machine, "acpi=off", "type");
	return 0;
}

int option_no_hpet(struct dialect *d, const char *argument, struct error **err)
{
	collect(&d->machine, "hpet=off", "type");
	return 0;
}

static int finish_accel(struct dialect *d, const struct props *machine, struct error **err)
{
	const char *list = props_str(machine, "accel");

	if (!list && d->enable_kvm)
		list = "kvm";
	if (list && d->n_accels) {
		error_set(err, "-accel: -machine accel=%s says something else already", list);
		return -1;
	}
	if (list && split_accels(d, list, err) < 0) {
		error_prefix(err, "-machine accel=: ");
		return -1;
	}
	memcpy(d->desc->accel.names, d->accels, sizeof(d->accels));
	d->desc->accel.n = d->n_accels;
	return 0;
}

/* --- -m ---- */

/* -m says how much; without it the backend does, where there is one. */
static int read_memory(struct dialect *d, bool *given, struct error **err)
{
	const struct prop *const tables[] = { memory_props, NULL };
	struct props *props = props_parse(d->memory ? d->memory : "", "size", tables, err);
	uint64_t size, max;

	if (!props)
		return -1;
	*given = props_given(props, "size");
	size = *given ? props_u64(props, "size") : DEFAULT_MEMORY;
	max = props_u64(props, "maxmem");
	if (props_u64(props, "slots") || (max && max != size)) {
		error_set(err, "memory is not added later here; leave slots= and maxmem= away");
		props_free(props);
		return -1;
	}
	props_free(props);
	d->desc->memory.size = size;
	return 0;
}

static int take_backend(struct dialect *d, const char *id, bool size_given, struct error **err)
{
	struct desc_memory *memory = &d->desc->memory;
	const struct desc_item *object = desc_find(&d->desc->objects, id);
	uint64_t size;

	if (!object || object->object->kind > OBJECT_MEMORY_MEMFD) {
		error_set(err,
			  "-machine memory-backend=%s: there is no -object memory-backend-... of "
			  "that id",
			  id);
		return -1;
	}
	size = props_u64(object->props, "size");
	if (size_given && size != memory->size) {
		error_set(err,
			  "-m: %" PRIu64 " bytes, but memory-backend '%s' has %" PRIu64
			  "; leave -m away or make them equal",
			  memory->size, id, size);
		return -1;
	}
	memory->size = size;
	memory->backend = object->id;
	memory->shared = props_has(object->props, "share")
				 ? props_bool(object->props, "share")
				 : object->object->kind == OBJECT_MEMORY_MEMFD;
	memory->prealloc = props_bool(object->props, "prealloc");
	if (props_has(object->props, "merge"))
		memory->merge = props_bool(object->props, "merge");
	if (props_has(object->props, "dump"))
		memory->dump = props_bool(object->props, "dump");
	if (object->object->kind == OBJECT_MEMORY_MEMFD) {
		memory->hugepages = props_bool(object->props, "hugetlb");
		memory->hugepage_size = props_u64(object->props, "hugetlbsize");
	}
	return 0;
}

static int finish_memory(struct dialect *d, const struct props *machine, struct error **err)
{
	struct desc_memory *memory = &d->desc->memory;
	const char *backend = props_str(machine, "memory-backend");
	bool given;

	if (read_memory(d, &given, err) < 0) {
		error_prefix(err, "-m: ");
		return -1;
	}
	memory->merge = props_bool(machine, "mem-merge");
	memory->dump = props_bool(machine, "dump-guest-core");
	if (backend && take_backend(d, backend, given, err) < 0)
		return -1;
	if (memory->size < MIN_MEMORY || memory->size > MAX_MEMORY) {
		error_set(err, "-m: %" PRIu64 " bytes of memory; from 1M to 2T is possible",
			  memory->size);
		return -1;
	}
	memory->size = ALIGN_UP(memory->size, MEMORY_ALIGN);
	return 0;
}

/* --- -machine ---- */

static const struct machine_kind *find_machine(const char *name, struct error **err)
{
	char *names AUTO_FREE = NULL;

	for (const struct machine_kind *k = machine_kinds; k->name; k++) {
		if (!strcmp(name, k->name) || (k->alias && !strcmp(name, k->alias)))
			return k;
		if (k->alias)
			add_name(&names, k->alias);
		add_name(&names, k->name);
	}
	error_set(err, "no machine '%s'; there are: %s", name, names);
	return NULL;
}

static void set_machine(struct desc_machine *machine, const struct machine_kind *kind,
			const struct props *props)
{
	const char *rtc = props_str(props, "rtc");

	machine->type = kind->type;
	machine->name = kind->name;
	if (!machine->irqchip_given)
		machine->irqchip = HAV_IRQCHIP_KERNEL;
	set_irqchip(machine, props);
	if (kind->type == MACHINE_Q35) {
		machine->hpet_given = props_has(props, "hpet");
		machine->hpet = !machine->hpet_given || props_bool(props, "hpet");
	}
	machine->acpi = strcmp(props_str(props, "acpi"), "off") != 0;
	machine->pcie = props_bool(props, "pcie");
	machine->rtc = !strcmp(rtc, "on");
	machine->i8042 = kind->type == MACHINE_Q35 && props_bool(props, "i8042");
}

static bool has_serial_ports(const struct machine_kind *kind, const struct props *props)
{
	return kind->type == MACHINE_Q35 || props_bool(props, "isa-serial");
}

static int read_machine(struct dialect *d, const char *name, const struct item_source *source,
			struct error **err)
{
	const struct machine_kind *kind = find_machine(name, err);
	const struct prop *const tables[] = { machine_props, kind ? kind->props : NULL, NULL };
	struct props *props;
	int r;

	if (!kind) {
		error_prefix(err, "-machine: ");
		return -1;
	}
	if (source->help) {
		props_print_help(tables);
		d->done = true;
		return 0;
	}
	props = item_props(source, tables, err);
	if (!props) {
		error_prefix(err, "-machine %s: ", name);
		return -1;
	}
	set_machine(&d->desc->machine, kind, props);
	d->no_serial_ports = !has_serial_ports(kind, props);
	r = finish_accel(d, props, err) < 0 ? -1 : finish_memory(d, props, err);
	props_free(props);
	return r;
}

int finish_machine(struct dialect *d, struct error **err)
{
	struct item_source source ITEM_AUTO;

	if (item_split(d->machine ? d->machine : "", "type", false, &source, err) < 0)
		return -1;
	if (source.kind && is_help(source.kind)) {
		help_machines();
		d->done = true;
		return 0;
	}
	return read_machine(d, source.kind ? source.kind : "q35", &source, err);
}
