"""Requests of lmms-eval as messages and sampling parameters of queries."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mossvl.errors import OptionError, PromptError
from mossvl.options import SamplingParams
from mossvl.processing.messages import Message

IMAGES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
SOUNDS = frozenset({".aac", ".flac", ".m4a", ".mp3", ".ogg", ".opus", ".wav"})
FILLED_UNTIL = ["\n\n"]
"""lmms-eval's default of `until`; it would end an answer after its first paragraph."""
DRAWING = frozenset({"temperature", "top_p", "top_k", "min_p"})
"""Options of `SamplingParams` that have an effect on sampled answers alone."""
SHAPING = frozenset({"max_new_tokens", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed"})
SINGLE = frozenset({"num_beams", "num_return_sequences", "n", "best_of"})
"""Keys that have no effect where they are 1."""
FOREVER = 1e9
"""Seconds; the end of a part of a clip that has no end."""


def messages_of(given: Sequence[Mapping[str, Any]], clip_times: str) -> list[Message]:
    """Messages of a task, in lmms-eval's form, as those of a query.

    Args:
        clip_times: see `Arguments`.

    Raises:
        PromptError: there is sound in them.
    """
    messages = []
    for message in given:
        content = message["content"]
        if not isinstance(content, str):
            content = [part if isinstance(part, str) else _part(part, clip_times) for part in content]
        messages.append({"role": message["role"], "content": content})
    return messages


def question_of(visuals: Any, text: str, clip_times: str) -> list[Message]:
    """A question with media before it, of a task that has no messages; as `messages_of`."""
    parts = [_part(_visual(one), clip_times) for one in _flat(visuals)]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def params_of(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> tuple[SamplingParams, list[str]]:
    """Sampling parameters from a task's `generation_kwargs`, and the keys that have no effect.

    Answers are greedy unless `do_sample`, or a temperature without it, asks for sampling.

    Raises:
        OptionError: a value has another type, or is out of range.
    """
    given = {name: value for name, value in given.items() if value is not None}
    temperature = _temperature(given.get("temperature", 0))
    sampled = bool(given.get("do_sample", temperature > 0))
    names = SHAPING | DRAWING if sampled else SHAPING
    options = {**defaults, **{name: value for name, value in given.items() if name in names}}
    options["temperature"] = _temperature(given.get("temperature", 1)) if sampled else 0.0
    until = given.get("until", [])
    if not isinstance(until, str | list | tuple):
        raise OptionError("{until=} of the task must be a text or a list of texts", given={"until": until})
    stop = [until] if isinstance(until, str) else [] if list(until) == FILLED_UNTIL else until
    known = SHAPING | DRAWING | {"do_sample", "until"}
    idle = [name for name, value in given.items() if name not in known and not (name in SINGLE and value == 1)]
    return SamplingParams(**options, stop=tuple(text for text in stop if text)), idle


def _temperature(value: Any) -> float:
    """A temperature, which may be a text."""
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise OptionError("{temperature=} of the task must be a number", given={"temperature": value}) from error


def _part(part: Mapping[str, Any], clip_times: str) -> dict[str, Any]:
    """A part of a message; for a video, with the segment of the clip that the question is about."""
    kind = part.get("type")
    if kind == "audio" and str(part.get("url")).lower().endswith(".webm"):
        kind = "video"  # lmms-eval takes these files for sound where a task has no messages of its own.
    if kind == "audio":
        raise PromptError("a task with sound cannot be asked: MOSS-VL sees images and videos")
    if kind != "video":
        return dict(part)
    source = next((part[name] for name in ("url", "video", "path") if part.get(name) is not None), None)
    bounds = {**(source if isinstance(source, Mapping) else {}), **part}
    if isinstance(source, Mapping):
        source = next((source[name] for name in ("path", "url", "video") if source.get(name) is not None), None)
    start, end = (
        next((bounds[name] for name in names if bounds.get(name) is not None), None)
        for names in (("start_time", "video_start"), ("end_time", "video_end"))
    )
    if start is None and end is None:
        return {"type": "video", "video": source}
    segment = [0.0 if start is None else start, FOREVER if end is None else end]
    return {"type": "video", "video": {"video_path": source, "segments": [segment], "times": clip_times}}


def _visual(visual: Any) -> dict[str, Any]:
    """A visual as a part: a text is the path of a video or, by its extension, an image; a dict is a part already."""
    if isinstance(visual, str | os.PathLike):
        ending = os.path.splitext(os.fspath(visual))[1].lower()
        kind = "image" if ending in IMAGES else "audio" if ending in SOUNDS else "video"
        return {"type": kind, "url": visual}
    if isinstance(visual, Mapping):
        if "sampling_rate" in visual:
            return {"type": "audio"}
        if "bytes" in visual:
            return {"type": "image", "image": visual}
        return {"type": "video", **visual}
    return {"type": "image", "image": visual}


def _flat(visuals: Any) -> Iterator[Any]:
    """Visuals one by one; some tasks have none, one that is in no list, or lists in a list."""
    if isinstance(visuals, list | tuple):
        for one in visuals:
            yield from _flat(one)
    elif visuals is not None:
        yield visuals
