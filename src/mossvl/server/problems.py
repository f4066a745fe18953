"""Messages for bodies that fail validation: which field is wrong, and why."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from mossvl.names import nearest
from mossvl.server.errors import RequestError
from mossvl.server.schemas.chat import ChatMessage, StreamOptions
from mossvl.server.schemas.parts import (
    FramesPart,
    FramesSource,
    ImagePart,
    ImageSource,
    TextPart,
    TimedFrame,
    VideoPart,
    VideoSource,
)
from mossvl.server.schemas.response_format import JsonSchema, ResponseFormat

TAGS: dict[str, type[BaseModel]] = {
    "text": TextPart,
    "image_url": ImagePart,
    "video_url": VideoPart,
    "video_frames": FramesPart,
}
"""Schemas of content parts, by type."""
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
"""Schemas of objects, by the key that holds them."""
KINDS = ("role", "type")
"""Keys whose value decides an object's schema."""
OF_TOOLS = ("tool", "function")
"""Roles of OpenAI's tool messages."""
FEW = 8
"""Most keys that a message lists for an unknown key without a near match."""
LONGEST_KEY = 80
"""Characters after which an unknown key is cut in a message."""


def first_problem(problems: ValidationError, form: type[BaseModel]) -> RequestError:
    """Return the problem to report: a wrong role or type first, as it decides the schema; then an unknown key."""
    found = problems.errors(include_url=False)
    kinds = [one for one in found if one["type"] == "literal_error" and one["loc"][-1] in KINDS]
    unknown = [one for one in found if one["type"] == "extra_forbidden"]
    if unknown and not kinds:
        *above, key = unknown[0]["loc"]
        steps, form = _way(above, form)
        return _refusal([*steps, str(key)[:LONGEST_KEY]], _unknown(str(key), form))
    # For unions, report the member that matched deepest.
    near = [one for one in found if one["loc"][:1] == found[0]["loc"][:1]]
    problem = max(kinds or near, key=lambda one: (len(one["loc"]), not one["type"].endswith("_type")))
    what = _with_given(problem)
    if problem["type"] == "union_tag_invalid":
        what = f"type {problem['ctx']['tag']!r:.80} is none of {problem['ctx']['expected_tags']}"
    if kinds:
        what = f"{problem['input']!r:.80} is none of {problem['ctx']['expected']}"
        if problem["input"] in OF_TOOLS:
            what += "; tools are not supported"
    return _refusal(_way(problem["loc"], form)[0], what)


def _with_given(problem: Any) -> str:
    """What was expected, and what was given."""
    what, given = problem["msg"].replace(" after validation", ""), problem["input"]
    if problem["type"] == "union_tag_not_found":
        return f"a part needs a type: {', '.join(map(repr, TAGS))}"
    if problem["type"].endswith("_parsing") or problem["type"] == "int_from_float":
        what = what.partition(", ")[0]
    if problem["type"] in ("string_too_long", "string_too_short"):
        return f"{what}, not {len(given)}"
    if problem["type"] == "missing" or not isinstance(given, str | int | float | None):
        return str(what)
    return f"{what}, not {given!r:.40}"


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
    """Return pydantic's location as the keys and indices of the request, and the schema at its end."""
    steps = []
    for step in location:
        if isinstance(step, int) or step in _keys(form):
            steps.append(str(step))
            form = FORMS.get(str(step), form)
        else:  # pydantic's name for a member of a union: a part's type, "constrained-str"
            form = TAGS.get(step, form)
    return steps, form


def _keys(form: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return a schema's fields by their keys in JSON."""
    return {field.alias or name: field for name, field in form.model_fields.items()}
