"""What an agent reads: bytes of a sandbox as text, terminal sequences left or taken out, cut to a length."""

from __future__ import annotations

import re
from typing import Final, Literal

from codecraft_pool import CommandResult

AnsiMode = Literal["keep", "strip"]

# ECMA-48, section 5, and what terminals add to it. Each alternative starts with a character that no other one starts
# with or is tried after all that are more special, and none can fail after it has read far: the work is linear. A
# control string ends at its terminator or, where that is missing, at the next escape or the end of its line, so that
# one that was cut off hides no more than that.
_SEQUENCE: Final = re.compile(
    r"""
    (?:\x1b\[|\x9b) [0-?]* [ -/]* [@-~]?                          # CSI: colours, cursor movement, modes
  | (?:\x1b[]P^_X]|[\x90\x98\x9d-\x9f]) [^\x07\x1b\x9c\n]* (?:\x07|\x1b\\|\x9c)?   # OSC, DCS, PM, APC, SOS: strings
  | \x1b [ -/]* [0-~]?                                            # all other escapes, and an ESC on its own
    """,
    re.VERBOSE,
)
_STRIPPED_SHARE: Final = 8  # a megabyte of nothing but sequences takes tenths of a second
_OVERSTRIKE: Final = re.compile(r"[^\n\x08]\x08")
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def decode(data: bytes) -> str:
    """Return bytes of a sandbox as text; what is no UTF-8 becomes U+FFFD."""
    return data.decode("utf-8", "replace")


def strip_ansi(text: str) -> str:
    """Return *text* as it would be read, without what only steers a terminal; linear in its length.

    Escape and control sequences go (CSI, OSC, DCS, SOS, PM, APC and all others, with 7 and with 8 bits, cut off ones,
    too), then all other control characters but tab and newline. Of a line that was written over after carriage
    returns, as progress bars do, the last version stays; a carriage return before a newline goes. A character and a
    backspace go together, as manual pages are printed bold.
    """
    text = _SEQUENCE.sub("", text)
    if "\r" in text:
        text = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
    if "\b" in text:
        text = _OVERSTRIKE.sub("", text)
    return _CONTROLS.sub("", text)


def describe(result: CommandResult, *, limit_s: float, max_output_bytes: int, strip_for: int | None) -> str:
    """Return what a command printed and which limit it ran into, if any, as an observation.

    With *strip_for*, how long it may become, terminal sequences are stripped; of much more than that only the ends, so
    that output that was made to be slow to strip does not keep the event loop.
    """
    text = decode(result.stdout) + decode(result.stderr) if result.stderr else decode(result.stdout)
    if strip_for is not None:
        text = strip_ansi(clip(text, _STRIPPED_SHARE * strip_for))
    if result.shell_ended:
        text += "\n[the shell has ended; the next command gets a new one]"
    if result.timed_out:
        return f"{text}\n[killed: it ran longer than {round(limit_s, 3):g} s]"
    if result.truncated:
        return f"{text}\n[killed: it printed more than {max_output_bytes} bytes]"
    if result.cpu_limited:
        return f"{text}\n[killed: it used up the CPU time that the episode had left]"
    return text


def clip(text: str, limit: int) -> str:
    """Return *text* in at most *limit* characters: head and tail kept, and the cut said between them."""
    if len(text) <= limit:
        return text
    note = f"\n[... {len(text) - limit} characters or more left out ...]\n"
    room = limit - len(note)
    if room < 2:
        return text[:limit]
    return text[: room // 2] + note + text[len(text) - (room - room // 2) :]


__all__ = ["AnsiMode", "clip", "decode", "describe", "strip_ansi"]
