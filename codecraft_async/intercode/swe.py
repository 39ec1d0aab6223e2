"""`SweEnv`: a repository with an issue; the agent mends it, and the tests of the real solution tell whether it did."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar, Final, Literal

import numpy as np

from codecraft_async._episode import EpisodeError
from codecraft_async._outcome import Outcome
from codecraft_async._tenant import LEND_LIMIT_S
from codecraft_async.intercode.base import InterCodeEnv
from codecraft_async.intercode.swe_changes import ChangesTooLarge, Files, changed_files
from codecraft_async.intercode.swe_checkouts import Sources, source_of
from codecraft_async.intercode.swe_judge import CorruptRow, Judge, Reference, References, Verdict, prepare
from codecraft_async.intercode.swe_rows import DEFAULT_COMMAND, SWE_NAMES, SweTask
from codecraft_async.intercode.swe_tests import LogParser
from codecraft_async.intercode.terminal import Bash
from codecraft_async.intercode.vector import InterCodeVectorEnv
from codecraft_async.runtime import sandbox_spec
from codecraft_pool import WORKSPACE, RequestRefused, Sandbox, Snapshot

__all__ = ["SweEnv", "SweVectorEnv"]

_REWARDS: Final = ("strict", "share")
_SPARE: Final = 0.75  # of a workspace: the rest is for what is made there
_SHOWN: Final = 300
_QUEUE: Final = 6  # how many runs of tests a submission may have to wait for: those of the others that share a sandbox


class SweEnv(InterCodeEnv):
    """InterCode's software engineering environment, complete: an issue in a repository at a commit, as in SWE-bench.

    Rows have SWE-bench's fields (see the README beside this file). Commands run in one bash as the agent's user, in
    ``/workspace``, which is a checkout of the base commit with a git of its own that knows nothing of later ones. A
    submission takes over what was changed there, as the guest tells it, into a sandbox that no agent has used, puts
    everything back by which the tests are run, and runs them.

    `info` has, besides the base's keys, after a submission ``resolved`` (bool), ``fail_to_pass`` and ``pass_to_pass``
    (int64, how many of the lists pass), ``patch`` (str, what was changed, as ``git diff`` writes it), ``not_counted``
    (list of str: changed files that belong to the tests), ``reason`` (str, why it is not resolved), and ``agent_obs``
    and ``eval_obs``: what each test came to with the agent's changes and with the gold's, as JSON.

    Args:
        repositories: Where repositories are: ``{"owner/name": path or URL}``, or one for all, with ``{repo}`` where the
            name is to be put, or ``{slug}`` (``owner__name``). A path is a repository or a bundle.
        reward: "strict": 1 if all tests pass, else 0, as SWE-bench counts. "share": also what is on the way there, from
            0 for doing nothing.
        history: How many commits up to the base commit the agent's git knows; None: all of them.
        test_cmd: How tests are run where a row does not say it: a command for all, or by the names of repositories.
        test_limit_s: How long the tests may take, in seconds.
        parsers: For rows whose ``test_cmd`` is neither pytest nor unittest: by the row's ``log_parser``, a function
            that reads what the command prints, and says of each test whether it passed.
        references: What is known of rows already, shared with other environments of this event loop and image.
        options: All those of `InterCodeEnv`.

    Raises:
        ValueError, TaskFileError: An argument is wrong; says which and what is allowed.
    """

    name: ClassVar[str] = "ic_swe"
    default_image: ClassVar[str] = "codecraft/swe"
    evaluates: ClassVar[bool] = True
    field_names: ClassVar[Mapping[str, str]] = SWE_NAMES

    def __init__(
        self,
        *args: Any,
        repositories: Sources = "https://github.com/{repo}.git",
        reward: Literal["strict", "share"] = "strict",
        history: int | None = 1,
        test_cmd: str | Mapping[str, str] = DEFAULT_COMMAND,
        test_limit_s: float = 600.0,
        parsers: Mapping[str, LogParser] | None = None,
        references: References | None = None,
        **options: Any,
    ) -> None:
        if reward not in _REWARDS:
            raise ValueError(f"reward is {reward!r}; it must be 'strict' or 'share'")
        if history is not None and history < 1:
            raise ValueError(f"history is {history}; it must be at least 1, or None for all")
        if not test_limit_s > 0:
            raise ValueError(f"test_limit_s is {test_limit_s}; it must be more than 0")
        super().__init__(*args, **options)
        self._sources = repositories
        self._form = reward
        self._history = history
        self._test_cmd = test_cmd
        self._test_limit_s = test_limit_s
        self._parsers = dict(parsers or {})
        self._references = references or References()
        self._task: SweTask | None = None
        self._base: Snapshot | None = None
        self._bash: Bash | None = None
        self._tried: tuple[Files, Verdict] | None = None

    @classmethod
    def shared_options(cls) -> dict[str, Any]:
        """Return what is known of rows, and the repositories, for all environments of a vector environment."""
        return {"references": References()}

    async def first_snapshot(self) -> Snapshot | None:
        """Return the repository at the base commit.

        Raises:
            EpisodeError: The row is wrong, or its repository cannot be had.
        """
        self._task, self._base = None, None
        if self.record is None:
            return None
        task = SweTask.from_record(self.record, self._test_cmd)
        source = source_of(self._sources, task.repo)
        base = await self._references.checkouts.snapshot(source, task.base_commit, history=self._history)
        size = sum(len(entry.data) for entry in base.entries.values())
        room = sandbox_spec(self._place).tree_limit_bytes(WORKSPACE)
        if size > room * _SPARE:
            raise EpisodeError(
                f"{task.repo} at {task.base_commit[:12]} has {size} bytes, too much for a workspace of {room}: give "
                "limits=TaskLimits(memory_bytes=...)"
            )
        self._task, self._base = task, base
        return base

    async def reset_container(self) -> None:
        """Make the checkout ready, and start the shell."""
        self._tried = None
        self._bash = None  # the one before has ended with its sandbox's restore
        if self._task is not None:
            try:
                await prepare(self.sandbox, self._task)
            except CorruptRow as exc:
                raise EpisodeError(f"{self._task.id}: {exc}") from exc
        self._bash = await Bash.open(self.sandbox, cwd=WORKSPACE, user="agent")

    async def execute_action(self, action: str) -> str:
        """Run a command; what it prints is observed, stderr in stdout.

        Raises:
            SandboxLost: The sandbox died.
        """
        assert self._bash is not None  # reset_container has run
        return await self._bash.run(action, self.info, limit_s=self.command_limit_s)

    async def get_reward(self) -> tuple[float, dict[str, Any]]:
        """Try what was changed."""
        assert self._task is not None and self._base is not None  # there is data
        details: dict[str, Any] = {"agent_obs": "{}", "eval_obs": "{}", "resolved": False, "patch": "", "reason": ""}
        details.update(fail_to_pass=np.int64(0), pass_to_pass=np.int64(0), not_counted=list[str]())
        judge = Judge(self._task, self._base, self._borrow, limit_s=self._test_limit_s, parsers=self._parsers)
        try:
            reference = await self._references.get(judge)
        except CorruptRow as exc:
            return 0.0, {**details, "corrupt_gold": True, "reason": f"the row is wrong: {exc}"}
        try:
            changes = await self._changes(reference)
        except (ChangesTooLarge, RequestRefused) as exc:
            return 0.0, {**details, "reason": f"what was changed cannot be graded: {str(exc)[:_SHOWN]}"}
        if self._tried is None or self._tried[0] != changes:
            verdict = await judge.grade(reference, changes) if changes else reference.nothing
            assert verdict is not None  # it has been found out
            self._tried = changes, verdict
        verdict = self._tried[1]
        details.update(_told(self._task, reference, verdict))
        if self._form == "share":
            return reference.share(self._task, verdict), details
        return float(details["resolved"]), details

    async def _changes(self, reference: Reference) -> Files:
        try:
            return await changed_files(self.sandbox, reference.before)
        except RequestRefused:  # such as a tree that does not keep still
            await self.sandbox.end_processes()
            return await changed_files(self.sandbox, reference.before)

    async def _submit(self, action: str) -> Outcome:
        await self.sandbox.end_processes()  # what still runs does not change what is graded
        return await super()._submit(action)

    def _borrow(self) -> AbstractAsyncContextManager[Sandbox]:
        limit_s = _QUEUE * (self._test_limit_s + LEND_LIMIT_S)
        return self.evaluation_sandbox(self._base, limit_s=limit_s)


class SweVectorEnv(InterCodeVectorEnv):
    """Many `SweEnv`s over one pool; see `InterCodeVectorEnv`."""

    env_class: ClassVar[type[InterCodeEnv] | None] = SweEnv


def _told(task: SweTask, reference: Reference, verdict: Verdict) -> dict[str, Any]:
    """Return what `info` says of a verdict."""
    names = (*task.fail_to_pass, *task.pass_to_pass)
    gold: Mapping[str, str] = {} if reference.gold is None else reference.gold.run.outcomes
    return {
        "resolved": not verdict.reason,
        "fail_to_pass": np.int64(len(verdict.passed.intersection(task.fail_to_pass))),
        "pass_to_pass": np.int64(len(verdict.passed.intersection(task.pass_to_pass))),
        "patch": verdict.patch,
        "not_counted": list(verdict.not_counted),
        "reason": verdict.reason,
        "agent_obs": json.dumps({name: verdict.run.outcomes.get(name, "missing") for name in names}),
        "eval_obs": json.dumps({name: gold.get(name, "missing") for name in names} if gold else {}),
    }
