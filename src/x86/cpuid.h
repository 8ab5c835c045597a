/*
 * CPUID as data (Intel SDM vol. 2, CPUID; AMD APM vol. 3 appendix E): look-up in a list of leaves,
 * and the parts of it that say how many processors there are and which one this is.
 */
#ifndef REVIRT_X86_CPUID_H
#define REVIRT_X86_CPUID_H

#include "hav.h"

/* cores per socket, threads per core. */
struct cpu_topology {
	unsigned sockets, cores, threads;
};

/* The entry of a leaf, and subleaf where it has some; NULL when there is none. */
struct hav_cpuid *cpuid_find(struct hav_cpuid *entries, size_t n, uint32_t leaf, uint32_t subleaf);

/* APIC ids hold thread, core and socket in bit fields, each as wide as it must be. */
uint32_t cpuid_apic_id(const struct cpu_topology *topology, unsigned index);

/* Makes the leaves tell this topology and this processor's APIC id. */
void cpuid_set_topology(struct hav_cpuid *entries, size_t n, const struct cpu_topology *topology,
			uint32_t apic_id);

#endif
