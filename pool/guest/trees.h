/* What RESTORE works with: the record of what it made, and the state of one tree on its way back. */
#ifndef TREES_H
#define TREES_H

#include <limits.h>
#include <time.h>

#include "guest.h"

#define NO_ENTRY UINT32_MAX
#define DEPTH_MAX 200u            /* each level holds two descriptors and one block of names */
#define KEPT_MODE (S_ISVTX | 0777) /* no setuid, no setgid */
#define LINK_BUCKETS 1024u

/* One entry of a tree as a restore left it. The places in the record, not pointers: the table may move. */
struct made {
	uint64_t inode, size, blocks;
	struct timespec modified, changed;
	uint32_t mode, links;
	uint32_t name; /* where it begins among the names */
	uint32_t parent, next_in_bucket, first_child, next_sibling;
	uint32_t round; /* of the restore that made it or looked into it */
	int watch;    /* a directory's; -1 = files in it may have been written to unseen */
	bool fresh;   /* looked at by the last restore: its times may not tell it from a change right after that */
	bool written; /* somebody closed it after opening it for writing */
	bool seen;
};

/* A tree after its last restore. Memory for it is bounded; without it a tree is emptied and filled. */
struct record {
	char *tree, *snapshot;
	dev_t device;
	ino_t inode; /* of the snapshot's root */
	struct made *made;
	uint32_t count, capacity;
	char *names;
	size_t names_size, names_capacity;
	uint32_t *buckets, bucket_count;
	uint32_t round;
	struct timespec finished; /* no change by an agent is older */
	bool distrusted;          /* something may have been written to that nobody told of */
};

/* Removes entries, however deep. */
struct remover {
	int root;
	uint64_t moved, emptied;
	char prefix[32];
	struct restore_counts *counts;
	struct failure *why;
};

/* A file of the snapshot with several names, and one of its names in the tree. */
struct link {
	uint64_t source, inode; /* there and here */
	uint32_t index;
	struct link *next;
	char path[];
};

struct restoring {
	const struct guest *guest;
	int root;
	struct owner owner;
	bool chown; /* new files are not the owner's already */
	bool full;  /* compare by content whatever the record says */
	struct record *record;
	bool bound_to_record; /* cannot go on without it */
	struct remover remover;
	struct link *links[LINK_BUCKETS];
	char path[PATH_MAX]; /* of the entry at work, relative to the root */
	size_t path_size;
	struct restore_counts *counts;
	struct failure *why;
};

/* restore.c */
int open_restored(const struct guest *guest, const char *path, struct failure *why);
int end_everything(struct guest *guest, uint32_t *killed, struct failure *why);

/* empty.c */
int remover_start(struct remover *remover, int root, struct restore_counts *counts, struct failure *why);
int remove_entry(struct remover *remover, int dir, const struct name *name);
int empty_tree(struct remover *remover);

/* record.c */
struct record *record_of(const char *tree, bool make);
struct record *record_next(struct record *previous);
bool record_is_for(const struct record *record, const char *snapshot, int snapshot_root);
int record_begin(struct record *record, const char *snapshot, int snapshot_root);
void record_forget(struct record *record);
uint32_t record_child(const struct record *record, uint32_t parent, const char *name);
uint32_t record_add(struct record *record, uint32_t parent, const char *name);
void record_note(struct record *record, uint32_t index, const struct stat *status);
void record_finish(struct record *record);
const char *record_name(const struct record *record, uint32_t index);
bool record_is_racy(const struct record *record, const struct made *made);

/* watch.c */
void watch_directory(const struct guest *guest, struct record *record, uint32_t index, int dir);
size_t watch_collect(const struct guest *guest, bool late);
void watch_distrust(const struct guest *guest);

/* attributes.c */
int copy_attributes(struct restoring *state, int from, int to, const char *name);
bool same_attributes(int from, int to);
int strip_attributes(int fd, const char *name, struct failure *why);

/* copy.c */
int copy_tree(struct restoring *state, int from);
int make_entry(struct restoring *state, int from, int to, const struct name *name, uint32_t parent, unsigned int depth);
int settle_links(struct restoring *state, int failed);
const struct link *find_link(const struct restoring *state, uint64_t source);
int remember_link(struct restoring *state, uint64_t source, uint64_t inode, uint32_t index);
int enter_path(struct restoring *state, const char *name, size_t *before);
void leave_path(struct restoring *state, size_t before);

/* compare.c */
int bring_back_tree(struct restoring *state, int snapshot);

#endif
