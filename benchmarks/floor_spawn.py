"""One worker of the floor where there is no C compiler: ``floor_spawn.py SECONDS COMMAND``.

Runs ``/bin/sh -c COMMAND`` over and over with `os.posix_spawn`, standard streams /dev/null, and prints how many
commands ended and in how many seconds.
"""

from __future__ import annotations

import os
import sys
import time


def main() -> int:
    """Return 0 if every command ended with status 0."""
    seconds, command = float(sys.argv[1]), sys.argv[2]
    argv, environment = ["/bin/sh", "-c", command], dict(os.environ)
    silent = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in range(3)]
    commands = 0
    began = time.perf_counter()
    deadline = began + seconds
    while time.perf_counter() < deadline:
        pid = os.posix_spawn(argv[0], argv, environment, file_actions=silent)
        if os.waitpid(pid, 0)[1] != 0:
            return 1
        commands += 1
    sys.stdout.write(f"{commands} {time.perf_counter() - began:.9f}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
