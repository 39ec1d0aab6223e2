/* RESTORE: nothing of an episode survives it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "trees.h"

#define RESTORE_FULL 1u
#define RESTORE_SYSTEM 2u /* throw a layer over the root file system away even where no tree is named */
#define PASSES_MAX 3
#define EMPTY_TIME 1700000000 /* of trees without a snapshot: all the same */

struct tree {
	const char *path, *snapshot;
	struct owner owner;
	mode_t mode;
};

static int cannot(struct failure *why, const char *what, const char *path)
{
	return fail(why, errno, "cannot %s the tree %.150s: %s", what, path, strerror(errno));
}

static int finish_root(int root, int snapshot, const struct guest *guest, const struct tree *tree,
                       struct failure *why)
{
	struct stat status = {.st_mtim = {.tv_sec = EMPTY_TIME}};
	struct timespec times[2];

	if (!guest->options.self && fchown(root, tree->owner.uid, tree->owner.gid) < 0)
		return cannot(why, "give away", tree->path);
	if (fchmod(root, tree->mode) < 0)
		return cannot(why, "change the mode of", tree->path);
	if (snapshot >= 0 && fstat(snapshot, &status) < 0)
		return cannot(why, "look at the snapshot of", tree->path);
	times[0] = times[1] = status.st_mtim;
	return futimens(root, times) < 0 ? cannot(why, "set the time of", tree->path) : 0;
}

/* Emptied and filled; with a record, for the next time, if there is memory for it. */
static int refill_tree(struct restoring *state, const struct tree *tree, int snapshot)
{
	struct record *record = snapshot < 0 ? NULL : record_of(tree->path, true);

	state->record = record;
	if (empty_tree(&state->remover))
		return 1;
	if (snapshot < 0)
		return 0;
	if (record != NULL && record_begin(record, tree->snapshot, snapshot)) {
		record_forget(record);
		state->record = NULL;
	}
	return copy_tree(state, snapshot);
}

static int fill_tree(struct restoring *state, const struct tree *tree, int snapshot)
{
	struct record *record = record_of(tree->path, false);
	int failed;

	if (record != NULL && snapshot >= 0 && record_is_for(record, tree->snapshot, snapshot)) {
		state->record = record;
		failed = bring_back_tree(state, snapshot);
	} else {
		if (record != NULL)
			record_forget(record);
		failed = refill_tree(state, tree, snapshot);
	}
	record = record_of(tree->path, false);
	if (failed && record != NULL)
		record_forget(record);
	return failed;
}

/* Its mode could keep the guest out, or give files a group of the agent's choice. The path is found to have no links in
 * it, and nothing runs that could change that. */
int open_restored(const struct guest *guest, const char *path, struct failure *why)
{
	cleanup_fd int root = open_root(guest, path, O_PATH, why);
	int dir;

	if (root < 0)
		return -1;
	if (chmod(path, 0700) < 0)
		return cannot(why, "change the mode of", path), -1;
	dir = openat(root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		cannot(why, "open", path);
	return dir;
}

static int restore_tree(const struct guest *guest, const struct tree *tree, bool full, struct restore_counts *counts,
                        struct failure *why)
{
	static struct restoring state;
	cleanup_fd int dir = -1, snapshot = -1;

	if (tree->snapshot[0] != '\0') {
		snapshot = open(tree->snapshot, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (snapshot < 0)
			return fail(why, errno, "cannot open the snapshot %.150s: %s", tree->snapshot, strerror(errno));
	}
	dir = open_restored(guest, tree->path, why);
	if (dir < 0)
		return 1;
	state = (struct restoring){.guest = guest, .root = dir, .owner = tree->owner, .full = full, .counts = counts,
	                           .why = why};
	state.chown = tree->owner.uid != geteuid() || tree->owner.gid != getegid();
	if (remover_start(&state.remover, dir, counts, why) || strip_attributes(dir, tree->path, why) ||
	    fill_tree(&state, tree, snapshot) || finish_root(dir, snapshot, guest, tree, why))
		return 1;
	if (state.record != NULL)
		record_finish(state.record);
	return 0;
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
	if (flags & ~(RESTORE_FULL | RESTORE_SYSTEM))
		return fail(why, EINVAL, "a RESTORE has unknown flags 0x%x", flags);
	for (uint32_t i = 0; i < count; i++)
		if (trees[i].mode > 07777)
			return fail(why, EINVAL, "0%o is not a mode for %.150s", trees[i].mode, trees[i].path);
	return 0;
}

/* The EXITs of the killed, with what still finds room of what they printed. */
static void end_runs(struct guest *guest)
{
	for (int i = 0; i < guest->runs_end; i++) {
		struct run *run = &guest->runs[i];

		if (run->used && run->exited)
			output_settle(guest, run);
		if (run->used && run->exited)
			output_abandon(guest, run);
	}
	orphans_close(guest);
}

/* A process of the machine that looked at one of the killed may have held its memory a moment longer than its life,
 * and the kernel tells of what it wrote to only then: what comes late is looked at again. */
static int restore_trees(const struct guest *guest, const struct tree *trees, uint32_t count, bool full,
                         struct restore_counts *counts, struct failure *why)
{
	size_t written = 1;

	watch_distrust(guest);
	watch_collect(guest, false);
	for (int pass = 0; written > 0 && pass < PASSES_MAX; pass++) {
		counts->kept = counts->compared = 0;
		for (uint32_t i = 0; i < count; i++)
			if (restore_tree(guest, &trees[i], full, counts, why))
				return 1;
		written = watch_collect(guest, true);
	}
	return written > 0 ? fail(why, EBUSY, "files are written to after everything was killed") : 0;
}

int end_everything(struct guest *guest, uint32_t *killed, struct failure *why)
{
	int failed = kill_everything(guest, killed, why);

	end_runs(guest);
	return failed || remove_ipc(guest, why);
}

static int do_restore(struct guest *guest, const struct tree *trees, uint32_t count, uint32_t flags,
                      struct restore_counts *counts, struct failure *why)
{
	uint64_t started = now_ns();
	bool system = count > 0 || (flags & RESTORE_SYSTEM);
	mode_t mask;
	int failed;

	if (end_everything(guest, &counts->killed, why) || (system && root_renew(guest, why)))
		return 1;
	mask = umask(0);
	failed = count > 0 && restore_trees(guest, trees, count, flags & RESTORE_FULL, counts, why);
	umask(mask);
	if (!failed && system)
		failed = root_hide_snapshots(guest, why);
	counts->ns = now_ns() - started;
	return failed;
}

int restore(struct guest *guest, uint32_t id, struct reader *reader)
{
	static struct tree trees[TREES_MAX];
	struct restore_counts counts = {0};
	struct failure why;
	uint32_t count, flags;

	if (take_trees(guest, reader, trees, &count, &flags))
		return 1;
	if (check_trees(reader, trees, count, flags, &why) || do_restore(guest, trees, count, flags, &counts, &why))
		reply_error(guest, id, &why);
	else
		reply_done_restore(guest, id, &counts);
	return 0;
}
