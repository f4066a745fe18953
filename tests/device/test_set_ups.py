"""Set-ups of a GPU's libraries, done where nobody waits for a token meanwhile."""

import math
from types import SimpleNamespace

import pytest
import torch

from mossvl.device.set_ups import MOST_WAITS, SetUps
from mossvl.device.vision_graphs import OFTEN, VisionGraph, VisionGraphs


def test_what_is_set_up_stays_so():
    set_ups = SetUps()
    assert set_ups.has("a shape", 0.1)
    set_ups.spare = 0.0
    assert set_ups.has("a shape", 0.1) and not set_ups.has("another", 0.1)
    set_ups.spare = math.inf
    assert set_ups.has("another", 0.1)


def test_set_ups_take_no_more_than_there_is_to_spare():
    set_ups = SetUps()
    set_ups.spare = 0.25
    assert [set_ups.has(shape, 0.1) for shape in range(4)] == [True, True, False, False]
    set_ups.spare = 0.1
    assert [set_ups.has(shape, 0.1) for shape in range(4)] == [True, True, True, False]


def test_a_new_thread_begins_anew():
    set_ups = SetUps()
    set_ups.has("a shape", 0.1)
    set_ups.forget()
    set_ups.spare = 0.0
    assert not set_ups.has("a shape", 0.1)


def test_where_there_is_never_time_one_is_made_every_so_many_steps():
    set_ups, made = SetUps(), []
    for _ in range(2 * MOST_WAITS + 2):
        set_ups.begin_step(0.05)
        made.append([set_ups.has(shape, 0.1) for shape in ("a shape", "another") for _ in range(27)])
    first, second = made[MOST_WAITS], made[2 * MOST_WAITS + 1]
    assert not any(map(any, made[:MOST_WAITS]))
    assert first == [True] * 27 + [False] * 27 and second == [True] * 54


def test_steps_in_which_nothing_is_to_be_set_up_are_not_counted():
    set_ups = SetUps()
    for _ in range(MOST_WAITS + 1):
        set_ups.begin_step(0.0)
    assert not set_ups.has("a shape", 0.1)


# --- captured batches ------------------------------------------------------------------------------------------------

GRIDS = [(1, 2, 2)]


class Captures(VisionGraphs):
    """Graphs without a GPU: what is captured is told, and encoded as it was."""

    def __init__(self, set_ups):
        self.captured, self.often, self.fails = [], [], False
        super().__init__(self.encode, lambda often: often, set_ups)

    def encode(self, pixels, grids, often):
        self.often.append(often)
        if self.fails:
            raise torch.OutOfMemoryError("injected")
        return pixels

    def _capture(self, key, pixels):
        self.captured.append(self._warm.pop(key))
        return VisionGraph(SimpleNamespace(replay=lambda: None), pixels, True)

    def __call__(self, spare=math.inf):
        self._set_ups.begin_step(spare)
        return super().__call__(torch.ones(4, 3), GRIDS)


def test_a_batch_that_recurs_is_captured_once_its_libraries_are_set_up():
    graphs = Captures(SetUps())
    for _ in range(OFTEN + 2):
        graphs()
    assert graphs.often == [False] * OFTEN + [True]
    assert graphs.captured == [True]


def test_a_batch_that_recurs_where_somebody_always_waits_is_captured_after_a_while():
    graphs = Captures(SetUps())
    for _ in range(OFTEN + 2 * (MOST_WAITS + 1)):
        assert not graphs.captured
        graphs(0.05)
    assert graphs.captured


def test_a_batch_whose_encoding_has_failed_is_not_captured_next():
    graphs = Captures(SetUps())
    for _ in range(OFTEN):
        graphs()
    graphs.fails = True
    with pytest.raises(torch.OutOfMemoryError):
        graphs()
    graphs.fails = False
    graphs()
    assert not graphs.captured
    graphs()
    assert graphs.captured


def test_in_a_new_thread_libraries_are_set_up_before_a_capture():
    set_ups = SetUps()
    graphs = Captures(set_ups)
    for _ in range(OFTEN + 1):
        graphs()
    set_ups.forget()
    graphs()
    assert not graphs.captured and graphs.often[-1]
    graphs()
    assert graphs.captured
