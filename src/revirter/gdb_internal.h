/*
 * Between the files of the gdb stub: gdbstub.c (the peer), gdb_commands.c (what packets ask for),
 * gdb_query.c (q and Q packets), gdb_run.c (going on and stopping).
 */
#ifndef REVIRT_REVIRTER_GDB_INTERNAL_H
#define REVIRT_REVIRTER_GDB_INTERNAL_H

#include "base/loop.h"
#include "revirter/gdb_packet.h"
#include "revirter/gdb_target.h"

struct chardev;
struct vm;

/* GDB's own signal numbers (include/gdb/signals.def). */
enum {
	GDB_SIGNAL_INT = 2,
	GDB_SIGNAL_QUIT = 3,
	GDB_SIGNAL_TRAP = 5,
	GDB_SIGNAL_ABRT = 6,
	GDB_SIGNAL_STOP = 17,
	GDB_SIGNAL_UNKNOWN = 143,
};

/* Errors by number: gdb prints them and looks no closer. Linux's EFAULT and EINVAL, as QEMU. */
#define GDB_EFAULT "E14"
#define GDB_EINVAL "E22"

/* How the machine single-steps (QEMU's sstep bits). */
#define GDB_SSTEP_ENABLE BIT(0)
#define GDB_SSTEP_NOIRQ  BIT(1)

enum gdb_action { GDB_HOLD, GDB_CONTINUE, GDB_STEP };

/* What a vCPU stopped for and gdb has not been told yet. */
struct gdb_vcpu {
	bool stepping;     /* changed while the machine stands still */
	_Atomic bool news; /* stop is valid; set on the vCPU's thread */
	struct gdb_stop stop;
};

struct gdb_stub {
	struct vm *vm;
	struct chardev *chr;
	struct gdb_framer framer;
	struct gdb_buffer reply;  /* in the making, without its frame */
	struct gdb_buffer last;   /* what was sent last, framed, for a NAK */
	struct gdb_buffer unsent; /* what the chardev has not taken yet */

	bool no_ack, multiprocess, swbreak, hwbreak;
	bool waiting; /* gdb has said go, and waits to hear of a stop */
	unsigned sstep;
	unsigned other, resumed;                /* vCPUs that Hg and Hc chose */
	unsigned threads_told;                  /* by qfThreadInfo and qsThreadInfo */
	struct gdb_buffer description, threads; /* of qXfer; made when first asked for */

	struct gdb_target target;
	struct gdb_vcpu *vcpus; /* as many as the machine has */
	struct loop_call news;  /* some vCPU has news */
	/* The last stop, for '?'. */
	unsigned signal, stopped_vcpu;
	struct gdb_stop stop;
};

/* --- gdbstub.c ---- */

void gdb_reply(struct gdb_stub *gdb, const char *text); /* adds it to the reply */
void gdb_send(struct gdb_stub *gdb);                    /* sends the reply */
void gdb_add_thread(struct gdb_stub *gdb, unsigned vcpu);
/* The vCPU that is thread number `thread`; for GDB_ALL and GDB_ANY the one `otherwise`. False:
 * there is none. */
bool gdb_vcpu_of(const struct gdb_stub *gdb, int64_t thread, unsigned otherwise, unsigned *vcpu);

/* --- gdb_commands.c ---- */

/* Does what the packet in the framer says, and sends the reply unless that comes later. */
void gdb_run_packet(struct gdb_stub *gdb);

/* --- gdb_query.c ---- */

/* Adds the reply to a q or Q packet; nothing when it is not known. */
void gdb_query(struct gdb_stub *gdb, const char *text);

/* --- gdb_run.c ---- */

/* Lets vCPUs go, each as its action says. The answer comes when one stops. */
void gdb_go(struct gdb_stub *gdb, const enum gdb_action *actions);
/* "vCont;…", after the name: false when it makes no sense. */
bool gdb_vcont(struct gdb_stub *gdb, const char *text);
/* Takes away what a debugger put into the machine. Stands still or not, it is left as it was. */
void gdb_clean(struct gdb_stub *gdb);
/* Adds a stop reply for the last stop. */
void gdb_add_stop(struct gdb_stub *gdb);
void gdb_run_init(struct gdb_stub *gdb);
void gdb_run_end(struct gdb_stub *gdb);

#endif
