"""InterCode's data, and GPT-4's recorded runs on them: where they are, and what of them is played again."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.results import Unavailable
from codecraft_async.evaluation import EpisodeLog, read_log
from codecraft_async.intercode import FileTree
from codecraft_async.intercode.compat import TIMED_OUT
from codecraft_curriculum import Dataset, load_dataset

BASH: Final = ("1", "4")
"""The file systems of InterCode's bash tasks whose trees and recordings are there."""
_BESIDE: Final = Path(__file__).parents[1].parent / "shared" / "data"


@dataclass(frozen=True, slots=True)
class Recording:
    """The bash tasks of one file system, and what was done in them: episodes by the task's row."""

    number: str
    tasks: Dataset
    episodes: dict[int, EpisodeLog]
    folder: Path

    def tree(self, *, compat: bool) -> FileTree:
        """Return the recipe of the image with the files that the tasks are about."""
        return FileTree.read(self.folder / f"tree_{self.number}.json", compat=compat)

    def ended_actions(self) -> dict[int, list[str]]:
        """Return the actions of each episode but those that had reached InterCode's time limit of 10 s.

        They read what never ends, so that they would measure the limit.
        """
        return {
            row: [turn.action for turn in episode.turns if turn.observation != TIMED_OUT]
            for row, episode in self.episodes.items()
        }


@dataclass(frozen=True, slots=True)
class Miss:
    """A recorded action whose reward is another one now, and the classes of why that may be ("" if it should not)."""

    row: int
    step: int
    action: str
    recorded: float
    ours: float
    why: str

    def __str__(self) -> str:
        return f"{self.row}.{self.step}: {self.recorded:g} then, {self.ours:g} now ({self.why or '?'}): {self.action}"


def data_folder(given: Path | None = None) -> Path:
    """Return the folder of InterCode's data: the one *given*, else that of CODECRAFT_DATA, or beside the clone.

    Raises:
        Unavailable: It is not there.
    """
    root = given or Path(os.environ.get("CODECRAFT_DATA") or _BESIDE) / "intercode"
    if not root.is_dir():
        raise Unavailable(f"InterCode's data are not in {root}; set CODECRAFT_DATA to the folder that holds intercode/")
    return root


def bash_recording(number: str, folder: Path) -> Recording:
    """Return the recorded bash runs on the file system *number* (blocking).

    Raises:
        Unavailable: The files are not in *folder*.
        TaskFileError, LogError: They cannot be read.
    """
    where = folder / "nl2bash"
    if not (where / f"gpt4_fs_{number}.json").is_file():
        raise Unavailable(f"there are no recorded bash runs in {where}")
    episodes = read_log(where / f"gpt4_fs_{number}.json")
    return Recording(
        number,
        load_dataset(where / f"fs_{number}.json"),
        {int(key): episode for key, episode in episodes.items()},
        where,
    )
