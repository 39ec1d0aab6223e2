"""Tables of files in a task file: each entry is text, or a table with text, base64, a link or a directory."""

from __future__ import annotations

import base64
import binascii

from codecraft_curriculum.errors import TaskFileError
from codecraft_curriculum.fields import Table, as_table
from codecraft_curriculum.workspace import WorkspaceFile

__all__ = ["read_files"]


def read_files(table: Table, name: str) -> dict[str, WorkspaceFile]:
    """Return the entries of a table of files: each is text, or a table with text, base64, symlink or directory."""
    entries: dict[str, WorkspaceFile] = {}
    for path, value in table.table(name).items():
        where = f"{table.path(name)}.{path!r}"
        values = as_table(value)
        if isinstance(value, str):
            entries[path] = WorkspaceFile(value.encode())
        elif values is not None:
            allowed = ("text", "base64", "symlink", "directory", "mode")
            entries[path] = _read_entry(Table(values, file=table.file, where=where, allowed=allowed))
        else:
            raise TaskFileError(table.file, f"{where}: expected text or a table, got {type(value).__name__}")
    return entries


def _read_entry(entry: Table) -> WorkspaceFile:
    kinds = [kind for kind in ("text", "base64", "symlink", "directory") if kind in entry]
    if len(kinds) != 1:
        raise TaskFileError(entry.file, f"{entry.where}: give exactly one of text, base64, symlink, directory")
    mode = entry.text("mode", "755" if kinds == ["directory"] else "644")
    if not (1 <= len(mode) <= 3 and set(mode) <= set("01234567")):
        raise entry.error("mode", f"{mode!r} is not allowed: write octal digits as text, like '755'")
    if kinds == ["symlink"]:
        return WorkspaceFile.symlink(entry.text("symlink"))
    if kinds == ["directory"]:
        if entry.raw("directory") is not True:
            raise entry.error("directory", "expected true")
        return WorkspaceFile.directory(int(mode, 8))
    if kinds == ["text"]:
        return WorkspaceFile(entry.text("text").encode(), int(mode, 8))
    try:
        return WorkspaceFile(base64.b64decode(entry.text("base64"), validate=True), int(mode, 8))
    except binascii.Error as error:
        raise entry.error("base64", f"is not valid: {error}") from None
