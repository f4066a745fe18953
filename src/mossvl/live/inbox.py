"""What waits to be given to the model: prompts, frames and interruptions, from any thread."""

import threading
from collections import deque
from dataclasses import dataclass, field

from mossvl.errors import ContextLengthError, InputError, SessionClosed
from mossvl.live.options import FramePace, WhenBehind
from mossvl.live.segments import Asked, Picture


@dataclass(frozen=True)
class Entry:
    """A frame, and the prompt that comes with it, if any."""

    picture: Picture
    prompt: Asked | None = None
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
        self.newest: float | None = None
        """Time of the newest frame that was put."""
        self.closed = False
        self._changed = threading.Condition()
        self._entries: deque[Entry] = deque()
        self._prompts: list[Asked] = []
        self._interrupts = self._final = False
        self._words = 0

    @property
    def pending(self) -> int:
        """Number of frames that wait."""
        return len(self._entries)

    def put(
        self, picture: Picture, prompt: Asked | None = None, final: bool = False, most: float | None = None
    ) -> list[float]:
        """Put a frame, and a prompt with it; return the times of the frames that were dropped for it.

        Args:
            most: seconds to wait for room, where frames are not dropped; None for as long as it takes.

        Raises:
            InputError: its time is before that of the newest frame, or too many prompts wait.
            SessionClosed: the session has ended, also while this waited.
            TimeoutError: there is no room.
        """
        with self._changed:
            if self.behind == "block":
                there = self._changed.wait_for(lambda: self.closed or len(self._entries) < self.size, most)
                if not there:
                    raise TimeoutError
            self._check_open()
            if self.newest is not None and picture.time < self.newest:
                raise InputError(
                    f"the frame's time, {picture.time:g} s, is before that of the newest frame, {self.newest:g} s; "
                    "push frames in the order of their times"
                )
            if prompt is not None:
                self._count(prompt)
            self.newest = picture.time
            dropped = self._drop()
            self._entries.append(Entry(picture, prompt, final))
            self.waiting = True
        return dropped

    def ask(self, prompt: Asked, final: bool = False) -> None:
        """Put a prompt alone.

        Raises:
            InputError: too many prompts wait.
            SessionClosed: the session has ended.
        """
        with self._changed:
            self._check_open()
            self._count(prompt)
            self._prompts.append(prompt)
            self._final = self._final or final
            self.waiting = True

    def end(self) -> None:
        """Tell that nothing more is to come.

        Raises:
            SessionClosed: the session has ended.
        """
        with self._changed:
            self._check_open()
            self._final = self.waiting = True

    def interrupt(self) -> None:
        """Cut the reply, before all that comes later.

        Raises:
            SessionClosed: the session has ended.
        """
        with self._changed:
            self._check_open()
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
                if entry.prompt is not None:
                    taken.prompts.append(entry.prompt)
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

    def _drop(self) -> list[float]:
        """Drop frames for one that comes; what was asked with them is asked without."""
        room = 0 if self.behind == "latest" else self.size - 1
        dropped = []
        while self.behind != "block" and len(self._entries) > room:
            entry = self._entries.popleft()
            dropped.append(entry.picture.time)
            self._final = self._final or entry.final
            if entry.prompt is not None:
                self._prompts.append(entry.prompt)
        return dropped

    def _count(self, prompt: Asked) -> None:
        if len(prompt.ids) + self._words > self.words:
            already = f", beside {self._words} that wait" if self._words else ""
            raise ContextLengthError(
                f"the prompt has {len(prompt.ids)} tokens{already}; a session takes {self.words} at a time",
                setting="LiveOptions.max_context",
                advice="; shorten it, or raise {}",
            )
        self._words += len(prompt.ids)

    def _check_open(self) -> None:
        if self.closed:
            raise SessionClosed("the session has ended; begin another one")
