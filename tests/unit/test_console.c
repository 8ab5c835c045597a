/*
 * virtio-serial: the control protocol, ports that open and close on both sides, chardevs that take
 * a part or nothing, guests without buffers, and drivers that break the rules. The chardev is an
 * array.
 */
#include "fake_driver.h"

#include "chardev/chardev.h"
#include "virtio/device_list.h"

#define MULTIPORT BIT(1)
#define EVENT     BIT(VIRTIO_F_EVENT_IDX)

/* --- The character devices ---- */

struct chardev {
	const struct chardev_handler *handler;
	void *opaque;
	uint8_t out[65536];
	size_t n_out, room;
	unsigned accepts;
	bool frontend_open, open_at_attach, refuses;
};

static struct chardev chr[3];

int chardev_attach(struct chardev *c, const struct chardev_handler *handler, void *opaque,
		   struct error **err)
{
	if (handler && (c->refuses || c->handler)) {
		error_set(err, "taken");
		return -1;
	}
	c->handler = handler;
	c->opaque = opaque;
	if (handler && c->open_at_attach)
		handler->event(opaque, CHARDEV_OPENED);
	return 0;
}

size_t chardev_write_from(struct chardev *c, void *frontend, const void *data, size_t len)
{
	size_t n = MIN(len, MIN(c->room, sizeof(c->out) - c->n_out));

	assert_ptr_equal(frontend, c->opaque);
	memcpy(c->out + c->n_out, data, n);
	c->n_out += n;
	c->room -= n;
	return n;
}

void chardev_accept_input(struct chardev *c)
{
	c->accepts++;
}

void chardev_set_frontend_open(struct chardev *c, void *frontend, bool open)
{
	c->frontend_open = open;
}

static void expect_out(struct chardev *c, const char *text)
{
	assert_int_equal(c->n_out, strlen(text));
	assert_memory_equal(c->out, text, c->n_out);
}

/* --- The device: port 0 a console, port 1 a channel, port 2 another ---- */

static struct fake_machine fm;
static struct virtio_device *vd;

#define IN(port)  (&fm.queues[(port) ? 2 * (port) + 2 : 0])
#define OUT(port) (IN(port) + 1)
#define CTRL_IN   (&fm.queues[2])
#define CTRL_OUT  (&fm.queues[3])

static void plug(const char *props)
{
	static const char *const ids[] = { "c0", "c1", "c2" };

	fake_machine_init(&fm, 16 * MIB);
	memset(chr, 0, sizeof(chr));
	for (unsigned i = 0; i < 3; i++) {
		chr[i].room = SIZE_MAX;
		backends_add(fm.m.backends, BACKEND_CHARDEV, ids[i], &chr[i], NULL);
	}
	vd = fake_vd(fake_device(&fm, &virtio_serial_pci_class, props, NULL));
}

static void plug_ports(void)
{
	plug("id=vs,max_ports=4");
	fake_device(&fm, &virtconsole_class, "chardev=c0", NULL);
	fake_device(&fm, &virtserialport_class, "chardev=c1,name=org.test.1,bus=vs.0", NULL);
	fake_device(&fm, &virtserialport_class, "chardev=c2,nr=3", NULL);
}

static void unplug(void)
{
	fake_machine_destroy(&fm);
}

struct message {
	uint32_t id;
	uint16_t event, value;
	char data[32];
};

static uint64_t ctrl_buffers;

static void add_ctrl_buffers(unsigned n)
{
	ctrl_buffers = fake_alloc(&fm, n * sizeof(struct message));
	for (unsigned i = 0; i < n; i++)
		fake_add(
			CTRL_IN,
			&FAKE_IN(ctrl_buffers + i * sizeof(struct message), sizeof(struct message)),
			1);
	fake_kick(CTRL_IN);
}

static void expect_message(uint32_t id, uint16_t event, uint16_t value, const char *data)
{
	struct virtq_used_elem elem = fake_wait_used(CTRL_IN);
	const struct message *m = fake_ptr(&fm, CTRL_IN->desc[elem.id].addr);

	assert_int_equal(m->id, id);
	assert_int_equal(m->event, event);
	assert_int_equal(m->value, value);
	if (data) {
		assert_int_equal(elem.len, 8 + strlen(data) + 1);
		assert_string_equal(m->data, data);
	} else {
		assert_int_equal(elem.len, 8);
	}
}

static void tell(uint32_t id, uint16_t event, uint16_t value)
{
	const struct message m = { id, event, value };

	fake_add(CTRL_OUT, &FAKE_OUT(fake_data(&fm, &m, 8), 8), 1);
	fake_kick(CTRL_OUT);
	fake_wait_used(CTRL_OUT);
}

static void expect_nothing(struct fake_queue *fq)
{
	struct virtq_used_elem elem;

	fake_run(vd->loop, 10);
	assert_false(fake_used(fq, &elem));
}

enum { READY, ADD, REMOVE, PORT_READY, CONSOLE, RESIZE, OPEN, NAME };

/* A driver's usual start. */
static void start(void)
{
	fake_start(&fm, vd, MULTIPORT | EVENT);
	add_ctrl_buffers(16);
	tell(0, READY, 1);
	expect_message(0, ADD, 1, NULL);
	expect_message(1, ADD, 1, NULL);
	expect_message(3, ADD, 1, NULL);
	tell(0, PORT_READY, 1);
	expect_message(0, CONSOLE, 1, NULL);
	expect_message(0, OPEN, 1, NULL);
	tell(1, PORT_READY, 1);
	expect_message(1, NAME, 1, "org.test.1");
	tell(3, PORT_READY, 1);
	expect_nothing(CTRL_IN);
}

static void send_text(struct fake_queue *fq, const char *text)
{
	const size_t len = strlen(text);
	const uint64_t gpa = fake_data(&fm, text, len);

	if (len > 3)
		fake_add(fq, (struct fake_piece[]){ FAKE_OUT(gpa, 2), FAKE_OUT(gpa + 2, len - 2) },
			 2);
	else
		fake_add(fq, &FAKE_OUT(gpa, len), 1);
	fake_kick(fq);
}

static void test_protocol(void **state)
{
	plug_ports();
	start();
	assert_false(chr[0].frontend_open);
	tell(0, OPEN, 1);
	tell(1, OPEN, 1);
	assert_true(chr[0].frontend_open);
	assert_true(chr[1].frontend_open);
	assert_false(chr[2].frontend_open);
	tell(1, OPEN, 0);
	assert_false(chr[1].frontend_open);

	/* the host's side */
	chr[1].handler->event(chr[1].opaque, CHARDEV_OPENED);
	expect_message(1, OPEN, 1, NULL);
	chr[1].handler->event(chr[1].opaque, CHARDEV_CLOSED);
	expect_message(1, OPEN, 0, NULL);
	chr[0].handler->event(chr[0].opaque, CHARDEV_CLOSED);
	chr[1].handler->event(chr[1].opaque, CHARDEV_BREAK);
	expect_nothing(CTRL_IN);
	unplug();
}

/* What can't be told at once is told when there are buffers; a new driver is told anew. */
static void test_control_waits(void **state)
{
	plug_ports();
	fake_start(&fm, vd, MULTIPORT);
	chr[1].handler->event(chr[1].opaque, CHARDEV_OPENED); /* nobody knows the port yet */
	tell(0, READY, 1);
	add_ctrl_buffers(2);
	expect_message(0, ADD, 1, NULL);
	expect_message(1, ADD, 1, NULL);
	tell(1, PORT_READY, 1);
	chr[1].handler->event(chr[1].opaque, CHARDEV_CLOSED);
	chr[1].handler->event(chr[1].opaque, CHARDEV_OPENED);
	expect_nothing(CTRL_IN);
	add_ctrl_buffers(8);
	expect_message(1, NAME, 1, "org.test.1");
	expect_message(1, OPEN, 1, NULL);
	expect_message(3, ADD, 1, NULL);
	expect_nothing(CTRL_IN);
	chr[1].handler->event(chr[1].opaque, CHARDEV_CLOSED);
	expect_message(1, OPEN, 0, NULL);
	start();
	unplug();
}

static void test_output(void **state)
{
	plug_ports();
	start();
	send_text(OUT(0), "hello ");
	send_text(OUT(0), "w");
	fake_wait_used(OUT(0));
	fake_wait_used(OUT(0));
	expect_out(&chr[0], "hello w");
	send_text(OUT(1), "one");
	fake_wait_used(OUT(1));
	expect_out(&chr[1], "one");
	send_text(OUT(2), "nobody"); /* port 2 is not there */
	expect_nothing(OUT(2));
	unplug();
}

/* A port whose chardev is full waits, and goes on where it was. */
static void test_output_throttled(void **state)
{
	plug_ports();
	start();
	chr[1].room = 3;
	send_text(OUT(1), "0123456789");
	send_text(OUT(1), "abcdef");
	fake_run(vd->loop, 400);
	expect_nothing(OUT(1));
	expect_out(&chr[1], "012");
	chr[1].room = 4;
	chr[1].handler->writable(chr[1].opaque);
	expect_nothing(OUT(1));
	machine_pause_devices(&fm.m);
	chr[1].room = 100;
	chr[1].handler->writable(chr[1].opaque);
	expect_out(&chr[1], "0123456");
	machine_resume_devices(&fm.m);
	fake_wait_used(OUT(1));
	fake_wait_used(OUT(1));
	expect_out(&chr[1], "0123456789abcdef");
	unplug();
}

/* A console waits a little, then its output is dropped until the chardev takes some again. */
static void test_console_patience(void **state)
{
	uint64_t begin;

	plug_ports();
	start();
	chr[0].room = 3;
	begin = now_ns();
	send_text(OUT(0), "0123456789");
	fake_wait_used(OUT(0));
	assert_true(now_ns() - begin >= 150000000);
	begin = now_ns();
	for (unsigned i = 0; i < 20; i++) {
		send_text(OUT(0), "lost");
		fake_wait_used(OUT(0));
	}
	assert_true(now_ns() - begin < 150000000);
	expect_out(&chr[0], "012");
	chr[0].room = 100;
	chr[0].handler->writable(chr[0].opaque);
	send_text(OUT(0), "back");
	fake_wait_used(OUT(0));
	expect_out(&chr[0], "012back");
	unplug();
}

/* One huge buffer does not keep the loop from its other business. */
static void test_output_huge(void **state)
{
	uint64_t gpa;

	plug_ports();
	start();
	gpa = fake_alloc(&fm, 4 * MIB);
	chr[1].n_out = 0;
	fake_add(OUT(1), &FAKE_OUT(gpa, 4 * MIB), 1);
	vd->ops->notify(vd, OUT(1)->q);
	assert_true(chr[1].n_out <= 65536);
	while (chr[1].n_out) {
		chr[1].n_out = 0;
		chr[1].handler->writable(chr[1].opaque);
		fake_run(vd->loop, 1);
	}
	fake_wait_used(OUT(1));
	unplug();
}

static size_t give(struct chardev *c, const char *text)
{
	size_t n = MIN(c->handler->can_receive(c->opaque), strlen(text));

	if (n)
		c->handler->receive(c->opaque, (const uint8_t *)text, n);
	return n;
}

static void add_input(unsigned port, uint32_t len)
{
	fake_add(IN(port), &FAKE_IN(fake_alloc(&fm, len), len), 1);
	fake_kick(IN(port));
	fake_run(vd->loop, 2);
}

static void expect_input(unsigned port, const char *text)
{
	struct virtq_used_elem elem = fake_wait_used(IN(port));

	assert_int_equal(elem.len, strlen(text));
	assert_memory_equal(fake_ptr(&fm, IN(port)->desc[elem.id].addr), text, elem.len);
}

static void test_input(void **state)
{
	unsigned accepts;

	plug_ports();
	assert_int_equal(give(&chr[0], "x"), 0); /* no driver */
	start();
	assert_int_equal(give(&chr[1], "x"), 0); /* no buffers, and not open */
	add_input(1, 8);
	assert_int_equal(give(&chr[1], "x"), 0); /* not open */
	accepts = chr[1].accepts;
	tell(1, OPEN, 1);
	assert_true(chr[1].accepts > accepts);
	assert_int_equal(give(&chr[1], "0123456789"), 8);
	expect_input(1, "01234567");
	assert_int_equal(give(&chr[1], "89"), 0);
	accepts = chr[1].accepts;
	add_input(1, 8);
	assert_true(chr[1].accepts > accepts);
	assert_int_equal(chr[1].handler->can_receive(chr[1].opaque), 8); /* one is in hand now */
	machine_pause_devices(&fm.m);
	assert_int_equal(give(&chr[1], "89"), 0);
	machine_resume_devices(&fm.m);
	assert_int_equal(give(&chr[1], "89"), 2);
	expect_input(1, "89");
	fake_reset(vd);
	assert_int_equal(give(&chr[1], "x"), 0);
	start();
	add_input(1, 8);
	tell(1, OPEN, 1);
	assert_int_equal(give(&chr[1], "new"), 3);
	expect_input(1, "new");
	unplug();
}

/* Drivers without F_MULTIPORT have port 0, open from the start. */
static void test_single(void **state)
{
	plug("max_ports=1");
	fake_device(&fm, &virtconsole_class, "chardev=c0", NULL);
	assert_int_equal(vd->n_queues, 2);
	assert_false(vd->host_features & MULTIPORT);
	fake_start(&fm, vd, 0);
	send_text(OUT(0), "hi");
	fake_wait_used(OUT(0));
	expect_out(&chr[0], "hi");
	add_input(0, 8);
	assert_int_equal(give(&chr[0], "yo"), 2);
	expect_input(0, "yo");
	unplug();

	plug_ports();
	fake_start(&fm, vd, 0);
	send_text(OUT(0), "hi");
	fake_wait_used(OUT(0));
	send_text(OUT(1), "no");
	expect_nothing(OUT(1));
	send_text(CTRL_OUT, "12345678");
	expect_nothing(CTRL_OUT);
	unplug();
}

static void test_config(void **state)
{
	uint32_t max_ports;

	plug_ports();
	virtio_read_config(vd, 4, &max_ports, 4);
	assert_int_equal(max_ports, 4);
	virtio_write_config(vd, 8, "E\0\0\0", 4); /* before there is a driver */
	virtio_write_config(vd, 8, "M", 1);
	virtio_write_config(vd, 4, "x", 1);
	expect_out(&chr[0], "EM");
	unplug();

	plug("");
	assert_int_equal(vd->n_queues, 64);
	virtio_read_config(vd, 4, &max_ports, 4);
	assert_int_equal(max_ports, 31);
	virtio_write_config(vd, 8, "E", 1); /* there is no console */
	unplug();
}

static void test_nonsense(void **state)
{
	plug_ports();
	start();
	tell(2, PORT_READY, 1); /* no such port */
	tell(4, OPEN, 1);
	tell(0xffffffff, OPEN, 1);
	tell(1, REMOVE, 1);
	tell(1, 999, 1);
	tell(1, PORT_READY, 0);
	tell(0, READY, 0);
	fake_add(CTRL_OUT, &FAKE_OUT(0, 7), 1);
	fake_kick(CTRL_OUT);
	fake_wait_used(CTRL_OUT);
	for (unsigned i = 0; i < 300; i++) /* said again and again: told once */
		tell(1, PORT_READY, 1);
	assert_false(fake_needs_reset(vd));
	unplug();
}

static void test_hostile(void **state)
{
	for (unsigned i = 0; i < 7; i++) {
		struct fake_queue *fq;

		plug_ports();
		start();
		tell(1, OPEN, 1);
		fq = i < 2 ? CTRL_OUT : i < 4 ? CTRL_IN : i < 5 ? OUT(1) : IN(1);
		switch (i) {
		case 0: fake_add(fq, &FAKE_OUT(16 * MIB, 8), 1); break;
		case 1: fq->avail->idx += 500; break;
		case 2: /* too small for a message, when the others are used up */
			for (unsigned j = 0; j < 20; j++)
				fake_add(fq, &FAKE_IN(0, 7), 1);
			for (unsigned j = 0; j < 20; j++)
				chr[1].handler->event(chr[1].opaque, CHARDEV_OPENED);
			break;
		case 3: /* readable where a message is to be written */
			for (unsigned j = 0; j < 20; j++)
				fake_add(fq, &FAKE_OUT(0, 8), 1);
			for (unsigned j = 0; j < 20; j++)
				chr[1].handler->event(chr[1].opaque, CHARDEV_OPENED);
			break;
		case 4: fake_add(fq, &FAKE_OUT(UINT64_MAX, 2), 1); break;
		case 5: fake_add(fq, &FAKE_OUT(0, 8), 1); break;
		case 6: fake_add(fq, &FAKE_IN(16 * MIB - 4, 8), 1); break;
		}
		fake_kick(fq);
		fake_run(vd->loop, 5);
		give(&chr[1], "x");
		if (!fake_needs_reset(vd))
			fail_msg("case %u: the device goes on", i);
		assert_int_equal(give(&chr[1], "x"), 0);
		chr[1].handler->writable(chr[1].opaque);
		chr[1].handler->event(chr[1].opaque, CHARDEV_CLOSED);
		start();
		unplug();
	}
}

static void refuse(const struct device_class *class, const char *props, const char *part)
{
	struct error *err = NULL;

	assert_null(fake_device(&fm, class, props, &err));
	if (!strstr(error_message(err), part))
		fail_msg("'%s' does not speak of '%s'", error_message(err), part);
	error_free(err);
}

static void test_refused(void **state)
{
	fake_machine_init(&fm, 16 * MIB);
	refuse(&virtconsole_class, "", "virtio-serial-pci");
	unplug();
	plug_ports();
	refuse(&virtserialport_class, "nr=0", "reserved");
	refuse(&virtserialport_class, "nr=1", "taken");
	refuse(&virtserialport_class, "nr=4", "ports 0 to 3");
	refuse(&virtserialport_class, "nr=99", "nr");
	refuse(&virtserialport_class, "bus=none.0", "none.0");
	refuse(&virtserialport_class, "chardev=c1", "taken");
	refuse(&virtserialport_class, "chardev=c9", "c9");
	refuse(&virtio_serial_pci_class, "max_ports=32", "32");
	fake_device(&fm, &virtconsole_class, "", NULL); /* takes port 2, without a chardev */
	refuse(&virtserialport_class, "", "all 4 ports");
	fake_start(&fm, vd, MULTIPORT);
	send_text(OUT(2), "dropped");
	fake_wait_used(OUT(2));
	unplug();

	plug("");
	chr[0].refuses = true;
	refuse(&virtconsole_class, "chardev=c0", "taken");
	chr[1].open_at_attach = true;
	fake_device(&fm, &virtserialport_class, "chardev=c1", NULL);
	fake_start(&fm, vd, MULTIPORT);
	add_ctrl_buffers(8);
	tell(0, READY, 1);
	expect_message(1, ADD, 1, NULL);
	tell(1, PORT_READY, 1);
	expect_message(1, OPEN, 1, NULL);
	unplug();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_protocol),
		cmocka_unit_test(test_control_waits),
		cmocka_unit_test(test_output),
		cmocka_unit_test(test_output_throttled),
		cmocka_unit_test(test_console_patience),
		cmocka_unit_test(test_output_huge),
		cmocka_unit_test(test_input),
		cmocka_unit_test(test_single),
		cmocka_unit_test(test_config),
		cmocka_unit_test(test_nonsense),
		cmocka_unit_test(test_hostile),
		cmocka_unit_test(test_refused),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
