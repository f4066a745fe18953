"""Policies of routing, simulated: how often a request finds its medium in a replica's caches, and how long it waits.

    python benchmarks/routing.py                          a drawn trace: clips of uneven popularity, conversations
    python benchmarks/routing.py --trace requests.jsonl   a recorded one
    python benchmarks/routing.py --replicas 8 --rate 24

A line of a trace is {"at": seconds, "medium": "its digest or URL", "frames": 64, "prompt": 712, "answer": 129}: tokens
of the prompt's text and of the answer. Replicas take the times that were measured on one H200 (docs/performance.md).
"""

import argparse
import json
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles

from mossvl.replicas.routing import Router, home

FRAME_SECONDS = 147e-3 / 64
"""A frame of 448 × 448 of a prompt, its share of the prompt's text included."""
KNOWN_SECONDS = 15e-3
"""A prompt whose medium is in the caches."""
STEP_SECONDS, ROW_SECONDS = 5.3e-3, 25e-6
"""A decode step of one request, and of each further one."""
GAP_SECONDS = 0.1
"""Most of a prompt between two tokens of the others (`--max-token-gap`)."""
BATCH = 256
VISION_TOKENS = 197
"""Of a frame."""


@dataclass(frozen=True)
class Asked:
    """A request of a trace."""

    at: float
    medium: str
    frames: int
    prompt: int
    answer: int

    @property
    def tokens(self) -> int:
        return self.prompt + self.answer + VISION_TOKENS * self.frames


@dataclass
class Running:
    asked: Asked
    work: float = 0.0
    """Seconds of its prompt that are left."""
    answered: int = 0


@dataclass
class Replica:
    """An engine: prompts in the order of their arrival, beside decode steps of all requests whose prompts are done.

    Attributes:
        keeps: media that the caches hold.
    """

    keeps: int
    now: float = 0.0
    waiting: deque[Running] = field(default_factory=deque)
    decoding: list[Running] = field(default_factory=list)
    known: "OrderedDict[str, None]" = field(default_factory=OrderedDict)
    hits: int = 0
    first_tokens: list[float] = field(default_factory=list)

    def take(self, asked: Asked) -> None:
        hit = asked.medium in self.known
        self.hits += hit
        self.known[asked.medium] = None
        self.known.move_to_end(asked.medium)
        if len(self.known) > self.keeps:
            self.known.popitem(last=False)
        self.now = max(self.now, asked.at) if not (self.waiting or self.decoding) else self.now
        self.waiting.append(Running(asked, KNOWN_SECONDS if hit else asked.frames * FRAME_SECONDS))

    def run(self, until: float) -> Iterator[Asked]:
        """Take steps until a time; yield requests that have ended."""
        while (self.waiting or self.decoding) and self.now < until:
            rows = len(self.decoding)
            room = GAP_SECONDS if rows else float("inf")
            while self.waiting and len(self.decoding) < BATCH and room > 0:
                first = self.waiting[0]
                part = min(first.work, room)
                first.work, room, self.now = first.work - part, room - part, self.now + part
                if first.work <= 0:
                    self.decoding.append(self.waiting.popleft())
                    self.first_tokens.append(self.now - first.asked.at)
                if not rows:
                    break
            if self.decoding:
                self.now += STEP_SECONDS + ROW_SECONDS * (len(self.decoding) - 1)
            for running in self.decoding:
                running.answered += 1
            ended = [running for running in self.decoding if running.answered >= running.asked.answer]
            self.decoding = [running for running in self.decoding if running.answered < running.asked.answer]
            yield from (running.asked for running in ended)


Choose = Callable[[Asked, list[int]], int]
"""(request, outstanding requests of each replica) → replica."""


def policies(replicas: int, seed: int) -> dict[str, Choose | None]:
    """The policies by name; None stands for `Router`, which `mossvl serve` has."""
    chance, turn = random.Random(seed), iter(range(1 << 40))
    every = range(replicas)
    return {
        "random": lambda asked, load: chance.randrange(replicas),
        "round robin": lambda asked, load: next(turn) % replicas,
        "fewest requests": lambda asked, load: min(every, key=lambda one: (load[one], one)),
        "by medium alone": lambda asked, load: home(asked.medium.encode(), every),
        "by medium, bounded (`mossvl serve`)": None,
    }


def simulate(trace: Iterable[Asked], choose: Choose | None, replicas: int, keeps: int) -> list[Replica]:
    """Route a trace, and return the replicas when all is answered."""
    engines = [Replica(keeps) for _ in range(replicas)]
    router = Router(BATCH)
    for one in range(replicas):
        router.open(one)
    load = [0] * replicas

    def until(time: float) -> None:
        for number, engine in enumerate(engines):
            for ended in engine.run(time):
                load[number] -= 1
                if choose is None:
                    router.end(number, ended.tokens)

    for asked in trace:
        until(asked.at)
        chosen = choose(asked, load) if choose else router.begin(asked.tokens, asked.medium.encode())
        assert chosen is not None
        load[chosen] += 1
        engines[chosen].take(asked)
    until(float("inf"))
    return engines


def drawn(seconds: float, rate: float, clips: int, follow: float, seed: int) -> Iterator[Asked]:
    """A trace: media of Zipf's popularity, of 16 to 256 frames; after an answer, every other visitor asks again."""
    chance = random.Random(seed)
    frames = [chance.choice((16, 64, 64, 64, 256)) for _ in range(clips)]
    weights = [1 / (rank + 1) for rank in range(clips)]
    later: list[Asked] = []
    at = 0.0
    while at < seconds:
        at += chance.expovariate(rate * (1 - follow))
        (medium,) = chance.choices(range(clips), weights)
        asked = Asked(at, str(medium), frames[medium], 12 * frames[medium], chance.randint(32, 256))
        while chance.random() < follow:
            asked_again = asked.at + chance.uniform(5, 30)
            later.append(Asked(asked_again, asked.medium, asked.frames, asked.prompt, chance.randint(32, 256)))
            asked = later[-1]
        due = sorted((one for one in later if one.at <= at), key=lambda one: one.at)
        later = [one for one in later if one.at > at]
        yield from due
        yield Asked(at, str(medium), frames[medium], 12 * frames[medium], chance.randint(32, 256))


def recorded(path: Path) -> list[Asked]:
    asked = [Asked(**json.loads(line)) for line in path.read_text().splitlines() if line.strip()]
    return sorted(asked, key=lambda one: one.at)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", type=Path)
    parser.add_argument("--replicas", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--rate", type=float, default=40.0, help="requests a second, of all visitors")
    parser.add_argument("--clips", type=int, default=5000)
    parser.add_argument("--follow", type=float, default=0.5, help="share of requests that are followed by another")
    parser.add_argument("--keeps", type=int, default=100, help="media that a replica's caches hold")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    trace = sorted(
        recorded(given.trace)
        if given.trace
        else drawn(given.seconds, given.rate, given.clips, given.follow, given.seed),
        key=lambda one: one.at,
    )
    media = len({one.medium for one in trace})
    print(
        f"{len(trace)} requests about {media} media in {trace[-1].at - trace[0].at:.0f} s, {given.replicas} replicas\n"
    )
    print("| policy | found in caches | first token: median | 99 % | busiest / mean replica |")
    print("|---|---:|---:|---:|---:|")
    for name, choose in policies(given.replicas, given.seed).items():
        engines = simulate(trace, choose, given.replicas, given.keeps)
        waited = [seconds for engine in engines for seconds in engine.first_tokens]
        cuts = quantiles(waited, n=100)
        share = sum(engine.hits for engine in engines) / len(trace)
        loads = [len(engine.first_tokens) for engine in engines]
        skew = max(loads) * len(loads) / sum(loads)
        print(f"| {name} | {share:.0%} | {1000 * cuts[49]:,.0f} ms | {1000 * cuts[98]:,.0f} ms | {skew:.2f} |")


if __name__ == "__main__":
    main()
