/* INSPECT: all that must be as in a new sandbox but files, as lines of text: a word for what it is, and what is there.
 * Numbers that differ from sandbox to sandbox are left out; the host compares the lines, in whatever order. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "tools.h"

#define TIME_WAIT 6u /* the kernel's TCP_TIME_WAIT */
#define LINE_MAX_BYTES 8192

typedef void line_reader(const char *key, char *line);

/* Printable text without line ends, whatever an agent wrote. */
static void clean(char *text)
{
	for (; *text != '\0'; text++)
		if (*text == '\t')
			*text = ' ';
		else if ((unsigned char)*text < 0x20 || (unsigned char)*text > 0x7e)
			*text = '?';
}

/* Calls *read* with each line of a file of /proc; what is not there is said to be absent. */
static void read_lines(const char *path, const char *key, line_reader *read)
{
	static char line[LINE_MAX_BYTES];
	FILE *file = fopen(path, "re");

	if (file == NULL) {
		say_line("absent %s", path);
		return;
	}
	while (fgets(line, sizeof line, file) != NULL) {
		line[strcspn(line, "\n")] = '\0';
		clean(line);
		read(key, line);
	}
	fclose(file);
}

static void say_as_it_is(const char *key, char *line)
{
	say_line("%s %s", key, line);
}

static unsigned int counted, waiting_for_time;

static void count_line(const char *key, char *line)
{
	unsigned int state;

	counted++;
	if (strncmp(key, "tcp", 3) == 0 && sscanf(line, " %*u: %*s %*s %x", &state) == 1 && state == TIME_WAIT)
		waiting_for_time++;
}

/* Below a line of headings. */
static void count_lines(const char *folder, const char *name, const char *word)
{
	char path[64];

	counted = waiting_for_time = 0;
	snprintf(path, sizeof path, "%s/%s", folder, name);
	read_lines(path, name, count_line);
	say_line("%s %s %u", word, name, counted > 0 ? counted - 1 - waiting_for_time : 0);
	if (waiting_for_time > 0)
		say_line("lingering %s %u", name, waiting_for_time);
}

/* Without how times of access are kept, which is the file system's own business. */
static void say_root(const char *key, char *options)
{
	char *rest = NULL;
	const char *before = "";
	char kept[256];
	size_t size = 0;

	for (char *word = strtok_r(options, ",", &rest); word != NULL; word = strtok_r(NULL, ",", &rest)) {
		size_t length = strlen(word);

		if ((length > 5 && strcmp(word + length - 5, "atime") == 0) || size + length + 2 > sizeof kept)
			continue;
		size += (size_t)snprintf(kept + size, sizeof kept - size, "%s%s", before, word);
		before = ",";
	}
	kept[size] = '\0';
	say_line("%s / %s", key, kept);
}

/* The point, the kind and the options; not the numbers, nor where on the machine it is from. A root may change its kind:
 * a restore takes up a copy of the image's where there is one. */
static void say_mount(const char *key, char *line)
{
	char *words[6], *rest = NULL, *dash = strstr(line, " - "), *kind, *options;

	for (int i = 0; i < 6; i++) {
		words[i] = strtok_r(i == 0 ? line : NULL, " ", &rest);
		if (words[i] == NULL)
			return;
	}
	if (dash == NULL)
		return;
	kind = strtok_r(dash + 3, " ", &rest);
	strtok_r(NULL, " ", &rest); /* what is mounted */
	options = strtok_r(NULL, " ", &rest);
	if (kind == NULL || options == NULL)
		return;
	if (strcmp(words[4], "/") == 0) {
		say_root(key, words[5]);
		return;
	}
	if (strcmp(kind, "tmpfs") != 0)
		options = strncmp(options, "ro", 2) == 0 ? (char *)(uintptr_t)"ro" : (char *)(uintptr_t)"rw";
	say_line("%s %s %s %s %s", key, words[4], words[5], kind, options);
}

static void say_interface(const char *key, char *line)
{
	char *colon = strchr(line, ':');

	if (colon != NULL)
		say_line("%s %.*s", key, (int)(colon - line), line);
}

static void inspect_network(void)
{
	static const char *const tables[] = {"tcp", "tcp6", "udp", "udp6", "udplite", "udplite6", "raw", "raw6", "icmp",
	                                     "icmp6", "unix", "packet", "netlink"};

	for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++)
		count_lines("/proc/self/net", tables[i], "sockets");
	read_lines("/proc/self/net/dev", "interface", say_interface);
	read_lines("/proc/self/net/route", "route", say_as_it_is);
	read_lines("/proc/self/net/fib_trie", "addresses", say_as_it_is);
	read_lines("/proc/self/net/if_inet6", "address6", say_as_it_is);
}

static void inspect_objects(void)
{
	static struct names names;
	struct name name;
	cleanup_fd int dir = -1;

	count_lines("/proc/sysvipc", "shm", "objects");
	count_lines("/proc/sysvipc", "sem", "objects");
	count_lines("/proc/sysvipc", "msg", "objects");
	if (!has_mqueue_mount())
		return;
	dir = open("/dev/mqueue", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	names_start(&names, dir);
	while (dir >= 0 && names_next(&names, &name) > 0)
		say_line("object mqueue");
}

static void say_process(const char *key, char *line)
{
	if (strncmp(line, "Name:", 5) == 0)
		say_line("%s %s", key, line + 5 + strspn(line + 5, "\t "));
}

static void inspect_processes(void)
{
	static struct names names;
	struct name name;
	char path[64];
	cleanup_fd int dir = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	names_start(&names, dir);
	while (dir >= 0 && names_next(&names, &name) > 0) {
		if (name.text[0] < '1' || name.text[0] > '9' || strcmp(name.text, "1") == 0 || atoi(name.text) == getpid())
			continue;
		snprintf(path, sizeof path, "/proc/%.16s/status", name.text);
		read_lines(path, "process", say_process);
	}
}

/* Names, kinds and modes, one level deep: an agent has no way to add to it. */
static void inspect_devices(const char *folder)
{
	static struct names names;
	struct name name;
	struct stat status;
	cleanup_fd int dir = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	names_start(&names, dir);
	while (dir >= 0 && names_next(&names, &name) > 0) {
		char text[256];

		snprintf(text, sizeof text, "%s", name.text);
		clean(text);
		if (fstatat(dir, name.text, &status, AT_SYMLINK_NOFOLLOW) == 0)
			say_line("device %s/%s %o %u:%u", folder, text, status.st_mode, status.st_uid, status.st_gid);
	}
}

static void say_autogroup(const char *key, char *line)
{
	const char *nice = strstr(line, " nice ");

	say_line("%s %s", key, nice == NULL ? line : nice + 1);
}

/* What commands inherit, and could be changed by a process of the guest's own user: the worker, its copy, has the same. */
static void inspect_guest(void)
{
	struct rlimit limit;
	struct utsname names;
	cpu_set_t processors;
	mode_t mask = umask(0);

	umask(mask);
	for (int i = 0; i < RLIM_NLIMITS; i++)
		if (getrlimit((__typeof__(RLIMIT_CPU))i, &limit) == 0)
			say_line("limit %d %llu %llu", i, (unsigned long long)limit.rlim_cur, (unsigned long long)limit.rlim_max);
	say_line("guest nice %d", getpriority(PRIO_PROCESS, 0));
	say_line("guest umask %o", mask);
	say_line("guest personality %x", (unsigned int)personality(0xffffffff));
	say_line("guest scheduler %d", sched_getscheduler(0));
	say_line("guest ioprio %ld", syscall(SYS_ioprio_get, 1, 0));
	say_line("guest timerslack %d", prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0));
	say_line("guest no_new_privs %d", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
	say_line("guest dumpable %d", prctl(PR_GET_DUMPABLE, 0, 0, 0, 0));
	CPU_ZERO(&processors);
	if (sched_getaffinity(0, sizeof processors, &processors) == 0)
		say_line("guest processors %d", CPU_COUNT(&processors));
	read_lines("/proc/1/oom_score_adj", "guest oom_score_adj", say_as_it_is);
	read_lines("/proc/1/coredump_filter", "guest coredump_filter", say_as_it_is);
	read_lines("/proc/1/autogroup", "guest autogroup", say_autogroup);
	read_lines("/proc/1/comm", "guest name", say_as_it_is);
	if (uname(&names) == 0)
		say_line("host %s %s", names.nodename, names.domainname);
}

/* The guest's descriptors, of which the worker has a copy still. */
static void inspect_descriptors(void)
{
	static struct names names;
	struct name name;
	cleanup_fd int dir = open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	names_start(&names, dir);
	while (dir >= 0 && names_next(&names, &name) > 0) {
		char goal[256];
		ssize_t size = atoi(name.text) == dir ? -1 : readlinkat(dir, name.text, goal, sizeof goal - 1);

		if (size < 0)
			continue;
		goal[size] = '\0';
		if (strncmp(goal, "pipe:", 5) == 0 || strncmp(goal, "socket:", 7) == 0)
			*strchr(goal, ':') = '\0';
		clean(goal);
		say_line("descriptor %s", goal);
	}
}

/* Sandboxes whose roots were made by different hands cannot be compared. */
static void inspect_root(const struct guest *guest)
{
	const struct own_root *root = &guest->options.root;

	say_line("root %s", root->from == NULL ? "given" : root->layer ? "layer" : "own");
	if (root->layer)
		say_line("layer %s", layer_is_new(guest, &root->mark) ? "new" : "changed");
}

int tool_inspect(const struct tool *tool, struct failure *why)
{
	if (access("/proc/self/stat", F_OK) < 0)
		return fail(why, errno, "there is no /proc to inspect: %s", strerror(errno));
	inspect_descriptors();
	inspect_root(tool->guest);
	inspect_processes();
	inspect_objects();
	inspect_network();
	inspect_guest();
	inspect_devices("/dev");
	inspect_devices("/dev/pts");
	read_lines("/proc/self/mountinfo", "mount", say_mount);
	return 0;
}
