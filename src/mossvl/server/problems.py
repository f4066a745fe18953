"""What is wrong with a body that is not of the form of a request, and where."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from mossvl.names import nearest
from mossvl.server.errors import RequestError
from mossvl.server.protocol import (
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
KINDS = ("role", "type")
"""Keys whose value says what else an object may hold."""
OF_TOOLS = ("tool", "function")
"""Roles of messages that OpenAI's clients send about tools."""
FEW = 8
"""Keys that are listed where none of them is like the one that was given."""
LONGEST_KEY = 80
"""Characters of a key that was given, as far as it is told."""


def first_problem(problems: ValidationError, form: type[BaseModel]) -> RequestError:
    """The problem that is told: a wrong role or type, on which the rest depends; or else an unknown key; or another."""
    found = problems.errors(include_url=False)
    kinds = [one for one in found if one["type"] == "literal_error" and one["loc"][-1] in KINDS]
    unknown = [one for one in found if one["type"] == "extra_forbidden"]
    if unknown and not kinds:
        *above, key = unknown[0]["loc"]
        steps, form = _way(above, form)
        return _refusal([*steps, str(key)[:LONGEST_KEY]], _unknown(str(key), form))
    # Where several forms are tried, that one was meant into which what was given fits furthest.
    near = [one for one in found if one["loc"][:1] == found[0]["loc"][:1]]
    problem = max(kinds or near, key=lambda one: len(one["loc"]))
    what = problem["msg"]
    if problem["type"] == "union_tag_invalid":
        what = f"type {problem['ctx']['tag']!r:.80} is none of {problem['ctx']['expected_tags']}"
    if kinds:
        what = f"{problem['input']!r:.80} is none of {problem['ctx']['expected']}"
        if problem["input"] in OF_TOOLS:
            what += "; tools are not supported"
    return _refusal(_way(problem["loc"], form)[0], what)


def _refusal(steps: Sequence[str], what: str) -> RequestError:
    place = ".".join(steps) if steps else None
    return RequestError(400, "invalid_request", f"{'the request' if place is None else place}: {what}", place)


def _unknown(key: str, form: type[BaseModel]) -> str:
    names = _keys(form)
    if near := nearest(key, [name for name, field in names.items() if field.annotation is not Any]):
        return f"unknown key; did you mean {near!r}?"
    listed = f"known here: {', '.join(names)}" if len(names) <= FEW else "leave it out"
    return f"unknown key; {listed}"


def _way(location: Sequence[Any], form: type[BaseModel]) -> tuple[list[str], type[BaseModel]]:
    """The keys and numbers that lead to a place, and the form of what lies there."""
    steps = []
    for step in location:
        if isinstance(step, int) or step in _keys(form):
            steps.append(str(step))
            form = FORMS.get(str(step), form)
        else:  # which of several forms pydantic took for what was given: the type of a part, "constrained-str"
            form = TAGS.get(step, form)
    return steps, form


def _keys(form: type[BaseModel]) -> dict[str, FieldInfo]:
    """What is known in a form. Fields of any type are taken, but do nothing, or are refused unless they are empty."""
    return {field.alias or name: field for name, field in form.model_fields.items()}
