"""From the ``[[grader.checks]]`` tables of a task file to graders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from codecraft_curriculum.composition import COMBINATIONS, AllOf, AnyOf, Combination
from codecraft_curriculum.errors import TaskFileError, did_you_mean
from codecraft_curriculum.fields import Table, as_table
from codecraft_curriculum.git_clone import GitCloneGrader
from codecraft_curriculum.git_repository import GitRepository
from codecraft_curriculum.grade import Grader, excerpt
from codecraft_curriculum.graders import (
    Answer,
    AnswerKind,
    AnswersGrader,
    CommandSpec,
    ExitStatusGrader,
    FileGrader,
    OutputGrader,
)
from codecraft_curriculum.matching import MATCH_KINDS, Match, MatchKind
from codecraft_curriculum.program import Case, CaseSource, FixedCases, ProgramGrader, UnitTestsGrader
from codecraft_curriculum.sandbox import WORKSPACE_PATH
from codecraft_curriculum.workspace import check_path

__all__ = ["CheckContext", "read_grader"]

_COMMON = ("type", "name", "weight")
_COMMAND = ("command", "cwd", "env", "limit_s", "max_output_bytes")
_MATCH = ("expected", "match", "tolerance")
_MAX_DEPTH = 8


@dataclass(frozen=True, slots=True)
class CheckContext:
    """What checks of one task file may refer to by name."""

    file: Path
    repositories: Mapping[str, GitRepository]
    case_sources: Mapping[str, CaseSource]


def read_grader(values: Mapping[str, object], context: CheckContext, where: str = "grader") -> Grader:
    """Return the grader that a ``[grader]`` table describes: all of its checks, combined.

    Raises:
        TaskFileError: naming the check and the field.
    """
    table = Table(values, file=context.file, where=where, allowed=("combine", "checks"))
    combine = table.choice("combine", COMBINATIONS, "min")
    graders, weights = _read_checks(table, context)
    try:
        return AllOf(graders, combine=cast(Combination, combine), weights=weights)
    except ValueError as error:
        raise TaskFileError(context.file, f"{where}: {error}") from None


def _read_checks(table: Table, context: CheckContext) -> tuple[dict[str, Grader], dict[str, float]]:
    """Return the graders and the weights of the list ``checks``, by name."""
    checks = table.tables("checks")
    if not checks:
        raise table.error("checks", "expected at least one [[...checks]] table")
    if table.where.count("checks[") >= _MAX_DEPTH:
        raise table.error("checks", f"nested over {_MAX_DEPTH} deep")
    graders: dict[str, Grader] = {}
    weights: dict[str, float] = {}
    for number, values in enumerate(checks):
        where = f"{table.path('checks')}[{number}]"
        kind = values.get("type")
        if not isinstance(kind, str) or kind not in _READERS:
            hint = did_you_mean(kind, _READERS) if isinstance(kind, str) else ""
            problem = f"expected a type of check, got {excerpt(str(kind), 40)}{hint}; allowed: {', '.join(_READERS)}"
            raise TaskFileError(context.file, f"{where}.type: {problem}")
        reader, allowed = _READERS[kind]
        check = Table(values, file=context.file, where=where, allowed=(*_COMMON, *allowed))
        name = check.text("name", kind if kind not in graders else f"{kind}-{number}")
        if name in graders:
            raise check.error("name", f"two checks are named {name!r}: rename one")
        try:
            graders[name] = reader(check, context)
        except TaskFileError:
            raise
        except ValueError as error:
            raise TaskFileError(context.file, f"{where}: {error}") from None
        if "weight" in check:
            weights[name] = check.number("weight")
    return graders, weights


def _command(table: Table) -> CommandSpec:
    raw = table.raw("command")
    return CommandSpec(
        command=table.text("command") if isinstance(raw, str) else table.texts("command"),
        cwd=_cwd(table),
        env=table.texts_by_name("env"),
        stdin=table.text("stdin", "").encode(),
        limit_s=table.number("limit_s", 10.0),
        max_output_bytes=table.whole("max_output_bytes", 1 << 20),
    )


def _cwd(table: Table) -> str:
    """Return the absolute working directory; the field is relative to the workspace."""
    relative = table.text("cwd", "")
    return f"{WORKSPACE_PATH}/{check_path(relative)}" if relative else WORKSPACE_PATH


def _match(table: Table) -> Match:
    kind = table.choice("match", MATCH_KINDS, "stripped")
    return Match(table.text("expected"), cast(MatchKind, kind), table.number("tolerance", 1e-9))


def _exit_status(table: Table) -> int | None:
    """Return the wanted exit status; the text "any" stands for none."""
    if "exit_status" in table and table.raw("exit_status") == "any":
        return None
    return table.whole("exit_status", 0)


def _read_exit_status(table: Table, context: CheckContext) -> Grader:
    del context
    return ExitStatusGrader(_command(table), table.whole("exit_status", 0))


def _read_output(table: Table, context: CheckContext) -> Grader:
    del context
    return OutputGrader(_command(table), _match(table), _exit_status(table))


def _read_file(table: Table, context: CheckContext) -> Grader:
    del context
    return FileGrader(check_path(table.text("path")), _match(table), table.whole("max_bytes", 1 << 20))


def _read_answers(table: Table, context: CheckContext) -> Grader:
    answers: dict[str, Answer] = {}
    for name, value in table.table("answers").items():
        if isinstance(value, str):
            answers[name] = Answer(value)
            continue
        values = as_table(value)
        if values is None:
            raise table.error(f"answers.{name}", "expected text, or a table with expected and match")
        answer = Table(values, file=context.file, where=table.path(f"answers.{name}"), allowed=("expected", "match"))
        kind = answer.choice("match", get_args(AnswerKind), "text")
        answers[name] = Answer(answer.text("expected"), cast(AnswerKind, kind))
    return AnswersGrader(check_path(table.text("path")), answers)


def _read_program(table: Table, context: CheckContext) -> Grader:
    return ProgramGrader(_command(table), _cases(table, context), _exit_status(table))


def _cases(table: Table, context: CheckContext) -> CaseSource:
    if isinstance(table.raw("cases"), str):
        return context.case_sources[table.choice("cases", context.case_sources)]
    cases: list[Case] = []
    for number, values in enumerate(table.tables("cases")):
        where = f"{table.path('cases')}[{number}]"
        case = Table(values, file=context.file, where=where, allowed=("arguments", "stdin", *_MATCH))
        cases.append(Case(_match(case), case.texts("arguments", ()), case.text("stdin", "").encode()))
    if not cases:
        raise table.error("cases", "expected the name of a case source, or a list of at least one case")
    return FixedCases(tuple(cases))


def _read_unit_tests(table: Table, context: CheckContext) -> Grader:
    del context
    return UnitTestsGrader(
        tests=check_path(table.text("tests")),
        module=check_path(table.text("module")),
        command=_command(table),
        right=table.texts("right"),
        wrong=table.texts("wrong"),
    )


def _read_git_clone(table: Table, context: CheckContext) -> Grader:
    remote = table.choice("remote", context.repositories)
    return GitCloneGrader(check_path(table.text("directory")), remote, context.repositories[remote])


def _read_all_of(table: Table, context: CheckContext) -> Grader:
    graders, weights = _read_checks(table, context)
    return AllOf(graders, combine=cast(Combination, table.choice("combine", COMBINATIONS, "min")), weights=weights)


def _read_any_of(table: Table, context: CheckContext) -> Grader:
    graders, weights = _read_checks(table, context)
    if weights:
        raise table.error("checks", "weights do not count in any-of: remove them")
    return AnyOf(graders)


_Reader = Callable[[Table, CheckContext], Grader]
_READERS: dict[str, tuple[_Reader, tuple[str, ...]]] = {
    "exit-status": (_read_exit_status, (*_COMMAND, "stdin", "exit_status")),
    "output": (_read_output, (*_COMMAND, "stdin", *_MATCH, "exit_status")),
    "file": (_read_file, ("path", "max_bytes", *_MATCH)),
    "answers": (_read_answers, ("path", "answers")),
    "program": (_read_program, (*_COMMAND, "cases", "exit_status")),
    "unit-tests": (
        _read_unit_tests,
        ("tests", "module", "command", "env", "limit_s", "max_output_bytes", "right", "wrong"),
    ),
    "git-clone": (_read_git_clone, ("directory", "remote")),
    "all-of": (_read_all_of, ("combine", "checks")),
    "any-of": (_read_any_of, ("checks",)),
}
