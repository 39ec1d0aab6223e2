"""``codecraft eval``: have an agent play tasks, and report and compare what came of it."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import orjson
from rich.console import Console
from rich.text import Text

from codecraft_async._demo_report import printable
from codecraft_async._images_cli import image_progress
from codecraft_async.evaluation.cast import CountedModel, cast_of
from codecraft_async.evaluation.comparing import Comparison
from codecraft_async.evaluation.errors import EvalError, SettingsError
from codecraft_async.evaluation.live import live
from codecraft_async.evaluation.opening import EnvKind
from codecraft_async.evaluation.options import EvalOptions
from codecraft_async.evaluation.playing import Evaluation, evaluate
from codecraft_async.evaluation.reading import read_log
from codecraft_async.evaluation.records import EpisodeLog
from codecraft_async.evaluation.report import Report
from codecraft_async.evaluation.report_text import as_markdown, comparison_markdown, show, show_comparison
from codecraft_async.evaluation.run_files import RunFiles, write_whole
from codecraft_async.evaluation.tasks import EvalTask, tasks_of
from codecraft_async.intercode.filesystems import FileTree
from codecraft_async.llm import Budget, ChatClient, DiskCache, Endpoint, Prices, RateLimits, Usage
from codecraft_async.vector import AsyncioVectorEnv
from codecraft_curriculum import Curriculum, Dataset, load_curriculum
from codecraft_pool._aio import finish

__all__ = ["run_eval"]

_MAX_LINE_CHARS: Final = 2000
_JSON: Final = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
_ANSWERS: Final = "answers"


async def run_eval(args: argparse.Namespace) -> int:
    """Do what the parsed command line says and return the exit status: 0, or 1 if not everything was played.

    Raises:
        CurriculumError, LlmError, LaunchError: The tasks, the model or the sandboxes cannot be had.
        OSError: A file cannot be read or written.
    """
    console = Console()
    try:
        if args.eval_command == "report":
            return await asyncio.to_thread(_report, args, console)
        if args.eval_command == "compare":
            return await asyncio.to_thread(_compare, args, console)
        return await _Run(EvalOptions.of(args), console).play()
    except EvalError as error:
        return _complain(str(error))


class _Run:
    """One run: what is to be played, what has been, and where it is kept."""

    def __init__(self, options: EvalOptions, console: Console) -> None:
        self._options = options
        self._console = console
        self._kind = EnvKind(options.env)
        self._arguments = self._kind.arguments(options.texts())
        self._prices: Prices | None = None
        if options.price_prompt is not None and options.price_answer is not None:
            self._prices = Prices(prompt_per_million=options.price_prompt, completion_per_million=options.price_answer)

    async def play(self) -> int:
        """Play what is missing, and report."""
        options = self._options
        source = await self._source()
        tasks = tasks_of(source, options.tasks, samples=options.samples)
        endpoint = await asyncio.to_thread(self._endpoint) if options.uses_model else None
        settings = await asyncio.to_thread(options.settings, "" if endpoint is None else endpoint.model)
        async with AsyncExitStack() as stack:
            files = await asyncio.to_thread(RunFiles, options.out, settings)
            stack.callback(files.close)
            missing = [task for task in tasks if not _is_played(files.episodes.get(task.name))]
            result = Evaluation({})
            if missing:
                result = await self._play(missing, source, files, endpoint, stack, len(tasks))
            chosen = [files.episodes[task.name] for task in tasks if task.name in files.episodes]
            report = Report.of(options.out.name or str(options.out), chosen, prices=self._prices)
            await finish(asyncio.to_thread(self._write, files, tasks, report))
        show(report, self._console)
        return _status(result, chosen, options.out)

    async def _play(
        self,
        missing: Sequence[EvalTask],
        source: Dataset | Curriculum,
        files: RunFiles,
        endpoint: Endpoint | None,
        stack: AsyncExitStack,
        total: int,
    ) -> Evaluation:
        model = None if endpoint is None else await stack.enter_async_context(self._client(endpoint, files))
        counted = {key for key, episode in files.episodes.items() if episode.usage.total_tokens}
        answering = None if model is None else CountedModel(model, counted)
        make, rules = await asyncio.to_thread(cast_of, self._options, self._kind, source, missing, answering)
        env = await self._open(source, min(self._options.num_envs, len(missing)), stack)
        done = total - len(missing)
        if done:
            self._say(f"{done} of {total} episodes are played already")
        with live(self._console, done=done, total=total) as shown:

            def keep(episode: EpisodeLog) -> None:
                files.add(episode)
                shown.tell(episode)

            try:
                return await evaluate(env, make, missing, rules=rules, dataset=source.name, on_episode=keep)
            except BaseException:
                played = sum(task.name in files.episodes for task in missing)
                self._say(
                    f"{done + played} of {total} episodes are played and kept in {files.directory}; the same command "
                    "goes on with the others"
                )
                raise

    async def _source(self) -> Dataset | Curriculum:
        """Return the tasks."""
        options = self._options
        if not self._kind.has_rows:
            return await asyncio.to_thread(load_curriculum, options.data or "builtin")
        if options.data is None:
            raise SettingsError(f"--data is missing: the rows that {self._kind.id} is to play")
        trust = {"trust_pickle": True} if options.trust_pickle else {}
        return await self._kind.dataset(options.data, backend=options.backend, **trust, **self._arguments)

    def _endpoint(self) -> Endpoint:
        """Return where the model is (blocking: it reads .env)."""
        return Endpoint.find(model=self._options.model, base_url=self._options.base_url)

    def _client(self, endpoint: Endpoint, files: RunFiles) -> ChatClient:
        options = self._options
        spent = sum((episode.usage for episode in files.episodes.values()), Usage())
        return ChatClient(
            endpoint,
            limiter=RateLimits(
                requests_per_minute=options.requests_per_minute,
                tokens_per_minute=options.tokens_per_minute,
                max_concurrency=options.max_requests,
            ),
            budget=Budget(max_tokens=options.max_tokens, max_cost=options.max_cost, prices=self._prices, spent=spent),
            cache=DiskCache(files.directory / _ANSWERS),
        )

    async def _open(
        self, source: Dataset | Curriculum, num_envs: int, stack: AsyncExitStack
    ) -> AsyncioVectorEnv[Any, Any]:
        """Return as many environments as can be used, with their sandboxes' launcher; *stack* closes them."""
        options = dict(self._arguments)
        if self._options.tree is not None:
            options["image_name"] = await asyncio.to_thread(
                FileTree.read, self._options.tree, compat=self._options.compat
            )
        if isinstance(source, Dataset):
            options |= {"data_path": source}
            if self._options.scores_steps(self._kind):
                options["score_steps"] = True
        else:
            options["curriculum"] = source
        with image_progress(self._console) as images:
            env = await asyncio.to_thread(
                self._kind.open, num_envs, backend=self._options.backend, progress=images, **options
            )
            stack.push_async_callback(env.aclose)
            runtime = getattr(env, "runtime", None)
            if runtime is not None:
                await runtime.pool()
        choice = getattr(runtime, "choice", None)
        if choice is not None:
            self._say(f"launcher: {choice.launcher.name} ({choice.reason})")
        return env

    def _write(self, files: RunFiles, tasks: Sequence[EvalTask], report: Report) -> None:
        """Write the log and the report beside the lines (blocking)."""
        files.finish([task.name for task in tasks])
        write_whole(files.directory / "report.json", orjson.dumps(report.as_json(), option=_JSON))
        write_whole(files.directory / "report.md", as_markdown(report).encode() + b"\n")

    def _say(self, line: str) -> None:
        self._console.print(Text(printable(line, max_chars=_MAX_LINE_CHARS)), soft_wrap=True)


def _is_played(episode: EpisodeLog | None) -> bool:
    """Return whether an episode need not be played again; faults and failures of agents are tried once more."""
    return episode is not None and (episode.counts or episode.corrupt_gold)


def _status(result: Evaluation, episodes: Sequence[EpisodeLog], directory: Path) -> int:
    failed = [episode for episode in episodes if not _is_played(episode)]
    if result.left:
        return _complain(
            f"{len(result.left)} episodes were not played: {result.stopped}; the same command goes on with them"
        )
    if failed:
        return _complain(
            f"{len(failed)} of {len(episodes)} episodes were not played to their end, and are played again by the same "
            f"command; {failed[0].key} in {directory}: {failed[0].error}"
        )
    return 0


def _report(args: argparse.Namespace, console: Console) -> int:
    logs = [(str(path), list(read_log(path).values())) for path in args.logs]
    reports = [Report.of(name, episodes) for name, episodes in logs]
    if len(reports) > 1:
        reports.append(Report.of("all together", [each for _, episodes in logs for each in episodes]))
    for report in reports:
        show(report, console)
    content = [report.as_json() for report in reports]
    _write_both(args, content[0] if len(content) == 1 else content, "\n\n".join(map(as_markdown, reports)))
    return 0


def _compare(args: argparse.Namespace, console: Console) -> int:
    first, second = (str(path) for path in args.logs)
    comparison = Comparison.of(read_log(first), read_log(second))
    show_comparison(comparison, (first, second), console)
    _write_both(args, comparison.as_json(), comparison_markdown(comparison, (first, second)))
    return 0


def _write_both(args: argparse.Namespace, content: object, markdown: str) -> None:
    if args.json is not None:
        write_whole(args.json, orjson.dumps(content, option=_JSON))
    if args.markdown is not None:
        write_whole(args.markdown, markdown.encode() + b"\n")


def _complain(line: str) -> int:
    sys.stderr.write(f"codecraft eval: {printable(line, max_chars=_MAX_LINE_CHARS)}\n")
    return 1
