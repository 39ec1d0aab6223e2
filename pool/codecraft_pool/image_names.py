"""Names of images: what is one, which registry it means, and what stands for it on this site.

An air-gapped cluster has its own registry; a task says ``python:3.12-alpine`` all the same. Aliases say what is used
instead, by name (``python:3.12-alpine=registry.local/python:3.12``) or by pattern (``ghcr.io/*=registry.local/*``).
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from codecraft_pool.errors import ImageUnavailable

ALIASES_VARIABLE: Final = "CODECRAFT_IMAGE_ALIASES"
DEFAULT_REGISTRY: Final = "docker.io"
OUR_PREFIX: Final = "codecraft/"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::\d+)?"
_REFERENCE = re.compile(
    rf"(?:{_HOST}/)?{_PART}(?:/{_PART})*"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>[a-z0-9]+:[0-9a-fA-F]{32,}))?",
    re.ASCII,
)
_IMAGE_ID = re.compile(r"sha256:[0-9a-f]{64}")


def full_reference(reference: str) -> str:
    """The reference with `:latest` where it has neither tag nor digest, and without Docker Hub's own name.

    Raises:
        ImageUnavailable: it is no image reference at all.
    """
    if _IMAGE_ID.fullmatch(reference):
        return reference
    match = _REFERENCE.fullmatch(reference)
    if match is None or len(reference) > 512:
        raise ImageUnavailable(
            f"{reference[:100]!r} is not an image reference: expected something like 'debian:bookworm' or "
            "'registry.local:5000/team/image:tag', in lower case"
        )
    return _familiar(reference if match["tag"] or match["digest"] else f"{reference}:latest")


def _familiar(reference: str) -> str:
    """Docker Hub's images by their short names, as the daemon lists them."""
    for hub in ("docker.io/", "index.docker.io/"):
        if reference.startswith(hub):
            return reference.removeprefix(hub).removeprefix("library/")
    return reference


def registry_of(reference: str) -> str:
    """The registry that a full reference means: its first part, if that looks like a host, else Docker Hub."""
    first, slash, _ = reference.partition("/")
    is_host = slash and ("." in first or ":" in first or first == "localhost")
    return first if is_host else DEFAULT_REGISTRY


def _spellings(name: str) -> list[str]:
    """All that a full reference may be called, the longest first: Docker Hub's images have several names."""
    if registry_of(name) != DEFAULT_REGISTRY or _IMAGE_ID.fullmatch(name):
        return [name]
    official = [] if "/" in name else [f"{DEFAULT_REGISTRY}/library/{name}"]
    return [*official, f"{DEFAULT_REGISTRY}/{name}", name]


@dataclass(frozen=True, slots=True)
class Aliases:
    """What is used instead of an image. A name goes before a pattern, and a longer pattern before a shorter one."""

    names: Mapping[str, str] = field(default_factory=dict[str, str])
    patterns: Mapping[str, str] = field(default_factory=dict[str, str])
    """Beginnings of references, without the ``*`` at their end; what follows them is kept."""

    @classmethod
    def of(cls, pairs: Mapping[str, str]) -> Aliases:
        """The aliases of a mapping from names, or patterns that end in ``*``, to what is used instead.

        Raises:
            ImageUnavailable: one of them makes no sense.
        """
        names: dict[str, str] = {}
        patterns: dict[str, str] = {}
        for name, target in pairs.items():
            if name.endswith("*") != target.endswith("*"):
                raise ImageUnavailable(f"image alias {name}={target}: either both end in '*', or neither does")
            if name.endswith("*"):
                full_reference(f"{target[:-1]}x")  # what it gives must be a reference
                patterns[name[:-1]] = target[:-1]
            else:
                names[full_reference(name)] = full_reference(target)
        return cls(names, dict(sorted(patterns.items(), key=lambda pair: -len(pair[0]))))

    def resolve(self, reference: str) -> str:
        """The full reference of what is used for *reference*; itself where nothing else is. Never twice.

        Raises:
            ImageUnavailable: it is no image reference, or becomes none.
        """
        name = full_reference(reference)
        if name in self.names:
            return self.names[name]
        if name.startswith(OUR_PREFIX):  # no registry has these, and no pattern is meant for them
            return name
        for start, target in self.patterns.items():
            for spelling in _spellings(name):
                if spelling.startswith(start):
                    return full_reference(target + spelling.removeprefix(start))
        return name


def parse_alias(text: str) -> tuple[str, str]:
    """The two sides of ``NAME=TARGET``.

    Raises:
        ImageUnavailable: it is not of that form.
    """
    name, sign, target = text.strip().partition("=")
    if not (sign and name.strip() and target.strip()):
        raise ImageUnavailable(
            f"image alias {text[:100]!r}: expected NAME=TARGET, such as python:3=registry.local/python:3"
        )
    return name.strip(), target.strip()


def site_aliases(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The aliases of this site, from CODECRAFT_IMAGE_ALIASES: a TOML file with a table `aliases`, or pairs with commas.

    Raises:
        ImageUnavailable: the variable, or the file that it names, makes no sense.
    """
    text = environ.get(ALIASES_VARIABLE, "").strip()
    if not text:
        return {}
    if names_file(environ):
        return _aliases_of_file(Path(text))
    return dict(parse_alias(pair) for pair in text.split(",") if pair.strip())


def names_file(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether CODECRAFT_IMAGE_ALIASES names a file, which takes time to read."""
    return environ.get(ALIASES_VARIABLE, "").strip().endswith(".toml")


def _aliases_of_file(path: Path) -> dict[str, str]:
    try:
        content: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ImageUnavailable(f"the image aliases {path} ({ALIASES_VARIABLE}) cannot be read: {error}") from error
    table: Any = content.get("aliases")
    if not isinstance(table, dict) or not all(isinstance(value, str) for value in table.values()):
        raise ImageUnavailable(
            f'the image aliases {path} ({ALIASES_VARIABLE}) have no table [aliases] of "name" = "target"'
        )
    return {str(name): str(target) for name, target in table.items()}


__all__ = [
    "ALIASES_VARIABLE",
    "OUR_PREFIX",
    "Aliases",
    "full_reference",
    "names_file",
    "parse_alias",
    "registry_of",
    "site_aliases",
]
