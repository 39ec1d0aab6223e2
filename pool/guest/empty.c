/* Removes an entry, or all that is in a directory, however deep, with two descriptors and no recursion: what is in a
 * subdirectory is unlinked, what is not empty there moves up to the top, where its turn comes.
 * Nothing runs in the sandbox meanwhile, so nothing changes between two calls. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "trees.h"

static int cannot(struct remover *remover, const char *what, const char *name)
{
	return fail(remover->why, errno, "cannot %s %.150s: %s", what, name, strerror(errno));
}

/* The names that directories get at the top must be nobody else's: an agent cannot guess them. */
int remover_start(struct remover *remover, int root, struct restore_counts *counts, struct failure *why)
{
	static uint64_t secret;

	if (secret == 0 && getrandom(&secret, sizeof secret, 0) != (ssize_t)sizeof secret)
		return fail(why, errno, "cannot get random bytes: %s", strerror(errno));
	*remover = (struct remover){.root = root, .counts = counts, .why = why};
	snprintf(remover->prefix, sizeof remover->prefix, ".removed-%016llx", (unsigned long long)secret);
	return 0;
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

static void name_at_top(const struct remover *remover, uint64_t number, char name[64])
{
	snprintf(name, 64, "%s-%llu", remover->prefix, (unsigned long long)number);
}

static int move_up(struct remover *remover, int dir, const char *name)
{
	char fresh[64];

	name_at_top(remover, remover->moved, fresh);
	if (renameat(dir, name, remover->root, fresh) < 0 &&
	    /* Its ".." changes: without the power over modes that needs leave to write. */
	    (errno != EACCES || fchmodat(dir, name, 0700, 0) < 0 || renameat(dir, name, remover->root, fresh) < 0))
		return cannot(remover, "move", name);
	remover->moved++;
	return 0;
}

/* Whatever mode it has; modes matter only to a guest without power over them. */
static int open_dir(struct remover *remover, const char *name)
{
	const int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
	cleanup_fd int dir = openat(remover->root, name, flags);
	struct stat status;

	if (dir < 0 && errno == EACCES && fchmodat(remover->root, name, 0700, 0) == 0)
		dir = openat(remover->root, name, flags);
	if (dir < 0 || fstat(dir, &status) < 0)
		return cannot(remover, "open", name), -1;
	if ((status.st_mode & 0700) != 0700 && fchmod(dir, 0700) < 0)
		return cannot(remover, "change the mode of", name), -1;
	return steal_fd(&dir);
}

/* Empties a directory at the top, into which nothing is moved. */
static int empty_child(struct remover *remover, const char *child)
{
	static struct names names;
	cleanup_fd int dir = open_dir(remover, child);
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
				return cannot(remover, "remove", name.text);
			if (result > 0 && move_up(remover, dir, name.text))
				return 1;
			remover->counts->removed += result == 0;
			progress++;
		}
		if (more < 0)
			return cannot(remover, "list", child);
	}
	return dir < 0;
}

static int empty_moved(struct remover *remover)
{
	char child[64];

	for (; remover->emptied < remover->moved; remover->emptied++) {
		name_at_top(remover, remover->emptied, child);
		if (empty_child(remover, child))
			return 1;
		if (unlinkat(remover->root, child, AT_REMOVEDIR) < 0)
			return cannot(remover, "remove", child);
		remover->counts->removed++;
	}
	return 0;
}

int remove_entry(struct remover *remover, int dir, const struct name *name)
{
	int result = try_remove(dir, name);

	if (result < 0)
		return cannot(remover, "remove", name->text);
	if (result > 0)
		return move_up(remover, dir, name->text) || empty_moved(remover);
	remover->counts->removed++;
	return 0;
}

int empty_tree(struct remover *remover)
{
	static struct names names;
	struct name name;
	uint32_t before;
	int more;

	do {
		before = remover->counts->removed;
		lseek(remover->root, 0, SEEK_SET);
		names_start(&names, remover->root);
		while ((more = names_next(&names, &name)) > 0)
			if (remove_entry(remover, remover->root, &name))
				return 1;
		if (more < 0)
			return cannot(remover, "list", "the tree");
	} while (remover->counts->removed != before);
	return 0;
}
