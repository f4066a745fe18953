"""Made-up requests."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace

import torch

from mossvl.engine.prompts import build_prompt
from mossvl.options import SamplingParams
from mossvl.scheduling.context import Context
from mossvl.scheduling.prompt import START, Place, Prompt
from mossvl.scheduling.request import Request

IMAGE, MERGE = 1_000_000, 2
PICTURES = {b"a": (2, 2), b"b": (2, 2), b"c": (2, 6), b"d": (4, 4), b"e": (4, 4), b"f": (6, 10)}
"""Patch rows and columns by digest. Some look the same to whoever sees only tokens: 2, 2, 4, 5, 5 and 16 of them."""
PIXELS = torch.zeros(0)

Item = int | bytes
"""A token, or the digest of a picture that stands for its image token."""


def pictures_of(items: Sequence[Item]) -> list[bytes]:
    return [item for item in items if isinstance(item, bytes)]


def frame_rows(context: Context) -> list[int]:
    """Row of each frame's image token."""
    return [row for prompt in context.prompts for row in prompt.frame_rows]


def prompt_of(items: Sequence[Item], begin: Place = START) -> Prompt:
    tokens = torch.tensor([IMAGE if isinstance(item, bytes) else item for item in items])
    grids = [(1, *PICTURES[picture]) for picture in pictures_of(items)]
    return build_prompt(tokens, grids, IMAGE, MERGE, begin)


@dataclass(eq=False)
class Asked:
    """A request as a test sees it.

    Attributes:
        items: its prompt.
        room, stop: the answer ends after `room` tokens, or of itself after `stop` of them.
        formed: before each token, it must become known which ones may come.
        later: what is still to be appended; until then, what would end the answer parks it.
        live, reserved: of its request; what would end a live one parks it.
        given: all prompts' items, by row.
    """

    items: list[Item]
    room: int = 1
    stop: int = 1 << 30
    loaded: bool = True
    known: bool = True
    formed: bool = False
    later: list[list[Item]] = field(default_factory=list)
    priority: int = 0
    salt: str | None = None
    live: bool = False
    reserved: int = 0
    finished: bool = False
    request: Request = field(init=False)

    def __post_init__(self) -> None:
        self.given = dict(enumerate(self.items))
        self.turns = 1 + len(self.later)
        self.pictures = pictures_of(self.items)
        prompt, digests = prompt_of(self.items), self._digests(self.items)
        params = SamplingParams(priority=self.priority, cache_salt=self.salt)
        self.request = Request(
            Context(prompt), params, self.room, digests, self, seed=0, live=self.live, reserved=self.reserved
        )
        if self.loaded:
            self.load(0, len(self.pictures))
        if self.formed:
            self.request.matcher = SimpleNamespace(mask=b"")
        self._histories: list[int] = []

    def extend(self, room: int = 1) -> None:
        """Append the next of what is still to come; it may be answered by so many tokens more."""
        request, items = self.request, self.later.pop(0)
        begin = request.context.end
        self.given |= enumerate(items, begin.row)
        self.pictures += pictures_of(items)
        request.extend(prompt_of(items, begin), self._digests(items))
        request.max_answer = request.num_answer + room
        if self.loaded:
            self.load(begin.frame, len(self.pictures))

    def _digests(self, items: list[Item]) -> list[bytes | None]:
        return [picture if self.known else None for picture in pictures_of(items)]

    def load(self, first: int, last: int) -> None:
        """Pixels of frames arrive, and with them their digests."""
        for frame in range(max(first, self.request.encoded), last):
            self.request.digests[frame] = self.pictures[frame]
            self.request.pixels[frame] = PIXELS

    def history(self, row: int) -> int:
        """What stands for everything up to a row, itself and the salt included."""
        while len(self._histories) <= row:
            before = self._histories[-1] if self._histories else hash(self.salt) if self.salt else 0
            item = self.token(len(self._histories))
            self._histories.append(hash((before, *item) if isinstance(item, bytes) else (before, -2 - item)))
        return self._histories[row]

    def token(self, row: int) -> Item:
        """An item of a prompt; else a token of the answer, which depends on nothing but what is before it."""
        return self.given[row] if row in self.given else self.history(row - 1) >> 7 & 1

    def text_tags(self, start: int, stop: int, group: int) -> list[tuple[int, int]]:
        return [(self.history(row), group) for row in range(start, stop)]

    def vision_tags(self, first: int, last: int) -> list[tuple[int, int]]:
        """Of all vision tokens of the frames [first, last)."""
        context = self.request.context
        rows = frame_rows(context)
        return [
            (self.history(rows[frame]), -1 - place)
            for frame in range(first, last)
            for place in range(*context.vision_range(frame, frame + 1))
        ]

    @property
    def work(self) -> int:
        """Steps that it takes at most, everything one at a time, when nobody takes its pages."""
        rest = [item for items in self.later for item in items]
        answer = self.request.num_answer + 1 + (self.room + 1) * (len(self.later) + 1)
        return len(self.given) + len(rest) + answer + len(self.pictures) + len(pictures_of(rest))
