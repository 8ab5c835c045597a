/*
 * From a description to a machine, as a recipe: open the backend, make memory and buses, what a PC
 * has soldered on, what devices stand on, the devices, the vCPUs; then load. Every file is opened
 * here, before the sandbox.
 */
#include "revirter/assemble.h"

#include "base/error.h"
#include "base/fdset.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "block/block.h"
#include "chardev/chardev.h"
#include "hav.h"
#include "machine/acpi.h"
#include "machine/backends.h"
#include "machine/coalesce.h"
#include "machine/device_list.h"
#include "machine/iothread.h"
#include "machine/vclock.h"
#include "machine/vcpu.h"
#include "net/net.h"
#include "revirter/cpu.h"
#include "virtio/rng.h"
#include "x86/cpuid.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define MEM64_ALIGN      GIB
#define MEM64_SIZE       (32 * GIB)
#define PCI_IO_BASE_PORT 0x6000
#define PCI_IO_PORTS     0xa000

/* --- The backend and the VM ---- */

/* The i-th accelerator to try, or NULL: those that were named, or all there are. */
static const char *accel_name(const struct description *desc, unsigned i)
{
	if (!desc->accel.n)
		return hav_backend_at(i);
	return i < desc->accel.n ? desc->accel.names[i] : NULL;
}

/* Does it run stock guests at full speed? */
static bool is_fast(struct hav *hav, struct error **why)
{
	struct hav_speed speed;

	if (hav_calibrate(hav, &speed, why) < 0)
		return false;
	if (!speed.full_speed)
		error_set(why, "%s is too slow here: a loop in kernel mode takes %.0f ns",
			  hav_backend_name(hav), speed.loop_ns);
	return speed.full_speed;
}

/* The first that opens and is fast; the last one need not be. */
static int open_backend(struct machine *machine, const struct description *desc, struct error **err)
{
	const char *name;

	for (unsigned i = 0; (name = accel_name(desc, i)); i++) {
		bool last = !accel_name(desc, i + 1);
		struct error *why = NULL;

		if (hav_open(&machine->hav, name, last ? err : &why) == 0) {
			if (last || is_fast(machine->hav, &why))
				return 0;
			hav_close(machine->hav);
			machine->hav = NULL;
		}
		if (why)
			log_info("%s; going on with %s", error_message(why),
				 accel_name(desc, i + 1));
		error_free(why);
	}
	return -1;
}

static struct cpu_topology topology(const struct description *desc)
{
	/* A die has no level of its own in the leaves guests read. */
	return (struct cpu_topology){ desc->smp.sockets, desc->smp.dies * desc->smp.cores,
				      desc->smp.threads };
}

static int choose_irqchip(struct machine *machine, const struct description *desc,
			  struct error **err)
{
	machine->irqchip = desc->machine.irqchip;
	if (!desc->machine.irqchip_given && !hav_capability(machine->hav, HAV_CAP_IRQCHIP_KERNEL))
		machine->irqchip = HAV_IRQCHIP_NONE;
	if (machine->irqchip != HAV_IRQCHIP_KERNEL) {
		machine->clock = vclock_new(err);
		return machine->clock ? 0 : -1;
	}
	if (!desc->machine.hpet || !desc->machine.hpet_given)
		return 0;
	error_set(err, "-machine hpet=on: the kernel has no HPET; use kernel-irqchip=split too");
	return -1;
}

static struct hav_vm_config vm_config(const struct machine *machine, const struct description *desc)
{
	const struct cpu_topology t = topology(desc);

	return (struct hav_vm_config){
		.irqchip = machine->irqchip,
		.max_vcpus = cpuid_apic_id(&t, desc->smp.cpus - 1) + 1,
		.plain = desc->accel.plain,
		.translation = desc->accel.translation,
	};
}

static int make_vm(struct machine *machine, const struct description *desc, struct error **err)
{
	struct hav_vm_config config;

	if (choose_irqchip(machine, desc, err) < 0)
		return -1;
	config = vm_config(machine, desc);
	return hav_vm_create(machine->hav, &config, &machine->vm, err);
}

/* --- Memory and buses ---- */

static int make_memory(struct machine *machine, const struct description *desc, struct error **err)
{
	const struct gmem_config config = {
		.size = desc->memory.size,
		.low_max = MACHINE_LOW_RAM_MAX,
		.shared = desc->memory.shared,
		.prealloc = desc->memory.prealloc,
		.merge = desc->memory.merge,
		.dump = desc->memory.dump,
		.hugepages = desc->memory.hugepages,
	};

	return gmem_init(&machine->mem, machine->vm, &config, err);
}

static struct pci_windows windows(const struct machine *machine)
{
	uint64_t top = 4 * GIB + machine->mem.high_size;

	return (struct pci_windows){
		.ecam_base = MACHINE_ECAM_BASE,
		.mem32_base = MACHINE_MEM32_BASE,
		.mem32_size = MACHINE_MEM32_END - MACHINE_MEM32_BASE,
		.mem64_base = ALIGN_UP(top, MEM64_ALIGN),
		.mem64_size = MEM64_SIZE,
		.io_base = PCI_IO_BASE_PORT,
		.io_size = PCI_IO_PORTS,
	};
}

static int make_buses(struct machine *machine, const struct description *desc, struct error **err)
{
	const struct pci_windows w = windows(machine);

	machine->io = bus_new(HAV_SPACE_IO, machine->vm);
	machine->memory = bus_new(HAV_SPACE_MEMORY, machine->vm);
	irqs_init(&machine->irqs, machine->vm);
	if (!desc->accel.plain)
		machine->coalescer = coalescer_new(machine->hav, machine->vm, machine->io,
						   machine->memory, machine->main_loop);
	if (!desc->machine.pcie)
		return 0;
	machine->pci = pci_host_new(machine->io, machine->memory, &machine->irqs, &w, err);
	return machine->pci ? 0 : -1;
}

/* --- What is soldered on ---- */

/* A device without properties other than these name=value pairs (NULL-terminated). */
static int solder(struct machine *machine, const struct device_class *class,
		  const char *const values[], struct error **err)
{
	const struct prop *const tables[] = { class->props, device_common_props(class->bus), NULL };
	struct props *props = props_new(class->props ? tables : tables + 1);
	int r = 0;

	for (; r == 0 && values && values[0]; values += 2)
		r = props_set(props, values[0], values[1], err);
	if (r == 0)
		r = machine_add_device(machine, class, props, err);
	props_free(props);
	return r;
}

static int solder_rtc(struct machine *machine, const struct description *desc, struct error **err)
{
	char date[32];
	const char *base = desc->rtc.base == RTC_UTC ? "utc" : "localtime";
	time_t t = desc->rtc.date;
	struct tm tm;

	tzset(); /* local time can't be looked up later */
	if (desc->rtc.base == RTC_DATE) {
		gmtime_r(&t, &tm);
		strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%S", &tm);
		base = date;
	}
	return solder(machine, &mc146818rtc_class,
		      (const char *const[]){ "base", base, "clock",
					     desc->rtc.vm_clock ? "vm" : "host", NULL },
		      err);
}

static int solder_serials(struct machine *machine, const struct description *desc,
			  struct error **err)
{
	char index[12];

	for (unsigned i = 0; i < desc->n_serials; i++) {
		if (!desc->serials[i])
			continue;
		snprintf(index, sizeof(index), "%u", i);
		if (solder(machine, &isa_serial_class,
			   (const char *const[]){ "chardev", desc->serials[i], "index", index,
						  NULL },
			   err) < 0)
			return -1;
	}
	return 0;
}

static int make_platform(struct machine *machine, const struct description *desc,
			 struct error **err)
{
	if ((machine->irqchip != HAV_IRQCHIP_KERNEL &&
	     solder(machine, &irqchip_class,
		    (const char *const[]){ "hpet", desc->machine.hpet ? "on" : "off", NULL },
		    err) < 0) ||
	    solder(machine, &reset_ports_class, NULL, err) < 0 ||
	    (desc->machine.acpi && solder(machine, &acpi_pm_class, NULL, err) < 0) ||
	    (desc->machine.i8042 && solder(machine, &i8042_class, NULL, err) < 0) ||
	    (desc->machine.rtc && solder_rtc(machine, desc, err) < 0))
		return -1;
	return solder_serials(machine, desc, err);
}

/* --- What devices stand on ---- */

static int make_object(struct machine *machine, const struct desc_item *item, struct error **err)
{
	struct iothread *iothread;
	struct rng *rng;

	switch (item->object->kind) {
	case OBJECT_MEMORY_RAM:
	case OBJECT_MEMORY_MEMFD: return 0; /* the description's memory names it */
	case OBJECT_RNG_RANDOM: rng = rng_open(props_str(item->props, "filename"), err); break;
	case OBJECT_RNG_BUILTIN: rng = rng_open(NULL, err); break;
	case OBJECT_IOTHREAD:
		iothread = iothread_new(item->id, err);
		if (!iothread)
			return -1;
		return backends_add(machine->backends, BACKEND_IOTHREAD, item->id, iothread, err);
	default: return 0;
	}
	return rng ? backends_add(machine->backends, BACKEND_RNG, item->id, rng, err) : -1;
}

static int make_chardev(struct machine *machine, const struct desc_item *item, struct error **err)
{
	struct chardev *chr =
		chardev_new(item->chardev, item->id, item->props, machine->main_loop, err);

	return chr ? backends_add(machine->backends, BACKEND_CHARDEV, item->id, chr, err) : -1;
}

static int make_netdev(struct machine *machine, const struct desc_item *item, struct error **err)
{
	struct netdev *nd;

	if (item->netdev->open(item->id, item->props, machine->main_loop, &nd, err) < 0)
		return -1;
	return backends_add(machine->backends, BACKEND_NET, item->id, nd, err);
}

static int make_drive(struct machine *machine, const struct desc_item *item, struct error **err)
{
	struct block *block = block_open(item->id, item->props, err);

	return block ? backends_add(machine->backends, BACKEND_BLOCK, item->id, block, err) : -1;
}

static int make_device(struct machine *machine, const struct desc_item *item, struct error **err)
{
	return machine_add_device(machine, item->device, item->props, err);
}

static int make_each(struct machine *machine, const struct desc_list *list, const char *option,
		     int (*make)(struct machine *machine, const struct desc_item *item,
				 struct error **err),
		     struct error **err)
{
	for (size_t i = 0; i < list->n; i++) {
		if (make(machine, &list->items[i], err) < 0) {
			if (option)
				error_prefix(err, "%s %s: ", option, list->items[i].id);
			return -1;
		}
	}
	return 0;
}

static int make_backends(struct machine *machine, const struct description *desc,
			 struct error **err)
{
	machine->backends = backends_new();
	if (make_each(machine, &desc->objects, "-object", make_object, err) < 0 ||
	    make_each(machine, &desc->chardevs, "-chardev", make_chardev, err) < 0 ||
	    make_each(machine, &desc->netdevs, "-netdev", make_netdev, err) < 0)
		return -1;
	return make_each(machine, &desc->drives, "-drive", make_drive, err);
}

/* --- vCPUs ---- */

static int make_vcpus(struct machine *machine, const struct description *desc, struct error **err)
{
	const struct cpu_topology t = topology(desc);
	const struct hav_vm_config config = vm_config(machine, desc);
	struct hav_cpuid entries[CPU_MAX_LEAVES];
	size_t n;

	if (cpu_build(machine->hav, &config, &desc->cpu, entries, &n, err) < 0)
		return -1;
	return vcpus_create(machine, desc->smp.cpus, entries, n, &t, err);
}

/* --- What is booted ---- */

static int open_file(const char *option, const char *path, struct error **err)
{
	int fd = fdset_open(path, O_RDONLY | O_CLOEXEC, 0);

	if (fd < 0)
		error_set_errno(err, errno, "%s: cannot open '%s'", option, path);
	return fd;
}

static int open_modules(struct vm *vm, const char *list, struct error **err)
{
	struct boot_module *modules = xcalloc(BOOT_MAX_MODULES, sizeof(*modules));

	vm->boot.modules = modules;
	while (list) {
		struct boot_module *m = &modules[vm->boot.n_modules];
		char *args, *name;

		if (vm->boot.n_modules == BOOT_MAX_MODULES) {
			error_set(err, "-initrd: more than %d modules", BOOT_MAX_MODULES);
			return -1;
		}
		boot_next_module(&list, &args, &name);
		m->args = args;
		m->name = name;
		m->fd = open_file("-initrd", name, err);
		vm->boot.n_modules++;
		if (m->fd < 0)
			return -1;
	}
	return 0;
}

static int open_kernel(struct vm *vm, const struct description *desc, struct error **err)
{
	enum boot_kind kind;

	vm->boot = (struct boot_config){ .kernel_fd = -1, .initrd_fd = -1 };
	vm->boot.kernel_name = desc->kernel;
	vm->boot.cmdline = desc->append;
	vm->boot.kernel_fd = open_file("-kernel", desc->kernel, err);
	if (vm->boot.kernel_fd < 0 ||
	    boot_identify(vm->boot.kernel_fd, desc->kernel, &kind, err) < 0)
		return -1;
	if (!desc->initrd)
		return 0;
	if (kind == BOOT_MULTIBOOT)
		return open_modules(vm, desc->initrd, err);
	vm->boot.initrd_name = desc->initrd;
	vm->boot.initrd_fd = open_file("-initrd", desc->initrd, err);
	return vm->boot.initrd_fd < 0 ? -1 : 0;
}

static void describe_memory_map(struct vm *vm)
{
	struct boot_range *map = xcalloc(BOOT_STANDARD_RANGES, sizeof(*map));

	vm->boot.n_map =
		boot_standard_map(&vm->machine.mem, vm->machine.pci ? MACHINE_ECAM_BASE : 0, map);
	vm->boot.map = map;
}

static bool has_device(const struct machine *machine, const struct device_class *class)
{
	for (const struct device *d = machine->devices; d; d = d->next)
		if (d->class == class)
			return true;
	return false;
}

static void describe_acpi(struct vm *vm, const struct description *desc)
{
	struct machine *machine = &vm->machine;
	struct acpi_config *acpi = xcalloc(1, sizeof(*acpi));

	acpi->n_vcpus = machine->n_vcpus;
	acpi->minimal = machine->type == MACHINE_MICROVM;
	for (unsigned i = 0; i < machine->n_vcpus; i++)
		acpi->apic_ids[i] = machine->vcpus[i].apic_id;
	acpi->pci = machine->pci;
	acpi->windows = windows(machine);
	for (unsigned i = 0; i < desc->n_serials; i++)
		acpi->serial[i] = desc->serials[i];
	acpi->rtc = desc->machine.rtc;
	acpi->i8042 = desc->machine.i8042;
	acpi->hpet = desc->machine.hpet && machine->irqchip != HAV_IRQCHIP_KERNEL;
	acpi->pvpanic = has_device(machine, &pvpanic_class);
	vm->acpi = acpi;
}

/* --- All of it ---- */

int assemble(struct vm *vm, const struct description *desc, struct error **err)
{
	struct machine *machine = &vm->machine;

	vm->desc = desc;
	vm->no_reboot = desc->no_reboot;
	vm->no_shutdown = desc->no_shutdown;
	machine->type = desc->machine.type;
	machine->name = desc->machine.name;
	if (open_kernel(vm, desc, err) < 0 || open_backend(machine, desc, err) < 0 ||
	    make_vm(machine, desc, err) < 0 || make_memory(machine, desc, err) < 0 ||
	    make_buses(machine, desc, err) < 0 || make_backends(machine, desc, err) < 0 ||
	    make_vcpus(machine, desc, err) < 0 || make_platform(machine, desc, err) < 0 ||
	    make_each(machine, &desc->devices, NULL, make_device, err) < 0)
		return -1;
	describe_memory_map(vm);
	if (desc->machine.acpi)
		describe_acpi(vm, desc);
	return vm_load(vm, err);
}

int assemble_start_threads(struct vm *vm, void (*enter)(void), struct error **err)
{
	struct vclock *clock = vm->machine.clock;

	iothread_enter = enter;
	if (clock && vclock_start_thread(clock, enter, err) < 0)
		return -1;
	return block_start_threads(enter, err) < 0 ? -1 : iothread_start_all(err);
}

/* --- Taking it down ---- */

static void close_backends(struct backends *backends)
{
	struct chardev *chr;
	struct netdev *nd;
	struct block *block;
	struct rng *rng;
	struct iothread *iothread;

	for (unsigned i = 0; (block = backends_at(backends, BACKEND_BLOCK, i, NULL, NULL)); i++)
		block_close(block);
	for (unsigned i = 0; (nd = backends_at(backends, BACKEND_NET, i, NULL, NULL)); i++)
		nd->ops->close(nd);
	for (unsigned i = 0; (rng = backends_at(backends, BACKEND_RNG, i, NULL, NULL)); i++)
		rng_close(rng);
	for (unsigned i = 0; (iothread = backends_at(backends, BACKEND_IOTHREAD, i, NULL, NULL));
	     i++)
		iothread_free(iothread);
	for (unsigned i = 0; (chr = backends_at(backends, BACKEND_CHARDEV, i, NULL, NULL)); i++)
		chardev_free(chr);
	backends_free(backends);
}

static void close_kernel(struct boot_config *boot)
{
	struct boot_module *modules = (struct boot_module *)boot->modules;

	if (boot->kernel_fd >= 0)
		close(boot->kernel_fd);
	if (boot->initrd_fd >= 0)
		close(boot->initrd_fd);
	for (unsigned i = 0; i < boot->n_modules; i++) {
		if (modules[i].fd >= 0)
			close(modules[i].fd);
		free((char *)modules[i].args);
		free((char *)modules[i].name);
	}
	free(modules);
	free((struct boot_range *)boot->map);
}

void disassemble(struct vm *vm)
{
	struct machine *machine = &vm->machine;

	/* Alarms are for vCPUs and devices, which use the clock to their end. */
	vclock_end_thread(machine->clock);
	vcpus_end(machine);
	machine_pause_devices(machine);
	vcpus_destroy(machine);
	machine_destroy_devices(machine);
	vclock_free(machine->clock);
	if (machine->backends)
		close_backends(machine->backends);
	coalescer_free(machine->coalescer);
	pci_host_free(machine->pci);
	bus_free(machine->io);
	bus_free(machine->memory);
	gmem_destroy(&machine->mem);
	hav_vm_destroy(machine->vm);
	hav_close(machine->hav);
	close_kernel(&vm->boot);
	free(vm->acpi);
}
