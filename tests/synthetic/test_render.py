"""What is drawn is what was described."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from mossvl.media.video import open_clip
from mossvl.synthetic import (
    BACKGROUNDS,
    COLOURS,
    KINDS,
    SIZES,
    TEXTURES,
    Background,
    Clip,
    Scene,
    Thing,
    Track,
    render,
    write_clip,
    write_picture,
)
from mossvl.synthetic.drawing import Drawing, drawing
from mossvl.synthetic.film import filmed
from mossvl.synthetic.glyphs import GLYPHS
from mossvl.synthetic.points import whole
from mossvl.synthetic.render import draw
from mossvl.synthetic.shapes import distance

GREY = Background("plain", (128, 128, 128))


def covered(*things, side=128, colour="red"):
    """Which pixels have the colour, (side, side) bool."""
    picture = render([Scene(things, GREY)], side, side)[0]
    return (picture == torch.tensor(COLOURS[colour])).all(-1)


def centre(mask):
    rows, columns = mask.nonzero().float().mul(1 / mask.shape[0]).mean(0).tolist()
    return columns, rows


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_lie_around_their_place_within_their_radius(kind):
    thing = Thing(kind, "red", x=0.4, y=0.6)
    mask = covered(thing)
    x, y = centre(mask)
    assert abs(x - 0.4) < 0.1 and abs(y - 0.6) < 0.1
    rows, columns = mask.nonzero().add(0.5).div(128).unbind(1)
    distances = torch.hypot(columns - 0.4, rows - 0.6)
    assert 0.75 * thing.radius < distances.max() < 1.15 * thing.radius
    small = covered(Thing(kind, "red", size="small", x=0.4, y=0.6), side=256)
    large = covered(thing, side=256)
    assert large.sum() / small.sum() == pytest.approx((SIZES["large"] / SIZES["small"]) ** 2, rel=0.2)


def box(x, y, half_width, half_height):
    return torch.maximum(x.abs() - half_width, y.abs() - half_height)


@pytest.mark.parametrize(
    ("kind", "expected"),
    {
        "circle": lambda x, y: x.hypot(y) - 0.95,
        "square": lambda x, y: box(x, y, 0.8, 0.8),
        "triangle": lambda x, y: torch.maximum(y, 3**0.5 / 2 * x.abs() - y / 2) - 0.5,
        "cross": lambda x, y: torch.minimum(box(x, y, 0.95, 0.33), box(x, y, 0.33, 0.95)),
        "ring": lambda x, y: (x.hypot(y) - 0.76).abs() - 0.22,
        "heart": lambda x, y: torch.minimum(
            (x.abs() - 0.4).hypot(y + 0.32) - 0.8 / 2**0.5, (x.abs() + (y - 0.08).abs() - 0.8) / 2**0.5
        ),
        "crescent": lambda x, y: torch.maximum(x.hypot(y) - 0.98, 0.78 - (x - 0.5).hypot(y)),
        "diamond": lambda x, y: (x.abs() + 0.62 * y.abs() - 0.62) / (1 + 0.62**2) ** 0.5,
    }.items(),
)
def test_distances_are_those_of_the_shape(kind, expected):
    y, x = torch.meshgrid(*2 * [torch.linspace(-1.5, 1.5, 61)], indexing="ij")
    found = distance(torch.tensor(KINDS[kind].numbers())[:, None, None], x, y)
    torch.testing.assert_close(found, expected(x, y), rtol=0, atol=2e-6)


def test_edges_are_smooth():
    """A square whose right side, at 0.5 + 0.8 · 0.18, is 0.216 into pixel 82 of 128."""
    row = render([Scene([Thing("square", "red", x=0.5)], GREY)], 128, 128)[0, 64]
    red, grey = torch.tensor(COLOURS["red"]), torch.tensor([128, 128, 128])
    assert torch.equal(row[81].int(), red) and torch.equal(row[83].int(), grey)
    part = 128 * (0.5 + 0.8 * SIZES["large"]) - 82
    torch.testing.assert_close(row[82].float(), grey + part * (red - grey), rtol=0, atol=0.51)


def test_no_two_shapes_look_alike():
    masks = {kind: covered(Thing(kind, "red")) for kind in KINDS}
    for kind, mask in masks.items():
        for other, others in masks.items():
            common = (mask & others).sum() / (mask | others).sum()
            assert kind == other or common < 0.93, (kind, other)


def test_a_turn_is_clockwise():
    upright, turned = (covered(Thing("triangle", "red", angle=angle)) for angle in (0, 0.25))
    assert (upright.rot90(-1) & turned).sum() / (upright | turned).sum() > 0.4
    assert (upright.rot90(-1) ^ turned).sum() < 0.05 * turned.sum()


def test_later_things_lie_over_earlier_ones():
    below, above = Thing("square", "blue"), Thing("circle", "red", size="small")
    assert covered(below, above)[64, 64] and not covered(above, below).any()


def test_textures_mark_a_thing_and_leave_most_of_its_colour():
    for colour in ("red", "black"):
        plain = covered(Thing("square", colour), colour=colour).sum()
        for texture in TEXTURES[1:]:
            left = covered(Thing("square", colour, texture=texture), colour=colour).sum() / plain
            assert 0.4 < left < 0.85


@pytest.mark.parametrize("character", GLYPHS)
def test_characters_are_drawn_dot_by_dot(character):
    mask = covered(Thing("word", "red", word=character), side=512)
    dot = 0.16 * SIZES["large"] * 512
    for row, line in enumerate(GLYPHS[character]):
        for column, on in enumerate(line):
            y, x = 256 + (row + 0.5 - 3.5) * dot, 256 + (column + 0.5 - 2.5) * dot
            assert mask[int(y), int(x)] == on


def test_words_are_read_from_the_left():
    """The word IL: an upright stroke in the middle of the left half, a stroke at the left of the right one."""
    mask = covered(Thing("word", "red", word="IL"), side=256)
    middle = mask[128]
    strokes = middle.nonzero().flatten()
    dot = 0.16 * SIZES["large"] * 256
    assert strokes.min() == pytest.approx(128 - 3.5 * dot, abs=1.5)
    assert strokes.max() == pytest.approx(128 + 1.5 * dot, abs=1.5)


def random_scene(generator):
    def one(values):
        return list(values)[generator.integers(len(values))]

    things = [
        Thing(one(KINDS), one(COLOURS), one(SIZES), one(TEXTURES), *generator.random(3))
        for _ in range(generator.integers(4))
    ]
    if generator.random() < 0.5:
        things.append(Thing("word", one(COLOURS), word="".join(one(GLYPHS) for _ in range(3))))
    first, second = generator.integers(0, 255, (2, 3)).tolist()
    return Scene(things, Background(one(BACKGROUNDS), tuple(first), tuple(second), generator.random(), 7))


def test_scenes_are_drawn_together_as_alone():
    scenes = [random_scene(np.random.default_rng(seed)) for seed in range(24)]
    together = render(scenes, 48, 64)
    assert together.shape == (24, 48, 64, 3) and together.dtype == torch.uint8
    for scene, picture in zip(scenes, together, strict=True):
        assert torch.equal(render([scene], 48, 64)[0], picture)


def test_drawings_are_padded_pickled_joined_and_cut():
    scenes = [random_scene(np.random.default_rng(seed)) for seed in range(12)]
    expected = render(scenes, 48, 64)
    halves = [pickle.loads(pickle.dumps(drawing(half, layers=6))) for half in (scenes[:5], scenes[5:])]
    joined = Drawing.join(halves)
    assert len(joined) == 12 and joined.layers == 6
    assert torch.equal(draw(joined, whole(48, 64, "cpu")), expected)
    assert torch.equal(draw(joined[3:7], whole(48, 64, "cpu")), expected[3:7])
    chosen = torch.tensor([4, 4, 11, 0])
    assert torch.equal(draw(joined.taken(chosen), whole(48, 64, "cpu")), expected[chosen])
    assert torch.equal(draw(drawing([Scene([])] * 2, layers=3), whole(8, 8, "cpu")), render([Scene([])] * 2, 8, 8))
    assert render([], 48, 64).shape == (0, 48, 64, 3)
    with pytest.raises(ValueError, match="room for 1"):
        drawing([Scene([Thing("circle", "red"), Thing("square", "blue")])], layers=1)


@pytest.mark.gpu
def test_a_gpu_draws_what_a_cpu_draws():
    scenes = [random_scene(np.random.default_rng(seed)) for seed in range(64)]
    there, here = render(scenes, 96, 128, "cuda").cpu().int(), render(scenes, 96, 128).int()
    differing = ((there - here).abs() > 1).any(-1).float().mean()
    assert differing < 1e-3  # pixels on the edge of a dot or a stripe


def test_a_picture_is_written_as_it_is_drawn(tmp_path):
    scene = random_scene(np.random.default_rng(3))
    write_picture(scene, tmp_path / "scene.png", 60, 80)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "scene.png")), render([scene], 60, 80)[0].numpy())


def test_filmed_pictures_look_like_those_of_a_file(tmp_path):
    scene = random_scene(np.random.default_rng(8))
    drifting = [Track(thing, path=[(0, thing.x, thing.y), (1, 0.5, 0.5)]) for thing in scene.things]
    clip = Clip(drifting, 1.0, scene.background)
    write_clip(clip, tmp_path / "clip.mp4", 96, 128)
    with open_clip(tmp_path / "clip.mp4") as opened:
        decoded = torch.from_numpy(np.stack(list(opened.read(range(12))))).int()
    drawn = render([clip.at(number / 12) for number in range(12)], 96, 128)
    before, after = ((pictures - decoded).abs().float().mean() for pictures in (drawn.int(), filmed(drawn).int()))
    assert after < 1.5 and after < before / 2
    some = torch.arange(12) < 4
    assert torch.equal(filmed(drawn, some), torch.cat([filmed(drawn[:4]), drawn[4:]]))


def test_a_clip_has_its_frames_at_their_times(tmp_path):
    clip = Clip([Track(Thing("square", "red"), since=1.0, until=2.0)], 3.0, GREY, rate=8)
    write_clip(clip, tmp_path / "clip.mp4", 64, 96)
    with open_clip(tmp_path / "clip.mp4") as opened:
        middles = [frame[32, 48] for frame in opened.read(range(24))]
        assert opened.duration == pytest.approx(3.0) and opened.average_fps == pytest.approx(8)
    reds = [int(middle[0]) - int(middle[1]) > 100 for middle in middles]
    assert reds == [False] * 8 + [True] * 8 + [False] * 8
    with pytest.raises(ValueError, match="must be even"):
        write_clip(clip, tmp_path / "odd.mp4", 63, 96)
