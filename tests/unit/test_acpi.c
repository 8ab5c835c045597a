/*
 * ACPI tables: every address leads to a table with a right checksum, fields lie where the standard
 * has them, and iasl disassembles all of it and compiles the result to the same bytes.
 */
#include "base/error.h"
#include "base/util.h"
#include "machine/acpi.h"
#include "machine/aml.h"
#include "machine/pm.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#define HEADER_SIZE 36
#define MAX_TABLES  8

struct tables {
	struct gmem gm;
	unsigned n;
	const uint8_t *table[MAX_TABLES];
	uint64_t gpa[MAX_TABLES];
};

static uint64_t get(const uint8_t *table, unsigned offset, unsigned bytes)
{
	uint64_t value = 0;

	memcpy(&value, table + offset, bytes);
	return value;
}

static unsigned length(const uint8_t *table)
{
	return get(table, 4, 4);
}

static uint8_t sum(const uint8_t *bytes, size_t n)
{
	uint8_t total = 0;

	while (n--)
		total += *bytes++;
	return total;
}

static const uint8_t *add(struct tables *t, uint64_t gpa, const char *signature)
{
	const uint8_t *table = gmem_slice(&t->gm, gpa, HEADER_SIZE);

	assert_non_null(table);
	assert_true(gpa >= ACPI_AREA_GPA);
	assert_true(gpa + length(table) <= ACPI_AREA_GPA + ACPI_AREA_SIZE);
	if (signature)
		assert_memory_equal(table, signature, 4);
	if (memcmp(table, "FACS", 4) != 0)
		assert_int_equal(sum(table, length(table)), 0);
	for (unsigned i = 0; i < t->n; i++)
		assert_true(gpa >= t->gpa[i] + length(t->table[i]) ||
			    gpa + length(table) <= t->gpa[i]);
	assert_true(t->n < MAX_TABLES);
	t->gpa[t->n] = gpa;
	t->table[t->n++] = table;
	return table;
}

static const uint8_t *find(const struct tables *t, const char *signature)
{
	for (unsigned i = 0; i < t->n; i++)
		if (memcmp(t->table[i], signature, 4) == 0)
			return t->table[i];
	return NULL;
}

/* Builds the tables and follows every address in them, as a guest does. */
static void build(struct tables *t, const struct acpi_config *config)
{
	const struct gmem_config memory = { .size = 64 * MIB, .low_max = MACHINE_LOW_RAM_MAX };
	const uint8_t *rsdp, *xsdt, *fadt;
	uint64_t gpa;

	*t = (struct tables){};
	assert_int_equal(gmem_init(&t->gm, NULL, &memory, NULL), 0);
	assert_int_equal(acpi_build(&t->gm, config, &gpa, NULL), 0);
	assert_int_equal(gpa % 16, 0);
	rsdp = gmem_slice(&t->gm, gpa, HEADER_SIZE);
	assert_memory_equal(rsdp, "RSD PTR ", 8);
	assert_int_equal(get(rsdp, 15, 1), 2);
	assert_int_equal(sum(rsdp, 20), 0);
	assert_int_equal(sum(rsdp, 36), 0);
	xsdt = add(t, get(rsdp, 24, 8), "XSDT");
	for (unsigned i = HEADER_SIZE; i < length(xsdt); i += 8)
		add(t, get(xsdt, i, 8), NULL);
	fadt = find(t, "FACP");
	assert_non_null(fadt);
	assert_int_equal(get(fadt, 140, 8), get(fadt, 40, 4));
	add(t, get(fadt, 40, 4), "DSDT");
	add(t, get(fadt, 36, 4), "FACS");
	assert_int_equal(get(fadt, 36, 4) % 64, 0);
}

static void destroy(struct tables *t)
{
	gmem_destroy(&t->gm);
}

static struct acpi_config full(unsigned n_vcpus)
{
	struct acpi_config config = {
		.n_vcpus = n_vcpus,
		.pci = true,
		.last_bus = 255,
		.windows = { .ecam_base = MACHINE_ECAM_BASE,
			     .mem32_base = MACHINE_MEM32_BASE,
			     .mem32_size = MACHINE_MEM32_END - MACHINE_MEM32_BASE,
			     .mem64_base = 5 * GIB,
			     .mem64_size = 32 * GIB },
		.serial = { true, true, true, true },
		.rtc = true,
		.i8042 = true,
		.vga = true,
		.pvpanic = true,
		.hpet = true,
	};

	for (unsigned i = 0; i < n_vcpus; i++)
		config.apic_ids[i] = i;
	return config;
}

static const struct acpi_config least = { .n_vcpus = 1, .serial = { true }, .minimal = true };

static void test_fadt(void **state)
{
	const struct acpi_config config = full(1);
	struct tables t;
	const uint8_t *fadt;

	build(&t, &config);
	fadt = find(&t, "FACP");
	assert_int_equal(length(fadt), 276);
	assert_int_equal(get(fadt, 8, 1), 6);
	assert_int_equal(get(fadt, 46, 2), MACHINE_SCI_GSI);
	assert_int_equal(get(fadt, 48, 4), 0); /* SMI_CMD */
	assert_int_equal(get(fadt, 56, 4), MACHINE_PM_BASE + PM_EVENT);
	assert_int_equal(get(fadt, 64, 4), MACHINE_PM_BASE + PM_CONTROL);
	assert_int_equal(get(fadt, 76, 4), MACHINE_PM_BASE + PM_TIMER);
	assert_int_equal(get(fadt, 80, 4), MACHINE_PM_BASE + PM_GPE0);
	assert_int_equal(get(fadt, 88, 1), 4);
	assert_int_equal(get(fadt, 89, 1), 2);
	assert_int_equal(get(fadt, 91, 1), 4);
	assert_int_equal(get(fadt, 92, 1), PM_GPE0_SIZE);
	assert_int_equal(get(fadt, 108, 1), 0x32);
	assert_int_equal(get(fadt, 109, 2), 0x13);        /* legacy devices, 8042, no ASPM */
	assert_int_equal(get(fadt, 112, 4) & 1 << 4, 0);  /* the power button is a fixed one */
	assert_int_equal(get(fadt, 112, 4) & 1 << 20, 0); /* not hardware-reduced */
	assert_true(get(fadt, 112, 4) & 1 << 10);         /* RESET_REG_SUP */
	assert_int_equal(get(fadt, 116, 1), 1);
	assert_int_equal(get(fadt, 120, 8), 0xcf9);
	assert_int_equal(get(fadt, 128, 1), 6);
	assert_int_equal(get(fadt, 148 + 4, 8), MACHINE_PM_BASE + PM_EVENT);
	assert_int_equal(get(fadt, 148 + 1, 1), 32);
	assert_int_equal(get(fadt, 172 + 4, 8), MACHINE_PM_BASE + PM_CONTROL);
	assert_int_equal(get(fadt, 208 + 4, 8), MACHINE_PM_BASE + PM_TIMER);
	assert_int_equal(get(fadt, 220 + 4, 8), MACHINE_PM_BASE + PM_GPE0);
	destroy(&t);
}

static void test_fadt_minimal(void **state)
{
	struct tables t;
	const uint8_t *fadt;

	build(&t, &least);
	fadt = find(&t, "FACP");
	assert_int_equal(get(fadt, 76, 4), 0);
	assert_int_equal(get(fadt, 80, 4), 0);
	assert_int_equal(get(fadt, 109, 2), 0x35); /* no VGA, no RTC, no 8042 */
	assert_null(find(&t, "MCFG"));
	destroy(&t);
}

static void test_madt(void **state)
{
	struct acpi_config config = full(64);
	unsigned seen[256] = {};
	struct tables t;
	const uint8_t *madt;

	config.apic_ids[63] = 300;
	build(&t, &config);
	madt = find(&t, "APIC");
	assert_int_equal(get(madt, 36, 4), MACHINE_LAPIC_BASE);
	for (unsigned at = 44; at < length(madt); at += madt[at + 1]) {
		const uint8_t *entry = madt + at;

		assert_true(entry[1] >= 2);
		switch (entry[0]) {
		case 0:
			assert_int_equal(entry[2], seen[0]);
			assert_int_equal(entry[3], config.apic_ids[seen[0]]);
			break;
		case 1: assert_int_equal(get(entry, 4, 4), MACHINE_IOAPIC_BASE); break;
		case 2:
			assert_int_equal(entry[3], seen[2] ? 9 : 0);
			assert_int_equal(get(entry, 4, 4), seen[2] ? 9 : 2);
			assert_int_equal(get(entry, 8, 2), seen[2] ? 0xd : 0);
			break;
		case 9:
			assert_int_equal(get(entry, 4, 4), 300);
			assert_int_equal(get(entry, 12, 4), 63);
			break;
		default: break;
		}
		seen[entry[0]]++;
	}
	assert_int_equal(seen[0], 63);
	assert_int_equal(seen[1], 1);
	assert_int_equal(seen[2], 2);
	assert_int_equal(seen[4], 1);
	assert_int_equal(seen[9], 1);
	assert_int_equal(seen[10], 1);
	destroy(&t);
}

static void test_mcfg(void **state)
{
	const struct acpi_config config = full(1);
	struct tables t;
	const uint8_t *mcfg;

	build(&t, &config);
	mcfg = find(&t, "MCFG");
	assert_int_equal(length(mcfg), 60);
	assert_int_equal(get(mcfg, 44, 8), MACHINE_ECAM_BASE);
	assert_int_equal(get(mcfg, 54, 1), 0);
	assert_int_equal(get(mcfg, 55, 1), 255);
	destroy(&t);
}

/* PkgLength at the borders of its encodings, §20.2.4. */
static void test_package_length(void **state)
{
	static const struct {
		size_t contents;
		uint8_t bytes[4];
		unsigned n;
	} cases[] = {
		{ 0, { 0x01 }, 1 },
		{ 62, { 0x3f }, 1 },
		{ 63, { 0x41, 0x04 }, 2 },
		{ 4093, { 0x4f, 0xff }, 2 },
		{ 4094, { 0x81, 0x00, 0x01 }, 3 },
		{ 1048572, { 0x8f, 0xff, 0xff }, 3 },
		{ 1048573, { 0xc1, 0x00, 0x00, 0x01 }, 4 },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct aml a = {};
		size_t branch = aml_if(&a);

		for (size_t n = 0; n < cases[i].contents; n++)
			aml_op(&a, AML_LOCAL0);
		aml_end(&a, branch);
		assert_int_equal(a.len, 1 + cases[i].n + cases[i].contents);
		assert_memory_equal(a.data + 1, cases[i].bytes, cases[i].n);
		aml_free(&a);
	}
}

static void test_integers_and_names(void **state)
{
	static const uint8_t expected[] = {
		0x00, 0x01, 0x0a, 0x02, 0x0a, 0xff, 0x0b, 0x00, 0x01, 0x0c, 0x00, 0x00,
		0x01, 0x00, 0x0e, 0x00, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0xff, /* Ones */
		'\\', '_',  'S',  'B',  '_',  0x2e, '_',  'S',  'B',  '_',  'P',  'C',
		'I',  '0',  '\\', 0x2f, 0x03, 'A',  '_',  '_',  '_',  'B',  'B',  '_',
		'_',  'C',  '_',  '_',  '_',  0x0c, 0x41, 0xd0, 0x0a, 0x08, /* PNP0A08 */
	};
	struct aml a = {};

	aml_integer(&a, 0);
	aml_integer(&a, 1);
	aml_integer(&a, 2);
	aml_integer(&a, 255);
	aml_integer(&a, 256);
	aml_integer(&a, 0x10000);
	aml_integer(&a, 1ull << 32);
	aml_integer(&a, UINT64_MAX);
	aml_path(&a, "\\_SB");
	aml_path(&a, "_SB.PCI0");
	aml_path(&a, "\\A.BB.C");
	aml_eisa_id(&a, "PNP0A08");
	assert_int_equal(a.len, sizeof(expected));
	assert_memory_equal(a.data, expected, sizeof(expected));
	aml_free(&a);
}

/* --- iasl --- */

/* Runs a command in dir; true when it succeeds and its output has `wanted` and no complaint. */
static bool run(const char *dir, const char *command, const char *wanted)
{
	AUTO_FREE char *line = xasprintf("cd '%s' && %s 2>&1", dir, command);
	static char output[65536];
	FILE *pipe = popen(line, "r");
	size_t n;
	bool ok;

	assert_non_null(pipe);
	n = fread(output, 1, sizeof(output) - 1, pipe);
	output[n] = 0;
	ok = pclose(pipe) == 0 && strstr(output, wanted) && !strstr(output, "rror ") &&
	     !strstr(output, "arning ");
	if (!ok)
		print_error("%s\n%s\n", command, output);
	return ok;
}

static void write_file(const char *dir, const char *name, const void *bytes, size_t n)
{
	AUTO_FREE char *path = xasprintf("%s/%s", dir, name);
	FILE *file = fopen(path, "w");

	assert_non_null(file);
	assert_int_equal(fwrite(bytes, 1, n, file), n);
	assert_int_equal(fclose(file), 0);
}

static void check_with_iasl(const char *dir, const uint8_t *table)
{
	const unsigned n = length(table);
	AUTO_FREE char *name = xasprintf("%.4s.dat", table);
	AUTO_FREE char *disassemble = xasprintf("iasl -d %s", name);
	AUTO_FREE char *compile = xasprintf("iasl -oa -tc -p again %.4s.dsl", table);
	AUTO_FREE char *again = xasprintf("%s/again.aml", dir);
	AUTO_FREE uint8_t *bytes = xcalloc(1, n + 1);
	FILE *file;

	write_file(dir, name, table, n);
	assert_true(run(dir, disassemble, "utput:"));
	assert_true(run(dir, compile, "0 Errors, 0 Warnings, 0 Remarks"));
	file = fopen(again, "r");
	assert_non_null(file);
	assert_int_equal(fread(bytes, 1, n + 1, file), n);
	fclose(file);
	/* iasl puts its own name into the header. */
	assert_memory_equal(bytes + HEADER_SIZE, table + HEADER_SIZE, n - HEADER_SIZE);
}

static void check_all_with_iasl(const struct acpi_config *config)
{
	char dir[] = "/tmp/test_acpi.XXXXXX";
	AUTO_FREE char *remove = NULL;
	struct tables t;

	assert_non_null(mkdtemp(dir));
	build(&t, config);
	for (unsigned i = 0; i < t.n; i++)
		check_with_iasl(dir, t.table[i]);
	remove = xasprintf("rm -r '%s'", dir);
	assert_int_equal(system(remove), 0);
	destroy(&t);
}

static void test_iasl_full(void **state)
{
	struct acpi_config config = full(64);

	config.apic_ids[63] = 300;
	check_all_with_iasl(&config);
}

static void test_iasl_minimal(void **state)
{
	check_all_with_iasl(&least);
}

/* What the methods answer, asked by ACPICA's interpreter: the one in Linux. */
static void test_methods(void **state)
{
	static const struct {
		const char *evaluate, *answer;
	} cases[] = {
		/* asked for hot plug, SHPC, PME, AER, capability: status "masked", what is granted
		 */
		{ "_SB.PCI0._OSC (5B4DDB33F71F1C4096577441C03DD766) 1 3 "
		  "(00 00 00 00 1F 00 00 00 1F 00 00 00)",
		  "10 00 00 00 1F 00 00 00 19 00 00 00" },
		{ "_SB.PCI0._OSC (5B4DDB33F71F1C4096577441C03DD766) 1 3 "
		  "(00 00 00 00 1F 00 00 00 19 00 00 00)",
		  "00 00 00 00 1F 00 00 00 19 00 00 00" },
		{ "_SB.PCI0._OSC (00000000000000000000000000000000) 1 3 "
		  "(00 00 00 00 1F 00 00 00 1F 00 00 00)",
		  "04 00 00 00 1F 00 00 00 1F 00 00 00" },
		{ "_SB.PCI0._PRT", "Contains 128 Elements" },
		{ "_S5", "Contains 4 Elements" },
	};
	const struct acpi_config config = full(2);
	char dir[] = "/tmp/test_acpi.XXXXXX";
	AUTO_FREE char *remove = NULL;
	struct tables t;

	assert_non_null(mkdtemp(dir));
	build(&t, &config);
	write_file(dir, "DSDT.dat", find(&t, "DSDT"), length(find(&t, "DSDT")));
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		AUTO_FREE char *command =
			xasprintf("acpiexec -b 'evaluate \\%s' DSDT.dat", cases[i].evaluate);

		assert_true(run(dir, command, cases[i].answer));
	}
	remove = xasprintf("rm -r '%s'", dir);
	assert_int_equal(system(remove), 0);
	destroy(&t);
}

static void test_no_ram(void **state)
{
	const struct gmem_config memory = { .size = 640 * KIB, .low_max = MACHINE_LOW_RAM_MAX };
	struct error *err ERROR_AUTO = NULL;
	struct gmem gm;
	uint64_t gpa;

	assert_int_equal(gmem_init(&gm, NULL, &memory, NULL), 0);
	assert_int_equal(acpi_build(&gm, &least, &gpa, &err), -1);
	assert_non_null(strstr(error_message(err), "-m 2M"));
	gmem_destroy(&gm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_fadt),           cmocka_unit_test(test_fadt_minimal),
		cmocka_unit_test(test_madt),           cmocka_unit_test(test_mcfg),
		cmocka_unit_test(test_package_length), cmocka_unit_test(test_integers_and_names),
		cmocka_unit_test(test_iasl_full),      cmocka_unit_test(test_iasl_minimal),
		cmocka_unit_test(test_methods),        cmocka_unit_test(test_no_ram),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
