/*
 * ACPI tables: see acpi.h.
 *
 * Each table is put together in a buffer and placed after the one before it, those first whose
 * addresses others hold: FACS and DSDT, then FADT, MADT, MCFG and HPET, the XSDT, and the RSDP,
 * which has its place at the beginning of the area. Structs are the tables' fixed parts as the
 * standard lays them out.
 */
#include "machine/acpi.h"

#include "base/error.h"
#include "base/util.h"
#include "machine/aml.h"
#include "machine/hpet.h"
#include "machine/pm.h"

#include <stddef.h>
#include <string.h>

#define OEM_ID       "REVIRT"
#define OEM_TABLE_ID "REVIRTPC"
#define CREATOR_ID   "RVRT"
#define REVISION     1

struct acpi_rsdp { /* §5.2.5.3 */
	char signature[8];
	uint8_t checksum; /* of the first 20 bytes */
	char oem_id[6];
	uint8_t revision;
	uint32_t rsdt;
	uint32_t length;
	uint64_t xsdt;
	uint8_t extended_checksum;
	uint8_t reserved[3];
} __attribute__((packed));
#define RSDP_V1_SIZE 20

struct acpi_header { /* §5.2.6 */
	char signature[4];
	uint32_t length;
	uint8_t revision, checksum;
	char oem_id[6], oem_table_id[8];
	uint32_t oem_revision;
	char creator_id[4];
	uint32_t creator_revision;
} __attribute__((packed));

struct acpi_address { /* §5.2.3.2, Generic Address Structure */
	uint8_t space, bit_width, bit_offset, access_size;
	uint64_t address;
} __attribute__((packed));
enum { SPACE_SYSTEM_MEMORY, SPACE_SYSTEM_IO };
enum { ACCESS_BYTE = 1, ACCESS_WORD = 2, ACCESS_DWORD = 3 };

struct acpi_fadt { /* §5.2.9 */
	struct acpi_header header;
	uint32_t firmware_ctrl, dsdt;
	uint8_t reserved, preferred_pm_profile;
	uint16_t sci_int;
	uint32_t smi_cmd;
	uint8_t acpi_enable, acpi_disable, s4bios_req, pstate_cnt;
	uint32_t pm1a_evt_blk, pm1b_evt_blk, pm1a_cnt_blk, pm1b_cnt_blk, pm2_cnt_blk, pm_tmr_blk;
	uint32_t gpe0_blk, gpe1_blk;
	uint8_t pm1_evt_len, pm1_cnt_len, pm2_cnt_len, pm_tmr_len, gpe0_blk_len, gpe1_blk_len;
	uint8_t gpe1_base, cst_cnt;
	uint16_t p_lvl2_lat, p_lvl3_lat, flush_size, flush_stride;
	uint8_t duty_offset, duty_width, day_alrm, mon_alrm, century;
	uint16_t iapc_boot_arch;
	uint8_t reserved2;
	uint32_t flags;
	struct acpi_address reset_reg;
	uint8_t reset_value;
	uint16_t arm_boot_arch;
	uint8_t minor_version;
	uint64_t x_firmware_ctrl, x_dsdt;
	struct acpi_address x_pm1a_evt_blk, x_pm1b_evt_blk, x_pm1a_cnt_blk, x_pm1b_cnt_blk;
	struct acpi_address x_pm2_cnt_blk, x_pm_tmr_blk, x_gpe0_blk, x_gpe1_blk;
	struct acpi_address sleep_control_reg, sleep_status_reg;
	char hypervisor_vendor[8];
} __attribute__((packed));

enum { PROFILE_DESKTOP = 1 }; /* §5.2.9.1 */
enum {                        /* §5.2.9.3 */
       BOOT_LEGACY_DEVICES = 1 << 0,
       BOOT_8042 = 1 << 1,
       BOOT_VGA_NOT_PRESENT = 1 << 2,
       BOOT_NO_ASPM = 1 << 4,
       BOOT_CMOS_RTC_NOT_PRESENT = 1 << 5,
};
enum { /* table 5.10 */
       FADT_WBINVD = 1 << 0,
       FADT_PROC_C1 = 1 << 2,
       FADT_SLP_BUTTON = 1 << 5, /* none in fixed hardware; the power button's bit says the same */
       FADT_TMR_VAL_EXT = 1 << 8,
       FADT_RESET_REG_SUP = 1 << 10,
       FADT_USE_PLATFORM_CLOCK = 1 << 15,
};
#define NO_C2_LATENCY    101 /* above 100 and 1000 the states are not there (§5.2.9) */
#define NO_C3_LATENCY    1001
#define RTC_CENTURY      0x32
#define RESET_PORT       0xcf9
#define RESET_PORT_VALUE 6
#define PM1_EVENT_SIZE   4
#define PM1_CONTROL_SIZE 2
#define PM_TIMER_SIZE    4

struct acpi_facs { /* §5.2.10 */
	char signature[4];
	uint32_t length, hardware_signature, waking_vector, global_lock, flags;
	uint64_t x_waking_vector;
	uint8_t version, reserved[3];
	uint32_t ospm_flags;
	uint8_t reserved2[24];
} __attribute__((packed));
#define FACS_ALIGN  64
#define TABLE_ALIGN 16

struct madt { /* §5.2.12 */
	struct acpi_header header;
	uint32_t lapic_address, flags;
} __attribute__((packed));
enum { MADT_PCAT_COMPAT = 1 }; /* two 8259s are there too */

struct madt_lapic { /* §5.2.12.2 */
	uint8_t type, length, uid, apic_id;
	uint32_t flags;
} __attribute__((packed));

struct madt_ioapic { /* §5.2.12.3 */
	uint8_t type, length, id, reserved;
	uint32_t address, gsi_base;
} __attribute__((packed));

struct madt_override { /* §5.2.12.5 */
	uint8_t type, length, bus, irq;
	uint32_t gsi;
	uint16_t flags;
} __attribute__((packed));

struct madt_lapic_nmi { /* §5.2.12.7 */
	uint8_t type, length, uid;
	uint16_t flags;
	uint8_t lint;
} __attribute__((packed));

struct madt_x2apic { /* §5.2.12.12 */
	uint8_t type, length;
	uint16_t reserved;
	uint32_t apic_id, flags, uid;
} __attribute__((packed));

struct madt_x2apic_nmi { /* §5.2.12.13 */
	uint8_t type, length;
	uint16_t flags;
	uint32_t uid;
	uint8_t lint, reserved[3];
} __attribute__((packed));

enum {
	MADT_LAPIC = 0,
	MADT_IOAPIC = 1,
	MADT_OVERRIDE = 2,
	MADT_LAPIC_NMI = 4,
	MADT_X2APIC = 9,
	MADT_X2APIC_NMI = 10,
};
#define MADT_ENABLED          1
#define MPS_ACTIVE_HIGH_LEVEL 0xd /* table 5.25 */
#define ALL_PROCESSORS        0xff
#define ALL_X2APIC_PROCESSORS 0xffffffff
#define XAPIC_MAX_ID          0xfe

struct mcfg { /* PCI Firmware 3.2 §4.1.2 */
	struct acpi_header header;
	uint64_t reserved;
	uint64_t base;
	uint16_t segment;
	uint8_t first_bus, last_bus;
	uint32_t reserved2;
} __attribute__((packed));

struct acpi_hpet { /* IA-PC HPET 1.0a §3.2.4 */
	struct acpi_header header;
	uint32_t id;
	struct acpi_address address;
	uint8_t number;
	uint16_t min_tick;
	uint8_t page_protection;
} __attribute__((packed));

_Static_assert(sizeof(struct acpi_rsdp) == 36, "§5.2.5.3");
_Static_assert(sizeof(struct acpi_header) == 36, "§5.2.6");
_Static_assert(sizeof(struct acpi_fadt) == 276, "§5.2.9");
_Static_assert(sizeof(struct acpi_facs) == 64, "§5.2.10");
_Static_assert(sizeof(struct madt) == 44, "§5.2.12");
_Static_assert(sizeof(struct acpi_hpet) == 56, "HPET §3.2.4");

/* --- Placing tables --- */

struct area {
	const struct gmem *gm;
	uint64_t next;
	bool full;
};

static uint8_t checksum(const void *data, size_t n)
{
	const uint8_t *bytes = data;
	uint8_t sum = 0;

	while (n--)
		sum -= *bytes++;
	return sum;
}

/* Returns where it is. */
static uint64_t place(struct area *area, const void *data, size_t n, uint64_t align)
{
	uint64_t gpa = ALIGN_UP(area->next, align);

	area->next = gpa + n;
	if (area->next > ACPI_AREA_GPA + ACPI_AREA_SIZE || !gmem_write(area->gm, gpa, data, n))
		area->full = true;
	return gpa;
}

static struct acpi_header header(const char *signature, uint8_t revision)
{
	struct acpi_header h = { .revision = revision,
				 .oem_revision = REVISION,
				 .creator_revision = REVISION };

	memcpy(h.signature, signature, sizeof(h.signature));
	memcpy(h.oem_id, OEM_ID, sizeof(h.oem_id));
	memcpy(h.oem_table_id, OEM_TABLE_ID, sizeof(h.oem_table_id));
	memcpy(h.creator_id, CREATOR_ID, sizeof(h.creator_id));
	return h;
}

/* Completes the header that the buffer begins with, places the table, and empties the buffer. */
static uint64_t place_table(struct area *area, struct aml *a)
{
	uint32_t length = a->len;
	uint64_t gpa;

	memcpy(a->data + offsetof(struct acpi_header, length), &length, sizeof(length));
	a->data[offsetof(struct acpi_header, checksum)] = checksum(a->data, a->len);
	gpa = place(area, a->data, a->len, TABLE_ALIGN);
	aml_free(a);
	return gpa;
}

/* --- The tables --- */

static uint64_t place_facs(struct area *area)
{
	struct acpi_facs facs = { .signature = "FACS", .length = sizeof(facs), .version = 2 };

	return place(area, &facs, sizeof(facs), FACS_ALIGN);
}

static uint64_t place_dsdt(struct area *area, const struct acpi_config *config)
{
	/* From revision 2 on, integers have 64 bits. */
	struct acpi_header h = header("DSDT", 2);
	struct aml a = {};

	aml_bytes(&a, &h, sizeof(h));
	acpi_dsdt(&a, config);
	return place_table(area, &a);
}

static struct acpi_address io_address(uint16_t port, uint8_t bytes, uint8_t access)
{
	return (struct acpi_address){ .space = SPACE_SYSTEM_IO,
				      .bit_width = bytes * 8,
				      .access_size = access,
				      .address = port };
}

static void describe_timer(struct acpi_fadt *fadt)
{
	fadt->pm_tmr_blk = MACHINE_PM_BASE + PM_TIMER;
	fadt->pm_tmr_len = PM_TIMER_SIZE;
	fadt->x_pm_tmr_blk = io_address(fadt->pm_tmr_blk, PM_TIMER_SIZE, ACCESS_DWORD);
	fadt->flags |= FADT_TMR_VAL_EXT | FADT_USE_PLATFORM_CLOCK;
}

static void describe_gpe(struct acpi_fadt *fadt)
{
	fadt->gpe0_blk = MACHINE_PM_BASE + PM_GPE0;
	fadt->gpe0_blk_len = PM_GPE0_SIZE;
	fadt->x_gpe0_blk = io_address(fadt->gpe0_blk, PM_GPE0_SIZE, ACCESS_BYTE);
}

static uint16_t boot_architecture(const struct acpi_config *config)
{
	uint16_t flags = BOOT_LEGACY_DEVICES | BOOT_NO_ASPM;

	if (config->i8042)
		flags |= BOOT_8042;
	if (!config->vga)
		flags |= BOOT_VGA_NOT_PRESENT;
	if (!config->rtc)
		flags |= BOOT_CMOS_RTC_NOT_PRESENT;
	return flags;
}

static uint64_t place_fadt(struct area *area, const struct acpi_config *config, uint64_t facs,
			   uint64_t dsdt)
{
	struct acpi_fadt fadt = {
		.header = header("FACP", 6),
		.minor_version = 3,
		.firmware_ctrl = facs,
		.dsdt = dsdt,
		.x_dsdt = dsdt,
		.preferred_pm_profile = PROFILE_DESKTOP,
		.sci_int = MACHINE_SCI_GSI,
		.pm1a_evt_blk = MACHINE_PM_BASE + PM_EVENT,
		.pm1_evt_len = PM1_EVENT_SIZE,
		.x_pm1a_evt_blk =
			io_address(MACHINE_PM_BASE + PM_EVENT, PM1_EVENT_SIZE, ACCESS_WORD),
		.pm1a_cnt_blk = MACHINE_PM_BASE + PM_CONTROL,
		.pm1_cnt_len = PM1_CONTROL_SIZE,
		.x_pm1a_cnt_blk =
			io_address(MACHINE_PM_BASE + PM_CONTROL, PM1_CONTROL_SIZE, ACCESS_WORD),
		.p_lvl2_lat = NO_C2_LATENCY,
		.p_lvl3_lat = NO_C3_LATENCY,
		.century = config->rtc ? RTC_CENTURY : 0,
		.iapc_boot_arch = boot_architecture(config),
		.flags = FADT_WBINVD | FADT_PROC_C1 | FADT_SLP_BUTTON | FADT_RESET_REG_SUP,
		.reset_reg = io_address(RESET_PORT, 1, ACCESS_BYTE),
		.reset_value = RESET_PORT_VALUE,
		.hypervisor_vendor = "Revirt",
	};
	struct aml a = {};

	if (!config->minimal) {
		describe_timer(&fadt);
		describe_gpe(&fadt);
	}
	aml_bytes(&a, &fadt, sizeof(fadt));
	return place_table(area, &a);
}

static void add_processor(struct aml *a, uint32_t uid, uint32_t apic_id)
{
	struct madt_lapic lapic = { MADT_LAPIC, sizeof(lapic), uid, apic_id, MADT_ENABLED };
	struct madt_x2apic x2apic = { MADT_X2APIC, sizeof(x2apic), 0, apic_id, MADT_ENABLED, uid };

	if (apic_id <= XAPIC_MAX_ID)
		aml_bytes(a, &lapic, sizeof(lapic));
	else
		aml_bytes(a, &x2apic, sizeof(x2apic));
}

/* NMI is wired to LINT1 of every processor. */
static void add_nmi(struct aml *a, bool x2apic_too)
{
	struct madt_lapic_nmi lapic = { MADT_LAPIC_NMI, sizeof(lapic), ALL_PROCESSORS, 0, 1 };
	struct madt_x2apic_nmi x2apic = { MADT_X2APIC_NMI, sizeof(x2apic), 0, ALL_X2APIC_PROCESSORS,
					  1 };

	aml_bytes(a, &lapic, sizeof(lapic));
	if (x2apic_too)
		aml_bytes(a, &x2apic, sizeof(x2apic));
}

static uint64_t place_madt(struct area *area, const struct acpi_config *config)
{
	struct madt madt = { header("APIC", 5), MACHINE_LAPIC_BASE, MADT_PCAT_COMPAT };
	struct madt_ioapic ioapic = { MADT_IOAPIC, sizeof(ioapic), 0, 0, MACHINE_IOAPIC_BASE, 0 };
	/* The timer is wired to pin 2, and the SCI is level-triggered unlike the rest of ISA. */
	struct madt_override overrides[] = {
		{ MADT_OVERRIDE, sizeof(overrides[0]), 0, 0, 2, 0 },
		{ MADT_OVERRIDE, sizeof(overrides[0]), 0, MACHINE_SCI_GSI, MACHINE_SCI_GSI,
		  MPS_ACTIVE_HIGH_LEVEL },
	};
	struct aml a = {};
	bool x2apic = false;

	aml_bytes(&a, &madt, sizeof(madt));
	for (unsigned i = 0; i < config->n_vcpus; i++) {
		add_processor(&a, i, config->apic_ids[i]);
		x2apic |= config->apic_ids[i] > XAPIC_MAX_ID;
	}
	aml_bytes(&a, &ioapic, sizeof(ioapic));
	aml_bytes(&a, overrides, sizeof(overrides));
	add_nmi(&a, x2apic);
	return place_table(area, &a);
}

static uint64_t place_mcfg(struct area *area, const struct acpi_config *config)
{
	struct mcfg mcfg = { .header = header("MCFG", 1),
			     .base = config->windows.ecam_base,
			     .last_bus = config->last_bus };
	struct aml a = {};

	aml_bytes(&a, &mcfg, sizeof(mcfg));
	return place_table(area, &a);
}

static uint64_t place_hpet(struct area *area)
{
	struct acpi_hpet hpet = { .header = header("HPET", 1),
				  .id = HPET_ID,
				  .address = { .space = SPACE_SYSTEM_MEMORY,
					       .bit_width = 64,
					       .address = MACHINE_HPET_BASE } };
	struct aml a = {};

	aml_bytes(&a, &hpet, sizeof(hpet));
	return place_table(area, &a);
}

static void write_rsdp(const struct gmem *gm, uint64_t xsdt)
{
	struct acpi_rsdp rsdp = { .signature = "RSD PTR ",
				  .oem_id = OEM_ID,
				  .revision = 2,
				  .length = sizeof(rsdp),
				  .xsdt = xsdt };

	rsdp.checksum = checksum(&rsdp, RSDP_V1_SIZE);
	rsdp.extended_checksum = checksum(&rsdp, sizeof(rsdp));
	gmem_write(gm, ACPI_AREA_GPA, &rsdp, sizeof(rsdp));
}

int acpi_build(const struct gmem *gm, const struct acpi_config *config, uint64_t *rsdp_gpa,
	       struct error **err)
{
	struct area area = { .gm = gm, .next = ACPI_AREA_GPA + sizeof(struct acpi_rsdp) };
	struct acpi_header h = header("XSDT", 1);
	struct aml xsdt = {};
	uint64_t facs = place_facs(&area), dsdt = place_dsdt(&area, config);

	aml_bytes(&xsdt, &h, sizeof(h));
	aml_raw(&xsdt, place_fadt(&area, config, facs, dsdt), 8);
	aml_raw(&xsdt, place_madt(&area, config), 8);
	if (config->pci)
		aml_raw(&xsdt, place_mcfg(&area, config), 8);
	if (config->hpet)
		aml_raw(&xsdt, place_hpet(&area), 8);
	write_rsdp(gm, place_table(&area, &xsdt));
	if (area.full) {
		error_set(err, "the ACPI tables need RAM up to %#llx: use -m 2M or more",
			  (unsigned long long)area.next);
		return -1;
	}
	*rsdp_gpa = ACPI_AREA_GPA;
	return 0;
}
