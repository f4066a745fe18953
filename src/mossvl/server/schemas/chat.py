"""Requests for chat completions."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from mossvl.server.schemas.parts import MANY, Content
from mossvl.server.schemas.response_format import ResponseFormat
from mossvl.server.schemas.sampling import SamplingFields, StopTexts, StreamOptions

UNSUPPORTED = (
    "tools", "tool_choice", "functions", "function_call", "logit_bias", "audio", "prediction", "web_search_options",
)  # fmt: skip
"""Keys that are refused unless they are empty, "none" or "auto"."""


class ChatMessage(BaseModel):
    """One turn."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "developer", "user", "assistant"]
    content: Content | None = None
    # Ignored: fields of answers that clients send back unchanged.
    name: Any = None
    refusal: Any = None
    annotations: Any = None
    audio: Any = None
    function_call: Any = None
    tool_calls: Any = None
    reasoning_content: Any = None


class ChatRequest(SamplingFields):
    """A request for a chat completion."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MANY, fail_fast=True)]
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=1, description="The older name of max_completion_tokens.")
    stop: StopTexts | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    # Accepted and ignored.
    modalities: Any = None
    parallel_tool_calls: Any = None
    reasoning_effort: Any = None
    verbosity: Any = None
    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    # Refused (see `UNSUPPORTED`).
    tools: Any = None
    tool_choice: Any = None
    functions: Any = None
    function_call: Any = None
    logit_bias: Any = None
    audio: Any = None
    prediction: Any = None
    web_search_options: Any = None
