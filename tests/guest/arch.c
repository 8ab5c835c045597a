/*
 * The library of the arch guests: descriptor tables, the ways in and out of a case, the list of
 * cases. See arch.h. Before each case the machine is set up anew, so none can harm the next.
 */
#include "arch.h"

#define MSR_STAR           0xc0000081
#define MSR_LSTAR          0xc0000082
#define MSR_SYSENTER_CS    0x174
#define MSR_SYSENTER_ESP   0x175
#define MSR_SYSENTER_EIP   0x176
#define IDT_DPL3(vector)   ((vector) == BP || (vector) == OF)
#define COM1_LCR           0x3fb
#define MAX_TOLD           6
#define UD2_SIZE           2
#define HANDLER_STACK_SIZE 4096

extern const struct arch_case arch_cases_start[], arch_cases_end[];
extern uint8_t trampoline[], trampoline_end[], real_common[], enter_long_iret[];
extern uint8_t legacy_real;
void enter_long(struct state *s);
void enter_prot(struct state *s);

uint64_t idt64[256][2] __attribute__((aligned(16)));
uint64_t idt32[256] __attribute__((aligned(16)));
uint64_t low_pt[512] __attribute__((aligned(4096)));
struct tss64 tss64 __attribute__((aligned(16)));
struct tss32 tss32 __attribute__((aligned(16)));
static uint8_t handler_stacks[3][HANDLER_STACK_SIZE] __attribute__((aligned(16)));
static const struct arch_case *running;
static bool failed;
static unsigned told;     /* lines about a case: some would have thousands */
static uint32_t code_end; /* offset of the UD2 */
static uint64_t gdt_kept[GDT_SIZE / 8];

/* --- Instructions ---- */

uint64_t rdmsr(uint32_t msr)
{
	uint32_t low, high;

	__asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
	return (uint64_t)high << 32 | low;
}

void wrmsr(uint32_t msr, uint64_t value)
{
	__asm__ volatile("wrmsr"
			 :
			 : "c"(msr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32))
			 : "memory");
}

uint64_t rdtsc(void)
{
	uint32_t low, high;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	return (uint64_t)high << 32 | low;
}

void cpuid(uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
	__asm__ volatile("cpuid"
			 : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3])
			 : "a"(leaf), "c"(subleaf));
}

void invlpg(uint64_t address)
{
	__asm__ volatile("invlpg (%0)" : : "r"(address) : "memory");
}

/* Bit `bit` of register `reg` of a CPUID leaf that exists. */
static bool feature(uint32_t leaf, unsigned reg, unsigned bit)
{
	uint32_t r[4];

	cpuid(leaf & 0x80000000, 0, r);
	if (r[0] < leaf)
		return false;
	cpuid(leaf, 0, r);
	return r[reg] >> bit & 1;
}

#define FEATURE(name, leaf, reg, bit)           \
	bool has_##name(void)                   \
	{                                       \
		return feature(leaf, reg, bit); \
	}
FEATURE(smep, 7, 1, 7)
FEATURE(smap, 7, 1, 20)
FEATURE(bmi, 7, 1, 8)
FEATURE(adx, 7, 1, 19)
FEATURE(sha, 7, 1, 29)
FEATURE(misalignsse, 0x80000001, 2, 7)
FEATURE(fsgsbase, 7, 1, 0)
FEATURE(umip, 7, 2, 2)
FEATURE(pclmul, 1, 2, 1)
FEATURE(movbe, 1, 2, 22)
FEATURE(aes, 1, 2, 25)
FEATURE(xsave, 1, 2, 26)
FEATURE(rdrand, 1, 2, 30)
FEATURE(1g, 0x80000001, 3, 26)
FEATURE(nx, 0x80000001, 3, 20)
FEATURE(rdtscp, 0x80000001, 3, 27)
FEATURE(lahf, 0x80000001, 2, 0)

bool has_xsaveopt(void)
{
	uint32_t r[4];

	if (!has_xsave())
		return false;
	cpuid(0xd, 1, r);
	return r[0] & 1;
}

bool has_amd(void)
{
	uint32_t r[4];

	cpuid(0, 0, r);
	return r[1] == 0x68747541; /* "Auth" */
}

/* AMD's have no SYSENTER in long mode (APM vol. 2 §6.1.2), Intel's have. */
bool has_sysenter_long(void)
{
	return !has_amd();
}

bool has_no_sysenter_long(void)
{
	return has_amd();
}

/* --- Tables ---- */

uint64_t descriptor(uint32_t base, uint32_t limit, unsigned type, unsigned flags)
{
	return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)type << 40 |
	       (uint64_t)(limit >> 16 & 15) << 48 | (uint64_t)flags << 52 |
	       (uint64_t)(base >> 24) << 56;
}

uint64_t gate32(uint32_t offset, unsigned selector, unsigned type, unsigned dpl, unsigned count)
{
	return (offset & 0xffff) | (uint64_t)selector << 16 | (uint64_t)count << 32 |
	       (uint64_t)(0x80 | dpl << 5 | type) << 40 | (uint64_t)(offset >> 16) << 48;
}

void gate64(unsigned vector, uint64_t offset, unsigned selector, unsigned ist, unsigned type,
	    unsigned dpl)
{
	idt64[vector][0] = gate32(offset, selector, type, dpl, ist);
	idt64[vector][1] = offset >> 32;
}

void call_gate64(unsigned i, uint64_t offset, unsigned selector, unsigned dpl)
{
	set_free(i, gate32(offset, selector, 0xc, dpl, 0));
	set_free(i + 1, offset >> 32);
}

void low_page(uint32_t address, uint64_t flags)
{
	low_pt[address >> 12] = (address & ~0xfffu) | flags;
	invlpg(address);
}

static void set_tss(void)
{
	uint32_t at = (uint32_t)(uint64_t)&tss64;

	memset(&tss64, 0, sizeof(tss64));
	memset(&tss32, 0, sizeof(tss32));
	for (unsigned i = 0; i < 3; i++)
		tss64.ist[i] = (uint64_t)handler_stacks[i + 1 > 2 ? 2 : i] + HANDLER_STACK_SIZE;
	tss64.rsp[0] = tss32.esp0 = (uint64_t)handler_stacks[1] + HANDLER_STACK_SIZE;
	tss32.ss0 = DS0;
	tss64.iomap = tss32.iomap = sizeof(tss64);
	gdt[TSS64 / 8] = descriptor(at, sizeof(tss64) - 1, 0x89, 0);
	gdt[TSS64 / 8 + 1] = 0;
	gdt[TSS32 / 8] = descriptor((uint32_t)(uint64_t)&tss32, sizeof(tss32) - 1, 0x89, 0);
	__asm__ volatile("ltr %w0" : : "r"(TSS64));
}

static void set_gates(void)
{
	for (unsigned i = 0; i < 256; i++) {
		gate64(i, (uint64_t)&stubs64[16 * i], CS64, 1, 0xe, IDT_DPL3(i) ? 3 : 0);
		idt32[i] = gate32((uint32_t)(uint64_t)&stubs32[16 * i], CS32, 0xe,
				  IDT_DPL3(i) ? 3 : 0, 0);
	}
}

/* Interrupt vectors 0 to 255 of real mode: push the vector, go to real_common. */
static void set_real(void)
{
	uint16_t common = TRAMPOLINE + (real_common - trampoline);

	memcpy((void *)TRAMPOLINE, trampoline, trampoline_end - trampoline);
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t at = REAL_STUBS + 6 * i;

		write8(at, 0x68); /* push imm16 */
		write16(at + 1, i);
		write8(at + 3, 0xe9); /* jmp rel16 */
		write16(at + 4, common - (at + 6));
		write32(4 * i, at);
	}
}

/* The machine as each case finds it. */
static void machine_init(void)
{
	memcpy(gdt, gdt_kept, GDT_SIZE);
	__asm__ volatile("lgdt gdtr; lidt idtr64; lldt %w0" : : "r"(0) : "memory");
	set_tss();
	set_gates();
	/* CPL 3 has the memory cases run in, and nothing else. */
	for (unsigned i = 0; i < 512; i++)
		low_pt[i] = (uint64_t)i << 12 | PTE_P | PTE_W |
			    (i >= CODE_AT >> 12 && i < LOW_END >> 12 ? PTE_U : 0);
	pd[0] = (uint64_t)low_pt | PTE_ALL;
	write_dr7(0x400);
	write_dr6(0xffff0ff0);
	write_cr4(CR4_HOST);
	write_cr0(CR0_HOST);
	wrmsr(MSR_EFER, EFER_LME | EFER_SCE | (has_nx() ? EFER_NXE : 0));
	write_cr3((uint64_t)pml4);
	legacy_cr0 = 0x11;
	legacy_cr3 = legacy_cr4 = 0;
	wrmsr(MSR_STAR, (uint64_t)(CS32U & ~3) << 48 | (uint64_t)CS64 << 32);
	wrmsr(MSR_SYSENTER_CS, 0);
	memset((void *)DATA_AT, 0, 0x3000);
}

/* --- Running ---- */

static const struct {
	uint16_t cs, ss, ds;
	bool small;
} modes[] = {
	[K64] = { CS64, DS0, DS0, false },
	[U64] = { CS64U, DS3, DS3, false },
	[K32] = { CS32, DS0, DS0, false },
	[U32] = { CS32U, DS3, DS3, false },
	[K16] = { CS16, SS16, DS16, true },
	[U16] = { CS16U, SS16U, DS16U, true },
	[P32] = { CS32, DS0, DS0, false },
	[Q32] = { CS32U, DS3, DS3, false },
	[P16] = { CS16, SS16, DS16, true },
	[Q16] = { CS16U, SS16U, DS16U, true },
	[REAL] = { CODE_AT >> 4, STACK_AT >> 4, DATA_AT >> 4, true },
};

void state_init(struct state *s, enum mode mode)
{
	memset(s, 0, sizeof(*s));
	s->rip = modes[mode].small ? 0 : CODE_AT;
	s->rsp = modes[mode].small ? STACK_TOP : STACK_AT + STACK_TOP;
	s->cs = modes[mode].cs;
	s->ss = modes[mode].ss;
	s->ds = s->es = s->fs = s->gs = modes[mode].ds;
	s->rflags = 2;
}

void code_load(const uint8_t *code, const uint8_t *end)
{
	code_end = end - code - UD2_SIZE;
	memcpy((void *)CODE_AT, code, end - code);
}

static void run_real(struct state *s)
{
	struct state *low = (struct state *)REAL_STATE;

	memcpy(low, s, sizeof(*s));
	low->vector = low->error = low->cr2 = 0;
	legacy_real = 1;
	enter_prot(low);
	legacy_real = 0;
	memcpy(s, low, sizeof(*s));
}

void run(struct state *s, enum mode mode)
{
	s->vector = s->error = s->cr2 = 0;
	s->rsp_ss[0] = s->rsp;
	s->rsp_ss[1] = s->ss;
	if (mode == REAL)
		run_real(s);
	else if (mode >= P32)
		enter_prot(s);
	else
		enter_long(s);
	if (s->vector == UD && s->rip == code_end + (modes[mode].small ? 0 : CODE_AT))
		s->vector = END;
}

void run_code(struct state *s, enum mode mode, const uint8_t *code, const uint8_t *end)
{
	state_init(s, mode);
	code_load(code, end);
	run(s, mode);
}

/* --- Cases ---- */

void case_failed(const char *file, unsigned line, const char *what)
{
	if (!failed)
		print("# %s fails\n", running->name);
	if (told++ < MAX_TOLD)
		print("#   %s:%u: %s\n", file, line, what);
	failed = true;
}

bool case_equal(const char *file, unsigned line, const char *what, uint64_t a, uint64_t b)
{
	if (a == b)
		return true;
	case_failed(file, line, what);
	if (told <= MAX_TOLD)
		print("#   is %X, should be %X\n", a, b);
	return false;
}

static void run_case(const struct arch_case *c)
{
	struct state s;

	state_init(&s, c->mode);
	code_load(c->code, c->end);
	if (c->setup)
		c->setup(&s);
	run(&s, c->mode);
	CHECK_EQUAL(s.vector, c->v);
	CHECK_EQUAL(s.error, c->e);
	if (c->v != END && !c->any_rip)
		CHECK_EQUAL(s.rip, (c->here - c->code) + (modes[c->mode].small ? 0 : CODE_AT));
	if (!c->any_rax)
		CHECK_EQUAL(s.rax, c->rax);
	if (c->v == PF)
		CHECK_EQUAL(s.cr2, c->cr2);
	if (c->flags_mask)
		CHECK_EQUAL(s.rflags & c->flags_mask, c->flags);
	if (failed)
		print("#   ended with vector %u error %x at %X cr2 %X\n", (uint32_t)s.vector,
		      (uint32_t)s.error, s.rip, s.cr2);
	if (c->check)
		c->check(&s);
}

unsigned oracle(void)
{
	return param_is("oracle", "tcg")       ? TCG
	       : param_is("oracle", "testbed") ? TESTBED
	       : param_is("oracle", "pvm")     ? PVM
	       : param_is("oracle", "bochs")   ? BOCHS
					       : 0;
}

void guest_main(void)
{
	static char cmdline[512];
	unsigned n = 0, bad = 0, who;

	/* The loader's copy may be where cases run. */
	for (unsigned i = 0; i < sizeof(cmdline) - 1 && boot_cmdline[i]; i++)
		cmdline[i] = boot_cmdline[i];
	boot_cmdline = cmdline;
	who = oracle();
	outb(COM1_LCR, 3); /* 8 bits: not all loaders leave them so */
	outb(0x21, 0xff);  /* no interrupts from the PICs */
	outb(0xa1, 0xff);
	memcpy(gdt_kept, gdt, GDT_SIZE);
	machine_init();
	set_real();
	print("1..%u\n", (uint32_t)(arch_cases_end - arch_cases_start));
	for (running = arch_cases_start; running < arch_cases_end; running++) {
		const char *skip = NULL;

		n++;
		if ((param_given("case") && !param_is("case", running->name)) ||
		    n < param("from", 1))
			skip = "not asked for";
		else if (running->wrong_on & who)
			skip = "known to be wrong here";
		else if (running->when && !running->when())
			skip = "the processor lacks it";
		if (skip) {
			print("ok %u - %s # skip %s\n", n, running->name, skip);
			continue;
		}
		if (param_given("trace"))
			print("# %s\n", running->name);
		failed = false;
		told = 0;
		machine_init();
		if (running->test)
			running->test();
		else
			run_case(running);
		machine_init();
		print("%s %u - %s\n", failed ? "not ok" : "ok", n, running->name);
		bad += failed;
	}
	if (bad) {
		print("%u of %u fail\n", bad, n);
		verdict(FAIL);
	}
}
