/* From the guest to the command. The child borrows the guest's memory until it executes, as with vfork, but the guest goes
 * on: it would be woken once more for each command otherwise. So the child calls the kernel itself, and the guest lets
 * be what the child reads. */
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

#include "call.h"
#include "guest.h"

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define FUTEX_WAIT 0 /* the kernel's; not every libc has its headers */
#define STATUS_NOT_FOUND 127
#define STATUS_NOT_EXECUTABLE 126
#define STACK_BYTES ((size_t)64 << 10)
#define NUDGE_NS (20 * NS_PER_MS)
#define NUDGES 500   /* 10 s: an executable on a cold disk takes its time */
#define CPU_GRACE_S 2
#define UNCHANGED (-1)
#define STOPS_MAX 10 /* so often found stopped, whatever is done about it: somebody fights for it */

/* Why the child did not become the command; errno values, 0 if it did. */
struct refusal {
	int cwd, program;
};

/* What the child reads, and what it says. */
struct launch {
	const struct guest *guest;
	struct run_request request;
	int streams[STREAMS];
	pid_t pid;
	uint64_t until_ns; /* to execute; then it is killed */
	volatile struct refusal refusal; /* the child's word to the guest */
	volatile bool hidden;   /* the memory is not dumpable, although the child has changed its user */
	volatile int borrowed;  /* the kernel zeroes it when the child lets go of the memory */
};

static struct launch *launch; /* the last one; in shared memory, for a child with a copy of the rest */

static void say(const char *name, const char *what)
{
	struct iovec parts[] = {
	    {.iov_base = (char *)(uintptr_t) "guest: ", .iov_len = 7},
	    {.iov_base = (char *)(uintptr_t)name, .iov_len = strnlen(name, 200)},
	    {.iov_base = (char *)(uintptr_t)what, .iov_len = strlen(what)},
	};

	call(SYS_writev, 2, ADDRESS(parts), 3, 0); /* maybe nobody reads it */
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

/* A lease on a file holds up who executes it, until the kernel takes it away after a minute. Only its owner can have
 * one. */
static bool is_leased(const char *file, const struct stat *status)
{
	long fd;

	if (!S_ISREG(status->st_mode) || status->st_uid != geteuid())
		return false;
	fd = call(SYS_openat, AT_FDCWD, ADDRESS(file), O_RDONLY | O_NONBLOCK | O_CLOEXEC, 0);
	if (fd >= 0)
		call(SYS_close, fd, 0, 0, 0);
	return fd == -EWOULDBLOCK;
}

/* Returns why it could not be executed. */
static int execute_file(const char *file, char *const *argv, char *const *envp)
{
	struct stat status;
	long found = call(SYS_newfstatat, AT_FDCWD, ADDRESS(file), ADDRESS(&status), 0); /* cheaper than a failing execve */

	if (found < 0)
		return (int)-found;
	if (is_leased(file, &status))
		return ETXTBSY;
	return (int)-call(SYS_execve, ADDRESS(file), ADDRESS(argv), ADDRESS(envp), 0);
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
	return execute_file(file, argv, envp);
}

/* Returns why nothing could be executed. A program without permission is passed over, but remembered. */
static int execute(char *const *argv, char *const *envp)
{
	int found = ENOENT;

	if (argv[0][0] == '\0')
		return ENOENT;
	if (strchr(argv[0], '/') != NULL)
		return execute_file(argv[0], argv, envp);
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

/* The memory is the guest's, and a change of user may make it dumpable, as the machine is set up. So the child is its new
 * user's to trace, or to signal, only when that is undone: until then its real and saved user are the guest's. */
static int become(struct owner owner)
{
	const struct options *options = &launch->guest->options;
	const bool changes = !options->self;

	if (changes && (call(SYS_setresgid, owner.gid, owner.gid, owner.gid, 0) < 0 ||
	                call(SYS_setresuid, UNCHANGED, owner.uid, UNCHANGED, 0) < 0))
		return 1;
	launch->hidden = call(SYS_prctl, PR_SET_DUMPABLE, 0, 0, 0) == 0;
	if (changes && call(SYS_setresuid, owner.uid, UNCHANGED, owner.uid, 0) < 0)
		return 1;
	if (options->root.layer && owner.uid == 0)
		return drop_to_roots_capabilities() < 0;
	return drop_all_capabilities() < 0;
}

static void lower(int resource, rlim_t value)
{
	struct rlimit limit;

	if (call(SYS_prlimit64, 0, resource, 0, ADDRESS(&limit)) < 0)
		_exit(STATUS_NOT_EXECUTABLE);
	if (value < limit.rlim_max)
		limit.rlim_max = value;
	limit.rlim_cur = limit.rlim_max;
	if (call(SYS_prlimit64, 0, resource, ADDRESS(&limit), 0) < 0)
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

static void take_stream(int from, int to)
{
	if (from != to && call(SYS_dup3, from, to, 0, 0) < 0)
		_exit(STATUS_NOT_EXECUTABLE);
}

static int child(void *unused)
{
	const struct run_request *request = &launch->request;
	const uint64_t no_signals = 0;
	long entered;
	int errnum;

	(void)unused;
	call(SYS_setsid, 0, 0, 0, 0);
	for (int fd = 0; fd < 3; fd++)
		take_stream(launch->streams[fd], fd);
	if (launch->streams[3] >= 0)
		take_stream(launch->streams[3], SHELL_STATUS_FD);
	call(SYS_prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0);
	if (become(request->owner)) {
		say(request->argv[0], ": cannot become its user\n");
		_exit(STATUS_NOT_EXECUTABLE);
	}
	limit_resources(&launch->guest->options, request);
	entered = call(SYS_chdir, ADDRESS(request->cwd), 0, 0, 0);
	if (entered < 0) {
		launch->refusal.cwd = (int)-entered;
		_exit(STATUS_NOT_EXECUTABLE);
	}
	call(SYS_rt_sigprocmask, SIG_SETMASK, ADDRESS(&no_signals), 0, sizeof no_signals);
	errnum = execute(request->argv, request->envp);
	launch->refusal.program = errnum;
	refuse(request->argv[0], errnum);
}

#if defined(__SANITIZE_ADDRESS__)

/* A copy of the memory, for the sanitizer's bookkeeping is not made to be shared with a child. */
static pid_t start_child(void)
{
	pid_t pid = (pid_t)syscall(SYS_clone, CLONE_VFORK | SIGCHLD, 0, NULL, NULL, 0);

	if (pid == 0)
		_exit(child(NULL));
	return pid;
}

#else

static pid_t start_child(void)
{
	static _Alignas(16) char stack[STACK_BYTES];

	launch->borrowed = 1;
	return clone(child, stack + sizeof stack, CLONE_VM | CLONE_CHILD_CLEARTID | SIGCHLD, NULL, NULL, NULL,
	             (void *)(uintptr_t)&launch->borrowed);
}

#endif

static bool is_stopped(pid_t pid)
{
	siginfo_t info = {.si_pid = 0};

	return waitid(P_PID, (id_t)pid, &info, WSTOPPED | WNOHANG | WNOWAIT) == 0 && info.si_pid == pid;
}

/* Whether spawn_settle() would have to wait. What the child has written before can be read when it would not. */
bool spawn_is_under_way(void)
{
	return __atomic_load_n(&launch->borrowed, __ATOMIC_ACQUIRE) != 0;
}

/* vfork would wait for good if an agent's process stopped the child, whose user it has, before it executes:
 * a wait on the word that the kernel zeroes at the same moment can do something about it. */
static void wait_for_memory(void)
{
	const struct timespec nudge = {.tv_sec = 0, .tv_nsec = (long)NUDGE_NS};
	int nudges = 0, stops = 0;

	while (spawn_is_under_way()) {
		if (call(SYS_futex, ADDRESS(&launch->borrowed), FUTEX_WAIT, 1, ADDRESS(&nudge)) != -ETIMEDOUT)
			continue;
		stops += is_stopped(launch->pid);
		kill(launch->pid, nudges++ < NUDGES && stops < STOPS_MAX && now_ns() < launch->until_ns ? SIGCONT : SIGKILL);
	}
}

/* A large frame leaves a high-water mark of memory, which the command would start with as its own peak. */
static void forget_peak(struct guest *guest)
{
	bool shrank = queue_shrank(&guest->requests);

	shrank |= queue_shrank(&guest->replies);
	if (shrank && guest->clear_refs >= 0 && write(guest->clear_refs, "5", 1) < 0)
		return; /* only the figure suffers */
}

/* The pid of the started command; -1 with errno if there can be none. What *request* points to stays as it is until
 * spawn_settle() has been called, which it must be before the next one is started. */
pid_t spawn(struct guest *guest, const struct run_request *request, const int streams[STREAMS])
{
	if (request->tool != NULL)
		return worker_start(request->tool, streams);
	if (launch == NULL) {
		void *memory = mmap(NULL, sizeof *launch, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

		if (memory == MAP_FAILED)
			return -1;
		launch = memory;
	}
	*launch = (struct launch){.guest = guest, .request = *request, .until_ns = NEVER};
	if (request->wall_ms != 0)
		launch->until_ns = now_ns() + request->wall_ms * NS_PER_MS;
	memcpy(launch->streams, streams, sizeof launch->streams);
	forget_peak(guest);
	launch->pid = start_child();
	return launch->pid;
}

/* Returns when the child has executed, or has given up; 1 and why where it could not enter its cwd, and has gone (unless
 * it *is_reaped*), or where a shell could not be executed. */
int spawn_settle(bool is_reaped, struct failure *why)
{
	const struct run_request *request = &launch->request;
	int cwd, program;

	wait_for_memory();
	if (!launch->hidden) /* the child's change of user may have reset it */
		prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	cwd = launch->refusal.cwd;
	program = launch->refusal.program;
	if (cwd != 0 && !is_reaped) {
		kill(launch->pid, SIGKILL); /* ends it even if somebody stopped it on its way out */
		waitpid(launch->pid, NULL, 0);
	}
	if (cwd != 0)
		return fail(why, cwd, "cannot enter the cwd %.150s: %s", request->cwd, strerror(cwd));
	if (program != 0 && request->status >= 0)
		return fail(why, program, "cannot execute the shell %.150s: %s", request->argv[0], strerror(program));
	return 0;
}
