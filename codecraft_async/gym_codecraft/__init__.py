"""gym-codecraft's environment, ``gym_codecraft/CodeCraft-v0``: its actions and texts, over this project's sandboxes.

``README.md`` beside this file says what is the same, what is mended, and what cannot be the same.
"""

from __future__ import annotations

from codecraft_async.gym_codecraft.env import CodeCraftEnv
from codecraft_async.gym_codecraft.logger import EnvLogger
from codecraft_async.gym_codecraft.tasks import StudentTask, StudentTasks
from codecraft_async.gym_codecraft.teaching import AutomaticTeacher, Teacher, Turn
from codecraft_async.gym_codecraft.vector import CodeCraftVectorEnv

__all__ = [
    "AutomaticTeacher",
    "CodeCraftEnv",
    "CodeCraftVectorEnv",
    "EnvLogger",
    "StudentTask",
    "StudentTasks",
    "Teacher",
    "Turn",
]
