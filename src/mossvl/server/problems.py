"""Messages for bodies that fail validation: which field is wrong, and why."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from mossvl.names import nearest
from mossvl.options.checks import hint
from mossvl.server.errors import RequestError
from mossvl.server.schemas.body import Body
from mossvl.server.shapes import OBJECT, Place, keys_of, tags_of, told_of

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


def check_query(given: Iterable[str], known: Sequence[str]) -> None:
    """Refuse parameters of a URL that its route does not know.

    Routes whose answers depend on none do not look at them: Anthropic's clients send `?beta=true`, Azure's a version.

    Raises:
        RequestError: there is one.
    """
    for name in given:
        if name not in known:
            key = name[:LONGEST_KEY]
            raise RequestError(400, "invalid_request", f"{key}: unknown parameter; {hint(key, known)}", key)


def first_problem(problems: ValidationError, form: type[BaseModel]) -> RequestError:
    """Return the problem to report: a wrong role or type first, as it decides the schema; then an unknown key."""
    found = problems.errors(include_url=False)
    kinds = [one for one in found if one["type"] == "literal_error" and one["loc"][-1] in KINDS]
    unknown = [one for one in found if one["type"] == "extra_forbidden"]
    if unknown and not kinds:
        *above, key = unknown[0]["loc"]
        place = Place.of(above, form)
        return _refusal([*place.steps, str(key)[:LONGEST_KEY]], _unknown(str(key), place.forms))
    # For unions, report the member that matched deepest.
    near = [one for one in found if one["loc"][:1] == found[0]["loc"][:1]]
    problem = max(kinds or near, key=lambda one: (len(one["loc"]), not one["type"].endswith("_type")))
    place = Place.of(problem["loc"], form)
    what = _with_given(problem, place)
    if problem["type"] == "union_tag_invalid":
        what = f"type {problem['ctx']['tag']!r:.80} is none of {problem['ctx']['expected_tags']}"
    if problem["type"] == "union_tag_not_found" and isinstance(problem["input"], Mapping):
        what = f"a part needs a type: {', '.join(repr(tag) for one in place.forms for tag in tags_of(one))}"
    if kinds:
        what = f"{problem['input']!r:.80} is none of {problem['ctx']['expected']}"
        if problem["input"] == OLD_ROLE and place.steps[-1] == "role":
            what += "; send the result of a call as role 'tool' with a tool_call_id"
    return _refusal(place.steps, what)


def _with_given(problem: Any, place: Place) -> str:
    """What was expected, and what was given; to a value of a wrong type, all types that its place may have."""
    what, given = problem["msg"].replace(" after validation", ""), problem["input"]
    if problem["type"].endswith("_type") or problem["type"] == "union_tag_not_found":
        allowed = told_of(place.allowed)
        what = f"Input should be {allowed}" if " or " in allowed or allowed == OBJECT else what
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
    if meant := next((named for form in forms if (named := _of_others(form).get(key))), None):
        return f"unknown key; did you mean {meant!r}?"
    names = {name: field for form in forms for name, field in keys_of(form).items()}
    known = [name for name, field in names.items() if field.annotation is not Any]  # Others are ignored, or refused.
    if near := nearest(key, [] if key in OF_OTHER_APIS else known):
        return f"unknown key; did you mean {near!r}?"
    listed = f"known here: {', '.join(known)}" if known and len(names) <= FEW else "leave it out"
    return f"unknown key; {listed}"


def _of_others(form: type[BaseModel]) -> Mapping[str, str]:
    return form.OF_OTHERS if issubclass(form, Body) else {}
