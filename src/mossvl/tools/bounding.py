"""JSON schemas with bounds where they have none, for models that were never trained to call functions.

Such a model does not know when an argument ends. What satisfies the bounded schema satisfies the given one.
"""

from collections.abc import Mapping
from typing import Any

LONGEST_TEXT = 100
"""Characters of a text."""
LARGEST_NUMBER = 10**9
MOST_ITEMS = 3
"""Items of an array, or properties of an object that lists none."""
OF_TEXTS = ("minLength", "maxLength", "pattern", "format")
OF_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
OTHER_FORMS = ("enum", "const", "$ref", "anyOf", "oneOf", "allOf", "not", "if")
NAMED = ("properties", "patternProperties", "$defs", "definitions")
OPEN = ("additionalProperties", "patternProperties")
VALUES = ("items", "prefixItems", "anyOf", "oneOf", "allOf", "additionalProperties")


def bounded(schema: Any) -> Any:
    """Return a copy of a schema in which texts, numbers, arrays and objects without bounds have some."""
    if isinstance(schema, list):
        return [bounded(one) for one in schema]
    if schema is True:
        schema = {}
    if not isinstance(schema, Mapping):
        return schema
    result = dict(schema)
    for name, value in schema.items():
        if name in NAMED and isinstance(value, Mapping):
            result[name] = {key: bounded(one) for key, one in value.items()}
        elif name in VALUES:
            result[name] = bounded(value)
    if any(name in schema for name in OTHER_FORMS):
        return result
    if "type" not in schema and "properties" not in schema:
        result["type"] = "array" if "items" in schema else "string"
    kinds = _kinds(result.get("type", "object"))
    if "string" in kinds and not any(name in schema for name in OF_TEXTS):
        result["maxLength"] = LONGEST_TEXT
    if not any(name in schema for name in OF_NUMBERS) and {"integer", "number"} & set(kinds):
        kinds = ["integer" if kind == "number" else kind for kind in kinds]  # Decimals have no last place.
        result |= {"type": kinds[0] if len(kinds) == 1 else kinds}
        result |= {"minimum": -LARGEST_NUMBER, "maximum": LARGEST_NUMBER}
    if "array" in kinds and "maxItems" not in schema:
        result["maxItems"] = max(MOST_ITEMS, _number(schema.get("minItems")))
    if "object" in kinds and "properties" not in schema:
        result |= _bounds_of_properties(schema)
    return result


def _kinds(given: Any) -> list[str]:
    """Return a schema's types; none if they are malformed, so that the schema stays as it is, and is refused so."""
    kinds = [given] if isinstance(given, str) else given
    return kinds if isinstance(kinds, list) and all(isinstance(kind, str) for kind in kinds) else []


def _bounds_of_properties(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return what bounds an object that lists no properties: it has none, unless the schema asks for some."""
    required = schema.get("required")
    asked = required or schema.get("minProperties") or schema.get("patternProperties")
    if not asked and not isinstance(schema.get("additionalProperties"), Mapping):
        return {"properties": {}, "additionalProperties": False}
    least = max(_number(schema.get("minProperties")), len(required) if isinstance(required, list) else 0)
    bounds = {} if "maxProperties" in schema else {"maxProperties": max(MOST_ITEMS, least)}
    return bounds if any(name in schema for name in OPEN) else bounds | {"additionalProperties": bounded(True)}


def _number(given: Any) -> int:
    """Return a number of items; 0 for what is none."""
    return given if isinstance(given, int) else 0
