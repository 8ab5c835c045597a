/*
 * Revirt-U: the HAV (hardware-assisted virtualization) API.
 *
 * With it a program creates virtual machines in its own process. How guest code runs is the
 *business of a backend: "kvm" (Linux's /dev/kvm), "soft" (a same-ISA translator). What a backend
 *can do is asked with hav_capability(); the rest of the API is the same on all.
 *
 *	hav_open(&hav, NULL, &err);
 *	hav_vm_create(hav, &(struct hav_vm_config){ .irqchip = HAV_IRQCHIP_NONE }, &vm, &err);
 *	hav_vm_map(vm, 0, memory, size, HAV_MAP_RW, &err);
 *	hav_vcpu_create(vm, 0, &vcpu, &err);
 *	hav_vcpu_get_state(vcpu, HAV_STATE_REGS | HAV_STATE_SREGS, &state, &err);
 *	... change it ...
 *	hav_vcpu_set_state(vcpu, HAV_STATE_REGS | HAV_STATE_SREGS, &state, &err);
 *	while (hav_vcpu_run(vcpu, &exit, &err) == 0)
 *		...
 *
 * Results: functions that can fail return 0, or -1 with *err set (hav_error_message(); err may be
 * NULL). Threads: calls on a vCPU belong to the thread that runs it, hav_vcpu_kick() excepted; all
 * others may be made from any thread. Ownership: what a create or open function returned is the
 * caller's until the matching destroy or close; children go first (vCPUs, then their VM, then the
 *hav). There is no global state: a process may hold several VMs, on several backends.
 *
 * Names and layouts follow the AMD64 Architecture Programmer's Manual (APM) volume 2 and the Intel
 *SDM volume 3. All addresses named gpa are guest-physical, in bytes.
 */
#ifndef HAV_H
#define HAV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HAV_API_VERSION 1

struct error;
struct hav;
struct hav_vm;
struct hav_vcpu;

const char *hav_error_message(const struct error *err);
void hav_error_free(struct error *err); /* NULL is fine */

/* --- A backend ---------------------------------------------------------------------------- */

/*
 * Opens a backend by name; NULL takes the first that runs a stock guest at full speed, and the
 * first that opens when none does.
 */
int hav_open(struct hav **hav, const char *backend, struct error **err);
void hav_close(struct hav *hav); /* NULL is fine */

const char *hav_backend_name(const struct hav *hav);
/* The i-th backend this library was built with, or NULL past the last. */
const char *hav_backend_at(unsigned i);

enum hav_cap {
	HAV_CAP_IRQCHIP_KERNEL, /* HAV_IRQCHIP_KERNEL */
	HAV_CAP_IRQCHIP_SPLIT,  /* HAV_IRQCHIP_SPLIT */
	HAV_CAP_IOEVENTFD,
	HAV_CAP_IRQFD,
	HAV_CAP_DIRTY_LOG,
	HAV_CAP_MAX_VCPUS, /* a number */
	HAV_CAP_MAX_SLOTS, /* memory mappings in one VM, a number */
	HAV_CAP_CLOCK,     /* hav_vm_get_clock() */
	HAV_CAP_COALESCE,  /* hav_vm_coalesce() */
	/*
	 * With HAV_IRQCHIP_NONE, RDMSR and WRMSR of these leave with HAV_EXIT_MSR: IA32_APIC_BASE
	 * and the x2APIC's 0x800 to 0x8ff; IA32_TSC_DEADLINE.
	 */
	HAV_CAP_APIC_MSR_EXITS,
	HAV_CAP_TSC_DEADLINE_EXITS,
};
/* 0 when the backend lacks it, else 1 or the number. */
unsigned hav_capability(const struct hav *hav, enum hav_cap cap);

/* What hav_calibrate() found. */
struct hav_speed {
	double loop_ns;  /* one iteration of dec/jnz at CPL 0 in long mode, nanoseconds */
	double exit_ns;  /* one port write to user space and back, nanoseconds */
	bool full_speed; /* stock guests run as on hardware: loop_ns is at most HAV_FULL_SPEED_NS */
};
#define HAV_FULL_SPEED_NS 10.0
/*
 * Times a short loop of kernel-mode guest code in a VM of its own, taking at most some 10 ms. CPU
 * flags do not tell: a /dev/kvm may exist, and emulate every kernel instruction.
 */
int hav_calibrate(struct hav *hav, struct hav_speed *speed, struct error **err);

/* One CPUID leaf (Intel SDM vol. 2, CPUID). */
struct hav_cpuid {
	uint32_t leaf, subleaf;
	bool has_subleaves; /* subleaf (ECX) selects this entry */
	uint32_t eax, ebx, ecx, edx;
};
/* Fills entries[0..*n) with the leaves the backend can give a guest. *n is the room, then the
 * count. */
int hav_cpuid_supported(struct hav *hav, struct hav_cpuid *entries, size_t *n, struct error **err);

/* --- A virtual machine ---------------------------------------------------------------------- */

enum hav_irqchip {
	HAV_IRQCHIP_NONE,   /* all interrupt controllers are the caller's */
	HAV_IRQCHIP_SPLIT,  /* local APICs are the backend's; IOAPIC, PICs and PIT the caller's */
	HAV_IRQCHIP_KERNEL, /* local APICs, IOAPIC, PICs and PIT are the backend's */
};

enum hav_translation {
	HAV_TRANSLATE,         /* quickly, and once more for speed what is run often */
	HAV_TRANSLATE_EAGERLY, /* all for speed: slow, to find faults */
	HAV_INTERPRET,         /* nothing: slow, to find faults */
};

struct hav_vm_config {
	enum hav_irqchip irqchip;
	uint32_t max_vcpus; /* highest vCPU id plus one; 0 means 1 */
	/* Have no irqfds, doorbells, writes kept back and paravirtual clock, as a backend may lack
	 * them all: for tests of callers. */
	bool plain;
	enum hav_translation translation; /* how "soft" runs the guest's code */
};
int hav_vm_create(struct hav *hav, const struct hav_vm_config *config, struct hav_vm **vm,
		  struct error **err);
void hav_vm_destroy(struct hav_vm *vm); /* NULL is fine */

enum {
	HAV_MAP_READ = 1 << 0,
	HAV_MAP_WRITE = 1 << 1, /* without it, writes leave with HAV_EXIT_MMIO */
	HAV_MAP_RW = HAV_MAP_READ | HAV_MAP_WRITE,
	HAV_MAP_DIRTY_LOG = 1 << 2,
};
/*
 * Makes host memory visible to the guest at gpa. gpa, host and size are multiples of 4096, size is
 * not 0, mappings do not overlap. The memory stays the caller's and must outlive the mapping.
 */
int hav_vm_map(struct hav_vm *vm, uint64_t gpa, void *host, uint64_t size, unsigned flags,
	       struct error **err);
/* Takes away a mapping made with exactly this gpa. */
int hav_vm_unmap(struct hav_vm *vm, uint64_t gpa, struct error **err);
/* Copies and clears the dirty bits of the mapping at gpa, one a page of 4 KiB; bitmap has room for
 * all. */
int hav_vm_dirty_log(struct hav_vm *vm, uint64_t gpa, uint64_t *bitmap, struct error **err);
/*
 * The caller has written to [gpa, gpa + size) itself: a device by DMA, a loader, a debugger. A
 * backend that keeps guest code in another form then drops what it has of these pages. Call it
 * after the write, and before the guest is told of it (by an index in memory, an interrupt). Any
 * thread, async-signal-safe; costs no lock or system call, and a few nanoseconds a page. What is
 * not mapped is passed over; no mapping or vCPU may be taken away meanwhile.
 */
void hav_vm_memory_written(struct hav_vm *vm, uint64_t gpa, uint64_t size);
/* False: hav_vm_memory_written() does nothing, and may be left out. */
bool hav_vm_watches_memory(const struct hav_vm *vm);

struct hav_msi {
	uint64_t address;
	uint32_t data;
};
/*
 * With HAV_IRQCHIP_SPLIT: pin of the caller's IOAPIC is programmed for this level-triggered message
 * (NULL: for none that is), so that EOIs of its vector leave with HAV_EXIT_EOI. May be slow: call
 * it when an entry changes, not when it is masked.
 */
int hav_ioapic_route(struct hav_vm *vm, unsigned pin, const struct hav_msi *msi,
		     struct error **err);

/* Sets a global system interrupt (IOAPIC pin, and PIC line below 16). HAV_IRQCHIP_KERNEL only. */
int hav_irq_set(struct hav_vm *vm, unsigned gsi, bool level, struct error **err);
/*
 * Delivers a message-signalled interrupt (Intel SDM vol. 3 §11.11). HAV_IRQCHIP_KERNEL and SPLIT.
 * Async-signal-safe, does not allocate.
 */
int hav_msi_send(struct hav_vm *vm, uint64_t address, uint32_t data);

/*
 * While bound, a write to eventfd fd delivers gsi; with msi, gsi is one of the caller's choosing
 * from 24 on and means that message. resample_fd (or -1) is signalled at the guest's EOI of a
 * level-triggered gsi. Binding again with the same fd and gsi changes the message. fds stay the
 * caller's.
 */
int hav_irqfd_bind(struct hav_vm *vm, int fd, int resample_fd, unsigned gsi,
		   const struct hav_msi *msi, struct error **err);
int hav_irqfd_unbind(struct hav_vm *vm, int fd, unsigned gsi, struct error **err);

enum hav_space { HAV_SPACE_IO, HAV_SPACE_MEMORY };
/*
 * A guest write of size bytes (1, 2, 4, 8; 0 is any size, HAV_SPACE_MEMORY only) at address signals
 * eventfd fd instead of leaving hav_vcpu_run(). With match, only writes of that value do.
 */
struct hav_doorbell {
	enum hav_space space;
	uint64_t address;
	uint32_t size;
	bool match;
	uint64_t value;
	int fd;
};
int hav_ioeventfd_bind(struct hav_vm *vm, const struct hav_doorbell *doorbell, struct error **err);
int hav_ioeventfd_unbind(struct hav_vm *vm, const struct hav_doorbell *doorbell,
			 struct error **err);

/*
 * Guest writes to [address, address + size) may be kept back and delivered, in order and before any
 * later exit of the VM, through the function of hav_vm_set_coalesced(). Only for registers whose
 * writes need no answer. hav_vm_flush_coalesced() delivers what is kept back now.
 */
typedef void hav_coalesced_fn(void *opaque, enum hav_space space, uint64_t address, uint32_t size,
			      uint64_t value);
void hav_vm_set_coalesced(struct hav_vm *vm, hav_coalesced_fn *fn, void *opaque);
int hav_vm_coalesce(struct hav_vm *vm, enum hav_space space, uint64_t address, uint32_t size,
		    bool on, struct error **err);
void hav_vm_flush_coalesced(struct hav_vm *vm);

/*
 * The clock guests read, in nanoseconds: KVM's paravirtual one, or the time-stamp counters where
 * they are the backend's. Read when a VM is paused, written when it goes on; no vCPU runs then.
 */
int hav_vm_get_clock(struct hav_vm *vm, uint64_t *ns, struct error **err);
int hav_vm_set_clock(struct hav_vm *vm, uint64_t ns, struct error **err);

/* --- A virtual CPU -------------------------------------------------------------------------- */

/*
 * Makes vCPU `id` (its initial APIC id too) in the reset state of APM vol. 2 §14.1. With backend
 * local APICs, ids other than 0 wait for INIT and SIPI.
 */
int hav_vcpu_create(struct hav_vm *vm, uint32_t id, struct hav_vcpu **vcpu, struct error **err);
void hav_vcpu_destroy(struct hav_vcpu *vcpu); /* NULL is fine */

/* Sets what CPUID answers. Once, before the vCPU first runs. */
int hav_vcpu_set_cpuid(struct hav_vcpu *vcpu, const struct hav_cpuid *entries, size_t n,
		       struct error **err);

enum hav_exit_reason {
	HAV_EXIT_IO,          /* port access: io */
	HAV_EXIT_MMIO,        /* access to unmapped memory: mmio */
	HAV_EXIT_HLT,         /* HLT, where local APICs are the caller's */
	HAV_EXIT_SHUTDOWN,    /* triple fault */
	HAV_EXIT_HYPERCALL,   /* VMCALL/VMMCALL the backend does not handle: hypercall */
	HAV_EXIT_DEBUG,       /* a breakpoint or single step of hav_vcpu_set_debug(): debug */
	HAV_EXIT_INTERRUPTED, /* hav_vcpu_kick(), or a signal */
	HAV_EXIT_IRQ_WINDOW,  /* the guest takes interrupts again: hav_vcpu_want_irq_window() */
	HAV_EXIT_EOI,         /* EOI of a level-triggered vector, HAV_IRQCHIP_SPLIT: eoi */
	HAV_EXIT_MSR,         /* RDMSR/WRMSR of an MSR the backend leaves to the caller: msr */
	HAV_EXIT_FAILED,      /* the guest can't go on (internal error): failed */
	HAV_EXIT_TPR,         /* the guest lowered CR8, HAV_IRQCHIP_NONE */
};
/* The reason's name, a string constant: "IO", "MMIO", ... */
const char *hav_exit_name(enum hav_exit_reason reason);

/* Pointers in it are good until the next hav_vcpu_run() of the same vCPU. */
struct hav_exit {
	enum hav_exit_reason reason;
	union {
		struct {
			uint16_t port;
			uint8_t size; /* 1, 2 or 4 */
			bool write;
			uint32_t count; /* of a string instruction; 1 otherwise */
			uint8_t *data;  /* size * count bytes; for a read, fill them before running
					   on */
		} io;
		struct {
			uint64_t gpa;
			uint8_t size; /* 1 to 8 */
			bool write;
			uint8_t *data; /* for a read, fill it before running on */
		} mmio;
		struct {
			uint64_t nr, args[6];
			uint64_t *ret;
		} hypercall;
		struct {
			uint32_t exception; /* 1 #DB or 3 #BP */
			uint64_t pc, dr6, dr7;
		} debug;
		struct {
			uint8_t vector;
		} eoi;
		struct {
			uint32_t index;
			bool write;
			uint64_t *value; /* for a read, fill it */
			bool *fault;     /* set it to give the guest #GP(0) */
		} msr;
		struct {
			uint32_t suberror;
			const char *text;
		} failed;
	};
};
/* Runs until something needs the caller. -1 only when the vCPU can't be run at all. */
int hav_vcpu_run(struct hav_vcpu *vcpu, struct hav_exit *exit, struct error **err);

/*
 * Makes a running, or the next, hav_vcpu_run() return HAV_EXIT_INTERRUPTED. Any thread,
 * async-signal-safe. What the last exit asked for (a port read) is completed before it returns.
 */
void hav_vcpu_kick(struct hav_vcpu *vcpu);

/* Queues an external interrupt. HAV_IRQCHIP_NONE; SPLIT: one of the PICs; -1 (errno EAGAIN) while
 * the guest has them off. */
int hav_vcpu_interrupt(struct hav_vcpu *vcpu, uint8_t vector, struct error **err);
/* hav_vcpu_interrupt() would work. Between two runs. */
bool hav_vcpu_interruptible(const struct hav_vcpu *vcpu);
/* Leave with HAV_EXIT_IRQ_WINDOW as soon as hav_vcpu_interrupt() would work. */
void hav_vcpu_want_irq_window(struct hav_vcpu *vcpu, bool want);
int hav_vcpu_nmi(struct hav_vcpu *vcpu, struct error **err);

/*
 * CR8, bits 7 to 4 of the task priority, between two runs. HAV_IRQCHIP_NONE only. The guest writes
 * it without an exit, unless it makes it smaller: HAV_EXIT_TPR. Neither costs a system call.
 */
unsigned hav_vcpu_get_cr8(const struct hav_vcpu *vcpu);
void hav_vcpu_set_cr8(struct hav_vcpu *vcpu, unsigned cr8);

/* How fast the vCPU's time-stamp counter runs; 0: not known. Any thread. */
uint32_t hav_vcpu_tsc_khz(const struct hav_vcpu *vcpu);
/* What RDTSC would give the guest now. From the vCPU's thread. */
uint64_t hav_vcpu_tsc(struct hav_vcpu *vcpu);

/* Host code that a backend has made of the guest's, for one vCPU. */
struct hav_code_cache {
	uint64_t used, size;           /* bytes, and how many there may be */
	uint32_t pages, max_pages;     /* of guest memory, that it was made from */
	uint32_t origins, max_origins; /* notes of where instructions came from */
	uint32_t flushes;              /* how often all was thrown away to begin anew */
};
/* False: there is none. Any thread; a running vCPU is ahead of the figures. */
bool hav_vcpu_code_cache(const struct hav_vcpu *vcpu, struct hav_code_cache *cache);

/*
 * A debugger outside the guest; all of it leaves with HAV_EXIT_DEBUG, debug.pc being the linear
 * address of CS:RIP. software_breakpoints: at an INT3, exception 3, RIP at the INT3. single_step:
 * after each instruction, exception 1, BS in dr6. dr and dr7, if not 0: exception 1, the
 * breakpoint's bit in dr6, before the instruction at it or after the access to it; the guest's own
 * debug registers keep their values and have no effect meanwhile. A new single_step starts from the
 * registers as they are when it is set. INT3s in memory are the caller's to write, while no vCPU
 * runs; this call on each vCPU comes after that.
 */
struct hav_debug {
	bool enabled, single_step, software_breakpoints;
	bool block_interrupts; /* while stepping, where the backend can: none is delivered */
	uint64_t dr[4], dr7;   /* hardware breakpoints, as the guest would set them */
};
int hav_vcpu_set_debug(struct hav_vcpu *vcpu, const struct hav_debug *debug, struct error **err);
/*
 * Gives the guest the #BP or #DB of the HAV_EXIT_DEBUG that was the last exit, as if there were no
 * debugger: for those that are the guest's own.
 */
int hav_vcpu_reflect_debug(struct hav_vcpu *vcpu, const struct hav_exit *exit, struct error **err);

/* --- Architectural state -------------------------------------------------------------------- */

struct hav_regs {
	uint64_t rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp;
	uint64_t r8, r9, r10, r11, r12, r13, r14, r15;
	uint64_t rip, rflags;
};

/*
 * A segment register with its hidden part. attr is the descriptor's bits 40 to 55 with the limit's
 * nibble squeezed out (APM vol. 2, VMCB save area): type 0-3, S 4, DPL 5-6, P 7, AVL 8, L 9, D/B
 * 10, G 11; bit 12 marks an unusable (null) segment. limit is in bytes, expanded.
 */
struct hav_segment {
	uint64_t base;
	uint32_t limit;
	uint16_t selector;
	uint16_t attr;
};
#define HAV_SEGMENT_UNUSABLE (1u << 12)

struct hav_table {
	uint64_t base;
	uint16_t limit;
};

struct hav_sregs {
	struct hav_segment cs, ds, es, fs, gs, ss, tr, ldt;
	struct hav_table gdt, idt;
	uint64_t cr0, cr2, cr3, cr4, cr8, efer, apic_base;
};

/* What is on its way to the guest (APM vol. 2 §15.20). */
struct hav_events {
	bool exception_pending, exception_has_error;
	uint8_t exception_vector;
	uint32_t exception_error;
	bool interrupt_pending, interrupt_soft;
	uint8_t interrupt_vector;
	bool interrupt_shadow; /* after STI or MOV SS */
	bool nmi_pending, nmi_injected, nmi_masked;
};

enum hav_mp_state {
	HAV_MP_RUNNABLE,
	HAV_MP_WAIT_INIT,
	HAV_MP_INIT_RECEIVED,
	HAV_MP_HALTED,
	HAV_MP_SIPI_RECEIVED
};

struct hav_msr {
	uint32_t index;
	uint64_t value;
};
#define HAV_MAX_MSRS   128
#define HAV_XSAVE_SIZE 8192

enum {
	HAV_STATE_REGS = 1 << 0,
	HAV_STATE_SREGS = 1 << 1,
	HAV_STATE_XSAVE = 1 << 2, /* with xcr0 */
	HAV_STATE_DEBUG = 1 << 3,
	HAV_STATE_EVENTS = 1 << 4,
	HAV_STATE_MP = 1 << 5,
	HAV_STATE_MSRS = 1 << 6,
	HAV_STATE_LAPIC = 1 << 7, /* where local APICs are the backend's */
	HAV_STATE_ALL = (1 << 8) - 1,
};

/* All of a vCPU, versioned; snapshots are made of it. */
struct hav_state {
	uint32_t version; /* HAV_API_VERSION */
	uint32_t groups;  /* HAV_STATE_* that are filled */
	struct hav_regs regs;
	struct hav_sregs sregs;
	uint64_t dr[4], dr6, dr7;
	struct hav_events events;
	enum hav_mp_state mp;
	uint32_t n_msrs;
	struct hav_msr msrs[HAV_MAX_MSRS];
	uint8_t lapic[1024]; /* the register page, 16 bytes a register (Intel SDM vol. 3 §11.4.1) */
	uint64_t xcr0;
	uint32_t xsave_size;
	uint8_t xsave[HAV_XSAVE_SIZE]; /* standard (non-compacted) format */
};

/* Reads the groups asked for into *state and sets version and groups. */
int hav_vcpu_get_state(struct hav_vcpu *vcpu, unsigned groups, struct hav_state *state,
		       struct error **err);
/*
 * Writes the groups asked for, which state->groups must contain. MSRs the backend refuses are left
 * as they are: hosts differ in which they have.
 */
int hav_vcpu_set_state(struct hav_vcpu *vcpu, unsigned groups, const struct hav_state *state,
		       struct error **err);

#ifdef __cplusplus
}
#endif

#endif
