"""Set-ups of a GPU's libraries, done where nobody waits for a token meanwhile."""

import math

from mossvl.device.set_ups import SetUps


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
