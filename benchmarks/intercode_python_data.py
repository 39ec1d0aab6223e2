"""InterCode's Python data: whether the golds of MBPP pass their own tests, each restore proved clean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.proofs import EVERY, Proofs
from codecraft_async.evaluation import EvalRules, GoldAgent, evaluate, tasks_of
from codecraft_async.intercode import PythonVectorEnv
from codecraft_curriculum import Dataset, load_dataset

_ENVS = 8


def mbpp(folder: Path) -> Dataset:
    """Return the tasks (blocking).

    Raises:
        TaskFileError: They cannot be read.
    """
    return load_dataset(folder / "mbpp" / "ic_mbpp_0_486.json")


async def golds_that_fail(dataset: Dataset, rows: Sequence[int], backend: str, proofs: Proofs) -> dict[int, str]:
    """Return the rows whose golds do not earn 1 as a function that is submitted, with the reason."""
    async with proofs.of(
        PythonVectorEnv(
            min(_ENVS, len(rows)),
            data_path=dataset,
            backend=backend,
            autoreset_mode="Disabled",
            prove_every=EVERY,
        ),
        len(rows),
    ) as env:
        done = await evaluate(
            env, lambda task: GoldAgent(task, "ic_python"), tasks_of(dataset, rows), rules=EvalRules(stop_at=None)
        )
    return {
        int(key): str(episode.error or episode.info.get("reason", "no reason is known"))
        for key, episode in done.episodes.items()
        if episode.end == "fault" or not episode.turns or episode.turns[-1].reward != 1
    }
