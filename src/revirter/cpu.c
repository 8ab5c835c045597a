/*
 * The guest's CPUID: the leaves the backend can give, each turned by the CPU model into what the
 * guest sees (x86/cpuid_features.h), with the levels of the topology leaf that the vCPUs will fill.
 */
#include "revirter/cpu.h"

#include "base/error.h"
#include "base/log.h"
#include "base/util.h"
#include "hav.h"
#include "x86/cpuid.h"

#define LEAF_TOPOLOGY   0xb
#define TOPOLOGY_LEVELS 3 /* threads, cores, and the end */

static uint32_t word_of(const struct hav_cpuid *e, enum cpu_reg reg)
{
	const uint32_t regs[] = { e->eax, e->ebx, e->ecx, e->edx };

	return regs[reg];
}

static void supported_words(struct hav_cpuid *entries, size_t n, uint32_t words[CPU_WORDS])
{
	for (unsigned w = 0; w < CPU_WORDS; w++) {
		const struct cpu_word_info *info = &cpu_words[w];
		struct hav_cpuid *e = cpuid_find(entries, n, info->leaf, info->subleaf);

		words[w] = e ? word_of(e, info->reg) : 0;
	}
}

static int check_missing(const struct cpu_config *config, struct hav_cpuid *entries, size_t n,
			 struct error **err)
{
	uint32_t words[CPU_WORDS];
	const struct cpu_feature *missing;
	size_t cursor = 0;

	supported_words(entries, n, words);
	while ((missing = cpu_config_missing(config, words, &cursor))) {
		if (config->enforce) {
			error_set(err,
				  "-cpu: this host cannot give the guest '%s', and enforce is on",
				  missing->name);
			return -1;
		}
		if (config->check)
			log_warn("-cpu: this host cannot give the guest '%s'", missing->name);
	}
	return 0;
}

/* Level n of leaf 0xb must exist for vcpus_create() to fill it in. */
static void add_topology_levels(struct hav_cpuid *entries, size_t *n)
{
	if (!cpuid_find(entries, *n, LEAF_TOPOLOGY, 0))
		return;
	for (uint32_t level = 0; level < TOPOLOGY_LEVELS; level++) {
		struct hav_cpuid *e = cpuid_find(entries, *n, LEAF_TOPOLOGY, level);

		if ((!e || !e->has_subleaves) && *n < CPU_MAX_LEAVES)
			entries[(*n)++] = (struct hav_cpuid){ .leaf = LEAF_TOPOLOGY,
							      .subleaf = level,
							      .has_subleaves = true };
	}
}

/* Bits of cpu_words[CPU_KVM_EAX] (Linux: Documentation/virt/kvm/x86/cpuid.rst). */
#define KVM_CLOCKS         (BIT(0) | BIT(3) | BIT(24))
#define KVM_WITHOUT_LAPICS (KVM_CLOCKS | BIT(1) | BIT(5) | BIT(9)) /* and no more */
#define KVM_LEAF           0x40000001
#define FEATURE_X2APIC     BIT(21) /* 1 ECX */
#define FEATURE_DEADLINE   BIT(24)

static void set_if(uint32_t *word, uint32_t bits, bool on)
{
	*word = on ? *word | bits : *word & ~bits;
}

/* With local APICs of ours, what they can do; and nothing that the backend does with its own. */
static void fit_to_vm(struct hav *hav, const struct hav_vm_config *vm, struct hav_cpuid *entries,
		      size_t n)
{
	struct hav_cpuid *basic = cpuid_find(entries, n, 1, 0);
	struct hav_cpuid *kvm = cpuid_find(entries, n, KVM_LEAF, 0);

	if (basic && vm->irqchip == HAV_IRQCHIP_NONE) {
		set_if(&basic->ecx, FEATURE_X2APIC, hav_capability(hav, HAV_CAP_APIC_MSR_EXITS));
		set_if(&basic->ecx, FEATURE_DEADLINE,
		       hav_capability(hav, HAV_CAP_TSC_DEADLINE_EXITS));
	}
	if (kvm && vm->irqchip == HAV_IRQCHIP_NONE)
		kvm->eax &= KVM_WITHOUT_LAPICS;
	if (kvm && (vm->plain || !hav_capability(hav, HAV_CAP_CLOCK)))
		kvm->eax &= ~KVM_CLOCKS;
}

int cpu_build(struct hav *hav, const struct hav_vm_config *vm, const struct cpu_config *config,
	      struct hav_cpuid *entries, size_t *n, struct error **err)
{
	struct cpu_config fitted = *config;
	size_t kept = 0;

	*n = CPU_MAX_LEAVES;
	if (hav_cpuid_supported(hav, entries, n, err) < 0)
		return -1;
	fit_to_vm(hav, vm, entries, *n);
	/* Without a paravirtual clock Linux needs to know that the TSC runs evenly. */
	if (!cpuid_find(entries, *n, KVM_LEAF, 0))
		fitted.migratable = false;
	if (check_missing(config, entries, *n, err) < 0)
		return -1;
	for (size_t i = 0; i < *n; i++) {
		struct hav_cpuid *e = &entries[i];
		uint32_t regs[4] = { e->eax, e->ebx, e->ecx, e->edx };

		if (!cpu_config_apply(&fitted, e->leaf, e->subleaf, regs))
			continue;
		entries[kept] = *e;
		entries[kept].eax = regs[0];
		entries[kept].ebx = regs[1];
		entries[kept].ecx = regs[2];
		entries[kept].edx = regs[3];
		kept++;
	}
	*n = kept;
	add_topology_levels(entries, n);
	return 0;
}
