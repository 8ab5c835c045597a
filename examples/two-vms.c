/*
 * Two virtual machines in one process, a few bytes of guest code in each, and every kind of exit
 *they meet.
 *
 *	cc two-vms.c $(pkg-config --cflags --libs hav) -o two-vms && ./two-vms
 *
 * The first VM starts as a processor does, in real mode. The second is put into long mode, with
 *page tables of its own. Neither has interrupt controllers, so HLT comes back to us.
 */
#include <hav.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define MEMORY_SIZE 0x10000
#define CODE        0x8000

struct machine {
	const char *name;
	struct hav_vm *vm;
	struct hav_vcpu *vcpu;
	uint8_t *memory;
};

/* clang-format off */
static const uint8_t real_mode_code[] = {
	0xb0, 'H',                                   /* mov al, 'H' */
	0xe6, 0x10,                                  /* out 0x10, al        IO, write */
	0xe4, 0x11,                                  /* in al, 0x11         IO, read */
	0xbb, 0x00, 0xf0, 0x8e, 0xdb,                /* mov bx, 0xf000; mov ds, bx */
	0xa2, 0x00, 0x00,                            /* mov [0], al         MMIO, write at 0xf0000 */
	0xa0, 0x01, 0x00,                            /* mov al, [1]         MMIO, read */
	0xf4,                                        /* hlt                 HLT */
};

static const uint8_t long_mode_code[] = {
	0x48, 0xb8, 8, 7, 6, 5, 4, 3, 2, 1,          /* mov rax, 0x0102030405060708     DEBUG */
	0x48, 0xa3, 0, 0, 0x20, 0, 0, 0, 0, 0,       /* mov [0x200000], rax             MMIO */
	0xf4,                                        /* hlt                             HLT */
	0x0f, 0x0b,                                  /* ud2, with no vectors            SHUTDOWN */
};
/* clang-format on */

static void check(int result, struct error *err)
{
	if (result == 0)
		return;
	fprintf(stderr, "two-vms: %s\n", hav_error_message(err));
	hav_error_free(err);
	exit(1);
}

static void make(struct hav *hav, struct machine *m, const char *name, const uint8_t *code,
		 size_t size)
{
	struct error *err = NULL;

	m->name = name;
	m->memory =
		mmap(NULL, MEMORY_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (m->memory == MAP_FAILED) {
		perror("two-vms: mmap");
		exit(1);
	}
	memcpy(m->memory + CODE, code, size);
	check(hav_vm_create(hav, &(struct hav_vm_config){ .irqchip = HAV_IRQCHIP_NONE }, &m->vm,
			    &err),
	      err);
	check(hav_vm_map(m->vm, 0, m->memory, MEMORY_SIZE, HAV_MAP_RW, &err), err);
	check(hav_vcpu_create(m->vm, 0, &m->vcpu, &err), err);
}

static void start_in_real_mode(struct machine *m)
{
	struct hav_state state;
	struct error *err = NULL;

	check(hav_vcpu_get_state(m->vcpu, HAV_STATE_REGS | HAV_STATE_SREGS, &state, &err), err);
	state.sregs.cs.base = 0;
	state.sregs.cs.selector = 0;
	state.regs.rip = CODE;
	check(hav_vcpu_set_state(m->vcpu, HAV_STATE_REGS | HAV_STATE_SREGS, &state, &err), err);
}

/* PML4 at 0x1000, PDPT at 0x2000, page directory at 0x3000: 4 MiB mapped one to one. */
static void start_in_long_mode(struct machine *m)
{
	const struct hav_debug step = { .enabled = true, .single_step = true };
	struct hav_state state;
	struct error *err = NULL;

	*(uint64_t *)(m->memory + 0x1000) = 0x2000 | 3;
	*(uint64_t *)(m->memory + 0x2000) = 0x3000 | 3;
	*(uint64_t *)(m->memory + 0x3000) = 0x000000 | 0x83;
	*(uint64_t *)(m->memory + 0x3008) = 0x200000 | 0x83;
	check(hav_vcpu_get_state(m->vcpu, HAV_STATE_REGS | HAV_STATE_SREGS, &state, &err), err);
	state.sregs.cs = (struct hav_segment){ 0, 0xffffffff, 0x08, 0xa9b };
	state.sregs.ds = state.sregs.es = state.sregs.ss =
		(struct hav_segment){ 0, 0xffffffff, 0x10, 0xc93 };
	state.sregs.cr0 = 0x80000011; /* PG, ET, PE */
	state.sregs.cr3 = 0x1000;
	state.sregs.cr4 = 0x20;   /* PAE */
	state.sregs.efer = 0x500; /* LMA, LME */
	state.sregs.idt.limit = 0;
	state.regs = (struct hav_regs){ .rip = CODE, .rsp = CODE, .rflags = 2 };
	check(hav_vcpu_set_state(m->vcpu, HAV_STATE_REGS | HAV_STATE_SREGS, &state, &err), err);
	check(hav_vcpu_set_debug(m->vcpu, &step, &err), err);
}

/* Prints the exit, answers what it asks for, and tells whether to go on. */
static int handle(struct machine *m, struct hav_exit *exit)
{
	printf("%s: %s", m->name, hav_exit_name(exit->reason));
	switch (exit->reason) {
	case HAV_EXIT_IO:
		if (!exit->io.write)
			memset(exit->io.data, 0x55, exit->io.size);
		printf(" %s port 0x%x: 0x%02x\n", exit->io.write ? "write" : "read", exit->io.port,
		       exit->io.data[0]);
		return 1;
	case HAV_EXIT_MMIO:
		if (!exit->mmio.write)
			memset(exit->mmio.data, 0xaa, exit->mmio.size);
		printf(" %s 0x%llx, %u byte(s): 0x%02x...\n", exit->mmio.write ? "write" : "read",
		       (unsigned long long)exit->mmio.gpa, exit->mmio.size, exit->mmio.data[0]);
		return 1;
	case HAV_EXIT_DEBUG:
		printf(" one step, at 0x%llx\n", (unsigned long long)exit->debug.pc);
		return hav_vcpu_set_debug(m->vcpu, &(struct hav_debug){ 0 }, NULL) == 0;
	case HAV_EXIT_HLT: printf("\n"); return 1;
	case HAV_EXIT_INTERRUPTED: printf(" (kicked)\n"); return 1;
	case HAV_EXIT_SHUTDOWN: printf(" (triple fault)\n"); return 0;
	case HAV_EXIT_FAILED: printf(": %s\n", exit->failed.text); return 0;
	default: printf("\n"); return 0;
	}
}

static void run(struct machine *m, int max_exits)
{
	struct hav_exit exit;
	struct error *err = NULL;

	do {
		check(hav_vcpu_run(m->vcpu, &exit, &err), err);
	} while (handle(m, &exit) && exit.reason != HAV_EXIT_HLT && --max_exits);
}

static void destroy(struct machine *m)
{
	hav_vcpu_destroy(m->vcpu);
	hav_vm_destroy(m->vm);
	munmap(m->memory, MEMORY_SIZE);
}

int main(void)
{
	struct machine first, second;
	struct error *err = NULL;
	struct hav *hav;

	check(hav_open(&hav, NULL, &err), err);
	printf("backend %s\n", hav_backend_name(hav));
	make(hav, &first, "real mode", real_mode_code, sizeof(real_mode_code));
	make(hav, &second, "long mode", long_mode_code, sizeof(long_mode_code));
	start_in_real_mode(&first);
	start_in_long_mode(&second);
	/* In turn, to show that they do not know of each other. */
	run(&first, 16);
	run(&second, 16);
	hav_vcpu_kick(second.vcpu);
	run(&second, 16);
	destroy(&second);
	destroy(&first);
	hav_close(hav);
	return 0;
}
