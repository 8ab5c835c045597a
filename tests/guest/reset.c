/*
 * Every way to reset a PC from within, in a row: the machine starts this program anew each time,
 * and a byte of CMOS memory, which a reset leaves alone, says how far it has come. With path=N only
 * that way is taken.
 */
#include "rt.h"

#define CMOS_STEP 0x50 /* free on PCs */
#define STARTED   0x80 /* a power-on value no step has: bits 0-3 count, this marks them ours */

static void by_reset_control(void)
{
	outb(0xcf9, 0x02);
	outb(0xcf9, 0x06);
}

static void by_reset_control_full(void)
{
	outb(0xcf9, 0x0e);
}

static void by_keyboard_controller(void)
{
	outb(0x64, 0xfe);
}

static void by_keyboard_output_port(void)
{
	outb(0x64, 0xd1);
	while (inb(0x64) & 2)
		;
	outb(0x60, 0xde);
}

static void by_port_92(void)
{
	outb(0x92, inb(0x92) & ~1);
	outb(0x92, inb(0x92) | 1);
}

/* No interrupt table: the invalid opcode cannot be delivered, nor can the faults that follow. */
static void by_triple_fault(void)
{
	static const struct {
		uint16_t limit;
		uint32_t base;
	} __attribute__((packed)) none;

	__asm__ volatile("lidt %0; ud2" : : "m"(none));
}

static const struct {
	const char *name;
	void (*reset)(void);
} paths[] = {
	{ "port 0xcf9", by_reset_control },
	{ "port 0xcf9, full", by_reset_control_full },
	{ "keyboard controller", by_keyboard_controller },
	{ "keyboard controller's output port", by_keyboard_output_port },
	{ "port 0x92", by_port_92 },
	{ "triple fault", by_triple_fault },
};

static uint8_t get_step(void)
{
	outb(0x70, CMOS_STEP);
	return inb(0x71);
}

static void set_step(uint8_t step)
{
	outb(0x70, CMOS_STEP);
	outb(0x71, step);
}

static void take(unsigned path)
{
	print("reset by %s\n", paths[path].name);
	paths[path].reset();
	sleep_us(2000000);
	print("FAIL: still here\n");
	verdict(FAIL);
}

void guest_main(void)
{
	static uint32_t starts; /* the image is loaded afresh each time */
	uint8_t step = get_step();

	CHECK(starts++ == 0);
	step = step & STARTED ? step & ~STARTED : 0;
	if (param_given("path") && step == 0) {
		set_step(STARTED | 1);
		CHECK(param("path", 0) < ARRAY_SIZE(paths));
		take(param("path", 0));
	}
	if (!param_given("path") && step < ARRAY_SIZE(paths)) {
		set_step(STARTED | (step + 1));
		take(step);
	}
	set_step(0);
	print("%u resets\n", step);
}
