/*
 * Something for a debugger to look at: a loop with a function to stop in and a variable to watch,
 * which goes on until the debugger sets `leave`. With own=1 the guest first meets an INT3 and a
 * single step of its own making, which are none of the debugger's business. With halt=1 it halts
 * for good before its loop, with timer=1 a timer interrupts it a thousand times a second.
 */
#include "rt.h"

#define VECTOR_DB      1
#define VECTOR_BP      3
#define VECTOR_TIMER   32
#define GATE_INTERRUPT 0x8e00 /* present, 32-bit interrupt gate, DPL 0 */
#define FLAGS_TF       0x100
#define DR6_BS         0x4000

/* 8259A and 8254: their ports in a PC, and what makes a tick of a thousandth of a second. */
#define PIC_COMMAND  0x20
#define PIC_DATA     0x21
#define PIC_INIT     0x11 /* ICW1: four words follow */
#define PIC_8086     0x01 /* ICW4 */
#define PIC_EOI      0x20
#define PIT_COUNTER0 0x40
#define PIT_CONTROL  0x43
#define PIT_RATE     0x34 /* counter 0, two bytes, mode 2 */
#define PIT_1_KHZ    1193

volatile uint32_t counter, watched, leave, own_breakpoints, own_steps, ticks;

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
} idt[VECTOR_TIMER + 1];

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

static void load_idt(void)
{
	struct {
		uint16_t limit;
		uint32_t base;
	} __attribute__((packed)) idtr = { sizeof(idt) - 1, (uint32_t)idt };

	__asm__ volatile("lidt %0" : : "m"(idtr));
}

static void debug_myself(void)
{
	set_gate(VECTOR_BP, on_breakpoint);
	set_gate(VECTOR_DB, on_debug);
	load_idt();
	__asm__ volatile("int3" : : : "memory");
	CHECK(own_breakpoints == 1);
	__asm__ volatile("pushfl; orl %0, (%%esp); popfl; nop" : : "i"(FLAGS_TF) : "memory", "cc");
	CHECK(own_steps == 1);
	print("own %u %u\n", own_breakpoints, own_steps);
}

/* --- Halted, and interrupted ---- */

/* Interrupts are off: only a debugger gets it going again. */
static void halt(void)
{
	print("halting\n");
	__asm__ volatile(".globl halted\n\thlt\nhalted:\n\tnop\n\tnop\n\tnop");
	print("going on\n");
}

__attribute__((interrupt)) static void on_timer(struct frame *frame)
{
	ticks++;
	outb(PIC_COMMAND, PIC_EOI);
}

static void start_timer(void)
{
	set_gate(VECTOR_TIMER, on_timer);
	load_idt();
	outb(PIC_COMMAND, PIC_INIT);
	outb(PIC_DATA, VECTOR_TIMER);
	outb(PIC_DATA, 4);
	outb(PIC_DATA, PIC_8086);
	outb(PIC_DATA, 0xfe);
	outb(PIT_CONTROL, PIT_RATE);
	outb(PIT_COUNTER0, PIT_1_KHZ & 0xff);
	outb(PIT_COUNTER0, PIT_1_KHZ >> 8);
	__asm__ volatile("sti");
}

void guest_main(void)
{
	if (param("own", 0))
		debug_myself();
	if (param("halt", 0))
		halt();
	if (param("timer", 0))
		start_timer();
	print("ready\n");
	while (!leave) {
		tick();
		touch(counter);
	}
	print("left after %s\n", counter ? "a while" : "nothing");
}
