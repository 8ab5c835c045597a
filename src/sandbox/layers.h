/* The layers that sandbox_enter() puts on, one by one; apart so that each is tested alone. */
#ifndef REVIRT_SANDBOX_LAYERS_H
#define REVIRT_SANDBOX_LAYERS_H

#include <stdbool.h>

struct error;

/*
 * Leaves the host's namespaces and its root directory for an empty one. As root, or in a user
 * namespace of its own where the host allows that; else what can't be left stays.
 */
void sandbox_isolate(bool keep_network);

/*
 * Enters a Landlock domain in which nothing may be opened, connected or signalled that is outside.
 * Returns the version of the kernel's interface, 0 where there is none, -1 when it fails. Needs
 * no_new_privs.
 */
int sandbox_landlock(struct error **err);

/* Drops every capability, also those a program could get by exec. */
int sandbox_drop_capabilities(struct error **err);

/* Whose filter the calling thread is under, or "unfiltered". */
extern _Thread_local const char *sandbox_thread_kind;

/* SANDBOX_TRAP's handler of SIGSYS. While files can still be opened. */
int sandbox_catch_violations(struct error **err);

#endif
