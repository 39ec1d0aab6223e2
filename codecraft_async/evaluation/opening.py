"""Environments by their names and by options as a command line has them: texts, which get the types they are for."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, Union, cast, get_args, get_origin, get_type_hints

import gymnasium
from gymnasium.envs.registration import load_env_creator

from codecraft_async.code_vector import CodeVectorEnv
from codecraft_async.env import CodeEnv
from codecraft_async.evaluation.errors import SettingsError
from codecraft_async.evaluation.languages import Language, language_of
from codecraft_async.intercode.base import InterCodeEnv
from codecraft_async.intercode.vector import InterCodeVectorEnv
from codecraft_async.vector import AsyncioVectorEnv
from codecraft_curriculum import Dataset

__all__ = ["EnvKind"]

_OWN: Final = frozenset(
    "self num_envs env data_path curriculum task sampler score_steps trust_pickle backend progress runtime loop golds "
    "autoreset_mode background_resets batch_size max_concurrency render_mode reset_faults traj_dir preprocess rules "
    "actions".split()
)
"""Options that the evaluation itself decides on, or that a text cannot say."""
_YES, _NO = ("true", "yes", "1", "on"), ("false", "no", "0", "off")


class EnvKind:
    """A registered environment, by its id, ``intercode/Bash-v0`` say, or ``module:id`` for one that *module* registers.

    Raises:
        SettingsError: There is none, or it cannot be vectorized; says which there are.
    """

    def __init__(self, env_id: str) -> None:
        module, colon, name = env_id.rpartition(":")
        if colon:
            try:
                importlib.import_module(module)
            except Exception as error:  # whatever a user's module does when it is imported
                raise SettingsError(f"--env {env_id}: the module {module!r} cannot be imported: {error}") from error
        spec = gymnasium.registry.get(name)
        point = None if spec is None else spec.vector_entry_point or spec.entry_point
        if spec is None or point is None:
            raise SettingsError(f"--env {env_id}: there is no such environment; these are known: {', '.join(_known())}")
        self.id = name
        self._defaults: dict[str, Any] = dict(spec.kwargs)
        try:
            loaded: Any = load_env_creator(point) if isinstance(point, str) else point
        except Exception as error:  # such as a package that it needs and is not there
            raise SettingsError(f"--env {env_id}: it cannot be loaded: {error}") from error
        self.vector: type[InterCodeVectorEnv | CodeVectorEnv]
        self.single: type[gymnasium.Env[Any, Any]]
        if inspect.isclass(loaded) and issubclass(loaded, InterCodeEnv):
            self._defaults["env"] = loaded
            self.vector, self.single = InterCodeVectorEnv, loaded
        elif inspect.isclass(loaded) and issubclass(loaded, InterCodeVectorEnv | CodeVectorEnv):
            self.vector, self.single = loaded, getattr(loaded, "env_class", None) or CodeEnv
        else:
            raise SettingsError(f"--env {env_id}: it has neither rows of data nor tasks of a curriculum to be played")

    @property
    def has_rows(self) -> bool:
        """Whether it plays rows of a dataset; else it plays tasks of a curriculum."""
        return issubclass(self.single, InterCodeEnv)

    @property
    def name(self) -> str:
        """What logs call it."""
        return str(getattr(self.single, "name", self.single.__name__))

    @property
    def language(self) -> Language:
        """What models are told of it."""
        own = getattr(self.single, "language", None)
        return own if isinstance(own, Language) else language_of(self.name)

    def options(self) -> dict[str, Any]:
        """Return the options that can be given, with their types."""
        many = [kind for kind in self.vector.__mro__ if issubclass(kind, InterCodeVectorEnv | CodeVectorEnv)]
        found = _all_arguments(many) | _all_arguments(self.single.__mro__)
        return {name: hint for name, hint in found.items() if name not in _OWN and _can_be_said(hint)}

    def arguments(self, texts: Mapping[str, str]) -> dict[str, Any]:
        """Return the options with the types that the environment wants.

        Raises:
            SettingsError: It has no such option, or a text is none of its values; says which are.
        """
        known = self.options()
        for name in texts:
            if name not in known:
                raise SettingsError(f"{self.id} has no option {name!r}; it has: {', '.join(sorted(known))}")
        return {name: _typed(text, known[name], f"option {name!r} of {self.id}") for name, text in texts.items()}

    async def dataset(self, data_path: str, **options: Any) -> Dataset:
        """Return the rows of a file, as the environment reads it, whose fields may have names of their own.

        Raises:
            SettingsError: An option has a value that it cannot have.
            CurriculumError, OSError: The data cannot be read.
        """
        known = _all_arguments(self.single.__mro__)  # of one; others are of many
        options = {name: value for name, value in (self._defaults | options).items() if name in known}
        env = cast(InterCodeEnv, await asyncio.to_thread(self._make, self.single, data_path=data_path, **options))
        await env.aclose()  # nothing was started
        assert env.dataset is not None
        return env.dataset

    def open(self, num_envs: int, **options: Any) -> AsyncioVectorEnv[Any, Any]:
        """Return so many environments, closed by the caller.

        Raises:
            SettingsError: An option has a value that it cannot have.
            CurriculumError, OSError: Data cannot be read.
        """
        env: AsyncioVectorEnv[Any, Any] = self._make(self.vector, num_envs, **self._defaults, **options)
        return env

    def _make(self, kind: Any, *args: Any, **options: Any) -> Any:
        try:
            return kind(*args, **options)
        except (TypeError, ValueError) as error:
            raise SettingsError(f"{self.id}: {error}") from error


def _known() -> list[str]:
    return sorted(
        name for name, spec in gymnasium.registry.items() if "codecraft_async" in str(spec.vector_entry_point)
    )


def _all_arguments(kinds: Sequence[type]) -> dict[str, Any]:
    """Return the arguments of all constructors of a class and those that it is derived from."""
    found: dict[str, Any] = {}
    for kind in kinds:
        if "__init__" in vars(kind):
            found = _arguments(kind) | found
    return found


def _arguments(kind: type) -> dict[str, Any]:
    """Return the arguments of a constructor that have a name, with their types where these can be told."""
    make = cast(Any, kind).__init__
    try:
        hints: dict[str, Any] = get_type_hints(make)
    except (NameError, TypeError):  # names that exist for type checkers only
        hints = {}
    found: dict[str, Any] = {}
    for name, parameter in inspect.signature(make).parameters.items():
        hint: Any = hints.get(name, Any)
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            options = get_args(hint)[0] if get_args(hint) else None  # Unpack[...] of a TypedDict
            found |= get_type_hints(options) if options is not None and hasattr(options, "__annotations__") else {}
        elif parameter.kind is not inspect.Parameter.VAR_POSITIONAL:
            found[name] = hint
    return found


def _typed(text: str, hint: Any, what: str) -> Any:
    """Return the value that *text* stands for; the first of several types whose value it can be."""
    wanted: list[str] = []
    for each in _members(hint):
        try:
            return _as_one(text, each)
        except ValueError as error:
            wanted.append(str(error))
    raise SettingsError(f"{what}: {text!r} is not {' or '.join(dict.fromkeys(wanted))}")


def _members(hint: Any) -> list[Any]:
    """Return the types of a union, those that few texts are values of first."""
    alias = getattr(hint, "__value__", hint)
    parts = list(get_args(alias)) if get_origin(alias) in (Union, types.UnionType) else [alias]
    flat = [inner for part in parts for inner in (_members(part) if part is not alias else [part])]
    order = [types.NoneType, bool, int, float]
    return sorted(flat, key=lambda part: order.index(part) if part in order else len(order) + (part in (str, Path)))


def _can_be_said(hint: Any) -> bool:
    return any(part in (bool, int, float, str, Path) or get_origin(part) is Literal for part in _members(hint))


def _as_one(text: str, hint: Any) -> Any:
    if get_origin(hint) is Literal:
        for value in get_args(hint):
            if text == str(value):
                return value
        raise ValueError(f"one of {', '.join(map(str, get_args(hint)))}")
    if hint is types.NoneType:
        return _one_of(text, {"none": None}, "none")
    if hint is bool:
        return _one_of(text, dict.fromkeys(_YES, True) | dict.fromkeys(_NO, False), "true or false")
    if hint in (int, float):
        name = "a whole number" if hint is int else "a number"
        try:
            return hint(text)
        except ValueError:
            raise ValueError(name) from None
    if hint in (str, Path):
        return text
    raise ValueError("anything that a command line can say")


def _one_of(text: str, values: Mapping[str, Any], name: str) -> Any:
    if text.lower() not in values:
        raise ValueError(name)
    return values[text.lower()]
