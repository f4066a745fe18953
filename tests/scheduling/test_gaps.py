"""The time between two tokens of an answer, on a machine whose steps take simulated time; see `machine`."""

from dataclasses import dataclass, field
from itertools import pairwise
from operator import mul
from random import Random

import pytest

from mossvl.scheduling.budget import LEAST, StepBudget
from mossvl.scheduling.costs import CAUTION, RANGE, Costs, Work
from mossvl.scheduling.step import Step

from .asked import PICTURES, Asked
from .machine import Machine
from .measures import text

SECONDS = Work(steps=4e-3, decode_rows=2e-4, read=1e-6, rows=4e-4, pairs=1e-6, patches=1.5e-4)
"""What work really costs."""
GAP = 0.05
FRAME = 9.1e-3
"""What the largest picture costs."""


class Quick(Machine):
    """Without what other tests check: pages and what is in them."""

    def account(self) -> None: ...

    def _write_text(self, *_: object) -> None: ...

    def _write_vision(self, *_: object) -> None: ...

    def _check_reads(self, *_: object) -> None: ...


@dataclass
class Timed:
    """A machine whose steps take simulated time, from which its scheduler learns.

    Args:
        wrong: factor by which each cost is estimated wrongly at first, up or down.
        noise: standard deviation of the logarithm of a step's time.
        stalls: share of steps that take ten times as long, as when something is compiled.
    """

    rng: Random
    gap: float = GAP
    wrong: float = 3.0
    noise: float = 0.02
    stalls: float = 0.01
    seconds: Work = SECONDS
    options: dict[str, int] = field(default_factory=dict)
    took: list[float] = field(default_factory=list)
    """Seconds of each step, without noise and stalls."""

    def __post_init__(self) -> None:
        options = {"max_batch": 64, "prefill_tokens": 400, "vision_patches": 2000, **self.options}
        self.machine = Quick(6000, overlap=True, **options)
        scheduler = self.machine.scheduler
        scheduler.budget = StepBudget(**{**vars(scheduler.budget), "gap": self.gap})
        estimate = Work(*(cost * self.wrong ** self.rng.uniform(-1, 1) for cost in self.seconds))
        scheduler.costs = Costs(estimate)

    def step(self) -> Step:
        step = self.machine.step()
        self.took.append(Costs(self.seconds).of(step.work))
        disturbed = 10 if self.rng.random() < self.stalls else self.rng.lognormvariate(0, self.noise)
        self.machine.scheduler.costs.learn(step.work, disturbed * self.took[-1])
        return step

    def run(self) -> float:
        """Until nothing is left to do → simulated seconds."""
        while not self.machine.idle:
            self.step()
        return sum(self.took)

    def decoding(self, step: Step) -> float:
        """Seconds that a step's decoding takes."""
        return Costs(self.seconds).of(step.work._replace(rows=0, pairs=0, patches=0))

    @property
    def has_prompts(self) -> bool:
        return any(not request.decoding for request in self.machine.scheduler.running)


def prompt(rng: Random, number: int, room: int = 1) -> Asked:
    """A prompt that shares nothing with others, of text or of pictures with text."""
    pictures = rng.choices(list(PICTURES), k=rng.choice((0, 1, 20)))
    return Asked([10_000 * number, *pictures, *text(rng.choice((3, 40, 300)), start=10_000 * number + 1)], room)


@pytest.mark.parametrize("seed", range(12))
def test_steps_use_the_gap_and_keep_it(seed):
    """Costs are learned within the first steps, however wrong the estimate. Whoever decodes gets a token a step."""
    rng = Random(seed)
    timed = Timed(rng)
    timed.machine.ask(Asked([1], room=100))
    timed.machine.ask(*(Asked([*([b"f"] * 20), *text(300, start=1000 * number)]) for number in range(1, 12)))
    timed.run()
    talking = [Asked([number], room=1000) for number in range(rng.choice((1, 8, 40)))]
    timed.machine.ask(*talking)
    timed.step()
    for number in range(1, 40):
        timed.machine.ask(prompt(rng, number))
    used = []
    while timed.has_prompts or timed.machine.scheduler.waiting:
        step = timed.step()
        assert len(step.decode) >= len(talking)
        used.append(timed.took[-1] / GAP)
    used = used[:-1]
    assert max(used) < 1.25 and sum(one > 1 for one in used) <= 0.05 * len(used)
    assert sum(used) / len(used) > 0.75


@dataclass
class Device:
    """The times of a host and a device, which does what was launched one after the other."""

    host: float = 0.0
    device: float = 0.0

    def launch(self, seconds: float, waits: bool) -> float:
        """Launch what takes so many seconds → when it ends; launching may wait for all that was launched before."""
        self.host += 5e-3
        self.device = max(self.host, self.device) + seconds
        if waits:
            self.host = self.device
        return self.device


def gaps_seen(seed: int, apart: bool) -> list[float]:
    """Seconds between the tokens of an answer beside prompts, as the host reads them."""
    rng, device, costs = Random(seed), Device(), Costs(SECONDS)
    timed = Timed(rng, wrong=1.0, noise=0.0, stalls=0.0)
    machine, talking = timed.machine, Asked([1], room=1000)
    machine.ask(talking)
    machine.step()
    machine.ask(*(Asked([*([b"f"] * 20), *text(300, start=1000 * number)]) for number in range(1, 9)))
    pending: tuple[float, Step] = (0.0, Step())
    seen = []
    while timed.has_prompts or machine.scheduler.waiting:
        step = machine.decide()
        for number, part in enumerate(step.cut() if apart else [step]):
            drawn = machine.launch(part.still_possible() if number else part)
            end, before = pending
            pending = device.launch(costs.of(part.work), bool(part.prefill) and rng.random() < 0.3), part
            drawn, machine.pending = machine.pending, drawn
            device.host = max(device.host, end)
            machine.accept(drawn)
            if before.decode:
                seen.append(device.host)
        machine.scheduler.costs.learn(step.work, costs.of(step.work))
    return [later - earlier for earlier, later in pairwise(seen)]


@pytest.mark.parametrize("seed", range(5))
def test_tokens_come_in_time_though_launching_rows_waits_now_and_then(seed):
    """As when a library loads a kernel. With frames and rows apart, it waits for what nobody's tokens are in."""
    assert max(gaps_seen(seed, apart=True)) < 1.2 * GAP
    assert max(gaps_seen(seed, apart=False)) > 1.4 * GAP


@pytest.mark.parametrize("seed", range(3))
def test_a_wide_gap_costs_little_throughput(seed):
    """Against no bound for the gap: what is lost are the steps that it takes more."""

    def seconds(gap: float) -> float:
        rng = Random(seed)
        timed = Timed(rng, gap, wrong=1.0, noise=0.0, stalls=0.0)
        timed.machine.ask(*(prompt(rng, number, room=30) for number in range(1, 60)))
        return timed.run()

    assert seconds(10 * GAP) < 1.05 * seconds(1e9)


@pytest.mark.parametrize("gap", [1e-6, 0.004, 0.012])
def test_prompts_go_on_where_decoding_alone_takes_longer_than_the_gap(gap):
    """They get a fifth of the time, and at least one row or frame a step."""
    rng = Random(7)
    timed = Timed(rng, gap, wrong=1.0, noise=0.0, stalls=0.0)
    timed.machine.ask(*(Asked([number], room=3000) for number in range(50)))
    timed.step()
    asked = [prompt(rng, number) for number in range(1, 6)]
    timed.machine.ask(*asked)
    while not all(one.finished for one in asked):
        step = timed.step()
        decoding = timed.decoding(step)
        assert timed.took[-1] <= (1 + LEAST) * decoding + FRAME
        assert step.frames or step.prefill or not timed.has_prompts


def test_a_large_frame_goes_on_beside_smaller_work_that_never_ends():
    timed = Timed(Random(3), gap=0.012, wrong=1.0, options={"vision_patches": 6})
    large = Asked([b"f", 1])
    timed.machine.ask(Asked([5], room=4000))
    timed.step()
    timed.machine.ask(large)
    for step in range(20):
        for number in range(10_000 * (1 + 4 * step), 10_000 * (5 + 4 * step), 10_000):
            timed.machine.ask(Asked([number, *text(20, start=number + 1)]))
        timed.step()
        if large.finished:
            return
    raise AssertionError("still not done after 20 steps")


def test_bounds_that_are_set_take_the_place_of_the_gap():
    machine = Machine(400, mixed_prefill_tokens=50, mixed_vision_patches=20, max_token_gap=1e-9)
    machine.ask(Asked([1], room=30))
    machine.step()
    machine.ask(Asked([b"d", *text(60, start=100)]))
    step = machine.step()
    assert [part.stop - part.start for part in step.prefill] == [50] and [part.stop for part in step.frames] == [1]


def test_a_bound_for_rows_leaves_frames_to_the_gap():
    """A frame of 60 patches costs 0.15 ms at first; what decoding one row leaves is a third of it."""
    machine = Machine(400, mixed_prefill_tokens=2, max_token_gap=1e-9, prefill_tokens=100)
    machine.ask(Asked([1], room=30))
    machine.step()
    machine.ask(Asked([*([b"f"] * 40), *text(60, start=100)]))
    step = machine.step()
    assert 1 <= step.frames[0].stop < 40


# --- costs -----------------------------------------------------------------------------------------------------------


def work(rng: Random) -> Work:
    return Work(1, rng.choice((0, 1, 60)), rng.choice((0, 5000)), rng.choice((0, 200)), 0, rng.choice((0, 300)))


@pytest.mark.parametrize("seed", range(5))
def test_costs_are_learned_from_the_times_of_steps(seed):
    rng = Random(seed)
    costs = Costs(Work(*(cost * 4 ** rng.uniform(-1, 1) for cost in SECONDS)))
    errors = []
    for _ in range(600):
        done = work(rng)
        truly = Costs(SECONDS).of(done)
        errors.append(abs(costs.of(done) / truly - 1))
        costs.learn(done, truly * rng.lognormvariate(0, 0.02))
    assert sum(errors[-100:]) / 100 < 0.1


@pytest.mark.parametrize("seconds", [1e-9, 1e9])
def test_one_outlier_changes_the_expected_time_little(seconds):
    costs, done = Costs(SECONDS), Work(1, 8, 1000, 100, 5000, 60)
    before = costs.of(done)
    costs.learn(done, seconds)
    factor = costs.of(done) / before
    assert 0.5 < factor < 2 and factor != 1


@pytest.mark.parametrize(("seconds", "expected"), [(1e-9, 1 / RANGE), (1e9, RANGE)])
def test_costs_stay_within_a_range_of_their_estimate(seconds, expected):
    costs, done = Costs(SECONDS), Work(1, 8, 1000, 100, 5000, 60)
    for _ in range(1000):
        costs.learn(done, seconds)
    factors = [now / first for now, first in zip(costs.seconds, SECONDS, strict=True)]
    assert all(1 / RANGE <= factor <= RANGE for factor in factors)
    assert costs.of(done) / Costs(SECONDS).of(done) == pytest.approx(expected, rel=0.2)


@pytest.mark.parametrize(("done", "seconds"), [(Work(), 0.1), (Work(1, 2), None), (Work(1, 2), 0.0)])
def test_nothing_is_learned_without_work_or_without_a_time(done, seconds):
    costs = Costs(SECONDS)
    costs.learn(done, seconds)
    assert costs.seconds == SECONDS


def test_work_that_was_hardly_measured_is_planned_as_dearer():
    costs, done = Costs(SECONDS), Work(1, 0, 0, 100)
    factors = []
    for _ in range(4):
        planned = costs.cautious()
        factors.append(sum(map(mul, done, planned)) / costs.of(done))
        assert planned.patches == (1 + CAUTION) * costs.seconds.patches
        costs.learn(done, costs.of(done))
    assert factors[0] == pytest.approx(1 + CAUTION) and factors == sorted(factors, reverse=True) and factors[-1] < 1.3


def test_the_first_step_beside_decoding_is_small_and_the_next_ones_grow():
    timed = Timed(Random(1), wrong=1.0, noise=0.0, stalls=0.0)
    timed.machine.ask(Asked([1], room=100))
    timed.step()
    timed.machine.ask(*(Asked([*([b"f"] * 20), *text(300, start=1000 * number)]) for number in range(1, 9)))
    for _ in range(6):
        timed.step()
    used = [took / GAP for took in timed.took[1:]]
    assert used[0] < 0.5 and used == sorted(used) and 0.75 < used[-1] < 1


def test_what_was_not_done_is_not_corrected():
    costs = Costs(SECONDS)
    costs.learn(Work(1, 0, 0, 100), 1.0)
    changed = {name for name in Work._fields if getattr(costs.seconds, name) != getattr(SECONDS, name)}
    assert changed == {"steps", "rows"}
