/*
 * Triple faults, each by itself with case=NAME: nothing can be delivered, and the machine resets.
 * To come back from one is the failure.
 */
#include "arch.h"

static const struct {
	uint16_t limit;
	uint64_t base;
} __attribute__((packed)) no_table;

TEST(no_idt)
{
	print("faulting\n");
	__asm__ volatile("lidt %0; ud2" : : "m"(no_table));
}
TEST(no_gates)
{
	memset(idt64, 0, 4096);
	print("faulting\n");
	__asm__ volatile("int3");
}
TEST(no_stack)
{
	for (unsigned i = 0; i < 32; i++)
		gate64(i, (uint64_t)&stubs64[16 * i], CS64, 0, 0xe, 0);
	low_page(DATA_AT, 0);
	print("faulting\n");
	__asm__ volatile("movq %0, %%rsp; pushq %%rax" : : "r"((uint64_t)DATA_AT + 0x800));
}
TEST(no_pages)
{
	static uint64_t nothing[512] __attribute__((aligned(4096)));

	print("faulting\n");
	write_cr3((uint64_t)nothing);
}
