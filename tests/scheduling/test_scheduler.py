"""What runs when, and in whose pages; see `machine` for what is checked in every step of every test here."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mossvl.scheduling.step import FrameSpan, RowSpan, Step

from .asked import Asked
from .machine import Machine
from .measures import everything_is_free, rows_of, text
from .traces import Setting, Trace

# --- pages -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("groups", "num_vision", "tokens"),
    [(1, 0, 40), (1, 1, 36), (1, 4, 36), (1, 5, 32), (3, 0, 12), (3, 4, 12), (3, 5, 8), (3, 30, 0), (1, 99, 0)],
)
def test_a_request_may_have_as_many_tokens_as_pages_are_left_beside_its_vision(groups, num_vision, tokens):
    assert Machine(10, groups).scheduler.allocator.capacity(num_vision) == tokens


def test_a_request_of_all_pages_ends():
    machine = Machine(11, groups=3)
    most = machine.scheduler.allocator.capacity(5)
    asked = Asked([b"d", 1, 2], room=most - 3)
    machine.ask(asked)
    machine.run()
    assert asked.finished and most == 12


def test_an_empty_plan_is_nothing_to_do():
    step = Step()
    assert not step and step.requests == []


def test_a_plan_taken_apart_is_what_each_request_has_of_it():
    machine, asked = Machine(100), [Asked(text(4, start=20 * number)) for number in range(3)]
    machine.ask(*asked)
    one, two, three = (given.request for given in asked)
    copies, frames = [(one, 1, 2), (two, 3, 4), (one, 2, 5)], [FrameSpan(two, 0, 1), FrameSpan(one, 2, 4)]
    prefill = [RowSpan(one, 0, 2, draws=False), RowSpan(two, 0, 4, draws=True), RowSpan(two, 4, 5, draws=True)]
    step = Step(copies, frames, prefill, decode=[three, two])
    assert step.requests == [one, two, three]
    assert step.apart() == {
        one: Step([copies[0], copies[2]], [frames[1]], [prefill[0]]),
        two: Step([copies[1]], [frames[0]], prefill[1:], [two]),
        three: Step(decode=[three]),
    }


def test_nobody_is_preempted_while_there_are_pages():
    machine = Machine(4)
    asked = [Asked(text(4, start=20 * number), room=5) for number in range(2)]
    machine.ask(*asked)
    machine.run()
    assert all(one.finished for one in asked) and machine.scheduler.preemptions == 0


@pytest.mark.parametrize(("length", "cached"), [(4, 0), (5, 4), (12, 8), (13, 12), (14, 12)])
def test_what_was_computed_is_found_again_but_for_the_last_row(length, cached):
    machine = Machine(100)
    again = Asked(text(length))
    machine.ask(Asked(text(20)))
    machine.run()
    machine.ask(again)
    machine.run()
    assert again.request.cached == cached


@pytest.mark.parametrize(
    ("items", "again", "copied"),
    [
        ([b"a", 1, 2, 3], [b"a", 4], True),
        ([b"c", 1, 2, 3], [b"a", 4], False),  # the first frame ends with its page
        ([b"a", 1, 2, 3], [4, 5], False),  # no frame follows
        ([1, 2, 3, 4], [b"a", 5], False),  # no frame is shared
        ([b"d", 1, 2, 3], [4, 5, b"a"], True),
    ],
)
def test_a_page_of_vision_is_copied_where_own_frames_follow_in_it(items, again, copied):
    machine = Machine(100)
    machine.ask(Asked([*items, 9]))
    machine.run()
    asked = Asked([*items, *again])
    machine.ask(asked)
    step = machine.step()
    assert asked.request.cached == 4
    assert [request for request, _, _ in step.copies] == [asked.request] * copied


def test_who_is_alone_does_without_kept_blocks_that_take_its_room():
    """Its three pages are all there are; one more would be needed beside the shared page that it copies."""
    machine = Machine(3)
    machine.ask(Asked([b"a", 1, 2, 3, 4]))
    machine.run()
    asked = Asked([b"a", 1, 2, 3, b"a", 5])
    machine.ask(asked)
    machine.run()
    assert asked.finished and asked.request.cached == 0


# --- order -----------------------------------------------------------------------------------------------------------


def test_who_waits_for_anothers_prompt_lets_others_pass():
    machine = Machine(100, prefill_tokens=2)
    first, same, other = Asked(text(16), room=2), Asked(text(16), room=2), Asked(text(3, start=90), room=2)
    machine.ask(first, same, other)
    machine.step()
    assert machine.scheduler.running == [first.request, other.request]
    later = Asked(text(3, start=95), room=2)
    machine.ask(later)
    machine.step()
    assert later.request in machine.scheduler.running and same.request in machine.scheduler.waiting
    machine.run()
    assert same.request.cached == 12


@pytest.mark.parametrize(("waiting", "passes"), [(255, True), (256, False)])
def test_no_more_than_256_that_wait_are_passed(waiting, passes):
    machine = Machine(2000, prefill_tokens=4)
    other = Asked([99])
    machine.ask(Asked(text(16)), *(Asked(text(16)) for _ in range(waiting - 1)), other)
    machine.scheduler.plan()
    assert (other.request in machine.scheduler.running) == passes


@pytest.mark.parametrize("how", ["cancelled", "failed"])
def test_who_waits_for_a_prompt_that_is_given_up_computes_it(how):
    machine = Machine(100, prefill_tokens=4)
    first, *others = asked = [Asked(text(16), room=2) for _ in range(4)]
    machine.ask(*asked)
    machine.step()
    if how == "failed":
        machine.step(fails=True)
    else:
        machine.scheduler.remove(first.request)
    assert not machine.scheduler._computing and not machine.scheduler.running
    machine.run()
    assert [one.request.cached for one in others] == [4, 12, 12]
    assert all(one.finished for one in others) and everything_is_free(machine)


def test_a_large_request_is_not_passed_by_small_ones():
    machine = Machine(9)
    running, large = Asked(text(4), room=20), Asked(text(30, start=50), room=2)
    small = [Asked([100 + number], room=2) for number in range(3)]
    machine.ask(running, large, *small)
    while not running.finished:
        machine.step()
        assert all(one.request in machine.scheduler.waiting for one in (large, *small)) or running.finished
    machine.run()
    assert large.finished and all(one.finished for one in small)


def test_only_the_newest_are_preempted_and_all_finish():
    machine = Machine(18, groups=2, max_batch=8)
    asked = [Asked(text(4, start=20 * number), room=20) for number in range(6)]
    machine.ask(*asked)
    order = []
    while not machine.idle:
        machine.step()
        order += [number for number, one in enumerate(asked) if one.finished and number not in order]
    assert machine.scheduler.preemptions > 0 and asked[0].request.preemptions == 0
    assert order == sorted(order) and len(order) == 6
    assert everything_is_free(machine)


def test_a_preempted_request_is_not_passed_while_its_last_token_is_drawn():
    machine = Machine(6, page_size=2, overlap=True)
    old, new, late = Asked(text(2), room=10), Asked(text(5, start=50), room=4), Asked([99])
    machine.ask(old, new)
    machine.step()
    machine.ask(late)
    while new.request.preemptions == 0:
        assert late.request in machine.scheduler.waiting
        machine.step()
    assert late.request in machine.scheduler.waiting
    machine.run()
    assert all(one.finished for one in (old, new, late))


def test_what_a_preempted_request_has_computed_is_found_again():
    machine = Machine(8, page_size=2)
    old, new = Asked(text(2), room=8), Asked(text(7, start=50), room=8)
    machine.ask(old, new)
    machine.run()
    assert new.request.preemptions == 1 and new.request.cached == 0
    assert 7 < rows_of(machine, new) < 2 * 7


# --- anything --------------------------------------------------------------------------------------------------------

SETTINGS = st.builds(
    Setting,
    seed=st.integers(0, 2**32),
    page_size=st.sampled_from([2, 4, 8, 16, 32, 1]),
    pages=st.integers(3, 40),
    groups=st.sampled_from([1, 2, 3]),
    max_batch=st.sampled_from([4, 8, 2, 1]),
    chunk=st.sampled_from([1000, 8, 3, 1]),
    mixed=st.sampled_from([100, 8, 2, 1]),
    requests=st.integers(1, 15),
    overlap=st.booleans(),
    keep=st.sampled_from([True, True, True, False]),
    cancelled=st.sampled_from([0, 0, 0, 0.01, 0.1]),
    failing=st.sampled_from([0, 0, 0, 0.05]),
    late=st.sampled_from([0, 0.3, 1]),
    formed=st.sampled_from([0, 0, 0.3, 1]),
    growing=st.sampled_from([0, 0, 0.3, 1]),
    ranked=st.sampled_from([0, 0, 0.5, 1]),
    salted=st.sampled_from([0, 0, 0.5, 1]),
    vision_size=st.sampled_from([0, 0, 1, 2, 8, 16]),
    apart=st.booleans(),
)


@given(SETTINGS)
@settings(max_examples=10 * settings.default.max_examples)
def test_whatever_happens_every_row_reads_its_own_history_and_every_request_ends(setting: Setting):
    Trace(setting).run()
