"""Sample clips that the web page offers for mossvl-tiny, with questions about them.

`python -m mossvl.server.samples` draws the files again; the same versions of PyTorch and PyAV give the same bytes.
"""

from pathlib import Path
from typing import TypedDict

FOLDER = Path(__file__).parent / "page" / "samples"
HEIGHT, WIDTH = 360, 480
RATE = 25


class Sample(TypedDict):
    """A sample clip: its title, its file in `FOLDER`, and questions that mossvl-tiny answers correctly."""

    name: str
    file: str
    questions: list[str]


SAMPLES: list[Sample] = [
    {
        "name": "A star comes and goes",
        "file": "star.mp4",
        "questions": [
            "When does the blue star appear?",
            "How long is the blue star there?",
            "Which way does the red circle move?",
            "Describe the clip.",
        ],
    },
    {
        "name": "Two shapes meet",
        "file": "meeting.mp4",
        "questions": [
            "Do the green square and the orange triangle collide?",
            "When do the green square and the orange triangle collide?",
            "What happens in the clip?",
        ],
    },
    {
        "name": "A heart changes",
        "file": "heart.mp4",
        "questions": [
            "Which colour does the pink heart become?",
            "When does the pink heart change its colour?",
            "How often does the black cross appear?",
            "What is there at 2.0 seconds?",
        ],
    },
]


def draw() -> None:
    """Write the files of all samples."""
    from mossvl.synthetic import Background, Clip, Thing, Track, write_clip

    def second(number: int) -> float:
        """Return a time just before a sampled frame, so that this frame is the first to show a change."""
        return number - 0.3

    star = Clip(
        [
            Track(Thing("circle", "red", x=0.2, y=0.72), path=[(0.0, 0.2, 0.72), (6.0, 0.8, 0.72)]),
            Track(Thing("star", "blue", x=0.64, y=0.28), since=second(2), until=second(4)),
        ],
        seconds=6.04,
        background=Background("gradient", (233, 226, 211), (205, 199, 190), angle=0.25),
        rate=RATE,
    )
    meeting = Clip(
        [
            Track(Thing("square", "green", "small"), path=[(0.0, 0.2, 0.5), (3.0, 0.455, 0.5), (6.0, 0.2, 0.5)]),
            Track(Thing("triangle", "orange", "small"), path=[(0.0, 0.8, 0.5), (3.0, 0.545, 0.5), (6.0, 0.8, 0.5)]),
        ],
        seconds=6.04,
        background=Background("gradient", (206, 216, 228), (232, 232, 238), angle=0.1),
        rate=RATE,
    )
    cross = Thing("cross", "black", x=0.74, y=0.36)
    heart = Clip(
        [
            Track(Thing("heart", "pink", x=0.3, y=0.6), colours=[(second(4), "yellow")]),
            Track(cross, since=second(2), until=second(3)),
            Track(cross, since=second(5), until=second(7)),
        ],
        seconds=8.04,
        background=Background("gradient", (126, 138, 150), (96, 108, 124), angle=0.2),
        rate=RATE,
    )
    FOLDER.mkdir(exist_ok=True)
    for sample, clip in zip(SAMPLES, (star, meeting, heart), strict=True):
        write_clip(clip, FOLDER / sample["file"], HEIGHT, WIDTH)


if __name__ == "__main__":
    draw()
