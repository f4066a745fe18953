"""Which values a schema allows at a place of a request, for messages."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, Tag
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

OBJECT = "an object"
KINDS = {str: "a string", int: "an integer", float: "a number", bool: "true or false", dict: OBJECT}
"""Types of JSON by those of Python."""
PLURALS = {"a string": "strings", "an integer": "integers", "a number": "numbers", OBJECT: "objects"}


class Shape(NamedTuple):
    """A member of a field's type, and the tags by which a union chooses it."""

    tags: tuple[Any, ...]
    type: Any


@dataclass(frozen=True)
class Place:
    """A place in a request.

    Attributes:
        steps: its keys and indices.
        forms: schemas of objects that may be there, after unions have chosen.
        allowed: all that may be there.
    """

    steps: list[str]
    forms: list[type[BaseModel]]
    allowed: list[Shape]

    @classmethod
    def of(cls, location: Sequence[Any], form: type[BaseModel]) -> "Place":
        """Return the place of pydantic's location in a request of a schema."""
        steps: list[str] = []
        allowed = chosen = [Shape((), form)]
        for step in location:
            fields = [keys_of(one)[step] for one in _models(chosen) if step in keys_of(one)]
            if isinstance(step, int):
                steps.append(str(step))
                items = [item for shape in chosen if get_origin(shape.type) is list for item in get_args(shape.type)]
                allowed = chosen = [shape for item in items for shape in _shapes(item)]
            elif chosen is allowed and len(allowed) > 1 and (tagged := [one for one in allowed if step in one.tags]):
                chosen = tagged
            elif fields:
                steps.append(step)
                allowed = chosen = [shape for field in fields for shape in _shapes(_annotated(field))]
            # Any other step is pydantic's name for a member of a union, such as "constrained-str".
        return cls(steps, _models(chosen), allowed)


def told_of(shapes: Sequence[Shape]) -> str:
    """Return what may be at a place, in JSON's words: "a string or a list of objects"."""
    *others, last = list(dict.fromkeys(word for shape in shapes for word in _words(shape.type))) or [""]
    return f"{', '.join(others)} or {last}" if others else last


def keys_of(form: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return a schema's fields by their keys in JSON."""
    return {field.alias or name: field for name, field in form.model_fields.items()}


def tags_of(form: type[BaseModel]) -> tuple[Any, ...]:
    """Return the types for which a schema holds, as a member of a union."""
    field = form.model_fields.get("type")
    return () if field is None else get_args(field.annotation)


def _shapes(annotation: Any, tags: tuple[Any, ...] = ()) -> list[Shape]:
    """Return the members of a type, null apart."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *marks = get_args(annotation)
        for mark in marks:
            if isinstance(mark, Tag):
                tags = (mark.tag,)
            if isinstance(mark, BeforeValidator) and mark.json_schema_input_type is not PydanticUndefined:
                inner = mark.json_schema_input_type
        return _shapes(inner, tags)
    if origin in (Union, UnionType):
        return [shape for member in get_args(annotation) for shape in _shapes(member, tags)]
    if _is_model(annotation):
        tags = tags or tags_of(annotation)
    return [] if annotation is NoneType else [Shape(tags, annotation)]


def _annotated(field: FieldInfo) -> Any:
    """Return a field's type with its marks, which pydantic keeps apart."""
    return Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation


def _models(shapes: Sequence[Shape]) -> list[type[BaseModel]]:
    return [shape.type for shape in shapes if _is_model(shape.type)]


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _words(annotation: Any) -> list[str]:
    """Return a type in JSON's words; several for a literal of several values."""
    origin = get_origin(annotation)
    if origin is Literal:
        return [repr(value) for value in get_args(annotation)]
    if origin is list:
        inner = told_of(_shapes(get_args(annotation)[0]))
        return [f"a list of {PLURALS.get(inner) or inner.replace('a list', 'lists', 1)}"]
    if _is_model(annotation):
        return [OBJECT]
    return [KINDS[kind]] if (kind := origin or annotation) in KINDS else []
