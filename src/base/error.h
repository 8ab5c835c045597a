/*
 * Errors as values.
 *
 * A function that can fail for a reason a person should read takes a trailing `struct error **err`
 * and returns 0, or -1 after having set *err exactly once. Callers add context on the way up with
 * error_prefix(); the one who decides what happens next prints it or turns it into a QMP reply, and
 * frees it. Passing NULL means "I only want to know whether it worked".
 */
#ifndef REVIRT_BASE_ERROR_H
#define REVIRT_BASE_ERROR_H

struct error;

/* Sets *err to a formatted message. *err must be NULL. No newline, no capital, no full stop. */
void error_set(struct error **err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The same, followed by ": " and the text of errno value `errnum`, which error_errno() returns. */
void error_set_errno(struct error **err, int errnum, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Puts formatted context before the message: error_prefix(err, "disk '%s': ", id). No-op on NULL.
 */
void error_prefix(struct error **err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The QMP error class of *err ("GenericError" unless set); class must be a string constant. */
void error_set_class(struct error **err, const char *class);
const char *error_class(const struct error *err);

const char *error_message(const struct error *err);
int error_errno(const struct error *err); /* 0 when it came from no system call */

/* Moves src to *dst (frees it when dst is NULL). */
void error_propagate(struct error **dst, struct error *src);
void error_free(struct error *err); /* NULL is fine */

static inline void error_cleanup(struct error **err)
{
	error_free(*err);
}
/* struct error *err ERROR_AUTO = NULL; is freed at the end of its scope. */
#define ERROR_AUTO __attribute__((cleanup(error_cleanup)))

#endif
