/*
 * The gdb stub without a guest: packets as they come off the wire, thread ids, registers in a
 * vCPU's state and the description of them, page tables, memory and breakpoints.
 */
#include "base/util.h"
#include "hav/backend.h"
#include "machine/machine.h"
#include "machine/vcpu.h"
#include "revirter/gdb_packet.h"
#include "revirter/gdb_registers.h"
#include "revirter/gdb_target.h"
#include "watcher.h"
#include "x86/paging.h"
#include "x86/registers.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* --- Packets ---- */

static struct gdb_framer framer;

/* Feeds bytes and returns what the last made of it; what came before must have been nothing. */
static enum gdb_input feed_bytes(const char *bytes, size_t len)
{
	enum gdb_input input = GDB_MORE;

	for (size_t i = 0; i < len; i++) {
		assert_int_equal(input, GDB_MORE);
		input = gdb_framer_push(&framer, bytes[i]);
	}
	return input;
}

static enum gdb_input feed(const char *text)
{
	return feed_bytes(text, strlen(text));
}

/* As gdb would send it. */
static enum gdb_input feed_packet(const char *data, size_t len)
{
	struct gdb_buffer payload = { (char *)data, len, len }, packet GDB_BUFFER_AUTO = {};

	gdb_add_packet(&packet, &payload);
	return feed_bytes(packet.data, packet.len);
}

static void expect_packet(const char *wire, const char *data, size_t len)
{
	assert_int_equal(feed(wire), GDB_PACKET);
	assert_int_equal(framer.len, len);
	assert_memory_equal(framer.data, data, len);
	assert_int_equal(framer.data[len], 0);
}

static void test_packets(void **state)
{
	expect_packet("$g#67", "g", 1);
	expect_packet("$#00", "", 0);
	expect_packet("$OK#9A", "OK", 2);
	assert_int_equal(feed("+"), GDB_ACK);
	assert_int_equal(feed("-"), GDB_NAK);
	assert_int_equal(feed("\003"), GDB_INTERRUPT);
	assert_int_equal(feed("hello # } *"), GDB_MORE);
	assert_int_equal(feed("$g#68"), GDB_CORRUPT);
	assert_int_equal(feed("$g#6x"), GDB_CORRUPT);
	assert_int_equal(feed("$g##7"), GDB_CORRUPT);
	/* A Ctrl-C in a packet is data. */
	expect_packet("$X\003#5b", "X\003", 2);
}

static void test_escapes(void **state)
{
	static const char special[] = "a#$}*\0b";
	struct gdb_buffer payload GDB_BUFFER_AUTO = {};

	expect_packet("$}\003#80", "#", 1);
	expect_packet("$}]#da", "}", 1);
	assert_int_equal(feed("$}#7d"), GDB_CORRUPT);
	gdb_add_binary(&payload, special, sizeof(special));
	assert_int_equal(payload.len, sizeof(special) + 4);
	assert_int_equal(feed_packet(payload.data, payload.len), GDB_PACKET);
	assert_int_equal(framer.len, sizeof(special));
	assert_memory_equal(framer.data, special, sizeof(special));
}

static void test_runs(void **state)
{
	expect_packet("$0* #7a", "0000", 4);
	assert_int_equal(feed_packet("x*~", 3), GDB_PACKET);
	assert_int_equal(framer.len, 1 + '~' - 29);
	/* Nothing to repeat; no count; a count that is none. */
	assert_int_equal(feed("$* #4a"), GDB_CORRUPT);
	assert_int_equal(feed("$0*#5a"), GDB_CORRUPT);
	assert_int_equal(feed_packet("0*\x1f", 3), GDB_CORRUPT);
	assert_int_equal(feed_packet("0*\xff", 3), GDB_CORRUPT);
}

static void test_oversize(void **state)
{
	static char big[GDB_PACKET_MAX + 1];
	char runs[3 * 400] = "";

	memset(big, 'm', sizeof(big));
	assert_int_equal(feed_packet(big, GDB_PACKET_MAX), GDB_PACKET);
	assert_int_equal(framer.len, GDB_PACKET_MAX);
	assert_int_equal(feed_packet(big, GDB_PACKET_MAX + 1), GDB_TOO_LONG);
	/* Small on the wire. */
	for (unsigned i = 0; i < sizeof(runs); i += 3)
		memcpy(runs + i, "0*~", 3);
	assert_int_equal(feed_packet(runs, sizeof(runs)), GDB_TOO_LONG);
	expect_packet("$g#67", "g", 1);
}

static void test_nested(void **state)
{
	expect_packet("$m0,4$$garbage$g#67", "g", 1);
	expect_packet("$m}$g#67", "g", 1);
	assert_int_equal(feed("$m0,4"), GDB_MORE);
	gdb_framer_reset(&framer);
	assert_int_equal(feed("\003"), GDB_INTERRUPT);
}

static void test_numbers(void **state)
{
	static const struct {
		const char *text;
		bool good;
		int64_t thread;
	} threads[] = {
		{ "1", true, 1 },       { "p1.2", true, 2 },     { "-1", true, GDB_ALL },
		{ "0", true, GDB_ANY }, { "p1", true, GDB_ALL }, { "p1.-1", true, GDB_ALL },
		{ "p0.0", true, 0 },    { "p-1.-1", true, -1 },  { "p2.1", false, 0 },
		{ "", false, 0 },       { "p", false, 0 },       { "p1.", false, 0 },
		{ "-2", false, 0 },     { "x", false, 0 },       { "ffffffff", false, 0 },
	};
	const char *text = "fffffffffffffff0,";
	uint64_t value;
	int64_t thread;
	uint8_t bytes[2];

	assert_true(gdb_parse_hex(&text, &value));
	assert_int_equal(value, 0xfffffffffffffff0ull);
	assert_true(gdb_parse_char(&text, ','));
	assert_false(gdb_parse_char(&text, '\0'));
	assert_false(gdb_parse_hex(&text, &value));
	text = "10000000000000000";
	assert_false(gdb_parse_hex(&text, &value));
	assert_true(gdb_parse_bytes("0aF1", bytes, 2) && bytes[0] == 0x0a && bytes[1] == 0xf1);
	assert_false(gdb_parse_bytes("0aF", bytes, 2));
	assert_false(gdb_parse_bytes("0aFg", bytes, 2));
	for (unsigned i = 0; i < ARRAY_SIZE(threads); i++) {
		text = threads[i].text;
		assert_int_equal(gdb_parse_thread(&text, &thread), threads[i].good);
		if (threads[i].good)
			assert_int_equal(thread, threads[i].thread);
	}
}

/* --- Registers ---- */

static struct hav_state vcpu_state;

static unsigned find_register(const char *name)
{
	struct gdb_buffer xml GDB_BUFFER_AUTO = {};
	char *what AUTO_FREE = xasprintf("<reg name=\"%s\" ", name);
	const char *p;

	gdb_register_xml(&xml);
	gdb_add(&xml, "", 1);
	p = strstr(xml.data, what);
	assert_non_null(p);
	p = strstr(p, "regnum=\"");
	return strtoul(p + strlen("regnum=\""), NULL, 10);
}

static void test_register_numbers(void **state)
{
	/* What gdb takes for granted where it does not read the description: its amd64 order. */
	assert_int_equal(find_register("rip"), 16);
	assert_int_equal(find_register("eflags"), 17);
	assert_int_equal(find_register("st0"), 24);
	assert_int_equal(find_register("fctrl"), 32);
	assert_int_equal(find_register("xmm0"), 40);
	assert_int_equal(find_register("mxcsr"), 56);
	assert_int_equal(find_register("efer"), gdb_n_registers() - 1);
}

static void test_register_round_trip(void **state)
{
	uint8_t bytes[GDB_REGISTER_MAX], again[GDB_REGISTER_MAX];

	memset(&vcpu_state, 0, sizeof(vcpu_state));
	for (unsigned n = 0; n < gdb_n_registers(); n++) {
		assert_true(gdb_register_size(n) <= GDB_REGISTER_MAX);
		memset(bytes, 0, sizeof(bytes));
		bytes[0] = 4 * n + 2; /* bit 1 of RFLAGS is always set */
		assert_true(gdb_register_write(&vcpu_state, n, bytes));
		gdb_register_read(&vcpu_state, n, again);
		if (n != find_register("ftag"))
			assert_memory_equal(again, bytes, gdb_register_size(n));
	}
	assert_int_equal(vcpu_state.regs.rax, 2);
	assert_int_equal(vcpu_state.sregs.cs.base, vcpu_state.sregs.cs.selector << 4);
}

static void test_tags(void **state)
{
	uint8_t bytes[4], *x = vcpu_state.xsave;

	memset(&vcpu_state, 0, sizeof(vcpu_state));
	gdb_register_read(&vcpu_state, find_register("ftag"), bytes);
	assert_int_equal(bytes[0] | bytes[1] << 8, 0xffff);
	/* The top is register 6: ST0 there is 1.0, ST1 in register 7 is 0.0. */
	x[3] = 6 << 3;
	x[4] = 0xc0;
	x[32 + 7] = 0x80;
	x[32 + 8] = 0xff;
	x[32 + 9] = 0x3f;
	gdb_register_read(&vcpu_state, find_register("ftag"), bytes);
	assert_int_equal(bytes[0] | bytes[1] << 8, 0x4fff);
	assert_true(gdb_register_write(&vcpu_state, find_register("ftag"), bytes));
	assert_int_equal(x[4], 0xc0);
}

static void test_selectors(void **state)
{
	uint8_t bytes[4] = { 0x10 };

	memset(&vcpu_state, 0, sizeof(vcpu_state));
	vcpu_state.sregs.cr0 = CR0_PE;
	vcpu_state.sregs.ds.selector = 0x18;
	assert_false(gdb_register_write(&vcpu_state, find_register("ds"), bytes));
	bytes[0] = 0x18;
	assert_true(gdb_register_write(&vcpu_state, find_register("ds"), bytes));
	assert_int_equal(vcpu_state.sregs.ds.base, 0);
}

/* --- Page tables ---- */

static uint8_t memory[16][4096];

static bool read_entry(void *opaque, uint64_t gpa, void *entry, unsigned size)
{
	if (gpa > sizeof(memory) - size)
		return false;
	memcpy(entry, (uint8_t *)memory + gpa, size);
	return true;
}

static void set_entry(unsigned page, unsigned index, uint64_t value)
{
	memcpy(memory[page] + 8 * index, &value, 8);
}

static bool look_up(const struct paging_mode *mode, uint64_t linear, uint64_t *gpa, uint64_t *left)
{
	return paging_look_up(mode, linear, read_entry, NULL, gpa, left);
}

static void test_long_mode(void **state)
{
	struct paging_mode m = { CR0_PE | CR0_PG, 0x1018, CR4_PAE, EFER_LME | EFER_LMA };
	uint64_t gpa, left;

	memset(memory, 0, sizeof(memory));
	set_entry(1, 511, 0x2003);              /* PML4 */
	set_entry(2, 510, 0x3003);              /* PDPT */
	set_entry(2, 509, 0xc0000083);          /* a page of 1 GiB */
	set_entry(3, 0, 0x4003);                /* directory */
	set_entry(3, 1, 0x8000000000a01083ull); /* 2 MiB, PAT, NX */
	set_entry(4, 1, 0x8000000000007001ull); /* 4 KiB */
	set_entry(4, 2, 0x7000);                /* not present */
	assert_true(look_up(&m, 0xffffffff80001234ull, &gpa, &left));
	assert_int_equal(gpa, 0x7234);
	assert_int_equal(left, 0x1000 - 0x234);
	assert_true(look_up(&m, 0xffffffff80212345ull, &gpa, &left));
	assert_int_equal(gpa, 0xa12345);
	assert_int_equal(left, 0x200000 - 0x12345);
	assert_true(look_up(&m, 0xffffffff7fffffffull, &gpa, &left));
	assert_int_equal(gpa, 0xffffffff);
	assert_int_equal(left, 1);
	assert_false(look_up(&m, 0xffffffff80002000ull, &gpa, &left));
	assert_false(look_up(&m, 0x0000ff8000000000ull, &gpa, &left)); /* not canonical */
	set_entry(3, 2, 0x7f0000000003ull);                            /* a table outside RAM */
	assert_false(look_up(&m, 0xffffffff80400000ull, &gpa, &left));
	/* Five levels. */
	m = (struct paging_mode){ CR0_PG, 0x5000, CR4_PAE | CR4_LA57, EFER_LMA };
	set_entry(5, 256, 0x1003);
	assert_true(look_up(&m, 0xff00ffff80001234ull, &gpa, &left));
	assert_int_equal(gpa, 0x7234);
}

static void test_legacy_modes(void **state)
{
	struct paging_mode m = { .cr0 = CR0_PE };
	const uint32_t pse = 0x00c02083, pde = 0x3003, pte = 0x7003;
	uint64_t gpa, left;

	memset(memory, 0, sizeof(memory));
	assert_true(look_up(&m, 0x123456789abcull, &gpa, &left));
	assert_int_equal(gpa, 0x56789abc);
	/* 32-bit, the high bits of a large page in bits 13 on. */
	m = (struct paging_mode){ CR0_PE | CR0_PG, 0x2000, CR4_PSE, 0 };
	memcpy(memory[2], &pde, 4);
	memcpy(memory[2] + 4, &pse, 4);
	memcpy(memory[3] + 8, &pte, 4);
	assert_true(look_up(&m, 0x2042, &gpa, &left));
	assert_int_equal(gpa, 0x7042);
	assert_true(look_up(&m, 0x400042, &gpa, &left));
	assert_int_equal(gpa, 0x100c00042ull);
	m.cr4 = 0;
	assert_false(look_up(&m, 0x3000, &gpa, &left));
	/* PAE, its four pointers anywhere at 32 bytes; they are never pages. */
	m = (struct paging_mode){ CR0_PE | CR0_PG, 0x6020, CR4_PAE, 0 };
	set_entry(6, 4 + 3, 0x8001 | PTE_PS);
	set_entry(8, 0, 0x9003);
	set_entry(9, 5, 0xb003);
	assert_true(look_up(&m, 0xc0005678, &gpa, &left));
	assert_int_equal(gpa, 0xb678);
}

/* --- Memory and breakpoints ---- */

static struct hav_debug last_debug;

static int get_state(struct hav_vcpu *vcpu, unsigned groups, struct hav_state *s,
		     struct error **err)
{
	s->sregs = (struct hav_sregs){ .cr0 = CR0_PE };
	return 0;
}

static int set_debug(struct hav_vcpu *vcpu, const struct hav_debug *debug, struct error **err)
{
	last_debug = *debug;
	return 0;
}

static const struct hav_backend backend = { .get_state = get_state, .set_debug = set_debug };
static struct hav_vcpu hav_vcpu = { &backend };
static struct machine machine;
static struct vcpu vcpu = { .machine = &machine, .hav = &hav_vcpu };
static struct gdb_target target = { .machine = &machine };

static int set_up_target(void **state)
{
	const struct gmem_config config = { .size = 1 * MIB, .low_max = 1 * GIB };

	gdb_break_remove_all(&target);
	if (machine.mem.host)
		gmem_destroy(&machine.mem);
	return gmem_init(&machine.mem, NULL, &config, NULL);
}

static int tear_down_target(void **state)
{
	gdb_break_remove_all(&target);
	gmem_destroy(&machine.mem);
	return 0;
}

static void test_software_breakpoints(void **state)
{
	const struct hav_exit hit = { .debug = { .exception = 3, .pc = 0x1000 } };
	const struct hav_exit other = { .debug = { .exception = 3, .pc = 0x1001 } };
	uint8_t *ram = machine.mem.host, buf[4] = {};

	memcpy(ram + 0x1000, "abcd", 4);
	machine.mem.watcher = &watcher;
	watched.n = 0;
	assert_int_equal(gdb_break_insert(&target, &vcpu, GDB_BREAK_SOFTWARE, 0x1000, 1),
			 GDB_BREAK_DONE);
	assert_int_equal(gdb_break_insert(&target, &vcpu, GDB_BREAK_SOFTWARE, 0x1000, 1),
			 GDB_BREAK_DONE);
	assert_int_equal(gdb_break_insert(&target, &vcpu, GDB_BREAK_SOFTWARE, 1 * MIB, 1),
			 GDB_BREAK_NO_MEMORY);
	assert_int_equal(target.n_breakpoints, 1);
	assert_int_equal(ram[0x1000], 0xcc);
	assert_true(watched.n == 1 && watcher_knows(0x1000, 1));
	/* It does not show, and what is written below it stays below. */
	assert_int_equal(gdb_memory_read(&target, &vcpu, 0x1000, buf, 4), 4);
	assert_memory_equal(buf, "abcd", 4);
	assert_int_equal(gdb_memory_write(&target, &vcpu, 0x0fff, "xyz", 3), 3);
	assert_int_equal(ram[0x1000], 0xcc);
	assert_true(watched.n == 3 && watcher_knows(0x0fff, 3));
	assert_int_equal(gdb_break_classify(&target, &vcpu, false, &hit).kind, GDB_STOP_BREAK);
	assert_int_equal(gdb_break_classify(&target, &vcpu, false, &hit).address, 0x1000);
	assert_int_equal(gdb_break_classify(&target, &vcpu, false, &other).kind, GDB_STOP_NONE);
	gdb_break_apply(&target, &vcpu, false, true, NULL);
	assert_true(last_debug.enabled && last_debug.software_breakpoints && !last_debug.dr7);
	gdb_break_remove(&target, GDB_BREAK_SOFTWARE, 0x1000, 1);
	gdb_break_remove(&target, GDB_BREAK_SOFTWARE, 0x1000, 1);
	assert_memory_equal(ram + 0xfff, "xyzcd", 5);
	assert_int_equal(watched.n, 4);
	assert_int_equal(target.n_software, 0);
	/* The guest wrote over it. */
	gdb_break_insert(&target, &vcpu, GDB_BREAK_SOFTWARE, 0x1000, 1);
	ram[0x1000] = 'n';
	gdb_break_remove_all(&target);
	assert_int_equal(ram[0x1000], 'n');
	/* As far as there is memory. */
	assert_int_equal(gdb_memory_read(&target, &vcpu, 1 * MIB - 2, buf, 4), 2);
	assert_int_equal(gdb_memory_read(&target, &vcpu, 1 * MIB, buf, 4), 0);
	assert_int_equal(gdb_memory_read(&target, &vcpu, UINT64_MAX, buf, 4), 0);
}

static void test_debug_registers(void **state)
{
	struct hav_exit exit = { .debug = { .exception = 1, .dr6 = 0xffff0ff2 } };
	struct gdb_stop stop;

	assert_int_equal(gdb_break_insert(&target, &vcpu, GDB_BREAK_HARDWARE, 0x1001, 1),
			 GDB_BREAK_DONE);
	/* 3 bytes, not aligned: a byte and two. */
	assert_int_equal(gdb_break_insert(&target, &vcpu, GDB_WATCH_WRITE, 0x2001, 3),
			 GDB_BREAK_DONE);
	assert_int_equal(gdb_break_insert(&target, &vcpu, GDB_WATCH_ACCESS, 0x3000, 12),
			 GDB_BREAK_REFUSED);
	assert_int_equal(gdb_break_insert(&target, &vcpu, GDB_WATCH_ACCESS, 0x3000, UINT64_MAX),
			 GDB_BREAK_REFUSED);
	assert_int_equal(gdb_break_insert(&target, &vcpu, GDB_WATCH_ACCESS, 0x3000, 0),
			 GDB_BREAK_REFUSED);
	assert_int_equal(gdb_break_insert(&target, &vcpu, GDB_WATCH_ACCESS, 0x3000, 8),
			 GDB_BREAK_DONE);
	gdb_break_apply(&target, &vcpu, true, true, NULL);
	assert_true(last_debug.single_step && !last_debug.software_breakpoints);
	assert_true(last_debug.block_interrupts);
	assert_int_equal(last_debug.dr[0], 0x1001);
	assert_int_equal(last_debug.dr[1], 0x2001);
	assert_int_equal(last_debug.dr[2], 0x2002);
	assert_int_equal(last_debug.dr[3], 0x3000);
	assert_int_equal(last_debug.dr7, 0xb51002aa);
	stop = gdb_break_classify(&target, &vcpu, true, &exit);
	assert_int_equal(stop.kind, GDB_STOP_WATCH);
	assert_int_equal(stop.type, GDB_WATCH_WRITE);
	assert_int_equal(stop.address, 0x2001);
	exit.debug.dr6 = 0xffff4ff1;
	assert_int_equal(gdb_break_classify(&target, &vcpu, true, &exit).kind, GDB_STOP_STEP);
	assert_int_equal(gdb_break_classify(&target, &vcpu, false, &exit).kind, GDB_STOP_BREAK);
	exit.debug.dr6 = 0xffff4ff0;
	assert_int_equal(gdb_break_classify(&target, &vcpu, false, &exit).kind, GDB_STOP_NONE);
	gdb_break_remove(&target, GDB_BREAK_HARDWARE, 0x1001, 1);
	gdb_break_remove_all(&target);
	gdb_break_apply(&target, &vcpu, false, true, NULL);
	assert_false(last_debug.enabled || last_debug.dr7);
	hav_vcpu_set_debug(&hav_vcpu,
			   &(struct hav_debug){ .enabled = true, .block_interrupts = true }, NULL);
	assert_false(last_debug.block_interrupts); /* in steps only */
}

static void test_too_many(void **state)
{
	for (unsigned i = 0; i < GDB_MAX_BREAKPOINTS; i++)
		assert_int_equal(gdb_break_insert(&target, &vcpu, GDB_BREAK_SOFTWARE, i, 1),
				 GDB_BREAK_DONE);
	assert_int_equal(gdb_break_insert(&target, &vcpu, GDB_BREAK_SOFTWARE, 0x5000, 1),
			 GDB_BREAK_REFUSED);
	gdb_break_remove_all(&target);
	for (unsigned i = 0; i < GDB_MAX_BREAKPOINTS; i++)
		assert_int_equal(((uint8_t *)machine.mem.host)[i], 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_packets),
		cmocka_unit_test(test_escapes),
		cmocka_unit_test(test_runs),
		cmocka_unit_test(test_oversize),
		cmocka_unit_test(test_nested),
		cmocka_unit_test(test_numbers),
		cmocka_unit_test(test_register_numbers),
		cmocka_unit_test(test_register_round_trip),
		cmocka_unit_test(test_tags),
		cmocka_unit_test(test_selectors),
		cmocka_unit_test(test_long_mode),
		cmocka_unit_test(test_legacy_modes),
		cmocka_unit_test_setup(test_software_breakpoints, set_up_target),
		cmocka_unit_test_setup(test_debug_registers, set_up_target),
		cmocka_unit_test_setup_teardown(test_too_many, set_up_target, tear_down_target),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
