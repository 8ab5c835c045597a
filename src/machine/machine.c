/* The machine as a whole: its devices, and what it tells the outside. See machine.h and device.h.
 */
#include "machine/machine.h"

#include "base/error.h"
#include "base/util.h"
#include "machine/vclock.h"

#include <string.h>

static const struct {
	const char *name;
	bool guest;
} causes[] = {
	[CAUSE_HOST_QMP_QUIT] = { "host-qmp-quit", false },
	[CAUSE_HOST_QMP_SYSTEM_RESET] = { "host-qmp-system-reset", false },
	[CAUSE_HOST_SIGNAL] = { "host-signal", false },
	[CAUSE_HOST_UI] = { "host-ui", false },
	[CAUSE_GUEST_SHUTDOWN] = { "guest-shutdown", true },
	[CAUSE_GUEST_RESET] = { "guest-reset", true },
	[CAUSE_GUEST_PANIC] = { "guest-panic", true },
	[CAUSE_HOST_ERROR] = { "host-error", false },
};

const char *machine_cause_name(enum machine_cause cause)
{
	return causes[cause].name;
}

bool machine_cause_is_guest(enum machine_cause cause)
{
	return causes[cause].guest;
}

void machine_shutdown(struct machine *machine, enum machine_cause cause)
{
	machine->events.shutdown(machine->events.opaque, cause);
}

void machine_reset_request(struct machine *machine, enum machine_cause cause)
{
	machine->events.reset(machine->events.opaque, cause);
}

static const struct prop id_props[] = {
	{ "id", PROP_STRING, .help = "name other options and QMP know it by" },
	{},
};

static const struct prop pci_props[] = {
	{ "id", PROP_STRING, .help = "name other options and QMP know it by" },
	{ "bus", PROP_STRING, .help = "PCI bus: pcie.0, or a root port's id" },
	{ "addr", PROP_ADDR, .help = "slot and function on that bus, as in lspci" },
	{},
};

const struct prop *device_common_props(const char *bus_kind)
{
	return strcmp(bus_kind, "PCI") == 0 ? pci_props : id_props;
}

int machine_add_device(struct machine *machine, const struct device_class *class,
		       const struct props *props, struct error **err)
{
	const char *id = props_str(props, "id");
	struct device *device;

	if (id && machine_find_device(machine, id)) {
		error_set(err, "there are two devices with id '%s'; ids must differ", id);
		return -1;
	}
	if (class->create(machine, props, &device, err) < 0) {
		error_prefix(err, "-device %s: ", class->name);
		return -1;
	}
	device->class = class;
	device->machine = machine;
	device->id = id ? xstrdup(id) : NULL;
	if (machine->last_device)
		machine->last_device->next = device;
	else
		machine->devices = device;
	machine->last_device = device;
	return 0;
}

struct device *machine_find_device(struct machine *machine, const char *id)
{
	for (struct device *d = machine->devices; d; d = d->next)
		if (d->id && strcmp(d->id, id) == 0)
			return d;
	return NULL;
}

void machine_reset_devices(struct machine *machine)
{
	for (struct device *d = machine->devices; d; d = d->next)
		if (d->class->reset)
			d->class->reset(d);
}

void machine_pause_devices(struct machine *machine)
{
	for (struct device *d = machine->devices; d; d = d->next)
		if (d->class->pause)
			d->class->pause(d);
	if (machine->clock)
		vclock_stop(machine->clock);
}

void machine_resume_devices(struct machine *machine)
{
	if (machine->clock)
		vclock_go(machine->clock);
	for (struct device *d = machine->devices; d; d = d->next)
		if (d->class->resume)
			d->class->resume(d);
}

/* Last made, first gone: devices behind bridges and on device buses go before what they are on. */
void machine_destroy_devices(struct machine *machine)
{
	while (machine->devices) {
		struct device **last = &machine->devices, *device;

		while ((*last)->next)
			last = &(*last)->next;
		device = *last;
		*last = NULL;
		free(device->id);
		if (device->class->destroy)
			device->class->destroy(device);
	}
	machine->last_device = NULL;
}
