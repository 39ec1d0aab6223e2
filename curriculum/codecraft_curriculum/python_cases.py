"""Case sources that come with a task, as Python text beside its task file."""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import ModuleType
from typing import cast

from codecraft_curriculum.program import Case

__all__ = ["PythonCases"]


@dataclass(frozen=True, slots=True)
class PythonCases:
    """Draws cases with a function of a Python text, ``function(rng) -> list[Case]``, which runs on the host.

    It is kept as text, so that tasks stay data that pickles; it is trusted as much as any program that one runs.
    Raises `ValueError` if the text does not define the function.
    """

    text: str = field(repr=False)
    function: str
    file: str

    def __post_init__(self) -> None:
        self._load()

    def __call__(self, rng: random.Random, /) -> Sequence[Case]:
        """Return the cases that the function draws."""
        return self._load()(rng)

    def _load(self) -> Callable[[random.Random], Sequence[Case]]:
        function = _namespace(self.text, self.file).get(self.function)
        if not callable(function):
            raise ValueError(f"{self.file} defines no function {self.function!r}")
        return cast(Callable[[random.Random], Sequence[Case]], function)


@lru_cache(maxsize=256)
def _namespace(text: str, file: str) -> dict[str, object]:
    module = ModuleType(f"codecraft_task_cases_{hashlib.sha256(f'{file}:{text}'.encode()).hexdigest()[:16]}")
    module.__file__ = file
    sys.modules[module.__name__] = module  # dataclasses look their module up
    try:
        exec(compile(text, file, "exec", dont_inherit=True), module.__dict__)  # the task's own code, trusted as such
    except Exception as error:
        del sys.modules[module.__name__]
        raise ValueError(f"{file} fails: {type(error).__name__}: {error}") from error
    return module.__dict__
