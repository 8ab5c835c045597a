/*
 * SANDBOX_TRAP: instead of killing the process, a forbidden system call raises SIGSYS; the handler
 * says which call it was and from where, then ends the process as the signal would have. For
 * finding the `#syscalls` line that is missing, not for use: a handler runs in the process that is
 * not to be trusted.
 */
#include "sandbox/layers.h"

#include "base/error.h"
#include "base/log.h"
#include "sandbox/filter.h"

#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <linux/audit.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <ucontext.h>
#include <unistd.h>

#define MAX_FRAMES       24
#define FRAMES_OF_SIGSYS 2 /* the handler, and the kernel's return from it */

static const char *syscall_name(const siginfo_t *info)
{
	unsigned nr = info->si_syscall;

	if (info->si_arch != AUDIT_ARCH_X86_64)
		return "a call of another architecture";
	if (nr >= sandbox_n_syscalls || !sandbox_syscall_names[nr])
		return "an unknown call";
	return sandbox_syscall_names[nr];
}

static void log_frame(void *address)
{
	Dl_info where = { 0 };

	dladdr(address, &where);
	log_info("    %s+0x%lx %s", where.dli_fname ? where.dli_fname : "?",
		 (unsigned long)((char *)address - (char *)where.dli_fbase),
		 where.dli_sname ? where.dli_sname : "");
}

static void report(int signo, siginfo_t *info, void *context)
{
	const greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
	void *frames[MAX_FRAMES];
	int n = backtrace(frames, MAX_FRAMES);

	log_warn("sandbox: the %s thread may not call %s (%d) with 0x%llx, 0x%llx, 0x%llx, 0x%llx, "
		 "0x%llx, 0x%llx; it came from",
		 sandbox_thread_kind, syscall_name(info), info->si_syscall, r[REG_RDI], r[REG_RSI],
		 r[REG_RDX], r[REG_R10], r[REG_R8], r[REG_R9]);
	for (int i = FRAMES_OF_SIGSYS; i < n; i++)
		log_frame(frames[i]);
	_exit(128 + signo);
}

int sandbox_catch_violations(struct error **err)
{
	struct sigaction action = { .sa_sigaction = report, .sa_flags = SA_SIGINFO };
	void *frame;

	backtrace(&frame, 1); /* loads libgcc_s while it can be opened */
	if (sigaction(SIGSYS, &action, NULL) == 0)
		return 0;
	error_set_errno(err, errno, "cannot catch SIGSYS");
	return -1;
}
