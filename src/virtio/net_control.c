/*
 * virtio-net: the control queue (§5.1.6.5) and the receive filter it sets. See net_internal.h.
 *
 * A command is class, command, data, and room for one byte of answer. The table of commands says
 * how much data each has at least and which feature it needs; a command outside it is answered with
 * an error, as one whose data make no sense.
 */
#include "virtio/net_internal.h"

#include "base/util.h"

#include <string.h>

#define CTRL_BUDGET                    64

#define VIRTIO_NET_OK                  0
#define VIRTIO_NET_ERR                 1

#define VIRTIO_NET_CTRL_RX             0
#define VIRTIO_NET_CTRL_MAC            1
#define VIRTIO_NET_CTRL_VLAN           2
#define VIRTIO_NET_CTRL_GUEST_OFFLOADS 5

#define ETH_TYPE                       12 /* offset in a packet */
#define ETH_TYPE_VLAN                  0x8100
#define VLAN_TAG                       14
#define VLAN_ID                        0x0fff

/* The data of one command, read from the front. */
struct data {
	const struct virtq_chain *chain;
	size_t offset;
};

static bool take(struct data *data, void *buf, size_t len)
{
	if (iov_to_buf(data->chain->iov, data->chain->n_out, data->offset, buf, len) != len)
		return false;
	data->offset += len;
	return true;
}

/* --- Commands ---- */

static bool set_flag(struct virtio_net *net, struct data *data, size_t offset)
{
	uint8_t on;

	if (!take(data, &on, sizeof(on)))
		return false;
	*(bool *)((char *)&net->filter + offset) = on;
	return true;
}

static bool take_macs(struct data *data, struct net_macs *macs)
{
	uint32_t entries;

	if (!take(data, &entries, sizeof(entries)))
		return false;
	if ((uint64_t)entries * NET_MAC_LEN > data->chain->out_bytes - data->offset)
		return false;
	macs->overflow = entries > NET_FILTER_MACS;
	macs->n = macs->overflow ? 0 : entries;
	if (!macs->overflow)
		return take(data, macs->table, macs->n * NET_MAC_LEN);
	data->offset += (uint64_t)entries * NET_MAC_LEN;
	return true;
}

static bool set_mac_table(struct virtio_net *net, struct data *data, size_t unused)
{
	struct net_macs uni = {}, multi = {};

	if (!take_macs(data, &uni) || !take_macs(data, &multi))
		return false;
	net->filter.uni = uni;
	net->filter.multi = multi;
	return true;
}

static bool set_mac(struct virtio_net *net, struct data *data, size_t unused)
{
	return take(data, net->mac, NET_MAC_LEN);
}

static bool set_vlan(struct virtio_net *net, struct data *data, size_t on)
{
	uint64_t *word;
	uint16_t id;

	if (!take(data, &id, sizeof(id)) || id >= NET_VLANS)
		return false;
	word = &net->filter.vlans[id / 64];
	*word = on ? *word | BIT(id % 64) : *word & ~BIT(id % 64);
	return true;
}

static bool set_guest_offloads(struct virtio_net *net, struct data *data, size_t unused)
{
	uint64_t offloads;

	/* §5.1.6.5.6.1: a subset of what was negotiated. */
	if (!take(data, &offloads, sizeof(offloads)) || offloads & ~net->vd.features)
		return false;
	net_set_offloads(net, offloads);
	return true;
}

#define FLAG(name) set_flag, offsetof(struct net_filter, name)

static const struct command {
	uint8_t class, command;
	unsigned feature;
	bool (*run)(struct virtio_net *net, struct data *data, size_t argument);
	size_t argument;
} commands[] = {
	{ VIRTIO_NET_CTRL_RX, 0, VIRTIO_NET_F_CTRL_RX, FLAG(promisc) },
	{ VIRTIO_NET_CTRL_RX, 1, VIRTIO_NET_F_CTRL_RX, FLAG(allmulti) },
	{ VIRTIO_NET_CTRL_RX, 2, VIRTIO_NET_F_CTRL_RX_EXTRA, FLAG(alluni) },
	{ VIRTIO_NET_CTRL_RX, 3, VIRTIO_NET_F_CTRL_RX_EXTRA, FLAG(nomulti) },
	{ VIRTIO_NET_CTRL_RX, 4, VIRTIO_NET_F_CTRL_RX_EXTRA, FLAG(nouni) },
	{ VIRTIO_NET_CTRL_RX, 5, VIRTIO_NET_F_CTRL_RX_EXTRA, FLAG(nobcast) },
	{ VIRTIO_NET_CTRL_MAC, 0, VIRTIO_NET_F_CTRL_RX, set_mac_table },
	{ VIRTIO_NET_CTRL_MAC, 1, VIRTIO_NET_F_CTRL_MAC_ADDR, set_mac },
	{ VIRTIO_NET_CTRL_VLAN, 0, VIRTIO_NET_F_CTRL_VLAN, set_vlan, true },
	{ VIRTIO_NET_CTRL_VLAN, 1, VIRTIO_NET_F_CTRL_VLAN, set_vlan, false },
	{ VIRTIO_NET_CTRL_GUEST_OFFLOADS, 0, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, set_guest_offloads },
};

static uint8_t run_command(struct virtio_net *net, const struct virtq_chain *chain)
{
	struct data data = { .chain = chain };
	uint8_t header[2];

	if (!take(&data, header, sizeof(header)))
		return VIRTIO_NET_ERR;
	for (unsigned i = 0; i < ARRAY_SIZE(commands); i++) {
		const struct command *c = &commands[i];

		if (c->class == header[0] && c->command == header[1] &&
		    virtio_has(&net->vd, c->feature))
			return c->run(net, &data, c->argument) ? VIRTIO_NET_OK : VIRTIO_NET_ERR;
	}
	return VIRTIO_NET_ERR;
}

void net_ctrl_poll(struct virtio_net *net)
{
	struct virtq *vq = &net->vd.queues[NET_CTRL];
	struct iovec iov[NET_FILTER_MACS]; /* a command is three pieces or so */
	struct virtq_chain chain;
	int got = 1;

	virtq_disable_notify(vq);
	for (unsigned i = 0; i < CTRL_BUDGET && got > 0; i++) {
		uint8_t answer;

		got = virtq_pop(vq, &chain, iov, ARRAY_SIZE(iov));
		if (got <= 0)
			break;
		if (!chain.in_bytes) {
			virtio_fail(&net->vd, "control command without room for an answer");
			return;
		}
		answer = run_command(net, &chain);
		iov_from_buf(iov + chain.n_out, chain.n_in, 0, &answer, sizeof(answer));
		virtq_push(vq, chain.head, sizeof(answer));
	}
	if (got < 0) {
		virtio_fail_queue(&net->vd, NET_CTRL);
		return;
	}
	virtio_signal(&net->vd, NET_CTRL);
	if (got > 0 || virtq_enable_notify(vq))
		net_call_again(net, &net->ctrl_again);
}

/* --- The filter ---- */

/* §5.1.6.5.1, §5.1.6.5.3: without these features there is no way to ask for anything. */
void net_filter_init(struct virtio_net *net)
{
	net->filter = (struct net_filter){ .promisc = true };
	if (!virtio_has(&net->vd, VIRTIO_NET_F_CTRL_VLAN))
		memset(net->filter.vlans, 0xff, sizeof(net->filter.vlans));
}

static bool has_mac(const struct net_macs *macs, const uint8_t *mac)
{
	for (unsigned i = 0; i < macs->n; i++)
		if (memcmp(macs->table[i], mac, NET_MAC_LEN) == 0)
			return true;
	return false;
}

static bool vlan_passes(const struct net_filter *f, const uint8_t *packet, size_t len)
{
	unsigned id;

	if (len < VLAN_TAG + 2 || (packet[ETH_TYPE] << 8 | packet[ETH_TYPE + 1]) != ETH_TYPE_VLAN)
		return true;
	id = (packet[VLAN_TAG] << 8 | packet[VLAN_TAG + 1]) & VLAN_ID;
	return f->vlans[id / 64] >> id % 64 & 1;
}

static bool group_passes(const struct net_filter *f, const uint8_t *mac)
{
	static const uint8_t broadcast[] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };

	if (memcmp(mac, broadcast, NET_MAC_LEN) == 0)
		return !f->nobcast;
	if (f->nomulti)
		return false;
	return f->allmulti || f->multi.overflow || has_mac(&f->multi, mac);
}

bool net_filter_passes(const struct virtio_net *net, const uint8_t *packet, size_t len)
{
	const struct net_filter *f = &net->filter;

	if (f->promisc || len < NET_MAC_LEN)
		return true;
	if (!vlan_passes(f, packet, len))
		return false;
	if (packet[0] & 1)
		return group_passes(f, packet);
	if (f->nouni)
		return false;
	return f->alluni || f->uni.overflow || memcmp(packet, net->mac, NET_MAC_LEN) == 0 ||
	       has_mac(&f->uni, packet);
}
