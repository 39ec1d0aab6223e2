/* Mounting, and what is mounted, for the guest's own root. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "guest.h"

#define MOUNTS_MAX ((size_t)256 << 10)
#define MOUNT_POINT 4 /* the field of a line that says where */

int cannot_mount(struct failure *why, const char *what, const char *path)
{
	int errnum = errno;

	return fail(why, errnum, "cannot %s %.120s for the sandbox's own root: %s%s", what, path, strerror(errnum),
	            errnum == EPERM || errnum == EACCES ? "; it needs CAP_SYS_ADMIN, and an AppArmor or SELinux "
	                                                  "profile that lets it mount"
	                                                : "");
}

int mount_on(const char *source, const char *target, const char *type, unsigned long flags, const char *data,
                    struct failure *why)
{
	return mount(source, target, type, flags, data) < 0 ? cannot_mount(why, "mount", target) : 0;
}

/* Read-only for everybody, root too, with the other flags as they are. Devices stay writable. */
int make_read_only(const char *target, unsigned long more, struct failure *why)
{
	struct statvfs info;
	unsigned long flags = MS_REMOUNT | MS_BIND | MS_RDONLY | more;

	if (statvfs(target, &info) < 0)
		return cannot_mount(why, "look at", target);
	flags |= info.f_flag & ST_NOSUID ? MS_NOSUID : 0;
	flags |= info.f_flag & ST_NODEV ? MS_NODEV : 0;
	flags |= info.f_flag & ST_NOEXEC ? MS_NOEXEC : 0;
	return mount_on(NULL, target, NULL, flags, NULL, why);
}

/* The kernel writes blanks, line ends and backslashes in octal. */
static void unescape(char *text)
{
	char *to = text;

	for (const char *from = text; *from != '\0'; to++) {
		unsigned int code;

		if (*from == '\\' && sscanf(from + 1, "%3o", &code) == 1) {
			*to = (char)code;
			from += 4;
		} else {
			*to = *from++;
		}
	}
	*to = '\0';
}

static int read_mounts(const struct guest *guest, char *text, struct failure *why)
{
	cleanup_fd int fd = guest->proc < 0 ? -1 : openat(guest->proc, "self/mountinfo", O_RDONLY | O_CLOEXEC);
	size_t filled = 0;
	ssize_t size = -1;

	while (fd >= 0 && (size = read(fd, text + filled, MOUNTS_MAX - 1 - filled)) > 0)
		filled += (size_t)size;
	text[filled] = '\0';
	if (size < 0)
		return cannot_mount(why, "read", "/proc/self/mountinfo");
	return filled == MOUNTS_MAX - 1 ? fail(why, E2BIG, "too much is mounted for a root of the sandbox's own") : 0;
}

/* In the order of mounting, with the paths that they have now, seen from the guest's root. */
int each_mount_below(const struct guest *guest, const char *top, int (*act)(const char *path, struct failure *why),
                     struct failure *why)
{
	static char text[MOUNTS_MAX];
	size_t size = strlen(top);
	char *line, *rest = text;

	if (read_mounts(guest, text, why))
		return 1;
	while ((line = strsep(&rest, "\n")) != NULL) {
		char *path = NULL;

		for (int field = 0; line != NULL && field <= MOUNT_POINT; field++)
			path = strsep(&line, " ");
		if (line == NULL || path == NULL)
			continue;
		unescape(path);
		if (strncmp(path, top, size) == 0 && path[size] == '/' && act(path, why))
			return 1;
	}
	return 0;
}
