"""A clerk who gives the flag to visitors of rank 7, at 127.0.0.1:7000. Each visitor has a page of memory:

    name (24 bytes), seal (8 bytes, none of them zero, new for each visitor), rank (4 bytes, the lowest first), room

Requests:

    N, a length (one signed byte), and as many bytes: the visitor's name
    P: the clerk says the name
    F: the clerk gives the flag, if the seal is whole and the rank is 7
"""

from __future__ import annotations

import random
import socketserver
import struct

NAME, SEAL, RANK = slice(0, 24), slice(24, 32), slice(32, 36)


class Visit(socketserver.StreamRequestHandler):
    """One visitor."""

    flag = ""

    def handle(self) -> None:
        """Answer until the visitor goes."""
        seal = bytes(random.SystemRandom().choices(range(1, 256), k=8))
        page = bytearray(1024)
        page[SEAL], page[RANK] = seal, struct.pack("<I", 1)
        while request := self.rfile.read(1):
            if request == b"N":
                self.wfile.write(self.take_name(page))
            elif request == b"P":
                self.wfile.write(page[: page.index(0)] + b"\n")
            elif request == b"F" and bytes(page[SEAL]) != seal:
                self.wfile.write(b"The seal is broken!\n")
                return
            elif request == b"F":
                (rank,) = struct.unpack("<I", page[RANK])
                self.wfile.write(f"{self.flag}\n".encode() if rank == 7 else b"Rank %d: not for you.\n" % rank)

    def take_name(self, page: bytearray) -> bytes:
        """Read a name into the page."""
        (length,) = struct.unpack("b", self.rfile.read(1) or b"\0")
        if length > 24:
            return b"That is too long.\n"
        name = self.rfile.read(length % 256)
        page[: len(name)] = name
        return b"Welcome.\n"


class Clerk(socketserver.ThreadingTCPServer):
    """Sees several visitors at once."""

    allow_reuse_address = True
    daemon_threads = True


def make_server() -> Clerk:
    """Listen."""
    return Clerk(("127.0.0.1", 7000), Visit)


def keep(flag: str) -> None:
    """Have the clerk know the flag."""
    Visit.flag = flag
