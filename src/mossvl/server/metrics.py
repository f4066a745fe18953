"""Prometheus metrics of a server."""

from collections.abc import Callable, Sequence
from itertools import chain, pairwise
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from mossvl.queries.results import Result
from mossvl.server.realtime.metrics import LiveMetrics

if TYPE_CHECKING:
    from mossvl.engine.engine import Engine

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
LAGS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5)
BETWEEN = (0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1)


class Metrics:
    """Metrics in a registry of their own, so that several servers in one process count separately."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter("requests", "Requests by path and status.", "path", "status")
        self.queries = self._counter("queries", "Submitted queries by model: the served one, or an adapter.", "model")
        self.errors = self._counter("errors", "Failed requests by error code.", "code")
        self.tokens = self._counter("tokens", "Tokens by kind: text and vision (prompt), cached, new.", "kind")
        self.disconnects = self._counter("disconnects", "Clients that disconnected or stopped reading.", "how")
        self.first_token = self._seconds("first_token_seconds", "Time to first token.", SECONDS)
        self.between_tokens = self._seconds("inter_token_seconds", "Time between two tokens of an answer.", BETWEEN)
        self.media = self._seconds("media_seconds", "Time to fetch, decode and resize a request's media.", SECONDS)
        self.queued = self._seconds("queue_seconds", "Time from loaded media to admission.", SECONDS)
        self.lag = self._seconds("event_loop_lag_seconds", "Lag of the event loop.", LAGS)
        self.live = LiveMetrics(self.registry)
        self.total = self._seconds("request_seconds", "Time from a request to the end of its answer.", SECONDS)

    def watch(self, engine: "Engine") -> None:
        """Add gauges that read the engine's state at every scrape."""
        scheduler, cache = engine.scheduler, engine.cache
        self._gauge("requests_running", "Running requests.", lambda: len(scheduler.running))
        self._gauge("requests_waiting", "Requests that wait for media or admission.", lambda: waiting(engine))
        self._gauge("pages", "Pages of the KV cache.", lambda: cache.num_pages)
        self._gauge("pages_free", "Pages that can be allocated at once.", lambda: cache.available)
        self._gauge("preemptions", "Preempted requests since the start.", lambda: scheduler.preemptions)
        self._gauge("media_bytes", "Bytes of decoded pixels that wait for encoding.", lambda: engine.media_budget.used)

    def ended(self, result: Result, times: Sequence[Sequence[float]]) -> None:
        """Record an ended query, successful or not.

        Args:
            times: arrival times of each answer's tokens, in seconds.
        """
        for earlier, later in chain.from_iterable(map(pairwise, times)):
            self.between_tokens.observe(later - earlier)
        usage, timings = result.usage, result.timings
        for kind, count in (
            ("text", usage.prompt_tokens),
            ("vision", usage.vision_tokens),
            ("cached", usage.cached_tokens),
            ("new", usage.new_tokens),
        ):
            self.tokens.labels(kind).inc(count)
        for histogram, seconds in (
            (self.first_token, timings.first_token),
            (self.media, timings.media),
            (self.queued, timings.queue),
            (self.total, timings.total),
        ):
            if seconds is not None:
                histogram.observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self.registry)

    def _counter(self, name: str, help: str, *labels: str) -> Counter:
        return Counter(f"mossvl_{name}", help, labels, registry=self.registry)

    def _seconds(self, name: str, help: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"mossvl_{name}", help, buckets=buckets, registry=self.registry)

    def _gauge(self, name: str, help: str, value: Callable[[], float]) -> None:
        Gauge(f"mossvl_{name}", help, registry=self.registry).set_function(value)


def waiting(engine: "Engine") -> int:
    """Return how many requests are not running yet."""
    return max(0, engine.active - len(engine.scheduler.running))
