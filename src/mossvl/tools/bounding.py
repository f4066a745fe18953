"""JSON schemas with bounds where they have none, for models that were never trained to call functions.

Such a model does not know when an argument ends. What satisfies the bounded schema satisfies the given one.
"""

from collections.abc import Mapping
from typing import Any

LONGEST_TEXT = 100
"""Characters of a text."""
LARGEST_NUMBER = 10**9
MOST_ITEMS = 3
OF_TEXTS = ("minLength", "maxLength", "pattern", "format")
OF_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
OTHER_FORMS = ("enum", "const", "$ref", "anyOf", "oneOf", "allOf", "not", "if")
NAMED = ("properties", "$defs", "definitions")
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
    kinds = result.get("type", "object")
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    if "string" in kinds and not any(name in schema for name in OF_TEXTS):
        result["maxLength"] = LONGEST_TEXT
    if not any(name in schema for name in OF_NUMBERS) and {"integer", "number"} & set(kinds):
        kinds = ["integer" if kind == "number" else kind for kind in kinds]  # Decimals have no last place.
        result |= {"type": kinds[0] if len(kinds) == 1 else kinds}
        result |= {"minimum": -LARGEST_NUMBER, "maximum": LARGEST_NUMBER}
    if "array" in kinds and "maxItems" not in schema:
        result["maxItems"] = max(MOST_ITEMS, schema.get("minItems", 0))
    if "object" in kinds and "properties" not in schema and not schema.get("minProperties"):
        result |= {"properties": {}, "additionalProperties": False}
    return result
