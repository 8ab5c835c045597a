/*
 * QMP, QEMU's control protocol (docs/interop/qmp-spec of QEMU 7.2), as far as Revirt speaks it.
 *
 * A server per chardev; all of a VM's servers share the events. Everything happens on the main
 * loop.
 */
#ifndef REVIRT_REVIRTER_QMP_H
#define REVIRT_REVIRTER_QMP_H

#include <stdbool.h>

struct chardev;
struct error;
struct json_object;
struct qmp;
struct vm;

/* The QEMU whose dialect this is. */
#define QMP_QEMU_MAJOR 7
#define QMP_QEMU_MINOR 2
#define QMP_QEMU_MICRO 0

/* Serves chr, and sets vm->emit the first time. Lives until qmp_free_all(). */
struct qmp *qmp_new(struct vm *vm, struct chardev *chr, bool pretty, struct error **err);
/* Ends all servers of the VM. Before their chardevs go. */
void qmp_free_all(struct vm *vm);

/* Runs a command for somebody else than a client: the value of "return", the caller's to put, or
 * NULL. args may be NULL and stays the caller's. */
struct json_object *qmp_execute(struct vm *vm, const char *command, struct json_object *args,
				struct error **err);

#endif
