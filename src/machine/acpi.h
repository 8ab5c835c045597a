/*
 * ACPI tables for a machine without firmware (ACPI 6.4 §5).
 *
 * They lie in the BIOS area from 0xe0000 on, where guests that are told no address look for the
 * RSDP, and say nothing that a configuration could not make true: what is absent is not mentioned.
 */
#ifndef REVIRT_MACHINE_ACPI_H
#define REVIRT_MACHINE_ACPI_H

#include "machine/machine.h"

struct aml;

#define ACPI_AREA_GPA    0xe0000
#define ACPI_AREA_SIZE   0x20000

#define ACPI_MAX_SERIALS 4

struct acpi_config {
	unsigned n_vcpus; /* 1 to MACHINE_MAX_VCPUS */
	uint32_t apic_ids[MACHINE_MAX_VCPUS];
	bool pci;                   /* there is a host bridge, */
	struct pci_windows windows; /* and this is what it decodes */
	/*
	 * The highest bus number there is. Guests look for devices on each number they are told of,
	 * by ports, at two exits a slot.
	 */
	uint8_t last_bus;
	bool serial[ACPI_MAX_SERIALS];
	bool rtc, i8042, vga, pvpanic, hpet;
	/*
	 * Leave out what costs a guest time and serves it nothing beside a paravirtual clock: the
	 * PM timer, the GPE block, processor objects.
	 */
	bool minimal;
};

/* Writes all tables into guest memory. */
int acpi_build(const struct gmem *gm, const struct acpi_config *config, uint64_t *rsdp_gpa,
	       struct error **err);

/* Appends the contents of the DSDT (acpi_dsdt.c), without its header. */
void acpi_dsdt(struct aml *a, const struct acpi_config *config);

#endif
