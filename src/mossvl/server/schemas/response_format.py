"""The constraint on an answer."""

from typing import Any, Literal

from pydantic import Field

from mossvl.server.schemas.body import Body

LONGEST_FORM = 50_000
"""Most characters of a pattern, or of a JSON schema."""


class JsonSchema(Body):
    name: str = "answer"
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    """The constraint on an answer; `regex` (with `pattern`) is an extension."""

    type: Literal["text", "json_object", "json_schema", "regex"]
    json_schema: JsonSchema | None = None
    pattern: str | None = Field(None, max_length=LONGEST_FORM)
