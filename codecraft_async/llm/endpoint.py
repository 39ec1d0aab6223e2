"""Where a model is, and the key to it: from arguments, the environment or `.env`. The key shows itself nowhere."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn, Self, overload
from urllib.parse import urlsplit

from codecraft_async.llm.errors import LlmConfigurationError

KEY_NAME: Final = "OPENAI_API_KEY"
URL_NAME: Final = "OPENAI_BASE_URL"
MODEL_NAME: Final = "OPENAI_MODEL"
DEFAULT_URL: Final = "https://api.openai.com/v1"
_MAX_FILE_BYTES: Final = 1 << 16
_LINE: Final = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)")
_QUOTED: Final = re.compile(r"""(?:"((?:[^"\\]|\\.)*)"|'([^']*)')\s*(?:#.*)?""")
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r"}


class Secret:
    """A key that no `repr`, log line, error or pickle shows; `reveal` gives it to whoever must send it."""

    __slots__ = ("_spellings", "_value")

    def __init__(self, value: str) -> None:
        value = value.strip()
        if not value.isascii() or not value.isprintable() or " " in value:
            raise LlmConfigurationError(
                "the key holds what no HTTP header can carry, such as a space, a line end or a letter beyond ASCII: "
                "copy it again"
            )
        self._value = value
        self._spellings = re.compile("".join(map(_spellings, value)).encode())

    def reveal(self) -> str:
        """Return the key."""
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __repr__(self) -> str:
        return "<key>" if self._value else "<no key>"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key is not pickled: have every process read it from its environment or from .env")

    @overload
    def redact(self, text: str) -> str: ...
    @overload
    def redact(self, text: bytes) -> bytes: ...
    def redact(self, text: str | bytes) -> str | bytes:
        """Return *text* without the key, spelled as it is or with the escapes that JSON allows in a text."""
        if not self._value:
            return text
        if isinstance(text, bytes):
            return self._spellings.sub(b"<key>", text)
        return self._spellings.sub(b"<key>", text.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass")


def _spellings(char: str) -> str:
    """Return the pattern of a character of a key as JSON may spell it, in a text within a text as well."""
    number = "".join(f"[{digit}{digit.upper()}]" for digit in f"{ord(char):04x}")
    return rf"(?:\\{{0,8}}{re.escape(char)}|\\{{1,8}}u{number})"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An OpenAI-compatible endpoint: the address that ``/chat/completions`` is appended to, a model, and a key.

    Raises:
        LlmConfigurationError: The address is none, or holds a password; there is no model's name.
    """

    model: str
    base_url: str = DEFAULT_URL
    key: Secret = Secret("")  # noqa: RUF009  # immutable

    def __post_init__(self) -> None:
        if not self.model.strip():
            raise LlmConfigurationError(f"no model is named: give one, or set {MODEL_NAME}")
        if not isinstance(self.key, Secret):  # pyright: ignore[reportUnnecessaryIsInstance]  # users' code is not all typed
            raise LlmConfigurationError("the key must be a Secret, so that it shows itself nowhere: Secret(...)")
        try:
            parts = urlsplit(self.base_url)
            is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            parts, is_address = None, False
        if parts is None or not is_address:
            raise LlmConfigurationError("the base URL is no http or https address: give one like " + DEFAULT_URL)
        if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
            raise LlmConfigurationError(
                f"the base URL must be a plain address like {DEFAULT_URL}, without user, password or query; the key "
                f"belongs into {KEY_NAME}"
            )

    @property
    def url(self) -> str:
        """Where requests go."""
        return f"{self.base_url.rstrip('/')}/chat/completions"

    @classmethod
    def find(
        cls,
        *,
        model: str | None = None,
        base_url: str | None = None,
        dotenv: Path | str | None = ".env",
        environ: Mapping[str, str] | None = None,
    ) -> Self:
        """Return the endpoint that arguments, then the environment, then the file *dotenv* tell of.

        The names are OPENAI_API_KEY, OPENAI_BASE_URL and OPENAI_MODEL. A file that is not there is none. A server of
        one's own may need no key; OpenAI's does.

        Raises:
            LlmConfigurationError: Something is missing or cannot be used. So is an address from *dotenv* for a key
                from the environment: a file that lies in some directory must not decide who gets that key.
        """
        environment = os.environ if environ is None else environ
        filed = {} if dotenv is None else read_dotenv(Path(dotenv))
        key = environment.get(KEY_NAME) or filed.get(KEY_NAME, "")
        url = base_url or environment.get(URL_NAME) or filed.get(URL_NAME, "")
        if environment.get(KEY_NAME) and not (base_url or environment.get(URL_NAME)) and url:
            raise LlmConfigurationError(
                f"{dotenv} gives the address and the environment the key, which may not be meant for that address: set "
                f"{URL_NAME} in the environment too, give the address as an argument, or put the key into the file"
            )
        name = model or environment.get(MODEL_NAME) or filed.get(MODEL_NAME, "")
        if not key and not url:
            raise LlmConfigurationError(
                f"no key: set {KEY_NAME} in the environment or in .env, or give the base URL of a server that needs "
                "none"
            )
        return cls(model=name, base_url=url or DEFAULT_URL, key=Secret(key))


def read_dotenv(path: Path) -> dict[str, str]:
    """Return the variables of a `.env` file; none if there is no such file. Nothing is expanded or executed.

    Raises:
        LlmConfigurationError: It cannot be read, or a line is no assignment; names the line and never quotes it.
    """
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise LlmConfigurationError(f"{path} is no file with lines in it, but a pipe or a device")
            data = file.read(_MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise LlmConfigurationError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > _MAX_FILE_BYTES:
        raise LlmConfigurationError(f"{path} has more than {_MAX_FILE_BYTES} bytes: that is no .env file")
    variables: dict[str, str] = {}
    for number, line in enumerate(data.decode("utf-8-sig", "replace").splitlines(), start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        match = _LINE.fullmatch(text)
        if match is None:
            raise LlmConfigurationError(f"{path}, line {number}: expected NAME=value")
        variables[match[1]] = _value(match[2], f"{path}, line {number}")
    return variables


def _open_at_once(path: str, flags: int) -> int:
    """Open a file, and wait for nobody, should it be a pipe that lies there."""
    return os.open(path, flags | os.O_NONBLOCK)


def _value(text: str, where: str) -> str:
    if not text.startswith(('"', "'")):
        return re.split(r"(?:^|\s)#", text, maxsplit=1)[0].rstrip()
    match = _QUOTED.fullmatch(text)
    if match is None:
        raise LlmConfigurationError(f"{where}: a quote that is not closed, or text after it")
    if match[2] is not None:
        return match[2]
    return re.sub(r"\\(.)", lambda escape: _ESCAPES.get(escape[1], escape[1]), match[1])


__all__ = ["DEFAULT_URL", "KEY_NAME", "MODEL_NAME", "URL_NAME", "Endpoint", "Secret", "read_dotenv"]
