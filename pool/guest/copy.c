/* Makes entries of a tree from a snapshot, which is the host's own: trusted, and nothing changes in it. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "trees.h"

#define SMALL ((off_t)64 << 10)            /* up to here one read and one write are the shortest way */
#define STEP ((size_t)64 << 20)            /* copied by one call */
#define BLOCK 512                          /* the unit of st_blocks */

static int cannot(struct restoring *state, const char *what, const char *name)
{
	return fail(state->why, errno, "cannot %s %.150s: %s", what, name, strerror(errno));
}

/* Access time too, so that two restored trees do not differ in it. */
static void times_of(const struct stat *status, struct timespec times[2])
{
	times[0] = times[1] = status->st_mtim;
}

int enter_path(struct restoring *state, const char *name, size_t *before)
{
	size_t size = strlen(name);

	*before = state->path_size;
	if (state->path_size + 1 + size >= sizeof state->path)
		return fail(state->why, ENAMETOOLONG, "the snapshot has paths of %zu bytes and more", sizeof state->path);
	if (state->path_size > 0)
		state->path[state->path_size++] = '/';
	memcpy(state->path + state->path_size, name, size + 1);
	state->path_size += size;
	return 0;
}

void leave_path(struct restoring *state, size_t before)
{
	state->path_size = before;
	state->path[before] = '\0';
}

/* NO_ENTRY without memory for it: the tree then has no record, and is emptied and filled the next time. */
static uint32_t add_to_record(struct restoring *state, uint32_t parent, const char *name)
{
	uint32_t index = state->record == NULL ? NO_ENTRY : record_add(state->record, parent, name);

	if (index == NO_ENTRY && state->record != NULL && !state->bound_to_record) {
		record_forget(state->record);
		state->record = NULL;
	}
	return index;
}

static int note(struct restoring *state, uint32_t index, int dir, const char *name)
{
	struct stat status;

	if (state->record == NULL || index == NO_ENTRY)
		return 0;
	if (fstatat(dir, name, &status, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) < 0)
		return cannot(state, "look at the new", name);
	record_note(state->record, index, &status);
	return 0;
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
static int copy_range(int from, int to, off_t end, off_t *at)
{
	ssize_t step = 1;
	off_t done = 0;

	while (*at < end && (step = copy_file_range(from, NULL, to, NULL, (size_t)(end - *at), 0)) > 0)
		*at += step;
	while (*at < end && (step = sendfile(to, from, NULL, (size_t)(end - *at) < STEP ? (size_t)(end - *at) : STEP)) > 0)
		*at += step;
	if (*at >= end)
		return 0;
	if (copy_small(from, to, &done))
		return 1;
	*at += done;
	return 0;
}

/* Holes stay holes. */
static int copy_large(int from, int to, const struct stat *status, off_t *done)
{
	bool sparse = status->st_blocks * BLOCK < status->st_size;
	off_t at = 0, end = status->st_size;

	while (at < status->st_size) {
		if (sparse) {
			off_t data = lseek(from, at, SEEK_DATA);

			if (data < 0 && errno == ENXIO)
				break; /* nothing but a hole is left */
			at = data < 0 ? at : data;
			end = lseek(from, at, SEEK_HOLE);
			end = end < 0 ? status->st_size : end;
			if (lseek(from, at, SEEK_SET) < 0 || lseek(to, at, SEEK_SET) < 0)
				return 1;
		}
		*done += end - at;
		if (copy_range(from, to, end, &at))
			return 1;
		if (at < end)
			break;
	}
	return sparse && ftruncate(to, status->st_size) < 0;
}

static int finish(struct restoring *state, int fd, const struct stat *status, const char *name, mode_t made_with)
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

const struct link *find_link(const struct restoring *state, uint64_t source)
{
	const struct link *link = state->links[source % LINK_BUCKETS];

	while (link != NULL && link->source != source)
		link = link->next;
	return link;
}

/* The name at state->path is one of a file that has several. */
int remember_link(struct restoring *state, uint64_t source, uint64_t inode, uint32_t index)
{
	struct link *link = malloc(sizeof *link + state->path_size + 1), **bucket;

	if (link == NULL)
		return fail(state->why, ENOMEM, "out of memory for the links of the snapshot");
	bucket = &state->links[source % LINK_BUCKETS];
	*link = (struct link){.source = source, .inode = inode, .index = index, .next = *bucket};
	memcpy(link->path, state->path, state->path_size + 1);
	*bucket = link;
	return 0;
}

/* Every further name changed the file that the first one was noted with. */
int settle_links(struct restoring *state, int failed)
{
	for (size_t i = 0; i < LINK_BUCKETS; i++) {
		while (state->links[i] != NULL) {
			struct link *link = state->links[i];

			failed = failed || note(state, link->index, state->root, link->path);
			state->links[i] = link->next;
			free(link);
		}
	}
	return failed;
}

static int copy_content(struct restoring *state, int source, int to, const struct stat *status, const char *name)
{
	mode_t mode = status->st_mode & 0777;
	cleanup_fd int target = openat(to, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
	off_t done = 0;

	if (target < 0)
		return cannot(state, "make", name);
	if (status->st_size <= SMALL ? copy_small(source, target, &done) : copy_large(source, target, status, &done))
		return cannot(state, "copy", name);
	state->counts->bytes += (uint64_t)done;
	return copy_attributes(state, source, target, name) || finish(state, target, status, name, mode);
}

/* The first of its names is a copy, the others are names of that. */
static int make_linked_file(struct restoring *state, int source, int to, const struct stat *status, const char *name,
                            uint32_t index)
{
	const struct link *link = find_link(state, status->st_ino);
	struct stat made;

	if (link == NULL && copy_content(state, source, to, status, name))
		return 1;
	if (link != NULL && linkat(state->root, link->path, to, name, 0) < 0)
		return cannot(state, "link", name);
	if (fstatat(to, name, &made, AT_SYMLINK_NOFOLLOW) < 0)
		return cannot(state, "look at the new", name);
	return remember_link(state, status->st_ino, made.st_ino, index);
}

static int copy_file(struct restoring *state, int from, int to, const char *name, uint32_t index)
{
	cleanup_fd int source = openat(from, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	struct stat status;

	if (source < 0 || fstat(source, &status) < 0)
		return cannot(state, "open the snapshot's", name);
	if (!S_ISREG(status.st_mode))
		return fail(state->why, EINVAL, "the snapshot's %.150s is no file, directory or symbolic link", name);
	if (status.st_nlink > 1)
		return make_linked_file(state, source, to, &status, name, index);
	return copy_content(state, source, to, &status, name) || note(state, index, to, name);
}

static int copy_link(struct restoring *state, int from, int to, const char *name, uint32_t index)
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
	return note(state, index, to, name);
}

/* Fills *to*, which is empty but for what was made of it already. */
static int copy_directory(struct restoring *state, int from, int to, uint32_t index, unsigned int depth)
{
	struct names *names;
	struct name name;
	int more, failed = 0;

	if (depth > DEPTH_MAX)
		return fail(state->why, ELOOP, "the snapshot is more than %u directories deep", DEPTH_MAX);
	names = malloc(sizeof *names);
	if (names == NULL)
		return fail(state->why, ENOMEM, "out of memory for a directory of the snapshot");
	names_start(names, from);
	while (!failed && (more = names_next(names, &name)) > 0)
		failed = make_entry(state, from, to, &name, index, depth);
	if (!failed && more < 0)
		failed = cannot(state, "list", "a directory of the snapshot");
	free(names);
	if (!failed && state->record != NULL)
		watch_directory(state->guest, state->record, index, to);
	return failed;
}

static int copy_subdirectory(struct restoring *state, int from, int to, const char *name, uint32_t index,
                             unsigned int depth)
{
	const int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
	cleanup_fd int source = openat(from, name, flags), target = -1;
	struct stat status;

	if (source < 0 || fstat(source, &status) < 0)
		return cannot(state, "open the snapshot's directory", name);
	if (mkdirat(to, name, 0700) < 0 || (target = openat(to, name, flags)) < 0)
		return cannot(state, "make the directory", name);
	if (copy_directory(state, source, target, index, depth) || copy_attributes(state, source, target, name) ||
	    finish(state, target, &status, name, 0700))
		return 1;
	return note(state, index, target, "");
}

/* *parent* is the place of its directory in the record; *depth* is that directory's. */
int make_entry(struct restoring *state, int from, int to, const struct name *name, uint32_t parent, unsigned int depth)
{
	uint32_t index = add_to_record(state, parent, name->text);
	unsigned char type = name->type;
	struct stat status;
	size_t before;
	int failed;

	if (index == NO_ENTRY && state->bound_to_record)
		return fail(state->why, ENOMEM, "out of memory for the record of a tree");
	if (enter_path(state, name->text, &before))
		return 1;
	if (type == DT_UNKNOWN) {
		if (fstatat(from, name->text, &status, AT_SYMLINK_NOFOLLOW) < 0)
			return cannot(state, "look at the snapshot's", name->text);
		type = S_ISDIR(status.st_mode) ? DT_DIR : S_ISLNK(status.st_mode) ? DT_LNK : DT_REG;
	}
	state->counts->made++;
	if (type == DT_DIR)
		failed = copy_subdirectory(state, from, to, name->text, index, depth + 1);
	else if (type == DT_LNK)
		failed = copy_link(state, from, to, name->text, index);
	else
		failed = copy_file(state, from, to, name->text, index);
	leave_path(state, before);
	return failed;
}

/* The root is empty; its own owner, mode and time are the caller's. */
int copy_tree(struct restoring *state, int from)
{
	return settle_links(state, copy_directory(state, from, state->root, 0, 0));
}
