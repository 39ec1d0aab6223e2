/* Who wrote to what: a program can change a file through a shared mapping without a trace in its times, but not without
 * having opened it for writing, and the kernel tells of the close that follows (at the latest when the program is
 * killed). It tells the guest once, before the next restore, and not in between. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "trees.h"

#define SOCKETS_MAX 8                  /* two make the channel */
#define TABLE_MAX ((size_t)64 << 10) /* of the kernel's list of them */
#define SOCKETS_STAY_NS NS_PER_S
#define SOCKETS_PAUSE_US 500

struct place {
	int watch;
	struct record *record;
	uint32_t index;
};

struct places {
	struct place *place;
	size_t count;
};

/* The instance counts against the limit of the agent's user, whose sandbox it serves, not against root's: 128 for all
 * sandboxes of a machine would be few. Called before any process of that user runs. */
int watch_start(struct guest *guest)
{
	bool change = !guest->options.self && guest->options.agent.uid != guest->own.uid;
	bool changed = change && syscall(SYS_setresuid, -1, guest->options.agent.uid, -1) == 0;

	guest->watcher = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	if (changed && syscall(SYS_setresuid, -1, guest->own.uid, -1) < 0)
		return complain("cannot become itself again: %s", strerror(errno));
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0); /* a change of user may have reset it */
	return 0;                           /* without an instance contents are compared */
}

void watch_directory(const struct guest *guest, struct record *record, uint32_t index, int dir)
{
	if (guest->watcher < 0 || fchdir(dir) < 0) {
		record->made[index].watch = -1;
		return;
	}
	record->made[index].watch = inotify_add_watch(guest->watcher, ".", IN_CLOSE_WRITE | IN_ONLYDIR);
	if (chdir("/") < 0)
		exit(complain("cannot go back to /: %s", strerror(errno)));
}

static int compare_places(const void *a, const void *b)
{
	int left = ((const struct place *)a)->watch, right = ((const struct place *)b)->watch;

	return (left > right) - (left < right);
}

static void distrust_all(void)
{
	struct record *record;

	for (record = record_next(NULL); record != NULL; record = record_next(record))
		record->distrusted = true;
}

/* Which directory each watch is of; made only when there is something to look up. */
static int find_places(struct places *places)
{
	struct record *record;
	size_t capacity = 0;

	for (record = record_next(NULL); record != NULL; record = record_next(record))
		capacity += record->count;
	places->place = malloc((capacity + 1) * sizeof *places->place);
	if (places->place == NULL)
		return 1;
	for (record = record_next(NULL); record != NULL; record = record_next(record))
		for (uint32_t index = 0; index < record->count; index++)
			if (record->made[index].watch >= 0)
				places->place[places->count++] = (struct place){record->made[index].watch, record, index};
	qsort(places->place, places->count, sizeof *places->place, compare_places);
	return 0;
}

/* Returns whether somebody wrote to a file that stays. While a restore ends, its own writing is told of too. */
static bool take_event(const struct places *places, const struct inotify_event *event, bool late)
{
	struct place key = {.watch = event->wd}, *place;
	struct made *made;
	uint32_t index;

	place = bsearch(&key, places->place, places->count, sizeof key, compare_places);
	if (place == NULL)
		return false;
	if (event->mask & IN_IGNORED) {
		place->record->made[place->index].watch = -1;
		return false;
	}
	index = event->len == 0 ? NO_ENTRY : record_child(place->record, place->index, event->name);
	if (index == NO_ENTRY)
		return false;
	made = &place->record->made[index];
	if (late && made->round == place->record->round)
		return false;
	made->written = true;
	return true;
}

/* Takes all that the kernel has to tell; returns how often a file that stays was written to. */
size_t watch_collect(const struct guest *guest, bool late)
{
	static _Alignas(8) char block[64 << 10];
	struct places places = {NULL, 0};
	size_t written = 0;
	ssize_t size;

	while (guest->watcher >= 0 && (size = read(guest->watcher, block, sizeof block)) > 0) {
		if (places.place == NULL && find_places(&places)) {
			distrust_all();
			continue;
		}
		for (const char *at = block; at < block + size;) {
			const struct inotify_event *event = (const void *)at;

			if (event->mask & IN_Q_OVERFLOW)
				distrust_all();
			else
				written += take_event(&places, event, late);
			at += sizeof *event + event->len;
		}
	}
	free(places.place);
	return written;
}

/* The inodes of the Unix sockets that there are; -1 if they cannot be told, or are more than ever were without an agent. */
static int list_sockets(const struct guest *guest, unsigned long inodes[SOCKETS_MAX])
{
	static char text[TABLE_MAX + 1];
	cleanup_fd int fd = guest->proc < 0 ? -1 : openat(guest->proc, "self/net/unix", O_RDONLY | O_CLOEXEC);
	size_t filled = 0;
	ssize_t size = fd < 0 ? -1 : 1;
	int count = 0;
	char *line;

	while (size > 0 && filled < TABLE_MAX && (size = read(fd, text + filled, TABLE_MAX - filled)) > 0)
		filled += (size_t)size;
	if (size != 0)
		return -1;
	text[filled] = '\0';
	for (line = strchr(text, '\n'); line != NULL && line[1] != '\0'; line = strchr(line + 1, '\n'))
		if (count == SOCKETS_MAX || sscanf(line + 1, "%*s %*s %*s %*s %*s %*s %lu", &inodes[count++]) != 1)
			return -1;
	return count;
}

static bool is_among(unsigned long inode, const unsigned long *inodes, int count)
{
	for (int i = 0; i < count; i++)
		if (inodes[i] == inode)
			return true;
	return false;
}

/* A socket that is still there after everybody is dead was on its way through another one, and so may files be: one
 * that was written to and not closed yet is nothing that the kernel has told of. What was there before the first
 * command is the channel: the guest's end, and the host's, which the kernel shows here too. */
static bool has_foreign_sockets(const struct guest *guest)
{
	static unsigned long own[SOCKETS_MAX], now[SOCKETS_MAX];
	static int own_count;
	int count = list_sockets(guest, now);

	if (!guest->has_run && count >= 0) {
		memcpy(own, now, sizeof own);
		own_count = count;
	}
	for (int i = 0; i < count; i++)
		if (!is_among(now[i], own, own_count))
			return true;
	return count < 0;
}

/* The kernel closes sockets that are on their way to each other alone, with all else that is on its way through them,
 * some time after one of anybody's is closed. */
static bool sockets_stay(const struct guest *guest)
{
	uint64_t deadline = now_ns() + SOCKETS_STAY_NS;

	while (has_foreign_sockets(guest)) {
		if (guest->proc < 0 || now_ns() > deadline)
			return true;
		collect_sent_descriptors();
		usleep(SOCKETS_PAUSE_US);
	}
	return false;
}

/* Everything has been killed. Without the kernel's word on who wrote to what, contents decide. */
void watch_distrust(const struct guest *guest)
{
	if (sockets_stay(guest) || guest->watcher < 0)
		distrust_all();
}
