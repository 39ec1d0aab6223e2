"""A session through a relay in the sandbox, where its sockets cannot be reached from here; see `inside.sql_relay`."""

from __future__ import annotations

import asyncio
import base64
from functools import cache
from importlib.resources import files
from typing import Final

from codecraft_async.intercode.sql_mariadb_link import LinkLost
from codecraft_async.intercode.sql_mariadb_wire import ProtocolBroken, Reader
from codecraft_pool import PoolError, Sandbox, Shell

__all__ = ["RelayLink"]

_ANSWER_LIMIT_S: Final = 86_400.0  # whoever asks has a limit of its own, and then ends the statement or the session
_OPEN_LIMIT_S: Final = 20.0
_MAX_ROW_BYTES: Final = 64 << 20
_SPARE_BYTES: Final = 9 << 20  # for one row over the limit, columns and errors
_PACKAGE: Final = "codecraft_async.intercode"
_PARTS: Final = ("inside.wire", "sql_mariadb_wire", "inside.sql_relay")  # in the order in which they need each other


class RelayLink:
    """A session over a persistent shell of the sandbox, whose program is the relay."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()
        self.thread = 0
        self.is_lost = False

    @classmethod
    async def connect(cls, sandbox: Sandbox, path: str, user: str, password: str) -> RelayLink:
        """Return a session with the server that listens at *path*.

        Raises:
            LinkLost: Nobody listens there, or the user is not let in.
            RequestRefused: The sandbox has no Python.
            SandboxLost: The sandbox died.
        """
        argv = ("python3", "-I", "-c", _program(), path, user, password)
        link = cls(sandbox.shell(shell=argv, cwd="/"))
        try:
            await link._shell.__aenter__()
            result = await link._shell.run("", limit_s=_OPEN_LIMIT_S)
            if not result.stdout.isdigit() or result.shell_restarted:
                raise LinkLost("the relay finds no server")
            link.thread = int(result.stdout)
        except BaseException as exc:
            link.close()
            if isinstance(exc, PoolError) and sandbox.lost is None:
                raise LinkLost(f"there is no relay: {exc}") from exc
            raise
        return link

    def ask(self, packets: bytes, *readers: Reader) -> asyncio.Future[None]:
        """Send questions; see `Link.ask`."""
        task = asyncio.get_running_loop().create_task(self._carry(packets, readers))
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return asyncio.shield(task)

    async def _carry(self, packets: bytes, readers: tuple[Reader, ...]) -> None:
        text = f"{len(readers)} {_MAX_ROW_BYTES} {base64.b64encode(packets).decode()}"
        limit_bytes = _MAX_ROW_BYTES + _SPARE_BYTES
        async with self._turn:
            if self.is_lost:
                raise LinkLost("the connection to the server has ended")
            try:
                result = await self._shell.run(text, limit_s=_ANSWER_LIMIT_S, max_output_bytes=limit_bytes)
                if result.shell_ended or result.shell_restarted or result.truncated or len(result.stdout) < 8:
                    raise LinkLost("the relay has ended")
                self._read(result.stdout, readers)
            except (LinkLost, PoolError, ProtocolBroken) as exc:
                self.close()
                raise LinkLost(str(exc)) from exc

    def _read(self, data: bytes, readers: tuple[Reader, ...]) -> None:
        at = 0
        for reader in readers:
            at = reader.take(data[:-8], at)
            if not reader.done:
                raise LinkLost("the relay's answer is cut off")
        readers[-1].rows_left_out += int.from_bytes(data[-8:], "little")

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits sees it; nobody has to

    def close(self) -> None:
        """End the session at once."""
        if self.is_lost:
            return
        self.is_lost = True
        task = asyncio.get_running_loop().create_task(self._shell.aclose())
        self._tasks.add(task)
        task.add_done_callback(self._done)


@cache
def _program() -> str:
    """Return the program that runs inside: the parts as modules, then a call of the last one."""
    lines = ["import sys, types"]
    for part in _PARTS:
        folder, _, name = f"{_PACKAGE}.{part}".rpartition(".")
        text = files(folder).joinpath(f"{name}.py").read_text(encoding="utf-8")
        lines += [
            f"sys.modules[{folder + '.' + name!r}] = module = types.ModuleType({folder + '.' + name!r})",
            f"exec(compile({text!r}, '<inside/{name}>', 'exec'), module.__dict__)",
        ]
    return "\n".join([*lines, "module.main(sys.argv[1:4])"])
