/*
 * Files that must not outlive the process: pid files, listening sockets.
 *
 * Once it is sandboxed the process can't remove a file any more, and killed it can't either. So a
 * child that is forked at the first call remembers the names, and removes them when its parent is
 * gone, however it went: the pipe between them ends. A file is only removed while it is still the
 * one that was named (same device and inode).
 */
#ifndef REVIRT_BASE_TIDY_H
#define REVIRT_BASE_TIDY_H

struct error;

/* Remembers an existing file. While the process has one thread. */
int tidy_at_exit(const char *path, struct error **err);

/* From now on the child takes no more names, whatever this process may become. Before the sandbox.
 */
void tidy_seal(void);

/* The pipe to the child, or -1: it must stay open until the end. */
int tidy_fd(void);

#endif
