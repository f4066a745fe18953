"""Evaluation of live sessions on streams of which it is known when something is to be said, and what."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from mossvl.data.live import Stream, read_example
from mossvl.errors import GenerationTimeout, SessionClosed
from mossvl.evaluation.streaming import PATIENCE, Decision, Due, Score, Step, drive, pooled, replies
from mossvl.live import events
from mossvl.live.options import LiveOptions
from mossvl.live.session import LiveSession
from mossvl.llm import MossVL
from mossvl.media.video import open_clip
from mossvl.processing.processor import MossVLProcessor
from mossvl.processing.stream import RESPONSE, SILENCE
from mossvl.synthetic.live_records import TOKENS_PER_SLOT, camera, record_of, tokens_by
from mossvl.synthetic.streaming import LiveSample

STRICT = LiveOptions(tokens_per_second=None, tokens_per_slot=TOKENS_PER_SLOT, when_behind="block")
"""Options of sessions that are evaluated: no real time, and as many tokens between two frames as in training."""
GRACE = 1.0
"""Seconds by which a reply may be late."""
Frames = Callable[[], Iterable[tuple[float, Image.Image]]]


class Watcher:
    """A `Session` of `drive` on a live session of an engine, which begins with the first prompt.

    What is said before the first frame, or between prompts, is part of the next decision.

    Args:
        system_prompt: None for the published one.
        options: the session's; without a pace in real time.
    """

    def __init__(self, llm: MossVL, system_prompt: str | None = None, options: LiveOptions = STRICT) -> None:
        self._llm, self._system_prompt, self._options = llm, system_prompt, options
        self._session: LiveSession | None = None
        self._prompts: list[str] = []
        self._told: list[events.LiveEvent] = []
        self._before = ""

    def push_prompt(self, text: str) -> None:
        self._prompts.append(text)

    def push_frame(self, image: Image.Image, timestamp: float) -> None:
        """Show a frame, together with the last prompt before it.

        Raises:
            GenerationTimeout: there is no decision about an earlier prompt.
            MossVLError: the session has failed.
        """
        prompts, self._prompts = self._prompts, []
        if self._session is None:
            opening = prompts.pop(0) if prompts else ""
            self._session = self._llm.live(opening, system_prompt=self._system_prompt, options=self._options)
            self._before = self.decision(PATIENCE).text
        for text in prompts[:-1]:
            self._session.say(text)
            self._before = self.decision(PATIENCE).text
        if prompts:
            self._session.say(prompts[-1], image, timestamp)
        else:
            self._session.push(image, timestamp)

    def decision(self, timeout: float) -> Decision:
        session, end = self._session, time.monotonic() + timeout
        assert session is not None
        text, self._before = self._before, ""
        while True:
            while self._told:
                event = self._told.pop(0)
                if isinstance(event, events.Text):
                    text += event.text
                elif isinstance(event, events.Decision):
                    return Decision(text, event.goes_on)
                elif isinstance(event, events.Dropped) and not session.deciding:
                    return Decision(text, False)
                elif isinstance(event, events.Closed):
                    raise event.error or SessionClosed(f"the session has ended ({event.reason}) without a decision")
            if not session.wait(max(0.0, end - time.monotonic())):
                raise GenerationTimeout(f"the session has not decided within {timeout:g} seconds")
            self._told += session.take()

    def close(self) -> None:
        if self._session is not None:
            self._session.close()


@dataclass(frozen=True)
class Script:
    """A stream to evaluate a session on.

    Attributes:
        name: scores are pooled by name.
        frames: begins the stream; (seconds, frame) in ascending order.
        prompts: (seconds, text), as `drive` takes them.
        due: what is to be said.
        system_prompt: None for the published one.
    """

    name: str
    frames: Frames
    prompts: Sequence[tuple[float, str]]
    due: Sequence[Due]
    system_prompt: str | None = None


def evaluate(
    llm: MossVL,
    scripts: Iterable[Script],
    options: LiveOptions = STRICT,
    sessions: int = 1,
    timeout: float = PATIENCE,
) -> dict[str, Score]:
    """Show streams to live sessions, and score what they say.

    Args:
        options: of the sessions.
        sessions: streams that are shown at the same time.
        timeout: seconds that a decision may take.

    Returns:
        the score of all streams of each name, in the order in which the names first appear.

    Raises:
        MossVLError: a session has failed.
    """

    def watched(script: Script) -> tuple[str, Any]:
        session = Watcher(llm, script.system_prompt, options)
        steps = list(drive(session, script.frames(), script.prompts, timeout))
        return script.name, (replies(steps, script.prompts), script.due)

    found: defaultdict[str, list[Any]] = defaultdict(list)
    with ThreadPoolExecutor(sessions) as pool:
        for name, said in pool.map(watched, scripts):
            found[name].append(said)
    return {name: pooled(streams) for name, streams in found.items()}


# --- scripts ---------------------------------------------------------------------------------------------------------


def script_of(stream: Stream, name: str = "", grace: float = GRACE, frames: Frames | None = None) -> Script:
    """The script of a live record: its replies are due when they begin in the record, or `grace` seconds later.

    Args:
        frames: replaces the frames of the record's videos.
    """
    prompts, steps = _script(stream)
    due = [Due(reply.begin, reply.begin + grace, reply.text) for reply in replies(steps, prompts)]
    return Script(name, frames or (lambda: _filmed(stream)), prompts, due, stream.system_prompt)


def _script(stream: Stream) -> tuple[list[tuple[float, str]], list[Step]]:
    """The prompts of a stream, with the time of the next frame, and its decisions."""
    times = list(stream.times)
    prompts: list[tuple[float, str]] = []
    steps: list[Step] = []
    for turn in stream.turns:
        left = times[len(steps) :]
        if left:  # Nothing can be due after the last frame.
            prompts.append((left[0], turn.prompt))
        before = ""
        for slot, now in zip(turn.slots, [None, *left], strict=False):
            text = before + slot.removeprefix(RESPONSE).removesuffix(SILENCE)
            before = text if now is None else ""
            if now is not None:
                steps.append(Step(now, Decision(text, not slot.endswith(SILENCE))))
    return [(when, text) for when, text in prompts if text], steps


def _filmed(stream: Stream) -> Iterator[tuple[float, Image.Image]]:
    for source, times in stream.videos:
        with open_clip(source) as clip:
            pictures = clip.read([clip.index_at(instant) for instant in times])
            for instant, pixels in zip(times, pictures, strict=True):
                yield instant, Image.fromarray(pixels)


def synthetic_scripts(
    samples: Iterable[LiveSample], processor: MossVLProcessor, grace: float = GRACE, size: int = 128
) -> Iterator[Script]:
    """Scripts of streams of the procedural world, named by their tasks.

    Args:
        processor: its tokens give the pace of replies, and so what is said until a prompt cuts one.
        size: height and width of the frames in pixels.
    """
    for sample in samples:
        stream = read_example(record_of(sample, "", tokenise=tokens_by(processor)), Path())
        assert isinstance(stream, Stream)
        yield script_of(stream, sample.task, grace, lambda sample=sample: camera(sample, size=size))  # type: ignore[misc]
