"""Where this machine gets its Debian packages from, so that images come from the same mirrors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

DEBIAN_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
DEFAULT_SUITE = "bookworm"
_ONE_LINE = re.compile(r"^deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s+(?P<parts>.+)$")


def os_release(path: Path = Path("/etc/os-release")) -> dict[str, str]:
    """The fields of os-release; empty where there is none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    pairs = (line.partition("=") for line in lines if "=" in line and not line.startswith("#"))
    return {name.strip(): value.strip().strip("\"'") for name, _, value in pairs}


def machine_suite(release: Mapping[str, str] | None = None) -> str:
    """The Debian release to build from: this machine's own where it is a Debian, else a fixed one."""
    fields = os_release() if release is None else release
    is_debian = fields.get("ID") == "debian"
    return (fields.get("VERSION_CODENAME") if is_debian else None) or DEFAULT_SUITE


def package_tool_is_apt(release: Mapping[str, str] | None = None) -> bool:
    """Whether this machine is a Debian or made from one."""
    fields = os_release() if release is None else release
    return "debian" in [fields.get("ID"), *fields.get("ID_LIKE", "").split()]


def machine_sources(suite: str, directory: Path = Path("/etc/apt")) -> list[str]:
    """This machine's own sources of `suite`, as one-line entries; empty (let the builder choose) where it has none.

    Left out: what other keys than Debian's sign, and addresses with a password, which would stay in the image.
    """
    files = [directory / "sources.list", *sorted((directory / "sources.list.d").glob("*"))]
    wanted = {suite, f"{suite}-updates", f"{suite}-security"}
    entries: list[str] = []
    for file in files:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        parse = {".list": _one_line_entries, ".sources": _deb822_entries}.get(file.suffix)
        found = [] if parse is None else [entry for entry in parse(text) if entry[2] in wanted and _is_debian(*entry)]
        entries += [" ".join(filter(None, ("deb", options, uri, name, parts))) for options, uri, name, parts in found]
    has_release = any(f" {suite} " in entry for entry in entries)
    return list(dict.fromkeys(entries)) if has_release else []


def _is_debian(options: str, uri: str, suite: str, parts: str) -> bool:
    del suite
    signed_by_debian = "signed-by=" not in options or str(DEBIAN_KEYRING) in options
    return signed_by_debian and "main" in parts.split() and "@" not in uri


def _one_line_entries(text: str) -> Iterator[tuple[str, str, str, str]]:
    for line in text.splitlines():
        if match := _ONE_LINE.match(line.partition("#")[0].strip()):
            options = f"[{match['options'].strip()}]" if match["options"] else ""
            yield options, match["uri"], match["suite"], match["parts"].strip()


def _deb822_entries(text: str) -> Iterator[tuple[str, str, str, str]]:
    for stanza in re.split(r"\n\s*\n", text):
        fields: dict[str, str] = {}
        for line in stanza.splitlines():
            name, colon, value = line.partition(":")
            if colon and not line.startswith((" ", "\t", "#")):
                fields[name.strip().lower()] = value.strip()
        if fields.get("enabled", "yes").lower() in ("no", "false") or "deb" not in fields.get("types", "").split():
            continue
        signed_by = fields.get("signed-by")
        # An empty value here means a key block on the lines below, which no one-line entry can carry.
        options = "" if signed_by is None else f"[signed-by={signed_by or 'inline'}]"
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                yield options, uri, suite, fields.get("components", "")


__all__ = ["DEBIAN_KEYRING", "machine_sources", "machine_suite", "os_release", "package_tool_is_apt"]
