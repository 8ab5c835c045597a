/*
 * I/O threads: see iothread.h.
 *
 * All threads are on a list, as assemble.c starts them together. The creator waits for the new
 * thread's loop to serve a first call: from then on loop_call() from elsewhere goes to that thread.
 */
#include "machine/iothread.h"

#include "base/error.h"
#include "base/loop.h"
#include "base/util.h"

#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <string.h>

#define STACK_SIZE      (256 * KIB)
#define THREAD_NAME_MAX 16 /* TASK_COMM_LEN, with its NUL */

struct iothread {
	char *name;
	struct loop *loop;
	pthread_t thread;
	bool started;
	int tid;
	sem_t running;
	struct loop_call first_call;
	struct iothread *next;
};

void (*iothread_enter)(void);

static struct iothread *all; /* main thread's */

static void on_running(void *opaque)
{
	struct iothread *iothread = opaque;

	sem_post(&iothread->running);
}

struct iothread *iothread_new(const char *name, struct error **err)
{
	struct iothread *iothread = xcalloc(1, sizeof(*iothread));

	iothread->loop = loop_new(err);
	if (!iothread->loop) {
		free(iothread);
		return NULL;
	}
	iothread->name = xstrdup(name);
	iothread->first_call = (struct loop_call){ .fn = on_running, .opaque = iothread };
	sem_init(&iothread->running, 0, 0);
	iothread->next = all;
	all = iothread;
	return iothread;
}

const char *iothread_name(const struct iothread *iothread)
{
	return iothread->name;
}

struct loop *iothread_loop(struct iothread *iothread)
{
	return iothread->loop;
}

int iothread_tid(const struct iothread *iothread)
{
	return iothread->tid;
}

static void *run(void *opaque)
{
	struct iothread *iothread = opaque;
	char name[THREAD_NAME_MAX] = "";

	strncpy(name, iothread->name, sizeof(name) - 1);
	pthread_setname_np(pthread_self(), name);
	iothread->tid = gettid();
	if (iothread_enter)
		iothread_enter();
	loop_run(iothread->loop);
	return NULL;
}

/* Signals are the main thread's: all others block them. */
static int create(struct iothread *iothread)
{
	pthread_attr_t attr;
	sigset_t all_signals, old;
	int errnum;

	sigfillset(&all_signals);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_SIZE);
	pthread_sigmask(SIG_SETMASK, &all_signals, &old);
	errnum = pthread_create(&iothread->thread, &attr, run, iothread);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	return errnum;
}

int iothread_start(struct iothread *iothread, struct error **err)
{
	int errnum;

	if (iothread->started)
		return 0;
	loop_post(iothread->loop, &iothread->first_call);
	errnum = create(iothread);
	if (errnum) {
		error_set_errno(err, errnum, "cannot start I/O thread '%s'", iothread->name);
		return -1;
	}
	iothread->started = true;
	while (sem_wait(&iothread->running) < 0)
		;
	return 0;
}

int iothread_start_all(struct error **err)
{
	for (struct iothread *iothread = all; iothread; iothread = iothread->next)
		if (iothread_start(iothread, err) < 0)
			return -1;
	return 0;
}

static void forget(struct iothread *iothread)
{
	struct iothread **link = &all;

	while (*link && *link != iothread)
		link = &(*link)->next;
	if (*link)
		*link = iothread->next;
}

/* The thread's way out: glibc gives its stack back and ends it. */
/* #syscalls:main,io futex madvise=MADV_DONTNEED munmap exit rseq set_robust_list rt_sigprocmask */
void iothread_free(struct iothread *iothread)
{
	if (!iothread)
		return;
	forget(iothread);
	if (iothread->started) {
		loop_stop(iothread->loop);
		pthread_join(iothread->thread, NULL);
	}
	loop_free(iothread->loop);
	sem_destroy(&iothread->running);
	free(iothread->name);
	free(iothread);
}
