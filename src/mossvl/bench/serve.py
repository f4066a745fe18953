"""Benchmark of a server with streaming clients, beside the engine alone."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from statistics import median, quantiles

from mossvl.bench.clients import Load, Seen
from mossvl.bench.measure import ANSWER, Row


def ask(url: str, clients: int, processes: int, seconds: float) -> list[Seen]:
    """Run streaming clients in processes of their own; return all answers."""
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        idle = Load(url, seconds=0.0, tokens=1)
        list(pool.map(idle.of, [range(0)] * 4 * processes))  # All have started.
        load = Load(url, seconds, ANSWER, time.time() + 0.5)
        running = [pool.submit(load.of, range(first, clients, processes)) for first in range(processes)]
        return [one for some in running for one in some.result()]


def rows(seen: Sequence[Seen], alone: Sequence[float], clients: int, seconds: float) -> Iterator[Row]:
    """Yield a server's output from the first second on, as a share of the engine's alone, and the times of its answers.

    Args:
        alone: tokens per second of the engine alone, of each measurement.
    """
    rate = ANSWER * sum(one.share_before(seconds) for one in seen) / seconds
    yield Row(f"{clients} requests at once, engine alone: output", median(alone), "tokens/s", list(alone))
    share = f"{100 * rate / median(alone):.0f} % of the engine alone; {len(seen)} answers"
    yield Row(f"{clients} streaming clients: output", rate, "tokens/s", [rate], share)
    for name, times in (
        ("first token", [1e3 * (one.first - one.begun) for one in seen]),
        ("whole answer", [1e3 * (one.ended - one.begun) for one in seen]),
    ):
        cut = quantiles(times, n=100)
        yield Row(f"… {name}, median", median(times), "ms", times, f"90 %: {cut[89]:.0f} ms, 99 %: {cut[98]:.0f} ms")
