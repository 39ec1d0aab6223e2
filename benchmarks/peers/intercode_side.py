"""The side of docker-py: ``intercode_side.py LABEL IMAGE...``. Bash actions one by one, each an exec, as InterCode runs
them: two containers of each image, for the agent and for the gold, with a git repository at the root for resets.
"""

from __future__ import annotations

import importlib
import posixpath
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
wire = importlib.import_module("serve")

LIMIT_S = 10
REPOSITORY = (
    "rm -rf /.git; cd / && git init -q && git config user.name peer && git config user.email peer@localhost"
    " && git add -A && git commit -q -m files"
)
RESET = "git reset --hard; git clean -fd;"


class Late(Exception):
    """An action has reached the time limit."""


class Box:
    """A container, and the directory that its next command runs in."""

    def __init__(self, container: Any) -> None:
        self.container = container
        self.directory = "/"

    def run(self, command: str) -> tuple[bool, str]:
        """Run a command as InterCode hands it to a shell; whether it ended with status 0, and what it printed."""
        signal.alarm(LIMIT_S)
        try:
            status, output = self.container.exec_run(f'/bin/bash -c "{command.strip()}"', workdir=self.directory)
            return status == 0, output.decode()
        except Late:
            return False, "Command timed out"
        except Exception:
            return False, "Malformed command"
        finally:
            signal.alarm(0)

    def act(self, action: str) -> tuple[bool, str]:
        """Run an action; one that changes the directory does so for those that follow."""
        if not action.startswith("cd") or "cd " not in action:
            return self.run(action)
        target = posixpath.normpath(posixpath.join(self.directory, action.partition("cd ")[2].strip()))
        before, self.directory = self.directory, "/"
        done, said = self.run(f"cd {target}")
        self.directory = target if done else before
        return done, said

    def reset(self) -> None:
        """Have git put back the files."""
        self.directory = "/"
        self.must(RESET)

    def must(self, command: str) -> str:
        """Run a command of our own."""
        status, output = self.container.exec_run(["/bin/bash", "-c", command], workdir="/")
        if status != 0:
            raise RuntimeError(f"{command!r} ended with status {status}: {output[-200:]!r}")
        return str(output.decode())

    def changes(self) -> set[tuple[str, ...]]:
        """Return what git sees as changed: status and path."""
        return {tuple(line.split(maxsplit=1)) for line in self.must("git status --short").splitlines()}


def score(agent: Box, judge: Box, gold: str) -> int:
    """Do in the containers what a submission does: reset, gold, both change sets, and sums of what both have added.

    The similarity of the outputs, which needs no container, is left out.
    """
    judge.reset()
    judge.run(gold)
    common = agent.changes() & judge.changes()
    for status, path in sorted(common):
        if status in ("A", "??", "C"):
            program = "md5sum" if "." in path else "md5deep -r"
            for box in (agent, judge):
                box.container.exec_run(["/bin/bash", "-c", f"{program} {path}"], workdir="/")
    return len(common)


def replay(agent: Box, judge: Box, episodes: list[dict[str, Any]], scored: bool) -> dict[str, Any]:
    """Play episodes; resets of the agent's container are not in the time."""
    ran: list[list[bool]] = []
    seconds = 0.0
    for episode in episodes:
        agent.reset()
        began = time.perf_counter()
        ran.append([])
        for action in episode["actions"]:
            ran[-1].append(agent.act(action)[0])
            if scored:
                score(agent, judge, episode["gold"])
        seconds += time.perf_counter() - began
    return {"seconds": seconds, "ran": ran}


def _container(client: Any, image: str, label: str) -> Any:
    return client.containers.run(
        image, "/bin/bash", detach=True, tty=True, network_mode="none", working_dir="/", labels=[label]
    )


def main() -> None:
    """Start the containers, answer, remove them."""
    label, *images = sys.argv[1:]
    client = importlib.import_module("docker").from_env()
    answers = wire.claim_standard_output()
    boxes: dict[str, tuple[Box, Box]] = {}
    containers: list[Any] = []

    def late(number: int, frame: object) -> None:
        raise Late

    def start() -> None:
        signal.signal(signal.SIGALRM, late)
        for image in images:
            for _ in range(2):
                containers.append(_container(client, image, label))  # noqa: PERF401  # each is known at once
            boxes[image] = (Box(containers[-2]), Box(containers[-1]))
            for box in boxes[image]:
                box.must(REPOSITORY)

    try:
        wire.serve(
            answers,
            start,
            {"replay": lambda image, episodes, scored: replay(*boxes[image], episodes, scored)},
        )
    finally:
        for container in containers:
            with suppress(Exception):
                container.remove(force=True)


if __name__ == "__main__":
    main()
