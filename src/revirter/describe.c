/* The description as JSON, and its end: see description.h. */
#include "revirter/description.h"

#include "base/util.h"
#include "chardev/chardev.h"
#include "net/net.h"
#include "revirter/dialect_internal.h"

#include <json-c/json.h>
#include <stdio.h>

static void add(struct json_object *object, const char *key, struct json_object *value)
{
	json_object_object_add(object, key, value);
}

static void add_string(struct json_object *object, const char *key, const char *value)
{
	if (value)
		add(object, key, json_object_new_string(value));
}

static void add_bool(struct json_object *object, const char *key, bool value)
{
	add(object, key, json_object_new_boolean(value));
}

static void add_number(struct json_object *object, const char *key, uint64_t value)
{
	add(object, key, json_object_new_uint64(value));
}

static const char *irqchip_name(enum hav_irqchip irqchip)
{
	switch (irqchip) {
	case HAV_IRQCHIP_NONE: return "off";
	case HAV_IRQCHIP_SPLIT: return "split";
	default: return "on";
	}
}

static struct json_object *machine_to_json(const struct desc_machine *machine)
{
	struct json_object *o = json_object_new_object();

	add_string(o, "type", machine->name);
	add_bool(o, "acpi", machine->acpi);
	add_bool(o, "i8042", machine->i8042);
	add_string(o, "kernel-irqchip",
		   machine->irqchip_given ? irqchip_name(machine->irqchip) : "auto");
	add_bool(o, "hpet", machine->hpet);
	add_bool(o, "rtc", machine->rtc);
	add_bool(o, "pcie", machine->pcie);
	return o;
}

static struct json_object *accel_to_json(const struct desc_accel *accel)
{
	struct json_object *o = json_object_new_array();

	for (unsigned i = 0; i < accel->n; i++)
		json_object_array_add(o, json_object_new_string(accel->names[i]));
	return o;
}

static struct json_object *features_to_json(const uint32_t words[CPU_WORDS])
{
	struct json_object *o = json_object_new_array();

	for (const struct cpu_feature *f = cpu_features; f->name; f++) {
		if (words[f->word] & 1u << f->bit)
			json_object_array_add(o, json_object_new_string(f->name));
	}
	return o;
}

static struct json_object *cpu_to_json(const struct cpu_config *cpu)
{
	struct json_object *o = json_object_new_object();

	add_string(o, "model", cpu->model->name);
	add(o, "on", features_to_json(cpu->on));
	add(o, "off", features_to_json(cpu->off));
	add_bool(o, "kvm", cpu->kvm);
	add_bool(o, "pmu", cpu->pmu);
	add_bool(o, "migratable", cpu->migratable);
	add_bool(o, "check", cpu->check);
	add_bool(o, "enforce", cpu->enforce);
	return o;
}

static struct json_object *smp_to_json(const struct desc_smp *smp)
{
	struct json_object *o = json_object_new_object();

	add_number(o, "cpus", smp->cpus);
	add_number(o, "sockets", smp->sockets);
	add_number(o, "dies", smp->dies);
	add_number(o, "cores", smp->cores);
	add_number(o, "threads", smp->threads);
	return o;
}

static struct json_object *memory_to_json(const struct desc_memory *memory)
{
	struct json_object *o = json_object_new_object();

	add_number(o, "size", memory->size);
	add_string(o, "backend", memory->backend);
	add_bool(o, "shared", memory->shared);
	add_bool(o, "prealloc", memory->prealloc);
	add_bool(o, "merge", memory->merge);
	add_bool(o, "dump", memory->dump);
	add_bool(o, "hugepages", memory->hugepages);
	if (memory->hugepage_size)
		add_number(o, "hugepage-size", memory->hugepage_size);
	return o;
}

static struct json_object *boot_to_json(const struct description *desc)
{
	struct json_object *o = json_object_new_object();

	add_string(o, "kernel", desc->kernel);
	add_string(o, "initrd", desc->initrd);
	add_string(o, "append", desc->append);
	add_string(o, "order", desc->boot.order);
	add_string(o, "once", desc->boot.once);
	add_bool(o, "menu", desc->boot.menu);
	add_bool(o, "strict", desc->boot.strict);
	return o;
}

static struct json_object *rtc_to_json(const struct desc_rtc *rtc)
{
	static const char *const bases[] = { "utc", "localtime", "date" };
	struct json_object *o = json_object_new_object();

	add_string(o, "base", bases[rtc->base]);
	if (rtc->base == RTC_DATE)
		add(o, "date", json_object_new_int64(rtc->date));
	add_string(o, "clock", rtc->vm_clock ? "vm" : "host");
	return o;
}

static void add_identity(struct json_object *o, const struct description *desc)
{
	char uuid[sizeof("xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx")], *p = uuid;

	add_string(o, "name", desc->name.guest);
	add_string(o, "process-name", desc->name.process);
	add_bool(o, "debug-threads", desc->name.debug_threads);
	if (!desc->has_uuid)
		return;
	for (unsigned i = 0; i < 16; i++)
		p += sprintf(p, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "",
			     desc->uuid[i]);
	add_string(o, "uuid", uuid);
}

/* One item: what kind it is, its id, its properties. */
static void add_item(struct json_object *array, const char *key, const char *kind,
		     const struct desc_item *item)
{
	struct json_object *o = json_object_new_object();

	if (key)
		add_string(o, key, kind);
	add_string(o, "id", item->id);
	add(o, "props", props_to_json(item->props));
	json_object_array_add(array, o);
}

static void add_lists(struct json_object *o, const struct description *desc)
{
	struct json_object *objects = json_object_new_array(), *chardevs = json_object_new_array();
	struct json_object *netdevs = json_object_new_array(), *drives = json_object_new_array();
	struct json_object *devices = json_object_new_array();

	for (size_t i = 0; i < desc->objects.n; i++)
		add_item(objects, "qom-type", desc->objects.items[i].object->name,
			 &desc->objects.items[i]);
	for (size_t i = 0; i < desc->chardevs.n; i++)
		add_item(chardevs, "backend", desc->chardevs.items[i].chardev->name,
			 &desc->chardevs.items[i]);
	for (size_t i = 0; i < desc->netdevs.n; i++)
		add_item(netdevs, "type", desc->netdevs.items[i].netdev->name,
			 &desc->netdevs.items[i]);
	for (size_t i = 0; i < desc->drives.n; i++)
		add_item(drives, NULL, NULL, &desc->drives.items[i]);
	for (size_t i = 0; i < desc->devices.n; i++)
		add_item(devices, "driver", desc->devices.items[i].device->name,
			 &desc->devices.items[i]);
	add(o, "objects", objects);
	add(o, "chardevs", chardevs);
	add(o, "netdevs", netdevs);
	add(o, "drives", drives);
	add(o, "devices", devices);
}

static struct json_object *monitors_to_json(const struct description *desc)
{
	struct json_object *array = json_object_new_array();

	for (size_t i = 0; i < desc->n_monitors; i++) {
		const struct desc_monitor *m = &desc->monitors[i];
		struct json_object *o = json_object_new_object();

		add_string(o, "id", m->id);
		add_string(o, "chardev", m->chardev);
		add_string(o, "mode", m->control ? "control" : "readline");
		add_bool(o, "pretty", m->pretty);
		json_object_array_add(array, o);
	}
	return array;
}

static struct json_object *fds_to_json(const struct description *desc)
{
	struct json_object *array = json_object_new_array();

	for (size_t i = 0; i < desc->n_fds; i++) {
		struct json_object *o = json_object_new_object();

		add_number(o, "fd", desc->fds[i].fd);
		add_number(o, "set", desc->fds[i].set);
		add_string(o, "opaque", desc->fds[i].opaque);
		json_object_array_add(array, o);
	}
	return array;
}

static struct json_object *serials_to_json(const struct description *desc)
{
	struct json_object *array = json_object_new_array();

	for (unsigned i = 0; i < desc->n_serials; i++)
		json_object_array_add(array, json_object_new_string(desc->serials[i]));
	return array;
}

static struct json_object *process_to_json(const struct description *desc)
{
	struct json_object *o = json_object_new_object(), *items = json_object_new_array();

	add_bool(o, "stopped", desc->stopped);
	add_bool(o, "no-reboot", desc->no_reboot);
	add_bool(o, "no-shutdown", desc->no_shutdown);
	add_bool(o, "daemonize", desc->daemonize);
	add_bool(o, "sandbox", desc->sandbox);
	add_bool(o, "sandbox-trap", desc->sandbox_trap);
	add_string(o, "display", desc->display);
	add_string(o, "pidfile", desc->pidfile);
	add_string(o, "log-file", desc->log_file);
	for (const struct log_item_name *i = log_item_names; i->name; i++) {
		if (desc->log_items & i->item)
			json_object_array_add(items, json_object_new_string(i->name));
	}
	add(o, "log-items", items);
	return o;
}

struct json_object *description_to_json(const struct description *desc)
{
	struct json_object *o = json_object_new_object();

	add_identity(o, desc);
	add(o, "machine", machine_to_json(&desc->machine));
	add(o, "accel", accel_to_json(&desc->accel));
	add(o, "cpu", cpu_to_json(&desc->cpu));
	add(o, "smp", smp_to_json(&desc->smp));
	add(o, "memory", memory_to_json(&desc->memory));
	add(o, "boot", boot_to_json(desc));
	add(o, "rtc", rtc_to_json(&desc->rtc));
	add_lists(o, desc);
	add(o, "serials", serials_to_json(desc));
	add(o, "monitors", monitors_to_json(desc));
	add_string(o, "gdb", desc->gdb);
	add(o, "fds", fds_to_json(desc));
	add(o, "process", process_to_json(desc));
	return o;
}

void description_print(const struct description *desc)
{
	struct json_object *o = description_to_json(desc);

	puts(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY |
						       JSON_C_TO_STRING_NOSLASHESCAPE));
	json_object_put(o);
}

static void free_strings(char **strings, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(strings[i]);
}

void description_free(struct description *desc)
{
	if (!desc)
		return;
	free_strings((char *[]){ desc->boot.order, desc->boot.once, desc->name.guest,
				 desc->name.process, desc->kernel, desc->initrd, desc->append,
				 desc->pidfile, desc->log_file, desc->gdb },
		     10);
	free_strings(desc->serials, desc->n_serials);
	free_strings(desc->notes, desc->n_notes);
	free(desc->notes);
	for (size_t i = 0; i < desc->n_monitors; i++) {
		free(desc->monitors[i].id);
		free(desc->monitors[i].chardev);
	}
	free(desc->monitors);
	for (size_t i = 0; i < desc->n_fds; i++)
		free(desc->fds[i].opaque);
	free(desc->fds);
	list_free(&desc->objects);
	list_free(&desc->chardevs);
	list_free(&desc->netdevs);
	list_free(&desc->drives);
	list_free(&desc->devices);
	free(desc);
}
