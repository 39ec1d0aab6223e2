/* Which request goes where. Returns of 1 end the channel: the host does not speak this protocol. */
#define _GNU_SOURCE
#include <errno.h>

#include "guest.h"

bool kind_is_request(uint8_t kind)
{
	return (kind >= KIND_RUN && kind <= KIND_SHELL_CLOSE) || kind == KIND_TOOL || kind == KIND_IMPORT;
}

struct owner owner_of(const struct guest *guest, uint32_t uid, uint32_t gid)
{
	return (struct owner){
	    .uid = uid == AGENT_ID ? guest->options.agent.uid : uid,
	    .gid = gid == AGENT_ID ? guest->options.agent.gid : gid,
	};
}

static int handle_cancel(struct guest *guest, uint32_t id, const struct reader *reader)
{
	if (!taken_all(reader))
		return fail(&guest->last_words, EPROTO, "a CANCEL has a payload of %zu bytes, not 0", reader->left);
	run_cancel(guest, id);
	return 0;
}

static int handle_interrupt(struct guest *guest, uint32_t id, const struct reader *reader)
{
	if (!taken_all(reader))
		return fail(&guest->last_words, EPROTO, "an INTERRUPT has a payload of %zu bytes, not 0", reader->left);
	run_interrupt(guest, id);
	return 0;
}

static int handle_ping(struct guest *guest, uint32_t id, const struct reader *reader)
{
	if (reader->left > PING_MAX)
		return fail(&guest->last_words, EPROTO, "a PING of %zu bytes is over the limit of %u", reader->left, PING_MAX);
	reply_pong(guest, id, reader->at, reader->left);
	return 0;
}

int handle_request(struct guest *guest, uint32_t id, uint8_t kind, unsigned char *payload, size_t size)
{
	struct reader reader = {.at = payload, .left = size};

	switch (kind) {
	case KIND_RUN:
		return run_parse(guest, id, &reader);
	case KIND_CANCEL:
		return handle_cancel(guest, id, &reader);
	case KIND_WRITE:
		return files_write(guest, id, &reader);
	case KIND_READ:
		return files_read(guest, id, &reader);
	case KIND_RESTORE:
		return restore(guest, id, &reader);
	case KIND_PING:
		return handle_ping(guest, id, &reader);
	case KIND_SHELL:
		return shell_open(guest, id, payload, size);
	case KIND_SHELL_RUN:
		return shell_run(guest, id, &reader);
	case KIND_INTERRUPT:
		return handle_interrupt(guest, id, &reader);
	case KIND_SHELL_CLOSE:
		return shell_close(guest, id, &reader);
	case KIND_TOOL:
		return tool_parse(guest, id, &reader);
	case KIND_IMPORT:
		return import_parse(guest, id, &reader);
	default:
		return fail(&guest->last_words, EPROTO, "0x%02x is not a kind of request", kind);
	}
}
