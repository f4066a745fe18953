"""A request as the scheduler sees it: its context, what of it has been computed, and the pages that hold it."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Generic, TypeVar

from mossvl.forms.grammar import Matcher
from mossvl.options import SamplingParams
from mossvl.scheduling.context import Context
from mossvl.scheduling.pages import Block, block_key
from mossvl.scheduling.prompt import Prompt

if TYPE_CHECKING:
    from torch import Tensor

Owner = TypeVar("Owner", covariant=True)
"""Whoever waits for an answer; the scheduler does not care."""

_numbers = count()

PixelScale = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(eq=False)
class Request(Generic[Owner]):
    """One answer to be generated. What is asked may grow (see `extend`) while it is computed and answered.

    Attributes:
        context: what is asked, and the answer as far as it is known.
        params: how the answer is drawn, and when it ends.
        room: most tokens of the answer.
        digests: for each frame, the digest of its pixels, or None as long as they are not known.
        owner: whoever waits for the answer.
        pixels: frames that are loaded and not yet encoded, and all frames that cannot be loaded again: uint8 patches
            (patches, 3 · patch_size²).
        vision_chunk: most frames encoded at a time.
        pixel_scale: mean and deviation of each channel, by which pixels are normalised.
        seed: of its random draws.
        matcher: of the form of the answer, if it has one.

    State, kept by the scheduler:
        computed: rows whose keys and values are in the cache, or will be once what has been launched has run.
        in_flight: tokens that are being drawn and not yet known.
        unwanted: how many of these, the next ones, will be forgotten.
        decoding: its prompts have been launched; from now on it wants one row a step.
        parked: it draws nothing until it is asked to. All but the row that it would draw from is computed.
        turns: changes whenever it goes on after it was parked or extended.
        encoded: frames whose keys and values are in the cache, likewise.
        partly: how much of the next frame is encoded, if that is done in parts.
        text_pages: for each block of tokens, a page for every group of layers.
        vision_pages: pages of the vision sequence.
        shares_last_vision: the last of these holds a kept block's frames, and no others may be written there.
        blocks: kept blocks that this request uses.
        committed: blocks of its own that were offered to be kept, those it found included.
        cached: tokens that were found in the cache when it was admitted.
        slot: its place in the batch.
    """

    context: Context
    params: SamplingParams
    room: int
    digests: list[bytes | None]
    owner: Owner
    pixels: "dict[int, Tensor]" = field(default_factory=dict)
    vision_chunk: int = 64
    pixel_scale: PixelScale = ((0.5,) * 3, (0.5,) * 3)
    seed: int = field(default_factory=lambda: secrets.randbits(63))
    matcher: Matcher | None = None
    number: int = field(default_factory=lambda: next(_numbers))

    computed: int = 0
    in_flight: int = 0
    unwanted: int = 0
    decoding: bool = False
    parked: bool = False
    turns: int = 0
    encoded: int = 0
    partly: float = 0.0
    text_pages: list[tuple[int, ...]] = field(default_factory=list)
    vision_pages: list[int] = field(default_factory=list)
    shares_last_vision: bool = False
    blocks: list[Block] = field(default_factory=list)
    committed: int = 0
    cached: int = 0
    slot: int = -1
    waits_for: bytes | None = None
    preemptions: int = 0
    ended: bool = False
    _keys: list[bytes] = field(default_factory=list)

    @property
    def num_answer(self) -> int:
        """Tokens of the answer that are known."""
        return len(self.context.answer)

    @property
    def wants_token(self) -> bool:
        """A further token can be launched now; it may follow one that is still in flight, unless that decides which
        ones may come next."""
        return self.may_draw and self.decoding and self.num_answer + self.in_flight < self.room

    @property
    def may_draw(self) -> bool:
        """It is to draw, and it is known which tokens may come next."""
        return not self.parked and (self.matcher is None or (bool(self.matcher.mask) and not self.in_flight))

    @property
    def is_complete(self) -> bool:
        """All rows are computed but the one that the next token is drawn from, and the request may not draw yet."""
        return not self.may_draw and self.computed >= self.context.length - 1

    @property
    def rests(self) -> bool:
        """The request is parked and complete: nothing is computed for it until it is resumed or extended."""
        return self.parked and self.is_complete

    @property
    def sleeps(self) -> bool:
        """It was preempted, and nothing is computed of it until it is to draw again."""
        return self.parked and self.preemptions > 0

    # --- growing -------------------------------------------------------------------------------------------------

    def extend(self, prompt: Prompt, digests: Sequence[bytes | None]) -> None:
        """Append a prompt, laid out for the end of the context, with its frames' digests; nothing is in flight."""
        assert not self.in_flight and len(digests) == len(prompt.frame_grids)
        self.context.append(prompt)
        self.digests += digests
        self._go_on()

    def park(self) -> None:
        """Draw no more for the time being, and forget tokens that are being drawn."""
        self.parked, self.unwanted = True, self.in_flight

    def hold(self) -> None:
        """Draw no more for the time being; a token that is being drawn is still wanted."""
        self.parked = True

    def resume(self) -> None:
        """Draw again, from the last token that is known; nothing is in flight."""
        assert not self.in_flight
        self.parked = False
        self._go_on()

    def arrived(self) -> bool:
        """A token that was in flight is known → whether it is wanted."""
        self.in_flight -= 1
        wanted = not self.ended and not self.unwanted
        self.unwanted -= self.unwanted > 0
        return wanted

    def _go_on(self) -> None:
        """What comes next is computed as a prompt is, from tokens that are known."""
        self.decoding = False
        self.computed = min(self.computed, self.context.length - 1)
        self.turns += 1

    def keys(self, page_size: int) -> list[bytes]:
        """Keys of the blocks that are full and whose frames' digests are known, from the start."""
        blocks = self.context.length // page_size
        while len(self._keys) < blocks:
            start = len(self._keys) * page_size
            first, last = self.context.frames_between(start, start + page_size)
            frames = self.digests[first:last]
            if any(digest is None for digest in frames):
                break
            before = self._keys[-1] if self._keys else b""
            tokens = self.context.tokens(start, start + page_size)
            self._keys.append(block_key(before, tokens, (digest for digest in frames if digest is not None)))
        return self._keys

    def forget_progress(self) -> None:
        """Nothing of it is in the cache any more."""
        self.computed = self.encoded = self.committed = 0
        self.partly = 0.0
        self.decoding = False
        self.text_pages, self.vision_pages, self.blocks = [], [], []
        self.shares_last_vision = False
        self.slot = -1
