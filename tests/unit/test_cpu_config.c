/* What -cpu makes of CPUID leaves. */
#include "x86/cpuid_features.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define ALL UINT32_MAX

static struct cpu_config config(const char *model)
{
	return (struct cpu_config){
		.model = cpu_model_find(model), .kvm = true, .pmu = true, .migratable = true
	};
}

static bool apply(const struct cpu_config *c, uint32_t leaf, uint32_t subleaf, uint32_t regs[4])
{
	memset(regs, 0xff, 4 * sizeof(*regs));
	return cpu_config_apply(c, leaf, subleaf, regs);
}

static void test_names(void **state)
{
	static const char *const same[][2] = {
		{ "sse4_1", "sse4.1" }, { "sse4-1", "sse4.1" },         { "sse3", "pni" },
		{ "xd", "nx" },         { "lahf_lm", "lahf-lm" },       { "ffxsr", "fxsr-opt" },
		{ "i64", "lm" },        { "tsc_adjust", "tsc-adjust" },
	};

	for (unsigned i = 0; i < sizeof(same) / sizeof(same[0]); i++)
		assert_ptr_equal(cpu_feature_find(same[i][0]), cpu_feature_find(same[i][1]));
	assert_non_null(cpu_feature_find("sse4.1"));
	assert_null(cpu_feature_find("sse4"));
	assert_null(cpu_feature_find("sse4.1."));
	assert_null(cpu_feature_find(""));
	assert_null(cpu_model_find("pentium"));
}

/* No bit has two names, and only kvmclock has two bits. */
static void test_table(void **state)
{
	for (const struct cpu_feature *f = cpu_features; f->name; f++) {
		for (const struct cpu_feature *g = f + 1; g->name; g++) {
			assert_false(f->word == g->word && f->bit == g->bit);
			assert_true(strcmp(f->name, g->name) || !strcmp(f->name, "kvmclock"));
		}
	}
}

static void test_host(void **state)
{
	struct cpu_config c = config("host");
	uint32_t regs[4];

	assert_true(apply(&c, 1, 0, regs));
	assert_int_equal(regs[CPU_ECX], ALL);
	assert_true(apply(&c, 0x80000007, 0, regs));
	assert_int_equal(regs[CPU_EDX], ALL & ~(1u << 8));
	assert_true(cpu_config_feature(&c, "invtsc", true));
	assert_true(apply(&c, 0x80000007, 0, regs));
	assert_int_equal(regs[CPU_EDX], ALL);

	memset(regs, 0, sizeof(regs));
	assert_true(cpu_config_apply(&c, 1, 0, regs));
	assert_int_equal(regs[CPU_ECX], 1u << 31); /* hypervisor */
}

static void test_off(void **state)
{
	struct cpu_config c = config("host");
	uint32_t regs[4];

	assert_true(cpu_config_feature(&c, "avx", false));
	assert_true(cpu_config_feature(&c, "avx512f", false));
	assert_true(cpu_config_feature(&c, "svm", false));
	assert_true(cpu_config_feature(&c, "mmx", false));
	assert_false(cpu_config_feature(&c, "foo", false));
	assert_true(apply(&c, 1, 0, regs));
	assert_false(regs[CPU_ECX] & 1u << 28);
	assert_true(apply(&c, 0xd, 0, regs));
	assert_int_equal(regs[CPU_EAX] & 0xff, 0x1b);
	assert_false(apply(&c, 0xd, 2, regs));
	assert_false(apply(&c, 0xd, 5, regs));
	assert_true(apply(&c, 0xd, 9, regs));
	assert_false(apply(&c, 0x8000000a, 0, regs));
	assert_true(apply(&c, 0x80000001, 0, regs));
	assert_false(regs[CPU_EDX] & 1u << 23); /* AMD's copy of mmx */
	assert_false(regs[CPU_ECX] & 1u << 2);

	cpu_config_feature(&c, "xsave", false);
	assert_false(apply(&c, 0xd, 0, regs));
	cpu_config_feature(&c, "xsave", true);
	assert_true(apply(&c, 0xd, 0, regs));
}

static void test_switches(void **state)
{
	struct cpu_config c = config("host");
	uint32_t regs[4];

	assert_true(apply(&c, 0x40000000, 0, regs));
	assert_true(cpu_config_feature(&c, "kvmclock", false));
	assert_true(apply(&c, 0x40000001, 0, regs));
	assert_int_equal(regs[CPU_EAX], ALL & ~9u);
	c.kvm = false;
	assert_false(apply(&c, 0x40000000, 0, regs));
	assert_true(apply(&c, 0xa, 0, regs));
	assert_int_equal(regs[CPU_EAX], ALL);
	c.pmu = false;
	assert_true(apply(&c, 0xa, 0, regs));
	assert_int_equal(regs[CPU_EAX], 0);
}

static void test_named(void **state)
{
	struct cpu_config c = config("qemu64");
	char vendor[13] = { 0 }, brand[49] = { 0 };
	uint32_t regs[4];

	assert_true(apply(&c, 0, 0, regs));
	assert_int_equal(regs[CPU_EAX], 0xd);
	memcpy(vendor, &regs[CPU_EBX], 4);
	memcpy(vendor + 4, &regs[CPU_EDX], 4);
	memcpy(vendor + 8, &regs[CPU_ECX], 4);
	assert_string_equal(vendor, "AuthenticAMD");
	assert_true(apply(&c, 1, 0, regs));
	assert_int_equal(regs[CPU_EAX], 0x60fb1);
	assert_int_equal(regs[CPU_EDX], 0x078bfbfd);
	for (unsigned i = 0; i < 3; i++) {
		assert_true(apply(&c, 0x80000002 + i, 0, regs));
		memcpy(brand + 16 * i, regs, 16);
	}
	assert_string_equal(brand, "QEMU Virtual CPU version 2.5+");
	assert_false(apply(&c, 0x14, 0, regs));
	assert_false(apply(&c, 0x1f, 0, regs));
	assert_false(apply(&c, 0x80000020, 0, regs));
	assert_true(apply(&c, 7, 0, regs));
	assert_int_equal(regs[CPU_EBX], 0);
	cpu_config_feature(&c, "avx2", true);
	assert_true(apply(&c, 7, 0, regs));
	assert_int_equal(regs[CPU_EBX], 1u << 5);
}

static void test_missing(void **state)
{
	struct cpu_config c = config("host");
	uint32_t supported[CPU_WORDS] = { 0 };
	size_t cursor = 0;

	assert_null(cpu_config_missing(&c, supported, &cursor));
	cpu_config_feature(&c, "avx2", true);
	cursor = 0;
	assert_string_equal(cpu_config_missing(&c, supported, &cursor)->name, "avx2");
	assert_null(cpu_config_missing(&c, supported, &cursor));
	supported[CPU_7_0_EBX] = 1u << 5;
	cursor = 0;
	assert_null(cpu_config_missing(&c, supported, &cursor));

	c = config("kvm64");
	memset(supported, 0xff, sizeof(supported));
	supported[CPU_1_ECX] = 0x2001; /* without x2apic; hypervisor is ours to give */
	cursor = 0;
	assert_string_equal(cpu_config_missing(&c, supported, &cursor)->name, "x2apic");
	assert_null(cpu_config_missing(&c, supported, &cursor));
	cpu_config_feature(&c, "x2apic", false);
	cursor = 0;
	assert_null(cpu_config_missing(&c, supported, &cursor));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_names),    cmocka_unit_test(test_table),
		cmocka_unit_test(test_host),     cmocka_unit_test(test_off),
		cmocka_unit_test(test_switches), cmocka_unit_test(test_named),
		cmocka_unit_test(test_missing),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
