/* Byte-wise access to iovec arrays. */
#ifndef REVIRT_BASE_IOV_H
#define REVIRT_BASE_IOV_H

#include <stddef.h>
#include <sys/uio.h>

/* Copies out of, or into, an array from a byte offset on, as far as it goes; returns bytes copied.
 */
size_t iov_to_buf(const struct iovec *iov, unsigned n, size_t offset, void *buf, size_t len);
size_t iov_from_buf(const struct iovec *iov, unsigned n, size_t offset, const void *buf,
		    size_t len);
/* Drops `skip` bytes from the front in place; returns the first piece left, *n updated. */
struct iovec *iov_skip(struct iovec *iov, unsigned *n, size_t skip);

#endif
