"""InterCode's environments over this project's sandboxes: data with queries and golds, rewards by execution.

``README.md`` beside this file says what is the same, what is mended, and how a new one is made.
"""

from __future__ import annotations

from codecraft_async.intercode.base import InterCodeEnv, Preprocess
from codecraft_async.intercode.bash import BashEnv, BashVectorEnv
from codecraft_async.intercode.filesystems import FileTree
from codecraft_async.intercode.golds import Golds
from codecraft_async.intercode.python import PythonEnv, PythonVectorEnv
from codecraft_async.intercode.sql import SqlEnv, SqlVectorEnv
from codecraft_async.intercode.vector import InterCodeVectorEnv

__all__ = [
    "BashEnv",
    "BashVectorEnv",
    "FileTree",
    "Golds",
    "InterCodeEnv",
    "InterCodeVectorEnv",
    "Preprocess",
    "PythonEnv",
    "PythonVectorEnv",
    "SqlEnv",
    "SqlVectorEnv",
]
