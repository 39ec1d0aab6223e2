"""What a reset or a step comes to, and how a fault is told in `info`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from codecraft_pool import PoolError, RequestRefused, SandboxLost

FaultKind = Literal["sandbox", "daemon", "grader"]
Truncation = Literal["", "max_episode_steps", "wall_budget", "cpu_budget", "fault"]
_NO_TIME: Final = np.float64(0.0)


@dataclass(slots=True)
class Outcome:
    """What a reset or a step came to.

    Keys of `info`, the same after every reset and step, each of one type:

    ======================  ========  =====================================================================
    ``task``                str       the task's id
    ``steps``               int64     steps since the reset
    ``exit_code``           int64     of the command; -1 if there is none
    ``signal``              int64     that ended the command; 0 if none
    ``timed_out``           bool      the command ran into its wall limit
    ``truncated_output``    bool      the command ran into its output limit
    ``wall_s``              float64   of the command, the grading or, after a reset, the restore
    ``cpu_s``               float64   CPU time of the command and all that it started
    ``malformed``           bool      the action was none: the observation says what was wrong
    ``retry``               bool      the malformed action did not count as a step
    ``graded``              bool      the episode was graded
    ``score``               float64   the grader's, in [0, 1]; 0 where nothing was graded
    ``reason``              str       the grader's
    ``truncation``          str       why `truncated`: "max_episode_steps", "wall_budget", "cpu_budget" or
                                      "fault"; otherwise empty
    ``valid``               bool      False if the reward means nothing because of a fault
    ======================  ========  =====================================================================

    ``fault`` is there only if there was one: a dict of three str, ``kind`` ("sandbox": it was lost; "daemon": none
    could be had; "grader": it crashed or took too long), ``sandbox`` (its name; empty if there was none) and
    ``message``.
    """

    observation: str
    info: dict[str, Any]
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False


def empty_info(task: str) -> dict[str, Any]:
    """Return an info with every key, in which nothing happened."""
    return {
        "task": task,
        "steps": np.int64(0),
        "exit_code": np.int64(-1),
        "signal": np.int64(0),
        "timed_out": False,
        "truncated_output": False,
        "wall_s": _NO_TIME,
        "cpu_s": _NO_TIME,
        "malformed": False,
        "retry": False,
        "graded": False,
        "score": _NO_TIME,
        "reason": "",
        "truncation": "",
        "valid": True,
    }


class GraderFailed(Exception):
    """A grader crashed, took too long, or returned no grade: `error` says how, in the sandbox of this name."""

    def __init__(self, error: Exception, sandbox: str) -> None:
        super().__init__(str(error))
        self.error = error
        self.sandbox = sandbox


def tell_fault(info: dict[str, Any], error: Exception, *, sandbox: str = "") -> dict[str, Any]:
    """Note in *info* that *error* happened, and whose fault it is; in *sandbox*, unless *error* names another."""
    kind: FaultKind = "sandbox"
    shown = error
    if isinstance(error, GraderFailed):
        kind, shown = "grader", error.error
    elif isinstance(error, PoolError) and not isinstance(error, SandboxLost | RequestRefused):
        kind = "daemon"
    where = str(getattr(error, "sandbox", sandbox))
    info["fault"] = {"kind": kind, "sandbox": where, "message": f"{type(shown).__name__}: {shown}"}
    info["valid"] = False
    return info


def fault_text(info: Mapping[str, Any], row: int) -> str:
    """Return what the info of a batch says of a fault in environment *row*, on one line; empty if there was none."""
    fault = info.get("fault")
    if fault is None or not info["_fault"][row]:
        return ""
    where = f" {fault['sandbox'][row]}" if fault["sandbox"][row] else ""
    return f"{fault['kind'][row]}{where}: {fault['message'][row]}"


__all__ = ["FaultKind", "GraderFailed", "Outcome", "Truncation", "empty_info", "fault_text", "tell_fault"]
