"""Drives the real guest over two pipes, as process 1 of a bubblewrap sandbox.

Nothing here waits without a deadline. The guest never runs outside a PID namespace of its own: it refuses to, and
must, for it kills every process that it sees.
"""

from __future__ import annotations

import atexit
import errno
import os
import select
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, NoReturn

import pytest

import hatch_build
from codecraft_pool.protocol import Data, Decoder, Done, Error, Exit, Hello, Output, Pong, Reply
from codecraft_pool.requests import encode_run
from tests.conftest import alone

ROOT: Final = Path(hatch_build.__file__).parent
_BUILT: Final = ROOT / "build" / "tests"
BUILDS: Final = ("release", "sanitized")
SANITIZE: Final = ("-O1", "-g", "-U_FORTIFY_SOURCE", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
PYTHON: Final = "/usr/bin/python3"
PATH: Final = "PATH=/usr/local/bin:/usr/bin:/bin"
LIMIT_S: Final = 20.0
SANITIZER_STATUS: Final = 99
NOBODY: Final = 65534

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="the guest changes users, which only root can let it")
CAPABILITIES: Final = ("SETUID", "SETGID", "CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETPCAP")
# The leak checker traces the guest, which is not dumpable.
_CHECKER_CAPABILITIES: Final = ("SYS_PTRACE",)


class GuestEnded(Exception):
    """The guest closed its side."""


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that ended: what it printed and how it ended."""

    stdout: bytes
    stderr: bytes
    exit: Exit

    @property
    def code(self) -> int:
        """The exit status, or minus the signal's number."""
        return -self.exit.code if self.exit.signalled else self.exit.code


@cache
def _directory() -> Path:
    """A directory that every user can read, for sandboxes of other users; removed at exit."""
    path = Path(tempfile.mkdtemp(prefix="codecraft-guest-"))
    path.chmod(0o755)
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@cache
def binary(build: str) -> Path:
    """Return the guest, built for the release or with the sanitizers, once for all workers."""
    release = build == "release"
    flags = () if release else SANITIZE
    with alone(f"guest-{build}"):
        built = hatch_build.build_guest(ROOT, _BUILT, extra_flags=flags, static=release, name=f"guest-{build}")
        return Path(shutil.copy(built, _directory()))


def missing(what: str) -> NoReturn:
    """Skip a test that lacks a program; in CI, which installs what it needs, fail it."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


def _bubblewrap() -> str:
    found = shutil.which("bwrap")
    if found is None:
        missing("bubblewrap is not installed")
    return found


def _system_mounts() -> list[str]:
    words = ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib64"):
        link = Path("/") / name
        if link.is_symlink():
            words += ["--symlink", os.readlink(link), str(link)]
        elif link.is_dir():
            words += ["--ro-bind", str(link), str(link)]
    return [*words, "--proc", "/proc", "--dev", "/dev", "--mqueue", "/dev/mqueue"]


def refusing_filter(calls: Sequence[int]) -> bytes:
    """Return a BPF program for bubblewrap by which the kernel does not know these calls."""
    load, jump_if_equal, give = 0x20, 0x15, 0x06
    code = [(load, 0, 0, 0)]
    for call in calls:
        code += [(jump_if_equal, 0, 1, call), (give, 0, 0, 0x0005_0000 | errno.ENOSYS)]
    return b"".join(struct.pack("<HBBI", *step) for step in [*code, (give, 0, 0, 0x7FFF_0000)])


class Guest:
    """One guest in one sandbox. Trees are /ws (owned by whoever starts it) and /tmp; /snap is the snapshot.

    Leaving it closes the channel and checks that the guest ended well and that no sanitizer complained.
    """

    def __init__(
        self,
        build: str = "release",
        *,
        privileged: bool = True,
        args: Sequence[str] = (),
        snapshot: Path | None = None,
        capabilities: Sequence[str] | None = None,
        mounts: Sequence[str] = (),
        missing_calls: Sequence[int] = (),
        single_uid: int = 1000,
    ) -> None:
        self.build = build
        self.privileged = privileged
        self._args = list(args) if privileged else ["--agent", "self", *args]
        self._snapshot = snapshot
        given = CAPABILITIES if privileged else ()
        self._capabilities = given if capabilities is None else capabilities
        self._mounts = list(mounts)
        self._uid = single_uid
        self._missing_calls = missing_calls
        self._ids = count(1)
        self._decoder = Decoder()
        self._frames: list[Reply] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._said = ""
        self.hello: Hello | None = None

    def __enter__(self) -> Guest:
        self.start()
        frame = self.next_frame()
        assert isinstance(frame, Hello)
        self.hello = frame
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._started()
        if kind is not None or process.poll() is not None:
            self.kill()
            assert kind is not None or process.returncode != SANITIZER_STATUS, self.log()
            return
        status = self.end()
        log = self.log()
        assert (0, "") == (status, log)

    # --- the process -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the process, and do not wait for its HELLO."""
        self._log = tempfile.TemporaryFile()
        with tempfile.TemporaryFile() as call_filter:
            call_filter.write(refusing_filter(self._missing_calls))
            call_filter.seek(0)
            self._process = subprocess.Popen(
                self._command(call_filter.fileno()),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                bufsize=0,
                env={},
                pass_fds=[call_filter.fileno()],
            )
        os.set_blocking(self._fd(self._process.stdin), False)

    def _command(self, call_filter: int) -> list[str]:
        words: list[str] = []
        if not self.privileged and os.geteuid() == 0:
            setpriv = shutil.which("setpriv") or "setpriv"
            words += [setpriv, f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        words += [_bubblewrap(), "--die-with-parent", "--as-pid-1", "--unshare-pid", "--unshare-ipc", "--unshare-net"]
        if not self.privileged:
            words += ["--unshare-user", "--uid", str(self._uid), "--gid", str(self._uid)]
        words += ["--seccomp", str(call_filter)] if self._missing_calls else []
        words += ["--cap-drop", "ALL"]
        extra = _CHECKER_CAPABILITIES if self.build == "sanitized" else ()
        for capability in (*self._capabilities, *extra):
            words += ["--cap-add", f"CAP_{capability}"]
        words += _system_mounts()
        words += ["--perms", "1777", "--tmpfs", "/tmp", "--perms", "0755", "--tmpfs", "/ws", *self._mounts]
        if self._snapshot is not None:
            words += ["--ro-bind", str(self._snapshot), "/snap"]
        words += ["--ro-bind", str(binary(self.build)), "/guest"]
        words += ["--setenv", "ASAN_OPTIONS", f"exitcode={SANITIZER_STATUS}:detect_leaks=1"]
        words += ["--setenv", "UBSAN_OPTIONS", f"exitcode={SANITIZER_STATUS}:print_stacktrace=1"]
        return [*words, "--", "/guest", *self._args]

    @staticmethod
    def _fd(pipe: IO[bytes] | None) -> int:
        assert pipe is not None
        return pipe.fileno()

    def _started(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def pid(self) -> int:
        """The guest's process number on the host: bubblewrap's only child."""
        bubblewrap = self._started().pid
        return int(Path(f"/proc/{bubblewrap}/task/{bubblewrap}/children").read_text().split()[0])

    def log(self) -> str:
        """What the guest, or bubblewrap, said on stderr."""
        if self._log is not None:
            self._log.seek(0)
            self._said = self._log.read().decode("utf-8", "replace")
        return self._said

    def end(self, *, limit_s: float = LIMIT_S) -> int:
        """Close the channel; return the exit status."""
        process = self._started()
        assert process.stdin is not None and process.stdout is not None
        process.stdin.close()
        try:
            return process.wait(limit_s)
        finally:
            self.kill()

    def status(self, *, limit_s: float = LIMIT_S) -> int:
        """Return the exit status of a guest that ends by itself."""
        return self._started().wait(limit_s)

    def kill(self) -> None:
        """Make sure that nothing is left. Idempotent."""
        process = self._started()
        process.kill()
        process.wait(LIMIT_S)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        self.log()
        if self._log is not None:
            self._log.close()
            self._log = None

    def close_replies(self) -> None:
        """Stop reading, for good."""
        process = self._started()
        assert process.stdout is not None
        process.stdout.close()

    # --- the channel -------------------------------------------------------------------------------------------------

    def send(self, *data: bytes, limit_s: float = LIMIT_S) -> None:
        """Write bytes; reads replies meanwhile, as a host must."""
        rest = memoryview(b"".join(data))
        process = self._started()
        stdin, stdout = self._fd(process.stdin), self._fd(process.stdout)
        deadline = time.monotonic() + limit_s
        while rest:
            readable, writable, _ = select.select([stdout], [stdin], [], max(0.0, deadline - time.monotonic()))
            if not readable and not writable:
                raise TimeoutError(f"the guest takes no requests; {self.log()}")
            if readable:
                self._receive()
            if writable:
                rest = rest[os.write(stdin, rest[: 1 << 20]) :]

    def send_without_reading(self, data: bytes) -> int:
        """Write what fits; return how much did."""
        try:
            return os.write(self._fd(self._started().stdin), data)
        except BlockingIOError:
            return 0

    def _receive(self) -> None:
        data = os.read(self._fd(self._started().stdout), 1 << 20)
        if not data:
            raise GuestEnded(self.log())
        self._frames += self._decoder.feed(data)

    def wait_readable(self, limit_s: float) -> bool:
        """Return whether bytes of the guest came within the limit."""
        return bool(select.select([self._fd(self._started().stdout)], [], [], limit_s)[0])

    def next_frame(self, *, limit_s: float = LIMIT_S) -> Reply:
        """Return the next frame, whosever it is."""
        deadline = time.monotonic() + limit_s
        while not self._frames:
            if not self.wait_readable(max(0.0, deadline - time.monotonic())):
                raise TimeoutError(f"the guest says nothing; {self.log()}")
            self._receive()
        return self._frames.pop(0)

    def frames_of(self, request_id: int, *, limit_s: float = LIMIT_S) -> list[Reply]:
        """Return the frames of one request, up to the one that answers it; others are kept."""
        deadline = time.monotonic() + limit_s
        mine: list[Reply] = []
        seen = 0
        while True:
            while seen < len(self._frames):
                if getattr(self._frames[seen], "id", 0) == request_id:
                    mine.append(self._frames.pop(seen))
                    if not isinstance(mine[-1], Output):
                        return mine
                else:
                    seen += 1
            if not self.wait_readable(max(0.0, deadline - time.monotonic())):
                raise TimeoutError(f"no answer to {request_id}; {self.log()}")
            self._receive()

    # --- requests ----------------------------------------------------------------------------------------------------

    def next_id(self) -> int:
        """Return an id that was not used yet."""
        return next(self._ids)

    def ask(self, data: bytes, request_id: int, *, limit_s: float = LIMIT_S) -> Reply:
        """Send a frame; return the frame that answers it."""
        self.send(data)
        return self.frames_of(request_id, limit_s=limit_s)[-1]

    def begin(self, argv: Sequence[str | bytes], **options: Any) -> int:
        """Start a command; return its id."""
        request_id = self.next_id()
        options.setdefault("env", [PATH])
        self.send(encode_run(request_id, argv, **options))
        return request_id

    def finish(self, request_id: int, *, limit_s: float = LIMIT_S) -> Ran:
        """Wait for the end of a command."""
        frames = self.frames_of(request_id, limit_s=limit_s)
        last = frames[-1]
        assert isinstance(last, Exit), last
        printed = {1: bytearray(), 2: bytearray()}
        for frame in frames[:-1]:
            assert isinstance(frame, Output)
            printed[frame.stream] += frame.data
        return Ran(bytes(printed[1]), bytes(printed[2]), last)

    def run(self, *argv: str | bytes, **options: Any) -> Ran:
        """Run a command to its end."""
        return self.finish(self.begin(argv, **options))

    def shell(self, script: str, **options: Any) -> Ran:
        """Run a line of shell."""
        return self.run("sh", "-c", script, **options)

    def python(self, program: str, **options: Any) -> Ran:
        """Run a Python program; it must end by itself and without an error."""
        ran = self.run(PYTHON, "-I", "-c", program, **options)
        assert (0, b"") == (ran.code, ran.stderr)
        return ran

    def refused(self, data: bytes, request_id: int) -> Error:
        """Send a frame that is answered by an ERROR; return that."""
        reply = self.ask(data, request_id)
        assert isinstance(reply, Error), reply
        return reply


def done(reply: Reply) -> Done:
    """Return *reply*, which must be a DONE."""
    assert isinstance(reply, Done), reply
    return reply


def data(reply: Reply) -> Data:
    """Return *reply*, which must be a DATA."""
    assert isinstance(reply, Data), reply
    return reply


def pong(reply: Reply) -> Pong:
    """Return *reply*, which must be a PONG."""
    assert isinstance(reply, Pong), reply
    return reply
