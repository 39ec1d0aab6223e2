/* RESTORE: nothing of an episode survives it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "guest.h"

#define XATTR_NAMES_MAX (64 << 10)

struct tree {
	const char *path, *snapshot;
	struct owner owner;
	mode_t mode;
};

static int cannot(struct failure *why, const char *what, const char *path)
{
	return fail(why, errno, "cannot %s the tree %.150s: %s", what, path, strerror(errno));
}

/* What an agent hung on the tree's own directory, which stays: notes, and lists of access rights that all new
 * files in it would inherit. */
static int strip_attributes(int root, const struct tree *tree, struct failure *why)
{
	static char names[XATTR_NAMES_MAX];
	ssize_t size = flistxattr(root, names, sizeof names);

	if (size < 0)
		return errno == ENOTSUP ? 0 : cannot(why, "list the attributes of", tree->path);
	for (const char *name = names; name < names + size; name += strlen(name) + 1)
		if ((strncmp(name, "user.", 5) == 0 || strncmp(name, "system.posix_acl_", 17) == 0) &&
		    fremovexattr(root, name) < 0)
			return cannot(why, "remove an attribute of", tree->path);
	return 0;
}

static int finish_root(int root, int snapshot, const struct guest *guest, const struct tree *tree,
                       struct failure *why)
{
	struct timespec times[2];
	struct stat status;

	if (!guest->options.self && fchown(root, tree->owner.uid, tree->owner.gid) < 0)
		return cannot(why, "give away", tree->path);
	if (fchmod(root, tree->mode) < 0)
		return cannot(why, "change the mode of", tree->path);
	if (snapshot < 0)
		return 0;
	if (fstat(snapshot, &status) < 0)
		return cannot(why, "look at the snapshot of", tree->path);
	times[0] = times[1] = status.st_mtim;
	return futimens(root, times) < 0 ? cannot(why, "set the time of", tree->path) : 0;
}

static int restore_tree(const struct guest *guest, const struct tree *tree, struct restore_counts *counts,
                        struct failure *why)
{
	cleanup_fd int root = open_root(guest, tree->path, O_PATH, why), dir = -1;
	cleanup_fd int snapshot = -1;

	if (root < 0)
		return 1;
	if (tree->snapshot[0] != '\0') {
		snapshot = open(tree->snapshot, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (snapshot < 0)
			return fail(why, errno, "cannot open the snapshot %.150s: %s", tree->snapshot, strerror(errno));
	}
	/* Its mode could keep the guest out, or give files a group of the agent's choice. The path was just found to
	 * have no links in it, and nothing runs that could change that. */
	if (chmod(tree->path, 0700) < 0)
		return cannot(why, "change the mode of", tree->path);
	dir = openat(root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return cannot(why, "open", tree->path);
	if (strip_attributes(dir, tree, why) || empty_tree(dir, counts, why))
		return 1;
	if (snapshot >= 0 && copy_tree(snapshot, dir, tree->owner, counts, why))
		return 1;
	return finish_root(dir, snapshot, guest, tree, why);
}

static int take_trees(struct guest *guest, struct reader *reader, struct tree *trees, uint32_t *count,
                      uint32_t *flags)
{
	*flags = take_u32(reader);
	*count = take_u32(reader);
	if (reader->bad || *count > TREES_MAX)
		return fail(&guest->last_words, EPROTO, "a RESTORE has no tree count up to %u", TREES_MAX);
	for (uint32_t i = 0; i < *count; i++) {
		uint32_t uid, gid;

		trees[i].path = take_string(reader);
		trees[i].snapshot = take_string(reader);
		uid = take_u32(reader);
		gid = take_u32(reader);
		trees[i].owner = owner_of(guest, uid, gid);
		trees[i].mode = take_u32(reader);
	}
	if (!taken_all(reader))
		return fail(&guest->last_words, EPROTO, "the fields of a RESTORE do not fit its payload");
	return 0;
}

static int check_trees(const struct reader *reader, const struct tree *trees, uint32_t count, uint32_t flags,
                       struct failure *why)
{
	if (reader->nul)
		return fail(why, EINVAL, "a path of a RESTORE has a zero byte in it");
	if (flags != 0)
		return fail(why, EINVAL, "a RESTORE has unknown flags 0x%x", flags);
	for (uint32_t i = 0; i < count; i++)
		if (trees[i].mode > 07777)
			return fail(why, EINVAL, "0%o is not a mode for %.150s", trees[i].mode, trees[i].path);
	return 0;
}

/* The EXITs of the killed, with what still finds room of what they printed. */
static void end_runs(struct guest *guest)
{
	for (int i = 0; i < RUNS_MAX; i++) {
		struct run *run = &guest->runs[i];

		if (run->used && run->exited)
			output_settle(guest, run);
		if (run->used && run->exited)
			output_abandon(guest, run);
	}
	orphans_close(guest);
}

static int do_restore(struct guest *guest, const struct tree *trees, uint32_t count, struct restore_counts *counts,
                      struct failure *why)
{
	uint64_t started = now_ns();
	int failed = kill_everything(guest, &counts->killed, why);

	end_runs(guest);
	if (failed || remove_ipc(guest, why))
		return 1;
	for (uint32_t i = 0; i < count; i++)
		if (restore_tree(guest, &trees[i], counts, why))
			return 1;
	counts->ns = now_ns() - started;
	return 0;
}

int restore(struct guest *guest, uint32_t id, struct reader *reader)
{
	static struct tree trees[TREES_MAX];
	struct restore_counts counts = {0};
	struct failure why;
	uint32_t count, flags;

	if (take_trees(guest, reader, trees, &count, &flags))
		return 1;
	if (check_trees(reader, trees, count, flags, &why) || do_restore(guest, trees, count, &counts, &why))
		reply_error(guest, id, &why);
	else
		reply_done_restore(guest, id, &counts);
	return 0;
}
