/* From whatever the launcher handed over to a process that holds its channel and no more power than it needs. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "guest.h"

#define SIGNALS_MAX 64 /* the kernel's _NSIG */

#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#ifndef PR_CAP_AMBIENT
#define PR_CAP_AMBIENT 47
#define PR_CAP_AMBIENT_CLEAR_ALL 4
#endif

#define CHANNEL_FD_MIN 10
#define INITIAL_IPC_NAMESPACE "ipc:[4026531839]" /* PROC_IPC_INIT_INO of the kernel: the machine's own */

static void close_from(unsigned int first)
{
	long limit;

	if (syscall(SYS_close_range, first, ~0u, 0u) == 0)
		return;
	limit = sysconf(_SC_OPEN_MAX);
	for (long fd = first; fd < (limit < 0 || limit > 65536 ? 65536 : limit); fd++)
		close((int)fd);
}

/* -1 where nobody listens at the path, or it is none. Not blocking: a host that accepts nobody is as good as none. */
static int connect_to(const char *path)
{
	cleanup_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	size_t size = strlen(path);

	if (fd < 0 || size == 0 || size >= sizeof address.sun_path)
		return -1;
	memcpy(address.sun_path, path, size);
	if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
		return -1;
	return steal_fd(&fd);
}

static int take_end(int fd, int *taken)
{
	*taken = fcntl(fd, F_DUPFD_CLOEXEC, CHANNEL_FD_MIN);
	if (*taken < 0 || fcntl(*taken, F_SETFL, fcntl(*taken, F_GETFL) | O_NONBLOCK) < 0)
		return complain("descriptor %d is no channel: %s", fd, strerror(errno));
	return 0;
}

/* The channel moves to descriptors that no command inherits. What stays at 0 is every command's empty stdin. */
int take_channel(struct guest *guest)
{
	cleanup_fd int null = -1, host = -1;

	close_from(3);
	if (guest->options.connect != NULL)
		host = connect_to(guest->options.connect);
	guest->connected = host >= 0;
	if (take_end(guest->connected ? host : 0, &guest->channel_in) ||
	    take_end(guest->connected ? host : 1, &guest->channel_out))
		return 1;
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null < 0)
		return complain("cannot open /dev/null: %s", strerror(errno));
	if (dup2(null, 0) < 0 || dup3(null, 1, O_CLOEXEC) < 0)
		return complain("cannot replace stdin and stdout: %s", strerror(errno));
	if (fcntl(2, F_SETFD, FD_CLOEXEC) < 0 && dup3(null, 2, O_CLOEXEC) < 0)
		return complain("cannot fill descriptor 2: %s", strerror(errno));
	return 0;
}

/* Whoever started us may ignore signals, and commands would inherit that. libc keeps two signals to itself and says
 * nothing of them, so this is the kernel's own call and structure, whose first word is the handler. */
static void stop_ignoring(int number)
{
	unsigned long action[4] = {0}, nothing[4] = {0};

	if (syscall(SYS_rt_sigaction, number, NULL, action, sizeof(uint64_t)) == 0 && action[0] == (unsigned long)SIG_IGN)
		syscall(SYS_rt_sigaction, number, nothing, NULL, sizeof(uint64_t));
}

/* No handlers: signals that process 1 does not handle are dropped by the kernel when they come from inside.
 * Blocked signals need no resetting in commands but the empty mask that they get anyway. */
int take_signals(struct guest *guest)
{
	sigset_t blocked, children;

	for (int number = 1; number <= SIGNALS_MAX; number++)
		stop_ignoring(number);
	sigemptyset(&children);
	sigaddset(&children, SIGCHLD);
	blocked = children;
	sigaddset(&blocked, SIGPIPE);
	if (sigprocmask(SIG_SETMASK, &blocked, NULL) < 0)
		return complain("cannot block signals: %s", strerror(errno));
	guest->signals = signalfd(-1, &children, SFD_CLOEXEC | SFD_NONBLOCK);
	if (guest->signals < 0)
		return complain("cannot make a signalfd: %s", strerror(errno));
	return 0;
}

static bool link_says(int dir, const char *name, const char *expected)
{
	char target[64];
	ssize_t size = readlinkat(dir, name, target, sizeof target - 1);

	if (size < 0)
		return false;
	target[size] = '\0';
	return strcmp(target, expected) == 0;
}

static int read_oom_score(int proc)
{
	cleanup_fd int fd = openat(proc, "self/oom_score_adj", O_RDONLY | O_CLOEXEC);
	char text[16];
	ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof text - 1);

	if (size <= 0)
		return 0;
	text[size] = '\0';
	return (int)strtol(text, NULL, 10);
}

/* What the sandbox provides. A /proc of another PID namespace would name the wrong processes to kill. */
int look_around(struct guest *guest)
{
	guest->proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (guest->proc >= 0 && !link_says(guest->proc, "self", "1"))
		close_fd(&guest->proc);
	guest->clear_refs = -1;
	guest->private_ipc = false;
	if (guest->proc >= 0) {
		guest->clear_refs = openat(guest->proc, "self/clear_refs", O_WRONLY | O_CLOEXEC);
		guest->own_oom_score = read_oom_score(guest->proc);
		guest->private_ipc = !link_says(guest->proc, "self/ns/ipc", INITIAL_IPC_NAMESPACE);
	}
	open_oom_events(guest);
	guest->has_openat2 = probe_openat2();
	return 0;
}

/* Executing as root gives what is in it and permitted already. */
static int drop_bounding_set(bool keep_roots)
{
	for (unsigned long capability = 0;; capability++)
		if (!(keep_roots && is_roots_capability(capability)) && prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0)
			break;
	if (errno != EINVAL && errno != EPERM) /* past the last one, or not allowed: commands drop theirs anyway */
		return complain("cannot drop the capability bounding set: %s", strerror(errno));
	return 0;
}

/* A command cannot be allowed more than what the launcher allows the guest. */
static void bound_max_processes(struct options *options)
{
	struct rlimit limit;

	if (options->has_max_processes && getrlimit(RLIMIT_NPROC, &limit) == 0 && limit.rlim_max != RLIM_INFINITY &&
	    options->max_processes > limit.rlim_max)
		options->max_processes = limit.rlim_max;
}

/* glibc would keep the memory of the first large frame for good. */
static void return_memory(void)
{
#ifdef __GLIBC__
	mallopt(M_MMAP_THRESHOLD, 256 << 10);
#endif
}

/* Everything that is the same for all commands is set here once, for them to inherit. */
int give_up_powers(struct guest *guest)
{
	const struct rlimit no_core = {0, 0};
	bool mounts;

	guest->own = (struct owner){.uid = getuid(), .gid = getgid()};
	return_memory();
	bound_max_processes(&guest->options);
	umask(022);
	if (chdir("/") < 0 || setrlimit(RLIMIT_CORE, &no_core) < 0)
		return complain("cannot set up: %s", strerror(errno));
	if (setgroups(0, NULL) < 0 && !guest->options.self)
		return complain("cannot drop groups, it needs CAP_SETGID: %s", strerror(errno));
	if (!guest->options.self && must_have_powers())
		return 1;
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	if (drop_inheritable() || drop_bounding_set(guest->options.root.layer))
		return 1;
	mounts = guest->options.root.layer || guest->options.root.better != NULL;
	if (!mounts && drop_mounting_capabilities())
		return 1;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		return complain("cannot harden: %s", strerror(errno));
	return guest->options.seccomp ? install_filter(!has_mqueue_mount(), !mounts) : 0;
}
