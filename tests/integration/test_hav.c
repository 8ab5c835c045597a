/*
 * libhav on the backend given by name (kvm): state in and out, kicks from another thread,
 * doorbells, interrupt messages, writes kept back, read-only and dirty-logged memory, calibration.
 * The guest is a few bytes of real-mode code a test, so this runs on any /dev/kvm, also one that
 * emulates.
 */
#include "hav.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define MEMORY_SIZE 0x20000
#define CODE        0x1000
#define DATA        0x2000

static const char *backend;

struct guest {
	struct hav *hav;
	struct hav_vm *vm;
	struct hav_vcpu *vcpu;
	uint8_t *memory;
	struct hav_exit exit;
};

static void must(int r, struct error *err)
{
	if (r < 0)
		fail_msg("%s", hav_error_message(err));
}

static void start(struct guest *g, enum hav_irqchip irqchip, const uint8_t *code, size_t size)
{
	const struct hav_vm_config config = { .irqchip = irqchip, .max_vcpus = 2 };
	struct hav_state state;
	struct error *err = NULL;

	must(hav_open(&g->hav, backend, &err), err);
	must(hav_vm_create(g->hav, &config, &g->vm, &err), err);
	g->memory =
		mmap(NULL, MEMORY_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	memcpy(g->memory + CODE, code, size);
	must(hav_vm_map(g->vm, 0, g->memory, MEMORY_SIZE / 2, HAV_MAP_RW, &err), err);
	must(hav_vcpu_create(g->vm, 0, &g->vcpu, &err), err);
	must(hav_vcpu_get_state(g->vcpu, HAV_STATE_ALL, &state, &err), err);
	state.sregs.cs.base = state.sregs.cs.selector = 0;
	state.regs.rip = CODE;
	must(hav_vcpu_set_state(g->vcpu, HAV_STATE_REGS | HAV_STATE_SREGS, &state, &err), err);
}

static void stop(struct guest *g)
{
	hav_vcpu_destroy(g->vcpu);
	hav_vm_destroy(g->vm);
	hav_close(g->hav);
	munmap(g->memory, MEMORY_SIZE);
}

static enum hav_exit_reason run(struct guest *g)
{
	struct error *err = NULL;

	must(hav_vcpu_run(g->vcpu, &g->exit, &err), err);
	return g->exit.reason;
}

static const uint8_t out_and_halt[] = { 0xe6, 0x10, 0xf4 }; /* out 0x10, al; hlt */

static void state_round_trip(void **unused)
{
	struct guest g = {};
	struct hav_state a, b;
	struct error *err = NULL;

	start(&g, HAV_IRQCHIP_KERNEL, out_and_halt, sizeof(out_and_halt));
	must(hav_vcpu_get_state(g.vcpu, HAV_STATE_ALL, &a, &err), err);
	a.regs.rax = 0x1122334455667788;
	a.regs.r15 = 42;
	a.sregs.ds.base = 0x1230;
	a.sregs.ds.selector = 0x123;
	a.dr[1] = 0x5000;
	must(hav_vcpu_set_state(g.vcpu, HAV_STATE_ALL, &a, &err), err);
	must(hav_vcpu_get_state(g.vcpu, HAV_STATE_ALL, &b, &err), err);
	assert_memory_equal(&a.regs, &b.regs, sizeof(a.regs));
	assert_int_equal(b.sregs.ds.base, 0x1230);
	assert_int_equal(b.dr[1], 0x5000);
	assert_int_equal(b.version, HAV_API_VERSION);
	assert_int_equal(run(&g), HAV_EXIT_IO);
	assert_int_equal(g.exit.io.data[0], 0x88);
	/* What is not in the struct can't be set, nor an unknown version. */
	a.groups = HAV_STATE_REGS;
	assert_int_equal(hav_vcpu_set_state(g.vcpu, HAV_STATE_SREGS, &a, NULL), -1);
	a.version = 99;
	assert_int_equal(hav_vcpu_set_state(g.vcpu, HAV_STATE_REGS, &a, &err), -1);
	assert_string_equal(hav_error_message(err),
			    "vCPU state has version 99; this library knows 1");
	hav_error_free(err);
	stop(&g);
}

static const uint8_t endless[] = { 0xeb, 0xfe }; /* jmp $ */

static void *kick_later(void *vcpu)
{
	const struct timespec wait = { .tv_nsec = 20000000 };

	nanosleep(&wait, NULL);
	hav_vcpu_kick(vcpu);
	return NULL;
}

static void kicks_end_running(void **unused)
{
	struct guest g = {};
	pthread_t thread;

	start(&g, HAV_IRQCHIP_NONE, endless, sizeof(endless));
	pthread_create(&thread, NULL, kick_later, g.vcpu);
	assert_int_equal(run(&g), HAV_EXIT_INTERRUPTED);
	pthread_join(thread, NULL);
	/* A kick while it does not run ends the next run. */
	hav_vcpu_kick(g.vcpu);
	assert_int_equal(run(&g), HAV_EXIT_INTERRUPTED);
	stop(&g);
}

/* mov dx, 0x300; out dx, al; mov al, 7; out dx, al; hlt */
static const uint8_t doorbell_code[] = { 0xba, 0x00, 0x03, 0xee, 0xb0, 0x07, 0xee, 0xf4 };

static void doorbells_match(void **unused)
{
	struct guest g = {};
	struct hav_doorbell bell = { HAV_SPACE_IO, 0x300, 1, true, 7, eventfd(0, EFD_NONBLOCK) };
	struct error *err = NULL;
	uint64_t count = 0;

	start(&g, HAV_IRQCHIP_NONE, doorbell_code, sizeof(doorbell_code));
	must(hav_ioeventfd_bind(g.vm, &bell, &err), err);
	assert_int_equal(run(&g), HAV_EXIT_IO); /* another value */
	assert_int_equal(read(bell.fd, &count, sizeof(count)), -1);
	assert_int_equal(run(&g), HAV_EXIT_HLT);
	assert_int_equal(read(bell.fd, &count, sizeof(count)), sizeof(count));
	assert_int_equal(count, 1);
	must(hav_ioeventfd_unbind(g.vm, &bell, &err), err);
	assert_int_equal(hav_ioeventfd_unbind(g.vm, &bell, NULL), -1);
	close(bell.fd);
	stop(&g);
}

/* mov dx, 0x300; out dx, al; inc al; out dx, al; in al, 0x60; hlt */
static const uint8_t kept_back_code[] = {
	0xba, 0x00, 0x03, 0xee, 0xfe, 0xc0, 0xee, 0xe4, 0x60, 0xf4
};

struct seen {
	unsigned n;
	uint64_t values[4];
};

static void see(void *opaque, enum hav_space space, uint64_t address, uint32_t size, uint64_t value)
{
	struct seen *seen = opaque;

	assert_int_equal(space, HAV_SPACE_IO);
	assert_int_equal(address, 0x300);
	assert_int_equal(size, 1);
	assert_in_range(seen->n, 0, 3);
	seen->values[seen->n++] = value;
}

static void writes_are_kept_back(void **unused)
{
	struct guest g = {};
	struct seen seen = {};
	struct error *err = NULL;

	start(&g, HAV_IRQCHIP_NONE, kept_back_code, sizeof(kept_back_code));
	if (!hav_capability(g.hav, HAV_CAP_COALESCE)) {
		assert_int_equal(hav_vm_coalesce(g.vm, HAV_SPACE_IO, 0x300, 1, true, NULL), -1);
		stop(&g);
		return;
	}
	hav_vm_set_coalesced(g.vm, see, &seen);
	must(hav_vm_coalesce(g.vm, HAV_SPACE_IO, 0x300, 1, true, &err), err);
	assert_int_equal(run(&g), HAV_EXIT_IO);
	assert_false(g.exit.io.write);
	/* Both have come, in order, before the exit after them. */
	assert_int_equal(seen.n, 2);
	assert_int_equal(seen.values[1], seen.values[0] + 1);
	stop(&g);
}

/* sti; 1: hlt; jmp 1b. The handler at 0x3000: out 0x10, al; iret */
static const uint8_t interrupted_code[] = { 0xfb, 0xf4, 0xeb, 0xfd };
static const uint8_t handler_code[] = { 0xe6, 0x10, 0xcf };
#define VECTOR 0x21

static void add_handler(struct guest *g)
{
	memcpy(g->memory + 0x3000, handler_code, sizeof(handler_code));
	g->memory[VECTOR * 4] = 0x00;
	g->memory[VECTOR * 4 + 1] = 0x30;
}

static void interrupts_without_controllers(void **unused)
{
	struct guest g = {};
	struct error *err = NULL;

	start(&g, HAV_IRQCHIP_NONE, interrupted_code, sizeof(interrupted_code));
	add_handler(&g);
	assert_int_equal(hav_irq_set(g.vm, 4, true, NULL), -1);
	assert_int_equal(run(&g), HAV_EXIT_HLT);
	must(hav_vcpu_interrupt(g.vcpu, VECTOR, &err), err);
	assert_int_equal(run(&g), HAV_EXIT_IO);
	assert_int_equal(g.exit.io.port, 0x10);
	/* In the handler interrupts are off: wait for the window. */
	assert_int_equal(hav_vcpu_interrupt(g.vcpu, VECTOR, NULL), -1);
	assert_int_equal(errno, EAGAIN);
	hav_vcpu_want_irq_window(g.vcpu, true);
	if (run(&g) ==
	    HAV_EXIT_HLT) /* a KVM that emulates looks for windows between entries only */
		run(&g);
	assert_int_equal(g.exit.reason, HAV_EXIT_IRQ_WINDOW);
	stop(&g);
}

/* mov ecx, 0x1b; rdmsr; out 0x10, eax; mov ecx, 0x802; rdmsr; mov ecx, 0x6e0; wrmsr; hlt */
static const uint8_t msr_code[] = {
	0x66, 0xb9, 0x1b, 0x00, 0x00, 0x00, 0x0f, 0x32, 0x66, 0xe7, 0x10, 0x66, 0xb9, 0x02,
	0x08, 0x00, 0x00, 0x0f, 0x32, 0x66, 0xb9, 0xe0, 0x06, 0x00, 0x00, 0x0f, 0x30, 0xf4,
};
#define GP_VECTOR 13

static void expect_msr(struct guest *g, uint32_t index, bool write)
{
	assert_int_equal(run(g), HAV_EXIT_MSR);
	assert_int_equal(g->exit.msr.index, index);
	assert_int_equal(g->exit.msr.write, write);
}

static void msrs_of_local_apics(void **unused)
{
	struct guest g = {};

	start(&g, HAV_IRQCHIP_NONE, msr_code, sizeof(msr_code));
	add_handler(&g);
	memcpy(g.memory + GP_VECTOR * 4, g.memory + VECTOR * 4, 4);
	if (!hav_capability(g.hav, HAV_CAP_APIC_MSR_EXITS)) {
		stop(&g);
		return;
	}
	expect_msr(&g, 0x1b, false);
	*g.exit.msr.value = 0xfee00d00;
	assert_int_equal(run(&g), HAV_EXIT_IO);
	assert_int_equal(g.exit.io.data[1], 0x0d);
	expect_msr(&g, 0x802, false);
	*g.exit.msr.value = 0;
	if (hav_capability(g.hav, HAV_CAP_TSC_DEADLINE_EXITS)) {
		expect_msr(&g, 0x6e0, true);
		*g.exit.msr.fault = true;
		assert_int_equal(run(&g), HAV_EXIT_IO);
		assert_int_equal(g.exit.io.size, 1);
	}
	stop(&g);
}

static void time_stamps_and_task_priority(void **unused)
{
	struct guest g = {};
	uint64_t tsc;

	start(&g, HAV_IRQCHIP_NONE, out_and_halt, sizeof(out_and_halt));
	tsc = hav_vcpu_tsc(g.vcpu);
	assert_in_range(hav_vcpu_tsc_khz(g.vcpu), 100000, 10000000);
	assert_true(hav_vcpu_tsc(g.vcpu) > tsc);
	assert_int_equal(hav_vcpu_get_cr8(g.vcpu), 0);
	hav_vcpu_set_cr8(g.vcpu, 5);
	assert_int_equal(run(&g), HAV_EXIT_IO);
	assert_int_equal(hav_vcpu_get_cr8(g.vcpu), 5);
	assert_false(hav_vcpu_interruptible(g.vcpu));
	stop(&g);
}

static void messages_by_call_and_by_eventfd(void **unused)
{
	const struct hav_msi msi = { 0xfee00000, VECTOR };
	struct guest g = {};
	struct hav_state state;
	struct error *err = NULL;
	uint64_t one = 1;
	int fd = eventfd(0, 0);

	start(&g, HAV_IRQCHIP_KERNEL, interrupted_code, sizeof(interrupted_code));
	add_handler(&g);
	/* Software-enable the local APIC (spurious vector register). */
	must(hav_vcpu_get_state(g.vcpu, HAV_STATE_LAPIC, &state, &err), err);
	state.lapic[0xf0] = 0xff;
	state.lapic[0xf1] |= 1;
	must(hav_vcpu_set_state(g.vcpu, HAV_STATE_LAPIC, &state, &err), err);
	assert_int_equal(hav_msi_send(g.vm, msi.address, msi.data), 0);
	assert_int_equal(run(&g), HAV_EXIT_IO);
	/* The handler ends no interrupt at the APIC, so it is set up anew for the second. */
	must(hav_vcpu_set_state(g.vcpu, HAV_STATE_LAPIC, &state, &err), err);
	must(hav_irqfd_bind(g.vm, fd, -1, 24, &msi, &err), err);
	assert_int_equal(hav_irqfd_bind(g.vm, fd, -1, 3, &msi, NULL), -1); /* an IOAPIC pin */
	assert_int_equal(write(fd, &one, sizeof(one)), sizeof(one));
	assert_int_equal(run(&g), HAV_EXIT_IO);
	assert_int_equal(g.exit.io.port, 0x10);
	must(hav_irqfd_unbind(g.vm, fd, 24, &err), err);
	close(fd);
	stop(&g);
}

/* mov bx, 0x1000; mov ds, bx; mov [0], al; mov [5], al; hlt */
static const uint8_t store_code[] = { 0xbb, 0x00, 0x10, 0x8e, 0xdb, 0xa2,
				      0x00, 0x00, 0xa2, 0x05, 0x00, 0xf4 };

static void memory_may_be_read_only_or_logged(void **unused)
{
	struct guest g = {};
	struct error *err = NULL;
	uint64_t dirty[1] = { 0 };
	uint8_t *half;

	start(&g, HAV_IRQCHIP_NONE, store_code, sizeof(store_code));
	half = g.memory + MEMORY_SIZE / 2;
	must(hav_vm_map(g.vm, 0x10000, half, MEMORY_SIZE / 2, HAV_MAP_READ, &err), err);
	assert_int_equal(hav_vm_map(g.vm, 0x11000, half, 0x1000, HAV_MAP_RW, NULL), -1);
	assert_int_equal(hav_vm_map(g.vm, 0x100001, half, 0x1000, HAV_MAP_RW, NULL), -1);
	assert_int_equal(run(&g), HAV_EXIT_MMIO);
	assert_true(g.exit.mmio.write);
	assert_int_equal(g.exit.mmio.gpa, 0x10000);
	must(hav_vm_unmap(g.vm, 0x10000, &err), err);
	must(hav_vm_map(g.vm, 0x10000, half, MEMORY_SIZE / 2, HAV_MAP_RW | HAV_MAP_DIRTY_LOG, &err),
	     err);
	assert_int_equal(run(&g), HAV_EXIT_HLT);
	must(hav_vm_dirty_log(g.vm, 0x10000, dirty, &err), err);
	assert_int_equal(dirty[0] & 1, 1);
	must(hav_vm_dirty_log(g.vm, 0x10000, dirty, &err), err);
	assert_int_equal(dirty[0], 0);
	assert_int_equal(hav_vm_unmap(g.vm, 0x50000, NULL), -1);
	stop(&g);
}

static void calibration_is_plausible(void **unused)
{
	struct hav_speed speed;
	struct error *err = NULL;
	struct hav *hav;

	must(hav_open(&hav, backend, &err), err);
	must(hav_calibrate(hav, &speed, &err), err);
	assert_true(speed.loop_ns > 0 && speed.exit_ns > 0);
	assert_int_equal(speed.full_speed, speed.loop_ns <= HAV_FULL_SPEED_NS);
	hav_close(hav);
	assert_int_equal(hav_open(&hav, "nonesuch", &err), -1);
	hav_error_free(err);
}

int main(int argc, char *argv[])
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(state_round_trip),
		cmocka_unit_test(kicks_end_running),
		cmocka_unit_test(doorbells_match),
		cmocka_unit_test(writes_are_kept_back),
		cmocka_unit_test(interrupts_without_controllers),
		cmocka_unit_test(msrs_of_local_apics),
		cmocka_unit_test(time_stamps_and_task_priority),
		cmocka_unit_test(messages_by_call_and_by_eventfd),
		cmocka_unit_test(memory_may_be_read_only_or_logged),
		cmocka_unit_test(calibration_is_plausible),
	};

	backend = argc > 1 ? argv[1] : "kvm";
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
