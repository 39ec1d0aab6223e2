"""``recover=True``: an episode that outlives its sandbox.

Everything the agent said since a moment that can be had again (the task's beginning, or a checkpoint) is kept. When the
sandbox is lost, another one is brought to that moment, and it is all said again there.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

from codecraft_async._episode import Episode, EpisodeError
from codecraft_async._outcome import Outcome
from codecraft_curriculum import Task
from codecraft_pool import Checkpoint, PoolError, RequestRefused, Sandbox, SandboxLost

_LOSSES_OF_ONE_ACTION: Final = 2
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """How an episode outlives its sandbox.

    Args:
        checkpoint_every: Take a checkpoint of the files after so many steps, so that fewer are said again; None: never.
            What runs is in no checkpoint, so one is taken only when nothing runs, and with a persistent shell not
            while that lives. It is kept in the memory of this process.
        max_checkpoint_bytes: Trees larger than that are in no checkpoint; what was kept before serves as well.
        max_recoveries: So many sandboxes may be lost in one episode; the next loss ends it.
        on_difference: What is done when something that was said again had another observation than before: "continue"
            (``info["recovery"]`` tells), or "fault": the episode ends.

    Raises:
        ValueError: An argument is wrong.
    """

    checkpoint_every: int | None = None
    max_checkpoint_bytes: int = 64 << 20
    max_recoveries: int = 3
    on_difference: Literal["continue", "fault"] = "continue"

    def __post_init__(self) -> None:
        for name in ("checkpoint_every", "max_checkpoint_bytes", "max_recoveries"):
            number: int | None = getattr(self, name)
            if number is not None and number < 1:
                raise ValueError(f"Recovery.{name} is {number}; it must be at least 1")
        if self.on_difference not in ("continue", "fault"):
            raise ValueError(f"Recovery.on_difference is {self.on_difference!r}; it must be 'continue' or 'fault'")


class RecoveryFailed(Exception):
    """The episode could not be brought back; says why."""


Replace = Callable[[Task, bool], Awaitable[Sandbox]]
"""Lets go of the sandbox at hand, and returns another, with the task's workspace or, if so told, an empty one."""


@dataclass(slots=True)
class _Said:
    """An action, what it came to (None if it was interrupted), and how many steps there were then."""

    text: str
    observation: str | None
    steps: int


class RecoverableEpisode:
    """Has the face of an `Episode`, and goes on in another sandbox when that of the one inside is lost.

    From the first recovery on, every info has ``recovered`` (True) and ``recovery``, a dict: ``count`` (int, sandboxes
    lost in the episode), ``sandbox`` and ``reason`` (str, of the last one), ``replayed`` (int, actions that were said
    again then), ``differed`` (int, how many of them had another observation than before), ``differing_steps`` (tuple
    of int, the steps of the first ten), ``interrupted`` (int, actions that were not said again because whoever waited
    for them had given up).
    """

    def __init__(
        self,
        episode: Episode,
        policy: Recovery,
        replace: Replace,
        *,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self.task = episode.task
        self._episode = episode
        self._policy = policy
        self._replace = replace
        # The moment that can be had again: the episode's state then, and its files if they are not the task's.
        self._base = episode.in_sandbox(episode.sandbox)
        self._checkpoint = checkpoint
        self._said: list[_Said] = []
        self._losses: Counter[int] = Counter()  # by the number of the action, from the beginning
        self._lost: set[str] = set()
        self._due = policy.checkpoint_every or 0  # so many actions after the base
        self._forgotten = 0  # actions before the base
        self._report: dict[str, Any] | None = None

    @property
    def steps(self) -> int:
        """As the episode's."""
        return self._episode.steps

    @property
    def episode(self) -> Episode:
        """The episode in the sandbox that it is in now."""
        return self._episode

    async def step(self, text: str) -> Outcome:
        """Do what the agent's *text* says, in one sandbox or another."""
        await self._keep_if_due()
        before = self._episode.in_sandbox(self._episode.sandbox)
        said = _Said(text, None, 0)
        self._said.append(said)
        outcome = await self._episode.step(text)
        while _is_lost(outcome):
            self._count_loss(outcome, len(self._said) - 1)
            # It may live, and will be another one's: if this is cancelled, the next step must not act in it.
            self._episode.sandbox.close()
            try:
                await self._bring_back(before)
            except RecoveryFailed as exc:
                outcome.info["fault"]["message"] += f"; not recovered: {exc}"
                break
            outcome = await self._episode.step(text)
        said.observation, said.steps = outcome.observation, self._episode.steps
        if self._report is not None:
            outcome.info["recovered"] = True
            outcome.info["recovery"] = dict(self._report)
        return outcome

    # --- what can be had again ---

    async def _keep_if_due(self) -> None:
        every = self._policy.checkpoint_every
        if every is None or len(self._said) < self._due:
            return
        try:
            if (await self._episode.sandbox.stat()).processes or await self._episode.sandbox.has_changed_system():
                return
            self._due = len(self._said) + every  # not at each step, should it be refused
            checkpoint = await self._episode.sandbox.snapshot(max_bytes=self._policy.max_checkpoint_bytes)
        except (SandboxLost, RequestRefused) as exc:  # the step will tell, or the moment before serves as well
            _logger.debug("no checkpoint of sandbox %s: %s", self._episode.sandbox.id, exc)
            return
        self._checkpoint = checkpoint
        self._base = self._episode.in_sandbox(self._episode.sandbox)
        self._forgotten += len(self._said)
        self._said.clear()
        self._due = every

    async def _bring_back(self, before: Episode) -> None:
        """Have the episode in another sandbox, as it was *before* the action that lost it.

        Raises:
            RecoveryFailed: It cannot be had.
        """
        while True:
            self._check_losses()
            try:
                sandbox = await self._replace(self.task, self._checkpoint is not None)
                episode = self._base.in_sandbox(sandbox, budgeted=False)
                if self._checkpoint is not None:
                    await sandbox.restore(self._checkpoint)
                else:
                    await episode.set_up()
                lost = await self._say_again(episode)
            except SandboxLost as exc:  # before anything was said in it
                self._lost.add(exc.sandbox)
                continue
            except (PoolError, EpisodeError) as exc:
                raise RecoveryFailed(f"another sandbox could not be had: {exc}") from exc
            if lost is None:
                break
            self._count_loss(*lost)
        # Counts and budgets are what they were; what is in the sandbox came of the same actions.
        episode.take_counts(before)
        self._episode = episode

    async def _say_again(self, episode: Episode) -> tuple[Outcome, int] | None:
        """Say all but the last action again; return what the loss of this sandbox came to, and where, or None."""
        assert self._report is not None
        differing: list[int] = []
        replayed = interrupted = 0
        for number, said in enumerate(self._said[:-1]):
            if said.observation is None:
                interrupted += 1
                continue
            outcome = await episode.step(said.text)
            if _is_lost(outcome):
                return outcome, number
            replayed += 1
            if outcome.observation != said.observation:
                differing.append(said.steps)
        self._report |= {
            "replayed": replayed,
            "differed": len(differing),
            "differing_steps": tuple(differing[:10]),
            "interrupted": interrupted,
        }
        if differing and self._policy.on_difference == "fault":
            raise RecoveryFailed(f"{len(differing)} of {replayed} actions had another observation than before")
        return None

    # --- when it is to end ---

    def _count_loss(self, outcome: Outcome, number: int) -> None:
        fault = outcome.info["fault"]
        self._losses[self._forgotten + number] += 1
        self._lost.add(fault["sandbox"])
        self._report = {
            "count": len(self._lost),
            "sandbox": fault["sandbox"],
            "reason": fault["message"],
            "replayed": 0,
            "differed": 0,
            "differing_steps": (),
            "interrupted": 0,
        }
        _logger.info("sandbox %s is lost in an episode of task %s", fault["sandbox"], self.task.id)

    def _check_losses(self) -> None:
        if self._losses and max(self._losses.values()) >= _LOSSES_OF_ONE_ACTION:
            raise RecoveryFailed("the same action has lost two sandboxes, so it would lose the next one, too")
        if len(self._lost) > self._policy.max_recoveries:
            raise RecoveryFailed(
                f"more than {self._policy.max_recoveries} sandboxes were lost, which is max_recoveries"
            )


def _is_lost(outcome: Outcome) -> bool:
    return "fault" in outcome.info and outcome.info["fault"]["kind"] == "sandbox"


def recovery_of(recover: bool | Recovery) -> Recovery | None:
    """Return how episodes outlive their sandboxes; None if they do not."""
    if isinstance(recover, Recovery):
        return recover
    return Recovery() if recover else None


__all__ = ["RecoverableEpisode", "Recovery", "recovery_of"]
