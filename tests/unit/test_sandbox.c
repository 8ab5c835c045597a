/*
 * The sandbox, tried in children: what a layer or a filter does cannot be undone, so each case
 * forks, goes in, tries something, and reports by how it ends.
 *
 * Filters are tried whole. The generated rules say what each one allows: all of it is called, with
 * arguments that make the kernel say no. All other system calls are called too, each in a child of
 * its own that must die of SIGSYS.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/error.h"
#include "base/util.h"
#include "sandbox/filter.h"
#include "sandbox/layers.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define CHILD_SECONDS   20
#define X32_BIT         0x40000000
#define FIRST_FREE_CALL 470 /* numbers from here to 511 are not given out yet */
#define CHECK(condition)                           \
	do {                                       \
		if (!(condition))                  \
			return __LINE__ % 250 + 1; \
	} while (0)

/* Runs fn(arg) in a child, which exits with its result; returns the wait status. */
static int in_child(int (*fn)(void *), void *arg)
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		alarm(CHILD_SECONDS);
		/* the system call itself: a filter may forbid what the libraries do at exit */
		syscall(SYS_exit_group, fn(arg));
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

/* Line % 250 of the CHECK that failed is what a non-zero status holds, less one. */
static void assert_child_ok(int (*fn)(void *), void *arg)
{
	int status = in_child(fn, arg);

	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		fail_msg("the child ended with status 0x%x", status);
}

static bool died_of_sigsys(int status)
{
	return WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS;
}

/* --- Layers ---- */

static int enter(const struct sandbox_config *config)
{
	struct error *err = NULL;

	if (sandbox_enter(config, &err) == 0)
		return 0;
	fprintf(stderr, "%s\n", error_message(err));
	return -1;
}

/* A child with a single thread, as a sanitizer's own threads would forbid a user namespace. */
static int check_capabilities(void *arg)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
	bool was_root = geteuid() == 0;

	CHECK(enter(&(struct sandbox_config){ 0 }) == 0);
	CHECK(syscall(SYS_capget, &header, data) == 0);
	for (unsigned i = 0; i < ARRAY_SIZE(data); i++)
		CHECK(!data[i].effective && !data[i].permitted && !data[i].inheritable);
	for (int cap = 0; was_root && prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
		CHECK(prctl(PR_CAPBSET_READ, cap, 0, 0, 0) == 0);
	CHECK(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
	CHECK(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 0);
	return 0;
}

static void capabilities_are_empty(void **state)
{
	assert_child_ok(check_capabilities, NULL);
}

static int check_landlock_alone(void *arg)
{
	int dir = open("/etc", O_PATH | O_DIRECTORY), file = open("/etc/passwd", O_RDONLY), version;
	struct error *err = NULL;
	char byte;

	CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	version = sandbox_landlock(&err);
	CHECK(version >= 0);
	if (version == 0)
		return 0;
	CHECK(open("/etc/passwd", O_RDONLY) < 0 && errno == EACCES);
	CHECK(openat(dir, "passwd", O_RDONLY) < 0 && errno == EACCES);
	CHECK(open("/tmp", O_RDONLY | O_DIRECTORY) < 0 && errno == EACCES);
	CHECK(mkdir("/tmp/revirt-test", 0700) < 0 && errno == EACCES);
	CHECK(read(file, &byte, 1) == 1);
	return 0;
}

static void landlock_denies_files(void **state)
{
	assert_child_ok(check_landlock_alone, NULL);
}

static int check_landlock_network(void *arg)
{
	struct sockaddr_un_abstract {
		sa_family_t family;
		char name[16];
	} outside = { AF_UNIX, "\0revirt-test" };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), version;

	CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	version = sandbox_landlock(NULL);
	CHECK(version >= 0);
	/* Scopes came with version 6. */
	CHECK(connect(fd, (void *)&outside, sizeof(outside)) < 0);
	CHECK(errno == (version >= 6 ? EPERM : ECONNREFUSED) || errno == ECONNREFUSED);
	CHECK(version < 6 || (kill(getppid(), 0) < 0 && errno == EPERM));
	return 0;
}

static void landlock_denies_signals(void **state)
{
	assert_child_ok(check_landlock_network, NULL);
}

static bool is_empty(const char *path)
{
	DIR *dir = opendir(path);
	int n = 0;

	while (dir && readdir(dir))
		n++;
	return n == 2; /* . and .. */
}

static int check_isolation(void *arg)
{
	int dir = open("/", O_PATH | O_DIRECTORY);

	CHECK(chdir("/etc") == 0 && dir >= 0);
	sandbox_isolate(false);
	CHECK(open("/etc/passwd", O_RDONLY) < 0);
	CHECK(open("passwd", O_RDONLY) < 0);
	CHECK(open("../etc/passwd", O_RDONLY) < 0);
	CHECK(open("/proc/self/status", O_RDONLY) < 0);
	CHECK(is_empty("/") && is_empty("."));
	CHECK(mkdir("x", 0700) < 0);
	CHECK(openat(dir, "etc/passwd", O_RDONLY) >= 0); /* which is why descriptors are closed */
	return 0;
}

static void isolation_leaves_no_files(void **state)
{
	assert_child_ok(check_isolation, NULL);
}

static int isolate_as_nobody(void *arg)
{
	CHECK(geteuid() != 0 || setresuid(65534, 65534, 65534) == 0);
	sandbox_isolate(false);
	return 0;
}

/* What a host allows its users differs; that it goes on does not. */
static void isolation_is_never_fatal(void **state)
{
	assert_child_ok(isolate_as_nobody, NULL);
}

static bool is_open(int fd)
{
	return fcntl(fd, F_GETFD) >= 0;
}

static int check_descriptors(void *arg)
{
	for (int fd = 3; fd < 130; fd++)
		CHECK(dup3(STDERR_FILENO, fd, fd % 7 ? 0 : O_CLOEXEC) == fd);
	CHECK(enter(&(struct sandbox_config){ 0 }) == 0);
	for (int fd = 0; fd < 130; fd++)
		CHECK(is_open(fd) == (fd < 3 || fd % 7 == 0));
	return 0;
}

static void leaked_descriptors_are_closed(void **state)
{
	assert_child_ok(check_descriptors, NULL);
}

static int check_off(void *arg)
{
	CHECK(enter(&(struct sandbox_config){ .mode = SANDBOX_OFF }) == 0);
	CHECK(sandbox_enter_thread(SANDBOX_VCPU, NULL) == 0);
	CHECK(open("/etc/passwd", O_RDONLY) >= 0);
	return 0;
}

static void off_changes_nothing(void **state)
{
	assert_child_ok(check_off, NULL);
}

/* --- Filters ---- */

/* A system call in a child under the filter of one kind of thread. */
struct attempt {
	enum sandbox_thread thread;
	enum sandbox_mode mode;
	long nr, args[6];
	int log_fd;
};

static int filtered(enum sandbox_thread thread, enum sandbox_mode mode)
{
	CHECK(enter(&(struct sandbox_config){ .mode = mode }) == 0);
	CHECK(sandbox_enter_thread(thread, NULL) == 0);
	return 0;
}

static long call(long nr, const long args[6])
{
	return syscall(nr, args[0], args[1], args[2], args[3], args[4], args[5]);
}

static int try_call(void *arg)
{
	const struct attempt *attempt = arg;

	/* rt_sigreturn without a frame crashes, and a sanitizer's handler would make calls of its
	 * own. */
	signal(SIGSEGV, SIG_DFL);
	signal(SIGBUS, SIG_DFL);
	signal(SIGILL, SIG_DFL);
	CHECK(filtered(attempt->thread, attempt->mode) == 0);
	call(attempt->nr, attempt->args);
	return 0;
}

static bool is_allowed(enum sandbox_thread thread, long nr)
{
	for (unsigned i = 0; i < sandbox_rules[thread].n; i++)
		if (sandbox_rules[thread].rules[i].nr == nr)
			return true;
	return false;
}

/* These do not come back when they work. */
static bool ends_the_thread(long nr)
{
	return nr == SYS_exit || nr == SYS_exit_group || nr == SYS_rt_sigreturn;
}

static void set_argument(const struct sandbox_rule *rule, long args[6])
{
	/* What no call accepts: no descriptor, no address, no size. */
	for (unsigned i = 0; i < 6; i++)
		args[i] = -1;
	if (rule->kind != SANDBOX_RULE_ANY)
		args[rule->argument] = rule->kind == SANDBOX_RULE_OWN_PID ? (long)getpid()
									  : (long)rule->value;
}

static int try_all_rules(void *arg)
{
	const struct attempt *attempt = arg;
	const struct sandbox_rules *rules = &sandbox_rules[attempt->thread];
	volatile unsigned *reached = (volatile unsigned *)attempt->args[0];
	long args[6];

	CHECK(filtered(attempt->thread, SANDBOX_ON) == 0);
	for (*reached = 0; *reached < rules->n; ++*reached) {
		const struct sandbox_rule *rule = &rules->rules[*reached];

		if (ends_the_thread(rule->nr))
			continue;
		set_argument(rule, args);
		call(rule->nr, args);
	}
	return 0;
}

static void try_allowed(enum sandbox_thread thread)
{
	unsigned *reached = mmap(NULL, sizeof(*reached), PROT_READ | PROT_WRITE,
				 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct attempt attempt = { .thread = thread, .args = { (long)reached } };
	int status = in_child(try_all_rules, &attempt);

	if (status != 0)
		fail_msg("thread %s, rule %u (%s): status 0x%x", sandbox_filters[thread].name,
			 *reached,
			 *reached < sandbox_rules[thread].n
				 ? sandbox_rules[thread].rules[*reached].name
				 : "none",
			 status);
	munmap(reached, sizeof(*reached));

	for (unsigned i = 0; i < sandbox_rules[thread].n; i++) {
		const struct sandbox_rule *rule = &sandbox_rules[thread].rules[i];

		attempt.nr = rule->nr;
		if (ends_the_thread(rule->nr) && died_of_sigsys(in_child(try_call, &attempt)))
			fail_msg("thread %s: %s", sandbox_filters[thread].name, rule->name);
	}
}

static void all_allowed_calls_work(void **state)
{
	for (unsigned thread = 0; thread < SANDBOX_N_THREADS; thread++)
		try_allowed(thread);
}

/* vhangup would hang up the terminal of whoever runs this, if it were allowed by mistake. uretprobe
 * and uprobe the kernel keeps from filters (since 6.14), as only its own trampolines may use them.
 */
static bool is_not_for_trying(long nr)
{
	return nr == SYS_vhangup || nr == SYS_pause || nr == 335 || nr == 336;
}

static void assert_forbidden(const struct attempt *attempt, const char *what)
{
	int status = in_child(try_call, (void *)attempt);

	if (!died_of_sigsys(status))
		fail_msg("thread %s: %s (%ld) is not forbidden: status 0x%x",
			 sandbox_filters[attempt->thread].name, what, attempt->nr, status);
}

static void all_other_calls_kill(void **state)
{
	for (unsigned thread = 0; thread < SANDBOX_N_THREADS; thread++) {
		for (long nr = 0; nr < FIRST_FREE_CALL; nr++) {
			struct attempt attempt = { .thread = thread,
						   .nr = nr,
						   .args = { -1, -1, -1, -1, -1, -1 } };

			if (!is_allowed(thread, nr) && !is_not_for_trying(nr))
				assert_forbidden(&attempt, "a call");
		}
	}
}

static void x32_calls_kill(void **state)
{
	for (unsigned thread = 0; thread < SANDBOX_N_THREADS; thread++) {
		struct attempt attempt = { .thread = thread, .nr = SYS_write | X32_BIT };

		assert_forbidden(&attempt, "x32 write");
		attempt.nr = SYS_exit_group | X32_BIT;
		assert_forbidden(&attempt, "x32 exit_group");
	}
}

/* With the number of i386's getpid, which is x86-64's writev. */
static int try_int80(void *arg)
{
	long result = 20;

	CHECK(filtered(*(enum sandbox_thread *)arg, SANDBOX_ON) == 0);
	__asm__ volatile("int $0x80" : "+a"(result) : : "memory", "r8", "r9", "r10", "r11");
	return 0;
}

static void i386_calls_kill(void **state)
{
	for (enum sandbox_thread thread = 0; thread < SANDBOX_N_THREADS; thread++)
		assert_true(died_of_sigsys(in_child(try_int80, &thread)));
}

/* Calls that are allowed, but not so. */
static void other_arguments_kill(void **state)
{
	const struct {
		const char *what;
		long nr, args[6];
	} cases[] = {
		{ "mmap with PROT_EXEC", SYS_mmap, { 0, 4096, PROT_READ | PROT_EXEC, 0x22, -1 } },
		{ "mprotect with PROT_EXEC", SYS_mprotect, { 0, 4096, PROT_EXEC } },
		{ "madvise with MADV_HWPOISON", SYS_madvise, { 0, 4096, MADV_HWPOISON } },
		{ "tgkill of the parent", SYS_tgkill, { getpid(), getpid(), 0 } },
		{ "ioctl KVM_CREATE_VM", SYS_ioctl, { -1, 0xae01 } },
		{ "ioctl TIOCSTI", SYS_ioctl, { 0, 0x5412 } },
		{ "ioctl KVM_SET_USER_MEMORY_REGION", SYS_ioctl, { -1, 0x4020ae46 } },
	};

	for (unsigned thread = 0; thread < SANDBOX_N_THREADS; thread++) {
		for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
			struct attempt attempt = { .thread = thread, .nr = cases[i].nr };

			memcpy(attempt.args, cases[i].args, sizeof(attempt.args));
			assert_forbidden(&attempt, cases[i].what);
		}
	}
}

/* What somebody inside would try first; in the sanitizers' builds, too. */
static void escapes_kill(void **state)
{
	const struct attempt attempts[] = {
		{ .nr = SYS_execve, .args = { (long)"/bin/true" } },
		{ .nr = SYS_execveat, .args = { AT_FDCWD, (long)"/bin/true" } },
		{ .nr = SYS_open, .args = { (long)"/etc/passwd" } },
		{ .nr = SYS_ptrace, .args = { PTRACE_TRACEME } },
		{ .nr = SYS_fork },
		{ .nr = SYS_kill, .args = { 0, 0 } },
		{ .nr = SYS_io_uring_setup, .args = { 1, 0 } },
		{ .nr = SYS_seccomp, .args = { 0, 0, 0 } },
		{ .nr = SYS_unshare, .args = { CLONE_NEWUSER } },
		{ .nr = SYS_process_vm_writev, .args = { getpid() } },
	};

	for (unsigned thread = SANDBOX_IO; thread < SANDBOX_N_THREADS; thread++) {
		for (unsigned i = 0; i < ARRAY_SIZE(attempts); i++) {
			struct attempt attempt = attempts[i];

			attempt.thread = thread;
			assert_forbidden(&attempt, sandbox_syscall_names[attempt.nr]);
		}
	}
}

/* --- Being told ---- */

static int trap_ptrace(void *arg)
{
	CHECK(dup2(*(int *)arg, STDERR_FILENO) == STDERR_FILENO);
	CHECK(filtered(SANDBOX_VCPU, SANDBOX_TRAP) == 0);
	syscall(SYS_ptrace, 0x123, 0, 0, 0);
	return 0;
}

static void trap_names_the_call(void **state)
{
	int pipe_fds[2], status;
	char text[4096];
	ssize_t len;

	assert_int_equal(pipe2(pipe_fds, O_CLOEXEC), 0);
	status = in_child(trap_ptrace, &pipe_fds[1]);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 128 + SIGSYS);
	len = read(pipe_fds[0], text, sizeof(text) - 1);
	assert_true(len > 0);
	text[len] = 0;
	assert_non_null(strstr(text, "the vcpu thread may not call ptrace (101) with 0x123, 0x0"));
	assert_non_null(strstr(text, "test_sandbox+0x"));
	close(pipe_fds[0]);
	close(pipe_fds[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(capabilities_are_empty),
		cmocka_unit_test(landlock_denies_files),
		cmocka_unit_test(landlock_denies_signals),
		cmocka_unit_test(isolation_leaves_no_files),
		cmocka_unit_test(isolation_is_never_fatal),
		cmocka_unit_test(leaked_descriptors_are_closed),
		cmocka_unit_test(off_changes_nothing),
		cmocka_unit_test(all_allowed_calls_work),
		cmocka_unit_test(all_other_calls_kill),
		cmocka_unit_test(x32_calls_kill),
		cmocka_unit_test(i386_calls_kill),
		cmocka_unit_test(other_arguments_kill),
		cmocka_unit_test(escapes_kill),
		cmocka_unit_test(trap_names_the_call),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
