"""What a Python function is worth: it is tried with the tests of a task, and compared with the gold.

A test is split in two. The calls of the submitted function run in the agent's sandbox, in an interpreter that knows
neither the gold nor what is expected, and come back as plain data. Whether the test passes with these values is found
out in another sandbox, where nothing of the agent ever runs. So a function that ends its process, patches builtins or
returns an object that equals everything earns nothing by it.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from keyword import iskeyword
from typing import Any, Final, NamedTuple

from codecraft_async.intercode.interpreter import Execution, Interpreter, Value

__all__ = [
    "CorruptGold",
    "FunctionGolds",
    "FunctionTask",
    "Judgement",
    "Seen",
    "Source",
    "SplitTest",
    "judge",
    "judge_as_intercode",
    "seen",
]

_PLACEHOLDER: Final = "codecraft_value_"
_GOLDS_MAX: Final = 4096
_PRINTED_MAX: Final = 1 << 20  # what a function prints does not count, but it has to go somewhere

Seen = Mapping[str, str]
"""What InterCode shows of an action: ``output`` and ``error``, or only ``error`` where it raised."""


class CorruptGold(ValueError):
    """A task whose gold does not pass its own tests, or that has none; tells nothing of the agent."""


@dataclass(frozen=True, slots=True)
class FunctionTask:
    """A function to be written: set-up code, the gold, and tests, each of which is an ``assert``."""

    gold: str
    tests: tuple[str, ...]
    setup: str = ""

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> FunctionTask:
        """Return the task of a row of MBPP: ``gold``, ``tests``, and ``test_setup_code``, which may be missing.

        Raises:
            CorruptGold: A field is missing or of the wrong type; says which.
        """
        gold, tests, setup = row.get("gold"), row.get("tests"), row.get("test_setup_code", "")
        if not isinstance(gold, str) or not gold.strip():
            raise CorruptGold("the row has no gold: it must be the source of the function")
        if not isinstance(tests, Sequence) or isinstance(tests, str) or not tests:
            raise CorruptGold("the row has no tests: it must have a list of assert statements")
        lines = [str(test) for test in tests]  # pyright: ignore[reportUnknownVariableType,reportUnknownArgumentType]
        return cls(_unix(gold), tuple(dict.fromkeys(map(_unix, lines))), _unix(str(setup)))

    def tested_function(self) -> str:
        """Return the function that the tests call: of those that the gold defines, the one in most tests.

        Raises:
            CorruptGold: There is none, or the gold or a test is no Python.
        """
        try:
            defined = {name for node in ast.walk(_parse(self.gold)) for name in _defined_by(node)}
            trees = [_parse(test) for test in self.tests]
        except (SyntaxError, ValueError, RecursionError) as error:
            raise CorruptGold(f"the gold or a test is no Python that can be read: {error}") from None
        uses = [{node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} for tree in trees]
        counts = {name: sum(name in used for used in uses) for name in defined}
        best = max(counts, key=lambda name: (counts[name], name), default="")
        if not best or counts[best] == 0:
            raise CorruptGold("no test calls a function that the gold defines")
        return best

    def first_function(self) -> str:
        """Return the name behind the first ``def`` of the gold, as InterCode looks for it.

        Raises:
            CorruptGold: There is none.
        """
        found = re.search(r"def (\w+)\(", self.gold)
        if found is None:
            raise CorruptGold("the gold has no 'def name(', by which InterCode finds the function's name")
        return found[1]


def _parse(text: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd escapes and the like, which are the data's
        return ast.parse(text)


def _defined_by(node: ast.AST) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    return []


@dataclass(frozen=True, slots=True)
class SplitTest:
    """A test whose calls of the function have been replaced by names; `calls` are their texts, in the names' order."""

    text: str
    calls: tuple[str, ...]

    @classmethod
    def of(cls, test: str, function: str) -> SplitTest:
        """Split *test* at the calls of *function*; what else uses it is taken out as a whole."""
        splitter = _Splitter(function)
        text = ast.unparse(splitter.visit(_parse(test)))
        return cls(text, tuple(splitter.calls))

    def names(self) -> list[str]:
        """Return the names that stand for the calls."""
        return [f"{_PLACEHOLDER}{number}" for number in range(len(self.calls))]


class _Splitter(ast.NodeTransformer):
    """Replaces the smallest expressions that use a function and no local variable of the test."""

    def __init__(self, function: str) -> None:
        self.function = function
        self.calls: list[str] = []

    def visit(self, node: ast.AST) -> ast.AST:
        if isinstance(node, ast.expr) and self._must_go(node):
            name = ast.Name(f"{_PLACEHOLDER}{len(self.calls)}", ast.Load())
            self.calls.append(ast.unparse(node))
            return name
        result: ast.AST = self.generic_visit(node)
        return result

    def _must_go(self, node: ast.expr) -> bool:
        if isinstance(node, ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp | ast.NamedExpr):
            return any(self._is_function(part) for part in ast.walk(node))
        if isinstance(node, ast.Attribute | ast.Call | ast.Subscript) and self._is_function(_root(node)):
            return True
        if isinstance(node, ast.Call):
            parts = (node.func, *node.args, *(keyword.value for keyword in node.keywords))
            return any(self._is_function(part) for part in parts)
        return self._is_function(node)

    def _is_function(self, node: ast.AST) -> bool:
        return isinstance(node, ast.Name) and node.id == self.function


class Source(NamedTuple):
    """An action that is to be run again, or only what it defines: it did not come to its end."""

    text: str
    only_definitions: bool = False
    wall_s: float = 0.0
    """How long it took."""


def _root(node: ast.expr) -> ast.expr:
    """Return what an expression such as ``root(1).attribute[0]()`` begins with."""
    while True:
        if isinstance(node, ast.Call):
            node = node.func
        elif isinstance(node, ast.Attribute | ast.Subscript):
            node = node.value
        else:
            return node


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a submission is worth: the share of the tests that it passes, and what was seen over that.

    `predicted` and `expected` say what came of each test with the submitted function and with the gold; `reason`, why
    the score is not 1.
    """

    score: float
    predicted: Mapping[str, Seen] = field(default_factory=dict[str, Seen])
    expected: Mapping[str, Seen] = field(default_factory=dict[str, Seen])
    reason: str = ""


class FunctionGolds:
    """What came of the tests of tasks with their golds, found out once for each; environments share it."""

    def __init__(self) -> None:
        self._known: dict[FunctionTask, Mapping[str, Seen]] = {}

    def __len__(self) -> int:
        return len(self._known)

    async def prepare(self, task: FunctionTask, referee: Interpreter, *, limit_s: float) -> Mapping[str, Seen]:
        """Run the gold in *referee*, made fresh, and return what comes of each test with it."""
        await referee.fresh()
        for source in (task.setup, task.gold):
            await referee.run(source, show=False, limit_s=limit_s)
        if task not in self._known:
            runs = {test: await referee.run(test, show=False, trial=True, limit_s=limit_s) for test in task.tests}
            found = {test: seen(run) for test, run in runs.items()}
            if any(run.timed_out or run.died for run in runs.values()):
                return found  # which may be the machine's fault: it is tried again the next time
            if len(self._known) >= _GOLDS_MAX:
                del self._known[next(iter(self._known))]
            self._known[task] = found
        return self._known[task]


async def judge(
    task: FunctionTask,
    name: str,
    sources: Sequence[Source],
    interpreter: Interpreter,
    referee: Interpreter,
    golds: FunctionGolds,
    *,
    limit_s: float,
) -> Judgement:
    """Return what the function *name* is worth that *sources* define, each of which was an action.

    They run again in *interpreter*, made fresh: what a test finds is what they say. *referee* is in a sandbox that the
    agent has never used. Tests that the gold fails, or that do not use the function, do not count.

    Raises:
        CorruptGold: It fails all of them, or is of no use otherwise.
        SandboxLost: Either sandbox died.
    """
    function = task.tested_function()
    expected = await golds.prepare(task, referee, limit_s=limit_s)
    splits = {test: SplitTest.of(test, function) for test in task.tests}
    good = [test for test in task.tests if _passes(expected[test]) and splits[test].calls]
    if not good:
        why = next((expected[test]["error"] for test in task.tests if not _passes(expected[test])), "")
        raise CorruptGold(f"the gold fails all of its own tests: {why}")
    if not _is_name(name):
        return Judgement(0.0, {}, expected, f"submit needs the name of a function, {name[:40]!r} is none")
    if not await _replay((Source(task.setup), *sources), interpreter, limit_s=limit_s):
        return Judgement(0.0, {}, expected, "the actions took far longer when they were run again")
    if name != function:
        named = await interpreter.run(f"{function} = {name}", show=False, limit_s=limit_s)
        if not named.ok:  # else a function of the expected name, if there is one, would be paid instead
            return Judgement(0.0, {}, expected, f"{name[:40]!r} cannot be submitted: {named.message[:200]}")
    predicted = {test: await _try(splits[test], interpreter, referee, limit_s=limit_s) for test in good}
    return _judgement([test for test in good if not _passes(predicted[test])], predicted, expected)


async def judge_as_intercode(
    task: FunctionTask,
    name: str,
    interpreter: Interpreter,
    referee: Interpreter,
    golds: FunctionGolds,
    *,
    limit_s: float,
) -> Judgement:
    """Return the share of the tests of which the same comes as with the gold, equal errors included.

    They run in the agent's own interpreter, with the function under the name of the first that the gold defines.

    Raises:
        CorruptGold: The gold defines none.
        SandboxLost: Either sandbox died.
    """
    function = task.first_function()
    expected = await golds.prepare(task, referee, limit_s=limit_s)
    if not _is_name(name):
        return Judgement(0.0, {}, expected, f"submit needs the name of a function, {name[:40]!r} is none")
    predicted: dict[str, Seen] = {}
    for test in task.tests:
        source = "\n".join((f"{function} = {name}", task.setup, test))
        predicted[test] = seen(await interpreter.run(source, show=False, trial=True, limit_s=limit_s))
    return _judgement([test for test in task.tests if predicted[test] != expected[test]], predicted, expected)


def seen(execution: Execution) -> Seen:
    """Return what InterCode shows of an action."""
    if execution.timed_out:
        return {"error": "Error: the action reached its time limit"}
    if execution.died:
        return {"error": "Error: the action ended the interpreter"}
    if execution.raised:
        return {"error": f"Error: {execution.message}"}
    return {"output": execution.stdout.strip(), "error": execution.stderr.strip()}


async def _replay(sources: Sequence[Source], interpreter: Interpreter, *, limit_s: float) -> bool:
    """Run *sources* again in *interpreter*, made fresh; return whether they came to an end in a time that is fair."""
    left_s = limit_s + 2 * sum(source.wall_s for source in sources)
    await interpreter.fresh()
    for source in sources:  # what they raised before, they raise again
        if left_s <= 0:
            return False
        execution = await interpreter.run(
            source.text, show=False, only_definitions=source.only_definitions, limit_s=min(limit_s, left_s)
        )
        left_s -= execution.wall_s
    return True


async def _try(split: SplitTest, interpreter: Interpreter, referee: Interpreter, *, limit_s: float) -> Seen:
    values: dict[str, Value] = {}
    for place, call in zip(split.names(), split.calls, strict=True):
        execution = await interpreter.run(
            "", expression=call, trial=True, limit_s=limit_s, max_output_bytes=_PRINTED_MAX
        )
        if not execution.ok:
            return seen(execution)
        values[place] = execution.value
    return seen(await referee.run(split.text, show=False, values=values, trial=True, limit_s=limit_s))


def _judgement(failed: Sequence[str], predicted: Mapping[str, Seen], expected: Mapping[str, Seen]) -> Judgement:
    score = 1 - len(failed) / len(predicted)
    if not failed:
        return Judgement(score, predicted, expected)
    why = predicted[failed[0]]["error"] or "the test does not come out as with the gold"
    return Judgement(score, predicted, expected, f"{failed[0][:200]}: {why[:200]}")


def _passes(outcome: Seen) -> bool:
    return "output" in outcome


def _is_name(name: str) -> bool:
    return name.isidentifier() and not iskeyword(name)


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n")
