/*
 * virtio-net: both directions over a host's end that is an array, a stream and a tap; buffers too
 * small, too few and too many; the control queue and the filter; drivers that break the rules.
 */
#include "fake_driver.h"
#include "watcher.h"

#include "machine/iothread.h"
#include "virtio/device_list.h"
#include "virtio/net_internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define RAM         (64 * MIB)
#define MAX_PACKETS 1024
#define RX          (&fm.queues[NET_RX])
#define TX          (&fm.queues[NET_TX])
#define CTRL        (&fm.queues[NET_CTRL])

/* --- A host's end ---- */

struct packet {
	size_t len;
	uint8_t *data;
};

/* fd is an eventfd: readable while there are packets, writable while it takes some. */
static struct fake_end {
	struct netdev nd;
	struct packet in[MAX_PACKETS], out[MAX_PACKETS]; /* to the guest, from it */
	unsigned in_first, in_n, out_n;
	unsigned takes; /* packets before it says -EAGAIN */
	unsigned offloads, recvs, sends, flushes;
	bool gone;
} end;

static void end_signal(void)
{
	uint64_t count = 1;

	if (end.in_n)
		assert_int_equal(write(end.nd.fd, &count, 8), 8);
	else if (read(end.nd.fd, &count, 8) < 0)
		return;
}

static ssize_t end_send(struct netdev *nd, const struct iovec *iov, int n)
{
	struct packet *p = &end.out[end.out_n];
	size_t len = 0;

	end.sends++;
	if (end.gone)
		return -EPIPE;
	if (!end.takes)
		return -EAGAIN;
	assert_true(n <= 1024);
	for (int i = 0; i < n; i++)
		len += iov[i].iov_len;
	assert_true(end.out_n < MAX_PACKETS);
	p->data = malloc(len ? len : 1);
	p->len = iov_to_buf(iov, n, 0, p->data, len);
	end.out_n++;
	end.takes--;
	return len;
}

static int end_flush(struct netdev *nd)
{
	end.flushes++;
	return 0;
}

static ssize_t end_recv(struct netdev *nd, const struct iovec *iov, int n)
{
	struct packet *p = &end.in[end.in_first];
	size_t len;

	end.recvs++;
	if (end.gone)
		return -EPIPE;
	if (!end.in_n)
		return -EAGAIN;
	assert_true(n <= 1024);
	len = iov_from_buf(iov, n, 0, p->data, p->len);
	free(p->data);
	end.in_first++;
	end.in_n--;
	if (!end.in_n)
		end_signal();
	return len;
}

static void end_set_offloads(struct netdev *nd, unsigned offloads)
{
	end.offloads = offloads;
}

static const struct netdev_ops end_ops = {
	.send = end_send,
	.flush = end_flush,
	.recv = end_recv,
	.set_offloads = end_set_offloads,
};

static void end_init(bool vnet_hdr)
{
	static char id[] = "end";

	end = (struct fake_end){
		.nd = { .ops = &end_ops,
			.id = id,
			.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC),
			.vnet_hdr = vnet_hdr,
			.vnet_hdr_len = vnet_hdr ? NET_HDR_LEN : 0,
			.offloads = vnet_hdr ? 0x1f : 0,
			.kind = "fake" },
		.takes = UINT32_MAX,
	};
}

static void end_clear(void)
{
	for (unsigned i = 0; i < end.out_n; i++)
		free(end.out[i].data);
	for (unsigned i = 0; i < end.in_n; i++)
		free(end.in[end.in_first + i].data);
	close(end.nd.fd);
}

static void fill(uint8_t *p, size_t len, unsigned seed)
{
	for (size_t i = 0; i < len; i++)
		p[i] = seed * 131 + i * 7 + (i >> 8);
}

/* A packet for the guest; with a header of ones in front when the end has headers. */
static void end_give(size_t len, unsigned seed)
{
	struct packet *p = &end.in[end.in_first + end.in_n];
	const size_t h = end.nd.vnet_hdr_len;

	assert_true(end.in_first + end.in_n < MAX_PACKETS);
	p->len = h + len;
	p->data = malloc(p->len);
	memset(p->data, 1, h);
	fill(p->data + h, len, seed);
	end.in_n++;
	end_signal();
}

/* --- The device ---- */

static struct fake_machine fm;
static struct virtio_device *vd;
static uint64_t rx_gpa;

static void plug(bool vnet_hdr, const char *props)
{
	char text[200];

	fake_machine_init(&fm, RAM);
	end_init(vnet_hdr);
	assert_int_equal(backends_add(fm.m.backends, BACKEND_NET, "end", &end.nd, NULL), 0);
	snprintf(text, sizeof(text), "netdev=end%s%s", *props ? "," : "", props);
	vd = fake_vd(fake_device(&fm, &virtio_net_pci_class, text, NULL));
}

static void unplug(void)
{
	fake_machine_destroy(&fm);
	end_clear();
}

/* n receive buffers of len bytes, one after another from rx_gpa; `parts` pieces each. */
static void add_buffers(unsigned n, uint32_t len, unsigned parts)
{
	const uint32_t stride = ALIGN_UP(len, 64);

	rx_gpa = fake_alloc(&fm, (size_t)n * stride);
	for (unsigned i = 0; i < n; i++) {
		struct fake_piece pieces[64];

		for (unsigned j = 0; j < parts; j++)
			pieces[j] = FAKE_IN(rx_gpa + i * stride + j * (len / parts),
					    j + 1 < parts ? len / parts
							  : len - (parts - 1) * (len / parts));
		fake_add(RX, pieces, parts);
	}
	fake_kick(RX);
}

/* Collects a received packet from the buffers it lies in; returns their number. */
static unsigned collect(uint8_t *packet, size_t *len)
{
	struct virtq_used_elem elem = fake_wait_used(RX);
	uint16_t n_buffers;
	size_t total = 0;

	for (unsigned i = 0;; i++) {
		uint16_t d = elem.id;
		uint32_t left = elem.len;

		for (;;) {
			uint32_t piece = MIN(left, RX->desc[d].len);

			assert_true(total + piece <= NET_HDR_LEN + NET_MAX_PACKET);
			memcpy(packet + total, fake_ptr(&fm, RX->desc[d].addr), piece);
			total += piece;
			left -= piece;
			if (!(RX->desc[d].flags & VIRTQ_DESC_F_NEXT))
				break;
			d = RX->desc[d].next;
		}
		assert_int_equal(left, 0);
		memcpy(&n_buffers, packet + 10, 2);
		if (i + 1 >= n_buffers)
			break;
		assert_true(fake_used(RX, &elem)); /* all of a packet's buffers come at once */
	}
	*len = total;
	return n_buffers;
}

static unsigned expect_packet(size_t want_len, unsigned seed)
{
	static uint8_t packet[NET_HDR_LEN + NET_MAX_PACKET], want[NET_MAX_PACKET];
	size_t len;
	unsigned n = collect(packet, &len);

	assert_int_equal(len, NET_HDR_LEN + want_len);
	for (unsigned i = 0; i < 10; i++)
		assert_int_equal(packet[i], end.nd.vnet_hdr_len ? 1 : 0);
	fill(want, want_len, seed);
	assert_memory_equal(packet + NET_HDR_LEN, want, want_len);
	return n;
}

static void expect_nothing(struct fake_queue *fq)
{
	struct virtq_used_elem elem;

	fake_run(vd->loop, 20);
	assert_false(fake_used(fq, &elem));
}

#define MRG   BIT(VIRTIO_NET_F_MRG_RXBUF)
#define EVENT BIT(VIRTIO_F_EVENT_IDX)

/* What is told to watchers of memory is all there: how many buffers it are is in the first. */
static void told_buffer(uint64_t gpa, uint64_t size)
{
	static uint16_t left;

	if (!left)
		memcpy(&left, (uint8_t *)fake_ptr(&fm, gpa) + 10, sizeof(left));
	assert_int_not_equal(left, 0);
	left--;
}

static void test_rx_mergeable(void **state)
{
	static const size_t sizes[] = { 60, 1514, 9000, NET_MAX_PACKET, 14, 65000 };

	watched.told = told_buffer;
	for (unsigned h = 0; h < 2; h++) {
		plug(h, "");
		fm.m.mem.watcher = &watcher;
		watched.n = 0;
		fake_start(&fm, vd, MRG | EVENT);
		add_buffers(250, 1536, 1);
		for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++)
			end_give(sizes[i], i);
		for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++)
			assert_int_equal(expect_packet(sizes[i], i),
					 (sizes[i] + NET_HDR_LEN + 1535) / 1536);
		expect_nothing(RX);
		assert_int_equal(watched.n, 1 + 1 + 6 + 43 + 1 + 43);
		unplug();
	}
}

/* Headers and packets over buffers of awkward sizes and in pieces. */
static void test_rx_pieces(void **state)
{
	static const uint32_t sizes[] = { 12, 13, 14, 31, 100 };

	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
		for (unsigned parts = 1; parts <= 12; parts += 11) {
			plug(i & 1, "rx_queue_size=1024");
			fake_start(&fm, vd, MRG);
			add_buffers(1024 / parts, sizes[i], parts);
			end_give(200, 1);
			end_give(300, 2);
			expect_packet(200, 1);
			expect_packet(300, 2);
			unplug();
		}
	}
}

static void test_rx_plain(void **state)
{
	plug(true, "");
	fake_start(&fm, vd, 0);
	add_buffers(4, 1526, 2);
	end_give(1514, 1);
	end_give(1515, 2); /* does not fit, is dropped */
	end_give(60, 3);
	assert_int_equal(expect_packet(1514, 1), 1);
	assert_int_equal(expect_packet(60, 3), 1);
	unplug();
}

/* No buffers: the packet waits at the host's end, and nothing spins meanwhile. */
static void test_rx_no_buffers(void **state)
{
	unsigned recvs;

	plug(true, "");
	fake_start(&fm, vd, MRG | EVENT);
	end_give(1000, 1);
	fake_run(vd->loop, 20);
	recvs = end.recvs;
	assert_int_equal(end.in_n, 1);
	fake_run(vd->loop, 20);
	assert_int_equal(end.recvs, recvs);
	add_buffers(1, 1536, 1);
	expect_packet(1000, 1);
	end_give(999, 2);
	expect_nothing(RX);
	add_buffers(1, 1536, 1);
	expect_packet(999, 2);
	unplug();
}

/* A packet larger than the buffers there are waits for more, and is whole then. */
static void test_rx_spill(void **state)
{
	plug(true, "");
	fake_start(&fm, vd, MRG | EVENT);
	add_buffers(2, 1536, 1);
	end_give(10000, 1);
	end_give(100, 2);
	expect_nothing(RX);
	add_buffers(2, 1536, 1);
	expect_nothing(RX);
	add_buffers(10, 1536, 1);
	assert_int_equal(expect_packet(10000, 1), 7);
	assert_int_equal(expect_packet(100, 2), 1);
	unplug();
}

/* ... or is dropped when no more can come. */
static void test_rx_never_fits(void **state)
{
	plug(true, "");
	fake_start(&fm, vd, MRG);
	add_buffers(256, 64, 1);
	end_give(60000, 1);
	end_give(100, 2);
	assert_int_equal(expect_packet(100, 2), 2);
	unplug();
}

/* Buffers of more pieces than one readv() takes. */
static void test_rx_many_pieces(void **state)
{
	struct fake_piece pieces[64];
	uint64_t gpa;

	plug(true, "rx_queue_size=1024");
	fake_start(&fm, vd, MRG);
	gpa = fake_alloc(&fm, 64 * 1024 * 2);
	for (unsigned i = 0; i < 16; i++) {
		for (unsigned j = 0; j < 64; j++)
			pieces[j] = FAKE_IN(gpa + 2 * (i * 64 + j), 1);
		fake_add(RX, pieces, 64);
	}
	fake_kick(RX);
	end_give(1000, 1);
	end_give(10, 2);
	assert_int_equal(expect_packet(1000, 1), 16);
	unplug();
}

static void test_rx_interrupts(void **state)
{
	plug(true, "");
	fake_start(&fm, vd, MRG | EVENT);
	RX->avail->ring[RX->size] = 0; /* used_event: after the first */
	add_buffers(100, 1536, 1);
	for (unsigned i = 0; i < 50; i++)
		end_give(100, i);
	for (unsigned i = 0; i < 50; i++)
		expect_packet(100, i);
	assert_int_equal(fake_interrupts(NET_RX), 1);
	end_give(100, 50);
	expect_packet(100, 50);
	assert_int_equal(fake_interrupts(NET_RX), 1); /* not asked for */
	unplug();
}

static void send_packet(size_t len, unsigned seed, unsigned parts)
{
	uint8_t packet[2000] = {};
	struct fake_piece pieces[16];
	uint64_t gpa;
	const size_t total = NET_HDR_LEN + len, part = total / parts;

	memset(packet, 2, NET_HDR_LEN);
	fill(packet + NET_HDR_LEN, len, seed);
	gpa = fake_data(&fm, packet, total);
	for (unsigned i = 0; i < parts; i++)
		pieces[i] = FAKE_OUT(gpa + i * part, i + 1 < parts ? part : total - i * part);
	fake_add(TX, pieces, parts);
}

static void expect_sent(unsigned i, size_t len, unsigned seed)
{
	const size_t h = end.nd.vnet_hdr_len;
	uint8_t want[2000];

	assert_true(i < end.out_n);
	assert_int_equal(end.out[i].len, h + len);
	for (size_t j = 0; j < h; j++)
		assert_int_equal(end.out[i].data[j], 2);
	fill(want, len, seed);
	assert_memory_equal(end.out[i].data + h, want, len);
}

static void test_tx(void **state)
{
	for (unsigned h = 0; h < 2; h++) {
		plug(h, "");
		fake_start(&fm, vd, EVENT);
		send_packet(60, 1, 1);
		send_packet(1514, 2, 2);
		send_packet(100, 3, 16);
		fake_kick(TX);
		for (unsigned i = 0; i < 3; i++)
			fake_wait_used(TX);
		assert_int_equal(end.out_n, 3);
		assert_true(end.flushes > 0);
		expect_sent(0, 60, 1);
		expect_sent(1, 1514, 2);
		expect_sent(2, 100, 3);
		unplug();
	}
}

/* The host's end takes no more: what is taken off the queue waits, and order is kept. */
static void test_tx_full(void **state)
{
	plug(true, "");
	fake_start(&fm, vd, 0);
	end.takes = 2;
	for (unsigned i = 0; i < 5; i++)
		send_packet(100 + i, i, 2);
	fake_kick(TX);
	fake_wait_used(TX);
	fake_wait_used(TX);
	assert_int_equal(end.out_n, 2);
	end.takes = 100; /* the eventfd has been writable all the time */
	for (unsigned i = 2; i < 5; i++)
		fake_wait_used(TX);
	for (unsigned i = 0; i < 5; i++)
		expect_sent(i, 100 + i, i);
	unplug();
}

/* Notifications are off while packets come, and on again when they don't. */
static void test_tx_notifications(void **state)
{
	plug(true, "");
	fake_start(&fm, vd, 0);
	fake_run(vd->loop, 5);
	assert_int_equal(TX->used->flags, 0);
	end.takes = 1;
	send_packet(100, 1, 1);
	send_packet(100, 2, 1);
	fake_kick(TX);
	fake_wait_used(TX);
	assert_int_equal(TX->used->flags, VIRTQ_USED_F_NO_NOTIFY);
	end.takes = 100;
	fake_wait_used(TX);
	fake_run(vd->loop, 5);
	assert_int_equal(TX->used->flags, 0);
	unplug();
}

static void test_tx_odd(void **state)
{
	uint64_t gpa;

	plug(true, "");
	fake_start(&fm, vd, 0);
	gpa = fake_alloc(&fm, 100000);
	fake_add(TX, &FAKE_OUT(gpa, 100000), 1); /* too long */
	fake_add(TX, &FAKE_OUT(gpa, NET_HDR_LEN), 1);
	fake_kick(TX);
	fake_wait_used(TX);
	fake_wait_used(TX);
	assert_int_equal(end.out_n, 1);
	assert_false(fake_needs_reset(vd));
	unplug();
}

/* --- Link, pause, reset ---- */

static uint16_t link_status(void)
{
	uint16_t status;

	virtio_read_config(vd, 6, &status, 2);
	return status;
}

static void test_link(void **state)
{
	plug(true, "");
	fake_start(&fm, vd, MRG | BIT(VIRTIO_NET_F_STATUS));
	add_buffers(10, 1536, 1);
	fake_run(vd->loop, 5);
	assert_int_equal(link_status(), VIRTIO_NET_S_LINK_UP);
	end.gone = true;
	end_give(100, 1);
	fake_run(vd->loop, 20);
	assert_int_equal(link_status(), 0);
	assert_int_equal(fake_config_interrupts(), 1);
	send_packet(100, 1, 1);
	fake_kick(TX);
	fake_wait_used(TX); /* lost */
	end.gone = false;
	end.nd.changed(end.nd.changed_opaque, true);
	assert_int_equal(link_status(), VIRTIO_NET_S_LINK_UP);
	assert_int_equal(fake_config_interrupts(), 2);
	expect_packet(100, 1);
	unplug();
}

static void test_pause(void **state)
{
	plug(true, "");
	fake_start(&fm, vd, MRG);
	add_buffers(20, 1536, 1);
	end.takes = 0;
	send_packet(100, 7, 1);
	fake_kick(TX);
	fake_run(vd->loop, 5);
	machine_pause_devices(&fm.m);
	end_give(3000, 1);
	end.takes = 10;
	expect_nothing(RX);
	assert_int_equal(end.out_n, 0);
	machine_resume_devices(&fm.m);
	assert_int_equal(expect_packet(3000, 1), 2);
	fake_wait_used(TX);
	assert_int_equal(end.out_n, 1);
	expect_sent(0, 100, 7);
	unplug();
}

static void test_reset(void **state)
{
	plug(true, "");
	for (unsigned i = 0; i < 5; i++) {
		fake_start(&fm, vd, i & 1 ? MRG | EVENT : 0);
		add_buffers(20, 1536, 1);
		end.takes = 1;
		send_packet(100, 1, 1);
		send_packet(100, 2, 1);
		fake_kick(TX);
		end_give(500, i);
		expect_packet(500, i);
		fake_wait_used(TX);
		if (i == 3)
			machine_reset_devices(&fm.m);
	}
	fake_reset(vd);
	end_give(500, 9);
	fake_run(vd->loop, 10);
	assert_int_equal(end.in_n, 1);
	unplug();
}

/* --- Control queue ---- */

static uint8_t command(uint8_t class, uint8_t cmd, const void *data, size_t len)
{
	uint8_t out[1024] = { class, cmd };
	uint64_t gpa, answer = fake_data(&fm, "\xee", 1);

	if (len)
		memcpy(out + 2, data, len);
	gpa = fake_data(&fm, out, 2 + len);
	if (len)
		fake_add(CTRL,
			 (struct fake_piece[]){ FAKE_OUT(gpa, 2), FAKE_OUT(gpa + 2, len),
						FAKE_IN(answer, 1) },
			 3);
	else
		fake_add(CTRL, (struct fake_piece[]){ FAKE_OUT(gpa, 2), FAKE_IN(answer, 1) }, 2);
	fake_kick(CTRL);
	assert_int_equal(fake_wait_used(CTRL).len, 1);
	return *(uint8_t *)fake_ptr(&fm, answer);
}

#define CTRL_ALL                                                                               \
	(BIT(VIRTIO_NET_F_CTRL_VQ) | BIT(VIRTIO_NET_F_CTRL_RX) | BIT(VIRTIO_NET_F_CTRL_VLAN) | \
	 BIT(VIRTIO_NET_F_CTRL_RX_EXTRA) | BIT(VIRTIO_NET_F_CTRL_MAC_ADDR) |                   \
	 BIT(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS))

/* Gives the guest a packet to mac, tagged for a VLAN unless it is 0; does it arrive? */
static bool arrives(const char *mac, unsigned vlan)
{
	static const uint8_t marker[] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xaa };
	static uint8_t packet[NET_HDR_LEN + NET_MAX_PACKET];
	uint8_t *p;
	size_t len;
	bool arrived;

	end_give(64, 1);
	p = end.in[end.in_first + end.in_n - 1].data + end.nd.vnet_hdr_len;
	memcpy(p, mac, 6);
	p[12] = vlan ? 0x81 : 0x08;
	p[13] = 0;
	p[14] = vlan >> 8;
	p[15] = vlan;
	end_give(64, 1); /* a broadcast behind it always arrives */
	p = end.in[end.in_first + end.in_n - 1].data + end.nd.vnet_hdr_len;
	memcpy(p, marker, sizeof(marker));
	p[12] = 0x08;
	fake_kick(RX);
	collect(packet, &len);
	arrived = packet[NET_HDR_LEN + 6] != 0xaa;
	if (arrived)
		collect(packet, &len);
	assert_int_equal(packet[NET_HDR_LEN + 6], 0xaa);
	return arrived;
}

#define OWN   "\x52\x54\x00\x12\x34\x56"
#define OTHER "\x02\x00\x00\x00\x00\x01"
#define GROUP "\x01\x00\x5e\x00\x00\x01"

static void set_flag(uint8_t cmd, uint8_t on)
{
	assert_int_equal(command(0, cmd, &on, 1), 0);
}

static void test_filter(void **state)
{
	static const uint8_t table[] = { 1, 0, 0, 0, 2, 0, 0,    0, 0, 1,
					 1, 0, 0, 0, 1, 0, 0x5e, 0, 0, 1 };
	uint8_t many[4 + 65 * 6 + 4] = { 65 };
	uint16_t vlan = 5;

	plug(true, "");
	fake_start(&fm, vd, MRG | CTRL_ALL);
	add_buffers(255, 256, 1);
	assert_true(arrives(OTHER, 0)); /* promiscuous until told otherwise */
	set_flag(0, 0);
	assert_true(arrives(OWN, 0));
	assert_false(arrives(OTHER, 0));
	assert_false(arrives(GROUP, 0));
	set_flag(1, 1); /* ALLMULTI */
	assert_true(arrives(GROUP, 0));
	set_flag(3, 1); /* NOMULTI */
	assert_false(arrives(GROUP, 0));
	set_flag(3, 0);
	set_flag(1, 0);
	set_flag(2, 1); /* ALLUNI */
	assert_true(arrives(OTHER, 0));
	set_flag(2, 0);
	set_flag(4, 1); /* NOUNI */
	assert_false(arrives(OWN, 0));
	set_flag(4, 0);

	assert_int_equal(command(1, 0, table, sizeof(table)), 0);
	assert_true(arrives(OTHER, 0));
	assert_true(arrives(GROUP, 0));
	assert_int_equal(command(1, 0, many, sizeof(many)), 0); /* more than fit: all */
	assert_true(arrives(OTHER, 0));
	assert_false(arrives(GROUP, 0));
	assert_int_equal(command(1, 0, "\0\0\0\0\0\0\0\0", 8), 0);
	assert_false(arrives(OTHER, 0));

	assert_false(arrives(OWN, 5));
	assert_int_equal(command(2, 0, &vlan, 2), 0);
	assert_true(arrives(OWN, 5));
	assert_int_equal(command(2, 1, &vlan, 2), 0);
	assert_false(arrives(OWN, 5));

	assert_int_equal(command(1, 1, OTHER, 6), 0);
	assert_true(arrives(OTHER, 0));
	assert_false(arrives(OWN, 0));
	unplug();
}

static void test_ctrl_refused(void **state)
{
	static const uint32_t lie[] = { 0xffffffff, 0 };
	uint16_t vlan = 4096;
	uint64_t offloads = BIT(VIRTIO_NET_F_GUEST_TSO4);

	plug(true, "");
	fake_start(&fm, vd, CTRL_ALL | BIT(VIRTIO_NET_F_GUEST_CSUM));
	assert_int_equal(command(0, 0, NULL, 0), 1);
	assert_int_equal(command(0, 6, "\1", 1), 1);
	assert_int_equal(command(1, 0, lie, 8), 1);
	assert_int_equal(command(1, 0, lie, 3), 1);
	assert_int_equal(command(1, 1, "abc", 3), 1);
	assert_int_equal(command(2, 0, &vlan, 2), 1);
	assert_int_equal(command(3, 0, "\1", 1), 1);
	assert_int_equal(command(4, 0, "\1\0", 2), 1);
	assert_int_equal(command(5, 0, &offloads, 8), 1); /* was not negotiated */
	assert_int_equal(command(255, 255, "x", 1), 1);
	unplug();

	plug(true, "");
	fake_start(&fm, vd, BIT(VIRTIO_NET_F_CTRL_VQ));
	assert_int_equal(command(0, 0, "\1", 1), 1); /* without the feature */
	unplug();
}

static void test_offloads(void **state)
{
	uint64_t offloads = 0;

	plug(true, "");
	fake_start(&fm, vd,
		   CTRL_ALL | BIT(VIRTIO_NET_F_GUEST_CSUM) | BIT(VIRTIO_NET_F_GUEST_TSO4) |
			   BIT(VIRTIO_NET_F_GUEST_ECN));
	assert_int_equal(end.offloads, NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4 | NET_OFFLOAD_ECN);
	assert_int_equal(command(5, 0, &offloads, 8), 0);
	assert_int_equal(end.offloads, 0);
	fake_start(&fm, vd, BIT(VIRTIO_NET_F_GUEST_CSUM));
	assert_int_equal(end.offloads, NET_OFFLOAD_CSUM);
	unplug();
}

/* --- Hostile drivers ---- */

static void add_raw(struct fake_queue *fq, uint64_t addr, uint32_t len, uint16_t flags)
{
	const uint16_t head = fake_add(fq, &FAKE_OUT(0, 16), 1);

	fq->desc[head] = (struct virtq_desc){ addr, len, flags, head };
	fake_kick(fq);
	fake_run(vd->loop, 5);
}

static void test_hostile(void **state)
{
	static const struct {
		unsigned q;
		uint64_t addr;
		uint32_t len;
		uint16_t flags;
	} bad[] = {
		{ NET_RX, 0, 4096, 0 },                                      /* readable */
		{ NET_RX, 0, 11, VIRTQ_DESC_F_WRITE },                       /* no header */
		{ NET_RX, RAM - 1, 2, VIRTQ_DESC_F_WRITE },                  /* out of RAM */
		{ NET_RX, UINT64_MAX - 10, 4096, VIRTQ_DESC_F_WRITE },       /* overflow */
		{ NET_RX, 0, 4096, VIRTQ_DESC_F_WRITE | VIRTQ_DESC_F_NEXT }, /* loop */
		{ NET_TX, 0, 11, 0 },                                        /* no header */
		{ NET_TX, 0, 4096, VIRTQ_DESC_F_WRITE },                     /* writable */
		{ NET_TX, RAM, 100, 0 },                                     /* out of RAM */
		{ NET_TX, 0, 4096, VIRTQ_DESC_F_NEXT },                      /* loop */
		{ NET_TX, 0, 17, VIRTQ_DESC_F_INDIRECT },                    /* odd table */
		{ NET_CTRL, 0, 2, 0 },                                       /* no answer */
		{ NET_CTRL, RAM, 2, 0 },                                     /* out of RAM */
	};

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		plug(true, "");
		fake_start(&fm, vd, MRG | CTRL_ALL | EVENT);
		add_buffers(3, 1536, 1);
		end_give(100, 1);
		add_raw(&fm.queues[bad[i].q], bad[i].addr, bad[i].len, bad[i].flags);
		end_give(60000, 1); /* has it look at all buffers */
		fake_run(vd->loop, 10);
		if (!fake_needs_reset(vd))
			fail_msg("case %u: the device goes on", i);
		assert_int_equal(fake_config_interrupts(), 1);
		fake_start(&fm, vd, MRG);
		add_buffers(100, 1536, 1);
		while (end.in_n)
			fake_run(vd->loop, 5);
		unplug();
	}
}

static void test_hostile_index(void **state)
{
	for (unsigned q = 0; q < 3; q++) {
		plug(true, "");
		fake_start(&fm, vd, MRG | CTRL_ALL);
		fm.queues[q].avail->idx = 20000;
		fake_kick(&fm.queues[q]);
		end_give(100, 1);
		fake_run(vd->loop, 20);
		assert_true(fake_needs_reset(vd));
		unplug();
	}
}

/* Noise in rings and descriptors, resets in between: nothing but log lines. */
static void test_noise(void **state)
{
	uint64_t x = 88172645463325252ull;

	plug(true, "");
	for (unsigned i = 0; i < 3000; i++) {
		struct fake_queue *fq;

		if (i % 10 == 0) {
			fm.allocated = 0;
			fake_start(&fm, vd, (i & 16 ? MRG : 0) | CTRL_ALL | (i & 32 ? EVENT : 0));
			if (i & 64)
				add_buffers(50, 1536, 3);
		}
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		fq = &fm.queues[x % 3];
		fq->desc[(x >> 8) % 8] =
			(struct virtq_desc){ x >> 16 & 1 ? x >> 32 : (x >> 20) % RAM,
					     x >> 17 & 1 ? x >> 40 : (x >> 24) % 3000,
					     (x >> 33) % 8, (x >> 36) % 8 };
		fq->avail->ring[fq->avail_idx % fq->size] = x >> 40 & 1 ? x >> 48 : (x >> 44) % 8;
		fq->avail_idx += x >> 60 ? 1 : 5;
		fq->avail->idx = fq->avail_idx;
		if (end.in_n < 3 && end.in_first < MAX_PACKETS - 5)
			end_give((x >> 12) % 30000, i);
		if (end.out_n > MAX_PACKETS / 2)
			end.takes = 0;
		fake_kick(fq);
		vd->ops->notify(vd, NET_RX);
		if (vd->running)
			vd->ops->notify(vd, fq->q);
	}
	unplug();
}

/* --- Making it ---- */

static void refuse(const char *props, const char *part)
{
	struct error *err = NULL;
	char text[200];

	fake_machine_init(&fm, RAM);
	end_init(true);
	backends_add(fm.m.backends, BACKEND_NET, "end", &end.nd, NULL);
	snprintf(text, sizeof(text), "netdev=end,%s", props);
	assert_null(fake_device(&fm, &virtio_net_pci_class, text, &err));
	if (!strstr(error_message(err), part))
		fail_msg("'%s' does not speak of '%s'", error_message(err), part);
	error_free(err);
	unplug();
}

static void test_refused(void **state)
{
	refuse("mq=on", "mq=on");
	refuse("tx=timer", "tx=timer");
	refuse("romfile=x.rom", "romfile=x.rom");
	refuse("host_mtu=10", "host_mtu=10");
	refuse("rx_queue_size=300", "300");
	refuse("rx_queue_size=2048", "2048");
	refuse("netdev=none", "'none'");
	refuse("addr=99", "addr");
	refuse("packed=on", "packed=on");
}

static void expect_mac(struct device *d, uint8_t last)
{
	uint8_t mac[6];

	virtio_read_config(fake_vd(d), 0, mac, 6);
	assert_int_equal(mac[0], 0x52);
	assert_int_equal(mac[5], last);
}

static void test_config(void **state)
{
	struct error *err = NULL;
	uint8_t c[17];

	plug(true, "host_mtu=9000,speed=10000,duplex=full");
	assert_int_equal(vd->config_size, 17);
	virtio_read_config(vd, 0, c, 17);
	assert_int_equal(c[10] | c[11] << 8, 9000);
	assert_int_equal(c[12] | c[13] << 8, 10000);
	assert_int_equal(c[16], 1);
	/* its end is taken; others have none, and count on */
	assert_null(fake_device(&fm, &virtio_net_pci_class, "netdev=end", &err));
	assert_non_null(strstr(error_message(err), "already used"));
	error_free(err);
	expect_mac(fm.m.devices, 0x56);
	expect_mac(fake_device(&fm, &virtio_net_pci_class, "id=a", NULL), 0x57);
	expect_mac(fake_device(&fm, &virtio_net_pci_class, "mac=52:54:00:12:34:58", NULL), 0x58);
	expect_mac(fake_device(&fm, &virtio_net_pci_class, "id=b", NULL), 0x59);
	unplug();

	plug(false, "ctrl_vq=off,status=off");
	assert_int_equal(vd->n_queues, 2);
	assert_int_equal(vd->host_features & 0xffffff,
			 BIT(VIRTIO_NET_F_MAC) | BIT(VIRTIO_NET_F_MRG_RXBUF));
	unplug();
}

/* --- Real ends, on threads of their own ---- */

static bool wait_threaded(struct fake_queue *fq, struct virtq_used_elem *elem)
{
	for (unsigned i = 0; i < 50000; i++) {
		if (fake_used(fq, elem))
			return true;
		usleep(100);
	}
	return false;
}

/* A stream whose other end echoes, while this thread drives the rings: order and content. */
static void test_stream_threaded(void **state)
{
	const struct netdev_class *class = netdev_classes()[0];
	const struct prop *const tables[] = { class->props, NULL };
	uint64_t gpa[32];
	int ends[2];
	char text[64];
	struct props *props;
	struct netdev *nd;
	unsigned echoed = 0;

	fake_machine_init(&fm, RAM);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
	snprintf(text, sizeof(text), "addr.type=fd,addr.str=%d", ends[0]);
	props = props_parse(text, NULL, tables, NULL);
	assert_int_equal(class->open("s", props, fm.m.main_loop, &nd, NULL), 0);
	props_free(props);
	backends_add(fm.m.backends, BACKEND_NET, "s", nd, NULL);
	vd = fake_vd(fake_device(&fm, &virtio_net_pci_class, "netdev=s", NULL));
	assert_int_equal(iothread_start_all(NULL), 0);
	fake_start(&fm, vd, MRG | EVENT);
	add_buffers(256, 1536, 1);
	for (unsigned i = 0; i < 32; i++)
		gpa[i] = fake_alloc(&fm, 4096);

	for (unsigned i = 0; i < 2000; i++) {
		const size_t len = 60 + i * 37 % 3900;
		struct virtq_used_elem elem;
		uint8_t buf[4096];
		size_t got = 0;

		fill((uint8_t *)fake_ptr(&fm, gpa[i % 32]) + NET_HDR_LEN, len, i);
		fake_add(TX, &FAKE_OUT(gpa[i % 32], NET_HDR_LEN + len), 1);
		fake_kick(TX);
		assert_true(wait_threaded(TX, &elem));
		while (got < 4 + len) {
			ssize_t n = recv(ends[1], buf + got, 4 + len - got, 0);

			assert_true(n > 0);
			got += n;
		}
		assert_int_equal(send(ends[1], buf, got, 0), got);
		/* takes its buffers back and gives them anew */
		for (size_t total = 0; total < NET_HDR_LEN + len;) {
			assert_true(wait_threaded(RX, &elem));
			total += elem.len;
			RX->avail->ring[RX->avail_idx++ % RX->size] = elem.id;
			__atomic_store_n(&RX->avail->idx, RX->avail_idx, __ATOMIC_RELEASE);
			fake_kick(RX);
			echoed++;
		}
	}
	assert_true(echoed >= 2000);
	close(ends[1]);
	for (unsigned i = 0; i < 5000 && link_status(); i++)
		usleep(1000);
	assert_int_equal(link_status(), 0);
	machine_destroy_devices(&fm.m);
	nd->ops->close(nd);
	fake_machine_destroy(&fm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rx_mergeable),
		cmocka_unit_test(test_rx_pieces),
		cmocka_unit_test(test_rx_plain),
		cmocka_unit_test(test_rx_no_buffers),
		cmocka_unit_test(test_rx_spill),
		cmocka_unit_test(test_rx_never_fits),
		cmocka_unit_test(test_rx_many_pieces),
		cmocka_unit_test(test_rx_interrupts),
		cmocka_unit_test(test_tx),
		cmocka_unit_test(test_tx_full),
		cmocka_unit_test(test_tx_notifications),
		cmocka_unit_test(test_tx_odd),
		cmocka_unit_test(test_link),
		cmocka_unit_test(test_pause),
		cmocka_unit_test(test_reset),
		cmocka_unit_test(test_filter),
		cmocka_unit_test(test_ctrl_refused),
		cmocka_unit_test(test_offloads),
		cmocka_unit_test(test_hostile),
		cmocka_unit_test(test_hostile_index),
		cmocka_unit_test(test_noise),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_config),
		cmocka_unit_test(test_stream_threaded),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
