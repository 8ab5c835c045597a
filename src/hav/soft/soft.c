/* Software backend: the table of calls, CPUID, how fast time runs. See soft.h. */
#include "hav/soft/soft.h"

#include "base/error.h"
#include "base/util.h"

#include <cpuid.h>
#include <errno.h>
#include <time.h>
#include <x86intrin.h>

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * UINT64_C(1000000000) + ts.tv_nsec;
}

/* The TSC and the clock at one moment: of some tries the one that nothing came between. */
static void tsc_and_clock(uint64_t *tsc, uint64_t *ns)
{
	uint64_t narrowest = UINT64_MAX;

	for (int i = 0; i < 8; i++) {
		uint64_t before = __rdtsc(), clock = now_ns(), width = __rdtsc() - before;

		if (width < narrowest) {
			narrowest = width;
			*tsc = before + width / 2;
			*ns = clock;
		}
	}
}

/* The TSC against the clock. Both ends are some 20 ns exact, so that 2 ms give 20 ppm. */
static uint64_t measure_tsc_khz(void)
{
	uint64_t t0, c0, t1, c1;

	tsc_and_clock(&c0, &t0);
	do
		tsc_and_clock(&c1, &t1);
	while (t1 - t0 < 2000000);
	return (c1 - c0) * 1000000 / (t1 - t0);
}

static int soft_open(struct hav **out, struct error **err)
{
	struct soft_hav *hav = xcalloc(1, sizeof(*hav));

	hav->hav.ops = &hav_backend_soft;
	hav->tsc_khz = measure_tsc_khz();
	soft_native_init();
	*out = &hav->hav;
	return 0;
}

static void soft_close(struct hav *hav)
{
	free(container_of(hav, struct soft_hav, hav));
}

/*
 * The VM's clock is the first vCPU's time-stamp counter, in nanoseconds; setting it moves those of
 * all vCPUs alike. None runs meanwhile.
 */
static int first_vcpu(struct soft_vm *vm, struct soft_vcpu **first, struct error **err)
{
	*first = atomic_load(&vm->vcpus[0]);
	if (*first)
		return 0;
	error_set(err, "there is no clock without vCPU 0");
	errno = ENOENT;
	return -1;
}

static int soft_get_clock(struct hav_vm *hvm, uint64_t *ns, struct error **err)
{
	struct soft_vm *vm = container_of(hvm, struct soft_vm, vm);
	struct soft_vcpu *first;

	if (first_vcpu(vm, &first, err) < 0)
		return -1;
	*ns = (unsigned __int128)soft_tsc(first) * 1000000 / vm->tsc_khz;
	return 0;
}

static int soft_set_clock(struct hav_vm *hvm, uint64_t ns, struct error **err)
{
	struct soft_vm *vm = container_of(hvm, struct soft_vm, vm);
	struct soft_vcpu *first;
	uint64_t shift;

	if (first_vcpu(vm, &first, err) < 0)
		return -1;
	shift = (uint64_t)((unsigned __int128)ns * vm->tsc_khz / 1000000) - soft_tsc(first);
	for (size_t i = 0; i < ARRAY_SIZE(vm->vcpus); i++) {
		struct soft_vcpu *cpu = atomic_load(&vm->vcpus[i]);

		if (cpu)
			cpu->tsc_offset += shift;
	}
	atomic_fetch_add(&vm->tsc_offset, shift);
	return 0;
}

static unsigned soft_capability(const struct hav *hav, enum hav_cap cap)
{
	switch (cap) {
	case HAV_CAP_MAX_VCPUS: return 64;
	case HAV_CAP_MAX_SLOTS: return SOFT_MAX_SLOTS;
	case HAV_CAP_CLOCK:
	case HAV_CAP_APIC_MSR_EXITS:
	case HAV_CAP_TSC_DEADLINE_EXITS: return 1;
	default: return 0;
	}
}

/* --- CPUID: the host's, less what the backend does not do ---- */

#define BITS_1_EDX                                                                                 \
	(BIT(0) | BIT(2) | BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(8) | BIT(9) | BIT(11) |         \
	 BIT(12) | BIT(13) | BIT(15) | BIT(16) | BIT(17) | BIT(19) | BIT(23) | BIT(24) | BIT(25) | \
	 BIT(26) | BIT(28))
/* SSE3, PCLMUL, SSSE3, CX16, SSE4.1, SSE4.2, x2APIC, MOVBE, POPCNT, TSC deadline, AES, RDRAND */
#define BITS_1_ECX                                                                              \
	(BIT(0) | BIT(1) | BIT(9) | BIT(13) | BIT(19) | BIT(20) | BIT(21) | BIT(22) | BIT(23) | \
	 BIT(24) | BIT(25) | BIT(30))
/* not the host's to have: our own doing, whatever it can */
#define OWN_1_ECX (BIT(21) | BIT(24) | BIT(31))
/* FSGSBASE, TSC_ADJUST, BMI1, SMEP, BMI2, ERMS, RDSEED, ADX, SMAP, CLFLUSHOPT, CLWB, SHA */
#define BITS_7_EBX                                                                           \
	(BIT(0) | BIT(1) | BIT(3) | BIT(7) | BIT(8) | BIT(9) | BIT(18) | BIT(19) | BIT(20) | \
	 BIT(23) | BIT(24) | BIT(29))
#define OWN_7_EBX  (BIT(0) | BIT(1) | BIT(7) | BIT(20))
#define BITS_7_ECX BIT(2) /* UMIP */
/* LAHF, CR8, LZCNT, misaligned SSE (AMD), PREFETCHW */
#define BITS_8_1_ECX (BIT(0) | BIT(4) | BIT(5) | BIT(7) | BIT(8))
/* those of leaf 1, and SYSCALL, NX, 1 GiB pages, RDTSCP, long mode */
#define BITS_8_1_EDX (0x0183f3ffu | BIT(11) | BIT(20) | BIT(26) | BIT(27) | BIT(29))

struct list {
	struct hav_cpuid *entries;
	size_t n, room;
};

static struct hav_cpuid *add(struct list *list, uint32_t leaf, uint32_t subleaf, bool has_subleaves)
{
	static struct hav_cpuid nowhere;
	struct hav_cpuid *e = list->n < list->room ? &list->entries[list->n] : &nowhere;

	list->n++;
	*e = (struct hav_cpuid){ .leaf = leaf, .subleaf = subleaf, .has_subleaves = has_subleaves };
	__cpuid_count(leaf, subleaf, e->eax, e->ebx, e->ecx, e->edx);
	return e;
}

int soft_cpuid_supported(struct hav *hav, struct hav_cpuid *entries, size_t *n, struct error **err)
{
	struct list list = { .entries = entries, .room = *n };
	struct hav_cpuid *e;

	e = add(&list, 0, 0, false);
	e->eax = 7;
	e = add(&list, 1, 0, false);
	e->ebx = (e->ebx & 0x0000ff00) | 1u << 16;
	e->ecx = (e->ecx & BITS_1_ECX) | OWN_1_ECX;
	e->edx &= BITS_1_EDX;
	e = add(&list, 7, 0, true);
	e->eax = 0;
	e->ebx = (e->ebx & BITS_7_EBX) | OWN_7_EBX;
	e->ecx = BITS_7_ECX;
	e->edx = 0;
	e = add(&list, 0x80000000, 0, false);
	e->eax = 0x80000008;
	e = add(&list, 0x80000001, 0, false);
	e->ebx = 0;
	e->ecx = (e->ecx & BITS_8_1_ECX) | BIT(4);
	e->edx &= BITS_8_1_EDX;
	for (uint32_t leaf = 0x80000002; leaf <= 0x80000006; leaf++)
		add(&list, leaf, 0, false);
	e = add(&list, 0x80000007, 0, false);
	e->eax = e->ebx = e->ecx = 0;
	e->edx = BIT(8); /* the TSC runs evenly */
	e = add(&list, 0x80000008, 0, false);
	e->eax = 48 << 8 | SOFT_PHYS_BITS;
	e->ebx = e->ecx = e->edx = 0;
	if (list.n > *n) {
		*n = list.n;
		error_set(err, "no room for %zu CPUID leaves", list.n);
		errno = E2BIG;
		return -1;
	}
	*n = list.n;
	return 0;
}

const struct hav_backend hav_backend_soft = {
	.name = "soft",
	.open = soft_open,
	.close = soft_close,
	.capability = soft_capability,
	.cpuid_supported = soft_cpuid_supported,
	.vm_create = soft_vm_create,
	.vm_destroy = soft_vm_destroy,
	.vm_map = soft_vm_map,
	.vm_unmap = soft_vm_unmap,
	.memory_written = soft_memory_written,
	.get_clock = soft_get_clock,
	.set_clock = soft_set_clock,
	.vcpu_create = soft_vcpu_create,
	.vcpu_destroy = soft_vcpu_destroy,
	.set_cpuid = soft_set_cpuid,
	.run = soft_run,
	.kick = soft_kick,
	.interrupt = soft_interrupt,
	.interruptible = soft_interruptible,
	.want_irq_window = soft_want_irq_window,
	.nmi = soft_nmi,
	.get_cr8 = soft_get_cr8,
	.set_cr8 = soft_set_cr8,
	.tsc_khz = soft_vcpu_tsc_khz,
	.code_cache = soft_jit_code_cache,
	.tsc = soft_vcpu_tsc,
	.set_debug = soft_set_debug,
	.get_state = soft_get_state,
	.set_state = soft_set_state,
};
