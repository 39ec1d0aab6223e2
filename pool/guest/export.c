/* EXPORT: a tree as a stream from which IMPORT makes it again. Sockets and devices are left out. */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "stream.h"
#include "tools.h"

#define LIST_MAX ((size_t)64 << 10) /* the kernel's own bounds */
#define VALUE_MAX ((size_t)64 << 10)
#define BLOCK 512 /* the unit of st_blocks */

static void say_record(enum record_type type, size_t size)
{
	say_u32(type);
	say_u32((uint32_t)size);
}

static void say_looks(const struct tool *tool, const struct stat *status)
{
	say_u32(status->st_mode & 07777);
	say_u32(tool_owner(tool->guest, status->st_uid, false));
	say_u32(tool_owner(tool->guest, status->st_gid, true));
	say_u64((uint64_t)status->st_mtim.tv_sec);
	say_u32((uint32_t)status->st_mtim.tv_nsec);
}

static void say_name(const char *name)
{
	say_bytes(name, strlen(name));
}

static int export_attributes(int fd, const char *path, struct failure *why)
{
	static char names[LIST_MAX], value[VALUE_MAX];
	ssize_t size = flistxattr(fd, names, sizeof names);

	if (size < 0 && errno != ENOTSUP)
		return fail(why, errno, "cannot list the attributes of %.180s: %s", path, strerror(errno));
	for (const char *name = names; name < names + size; name += strlen(name) + 1) {
		ssize_t length;

		if (strncmp(name, "user.", 5) != 0)
			continue;
		length = fgetxattr(fd, name, value, sizeof value);
		if (length < 0)
			return fail(why, errno, "cannot read an attribute of %.180s: %s", path, strerror(errno));
		say_record(ATTRIBUTE, 4 + strlen(name) + (size_t)length);
		say_string(name);
		say_bytes(value, (size_t)length);
	}
	return 0;
}

static int export_range(int fd, off_t at, off_t end, const char *path, struct failure *why)
{
	static unsigned char block[DATA_MAX];

	while (at < end) {
		size_t wanted = end - at < (off_t)sizeof block ? (size_t)(end - at) : sizeof block;
		ssize_t size = pread(fd, block, wanted, at);

		if (size < 0)
			return fail(why, errno, "cannot read %.180s: %s", path, strerror(errno));
		if (size == 0)
			break; /* shorter than it was: the rest is a hole */
		say_record(DATA, 8 + (size_t)size);
		say_u64((uint64_t)at);
		say_bytes(block, (size_t)size);
		at += size;
	}
	return 0;
}

/* A file that does not tell its holes is read as a whole. */
static int export_data(int fd, const struct visit *visit, struct failure *why)
{
	off_t size = visit->status->st_size, at = 0, end = size;
	bool sparse = visit->status->st_blocks * BLOCK < size;

	while (at < size) {
		if (sparse) {
			off_t data = lseek(fd, at, SEEK_DATA);

			if (data < 0 && errno == ENXIO)
				break; /* nothing but a hole is left */
			at = data < 0 ? at : data;
			end = lseek(fd, at, SEEK_HOLE);
			end = end <= at || end > size ? size : end;
		}
		if (export_range(fd, at, end, visit->path, why))
			return 1;
		at = end;
	}
	return 0;
}

static int export_file(struct visitor *visitor, const struct visit *visit)
{
	bool first;
	uint32_t number = number_of_links(visitor, visit->status, &first);
	cleanup_fd int fd = -1;

	if (errno == ENOMEM)
		return fail(visitor->why, ENOMEM, "too many files with several names");
	if (!first) {
		say_record(OTHER_NAME, 4 + strlen(visit->name));
		say_u32(number);
		say_name(visit->name);
		return 0;
	}
	fd = open_leaf(visit, visitor->why);
	if (fd < 0)
		return 1;
	say_record(REGULAR, 12 + strlen(visit->name));
	say_u64((uint64_t)visit->status->st_size);
	say_u32(number);
	say_name(visit->name);
	if (export_data(fd, visit, visitor->why) || export_attributes(fd, visit->path, visitor->why))
		return 1;
	say_record(REGULAR_ENDS, LOOKS_BYTES);
	say_looks(visitor->tool, visit->status);
	return 0;
}

static int export_link(struct visitor *visitor, const struct visit *visit)
{
	char goal[PATH_MAX];
	ssize_t size = readlinkat(visit->dir, visit->name, goal, sizeof goal);

	if (size < 0)
		return fail(visitor->why, errno, "cannot read the link %.180s: %s", visit->path, strerror(errno));
	say_record(SYMLINK, LOOKS_BYTES + 4 + strlen(visit->name) + (size_t)size);
	say_looks(visitor->tool, visit->status);
	say_string(visit->name);
	say_bytes(goal, (size_t)size);
	return 0;
}

static int export_leaf(struct visitor *visitor, const struct visit *visit)
{
	if (S_ISREG(visit->status->st_mode))
		return export_file(visitor, visit);
	if (S_ISLNK(visit->status->st_mode))
		return export_link(visitor, visit);
	if (S_ISFIFO(visit->status->st_mode)) {
		say_record(PIPE, LOOKS_BYTES + strlen(visit->name));
		say_looks(visitor->tool, visit->status);
		say_name(visit->name);
	}
	return 0;
}

static int enter_directory(struct visitor *visitor, const struct visit *visit)
{
	if (visit->name[0] != '\0') {
		say_record(DIRECTORY, strlen(visit->name));
		say_name(visit->name);
	}
	return export_attributes(visit->open, visit->path, visitor->why);
}

static int leave_directory(struct visitor *visitor, const struct visit *visit)
{
	say_record(DIRECTORY_ENDS, LOOKS_BYTES);
	say_looks(visitor->tool, visit->status);
	return 0;
}

int tool_export(const struct tool *tool, struct failure *why)
{
	struct visitor visitor = {enter_directory, leave_directory, export_leaf, tool, why, NULL};

	say_record(STREAM_BEGINS, 8);
	say_bytes(STREAM_MAGIC, 4);
	say_u32(STREAM_VERSION);
	if (walk(tool->paths[0], &visitor))
		return 1;
	say_record(STREAM_ENDS, 0);
	return 0;
}
