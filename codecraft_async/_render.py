"""Showing an episode to a human: on the terminal as it goes, or as text that is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from codecraft_async._observation import strip_ansi
from codecraft_async._outcome import Outcome

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_MODES: Final = ("ansi", "human")


class Screen:
    """Shows actions and what came of them: mode "human" prints each, mode "ansi" gives the last one when asked.

    What a sandbox printed is shown without escape sequences and control characters, whatever agents read: nothing that
    runs inside can steer the terminal of who looks on. Colours are of this; there are none where "human" prints to no
    terminal.

    Raises:
        ValueError: The mode is unknown.
    """

    def __init__(self, mode: str) -> None:
        if mode not in _MODES:
            raise ValueError(f"render_mode is {mode!r}; it must be None, 'ansi' or 'human'")
        from rich.console import Console  # a tenth of a second, which only those who look on pay

        self._prints = mode == "human"
        self._console: Console = (
            Console(highlight=False)
            if self._prints
            else Console(highlight=False, force_terminal=True, color_system="standard", legacy_windows=False)
        )
        self._last: tuple[str | None, Outcome] | None = None

    def show_reset(self, outcome: Outcome) -> None:
        """Take in what a reset came to."""
        self._show(None, outcome)

    def show_step(self, action: str, outcome: Outcome) -> None:
        """Take in what a step came to."""
        self._show(action, outcome)

    def render(self) -> str | None:
        """Return what was shown last, in mode "ansi" (empty before the first reset); otherwise None."""
        if self._prints:
            return None
        if self._last is None:
            return ""
        with self._console.capture() as shown:
            self._console.print(_as_text(*self._last), soft_wrap=True, end="")
        return shown.get()

    def _show(self, action: str | None, outcome: Outcome) -> None:
        if self._prints:
            self._console.print(_as_text(action, outcome), soft_wrap=True, end="")
        else:
            self._last = (action, outcome)


def _as_text(action: str | None, outcome: Outcome) -> Text:
    from rich.text import Text

    info = outcome.info
    text = Text()
    if action is not None:
        lines = strip_ansi(action).rstrip("\n").split("\n")
        text.append("".join(f"{'$' if number == 0 else '>'} {line}\n" for number, line in enumerate(lines)), "bold")
    shown = strip_ansi(outcome.observation).rstrip("\n")
    if shown:
        text.append(f"{shown}\n", "" if action is not None else "cyan")
    facts = [strip_ansi(info["task"])]
    if action is not None:
        facts.append(f"step {info['steps']}")
    if info["signal"]:
        facts.append(f"signal {info['signal']}")
    elif info["exit_code"] >= 0:
        facts.append(f"exit {info['exit_code']}")
    facts.append(f"{info['wall_s']:.3f} s")
    if info["malformed"]:
        facts.append("malformed, try again" if info["retry"] else "malformed")
    if outcome.reward or outcome.terminated:
        facts.append(f"reward {outcome.reward:g}")
    if "fault" in info:
        facts.append(strip_ansi(f"fault ({info['fault']['kind']}): {info['fault']['message']}"))
    elif outcome.truncated:
        facts.append(f"truncated: {info['truncation']}")
    is_bad = not info["valid"] or info["malformed"] or info["exit_code"] > 0 or info["signal"]
    text.append(f"[{' | '.join(facts)}]\n", "red" if is_bad else "green" if outcome.terminated else "dim")
    return text


__all__ = ["Screen"]
