"""Everything that is in a sandbox's writable trees at one moment, to be brought back in this or another sandbox."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The writable trees as streams of the guest's EXPORT (pool/README.md), by the tree's path. Made by
    `Sandbox.snapshot`.

    `user` is whom commands run as in the sandbox that it is of; only sandboxes with the same one take it. `id` is the
    SHA-256 of all of it, so equal trees have equal names. The bytes came out of a sandbox: guests that take them in
    check every one.
    """

    trees: Mapping[str, bytes] = field(repr=False)
    user: str
    id: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha256(self.user.encode())
        for path, stream in sorted(self.trees.items()):
            digest.update(f"{len(path.encode())} {len(stream)}\n".encode() + path.encode())
            digest.update(stream)
        object.__setattr__(self, "trees", dict(self.trees))
        object.__setattr__(self, "id", digest.hexdigest())

    @property
    def size_bytes(self) -> int:
        """What it takes in memory."""
        return sum(map(len, self.trees.values()))

    def __hash__(self) -> int:
        return hash(self.id)
