/* Opening what an agent may have arranged: nothing outside the root is reached, whatever links there are. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "guest.h"

#ifndef SYS_openat2
#define SYS_openat2 437
#endif

#define RESOLVE_NO_MAGICLINKS 0x02u
#define RESOLVE_NO_SYMLINKS 0x04u
#define RESOLVE_BENEATH 0x08u
#define TRIES 16 /* the kernel says EAGAIN when a rename somewhere crossed its walk */

/* The kernel's struct open_how */
struct how {
	uint64_t flags, mode, resolve;
};

static int openat2(int root, const char *path, int flags, mode_t mode, uint64_t resolve)
{
	struct how how = {.flags = (uint64_t)(unsigned int)flags | O_CLOEXEC, .mode = mode, .resolve = resolve};
	long fd = -1;

	for (int i = 0; i < TRIES; i++) {
		fd = syscall(SYS_openat2, root, path, &how, sizeof how);
		if (fd >= 0 || errno != EAGAIN)
			break;
	}
	return (int)fd;
}

/* Without openat2: component by component, refusing links and "..". */
static int open_step_by_step(int root, const char *path, int flags, mode_t mode)
{
	cleanup_fd int dir = fcntl(root, F_DUPFD_CLOEXEC, 3);
	char name[NAME_MAX + 1];

	while (dir >= 0) {
		size_t size = strcspn(path, "/");
		bool last = path[size + strspn(path + size, "/")] == '\0';
		int next;

		if (size > NAME_MAX) {
			errno = ENAMETOOLONG;
			return -1;
		}
		memcpy(name, path, size);
		name[size] = '\0';
		path += size + strspn(path + size, "/");
		if (strcmp(name, "..") == 0) {
			errno = EXDEV;
			return -1;
		}
		next = openat(dir, size == 0 ? "." : name,
		              O_NOFOLLOW | O_CLOEXEC | (last ? flags : O_PATH | O_DIRECTORY), mode);
		if (last || next < 0)
			return next;
		close(dir);
		dir = next;
	}
	return -1;
}

static bool lacks_openat2(int errnum)
{
	return errnum == ENOSYS || errnum == EPERM; /* EPERM: a container's filter that does not know it */
}

/* As openat, but *path* is relative and stays below *root*. */
int open_beneath(const struct guest *guest, int root, const char *path, int flags, mode_t mode)
{
	if (guest->has_openat2)
		return openat2(root, path, flags, mode, RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS);
	return open_step_by_step(root, path, flags, mode);
}

/* An absolute directory that is reached without any link: an agent could turn one. */
int open_root(const struct guest *guest, const char *path, int flags, struct failure *why)
{
	cleanup_fd int top = -1;
	int fd;

	if (path[0] != '/')
		return fail(why, EINVAL, "the root \"%.150s\" is not an absolute path", path), -1;
	flags |= O_DIRECTORY;
	if (guest->has_openat2) {
		fd = openat2(AT_FDCWD, path, flags, 0, RESOLVE_NO_SYMLINKS);
	} else {
		top = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
		fd = open_step_by_step(top, path + strspn(path, "/"), flags, 0);
	}
	if (fd < 0)
		fail(why, errno, "cannot open the directory %.150s: %s%s", path, strerror(errno),
		     errno == ELOOP ? " (symbolic links in it are not followed)" : "");
	return fd;
}

bool probe_openat2(void)
{
	cleanup_fd int fd = openat2(AT_FDCWD, "/", O_PATH | O_DIRECTORY, 0, RESOLVE_NO_SYMLINKS);

	return fd >= 0 || !lacks_openat2(errno);
}
