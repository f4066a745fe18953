"""A request that is asked more computes what one prompt of everything would; see `machine` for what is checked too."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from mossvl.scheduling.context import Context
from mossvl.scheduling.step import FrameSpan, RowSpan

from .asked import PICTURES, Asked, frame_rows, pictures_of, prompt_of
from .machine import Machine
from .measures import everything_is_free, frames_of, rows_of, text

ITEMS = st.lists(st.one_of(st.integers(0, 9), st.sampled_from(list(PICTURES))), min_size=1, max_size=12)
DRAWN = st.lists(st.integers(0, 9), max_size=5)


def parked(items, *later, **more):
    asked = Asked(items, later=list(later), **more)
    asked.request.park()
    return asked


def go_on(machine, asked, room=1):
    """Append the next part of what is asked, and have so many tokens drawn."""
    asked.extend(room)
    asked.request.resume()
    machine.run()


def settle(machine, *asked):
    """Until these have nothing to do."""
    for _ in range(100):
        if all(one.request.rests and not one.request.in_flight for one in asked):
            return
        machine.step()
    raise AssertionError("they still have something to do")


def rows(context, start, stop):
    return context.positions(start, stop).tolist(), context.visible(start, stop).tolist()


@given(st.lists(st.tuples(ITEMS, DRAWN), min_size=1, max_size=4), st.data())
def test_a_context_of_parts_is_laid_out_as_one_prompt_of_everything(parts, data):
    items = [item for given, drawn in parts for item in (*given, *drawn)]
    whole, context = Context(prompt_of(items)), None
    for part, drawn in parts:
        if context is None:
            context = Context(prompt_of(part))
        else:
            context.append(prompt_of(part, context.end))
        context.answer += drawn
    length, frames = len(items), len(pictures_of(items))
    assert (context.length, context.end, context.num_frames) == (length, whole.end, frames)
    start = data.draw(st.integers(0, length))
    stop = data.draw(st.integers(start, length))
    assert context.tokens(start, stop) == whole.tokens(start, stop)
    assert rows(context, start, stop) == rows(whole, start, stop)
    assert [context.position(row) for row in range(length)] == whole.positions(0, length).tolist()
    assert context.frames_between(start, stop) == whole.frames_between(start, stop)
    first = data.draw(st.integers(0, frames))
    last = data.draw(st.integers(first, frames))
    assert context.vision_range(first, last) == whole.vision_range(first, last)
    assert frame_rows(context) == frame_rows(whole)
    assert all(context.grid(frame) == whole.grid(frame) for frame in range(first, last))
    found, expected = ([layout.vision(*part) for layout, *part in one.layouts(first, last)] for one in (context, whole))
    assert torch.equal(torch.cat([torch.zeros(3, 0), *found], 1), torch.cat([torch.zeros(3, 0), *expected], 1))


def test_the_row_after_all_that_is_known_has_its_position():
    context = Context(prompt_of([1, b"d", 2]), [3, 4])
    assert context.position(5) == context.end.position == 7


def test_a_prompt_in_two_parts_is_computed_once_and_as_at_once():
    machine = Machine(100)
    asked = parked([*text(5), b"d", 1], [b"f", *text(6, start=30)], room=3)
    machine.ask(asked)
    settle(machine, asked)
    assert asked.request.num_answer == 0 and asked.request.computed == 6
    go_on(machine, asked, room=3)
    assert asked.finished and rows_of(machine, asked) == 14 and frames_of(machine, asked) == 2
    whole = Asked([*text(5), b"d", 1, b"f", *text(6, start=30)])
    assert whole.request.keys(4) == asked.request.keys(4)[:3]
    machine.ask(whole)
    machine.run()
    assert whole.request.cached == 12


def test_who_rests_keeps_its_pages_and_is_not_computed():
    machine = Machine(100)
    asked = parked([*text(6), b"d"], [5], room=2)
    machine.ask(asked, Asked(text(4, start=50), room=4))
    settle(machine, asked)
    held = list(asked.request.text_pages)
    before = len(machine.steps)
    while any(not one.finished for one in machine.asked.values() if one is not asked):
        machine.step()
    assert all(asked.request not in step.requests for step in machine.steps[before:])
    assert held and asked.request.text_pages == held and not machine.step()


def test_what_is_appended_after_drawn_tokens_is_computed_with_the_last_of_them():
    machine = Machine(100)
    asked = Asked(text(6), room=3, later=[[b"d", 7]])
    machine.ask(asked)
    settle(machine, asked)
    assert (asked.request.num_answer, asked.request.computed) == (3, 8)
    asked.extend(room=2)
    asked.request.resume()
    step = machine.step()
    assert step.frames == [FrameSpan(asked.request, 0, 1)]
    assert step.prefill == [RowSpan(asked.request, 8, 11, draws=True)]
    machine.run()
    assert asked.request.num_answer == 5


def drawing(asked):
    """A machine in which a request has a token in flight, and how many tokens of its answer are known."""
    machine = Machine(100, overlap=True)
    machine.ask(asked)
    for _ in range(3):
        machine.step()
    return machine, asked.request.num_answer


def test_a_token_that_was_being_drawn_when_it_was_parked_is_forgotten_and_drawn_again():
    asked = Asked(text(6), room=9)
    machine, known = drawing(asked)
    asked.request.park()
    machine.step()
    assert (asked.request.num_answer, asked.request.in_flight) == (known, 0)
    asked.request.resume()
    step = machine.step()
    length = asked.request.context.length
    assert step.prefill == [RowSpan(asked.request, length - 1, length, draws=True)]
    machine.run()
    assert asked.finished and asked.request.num_answer == 9


def test_a_token_that_was_being_drawn_when_it_was_held_is_known_before_more_is_appended():
    asked = Asked(text(6), room=9, later=[[b"a"]])
    machine, known = drawing(asked)
    asked.request.hold()
    machine.step()
    assert (asked.request.num_answer, asked.request.in_flight) == (known + 1, 0)
    go_on(machine, asked, room=2)
    assert asked.finished and asked.request.num_answer == known + 3


def test_frames_that_are_appended_leave_a_shared_page_as_it_is():
    """Two share a page that is full in part, and go on with frames of their own."""
    machine = Machine(100)
    begin = [b"d", *text(7)]
    first = Asked([*begin, 1], later=[[b"a", 3]])
    machine.ask(first)
    settle(machine, first)
    second = parked([*begin, 2], [b"b", 4], [b"a", 5])
    machine.ask(second)
    settle(machine, second, first)
    shared = second.request.vision_pages[-1]
    assert second.request.cached == 8 and first.request.vision_pages[-1] == shared
    for asked in (first, second):
        asked.extend()
        asked.request.resume()
    settle(machine, second)
    go_on(machine, second)
    copies = [copy for step in machine.steps for copy in step.copies]
    assert [copy[:2] for copy in copies] == [(second.request, shared)]
    assert first.finished and second.finished and everything_is_free(machine)


def test_a_request_that_grows_takes_the_pages_of_the_newest():
    machine = Machine(9, keep=False)
    old, new = parked(text(8), text(20, start=40), room=4), Asked(text(8, start=80), room=4, later=[[5]])
    machine.ask(old, new)
    settle(machine, old)
    machine.step()
    old.extend(room=4)
    old.request.resume()
    machine.step()
    assert (old.request.preemptions, new.request.preemptions) == (0, 1)


def test_who_rests_is_preempted_only_where_nobody_else_will_free_pages_and_is_computed_anew_when_it_goes_on():
    machine = Machine(10, keep=False)
    resting = parked(text(16), [5], room=3)
    machine.ask(resting)
    settle(machine, resting)
    talking, waiting = Asked(text(8, start=50), room=6), Asked(text(24, start=80), room=2)
    machine.ask(talking, waiting)
    while not talking.finished:
        machine.step()
        assert resting.request.slot >= 0 and (waiting.request.slot < 0 or talking.finished)
    while not waiting.finished:
        machine.step()
    assert resting.request.preemptions == 1 and resting.request.slot < 0
    assert not machine.step(), "it sleeps"
    go_on(machine, resting, room=3)
    assert resting.finished and rows_of(machine, resting) == 15 + 17


def test_the_last_that_computes_takes_the_pages_of_those_that_rest_and_no_others():
    machine = Machine(8, page_size=2, keep=False)
    resting = [parked(text(3, start=20 * number), [5]) for number in range(2)]
    machine.ask(*resting)
    settle(machine, *resting)
    talking = Asked(text(3, start=90), room=8)
    machine.ask(talking)
    while not talking.finished:
        machine.step()
    assert talking.request.preemptions == 0
    assert [one.request.preemptions for one in resting] == [0, 1]


def test_who_sleeps_is_not_counted_among_those_that_are_looked_at():
    machine = Machine(2000, max_batch=1, keep=False)
    sleeping = [parked([number], [5]) for number in range(300)]
    for one in sleeping:
        machine.scheduler.add(one.request)
        machine.asked[one.request.number] = one
        one.request.preemptions = 1
        machine.scheduler.preemptions += 1
    asked = Asked(text(4))
    machine.ask(asked)
    machine.step()
    assert asked.finished
