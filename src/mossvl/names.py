"""Suggestions for unknown names: the nearest known name."""

import re
from collections.abc import Iterable
from difflib import SequenceMatcher
from itertools import permutations

WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|\d+")
LONGEST = 80
"""Characters of a name that are compared."""
MOST_WORDS = 5
"""Words of a name; longer names are near none."""
FEWEST_LETTERS = 3
"""Fewest letters of a name that can be near a name of more words: `n` is not near `top_n`."""
SAME_WORD, SAME_LETTERS, ENOUGH = 0.75, 0.9, 0.6
"""Least similarity of two words with a typo (`hots`, `host`), of two names compared as strings of letters (`topk`,
`top_k`), and of two names word by word: `fps` is near `video_fps`, but not `video_fps_limit`."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name with the same words as `name`, up to typos and a few words more or less.

    Names are compared word by word, so that `max_pixels` is not near `min_pixels`, however many letters they share.
    None if no known name is near, or several are equally near.
    """
    ranked = sorted(((likeness(name[:LONGEST], candidate), candidate) for candidate in known), reverse=True)
    if not ranked or ranked[0][0] < ENOUGH or (len(ranked) > 1 and ranked[0][0] == ranked[1][0]):
        return None
    return ranked[0][1]


def likeness(one: str, other: str) -> float:
    """Return the similarity of two names, from 0 to 1."""
    few, many = sorted((_words(one), _words(other)), key=len)
    if not few or len(many) > MOST_WORDS:
        return 0.0
    letters = _ratio("".join(few), "".join(many))
    if letters >= SAME_LETTERS:
        return letters
    if len(few) < len(many) and sum(map(len, few)) < FEWEST_LETTERS:
        return 0.0
    ratios = [[SAME_WORD if _swapped(word, each) else _ratio(word, each) for each in many] for word in few]
    pairings = (
        [ratios[row][column] for row, column in enumerate(order)] for order in permutations(range(len(many)), len(few))
    )
    shared = max((sum(pairing) for pairing in pairings if min(pairing) >= SAME_WORD), default=0.0)
    return 2 * shared / (len(few) + len(many))


def _words(name: str) -> list[str]:
    """Split a name into lower-case words: `max_newTokens` → max, new, tokens."""
    return [word.lower() for word in WORDS.findall(name)]


def _swapped(one: str, other: str) -> bool:
    """Return whether two words differ by two neighbouring letters that are swapped: `fsp` and `fps`."""
    differ = [place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b]
    if len(one) != len(other) or len(differ) != 2:
        return False
    first, second = differ
    return second == first + 1 and one[first] == other[second] and one[second] == other[first]


def _ratio(one: str, other: str) -> float:
    return SequenceMatcher(None, one, other, autojunk=False).ratio()
