"""What is computed once for all that begin alike; see `machine` for what is checked in every step of every test."""

import pytest

from .asked import PICTURES, Asked, Item
from .machine import Machine
from .measures import everything_is_free, frames_of, rows_of, text


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
    items = [first.token(row) for row in range(first.request.context.length)]
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
    copies = [copy for step in machine.steps for copy in step.copies]
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
