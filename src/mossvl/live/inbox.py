"""What waits to be given to the model: prompts, frames and interruptions, from any thread."""

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from mossvl.errors import ContextLengthError, InputError, PushTimeout, SessionClosed
from mossvl.live.options import FramePace, WhenBehind
from mossvl.live.segments import Asked, Picture


@dataclass(frozen=True)
class Pushed:
    """A frame, and the prompts that come with it."""

    picture: Picture
    prompts: Sequence[Asked] = ()
    final: bool = False


@dataclass
class Taken:
    """What is given to the model next; `final` tells that nothing more is to come."""

    interrupts: bool = False
    prompts: list[Asked] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    final: bool = False

    def __bool__(self) -> bool:
        return bool(self.interrupts or self.prompts or self.pictures or self.final)


class Inbox:
    """Frames in the order of their times, prompts, and whether to interrupt.

    A prompt without a frame goes before the frames that wait; one with a frame keeps its place among them.

    Args:
        behind: see `LiveOptions.when_behind`.
        size: frames that wait at most.
        words: tokens of prompts that wait at most.
    """

    def __init__(self, behind: WhenBehind, size: int, words: int) -> None:
        self.behind, self.size, self.words = behind, size, words
        self.waiting = False
        """Whether there is anything; read without the lock."""
        self.preparing = False
        """What is to be taken next is not ready; the engine is woken when it is."""
        self.newest: float | None = None
        """Time of the newest frame that was put."""
        self.closed = False
        self._changed = threading.Condition()
        self._entries: deque[Pushed] = deque()
        self._prompts: list[Asked] = []
        self._interrupts = self._final = False
        self._words = 0

    @property
    def pending(self) -> int:
        """Number of frames that wait."""
        return len(self._entries)

    def has_room(self, frames: int) -> bool:
        """Whether so many frames fit into the queue; more than it holds do while it is empty."""
        return len(self._entries) <= max(0, self.size - frames)

    def wait_room(self, frames: int, seconds: float | None) -> None:
        """Wait until there is room, or the session has ended.

        Args:
            seconds: to wait at most; None for as long as it takes.

        Raises:
            PushTimeout: there is no room.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self.closed or self.has_room(frames), seconds):
                raise PushTimeout(
                    f"{self.pending} frames wait to be seen, and the queue holds {self.size}: there was no room for "
                    f"{frames} more within {seconds:g} seconds; push again later, raise queue, or let when_behind drop "
                    "frames"
                )

    def put(
        self,
        pictures: Sequence[Picture],
        prompts: Sequence[Asked] = (),
        final: bool = False,
        behind: WhenBehind | None = None,
    ) -> list[float]:
        """Put frames together, one at least, and prompts with the first; return the times of frames that were dropped.

        Args:
            behind: in place of the session's rule. With "block", there must be room; see `wait_room`.

        Raises:
            InputError: a time is before that of the newest frame, or too many prompts wait.
            SessionClosed: the session has ended.
        """
        behind = behind or self.behind
        with self._changed:
            self.check_open()
            for picture in pictures:
                self._check_time(picture)
            self._count(prompts)
            self.newest = pictures[-1].time
            first, *others = pictures
            self._entries.append(Pushed(first, prompts, final))
            self._entries.extend(Pushed(picture) for picture in others)
            dropped = [] if behind == "block" else self._drop(1 if behind == "latest" else self.size)
            self.waiting = True
        return dropped

    def ask(self, prompts: Sequence[Asked], final: bool = False) -> None:
        """Put prompts without a frame.

        Raises:
            InputError: too many prompts wait.
            SessionClosed: the session has ended.
        """
        with self._changed:
            self.check_open()
            self._count(prompts)
            self._prompts += prompts
            self._final = self._final or final
            self.waiting = True

    def end(self) -> None:
        """Tell that nothing more is to come.

        Raises:
            SessionClosed: the session has ended.
        """
        with self._changed:
            self.check_open()
            self._final = self.waiting = True

    def interrupt(self) -> None:
        """Cut the reply, before all that comes later.

        Raises:
            SessionClosed: the session has ended.
        """
        with self._changed:
            self.check_open()
            self._interrupts = self.waiting = True

    def due(self, drawn: int, drawing: bool) -> bool:
        """Whether something is to be taken now, after so many tokens, while the model draws on or rests."""
        return self.waiting

    def take(self, pace: FramePace) -> Taken:
        """Take what is next: with "drain", everything; else all lone prompts, and at most one frame."""
        with self._changed:
            taken = Taken(self._interrupts, self._prompts, final=self._final)
            self._interrupts, self._prompts, self._final = False, [], False
            while self._entries and (pace == "drain" or not taken.pictures):
                entry = self._entries.popleft()
                taken.pictures.append(entry.picture)
                taken.final = taken.final or entry.final
                taken.prompts += entry.prompts
            self._words -= sum(len(prompt.ids) for prompt in taken.prompts)
            self.waiting = bool(self._entries)
            self._changed.notify_all()
        return taken

    def close(self) -> None:
        """Refuse everything from now on, and let go of what waits."""
        with self._changed:
            self.closed, self.waiting = True, False
            self._entries.clear()
            self._prompts.clear()
            self._changed.notify_all()

    def disown(self) -> None:
        """Close its copy in a forked process, where holders of its lock do not exist."""
        self._changed = threading.Condition()
        self.close()

    def check_open(self) -> None:
        if self.closed:
            raise SessionClosed("the session has ended; begin another one")

    def _drop(self, most: int) -> list[float]:
        """Drop the oldest of more than `most` frames; what was asked with them is asked without."""
        dropped = []
        while len(self._entries) > most:
            entry = self._entries.popleft()
            dropped.append(entry.picture.time)
            self._final = self._final or entry.final
            self._prompts += entry.prompts
        return dropped

    def _check_time(self, picture: Picture) -> None:
        if self.newest is not None and picture.time < self.newest:
            raise InputError(
                f"the frame's time, {picture.time:g} s, is before that of the newest frame, {self.newest:g} s; push "
                "frames in the order of their times"
            )

    def _count(self, prompts: Sequence[Asked]) -> None:
        tokens = sum(len(prompt.ids) for prompt in prompts)
        if tokens + self._words > self.words:
            already = f", beside {self._words} that wait" if self._words else ""
            raise ContextLengthError(
                f"the prompt has {tokens} tokens{already}; this session takes {self.words} at a time, beside its "
                "system prompt",
                setting="LiveOptions.max_context",
                advice="; shorten one of them, or raise {}",
            )
        self._words += tokens
