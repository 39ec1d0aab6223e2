"""Small repositories with a real bug each, in SWE-bench's terms: made by these scripts, the same bytes everywhere.

``python -m codecraft_curriculum.swe DIRECTORY`` writes them as bare git repositories, and ``swe.json`` beside them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from codecraft_curriculum.swe import agenda, settings, units
from codecraft_curriculum.swe.sample import Sample

__all__ = ["SAMPLES", "Sample", "write_samples"]

SAMPLES: tuple[Sample, ...] = (settings.SAMPLE, agenda.SAMPLE, units.SAMPLE)


def write_samples(directory: Path | str) -> list[dict[str, Any]]:
    """Write a bare repository ``codecraft/NAME.git`` for each sample, and ``swe.json``; return its rows (blocking).

    Raises:
        OSError: Something cannot be written, or is there already.
    """
    folder = Path(directory)
    for sample in SAMPLES:
        sample.write_to(folder / "codecraft" / f"{sample.name}.git")
    rows = [sample.row() for sample in SAMPLES]
    (folder / "swe.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return rows
