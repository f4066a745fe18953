"""What runs when, and in whose pages; see `machine` for what is checked in every step of every test here."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mossvl.engine.scheduler import Frames, Rows

from .machine import PICTURES, Asked, Item, Machine
from .traces import Setting, Trace

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
)


@given(SETTINGS)
@settings(max_examples=10 * settings.default.max_examples)
def test_whatever_happens_every_row_reads_its_own_history_and_every_request_ends(setting: Setting):
    Trace(setting).run()


def text(count: int, start: int = 10) -> list[Item]:
    return list(range(start, start + count))


def rows_of(machine: Machine, asked: Asked) -> int:
    """Rows of a prompt that were computed."""
    parts = [part for plan in machine.plans for part in plan.prefill if part.request is asked.request]
    return sum(part.stop - part.start for part in parts)


def frames_of(machine: Machine, asked: Asked) -> int:
    parts = [part for plan in machine.plans for part in plan.frames if part.request is asked.request]
    return sum(part.stop - part.start for part in parts)


def everything_is_free(machine: Machine) -> bool:
    machine.cache.clear()
    return machine.cache.num_free == machine.cache.num_pages and not machine.scheduler._computing


# --- sharing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 4, 5, 8, 9, 30])
def test_ten_equal_prompts_at_once_are_computed_once(length):
    machine = Machine(200, groups=2)
    items = [*text(length - 1), b"f"]
    first, *others = asked = [Asked(items, room=3) for _ in range(10)]
    machine.ask(*asked)
    machine.run()
    assert rows_of(machine, first) == length
    shared = (length - 1) // 4 * 4
    assert [rows_of(machine, one) for one in others] == [length - shared] * 9
    assert [one.request.cached for one in asked] == [0] + [shared] * 9
    assert everything_is_free(machine)


def test_a_picture_in_a_kept_block_is_not_encoded_again():
    machine = Machine(50)
    first, second = Asked([b"f", *text(7)]), Asked([b"f", *text(7), b"d"])
    for asked in (first, second):
        machine.ask(asked)
        machine.run()
    assert [frames_of(machine, one) for one in (first, second)] == [1, 1]
    assert second.request.cached == 8


@pytest.mark.parametrize("length", [2, 4, 8, 12, 13])
def test_a_wholly_kept_prompt_computes_its_last_token(length):
    """There must be a row from which the answer is drawn."""
    machine = Machine(50)
    for _ in range(2):
        asked = Asked(text(length), room=2)
        machine.ask(asked)
        machine.run()
        assert asked.finished
    assert asked.request.cached == (length - 1) // 4 * 4


def test_equal_tokens_with_other_pixels_are_not_shared():
    machine = Machine(100)
    machine.ask(Asked([*text(5), b"a", *text(6)]))
    machine.run()
    other = Asked([*text(5), b"b", *text(6)])
    assert PICTURES[b"a"] == PICTURES[b"b"]
    machine.ask(other)
    machine.run()
    assert other.request.cached == 4


def test_a_block_whose_pixels_are_not_known_yet_is_not_found_and_kept_later():
    machine = Machine(100)
    items = [*text(5), b"a", *text(6)]
    unknown = [Asked(items, loaded=False, known=False) for _ in range(2)]
    for one in unknown:
        machine.ask(one)
        machine.run()
    assert [one.request.cached for one in unknown] == [0, 4]
    known = Asked(items)
    machine.ask(known)
    machine.run()
    assert known.request.cached == 8


def test_a_next_turn_finds_the_answer_of_the_last():
    machine = Machine(100)
    first = Asked([*text(3), b"d", *text(3)], room=6)
    machine.ask(first)
    machine.run()
    items = [first.token(row) for row in range(len(first.request.tokens))]
    second = Asked([*items, *text(4)])
    machine.ask(second)
    machine.run()
    assert second.request.cached == 12 and frames_of(machine, second) == 0


def test_a_page_shared_in_part_is_copied_before_it_is_written():
    """Two prompts begin with the same picture and go on with different ones, within one page."""
    machine = Machine(60)
    begin: list[Item] = [b"d", *text(3)]
    asked = [Asked([*begin, picture, *text(3)]) for picture in (b"d", b"a", b"b")]
    for one in asked:
        machine.ask(one)
        machine.run()
    copies = [copy for plan in machine.plans for copy in plan.copies]
    assert [request for request, _, _ in copies] == [asked[1].request, asked[2].request]
    assert copies[0][1] == copies[1][1]
    assert all(one.request.cached == 4 for one in asked[1:])


def test_without_keeping_nothing_is_shared_and_nobody_waits_for_another():
    machine = Machine(100, keep=False)
    asked = [Asked(text(12), room=2) for _ in range(4)]
    machine.ask(*asked)
    machine.step()
    assert machine.scheduler.running == [one.request for one in asked]
    machine.run()
    assert [rows_of(machine, one) for one in asked] == [12] * 4
    assert machine.cache.num_free == 100 and not machine.cache.blocks


def test_the_prompt_used_last_is_kept_longest_its_beginning_longest_of_all():
    machine = Machine(6)
    old, new = text(8, start=100), text(8, start=200)
    for items in (old, new):
        machine.ask(Asked([*items, 1]))
        machine.run()
    machine.ask(Asked(text(12, start=300)))  # Takes three pages: the free one and its two, and the end of the old.
    machine.run()
    found = []
    for items in (old, new):
        keys = Asked(items).request.keys(4)
        found.append(len(machine.cache.match(keys)))
    assert found == [1, 2]


# --- order -----------------------------------------------------------------------------------------------------------


def test_who_waits_for_anothers_prompt_lets_others_pass():
    machine = Machine(100, prefill_tokens=4)
    first, same, other = Asked(text(16), room=2), Asked(text(16), room=2), Asked(text(3, start=90), room=2)
    machine.ask(first, same, other)
    machine.step()
    assert machine.scheduler.running == [first.request, other.request]
    machine.run()
    assert same.request.cached == 12


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
    costs = [[part.stop - part.start for part in plan.frames] for plan in machine.plans if plan.frames]
    assert costs == [[1], [2], [1], [1]]


def test_no_more_frames_of_a_request_are_encoded_at_a_time_than_it_says():
    machine = Machine(100)
    asked = Asked([b"a"] * 7 + text(2))
    asked.request.vision_chunk = 3
    machine.ask(asked)
    machine.run()
    spans = [(part.start, part.stop) for plan in machine.plans for part in plan.frames]
    assert spans == [(0, 3), (3, 6), (6, 7)]


def test_encodings_that_are_kept_cost_nothing_and_need_no_pixels():
    machine = Machine(100, vision_patches=4)
    machine.encoded.update((b"d", b"f"))
    asked = Asked([b"d", b"f", b"d", 1], loaded=False)
    machine.ask(asked)
    plan = machine.step()
    assert plan.frames == [Frames(asked.request, 0, 3)] and not plan.missing
    assert plan.prefill == [Rows(asked.request, 0, 4, draws=True)]


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
    assert any(plan.frames for plan in machine.plans[-9:]) and any(plan.prefill for plan in machine.plans[-9:])


def test_many_new_prompts_are_not_held_back_for_the_few_that_generate():
    machine = Machine(400, mixed_prefill_tokens=1, prefill_tokens=100)
    machine.ask(Asked([1], room=20))
    machine.step()
    prompts = [Asked(text(20, start=100 * number), room=2) for number in range(4)]
    machine.ask(*prompts)
    plan = machine.step()
    assert sum(part.stop - part.start for part in plan.prefill) == 80


def test_who_lacks_pixels_does_not_hold_up_others():
    machine = Machine(100)
    lacking, ready = Asked([b"d", b"f", 1], loaded=False), Asked([b"a", 2, 3])
    machine.ask(lacking, ready)
    plan = machine.step()
    assert plan.missing == [(lacking.request, 0)]
    assert ready.finished
    lacking.load(0, 1)
    plan = machine.step()
    assert plan.frames == [Frames(lacking.request, 0, 1)] and plan.missing == [(lacking.request, 1)]
    lacking.load(1, 2)
    machine.run()
    assert lacking.finished


# --- pages -----------------------------------------------------------------------------------------------------------


@given(st.data())
def test_a_request_of_full_capacity_alone_is_admitted_and_finishes(data):
    pages, groups, size = (
        data.draw(st.integers(1, 20)),
        data.draw(st.integers(1, 3)),
        data.draw(st.sampled_from([1, 2, 4])),
    )
    machine = Machine(pages, groups, page_size=size, overlap=data.draw(st.booleans()))
    pictures = data.draw(st.lists(st.sampled_from(list(PICTURES)), max_size=3))
    vision = Asked([*pictures, 1]).request.prompt.num_vision
    capacity = machine.scheduler.capacity(vision)
    assert capacity * groups + vision <= pages * size or capacity == 0
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
    vision = Asked(items).request.prompt.num_vision
    machine = Machine(turns + -(-vision // 4) + -(-answer // 4), overlap=overlap)
    assert machine.scheduler.capacity(vision) == len(items) + -(-answer // 4) * 4
    for turn in range(1, turns):
        machine.ask(Asked(items[: 4 * turn]))
        machine.run()
    last = Asked(items, room=machine.scheduler.capacity(vision) - len(items))
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
    assert any(plan.copies for plan in machine.plans) and machine.scheduler.preemptions > 0
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
    assert machine.scheduler.idle and everything_is_free(machine)
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
    assert machine.scheduler.idle
    again = Asked(items, room=3)
    machine.ask(again)
    machine.run()
    assert again.finished and again.request.cached == 4 and everything_is_free(machine)
