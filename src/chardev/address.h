/* Where a socket listens or connects to: a unix path or a TCP host and port. Start-up only. */
#ifndef REVIRT_CHARDEV_ADDRESS_H
#define REVIRT_CHARDEV_ADDRESS_H

#include <stdbool.h>

struct error;

struct address {
	const char *path; /* unix; NULL: host and port */
	const char *host, *port;
	bool ipv4, ipv6; /* only that; both or neither: any */
	bool nodelay;
};

/* A connected socket, or -1. Blocks. */
int address_connect(const struct address *address, struct error **err);
/* A listening, non-blocking socket, or -1. An old socket at the path makes way, as in QEMU. The
 * file is removed when the process ends. */
int address_listen(const struct address *address, struct error **err);
/* "unix:/path" or "tcp:127.0.0.1:4444" with the port really bound; the caller frees it. */
char *address_text(const struct address *address, int listener);

#endif
