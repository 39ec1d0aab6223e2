"""Hundreds of calls over one client, with failures and cancellations among them; and a process that is killed."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from codecraft_async.llm import (
    Budget,
    ChatClient,
    ChatReply,
    DiskCache,
    Endpoint,
    LlmError,
    Message,
    RateLimits,
    RetryPolicy,
    Sampling,
    Secret,
    Usage,
)
from tests.llm.openai_server import KEY, MODEL, Asked, OpenAIServer, cuts, fails, hangs_up, says, sends_text

pytestmark = pytest.mark.anyio

WRITER = """
import asyncio, sys
from codecraft_async.llm import DiskCache, cache_key

async def main():
    cache = DiskCache(sys.argv[1])
    number = 0
    while True:
        await cache.put(cache_key(number=number % 5), {"text": str(number) * 20_000})
        number += 1
        print(number, flush=True)

asyncio.run(main())
"""


async def test_a_crowd_leaves_nothing_behind(tmp_path: Path) -> None:
    """Whatever happens to single calls, the limits hold, every place and reservation comes back, and all is counted."""
    rng = random.Random(7)
    troubles = [fails(500), fails(429, Retry_After_Ms="5"), cuts(), hangs_up(), sends_text("{"), fails(400)]

    async def moody(request: web.Request, asked: Asked) -> web.StreamResponse:
        await asyncio.sleep(rng.random() * 0.004)
        return await (rng.choice(troubles) if rng.random() < 0.3 else says("ok"))(request, asked)

    async with OpenAIServer(otherwise=moody) as server:
        client = ChatClient(
            Endpoint(MODEL, server.base_url, Secret(KEY)),
            limiter=RateLimits(max_concurrency=8, requests_per_minute=600_000, tokens_per_minute=60_000_000),
            budget=Budget(max_tokens=400_000),
            cache=DiskCache(tmp_path),
            retry=RetryPolicy(first_wait_s=0.001, max_wait_s=0.002, max_attempts=3),
            sampling=Sampling(max_tokens=50),
            seed=1,
        )
        async with client:
            tasks = [asyncio.create_task(_ask(client, number)) for number in range(200)]
            for task in rng.sample(tasks, 40):
                asyncio.get_running_loop().call_later(rng.random() * 0.1, task.cancel)
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            limiter, stats = client.limiter.stats(), client.stats()
    kinds = {type(end) for end in ends}
    assert kinds <= {ChatReply, asyncio.CancelledError} | {kind for kind in kinds if issubclass(kind, LlmError)}
    replies = [end for end in ends if isinstance(end, ChatReply)]
    assert 100 < len(replies) == stats.answered
    assert (0, 0, 0, Usage()) == (limiter.under_way, limiter.waiting, stats.under_way, client.budget.stats().reserved)
    assert stats.usage == client.budget.spent and 15 * (len(replies) - stats.from_cache) <= stats.usage.total_tokens
    assert client.cache is not None and 0 == client.cache.under_way


async def _ask(client: ChatClient, number: int) -> ChatReply:
    return await client.chat([Message("user", f"Question {number // 2}")], fair_key=str(number % 10))


def test_a_process_that_is_killed_leaves_whole_answers(tmp_path: Path) -> None:
    """In the middle of writing: each file is the old one or the new one."""
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(40):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)

    async def read() -> list[Any]:
        paths = await asyncio.to_thread(lambda: sorted(tmp_path.rglob("*.json")))
        return [await DiskCache(tmp_path).get(path.parent.name + path.stem) for path in paths]

    values = asyncio.run(read())
    assert 5 == len(values)
    assert all(value is not None and 20_000 <= len(value["text"]) for value in values)
