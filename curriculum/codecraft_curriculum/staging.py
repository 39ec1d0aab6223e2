"""Running a program of the agent's in a scratch directory that the host has filled, and bringing back what it left.

Everything travels in archives over standard input and output: nothing is written into the workspace, and what comes
back is data from a hostile program, of bounded size.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, replace

from codecraft_curriculum.grade import Grade, excerpt
from codecraft_curriculum.graders import CommandSpec
from codecraft_curriculum.sandbox import CommandOutcome, GradingSandbox
from codecraft_curriculum.workspace import WORKSPACE_MTIME_S, WorkspaceFile

__all__ = ["Expected", "Left", "archive", "as_entry", "files_problem", "run_staged"]

Expected = WorkspaceFile | bytes | str

_TREE = "tree"
_RUN = """
umask 022
ulimit -f 65536
box=$(mktemp -d) || exit 125
trap 'chmod -R u+rwX "$box" 2>/dev/null; rm -rf -- "$box"' EXIT
mkdir "$box/tree" && tar -xpf - -C "$box" && cd "$box/tree" || exit 125
"$@" < "$box/stdin" > "$box/stdout"
echo "$?" > "$box/status"
cd / && tar -cf - --format=gnu --owner=0 --group=0 -C "$box" status stdout tree
"""
_CANNOT_STAGE = 125


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """How a staged program ended, and the tree that it left."""

    stdout: bytes
    stderr: bytes
    exit_code: int
    files: Mapping[str, WorkspaceFile]
    signal: int = 0
    timed_out: bool = False
    truncated: bool = False


def archive(files: Mapping[str, WorkspaceFile], mtimes: Mapping[str, int] | None = None) -> bytes:
    """Return a tar archive of entries, with their modes; the same bytes everywhere."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as stream:
        for path, entry in sorted(files.items(), key=lambda item: (item[1].kind != "directory", item[0])):
            info = tarfile.TarInfo(path)
            info.mode = entry.mode
            info.mtime = (mtimes or {}).get(path, WORKSPACE_MTIME_S)
            info.size = len(entry.data)
            if entry.kind != "file":
                info.type = tarfile.DIRTYPE if entry.kind == "directory" else tarfile.SYMTYPE
                info.linkname = entry.target
            stream.addfile(info, io.BytesIO(entry.data))
    return buffer.getvalue()


async def run_staged(
    command: CommandSpec,
    sandbox: GradingSandbox,
    *,
    arguments: tuple[str, ...] = (),
    stdin: bytes = b"",
    files: Mapping[str, WorkspaceFile],
    mtimes: Mapping[str, int],
) -> Left | Grade:
    """Run a command in a new directory that holds `files`; return what it left there, or a failing grade."""
    staged = {f"{_TREE}/{path}": entry for path, entry in files.items()}
    given = archive({**staged, "stdin": WorkspaceFile(stdin)}, {f"{_TREE}/{path}": mtimes[path] for path in mtimes})
    words = ("sh", "-c", command.command, "sh") if isinstance(command.command, str) else command.command
    inner = replace(command, command=("sh", "-c", _RUN, "sh", *words), stdin=given)
    outcome = await inner.run(sandbox, arguments=arguments)
    if isinstance(outcome, Grade):
        return Grade.failure(outcome.reason.replace(str(inner), str(command), 1))
    if outcome.exit_code == _CANNOT_STAGE and not outcome.stdout:
        raise RuntimeError(f"the scratch directory of a case cannot be made: {excerpt(outcome.stderr)}")
    try:
        return _unpack(outcome)
    except (tarfile.TarError, ValueError, EOFError, KeyError) as error:
        return Grade.failure(f"{command} left a directory that cannot be read back: {excerpt(str(error))}")


def _unpack(outcome: CommandOutcome) -> Left:
    """Return what an archive of the sandbox's says; `ValueError` if it is none of ours."""
    files: dict[str, WorkspaceFile] = {}
    with tarfile.open(fileobj=io.BytesIO(outcome.stdout), mode="r:") as stream:
        for info in stream:
            if info.isreg() and info.size > len(outcome.stdout):
                raise ValueError("a file in it is larger than the archive")
            if info.isreg():
                data = stream.extractfile(info)
                files[info.name] = WorkspaceFile(b"" if data is None else data.read(), info.mode & 0o777)
            elif info.isdir():
                files[info.name] = WorkspaceFile.directory(info.mode & 0o777)
            elif info.issym():
                files[info.name] = WorkspaceFile(mode=0o777, kind="symlink", target=info.linkname or "?")
            elif info.islnk():
                files[info.name] = files[info.linkname]
            else:
                raise ValueError(f"{excerpt(info.name, 40)} is no file, directory or link")
    status, stdout = files["status"].data, files["stdout"].data
    if not (status.strip().isdigit() and len(status) < 5):
        raise ValueError("its exit status is missing")
    tree = {path.removeprefix(f"{_TREE}/"): entry for path, entry in files.items() if path.startswith(f"{_TREE}/")}
    return Left(stdout=stdout, stderr=outcome.stderr, exit_code=int(status), files=tree)


def as_entry(value: Expected) -> WorkspaceFile:
    """Return an entry; bytes and text (as UTF-8) are files of mode 644."""
    if isinstance(value, WorkspaceFile):
        return value
    return WorkspaceFile(value.encode() if isinstance(value, str) else value)


def files_problem(expected: Mapping[str, Expected], left: Mapping[str, WorkspaceFile]) -> str | None:
    """Return what is wrong with the tree that a program left, or None.

    Bytes and text stand for a file of this content, whatever its mode; an entry must fit in all. Directories do not
    count where none is expected.
    """
    for path, wanted in expected.items():
        here = left.get(path)
        if here is None:
            return f"{path} is missing afterwards"
        entry = as_entry(wanted)
        if here.kind != entry.kind:
            return f"{path} should be a {entry.kind} afterwards, and is a {here.kind}"
        if here.data != entry.data:
            return f"{path} should hold {excerpt(entry.data, 60)} afterwards, and holds {excerpt(here.data, 60)}"
        if entry.target != here.target:
            return f"{path} should be a link to {entry.target} afterwards, and is one to {excerpt(here.target, 60)}"
        if isinstance(wanted, WorkspaceFile) and entry.kind != "symlink" and here.mode != entry.mode:
            return f"{path} should have mode {entry.mode:o} afterwards, and has {here.mode:o}"
    surplus = sorted(path for path in left if path not in expected and left[path].kind != "directory")
    return f"{excerpt(surplus[0], 60)} should not be there afterwards" if surplus else None
