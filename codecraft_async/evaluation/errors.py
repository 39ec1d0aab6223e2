"""Every exception of the evaluation, as a tree.

    EvalError                   (also ValueError)
    ├── SettingsError           an option makes no sense, or does not fit the environment
    └── LogError                a log cannot be read or compared
        ├── RunBusy             another process is writing the run
        └── RunChanged          the run was begun with other settings

`ModelRefused` is an agent's: the endpoint takes no calls at all, so that other episodes would fare no better.
"""

from __future__ import annotations

from codecraft_async.agents import AgentLeft

__all__ = ["EvalError", "LogError", "ModelRefused", "RunBusy", "RunChanged", "SettingsError"]


class EvalError(ValueError):
    """Root of everything that this package raises on purpose."""


class SettingsError(EvalError):
    """An option makes no sense, or does not fit the environment; the message says which, and what is known."""


class LogError(EvalError):
    """A log cannot be read or gone on with; the message names the file, the entry and what is wrong."""


class RunBusy(LogError):
    """Another process is writing the run."""


class RunChanged(LogError):
    """The run was begun with other settings; the message names them."""


class ModelRefused(AgentLeft):
    """The endpoint takes no calls at all: it cannot be reached, or the key or the account is refused."""
