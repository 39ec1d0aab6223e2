"""``codecraft tasks list|show|check``: what tasks there are, what they ask, and whether they keep what they promise."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from codecraft_async._demo_report import printable
from codecraft_async._images_cli import Subparsers
from codecraft_async.task_proof import TaskProof, proof_scripts, prove_tasks
from codecraft_curriculum import AllOf, AnyOf, Curriculum, Task, load_curriculum
from codecraft_pool import BACKENDS

_MAX_PROBLEM_CHARS = 600
_SHOWN_FILES = 30
_MOST_JOBS = 256


def add_tasks_parser(subparsers: Subparsers) -> None:
    """Add `tasks` and its commands to the command line."""
    parser = subparsers.add_parser("tasks", help="list tasks, show one, or prove that they are graded right")
    commands = parser.add_subparsers(dest="tasks_command", required=True, metavar="COMMAND")
    listing = commands.add_parser("list", help="the tasks of a curriculum")
    show = commands.add_parser("show", help="what one task asks for, and how it is graded")
    check = commands.add_parser("check", help="play every script of tasks in real sandboxes and compare the scores")
    listing.add_argument("source", nargs="?", default="builtin", metavar="FILE", help="a curriculum (default: builtin)")
    listing.add_argument("--category", metavar="NAME", help="only the tasks of this category")
    listing.add_argument("--difficulty", metavar="NAME", help="only the easy, medium or hard ones")
    listing.add_argument("--markdown", action="store_true", help="as the table of the curriculum's README")
    show.add_argument("source", metavar="FILE|ID", help="the id of a built-in task, or a task file")
    show.add_argument("--expert", action="store_true", help="also show the commands that solve it")
    check.add_argument("sources", nargs="*", metavar="FILE|ID", help="task files, folders of them, built-in ids")
    check.add_argument("--backend", choices=BACKENDS, default="auto", help="what runs the sandboxes (default: auto)")
    check.add_argument("--jobs", type=_jobs, metavar="N", help="sandboxes at once (default: twice the processors)")
    check.add_argument("--repeats", type=_jobs, default=2, metavar="N", help="plays of each script (default: 2)")
    for each in (listing, show, check):
        each.add_argument("--trust-code", action="store_true", help="run the Python files that task files name")


def _jobs(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text[:9]) <= _MOST_JOBS):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {_MOST_JOBS}")
    return int(text)


async def run_tasks(args: argparse.Namespace) -> int:
    """Do what the parsed command line says and return the exit status: 0, or 1 if a task is not proved.

    Raises:
        CurriculumError: A task cannot be had.
        LaunchError: The sandboxes cannot be started.
    """
    console = Console()
    if args.tasks_command == "check":
        return await _check(args, console)
    curriculum = await asyncio.to_thread(load_curriculum, args.source, trust_code=args.trust_code)
    if args.tasks_command == "list":
        tasks = _chosen(curriculum, args.category, args.difficulty)
        if args.markdown:
            sys.stdout.writelines(f"{markdown_row(task)}\n" for task in tasks)
        else:
            console.print(_listing(tasks))
    else:
        for task in curriculum.tasks:
            _show(task, console, expert=args.expert)
    return 0


def _chosen(curriculum: Curriculum, category: str | None, difficulty: str | None) -> list[Task]:
    return [
        task for task in curriculum.tasks if category in (None, task.category) and difficulty in (None, task.difficulty)
    ]


def _listing(tasks: Sequence[Task]) -> Table:
    table = Table(title=f"{len(tasks)} tasks")
    for name in ("task", "category", "difficulty", "minutes", "image", "title"):
        table.add_column(
            name, justify="right" if name == "minutes" else "left", no_wrap=name == "task", overflow="fold"
        )
    for task in tasks:
        minutes = f"{task.estimated_minutes:g}" if task.estimated_minutes else ""
        row = (task.id, task.category, task.difficulty, minutes, task.image, task.title)
        table.add_row(*(Text(printable(text, max_chars=80)) for text in row))
    return table


def markdown_row(task: Task) -> str:
    """Return a task's line in the table of the curriculum's README."""
    scripts = f"{len(task.partial)} + {len(task.failures)} + {len(task.cheats)}"
    kind = f"{task.category} | {task.difficulty} | {task.title}"
    return f"| `{task.id}` | {kind} | {scripts} | {task.estimated_minutes:g} min |"


def _show(task: Task, console: Console, *, expert: bool) -> None:
    minutes = f", about {task.estimated_minutes:g} minutes" if task.estimated_minutes else ""
    difficulty = f", {task.difficulty}" if task.difficulty else ""
    lines = [
        f"{task.id}: {task.title}",
        f"{task.category}{difficulty}{minutes}; image {task.image}, user {task.user}, at most {task.max_steps} steps",
        "",
        *task.instruction.splitlines(),
        "",
        f"workspace: {_files(task)}",
        f"checks: {', '.join(_checks(task))}",
        f"proof: {', '.join(f'{script.kind} {script.name} ({script.due:g})' for script in proof_scripts(task))}",
    ]
    if expert:
        lines += ["", "expert:", *(line for action in task.expert for line in action.strip().splitlines())]
    for line in lines:
        console.print(Text(printable(line, max_chars=2000)), soft_wrap=True)


def _files(task: Task) -> str:
    files = list(task.workspace.files)
    more = f", and {len(files) - _SHOWN_FILES} more" if len(files) > _SHOWN_FILES else ""
    return ", ".join(files[:_SHOWN_FILES]) + more if files else "empty"


def _checks(task: Task) -> list[str]:
    grader = task.grader
    if isinstance(grader, AllOf):
        paid = "all must pass" if grader.combine == "min" else grader.combine
        return [f"{name}{' (required)' if name in grader.required else ''}" for name in grader.graders] + [f"[{paid}]"]
    return list(grader.graders) if isinstance(grader, AnyOf) else [type(grader).__name__]


async def _check(args: argparse.Namespace, console: Console) -> int:
    def load() -> dict[str, Task]:
        sources = args.sources or ["builtin"]
        curricula = [load_curriculum(source, trust_code=args.trust_code) for source in sources]
        return {f"{number}/{task.id}": task for number, each in enumerate(curricula) for task in each.tasks}

    tasks = await asyncio.to_thread(load)
    jobs = args.jobs or min(_MOST_JOBS, 2 * (os.cpu_count() or 1))

    def told(proof: TaskProof) -> None:
        console.print(Text(f"{'proved' if not proof.problems else 'WRONG '} {proof.task.id}"), soft_wrap=True)

    proofs = await prove_tasks(list(tasks.values()), backend=args.backend, jobs=jobs, repeats=args.repeats, told=told)
    console.print(_proof_table(proofs))
    for proof in proofs:
        for problem in proof.problems:
            line = printable(f"{proof.task.id}: {problem}", max_chars=_MAX_PROBLEM_CHARS)
            console.print(Text(line), soft_wrap=True)
    return int(any(proof.problems for proof in proofs))


def _proof_table(proofs: Sequence[TaskProof]) -> Table:
    wrong = sum(bool(proof.problems) for proof in proofs)
    table = Table(title=f"{len(proofs) - wrong} of {len(proofs)} tasks are proved")
    for name in ("task", "difficulty", "expert", "partial", "wrong", "cheats", "s", "proved"):
        is_text = name in ("task", "difficulty")
        table.add_column(name, justify="left" if is_text else "right", no_wrap=name == "task", overflow="fold")
    for proof in proofs:
        task = proof.task
        expert = [run.grade.score for run in proof.runs.get("expert", []) if run.grade is not None]
        row = (
            *(printable(text, max_chars=80) for text in (task.id, task.difficulty)),
            f"{min(expert):g}" if expert else "-",
            *(str(len(scripts)) for scripts in (task.partial, task.failures, task.cheats)),
            f"{proof.wall_s:.1f}",
            "no" if proof.problems else "yes",
        )
        table.add_row(*map(Text, row), style="red" if proof.problems else None)
    return table


__all__ = ["add_tasks_parser", "markdown_row", "run_tasks"]
