"""``codecraft demo --agent``: an agent plays the tasks of a curriculum, and what came of it is shown."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from codecraft_async._demo_report import printable
from codecraft_async._demo_stage import STAGES, Stage, make_stage
from codecraft_async._images_cli import image_progress
from codecraft_async.agents import (
    Agent,
    AsyncEnv,
    EpisodeBatch,
    EpisodePlan,
    EpisodeResult,
    HumanAgent,
    ModelAgent,
    ModelTeacher,
    NaiveAgent,
    run_episodes,
)
from codecraft_async.llm import Budget, ChatClient, Endpoint, LlmConfigurationError, RateLimits
from codecraft_async.runtime import Runtime
from codecraft_pool._aio import finish

AGENTS = ("naive", "human", "scripted", "model", "model-tools", "langchain")
_MODELS = ("model", "model-tools", "langchain")
_MAX_REQUESTS_AT_ONCE = 16
_MAX_LINE_CHARS = 400
_INSTEAD = {"--rounds": "; agents have --episodes", "--record": "; agents have --json"}

MakeAgent = Callable[[EpisodePlan], Agent]


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentDemoOptions:
    """What the command line says."""

    agent: str
    env: str = "code"
    teacher: bool = False
    model: str | None = None
    base_url: str | None = None
    max_tokens: int = 1_000_000
    episodes: int = 1
    backend: str = "auto"
    num_envs: int = 16
    curriculum: str = "builtin"
    tasks: tuple[str, ...] = ()
    category: str | None = None
    seed: int = 0
    json_path: Path | None = None

    @classmethod
    def of(cls, args: argparse.Namespace) -> AgentDemoOptions | None:
        """Return what the parsed command line says; None if no agent is to play.

        Raises:
            LlmConfigurationError: A model is named, and nobody who would ask it; or an option is not for agents.
        """
        if args.agent not in _MODELS and not args.teacher and (args.model or args.base_url):
            raise LlmConfigurationError(f"--model and --base-url are for --teacher and --agent {', '.join(_MODELS)}")
        if args.teacher and args.env != "gym-codecraft":
            raise LlmConfigurationError("--teacher is for --env gym-codecraft: other tasks have graders of their own")
        if args.agent is None and args.env != "code":
            raise LlmConfigurationError(f"--env {args.env} needs --agent: one of {', '.join(AGENTS)}")
        if args.agent is None:
            return None
        not_theirs = {"--rounds": args.rounds, "--record": args.record, "--metrics-port": args.metrics_port}
        if given := [name for name, value in not_theirs.items() if value is not None]:
            raise LlmConfigurationError(f"{given[0]} is for the scripts, without --agent{_INSTEAD.get(given[0], '')}")
        return cls(
            agent=args.agent,
            env=args.env,
            teacher=args.teacher,
            model=args.model,
            base_url=args.base_url,
            max_tokens=args.max_tokens,
            episodes=args.episodes,
            backend=args.backend,
            num_envs=args.num_envs,
            curriculum=args.curriculum,
            tasks=args.tasks,
            category=args.category,
            seed=args.seed,
            json_path=args.json,
        )


def add_agent_arguments(demo: argparse.ArgumentParser, number: Callable[[str], int]) -> None:
    """Add what concerns agents to the command line of the demo; *number* reads a number of at least 1."""
    group = demo.add_argument_group("agents", "with --agent, an agent plays each task instead of the scripts")
    group.add_argument(
        "--agent",
        choices=AGENTS,
        help="naive: any command; human: you, at this terminal; scripted: the tasks' experts; model: a language model "
        "that writes commands; model-tools: one that calls functions; langchain: one behind LangChain",
    )
    group.add_argument(
        "--env",
        choices=STAGES,
        default="code",
        help="where it plays: code, with shell commands (default), or gym-codecraft, with JSON actions",
    )
    group.add_argument(
        "--teacher", action="store_true", help="with gym-codecraft: have the model grade, not the automatic graders"
    )
    group.add_argument("--model", metavar="NAME", help="the model (default: OPENAI_MODEL of the environment or .env)")
    group.add_argument(
        "--base-url",
        metavar="URL",
        help="an OpenAI-compatible endpoint, such as http://127.0.0.1:8000/v1 (default: OPENAI_BASE_URL, else "
        "OpenAI's); its key is OPENAI_API_KEY of the environment or .env",
    )
    group.add_argument(
        "--max-tokens",
        type=number,
        default=1_000_000,
        metavar="N",
        help="the budget of all episodes together (default: 1000000)",
    )
    group.add_argument(
        "--episodes", type=number, default=1, metavar="N", help="how often the agent plays each task (default: 1)"
    )


async def run_agent_demo(options: AgentDemoOptions, console: Console) -> int:
    """Play, show what came of it, and return the exit status: 0, or 1 if an episode was not played to its end.

    Raises:
        CurriculumError: The curriculum or the task cannot be had.
        LlmError: The model cannot be used: no key, no name, no such package.
        LaunchError: The sandboxes cannot be started.
        OSError: The JSON file cannot be written.
    """
    stage = await asyncio.to_thread(make_stage, options.env, options.curriculum, options.tasks, options.category)
    plans = [
        EpisodePlan(f"{task}/{number}", {stage.option: task}, seed=options.seed + number)
        for number in range(options.episodes)
        for task in stage.tasks
    ]
    if options.json_path is not None:
        await asyncio.to_thread(options.json_path.touch)
    async with AsyncExitStack() as stack:
        client = None
        if options.agent in _MODELS or options.teacher:
            client = await stack.enter_async_context(await _client(options))
        make_agent = _maker(options, stage, client)
        teacher = ModelTeacher(client) if client is not None and options.teacher else None
        envs = await _open(options, stage, teacher, len(plans), console, stack)
        done: dict[str, EpisodeResult] = {}

        def tell(result: EpisodeResult) -> None:
            done[result.plan.name] = result
            _tell(result, console)

        try:
            batch = await run_episodes(envs, make_agent, plans, on_result=tell)
        finally:  # Ctrl-C too: what was played has been paid for
            if options.json_path is not None:
                played = [done[plan.name] for plan in plans if plan.name in done]
                await finish(asyncio.to_thread(_write, options.json_path, played))
    console.print(_table(stage, batch.results))
    if client is not None:
        usage = client.stats().usage
        _say(console, f"tokens: {usage.prompt_tokens} of prompts, {usage.completion_tokens} of answers")
    return _status(options, batch)


async def _client(options: AgentDemoOptions) -> ChatClient:
    def find() -> Endpoint:  # it reads .env
        return Endpoint.find(model=options.model, base_url=options.base_url)

    return ChatClient(
        await asyncio.to_thread(find),
        limiter=RateLimits(max_concurrency=_MAX_REQUESTS_AT_ONCE),
        budget=Budget(max_tokens=options.max_tokens),
    )


def _maker(options: AgentDemoOptions, stage: Stage, client: ChatClient | None) -> MakeAgent:
    if options.agent == "naive":
        return lambda plan: NaiveAgent(stage.choices, seed=plan.seed)
    if options.agent == "scripted":
        return lambda plan: stage.expert()
    if options.agent == "human":
        human = HumanAgent(last_words=stage.last_words)  # one for all: what was typed ahead is not lost between them
        return lambda plan: human
    assert client is not None
    if options.agent == "langchain":
        # Only here, for LangChain is an extra, and takes a while to import.
        from codecraft_async.agents.langchain import ClientChatModel, LangChainAgent

        model = ClientChatModel(client=client)
        return lambda plan: LangChainAgent(model, dialect=stage.dialect, episode=plan.name)
    use_tools = options.agent == "model-tools"
    return lambda plan: ModelAgent(client, dialect=stage.dialect, use_tools=use_tools, episode=plan.name)


async def _open(
    options: AgentDemoOptions,
    stage: Stage,
    teacher: ModelTeacher | None,
    episodes: int,
    console: Console,
    stack: AsyncExitStack,
) -> list[AsyncEnv]:
    """Return as many environments as can be used; *stack* closes them."""
    count = 1 if options.agent == "human" else min(options.num_envs, episodes)
    with image_progress(console) as images:
        runtime = Runtime(options.backend, stage.prepared, max_sandboxes=count, progress=images)
        stack.push_async_callback(runtime.aclose)
        await runtime.pool()
    assert runtime.choice is not None
    _say(console, f"launcher: {runtime.choice.launcher.name} ({runtime.choice.reason})")
    envs = [stage.open(runtime, teacher) for _ in range(count)]
    for env in envs:
        stack.push_async_callback(env.aclose)
    return envs


def _write(path: Path, results: Sequence[EpisodeResult]) -> None:
    path.write_bytes(orjson.dumps([asdict(result) for result in results], option=orjson.OPT_INDENT_2))


def _tell(result: EpisodeResult, console: Console) -> None:
    how = f"reward {result.reward:.2f}" if result.counts else f"{result.end.replace('_', ' ')}: {result.error}"
    _say(console, f"{result.plan.name}: {how}, {len(result.steps)} steps, {result.wall_s:.1f} s")


def _table(stage: Stage, results: Sequence[EpisodeResult]) -> Table:
    table = Table(title=f"curriculum {printable(stage.name)}", title_justify="left")
    table.add_column("task", overflow="fold")
    for title in ("reward", "episodes", "steps"):
        table.add_column(title, justify="right", no_wrap=True)
    for task in stage.tasks:
        played = [result for result in results if result.plan.options[stage.option] == task]
        counted = [result for result in played if result.counts]
        reward = f"{fmean(result.reward for result in counted):.2f}" if counted else "-"
        steps = f"{fmean(len(result.steps) for result in counted):.1f}" if counted else "-"
        table.add_row(Text(task), reward, f"{len(counted)} of {len(played)}", steps)
    table.caption = "reward, steps: means of the episodes that were played to their end"
    table.caption_justify = "left"
    return table


def _status(options: AgentDemoOptions, batch: EpisodeBatch) -> int:
    failed = [result for result in batch.results if not result.counts]
    if batch.stopped and options.agent != "human":  # who may leave
        _complain(f"{len(batch.left)} episodes were not played: {batch.stopped}")
    elif failed:
        _complain(f"{len(failed)} of {len(batch.results)} episodes were not played to their end: {failed[0].error}")
    else:
        return 0
    return 1


def _say(console: Console, line: str) -> None:
    console.print(Text(printable(line, max_chars=_MAX_LINE_CHARS)), soft_wrap=True)


def _complain(line: str) -> None:
    sys.stderr.write(f"codecraft demo: {printable(line, max_chars=_MAX_LINE_CHARS)}\n")


__all__ = ["AGENTS", "AgentDemoOptions", "add_agent_arguments", "run_agent_demo"]
