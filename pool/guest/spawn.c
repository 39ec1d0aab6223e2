/* From the guest to the command. The child borrows the guest's memory until it executes, as with vfork. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "guest.h"

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define FUTEX_WAIT 0 /* the kernel's; not every libc has its headers */
#define STATUS_NOT_FOUND 127
#define STATUS_NOT_EXECUTABLE 126
#define STACK_BYTES ((size_t)64 << 10)
#define NUDGE_NS (20 * NS_PER_MS)
#define NUDGES 500   /* 10 s: an executable on a cold disk takes its time */
#define CPU_GRACE_S 2
#define STOPS_MAX 10 /* so often found stopped, whatever is done about it: somebody fights for it */

struct launch {
	const struct guest *guest;
	const struct run_request *request;
	const int *streams;
	volatile struct refusal refusal; /* the child's word to the guest */
	volatile bool hidden;   /* the memory is not dumpable, although the child has changed its user */
	volatile int borrowed;  /* the kernel zeroes it when the child lets go of the memory */
};

static void say(const char *name, const char *what)
{
	struct iovec parts[] = {
	    {.iov_base = (char *)(uintptr_t) "guest: ", .iov_len = 7},
	    {.iov_base = (char *)(uintptr_t)name, .iov_len = strnlen(name, 200)},
	    {.iov_base = (char *)(uintptr_t)what, .iov_len = strlen(what)},
	};

	if (writev(2, parts, 3) < 0)
		return; /* nobody reads it */
}

__attribute__((noreturn)) static void refuse(const char *name, int errnum)
{
	bool missing = errnum == ENOENT || errnum == ENOTDIR;

	say(name, missing                ? ": not found\n"
	          : errnum == EACCES     ? ": permission denied\n"
	          : errnum == ENOEXEC    ? ": not an executable format\n"
	          : errnum == E2BIG      ? ": argument list too long\n"
	          : errnum == ENAMETOOLONG ? ": name too long\n"
	          : errnum == EAGAIN     ? ": too many processes\n"
	          : errnum == ETXTBSY    ? ": busy\n"
	                                 : ": cannot be executed\n");
	_exit(missing ? STATUS_NOT_FOUND : STATUS_NOT_EXECUTABLE);
}

static const char *search_path(char *const *envp)
{
	for (; *envp != NULL; envp++)
		if (strncmp(*envp, "PATH=", 5) == 0)
			return *envp + 5;
	return DEFAULT_PATH;
}

/* Tries one directory of the PATH; returns why it is not the one. */
static int execute_in(const char *dir, size_t dir_size, const char *name, char *const *argv, char *const *envp)
{
	char file[PATH_MAX];
	size_t name_size = strlen(name);

	if (dir_size + 1 + name_size + 1 > sizeof file)
		return ENAMETOOLONG;
	memcpy(file, dir, dir_size);
	if (dir_size > 0)
		file[dir_size++] = '/';
	memcpy(file + dir_size, name, name_size + 1);
	if (access(file, F_OK) < 0) /* far cheaper than an execve that fails */
		return errno;
	execve(file, argv, envp);
	return errno;
}

/* A lease on a file holds up who executes it, until the kernel takes it away after a minute. Only its owner can have
 * one, so for all others this costs a stat. */
static bool is_leased(const char *file)
{
	struct stat status;
	cleanup_fd int fd = -1;

	if (stat(file, &status) < 0 || !S_ISREG(status.st_mode) || status.st_uid != geteuid())
		return false;
	fd = open(file, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	return fd < 0 && errno == EWOULDBLOCK;
}

/* Returns why nothing could be executed. A program without permission is passed over, but remembered. */
static int execute(char *const *argv, char *const *envp)
{
	int found = ENOENT;

	if (argv[0][0] == '\0')
		return ENOENT;
	if (strchr(argv[0], '/') != NULL) {
		if (is_leased(argv[0]))
			return ETXTBSY;
		execve(argv[0], argv, envp);
		return errno;
	}
	for (const char *dir = search_path(envp);; dir++) {
		size_t size = strcspn(dir, ":");
		int errnum = execute_in(dir, size, argv[0], argv, envp);

		if (errnum == EACCES)
			found = EACCES;
		else if (errnum != ENOENT && errnum != ENOTDIR && errnum != ENAMETOOLONG && errnum != ELOOP)
			return errnum;
		dir += size;
		if (*dir == '\0')
			return found;
	}
}

/* System calls, not libc's wrappers: those would tell the guest's other threads, of which there are none,
 * and keep notes in the memory that is only borrowed. */
static int become(struct launch *launch, struct owner owner)
{
	const struct guest *guest = launch->guest;

	if (!guest->options.self && (syscall(SYS_setresgid, owner.gid, owner.gid, owner.gid) < 0 ||
	                             syscall(SYS_setresuid, owner.uid, owner.uid, owner.uid) < 0))
		return 1;
	/* The memory is the guest's: not for its new user to trace, whatever the machine lets such processes do. */
	launch->hidden = syscall(SYS_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0) == 0;
	if (guest->options.root.layer && owner.uid == 0)
		return drop_to_roots_capabilities() < 0;
	return drop_all_capabilities() < 0;
}

static void lower(int resource, rlim_t value)
{
	struct rlimit limit;

	if (getrlimit(resource, &limit) < 0)
		_exit(STATUS_NOT_EXECUTABLE);
	if (value < limit.rlim_max)
		limit.rlim_max = value;
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(resource, &limit) < 0)
		_exit(STATUS_NOT_EXECUTABLE);
}

/* After the change of user: a user over the limit of processes already would not be let in before. The kernel's CPU
 * limit, of each process alone, is for where the guest cannot look: it comes later. */
static void limit_resources(const struct options *options, const struct run_request *request)
{
	if (options->has_max_processes)
		lower(RLIMIT_NPROC, options->max_processes);
	if (request->processes != 0)
		lower(RLIMIT_NPROC, request->processes);
	if (request->file_bytes != 0)
		lower(RLIMIT_FSIZE, request->file_bytes);
	if (request->cpu_ms != 0)
		lower(RLIMIT_CPU, request->cpu_ms / 1000 + CPU_GRACE_S);
}

static void take_streams(const int *streams)
{
	for (int fd = 0; fd < 3; fd++)
		if (streams[fd] != fd && dup2(streams[fd], fd) < 0)
			_exit(STATUS_NOT_EXECUTABLE);
	if (streams[3] >= 0 && dup2(streams[3], SHELL_STATUS_FD) < 0)
		_exit(STATUS_NOT_EXECUTABLE);
}

static int child(void *argument)
{
	struct launch *launch = argument;
	const struct run_request *request = launch->request;
	sigset_t none;
	int errnum;

	setsid();
	take_streams(launch->streams);
	prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	if (become(launch, request->owner)) {
		say(request->argv[0], ": cannot become its user\n");
		_exit(STATUS_NOT_EXECUTABLE);
	}
	limit_resources(&launch->guest->options, request);
	if (chdir(request->cwd) < 0) {
		launch->refusal.cwd = errno;
		_exit(STATUS_NOT_EXECUTABLE);
	}
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	errnum = execute(request->argv, request->envp);
	launch->refusal.program = errnum;
	refuse(request->argv[0], errnum);
}

#if defined(__SANITIZE_ADDRESS__)

/* A copy of the memory, for the sanitizer's bookkeeping is not made to be shared with a child. */
static pid_t start_child(struct launch *launch)
{
	pid_t pid = (pid_t)syscall(SYS_clone, CLONE_VFORK | SIGCHLD, 0, NULL, NULL, 0);

	if (pid == 0)
		_exit(child(launch));
	return pid;
}

#else

/* libc's way would write errno, which the child borrows with the rest: its own errors would become this one. */
static long futex_wait(const volatile int *word, int expected, const struct timespec *limit)
{
#if defined(__x86_64__)
	register const struct timespec *r10 __asm__("r10") = limit;
	long result = SYS_futex;

	__asm__ volatile("syscall"
	                 : "+a"(result)
	                 : "D"(word), "S"((long)FUTEX_WAIT), "d"((long)expected), "r"(r10)
	                 : "rcx", "r11", "memory");
	return result;
#elif defined(__aarch64__)
	register long x0 __asm__("x0") = (long)(uintptr_t)word;
	register long x1 __asm__("x1") = FUTEX_WAIT;
	register long x2 __asm__("x2") = expected;
	register const struct timespec *x3 __asm__("x3") = limit;
	register long x8 __asm__("x8") = SYS_futex;

	__asm__ volatile("svc #0" : "+r"(x0) : "r"(x1), "r"(x2), "r"(x3), "r"(x8) : "memory", "cc");
	return x0;
#endif
}

static bool is_stopped(pid_t pid)
{
	siginfo_t info = {.si_pid = 0};

	return waitid(P_PID, (id_t)pid, &info, WSTOPPED | WNOHANG | WNOWAIT) == 0 && info.si_pid == pid;
}

/* vfork would wait for good if an agent's process stopped the child, whose user it has, before it executes:
 * a wait on the word that the kernel zeroes at the same moment can do something about it. */
static void wait_for_memory(const struct launch *launch, pid_t pid)
{
	const struct timespec nudge = {.tv_sec = 0, .tv_nsec = (long)NUDGE_NS};
	const uint32_t wall_ms = launch->request->wall_ms;
	const uint64_t until = wall_ms == 0 ? NEVER : now_ns() + wall_ms * NS_PER_MS;
	int nudges = 0, stops = 0;

	while (launch->borrowed != 0) {
		if (futex_wait(&launch->borrowed, 1, &nudge) != -ETIMEDOUT)
			continue;
		stops += is_stopped(pid);
		kill(pid, nudges++ < NUDGES && stops < STOPS_MAX && now_ns() < until ? SIGCONT : SIGKILL);
	}
}

static pid_t start_child(struct launch *launch)
{
	static _Alignas(16) char stack[STACK_BYTES];
	pid_t pid;

	launch->borrowed = 1;
	pid = clone(child, stack + sizeof stack, CLONE_VM | CLONE_CHILD_CLEARTID | SIGCHLD, launch, NULL, NULL,
	            (void *)(uintptr_t)&launch->borrowed);
	if (pid > 0)
		wait_for_memory(launch, pid);
	return pid;
}

#endif

/* A large frame leaves a high-water mark of memory, which the command would start with as its own peak. */
static void forget_peak(struct guest *guest)
{
	bool shrank = queue_shrank(&guest->requests);

	shrank |= queue_shrank(&guest->replies);
	if (shrank && guest->clear_refs >= 0 && write(guest->clear_refs, "5", 1) < 0)
		return; /* only the figure suffers */
}

/* The pid of the started command; -1 with errno if there can be none. Where it could not enter its cwd it has gone
 * already. */
pid_t spawn(struct guest *guest, const struct run_request *request, const int streams[STREAMS],
            struct refusal *refusal)
{
	static struct launch *launch; /* in shared memory, for a child with a copy of the rest */
	pid_t pid;

	if (request->tool != NULL)
		return worker_start(request->tool, streams);
	if (launch == NULL) {
		void *memory = mmap(NULL, sizeof *launch, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

		if (memory == MAP_FAILED)
			return -1;
		launch = memory;
	}
	*launch = (struct launch){.guest = guest, .request = request, .streams = streams};
	forget_peak(guest);
	pid = start_child(launch);
	if (!launch->hidden) /* the child's change of user may have reset it */
		prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	refusal->cwd = launch->refusal.cwd;
	refusal->program = launch->refusal.program;
	if (pid > 0 && refusal->cwd != 0) {
		kill(pid, SIGKILL); /* ends it even if somebody stopped it on its way out */
		waitpid(pid, NULL, 0);
	}
	return pid;
}
