"""`PythonEnv`: Python as actions, in an interpreter that lives from action to action; functions are submitted."""

from __future__ import annotations

import json
from typing import Any, ClassVar, Final, Literal

import numpy as np

from codecraft_async.intercode.base import InterCodeEnv
from codecraft_async.intercode.interpreter import Execution, Interpreter, InterpreterUnavailable
from codecraft_async.intercode.mbpp import (
    CorruptGold,
    FunctionGolds,
    FunctionTask,
    Seen,
    Source,
    judge,
    judge_as_intercode,
    seen,
)
from codecraft_async.intercode.vector import InterCodeVectorEnv
from codecraft_async.pool import RequestRefused

__all__ = ["PythonEnv", "PythonVectorEnv"]

_REWARDS: Final = ("strict", "intercode")
_OBSERVATIONS: Final = ("intercode", "text")
_NOTES: Final = {
    "restored": "the action was ended, and what it defined is gone",
    "lost": "the interpreter was ended, and all that was defined is gone",
}


class PythonEnv(InterCodeEnv):
    """InterCode's Python environment: an action is source, ``submit NAME`` submits a function.

    The value of an expression at the end of an action is printed. Actions may be anything, loops and classes too. One
    that reaches `command_limit_s` is interrupted, and what it did is kept; one that cannot be interrupted, or ends its
    process, is undone where that is possible.

    `info` has, besides the base's keys, ``error`` (str, the exception that ended the action) and ``state`` (str, what
    became of the definitions: "kept", "restored" as they were before the action, or "lost"); after a submission
    ``submitted_function``, and ``agent_obs`` and ``eval_obs`` as JSON: what came of each test.

    Args:
        reward: "strict": the share of the tests that pass, in a fresh interpreter, judged where the agent cannot reach;
            tests that the gold fails do not count. "intercode": the share of which the same comes as with the gold,
            run in the agent's own interpreter, where equal errors are right; an agent can forge it.
        observations: "intercode": the text of a dict, ``{'output': ..., 'error': ...}``; "text": what was printed,
            and the traceback.
        golds: Outcomes that are known already, shared by environments.

    The other arguments are those of `InterCodeEnv`.
    """

    name: ClassVar[str] = "ic_python"
    evaluates: ClassVar[bool] = True

    def __init__(
        self,
        image_name: str | None = None,
        *,
        reward: Literal["strict", "intercode"] = "strict",
        observations: Literal["intercode", "text"] = "intercode",
        golds: FunctionGolds | None = None,
        **options: Any,
    ) -> None:
        if reward not in _REWARDS:
            raise ValueError(f"reward is {reward!r}; it must be 'strict' or 'intercode'")
        if observations not in _OBSERVATIONS:
            raise ValueError(f"observations is {observations!r}; it must be 'intercode' or 'text'")
        super().__init__(image_name, **options)
        self._reward_form = reward
        self._observations = observations
        self._golds = FunctionGolds() if golds is None else golds
        self._interpreter: Interpreter | None = None
        self._judging: Interpreter | None = None
        self._sources: list[Source] = []
        self._works = False

    @classmethod
    def shared_options(cls) -> dict[str, Any]:
        """Return what is known of golds, for all environments of a vector environment."""
        return {"golds": FunctionGolds()}

    async def reset_container(self) -> None:
        """Start an interpreter, which gets ready while the agent reads the query."""
        self._sources, self._works = [], False
        self._interpreter = Interpreter(self.sandbox)
        self._judging = self._interpreter.beside()
        await self._interpreter.start()

    async def execute_action(self, action: str) -> str:
        """Run *action* in the interpreter."""
        interpreter = self._interpreter
        assert interpreter is not None  # reset_container has run
        try:
            execution = await interpreter.run(action, limit_s=self.command_limit_s, max_output_bytes=self._max_chars)
        except (InterpreterUnavailable, RequestRefused) as exc:
            if isinstance(exc, InterpreterUnavailable) and not self._works:
                raise  # there never was one: the image is wrong
            return self._refused(exc)
        self._works = True
        self._remember(action, execution)
        self.info.update(
            action_executed=execution.ok,
            exit_code=np.int64(0 if execution.ok else 1),
            timed_out=execution.timed_out,
            truncated_output=execution.truncated,
            wall_s=np.float64(execution.wall_s),
            cpu_s=np.float64(execution.cpu_s),
            error=": ".join(filter(None, (execution.raised, execution.message))),
            state="lost" if execution.restarted else execution.state,
        )
        return str(seen(execution)) if self._observations == "intercode" else _as_text(execution)

    def _refused(self, error: Exception) -> str:
        """Return what is observed of an action that could not be run, which is the agent's own doing."""
        self.info.update(error=str(error), state="kept" if isinstance(error, RequestRefused) else "lost")
        return str({"error": f"Error: {error}"}) if self._observations == "intercode" else f"[{error}]"

    async def get_reward(self) -> tuple[float, dict[str, Any]]:
        """Return the share of the tests that the submitted function is right in."""
        assert self.record is not None
        details: dict[str, Any] = {"submitted_function": self.submission, "agent_obs": "{}", "eval_obs": "{}"}
        interpreter, judging = self._interpreter, self._judging
        assert interpreter is not None and judging is not None  # reset_container has run
        try:
            task = FunctionTask.from_row(self.record.as_dict())
            async with self.evaluation_sandbox() as sandbox, Interpreter(sandbox) as referee:
                limit_s = self.command_limit_s
                if self._reward_form == "intercode":
                    judgement = await judge_as_intercode(
                        task, self.submission, interpreter, referee, self._golds, limit_s=limit_s
                    )
                else:
                    judgement = await judge(
                        task,
                        self.submission,
                        self._sources,
                        judging,
                        referee,
                        self._golds,
                        limit_s=limit_s,
                    )
        except InterpreterUnavailable as exc:
            if exc.sandbox != self.sandbox.id or not self._works:
                raise
            return 0.0, {**details, "reason": f"the agent left no room for an interpreter: {exc}"}
        except CorruptGold as exc:
            return 0.0, {**details, "corrupt_gold": True, "reason": f"the task is wrong: {exc}"}
        details.update(agent_obs=_as_json(judgement.predicted), eval_obs=_as_json(judgement.expected))
        return judgement.score, {**details, "reason": judgement.reason}

    def _remember(self, source: str, execution: Execution) -> None:
        """Note what a fresh interpreter has to run to be like the agent's."""
        if execution.restarted or execution.state == "lost":
            self._sources = []
        if execution.state == "kept":
            self._sources.append(Source(source, execution.timed_out, execution.wall_s))


class PythonVectorEnv(InterCodeVectorEnv):
    """Many `PythonEnv`s over one pool; see `InterCodeVectorEnv`."""

    env_class: ClassVar[type[InterCodeEnv] | None] = PythonEnv


def _as_text(execution: Execution) -> str:
    parts = [execution.stdout, execution.stderr, execution.traceback]
    if execution.restarted:
        parts.insert(0, "[what was defined before is gone: the interpreter had to be started anew]")
    if execution.timed_out:
        parts.append("[the action reached its time limit]")
    if execution.state in _NOTES:
        parts.append(f"[{_NOTES[execution.state]}]")
    return "\n".join(part.removesuffix("\n") for part in parts if part)


def _as_json(outcomes: dict[str, Seen] | Any) -> str:
    return json.dumps(dict(outcomes), ensure_ascii=False)
