/* Extended attributes: users' own are part of a snapshot; lists of access rights and flags are not. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/xattr.h>

#include "trees.h"

#define LIST_MAX ((size_t)64 << 10)  /* the kernel's own bounds */
#define VALUE_MAX ((size_t)64 << 10)
#define GET_FLAGS ((int)_IOR('f', 1, long)) /* FS_IOC_GETFLAGS; not every libc has the kernel's headers, nor takes a long */
#define SET_FLAGS ((int)_IOW('f', 2, long))
#define SETTABLE_FLAGS 0x000100fb /* those of chattr that a file system keeps and a user may set */

static char names[LIST_MAX], other_names[LIST_MAX], value[VALUE_MAX], other_value[VALUE_MAX];

static bool is_users(const char *name)
{
	return strncmp(name, "user.", 5) == 0;
}

static bool is_access_list(const char *name)
{
	return strncmp(name, "system.posix_acl_", 17) == 0;
}

static ssize_t list(int fd, char *into)
{
	ssize_t size = flistxattr(fd, into, LIST_MAX);

	return size < 0 && (errno == ENOTSUP || errno == EPERM) ? 0 : size;
}

static int get_flags(int fd)
{
	int flags = 0;

	return ioctl(fd, GET_FLAGS, &flags) < 0 ? 0 : flags & SETTABLE_FLAGS;
}

int copy_attributes(struct restoring *state, int from, int to, const char *name)
{
	ssize_t size = list(from, names), length;

	if (size < 0)
		return fail(state->why, errno, "cannot list the attributes of the snapshot's %.150s: %s", name,
		            strerror(errno));
	for (const char *at = names; at < names + size; at += strlen(at) + 1) {
		if (!is_users(at))
			continue;
		length = fgetxattr(from, at, value, sizeof value);
		if (length < 0 || fsetxattr(to, at, value, (size_t)length, 0) < 0)
			return fail(state->why, errno, "cannot copy the attribute %.80s of the snapshot's %.100s: %s", at, name,
			            strerror(errno));
	}
	return 0;
}

static size_t count_users(const char *at, ssize_t size)
{
	size_t count = 0;

	for (const char *name = at; name < at + size; name += strlen(name) + 1)
		count += is_users(name);
	return count;
}

static bool has_access_list(const char *at, ssize_t size)
{
	for (const char *name = at; name < at + size; name += strlen(name) + 1)
		if (is_access_list(name))
			return true;
	return false;
}

/* Whether *to* has what *from* has of users' attributes, and neither access lists nor flags. */
bool same_attributes(int from, int to)
{
	ssize_t size = list(from, names), other = list(to, other_names);

	if (size < 0 || other < 0 || has_access_list(other_names, other) || get_flags(to) != 0 ||
	    count_users(names, size) != count_users(other_names, other))
		return false;
	for (const char *at = names; at < names + size; at += strlen(at) + 1) {
		ssize_t length, other_length;

		if (!is_users(at))
			continue;
		length = fgetxattr(from, at, value, sizeof value);
		other_length = fgetxattr(to, at, other_value, sizeof other_value);
		if (length < 0 || length != other_length || memcmp(value, other_value, (size_t)length) != 0)
			return false;
	}
	return true;
}

/* What an agent hung on a directory that stays: notes, flags, and lists of access rights that all new files in it
 * would inherit. */
int strip_attributes(int fd, const char *name, struct failure *why)
{
	ssize_t size = list(fd, names);
	int none = 0;

	if (size < 0)
		return fail(why, errno, "cannot list the attributes of %.150s: %s", name, strerror(errno));
	for (const char *at = names; at < names + size; at += strlen(at) + 1)
		if ((is_users(at) || is_access_list(at)) && fremovexattr(fd, at) < 0)
			return fail(why, errno, "cannot remove an attribute of %.150s: %s", name, strerror(errno));
	if (get_flags(fd) != 0 && ioctl(fd, SET_FLAGS, &none) < 0)
		return fail(why, errno, "cannot clear the flags of %.150s: %s", name, strerror(errno));
	return 0;
}
