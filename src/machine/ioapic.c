/*
 * The IOAPIC: see ioapic.h.
 *
 * Registers are reached by way of an index and a window. An edge-triggered pin sends when it goes
 * high, or, while its entry is masked, when that is unmasked (as chipsets do, and guests rely on
 * for the timer). A level-triggered one sends while it is high and its last message is not
 * acknowledged (Remote IRR); an EOI by the local APICs' broadcast or the EOI register clears that,
 * and what is still high is sent again.
 */
#include "machine/ioapic.h"

#include "base/util.h"

#include <pthread.h>

enum { SELECT = 0x00, WINDOW = 0x10, EOI = 0x40 };
enum { REG_ID, REG_VERSION, REG_ARBITRATION, REG_ENTRIES = 0x10 };

#define VERSION      (0x20 | (IOAPIC_PINS - 1) << 16) /* 0x20: has the EOI register */
#define ID_MASK      0x0f000000u
#define RTE_VECTOR   0xffu
#define RTE_MODE     0x700u
#define RTE_LOGICAL  BIT(11)
#define RTE_STATUS   BIT(12)
#define RTE_IRR      BIT(14)
#define RTE_LEVEL    BIT(15)
#define RTE_MASK     BIT(16)
#define RTE_DEST     56
#define RTE_WRITABLE UINT64_C(0xff0000000001afff)

#define MSI_BASE     UINT64_C(0xfee00000)
#define MSI_DEST     12
#define MSI_LOGICAL  BIT(2)

struct ioapic {
	struct ioapic_host host;
	pthread_mutex_t lock;
	uint8_t select;
	uint32_t id;
	uint64_t entry[IOAPIC_PINS];
	uint32_t level;   /* a bit a pin */
	uint32_t pending; /* edges that came while masked */
	struct {
		uint64_t address;
		uint32_t data;
	} route[IOAPIC_PINS]; /* as the host was told */
};

/* --- Messages; with the lock held ---- */

static uint64_t message_address(uint64_t entry)
{
	return MSI_BASE | (entry >> RTE_DEST) << MSI_DEST | (entry & RTE_LOGICAL ? MSI_LOGICAL : 0);
}

/* Vector, mode and trigger are where a message has them; its bit 14 says "asserted". */
static uint32_t message_data(uint64_t entry)
{
	uint32_t data = entry & (RTE_VECTOR | RTE_MODE | RTE_LEVEL);

	return data & RTE_LEVEL ? data | BIT(14) : data;
}

static void service(struct ioapic *io, unsigned pin)
{
	uint64_t *entry = &io->entry[pin];
	uint32_t bit = 1u << pin;

	if (*entry & RTE_MASK)
		return;
	if (*entry & RTE_LEVEL) {
		if (!(io->level & bit) || *entry & RTE_IRR)
			return;
		*entry |= RTE_IRR;
	} else {
		if (!(io->pending & bit))
			return;
	}
	io->pending &= ~bit;
	io->host.send(io->host.opaque, message_address(*entry), message_data(*entry));
}

static void tell_route(struct ioapic *io, unsigned pin)
{
	uint64_t entry = io->entry[pin];
	bool level = entry & RTE_LEVEL && (entry & RTE_VECTOR) >= 16;
	uint64_t address = level ? message_address(entry) : 0;
	uint32_t data = level ? message_data(entry) : 0;

	if (!io->host.route || (address == io->route[pin].address && data == io->route[pin].data))
		return;
	io->route[pin].address = address;
	io->route[pin].data = data;
	io->host.route(io->host.opaque, pin, address, data);
}

/* --- Lines and EOI ---- */

void ioapic_set(struct ioapic *io, unsigned pin, bool level)
{
	uint32_t bit;

	if (pin >= IOAPIC_PINS)
		return;
	bit = 1u << pin;
	pthread_mutex_lock(&io->lock);
	if (level && !(io->level & bit))
		io->pending |= bit;
	io->level = level ? io->level | bit : io->level & ~bit;
	if (level)
		service(io, pin);
	pthread_mutex_unlock(&io->lock);
}

static void acknowledge(struct ioapic *io, uint8_t vector)
{
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		uint64_t *entry = &io->entry[pin];

		if ((*entry & RTE_VECTOR) != vector || !(*entry & RTE_IRR))
			continue;
		*entry &= ~RTE_IRR;
		service(io, pin);
	}
}

void ioapic_eoi(struct ioapic *io, uint8_t vector)
{
	pthread_mutex_lock(&io->lock);
	acknowledge(io, vector);
	pthread_mutex_unlock(&io->lock);
}

/* --- Registers ---- */

static uint32_t read_selected(struct ioapic *io)
{
	unsigned n = io->select - REG_ENTRIES;

	switch (io->select) {
	case REG_ID:
	case REG_ARBITRATION: return io->id;
	case REG_VERSION: return VERSION;
	default: return n < 2 * IOAPIC_PINS ? io->entry[n / 2] >> n % 2 * 32 : 0;
	}
}

static void write_entry(struct ioapic *io, unsigned n, uint32_t value)
{
	unsigned pin = n / 2, shift = n % 2 * 32;
	uint64_t mask = (UINT64_C(0xffffffff) << shift) & RTE_WRITABLE;
	uint64_t *entry = &io->entry[pin];

	*entry = (*entry & ~mask) | ((uint64_t)value << shift & mask);
	/* Remote IRR is of level-triggered entries; guests clear it by way of edge. */
	if (!(*entry & RTE_LEVEL))
		*entry &= ~RTE_IRR;
	tell_route(io, pin);
	service(io, pin);
}

static void write_selected(struct ioapic *io, uint32_t value)
{
	unsigned n = io->select - REG_ENTRIES;

	if (io->select == REG_ID)
		io->id = value & ID_MASK;
	else if (n < 2 * IOAPIC_PINS)
		write_entry(io, n, value);
}

uint32_t ioapic_read(struct ioapic *io, unsigned offset)
{
	uint32_t value = 0;

	pthread_mutex_lock(&io->lock);
	if (offset == SELECT)
		value = io->select;
	else if (offset == WINDOW)
		value = read_selected(io);
	pthread_mutex_unlock(&io->lock);
	return value;
}

void ioapic_write(struct ioapic *io, unsigned offset, uint32_t value)
{
	pthread_mutex_lock(&io->lock);
	switch (offset) {
	case SELECT: io->select = value; break;
	case WINDOW: write_selected(io, value); break;
	case EOI: acknowledge(io, value); break;
	default: break;
	}
	pthread_mutex_unlock(&io->lock);
}

/* --- Life ---- */

/* Lines stay what they are: devices are reset by themselves. */
void ioapic_reset(struct ioapic *io)
{
	pthread_mutex_lock(&io->lock);
	io->select = 0;
	io->id = 0;
	io->pending = 0;
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		io->entry[pin] = RTE_MASK;
		tell_route(io, pin);
	}
	pthread_mutex_unlock(&io->lock);
}

struct ioapic *ioapic_new(const struct ioapic_host *host)
{
	struct ioapic *io = xcalloc(1, sizeof(*io));

	io->host = *host;
	pthread_mutex_init(&io->lock, NULL);
	ioapic_reset(io);
	return io;
}

void ioapic_free(struct ioapic *io)
{
	if (!io)
		return;
	pthread_mutex_destroy(&io->lock);
	free(io);
}
