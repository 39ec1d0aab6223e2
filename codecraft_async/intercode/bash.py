"""`BashEnv`: bash tasks, as root, anywhere in the file system; rewards by comparison with the gold's effects."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, ClassVar, Final, Literal

from codecraft_async._observation import clip
from codecraft_async._outcome import Outcome
from codecraft_async.intercode.base import InterCodeEnv
from codecraft_async.intercode.bash_rewards import (
    NO_PARTS,
    before_cut,
    effects,
    is_cut,
    published_reward,
    strict_reward,
)
from codecraft_async.intercode.changes import Changes, changes_of
from codecraft_async.intercode.git_view import GitView, is_watched
from codecraft_async.intercode.golds import GoldOutcome, Golds
from codecraft_async.intercode.recorded import GitTimes, has_background, run_recorded, settle
from codecraft_async.intercode.terminal import BASH, MAX_OUTPUT_BYTES, ROOT, Bash, SeparateCommands, shown
from codecraft_async.intercode.vector import InterCodeVectorEnv
from codecraft_async.intercode.volatile import volatile
from codecraft_pool import CommandResult, DigestEntry, Sandbox, Shell

__all__ = ["BashEnv", "BashVectorEnv"]

_GOLD_LIMIT_S: Final = 60.0
_GOLD_SLACK: Final = 2.0  # times what an action has: what ends for the agent shall end for the gold, too
_SETTLE_S: Final = 1.0


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
        git_times: With *compat* and the published reward: files that earlier episodes of this environment, or their
            golds, have changed have the time of the reset after it, as in InterCode: episodes depend on those before.
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
        git_times: bool = False,
        golds: Golds | None = None,
        **options: Any,
    ) -> None:
        if reward not in ("strict", "intercode"):
            raise ValueError(f"reward is {reward!r}; it must be 'strict' or 'intercode'")
        if git_times and not (compat and reward == "intercode"):
            raise ValueError("git_times is True; that needs compat=True and reward='intercode'")
        super().__init__(*args, **options)
        self._form = reward
        self._compat = compat
        self._golds = Golds() if golds is None else golds
        self._times: GitTimes | None = GitTimes() if git_times else None
        self._gold_times: GitTimes | None = GitTimes() if git_times else None
        self._terminal: Bash | SeparateCommands | None = None
        self._began_s = 0.0
        self._first: Mapping[str, DigestEntry] = {}
        self._read: set[str] = set()
        self._has_background = False
        self._has_times = False
        self._is_last = False

    @classmethod
    def shared_options(cls) -> dict[str, Any]:
        """Return the golds, which are run once for all."""
        return {"golds": Golds()}

    async def reset_container(self) -> None:
        """Start the shell."""
        self._began_s, self._read = time.time(), set()
        self._first = (await self.sandbox.layer()).entries
        self._has_background, self._has_times = False, False
        self._terminal = None  # the one before has ended with its sandbox's restore
        if self._compat:
            self._terminal = SeparateCommands(self._run_recorded, cwd="/")
        else:
            self._terminal = await Bash.open(self.sandbox, cwd="/", user="root")

    async def execute_action(self, action: str) -> str:
        """Run a command; what it prints is observed, stderr in stdout.

        Raises:
            SandboxLost: The sandbox died.
        """
        self._read.update(volatile(action))
        self._has_background = self._has_background or has_background(action)
        self.info["volatile"] = ",".join(sorted(self._read))
        if self._compat:
            await self._set_times(action)
        assert self._terminal is not None  # reset_container has run
        return await self._terminal.run(action, self.info, limit_s=self.command_limit_s)

    async def _run_recorded(self, command: str, cwd: str, limit_s: float) -> CommandResult | str:
        return await run_recorded(self.sandbox, command, cwd, limit_s)

    async def _set_times(self, command: str) -> None:
        """Before the first action that reads the clock: what is touched comes to lie in the layer, where directories
        take no room, which would be seen by those that read the disk."""
        if self._times is None or self._has_times or "clock" not in volatile(command):
            return
        self._has_times = True
        changes = await changes_of(self.sandbox, self._first)
        await self._times.apply(self.sandbox, but=changes)
        now = (await self.sandbox.layer()).entries
        self._first = {**self._first, **{path: entry for path, entry in now.items() if path not in changes}}

    async def _submit(self, action: str) -> Outcome:
        self._is_last = True
        try:
            return await super()._submit(action)
        finally:
            self._is_last = False

    async def get_reward(self) -> tuple[float, dict[str, Any]]:
        """Compare files and the last output with the gold's; nothing runs any more when that is for a submission."""
        command = self._gold_command()
        outcome = await self._gold_outcome(command)
        expected = None if outcome.output is None else clip(outcome.output, self._max_chars)  # as the observation was
        if self._has_background and not self._compat:
            await settle(self.sandbox, processes=1, limit_s=_SETTLE_S)
        if self._is_last:
            await self.sandbox.end_processes()
        changes = await changes_of(self.sandbox, self._first)
        if self._form == "intercode":
            reward, info = await self._published(changes, outcome, expected)
        else:
            reward, info = await self._strict(changes, outcome, expected or "", command)
        info.update(
            agent_obs=self.observation,
            eval_obs=expected or "",
            corrupt_gold=outcome.failed,
            volatile=",".join(sorted({*self._read, *volatile(command), *(["clock"] if is_cut(expected) else [])})),
        )
        return reward, info

    async def _published(
        self, changes: Changes, outcome: GoldOutcome, expected: str | None
    ) -> tuple[float, dict[str, Any]]:
        first = await self._golds.origin.everything(is_watched, self.evaluation_sandbox)
        views = GitView(first, changes), GitView(first, outcome.changes)
        for times, view in zip((self._times, self._gold_times), views, strict=True):
            if times is not None:
                times.rewrite(view.rewritten())
        return published_reward(*views, self.observation, expected)

    async def _strict(
        self, changes: Changes, outcome: GoldOutcome, expected: str, command: str
    ) -> tuple[float, dict[str, Any]]:
        if not self.trajectory:
            return 0.0, {"reward": dict(NO_PARTS), "differences": []}
        before = await self._golds.origin.at({**changes, **outcome.changes}, self.evaluation_sandbox)
        return strict_reward(
            effects(changes, before, self._began_s, outcome.own),
            effects(outcome.changes, before, outcome.began_s, outcome.own),
            self.observation,
            expected,
            command=command,
            actions=[action for action, _ in self.trajectory],
        )

    def _gold_command(self) -> str:
        gold = self.gold
        return ";".join(map(str, gold)) if isinstance(gold, list | tuple) else str(gold)

    async def _gold_outcome(self, command: str) -> GoldOutcome:
        key = (command, self._compat, self.command_limit_s)
        known = self._golds.get(key)
        if known is not None:
            return known
        async with self.evaluation_sandbox() as sandbox:
            outcome = await self._run_gold(sandbox, command)
        if not volatile(command):
            self._golds.put(key, outcome)
        return outcome

    async def _run_gold(self, sandbox: Sandbox, command: str) -> GoldOutcome:
        began_s = time.time()
        if self._gold_times is not None and "clock" in volatile(command):
            await self._gold_times.apply(sandbox)
        first = (await sandbox.layer()).entries
        output: str | None
        if self._compat:
            result = await run_recorded(sandbox, command, "/", _GOLD_LIMIT_S)
            text = None if isinstance(result, str) else _text(result.stdout)
            failed, output = text is None, text
        else:
            # As the agent's commands, with the same texts in the shell's errors.
            shell = await _open_shell(sandbox)
            commands = len(self.gold) if isinstance(self.gold, list | tuple) else 1
            limit_s = _GOLD_SLACK * self.command_limit_s * commands
            ran = await shell.run(command, limit_s=limit_s, max_output_bytes=MAX_OUTPUT_BYTES)
            output = shown(ran, self.command_limit_s)
            failed = ran.timed_out and not before_cut(output).strip()
        if has_background(command) and not self._compat:
            await settle(sandbox, processes=1, limit_s=_SETTLE_S)
        own = frozenset(path for path, entry in first.items() if entry.kind == "file")
        return GoldOutcome(output, await changes_of(sandbox, first), failed, began_s, own)


class BashVectorEnv(InterCodeVectorEnv):
    """Many `BashEnv`s at once, over one pool; see `InterCodeVectorEnv`."""

    env_class: ClassVar[type[InterCodeEnv] | None] = BashEnv


async def _open_shell(sandbox: Sandbox) -> Shell:
    """Return a bash in which commands follow one another; the restore of its sandbox ends it."""
    return await sandbox.shell(cwd="/", env=ROOT, shell=BASH, merge_stderr=True).__aenter__()


def _text(data: bytes) -> str | None:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None
