"""What changes to a repository are worth: they are tried where the agent has never been.

A sandbox gets the base commit, then the agent's changes, then the test apparatus as it ought to be, and runs the tests.
The same is done first with no changes at all, and with the gold's.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import Final

from codecraft_async._observation import decode
from codecraft_async.intercode.swe_apparatus import Apparatus
from codecraft_async.intercode.swe_changes import Files, Marks, changed_files, lay, marks_of, normal, parents
from codecraft_async.intercode.swe_checkouts import Checkouts
from codecraft_async.intercode.swe_decoys import add_decoys
from codecraft_async.intercode.swe_rows import SweTask, TestName
from codecraft_async.intercode.swe_tests import LogParser, TestRun, run_tests
from codecraft_pool import WORKSPACE, CommandResult, Entry, Sandbox, Snapshot

__all__ = ["CorruptRow", "Judge", "Reference", "References", "Verdict", "prepare"]

_REFERENCES_MAX: Final = 1024
_SETUP_LIMIT_S: Final = 600.0
_GIT_LIMIT_S: Final = 120.0
_PATCH_MAX_BYTES: Final = 4 << 20
_SHOWN: Final = 300
_DECOYS: Final = 3
# Git with nothing of its repository's that could make it run something.
_GIT: Final = ("git", "--literal-pathspecs", "-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false")
_APPLY: Final = (*_GIT, "apply", "--whitespace=nowarn", "-")
_ADD: Final = (*_GIT, "add", "-A", "-f", "--pathspec-from-file=-", "--pathspec-file-nul")
_DIFF: Final = (*_GIT, "diff", "--cached", "--binary", "--no-color", "--no-ext-diff", "--no-textconv", "HEAD")
_IGNORED: Final = (*_GIT, "check-ignore", "-z", "--stdin")

Borrow = Callable[[], AbstractAsyncContextManager[Sandbox]]
"""Lends a sandbox that is as good as new and holds the base commit."""


class CorruptRow(Exception):
    """A row that tells nothing of any agent: its patches do not apply, or its gold does not make its tests pass.

    `may_pass`: the next time it may be another, for it was the tests' time that was over.
    """

    def __init__(self, reason: str, *, may_pass: bool = False) -> None:
        super().__init__(reason)
        self.may_pass = may_pass


@dataclass(frozen=True, slots=True)
class Verdict:
    """What changes are worth: `passed` are the tests of both lists that do.

    `patch` is what git says of the changes, "" if that is over 4 MiB; `not_counted` are changed files that belong to
    the tests, and were put back. `reason` says why the issue is not resolved, "" if it is.
    """

    run: TestRun
    passed: frozenset[str] = frozenset()
    patch: str = ""
    not_counted: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Reference:
    """What is known of a row.

    `before` is what an agent finds; `nothing` and `gold` are what no changes and the gold's come to (None where the
    row has no gold); `decoys` are in the apparatus, and fail with the gold.
    """

    before: Marks = field(repr=False)
    tests: tuple[TestName, ...] = field(repr=False)
    apparatus: Apparatus
    decoys: tuple[TestName, ...] = ()
    nothing: Verdict | None = None
    gold: Verdict | None = None

    def share(self, task: SweTask, verdict: Verdict) -> float:
        """Return how much of the way *verdict* is: the share of FAIL_TO_PASS that it mends, which are those that do
        fail, times the share of PASS_TO_PASS that pass.
        """
        assert self.nothing is not None
        broken = set(task.fail_to_pass) - self.nothing.passed
        kept = verdict.passed.intersection(task.pass_to_pass)
        mended = len(broken & verdict.passed) / len(broken)
        return mended * (len(kept) / len(task.pass_to_pass) if task.pass_to_pass else 1.0)


class References:
    """What is known of rows, found out once for each, and their repositories; shared by environments of one event loop.

    Args:
        checkouts: Makes the snapshots of repositories.
    """

    def __init__(self, checkouts: Checkouts | None = None) -> None:
        self.checkouts = checkouts or Checkouts()
        self._known: dict[tuple[SweTask, str], Reference | CorruptRow] = {}
        self._locks: dict[tuple[SweTask, str], asyncio.Lock] = {}

    def __len__(self) -> int:
        return len(self._known)

    async def get(self, judge: Judge) -> Reference:
        """Return what is known of the row of *judge*.

        Raises:
            CorruptRow: It is of no use.
            EpisodeError: Its tests cannot be run in the image.
        """
        key = judge.task, judge.base.id
        async with self._locks.setdefault(key, asyncio.Lock()):
            if key not in self._known:
                try:
                    found: Reference | CorruptRow = await judge.look_up()
                except CorruptRow as exc:
                    if exc.may_pass:
                        raise
                    found = exc
                if len(self._known) >= _REFERENCES_MAX:
                    old = next(iter(self._known))
                    del self._known[old]
                    self._locks.pop(old, None)
                self._known[key] = found
            found = self._known[key]
        if isinstance(found, CorruptRow):
            raise CorruptRow(str(found))
        return found


class Judge:
    """Tries changes to the repository of one row, each in a sandbox of its own that *borrow* lends."""

    def __init__(
        self, task: SweTask, base: Snapshot, borrow: Borrow, *, limit_s: float, parsers: Mapping[str, LogParser]
    ) -> None:
        self.task = task
        self.base = base
        self._borrow = borrow
        self._limit_s = limit_s
        self._parsers = parsers

    async def look_up(self) -> Reference:
        """Try the row's own patches, and no changes.

        Raises:
            CorruptRow: The gold does not make the tests pass, or they all pass without it.
        """
        task, command = self.task, self.task.command
        async with self._borrow() as sandbox:
            await prepare(sandbox, task)
            before = marks_of(await sandbox.digest([WORKSPACE]))
            test_files = await _apply(sandbox, task.test_patch, "test_patch", before)
            both = await _apply(sandbox, task.gold, "patch", before)
        gold = {path: entry for path, entry in both.items() if test_files.get(path, ...) != entry}
        exists = {*before, *both}.__contains__
        names = (*task.fail_to_pass, *task.pass_to_pass)
        tests = tuple(TestName.of(name, command.runner, exists, command.paths) for name in names)
        reference = Reference(before, tests, Apparatus.of(tests, test_files, gold))
        nothing = await self.grade(reference, {})
        if nothing.passed.issuperset(task.fail_to_pass):
            raise CorruptRow(f"all of FAIL_TO_PASS pass without any change: {_listed(task.fail_to_pass)}")
        reference = replace(reference, nothing=nothing)
        return await self._with_gold(reference, gold) if task.gold.strip() else reference

    async def _with_gold(self, reference: Reference, gold: Files) -> Reference:
        """Return *reference* with what the gold comes to, and with the decoys that fail with it, as they should."""
        assert reference.nothing is not None
        changed, decoys = self._draw_decoys(reference, reference.nothing.passed)
        tried = replace(reference, apparatus=reference.apparatus.with_files(changed), decoys=tuple(decoys))
        verdict = await self.grade(tried, gold)
        good = tuple(decoy for decoy, came in zip(decoys, verdict.run.decoys, strict=False) if came == "failed")
        if len(good) < len(decoys):  # they stay in the files, where they do no harm, but nobody asks for them
            tried = replace(tried, decoys=good)
            verdict = await self.grade(tried, gold)
        if verdict.reason and decoys and not verdict.run.problem:
            # A decoy that fails may leave behind what its test tidies up at its end: then there have to be none.
            tried = replace(reference, decoys=())
            verdict = await self.grade(tried, gold)
        if verdict.reason:
            reason = f"the gold does not make its own tests pass: {verdict.reason}"
            raise CorruptRow(reason, may_pass=bool(verdict.run.problem))
        return replace(tried, gold=verdict)

    def _draw_decoys(self, reference: Reference, kept: Collection[str]) -> tuple[Files, list[TestName]]:
        """Return the files of tests with decoys in them: of some tests that are to be mended, and of some others."""
        if self.task.command.runner == "other":
            return {}, []
        sources: dict[str, str] = {}
        for path in {test.module for test in reference.tests}:
            if (text := self._text_of(path, reference.apparatus.files)) is not None:
                sources[path] = text
        rng, names = random.SystemRandom(), reference.tests
        mended, others = [each for each in names if each.id not in kept], [each for each in names if each.id in kept]
        files, decoys = add_decoys(mended, sources, rng, most=_DECOYS)
        files, more = add_decoys(others, files, rng, most=_DECOYS)
        changed = {path: Entry("file", text.encode()) for path, text in files.items() if text != sources[path]}
        return changed, [*decoys, *more]

    async def grade(self, reference: Reference, changes: Files) -> Verdict:
        """Return what *changes* are worth.

        Raises:
            EpisodeError: The tests cannot be run.
            SandboxLost: The sandbox died.
        """
        apparatus = reference.apparatus
        async with self._borrow() as sandbox:
            await prepare(sandbox, self.task)
            taken = await _without_ignored(sandbox, changes, reference.before)
            not_counted = apparatus.owned(taken)
            problem = await lay(sandbox, taken)
            patch = "" if problem or not taken else await _diff(sandbox, self.base, taken)
            restored = {**{path: self._entry(path) for path in not_counted}, **apparatus.files}
            needed = {parent for path, entry in restored.items() if entry for parent in parents(path)}
            problem = problem or await lay(sandbox, restored, remove=[path for path in taken if path in needed])
            if problem:
                run = TestRun({}, problem=f"the changes cannot be made elsewhere: {problem}")
            else:
                run = await run_tests(
                    sandbox,
                    self.task,
                    [test for test in reference.tests if self._is_there(test, reference, taken)],
                    reference.decoys,
                    limit_s=self._limit_s,
                    parsers=self._parsers,
                )
        return self._verdict(run, reference, patch, tuple(not_counted))

    def _verdict(self, run: TestRun, reference: Reference, patch: str, not_counted: tuple[str, ...]) -> Verdict:
        names = (*self.task.fail_to_pass, *self.task.pass_to_pass)
        reason = run.problem
        if not reason and _is_forged(run, reference):
            reason = "the results are forged: tests have passed that nothing right can pass, or are gone"
        passed = frozenset[str]() if reason else frozenset(filter(run.passed, names))
        wrong = [name for name in names if name not in passed]
        if not reason and wrong:
            why = run.why.get(wrong[0], "")
            reason = f"{_listed(wrong)}: {run.outcomes.get(wrong[0], 'missing')}{': ' if why else ''}{why}"
        return Verdict(run, passed, patch, not_counted, reason)

    def _entry(self, path: str) -> Entry | None:
        """Return what the base commit has at *path*."""
        entry = self.base.entries.get(path)
        return None if entry is None or entry.kind == "dir" else normal(entry)

    def _text_of(self, path: str, files: Files) -> str | None:
        entry = files[path] if path in files else self._entry(path)
        try:
            return None if entry is None or entry.kind != "file" else entry.data.decode()
        except UnicodeDecodeError:
            return None

    def _is_there(self, test: TestName, reference: Reference, taken: Files) -> bool:
        """Whether the file of a test exists: pytest runs nothing at all where one does not."""
        if self.task.command.runner != "pytest":
            return True
        files = reference.apparatus.files
        if test.module not in files and not reference.apparatus.owns(test.module):
            files = taken
        return files[test.module] is not None if test.module in files else test.module in reference.before


def _is_forged(run: TestRun, reference: Reference) -> bool:
    """Whether a decoy has not failed; where no test of its file has passed, such as one that is not loaded, it may be
    missing.
    """
    alive = {test.module for test in reference.tests if run.passed(test.id)}
    came = dict(zip(reference.decoys, run.decoys, strict=False))
    return any(each == "passed" or (each != "failed" and decoy.module in alive) for decoy, each in came.items())


async def prepare(sandbox: Sandbox, task: SweTask) -> None:
    """Run the commands that make a checkout ready.

    Raises:
        CorruptRow: One fails.
    """
    for command in task.setup:
        result = await sandbox.run(command, shell="/bin/bash", limit_s=_SETUP_LIMIT_S, merge_stderr=True)
        if result.exit_code != 0:
            raise CorruptRow(f"setup: {command!r} failed: {decode(result.stdout).strip()[-_SHOWN:]}")


async def _apply(sandbox: Sandbox, patch: str, name: str, before: Marks) -> Files:
    """Apply a patch of the row's, strictly; return all that is changed now."""
    if patch.strip():
        result = await _run_git(sandbox, _APPLY, [patch if patch.endswith("\n") else f"{patch}\n"])
        if result.exit_code != 0:
            why = "the image has no git" if result.exit_code == 127 else decode(result.stderr).strip()[-_SHOWN:]
            raise CorruptRow(f"{name} does not apply: {why}")
    return await changed_files(sandbox, before)


async def _without_ignored(sandbox: Sandbox, changes: Files, before: Marks) -> Files:
    """Leave out what is new and what the base commit's ``.gitignore`` ignores, such as what a build has made."""
    new = [path for path in changes if path not in before]
    if not new:
        return changes
    result = await _run_git(sandbox, _IGNORED, new)
    ignored = set(result.stdout.decode("utf-8", "surrogateescape").split("\0"))
    return {path: entry for path, entry in changes.items() if path in before or path not in ignored}


async def _diff(sandbox: Sandbox, base: Snapshot, taken: Files) -> str:
    """Return what git says of changes that have been made; "" if it cannot."""
    paths = [path for path, entry in taken.items() if entry is not None or path in base.entries]
    result = await _run_git(sandbox, _ADD, paths)
    if result.exit_code == 0:
        result = await sandbox.run(_DIFF, limit_s=_GIT_LIMIT_S, max_output_bytes=_PATCH_MAX_BYTES)
    return result.stdout.decode("utf-8", "backslashreplace") if result.exit_code == 0 else ""


async def _run_git(sandbox: Sandbox, words: Sequence[str], given: Sequence[str]) -> CommandResult:
    data = "\0".join(given).encode("utf-8", "surrogateescape")
    return await sandbox.run(words, stdin=data, limit_s=_GIT_LIMIT_S, max_output_bytes=_PATCH_MAX_BYTES)


def _listed(names: Sequence[str]) -> str:
    return names[0][:_SHOWN] + (f" and {len(names) - 1} more" if len(names) > 1 else "")
