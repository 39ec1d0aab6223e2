"""Decoys: copies of a repository's tests with a wrong expectation, which fail unless results are forged.

Tests run in one process with the code that they test, which could patch the test framework, or return an object that
equals everything. So a passed test is no evidence alone. It is believed if decoys among the tests fail, which look like
any other test: they do for honest code, whatever it computes, and code that makes tests pass does not know which ones.
"""

from __future__ import annotations

import ast
import copy
import random
import textwrap
import warnings
from collections.abc import Collection, Mapping, Sequence
from itertools import permutations
from typing import Final

from codecraft_async.intercode.swe_rows import TestName

__all__ = ["add_decoys"]

_SUFFIXES: Final = ("again", "bounds", "copy", "default", "empty", "first", "large", "last", "nested", "order", "types")
_EQUALITIES: Final = ("assertEqual", "assertEquals", "assertListEqual", "assertDictEqual", "assertIs")
_DEFINITIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef)

Function = ast.FunctionDef | ast.AsyncFunctionDef


def add_decoys(
    tests: Sequence[TestName], sources: Mapping[str, str], rng: random.Random, *, most: int
) -> tuple[dict[str, str], list[TestName]]:
    """Return the files of *sources* with copies of some of *tests* in them, *most* at most, and the copies' names.

    A test of which no copy can be made, such as one that is inherited or no Python that can be read here, has none.
    """
    files, decoys = dict(sources), list[TestName]()
    shuffled = rng.sample(tests, len(tests))
    once = {(test.module, test.inner): test for test in shuffled if test.inner and test.module in sources}
    for test in once.values():
        if len(decoys) == most:
            break
        made = _with_decoy(files[test.module], test.inner, rng)
        if made is not None:
            files[test.module], name = made
            decoys.append(TestName("", test.module, (*test.inner[:-1], name), test.parameters))
    return files, decoys


def _with_decoy(source: str, inner: tuple[str, ...], rng: random.Random) -> tuple[str, str] | None:
    tree = _parse(source)
    found = None if tree is None else _find(tree, inner)
    if found is None:
        return None
    scope, function = found
    taken = {each.name for each in scope.body if isinstance(each, (*_DEFINITIONS, ast.ClassDef))}
    free = _free_names(function.name, taken)
    if not free:
        return None
    decoy = copy.deepcopy(function)
    decoy.name = rng.choice(free)
    _spoil(decoy, rng)
    lines = source.splitlines(keepends=True)
    last = scope.body[-1].end_lineno
    assert last is not None  # it was parsed from text
    indent = " " * scope.body[-1].col_offset
    if not lines[last - 1].endswith("\n"):
        lines[last - 1] += "\n"
    text = textwrap.indent(ast.unparse(ast.fix_missing_locations(decoy)), indent)
    blank = "\n" if isinstance(scope, ast.ClassDef) else "\n\n"
    lines.insert(last, f"{blank}{text}\n")
    changed = "".join(lines)
    return (changed, decoy.name) if _parse(changed) is not None else None


def _free_names(own: str, taken: Collection[str]) -> list[str]:
    """Return names for a decoy of the test *own*: made of words of the others, so that none is another with an end."""
    words = [name.split("_") for name in taken if name.startswith("test_")]
    mixed = {"_".join((*one[:-1], other[-1])) for one, other in permutations(words, 2)}
    free = sorted(name for name in mixed - {*taken} if not any(name.startswith(f"{each}_") for each in taken))
    return free or [name for name in (f"{own}_{suffix}" for suffix in _SUFFIXES) if name not in taken]


def _parse(source: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return None


def _find(tree: ast.Module, inner: tuple[str, ...]) -> tuple[ast.Module | ast.ClassDef, Function] | None:
    scope: ast.Module | ast.ClassDef = tree
    for name in inner[:-1]:
        inside = [each for each in scope.body if isinstance(each, ast.ClassDef) and each.name == name]
        if not inside:
            return None
        scope = inside[-1]
    found = [each for each in scope.body if isinstance(each, _DEFINITIONS) and each.name == inner[-1]]
    return (scope, found[-1]) if found else None


def _spoil(function: Function, rng: random.Random) -> None:
    """Make one expectation of *function* wrong, for whatever it is that is compared."""
    places = [place for each in function.body if (place := _expected(each)) is not None]
    odd = rng.randrange(1000, 1_000_000)
    if places:
        sides, side = rng.choice(places)
        sides[side] = ast.List([sides[side], ast.Constant(odd)], ast.Load())
        return
    forms = ["assert {} == {}"]
    if any(isinstance(each, ast.Attribute) and each.attr.startswith("assert") for each in ast.walk(function)):
        forms = ["self.assertEqual({}, {})", "self.assertTrue({} == {})", "self.assertFalse({} != {})"]
    function.body += ast.parse(rng.choice(forms).format(odd, rng.randrange(1000))).body


def _expected(statement: ast.stmt) -> tuple[list[ast.expr], int] | None:
    """Return where *statement* says what it expects: beside ``==``, or in an assertEqual.

    Of the two sides it is the one that calls nothing, if there is one: the other may have come from code under test,
    and equal everything.
    """
    if isinstance(statement, ast.Assert) and isinstance(test := statement.test, ast.Compare):
        if len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq):
            if _calls(test.comparators[0]) and not _calls(test.left):
                test.left, test.comparators[0] = test.comparators[0], test.left
            return test.comparators, 0
    if isinstance(statement, ast.Expr) and isinstance(call := statement.value, ast.Call):
        is_equality = isinstance(call.func, ast.Attribute) and call.func.attr in _EQUALITIES
        if is_equality and len(call.args) >= 2:
            return call.args, int(_calls(call.args[0]))
    return None


def _calls(expression: ast.expr) -> bool:
    return any(isinstance(each, ast.Call) for each in ast.walk(expression))
