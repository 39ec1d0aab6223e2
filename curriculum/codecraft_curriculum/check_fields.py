"""Fields that several types of checks have: commands, matches, and what checks may refer to by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from codecraft_curriculum.fields import Table
from codecraft_curriculum.git_repository import GitRepository
from codecraft_curriculum.graders import CommandSpec
from codecraft_curriculum.matching import MATCH_KINDS, Match, MatchKind
from codecraft_curriculum.program import CaseSource
from codecraft_curriculum.sandbox import WORKSPACE_PATH
from codecraft_curriculum.workspace import check_path

__all__ = ["COMMAND_FIELDS", "MATCH_FIELDS", "CheckContext", "read_command", "read_exit_status", "read_match"]

COMMAND_FIELDS = ("command", "cwd", "env", "limit_s", "max_output_bytes")
MATCH_FIELDS = ("expected", "match", "tolerance")


@dataclass(frozen=True, slots=True)
class CheckContext:
    """What checks of one task file may refer to by name."""

    file: Path
    repositories: Mapping[str, GitRepository]
    case_sources: Mapping[str, CaseSource]
    trust_code: bool = False


def read_command(table: Table) -> CommandSpec:
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


def read_match(table: Table) -> Match:
    kind = table.choice("match", MATCH_KINDS, "stripped")
    return Match(table.text("expected"), cast(MatchKind, kind), table.number("tolerance", 1e-9))


def read_exit_status(table: Table) -> int | None:
    """Return the wanted exit status; the text "any" stands for none."""
    if "exit_status" in table and table.raw("exit_status") == "any":
        return None
    return table.whole("exit_status", 0)
