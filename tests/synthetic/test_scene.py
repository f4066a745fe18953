"""What there is at a time, and what cannot be described."""

import pytest

from mossvl.synthetic import Background, Clip, Thing, Track

STAR = Thing("star", "red", x=0.2, y=0.3)


def test_a_track_is_there_from_its_beginning_up_to_its_end():
    track = Track(STAR, since=1.0, until=2.0)
    assert [track.at(time) is not None for time in (0.99, 1.0, 1.99, 2.0)] == [False, True, True, False]


def test_things_move_and_turn_in_straight_lines_and_then_stay():
    track = Track(STAR, path=[(1, 0.2, 0.3), (3, 0.6, 0.3), (4, 0.6, 0.9)], turns=[(0, 0.0), (2, 0.5)])
    places = [(track.at(time).x, track.at(time).y, track.at(time).angle) for time in (0, 2, 3.5, 9)]
    expected = [(0.2, 0.3, 0.0), (0.4, 0.3, 0.5), (0.6, 0.6, 0.5), (0.6, 0.9, 0.5)]
    assert [pytest.approx(place) for place in expected] == places


def test_colours_change_at_their_times():
    track = Track(STAR, colours=[(1.0, "blue"), (2.0, "green")])
    assert [track.at(time).colour for time in (0, 1, 1.5, 2)] == ["red", "blue", "blue", "green"]


def test_a_clip_shows_what_is_there_in_the_order_of_its_tracks():
    clip = Clip([Track(STAR, until=1), Track(Thing("square", "blue")), Track(Thing("ring", "pink"), since=1)], 2.0)
    assert [thing.kind for thing in clip.at(0).things] == ["star", "square"]
    assert [thing.kind for thing in clip.at(1).things] == ["square", "ring"]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ({"kind": "blob", "colour": "red"}, "'blob' is none of circle"),
        ({"kind": "star", "colour": "teal"}, "'teal' is none of red"),
        ({"kind": "star", "colour": "red", "size": "huge"}, "'huge' is none of small"),
        ({"kind": "star", "colour": "red", "texture": "rough"}, "'rough' is none of plain"),
        ({"kind": "star", "colour": "red", "word": "A"}, "words have the kind 'word'"),
        ({"kind": "word", "colour": "red"}, "words have the kind 'word'"),
        ({"kind": "word", "colour": "red", "word": "TOOLONG"}, "cannot be written"),
        ({"kind": "word", "colour": "red", "word": "a"}, "cannot be written"),
    ],
)
def test_what_cannot_be_drawn_is_refused(names, words):
    with pytest.raises(ValueError, match=words):
        Thing(**names)


def test_what_would_never_be_there_is_refused():
    with pytest.raises(ValueError, match="must be before"):
        Track(STAR, since=2.0, until=2.0)
    with pytest.raises(ValueError, match="must be above 0"):
        Clip([], 0.0)


def test_an_unknown_background_is_refused():
    with pytest.raises(ValueError, match="'starry' is none of plain"):
        Background("starry")
