"""What the pool tells: its statistics as values, and as Prometheus' metrics."""

from __future__ import annotations

import asyncio
import dataclasses
import urllib.request
from collections.abc import AsyncGenerator
from types import SimpleNamespace

import pytest
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from codecraft_pool import FakeLauncher, LaunchError, SandboxPool, SandboxSpec, Snapshot
from codecraft_pool.metrics import PoolCollector
from codecraft_pool.pool_stats import BUCKETS_S, Ledger, Timings
from tests.pool.settling import settle

pytestmark = pytest.mark.anyio

SPEC = SandboxSpec()
REPLACED = SandboxSpec(reset="replace")
OTHER = SandboxSpec(image="other")


@pytest.fixture(name="pool")
async def make_pool(launcher: FakeLauncher) -> AsyncGenerator[SandboxPool]:
    async with SandboxPool(launcher, max_sandboxes=8) as pool:
        yield pool


async def work(launcher: FakeLauncher, pool: SandboxPool) -> None:
    """Two kinds of one image and another image; one failed start, one replaced, one restored to a snapshot."""
    await pool.prewarm(SPEC, 2)
    async with pool.lease(SPEC, snapshot=Snapshot.from_files({"a": "b"})), pool.lease(REPLACED):
        pass
    launcher.fail_starts = 1
    with pytest.raises(LaunchError):
        await pool.acquire(OTHER)
    await settle()


def samples(text: str) -> dict[str, float]:
    """The metrics of a text, by name and labels."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def test_timings_keep_sum_percentiles_and_a_histogram() -> None:
    """Percentiles are those of the latest; the histogram is of all."""
    timings = Timings()
    for number in range(1, 101):
        timings.add(number / 1000)
    timing = timings.frozen()
    assert (100, 0.05, 0.099) == (timing.count, timing.p50_s, timing.p99_s)
    assert pytest.approx(5.05) == timing.total_s
    assert (1, 10, 100) == tuple(timing.buckets[BUCKETS_S.index(bound)] for bound in (0.001, 0.01, 0.1))
    for _ in range(5000):
        timings.add(2.0)
    assert (5100, 2.0) == (timings.frozen().count, timings.frozen().p50_s)


def test_the_ledger_is_bounded() -> None:
    """However many kinds come by, few have a tally of their own, and the sum counts all."""
    ledger = Ledger()
    for number in range(1000):
        ledger.count(SandboxSpec(image=str(number)), "started")
    assert (256, 1000) == (len(ledger.specs()), ledger.all.done["started"])


async def test_the_sum_of_the_kinds_is_the_pool(launcher: FakeLauncher, pool: SandboxPool) -> None:
    """Every count of the pool is that of its kinds together, and each kind is there."""
    await work(launcher, pool)
    stats = pool.stats()
    assert {SPEC, REPLACED, OTHER} == {each.spec for each in stats.specs}
    names = {field.name for field in dataclasses.fields(stats.specs[0])} - {"spec", "maximum"}
    for name in names - {"waits", "starts", "restores", "failures"}:
        assert getattr(stats, name) == sum(getattr(each, name) for each in stats.specs), name
    assert {"LaunchError": 1} == stats.failures
    assert (3, 3, 2) == (stats.starts.count, stats.started, stats.restores.count)
    assert ("fake", 8) == (stats.launcher.name, stats.max_sandboxes)
    with pytest.raises(dataclasses.FrozenInstanceError):
        stats.idle = 5  # type: ignore[misc]


async def test_the_transport_of_the_launcher_is_told(
    launcher: FakeLauncher, pool: SandboxPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A launcher with more than one way to its sandboxes says which it has taken."""
    told = SimpleNamespace(transport="unix", transport_reason="", lanes={"create": 3})
    monkeypatch.setattr(launcher, "stats", lambda: told, raising=False)
    info = pool.stats().launcher
    assert ("fake", "unix", {"create": 3}) == (info.name, info.transport, info.lanes)
    assert 1 == samples(pool.metrics())["codecraft_pool_launcher{name=fake,transport=unix}"]


async def test_metrics_add_up_by_image(launcher: FakeLauncher, pool: SandboxPool) -> None:
    """Names follow Prometheus' conventions; kinds of the same image are one."""
    await work(launcher, pool)
    found = samples(pool.metrics())
    image = "image=codecraft/base"
    expected = {
        f"codecraft_pool_sandboxes{{{image},phase=idle}}": 2,
        f"codecraft_pool_sandboxes{{{image},phase=leased}}": 0,
        f"codecraft_pool_target_sandboxes{{{image}}}": 2,
        f"codecraft_pool_sandboxes_started_total{{{image}}}": 3,
        f"codecraft_pool_sandboxes_replaced_total{{{image}}}": 1,
        f"codecraft_pool_prefetch_misses_total{{{image}}}": 1,
        "codecraft_pool_start_failures_total{error=LaunchError,image=other}": 1,
        f"codecraft_pool_acquire_seconds_count{{{image}}}": 2,
        f"codecraft_pool_start_seconds_bucket{{{image},le=+Inf}}": 3,
        f"codecraft_pool_restore_seconds_count{{{image}}}": 2,
        "codecraft_pool_max_sandboxes{}": 8,
    }
    assert expected == {key: found.get(key) for key in expected}


async def test_histograms_grow_from_bucket_to_bucket(launcher: FakeLauncher, pool: SandboxPool) -> None:
    """Buckets are cumulative and end with the count, as Prometheus wants them."""
    await work(launcher, pool)
    for name in ("acquire", "start", "restore"):
        values = [v for key, v in samples(pool.metrics()).items() if key.startswith(f"codecraft_pool_{name}_seconds_b")]
        assert len(values) >= len(BUCKETS_S) + 1
    (family,) = (f for f in PoolCollector(pool.stats).collect() if f.name == "codecraft_pool_start_seconds")
    counts = [each.value for each in family.samples if each.labels == {**each.labels, "image": SPEC.image}][:-2]
    assert sorted(counts) == counts


async def test_nothing_is_registered_globally(pool: SandboxPool) -> None:
    """The metrics are in the registry that they are given to, and in no other."""
    mine = CollectorRegistry()
    mine.register(PoolCollector(pool.stats))
    assert "codecraft_pool_sandboxes" in {family.name for family in mine.collect()}
    assert not any(family.name.startswith("codecraft") for family in REGISTRY.collect())


async def test_metrics_are_served_over_http_while_asked_to(launcher: FakeLauncher, pool: SandboxPool) -> None:
    """The endpoint answers with the pool's state of that moment, and is gone after the block."""

    def fetch(port: int) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
            return str(response.read(), "utf-8")

    async with pool.serve_metrics() as port:
        await work(launcher, pool)
        text = await asyncio.to_thread(fetch, port)
        assert 2 == samples(text)["codecraft_pool_sandboxes{image=codecraft/base,phase=idle}"]
    with pytest.raises(OSError, match="refused"):
        await asyncio.to_thread(fetch, port)


async def test_a_port_that_is_taken_is_an_error(pool: SandboxPool) -> None:
    """The error comes before the block is entered."""
    async with pool.serve_metrics() as port:
        with pytest.raises(OSError, match="in use"):
            async with pool.serve_metrics(port):
                raise AssertionError("unreachable")
