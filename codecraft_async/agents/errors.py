"""Every exception of the agents, as a tree.

    AgentError
    ├── MalformedAnswer     a model's answer holds no action; the message is for the model to read
    ├── AgentFailed         an agent cannot go on: its episode ends, and that is no reward
    │   └── AgentLeft       the human at the terminal has left
    └── TeacherFailed       a teacher came to no verdict: a fault, never a reward

Errors of the language model itself are `codecraft_async.llm.LlmError`.
"""

from __future__ import annotations


class AgentError(Exception):
    """Root of everything that this package raises on purpose."""


class MalformedAnswer(AgentError):
    """A model's answer holds no action; the message tells the model how to write one."""


class AgentFailed(AgentError):
    """An agent cannot go on."""


class AgentLeft(AgentFailed):
    """The human at the terminal has left."""


class TeacherFailed(AgentError):
    """A teacher came to no verdict."""


__all__ = ["AgentError", "AgentFailed", "AgentLeft", "MalformedAnswer", "TeacherFailed"]
