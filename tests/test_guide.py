"""The guide's code runs as it stands: page by page, block by block, in a new directory, where no daemon answers.

``python`` blocks of a page share their names; ``sh`` blocks are run by ``sh -e``; a block whose first line is a comment
with a path is a file, and is written there. A ``text`` block says what the block before it prints, with ``...`` for
whatever it may be. Only a block after ``<!-- not run: reason -->`` is not run.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

GUIDE: Final = Path(__file__).parent.parent / "docs" / "guide"
PAGES: Final = sorted(path.name for path in GUIDE.glob("*.md"))
BLOCK: Final = re.compile(r"(?:<!-- not run:(?P<reason>[^>]*)-->\n)?^```(?P<kind>\w*)\n(?P<code>.*?)^```$", re.M | re.S)
FILE: Final = re.compile(r"# (?P<path>[\w./-]+/[\w.-]+)\n")
LIMIT_S: Final = 60


@dataclass(frozen=True)
class Block:
    """One block of code of a page."""

    kind: str
    code: str
    reason: str | None
    line: int


def blocks_of(page: str) -> list[Block]:
    """The blocks of a page, in order."""
    text = (GUIDE / page).read_text()
    return [
        Block(found["kind"], found["code"], found["reason"], text.count("\n", 0, found.start("code")))
        for found in BLOCK.finditer(text)
    ]


class Reader:
    """Somebody who does what a page says, in one directory."""

    def __init__(self, page: str) -> None:
        self.page = page
        self.names: dict[str, Any] = {"__name__": "guide"}
        self.printed = ""

    def follow(self, block: Block) -> None:
        """Run a block, write it to its file, or compare what was printed with it."""
        place = f"{self.page}, line {block.line}"
        if block.kind == "text":
            pattern = re.escape(block.code.strip()).replace(re.escape("..."), ".*")
            assert re.fullmatch(pattern, self.printed.strip(), re.S), f"{place}: this was printed:\n{self.printed}"
        elif (file := FILE.match(block.code)) is not None:
            path = Path(file["path"])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.code)
        elif block.kind == "python":
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(compile("\n" * block.line + block.code, GUIDE / self.page, "exec"), self.names)
            self.printed = printed.getvalue()
        else:
            assert "sh" == block.kind, f"{place}: a block of {block.kind!r} is neither run nor a file"
            ended = subprocess.run(["sh", "-e", "-c", block.code], check=False, capture_output=True, timeout=LIMIT_S)
            self.printed = ended.stdout.decode()
            assert 0 == ended.returncode, f"{place}: {self.printed}{ended.stderr.decode()}"


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block, in order; what it prints is what the page says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("COLUMNS", "100")
    reader = Reader(page)
    for block in blocks_of(page):
        if block.reason is None:
            reader.follow(block)


def test_a_block_that_is_not_run_says_why() -> None:
    """And there are few of them."""
    reasons = [block.reason for page in PAGES for block in blocks_of(page) if block.reason is not None]
    assert all(len(reason.strip()) > 20 for reason in reasons)
    assert len(reasons) <= 3


def test_every_fence_of_the_guide_is_a_block_that_is_understood() -> None:
    """None is overlooked: as many fences as blocks have."""
    for page in PAGES:
        fences = re.findall("^```", (GUIDE / page).read_text(), re.M)
        assert 2 * len(blocks_of(page)) == len(fences), page


def test_the_index_leads_to_every_page_and_links_lead_somewhere() -> None:
    """Within the guide, and from it to the rest of the repository."""
    linked: set[str] = set()
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", (GUIDE / page).read_text()):
            if not target.startswith("https://"):
                assert (GUIDE / target).exists(), f"{page}: {target}"
                if page == "README.md":
                    linked.add(target)
    assert set(PAGES) - {"README.md"} == linked & set(PAGES)
