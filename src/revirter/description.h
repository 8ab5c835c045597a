/*
 * The machine description: what the whole command line meant, in one tree of named, checked values.
 *
 * The dialect makes it from argv, resolving every convenience of QEMU's language (-hda, -nic,
 * -serial mon:stdio, -machine accel=…) into plain items; assemble.c builds a machine from it;
 * nothing below knows of options. It is frozen when dialect_parse() returns. All that can be
 * checked without looking at the host has been: types, ranges, known names, unique ids, and that
 * every id that is referred to exists.
 */
#ifndef REVIRT_REVIRTER_DESCRIPTION_H
#define REVIRT_REVIRTER_DESCRIPTION_H

#include "base/props.h"
#include "hav.h"
#include "machine/machine.h"
#include "x86/cpuid_features.h"

struct chardev_class;
struct json_object;
struct netdev_class;

/* A type of -object; what each means is assemble.c's business. */
enum object_kind {
	OBJECT_MEMORY_RAM,   /* size share prealloc merge dump */
	OBJECT_MEMORY_MEMFD, /* the same, and hugetlb hugetlbsize seal */
	OBJECT_RNG_RANDOM,   /* filename */
	OBJECT_RNG_BUILTIN,
	OBJECT_IOTHREAD,
};
struct object_class {
	const char *name; /* "rng-random" */
	enum object_kind kind;
	const char *desc;
	const struct prop *props, *more; /* more: NULL where there are none */
};
extern const struct object_class object_classes[]; /* ends with an entry without a name */

/* One thing with an id, made in the order of its list. */
struct desc_item {
	char *id; /* NULL: a device without one */
	union {   /* which one, the list tells; drives have none */
		const struct device_class *device;
		const struct netdev_class *netdev;
		const struct chardev_class *chardev;
		const struct object_class *object;
	};
	struct props *props; /* checked against the class's tables */
};
struct desc_list {
	struct desc_item *items;
	size_t n;
};

struct desc_machine {
	enum machine_type type;
	const char *name; /* the versioned name: "pc-q35-7.2", "microvm" */
	bool acpi, i8042, rtc, pcie;
	/* Whether the accelerator's interrupt controllers are used; not given: as far as it has
	 * them. */
	enum hav_irqchip irqchip;
	bool irqchip_given;
	bool hpet, hpet_given; /* only beside an IOAPIC of ours */
};

#define DESC_MAX_ACCELS 4
struct desc_accel {
	const char *names[DESC_MAX_ACCELS]; /* libhav backends, to be tried in this order */
	unsigned n;                         /* 0: whichever libhav takes */
	bool plain;                         /* this and the next: struct hav_vm_config */
	enum hav_translation translation;
};

struct desc_memory {
	uint64_t size;       /* bytes, never 0, a multiple of 8 KiB */
	const char *backend; /* the -object it is; NULL: anonymous memory */
	bool shared, prealloc, merge, dump, hugepages;
	uint64_t hugepage_size; /* 0: the host's default */
};

/* cpus == sockets * dies * cores * threads, 1 to MACHINE_MAX_VCPUS */
struct desc_smp {
	unsigned cpus, sockets, dies, cores, threads;
};

enum desc_rtc_base { RTC_UTC, RTC_LOCALTIME, RTC_DATE };
struct desc_rtc {
	enum desc_rtc_base base;
	int64_t date;  /* RTC_DATE: seconds since 1970, what the guest's clock shows at start */
	bool vm_clock; /* clock=vm: stands still while the VM does */
};

struct desc_boot {
	char *order, *once; /* letters a, c, d, n; NULL: not given */
	bool menu, strict;
};

struct desc_name {
	char *guest;   /* NULL: none */
	char *process; /* NULL: leave it */
	bool debug_threads;
};

struct desc_monitor {
	char *id;      /* may be NULL */
	char *chardev; /* id of a chardev */
	bool control;  /* QMP; else human */
	bool pretty;
};

struct desc_fd {
	int fd;
	uint64_t set;
	char *opaque; /* may be NULL */
};

#define DESC_MAX_SERIALS 4

enum desc_action {
	DESC_RUN,
	DESC_DUMP_CONFIG, /* -x-dump-config: print it and end */
	DESC_CALIBRATE,   /* -x-calibrate: measure libhav's backends and end */
};

struct description {
	enum desc_action action;
	struct desc_machine machine;
	struct desc_accel accel;
	struct cpu_config cpu;
	struct desc_smp smp;
	struct desc_memory memory;
	struct desc_boot boot;
	struct desc_rtc rtc;
	struct desc_name name;
	bool has_uuid;
	uint8_t uuid[16]; /* in the order it is written */

	char *kernel, *initrd, *append; /* NULL: not given; DESC_RUN always has a kernel */

	struct desc_list objects, chardevs, netdevs, drives, devices;
	unsigned n_serials;
	char *serials[DESC_MAX_SERIALS]; /* chardev ids, COM1 first */
	struct desc_monitor *monitors;
	size_t n_monitors;
	char *gdb;           /* chardev id; NULL: no gdb stub */
	struct desc_fd *fds; /* -add-fd */
	size_t n_fds;

	bool stopped; /* -S */
	bool no_reboot, no_shutdown, daemonize;
	bool nodefaults, nographic;
	bool sandbox;        /* true unless -sandbox off */
	bool sandbox_trap;   /* -x-sandbox-trap: say which system call was forbidden */
	const char *display; /* "none" */
	char *pidfile, *log_file;
	unsigned log_items;

	char **notes; /* lines the user should read, to be logged by who runs this */
	size_t n_notes;
};

/* The item of that id, or NULL. */
const struct desc_item *desc_find(const struct desc_list *list, const char *id);

struct json_object *description_to_json(const struct description *desc); /* the caller puts it */
/* Prints it as indented JSON on standard output. */
void description_print(const struct description *desc);
void description_free(struct description *desc); /* NULL is fine */

#endif
