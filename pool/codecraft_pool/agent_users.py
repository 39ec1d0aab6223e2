"""A user of its own for every sandbox: its uid, and the account files that name it.

The kernel counts some things per user: inotify instances (128), pending signals, bytes in POSIX queues, processes. Were
all agents the same uid, one sandbox could use up what another needs.
"""

from __future__ import annotations

import heapq
import io
import tarfile
import zlib
from dataclasses import dataclass
from typing import Final

from codecraft_pool.errors import LaunchError
from codecraft_pool.owner import Owner
from codecraft_pool.spec import HOME

UIDS_PER_PROCESS: Final = 4096
# Blocks of uids that no distribution hands out; the local launcher has those from 0x60000000.
_FIRST_UID: Final = 0x5000_0000
# Where the daemon maps users (userns-remap, rootless) a container has the first 65 536 only.
_FIRST_MAPPED_UID: Final = 20_000
AGENT_NAME: Final = b"agent"
_ROOT_ACCOUNT: Final = b"root:x:0:0:root:/root:/bin/sh\n"
_ROOT_GROUP: Final = b"root:x:0:\n"


class Uids:
    """The uids of one process's sandboxes; the lowest that is free is taken first.

    A process's block follows from its name, so that two of them on one machine rarely share.
    """

    def __init__(self) -> None:
        self._next = 0
        self._free: list[int] = []

    def take(self) -> int:
        """Return a number that no living sandbox of this process has, from 0.

        Raises:
            LaunchError: All are taken.
        """
        if self._free:
            return heapq.heappop(self._free)
        if self._next == UIDS_PER_PROCESS:
            raise LaunchError(f"this process has {UIDS_PER_PROCESS} containers already, and no user for another")
        self._next += 1
        return self._next - 1

    def give_back(self, number: int) -> None:
        """Say that the sandbox with that number is gone."""
        heapq.heappush(self._free, number)


def uid_of(number: int, owner: Owner, *, is_mapped: bool) -> int:
    """Return the uid for a number of `Uids`, in the block of the process *owner*."""
    if is_mapped:
        return _FIRST_MAPPED_UID + number
    block = zlib.crc32(str(owner).encode()) & 0xFFFF
    return _FIRST_UID + block * UIDS_PER_PROCESS + number


@dataclass(frozen=True, slots=True)
class Accounts:
    """What an image has as /etc/passwd and /etc/group; empty where it has none."""

    passwd: bytes = b""
    group: bytes = b""

    def with_agent(self, uid: int) -> Accounts:
        """Return the same with `agent` as *uid*, in place of whoever had that name or number."""
        passwd = _without(self.passwd or _ROOT_ACCOUNT, uid)
        group = _without(self.group or _ROOT_GROUP, uid)
        home = HOME.encode()
        return Accounts(
            # The full name is what git signs with.
            passwd + b"%s:x:%d:%d:%s:%s:/bin/sh\n" % (AGENT_NAME, uid, uid, AGENT_NAME, home),
            group + b"%s:x:%d:\n" % (AGENT_NAME, uid),
        )


def _without(text: bytes, number: int) -> bytes:
    """Return account lines but those of the agent's name or number, ending in a line end."""
    lines = [line for line in text.splitlines() if line]
    kept = [line for line in lines if not _is_agent(line.split(b":"), number)]
    return b"".join(line + b"\n" for line in kept)


def _is_agent(fields: list[bytes], number: int) -> bool:
    return fields[0] == AGENT_NAME or (len(fields) > 2 and fields[2] == b"%d" % number)


def accounts_archive(accounts: Accounts, image: str, uids: range) -> bytes:
    """Return a tar with the account files of many uids, each in a folder named by image and uid."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        _add_folder(archive, image)
        for uid in uids:
            _add_folder(archive, f"{image}/{uid}")
            files = accounts.with_agent(uid)
            for name, content in (("passwd", files.passwd), ("group", files.group)):
                info = tarfile.TarInfo(f"{image}/{uid}/{name}")
                info.size, info.mode = len(content), 0o644
                archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def _add_folder(archive: tarfile.TarFile, name: str) -> None:
    folder = tarfile.TarInfo(name)
    folder.type, folder.mode = tarfile.DIRTYPE, 0o755
    archive.addfile(folder)
