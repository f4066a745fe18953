"""Which known name was meant by an unknown one: the one definition of "near"."""

import re
from collections.abc import Iterable
from difflib import SequenceMatcher
from itertools import permutations

WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|\d+")
LONGEST = 80
"""Characters of a name that are looked at."""
MOST_WORDS = 5
"""Of a name; with more of them, none is near."""
FEWEST_LETTERS = 3
"""Of the words that two names share, where one of them has more words beside: `n` is not `top_n`."""
SAME_WORD, SAME_LETTERS, ENOUGH = 0.75, 0.9, 0.6
"""How much two words have in common that are the same but for a slip (`hots`, `host`), and two names without regard to
their words (`topk`, `top_k`); and how much of both names the words must be that they share: `fps` is near `video_fps`,
and not near `video_fps_limit`."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that has the words of an unknown one, but for slips and at most as many words more or less.

    Names are compared word by word, so that `max_pixels` is not near `min_pixels`, however many letters they share.
    None if no known name is near, or several equally.
    """
    ranked = sorted(((likeness(name[:LONGEST], one), one) for one in known), reverse=True)
    if not ranked or ranked[0][0] < ENOUGH or (len(ranked) > 1 and ranked[0][0] == ranked[1][0]):
        return None
    return ranked[0][1]


def likeness(one: str, other: str) -> float:
    """How near two names are, from 0 to 1."""
    few, many = sorted((_words(one), _words(other)), key=len)
    if not few or len(many) > MOST_WORDS:
        return 0.0
    letters = _ratio("".join(few), "".join(many))
    if letters >= SAME_LETTERS:
        return letters
    if len(few) < len(many) and sum(map(len, few)) < FEWEST_LETTERS:
        return 0.0
    ratios = [[_ratio(word, each) for each in many] for word in few]
    pairings = (
        [ratios[row][column] for row, column in enumerate(order)] for order in permutations(range(len(many)), len(few))
    )
    shared = max((sum(pairing) for pairing in pairings if min(pairing) >= SAME_WORD), default=0.0)
    return 2 * shared / (len(few) + len(many))


def _words(name: str) -> list[str]:
    """`max_newTokens` → max, new, tokens."""
    return [word.lower() for word in WORDS.findall(name)]


def _ratio(one: str, other: str) -> float:
    return SequenceMatcher(None, one, other, autojunk=False).ratio()
