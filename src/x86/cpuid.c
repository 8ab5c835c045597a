/* CPUID look-up and topology: see cpuid.h. */
#include "x86/cpuid.h"

#define LEAF_FEATURES     0x1
#define LEAF_CACHE        0x4
#define LEAF_TOPOLOGY     0xb
#define LEAF_TOPOLOGY_V2  0x1f
#define LEAF_AMD_FEATURES 0x80000001
#define LEAF_AMD_CORES    0x80000008
#define LEAF_AMD_CACHE    0x8000001d
#define LEAF_AMD_TOPOLOGY 0x8000001e
#define FEATURE_HTT       (1u << 28) /* leaf 1 EDX */
#define AMD_CMP_LEGACY    (1u << 1)  /* leaf 0x80000001 ECX */
#define LEVEL_TYPE_SMT    (1u << 8)  /* leaf 0xb ECX */
#define LEVEL_TYPE_CORE   (2u << 8)

struct hav_cpuid *cpuid_find(struct hav_cpuid *entries, size_t n, uint32_t leaf, uint32_t subleaf)
{
	for (size_t i = 0; i < n; i++)
		if (entries[i].leaf == leaf &&
		    (!entries[i].has_subleaves || entries[i].subleaf == subleaf))
			return &entries[i];
	return NULL;
}

/* Bits needed for ids 0 to count - 1. */
static unsigned width(unsigned count)
{
	unsigned bits = 0;

	while ((1u << bits) < count)
		bits++;
	return bits;
}

uint32_t cpuid_apic_id(const struct cpu_topology *t, unsigned index)
{
	unsigned thread = index % t->threads;
	unsigned core = index / t->threads % t->cores;
	unsigned socket = index / t->threads / t->cores;
	unsigned thread_bits = width(t->threads), core_bits = width(t->cores);

	return socket << (core_bits + thread_bits) | core << thread_bits | thread;
}

static void set_basic(struct hav_cpuid *e, unsigned per_socket, uint32_t apic_id)
{
	e->ebx = (e->ebx & 0xffff) | (per_socket > 255 ? 255 : per_socket) << 16 | apic_id << 24;
	if (per_socket > 1)
		e->edx |= FEATURE_HTT;
	else
		e->edx &= ~FEATURE_HTT;
}

/* How many ids share a cache: a level-3 cache serves the socket, the others a core. */
static void set_cache(struct hav_cpuid *e, const struct cpu_topology *t, bool intel)
{
	unsigned level = e->eax >> 5 & 7;
	unsigned bits = width(t->threads) + (level >= 3 ? width(t->cores) : 0);

	if (!(e->eax & 0x1f))
		return;
	e->eax = (e->eax & (intel ? 0x3fff : 0xfc003fff)) | ((1u << bits) - 1) << 14;
	if (intel)
		e->eax |= ((1u << width(t->cores)) - 1) << 26;
}

static void set_level(struct hav_cpuid *e, const struct cpu_topology *t, uint32_t apic_id)
{
	unsigned thread_bits = width(t->threads), package_bits = thread_bits + width(t->cores);

	e->eax = e->ebx = 0;
	e->ecx = e->subleaf;
	e->edx = apic_id;
	if (e->subleaf == 0) {
		e->eax = thread_bits;
		e->ebx = t->threads;
		e->ecx |= LEVEL_TYPE_SMT;
	} else if (e->subleaf == 1) {
		e->eax = package_bits;
		e->ebx = t->threads * t->cores;
		e->ecx |= LEVEL_TYPE_CORE;
	}
}

static void set_amd_topology(struct hav_cpuid *e, const struct cpu_topology *t, uint32_t apic_id)
{
	unsigned thread_bits = width(t->threads), core_bits = width(t->cores);

	e->eax = apic_id;
	e->ebx = (apic_id >> thread_bits & ((1u << core_bits) - 1)) | (t->threads - 1) << 8;
	e->ecx = apic_id >> (thread_bits + core_bits) & 0xff; /* a node a socket */
	e->edx = 0;
}

void cpuid_set_topology(struct hav_cpuid *entries, size_t n, const struct cpu_topology *t,
			uint32_t apic_id)
{
	unsigned per_socket = t->cores * t->threads;
	unsigned package_bits = width(t->threads) + width(t->cores);

	for (size_t i = 0; i < n; i++) {
		struct hav_cpuid *e = &entries[i];

		switch (e->leaf) {
		case LEAF_FEATURES: set_basic(e, per_socket, apic_id); break;
		case LEAF_CACHE: set_cache(e, t, true); break;
		case LEAF_TOPOLOGY:
		case LEAF_TOPOLOGY_V2: set_level(e, t, apic_id); break;
		case LEAF_AMD_FEATURES:
			e->ecx = per_socket > 1 ? e->ecx | AMD_CMP_LEGACY
						: e->ecx & ~AMD_CMP_LEGACY;
			break;
		case LEAF_AMD_CORES:
			e->ecx = (e->ecx & ~0xf0ffu) | package_bits << 12 | (per_socket - 1);
			break;
		case LEAF_AMD_CACHE: set_cache(e, t, false); break;
		case LEAF_AMD_TOPOLOGY: set_amd_topology(e, t, apic_id); break;
		}
	}
}
