/*
 * A virtio-net device, for the three files it is written in: net.c (the device), net_queues.c
 * (packets) and net_control.c (the control queue and the receive filter). All of it runs on the
 * device's loop, but for config reads.
 */
#ifndef REVIRT_VIRTIO_NET_INTERNAL_H
#define REVIRT_VIRTIO_NET_INTERNAL_H

#include "base/util.h"
#include "net/net.h"
#include "virtio/pci.h"

struct iothread;
struct loop_timer;

/* Features, §5.1.3 */
#define VIRTIO_NET_F_CSUM                0
#define VIRTIO_NET_F_GUEST_CSUM          1
#define VIRTIO_NET_F_CTRL_GUEST_OFFLOADS 2
#define VIRTIO_NET_F_MTU                 3
#define VIRTIO_NET_F_MAC                 5
#define VIRTIO_NET_F_GUEST_TSO4          7
#define VIRTIO_NET_F_GUEST_TSO6          8
#define VIRTIO_NET_F_GUEST_ECN           9
#define VIRTIO_NET_F_GUEST_UFO           10
#define VIRTIO_NET_F_HOST_TSO4           11
#define VIRTIO_NET_F_HOST_TSO6           12
#define VIRTIO_NET_F_HOST_ECN            13
#define VIRTIO_NET_F_HOST_UFO            14
#define VIRTIO_NET_F_MRG_RXBUF           15
#define VIRTIO_NET_F_STATUS              16
#define VIRTIO_NET_F_CTRL_VQ             17
#define VIRTIO_NET_F_CTRL_RX             18
#define VIRTIO_NET_F_CTRL_VLAN           19
#define VIRTIO_NET_F_CTRL_RX_EXTRA       20
#define VIRTIO_NET_F_CTRL_MAC_ADDR       23
#define VIRTIO_NET_F_SPEED_DUPLEX        63

#define VIRTIO_NET_S_LINK_UP             1 /* §5.1.4 */

enum { NET_RX, NET_TX, NET_CTRL }; /* queues, §5.1.2 */

#define NET_HDR_LEN     12 /* struct virtio_net_hdr, §5.1.6 */
#define NET_MAC_LEN     6
#define NET_FILTER_MACS 64
#define NET_VLANS       4096

/* A receive buffer that waits for a packet. */
struct net_buffer {
	uint16_t head, n_iov;
	uint32_t bytes;
};

/*
 * Receive buffers taken off the queue, oldest first. Their pieces lie in iov[] one after another.
 * A chain of VIRTQ_MAX_SEGMENTS pieces always has room behind those that are there.
 */
struct net_rx {
	struct net_buffer buffers[VIRTQ_MAX_SIZE];
	unsigned first, n;
	struct iovec iov[2 * VIRTQ_MAX_SEGMENTS];
	unsigned iov_first, iov_end;
	size_t bytes; /* in all buffers */
	struct iovec scatter[VIRTQ_MAX_SEGMENTS];
	/* The rest of a packet that the buffers had no room for; `placed` bytes are in them. */
	size_t placed, spilled;
	uint8_t spill[NET_HDR_LEN + NET_MAX_PACKET];
};

struct net_tx {
	bool pending; /* chain is taken, but the host's end could not take it */
	struct virtq_chain chain;
	struct iovec *iov; /* what of it is sent */
	unsigned n_iov;
	struct iovec storage[VIRTQ_MAX_SEGMENTS];
};

/* §5.1.6.5 */
struct net_macs {
	uint8_t table[NET_FILTER_MACS][NET_MAC_LEN];
	unsigned n;
	bool overflow; /* the driver has more than fit: all pass */
};
struct net_filter {
	bool promisc, allmulti, alluni, nomulti, nouni, nobcast;
	struct net_macs uni, multi;
	uint64_t vlans[NET_VLANS / 64];
};

struct virtio_net {
	struct virtio_pci vpci; /* first */
	struct virtio_device vd;
	char *name;
	struct iothread *iothread;
	struct netdev *nd; /* NULL: nothing at the other end */
	struct loop_watch *watch;
	uint32_t interest; /* EPOLL* bits the watch has */
	struct loop_timer *again;
	bool rx_again, tx_again, ctrl_again;

	uint8_t mac[NET_MAC_LEN], own_mac[NET_MAC_LEN]; /* now; and after a reset */
	_Atomic uint16_t status;
	uint16_t mtu;
	uint32_t speed;
	uint8_t duplex;

	struct net_filter filter;
	struct net_rx rx;
	struct net_tx tx;
};

static inline struct virtio_net *net_of(struct virtio_device *vd)
{
	return container_of(vd, struct virtio_net, vd);
}

/* net_queues.c */
void net_start(struct virtio_net *net);
void net_stop(struct virtio_net *net);
void net_rx_poll(struct virtio_net *net);
void net_tx_poll(struct virtio_net *net);
/* Has that queue (net->rx_again, ...) polled at the loop's next turn. */
void net_call_again(struct virtio_net *net, bool *which);
void net_run_again(void *opaque);             /* the timer `again` */
void net_link_changed(void *opaque, bool up); /* netdev->changed */

/* net_control.c */
void net_ctrl_poll(struct virtio_net *net);
/* Back to what a driver finds: everything passes unless it can say otherwise. */
void net_filter_init(struct virtio_net *net);
/* Does the packet whose first bytes these are (destination to VLAN tag) pass? */
bool net_filter_passes(const struct virtio_net *net, const uint8_t *packet, size_t len);
/* GUEST_* offloads as negotiated, as bits of features, for the host's end. */
void net_set_offloads(struct virtio_net *net, uint64_t features);

#endif
