"""What the tests of gym-codecraft's environment share: curriculum files, a fake shell, and short ways to act."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from codecraft_async.curriculum import Curriculum, FileGrader, Match
from codecraft_async.gym_codecraft import CodeCraftEnv
from codecraft_async.pool import FakeLauncher
from tests.envs.code_envs import make_task, play

NEW: Final = {
    "category": "Shell",
    "docker": "codecraft/base",
    "shell": "/bin/sh",
    "title": "Answer",
    "description": "Write 42 into the file answer.",
    "for_teacher": "The file answer holds 42.",
}
OLD: Final = {
    "category": "Shell",
    "docker": "codecraft/base",
    "shell": "/bin/sh",
    "working_dir": "/workspace",
    "title": "Answer",
    "description": "Write 42 into the file answer.",
    "test": "The file answer holds 42.",
}
GRADERS: Final = {"1": FileGrader("answer", Match("42", "exact"))}


def write_curriculum(directory: Path, **tasks: dict[str, str]) -> Path:
    """A curriculum.json with these tasks, named by the digits in their names."""
    path = directory / "curriculum.json"
    path.write_text(json.dumps({"tasks": {name.removeprefix("t"): task for name, task in tasks.items()}}))
    return path


def fake_env(launcher: FakeLauncher | None = None, **options: Any) -> CodeCraftEnv:
    """An environment with the one task "answer", whose shell knows a few commands."""
    options.setdefault("curriculum", Curriculum([make_task()]))
    return CodeCraftEnv(backend=launcher or FakeLauncher(play), **options)


async def act(env: CodeCraftEnv, action: str, **fields: Any) -> tuple[str, float]:
    """What an action is answered and what it earns."""
    observation, reward, *_ = await env.astep(json.dumps({"action": action, **fields}))
    return observation["obs"], reward
