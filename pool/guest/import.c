/* IMPORT: makes a tree from the stream of an EXPORT, which came from a sandbox and may be hostile. Every name is one
 * component, made where the last directory is, and must be new; so nothing outside of the tree is reached, and no link
 * followed. Nothing runs meanwhile. Memory is that of one record. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "stream.h"
#include "trees.h"

#define IMPORT_FIRST 1u
#define IMPORT_LAST 2u
#define NS_MAX 1000000000u
#define ATTRIBUTE_NAME_MAX 255u

/* One stream on its way; -1 where nothing is open. */
struct import {
	const struct guest *guest;
	struct owner owner;
	char tree[PATH_MAX];
	int root, dir, file;
	int staging; /* a directory at the top, where files with several names have one more until the end */
	uint64_t depth, file_size;
	bool begun, ended, top_done;
	size_t filled;
	unsigned char buffer[RECORD_HEAD + RECORD_MAX];
};

struct looks {
	mode_t mode;
	struct owner owner;
	struct timespec times[2];
};

static struct import import = {.root = -1, .dir = -1, .file = -1, .staging = -1};
static char staging_name[64]; /* which no stream can have guessed */

static int cannot(struct failure *why, const char *what, const char *name)
{
	return fail(why, errno, "cannot %s %.120s of an imported tree: %s", what, name, strerror(errno));
}

static int wrong(struct failure *why, const char *what)
{
	return fail(why, EBADMSG, "the stream of an IMPORT is wrong: %s", what);
}

static void stop(void)
{
	close_fd(&import.root);
	close_fd(&import.dir);
	close_fd(&import.file);
	close_fd(&import.staging);
	import.tree[0] = '\0';
}

/* The rest of the payload as the name of one new entry. */
static int take_name(struct reader *reader, size_t size, char name[NAME_MAX + 1], struct failure *why)
{
	if (size == 0 || size > NAME_MAX || size > reader->left)
		return wrong(why, "a name has no length from 1 to 255");
	memcpy(name, reader->at, size);
	name[size] = '\0';
	reader->at += size;
	reader->left -= size;
	if (strlen(name) != size || strchr(name, '/') != NULL || strcmp(name, ".") == 0 ||
	    strcmp(name, "..") == 0)
		return wrong(why, "a name is not that of an entry");
	return 0;
}

static int take_looks(struct reader *reader, struct looks *looks, struct failure *why)
{
	uint32_t mode = take_u32(reader), uid = take_u32(reader), gid = take_u32(reader);
	int64_t seconds = (int64_t)take_u64(reader);
	uint32_t nanoseconds = take_u32(reader);

	if (reader->bad || mode > 07777 || nanoseconds >= NS_MAX)
		return wrong(why, "a mode or a time is none");
	looks->mode = mode & KEPT_MODE;
	looks->owner.uid = uid == AGENT_ID ? import.owner.uid : uid;
	looks->owner.gid = gid == AGENT_ID ? import.owner.gid : gid;
	looks->times[0] = looks->times[1] = (struct timespec){.tv_sec = (time_t)seconds, .tv_nsec = (long)nanoseconds};
	return 0;
}

static int apply_looks(int fd, const struct looks *looks, struct failure *why)
{
	if ((!import.guest->options.self && fchown(fd, looks->owner.uid, looks->owner.gid) < 0) ||
	    fchmod(fd, looks->mode) < 0 || futimens(fd, looks->times) < 0)
		return cannot(why, "set owner, mode and time of", "an entry");
	return 0;
}

static int apply_looks_at(const char *name, bool is_link, const struct looks *looks, struct failure *why)
{
	if ((!import.guest->options.self &&
	     fchownat(import.dir, name, looks->owner.uid, looks->owner.gid, AT_SYMLINK_NOFOLLOW) < 0) ||
	    (!is_link && fchmodat(import.dir, name, looks->mode, 0) < 0) ||
	    utimensat(import.dir, name, looks->times, AT_SYMLINK_NOFOLLOW) < 0)
		return cannot(why, "set owner, mode and time of", name);
	return 0;
}

static int make_directory(struct reader *reader, struct failure *why)
{
	char name[NAME_MAX + 1];
	int dir;

	if (take_name(reader, reader->left, name, why))
		return 1;
	if (mkdirat(import.dir, name, 0700) < 0)
		return cannot(why, "make the directory", name);
	dir = openat(import.dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dir < 0)
		return cannot(why, "open the directory", name);
	close_fd(&import.dir);
	import.dir = dir;
	import.depth++;
	return 0;
}

static int drop_staging(struct failure *why)
{
	struct restore_counts counts = {0};
	struct remover remover;

	if (import.staging < 0)
		return 0;
	close_fd(&import.staging);
	return remover_start(&remover, import.root, &counts, why) ||
	       remove_entry(&remover, import.root, &(struct name){staging_name, 0});
}

static int end_directory(struct reader *reader, struct failure *why)
{
	cleanup_fd int above = -1;
	struct looks looks;

	if (take_looks(reader, &looks, why))
		return 1;
	if (import.depth == 0) {
		import.top_done = true;
		return drop_staging(why) || apply_looks(import.root, &looks, why);
	}
	above = openat(import.dir, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (above < 0)
		return cannot(why, "leave a directory", "");
	if (apply_looks(import.dir, &looks, why))
		return 1;
	close_fd(&import.dir);
	import.dir = steal_fd(&above);
	import.depth--;
	return 0;
}

/* Where files with several names are found again, however deep their first name is. */
static int open_staging(struct failure *why)
{
	if (import.staging >= 0)
		return 0;
	if (mkdirat(import.root, staging_name, 0700) < 0)
		return cannot(why, "make", staging_name);
	import.staging = openat(import.root, staging_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return import.staging < 0 ? cannot(why, "open", staging_name) : 0;
}

static int make_file(struct reader *reader, struct failure *why)
{
	uint64_t size = take_u64(reader);
	uint32_t number = take_u32(reader);
	char name[NAME_MAX + 1], staged[16];

	if (reader->bad || size > INT64_MAX)
		return wrong(why, "a file has no size");
	if (take_name(reader, reader->left, name, why))
		return 1;
	import.file = openat(import.dir, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (import.file < 0)
		return cannot(why, "make", name);
	import.file_size = size;
	if (ftruncate(import.file, (off_t)size) < 0)
		return cannot(why, "set the size of", name);
	if (number == 0)
		return 0;
	snprintf(staged, sizeof staged, "%u", number);
	if (open_staging(why))
		return 1;
	return linkat(import.dir, name, import.staging, staged, 0) < 0 ? cannot(why, "link", name) : 0;
}

static int write_data(struct reader *reader, struct failure *why)
{
	uint64_t offset = take_u64(reader);

	if (import.file < 0 || reader->bad || offset > import.file_size || reader->left > import.file_size - offset)
		return wrong(why, "data lie outside of a file");
	while (reader->left > 0) {
		ssize_t size = pwrite(import.file, reader->at, reader->left, (off_t)offset);

		if (size <= 0)
			return cannot(why, "write to", "a file");
		reader->at += size;
		reader->left -= (size_t)size;
		offset += (uint64_t)size;
	}
	return 0;
}

static int end_file(struct reader *reader, struct failure *why)
{
	struct looks looks;

	if (import.file < 0)
		return wrong(why, "a file ends that has not begun");
	if (take_looks(reader, &looks, why) || apply_looks(import.file, &looks, why))
		return 1;
	close_fd(&import.file);
	return 0;
}

static int set_attribute(struct reader *reader, struct failure *why)
{
	uint32_t size = take_u32(reader);
	char name[ATTRIBUTE_NAME_MAX + 1];

	if (reader->bad || size > ATTRIBUTE_NAME_MAX || size > reader->left)
		return wrong(why, "an attribute has no name");
	memcpy(name, reader->at, size);
	name[size] = '\0';
	reader->at += size;
	reader->left -= size;
	if (strlen(name) != size || strncmp(name, "user.", 5) != 0)
		return wrong(why, "an attribute is not a user's");
	if (fsetxattr(import.file >= 0 ? import.file : import.dir, name, reader->at, reader->left, XATTR_CREATE) < 0)
		return cannot(why, "set the attribute", name);
	reader->left = 0;
	return 0;
}

static int make_link(struct reader *reader, struct failure *why)
{
	char name[NAME_MAX + 1], goal[PATH_MAX];
	struct looks looks;
	uint32_t size;

	if (take_looks(reader, &looks, why))
		return 1;
	size = take_u32(reader);
	if (take_name(reader, size, name, why))
		return 1;
	if (reader->left == 0 || reader->left >= sizeof goal || memchr(reader->at, '\0', reader->left) != NULL)
		return wrong(why, "a link has no goal");
	memcpy(goal, reader->at, reader->left);
	goal[reader->left] = '\0';
	reader->left = 0;
	if (symlinkat(goal, import.dir, name) < 0)
		return cannot(why, "make the link", name);
	return apply_looks_at(name, true, &looks, why);
}

static int make_pipe(struct reader *reader, struct failure *why)
{
	char name[NAME_MAX + 1];
	struct looks looks;

	if (take_looks(reader, &looks, why) || take_name(reader, reader->left, name, why))
		return 1;
	if (mkfifoat(import.dir, name, 0600) < 0)
		return cannot(why, "make the FIFO", name);
	return apply_looks_at(name, false, &looks, why);
}

static int make_other_name(struct reader *reader, struct failure *why)
{
	char name[NAME_MAX + 1], staged[16];
	uint32_t number = take_u32(reader);

	if (reader->bad || import.staging < 0)
		return wrong(why, "another name is of no file");
	if (take_name(reader, reader->left, name, why))
		return 1;
	snprintf(staged, sizeof staged, "%u", number);
	return linkat(import.staging, staged, import.dir, name, 0) < 0 ? cannot(why, "link", name) : 0;
}

static int begin_stream(struct reader *reader, struct failure *why)
{
	if (reader->left < 4 || memcmp(reader->at, STREAM_MAGIC, 4) != 0)
		return wrong(why, "it is not the stream of an EXPORT");
	reader->at += 4;
	reader->left -= 4;
	if (take_u32(reader) != STREAM_VERSION || reader->bad)
		return wrong(why, "its version is not known");
	import.begun = true;
	return 0;
}

static int take_record(uint32_t type, struct reader *reader, struct failure *why)
{
	if (import.ended || import.begun == (type == STREAM_BEGINS))
		return wrong(why, "it begins in its middle, or goes on after its end");
	if (import.top_done != (type == STREAM_ENDS))
		return wrong(why, "the tree and the stream do not end together");
	if (import.file >= 0 && type != DATA && type != ATTRIBUTE && type != REGULAR_ENDS)
		return wrong(why, "a file has not ended");
	switch (type) {
	case STREAM_BEGINS:
		return begin_stream(reader, why);
	case DIRECTORY:
		return make_directory(reader, why);
	case DIRECTORY_ENDS:
		return end_directory(reader, why);
	case REGULAR:
		return make_file(reader, why);
	case DATA:
		return write_data(reader, why);
	case REGULAR_ENDS:
		return end_file(reader, why);
	case ATTRIBUTE:
		return set_attribute(reader, why);
	case SYMLINK:
		return make_link(reader, why);
	case PIPE:
		return make_pipe(reader, why);
	case OTHER_NAME:
		return make_other_name(reader, why);
	case STREAM_ENDS:
		import.ended = true;
		return 0;
	default:
		return wrong(why, "a record is of no known kind");
	}
}

/* Takes the complete records of what has come. */
static int take_records(struct failure *why)
{
	size_t at = 0;
	int failed = 0;

	while (!failed && import.filled - at >= RECORD_HEAD) {
		struct reader head = {.at = import.buffer + at, .left = RECORD_HEAD}, payload;
		uint32_t type = take_u32(&head), size = take_u32(&head);

		if (size > RECORD_MAX)
			return wrong(why, "a record is too long");
		if (import.filled - at - RECORD_HEAD < size)
			break;
		payload = (struct reader){.at = import.buffer + at + RECORD_HEAD, .left = size};
		failed = take_record(type, &payload, why);
		if (!failed && payload.left != 0)
			failed = wrong(why, "a record has spare bytes");
		at += RECORD_HEAD + size;
	}
	import.filled -= at;
	memmove(import.buffer, import.buffer + at, import.filled);
	return failed;
}

static int take_piece(struct bytes piece, struct failure *why)
{
	while (piece.size > 0) {
		size_t room = sizeof import.buffer - import.filled, part = piece.size < room ? piece.size : room;

		memcpy(import.buffer + import.filled, piece.at, part);
		import.filled += part;
		piece.at += part;
		piece.size -= part;
		if (take_records(why))
			return 1;
	}
	return 0;
}

static int begin(struct guest *guest, const char *tree, struct owner owner, struct failure *why)
{
	cleanup_fd int root = -1;
	struct restore_counts counts = {0};
	struct remover remover;

	stop();
	if (strlen(tree) >= sizeof import.tree)
		return fail(why, ENAMETOOLONG, "a tree's path is too long");
	if (end_everything(guest, &counts.killed, why))
		return 1;
	root = open_restored(guest, tree, why);
	if (root < 0 || remover_start(&remover, root, &counts, why) || strip_attributes(root, tree, why) ||
	    empty_tree(&remover))
		return 1;
	snprintf(staging_name, sizeof staging_name, "%s-imported", remover.prefix);
	import = (struct import){.guest = guest, .owner = owner, .file = -1, .staging = -1};
	import.dir = fcntl(root, F_DUPFD_CLOEXEC, 3);
	import.root = steal_fd(&root);
	snprintf(import.tree, sizeof import.tree, "%s", tree);
	return import.dir < 0 ? cannot(why, "open", tree) : 0;
}

static int do_import(struct guest *guest, uint32_t flags, const char *tree, struct owner owner, struct bytes piece,
                     struct failure *why)
{
	if ((flags & IMPORT_FIRST) && begin(guest, tree, owner, why))
		return 1;
	if (import.root < 0 || strcmp(import.tree, tree) != 0)
		return fail(why, EINVAL, "no IMPORT into %.150s has begun", tree);
	if (kill(-1, 0) == 0 || errno != ESRCH)
		return fail(why, EBUSY, "a process was started in the middle of an IMPORT");
	if (take_piece(piece, why))
		return 1;
	if ((flags & IMPORT_LAST) && (!import.ended || import.filled > 0))
		return wrong(why, "it ends too early");
	return 0;
}

int import_parse(struct guest *guest, uint32_t id, struct reader *reader)
{
	uint32_t flags = take_u32(reader), uid, gid;
	const char *tree = take_string(reader);
	struct bytes piece;
	struct failure why;
	mode_t mask;
	int failed;

	uid = take_u32(reader);
	gid = take_u32(reader);
	piece = take_bytes(reader);
	if (!taken_all(reader))
		return fail(&guest->last_words, EPROTO, "the fields of an IMPORT do not fit its payload");
	mask = umask(0);
	if (reader->nul || (flags & ~(IMPORT_FIRST | IMPORT_LAST)))
		failed = fail(&why, EINVAL, "an IMPORT has unknown flags 0x%x, or a zero byte in its path", flags);
	else
		failed = do_import(guest, flags, tree, owner_of(guest, uid, gid), piece, &why);
	umask(mask);
	if (failed || (flags & IMPORT_LAST))
		stop();
	if (failed)
		reply_error(guest, id, &why);
	else
		reply_done_write(guest, id, piece.size);
	return 0;
}
