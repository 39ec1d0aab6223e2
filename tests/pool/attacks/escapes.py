"""Attacks that want to stay: processes that leave their group, and what the kernel keeps for a user or a namespace."""

from __future__ import annotations

from typing import Final

from tests.pool.attacks.attack import Attack, any_end, stopped

_DAEMON = """
def daemon(work):
    if os.fork() == 0:
        os.setsid()
        if os.fork() > 0:
            os._exit(0)
        os.closerange(0, 4096)
        while True:
            work()
"""

PROCESSES: Final = (
    Attack(
        name="double fork, own session, closed descriptors",
        program=_DAEMON + 'daemon(lambda: time.sleep(1001))\nos.chdir("/")\ndaemon(signal.pause)',
    ),
    Attack(
        name="a new session and group for each process",
        program="""
for _ in range(20):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.setpgid(0, 0)
            stay()
        os._exit(0)
for _ in range(20):
    os.wait()
""",
    ),
    Attack(
        name="all signals ignored",
        program="""
for number in signal.valid_signals():
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
stay()
time.sleep(1001)
""",
        ends=stopped,
        limit_s=0.3,
    ),
    Attack(
        name="processes that watch and remake each other",
        program=_DAEMON
        + """
def guard():
    # Two that each start the other again as soon as it dies.
    mine, _ = socket.socketpair()
    while True:
        pid = os.fork()
        if pid == 0:
            os.setsid()
            parent = os.pidfd_open(os.getppid())
            import select
            select.select([parent], [], [])
            continue
        os.waitpid(pid, 0)
daemon(guard)
""",
    ),
    Attack(
        name="processes that flee from pid to pid",
        language="c",
        program="""
#include <signal.h>
#include <unistd.h>
int main(void)
{
	if (fork() > 0) return 0;
	setsid();
	for (int i = 0; i < 4; i++) if (fork() == 0) break;
	for (;;) if (fork() > 0) _exit(0);
}
""",
        ends=any_end,
    ),
    Attack(
        name="a leader without its first thread, and traced children",
        language="c",
        program="""
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>
static void *stay(void *nothing) { for (;;) pause(); return nothing; }
int main(void)
{
	pthread_t thread;
	pid_t child = fork();
	if (child == 0) { for (;;) pause(); }
	if (fork() == 0) {
		setsid();
		ptrace(PTRACE_SEIZE, child, 0, (void *)(long)0x40 /* PTRACE_O_TRACEEXIT */);
		for (;;) pause();
	}
	pthread_create(&thread, 0, stay, 0);
	pthread_exit(0);
}
""",
        ends=stopped,
        limit_s=0.4,
    ),
    Attack(
        name="processes in the middle of a vfork, stopped",
        language="c",
        program="""
#define _GNU_SOURCE
#include <signal.h>
#include <unistd.h>
int main(void)
{
	for (int i = 0; i < 5; i++)
		if (fork() == 0) {
			setsid();
			if (vfork() == 0) { raise(SIGSTOP); _exit(0); }
			_exit(0);
		}
	return 0;
}
""",
    ),
    Attack(
        name="kill -9 -1 without end",
        program="""
while True:
    libc.kill(-1, 9)
""",
        ends=stopped,
        limit_s=0.4,
        prints=None,
    ),
    Attack(
        name="all siblings stopped without end",
        program="""
if os.fork() == 0:
    os.setsid()
    while True:
        for pid in os.listdir("/proc"):
            if pid.isdigit() and int(pid) != os.getpid():
                try:
                    os.kill(int(pid), signal.SIGSTOP)
                except OSError:
                    pass
signal.pause()
""",
        ends=stopped,
        limit_s=0.4,
        prints=None,
    ),
    Attack(
        name="every signal to process 1",
        program="""
for number in range(1, 65):
    attempt(f"kill the guest with {number}", lambda: os.kill(1, number) or -1)
    attempt("queue a signal", lambda: libc.syscall(129, 1, number, bytes(128)) and -1)
attempt("signal it by a descriptor", lambda: signal.pidfd_send_signal(os.pidfd_open(1), 9) or -1)
""",
        prints="",
    ),
    Attack(
        name="crashes",
        language="sh",
        program="""
for s in SEGV ABRT BUS FPE ILL TRAP SYS QUIT XCPU XFSZ; do
  ulimit -c unlimited; sh -c "kill -$s \\$\\$"
done >/dev/null 2>&1
find / -xdev -name 'core*' -newer /proc/self -type f 2>/dev/null; ls /workspace
""",
        prints="keep\nlink\nsub\n",
    ),
)

KERNEL: Final = (
    Attack(
        name="inotify instances and watches",
        program="""
exhaust(libc.inotify_init, 5000)
for fd in keep[0][:2]:
    exhaust(lambda: libc.inotify_add_watch(fd, b"/proc/%d" % next(numbers), 2), 5000)
stay()
""".replace("exhaust(libc", "numbers = iter(range(1, 1 << 30))\nexhaust(libc", 1),
    ),
    Attack(
        name="fanotify groups",
        program="exhaust(lambda: libc.fanotify_init(0x200, 0), 5000)\nstay()",
    ),
    Attack(
        name="pending signals and timers",
        program="""
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
info = struct.pack("iii", 40, 0, -1) + bytes(116)
timer = ctypes.c_void_p()
exhaust(lambda: libc.timer_create(1, None, ctypes.byref(timer)), 2000)
exhaust(lambda: libc.syscall(129, os.getpid(), 40, info))
stay()
""",
    ),
    Attack(
        name="System V memory, semaphores and queues",
        program="""
exhaust(lambda: libc.shmget(0, 4096, 0o1666), 5000)
exhaust(lambda: libc.semget(0, 200, 0o1666), 5000)
exhaust(lambda: libc.msgget(0, 0o1666), 5000)
stay()
""",
    ),
    Attack(
        name="POSIX message queues",
        program="exhaust(lambda: libc.mq_open(b'/q%d' % next(numbers), 0o102, 0o666, None), 500)\nstay()".replace(
            "exhaust", "numbers = iter(range(1 << 30))\nexhaust", 1
        ),
    ),
    Attack(
        name="file locks and leases",
        program="""
fd = os.open("sub/file", os.O_RDWR)
exhaust(lambda: fcntl.lockf(fd, fcntl.LOCK_EX, 1, 2 * next(numbers)), 2000)
fcntl.flock(fd, fcntl.LOCK_EX)
fcntl.fcntl(os.open("keep", os.O_RDWR), fcntl.F_SETLEASE, fcntl.F_WRLCK)
signal.signal(signal.SIGIO, signal.SIG_IGN)
stay()
""".replace("exhaust", "numbers = iter(range(1 << 30))\nexhaust", 1),
    ),
    Attack(
        name="epoll, eventfd, timerfd, signalfd, pidfd and memfd",
        program="""
import select
poll = select.epoll()
for make in (lambda _: libc.eventfd(0, 0), lambda _: os.memfd_create("x")):
    for fd in [make(0) for _ in range(100)]:
        try:
            poll.register(fd)
        except OSError:
            pass
exhaust(lambda: libc.timerfd_create(1, 0), 300)
exhaust(lambda: os.pidfd_open(os.getpid()), 300)
exhaust(lambda: libc.epoll_create(1), 10_000)
stay()
""",
    ),
    Attack(
        name="asynchronous input and output, of which the machine has only so much",
        program="""
context = ctypes.c_ulong(0)
def setup():
    context.value = 0
    return libc.syscall(206, 1000, ctypes.byref(context))
attempt("take the machine's aio contexts", setup)
stay()
""",
    ),
    Attack(
        name="calls that have no business in a sandbox",
        program="""
for name, number, args in (
    ("read the machine's log", 103, (2, None, 0)), ("use keys", 250, (0, -3, 0)), ("use bpf", 321, (0, None, 0)),
    ("watch the machine", 298, (bytes(128), 0, -1, -1, 0)), ("use io_uring", 425, (1, bytes(128))),
    ("make a user namespace", 272, (0x10000000,)), ("make a mount namespace", 272, (0x20000,)),
    ("mount", 165, (b"x", b"/tmp", b"tmpfs", 0, None)), ("handle page faults", 323, (0,)),
    ("open by handle", 304, (-100, bytes(128), 0)), ("set the clock", 227, (0, bytes(16))),
    ("set quotas", 179, (0, b"/dev/x", 0, None)), ("account", 163, (b"/tmp/x",)), ("swap", 167, (b"/tmp/x", 0)),
):
    attempt(name, lambda: libc.syscall(number, *args))
""",
    ),
    Attack(
        name="writing out the machine's disks, over and over",
        program="""
attempt("know whether a descriptor is one", lambda: -1 if libc.syncfs(-1) == 0 else 0)
for _ in range(10_000):
    libc.sync()
""",
        limit_s=3.0,
    ),
    Attack(
        name="sockets of other kinds than the network of its own",
        program="""
allowed = {socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK}
for family in set(range(64)) - allowed:
    for kind in (1, 2, 3, 5):
        attempt(f"make a socket of family {family}", lambda: socket.socket(family, kind).fileno())
""",
    ),
    Attack(
        name="ports, sockets and connections",
        program="""
for port in range(2000, 2100):
    keep.append(socket.create_server(("127.0.0.1", port)))
    keep.append(socket.create_connection(("127.0.0.1", port)))
for number in range(100):
    server = socket.socket(socket.AF_UNIX)
    server.bind(f"\\0guest{number}")
    server.listen()
    keep.append(server)
server = socket.socket(socket.AF_UNIX)
server.bind("/tmp/socket")
stay()
""",
    ),
    Attack(
        name="terminals",
        program="""
for fd in (0, 1, 2):
    attempt("type into a terminal", lambda: fcntl.ioctl(fd, 0x5412, b"x") and 0)
attempt("open the terminal", lambda: os.open("/dev/tty", os.O_RDWR))
attempt("open the console", lambda: os.open("/dev/console", os.O_RDWR))
def terminal():
    return os.open("/dev/ptmx", os.O_RDWR)
exhaust(terminal, 300)
stay()
""",
    ),
)
