"""JSON schemas whose objects are closed: they have the properties that are listed, unless the schema says otherwise.

This is how the strict modes of public APIs read a schema; JSON Schema itself would let any other property in.
"""

from collections.abc import Iterator, Mapping
from typing import Any

OWN = ("properties", "patternProperties")
"""Keys that list properties: an object with one of them is closed, an object without stays open."""
OPEN = ("additionalProperties", "unevaluatedProperties")
"""Keys by which a schema itself allows or forbids further properties."""
BRANCHES = ("allOf", "anyOf", "oneOf")
BESIDE = (*BRANCHES, "$ref", "then", "else", "dependentSchemas")
"""Keys of further schemas of the same object."""
NAMED = ("properties", "patternProperties", "$defs", "definitions")
"""Keys of mappings from names to schemas."""
VALUES = ("items", "prefixItems", "additionalItems", "additionalProperties")
"""Keys of schemas for the values of an array or an object."""


def closed(schema: Any) -> Any:
    """Return a copy of a schema in which objects that list properties have no others.

    Objects that several schemas describe together (`allOf`, or `properties` beside `$ref`) stay as they are, since to
    close one of these schemas would forbid the properties of the others.

    Raises:
        RecursionError: the schema is nested too deeply.
    """
    partial: set[str] = set()
    same: dict[str, set[str]] = {"#": set(_references(schema))}
    _closed(schema, True, partial, same)
    waiting = list(partial)
    while waiting:  # What a schema of a part refers to describes the same object in part, too.
        found = same.get(waiting.pop(), set()) - partial
        partial |= found
        waiting += found
    return _closed(schema, "#" not in partial, partial, same)


def _references(schema: Any) -> Iterator[str]:
    """The references of a schema, and of its branches, to further schemas of the same object."""
    if not isinstance(schema, Mapping):
        return
    if isinstance(schema.get("$ref"), str):
        yield schema["$ref"]
    for name in BRANCHES:
        branches = schema.get(name)
        for one in branches if isinstance(branches, list) else ():
            yield from _references(one)


def _closed(schema: Any, whole: bool, partial: set[str], same: dict[str, set[str]]) -> Any:
    """Return a copy of a schema, closed if it alone describes its object.

    Args:
        whole: no other schema describes the same object.
        partial: references to schemas that describe an object in part; references found here are added.
        same: the references of each named schema (see `_references`), by the reference to it; what is found is added.
    """
    if not isinstance(schema, Mapping):
        return schema
    beside = [name for name in BESIDE if name in schema and (name not in BRANCHES or _list_properties(schema[name]))]
    own = any(name in schema for name in OWN)
    alone = whole and len(beside) + own < 2
    result = dict(schema)
    for name, value in schema.items():
        if name in BRANCHES and isinstance(value, list):
            inner = alone and (name != "allOf" or len(value) == 1)
            result[name] = [_closed(one, inner, partial, same) for one in value]
        elif name in NAMED and isinstance(value, Mapping):
            result[name] = {}
            for key, one in value.items():
                place = f"#/{name}/{key}"
                same.setdefault(place, set()).update(_references(one))
                result[name][key] = _closed(one, place not in partial, partial, same)
        elif name in VALUES:
            several = isinstance(value, list)
            values = [_closed(one, True, partial, same) for one in (value if several else [value])]
            result[name] = values if several else values[0]
    if not alone and isinstance(schema.get("$ref"), str):
        partial.add(schema["$ref"])
    if alone and own and not any(name in schema for name in OPEN):
        result["additionalProperties"] = False
    return result


def _list_properties(branches: Any) -> bool:
    """Whether some of these schemas list properties, or refer to schemas that may."""
    if not isinstance(branches, list):
        return True
    return any(isinstance(one, Mapping) and any(name in one for name in (*OWN, *BESIDE)) for one in branches)
