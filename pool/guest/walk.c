/* Walks a tree in the order of its names, however deep, with one descriptor for the directory at work. Commands may run
 * meanwhile and change what they like: no link is followed, nothing outside is reached, nothing waits. What changes
 * under the walk so that it would lose its way is a failure. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools.h"

#define NAMES_MAX ((size_t)256 << 20) /* bytes of names that wait, all levels together */
#define SEEN_BUCKETS 4096u
#define SEEN_MAX 1000000u
#define DIR_FLAGS (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)

struct level {
	struct level *above;
	struct stat status;
	size_t path_size; /* of the directory's own path */
	char *names;      /* one after the other, each with its zero byte */
	char **sorted;
	size_t bytes, count, next;
};

struct walking {
	struct visitor *visitor;
	struct level *level;
	int dir;
	char *path;
	size_t path_size, path_capacity, waiting;
};

struct seen {
	struct {
		struct known {
			struct known *next;
			dev_t device;
			ino_t inode;
			uint32_t number;
		} *first;
	} buckets[SEEN_BUCKETS];
	uint32_t count;
};

static int cannot(const struct walking *walking, const char *what, const char *path)
{
	return fail(walking->visitor->why, errno, "cannot %s %.180s: %s", what, path, strerror(errno));
}

/* Reading leaves no trace where that can be had. */
static int open_quietly(int dir, const char *name, int flags)
{
	int fd = openat(dir, name, flags | O_NOATIME);

	return fd < 0 && errno == EPERM ? openat(dir, name, flags) : fd;
}

static int compare_names(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static int append_name(struct walking *walking, struct level *level, size_t *capacity, const char *name)
{
	size_t size = strlen(name) + 1;

	if (level->bytes + size > *capacity) {
		size_t wanted = *capacity == 0 ? 4096 : *capacity * 2;
		char *names = walking->waiting + size > NAMES_MAX ? NULL : realloc(level->names, wanted);

		if (names == NULL)
			return fail(walking->visitor->why, ENOMEM, "too many names in %.180s", walking->path);
		level->names = names;
		*capacity = wanted;
	}
	memcpy(level->names + level->bytes, name, size);
	level->bytes += size;
	level->count++;
	walking->waiting += size;
	return 0;
}

static int list_names(struct walking *walking, struct level *level)
{
	static struct names names;
	struct name name;
	size_t capacity = 0;
	char *at;
	int more;

	names_start(&names, walking->dir);
	while ((more = names_next(&names, &name)) > 0)
		if (append_name(walking, level, &capacity, name.text))
			return 1;
	if (more < 0)
		return cannot(walking, "list", walking->path);
	level->sorted = malloc((level->count + 1) * sizeof *level->sorted);
	if (level->sorted == NULL)
		return fail(walking->visitor->why, ENOMEM, "too many names in %.180s", walking->path);
	at = level->names;
	for (size_t i = 0; i < level->count; i++, at += strlen(at) + 1)
		level->sorted[i] = at;
	if (level->count > 1)
		qsort(level->sorted, level->count, sizeof *level->sorted, compare_names);
	return 0;
}

static int set_path(struct walking *walking, size_t above, const char *name)
{
	size_t size = strlen(name);

	if (above + size + 2 > walking->path_capacity) {
		size_t capacity = (above + size + 2) * 2;
		char *path = realloc(walking->path, capacity);

		if (path == NULL)
			return fail(walking->visitor->why, ENOMEM, "out of memory for a path of %zu bytes", above + size);
		walking->path = path;
		walking->path_capacity = capacity;
	}
	if (above > 0 && size > 0 && walking->path[above - 1] != '/')
		walking->path[above++] = '/';
	memcpy(walking->path + above, name, size + 1);
	walking->path_size = above + size;
	return 0;
}

/* The directory in walking->dir, whose path is set. */
static int enter(struct walking *walking, const char *name)
{
	struct level *level = calloc(1, sizeof *level);
	struct visit visit = {-1, walking->dir, name, walking->path, NULL};

	if (level == NULL)
		return fail(walking->visitor->why, ENOMEM, "out of memory for a directory");
	level->above = walking->level;
	level->path_size = walking->path_size;
	walking->level = level;
	if (fstat(walking->dir, &level->status) < 0)
		return cannot(walking, "look at", walking->path);
	visit.status = &level->status;
	return list_names(walking, level) || walking->visitor->enter(walking->visitor, &visit);
}

static void drop_level(struct walking *walking)
{
	struct level *level = walking->level;

	walking->level = level->above;
	walking->waiting -= level->bytes;
	free(level->names);
	free(level->sorted);
	free(level);
}

/* The way back is the one that was come by, or none. */
static int leave(struct walking *walking)
{
	struct level *level = walking->level;
	struct visit visit = {-1, walking->dir, "", walking->path, &level->status};
	struct stat status;
	int failed;

	walking->path[level->path_size] = '\0';
	failed = walking->visitor->leave(walking->visitor, &visit);
	if (!failed && level->above != NULL) {
		int above = open_quietly(walking->dir, "..", DIR_FLAGS);

		if (above < 0 || fstat(above, &status) < 0)
			failed = cannot(walking, "leave", walking->path);
		else if (status.st_ino != level->above->status.st_ino || status.st_dev != level->above->status.st_dev)
			failed = fail(walking->visitor->why, EAGAIN, "%.180s was moved while it was read", walking->path);
		close_fd(&walking->dir);
		walking->dir = above;
	}
	drop_level(walking);
	return failed;
}

static int visit_name(struct walking *walking, const char *name)
{
	struct visit visit = {walking->dir, -1, name, NULL, NULL};
	struct stat status;
	int dir;

	if (set_path(walking, walking->level->path_size, name))
		return 1;
	visit.path = walking->path;
	if (fstatat(walking->dir, name, &status, AT_SYMLINK_NOFOLLOW) < 0) {
		if (errno == ENOENT)
			return 0; /* gone since */
		return cannot(walking, "look at", walking->path);
	}
	visit.status = &status;
	if (!S_ISDIR(status.st_mode))
		return walking->visitor->leaf(walking->visitor, &visit);
	dir = open_quietly(walking->dir, name, DIR_FLAGS);
	if (dir < 0)
		return cannot(walking, "open", walking->path);
	close_fd(&walking->dir);
	walking->dir = dir;
	return enter(walking, name);
}

/* Takes over the open directory *dir*, which is called *top*. */
int walk_open(int dir, const char *top, struct visitor *visitor)
{
	struct walking walking = {.visitor = visitor, .dir = dir};
	int failed = set_path(&walking, 0, top) || enter(&walking, "");

	while (!failed && walking.level != NULL) {
		struct level *level = walking.level;

		failed = level->next < level->count ? visit_name(&walking, level->sorted[level->next++]) : leave(&walking);
	}
	while (walking.level != NULL)
		drop_level(&walking);
	close_fd(&walking.dir);
	free(walking.path);
	return failed;
}

int walk(const char *top, struct visitor *visitor)
{
	int dir = open_root(visitor->tool->guest, top, O_RDONLY, visitor->why);

	return dir < 0 || walk_open(dir, top, visitor);
}

/* Visits what is at *path* and nothing below it; nothing at all where there is no such thing. */
int visit_alone(const char *path, struct visitor *visitor)
{
	const char *name = strrchr(path, '/');
	struct failure none;
	struct stat status;
	char above[PATH_MAX];
	struct visit visit = {.open = -1, .path = path, .status = &status};
	cleanup_fd int dir = -1, open = -1;

	if (name == NULL || (size_t)(name - path) >= sizeof above)
		return fail(visitor->why, EINVAL, "\"%.150s\" is not an absolute path", path);
	memcpy(above, path, (size_t)(name - path));
	above[name - path] = '\0';
	dir = open_root(visitor->tool->guest, name == path ? "/" : above, O_RDONLY, &none);
	visit.name = name[1] == '\0' ? "." : name + 1;
	visit.dir = dir;
	if (dir < 0 || fstatat(dir, visit.name, &status, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT || errno == ENOTDIR || errno == ELOOP
		               ? 0
		               : fail(visitor->why, errno, "cannot look at %.180s: %s", path, strerror(errno));
	if (!S_ISDIR(status.st_mode))
		return visitor->leaf(visitor, &visit);
	visit.open = open = open_quietly(dir, visit.name, DIR_FLAGS);
	if (open < 0)
		return fail(visitor->why, errno, "cannot open %.180s: %s", path, strerror(errno));
	return visitor->enter(visitor, &visit);
}

/* The file that a visit names, and no other thing that took its place. */
int open_leaf(const struct visit *visit, struct failure *why)
{
	int fd = open_quietly(visit->dir, visit->name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	struct stat status;

	if (fd < 0 || fstat(fd, &status) < 0) {
		fail(why, errno, "cannot read %.180s: %s", visit->path, strerror(errno));
		close_fd(&fd);
	} else if (status.st_ino != visit->status->st_ino || !S_ISREG(status.st_mode)) {
		fail(why, EAGAIN, "%.180s was replaced while it was read", visit->path);
		close_fd(&fd);
	}
	return fd;
}

/* A number for a file with several names, the same for each; 0 if it has one, or, with errno, without memory. */
uint32_t number_of_links(struct visitor *visitor, const struct stat *status, bool *first)
{
	struct known **bucket, *known;

	errno = 0;
	*first = true;
	if (status->st_nlink < 2)
		return 0;
	if (visitor->seen == NULL)
		visitor->seen = calloc(1, sizeof *visitor->seen);
	if (visitor->seen == NULL)
		return 0;
	bucket = &visitor->seen->buckets[status->st_ino % SEEN_BUCKETS].first;
	for (known = *bucket; known != NULL; known = known->next)
		if (known->inode == status->st_ino && known->device == status->st_dev)
			return *first = false, known->number;
	known = visitor->seen->count == SEEN_MAX ? NULL : malloc(sizeof *known);
	if (known == NULL)
		return errno = ENOMEM, 0;
	*known = (struct known){*bucket, status->st_dev, status->st_ino, ++visitor->seen->count};
	*bucket = known;
	return known->number;
}

/* The agent is "the agent" in every sandbox, whatever its number there. */
uint32_t tool_owner(const struct guest *guest, uint32_t id, bool group)
{
	return id == (group ? guest->options.agent.gid : guest->options.agent.uid) ? AGENT_ID : id;
}
