/* WRITE and READ. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest.h"

#define WRITE_TRUNCATE 1u
#define WRITE_PARENTS 2u
#define WRITE_KNOWN (WRITE_TRUNCATE | WRITE_PARENTS)
#define PARENT_MODE 0755
#define DATA_HEAD 12u
#define SAFE_OPEN (O_NONBLOCK | O_NOCTTY) /* a FIFO, a leased file or a terminal in its place must not hold us up */

struct write_request {
	const char *root, *path;
	uint32_t mode, flags;
	uint64_t offset;
	struct owner owner;
	struct bytes data;
};

struct read_request {
	const char *root, *path;
	uint64_t offset;
	uint32_t length;
};

static int check_path(const struct reader *reader, const char *path, struct failure *why)
{
	if (reader->nul)
		return fail(why, EINVAL, "a path has a zero byte in it");
	if (path[0] == '\0' || path[0] == '/')
		return fail(why, EINVAL, "the path \"%.150s\" is not relative to the root", path);
	if (strlen(path) >= PATH_MAX)
		return fail(why, ENAMETOOLONG, "a path of %zu bytes is over the limit of %d", strlen(path), PATH_MAX - 1);
	return 0;
}

static int cannot(struct failure *why, const char *what, const char *root, const char *path)
{
	int errnum = errno;

	return fail(why, errnum, "cannot %s %.80s below %.80s: %s%s", what, path, root, strerror(errnum),
	            errnum == EXDEV ? " (it leads out of the root)" : "");
}

static int must_be_file(int fd, const char *path, struct stat *status, struct failure *why)
{
	if (fstat(fd, status) < 0)
		return fail(why, errno, "cannot look at %.150s: %s", path, strerror(errno));
	if (S_ISDIR(status->st_mode))
		return fail(why, EISDIR, "%.150s is a directory", path);
	if (!S_ISREG(status->st_mode))
		return fail(why, EINVAL, "%.150s is not a regular file", path);
	return 0;
}

/* Makes the directories that are missing on the way to *path*, each opened anew from the root: links that stay
 * below it are allowed. */
static int make_parents(const struct guest *guest, int root, const char *path)
{
	cleanup_fd int above = fcntl(root, F_DUPFD_CLOEXEC, 3);
	char prefix[PATH_MAX], name[NAME_MAX + 1];
	const char *at = path + strspn(path, "/"), *slash;

	for (; above >= 0 && (slash = strchr(at, '/')) != NULL; at = slash + strspn(slash, "/")) {
		size_t size = (size_t)(slash - at);
		int dir;

		if (at[size + strspn(at + size, "/")] == '\0' || size > NAME_MAX)
			return errno = size > NAME_MAX ? ENAMETOOLONG : EISDIR, 1;
		memcpy(prefix, path, (size_t)(slash - path));
		prefix[slash - path] = '\0';
		memcpy(name, at, size);
		name[size] = '\0';
		dir = open_beneath(guest, root, prefix, O_PATH | O_DIRECTORY, 0);
		if (dir < 0 && errno == ENOENT && mkdirat(above, name, PARENT_MODE) == 0)
			dir = open_beneath(guest, root, prefix, O_PATH | O_DIRECTORY, 0);
		close_fd(&above);
		above = dir;
	}
	return above < 0;
}

/* An existing file keeps its mode, as with open(2). */
static int open_to_write(const struct guest *guest, int root, const struct write_request *request, bool *made)
{
	int fd = open_beneath(guest, root, request->path, O_WRONLY | SAFE_OPEN, 0);

	if (fd >= 0 || errno != ENOENT)
		return fd;
	if ((request->flags & WRITE_PARENTS) && make_parents(guest, root, request->path))
		return -1;
	*made = true;
	return open_beneath(guest, root, request->path, O_WRONLY | O_CREAT | O_EXCL | SAFE_OPEN, 0600);
}

static int put_bytes(int fd, const struct write_request *request, struct failure *why)
{
	size_t done = 0;

	while (done < request->data.size) {
		ssize_t size = pwrite(fd, request->data.at + done, request->data.size - done,
		                      (off_t)(request->offset + done));

		if (size < 0 && errno == EINTR)
			continue;
		if (size <= 0)
			return fail(why, size < 0 ? errno : EIO, "wrote %zu of %zu bytes to %.120s: %s", done,
			            request->data.size, request->path, strerror(size < 0 ? errno : EIO));
		done += (size_t)size;
	}
	return 0;
}

static int do_write(const struct guest *guest, const struct write_request *request, struct failure *why)
{
	cleanup_fd int root = open_root(guest, request->root, O_PATH, why);
	cleanup_fd int fd = -1;
	struct stat status;
	bool made = false;

	if (root < 0)
		return 1;
	fd = open_to_write(guest, root, request, &made);
	if (fd < 0)
		return cannot(why, "write", request->root, request->path);
	if (must_be_file(fd, request->path, &status, why))
		return 1;
	if ((made && fchmod(fd, request->mode) < 0) || ((request->flags & WRITE_TRUNCATE) && ftruncate(fd, 0) < 0))
		return cannot(why, "prepare", request->root, request->path);
	return put_bytes(fd, request, why);
}

static int check_write(const struct guest *guest, const struct reader *reader, const struct write_request *request,
                       struct failure *why)
{
	if (check_path(reader, request->path, why))
		return 1;
	if (request->flags & ~WRITE_KNOWN)
		return fail(why, EINVAL, "a WRITE has unknown flags 0x%x", request->flags);
	if (request->mode > 07777)
		return fail(why, EINVAL, "0%o is not a mode", request->mode);
	if (request->offset > (uint64_t)INT64_MAX - PAYLOAD_MAX)
		return fail(why, EFBIG, "no file reaches to the offset %llu", (unsigned long long)request->offset);
	if (guest->options.self && request->owner.uid != guest->own.uid)
		return fail(why, EPERM, "this sandbox has one user, %u: cannot write as %u", guest->own.uid,
		            request->owner.uid);
	return 0;
}

int files_write(struct guest *guest, uint32_t id, struct reader *reader)
{
	struct write_request request;
	struct failure why;
	uint32_t uid, gid;
	int failed;

	request.root = take_string(reader);
	request.path = take_string(reader);
	request.mode = take_u32(reader);
	request.offset = take_u64(reader);
	request.flags = take_u32(reader);
	uid = take_u32(reader);
	gid = take_u32(reader);
	request.data = take_bytes(reader);
	if (!taken_all(reader))
		return fail(&guest->last_words, EPROTO, "the fields of a WRITE do not fit its payload");
	request.owner = owner_of(guest, uid, gid);
	failed = check_write(guest, reader, &request, &why);
	if (!failed) {
		if (act_as(guest, request.owner))
			failed = fail(&why, EPERM, "cannot write as %u:%u: this sandbox has no such user", request.owner.uid,
			              request.owner.gid);
		else
			failed = do_write(guest, &request, &why);
		act_as_self(guest);
	}
	if (failed)
		reply_error(guest, id, &why);
	else
		reply_done_write(guest, id, request.data.size);
	return 0;
}

/* Into *bytes*, as much as there is. */
static int get_bytes(int fd, const struct read_request *request, unsigned char *bytes, size_t *done,
                     struct failure *why)
{
	while (*done < request->length) {
		ssize_t size = pread(fd, bytes + *done, request->length - *done, (off_t)(request->offset + *done));

		if (size < 0 && errno == EINTR)
			continue;
		if (size < 0)
			return fail(why, errno, "cannot read %.150s: %s", request->path, strerror(errno));
		if (size == 0)
			break;
		*done += (size_t)size;
	}
	return 0;
}

/* Room for what can be there, not for all that was asked. What /proc makes up has a size of 0. */
static uint32_t expected_size(const struct read_request *request, const struct stat *status)
{
	uint64_t size = (uint64_t)status->st_size;

	if (size == 0 || size > request->offset + request->length)
		return request->length;
	return size > request->offset ? (uint32_t)(size - request->offset) : 0;
}

static int do_read(struct guest *guest, uint32_t id, struct read_request *request, struct failure *why)
{
	cleanup_fd int root = open_root(guest, request->root, O_PATH, why);
	cleanup_fd int fd = -1;
	struct stat status;
	unsigned char *payload;
	size_t done = 0;

	if (root < 0)
		return 1;
	fd = open_beneath(guest, root, request->path, O_RDONLY | SAFE_OPEN, 0);
	if (fd < 0)
		return cannot(why, "read", request->root, request->path);
	if (must_be_file(fd, request->path, &status, why))
		return 1;
	request->length = expected_size(request, &status);
	payload = reply_begin(guest, DATA_HEAD + request->length);
	if (payload == NULL)
		return fail(why, ENOMEM, "out of memory for %u bytes of %.150s", request->length, request->path);
	if (get_bytes(fd, request, payload + DATA_HEAD, &done, why))
		return 1;
	put_u64(payload, (uint64_t)status.st_size);
	put_u32(payload + 8, status.st_mode & 07777);
	reply_end(guest, id, KIND_DATA, DATA_HEAD + done);
	return 0;
}

int files_read(struct guest *guest, uint32_t id, struct reader *reader)
{
	struct read_request request;
	struct failure why;
	int failed;

	request.root = take_string(reader);
	request.path = take_string(reader);
	request.offset = take_u64(reader);
	request.length = take_u32(reader);
	if (!taken_all(reader))
		return fail(&guest->last_words, EPROTO, "the fields of a READ do not fit its payload");
	failed = check_path(reader, request.path, &why);
	if (!failed && request.length > READ_MAX)
		failed = fail(&why, EINVAL, "a READ of %u bytes is over the limit of %u", request.length, READ_MAX);
	if (!failed && request.offset > (uint64_t)INT64_MAX - READ_MAX)
		failed = fail(&why, EINVAL, "no file reaches to the offset %llu", (unsigned long long)request.offset);
	if (!failed)
		failed = do_read(guest, id, &request, &why);
	if (failed)
		reply_error(guest, id, &why);
	return 0;
}
