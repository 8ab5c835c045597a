/*
 * Output: a bounded ring, filled by any thread, emptied towards the peer.
 *
 * A guest's console comes a byte at a time, from a vCPU thread. Bytes gather in the ring and go to
 * the kernel in one write: by the writer itself when a line ends or enough have come, else by the
 * main loop GATHER_NS later. When the kernel takes no more, the ring fills while the main loop
 * waits for EPOLLOUT; a writer whose bytes no longer fit is told so, and told again when there is
 * room.
 *
 * The log (logfile=) gets each byte once, whether or not there is a peer.
 */
#include "chardev/backend.h"

#include "base/util.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

#define GATHER_NS     1000000 /* a byte waits for company at most so long */
#define GATHER_BYTES  256
#define EXIT_PATIENCE 500 /* ms without progress that a slow peer is given at the end */

unsigned output_room(const struct chardev *chr)
{
	return CHARDEV_BUFFER - chr->count;
}

size_t output_append(struct chardev *chr, const void *data, size_t len)
{
	unsigned tail = (chr->head + chr->count) % CHARDEV_BUFFER;
	size_t n = MIN(len, output_room(chr));
	size_t first = MIN(n, CHARDEV_BUFFER - tail);

	memcpy(chr->ring + tail, data, first);
	memcpy(chr->ring, (const uint8_t *)data + first, n - first);
	chr->count += n;
	return n;
}

/* The longest straight piece of the ring from its `skip`th byte on. */
static size_t piece(const struct chardev *chr, unsigned skip, const uint8_t **data)
{
	unsigned start = (chr->head + skip) % CHARDEV_BUFFER;

	*data = chr->ring + start;
	return MIN(chr->count - skip, CHARDEV_BUFFER - start);
}

static void consume(struct chardev *chr, unsigned n)
{
	chr->head = (chr->head + n) % CHARDEV_BUFFER;
	chr->count -= n;
	chr->logged -= MIN(chr->logged, n);
}

/* #syscalls write */
static void write_log(struct chardev *chr)
{
	const uint8_t *data;

	while (chr->log_fd >= 0 && chr->logged < chr->count) {
		ssize_t n = write(chr->log_fd, data, piece(chr, chr->logged, &data));

		if (n < 0 && errno == EINTR)
			continue;
		/* A full disk must not stop the guest: what does not fit is not logged. */
		chr->logged = n < 0 ? chr->count : chr->logged + n;
	}
}

/* #syscalls write */
static ssize_t write_out(struct chardev *chr, const uint8_t *data, size_t len)
{
	return chr->ops->write ? chr->ops->write(chr, data, len) : write(chr->out_fd, data, len);
}

/* With the lock held: gives the kernel all it takes. */
static void flush(struct chardev *chr)
{
	const uint8_t *data;

	write_log(chr);
	while (chr->count && !chr->blocked) {
		size_t len = piece(chr, 0, &data);
		ssize_t n = chr->out_fd < 0 || chr->broken ? (ssize_t)len
							   : write_out(chr, data, len);

		if (n >= 0)
			consume(chr, n);
		else if (errno == EAGAIN)
			chr->blocked = true;
		else if (errno != EINTR)
			chr->broken = true;
	}
}

static bool take_starved(struct chardev *chr, struct frontend *fe)
{
	bool starved;

	pthread_mutex_lock(&chr->lock);
	starved = fe->starved && output_room(chr) > 0;
	if (starved)
		fe->starved = false;
	pthread_mutex_unlock(&chr->lock);
	return starved;
}

static void tell_writers(struct chardev *chr)
{
	for (unsigned i = 0; i < CHARDEV_MAX_FRONTENDS; i++) {
		struct frontend *fe = &chr->frontends[i];

		if (take_starved(chr, fe) && fe->handler && fe->handler->writable)
			fe->handler->writable(fe->opaque);
	}
}

/*
 * A peer that no longer takes our bytes is gone. Where its last words can still be read, the end of
 * input finds that out.
 */
static void check_broken(struct chardev *chr)
{
	if (chr->broken && chr->ops->hangup && chr->open && !chr->in_wanted)
		chr->ops->hangup(chr);
}

static void flush_and_tell(struct chardev *chr, bool unblock)
{
	pthread_mutex_lock(&chr->lock);
	if (unblock)
		chr->blocked = false;
	flush(chr);
	chr->scheduled = chr->count > 0;
	pthread_mutex_unlock(&chr->lock);
	interest_update(chr);
	tell_writers(chr);
	check_broken(chr);
}

void output_ready(struct chardev *chr)
{
	flush_and_tell(chr, true);
}

static void on_timer(void *opaque)
{
	flush_and_tell(opaque, false);
}

static void on_flush_call(void *opaque)
{
	struct chardev *chr = opaque;
	bool blocked;

	pthread_mutex_lock(&chr->lock);
	blocked = chr->blocked;
	pthread_mutex_unlock(&chr->lock);
	if (blocked)
		interest_update(chr);
	else
		loop_timer_set(chr->flush_timer, now_ns() + GATHER_NS);
}

/* With the lock held: has the main loop see to what is left in the ring, or to a broken peer. */
static void schedule(struct chardev *chr)
{
	if (chr->scheduled)
		return;
	chr->scheduled = true;
	if (loop_is_current(chr->loop) && !chr->blocked)
		loop_timer_set(chr->flush_timer, now_ns() + GATHER_NS);
	else
		loop_post(chr->loop, &chr->flush_call);
}

static size_t append(struct chardev *chr, const void *data, size_t len)
{
	return chr->mux ? mux_append(chr, data, len) : output_append(chr, data, len);
}

size_t output_write(struct chardev *chr, struct frontend *fe, const void *data, size_t len)
{
	const uint8_t *bytes = data;
	size_t done = 0, n;

	pthread_mutex_lock(&chr->lock);
	if (chr->log_fd < 0 && (chr->out_fd < 0 || chr->broken)) {
		pthread_mutex_unlock(&chr->lock);
		return len;
	}
	do {
		n = append(chr, bytes + done, len - done);
		if (chr->count >= GATHER_BYTES || memchr(bytes + done, '\n', n))
			flush(chr);
		done += n;
	} while (n && done < len);
	if (done < len)
		fe->starved = true;
	if (chr->count || chr->broken)
		schedule(chr);
	pthread_mutex_unlock(&chr->lock);
	return done;
}

void output_drop(struct chardev *chr)
{
	pthread_mutex_lock(&chr->lock);
	write_log(chr);
	consume(chr, chr->count);
	chr->blocked = chr->broken = false;
	pthread_mutex_unlock(&chr->lock);
	tell_writers(chr);
}

void output_init(struct chardev *chr)
{
	pthread_mutex_init(&chr->lock, NULL);
	chr->out_fd = chr->log_fd = -1;
	chr->ring = xcalloc(1, CHARDEV_BUFFER);
	chr->flush_call = (struct loop_call){ on_flush_call, chr };
	chr->flush_timer = loop_timer_new(chr->loop, on_timer, chr);
}

/* #syscalls:main poll */
void output_destroy(struct chardev *chr)
{
	pthread_mutex_lock(&chr->lock);
	for (;;) {
		struct pollfd p = { .fd = chr->out_fd, .events = POLLOUT };

		flush(chr);
		if (!chr->count || poll(&p, 1, EXIT_PATIENCE) <= 0)
			break;
		chr->blocked = false;
	}
	pthread_mutex_unlock(&chr->lock);
	loop_unpost(chr->loop, &chr->flush_call);
	loop_timer_free(chr->flush_timer);
}
