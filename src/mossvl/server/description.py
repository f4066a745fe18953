"""What the server's OpenAPI description says of routes that read their requests by themselves."""

from typing import Any


def body_of(form: Any) -> dict[str, Any]:
    """For the description of a route that reads its body by itself."""
    schema = form.model_json_schema(ref_template="#/components/schemas/{model}")
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": _inlined(schema)}}}}


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema with its definitions in their places."""
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


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route may answer beside what it is for."""
    schema = {
        "type": "object",
        "required": ["error"],
        "properties": {"error": {"type": "object", "required": ["message", "type", "code", "param"]}},
    }
    content = {"application/json": {"schema": schema}}
    return {status: {"description": "An error.", "content": content} for status in statuses}
