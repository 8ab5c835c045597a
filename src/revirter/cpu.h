/* What -cpu and -smp make of the CPUID leaves a backend can give. */
#ifndef REVIRT_REVIRTER_CPU_H
#define REVIRT_REVIRTER_CPU_H

#include "revirter/description.h"

struct hav;
struct hav_cpuid;
struct hav_vm_config;

#define CPU_MAX_LEAVES 256

/*
 * Fills entries[0..*n) (room for CPU_MAX_LEAVES). Features asked for that the backend lacks are
 * logged, or with enforce are an error.
 * What the VM's configuration makes of the backend is seen to.
 */
int cpu_build(struct hav *hav, const struct hav_vm_config *vm, const struct cpu_config *config,
	      struct hav_cpuid *entries, size_t *n, struct error **err);

#endif
