/*
 * Fuzzes the software backend: random code, tables and registers, at every privilege and in every
 * mode. Whatever the guest does, the process lives, stays within the guest's memory (there is
 * nothing on either side of it) and gets the vCPU back when it kicks it.
 *
 * The input is the guest's memory from address 0 on, with a description before it. Page tables map
 * all of it, user and supervisor pages in turn; interrupts have handlers in the random code; so a
 * fault is as a rule not the end. A thread kicks the vCPU every now and then: that is the end.
 *
 * With clang this is a libFuzzer target. Built by another compiler it makes up inputs itself
 * (-runs=N, -seed=N), instructions more often than not.
 */
#include "base/util.h"
#include "hav.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define RAM       0x40000u
#define PAGE      0x1000u
#define TABLES    0x38000u /* PML4, PDPT, PD, PT */
#define IDT       0x3c000u
#define GDT       0x3d000u
#define TSS       0x3e000u
#define CODE      0x10000u
#define CODE_SIZE 0x3000u

#define CR0       0x80010033u /* PG, WP, NE, ET, MP, PE */
#define CR4       0x306a0u    /* PAE, PGE, OSFXSR, OSXMMEXCPT, FSGSBASE */
#define EFER      0xd01u      /* SCE, LME, LMA, NXE */
#define MAX_EXITS 300

struct input {
	uint8_t mode;  /* bits 0, 1: 64-bit, 32-bit, 16-bit real, 64-bit; bit 2: CPL 3; bits 3,
			  4: kinds */
	uint8_t entry; /* where in the code, by 16 */
	uint8_t flags, spare;
	uint32_t cr0, cr4; /* flipped bits */
	uint64_t gpr[16];
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t *ram;
static struct hav *hav;
static struct machine {
	struct hav_vm *vm;
	struct hav_vcpu *vcpu;
} machines[4]; /* by how they run the code */
static const enum hav_translation kinds[] = { HAV_TRANSLATE, HAV_TRANSLATE_EAGERLY, HAV_INTERPRET,
					      HAV_TRANSLATE_EAGERLY };
static struct hav_vcpu *_Atomic running;
static atomic_bool over;
static pthread_t kicking;

static void *kicker(void *unused)
{
	while (!atomic_load(&over)) {
		struct timespec nap = { .tv_nsec = 300000 };
		struct hav_vcpu *vcpu;

		nanosleep(&nap, NULL);
		vcpu = atomic_load(&running);
		if (vcpu)
			hav_vcpu_kick(vcpu);
	}
	return unused;
}

static void make(struct machine *m, enum hav_translation translation)
{
	const struct hav_vm_config config = { .irqchip = HAV_IRQCHIP_NONE,
					      .translation = translation };
	struct hav_cpuid entries[64];
	size_t n = ARRAY_SIZE(entries);

	if (hav_vm_create(hav, &config, &m->vm, NULL) < 0 ||
	    hav_vm_map(m->vm, 0, ram, RAM, HAV_MAP_RW, NULL) < 0 ||
	    hav_vcpu_create(m->vm, 0, &m->vcpu, NULL) < 0 ||
	    hav_cpuid_supported(hav, entries, &n, NULL) < 0 ||
	    hav_vcpu_set_cpuid(m->vcpu, entries, n, NULL) < 0)
		abort();
}

static void finish(void)
{
	atomic_store(&over, true);
	pthread_join(kicking, NULL);
	for (unsigned i = 0; i < ARRAY_SIZE(machines); i++) {
		hav_vcpu_destroy(machines[i].vcpu);
		hav_vm_destroy(machines[i].vm);
	}
	hav_close(hav);
}

static void prepare(void)
{
	uint8_t *room = mmap(NULL, RAM + 2 * MIB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	ram = room + MIB;
	if (room == MAP_FAILED || mprotect(ram, RAM, PROT_READ | PROT_WRITE) < 0 ||
	    hav_open(&hav, "soft", NULL) < 0)
		abort();
	for (unsigned i = 0; i < ARRAY_SIZE(machines); i++)
		make(&machines[i], kinds[i]);
	if (pthread_create(&kicking, NULL, kicker, NULL) || atexit(finish))
		abort();
}

static void put64(uint32_t at, uint64_t value)
{
	memcpy(ram + at, &value, sizeof(value));
}

/* Tables that make sense, before random bytes may change some of them. */
static void make_tables(void)
{
	static const uint64_t gdt[] = { 0,
					0x00af9b000000ffff,
					0x00cf93000000ffff,
					0x00cffb000000ffff,
					0x00cff3000000ffff,
					0x00affb000000ffff,
					0x00008b0000000067 | (uint64_t)(TSS & 0xffffff) << 16,
					0 };

	memset(ram + TABLES, 0, RAM - TABLES);
	put64(TABLES, (TABLES + PAGE) | 7);
	put64(TABLES + PAGE, (TABLES + 2 * PAGE) | 7);
	put64(TABLES + 2 * PAGE, (TABLES + 3 * PAGE) | 7);
	for (unsigned i = 0; i < RAM / PAGE; i++)
		put64(TABLES + 3 * PAGE + 8 * i,
		      i * PAGE | 3 | (i % 4 != 1 ? 4 : 0) | (i % 8 == 5 ? 0x100 : 0));
	for (unsigned i = 0; i < 256; i++) { /* interrupt gates, DPL 3 */
		uint32_t handler = CODE + i * 32;

		put64(IDT + 16 * i, (handler & 0xffff) | 0x08 << 16 | UINT64_C(0xee00) << 32 |
					    (uint64_t)(handler & 0xffff0000) << 32);
	}
	memcpy(ram + GDT, gdt, sizeof(gdt));
	put64(TSS + 4, 0x20000);
}

static void set_segments(struct hav_sregs *s, const struct input *in)
{
	bool wide = !(in->mode & 1), real = (in->mode & 3) == 2, user = in->mode & 4;
	unsigned dpl = user && !real ? 3 : 0;
	uint16_t attr = real ? 0x93 : 0xc93 | dpl << 5;
	struct hav_segment data = { 0, real ? 0xffff : UINT32_MAX,
				    real  ? 0
				    : dpl ? 0x23
					  : 0x10,
				    attr };

	s->ds = s->es = s->fs = s->gs = s->ss = data;
	s->cs = data;
	s->cs.selector = real ? CODE >> 4 : dpl ? (wide ? 0x2b : 0x1b) : 0x08;
	s->cs.base = real ? CODE : 0;
	s->cs.attr = real ? 0x9b : (wide ? 0xa9b : 0xc9b) | dpl << 5;
}

static void set_state(struct machine *m, const struct input *in)
{
	bool real = (in->mode & 3) == 2;
	static struct hav_state state;

	state = (struct hav_state){ .version = HAV_API_VERSION };
	if (hav_vcpu_get_state(m->vcpu, HAV_STATE_REGS | HAV_STATE_SREGS | HAV_STATE_EVENTS, &state,
			       NULL) < 0)
		abort();
	memset(&state.events, 0, sizeof(state.events));
	memcpy(&state.regs, in->gpr, sizeof(in->gpr));
	state.regs.rip = (real ? 0 : CODE) + in->entry * 16;
	state.regs.rflags = 2 | (in->flags & 0xd5) | (in->flags & 2 ? 0x400 : 0);
	set_segments(&state.sregs, in);
	state.sregs.cr0 = real ? 0x10 : CR0 ^ (in->cr0 & 0x5000e);
	state.sregs.cr4 = real ? 0 : CR4 ^ (in->cr4 & 0x300f98);
	state.sregs.efer = real ? 0 : EFER;
	state.sregs.cr3 = TABLES;
	state.sregs.idt = (struct hav_table){ IDT, 0xfff };
	state.sregs.gdt = (struct hav_table){ GDT, 63 };
	state.sregs.tr = (struct hav_segment){ TSS, 0x67, 0x30, 0x8b };
	/* A state that no processor can be in may be refused. */
	hav_vcpu_set_state(m->vcpu, HAV_STATE_REGS | HAV_STATE_SREGS | HAV_STATE_EVENTS, &state,
			   NULL);
}

/* Answers one exit; false: that was the end. */
static bool answer(struct hav_exit *exit, uint8_t byte)
{
	switch (exit->reason) {
	case HAV_EXIT_IO:
		if (!exit->io.write)
			memset(exit->io.data, byte, exit->io.size * exit->io.count);
		return true;
	case HAV_EXIT_MMIO:
		if (!exit->mmio.write)
			memset(exit->mmio.data, byte, exit->mmio.size);
		return true;
	case HAV_EXIT_MSR:
		if (!exit->msr.write)
			*exit->msr.value = byte;
		*exit->msr.fault = byte & 1;
		return true;
	case HAV_EXIT_HYPERCALL: *exit->hypercall.ret = byte; return true;
	case HAV_EXIT_TPR:
	case HAV_EXIT_IRQ_WINDOW:
	case HAV_EXIT_HLT: return true;
	default: return false;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct hav_exit exit;
	struct machine *m;
	struct input in;

	if (!ram)
		prepare();
	if (size < sizeof(in))
		return 0;
	memcpy(&in, data, sizeof(in));
	m = &machines[in.mode >> 3 & 3];
	memset(ram, 0, TABLES);
	make_tables();
	memcpy(ram + CODE, data + sizeof(in), MIN(size - sizeof(in), RAM - CODE));
	for (unsigned i = 0; i < ARRAY_SIZE(machines); i++)
		hav_vm_memory_written(machines[i].vm, 0, RAM);
	set_state(m, &in);
	atomic_store(&running, m->vcpu);
	for (unsigned i = 0; i < MAX_EXITS; i++)
		if (hav_vcpu_run(m->vcpu, &exit, NULL) < 0 || !answer(&exit, data[i % size]))
			break;
	atomic_store(&running, NULL);
	return 0;
}

#ifndef __clang__
static uint64_t state = 1;

static unsigned pick(unsigned n)
{
	state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (unsigned)(state >> 33) % n;
}

/* Prefixes, an opcode, operands: often an instruction. */
static unsigned random_instruction(uint8_t *at)
{
	static const uint8_t prefixes[] = { 0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x64, 0x65 };
	uint8_t *start = at;

	while (!pick(4))
		*at++ = prefixes[pick(sizeof(prefixes))];
	if (pick(2))
		*at++ = 0x40 | pick(16);
	if (!pick(3))
		*at++ = 0x0f;
	*at++ = pick(256);
	*at++ = pick(256);
	while (pick(3))
		*at++ = pick(4) ? pick(256) : 0;
	return at - start;
}

static size_t random_input(uint8_t *buf)
{
	struct input in = { .mode = pick(16), .entry = pick(64), .flags = pick(256) };
	uint8_t *code = buf + sizeof(in);
	unsigned n = 0;

	if (!pick(4))
		in.cr0 = pick(1u << 30);
	if (!pick(4))
		in.cr4 = pick(1u << 30);
	for (unsigned i = 0; i < 16; i++)
		in.gpr[i] = pick(8) ? pick(RAM + 0x100) : (uint64_t)pick(1u << 31) << pick(34);
	memcpy(buf, &in, sizeof(in));
	while (n < CODE_SIZE)
		n += random_instruction(code + n);
	return sizeof(in) + n;
}

int main(int argc, char **argv)
{
	static uint8_t buf[sizeof(struct input) + CODE_SIZE + 256];
	unsigned long runs = 20000;

	for (int i = 1; i < argc; i++)
		if (sscanf(argv[i], "-runs=%lu", &runs) != 1 &&
		    sscanf(argv[i], "-seed=%lu", &state) != 1)
			return 2;
	while (runs--)
		LLVMFuzzerTestOneInput(buf, random_input(buf));
	return 0;
}
#endif
