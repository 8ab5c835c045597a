/*
 * Landlock: a domain that handles every right the kernel's version knows and grants none.
 *
 * Rights belong to a descriptor from the moment it is opened, so what was opened before goes on
 * working. The kernel says which version of the interface it has; a newer one adds rights, which
 * must not be asked of an older one (Documentation/userspace-api/landlock.rst). The system's header
 * may be older than the kernel, so names it may lack are defined here.
 */
#include "sandbox/layers.h"

#include "base/error.h"
#include "base/util.h"

#include <errno.h>
#include <linux/landlock.h>
#include <stdint.h>
#include <sys/syscall.h>

#ifndef LANDLOCK_ACCESS_FS_REFER
#define LANDLOCK_ACCESS_FS_REFER BIT(13)
#endif
#ifndef LANDLOCK_ACCESS_FS_TRUNCATE
#define LANDLOCK_ACCESS_FS_TRUNCATE BIT(14)
#endif
#ifndef LANDLOCK_ACCESS_FS_IOCTL_DEV
#define LANDLOCK_ACCESS_FS_IOCTL_DEV BIT(15)
#endif
#ifndef LANDLOCK_ACCESS_NET_BIND_TCP
#define LANDLOCK_ACCESS_NET_BIND_TCP    BIT(0)
#define LANDLOCK_ACCESS_NET_CONNECT_TCP BIT(1)
#endif
#ifndef LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET
#define LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET BIT(0)
#define LANDLOCK_SCOPE_SIGNAL               BIT(1)
#endif

/* struct landlock_ruleset_attr as of version 6. */
struct ruleset {
	uint64_t fs, net, scoped;
};

/* EXECUTE to MAKE_SYM: the rights of version 1. */
#define FS_RIGHTS_V1 (LANDLOCK_ACCESS_FS_MAKE_SYM * 2 - 1)

/* What each version added; 7 adds to the audit log only. */
static const struct {
	int version;
	struct ruleset adds;
} versions[] = {
	{ 1, { .fs = FS_RIGHTS_V1 } },
	{ 2, { .fs = LANDLOCK_ACCESS_FS_REFER } },
	{ 3, { .fs = LANDLOCK_ACCESS_FS_TRUNCATE } },
	{ 4, { .net = LANDLOCK_ACCESS_NET_BIND_TCP | LANDLOCK_ACCESS_NET_CONNECT_TCP } },
	{ 5, { .fs = LANDLOCK_ACCESS_FS_IOCTL_DEV } },
	{ 6, { .scoped = LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | LANDLOCK_SCOPE_SIGNAL } },
};

static struct ruleset rights_of(int version)
{
	struct ruleset all = { 0 };

	for (unsigned i = 0; i < ARRAY_SIZE(versions) && versions[i].version <= version; i++) {
		all.fs |= versions[i].adds.fs;
		all.net |= versions[i].adds.net;
		all.scoped |= versions[i].adds.scoped;
	}
	return all;
}

int sandbox_landlock(struct error **err)
{
	int version =
		syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
	struct ruleset rights = rights_of(version);
	int fd AUTO_CLOSE = -1;

	if (version < 1)
		return 0; /* ENOSYS: not built in; EOPNOTSUPP: turned off at boot */
	/* Bytes past what an older kernel knows are zero, which it accepts. */
	fd = syscall(SYS_landlock_create_ruleset, &rights, sizeof(rights), 0);
	if (fd < 0 || syscall(SYS_landlock_restrict_self, fd, 0) < 0) {
		error_set_errno(err, errno, "cannot enter a Landlock domain (version %d)", version);
		return -1;
	}
	return version;
}
