"""The other drawing path draws what scenes describe, and its questions are about what it shows."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mossvl.media.video import open_clip
from mossvl.synthetic import KINDS, Scene, Thing, render
from mossvl.synthetic.palettes import COLOURS, PALETTES
from mossvl.tiny.shifts import SHIFTS, interval, table, written
from mossvl.tiny.sketches import GROUNDS, Style, sketch

BY_NAME = {shift.name: shift for shift in SHIFTS}


def inked(picture, colour="red", palette="mossvl"):
    return (np.abs(np.asarray(picture).astype(int) - PALETTES[palette][colour]) < 6).all(-1)


def media(query):
    parts = [part for part in query["messages"][0]["content"] if isinstance(part, dict)]
    return [part[part["type"]] for part in parts]


@pytest.mark.parametrize("kind", KINDS)
def test_usual_sketches_have_the_shapes_of_the_world(kind):
    scene = Scene([Thing(kind, "red", 0.3, x=0.4, y=0.55)])
    drawn = inked(sketch(scene, Style(), 128, 160, 1))
    world = (np.abs(render([scene], 128, 160)[0].numpy().astype(int) - COLOURS["red"]) < 6).all(-1)
    assert (drawn & world).sum() / (drawn | world).sum() > 0.85


@pytest.mark.parametrize("kind", KINDS)
def test_outlines_are_empty_borders_are_black_and_other_kinds_differ(kind):
    scene = Scene([Thing(kind, "red", 0.35)])
    filled, outline, border = (sketch(scene, Style(stroke=stroke), 128, 128, 1) for stroke in ("", "outline", "border"))
    assert 0.05 < inked(outline).sum() / inked(filled).sum() < 0.75
    assert inked(border).sum() < inked(filled).sum()
    assert (np.asarray(border).max(-1) < 20).sum() > 300 > (np.asarray(filled).max(-1) < 20).sum()
    stretched = inked(sketch(scene, Style(stretch=1.5), 128, 128, 1))
    height, width = (np.ptp(axis) for axis in stretched.nonzero())
    assert height != pytest.approx(width, rel=0.1) or kind == "diamond"


def test_turns_palettes_and_other_hearts_are_drawn():
    heart = Scene([Thing("heart", "red", 0.35)])
    usual = inked(sketch(heart, Style(), 128, 128, 1))
    assert (inked(sketch(heart, Style(other=True), 128, 128, 1)) != usual).sum() > 100
    assert (inked(sketch(heart, Style(turned=(15, 30)), 128, 128, 1)) != usual).sum() > 200
    assert inked(sketch(heart, Style(PALETTES["css"]), 128, 128, 1), palette="css")[64, 64]


@pytest.mark.parametrize("ground", GROUNDS)
def test_backgrounds_are_of_their_seed(ground):
    first, again, other = (np.asarray(sketch(Scene([]), Style(ground=ground), 48, 64, seed)) for seed in (1, 1, 2))
    assert first.shape == (48, 64, 3) and (first == again).all() and (first != other).any()


@pytest.mark.parametrize("shift", [shift for shift in SHIFTS if "frames" not in shift.name], ids=lambda one: one.name)
def test_every_shift_has_files_and_one_question(shift, tmp_path):
    query, turn = written(shift, 1, tmp_path)
    (medium,) = media(query)
    path = Path(medium["video_path"] if isinstance(medium, dict) else medium)
    assert path.exists() and turn.question and turn.answer
    if path.suffix == ".png":
        with Image.open(path) as picture:
            assert picture.width / picture.height == pytest.approx(shift.aspect, rel=0.03)


def test_long_clips_have_many_frames_and_parts_begin_later(tmp_path):
    query, _ = written(BY_NAME["40–60 frames"], 3, tmp_path)
    (path,) = media(query)
    with open_clip(path) as clip:
        assert 39 < clip.duration * query["media_kwargs"]["video_fps"] <= 60
    parts = []
    for seed in range(4):
        query, _ = written(BY_NAME["a part that begins later"], seed, tmp_path)
        parts += media(query)
    assert any(isinstance(part, dict) and part["segments"][0][0] > 0 for part in parts)


def test_intervals_are_wilsons():
    assert interval(95, 100) == pytest.approx((0.8882, 0.9785), abs=1e-4)
    assert interval(0, 100) == pytest.approx((0.0, 0.0370), abs=1e-4)


def test_the_table_says_what_is_reached_and_counts_doubt_where_there_is_something():
    one = {"right": 90, "answers": 100, "doubting": 3, "runaways": 0}
    lines = list(table({"upper case": one, "nothing moves": {**one, "doubting": 90}}))
    assert lines[2] == "| upper case | 100 | 90.0 % | 82.6 % … 94.5 % | 98 % |"
    assert lines[-2].startswith("| doubt where there is something (at most) | 100 | 3.0 % |")
    assert lines[-1].startswith("| no end (at most) | 200 | 0.0 % |")
