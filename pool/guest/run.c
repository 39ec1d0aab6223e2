/* RUN: from the request to a started command, and its standard input. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "guest.h"

#define RUN_MERGE 1u
#define OOM_SCORE_RAISE 500
#define OOM_SCORE_MAX 1000

static char *arguments[ARGS_MAX + 1], *environment[ARGS_MAX + 1];

/* Strings into a table that a final NULL ends; 1 if there may not be that many. */
int run_take_table(struct reader *reader, uint32_t least, char **table)
{
	uint32_t count = take_u32(reader);

	if (reader->bad || count < least || count > ARGS_MAX)
		return 1;
	for (uint32_t i = 0; i < count; i++)
		table[i] = (char *)(uintptr_t)take_string(reader); /* the payload is ours to lend to execve */
	table[count] = NULL;
	return 0;
}

static int take_run(struct guest *guest, struct reader *reader, struct run_request *request, uint32_t *flags)
{
	struct failure *why = &guest->last_words;
	uint32_t uid, gid;

	request->wall_ms = take_u32(reader);
	request->output_cap = take_u64(reader);
	uid = take_u32(reader);
	gid = take_u32(reader);
	*flags = take_u32(reader);
	request->cpu_ms = take_u32(reader);
	request->file_bytes = take_u64(reader);
	request->processes = take_u32(reader);
	request->status = -1;
	request->cwd = take_string(reader);
	if (run_take_table(reader, 1, arguments))
		return fail(why, EPROTO, "a RUN has no argument count from 1 to %u", ARGS_MAX);
	if (run_take_table(reader, 0, environment))
		return fail(why, EPROTO, "a RUN has no environment count up to %u", ARGS_MAX);
	request->input = take_bytes(reader);
	if (!taken_all(reader))
		return fail(why, EPROTO, "the fields of a RUN do not fit its payload");
	request->owner = owner_of(guest, uid, gid);
	request->merge = *flags & RUN_MERGE;
	request->argv = arguments;
	request->envp = environment;
	return 0;
}

static int check_run(const struct guest *guest, const struct reader *reader, const struct run_request *request,
                     uint32_t flags, struct failure *why)
{
	const struct owner *agent = &guest->options.agent, *owner = &request->owner;

	if (reader->nul)
		return fail(why, EINVAL, "an argument, a variable or the cwd of a RUN has a zero byte in it");
	if (request->wall_ms == 0)
		return fail(why, EINVAL, "the wall limit of a RUN is 0 ms, it must be 1 or more");
	if (flags & ~RUN_MERGE)
		return fail(why, EINVAL, "a RUN has unknown flags 0x%x", flags);
	if (guest->options.self && (owner->uid != agent->uid || owner->gid != agent->gid))
		return fail(why, EPERM, "this sandbox has one user, %u:%u: cannot run as %u:%u", agent->uid, agent->gid,
		            owner->uid, owner->gid);
	if (request->input.size > STDIN_MAX - guest->input_waiting)
		return fail(why, EAGAIN, "%zu bytes of standard input wait for other commands already", guest->input_waiting);
	return 0;
}

struct run *run_find(struct guest *guest, uint32_t id)
{
	for (int i = 0; i < guest->runs_end; i++)
		if (guest->runs[i].used && guest->runs[i].id == id)
			return &guest->runs[i];
	return NULL;
}

static struct run *free_run(struct guest *guest)
{
	for (int i = 0; i < COMMANDS_MAX; i++)
		if (!guest->runs[i].used)
			return &guest->runs[i];
	return NULL;
}

/* Whether there is a command that has not ended. */
bool run_goes_on(const struct run *run)
{
	return run->used && !run->exited && run->id != 0 && (run->shell == NULL || !run->shell->reported);
}

/* Takes a free place. */
void run_take(struct guest *guest, struct run *run, uint32_t id, struct shell *shell)
{
	int end = (int)(run - guest->runs) + 1;

	*run = (struct run){.used = true, .id = id, .shell = shell, .output = {-1, -1}, .input = -1};
	if (guest->runs_end < end)
		guest->runs_end = end;
}

/* Makes room for another one. */
void run_discard(struct guest *guest, struct run *run)
{
	run_close_input(guest, run);
	output_retire(guest, run);
	if (run->shell != NULL) {
		close_fd(&run->shell->status);
		close_fd(&run->shell->stat);
	}
	run->used = false;
	while (guest->runs_end > 0 && !guest->runs[guest->runs_end - 1].used)
		guest->runs_end--;
}

/* Ours is the end that must not block: another reader in the sandbox may take what poll had promised. */
int open_pipe(int ours, int fds[2])
{
	if (pipe2(fds, O_CLOEXEC) < 0)
		return 1;
	return fcntl(fds[ours], F_SETFL, O_NONBLOCK | (ours == 1 ? O_WRONLY : O_RDONLY)) < 0;
}

void run_drop_input(struct guest *guest, struct run *run)
{
	guest->input_waiting -= run->input_size - run->input_done;
	free(run->input_bytes);
	run->input_bytes = NULL;
	run->input_size = run->input_done = 0;
}

void run_close_input(struct guest *guest, struct run *run)
{
	run_drop_input(guest, run);
	close_fd(&run->input);
}

/* Writes what the pipe takes; the end of the bytes, or a command that reads no more, closes it. A shell gets more
 * with its next command. */
void run_feed(struct guest *guest, struct run *run)
{
	ssize_t size = write(run->input, run->input_bytes + run->input_done, run->input_size - run->input_done);

	if (size > 0) {
		run->input_done += (size_t)size;
		guest->input_waiting -= (size_t)size;
	}
	if (run->input_done != run->input_size && (size >= 0 || errno == EAGAIN || errno == EINTR))
		return;
	if (run->shell != NULL)
		run_drop_input(guest, run);
	else
		run_close_input(guest, run);
}

/* Most inputs fit into the pipe before the command starts; only a rest is kept. */
static int open_input(struct guest *guest, struct run *run, const struct bytes *input, int *read_end)
{
	int fds[2] = {-1, -1};
	ssize_t size;
	size_t rest;

	if (input->size == 0)
		return 0;
	if (open_pipe(1, fds)) {
		close_fd(&fds[0]);
		close_fd(&fds[1]);
		return 1;
	}
	*read_end = fds[0];
	run->input = fds[1];
	size = write(run->input, input->at, input->size);
	rest = input->size - (size > 0 ? (size_t)size : 0);
	if (rest == 0) {
		if (run->shell == NULL)
			close_fd(&run->input);
		return 0;
	}
	run->input_bytes = malloc(rest);
	if (run->input_bytes == NULL)
		return 1;
	memcpy(run->input_bytes, input->at + (input->size - rest), rest);
	run->input_size = rest;
	guest->input_waiting += rest;
	return 0;
}

/* A pipe belongs to who made it, and only its owner may open it again, as /dev/stderr. */
static int give_pipe(const struct guest *guest, const struct owner *owner, int fd)
{
	return !guest->options.self && fd > 0 && fchown(fd, owner->uid, owner->gid) < 0;
}

/* The first stays 0, the guest's /dev/null, without input. */
static int open_stdio(struct guest *guest, struct run *run, const struct run_request *request, int streams[STREAMS])
{
	int fds[2] = {-1, -1};

	for (int stream = 0; stream < (request->merge ? 1 : 2); stream++) {
		int failed = open_pipe(0, fds);

		run->output[stream] = fds[0];
		streams[1 + stream] = fds[1];
		if (failed || give_pipe(guest, &request->owner, fds[1]))
			return 1;
	}
	streams[3] = request->status;
	if (open_input(guest, run, &request->input, &streams[0]))
		return 1;
	/* A shell's script is for nobody else to write to. */
	return run->shell == NULL && give_pipe(guest, &request->owner, streams[0]);
}

int run_start(struct guest *guest, struct run *run, const struct run_request *request, struct failure *why)
{
	cleanup_fd int out = -1, err = -1, in = -1;
	int streams[STREAMS] = {0, -1, -1, -1};
	int failed = open_stdio(guest, run, request, streams);

	in = streams[0] > 0 ? streams[0] : -1;
	out = streams[1];
	err = streams[2];
	if (failed)
		return fail(why, errno, "cannot make the pipes of a command: %s", strerror(errno));
	if (request->merge)
		streams[2] = out;
	run->oom_kills = oom_kills(guest);
	run->started_ns = now_ns();
	run->deadline_ns = run->started_ns + request->wall_ms * NS_PER_MS;
	guest->has_run |= request->tool == NULL;
	run->pid = spawn(guest, request, streams);
	if (run->pid < 0)
		return fail(why, errno, "cannot make a process: %s", strerror(errno));
	if (run->shell != NULL && spawn_settle(false, why))
		return 1;
	guest->starting = run->shell == NULL && request->tool == NULL ? run : NULL;
	cpu_watch(guest, run, request->cpu_ms);
	return 0;
}

/* Waits until the command that was started last has been executed, or could not be. Returns whether that was all, and is
 * answered. It reads its request until then: no further one is taken or handled before this. */
bool run_settle_start(struct guest *guest)
{
	struct run *run = guest->starting;
	struct failure why;

	guest->starting = NULL;
	if (run == NULL)
		return false;
	if (spawn_settle(run->exited, &why)) {
		reply_error(guest, run->id, &why);
		run_discard(guest, run);
		return true;
	}
	if (!run->exited && run->reason == BY_ITSELF && now_ns() >= run->deadline_ns)
		kill_run(guest, run, WALL_LIMIT); /* it was not even executed by then */
	return false;
}

/* Starts what was asked for, or answers why not; *failed if that has been found already. */
int run_begin(struct guest *guest, uint32_t id, const struct run_request *request, int failed, struct failure *why)
{
	struct run *run = free_run(guest);

	if (run_find(guest, id) != NULL)
		return fail(&guest->last_words, EPROTO, "the id %u of a RUN is that of a running one", id);
	if (!failed && run == NULL)
		failed = fail(why, EAGAIN, "%d commands are running already", COMMANDS_MAX);
	if (!failed) {
		run_take(guest, run, id, NULL);
		run->output_left = request->output_cap;
		failed = run_start(guest, run, request, why);
		if (failed)
			run_discard(guest, run);
	}
	if (failed)
		reply_error(guest, id, why);
	return 0;
}

int run_parse(struct guest *guest, uint32_t id, struct reader *reader)
{
	struct run_request request = {.tool = NULL};
	struct failure why;
	uint32_t flags;
	int failed;

	if (take_run(guest, reader, &request, &flags))
		return 1;
	failed = check_run(guest, reader, &request, flags, &why);
	return run_begin(guest, id, &request, failed, &why);
}

/* The command has lived long enough to be worth it, and hardly long enough to have children, which would not get it. Done
 * from here, for a child that still borrows the guest's memory would change the guest's score with its own. */
void run_raise_score(const struct guest *guest, struct run *run)
{
	char path[40], text[12];
	cleanup_fd int fd = -1;
	int score = guest->own_oom_score + OOM_SCORE_RAISE;

	if (guest->proc < 0 || (run->shell != NULL && run->shell->scored))
		return;
	if (run->shell != NULL)
		run->shell->scored = true;
	snprintf(path, sizeof path, "%d/oom_score_adj", (int)run->pid);
	fd = openat(guest->proc, path, O_WRONLY | O_CLOEXEC);
	snprintf(text, sizeof text, "%d", score > OOM_SCORE_MAX ? OOM_SCORE_MAX : score);
	if (fd >= 0 && write(fd, text, strlen(text)) < 0)
		return; /* it has ended, or the kernel knows better */
}

void run_cancel(struct guest *guest, uint32_t id)
{
	struct run *run = run_find(guest, id);

	if (run != NULL && run_goes_on(run) && run->reason == BY_ITSELF)
		kill_run(guest, run, CANCELLED);
}

/* What a terminal does: SIGINT to the group. A shell must have read its command before. */
void run_interrupt(struct guest *guest, uint32_t id)
{
	struct run *run = run_find(guest, id);

	if (run == NULL || !run_goes_on(run) || run->reason != BY_ITSELF)
		return;
	if (run->shell != NULL)
		run->shell->interrupt = true;
	else
		kill(-run->pid, SIGINT);
}
