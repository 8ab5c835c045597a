/*
 * QMP's query commands, with the members and types of QEMU 7.2; the larger ones have files of their
 * own.
 */
#include "revirter/qmp_internal.h"

#include "base/error.h"
#include "base/util.h"
#include "block/block.h"
#include "chardev/chardev.h"
#include "hav.h"
#include "machine/backends.h"
#include "machine/iothread.h"
#include "machine/vcpu.h"
#include "revirter/description.h"
#include "revirter/qmp_pci.h"
#include "revirter/vm.h"
#include "virtio/balloon.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void add_string(struct json_object *to, const char *name, const char *value)
{
	json_object_object_add(to, name, json_object_new_string(value));
}

static void add_int(struct json_object *to, const char *name, int64_t value)
{
	json_object_object_add(to, name, json_object_new_int64(value));
}

static void add_bool(struct json_object *to, const char *name, bool value)
{
	json_object_object_add(to, name, json_object_new_boolean(value));
}

/* --- What this is ---- */

static struct json_object *query_version(const struct qmp_call *call, struct error **err)
{
	struct json_object *result = json_object_new_object(), *qemu = json_object_new_object();

	add_int(qemu, "micro", QMP_QEMU_MICRO);
	add_int(qemu, "minor", QMP_QEMU_MINOR);
	add_int(qemu, "major", QMP_QEMU_MAJOR);
	json_object_object_add(result, "qemu", qemu);
	add_string(result, "package", "revirter " REVIRT_VERSION);
	return result;
}

static struct json_object *query_name(const struct qmp_call *call, struct error **err)
{
	struct json_object *result = json_object_new_object();

	if (call->vm->desc->name.guest)
		add_string(result, "name", call->vm->desc->name.guest);
	return result;
}

static struct json_object *query_uuid(const struct qmp_call *call, struct error **err)
{
	struct json_object *result = json_object_new_object();
	const uint8_t *u = call->vm->desc->uuid;
	char text[37];

	snprintf(text, sizeof(text),
		 "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", u[0], u[1],
		 u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13], u[14],
		 u[15]);
	add_string(result, "UUID", text);
	return result;
}

static struct json_object *query_status(const struct qmp_call *call, struct error **err)
{
	struct json_object *result = json_object_new_object();

	add_string(result, "status", vm_state_name(call->vm->state));
	add_bool(result, "singlestep", false);
	add_bool(result, "running", vm_is_running(call->vm));
	return result;
}

static struct json_object *query_kvm(const struct qmp_call *call, struct error **err)
{
	struct json_object *result = json_object_new_object();
	bool present = false;

	for (unsigned i = 0; hav_backend_at(i); i++)
		present = present || strcmp(hav_backend_at(i), "kvm") == 0;
	add_bool(result, "enabled", strcmp(hav_backend_name(call->vm->machine.hav), "kvm") == 0);
	add_bool(result, "present", present);
	return result;
}

static struct json_object *names(const char *(*at)(unsigned n))
{
	struct json_object *result = json_object_new_array(), *entry;

	for (unsigned i = 0; at(i); i++) {
		entry = json_object_new_object();
		add_string(entry, "name", at(i));
		json_object_array_add(result, entry);
	}
	return result;
}

static const char *command_name(unsigned n)
{
	const struct qmp_command *command = qmp_command_at(n);

	return command ? command->name : NULL;
}

static const char *event_name(unsigned n)
{
	return qmp_event_names[n];
}

static struct json_object *query_commands(const struct qmp_call *call, struct error **err)
{
	return names(command_name);
}

static struct json_object *query_events(const struct qmp_call *call, struct error **err)
{
	return names(event_name);
}

/* --- Processors, memory, threads ---- */

/* Threads of a core are neighbours, then cores, dies, sockets: as the APIC ids. */
static struct json_object *cpu_place(const struct desc_smp *smp, unsigned cpu)
{
	struct json_object *props = json_object_new_object();

	add_int(props, "core-id", cpu / smp->threads % smp->cores);
	add_int(props, "thread-id", cpu % smp->threads);
	if (smp->dies > 1)
		add_int(props, "die-id", cpu / smp->threads / smp->cores % smp->dies);
	add_int(props, "socket-id", cpu / smp->threads / smp->cores / smp->dies);
	return props;
}

static struct json_object *query_cpus_fast(const struct qmp_call *call, struct error **err)
{
	struct json_object *result = json_object_new_array();
	const struct machine *machine = &call->vm->machine;

	for (unsigned i = 0; i < machine->n_vcpus; i++) {
		struct json_object *cpu = json_object_new_object();
		char path[64];

		snprintf(path, sizeof(path), "/machine/unattached/device[%u]", i);
		add_int(cpu, "thread-id", machine->vcpus[i].tid);
		json_object_object_add(cpu, "props", cpu_place(&call->vm->desc->smp, i));
		add_string(cpu, "qom-path", path);
		add_int(cpu, "cpu-index", i);
		add_string(cpu, "target", "x86_64");
		json_object_array_add(result, cpu);
	}
	return result;
}

/* As QEMU: for people, and only where code is translated. */
static struct json_object *query_jit(const struct qmp_call *call, struct error **err)
{
	struct json_object *result;
	char *text AUTO_FREE = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);
	struct hav_code_cache cache;
	bool any = false;

	if (!out)
		abort();
	for (unsigned i = 0; i < call->vm->machine.n_vcpus; i++) {
		if (!hav_vcpu_code_cache(call->vm->machine.vcpus[i].hav, &cache))
			continue;
		any = true;
		fprintf(out,
			"CPU #%u: code %" PRIu64 " of %" PRIu64 " KiB, pages %u of %u, "
			"instructions %u of %u, flushed %u times\n",
			i, cache.used >> 10, cache.size >> 10, cache.pages, cache.max_pages,
			cache.origins, cache.max_origins, cache.flushes);
	}
	fclose(out);
	if (!any) {
		error_set(err, "JIT information is only available with accel=soft");
		return NULL;
	}
	result = json_object_new_object();
	add_string(result, "human-readable-text", text);
	return result;
}

static struct json_object *query_memory_size_summary(const struct qmp_call *call,
						     struct error **err)
{
	struct json_object *result = json_object_new_object();

	add_int(result, "base-memory", call->vm->machine.mem.size);
	add_int(result, "plugged-memory", 0);
	return result;
}

static struct json_object *query_balloon(const struct qmp_call *call, struct error **err)
{
	struct device *balloon = balloon_find(&call->vm->machine);
	struct json_object *result;

	if (!balloon) {
		error_set(err, "No balloon device has been activated");
		error_set_class(err, "DeviceNotActive");
		return NULL;
	}
	result = json_object_new_object();
	add_int(result, "actual", balloon_actual(balloon));
	return result;
}

/* I/O threads sleep until they are woken: there is no polling whose bounds could be told. */
static struct json_object *query_iothreads(const struct qmp_call *call, struct error **err)
{
	struct backends *backends = call->vm->machine.backends;
	struct json_object *result = json_object_new_array();
	struct iothread *iothread;
	const char *id;

	for (unsigned i = 0; (iothread = backends_at(backends, BACKEND_IOTHREAD, i, &id, NULL));
	     i++) {
		struct json_object *entry = json_object_new_object();

		add_string(entry, "id", id);
		add_int(entry, "thread-id", iothread_tid(iothread));
		add_int(entry, "poll-max-ns", 0);
		add_int(entry, "poll-grow", 0);
		add_int(entry, "poll-shrink", 0);
		add_int(entry, "aio-max-batch", 0);
		json_object_array_add(result, entry);
	}
	return result;
}

/* --- Character devices ---- */

static void add_chardev(struct json_object *list, const char *label, const char *filename,
			bool frontend_open)
{
	struct json_object *entry = json_object_new_object();

	add_bool(entry, "frontend-open", frontend_open);
	add_string(entry, "filename", filename);
	add_string(entry, "label", label);
	json_object_array_add(list, entry);
}

static struct json_object *query_chardev(const struct qmp_call *call, struct error **err)
{
	struct backends *backends = call->vm->machine.backends;
	struct json_object *result = json_object_new_array();
	struct chardev *chr;

	for (unsigned i = 0; (chr = backends_at(backends, BACKEND_CHARDEV, i, NULL, NULL)); i++) {
		const char *base = chardev_base_filename(chr);

		add_chardev(result, chardev_id(chr), chardev_filename(chr),
			    chardev_frontend_open(chr));
		if (base) {
			char *label AUTO_FREE = xasprintf("%s-base", chardev_id(chr));

			add_chardev(result, label, base, true);
		}
	}
	return result;
}

/* --- Disks ---- */

static bool is_one_of(const char *word, const char *a, const char *b)
{
	return strcmp(word, a) == 0 || strcmp(word, b) == 0;
}

/* cache=MODE, and what is said of its parts one by one. */
static struct json_object *block_cache(const struct props *props, const struct block_info *info)
{
	struct json_object *cache = json_object_new_object();
	const char *mode = props_str(props, "cache");
	bool direct = props_has(props, "cache.direct") ? props_bool(props, "cache.direct")
						       : is_one_of(mode, "none", "directsync");
	bool no_flush = props_has(props, "cache.no-flush") ? props_bool(props, "cache.no-flush")
							   : strcmp(mode, "unsafe") == 0;

	add_bool(cache, "no-flush", no_flush);
	add_bool(cache, "direct", direct);
	add_bool(cache, "writeback", info->write_cache);
	return cache;
}

static struct json_object *block_image(const struct block *block, const struct block_info *info)
{
	struct json_object *image = json_object_new_object();

	add_int(image, "virtual-size", info->size);
	add_string(image, "filename", block_filename(block));
	add_string(image, "format", block_format(block));
	add_int(image, "actual-size", block_allocated(block));
	add_bool(image, "dirty-flag", false);
	return image;
}

static const char *const no_limits[] = { "iops", "iops_rd", "iops_wr", "bps", "bps_rd", "bps_wr" };

static struct json_object *block_inserted(const struct block *block, const struct props *props)
{
	struct json_object *inserted = json_object_new_object();
	const char *node = props_str(props, "node-name");
	struct block_info info;

	block_get_info(block, &info);
	for (unsigned i = 0; i < ARRAY_SIZE(no_limits); i++)
		add_int(inserted, no_limits[i], 0);
	add_string(inserted, "detect_zeroes", props_str(props, "detect-zeroes"));
	json_object_object_add(inserted, "image", block_image(block, &info));
	add_bool(inserted, "ro", info.read_only);
	add_string(inserted, "node-name", node ? node : block_id(block));
	add_int(inserted, "backing_file_depth", 0);
	add_string(inserted, "drv", block_format(block));
	add_int(inserted, "write_threshold", 0);
	add_bool(inserted, "encrypted", false);
	json_object_object_add(inserted, "cache", block_cache(props, &info));
	add_string(inserted, "file", block_filename(block));
	return inserted;
}

/* The -device that stands on the drive; NULL: none. */
static const struct desc_item *drive_user(const struct description *desc, const char *drive)
{
	for (size_t i = 0; i < desc->devices.n; i++) {
		const struct desc_item *item = &desc->devices.items[i];
		const struct prop *p = item->device->props;

		while (p && p->name && strcmp(p->name, "drive") != 0)
			p++;
		if (p && p->name && props_has(item->props, "drive") &&
		    strcmp(props_str(item->props, "drive"), drive) == 0)
			return item;
	}
	return NULL;
}

static struct json_object *block_entry(const struct description *desc, const struct desc_item *item,
				       const struct block *block)
{
	struct json_object *entry = json_object_new_object();
	const struct desc_item *user = drive_user(desc, item->id);

	add_string(entry, "io-status", "ok");
	add_string(entry, "device", item->id);
	add_bool(entry, "locked", false);
	add_bool(entry, "removable", false);
	json_object_object_add(entry, "inserted", block_inserted(block, item->props));
	if (user) {
		char *path AUTO_FREE = xasprintf("/machine/peripheral/%s/virtio-backend",
						 user->id ? user->id : item->id);

		add_string(entry, "qdev", path);
	}
	add_string(entry, "type", "unknown");
	return entry;
}

static struct json_object *query_block(const struct qmp_call *call, struct error **err)
{
	const struct description *desc = call->vm->desc;
	struct json_object *result = json_object_new_array();

	for (size_t i = 0; i < desc->drives.n; i++) {
		const struct desc_item *item = &desc->drives.items[i];
		struct block *block =
			backends_find(call->vm->machine.backends, BACKEND_BLOCK, item->id);

		if (block)
			json_object_array_add(result, block_entry(desc, item, block));
	}
	return result;
}

/* --- PCI ---- */

static struct json_object *query_pci(const struct qmp_call *call, struct error **err)
{
	return qmp_describe_pci(call->vm->machine.pci);
}

const struct qmp_command qmp_query_commands[] = {
	{ "query-balloon", NULL, query_balloon },
	{ "query-block", NULL, query_block },
	{ "query-chardev", NULL, query_chardev },
	{ "query-commands", NULL, query_commands },
	{ "query-cpus-fast", NULL, query_cpus_fast },
	{ "query-events", NULL, query_events },
	{ "query-iothreads", NULL, query_iothreads },
	{ "query-kvm", NULL, query_kvm },
	{ "query-memory-size-summary", NULL, query_memory_size_summary },
	{ "query-name", NULL, query_name },
	{ "query-pci", NULL, query_pci },
	{ "query-status", NULL, query_status },
	{ "query-uuid", NULL, query_uuid },
	{ "query-version", NULL, query_version },
	{ "x-query-jit", NULL, query_jit },
	{},
};
