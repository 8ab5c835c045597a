/*
 * The platform as software without drivers sees it: PCI by ports and ECAM, clock, PM timer,
 * keyboard controller; and the ends a guest can come to: power-off (end=poweroff), at once or when
 * the power button is pressed (wait=button), and a panic (end=panic).
 */
#include "pci.h"
#include "rt.h"

#define PM1_STATUS       PM_BASE
#define PM1_ENABLE       (PM_BASE + 2)
#define PM1_CONTROL      (PM_BASE + 4)
#define PM1_PWRBTN       0x0100
#define PM1_SLP_EN       0x2000
#define SLP_TYP_S5       5
#define SLP_TYP_S5_Q35   0 /* what QEMU's q35 means by S5 */
#define PVPANIC_PORT     0x505
#define PVPANIC_PANICKED 1
#define Q35_HOST         0x29c08086

static void check_pci(void)
{
	CHECK(pci_read(0, 0, 4) == Q35_HOST);
	for (pci_t fn = 0; pci_next(&fn); fn++) {
		uint32_t id = pci_read(fn, 0, 4), class = pci_read(fn, 8, 4) >> 8;

		print("pci %02x:%02x.%u %04x:%04x class %06x\n", fn >> 8, fn >> 3 & 31, fn & 7,
		      id & 0xffff, id >> 16, class);
		CHECK(read32(pci_ecam(fn, 0)) == id);
		CHECK(read16(pci_ecam(fn, 2)) == id >> 16);
		CHECK(pci_read(fn, 3, 1) == id >> 24);
	}
	CHECK(pci_read(0x1f << 3 | 7, 0, 4) == UINT32_MAX);
}

static uint8_t cmos(uint8_t reg)
{
	outb(0x70, reg);
	return inb(0x71);
}

/* A second passes on the clock within one and a half on the PM timer. */
static void check_clock(void)
{
	uint32_t start = time_us();
	uint8_t second;

	while (cmos(0x0a) & 0x80)
		;
	second = cmos(0x00);
	print("rtc 20%02x-%02x-%02x %02x:%02x:%02x\n", cmos(0x09), cmos(0x08), cmos(0x07),
	      cmos(0x04), cmos(0x02), second);
	CHECK(cmos(0x0d) & 0x80);
	CHECK(second < 0x60 && cmos(0x08) >= 0x01 && cmos(0x08) <= 0x12);
	while (cmos(0x00) == second)
		CHECK(time_us() - start < 1500000);
	cmos(0x0c);
	CHECK(cmos(0x15) + (cmos(0x16) << 8) == 640);
}

static void check_keyboard_controller(void)
{
	outb(0x64, 0xaa);
	for (unsigned i = 0; !(inb(0x64) & 1); i++)
		CHECK(i < 1000);
	CHECK(inb(0x60) == 0x55);
}

static void power_off(void)
{
	print("powering off\n");
	outw(PM1_CONTROL, SLP_TYP_S5 << 10 | PM1_SLP_EN);
	sleep_us(100000);
	outw(PM1_CONTROL, SLP_TYP_S5_Q35 << 10 | PM1_SLP_EN);
	sleep_us(2000000);
	print("FAIL: still here\n");
	verdict(FAIL);
}

/* What Linux's pvpanic driver does. */
static void panic(void)
{
	CHECK(inb(PVPANIC_PORT) & PVPANIC_PANICKED);
	print("panicking\n");
	outb(PVPANIC_PORT, PVPANIC_PANICKED);
	sleep_us(2000000);
	print("FAIL: still here\n");
	verdict(FAIL);
}

static void wait_for_button(void)
{
	outw(PM1_STATUS, PM1_PWRBTN);
	outw(PM1_ENABLE, PM1_PWRBTN);
	print("waiting for the power button\n");
	while (!(inw(PM1_STATUS) & PM1_PWRBTN))
		sleep_us(1000);
	print("power button pressed\n");
	outw(PM1_STATUS, PM1_PWRBTN);
	CHECK(!(inw(PM1_STATUS) & PM1_PWRBTN));
}

void guest_main(void)
{
	if (param_is("wait", "button")) {
		wait_for_button();
		power_off();
	}
	check_pci();
	check_clock();
	check_keyboard_controller();
	if (param_is("end", "poweroff"))
		power_off();
	if (param_is("end", "panic"))
		panic();
}
