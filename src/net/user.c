/*
 * -netdev user: the host's own network for a guest, without any privilege. QEMU has a TCP/IP stack
 * inside for that; here passt is it, a process of its own with its own sandbox, that we start with
 * one end of a socket pair and speak "stream" with.
 *
 * The guest sees what it sees in QEMU: it is 10.0.2.15, the host is the gateway 10.0.2.2, and
 * 10.0.2.3 answers DNS queries (DHCP names the host's own resolver). hostfwd= becomes passt's -t
 * and -u.
 *
 * passt goes into the background when it has bound all its ports: until then we wait, and what it
 * has to complain about ends our start. It ends when its socket does, that is with us.
 */
#include "net/internal.h"

#include "base/error.h"
#include "base/util.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define MAX_ARGS      128
#define START_TIMEOUT 10000 /* ms */
#define PASST_FD      3

static const struct prop user_props[] = {
	{ "ipv4", PROP_BOOL, "on", "IPv4" },
	{ "ipv6", PROP_BOOL, "on", "IPv6, when the host has it" },
	{ "net", PROP_STRING, "10.0.2.0/24", "the guest's IPv4 network, ADDRESS/BITS" },
	{ "host", PROP_STRING, .help = "the host as the guest sees it (.2 of net)" },
	{ "dhcpstart", PROP_STRING, .help = "the guest's own address (.15 of net)" },
	{ "dns", PROP_STRING, .help = "where DNS queries are answered (.3 of net)" },
	{ "dnssearch", PROP_STRING, .help = "domain to search; may be given several times",
	  .list = true },
	{ "hostfwd", PROP_STRING,
	  .help = "[tcp|udp]:[hostaddr]:hostport-[guestaddr]:guestport; may be given several "
		  "times",
	  .list = true },
	{ "restrict", PROP_BOOL, "off", "only off is supported" },
	{ "hostname", PROP_STRING, .help = "not supported" },
	{ "domainname", PROP_STRING, .help = "not supported" },
	{ "tftp", PROP_STRING, .help = "not supported" },
	{ "bootfile", PROP_STRING, .help = "not supported" },
	{ "smb", PROP_STRING, .help = "not supported" },
	{ "guestfwd", PROP_STRING, .help = "not supported", .list = true },
	{},
};

static const struct net_refusal refusals[] = {
	{ "hostname", "passt, which does the work, can't give the guest a name by DHCP" },
	{ "domainname", "passt, which does the work, can't; dnssearch= is possible" },
	{ "tftp", "passt, which does the work, has no TFTP server" },
	{ "bootfile", "passt, which does the work, has no TFTP server" },
	{ "smb", "passt, which does the work, has no SMB server" },
	{ "guestfwd", "passt, which does the work, can't; the guest reaches all of the host's "
		      "ports at its gateway" },
	{},
};

/* IPv4 addresses in host byte order. */
struct user_net {
	uint32_t net, mask, host, guest, dns;
};

struct args {
	char *argv[MAX_ARGS + 1];
	unsigned n;
};

static int add_arg(struct args *args, struct error **err, char *arg)
{
	if (args->n < MAX_ARGS) {
		args->argv[args->n++] = arg;
		return 0;
	}
	free(arg);
	error_set(err, "too many hostfwd= and dnssearch=; some %d are possible", MAX_ARGS / 2 - 16);
	return -1;
}

static void free_args(struct args *args)
{
	for (unsigned i = 0; i < args->n; i++)
		free(args->argv[i]);
}

/* An option and its value (NULL: it has none); takes the value over. */
static int add_option(struct args *args, const char *option, char *value, struct error **err)
{
	if (add_arg(args, err, xstrdup(option)) < 0) {
		free(value);
		return -1;
	}
	return value ? add_arg(args, err, value) : 0;
}

/* --- Addresses ---- */

static int parse_ipv4(const char *what, const char *text, uint32_t *address, struct error **err)
{
	struct in_addr in;

	if (inet_pton(AF_INET, text, &in) != 1) {
		error_set(err, "%s: '%s' is not an IPv4 address", what, text);
		return -1;
	}
	*address = ntohl(in.s_addr);
	return 0;
}

static char *ipv4_text(uint32_t address)
{
	char text[INET_ADDRSTRLEN];
	struct in_addr in = { htonl(address) };

	return xstrdup(inet_ntop(AF_INET, &in, text, sizeof(text)));
}

/* The mask after the '/': "24" or "255.255.255.0"; without one, that of the address's class. */
static int parse_mask(const char *text, uint32_t net, uint32_t *mask, struct error **err)
{
	uint64_t bits;

	if (!text) {
		*mask = net >> 31 == 0   ? 0xff000000
			: net >> 30 == 2 ? 0xffff0000
			: net >> 29 == 6 ? 0xffffff00
					 : 0xfffffff0;
		return 0;
	}
	if (strchr(text, '.'))
		return parse_ipv4("net", text, mask, err);
	if (parse_u64(text, &bits, err) < 0)
		return -1;
	if (bits < 4 || bits > 30) {
		error_set(err, "net: a network of %llu bits; from 4 to 30 is possible",
			  (unsigned long long)bits);
		return -1;
	}
	*mask = ~UINT32_C(0) << (32 - bits);
	return 0;
}

static int parse_host(const struct props *props, const char *name, uint32_t def,
		      const struct user_net *un, uint32_t *address, struct error **err)
{
	*address = (un->net & un->mask) | (def & ~un->mask);
	if (!props_has(props, name))
		return 0;
	if (parse_ipv4(name, props_str(props, name), address, err) < 0)
		return -1;
	if ((*address & un->mask) == (un->net & un->mask))
		return 0;
	error_set(err, "%s=%s is not in the network net=%s", name, props_str(props, name),
		  props_str(props, "net"));
	return -1;
}

static int parse_net(const struct props *props, struct user_net *un, struct error **err)
{
	char *net AUTO_FREE = xstrdup(props_str(props, "net"));
	char *slash = strchr(net, '/');

	if (slash)
		*slash++ = '\0';
	if (parse_ipv4("net", net, &un->net, err) < 0 ||
	    parse_mask(slash, un->net, &un->mask, err) < 0 ||
	    parse_host(props, "host", 0x0202, un, &un->host, err) < 0 ||
	    parse_host(props, "dhcpstart", 0x020f, un, &un->guest, err) < 0 ||
	    parse_host(props, "dns", 0x0203, un, &un->dns, err) < 0)
		return -1;
	if (un->host != un->guest && un->host != un->dns && un->guest != un->dns)
		return 0;
	error_set(err, "host, guest and DNS server need three different addresses");
	return -1;
}

/* --- Forwarding ---- */

/* Takes the text up to `end` off *p; NULL when it is not there. */
static char *take(char **p, char end)
{
	char *start = *p, *stop = strchr(start, end);

	if (!stop)
		return NULL;
	*stop = '\0';
	*p = stop + 1;
	return start;
}

static bool is_port(const char *text)
{
	uint64_t port;

	return parse_u64(text, &port, NULL) == 0 && port >= 1 && port <= 65535;
}

/* "tcp:127.0.0.1:2222-:22" becomes -t 127.0.0.1/2222:22. */
static int add_forward(struct args *args, const char *rule, const struct user_net *un,
		       struct error **err)
{
	char *copy AUTO_FREE = xstrdup(rule), *p = copy;
	char *protocol = take(&p, ':'), *host = protocol ? take(&p, ':') : NULL;
	char *host_port = host ? take(&p, '-') : NULL, *guest = host_port ? take(&p, ':') : NULL;
	uint32_t address;
	bool udp;

	if (!guest || !is_port(host_port) || !is_port(p)) {
		error_set(err,
			  "hostfwd: '%s' is not of the form "
			  "[tcp|udp]:[hostaddr]:hostport-[guestaddr]:guestport",
			  rule);
		return -1;
	}
	udp = strcmp(protocol, "udp") == 0;
	if (!udp && *protocol && strcmp(protocol, "tcp") != 0) {
		error_set(err, "hostfwd: protocol '%s' is neither tcp nor udp", protocol);
		return -1;
	}
	if (*host && parse_ipv4("hostfwd", host, &address, err) < 0)
		return -1;
	if (*guest && parse_ipv4("hostfwd", guest, &address, err) < 0)
		return -1;
	if (*guest && address != un->guest) {
		error_set(err,
			  "hostfwd: %s is not the guest's own address, the only one that "
			  "passt, which does the work, forwards to",
			  guest);
		return -1;
	}
	return add_option(args, udp ? "-u" : "-t",
			  xasprintf("%s/%s:%s", *host ? host : "0.0.0.0", host_port, p), err);
}

/* Calls add for each line of a list property. */
static int add_each(struct args *args, const struct props *props, const char *name,
		    const struct user_net *un,
		    int (*add)(struct args *args, const char *value, const struct user_net *un,
			       struct error **err),
		    struct error **err)
{
	char *copy AUTO_FREE = NULL, *rest, *line;

	if (!props_has(props, name))
		return 0;
	copy = rest = xstrdup(props_str(props, name));
	while ((line = strsep(&rest, "\n"))) {
		if (add(args, line, un, err) < 0)
			return -1;
	}
	return 0;
}

static int add_search(struct args *args, const char *domain, const struct user_net *un,
		      struct error **err)
{
	return add_option(args, "-S", xstrdup(domain), err);
}

static int add_addresses(struct args *args, const struct props *props, const struct user_net *un,
			 struct error **err)
{
	if (props_bool(props, "ipv4") &&
	    (add_option(args, "-a", ipv4_text(un->guest), err) < 0 ||
	     add_option(args, "-n", ipv4_text(un->mask), err) < 0 ||
	     add_option(args, "-g", ipv4_text(un->host), err) < 0 ||
	     add_option(args, "--dns-forward", ipv4_text(un->dns), err) < 0))
		return -1;
	if (props_bool(props, "ipv6") &&
	    (add_option(args, "-a", xstrdup("fec0::15"), err) < 0 ||
	     add_option(args, "--dns-forward", xstrdup("fec0::3"), err) < 0))
		return -1;
	if (!props_bool(props, "ipv6"))
		return add_option(args, "-4", NULL, err);
	return props_bool(props, "ipv4") ? 0 : add_option(args, "-6", NULL, err);
}

static int make_args(struct args *args, const struct props *props, struct error **err)
{
	struct user_net un;

	if (net_refuse(props, refusals, err) < 0)
		return -1;
	if (props_bool(props, "restrict")) {
		error_set(err, "restrict=on is not supported: passt, which does the work, always "
			       "connects the guest to the host's network");
		return -1;
	}
	if (!props_bool(props, "ipv4") && !props_bool(props, "ipv6")) {
		error_set(err, "ipv4=off and ipv6=off leave nothing");
		return -1;
	}
	if (parse_net(props, &un, err) < 0)
		return -1;
	if (add_option(args, "passt", NULL, err) < 0 ||
	    add_option(args, "--quiet", NULL, err) < 0 ||
	    add_option(args, "--stderr", NULL, err) < 0 ||
	    add_option(args, "--fd", xasprintf("%d", PASST_FD), err) < 0 ||
	    /* The MAC address QEMU's host has; not the real one of the host's interface. */
	    add_option(args, "-M", xstrdup("52:55:0a:00:02:02"), err) < 0 ||
	    add_addresses(args, props, &un, err) < 0)
		return -1;
	if (add_each(args, props, "dnssearch", &un, add_search, err) < 0)
		return -1;
	return add_each(args, props, "hostfwd", &un, add_forward, err);
}

/* --- The process ---- */

/* Its last line that is about the matter; it says other things when it can't reach syslog. */
static const char *last_line(char *text)
{
	const char *last = "it said nothing";
	char *line;

	while ((line = strsep(&text, "\n"))) {
		if (*line && strncmp(line, "Failed to send ", 15) != 0)
			last = line;
	}
	return last;
}

/* Reads what it says until it closes its end, which it does when it goes into the background. */
static bool listen_to(int fd, char *text, size_t size)
{
	size_t len = 0;
	char rest[256];

	for (;;) {
		bool full = len + 1 >= size;
		ssize_t n;

		if (poll(&(struct pollfd){ .fd = fd, .events = POLLIN }, 1, START_TIMEOUT) <= 0)
			return false;
		n = read(fd, full ? rest : text + len, full ? sizeof(rest) : size - len - 1);
		if (n <= 0)
			return n == 0;
		if (!full)
			len += n;
		text[len] = '\0';
	}
}

static int watch_start(pid_t pid, int fd, struct error **err)
{
	char text[4096] = "";
	bool ended = listen_to(fd, text, sizeof(text));
	int status;

	if (!ended)
		kill(pid, SIGKILL);
	status = net_wait(pid);
	if (!ended)
		error_set(err, "passt did not start within %d s", START_TIMEOUT / 1000);
	else if (status)
		error_set(err, "passt, which does the work, could not start: %s", last_line(text));
	return ended && status == 0 ? 0 : -1;
}

static int start_passt(struct args *args, int socket, struct error **err)
{
	int null AUTO_CLOSE = open("/dev/null", O_RDWR | O_CLOEXEC);
	int errors[2], result;
	pid_t pid;

	if (null < 0 || pipe2(errors, O_CLOEXEC) < 0) {
		error_set_errno(err, errno, "cannot make a pipe");
		return -1;
	}
	pid = net_spawn((const char *const *)args->argv,
			(const int[]){ null, errors[1], errors[1], socket }, PASST_FD + 1, true,
			err);
	close(errors[1]);
	result = pid < 0 ? -1 : watch_start(pid, errors[0], err);
	close(errors[0]);
	if (pid < 0 && err && error_errno(*err) == ENOENT)
		error_prefix(err, "passt, which does the work, is not installed (apt install "
				  "passt): ");
	return result;
}

static int user_open(const char *id, const struct props *props, struct loop *main_loop,
		     struct netdev **nd, struct error **err)
{
	struct args args = {};
	int ends[2], result = -1;

	if (make_args(&args, props, err) < 0)
		goto out;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0) {
		error_set_errno(err, errno, "cannot make a socket pair");
		goto out;
	}
	result = start_passt(&args, ends[1], err);
	close(ends[1]);
	if (result < 0)
		close(ends[0]);
	else
		*nd = stream_from_fd(id, "user", ends[0], main_loop);
out:
	free_args(&args);
	return result;
}

const struct netdev_class net_user_class = {
	.name = "user",
	.desc = "the host's network, without privileges (passt)",
	.props = user_props,
	.open = user_open,
};
