"""What holds for the samples of every task, and what only several media or several questions have."""

import re
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mossvl.processing.prompt import IMAGE, PLACEHOLDER, VIDEO
from mossvl.synthetic import COLOURS, KINDS, Clip, Scene
from mossvl.synthetic.tasks import TASKS
from mossvl.synthetic.world import SHOWN, Split, World, extent, split_of

SPLITS, SEEDS = st.sampled_from(list(Split)), st.integers(0, 2**40)
NAME = re.compile(rf"\b({'|'.join(COLOURS)}) ({'|'.join(KINDS)})\b")


def scenes(sample):
    """Every picture, and every frame of a file."""
    for medium in sample.media:
        if isinstance(medium, Scene):
            yield medium
        else:
            yield from (medium.at(number / medium.rate) for number in range(medium.num_frames))


def pairs(scene):
    return {(thing.colour, thing.kind) for thing in scene.things if not thing.word}


@pytest.mark.parametrize("task", TASKS)
def test_a_seed_gives_the_same_sample(task):
    first, again, other = (TASKS[task](World(Split.TRAIN, seed)) for seed in (1, 1, 2))
    assert first == again != other


@given(st.sampled_from(sorted(TASKS)), SPLITS, SEEDS, st.sampled_from([0.75, 1.0, 1.5]))
def test_no_pair_of_another_split_is_shown_and_things_stay_inside(task, split, seed, aspect):
    world = World(split, seed, aspect)
    sample = TASKS[task](world)
    for scene in scenes(sample):
        assert pairs(scene) <= set(SHOWN[split])
        for thing in scene.things:
            across, down = extent(thing)
            assert across <= thing.x * world.width <= world.width - across
            assert down <= thing.y * world.height <= world.height - down


@given(st.sampled_from(sorted(TASKS)), st.sampled_from([Split.VALIDATION, Split.TEST]), SEEDS)
def test_what_questions_name_and_media_show_is_of_the_split(task, split, seed):
    sample = TASKS[task](World(split, seed))
    shown = set().union(*(pairs(scene) for scene in scenes(sample)))
    named = {pair for turn in sample.turns for pair in NAME.findall(turn.question)}
    assert all(split_of(*pair) == split for pair in named & shown)


def test_training_never_shows_what_others_ask_about():
    held_out = {pair for split in (Split.VALIDATION, Split.TEST) for pair in SHOWN[split]} - set(SHOWN[Split.TRAIN])
    assert len(held_out) == 20
    for task, make in TASKS.items():
        for seed in range(20):
            sample = make(World(Split.TRAIN, seed))
            assert not held_out & set().union(*(pairs(scene) for scene in scenes(sample))), task


def test_a_question_decides_the_form_of_its_answer():
    forms = defaultdict(set)
    for make in TASKS.values():
        for seed in range(150):
            for turn in make(World(Split.TRAIN, seed)).turns:
                question = re.sub(r"\d\S*|\b(?:an|a|it|the)\b", "", turn.question)
                question = re.sub(rf"\b(?:{'|'.join([*COLOURS, *KINDS])})(?:e?s)?\b", "…", question)
                verbs = "There is|There are|It|They|At|In|For|I see|The|An?|Nothing"
                # What is written may look like the beginning of a sentence: A.
                start = turn.answer != "A" and re.match(rf"(?:{verbs})\b", turn.answer)
                forms[re.sub(r"[…\s]+", " ", question)].add((turn.answer.endswith("."), bool(start)))
    assert not {question: found for question, found in forms.items() if len(found) > 1}


@given(st.sampled_from(sorted(TASKS)), SEEDS)
def test_placeholders_are_those_of_the_media(task, seed):
    sample = TASKS[task](World(Split.TRAIN, seed))
    media = [VIDEO if isinstance(medium, Clip) else IMAGE for medium in sample.media]
    assert [one for turn in sample.turns for one in PLACEHOLDER.findall(turn.question)] in ([], media)
    assert all(len(medium.sampled(sample.video_fps)) <= 16 for medium in sample.media if isinstance(medium, Clip))


def asked(task, world):
    sample = TASKS[task](world)
    return sample, sample.turns[0].question, sample.turns[0].answer


@given(SPLITS, SEEDS)
def test_pictures_are_told_apart(split, seed):
    world = World(split, seed)
    for task, words in (("compare", ("first", "second")), ("which_picture", ("1", "2", "3", "4"))):
        sample, question, answer = asked(task, world)
        fitting = [NAME.findall(question)[0] in pairs(scene) for scene in sample.media]
        assert fitting.count(True) == 1 and words[fitting.index(True)] in answer
    sample, _, answer = asked("difference", world)
    (before,), (after,) = (pairs(one) - pairs(other) for one, other in (sample.media, sample.media[::-1]))
    words = [(set(one) - set(other)).pop() for one, other in ((before, after), (after, before))]
    assert re.search(rf"{words[0]} in the first picture and .*{words[1]} in the second", answer)


@given(SPLITS, SEEDS)
def test_clips_are_told_apart(split, seed):
    world = World(split, seed)
    sample, question, answer = asked("which_clip", world)
    (pair,) = NAME.findall(question)
    chosen = sample.media["second" in answer]
    does = []
    for clip in sample.media:
        frames = [clip.at(time).things for time in clip.sampled(sample.video_fps)]
        things = [[thing for thing in frame if (thing.colour, thing.kind) == pair] for frame in frames]
        of_kind = [sum(thing.kind == pair[1] for thing in frame) for frame in frames]
        places = {(thing.x, thing.y) for one in things for thing in one}
        does.append(
            {
                "appear": not things[0],
                "vanish": not things[-1] and of_kind[-1] < of_kind[0],
                "change": not things[-1] and of_kind[-1] == of_kind[0],
                "move": len(places) > 1,
            }[re.search("appear|vanish|change|move", question)[0]]
        )
    assert does == [clip is chosen for clip in sample.media]


@given(SPLITS, SEEDS)
def test_a_picture_is_found_in_a_clip(split, seed):
    sample, _, answer = asked("matching", World(split, seed))
    picture, clip = sample.media
    times = clip.sampled(sample.video_fps)
    there = [pairs(picture) <= pairs(clip.at(time)) for time in times]
    assert answer == ("yes" if any(there) else "no")
    if len(sample.turns) > 1:
        assert f"{times[there.index(True)]:.1f} seconds" in sample.turns[1].answer


@given(st.sampled_from(["about_picture", "about_clip"]), SPLITS, SEEDS)
def test_conversations_have_different_questions_and_it_is_what_was_named_before(task, split, seed):
    turns = TASKS[task](World(split, seed)).turns
    assert 2 <= len(turns) <= 6 and len({turn.question for turn in turns}) == len(turns)
    name = re.compile(rf"\b(?:(?:(?:{'|'.join(COLOURS)}) )?(?:{'|'.join(KINDS)})\b|text [A-Z0-9]+)")
    named = set()
    for turn in turns:
        if re.search(r"\bit\b", turn.question) and "What does it say" not in turn.question:
            assert len(named) == 1
        else:
            named = set(name.findall(f"{turn.question} {turn.answer}"))


def test_descriptions_come_first_in_two_of_five_conversations_that_have_one():
    first = []
    for seed in range(1000):
        turns = [turn.task for turn in TASKS["conversation"](World(Split.TRAIN, seed)).turns]
        described = [index for index, task in enumerate(turns) if task.startswith("describe")]
        if described:
            (index,) = described
            assert index in (0, len(turns) - 1)
            first.append(index == 0)
    assert 0.3 < sum(first) / len(first) < 0.5 and len(first) > 300
