"""Graders made of graders."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from codecraft_curriculum._frozen import FrozenMapping
from codecraft_curriculum.grade import Grade, Grader
from codecraft_curriculum.sandbox import GradingSandbox

__all__ = ["COMBINATIONS", "AllOf", "AnyOf", "Combination"]

Combination = Literal["min", "product", "mean"]
COMBINATIONS: tuple[str, ...] = get_args(Combination)


@dataclass(frozen=True, slots=True)
class AllOf:
    """Combines named graders: by default the lowest score counts, so everything must pass for a full score.

    ``mean`` pays for parts, by `weights` (1.0 where not given). A part in `required` is a condition: if its score is
    not full, that of the whole is 0; in a mean it pays nothing unless it has a weight. Parts that run no code of the
    agent's are graded first, because what they trust (no process of the agent's is alive) ends with the first program
    that is run.
    """

    graders: Mapping[str, Grader]
    combine: Combination = "min"
    weights: Mapping[str, float] = field(default_factory=FrozenMapping[str, float])
    required: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        object.__setattr__(self, "graders", FrozenMapping(self.graders))
        object.__setattr__(self, "weights", FrozenMapping(self.weights))
        _check_named(self.graders)
        if self.combine not in COMBINATIONS:
            raise ValueError(f"combine {self.combine!r} is not known: use one of {', '.join(COMBINATIONS)}")
        if self.weights and self.combine != "mean":
            raise ValueError(f"weights count only with combine = 'mean', not {self.combine!r}")
        for name, weight in self.weights.items():
            if name not in self.graders:
                raise ValueError(f"weight for {name!r}, which is no check: the checks are {', '.join(self.graders)}")
            if not (math.isfinite(weight) and weight > 0):
                raise ValueError(f"weight of {name!r} is {weight}: give a number above 0")
        self._check_required()

    def _check_required(self) -> None:
        for name in self.required:
            if name not in self.graders:
                raise ValueError(f"{name!r} is required, but no check: the checks are {', '.join(self.graders)}")
        if self.combine == "mean" and not self._paying():
            raise ValueError("every check is required and none has a weight, so nothing would pay: give one a weight")

    @property
    def runs_agent_code(self) -> bool:
        """Whether any part does."""
        return any(grader.runs_agent_code for grader in self.graders.values())

    async def grade(self, sandbox: GradingSandbox) -> Grade:
        """Grade every part, one after the other, and combine the scores."""
        grades: dict[str, Grade] = {}
        for name, grader in sorted(self.graders.items(), key=lambda item: item[1].runs_agent_code):
            grades[name] = await grader.grade(sandbox)
        parts = {name: grades[name].score for name in self.graders}
        failed = next((name for name in self.graders if not grades[name].passed), None)
        if failed is None:
            return Grade(1.0, parts, f"all {len(parts)} checks passed" if len(parts) > 1 else grades[min(parts)].reason)
        missed = next((name for name in self.graders if name in self.required and not grades[name].passed), None)
        if missed is not None:
            return Grade(0.0, parts, f"{missed}, which is required: {grades[missed].reason}")
        return Grade(self._combined(parts), parts, f"{failed}: {grades[failed].reason}")

    def _paying(self) -> dict[str, float]:
        """Return the weights of the parts that pay in a mean."""
        return {
            name: self.weights.get(name, 1.0)
            for name in self.graders
            if name in self.weights or name not in self.required
        }

    def _combined(self, parts: Mapping[str, float]) -> float:
        if self.combine == "min":
            return min(parts.values())
        if self.combine == "product":
            return math.prod(parts.values())
        weights = self._paying()
        total = math.fsum(weight * parts[name] for name, weight in weights.items())
        return min(1.0, total / math.fsum(weights.values()))


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Takes the best of several named graders; the parts after a full score are not graded."""

    graders: Mapping[str, Grader]

    def __post_init__(self) -> None:
        object.__setattr__(self, "graders", FrozenMapping(self.graders))
        _check_named(self.graders)

    @property
    def runs_agent_code(self) -> bool:
        """Whether any part does."""
        return any(grader.runs_agent_code for grader in self.graders.values())

    async def grade(self, sandbox: GradingSandbox) -> Grade:
        """Grade part after part until one has a full score."""
        grades: dict[str, Grade] = {}
        for name, grader in sorted(self.graders.items(), key=lambda item: item[1].runs_agent_code):
            grades[name] = await grader.grade(sandbox)
            if grades[name].passed:
                break
        parts = {name: grade.score for name, grade in grades.items()}
        best = max(grades, key=lambda name: grades[name].score)
        return Grade(grades[best].score, parts, f"{best}: {grades[best].reason}")


def _check_named(graders: Mapping[str, Grader]) -> None:
    if not graders:
        raise ValueError("no checks: give at least one grader")
