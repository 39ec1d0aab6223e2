/* RUN: from the request to a started command, and its standard input. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
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
static int take_table(struct reader *reader, uint32_t least, char **table)
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
	request->cwd = take_string(reader);
	if (take_table(reader, 1, arguments))
		return fail(why, EPROTO, "a RUN has no argument count from 1 to %u", ARGS_MAX);
	if (take_table(reader, 0, environment))
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

static struct run *find_run(struct guest *guest, uint32_t id)
{
	for (int i = 0; i < RUNS_MAX; i++)
		if (guest->runs[i].used && guest->runs[i].id == id)
			return &guest->runs[i];
	return NULL;
}

static struct run *free_run(struct guest *guest)
{
	for (int i = 0; i < RUNS_MAX; i++)
		if (!guest->runs[i].used)
			return &guest->runs[i];
	return NULL;
}

/* Ours is the end that must not block: another reader in the sandbox may take what poll had promised. */
static int open_pipe(int ours, int fds[2])
{
	if (pipe2(fds, O_CLOEXEC) < 0)
		return 1;
	return fcntl(fds[ours], F_SETFL, O_NONBLOCK | (ours == 1 ? O_WRONLY : O_RDONLY)) < 0;
}

void run_close_input(struct guest *guest, struct run *run)
{
	guest->input_waiting -= run->input_size - run->input_done;
	free(run->input_bytes);
	run->input_bytes = NULL;
	run->input_size = run->input_done = 0;
	close_fd(&run->input);
}

/* Writes what the pipe takes; the end of the bytes, or a command that reads no more, closes it. */
void run_feed(struct guest *guest, struct run *run)
{
	ssize_t size = write(run->input, run->input_bytes + run->input_done, run->input_size - run->input_done);

	if (size > 0) {
		run->input_done += (size_t)size;
		guest->input_waiting -= (size_t)size;
	}
	if (run->input_done == run->input_size || (size < 0 && errno != EAGAIN && errno != EINTR))
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

/* stdio[0] stays 0, the guest's /dev/null, without input. */
static int open_stdio(struct guest *guest, struct run *run, const struct run_request *request, int stdio[3])
{
	int fds[2] = {-1, -1};

	for (int stream = 0; stream < (request->merge ? 1 : 2); stream++) {
		int failed = open_pipe(0, fds);

		run->output[stream] = fds[0];
		stdio[1 + stream] = fds[1];
		if (failed || give_pipe(guest, &request->owner, fds[1]))
			return 1;
	}
	return open_input(guest, run, &request->input, &stdio[0]) || give_pipe(guest, &request->owner, stdio[0]);
}

static int start(struct guest *guest, struct run *run, const struct run_request *request, struct failure *why)
{
	cleanup_fd int out = -1, err = -1, in = -1;
	int stdio[3] = {0, -1, -1}, cwd_error = 0;
	int failed = open_stdio(guest, run, request, stdio);

	in = stdio[0] > 0 ? stdio[0] : -1;
	out = stdio[1];
	err = stdio[2];
	if (failed)
		return fail(why, errno, "cannot make the pipes of a command: %s", strerror(errno));
	if (request->merge)
		stdio[2] = out;
	run->started_ns = now_ns();
	run->deadline_ns = run->started_ns + request->wall_ms * NS_PER_MS;
	run->pid = spawn(guest, request, stdio, &cwd_error);
	if (run->pid < 0)
		return fail(why, errno, "cannot make a process: %s", strerror(errno));
	if (cwd_error != 0)
		return fail(why, cwd_error, "cannot enter the cwd %.150s: %s", request->cwd, strerror(cwd_error));
	return 0;
}

int run_parse(struct guest *guest, uint32_t id, struct reader *reader)
{
	struct run_request request;
	struct failure why;
	struct run *run = free_run(guest);
	uint32_t flags;
	int failed;

	if (take_run(guest, reader, &request, &flags))
		return 1;
	if (find_run(guest, id) != NULL)
		return fail(&guest->last_words, EPROTO, "the id %u of a RUN is that of a running one", id);
	failed = check_run(guest, reader, &request, flags, &why);
	if (!failed && run == NULL)
		failed = fail(&why, EAGAIN, "%d commands are running already", RUNS_MAX);
	if (!failed) {
		*run = (struct run){.used = true, .id = id, .output = {-1, -1}, .input = -1};
		run->output_left = request.output_cap;
		failed = start(guest, run, &request, &why);
		if (failed) {
			run_close_input(guest, run);
			close_fd(&run->output[0]);
			close_fd(&run->output[1]);
			run->used = false;
		}
	}
	if (failed)
		reply_error(guest, id, &why);
	return 0;
}

/* The command has lived long enough to be worth it. Done from here, for a child that still borrows the guest's
 * memory would change the guest's score with its own. */
void run_attach(const struct guest *guest, struct run *run)
{
	char path[40];
	cleanup_fd int fd = -1;
	int score = guest->own_oom_score + OOM_SCORE_RAISE;

	run->attached = true;
	if (guest->proc < 0)
		return;
	snprintf(path, sizeof path, "%d/oom_score_adj", (int)run->pid);
	fd = openat(guest->proc, path, O_WRONLY | O_CLOEXEC);
	if (fd >= 0 && dprintf(fd, "%d", score > OOM_SCORE_MAX ? OOM_SCORE_MAX : score) < 0)
		return; /* it has ended, or the kernel knows better */
}

void run_cancel(struct guest *guest, uint32_t id)
{
	struct run *run = find_run(guest, id);

	if (run != NULL && !run->exited && run->reason == BY_ITSELF)
		kill_run(guest, run, CANCELLED);
}
