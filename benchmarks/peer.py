"""Other people's sandboxes, each in a virtual environment of its own, spoken to in lines of JSON."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

from benchmarks.results import BenchmarkError, Unavailable
from codecraft_pool._aio import finish

SIDES: Final = Path(__file__).parent / "peers"
# Kept from run to run; `make clean` removes it.
FOLDER: Final = Path(__file__).parent / ".peers"
_ANSWER_LIMIT_S: Final = 180.0
_END_LIMIT_S: Final = 60.0
_INSTALL_LIMIT_S: Final = 240.0
_LOOK_LIMIT_S: Final = 20.0


def find_python(version: str) -> str:
    """Return an interpreter of that version: this one, one on the path, pyenv's, or one that uv knows.

    Raises:
        Unavailable: There is none.
    """
    for candidate in _candidates(version):
        if _printed([candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]) == version:
            return candidate
    raise Unavailable(f"it needs Python {version}, which is not on this machine (not on the path, in pyenv, or in uv)")


def _candidates(version: str) -> Iterator[str]:
    yield sys.executable
    yield f"python{version}"
    home = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from (str(path) for path in sorted(home.glob(f"versions/{version}*/bin/python{version}")))
    if found := _printed(["uv", "python", "find", "--no-python-downloads", version]):
        yield found


def _printed(argv: Sequence[str]) -> str:
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(argv, capture_output=True, text=True, timeout=_LOOK_LIMIT_S, check=True).stdout.strip()
    return ""


def environment(name: str, python: str, packages: Sequence[str]) -> Path:
    """Return the interpreter of a virtual environment with *packages*, made when it is first asked for.

    Raises:
        Unavailable: It cannot be made; says what pip said.
    """
    folder = FOLDER / name
    interpreter = folder / "bin" / "python"
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        make_folder()
        _install([python, "-m", "venv", str(folder)], name)
        install_into(str(interpreter), packages, [], name)
        (folder / "complete").touch()
    return interpreter


def make_folder() -> None:
    """Have the folder that environments are in, which is no part of the project to git and to linters."""
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / ".gitignore").write_text("*\n")


def install_into(python: str, packages: Sequence[str], words: Sequence[str], name: str) -> None:
    """Have pip install *packages*, with *words* besides.

    Raises:
        Unavailable: It cannot; says what it said.
    """
    _install([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *words, *packages], name)


def _install(argv: Sequence[str], name: str) -> None:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_INSTALL_LIMIT_S)
    except (OSError, subprocess.SubprocessError) as exc:
        raise Unavailable(f"{name} could not be installed: {exc}") from exc
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise Unavailable(f"{name} could not be installed: {' '.join(said)[-300:]}")


class Peer:
    """A program that answers a line of JSON with another one. Made by `open_peer`."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self._name = name
        self._process = process

    async def ask(self, do: str, **arguments: Any) -> Any:
        """Return what the peer's method *do* answers.

        Raises:
            BenchmarkError: It failed, ended, or took too long.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
        return await self.answer(do)

    async def answer(self, do: str) -> Any:
        """Return what comes next from the peer, which is its answer to *do*; raises what `ask` raises."""
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(_ANSWER_LIMIT_S):
                line = await self._process.stdout.readline()
        except (TimeoutError, ConnectionError) as exc:
            raise BenchmarkError(f"{self._name} did not answer {do!r}: {exc!r}") from exc
        try:
            answer = json.loads(line or b'{"error": "it has ended"}')
        except ValueError as exc:
            raise BenchmarkError(f"{self._name} answered {do!r} with {line[:80]!r}") from exc
        if "error" in answer:
            raise BenchmarkError(f"{self._name} failed at {do!r}: {answer['error']}")
        return answer["answer"]


@asynccontextmanager
async def open_peer(name: str, python: Path, side: str, *arguments: str) -> AsyncGenerator[Peer]:
    """Yield the peer, with its sandboxes started; in the end it is asked to end, then killed with all it started.

    Raises:
        Unavailable: It does not work on this machine; says what it said last.
    """
    with (
        tempfile.TemporaryFile() as errors,
        tempfile.TemporaryDirectory(prefix=f"codecraft-bench-{os.getpid()}-", ignore_cleanup_errors=True) as folder,
    ):
        process = await asyncio.create_subprocess_exec(
            *(str(python), str(SIDES / side), *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "TMPDIR": folder},
            start_new_session=True,
        )
        peer = Peer(name, process)
        try:
            try:
                await peer.answer("start")
            except BenchmarkError as exc:
                errors.seek(0)
                said = " ".join(errors.read().decode(errors="replace").split())[-120:]
                raise Unavailable(f"{exc}; it does not start here. Its last words: {said or 'none'}") from exc
            yield peer
        finally:
            await finish(_end(process))


async def _end(process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None
    process.stdin.close()
    with suppress(TimeoutError):
        async with asyncio.timeout(_END_LIMIT_S):
            await process.wait()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
