"""Evaluation of sessions that watch a stream and decide at every frame whether to speak: a strict handshake.

A session gets a frame only after it has decided at the one before, so that its answers do not depend on its speed.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from typing import NamedTuple, Protocol

from PIL.Image import Image

from mossvl.errors import InputError

PATIENCE = 60.0
"""Seconds that a session may take to decide."""


class Decision(NamedTuple):
    """What a session does at a frame.

    Attributes:
        text: what it says; "" if it is silent.
        goes_on: whether its reply goes on at the next frame.
    """

    text: str
    goes_on: bool = False


class Session(Protocol):
    """A session that gets one stream; times are in seconds of the stream."""

    def push_frame(self, image: Image, timestamp: float) -> object:
        """Show the next frame."""

    def push_prompt(self, text: str) -> object:
        """Say what the user says, before the next frame."""

    def decision(self, timeout: float) -> Decision:
        """Wait for the decision at the frame that was pushed last.

        Raises:
            GenerationTimeout: there is none within `timeout` seconds.
            MossVLError: the session has failed.
        """
        ...

    def close(self) -> object:
        """End the session."""


class Step(NamedTuple):
    """The decision at the frame of a time (seconds)."""

    time: float
    decision: Decision


class Reply(NamedTuple):
    """What a session said at the frames from one time to another, in seconds."""

    begin: float
    end: float
    text: str


class Due(NamedTuple):
    """A time span, ends included, in which a reply should begin (seconds); and its text, None for any."""

    begin: float
    end: float
    text: str | None = None


class Score(NamedTuple):
    """How well replies match what was due.

    Attributes:
        precision: share of replies that were due; None without replies.
        recall: share of what was due that has a reply of its own; None if nothing was due.
        delay: mean seconds from the beginning of what was due to that of its reply; None without such replies.
        right: share of such replies that say what they should, where that is known; None where it never is.
    """

    precision: float | None
    recall: float | None
    delay: float | None
    right: float | None = None


def drive(
    session: Session,
    frames: Iterable[tuple[float, Image]],
    prompts: Sequence[tuple[float, str]] = (),
    timeout: float = PATIENCE,
) -> Iterator[Step]:
    """Show a session a clip, and close it at the end or at an error.

    Args:
        frames: (seconds, frame), in ascending order; each is taken after the decision at the one before.
        prompts: (seconds, text); each is said before the first frame at its time or later.
        timeout: seconds that each decision may take.

    Yields:
        the decision at each frame, before the next frame is pushed.

    Raises:
        InputError: a frame is not later than the one before, or a prompt is later than all frames.
        GenerationTimeout: a decision takes longer.
        MossVLError: the session has failed.
    """
    waiting, last = sorted(prompts, key=lambda one: one[0]), -math.inf
    with closing(session):
        for time, image in frames:
            if not time > last:
                raise InputError(f"a frame at {time} s follows one at {last} s; times of frames must ascend")
            while waiting and waiting[0][0] <= time:
                session.push_prompt(waiting.pop(0)[1])
            session.push_frame(image, time)
            yield Step(time, session.decision(timeout))
            last = time
        if waiting:
            raise InputError(f"no frame follows the prompt at {waiting[0][0]} s, {waiting[0][1]!r:.80}")


def replies(steps: Iterable[Step], prompts: Sequence[tuple[float, str]] = ()) -> list[Reply]:
    """Join the texts of steps to replies; an empty text ends no reply that goes on, a prompt (of `drive`) does."""
    found: list[Reply] = []
    asked = sorted(time for time, _ in prompts)
    going = False
    for time, (text, goes_on) in steps:
        while asked and asked[0] <= time:
            asked.pop(0)
            going = False
        if going:
            found[-1] = Reply(found[-1].begin, time, found[-1].text + text)
        elif text or goes_on:
            found.append(Reply(time, time, text))
        going = goes_on
    return [one for one in found if one.text]


def score(said: Sequence[Reply], due: Sequence[Due]) -> Score:
    """Match as many replies as possible with what was due, one with one, and score them."""
    return pooled([(said, due)])


def pooled(streams: Sequence[tuple[Sequence[Reply], Sequence[Due]]]) -> Score:
    """The score of all replies of several streams."""
    pairs = [pair for said, due in streams for pair in _matched(said, due)]
    delays = [reply.begin - met.begin for reply, met in pairs]
    right = [reply.text == met.text for reply, met in pairs if met.text is not None]
    counts = [sum(map(len, each)) for each in zip(*streams, strict=True)] or [0, 0]
    precision, recall = (len(pairs) / count if count else None for count in counts)
    return Score(precision, recall, _mean(delays), _mean(right))


def _matched(said: Sequence[Reply], due: Sequence[Due]) -> Iterator[tuple[Reply, Due]]:
    left = sorted(due, key=lambda one: one.end)
    for reply in sorted(said, key=lambda one: one.begin):
        met = next((one for one in left if one.begin <= reply.begin <= one.end), None)
        if met is not None:  # Of several, the one that ends first: later replies can still meet the others.
            left.remove(met)
            yield reply, met


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
