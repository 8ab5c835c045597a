/*
 * What devices stand on, by id: disks (-drive, -blockdev), network ends (-netdev), character
 * devices (-chardev), entropy sources and I/O threads (-object). Filled by assemble.c before any
 * device is made.
 *
 * take = for a device: a disk or network end has one, and a second take is an error that names the
 * first. Errors list what ids there are.
 */
#ifndef REVIRT_MACHINE_BACKENDS_H
#define REVIRT_MACHINE_BACKENDS_H

#include <stdbool.h>

struct block;
struct chardev;
struct error;
struct loop;
struct netdev;

enum backend_kind { BACKEND_BLOCK, BACKEND_NET, BACKEND_CHARDEV, BACKEND_RNG, BACKEND_IOTHREAD };

struct backends;

struct backends *backends_new(void);
/* The object stays the caller's. Error: the id is taken. */
int backends_add(struct backends *b, enum backend_kind kind, const char *id, void *object,
		 struct error **err);
/* user: the device that takes it, for the message of the next one. */
void *backends_take(struct backends *b, enum backend_kind kind, const char *id, const char *user,
		    struct error **err);
/* Looks without taking; NULL when there is none (no error). Iterate with backends_at. */
void *backends_find(struct backends *b, enum backend_kind kind, const char *id);
/* The i-th backend of a kind in order of addition; *id and *user (NULL: free) may be NULL pointers.
 */
void *backends_at(struct backends *b, enum backend_kind kind, unsigned i, const char **id,
		  const char **user);
void backends_free(struct backends *b); /* not the objects */

#endif
