/*
 * Network ends on the host: a tap device, a stream socket (passt), for one NIC each.
 *
 * The NIC (virtio-net) owns the traffic: it watches netdev->fd on its I/O loop and calls send,
 * flush and recv there, so no thread stands between. Where the end speaks virtio_net_hdr (tap),
 * packets carry that header, with offloads as negotiated.
 *
 * recv may have more than fd shows (a stream is read ahead): it is called until it says -EAGAIN
 * before fd is waited for.
 */
#ifndef REVIRT_NET_NET_H
#define REVIRT_NET_NET_H

#include "base/props.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

struct error;
struct loop;
struct netdev;

#define NET_MAX_PACKET 65562 /* 64 KiB of GSO payload and its headers */

enum { /* offloads of the receiving side, as TUN_F_* */
       NET_OFFLOAD_CSUM = 1 << 0,
       NET_OFFLOAD_TSO4 = 1 << 1,
       NET_OFFLOAD_TSO6 = 1 << 2,
       NET_OFFLOAD_ECN = 1 << 3,
       NET_OFFLOAD_UFO = 1 << 4,
       NET_OFFLOAD_USO = 1 << 5,
};

struct netdev_ops {
	/*
	 * One packet of at most NET_MAX_PACKET bytes and header; iov begins with the virtio_net_hdr
	 * when vnet_hdr. Bytes taken; -EAGAIN: try it again when fd is writable; other -errno:
	 * lost.
	 */
	ssize_t (*send)(struct netdev *nd, const struct iovec *iov, int n);
	/* After a batch of sends: writes what they held back; -EAGAIN: again when fd is writable.
	 * NULL: holds nothing back. */
	int (*flush)(struct netdev *nd);
	/*
	 * One packet into iov; its length, -EAGAIN when none is there, -EPIPE when the peer is
	 * gone; other -errno: a packet was lost. What iov has no room for is cut off.
	 */
	ssize_t (*recv)(struct netdev *nd, const struct iovec *iov, int n);
	void (*set_offloads)(struct netdev *nd, unsigned offloads); /* NULL: has none */
	void (*close)(struct netdev *nd); /* frees nd; after the NIC is gone */
};

struct netdev {
	const struct netdev_ops *ops;
	char *id;
	int fd; /* readable when a packet may be there; -1: nothing ever arrives (peer away) */
	bool vnet_hdr;
	unsigned vnet_hdr_len; /* 12 with virtio 1 */
	unsigned offloads;     /* what set_offloads() could turn on */
	const char *kind;      /* "tap", "stream", "user" */
	/*
	 * Set by the NIC: its loop, and what to call there when the peer went (fd is still open, to
	 * be forgotten) or a new one came (fd is another).
	 */
	struct loop *loop;
	void (*changed)(void *opaque, bool link_up);
	void *changed_opaque;
};

struct netdev_class {
	const char *name; /* "tap" */
	const char *desc;
	const struct prop *props;
	/* Before the sandbox: files, sockets and helper programs are opened and started here. */
	int (*open)(const char *id, const struct props *props, struct loop *main_loop,
		    struct netdev **nd, struct error **err);
};
const struct netdev_class *const *netdev_classes(void); /* NULL-terminated */

#endif
