"""What the end of a bash episode is worth beside its gold's: the published formula, and one that nothing fools."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from typing import Any, Final

from codecraft_async.intercode.changes import Changes, is_same
from codecraft_async.intercode.git_view import GitView
from codecraft_async.intercode.similarity import similarity
from codecraft_async.intercode.terminal import CUT
from codecraft_pool import DigestEntry

__all__ = ["before_cut", "effects", "is_cut", "published_reward", "strict_reward"]

_COMPARED: Final = ("A", "??", "C")
_ORDERED: Final = re.compile(r"\b(sort|tac|nl|rev|shuf|cat -n|seq|ls -\w*[tSr])\b")
_WRONG_ORDER: Final = 0.5
_UNASKED: Final = 0.5
_NOW_SLACK_S: Final = 2.0
_SHOWN: Final = 50
_STARTS: Final = re.compile(r"[|;&`(]+")
_WORD: Final = re.compile(r"[\w.+-]+")
_CUT_OFF: Final = re.compile(r"^/bin/bash: line \d+: +\d+ (?:Killed|Terminated) |\n\[killed: it ran ", re.MULTILINE)
_CUT_SHARE: Final = 0.25
_PROCESS: Final = re.compile(r"\bproc/\d+(/task/\d+)?")
_LISTED: Final = re.compile(r"^ *(\d+ +)?[dlcb-][rwxstST-]{9} +\d.*$", re.MULTILINE)
# Blocks, mode, owner and name stay; what goes is the number of links (to /proc, that of processes), size and time.
_OWN_LISTED: Final = re.compile(
    r"^( *(?:\d+ +)?)([dl][rwxstST-]{9}) +\d+ (\S+ +\S+) +\d+ .{12} (/?(?:dev|etc|proc|sys|\.\.?))$", re.MULTILINE
)
NO_PARTS: Final = {"changes": 0.0, "output": 0.0, "command": 0.0}

Effects = Mapping[str, object]


def is_cut(output: str | None) -> bool:
    """Whether an output was cut off by a time limit."""
    return output is not None and CUT in output


def before_cut(output: str) -> str:
    """Return what was printed before the time limit cut it off, without what the shell said of that."""
    return _CUT_OFF.split(output, maxsplit=1)[0]


def published_reward(
    mine: GitView, gold: GitView, observation: str, expected: str | None
) -> tuple[float, dict[str, Any]]:
    """Return InterCode's reward, from 0.01 to 1, and its parts as InterCode names them; *expected* is what the gold
    printed (None: it is no command)."""
    ours, theirs = mine.pairs(), gold.pairs()
    missing, extra, common = theirs - ours, ours - theirs, ours & theirs
    difference = len(missing) + len(extra)
    file_diff = round(0.33 * (1 - math.erf(difference)), 2)
    compared = sorted(path for path, status in common if status in _COMPARED)
    right = [path for path in compared if mine.content(path) == gold.content(path)]
    file_changes = round(0.33 * len(right) / len(compared), 2) if compared else 0.33
    answer = 0.0 if expected is None else similarity(observation, expected)
    parts = {"file_diff": file_diff, "file_changes": file_changes, "answer_similarity": round(0.33 * answer, 2)}
    info: dict[str, Any] = {
        "diff_miss": sorted(missing),
        "diff_extra": sorted(extra),
        "diff_same": {"files": compared, "correct": len(right), "total": len(compared)},
        "answer_similarity": answer,
        "reward": parts,
    }
    return 0.01 + parts["file_diff"] + parts["file_changes"] + parts["answer_similarity"], info


def effects(
    changes: Changes, before: Mapping[str, DigestEntry | None], began_s: float, own: Collection[str]
) -> Effects:
    """Return what really differs from the beginning, in a form in which two runs of a command are equal.

    A time that a command sets counts where it is not that of the run itself: "now" is the same at any time. Those of
    directories do not count, as everything that is made in them changes them. Of files that each sandbox has of its
    *own* (``/etc/passwd``, with its users' numbers) it only counts that they were changed.
    """
    found: dict[str, object] = {}
    for path, entry in changes.items():
        first = before.get(path)
        if entry is None:
            if first is not None:
                found[path] = None
            continue
        if first is not None and is_same(first, entry) and (entry.kind == "dir" or entry.mtime_ns == first.mtime_ns):
            continue
        if path in own and entry.kind == "file":
            found[path] = (entry.kind, entry.mode)
            continue
        time: object = None
        if entry.kind == "file":
            time = "now" if entry.mtime_ns / 1e9 >= began_s - _NOW_SLACK_S else entry.mtime_ns
        facts = (entry.kind, entry.mode, entry.uid, entry.gid, entry.target)
        found[path] = (*facts, entry.size, entry.content, time) if entry.kind == "file" else facts
    return found


def strict_reward(
    mine: Effects, outcome: Effects, observation: str, expected: str, *, command: str, actions: Collection[str]
) -> tuple[float, dict[str, Any]]:
    """Return a reward from 0 to 1 that pays only for what the gold *command* does: its changes, its output, or both.

    Changes: the share that is right, of all that either made. Output: 1 if the lines are the gold's, in its order if
    the gold gives them one; otherwise at most half, by their similarity; where both were cut off by the time limit, one
    is to be the beginning of the other, and more than a quarter of it. Where the gold does neither, there is nothing
    to compare but itself: the share of its programs that the *actions* name. A change that nobody asked for halves it.
    """
    parts: dict[str, float] = {}
    if outcome:
        right = sum(1 for path in outcome if path in mine and mine[path] == outcome[path])
        parts["changes"] = right / len({*outcome, *mine})
    if _lines(expected):
        parts["output"] = _output(observation, expected, is_ordered=bool(_ORDERED.search(command)))
    if not parts:
        programs = {found for each in _STARTS.split(command) if (found := _WORD.match(each.strip()))}
        wanted = {found.group() for found in programs}
        named = {word for action in actions for word in _WORD.findall(action)}
        parts["command"] = 0.0 if _lines(observation) or not wanted else len(wanted & named) / len(wanted)
    score = sum(parts.values()) / len(parts)
    if not outcome and mine:
        score *= _UNASKED
    wrong = sorted(path for path in {*outcome, *mine} if outcome.get(path, ...) != mine.get(path, ...))
    return score, {"reward": {**NO_PARTS, **parts}, "differences": wrong[:_SHOWN]}


def _output(observation: str, expected: str, *, is_ordered: bool) -> float:
    if is_cut(observation) and is_cut(expected):
        ours, theirs = sorted((_lines(before_cut(text)) for text in (observation, expected)), key=len)
        if ours == theirs[: len(ours)] and len(ours) > len(theirs) * _CUT_SHARE:
            return 1.0
    ours, theirs = _lines(observation), _lines(expected)
    if ours == theirs:
        return 1.0
    if not ours or not theirs:
        return 0.0
    if sorted(ours) == sorted(theirs):
        return _WRONG_ORDER if is_ordered else 1.0
    return min(_WRONG_ORDER, similarity(observation, expected) / 2)


def _lines(text: str) -> list[str]:
    """Return the lines without trailing blanks, without empty ones at the end, and without what differs from sandbox
    to sandbox anyway: numbers of processes in paths, and what `ls -l` says of the system's own directories."""
    if not text.strip():
        return []
    text = _PROCESS.sub("proc/N", text)
    if _OWN_LISTED.search(text):
        text = _LISTED.sub(lambda found: " ".join(found.group().split()), _OWN_LISTED.sub(r"\1\2 \3 \4", text))
    return "\n".join(line.rstrip() for line in text.split("\n")).rstrip("\n").split("\n")
