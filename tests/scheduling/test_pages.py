"""Requests that need nearly all pages, or give theirs back; see `machine` for what is checked in every step."""

from hypothesis import example, given
from hypothesis import strategies as st

from .asked import PICTURES, Asked, Item
from .machine import Machine
from .measures import everything_is_free, text


@given(st.data())
def test_a_request_of_full_capacity_alone_is_admitted_and_finishes(data):
    pages, groups, size = (
        data.draw(st.integers(1, 20)),
        data.draw(st.integers(1, 3)),
        data.draw(st.sampled_from([1, 2, 4])),
    )
    vision_size = data.draw(st.sampled_from([0, 1, 2, 8]))
    machine = Machine(pages, groups, page_size=size, vision_size=vision_size, overlap=data.draw(st.booleans()))
    pictures = data.draw(st.lists(st.sampled_from(list(PICTURES)), max_size=3))
    vision = Asked([*pictures, 1]).request.context.num_vision
    capacity = machine.scheduler.allocator.capacity(vision)
    taken = capacity // size * groups + -(-vision // machine.vision_size)
    assert taken <= pages or capacity == 0
    least = len(pictures) + 1
    if capacity <= least:
        return
    length = data.draw(st.integers(least, capacity - 1))
    for seed in data.draw(st.sampled_from([(0,), (0, 0), (0, 50, 0)])):
        asked = Asked([*pictures, *text(length - len(pictures), start=10 + seed)], room=capacity - length)
        machine.ask(asked)
        machine.run()
        assert asked.finished and asked.request.num_answer == capacity - length
    assert everything_is_free(machine)


@example(turns=5, overlap=True, answer=4)
@given(turns=st.integers(1, 8), overlap=st.booleans(), answer=st.integers(1, 12))
def test_a_request_of_full_capacity_finishes_whatever_is_kept_of_its_prompt(turns, overlap, answer):
    """Every turn adds to the last page of vision tokens, in a copy: its kept blocks have more pages than it needs."""
    items: list[Item] = []
    for turn in range(turns):
        items += [b"d", *text(3, start=10 * turn)]
    vision = Asked(items).request.context.num_vision
    machine = Machine(turns + -(-vision // 4) + -(-answer // 4), overlap=overlap)
    assert machine.scheduler.allocator.capacity(vision) == len(items) + -(-answer // 4) * 4
    for turn in range(1, turns):
        machine.ask(Asked(items[: 4 * turn]))
        machine.run()
    last = Asked(items, room=machine.scheduler.allocator.capacity(vision) - len(items))
    machine.ask(last)
    machine.run()
    assert last.finished and everything_is_free(machine)


def test_pages_of_a_shared_prompt_that_cannot_be_freed_are_not_counted_on():
    """A request reads a copy of a page; the original belongs to a block it uses, and so stays where it is."""
    machine = Machine(16)
    machine.ask(Asked([b"d", *text(3), 1]))
    machine.run()
    asked = [Asked([b"d", *text(3), b"d", *text(3, start=20 * number)], room=24) for number in (1, 2)]
    machine.ask(*asked)
    machine.run()
    assert any(step.copies for step in machine.steps) and machine.scheduler.preemptions > 0
    assert everything_is_free(machine)


def test_a_request_too_large_waits_without_harm():
    """An engine refuses it; should one come all the same, nothing breaks."""
    machine = Machine(4)
    asked = Asked(text(17))
    machine.ask(asked)
    assert not machine.step()
    machine.scheduler.remove(asked.request)
    assert machine.idle and everything_is_free(machine)


def test_requests_that_are_cancelled_leave_nothing_whatever_they_were_doing():
    machine = Machine(12, page_size=2, prefill_tokens=3, overlap=True)
    asked = [Asked(text(5, start=20 * number), room=12) for number in range(5)]
    machine.ask(*asked)
    while not any(one.request.preemptions for one in asked):
        machine.step()
    states = {one.request.slot >= 0 for one in asked}
    assert states == {True, False}
    for one in asked:
        machine.scheduler.remove(one.request)
        machine.account()
    assert machine.empty and everything_is_free(machine)
    machine.accept(machine.pending)
    assert all(one.request.in_flight == 0 and not one.finished for one in asked)


def test_a_request_that_was_never_added_can_be_removed():
    machine = Machine(4)
    asked = Asked([1])
    machine.scheduler.remove(asked.request)
    assert asked.request.ended and machine.idle


def test_a_step_that_failed_leaves_nothing_that_others_could_find():
    machine = Machine(60, prefill_tokens=6)
    items = [b"d", *text(11)]
    machine.ask(Asked(items))
    machine.step()
    machine.step(fails=True)
    assert machine.empty
    again = Asked(items, room=3)
    machine.ask(again)
    machine.run()
    assert again.finished and again.request.cached == 4 and everything_is_free(machine)
