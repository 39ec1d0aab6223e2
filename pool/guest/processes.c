/* The processes of the sandbox, and which command each of them is below. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "guest.h"

static int compare_pids(const void *a, const void *b)
{
	pid_t left = ((const struct process *)a)->pid, right = ((const struct process *)b)->pid;

	return (left > right) - (left < right);
}

struct process *find_process(const struct table *table, pid_t pid)
{
	struct process key = {.pid = pid};

	if (table->count == 0)
		return NULL;
	return bsearch(&key, table->processes, table->count, sizeof key, compare_pids);
}

/* "PID (any bytes) STATE PPID ...": the name may hold parentheses, so it ends at the last one. Then come, of the
 * fields that count, four CPU times and the number of threads: a process whose first thread has left shows as a zombie,
 * whatever the others do. */
static int parse_process(char *text, struct process *process)
{
	static uint64_t tick_us;
	unsigned long long times[4];
	char *end = strrchr(text, ')');
	int parent, threads;

	if (end == NULL || sscanf(end + 1, " %c %d %*s %*s %*s %*s %*s %*s %*s %*s %*s %llu %llu %llu %llu %*s %*s %d",
	                          &process->state, &parent, &times[0], &times[1], &times[2], &times[3], &threads) != 7)
		return 1;
	if (tick_us == 0)
		tick_us = 1000000 / (uint64_t)sysconf(_SC_CLK_TCK);
	process->ended = (process->state == 'Z' && threads <= 1) || process->state == 'X';
	process->parent = (pid_t)parent;
	process->leads = process->below = NOBODY;
	process->cpu_us = (times[0] + times[1] + times[2] + times[3]) * tick_us;
	return 0;
}

static int read_process(int proc, const char *name, struct process *process)
{
	char path[32], text[512];
	cleanup_fd int fd = -1;
	ssize_t size;

	snprintf(path, sizeof path, "%.15s/stat", name);
	fd = openat(proc, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 1;
	size = read(fd, text, sizeof text - 1);
	if (size <= 0)
		return 1;
	text[size] = '\0';
	process->pid = (pid_t)strtol(name, NULL, 10);
	return parse_process(text, process);
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

/* 1 if nothing can be seen. */
int list_processes(int proc, struct table *table)
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

static void mark_leaders(const struct guest *guest, const struct table *table, run_filter *looked_for)
{
	for (int i = 0; i < guest->runs_end; i++) {
		struct process *leader = NULL;

		if (looked_for(&guest->runs[i]))
			leader = find_process(table, guest->runs[i].pid);
		if (leader != NULL)
			leader->leads = i;
	}
}

/* Marks what is below the commands that are looked for; returns how many could not be placed. */
size_t place_processes(const struct guest *guest, const struct table *table, run_filter *looked_for)
{
	size_t lost = 0;
	bool changed = true;

	mark_leaders(guest, table, looked_for);
	while (changed) {
		changed = false;
		lost = 0;
		for (size_t i = 0; i < table->count; i++) {
			struct process *process = &table->processes[i];
			const struct process *parent = find_process(table, process->parent);

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
