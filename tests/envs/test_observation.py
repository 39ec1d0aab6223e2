"""What an agent reads: bytes as text, terminal sequences stripped by option, long output cut in its middle."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codecraft_async._observation import clip, decode, describe, strip_ansi
from codecraft_async.pool import CommandResult, FakeAnswer, FakeFiles, FakeLauncher
from tests.envs.code_envs import make, play


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("plain \u00e9\t\n", "plain \u00e9\t\n"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b[38:2::1:2:3mrgb\x1b[m", "rgb"),
        ("\x1b[?25l\x1b[2J\x1b[10;4Hat\x1b[K", "at"),
        ("\x1b[ q\x1b[!pa", "a"),
        ("\u009b31mred\u009bm", "red"),
        ("\x1b]0;title\x07a\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "alink"),
        ("\u009d0;title\u009ca", "a"),
        ("\x1bPq#0\x1b\\a\x1b_apc\x1b\\b\x1b^pm\x1b\\c\x1bXsos\x1b\\d", "abcd"),
        ("\x1b]0;never ended\nnext", "\nnext"),
        ("\x1b]0;never\x1b[1mended", "ended"),
        ("\x1b(Ba\x1b=b\x1b7c\x1bMd\x1b#8e", "abcde"),
        ("\x1b\x1b[31mred", "red"),
        ("end\x1b", "end"),
        ("end\x1b[12;", "end"),
        ("\x1b[31\nm", "\nm"),
        ("a\r\nb\r\n", "a\nb\n"),
        (" 10%\r 50%\r100%\nok", "100%\nok"),
        (" 10%\r 50%\r", " 50%"),
        ("a\rb\r\r\nc", "b\nc"),
        ("b\bbo\bol\bld\bd _\bu", "bold u"),
        ("a\b\b\bb", "b"),
        ("\n\b\b", "\n"),
        ("\a\0\v\f\x7f\x80nothing", "nothing"),
        ("[31m no escape", "[31m no escape"),
    ],
)
def test_what_steers_a_terminal_is_stripped(text: str, plain: str) -> None:
    """Every kind of sequence, whole or cut off; then what was written over, and other control characters."""
    assert plain == strip_ansi(text)


PIECES = st.sampled_from(list("\x1b[];01 mKP^_X\\\a\b\r\n\ta\u009b\u009d\u009c\u0085"))


@settings(max_examples=300, deadline=None)
@given(text=st.text() | st.lists(PIECES, max_size=60).map("".join))
def test_stripped_text_steers_nothing(text: str) -> None:
    """No control character but tab and newline is left; stripping twice is stripping once; lines stay."""
    plain = strip_ansi(text)
    assert not [char for char in plain if (char < " " and char not in "\t\n") or "\x7f" <= char <= "\x9f"]
    assert plain == strip_ansi(plain)
    assert plain.count("\n") == text.count("\n")


@settings(max_examples=100, deadline=None)
@given(text=st.text(st.characters(exclude_categories=("Cc", "Cs"))))
def test_text_without_controls_is_left_alone(text: str) -> None:
    """Whatever characters it has."""
    assert text == strip_ansi(text)


@pytest.mark.parametrize(
    "hostile",
    [
        lambda n: "\x1b" * n,
        lambda n: "\x1b[" * (n // 2),
        lambda n: "\x1b]" * (n // 2),
        lambda n: "\x1b]" + "a" * n,
        lambda n: "\x1b[" + "0;" * (n // 2),
        lambda n: "\x1b[" + " " * n + "\n",
        lambda n: "\r" * n,
        lambda n: "a\r" * (n // 2),
        lambda n: "a" * n + "\r",
        lambda n: "\r" + "a" * n,
        lambda n: "a" * (n // 2) + "\b" * (n // 2),
        lambda n: "\x1bP\n" * (n // 3),
    ],
)
def test_hostile_output_is_stripped_in_linear_time(hostile: Callable[[int], str]) -> None:
    """Two megabytes are done within the limit of a test, where quadratic work would take hours."""
    assert len(strip_ansi(hostile(2_000_000))) <= 2_000_000


def test_bytes_that_are_no_utf8_are_replaced() -> None:
    """One U+FFFD for each broken piece; what is around them stays, and nothing raises."""
    assert "a\ufffdb" == decode(b"a\xffb")
    assert "\ufffd" == decode(b"\xe2\x82")
    assert "\ufffd\ufffd\ufffd" == decode(b"\xed\xa0\x80")
    assert "\u20ac" == decode("\u20ac".encode())


@given(text=st.text(max_size=300), limit=st.integers(1, 200))
def test_a_cut_keeps_head_and_tail_and_fits(text: str, limit: int) -> None:
    """Never longer than the limit, and what fits is left alone."""
    cut = clip(text, limit)
    assert len(cut) <= limit
    assert cut == text or len(text) > limit
    if "left out" in cut and "left out" not in text:
        head, _, tail = cut.partition("\n[...")
        assert text.startswith(head)
        assert text.endswith(tail.partition("...]\n")[2])


def test_of_very_long_output_only_the_ends_are_stripped() -> None:
    """What was left out before counts as left out, and what is kept fits."""
    sequences = b"\x1b[31m" * 200_000
    result = CommandResult(b"head" + sequences + b"tail", b"", 0, 0, False, False, 0.1, 0.0, 0.0, 0)
    text = describe(result, limit_s=10.0, max_output_bytes=1 << 20, strip_for=1000)
    assert re.fullmatch(r"head\[?3?1?m?\n\[\.\.\. 99\d+ characters or more left out \.\.\.\]\n[\[31m]*tail", text)


async def colours(files: FakeFiles, argv: list[str]) -> FakeAnswer:
    return FakeAnswer(b"\x1b[31mred\x1b[0m 1%\r2%\n")


@pytest.mark.anyio
async def test_the_option_decides() -> None:
    """Sequences are kept by default, and stripped where that is asked for."""
    for ansi, text in ({}, "\x1b[31mred\x1b[0m 1%\r2%\n"), ({"ansi": "strip"}, "2%\n"):
        env = make(FakeLauncher(colours), **ansi)
        await env.areset()
        assert text == (await env.astep("x"))[0]
        await env.aclose()
    with pytest.raises(ValueError, match="ansi is 'drop'; it must be 'keep' or 'strip'"):
        make(FakeLauncher(play), ansi="drop")
