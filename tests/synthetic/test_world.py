"""Random scenes are drawable, seeds give the same ones, and splits share nothing that is asked about."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mossvl.synthetic import COLOURS, KINDS, render
from mossvl.synthetic.world import CONTRAST, PAIRS, Split, World, apart, extent, split_of, split_of_word

SPLITS = list(Split)


def test_every_colour_and_every_kind_is_in_every_split_but_no_pair_in_two():
    for split, count in ((Split.TRAIN, 8), (Split.VALIDATION, 1), (Split.TEST, 1)):
        for position, known in enumerate((COLOURS, KINDS)):
            assert Counter(pair[position] for pair in PAIRS[split]) == dict.fromkeys(known, count)
    assert sum(map(len, PAIRS.values())) == len({pair for pairs in PAIRS.values() for pair in pairs}) == 100


@given(st.sampled_from(SPLITS), st.integers(0, 2**40), st.integers(0, 4), st.sampled_from([0.6, 1.0, 1.6]))
def test_things_are_within_the_picture_and_apart_and_stand_out(split, seed, count, aspect):
    scene = World(split, seed, aspect).scene(count)
    width, height = max(aspect, 1), max(1 / aspect, 1)
    assert len({(thing.colour, thing.kind) for thing in scene.things}) == len(scene.things) == count
    for thing in scene.things:
        half_width, half_height = extent(thing)
        assert half_width < thing.x * width < width - half_width
        assert half_height < thing.y * height < height - half_height
        for colour in (scene.background.first, scene.background.second):
            assert np.linalg.norm(np.subtract(COLOURS[thing.colour], colour)) >= CONTRAST
    assert all(apart(one, other, width, height) for one, other in combinations(scene.things, 2))


@given(st.sampled_from(SPLITS), st.integers(0, 2**40))
def test_subjects_are_of_the_split_and_the_others_of_the_training(split, seed):
    splits = [split_of(thing.colour, thing.kind) for thing in World(split, seed).scene(4, subjects=2).things]
    assert splits == [split, split, Split.TRAIN, Split.TRAIN]


def test_a_seed_gives_the_same_world_and_another_one_another():
    first, again, other = (World(Split.TRAIN, seed).scene(3) for seed in (1, 1, 2))
    assert first == again != other
    assert World(Split.TEST, 1).word() != World(Split.TRAIN, 1).word()


@pytest.mark.parametrize("split", SPLITS)
def test_words_are_as_often_short_and_long_in_every_split(split):
    lengths = Counter(len(World(split, seed).word()) for seed in range(400))
    assert set(lengths) == {1, 2, 3, 4} and min(lengths.values()) > 60


@given(st.sampled_from(SPLITS), st.integers(0, 2**40))
def test_words_are_of_their_split(split, seed):
    word = World(split, seed).word()
    assert len(word) == 1 or split_of_word(word) == split
    assert 1 <= len(word) <= 4 and (word.isdigit() or word.isalpha())


@pytest.mark.parametrize("split", SPLITS)
def test_what_is_drawn_shows_the_colours(split):
    world = World(split, 5)
    scenes = [world.scene(3) for _ in range(8)]
    for scene, picture in zip(scenes, render(scenes, 160, 160).numpy(), strict=True):
        for thing in scene.things:
            shown = np.clip(np.add(COLOURS[thing.colour], thing.shade), 0, 255)
            assert (picture == shown).all(-1).sum() > 30


def test_shades_leave_colours_apart():
    shades = [World(Split.TRAIN, seed).shade() for seed in range(300)]
    assert len(set(shades)) > 200
    furthest = max(np.linalg.norm(shade) for shade in shades)
    between = min(np.linalg.norm(np.subtract(one, other)) for one, other in combinations(COLOURS.values(), 2))
    assert furthest < between / 1.5


@pytest.mark.parametrize("crowd", [[(0.4, 0.4)] * 4, [(0.45, 0.1)] * 6, [(2.0, 0.3)] * 2])
def test_things_without_room_overlap(crowd):
    places = World(Split.TRAIN, 3).layout(crowd)
    assert len(places) == len(crowd) and all(abs(number) < 3 for place in places for number in place)


def test_things_with_room_do_not_overlap():
    world = World(Split.TRAIN, 3, 2.0)
    boxes = [(0.3, 0.2), (0.2, 0.25), (0.25, 0.3)]
    for _ in range(50):
        for (one, (x, y)), (other, (other_x, other_y)) in combinations(zip(boxes, world.layout(boxes), strict=True), 2):
            assert abs(x - other_x) > one[0] + other[0] or abs(y - other_y) > one[1] + other[1]
