"""Lower numbers first, and the prefix cache within one salt."""

from random import Random

import pytest

from .asked import Asked
from .machine import Machine
from .measures import everything_is_free, rows_of, text


def ending(machine, asked):
    """The order in which requests are admitted."""
    machine.ask(*asked)
    admitted = []
    while not machine.idle:
        machine.step()
        admitted += [one for one in asked if one not in admitted and (one.request.slot >= 0 or one.finished)]
    return admitted


def test_waiting_requests_are_admitted_by_their_numbers_and_equals_as_they_came():
    rng = Random(0)
    asked = [Asked(text(4, start=9 * number), priority=rng.randrange(-3, 4)) for number in range(40)]
    machine = Machine(20, max_batch=1)
    assert ending(machine, asked) == sorted(asked, key=lambda one: one.priority)


def test_the_highest_number_is_preempted_though_it_is_older():
    machine = Machine(6)
    low, high = Asked(text(4), room=16, priority=5), Asked(text(4, start=50), room=16, priority=1)
    machine.ask(low)
    machine.step()
    machine.ask(high)
    machine.run()
    assert low.finished and high.finished
    assert low.request.preemptions and not high.request.preemptions


@pytest.mark.parametrize(("one", "other", "shared"), [(None, None, 1), ("a", "a", 1), ("a", "b", 0), (None, "a", 0)])
def test_a_prefix_is_shared_within_a_salt(one, other, shared):
    machine = Machine(100)
    first, second = Asked([*text(12), b"a", *text(12)], salt=one), Asked([*text(12), b"a", *text(12)], salt=other)
    machine.ask(first)
    machine.run()
    machine.ask(second)
    machine.run()
    assert (second.request.cached, rows_of(machine, second)) == ((24, 1) if shared else (0, 25))
    assert bool(set(first.request.keys(4)) & set(second.request.keys(4))) == bool(shared)
    assert everything_is_free(machine)
