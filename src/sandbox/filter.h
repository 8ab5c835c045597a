/*
 * What tools/seccomp-gen makes: the filters (filters.c, in revirter), and the same as a table
 * (rules.c, only in the test that tries every rule).
 */
#ifndef REVIRT_SANDBOX_FILTER_H
#define REVIRT_SANDBOX_FILTER_H

#include "sandbox/sandbox.h"

#include <linux/filter.h>
#include <stdint.h>

#define SANDBOX_N_THREADS (SANDBOX_VCPU + 1)

struct sandbox_filter {
	const char *name; /* of the kind of thread */
	const struct sock_filter *code;
	unsigned short len;
	const unsigned short *own_pid; /* instructions that compare with the process's own id */
	unsigned short n_own_pid;
};
extern const struct sandbox_filter sandbox_filters[];

/* By number; NULL where there is none. */
extern const char *const sandbox_syscall_names[];
extern const unsigned sandbox_n_syscalls;

enum sandbox_rule_kind {
	SANDBOX_RULE_ANY,     /* whatever the arguments */
	SANDBOX_RULE_VALUE,   /* with this value of the argument */
	SANDBOX_RULE_OWN_PID, /* with the process's own id as the argument */
	SANDBOX_RULE_NO_EXEC, /* without PROT_EXEC in the argument */
};
struct sandbox_rule {
	const char *name;
	int nr;
	enum sandbox_rule_kind kind;
	unsigned argument;
	uint32_t value;
};
struct sandbox_rules {
	const struct sandbox_rule *rules;
	unsigned n;
};
extern const struct sandbox_rules sandbox_rules[];

#endif
