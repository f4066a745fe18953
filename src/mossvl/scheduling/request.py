"""A request as the scheduler sees it: its context, its progress, and its pages."""

import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Generic, TypeVar

from mossvl.forms.grammar import Matcher
from mossvl.options import SamplingParams
from mossvl.scheduling.context import Context
from mossvl.scheduling.pages import NO_ADAPTER, Block, block_key, salt_key
from mossvl.scheduling.prompt import Prompt

if TYPE_CHECKING:
    from torch import Tensor

Owner = TypeVar("Owner", covariant=True)
"""Type of whoever waits for an answer; the scheduler does not look at it."""

_numbers = count()


@dataclass(frozen=True)
class Spared:
    """Tokens that penalties spare: these, and in prompts all between two marks, such as the times of frames."""

    tokens: frozenset[int]
    begin: int
    end: int

    def others(self, tokens: Iterable[int]) -> Iterator[int]:
        """Yield the tokens of a prompt that are not spared."""
        within = False
        for token in tokens:
            within = token == self.begin or (within and token != self.end)
            if not within and token not in self.tokens:
                yield token


PixelScale = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(eq=False)
class Request(Generic[Owner]):
    """One answer to be generated. Prompts may be appended (see `extend`) while earlier ones are computed and answered.

    Attributes:
        context: prompts and drawn tokens.
        params: sampling parameters and end conditions of the answer.
        max_answer: maximum number of tokens of the answer.
        digests: of each frame's pixels; None until the frame is loaded.
        owner: whoever waits for the answer.
        pixels: frames that are loaded and not yet encoded, and all frames that cannot be loaded again: uint8 patches
            (patches, 3 · patch_size²).
        vision_chunk: maximum number of frames encoded at a time.
        pixel_scale: mean and standard deviation of each channel, for normalising pixels.
        seed: of its random draws.
        live: it is a live session's. It comes before others, is preempted after them, and shares no pages; its frames
            may leave.
        reserved: pages that are reserved for it (see `Reservations`); while it has no more, it is not preempted.
        stops: tokens that end the answer.
        spared: tokens that penalties spare; None if there are none.
        scores_from: first row of those still to be computed after which a token of the prompt gets a log-probability;
            None if no more do.
        matcher: of the answer's grammar, if the answer has one.
        adapter: index of the adapter with which all its rows, and its frames' keys and values, are computed.

    State, kept by the scheduler:
        computed: rows whose keys and values are in pages, or will be after the launched steps.
        in_flight: tokens that launched steps draw, not yet known on the host.
        unwanted: how many of the tokens in flight, the next ones, will be dropped.
        decoding: all prompts have been launched; the request takes one row a step.
        parked: the request draws nothing until it is resumed; all rows but the last are computed.
        turns: changes whenever the request goes on after it was parked or extended.
        encoded: frames whose keys and values are in pages, or will be after the launched steps.
        partly: the share of the next frame that is encoded, for a frame that is encoded in parts.
        text_pages: for each block of tokens, a page for each group of layers.
        vision_pages: pages of the vision sequence, without those that have been freed.
        freed: number of pages at the beginning of the vision sequence that were freed, as their frames have left.
        shares_last_vision: the last vision page belongs to a kept block, too: nothing may be written to it.
        blocks: blocks of the prefix cache that the request uses.
        committed: blocks offered to the prefix cache, cache hits included.
        cached: tokens of prefix-cache hits at admission.
        slot: place in the batch; -1 while the request is not running.
    """

    context: Context
    params: SamplingParams
    max_answer: int
    digests: list[bytes | None]
    owner: Owner
    pixels: "dict[int, Tensor]" = field(default_factory=dict)
    stops: frozenset[int] = frozenset()
    spared: Spared | None = None
    scores_from: int | None = None
    vision_chunk: int = 64
    pixel_scale: PixelScale = ((0.5,) * 3, (0.5,) * 3)
    seed: int = field(default_factory=lambda: secrets.randbits(63))
    live: bool = False
    reserved: int = 0
    matcher: Matcher | None = None
    adapter: int = NO_ADAPTER
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
    freed: int = 0
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
        """Number of known tokens of the answer."""
        return len(self.context.answer)

    @property
    def num_drawn(self) -> int:
        """Tokens drawn, those in flight included."""
        return self.num_answer + self.in_flight

    @property
    def wants_token(self) -> bool:
        """Whether a step may draw the next token. The token before may be in flight, unless a grammar needs it."""
        return self.may_draw and self.decoding and self.num_drawn < self.max_answer

    @property
    def may_draw(self) -> bool:
        """The request is not parked, and the grammar's mask of allowed tokens, if any, is known."""
        return not self.parked and (self.matcher is None or (bool(self.matcher.mask) and not self.in_flight))

    @property
    def is_complete(self) -> bool:
        """All rows are computed but the one that the next token is drawn from, and the request may not draw yet."""
        return not self.may_draw and self.computed >= self.context.length - 1

    @property
    def has_all_frames(self) -> bool:
        """All known frames are encoded, so that rows can be computed."""
        return self.encoded == self.context.num_frames

    @property
    def rests(self) -> bool:
        """The request is parked and complete: nothing is computed for it until it is resumed or extended."""
        return self.parked and self.is_complete

    @property
    def sleeps(self) -> bool:
        """The request was preempted while it was parked: nothing is computed until it is resumed."""
        return self.parked and self.preemptions > 0

    @property
    def reusable(self) -> int:
        """Number of rows that the prefix cache may have: at least one must run, to draw from, and those to score."""
        last = self.context.length - 1
        return last if self.scores_from is None else min(last, self.scores_from)

    def mark_scored(self, stop: int) -> None:
        """Record that the rows before `stop` were launched."""
        if self.scores_from is not None:
            done = stop >= self.context.prompts[0].end.row
            self.scores_from = None if done else max(self.scores_from, stop)

    # --- growing -------------------------------------------------------------------------------------------------

    def extend(self, prompt: Prompt, digests: Sequence[bytes | None]) -> None:
        """Append a prompt that was built for `context.end`, and its frames' digests. No token may be in flight."""
        assert not self.in_flight and len(digests) == len(prompt.frame_grids)
        self.context.append(prompt)
        self.digests += digests
        self._go_on()

    def leave(self, frames: int) -> None:
        """Let the first `frames` frames leave: no row from the last known one on sees them. No token may be in flight.

        Pages that hold nothing else are freed once the rows before are computed. A preempted request cannot be computed
        anew then (see `Step.lost`).
        """
        assert self.live and not self.in_flight
        self.context.leave(frames)

    def park(self) -> None:
        """Stop drawing, and drop the tokens in flight."""
        self.parked, self.unwanted = True, self.in_flight

    def hold(self) -> None:
        """Stop drawing, and keep the tokens in flight."""
        self.parked = True

    def resume(self) -> None:
        """Draw again, from the last known token. No token may be in flight."""
        assert not self.in_flight
        self.parked = False
        if not (self.decoding and self.computed == self.context.length - 1):  # Else the device has the last token.
            self._go_on()

    def count_arrival(self) -> bool:
        """Count a token in flight as arrived; return whether to keep it."""
        self.in_flight -= 1
        wanted = not self.ended and not self.unwanted
        self.unwanted -= self.unwanted > 0
        return wanted

    def _go_on(self) -> None:
        """Compute the next rows as prefill, from known tokens."""
        self.decoding = False
        self.computed = min(self.computed, self.context.length - 1)
        self.turns += 1

    def keys(self, page_size: int) -> list[bytes]:
        """Prefix-cache keys of the full blocks, from the first one, up to a frame without a digest; none if live."""
        blocks = 0 if self.live else self.context.length // page_size
        while len(self._keys) < blocks:
            start = len(self._keys) * page_size
            first, last = self.context.frames_between(start, start + page_size)
            frames = self.digests[first:last]
            if any(digest is None for digest in frames):
                break
            before = self._keys[-1] if self._keys else salt_key(self.params.cache_salt, self.adapter)
            tokens = self.context.tokens(start, start + page_size)
            self._keys.append(block_key(before, tokens, (digest for digest in frames if digest is not None)))
        return self._keys

    def forget_progress(self) -> None:
        """Reset progress: all pages have been released."""
        self.computed = self.encoded = self.committed = self.freed = 0
        self.partly = 0.0
        self.decoding = False
        self.text_pages, self.vision_pages, self.blocks = [], [], []
        self.shares_last_vision = False
        self.slot = -1
