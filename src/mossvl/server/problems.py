"""What is wrong with a body that is not of the form of a request, and where."""

import difflib
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from mossvl.server.errors import RequestError
from mossvl.server.protocol import (
    UNSUPPORTED,
    ChatMessage,
    FramesPart,
    FramesSource,
    ImagePart,
    ImageSource,
    JsonSchema,
    ResponseFormat,
    StreamOptions,
    TextPart,
    TimedFrame,
    VideoPart,
    VideoSource,
)

TAGS: dict[str, type[BaseModel]] = {
    "text": TextPart,
    "image_url": ImagePart,
    "video_url": VideoPart,
    "video_frames": FramesPart,
}
"""Forms of parts, by their types."""
FORMS: dict[str, type[BaseModel]] = {
    "messages": ChatMessage,
    "image_url": ImageSource,
    "video_url": VideoSource,
    "video_frames": FramesSource,
    "frames": TimedFrame,
    "stream_options": StreamOptions,
    "response_format": ResponseFormat,
    "json_schema": JsonSchema,
}
"""Forms of what lies under a key."""
FEW = 8
"""Keys that are listed where none of them is like the one that was given."""
LONGEST_KEY = 80
"""Characters of a key that was given, as far as it is told."""


def first_problem(problems: ValidationError, form: type[BaseModel]) -> RequestError:
    """The problem that is told: an unknown key before all others."""
    found = problems.errors(include_url=False, include_input=False)
    unknown = [one for one in found if one["type"] == "extra_forbidden"]
    if unknown:
        *above, key = unknown[0]["loc"]
        steps, names = _way(above, form)
        return _refusal([*steps, str(key)[:LONGEST_KEY]], _unknown(str(key), names))
    # Where several forms are tried, that one was meant into which what was given fits furthest.
    problem = max((one for one in found if one["loc"][:1] == found[0]["loc"][:1]), key=lambda one: len(one["loc"]))
    what = problem["msg"]
    if problem["type"] == "union_tag_invalid":
        what = f"type {problem['ctx']['tag']!r:.80} is none of {problem['ctx']['expected_tags']}"
    return _refusal(_way(problem["loc"], form)[0], what)


def _refusal(steps: Sequence[str], what: str) -> RequestError:
    place = ".".join(steps) if steps else None
    return RequestError(400, "invalid_request", f"{'the request' if place is None else place}: {what}", place)


def _unknown(key: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(key[:LONGEST_KEY], [name for name in names if name not in UNSUPPORTED], 1, 0.5)
    if near:
        return f"unknown key; did you mean {near[0]!r}?"
    listed = f"known here: {', '.join(names)}" if len(names) <= FEW else "leave it out"
    return f"unknown key; {listed}"


def _way(location: Sequence[Any], form: type[BaseModel]) -> tuple[list[str], list[str]]:
    """The keys and numbers that lead to a place, and the keys that are known there."""
    steps = []
    for step in location:
        if isinstance(step, int) or step in _keys(form):
            steps.append(str(step))
            form = FORMS.get(str(step), form)
        else:  # which of several forms pydantic took for what was given: the type of a part, "constrained-str"
            form = TAGS.get(step, form)
    return steps, _keys(form)


def _keys(form: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in form.model_fields.items()]
