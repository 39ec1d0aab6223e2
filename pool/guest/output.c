/* What commands print: sent up to their cap, read and thrown away when nobody owns it any more. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "guest.h"

#define OWED_UNKNOWN SIZE_MAX
#define ORPHAN_REST_NS (2 * NS_PER_MS) /* after each pipeful: processes that print without end get this share, all together */

#define TRICKLE ((size_t)4 << 10) /* a drop costs the host as much as a bucket: after one, more gather first */
#define TRICKLE_REST_NS NS_PER_MS

static unsigned char rubbish[CHUNK];

static size_t smaller(size_t a, uint64_t b)
{
	return b < a ? (size_t)b : a;
}

/* One read of at most *limit* bytes into an OUTPUT frame: as read(), with the bytes asked for in *wanted*.
 * Bytes over the cap are not sent, and are why the command has to end. */
static ssize_t read_output(struct guest *guest, struct run *run, int stream, size_t limit, size_t *wanted)
{
	size_t allowed = smaller(limit, run->output_left);
	unsigned char *payload;
	ssize_t size;

	*wanted = allowed == 0 ? limit : allowed;
	if (allowed == 0) {
		size = read(run->output[stream], rubbish, limit);
		if (size > 0)
			run->dropped += (uint64_t)size;
		if (size > 0 && run->reason == BY_ITSELF)
			run->reason = OUTPUT_CAP;
		return size;
	}
	payload = reply_begin(guest, 1 + allowed);
	if (payload == NULL) {
		errno = EAGAIN; /* memory may come back; the bytes stay in the pipe */
		return -1;
	}
	size = read(run->output[stream], payload + 1, allowed);
	if (size > 0) {
		payload[0] = (unsigned char)(stream + 1);
		reply_end(guest, run->id, KIND_OUTPUT, 1 + (size_t)size);
		run->output_left -= (uint64_t)size;
	}
	return size;
}

/* A running command's pipe is readable. */
void output_pump(struct guest *guest, struct run *run, int stream)
{
	enum reason before = run->reason;
	size_t wanted;
	ssize_t size = read_output(guest, run, stream, CHUNK, &wanted);

	if (size == 0 || (size < 0 && errno != EAGAIN && errno != EINTR)) {
		close_fd(&run->output[stream]);
	} else if (run->reason != before) {
		kill_run(guest, run, OUTPUT_CAP);
	} else if (size > 0 && (size_t)size < TRICKLE) {
		run->rest_until_ns = now_ns() + TRICKLE_REST_NS;
	}
}

/* Somebody may still hold the other end: a process left in the background must neither block nor get SIGPIPE. */
static void retire_pipe(struct guest *guest, int *fd)
{
	if (*fd < 0)
		return;
	if (read(*fd, rubbish, sizeof rubbish) == 0) {
		close_fd(fd);
		return;
	}
	if (guest->orphans_count == ORPHANS_MAX) {
		close_fd(&guest->orphans[0]);
		guest->orphans_count--;
		memmove(guest->orphans, guest->orphans + 1, guest->orphans_count * sizeof guest->orphans[0]);
	}
	guest->orphans[guest->orphans_count++] = steal_fd(fd);
}

/* The command has ended. Sends what it wrote until then, and no more however much its children write.
 * Returns whether that is all of it. */
static bool send_owed(struct guest *guest, struct run *run, int stream)
{
	size_t *owed = &run->owed[stream], wanted;

	while (*owed > 0 && run->output[stream] >= 0) {
		ssize_t size;
		int rest = 0;

		if (queue_size(&guest->replies) >= QUEUE_LIMIT)
			return false;
		size = read_output(guest, run, stream, smaller(CHUNK, *owed), &wanted);
		if (size == 0) {
			close_fd(&run->output[stream]);
		} else if (size < 0 || (size_t)size < wanted || run->reason == OUTPUT_CAP) {
			*owed = 0; /* empty a moment after the end, or over the cap */
		} else if (*owed == OWED_UNKNOWN) {
			*owed = ioctl(run->output[stream], FIONREAD, &rest) == 0 && rest > 0 ? (size_t)rest : 0;
		} else {
			*owed -= (size_t)size;
		}
	}
	return true;
}

/* EXIT, once all that belongs before it is in the queue. */
void output_settle(struct guest *guest, struct run *run)
{
	for (int stream = 0; stream < 2; stream++)
		if (!send_owed(guest, run, stream))
			return;
	output_abandon(guest, run);
}

/* What stayed in a pipe because of the cap. */
static void count_dropped(struct run *run)
{
	int rest = 0;

	for (int stream = 0; stream < 2; stream++)
		if (run->output[stream] >= 0 && ioctl(run->output[stream], FIONREAD, &rest) == 0 && rest > 0)
			run->dropped += (uint64_t)rest;
}

void output_abandon(struct guest *guest, struct run *run)
{
	if (run->output_left == 0)
		count_dropped(run);
	if (run->id != 0)
		reply_exit(guest, run);
	if (run->shell != NULL)
		shell_settled(guest, run);
	else
		run_discard(guest, run);
}

void output_retire(struct guest *guest, struct run *run)
{
	retire_pipe(guest, &run->output[0]);
	retire_pipe(guest, &run->output[1]);
}

static void rest_after_rubbish(struct guest *guest)
{
	uint64_t now = now_ns();

	if (guest->orphans_rest_until_ns < now)
		guest->orphans_rest_until_ns = now;
	guest->orphans_rest_until_ns += ORPHAN_REST_NS;
}

/* A shell without a command: its background processes must neither block nor get SIGPIPE. */
void output_discard(struct guest *guest, struct run *run, int stream)
{
	ssize_t size;

	if (run->output[stream] < 0)
		return;
	size = read(run->output[stream], rubbish, sizeof rubbish);
	if (size > 0)
		rest_after_rubbish(guest);
	else if (size == 0 || (errno != EAGAIN && errno != EINTR))
		close_fd(&run->output[stream]);
}

void orphan_drain(struct guest *guest, int fd)
{
	ssize_t size = read(fd, rubbish, sizeof rubbish);

	if (size > 0)
		rest_after_rubbish(guest);
	if (size > 0 || (size < 0 && (errno == EAGAIN || errno == EINTR)))
		return;
	for (size_t i = 0; i < guest->orphans_count; i++) {
		if (guest->orphans[i] != fd)
			continue;
		close_fd(&guest->orphans[i]);
		guest->orphans[i] = guest->orphans[--guest->orphans_count];
		return;
	}
}

void orphans_close(struct guest *guest)
{
	while (guest->orphans_count > 0)
		close_fd(&guest->orphans[--guest->orphans_count]);
}
