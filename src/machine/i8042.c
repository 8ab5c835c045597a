/*
 * The keyboard controller (Intel 8042, as in the IBM PC/AT Technical Reference) with nothing
 * plugged into it.
 *
 * It is there for what PCs do by it besides typing: resetting the machine and the A20 gate, which
 * is always open and only remembered. Every command that has an answer is answered at once, so that
 * nobody waits: bytes sent to the absent keyboard or mouse come back as a time-out (status bit 6)
 * with 0xfe, the auxiliary port fails its interface test.
 *
 * One output buffer byte is held; further answers are dropped while it is full, as the guest is to
 * read first.
 */
#include "machine/device_list.h"

#include "base/util.h"
#include "machine/machine.h"

#define I8042_DATA    0x60
#define I8042_COMMAND 0x64

/* Status register */
#define STR_OBF     0x01
#define STR_SYS     0x04
#define STR_CMD     0x08
#define STR_UNLOCK  0x10
#define STR_AUX     0x20
#define STR_TIMEOUT 0x40
/* Configuration byte */
#define CTR_KBD_INT 0x01
#define CTR_AUX_INT 0x02
#define CTR_SYS     0x04
#define CTR_KBD_OFF 0x10
#define CTR_AUX_OFF 0x20
/* Commands; 0x20-0x3f and 0x60-0x7f read and write internal memory, byte 0 the configuration */
#define CMD_READ_RAM     0x20
#define CMD_WRITE_RAM    0x60
#define CMD_AUX_DISABLE  0xa7
#define CMD_AUX_ENABLE   0xa8
#define CMD_AUX_TEST     0xa9
#define CMD_SELF_TEST    0xaa
#define CMD_KBD_TEST     0xab
#define CMD_KBD_DISABLE  0xad
#define CMD_KBD_ENABLE   0xae
#define CMD_READ_INPUT   0xc0
#define CMD_READ_OUTPUT  0xd0
#define CMD_WRITE_OUTPUT 0xd1
#define CMD_WRITE_KBD_OB 0xd2
#define CMD_WRITE_AUX_OB 0xd3
#define CMD_WRITE_AUX    0xd4
#define CMD_PULSE        0xf0 /* to 0xff: pulse low the output bits that are 0 */

#define SELF_TEST_OK     0x55
#define TEST_OK          0x00
#define TEST_CLOCK_STUCK 0x02 /* nothing pulls the auxiliary port's clock */
#define KBD_RESEND       0xfe
#define OUTPUT_RESET     0x01 /* low: the machine is held in reset */
#define OUTPUT_A20       0x02
#define OUTPUT_DEFAULT   0xcf
#define INPUT_UNLOCKED   0x80
#define RAM_SIZE         32

#define KBD_IRQ          1
#define AUX_IRQ          12

struct i8042 {
	struct device dev;
	struct region data, command;
	struct irq_line kbd, aux;
	pthread_mutex_t lock; /* of what follows */
	uint8_t status, out, output_port;
	uint8_t ram[RAM_SIZE]; /* byte 0: configuration */
	uint8_t expecting;     /* the command whose data byte comes next, or 0: the keyboard's */
};

/* --- With the lock held ---- */

static void update_irqs(struct i8042 *kbc)
{
	bool full = kbc->status & STR_OBF, aux = kbc->status & STR_AUX;

	irq_set(&kbc->kbd, full && !aux && kbc->ram[0] & CTR_KBD_INT);
	irq_set(&kbc->aux, full && aux && kbc->ram[0] & CTR_AUX_INT);
}

/* Puts a byte into the output buffer; flags are STR_AUX, STR_TIMEOUT. */
static void answer(struct i8042 *kbc, uint8_t byte, uint8_t flags)
{
	if (kbc->status & STR_OBF)
		return;
	kbc->out = byte;
	kbc->status = (kbc->status & ~(STR_AUX | STR_TIMEOUT)) | STR_OBF | flags;
}

static void reset_machine(struct i8042 *kbc)
{
	machine_reset_request(kbc->dev.machine, CAUSE_GUEST_RESET);
}

static void write_output_port(struct i8042 *kbc, uint8_t value)
{
	kbc->output_port = value;
	if (!(value & OUTPUT_RESET))
		reset_machine(kbc);
}

static void run_command(struct i8042 *kbc, uint8_t cmd)
{
	kbc->expecting = 0;
	switch (cmd) {
	case CMD_READ_RAM ... CMD_READ_RAM + RAM_SIZE - 1:
		answer(kbc, kbc->ram[cmd - CMD_READ_RAM], 0);
		break;
	case CMD_AUX_DISABLE: kbc->ram[0] |= CTR_AUX_OFF; break;
	case CMD_AUX_ENABLE: kbc->ram[0] &= ~CTR_AUX_OFF; break;
	case CMD_AUX_TEST: answer(kbc, TEST_CLOCK_STUCK, 0); break;
	case CMD_SELF_TEST:
		kbc->status |= STR_SYS;
		answer(kbc, SELF_TEST_OK, 0);
		break;
	case CMD_KBD_TEST: answer(kbc, TEST_OK, 0); break;
	case CMD_KBD_DISABLE: kbc->ram[0] |= CTR_KBD_OFF; break;
	case CMD_KBD_ENABLE: kbc->ram[0] &= ~CTR_KBD_OFF; break;
	case CMD_READ_INPUT: answer(kbc, INPUT_UNLOCKED, 0); break;
	case CMD_READ_OUTPUT: answer(kbc, kbc->output_port, 0); break;
	case CMD_WRITE_RAM ... CMD_WRITE_RAM + RAM_SIZE - 1:
	case CMD_WRITE_OUTPUT:
	case CMD_WRITE_KBD_OB:
	case CMD_WRITE_AUX_OB:
	case CMD_WRITE_AUX: kbc->expecting = cmd; break;
	case CMD_PULSE ... 0xff:
		if (!(cmd & OUTPUT_RESET))
			reset_machine(kbc);
		break;
	default: break; /* the controller's firmware ignores what it does not know */
	}
}

static void take_data(struct i8042 *kbc, uint8_t value)
{
	uint8_t cmd = kbc->expecting;

	kbc->expecting = 0;
	switch (cmd) {
	case CMD_WRITE_RAM ... CMD_WRITE_RAM + RAM_SIZE - 1:
		kbc->ram[cmd - CMD_WRITE_RAM] = value;
		if (cmd == CMD_WRITE_RAM)
			kbc->status = (kbc->status & ~STR_SYS) | (value & CTR_SYS);
		break;
	case CMD_WRITE_OUTPUT: write_output_port(kbc, value); break;
	case CMD_WRITE_KBD_OB: answer(kbc, value, 0); break;
	/* Without an auxiliary port the byte does not come back as if from there. */
	case CMD_WRITE_AUX_OB: answer(kbc, value, 0); break;
	case CMD_WRITE_AUX: answer(kbc, KBD_RESEND, STR_AUX | STR_TIMEOUT); break;
	default:
		kbc->ram[0] &= ~CTR_KBD_OFF; /* sending to the keyboard enables it */
		answer(kbc, KBD_RESEND, STR_TIMEOUT);
		break;
	}
}

/* --- Ports ---- */

static uint64_t data_read(void *opaque, uint64_t offset, unsigned size)
{
	struct i8042 *kbc = opaque;
	uint8_t value;

	pthread_mutex_lock(&kbc->lock);
	value = kbc->out;
	kbc->status &= ~(STR_OBF | STR_AUX | STR_TIMEOUT);
	update_irqs(kbc);
	pthread_mutex_unlock(&kbc->lock);
	return value;
}

static void data_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct i8042 *kbc = opaque;

	pthread_mutex_lock(&kbc->lock);
	kbc->status &= ~STR_CMD;
	take_data(kbc, value);
	update_irqs(kbc);
	pthread_mutex_unlock(&kbc->lock);
}

static uint64_t command_read(void *opaque, uint64_t offset, unsigned size)
{
	struct i8042 *kbc = opaque;
	uint8_t status;

	pthread_mutex_lock(&kbc->lock);
	status = kbc->status;
	pthread_mutex_unlock(&kbc->lock);
	return status;
}

static void command_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct i8042 *kbc = opaque;

	pthread_mutex_lock(&kbc->lock);
	kbc->status |= STR_CMD;
	run_command(kbc, value);
	update_irqs(kbc);
	pthread_mutex_unlock(&kbc->lock);
}

static const struct region_ops data_ops = { data_read, data_write, 1 };
static const struct region_ops command_ops = { command_read, command_write, 1 };

/* --- Life ---- */

static void i8042_reset(struct device *dev)
{
	struct i8042 *kbc = container_of(dev, struct i8042, dev);

	pthread_mutex_lock(&kbc->lock);
	kbc->status = STR_CMD | STR_UNLOCK;
	kbc->output_port = OUTPUT_DEFAULT;
	kbc->out = kbc->expecting = 0;
	kbc->ram[0] = CTR_KBD_INT | CTR_AUX_OFF;
	update_irqs(kbc);
	pthread_mutex_unlock(&kbc->lock);
}

static void i8042_destroy(struct device *dev)
{
	struct i8042 *kbc = container_of(dev, struct i8042, dev);

	bus_unmap(&kbc->data);
	bus_unmap(&kbc->command);
	pthread_mutex_destroy(&kbc->lock);
	free(kbc);
}

static int i8042_create(struct machine *machine, const struct props *props, struct device **device,
			struct error **err)
{
	struct i8042 *kbc = xcalloc(1, sizeof(*kbc));

	kbc->dev.machine = machine;
	kbc->data = (struct region){ "i8042-data", 1, &data_ops, kbc };
	kbc->command = (struct region){ "i8042-command", 1, &command_ops, kbc };
	pthread_mutex_init(&kbc->lock, NULL);
	irq_line_init(&kbc->kbd, &machine->irqs, KBD_IRQ);
	irq_line_init(&kbc->aux, &machine->irqs, AUX_IRQ);
	i8042_reset(&kbc->dev);
	if (bus_map(machine->io, &kbc->data, I8042_DATA, err) < 0 ||
	    bus_map(machine->io, &kbc->command, I8042_COMMAND, err) < 0) {
		i8042_destroy(&kbc->dev);
		return -1;
	}
	*device = &kbc->dev;
	return 0;
}

static const struct prop i8042_props[] = { {} };

const struct device_class i8042_class = {
	.name = "i8042",
	.bus = "ISA",
	.desc = "keyboard controller",
	.props = i8042_props,
	.create = i8042_create,
	.reset = i8042_reset,
	.destroy = i8042_destroy,
};
