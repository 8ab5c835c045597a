/* Errors, the event loop and the file remover. */
#include "base/error.h"
#include "base/loop.h"
#include "base/tidy.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include <cmocka.h>

static void error_gains_context(void **state)
{
	struct error *err = NULL;

	error_set_errno(&err, ENOENT, "cannot open '%s'", "x");
	error_prefix(&err, "disk %d: ", 3);
	assert_string_equal(error_message(err),
			    "disk 3: cannot open 'x': No such file or directory");
	assert_int_equal(error_errno(err), ENOENT);
	assert_string_equal(error_class(err), "GenericError");
	error_set_class(&err, "DeviceNotFound");
	assert_string_equal(error_class(err), "DeviceNotFound");
	error_free(err);
	error_set(NULL, "nobody listens");
	error_prefix(NULL, "nor here");
}

struct loop_test {
	struct loop *loop;
	struct loop_watch *watch;
	struct loop_timer *timer;
	struct loop_call call;
	int fd, events, ticks, calls;
	pthread_t seen_on;
};

static void stop(void *opaque)
{
	struct loop_test *t = opaque;

	t->ticks++;
	loop_stop(t->loop);
}

static void on_event(void *opaque, uint32_t events)
{
	struct loop_test *t = opaque;
	uint64_t count;

	assert_int_equal(read(t->fd, &count, sizeof(count)), sizeof(count));
	t->events++;
	loop_watch_free(t->watch); /* in its own callback */
	loop_timer_set(t->timer, now_ns() + 1000000);
}

static void loop_serves_watches_and_timers(void **state)
{
	struct loop_test t = { .loop = loop_new(NULL), .fd = eventfd(1, EFD_CLOEXEC) };

	t.watch = loop_watch_new(t.loop, t.fd, EPOLLIN, on_event, &t, NULL);
	assert_non_null(t.watch);
	t.timer = loop_timer_new(t.loop, stop, &t);
	loop_run(t.loop);
	assert_int_equal(t.events, 1);
	assert_int_equal(t.ticks, 1);
	loop_free(t.loop);
	close(t.fd);
}

static void note_call(void *opaque)
{
	struct loop_test *t = opaque;

	t->calls++;
	t->seen_on = pthread_self();
}

static void *run_loop(void *opaque)
{
	struct loop_test *t = opaque;

	loop_run(t->loop);
	return NULL;
}

static void calls_run_on_the_loops_thread(void **state)
{
	struct loop_test t = { .loop = loop_new(NULL) };
	struct timespec ms = { .tv_nsec = 1000000 };
	pthread_t thread;

	loop_call(t.loop, note_call, &t); /* nobody runs it: here and now */
	assert_true(pthread_equal(t.seen_on, pthread_self()));
	assert_int_equal(pthread_create(&thread, NULL, run_loop, &t), 0);
	do {
		nanosleep(&ms, NULL);
		loop_call(t.loop, note_call, &t);
	} while (!pthread_equal(t.seen_on, thread));
	t.call = (struct loop_call){ stop, &t };
	loop_post(t.loop, &t.call);
	pthread_join(thread, NULL);
	assert_int_equal(t.ticks, 1);
	loop_free(t.loop);
}

struct wait_test {
	struct loop_test waiter;
	struct loop_call posted;
	_Atomic bool served, done, ran_posted;
};

static void run_posted(void *opaque)
{
	struct wait_test *t = opaque;

	t->ran_posted = true;
}

static void serve(void *opaque)
{
	struct wait_test *t = opaque;

	t->served = true;
}

static void nothing(void *opaque)
{
}

static bool is_done(void *opaque)
{
	return ((struct wait_test *)opaque)->done;
}

/* Like a vCPU that needs the main loop before it can stand still. */
static void *needs_loop(void *opaque)
{
	struct wait_test *t = opaque;
	static struct loop_call note = { .fn = nothing };

	loop_call(t->waiter.loop, serve, t);
	t->done = true;
	loop_post(t->waiter.loop, &note);
	return NULL;
}

static void wait_in_callback(void *opaque)
{
	struct wait_test *t = opaque;
	pthread_t thread;

	t->posted = (struct loop_call){ run_posted, t };
	loop_post(t->waiter.loop, &t->posted);
	pthread_create(&thread, NULL, needs_loop, t);
	loop_run_calls_until(t->waiter.loop, is_done, t);
	assert_false(t->ran_posted); /* its turn comes later */
	pthread_join(thread, NULL);
	loop_stop(t->waiter.loop);
}

static void waiting_serves_calls(void **state)
{
	struct wait_test t = { .waiter.loop = loop_new(NULL) };

	t.waiter.call = (struct loop_call){ wait_in_callback, &t };
	loop_post(t.waiter.loop, &t.waiter.call);
	loop_run(t.waiter.loop);
	assert_true(t.served);
	assert_true(t.ran_posted);
	loop_free(t.waiter.loop);
}

static void make_file(const char *path)
{
	int fd = open(path, O_CREAT | O_WRONLY, 0600);

	assert_true(fd >= 0);
	close(fd);
}

static bool gone_soon(const char *path)
{
	struct timespec ms = { .tv_nsec = 1000000 };

	for (int i = 0; i < 5000; i++) {
		if (access(path, F_OK) < 0)
			return true;
		nanosleep(&ms, NULL);
	}
	return false;
}

/* Also when the process is killed; but not a file that has taken the name since. */
static void files_go_with_the_process(void **state)
{
	char dir[] = "/tmp/revirt-tidy-XXXXXX";
	char mine[64], others[64], late[64];
	pid_t pid;

	assert_non_null(mkdtemp(dir));
	snprintf(mine, sizeof(mine), "%s/mine", dir);
	snprintf(others, sizeof(others), "%s/others", dir);
	snprintf(late, sizeof(late), "%s/late", dir);
	make_file(mine);
	make_file(others);
	make_file(late);
	pid = fork();
	if (pid == 0) {
		char old[80];

		tidy_at_exit(others, NULL);
		tidy_at_exit(mine, NULL);
		tidy_seal();
		tidy_at_exit(late, NULL);
		/* The old file stays somewhere, so that its inode is not used again. */
		snprintf(old, sizeof(old), "%s.old", others);
		rename(others, old);
		make_file(others);
		raise(SIGKILL);
	}
	waitpid(pid, NULL, 0);
	assert_true(gone_soon(mine));
	assert_int_equal(access(others, F_OK), 0);
	assert_int_equal(access(late, F_OK), 0);
	unlink(late);
	unlink(others);
	strcat(others, ".old");
	unlink(others);
	rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(error_gains_context),
		cmocka_unit_test(loop_serves_watches_and_timers),
		cmocka_unit_test(calls_run_on_the_loops_thread),
		cmocka_unit_test(waiting_serves_calls),
		cmocka_unit_test(files_go_with_the_process),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
