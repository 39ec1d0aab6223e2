"""What is shown of an episode: as it goes, or when asked for; nothing of a sandbox reaches the terminal as more than
text."""

from __future__ import annotations

import re

import pytest

from codecraft_async.pool import FakeAnswer, FakeFiles, FakeLauncher
from tests.envs.code_envs import make, play, vector

pytestmark = pytest.mark.anyio

COLOUR = re.compile("\x1b\\[[0-9;]*m")


async def hostile(files: FakeFiles, argv: list[str]) -> FakeAnswer:
    """Prints what would set a terminal's title, read its clipboard and clear it."""
    return FakeAnswer(b"\x1b]0;mine\x07\x1b]52;c;?\x07\x1b[2Jbefore\r\x1b[31mtext [bold]as it is[/bold]\n")


def plain(shown: object) -> str:
    assert isinstance(shown, str)
    return COLOUR.sub("", shown)


async def test_ansi_is_the_last_action_and_what_came_of_it() -> None:
    """The command, what it printed, and the facts in one line; before the first reset there is nothing to show."""
    env = make(FakeLauncher(play), render_mode="ansi")
    assert "" == env.render()
    text, _ = await env.areset()
    assert plain(env.render()) == f"{text}\n[answer | 0.000 s]\n"
    await env.astep("ls")
    assert "$ ls\nhint\n[answer | step 1 | exit 0 | 0.000 s]\n" == plain(env.render())
    assert COLOUR.search(str(env.render()))
    assert env.render() == env.render()
    await env.astep("false\ntrue")
    assert "$ false\n> true\n[answer | step 2 | exit 0 | 0.000 s]\n" == plain(env.render())
    await env.astep("write 42")
    await env.astep("submit")
    assert re.fullmatch(r"\$ submit\nscore 1\n\[answer \| step 4 \| \d+\.\d{3} s \| reward 1\]\n", plain(env.render()))
    await env.aclose()


async def test_the_end_of_an_episode_says_why() -> None:
    """Truncation, faults and malformed actions are told apart."""
    launcher = FakeLauncher(play)
    env = make(launcher, render_mode="ansi", max_episode_steps=1, actions="json", malformed_retries=1)
    await env.areset()
    await env.astep("ls")
    assert "| 0.000 s | malformed, try again]" in plain(env.render())
    await env.astep("ls")
    assert "| 0.000 s | malformed | truncated: max_episode_steps]" in plain(env.render())
    await env.areset()
    launcher.sandboxes[0].close()
    await env.astep('{"action": "run", "command": "ls"}')
    assert "| fault (sandbox): SandboxLost: sandbox fake-0 is lost" in plain(env.render())
    await env.aclose()


@pytest.mark.parametrize("mode", ["ansi", "human"])
async def test_a_sandbox_cannot_steer_the_terminal_of_who_looks_on(
    mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """No sequence that it prints gets through, and no markup; what the agent reads is not changed."""
    env = make(FakeLauncher(hostile), render_mode=mode)
    await env.areset()
    text, *_ = await env.astep("x \x1b]0;mine\x07y")
    assert "\x1b]52" in text
    shown = env.render() if mode == "ansi" else capsys.readouterr().out.partition("graded.\n")[2].partition("\n")[2]
    assert "$ x y\ntext [bold]as it is[/bold]\n[answer | step 1 | exit 0 | 0.000 s]\n" == plain(shown)
    await env.aclose()


async def test_human_is_printed_as_it_goes(capsys: pytest.CaptureFixture[str]) -> None:
    """The instruction, then each step; without colours where it is no terminal. `render` returns None."""
    env = make(FakeLauncher(play), render_mode="human")
    text, _ = await env.areset()
    assert f"{text}\n[answer | 0.000 s]\n" == capsys.readouterr().out
    await env.astep("ls")
    assert "$ ls\nhint\n[answer | step 1 | exit 0 | 0.000 s]\n" == capsys.readouterr().out
    assert env.render() is None
    await env.aclose()


async def test_long_lines_are_left_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is wrapped or cut that the agent reads whole."""
    env = make(FakeLauncher(play), render_mode="human")
    await env.areset()
    capsys.readouterr()
    await env.astep("flood")
    assert "x" * 8000 in capsys.readouterr().out
    await env.aclose()


async def test_a_batch_shows_one_text_for_each_environment() -> None:
    """As gymnasium's vector environments do."""
    env = vector(FakeLauncher(play), 2, render_mode="ansi")
    await env.areset()
    await env.astep(("ls", "false"))
    shown = env.render()
    assert ["$ ls\nhint\n[answer", "$ false\n[answer"] == [plain(each).partition(" |")[0] for each in shown]
    await env.aclose()


async def test_without_a_mode_nothing_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """And what is no mode is refused."""
    env = make(FakeLauncher(play))
    await env.areset()
    await env.astep("ls")
    assert (None, "") == (env.render(), capsys.readouterr().out)
    await env.aclose()
    with pytest.raises(ValueError, match="render_mode is 'rgb_array'; it must be None, 'ansi' or 'human'"):
        make(FakeLauncher(play), render_mode="rgb_array")
