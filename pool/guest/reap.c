/* The dead: of commands, of what they left behind, and of everything at once. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

#include "guest.h"

#define REAPED_AT_ONCE 256 /* processes that die as fast as they are made must not stop the loop */
#define KILL_LIMIT_NS (5 * NS_PER_S)
#define KILL_AGAIN_NS (100 * NS_PER_MS)

static struct run *run_of(struct guest *guest, pid_t pid)
{
	for (int i = 0; i < guest->runs_end; i++)
		if (guest->runs[i].used && !guest->runs[i].exited && guest->runs[i].pid == pid)
			return &guest->runs[i];
	return NULL;
}

/* Of a shell the last command alone counts, which may have been reported before. */
static void take_end(struct guest *guest, struct run *run, int status, const struct rusage *usage)
{
	bool over = !run_goes_on(run);

	run->exited = true;
	run_close_input(guest, run);
	if (over)
		return;
	run->status = status;
	run->usage = *usage;
	if (run->shell != NULL)
		shell_subtract_usage(run);
	cpu_settle(run);
	run->wall_ns = guest->last_wall_ns = now_ns() - run->started_ns;
	run->owed[0] = run->owed[1] = SIZE_MAX;
}

/* Reaps one, if there is one: its pid, 0 if none is dead, -1 if none is left. */
static pid_t reap_one(struct guest *guest, struct run **run)
{
	int status;
	struct rusage usage;
	pid_t pid = wait4(-1, &status, WNOHANG | __WALL, &usage);

	*run = pid > 0 ? run_of(guest, pid) : NULL;
	if (*run == NULL)
		return pid;
	take_end(guest, *run, status, &usage);
	if (*run == guest->starting && run_settle_start(guest))
		*run = NULL;
	return pid;
}

/* The EXIT of a command that died is sent by the loop as soon as there is room. */
void reap(struct guest *guest)
{
	struct run *run;
	pid_t pid = 1;

	for (int i = 0; pid > 0 && i < REAPED_AT_ONCE; i++)
		pid = reap_one(guest, &run);
	guest->more_children = pid > 0;
}

static void wait_for_child(uint64_t limit_ns)
{
	struct timespec timeout = {.tv_sec = (time_t)(limit_ns / NS_PER_S), .tv_nsec = (long)(limit_ns % NS_PER_S)};
	sigset_t children;

	sigemptyset(&children);
	sigaddset(&children, SIGCHLD);
	sigtimedwait(&children, NULL, &timeout);
}

/* Nothing but the guest is left when this returns 0. */
int kill_everything(struct guest *guest, uint32_t *killed, struct failure *why)
{
	uint64_t deadline = now_ns() + KILL_LIMIT_NS;
	struct run *run;
	pid_t pid;

	kill(-1, SIGKILL);
	while ((pid = reap_one(guest, &run)) >= 0 || errno != ECHILD) {
		if (pid > 0) {
			++*killed;
			if (run != NULL && run->reason == BY_ITSELF && (run->shell == NULL || !run->shell->reported))
				run->reason = RESTORED;
		} else if (now_ns() > deadline) {
			return fail(why, ETIMEDOUT, "a process could not be killed within 5 seconds");
		} else {
			wait_for_child(KILL_AGAIN_NS);
			kill(-1, SIGKILL); /* one may have entered from outside in the meantime */
		}
	}
	guest->more_children = false;
	return 0;
}
