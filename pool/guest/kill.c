/* Ends commands and everything below them, whatever session or group it moved to.
 *
 * A command is a child subreaper: what its descendants leave behind stays below it while it lives. So it is stopped,
 * everything that /proc shows below it is killed, over and over until a look finds nobody left, and only then it
 * dies itself. The loop goes on between two looks, and one look serves all commands that have to go. A process with
 * SIGKILL pending forks no more, so looks that find somebody new are few, unless a command forks faster than that.
 * Looks end when the command is reaped, not before: whoever traces it keeps its death from the guest, and dies too. */
#define _GNU_SOURCE
#include <dirent.h>
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
#define NOBODY (-1)

struct process {
	pid_t pid, parent;
	char state;
	bool ended; /* a zombie, and not only its first thread */
	int leads;  /* the run that it is the command of, if that has to go */
	int below;  /* the run that it has to go with */
};

struct table {
	struct process *processes;
	size_t count, capacity;
};

/* What one look found, for each run. */
struct look {
	size_t alive[RUNS_MAX]; /* neither zombies nor, the command itself, stopped */
	size_t fresh[RUNS_MAX]; /* killed for the first time */
	size_t lost;            /* not to be placed: their parent went while we looked */
};

static int compare_pids(const void *a, const void *b)
{
	pid_t left = ((const struct process *)a)->pid, right = ((const struct process *)b)->pid;

	return (left > right) - (left < right);
}

static struct process *find(const struct table *table, pid_t pid)
{
	struct process key = {.pid = pid};

	if (table->count == 0)
		return NULL;
	return bsearch(&key, table->processes, table->count, sizeof key, compare_pids);
}

/* "PID (any bytes) STATE PPID ...": the name may hold parentheses, so it ends at the last one. 15 fields on there is
 * the number of threads: a process whose first thread has left shows as a zombie, whatever the others do. */
static int read_process(int proc, const char *name, struct process *process)
{
	char path[32], text[512], *end;
	cleanup_fd int fd = -1;
	ssize_t size;
	int parent, threads;

	snprintf(path, sizeof path, "%.15s/stat", name);
	fd = openat(proc, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 1;
	size = read(fd, text, sizeof text - 1);
	if (size <= 0)
		return 1;
	text[size] = '\0';
	end = strrchr(text, ')');
	if (end == NULL || sscanf(end + 1, " %c %d %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %d",
	                          &process->state, &parent, &threads) != 3)
		return 1;
	process->ended = (process->state == 'Z' && threads <= 1) || process->state == 'X';
	process->pid = (pid_t)strtol(name, NULL, 10);
	process->parent = (pid_t)parent;
	process->leads = process->below = NOBODY;
	return 0;
}

static int append(struct table *table, const struct process *process)
{
	if (table->count == table->capacity) {
		size_t capacity = table->capacity == 0 ? 256 : table->capacity * 2;
		struct process *processes = realloc(table->processes, capacity * sizeof *processes);

		if (processes == NULL)
			return 1;
		table->processes = processes;
		table->capacity = capacity;
	}
	table->processes[table->count++] = *process;
	return 0;
}

static int list_processes(int proc, struct table *table)
{
	static struct names names;
	struct name name;
	struct process process;

	table->count = 0;
	if (lseek(proc, 0, SEEK_SET) < 0)
		return 1;
	names_start(&names, proc);
	while (names_next(&names, &name) > 0)
		if (name.text[0] >= '1' && name.text[0] <= '9' && read_process(proc, name.text, &process) == 0 &&
		    append(table, &process))
			return 1;
	if (table->count > 1)
		qsort(table->processes, table->count, sizeof *table->processes, compare_pids);
	return table->count == 0;
}

static bool is_dying(const struct run *run)
{
	return run->used && run->dying && !run->exited;
}

/* Stops the commands again, should somebody have woken them. */
static void stop_leaders(const struct guest *guest)
{
	for (int i = 0; i < RUNS_MAX; i++)
		if (is_dying(&guest->runs[i]))
			kill(guest->runs[i].pid, SIGSTOP);
}

static void mark_leaders(const struct guest *guest, const struct table *table)
{
	for (int i = 0; i < RUNS_MAX; i++) {
		struct process *leader = is_dying(&guest->runs[i]) ? find(table, guest->runs[i].pid) : NULL;

		if (leader != NULL)
			leader->leads = i;
	}
}

/* Marks what is below the leaders; returns how many could not be placed. */
static size_t mark(const struct table *table)
{
	size_t lost = 0;
	bool changed = true;

	while (changed) {
		changed = false;
		lost = 0;
		for (size_t i = 0; i < table->count; i++) {
			struct process *process = &table->processes[i];
			const struct process *parent = find(table, process->parent);

			if (process->below != NOBODY || process->leads != NOBODY || process->parent == 0)
				continue;
			if (parent == NULL)
				lost++;
			else
				process->below = parent->leads != NOBODY ? parent->leads : parent->below;
			changed |= process->below != NOBODY;
		}
	}
	return lost;
}

static bool was_killed(const struct table *earlier, pid_t pid)
{
	const struct process *process = find(earlier, pid);

	return process != NULL && process->below != NOBODY;
}

/* Not stopped yet, or woken. Where only the first thread has left the others cannot be seen: they get the time from
 * one look to the next. */
static bool may_fork(const struct process *leader, const struct table *earlier)
{
	const struct process *before = find(earlier, leader->pid);

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

/* The EXIT follows when it is reaped. */
static void finish(const struct run *run)
{
	kill(run->pid, SIGKILL);
}

/* 1 if what is below the run is made as fast as it is found. */
static int judge(struct run *run, size_t alive, size_t fresh, uint64_t now)
{
	if (fresh > 0)
		return ++run->fruitful_looks > FRUITFUL_LOOKS_MAX;
	if (alive == 0 || now > run->dying_since_ns + DYING_LIMIT_NS)
		finish(run);
	return 0;
}

/* A fork bomb, or no way to see: the sandbox is the smallest thing that can be ended. */
static void kill_sandbox(struct guest *guest)
{
	kill(-1, SIGKILL);
	for (int i = 0; i < RUNS_MAX; i++)
		if (is_dying(&guest->runs[i]))
			finish(&guest->runs[i]);
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
	mark_leaders(guest, table);
	look.lost = mark(table);
	kill_marked(guest->proc, table, earlier, &look);
	turn = !turn;
	now = now_ns();
	for (int i = 0; i < RUNS_MAX; i++) {
		struct run *run = &guest->runs[i];

		if (is_dying(run) && judge(run, look.alive[i], look.fresh[i] + look.lost, now)) {
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
