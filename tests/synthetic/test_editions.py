"""The second edition adds looks, wordings, styles, doubt and tasks; the first gives the samples it always gave."""

import hashlib
import json
import re
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mossvl.processing.prompt import PLACEHOLDER
from mossvl.synthetic import KINDS, Clip, Scene, Thing, lettering, render, unknown
from mossvl.synthetic.drawing import drawing
from mossvl.synthetic.editions import FIRST, SECOND
from mossvl.synthetic.palettes import COLOURS
from mossvl.synthetic.scene import Look
from mossvl.synthetic.schemas import SCHEMAS
from mossvl.synthetic.shapes import VARIANTS
from mossvl.synthetic.tasks import TASKS, tasks_of
from mossvl.synthetic.wording import _tables, wordings
from mossvl.synthetic.world import SHOWN, Split, World, extent, split_of_word

SPLITS, SEEDS = st.sampled_from(list(Split)), st.integers(0, 2**40)
ASPECTS = st.sampled_from([1 / 3, 0.75, 1.0, 16 / 9, 3.0])
NEW = tasks_of(SECOND)
NAME = re.compile(rf"\b({'|'.join(COLOURS)}) ({'|'.join(KINDS)})\b", re.IGNORECASE)


def scenes(sample):
    for medium in sample.media:
        if isinstance(medium, Scene):
            yield medium
        else:
            yield from (medium.at(time) for time in medium.sampled(sample.video_fps))


def pairs(sample):
    return {(thing.colour, thing.kind) for scene in scenes(sample) for thing in scene.things if not thing.word}


def test_the_first_edition_gives_what_its_weights_were_trained_on():
    digest = hashlib.sha256()
    for task, make in TASKS.items():
        for seed in range(6):
            for turn in make(World(Split.TRAIN, seed, 4 / 3)).turns:
                digest.update(f"{task} {turn.question} {turn.answer}\n".encode())
    assert digest.hexdigest()[:16] == "f221dc0562b8eb69"


def test_the_second_edition_has_all_tasks_of_the_first():
    assert tasks_of(FIRST) == TASKS and set(TASKS) < set(NEW)


@given(st.sampled_from(sorted(NEW)), SPLITS, SEEDS, ASPECTS)
def test_no_pair_of_another_split_is_shown_things_stay_inside_and_media_are_placed(task, split, seed, aspect):
    world = World(split, seed, aspect, SECOND)
    sample = NEW[task](world)
    assert pairs(sample) <= set(SHOWN[split])
    for scene in scenes(sample):
        drawing([scene], 8)
        for thing in scene.things:
            across, down = extent(thing)
            assert across <= thing.x * world.width <= world.width - across
            assert down <= thing.y * world.height <= world.height - down
    placed = sum(len(PLACEHOLDER.findall(turn.question)) for turn in sample.turns)
    assert placed in (0, len(sample.media))


@given(st.sampled_from(sorted(NEW)), SEEDS, st.integers(4, 64))
def test_clips_have_as_many_frames_as_are_allowed(task, seed, most):
    sample = NEW[task](World(Split.TRAIN, seed, 1.0, SECOND, most))
    for medium in sample.media:
        if isinstance(medium, Clip):
            times = medium.sampled(sample.video_fps)
            assert 1 <= len(times) <= most and len({f"{time:.1f}" for time in times}) == len(times)
            start, end = medium.part or (0, medium.seconds)
            assert times[0] == start and times[-1] < end


def test_some_clips_are_long_and_some_begin_later():
    samples = [NEW["when"](World(Split.TRAIN, seed, 1.0, SECOND)) for seed in range(200)]
    frames = [len(sample.media[0].sampled(sample.video_fps)) for sample in samples]
    assert max(frames) > 40 and min(frames) < 8
    assert 15 < sum(sample.media[0].part is not None for sample in samples) < 80


@pytest.mark.parametrize("table", sorted(set(_tables()) - {"matching when", "unknown photograph"}))
def test_each_task_has_fifteen_wordings_and_others_that_training_never_uses(table):
    known, held_out = ({wording.question for wording in wordings(table, split)} for split in ("more", "test"))
    assert len(known) >= 15 and held_out and not known & held_out


def test_questions_of_the_splits_share_no_wording():
    asked = {split: set() for split in Split}
    for split in Split:
        for seed in range(300):
            for turn in NEW["where"](World(split, seed, 1.0, SECOND)).turns:
                words = re.sub(r"\W+", " ", turn.question.lower()).strip()
                asked[split].add(re.sub(rf"\b({'|'.join([*COLOURS, *KINDS, 'thing'])})\b", "", words))
    assert not asked[Split.TRAIN] & asked[Split.TEST]


@given(SPLITS, SEEDS)
def test_what_is_said_to_be_absent_is_absent_and_nothing_else_is(split, seed):
    for task in ("where", "looks", "colour", "doing", "direction", "becomes"):
        sample = NEW[task](World(split, seed, 1.0, SECOND))
        (turn,) = sample.turns
        shown = pairs(sample)
        if turn.answer.startswith("There is no "):
            *colour, kind = turn.answer.removeprefix("There is no ").rstrip(".").split()
            assert not {pair for pair in shown if pair[1] == kind and (not colour or pair[0] == colour[0])}
        elif named := NAME.findall(turn.question):
            assert (named[0][0].lower(), named[0][1].lower()) in shown


def test_every_doubt_is_rare_and_each_has_its_sentence():
    for task, words in (
        ("read", "Nothing is written there."),
        ("direction", "It does not move."),
        ("becomes", "It does not change its colour."),
        ("compare", "In neither of them."),
        ("difference", "There is no difference."),
        ("after", "Nothing happens after that."),
    ):
        answers = Counter(NEW[task](World(Split.TRAIN, seed, 1.0, SECOND)).turns[0].answer for seed in range(300))
        assert 8 <= answers[words] <= 75, task


@given(SPLITS, SEEDS)
def test_json_answers_fit_their_schemas_and_tell_what_is_shown(split, seed):
    for task, schema in SCHEMAS.items():
        sample = NEW[task](World(split, seed, 1.0, SECOND))
        (turn,) = sample.turns
        answer = json.loads(turn.answer)
        assert list(answer) == schema["required"]
        if task == "json_describe":
            things = sorted(next(scenes(sample)).things, key=lambda thing: thing.x)
            assert answer["things"] == [{"colour": thing.colour, "kind": thing.kind} for thing in things]
        if task == "json_read":
            words = [thing.word for thing in next(scenes(sample)).things if thing.word]
            assert answer["text"] == (words[0] if words else None)
        if task == "json_when" and answer["seconds"] is not None:
            times = sample.media[0].sampled(sample.video_fps)
            assert answer["seconds"] in [round(time, 1) for time in times]


@given(SPLITS, SEEDS)
def test_what_is_not_known_is_told_in_one_sentence(split, seed):
    for task in ("unknown", "photographed"):
        sample = NEW[task](World(split, seed, 1.0, SECOND))
        assert [turn.answer for turn in sample.turns] == [unknown.KNOWS]
    assert split_of_word(unknown.noun(World(split, seed))) == split


def test_other_forms_of_an_answer_are_known():
    turn = next(
        turn
        for seed in range(20)
        for turn in TASKS["what"](World(Split.TRAIN, seed)).turns
        if turn.answer.startswith("It is")
    )
    kind = turn.answer.split()[-1].rstrip(".")
    assert kind in turn.also


# --- looks -------------------------------------------------------------------------------------------------------


def drawn(**look):
    scene = Scene([Thing("circle", "red", 0.3, look=Look(**look))])
    return render([scene], 128, 128)[0].int()


def red(picture):
    return (picture - torch.tensor(COLOURS["red"])).abs().sum(-1) < 9


def test_an_outline_is_empty_inside_and_a_border_has_its_colour():
    full, hollow, bordered = drawn(), drawn(edge=0.1, hollow=True), drawn(edge=0.1, border=(0, 0, 0))
    assert red(full)[64, 64] and not red(hollow)[64, 64] and red(bordered)[64, 64]
    left = int(64 - 0.95 * 0.3 * 128) + 2
    assert red(full)[64, left] and red(hollow)[64, left] and bordered[64, left].sum() < 30
    assert 0.1 < red(hollow).sum() / red(full).sum() < 0.3


@pytest.mark.parametrize(("stretch", "flat"), [(0.5, True), (2.0, False)])
def test_a_stretched_thing_keeps_its_longer_side(stretch, flat):
    rows, columns = red(drawn(stretch=stretch)).nonzero().unbind(1)
    height, width = (int(axis.max() - axis.min()) for axis in (rows, columns))
    assert (height < width) == flat and max(height, width) == pytest.approx(0.57 * 128, abs=4)
    assert min(height, width) / max(height, width) == pytest.approx(0.5, abs=0.06)


def test_no_two_variants_look_alike():
    things = [
        Thing(kind, "red", 0.4, look=Look(variant=variant))
        for kind, shapes in VARIANTS.items()
        for variant in range(len(shapes))
    ]
    masks = [red(picture.int()) for picture in render([Scene([thing]) for thing in things], 96, 96)]
    for number, mask in enumerate(masks):
        assert mask.sum() > 200
        assert all((mask != other).sum() > 20 for other in masks[:number])


@pytest.mark.parametrize("font", lettering.fonts())
def test_words_in_a_font_are_drawn_within_their_extent(font):
    thing = Thing("word", "red", 0.2, word="Hi9", look=Look(font=font))
    ink = red(render([Scene([thing])], 256, 256)[0].int())
    rows, columns = ink.nonzero().unbind(1)
    across, down = extent(thing)
    assert 128 - 256 * across - 6 < columns.min() and columns.max() < 128 + 256 * across + 6
    assert columns.max() - columns.min() > 1.5 * 256 * across
    assert 128 - 256 * down < rows.min() and rows.max() < 128 + 256 * down
    assert rows.max() - rows.min() == pytest.approx(1.12 * 0.2 * 256, rel=0.15)


@pytest.mark.parametrize(
    ("look", "words"),
    [
        ({"palette": "neon"}, "'neon' is none of mossvl"),
        ({"stretch": 0.0}, "stretch=0.0 must be above 0"),
        ({"edge": 1.0}, "edge=1.0 at least 0 and below 1"),
        ({"hollow": True}, "a hollow thing needs an edge"),
    ],
)
def test_looks_that_cannot_be_drawn_are_refused(look, words):
    with pytest.raises(ValueError, match=words):
        Look(**look)


def test_words_that_a_font_cannot_write_are_refused():
    font = lettering.fonts()[0]
    for word, given_font, words in (("no!", font, "cannot be written"), ("word", "Papyrus", "is none of Liberation")):
        with pytest.raises(ValueError, match=words):
            Thing("word", "red", word=word, look=Look(font=given_font))
    two = [Thing("word", "red", word=word, look=Look(font=font)) for word in ("one", "two")]
    with pytest.raises(ValueError, match="a scene of 2 words in fonts, and room for one"):
        drawing([Scene(two)])


def test_a_part_of_a_clip_is_within_it():
    with pytest.raises(ValueError, match="must be within the clip's 4"):
        Clip([], 4.0, part=(2.0, 5.0))
    assert Clip([], 9.0, part=(6.0, 8.0)).sampled(1.0) == (6.0, 7.0)
