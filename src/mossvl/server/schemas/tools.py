"""Functions that an answer may call, and calls in earlier answers."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from mossvl.server.schemas.parts import Part


class FunctionDefinition(Part):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = Field(None, description="JSON schema of an object; by default no arguments.")
    strict: Any = None  # Ignored: forced calls always follow the schema.


class ToolDefinition(Part):
    """A function that the answer may call."""

    type: Literal["function"]
    function: FunctionDefinition
    cache_control: Any = None  # Ignored.


class CalledFunction(BaseModel):
    model_config = ConfigDict(extra="ignore")  # Clients send back what other servers have put there.

    name: str = Field(min_length=1)
    arguments: str | None = Field(None, description="JSON.")


class ToolCall(BaseModel):
    """A call in an earlier answer."""

    model_config = ConfigDict(extra="ignore")

    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction
