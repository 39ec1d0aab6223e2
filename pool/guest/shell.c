/* Persistent shells: SHELL, SHELL_RUN and SHELL_CLOSE. A shell is a run that is there before and after its commands. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "guest.h"

#define SHELL_MERGE 1u
#define TEXT_MAX ((size_t)4 << 20)
#define FROM_STDIN "-s"
#define SOURCE_FD_MIN (SHELL_STATUS_FD + 1) /* or the child would overwrite it with what it is the source of */

struct shell_request {
	uint32_t number;
	struct run_request run;
	uint32_t flags;
};

static char *arguments[ARGS_MAX + 2], *environment[ARGS_MAX + 1];

static struct run *run_of_shell(struct guest *guest, uint32_t number)
{
	return number < 1 || number > SHELLS_MAX ? NULL : &guest->runs[COMMANDS_MAX + number - 1];
}

static int take_shell(struct guest *guest, struct reader *reader, struct shell_request *request)
{
	struct failure *why = &guest->last_words;
	char **end = arguments;
	uint32_t uid, gid;

	*request = (struct shell_request){.number = take_u32(reader)};
	uid = take_u32(reader);
	gid = take_u32(reader);
	request->flags = take_u32(reader);
	request->run.cwd = take_string(reader);
	if (run_take_table(reader, 1, arguments))
		return fail(why, EPROTO, "a SHELL has no argument count from 1 to %u", ARGS_MAX);
	if (run_take_table(reader, 0, environment))
		return fail(why, EPROTO, "a SHELL has no environment count up to %u", ARGS_MAX);
	take_u32(reader); /* not the host's: it ends the last string */
	if (!taken_all(reader))
		return fail(why, EPROTO, "the fields of a SHELL do not fit its payload");
	while (*end != NULL)
		end++;
	*end++ = (char *)(uintptr_t)FROM_STDIN;
	*end = NULL;
	request->run.argv = arguments;
	request->run.envp = environment;
	request->run.owner = owner_of(guest, uid, gid);
	request->run.merge = request->flags & SHELL_MERGE;
	request->run.input = shell_prelude();
	return 0;
}

static int check_shell(struct guest *guest, const struct reader *reader, const struct shell_request *request,
                       struct failure *why)
{
	const struct owner *agent = &guest->options.agent, *owner = &request->run.owner;
	const struct run *run = run_of_shell(guest, request->number);

	if (run == NULL)
		return fail(why, EINVAL, "%u is no number of a shell, those are 1 to %d", request->number, SHELLS_MAX);
	if (run->used)
		return fail(why, EBUSY, "the shell %u is open already", request->number);
	if (reader->nul)
		return fail(why, EINVAL, "an argument, a variable or the cwd of a SHELL has a zero byte in it");
	if (request->flags & ~SHELL_MERGE)
		return fail(why, EINVAL, "a SHELL has unknown flags 0x%x", request->flags);
	if (guest->options.self && (owner->uid != agent->uid || owner->gid != agent->gid))
		return fail(why, EPERM, "this sandbox has one user, %u:%u: cannot run as %u:%u", agent->uid, agent->gid,
		            owner->uid, owner->gid);
	return 0;
}

/* Both ends of the descriptor for reports. */
static int open_status(struct shell *shell, int *theirs)
{
	int fds[2] = {-1, -1};

	if (open_pipe(0, fds))
		return 1;
	shell->status = fds[0];
	*theirs = fcntl(fds[1], F_DUPFD_CLOEXEC, SOURCE_FD_MIN);
	close_fd(&fds[1]);
	return *theirs < 0;
}

static void open_stat(const struct guest *guest, struct run *run)
{
	char path[32];

	snprintf(path, sizeof path, "%d/stat", (int)run->pid);
	if (guest->proc >= 0)
		run->shell->stat = openat(guest->proc, path, O_RDONLY | O_CLOEXEC);
}

static int start_shell(struct guest *guest, struct run *run, struct shell_request *request, struct failure *why)
{
	struct shell *shell = &guest->shells[request->number - 1];
	cleanup_fd int status = -1;

	*shell = (struct shell){.status = -1, .stat = -1};
	run_take(guest, run, 0, shell);
	if (open_status(shell, &status))
		return fail(why, errno, "cannot make the pipes of a shell: %s", strerror(errno));
	request->run.status = status;
	if (run_start(guest, run, &request->run, why))
		return 1;
	open_stat(guest, run);
	return 0;
}

int shell_open(struct guest *guest, uint32_t id, const unsigned char *payload, size_t size)
{
	unsigned char *copy = malloc(size + sizeof(uint32_t)); /* with room for the end of the last string */
	struct reader reader = {.at = copy, .left = size + sizeof(uint32_t)};
	struct shell_request request;
	struct failure why;
	struct run *run;
	int failed, broken;

	if (copy == NULL)
		return fail(&guest->last_words, ENOMEM, "out of memory for a request");
	memcpy(copy, payload, size);
	memset(copy + size, 0, sizeof(uint32_t));
	broken = take_shell(guest, &reader, &request);
	failed = broken || check_shell(guest, &reader, &request, &why);
	if (!failed) {
		run = run_of_shell(guest, request.number);
		failed = start_shell(guest, run, &request, &why);
		if (failed)
			run_discard(guest, run);
		else
			reply_done(guest, id);
	}
	if (failed && !broken)
		reply_error(guest, id, &why);
	free(copy);
	return broken;
}

static void make_token(struct shell *shell)
{
	static uint64_t fallback;
	uint64_t number;

	if (getrandom(&number, sizeof number, GRND_NONBLOCK) != (ssize_t)sizeof number)
		number = now_ns() ^ ++fallback << 40;
	snprintf(shell->token, sizeof shell->token, "%016llx", (unsigned long long)number);
}

/* What background processes printed since the last command is not this one's. */
static void begin_command(struct guest *guest, struct run *run, const struct run_request *request, uint32_t id)
{
	struct shell *shell = run->shell;

	for (int stream = 0; stream < 2; stream++)
		output_discard(guest, run, stream);
	run->id = id;
	run->reason = BY_ITSELF;
	run->started_ns = now_ns();
	run->deadline_ns = run->started_ns + request->wall_ms * NS_PER_MS;
	run->attached = run->looked = run->dying = false;
	run->rest_until_ns = run->dropped = 0;
	run->output_left = request->output_cap;
	run->oom_kills = oom_kills(guest);
	shell->line_size = shell->rubbish = 0;
	shell->reported = shell->interrupt = false;
	shell->spared_until_ns = 0;
	cpu_watch(guest, run, request->cpu_ms);
}

static int give_text(struct guest *guest, struct run *run, const struct bytes *text, struct failure *why)
{
	make_token(run->shell);
	run->input_size = shell_text(text, run->shell, &run->input_bytes);
	run->input_done = 0;
	if (run->input_size == 0)
		return fail(why, ENOMEM, "out of memory for the text of a command");
	guest->input_waiting += run->input_size;
	return 0;
}

static int check_shell_run(struct guest *guest, uint32_t number, uint32_t flags, const struct run_request *request,
                           struct failure *why)
{
	const struct run *run = run_of_shell(guest, number);
	const struct bytes *text = &request->input;

	if (run == NULL || !run->used || run->exited || run->shell->closing != 0)
		return fail(why, ESRCH, "there is no shell %u, or it has ended", number);
	if (run->id != 0)
		return fail(why, EBUSY, "the shell %u is at another command", number);
	if (request->wall_ms == 0)
		return fail(why, EINVAL, "the wall limit of a SHELL_RUN is 0 ms, it must be 1 or more");
	if (flags != 0)
		return fail(why, EINVAL, "a SHELL_RUN has unknown flags 0x%x", flags);
	if (text->size > TEXT_MAX)
		return fail(why, E2BIG, "a text of %zu bytes is over the limit of %zu", text->size, TEXT_MAX);
	if (text->size > 0 && memchr(text->at, '\0', text->size) != NULL)
		return fail(why, EINVAL, "the text of a SHELL_RUN has a zero byte in it");
	if (4 * text->size > STDIN_MAX - guest->input_waiting)
		return fail(why, EAGAIN, "%zu bytes of input wait for other commands already", guest->input_waiting);
	return 0;
}

int shell_run(struct guest *guest, uint32_t id, struct reader *reader)
{
	struct run_request request = {.status = -1};
	struct failure why;
	uint32_t number = take_u32(reader), flags;
	struct run *run = run_of_shell(guest, number);

	request.wall_ms = take_u32(reader);
	request.output_cap = take_u64(reader);
	request.cpu_ms = take_u32(reader);
	flags = take_u32(reader);
	request.input = take_bytes(reader);
	if (!taken_all(reader))
		return fail(&guest->last_words, EPROTO, "the fields of a SHELL_RUN do not fit its payload");
	if (run_find(guest, id) != NULL)
		return fail(&guest->last_words, EPROTO, "the id %u of a SHELL_RUN is that of a running one", id);
	if (check_shell_run(guest, number, flags, &request, &why) || give_text(guest, run, &request.input, &why)) {
		reply_error(guest, id, &why);
		return 0;
	}
	begin_command(guest, run, &request, id);
	run_feed(guest, run);
	return 0;
}

/* Answered when nothing of the shell is left. */
int shell_close(struct guest *guest, uint32_t id, struct reader *reader)
{
	struct run *run = run_of_shell(guest, take_u32(reader));
	struct failure why;

	if (!taken_all(reader))
		return fail(&guest->last_words, EPROTO, "the fields of a SHELL_CLOSE do not fit its payload");
	if (run == NULL || !run->used) {
		reply_done(guest, id);
	} else if (run->shell->closing != 0) {
		fail(&why, EBUSY, "the shell is being closed already");
		reply_error(guest, id, &why);
	} else {
		run->shell->closing = id;
		run->shell->fatal = true;
		if (!run->exited)
			kill_run(guest, run, run->reason == BY_ITSELF && !run->shell->reported ? CANCELLED : run->reason);
	}
	return 0;
}

/* All that was owed is sent: a living shell waits for its next command, a dead one makes room. */
void shell_settled(struct guest *guest, struct run *run)
{
	struct shell *shell = run->shell;

	run_drop_input(guest, run);
	run->id = 0;
	run->reason = BY_ITSELF;
	run->cpu_limit_us = 0;
	shell->reported = false;
	shell->spared_until_ns = 0;
	if (!run->exited)
		return;
	if (shell->closing != 0)
		reply_done(guest, shell->closing);
	run_discard(guest, run);
}
