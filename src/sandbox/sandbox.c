/*
 * The sandbox, put on in two steps: see sandbox.h, and docs/security.md for what each layer is
 * against.
 *
 * sandbox_enter() is a recipe whose order matters: what needs privileges (namespaces, an empty
 * root) comes before they are dropped, and Landlock needs no_new_privs. Threads made afterwards
 * inherit all of it. sandbox_enter_thread() adds the seccomp filter that tools/seccomp-gen made for
 * that kind of thread.
 *
 * Every thread also runs libc, whose calls no function of ours stands for. It needs:
 *
 * memory: malloc maps, grows and trims, thread stacks are given back
 * #syscalls brk mmap mprotect mremap munmap madvise=MADV_DONTNEED
 * locks and conditions, and the end of a thread or of all
 * #syscalls futex sched_yield exit exit_group
 * the start of a thread, where its parent was filtered already
 * #syscalls rseq set_robust_list
 * signal handlers, pthread_kill(), abort()
 * #syscalls rt_sigreturn rt_sigprocmask restart_syscall tgkill getpid gettid
 * time, on a host whose clock the vDSO can't read
 * #syscalls clock_gettime clock_getres gettimeofday clock_nanosleep nanosleep
 * malloc's random keys; how many arenas are worth while
 * #syscalls getrandom sched_getaffinity
 *
 * It must not need more, hence: localtime_r() instead of localtime() (which looks at /etc/localtime
 * each time), threads that return instead of pthread_exit() (which loads libgcc_s), no
 * getaddrinfo().
 */
#include "sandbox/sandbox.h"

#include "base/error.h"
#include "base/log.h"
#include "base/util.h"
#include "sandbox/filter.h"
#include "sandbox/layers.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

/* Set before other threads exist, never changed afterwards. */
static enum sandbox_mode mode = SANDBOX_OFF;
_Thread_local const char *sandbox_thread_kind = "unfiltered";

#ifdef __SANITIZE_ADDRESS__
/* The leak check at exit would stop and trace all threads, which the filters forbid. */
__attribute__((visibility("default"))) int __lsan_is_turned_off(void);
int __lsan_is_turned_off(void)
{
	return mode != SANDBOX_OFF;
}
#endif

/* See sandbox.h for whose these are. */
static void close_leaked(void)
{
	DIR *dir = opendir("/proc/self/fd");
	struct dirent *entry;

	if (!dir) {
		log_item(LOG_UNIMP, "sandbox: no /proc to find leaked descriptors in");
		return;
	}
	while ((entry = readdir(dir))) {
		int fd = atoi(entry->d_name); /* 0 for . and .. */

		if (fd > STDERR_FILENO && !(fcntl(fd, F_GETFD) & FD_CLOEXEC))
			close(fd);
	}
	closedir(dir);
}

/* Guest memory belongs on no disk, and in no debugger of another process of the same user. */
static int hide_memory(struct error **err)
{
	if (setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 }) == 0 &&
	    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0)
		return 0;
	error_set_errno(err, errno, "cannot turn core dumps off");
	return -1;
}

static int refuse_new_privileges(struct error **err)
{
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0)
		return 0;
	error_set_errno(err, errno, "cannot set no_new_privs");
	return -1;
}

static int restrict_files(struct error **err)
{
	int version = sandbox_landlock(err);

	if (version == 0)
		log_warn("sandbox: this kernel offers no Landlock (add landlock to its lsm= list); "
			 "going on without");
	return version < 0 ? -1 : 0;
}

static int give_up_all(const struct sandbox_config *config, struct error **err)
{
	close_leaked();
	if (config->mode == SANDBOX_TRAP && sandbox_catch_violations(err) < 0)
		return -1;
	sandbox_isolate(config->keep_network);
	if (refuse_new_privileges(err) < 0 || restrict_files(err) < 0 ||
	    sandbox_drop_capabilities(err) < 0)
		return -1;
	return hide_memory(err); /* changes of credentials undo it, so it comes last */
}

int sandbox_enter(const struct sandbox_config *config, struct error **err)
{
	if (config->mode == SANDBOX_OFF) {
		log_warn("-sandbox off: this process keeps all rights of its user; "
			 "for debugging only");
		return 0;
	}
	if (give_up_all(config, err) < 0) {
		error_prefix(err, "sandbox: ");
		return -1;
	}
	mode = config->mode;
	return 0;
}

/* The program as this process needs it: with its id, and with the end that the mode asks for. */
static struct sock_filter *copy_program(const struct sandbox_filter *filter)
{
	struct sock_filter *code = xcalloc(filter->len, sizeof(*code));

	memcpy(code, filter->code, filter->len * sizeof(*code));
	for (unsigned i = 0; i < filter->n_own_pid; i++)
		code[filter->own_pid[i]].k = getpid();
	for (unsigned i = 0; mode == SANDBOX_TRAP && i < filter->len; i++)
		if (BPF_CLASS(code[i].code) == BPF_RET && code[i].k == SECCOMP_RET_KILL_PROCESS)
			code[i].k = SECCOMP_RET_TRAP;
	return code;
}

int sandbox_enter_thread(enum sandbox_thread thread, struct error **err)
{
	const struct sandbox_filter *filter = &sandbox_filters[thread];
	struct sock_filter *code AUTO_FREE = NULL;
	struct sock_fprog program = { .len = filter->len };
	sigset_t violation;

	if (mode == SANDBOX_OFF)
		return 0;
	sandbox_thread_kind = filter->name;
	sigemptyset(&violation);
	sigaddset(&violation, SIGSYS);
	pthread_sigmask(SIG_UNBLOCK, &violation, NULL);
	program.filter = code = copy_program(filter);
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) < 0) {
		error_set_errno(err, errno,
				"sandbox: cannot filter the system calls of the %s thread",
				filter->name);
		return -1;
	}
	return 0;
}
