/*
 * -chardev, and those who use one without a -device: -serial, -monitor, -qmp, -mon.
 *
 * The short spellings ("stdio", "unix:/x,server=on", "mon:stdio") become chardevs with QEMU's ids
 * for them: serial0, compat_monitor0. At the end come the default ones: what -nographic puts on the
 * terminal, or a serial port nobody listens to.
 */
#include "revirter/dialect_internal.h"

#include "base/error.h"
#include "base/util.h"
#include "chardev/chardev.h"

#include <stdio.h>
#include <string.h>

#define SHORT_MONITOR "compat_monitor" /* and a number: ids of -monitor's and -qmp's */

static const struct chardev_class *find_class(const char *name, struct error **err)
{
	const struct chardev_class *const *c = chardev_classes();
	char *names AUTO_FREE = NULL;

	for (; *c; c++) {
		if (!strcmp((*c)->name, name))
			return *c;
		add_name(&names, (*c)->name);
	}
	error_set(err, "no such character device; there are: %s", names);
	return NULL;
}

int option_chardev(struct dialect *d, const char *argument, struct error **err)
{
	struct item_source source ITEM_AUTO;
	const struct chardev_class *class;
	struct props *props;

	if (item_split(argument, "backend", false, &source, err) < 0)
		return -1;
	if (!source.kind || is_help(source.kind)) {
		help_chardevs();
		d->done = true;
		return 0;
	}
	d->subject = xstrdup(source.kind);
	class = find_class(source.kind, err);
	if (!class)
		return -1;
	const struct prop *const tables[] = { id_props, class->props, chardev_common_props, NULL };

	if (source.help) {
		props_print_help(tables);
		d->done = true;
		return 0;
	}
	props = item_props(&source, tables, err);
	if (!props)
		return -1;
	if (check_id(props_str(props, "id"), err) < 0) {
		props_free(props);
		return -1;
	}
	return list_add(&d->desc->chardevs, props_str(props, "id"), class, props, err);
}

/* --- Monitors ---- */

static void add_monitor(struct description *desc, const char *id, const char *chardev, bool control,
			bool pretty)
{
	struct desc_monitor *monitors = xcalloc(desc->n_monitors + 1, sizeof(*monitors));

	if (desc->n_monitors)
		memcpy(monitors, desc->monitors, desc->n_monitors * sizeof(*monitors));
	monitors[desc->n_monitors++] = (struct desc_monitor){
		.id = id ? xstrdup(id) : NULL,
		.chardev = xstrdup(chardev),
		.control = control,
		.pretty = pretty,
	};
	free(desc->monitors);
	desc->monitors = monitors;
}

static const char *const modes[] = { "readline", "control", NULL };
static const struct prop mon_props[] = {
	{ "chardev", PROP_STRING, .required = true },
	{ "id", PROP_STRING },
	{ "mode", PROP_ENUM, "readline", .choices = modes },
	{ "pretty", PROP_BOOL, "off" },
	{},
};

int option_mon(struct dialect *d, const char *argument, struct error **err)
{
	const struct prop *const tables[] = { mon_props, NULL };
	struct props *props = props_parse(argument, "chardev", tables, err);

	if (!props)
		return -1;
	d->has_monitor = true;
	add_monitor(d->desc, props_str(props, "id"), props_str(props, "chardev"),
		    !strcmp(props_str(props, "mode"), "control"), props_bool(props, "pretty"));
	props_free(props);
	return 0;
}

/* A short spelling as a chardev with this id, or the id of the one it names; the caller frees it.
 */
static char *short_chardev(struct dialect *d, const char *text, const char *id, bool *mux,
			   struct error **err)
{
	const struct chardev_class *class;
	struct props *props;

	if (chardev_parse_legacy(text, &class, &props, mux, err) < 0)
		return NULL;
	if (!class)
		return xstrdup(strchr(text, ':') + 1);
	if (list_add(&d->desc->chardevs, id, class, props, err) < 0)
		return NULL;
	return xstrdup(id);
}

static int add_short_monitor(struct dialect *d, const char *text, bool control, bool pretty,
			     struct error **err)
{
	char *id AUTO_FREE = xasprintf(SHORT_MONITOR "%u", d->n_legacy_monitors++);
	char *chardev AUTO_FREE = NULL;
	bool mux;

	d->has_monitor = true;
	chardev = short_chardev(d, text, id, &mux, err);
	if (!chardev)
		return -1;
	if (mux) {
		error_set(err, "'%s': mon: is for -serial; this is a monitor already", text);
		return -1;
	}
	add_monitor(d->desc, id, chardev, control, pretty);
	return 0;
}

int option_monitor(struct dialect *d, const char *argument, struct error **err)
{
	if (!strcmp(argument, "none")) {
		d->has_monitor = true;
		return 0;
	}
	return add_short_monitor(d, argument, false, false, err);
}

int option_qmp(struct dialect *d, const char *argument, struct error **err)
{
	return add_short_monitor(d, argument, true, false, err);
}

int option_qmp_pretty(struct dialect *d, const char *argument, struct error **err)
{
	return add_short_monitor(d, argument, true, true, err);
}

/* --- The gdb stub ---- */

#define GDB_CHARDEV "gdb"
#define GDB_DEFAULT "tcp::1234"

/* As QEMU: a TCP socket always listens, and waits for nobody; other devices are as they are named.
 */
int option_gdb(struct dialect *d, const char *argument, struct error **err)
{
	const bool tcp = strncmp(argument, "tcp:", 4) == 0;
	char *text AUTO_FREE =
		xasprintf("%s%s", argument, tcp ? ",wait=off,nodelay=on,server=on" : "");
	bool mux;

	if (!strcmp(argument, "none"))
		return 0;
	if (d->desc->gdb) {
		error_set(err, "there is one gdb stub already; -s is -gdb " GDB_DEFAULT);
		return -1;
	}
	d->desc->gdb = short_chardev(d, text, GDB_CHARDEV, &mux, err);
	if (!d->desc->gdb)
		return -1;
	if (!mux)
		return 0;
	error_set(err, "'%s': mon: is for -serial; gdb's monitor command is there always",
		  argument);
	return -1;
}

int option_s(struct dialect *d, const char *argument, struct error **err)
{
	return option_gdb(d, GDB_DEFAULT, err);
}

/* --- Serial ports ---- */

int option_serial(struct dialect *d, const char *argument, struct error **err)
{
	struct description *desc = d->desc;
	char *id AUTO_FREE = xasprintf("serial%u", desc->n_serials);
	bool mux;

	d->has_serial = true;
	if (!strcmp(argument, "none"))
		return 0;
	if (desc->n_serials == DESC_MAX_SERIALS) {
		error_set(err, "more than %d serial ports", DESC_MAX_SERIALS);
		return -1;
	}
	desc->serials[desc->n_serials] = short_chardev(d, argument, id, &mux, err);
	if (!desc->serials[desc->n_serials])
		return -1;
	desc->n_serials++;
	if (mux) {
		d->has_monitor = true;
		add_monitor(desc, NULL, id, false, false);
	}
	return 0;
}

/* --- The default ones ---- */

static int add_terminal(struct dialect *d, bool serial, bool monitor, struct error **err)
{
	if (d->desc->daemonize) {
		error_set(err, "-nographic: with -daemonize there is no terminal; -display none");
		return -1;
	}
	if (serial && option_serial(d, monitor ? "mon:stdio" : "stdio", err) < 0)
		return -1;
	if (!serial && monitor)
		return option_monitor(d, "stdio", err);
	return 0;
}

static int add_defaults(struct dialect *d, struct error **err)
{
	struct description *desc = d->desc;
	bool serial = !d->has_serial && !desc->nodefaults && !d->no_serial_ports;
	bool monitor = !d->has_monitor && !desc->nodefaults;

	if (d->no_serial_ports && desc->n_serials) {
		error_set(err, "-serial: the machine has no serial port with isa-serial=off");
		return -1;
	}
	if (desc->nographic)
		return add_terminal(d, serial, monitor, err);
	if (serial && !d->display && desc->action == DESC_RUN)
		add_note(desc, "nobody sees the guest: -nographic gives its serial port and a "
			       "monitor here, -serial puts it elsewhere, -display none is this "
			       "without this note");
	return serial ? option_serial(d, "null", err) : 0;
}

static int check_chardev(const struct dialect *d, const char *what, const char *id,
			 struct error **err)
{
	char *names AUTO_FREE = NULL;

	if (desc_find(&d->desc->chardevs, id))
		return 0;
	for (size_t i = 0; i < d->desc->chardevs.n; i++)
		add_name(&names, d->desc->chardevs.items[i].id);
	error_set(err, "%s: no chardev '%s'; there are: %s", what, id, names ? names : "none");
	return -1;
}

/* The option a monitor came by. */
static const char *monitor_option(const struct desc_monitor *m)
{
	if (!m->id || strncmp(m->id, SHORT_MONITOR, strlen(SHORT_MONITOR)))
		return "-mon";
	return m->control ? "-qmp" : "-monitor";
}

/* In the background there is no terminal to read from. */
static int check_stdio(const struct description *desc, struct error **err)
{
	for (size_t i = 0; desc->daemonize && i < desc->chardevs.n; i++) {
		const struct desc_item *item = &desc->chardevs.items[i];

		if (strcmp(item->chardev->name, "stdio") == 0) {
			error_set(
				err,
				"-chardev %s: no stdio with -daemonize; use a socket, file or pty",
				item->id);
			return -1;
		}
	}
	return 0;
}

int finish_chardevs(struct dialect *d, struct error **err)
{
	struct description *desc = d->desc;

	if (add_defaults(d, err) < 0 || check_stdio(desc, err) < 0)
		return -1;
	for (unsigned i = 0; i < desc->n_serials; i++) {
		if (check_chardev(d, "-serial", desc->serials[i], err) < 0)
			return -1;
	}
	if (desc->gdb && check_chardev(d, "-gdb", desc->gdb, err) < 0)
		return -1;
	for (size_t i = 0; i < desc->n_monitors; i++) {
		const struct desc_monitor *m = &desc->monitors[i];

		if (check_chardev(d, monitor_option(m), m->chardev, err) < 0)
			return -1;
	}
	return 0;
}
