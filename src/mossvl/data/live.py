"""Live records: streams of frames in which the assistant decides, frame by frame, whether to speak.

An assistant's text holds `<|silence|>`, `<|response|>`, replies, and one `<|video|>` for each frame; `videos` name the
instants of the frames: `{"video_path": …, "segments": [[0], [1], …]}`.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from mossvl.data.placing import PLACEHOLDER, located
from mossvl.data.records import dialogue_of, with_media_placed
from mossvl.errors import DataError
from mossvl.media.fetch import source_name
from mossvl.names import nearest
from mossvl.processing.parts import Message
from mossvl.processing.plan import video_segments
from mossvl.processing.prompt import VIDEO
from mossvl.processing.sampling import check_segments
from mossvl.processing.stream import REALTIME, RESPONSE, SILENCE

MARK = re.compile(r"(<\|[^<>|]*\|>|<(?:video|image)>)")
FRAMES = (VIDEO, "<video>")
FORM = f"a slot is {SILENCE}, or {RESPONSE} and a chunk of the reply, closed by {SILENCE} where the reply ends"


class Turn(NamedTuple):
    """A user's prompt, and what the assistant does until the next one.

    Attributes:
        prompt: may be empty.
        slots: decision slots, between which frames come: one more than frames. The first, the leading slot, may be
            empty; the others are not.
    """

    prompt: str
    slots: tuple[str, ...]


@dataclass(frozen=True)
class Stream:
    """A live record.

    Attributes:
        videos: a source, and the instants (seconds) of its frames, each; the instants ascend over all videos.
    """

    system_prompt: str
    turns: tuple[Turn, ...]
    videos: tuple[tuple[Any, tuple[float, ...]], ...]

    @property
    def times(self) -> tuple[float, ...]:
        """The times of all frames, in seconds."""
        return tuple(time for _, times in self.videos for time in times)

    def first(self, frames: int) -> list[tuple[Any, tuple[float, ...]]]:
        """The videos, with their instants, of the first frames."""
        left, found = frames, []
        for source, times in self.videos:
            if own := times[:left]:
                found.append((source, own))
            left -= len(own)
        return found

    def without_leading_slots(self, share: float, seed: object) -> "Stream":
        """A stream in which this share of the turns, chosen at random, begins with a frame instead of `<|silence|>`.

        A leading slot with a reply stays, as does one that no frame follows.
        """
        random = Random(f"leading slots {seed}")
        dropped = [random.random() < share and len(turn.slots) > 1 and turn.slots[0] == SILENCE for turn in self.turns]
        turns = [
            turn._replace(slots=("", *turn.slots[1:])) if drop else turn
            for turn, drop in zip(self.turns, dropped, strict=True)
        ]
        return replace(self, turns=tuple(turns))


def read_example(record: Mapping[str, Any], media_dir: Path) -> list[Message] | Stream:
    """Turn a fine-tuning record into messages (see `as_example`), or into a stream if it is a live record.

    Raises:
        InputError: the record is malformed.
    """
    turns, media = dialogue_of(record)
    if not is_live(turns):
        return with_media_placed(turns, media, media_dir)
    return as_stream(turns, media, media_dir, "" if record.get("system_prompt") == "" else REALTIME)


def is_live(turns: Sequence[Message]) -> bool:
    """Whether an assistant's text holds state tokens or frames."""
    answers = [_text(turn["content"]) for turn in turns if turn["role"] == "assistant"]
    return any(mark in answer for answer in answers for mark in (SILENCE, RESPONSE, VIDEO))


def as_stream(
    turns: Sequence[Message], media: Mapping[str, Any], media_dir: Path, system_prompt: str = REALTIME
) -> Stream:
    """Turn the dialogue of a live record (see `dialogue_of`) into a stream.

    Args:
        media_dir: folder against which relative paths of videos are resolved.
        system_prompt: of a stream without a system turn.

    Raises:
        DataError: a slot or the order of turns is malformed, a token is unknown, placeholders do not match instants, or
            times do not ascend.
        InputError: a video is malformed.
    """
    if media.get("images"):
        raise DataError("the frames of a live record are instants of videos; this one has images, too")
    if own := turns[0]["role"] == "system":
        system_prompt = _plain(turns[0], 1)
    checked = tuple(_turns(turns[own:], 1 + own))
    given = media.get("videos") or []
    listed = located({"videos": given if isinstance(given, list) else [given]}, media_dir)["videos"]
    stream = Stream(system_prompt, checked, tuple(one for one in map(_instants, listed) if one[1]))
    placeholders = sum(len(turn.slots) - 1 for turn in stream.turns)
    if placeholders != len(stream.times):
        raise DataError(
            f"the assistant's text has {placeholders} {VIDEO} placeholders, but the segments of the videos have "
            f"{len(stream.times)} instants; each frame needs one of both"
        )
    for number, (before, time) in enumerate(pairwise(stream.times), 2):
        if not time > before:
            raise DataError(f"frame {number} is at {time:g} s, after one at {before:g} s; times of frames must ascend")
    return stream


def _turns(turns: Sequence[Message], first: int) -> Iterator[Turn]:
    """Pair prompts with what the assistant does; a prompt that another follows at once gets nothing."""
    prompt: str | None = None
    for number, turn in enumerate(turns, first):
        if turn["role"] == "user":
            if prompt is not None:
                yield Turn(prompt, ("",))
            prompt = _plain(turn, number)
        elif turn["role"] == "assistant" and prompt is not None:
            yield Turn(prompt, tuple(_slots(_text(turn["content"]), number)))
            prompt = None
        else:
            raise DataError(
                f"turn {number} is the {turn['role']}'s; a stream is an optional system turn, then a user's turn (its "
                "text may be empty) before each of the assistant's"
            )
    if prompt is not None:
        raise DataError(f"the last turn is the user's, {prompt!r:.80}; nothing of the assistant follows it")


def _slots(text: str, turn: int) -> list[str]:
    """Split an assistant's text into its slots, and check them."""
    slots = [""]
    for piece in MARK.split(text):
        if piece in FRAMES:
            slots.append("")
        elif MARK.fullmatch(piece) and piece not in (SILENCE, RESPONSE):
            near = nearest(piece, [SILENCE, RESPONSE, VIDEO])
            hint = f"did you mean {near}?" if near else f"known: {SILENCE}, {RESPONSE}, and {VIDEO} for a frame"
            raise DataError(f"turn {turn}: unknown token {piece}; {hint}")
        else:
            slots[-1] += piece
    for number, slot in enumerate(slots):
        where = f"turn {turn}, {f'after frame {number}' if number else 'before the first frame'}"
        if not slot and number:
            raise DataError(f"{where}: there is no decision; {FORM}")
        body = slot.removeprefix(RESPONSE).removesuffix(SILENCE)
        begun = slot.startswith(RESPONSE) or not body or (not number and slot.endswith(SILENCE))
        if SILENCE in body or RESPONSE in body or not begun:
            raise DataError(f"{where}: {slot!r:.120} is no slot; {FORM}")
    return slots


def _plain(turn: Message, number: int) -> str:
    """The text of a system's or a user's turn, which has no frames."""
    text = _text(turn["content"])
    if found := PLACEHOLDER.search(text):
        raise DataError(
            f"turn {number} is the {turn['role']}'s and holds {found[0]}; the frames of a live record stand in the "
            "assistant's turns"
        )
    return text


def _text(content: Any) -> str:
    """The text of a content, its parts joined; a part of a video that names none is a frame."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list | tuple) else [content]
    return "".join(map(_text_of_part, parts))


def _text_of_part(part: Any) -> str:
    if isinstance(part, dict):
        if part == {"type": "video"}:
            return VIDEO
        part = part.get("text", "") if part.get("type", "text") == "text" else ""
    return part if isinstance(part, str) else ""


def _instants(video: Any) -> tuple[Any, tuple[float, ...]]:
    """The source of a video, and the instants of its segments."""
    given = video_segments(video)
    name = source_name(given.source) if isinstance(given.source, str | Path) else "the video"
    if given.segments is None or given.times != "clip":
        raise DataError(
            f'{name}: a video of a live record needs "segments", [[0], [1], …]: the instant of each frame, in seconds '
            "from the start of the clip"
        )
    segments = check_segments(given.segments, math.inf, name) if given.segments else []
    for segment in segments:
        if len(segment) != 1:
            raise DataError(f"{name}: segment {list(segment)} is a span; in a live record, each is one instant: [12.5]")
    return given.source, tuple(segment[0] for segment in segments)
