"""Messages for bodies that fail validation: which field is wrong, and why."""

from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from mossvl.names import nearest
from mossvl.server.errors import RequestError

KINDS = ("role", "type")
"""Keys whose value decides an object's schema."""
OLD_ROLE = "function"
"""Role of results of calls, before OpenAI's API had tools."""
OF_OTHER_APIS = ("prompt", "input")
"""Fields of other APIs, which mean no field that happens to begin alike."""
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
        steps, forms = _way(above, form)
        return _refusal([*steps, str(key)[:LONGEST_KEY]], _unknown(str(key), forms))
    # For unions, report the member that matched deepest.
    near = [one for one in found if one["loc"][:1] == found[0]["loc"][:1]]
    problem = max(kinds or near, key=lambda one: (len(one["loc"]), not one["type"].endswith("_type")))
    steps, forms = _way(problem["loc"], form)
    what = _with_given(problem)
    if problem["type"] == "union_tag_invalid":
        what = f"type {problem['ctx']['tag']!r:.80} is none of {problem['ctx']['expected_tags']}"
    if problem["type"] == "union_tag_not_found":
        what = f"a part needs a type: {', '.join(repr(tag) for one in forms for tag in _tags(one))}"
    if kinds:
        what = f"{problem['input']!r:.80} is none of {problem['ctx']['expected']}"
        if problem["input"] == OLD_ROLE and steps[-1] == "role":
            what += "; send the result of a call as role 'tool' with a tool_call_id"
    return _refusal(steps, what)


def _with_given(problem: Any) -> str:
    """What was expected, and what was given."""
    what, given = problem["msg"].replace(" after validation", ""), problem["input"]
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


def _unknown(key: str, forms: Sequence[type[BaseModel]]) -> str:
    names = {name: field for form in forms for name, field in _keys(form).items()}
    known = [name for name, field in names.items() if field.annotation is not Any]  # Others are ignored, or refused.
    if near := nearest(key, [] if key in OF_OTHER_APIS else known):
        return f"unknown key; did you mean {near!r}?"
    listed = f"known here: {', '.join(known)}" if known and len(names) <= FEW else "leave it out"
    return f"unknown key; {listed}"


def _way(location: Sequence[Any], form: type[BaseModel]) -> tuple[list[str], list[type[BaseModel]]]:
    """Return pydantic's location as the keys and indices of the request, and the schemas that may be at its end."""
    steps, forms = [], [form]
    for step in location:
        if isinstance(step, int):
            steps.append(str(step))
        elif len(forms) > 1 and (tagged := [one for one in forms if step in _tags(one)]):
            forms = tagged
        elif fields := [_keys(one)[step] for one in forms if step in _keys(one)]:
            steps.append(step)
            forms = [one for field in fields for one in _forms(field.annotation)]
        # Any other step is pydantic's name for a member of a union, such as "constrained-str".
    return steps, forms


def _forms(annotation: Any) -> list[type[BaseModel]]:
    """Return the schemas in a field's type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [form for argument in get_args(annotation) for form in _forms(argument)]


def _tags(form: type[BaseModel]) -> tuple[Any, ...]:
    """Return the types for which a schema holds, as a member of a union."""
    field = form.model_fields.get("type")
    return () if field is None else get_args(field.annotation)


def _keys(form: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return a schema's fields by their keys in JSON."""
    return {field.alias or name: field for name, field in form.model_fields.items()}
