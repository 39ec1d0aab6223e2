/* Brings a tree back to the snapshot that it was made from: what is as the record has it stays, what is not there or
 * differs is made again, all else is removed. Whatever the kernel's times may not tell is compared by content.
 * Nothing runs in the sandbox meanwhile. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "trees.h"

#define COMPARED_AT_ONCE ((size_t)64 << 10)
#define READ_FLAGS (O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)

/* A directory on the way from the root to the one at work. */
struct level {
	struct level *above;
	const char *name;
	uint32_t index;
	unsigned int depth;
	int tree;
	int snapshot; /* opened when something of it is needed, -1 until then */
	bool changed; /* its own attributes are to be put back */
};

enum verdict { SAME, DIFFERENT, FAILED };

static int cannot(struct restoring *state, const char *what, const char *name)
{
	return fail(state->why, errno, "cannot %s %.150s: %s", what, name, strerror(errno));
}

static bool same_time(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

static int snapshot_of(struct restoring *state, struct level *level)
{
	if (level->snapshot < 0) {
		int above = snapshot_of(state, level->above);

		if (above >= 0)
			level->snapshot = openat(above, level->name, READ_FLAGS | O_DIRECTORY);
		if (above >= 0 && level->snapshot < 0)
			cannot(state, "open the snapshot's directory", level->name);
	}
	return level->snapshot;
}

/* Reading leaves no trace where that can be had. */
static int open_entry(int dir, const char *name, int flags)
{
	int fd = openat(dir, name, READ_FLAGS | O_NOATIME | flags);

	return fd < 0 && errno == EPERM ? openat(dir, name, READ_FLAGS | flags) : fd;
}

/* Whatever mode it has: see empty.c. */
static int open_directory(int dir, const char *name)
{
	int fd = open_entry(dir, name, O_DIRECTORY);

	return fd < 0 && errno == EACCES && fchmodat(dir, name, 0700, 0) == 0 ? open_entry(dir, name, O_DIRECTORY) : fd;
}

static ssize_t read_fully(int fd, char *into)
{
	size_t filled = 0;
	ssize_t size = 1;

	while (filled < COMPARED_AT_ONCE && (size = read(fd, into + filled, COMPARED_AT_ONCE - filled)) > 0)
		filled += (size_t)size;
	return size < 0 ? -1 : (ssize_t)filled;
}

static enum verdict compare_content(struct restoring *state, int source, int target, const char *name)
{
	static char block[COMPARED_AT_ONCE], other[COMPARED_AT_ONCE];
	ssize_t size;

	do {
		size = read_fully(source, block);
		if (size < 0 || size != read_fully(target, other)) {
			if (size < 0)
				return cannot(state, "read the snapshot's", name), FAILED;
			return DIFFERENT;
		}
		if (memcmp(block, other, (size_t)size) != 0)
			return DIFFERENT;
	} while (size == (ssize_t)COMPARED_AT_ONCE);
	return SAME;
}

static bool is_owners(const struct restoring *state, const struct stat *status)
{
	return status->st_uid == state->owner.uid && status->st_gid == state->owner.gid;
}

static bool same_looks(const struct restoring *state, const struct stat *source, const struct stat *target)
{
	return (source->st_mode & (mode_t)~06000) == target->st_mode && is_owners(state, target) &&
	       source->st_size == target->st_size && same_time(&source->st_mtim, &target->st_mtim) &&
	       source->st_nlink == target->st_nlink;
}

static enum verdict compare_link(struct restoring *state, int from, int dir, const char *name)
{
	char goal[PATH_MAX], other[PATH_MAX];
	ssize_t size = readlinkat(from, name, goal, sizeof goal);

	if (size < 0)
		return cannot(state, "read the snapshot's link", name), FAILED;
	return size == readlinkat(dir, name, other, sizeof other) && memcmp(goal, other, (size_t)size) == 0 ? SAME : DIFFERENT;
}

/* By content, and by everything else that a snapshot says. */
static enum verdict compare_with_snapshot(struct restoring *state, struct level *level, const char *name,
                                          const struct stat *status)
{
	cleanup_fd int source = -1, target = -1;
	struct stat expected;
	int from = snapshot_of(state, level);

	if (from < 0)
		return FAILED;
	state->counts->compared++;
	if (fstatat(from, name, &expected, AT_SYMLINK_NOFOLLOW) < 0)
		return cannot(state, "look at the snapshot's", name), FAILED;
	if (!same_looks(state, &expected, status))
		return DIFFERENT;
	if (S_ISLNK(status->st_mode))
		return compare_link(state, from, level->tree, name);
	source = openat(from, name, READ_FLAGS);
	if (source < 0)
		return cannot(state, "open the snapshot's", name), FAILED;
	target = open_entry(level->tree, name, 0);
	if (target < 0 || !same_attributes(source, target))
		return DIFFERENT;
	return compare_content(state, source, target, name);
}

/* Holes can be filled without a trace: on tmpfs it takes no more than to read them through a mapping. */
static bool same_room(const struct made *made, const struct stat *status)
{
	return made->size == (uint64_t)status->st_size && made->blocks == (uint64_t)status->st_blocks;
}

/* One file under several names: each must be a name of the same one. What one of them is changed by, all are; so the
 * times say nothing while some have been looked at and others not. */
static enum verdict judge_linked_file(struct restoring *state, struct level *level, uint32_t index,
                                      const struct stat *status)
{
	const char *name = record_name(state->record, index);
	enum verdict verdict = DIFFERENT;
	const struct link *link;
	struct stat source;
	size_t before;
	int failed;

	if (same_room(&state->record->made[index], status))
		verdict = compare_with_snapshot(state, level, name, status);
	if (verdict != SAME)
		return verdict;
	if (fstatat(level->snapshot, name, &source, AT_SYMLINK_NOFOLLOW) < 0)
		return cannot(state, "look at the snapshot's", name), FAILED;
	link = find_link(state, source.st_ino);
	if (link != NULL && link->inode != status->st_ino)
		return DIFFERENT;
	if (enter_path(state, name, &before))
		return FAILED;
	failed = remember_link(state, source.st_ino, status->st_ino, index);
	leave_path(state, before);
	return failed ? FAILED : SAME;
}

static bool as_noted(const struct made *made, const struct stat *status)
{
	return made->inode == status->st_ino && made->mode == status->st_mode &&
	       same_time(&made->changed, &status->st_ctim) && same_time(&made->modified, &status->st_mtim) &&
	       (S_ISDIR(made->mode) ||
	        (same_room(made, status) && made->links == (uint32_t)status->st_nlink));
}

static bool is_doubtful(const struct restoring *state, const struct level *level, const struct made *made)
{
	return state->full || state->record->distrusted || made->written ||
	       state->record->made[level->index].watch < 0 || record_is_racy(state->record, made);
}

/* A link's goal is for good; what else there is to it is in its status. Reading it would leave a time of access. */
static bool is_plain_link(const struct restoring *state, const struct made *made)
{
	return S_ISLNK(made->mode) && !state->full;
}

/* Reading leaves a time of access, by which one episode could speak to the next. */
static int forget_access(struct restoring *state, struct level *level, uint32_t index, const struct stat *status)
{
	const struct timespec times[2] = {status->st_mtim, status->st_mtim};
	const char *name = record_name(state->record, index);
	struct stat after;

	if (same_time(&status->st_atim, &status->st_mtim))
		return 0;
	if (utimensat(level->tree, name, times, AT_SYMLINK_NOFOLLOW) < 0 ||
	    fstatat(level->tree, name, &after, AT_SYMLINK_NOFOLLOW) < 0)
		return cannot(state, "set the time of", name);
	record_note(state->record, index, &after);
	return 0;
}

static enum verdict judge_file(struct restoring *state, struct level *level, uint32_t index, const struct stat *status)
{
	struct made *made = &state->record->made[index];
	enum verdict verdict = SAME;

	if (made->links > 1) {
		verdict = judge_linked_file(state, level, index, status);
	} else if (!as_noted(made, status)) {
		return DIFFERENT;
	} else if (is_doubtful(state, level, made)) {
		if (!is_plain_link(state, made))
			verdict = compare_with_snapshot(state, level, record_name(state->record, index), status);
		if (verdict == SAME)
			record_note(state->record, index, status); /* as of now */
	} else {
		made->fresh = false;
	}
	if (verdict == SAME && forget_access(state, level, index, status))
		return FAILED;
	made->round = 0; /* events on it are not of this restore's making */
	state->counts->kept += verdict == SAME;
	return verdict;
}

static int remove_it(struct restoring *state, struct level *level, const struct name *name)
{
	level->changed = true;
	return remove_entry(&state->remover, level->tree, name);
}

static int make_it(struct restoring *state, struct level *level, const char *name, uint32_t mode)
{
	unsigned char type = S_ISDIR(mode) ? DT_DIR : S_ISLNK(mode) ? DT_LNK : DT_REG;
	char copy[NAME_MAX + 1];
	int from = snapshot_of(state, level);

	if (from < 0)
		return 1;
	level->changed = true;
	snprintf(copy, sizeof copy, "%s", name); /* the record's own names may move */
	return make_entry(state, from, level->tree, &(struct name){copy, type}, level->index, level->depth);
}

/* Puts a directory's own attributes back; what is in it is done. */
static int finish_directory(struct restoring *state, const struct level *level)
{
	const struct made *made = &state->record->made[level->index];
	const struct timespec times[2] = {made->modified, made->modified};
	struct stat status;

	if ((state->chown && fchown(level->tree, state->owner.uid, state->owner.gid) < 0) ||
	    fchmod(level->tree, made->mode & 07777) < 0 || futimens(level->tree, times) < 0 ||
	    fstat(level->tree, &status) < 0)
		return cannot(state, "put back the directory", level->name);
	record_note(state->record, level->index, &status);
	return 0;
}

static int visit_directory(struct restoring *state, struct level *level);

/* More attributes than the kernel lists cannot be removed: then the directory is made again. */
static enum verdict judge_attributes(struct restoring *state, struct level *level)
{
	int from = snapshot_of(state, level);

	if (from < 0)
		return FAILED;
	if (same_attributes(from, level->tree))
		return SAME;
	level->changed = true;
	if (strip_attributes(level->tree, level->name, state->why))
		return DIFFERENT;
	return copy_attributes(state, from, level->tree, level->name) ? FAILED : SAME;
}

/* The directory is open: whether what is noted of it holds, and what must be put back in the end. */
static enum verdict judge_directory(struct restoring *state, struct level *level)
{
	struct made *made = &state->record->made[level->index];
	struct stat status;
	bool doubtful = state->full || record_is_racy(state->record, made);

	if (level->tree < 0 || fstat(level->tree, &status) < 0 || made->inode != status.st_ino)
		return DIFFERENT;
	level->changed = !as_noted(made, &status) || !is_owners(state, &status) ||
	                 !same_time(&status.st_atim, &status.st_mtim);
	made->fresh = doubtful;
	return doubtful || level->changed ? judge_attributes(state, level) : SAME;
}

static enum verdict visit_subdirectory(struct restoring *state, struct level *above, const char *name, uint32_t index)
{
	cleanup_fd int tree = open_directory(above->tree, name);
	struct level level = {above, name, index, above->depth + 1, tree, -1, false};
	enum verdict verdict;
	size_t before;

	if (enter_path(state, name, &before))
		return FAILED;
	verdict = judge_directory(state, &level);
	if (verdict == SAME && (visit_directory(state, &level) || (level.changed && finish_directory(state, &level))))
		verdict = FAILED;
	state->counts->kept += verdict == SAME;
	leave_path(state, before);
	close_fd(&level.snapshot);
	return verdict;
}

static int visit_entry(struct restoring *state, struct level *level, const struct name *name)
{
	uint32_t index = record_child(state->record, level->index, name->text);
	struct made *made = index == NO_ENTRY ? NULL : &state->record->made[index];
	enum verdict verdict = DIFFERENT;
	struct stat status;

	if (made == NULL)
		return remove_it(state, level, name);
	if (made->seen)
		return 0;
	made->seen = true;
	if (fstatat(level->tree, name->text, &status, AT_SYMLINK_NOFOLLOW) < 0)
		return cannot(state, "look at", name->text);
	if (S_ISDIR(status.st_mode) && S_ISDIR(made->mode))
		verdict = visit_subdirectory(state, level, name->text, index);
	else if (!S_ISDIR(made->mode))
		verdict = judge_file(state, level, index, &status);
	if (verdict != DIFFERENT)
		return verdict == FAILED;
	return remove_it(state, level, name) || make_it(state, level, name->text, state->record->made[index].mode);
}

static int make_missing(struct restoring *state, struct level *level)
{
	uint32_t index = state->record->made[level->index].first_child;

	while (index != NO_ENTRY) {
		const struct made *made = &state->record->made[index];

		if (!made->seen && make_it(state, level, record_name(state->record, index), made->mode))
			return 1;
		index = state->record->made[index].next_sibling;
	}
	return 0;
}

static int visit_directory(struct restoring *state, struct level *level)
{
	struct made *made = state->record->made;
	struct names *names = malloc(sizeof *names);
	struct name name;
	uint32_t before;
	int more, failed = names == NULL ? fail(state->why, ENOMEM, "out of memory for a directory") : 0;

	for (uint32_t i = made[level->index].first_child; i != NO_ENTRY; i = made[i].next_sibling)
		made[i].seen = false;
	do { /* again, for what some file systems skip while entries vanish */
		before = state->counts->removed;
		lseek(level->tree, 0, SEEK_SET);
		if (!failed)
			names_start(names, level->tree);
		while (!failed && (more = names_next(names, &name)) > 0)
			failed = visit_entry(state, level, &name);
		if (!failed && more < 0)
			failed = cannot(state, "list the directory", level->name);
	} while (!failed && state->counts->removed != before);
	free(names);
	if (!failed && state->record->made[level->index].watch < 0)
		watch_directory(state->guest, state->record, level->index, level->tree);
	return failed || make_missing(state, level);
}

/* The root's own attributes are the caller's. */
int bring_back_tree(struct restoring *state, int snapshot)
{
	struct level root = {NULL, state->record->tree, 0, 0, state->root, snapshot, false};

	state->bound_to_record = true;
	state->record->round++;
	return settle_links(state, visit_directory(state, &root));
}
