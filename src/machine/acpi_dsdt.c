/*
 * The DSDT: what an operating system can't find by itself, in AML (ACPI 6.4 §5.2.11.1, §6).
 *
 * Guests interpret it while they boot, and slowly where processors are emulated: so names with
 * constant values, and a method only where the standard wants one (_OSC), or where the value is
 * large and seldom asked for (_PRT).
 */
#include "machine/acpi.h"

#include "machine/aml.h"
#include "machine/hpet.h"
#include "machine/pm.h"

#include <stdio.h>

/* A device on fixed ports, as ISA had them. Ends with one without a name. */
struct isa_device {
	const char *name, *id; /* id: of EISA's form, or any string */
	uint16_t ports[2];     /* 0: none */
	uint8_t n_ports;       /* at each of them */
	uint8_t irq;           /* 0: none */
};

static const struct isa_device serials[ACPI_MAX_SERIALS] = {
	{ "COM1", "PNP0501", { 0x3f8 }, 8, 4 },
	{ "COM2", "PNP0501", { 0x2f8 }, 8, 3 },
	{ "COM3", "PNP0501", { 0x3e8 }, 8, 4 },
	{ "COM4", "PNP0501", { 0x2e8 }, 8, 3 },
};
static const struct isa_device rtc = { "RTC", "PNP0B00", { 0x70 }, 2, 8 };
static const struct isa_device keyboard = { "KBD", "PNP0303", { 0x60, 0x64 }, 1, 1 };
static const struct isa_device mouse = { "MOU", "PNP0F13", {}, 0, 12 };
static const struct isa_device pvpanic = { "PEVT", "QEMU0001", { 0x505 }, 1, 0 };

static void add_isa_device(struct aml *a, const struct isa_device *dev, unsigned uid)
{
	size_t device = aml_device(a, dev->name);
	struct aml crs = {};

	if (dev->id[0] == 'P') {
		aml_name_eisa_id(a, "_HID", dev->id);
	} else {
		aml_name(a, "_HID");
		aml_string(a, dev->id);
	}
	if (uid)
		aml_name_integer(a, "_UID", uid);
	for (unsigned i = 0; i < 2 && dev->ports[i]; i++)
		aml_res_io(&crs, dev->ports[i], dev->n_ports);
	if (dev->irq)
		aml_res_irq(&crs, dev->irq);
	aml_crs(a, &crs);
	aml_free(&crs);
	aml_end(a, device);
}

static void add_isa_devices(struct aml *a, const struct acpi_config *config)
{
	for (unsigned i = 0; i < ACPI_MAX_SERIALS; i++)
		if (config->serial[i])
			add_isa_device(a, &serials[i], i + 1);
	if (config->rtc)
		add_isa_device(a, &rtc, 0);
	if (config->i8042) {
		add_isa_device(a, &keyboard, 0);
		add_isa_device(a, &mouse, 0);
	}
	if (config->pvpanic)
		add_isa_device(a, &pvpanic, 0);
}

/* --- PCI --- */

#define PCI_CONFIG_PORTS   0xcf8
#define PCI_CONFIG_N_PORTS 8
#define VGA_MEMORY         0xa0000
#define VGA_MEMORY_SIZE    0x20000

static void add_pci_resources(struct aml *a, const struct acpi_config *config)
{
	const struct pci_windows *w = &config->windows;
	const uint32_t after = PCI_CONFIG_PORTS + PCI_CONFIG_N_PORTS;
	struct aml crs = {};

	aml_res_bus_window(&crs, 0, config->last_bus + 1);
	aml_res_io(&crs, PCI_CONFIG_PORTS, PCI_CONFIG_N_PORTS);
	aml_res_io_window(&crs, 0, PCI_CONFIG_PORTS);
	aml_res_io_window(&crs, after, 0x10000 - after);
	if (config->vga)
		aml_res_memory32_window(&crs, VGA_MEMORY, VGA_MEMORY_SIZE);
	aml_res_memory32_window(&crs, w->mem32_base, w->mem32_size);
	if (w->mem64_size)
		aml_res_memory64_window(&crs, w->mem64_base, w->mem64_size);
	aml_crs(a, &crs);
	aml_free(&crs);
}

/*
 * _PRT (§6.2.13): each pin of each slot is wired to an IOAPIC pin of its own accord. As a method it
 * takes no part of start-up in a guest whose devices all signal by MSI.
 */
static void add_pci_routing(struct aml *a)
{
	size_t method = aml_method(a, "_PRT", 0, false), table;

	aml_op(a, AML_RETURN);
	table = aml_package(a, PCI_SLOTS * 4);
	for (unsigned slot = 0; slot < PCI_SLOTS; slot++) {
		for (unsigned pin = 0; pin < 4; pin++) {
			size_t route = aml_package(a, 4);

			aml_integer(a, slot << 16 | 0xffff); /* any function */
			aml_integer(a, pin);
			aml_integer(a, 0);
			aml_integer(a, pci_intx_gsi(slot, pin));
			aml_end(a, route);
		}
	}
	aml_end(a, table);
	aml_end(a, method);
}

/*
 * _OSC (§6.2.11; PCI Firmware 3.2 §4.5): the guest asks to control features of PCI Express by
 * itself. It gets native hot plug (bit 0), AER (3) and the capability structure (4); not SHPC and
 * PME, which no bridge here has and for which Linux would take interrupts at every root port.
 */
#define OSC_GRANTED          0x19
#define OSC_UNKNOWN_UUID     0x04
#define OSC_UNKNOWN_REVISION 0x08
#define OSC_MASKED           0x10

/* If (condition) { CDW1 |= bit }; the condition's operands were appended after aml_if(). */
static void end_if_with_status(struct aml *a, size_t branch, unsigned bit)
{
	aml_op(a, AML_OR);
	aml_path(a, "CDW1");
	aml_integer(a, bit);
	aml_path(a, "CDW1");
	aml_end(a, branch);
}

static void add_pci_osc(struct aml *a)
{
	size_t method = aml_method(a, "_OSC", 4, true), known, branch;

	aml_dword_field(a, 3, 0, "CDW1");
	known = aml_if(a);
	aml_op(a, AML_LEQUAL);
	aml_op(a, AML_ARG0);
	aml_uuid(a, "33db4d5b-1ff7-401c-9657-7441c03dd766");
	aml_dword_field(a, 3, 8, "CDW3");
	aml_op(a, AML_AND);
	aml_path(a, "CDW3");
	aml_integer(a, OSC_GRANTED);
	aml_op(a, AML_LOCAL0);

	branch = aml_if(a);
	aml_op(a, AML_LNOT);
	aml_op(a, AML_LEQUAL);
	aml_op(a, AML_ARG1);
	aml_integer(a, 1);
	end_if_with_status(a, branch, OSC_UNKNOWN_REVISION);

	branch = aml_if(a);
	aml_op(a, AML_LNOT);
	aml_op(a, AML_LEQUAL);
	aml_path(a, "CDW3");
	aml_op(a, AML_LOCAL0);
	end_if_with_status(a, branch, OSC_MASKED);

	aml_op(a, AML_STORE);
	aml_op(a, AML_LOCAL0);
	aml_path(a, "CDW3");
	aml_end(a, known);
	branch = aml_else(a);
	end_if_with_status(a, branch, OSC_UNKNOWN_UUID);
	aml_op(a, AML_RETURN);
	aml_op(a, AML_ARG3);
	aml_end(a, method);
}

static void add_pci(struct aml *a, const struct acpi_config *config)
{
	size_t device = aml_device(a, "PCI0");

	aml_name_eisa_id(a, "_HID", "PNP0A08");
	aml_name_eisa_id(a, "_CID", "PNP0A03");
	aml_name_integer(a, "_UID", 0);
	aml_name_integer(a, "_SEG", 0);
	aml_name_integer(a, "_BBN", 0);
	add_pci_resources(a, config);
	add_pci_routing(a);
	add_pci_osc(a);
	aml_end(a, device);
}

/* --- The rest --- */

static void add_hpet(struct aml *a)
{
	size_t device = aml_device(a, "HPET");
	struct aml crs = {};

	aml_name_eisa_id(a, "_HID", "PNP0103");
	aml_res_memory32(&crs, MACHINE_HPET_BASE, HPET_SIZE);
	aml_crs(a, &crs);
	aml_free(&crs);
	aml_end(a, device);
}

/* What is taken by the board itself, so that guests put nothing else there. */
static void add_motherboard(struct aml *a, const struct acpi_config *config)
{
	size_t device = aml_device(a, "MBRD");
	struct aml crs = {};

	aml_name_eisa_id(a, "_HID", "PNP0C02");
	aml_res_io(&crs, MACHINE_PM_BASE, PM_SIZE);
	if (config->pci)
		aml_res_memory32(&crs, config->windows.ecam_base, 256u << 20);
	aml_crs(a, &crs);
	aml_free(&crs);
	aml_end(a, device);
}

static void add_processors(struct aml *a, unsigned n)
{
	char name[5];

	for (unsigned i = 0; i < n; i++) {
		size_t device;

		snprintf(name, sizeof(name), "C%03X", i & 0xfff);
		device = aml_device(a, name);
		aml_name(a, "_HID");
		aml_string(a, "ACPI0007");
		aml_name_integer(a, "_UID", i); /* the one in the MADT */
		aml_end(a, device);
	}
}

/* SLP_TYPa and SLP_TYPb of soft off (§7.4.2.6). */
static void add_s5(struct aml *a)
{
	size_t package;

	aml_name(a, "\\_S5");
	package = aml_package(a, 4);
	aml_integer(a, PM_SLP_TYP_S5);
	aml_integer(a, 0);
	aml_integer(a, 0);
	aml_integer(a, 0);
	aml_end(a, package);
}

void acpi_dsdt(struct aml *a, const struct acpi_config *config)
{
	size_t scope = aml_scope(a, "\\_SB");

	if (config->pci)
		add_pci(a, config);
	add_motherboard(a, config);
	add_isa_devices(a, config);
	if (config->hpet)
		add_hpet(a);
	if (!config->minimal)
		add_processors(a, config->n_vcpus);
	aml_end(a, scope);
	add_s5(a);
}
