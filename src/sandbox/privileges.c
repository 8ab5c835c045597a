/*
 * Capabilities. Those a process has are cleared by capset(2). Those it could get again by exec are
 * in the bounding and ambient sets, and in what uid 0 is given by tradition (securebits): these
 * take CAP_SETPCAP to change, so they go first, and where that is missing no_new_privs has closed
 * the same door.
 */
#include "sandbox/layers.h"

#include "base/error.h"

#include <errno.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LAST_POSSIBLE_CAP 63 /* the sets are 64 bits wide */

int sandbox_drop_capabilities(struct error **err)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = { 0 };

	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	for (int cap = 0; cap <= LAST_POSSIBLE_CAP; cap++)
		if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0)
			break; /* EINVAL: past the last one; EPERM: see above */
	prctl(PR_SET_SECUREBITS, SECURE_ALL_BITS | SECURE_ALL_LOCKS, 0, 0, 0);
	if (syscall(SYS_capset, &header, none) < 0) {
		error_set_errno(err, errno, "cannot drop capabilities");
		return -1;
	}
	return 0;
}
