"""How many frames and rows a step computes, and whose; see `machine` for what is checked in every step here."""

import pytest

from mossvl.scheduling.step import FrameSpan, RowSpan

from .asked import Asked
from .machine import Machine
from .measures import text


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


@pytest.mark.parametrize(("generating", "prompts"), [(1, 1), (1, 30), (24, 3)])
def test_beside_decoding_the_bound_of_rows_holds_for_all_prompts_together(generating, prompts):
    machine = Machine(400, max_batch=64, prefill_tokens=100, mixed_prefill_tokens=2)
    machine.ask(*(Asked([number], room=20) for number in range(generating)))
    machine.step()
    machine.ask(*(Asked(text(4, start=1000 + 10 * number), room=2) for number in range(prompts)))
    step = machine.step()
    assert sum(part.stop - part.start for part in step.prefill) == 2


def test_beside_decoding_frames_and_rows_of_prompts_share_a_step():
    machine = Machine(400, max_batch=64)
    machine.ask(*(Asked([number], room=20) for number in range(24)))
    machine.step()
    words, *pictures = Asked(text(3, start=100)), Asked([b"a", 200]), Asked([b"b", 201])
    machine.ask(words, *pictures)
    step = machine.step()
    assert [part.request for part in step.prefill] == [one.request for one in (words, *pictures)]
    assert [part.request for part in step.frames] == [one.request for one in pictures] and len(step.decode) == 24


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
