"""From the fields that say the form of an answer to options of `SamplingParams`."""

import json
from collections.abc import Iterator
from typing import Any

from mossvl.errors import OptionError
from mossvl.server.schemas.response_format import LONGEST_FORM, ResponseFormat
from mossvl.server.schemas.structured import StructuredFields, StructuredOutputs

OPTIONS = {
    "guided_json": "json_schema",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
    "regex": "regex",
    "ebnf": "grammar",
    "json_schema": "json_schema",
}
"""Options of `SamplingParams` by the request's fields."""
OF_OBJECT = {"json_": "json_schema", "regex": "regex", "choice": "choice", "grammar": "grammar"}
"""The same, by the keys of `structured_outputs`."""
ANY_OBJECT = {"type": "object"}


def form_of(request: StructuredFields) -> dict[str, Any]:
    """Return the form of the answer, as an option of `SamplingParams`; none if it is free.

    Raises:
        OptionError: several forms are given, or one is too long.
    """
    found = [(field, option, value) for field, option, value in _forms(request) if value is not None]
    if len(found) > 1:
        raise OptionError(f"{', '.join(field for field, _, _ in found)} exclude each other; give one of them")
    for field, option, value in found:
        given = value if isinstance(value, str) else json.dumps(value)
        if len(given) > LONGEST_FORM:
            raise OptionError(f"{field} has {len(given)} characters; at most {LONGEST_FORM} are allowed")
        return {option: value}
    return {}


def _forms(request: StructuredFields) -> Iterator[tuple[str, str, Any]]:
    """Yield field, option and value of every form; some values are None."""
    for field, option in OPTIONS.items():
        yield field, option, getattr(request, field)
    if request.structured_outputs is not None:
        yield from _of_object(request.structured_outputs)
    if request.response_format is not None:
        yield "response_format", *_of_format(request.response_format)


def _of_object(given: StructuredOutputs) -> Iterator[tuple[str, str, Any]]:
    for key, option in OF_OBJECT.items():
        yield f"structured_outputs.{key.rstrip('_')}", option, getattr(given, key)
    yield "structured_outputs.json_object", "json_schema", ANY_OBJECT if given.json_object else None


def _of_format(wanted: ResponseFormat) -> tuple[str, Any]:
    match wanted.type:
        case "json_object":
            return "json_schema", ANY_OBJECT
        case "json_schema":
            if wanted.json_schema is None:
                raise OptionError('response_format of type "json_schema" needs json_schema: {"schema": …}')
            return "json_schema", wanted.json_schema.schema_
        case "regex":
            if wanted.pattern is None:
                raise OptionError('response_format of type "regex" needs a pattern')
            return "regex", wanted.pattern
    return "regex", None
