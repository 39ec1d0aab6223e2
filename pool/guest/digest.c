/* DIGEST: what is in the trees, entry by entry, in the order of the names. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "tools.h"

#define LIST_MAX ((size_t)64 << 10) /* the kernel's own bounds */
#define VALUE_MAX ((size_t)64 << 10)
#define GET_FLAGS ((int)_IOR('f', 1, long)) /* FS_IOC_GETFLAGS; libcs differ in the type */
#define NS UINT64_C(1000000000)

static uint64_t entries;

static char letter(mode_t mode)
{
	return S_ISREG(mode)    ? 'f'
	       : S_ISDIR(mode)  ? 'd'
	       : S_ISLNK(mode)  ? 'l'
	       : S_ISFIFO(mode) ? 'p'
	       : S_ISSOCK(mode) ? 's'
	       : S_ISCHR(mode)  ? 'c'
	                        : 'b';
}

static int compare_names(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static void add_counted(struct sha256 *sha, const void *bytes, size_t size)
{
	unsigned char head[4];

	put_u32(head, (uint32_t)size);
	sha256_add(sha, head, sizeof head);
	sha256_add(sha, bytes, size);
}

/* Names and values in order; zeros for nothing, ones for more than the kernel lists. */
static void digest_attributes(int fd, unsigned char digest[SHA256_BYTES])
{
	static char names[LIST_MAX], value[VALUE_MAX], *sorted[LIST_MAX / 2];
	ssize_t size = flistxattr(fd, names, sizeof names);
	struct sha256 sha;
	size_t count = 0;
	int flags = 0;

	memset(digest, size < 0 && errno == E2BIG ? 0xff : 0, SHA256_BYTES);
	if (ioctl(fd, GET_FLAGS, &flags) < 0)
		flags = 0;
	if (size < 0 || (size == 0 && flags == 0))
		return;
	for (char *name = names; name < names + size; name += strlen(name) + 1)
		sorted[count++] = name;
	if (count > 1)
		qsort(sorted, count, sizeof *sorted, compare_names);
	sha256_start(&sha);
	add_counted(&sha, &flags, sizeof flags);
	for (size_t i = 0; i < count; i++) {
		ssize_t length = fgetxattr(fd, sorted[i], value, sizeof value);

		add_counted(&sha, sorted[i], strlen(sorted[i]));
		add_counted(&sha, value, length < 0 ? 0 : (size_t)length);
	}
	sha256_end(&sha, digest);
}

static int digest_content(int fd, const struct visit *visit, unsigned char digest[SHA256_BYTES], struct failure *why)
{
	static unsigned char block[64 << 10];
	struct sha256 sha;
	ssize_t size;

	sha256_start(&sha);
	while ((size = read(fd, block, sizeof block)) > 0)
		sha256_add(&sha, block, (size_t)size);
	if (size < 0)
		return fail(why, errno, "cannot read %.180s: %s", visit->path, strerror(errno));
	sha256_end(&sha, digest);
	return 0;
}

static void say_entry(struct visitor *visitor, const struct visit *visit, uint32_t links,
                      unsigned char digests[2][SHA256_BYTES], const char *goal)
{
	const struct stat *status = visit->status;
	bool is_dir = S_ISDIR(status->st_mode);
	char type = letter(status->st_mode);

	entries++;
	say_bytes(&type, 1);
	say_u32(status->st_mode & 07777);
	say_u32(tool_owner(visitor->tool->guest, status->st_uid, false));
	say_u32(tool_owner(visitor->tool->guest, status->st_gid, true));
	say_u64(is_dir ? 0 : (uint64_t)status->st_size);
	say_u64((uint64_t)status->st_mtim.tv_sec * NS + (uint64_t)status->st_mtim.tv_nsec);
	say_u32(is_dir ? 0 : (uint32_t)status->st_nlink);
	say_u32(links);
	say_bytes(digests, 2 * SHA256_BYTES);
	say_string(visit->path);
	say_string(goal);
}

/* Whether an overlay shows nothing of what lies below a directory of its layer, or something else. */
static bool hides_lower(int fd)
{
	static const char *const names[] = {"trusted.overlay.opaque", "trusted.overlay.redirect", "user.overlay.opaque",
	                                    "user.overlay.redirect"};

	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
		if (fgetxattr(fd, names[i], NULL, 0) > 0)
			return true;
	return false;
}

static int digest_directory(struct visitor *visitor, const struct visit *visit)
{
	unsigned char digests[2][SHA256_BYTES] = {{0}};
	bool layer = visitor->tool->flags & DIGEST_LAYER; /* there the overlay has its own attributes */

	if (!layer)
		digest_attributes(visit->open, digests[1]);
	say_entry(visitor, visit, layer && hides_lower(visit->open), digests, "");
	return 0;
}

static int leave_directory(struct visitor *visitor, const struct visit *visit)
{
	(void)visitor;
	(void)visit;
	return 0;
}

static int digest_leaf(struct visitor *visitor, const struct visit *visit)
{
	unsigned char digests[2][SHA256_BYTES] = {{0}};
	char goal[PATH_MAX] = "";
	bool first;
	uint32_t links = number_of_links(visitor, visit->status, &first);
	ssize_t size = S_ISLNK(visit->status->st_mode) ? readlinkat(visit->dir, visit->name, goal, sizeof goal - 1) : 0;

	if (errno == ENOMEM)
		return fail(visitor->why, ENOMEM, "too many files with several names");
	if (size < 0)
		return fail(visitor->why, errno, "cannot read the link %.180s: %s", visit->path, strerror(errno));
	goal[size] = '\0';
	if (S_ISREG(visit->status->st_mode)) {
		cleanup_fd int fd = open_leaf(visit, visitor->why);

		if (fd < 0)
			return 1;
		if (!(visitor->tool->flags & DIGEST_LAYER))
			digest_attributes(fd, digests[1]);
		if ((visitor->tool->flags & DIGEST_CONTENTS) && digest_content(fd, visit, digests[0], visitor->why))
			return 1;
	}
	say_entry(visitor, visit, links, digests, goal);
	return 0;
}

/* Seen from the old root, where no command reaches it. */
static int digest_layer(const struct tool *tool, struct failure *why)
{
	struct visitor visitor = {digest_directory, leave_directory, digest_leaf, tool, why, NULL};
	int upper;

	if (tool->count != 0)
		return fail(why, EINVAL, "the digest of the layer takes no path");
	if (!tool->guest->options.root.layer)
		return fail(why, ENOTSUP, "there is no layer over the root file system");
	upper = openat(tool->guest->outside, &ROOT_UPPER[1], O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (upper < 0)
		return fail(why, errno, "cannot open the layer: %s", strerror(errno));
	return walk_open(upper, "/", &visitor);
}

int tool_digest(const struct tool *tool, struct failure *why)
{
	if ((tool->flags & DIGEST_LAYER) && digest_layer(tool, why))
		return 1;
	for (uint32_t i = 0; i < tool->count; i++) {
		struct visitor visitor = {digest_directory, leave_directory, digest_leaf, tool, why, NULL};

		if ((tool->flags & DIGEST_ALONE) ? visit_alone(tool->paths[i], &visitor) : walk(tool->paths[i], &visitor))
			return 1;
	}
	say_bytes("E", 1);
	say_u64(entries);
	return 0;
}
