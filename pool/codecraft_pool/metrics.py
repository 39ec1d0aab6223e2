"""The pool's state and counts as Prometheus metrics: text, a collector for a registry of yours, an HTTP endpoint.

Nothing is registered globally. Sandboxes are labelled by their image; specs that share an image are added up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Final, Protocol

from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from codecraft_pool.pool_stats import BUCKETS_S, PoolCounts, PoolStats, SpecStats, Timing

_PREFIX: Final = "codecraft_pool_"
_STATS_LIMIT_S: Final = 5.0
_PHASES: Final = ("starting", "idle", "leased", "restoring", "quarantined")
_GAUGES: Final = {
    "waiting_tasks": ("Tasks that wait for a sandbox.", "waiting"),
    "target_sandboxes": ("Sandboxes that are to be kept warm.", "target"),
}
_COUNTERS: Final = {
    "sandboxes_started": ("Sandboxes started.", "started"),
    "sandboxes_replaced": ("Sandboxes that could not be used again.", "replaced"),
    "sandboxes_lost": ("Sandboxes that died or did not answer.", "lost"),
    "sandboxes_expired": ("Sandboxes ended because they were idle for too long.", "expired"),
    "sandboxes_evicted": ("Sandboxes ended to make room for another kind.", "evicted"),
    "acquire_timeouts": ("Tasks that waited for a sandbox until their deadline.", "timed_out"),
    "checks": ("Idle sandboxes asked whether they live.", "checks"),
    "proofs": ("Restores that were to be proved clean.", "proofs"),
    "failed_proofs": ("Restores proved not to be clean.", "failed_proofs"),
    "proof_errors": ("Proofs that could not be made.", "proof_errors"),
    "prefetch_hits": ("Snapshots asked for that an idle sandbox held already.", "prefetch_hits"),
    "prefetch_misses": ("Snapshots asked for that had to be waited for.", "prefetch_misses"),
    "forks": ("Sandboxes made equal to a live one.", "forks"),
}
_HISTOGRAMS: Final = {
    "acquire_seconds": ("Time from asking for a sandbox to having one.", "waits"),
    "start_seconds": ("Time from the decision to start a sandbox to having it.", "starts"),
    "restore_seconds": ("Time to bring a sandbox back to a snapshot.", "restores"),
}


class HasStats(Protocol):
    """A pool, as far as metrics go."""

    def stats(self) -> PoolStats:
        """Return its state and counts."""
        ...


class PoolCollector(Collector):
    """Turns what *stats* returns into metrics whenever they are collected; for `CollectorRegistry.register`."""

    def __init__(self, stats: Callable[[], PoolStats]) -> None:
        self._stats = stats

    def describe(self) -> Iterable[Metric]:
        """Name the metrics without asking the pool."""
        return _families(PoolStats())

    def collect(self) -> Iterable[Metric]:
        """Return the metrics of this moment."""
        return _families(self._stats())


def registry_of(pool: HasStats) -> CollectorRegistry:
    """Return a new registry that holds the metrics of *pool* and no other."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(PoolCollector(pool.stats))
    return registry


def metrics_text(pool: HasStats) -> str:
    """Return the metrics of *pool* in Prometheus' text format."""
    return generate_latest(registry_of(pool)).decode()


@asynccontextmanager
async def serve_metrics(pool: HasStats, port: int, *, address: str = "127.0.0.1") -> AsyncGenerator[int]:
    """Serve the metrics of *pool* over HTTP while the block runs; yield the port, chosen by the system if *port* is 0.

    The server runs in a thread; it asks the pool on the pool's own event loop. Anybody who reaches *address* can read.

    Raises:
        OSError: The port cannot be had.
    """
    loop = asyncio.get_running_loop()

    async def stats() -> PoolStats:
        return pool.stats()

    def stats_from_thread() -> PoolStats:
        return asyncio.run_coroutine_threadsafe(stats(), loop).result(_STATS_LIMIT_S)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(PoolCollector(stats_from_thread))
    server, thread = start_http_server(port, addr=address, registry=registry)
    try:
        yield int(server.server_port)
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()
        await asyncio.to_thread(thread.join)


def _families(stats: PoolStats) -> Iterator[Metric]:
    by_image: dict[str, list[SpecStats]] = {}
    for spec in stats.specs:
        by_image.setdefault(spec.spec.image, []).append(spec)
    yield from _gauges(stats, by_image)
    for name, (text, field) in _COUNTERS.items():
        counter = CounterMetricFamily(_PREFIX + name, text, labels=["image"])
        for image, specs in by_image.items():
            counter.add_metric([image], _sum(specs, field))
        yield counter
    failures = CounterMetricFamily(
        _PREFIX + "start_failures", "Starts that failed, by error.", labels=["image", "error"]
    )
    for image, specs in by_image.items():
        for error in dict.fromkeys(error for spec in specs for error in spec.failures):
            failures.add_metric([image, error], sum(spec.failures.get(error, 0) for spec in specs))
    yield failures
    for name, (text, field) in _HISTOGRAMS.items():
        histogram = HistogramMetricFamily(_PREFIX + name, text, labels=["image"])
        for image, specs in by_image.items():
            timings: list[Timing] = [getattr(spec, field) for spec in specs]
            histogram.add_metric([image], _buckets(timings), sum(timing.total_s for timing in timings))
        yield histogram


def _gauges(stats: PoolStats, by_image: dict[str, list[SpecStats]]) -> Iterator[Metric]:
    info = GaugeMetricFamily(_PREFIX + "launcher", "What starts the sandboxes.", labels=["name", "transport"])
    info.add_metric([stats.launcher.name, stats.launcher.transport], 1)
    yield info
    yield GaugeMetricFamily(_PREFIX + "max_sandboxes", "Most sandboxes at once.", value=stats.max_sandboxes)
    yield GaugeMetricFamily(_PREFIX + "max_starts", "Starts allowed at once now.", value=stats.starts_at_once)
    sandboxes = GaugeMetricFamily(_PREFIX + "sandboxes", "Sandboxes by phase.", labels=["image", "phase"])
    for image, specs in by_image.items():
        for phase in _PHASES:
            sandboxes.add_metric([image, phase], _sum(specs, phase))
    yield sandboxes
    for name, (text, field) in _GAUGES.items():
        gauge = GaugeMetricFamily(_PREFIX + name, text, labels=["image"])
        for image, specs in by_image.items():
            gauge.add_metric([image], _sum(specs, field))
        yield gauge


def _sum(counts: Iterable[PoolCounts], field: str) -> int:
    return sum(getattr(each, field) for each in counts)


def _buckets(timings: list[Timing]) -> list[tuple[str, float]]:
    sums = [float(sum(counts)) for counts in zip(*(timing.buckets for timing in timings), strict=True)]
    total = float(sum(timing.count for timing in timings))
    return [*((str(bound), number) for bound, number in zip(BUCKETS_S, sums, strict=True)), ("+Inf", total)]


__all__ = ["PoolCollector", "metrics_text", "registry_of", "serve_metrics"]
