"""Answers are what the frames show that are looked at: read from the clips' tracks, frame by frame."""

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mossvl.processing.sampling import frame_count, frame_indices
from mossvl.synthetic import COLOURS, KINDS, clips
from mossvl.synthetic.clips import TASKS
from mossvl.synthetic.world import Split, World

WORLDS = st.builds(World, st.sampled_from(list(Split)), st.integers(0, 2**40), st.sampled_from([0.75, 1.0, 1.5]))
NAME = re.compile(rf"\b({'|'.join(COLOURS)}) ({'|'.join(KINDS)})\b")
FIGURES = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5}


class Shown:
    """A sample of a task: its only question, and the frames of its clip."""

    def __init__(self, task, world):
        sample = TASKS[task](world)
        (self.clip,), (turn,) = sample.media, sample.turns
        assert turn.task == task
        self.question, self.answer = turn.question, turn.answer
        self.asked = NAME.findall(self.question)
        self.times = self.clip.sampled(sample.video_fps)
        self.frames = [self.clip.at(time).things for time in self.times]

    def one(self, pair, frame):
        """The thing of a colour and a kind in a frame, or None."""
        found = [thing for thing in self.frames[frame] if (thing.colour, thing.kind) == pair]
        assert len(found) < 2
        return found[0] if found else None

    def there(self, pair):
        return [self.one(pair, frame) is not None for frame in range(len(self.frames))]

    def changes(self, pair, to):
        """The frames in which a thing comes (to=True) or goes."""
        there = self.there(pair)
        return [i for i in range(1, len(there)) if there[i] == to != there[i - 1]]

    def goes(self, pair, how):
        """The frames in which a thing is gone: it vanishes, or is there in another colour ("change")."""
        of_kind = [sum(thing.kind == pair[1] for thing in things) for things in self.frames]
        return [i for i in self.changes(pair, False) if (of_kind[i] < of_kind[i - 1]) == (how == "vanish")]

    def time(self, frame):
        return f"{self.times[frame]:.1f} seconds"

    def nearest(self, aspect):
        """Distance of the two things asked about in each frame, in sums of their radii."""
        width, height = max(aspect, 1), max(1 / aspect, 1)
        pairs = [[self.one(pair, frame) for pair in self.asked] for frame in range(len(self.frames))]
        return [
            ((a.x - b.x) ** 2 * width**2 + (a.y - b.y) ** 2 * height**2) ** 0.5 / (a.radius + b.radius)
            for a, b in pairs
        ]


@given(WORLDS, st.sampled_from(sorted(TASKS)))
def test_few_frames_are_looked_at_and_they_are_those_of_a_file(world, task):
    sample = TASKS[task](world)
    (clip,) = sample.media
    total, times = clip.num_frames, clip.sampled(sample.video_fps)
    indices = frame_indices(total, frame_count(total, total / clip.rate, sample.video_fps, 1, 256))
    assert times == tuple(index / clip.rate for index in indices) and 4 <= len(times) <= 16
    assert len({f"{time:.1f}" for time in times}) == len(times) and 8 <= clip.rate <= 30


@given(WORLDS)
def test_the_order_of_appearing(world):
    shown = Shown("order", world)
    (one,), (other,) = (shown.changes(pair, True) for pair in shown.asked)
    early, late = shown.asked if one < other else shown.asked[::-1]
    assert NAME.findall(shown.answer) == [early if re.search("first|earlier", shown.question) else late]


@given(WORLDS)
def test_the_time_of_an_event(world):
    shown = Shown("when", world)
    (what,) = re.findall("appear|collide|vanish|change", shown.question)
    if what == "appear":
        frames = shown.changes(shown.asked[0], True)
    elif what == "collide":
        distances = shown.nearest(world.aspect)
        frames = [next(i for i, distance in enumerate(distances) if distance < 0.9)]
        assert min(distances[: frames[0]]) > 1
    else:
        frames = shown.goes(shown.asked[0], what)
    if re.search("never|at no time", shown.answer, re.IGNORECASE):
        assert not frames
    else:
        (frame,) = frames
        assert shown.time(frame) in shown.answer


def test_some_are_asked_about_that_never_happen():
    answers = [Shown("when", World(Split.TRAIN, seed)).answer for seed in range(400)]
    assert 20 < sum(bool(re.search("never|no time", answer)) for answer in answers) < 60


def test_what_changes_its_colour_is_not_said_never_to_vanish():
    changing = 0
    for seed in range(300):
        world = World(Split.TRAIN, seed)
        clip = clips.story(world, clips.becomes)
        asked = clips._never(world, clip)
        changed = [f"the {seen.name} " for seen in clip.things if seen.recolours]
        changing += bool(changed)
        assert asked is None or "vanish" not in asked.what or f"{asked.whom} " not in changed
    assert changing > 200


@given(WORLDS)
def test_the_way_a_thing_goes(world):
    shown = Shown("direction", world)
    things = [shown.one(shown.asked[0], frame) for frame in range(len(shown.frames))]
    dx, dy = things[-1].x - things[0].x, things[-1].y - things[0].y
    ways = {"right": dx, "left": -dx, "down": dy, "up": -dy}
    assert max(ways, key=ways.get) in shown.answer and max(ways.values()) > 0.3
    assert len({(thing.x, thing.y) for thing in things}) >= 3


@given(WORLDS)
def test_what_a_thing_does(world):
    shown = Shown("doing", world)
    (pair,) = shown.asked
    things = [thing for frame in range(len(shown.frames)) if (thing := shown.one(pair, frame))]
    moved, turned = ({getter(thing) for thing in things} for getter in (lambda t: (t.x, t.y), lambda t: t.angle))
    seen = {
        "appears": bool(shown.changes(pair, True)),
        "moves": len(moved) > 1,
        "turns": len(turned) > 1,
        "vanishes": bool(shown.goes(pair, "vanish")),
        "changes": bool(shown.goes(pair, "change")),
    }
    assert [verb for verb, so in seen.items() if so] == [verb for verb in seen if verb in shown.answer]
    assert any(seen.values()) != ("stays still" in shown.answer)


@given(WORLDS)
def test_how_often_and_how_long_a_thing_is_there(world):
    shown = Shown("times", world)
    count = len(shown.changes(shown.asked[0], True))
    assert shown.answer == str(count) or FIGURES[shown.answer.split()[2]] == count
    shown = Shown("how_long", world)
    there = shown.there(shown.asked[0])
    start, end = there.index(True), len(there) - there[::-1].index(True)
    assert all(there[start:end])
    length = float(shown.time(end).split()[0]) - float(shown.time(start).split()[0])
    assert f"{length:.1f} seconds" in shown.answer


@given(WORLDS)
def test_what_is_next(world):
    shown = Shown("after", world)
    (asked,), ((colour, kind),) = shown.asked, NAME.findall(shown.answer)
    (begin,) = shown.changes(asked, True)
    pairs = [{(thing.colour, thing.kind) for thing in things} for things in shown.frames]
    end = next(i for i in range(begin + 1, len(pairs)) if pairs[i] != pairs[i - 1])
    assert pairs[begin] ^ pairs[begin - 1] == {asked} and (colour, kind) in pairs[end] ^ pairs[end - 1]
    assert ("vanishes" in shown.answer) == (len(pairs[end]) < len(pairs[end - 1]))
    assert ("changes" in shown.answer) == (len(pairs[end]) == len(pairs[end - 1]))


@given(WORLDS)
def test_whether_things_collide(world):
    shown = Shown("collide", world)
    nearest = min(shown.nearest(world.aspect))
    assert (nearest < 0.85) == (shown.answer == "yes") and not 0.85 < nearest < 1.05


@given(WORLDS)
def test_the_colour_that_a_thing_takes(world):
    shown = Shown("becomes", world)
    (colour, kind), *_ = shown.asked
    (frame,) = shown.changes((colour, kind), False)
    (new,) = re.findall("|".join(COLOURS), shown.answer)
    assert shown.changes((new, kind), True) == [frame]


@given(WORLDS)
def test_what_there_is(world):
    shown = Shown("what_at", world)
    frame = [f" {shown.time(i)}" in shown.question for i in range(len(shown.times))].index(True)
    from_left = sorted(shown.frames[frame], key=lambda thing: thing.x)
    assert NAME.findall(shown.answer) == [(thing.colour, thing.kind) for thing in from_left]
    shown = Shown("there_clip", world)
    assert shown.answer == ("yes" if any(shown.there(shown.asked[0])) else "no")
    shown = Shown("count_clip", world)
    count = len({(thing.colour, thing.kind) for things in shown.frames for thing in things})
    assert shown.answer == str(count) or FIGURES[shown.answer.split()[2]] == count


@given(WORLDS)
def test_descriptions_tell_every_change_at_its_time(world):
    shown = Shown("describe_clip", world)
    told = dict(re.findall(r"At (\S+ seconds) ([^.]*)\.", shown.answer))
    pairs = [{(thing.colour, thing.kind) for thing in things} for things in shown.frames]
    assert set(NAME.findall(told.pop("0.0 seconds"))) == pairs[0]
    changed = {shown.time(i): pairs[i] ^ pairs[i - 1] for i in range(1, len(pairs)) if pairs[i] != pairs[i - 1]}
    assert set(told) - set(changed) == {time for time, event in told.items() if "collide" in event}
    for time, difference in changed.items():
        assert set(NAME.findall(told[time])) <= difference
        assert ("becomes" in told[time]) == (len(difference) == 2)


@pytest.mark.parametrize(("task", "least"), [("when", 40), ("direction", 8), ("doing", 9), ("times", 8), ("order", 60)])
def test_answers_are_of_many_kinds(task, least):
    answers = Counter(Shown(task, World(Split.TRAIN, seed)).answer for seed in range(400))
    assert len(answers) >= least and max(answers.values()) < 0.3 * 400


def test_yes_and_no_are_equally_likely():
    for task in ("collide", "there_clip"):
        answers = Counter(Shown(task, World(Split.TRAIN, seed)).answer for seed in range(400))
        assert set(answers) == {"yes", "no"} and min(answers.values()) > 120
