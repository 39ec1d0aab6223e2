"""The options of ``codecraft eval``: the command line, and what of it decides what a result means."""

from __future__ import annotations

import argparse
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from codecraft_async.evaluation.errors import SettingsError
from codecraft_async.evaluation.opening import EnvKind
from codecraft_async.evaluation.prompts import TEMPLATES
from codecraft_async.evaluation.tasks import chosen
from codecraft_pool import BACKENDS

__all__ = ["AGENTS", "MODEL_AGENTS", "EvalOptions", "add_eval_parser"]

MODEL_AGENTS: Final = ("try-again", "react", "plan-solve")
AGENTS: Final = (*MODEL_AGENTS, "scripted", "replay", "gold", "nothing")
_SCORING: Final = ("try-again", "plan-solve", "replay")
_JUDGED: Final = ("ic_python", "ic_ctf")
_FILES: Final = ("data", "tree", "dump", "log", "actions", "demonstrations")
_OWN_ARGUMENTS: Final = {"reward": "reward", "image": "image_name", "tree": "image_name", "dump": "dump"}


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalOptions:
    """What the command line of a run says; `of` checks it.

    Raises:
        SettingsError: An option is missing, or does not fit another one.
    """

    env: str
    agent: str
    out: Path
    data: str | None = None
    trust_pickle: bool = False
    tasks: tuple[int, ...] | None = None
    samples: int = 1
    num_envs: int = 16
    max_turns: int | None = None
    score_steps: bool | None = None
    limit_s: float = 3600.0
    backend: str = "auto"
    env_args: dict[str, str] = field(default_factory=dict[str, str])
    reward: str | None = None
    compat: bool = False
    image: str | None = None
    tree: Path | None = None
    dump: Path | None = None
    log: Path | None = None
    actions: Path | None = None
    model: str | None = None
    base_url: str | None = None
    template: str = "v2"
    handicap: bool = False
    dialogue_limit: int | None = None
    refine_turns: int = 0
    max_observation_chars: int = 1000
    max_observation_rows: int = 50
    demonstrations: Path | None = None
    num_demonstrations: int = 2
    temperature: float | None = 0.0
    max_answer_tokens: int = 512
    max_tokens: int | None = None
    max_cost: float | None = None
    price_prompt: float | None = None
    price_answer: float | None = None
    requests_per_minute: float = math.inf
    tokens_per_minute: float = math.inf
    max_requests: int = 32

    @classmethod
    def of(cls, args: argparse.Namespace) -> EvalOptions:
        """Return what the parsed command line says."""
        missing = [name for name in ("env", "agent", "out") if getattr(args, name) is None]
        if missing:
            raise SettingsError(f"--{missing[0]} is missing")
        values = {name: getattr(args, name) for name in cls.__dataclass_fields__ if name != "env_args"}
        options = cls(**values, env_args=dict(args.env_arg))
        options.check()
        return options

    @property
    def uses_model(self) -> bool:
        """Whether the agent asks a model."""
        return self.agent in MODEL_AGENTS

    def check(self) -> None:
        """See that the options fit one another."""
        if self.image is not None and self.tree is not None:
            raise SettingsError("--image and --tree both say which image: give one of them")
        if (self.agent == "replay") != (self.log is not None):
            raise SettingsError("--log is the log that --agent replay plays again: give both or neither")
        if (self.agent == "scripted") != (self.actions is not None):
            raise SettingsError("--actions has the scripts that --agent scripted plays: give both or neither")
        if not self.uses_model and (self.model or self.base_url):
            raise SettingsError(f"--model and --base-url are for --agent {', '.join(MODEL_AGENTS)}")
        if self.demonstrations is not None and self.agent != "react":
            raise SettingsError("--demonstrations is for --agent react")
        if (self.price_prompt is None) != (self.price_answer is None):
            raise SettingsError("--price-prompt and --price-answer belong together: give both or neither")
        if self.max_cost is not None and self.price_prompt is None:
            raise SettingsError("--max-cost needs --price-prompt and --price-answer, what a million tokens cost")
        if clash := sorted(set(self._own_arguments()) & set(self.env_args)):
            raise SettingsError(f"--env-arg {clash[0]} says what an option of its own says already: leave it out")

    def texts(self) -> dict[str, str]:
        """Return the environment's options as texts, those with a name of their own among them."""
        return self.env_args | self._own_arguments()

    def _own_arguments(self) -> dict[str, str]:
        given = [(argument, getattr(self, name)) for name, argument in _OWN_ARGUMENTS.items()]
        own = {argument: str(value) for argument, value in given if value is not None}
        return own | ({"compat": "true"} if self.compat else {})

    def scores_steps(self, kind: EnvKind) -> bool:
        """Return whether the environment is to score every action."""
        if not kind.has_rows or kind.name == "ic_python":  # whose functions are scored when they are defined
            if self.score_steps and not self.hides_submissions(kind):
                raise SettingsError(f"--score-steps: with --agent {self.agent}, {kind.id} pays for submissions only")
            return False
        if self.score_steps is not None:
            return self.score_steps
        return self.agent in _SCORING and kind.name not in ("ic_ctf", "ic_swe")

    def hides_submissions(self, kind: EnvKind) -> bool:
        """Return whether what the agent submits is judged without ending the episode."""
        return self.agent in ("try-again", "plan-solve") and kind.name in _JUDGED and self.score_steps is not False

    def settings(self, model: str) -> dict[str, Any]:
        """Return what decides what a result means, with the digests of files (blocking). A run is gone on with only
        if all of it is the same.

        Raises:
            OSError: A file cannot be read.
        """
        known: dict[str, Any] = {
            "env": self.env,
            "agent": self.agent,
            "max_turns": self.max_turns,
            "score_steps": self.score_steps,
            "env_args": dict(sorted(self.env_args.items())),
            "reward": self.reward,
            "compat": self.compat,
            "image": self.image,
        }
        for name in _FILES:
            value = getattr(self, name)
            if value is not None:
                known[name] = {"file": Path(value).name, "sha256": _digest(Path(value))}
        if self.uses_model:
            known |= {
                "model": model,
                "template": self.template if self.agent == "try-again" else None,
                "handicap": self.handicap,
                "dialogue_limit": self.dialogue_limit,
                "refine_turns": self.refine_turns,
                "max_observation_chars": self.max_observation_chars,
                "max_observation_rows": self.max_observation_rows,
                "num_demonstrations": self.num_demonstrations if self.demonstrations else None,
                "temperature": self.temperature,
                "max_answer_tokens": self.max_answer_tokens,
            }
        return known


def _digest(path: Path) -> str:
    """Return the digest of a file; of a directory, those of all files in it, by their names."""
    if not path.is_dir():
        return _file_digest(path) if path.is_file() else ""  # what is none is told by whoever reads it
    digest = hashlib.sha256()
    for file in sorted(each for each in path.rglob("*") if each.is_file()):
        digest.update(f"{file.relative_to(path)}\0{_file_digest(file)}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def add_eval_parser(subparsers: Any) -> None:
    """Add `eval` and its commands to the command line."""
    parser = subparsers.add_parser("eval", help="have an agent play tasks, and report and compare what came of it")
    parser.description = "Without a command: have an agent play tasks; the same command goes on after an end."
    _add_run(parser)
    _add_env(parser.add_argument_group("the environment"))
    _add_agent(parser.add_argument_group("agents"))
    _add_limits(parser.add_argument_group("what may be spent, with a model"))
    commands = parser.add_subparsers(dest="eval_command", metavar="COMMAND")
    report = commands.add_parser("report", help="what logs come to: of runs, or InterCode's own")
    report.add_argument("logs", nargs="+", type=Path, metavar="LOG", help="a log, or the directory of a run")
    compare = commands.add_parser("compare", help="what differs between two runs of the same tasks")
    compare.add_argument("logs", nargs=2, type=Path, metavar="LOG", help="a log, or the directory of a run")
    for each in (report, compare):
        each.add_argument("--json", type=Path, metavar="FILE", help="write it to this file as JSON")
        each.add_argument("--markdown", type=Path, metavar="FILE", help="write it to this file as Markdown")


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--env", metavar="ID", help="intercode/Bash-v0, codecraft/Code-v0, module:id and so on")
    parser.add_argument("--agent", choices=AGENTS, help="who plays; see below")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the log is kept; a run that was ended goes on")
    parser.add_argument("--data", metavar="FILE", help="the tasks: a dataset, or the curriculum of codecraft/Code-v0")
    parser.add_argument("--trust-pickle", action="store_true", help="read the data if they are a pickle, too")
    parser.add_argument(
        "--tasks", type=_tasks, metavar="LIST", help="only these, counted from 0, such as 0-99,120 (default: all)"
    )
    parser.add_argument("--samples", type=_samples, default=1, metavar="N", help="plays of each task (default: 1)")
    parser.add_argument("--num-envs", type=_count, default=16, metavar="N", help="episodes at once (default: 16)")
    parser.add_argument(
        "--max-turns", type=_count, metavar="N", help="turns of an episode (default: 10; scripts: as many as they have)"
    )
    parser.add_argument(
        "--score-steps",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="score each action, not only submissions (default: for try-again, plan-solve and replay)",
    )
    parser.add_argument(
        "--limit-s", type=_amount, default=3600.0, metavar="S", help="seconds that an episode may take (default: 3600)"
    )


def _add_env(group: Any) -> None:
    group.add_argument("--backend", choices=BACKENDS, default="auto", help="what runs the sandboxes (default: auto)")
    group.add_argument("--reward", metavar="FORM", help="strict or intercode, or what else the environment has")
    group.add_argument("--compat", action="store_true", help="Bash: run commands as InterCode does, for its recordings")
    group.add_argument("--image", metavar="NAME", help="the image of the sandboxes")
    group.add_argument("--tree", type=Path, metavar="FILE", help="Bash: a file tree, for the root of the image")
    group.add_argument("--dump", type=Path, metavar="FILE", help="SQL: the statements that make the databases")
    group.add_argument(
        "--env-arg",
        type=_pair,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other option of the environment; repeatable",
    )


def _add_agent(group: Any) -> None:
    group.description = (
        "try-again: a model that sees the reward after each action; react: one that writes thoughts and submits; "
        "plan-solve: one that makes a plan and does its steps; scripted: the actions of a file; replay: those of a "
        "log; gold: the tasks' own answers; nothing: submits at once"
    )
    group.add_argument("--model", metavar="NAME", help="the model (default: OPENAI_MODEL of the environment or .env)")
    group.add_argument(
        "--base-url",
        metavar="URL",
        help="an OpenAI-compatible endpoint (default: OPENAI_BASE_URL, else OpenAI's); its key is OPENAI_API_KEY",
    )
    group.add_argument(
        "--template", choices=tuple(TEMPLATES), default="v2", help="try-again: how the model is asked (default: v2)"
    )
    group.add_argument("--handicap", action="store_true", help="SQL: name the tables and their columns")
    group.add_argument(
        "--dialogue-limit", type=_count, metavar="N", help="say only the first two and the last N messages"
    )
    group.add_argument(
        "--refine-turns", type=_whole, default=0, metavar="N", help="plan-solve: turns after the plan (default: 0)"
    )
    for name, default, what in (("chars", 1000, "characters"), ("rows", 50, "rows")):
        group.add_argument(
            f"--max-observation-{name}",
            type=_count,
            default=default,
            metavar="N",
            help=f"of an observation the model sees so many {what} (default: {default})",
        )
    group.add_argument("--demonstrations", type=Path, metavar="LOG", help="react: show solved episodes of this log")
    group.add_argument("--num-demonstrations", type=_count, default=2, metavar="N", help="how many (default: 2)")
    group.add_argument(
        "--temperature", type=_temperature, default=0.0, metavar="T", help="or none, the endpoint's own (default: 0)"
    )
    group.add_argument(
        "--max-answer-tokens", type=_count, default=512, metavar="N", help="of one answer (default: 512)"
    )
    group.add_argument("--log", type=Path, metavar="LOG", help="replay: the log")
    group.add_argument(
        "--actions", type=Path, metavar="FILE", help="scripted: JSON, a list of actions, or an object of lists by task"
    )


def _add_limits(group: Any) -> None:
    group.add_argument("--max-tokens", type=_count, metavar="N", help="tokens of all episodes together")
    group.add_argument("--max-cost", type=_amount, metavar="X", help="money, in the currency of the prices")
    group.add_argument("--price-prompt", type=_price, metavar="X", help="of a million tokens of prompts")
    group.add_argument("--price-answer", type=_price, metavar="X", help="of a million tokens of answers")
    group.add_argument("--requests-per-minute", type=_amount, default=math.inf, metavar="N", help="at most so many")
    group.add_argument("--tokens-per-minute", type=_amount, default=math.inf, metavar="N", help="at most so many")
    group.add_argument("--max-requests", type=_count, default=32, metavar="N", help="requests at once (default: 32)")


def _number(least: float, *, is_whole: bool, above: bool = False, most: float = 1e12) -> Callable[[str], Any]:
    def read(text: str) -> float:
        try:
            value = int(text) if is_whole else float(text)
        except ValueError:
            value = math.nan
        if not (least < value if above else least <= value) or value > most:
            kind = "whole number" if is_whole else "number"
            wanted = f"of at most {most:g}" if value > most else f"{'above' if above else 'of at least'} {least:g}"
            raise argparse.ArgumentTypeError(f"{text!r} is no {kind} {wanted}")
        return value

    return read


_count: Final = _number(1, is_whole=True)
_samples: Final = _number(1, is_whole=True, most=10_000)
_whole: Final = _number(0, is_whole=True)
_amount: Final = _number(0, is_whole=False, above=True)
_price: Final = _number(0, is_whole=False)


def _temperature(text: str) -> float | None:
    return None if text == "none" else float(_price(text))


def _tasks(text: str) -> tuple[int, ...]:
    try:
        return tuple(chosen(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _pair(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not (name and sign):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=VALUE")
    return name, value
