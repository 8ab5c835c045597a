/*
 * Inside a chardev: what the files of this room share, and what a back end gives them.
 *
 * A back end's open() sets the descriptors, the name and the ops. From then on output.c, input.c
 * and, for a mux, mux.c do the work, on these two descriptors; a back end is asked only where read
 * and write are not enough (sockets), and when the peer is gone.
 */
#ifndef REVIRT_CHARDEV_BACKEND_H
#define REVIRT_CHARDEV_BACKEND_H

#include "base/loop.h"
#include "chardev/chardev.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

#define CHARDEV_BUFFER        65536 /* output that waits for the peer */
#define CHARDEV_CHUNK         4096  /* input read at a time */
#define CHARDEV_MAX_FRONTENDS 4     /* of a mux; QEMU's MAX_MUX */
#define CHARDEV_MAX_FDS       16    /* passed with one message; QEMU's TCP_MAX_FDS */
#define MUX_QUEUE             4096  /* input one front end of a mux has not taken yet */

struct chardev_ops {
	/* As read(2) and write(2) of a non-blocking descriptor; NULL: just these. write: any
	 * thread, with the chardev's lock held. */
	ssize_t (*read)(struct chardev *chr, void *buf, size_t len);
	ssize_t (*write)(struct chardev *chr, const void *buf, size_t len);
	/* The peer is gone: chardev_disconnect() and wait for the next. NULL: input just ends,
	 * output stays as it is. Main loop. */
	void (*hangup)(struct chardev *chr);
	void (*close)(struct chardev *chr); /* frees chr->backend; may be NULL */
};

struct frontend {
	const struct chardev_handler *handler; /* NULL: none */
	void *opaque;
	bool open;
	bool starved; /* its last write did not fit; under the lock */
	/* Of a mux: a ring of input for this one. */
	uint8_t *queue;
	unsigned head, count;
};

/* A descriptor's watch, as far as there is something to wait for. */
struct interest {
	struct loop_watch *watch;
	uint32_t events;
};

struct mux {
	unsigned focus;
	bool escaped;    /* Ctrl-A was the last byte */
	bool timestamps; /* the rest: under the lock */
	bool line_start;
	uint64_t first_ns; /* when the first stamp was made; 0: none yet */
};

struct chardev {
	const struct chardev_class *class;
	const struct chardev_ops *ops;
	void *backend;
	char *id, *filename;
	struct loop *loop;
	struct mux *mux; /* NULL: it is none */
	atomic_bool open;
	struct frontend frontends[CHARDEV_MAX_FRONTENDS];

	/* Input; main loop. */
	int in_fd;
	bool in_always; /* a file: epoll doesn't know it, it is always ready */
	bool in_wanted, in_ended;
	struct interest in_interest;
	struct loop_timer *pump_timer; /* in_always: read on */
	struct loop_call accept_call;  /* chardev_accept_input() */
	atomic_bool stalled;           /* a front end takes no more */
	int fds[CHARDEV_MAX_FDS];
	unsigned n_fds;

	/* Output. */
	pthread_mutex_t lock; /* of what follows, and of the fields marked so */
	int out_fd;           /* may be in_fd; -1: nobody listens, bytes are dropped */
	int log_fd;
	uint8_t *ring;
	unsigned head, count;
	unsigned logged; /* so many of count are in the log */
	bool blocked;    /* the kernel takes no more: EPOLLOUT is or will be waited for */
	bool scheduled;  /* flush_call is posted, or the timer runs */
	bool broken;     /* a write failed for good */
	struct interest out_interest; /* unused when out_fd is in_fd; main loop */
	struct loop_call flush_call;
	struct loop_timer *flush_timer; /* main loop */
};

/* --- For back ends; main loop ---- */

/* Copies the name of query-chardev. */
void chardev_set_filename(struct chardev *chr, const char *name);
/* A peer is there. The descriptors become the chardev's; -1 for none; both may be the same. */
void chardev_connect(struct chardev *chr, int in_fd, int out_fd);
/* The peer is gone: closes the descriptors, drops what waits for it, tells the front ends. */
void chardev_disconnect(struct chardev *chr);
void chardev_send_event(struct chardev *chr, enum chardev_event event);
void chardev_close_fds(struct chardev *chr); /* the passed ones nobody took */

/* --- Between the files of this room ---- */

void output_init(struct chardev *chr);
/* Gives a slow peer a little time; the lock and the ring stay for chardev_free(). */
void output_destroy(struct chardev *chr);
size_t output_write(struct chardev *chr, struct frontend *fe, const void *data, size_t len);
void output_ready(struct chardev *chr); /* EPOLLOUT */
void output_drop(struct chardev *chr);  /* the peer is gone */
/* With the lock held: appends to the ring; returns how much fitted. */
size_t output_append(struct chardev *chr, const void *data, size_t len);
unsigned output_room(const struct chardev *chr);

void input_init(struct chardev *chr);
void input_destroy(struct chardev *chr);
void input_start(struct chardev *chr);  /* there is something to read from, or to give it to */
void input_forget(struct chardev *chr); /* no callback comes from now on */
void interest_update(struct chardev *chr);

struct mux *mux_new(struct chardev *chr);
void mux_free(struct chardev *chr);
void mux_attached(struct chardev *chr, unsigned n);
void mux_detached(struct chardev *chr, unsigned n);
size_t mux_room(struct chardev *chr);
void mux_receive(struct chardev *chr, const uint8_t *data, size_t len);
void mux_drain(struct chardev *chr); /* hands on what front ends take now */
/* With the lock held: output_append() with time stamps, if they are on. */
size_t mux_append(struct chardev *chr, const void *data, size_t len);

/* epoll can not watch it (EPERM): plain files, /dev/null. At start-up. */
bool chardev_always_ready(int fd);

extern const struct chardev_class chardev_stdio_class, chardev_file_class, chardev_null_class,
	chardev_pipe_class, chardev_pty_class, chardev_socket_class;

#endif
