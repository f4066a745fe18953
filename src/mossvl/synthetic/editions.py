"""Editions of the world: what it shows and how it asks, as settings of one generator.

mossvl-tiny's weights were trained on the first edition. The second adds looks, sizes, wordings and doubt; whatever an
edition leaves out costs no draw, so that a seed gives the same samples for ever.
"""

from dataclasses import dataclass

from mossvl.synthetic.scene import BACKGROUNDS, PALETTES


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
        most: largest number of things that are counted.
        paraphrased: whether questions have all wordings, or those of the first edition.
        short: probability that a question names a thing by its kind or colour alone, where that is clear.
        doubted: probability that a question asks about what is not there or does not happen.
        styled: probability that a question is in capitals, without a mark, with a greeting, and so on.
        tasks: names of groups of tasks beside those of the first edition.
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


FIRST = Edition()
SECOND = Edition(
    palettes=tuple(PALETTES),
    backgrounds=BACKGROUNDS,
    vivid=0.4,
    radii=(0.05, 0.30),
    turned=35 / 360,
    stretched=0.6,
    variants=True,
    stroked=0.2,
    lettered=0.85,
    frames=(2, 64),
    begun=0.25,
    most=8,
    paraphrased=True,
    short=0.35,
    doubted=0.15,
    styled=0.4,
)
EDITIONS = {"first": FIRST, "second": SECOND}
