"""A dataclass says with its fields how they are checked; what is refused is told with its name and its bounds."""

import math
from dataclasses import dataclass
from typing import Annotated

import pytest

from mossvl.errors import OptionError
from mossvl.options import EngineConfig, MediaOptions, SamplingParams
from mossvl.options.checks import Choice, Count, CountFrom0, Number, Positive, Switch, check_each, check_options, whole


@dataclass(frozen=True)
class Options:
    count: Count = 1
    rest: CountFrom0 = 0
    share: Annotated[float, Number(above=0, most=1)] = 1.0
    seconds: Positive | None = None
    wanted: Switch = False
    kind: Annotated[str, Choice(("big", "small"))] | None = None
    free: object = None

    def __post_init__(self):
        check_options(self)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"count": 0}, "count=0 must be at least 1"),
        ({"count": None}, "count=None must be a finite number"),
        ({"count": True}, "count=True must be a finite number"),
        ({"count": 1.5}, "count=1.5 must be a whole number"),
        ({"count": "2"}, "count='2' must be a number, not a text"),
        ({"rest": -1}, "rest=-1 must be at least 0"),
        ({"share": 0}, "share=0 must be more than 0 and at most 1"),
        ({"share": 1.01}, "share=1.01 must be more than 0 and at most 1"),
        ({"seconds": math.inf}, "seconds=inf must be a finite number"),
        ({"seconds": 0}, "seconds=0 must be more than 0"),
        ({"wanted": 1}, "wanted=1 must be true or false"),
        ({"kind": "huge"}, "kind='huge' must be 'big' or 'small'"),
    ],
)
def test_what_is_out_of_range_is_refused_with_its_name(given, message):
    with pytest.raises(OptionError) as refused:
        Options(**given)
    assert str(refused.value) == message


def test_values_are_kept_as_what_they_are_declared_and_none_where_it_may_be():
    made = Options(count=2.0, share=1, seconds=3, kind="big", free=[])
    assert (made.count, made.share, made.seconds) == (2, 1.0, 3.0)
    assert [type(one) for one in (made.count, made.share, made.seconds)] == [int, float, float]
    assert Options().seconds is None and Options().kind is None and Options(free=0).free == 0


def test_a_subclass_is_checked_by_its_own_fields_and_those_it_has():
    @dataclass(frozen=True)
    class More(Options):
        rest: Count = 5

    with pytest.raises(OptionError, match="rest=0 must be at least 1"):
        More(rest=0)
    with pytest.raises(OptionError, match="count=0"):
        More(count=0)


def test_a_table_of_checks_names_the_part():
    with pytest.raises(OptionError, match="vision: width=0 must be at least 1"):
        check_each(type("Part", (), {"width": 0}), {"width": whole}, "vision: ")


@pytest.mark.parametrize("cls", [EngineConfig, MediaOptions, SamplingParams])
def test_every_number_of_the_options_is_checked(cls):
    numbers = [name for name, kind in cls.__annotations__.items() if any(one in str(kind) for one in ("int", "float"))]
    assert len(numbers) > 5
    for name in numbers:
        with pytest.raises(OptionError, match=name):
            cls(**{name: math.nan})
