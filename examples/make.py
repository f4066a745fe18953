"""Draws the two example files beside this script: `clip.mp4` and `shapes.png`.

Run `./run python examples/make.py`; the same versions of PyAV and Pillow give the same bytes.

The clip lasts 6 seconds. A red circle moves from the left to the right during all of it; a blue square is there from
second 2 up to, and without, second 4. The picture shows a green triangle, an orange circle, a purple square and a word.
"""

from fractions import Fraction
from pathlib import Path

import av
from PIL import Image, ImageDraw, ImageFont

HERE = Path(__file__).parent
WIDTH, HEIGHT = 320, 240
FPS, SECONDS = 25, 6
SCALE = 4  # drawn this many times larger, then reduced: smooth edges

PAPER, SHADE, INK = "#f4efe4", "#dcd3c0", "#3b3a4a"
RED, BLUE, GREEN, ORANGE, PURPLE = "#d7263d", "#1b5fc1", "#2e9e5b", "#f2902b", "#7b4fa3"


def canvas() -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """An empty enlarged picture with a floor, and the pen for it."""
    image = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), PAPER)
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 200 * SCALE, WIDTH * SCALE, HEIGHT * SCALE), fill=SHADE)
    return image, pen


def box(x: float, y: float, half: float) -> tuple[float, float, float, float]:
    """The enlarged square around (x, y), `half` pixels to each side."""
    return (x - half) * SCALE, (y - half) * SCALE, (x + half) * SCALE, (y + half) * SCALE


def reduced(image: Image.Image) -> Image.Image:
    return image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)


def clip_frame(index: int) -> Image.Image:
    image, pen = canvas()
    if 2 * FPS <= index < 4 * FPS:
        pen.rectangle(box(WIDTH / 2, 68, 34), fill=BLUE)
    progress = index / (FPS * SECONDS - 1)
    pen.ellipse(box(36 + progress * (WIDTH - 72), 172, 28), fill=RED)
    return reduced(image)


def write_clip(path: Path) -> None:
    with av.open(str(path), "w", options={"movflags": "+faststart", "fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "23", "flags": "+bitexact"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.thread_count = 1
        for index in range(FPS * SECONDS):
            frame = av.VideoFrame.from_image(clip_frame(index))
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def write_picture(path: Path) -> None:
    image, pen = canvas()
    pen.polygon([(x * SCALE, y * SCALE) for x, y in ((66, 48), (24, 124), (108, 124))], fill=GREEN)
    pen.ellipse(box(160, 86, 40), fill=ORANGE)
    pen.rectangle(box(256, 86, 38), fill=PURPLE)
    font = ImageFont.load_default(size=44 * SCALE)
    pen.text((WIDTH / 2 * SCALE, 170 * SCALE), "MOSS", fill=INK, font=font, anchor="mm")
    reduced(image).save(path, optimize=True)


if __name__ == "__main__":
    write_clip(HERE / "clip.mp4")
    write_picture(HERE / "shapes.png")
