/*
 * virtio-serial-pci: a bus of serial ports (§5.3), and what is plugged into it: virtconsole, a
 * console, and virtserialport, a named channel for programs. All of it on the main loop, where the
 * chardevs live.
 *
 * Each port has a queue to the guest and one from it. Beside them a pair of control queues tells
 * the guest which ports there are and both sides when the other opens or closes one (F_MULTIPORT).
 * What is to be told stands as bits of the port until the guest has a buffer for it, so nothing
 * gets lost and nothing grows.
 *
 * Output goes to the chardev straight from the guest's buffers. Where the chardev takes no more,
 * the buffer waits and with it the port. A console can't wait for long, since Linux writes to it
 * with interrupts off: after CONSOLE_PATIENCE its output is dropped until the chardev takes some
 * again. Input is read from the chardev only as far as the guest has buffers.
 */
#include "base/error.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "chardev/chardev.h"
#include "machine/backends.h"
#include "machine/machine.h"
#include "virtio/device_list.h"
#include "virtio/pci.h"

#include <string.h>

/* §5.3.3 */
#define VIRTIO_CONSOLE_F_MULTIPORT   1
#define VIRTIO_CONSOLE_F_EMERG_WRITE 2

#define QUEUE_SIZE                   128
#define CLASS_CONSOLE                0x078000
#define MAX_PORTS                    31 /* and the control queues: 64 queues */
#define NAME_MAX_BYTES               255
#define OUTPUT_BUDGET                (64 * KIB)
#define BUDGET                       64
#define CONSOLE_PATIENCE             UINT64_C(200000000) /* ns */

/* Queues, §5.3.2 */
enum { PORT0_IN, PORT0_OUT, CTRL_IN, CTRL_OUT };

/* struct virtio_console_config, §5.3.4 */
struct console_config {
	uint16_t cols, rows;
	uint32_t max_nr_ports;
	uint32_t emerg_wr;
};

/* struct virtio_console_control, §5.3.6.2 */
struct console_control {
	uint32_t id;
	uint16_t event, value;
};

enum control_event {
	DEVICE_READY,
	DEVICE_ADD,
	DEVICE_REMOVE,
	PORT_READY,
	CONSOLE_PORT,
	RESIZE,
	PORT_OPEN,
	PORT_NAME,
};

struct serial_port {
	struct device dev; /* first */
	struct virtio_serial *serial;
	unsigned nr;
	bool console;
	char *name; /* NULL: none */
	struct chardev *chr;
	bool ready;                 /* the guest knows the port */
	bool host_open, guest_open; /* who has opened it */
	unsigned to_tell;           /* bits of enum control_event */
	bool in_held, out_held;     /* these chains are taken off their queues */
	struct virtq_chain in, out;
	size_t out_done;        /* of it went to the chardev */
	bool waiting, dropping; /* a console: till its patience ends, and after */
	struct loop_timer *patience;
	struct iovec in_iov[VIRTQ_MAX_SEGMENTS], out_iov[VIRTQ_MAX_SEGMENTS];
};

struct virtio_serial {
	struct virtio_pci vpci; /* first */
	struct virtio_device vd;
	char *name, *bus_name;
	unsigned max_ports;
	struct serial_port *ports[MAX_PORTS];
	uint64_t again_queues; /* a bit for each that has more to do */
	struct loop_timer *again;
	struct iovec control_iov[VIRTQ_MAX_SEGMENTS];
};

static struct virtio_serial *of(struct virtio_device *vd)
{
	return container_of(vd, struct virtio_serial, vd);
}

static bool multiport(const struct virtio_serial *s)
{
	return virtio_has(&s->vd, VIRTIO_CONSOLE_F_MULTIPORT);
}

static unsigned queue_in(const struct serial_port *port)
{
	return port->nr ? 2 * port->nr + 2 : PORT0_IN;
}

static unsigned queue_out(const struct serial_port *port)
{
	return queue_in(port) + 1;
}

static struct serial_port *port_of_queue(struct virtio_serial *s, unsigned q)
{
	return s->ports[q <= PORT0_OUT ? 0 : q / 2 - 1];
}

/* May this queue of a port be used? Without F_MULTIPORT there is port 0 only. */
static bool is_live(const struct serial_port *port, unsigned q)
{
	const struct virtio_serial *s = port->serial;

	return s->vd.running && s->vd.queues[q].enabled && (multiport(s) || port->nr == 0);
}

static void call_again(struct virtio_serial *s, unsigned q)
{
	s->again_queues |= BIT(q);
	loop_timer_set(s->again, 0);
}

/* Takes a chain: 1, 0 when there is none, -1 when the device has failed. */
static int take(struct virtio_serial *s, unsigned q, struct virtq_chain *chain, struct iovec *iov)
{
	int got = virtq_pop(&s->vd.queues[q], chain, iov, VIRTQ_MAX_SEGMENTS);

	if (got < 0)
		virtio_fail_queue(&s->vd, q);
	return got;
}

/* --- Control messages to the guest ---- */

/* The message's bytes behind its header. */
static size_t control_data(const struct serial_port *port, enum control_event event, char *data)
{
	if (event != PORT_NAME)
		return 0;
	strcpy(data, port->name);
	return strlen(port->name) + 1;
}

/* False: there is no buffer for it now, or the device has failed. */
static bool tell(struct serial_port *port, enum control_event event)
{
	struct virtio_serial *s = port->serial;
	const struct console_control header = { port->nr, event,
						event == PORT_OPEN ? port->host_open : 1 };
	char message[sizeof(header) + NAME_MAX_BYTES + 1];
	struct virtq_chain chain;
	size_t len = sizeof(header);

	if (take(s, CTRL_IN, &chain, s->control_iov) <= 0)
		return false;
	if (chain.in_bytes < len) {
		virtio_fail(&s->vd, "buffer of %llu bytes for control messages",
			    (unsigned long long)chain.in_bytes);
		return false;
	}
	memcpy(message, &header, sizeof(header));
	len += control_data(port, event, message + sizeof(header));
	len = iov_from_buf(chain.iov + chain.n_out, chain.n_in, 0, message, len);
	virtq_push(&s->vd.queues[CTRL_IN], chain.head, len);
	return true;
}

static void tell_guest(struct virtio_serial *s)
{
	static const enum control_event order[] = { DEVICE_ADD, CONSOLE_PORT, PORT_NAME,
						    PORT_OPEN };

	if (!s->vd.running || !multiport(s) || !s->vd.queues[CTRL_IN].enabled)
		return;
	for (unsigned nr = 0; nr < s->max_ports; nr++) {
		struct serial_port *port = s->ports[nr];

		for (unsigned i = 0; port && i < ARRAY_SIZE(order); i++) {
			if (!(port->to_tell & BIT(order[i])))
				continue;
			if (!tell(port, order[i]))
				goto out;
			port->to_tell &= ~BIT(order[i]);
		}
	}
out:
	if (s->vd.running)
		virtio_signal(&s->vd, CTRL_IN);
}

/* --- Control messages from the guest ---- */

static void set_guest_open(struct serial_port *port, bool open)
{
	port->guest_open = open;
	if (!port->chr)
		return;
	chardev_set_frontend_open(port->chr, port, open);
	if (open)
		chardev_accept_input(port->chr);
}

static void on_device_ready(struct virtio_serial *s, bool ok)
{
	if (!ok) {
		LOG_ONCE("%s: the guest's driver could not set the device up", s->name);
		return;
	}
	for (unsigned nr = 0; nr < s->max_ports; nr++)
		if (s->ports[nr])
			s->ports[nr]->to_tell |= BIT(DEVICE_ADD);
}

static void on_port_ready(struct serial_port *port, bool ok)
{
	if (!ok) {
		LOG_ONCE("%s: the guest's driver could not set port %u up", port->serial->name,
			 port->nr);
		return;
	}
	port->ready = true;
	if (port->console)
		port->to_tell |= BIT(CONSOLE_PORT);
	if (port->name)
		port->to_tell |= BIT(PORT_NAME);
	if (port->host_open)
		port->to_tell |= BIT(PORT_OPEN);
}

static void handle_control(struct virtio_serial *s, const struct virtq_chain *chain)
{
	struct console_control m;
	struct serial_port *port;

	if (iov_to_buf(chain->iov, chain->n_out, 0, &m, sizeof(m)) != sizeof(m)) {
		log_item(LOG_GUEST_ERRORS, "%s: control message of %llu bytes", s->name,
			 (unsigned long long)chain->out_bytes);
		return;
	}
	if (m.event == DEVICE_READY) {
		on_device_ready(s, m.value);
		return;
	}
	port = m.id < s->max_ports ? s->ports[m.id] : NULL;
	if (port && m.event == PORT_READY)
		on_port_ready(port, m.value);
	else if (port && m.event == PORT_OPEN)
		set_guest_open(port, m.value);
	else
		log_item(LOG_GUEST_ERRORS,
			 "%s: control message %u for port %u, which makes no sense", s->name,
			 m.event, m.id);
}

static void take_control(struct virtio_serial *s)
{
	struct virtq *vq = &s->vd.queues[CTRL_OUT];
	struct virtq_chain chain;
	int got = 1;

	virtq_disable_notify(vq);
	for (unsigned i = 0; i < BUDGET && got > 0; i++) {
		got = take(s, CTRL_OUT, &chain, s->control_iov);
		if (got <= 0)
			break;
		handle_control(s, &chain);
		virtq_push(vq, chain.head, 0);
	}
	if (got < 0)
		return;
	virtio_signal(&s->vd, CTRL_OUT);
	tell_guest(s);
	if (s->vd.running && (got > 0 || virtq_enable_notify(vq)))
		call_again(s, CTRL_OUT);
}

/* --- Output ---- */

/* Writes up to *budget bytes of the chain in hand. True: it is done with. */
static bool write_chain(struct serial_port *port, size_t *budget)
{
	size_t skip = port->out_done;

	for (unsigned i = 0; i < port->out.n_out; i++) {
		const struct iovec *iov = &port->out_iov[i];
		size_t len, done;

		if (skip >= iov->iov_len) {
			skip -= iov->iov_len;
			continue;
		}
		len = MIN(iov->iov_len - skip, *budget);
		done = chardev_write_from(port->chr, port, (char *)iov->iov_base + skip, len);
		port->out_done += done;
		*budget -= done;
		if (done < iov->iov_len - skip)
			return false;
		skip = 0;
	}
	return true;
}

static void end_chain(struct serial_port *port)
{
	virtq_push(&port->serial->vd.queues[queue_out(port)], port->out.head, 0);
	port->out_held = false;
	port->out_done = 0;
}

static void begin_wait(struct serial_port *port)
{
	if (port->waiting)
		return;
	port->waiting = true;
	loop_timer_set(port->patience, now_ns() + CONSOLE_PATIENCE);
}

static void end_wait(struct serial_port *port)
{
	port->waiting = false;
	loop_timer_cancel(port->patience);
}

static void write_out(struct serial_port *port)
{
	struct virtio_serial *s = port->serial;
	const unsigned q = queue_out(port);
	size_t budget = OUTPUT_BUDGET;

	for (unsigned i = 0; i < BUDGET; i++) {
		if (!port->out_held && take(s, q, &port->out, port->out_iov) <= 0)
			break;
		port->out_held = true;
		if (port->chr && !port->dropping && !write_chain(port, &budget))
			break;
		end_chain(port);
	}
	if (!s->vd.running)
		return;
	virtio_signal(&s->vd, q);
	if (!port->out_held) {
		end_wait(port);
		if (virtq_has_work(&s->vd.queues[q]))
			call_again(s, q);
	} else if (!budget) {
		call_again(s, q);
	} else if (port->console) {
		begin_wait(port);
	}
}

static void on_writable(void *opaque)
{
	struct serial_port *port = opaque;

	port->dropping = false;
	end_wait(port);
	if (is_live(port, queue_out(port)))
		write_out(port);
}

static void on_patience_end(void *opaque)
{
	struct serial_port *port = opaque;

	if (!port->out_held || !is_live(port, queue_out(port)))
		return;
	LOG_ONCE("%s: nobody reads port %u; what the guest writes to its console is dropped until "
		 "somebody does",
		 port->serial->name, port->nr);
	port->dropping = true;
	write_out(port);
}

/* --- Input ---- */

static size_t on_can_receive(void *opaque)
{
	struct serial_port *port = opaque;
	struct virtio_serial *s = port->serial;
	const unsigned q = queue_in(port);

	if (!is_live(port, q) || (multiport(s) && !port->guest_open))
		return 0;
	if (!port->in_held) {
		if (take(s, q, &port->in, port->in_iov) <= 0)
			return 0;
		if (!port->in.in_bytes) {
			virtio_fail(&s->vd, "input buffer without room");
			return 0;
		}
		port->in_held = true;
	}
	return port->in.in_bytes;
}

static void on_receive(void *opaque, const uint8_t *data, size_t len)
{
	struct serial_port *port = opaque;
	struct virtio_serial *s = port->serial;
	const unsigned q = queue_in(port);

	if (!port->in_held || !is_live(port, q))
		return;
	len = iov_from_buf(port->in_iov + port->in.n_out, port->in.n_in, 0, data, len);
	virtq_push(&s->vd.queues[q], port->in.head, len);
	port->in_held = false;
	virtio_signal(&s->vd, q);
}

/* A console is open to the guest whoever looks at it (as in QEMU). */
static void on_event(void *opaque, enum chardev_event event)
{
	struct serial_port *port = opaque;

	if (port->console || (event != CHARDEV_OPENED && event != CHARDEV_CLOSED))
		return;
	port->host_open = event == CHARDEV_OPENED;
	if (port->ready)
		port->to_tell |= BIT(PORT_OPEN);
	tell_guest(port->serial);
}

static const struct chardev_handler port_handler = {
	.can_receive = on_can_receive,
	.receive = on_receive,
	.event = on_event,
	.writable = on_writable,
};

/* --- The device ---- */

static void config_read(struct virtio_device *vd, unsigned offset, void *buf, unsigned len)
{
	const struct console_config config = { .max_nr_ports = of(vd)->max_ports };

	memcpy(buf, (const char *)&config + offset, len);
}

/* §5.3.4: emergency output, a byte at a time, before there is a driver or when it has died. */
static void config_write(struct virtio_device *vd, unsigned offset, const void *buf, unsigned len)
{
	struct virtio_serial *s = of(vd);

	if (offset != offsetof(struct console_config, emerg_wr) || !len)
		return;
	for (unsigned nr = 0; nr < s->max_ports; nr++) {
		struct serial_port *port = s->ports[nr];

		if (port && port->console && port->chr) {
			chardev_write_from(port->chr, port, buf, 1);
			return;
		}
	}
}

/* A new driver knows no port yet. */
static void set_features(struct virtio_device *vd, uint64_t features)
{
	struct virtio_serial *s = of(vd);

	for (unsigned nr = 0; nr < s->max_ports; nr++) {
		struct serial_port *port = s->ports[nr];

		if (!port)
			continue;
		port->ready = port->dropping = false;
		port->in_held = port->out_held = false;
		port->out_done = 0;
		port->to_tell = 0;
		set_guest_open(port, false);
	}
}

static void start(struct virtio_device *vd)
{
	of(vd)->again_queues = 0;
}

static void notify(struct virtio_device *vd, unsigned q)
{
	struct virtio_serial *s = of(vd);
	struct serial_port *port;

	if (q == CTRL_IN || q == CTRL_OUT) {
		if (q == CTRL_IN)
			tell_guest(s);
		else if (multiport(s))
			take_control(s);
		return;
	}
	port = port_of_queue(s, q);
	if (!port || !is_live(port, q))
		return;
	if (q == queue_out(port))
		write_out(port);
	else if (port->chr)
		chardev_accept_input(port->chr);
}

static void on_again(void *opaque)
{
	struct virtio_serial *s = opaque;
	const uint64_t queues = s->again_queues;

	s->again_queues = 0;
	for (unsigned q = 0; q < s->vd.n_queues && s->vd.running; q++)
		if (queues & BIT(q))
			notify(&s->vd, q);
}

/* Chains in hand stay there: after a pause it goes on with them, and a new driver lets them go. */
static void stop(struct virtio_device *vd)
{
	struct virtio_serial *s = of(vd);

	loop_timer_cancel(s->again);
	for (unsigned nr = 0; nr < s->max_ports; nr++)
		if (s->ports[nr])
			end_wait(s->ports[nr]);
}

static const struct virtio_ops serial_ops = {
	.config_read = config_read,
	.config_write = config_write,
	.set_features = set_features,
	.start = start,
	.stop = stop,
	.notify = notify,
};

/* --- Making the device ---- */

static const struct prop serial_props[] = {
	{ "max_ports", PROP_INT, "31", "ports there can be, port 0 (a console's) included",
	  .min = 1, .max = MAX_PORTS },
	{ "emergency-write", PROP_BOOL, "on", "offer VIRTIO_CONSOLE_F_EMERG_WRITE" },
	{ "vectors", PROP_INT, "2", "MSI-X vectors; 0 is none", .max = 2048 },
	{},
};

static struct virtio_serial *serial_of_device(struct device *device)
{
	return container_of(device, struct virtio_serial, vpci.dev);
}

/* QEMU's names: "ID.0", or "virtio-serial-bus.N" in order of creation. */
static char *make_bus_name(const struct machine *machine, const char *id)
{
	unsigned n = 0;

	if (id)
		return xasprintf("%s.0", id);
	for (const struct device *d = machine->devices; d; d = d->next)
		n += d->class == &virtio_serial_pci_class && !d->id;
	return xasprintf("virtio-serial-bus.%u", n);
}

static void free_serial(struct virtio_serial *s)
{
	virtio_destroy(&s->vd);
	loop_timer_free(s->again);
	free(s->name);
	free(s->bus_name);
	free(s);
}

static int create(struct machine *machine, const struct props *props, struct device **device,
		  struct error **err)
{
	struct virtio_serial *s = xcalloc(1, sizeof(*s));
	const char *id = props_str(props, "id");
	uint64_t offered = 0;

	s->vpci.dev.class = &virtio_serial_pci_class;
	s->name = xasprintf("virtio-serial-pci '%s'", id ? id : "");
	s->bus_name = make_bus_name(machine, id);
	s->max_ports = props_u64(props, "max_ports");
	s->again = loop_timer_new(machine->main_loop, on_again, s);
	if (s->max_ports > 1)
		offered |= BIT(VIRTIO_CONSOLE_F_MULTIPORT);
	if (props_bool(props, "emergency-write"))
		offered |= BIT(VIRTIO_CONSOLE_F_EMERG_WRITE);
	if (virtio_init(&s->vd, &serial_ops, VIRTIO_ID_CONSOLE, s->name,
			s->max_ports > 1 ? 2 * (s->max_ports + 1) : CTRL_IN, QUEUE_SIZE,
			sizeof(struct console_config), offered, &machine->mem, machine->main_loop,
			err) < 0 ||
	    virtio_pci_plug(&s->vpci, machine, props, &s->vd, CLASS_CONSOLE, err) < 0) {
		free_serial(s);
		return -1;
	}
	*device = &s->vpci.dev;
	return 0;
}

static void destroy(struct device *device)
{
	struct virtio_serial *s = serial_of_device(device);

	virtio_pci_unplug(&s->vpci);
	free_serial(s);
}

const struct device_class virtio_serial_pci_class = {
	.name = "virtio-serial-pci",
	.bus = "PCI",
	.desc = "bus of virtconsole and virtserialport",
	.props = serial_props,
	.more_props = virtio_pci_props,
	.create = create,
	.reset = virtio_pci_reset,
	.pause = virtio_pci_pause,
	.resume = virtio_pci_resume,
	.destroy = destroy,
};

/* --- Making a port ---- */

static const struct prop port_props[] = {
	{ "chardev", PROP_STRING, .help = "id of the chardev it is connected to" },
	{ "name", PROP_STRING, .help = "what the guest finds it by (/dev/virtio-ports/NAME)" },
	{ "nr", PROP_INT, .help = "port number (default: the first free one)",
	  .max = MAX_PORTS - 1 },
	{ "bus", PROP_STRING, .help = "the virtio-serial-pci it is plugged into: its id and .0" },
	{},
};

static struct virtio_serial *find_bus(struct machine *machine, const char *name, struct error **err)
{
	for (struct device *d = machine->devices; d; d = d->next) {
		struct virtio_serial *s = serial_of_device(d);

		if (d->class == &virtio_serial_pci_class &&
		    (!name || strcmp(s->bus_name, name) == 0))
			return s;
	}
	if (name)
		error_set(err,
			  "there is no virtio-serial bus '%s'; a virtio-serial-pci with id=X "
			  "has bus X.0",
			  name);
	else
		error_set(err, "no bus to plug it into; put -device virtio-serial-pci before it");
	return NULL;
}

/* Port 0 is a console's, whether there is one or not: drivers without F_MULTIPORT take it for one.
 */
static int choose_nr(const struct serial_port *port, const struct props *props, unsigned *nr,
		     struct error **err)
{
	const struct virtio_serial *s = port->serial;

	*nr = props_u64(props, "nr");
	if (props_has(props, "nr")) {
		if (*nr == 0 && !port->console)
			error_set(err, "nr=0 is reserved for a virtconsole");
		else if (*nr >= s->max_ports)
			error_set(err, "nr=%u: bus '%s' has ports 0 to %u (max_ports=)", *nr,
				  s->bus_name, s->max_ports - 1);
		else if (s->ports[*nr])
			error_set(err, "nr=%u: that port of bus '%s' is taken", *nr, s->bus_name);
		else
			return 0;
		return -1;
	}
	for (*nr = port->console ? 0 : 1; *nr < s->max_ports; ++*nr)
		if (!s->ports[*nr])
			return 0;
	error_set(err, "all %u ports of bus '%s' are taken (max_ports=)", s->max_ports,
		  s->bus_name);
	return -1;
}

static int connect_port(struct serial_port *port, struct machine *machine,
			const struct props *props, struct error **err)
{
	char *user AUTO_FREE = xasprintf("port %u of %s", port->nr, port->serial->name);
	struct chardev *chr;

	if (!props_has(props, "chardev"))
		return 0;
	chr = backends_take(machine->backends, BACKEND_CHARDEV, props_str(props, "chardev"), user,
			    err);
	if (!chr || chardev_attach(chr, &port_handler, port, err) < 0)
		return -1;
	port->chr = chr;
	return 0;
}

static void free_port(struct serial_port *port)
{
	if (port->chr)
		chardev_attach(port->chr, NULL, port, NULL);
	if (port->serial && port->serial->ports[port->nr] == port)
		port->serial->ports[port->nr] = NULL;
	loop_timer_free(port->patience);
	free(port->name);
	free(port);
}

static int init_port(struct serial_port *port, struct machine *machine, const struct props *props,
		     struct error **err)
{
	const char *name = props_str(props, "name");

	if (name && strlen(name) > NAME_MAX_BYTES) {
		error_set(err, "name= is longer than %d bytes", NAME_MAX_BYTES);
		return -1;
	}
	port->name = name && *name ? xstrdup(name) : NULL;
	port->serial = find_bus(machine, props_str(props, "bus"), err);
	if (!port->serial || choose_nr(port, props, &port->nr, err) < 0)
		return -1;
	port->serial->ports[port->nr] = port;
	return connect_port(port, machine, props, err);
}

static int create_port(struct machine *machine, const struct props *props, struct device **device,
		       struct error **err, bool console)
{
	struct serial_port *port = xcalloc(1, sizeof(*port));

	port->console = port->host_open = console;
	port->patience = loop_timer_new(machine->main_loop, on_patience_end, port);
	if (init_port(port, machine, props, err) < 0) {
		free_port(port);
		return -1;
	}
	*device = &port->dev;
	return 0;
}

static int create_console(struct machine *machine, const struct props *props,
			  struct device **device, struct error **err)
{
	return create_port(machine, props, device, err, true);
}

static int create_serialport(struct machine *machine, const struct props *props,
			     struct device **device, struct error **err)
{
	return create_port(machine, props, device, err, false);
}

static void destroy_port(struct device *device)
{
	free_port(container_of(device, struct serial_port, dev));
}

const struct device_class virtconsole_class = {
	.name = "virtconsole",
	.bus = "virtio-serial-bus",
	.desc = "console of a virtio-serial-pci",
	.props = port_props,
	.create = create_console,
	.destroy = destroy_port,
};

const struct device_class virtserialport_class = {
	.name = "virtserialport",
	.bus = "virtio-serial-bus",
	.desc = "named channel of a virtio-serial-pci",
	.props = port_props,
	.create = create_serialport,
	.destroy = destroy_port,
};
