/*
 * A machine without a VM for tests of platform devices: buses, interrupts, a main loop that runs
 * when the test says so, and a character device that is an array.
 */
#ifndef REVIRT_TESTS_PLATFORM_FIXTURE_H
#define REVIRT_TESTS_PLATFORM_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/loop.h"
#include "base/util.h"
#include "chardev/chardev.h"
#include "machine/backends.h"
#include "machine/device_list.h"
#include "machine/machine.h"

/* --- The character device: what it was given, and how much more it takes ---- */

struct chardev {
	const struct chardev_handler *handler;
	void *opaque;
	uint8_t out[256];
	size_t n_out, room;
	unsigned accepts; /* calls of chardev_accept_input */
};

static struct chardev test_chardev;

int chardev_attach(struct chardev *chr, const struct chardev_handler *handler, void *opaque,
		   struct error **err)
{
	chr->handler = handler;
	chr->opaque = opaque;
	return 0;
}

size_t chardev_write_from(struct chardev *chr, void *frontend, const void *data, size_t len)
{
	size_t n = MIN(len, MIN(chr->room, sizeof(chr->out) - chr->n_out));

	memcpy(chr->out + chr->n_out, data, n);
	chr->n_out += n;
	chr->room -= n;
	return n;
}

void chardev_accept_input(struct chardev *chr)
{
	chr->accepts++;
}

/* --- The machine ---- */

struct happenings {
	unsigned shutdowns, resets, panics, exits;
	enum machine_cause cause;
	const char *action;
	int status;
};

static struct machine m;
static struct happenings happened;

static inline void on_shutdown(void *opaque, enum machine_cause cause)
{
	happened.shutdowns++;
	happened.cause = cause;
}

static inline void on_reset(void *opaque, enum machine_cause cause)
{
	happened.resets++;
	happened.cause = cause;
}

static inline void on_panicked(void *opaque, const char *action)
{
	happened.panics++;
	happened.action = action;
}

static inline void on_exit_status(void *opaque, int status)
{
	happened.exits++;
	happened.status = status;
}

static inline int setup_machine(void **state)
{
	struct error *err = NULL;

	m = (struct machine){
		.io = bus_new(HAV_SPACE_IO, NULL),
		.memory = bus_new(HAV_SPACE_MEMORY, NULL),
		.main_loop = loop_new(&err),
		.backends = backends_new(),
		.events = { .shutdown = on_shutdown,
			    .reset = on_reset,
			    .panicked = on_panicked,
			    .exit = on_exit_status },
		.mem = { .low_size = 2 * GIB, .high_size = 3 * GIB },
		.n_vcpus = 4,
	};
	happened = (struct happenings){ 0 };
	test_chardev = (struct chardev){ .room = SIZE_MAX };
	irqs_init(&m.irqs, NULL);
	return backends_add(m.backends, BACKEND_CHARDEV, "chr", &test_chardev, &err);
}

static inline int teardown_machine(void **state)
{
	machine_destroy_devices(&m);
	if (m.pci)
		pci_host_free(m.pci);
	backends_free(m.backends);
	loop_free(m.main_loop);
	bus_free(m.io);
	bus_free(m.memory);
	return 0;
}

/* Plugs a device in; -1 with the message of the error in `message` when that is not possible. */
static char message[256];

static inline int try_plug(const struct device_class *class, const char *options)
{
	const struct prop *const tables[] = { class->props, device_common_props(class->bus), NULL };
	struct error *err ERROR_AUTO = NULL;
	struct props *props = props_parse(options, NULL, tables, &err);
	int result = -1;

	if (props)
		result = machine_add_device(&m, class, props, &err);
	props_free(props);
	if (result < 0)
		snprintf(message, sizeof(message), "%s", error_message(err));
	return result;
}

static inline struct device *plug(const struct device_class *class, const char *options)
{
	if (try_plug(class, options) < 0)
		fail_msg("%s", message);
	return m.last_device;
}

static inline void out(uint16_t port, uint8_t value)
{
	bus_write(m.io, port, 1, value);
}

static inline uint8_t in(uint16_t port)
{
	return bus_read(m.io, port, 1);
}

static inline bool irq_is_high(unsigned gsi)
{
	return m.irqs.high[gsi];
}

/* Runs the main loop for some milliseconds: posted calls and timers. */
static inline void stop_loop(void *opaque)
{
	loop_stop(opaque);
}

static inline void run_loop(unsigned ms)
{
	struct loop_timer *timer = loop_timer_new(m.main_loop, stop_loop, m.main_loop);

	loop_timer_set(timer, now_ns() + ms * UINT64_C(1000000));
	loop_run(m.main_loop);
	loop_timer_free(timer);
}

#define RUN_TESTS(name, tests)                     \
	(cmocka_set_message_output(CM_OUTPUT_TAP), \
	 cmocka_run_group_tests_name(name, tests, NULL, NULL))
#define MACHINE_TEST(f) cmocka_unit_test_setup_teardown(f, setup_machine, teardown_machine)

#endif
