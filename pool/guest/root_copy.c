/* Copies the sandbox's root file system, as the image has it, into a directory of the launcher's: once per image, where
 * images lie in a file system that is slow to open files in. Nothing else runs in that sandbox. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "trees.h"

#define COPY_DEPTH_MAX 200
#define STEP ((size_t)64 << 20)
#define RESERVE 20 /* one part in so many of the target's file system stays free */
#define ATTRIBUTES_MAX (64 << 10)

/* A file with several names, by the first that was copied. */
struct linked {
	struct linked *next;
	ino_t inode;
	char path[];
};

struct copying {
	int target;  /* the top of the copy */
	int channel; /* readable only when the host is gone, for it says nothing before it was greeted */
	struct linked *linked;
	struct failure *why;
	size_t path_size;
	char path[PATH_MAX]; /* below the top, of what is being copied */
};

static int copy_dir(struct copying *state, int from, int to, unsigned int depth);

static int cannot(struct copying *state, const char *what)
{
	return fail(state->why, errno, "cannot %s %.150s: %s", what, state->path, strerror(errno));
}

static int may_go_on(struct copying *state)
{
	struct pollfd host = {.fd = state->channel, .events = POLLIN};
	struct statvfs info;

	if (poll(&host, 1, 0) > 0)
		return fail(state->why, ECANCELED, "the host is gone");
	if (fstatvfs(state->target, &info) < 0)
		return cannot(state, "ask for the space for");
	if (info.f_bavail < info.f_blocks / RESERVE || (info.f_files > 0 && info.f_favail < info.f_files / RESERVE))
		return fail(state->why, ENOSPC, "the volume is nearly full");
	return 0;
}

/* The attributes of a file, such as its capabilities; those that the target's file system has no room for are left. */
static int copy_all_attributes(struct copying *state, int from, int to)
{
	static char names[ATTRIBUTES_MAX], value[ATTRIBUTES_MAX];
	ssize_t size = flistxattr(from, names, sizeof names);

	if (size < 0)
		return errno == ENOTSUP ? 0 : cannot(state, "list the attributes of");
	for (const char *name = names; name < names + size; name += strlen(name) + 1) {
		ssize_t length = fgetxattr(from, name, value, sizeof value);

		if (length < 0 || (fsetxattr(to, name, value, (size_t)length, 0) < 0 && errno != ENOTSUP && errno != EPERM))
			return cannot(state, "copy an attribute of");
	}
	return 0;
}

static int finish(struct copying *state, int from, int to, const struct stat *status)
{
	const struct timespec times[2] = {status->st_mtim, status->st_mtim};

	/* The owner first: a change of it takes set-user-id and capabilities away. */
	if (fchown(to, status->st_uid, status->st_gid) < 0 || fchmod(to, status->st_mode & 07777) < 0)
		return cannot(state, "give away");
	if (copy_all_attributes(state, from, to))
		return 1;
	return futimens(to, times) < 0 ? cannot(state, "set the time of") : 0;
}

/* 1 if it was made as another name of a file that is there already, -1 if that failed. */
static int make_link(struct copying *state, const struct stat *status)
{
	struct linked *linked;

	if (status->st_nlink < 2)
		return 0;
	for (linked = state->linked; linked != NULL; linked = linked->next)
		if (linked->inode == status->st_ino)
			return linkat(state->target, linked->path, state->target, state->path, 0) < 0
			           ? (cannot(state, "link"), -1)
			           : 1;
	linked = malloc(sizeof *linked + state->path_size + 1);
	if (linked == NULL)
		return fail(state->why, ENOMEM, "out of memory for the names of files"), -1;
	linked->inode = status->st_ino;
	memcpy(linked->path, state->path, state->path_size + 1);
	linked->next = state->linked;
	state->linked = linked;
	return 0;
}

static int copy_bytes(int from, int to, off_t size)
{
	off_t done = 0;
	ssize_t step = 1;

	while (done < size && (step = copy_file_range(from, NULL, to, NULL, STEP, 0)) > 0)
		done += step;
	while (done < size && (step = sendfile(to, from, NULL, STEP)) > 0)
		done += step;
	return done < size;
}

static int copy_file(struct copying *state, int from, int to, const char *name, const struct stat *status)
{
	cleanup_fd int source = openat(from, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC), target = -1;

	if (source < 0)
		return cannot(state, "open");
	target = openat(to, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (target < 0 || copy_bytes(source, target, status->st_size))
		return cannot(state, "copy");
	return finish(state, source, target, status);
}

static int copy_link(struct copying *state, int from, int to, const char *name, const struct stat *status)
{
	const struct timespec times[2] = {status->st_mtim, status->st_mtim};
	char goal[PATH_MAX];
	ssize_t size = readlinkat(from, name, goal, sizeof goal - 1);

	if (size < 0)
		return cannot(state, "read the link");
	goal[size] = '\0';
	if (symlinkat(goal, to, name) < 0 ||
	    fchownat(to, name, status->st_uid, status->st_gid, AT_SYMLINK_NOFOLLOW) < 0 ||
	    utimensat(to, name, times, AT_SYMLINK_NOFOLLOW) < 0)
		return cannot(state, "make the link");
	return 0;
}

static int copy_subdir(struct copying *state, int from, int to, const char *name, const struct stat *status,
                       unsigned int depth)
{
	const int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
	cleanup_fd int source = openat(from, name, flags), target = -1;

	if (source < 0)
		return cannot(state, "open");
	if (mkdirat(to, name, 0700) < 0 || (target = openat(to, name, flags)) < 0)
		return cannot(state, "make");
	if (copy_dir(state, source, target, depth))
		return 1;
	return finish(state, source, target, status);
}

/* Sockets, pipes and devices: nobody listens, and no device can be opened under this root. */
static int copy_special(struct copying *state, int to, const char *name, const struct stat *status)
{
	if (!S_ISFIFO(status->st_mode))
		return 0;
	if (mknodat(to, name, S_IFIFO | 0600, 0) < 0 ||
	    fchownat(to, name, status->st_uid, status->st_gid, AT_SYMLINK_NOFOLLOW) < 0 ||
	    fchmodat(to, name, status->st_mode & 07777, 0) < 0)
		return cannot(state, "make");
	return 0;
}

static int copy_entry(struct copying *state, int from, int to, const char *name, unsigned int depth)
{
	struct stat status;
	int linked;

	if (fstatat(from, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
		return cannot(state, "look at");
	if (S_ISDIR(status.st_mode))
		return copy_subdir(state, from, to, name, &status, depth + 1);
	linked = make_link(state, &status);
	if (linked != 0)
		return linked < 0;
	if (S_ISREG(status.st_mode))
		return copy_file(state, from, to, name, &status);
	if (S_ISLNK(status.st_mode))
		return copy_link(state, from, to, name, &status);
	return copy_special(state, to, name, &status);
}

static int copy_named(struct copying *state, int from, int to, const char *name, unsigned int depth)
{
	size_t size = state->path_size, length = strlen(name);
	int failed;

	if (size + 1 + length >= sizeof state->path)
		return fail(state->why, ENAMETOOLONG, "a path below %.150s is too long", state->path);
	if (size > 0)
		state->path[state->path_size++] = '/';
	memcpy(state->path + state->path_size, name, length + 1);
	state->path_size += length;
	failed = copy_entry(state, from, to, name, depth);
	state->path[size] = '\0';
	state->path_size = size;
	return failed;
}

static int copy_dir(struct copying *state, int from, int to, unsigned int depth)
{
	struct names *names;
	struct name name;
	int more, failed = may_go_on(state);

	if (depth > COPY_DEPTH_MAX)
		return fail(state->why, ELOOP, "the image is more than %d directories deep", COPY_DEPTH_MAX);
	names = malloc(sizeof *names);
	if (names == NULL)
		return fail(state->why, ENOMEM, "out of memory for a directory of the image");
	names_start(names, from);
	while (!failed && (more = names_next(names, &name)) > 0)
		failed = copy_named(state, from, to, name.text, depth);
	if (!failed && more < 0)
		failed = cannot(state, "list");
	free(names);
	return failed;
}

/* Each sandbox has its own accounts mounted over these, which an image without any has no place for. */
static int make_account_places(struct copying *state)
{
	static const char *const names[] = {"passwd", "group"};
	cleanup_fd int etc = -1;
	struct stat status;

	if (mkdirat(state->target, "etc", 0755) < 0 && errno != EEXIST)
		return cannot(state, "make /etc in");
	etc = openat(state->target, "etc", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (etc < 0 || fstat(etc, &status) < 0)
		return errno == ELOOP || errno == ENOTDIR ? 0 : cannot(state, "open /etc in"); /* then it stays as it is */
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		cleanup_fd int file = openat(etc, names[i], O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);

		if (file < 0 && errno != EEXIST)
			return cannot(state, "make accounts in");
	}
	return futimens(etc, (const struct timespec[2]){status.st_atim, status.st_mtim}) < 0
	           ? cannot(state, "set the time of /etc in")
	           : 0;
}

static int copy_top(int channel, int source, int target, struct failure *why)
{
	static struct copying state;
	struct stat status;
	int failed;

	state = (struct copying){.target = target, .channel = channel, .why = why};
	if (fstat(source, &status) < 0)
		return cannot(&state, "look at");
	failed = copy_dir(&state, source, target, 0) || make_account_places(&state) ||
	         finish(&state, source, target, &status);
	while (state.linked != NULL) {
		struct linked *next = state.linked->next;

		free(state.linked);
		state.linked = next;
	}
	return failed;
}

/* *path* is there only when all of it is. What a failure leaves is removed, for the volume lives on. */
static int copy_root(int channel, const char *path, struct failure *why)
{
	char partial[PATH_BYTES];
	cleanup_fd int source = -1, target = -1;
	struct restore_counts counts = {0};
	struct remover remover;
	struct failure ignored;

	if (snprintf(partial, sizeof partial, "%s.partial", path) >= (int)sizeof partial)
		return fail(why, ENAMETOOLONG, "%.150s is too long a path", path);
	/* Bound alone, without what is mounted on it. */
	if (mount("/", ROOT_STAGE, NULL, MS_BIND, NULL) < 0)
		return fail(why, errno, "cannot mount the image's root: %s; it needs CAP_SYS_ADMIN", strerror(errno));
	source = open(ROOT_STAGE, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (source < 0 || mkdir(partial, 0700) < 0)
		return fail(why, errno, "cannot make %.150s: %s", partial, strerror(errno));
	target = open(partial, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (target < 0)
		return fail(why, errno, "cannot open %.150s: %s", partial, strerror(errno));
	if (copy_top(channel, source, target, why)) {
		if (remover_start(&remover, target, &counts, &ignored) == 0 && empty_tree(&remover) == 0)
			rmdir(partial);
		return 1;
	}
	close_fd(&source);
	if (rename(partial, path) < 0 || umount2(ROOT_STAGE, UMOUNT_NOFOLLOW) < 0)
		return fail(why, errno, "cannot finish %.150s: %s", path, strerror(errno));
	return 0;
}

int root_copy(const struct guest *guest)
{
	struct failure why = {.errnum = 0};

	if (guest->options.root.copy_to == NULL)
		return 0;
	umask(0);
	if (copy_root(guest->channel_in, guest->options.root.copy_to, &why))
		return complain("cannot copy the root file system: %s", why.text);
	return 0;
}
