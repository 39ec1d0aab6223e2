"""From the ``[[grader.checks]]`` tables of a task file to graders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast, get_args

from codecraft_curriculum.check_fields import (
    COMMAND_FIELDS,
    MATCH_FIELDS,
    CheckContext,
    read_command,
    read_exit_status,
    read_match,
)
from codecraft_curriculum.composition import COMBINATIONS, AllOf, AnyOf, Combination
from codecraft_curriculum.data_checks import DATA_CHECKS, CheckReader
from codecraft_curriculum.errors import TaskFileError, did_you_mean
from codecraft_curriculum.fields import Table, as_table, read_bounded
from codecraft_curriculum.file_tables import read_files
from codecraft_curriculum.git_checks import GIT_BRANCH_FIELDS, read_git_branch
from codecraft_curriculum.git_clone import GitCloneGrader
from codecraft_curriculum.grade import Grader, excerpt
from codecraft_curriculum.graders import (
    Answer,
    AnswerKind,
    AnswersGrader,
    ExitStatusGrader,
    FileGrader,
    OutputGrader,
)
from codecraft_curriculum.program import Case, CaseSource, FixedCases, ProgramGrader, UnitTestsGrader
from codecraft_curriculum.python_cases import PythonCases
from codecraft_curriculum.workspace import WorkspaceFile, check_path

__all__ = ["CheckContext", "read_grader"]

_COMMON = ("type", "name", "weight", "required")
_MAX_DEPTH = 8


def read_grader(values: Mapping[str, object], context: CheckContext, where: str = "grader") -> Grader:
    """Return the grader that a ``[grader]`` table describes: all of its checks, combined.

    Raises:
        TaskFileError: naming the check and the field.
    """
    table = Table(values, file=context.file, where=where, allowed=("combine", "checks"))
    combine = cast(Combination, table.choice("combine", COMBINATIONS, "min"))
    checks = _read_checks(table, context)
    try:
        return AllOf(checks.graders, combine=combine, weights=checks.weights, required=frozenset(checks.required))
    except ValueError as error:
        raise TaskFileError(context.file, f"{where}: {error}") from None


@dataclass(frozen=True, slots=True)
class _Checks:
    """A list ``checks``, by name."""

    graders: dict[str, Grader] = field(default_factory=dict[str, Grader])
    weights: dict[str, float] = field(default_factory=dict[str, float])
    required: list[str] = field(default_factory=list[str])


def _read_checks(table: Table, context: CheckContext) -> _Checks:
    """Return the graders of the list ``checks``, their weights, and which are required."""
    checks = table.tables("checks")
    if not checks:
        raise table.error("checks", "expected at least one [[...checks]] table")
    if table.where.count("checks[") >= _MAX_DEPTH:
        raise table.error("checks", f"nested over {_MAX_DEPTH} deep")
    read = _Checks()
    for number, values in enumerate(checks):
        where = f"{table.path('checks')}[{number}]"
        kind = values.get("type")
        if not isinstance(kind, str) or kind not in _READERS:
            hint = did_you_mean(kind, _READERS) if isinstance(kind, str) else ""
            problem = f"expected a type of check, got {excerpt(str(kind), 40)}{hint}; allowed: {', '.join(_READERS)}"
            raise TaskFileError(context.file, f"{where}.type: {problem}")
        reader, allowed = _READERS[kind]
        check = Table(values, file=context.file, where=where, allowed=(*_COMMON, *allowed))
        name = check.text("name", kind if kind not in read.graders else f"{kind}-{number}")
        if name in read.graders:
            raise check.error("name", f"two checks are named {name!r}: rename one")
        try:
            read.graders[name] = reader(check, context)
        except TaskFileError:
            raise
        except ValueError as error:
            raise TaskFileError(context.file, f"{where}: {error}") from None
        if "weight" in check:
            read.weights[name] = check.number("weight")
        if check.truth("required", False):
            read.required.append(name)
    return read


def _read_exit_status(table: Table, context: CheckContext) -> Grader:
    del context
    return ExitStatusGrader(read_command(table), table.whole("exit_status", 0))


def _read_output(table: Table, context: CheckContext) -> Grader:
    del context
    return OutputGrader(read_command(table), read_match(table), read_exit_status(table))


def _read_file(table: Table, context: CheckContext) -> Grader:
    del context
    return FileGrader(check_path(table.text("path")), read_match(table), table.whole("max_bytes", 1 << 20))


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
    return AnswersGrader(check_path(table.text("path")), answers, table.truth("partial", False))


def _read_program(table: Table, context: CheckContext) -> Grader:
    cases, exit_status = _cases(table, context), read_exit_status(table)
    return ProgramGrader(read_command(table), cases, exit_status, partial=table.truth("partial", False))


def _cases(table: Table, context: CheckContext) -> CaseSource:
    if isinstance(table.raw("cases"), str):
        name = table.text("cases")
        if name.partition(":")[0].endswith(".py"):
            return _python_cases(table, context, name)
        return context.case_sources[table.choice("cases", context.case_sources)]
    cases: list[Case] = []
    for number, values in enumerate(table.tables("cases")):
        where = f"{table.path('cases')}[{number}]"
        cases.append(_read_case(Table(values, file=context.file, where=where, allowed=_CASE)))
    if not cases:
        raise table.error("cases", "expected the name of a case source, or a list of at least one case")
    return FixedCases(tuple(cases))


def _read_case(case: Table) -> Case:
    return Case(
        read_match(case) if "expected" in case else None,
        case.texts("arguments", ()),
        case.text("stdin", "").encode(),
        files=read_files(case, "files"),
        expected_files=_expected_files(case) if "expected_files" in case else None,
        exit_status=case.whole("exit_status") if "exit_status" in case else None,
    )


def _expected_files(case: Table) -> dict[str, WorkspaceFile | bytes]:
    """Return the entries that a case must leave: text stands for a file of this content, whatever its mode."""
    entries = read_files(case, "expected_files").items()
    is_text = case.table("expected_files")
    return {path: entry.data if isinstance(is_text[path], str) else entry for path, entry in entries}


def _python_cases(table: Table, context: CheckContext, name: str) -> CaseSource:
    """Return the function of a Python file beside the task file: ``cases.py``, or ``cases.py:function``."""
    path, _, function = name.partition(":")
    if not context.trust_code:
        raise table.error(
            "cases",
            f"{name!r} is Python code, which is run only if you say that you trust it: trust_code=True, or on the "
            "command line --trust-code",
        )
    file = context.file.parent / check_path(path)
    return PythonCases(read_bounded(file), function or "cases", f"{context.file.parent.name}/{path}")


def _read_unit_tests(table: Table, context: CheckContext) -> Grader:
    del context
    return UnitTestsGrader(
        tests=check_path(table.text("tests")),
        module=check_path(table.text("module")),
        command=read_command(table),
        right=table.texts("right"),
        wrong=table.texts("wrong"),
    )


def _read_git_clone(table: Table, context: CheckContext) -> Grader:
    remote = table.choice("remote", context.repositories)
    return GitCloneGrader(check_path(table.text("directory")), remote, context.repositories[remote])


def _read_all_of(table: Table, context: CheckContext) -> Grader:
    checks = _read_checks(table, context)
    combine = cast(Combination, table.choice("combine", COMBINATIONS, "min"))
    return AllOf(checks.graders, combine=combine, weights=checks.weights, required=frozenset(checks.required))


def _read_any_of(table: Table, context: CheckContext) -> Grader:
    checks = _read_checks(table, context)
    if checks.weights or checks.required:
        raise table.error("checks", "weight and required do not count in any-of: remove them")
    return AnyOf(checks.graders)


_CASE = ("arguments", "stdin", *MATCH_FIELDS, "files", "expected_files", "exit_status")
_READERS: dict[str, CheckReader] = {
    "exit-status": (_read_exit_status, (*COMMAND_FIELDS, "stdin", "exit_status")),
    "output": (_read_output, (*COMMAND_FIELDS, "stdin", *MATCH_FIELDS, "exit_status")),
    "file": (_read_file, ("path", "max_bytes", *MATCH_FIELDS)),
    "answers": (_read_answers, ("path", "answers", "partial")),
    "program": (_read_program, (*COMMAND_FIELDS, "cases", "exit_status", "partial")),
    "unit-tests": (
        _read_unit_tests,
        ("tests", "module", "command", "env", "limit_s", "max_output_bytes", "right", "wrong"),
    ),
    **DATA_CHECKS,
    "git-clone": (_read_git_clone, ("directory", "remote")),
    "git-branch": (lambda table, context: read_git_branch(table, context.repositories), GIT_BRANCH_FIELDS),
    "all-of": (_read_all_of, ("combine", "checks")),
    "any-of": (_read_any_of, ("checks",)),
}
