"""Editions of the world: what it shows and how it asks, as settings of one generator.

mossvl-tiny's weights were trained on the first edition. The second adds looks, sizes, wordings and doubt; whatever an
edition leaves out costs no draw, so that a seed gives the same samples for ever.
"""

from dataclasses import dataclass
from math import sqrt

from mossvl.synthetic.palettes import PALETTES
from mossvl.synthetic.scene import BACKGROUNDS

Size = tuple[int, int]
"""Height and width of pictures in pixels."""


@dataclass(frozen=True)
class Edition:
    """What a world shows and asks; the defaults are the first edition.

    Attributes:
        palettes: palettes of things, one for each picture; a single one is not drawn.
        backgrounds: patterns of backgrounds.
        vivid: probability of a background in vivid colours rather than muted ones.
        radii: smallest and largest radius of a thing, relative to the shorter side; None for the two named sizes.
        turned: largest angle of a thing at rest, in turns; crescents may also be mirrored.
        stretched: least ratio of a thing's shorter and longer axis.
        variants: whether kinds have variants, such as stars of four to eight corners.
        stroked: probability of an outline without filling, and likewise of a border.
        lettered: probability that writing is in a font rather than in dots.
        frames: least and largest number of sampled frames of a clip.
        begun: probability that a clip is seen from a later time than its start.
        most: largest number of things of one kind or colour that are counted; of all things, two more.
        paraphrased: whether questions have all wordings, or those of the first edition.
        short: probability that a question names a thing by its kind or colour alone, where that is clear.
        doubted: probability that a question asks about what is not there or does not happen.
        styled: probability that a question is in capitals, without a mark, with a greeting, and so on.
        groups: groups of tasks, see `tasks.GROUPS`.
        sizes: height and width of pictures in pixels, as mossvl-tiny's processor resizes files of common shapes.
        often: relative weights of the sizes; none for equal ones.
        seen: area in pixels to which mossvl-tiny's processor downscales larger pictures and frames, by default.
        room: largest area of all frames of a clip, in pixels; large pictures leave room for few frames.
    """

    palettes: tuple[str, ...] = ("mossvl",)
    backgrounds: tuple[str, ...] = BACKGROUNDS[:4]
    vivid: float = 0.0
    radii: tuple[float, float] | None = None
    turned: float = 0.0
    stretched: float = 1.0
    variants: bool = False
    stroked: float = 0.0
    lettered: float = 0.0
    frames: tuple[int, int] = (4, 16)
    begun: float = 0.0
    most: int = 5
    paraphrased: bool = False
    short: float = 0.0
    doubted: float = 0.0
    styled: float = 0.0
    groups: tuple[str, ...] = ("pictures", "clips", "several", "conversations")
    sizes: tuple[Size, ...] = ((128, 128), (96, 160), (160, 96), (96, 128), (128, 96))
    often: tuple[float, ...] = ()
    seen: int = 128 * 128
    room: int = 64 * 128 * 128

    def frames_of(self, height: int, width: int) -> int:
        """Return the largest number of sampled frames of clips of a size."""
        least, most = self.frames
        return max(least, min(most, self.room // (height * width)))


ASPECTS = (1.0, 1.0, 4 / 3, 3 / 4, 3 / 2, 2 / 3, 16 / 9, 9 / 16, 2.0, 1 / 2, 21 / 9, 9 / 21, 3.0, 1 / 3)
"""Width over height."""
AREAS = {96 * 96: 2.0, 128 * 128: 6.0, 160 * 160: 2.0, 224 * 224: 1.5, 320 * 320: 1.0, 640 * 480: 0.5}
"""Areas in pixels, with their relative weights: the larger, the dearer."""
MULTIPLE = 32
"""Pixels of which height and width are multiples."""


def _sizes() -> dict[Size, float]:
    """Return sizes of all aspects and areas, with their weights."""
    sizes: dict[Size, float] = {}
    for aspect in ASPECTS:
        for area, weight in AREAS.items():
            sides = (MULTIPLE * max(2, round(side / MULTIPLE)) for side in (sqrt(area / aspect), sqrt(area * aspect)))
            height, width = sides
            sizes[height, width] = sizes.get((height, width), 0.0) + weight
    return sizes


FIRST = Edition()
SECOND = Edition(
    palettes=tuple(PALETTES),
    backgrounds=BACKGROUNDS,
    vivid=0.4,
    radii=(0.05, 0.30),
    turned=35 / 360,
    stretched=0.7,
    variants=True,
    stroked=0.2,
    lettered=0.85,
    frames=(4, 64),
    begun=0.25,
    most=6,
    paraphrased=True,
    short=0.35,
    doubted=0.15,
    styled=0.4,
    groups=(*Edition.groups, "counts", "unknown", "schemas"),
    sizes=tuple(_sizes()),
    often=tuple(_sizes().values()),
    seen=224 * 224,
    room=64 * 224 * 224,
)
EDITIONS = {"first": FIRST, "second": SECOND}
