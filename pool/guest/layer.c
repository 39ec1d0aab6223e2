/* Whether commands have changed anything in the layer over the root file system, for those who would copy a sandbox
 * without it. The layer has little in it when it is new: as long as that is all there, and nothing else, and its times of
 * change are from then, nobody has. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "guest.h"

#define DEPTH_MAX 16u /* of what was there when it was new: directories for the trees */
#define OPEN_FLAGS (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)

static bool is_later(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec > b->tv_sec || (a->tv_sec == b->tv_sec && a->tv_nsec > b->tv_nsec);
}

/* The latest time of change of all there is. */
static int find_latest(int dir, unsigned int depth, struct timespec *latest)
{
	struct names *names = depth < DEPTH_MAX ? malloc(sizeof *names) : NULL;
	struct name name;
	int more = -1;

	if (names == NULL)
		return 1;
	names_start(names, dir);
	while ((more = names_next(names, &name)) > 0) {
		cleanup_fd int below = name.type == DT_DIR ? openat(dir, name.text, OPEN_FLAGS) : -1;
		struct stat status;

		if (fstatat(dir, name.text, &status, AT_SYMLINK_NOFOLLOW) < 0 ||
		    (below >= 0 && find_latest(below, depth + 1, latest)))
			break;
		if (is_later(&status.st_ctim, latest))
			*latest = status.st_ctim;
	}
	free(names);
	return more != 0;
}

/* Seen from the old root, where no command reaches it. Whoever cannot look has seen a change. */
static int look(const struct guest *guest, uint64_t expected, struct layer_mark *mark)
{
	cleanup_fd int upper = openat(guest->outside, &ROOT_UPPER[1], OPEN_FLAGS);
	struct statfs room;
	struct stat status;

	if (upper < 0 || fstatfs(upper, &room) < 0 || fstat(upper, &status) < 0)
		return 1;
	mark->files = (uint64_t)room.f_files - (uint64_t)room.f_ffree;
	mark->latest = status.st_ctim;
	if (expected != 0 && mark->files != expected)
		return 1;
	return find_latest(upper, 0, &mark->latest);
}

/* The first look at a directory has the overlay note on it what it lies over. */
static void have_noted(const struct guest *guest)
{
	static const char *const dirs[] = {"etc", &GUEST_STORE[1]};
	cleanup_fd int base = openat(guest->outside, &ROOT_BASE[1], OPEN_FLAGS);
	struct stat status;

	for (size_t i = 0; base >= 0 && i < sizeof dirs / sizeof dirs[0]; i++)
		(void)fstatat(base, dirs[i], &status, AT_SYMLINK_NOFOLLOW);
}

void layer_mark(const struct guest *guest, struct layer_mark *mark)
{
	have_noted(guest);
	if (look(guest, 0, mark))
		mark->files = 0;
}

bool layer_is_new(const struct guest *guest, const struct layer_mark *mark)
{
	struct layer_mark now;

	return mark->files != 0 && look(guest, mark->files, &now) == 0 && !is_later(&now.latest, &mark->latest);
}
