"""One episode: a task in a sandbox, from the restore to the grade."""

from __future__ import annotations

import asyncio
import time
from copy import copy
from typing import Any, Final

import numpy as np

from codecraft_async._budget import Budget
from codecraft_async._observation import clip, decode, describe
from codecraft_async._outcome import GraderFailed, Outcome, Truncation, empty_info, tell_fault
from codecraft_async._rules import Rules
from codecraft_async.actions import Command, Malformed, Reset, ShellActions, Submit, WriteFile, form_of, read_action
from codecraft_curriculum import Grade, Task
from codecraft_pool import CommandResult, PoolError, RequestRefused, Sandbox, SandboxLost, Shell, Snapshot

_SETUP_LIMIT_S: Final = 60.0
_GRADE_LIMIT_S: Final = 120.0
_SUCCESS: Final = np.int64(0)


class EpisodeError(Exception):
    """An episode could not begin because of its task, not because of its sandbox or its agent."""


class Episode:
    """Begins, takes actions, and is graded; faults become outcomes, never rewards.

    *snapshot* is that of the task's workspace, which the sandbox holds when the episode begins.
    """

    def __init__(self, task: Task, sandbox: Sandbox, rules: Rules, snapshot: Snapshot | None = None) -> None:
        self.task = task
        self.steps = 0
        self.sandbox = sandbox
        self._rules = rules
        self._snapshot = snapshot
        self._parser = rules.parser
        # Ended by the restore of the next episode, like everything else that runs.
        self._shell: Shell | None = (
            sandbox.shell(shell=task.shell, merge_stderr=True) if rules.shell == "persistent" else None
        )
        self._max_steps = rules.max_episode_steps or task.max_steps
        self._max_chars = rules.max_observation_chars
        self._strip_for = rules.max_observation_chars if rules.ansi == "strip" else None
        self._malformed_in_a_row = 0
        self._is_submitted = False
        self._blank = empty_info(task.id)
        self._budget: Budget | None = None

    async def begin(self, *, restore_s: float) -> Outcome:
        """Run the task's set-up, and return the first observation.

        The sandbox holds the task's workspace; *restore_s* is how long the restore to it took, in seconds.

        Raises:
            SandboxLost, RequestRefused: The sandbox failed; another one may not.
            EpisodeError: A set-up command failed.
        """
        await self.set_up()
        rules = self._rules
        if rules.wall_budget_s is not None or rules.cpu_budget_s is not None:
            self._budget = Budget(rules.wall_budget_s, rules.cpu_budget_s)
        info = self._info()
        info["wall_s"] = np.float64(restore_s)
        return Outcome(clip(_instruction(self.task, rules), rules.max_observation_chars), info)

    async def set_up(self) -> None:
        """Run the task's set-up. Raises as `begin`."""
        for command in self.task.setup:
            result = await self.sandbox.run(command, shell=self.task.shell, limit_s=_SETUP_LIMIT_S)
            if result.exit_code != 0:
                said = decode(result.stderr)[-500:].strip()
                raise EpisodeError(
                    f"task {self.task.id!r}: its set-up {command!r} ended with {result.exit_code}: {said}"
                )

    def in_sandbox(self, sandbox: Sandbox, *, budgeted: bool = True) -> Episode:
        """Return the same episode, as far as it has come, in a sandbox that the caller brings to where this one's is.

        Each of the two counts for itself from now on. A persistent shell begins anew. Not *budgeted*, nothing that is
        done counts against the budgets.
        """
        other = copy(self)
        other.sandbox = sandbox
        other._budget = copy(self._budget) if budgeted else None
        if self._shell is not None:
            other._shell = sandbox.shell(shell=self.task.shell, merge_stderr=True)
        return other

    def take_counts(self, other: Episode) -> None:
        """Have come as far as *other*: steps, malformed actions and budgets."""
        self.steps = other.steps
        self._malformed_in_a_row = other._malformed_in_a_row
        self._is_submitted = other._is_submitted
        self._budget = other._budget

    async def step(self, text: str) -> Outcome:
        """Do what the agent's *text* says."""
        budget = self._budget
        if budget is not None:
            spent = budget.spent()
            if spent:
                self.steps += 1
                return self._step_outcome(budget.say(spent), self._info())
        # A grading that was cancelled has shown the agent's programs what they are tested with.
        action = Submit() if self._is_submitted else read_action(self._parser, text)
        if not isinstance(action, Command):
            if isinstance(action, Reset) and not self._rules.allow_reset:
                action = Malformed("the workspace cannot be reset here")
            if isinstance(action, Malformed):
                return self._refuse(action)
        self._malformed_in_a_row = 0
        self.steps += 1
        try:
            if isinstance(action, Command):
                return await self._run(action.text)
            if isinstance(action, WriteFile):
                return await self._write(action)
            if isinstance(action, Submit):
                return await self._submit()
            return await self._start_over()
        except (SandboxLost, RequestRefused, EpisodeError, GraderFailed) as exc:
            return fault_outcome(self.task, self.steps, exc, sandbox=self.sandbox.id)

    async def _run(self, command: str) -> Outcome:
        limits, budget = self.task.limits, self._budget
        limit_s, cpu_limit_s = limits.command_limit_s, None
        if budget is not None:
            limit_s, cpu_limit_s = budget.command_limit_s(limit_s), budget.cpu_limit_s()
        try:
            if self._shell is not None:
                result = await self._shell.run(
                    command, limit_s=limit_s, max_output_bytes=limits.max_output_bytes, cpu_limit_s=cpu_limit_s
                )
            else:
                result = await self.sandbox.run(
                    command,
                    shell=self.task.shell,
                    limit_s=limit_s,
                    max_output_bytes=limits.max_output_bytes,
                    merge_stderr=True,
                    cpu_limit_s=cpu_limit_s,
                )
        except RequestRefused as exc:  # such as a workspace that the agent itself has closed: its own doing
            return self._step_outcome(f"cannot run the command: {_why(exc)}", self._info())
        if budget is not None:
            budget.charge(result)
        text = describe(
            result,
            limit_s=limit_s,
            max_output_bytes=limits.max_output_bytes,
            strip_for=self._strip_for,
        )
        return self._step_outcome(text, self._command_info(result))

    async def _write(self, action: WriteFile) -> Outcome:
        try:
            await self.sandbox.write_file(action.path.removeprefix("/workspace/"), action.data)
        except RequestRefused as exc:
            return self._step_outcome(f"cannot write the file: {_why(exc)}", self._info())
        return self._step_outcome(f"wrote {len(action.data)} bytes to {action.path}", self._info())

    async def _start_over(self) -> Outcome:
        await self.sandbox.restore(self._snapshot)
        await self.set_up()
        return self._step_outcome("the workspace is what it was at the beginning", self._info())

    async def _submit(self) -> Outcome:
        """End every process, then grade what is left in the trees, with programs that no agent had its hands on."""
        began = time.perf_counter()
        self._is_submitted = True
        await self.sandbox.end_processes(keep_system=False)
        grade = await grade_of(self.task, self.sandbox)
        info = self._info()
        info["wall_s"] = np.float64(time.perf_counter() - began)
        info["graded"] = True
        info["score"] = np.float64(grade.score)
        info["reason"] = grade.reason
        # The reason may quote what was expected; an observation of it could be learnt by heart.
        said = clip(f"score {grade.score:g}", self._rules.max_observation_chars)
        return Outcome(said, info, reward=float(grade.score), terminated=True)

    def _refuse(self, action: Malformed) -> Outcome:
        rules, form = self._rules, form_of(self._parser)
        self._malformed_in_a_row += 1
        is_free = self._malformed_in_a_row <= rules.malformed_retries
        if not is_free:
            self.steps += 1
        info = self._info()
        info["malformed"] = True
        info["retry"] = is_free
        outcome = self._step_outcome(f"{action.problem}\n\n{form}" if form else action.problem, info)
        outcome.reward = rules.malformed_reward
        return outcome

    def _step_outcome(self, text: str, info: dict[str, Any]) -> Outcome:
        why: Truncation = "" if self._budget is None else self._budget.spent()
        if not why and self.steps >= self._max_steps:
            why = "max_episode_steps"
        info["truncation"] = why
        if len(text) > self._max_chars:
            text = clip(text, self._max_chars)
        return Outcome(text, info, truncated=why != "")

    def _info(self) -> dict[str, Any]:
        info = self._blank.copy()
        info["steps"] = np.int64(self.steps)
        return info

    def _command_info(self, result: CommandResult) -> dict[str, Any]:
        info = self._info()
        info["exit_code"] = np.int64(result.exit_code) if result.exit_code else _SUCCESS
        if result.signal:
            info["signal"] = np.int64(result.signal)
        info["timed_out"] = result.timed_out
        info["truncated_output"] = result.truncated
        info["wall_s"] = np.float64(result.wall_s)
        info["cpu_s"] = np.float64(result.user_s + result.system_s)
        return info


class NoEpisode:
    """Stands for an episode that has no sandbox: whatever is done, it ends with the fault that kept it from beginning.

    For batches, in which the reset of one environment must not fail those of the others.
    """

    def __init__(self, task: Task, error: PoolError) -> None:
        self.task = task
        self.steps = 0
        self._error = error

    def begin(self) -> Outcome:
        """Return what the reset comes to."""
        return Outcome("", tell_fault(empty_info(self.task.id), self._error))

    async def step(self, text: str) -> Outcome:
        """Return the end of the episode."""
        del text
        self.steps += 1
        return fault_outcome(self.task, self.steps, self._error)


def fault_outcome(task: Task, steps: int, error: Exception, *, sandbox: str = "") -> Outcome:
    """Return the end of an episode by a fault, in *sandbox* unless *error* names another."""
    info = empty_info(task.id)
    info["steps"] = np.int64(steps)
    info["truncation"] = "fault"
    return Outcome("", tell_fault(info, error, sandbox=sandbox), truncated=True)


async def grade_of(task: Task, sandbox: Sandbox) -> Grade:
    """Return the grade of what is in *sandbox*, where nothing of the agent's runs any more.

    Raises:
        SandboxLost: It died.
        GraderFailed: The grader crashed, took too long, or returned no `Grade`, whose score is in [0, 1].
    """
    try:
        async with asyncio.timeout(_GRADE_LIMIT_S):
            grade = await task.grader.grade(sandbox)
        if not isinstance(grade, Grade):  # pyright: ignore[reportUnnecessaryIsInstance]  # graders are code of users
            raise TypeError(f"a grader must return a Grade, this one returned {grade!r}")
    except SandboxLost:
        raise
    except Exception as exc:  # whatever it raises is a fault, never a reward
        raise GraderFailed(exc, sandbox.id) from exc
    return grade


def _why(refusal: RequestRefused) -> str:
    """Return why a request was refused, without the name of the sandbox: what is done again reads the same."""
    message = str(refusal.strerror)
    return message.partition(": ")[2] or message


def _instruction(task: Task, rules: Rules) -> str:
    where = (
        "in one shell that starts in /workspace and keeps its state"
        if rules.shell == "persistent"
        else "in /workspace in a shell of its own"
    )
    how = f"Commands run {where}."
    if isinstance(rules.parser, ShellActions):
        how = (
            f"Each action is a shell command, run {where}. "
            "The action 'submit' ends the episode and has the work graded."
        )
        if rules.allow_reset:
            how += " The action 'reset' brings the workspace back to what it is now."
    elif form_of(rules.parser):
        how = f"{form_of(rules.parser)}\n\n{how}"
    return f"{task.title}\n\n{task.instruction.strip()}\n\n{how}"


__all__ = ["Episode", "EpisodeError", "NoEpisode", "fault_outcome", "grade_of"]
