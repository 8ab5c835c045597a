/*
 * The software backend: x86-64 guests on an x86-64 host, without hardware virtualization.
 *
 * Who is who:
 *	soft.c		the backend's table: open, CPUID, capabilities, time
 *	vm.c		memory slots; which pages hold code
 *	vcpu.c		running, kicks, exits, state in and out
 *	mmu.c		page walks, the TLB, guest memory by linear address
 *	decode.c	bytes to struct soft_insn, kept by page
 *	native.c	instructions the host's processor can do as they are: a stub of host code
 *	exec_*.c	the others: data and flow, strings, system, floating point
 *	segments.c, events.c, tasks.c, msr.c	what these share
 *	jit.c		the translator's cache, and running what is in it
 *	translate.c	blocks of guest code to host code; access.c, copy.c, emit.c: its parts
 *
 * An instruction is done or it is not: until its last step succeeds it changes no guest
 * register, so that a fault, or an exit to the caller in the middle of it, leaves it to be begun
 * anew. What it exchanged with devices before is in a log and not asked again (struct
 * soft_device_log).
 *
 * Functions that do something for the guest return an enum soft_result.
 */
#ifndef REVIRT_HAV_SOFT_H
#define REVIRT_HAV_SOFT_H

#include "hav/backend.h"
#include "x86/registers.h"
#include "x86/segments.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>

#define SOFT_PAGE         4096u
#define SOFT_PAGE_MASK    4095u
#define SOFT_SIGNAL_STACK (256u << 10)
#define SOFT_PHYS_BITS    40 /* CPUID 0x80000008 tells the guest */
#define likely(x)         __builtin_expect(!!(x), 1)
#define unlikely(x)       __builtin_expect(!!(x), 0)

/*
 * With ASan these are calls, whatever the compiler's options say, and would change SSE registers
 * that are the guest's (see soft_fpu_take()).
 */
#ifdef __SANITIZE_ADDRESS__
static inline void *soft_memcpy(void *to, const void *from, size_t n)
{
	void *at = to;

	__asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(n) : : "memory");
	return to;
}
static inline void *soft_memset(void *to, int byte, size_t n)
{
	void *at = to;

	__asm__ volatile("rep stosb" : "+D"(at), "+c"(n) : "a"(byte) : "memory");
	return to;
}
#define memcpy soft_memcpy
#define memset soft_memset
#endif

enum soft_result {
	SOFT_DONE,  /* go on */
	SOFT_FAULT, /* vcpu->fault says which exception */
	SOFT_EXIT,  /* leave to the caller: vcpu->exit says why */
};

/* Registers in the order instructions encode them. */
enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };
enum { ES, CS, SS, DS, FS, GS, N_SEGMENTS };

/* Exceptions (Intel SDM vol. 3 table 6-1). */
enum {
	EXC_DE = 0,
	EXC_DB = 1,
	EXC_NMI = 2,
	EXC_BP = 3,
	EXC_OF = 4,
	EXC_BR = 5,
	EXC_UD = 6,
	EXC_NM = 7,
	EXC_DF = 8,
	EXC_TS = 10,
	EXC_NP = 11,
	EXC_SS = 12,
	EXC_GP = 13,
	EXC_PF = 14,
	EXC_MF = 16,
	EXC_AC = 17,
	EXC_XM = 19,
};

/* --- Memory ---------------------------------------------------------------------------------- */

#define SOFT_MAX_SLOTS 64

struct soft_slot {
	uint64_t gpa, size;
	uint8_t *host;
	bool writable;
	/* Of each page, its code generation: vm.c. */
	_Atomic uint32_t *code;
};

/* Immutable once published; replaced as a whole. */
struct soft_slots {
	unsigned n;
	struct soft_slot at[SOFT_MAX_SLOTS];
	struct soft_slots *older; /* freed with the VM: a vCPU may still look at it */
};

/* Host code for single instructions, a vCPU's own: native.c. */
#define SOFT_STUBS_SIZE (8u << 20)
#define SOFT_STUBS_HASH (1u << 18)
struct soft_stubs {
	uint8_t *writable;
	const uint8_t *code; /* the same memory */
	uint32_t used, n;
	uint32_t *hash; /* offsets of stubs; 0: free */
};
int soft_stubs_create(struct soft_stubs *stubs, struct error **err);
void soft_stubs_destroy(struct soft_stubs *stubs);
static inline bool soft_in_stubs(const struct soft_stubs *stubs, uint64_t rip)
{
	return rip - (uintptr_t)stubs->code < SOFT_STUBS_SIZE;
}
void soft_native_init(void);
struct soft_vcpu;
/* Faults of this thread's are this vCPU's from now on; NULL: nobody's. */
void soft_native_running(struct soft_vcpu *cpu);

struct soft_hav {
	struct hav hav;
	uint64_t tsc_khz;
};

struct soft_vm {
	struct hav_vm vm;
	pthread_mutex_t lock; /* slots, vCPUs */
	struct soft_slots *_Atomic slots;
	struct soft_vcpu *_Atomic vcpus[64];
	_Atomic unsigned n_vcpus;
	unsigned n_host;       /* processors that may run them */
	atomic_flag code_lock; /* one vCPU at a time makes a page a code page */
	uint64_t tsc_khz;
	_Atomic uint64_t tsc_offset; /* of the vCPU that was set last */
	pthread_mutex_t split_lock;  /* locked operations that the host cannot do in one piece */
};

enum soft_access { ACCESS_READ = 1, ACCESS_WRITE = 2, ACCESS_EXEC = 4 };

/*
 * Large tables, mostly empty, that are looked up by some low bits of an address. Journals say which
 * places are taken, the guest's global ones and the others, so that a flush costs as much as was
 * filled.
 */
#define SOFT_PLACES (1u << 20)
struct soft_journal {
	unsigned n[2];
	uint32_t places[2][SOFT_PLACES];
	uint8_t state[SOFT_PLACES]; /* JOURNAL_… */
};
enum { JOURNAL_OTHER, JOURNAL_GLOBAL };                   /* index of n, places */
enum { JOURNAL_LISTED = 1, JOURNAL_NOW_GLOBAL = 1 << 2 }; /* LISTED << index */

/*
 * Translations. An access may go straight to host memory, linear + addend, when the linear address
 * of its last byte plus the tag is less than a page.
 */
struct soft_tlb {
	uint64_t read[SOFT_PLACES], write[SOFT_PLACES], exec[SOFT_PLACES];
	uintptr_t addend[SOFT_PLACES];
	uint64_t gpa[SOFT_PLACES]; /* of the page */
	struct soft_journal journal;
};
/* What may be accessed depends on who asks. */
enum { TLB_SUPERVISOR, TLB_USER, TLB_SUPERVISOR_AC, N_TLBS };

static inline uint32_t soft_tlb_place(uint64_t linear)
{
	return (uint32_t)linear >> 12;
}
static inline uint64_t soft_tlb_tag(uint64_t linear)
{
	return -(linear & ~(uint64_t)SOFT_PAGE_MASK);
}
/* A tag that no address at this place fits, nor those around it. */
static inline uint64_t soft_tlb_no_tag(uint32_t place)
{
	return -((uint64_t)(place ^ SOFT_PLACES / 2) << 12);
}
static inline bool soft_tlb_fits(uint64_t tag, uint64_t linear, unsigned size)
{
	return linear + tag + size - 1 < SOFT_PAGE;
}

/* Translated code by the low 16 bits of its linear address; tag + address is 0. */
#define SOFT_JUMPS 65536u
struct soft_jumps {
	uint64_t tag[SOFT_JUMPS];
	const void *code[SOFT_JUMPS];
	struct soft_journal journal;
	uint64_t pages[64]; /* a bit for each page, by the low bits of its number, that has any */
};

/* Linear addresses from which large pages may be in the TLB. */
#define SOFT_LARGE 8
struct soft_large {
	unsigned n;
	struct {
		uint64_t first, last;
	} at[SOFT_LARGE];
};

/* --- Instructions ---------------------------------------------------------------------------- */

struct soft_vcpu;
struct soft_insn;
typedef enum soft_result soft_fn(struct soft_vcpu *cpu, const struct soft_insn *insn);

enum soft_operand_kind {
	OPERAND_NONE,
	OPERAND_GPR,
	OPERAND_GPR_HIGH,
	OPERAND_MEMORY,
	OPERAND_IMM,
	OPERAND_SEGMENT,
	OPERAND_CONTROL,
	OPERAND_DEBUG,
	OPERAND_FAR,
	OPERAND_OTHER
};

struct soft_operand {
	uint8_t kind, reg;
	uint16_t size; /* in bytes */
};

#define NO_REG  0xff
#define RIP_REG 0xfe

enum {
	INSN_LOCK = 1 << 0,
	INSN_REP = 1 << 1, /* REP and REPE */
	INSN_REPNE = 1 << 2,
	INSN_READS = 1 << 3, /* the memory operand */
	INSN_WRITES = 1 << 4,
	INSN_FPU = 1 << 5, /* uses x87, MMX or SSE registers */
	INSN_X87 = 1 << 6,
	INSN_X87_CONTROL = 1 << 7, /* does not set the last instruction's pointers */
	INSN_MMX = 1 << 8,         /* names MMX registers */
	INSN_SSE = 1 << 9,
	INSN_SETS_FLAGS = 1 << 10,
	INSN_ALIGNED = 1 << 11, /* its 16 bytes must be */
};

struct soft_insn {
	soft_fn *fn;
	const void *stub; /* host code, for those done natively */
	int64_t imm, disp;
	uint16_t mnemonic, flags;
	uint8_t length, opsize, addrsize;
	uint8_t n_operands;
	struct soft_operand op[4];
	uint8_t base, index, scale, segment; /* of the memory operand */
	bool has_imm, hidden_memory, far_branch;
	uint8_t imm2;
	uint16_t memory_size;
	uint8_t bytes[15];
};

/* Decoded code of one page in one mode, a vCPU's own. */
struct soft_code_page {
	uint64_t gpa;
	uint8_t mode; /* 16, 32 or 64 */
	uint32_t generation;
	_Atomic uint32_t *current; /* the page's generation now */
	const uint8_t *host;
	struct soft_code_page *next;
	uint32_t at[SOFT_PAGE]; /* index into cpu->insns; 0: not decoded */
};
#define SOFT_CODE_HASH  1024
#define SOFT_CODE_PAGES 2048
#define SOFT_INSNS      (1u << 19)

#define SOFT_JIT_RANGES 16
#define SOFT_JIT_HOT    40 /* after how many times cold code is translated anew */

/* --- A vCPU ---------------------------------------------------------------------------------- */

/* What the instruction under way already exchanged with devices. */
struct soft_device_access {
	bool io, write;
	uint64_t address;
	uint8_t size;
	uint8_t data[8];
};
#define SOFT_DEVICE_LOG 128
struct soft_device_log {
	unsigned n, at; /* exchanged; looked at in this try */
	struct soft_device_access access[SOFT_DEVICE_LOG];
};

enum {
	ATTENTION_KICK = 1 << 0,
	ATTENTION_FLUSH_WRITES = 1 << 1, /* forget which pages may be written */
	ATTENTION_FLUSH_ALL = 1 << 2,
	ATTENTION_CODE = 1 << 3,  /* code pages were written */
	ATTENTION_EVENT = 1 << 4, /* an interrupt, NMI, the window, TF, debugging: look */
};

struct soft_fault {
	uint8_t vector;
	bool has_error;
	uint32_t error;
};

/* How guest code reached a piece of host memory for one instruction. */
struct soft_span {
	uint8_t *host;
	uint64_t linear;
	unsigned size, access;
	bool bounced; /* host is cpu->bounce: it spans pages, or a device */
	_Atomic uint32_t *code;
};

/* The part that host code of stubs reaches, by offset. */
struct soft_stub_frame {
	uint64_t host_rsp;
	uint64_t arithmetic;                          /* flags */
	uint8_t fx[512] __attribute__((aligned(64))); /* x87, MMX and SSE as FXSAVE64 has them */
	uint64_t gpr[16];
};

struct soft_vcpu {
	struct hav_vcpu vcpu;

	/* What translated code reaches most, close to its RSP; then the translator's other things.
	 */
	_Atomic unsigned attention;
	uint64_t page_base;                    /* linear, of the page translated code runs in */
	uintptr_t jit_ranges[SOFT_JIT_RANGES]; /* what leads from linear addresses to the host's */
	struct soft_jit *jit;                  /* NULL: interpret all */
	uint64_t host_rsp, jit_target, jit_saved, jit_site;
	uint8_t jit_of, jit_flags; /* OF, and the others as LAHF has them */

	struct soft_vm *vm;
	uint32_t id;

	struct soft_stub_frame frame;
	bool fpu_live; /* the registers of frame.fx are in the host's */
	uint64_t x87_ip,
		x87_dp; /* of the last x87 instruction: the guest's (Intel SDM vol. 1 §8.1.8) */
	uint64_t rflags;
	uint64_t rip, next_rip;
	struct hav_segment seg[N_SEGMENTS], tr, ldt;
	struct hav_table gdt, idt;
	uint64_t cr0, cr2, cr3, cr4, cr8, efer, apic_base, xcr0;
	uint64_t dr[4], dr6, dr7;
	uint64_t star, lstar, cstar, fmask, kernel_gs_base;
	uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
	uint64_t tsc_offset, tsc_adjust, tsc_aux, pat, misc_enable, mtrr_def_type;
	uint64_t mtrr_fixed[11], mtrr_variable[16], mcg_status;

	uint8_t cpl, mode;     /* mode: bits of CS, 16, 32 or 64 */
	uint8_t tlb_now;       /* which TLB data accesses use */
	bool flat[N_SEGMENTS]; /* no limit, readable and writable */

	_Atomic bool in_guest;

	struct soft_fault fault;
	struct hav_exit exit;
	struct hav_events events;
	enum hav_mp_state mp;
	bool shadow, shadow_next; /* STI and MOV SS hold off interrupts for one instruction */
	bool want_window, dead, halt, tpr_lowered, exited;
	bool msr_asked, msr_fault, hypercall_done;
	bool rf_loaded, faulted, ss_loaded; /* by the last instruction */
	uint64_t msr_value, hypercall_result;
	uint64_t fault_address; /* CR2 of a page fault */
	bool trap_pending;      /* #DB after the instruction, cpu->dr6_pending */
	uint64_t dr6_pending;
	struct hav_debug debug;
	bool align; /* #AC may come */
	bool watch; /* breakpoints in dr7, or align: accesses take the slow way */
	struct soft_device_log log;
	uint8_t bounce[1024] __attribute__((aligned(64)));

	struct hav_cpuid *cpuid;
	size_t n_cpuid;

	unsigned pauses; /* since the last one that let others run */
	struct soft_insn spanning;
	struct soft_code_page *page; /* the one rip is in, at linear page_linear */
	uint64_t page_linear;
	struct soft_code_page *code[SOFT_CODE_HASH];
	/* Mapped as a whole when the vCPU is made; when either is full, all is forgotten. */
	struct soft_code_page *code_pages;
	struct soft_insn *insns;
	uint32_t n_code_pages, n_insns;
	struct soft_stubs stubs;

	uint8_t heat[1 << 16]; /* how often cold code may still be begun, by its place */
	struct soft_large large;
	struct soft_tlb tlb[N_TLBS];
	struct soft_jumps jumps[N_TLBS];
};

static inline struct soft_vcpu *to_soft(struct hav_vcpu *vcpu)
{
	return (struct soft_vcpu *)vcpu;
}

/* --- vm.c ------------------------------------------------------------------------------------ */

/* The slot that has this guest-physical address, or NULL. */
const struct soft_slot *soft_slot(struct soft_vm *vm, uint64_t gpa);
/* Host memory at gpa when [gpa, gpa + size) is memory, else NULL. */
uint8_t *soft_host(struct soft_vm *vm, uint64_t gpa, uint64_t size);
/*
 * Before code of a page is decoded: from now on every write to it is seen. Waits for other vCPUs'
 * present instruction, as one may be a write to it. Returns the generation.
 */
uint32_t soft_code_begin(struct soft_vcpu *cpu, _Atomic uint32_t *code);
/*
 * The two low bits of a code generation: writes to the page take the slow way; and all vCPUs know,
 * so that it may be decoded.
 */
#define SOFT_CODE_WATCHED 1u
#define SOFT_CODE_READY   2u
static inline bool soft_is_code(uint32_t generation)
{
	return generation & SOFT_CODE_READY;
}
/* After a write to a page: a new generation, without code; vCPUs are told. */
void soft_code_written(struct soft_vm *vm, _Atomic uint32_t *code);
/* Does what others asked for with cpu->attention. */
void soft_attend(struct soft_vcpu *cpu);

int soft_vm_create(struct hav *hav, const struct hav_vm_config *config, struct hav_vm **vm,
		   struct error **err);
void soft_vm_destroy(struct hav_vm *vm);
int soft_vm_map(struct hav_vm *vm, uint64_t gpa, void *host, uint64_t size, unsigned flags,
		struct error **err);
int soft_vm_unmap(struct hav_vm *vm, uint64_t gpa, struct error **err);
/* Somebody who is no vCPU has written there. */
void soft_memory_written(struct hav_vm *vm, uint64_t gpa, uint64_t size);

/* --- mmu.c ----------------------------------------------------------------------------------- */

void soft_tlb_init(struct soft_vcpu *cpu);
void soft_tlb_flush(struct soft_vcpu *cpu, bool global_too);
void soft_tlb_flush_page(struct soft_vcpu *cpu, uint64_t linear);
void soft_tlb_flush_writes(struct soft_vcpu *cpu);
/* Works out which TLB data accesses use from CPL, CR4.SMAP and RFLAGS.AC. */
void soft_tlb_choose(struct soft_vcpu *cpu);

/* Translates without the TLB's help. *gpa gets the address. */
enum soft_result soft_translate(struct soft_vcpu *cpu, uint64_t linear, unsigned access,
				unsigned tlb, uint64_t *gpa);

enum soft_result soft_read_slow(struct soft_vcpu *cpu, uint64_t linear, void *data, unsigned size,
				unsigned tlb);
enum soft_result soft_write_slow(struct soft_vcpu *cpu, uint64_t linear, const void *data,
				 unsigned size, unsigned tlb);

/* Host memory for an access that may go there straight, or NULL. */
static inline void *soft_tlb_find(const struct soft_tlb *tlb, const uint64_t *tags, uint64_t linear,
				  unsigned size)
{
	uint32_t place = soft_tlb_place(linear);

	if (likely(soft_tlb_fits(tags[place], linear, size)))
		return (void *)(linear + tlb->addend[place]);
	return NULL;
}

/* memcpy, in one piece when size is 1, 2, 4 or 8. */
void soft_copy(void *to, const void *from, unsigned size);

/* By linear address; tlb says whose rights count. */
static inline enum soft_result soft_read(struct soft_vcpu *cpu, uint64_t linear, void *data,
					 unsigned size, unsigned tlb)
{
	const void *host = soft_tlb_find(&cpu->tlb[tlb], cpu->tlb[tlb].read, linear, size);

	if (unlikely(!host))
		return soft_read_slow(cpu, linear, data, size, tlb);
	soft_copy(data, host, size);
	return SOFT_DONE;
}

static inline enum soft_result soft_write(struct soft_vcpu *cpu, uint64_t linear, const void *data,
					  unsigned size, unsigned tlb)
{
	void *host = soft_tlb_find(&cpu->tlb[tlb], cpu->tlb[tlb].write, linear, size);

	if (unlikely(!host))
		return soft_write_slow(cpu, linear, data, size, tlb);
	soft_copy(host, data, size);
	return SOFT_DONE;
}

/* I/O breakpoints: the trap comes after the instruction. */
void soft_check_io_watch(struct soft_vcpu *cpu, uint16_t port, unsigned size);

/* May [linear, linear + size) be accessed so? Faults as the access would. */
enum soft_result soft_probe(struct soft_vcpu *cpu, uint64_t linear, unsigned size, unsigned access,
			    unsigned tlb);

/*
 * A piece of guest memory as host memory, for an instruction that works on it there. After it,
 * soft_span_done() writes back what was bounced and tells of written code.
 */
enum soft_result soft_span(struct soft_vcpu *cpu, struct soft_span *span, uint64_t linear,
			   unsigned size, unsigned access);
enum soft_result soft_span_done(struct soft_vcpu *cpu, struct soft_span *span);

/* Segmentation: the linear address of offset in a segment, checked for an access of size bytes. */
enum soft_result soft_linear_slow(struct soft_vcpu *cpu, unsigned segment, uint64_t offset,
				  unsigned size, unsigned access, uint64_t *linear);
static inline bool soft_canonical(uint64_t address)
{
	return (uint64_t)((int64_t)(address << 16) >> 16) == address;
}
static inline enum soft_result soft_linear(struct soft_vcpu *cpu, unsigned segment, uint64_t offset,
					   unsigned size, unsigned access, uint64_t *linear)
{
	if (likely(cpu->mode == 64)) {
		uint64_t address = segment >= FS ? cpu->seg[segment].base + offset : offset;

		if (likely(soft_canonical(address) && soft_canonical(address + size - 1))) {
			*linear = address;
			return SOFT_DONE;
		}
	} else if (cpu->flat[segment]) {
		*linear = (uint32_t)(cpu->seg[segment].base + offset);
		return SOFT_DONE;
	}
	return soft_linear_slow(cpu, segment, offset, size, access, linear);
}

/* To 16 bytes: what must be is #GP before anything else. */
static inline bool soft_is_aligned(const struct soft_vcpu *cpu, unsigned segment, uint64_t offset)
{
	if (cpu->mode != 64 || segment >= FS)
		offset += cpu->seg[segment].base;
	return !(offset & 15);
}

/* Guest memory through a segment, at this CPL. */
static inline enum soft_result soft_load(struct soft_vcpu *cpu, unsigned segment, uint64_t offset,
					 void *data, unsigned size)
{
	uint64_t linear;
	enum soft_result r = soft_linear(cpu, segment, offset, size, ACCESS_READ, &linear);

	return r ? r : soft_read(cpu, linear, data, size, cpu->tlb_now);
}
static inline enum soft_result soft_store(struct soft_vcpu *cpu, unsigned segment, uint64_t offset,
					  const void *data, unsigned size)
{
	uint64_t linear;
	enum soft_result r = soft_linear(cpu, segment, offset, size, ACCESS_WRITE, &linear);

	return r ? r : soft_write(cpu, linear, data, size, cpu->tlb_now);
}

/* Tables of the system (GDT, LDT, IDT, TSS): always with supervisor rights. */
static inline enum soft_result soft_read_system(struct soft_vcpu *cpu, uint64_t linear, void *data,
						unsigned size)
{
	return soft_read(cpu, linear, data, size, TLB_SUPERVISOR_AC);
}

/* A place of a table was filled. */
void soft_journal_add(struct soft_journal *journal, uint32_t place, bool global);

/* --- jit.c ---------------------------------------------------------------------------------- */

int soft_jit_create(struct soft_vcpu *cpu, struct error **err);
void soft_jit_destroy(struct soft_vcpu *cpu);
/* Runs translated code from cpu->rip on for a while, making it if need be. */
enum soft_result soft_jit_run(struct soft_vcpu *cpu);
/* One instruction, interpreted (vcpu.c). */
enum soft_result soft_interpret(struct soft_vcpu *cpu);
/* Forgets code of pages that were written since. */
void soft_jit_validate(struct soft_vcpu *cpu);
void soft_jit_flush(struct soft_vcpu *cpu);
bool soft_jit_code_cache(const struct hav_vcpu *vcpu, struct hav_code_cache *cache);
void soft_jumps_flush(struct soft_vcpu *cpu, bool global_too);
void soft_jumps_flush_page(struct soft_vcpu *cpu, uint64_t linear);
/* For a signal's handler, when translated code has faulted: where to go on, and RCX there. */
bool soft_jit_fault(const struct soft_vcpu *cpu, uint64_t rip, uint64_t *to, uint64_t *rcx);

/* --- decode.c, native.c ---------------------------------------------------------------------- */

/* The instruction at cpu->rip. Faults of the fetch are the guest's. */
enum soft_result soft_fetch(struct soft_vcpu *cpu, const struct soft_insn **insn);
void soft_code_flush(struct soft_vcpu *cpu); /* forget all decoded code */
int soft_code_create(struct soft_vcpu *cpu, struct error **err);
void soft_code_destroy(struct soft_vcpu *cpu);

/* As long as addresses are for this instruction. */
static inline uint64_t soft_address(const struct soft_insn *insn, uint64_t offset)
{
	if (likely(insn->addrsize == 8))
		return offset;
	return insn->addrsize == 4 ? (uint32_t)offset : (uint16_t)offset;
}

/* Offset of the memory operand in its segment. */
static inline uint64_t soft_offset(const struct soft_vcpu *cpu, const struct soft_insn *insn)
{
	uint64_t offset = insn->disp;

	if (insn->base == RIP_REG)
		offset += cpu->next_rip;
	else if (insn->base != NO_REG)
		offset += cpu->frame.gpr[insn->base];
	if (insn->index != NO_REG)
		offset += cpu->frame.gpr[insn->index] * insn->scale;
	return soft_address(insn, offset);
}

soft_fn soft_exec_native;
void soft_log_undefined(struct soft_vcpu *cpu, const struct soft_insn *insn);

/* --- exec_*.c -------------------------------------------------------------------------------- */

/* The function for an instruction that the host is not to do itself, or NULL: it may. */
soft_fn *soft_exec_data(const struct soft_insn *insn);
soft_fn *soft_exec_flow(const struct soft_insn *insn);
soft_fn *soft_exec_string(const struct soft_insn *insn);
soft_fn *soft_exec_system(const struct soft_insn *insn);
soft_fn *soft_exec_fpu(const struct soft_insn *insn);
soft_fn soft_exec_undefined, soft_exec_too_long;

/* --- events.c, segments.c -------------------------------------------------------------------- */

enum soft_result soft_raise(struct soft_vcpu *cpu, uint8_t vector);
enum soft_result soft_raise_error(struct soft_vcpu *cpu, uint8_t vector, uint32_t error);
enum { EVENT_EXCEPTION, EVENT_INTERRUPT, EVENT_SOFTWARE };
/* Transfers to the handler of a vector; return address is cpu->rip. */
enum soft_result soft_deliver(struct soft_vcpu *cpu, uint8_t vector, unsigned kind, bool has_error,
			      uint32_t error);
/* The fault in cpu->fault, then those its delivery causes: double fault, shutdown. */
enum soft_result soft_deliver_fault(struct soft_vcpu *cpu);

/* A descriptor read from a table. */
struct soft_descriptor {
	uint64_t low, high;
	struct hav_segment segment;
	uint64_t linear; /* where it is */
};
enum soft_result soft_read_descriptor(struct soft_vcpu *cpu, uint16_t selector,
				      struct soft_descriptor *d, uint8_t vector);
static inline unsigned soft_dpl(const struct hav_segment *s)
{
	return s->attr >> 5 & 3;
}
enum soft_result soft_load_segment(struct soft_vcpu *cpu, unsigned segment, uint16_t selector);
enum soft_result soft_mark_accessed(struct soft_vcpu *cpu, struct soft_descriptor *d);
bool soft_is_conforming(const struct hav_segment *s);
/* After CS, SS, CR0, EFER or CPL changed: mode, flat, TLB. */
void soft_update_mode(struct soft_vcpu *cpu);
/* Goes on in a code segment that was checked, at a privilege. */
void soft_set_code(struct soft_vcpu *cpu, const struct hav_segment *cs, uint64_t rip, unsigned cpl);
/* The code segment that a gate names; external is bit 0 of error codes. */
enum soft_result soft_gate_target(struct soft_vcpu *cpu, uint16_t selector, uint32_t external,
				  struct soft_descriptor *d);
enum soft_result soft_far_jump(struct soft_vcpu *cpu, const struct soft_insn *insn,
			       uint16_t selector, uint64_t offset, bool call);
enum soft_result soft_far_return(struct soft_vcpu *cpu, const struct soft_insn *insn,
				 unsigned release, bool iret);
enum soft_result soft_check_stack_segment(struct soft_vcpu *cpu, uint16_t selector, unsigned cpl,
					  uint8_t vector, struct soft_descriptor *d);
/* Task switches by hardware; rip is where the old task goes on. */
enum soft_task_cause { TASK_JUMP, TASK_CALL, TASK_INTERRUPT, TASK_IRET };
enum soft_result soft_task_switch(struct soft_vcpu *cpu, uint16_t selector,
				  enum soft_task_cause cause, uint64_t rip);
/* Flags that POPF and IRET may change at this privilege; and changing some. */
uint64_t soft_flags_allowed(const struct soft_vcpu *cpu, unsigned size);
void soft_set_flags(struct soft_vcpu *cpu, uint64_t flags, uint64_t mask);

/* --- Stack ----------------------------------------------------------------------------------- */

/* A stack pointer that is only made the guest's when all is done. */
struct soft_stack {
	struct hav_segment ss;
	uint64_t sp, mask;
	unsigned tlb;
	bool wide; /* no segmentation */
};
void soft_stack_here(struct soft_vcpu *cpu, struct soft_stack *stack);
enum soft_result soft_stack_push(struct soft_vcpu *cpu, struct soft_stack *stack, uint64_t value,
				 unsigned size);
/* May as much be pushed? Faults as that would. */
enum soft_result soft_stack_probe(struct soft_vcpu *cpu, const struct soft_stack *stack,
				  unsigned size);
enum soft_result soft_stack_pop(struct soft_vcpu *cpu, struct soft_stack *stack, uint64_t *value,
				unsigned size);
/* The stack of an inner privilege level, or of an interrupt's IST entry, from the TSS. */
enum soft_result soft_inner_stack(struct soft_vcpu *cpu, unsigned cpl, unsigned ist,
				  struct soft_stack *stack);
void soft_stack_commit(struct soft_vcpu *cpu, const struct soft_stack *stack);

/* --- Registers ------------------------------------------------------------------------------- */

static inline uint64_t soft_gpr(const struct soft_vcpu *cpu, const struct soft_operand *op)
{
	uint64_t value = cpu->frame.gpr[op->reg];

	switch (op->size) {
	case 1: return (uint8_t)(op->kind == OPERAND_GPR_HIGH ? value >> 8 : value);
	case 2: return (uint16_t)value;
	case 4: return (uint32_t)value;
	default: return value;
	}
}

static inline void soft_set_reg(struct soft_vcpu *cpu, unsigned reg, unsigned size, uint64_t value)
{
	switch (size) {
	case 1:
		cpu->frame.gpr[reg] = (cpu->frame.gpr[reg] & ~UINT64_C(0xff)) | (uint8_t)value;
		break;
	case 2:
		cpu->frame.gpr[reg] = (cpu->frame.gpr[reg] & ~UINT64_C(0xffff)) | (uint16_t)value;
		break;
	case 4: cpu->frame.gpr[reg] = (uint32_t)value; break;
	default: cpu->frame.gpr[reg] = value; break;
	}
}

static inline void soft_set_gpr(struct soft_vcpu *cpu, const struct soft_operand *op,
				uint64_t value)
{
	if (op->kind == OPERAND_GPR_HIGH)
		cpu->frame.gpr[op->reg] = (cpu->frame.gpr[op->reg] & ~UINT64_C(0xff00)) |
					  (uint64_t)(uint8_t)value << 8;
	else
		soft_set_reg(cpu, op->reg, op->size, value);
}

static inline uint64_t soft_mask(unsigned size)
{
	return size == 8 ? UINT64_MAX : (UINT64_C(1) << (size * 8)) - 1;
}

/* An operand's value, zero-extended (immediates as they are), and its new value. */
static inline enum soft_result soft_get(struct soft_vcpu *cpu, const struct soft_insn *insn,
					const struct soft_operand *op, uint64_t *value)
{
	switch (op->kind) {
	case OPERAND_GPR:
	case OPERAND_GPR_HIGH: *value = soft_gpr(cpu, op); return SOFT_DONE;
	case OPERAND_IMM: *value = insn->imm; return SOFT_DONE;
	case OPERAND_SEGMENT: *value = cpu->seg[op->reg].selector; return SOFT_DONE;
	default:
		*value = 0;
		return soft_load(cpu, insn->segment, soft_offset(cpu, insn), value, op->size);
	}
}

static inline enum soft_result soft_set(struct soft_vcpu *cpu, const struct soft_insn *insn,
					const struct soft_operand *op, uint64_t value)
{
	if (op->kind == OPERAND_MEMORY)
		return soft_store(cpu, insn->segment, soft_offset(cpu, insn), &value, op->size);
	soft_set_gpr(cpu, op, value);
	return SOFT_DONE;
}

/* --- x87, MMX and SSE registers --------------------------------------------------------------- */

/*
 * They are in the host's processor from the first use until they are released: before soft_run()
 * returns, and before anything that may use such registers itself: the C library and Zydis.
 */
static inline void soft_fpu_take(struct soft_vcpu *cpu)
{
	if (cpu->fpu_live)
		return;
	__asm__ volatile("fxrstor64 %0" : : "m"(cpu->frame.fx));
	cpu->fpu_live = true;
}
void soft_fpu_save(struct soft_vcpu *cpu);
/* Has the x87 an exception to report that is not masked? */
bool soft_x87_pending(struct soft_vcpu *cpu);
static inline void soft_fpu_release(struct soft_vcpu *cpu)
{
	if (cpu->fpu_live)
		soft_fpu_save(cpu);
}

/* --- Exits and time -------------------------------------------------------------------------- */

/* An access to a port or to what is no memory: data now, or SOFT_EXIT to be asked again. */
enum soft_result soft_device(struct soft_vcpu *cpu, bool io, bool write, uint64_t address,
			     void *data, unsigned size);
enum soft_result soft_exit(struct soft_vcpu *cpu, enum hav_exit_reason reason);
bool soft_is_amd(const struct soft_vcpu *cpu);
uint64_t soft_tsc(const struct soft_vcpu *cpu);
/* The guest has met a PAUSE: it waits for another vCPU, which may have to be let run. */
void soft_pause(struct soft_vcpu *cpu);
const struct hav_cpuid *soft_cpuid(const struct soft_vcpu *cpu, uint32_t leaf, uint32_t subleaf);
int soft_cpuid_supported(struct hav *hav, struct hav_cpuid *entries, size_t *n, struct error **err);

bool soft_msr_read(struct soft_vcpu *cpu, uint32_t index, uint64_t *value);
bool soft_msr_write(struct soft_vcpu *cpu, uint32_t index, uint64_t value);
/* The same by the caller of the library, not by the guest. */
void soft_msr_set(struct soft_vcpu *cpu, uint32_t index, uint64_t value);
void soft_msrs_get(struct soft_vcpu *cpu, struct hav_state *state);
soft_fn soft_rdmsr, soft_wrmsr;
void soft_fpu_reset(struct soft_vcpu *cpu);
uint32_t soft_mxcsr_mask(void); /* the bits that MXCSR has */
unsigned soft_get_cr8(const struct hav_vcpu *vcpu);
void soft_set_cr8(struct hav_vcpu *vcpu, unsigned cr8);
uint32_t soft_vcpu_tsc_khz(const struct hav_vcpu *vcpu);
uint64_t soft_vcpu_tsc(struct hav_vcpu *vcpu);

int soft_vcpu_create(struct hav_vm *vm, uint32_t id, struct hav_vcpu **vcpu, struct error **err);
void soft_vcpu_destroy(struct hav_vcpu *vcpu);
int soft_set_cpuid(struct hav_vcpu *vcpu, const struct hav_cpuid *entries, size_t n,
		   struct error **err);
int soft_run(struct hav_vcpu *vcpu, struct hav_exit *exit, struct error **err);
void soft_kick(struct hav_vcpu *vcpu);
int soft_interrupt(struct hav_vcpu *vcpu, uint8_t vector, struct error **err);
bool soft_interruptible(const struct hav_vcpu *vcpu);
void soft_want_irq_window(struct hav_vcpu *vcpu, bool want);
int soft_nmi(struct hav_vcpu *vcpu, struct error **err);
int soft_set_debug(struct hav_vcpu *vcpu, const struct hav_debug *debug, struct error **err);
int soft_get_state(struct hav_vcpu *vcpu, unsigned groups, struct hav_state *state,
		   struct error **err);
int soft_set_state(struct hav_vcpu *vcpu, unsigned groups, const struct hav_state *state,
		   struct error **err);

#endif
