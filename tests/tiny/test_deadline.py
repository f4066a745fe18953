"""A stage that ends at a given time."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file

from mossvl.tiny.deadline import Deadline
from mossvl.tiny.profile import Profile
from mossvl.tiny.recipe import Recipe
from mossvl.tiny.train import train_stage
from mossvl.training.trainer import AGREE_EVERY


class Clock:
    """Each step takes `pace` seconds; the first ones `start` more, as compiling does."""

    def __init__(self, pace: float, start: float = 0.0) -> None:
        self.now, self.pace = start, pace

    def __call__(self) -> float:
        return self.now


def run(deadline: Deadline, clock: Clock, change=lambda step: None) -> tuple[int, list[float]]:
    """The steps that are made, and the share of the learning rate of each."""
    args = SimpleNamespace(device="cpu", world_size=1)
    state, control = (
        SimpleNamespace(global_step=0, max_steps=deadline.limit),
        SimpleNamespace(should_training_stop=False),
    )
    rates = []
    while not control.should_training_stop and state.global_step < state.max_steps:
        rates.append(deadline.rate(state.global_step))
        change(state.global_step)
        clock.now += clock.pace
        state.global_step += 1
        deadline.on_step_end(args, state, control)
    return state.global_step, rates


@pytest.mark.parametrize("start", [0.0, 150.0])
def test_it_ends_when_the_time_is_over(start):
    clock = Clock(0.25, start)
    deadline = Deadline(1000.0, 10**6, warmup=100, decay=0.3, clock=clock)
    steps, rates = run(deadline, clock)
    assert clock.now == pytest.approx(1000.0, abs=2 * AGREE_EVERY * clock.pace)
    assert rates[0] < 0.02 and rates[100] == 1.0
    assert rates[int(0.68 * steps)] == 1.0 and rates[int(0.85 * steps)] == pytest.approx(0.5, abs=0.05)
    assert rates[-1] < 0.05


def test_it_follows_steps_that_become_slower():
    clock = Clock(0.1)
    deadline = Deadline(1000.0, 10**6, warmup=0, decay=0.3, clock=clock)
    steps, rates = run(deadline, clock, lambda step: setattr(clock, "pace", 0.1 if step < 2000 else 0.4))
    assert clock.now == pytest.approx(1000.0, abs=2 * AGREE_EVERY * clock.pace)
    assert steps == pytest.approx(4000, abs=2 * AGREE_EVERY) and rates[-1] < 0.05


def test_it_makes_no_more_steps_than_the_stage_has():
    clock = Clock(0.1)
    steps, rates = run(Deadline(1000.0, 500, warmup=0, decay=0.5, clock=clock), clock)
    assert steps == 500 and rates[-1] == pytest.approx(1 / 250)


def test_it_ends_at_once_where_no_time_is_left():
    clock = Clock(1.0, 50.0)
    assert run(Deadline(10.0, 500, warmup=0, decay=0.5, clock=clock), clock)[0] == AGREE_EVERY


def test_a_stage_is_finished_when_its_time_is_over_and_tells_where_it_went(tmp_path):
    stage = replace(Recipe.read().stages[0], steps=10**4, warmup=0, decay=5000)
    recipe = replace(Recipe.read(), batch=1, evaluate_every=10**6, questions=1, stages=[stage])
    told = tmp_path / "profile.txt"
    assert train_stage(recipe, 0, tmp_path, None, Deadline.of(stage, 0.0), [Profile(told, 1, 2)])
    assert "ms a step" in told.read_text() and "aten::mm" in told.read_text()
    assert load_file(tmp_path / stage.name / "model" / "model.safetensors")
    assert not list(tmp_path.glob("*/checkpoint-*"))
