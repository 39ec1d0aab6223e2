/* The record of a tree: what the last restore made there, and how it left it. An agent's names are only ever looked
 * up in it; the names in it are the snapshot's. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "trees.h"

#define ENTRIES_MAX 1000000u
#define NAMES_MAX ((size_t)32 << 20)

static struct record records[TREES_MAX];

static void *grown(void *memory, size_t count, size_t size)
{
	return count > SIZE_MAX / size ? NULL : realloc(memory, count * size);
}

/* NULL if there is none, or no place for one more. */
struct record *record_of(const char *tree, bool make)
{
	struct record *unused = NULL;

	for (size_t i = 0; i < TREES_MAX; i++) {
		if (records[i].tree == NULL)
			unused = unused == NULL ? &records[i] : unused;
		else if (strcmp(records[i].tree, tree) == 0)
			return &records[i];
	}
	if (!make || unused == NULL || (unused->tree = strdup(tree)) == NULL)
		return NULL;
	return unused;
}

/* The one after *previous*, the first one after NULL. */
struct record *record_next(struct record *previous)
{
	for (struct record *record = previous == NULL ? records : previous + 1; record < records + TREES_MAX; record++)
		if (record->tree != NULL)
			return record;
	return NULL;
}

void record_forget(struct record *record)
{
	free(record->tree);
	free(record->snapshot);
	free(record->made);
	free(record->names);
	free(record->buckets);
	*record = (struct record){.tree = NULL};
}

bool record_is_for(const struct record *record, const char *snapshot, int snapshot_root)
{
	struct stat status;

	return record->snapshot != NULL && strcmp(record->snapshot, snapshot) == 0 && fstat(snapshot_root, &status) == 0 &&
	       status.st_dev == record->device && status.st_ino == record->inode;
}

/* Starts anew, with the tree's own directory as entry 0. */
int record_begin(struct record *record, const char *snapshot, int snapshot_root)
{
	char *tree = record->tree;
	struct stat status;

	record->tree = NULL;
	record_forget(record);
	record->tree = tree;
	record->snapshot = strdup(snapshot);
	if (record->snapshot == NULL || fstat(snapshot_root, &status) < 0)
		return 1;
	record->device = status.st_dev;
	record->inode = status.st_ino;
	return record_add(record, NO_ENTRY, "") == NO_ENTRY;
}

const char *record_name(const struct record *record, uint32_t index)
{
	return record->names + record->made[index].name;
}

static uint32_t hash(uint32_t parent, const char *name)
{
	uint32_t value = 2166136261u ^ (parent * 2654435761u);

	for (; *name != '\0'; name++)
		value = (value ^ (unsigned char)*name) * 16777619u;
	return value ^ value >> 15;
}

uint32_t record_child(const struct record *record, uint32_t parent, const char *name)
{
	uint32_t index = record->bucket_count == 0 ? NO_ENTRY : record->buckets[hash(parent, name) % record->bucket_count];

	while (index != NO_ENTRY &&
	       (record->made[index].parent != parent || strcmp(record_name(record, index), name) != 0))
		index = record->made[index].next_in_bucket;
	return index;
}

static void hang_in_bucket(struct record *record, uint32_t index)
{
	struct made *made = &record->made[index];
	uint32_t *bucket = &record->buckets[hash(made->parent, record_name(record, index)) % record->bucket_count];

	made->next_in_bucket = *bucket;
	*bucket = index;
}

static int grow_entries(struct record *record)
{
	uint32_t capacity = record->capacity == 0 ? 64 : record->capacity * 2;
	struct made *made;
	uint32_t *buckets;

	if (record->count < record->capacity)
		return 0;
	if (capacity > ENTRIES_MAX * 2)
		return 1;
	made = grown(record->made, capacity, sizeof *made);
	if (made == NULL)
		return 1;
	record->made = made;
	buckets = grown(record->buckets, capacity, sizeof *buckets);
	if (buckets == NULL)
		return 1;
	record->buckets = buckets;
	record->capacity = record->bucket_count = capacity;
	memset(buckets, 0xff, capacity * sizeof *buckets); /* NO_ENTRY */
	for (uint32_t i = 0; i < record->count; i++)
		hang_in_bucket(record, i);
	return 0;
}

static int add_name(struct record *record, const char *name, uint32_t *at)
{
	size_t size = strlen(name) + 1, capacity = record->names_capacity == 0 ? 1024 : record->names_capacity;

	while (capacity < record->names_size + size)
		capacity *= 2;
	if (capacity > NAMES_MAX)
		return 1;
	if (capacity != record->names_capacity) {
		char *names = realloc(record->names, capacity);

		if (names == NULL)
			return 1;
		record->names = names;
		record->names_capacity = capacity;
	}
	memcpy(record->names + record->names_size, name, size);
	*at = (uint32_t)record->names_size;
	record->names_size += size;
	return 0;
}

/* Where it is now; NO_ENTRY without memory. An entry that is there already keeps its place. */
uint32_t record_add(struct record *record, uint32_t parent, const char *name)
{
	uint32_t index = record_child(record, parent, name), at;
	struct made *made;

	if (index != NO_ENTRY)
		return index;
	if (record->count == ENTRIES_MAX || grow_entries(record) || add_name(record, name, &at))
		return NO_ENTRY;
	index = record->count++;
	made = &record->made[index];
	*made = (struct made){.name = at, .parent = parent, .first_child = NO_ENTRY, .next_sibling = NO_ENTRY, .watch = -1};
	if (parent != NO_ENTRY) {
		made->next_sibling = record->made[parent].first_child;
		record->made[parent].first_child = index;
	}
	hang_in_bucket(record, index);
	return index;
}

void record_note(struct record *record, uint32_t index, const struct stat *status)
{
	struct made *made = &record->made[index];

	made->inode = status->st_ino;
	made->size = (uint64_t)status->st_size;
	made->blocks = (uint64_t)status->st_blocks;
	made->modified = status->st_mtim;
	made->changed = status->st_ctim;
	made->mode = status->st_mode;
	made->links = (uint32_t)status->st_nlink;
	made->fresh = true;
	made->written = false;
	made->round = record->round;
}

/* The kernel stamps changes with this clock, or a finer one that is never behind it. */
void record_finish(struct record *record)
{
	record->distrusted = false;
	clock_gettime(CLOCK_REALTIME_COARSE, &record->finished);
}

/* A change right after the record was made may have left the same time of change, as git has it. Times without a
 * fraction may be a file system's that has none. */
bool record_is_racy(const struct record *record, const struct made *made)
{
	const struct timespec *changed = &made->changed, *finished = &record->finished;

	if (changed->tv_nsec == 0)
		return true;
	return made->fresh && (changed->tv_sec > finished->tv_sec ||
	                       (changed->tv_sec == finished->tv_sec && changed->tv_nsec >= finished->tv_nsec));
}
