/*
 * virtio-net-pci: a network card (§5.1), on an I/O thread of its own. This file makes it, offers
 * its features and shows its configuration; see net_queues.c for packets and net_control.c for
 * commands.
 *
 * A feature is offered when its property says so and the host's end can do its part: checksums and
 * segmentation need an end that speaks virtio_net_hdr. What the driver accepts of GUEST_* is what
 * the host's end may then send.
 */
#include "virtio/net_internal.h"

#include "base/error.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "machine/backends.h"
#include "machine/iothread.h"
#include "machine/machine.h"
#include "virtio/device_list.h"

#include <string.h>

#define CTRL_QUEUE_SIZE 64
#define CLASS_NETWORK   0x020000
#define DUPLEX_UNKNOWN  0xff
#define SPEED_UNKNOWN   0xffffffff
#define MTU_MIN         68 /* §5.1.4.1 */
#define MAC_CANDIDATES  256

static const char *const duplexes[] = { "half", "full", NULL };

static const struct prop net_props[] = {
	{ "netdev", PROP_STRING, .help = "id of the network end it is connected to" },
	{ "mac", PROP_MAC, .help = "its address (default: 52:54:00:12:34:56 and up)" },
	{ "csum", PROP_BOOL, "on", "take packets with partial checksums" },
	{ "gso", PROP_BOOL, "on", "of no effect on the modern interface" },
	{ "guest_csum", PROP_BOOL, "on", "give packets with partial checksums" },
	{ "guest_tso4", PROP_BOOL, "on", "give TCPv4 packets of up to 64 KiB" },
	{ "guest_tso6", PROP_BOOL, "on", "give TCPv6 packets of up to 64 KiB" },
	{ "guest_ecn", PROP_BOOL, "on", "give those with ECN" },
	{ "guest_ufo", PROP_BOOL, "on", "give UDP packets of up to 64 KiB" },
	{ "host_tso4", PROP_BOOL, "on", "take TCPv4 packets of up to 64 KiB" },
	{ "host_tso6", PROP_BOOL, "on", "take TCPv6 packets of up to 64 KiB" },
	{ "host_ecn", PROP_BOOL, "on", "take those with ECN" },
	{ "host_ufo", PROP_BOOL, "on", "take UDP packets of up to 64 KiB" },
	{ "mrg_rxbuf", PROP_BOOL, "on", "spread a packet over several receive buffers" },
	{ "status", PROP_BOOL, "on", "show the link's state" },
	{ "ctrl_vq", PROP_BOOL, "on", "have a control queue" },
	{ "ctrl_rx", PROP_BOOL, "on", "filter received packets as told" },
	{ "ctrl_rx_extra", PROP_BOOL, "on", "filter by more rules" },
	{ "ctrl_vlan", PROP_BOOL, "on", "filter by VLAN" },
	{ "ctrl_mac_addr", PROP_BOOL, "on", "let the driver set the address" },
	{ "ctrl_guest_offloads", PROP_BOOL, "on", "let the driver change offloads at run time" },
	{ "host_mtu", PROP_INT, .help = "MTU to advise; 0: none", .max = 65535 },
	{ "rx_queue_size", PROP_INT, "256", "receive buffers; 256, 512 or 1024", .min = 256,
	  .max = 1024 },
	{ "tx_queue_size", PROP_INT, "256", "packets to send; 256, 512 or 1024", .min = 256,
	  .max = 1024 },
	{ "speed", PROP_INT, .help = "Mbit/s to show", .max = INT32_MAX },
	{ "duplex", PROP_ENUM, .help = "duplex to show", .choices = duplexes },
	{ "mq", PROP_BOOL, "off", "only off is supported" },
	{ "tx", PROP_STRING, .help = "only bh is supported" },
	{ "romfile", PROP_STRING, .help = "only an empty one: there is no option ROM" },
	{},
};

/* What the host's end must have. */
enum need { NEED_NOTHING, NEED_HDR, NEED_UFO, NEED_CTRL };

static const struct {
	const char *property;
	unsigned feature;
	enum need need;
} features[] = {
	{ "csum", VIRTIO_NET_F_CSUM, NEED_HDR },
	{ "guest_csum", VIRTIO_NET_F_GUEST_CSUM, NEED_HDR },
	{ "guest_tso4", VIRTIO_NET_F_GUEST_TSO4, NEED_HDR },
	{ "guest_tso6", VIRTIO_NET_F_GUEST_TSO6, NEED_HDR },
	{ "guest_ecn", VIRTIO_NET_F_GUEST_ECN, NEED_HDR },
	{ "guest_ufo", VIRTIO_NET_F_GUEST_UFO, NEED_UFO },
	{ "host_tso4", VIRTIO_NET_F_HOST_TSO4, NEED_HDR },
	{ "host_tso6", VIRTIO_NET_F_HOST_TSO6, NEED_HDR },
	{ "host_ecn", VIRTIO_NET_F_HOST_ECN, NEED_HDR },
	{ "host_ufo", VIRTIO_NET_F_HOST_UFO, NEED_UFO },
	{ "mrg_rxbuf", VIRTIO_NET_F_MRG_RXBUF, NEED_NOTHING },
	{ "status", VIRTIO_NET_F_STATUS, NEED_NOTHING },
	{ "ctrl_vq", VIRTIO_NET_F_CTRL_VQ, NEED_NOTHING },
	{ "ctrl_rx", VIRTIO_NET_F_CTRL_RX, NEED_CTRL },
	{ "ctrl_rx_extra", VIRTIO_NET_F_CTRL_RX_EXTRA, NEED_CTRL },
	{ "ctrl_vlan", VIRTIO_NET_F_CTRL_VLAN, NEED_CTRL },
	{ "ctrl_mac_addr", VIRTIO_NET_F_CTRL_MAC_ADDR, NEED_CTRL },
	{ "ctrl_guest_offloads", VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, NEED_CTRL },
};

/* GUEST_* features and what they mean to the host's end. */
static const struct {
	unsigned feature, offload;
} guest_offloads[] = {
	{ VIRTIO_NET_F_GUEST_CSUM, NET_OFFLOAD_CSUM },
	{ VIRTIO_NET_F_GUEST_TSO4, NET_OFFLOAD_TSO4 },
	{ VIRTIO_NET_F_GUEST_TSO6, NET_OFFLOAD_TSO6 },
	{ VIRTIO_NET_F_GUEST_ECN, NET_OFFLOAD_ECN },
	{ VIRTIO_NET_F_GUEST_UFO, NET_OFFLOAD_UFO },
};

/* struct virtio_net_config, §5.1.4 */
struct net_config {
	uint8_t mac[NET_MAC_LEN];
	uint16_t status;
	uint16_t max_virtqueue_pairs;
	uint16_t mtu;
	uint32_t speed;
	uint8_t duplex;
} __attribute__((packed));

/* --- What the driver sees ---- */

/* As in QEMU: as much of it as there are features that speak of it. */
static uint32_t config_size(uint64_t host_features)
{
	if (host_features & BIT(VIRTIO_NET_F_SPEED_DUPLEX))
		return sizeof(struct net_config);
	if (host_features & BIT(VIRTIO_NET_F_MTU))
		return offsetof(struct net_config, speed);
	return offsetof(struct net_config, max_virtqueue_pairs);
}

static void config_read(struct virtio_device *vd, unsigned offset, void *buf, unsigned len)
{
	const struct virtio_net *net = net_of(vd);
	struct net_config config = {
		.status = net->status,
		.max_virtqueue_pairs = 1,
		.mtu = net->mtu,
		.speed = net->speed,
		.duplex = net->duplex,
	};

	memcpy(config.mac, net->mac, NET_MAC_LEN);
	memcpy(buf, (const char *)&config + offset, len);
}

void net_set_offloads(struct virtio_net *net, uint64_t guest_features)
{
	unsigned offloads = 0;

	if (!net->nd || !net->nd->ops->set_offloads)
		return;
	for (unsigned i = 0; i < ARRAY_SIZE(guest_offloads); i++)
		if (guest_features & BIT(guest_offloads[i].feature))
			offloads |= guest_offloads[i].offload;
	net->nd->ops->set_offloads(net->nd, offloads);
}

static void set_features(struct virtio_device *vd, uint64_t accepted)
{
	struct virtio_net *net = net_of(vd);

	memcpy(net->mac, net->own_mac, NET_MAC_LEN);
	net_filter_init(net);
	net_set_offloads(net, accepted);
}

static void start(struct virtio_device *vd)
{
	net_start(net_of(vd));
}

static void stop(struct virtio_device *vd)
{
	net_stop(net_of(vd));
}

static void notify(struct virtio_device *vd, unsigned q)
{
	static void (*const poll[])(struct virtio_net * net) = {
		[NET_RX] = net_rx_poll,
		[NET_TX] = net_tx_poll,
		[NET_CTRL] = net_ctrl_poll,
	};

	poll[q](net_of(vd));
}

static const struct virtio_ops net_ops = {
	.config_read = config_read,
	.set_features = set_features,
	.start = start,
	.stop = stop,
	.notify = notify,
};

/* --- Making it ---- */

static bool end_can(const struct netdev *nd, const struct props *props, enum need need)
{
	switch (need) {
	case NEED_HDR: return nd && nd->vnet_hdr;
	case NEED_UFO: return nd && nd->offloads & NET_OFFLOAD_UFO;
	case NEED_CTRL: return props_bool(props, "ctrl_vq");
	default: return true;
	}
}

static uint64_t offer(const struct virtio_net *net, const struct props *props)
{
	uint64_t offered = BIT(VIRTIO_NET_F_MAC);

	for (unsigned i = 0; i < ARRAY_SIZE(features); i++)
		if (props_bool(props, features[i].property) &&
		    end_can(net->nd, props, features[i].need))
			offered |= BIT(features[i].feature);
	if (net->mtu)
		offered |= BIT(VIRTIO_NET_F_MTU);
	if (props_has(props, "speed") || props_has(props, "duplex"))
		offered |= BIT(VIRTIO_NET_F_SPEED_DUPLEX);
	return offered;
}

static struct virtio_net *of_device(struct device *device)
{
	return container_of(device, struct virtio_net, vpci.dev);
}

static bool mac_is_taken(const struct machine *machine, const uint8_t *mac)
{
	for (struct device *d = machine->devices; d; d = d->next)
		if (d->class == &virtio_net_pci_class &&
		    memcmp(of_device(d)->own_mac, mac, NET_MAC_LEN) == 0)
			return true;
	return false;
}

/* As QEMU counts: the first of a range that no NIC before has. */
static void choose_mac(struct virtio_net *net, const struct machine *machine,
		       const struct props *props)
{
	static const uint8_t first[] = { 0x52, 0x54, 0x00, 0x12, 0x34, 0x56 };

	if (!props_mac(props, "mac", net->own_mac)) {
		memcpy(net->own_mac, first, NET_MAC_LEN);
		for (unsigned i = 1; i < MAC_CANDIDATES && mac_is_taken(machine, net->own_mac); i++)
			net->own_mac[5] = first[5] + i;
	}
	memcpy(net->mac, net->own_mac, NET_MAC_LEN);
}

static int check_props(const struct props *props, struct error **err)
{
	static const char *const sizes[] = { "rx_queue_size", "tx_queue_size" };
	const uint64_t mtu = props_u64(props, "host_mtu");

	if (props_bool(props, "mq")) {
		error_set(err, "mq=on is not supported: a NIC has one pair of queues");
		return -1;
	}
	if (props_has(props, "tx") && strcmp(props_str(props, "tx"), "bh") != 0) {
		error_set(err, "tx=%s is not supported; tx=bh is", props_str(props, "tx"));
		return -1;
	}
	if (props_has(props, "romfile") && *props_str(props, "romfile")) {
		error_set(err, "romfile=%s is not supported: there is no option ROM (romfile=)",
			  props_str(props, "romfile"));
		return -1;
	}
	if (mtu && mtu < MTU_MIN) {
		error_set(err, "host_mtu=%llu is too small; from %d on is possible",
			  (unsigned long long)mtu, MTU_MIN);
		return -1;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
		const uint64_t size = props_u64(props, sizes[i]);

		if (size & (size - 1)) {
			error_set(err, "%s=%llu is not a power of two", sizes[i],
				  (unsigned long long)size);
			return -1;
		}
	}
	return 0;
}

static int connect_end(struct virtio_net *net, struct machine *machine, const struct props *props,
		       struct error **err)
{
	const char *netdev = props_str(props, "netdev"), *id = props_str(props, "id");

	if (!netdev) {
		net->name = xasprintf("virtio-net-pci '%s'", id ? id : "");
		log_warn("%s is connected to no netdev", net->name);
		return 0;
	}
	net->name = xasprintf("virtio-net-pci '%s'", id ? id : netdev);
	net->nd = backends_take(machine->backends, BACKEND_NET, netdev, net->name, err);
	return net->nd ? 0 : -1;
}

static int init(struct virtio_net *net, struct machine *machine, const struct props *props,
		struct error **err)
{
	const unsigned n_queues = props_bool(props, "ctrl_vq") ? NET_CTRL + 1 : NET_CTRL;
	const unsigned rx = props_u64(props, "rx_queue_size"),
		       tx = props_u64(props, "tx_queue_size");
	const uint64_t offered = offer(net, props);
	struct virtq *queues;

	if (virtio_init(&net->vd, &net_ops, VIRTIO_ID_NET, net->name, n_queues, MAX(rx, tx),
			config_size(offered), offered, &machine->mem, iothread_loop(net->iothread),
			err) < 0)
		return -1;
	queues = net->vd.queues;
	queues[NET_RX].size = queues[NET_RX].max_size = rx;
	queues[NET_TX].size = queues[NET_TX].max_size = tx;
	if (n_queues > NET_CTRL)
		queues[NET_CTRL].size = queues[NET_CTRL].max_size = CTRL_QUEUE_SIZE;
	net->again = loop_timer_new(net->vd.loop, net_run_again, net);
	return virtio_pci_plug(&net->vpci, machine, props, &net->vd, CLASS_NETWORK, err);
}

static void free_net(struct virtio_net *net)
{
	virtio_destroy(&net->vd);
	iothread_free(net->iothread);
	if (net->nd) {
		net->nd->changed = NULL;
		net->nd->loop = NULL;
	}
	free(net->name);
	free(net);
}

static int create(struct machine *machine, const struct props *props, struct device **device,
		  struct error **err)
{
	struct virtio_net *net;

	if (check_props(props, err) < 0)
		return -1;
	net = xcalloc(1, sizeof(*net));
	net->vpci.dev.class = &virtio_net_pci_class;
	net->mtu = props_u64(props, "host_mtu");
	net->speed = props_has(props, "speed") ? props_u64(props, "speed") : SPEED_UNKNOWN;
	net->duplex = !props_has(props, "duplex") ? DUPLEX_UNKNOWN
						  : !strcmp(props_str(props, "duplex"), "full");
	choose_mac(net, machine, props);
	if (connect_end(net, machine, props, err) < 0)
		goto fail;
	net->status = !net->nd || net->nd->fd >= 0 ? VIRTIO_NET_S_LINK_UP : 0;
	net->iothread = iothread_new(net->nd ? net->nd->id : "net", err);
	if (!net->iothread || init(net, machine, props, err) < 0)
		goto fail;
	if (net->nd) {
		net->nd->loop = net->vd.loop;
		net->nd->changed = net_link_changed;
		net->nd->changed_opaque = net;
	}
	*device = &net->vpci.dev;
	return 0;
fail:
	free_net(net);
	return -1;
}

static void destroy(struct device *device)
{
	struct virtio_net *net = of_device(device);

	virtio_pci_unplug(&net->vpci);
	free_net(net);
}

static void reset(struct device *device)
{
	struct virtio_net *net = of_device(device);

	virtio_pci_reset(device);
	memcpy(net->mac, net->own_mac, NET_MAC_LEN);
}

const struct device_class virtio_net_pci_class = {
	.name = "virtio-net-pci",
	.bus = "PCI",
	.desc = "network card",
	.props = net_props,
	.more_props = virtio_pci_props,
	.create = create,
	.reset = reset,
	.pause = virtio_pci_pause,
	.resume = virtio_pci_resume,
	.destroy = destroy,
};
