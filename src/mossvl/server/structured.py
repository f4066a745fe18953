"""From the fields that say the form of an answer to options of `SamplingParams`."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

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
FORMAT = "response_format"


class Form(NamedTuple):
    """The form of an answer: the request's field, and the option of `SamplingParams` with its value."""

    field: str
    option: str
    value: Any


def form_of(request: StructuredFields) -> Form | None:
    """Return the form of the answer; None if it is free.

    Raises:
        OptionError: several forms are given, or one is too long.
    """
    found = [form for form in _forms(request) if form.value is not None]
    if len(found) > 1:
        fields = [form.field for form in found]
        raise OptionError(f"{', '.join(fields)} exclude each other; give one of them", option=fields[0])
    for form in found:
        given = form.value if isinstance(form.value, str) else json.dumps(form.value)
        if len(given) > LONGEST_FORM:
            message = f"{form.field} has {len(given)} characters; at most {LONGEST_FORM} are allowed"
            raise OptionError(message, option=form.field)
        return form
    return None


def _forms(request: StructuredFields) -> Iterator[Form]:
    """Yield every form; some values are None."""
    for field, option in OPTIONS.items():
        yield Form(field, option, getattr(request, field))
    if request.structured_outputs is not None:
        yield from _of_object(request.structured_outputs)
    if request.response_format is not None:
        yield Form(FORMAT, *_of_format(request.response_format))


def _of_object(given: StructuredOutputs) -> Iterator[Form]:
    for key, option in OF_OBJECT.items():
        yield Form(f"structured_outputs.{key.rstrip('_')}", option, getattr(given, key))
    yield Form("structured_outputs.json_object", "json_schema", ANY_OBJECT if given.json_object else None)


def _of_format(wanted: ResponseFormat) -> tuple[str, Any]:
    match wanted.type:
        case "json_object":
            return "json_schema", ANY_OBJECT
        case "json_schema":
            if wanted.json_schema is None:
                raise OptionError(
                    'response_format of type "json_schema" needs json_schema: {"schema": …}', option=FORMAT
                )
            return "json_schema", wanted.json_schema.schema_
        case "regex":
            if wanted.pattern is None:
                raise OptionError('response_format of type "regex" needs a pattern', option=FORMAT)
            return "regex", wanted.pattern
    return "regex", None
