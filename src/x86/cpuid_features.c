/*
 * CPU features and models as tables: see cpuid_features.h.
 *
 * Names are those QEMU's -cpu takes, bits those of Intel SDM vol. 2 (CPUID), APM vol. 3 appendix E
 * and, for leaf 0x40000001, the kernel's Documentation/virt/kvm/x86/cpuid.rst.
 */
#include "x86/cpuid_features.h"

const struct cpu_word_info cpu_words[CPU_WORDS] = {
	[CPU_1_EDX] = { 1, 0, CPU_EDX },
	[CPU_1_ECX] = { 1, 0, CPU_ECX },
	[CPU_6_EAX] = { 6, 0, CPU_EAX },
	[CPU_7_0_EBX] = { 7, 0, CPU_EBX },
	[CPU_7_0_ECX] = { 7, 0, CPU_ECX },
	[CPU_7_0_EDX] = { 7, 0, CPU_EDX },
	[CPU_7_1_EAX] = { 7, 1, CPU_EAX },
	[CPU_D_1_EAX] = { 0xd, 1, CPU_EAX },
	[CPU_80000001_EDX] = { 0x80000001, 0, CPU_EDX },
	[CPU_80000001_ECX] = { 0x80000001, 0, CPU_ECX },
	[CPU_80000007_EDX] = { 0x80000007, 0, CPU_EDX },
	[CPU_80000008_EBX] = { 0x80000008, 0, CPU_EBX },
	[CPU_8000000A_EDX] = { 0x8000000a, 0, CPU_EDX },
	[CPU_KVM_EAX] = { 0x40000001, 0, CPU_EAX },
};

/* kvmclock is two bits: the older and the newer pair of MSRs. */
const struct cpu_feature cpu_features[] = {
	{ "fpu", CPU_1_EDX, 0 },
	{ "vme", CPU_1_EDX, 1 },
	{ "de", CPU_1_EDX, 2 },
	{ "pse", CPU_1_EDX, 3 },
	{ "tsc", CPU_1_EDX, 4 },
	{ "msr", CPU_1_EDX, 5 },
	{ "pae", CPU_1_EDX, 6 },
	{ "mce", CPU_1_EDX, 7 },
	{ "cx8", CPU_1_EDX, 8 },
	{ "apic", CPU_1_EDX, 9 },
	{ "sep", CPU_1_EDX, 11 },
	{ "mtrr", CPU_1_EDX, 12 },
	{ "pge", CPU_1_EDX, 13 },
	{ "mca", CPU_1_EDX, 14 },
	{ "cmov", CPU_1_EDX, 15 },
	{ "pat", CPU_1_EDX, 16 },
	{ "pse36", CPU_1_EDX, 17 },
	{ "pn", CPU_1_EDX, 18 },
	{ "clflush", CPU_1_EDX, 19 },
	{ "ds", CPU_1_EDX, 21 },
	{ "acpi", CPU_1_EDX, 22 },
	{ "mmx", CPU_1_EDX, 23 },
	{ "fxsr", CPU_1_EDX, 24 },
	{ "sse", CPU_1_EDX, 25 },
	{ "sse2", CPU_1_EDX, 26 },
	{ "ss", CPU_1_EDX, 27 },
	{ "ht", CPU_1_EDX, 28 },
	{ "tm", CPU_1_EDX, 29 },
	{ "ia64", CPU_1_EDX, 30 },
	{ "pbe", CPU_1_EDX, 31 },
	{ "pni", CPU_1_ECX, 0 },
	{ "pclmulqdq", CPU_1_ECX, 1 },
	{ "dtes64", CPU_1_ECX, 2 },
	{ "monitor", CPU_1_ECX, 3 },
	{ "ds-cpl", CPU_1_ECX, 4 },
	{ "vmx", CPU_1_ECX, 5 },
	{ "smx", CPU_1_ECX, 6 },
	{ "est", CPU_1_ECX, 7 },
	{ "tm2", CPU_1_ECX, 8 },
	{ "ssse3", CPU_1_ECX, 9 },
	{ "cid", CPU_1_ECX, 10 },
	{ "fma", CPU_1_ECX, 12 },
	{ "cx16", CPU_1_ECX, 13 },
	{ "xtpr", CPU_1_ECX, 14 },
	{ "pdcm", CPU_1_ECX, 15 },
	{ "pcid", CPU_1_ECX, 17 },
	{ "dca", CPU_1_ECX, 18 },
	{ "sse4.1", CPU_1_ECX, 19 },
	{ "sse4.2", CPU_1_ECX, 20 },
	{ "x2apic", CPU_1_ECX, 21 },
	{ "movbe", CPU_1_ECX, 22 },
	{ "popcnt", CPU_1_ECX, 23 },
	{ "tsc-deadline", CPU_1_ECX, 24 },
	{ "aes", CPU_1_ECX, 25 },
	{ "xsave", CPU_1_ECX, 26 },
	{ "avx", CPU_1_ECX, 28 },
	{ "f16c", CPU_1_ECX, 29 },
	{ "rdrand", CPU_1_ECX, 30 },
	{ "hypervisor", CPU_1_ECX, 31 },
	{ "arat", CPU_6_EAX, 2 },
	{ "fsgsbase", CPU_7_0_EBX, 0 },
	{ "tsc-adjust", CPU_7_0_EBX, 1 },
	{ "sgx", CPU_7_0_EBX, 2 },
	{ "bmi1", CPU_7_0_EBX, 3 },
	{ "hle", CPU_7_0_EBX, 4 },
	{ "avx2", CPU_7_0_EBX, 5 },
	{ "smep", CPU_7_0_EBX, 7 },
	{ "bmi2", CPU_7_0_EBX, 8 },
	{ "erms", CPU_7_0_EBX, 9 },
	{ "invpcid", CPU_7_0_EBX, 10 },
	{ "rtm", CPU_7_0_EBX, 11 },
	{ "mpx", CPU_7_0_EBX, 14 },
	{ "avx512f", CPU_7_0_EBX, 16 },
	{ "avx512dq", CPU_7_0_EBX, 17 },
	{ "rdseed", CPU_7_0_EBX, 18 },
	{ "adx", CPU_7_0_EBX, 19 },
	{ "smap", CPU_7_0_EBX, 20 },
	{ "avx512ifma", CPU_7_0_EBX, 21 },
	{ "pcommit", CPU_7_0_EBX, 22 },
	{ "clflushopt", CPU_7_0_EBX, 23 },
	{ "clwb", CPU_7_0_EBX, 24 },
	{ "intel-pt", CPU_7_0_EBX, 25 },
	{ "avx512pf", CPU_7_0_EBX, 26 },
	{ "avx512er", CPU_7_0_EBX, 27 },
	{ "avx512cd", CPU_7_0_EBX, 28 },
	{ "sha-ni", CPU_7_0_EBX, 29 },
	{ "avx512bw", CPU_7_0_EBX, 30 },
	{ "avx512vl", CPU_7_0_EBX, 31 },
	{ "avx512vbmi", CPU_7_0_ECX, 1 },
	{ "umip", CPU_7_0_ECX, 2 },
	{ "pku", CPU_7_0_ECX, 3 },
	{ "waitpkg", CPU_7_0_ECX, 5 },
	{ "avx512vbmi2", CPU_7_0_ECX, 6 },
	{ "gfni", CPU_7_0_ECX, 8 },
	{ "vaes", CPU_7_0_ECX, 9 },
	{ "vpclmulqdq", CPU_7_0_ECX, 10 },
	{ "avx512vnni", CPU_7_0_ECX, 11 },
	{ "avx512bitalg", CPU_7_0_ECX, 12 },
	{ "avx512-vpopcntdq", CPU_7_0_ECX, 14 },
	{ "la57", CPU_7_0_ECX, 16 },
	{ "rdpid", CPU_7_0_ECX, 22 },
	{ "bus-lock-detect", CPU_7_0_ECX, 24 },
	{ "cldemote", CPU_7_0_ECX, 25 },
	{ "movdiri", CPU_7_0_ECX, 27 },
	{ "movdir64b", CPU_7_0_ECX, 28 },
	{ "sgxlc", CPU_7_0_ECX, 30 },
	{ "pks", CPU_7_0_ECX, 31 },
	{ "avx512-4vnniw", CPU_7_0_EDX, 2 },
	{ "avx512-4fmaps", CPU_7_0_EDX, 3 },
	{ "fsrm", CPU_7_0_EDX, 4 },
	{ "avx512-vp2intersect", CPU_7_0_EDX, 8 },
	{ "md-clear", CPU_7_0_EDX, 10 },
	{ "serialize", CPU_7_0_EDX, 14 },
	{ "tsx-ldtrk", CPU_7_0_EDX, 16 },
	{ "arch-lbr", CPU_7_0_EDX, 19 },
	{ "amx-bf16", CPU_7_0_EDX, 22 },
	{ "avx512-fp16", CPU_7_0_EDX, 23 },
	{ "amx-tile", CPU_7_0_EDX, 24 },
	{ "amx-int8", CPU_7_0_EDX, 25 },
	{ "spec-ctrl", CPU_7_0_EDX, 26 },
	{ "stibp", CPU_7_0_EDX, 27 },
	{ "arch-capabilities", CPU_7_0_EDX, 29 },
	{ "core-capability", CPU_7_0_EDX, 30 },
	{ "ssbd", CPU_7_0_EDX, 31 },
	{ "avx-vnni", CPU_7_1_EAX, 4 },
	{ "avx512-bf16", CPU_7_1_EAX, 5 },
	{ "xsaveopt", CPU_D_1_EAX, 0 },
	{ "xsavec", CPU_D_1_EAX, 1 },
	{ "xgetbv1", CPU_D_1_EAX, 2 },
	{ "xsaves", CPU_D_1_EAX, 3 },
	{ "xfd", CPU_D_1_EAX, 4 },
	{ "syscall", CPU_80000001_EDX, 11 },
	{ "nx", CPU_80000001_EDX, 20 },
	{ "mmxext", CPU_80000001_EDX, 22 },
	{ "fxsr-opt", CPU_80000001_EDX, 25 },
	{ "pdpe1gb", CPU_80000001_EDX, 26 },
	{ "rdtscp", CPU_80000001_EDX, 27 },
	{ "lm", CPU_80000001_EDX, 29 },
	{ "3dnowext", CPU_80000001_EDX, 30 },
	{ "3dnow", CPU_80000001_EDX, 31 },
	{ "lahf-lm", CPU_80000001_ECX, 0 },
	{ "cmp-legacy", CPU_80000001_ECX, 1 },
	{ "svm", CPU_80000001_ECX, 2 },
	{ "extapic", CPU_80000001_ECX, 3 },
	{ "cr8legacy", CPU_80000001_ECX, 4 },
	{ "abm", CPU_80000001_ECX, 5 },
	{ "sse4a", CPU_80000001_ECX, 6 },
	{ "misalignsse", CPU_80000001_ECX, 7 },
	{ "3dnowprefetch", CPU_80000001_ECX, 8 },
	{ "osvw", CPU_80000001_ECX, 9 },
	{ "ibs", CPU_80000001_ECX, 10 },
	{ "xop", CPU_80000001_ECX, 11 },
	{ "skinit", CPU_80000001_ECX, 12 },
	{ "wdt", CPU_80000001_ECX, 13 },
	{ "lwp", CPU_80000001_ECX, 15 },
	{ "fma4", CPU_80000001_ECX, 16 },
	{ "tce", CPU_80000001_ECX, 17 },
	{ "nodeid-msr", CPU_80000001_ECX, 19 },
	{ "tbm", CPU_80000001_ECX, 21 },
	{ "topoext", CPU_80000001_ECX, 22 },
	{ "perfctr-core", CPU_80000001_ECX, 23 },
	{ "perfctr-nb", CPU_80000001_ECX, 24 },
	{ "invtsc", CPU_80000007_EDX, 8 },
	{ "clzero", CPU_80000008_EBX, 0 },
	{ "xsaveerptr", CPU_80000008_EBX, 2 },
	{ "wbnoinvd", CPU_80000008_EBX, 9 },
	{ "ibpb", CPU_80000008_EBX, 12 },
	{ "ibrs", CPU_80000008_EBX, 14 },
	{ "amd-stibp", CPU_80000008_EBX, 15 },
	{ "amd-ssbd", CPU_80000008_EBX, 24 },
	{ "virt-ssbd", CPU_80000008_EBX, 25 },
	{ "amd-no-ssb", CPU_80000008_EBX, 26 },
	{ "npt", CPU_8000000A_EDX, 0 },
	{ "lbrv", CPU_8000000A_EDX, 1 },
	{ "svm-lock", CPU_8000000A_EDX, 2 },
	{ "nrip-save", CPU_8000000A_EDX, 3 },
	{ "tsc-scale", CPU_8000000A_EDX, 4 },
	{ "vmcb-clean", CPU_8000000A_EDX, 5 },
	{ "flushbyasid", CPU_8000000A_EDX, 6 },
	{ "decodeassists", CPU_8000000A_EDX, 7 },
	{ "pause-filter", CPU_8000000A_EDX, 10 },
	{ "pfthreshold", CPU_8000000A_EDX, 12 },
	{ "avic", CPU_8000000A_EDX, 13 },
	{ "v-vmsave-vmload", CPU_8000000A_EDX, 15 },
	{ "vgif", CPU_8000000A_EDX, 16 },
	{ "svme-addr-chk", CPU_8000000A_EDX, 28 },
	{ "kvmclock", CPU_KVM_EAX, 0 },
	{ "kvm-nopiodelay", CPU_KVM_EAX, 1 },
	{ "kvm-mmu", CPU_KVM_EAX, 2 },
	{ "kvmclock", CPU_KVM_EAX, 3 },
	{ "kvm-asyncpf", CPU_KVM_EAX, 4 },
	{ "kvm-steal-time", CPU_KVM_EAX, 5 },
	{ "kvm-pv-eoi", CPU_KVM_EAX, 6 },
	{ "kvm-pv-unhalt", CPU_KVM_EAX, 7 },
	{ "kvm-pv-tlb-flush", CPU_KVM_EAX, 9 },
	{ "kvm-pv-ipi", CPU_KVM_EAX, 11 },
	{ "kvm-poll-control", CPU_KVM_EAX, 12 },
	{ "kvm-pv-sched-yield", CPU_KVM_EAX, 13 },
	{ "kvm-asyncpf-int", CPU_KVM_EAX, 14 },
	{ "kvm-msi-ext-dest-id", CPU_KVM_EAX, 15 },
	{ "kvmclock-stable-bit", CPU_KVM_EAX, 24 },
	{},
};

static const struct {
	const char *name, *means;
} other_names[] = {
	{ "sse3", "pni" }, { "pclmuldq", "pclmulqdq" }, { "ffxsr", "fxsr-opt" }, { "i64", "lm" },
	{ "xd", "nx" },
};

/* What both models have: a Pentium Pro's features, and those every 64-bit system relies on. */
#define MODEL_1_EDX        0x078bfbfd
#define MODEL_1_ECX        0x80202001 /* pni cx16 x2apic hypervisor */
#define MODEL_80000001_EDX 0x20100800 /* syscall nx lm */
#define AMD_COPIES         0x0183f3ff /* AMD repeats these bits of 1 EDX in 0x80000001 EDX */

const struct cpu_model cpu_models[] = {
	{ .name = "host", .desc = "all this host's processor and backend can give", .host = true },
	{ .name = "max", .desc = "the same", .host = true },
	{
		.name = "qemu64",
		.desc = "QEMU Virtual CPU version 2.5+",
		.vendor = "AuthenticAMD",
		.signature = 0x60fb1, /* family 15, model 107, stepping 1 */
		.level = 0xd,
		.xlevel = 0x8000000a,
		.words = {
			[CPU_1_EDX] = MODEL_1_EDX,
			[CPU_1_ECX] = MODEL_1_ECX,
			[CPU_80000001_EDX] = MODEL_80000001_EDX | (MODEL_1_EDX & AMD_COPIES),
			[CPU_80000001_ECX] = 0x1, /* lahf-lm */
		},
		.model_id = "QEMU Virtual CPU version 2.5+",
	},
	{
		.name = "kvm64",
		.desc = "Common KVM processor",
		.vendor = "GenuineIntel",
		.signature = 0x00f61, /* family 15, model 6, stepping 1 */
		.level = 0xd,
		.xlevel = 0x80000008,
		.words = {
			[CPU_1_EDX] = MODEL_1_EDX,
			[CPU_1_ECX] = MODEL_1_ECX,
			[CPU_80000001_EDX] = MODEL_80000001_EDX,
		},
		.model_id = "Common KVM processor",
	},
	{},
};

/* Is `given` the name, with '_' or '-' where the name has '-' or '.'? */
static bool same_name(const char *given, const char *name)
{
	for (; *given && *name; given++, name++) {
		if (*given == *name)
			continue;
		if ((*given != '_' && *given != '-') || (*name != '-' && *name != '.'))
			return false;
	}
	return !*given && !*name;
}

const struct cpu_feature *cpu_feature_find(const char *name)
{
	for (unsigned i = 0; i < sizeof(other_names) / sizeof(other_names[0]); i++) {
		if (same_name(name, other_names[i].name))
			name = other_names[i].means;
	}
	for (const struct cpu_feature *f = cpu_features; f->name; f++) {
		if (same_name(name, f->name))
			return f;
	}
	return NULL;
}

const struct cpu_model *cpu_model_find(const char *name)
{
	for (const struct cpu_model *m = cpu_models; m->name; m++) {
		if (same_name(name, m->name))
			return m;
	}
	return NULL;
}
