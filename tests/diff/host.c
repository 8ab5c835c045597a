/*
 * diff-host: runs cases of the differential tests on the host's own processor.
 *
 *	diff-host FD
 *
 * A process of its own, as cases may do anything: nothing is mapped below 4 GiB but the pages that
 * cases know of, and a filter lets no system call through that comes from there. FD is struct
 * diff_shared. A byte on standard input says which batch to run; the same byte on standard output
s that it has been run.
 *
 * A case starts with all of its registers loaded, in host_enter. It ends at EXIT, where a jump
 *leads to host_leave, or in a signal, whose handler finds the registers in the signal's frame.
 *Handlers do not return (which would cost a system call) but go where host_enter would.
 */
#include "diff.h"

#include <err.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

/* What host_enter.S reads and fills. */
struct context {
	struct diff_state s;
	uint64_t fs_base; /* ours */
	uint64_t rsp;     /* ours */
	uint64_t flags;   /* ours; alignment checks off */
	uint32_t mxcsr;
	uint16_t fcw;
	uint64_t signal_fs, signal_gs; /* as a signal found them */
};
struct context host_context __attribute__((aligned(64), visibility("hidden")));

_Static_assert(offsetof(struct diff_state, rip) == 128, "host_enter");
_Static_assert(offsetof(struct diff_state, rflags) == 136, "host_enter");
_Static_assert(offsetof(struct diff_state, fs_base) == 144, "host_enter");
_Static_assert(offsetof(struct diff_state, gs_base) == 152, "host_enter");
_Static_assert(offsetof(struct diff_state, fx) == 160, "host_enter");
_Static_assert(offsetof(struct context, fs_base) == 672, "host_enter");
_Static_assert(offsetof(struct context, rsp) == 680, "host_enter");
_Static_assert(offsetof(struct context, flags) == 688, "host_enter");
_Static_assert(offsetof(struct context, mxcsr) == 696, "host_enter");
_Static_assert(offsetof(struct context, fcw) == 700, "host_enter");
_Static_assert(offsetof(struct context, signal_fs) == 704, "host_signal");
_Static_assert(offsetof(struct context, signal_gs) == 712, "host_signal");

void host_enter(void);
void host_leave(void);
void host_resume(void) __attribute__((noreturn));
void host_signal(int number, siginfo_t *info, void *context);
void host_signalled(int number, siginfo_t *info, void *context) __attribute__((used));

static struct diff_result *result; /* of the case that runs; NULL: none */

#define TICK      10000 /* microseconds */
#define MAX_TICKS 4     /* that a case may take */
static unsigned ticks;

static const int order[] = {
	REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
	REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15
};

void host_signalled(int number, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	greg_t *regs = uc->uc_mcontext.gregs;
	struct diff_state *s = &host_context.s;

	if (number == SIGALRM && (!result || ++ticks < MAX_TICKS))
		return;
	if (!result)
		_exit(3);
	for (unsigned i = 0; i < 16; i++)
		s->gpr[i] = regs[order[i]];
	s->rip = regs[REG_RIP];
	s->rflags = regs[REG_EFL];
	s->fs_base = host_context.signal_fs;
	s->gs_base = host_context.signal_gs;
	memcpy(s->fx, uc->uc_mcontext.fpregs, FX_END);
	result->how = regs[REG_TRAPNO];
	result->error = regs[REG_ERR];
	result->cr2 = regs[REG_CR2];
	if (number == SIGALRM)
		result->how = ENDED_LATE;
	if (number == SIGSYS)
		result->how = ENDED_SYSCALL;
	host_resume();
}

static void install_handlers(void)
{
	static const int signals[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGALRM };
	struct sigaction action = { .sa_sigaction = host_signal,
				    .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK };
	stack_t stack = { .ss_size = 256 << 10 };

	stack.ss_sp = malloc(stack.ss_size);
	if (!stack.ss_sp || sigaltstack(&stack, NULL) < 0)
		err(2, "sigaltstack");
	for (unsigned i = 0; i < COUNT(signals); i++)
		sigaction(signals[i], &action, NULL);
}

/* System calls from below 4 GiB end the case. */
static void install_filter(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
			 offsetof(struct seccomp_data, instruction_pointer) + 4),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { COUNT(filter), filter };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
		err(2, "seccomp");
}

/* --- Memory ---- */

static uint8_t *data;       /* RW and RO, writable, anywhere */
static uint8_t *code, *end; /* CODE and EXIT, likewise */

static void *map(uint64_t at, size_t size, int protection, int fd, off_t offset)
{
	void *p = mmap((void *)at, size, protection, MAP_SHARED | (at ? MAP_FIXED_NOREPLACE : 0),
		       fd, offset);

	if (p == MAP_FAILED || (at && p != (void *)at))
		err(2, "cannot map %zu bytes at 0x%llx", size, (unsigned long long)at);
	return p;
}

static void map_all(void)
{
	const size_t size = CODE_SIZE + PAGE + DATA_SIZE;
	int fd = memfd_create("diff-host", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, size) < 0)
		err(2, "memfd");
	code = map(0, size, PROT_READ | PROT_WRITE, fd, 0);
	end = code + CODE_SIZE;
	data = end + PAGE;
	map(CODE, CODE_SIZE, PROT_READ | PROT_EXEC, fd, 0);
	map(EXIT, PAGE, PROT_READ | PROT_EXEC, fd, CODE_SIZE);
	map(RW, RW_SIZE, PROT_READ | PROT_WRITE, fd, CODE_SIZE + PAGE);
	map(RO, PAGE, PROT_READ, fd, CODE_SIZE + PAGE + RW_SIZE);
	close(fd);
}

/* jmp *2(%rip), to host_leave; aligned, as the case may have set AC */
static void make_exit(void)
{
	static const uint8_t jump[6] = { 0xff, 0x25, 2 };
	void (*to)(void) = host_leave;

	memset(end, 0xcc, PAGE);
	memcpy(end, jump, sizeof(jump));
	memcpy(end + 8, &to, sizeof(to));
}

/* --- Cases ---- */

static void run(const struct diff_shared *shared, struct diff_case *c)
{
	struct diff_result *r = &c->host;

	diff_memory(shared, c, data);
	host_context.s = c->in;
	r->how = ENDED_WELL;
	r->error = r->cr2 = 0;
	ticks = 0;
	result = r;
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	host_enter();
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	result = NULL;
	r->state = host_context.s;
	if (r->how == ENDED_WELL)
		r->state.rip = 0;
	memcpy(r->memory, data, RW_SIZE);
}

static void run_batch(const struct diff_shared *shared, struct diff_batch *batch)
{
	const struct itimerval limit = { { 0, TICK }, { 0, TICK } };
	const struct itimerval none = { 0 };

	memcpy(code, batch->code, CODE_SIZE);
	/* Whether a page is present is in the error code of a fault. */
	for (uint64_t at = RW; at < DATA_END; at += PAGE)
		(void)*(volatile uint8_t *)at;
	setitimer(ITIMER_REAL, &limit, NULL);
	for (unsigned i = 0; i < batch->n; i++)
		run(shared, &batch->cases[i]);
	setitimer(ITIMER_REAL, &none, NULL);
}

int main(int argc, char **argv)
{
	struct diff_shared *shared;
	uint8_t which;

	if (argc != 2)
		errx(2, "usage: diff-host FD");
	shared = map(0, sizeof(*shared), PROT_READ | PROT_WRITE, atoi(argv[1]), 0);
	map_all();
	make_exit();
	__asm__("rdfsbase %0" : "=r"(host_context.fs_base));
	host_context.flags = FLAG_IF | 2;
	host_context.mxcsr = 0x1f80;
	install_handlers();
	install_filter();
	while (read(0, &which, 1) == 1) {
		run_batch(shared, &shared->batches[which & 1]);
		if (write(1, &which, 1) != 1)
			break;
	}
	return 0;
}
