/*
 * Network ends: streams cut at every byte and from peers that lie, a tap and passt in a network
 * namespace of the test's own, and what each kind refuses.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/loop.h"
#include "base/util.h"
#include "net/net.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netpacket/packet.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#define ETH_TYPE_TEST 0x88b5 /* IEEE: for local experiments */

static struct loop *loop;

static const struct netdev_class *class_of(const char *name)
{
	for (const struct netdev_class *const *c = netdev_classes(); *c; c++)
		if (strcmp((*c)->name, name) == 0)
			return *c;
	fail_msg("no class %s", name);
	return NULL;
}

static struct netdev *try_open(const char *kind, const char *text, struct error **err)
{
	const struct netdev_class *class = class_of(kind);
	const struct prop *const tables[] = { class->props, NULL };
	struct props *props = props_parse(text, NULL, tables, err);
	struct netdev *nd = NULL;

	if (props && class->open("n0", props, loop, &nd, err) < 0)
		nd = NULL;
	props_free(props);
	return nd;
}

static struct netdev *open_netdev(const char *kind, const char *text)
{
	struct error *err = NULL;
	struct netdev *nd = try_open(kind, text, &err);

	if (!nd)
		fail_msg("%s", error_message(err));
	return nd;
}

static void refuse(const char *kind, const char *text, const char *part)
{
	struct error *err = NULL;

	assert_null(try_open(kind, text, &err));
	if (!strstr(error_message(err), part))
		fail_msg("'%s' does not speak of '%s'", error_message(err), part);
	error_free(err);
}

/* --- Streams ---- */

struct stream_test {
	struct netdev *nd;
	int peer;
	int changes;
	bool up;
};

static void on_changed(void *opaque, bool up)
{
	struct stream_test *t = opaque;

	t->changes++;
	t->up = up;
}

static void attach(struct stream_test *t)
{
	t->nd->loop = loop;
	t->nd->changed = on_changed;
	t->nd->changed_opaque = t;
}

static void open_stream(struct stream_test *t)
{
	char text[64];
	int ends[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
	*t = (struct stream_test){ .peer = ends[1] };
	snprintf(text, sizeof(text), "addr.type=fd,addr.str=%d", ends[0]);
	t->nd = open_netdev("stream", text);
	attach(t);
}

static void close_stream(struct stream_test *t)
{
	t->nd->ops->close(t->nd);
	if (t->peer >= 0)
		close(t->peer);
}

static void fill(uint8_t *p, size_t len, unsigned seed)
{
	for (size_t i = 0; i < len; i++)
		p[i] = seed * 131 + i * 7 + (i >> 8);
}

/* A frame as it travels; returns its size. */
static size_t frame(uint8_t *buf, size_t len, unsigned seed)
{
	const uint32_t be = htonl(len);

	memcpy(buf, &be, 4);
	fill(buf + 4, len, seed);
	return len + 4;
}

static void expect_packet(struct netdev *nd, size_t len, unsigned seed)
{
	static uint8_t got[NET_MAX_PACKET], want[NET_MAX_PACKET];
	struct iovec iov[] = { { got, 5 }, { got + 5, 100 }, { got + 105, sizeof(got) - 105 } };

	assert_int_equal(nd->ops->recv(nd, iov, 3), len);
	fill(want, len, seed);
	assert_memory_equal(got, want, len);
}

static ssize_t recv_any(struct netdev *nd)
{
	static uint8_t buf[NET_MAX_PACKET];

	return nd->ops->recv(nd, &(struct iovec){ buf, sizeof(buf) }, 1);
}

static void write_all(int fd, const uint8_t *p, size_t len)
{
	assert_int_equal(send(fd, p, len, MSG_NOSIGNAL), len);
}

static void test_stream_recv_bytewise(void **state)
{
	struct stream_test t;
	uint8_t buf[512];
	size_t len = frame(buf, 60, 1);

	len += frame(buf + len, 1, 2);
	len += frame(buf + len, 99, 3);
	open_stream(&t);
	assert_int_equal(recv_any(t.nd), -EAGAIN);
	for (size_t i = 0; i < len; i++) {
		write_all(t.peer, &buf[i], 1);
		if (i + 1 == 64)
			expect_packet(t.nd, 60, 1);
		else if (i + 1 == 69)
			expect_packet(t.nd, 1, 2);
		else if (i + 1 == len)
			expect_packet(t.nd, 99, 3);
		else
			assert_int_equal(recv_any(t.nd), -EAGAIN);
	}
	close_stream(&t);
}

/* Many packets of all sizes in arbitrary pieces, through a buffer that has to be moved up. */
static void test_stream_recv_many(void **state)
{
	static const size_t sizes[] = { 60, NET_MAX_PACKET, 1, 1514, 40000, 65000, 14 };
	static uint8_t buf[NET_MAX_PACKET + 4];
	struct stream_test t;
	unsigned rng = 12345;

	open_stream(&t);
	for (unsigned i = 0; i < 200; i++) {
		const size_t size = sizes[i % ARRAY_SIZE(sizes)], len = frame(buf, size, i);
		size_t sent = 0;

		while (sent < len) {
			size_t piece;

			rng = rng * 1103515245 + 12345;
			piece = MIN(len - sent, 1 + (rng >> 8) % 50000);
			write_all(t.peer, buf + sent, piece);
			sent += piece;
			if (sent < len)
				assert_int_equal(recv_any(t.nd), -EAGAIN);
		}
		expect_packet(t.nd, size, i);
	}
	close_stream(&t);
}

static void test_stream_recv_batch(void **state)
{
	struct stream_test t;
	uint8_t buf[4096];
	size_t len = 0;

	for (unsigned i = 0; i < 20; i++)
		len += frame(buf + len, 100 + i, i);
	open_stream(&t);
	write_all(t.peer, buf, len);
	for (unsigned i = 0; i < 20; i++)
		expect_packet(t.nd, 100 + i, i);
	assert_int_equal(recv_any(t.nd), -EAGAIN);
	close_stream(&t);
}

static void test_stream_recv_cut(void **state)
{
	struct stream_test t;
	uint8_t buf[200], small[10];
	size_t len = frame(buf, 50, 1);

	len += frame(buf + len, 20, 2);
	open_stream(&t);
	write_all(t.peer, buf, len);
	assert_int_equal(t.nd->ops->recv(t.nd, &(struct iovec){ small, sizeof(small) }, 1), 10);
	expect_packet(t.nd, 20, 2);
	close_stream(&t);
}

static void test_stream_hostile_length(void **state)
{
	static const uint32_t lengths[] = { 0, NET_MAX_PACKET + 1, 0x7fffffff, 0xffffffff };

	for (unsigned i = 0; i < ARRAY_SIZE(lengths); i++) {
		struct stream_test t;
		const uint32_t be = htonl(lengths[i]);

		open_stream(&t);
		write_all(t.peer, (const uint8_t *)&be, 4);
		assert_int_equal(recv_any(t.nd), -EPIPE);
		assert_int_equal(t.changes, 1);
		assert_false(t.up);
		assert_int_equal(t.nd->fd, -1);
		assert_int_equal(recv_any(t.nd), -EPIPE);
		close_stream(&t);
	}
}

static void test_stream_peer_gone(void **state)
{
	struct stream_test t;
	uint8_t buf[100];
	struct iovec iov = { buf, sizeof(buf) };

	open_stream(&t);
	write_all(t.peer, buf, frame(buf, 50, 1) - 1); /* a packet that never ends */
	close(t.peer);
	t.peer = -1;
	assert_int_equal(recv_any(t.nd), -EPIPE);
	assert_int_equal(t.changes, 1);
	assert_int_equal(t.nd->ops->send(t.nd, &iov, 1), -EPIPE);
	close_stream(&t);

	open_stream(&t);
	close(t.peer);
	t.peer = -1;
	assert_int_equal(t.nd->ops->send(t.nd, &iov, 1), sizeof(buf)); /* held back */
	assert_int_equal(t.nd->ops->flush(t.nd), -EPIPE);
	assert_int_equal(t.changes, 1);
	close_stream(&t);
}

/* Reads frames on the peer's side and compares them; false when there is none now. */
struct reader {
	uint8_t buf[2 * NET_MAX_PACKET];
	size_t have;
};

static bool read_frame(struct reader *r, int fd, size_t *len, uint8_t *packet)
{
	for (;;) {
		uint32_t be;
		ssize_t n;

		memcpy(&be, r->buf, 4);
		*len = ntohl(be);
		if (r->have >= 4 && r->have - 4 >= *len) {
			memcpy(packet, r->buf + 4, *len);
			r->have -= 4 + *len;
			memmove(r->buf, r->buf + 4 + *len, r->have);
			return true;
		}
		n = recv(fd, r->buf + r->have, MIN(777, sizeof(r->buf) - r->have), MSG_DONTWAIT);
		if (n <= 0)
			return false;
		r->have += n;
	}
}

static bool peer_expects(struct reader *r, int fd, size_t want_len, unsigned seed)
{
	static uint8_t packet[NET_MAX_PACKET], want[NET_MAX_PACKET];
	size_t len;

	if (!read_frame(r, fd, &len, packet))
		return false;
	assert_int_equal(len, want_len);
	fill(want, len, seed);
	assert_memory_equal(packet, want, len);
	return true;
}

/* A sender faster than the peer: nothing is lost, nothing is torn. */
static void test_stream_send_full(void **state)
{
	static const size_t sizes[] = { 60, NET_MAX_PACKET, 2048, 2049, 14, 30000, 1500 };
	static uint8_t packet[NET_MAX_PACKET];
	static struct reader r;
	struct stream_test t;
	unsigned sent = 0, received = 0, refused = 0;

	open_stream(&t);
	while (received < 400) {
		while (sent < 400) {
			const size_t size = sizes[sent % ARRAY_SIZE(sizes)];
			struct iovec iov[] = { { packet, 3 }, { packet + 3, size - 3 } };
			ssize_t result;

			fill(packet, size, sent);
			result = t.nd->ops->send(t.nd, iov, 2);
			memset(packet, 0, size); /* ours again, whatever is on its way */
			if (result == -EAGAIN) {
				refused++;
				break;
			}
			assert_int_equal(result, size);
			sent++;
		}
		for (unsigned i = 0; i < 3; i++)
			if (received < sent &&
			    peer_expects(&r, t.peer, sizes[received % ARRAY_SIZE(sizes)], received))
				received++;
		assert_true(t.nd->ops->flush(t.nd) == 0 || t.nd->ops->flush(t.nd) == -EAGAIN);
	}
	assert_true(refused > 0);
	assert_int_equal(t.nd->ops->flush(t.nd), 0);
	close_stream(&t);
}

static void test_stream_send_pieces(void **state)
{
	static uint8_t packet[1024];
	static struct reader r;
	struct iovec iov[1024];
	struct stream_test t;

	fill(packet, sizeof(packet), 9);
	for (unsigned i = 0; i < ARRAY_SIZE(iov); i++)
		iov[i] = (struct iovec){ packet + i, 1 };
	open_stream(&t);
	assert_int_equal(t.nd->ops->send(t.nd, iov, 1024), 1024);
	assert_int_equal(t.nd->ops->flush(t.nd), 0);
	assert_true(peer_expects(&r, t.peer, 1024, 9));
	assert_int_equal(t.nd->ops->send(t.nd, iov, 0), -EMSGSIZE);
	close_stream(&t);
}

struct until {
	const struct stream_test *t;
	int changes;
	struct loop_timer *timer;
	uint64_t end;
};

static void tick(void *opaque)
{
	struct until *u = opaque;

	if (u->t->changes >= u->changes || now_ns() > u->end)
		loop_stop(loop);
	else
		loop_timer_set(u->timer, now_ns() + 1000000);
}

static void wait_changes(const struct stream_test *t, int changes)
{
	struct until u = { t, changes, NULL, now_ns() + UINT64_C(3000000000) };

	u.timer = loop_timer_new(loop, tick, &u);
	loop_timer_set(u.timer, 0);
	loop_run(loop);
	loop_timer_free(u.timer);
	assert_int_equal(t->changes, changes);
}

static int connect_unix(const char *path)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(un.sun_path, path);
	assert_int_equal(connect(fd, (struct sockaddr *)&un, sizeof(un)), 0);
	return fd;
}

static void test_stream_server(void **state)
{
	struct stream_test t = { .peer = -1 };
	char path[] = "/tmp/revirt-test-XXXXXX/s", text[128];
	uint8_t buf[200];
	size_t len;

	*strrchr(path, '/') = '\0';
	assert_non_null(mkdtemp(path));
	path[strlen(path)] = '/';
	snprintf(text, sizeof(text), "server=on,addr.type=unix,addr.path=%s", path);
	t.nd = open_netdev("stream", text);
	attach(&t);
	assert_int_equal(t.nd->fd, -1);
	assert_int_equal(recv_any(t.nd), -EPIPE);
	for (unsigned round = 0; round < 3; round++) {
		int peer = connect_unix(path), other;

		wait_changes(&t, 1);
		assert_true(t.up);
		other = connect_unix(path); /* waits in the backlog, and goes */
		close(other);
		len = frame(buf, 80, round);
		write_all(peer, buf, len - 3);
		assert_int_equal(recv_any(t.nd), -EAGAIN);
		write_all(peer, buf + len - 3, 3);
		expect_packet(t.nd, 80, round);
		write_all(peer, buf, 10); /* must not be seen by the next one */
		assert_int_equal(recv_any(t.nd), -EAGAIN);
		close(peer);
		assert_int_equal(recv_any(t.nd), -EPIPE);
		assert_int_equal(t.changes, 2);
		assert_false(t.up);
		/* the other is accepted now, and found to be gone */
		wait_changes(&t, 3);
		assert_int_equal(recv_any(t.nd), -EPIPE);
		t.changes = 0;
	}
	refuse("stream", text, "in use");
	close_stream(&t);
	unlink(path);
	*strrchr(path, '/') = '\0';
	rmdir(path);
}

static void test_stream_refused(void **state)
{
	char text[300];

	refuse("stream", "server=on", "addr.type");
	refuse("stream", "addr.type=unix", "addr.path");
	refuse("stream", "addr.type=unix,addr.path=/x,addr.port=1", "addr.port");
	refuse("stream", "addr.type=unix,addr.path=/nonexistent/x", "/nonexistent/x");
	refuse("stream", "addr.type=unix,addr.path=", "empty");
	snprintf(text, sizeof(text), "addr.type=unix,addr.path=/%0200d", 1);
	refuse("stream", text, "too long");
	refuse("stream", "addr.type=inet,addr.host=127.0.0.1", "addr.port");
	refuse("stream", "addr.type=inet,addr.host=127.0.0.1,addr.port=nosuchport", "nosuchport");
	refuse("stream", "addr.type=fd,addr.str=999", "999");
	refuse("stream", "addr.type=fd,addr.str=x", "x");
	refuse("stream", "addr.type=vsock", "vsock");
	refuse("stream", "addr.type=unix,addr.path=/x,reconnect=1", "reconnect");
}

/* --- tap ---- */

static int control_socket(void)
{
	return socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
}

static void set_up(const char *ifname)
{
	struct ifreq ifr = { .ifr_flags = IFF_UP };
	int fd = control_socket();

	strcpy(ifr.ifr_name, ifname);
	assert_int_equal(ioctl(fd, SIOCSIFFLAGS, &ifr), 0);
	close(fd);
}

/* The host's side of a tap, for one type of packet. */
static int packet_socket(const char *ifname)
{
	struct sockaddr_ll ll = { .sll_family = AF_PACKET,
				  .sll_protocol = htons(ETH_TYPE_TEST),
				  .sll_ifindex = if_nametoindex(ifname) };
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETH_TYPE_TEST));

	assert_int_equal(bind(fd, (struct sockaddr *)&ll, sizeof(ll)), 0);
	return fd;
}

static void make_packet(uint8_t *p, size_t len)
{
	static const uint8_t head[] = { 0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2, 0x88, 0xb5 };

	fill(p, len, 5);
	memcpy(p, head, sizeof(head));
}

/* Skips what the kernel sends of its own accord. */
static ssize_t recv_test_packet(struct netdev *nd, uint8_t *buf, size_t size)
{
	const size_t type = nd->vnet_hdr_len + 12;

	for (unsigned i = 0; i < 100; i++) {
		struct pollfd p = { .fd = nd->fd, .events = POLLIN };
		ssize_t n = nd->ops->recv(nd, &(struct iovec){ buf, size }, 1);

		if (n > 0 && buf[type] == 0x88 && buf[type + 1] == 0xb5)
			return n;
		if (n == -EAGAIN)
			assert_true(poll(&p, 1, 2000) > 0);
	}
	return -1;
}

static void check_traffic(struct netdev *nd, const char *ifname)
{
	uint8_t packet[600], got[2000], hdr[12] = {};
	const size_t h = nd->vnet_hdr_len;
	struct iovec iov[] = { { hdr, h }, { packet, 100 }, { packet + 100, 500 } };
	int fd = packet_socket(ifname);

	make_packet(packet, sizeof(packet));
	assert_int_equal(nd->ops->send(nd, iov, 3), h + sizeof(packet));
	assert_int_equal(recv(fd, got, sizeof(got), 0), sizeof(packet));
	assert_memory_equal(got, packet, sizeof(packet));

	assert_int_equal(send(fd, packet, sizeof(packet), 0), sizeof(packet));
	assert_int_equal(recv_test_packet(nd, got, sizeof(got)), h + sizeof(packet));
	assert_memory_equal(got + h, packet, sizeof(packet));

	/* what the kernel refuses is lost, and no more */
	assert_true(nd->ops->send(nd, &(struct iovec){ packet, 5 }, 1) < 0);
	close(fd);
}

static void test_tap(void **state)
{
	struct netdev *nd = open_netdev("tap", "ifname=tt0,script=no,downscript=no");

	assert_true(nd->vnet_hdr);
	assert_int_equal(nd->vnet_hdr_len, 12);
	assert_int_equal(nd->offloads & (NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4 | NET_OFFLOAD_TSO6),
			 NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4 | NET_OFFLOAD_TSO6);
	set_up("tt0");
	nd->ops->set_offloads(nd, NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4);
	check_traffic(nd, "tt0");
	refuse("tap", "ifname=tt0,script=no", "in use");
	nd->ops->close(nd);
	assert_int_equal(if_nametoindex("tt0"), 0);

	nd = open_netdev("tap", "ifname=tt1,script=no,downscript=no,vnet_hdr=off,sndbuf=100000");
	assert_false(nd->vnet_hdr);
	assert_int_equal(nd->offloads, 0);
	set_up("tt1");
	check_traffic(nd, "tt1");
	nd->ops->close(nd);
}

static void test_tap_fd(void **state)
{
	struct netdev *nd = open_netdev("tap", "script=no,downscript=no"), *second;
	char text[32];
	int fd = dup(nd->fd), pipe_fds[2];

	nd->ops->close(nd);
	snprintf(text, sizeof(text), "fd=%d", fd);
	second = open_netdev("tap", text);
	assert_true(second->vnet_hdr);
	assert_int_equal(second->fd, fd);
	set_up("tap0");
	check_traffic(second, "tap0");
	second->ops->close(second);

	assert_int_equal(pipe(pipe_fds), 0);
	snprintf(text, sizeof(text), "fd=%d", pipe_fds[0]);
	refuse("tap", text, "not a tap");
	close(pipe_fds[0]);
	close(pipe_fds[1]);
}

static void write_script(const char *path, const char *text)
{
	FILE *f = fopen(path, "we");

	assert_non_null(f);
	fputs(text, f);
	fclose(f);
	chmod(path, 0755);
}

static void expect_file(const char *path, const char *want)
{
	char text[64] = "";
	FILE *f = fopen(path, "re");

	assert_non_null(f);
	assert_non_null(fgets(text, sizeof(text), f));
	fclose(f);
	assert_string_equal(text, want);
}

static void test_tap_scripts(void **state)
{
	char dir[] = "/tmp/revirt-test-XXXXXX", up[64], down[64], text[200], script[200], log[64];
	struct netdev *nd;
	struct error *err = NULL;

	assert_non_null(mkdtemp(dir));
	snprintf(up, sizeof(up), "%s/up", dir);
	snprintf(down, sizeof(down), "%s/down", dir);
	snprintf(log, sizeof(log), "%s/log", dir);
	snprintf(script, sizeof(script), "#!/bin/sh\necho up $1 >%s\n", log);
	write_script(up, script);
	/* the interface is still there */
	snprintf(script, sizeof(script),
		 "#!/bin/sh\ntest -d /proc/sys/net/ipv4/conf/$1 && echo down $1 >%s\n", log);
	write_script(down, script);
	snprintf(text, sizeof(text), "ifname=tt2,script=%s,downscript=%s", up, down);
	nd = open_netdev("tap", text);
	expect_file(log, "up tt2\n");
	nd->ops->close(nd);
	expect_file(log, "down tt2\n");

	write_script(up, "#!/bin/sh\nexit 3\n");
	assert_null(try_open("tap", text, &err));
	assert_non_null(strstr(error_message(err), "exit status 3"));
	error_free(err);
	snprintf(text, sizeof(text), "script=%s/none,downscript=no", dir);
	refuse("tap", text, "/none'");
	unlink(up);
	unlink(down);
	unlink(log);
	rmdir(dir);
}

static void test_tap_gone(void **state)
{
	struct netdev *nd = open_netdev("tap", "ifname=tt3,script=no,downscript=no");
	uint8_t buf[100] = {};

	set_up("tt3");
	assert_int_equal(system("ip link delete tt3"), 0);
	assert_int_equal(recv_any(nd), -EPIPE);
	assert_true(nd->ops->send(nd, &(struct iovec){ buf, sizeof(buf) }, 1) < 0);
	nd->ops->close(nd);
}

static void test_tap_refused(void **state)
{
	refuse("tap", "script=no,vhost=on", "vhost=on");
	refuse("tap", "script=no,queues=2", "queues=2");
	refuse("tap", "fds=3:4", "fds=");
	refuse("tap", "br=br0", "br=");
	refuse("tap", "helper=/x", "helper=");
	refuse("tap", "fd=0,ifname=x", "ifname=");
	refuse("tap", "ifname=a-name-that-is-too-long,script=no", "longer than 15");
	refuse("tap", "ifname=lo,script=no", "'lo'");
	refuse("tap", "fd=0,vhostfd=3", "vhostfd");
}

/* --- user ---- */

#define DHCP_LEN (14 + 20 + 8 + 300)

static void put16(uint8_t *p, unsigned value)
{
	p[0] = value >> 8;
	p[1] = value;
}

static void make_discover(uint8_t *p)
{
	static const uint8_t mac[] = { 0x52, 0x54, 0, 0x12, 0x34, 0x56 };
	static const uint8_t options[] = { 99, 130, 83, 99, 53, 1, 1, 55, 3, 1, 3, 6, 255 };
	uint32_t sum = 0;

	memset(p, 0, DHCP_LEN);
	memset(p, 0xff, 6);
	memcpy(p + 6, mac, 6);
	put16(p + 12, 0x0800);
	p[14] = 0x45;
	put16(p + 16, DHCP_LEN - 14);
	p[22] = 64;
	p[23] = 17;
	memset(p + 30, 0xff, 4);
	for (unsigned i = 14; i < 34; i += 2)
		sum += p[i] << 8 | p[i + 1];
	put16(p + 24, ~((sum & 0xffff) + (sum >> 16)));
	put16(p + 34, 68);
	put16(p + 36, 67);
	put16(p + 38, DHCP_LEN - 34);
	p[42] = p[43] = 1;
	p[44] = 6;
	memcpy(p + 70, mac, 6);
	memcpy(p + 278, options, sizeof(options));
}

/* The value of a DHCP option in an offer. */
static const uint8_t *dhcp_option(const uint8_t *p, size_t len, uint8_t option)
{
	for (size_t i = 282; i + 2 < len && p[i] != 255; i += 2 + p[i + 1])
		if (p[i] == option)
			return p + i + 2;
	return NULL;
}

static void expect_offer(struct netdev *nd, const char *guest, const char *gateway)
{
	uint8_t packet[NET_MAX_PACKET];
	uint32_t address;

	make_discover(packet);
	assert_int_equal(nd->ops->send(nd, &(struct iovec){ packet, DHCP_LEN }, 1), DHCP_LEN);
	assert_int_equal(nd->ops->flush(nd), 0);
	for (;;) {
		struct pollfd p = { .fd = nd->fd, .events = POLLIN };
		ssize_t n = nd->ops->recv(nd, &(struct iovec){ packet, sizeof(packet) }, 1);

		if (n == -EAGAIN) {
			assert_true(poll(&p, 1, 5000) > 0);
			continue;
		}
		assert_true(n > 0);
		if (n < DHCP_LEN - 100 || packet[12] != 8 || packet[23] != 17 || packet[37] != 68)
			continue;
		inet_pton(AF_INET, guest, &address);
		assert_memory_equal(packet + 58, &address, 4);
		inet_pton(AF_INET, gateway, &address);
		assert_memory_equal(dhcp_option(packet, n, 3), &address, 4);
		return;
	}
}

static bool port_is_taken(uint16_t port)
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_port = htons(port) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool taken;

	in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	taken = connect(fd, (struct sockaddr *)&in, sizeof(in)) == 0;
	close(fd);
	return taken;
}

/* passt wants the host to have a network: a tap nobody answers on will do. */
static void test_user(void **state)
{
	struct netdev *nd, *host = open_netdev("tap", "ifname=d0,script=no,downscript=no");
	int fd;

	assert_int_equal(system("ip addr add 192.0.2.5/24 dev d0 && "
				"ip link set d0 up && ip link set lo up && "
				"ip route add default via 192.0.2.1"),
			 0);
	nd = open_netdev("user", "hostfwd=tcp:127.0.0.1:2222-:22,hostfwd=udp::5353-10.0.2.15:53");
	assert_string_equal(nd->kind, "user");
	assert_false(nd->vnet_hdr);
	expect_offer(nd, "10.0.2.15", "10.0.2.2");
	assert_true(port_is_taken(2222));
	refuse("user", "hostfwd=tcp::2222-:22", "2222");
	fd = nd->fd;
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	nd->ops->close(nd);
	for (unsigned i = 0; i < 500 && port_is_taken(2222); i++)
		usleep(10000);
	assert_false(port_is_taken(2222)); /* it has ended */

	nd = open_netdev("user", "net=192.168.76.0/24,dhcpstart=192.168.76.9,ipv6=off");
	expect_offer(nd, "192.168.76.9", "192.168.76.2");
	nd->ops->close(nd);
	host->ops->close(host);
}

static void test_user_refused(void **state)
{
	refuse("user", "restrict=on", "restrict=on");
	refuse("user", "tftp=/srv", "TFTP");
	refuse("user", "smb=/srv", "SMB");
	refuse("user", "guestfwd=tcp:10.0.2.100:80-cmd:x", "guestfwd=");
	refuse("user", "hostname=x", "hostname=");
	refuse("user", "hostfwd=tcp:2222:22", "hostfwd");
	refuse("user", "hostfwd=sctp::2222-:22", "sctp");
	refuse("user", "hostfwd=tcp::0-:22", "hostfwd");
	refuse("user", "hostfwd=tcp::22-:70000", "hostfwd");
	refuse("user", "hostfwd=tcp:localhost:2222-:22", "localhost");
	refuse("user", "hostfwd=tcp::2222-10.0.2.99:22", "10.0.2.99");
	refuse("user", "net=10.0.2.0/40", "40");
	refuse("user", "net=x", "'x'");
	refuse("user", "host=10.9.9.9", "10.9.9.9");
	refuse("user", "dns=10.0.2.15", "different");
	refuse("user", "ipv4=off,ipv6=off", "nothing");
	refuse("user", "ipv6-net=fec0::/64", "ipv6-net");
}

static int setup(void **state)
{
	loop = loop_new(NULL);
	return loop ? 0 : -1;
}

static int teardown(void **state)
{
	loop_free(loop);
	return 0;
}

/* As root, or as root of a user namespace of our own. */
static void leave_network(void)
{
	if (unshare(CLONE_NEWNET) < 0 && unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0)
		perror("unshare");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_stream_recv_bytewise),
		cmocka_unit_test(test_stream_recv_many),
		cmocka_unit_test(test_stream_recv_batch),
		cmocka_unit_test(test_stream_recv_cut),
		cmocka_unit_test(test_stream_hostile_length),
		cmocka_unit_test(test_stream_peer_gone),
		cmocka_unit_test(test_stream_send_full),
		cmocka_unit_test(test_stream_send_pieces),
		cmocka_unit_test(test_stream_server),
		cmocka_unit_test(test_stream_refused),
		cmocka_unit_test(test_tap),
		cmocka_unit_test(test_tap_fd),
		cmocka_unit_test(test_tap_scripts),
		cmocka_unit_test(test_tap_gone),
		cmocka_unit_test(test_tap_refused),
		cmocka_unit_test(test_user),
		cmocka_unit_test(test_user_refused),
	};

	leave_network();
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, setup, teardown);
}
