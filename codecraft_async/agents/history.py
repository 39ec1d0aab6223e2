"""A conversation cut to what a model can take: the beginning and the latest turns stay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from codecraft_async.llm import Message

_LEAST_TOKENS: Final = 64
_BYTES_PER_TOKEN: Final = 3
_CUT: Final = "\n[... cut here to fit ...]\n"


class History:
    """What was said in an episode: the messages it began with, and turns, each an answer with what came of it.

    Turns are left out whole, the oldest first, so that no tool's answer is without its call.
    """

    def __init__(self, beginning: Sequence[Message]) -> None:
        self.beginning = tuple(beginning)
        self.turns: list[list[Message]] = []

    def answer(self, message: Message) -> None:
        """Add an answer of the model's, which begins a turn."""
        self.turns.append([message])

    def add(self, message: Message) -> None:
        """Add what came of the latest answer."""
        self.turns[-1].append(message)

    def window(self, max_tokens: int, max_messages: int | None = None) -> list[Message]:
        """Return what fits into about *max_tokens*: the beginning, and as many of the latest turns as have room.

        With *max_messages* those turns have at most so many messages. The last turn is always there, and so is the
        beginning; what is too long in either is cut in its middle.
        """
        beginning = [shortened(message, max_tokens // 2) for message in self.beginning]
        left = max_tokens - sum(message.tokens for message in beginning)
        room = math.inf if max_messages is None else max_messages
        kept: list[list[Message]] = []
        for turn in reversed(self.turns):
            tokens = sum(message.tokens for message in turn)
            if (tokens > left or len(turn) > room) and kept:
                break
            if tokens > left:
                share = max(_LEAST_TOKENS, left // len(turn))
                turn = [shortened(message, share) for message in turn]
            kept.append(turn)
            left -= tokens
            room -= len(turn)
        omitted = len(self.turns) - len(kept)
        if omitted and beginning:
            note = f"\n\n[{omitted} earlier turns of this conversation are left out]"
            beginning[-1] = replace(beginning[-1], content=beginning[-1].content + note)
        return beginning + [message for turn in reversed(kept) for message in turn]


def shortened(message: Message, max_tokens: int) -> Message:
    """Return *message* with the middle of its text cut out if it takes more than about *max_tokens*.

    Calls of tools stay as they are: a part of one would be another call.
    """
    if message.tokens <= max_tokens:
        return message
    data = message.content.encode("utf-8", "replace")
    room = max(0, _BYTES_PER_TOKEN * max_tokens - len(_CUT)) // 2
    if len(data) <= 2 * room + len(_CUT):  # it is the calls that take so many
        return message
    head, tail = data[:room].decode("utf-8", "ignore"), data[len(data) - room :].decode("utf-8", "ignore")
    return replace(message, content=head + _CUT + tail)


__all__ = ["History", "shortened"]
