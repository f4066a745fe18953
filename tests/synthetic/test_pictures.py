"""Answers are what the scenes show."""

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mossvl.synthetic import KINDS, pictures
from mossvl.synthetic.pictures import TASKS, place
from mossvl.synthetic.wording import asked
from mossvl.synthetic.world import Split, World, split_of

WORLDS = st.builds(World, st.sampled_from(list(Split)), st.integers(0, 2**40), st.sampled_from([0.75, 1.0, 1.5]))


def ask(task, world):
    sample = TASKS[task](world)
    (scene,), (turn,) = sample.media, sample.turns
    assert turn.task == task
    return scene.things, turn.question, turn.answer


@given(WORLDS)
def test_descriptions_name_all_things_from_the_left(world):
    things, _, answer = ask("describe", world)
    named = [(thing.colour, thing.kind) for thing in sorted(things, key=lambda thing: thing.x)]
    assert re.findall(r"(\w+) (\w+)(?:,|\.| and)", answer) == named
    assert answer.count("large") == sum(thing.size == "large" for thing in things)
    assert answer.count("striped") == sum(thing.texture == "striped" for thing in things)


@given(WORLDS)
def test_the_only_thing_of_a_colour_or_a_shape_is_named(world):
    things, question, answer = ask("what", world)
    (fitting,) = [thing for thing in things if thing.colour in question]
    assert fitting.kind in answer.lower()
    things, question, answer = ask("colour", world)
    (fitting,) = [thing for thing in things if re.search(rf"\b{thing.kind}\b", question)]
    assert fitting.colour in answer.lower()


@given(WORLDS)
def test_places_are_where_things_are(world):
    things, question, answer = ask("where", world)
    (fitting,) = [thing for thing in things if f"{thing.colour} {thing.kind}" in question]
    assert place(fitting) in answer.lower()
    assert ("left" in answer.lower()) == (fitting.x < 1 / 3) and ("bottom" in answer.lower()) == (fitting.y > 2 / 3)


@given(WORLDS)
def test_the_outermost_thing_is_named(world):
    things, question, answer = ask("which", world)
    side = next(side for side in ("left", "right", "top", "bottom") if side in question)
    axis, sign = {"left": ("x", 1), "right": ("x", -1), "top": ("y", 1), "bottom": ("y", -1)}[side]
    outermost = min(things, key=lambda thing: sign * getattr(thing, axis))
    assert f"{outermost.colour} {outermost.kind}" in answer.lower()


@given(WORLDS)
def test_things_are_counted(world):
    things, question, answer = ask("count", world)
    asked = re.search(r"(?:many|the) (\w+)(?: things)?", question)[1]
    kinds = Counter(thing.kind for thing in things) + Counter(thing.colour for thing in things)
    found = kinds.get(asked, 0) or kinds.get(asked.removesuffix("s"), 0) or kinds.get(asked.removesuffix("es"), 0)
    words = ("no", "one", "two", "three", "four", "five")
    assert answer == str(found) or f" {words[found]} " in answer


@given(WORLDS)
def test_words_are_read(world):
    things, _, answer = ask("read", world)
    (word,) = [thing.word for thing in things if thing.kind == "word"]
    assert word in answer


@given(WORLDS)
def test_beside_writing_only_shapes_are_counted_and_no_thing_is_called_nearest(world):
    scene = pictures.written(world)
    for _ in range(20):
        turn = pictures.count(world, scene)
        assert turn is None or "word" not in turn.question
        assert pictures.which(world, scene) is None


@given(WORLDS)
def test_writing_is_described_by_what_it_says(world):
    scene, turn = asked(world, pictures.written, pictures.describe)
    told = re.findall(rf"the text ([A-Z0-9]+)|({'|'.join(KINDS)})\b", turn.answer, re.IGNORECASE)
    in_order = sorted(scene.things, key=lambda thing: thing.x)
    assert [word or kind for word, kind in told] == [thing.word or thing.kind for thing in in_order]


@given(WORLDS)
def test_yes_and_no(world):
    things, question, answer = ask("there", world)
    shown = any(f"{thing.colour} {thing.kind}" in question for thing in things)
    assert answer == ("yes" if shown else "no")


@pytest.mark.parametrize("task", ["what", "colour", "where", "which", "there"])
def test_what_is_asked_about_belongs_to_the_split(task):
    for split in Split:
        for seed in range(20):
            things, _, _ = ask(task, World(split, seed))
            assert split_of(things[0].colour, things[0].kind) == split


def test_answers_are_of_many_kinds():
    for task, least in (("there", 2), ("count", 6), ("where", 9), ("what", 10), ("colour", 10)):
        answers = Counter(ask(task, World(Split.TRAIN, seed))[2] for seed in range(400))
        assert len(answers) >= least and max(answers.values()) < 0.65 * 400
