"""Dense rewards: progress paid as potential-based shaping, which changes no optimal policy.

With ``CodeEnv(reward="dense", gamma=g)`` each step from state s to state s' earns, on top of what it earns anyway,

    F(s, s') = g * Phi(s') - Phi(s),

where Phi(s) is the score that the task's grader would give to s, and Phi of the state after ``submit`` is 0 (Ng, Harada
and Russell, "Policy invariance under reward transformations", ICML 1999; that terminal states need 0: Grzes, "Reward
shaping in episodic reinforcement learning", AAMAS 2017). Discounted by g, the sum over T steps telescopes:

    submitted:  g^(T-1) * score - Phi(s_0)        truncated:  g^T * Phi(s_T) - Phi(s_0)

(and what malformed actions cost). A submission so earns its score less what it had been paid already, which can be
negative: ``info["score"]`` always has the score itself. A truncated episode keeps what its last state is worth, for a
truncation is no end of the task, and learners bootstrap there. An episode that a fault ended pays nothing at that step.

Phi comes from a copy. The state (all writable trees) is read out while the agent's processes go on undisturbed,
imported into another sandbox of the same kind, where nothing runs and no system file was changed, and graded there, as
``submit`` would. So the agent's sandbox never sees a grader at work, and what the agent's programs do when a grader
runs them happens in the copy. Nor need Phi be believed: whatever an agent does to make a state look better than it is
(or hard to read), each value that is added at one step is taken off at the next, so that the sum above stays what it
is; only the final score counts, which ``submit`` finds out as ever. A state that cannot be read because of the agent
(more than 256 MiB in one tree, or files that change faster than they can be read) counts as the one before.

Each state is digested, and one that was seen before is not graded again. Measured with the local launcher on a busy
machine of two cores, medians: a step of 1.1 ms takes 1.5 ms where it changed nothing, and 4.4 ms where it changed a
file (0.2 ms to digest, about 1 ms to read out, 0.5 ms to import, the rest to hand sandboxes out and back), and then the
grader its own time: next to nothing for task ``sort-numbers``, 53 ms for ``refactor-sqrt``, which runs programs.
Gradings wait for each other where there are more environments than processors: so many sandboxes are kept for them.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

from codecraft_async._episode import Episode, fault_outcome, grade_of
from codecraft_async._outcome import GraderFailed, Outcome
from codecraft_async._rules import Rules
from codecraft_curriculum import Task
from codecraft_pool import Checkpoint, Lease, PoolError, RequestRefused, Sandbox, SandboxLost, SandboxSpec, Snapshot

_MAX_TREE_BYTES: Final = 256 << 20
_MAX_STATES: Final = 1024

Lend = Callable[[SandboxSpec], Awaitable[Lease]]


class Potential:
    """What a task's grader thinks of the state of a sandbox, found out in another one that *lend* lends."""

    def __init__(self, lend: Lend) -> None:
        self._lend = lend
        self._known: OrderedDict[tuple[str, str], float] = OrderedDict()

    async def of(self, task: Task, sandbox: Sandbox, otherwise: float) -> float:
        """Return the score of what is in *sandbox* now, or *otherwise* if its agent keeps it from being read.

        Cancellation leaves nothing lent.

        Raises:
            SandboxLost, RequestRefused, LaunchError, AcquireTimeout: The sandbox failed, or two copies did.
            GraderFailed: The grader did.
        """
        try:
            state = task.id, (await sandbox.digest()).id
            known = self._known.get(state)
            if known is not None:
                self._known.move_to_end(state)
                return known
            checkpoint = await sandbox.snapshot(max_bytes=_MAX_TREE_BYTES)
        except RequestRefused:
            return otherwise
        try:
            score = await self._grade(task, sandbox.spec, checkpoint)
        except SandboxLost:  # not the agent's: another copy serves as well
            score = await self._grade(task, sandbox.spec, checkpoint)
        self._known[state] = score
        if len(self._known) > _MAX_STATES:
            self._known.popitem(last=False)
        return score

    async def _grade(self, task: Task, spec: SandboxSpec, checkpoint: Checkpoint) -> float:
        lease = await self._lend(spec)
        try:
            try:
                await lease.sandbox.restore(checkpoint)
            except BaseException:
                lease.sandbox.close()  # in an unknown state; the pool replaces it
                raise
            return float((await grade_of(task, lease.sandbox)).score)
        finally:
            lease.release()


class DenseEpisode(Episode):
    """An episode whose steps pay progress; see the module."""

    def __init__(
        self, task: Task, sandbox: Sandbox, rules: Rules, snapshot: Snapshot | None, potential: Potential
    ) -> None:
        super().__init__(task, sandbox, rules, snapshot)
        self._gamma = rules.gamma
        self._potential = potential
        self._phi: float | None = None

    def take_counts(self, other: Episode) -> None:
        """Have come as far as *other*, and been paid as much."""
        super().take_counts(other)
        if isinstance(other, DenseEpisode):
            self._phi = other._phi

    def lend_from(self, potential: Potential) -> None:
        """From now on have states graded by *potential*."""
        self._potential = potential

    async def step(self, text: str) -> Outcome:
        """Do what the agent's *text* says, and pay what that was worth."""
        if self._phi is None:
            before = await self._look(0.0, self.steps + 1)
            if isinstance(before, Outcome):
                return before
            self._phi = before
        outcome = await super().step(text)
        if not outcome.info["valid"]:
            return outcome
        after: float | Outcome = 0.0
        if not outcome.terminated:
            after = self._phi if outcome.info["malformed"] else await self._look(self._phi, self.steps)
        if isinstance(after, Outcome):
            return after
        outcome.reward += self._gamma * after - self._phi
        self._phi = after
        return outcome

    async def _look(self, otherwise: float, step: int) -> float | Outcome:
        """Return the potential of the state now; or, if it cannot be had, the end of the episode at *step*."""
        try:
            return await self._potential.of(self.task, self.sandbox, otherwise)
        except (PoolError, GraderFailed) as exc:
            return fault_outcome(self.task, step, exc)


def grading_sandboxes(rules: Rules, num_envs: int) -> int:
    """Return how many sandboxes so many environments need beside their own."""
    return min(num_envs, os.cpu_count() or 1) if rules.reward == "dense" else 0


__all__ = ["DenseEpisode", "Potential", "grading_sandboxes"]
