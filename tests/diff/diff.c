/*
 * Differential tests: random blocks of user-level instructions, on the host's processor and in a
 *VM.
 *
 *	diff [--backend NAME] [--seed N] [--cases N] [--class NAME] [--length N] [--repeat N]
 *	     [--failures N] [--cases-per-vm N] [--host PROGRAM] [--all] [-v]
 *	diff --seed N --case N [--class NAME] [--length N] [-v]
 *	diff --short
 *
 * Prints TAP. What differs is printed with its seed and number, by which it can be run alone:
 *--case; -v shows all of it. A guest runs each case --repeat times (2), the later times with what
 *it kept from the first. --short is what `make check` does: a fixed seed and one from the clock.
 *
 * While diff-host runs one batch, the VM runs the one before it.
 */
#include "diff.h"
#include "hav.h"

#include <err.h>
#include <errno.h>
#include <getopt.h>
#include <libgen.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define HWCAP2_FSGSBASE 2
#define SHORT_CASES     100000
#define SHORT_SEED      1

struct options {
	const char *backend;
	char host[PATH_MAX];
	uint64_t seed, cases, one;
	uint64_t cases_per_vm;
	unsigned repeat, failures;
	struct diff_wanted want;
	bool short_run, alone, verbose, all;
};

struct totals {
	uint64_t cases, failed, unstable, endless;
	uint64_t by_class[32], faults[32], known[32];
};

static struct options opt = {
	.backend = "soft",
	.cases = 1000000,
	.cases_per_vm = 32768,
	.repeat = 2,
	.failures = 20,
	.want.class = -1,
};
static struct diff_runner *runner;
static struct diff_shared *shared;
static struct diff_guest *volatile guest;
static const char *backend; /* its; "soft" takes turns with what translates all for speed */

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

/* --- When a guest does not come back ---- */

#define TICK      100000 /* microseconds */
#define MAX_TICKS 50     /* that a case may take */
static volatile sig_atomic_t ticks;

static void on_alarm(int number)
{
	if (++ticks >= MAX_TICKS && guest)
		guest_interrupt(guest);
}

static void start_clock(void)
{
	const struct itimerval tick = { { 0, TICK }, { 0, TICK } };

	signal(SIGALRM, on_alarm);
	setitimer(ITIMER_REAL, &tick, NULL);
}

/* --- When the backend takes the process with it ---- */

static volatile uint64_t running_seed, running_case;
static struct sigaction previous[NSIG];

static void on_crash(int number, siginfo_t *info, void *context)
{
	char text[160];
	int n = snprintf(text, sizeof(text), "# crash: --backend %s --seed %llu --case %llu\n",
			 backend, (long long)running_seed, (long long)running_case);

	if (write(1, text, n) == n)
		sigaction(number, &previous[number], NULL); /* it happens again */
	else
		_exit(3);
}

static void watch_for_crashes(void)
{
	static const int signals[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE };
	struct sigaction action = { .sa_sigaction = on_crash,
				    .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK };

	for (unsigned i = 0; i < COUNT(signals); i++)
		sigaction(signals[i], &action, &previous[signals[i]]);
}

/* --- Batches ---- */

static void make_batch(struct diff_batch *batch, uint64_t seed, uint64_t first, uint64_t n)
{
	memset(batch->code, 0xcc, CODE_SIZE);
	batch->n = n;
	for (unsigned i = 0; i < n; i++)
		diff_generate(&batch->cases[i], batch->code, seed, first + i, &opt.want);
}

/* The host's results are the same when it does it again. */
static bool host_is_stable(const struct diff_batch *batch, const struct diff_case *c,
			   const struct diff_result *host, unsigned other)
{
	struct diff_batch *again = &shared->batches[other];

	memcpy(again->code, batch->code, CODE_SIZE);
	again->n = 1;
	for (unsigned i = 0; i < 3; i++) {
		again->cases[0] = *c;
		runner_submit(runner, other);
		if (!runner_wait(runner))
			errx(2, "diff-host ended");
		if (!diff_same(c, host, &again->cases[0].host))
			return false;
	}
	return true;
}

static void report(const struct diff_batch *batch, const struct diff_case *c, uint64_t seed,
		   const struct diff_result *result, unsigned time)
{
	static uint8_t memory[DATA_SIZE];

	diff_memory(shared, c, memory);
	printf("# seed %llu case %llu (%s), run %u: diff --backend %s --seed %llu --case %llu",
	       (long long)seed, (long long)c->number, diff_class_name(c->class), time + 1, backend,
	       (long long)seed, (long long)c->number);
	if (opt.want.class >= 0)
		printf(" --class %s", diff_class_name(opt.want.class));
	if (opt.want.length)
		printf(" --length %u", opt.want.length);
	printf("\n");
	diff_print(c, batch->code, memory, &c->host, result, opt.verbose);
	fflush(stdout);
}

/* Runs a batch that the host has done in the guest. Fills list with the cases that differ. */
static unsigned run_batch(const struct diff_batch *batch, uint64_t seed, struct totals *totals,
			  uint16_t *list, struct diff_result *results, unsigned room)
{
	static struct diff_result result;
	unsigned n = 0;

	guest_load(guest, batch);
	for (unsigned i = 0; i < batch->n; i++) {
		const struct diff_case *c = &batch->cases[i];

		running_case = c->number;
		totals->cases++;
		totals->by_class[c->class]++;
		totals->endless += c->host.how == ENDED_LATE;
		totals->faults[c->class] += c->host.how != ENDED_WELL;
		/* Some blocks have a RET that finds an address too early, and go round for ever. */
		for (unsigned time = 0; time < opt.repeat && c->host.how != ENDED_LATE; time++) {
			int reason;

			ticks = 0;
			guest_run(guest, c, &result);
			if (diff_same(c, &c->host, &result) && !(opt.alone && opt.verbose))
				continue;
			reason = opt.all ? -1 : diff_known(c, batch->code, &c->host, &result);
			if (reason >= 0) {
				totals->known[reason]++;
				break;
			}
			if (n < room) {
				results[n] = result;
				list[n++] = i << 4 | (time & 15);
			}
			break;
		}
	}
	return n;
}

#define LIST 32

static void judge(unsigned which, uint64_t seed, struct totals *totals, const uint16_t *list,
		  const struct diff_result *results, unsigned n)
{
	const struct diff_batch *batch = &shared->batches[which];

	for (unsigned i = 0; i < n && totals->failed < opt.failures; i++) {
		const struct diff_case *c = &batch->cases[list[i] >> 4];

		if (!host_is_stable(batch, c, &c->host, which ^ 1)) {
			totals->unstable++;
			printf("# seed %llu case %llu: not the same on the host each time\n",
			       (long long)seed, (long long)c->number);
			if (opt.verbose)
				report(batch, c, seed, &results[i], list[i] & 15);
			continue;
		}
		if (!diff_same(c, &c->host, &results[i]))
			totals->failed++;
		report(batch, c, seed, &results[i], list[i] & 15);
	}
}

static void renew_guest(void)
{
	struct diff_guest *old = guest;

	guest = NULL;
	if (old)
		guest_stop(old);
	if (strcmp(opt.backend, "soft") == 0)
		backend = backend == opt.backend ? "soft,jit=eager" : opt.backend;
	guest = guest_start(backend, shared);
}

static uint64_t batch_at(uint64_t at, uint64_t end)
{
	return end - at < BATCH_SIZE ? end - at : BATCH_SIZE;
}

static void run_cases(uint64_t seed, uint64_t first, uint64_t n, struct totals *totals)
{
	static struct diff_result results[LIST];
	uint64_t end = first + n, at = first, in_vm = 0;
	uint16_t list[LIST];
	unsigned which = 0;
	struct rng r = rng_make(seed, UINT64_MAX);

	rng_pool(&r, shared->pool, sizeof(shared->pool));
	renew_guest();
	make_batch(&shared->batches[0], seed, at, batch_at(at, end));
	runner_submit(runner, 0);
	while (at < end && totals->failed < opt.failures) {
		uint64_t size = batch_at(at, end), next = at + size, n_next = batch_at(next, end);
		unsigned differ;

		if (n_next)
			make_batch(&shared->batches[which ^ 1], seed, next, n_next);
		if (!runner_wait(runner))
			errx(2, "diff-host ended, in cases %llu to %llu of seed %llu",
			     (long long)at, (long long)next - 1, (long long)seed);
		if (n_next)
			runner_submit(runner, which ^ 1);
		differ = run_batch(&shared->batches[which], seed, totals, list, results, LIST);
		if (differ) {
			if (n_next)
				runner_wait(runner);
			judge(which, seed, totals, list, results, differ);
			if (n_next) { /* judging took its place */
				make_batch(&shared->batches[which ^ 1], seed, next, n_next);
				runner_submit(runner, which ^ 1);
			}
		}
		if ((in_vm += size) >= opt.cases_per_vm && n_next) {
			renew_guest();
			in_vm = 0;
		}
		at = next;
		which ^= 1;
	}
	if (at < end)
		runner_wait(runner);
}

/* --- Tests ---- */

static void print_classes(const struct totals *t)
{
	for (unsigned i = 0; i < diff_n_classes(); i++)
		if (t->by_class[i])
			printf("# %10llu %-11s %llu%% with an exception\n",
			       (long long)t->by_class[i], diff_class_name(i),
			       (long long)(100 * t->faults[i] / t->by_class[i]));
}

static void print_known(const struct totals *t)
{
	for (unsigned i = 0; i < diff_n_known(); i++)
		if (t->known[i])
			printf("# %10llu differ as known: %s\n", (long long)t->known[i],
			       diff_known_reason(i));
}

static bool test(unsigned number, uint64_t seed, uint64_t first, uint64_t n)
{
	struct totals totals = { 0 };
	double start = now();

	printf("# seed %llu\n", (long long)seed);
	running_seed = seed;
	fflush(stdout);
	run_cases(seed, first, n, &totals);
	print_classes(&totals);
	print_known(&totals);
	printf("# %llu cases, %.0f a second; %llu differ, %llu unstable, %llu endless\n",
	       (long long)totals.cases, totals.cases / (now() - start), (long long)totals.failed,
	       (long long)totals.unstable, (long long)totals.endless);
	printf("%sok %u - %s as on the host, seed %llu\n", totals.failed ? "not " : "", number,
	       opt.backend, (long long)seed);
	return !totals.failed;
}

/* --- Main ---- */

static void usage(void)
{
	fprintf(stderr,
		"usage: diff [--backend NAME] [--seed N] [--cases N | --case N] [--class NAME]\n"
		"            [--length N] [--repeat N] [--failures N] [--cases-per-vm N] [--host "
		"PROGRAM]\n"
		"            [--short] [--all] [-v]\nclasses:");
	for (unsigned i = 0; i < diff_n_classes(); i++)
		fprintf(stderr, " %s", diff_class_name(i));
	fprintf(stderr, "\n");
	exit(2);
}

static uint64_t number(const char *text)
{
	char *end;
	uint64_t value;

	errno = 0;
	value = strtoull(text, &end, 0);
	if (end == text || *end || errno)
		errx(2, "%s is no number", text);
	return value;
}

static void parse(int argc, char **argv)
{
	static const struct option options[] = {
		{ "backend", required_argument, NULL, 'b' },
		{ "seed", required_argument, NULL, 's' },
		{ "cases", required_argument, NULL, 'n' },
		{ "case", required_argument, NULL, '1' },
		{ "class", required_argument, NULL, 'c' },
		{ "length", required_argument, NULL, 'l' },
		{ "repeat", required_argument, NULL, 'r' },
		{ "failures", required_argument, NULL, 'f' },
		{ "cases-per-vm", required_argument, NULL, 'm' },
		{ "host", required_argument, NULL, 'h' },
		{ "all", no_argument, NULL, 'a' },
		{ "short", no_argument, NULL, 'q' },
		{ NULL },
	};
	char self[PATH_MAX] = "";
	int c;

	if (readlink("/proc/self/exe", self, sizeof(self) - 1) < 0)
		err(2, "/proc/self/exe");
	snprintf(opt.host, sizeof(opt.host), "%.4000s/diff-host", dirname(self));
	opt.seed = time(NULL) ^ (uint64_t)getpid() << 32;
	while ((c = getopt_long(argc, argv, "v", options, NULL)) != -1)
		switch (c) {
		case 'b': opt.backend = optarg; break;
		case 's': opt.seed = number(optarg); break;
		case 'n': opt.cases = number(optarg); break;
		case '1':
			opt.alone = true;
			opt.one = number(optarg);
			break;
		case 'c':
			opt.want.class = diff_class_find(optarg);
			if (opt.want.class < 0)
				usage();
			break;
		case 'l': opt.want.length = number(optarg); break;
		case 'r': opt.repeat = number(optarg); break;
		case 'f': opt.failures = number(optarg); break;
		case 'm': opt.cases_per_vm = number(optarg); break;
		case 'h': snprintf(opt.host, sizeof(opt.host), "%s", optarg); break;
		case 'a': opt.all = true; break;
		case 'q': opt.short_run = true; break;
		case 'v': opt.verbose = true; break;
		default: usage();
		}
	if (optind != argc || !opt.repeat || opt.want.length > MAX_INSNS)
		usage();
}

int main(int argc, char **argv)
{
	bool good;

	parse(argc, argv);
	if (!(getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE)) {
		printf("1..0 # SKIP this kernel lets no program set FS and GS\n");
		return 0;
	}
	backend = opt.backend;
	start_clock();
	watch_for_crashes();
	runner = runner_start(opt.host, &shared);
	printf("1..%u\n", opt.short_run ? 2 : 1);
	if (opt.alone) {
		good = test(1, opt.seed, opt.one, 1);
	} else if (opt.short_run) {
		good = test(1, SHORT_SEED, 0, SHORT_CASES);
		good &= test(2, opt.seed, 0, SHORT_CASES);
	} else {
		good = test(1, opt.seed, 0, opt.cases);
	}
	guest_stop(guest);
	guest = NULL;
	runner_stop(runner);
	return !good;
}
