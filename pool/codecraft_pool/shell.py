"""Persistent shells: the directory, variables and functions that a command leaves behind are there for the next."""

from __future__ import annotations

import asyncio
import errno
from contextlib import suppress
from typing import Final

from codecraft_pool._aio import finish
from codecraft_pool.channel import Answer, Channel, RunReply
from codecraft_pool.errors import RequestRefused, SandboxLost
from codecraft_pool.protocol import ExitFlag
from codecraft_pool.requests import (
    EncodedStrings,
    encode_interrupt,
    encode_shell_close,
    encode_shell_open,
    encode_shell_run,
)
from codecraft_pool.results import GRACE_S, check_limits, cpu_ms, limit_ms, result_of
from codecraft_pool.spec import CommandResult

MAX_SHELLS: Final = 16
"""How many persistent shells a sandbox can have at once."""


class Shells:
    """The numbers of one sandbox's shells, and whose they are."""

    def __init__(self, sandbox: str, channel: Channel) -> None:
        self.sandbox = sandbox
        self.channel = channel
        self._owners: dict[int, Shell] = {}

    def number_of(self, shell: Shell) -> int | None:
        """Return the number that *shell* has, or None."""
        return next((number for number, owner in self._owners.items() if owner is shell), None)

    def take(self, shell: Shell) -> int:
        """Return the number that *shell* has from now on.

        Raises:
            RequestRefused: All are taken (errno EMFILE).
        """
        for number in range(1, MAX_SHELLS + 1):
            if self._owners.setdefault(number, shell) is shell:
                return number
        what = f"{MAX_SHELLS} persistent shells are open already; close one"
        raise RequestRefused(self.sandbox, "open a shell", errno.EMFILE, what)

    def release(self, shell: Shell) -> None:
        """Let others have the number of *shell*."""
        number = self.number_of(shell)
        if number is not None:
            del self._owners[number]

    def forget(self) -> None:
        """Take note that every shell has ended, as after a restore."""
        self._owners.clear()


class Shell:
    """A shell that lives from command to command, in a process tree of its own. Made by `Sandbox.shell`.

    A command that ends the shell (``exit``, ``exec``, ``set -e``, a signal) has `shell_ended` in its result; the next
    one runs in a new shell, opened as the first, and has `shell_restarted`. A restore ends it in the same way. The
    standard input of commands is empty. What background processes print while no command runs is thrown away; while one
    runs, it is part of that one's output. They go on until the shell is closed, the sandbox restored, or a command of
    the shell killed at a limit.

    Exit codes are the word of a shell that runs as the agent's user: a hostile command can forge them (its own shell's,
    nobody else's). Grade with `Sandbox.run`, whose exit codes come from the kernel.

    Use it with ``async with``; leaving ends the shell and all its processes.
    """

    def __init__(
        self, shells: Shells, argv: tuple[str, ...], *, cwd: str, env: EncodedStrings, uid: int, merge_stderr: bool
    ) -> None:
        self._shells = shells
        self._channel = shells.channel
        self._program = argv[0]
        self._argv = argv
        self._cwd = cwd
        self._env = env
        self._uid = uid
        self._merge = merge_stderr
        self._lives = False
        self._opened = False
        self._closed = False
        self._running = 0
        self._cancelled: asyncio.Future[Answer] | None = None

    @property
    def ended(self) -> bool:
        """Whether the shell has ended, as far as is known; the next `run` then opens a new one."""
        return not self._lives or self._shells.number_of(self) is None

    def __repr__(self) -> str:
        state = "closed" if self._closed else "ended" if self.ended else "running" if self._running else "idle"
        return f"<Shell {self._program} of {self._shells.sandbox} {state}>"

    async def __aenter__(self) -> Shell:
        try:
            await self._open()
        except BaseException:
            await finish(self.aclose())
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def run(
        self,
        text: str,
        *,
        limit_s: float = 10.0,
        max_output_bytes: int = 1 << 20,
        cpu_limit_s: float | None = None,
    ) -> CommandResult:
        """Run *text* in the shell and return how it ended and what it printed. One command at a time.

        At a limit everything that the shell has started is killed, in the background too; the shell itself lives on if
        it gives up the rest of *text* at once, and ends otherwise. Cancellation kills in the same way.

        Raises:
            ValueError: A limit is not positive, or *text* holds a NUL.
            RuntimeError: Another command is under way, or the shell is closed.
            RequestRefused: There can be no such shell any more, or *text* is too long (over 4 MiB).
            SandboxLost: The sandbox died.
        """
        check_limits(limit_s, max_output_bytes, cpu_limit_s)
        if "\0" in text:
            raise ValueError("the command holds a NUL character, which no shell can be given")
        self._check_free()
        self._running = -1  # from before the first wait
        try:
            await self._settle()
            restarted = await self._reopen_if_ended()
            reply: RunReply | None = None
            while reply is None:
                reply = await self._ask(text, limit_s, max_output_bytes, cpu_limit_s)
                if reply is None:  # it ended after its last command; nothing of this one has run
                    if restarted:
                        raise self._will_not_live()
                    await self._open()
                    restarted = True
        finally:
            self._running = 0
        self._note_end(reply)
        assert reply.exit is not None
        return result_of(reply, reply.exit, restarted=restarted)

    async def interrupt(self) -> None:
        """Send SIGINT to what the shell runs, as Ctrl-C does; nothing happens between commands.

        The command gives up what it has not begun yet, and its exit code is then 130; the shell and its state live on,
        unless the command has set a trap of its own. A SIGINT can come in the moment before a program is started, and
        is then lost on it: look at the result, and ask again.
        """
        if self._running > 0:
            self._channel.notify(encode_interrupt(self._running))

    async def aclose(self) -> None:
        """End the shell and all its processes. Idempotent; cancellation is delivered when they are gone."""
        self._closed = True
        number = self._shells.number_of(self)
        if number is None:
            return
        try:
            with suppress(SandboxLost):  # then it is gone as well
                await finish(self._request_close(number))
        finally:
            self._shells.release(self)
            self._lives = False

    async def _request_close(self, number: int) -> None:
        request_id = self._channel.next_id()
        frame = encode_shell_close(request_id, number)
        await self._channel.request(request_id, frame, what="close a shell", limit_s=GRACE_S)

    def _check_free(self) -> None:
        if self._closed:
            raise RuntimeError(f"the shell of sandbox {self._shells.sandbox} is closed; open a new one")
        if self._running:
            raise RuntimeError(
                f"a shell of sandbox {self._shells.sandbox} runs one command at a time, and one is under way; "
                "wait for it, or open another shell"
            )

    async def _settle(self) -> None:
        """Wait until a command whose caller was cancelled is over."""
        if self._cancelled is None:
            return
        reply = await asyncio.shield(self._cancelled)
        self._cancelled = None
        assert isinstance(reply, RunReply)
        self._note_end(reply)

    def _note_end(self, reply: RunReply) -> None:
        assert reply.exit is not None
        if reply.exit.flags & ExitFlag.SHELL_ENDED:
            self._lives = False

    async def _reopen_if_ended(self) -> bool:
        again = self._opened
        if self.ended:
            await self._open()
            return again
        return False

    async def _open(self) -> None:
        """Open it in the guest; a cancellation waits, for half an opening could not be repeated."""
        number = self._shells.number_of(self)
        await finish(self._request_open(self._shells.take(self) if number is None else number))

    async def _request_open(self, number: int) -> None:
        request_id = self._channel.next_id()
        frame = encode_shell_open(
            request_id,
            number,
            self._argv,
            cwd=self._cwd,
            env=self._env,
            uid=self._uid,
            gid=self._uid,
            merge_stderr=self._merge,
        )
        await self._channel.request(request_id, frame, what=f"open the shell {self._program!r}", limit_s=GRACE_S)
        self._lives = self._opened = True

    async def _ask(
        self, text: str, limit_s: float, max_output_bytes: int, cpu_limit_s: float | None
    ) -> RunReply | None:
        """Return the answer, or None where the shell had ended before."""
        number = self._shells.number_of(self)
        if number is None:
            return None
        self._running = request_id = self._channel.next_id()
        frame = encode_shell_run(
            request_id,
            number,
            text,
            limit_ms=limit_ms(limit_s),
            max_output_bytes=max_output_bytes,
            cpu_ms=cpu_ms(cpu_limit_s),
        )
        try:
            reply = await self._channel.request(
                request_id, frame, what="end a command", limit_s=limit_s + GRACE_S, is_run=True
            )
        except asyncio.CancelledError:
            self._cancelled = self._channel.follow(request_id)
            raise
        except RequestRefused as exc:
            if exc.errno != errno.ESRCH:
                raise
            self._lives = False
            return None
        assert isinstance(reply, RunReply)
        return reply

    def _will_not_live(self) -> RequestRefused:
        what = f"{self._program!r} ends as soon as it is started; is it a POSIX shell?"
        return RequestRefused(self._shells.sandbox, "run in a shell", errno.ESRCH, what)


__all__ = ["MAX_SHELLS", "Shell"]
