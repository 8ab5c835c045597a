/*
 * Something for a debugger to look at: a loop with a function to stop in and a variable to watch,
 * which goes on until the debugger sets `leave`. With own=1 the guest first meets an INT3 and a
 * single step of its own making, which are none of the debugger's business.
 */
#include "rt.h"

#define VECTOR_DB      1
#define VECTOR_BP      3
#define GATE_INTERRUPT 0x8e00 /* present, 32-bit interrupt gate, DPL 0 */
#define FLAGS_TF       0x100
#define DR6_BS         0x4000

volatile uint32_t counter, watched, leave, own_breakpoints, own_steps;

void tick(void);
void touch(uint32_t value);

/* Not inlined: their addresses are where a debugger stops. */
__attribute__((noinline)) void tick(void)
{
	counter++;
}

__attribute__((noinline)) void touch(uint32_t value)
{
	watched = value;
}

/* --- The guest's own ---- */

struct frame {
	uint32_t eip, cs, eflags;
};

static struct {
	uint16_t offset_low, selector, attributes, offset_high;
} idt[VECTOR_BP + 1];

__attribute__((interrupt)) static void on_breakpoint(struct frame *frame)
{
	own_breakpoints++;
}

__attribute__((interrupt)) static void on_debug(struct frame *frame)
{
	uint32_t dr6;

	__asm__ volatile("movl %%dr6, %0" : "=r"(dr6));
	if (dr6 & DR6_BS)
		own_steps++;
	frame->eflags &= ~FLAGS_TF;
}

static void set_gate(unsigned vector, void (*handler)(struct frame *frame))
{
	idt[vector].offset_low = (uint32_t)handler;
	idt[vector].offset_high = (uint32_t)handler >> 16;
	idt[vector].selector = boot_state.cs;
	idt[vector].attributes = GATE_INTERRUPT;
}

static void debug_myself(void)
{
	struct {
		uint16_t limit;
		uint32_t base;
	} __attribute__((packed)) idtr = { sizeof(idt) - 1, (uint32_t)idt };

	set_gate(VECTOR_BP, on_breakpoint);
	set_gate(VECTOR_DB, on_debug);
	__asm__ volatile("lidt %0" : : "m"(idtr));
	__asm__ volatile("int3" : : : "memory");
	CHECK(own_breakpoints == 1);
	__asm__ volatile("pushfl; orl %0, (%%esp); popfl; nop" : : "i"(FLAGS_TF) : "memory", "cc");
	CHECK(own_steps == 1);
	print("own %u %u\n", own_breakpoints, own_steps);
}

void guest_main(void)
{
	if (param("own", 0))
		debug_myself();
	print("ready\n");
	while (!leave) {
		tick();
		touch(counter);
	}
	print("left after %s\n", counter ? "a while" : "nothing");
}
