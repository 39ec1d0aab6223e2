/* STAT: what a sandbox uses of what it may use, as lines of text. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "tools.h"

/* The first number of a file, -1 without one. */
static long long read_number(const char *path)
{
	char text[64], *end;
	cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
	long long number;

	if (size <= 0)
		return -1;
	text[size] = '\0';
	number = strtoll(text, &end, 10);
	return end == text ? -1 : number;
}

/* Resident pages of a process, in bytes. */
static long long resident(const char *process)
{
	char path[64], text[128];
	long long pages;
	cleanup_fd int fd = -1;
	ssize_t size;

	snprintf(path, sizeof path, "/proc/%.16s/statm", process);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	size = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
	if (size <= 0)
		return 0;
	text[size] = '\0';
	return sscanf(text, "%*u %lld", &pages) == 1 ? pages * sysconf(_SC_PAGESIZE) : 0;
}

/* Of the sandbox's own control group where that is to be seen; else what is resident, shared pages more than once. */
static void stat_memory(void)
{
	static const char *const files[][2] = {
	    {"/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.max"},
	    {"/sys/fs/cgroup/memory/memory.usage_in_bytes", "/sys/fs/cgroup/memory/memory.limit_in_bytes"},
	};
	static struct names names;
	struct name name;
	unsigned int processes = 0;
	long long sum = 0, used = -1;
	cleanup_fd int dir = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	names_start(&names, dir);
	while (dir >= 0 && names_next(&names, &name) > 0) {
		if (name.text[0] < '1' || name.text[0] > '9' || atoi(name.text) == getpid())
			continue;
		processes += strcmp(name.text, "1") != 0;
		sum += resident(name.text);
	}
	say_line("processes %u", processes);
	say_line("guest_bytes %lld", resident("1"));
	for (size_t i = 0; i < 2 && used < 0; i++) {
		used = read_number(files[i][0]);
		if (used >= 0) {
			say_line("memory_bytes %lld", used);
			say_line("memory_limit_bytes %lld", read_number(files[i][1]));
		}
	}
	if (used < 0) {
		say_line("memory_bytes %lld", sum);
		say_line("memory_limit_bytes -1");
	}
}

static int stat_tree(const struct tool *tool, const char *path, struct failure *why)
{
	cleanup_fd int dir = open_root(tool->guest, path, O_RDONLY, why);
	struct statvfs status;

	if (dir < 0)
		return 1;
	if (fstatvfs(dir, &status) < 0)
		return fail(why, errno, "cannot look at the file system of %.180s: %s", path, strerror(errno));
	say_line("tree %llu %llu %llu %llu", (unsigned long long)(status.f_blocks - status.f_bfree) * status.f_frsize,
	         (unsigned long long)status.f_blocks * status.f_frsize,
	         (unsigned long long)(status.f_files - status.f_ffree), (unsigned long long)status.f_files);
	return 0;
}

int tool_stat(const struct tool *tool, struct failure *why)
{
	stat_memory();
	for (uint32_t i = 0; i < tool->count; i++)
		if (stat_tree(tool, tool->paths[i], why))
			return 1;
	return 0;
}
