/*
 * CPU features by the names people know ("avx2", "invtsc"), CPU models, and what both make of the
 * CPUID leaves a guest sees.
 *
 * Pure functions and tables: nothing here executes CPUID. The caller brings the leaves a backend
 * can give and passes each through cpu_config_apply().
 */
#ifndef REVIRT_X86_CPUID_FEATURES_H
#define REVIRT_X86_CPUID_FEATURES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Registers of CPUID that hold one feature a bit (Intel SDM vol. 2 CPUID; APM vol. 3 app. E). */
enum cpu_word {
	CPU_1_EDX,
	CPU_1_ECX,
	CPU_6_EAX,
	CPU_7_0_EBX,
	CPU_7_0_ECX,
	CPU_7_0_EDX,
	CPU_7_1_EAX,
	CPU_D_1_EAX,
	CPU_80000001_EDX,
	CPU_80000001_ECX,
	CPU_80000007_EDX,
	CPU_80000008_EBX,
	CPU_8000000A_EDX,
	CPU_KVM_EAX, /* leaf 0x40000001: KVM's paravirtual features */
	CPU_WORDS,
};

enum cpu_reg { CPU_EAX, CPU_EBX, CPU_ECX, CPU_EDX };

struct cpu_word_info {
	uint32_t leaf, subleaf;
	enum cpu_reg reg;
};
extern const struct cpu_word_info cpu_words[CPU_WORDS];

struct cpu_feature {
	const char *name; /* QEMU's: "sse4.1" */
	enum cpu_word word;
	uint8_t bit;
};
extern const struct cpu_feature cpu_features[]; /* ends with an entry without a name */

/* '_' in a name stands for '-' or '.' ("sse4_1"); NULL when there is none. */
const struct cpu_feature *cpu_feature_find(const char *name);

struct cpu_model {
	const char *name, *desc;
	bool host;                 /* all the backend can give; the rest is not used then */
	char vendor[13];           /* CPUID 0: "AuthenticAMD" */
	uint32_t signature;        /* CPUID 1 EAX */
	uint32_t level, xlevel;    /* highest basic and extended leaf */
	uint32_t words[CPU_WORDS]; /* features, KVM's excepted: those are always all */
	const char *model_id;      /* 0x80000002..4 */
};
extern const struct cpu_model cpu_models[]; /* ends with an entry without a name */
const struct cpu_model *cpu_model_find(const char *name);

/* What -cpu asked for. */
struct cpu_config {
	const struct cpu_model *model;
	uint32_t on[CPU_WORDS], off[CPU_WORDS]; /* never the same bit in both */
	bool kvm;                               /* kvm=off hides the leaves at 0x40000000 */
	bool pmu;                               /* pmu=off clears leaf 0xa */
	bool migratable; /* with host: leave out what ties a guest to this machine (invtsc) */
	bool check;      /* say which features asked for are not there */
	bool enforce;    /* refuse to start without them */
};

/*
 * Turns every bit of that name (kvmclock has two) on or off; false: there is no such feature. The
 * last call for a name counts.
 */
bool cpu_config_feature(struct cpu_config *config, const char *name, bool on);

/* Turns a leaf the backend can give into what the guest sees; regs is eax, ebx, ecx, edx. False:
 * the guest does not get this leaf. */
bool cpu_config_apply(const struct cpu_config *config, uint32_t leaf, uint32_t subleaf,
		      uint32_t regs[4]);

/*
 * The next feature config asks for (by name, or as part of its model) that `supported`, the
 * registers of the backend, lacks; *cursor starts at 0. NULL: no more.
 */
const struct cpu_feature *cpu_config_missing(const struct cpu_config *config,
					     const uint32_t supported[CPU_WORDS], size_t *cursor);

#endif
