"""Starts a server as root, which goes on in the background as nobody: ``python3 background.py SERVER FLAG_FILE``.

SERVER is a module beside this one, with ``make_server()`` and ``keep(flag)``. When the program ends the server listens,
and there is no file with the flag any more.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

NOBODY = 65534


def main() -> None:
    """Start it."""
    server_name, flag_file = sys.argv[1:]
    flag = Path(flag_file).read_text().strip()
    Path(flag_file).unlink()
    module = importlib.import_module(server_name)
    server = module.make_server()
    if os.fork():
        os._exit(0)
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(null, stream)
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    module.keep(flag)
    server.serve_forever()


if __name__ == "__main__":
    main()
