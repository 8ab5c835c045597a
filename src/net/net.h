/*
 * Network ends on the host: a tap device, a stream socket (passt), for one NIC each.
 *
 * The NIC (virtio-net) owns the traffic: it watches netdev->fd on its I/O loop and calls send and
 * recv there, so no thread or copy stands between. Where the end speaks virtio_net_hdr (tap),
 * packets carry that header, with offloads as negotiated.
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
	/* One packet; iov begins with the virtio_net_hdr when vnet_hdr. Bytes taken, -EAGAIN, or
	 * -errno. */
	ssize_t (*send)(struct netdev *nd, const struct iovec *iov, int n);
	/* One packet into iov; its length, -EAGAIN when none is there, -EPIPE when the peer is
	 * gone. */
	ssize_t (*recv)(struct netdev *nd, const struct iovec *iov, int n);
	void (*set_offloads)(struct netdev *nd, unsigned offloads); /* NULL: has none */
	void (*close)(struct netdev *nd);
};

struct netdev {
	const struct netdev_ops *ops;
	char *id;
	int fd; /* readable when a packet may be there; -1: nothing ever arrives (peer away) */
	bool vnet_hdr;
	unsigned vnet_hdr_len; /* 12 with virtio 1 */
	unsigned offloads;     /* what set_offloads() could turn on */
	const char *kind;      /* "tap", "stream", "user" */
	/* Set by the NIC: the fd changed (stream reconnect) or the link went up or down. On main
	 * loop. */
	void (*changed)(void *opaque, bool link_up);
	void *changed_opaque;
};

struct netdev_class {
	const char *name; /* "tap" */
	const char *desc;
	const struct prop *props;
	int (*open)(const char *id, const struct props *props, struct loop *main_loop,
		    struct netdev **nd, struct error **err);
};
const struct netdev_class *const *netdev_classes(void); /* NULL-terminated */

#endif
