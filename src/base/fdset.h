/*
 * Descriptors handed in from outside (-add-fd, QMP's add-fd), opened by the name /dev/fdset/N.
 *
 * A set holds descriptors of the same file with different access modes; opening the set gives a
 * duplicate of the one whose mode fits. Descriptors are the process's, and so are the sets.
 * Main thread only.
 */
#ifndef REVIRT_BASE_FDSET_H
#define REVIRT_BASE_FDSET_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct error;

/* Any number that is free: fdset_add() says which it took. */
#define FDSET_NEW (-1)

/* Adds a descriptor, which becomes the set's, with an optional note; returns the set's number, or
 * -1 when there are too many. */
int64_t fdset_add(int64_t set, int fd, const char *opaque, struct error **err);
/* Closes a descriptor of a set, or all (fd -1). */
int fdset_remove(int64_t set, int fd, struct error **err);
/* The i-th descriptor, ordered by set; false when there are no more. */
bool fdset_at(unsigned i, int64_t *set, int *fd, const char **opaque);

/* open(2), where "/dev/fdset/N" is a set. -1 and errno: EACCES when no mode fits, ENOENT. */
int fdset_open(const char *path, int flags, mode_t mode);

#endif
