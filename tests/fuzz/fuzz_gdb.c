/*
 * libFuzzer: what a peer says to the gdb stub.
 *
 * The first byte says how the rest is cut into pieces, and whether checksums are put right, without
 * which little gets past the framing. The chardev and the vCPUs are stand-ins; when the machine
 * goes on a vCPU meets a breakpoint at once. Whatever is said, the stub answers with well-formed
 * packets, and once the peer has gone no vCPU is held.
 */
#include "base/error.h"
#include "base/loop.h"
#include "base/util.h"
#include "chardev/chardev.h"
#include "hav/backend.h"
#include "machine/vcpu.h"
#include "revirter/gdbstub.h"
#include "revirter/monitor.h"
#include "revirter/vm.h"

#include <stdio.h>
#include <string.h>

#define VCPUS 2

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* --- The chardev ---- */

static const struct chardev_handler *handler;
static void *frontend;
static char packet[1 << 20];
static size_t packet_len; /* with its '$'; 0: between packets */

static void check_packet(void)
{
	uint8_t sum = 0;
	char text[3];

	for (size_t i = 1; i < packet_len - 3; i++)
		sum += packet[i];
	snprintf(text, sizeof(text), "%02x", sum);
	if (memcmp(text, packet + packet_len - 2, 2) != 0)
		abort();
}

static void check_byte(char c)
{
	if (!packet_len && (c == '+' || c == '-'))
		return;
	if ((!packet_len) != (c == '$') || packet_len == sizeof(packet))
		abort();
	packet[packet_len++] = c;
	if (packet_len > 3 && packet[packet_len - 3] == '#') {
		check_packet();
		packet_len = 0;
	}
}

int chardev_attach(struct chardev *chr, const struct chardev_handler *h, void *opaque,
		   struct error **err)
{
	handler = h;
	frontend = opaque;
	if (h)
		h->event(opaque, CHARDEV_OPENED);
	return 0;
}

size_t chardev_write_from(struct chardev *chr, void *opaque, const void *data, size_t len)
{
	for (size_t i = 0; i < len; i++)
		check_byte(((const char *)data)[i]);
	return len;
}

void chardev_accept_input(struct chardev *chr)
{
}

char *monitor_execute(struct vm *vm, const char *line)
{
	return xstrdup("#$}*\r\n");
}

/* --- The VM ---- */

static struct vm vm;
static struct hav_regs registers[VCPUS];

bool vm_is_running(const struct vm *v)
{
	return v->state == VM_RUNNING;
}

void vm_pause(struct vm *v, enum vm_state state)
{
	if (!vm_is_running(v))
		return;
	v->state = state;
	v->debugger->paused(v->debugger_opaque);
}

int vm_resume(struct vm *v, struct error **err)
{
	if (!vm_is_running(v))
		v->debugger->resume(v->debugger_opaque);
	v->state = VM_RUNNING;
	return 0;
}

void vm_quit(struct vm *v, enum machine_cause cause)
{
}

/* --- vCPUs ---- */

struct fake_vcpu {
	struct hav_vcpu vcpu;
	unsigned n;
};

static int get_state(struct hav_vcpu *vcpu, unsigned groups, struct hav_state *state,
		     struct error **err)
{
	if (groups & HAV_STATE_MSRS) {
		error_set(err, "there are none");
		return -1;
	}
	state->regs = registers[((struct fake_vcpu *)vcpu)->n];
	return 0;
}

static int set_state(struct hav_vcpu *vcpu, unsigned groups, const struct hav_state *state,
		     struct error **err)
{
	if (groups & HAV_STATE_REGS)
		registers[((struct fake_vcpu *)vcpu)->n] = state->regs;
	return 0;
}

static int set_debug(struct hav_vcpu *vcpu, const struct hav_debug *debug, struct error **err)
{
	return 0;
}

static void set_up(void)
{
	static const struct hav_backend backend = { .get_state = get_state,
						    .set_state = set_state,
						    .set_debug = set_debug };
	static struct fake_vcpu fakes[VCPUS];
	static struct vcpu vcpus[VCPUS];
	static struct vcpu_set set = { .lock = PTHREAD_MUTEX_INITIALIZER };
	const struct gmem_config config = { .size = 1 * MIB, .low_max = 1 * GIB };

	for (unsigned i = 0; i < VCPUS; i++) {
		fakes[i] = (struct fake_vcpu){ { &backend }, i };
		vcpus[i] = (struct vcpu){ .machine = &vm.machine, .hav = &fakes[i].vcpu, .id = i };
	}
	vm.machine.vcpus = vcpus;
	vm.machine.n_vcpus = VCPUS;
	vm.machine.vcpu_set = &set;
	vm.machine.main_loop = loop_new(NULL);
	if (!vm.machine.main_loop || gmem_init(&vm.machine.mem, NULL, &config, NULL) < 0)
		abort();
}

static void stop_loop(void *opaque)
{
	loop_stop(vm.machine.main_loop);
}

/* A vCPU meets whatever breakpoint there is, or nothing, and then the user presses Ctrl-C. */
static void run(void)
{
	static unsigned turn;
	struct hav_exit exit = { .debug = { .exception = ++turn & 1 ? 3 : 1,
					    .pc = registers[turn & 1].rip,
					    .dr6 = 0xffff0ff0 | turn % 16 | (turn & 16) << 10 } };
	struct loop_call end = { stop_loop, NULL };

	vm.debugger->exit(vm.debugger_opaque, turn / 2 % VCPUS, &exit);
	loop_post(vm.machine.main_loop, &end);
	loop_run(vm.machine.main_loop);
	if (vm_is_running(&vm))
		handler->receive(frontend, (const uint8_t *)"\003", 1);
}

static void feed(const uint8_t *data, size_t size, size_t piece)
{
	while (size) {
		size_t n = MIN(size, piece);

		if (handler->can_receive(frontend))
			handler->receive(frontend, data, n);
		data += n;
		size -= n;
		if (vm_is_running(&vm))
			run();
	}
}

/* Lines as packets. */
static void feed_packets(const uint8_t *data, size_t size)
{
	while (size) {
		const uint8_t *end = memchr(data, '\n', size);
		size_t len = end ? (size_t)(end - data) : size;
		uint8_t sum = 0, tail[4];

		for (size_t i = 0; i < len; i++)
			sum += data[i];
		snprintf((char *)tail, sizeof(tail), "#%02x", sum);
		feed((const uint8_t *)"$", 1, 1);
		feed(data, len, 64);
		feed(tail, 3, 3);
		len += end != NULL;
		data += len;
		size -= len;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct gdb_stub *gdb;

	if (!vm.machine.main_loop)
		set_up();
	if (size < 1)
		return 0;
	packet_len = 0;
	vm.state = VM_PRELAUNCH;
	gdb = gdbstub_new(&vm, NULL, NULL);
	if (data[0] & 1)
		feed_packets(data + 1, size - 1);
	else
		feed(data + 1, size - 1, (data[0] >> 1) + 1);
	handler->event(frontend, CHARDEV_CLOSED);
	gdbstub_close(gdb);
	gdbstub_free(gdb);
	if (packet_len || vm.machine.vcpus[0].held || vm.machine.vcpus[1].held)
		abort();
	return 0;
}
