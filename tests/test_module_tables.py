"""The READMEs that have a table of modules name every module, and none that is not there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

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
