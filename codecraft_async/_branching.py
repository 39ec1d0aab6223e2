"""Branches: an environment goes on from where another one's episode is, and both have futures of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from codecraft_async._episode import Episode
from codecraft_async._outcome import Outcome
from codecraft_async._rules import Rules, rule_options
from codecraft_async._trajectory_lines import Branch
from codecraft_pool import Checkpoint
from codecraft_pool._aio import finish
from codecraft_pool.pool_fork import take_checkpoint

# What a branch was not a part of, and does not go on telling.
_OF_THE_ORIGINAL: Final = ("recovered", "recovery", "branch")


@dataclass(frozen=True, slots=True)
class Cutting:
    """An episode at one moment, from which others can grow: belongs to no event loop and to no sandbox.

    `processes` is how many were running, which no branch has.
    """

    episode: Episode
    checkpoint: Checkpoint
    rules: Rules
    latest: Outcome
    processes: int
    place: Branch | None

    def outcome(self) -> Outcome:
        """Return what a branch begins with: what the original's last step came to, and what is no part of the copy."""
        info = {key: deepcopy(value) for key, value in self.latest.info.items() if key not in _OF_THE_ORIGINAL}
        has_state = self.rules.shell == "persistent" and self.episode.steps > 0
        info["branch"] = {"processes": self.processes, "shell": has_state}
        return Outcome(self.latest.observation, info)

    def check(self, rules: Rules) -> None:
        """Refuse an environment in which the episode would go on by other rules.

        Raises:
            ValueError: Says which rule differs.
        """
        mine, others = rule_options(rules), rule_options(self.rules)
        for name, value in mine.items():
            if value != others[name]:
                raise ValueError(
                    f"an episode cannot go on by other rules: {name} is {others[name]!r} where it comes from, and "
                    f"{value!r} here; make both environments with the same options"
                )


T = TypeVar("T")


class Shared(Generic[T]):
    """One piece of work for all who ask while it is done; it is cancelled with the last of them."""

    def __init__(self) -> None:
        self._task: asyncio.Task[T] | None = None
        self._waiting = 0

    async def join(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return what *work* comes to, or what is being done already. Raises what that raises."""
        if self._task is None or self._task.done():
            self._task, self._waiting = asyncio.create_task(work()), 0
        task = self._task
        self._waiting += 1
        try:
            return await asyncio.shield(task)
        finally:
            self._waiting -= 1
            if not self._waiting and not task.done():
                task.cancel()
                await finish(asyncio.wait([task]))
            if task.done() and not task.cancelled():
                task.exception()  # retrieved, where nobody waits for it any more


async def cut(episode: Episode, rules: Rules, latest: Outcome, place: Branch | None) -> Cutting:
    """Return what branches of *episode* grow from; the episode itself goes on undisturbed.

    Raises:
        PoolError: Its commands have changed the root file system, which no checkpoint has.
        RequestRefused, SandboxLost: The sandbox could not be copied.
    """
    sandbox = episode.sandbox
    checkpoint = await take_checkpoint(sandbox)
    processes = (await sandbox.stat()).processes
    return Cutting(episode.in_sandbox(sandbox), checkpoint, rules, latest, processes, place)


__all__ = ["Cutting", "Shared", "cut"]
