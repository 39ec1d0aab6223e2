"""What models are told of each environment: where they are, what an action is, and what is paid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from codecraft_async.evaluation.parsers import PARSERS, Parser

__all__ = ["LANGUAGES", "Language", "handicap_of", "language_of"]


@dataclass(frozen=True, slots=True)
class Language:
    """What an environment speaks. `ends_itself` where a submission says something that only the agent can know."""

    key: str
    label: str
    fence: str
    place: str
    """Where the model is."""
    unit: str
    """What an action is."""
    aim: str
    """What is paid."""
    example: str
    ends_itself: bool = False

    @property
    def course(self) -> str:
        """How an episode goes."""
        return _SUBMITTED if self.ends_itself else _SCORED

    @property
    def parse(self) -> Parser:
        """What reads answers."""
        return PARSERS[self.key]


_SCORED: Final = (
    "After each action you see what it printed, and the reward. As long as that is below 1, something is still missing "
    "or wrong: find out what, and try again with another action."
)
_SUBMITTED: Final = "After each action you see what it printed. Look before you change things, and check your work."
_BASH: Final = Language(
    "bash",
    "Bash",
    "bash",
    "You work in a Linux system as root, in a shell that starts in /. There is no terminal: programs that wait for "
    "input get none.",
    "one Bash command line",
    "The reward lies between 0 and 1 and tells how close you are to what was asked for: what your last command prints "
    "and what has become of the files are compared with the right solution.",
    "find /srv -name '*.conf' -newer /srv/stamp",
)
_SQL: Final = Language(
    "sql",
    "SQL",
    "sql",
    "You work with a relational database whose tables you do not know yet: SHOW TABLES and DESCRIBE tell of them.",
    "one SQL statement",
    "The reward is at most 1 and tells how close the rows that your last statement returns are to the right ones.",
    "SELECT title FROM books WHERE year > 1990 ORDER BY title",
)
_PYTHON: Final = Language(
    "python",
    "Python",
    "python",
    "You work in a Python 3 interpreter that keeps what you define.",
    "Python source: the function that is asked for, whole, or code that tries something out",
    "When you define a function, hidden tests are run with it; the reward is the share of them that pass.",
    "def double(number):\n    return 2 * number",
)
_CTF: Final = Language(
    "ctf",
    "Bash",
    "bash",
    "You solve a capture-the-flag puzzle in a Linux system, in the directory that holds its files. Somewhere there is "
    "a flag; there is no network and no terminal.",
    "one Bash command line; or submit and the flag; or skip, to give up",
    "The reward is 1 for the right flag, else 0.",
    "strings puzzle.bin | grep -i flag",
    ends_itself=True,
)
_SWE: Final = Language(
    "swe",
    "Bash",
    "bash",
    "You mend a bug in a git repository, in whose directory your shell starts. There is no network and no terminal.",
    "one Bash command line; or submit, when the bug is mended",
    "The reward is 1 when the tests pass that failed because of the bug, and no other test fails that passed before.",
    "grep -rn 'def parse' src",
    ends_itself=True,
)
_CODE: Final = Language(
    "bash",
    "Bash",
    "bash",
    "You solve a task in a Linux sandbox, in the workspace that your shell starts in. There is no network and no "
    "terminal.",
    "one Bash command line; or submit, when the work is done",
    "The reward lies between 0 and 1 and is paid for what you leave when you submit.",
    "sort input.txt > output.txt",
    ends_itself=True,
)
LANGUAGES: Final[Mapping[str, Language]] = {
    "ic_bash": _BASH,
    "ic_sql": _SQL,
    "ic_python": _PYTHON,
    "ic_ctf": _CTF,
    "ic_swe": _SWE,
}


def language_of(environment: str) -> Language:
    """Return what the environment of this name speaks; Bash, with submissions of the agent's own, if it is unknown."""
    return LANGUAGES.get(environment, _CODE)


def handicap_of(extras: Mapping[str, Any]) -> str:
    """Return a line for each table of the task's database, with its columns; empty if the data do not name them."""
    tables = extras.get("db_tables")
    if not isinstance(tables, Mapping):
        return ""
    return "\n".join(
        f"Table {table}: {', '.join(map(str, columns)) if isinstance(columns, list | tuple) else columns}"
        for table, columns in tables.items()
    )
