/* The floor: `/bin/sh -c COMMAND` over and over on every core, as fast as the kernel goes.
 *
 * One worker for each core it may use: vfork, execve, waitpid. Workers are not held to their cores, as sandboxes are
 * not. Standard streams are /dev/null: no pipe, no session, no change of user, nothing to set up or to collect. Prints
 * how many commands ended and in how many seconds, and waits for its workers, so that their CPU time counts as its
 * own. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

struct tally {
	long commands;
	double ended;
};

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

/* Returns 0 if the command ended with status 0. */
static int run_once(char *const *argv)
{
	int status;
	pid_t pid = vfork();

	if (pid == 0) {
		execve(argv[0], argv, environ);
		_exit(127);
	}
	return pid < 0 || waitpid(pid, &status, 0) != pid || status != 0;
}

static int work(double deadline, char *command, int report)
{
	char shell[] = "/bin/sh", option[] = "-c";
	char *const argv[] = {shell, option, command, NULL};
	struct tally tally = {0, 0};
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0 || dup2(null, 2) < 0)
		return 1;
	for (; now() < deadline; tally.commands++)
		if (run_once(argv))
			return 1;
	tally.ended = now();
	return write(report, &tally, sizeof tally) != sizeof tally;
}

/* Returns 0 when every worker has told its tally; a worker that fails tells none. */
static int collect(int report, int workers, double began)
{
	long commands = 0;
	double ended = began;
	struct tally tally;

	for (int i = 0; i < workers; i++) {
		if (read(report, &tally, sizeof tally) != sizeof tally)
			return 1;
		commands += tally.commands;
		ended = tally.ended > ended ? tally.ended : ended;
	}
	while (wait(NULL) > 0)
		;
	printf("%ld %.9f\n", commands, ended - began);
	return 0;
}

int main(int argc, char **argv)
{
	cpu_set_t cores;
	int report[2], workers = 0;
	double began = now();

	if (argc != 3 || sched_getaffinity(0, sizeof cores, &cores) < 0 || pipe2(report, O_CLOEXEC) < 0)
		return 2;
	for (int core = 0; core < CPU_SETSIZE; core++) {
		if (!CPU_ISSET(core, &cores))
			continue;
		pid_t pid = fork();
		if (pid < 0)
			return 2;
		if (pid == 0)
			_exit(work(began + atof(argv[1]), argv[2], report[1]));
		workers++;
	}
	close(report[1]);
	return collect(report[0], workers, began);
}
