"""The rows as a picture: how far each one is from its target, on one scale, as SVG written by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Final

from benchmarks.results import Row, Target, rounded
from benchmarks.table import Machine

_WIDTH: Final = 1160
_LEFT: Final = 560
_RIGHT: Final = 200
_LINE: Final = 30
_TOP: Final = 70
_DECADES: Final = 2.0  # shown on either side of the target; what is further away is drawn at the edge
_COLOURS: Final = {True: "#2e7d32", False: "#c62828"}


def margin(target: Target, value: float) -> float:
    """Return how many times better than its target a value is; below 1 it misses it."""
    if target.sign == "<":
        return math.inf if value <= 0 else target.bound / value
    return max(value, 0.0) / target.bound


def as_svg(rows: Sequence[Row], machine: Machine) -> str:
    """Return the picture: a bar for each row that has a target, to the right of the line if it keeps it."""
    shown = [row for row in rows if row.spec.target is not None]
    height = _TOP + _LINE * len(shown) + 40
    head = f"{machine.cores} cores, {machine.cpu}" + (", busy with other things" if machine.was_busy else "")
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="13">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        '<text x="16" y="24" font-size="16">How many times better than its target</text>',
        f'<text x="16" y="44" fill="#555">{escape(head)}; whiskers: lowest and highest round; log scale</text>',
    ]
    for decade in range(-int(_DECADES), int(_DECADES) + 1):
        parts += _rule(decade, height - 36)
    for index, row in enumerate(shown):
        parts += _bar(row, _TOP + _LINE * index)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _x(times: float) -> float:
    decades = -_DECADES if times <= 0 else min(max(math.log10(times), -_DECADES), _DECADES)
    return round(_LEFT + (_WIDTH - _LEFT - _RIGHT) * (decades + _DECADES) / (2 * _DECADES), 1)


def _rule(decade: int, bottom: int) -> list[str]:
    x = _x(10.0**decade)
    label = "target" if decade == 0 else f"{10.0**decade:g}x"
    colour = "#333" if decade == 0 else "#ddd"
    return [
        f'<line x1="{x}" x2="{x}" y1="{_TOP - 8}" y2="{bottom}" stroke="{colour}"/>',
        f'<text x="{x}" y="{bottom + 18}" text-anchor="middle" fill="#555">{label}</text>',
    ]


def _bar(row: Row, top: int) -> list[str]:
    middle = top + _LINE // 2
    said = [f'<text x="{_LEFT - 12}" y="{middle + 4}" text-anchor="end">{escape(row.spec.title)}</text>']
    target, figure = row.spec.target, row.figure
    assert target is not None
    if figure is None:
        return [*said, f'<text x="{_LEFT + 6}" y="{middle + 4}" fill="#888">not measured</text>']
    start, end = _x(1.0), _x(margin(target, figure.value))
    width = max(abs(end - start), 1.0)
    colour = _COLOURS[target.holds(figure.value)]
    said.append(f'<rect x="{min(start, end)}" y="{top + 6}" width="{width}" height="{_LINE - 12}" fill="{colour}"/>')
    if figure.rounds:
        ends = sorted(_x(margin(target, value)) for value in figure.rounds)
        said.append(f'<line x1="{ends[0]}" x2="{ends[-1]}" y1="{middle}" y2="{middle}" stroke="black"/>')
    value = f"{rounded(figure.value):g} {row.spec.unit} ({target})"
    said.append(f'<text x="{_WIDTH - _RIGHT + 8}" y="{middle + 4}">{escape(value)}</text>')
    return said
