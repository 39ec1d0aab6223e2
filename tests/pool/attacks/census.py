"""All that an agent can see of a sandbox and that must not differ from a new one's: a program that lists it."""

from __future__ import annotations

from typing import Final

from codecraft_pool import Sandbox
from tests.pool.attacks.attack import PYTHON

PROGRAM: Final = """
import array, ctypes, fcntl, hashlib, os, re, resource, signal, socket, stat, struct
libc = ctypes.CDLL(None, use_errno=True)
me = os.getuid()
TREES = ("/workspace", "/home/agent", "/tmp", "/var/tmp", "/dev/shm")

def show(path):
    status = os.lstat(path)
    owner = "agent" if status.st_uid == me else status.st_uid
    words = [path, oct(status.st_mode), owner, status.st_nlink if not stat.S_ISDIR(status.st_mode) else "-"]
    # What is empty is restored to nobody's time; what comes from the snapshot has that's.
    words += [status.st_mtime_ns] if path.startswith("/workspace") else []
    if stat.S_ISREG(status.st_mode):
        words += [status.st_size, status.st_blocks, hashlib.sha256(open(path, "rb").read()).hexdigest()[:12]]
    if stat.S_ISLNK(status.st_mode):
        words.append(os.readlink(path))
    else:
        flags = array.array("l", [0])
        try:
            fcntl.ioctl(os.open(path, os.O_RDONLY | os.O_NONBLOCK), 0x80086601, flags, True)
            words.append(hex(flags[0]))
        except OSError as error:
            words.append(error.errno)
    try:
        words.append(sorted(os.listxattr(path, follow_symlinks=False)))
    except OSError as error:
        words.append(error.errno)
    print(*words)

for tree in TREES:
    show(tree)
    for base, dirs, files in os.walk(tree):
        dirs.sort()
        for name in sorted(dirs + files):
            show(os.path.join(base, name))
for pid in sorted(filter(str.isdigit, os.listdir("/proc")), key=int):
    if int(pid) not in (1, os.getpid()):
        print("process", open(f"/proc/{pid}/stat").read().partition(")")[0].partition("(")[2])
guest = open("/proc/1/stat").read().rpartition(")")[2].split()
print("guest", guest[15], guest[16], "threads", guest[17])
try:
    print("score of the guest", open("/proc/1/oom_score_adj").read().strip())
except PermissionError:
    print("score of the guest closed")
for name in ("shm", "sem", "msg"):
    print(name, len(open(f"/proc/sysvipc/{name}").readlines()) - 1)
print("queues", os.listdir("/dev/mqueue") if os.path.isdir("/dev/mqueue") else None)
for name in ("unix", "tcp", "tcp6", "udp", "udp6", "raw", "raw6", "udplite", "netlink", "packet"):
    try:
        lines = open(f"/proc/net/{name}").readlines()[1:]
    except OSError:
        continue
    if name == "unix":  # the kernel's numbers and the launcher's names differ from sandbox to sandbox
        print(name, sorted(" ".join(line.split()[1:6]) for line in lines))
    elif name != "netlink":
        # A connection that was closed waits for a minute in the kernel, whatever became of its processes.
        print(name, [line for line in lines if not (name.startswith("tcp") and line.split()[3] == "06")])
print("limits", [(number, resource.getrlimit(number)) for number in range(16)])
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
for name in ("SigBlk", "SigIgn", "SigQ", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp", "Cpus_allowed_list", "Groups",
             "Umask", "THP_enabled"):
    print(name, status.get(name, "-").split("/")[-1].strip())
print("nice", os.nice(0), os.sched_getscheduler(0), sorted(os.listdir("/proc/self/fd")), sorted(os.environ.items()))
print("score", open("/proc/self/oom_score_adj").read().strip() in ("0", "500"), libc.personality(0xFFFFFFFF))
print("session", os.getsid(0) == os.getpid() == os.getpgid(0), socket.gethostname())
mounts = [line.split(" ", 3)[3].strip() for line in open("/proc/self/mountinfo")]
def without_origin(mount):
    # A restore takes up a copy of the image's root where there is one: the same files in another file system.
    words = mount.split()
    return mount if words[1] != "/" else "/ " + re.sub(",[a-z]*atime", "", words[2])
mounts = [without_origin(mount) for mount in mounts]
names = "bindfile[A-Za-z0-9]*|(master|shared):[0-9]+|[0-9a-f]{64}|(?<=/)[0-9]{5,}(?=/)"
for mount in sorted(re.sub(names, "-", line) for line in mounts):
    print("mount", mount)
for tree in TREES:
    room = os.statvfs(tree)
    print("room", tree, room.f_blocks, room.f_files, "free" if room.f_bavail > room.f_blocks * 0.9 else room.f_bavail,
          "free" if not room.f_files or room.f_favail > room.f_files * 0.9 else room.f_favail)
print(sorted(os.listdir("/")), sorted(os.listdir("/dev")), sorted(os.listdir("/etc")))
print("pattern", open("/proc/sys/kernel/core_pattern").read().strip())
keep = []
def can(name, function, times):
    done = 0
    try:
        while done < times and function() != -1:
            done += 1
    except OSError:
        pass
    print("can", name, done)
can("inotify", libc.inotify_init, 8)
can("pipe", lambda: keep.append(os.pipe()), 50)
can("semaphore", lambda: 0 if (i := libc.semget(0, 1, 0o600)) < 0 else libc.semctl(i, 0, 0), 8)
can("ptmx", lambda: os.open("/dev/ptmx", os.O_RDWR), 4)
signal.pthread_sigmask(signal.SIG_BLOCK, [40])
can("signal", lambda: libc.syscall(129, os.getpid(), 40, struct.pack("iii", 40, 0, -1) + bytes(116)), 100)
can("lock", lambda: fcntl.lockf(keep_file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0), 1) \\
    if (keep_file := os.open("/workspace/keep", os.O_RDWR)) else None
def fork():
    pid = os.fork()
    if pid == 0:
        signal.pause()
    keep.append(pid)
can("fork", fork, 40)
for pid in [each for each in keep if isinstance(each, int)]:
    os.kill(pid, 9)
    os.waitpid(pid, 0)
"""


async def census(sandbox: Sandbox) -> list[str]:
    """The lines of a sandbox that was just restored. It leaves processes and marks of its own."""
    result = await sandbox.run([PYTHON, "-I", "-c", PROGRAM], limit_s=20)
    assert (0, b"") == (result.exit_code, result.stderr), result
    return result.stdout.decode("utf-8", "backslashreplace").splitlines()
