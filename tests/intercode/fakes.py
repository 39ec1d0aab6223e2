"""What the tests of InterCode's environments share: a small environment over fake sandboxes, and a dataset."""

from __future__ import annotations

import asyncio
import os
from typing import Any, ClassVar, Final

from codecraft_async.curriculum import Dataset
from codecraft_async.intercode import InterCodeEnv
from codecraft_async.pool import FakeAnswer, FakeFiles, FakeLauncher

DATA: Final = Dataset.from_rows(
    [{"query": f"say {number}", "gold": str(number), "number": number} for number in range(5)], name="sayings"
)


async def answer(files: FakeFiles, argv: list[str]) -> FakeAnswer:
    """Says what it is given; `keep` and `recall` have a memory that is the sandbox's."""
    verb, _, rest = argv[-1].partition(" ")
    if verb == "keep":
        files.files["kept"] = rest.encode()
    if verb == "recall":
        return FakeAnswer(files.files.get("kept", b""))
    if verb == "fail":
        return FakeAnswer(os.fsencode(rest), exit_code=1)
    if verb == "hang":
        await asyncio.Event().wait()
    return FakeAnswer(os.fsencode(rest))


class Sayings(InterCodeEnv):
    """Pays 1 if the last thing that was said is the gold."""

    name: ClassVar[str] = "sayings"
    evaluates: ClassVar[bool] = True

    async def execute_action(self, action: str) -> str:
        result = await self.sandbox.run(action, limit_s=self.command_limit_s)
        self.info["action_executed"] = result.exit_code == 0
        return os.fsdecode(result.stdout)

    async def get_reward(self) -> tuple[float, dict[str, Any]]:
        if self.gold == "4":
            raise ZeroDivisionError("a bug")
        if self.gold == "3":
            return 0.0, {"corrupt_gold": True}
        async with self.evaluation_sandbox() as sandbox:
            expected = (await sandbox.run(f"echo {self.gold}")).stdout.decode()
        return float(self.observation == expected), {
            "agent_obs": self.observation,
            "eval_obs": expected,
            "submission": self.submission,
        }


def sayings(launcher: FakeLauncher | None = None, **options: Any) -> Sayings:
    """An environment over fake sandboxes."""
    options.setdefault("data_path", DATA)
    return Sayings(backend=launcher or FakeLauncher(answer), **options)
