"""Kept answers: found again by other processes, whole or not at all, and asked for once."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from pathlib import Path

import pytest

from codecraft_async.llm import ChatClient, DiskCache, Endpoint, Message, Sampling, Secret, ServerFailed, cache_key
from codecraft_async.llm.retrying import RetryPolicy
from tests.llm.openai_server import KEY, MODEL, OpenAIServer, calls, fails, says, slowly

pytestmark = pytest.mark.anyio

HELLO = [Message("user", "Say hello.")]


def client_of(server: OpenAIServer, folder: Path) -> ChatClient:
    """A client of its own cache object, as another process has it."""
    endpoint = Endpoint(MODEL, server.base_url, Secret(KEY))
    return ChatClient(endpoint, cache=DiskCache(folder), retry=RetryPolicy(max_attempts=1))


def kept(folder: Path) -> list[Path]:
    """All files below *folder*."""
    return [path for path in folder.rglob("*") if path.is_file()]


async def test_an_answer_is_paid_for_once(tmp_path: Path) -> None:
    """A run that is repeated gets the same answers, calls of tools included, without a request and without cost."""
    async with OpenAIServer(says("Hello."), calls(("run", {"command": "ls"}))) as server:
        async with client_of(server, tmp_path) as client:
            first = [await client.chat(HELLO, salt=salt) for salt in ("1", "2")]
        async with client_of(server, tmp_path) as client:
            second = [await client.chat(HELLO, salt=salt) for salt in ("1", "2")]
            assert (0, 2) == (client.budget.spent.total_tokens, client.stats().from_cache)
    assert 2 == len(server.asked)
    assert [(r.text, r.tool_calls, r.usage) for r in first] == [(r.text, r.tool_calls, r.usage) for r in second]
    assert ([False, False], [True, True]) == ([r.is_cached for r in first], [r.is_cached for r in second])


async def test_every_difference_in_the_question_is_another_question(tmp_path: Path) -> None:
    """Messages, sampling, salt and model; not the key."""
    async with OpenAIServer() as server, client_of(server, tmp_path) as client:
        await client.chat(HELLO)
        await client.chat([*HELLO, Message("user", "Now.")])
        await client.chat(HELLO, sampling=Sampling(temperature=1.0))
        await client.chat(HELLO, salt="again")
        await client.chat(HELLO)
        assert 4 == len(server.asked)
    files = kept(tmp_path)
    assert 4 == len(files) and not any(KEY.encode() in path.read_bytes() for path in files)


async def test_a_question_asked_by_many_at_once_is_asked_once(tmp_path: Path) -> None:
    """The others find its answer; one that is cancelled hands the question on."""
    async with OpenAIServer(otherwise=slowly(says("ok"), 0.05)) as server, client_of(server, tmp_path) as client:
        tasks = [asyncio.create_task(client.chat(HELLO)) for _ in range(10)]
        await asyncio.sleep(0.01)
        tasks[0].cancel()
        await asyncio.wait(tasks)
        assert ["ok"] * 9 == [task.result().text for task in tasks[1:]]
        assert 2 >= len(server.asked)
        assert client.cache is not None and 0 == client.cache.under_way


async def test_errors_are_not_kept(tmp_path: Path) -> None:
    """The next call asks again."""
    async with OpenAIServer(fails(500)) as server, client_of(server, tmp_path) as client:
        with pytest.raises(ServerFailed):
            await client.chat(HELLO)
        assert "ok" == (await client.chat(HELLO)).text


@pytest.mark.parametrize("damage", [b"", b"{}", b"\0" * 200, b'0123\n{"text": "forged"}'])
async def test_a_damaged_file_counts_as_missing(
    damage: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is asked again, and the file is whole afterwards."""
    async with OpenAIServer() as server, client_of(server, tmp_path) as client:
        await client.chat(HELLO)
        (path,) = kept(tmp_path)
        path.write_bytes(damage)
        assert not (await client.chat(HELLO)).is_cached
        assert (await client.chat(HELLO)).is_cached
    assert 1 == caplog.text.count("damaged, and taken as missing")


@pytest.mark.parametrize("content", [b"no JSON", b"[]", b'{"text": "forged"}'])
async def test_a_forged_file_counts_as_missing(content: bytes, tmp_path: Path) -> None:
    """Though its hash is right."""
    async with OpenAIServer() as server, client_of(server, tmp_path) as client:
        await client.chat(HELLO)
        (path,) = kept(tmp_path)
        path.write_bytes(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
        assert not (await client.chat(HELLO)).is_cached
        assert (await client.chat(HELLO)).is_cached


async def test_a_folder_that_cannot_be_written_costs_no_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The answer was paid for: it is returned, and the log says what is wrong."""
    caplog.set_level(logging.WARNING)
    (tmp_path / "file").write_text("in the way")
    async with OpenAIServer() as server, client_of(server, tmp_path / "file") as client:
        assert "ok" == (await client.chat(HELLO)).text
    assert "an answer could not be kept: Not a directory" in caplog.text


async def test_files_are_for_their_owner_alone_and_appear_whole(tmp_path: Path) -> None:
    """What is written while another process reads is never half there; nothing temporary stays."""
    cache, key = DiskCache(tmp_path / "kept"), cache_key(question=1)
    values = [{"text": str(number) * 10_000} for number in range(10)]
    await cache.put(key, values[0])

    async def write() -> None:
        for value in values * 5:
            await cache.put(key, value)

    writing = asyncio.create_task(write())
    while not writing.done():
        assert await DiskCache(tmp_path / "kept").get(key) in values
    (path,) = kept(tmp_path)
    assert (0o600, 0o700) == (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777)
