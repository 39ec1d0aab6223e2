/* Ends a command and everything below it, whatever session or group it moved to.
 *
 * The command is a child subreaper: what its descendants leave behind stays below it while it lives. So it is
 * stopped, everything that /proc shows below it is killed, over and over until a look finds nobody who was not
 * killed in an earlier one (a process with SIGKILL pending forks no more), and only then it dies itself. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "guest.h"

#define FRUITFUL_LOOKS_MAX 64
#define DYING_NS (50 * NS_PER_MS) /* how long the killed get to be gone before their EXIT is sent anyway */
#define PAUSE_NS 200000

struct process {
	pid_t pid, parent;
	char state;
	bool below; /* a descendant of the command */
};

struct table {
	struct process *processes;
	size_t count, capacity;
};

/* What one look found. */
struct look {
	size_t alive; /* neither zombies nor, the command itself, stopped */
	size_t fresh; /* killed for the first time, or not to be placed in the tree */
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

/* "PID (any bytes) STATE PPID ...": the name may hold parentheses, so it ends at the last one. */
static int read_process(int proc, const char *name, struct process *process)
{
	char path[32], text[512], *end;
	cleanup_fd int fd = -1;
	ssize_t size;
	int parent;

	snprintf(path, sizeof path, "%.15s/stat", name);
	fd = openat(proc, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 1;
	size = read(fd, text, sizeof text - 1);
	if (size <= 0)
		return 1;
	text[size] = '\0';
	end = strrchr(text, ')');
	if (end == NULL || sscanf(end + 1, " %c %d", &process->state, &parent) != 2)
		return 1;
	process->pid = (pid_t)strtol(name, NULL, 10);
	process->parent = (pid_t)parent;
	process->below = false;
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

/* Marks what is below *leader*; returns how many could not be placed because their parent was gone already. */
static size_t mark(struct table *table, pid_t leader)
{
	size_t lost = 0;
	bool changed = true;

	while (changed) {
		changed = false;
		lost = 0;
		for (size_t i = 0; i < table->count; i++) {
			struct process *process = &table->processes[i];
			const struct process *parent = find(table, process->parent);

			if (process->below || process->pid == leader || process->parent == 0)
				continue;
			if (parent == NULL)
				lost++;
			else if (parent->pid == leader || parent->below)
				process->below = changed = true;
		}
	}
	return lost;
}

static bool was_killed(const struct table *earlier, pid_t pid)
{
	const struct process *process = find(earlier, pid);

	return process != NULL && process->below;
}

/* One look: stops the leader again, should somebody have woken it, and kills what is below it. */
static int look_and_kill(int proc, pid_t leader, const struct table *earlier, struct table *table, struct look *look)
{
	kill(leader, SIGSTOP);
	if (list_processes(proc, table))
		return 1;
	*look = (struct look){.fresh = mark(table, leader)};
	for (size_t i = 0; i < table->count; i++) {
		const struct process *process = &table->processes[i];

		if (process->pid == leader && strchr("RSD", process->state) != NULL)
			look->alive++; /* not stopped yet, or woken again */
		if (!process->below || process->state == 'Z' || process->state == 'X')
			continue;
		kill(process->pid, SIGKILL);
		look->alive++;
		if (!was_killed(earlier, process->pid))
			look->fresh++;
	}
	return 0;
}

static void pause_briefly(void)
{
	const struct timespec pause = {.tv_sec = 0, .tv_nsec = PAUSE_NS};

	nanosleep(&pause, NULL);
}

/* 0 when all below *leader* are dead or doomed, 1 if they are made as fast as they are found. */
static int kill_below(int proc, pid_t leader)
{
	static struct table tables[2];
	uint64_t patience = now_ns() + DYING_NS;
	int fruitful = 0;
	struct look look;

	tables[1].count = 0;
	for (int i = 0; fruitful < FRUITFUL_LOOKS_MAX; i++) {
		if (look_and_kill(proc, leader, &tables[(i + 1) % 2], &tables[i % 2], &look))
			return 1;
		if (look.fresh == 0 && (look.alive == 0 || now_ns() > patience))
			return 0;
		fruitful += look.fresh > 0;
		pause_briefly();
	}
	return 1;
}

/* The EXIT follows when the command is reaped. */
void kill_run(struct guest *guest, struct run *run, enum reason reason)
{
	run->reason = reason;
	kill(run->pid, SIGSTOP);
	if (guest->proc < 0 || kill_below(guest->proc, run->pid))
		kill(-1, SIGKILL); /* a fork bomb, or no way to see: the sandbox is the smallest thing that can be ended */
	kill(run->pid, SIGKILL);
}
