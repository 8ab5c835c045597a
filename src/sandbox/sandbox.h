/*
 * The sandbox: what revirter gives up before the first vCPU runs.
 *
 * A start-up opens everything the machine needs, then calls sandbox_enter() while the main thread
 * is the only one, then starts the other threads. Each of these calls sandbox_enter_thread() first
 * thing, and the main thread does so last, just before its loop runs. From then on new files and
 * sockets come only as descriptors from outside (QMP's getfd and add-fd).
 *
 * What a filter allows stands as `#syscalls` lines beside the code that makes the calls:
 * docs/security.md says how to write them.
 */
#ifndef REVIRT_SANDBOX_SANDBOX_H
#define REVIRT_SANDBOX_SANDBOX_H

#include <stdbool.h>

struct error;

enum sandbox_mode {
	SANDBOX_ON,
	SANDBOX_TRAP, /* a forbidden system call is named and traced before the process ends */
	SANDBOX_OFF,  /* for debugging: nothing is given up, and the log says so */
};

struct sandbox_config {
	enum sandbox_mode mode;
	bool keep_network; /* sockets are made or connected later: stay in the network namespace */
};

enum sandbox_thread { SANDBOX_MAIN, SANDBOX_IO, SANDBOX_VCPU };

/*
 * Gives up, for the whole process: descriptors that nobody claimed, the file system, the network,
 * new privileges, capabilities, core dumps and being traced by others. Main thread, before any
 * other exists. Where the host forbids namespaces or has no Landlock it goes on without; -1 only
 * when what needs no permission fails.
 *
 * Claimed is a descriptor that is closed on exec: all that we open are, and whoever takes one that
 * was handed in (fd=3) makes it so. Others beyond 0, 1 and 2 the parent leaked.
 */
int sandbox_enter(const struct sandbox_config *config, struct error **err);

/*
 * Puts the calling thread under the filter of its kind, for good; threads it makes inherit it. Does
 * nothing when sandbox_enter() was not called, or with SANDBOX_OFF.
 */
int sandbox_enter_thread(enum sandbox_thread thread, struct error **err);

#endif
