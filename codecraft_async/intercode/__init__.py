"""InterCode's environments over this project's sandboxes: data with queries and golds, rewards by execution.

``README.md`` beside this file says what is the same, what is mended, and how a new one is made.
"""

from __future__ import annotations

from codecraft_async.intercode.base import InterCodeEnv, Preprocess
from codecraft_async.intercode.vector import InterCodeVectorEnv

__all__ = ["InterCodeEnv", "InterCodeVectorEnv", "Preprocess"]
