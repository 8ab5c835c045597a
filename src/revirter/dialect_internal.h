/*
 * Between the files of the dialect.
 *
 * Each option is a row of dialect_options[] (dialect.c). Options that several occurrences add up in
 * (-machine, -m, -smp, …) are collected as text and read when all of argv is known; what makes an
 * item each time (-device, -drive, …) is read at once. dialect_finish() then puts the two together.
 */
#ifndef REVIRT_REVIRTER_DIALECT_INTERNAL_H
#define REVIRT_REVIRTER_DIALECT_INTERNAL_H

#include "revirter/description.h"

#include <stddef.h>

#define DIALECT_MAX_DISKS 64

struct dialect {
	struct description *desc;
	bool done;     /* help has been printed */
	char *subject; /* of the option at hand: errors begin "-device SUBJECT: " */

	/* Collected: "key=value,…" of all occurrences */
	char *machine, *memory, *smp, *boot, *rtc, *name, *sandbox;
	char *cpu, *uuid, *display;          /* the last occurrence */
	const char *accels[DESC_MAX_ACCELS]; /* of -accel, not yet checked against -machine's */
	unsigned n_accels;
	bool enable_kvm;

	/* Set by options that make QEMU leave out a default device */
	bool has_serial, has_monitor;
	bool no_serial_ports; /* microvm, isa-serial=off */
	unsigned n_legacy_monitors, n_nics;

	unsigned n_anonymous_drives; /* of if=none */

	struct desc_list nics; /* NICs of -nic: they come before -device */
	/* Disks of -hda and -drive if=virtio: they come after, in this order; at most one each */
	struct desc_list disks[DIALECT_MAX_DISKS];
};

enum option_group {
	GROUP_MACHINE,
	GROUP_BOOT,
	GROUP_DISKS,
	GROUP_NETWORK,
	GROUP_CHARDEV,
	GROUP_DEVICES,
	GROUP_PROCESS,
	GROUPS,
};
extern const char *const option_group_names[GROUPS];

enum option_kind {
	OPTION_CALL,    /* call(dialect, argument) */
	OPTION_FLAG,    /* no argument: the bool at `offset` of the description becomes true */
	OPTION_STRING,  /* the argument replaces the string at `offset` of the description */
	OPTION_LAST,    /* the argument replaces the string at `offset` of struct dialect */
	OPTION_COLLECT, /* the argument is added to the text at `offset` of struct dialect */
	OPTION_NOTHING, /* already so */
};

struct option {
	const char *name;
	const char *argument; /* how help shows it; NULL: the option has none */
	enum option_group group;
	enum option_kind kind;
	int (*call)(struct dialect *d, const char *argument, struct error **err);
	size_t offset;
	const char *implied; /* OPTION_COLLECT: the key of a first item that has none */
	const char *help;    /* NULL: not shown, another spelling */
};
extern const struct option dialect_options[]; /* ends with an entry without a name */

/* --- dialect_items.c: "KIND,key=value,…" and its JSON form ---- */

struct item_source {
	char *kind;               /* "virtio-blk-pci"; NULL: none was named */
	char *text;               /* the other items; NULL for JSON */
	struct json_object *json; /* the other members */
	bool help;                /* the word "help" is among the items */
};

/* Takes KIND, the value of `key` (the first item may leave the key out), from the argument. */
int item_split(const char *argument, const char *key, bool json_too, struct item_source *source,
	       struct error **err);
struct props *item_props(const struct item_source *source, const struct prop *const tables[],
			 struct error **err);
void item_clear(struct item_source *source);
#define ITEM_AUTO __attribute__((cleanup(item_clear)))

/* Adds "key=value,…" to what earlier occurrences said. */
void collect(char **text, const char *argument, const char *implied);
bool is_help(const char *text); /* "help" or "?" */
/* Letters, digits, '-', '.', '_', and a letter first, as QEMU wants ids. */
int check_id(const char *id, struct error **err);
/* Appends; takes over props. Error: there is one of that id. */
int list_add(struct desc_list *list, const char *id, const void *class, struct props *props,
	     struct error **err);
/* Moves all of src to the end of dst. */
void list_append(struct desc_list *dst, struct desc_list *src);
void list_free(struct desc_list *list);
void add_note(struct description *desc, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* "a, b, c" in the making: starts with NULL. */
void add_name(char **names, const char *name);

/* --- One each option, or what is done with it at the end ---- */

int option_accel(struct dialect *d, const char *argument, struct error **err);
int option_enable_kvm(struct dialect *d, const char *argument, struct error **err);
int option_no_acpi(struct dialect *d, const char *argument, struct error **err);
int option_no_hpet(struct dialect *d, const char *argument, struct error **err);
int finish_machine(struct dialect *d, struct error **err); /* with -accel, -m */

int option_cpu(struct dialect *d, const char *argument, struct error **err);
int finish_cpu(struct dialect *d, struct error **err);
int finish_smp(struct dialect *d, struct error **err);

int option_log_items(struct dialect *d, const char *argument, struct error **err);
int option_add_fd(struct dialect *d, const char *argument, struct error **err);
int option_dump_config(struct dialect *d, const char *argument, struct error **err);
int option_calibrate(struct dialect *d, const char *argument, struct error **err);
int finish_system(struct dialect *d, struct error **err); /* -boot -rtc -name -uuid -sandbox … */

int option_drive(struct dialect *d, const char *argument, struct error **err);
int option_blockdev(struct dialect *d, const char *argument, struct error **err);
int option_hda(struct dialect *d, const char *argument, struct error **err);
int option_hdb(struct dialect *d, const char *argument, struct error **err);

int option_netdev(struct dialect *d, const char *argument, struct error **err);
int option_nic(struct dialect *d, const char *argument, struct error **err);
int option_net(struct dialect *d, const char *argument, struct error **err);

int option_chardev(struct dialect *d, const char *argument, struct error **err);
int option_serial(struct dialect *d, const char *argument, struct error **err);
int option_monitor(struct dialect *d, const char *argument, struct error **err);
int option_qmp(struct dialect *d, const char *argument, struct error **err);
int option_qmp_pretty(struct dialect *d, const char *argument, struct error **err);
int option_gdb(struct dialect *d, const char *argument, struct error **err);
int option_s(struct dialect *d, const char *argument, struct error **err);
int option_mon(struct dialect *d, const char *argument, struct error **err);
int finish_chardevs(struct dialect *d, struct error **err); /* the default ones, and checks */

int option_object(struct dialect *d, const char *argument, struct error **err);
int option_device(struct dialect *d, const char *argument, struct error **err);
int finish_devices(struct dialect *d, struct error **err);
/* Adds a device with one property to a list: what -hda and -nic come to. */
int add_plain_device(struct desc_list *list, const char *class_name, const char *name,
		     const char *value, struct props **props, struct error **err);

/* --- help.c ---- */

int option_help(struct dialect *d, const char *argument, struct error **err);
int option_version(struct dialect *d, const char *argument, struct error **err);
void help_machines(void);
void help_accels(void);
void help_cpus(void);
void help_log_items(void);
void help_devices(void);
void help_device(const struct device_class *class);
void help_objects(void);
void help_chardevs(void);
void help_netdevs(void);

/* Tables that both the checks and the help read */
struct machine_kind {
	const char *name, *alias; /* alias may be NULL */
	enum machine_type type;
	const char *desc;
	const struct prop *props; /* beyond machine_props */
};
extern const struct machine_kind machine_kinds[]; /* ends with an entry without a name */
extern const struct prop machine_props[], id_props[];

struct log_item_name {
	const char *name;
	unsigned item;
	const char *desc;
};
extern const struct log_item_name log_item_names[]; /* ends with an entry without a name */

#endif
