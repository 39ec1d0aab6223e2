/* Replies to frames, written in place at the end of the queue. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "guest.h"

#define EXIT_BYTES 48u
#define EXIT_OUT_OF_MEMORY 1u
#define EXIT_SHELL_ENDED 2u

void put_u32(unsigned char *at, uint32_t value)
{
	for (int i = 0; i < 4; i++)
		at[i] = (unsigned char)(value >> (8 * i));
}

void put_u64(unsigned char *at, uint64_t value)
{
	put_u32(at, (uint32_t)value);
	put_u32(at + 4, (uint32_t)(value >> 32));
}

/* Where the payload goes. NULL only for lack of memory. */
unsigned char *reply_begin(struct guest *guest, size_t payload_max)
{
	unsigned char *at = queue_room(&guest->replies, HEADER_BYTES + payload_max);

	return at == NULL ? NULL : at + HEADER_BYTES;
}

void reply_end(struct guest *guest, uint32_t id, enum kind kind, size_t payload_size)
{
	unsigned char *header = guest->replies.bytes + guest->replies.tail;

	put_u32(header, (uint32_t)payload_size);
	put_u32(header + 4, id);
	put_u32(header + 8, (uint32_t)kind);
	guest->replies.tail += HEADER_BYTES + payload_size;
}

/* A guest that cannot say how a command ended must not pretend to go on. */
static unsigned char *must_begin(struct guest *guest, size_t payload_size)
{
	unsigned char *at = reply_begin(guest, payload_size);

	if (at == NULL)
		exit(complain("out of memory for a reply of %zu bytes", payload_size));
	return at;
}

void reply_hello(struct guest *guest)
{
	unsigned char *at = must_begin(guest, 12);

	put_u32(at, PROTOCOL_VERSION);
	put_u32(at + 4, guest->options.agent.uid);
	put_u32(at + 8, guest->options.agent.gid);
	reply_end(guest, 0, KIND_HELLO, 12);
}

static uint64_t microseconds(struct timeval time)
{
	return (uint64_t)time.tv_sec * 1000000 + (uint64_t)time.tv_usec;
}

/* To run out of memory takes a moment: short commands are spared the look. */
static unsigned char exit_flags(const struct guest *guest, const struct run *run, bool signalled)
{
	bool struck = (signalled || WEXITSTATUS(run->status) != 0 || run->attached) && oom_kills(guest) > run->oom_kills;

	return (unsigned char)((struck ? EXIT_OUT_OF_MEMORY : 0) | (run->shell != NULL && run->exited ? EXIT_SHELL_ENDED : 0));
}

void reply_exit(struct guest *guest, const struct run *run)
{
	unsigned char *at = must_begin(guest, EXIT_BYTES);
	bool reported = run->shell != NULL && run->shell->reported;
	bool signalled = !reported && WIFSIGNALED(run->status);
	int code = reported ? run->shell->code : signalled ? WTERMSIG(run->status) : WEXITSTATUS(run->status);

	at[0] = signalled;
	at[1] = (unsigned char)run->reason;
	at[2] = exit_flags(guest, run, signalled);
	at[3] = 0;
	put_u32(at + 4, (uint32_t)code);
	put_u64(at + 8, run->wall_ns);
	put_u64(at + 16, microseconds(run->usage.ru_utime));
	put_u64(at + 24, microseconds(run->usage.ru_stime));
	put_u64(at + 32, (uint64_t)run->usage.ru_maxrss);
	put_u64(at + 40, run->dropped);
	reply_end(guest, run->id, KIND_EXIT, EXIT_BYTES);
}

void reply_done(struct guest *guest, uint32_t id)
{
	must_begin(guest, 0);
	reply_end(guest, id, KIND_DONE, 0);
}

void reply_done_write(struct guest *guest, uint32_t id, uint64_t written)
{
	put_u64(must_begin(guest, 8), written);
	reply_end(guest, id, KIND_DONE, 8);
}

void reply_done_restore(struct guest *guest, uint32_t id, const struct restore_counts *counts)
{
	unsigned char *at = must_begin(guest, 40);

	put_u32(at, counts->killed);
	put_u32(at + 4, counts->removed);
	put_u32(at + 8, counts->made);
	put_u32(at + 12, counts->kept);
	put_u64(at + 16, counts->bytes);
	put_u64(at + 24, counts->ns);
	put_u32(at + 32, counts->compared);
	put_u32(at + 36, 0);
	reply_end(guest, id, KIND_DONE, 40);
}

void reply_pong(struct guest *guest, uint32_t id, const unsigned char *bytes, size_t size)
{
	memcpy(must_begin(guest, size), bytes, size);
	reply_end(guest, id, KIND_PONG, size);
}

/* Messages may quote names that an agent chose: only printable ASCII leaves. */
void reply_error(struct guest *guest, uint32_t id, const struct failure *why)
{
	size_t size = strlen(why->text);
	unsigned char *at = must_begin(guest, 4 + size);

	put_u32(at, (uint32_t)why->errnum);
	for (size_t i = 0; i < size; i++) {
		unsigned char c = (unsigned char)why->text[i];

		at[4 + i] = c >= 0x20 && c < 0x7f ? c : '?';
	}
	reply_end(guest, id, KIND_ERROR, 4 + size);
}
