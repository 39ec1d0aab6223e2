/* Removes all that is in a directory, however deep, with two descriptors and no recursion: what is in a
 * subdirectory is unlinked, what is not empty there moves up to the top, where its turn comes.
 * Nothing runs in the sandbox meanwhile, so nothing changes between two calls. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest.h"

struct emptying {
	int root;
	uint64_t moved; /* numbers the names that directories get at the top */
	struct restore_counts *counts;
	struct failure *why;
};

static int cannot(struct emptying *state, const char *what, const char *name)
{
	return fail(state->why, errno, "cannot %s %.150s: %s", what, name, strerror(errno));
}

/* 0 gone, 1 a directory that is not empty, -1 with errno: EBUSY if something is mounted there. */
static int try_remove(int dir, const struct name *name)
{
	if (name->type != DT_DIR) {
		if (unlinkat(dir, name->text, 0) == 0)
			return 0;
		if (errno != EISDIR && errno != EPERM)
			return -1;
	}
	if (unlinkat(dir, name->text, AT_REMOVEDIR) == 0)
		return 0;
	return errno == ENOTEMPTY || errno == EEXIST ? 1 : -1;
}

/* Moves a directory to the top under a name of its own; a name that is taken there by more than an empty
 * directory makes the kernel refuse. */
static int move_up(struct emptying *state, int dir, const char *name)
{
	char fresh[32];
	bool opened = false;

	for (;;) {
		snprintf(fresh, sizeof fresh, ".removed-%llu", (unsigned long long)state->moved++);
		if (renameat(dir, name, state->root, fresh) == 0)
			return 0;
		/* Its ".." changes: without the power over modes that needs leave to write. */
		if (errno == EACCES && !opened && fchmodat(dir, name, 0700, 0) == 0)
			opened = true;
		else if (errno != ENOTEMPTY && errno != EEXIST && errno != ENOTDIR)
			return cannot(state, "move", name);
	}
}

/* Whatever mode it has; modes matter only to a guest without power over them. */
static int open_dir(struct emptying *state, const char *name)
{
	const int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
	cleanup_fd int dir = openat(state->root, name, flags);
	struct stat status;

	if (dir < 0 && errno == EACCES && fchmodat(state->root, name, 0700, 0) == 0)
		dir = openat(state->root, name, flags);
	if (dir < 0 || fstat(dir, &status) < 0)
		return cannot(state, "open", name), -1;
	if ((status.st_mode & 0700) != 0700 && fchmod(dir, 0700) < 0)
		return cannot(state, "change the mode of", name), -1;
	return steal_fd(&dir);
}

/* Empties a directory at the top, into which nothing is moved. */
static int empty_child(struct emptying *state, const char *child)
{
	static struct names names;
	cleanup_fd int dir = open_dir(state, child);
	struct name name;
	uint64_t progress = 1;
	int more, result;

	while (dir >= 0 && progress > 0) { /* again, for what some file systems skip while entries vanish */
		progress = 0;
		lseek(dir, 0, SEEK_SET);
		names_start(&names, dir);
		while ((more = names_next(&names, &name)) > 0) {
			result = try_remove(dir, &name);
			if (result < 0)
				return cannot(state, "remove", name.text);
			if (result > 0 && move_up(state, dir, name.text))
				return 1;
			state->counts->removed += result == 0;
			progress++;
		}
		if (more < 0)
			return cannot(state, "list", child);
	}
	return dir < 0;
}

static int empty_top(struct emptying *state, uint64_t *progress)
{
	static struct names names;
	struct name name;
	int more;

	lseek(state->root, 0, SEEK_SET);
	names_start(&names, state->root);
	while ((more = names_next(&names, &name)) > 0) {
		int result = try_remove(state->root, &name);

		if (result > 0) {
			if (empty_child(state, name.text))
				return 1;
			result = unlinkat(state->root, name.text, AT_REMOVEDIR);
		}
		if (result < 0)
			return cannot(state, "remove", name.text);
		state->counts->removed++;
		++*progress;
	}
	return more < 0 ? cannot(state, "list", "the tree") : 0;
}

int empty_tree(int root, struct restore_counts *counts, struct failure *why)
{
	struct emptying state = {.root = root, .counts = counts, .why = why};
	uint64_t progress = 1;

	while (progress > 0) {
		progress = 0;
		if (empty_top(&state, &progress))
			return 1;
	}
	return 0;
}
