/* The byte stream: frames in, replies out. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "guest.h"

#define LAST_WORDS_NS NS_PER_S

struct header {
	uint32_t size, id;
	uint8_t kind;
};

/* Reads what is there, at most a chunk: a frame gets memory as its bytes arrive. */
int channel_read(struct guest *guest, bool *ended)
{
	unsigned char *room;
	ssize_t size;

	run_settle_start(guest);
	room = queue_room(&guest->requests, CHUNK);
	if (room == NULL)
		return fail(&guest->last_words, ENOMEM, "out of memory for a request");
	size = read(guest->channel_in, room, CHUNK);
	if (size > 0)
		guest->requests.tail += (size_t)size;
	else if (size == 0 || (errno != EAGAIN && errno != EINTR))
		*ended = true;
	return 0;
}

static int parse_header(struct guest *guest, struct header *header)
{
	struct reader reader = {.at = guest->requests.bytes + guest->requests.head, .left = HEADER_BYTES};
	uint32_t kind;

	header->size = take_u32(&reader);
	header->id = take_u32(&reader);
	kind = take_u32(&reader);
	header->kind = (uint8_t)kind;
	if (header->size > PAYLOAD_MAX)
		return fail(&guest->last_words, EPROTO, "a frame of %u bytes is over the limit of %u", header->size,
		            PAYLOAD_MAX);
	if (kind >> 8 != 0)
		return fail(&guest->last_words, EPROTO, "the reserved bytes of a header are not zero");
	if (!kind_is_request(header->kind))
		return fail(&guest->last_words, EPROTO, "0x%02x is not a kind of request", header->kind);
	if (header->id == 0)
		return fail(&guest->last_words, EPROTO, "a request must not have the id 0");
	return 0;
}

/* Whether channel_handle has something to do, be it to refuse it. */
bool channel_has_frame(const struct guest *guest)
{
	const struct queue *requests = &guest->requests;
	struct reader reader = {.at = requests->bytes + requests->head, .left = HEADER_BYTES};
	uint32_t size;

	if (queue_size(requests) < HEADER_BYTES)
		return false;
	size = take_u32(&reader);
	return size > PAYLOAD_MAX || queue_size(requests) - HEADER_BYTES >= size;
}

/* Handles the complete frames, while their replies find room. */
int channel_handle(struct guest *guest)
{
	struct queue *requests = &guest->requests;
	struct header header;

	while (queue_size(requests) >= HEADER_BYTES && queue_size(&guest->replies) < QUEUE_LIMIT) {
		if (parse_header(guest, &header))
			return 1;
		if (queue_size(requests) - HEADER_BYTES < header.size)
			return 0;
		run_settle_start(guest);
		if (handle_request(guest, header.id, header.kind, requests->bytes + requests->head + HEADER_BYTES,
		                   header.size))
			return 1;
		if (requests->swollen)
			run_settle_start(guest); /* the memory may go */
		queue_drop(requests, HEADER_BYTES + header.size);
	}
	return 0;
}

/* 1 if the host does not take replies any more. */
int channel_flush(struct guest *guest)
{
	struct queue *replies = &guest->replies;

	guest->replies_blocked = false;
	while (queue_size(replies) > 0) {
		ssize_t size = write(guest->channel_out, replies->bytes + replies->head, queue_size(replies));

		if (size > 0) {
			queue_drop(replies, (size_t)size);
		} else if (size < 0 && errno == EAGAIN) {
			guest->replies_blocked = true;
			return 0;
		} else if (size < 0 && errno != EINTR) {
			return 1;
		}
	}
	return 0;
}

/* An ERROR with id 0, for which a slow host gets a moment. */
static void say_last_words(struct guest *guest)
{
	uint64_t deadline = now_ns() + LAST_WORDS_NS, now;

	reply_error(guest, 0, &guest->last_words);
	while (channel_flush(guest) == 0 && guest->replies_blocked && (now = now_ns()) < deadline) {
		struct pollfd writable = {.fd = guest->channel_out, .events = POLLOUT};

		poll(&writable, 1, (int)((deadline - now) / NS_PER_MS) + 1);
	}
}

void channel_say_last_words(struct guest *guest)
{
	complain("%s", guest->last_words.text);
	say_last_words(guest);
}

/* The guest cannot start. Where it was told to connect, its stderr may go nowhere. */
void channel_say_why_not(struct guest *guest)
{
	if (!guest->connected)
		return;
	fail(&guest->last_words, ECANCELED, "%s", last_complaint());
	say_last_words(guest);
}
