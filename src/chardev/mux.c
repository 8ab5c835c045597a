/*
 * A mux: several front ends on one back end, as QEMU's mux=on and -nographic.
 *
 * Output of all front ends goes out as it comes. Input goes to the one in focus, except for what
 * follows Ctrl-A: x ends the VM, c moves the focus, b sends a break, t turns time stamps before
 * lines of output on and off, h tells of all this, Ctrl-A sends one Ctrl-A. What a front end does
 * not take at once waits in its own queue, so that Ctrl-A is seen also while a guest reads nothing.
 */
#include "chardev/backend.h"

#include "base/util.h"

#include <stdio.h>
#include <string.h>

#define ESCAPE 0x01 /* Ctrl-A */

/* What Ctrl-A x does; set once for the process. */
static void (*quit_fn)(void *opaque);
static void *quit_opaque;

void chardev_set_quit(void (*quit)(void *opaque), void *opaque)
{
	quit_fn = quit;
	quit_opaque = opaque;
}

struct mux *mux_new(struct chardev *chr)
{
	struct mux *mux = xcalloc(1, sizeof(*mux));

	mux->line_start = true;
	return mux;
}

void mux_free(struct chardev *chr)
{
	for (unsigned i = 0; i < CHARDEV_MAX_FRONTENDS; i++)
		free(chr->frontends[i].queue);
	free(chr->mux);
}

/* --- Focus ---- */

static void tell_focus(struct chardev *chr, unsigned n, enum chardev_event event)
{
	struct frontend *fe = &chr->frontends[n];

	if (fe->handler && fe->handler->monitor && fe->handler->event)
		fe->handler->event(fe->opaque, event);
}

static void set_focus(struct chardev *chr, unsigned n)
{
	if (chr->mux->focus != n)
		tell_focus(chr, chr->mux->focus, CHARDEV_FOCUS_OUT);
	chr->mux->focus = n;
	tell_focus(chr, n, CHARDEV_FOCUS_IN);
}

/* The next front end after n, which may be n itself when it is the only one. */
static unsigned next_frontend(const struct chardev *chr, unsigned n)
{
	for (unsigned i = 1; i < CHARDEV_MAX_FRONTENDS; i++) {
		unsigned candidate = (n + i) % CHARDEV_MAX_FRONTENDS;

		if (chr->frontends[candidate].handler)
			return candidate;
	}
	return n;
}

void mux_attached(struct chardev *chr, unsigned n)
{
	struct frontend *fe = &chr->frontends[n];

	if (!fe->queue)
		fe->queue = xcalloc(1, MUX_QUEUE);
	fe->head = fe->count = 0;
	if (!fe->handler->monitor || next_frontend(chr, n) == n)
		set_focus(chr, n);
}

void mux_detached(struct chardev *chr, unsigned n)
{
	if (chr->mux->focus == n)
		set_focus(chr, next_frontend(chr, n));
}

/* --- Ctrl-A ---- */

static void say(struct chardev *chr, const char *text)
{
	output_write(chr, &chr->frontends[chr->mux->focus], text, strlen(text));
}

static void escape_help(struct chardev *chr)
{
	say(chr, "\r\n"
		 "C-a h    print this help\r\n"
		 "C-a x    exit\r\n"
		 "C-a c    switch between console and monitor\r\n"
		 "C-a b    send break (magic sysrq)\r\n"
		 "C-a t    toggle time stamps\r\n"
		 "C-a C-a  send C-a\r\n");
}

static void escape_quit(struct chardev *chr)
{
	say(chr, "\r\nrevirter: terminated\r\n");
	if (quit_fn)
		quit_fn(quit_opaque);
}

static void escape_switch(struct chardev *chr)
{
	set_focus(chr, next_frontend(chr, chr->mux->focus));
}

static void escape_break(struct chardev *chr)
{
	struct frontend *fe = &chr->frontends[chr->mux->focus];

	if (fe->handler && fe->handler->event)
		fe->handler->event(fe->opaque, CHARDEV_BREAK);
}

static void escape_timestamps(struct chardev *chr)
{
	struct mux *mux = chr->mux;

	pthread_mutex_lock(&chr->lock);
	mux->timestamps = !mux->timestamps;
	mux->first_ns = 0;
	mux->line_start = false;
	pthread_mutex_unlock(&chr->lock);
}

static const struct {
	char key;
	void (*fn)(struct chardev *chr);
} escapes[] = {
	{ 'h', escape_help },   { '?', escape_help },  { 'x', escape_quit },
	{ 'c', escape_switch }, { 'b', escape_break }, { 't', escape_timestamps },
};

static void run_escape(struct chardev *chr, uint8_t key)
{
	for (unsigned i = 0; i < ARRAY_SIZE(escapes); i++)
		if (escapes[i].key == key)
			escapes[i].fn(chr);
}

/* --- Input ---- */

static void queue_byte(struct frontend *fe, uint8_t byte)
{
	if (fe->queue && fe->count < MUX_QUEUE)
		fe->queue[(fe->head + fe->count++) % MUX_QUEUE] = byte;
}

static void drain_one(struct frontend *fe)
{
	while (fe->count && fe->handler) {
		size_t n = MIN(fe->count, MUX_QUEUE - fe->head);
		unsigned start = fe->head;

		n = MIN(n, fe->handler->can_receive(fe->opaque));
		if (!n)
			return;
		fe->head = (fe->head + n) % MUX_QUEUE;
		fe->count -= n;
		fe->handler->receive(fe->opaque, fe->queue + start, n);
	}
}

/* Marked as stalled before looking: see room() in input.c. */
void mux_drain(struct chardev *chr)
{
	bool left = false;

	chr->stalled = true;
	for (unsigned i = 0; i < CHARDEV_MAX_FRONTENDS; i++) {
		drain_one(&chr->frontends[i]);
		left = left || chr->frontends[i].count;
	}
	chr->stalled = left;
}

size_t mux_room(struct chardev *chr)
{
	const struct frontend *fe = &chr->frontends[chr->mux->focus];

	return fe->handler ? MUX_QUEUE - fe->count : 0;
}

void mux_receive(struct chardev *chr, const uint8_t *data, size_t len)
{
	struct mux *mux = chr->mux;

	for (size_t i = 0; i < len; i++) {
		if (mux->escaped) {
			mux->escaped = false;
			if (data[i] == ESCAPE)
				queue_byte(&chr->frontends[mux->focus], ESCAPE);
			else
				run_escape(chr, data[i]);
		} else if (data[i] == ESCAPE) {
			mux->escaped = true;
		} else {
			queue_byte(&chr->frontends[mux->focus], data[i]);
		}
	}
	mux_drain(chr);
}

/* --- Output ---- */

static size_t append_stamp(struct chardev *chr)
{
	struct mux *mux = chr->mux;
	uint64_t now = now_ns(), ms;
	char stamp[40];
	size_t len;

	if (!mux->first_ns)
		mux->first_ns = now;
	ms = (now - mux->first_ns) / 1000000;
	len = snprintf(stamp, sizeof(stamp), "[%02u:%02u:%02u.%03u] ", (unsigned)(ms / 3600000),
		       (unsigned)(ms / 60000 % 60), (unsigned)(ms / 1000 % 60),
		       (unsigned)(ms % 1000));
	if (output_room(chr) <= len)
		return 0;
	return output_append(chr, stamp, len);
}

size_t mux_append(struct chardev *chr, const void *data, size_t len)
{
	const uint8_t *bytes = data;
	struct mux *mux = chr->mux;
	size_t done;

	if (!mux->timestamps)
		return output_append(chr, data, len);
	for (done = 0; done < len; done++) {
		if (mux->line_start && !append_stamp(chr))
			break;
		mux->line_start = false;
		if (!output_append(chr, bytes + done, 1))
			break;
		mux->line_start = bytes[done] == '\n';
	}
	return done;
}
