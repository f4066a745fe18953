"""OpenAPI descriptions of request bodies and of error responses."""

from typing import Any


def body_of(form: Any) -> dict[str, Any]:
    """Return the OpenAPI description of a JSON body, for a route that parses its body itself."""
    schema = form.model_json_schema(ref_template="#/components/schemas/{model}")
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": _inlined(schema)}}}}


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema whose `$ref`s are replaced by their definitions."""
    known = schema.pop("$defs", {})

    def put(part: Any) -> Any:
        if isinstance(part, list):
            return [put(one) for one in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            return put(known[part["$ref"].rpartition("/")[2]])
        return {key: put(value) for key, value in part.items() if key != "discriminator"}

    placed: dict[str, Any] = put(schema)
    return placed


STREAM: dict[int | str, dict[str, Any]] = {
    200: {"description": "The answer.", "content": {"text/event-stream": {"schema": {"type": "string"}}}}
}
"""OpenAPI description of an answer that may be a stream, beside its JSON."""


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI description of a route's error responses."""
    schema = {
        "type": "object",
        "required": ["error"],
        "properties": {"error": {"type": "object", "required": ["message", "type", "code", "param"]}},
    }
    content = {"application/json": {"schema": schema}}
    return {status: {"description": "An error.", "content": content} for status in statuses}
