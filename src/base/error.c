/*
 * Errors as values: see error.h. An error is one heap block; when memory is out even for that, a
 * static one stands in, so that a caller never sees failure without an error.
 */
#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct error {
	char *message;
	const char *class;
	int errnum;
};

static char oom_message[] = "out of memory";
static struct error out_of_memory = { .message = oom_message, .class = "GenericError" };

static void error_vset(struct error **err, int errnum, const char *fmt, va_list ap)
{
	struct error *e;

	if (!err)
		return;
	e = calloc(1, sizeof(*e));
	if (!e || vasprintf(&e->message, fmt, ap) < 0) {
		free(e);
		*err = &out_of_memory;
		return;
	}
	e->class = "GenericError";
	e->errnum = errnum;
	*err = e;
}

void error_set(struct error **err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	error_vset(err, 0, fmt, ap);
	va_end(ap);
}

static void error_replace(struct error *e, char *message)
{
	free(e->message);
	e->message = message;
}

void error_set_errno(struct error **err, int errnum, const char *fmt, ...)
{
	va_list ap;
	char *message;

	if (!err)
		return;
	va_start(ap, fmt);
	error_vset(err, errnum, fmt, ap);
	va_end(ap);
	if (*err != &out_of_memory &&
	    asprintf(&message, "%s: %s", (*err)->message, strerror(errnum)) >= 0)
		error_replace(*err, message);
}

void error_prefix(struct error **err, const char *fmt, ...)
{
	char *prefix, *message;
	va_list ap;

	if (!err || !*err || *err == &out_of_memory)
		return;
	va_start(ap, fmt);
	if (vasprintf(&prefix, fmt, ap) < 0)
		prefix = NULL;
	va_end(ap);
	if (prefix && asprintf(&message, "%s%s", prefix, (*err)->message) >= 0)
		error_replace(*err, message);
	free(prefix);
}

void error_set_class(struct error **err, const char *class)
{
	if (err && *err && *err != &out_of_memory)
		(*err)->class = class;
}

const char *error_class(const struct error *err)
{
	return err->class;
}

const char *error_message(const struct error *err)
{
	return err ? err->message : "no error";
}

int error_errno(const struct error *err)
{
	return err ? err->errnum : 0;
}

void error_propagate(struct error **dst, struct error *src)
{
	if (dst)
		*dst = src;
	else
		error_free(src);
}

void error_free(struct error *err)
{
	if (!err || err == &out_of_memory)
		return;
	free(err->message);
	free(err);
}
