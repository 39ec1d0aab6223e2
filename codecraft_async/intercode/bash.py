"""`BashEnv`: bash tasks, as root, anywhere in the file system; rewards by comparison with the gold's effects."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from typing import Any, ClassVar, Final, Literal

import numpy as np

from codecraft_async._observation import decode
from codecraft_async.intercode.base import InterCodeEnv
from codecraft_async.intercode.bash_rewards import NO_PARTS, effects, published_reward, strict_reward
from codecraft_async.intercode.changes import changes_of
from codecraft_async.intercode.compat import MALFORMED, TIMED_OUT, change_of_directory, mangle, simplify
from codecraft_async.intercode.git_view import GitView, is_watched
from codecraft_async.intercode.golds import GoldOutcome, Golds
from codecraft_async.intercode.vector import InterCodeVectorEnv
from codecraft_async.intercode.volatile import volatile
from codecraft_pool import CommandResult, DigestEntry, RequestRefused, Sandbox, Shell

__all__ = ["BashEnv", "BashVectorEnv"]

_BASH: Final = "/bin/bash"
_HOME: Final = {"HOME": "/root", "USER": "root", "LOGNAME": "root", "PWD": "/"}
_GOLD_LIMIT_S: Final = 60.0
_BACKGROUND: Final = re.compile(r"(?<![&>])&(?![&>])")
_SETTLE_S: Final = 1.0
_SETTLE_PAUSE_S: Final = 0.01
_MAX_OUTPUT_BYTES: Final = 8 << 20


class BashEnv(InterCodeEnv):
    """InterCode's bash environment: commands run as root from ``/`` and may write anywhere; a reset undoes all of it.

    By default commands run in one bash, so that ``cd``, variables and functions last, and get the action as it is.
    With *compat* all is as InterCode has it, for recorded actions to do what they did: its quoting, which drops double
    quotes, its guessed ``cd``, a new shell for each action, its texts ``Command timed out`` and ``Malformed command``.

    The gold (a command, or a list of them) runs in another sandbox that is as good as new, once for all episodes, but
    for golds that read the clock, the disk, the network and the like, which run again each time. `info` names what
    gold and actions read of these, in ``volatile`` (a str, with commas).

    Args:
        image_name: An image with a bash, or a recipe; ``FileTree.read("tree_1.json")`` for the tasks of a file system.
        reward: "strict": only what the gold does pays, its changes of files anywhere, its output, or both. "intercode":
            the published formula, from 0.01 to 1, over what git would show of changes; doing nothing can be paid.
        compat: Commands as InterCode runs them; then `image_name` should be ``FileTree.read(..., compat=True)``.
        golds: Outcomes that are shared with other environments of this event loop and image.
        options: All those of `InterCodeEnv`.

    Raises:
        ValueError, TaskFileError: An argument is wrong; says which and what is allowed.
    """

    name: ClassVar[str] = "ic_bash"
    default_image: ClassVar[str] = "codecraft/nl2bash"
    user: ClassVar[Literal["agent", "root"]] = "root"
    evaluates: ClassVar[bool] = True

    def __init__(
        self,
        *args: Any,
        reward: Literal["strict", "intercode"] = "strict",
        compat: bool = False,
        golds: Golds | None = None,
        **options: Any,
    ) -> None:
        if reward not in ("strict", "intercode"):
            raise ValueError(f"reward is {reward!r}; it must be 'strict' or 'intercode'")
        super().__init__(*args, **options)
        self._form = reward
        self._compat = compat
        self._golds = golds or Golds()
        self._shell: Shell | None = None
        self._directory = "/"
        self._began_s = 0.0
        self._first: Mapping[str, DigestEntry] = {}
        self._read: set[str] = set()
        self._has_background = False

    @classmethod
    def shared_options(cls) -> dict[str, Any]:
        """Return the golds, which are run once for all."""
        return {"golds": Golds()}

    async def reset_container(self) -> None:
        """Start the shell."""
        self._began_s, self._directory, self._read = time.time(), "/", set()
        self._first = (await self.sandbox.layer()).entries
        self._has_background = False
        self._shell = None  # the one before has ended with its sandbox's restore
        if not self._compat:
            self._shell = await _open_shell(self.sandbox)

    async def execute_action(self, action: str) -> str:
        """Run a command; what it prints is observed, stderr in stdout.

        Raises:
            SandboxLost: The sandbox died.
        """
        self._read.update(volatile(action))
        self._has_background = self._has_background or bool(_BACKGROUND.search(action))
        self.info["volatile"] = ",".join(sorted(self._read))
        if self._compat:
            return await self._execute_as_recorded(action)
        assert self._shell is not None
        if "\0" in action:
            return "a command cannot hold a NUL character"
        try:
            result = await self._shell.run(action, limit_s=self.command_limit_s, max_output_bytes=_MAX_OUTPUT_BYTES)
        except RequestRefused as exc:  # such as: the agent has deleted its bash
            return f"the command cannot be run: {exc.strerror}"
        self._tell(result)
        note = f"\n[killed: it ran longer than {self.command_limit_s:g} s]" if result.timed_out else ""
        return decode(result.stdout) + note

    async def _execute_as_recorded(self, action: str) -> str:
        if not action.startswith("cd"):
            result = await _run_mangled(self.sandbox, action, self._directory, self.command_limit_s)
            return self._as_recorded(result)
        wanted = change_of_directory(action)
        if wanted is None:
            return MALFORMED
        target = simplify(self._directory, wanted)
        result = await _run_mangled(self.sandbox, f"cd {target}", "/", self.command_limit_s)
        if isinstance(result, CommandResult) and result.exit_code == 0:
            self._directory = target
        return self._as_recorded(result)

    def _as_recorded(self, result: CommandResult | str) -> str:
        if isinstance(result, str):
            return result
        self._tell(result)
        if result.timed_out:
            return TIMED_OUT
        try:
            return result.stdout.decode()
        except UnicodeDecodeError:
            self.info["action_executed"] = False
            return MALFORMED

    def _tell(self, result: CommandResult) -> None:
        self.info.update(
            action_executed=result.exit_code == 0,
            exit_code=np.int64(result.exit_code),
            signal=np.int64(result.signal),
            timed_out=result.timed_out,
            truncated_output=result.truncated,
            wall_s=np.float64(result.wall_s),
            cpu_s=np.float64(result.user_s + result.system_s),
        )

    async def get_reward(self) -> tuple[float, dict[str, Any]]:
        """Compare files and the last output with the gold's."""
        info: dict[str, Any]
        command = self._gold_command()
        outcome = await self._gold_outcome(command)
        if self._has_background:
            await _settle(self.sandbox, processes=0 if self._shell is None else 1)
        origin, borrow = self._golds.origin, self.evaluation_sandbox
        changes = await changes_of(self.sandbox, self._first)
        if self._form == "intercode":
            first = await origin.everything(is_watched, borrow)
            views = GitView(first, changes), GitView(first, outcome.changes)
            reward, info = published_reward(*views, self.observation, outcome)
        elif not self.trajectory:
            reward, info = 0.0, {"reward": dict(NO_PARTS), "differences": []}
        else:
            before = await origin.at({**changes, **outcome.changes}, borrow)
            reward, info = strict_reward(
                effects(changes, before, self._began_s, outcome.own),
                effects(outcome.changes, before, outcome.began_s, outcome.own),
                self.observation,
                outcome.output or "",
                command=command,
                actions=[action for action, _ in self.trajectory],
            )
        info.update(
            agent_obs=self.observation,
            eval_obs=outcome.output or "",
            corrupt_gold=outcome.failed,
            volatile=",".join(sorted(self._read | set(volatile(command)))),
        )
        return reward, info

    def _gold_command(self) -> str:
        gold = self.gold
        return ";".join(map(str, gold)) if isinstance(gold, list | tuple) else str(gold)

    async def _gold_outcome(self, command: str) -> GoldOutcome:
        key = (command, self._compat)
        known = self._golds.get(key)
        if known is not None:
            return known
        async with self.evaluation_sandbox() as sandbox:
            outcome = await self._run_gold(sandbox, command)
        if not volatile(command):
            self._golds.put(key, outcome)
        return outcome

    async def _run_gold(self, sandbox: Sandbox, command: str) -> GoldOutcome:
        began_s, first = time.time(), (await sandbox.layer()).entries
        output: str | None
        if self._compat:
            result = await _run_mangled(sandbox, command, "/", _GOLD_LIMIT_S)
            text = None if isinstance(result, str) else _text(result.stdout)
            failed, output = text is None, text
        else:
            shell = await _open_shell(sandbox)  # as the agent's commands, with the same texts in the shell's errors
            ran = await shell.run(command, limit_s=_GOLD_LIMIT_S, max_output_bytes=_MAX_OUTPUT_BYTES)
            failed, output = ran.timed_out, decode(ran.stdout)
        if _BACKGROUND.search(command):
            await _settle(sandbox, processes=0 if self._compat else 1)
        own = frozenset(path for path, entry in first.items() if entry.kind == "file")
        return GoldOutcome(output, await changes_of(sandbox, first), failed, began_s, own)


class BashVectorEnv(InterCodeVectorEnv):
    """Many `BashEnv`s at once, over one pool; see `InterCodeVectorEnv`."""

    env_class: ClassVar[type[InterCodeEnv] | None] = BashEnv


async def _run_mangled(sandbox: Sandbox, command: str, cwd: str, limit_s: float) -> CommandResult | str:
    """Run a command as InterCode would; a text is what it says instead of an output."""
    words = mangle(command)
    if words is None or any("\0" in word for word in words):
        return MALFORMED
    try:
        return await sandbox.run(
            words, cwd=cwd, env=_HOME, limit_s=limit_s, max_output_bytes=_MAX_OUTPUT_BYTES, merge_stderr=True
        )
    except RequestRefused:
        return (
            "OCI runtime exec failed: exec failed: unable to start container process: chdir to cwd "
            f'("{cwd}") set in config.json failed: no such file or directory: unknown'
        )


async def _open_shell(sandbox: Sandbox) -> Shell:
    """Return a bash in which commands follow one another; the restore of its sandbox ends it."""
    return await sandbox.shell(cwd="/", env=_HOME, shell=_BASH, merge_stderr=True).__aenter__()


async def _settle(sandbox: Sandbox, *, processes: int = 0) -> None:
    """Give what was left in the background a moment to end: as many processes stay as there are anyway."""
    deadline = time.monotonic() + _SETTLE_S
    while time.monotonic() < deadline and (await sandbox.stat()).processes > processes:  # noqa: ASYNC110  # no event tells
        await asyncio.sleep(_SETTLE_PAUSE_S)


def _text(data: bytes) -> str | None:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None
