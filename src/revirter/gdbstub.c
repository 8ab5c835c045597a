/*
 * The gdb stub: see gdbstub.h; the protocol is in the GDB manual, appendix E.
 *
 * A gdb that connects stops the machine, and from then on asks, sets and lets go, one packet after
 * the other, each with one reply. While the machine runs for gdb, only a Ctrl-C is listened to. The
 * peer is somebody on a network: what is malformed is refused by number, what is unknown gets the
 * empty reply that the protocol has for it, and while it does not read nothing more is taken.
 *
 * What packets ask for is in gdb_commands.c; of that, questions are in gdb_query.c, going on and
 * stopping in gdb_run.c, registers in gdb_registers.c, memory and breakpoints in gdb_memory.c and
 * gdb_break.c.
 */
#include "revirter/gdbstub.h"

#include "base/error.h"
#include "base/log.h"
#include "base/util.h"
#include "chardev/chardev.h"
#include "machine/machine.h"
#include "revirter/gdb_internal.h"
#include "revirter/vm.h"

#include <string.h>

#define READ_MAX 512 /* bytes at a time: each may ask for a large reply */

/* --- Sending ---- */

void gdb_reply(struct gdb_stub *gdb, const char *text)
{
	gdb_add(&gdb->reply, text, strlen(text));
}

static void send_bytes(struct gdb_stub *gdb, const char *data, size_t len)
{
	size_t n = gdb->unsent.len ? 0 : chardev_write_from(gdb->chr, gdb, data, len);

	gdb_add(&gdb->unsent, data + n, len - n);
}

static void push_unsent(struct gdb_stub *gdb)
{
	struct gdb_buffer *b = &gdb->unsent;
	size_t n = chardev_write_from(gdb->chr, gdb, b->data, b->len);

	b->len -= n;
	memmove(b->data, b->data + n, b->len);
}

void gdb_send(struct gdb_stub *gdb)
{
	gdb->last.len = 0;
	gdb_add_packet(&gdb->last, &gdb->reply);
	gdb->reply.len = 0;
	send_bytes(gdb, gdb->last.data, gdb->last.len);
}

void gdb_add_thread(struct gdb_stub *gdb, unsigned vcpu)
{
	gdb_addf(&gdb->reply, gdb->multiprocess ? "p01.%02x" : "%02x", vcpu + 1);
}

bool gdb_vcpu_of(const struct gdb_stub *gdb, int64_t thread, unsigned otherwise, unsigned *vcpu)
{
	if (thread > gdb->vm->machine.n_vcpus)
		return false;
	*vcpu = thread == GDB_ALL || thread == GDB_ANY ? otherwise : thread - 1;
	return true;
}

/* --- The chardev's side ---- */

static void acknowledge(struct gdb_stub *gdb, char how)
{
	if (!gdb->no_ack)
		send_bytes(gdb, &how, 1);
}

/* The machine runs for gdb, or somebody else said cont; gdb's packets need it to stand still. */
static void handle_packet(struct gdb_stub *gdb)
{
	if (gdb->waiting) {
		LOG_ONCE("gdb: a packet came while the machine was running for gdb, and is lost");
		return;
	}
	vm_pause(gdb->vm, VM_PAUSED);
	gdb_run_packet(gdb);
}

static void handle_input(struct gdb_stub *gdb, enum gdb_input input)
{
	switch (input) {
	case GDB_PACKET:
		acknowledge(gdb, '+');
		handle_packet(gdb);
		break;
	case GDB_CORRUPT:
		LOG_ONCE("gdb: a packet with a wrong checksum");
		acknowledge(gdb, '-');
		break;
	case GDB_TOO_LONG:
		LOG_ONCE("gdb: a packet of more than %d bytes", GDB_PACKET_MAX);
		acknowledge(gdb, '+');
		gdb_reply(gdb, GDB_EINVAL);
		gdb_send(gdb);
		break;
	case GDB_NAK:
		/* Again, but not before the peer has read what waits for it. */
		if (!gdb->no_ack && !gdb->unsent.len)
			send_bytes(gdb, gdb->last.data, gdb->last.len);
		break;
	case GDB_INTERRUPT: vm_pause(gdb->vm, VM_PAUSED); break;
	case GDB_ACK:
	case GDB_MORE: break;
	}
}

static size_t gdb_can_receive(void *opaque)
{
	struct gdb_stub *gdb = opaque;

	return gdb->unsent.len ? 0 : READ_MAX;
}

static void gdb_receive(void *opaque, const uint8_t *data, size_t len)
{
	struct gdb_stub *gdb = opaque;

	for (size_t i = 0; i < len; i++)
		handle_input(gdb, gdb_framer_push(&gdb->framer, data[i]));
}

static void gdb_writable(void *opaque)
{
	struct gdb_stub *gdb = opaque;

	if (gdb->unsent.len)
		push_unsent(gdb);
	if (!gdb->unsent.len)
		chardev_accept_input(gdb->chr);
}

static void start_session(struct gdb_stub *gdb)
{
	gdb_framer_reset(&gdb->framer);
	gdb->unsent.len = gdb->last.len = 0;
	gdb->no_ack = gdb->multiprocess = gdb->swbreak = gdb->hwbreak = false;
	gdb->target.physical = false;
	gdb->other = gdb->resumed = gdb->stopped_vcpu = 0;
	gdb->sstep = GDB_SSTEP_ENABLE | GDB_SSTEP_NOIRQ;
}

/* A new gdb finds a machine that stands still, and nothing of the one before it. */
static void gdb_event(void *opaque, enum chardev_event event)
{
	struct gdb_stub *gdb = opaque;

	if (event != CHARDEV_OPENED && event != CHARDEV_CLOSED)
		return;
	gdb_clean(gdb);
	start_session(gdb);
	if (event == CHARDEV_CLOSED)
		return;
	vm_pause(gdb->vm, VM_PAUSED);
	gdb->signal = GDB_SIGNAL_TRAP;
	gdb->stop = (struct gdb_stop){};
}

static const struct chardev_handler handler = {
	.can_receive = gdb_can_receive,
	.receive = gdb_receive,
	.event = gdb_event,
	.writable = gdb_writable,
};

/* --- Life ---- */

struct gdb_stub *gdbstub_new(struct vm *vm, struct chardev *chr, struct error **err)
{
	struct gdb_stub *gdb = xcalloc(1, sizeof(*gdb));

	gdb->vm = vm;
	gdb->chr = chr;
	gdb_run_init(gdb);
	if (chardev_attach(chr, &handler, gdb, err) == 0)
		return gdb;
	vm->debugger = NULL;
	gdbstub_free(gdb);
	return NULL;
}

void gdbstub_close(struct gdb_stub *gdb)
{
	if (!gdb)
		return;
	if (gdb->waiting) {
		gdb->reply.len = 0;
		gdb_addf(&gdb->reply, "W%02x", gdb->vm->exit_status & 0xff);
		gdb_send(gdb);
	}
	chardev_attach(gdb->chr, NULL, gdb, NULL);
}

void gdbstub_free(struct gdb_stub *gdb)
{
	if (!gdb)
		return;
	gdb_run_end(gdb);
	gdb_buffer_free(&gdb->reply);
	gdb_buffer_free(&gdb->last);
	gdb_buffer_free(&gdb->unsent);
	gdb_buffer_free(&gdb->description);
	gdb_buffer_free(&gdb->threads);
	free(gdb);
}
