/*
 * virtio-net: packets (§5.1.6). See net_internal.h.
 *
 * Receiving. Buffers are taken off the queue ahead of packets, until a packet of the largest size
 * fits into them, and one readv() puts a packet straight into guest memory; with MRG_RXBUF over as
 * many of them as it takes. Behind them stands a spill buffer: what does not fit goes there, and is
 * copied when the driver has given more buffers. So packets are never cut, and in the usual case
 * never copied. A packet that can't fit even into a full queue is dropped.
 *
 * Sending. writev() from guest memory. What the host's end does not take at the moment waits, with
 * all behind it, for EPOLLOUT.
 *
 * Batches. Both directions go on until there is nothing more to do, or a budget is used up; then
 * the other has its turn and a timer that has already expired calls again. Interrupts are sent once
 * a batch. Notifications by the driver are off: of receive buffers unless we ran out, of packets
 * to send unless the queue was found empty twice, with one turn of the loop in between.
 */
#include "virtio/net_internal.h"

#include "base/error.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"

#include <errno.h>
#include <string.h>

#define RX_BUDGET    64
#define TX_BUDGET    256
#define SIGNAL_EVERY 64

#define NUM_BUFFERS  10 /* its offset in struct virtio_net_hdr */
#define ETH_PEEK     18 /* addresses, type, VLAN tag and type */
#define MAX_SCATTER  VIRTQ_MAX_SEGMENTS

enum rx_result {
	RX_PACKET,
	RX_NOTHING,    /* no packet is there */
	RX_NO_BUFFERS, /* the driver has to give more */
	RX_STOPPED,    /* the device or the link is down */
};

/* --- Waiting for the host's end ---- */

static void on_ready(void *opaque, uint32_t events);

static void set_interest(struct virtio_net *net, uint32_t interest)
{
	struct error *err ERROR_AUTO = NULL;

	net->interest = interest;
	if (net->watch) {
		loop_watch_set(net->watch, interest);
	} else if (interest && net->nd && net->nd->fd >= 0) {
		net->watch =
			loop_watch_new(net->vd.loop, net->nd->fd, interest, on_ready, net, &err);
		if (!net->watch)
			log_warn("%s: %s", net->name, error_message(err));
	}
}

static void drop_watch(struct virtio_net *net)
{
	loop_watch_free(net->watch);
	net->watch = NULL;
}

static void want(struct virtio_net *net, uint32_t event, bool on)
{
	const uint32_t interest = on ? net->interest | event : net->interest & ~event;

	if (interest != net->interest || (interest && !net->watch))
		set_interest(net, interest);
}

/* A hang-up is reported whether we wait for it or not: then it must not keep us awake. */
static void on_ready(void *opaque, uint32_t events)
{
	struct virtio_net *net = opaque;
	const uint32_t wanted = net->interest;

	if (!(wanted & EPOLLIN) && events & (EPOLLHUP | EPOLLERR))
		drop_watch(net);
	if (wanted & EPOLLOUT && events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) {
		want(net, EPOLLOUT, false);
		net_tx_poll(net);
	}
	if (wanted & EPOLLIN && events & (EPOLLIN | EPOLLHUP | EPOLLERR))
		net_rx_poll(net);
}

void net_call_again(struct virtio_net *net, bool *which)
{
	*which = true;
	loop_timer_set(net->again, 0);
}

void net_run_again(void *opaque)
{
	struct virtio_net *net = opaque;
	const bool rx = net->rx_again, tx = net->tx_again, ctrl = net->ctrl_again;

	net->rx_again = net->tx_again = net->ctrl_again = false;
	if (tx && net->vd.running)
		net_tx_poll(net);
	if (rx && net->vd.running)
		net_rx_poll(net);
	if (ctrl && net->vd.running)
		net_ctrl_poll(net);
}

static void set_link(struct virtio_net *net, bool up)
{
	const uint16_t status = up ? VIRTIO_NET_S_LINK_UP : 0;

	if (net->status == status)
		return;
	net->status = status;
	if (net->vd.features & BIT(VIRTIO_NET_F_STATUS))
		virtio_config_changed(&net->vd);
}

void net_link_changed(void *opaque, bool up)
{
	struct virtio_net *net = opaque;

	drop_watch(net);
	net->interest = 0;
	set_link(net, up);
	if (!net->vd.running)
		return;
	/* What waited to be sent is lost when the link is down, and goes on its way when it is up.
	 */
	net_call_again(net, &net->tx_again);
	if (up)
		net_call_again(net, &net->rx_again);
}

/* --- Receiving ---- */

static struct virtq *rx_queue(struct virtio_net *net)
{
	return &net->vd.queues[NET_RX];
}

static bool mergeable(const struct virtio_net *net)
{
	return virtio_has(&net->vd, VIRTIO_NET_F_MRG_RXBUF);
}

static unsigned live_iov(const struct net_rx *rx)
{
	return rx->iov_end - rx->iov_first;
}

/* Makes room in iov[] for a chain of the largest kind; false when too many pieces are live. */
static bool make_room(struct net_rx *rx)
{
	const unsigned live = live_iov(rx);

	if (live > VIRTQ_MAX_SEGMENTS)
		return false;
	if (rx->iov_end <= VIRTQ_MAX_SEGMENTS)
		return true;
	memmove(rx->iov, rx->iov + rx->iov_first, live * sizeof(*rx->iov));
	rx->iov_first = 0;
	rx->iov_end = live;
	return true;
}

/* Takes one more buffer off the queue: 1, 0 when there is none, -1 when the device has failed. */
static int take_buffer(struct virtio_net *net)
{
	struct net_rx *rx = &net->rx;
	struct virtq_chain chain;
	int got;

	if (rx->n == ARRAY_SIZE(rx->buffers) || !make_room(rx))
		return 0;
	got = virtq_pop(rx_queue(net), &chain, rx->iov + rx->iov_end, VIRTQ_MAX_SEGMENTS);
	if (got < 0) {
		virtio_fail_queue(&net->vd, NET_RX);
	} else if (got && (chain.n_out || chain.in_bytes < NET_HDR_LEN)) {
		virtio_fail(&net->vd, "receive buffer of %llu bytes with %u readable ones",
			    (unsigned long long)chain.in_bytes, chain.n_out);
		got = -1;
	}
	if (got <= 0)
		return got;
	rx->buffers[(rx->first + rx->n++) % ARRAY_SIZE(rx->buffers)] =
		(struct net_buffer){ chain.head, chain.n_in, chain.in_bytes };
	rx->iov_end += chain.n_in;
	rx->bytes += chain.in_bytes;
	return 1;
}

/* Takes buffers until they hold `bytes`, if there are as many; without MRG_RXBUF just one. */
static int take_buffers(struct virtio_net *net, size_t bytes)
{
	struct net_rx *rx = &net->rx;
	int got = 1;

	while (got > 0 && (mergeable(net) ? rx->bytes < bytes : !rx->n))
		got = take_buffer(net);
	return got < 0 ? -1 : 0;
}

/* Can no further buffer come before one of these is used? */
static bool buffers_exhausted(struct virtio_net *net)
{
	const struct net_rx *rx = &net->rx;

	return !mergeable(net) || rx->n == rx_queue(net)->size || live_iov(rx) > VIRTQ_MAX_SEGMENTS;
}

/* What a readv() may use of the buffers, and the spill buffer: pieces, and bytes before it. */
static unsigned prepare_scatter(struct virtio_net *net, size_t skip, size_t *direct)
{
	struct net_rx *rx = &net->rx;
	unsigned n = live_iov(rx);
	struct iovec *iov = rx->scatter;

	*direct = rx->bytes;
	if (n > MAX_SCATTER - 1) {
		n = MAX_SCATTER - 1;
		*direct = 0;
		for (unsigned i = 0; i < n; i++)
			*direct += rx->iov[rx->iov_first + i].iov_len;
	}
	memcpy(iov, rx->iov + rx->iov_first, n * sizeof(*iov));
	if (skip) {
		unsigned left = n;
		struct iovec *start = iov_skip(iov, &left, skip);

		memmove(iov, start, left * sizeof(*iov));
		n = left;
	}
	iov[n] = (struct iovec){ rx->spill, sizeof(rx->spill) };
	return n + 1;
}

/* How many of the first buffers a packet of len bytes lies in. */
static uint16_t count_buffers(const struct net_rx *rx, size_t len)
{
	unsigned n = 0;

	for (; len; n++)
		len -= MIN(len, rx->buffers[(rx->first + n) % ARRAY_SIZE(rx->buffers)].bytes);
	return n;
}

/* Gives the driver the packet that lies in its first buffers, len bytes with header. */
static void give_packet(struct virtio_net *net, size_t len)
{
	struct net_rx *rx = &net->rx;
	struct virtq *vq = rx_queue(net);
	const uint16_t used = count_buffers(rx, len);

	iov_from_buf(rx->iov + rx->iov_first, live_iov(rx), NUM_BUFFERS, &used, sizeof(used));
	for (unsigned i = 0; i < used; i++) {
		const struct net_buffer *b = &rx->buffers[rx->first];
		const uint32_t part = MIN(len, b->bytes);

		virtq_fill(vq, i, b->head, part);
		len -= part;
		rx->first = (rx->first + 1) % ARRAY_SIZE(rx->buffers);
		rx->n--;
		rx->bytes -= b->bytes;
		rx->iov_first += b->n_iov;
	}
	virtq_flush(vq, used);
}

/* Copies the spilled rest behind what is placed already, when there is room: RX_PACKET. */
static enum rx_result place_spill(struct virtio_net *net)
{
	struct net_rx *rx = &net->rx;
	const size_t len = rx->placed + rx->spilled;

	if (take_buffers(net, len) < 0)
		return RX_STOPPED;
	if (rx->bytes >= len && (mergeable(net) || rx->buffers[rx->first].bytes >= len)) {
		iov_from_buf(rx->iov + rx->iov_first, live_iov(rx), rx->placed, rx->spill,
			     rx->spilled);
		rx->spilled = 0;
		give_packet(net, len);
		return RX_PACKET;
	}
	if (!buffers_exhausted(net))
		return RX_NO_BUFFERS;
	log_item(LOG_GUEST_ERRORS,
		 "%s: a packet of %zu bytes does not fit into all of the "
		 "driver's receive buffers",
		 net->name, len);
	rx->spilled = 0;
	return RX_PACKET;
}

static bool passes(struct virtio_net *net)
{
	const struct net_rx *rx = &net->rx;
	uint8_t head[ETH_PEEK];
	size_t len;

	if (net->filter.promisc)
		return true;
	len = iov_to_buf(rx->iov + rx->iov_first, live_iov(rx), NET_HDR_LEN, head, sizeof(head));
	return net_filter_passes(net, head, len);
}

static enum rx_result receive(struct virtio_net *net)
{
	static const uint8_t no_header[NET_HDR_LEN];
	struct net_rx *rx = &net->rx;
	struct netdev *nd = net->nd;
	const size_t skip = NET_HDR_LEN - nd->vnet_hdr_len;
	size_t direct;
	ssize_t got;
	unsigned n;

	if (rx->spilled)
		return place_spill(net);
	if (take_buffers(net, NET_HDR_LEN + NET_MAX_PACKET) < 0)
		return RX_STOPPED;
	if (!rx->n)
		return RX_NO_BUFFERS;
	n = prepare_scatter(net, skip, &direct);
	got = nd->ops->recv(nd, rx->scatter, n);
	if (got == -EAGAIN)
		return RX_NOTHING;
	if (got == -EPIPE) {
		net_link_changed(net, false);
		return RX_STOPPED;
	}
	if (got < (ssize_t)nd->vnet_hdr_len)
		return RX_PACKET; /* lost */
	got += skip;
	if (skip)
		iov_from_buf(rx->iov + rx->iov_first, live_iov(rx), 0, no_header, skip);
	if (!passes(net))
		return RX_PACKET;
	if ((size_t)got > direct) {
		rx->placed = direct;
		rx->spilled = got - direct;
		return place_spill(net);
	}
	give_packet(net, got);
	return RX_PACKET;
}

void net_rx_poll(struct virtio_net *net)
{
	struct virtq *vq = rx_queue(net);
	enum rx_result result = RX_PACKET;

	if (!net->nd || net->nd->fd < 0 || !vq->enabled)
		return;
	virtq_disable_notify(vq);
	for (unsigned i = 0; i < RX_BUDGET && result == RX_PACKET; i++)
		result = receive(net);
	if (!net->vd.running)
		return;
	virtio_signal(&net->vd, NET_RX);
	switch (result) {
	case RX_PACKET: net_call_again(net, &net->rx_again); break;
	case RX_NOTHING: want(net, EPOLLIN, true); break;
	case RX_NO_BUFFERS:
		if (virtq_enable_notify(vq))
			net_call_again(net, &net->rx_again);
		else
			want(net, EPOLLIN, false);
		break;
	case RX_STOPPED: break;
	}
}

/* --- Sending ---- */

/* Takes the next packet: 1, 0 when there is none, -1 when the device has failed. */
static int take_packet(struct virtio_net *net)
{
	struct net_tx *tx = &net->tx;
	int got = virtq_pop(&net->vd.queues[NET_TX], &tx->chain, tx->storage,
			    ARRAY_SIZE(tx->storage));

	if (got < 0) {
		virtio_fail_queue(&net->vd, NET_TX);
	} else if (got && tx->chain.out_bytes < NET_HDR_LEN) {
		virtio_fail(&net->vd, "packet of %llu bytes, less than its header",
			    (unsigned long long)tx->chain.out_bytes);
		got = -1;
	}
	if (got <= 0)
		return got;
	tx->iov = tx->storage;
	tx->n_iov = tx->chain.n_out;
	if (net->nd && !net->nd->vnet_hdr)
		tx->iov = iov_skip(tx->iov, &tx->n_iov, NET_HDR_LEN);
	tx->pending = true;
	return 1;
}

/* False: the host's end does not take it now. Everything else is done with, sent or lost. */
static bool send_packet(struct virtio_net *net)
{
	struct net_tx *tx = &net->tx;
	struct netdev *nd = net->nd;
	ssize_t sent = -EPIPE;

	if (tx->chain.out_bytes > NET_HDR_LEN + NET_MAX_PACKET)
		log_item(LOG_GUEST_ERRORS, "%s: a packet of %llu bytes is dropped", net->name,
			 (unsigned long long)tx->chain.out_bytes);
	else if (nd && nd->fd >= 0)
		sent = nd->ops->send(nd, tx->iov, tx->n_iov);
	return sent != -EAGAIN;
}

static bool flush_end(struct virtio_net *net)
{
	struct netdev *nd = net->nd;

	return !nd || nd->fd < 0 || !nd->ops->flush || nd->ops->flush(nd) != -EAGAIN;
}

/* Sends up to the budget. How many were; *full: the host's end takes no more now. */
static unsigned send_batch(struct virtio_net *net, bool *full)
{
	struct net_tx *tx = &net->tx;
	unsigned n = 0;

	*full = false;
	while (n < TX_BUDGET) {
		if (!tx->pending && take_packet(net) <= 0)
			break;
		if (!send_packet(net)) {
			*full = true;
			break;
		}
		tx->pending = false;
		virtq_push(&net->vd.queues[NET_TX], tx->chain.head, 0);
		if (++n % SIGNAL_EVERY == 0)
			virtio_signal(&net->vd, NET_TX);
	}
	return n;
}

void net_tx_poll(struct virtio_net *net)
{
	struct virtq *vq = &net->vd.queues[NET_TX];
	unsigned n;
	bool full;

	if (!vq->enabled || net->interest & EPOLLOUT)
		return;
	virtq_disable_notify(vq);
	n = send_batch(net, &full);
	if (!net->vd.running)
		return;
	if (!flush_end(net))
		full = true;
	if (n)
		virtio_signal(&net->vd, NET_TX);
	if (full)
		want(net, EPOLLOUT, true);
	else if (n || virtq_enable_notify(vq))
		net_call_again(net, &net->tx_again);
}

/* --- Start and stop ---- */

void net_start(struct virtio_net *net)
{
	net->rx_again = net->tx_again = net->ctrl_again = false;
	net->interest = 0;
}

/* Buffers and packets not dealt with go back onto their queues, for a later start. */
void net_stop(struct virtio_net *net)
{
	struct net_rx *rx = &net->rx;

	drop_watch(net);
	loop_timer_cancel(net->again);
	for (unsigned i = 0; i < rx->n; i++)
		virtq_unpop(rx_queue(net));
	if (net->tx.pending)
		virtq_unpop(&net->vd.queues[NET_TX]);
	net->tx.pending = false;
	rx->first = rx->n = rx->iov_first = rx->iov_end = 0;
	rx->bytes = rx->spilled = rx->placed = 0;
}
