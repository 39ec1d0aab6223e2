/* CPU limits of commands with all that is below them. The kernel's own limit is per process, so the guest looks.
 *
 * A look adds up what /proc says of the living, and of the dead that were waited for. Times of children that nobody
 * waits for vanish from that sum (as with SIGCHLD ignored), so what counts is how much it rises from look to look. */
#define _GNU_SOURCE
#include <unistd.h>

#include "guest.h"

#define LOOK_MIN_NS (10 * NS_PER_MS)  /* the kernel's figures have no finer steps */
#define LOOK_MAX_NS (250 * NS_PER_MS) /* so that short-lived children are seen */

static uint64_t sums_us[RUNS_MAX];

static bool has_limit(const struct run *run)
{
	return run_goes_on(run) && run->cpu_limit_us != 0 && run->reason == BY_ITSELF;
}

/* Adds up for all runs that have a limit. 1 if nothing can be seen. */
static int add_up(struct guest *guest)
{
	static struct table table;

	if (guest->proc < 0 || list_processes(guest->proc, &table))
		return 1;
	place_processes(guest, &table, has_limit);
	for (int i = 0; i < guest->runs_end; i++)
		sums_us[i] = 0;
	for (size_t i = 0; i < table.count; i++) {
		const struct process *process = &table.processes[i];
		int run = process->leads != NOBODY ? process->leads : process->below;

		if (run != NOBODY)
			sums_us[run] += process->cpu_us;
	}
	return 0;
}

/* No sooner than all processors together could use up the rest. */
static uint64_t pause_ns(const struct run *run)
{
	static uint64_t processors;
	uint64_t pause;

	if (processors == 0) {
		long online = sysconf(_SC_NPROCESSORS_ONLN);

		processors = online < 1 ? 1 : (uint64_t)online;
	}
	pause = (run->cpu_limit_us - run->cpu_used_us) * 1000 / processors;
	return pause < LOOK_MIN_NS ? LOOK_MIN_NS : pause > LOOK_MAX_NS ? LOOK_MAX_NS : pause;
}

static void judge(struct guest *guest, struct run *run, uint64_t sum_us, uint64_t now)
{
	if (sum_us > run->cpu_seen_us)
		run->cpu_used_us += sum_us - run->cpu_seen_us;
	run->cpu_seen_us = sum_us;
	if (run->cpu_used_us >= run->cpu_limit_us)
		kill_run(guest, run, CPU_LIMIT);
	else
		run->next_cpu_ns = now + pause_ns(run);
}

/* From here on. What a shell and its background processes used before is not this command's. */
void cpu_watch(struct guest *guest, struct run *run, uint32_t limit_ms)
{
	run->cpu_limit_us = (uint64_t)limit_ms * 1000;
	run->cpu_used_us = run->cpu_seen_us = 0;
	run->next_cpu_ns = NEVER;
	if (limit_ms == 0)
		return;
	if (run->shell != NULL && add_up(guest) == 0)
		run->cpu_seen_us = sums_us[run - guest->runs];
	run->next_cpu_ns = run->started_ns + pause_ns(run);
}

/* A command that ended by itself between two looks may have used up its time all the same. */
void cpu_settle(struct run *run)
{
	if (run->cpu_limit_us != 0 && run->reason == BY_ITSELF && usage_us(&run->usage) >= run->cpu_limit_us)
		run->reason = CPU_LIMIT;
}

/* Ends the commands that have used up their CPU time; one look serves all whose turn it is. */
void cpu_look(struct guest *guest, uint64_t now)
{
	bool due = false;

	for (int i = 0; i < guest->runs_end; i++)
		due |= has_limit(&guest->runs[i]) && now >= guest->runs[i].next_cpu_ns;
	if (!due)
		return;
	if (add_up(guest)) {
		for (int i = 0; i < guest->runs_end; i++)
			guest->runs[i].next_cpu_ns = NEVER; /* the kernel's limit for each process remains */
		return;
	}
	for (int i = 0; i < guest->runs_end; i++)
		if (has_limit(&guest->runs[i]))
			judge(guest, &guest->runs[i], sums_us[i], now);
}
