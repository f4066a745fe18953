"""Intervals of scores."""

import pytest

from mossvl.evaluation.report.measures import Measure, bootstrap, in_percent, interval, wilson


def test_wilsons_interval_is_that_of_the_tables():
    assert wilson(0.5, 10) == pytest.approx((23.66, 76.34), abs=0.01)
    assert wilson(0.0, 10) == pytest.approx((0, 27.75), abs=0.01)
    assert wilson(1.0, 10) == pytest.approx((72.25, 100), abs=0.01)


def test_the_interval_of_all_right_or_all_wrong_ends_at_the_score_itself():
    for n in range(1, 3000):
        assert wilson(1.0, n)[1] == 100 and wilson(0.0, n)[0] == 0


def test_resampling_gives_the_same_interval_again():
    values = [0.1, 0.9, 0.4] * 30
    assert bootstrap(values) == bootstrap(values)


def test_of_a_score_alone_nothing_is_made_up():
    assert interval(Measure("lmms-eval", "t", "m", 50.0, None, "f")) is None
    assert interval(Measure("lmms-eval", "t", "m", 1234.0, 10, "f")) is None
    assert in_percent(68.1, ()) == (68.1, ()) and in_percent(0.681, ())[0] == pytest.approx(68.1)
