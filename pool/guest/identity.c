/* Whose powers the guest acts with: its own, those of the user it writes files for, or none. */
#define _GNU_SOURCE
#include <string.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "call.h"
#include "guest.h"

#define CAPABILITY_VERSION_3 0x20080522u
#define CAP_CHOWN 0
#define CAP_DAC_OVERRIDE 1
#define CAP_FOWNER 3
#define CAP_FSETID 4
#define CAP_KILL 5
#define CAP_SETGID 6
#define CAP_SETUID 7
#define CAP_SYS_CHROOT 18
#define CAP_SYS_ADMIN 21
#define CAP_MKNOD 27
#define CAP_SETFCAP 31

/* What installing packages and changing users takes, in a root that is thrown away. Not CAP_SETFCAP: what it writes has
 * no effect here, and packages do without. Not CAP_SYS_CHROOT: it leads out of the root. Fewer than the guest has, so
 * that no command may trace it. */
#define ROOTS_CAPABILITIES                                                                                             \
	(1u << CAP_CHOWN | 1u << CAP_DAC_OVERRIDE | 1u << CAP_FOWNER | 1u << CAP_FSETID | 1u << CAP_KILL |             \
	 1u << CAP_SETGID | 1u << CAP_SETUID)
/* What the guest needs to make a root, and the kernel in the guest's name to copy any file up into its layer. */
#define MOUNTING_CAPABILITIES                                                                                          \
	(1u << CAP_SYS_ADMIN | 1u << CAP_SYS_CHROOT | 1u << CAP_FSETID | 1u << CAP_MKNOD | 1u << CAP_SETFCAP)

/* The kernel's own layout; not every libc has a header for it. */
struct cap_header {
	uint32_t version;
	int pid;
};
struct cap_data {
	uint32_t effective, permitted, inheritable;
};

/* These two are the child's as well, and return an error's number below zero. */
static int get_capabilities(struct cap_data data[2])
{
	struct cap_header header = {.version = CAPABILITY_VERSION_3, .pid = 0};

	return (int)call(SYS_capget, ADDRESS(&header), ADDRESS(data), 0, 0);
}

static int set_capabilities(const struct cap_data data[2])
{
	struct cap_header header = {.version = CAPABILITY_VERSION_3, .pid = 0};

	return (int)call(SYS_capset, ADDRESS(&header), ADDRESS(data), 0, 0);
}

/* Said at the start, rather than by every command's failure. */
int must_have_powers(void)
{
	struct cap_data data[2];
	uint32_t needed = 1u << CAP_KILL | 1u << CAP_SETGID | 1u << CAP_SETUID;
	int result = get_capabilities(data);

	if (result < 0)
		return complain("cannot read capabilities: %s", strerror(-result));
	if ((data[0].effective & needed) != needed)
		return complain("needs CAP_KILL, CAP_SETGID and CAP_SETUID to run commands as another user; or --agent self");
	return 0;
}

int drop_inheritable(void)
{
	struct cap_data data[2];
	int result = get_capabilities(data);

	if (result < 0)
		return complain("cannot read capabilities: %s", strerror(-result));
	data[0].inheritable = data[1].inheritable = 0;
	result = set_capabilities(data);
	if (result < 0)
		return complain("cannot drop inheritable capabilities: %s", strerror(-result));
	return 0;
}

int drop_all_capabilities(void)
{
	const struct cap_data none[2] = {{0, 0, 0}, {0, 0, 0}};

	return set_capabilities(none);
}

bool is_roots_capability(unsigned long capability)
{
	return capability < 32 && (ROOTS_CAPABILITIES >> capability & 1u) != 0;
}

int drop_to_roots_capabilities(void)
{
	struct cap_data data[2];

	if (get_capabilities(data) < 0)
		return -1;
	data[0].permitted &= ROOTS_CAPABILITIES;
	data[0].effective = data[0].permitted;
	data[1] = (struct cap_data){0, 0, 0};
	return set_capabilities(data);
}

int drop_mounting_capabilities(void)
{
	struct cap_data data[2];
	int result = get_capabilities(data);

	if (result < 0)
		return complain("cannot read capabilities: %s", strerror(-result));
	data[0].permitted &= ~MOUNTING_CAPABILITIES;
	data[0].effective &= data[0].permitted;
	result = set_capabilities(data);
	if (result < 0)
		return complain("cannot drop the capabilities to mount: %s", strerror(-result));
	return 0;
}

static void set_effective(bool all)
{
	struct cap_data data[2];

	if (get_capabilities(data) < 0)
		return;
	for (int i = 0; i < 2; i++)
		data[i].effective = all ? data[i].permitted : 0;
	set_capabilities(data);
}

/* File access as *owner*: root stays root, anybody else is without the guest's powers over files.
 * With one user for guest and agent only the capabilities make the difference. */
int act_as(const struct guest *guest, struct owner owner)
{
	if (guest->options.self) {
		set_effective(false);
		return 0;
	}
	setfsgid(owner.gid);
	setfsuid(owner.uid);
	/* They do not say whether they did: a user that the sandbox's namespace does not have would leave the guest's own. */
	return (uid_t)setfsuid((uid_t)-1) != owner.uid || (gid_t)setfsgid((gid_t)-1) != owner.gid;
}

void act_as_self(const struct guest *guest)
{
	if (guest->options.self) {
		set_effective(true);
	} else {
		setfsuid(guest->own.uid);
		setfsgid(guest->own.gid);
	}
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0); /* a change of user may have reset it */
}
