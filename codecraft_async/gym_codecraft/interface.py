"""The two interfaces of gym-codecraft: which actions there are, and every text that programs may match on.

"new" is that of its last version: ``start``, ``close`` and ``exit``, and a teacher that grades what is submitted. It
takes a ``reset`` with a ``task_id`` as well, so that what was written for the older one runs. "old" is that of its
README: ``reset`` chooses a task, and a submission ends nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, cast, get_args

from codecraft_async.gym_codecraft._student_text import STUDENT_TEXT

__all__ = [
    "CLOSED",
    "EXITED",
    "INTERFACES",
    "MAX_JSON_CHARS",
    "SUBMITTED",
    "Interface",
    "InterfaceName",
    "InvalidAction",
    "Request",
    "interface_named",
    "parse_action",
]

InterfaceName = Literal["new", "old"]
INTERFACES: Final[tuple[str, ...]] = get_args(InterfaceName)

CLOSED: Final = "Task closed."
EXITED: Final = "Exited."
SUBMITTED: Final = "Code submitted."
MAX_JSON_CHARS: Final = 1 << 20
"""The longest action; most of it may be the content of a file."""


class InvalidAction(ValueError):
    """An action that cannot be done as it is; the message is for whoever acts."""


@dataclass(frozen=True, slots=True)
class Interface:
    """What tells one interface from the other."""

    name: InterfaceName
    actions: frozenset[str]
    needs_task: frozenset[str] | None
    """The actions that are answered with `no_task` where there is no task; None: all that do not choose one."""
    no_task: str
    malformed: str
    welcome: str
    hidden_fields: frozenset[str]
    """The fields of a task in curriculum.json that a student is not shown."""
    max_score: float
    """What a perfect submission earns."""
    submit_closes: bool

    def lacks_task(self, request: Request) -> bool:
        """Whether the action makes no sense without a task."""
        if self.needs_task is not None:
            return request.action in self.needs_task and not request.chooses_task
        return request.action != "reset"

    def say_malformed(self, error: object) -> str:
        """Return the observation of an action that cannot be done."""
        return self.malformed.format(error=error)


@dataclass(frozen=True, slots=True)
class Request:
    """An action, as parsed."""

    action: str
    fields: Mapping[str, object]

    @property
    def chooses_task(self) -> bool:
        """Whether it says which task to work on."""
        return self.action in ("start", "reset") and "task_id" in self.fields

    def text(self, name: str) -> str:
        """Return a field that must be there and be text that a program can be given.

        Raises:
            InvalidAction: It is not.
        """
        value = self._field(name)
        if not isinstance(value, str):
            raise InvalidAction(f"the field {name!r} must be text, not {_type_name(value)}")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidAction(f"the field {name!r} holds half of a surrogate pair, which is no character") from None
        return value

    def task_id(self) -> str | None:
        """Return which task is chosen, None if null was given; a whole number is taken for its digits.

        Raises:
            InvalidAction: The field is missing, or neither text, nor a whole number, nor null.
        """
        value = self._field("task_id")
        if value is None:
            return None
        if isinstance(value, str):
            return whole(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        raise InvalidAction(f"the field 'task_id' must be text, not {_type_name(value)}")

    def _field(self, name: str) -> object:
        if name not in self.fields:
            raise InvalidAction(repr(name))  # no more than the name: so it was always said
        return self.fields[name]


_NEW: Final = Interface(
    name="new",
    actions=frozenset({"start", "command", "write_file", "reset", "submit", "close", "exit"}),
    needs_task=frozenset({"command", "write_file", "reset", "submit"}),
    no_task="No task started. Please use start action to start a task.",
    malformed="Invalid action error: {error}",
    welcome=STUDENT_TEXT,
    hidden_fields=frozenset({"for_teacher", "test"}),
    max_score=10.0,
    submit_closes=True,
)
_OLD: Final = Interface(
    name="old",
    actions=frozenset({"command", "write_file", "reset", "submit", "exit"}),
    needs_task=None,
    no_task="No running container: please use `{'action':'reset', 'task_id':'?'}` to choose a task.",
    malformed="Invalid action: {error}",
    welcome="\n",
    hidden_fields=frozenset({"for_teacher"}),
    max_score=1.0,
    submit_closes=False,
)


def interface_named(name: str) -> Interface:
    """Return the interface of that name.

    Raises:
        ValueError: There is none.
    """
    if name not in INTERFACES:
        raise ValueError(f"interface is {name!r}; it must be {' or '.join(map(repr, INTERFACES))}")
    return _NEW if name == "new" else _OLD


def parse_action(text: str) -> Request:
    """Return what a JSON text asks for.

    Raises:
        InvalidAction: It is no JSON object with a field "action"; the message is the JSON reader's where it failed.
    """
    if len(text) > MAX_JSON_CHARS:
        raise InvalidAction(f"an action cannot be longer than {MAX_JSON_CHARS} characters")
    try:
        value: object = json.loads(text)
    except RecursionError:
        raise InvalidAction("the JSON is nested too deeply") from None
    except ValueError as error:
        raise InvalidAction(str(error)) from None
    if not isinstance(value, dict):
        raise InvalidAction(f'an action is a JSON object such as {{"action": "command", ...}}, not {_type_name(value)}')
    fields = cast("dict[str, Any]", value)
    if "action" not in fields:
        raise InvalidAction("'action'")
    action = fields["action"]
    return Request(whole(action) if isinstance(action, str) else json.dumps(action), fields)


def whole(text: str) -> str:
    """Return *text* with halves of surrogate pairs, which JSON may spell and no file can hold, replaced."""
    return text.encode("utf-8", "replace").decode()


def _type_name(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    names = ((dict, "an object"), (list, "a list"), (str, "text"))
    return next((name for kind, name in names if isinstance(value, kind)), "a number")
