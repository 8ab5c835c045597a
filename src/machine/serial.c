/*
 * A 16550A UART (National Semiconductor PC16550D).
 *
 * Bytes take no time on the wire: a byte written to THR is given to the character device at once,
 * and the transmitter reads as empty at every poll, so that a polled console costs a guest two
 * exits a byte. Only when the character device is full do bytes wait in the transmit FIFO and THRE
 * read as 0; they go on when it says that it is writable again. Received bytes are asked for only
 * as far as the receive FIFO has room, so nothing is overrun.
 *
 * With no time there is no character timeout either: bytes below the FIFO's trigger level raise the
 * timeout interrupt at once.
 *
 * Registers are touched on vCPU threads, input comes on the main loop's; one mutex guards them. It
 * is not held while the character device is called. Whoever finds bytes in the transmit FIFO drains
 * it, one thread at a time; what others add meanwhile it takes along.
 *
 * While the guest polls LSR between its writes to THR, as a boot console does, those writes are
 * kept back (coalesce.h), until it drives the transmitter by interrupts: these are raised by the
 * writes.
 */
#include "machine/serial.h"

#include "base/error.h"
#include "base/util.h"
#include "chardev/chardev.h"
#include "machine/backends.h"
#include "machine/coalesce.h"
#include "machine/device_list.h"
#include "machine/machine.h"

#include <string.h>

/* Registers, PC16550D table II: offset, DLAB state where it matters */
enum {
	UART_RBR_THR_DLL = 0,
	UART_IER_DLM = 1,
	UART_IIR_FCR = 2,
	UART_LCR = 3,
	UART_MCR = 4,
	UART_LSR = 5,
	UART_MSR = 6,
	UART_SCR = 7,
};

/* §8.7 interrupt enable */
#define IER_RDI  0x01
#define IER_THRI 0x02
#define IER_RLSI 0x04
#define IER_MSI  0x08
#define IER_ALL  0x0f
/* §8.6 interrupt identification */
#define IIR_NONE 0x01
#define IIR_MSI  0x00
#define IIR_THRI 0x02
#define IIR_RDI  0x04
#define IIR_RLSI 0x06
#define IIR_CTI  0x0c
#define IIR_FIFO 0xc0
/* §8.5 FIFO control */
#define FCR_ENABLE   0x01
#define FCR_CLEAR_RX 0x02
#define FCR_CLEAR_TX 0x04
/* §8.1 line control */
#define LCR_DLAB 0x80
/* §8.8 modem control */
#define MCR_DTR  0x01
#define MCR_RTS  0x02
#define MCR_OUT1 0x04
#define MCR_OUT2 0x08
#define MCR_LOOP 0x10
#define MCR_ALL  0x1f
/* §8.4 line status */
#define LSR_DR   0x01
#define LSR_OE   0x02
#define LSR_BI   0x10
#define LSR_THRE 0x20
#define LSR_TEMT 0x40
/* §8.9 modem status */
#define MSR_DELTAS  0x0f
#define MSR_TERI    0x04
#define MSR_CTS     0x10
#define MSR_DSR     0x20
#define MSR_RI      0x40
#define MSR_DCD     0x80
#define MSR_PRESENT (MSR_CTS | MSR_DSR | MSR_DCD)

#define FIFO_SIZE   16

/*
 * Starting and ending to keep writes back takes the backend a while. A guest that changes between
 * polling and interrupts more often than a boot does gets no more of it.
 */
#define COALESCE_CHANGES 16

struct fifo {
	uint8_t bytes[FIFO_SIZE];
	unsigned head, count;
};

struct serial {
	struct region ports;
	struct irq_line irq;
	struct chardev *chr;
	pthread_mutex_t lock; /* of what follows */
	uint8_t ier, fcr, lcr, mcr, msr, scr, dll, dlm;
	uint8_t lsr_errors; /* OE, BI: until LSR is read */
	bool thri_pending;
	struct fifo rx, tx;
	bool draining, drain_again;
	struct coalescer *coalescer; /* may be NULL */
	bool coalescing;
	unsigned coalesce_changes;
};

const struct serial_place serial_places[4] = {
	{ 0x3f8, 4 },
	{ 0x2f8, 3 },
	{ 0x3e8, 4 },
	{ 0x2e8, 3 },
};

static const uint8_t trigger_levels[] = { 1, 4, 8, 14 };

static void fifo_push(struct fifo *f, uint8_t byte)
{
	f->bytes[(f->head + f->count++) % FIFO_SIZE] = byte;
}

static void fifo_drop(struct fifo *f, unsigned n)
{
	f->head = (f->head + n) % FIFO_SIZE;
	f->count -= n;
}

static unsigned fifo_depth(const struct serial *s)
{
	return s->fcr & FCR_ENABLE ? FIFO_SIZE : 1;
}

/* --- Interrupts; with the lock held ---- */

/* §8.6: the highest-priority source that is enabled and active. */
static uint8_t interrupt_source(const struct serial *s)
{
	unsigned trigger = s->fcr & FCR_ENABLE ? trigger_levels[s->fcr >> 6] : 1;

	if (s->ier & IER_RLSI && s->lsr_errors)
		return IIR_RLSI;
	if (s->ier & IER_RDI && s->rx.count)
		return s->rx.count >= trigger ? IIR_RDI : IIR_CTI;
	if (s->ier & IER_THRI && s->thri_pending)
		return IIR_THRI;
	if (s->ier & IER_MSI && s->msr & MSR_DELTAS)
		return IIR_MSI;
	return IIR_NONE;
}

static void update_irq(struct serial *s)
{
	irq_set(&s->irq, interrupt_source(s) != IIR_NONE);
}

/* §8.9 and §8.8: in loopback the modem control outputs are the modem status inputs. */
static void update_msr(struct serial *s)
{
	static const struct {
		uint8_t mcr, msr;
	} loop[] = {
		{ MCR_RTS, MSR_CTS },
		{ MCR_DTR, MSR_DSR },
		{ MCR_OUT1, MSR_RI },
		{ MCR_OUT2, MSR_DCD },
	};
	uint8_t old = s->msr, lines = MSR_PRESENT;

	if (s->mcr & MCR_LOOP) {
		lines = 0;
		for (unsigned i = 0; i < ARRAY_SIZE(loop); i++)
			if (s->mcr & loop[i].mcr)
				lines |= loop[i].msr;
	}
	s->msr = lines | (old & MSR_DELTAS);
	s->msr |= (old ^ lines) >> 4 & (MSR_DELTAS & ~MSR_TERI);
	if (old & ~lines & MSR_RI)
		s->msr |= MSR_TERI;
}

static uint8_t line_status(const struct serial *s)
{
	return s->lsr_errors | (s->rx.count ? LSR_DR : 0) | (s->tx.count ? 0 : LSR_THRE | LSR_TEMT);
}

/* --- Transmission ---- */

/* Called and returns with the lock held; gives it up while the character device is called. */
static void drain(struct serial *s)
{
	if (s->draining) {
		s->drain_again = true;
		return;
	}
	s->draining = true;
	while (s->tx.count) {
		uint8_t bytes[FIFO_SIZE];
		unsigned n = s->tx.count;
		size_t taken;

		for (unsigned i = 0; i < n; i++)
			bytes[i] = s->tx.bytes[(s->tx.head + i) % FIFO_SIZE];
		s->drain_again = false;
		pthread_mutex_unlock(&s->lock);
		taken = s->chr ? chardev_write_from(s->chr, s, bytes, n) : n;
		pthread_mutex_lock(&s->lock);
		/* The guest may have cleared the FIFO meanwhile. */
		fifo_drop(&s->tx, MIN(taken, s->tx.count));
		if (taken < n && !s->drain_again)
			break;
	}
	s->draining = false;
	if (!s->tx.count)
		s->thri_pending = true;
}

static void receive_byte(struct serial *s, uint8_t byte)
{
	if (s->rx.count < fifo_depth(s))
		fifo_push(&s->rx, byte);
	else
		s->lsr_errors |= LSR_OE;
}

static void transmit(struct serial *s, uint8_t byte)
{
	s->thri_pending = false;
	if (s->mcr & MCR_LOOP) {
		receive_byte(s, byte);
		s->thri_pending = true;
		return;
	}
	/* Full only when the guest does not look at THRE; the PC16550D overwrites, we drop. */
	if (s->tx.count < FIFO_SIZE)
		fifo_push(&s->tx, byte);
	drain(s);
}

static void serial_writable(void *opaque)
{
	struct serial *s = opaque;

	pthread_mutex_lock(&s->lock);
	if (s->tx.count)
		drain(s);
	update_irq(s);
	pthread_mutex_unlock(&s->lock);
}

/* --- Reception, on the main loop ---- */

static size_t serial_can_receive(void *opaque)
{
	struct serial *s = opaque;
	unsigned room = 0;

	pthread_mutex_lock(&s->lock);
	if (!(s->mcr & MCR_LOOP) && s->rx.count < fifo_depth(s))
		room = fifo_depth(s) - s->rx.count;
	pthread_mutex_unlock(&s->lock);
	return room;
}

static void serial_receive(void *opaque, const uint8_t *data, size_t len)
{
	struct serial *s = opaque;

	pthread_mutex_lock(&s->lock);
	for (size_t i = 0; i < len; i++)
		receive_byte(s, data[i]);
	update_irq(s);
	pthread_mutex_unlock(&s->lock);
}

/* §8.4: a break is a zero byte with BI set. */
static void serial_event(void *opaque, enum chardev_event event)
{
	struct serial *s = opaque;

	if (event != CHARDEV_BREAK)
		return;
	pthread_mutex_lock(&s->lock);
	s->lsr_errors |= LSR_BI;
	receive_byte(s, 0);
	update_irq(s);
	pthread_mutex_unlock(&s->lock);
}

static const struct chardev_handler serial_handler = {
	.can_receive = serial_can_receive,
	.receive = serial_receive,
	.event = serial_event,
	.writable = serial_writable,
};

/* --- Registers; with the lock held ---- */

static void coalesce_thr(struct serial *s, bool on)
{
	if (on == s->coalescing || (on && s->coalesce_changes >= COALESCE_CHANGES))
		return;
	s->coalescing = coalesce_register(s->coalescer, &s->ports, UART_RBR_THR_DLL, 1, on);
	s->coalesce_changes++;
}

static uint8_t read_rbr(struct serial *s)
{
	uint8_t byte = 0;

	if (s->rx.count) {
		byte = s->rx.bytes[s->rx.head];
		fifo_drop(&s->rx, 1);
	}
	return byte;
}

/* Reading IIR acknowledges a transmitter interrupt if that is what it tells of (table IV). */
static uint8_t read_iir(struct serial *s)
{
	uint8_t source = interrupt_source(s);

	if (source == IIR_THRI)
		s->thri_pending = false;
	return source | (s->fcr & FCR_ENABLE ? IIR_FIFO : 0);
}

static uint8_t read_lsr(struct serial *s)
{
	uint8_t lsr = line_status(s);

	s->lsr_errors = 0;
	if (s->coalescer && !(s->ier & IER_THRI) && !(s->mcr & MCR_LOOP)) {
		coalesce_thr(s, true);
		if (s->coalescing)
			coalesce_expect(s->coalescer);
	}
	return lsr;
}

static uint8_t read_msr(struct serial *s)
{
	uint8_t msr = s->msr;

	s->msr &= ~MSR_DELTAS;
	return msr;
}

static uint8_t read_register(struct serial *s, unsigned reg)
{
	bool dlab = s->lcr & LCR_DLAB;

	switch (reg) {
	case UART_RBR_THR_DLL: return dlab ? s->dll : read_rbr(s);
	case UART_IER_DLM: return dlab ? s->dlm : s->ier;
	case UART_IIR_FCR: return read_iir(s);
	case UART_LCR: return s->lcr;
	case UART_MCR: return s->mcr;
	case UART_LSR: return read_lsr(s);
	case UART_MSR: return read_msr(s);
	default: return s->scr;
	}
}

/* Enabling THRI while the transmitter is empty raises it (PC16550D §8.7; drivers test for it). */
static void write_ier(struct serial *s, uint8_t value)
{
	bool rising = value & ~s->ier & IER_THRI;

	s->ier = value & IER_ALL;
	if (rising)
		coalesce_thr(s, false);
	if (rising && !s->tx.count)
		s->thri_pending = true;
}

static void write_fcr(struct serial *s, uint8_t value)
{
	bool toggled = (value ^ s->fcr) & FCR_ENABLE;

	if (toggled || value & FCR_CLEAR_RX)
		s->rx.count = 0;
	if (toggled || value & FCR_CLEAR_TX) {
		s->thri_pending |= s->tx.count != 0;
		s->tx.count = 0;
	}
	s->fcr = value & FCR_ENABLE ? value & (0xc0 | FCR_ENABLE) : 0;
}

static void write_register(struct serial *s, unsigned reg, uint8_t value)
{
	bool dlab = s->lcr & LCR_DLAB;

	switch (reg) {
	case UART_RBR_THR_DLL:
		if (dlab)
			s->dll = value;
		else
			transmit(s, value);
		break;
	case UART_IER_DLM:
		if (dlab)
			s->dlm = value;
		else
			write_ier(s, value);
		break;
	case UART_IIR_FCR: write_fcr(s, value); break;
	case UART_LCR:
		s->lcr = value;
		if (value & LCR_DLAB)
			coalesce_thr(s, false);
		break;
	case UART_MCR:
		s->mcr = value & MCR_ALL;
		if (value & MCR_LOOP)
			coalesce_thr(s, false);
		update_msr(s);
		break;
	case UART_SCR: s->scr = value; break;
	default: break; /* LSR and MSR are read-only */
	}
}

/* Does the front end take input now, and how would it have answered before? */
static bool takes_input(const struct serial *s)
{
	return !s->rx.count && !(s->mcr & MCR_LOOP);
}

static uint64_t serial_read(void *opaque, uint64_t offset, unsigned size)
{
	struct serial *s = opaque;
	bool before, after;
	uint8_t value;

	pthread_mutex_lock(&s->lock);
	before = takes_input(s);
	value = read_register(s, offset);
	after = takes_input(s);
	update_irq(s);
	pthread_mutex_unlock(&s->lock);
	if (after && !before && s->chr)
		chardev_accept_input(s->chr);
	return value;
}

static void serial_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct serial *s = opaque;
	bool before, after;

	pthread_mutex_lock(&s->lock);
	before = takes_input(s);
	write_register(s, offset, value);
	after = takes_input(s);
	update_irq(s);
	pthread_mutex_unlock(&s->lock);
	if (after && !before && s->chr)
		chardev_accept_input(s->chr);
}

static const struct region_ops serial_ops = { serial_read, serial_write, 1 };

/* --- Life ---- */

void serial_reset(struct serial *s)
{
	pthread_mutex_lock(&s->lock);
	s->ier = s->fcr = s->lcr = s->scr = s->dlm = s->lsr_errors = 0;
	s->mcr = MCR_OUT2;
	s->dll = 1; /* 115200 baud, as firmware leaves it */
	s->msr = MSR_PRESENT;
	s->thri_pending = false;
	s->rx.count = s->tx.count = 0;
	coalesce_thr(s, false);
	s->coalesce_changes = 0;
	update_irq(s);
	pthread_mutex_unlock(&s->lock);
	if (s->chr)
		chardev_accept_input(s->chr);
}

void serial_set_coalescer(struct serial *s, struct coalescer *coalescer)
{
	s->coalescer = coalescer;
}

struct serial *serial_new(struct bus *io, struct irqs *irqs, uint16_t iobase, unsigned irq,
			  struct chardev *chr, struct error **err)
{
	struct serial *s = xcalloc(1, sizeof(*s));

	pthread_mutex_init(&s->lock, NULL);
	s->ports = (struct region){ "isa-serial", SERIAL_PORTS, &serial_ops, s };
	irq_line_init(&s->irq, irqs, irq);
	serial_reset(s);
	if (bus_map(io, &s->ports, iobase, err) < 0) {
		serial_free(s);
		return NULL;
	}
	if (chr && chardev_attach(chr, &serial_handler, s, err) < 0) {
		serial_free(s);
		return NULL;
	}
	s->chr = chr;
	return s;
}

void serial_free(struct serial *s)
{
	if (!s)
		return;
	bus_unmap(&s->ports);
	if (s->chr)
		chardev_attach(s->chr, NULL, s, NULL);
	irq_set(&s->irq, false);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

/* --- -device isa-serial ---- */

struct isa_serial {
	struct device dev;
	struct serial *serial;
};

static void isa_serial_reset(struct device *dev)
{
	serial_reset(container_of(dev, struct isa_serial, dev)->serial);
}

static void isa_serial_destroy(struct device *dev)
{
	struct isa_serial *isa = container_of(dev, struct isa_serial, dev);

	serial_free(isa->serial);
	free(isa);
}

/* The lowest of COM1 to COM4 whose ports nobody has, or -1. */
static int free_index(struct machine *machine)
{
	const struct region *r;

	for (unsigned i = 0; i < ARRAY_SIZE(serial_places); i++) {
		bool taken = false;

		for (unsigned j = 0; (r = bus_region_at(machine->io, j)); j++)
			taken |= r->base == serial_places[i].iobase;
		if (!taken)
			return i;
	}
	return -1;
}

static int find_place(struct machine *machine, const struct props *props,
		      struct serial_place *place, struct error **err)
{
	bool complete = props_has(props, "iobase") && props_has(props, "irq");
	int index = props_has(props, "index") ? (int)props_u64(props, "index")
					      : free_index(machine);

	if (index < 0 && !complete) {
		error_set(err, "COM1 to COM4 are taken; iobase= and irq= place another port");
		return -1;
	}
	if (index >= 0)
		*place = serial_places[index];
	if (props_has(props, "iobase"))
		place->iobase = props_u64(props, "iobase");
	if (props_has(props, "irq"))
		place->irq = props_u64(props, "irq");
	return 0;
}

static int isa_serial_create(struct machine *machine, const struct props *props,
			     struct device **device, struct error **err)
{
	const char *id = props_str(props, "chardev");
	struct chardev *chr = NULL;
	struct serial_place place = { 0 };
	struct serial *serial;
	struct isa_serial *isa;

	if (find_place(machine, props, &place, err) < 0)
		return -1;
	if (id && !(chr = backends_take(machine->backends, BACKEND_CHARDEV, id, "isa-serial", err)))
		return -1;
	serial = serial_new(machine->io, &machine->irqs, place.iobase, place.irq, chr, err);
	if (!serial)
		return -1;
	isa = xcalloc(1, sizeof(*isa));
	isa->serial = serial;
	serial_set_coalescer(serial, machine->coalescer);
	*device = &isa->dev;
	return 0;
}

static const struct prop isa_serial_props[] = {
	{ "chardev", PROP_STRING, .help = "character device the port is connected to" },
	{ "index", PROP_INT, .help = "0 to 3: where COM1 to COM4 are", .max = 3 },
	{ "iobase", PROP_INT, .help = "first port", .max = 0xfff8 },
	{ "irq", PROP_INT, .help = "interrupt", .max = 15 },
	{},
};

const struct device_class isa_serial_class = {
	.name = "isa-serial",
	.bus = "ISA",
	.desc = "16550A serial port",
	.props = isa_serial_props,
	.create = isa_serial_create,
	.reset = isa_serial_reset,
	.destroy = isa_serial_destroy,
};
