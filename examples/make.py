"""Draws the two example files beside this script, `clip.mp4` and `shapes.png`, in the world that mossvl-tiny knows.

Run `./run python examples/make.py`; the same versions of PyTorch, PyAV and Pillow give the same bytes.

The clip lasts 6 seconds. A red circle moves from the left to the right during all of it; a blue star is there from
second 2 up to, and without, second 4. The picture shows a green pentagon, an orange square and a word.
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
PICTURE = Scene(
    [
        Thing("pentagon", "green", x=0.22, y=0.3),
        Thing("square", "orange", texture="striped", x=0.76, y=0.3),
        Thing("word", "black", word="MOSS", x=0.5, y=0.78),
    ],
    PAPER,
)

if __name__ == "__main__":
    write_clip(CLIP, HERE / "clip.mp4", HEIGHT, WIDTH)
    write_picture(PICTURE, HERE / "shapes.png", HEIGHT, WIDTH)
