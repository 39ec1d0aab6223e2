"""Attacks on the guest and on what the host is told: its memory, its channel, its files, the next command's view."""

from __future__ import annotations

from typing import Final

from tests.pool.attacks.attack import Attack, any_end

GUEST: Final = (
    Attack(
        name="reading the guest",
        program="""
names = ["mem", "environ", "maps", "smaps", "pagemap", "auxv", "exe", "cwd/.", "root/.codecraft", "stack", "syscall",
         "io", "personality", "map_files", "fdinfo", "fd", "clear_refs", "timers", "ns/pid", "attr/current"]
for base in ("/proc/1/", "/proc/1/task/1/"):
    for name in names:
        def look():
            fd = os.open(base + name, os.O_RDONLY)
            if name in ("fd", "fdinfo", "map_files"):
                return len(os.listdir(fd)) or -1
            return -1 if name == "attr/current" or name.startswith("ns/") or not os.read(fd, 64) else 0
        attempt("read " + base + name, look)
    for fd in range(64):
        attempt(f"open the guest's descriptor {fd}", lambda: os.open(f"{base}fd/{fd}", os.O_RDWR))
attempt("list the store", lambda: bool(os.listdir("/.codecraft")) if os.getuid() not in (0, 1000) else -1)
""",
    ),
    Attack(
        name="tracing the guest",
        program="""
for request in (16, 0x4206):
    attempt(f"trace it by {request}", lambda: libc.ptrace(request, 1, 0, 0))
class Part(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]
buffer = ctypes.create_string_buffer(64)
local, remote = Part(ctypes.addressof(buffer), 64), Part(0x400000, 64)
for call in (libc.process_vm_readv, libc.process_vm_writev):
    attempt("its memory", lambda: call(1, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0))
for fd in range(64):
    attempt("take a descriptor", lambda: libc.syscall(438, os.pidfd_open(1), fd, 0))
attempt("compare it", lambda: libc.syscall(312, 1, os.getpid(), 0, 0, 0))
attempt("advise its memory", lambda: libc.syscall(440, os.pidfd_open(1), ctypes.byref(remote), 1, 4, 0))
attempt("move its pages", lambda: libc.syscall(256, 1, 64, bytes(8), bytes(8)))
attempt("enter its namespaces", lambda: libc.setns(os.pidfd_open(1), 0x20000000))
for name in (
    "oom_score_adj", "oom_adj", "coredump_filter", "autogroup", "comm", "timerslack_ns", "uid_map", "setgroups"
):
    attempt("write " + name, lambda: os.write(os.open(f"/proc/1/{name}", os.O_WRONLY), b"0"))
""",
    ),
    Attack(
        name="frames to every descriptor in reach",
        program="""
def frame(number):
    payload = struct.pack("<BBHiQQQQQ", 0, 0, 0, 0, 1, 1, 1, 1, 0)
    return b"".join(
        struct.pack("<IIB3x", len(body), number, kind) + body
        for kind, body in (
            (0x81, b"\\1forged\\n"), (0x82, payload), (0x82, payload[:40]), (0x83, bytes(40)), (0x86, bytes(8))
        )
    )
forged = b"".join(frame(number) for number in range(0, 400))
for pid in [name for name in os.listdir("/proc") if name.isdigit()]:
    for fd in range(32):
        if pid in (str(os.getpid()), "self") and fd < 3:
            continue
        path = f"/proc/{pid}/fd/{fd}"
        attempt("write to " + path, lambda: os.write(os.open(path, os.O_WRONLY | os.O_NONBLOCK), forged))
for fd in range(3, 64):
    attempt(f"write to {fd}", lambda: os.write(fd, forged))
os.write(1, forged)
os.write(2, forged)
""",
        ends=any_end,
        prints=None,
    ),
    Attack(
        name="the guest's socket",
        program="""
names = [line.split()[-1] for line in open("/proc/net/unix").readlines()[1:] if len(line.split()) > 7]
[print(name) for name in names if not name.startswith("/proc/self/fd/")]
def search(directory):
    try:
        entries = list(os.scandir(directory))
    except OSError:
        return
    for entry in entries:
        if entry.path in ("/proc", "/sys", "/usr/share", "/usr/lib") or entry.is_symlink():
            continue
        if entry.is_dir():
            search(entry.path)
        elif not entry.is_file():
            attempt("connect to " + entry.path, lambda: socket.socket(socket.AF_UNIX).connect(entry.path))
search("/")
for name in ("guest", "codecraft", ".codecraft/guest", "/.codecraft/socket", "/.codecraft/guest.sock"):
    attempt("connect to " + name, lambda: socket.socket(socket.AF_UNIX).connect("\\0" + name))
    attempt("connect to " + name, lambda: socket.socket(socket.AF_UNIX).connect(name))
""",
        limit_s=10,
    ),
    Attack(
        name="being killed last",
        program="""
attempt("be spared by the kernel", lambda: os.write(os.open("/proc/self/oom_score_adj", os.O_WRONLY), b"-1000"))
attempt("no longer gather its orphans", lambda: libc.prctl(36, 0, 0, 0, 0))
attempt("be root", lambda: os.setresuid(0, 0, 0) or 0) if os.getuid() else None
attempt("be anybody", lambda: os.setgroups([0]) or 0)
attempt("have capabilities", lambda: libc.prctl(47, 2, 1, 0, 0))
attempt("be born a sibling", lambda: libc.syscall(56, 0x8000 | 17, 0, 0, 0, 0))
attempt("lift its limit of processes", lambda: resource.setrlimit(resource.RLIMIT_NPROC, (-1, -1)) or 0) \\
    if resource.getrlimit(resource.RLIMIT_NPROC)[1] != -1 else None
""",
    ),
)

WORKSPACE: Final = (
    Attack(
        name="the workspace itself moved, removed or replaced",
        program="""
os.chdir("/")
for tree in ("/workspace", "/home/agent", "/tmp", "/var/tmp", "/dev/shm"):
    attempt("rename " + tree, lambda: os.rename(tree, tree + "2") or 0)
    attempt("remove " + tree, lambda: os.rmdir(tree) or 0)
    attempt("exchange " + tree, lambda: libc.renameat2(-100, tree.encode(), -100, b"/etc", 2))
    attempt("put a link at " + tree, lambda: os.symlink("/", tree) or 0)
    attempt("put a link for " + tree, lambda: os.rename("/tmp/link", tree) or 0)
""",
    ),
    Attack(
        name="everything closed, with modes and owners",
        language="sh",
        program="mkdir -p a/b/c; touch a/b/c/d; chmod -R 000 . /home/agent 2>/dev/null; chmod 6777 /workspace; exit 0",
        prints=None,
        ends=any_end,
    ),
    Attack(
        name="files named as the guest's own, and names that nobody can print",
        program="""
for number in range(50):
    os.makedirs(f".removed-{number}/.removed-{number + 1}/x")
os.symlink("/etc", ".removed-100")
os.mkfifo("fifo")
os.mknod("socket", 0o140666)
for name in (b"-rf", b"*", b"\\n", b"\\xff\\xfe", b"'", b"`reboot`", b" ", b"\\x1b[2J", b"a" * 255):
    open(name, "w").close()
for name in ("guest", ".codecraft", "snapshots"):
    os.makedirs(f"/tmp/{name}/x")
""",
    ),
    Attack(
        name="contents changed and times put back",
        program="""
status = os.stat("keep")
with open("keep", "r+b") as file:
    file.write(b"K")
os.utime("keep", ns=(status.st_atime_ns, status.st_mtime_ns))
status = os.stat("sub/file")
fd = os.open("sub/file", os.O_RDWR)
memory = mmap.mmap(fd, 0)
memory[0]
time.sleep(0.02)
memory[0:1] = b"?"
os.utime("sub/file", ns=(status.st_atime_ns, status.st_mtime_ns))
keep.append(memory)
stay()
""",
    ),
    Attack(
        name="times in the future and before all time",
        program="""
for name, when in (("keep", 1 << 40), ("sub", -(1 << 33)), ("sub/file", 0), (".", 1 << 33)):
    os.utime(name, (when, when))
open("new", "w").close()
os.utime("new", (1 << 34, 1 << 34))
""",
    ),
    Attack(
        name="marks on files: attributes, access lists, flags",
        program="""
import array
def flags(path, value):
    fd = os.open(path, os.O_RDONLY)
    fcntl.ioctl(fd, 0x40086602, array.array("l", [value]))
for path in (".", "/home/agent", "keep", "sub"):
    for value in (0x40, 0x80, 0xc0):
        try:
            flags(path, value)
        except OSError:
            pass
    attempt("make it immutable", lambda: flags(path, 0x10))
    attempt("make it grow only", lambda: flags(path, 0x20))
    for name in ("user.note", "user." + "x" * 200):
        try:
            os.setxattr(path, name, b"x" * 1000)
        except OSError:
            pass
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *each) for each in (
        (1, 7, 0xFFFFFFFF), (2, 7, 12345), (4, 7, 0xFFFFFFFF), (16, 7, 0xFFFFFFFF), (32, 7, 0xFFFFFFFF)))
    for name in ("system.posix_acl_default", "system.posix_acl_access"):
        try:
            os.setxattr(path, name, acl)
        except OSError:
            pass
""",
    ),
    Attack(
        name="links everywhere",
        program="""
os.rename("sub", "sub2")
os.symlink("/etc", "sub")
os.unlink("keep")
os.symlink("/proc/self/environ", "keep")
os.link("sub2/file", "hard")
os.symlink("loop", "loop")
for name in ("/home/agent/.bashrc", "/tmp/x", "/dev/shm/x"):
    os.symlink("/workspace", name)
""",
    ),
    Attack(
        name="programs unlinked and overwritten while they run",
        language="sh",
        program="""
cp /bin/sleep nap; ./nap 600 >/dev/null 2>&1 & cp /bin/sh mine; rm -f mine; sleep 0.05; rm -f nap; echo x > nap
(cd sub && rm -rf ../sub && exec setsid sleep 600 >/dev/null 2>&1 </dev/null) &
exit 0
""",
        ends=any_end,
    ),
    Attack(
        name="xattrs without end",
        program="""
for number in range(20_000):
    try:
        os.setxattr(".", f"user.{number:060}", b"x" * 40)
    except OSError as error:
        break
""",
        may_lose=True,
    ),
)

NEXT_COMMAND: Final = (
    Attack(
        name="programs and start-up files for the next command",
        language="sh",
        program="""
mkdir -p ~/bin ~/.config/git ~/.local/lib/python3.11/site-packages ~/.local/lib/python3.13/site-packages
for d in ~/bin ~/.local/bin . /tmp; do mkdir -p $d; for p in sh ls python3 cat true git id; do
  printf '#!/bin/sh\\necho hijacked\\n' > $d/$p; chmod 755 $d/$p; done; done 2>/dev/null
for f in .profile .bashrc .bash_profile .shrc .kshrc .zshenv .pythonrc; do echo 'echo hijacked' > ~/$f; done
for v in 11 12 13; do mkdir -p ~/.local/lib/python3.$v/site-packages
  echo 'print("hijacked")' > ~/.local/lib/python3.$v/site-packages/usercustomize.py; done
printf '[alias]\\nstatus = !echo hijacked\\n[core]\\nhooksPath = /tmp\\n' > ~/.gitconfig
export PATH=~/bin:$PATH LD_PRELOAD=/tmp/evil.so ENV=~/.profile BASH_ENV=~/.profile PYTHONPATH=/tmp PROMPT_COMMAND=id
echo /tmp/evil.so > /etc/ld.so.preload; ln -s /tmp/x /etc/profile.d/x.sh; echo x > /proc/sys/kernel/core_pattern
crontab -l; at now; exit 0
""",
        ends=any_end,
        prints=None,
    ),
    Attack(
        name="limits, priority, processor and terminal of the next command",
        program="""
for number in set(range(16)) - {resource.RLIMIT_CPU, resource.RLIMIT_STACK}:
    try:
        resource.setrlimit(number, (0, 0))
    except (OSError, ValueError):
        pass
os.nice(19)
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
os.umask(0o777)
libc.personality(0x0040000)
libc.prctl(38, 1, 0, 0, 0)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
libc.setpgid(0, 0)
""",
    ),
    Attack(
        name="a process that waits to answer for the next command",
        ends=any_end,
        program="""
if os.fork() == 0:
    os.setsid()
    seen = {str(os.getppid())}
    end = time.monotonic() + 600
    while time.monotonic() < end:
        for pid in os.listdir("/proc"):
            if pid.isdigit() and int(pid) != os.getpid() and pid not in seen and pid != "1":
                seen.add(pid)
                for fd in (1, 2):
                    try:
                        os.write(os.open(f"/proc/{pid}/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK), b"forged\\n")
                    except OSError:
                        pass
""",
    ),
)
