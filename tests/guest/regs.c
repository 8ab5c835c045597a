/*
 * The state a guest is entered in, against what its boot protocol promises: registers, segments,
 * A20, memory map. With ram=N the map must hold N MiB of RAM less what firmware keeps.
 */
#include "rt.h"

#define CR0_PE   0x00000001
#define CR0_PG   0x80000000
#define CR4_PAE  0x00000020
#define FLAGS_IF 0x00000200
#define FLAGS_VM 0x00020000

static void check_registers(void)
{
	print("protocol %s\n", boot_protocol == BOOT_MULTIBOOT ? "multiboot" : "pvh");
	print("eax %08x ebx %08x cr0 %08x cr4 %08x eflags %08x\n", boot_state.eax, boot_state.ebx,
	      boot_state.cr0, boot_state.cr4, boot_state.eflags);
	print("cs %04x ds %04x es %04x ss %04x\n", boot_state.cs, boot_state.ds, boot_state.es,
	      boot_state.ss);
	CHECK(boot_state.cr0 & CR0_PE);
	CHECK(!(boot_state.cr0 & CR0_PG));
	CHECK(!(boot_state.cr4 & CR4_PAE));
	CHECK(!(boot_state.eflags & (FLAGS_IF | FLAGS_VM)));
}

/* With A20 closed these two addresses would be one. */
static void check_a20(void)
{
	static volatile uint32_t probe;
	volatile uint32_t *low = (volatile uint32_t *)((uint32_t)&probe & ~0x100000u);
	uint32_t kept = *low;

	probe = 0x12345678;
	*low = 0x87654321;
	CHECK(probe == 0x12345678);
	*low = kept;
}

static bool overlap(const struct memory_range *a, const struct memory_range *b)
{
	return a->base < b->base + b->size && b->base < a->base + a->size;
}

static void check_map(void)
{
	struct memory_range r, other;
	uint64_t ram = 0;

	for (unsigned i = 0; memory_map(i, &r); i++) {
		print("map %u: %X-%X type %u\n", i, r.base, r.base + r.size, r.type);
		CHECK(r.size && r.base + r.size > r.base);
		if (r.type == 1)
			ram += r.size;
		for (unsigned j = 0; j < i && memory_map(j, &other); j++)
			CHECK(!overlap(&r, &other));
	}
	print("ram %u KiB\n", (uint32_t)(ram >> 10));
	CHECK(ram_end() > 0x200000);
	if (param_given("ram")) {
		uint32_t wanted = param("ram", 0) << 10, found = ram >> 10;

		/* The legacy hole below 1 MiB, and what firmware keeps for itself. */
		CHECK(found <= wanted && wanted - found <= 1024);
	}
}

void guest_main(void)
{
	check_registers();
	check_a20();
	check_map();
	print("cmdline: %s\n", boot_cmdline);
}
