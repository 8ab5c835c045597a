/*
 * Character devices: where a guest's serial port, console, monitor or debug port meets the host.
 *
 * A chardev has a back end (stdio, a file, a socket, a pty, ...) and at most one front end (the
 * UART, a virtio port, a monitor), attached with a handler. The back end lives on the main loop:
 * handler functions are called there. chardev_write() may be called from any thread, never blocks,
 * and takes what fits in a bounded buffer; a front end that got fewer bytes accepted is told by
 * handler->writable(). A mux (mon:stdio, mux=on) lets several front ends share one back end and
 * switches with Ctrl-A c.
 */
#ifndef REVIRT_CHARDEV_CHARDEV_H
#define REVIRT_CHARDEV_CHARDEV_H

#include "base/props.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct chardev;
struct error;
struct loop;

enum chardev_event {
	CHARDEV_OPENED, /* a peer connected; always sent once for back ends that need none */
	CHARDEV_CLOSED,
	CHARDEV_BREAK,
	CHARDEV_RESIZED, /* chardev_window_size() has changed */
	/* Only to handlers that are a monitor, on a mux: */
	CHARDEV_FOCUS_IN,
	CHARDEV_FOCUS_OUT,
};

struct chardev_handler {
	size_t (*can_receive)(void *opaque); /* bytes the front end takes now */
	void (*receive)(void *opaque, const uint8_t *data, size_t len);
	void (*event)(void *opaque, enum chardev_event event); /* may be NULL */
	void (*writable)(void *opaque);                        /* may be NULL */
	/* On a mux the newest front end has the input, unless it is a monitor and others are there.
	 */
	bool monitor;
};

/* What a back end of -chardev is: one row of the table in chardev.c. */
struct chardev_class {
	const char *name; /* "stdio" */
	const char *desc;
	const struct prop *props; /* own properties; id, mux, logfile, logappend are common */
	int (*open)(struct chardev *chr, const struct props *props, struct error **err);
};
const struct chardev_class *const *chardev_classes(void); /* NULL-terminated */
extern const struct prop chardev_common_props[];

/* Makes a chardev on `loop`. Everything it needs from the file system is opened here. */
struct chardev *chardev_new(const struct chardev_class *class, const char *id,
			    const struct props *props, struct loop *loop, struct error **err);
void chardev_free(struct chardev *chr); /* flushes what it can; restores the terminal */

/* Legacy spellings: "stdio", "null", "pty", "file:x", "pipe:x", "unix:path,server=on,wait=off",
 * "tcp:host:port,…", each also after "mon:", which makes it a mux and sets *mux_with_monitor.
 * Returns class and props the same as -chardev would give, without an id. "chardev:id" makes
 * nothing new: *class and *props are NULL then, and the id is what follows the colon. */
int chardev_parse_legacy(const char *text, const struct chardev_class **class, struct props **props,
			 bool *mux_with_monitor, struct error **err);

/* Attaches a front end; an error when one is there and the chardev is no mux. NULL handler
 * detaches. When a peer is there, handler->event is called with CHARDEV_OPENED before this returns.
 */
int chardev_attach(struct chardev *chr, const struct chardev_handler *handler, void *opaque,
		   struct error **err);
/* Called by a front end when can_receive() has grown. Any thread. */
void chardev_accept_input(struct chardev *chr);
/* Takes up to len bytes, returns how many; for a mux, `opaque` of chardev_attach tells which front
 * end. */
size_t chardev_write(struct chardev *chr, const void *data, size_t len);
size_t chardev_write_from(struct chardev *chr, void *frontend, const void *data, size_t len);
bool chardev_is_open(struct chardev *chr);
/* A front end that comes and goes (a port the guest opens) says so; attached ones count as open. */
void chardev_set_frontend_open(struct chardev *chr, void *frontend, bool open);
/* The descriptor that came along with what was received last (SCM_RIGHTS), now the caller's; more
 * than one: the first, the others are closed. -1: none. */
int chardev_take_fd(struct chardev *chr);
/* Size of the terminal behind it; false when it is none. */
bool chardev_window_size(struct chardev *chr, unsigned *columns, unsigned *rows);

/* Gives the terminal back its modes. Async-signal-safe: for handlers of fatal signals. */
void chardev_restore_terminal(void);

/* What Ctrl-A x, Ctrl-A h, … of a mux do beyond switching; set once by revirter. */
void chardev_set_quit(void (*quit)(void *opaque), void *opaque);

const char *chardev_id(const struct chardev *chr);
/* QMP's query-chardev: "filename" text ("stdio", "unix:/x,server=on", "pty:/dev/pts/3"). */
const char *chardev_filename(const struct chardev *chr);
bool chardev_frontend_open(const struct chardev *chr);
/* A mux is two in QEMU's eyes: "ID" is the mux, "ID-base" what it shares. NULL when it is no mux.
 */
const char *chardev_base_filename(const struct chardev *chr);

#endif
