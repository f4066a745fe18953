"""Benchmark of live sessions: how soon the model decides about a frame, how fast it speaks, and how many fit."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import fmean, median, quantiles
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from mossvl.bench.measure import Row
from mossvl.live.events import Dropped, Seen
from mossvl.live.options import LiveOptions
from mossvl.llm import MossVL

Pixels = NDArray[np.uint8]
T = TypeVar("T")

MOST_THREADS = 8
POLL_SECONDS = 0.0002


@dataclass(frozen=True)
class Load:
    """What is measured.

    Attributes:
        height, width: of the frames, in pixels; each session gets one a second.
        window: frames that are seen, all of which are there before anything is measured.
        seconds: of each measurement.
        prompts: questions of which each is timed.
        unthrottled: sessions that speak as fast as they can.
        paced: numbers of sessions that speak at 12 tokens per second, ascending.
    """

    height: int = 288
    width: int = 512
    window: int = 60
    seconds: float = 12.0
    prompts: int = 20
    unthrottled: int = 16
    paced: Sequence[int] = (64, 128)


ON_CPU = Load(window=10, seconds=20.0, prompts=5, unthrottled=0, paced=(8,))
"""For two cores and mossvl-tiny."""


class Watcher:
    """A session and its camera.

    Args:
        rate: tokens per second; None for as many as there can be.
        seed: of its frames, of which no two are equal.
    """

    def __init__(self, llm: MossVL, load: Load, rate: float | None, seed: int) -> None:
        options = LiveOptions(tokens_per_second=rate, window_seconds=None, window_frames=load.window)
        self.session = llm.live("Say what happens.", options=options)
        self._noise = np.random.default_rng(seed).integers(0, 256, (load.height, load.width, 3), dtype=np.uint8)
        self._pushed = self._told = 0

    def push(self) -> None:
        """Push the next frame, a second of the stream after the one before."""
        frame: Pixels = self._noise.copy()
        frame.reshape(-1)[:4] = np.frombuffer(np.uint32(self._pushed).tobytes(), np.uint8)
        self.session.push(frame, float(self._pushed))
        self._pushed += 1

    def lags(self) -> list[float]:
        """Wait until no frame waits for a decision; return the seconds that those since the last call took."""
        lags: list[float] = []
        while self._told < self._pushed and self.session.active:
            self.session.wait()
            for event in self.session.take():
                if isinstance(event, Seen):
                    self._told += 1
                    lags.append(event.lag)
                elif isinstance(event, Dropped):
                    self._told += len(event.times)
        return lags

    def first_token(self) -> float:
        """Seconds from a prompt to the first token after it."""
        known, begun = self.session.usage, time.perf_counter()
        self.session.say("What happened before?")
        while self.session.usage.text_input == known.text_input:
            time.sleep(POLL_SECONDS)
        spoken = self.spoken
        while self.spoken == spoken:
            time.sleep(POLL_SECONDS)
        return time.perf_counter() - begun

    @property
    def spoken(self) -> int:
        """Number of tokens that the model has drawn."""
        return self.session.usage.text_output


class Watchers(list[Watcher]):
    """Sessions, which are closed at the end."""

    def __init__(self, llm: MossVL, load: Load) -> None:
        super().__init__()
        self._llm, self._load = llm, load

    def begin(self, count: int, rate: float | None) -> None:
        """Begin sessions, until there are so many."""
        while len(self) < count:
            self.append(Watcher(self._llm, self._load, rate, len(self)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for one in self:
            one.session.close()


def live(llm: MossVL, load: Load) -> Iterator[Row]:
    """Measure live sessions.

    Raises:
        SessionLimitError: memory does not hold as many as are to be measured.
    """
    with Watchers(llm, load) as watchers:
        watchers.begin(1, 12.0)
        yield from _one(llm, load, watchers[0])
    if load.unthrottled:
        with Watchers(llm, load) as watchers:
            watchers.begin(load.unthrottled, None)
            yield from _unthrottled(load, watchers)
    with Watchers(llm, load) as watchers:
        for count in load.paced:
            watchers.begin(count, 12.0)
            yield from _paced(load, watchers)


def _one(llm: MossVL, load: Load, one: Watcher) -> Iterator[Row]:
    fill([one], load)
    yield memory(llm)
    lags = film([one], load.seconds)
    yield Row(
        "1 session: frame pushed → decision, mean", 1e3 * fmean(lags), "ms", milliseconds(lags), tail(lags), "mean"
    )
    firsts = []
    for _ in range(load.prompts):
        time.sleep(0.1)
        firsts.append(one.first_token())
    yield Row("1 session: prompt → first token", 1e3 * median(firsts), "ms", milliseconds(firsts), tail(firsts))


def _unthrottled(load: Load, watchers: Sequence[Watcher]) -> Iterator[Row]:
    fill(watchers, load)
    lags, rates = filmed(watchers, load.seconds)
    name = f"{len(watchers)} sessions as fast as they can"
    note = f"least {min(rates):.1f}; frames: {tail(lags)}"
    yield Row(f"{name}: output of each", fmean(rates), "tokens/s", rates, note, "mean")


def _paced(load: Load, watchers: Sequence[Watcher]) -> Iterator[Row]:
    fill(watchers, load)
    lags, rates = filmed(watchers, load.seconds)
    cut = percentile(lags)
    note = f"{fmean(rates):.1f} tokens/s each, least {min(rates):.1f}; frames: {tail(lags)}"
    yield Row(f"{len(watchers)} sessions at 12 tokens/s: frame p95", 1e3 * cut, "ms", milliseconds(lags), note, "p95")


def fill(watchers: Sequence[Watcher], load: Load) -> None:
    """Fill the windows of sessions that have seen nothing."""
    fresh = [one for one in watchers if not one._pushed]

    def push(one: Watcher) -> None:
        for _ in range(load.window):
            one.push()

    _each(fresh, push)
    for one in watchers:
        one.lags()


def filmed(watchers: Sequence[Watcher], seconds: float) -> tuple[list[float], list[float]]:
    """Push a frame a second to each session; return the lags of all, and the tokens per second of each."""
    begun = [one.spoken for one in watchers]
    at = time.perf_counter()
    lags = film(watchers, seconds)
    passed = time.perf_counter() - at
    return lags, [(one.spoken - known) / passed for one, known in zip(watchers, begun, strict=True)]


def film(watchers: Sequence[Watcher], seconds: float) -> list[float]:
    """Push a frame a second to each session, spread over the second; return the lags."""
    begun = time.perf_counter()
    offsets = {id(one): number / len(watchers) for number, one in enumerate(watchers)}

    def push(some: Sequence[Watcher]) -> None:
        for second in range(round(seconds)):
            for one in some:
                time.sleep(max(0.0, begun + second + offsets[id(one)] - time.perf_counter()))
                one.push()

    count = min(MOST_THREADS, len(watchers))
    _each([watchers[first::count] for first in range(count)], push)
    time.sleep(max(0.0, begun + round(seconds) - time.perf_counter()))
    return [lag for one in watchers for lag in one.lags()]


def _each(given: Sequence[T], work: Callable[[T], object]) -> None:
    """Do some work for each, in threads, a few at a time."""
    with ThreadPoolExecutor(MOST_THREADS) as threads:
        list(threads.map(work, given))


def memory(llm: MossVL) -> Row:
    """Memory of the only session, whose window is full."""
    runner = llm.engine.runner
    (request,) = llm.engine.scheduler.running
    pool = runner.executor.pool
    size = pool.layout.bytes(llm.engine.model.config.text_config)
    text, vision = (
        count * size / 2**30 for count in (pool.groups * len(request.text_pages), len(request.vision_pages))
    )
    note = f"{request.context.length:,} text tokens {text:.2f}, vision tokens of the window {vision:.2f}"
    return Row("1 session: keys and values", text + vision, "GiB", [text + vision], note)


def milliseconds(seconds: Sequence[float]) -> list[float]:
    return [1e3 * one for one in seconds]


def percentile(seconds: Sequence[float]) -> float:
    """The time that nineteen of twenty do not exceed."""
    return quantiles(seconds, n=20)[-1] if len(seconds) > 1 else seconds[0]


def tail(seconds: Sequence[float]) -> str:
    return f"mean {1e3 * fmean(seconds):.1f}, p95 {1e3 * percentile(seconds):.1f}, {len(seconds)} in all"
