/*
 * The spellings of -serial, -monitor and -qmp: "stdio", "file:x", "unix:/x,server=on", "tcp:h:p",
 * "mon:stdio". Each becomes what -chardev would have said.
 */
#include "chardev/backend.h"

#include "base/error.h"
#include "base/util.h"

#include <string.h>

/* "HOST:PORT,options": the host may be empty, or an IPv6 address in brackets. */
static int set_host_port(struct props *props, const char *text, size_t len, struct error **err)
{
	char *copy AUTO_FREE = strndup(text, len);
	char *host = copy, *colon = strrchr(copy, ':');

	if (!colon || !colon[1]) {
		error_set(err, "'%s' is not HOST:PORT", copy);
		return -1;
	}
	*colon = '\0';
	if (*host == '[' && colon > host + 1 && colon[-1] == ']') {
		colon[-1] = '\0';
		host++;
	}
	return props_set(props, "host", host, err) < 0 ? -1
						       : props_set(props, "port", colon + 1, err);
}

static struct props *parse_tcp(const char *text, const struct prop *const tables[],
			       struct error **err)
{
	size_t len = strcspn(text, ",");
	struct props *props = props_parse(text[len] ? text + len + 1 : "", NULL, tables, err);

	if (props && set_host_port(props, text, len, err) < 0) {
		props_free(props);
		return NULL;
	}
	return props;
}

static struct props *parse_path(const char *text, const struct prop *const tables[],
				struct error **err)
{
	return props_parse(text, "path", tables, err);
}

/* The whole rest is the path, commas and all. */
static struct props *parse_file(const char *text, const struct prop *const tables[],
				struct error **err)
{
	struct props *props = props_new(tables);

	if (props_set(props, "path", text, err) < 0) {
		props_free(props);
		return NULL;
	}
	return props;
}

static struct props *parse_nothing(const char *text, const struct prop *const tables[],
				   struct error **err)
{
	return props_new(tables);
}

static const struct {
	const char *prefix; /* with a colon: something follows */
	const struct chardev_class *class;
	struct props *(*parse)(const char *text, const struct prop *const tables[],
			       struct error **err);
} spellings[] = {
	{ "stdio", &chardev_stdio_class, parse_nothing },
	{ "null", &chardev_null_class, parse_nothing },
	{ "pty", &chardev_pty_class, parse_nothing },
	{ "file:", &chardev_file_class, parse_file },
	{ "pipe:", &chardev_pipe_class, parse_file },
	{ "unix:", &chardev_socket_class, parse_path },
	{ "tcp:", &chardev_socket_class, parse_tcp },
};

static bool matches(const char *text, const char *prefix)
{
	size_t len = strlen(prefix);

	return prefix[len - 1] == ':' ? strncmp(text, prefix, len) == 0 : strcmp(text, prefix) == 0;
}

/* Muxed with the monitor, Ctrl-C belongs to the guest: as in QEMU. */
static int share_with_monitor(const struct chardev_class *class, struct props *props,
			      struct error **err)
{
	if (props_set(props, "mux", "on", err) < 0)
		return -1;
	return class == &chardev_stdio_class ? props_set(props, "signal", "off", err) : 0;
}

int chardev_parse_legacy(const char *text, const struct chardev_class **class, struct props **props,
			 bool *mux_with_monitor, struct error **err)
{
	const char *rest = text;

	*class = NULL;
	*props = NULL;
	*mux_with_monitor = strncmp(text, "mon:", 4) == 0;
	if (*mux_with_monitor)
		rest += 4;
	if (matches(rest, "chardev:") && !*mux_with_monitor)
		return 0;
	for (unsigned i = 0; i < ARRAY_SIZE(spellings); i++) {
		const struct prop *const tables[] = { spellings[i].class->props,
						      chardev_common_props, NULL };

		if (!matches(rest, spellings[i].prefix))
			continue;
		*props = spellings[i].parse(rest + strlen(spellings[i].prefix), tables, err);
		if (!*props)
			return -1;
		*class = spellings[i].class;
		if (!*mux_with_monitor || share_with_monitor(*class, *props, err) == 0)
			return 0;
		props_free(*props);
		*props = NULL;
		return -1;
	}
	error_set(err,
		  "'%s' is not a character device; there are: stdio, null, pty, file:PATH, "
		  "pipe:PATH, unix:PATH, tcp:HOST:PORT, chardev:ID, and mon: before one of them",
		  text);
	return -1;
}
