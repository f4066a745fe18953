"""What runs when, and in whose pages; see `machine` for what is checked in every step of every test here."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mossvl.scheduling.step import FrameSpan, RowSpan, Step

from .machine import Asked, Machine
from .measures import everything_is_free, rows_of, text
from .traces import Setting, Trace

# --- pages -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("groups", "num_vision", "tokens"),
    [(1, 0, 40), (1, 1, 36), (1, 4, 36), (1, 5, 32), (3, 0, 12), (3, 4, 12), (3, 5, 8), (3, 30, 0), (1, 99, 0)],
)
def test_a_request_may_have_as_many_tokens_as_pages_are_left_beside_its_vision(groups, num_vision, tokens):
    assert Machine(10, groups).scheduler.pages.capacity(num_vision) == tokens


def test_a_request_of_all_pages_ends():
    machine = Machine(11, groups=3)
    most = machine.scheduler.pages.capacity(5)
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


# --- budgets ---------------------------------------------------------------------------------------------------------


def test_a_frame_above_the_budget_is_encoded_alone():
    machine = Machine(100, vision_patches=20)
    machine.ask(Asked([b"f", b"a", b"a", b"f", 1]), Asked([b"a", 2]))
    machine.run()
    costs = [[part.stop - part.start for part in step.frames] for step in machine.steps if step.frames]
    assert costs == [[1], [2], [1], [1]]


def test_no_more_frames_of_a_request_are_encoded_at_a_time_than_it_says():
    machine = Machine(100)
    asked = Asked([b"a"] * 7 + text(2))
    asked.request.vision_chunk = 3
    machine.ask(asked)
    machine.run()
    spans = [(part.start, part.stop) for step in machine.steps for part in step.frames]
    assert spans == [(0, 3), (3, 6), (6, 7)]


def test_frames_are_encoded_together_up_to_the_budget():
    machine = Machine(100, vision_patches=8)
    machine.ask(Asked([b"a"] * 5 + [1]))
    machine.run()
    assert [[(part.start, part.stop) for part in step.frames] for step in machine.steps] == [
        [(0, 2)],
        [(2, 4)],
        [(4, 5)],
    ]


def test_the_smallest_budget_encodes_a_frame_a_step():
    machine = Machine(100, vision_patches=1)
    first, second = Asked([b"a", b"b", 1]), Asked([b"a", b"b", 2])
    machine.ask(first, second)
    machine.run()
    assert [[(part.request, part.stop) for part in step.frames] for step in machine.steps if step.frames] == [
        [(one.request, stop)] for one in (first, second) for stop in (1, 2)
    ]


def test_a_large_frame_is_encoded_in_parts_as_others_leave_it_time():
    """Frame f has 60 patches, and large are those of more than 8 · 4."""
    machine = Machine(100, vision_patches=24, mixed_vision_patches=4)
    large = Asked([b"f", 1])
    machine.ask(large)
    assert machine.step().frames == [FrameSpan(large.request, 0, 1, 24 / 60)]
    machine.ask(Asked([7], room=3), Asked([b"a", 8], room=3))
    shares = []
    while not large.finished:
        before = large.request.partly
        step = machine.step()
        shares += [round(60 * (part.until - before)) for part in step.frames if part.request is large.request]
    assert shares == [4, 4, 4, 24]
    assert [one.finished for one in machine.asked.values()] == [True] * 3


def test_a_large_frame_whose_pixels_are_still_to_come_holds_up_no_other():
    machine = Machine(100, vision_patches=24, mixed_vision_patches=4)
    lacking, ready = Asked([b"f", 1], loaded=False), Asked([b"f", 2])
    machine.ask(lacking, ready)
    step = machine.step()
    assert step.missing == [(lacking.request, 0)] and step.frames == [FrameSpan(ready.request, 0, 1, 24 / 60)]


def test_a_preempted_request_begins_its_large_frame_anew():
    machine = Machine(24, vision_patches=24, mixed_vision_patches=4, prefix_cache=False)
    talking, large = Asked([1], room=70), Asked([b"f", 1])
    machine.ask(talking)
    machine.step()
    machine.ask(large)
    machine.step()
    assert large.request.partly
    machine.scheduler._preempt(large.request)
    assert not large.request.partly
    machine.run()
    assert large.finished and talking.finished


def test_encodings_that_are_kept_cost_nothing_and_need_no_pixels():
    machine = Machine(100, vision_patches=4)
    machine.encoded.update((b"d", b"f"))
    asked = Asked([b"d", b"f", b"d", b"f", b"d", b"f", 1], loaded=False)
    machine.ask(asked)
    step = machine.step()
    assert step.frames == [FrameSpan(asked.request, 0, 6)] and not step.missing
    assert step.prefill == [RowSpan(asked.request, 0, 7, draws=True)]


def test_prompts_without_frames_go_on_when_the_budget_for_frames_is_used_up():
    machine = Machine(100, vision_patches=4)
    frames, words = Asked([b"a", b"a", 1]), Asked(text(3))
    machine.ask(frames, words)
    step = machine.step()
    assert step.frames == [FrameSpan(frames.request, 0, 1)] and step.prefill == [
        RowSpan(words.request, 0, 3, draws=True)
    ]


@pytest.mark.parametrize(("budget", "asks"), [(4, False), (5, True)])
def test_pixels_are_asked_for_when_there_is_a_budget_for_them(budget, asks):
    machine = Machine(100, vision_patches=budget, prefill_tokens=4)
    lacking = Asked([b"a", 1], loaded=False)
    machine.ask(Asked([b"a", 1, 2, 3, 4]), lacking)
    assert machine.step().missing == [(lacking.request, 0)] * asks


def test_beside_decoding_the_smaller_budgets_hold_up_nobody():
    """A request comes with every step; all of them end, and whoever generates gets a token a step."""
    budgets = {"mixed_prefill_tokens": 8, "mixed_vision_patches": 16, "prefill_tokens": 64, "vision_patches": 64}
    machine = Machine(150, overlap=True, max_batch=16, **budgets)
    talking = [Asked([number], room=100) for number in range(4)]
    machine.ask(*talking)
    machine.step()
    asked = []
    for step in range(80):
        items = text(4, start=10 * step) if step % 2 else [10 * step, b"d", 10 * step + 1]
        asked.append(Asked(items, room=1))
        machine.ask(asked[-1])
        machine.step()
    assert [one.finished for one in asked[:-8]] == [True] * 72
    assert all(one.request.num_answer >= 79 for one in talking)
    assert any(step.frames for step in machine.steps[-9:]) and any(step.prefill for step in machine.steps[-9:])


@pytest.mark.parametrize(
    ("generating", "prompts", "rows"),
    [(1, 1, 2), (1, 2, 2), (1, 3, 12), (23, 3, 12), (24, 3, 2), (31, 4, 16), (32, 4, 2)],
)
def test_prompts_are_computed_in_small_parts_where_they_are_few_beside_those_that_generate(generating, prompts, rows):
    machine = Machine(400, max_batch=64, prefill_tokens=100, mixed_prefill_tokens=2)
    machine.ask(*(Asked([number], room=20) for number in range(generating)))
    machine.step()
    machine.ask(*(Asked(text(4, start=1000 + 10 * number), room=2) for number in range(prompts)))
    step = machine.step()
    assert sum(part.stop - part.start for part in step.prefill) == rows


def test_beside_decoding_frames_wait_for_the_step_after_the_rows_of_a_prompt():
    machine = Machine(400, max_batch=64)
    machine.ask(*(Asked([number], room=20) for number in range(24)))
    machine.step()
    words, *pictures = Asked(text(3, start=100)), Asked([b"a", 200]), Asked([b"b", 201])
    machine.ask(words, *pictures)
    step = machine.step()
    assert step.prefill == [RowSpan(words.request, 0, 3, draws=True)] and not step.frames
    step = machine.step()
    assert [part.request for part in step.frames] == [one.request for one in pictures] and not step.prefill


def test_many_new_prompts_are_not_held_back_for_the_few_that_generate():
    machine = Machine(400, mixed_prefill_tokens=1, prefill_tokens=100)
    machine.ask(Asked([1], room=20))
    machine.step()
    prompts = [Asked(text(20, start=100 * number), room=2) for number in range(4)]
    machine.ask(*prompts)
    step = machine.step()
    assert sum(part.stop - part.start for part in step.prefill) == 80


def test_who_lacks_pixels_does_not_hold_up_others():
    machine = Machine(100)
    lacking, ready = Asked([b"d", b"f", 1], loaded=False), Asked([b"a", 2, 3])
    machine.ask(lacking, ready)
    step = machine.step()
    assert step.missing == [(lacking.request, 0)]
    assert ready.finished
    lacking.load(0, 1)
    step = machine.step()
    assert step.frames == [FrameSpan(lacking.request, 0, 1)] and step.missing == [(lacking.request, 1)]
    lacking.load(1, 2)
    machine.run()
    assert lacking.finished


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
)


@given(SETTINGS)
@settings(max_examples=10 * settings.default.max_examples)
def test_whatever_happens_every_row_reads_its_own_history_and_every_request_ends(setting: Setting):
    Trace(setting).run()


def test_a_large_frame_that_is_begun_is_finished_before_the_next_one_begins():
    machine = Machine(200, vision_patches=24, mixed_vision_patches=4)
    older, newer = Asked([b"f", 1], loaded=False), Asked([b"f", 2])
    machine.ask(older, newer)
    machine.step()
    older.load(0, 1)
    machine.step()
    assert newer.request.partly and not older.request.partly
    machine.run()
    assert older.finished and newer.finished
