"""Proving tasks in real sandboxes: every script earns what its file says, and nothing can be looked up inside."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from codecraft_async._task_secrets import leaks_in
from codecraft_async.runtime import Runtime, sandbox_spec, snapshot_of
from codecraft_curriculum import Grade, Task
from codecraft_pool import Launcher, PoolError, Sandbox, SandboxPool

ScriptKind = Literal["expert", "no-op", "failure", "cheat", "partial"]
_SETUP_LIMIT_S = 60.0
_GRADE_LIMIT_S = 120.0
_ACQUIRE_LIMIT_S = 900.0  # the first ones wait for images
_SAME_SCORE = 1e-6
_MAX_SEEN_BYTES = 48 << 20
# What an agent can read: every file outside of the system's own, what processes were started with, and whether the
# system holds task files at all.
_READABLE = r"""
cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null
find / \( -path /proc -o -path /sys -o -path /dev -o -path /usr -o -path /var/lib -o -path /lib -o -path /lib64 \
  -o -path /bin -o -path /sbin -o -path /boot \) -prune -o -type f -readable -print0 2>/dev/null |
  xargs -0 -r cat 2>/dev/null
find /usr /opt /home /root -path '*codecraft_curriculu[m]/tasks/*' -name task.toml -readable 2>/dev/null | head -n 1
"""


@dataclass(frozen=True, slots=True)
class ProofScript:
    """One solution of a task, and the score that is due."""

    name: str
    kind: ScriptKind
    due: float
    actions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """What one script came to, once; `problem` is why there is no grade, if there is none."""

    grade: Grade | None
    problem: str = ""
    leaks: tuple[str, ...] = ()


@dataclass(slots=True)
class TaskProof:
    """What is known of one task; it is proved if there are no problems."""

    task: Task
    scripts: tuple[ProofScript, ...]
    runs: dict[str, list[Run]] = field(default_factory=dict[str, list[Run]])
    wall_s: float = 0.0

    @property
    def problems(self) -> list[str]:
        """One line for everything that is not as it should be."""
        problems = [] if self.task.expert else ["it has no expert: give the commands that solve it in [proof]"]
        for script in self.scripts:
            problems += self._problems_of(script)
        leaks = {leak for runs in self.runs.values() for run in runs for leak in run.leaks}
        return problems + sorted(leaks)

    def _problems_of(self, script: ProofScript) -> list[str]:
        problems: list[str] = []
        runs = self.runs.get(script.name, [])
        for run in runs:
            if run.grade is None:
                problems.append(f"{script.kind} {script.name}: {run.problem}")
            elif abs(run.grade.score - script.due) > _SAME_SCORE:
                earned = f"earns {run.grade.score:g} where {script.due:g} is due"
                problems.append(f"{script.kind} {script.name}: {earned}: {run.grade.reason}")
        verdicts = [(run.grade.score, dict(run.grade.parts)) for run in runs if run.grade is not None]
        if any(verdict != verdicts[0] for verdict in verdicts):
            problems.append(f"{script.kind} {script.name}: another grade in another run: {verdicts}")
        if len(script.actions) > self.task.max_steps:
            problems.append(
                f"{script.kind} {script.name}: {len(script.actions)} steps, of max_steps {self.task.max_steps}"
            )
        return list(dict.fromkeys(problems))


def proof_scripts(task: Task) -> tuple[ProofScript, ...]:
    """Return every script of a task: doing nothing first, whether it is named or not."""
    scripts = [ProofScript("nothing", "no-op", 0.0, ())]
    if task.expert:
        scripts.append(ProofScript("expert", "expert", 1.0, task.expert))
    scripts += [ProofScript(name, "failure", 0.0, actions) for name, actions in task.failures.items()]
    scripts += [ProofScript(name, "cheat", 0.0, actions) for name, actions in task.cheats.items()]
    scripts += [ProofScript(name, "partial", each.score, each.actions) for name, each in task.partial.items()]
    return tuple(scripts)


async def prove_tasks(
    tasks: Sequence[Task],
    *,
    backend: str | Launcher = "auto",
    jobs: int = 8,
    repeats: int = 2,
    told: Callable[[TaskProof], None] | None = None,
) -> list[TaskProof]:
    """Play every script of the tasks `repeats` times in up to `jobs` sandboxes at once, and return what came of it.

    After the first run of a task that does nothing, what an agent can read in the sandbox is searched for the texts
    of its solution and of its grader. `told` is called with each task that is done.

    Raises:
        LaunchError: The sandboxes cannot be started; says why and what to do.
    """
    proofs = [TaskProof(task, proof_scripts(task)) for task in tasks]
    work = deque((proof, script, number) for proof in proofs for number in range(repeats) for script in proof.scripts)
    runtime = Runtime(backend, tasks, max_sandboxes=jobs)
    try:
        pool = await runtime.pool()
        async with asyncio.TaskGroup() as group:
            for _ in range(min(jobs, len(work))):
                group.create_task(_work(pool, work, repeats, told))
    finally:
        await runtime.aclose()
    return proofs


async def _work(
    pool: SandboxPool,
    work: deque[tuple[TaskProof, ProofScript, int]],
    repeats: int,
    told: Callable[[TaskProof], None] | None,
) -> None:
    while work:
        proof, script, number = work.popleft()
        began = time.perf_counter()
        run = await _run(pool, proof.task, script, look=number == 0 and script.kind == "no-op")
        proof.wall_s += time.perf_counter() - began
        proof.runs.setdefault(script.name, []).append(run)
        if told is not None and sum(map(len, proof.runs.values())) == len(proof.scripts) * repeats:
            told(proof)


async def _run(pool: SandboxPool, task: Task, script: ProofScript, *, look: bool) -> Run:
    async with pool.lease(
        sandbox_spec(task), snapshot=snapshot_of(task.workspace), limit_s=_ACQUIRE_LIMIT_S
    ) as sandbox:
        try:
            problem = await _play(sandbox, task, script)
            if problem:
                return Run(None, problem)
            if look:
                return await _look(sandbox, task)
            return Run(await _grade(sandbox, task))
        except PoolError as error:
            return Run(None, f"the sandbox failed: {error}")
        except Exception as error:  # a grader is code of the task's author: what it raises is what is to be told
            return Run(None, f"the grader failed: {type(error).__name__}: {error}")


async def _play(sandbox: Sandbox, task: Task, script: ProofScript) -> str:
    """Set the task up and do what the script says; return what is wrong with the task's own commands, or nothing."""
    for command in task.setup:
        result = await sandbox.run(command, shell=task.shell, limit_s=_SETUP_LIMIT_S)
        if result.exit_code != 0:
            said = result.stderr[-300:].decode(errors="replace").strip()
            return f"the set-up {command!r} ended with {result.exit_code}: {said}"
    limits = task.limits
    for action in script.actions:
        result = await sandbox.run(
            action,
            shell=task.shell,
            limit_s=limits.command_limit_s,
            max_output_bytes=limits.max_output_bytes,
            merge_stderr=True,
        )
        if script.kind == "expert" and result.exit_code != 0:
            return f"{action[:80]!r} ended with {result.exit_code}: {result.stdout[-300:].decode(errors='replace')}"
    return ""


async def _grade(sandbox: Sandbox, task: Task) -> Grade:
    await sandbox.end_processes(keep_system=False)
    async with asyncio.timeout(_GRADE_LIMIT_S):
        return await task.grader.grade(sandbox)


async def _look(sandbox: Sandbox, task: Task) -> Run:
    """Search the sandbox of an agent that has done nothing yet, then grade that."""
    seen = await sandbox.run(_READABLE, limit_s=60.0, max_output_bytes=_MAX_SEEN_BYTES)
    grade = await _grade(sandbox, task)
    if seen.truncated or seen.timed_out:
        return Run(grade, leaks=("what an agent can read in the sandbox is too much to be searched",))
    passed = {name for name, score in grade.parts.items() if score == 1.0}
    return Run(grade, leaks=tuple(leaks_in(seen.stdout, task, passed=passed)))


__all__ = ["ProofScript", "Run", "ScriptKind", "TaskProof", "proof_scripts", "prove_tasks"]
