"""Frames of planned media, decoded, cut and hashed: several at a time, and reported in order."""

import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TypeVar

from torch import Tensor

from mossvl.errors import MediaError
from mossvl.media.clip import Picture
from mossvl.media.pictures import FrameList
from mossvl.processing import crew
from mossvl.processing.crew import AHEAD_BYTES, Work, in_order
from mossvl.processing.patches import picture_bytes
from mossvl.processing.plan import ImagePlan, MediumPlan
from mossvl.processing.processor import MossVLProcessor
from mossvl.sources.digests import frame_digest, frame_of
from mossvl.sources.memory import POLL_SECONDS, Budget, Holder, MediaMemory
from mossvl.sources.source import Frame, Loading, Stalled, Waiting

T = TypeVar("T")

NO_PIXELS = Tensor()
"""Patches of a frame of which only the digest has become known."""


@dataclass(frozen=True)
class Part:
    """The frames of a medium from its frame `start` on, after `number` frames of other media.

    Attributes:
        key: of all that the medium's pixels depend on; None if it is not a file.
    """

    plan: MediumPlan
    key: Hashable | None
    number: int
    start: int

    @property
    def in_memory(self) -> bool:
        """Whether the medium is an image or a list of frames, but not a file."""
        return self.key is None and (isinstance(self.plan, ImagePlan) or isinstance(self.plan.source, FrameList))


@dataclass(frozen=True)
class Tried:
    """A frame of a medium that was loaded to see whether the medium is known."""

    plan: MediumPlan
    number: int
    patches: Tensor
    digest: bytes


class Reading(Loading):
    """Reads frames of planned media.

    Args:
        expected: digests of frames that were loaded before, if they are loaded again.
        threads: number of threads that decode, cut and hash pictures; by default `crew.threads`.
    """

    def __init__(
        self,
        processor: MossVLProcessor,
        media_memory: MediaMemory,
        budget: Budget,
        expected: Sequence[bytes | None],
        threads: int | None,
    ) -> None:
        super().__init__(processor, budget)
        self.processor, self.media_memory = processor, media_memory
        self._expected = list(expected)
        self._threads = threads or crew.threads()
        self._tried: Tried | None = None

    def _forget(self) -> None:
        self._tried = None

    # --- what was seen before ------------------------------------------------------------------------------------

    def _known(self, parts: Sequence[Part]) -> tuple[list[bytes | None], bool]:
        """The digests of all frames, None if unknown; and whether all media were seen before.

        Of media in memory, the first one's middle frame tells: if it was seen before, all of them are hashed now. If
        not, they are taken for new ones, and are hashed as they are loaded.
        """
        remembered, seen = self.media_memory.digests, True
        hashed = self._hashed([part for part in parts if part.in_memory])
        known: list[bytes | None] = []
        for part in parts:
            own = next(hashed, None) if part.in_memory else remembered.get(part.key)
            seen = seen and own is not None and remembered.get(_key(part, own)) == own
            known += own or [None] * part.plan.num_frames
        return known, seen

    def _hashed(self, parts: Sequence[Part]) -> Iterator[list[bytes]]:
        """Yield the digests of each medium in memory; nothing if they are taken for new ones."""
        if not parts:
            return
        plan = parts[0].plan
        middle = plan.num_frames // 2
        picture = next(plan.pictures(self._stop, middle))
        patches, digest = self._frame(picture, plan, middle, self._threads)
        self._tried = Tried(plan, middle, patches, digest)
        if self.media_memory.digests.get(_key_in_memory(digest, plan.num_frames)) is None:
            return
        with closing(in_order(self._works(parts, self._digest), self._threads)) as digests:
            for part in parts:
                yield list(islice(digests, part.plan.num_frames))

    # --- reading -------------------------------------------------------------------------------------------------

    def _load_parts(self, parts: deque[Part]) -> None:
        """Load media in order, together those before the next one that another load is reading."""
        while parts:
            together: list[Part] = []
            leader: Holder | None = None
            with ExitStack() as leads:
                while parts and leader is None:
                    leader = self._leader(parts[0], leads)
                    if leader is None:
                        together.append(parts.popleft())
                if together:
                    self._read(together)
            if leader is not None and leader is not self:
                self._follow(leader, parts.popleft())

    def _leader(self, part: Part, leads: ExitStack) -> Holder | None:
        """The load that reads a medium already, which may be this one; None if this load may read it, or leads now."""
        if part.key is None or part.start or self.media_memory.digests.get(part.key):
            return None
        leader = self.media_memory.lead(part.key, self)
        if leader is None:
            leads.callback(self.media_memory.done, part.key)
        return leader

    def _follow(self, leader: Holder, part: Part) -> None:
        """Wait for another load's digests of a medium."""
        memory, key = self.media_memory, part.key
        while memory.digests.get(key) is None and memory.leads(leader, key) and not leader.stopped:
            self.check()
            self._report(Waiting())
            time.sleep(POLL_SECONDS)
        known = memory.digests.get(key)
        if known is None:
            self._read([part])  # The leader has failed; this load may not.
        for frame, digest in enumerate(known or (), part.number):
            self._expect(part.plan, frame, digest)
            self._report(Frame(frame, NO_PIXELS, digest))

    def _expect(self, plan: MediumPlan, frame: int, digest: bytes) -> None:
        """Record a frame's digest.

        Raises:
            MediaError: the frame had another digest before: its file has changed.
        """
        if frame >= len(self._expected) or self._expected[frame] not in (None, digest):
            raise MediaError(f"{plan.source.name}: the file changed while it was being used; ask again")
        self._expected[frame] = digest

    def _read(self, parts: Sequence[Part]) -> None:
        """Read frames of media, and report them."""
        ahead = min(AHEAD_BYTES, self.budget.limit)
        with closing(in_order(self._works(parts, self._frame), self._threads, ahead)) as frames:
            for part in parts:
                digests = []
                for number in range(part.number + part.start, part.number + part.plan.num_frames):
                    patches, digest = next(frames)
                    self._expect(part.plan, number, digest)
                    self.budget.take(self, patches.nbytes, lambda: self._report(Stalled()))
                    digests.append(digest)
                    self._report(Frame(number, patches, digest))
                self.check()
                if not part.start:
                    self.media_memory.digests.put(_key(part, digests), digests)

    def _works(
        self, parts: Sequence[Part], function: Callable[[Picture, MediumPlan, int, int], T]
    ) -> Iterator[Work[T]]:
        """Yield calls of a function, for each frame, with its picture, medium, number, and number of threads."""
        each = max(1, self._threads // sum(part.plan.num_frames - part.start for part in parts))
        for part in parts:
            for number, picture in enumerate(part.plan.pictures(self._stop, part.start), part.start):
                yield Work(partial(function, picture, part.plan, number, each), picture_bytes(part.plan))

    def _frame(self, picture: Picture, plan: MediumPlan, number: int, threads: int) -> tuple[Tensor, bytes]:
        """A frame's patches and digest."""
        if (tried := self._tried) is not None and tried.plan is plan and tried.number == number:
            return tried.patches, tried.digest
        return frame_of(picture, plan, self.processor.image_processor.layout, self.pixel_scale, threads)

    def _digest(self, picture: Picture, plan: MediumPlan, number: int, threads: int) -> bytes:
        """A frame's digest."""
        if (tried := self._tried) is not None and tried.plan is plan and tried.number == number:
            return tried.digest
        return frame_digest(picture, plan, self.processor.image_processor.layout, self.pixel_scale, threads)


def _key(part: Part, digests: Sequence[bytes]) -> Hashable:
    """The key under which the digests of a medium are remembered."""
    return _key_in_memory(digests[len(digests) // 2], len(digests)) if part.key is None else part.key


def _key_in_memory(middle: bytes, count: int) -> Hashable:
    """The key of media of `count` frames with this middle frame, which need not have the same other frames."""
    return "frames", middle, count
