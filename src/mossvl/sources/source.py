"""Where prompts and pixels come from: what a source reports, and one that loads in a thread of its own.

Every source runs in a daemon thread and reports through a callback. Nobody waits for such a thread, so that a source
that hangs holds up only its own request.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from mossvl.errors import GenerationCancelled
from mossvl.processing.pixels import Grid
from mossvl.processing.processor import MossVLProcessor
from mossvl.queries.results import SeenMedium
from mossvl.scheduling.request import PixelScale
from mossvl.sources.memory import Budget


@dataclass(frozen=True)
class Planned:
    """A prompt is known.

    Attributes:
        input_text: as rendered.
        input_ids: (tokens,) int64.
        grids: frames, patch rows and patch columns of each medium.
        media: what will be seen, as told to users.
        digests: of those frames that were seen before; None for the others.
        streams: worth encoding before all of it is loaded.
        continued: how many of the last tokens are the query's continuation.
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
    """A frame has been loaded: uint8 patches (patches, 3 · patch_size²) and their digest."""

    number: int
    patches: Tensor
    digest: bytes


@dataclass(frozen=True)
class Appended:
    """What is appended to a request after what its source has given, and perhaps after tokens that it has drawn.

    Attributes:
        input_ids: (tokens,) int64; may be none, if only further tokens are to be drawn.
        grids: frames, patch rows and patch columns of each medium.
        patches, digests: of each frame, as in `Frame`.
        room: how many tokens may be drawn then; with 0, it waits for more to be appended.
    """

    input_ids: Tensor
    grids: list[Grid]
    patches: list[Tensor]
    digests: list[bytes]
    room: int


@dataclass(frozen=True)
class Stalled:
    """Loading waits for memory, that is, for frames to be used up."""


@dataclass(frozen=True)
class Waiting:
    """Loading waits for another load of the same file."""


@dataclass(frozen=True)
class Loaded:
    """All frames have come, or loading has failed."""

    error: BaseException | None = None


Event = Planned | Frame | Stalled | Waiting | Loaded
Report = Callable[[Event], None]


class Source(Protocol):
    """Where a prompt and its frames come from.

    Attributes:
        tokenizer: makes text of the answer's tokens.
        pixel_scale: mean and deviation of each channel, by which pixels are normalised.
        patience: seconds after which a source that reports nothing is given up.
        held: bytes of pixels that were reported and not released.
        repeatable: frames can be reported once more; pixels of a source of which they cannot (a camera) are kept until
            the request ends.
    """

    tokenizer: Any
    pixel_scale: PixelScale
    patience: float
    held: int
    repeatable: bool

    def start(self, report: Report, first: int | None = None) -> None:
        """Report the prompt and its frames; or, with `first`, only frames, from that number on, once more."""
        ...

    def release(self, patches: Tensor) -> None:
        """A frame's pixels are used up."""
        ...

    def stop(self) -> None:
        """Nothing more is wanted."""
        ...


class Loading(ABC):
    """A `Source` that loads in a thread of its own; `_load` says how, and reports through `_report`."""

    def __init__(self, processor: MossVLProcessor, budget: Budget) -> None:
        self.budget = budget
        self.tokenizer, self.pixel_scale = processor.tokenizer, processor.pixel_scale
        self.patience = processor.limits.timeout
        self.held = 0
        self.repeatable = True
        self._stop = threading.Event()
        self._report: Report = _ignore

    def start(self, report: Report, first: int | None = None) -> None:
        """Events are reported in the thread."""
        threading.Thread(target=self.run, args=(report, first), name="mossvl-media", daemon=True).start()

    def stop(self) -> None:
        """Let the thread end; what it holds is given back."""
        self._stop.set()
        self._report = _ignore  # What it reported to holds on to the engine.
        self.budget.give(self)

    def release(self, patches: Tensor) -> None:
        """A frame's pixels are used up."""
        self.budget.give(self, min(patches.nbytes, self.held))

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    def check(self) -> None:
        if self._stop.is_set():
            raise GenerationCancelled("loading was stopped")

    def run(self, report: Report, first: int | None = None) -> None:
        """As `start`, but in this thread: returns when all has been reported."""
        if not self._stop.is_set():
            self._report = report
        error: BaseException | None = None
        try:
            self._load(first)
        except BaseException as raised:  # The request is told, whatever it was.
            error = raised
        if not self._stop.is_set():
            self._report(Loaded(error))

    @abstractmethod
    def _load(self, first: int | None) -> None:
        """Report the prompt and its frames, or frames from `first` on."""


def _ignore(event: Event) -> None:
    """Nobody listens any more."""
