"""`CtfEnv`: capture-the-flag tasks, whose flags pay; their files, set-up and hints."""

from __future__ import annotations

import asyncio
import errno
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import numpy as np

from codecraft_async._episode import EpisodeError
from codecraft_async._outcome import Outcome
from codecraft_async.intercode import ctf_assets
from codecraft_async.intercode.base import InterCodeEnv
from codecraft_async.intercode.ctf_data import CtfDataset, CtfTask
from codecraft_async.intercode.terminal import BASH, ROOT, Bash, SeparateCommands, run_words
from codecraft_async.intercode.vector import InterCodeVectorEnv
from codecraft_curriculum import Dataset, RandomSource, Record
from codecraft_pool import CommandResult, Recipe, RequestRefused

__all__ = ["CtfEnv", "CtfVectorEnv"]

_HINT: Final = "hint"
_DIRECT: Final = ("python -c", "python3 -c")
_MAX_SEED: Final = 1 << 62
_MAX_SETUP_BYTES: Final = 8 << 20
_WHERE: Final = "printf '\\0%s\\0' \"$PWD\""


class CtfEnv(InterCodeEnv):
    """InterCode's capture-the-flag environment: ``submit FLAG`` pays 1 if it is the task's flag.

    The files of a task are in ``/ctf/{task_id}``, where actions begin. They run as an unprivileged user in one bash,
    so that ``cd`` and variables last. Root has run the task's ``setup`` before: servers that it started live through
    the episode, and what root alone can read is out of the agent's reach. A reset undoes all that either did, anywhere.

    `info` has, besides the base's keys, ``task_id`` and ``tags`` (str, with commas), ``hints`` and ``hints_left``
    (int64); after a submission ``agent_obs`` (what was submitted), ``eval_obs`` (the flag, if anything was submitted)
    and ``reward``, a dict: "flag" (1 or 0) and "hints" (what they cost). Before, the flag is nowhere.

    Args:
        image_name: An image with a bash and tar, or a recipe; `assets_image` makes one that holds the assets.
        data_path: A file, a `Dataset` or a `CtfDataset`; see `CtfDataset.read`. "builtin": six tasks of this package.
        assets_dir: A directory with one for each task, named by its id; None: they are in the image.
        exclude: Tasks to be left out, by their ids, with the reason.
        reward: "strict": the whole rest of the line has to be the flag. "intercode": its second word, in any case of
            letters.
        ignore_case: Let "strict" not look at the case of letters.
        hint_cost: What each hint takes off the reward; the action ``hint`` then gives the next one. None: there are
            none to be had.
        fresh_flags: Make assets and flag anew in each episode, by the environment's seed; for built-in tasks alone.
        compat: As InterCode: commands run as root, each in a bash of its own, and ``python -c`` in none. Flags that a
            server keeps are then not safe from the agent.
        setup_limit_s: How long a task's ``setup`` may take, in seconds.
        options: All those of `InterCodeEnv`.

    Raises:
        ValueError, TaskFileError: An argument is wrong; says which and what is allowed.
    """

    name: ClassVar[str] = "ic_ctf"
    default_image: ClassVar[str] = "codecraft/ctf"
    user: ClassVar[Literal["agent", "root"]] = "root"

    def __init__(
        self,
        image_name: str | Recipe | None = None,
        *,
        data_path: str | Path | Dataset | None = None,
        assets_dir: str | Path | None = None,
        exclude: Mapping[str, str] | None = None,
        trust_pickle: bool = False,
        reward: Literal["strict", "intercode"] = "strict",
        ignore_case: bool = False,
        hint_cost: float | None = None,
        fresh_flags: bool = False,
        compat: bool = False,
        setup_limit_s: float = 60.0,
        **options: Any,
    ) -> None:
        if reward not in ("strict", "intercode"):
            raise ValueError(f"reward is {reward!r}; it must be 'strict' or 'intercode'")
        if hint_cost is not None and not 0 <= hint_cost <= 1:
            raise ValueError(f"hint_cost is {hint_cost}; it must be from 0 to 1, or None")
        if not setup_limit_s > 0:
            raise ValueError(f"setup_limit_s is {setup_limit_s}; it must be more than 0")
        self._tasks = _open_tasks(data_path, assets_dir, exclude, trust_pickle=trust_pickle)
        if fresh_flags:
            _check_fresh(self._tasks)
        super().__init__(image_name, data_path=self._tasks, **options)
        self._form = reward
        self._ignore_case = ignore_case or reward == "intercode"
        self._hint_cost = hint_cost
        self._fresh = fresh_flags
        self._owner: Literal["agent", "root"] = "root" if compat else "agent"
        self._compat = compat
        self._setup_limit_s = setup_limit_s
        self._task: CtfTask | None = None
        self._seed = 0
        self._hints = 0
        self._terminal: Bash | SeparateCommands | None = None

    # --- an episode ---

    def _pick(self, index: int | None, rng: RandomSource) -> Record | None:
        record = super()._pick(index, rng)
        self._hints, self._terminal = 0, None
        self._task = None if self._tasks is None or record is None else self._tasks.task(record.index)
        self._seed = int(rng.integers(_MAX_SEED)) if self._fresh else 0
        return record

    async def reset_container(self) -> None:
        """Put the task's files in place, run its set-up, and start the agent's bash.

        Raises:
            EpisodeError: The files cannot be put there, or the set-up failed.
            SandboxLost: The sandbox died.
        """
        task, directory = self._task, "/"
        if task is None:
            await ctf_assets.unpack(self.sandbox, None, owner=self._owner)
        else:
            if self._fresh and self._tasks is not None:
                task = self._task = await asyncio.to_thread(self._tasks.fresh, task.record.index, self._seed)
                self.record = task.record
            await self._unpack(task)
            directory = f"{ctf_assets.ROOT}/{task.task_id}"
            if task.setup:
                directory = await self._set_up(task, directory)
        if self._compat:
            self._terminal = SeparateCommands(self._run_alone, cwd=directory)
            return
        try:
            self._terminal = await Bash.open(self.sandbox, cwd=directory, user=self._owner)
        except RequestRefused as exc:
            if task is None or exc.errno not in (errno.EACCES, errno.ENOENT, errno.ENOTDIR):
                raise
            raise EpisodeError(f"{_name_of(task)}: actions cannot begin where its setup ended: {exc.strerror}") from exc

    async def _unpack(self, task: CtfTask) -> None:
        wrong = await ctf_assets.unpack(self.sandbox, task.archive, task.task_id, owner=self._owner)
        if not wrong:
            return
        if task.archive is None:
            remedy = "the image has to hold them, unless there is an assets_dir"
        else:
            room = self.sandbox.spec.layer_limit_bytes
            remedy = f"they have {len(task.archive)} bytes, and root's files room for {room}, by limits.memory_bytes"
        raise EpisodeError(f"{_name_of(task)}: its assets cannot be had in the sandbox: {_short(wrong)}; {remedy}")

    async def _set_up(self, task: CtfTask, directory: str) -> str:
        """Run the set-up in a bash of root's that stays open, so that what it started in the background goes on.

        Return where it ended, which is where actions begin.
        """
        env = {**ROOT, "PWD": directory, "HIDDEN": ctf_assets.HIDDEN}
        shell = self.sandbox.shell(cwd=directory, env=env, shell=BASH, merge_stderr=True, user="root")
        await shell.__aenter__()
        result = await shell.run(task.setup, limit_s=self._setup_limit_s, max_output_bytes=_MAX_SETUP_BYTES)
        if result.exit_code != 0:
            raise EpisodeError(f"{_name_of(task)}: its setup failed: {_ending(result, self._setup_limit_s)}")
        if self._compat and not task.setup.startswith("cd"):
            return directory  # as InterCode, which looks at the text
        where = re.search(rb"\0([^\0]+)\0", (await shell.run(_WHERE)).stdout)
        return directory if where is None else where[1].decode(errors="surrogateescape")

    async def execute_action(self, action: str) -> str:
        """Run a command, or give a hint.

        Raises:
            SandboxLost: The sandbox died.
        """
        if self._hint_cost is not None and action.strip() == _HINT:
            return self._give_hint()
        assert self._terminal is not None  # reset_container has run
        return await self._terminal.run(action, self.info, limit_s=self.command_limit_s)

    async def _run_alone(self, command: str, cwd: str, limit_s: float) -> CommandResult | str:
        return await run_words(self.sandbox, _words(command), cwd, limit_s, user=self._owner)

    def _give_hint(self) -> str:
        self.info["action_executed"] = self._hints_left > 0
        if not self._hints_left or self._task is None:
            return "There are no more hints."
        self._hints += 1
        self.info.update(self._hint_info())
        return self._task.hints[self._hints - 1]

    @property
    def _hints_left(self) -> int:
        return 0 if self._task is None or self._hint_cost is None else len(self._task.hints) - self._hints

    def _hint_info(self) -> dict[str, Any]:
        return {"hints": np.int64(self._hints), "hints_left": np.int64(self._hints_left)}

    def _new_info(self) -> dict[str, Any]:
        task = self._task
        told = {"task_id": "", "tags": ""} if task is None else {"task_id": task.task_id, "tags": ",".join(task.tags)}
        return {**super()._new_info(), **told, **self._hint_info()}

    # --- the reward ---

    async def _submit(self, action: str) -> Outcome:
        if self._form == "intercode":
            action = " ".join(("submit", *action.split()[1:2]))
        return await super()._submit(action)

    async def get_reward(self) -> tuple[float, dict[str, Any]]:
        """Compare what was submitted with the flag; nothing in the sandbox has a say."""
        assert self._task is not None  # there is no reward without data
        said, flag = self.submission, self._task.flag
        is_right = said.lower() == flag.lower() if self._ignore_case else said == flag
        reward = max(0.0, 1.0 - (self._hint_cost or 0.0) * self._hints) if is_right else 0.0
        return reward, {
            "agent_obs": said,
            "eval_obs": flag if said else "",
            "reward": {"flag": float(is_right), "hints": reward - float(is_right)},
        }


class CtfVectorEnv(InterCodeVectorEnv):
    """Many `CtfEnv`s at once, over one pool; see `InterCodeVectorEnv`. Rows and assets are read once for all."""

    env_class: ClassVar[type[InterCodeEnv] | None] = CtfEnv

    def __init__(
        self,
        num_envs: int = 1,
        *,
        data_path: str | Path | Dataset | None = None,
        assets_dir: str | Path | None = None,
        exclude: Mapping[str, str] | None = None,
        trust_pickle: bool = False,
        **options: Any,
    ) -> None:
        tasks = _open_tasks(data_path, assets_dir, exclude, trust_pickle=trust_pickle)
        super().__init__(num_envs, data_path=tasks, **options)


def _open_tasks(
    data: str | Path | Dataset | None,
    assets_dir: str | Path | None,
    exclude: Mapping[str, str] | None,
    *,
    trust_pickle: bool,
) -> CtfDataset | None:
    if data is None:
        if assets_dir is not None or exclude:
            raise ValueError("assets_dir and exclude are about tasks: give a data_path")
        return None
    return CtfDataset.read(data, assets_dir=assets_dir, exclude=exclude, trust_pickle=trust_pickle)


def _check_fresh(tasks: CtfDataset | None) -> None:
    if tasks is None:
        raise ValueError("fresh_flags is about tasks: give a data_path")
    for record in tasks:
        tasks.challenge(tasks.task(record.index).task_id)


def _words(action: str) -> list[str] | None:
    """Return what InterCode executes for an action."""
    if not action.startswith(_DIRECT):
        return [BASH, "-c", action]
    try:
        return shlex.split(action)
    except ValueError:
        return None


def _name_of(task: CtfTask) -> str:
    return f"task {task.task_id!r} (row {task.record.index})"


def _ending(result: CommandResult, limit_s: float) -> str:
    how = f"exit code {result.exit_code}" if result.signal == 0 else f"signal {result.signal}"
    if result.timed_out:
        how = f"it took longer than {limit_s:g} s"
    elif result.truncated:
        how = f"it printed more than {_MAX_SETUP_BYTES} bytes"
    return f"{how}: {_short(result.stdout.decode(errors='replace'))}"


def _short(text: str) -> str:
    """Return the end of what a command said, on one line."""
    return " ".join(text.split())[-300:]
