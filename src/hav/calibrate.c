/*
 * How fast does a backend run kernel code? See hav_calibrate() in hav.h.
 *
 * A VM of one page of code and three of page tables runs, at CPL 0 in long mode,
 *
 *	1: dec ecx; jnz 1b		ecx times
 *	2: out 0x10, al; jmp 2b		leaves at each turn
 *
 * first with few iterations, which tells a kernel that emulates each instruction, then with enough
 * to be exact.
 */
#include "base/error.h"
#include "base/loop.h"
#include "base/util.h"
#include "hav.h"

#include <errno.h>
#include <math.h>
#include <string.h>
#include <sys/mman.h>

#define EXPORT      __attribute__((visibility("default")))

#define MEMORY_SIZE 0x4000
#define CODE        0x0000
#define PML4        0x1000
#define PDPT        0x2000
#define PD          0x3000
#define PORT        0x10
#define FEW         100
#define MANY        100000
#define EXITS       32
#define TRIES       3
#define PATIENCE    4 /* on a busy machine all tries may be disturbed */

/* CR0, CR4, EFER and page-table bits, APM vol. 2 §3.1, §5.3 */
#define CR0_PE   0x1
#define CR0_ET   0x10
#define CR0_PG   0x80000000u
#define CR4_PAE  0x20
#define EFER_LME 0x100
#define EFER_LMA 0x400
#define PTE_P_RW 0x3
#define PTE_PS   0x80

static const uint8_t code[] = {
	0xff, 0xc9, 0x75, 0xfc, /* 1: dec ecx; jnz 1b */
	0xe6, PORT, 0xeb, 0xfc, /* 2: out PORT, al; jmp 2b */
};

struct bench {
	struct hav_vm *vm;
	struct hav_vcpu *vcpu;
	uint8_t *memory;
	struct hav_state state;
};

static void long_mode(struct hav_sregs *s)
{
	const struct hav_segment code_segment = { 0, UINT32_MAX, 0x8, 0xa9b };
	const struct hav_segment data_segment = { 0, UINT32_MAX, 0x10, 0xc93 };

	s->cs = code_segment;
	s->ds = s->es = s->fs = s->gs = s->ss = data_segment;
	s->cr0 = CR0_PE | CR0_ET | CR0_PG;
	s->cr3 = PML4;
	s->cr4 = CR4_PAE;
	s->efer = EFER_LME | EFER_LMA;
}

/* Runs to the next port write. */
static int run_to_out(struct bench *b, struct error **err)
{
	struct hav_exit exit;

	do {
		if (hav_vcpu_run(b->vcpu, &exit, err) < 0)
			return -1;
	} while (exit.reason == HAV_EXIT_INTERRUPTED);
	if (exit.reason == HAV_EXIT_IO && exit.io.port == PORT)
		return 0;
	error_set(err, "the calibration guest stopped with exit %s", hav_exit_name(exit.reason));
	return -1;
}

/* The shortest of some tries: what is longer was disturbed by others on the machine. */
static int time_loop(struct bench *b, uint32_t iterations, double *ns, struct error **err)
{
	*ns = INFINITY;
	for (int i = 0; i < TRIES; i++) {
		uint64_t start;

		b->state.regs = (struct hav_regs){ .rip = CODE, .rcx = iterations, .rflags = 2 };
		if (hav_vcpu_set_state(b->vcpu, HAV_STATE_REGS, &b->state, err) < 0)
			return -1;
		start = now_ns();
		if (run_to_out(b, err) < 0)
			return -1;
		*ns = MIN(*ns, (double)(now_ns() - start));
	}
	return 0;
}

static int time_exits(struct bench *b, double *ns, struct error **err)
{
	*ns = INFINITY;
	for (int i = 0; i < EXITS; i++) {
		uint64_t start = now_ns();

		if (run_to_out(b, err) < 0)
			return -1;
		*ns = MIN(*ns, (double)(now_ns() - start));
	}
	return 0;
}

static int measure(struct bench *b, struct hav_speed *speed, struct error **err)
{
	uint32_t iterations = FEW;
	bool fast = false;
	double ns;

	/* The first entry pays for what is set up lazily. */
	if (time_loop(b, 1, &ns, err) < 0 || time_exits(b, &speed->exit_ns, err) < 0)
		return -1;
	for (int i = 0; !fast && i < PATIENCE; i++) {
		if (time_loop(b, iterations, &ns, err) < 0)
			return -1;
		fast = ns <= 10 * HAV_FULL_SPEED_NS * FEW + speed->exit_ns;
	}
	if (fast) {
		iterations = MANY;
		if (time_loop(b, iterations, &ns, err) < 0)
			return -1;
	}
	/* An entry and an exit are in it too; a loop shorter than these would be mere noise. */
	speed->loop_ns = (ns > 2 * speed->exit_ns ? ns - speed->exit_ns : ns) / iterations;
	speed->full_speed = speed->loop_ns <= HAV_FULL_SPEED_NS;
	return 0;
}

static int set_up(struct bench *b, struct hav *hav, struct error **err)
{
	/* KVM's own local APICs spare it the filter of their MSRs, and so a grace period. */
	const struct hav_vm_config config = {
		.irqchip = hav_capability(hav, HAV_CAP_IRQCHIP_SPLIT) ? HAV_IRQCHIP_SPLIT
								      : HAV_IRQCHIP_NONE,
		.max_vcpus = 1,
	};

	b->memory =
		mmap(NULL, MEMORY_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (b->memory == MAP_FAILED) {
		b->memory = NULL;
		error_set_errno(err, errno, "cannot allocate the calibration guest");
		return -1;
	}
	memcpy(b->memory + CODE, code, sizeof(code));
	*(uint64_t *)(b->memory + PML4) = PDPT | PTE_P_RW;
	*(uint64_t *)(b->memory + PDPT) = PD | PTE_P_RW;
	*(uint64_t *)(b->memory + PD) = PTE_P_RW | PTE_PS; /* 2 MiB from 0 */
	if (hav_vm_create(hav, &config, &b->vm, err) < 0 ||
	    hav_vm_map(b->vm, 0, b->memory, MEMORY_SIZE, HAV_MAP_RW, err) < 0 ||
	    hav_vcpu_create(b->vm, 0, &b->vcpu, err) < 0)
		return -1;
	if (hav_vcpu_get_state(b->vcpu, HAV_STATE_REGS | HAV_STATE_SREGS, &b->state, err) < 0)
		return -1;
	long_mode(&b->state.sregs);
	return hav_vcpu_set_state(b->vcpu, HAV_STATE_SREGS, &b->state, err);
}

EXPORT int hav_calibrate(struct hav *hav, struct hav_speed *speed, struct error **err)
{
	struct bench *b = xcalloc(1, sizeof(*b));
	int r = -1;

	if (set_up(b, hav, err) == 0)
		r = measure(b, speed, err);
	hav_vcpu_destroy(b->vcpu);
	hav_vm_destroy(b->vm);
	if (b->memory)
		munmap(b->memory, MEMORY_SIZE);
	free(b);
	if (r < 0)
		error_prefix(err, "cannot calibrate %s: ", hav_backend_name(hav));
	return r;
}
