"""Episodes that outlive their sandboxes: what they become, what is said of it, and when it ends."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import Any

import pytest

from codecraft_async import CodeEnv, Recovery
from codecraft_async.pool import FakeAnswer, FakeFiles, FakeLauncher, SandboxLost
from codecraft_async.runtime import Runtime
from tests.envs.code_envs import Crashes, check_types, lose_sandbox, make, make_task, play, vector

pytestmark = pytest.mark.anyio


class Mortal:
    """A launcher whose sandboxes die of the command ``die``, and the next `dying` ones of a set-up."""

    def __init__(self) -> None:
        self.launcher = FakeLauncher(self.answer)
        self.answered: list[str] = []
        self.dying = 0
        self._ticks = count()
        self._news = asyncio.Event()

    async def answer(self, files: FakeFiles, argv: list[str]) -> FakeAnswer:
        command = argv[-1]
        self.answered.append(command)
        self._news.set()
        if command == "set up" and self.dying:
            self.dying -= 1
            command = "die"
        if command == "die":
            self.kill()
            await asyncio.sleep(999)
        if command.startswith("add "):
            files.files["log"] = files.files.get("log", b"") + command.removeprefix("add ").encode()
            return FakeAnswer(files.files["log"])
        if command == "tick":
            return FakeAnswer(str(next(self._ticks)).encode())
        return await play(files, argv)

    def kill(self) -> None:
        """The newest sandbox dies."""
        self.launcher.sandboxes[-1].close()

    async def until_answering(self) -> None:
        """Wait until another command has begun."""
        self._news.clear()
        await self._news.wait()

    def take_answered(self) -> list[str]:
        """What was run since this was asked last."""
        answered, self.answered = self.answered, []
        return answered


async def begin(mortal: Mortal, *actions: str, recover: bool | Recovery = True, **options: Any) -> CodeEnv:
    """Return an environment in whose episode *actions* were done."""
    env = make(mortal.launcher, make_task(max_steps=20), recover=recover, **options)
    await env.areset()
    for action in actions:
        _, _, terminated, truncated, info = await env.astep(action)
        assert not (terminated or truncated or "recovered" in info)
    mortal.take_answered()
    return env


async def test_an_episode_goes_on_in_another_sandbox() -> None:
    """All that was done is done again, and then what was asked for; the episode has lost nothing."""
    mortal = Mortal()
    env = await begin(mortal, "add a", "add b")
    mortal.kill()
    text, _, terminated, truncated, info = await env.astep("add c")
    assert ("abc", False, False, 3) == (text, terminated, truncated, info["steps"])
    assert ["add a", "add b", "add c"] == mortal.take_answered()
    assert info["valid"] and info["recovered"] is True
    reason = "SandboxLost: sandbox fake-0 is lost: it was closed"
    expected = {"count": 1, "sandbox": "fake-0", "reason": reason, "replayed": 2, "differed": 0, "differing_steps": ()}
    assert expected | {"interrupted": 0} == info["recovery"]
    await env.aclose()


async def test_every_later_info_tells_of_a_recovery_and_none_of_the_next_episode() -> None:
    """What a learner weighs by it is told to the end, and then forgotten."""
    mortal = Mortal()
    env = await begin(mortal, "write 42")
    mortal.kill()
    await env.astep("ls")
    _, reward, terminated, _, info = await env.astep("submit")
    assert (1.0, True, True, 1) == (reward, terminated, info["recovered"], info["recovery"]["count"])
    _, info = await env.areset()
    check_types(info)
    *_, info = await env.astep("ls")
    check_types(info)
    await env.aclose()


async def test_a_sandbox_lost_at_submit_is_graded_in_another() -> None:
    """The work is done again there, and its grade is the reward."""
    mortal = Mortal()
    env = await begin(mortal, "write 42")
    mortal.kill()
    _, reward, terminated, _, info = await env.astep("submit")
    assert (1.0, True, True, True) == (reward, terminated, info["graded"], info["recovered"])
    await env.aclose()


async def test_files_that_an_agent_wrote_are_written_again() -> None:
    """Whatever the parser made of what it said."""
    mortal = Mortal()
    env = await begin(mortal, '{"action": "write_file", "path": "answer", "content": "42"}', actions="json")
    mortal.kill()
    _, reward, *_, info = await env.astep('{"action": "submit"}')
    assert (1.0, 1) == (reward, info["recovery"]["replayed"])
    await env.aclose()


async def test_an_observation_that_differs_is_counted() -> None:
    """With its step; the episode goes on, and what the agent saw is not taken back."""
    mortal = Mortal()
    env = await begin(mortal, "add a", "tick", "add b", "tick")
    mortal.kill()
    *_, info = await env.astep("ls")
    assert (4, 2, (2, 4)) == tuple(info["recovery"][key] for key in ("replayed", "differed", "differing_steps"))
    await env.aclose()


async def test_steps_that_differ_are_counted_as_the_episode_does() -> None:
    """Malformed actions that are no steps do not count."""
    mortal = Mortal()
    env = await begin(mortal, "\0", "tick", malformed_retries=1)
    mortal.kill()
    *_, info = await env.astep("ls")
    assert ((1,), 2, 2) == (info["recovery"]["differing_steps"], info["recovery"]["replayed"], info["steps"])
    await env.aclose()


async def test_an_observation_that_differs_can_end_the_episode() -> None:
    """As a fault that says so."""
    mortal = Mortal()
    env = await begin(mortal, "tick", recover=Recovery(on_difference="fault"))
    mortal.kill()
    text, reward, terminated, truncated, info = await env.astep("ls")
    assert ("", 0.0, False, True, False) == (text, reward, terminated, truncated, info["valid"])
    assert info["fault"]["message"].endswith("not recovered: 1 of 1 actions had another observation than before")
    assert 1 == info["recovery"]["differed"]
    await env.areset()
    text, *_ = await env.astep("ls")
    assert "hint\n" == text
    await env.aclose()


async def test_a_command_that_kills_its_sandbox_is_tried_twice() -> None:
    """Then it is a fault, and the next episode has a sandbox."""
    mortal = Mortal()
    env = await begin(mortal, "add a")
    _, _, terminated, truncated, info = await env.astep("die")
    assert (False, True, False, 2) == (terminated, truncated, info["valid"], info["recovery"]["count"])
    assert "the same action has lost two sandboxes" in info["fault"]["message"]
    assert ["die", "add a", "die"] == mortal.take_answered()
    await env.areset()
    text, *_ = await env.astep("ls")
    assert "hint\n" == text
    await env.aclose()


async def test_the_number_of_recoveries_has_a_limit() -> None:
    """Sandboxes that die of something else are not replaced for ever."""
    mortal = Mortal()
    env = await begin(mortal, recover=Recovery(max_recoveries=2))
    for losses in (1, 2):
        mortal.kill()
        *_, truncated, info = await env.astep("ls")
        assert (False, losses) == (truncated, info["recovery"]["count"])
    mortal.kill()
    *_, truncated, info = await env.astep("ls")
    assert (True, False) == (truncated, info["valid"])
    assert "more than 2 sandboxes were lost, which is max_recoveries" in info["fault"]["message"]
    await env.aclose()


async def test_a_sandbox_lost_while_it_catches_up_is_one_more() -> None:
    """It is counted, and another one begins from the start."""
    mortal = Mortal()
    env = await begin(mortal, "add a", "add b")
    mortal.kill()
    step = asyncio.create_task(env.astep("add c"))
    await mortal.until_answering()
    mortal.kill()
    text, *_, info = await step
    assert ("abc", 2, 2) == (text, info["recovery"]["count"], info["recovery"]["replayed"])
    assert 3 == len(mortal.launcher.sandboxes)
    await env.aclose()


async def test_a_sandbox_that_dies_before_it_is_used_is_one_more() -> None:
    """Up to the limit; the action that was lost is not to blame for it."""
    for max_recoveries, is_valid in ((3, True), (2, False)):
        mortal = Mortal()
        task = make_task(setup=("set up",))
        env = make(mortal.launcher, task, recover=Recovery(max_recoveries=max_recoveries))
        await env.areset()
        mortal.dying = 2
        mortal.kill()
        *_, info = await env.astep("ls")
        assert is_valid is info["valid"]
        await env.aclose()


async def test_with_checkpoints_only_what_came_after_the_last_one_is_done_again() -> None:
    """The files come from there; the steps go on counting."""
    mortal = Mortal()
    env = await begin(mortal, *(f"add {each}" for each in "abcde"), recover=Recovery(checkpoint_every=2))
    mortal.kill()
    text, *_, info = await env.astep("tick")
    assert (["add e", "tick"], 6, 1) == (mortal.take_answered(), info["steps"], info["recovery"]["replayed"])
    mortal.kill()
    text, *_, info = await env.astep("add f")
    assert "abcdef" == text
    assert ((6,), 2) == (info["recovery"]["differing_steps"], info["recovery"]["count"])
    await env.aclose()


async def test_no_checkpoint_is_taken_of_a_sandbox_that_is_gone() -> None:
    """The one before, or the beginning, serves as well."""
    mortal = Mortal()
    env = await begin(mortal, "add a", "add b", recover=Recovery(checkpoint_every=2))
    mortal.kill()
    text, *_, info = await env.astep("add c")
    assert ("abc", 2) == (text, info["recovery"]["replayed"])
    await env.aclose()


async def test_files_that_are_too_much_are_in_no_checkpoint() -> None:
    """In real sandboxes: what was kept before serves as well, and it is not tried again at each step."""
    env = CodeEnv(backend="local", recover=Recovery(checkpoint_every=2, max_checkpoint_bytes=100_000))
    await env.areset()
    for action in ("echo 1 >> log", "true", "head -c 200000 /dev/zero > large", "true", "echo 2 >> log"):
        await env.astep(action)
    lose_sandbox(env)
    text, *_, info = await env.astep("cat log; rm large")
    assert ("1\n2\n", 3) == (text, info["recovery"]["replayed"])
    await env.astep("true")
    lose_sandbox(env)
    *_, info = await env.astep("true")
    assert 1 == info["recovery"]["replayed"]
    await env.aclose()


async def test_no_checkpoint_is_taken_where_the_system_was_changed() -> None:
    """It would not be in it: all of the episode is done again."""
    mortal = Mortal()
    env = make(mortal.launcher, make_task(user="root"), recover=Recovery(checkpoint_every=1))
    await env.areset()
    for action in ("add a", "add b", "add c"):
        await env.astep(action)
    mortal.kill()
    *_, info = await env.astep("ls")
    assert 3 == info["recovery"]["replayed"]
    await env.aclose()


async def test_an_action_that_was_given_up_is_not_done_again() -> None:
    """What it did cannot be known; that there was one is told."""
    mortal = Mortal()
    env = await begin(mortal, "add a")
    step = asyncio.create_task(env.astep("hang"))
    await mortal.until_answering()
    step.cancel()
    with pytest.raises(asyncio.CancelledError):
        await step
    mortal.take_answered()
    mortal.kill()
    text, *_, info = await env.astep("add b")
    assert ("ab", 3, 1) == (text, info["steps"], info["recovery"]["interrupted"])
    assert ["add a", "add b"] == mortal.take_answered()
    await env.aclose()


async def test_a_recovery_that_is_given_up_leaves_an_episode_that_recovers() -> None:
    """Cancelled while it catches up, it begins anew at the next step."""
    mortal = Mortal()
    env = await begin(mortal, "add a", "add b")
    mortal.kill()
    step = asyncio.create_task(env.astep("add c"))
    await mortal.until_answering()
    step.cancel()
    with pytest.raises(asyncio.CancelledError):
        await step
    branch = make(mortal.launcher, make_task(max_steps=20), recover=True)
    with pytest.raises(SandboxLost):  # not one of what has caught up in part
        await branch.abranch_from(env)
    await branch.aclose()
    text, *_, info = await env.astep("add d")
    assert ("abd", 1, 1) == (text, info["recovery"]["count"], info["recovery"]["interrupted"])
    await env.aclose()


async def test_a_recovery_that_is_given_up_keeps_no_hold_on_a_sandbox_that_others_have() -> None:
    """Also where the sandbox still lived: what is done afterwards is done in one of the episode's own."""
    set_ups = count()

    async def answer(files: FakeFiles, argv: list[str]) -> FakeAnswer:
        if argv[-1] == "set up":
            return FakeAnswer(exit_code=int(next(set_ups) == 1))  # the second fails
        return await play(files, argv)

    task = make_task(setup=("set up",))
    runtime = Runtime(FakeLauncher(answer), [task], max_sandboxes=1)
    one, other = (make(FakeLauncher(play), task, runtime=runtime, recover=True, allow_reset=True) for _ in range(2))
    await one.areset()
    waiting = asyncio.create_task(other.areset())
    await asyncio.sleep(0)
    step = asyncio.create_task(one.astep("reset"))
    await waiting
    step.cancel()
    with pytest.raises(asyncio.CancelledError):
        await step
    stray = asyncio.create_task(one.astep("write 41"))
    assert "hint\n" == (await other.astep("ls"))[0]
    assert "hint\n" == (await other.astep("ls"))[0]
    await other.aclose()
    await stray
    assert "answer\nhint\n" == (await one.astep("ls"))[0]
    await one.aclose()
    await runtime.aclose()


async def test_where_no_other_sandbox_can_be_had_the_episode_ends() -> None:
    """The fault says both: what was lost, and why nothing came of it."""
    mortal = Mortal()
    env = await begin(mortal, "add a")
    mortal.launcher.fail_starts = 100
    mortal.kill()
    *_, truncated, info = await env.astep("add b")
    assert (True, "sandbox", "fake-0") == (truncated, info["fault"]["kind"], info["fault"]["sandbox"])
    assert "not recovered: another sandbox could not be had: " in info["fault"]["message"]
    await env.aclose()


async def test_a_crashed_grader_is_not_asked_again() -> None:
    """Only the loss of a sandbox is recovered from."""
    mortal = Mortal()
    env = make(mortal.launcher, make_task(grader=Crashes()), recover=True)
    await env.areset()
    *_, info = await env.astep("submit")
    assert ("grader", False, 1) == (info["fault"]["kind"], "recovered" in info, len(mortal.launcher.sandboxes))
    await env.aclose()


async def test_dense_rewards_still_telescope() -> None:
    """What was paid before a loss is neither paid again nor taken back."""
    mortal = Mortal()
    env = await begin(mortal, reward="dense")
    rewards = [(await env.astep("write 42"))[1]]
    mortal.kill()
    rewards += [(await env.astep(action))[1] for action in ("ls", "submit")]
    assert [1.0, 0.0, 0.0] == rewards
    await env.aclose()


async def test_environments_of_a_batch_recover_each_on_its_own() -> None:
    """The infos are merged as gymnasium does it: a mask says whose they are."""
    mortal = Mortal()
    env = vector(mortal.launcher, 2, make_task(max_steps=20), recover=True)
    await env.areset()
    await env.astep(("add a", "add b"))
    lose_sandbox(env.envs[0].unwrapped)
    texts, *_, info = await env.astep(("add c", "add c"))
    assert ("ac", "bc") == tuple(texts)
    assert ([True, False], [1, 0]) == (info["recovered"].tolist(), info["recovery"]["count"].tolist())
    await env.aclose()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"checkpoint_every": 0}, "Recovery.checkpoint_every is 0; it must be at least 1"),
        ({"max_checkpoint_bytes": 0}, "Recovery.max_checkpoint_bytes is 0; it must be at least 1"),
        ({"max_recoveries": 0}, "Recovery.max_recoveries is 0; it must be at least 1"),
        ({"on_difference": "stop"}, "Recovery.on_difference is 'stop'; it must be 'continue' or 'fault'"),
    ],
)
async def test_wrong_arguments_are_named(options: dict[str, Any], said: str) -> None:
    """With what is allowed."""
    with pytest.raises(ValueError, match=said):
        Recovery(**options)


@pytest.mark.parametrize("checkpoint_every", [None, 1])
async def test_a_persistent_shell_and_what_it_started_come_back(checkpoint_every: int | None) -> None:
    """In real sandboxes: directory, variables, functions and background processes; checkpoints wait for their end."""
    env = CodeEnv(backend="local", shell="persistent", recover=Recovery(checkpoint_every=checkpoint_every))
    await env.areset()
    for action in ("mkdir d; cd d; x=5", "f() { echo $x in $PWD; }", "sleep 99 & echo $! > pid"):
        await env.astep(action)
    lose_sandbox(env)
    text, *_, info = await env.astep("f; kill -0 $(cat pid) && echo runs")
    assert "5 in /workspace/d\nruns\n" == text
    assert (3, 0) == (info["recovery"]["replayed"], info["recovery"]["differed"])
    await env.aclose()


async def test_checkpoints_of_a_real_sandbox_are_taken_when_nothing_runs() -> None:
    """One command of each shell of its own is done again, not all."""
    env = CodeEnv(backend="local", recover=Recovery(checkpoint_every=2))
    await env.areset()
    for number in range(5):
        await env.astep(f"echo {number} >> log")
    lose_sandbox(env)
    text, *_, info = await env.astep("cat log")
    assert ("0\n1\n2\n3\n4\n", 1) == (text, info["recovery"]["replayed"])
    await env.aclose()
