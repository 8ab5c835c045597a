/*
 * The human monitor: the prompt behind Ctrl-A c, -monitor and -mon. It has a few of QEMU's words,
 * which do what the QMP commands of those names do.
 */
#ifndef REVIRT_REVIRTER_MONITOR_H
#define REVIRT_REVIRTER_MONITOR_H

struct chardev;
struct error;
struct monitor;
struct vm;

/* A prompt on chr; lives until monitor_free_all(). */
struct monitor *monitor_new(struct vm *vm, struct chardev *chr, struct error **err);
/* Ends all monitors of the VM. Before their chardevs go. */
void monitor_free_all(struct vm *vm);

/* Runs one line and returns what it prints, lines ending with CR LF; the caller frees it. */
char *monitor_execute(struct vm *vm, const char *line);

#endif
