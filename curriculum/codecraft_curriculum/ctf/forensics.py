"""Forensics: a picture with an archive behind its end."""

from __future__ import annotations

import io
import random
import struct
import zipfile
import zlib
from typing import Final

from codecraft_curriculum.ctf.challenge import Assets, Challenge, cheats, draw_flag, python
from codecraft_curriculum.workspace import WorkspaceFile

__all__ = ["CHALLENGE"]

_WIDTH: Final = 64
_HEIGHT: Final = 48
_WORDS: Final = ("tide", "harbour", "lantern", "gulls", "rope", "salt", "mast", "fog", "anchor", "pier", "wave", "keel")


def _make(rng: random.Random) -> Assets:
    flag, decoy = draw_flag(rng), draw_flag(rng)
    letter = f"{_babble(rng)}\n\nThe flag is {flag}.\n\n{_babble(rng)}\n"
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        entry = zipfile.ZipInfo("letter.txt", (2024, 5, 17, 9, 30, 0))
        file.writestr(entry, letter, zipfile.ZIP_DEFLATED)
    return Assets(flag, {"postcard.png": WorkspaceFile(_picture(rng, f"not this one: {decoy}") + archive.getvalue())})


def _babble(rng: random.Random) -> str:
    return " ".join(rng.choices(_WORDS, k=60))


def _picture(rng: random.Random, comment: str) -> bytes:
    """Return a PNG of a few colours that run into each other, with a comment (PNG specification, sections 5 and 11)."""
    corner, step = [rng.randrange(256) for _ in range(3)], [rng.randrange(1, 5) for _ in range(3)]
    rows = bytearray()
    for y in range(_HEIGHT):
        rows.append(0)  # no filter
        for x in range(_WIDTH):
            rows += bytes((corner[band] + step[band] * (x + y) + rng.randrange(6)) % 256 for band in range(3))
    header = struct.pack(">IIBBBBB", _WIDTH, _HEIGHT, 8, 2, 0, 0, 0)  # 8 bits each of red, green and blue
    chunks = (
        (b"IHDR", header),
        (b"tEXt", f"Comment\0{comment}".encode()),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


CHALLENGE: Final = Challenge(
    id="postcard",
    title="The postcard",
    category="Forensics",
    difficulty="easy",
    query=(
        "postcard.png is a small picture, and yet the sender says that there is a whole letter with it. "
        "Find the letter and submit the flag in it, flag{...}."
    ),
    hints=("A PNG ends with its chunk IEND. Does the file?", "Some archives are read from their end."),
    make=_make,
    expert=(
        python("""
import re, zipfile
print(re.search(r"flag.[0-9a-f]+.", zipfile.ZipFile("postcard.png").read("letter.txt").decode())[0])
"""),
    ),
    failures={
        **cheats(),
        "comment": ("grep -aoE 'flag[{][0-9a-f]+[}]' postcard.png",),
        "end-of-file": ("tail -c 200 postcard.png | tr -cd '[:print:]'; echo",),
    },
)
