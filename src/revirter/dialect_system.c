/*
 * What is about the machine as a whole and about the process: -boot -rtc -name -uuid -display
 * -sandbox -d -add-fd, and Revirt's own -x- options.
 */
#include "revirter/dialect_internal.h"

#include "base/error.h"
#include "base/log.h"
#include "base/util.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

/* --- -boot ---- */

static const struct prop boot_props[] = {
	{ "order", PROP_STRING },
	{ "once", PROP_STRING },
	{ "menu", PROP_BOOL },
	{ "strict", PROP_BOOL },
	{},
};

/* Letters of drives, each once. What they boot from, a firmware decides; there is none yet. */
static int check_order(const char *order, struct error **err)
{
	unsigned seen = 0;

	for (const char *p = order; p && *p; p++) {
		if (*p < 'a' || *p > 'p' || seen & 1u << (*p - 'a')) {
			error_set(err, "'%s' is not a boot order; write letters a to p, each once",
				  order);
			return -1;
		}
		seen |= 1u << (*p - 'a');
	}
	return 0;
}

static char *dup_or_null(const char *s)
{
	return s ? xstrdup(s) : NULL;
}

static int read_boot(struct desc_boot *boot, const char *text, struct error **err)
{
	const struct prop *const tables[] = { boot_props, NULL };
	struct props *props = props_parse(text, "order", tables, err);
	int r = -1;

	if (!props)
		return -1;
	if (check_order(props_str(props, "order"), err) == 0 &&
	    check_order(props_str(props, "once"), err) == 0) {
		boot->order = dup_or_null(props_str(props, "order"));
		boot->once = dup_or_null(props_str(props, "once"));
		boot->menu = props_bool(props, "menu");
		boot->strict = props_bool(props, "strict");
		r = 0;
	}
	props_free(props);
	return r;
}

/* --- -rtc ---- */

static const char *const rtc_clocks[] = { "host", "vm", NULL };
static const char *const rtc_driftfixes[] = { "none", NULL };
static const struct prop rtc_props[] = {
	{ "base", PROP_STRING, "utc" },
	{ "clock", PROP_ENUM, "host", .choices = rtc_clocks },
	{ "driftfix", PROP_ENUM, "none", .choices = rtc_driftfixes },
	{},
};

static int read_date(const char *text, int64_t *date, struct error **err)
{
	static const char *const formats[] = { "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d" };

	for (unsigned i = 0; i < ARRAY_SIZE(formats); i++) {
		struct tm tm = { 0 };
		const char *end = strptime(text, formats[i], &tm);

		if (end && !*end) {
			*date = timegm(&tm);
			return 0;
		}
	}
	error_set(err, "base=%s: write utc, localtime, 2006-06-17 or 2006-06-17T16:01:21", text);
	return -1;
}

static int read_rtc(struct desc_rtc *rtc, const char *text, struct error **err)
{
	const struct prop *const tables[] = { rtc_props, NULL };
	struct props *props = props_parse(text, NULL, tables, err);
	const char *base;
	int r = 0;

	if (!props)
		return -1;
	base = props_str(props, "base");
	rtc->vm_clock = !strcmp(props_str(props, "clock"), "vm");
	if (!strcmp(base, "utc"))
		rtc->base = RTC_UTC;
	else if (!strcmp(base, "localtime"))
		rtc->base = RTC_LOCALTIME;
	else
		rtc->base = RTC_DATE;
	if (rtc->base == RTC_DATE)
		r = read_date(base, &rtc->date, err);
	props_free(props);
	return r;
}

/* --- -name, -uuid ---- */

static const struct prop name_props[] = {
	{ "guest", PROP_STRING },
	{ "process", PROP_STRING },
	{ "debug-threads", PROP_BOOL },
	{},
};

static int read_name(struct desc_name *name, const char *text, struct error **err)
{
	const struct prop *const tables[] = { name_props, NULL };
	struct props *props = props_parse(text, "guest", tables, err);

	if (!props)
		return -1;
	name->guest = dup_or_null(props_str(props, "guest"));
	name->process = dup_or_null(props_str(props, "process"));
	name->debug_threads = props_bool(props, "debug-threads");
	props_free(props);
	return 0;
}

static int read_uuid(const char *text, uint8_t uuid[16], struct error **err)
{
	static const char shape[] = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
	unsigned nibbles = 0;
	const char *p = text;

	for (const char *s = shape; *s; s++, p++) {
		if (*s == 'x' ? !isxdigit((unsigned char)*p) : *p != *s)
			goto bad;
		if (*s == 'x') {
			unsigned digit = *p <= '9' ? *p - '0' : (*p | 0x20) - 'a' + 10;

			uuid[nibbles / 2] = uuid[nibbles / 2] << 4 | digit;
			nibbles++;
		}
	}
	if (!*p)
		return 0;
bad:
	error_set(err, "'%s' is not a UUID; write hexadecimal digits as in %s", text,
		  "550e8400-e29b-41d4-a716-446655440000");
	return -1;
}

/* --- -display, -sandbox ---- */

static int read_display(const char *text, struct error **err)
{
	if (!strcmp(text, "none"))
		return 0;
	error_set(err, "no display '%s'; there is: none (-nographic gives the serial port here)",
		  text);
	return -1;
}

/* QEMU's sub-options open or close parts of its filter. Ours is closed in all of them, whatever is
 * said: nothing a guest can notice depends on it. */
static const char *const allow_deny[] = { "allow", "deny", NULL };
static const char *const allow_deny_children[] = { "allow", "deny", "children", NULL };
static const struct prop sandbox_props[] = {
	{ "enable", PROP_BOOL, "on" },
	{ "obsolete", PROP_ENUM, .choices = allow_deny },
	{ "elevateprivileges", PROP_ENUM, .choices = allow_deny_children },
	{ "spawn", PROP_ENUM, .choices = allow_deny },
	{ "resourcecontrol", PROP_ENUM, .choices = allow_deny },
	{},
};

static int read_sandbox(bool *sandbox, const char *text, struct error **err)
{
	const struct prop *const tables[] = { sandbox_props, NULL };
	struct props *props = props_parse(text, "enable", tables, err);

	if (!props)
		return -1;
	*sandbox = props_bool(props, "enable");
	props_free(props);
	return 0;
}

/* --- All of these ---- */

/* Puts the option before the message of whoever failed. */
static int under(const char *option, int r, struct error **err)
{
	if (r < 0)
		error_prefix(err, "%s: ", option);
	return r;
}

int finish_system(struct dialect *d, struct error **err)
{
	struct description *desc = d->desc;

	desc->has_uuid = d->uuid;
	desc->display = "none";
	if (under("-boot", read_boot(&desc->boot, d->boot ? d->boot : "", err), err) < 0 ||
	    under("-rtc", read_rtc(&desc->rtc, d->rtc ? d->rtc : "", err), err) < 0 ||
	    under("-name", read_name(&desc->name, d->name ? d->name : "", err), err) < 0 ||
	    under("-sandbox", read_sandbox(&desc->sandbox, d->sandbox ? d->sandbox : "", err),
		  err) < 0)
		return -1;
	if (d->display && under("-display", read_display(d->display, err), err) < 0)
		return -1;
	return d->uuid ? under("-uuid", read_uuid(d->uuid, desc->uuid, err), err) : 0;
}

/* --- -d ---- */

const struct log_item_name log_item_names[] = {
	{ "guest_errors", LOG_GUEST_ERRORS, "what the guest does that a standard forbids" },
	{ "unimp", LOG_UNIMP, "what the guest uses that is not there" },
	{ "reset", LOG_RESET, "resets of the machine" },
	{ "pci", LOG_PCI, "PCI configuration" },
	{ "virtio", LOG_VIRTIO, "virtio queues and negotiation" },
	{ "exits", LOG_EXITS, "every exit to user space" },
	{ "startup", LOG_STARTUP, "how long it takes to the first entry into the guest" },
	{},
};

static int set_log_item(struct description *desc, const char *name, struct error **err)
{
	char *names AUTO_FREE = NULL;

	for (const struct log_item_name *i = log_item_names; i->name; i++) {
		if (!strcmp(name, i->name) || !strcmp(name, "all"))
			desc->log_items |= i->item;
		if (!strcmp(name, i->name))
			return 0;
		add_name(&names, i->name);
	}
	if (!strcmp(name, "all"))
		return 0;
	error_set(err, "no log item '%s'; there are: all, %s", name, names);
	return -1;
}

int option_log_items(struct dialect *d, const char *argument, struct error **err)
{
	char *copy AUTO_FREE = xstrdup(argument), *rest = copy, *name;

	if (is_help(argument)) {
		help_log_items();
		d->done = true;
		return 0;
	}
	while ((name = strsep(&rest, ","))) {
		if (set_log_item(d->desc, name, err) < 0)
			return -1;
	}
	return 0;
}

/* --- -add-fd ---- */

static const struct prop add_fd_props[] = {
	{ "fd", PROP_INT, .required = true, .max = INT32_MAX },
	{ "set", PROP_INT, .required = true, .max = INT64_MAX },
	{ "opaque", PROP_STRING },
	{},
};

int option_add_fd(struct dialect *d, const char *argument, struct error **err)
{
	const struct prop *const tables[] = { add_fd_props, NULL };
	struct props *props = props_parse(argument, NULL, tables, err);
	struct description *desc = d->desc;
	struct desc_fd *fds;

	if (!props)
		return -1;
	if (props_u64(props, "fd") <= STDERR_FILENO) {
		error_set(err, "fd=%d is a standard stream; from 3 on is possible",
			  (int)props_u64(props, "fd"));
		props_free(props);
		return -1;
	}
	fds = xcalloc(desc->n_fds + 1, sizeof(*fds));
	if (desc->n_fds)
		memcpy(fds, desc->fds, desc->n_fds * sizeof(*fds));
	fds[desc->n_fds++] = (struct desc_fd){
		.fd = props_u64(props, "fd"),
		.set = props_u64(props, "set"),
		.opaque = dup_or_null(props_str(props, "opaque")),
	};
	free(desc->fds);
	desc->fds = fds;
	props_free(props);
	return 0;
}

/* --- -x- ---- */

int option_dump_config(struct dialect *d, const char *argument, struct error **err)
{
	d->desc->action = DESC_DUMP_CONFIG;
	return 0;
}

int option_calibrate(struct dialect *d, const char *argument, struct error **err)
{
	d->desc->action = DESC_CALIBRATE;
	return 0;
}
