"""A persistent Python interpreter in a sandbox: what an action defines is there for the next one.

The program inside is the package `codecraft_async.intercode.inside`. It is sent along as text, so an image needs a
Python of 3.11 or later and nothing else.
"""

from __future__ import annotations

import asyncio
import errno
import json
import secrets
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from itertools import count
from typing import Final, Literal, cast

from codecraft_async._episode import EpisodeError
from codecraft_async.intercode.inside import program
from codecraft_async.pool import WORKSPACE, CommandResult, RequestRefused, Sandbox

__all__ = ["USUAL_MODULES", "Execution", "Interpreter", "InterpreterUnavailable", "Value"]

USUAL_MODULES: Final = (
    "array bisect cmath collections copy datetime functools heapq itertools math operator random re string typing"
).split()
"""What every interpreter has loaded before the first action; actions import them still, which then takes no time.

They are loaded once for each episode: a heavier one costs them all.
"""

Value = object
"""A value as JSON that says its types; see `inside.values`."""

State = Literal["kept", "restored", "lost"]

_REPORT_BYTES: Final = 320 << 10
_SPARE_S: Final = 8.0  # for what the server does after the limits, on a machine that is busy
_DEPTH_MAX: Final = 400  # what `inside.values` makes is less deep; what an action forges could not be sent on
_INTERRUPTED: Final = "Interrupted"
_PARTS: Final = ("wire", "values", "actions", "server")  # in the order in which they need each other


class InterpreterUnavailable(EpisodeError):
    """The sandbox has no Python that works: the image's fault, or that of an agent that left no room for a process."""

    def __init__(self, sandbox: str, python: str, reason: str) -> None:
        super().__init__(
            f"no interpreter can be started in sandbox {sandbox}: {reason}; {python!r} must be Python 3.11 or later"
        )
        self.sandbox = sandbox
        self.python = python


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """What an action came to. All of it is the word of the sandbox.

    `raised` is the type of the exception that ended the action ("" if none did), `message` its text and `traceback`
    what Python would print of it. `timed_out`: it reached its time limit; `truncated`: it printed more than it may;
    `died`: the process that ran it ended (a crash, ``os._exit``, the end of the memory or of an action that could not
    be interrupted otherwise).

    `state` is what became of the definitions: "kept" (as the action left them), "restored" (as they were before it),
    "lost" (the next action finds a fresh interpreter). `restarted`: this action has found one, for what was there
    before has been lost meanwhile. `value` is that of the expression, if one was asked for.
    """

    stdout: str
    stderr: str
    raised: str = ""
    message: str = ""
    traceback: str = ""
    timed_out: bool = False
    truncated: bool = False
    died: bool = False
    state: State = "kept"
    restarted: bool = False
    value: Value = None
    wall_s: float = 0.0
    cpu_s: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the action came to its end."""
        return not (self.raised or self.timed_out or self.died)


class Interpreter:
    """Runs Python in one namespace of *sandbox*, as its user. One action at a time.

    Starting takes as long as Python does, with *preload* imported; `fresh` a few milliseconds, for it forks. An action
    that is killed (it cannot be interrupted, uses up the memory, crashes) is undone: definitions are as they were
    before it, files are not. They are lost where threads or child processes of earlier actions were still alive. For
    that, each action runs in a fork of the process of the one before: process ids and file locks do not last.

    A restore of the sandbox ends it; the next action then starts it anew, with nothing defined. Use it with ``async
    with``, or call `aclose`.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        *,
        python: str = "python3",
        cwd: str = WORKSPACE,
        env: Mapping[str, str] | None = None,
        preload: Sequence[str] = USUAL_MODULES,
    ) -> None:
        self._sandbox = sandbox
        self._python = python
        argv = (python, "-I", "-c", program(*_PARTS), " ".join(preload))
        self._shell = sandbox.shell(shell=argv, cwd=cwd, env=env)
        self._seat = 0
        self._seats = count(1)
        self._fresh = True  # also while an action runs: when it is cut off, nothing is left to go on with
        self._unsure = False

    def __repr__(self) -> str:
        return f"<Interpreter {self._python} of {self._sandbox.id} {'ended' if self._shell.ended else 'alive'}>"

    async def __aenter__(self) -> Interpreter:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def start(self) -> None:
        """Start it; it goes on starting while something else is done, and the first action waits for it.

        Raises:
            InterpreterUnavailable: The sandbox has no such program.
        """
        try:
            await self._shell.__aenter__()
        except RequestRefused as exc:
            raise self._unavailable(exc) from exc

    async def aclose(self) -> None:
        """End it and everything that it has started. Idempotent."""
        await self._shell.aclose()

    def beside(self) -> Interpreter:
        """Return another one, with definitions of its own, that ends with this one and costs a fork.

        Both are at one action at a time, together.
        """
        other = copy(self)
        other._seat = next(self._seats)
        other._fresh, other._unsure = True, False
        return other

    async def fresh(self, *, limit_s: float = 10.0) -> None:
        """Have the next action find nothing defined; returns when the new interpreter is there."""
        self._fresh, self._unsure = True, False
        await self._ask({}, limit_s=limit_s)

    async def run(
        self,
        source: str,
        *,
        show: bool = True,
        expression: str = "",
        values: Mapping[str, Value] | None = None,
        only_definitions: bool = False,
        trial: bool = False,
        limit_s: float = 10.0,
        grace_s: float = 2.0,
        max_output_bytes: int = 64 << 10,
    ) -> Execution:
        """Run *source* and return what it came to.

        With *show* the value of an expression at its end is printed, as by ``print(expression)``: of a lone one always,
        after other statements unless it is None. With *expression*, its value after *source* is in the result.
        *values* are names to define first. With *only_definitions*, functions, classes and imports of the top level are
        run and nothing else. A *trial* leaves nothing behind, as if it had never run (files excepted).

        After *limit_s* seconds the action is interrupted by an exception, and killed if that has not helped *grace_s*
        seconds later. Cancellation kills it.

        Raises:
            ValueError: A limit is not positive.
            InterpreterUnavailable: The sandbox has no Python that works.
            RequestRefused: *source* is too long (over 4 MiB as JSON).
            SandboxLost: The sandbox died.
        """
        if not (limit_s > 0 and grace_s > 0 and max_output_bytes > 0):
            raise ValueError(f"{limit_s=}, {grace_s=} and {max_output_bytes=} must be over 0")
        return await self._ask(
            {
                "source": source,
                "show": show,
                "expression": expression,
                "values": dict(values or {}),
                "only_definitions": only_definitions,
                "trial": trial,
                "limit_s": limit_s,
                "grace_s": grace_s,
                "max_output_bytes": max_output_bytes,
            },
            limit_s=limit_s + grace_s,
            max_output_bytes=max_output_bytes,
        )

    def _unavailable(self, reason: RequestRefused) -> InterpreterUnavailable:
        return InterpreterUnavailable(self._sandbox.id, self._python, str(reason))

    async def _ask(self, request: Mapping[str, object], *, limit_s: float, max_output_bytes: int = 0) -> Execution:
        mark = secrets.token_hex(8)
        asked, self._fresh = self._fresh, True
        text = json.dumps({"mark": mark, "seat": self._seat, "fresh": asked, "source": None, **request})
        limit_bytes = max_output_bytes + _REPORT_BYTES
        try:
            result = await self._shell.run(text, limit_s=limit_s + _SPARE_S, max_output_bytes=limit_bytes)
        except asyncio.CancelledError:
            self._unsure = not asked
            raise
        except RequestRefused as exc:
            if exc.errno == errno.E2BIG:
                self._fresh = asked
                raise
            raise self._unavailable(exc) from exc
        execution = _execution(result, mark.encode())
        self._fresh = execution.state == "lost"
        restarted = self._unsure or (execution.restarted and not asked)
        self._unsure = False
        return replace(execution, restarted=restarted)


def _execution(result: CommandResult, mark: bytes) -> Execution:
    before, _, rest = result.stdout.partition(mark)
    data, closed, after = rest.partition(mark)
    report = _report(data) if closed else None
    stdout, stderr = _text(before + after), _text(result.stderr)
    if report is None:  # it was ended from outside, or has ended its own server
        return Execution(
            stdout=stdout,
            stderr=stderr,
            timed_out=result.timed_out,
            truncated=result.truncated,
            died=True,
            state="lost",
            wall_s=result.wall_s,
        )
    ended = "ended" in report
    timed_out = result.timed_out or report.get("interrupted") is True
    raised, message = _word(report, "raised"), _word(report, "message")
    if timed_out and raised == _INTERRUPTED:  # which is how it was ended, and says no more
        raised = message = ""
    cpu_s = report.get("cpu_s")
    return Execution(
        stdout=stdout,
        stderr=stderr,
        raised=raised,
        message=message,
        traceback=_word(report, "traceback"),
        timed_out=timed_out,
        truncated=result.truncated or report.get("overflow") is True,
        died=ended,
        state="kept" if not ended else "restored" if report.get("restored") is True else "lost",
        restarted=report.get("new") is True,
        value=report.get("value"),
        wall_s=result.wall_s,
        cpu_s=cpu_s if isinstance(cpu_s, float) else 0.0,
    )


def _report(data: bytes) -> dict[str, object] | None:
    """Return the report in *data*, or None: an action may have written anything there."""
    try:
        report = cast(object, json.loads(data))
    except (ValueError, RecursionError):
        return None
    if not isinstance(report, dict) or _depth_is_over(_DEPTH_MAX, report):  # pyright: ignore[reportUnknownArgumentType]
        return None
    return cast(dict[str, object], report)


def _depth_is_over(levels: int, value: object) -> bool:
    layer: list[object] = [value]
    for _ in range(levels):
        inner: list[object] = []
        for each in layer:
            if isinstance(each, dict):
                inner += cast(dict[str, object], each).values()
            elif isinstance(each, list):
                inner += cast(list[object], each)
        if not inner:
            return False
        layer = inner
    return True


def _word(report: Mapping[str, object], name: str) -> str:
    value = report.get(name, "")
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else ""


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")
