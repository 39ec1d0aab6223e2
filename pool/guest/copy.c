/* Fills a tree from a snapshot, which is the host's own: trusted, and nothing changes in it. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest.h"

#define DEPTH_MAX 200                      /* each level holds two descriptors and one block of names */
#define SMALL ((off_t)64 << 10)            /* up to here one read and one write are the shortest way */
#define KEPT_MODE (S_ISVTX | 0777)         /* no setuid, no setgid */
#define STEP ((size_t)64 << 20)            /* copied by one call */

struct copying {
	struct owner owner;
	bool chown; /* new files are not the owner's already */
	struct restore_counts *counts;
	struct failure *why;
};

static int copy_directory(struct copying *state, int from, int to, unsigned int depth);

static int cannot(struct copying *state, const char *what, const char *name)
{
	return fail(state->why, errno, "cannot %s %.150s: %s", what, name, strerror(errno));
}

/* Access time too, so that two restored trees do not differ in it. */
static void times_of(const struct stat *status, struct timespec times[2])
{
	times[0] = times[1] = status->st_mtim;
}

static int copy_small(int from, int to, off_t *done)
{
	static char block[SMALL];
	ssize_t size;

	while ((size = read(from, block, sizeof block)) > 0) {
		for (ssize_t at = 0; at < size;) {
			ssize_t written = write(to, block + at, (size_t)(size - at));

			if (written <= 0)
				return 1;
			at += written;
		}
		*done += size;
		if (size < (ssize_t)sizeof block)
			return 0;
	}
	return size < 0;
}

/* In the kernel, sharing blocks where the file system can; by hand where neither way is offered. */
static int copy_large(int from, int to, off_t size, off_t *done)
{
	ssize_t step = 1;

	while (*done < size && (step = copy_file_range(from, NULL, to, NULL, STEP, 0)) > 0)
		*done += step;
	while (*done < size && (step = sendfile(to, from, NULL, STEP)) > 0)
		*done += step;
	return *done < size ? copy_small(from, to, done) : 0;
}

static int finish(struct copying *state, int fd, const struct stat *status, const char *name, mode_t made_with)
{
	mode_t mode = status->st_mode & KEPT_MODE;
	struct timespec times[2];

	times_of(status, times);
	if (state->chown && fchown(fd, state->owner.uid, state->owner.gid) < 0)
		return cannot(state, "give away", name);
	if (mode != made_with && fchmod(fd, mode) < 0)
		return cannot(state, "change the mode of", name);
	if (futimens(fd, times) < 0)
		return cannot(state, "set the time of", name);
	return 0;
}

static int copy_file(struct copying *state, int from, int to, const char *name)
{
	cleanup_fd int source = openat(from, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC), target = -1;
	struct stat status;
	off_t done = 0;
	mode_t mode;

	if (source < 0 || fstat(source, &status) < 0)
		return cannot(state, "open the snapshot's", name);
	if (!S_ISREG(status.st_mode))
		return fail(state->why, EINVAL, "the snapshot's %.150s is no file, directory or symbolic link", name);
	mode = status.st_mode & 0777;
	target = openat(to, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
	if (target < 0)
		return cannot(state, "make", name);
	if (status.st_size <= SMALL ? copy_small(source, target, &done)
	                            : copy_large(source, target, status.st_size, &done))
		return cannot(state, "copy", name);
	state->counts->bytes += (uint64_t)done;
	return finish(state, target, &status, name, mode);
}

static int copy_link(struct copying *state, int from, int to, const char *name)
{
	char goal[PATH_MAX + 1];
	struct stat status;
	struct timespec times[2];
	ssize_t size = readlinkat(from, name, goal, sizeof goal - 1);

	if (size < 0 || fstatat(from, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
		return cannot(state, "read the snapshot's link", name);
	goal[size] = '\0';
	times_of(&status, times);
	if (symlinkat(goal, to, name) < 0)
		return cannot(state, "make the link", name);
	if (state->chown && fchownat(to, name, state->owner.uid, state->owner.gid, AT_SYMLINK_NOFOLLOW) < 0)
		return cannot(state, "give away the link", name);
	if (utimensat(to, name, times, AT_SYMLINK_NOFOLLOW) < 0)
		return cannot(state, "set the time of the link", name);
	return 0;
}

static int copy_subdirectory(struct copying *state, int from, int to, const char *name, unsigned int depth)
{
	const int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
	cleanup_fd int source = openat(from, name, flags), target = -1;
	struct stat status;

	if (source < 0 || fstat(source, &status) < 0)
		return cannot(state, "open the snapshot's directory", name);
	if (mkdirat(to, name, 0700) < 0 || (target = openat(to, name, flags)) < 0)
		return cannot(state, "make the directory", name);
	if (copy_directory(state, source, target, depth))
		return 1;
	return finish(state, target, &status, name, 0700);
}

static int copy_entry(struct copying *state, int from, int to, const struct name *name, unsigned int depth)
{
	unsigned char type = name->type;
	struct stat status;

	if (type == DT_UNKNOWN) {
		if (fstatat(from, name->text, &status, AT_SYMLINK_NOFOLLOW) < 0)
			return cannot(state, "look at the snapshot's", name->text);
		type = S_ISDIR(status.st_mode) ? DT_DIR : S_ISLNK(status.st_mode) ? DT_LNK : DT_REG;
	}
	state->counts->made++;
	if (type == DT_DIR)
		return copy_subdirectory(state, from, to, name->text, depth + 1);
	return type == DT_LNK ? copy_link(state, from, to, name->text) : copy_file(state, from, to, name->text);
}

static int copy_directory(struct copying *state, int from, int to, unsigned int depth)
{
	struct names *names;
	struct name name;
	int more, failed = 0;

	if (depth > DEPTH_MAX)
		return fail(state->why, ELOOP, "the snapshot is more than %d directories deep", DEPTH_MAX);
	names = malloc(sizeof *names);
	if (names == NULL)
		return fail(state->why, ENOMEM, "out of memory for a directory of the snapshot");
	names_start(names, from);
	while (!failed && (more = names_next(names, &name)) > 0)
		failed = copy_entry(state, from, to, &name, depth);
	if (!failed && more < 0)
		failed = cannot(state, "list", "a directory of the snapshot");
	free(names);
	return failed;
}

/* *to* is empty; its own owner, mode and time are the caller's. */
int copy_tree(int from, int to, struct owner owner, struct restore_counts *counts, struct failure *why)
{
	struct copying state = {.owner = owner, .counts = counts, .why = why};
	mode_t mask = umask(0);
	int failed;

	state.chown = owner.uid != geteuid() || owner.gid != getegid();
	failed = copy_directory(&state, from, to, 0);
	umask(mask);
	return failed;
}
