"""Hostile programs, as a table: what each one is, and how it may end."""

from __future__ import annotations

from typing import Final

from tests.pool.attacks.attack import C_NAME, OUTPUT_CAP, Attack, compiled
from tests.pool.attacks.escapes import KERNEL, PROCESSES
from tests.pool.attacks.floods import FLOODS
from tests.pool.attacks.forgeries import GUEST, NEXT_COMMAND, WORKSPACE

ATTACKS: Final = (*FLOODS, *PROCESSES, *KERNEL, *GUEST, *WORKSPACE, *NEXT_COMMAND)

__all__ = ["ATTACKS", "C_NAME", "OUTPUT_CAP", "Attack", "compiled"]
