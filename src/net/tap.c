/*
 * -netdev tap: a network interface of the host whose other side is the NIC.
 *
 * One read or write of the tap's descriptor is one packet, straight from or to guest memory, with
 * a 12-byte virtio_net_hdr in front where the kernel has it (vnet_hdr). Then segmentation and
 * checksums are the guest's and the host's to agree on: packets of up to 64 KiB pass whole.
 *
 * Scripts, as in QEMU, are run with the interface's name: `script` when it is there, `downscript`
 * when we go. By then we are sandboxed, or killed; so a shell started beforehand waits for the end
 * of a pipe, with a descriptor of the tap that keeps the interface in being, and then becomes the
 * script.
 */
#include "net/internal.h"

#include "base/error.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <net/if.h>
#include <linux/if_tun.h>
#include <string.h>
#include <sys/ioctl.h>

#define TUN_DEVICE         "/dev/net/tun"
#define DEFAULT_SCRIPT     "/etc/qemu-ifup"
#define DEFAULT_DOWNSCRIPT "/etc/qemu-ifdown"
#define VNET_HDR_LEN       12 /* struct virtio_net_hdr_mrg_rxbuf, Virtio 1.2 §5.1.6 */

struct tap {
	struct netdev nd;
	char ifname[IFNAMSIZ];
	int down_pipe; /* its end makes the downscript run; -1: there is none */
	pid_t down_pid;
};

static struct tap *of(struct netdev *nd)
{
	return container_of(nd, struct tap, nd);
}

/* --- Packets ---- */

/* #syscalls:io writev */
static ssize_t tap_send(struct netdev *nd, const struct iovec *iov, int n)
{
	ssize_t done;

	do {
		done = writev(nd->fd, iov, n);
	} while (done < 0 && errno == EINTR);
	return done < 0 ? -errno : done;
}

/* The interface was deleted under us: EBADFD, or EIO from some drivers of its kind. */
static bool is_gone(int errnum)
{
	return errnum == EBADFD || errnum == EIO || errnum == ENODEV;
}

/* #syscalls:io readv */
static ssize_t tap_recv(struct netdev *nd, const struct iovec *iov, int n)
{
	ssize_t done;

	do {
		done = readv(nd->fd, iov, n);
	} while (done < 0 && errno == EINTR);
	if (done < 0)
		return is_gone(errno) ? -EPIPE : -errno;
	return done;
}

/* NET_OFFLOAD_* are TUN_F_*. */
/* #syscalls:io ioctl=TUNSETOFFLOAD */
static void tap_set_offloads(struct netdev *nd, unsigned offloads)
{
	ioctl(nd->fd, TUNSETOFFLOAD, offloads & nd->offloads);
}

/* #syscalls:main close */
static void tap_close(struct netdev *nd)
{
	struct tap *tap = of(nd);

	if (tap->down_pipe >= 0) {
		close(tap->down_pipe);
		net_wait(tap->down_pid);
	}
	if (nd->fd >= 0)
		close(nd->fd);
	free(nd->id);
	free(tap);
}

static const struct netdev_ops tap_ops = {
	.send = tap_send,
	.recv = tap_recv,
	.set_offloads = tap_set_offloads,
	.close = tap_close,
};

/* --- Opening ---- */

static const struct prop tap_props[] = {
	{ "ifname", PROP_STRING, .help = "the interface; made when it is not there" },
	{ "fd", PROP_INT, .help = "an open tap in place of ifname", .max = INT_MAX },
	{ "script", PROP_STRING, .help = "program that sets it up, or no (" DEFAULT_SCRIPT ")" },
	{ "downscript", PROP_STRING,
	  .help = "program that takes it down, or no (" DEFAULT_DOWNSCRIPT ")" },
	{ "sndbuf", PROP_SIZE, .help = "send buffer; 0: without limit" },
	{ "vnet_hdr", PROP_BOOL, .help = "offloads (default: where the kernel has them)" },
	{ "queues", PROP_INT, "1", "only 1 is supported" },
	{ "vhost", PROP_BOOL, "off", "only off is supported" },
	{ "fds", PROP_STRING, .help = "not supported" },
	{ "br", PROP_STRING, .help = "not supported" },
	{ "helper", PROP_STRING, .help = "not supported" },
	{},
};

static const struct net_refusal refusals[] = {
	{ "fds", "a NIC has one pair of queues, for one fd=" },
	{ "br", "put the interface into its bridge beforehand (ip link set tap0 master br0)" },
	{ "helper",
	  "make the interface beforehand (ip tuntap add dev tap0 mode tap), or give fd=" },
	{},
};

static int check_props(const struct props *props, struct error **err)
{
	static const char *const not_with_fd[] = { "ifname", "script", "downscript", "vnet_hdr" };

	if (net_refuse(props, refusals, err) < 0)
		return -1;
	if (props_u64(props, "queues") != 1) {
		error_set(err, "queues=%llu is not supported: a NIC has one pair of queues",
			  (unsigned long long)props_u64(props, "queues"));
		return -1;
	}
	if (props_bool(props, "vhost")) {
		error_set(err, "vhost=on is not supported: packets are moved by the NIC's own I/O "
			       "thread (vhost=off)");
		return -1;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(not_with_fd) && props_has(props, "fd"); i++) {
		if (props_given(props, not_with_fd[i])) {
			error_set(err, "%s= says nothing with fd=: that tap is already set up",
				  not_with_fd[i]);
			return -1;
		}
	}
	return 0;
}

static int adopt(struct tap *tap, int fd, struct error **err)
{
	struct ifreq ifr = {};

	if (ioctl(fd, TUNGETIFF, &ifr) < 0) {
		error_set_errno(err, errno, "descriptor %d is not a tap interface", fd);
		return -1;
	}
	tap->nd.fd = fd;
	if (!(ifr.ifr_flags & IFF_TAP) || !(ifr.ifr_flags & IFF_NO_PI)) {
		error_set(err, "descriptor %d is not of the kind needed: IFF_TAP | IFF_NO_PI", fd);
		return -1;
	}
	tap->nd.vnet_hdr = ifr.ifr_flags & IFF_VNET_HDR;
	strcpy(tap->ifname, ifr.ifr_name);
	return 0;
}

static void explain_setiff(const char *ifname, int errnum, struct error **err)
{
	if (errnum == EPERM)
		error_set(err,
			  "interface '%s' is not ours to use: run as root, or make it beforehand "
			  "(ip tuntap add dev tap0 mode tap user $USER)",
			  ifname);
	else if (errnum == EBUSY)
		error_set(err, "interface '%s' is in use by another process", ifname);
	else if (errnum == EINVAL)
		error_set(err,
			  "interface '%s' is no tap with one queue (ip tuntap add dev NAME mode "
			  "tap)",
			  ifname);
	else
		error_set_errno(err, errnum, "cannot open interface '%s'", ifname);
}

static int make(struct tap *tap, const struct props *props, struct error **err)
{
	const char *ifname = props_has(props, "ifname") ? props_str(props, "ifname") : "tap%d";
	bool vnet_hdr = !props_has(props, "vnet_hdr") || props_bool(props, "vnet_hdr");
	struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI | (vnet_hdr ? IFF_VNET_HDR : 0) };

	if (strlen(ifname) >= IFNAMSIZ) {
		error_set(err, "interface name '%s' is longer than %d characters", ifname,
			  IFNAMSIZ - 1);
		return -1;
	}
	tap->nd.fd = open(TUN_DEVICE, O_RDWR | O_CLOEXEC);
	if (tap->nd.fd < 0) {
		error_set_errno(err, errno, "cannot open '%s'", TUN_DEVICE);
		return -1;
	}
	strcpy(ifr.ifr_name, ifname);
	if (ioctl(tap->nd.fd, TUNSETIFF, &ifr) < 0) {
		explain_setiff(ifname, errno, err);
		return -1;
	}
	tap->nd.vnet_hdr = vnet_hdr;
	strcpy(tap->ifname, ifr.ifr_name);
	return 0;
}

static unsigned probe_offloads(const struct tap *tap)
{
	const unsigned base = NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4 | NET_OFFLOAD_TSO6 |
			      NET_OFFLOAD_ECN;
	unsigned offloads = 0;

	if (!tap->nd.vnet_hdr)
		return 0;
	if (ioctl(tap->nd.fd, TUNSETOFFLOAD, base | NET_OFFLOAD_UFO) == 0)
		offloads = base | NET_OFFLOAD_UFO;
	else if (ioctl(tap->nd.fd, TUNSETOFFLOAD, base) == 0)
		offloads = base;
	ioctl(tap->nd.fd, TUNSETOFFLOAD, 0); /* none until a driver asks for them */
	return offloads;
}

static int configure(struct tap *tap, const struct props *props, struct error **err)
{
	uint64_t limit = props_u64(props, "sndbuf");
	int header = VNET_HDR_LEN, sndbuf = limit && limit < INT_MAX ? (int)limit : INT_MAX;
	int flags = fcntl(tap->nd.fd, F_GETFL);

	if (flags < 0 || fcntl(tap->nd.fd, F_SETFL, flags | O_NONBLOCK) < 0 ||
	    fcntl(tap->nd.fd, F_SETFD, FD_CLOEXEC) < 0)
		goto fail;
	if (tap->nd.vnet_hdr && ioctl(tap->nd.fd, TUNSETVNETHDRSZ, &header) < 0)
		goto fail;
	/* macvtap and its like have no such limit, and need none. */
	if (ioctl(tap->nd.fd, TUNSETSNDBUF, &sndbuf) < 0 && props_given(props, "sndbuf"))
		goto fail;
	tap->nd.vnet_hdr_len = tap->nd.vnet_hdr ? VNET_HDR_LEN : 0;
	tap->nd.offloads = probe_offloads(tap);
	return 0;
fail:
	error_set_errno(err, errno, "cannot set up interface '%s'", tap->ifname);
	return -1;
}

/* --- Scripts ---- */

/* The program a property names, its default, or NULL for none ("no" or empty). */
static const char *script_of(const struct props *props, const char *name, const char *def)
{
	const char *script = props_has(props, name) ? props_str(props, name) : def;

	return !*script || strcmp(script, "no") == 0 ? NULL : script;
}

static int check_script(const char *property, const char *script, struct error **err)
{
	if (access(script, X_OK) == 0)
		return 0;
	error_set_errno(err, errno, "cannot run %s '%s' (%s=no runs none)", property, script,
			property);
	return -1;
}

static int run_script(struct tap *tap, const char *script, struct error **err)
{
	const char *argv[] = { script, tap->ifname, NULL };
	pid_t pid;
	int status;

	if (check_script("script", script, err) < 0)
		return -1;
	pid = net_spawn(argv, NULL, 0, false, err);
	if (pid < 0)
		return -1;
	status = net_wait(pid);
	if (status == 0)
		return 0;
	error_set(err, "script '%s' failed with exit status %d (script=no runs none)", script,
		  status);
	return -1;
}

static int prepare_downscript(struct tap *tap, const char *script, struct error **err)
{
	static const char command[] = "read -r _; exec \"$0\" \"$1\" </dev/null";
	const char *argv[] = { "/bin/sh", "-c", command, script, tap->ifname, NULL };
	int ends[2], fds[4] = { -1, -1, -1, tap->nd.fd };

	if (check_script("downscript", script, err) < 0)
		return -1;
	if (pipe2(ends, O_CLOEXEC) < 0) {
		error_set_errno(err, errno, "cannot make a pipe");
		return -1;
	}
	fds[0] = ends[0];
	tap->down_pid = net_spawn(argv, fds, ARRAY_SIZE(fds), true, err);
	close(ends[0]);
	if (tap->down_pid < 0) {
		close(ends[1]);
		return -1;
	}
	tap->down_pipe = ends[1];
	return 0;
}

static int run_scripts(struct tap *tap, const struct props *props, struct error **err)
{
	const char *up = script_of(props, "script", DEFAULT_SCRIPT);
	const char *down = script_of(props, "downscript", DEFAULT_DOWNSCRIPT);

	/* Nobody asked for it, and QEMU too would only find out at the end. */
	if (down && !props_given(props, "downscript") && access(down, F_OK) < 0)
		down = NULL;
	if (up && run_script(tap, up, err) < 0)
		return -1;
	return down ? prepare_downscript(tap, down, err) : 0;
}

static int open_tap(struct tap *tap, const struct props *props, struct error **err)
{
	bool given = props_has(props, "fd");

	if (check_props(props, err) < 0 ||
	    (given ? adopt(tap, props_u64(props, "fd"), err) : make(tap, props, err)) < 0 ||
	    configure(tap, props, err) < 0)
		return -1;
	return given ? 0 : run_scripts(tap, props, err);
}

static int tap_open(const char *id, const struct props *props, struct loop *main_loop,
		    struct netdev **nd, struct error **err)
{
	struct tap *tap = xcalloc(1, sizeof(*tap));

	tap->nd.ops = &tap_ops;
	tap->nd.kind = "tap";
	tap->nd.id = xstrdup(id);
	tap->nd.fd = tap->down_pipe = -1;
	if (open_tap(tap, props, err) < 0) {
		tap_close(&tap->nd);
		return -1;
	}
	*nd = &tap->nd;
	return 0;
}

const struct netdev_class net_tap_class = {
	.name = "tap",
	.desc = "a tap interface of the host",
	.props = tap_props,
	.open = tap_open,
};
