/* The log: see log.h. */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#define LINE_MAX_BYTES 1024

static _Atomic int log_fd = STDERR_FILENO;
static _Atomic unsigned enabled_items;
static const char *program = "revirter";

void log_to(int fd)
{
	log_fd = fd;
}

void log_enable(unsigned items)
{
	enabled_items |= items;
}

bool log_enabled(unsigned items)
{
	return enabled_items & items;
}

void log_set_name(const char *name)
{
	program = name;
}

/* #syscalls write */
static void log_line(const char *kind, const char *fmt, va_list ap)
{
	char line[LINE_MAX_BYTES];
	int head = snprintf(line, sizeof(line), "%s: %s", program, kind);
	int body = vsnprintf(line + head, sizeof(line) - head - 1, fmt, ap);
	size_t len = head + (body < 0 ? 0 : body);

	if (len > sizeof(line) - 2)
		len = sizeof(line) - 2;
	line[len++] = '\n';
	if (write(log_fd, line, len) < 0)
		return; /* there is nobody left to tell */
}

void log_warn(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	log_line("warning: ", fmt, ap);
	va_end(ap);
}

void log_info(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	log_line("", fmt, ap);
	va_end(ap);
}

void log_item(unsigned items, const char *fmt, ...)
{
	va_list ap;

	if (!log_enabled(items))
		return;
	va_start(ap, fmt);
	log_line("", fmt, ap);
	va_end(ap);
}
