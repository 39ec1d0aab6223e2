/* Ends commands and everything below them, whatever session or group it moved to.
 *
 * A command is a child subreaper: what its descendants leave behind stays below it while it lives. So it is stopped,
 * everything that /proc shows below it is killed, over and over until a look finds nobody left, and only then it
 * dies itself. The loop goes on between two looks, and one look serves all commands that have to go. A process with
 * SIGKILL pending forks no more, so looks that find somebody new are few, unless a command forks faster than that.
 * Looks end when the command is reaped, not before: whoever traces it keeps its death from the guest, and dies too. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "guest.h"

#define FRUITFUL_LOOKS_MAX 64
#define DYING_LIMIT_NS (5 * NS_PER_S) /* for the killed to be gone; then the kernel holds them, and the EXIT is sent */
#define PAUSE_MIN_NS (NS_PER_MS / 5)
#define PAUSE_MAX_NS (10 * NS_PER_MS)
#define PAUSE_LATE_NS (200 * NS_PER_MS) /* where only commands are left that the kernel holds */

/* What one look found, for each run. */
struct look {
	size_t alive[RUNS_MAX]; /* neither zombies nor, the command itself, stopped */
	size_t fresh[RUNS_MAX]; /* killed for the first time */
	size_t lost;            /* not to be placed: their parent went while we looked */
};

static bool is_dying(const struct run *run)
{
	return run->used && run->dying && !run->exited;
}

/* Stops the commands again, should somebody have woken them. */
static void stop_leaders(const struct guest *guest)
{
	for (int i = 0; i < guest->runs_end; i++)
		if (is_dying(&guest->runs[i]))
			kill(guest->runs[i].pid, SIGSTOP);
}

static bool was_killed(const struct table *earlier, pid_t pid)
{
	const struct process *process = find_process(earlier, pid);

	return process != NULL && process->below != NOBODY;
}

/* Not stopped yet, or woken. Where only the first thread has left the others cannot be seen: they get the time from
 * one look to the next. */
static bool may_fork(const struct process *leader, const struct table *earlier)
{
	const struct process *before = find_process(earlier, leader->pid);

	if (leader->state == 'Z' && !leader->ended)
		return before == NULL || before->leads == NOBODY;
	return strchr("RSD", leader->state) != NULL;
}

/* Until its tracer is gone, a process may be held on its way out, and its parent is not told of its end. */
static void kill_tracer(int proc, pid_t pid)
{
	static const char field[] = "\nTracerPid:\t";
	char path[32], text[1024], *found;
	cleanup_fd int fd = -1;
	ssize_t size;
	long tracer;

	snprintf(path, sizeof path, "%d/status", (int)pid);
	fd = openat(proc, path, O_RDONLY | O_CLOEXEC);
	size = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
	if (size <= 0)
		return;
	text[size] = '\0';
	found = strstr(text, field);
	tracer = found == NULL ? 0 : strtol(found + sizeof field - 1, NULL, 10);
	if (tracer > 1)
		kill((pid_t)tracer, SIGKILL);
}

static void kill_marked(int proc, const struct table *table, const struct table *earlier, struct look *look)
{
	for (size_t i = 0; i < table->count; i++) {
		const struct process *process = &table->processes[i];
		bool leads = process->leads != NOBODY;

		if (leads && may_fork(process, earlier))
			look->alive[process->leads]++;
		if ((leads && process->state == 'Z') || ((leads || process->below != NOBODY) && process->state == 't'))
			kill_tracer(proc, process->pid);
		if (process->below == NOBODY || process->ended)
			continue;
		kill(process->pid, SIGKILL);
		look->alive[process->below]++;
		if (!was_killed(earlier, process->pid))
			look->fresh[process->below]++;
	}
}

/* The EXIT follows when it is reaped, or when a shell that may live on has reported. */
static void finish(struct guest *guest, struct run *run)
{
	if (run->shell != NULL && !run->shell->fatal)
		shell_spare(guest, run);
	else
		kill(run->pid, SIGKILL);
}

/* 1 if what is below the run is made as fast as it is found. */
static int judge(struct guest *guest, struct run *run, size_t alive, size_t fresh, uint64_t now)
{
	if (fresh > 0)
		return ++run->fruitful_looks > FRUITFUL_LOOKS_MAX;
	if (alive == 0 || now > run->dying_since_ns + DYING_LIMIT_NS)
		finish(guest, run);
	return 0;
}

/* A fork bomb, or no way to see: the sandbox is the smallest thing that can be ended. */
static void kill_sandbox(struct guest *guest)
{
	kill(-1, SIGKILL);
	for (int i = 0; i < guest->runs_end; i++)
		if (is_dying(&guest->runs[i]))
			finish(guest, &guest->runs[i]);
}

/* One look for all; says when the next one is due. */
void kill_look(struct guest *guest)
{
	static struct table tables[2];
	static int turn;
	struct table *table = &tables[turn], *earlier = &tables[!turn];
	struct look look = {.lost = 0};
	bool waits = false, hurry = false;
	uint64_t now;

	guest->next_look_ns = NEVER;
	stop_leaders(guest);
	if (guest->proc < 0 || list_processes(guest->proc, table)) {
		kill_sandbox(guest);
		return;
	}
	look.lost = place_processes(guest, table, is_dying);
	kill_marked(guest->proc, table, earlier, &look);
	turn = !turn;
	now = now_ns();
	for (int i = 0; i < guest->runs_end; i++) {
		struct run *run = &guest->runs[i];

		if (is_dying(run) && judge(guest, run, look.alive[i], look.fresh[i] + look.lost, now)) {
			kill_sandbox(guest);
			return;
		}
		waits |= is_dying(run);
		hurry |= is_dying(run) && now <= run->dying_since_ns + DYING_LIMIT_NS;
	}
	guest->look_pause_ns = guest->look_pause_ns * 2 < PAUSE_MAX_NS ? guest->look_pause_ns * 2 : PAUSE_MAX_NS;
	if (waits)
		guest->next_look_ns = now + (hurry ? guest->look_pause_ns : PAUSE_LATE_NS);
}

/* Stops the command at once; the loop does the rest. */
void kill_run(struct guest *guest, struct run *run, enum reason reason)
{
	run->reason = reason;
	run->dying = true;
	run->dying_since_ns = now_ns();
	run->fruitful_looks = 0;
	kill(run->pid, SIGSTOP);
	guest->next_look_ns = 0;
	guest->look_pause_ns = PAUSE_MIN_NS / 2;
}
