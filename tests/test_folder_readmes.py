"""What the READMEs of the folders list is complete: modules, fields of a task file, checks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from codecraft_curriculum import checks, load_curriculum, task_files
from codecraft_curriculum.check_fields import COMMAND_FIELDS

FIELDS: Final = task_files._FIELDS  # pyright: ignore[reportPrivateUsage]  # what a file may say is told in a README only
READERS: Final = checks._READERS  # pyright: ignore[reportPrivateUsage]
COMMON: Final = checks._COMMON  # pyright: ignore[reportPrivateUsage]
ROOT: Final = Path(__file__).parent.parent
TABLE: Final = re.compile(r"^\| module \|.*\n(?:\|.*\n)+", re.M)
PACKAGES: Final = {
    "codecraft_async/README.md": "codecraft_async",
    "pool/README.md": "pool/codecraft_pool",
    "curriculum/README.md": "curriculum/codecraft_curriculum",
}


def modules_of(package: Path) -> set[str]:
    """The modules of a package, and the folders in it that hold some, with a slash."""
    files = {path.name for path in package.glob("*.py")}
    return files | {f"{path.name}/" for path in package.iterdir() if (path / "__init__.py").exists()}


@pytest.mark.parametrize(("readme", "package"), PACKAGES.items())
def test_a_table_of_modules_is_complete(readme: str, package: str) -> None:
    """As many names as files, but for the `__init__.py` that need no words."""
    table = TABLE.search((ROOT / readme).read_text())
    assert table is not None
    first_cells = [line.split("|")[1] for line in table[0].splitlines()]
    named = {name for cell in first_cells for name in re.findall(r"`([\w/]+(?:\.py|/))`", cell)}
    there = modules_of(ROOT / package)
    assert set() == there - named - {"__init__.py"}, "without a word in the table"
    missing = {name for name in named - there if not (ROOT / package / name).is_dir()}
    assert set() == missing, "in the table, and not there"


TASKS: Final = (ROOT / "curriculum" / "README.md").read_text()
CASES: Final = """
from codecraft_curriculum import Case, Match


def cases(rng):
    return [Case(stdin=b"1", match=Match("2"))]
"""


def test_the_task_file_of_the_curriculum_s_readme_can_be_loaded_and_has_every_field(tmp_path: Path) -> None:
    """It is the reference of the format: what is not in it, nobody finds."""
    example = re.search(r"```toml\n(.*?)```", TASKS, re.S)
    assert example is not None
    (tmp_path / "double").mkdir()
    (tmp_path / "double" / "task.toml").write_text(example[1])
    (tmp_path / "double" / "cases.py").write_text(CASES)
    task = load_curriculum(str(tmp_path), trust_code=True)["double"]
    assert 2 == len(task.expert) and task.public and task.failures and task.cheats
    fields = {*FIELDS, "expert", "failures", "cheats", "partial", "public", "directory", "files", "repositories"}
    assert {"id"} == {name for name in fields if re.search(rf"\b{name}\b", example[1]) is None}


def test_the_table_of_checks_has_every_type_with_every_field() -> None:
    """Those that all have, and those of commands, are told below it."""
    table = re.search(r"^\| type \| passes if .*\n(?:\|.*\n)+", TASKS, re.M)
    assert table is not None
    rows = {name: line for line in table[0].splitlines() for name in re.findall(r"`([\w-]+)`", line.split("|")[1])}
    assert set(READERS) == set(rows)
    for kind, (_, fields) in READERS.items():
        own = set(fields) - set(COMMON) - (set(COMMAND_FIELDS) - {"command"})
        assert set() == own - set(re.findall(r"\w+", rows[kind])), kind
