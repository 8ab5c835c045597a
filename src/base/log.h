/*
 * The log: lines for a person, to standard error or to the file of -D.
 *
 * Any thread may call these. A line is written by one write(2), so lines never mix. What a guest
 * can cause at will goes through LOG_ONCE, so that it cannot fill a disk.
 */
#ifndef REVIRT_BASE_LOG_H
#define REVIRT_BASE_LOG_H

#include <stdatomic.h>
#include <stdbool.h>

/* Log items of -d, each a bit; warnings and notices are always written. */
enum log_item {
	LOG_GUEST_ERRORS = 1 << 0, /* the guest did something the standard forbids */
	LOG_UNIMP = 1 << 1,        /* the guest used something Revirt does not have */
	LOG_RESET = 1 << 2,
	LOG_PCI = 1 << 3,
	LOG_VIRTIO = 1 << 4,
	LOG_EXITS = 1 << 5,   /* every exit to user space */
	LOG_STARTUP = 1 << 6, /* how long it takes to the first entry into the guest */
};

/* Sends the log to descriptor fd from now on (the caller keeps it open). */
void log_to(int fd);
void log_enable(unsigned items);
bool log_enabled(unsigned items);

/* The program's name before each line; a string constant. */
void log_set_name(const char *name);

void log_warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_info(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_item(unsigned items, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* log_warn() the first time this line of source is reached, nothing afterwards. */
#define LOG_ONCE(...)                                                                 \
	do {                                                                          \
		static atomic_flag once_ = ATOMIC_FLAG_INIT;                          \
		if (!atomic_flag_test_and_set_explicit(&once_, memory_order_relaxed)) \
			log_warn(__VA_ARGS__);                                        \
	} while (0)

#endif
