"""What runs inside of a sandbox: sent there as text, it needs a Python of 3.11 or later and nothing else.

``wire`` is how the parts talk, ``values`` how values travel, ``actions`` runs the agent's code, ``server`` has it run.
``sqlite_session`` runs an agent's SQL, ``sqlite_server`` has it run.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

__all__ = ["program"]


@cache
def program(*parts: str) -> str:
    """Return a program of these modules, in the order in which they need each other; it calls ``main`` of the last one.

    ``main`` is given the words of the program's first argument.
    """
    lines = ["import sys, types"]
    for part in parts:
        text = files(__name__).joinpath(f"{part}.py").read_text(encoding="utf-8")
        name = f"{__name__}.{part}"
        lines += [
            f"sys.modules[{name!r}] = module = types.ModuleType({name!r})",
            f"exec(compile({text!r}, '<inside/{part}>', 'exec'), module.__dict__)",
        ]
    return "\n".join([*lines, "module.main(sys.argv[1].split())"])
