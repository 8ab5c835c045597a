/*
 * Questions and settings, the packets that begin with q or Q: see gdb_internal.h. Those with "qemu"
 * in their names are QEMU's own (its manual, "GDB usage").
 */
#include "revirter/gdb_internal.h"

#include "base/util.h"
#include "chardev/chardev.h"
#include "hav.h"
#include "machine/machine.h"
#include "machine/vcpu.h"
#include "revirter/gdb_registers.h"
#include "revirter/monitor.h"
#include "revirter/vm.h"

#include <string.h>

/* A list of vCPUs is sent in pieces of so many. */
#define THREADS_A_PIECE 64
#define MONITOR_MAX     4096

/* --- What both sides can ---- */

static bool has_feature(const char *list, const char *name)
{
	const size_t len = strlen(name);

	for (const char *p = list; p && *p; p = strchr(p, ';')) {
		p += *p == ';';
		if (strncmp(p, name, len) == 0 && (!p[len] || p[len] == ';'))
			return true;
	}
	return false;
}

static void q_supported(struct gdb_stub *gdb, const char *args)
{
	gdb->multiprocess = has_feature(args, "multiprocess+");
	gdb->swbreak = has_feature(args, "swbreak+");
	gdb->hwbreak = has_feature(args, "hwbreak+");
	gdb_addf(&gdb->reply,
		 "PacketSize=%x;qXfer:features:read+;qXfer:threads:read+;QStartNoAckMode+;"
		 "vContSupported+;multiprocess+;swbreak+;hwbreak+",
		 GDB_PACKET_MAX);
}

static void q_start_no_ack(struct gdb_stub *gdb, const char *args)
{
	gdb->no_ack = true;
	gdb_reply(gdb, "OK");
}

static void q_attached(struct gdb_stub *gdb, const char *args)
{
	gdb_reply(gdb, "1");
}

/* --- Threads ---- */

static void q_current(struct gdb_stub *gdb, const char *args)
{
	gdb_reply(gdb, "QC");
	gdb_add_thread(gdb, gdb->other);
}

static void q_next_threads(struct gdb_stub *gdb, const char *args)
{
	const unsigned n = gdb->vm->machine.n_vcpus;
	const unsigned end = MIN(n, gdb->threads_told + THREADS_A_PIECE);

	if (gdb->threads_told == n) {
		gdb_reply(gdb, "l");
		return;
	}
	for (unsigned i = gdb->threads_told; i < end; i++) {
		gdb_reply(gdb, i == gdb->threads_told ? "m" : ",");
		gdb_add_thread(gdb, i);
	}
	gdb->threads_told = end;
}

static void q_first_threads(struct gdb_stub *gdb, const char *args)
{
	gdb->threads_told = 0;
	q_next_threads(gdb, args);
}

static bool is_halted(const struct gdb_stub *gdb, unsigned i)
{
	struct hav_state *state AUTO_FREE = xcalloc(1, sizeof(*state));

	const struct vcpu *vcpu = &gdb->vm->machine.vcpus[i];

	/* Whose local APIC it is, he knows. */
	if (vcpu->irq.lapic)
		return vcpu->irq.halted || vcpu->irq.waits_for_sipi;
	return hav_vcpu_get_state(vcpu->hav, HAV_STATE_MP, state, NULL) == 0 &&
	       state->mp != HAV_MP_RUNNABLE;
}

static void q_thread_info(struct gdb_stub *gdb, const char *args)
{
	char *text AUTO_FREE = NULL;
	int64_t thread;
	unsigned i;

	if (!gdb_parse_thread(&args, &thread) || !gdb_vcpu_of(gdb, thread, 0, &i)) {
		gdb_reply(gdb, GDB_EINVAL);
		return;
	}
	text = xasprintf("CPU#%u [%s]", i, is_halted(gdb, i) ? "halted " : "running");
	gdb_add_hex(&gdb->reply, text, strlen(text));
}

/* --- Documents, read piece by piece ---- */

static void make_thread_list(struct gdb_stub *gdb)
{
	struct gdb_buffer *xml = &gdb->threads;

	xml->len = 0;
	gdb_addf(xml, "<?xml version=\"1.0\"?>\n<threads>\n");
	for (unsigned i = 0; i < gdb->vm->machine.n_vcpus; i++)
		gdb_addf(xml, "<thread id=\"%s%x\" core=\"%u\">CPU#%u [%s]</thread>\n",
			 gdb->multiprocess ? "p1." : "", i + 1, i, i,
			 is_halted(gdb, i) ? "halted " : "running");
	gdb_addf(xml, "</threads>\n");
}

/* "offset,length" */
static void add_piece(struct gdb_stub *gdb, const struct gdb_buffer *document, const char *range)
{
	uint64_t offset, len;

	if (!gdb_parse_hex(&range, &offset) || !gdb_parse_char(&range, ',') ||
	    !gdb_parse_hex(&range, &len) || *range || offset > document->len) {
		gdb_reply(gdb, "E00");
		return;
	}
	/* Escapes may double it. */
	len = MIN(MIN(len, GDB_PACKET_MAX / 2 - 1), document->len - offset);
	gdb_reply(gdb, offset + len < document->len ? "m" : "l");
	gdb_add_binary(&gdb->reply, document->data + offset, len);
}

static void q_features(struct gdb_stub *gdb, const char *args)
{
	static const char name[] = "target.xml:";

	if (strncmp(args, name, strlen(name)) != 0) {
		gdb_reply(gdb, "E00");
		return;
	}
	if (!gdb->description.len)
		gdb_register_xml(&gdb->description);
	add_piece(gdb, &gdb->description, args + strlen(name));
}

static void q_threads(struct gdb_stub *gdb, const char *args)
{
	if (!gdb_parse_char(&args, ':')) {
		gdb_reply(gdb, "E00");
		return;
	}
	if (!gdb->threads.len || strncmp(args, "0,", 2) == 0)
		make_thread_list(gdb);
	add_piece(gdb, &gdb->threads, args);
}

/* --- The human monitor ---- */

static void q_monitor(struct gdb_stub *gdb, const char *args)
{
	char line[MONITOR_MAX + 1];
	const size_t len = strlen(args) / 2;
	char *text AUTO_FREE = NULL;

	if (!len || len > MONITOR_MAX || !gdb_parse_bytes(args, line, len)) {
		gdb_reply(gdb, GDB_EINVAL);
		return;
	}
	line[len] = '\0';
	text = monitor_execute(gdb->vm, line);
	/* gdb's terminal needs no carriage returns. */
	for (const char *p = text; *p; p++)
		if (*p != '\r')
			gdb_add_hex(&gdb->reply, p, 1);
	if (!gdb->reply.len)
		gdb_reply(gdb, "OK");
}

/* --- QEMU's own ---- */

static void q_sstep_bits(struct gdb_stub *gdb, const char *args)
{
	gdb_addf(&gdb->reply, "ENABLE=%llx,NOIRQ=%llx", (unsigned long long)GDB_SSTEP_ENABLE,
		 (unsigned long long)GDB_SSTEP_NOIRQ);
}

static void q_sstep(struct gdb_stub *gdb, const char *args)
{
	gdb_addf(&gdb->reply, "0x%x", gdb->sstep);
}

static void q_set_sstep(struct gdb_stub *gdb, const char *args)
{
	uint64_t value;

	if (!gdb_parse_hex(&args, &value) || *args ||
	    value & ~(GDB_SSTEP_ENABLE | GDB_SSTEP_NOIRQ)) {
		gdb_reply(gdb, GDB_EINVAL);
		return;
	}
	gdb->sstep = value;
	gdb_reply(gdb, "OK");
}

static void q_physical(struct gdb_stub *gdb, const char *args)
{
	gdb_reply(gdb, gdb->target.physical ? "1" : "0");
}

static void q_set_physical(struct gdb_stub *gdb, const char *args)
{
	uint64_t value;

	if (!gdb_parse_hex(&args, &value) || *args) {
		gdb_reply(gdb, GDB_EINVAL);
		return;
	}
	gdb->target.physical = value;
	gdb_reply(gdb, "OK");
}

static void q_qemu_supported(struct gdb_stub *gdb, const char *args)
{
	gdb_reply(gdb, "sstepbits;sstep;PhyMemMode");
}

/* --- */

static const struct {
	const char *name;
	char separator; /* what follows the name; 0: nothing */
	void (*run)(struct gdb_stub *gdb, const char *args);
} queries[] = {
	{ "qAttached", ':', q_attached },
	{ "qAttached", 0, q_attached },
	{ "qC", 0, q_current },
	{ "qRcmd", ',', q_monitor },
	{ "qSupported", ':', q_supported },
	{ "qSupported", 0, q_supported },
	{ "qThreadExtraInfo", ',', q_thread_info },
	{ "qXfer:features:read", ':', q_features },
	{ "qXfer:threads:read", ':', q_threads },
	{ "qfThreadInfo", 0, q_first_threads },
	{ "qqemu.PhyMemMode", 0, q_physical },
	{ "qqemu.Supported", 0, q_qemu_supported },
	{ "qqemu.sstep", 0, q_sstep },
	{ "qqemu.sstepbits", 0, q_sstep_bits },
	{ "qsThreadInfo", 0, q_next_threads },
	{ "QStartNoAckMode", 0, q_start_no_ack },
	{ "Qqemu.PhyMemMode", ':', q_set_physical },
	{ "Qqemu.sstep", '=', q_set_sstep },
};

void gdb_query(struct gdb_stub *gdb, const char *text)
{
	for (unsigned i = 0; i < ARRAY_SIZE(queries); i++) {
		const size_t len = strlen(queries[i].name);

		if (strncmp(text, queries[i].name, len) == 0 && text[len] == queries[i].separator) {
			queries[i].run(gdb, text + len + (queries[i].separator != 0));
			return;
		}
	}
}
