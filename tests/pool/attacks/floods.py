"""Attacks that take all there is: processes, memory, files, output, processor time."""

from __future__ import annotations

from typing import Final

from tests.pool.attacks.attack import Attack, any_end, capped, killed_for_memory, stopped

FLOODS: Final = (
    Attack(
        name="fork bomb in sh",
        language="sh",
        program="b() { b | b & }; b; b; sleep 1001",
        ends=any_end,
        prints=None,
        limit_s=0.5,
    ),
    Attack(
        name="fork bomb in C",
        language="c",
        program="""
#include <unistd.h>
int main(void) { for (;;) fork(); }
""",
        ends=stopped,
        limit_s=0.4,
    ),
    Attack(
        name="fork bomb whose processes flee and end",
        language="c",
        program="""
#include <unistd.h>
int main(void) { for (;;) if (fork() > 0) { setsid(); if (fork() > 0) _exit(0); } }
""",
        ends=any_end,
        limit_s=0.4,
    ),
    Attack(
        name="thread bomb",
        program="""
started = 0
try:
    while True:
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
        started += 1
except RuntimeError:
    print("refused" if 0 < started < 70 else started, flush=True)
os._exit(0)
""",
        prints="refused\n",
    ),
    Attack(
        name="memory bomb",
        program="block = [bytearray(8 << 20) for _ in range(40)]",
        ends=killed_for_memory,
        prints=None,
    ),
    Attack(
        name="memory bomb of many processes",
        program="""
for _ in range(20):
    if os.fork() == 0:
        block = bytearray(24 << 20)
        signal.pause()
while True:
    os.wait()
""",
        ends=any_end,
        limit_s=0.6,
        needs_memory_limit=True,
    ),
    Attack(
        name="memory in a file without a name",
        program="""
fd = os.memfd_create("x")
while True:
    os.write(fd, bytes(16 << 20))
""",
        ends=killed_for_memory,
        prints=None,
        needs_memory_limit=True,
    ),
    Attack(
        name="memory in pipes and sockets",
        program="""
def fill():
    ends = socket.socketpair()
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
        end.setblocking(False)
        keep.append(end)
        try:
            while True:
                end.send(bytes(1 << 16))
        except BlockingIOError:
            pass
def pipe():
    ends = os.pipe()
    fcntl.fcntl(ends[1], 1031, 1 << 20)
    os.set_blocking(ends[1], False)
    os.write(ends[1], bytes(1 << 20))
exhaust(fill, 20)
exhaust(pipe, 40)
stay()
""",
        ends=any_end,
        prints=None,
    ),
    Attack(
        name="descriptors sent to nobody",
        program="""
def send():
    a, b = socket.socketpair()
    socket.send_fds(a, [b"x"], [a.fileno(), b.fileno()] * 100)
    keep.extend((a, b))
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
exhaust(send, 2000)
exhaust(lambda: os.open("/dev/null", 0), 50_000)
stay()
""",
        ends=any_end,
        prints=None,
    ),
    Attack(name="/dev/zero to stdout", language="sh", program="exec cat /dev/zero", ends=capped, prints=None),
    Attack(
        name="a line of a gigabyte",
        program="""
while True:
    os.write(1, b"x" * (1 << 20))
""",
        ends=capped,
        prints=None,
    ),
    Attack(
        name="both streams, from many processes",
        language="sh",
        program="for i in 1 2 3 4 5 6; do cat /dev/zero >&2 & yes & done; wait",
        ends=capped,
        prints=None,
    ),
    Attack(
        name="output from processes left behind",
        language="sh",
        program="for i in 1 2 3 4; do (setsid yes forged &) ; (setsid yes forged >&2 &) ; done; exit 0",
        ends=any_end,
        prints=None,
    ),
    Attack(
        name="disk filler",
        program="""
full = 0
for tree in ("/workspace", "/home/agent", "/tmp", "/var/tmp", "/dev/shm"):
    with open(tree + "/fill", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 20))
        except OSError as error:
            full += error.errno == errno.ENOSPC
print(full)
""",
        prints="5\n",
    ),
    Attack(
        name="inode filler",
        program="""
numbers = iter(range(1 << 30))
exhaust(lambda: os.close(os.open("f%d" % next(numbers), os.O_CREAT)), 10_000)
""",
    ),
    Attack(
        name="files of every size that there is",
        program="""
for size in (1 << 30, 1 << 40, (1 << 63) - 1):
    try:
        os.truncate(os.open(f"sparse{size}", os.O_CREAT | os.O_RDWR), size)
    except OSError:
        pass
fd = os.open("allocated", os.O_CREAT | os.O_RDWR)
try:
    os.posix_fallocate(fd, 0, 1 << 40)
except OSError:
    pass
os.link("allocated", "linked")
exhaust(lambda: os.link("linked", "linked%d" % next(numbers)), 3000)
""".replace("for size", "numbers = iter(range(1 << 30))\nfor size", 1),
    ),
    Attack(
        name="a tree deeper than any path",
        program="""
for _ in range(3000):
    os.mkdir("d" * 40)
    os.chdir("d" * 40)
open("bottom", "w").close()
""",
    ),
    Attack(
        name="busy loops of every priority",
        program="""
attempt("raise its priority", lambda: os.nice(-5) or 0)
for policy in (os.SCHED_FIFO, os.SCHED_RR):
    attempt("be a real-time process", lambda: os.sched_setscheduler(0, policy, os.sched_param(1)) or 0)
attempt("starve the guest", lambda: os.setpriority(os.PRIO_PROCESS, 1, 19) or 0)
attempt("starve the guest of its processor", lambda: os.sched_setaffinity(1, {0}) or 0)
attempt("limit the guest", lambda: resource.prlimit(1, resource.RLIMIT_NOFILE, (3, 3)) and 0)
attempt("limit the disk of the guest", lambda: libc.syscall(251, 1, 1, (3 << 13) | 7))
for _ in range(16):
    if os.fork() == 0:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        while True:
            pass
sys.stdout.flush()
while True:
    pass
""",
        ends=stopped,
        limit_s=0.5,
    ),
)
