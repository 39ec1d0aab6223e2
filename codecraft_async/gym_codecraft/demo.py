"""An episode played by a script, as gym-codecraft's own demonstration does, with a student's mistakes.

``python -m codecraft_async.gym_codecraft.demo [--backend BACKEND]`` shows it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from typing import Any, Final

from codecraft_async._observation import strip_ansi
from codecraft_async.gym_codecraft.env import CodeCraftEnv
from codecraft_pool import BACKENDS, PoolError

__all__ = ["SCRIPT", "main", "play"]

_SORTED: Final = "print(*sorted(map(int, open('input.txt').read().split())), sep='\\n')"
SCRIPT: Final[tuple[dict[str, Any], ...]] = (
    {"action": "command", "command": "ls"},  # no task yet
    {"action": "dance"},
    {"action": "start", "task_id": "17"},
    {"action": "start", "task_id": "1"},
    {"action": "command", "command": "pwd; ls -l"},
    {"action": "command"},  # which command?
    {"action": "write_file", "path": "hello.py", "content": "print('Hello, World?')\n"},
    {"action": "command", "command": "python3 hello.py"},
    {"action": "reset"},  # all files are gone, as the next one shows
    {"action": "command", "command": "python3 hello.py"},
    {"action": "write_file", "path": "hello.py", "content": "print('Hello, World!')\n"},
    {"action": "command", "command": "python3 hello.py"},
    {"action": "submit"},
    {"action": "submit"},  # the task is closed
    {"action": "start", "task_id": "3"},
    {"action": "command", "command": "head -c 60 input.txt"},
    {"action": "command", "command": "tr -s ' ' '\\n' < input.txt | sort > output.txt"},  # as text, not as numbers
    {"action": "submit"},
    {"action": "start", "task_id": "3"},
    {"action": "write_file", "path": "/tmp/sort.py", "content": f"{_SORTED}\n"},
    {"action": "command", "command": "python3 /tmp/sort.py > output.txt; head -n 3 output.txt"},
    {"action": "submit"},
    {"action": "start", "task_id": "2"},
    {"action": "command", "command": "git clone --quiet remote.git project && git -C project log --oneline | wc -l"},
    {"action": "submit"},
    {"action": "start", "task_id": "5"},
    {"action": "close"},
    {"action": "exit"},
)


async def play(env: CodeCraftEnv) -> float:
    """Play the script, show it, and return what was earned: 10 for each of three tasks, less 1 for each mistake.

    Raises:
        PoolError: No sandbox can be had, or one failed.
    """
    observation, _ = await env.areset()
    _show("", observation["obs"], 0.0)
    earned = 0.0
    for fields in SCRIPT:
        action = json.dumps(fields)
        observation, reward, _, _, info = await env.astep(action)
        if not info["valid"]:
            raise PoolError(f"{info['fault']['kind']}: {info['fault']['message']}")
        _show(action, observation["obs"], reward)
        earned += reward
    return earned


def _show(action: str, observation: str, reward: float) -> None:
    shown = "".join(f"  {line}\n" for line in strip_ansi(observation).splitlines())
    if action:
        sys.stdout.write(f"> {action}\n")
    sys.stdout.write(shown)
    if reward:
        sys.stdout.write(f"  reward {reward:g}\n")


async def _main(backend: str) -> int:
    env = CodeCraftEnv(backend=backend)
    try:
        earned = await play(env)
    except PoolError as error:
        sys.stderr.write(f"codecraft: {error}\n")
        return 1
    finally:
        await env.aclose()
    sys.stdout.write(f"earned {earned:g}\n")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Play, and return the exit status: 0, or 1 if no sandbox can be had."""
    parser = argparse.ArgumentParser(prog="codecraft_async.gym_codecraft.demo", description=__doc__)
    parser.add_argument("--backend", choices=BACKENDS, default="auto", help="what runs the sandboxes (default: auto)")
    return asyncio.run(_main(parser.parse_args(argv).backend))


if __name__ == "__main__":
    sys.exit(main())
