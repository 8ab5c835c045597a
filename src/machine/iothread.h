/*
 * I/O threads: a loop with a thread of its own, for a disk or a NIC.
 *
 * The loop exists from the start, so devices can put their watches on it; the thread is created by
 * iothread_start(), when all is set up and the process has locked itself in. -object iothread makes
 * one by name; a device that names none makes its own.
 */
#ifndef REVIRT_MACHINE_IOTHREAD_H
#define REVIRT_MACHINE_IOTHREAD_H

struct error;
struct iothread;
struct loop;

/* What a new thread does first: assemble.c has it install the filter of I/O threads. NULL: nothing.
 */
extern void (*iothread_enter)(void);

/* name is copied; the thread shows it (15 characters of it) in ps and gdb. */
struct iothread *iothread_new(const char *name, struct error **err);
const char *iothread_name(const struct iothread *iothread);
struct loop *iothread_loop(struct iothread *iothread);
/* The thread's id, for query-iothreads; 0 before it is started. */
int iothread_tid(const struct iothread *iothread);

/* Returns when the loop is being run. Starting one that runs does nothing. */
int iothread_start(struct iothread *iothread, struct error **err);
/* Starts all there are; stops at the first error. */
int iothread_start_all(struct error **err);
/* Ends the thread, if it was started, and frees the loop. NULL is fine. Main thread. */
void iothread_free(struct iothread *iothread);

#endif
