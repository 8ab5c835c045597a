/*
 * Input: from the descriptor to the front end, never more than it takes.
 *
 * The descriptor is watched while the front end has room. When it has none the chardev is stalled:
 * nothing is read, so the peer feels it, until chardev_accept_input() says that there is room
 * again. Plain files and /dev/null can't be waited for: a timer that is always due reads them, so
 * that the loop gets to its other business in between.
 */
#include "chardev/backend.h"

#include "base/util.h"

#include <errno.h>

static void pump(struct chardev *chr);

/* --- Watching ---- */

static void interest_set(struct chardev *chr, struct interest *interest, int fd, uint32_t events,
			 void (*fn)(void *opaque, uint32_t events))
{
	if (interest->events == events)
		return;
	interest->events = events;
	if (interest->watch)
		loop_watch_set(interest->watch, events);
	else if (events)
		interest->watch = loop_watch_new(chr->loop, fd, events, fn, chr, NULL);
}

static void interest_drop(struct interest *interest)
{
	loop_watch_free(interest->watch);
	*interest = (struct interest){};
}

static void on_output(void *opaque, uint32_t events)
{
	struct chardev *chr = opaque;

	output_ready(chr);
	if (!chr->out_interest.events && events & (EPOLLHUP | EPOLLERR))
		interest_drop(&chr->out_interest);
}

/* epoll tells of HUP also when nobody asked: then it is either acted on, or no longer watched. */
static void on_unasked(struct chardev *chr)
{
	if (chr->ops->hangup)
		chr->ops->hangup(chr);
	else
		interest_drop(&chr->in_interest);
}

static void on_input(void *opaque, uint32_t events)
{
	struct chardev *chr = opaque;

	if (events & EPOLLOUT)
		output_ready(chr);
	if (chr->in_fd < 0)
		return;
	if (chr->in_wanted && events & (EPOLLIN | EPOLLHUP | EPOLLERR))
		pump(chr);
	else if (!chr->in_wanted && events & (EPOLLHUP | EPOLLERR))
		on_unasked(chr);
}

void interest_update(struct chardev *chr)
{
	uint32_t in = chr->in_wanted && !chr->in_always ? EPOLLIN : 0, out = 0;

	pthread_mutex_lock(&chr->lock);
	if (chr->blocked && chr->out_fd >= 0)
		out = EPOLLOUT;
	pthread_mutex_unlock(&chr->lock);
	if (chr->in_fd == chr->out_fd && chr->in_fd >= 0) {
		interest_set(chr, &chr->in_interest, chr->in_fd, in | out, on_input);
		return;
	}
	if (chr->in_fd >= 0 && !chr->in_always)
		interest_set(chr, &chr->in_interest, chr->in_fd, in, on_input);
	if (chr->out_fd >= 0)
		interest_set(chr, &chr->out_interest, chr->out_fd, out, on_output);
}

void input_forget(struct chardev *chr)
{
	interest_drop(&chr->in_interest);
	interest_drop(&chr->out_interest);
	loop_timer_cancel(chr->pump_timer);
}

/* --- Reading ---- */

static size_t room_now(struct chardev *chr)
{
	struct frontend *fe = &chr->frontends[0];

	if (chr->mux)
		return mux_room(chr);
	return fe->handler ? fe->handler->can_receive(fe->opaque) : 0;
}

/*
 * Room for input. With none the chardev is stalled: said before looking again, so that a front end
 * that makes room in between is either seen here or sees the mark.
 */
static size_t room(struct chardev *chr)
{
	size_t n = room_now(chr);

	if (n)
		return n;
	chr->stalled = true;
	n = room_now(chr);
	if (n)
		chr->stalled = false;
	return n;
}

static void deliver(struct chardev *chr, const uint8_t *data, size_t len)
{
	struct frontend *fe = &chr->frontends[0];

	if (chr->mux)
		mux_receive(chr, data, len);
	else if (fe->handler)
		fe->handler->receive(fe->opaque, data, len);
}

static void want_input(struct chardev *chr, bool want)
{
	chr->in_wanted = want && chr->in_fd >= 0 && !chr->in_ended;
	if (chr->in_wanted && chr->in_always)
		loop_timer_set(chr->pump_timer, 0);
	interest_update(chr);
}

static void end_of_input(struct chardev *chr)
{
	if (chr->ops->hangup) {
		chr->ops->hangup(chr);
		return;
	}
	chr->in_ended = true;
	want_input(chr, false);
	if (chr->in_fd != chr->out_fd)
		interest_drop(&chr->in_interest);
}

/* #syscalls:main read */
static ssize_t read_in(struct chardev *chr, void *buf, size_t len)
{
	return chr->ops->read ? chr->ops->read(chr, buf, len) : read(chr->in_fd, buf, len);
}

/* One read: the loop calls again while there is more, and others get their turn. */
static void pump(struct chardev *chr)
{
	uint8_t buf[CHARDEV_CHUNK];
	size_t n = room(chr);
	ssize_t got;

	if (!n) {
		want_input(chr, false);
		return;
	}
	got = read_in(chr, buf, MIN(n, sizeof(buf)));
	if (got > 0)
		deliver(chr, buf, got);
	else if (got == 0 || (errno != EAGAIN && errno != EINTR))
		end_of_input(chr);
	if (chr->in_wanted && chr->in_always)
		loop_timer_set(chr->pump_timer, 0);
}

static void on_pump_timer(void *opaque)
{
	struct chardev *chr = opaque;

	if (chr->in_wanted)
		pump(chr);
}

static void on_accept_call(void *opaque)
{
	struct chardev *chr = opaque;

	chr->stalled = false;
	if (chr->mux)
		mux_drain(chr);
	if (room(chr))
		want_input(chr, true);
}

void chardev_accept_input(struct chardev *chr)
{
	if (chr->stalled)
		loop_post(chr->loop, &chr->accept_call);
}

void input_start(struct chardev *chr)
{
	if (room(chr))
		want_input(chr, true);
}

void input_init(struct chardev *chr)
{
	chr->in_fd = -1;
	chr->pump_timer = loop_timer_new(chr->loop, on_pump_timer, chr);
	chr->accept_call = (struct loop_call){ on_accept_call, chr };
}

void input_destroy(struct chardev *chr)
{
	loop_unpost(chr->loop, &chr->accept_call);
	loop_timer_free(chr->pump_timer);
}
