/* TOOL: work that may take long, done by a copy of the guest, whose output is treated as a command's. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tools.h"

#define EXIT_FAILED 1

#ifndef SYS_close_range
#define SYS_close_range 436
#endif

static char waiting[64 << 10];
static size_t waiting_size;

/* --- the worker --- */

static void flush(void)
{
	for (size_t done = 0; done < waiting_size;) {
		ssize_t size = write(1, waiting + done, waiting_size - done);

		if (size < 0 && errno == EINTR)
			continue;
		if (size <= 0)
			_exit(EXIT_FAILED); /* nobody reads any more */
		done += (size_t)size;
	}
	waiting_size = 0;
}

void say_bytes(const void *bytes, size_t size)
{
	const char *at = bytes;

	while (size > 0) {
		size_t room = sizeof waiting - waiting_size, part = size < room ? size : room;

		memcpy(waiting + waiting_size, at, part);
		waiting_size += part;
		at += part;
		size -= part;
		if (waiting_size == sizeof waiting)
			flush();
	}
}

void say_u32(uint32_t value)
{
	unsigned char bytes[4];

	put_u32(bytes, value);
	say_bytes(bytes, sizeof bytes);
}

void say_u64(uint64_t value)
{
	unsigned char bytes[8];

	put_u64(bytes, value);
	say_bytes(bytes, sizeof bytes);
}

void say_string(const char *text)
{
	size_t size = strlen(text);

	say_u32((uint32_t)size);
	say_bytes(text, size);
}

void say_line(const char *format, ...)
{
	char line[1024];
	va_list args;

	va_start(args, format);
	vsnprintf(line, sizeof line, format, args);
	va_end(args);
	say_bytes(line, strlen(line));
	say_bytes("\n", 1);
}

static int work(const struct tool *tool, struct failure *why)
{
	switch (tool->kind) {
	case TOOL_DIGEST:
		return tool_digest(tool, why);
	case TOOL_EXPORT:
		return tool_export(tool, why);
	case TOOL_INSPECT:
		return tool_inspect(tool, why);
	case TOOL_STAT:
		return tool_stat(tool, why);
	default:
		return fail(why, EINVAL, "%u is no tool", tool->kind);
	}
}

/* All but standard streams and, if there is one, *kept*. */
static void close_others(int kept)
{
	if (kept > 3)
		syscall(SYS_close_range, 3u, (unsigned int)kept - 1, 0u);
	syscall(SYS_close_range, kept < 3 ? 3u : (unsigned int)kept + 1, ~0u, 0u);
}

static int worker(const struct tool *tool, const int stdio[3])
{
	struct failure why;
	sigset_t none;

	setsid();
	for (int fd = 1; fd < 3; fd++)
		if (dup2(stdio[fd], fd) < 0)
			return EXIT_FAILED;
	if (tool->kind != TOOL_INSPECT) /* which tells what the guest has open */
		close_others(tool->kind == TOOL_DIGEST && (tool->flags & DIGEST_LAYER) ? tool->guest->outside : -1);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	if (work(tool, &why)) {
		dprintf(2, "%s", why.text);
		return EXIT_FAILED;
	}
	flush();
	return 0;
}

/* As spawn(), of a copy of the guest. It keeps the guest's user and powers, and can be reached as little. */
pid_t worker_start(const struct tool *tool, const int stdio[3])
{
	pid_t pid = fork();

	if (pid == 0)
		_exit(worker(tool, stdio));
	return pid;
}

/* --- the request --- */

/* As take_string, but also for a payload's last field, which no other one ends: it moves into its length's place. */
static const char *take_path(struct reader *reader)
{
	struct bytes bytes = take_bytes(reader);
	char *text = (char *)(uintptr_t)bytes.at; /* the payload is ours */

	if (reader->bad)
		return "";
	reader->nul |= memchr(text, '\0', bytes.size) != NULL;
	memmove(text - 1, text, bytes.size);
	text[(ptrdiff_t)bytes.size - 1] = '\0';
	return text - 1;
}

static int take_tool(struct guest *guest, struct reader *reader, struct tool *tool, struct run_request *request)
{
	tool->kind = take_u32(reader);
	request->wall_ms = take_u32(reader);
	request->output_cap = take_u64(reader);
	tool->flags = take_u32(reader);
	tool->count = take_u32(reader);
	if (reader->bad || tool->count > TREES_MAX)
		return fail(&guest->last_words, EPROTO, "a TOOL has no path count up to %u", TREES_MAX);
	for (uint32_t i = 0; i < tool->count; i++)
		tool->paths[i] = take_path(reader);
	if (!taken_all(reader))
		return fail(&guest->last_words, EPROTO, "the fields of a TOOL do not fit its payload");
	return 0;
}

static int check_tool(const struct reader *reader, const struct tool *tool, const struct run_request *request,
                      struct failure *why)
{
	if (reader->nul)
		return fail(why, EINVAL, "a path of a TOOL has a zero byte in it");
	if (request->wall_ms == 0)
		return fail(why, EINVAL, "the wall limit of a TOOL is 0 ms, it must be 1 or more");
	if (tool->kind < TOOL_DIGEST || tool->kind > TOOL_STAT)
		return fail(why, EINVAL, "%u is no tool", tool->kind);
	if (tool->flags & ~(tool->kind == TOOL_DIGEST ? DIGEST_FLAGS : 0u))
		return fail(why, EINVAL, "a TOOL has unknown flags 0x%x", tool->flags);
	if (tool->kind == TOOL_EXPORT && tool->count != 1)
		return fail(why, EINVAL, "EXPORT takes one path, not %u", tool->count);
	return 0;
}

int tool_parse(struct guest *guest, uint32_t id, struct reader *reader)
{
	static struct tool tool;
	struct run_request request = {.owner = guest->own, .status = -1};
	struct failure why;
	int failed;

	tool = (struct tool){.guest = guest};
	request.tool = &tool;
	if (take_tool(guest, reader, &tool, &request))
		return 1;
	failed = check_tool(reader, &tool, &request, &why);
	return run_begin(guest, id, &request, failed, &why);
}
