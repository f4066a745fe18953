"""Where prompts and pixels come from: the protocol `Source`, its events, and sources that load in a thread.

A source runs in a daemon thread of its own and reports events through a callback. No thread waits for it, so that a
source that hangs delays only its own request.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from mossvl.errors import GenerationCancelled
from mossvl.processing.pixels import Grid
from mossvl.processing.processor import MossVLProcessor
from mossvl.queries.results import SeenMedium
from mossvl.queries.text_stream import Tokenizer
from mossvl.scheduling.request import PixelScale
from mossvl.sources.memory import Budget


@dataclass(frozen=True)
class Planned:
    """Event: the prompt is known.

    Attributes:
        input_text: the rendered prompt.
        input_ids: (tokens,) int64.
        grids: frames, patch rows and patch columns of each medium.
        media: descriptions of the media, for the query's result.
        digests: of the frames that the media cache knows; None for other frames.
        streams: whether encoding may begin before all frames are loaded.
        continued: number of last tokens that are the query's continuation.
    """

    input_text: str
    input_ids: Tensor
    grids: list[Grid]
    media: list[SeenMedium]
    digests: list[bytes | None]
    streams: bool
    continued: int = 0


@dataclass(frozen=True)
class Frame:
    """Event: a frame is loaded, as uint8 patches (patches, 3 · patch_size²) and their digest.

    The patches are empty if only the digest has become known.
    """

    number: int
    patches: Tensor
    digest: bytes


@dataclass(frozen=True)
class Appended:
    """A prompt that is appended to a request, also after tokens were drawn.

    Attributes:
        input_ids: (tokens,) int64; may be empty, to draw further tokens only.
        grids: frames, patch rows and patch columns of each medium.
        patches, digests: of each frame, as in `Frame`.
        room: maximum number of tokens drawn next; with 0, the request is parked.
        left: number of frames, the first ones of a live request, that are not seen from now on.
    """

    input_ids: Tensor
    grids: list[Grid]
    patches: list[Tensor]
    digests: list[bytes]
    room: int
    left: int = 0


@dataclass(frozen=True)
class Stalled:
    """Event: the load waits for memory or for a decoder process, without a time-out."""


@dataclass(frozen=True)
class Waiting:
    """Event: the load is alive, and waits for another load of the same file or for a decoder process's answer."""


@dataclass(frozen=True)
class Loaded:
    """Event: all frames were reported, or loading has failed."""

    error: BaseException | None = None


Event = Planned | Frame | Stalled | Waiting | Loaded
Report = Callable[[Event], None]


class Source(Protocol):
    """Where a prompt and its frames come from.

    Attributes:
        tokenizer: detokenises the answer.
        pixel_scale: mean and standard deviation of each channel, by which pixels are normalised.
        patience: seconds without an event after which the source times out.
        held: bytes of pixels that were reported and not released.
        repeatable: whether frames can be reported again; if not (a camera), pixels are kept until the request ends.
    """

    tokenizer: Tokenizer
    pixel_scale: PixelScale
    patience: float
    held: int
    repeatable: bool

    def start(self, report: Report, first: int | None = None) -> None:
        """Report the prompt and its frames; with `first`, report only the frames from that number on, again."""
        ...

    def release(self, patches: Tensor) -> None:
        """Free the memory of a frame's pixels."""
        ...

    def stop(self) -> None:
        """Stop loading, and report nothing more."""
        ...


class Loading(ABC):
    """A `Source` that loads in a thread of its own; subclasses load in `_load`, which calls `_report`."""

    def __init__(self, processor: MossVLProcessor, budget: Budget) -> None:
        self.budget = budget
        self.tokenizer, self.pixel_scale = processor.tokenizer, processor.pixel_scale
        self.patience = processor.limits.timeout
        self.held = 0
        self.repeatable = True
        self._stop = threading.Event()
        self._report: Report = _ignore

    def start(self, report: Report, first: int | None = None) -> None:
        """Start the thread, in which events are reported."""
        threading.Thread(target=self.run, args=(report, first), name="mossvl-media", daemon=True).start()

    def stop(self) -> None:
        """Let the thread end, and free the memory of all pixels."""
        self._stop.set()
        self._report = _ignore  # The callback would keep the engine alive.
        self.budget.give(self)

    def release(self, patches: Tensor) -> None:
        """Free the memory of a frame's pixels."""
        self.budget.give(self, min(patches.nbytes, self.held))

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    def check(self) -> None:
        """Raise a GenerationCancelled if the source was stopped."""
        if self._stop.is_set():
            raise GenerationCancelled("loading was stopped")

    def run(self, report: Report, first: int | None = None) -> None:
        """As `start`, but in the caller's thread."""
        if not self._stop.is_set():
            self._report = report
        error: BaseException | None = None
        try:
            self._load(first)
        except BaseException as raised:  # Also SystemExit: the request must get an error.
            error = raised
        if not self._stop.is_set():
            self._report(Loaded(error))

    @abstractmethod
    def _load(self, first: int | None) -> None:
        """Report the prompt and its frames, or frames from `first` on."""


def _ignore(event: Event) -> None:
    """Report to nobody: the source was stopped, or has not started."""
