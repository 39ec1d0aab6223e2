/* What commands used, and whether the kernel ran out of memory for them. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "guest.h"

/* The sandbox's own control group, as a container sees it: version 1, then 2. */
static const char *const oom_paths[] = {
    "/sys/fs/cgroup/memory/memory.oom_control",
    "/sys/fs/cgroup/memory.events",
};

static int read_oom_kills(int fd, uint64_t *count)
{
	static const char field[] = "oom_kill ";
	char text[1024], *at;
	ssize_t size = pread(fd, text + 1, sizeof text - 2, 0);

	if (size <= 0)
		return 1;
	text[0] = '\n';
	text[1 + size] = '\0';
	for (at = text; at != NULL; at = strchr(at + 1, '\n')) {
		if (strncmp(at + 1, field, sizeof field - 1) == 0) {
			*count = strtoull(at + sizeof field, NULL, 10);
			return 0;
		}
	}
	return 1;
}

/* Done once, before any command: nobody else can have put something in its place. */
void open_oom_events(struct guest *guest)
{
	uint64_t count;

	guest->oom_events = -1;
	for (size_t i = 0; guest->oom_events < 0 && i < sizeof oom_paths / sizeof oom_paths[0]; i++) {
		guest->oom_events = open(oom_paths[i], O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
		if (guest->oom_events >= 0 && read_oom_kills(guest->oom_events, &count))
			close_fd(&guest->oom_events);
	}
}

uint64_t oom_kills(const struct guest *guest)
{
	uint64_t count = 0;

	if (guest->oom_events < 0 || read_oom_kills(guest->oom_events, &count))
		return 0;
	return count;
}

static uint64_t microseconds(struct timeval time)
{
	return (uint64_t)time.tv_sec * 1000000 + (uint64_t)time.tv_usec;
}

uint64_t usage_us(const struct rusage *usage)
{
	return microseconds(usage->ru_utime) + microseconds(usage->ru_stime);
}

static struct timeval timeval_of(uint64_t us)
{
	return (struct timeval){.tv_sec = (time_t)(us / 1000000), .tv_usec = (suseconds_t)(us % 1000000)};
}

static uint64_t above(uint64_t value, uint64_t base)
{
	return value > base ? value - base : 0;
}

/* The kernel's account of a dead shell is of its whole life. */
void shell_subtract_usage(struct run *run)
{
	run->usage.ru_utime = timeval_of(above(microseconds(run->usage.ru_utime), run->shell->user_us));
	run->usage.ru_stime = timeval_of(above(microseconds(run->usage.ru_stime), run->shell->system_us));
}

/* What a shell used since this was last asked: the time of its command, in steps of the kernel's clock tick. */
void shell_take_usage(struct run *run)
{
	struct shell *shell = run->shell;
	uint64_t tick_us = 1000000 / (uint64_t)sysconf(_SC_CLK_TCK), user_us, system_us;
	unsigned long long times[4];
	char text[512], *end;
	ssize_t size = shell->stat < 0 ? -1 : pread(shell->stat, text, sizeof text - 1, 0);

	memset(&run->usage, 0, sizeof run->usage);
	if (size <= 0)
		return;
	text[size] = '\0';
	end = strrchr(text, ')');
	if (end == NULL || sscanf(end + 1, " %*c %*d %*s %*s %*s %*s %*s %*s %*s %*s %*s %llu %llu %llu %llu", &times[0],
	                          &times[1], &times[2], &times[3]) != 4)
		return;
	user_us = (times[0] + times[2]) * tick_us;
	system_us = (times[1] + times[3]) * tick_us;
	run->usage.ru_utime = timeval_of(above(user_us, shell->user_us));
	run->usage.ru_stime = timeval_of(above(system_us, shell->system_us));
	shell->user_us = user_us;
	shell->system_us = system_us;
}
