"""What is drawn is what was described."""

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
from mossvl.synthetic.glyphs import GLYPHS

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


def test_a_clip_has_its_frames_at_their_times(tmp_path):
    clip = Clip([Track(Thing("square", "red"), since=1.0, until=2.0)], 3.0, GREY)
    write_clip(clip, tmp_path / "clip.mp4", 64, 96, rate=8)
    with open_clip(tmp_path / "clip.mp4") as opened:
        middles = [frame[32, 48] for frame in opened.read(range(24))]
        assert opened.duration == pytest.approx(3.0) and opened.average_fps == pytest.approx(8)
    reds = [int(middle[0]) - int(middle[1]) > 100 for middle in middles]
    assert reds == [False] * 8 + [True] * 8 + [False] * 8
    with pytest.raises(ValueError, match="must be even"):
        write_clip(clip, tmp_path / "odd.mp4", 63, 96)
