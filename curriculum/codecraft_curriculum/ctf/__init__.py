"""Six capture-the-flag challenges, whose assets and flags are made anew from a seed, and what such a challenge is."""

from __future__ import annotations

from typing import Final

from codecraft_curriculum.ctf import crypto, forensics, history, reverse
from codecraft_curriculum.ctf.challenge import Assets, Challenge, Script, draw_flag
from codecraft_curriculum.ctf.services import BOARD, CLERK

__all__ = ["CHALLENGES", "Assets", "Challenge", "Script", "draw_flag"]

CHALLENGES: Final = (
    history.CHALLENGE,
    forensics.CHALLENGE,
    crypto.CHALLENGE,
    BOARD,
    reverse.CHALLENGE,
    CLERK,
)
"""Those that come with the package, from easy to hard."""
