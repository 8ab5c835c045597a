/*
 * revirter: a virtual machine in a process, spoken to in QEMU's language.
 *
 * main() reads as what happens: understand the command line, assemble the machine, give up what is
 * no longer needed, run.
 */
#include "base/error.h"
#include "base/fdset.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/tidy.h"
#include "base/util.h"
#include "chardev/chardev.h"
#include "hav.h"
#include "machine/backends.h"
#include "machine/vcpu.h"
#include "revirter/assemble.h"
#include "revirter/dialect.h"
#include "revirter/gdbstub.h"
#include "revirter/monitor.h"
#include "revirter/qmp.h"
#include "sandbox/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/wait.h>

static uint64_t started_ns;

/* --- -x-calibrate ---- */

/* Exit status 0: KVM runs stock guests at full speed here. */
static int calibrate(void)
{
	int status = 1;

	for (unsigned i = 0; hav_backend_at(i); i++) {
		struct error *err ERROR_AUTO = NULL;
		struct hav_speed speed;
		struct hav *hav = NULL;

		if (hav_open(&hav, hav_backend_at(i), &err) < 0 ||
		    hav_calibrate(hav, &speed, &err) < 0) {
			printf("%s: not usable: %s\n", hav_backend_at(i), error_message(err));
		} else {
			printf("%s: %s, %.2f ns a kernel-mode loop, %.0f ns an exit\n",
			       hav_backend_at(i),
			       speed.full_speed ? "full speed" : "too slow for stock guests",
			       speed.loop_ns, speed.exit_ns);
			if (speed.full_speed && strcmp(hav_backend_at(i), "kvm") == 0)
				status = 0;
		}
		hav_close(hav);
	}
	return status;
}

/* --- -daemonize, -pidfile, -D ---- */

/* The parent waits here until the child says that all is well, and takes its exit status from it.
 */
static void wait_for_daemon(int fd, pid_t pid)
{
	char ready;
	int status;

	if (read(fd, &ready, 1) == 1)
		_exit(0);
	waitpid(pid, &status, 0);
	_exit(WIFEXITED(status) && WEXITSTATUS(status) ? WEXITSTATUS(status) : 1);
}

/* Goes on in a child; *ready_fd is to be written to when the VM runs. */
static int daemonize(int *ready_fd, struct error **err)
{
	int fds[2];
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC) < 0 || (pid = fork()) < 0) {
		error_set_errno(err, errno, "-daemonize: cannot start a process");
		return -1;
	}
	if (pid) {
		close(fds[1]);
		wait_for_daemon(fds[0], pid);
	}
	close(fds[0]);
	setsid();
	*ready_fd = fds[1];
	return 0;
}

static int detach_stdio(struct error **err)
{
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (fd < 0 || dup2(fd, 0) < 0 || dup2(fd, 1) < 0 || dup2(fd, 2) < 0) {
		error_set_errno(err, errno, "-daemonize: cannot leave the terminal");
		return -1;
	}
	close(fd);
	return 0;
}

/* The file stays locked as long as we live, which tells a second instance. */
static int write_pidfile(const char *path, struct error **err)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);

	if (fd < 0) {
		error_set_errno(err, errno, "-pidfile: cannot create '%s'", path);
		return -1;
	}
	if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		error_set(err, "-pidfile: '%s' is held by another process that is running", path);
		close(fd);
		return -1;
	}
	if (ftruncate(fd, 0) < 0 || dprintf(fd, "%d\n", getpid()) < 0) {
		error_set_errno(err, errno, "-pidfile: cannot write '%s'", path);
		close(fd);
		return -1;
	}
	return tidy_at_exit(path, err);
}

static int open_log(const struct description *desc, struct error **err)
{
	int fd;

	log_enable(desc->log_items);
	if (!desc->log_file)
		return 0;
	fd = open(desc->log_file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	if (fd < 0) {
		error_set_errno(err, errno, "-D: cannot open '%s'", desc->log_file);
		return -1;
	}
	log_to(fd);
	return 0;
}

/* --- Descriptors from outside ---- */

/* A duplicate of each, so that naming one twice is no harm. */
static int take_fds(const struct description *desc, struct error **err)
{
	for (size_t i = 0; i < desc->n_fds; i++) {
		const struct desc_fd *f = &desc->fds[i];
		int fd = fcntl(f->fd, F_DUPFD_CLOEXEC, 0);

		if (fd < 0) {
			error_set_errno(err, errno, "-add-fd: descriptor %d", f->fd);
			return -1;
		}
		if (fdset_add(f->set, fd, f->opaque, err) < 0) {
			error_prefix(err, "-add-fd: ");
			return -1;
		}
	}
	return 0;
}

/* --- Monitors ---- */

static void quit_by_key(void *opaque)
{
	vm_quit(opaque, CAUSE_HOST_UI);
}

static int attach_monitor(struct vm *vm, const struct desc_monitor *m, struct error **err)
{
	struct chardev *chr = backends_find(vm->machine.backends, BACKEND_CHARDEV, m->chardev);

	if (m->control)
		return qmp_new(vm, chr, m->pretty, err) ? 0 : -1;
	return monitor_new(vm, chr, err) ? 0 : -1;
}

static int attach_monitors(struct vm *vm, const struct description *desc, struct error **err)
{
	chardev_set_quit(quit_by_key, vm);
	for (size_t i = 0; i < desc->n_monitors; i++)
		if (attach_monitor(vm, &desc->monitors[i], err) < 0)
			return -1;
	return 0;
}

static int attach_gdb(struct vm *vm, const struct description *desc, struct error **err)
{
	if (!desc->gdb)
		return 0;
	vm->gdb = gdbstub_new(vm, backends_find(vm->machine.backends, BACKEND_CHARDEV, desc->gdb),
			      err);
	return vm->gdb ? 0 : -1;
}

/* --- Locking in ---- */

static void enter_or_abort(enum sandbox_thread thread)
{
	struct error *err ERROR_AUTO = NULL;

	if (sandbox_enter_thread(thread, &err) == 0)
		return;
	/* A thread without its filter must not meet the guest. */
	log_warn("%s", error_message(err));
	abort();
}

static void enter_io(void)
{
	enter_or_abort(SANDBOX_IO);
}

static void enter_vcpu(void)
{
	enter_or_abort(SANDBOX_VCPU);
}

static void note_first_entry(void *opaque)
{
	log_item(LOG_STARTUP, "first entry into the guest %.2f ms after the start",
		 (now_ns() - started_ns) / 1e6);
}

static int lock_in(struct vm *vm, const struct description *desc, struct error **err)
{
	const struct sandbox_config config = {
		.mode = !desc->sandbox       ? SANDBOX_OFF
			: desc->sandbox_trap ? SANDBOX_TRAP
					     : SANDBOX_ON,
	};

	tidy_seal();
	if (sandbox_enter(&config, err) < 0 || assemble_start_threads(vm, enter_io, err) < 0 ||
	    vcpus_start(&vm->machine, enter_vcpu, note_first_entry, NULL, err) < 0)
		return -1;
	enter_or_abort(SANDBOX_MAIN);
	return 0;
}

/* --- Running ---- */

static int prepare(struct vm *vm, const struct description *desc, int *ready_fd, struct error **err)
{
	if (desc->daemonize && daemonize(ready_fd, err) < 0)
		return -1;
	if (open_log(desc, err) < 0 || take_fds(desc, err) < 0 ||
	    (desc->pidfile && write_pidfile(desc->pidfile, err) < 0))
		return -1;
	if (desc->name.process)
		prctl(PR_SET_NAME, desc->name.process);
	for (size_t i = 0; i < desc->n_notes; i++)
		log_info("%s", desc->notes[i]);
	vm->machine.main_loop = loop_new(err);
	if (!vm->machine.main_loop)
		return -1;
	vm_init(vm);
	if (assemble(vm, desc, err) < 0 || attach_monitors(vm, desc, err) < 0 ||
	    attach_gdb(vm, desc, err) < 0 || vm_watch_signals(vm, err) < 0)
		return -1;
	return desc->daemonize ? detach_stdio(err) : 0;
}

static int start(struct vm *vm, const struct description *desc, int *ready_fd, struct error **err)
{
	char ready = 1;

	if (prepare(vm, desc, ready_fd, err) < 0 || lock_in(vm, desc, err) < 0)
		return -1;
	if (!desc->stopped && vm_resume(vm, err) < 0)
		return -1;
	if (*ready_fd >= 0) {
		if (write(*ready_fd, &ready, 1) < 0)
			log_warn("-daemonize: the parent did not wait");
		close(*ready_fd);
	}
	return 0;
}

static int run(const struct description *desc)
{
	struct error *err ERROR_AUTO = NULL;
	struct vm vm = { .boot = { .kernel_fd = -1, .initrd_fd = -1 } };
	int ready_fd = -1;

	if (start(&vm, desc, &ready_fd, &err) == 0) {
		loop_run(vm.machine.main_loop);
	} else {
		log_info("%s", error_message(err));
		vm.exit_status = 1;
	}
	qmp_free_all(&vm);
	monitor_free_all(&vm);
	gdbstub_close(vm.gdb);
	disassemble(&vm);
	gdbstub_free(vm.gdb);
	vm_destroy(&vm);
	loop_free(vm.machine.main_loop);
	return vm.exit_status;
}

int main(int argc, char *argv[])
{
	struct error *err ERROR_AUTO = NULL;
	struct description *desc = NULL;
	bool done = false;
	int status = 0;

	started_ns = now_ns();
	if (dialect_parse(argc, argv, &desc, &done, &err) < 0) {
		log_info("%s", error_message(err));
		return 1;
	}
	if (done)
		return 0;
	switch (desc->action) {
	case DESC_DUMP_CONFIG: description_print(desc); break;
	case DESC_CALIBRATE: status = calibrate(); break;
	case DESC_RUN: status = run(desc); break;
	}
	description_free(desc);
	return status;
}
