"""The checks of a task file that look at data: JSON, CSV, directories, databases, servers."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from codecraft_curriculum.check_fields import COMMAND_FIELDS, MATCH_FIELDS, CheckContext, read_command, read_match
from codecraft_curriculum.documents import CsvGrader, JsonGrader
from codecraft_curriculum.fields import Table, as_table
from codecraft_curriculum.grade import Grader
from codecraft_curriculum.matching import Match
from codecraft_curriculum.servers import Exchange, ServerGrader
from codecraft_curriculum.sqlite_query import SqliteGrader
from codecraft_curriculum.tree import TREE_KINDS, TreeEntry, TreeGrader, TreeKind
from codecraft_curriculum.workspace import check_path

__all__ = ["DATA_CHECKS", "CheckReader"]

CheckReader = tuple[Callable[[Table, CheckContext], Grader], tuple[str, ...]]
"""What makes a grader of a table, and the fields that the table may have."""

_COMPARED = ("path", "expected", "unordered", "tolerance", "max_bytes")
_ENTRY = ("kind", *MATCH_FIELDS, "mode", "target", "same_file_as")
_EXCHANGE = ("method", "path", "send", "request_headers", "status", "headers", "keep_open", *MATCH_FIELDS)


def _read_json(table: Table, context: CheckContext) -> Grader:
    del context
    return JsonGrader(
        check_path(table.text("path")),
        table.text("expected"),
        unordered=table.truth("unordered", False),
        tolerance=table.number("tolerance", 1e-9),
        max_bytes=table.whole("max_bytes", 1 << 20),
    )


def _read_csv(table: Table, context: CheckContext) -> Grader:
    del context
    return CsvGrader(
        check_path(table.text("path")),
        table.text("expected"),
        delimiter=table.text("delimiter", ","),
        unordered=table.truth("unordered", False),
        tolerance=table.number("tolerance", 1e-9),
        max_bytes=table.whole("max_bytes", 1 << 20),
    )


def _read_sqlite(table: Table, context: CheckContext) -> Grader:
    del context
    return SqliteGrader(
        check_path(table.text("path")),
        table.text("query"),
        table.text("expected"),
        unordered=table.truth("unordered", False),
        tolerance=table.number("tolerance", 1e-9),
        max_bytes=table.whole("max_bytes", 16 << 20),
    )


def _read_tree(table: Table, context: CheckContext) -> Grader:
    directory = table.text("directory", "")
    entries: dict[str, TreeEntry] = {}
    for path, value in table.table("entries").items():
        values = as_table(value)
        if isinstance(value, str):
            entries[path] = TreeEntry(content=Match(value, "exact"))
        elif values is not None:
            where = f"{table.path('entries')}.{path!r}"
            entries[path] = _read_tree_entry(Table(values, file=context.file, where=where, allowed=_ENTRY))
        else:
            raise table.error(f"entries.{path}", "expected text, or a table with kind, expected, mode or target")
    return TreeGrader(
        check_path(directory) if directory else "",
        entries,
        exact=table.truth("exact", True),
        ignore=table.texts("ignore", ()),
        partial=table.truth("partial", False),
        max_bytes=table.whole("max_bytes", 1 << 20),
    )


def _read_tree_entry(entry: Table) -> TreeEntry:
    mode = entry.text("mode", "") if "mode" in entry else None
    if mode is not None and not (1 <= len(mode) <= 4 and set(mode) <= set("01234567")):
        raise entry.error("mode", f"{mode!r} is not allowed: write octal digits as text, like '755'")
    return TreeEntry(
        kind=cast(TreeKind, entry.choice("kind", TREE_KINDS, "symlink" if "target" in entry else "file")),
        content=read_match(entry) if "expected" in entry else None,
        mode=None if mode is None else int(mode, 8),
        target=entry.text("target") if "target" in entry else None,
        same_file_as=entry.text("same_file_as") if "same_file_as" in entry else None,
    )


def _read_server(table: Table, context: CheckContext) -> Grader:
    exchanges: list[Exchange] = []
    for number, values in enumerate(table.tables("exchanges")):
        where = f"{table.path('exchanges')}[{number}]"
        each = Table(values, file=context.file, where=where, allowed=_EXCHANGE)
        exchanges.append(
            Exchange(
                expected=read_match(each) if "expected" in each else None,
                method=each.text("method", ""),
                path=each.text("path", "/"),
                send=each.text("send", ""),
                request_headers=each.texts_by_name("request_headers"),
                status=each.whole("status") if "status" in each else None,
                headers=each.texts_by_name("headers"),
                keep_open=each.truth("keep_open", False),
            )
        )
    return ServerGrader(
        read_command(table),
        tuple(exchanges),
        port=table.whole("port", 0),
        idle=table.whole("idle", 0),
        partial=table.truth("partial", False),
    )


DATA_CHECKS: dict[str, CheckReader] = {
    "json": (_read_json, _COMPARED),
    "csv": (_read_csv, (*_COMPARED, "delimiter")),
    "sqlite": (_read_sqlite, (*_COMPARED, "query")),
    "tree": (_read_tree, ("directory", "entries", "exact", "ignore", "partial", "max_bytes")),
    "server": (_read_server, (*COMMAND_FIELDS, "port", "exchanges", "idle", "partial")),
}
