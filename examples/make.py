"""Draws the example files beside this script, `clip.mp4`, `shapes.png` and `sign.png`, in mossvl-tiny's world.

Run `./run python examples/make.py`; the same versions of PyTorch, PyAV and Pillow give the same bytes.

The clip lasts 6 seconds. A red circle moves from the left to the right during all of it; a blue star is there from
second 2 up to, and without, second 4. `shapes.png` shows a green pentagon, a striped orange square and a
small pink ring; `sign.png` a word and a star.
"""

from pathlib import Path

from mossvl.synthetic import Background, Clip, Scene, Thing, Track, write_clip, write_picture

HERE = Path(__file__).parent
HEIGHT, WIDTH = 240, 320
SECONDS = 6.04  # 151 frames: those that are looked at are a second apart
PAPER = Background("gradient", (225, 218, 203), (196, 190, 182), angle=0.25)

CLIP = Clip(
    [
        Track(Thing("circle", "red", x=0.2, y=0.72), path=[(0.0, 0.2, 0.72), (6.0, 0.8, 0.72)]),
        Track(Thing("star", "blue", x=0.64, y=0.28), since=2.0, until=4.0),
    ],
    SECONDS,
    PAPER,
    rate=25,
)
SHAPES = Scene(
    [
        Thing("pentagon", "green", x=0.22, y=0.3),
        Thing("square", "orange", texture="striped", x=0.76, y=0.3),
        Thing("ring", "pink", size="small", x=0.5, y=0.76),
    ],
    PAPER,
)
SIGN = Scene([Thing("word", "black", word="MOSS", x=0.42, y=0.66), Thing("star", "yellow", x=0.78, y=0.26)], PAPER)

if __name__ == "__main__":
    write_clip(CLIP, HERE / "clip.mp4", HEIGHT, WIDTH)
    write_picture(SHAPES, HERE / "shapes.png", HEIGHT, WIDTH)
    write_picture(SIGN, HERE / "sign.png", HEIGHT, WIDTH)
