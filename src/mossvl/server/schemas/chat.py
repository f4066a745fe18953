"""Requests for chat completions."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from mossvl.server.schemas.body import Body
from mossvl.server.schemas.parts import MANY, Content, Part
from mossvl.server.schemas.sampling import SamplingFields, StopStrings, StreamOptions
from mossvl.server.schemas.structured import StructuredFields
from mossvl.server.schemas.tools import ToolCall, ToolDefinition

UNSUPPORTED = (
    "functions", "function_call", "audio", "prediction", "web_search_options",
    "best_of", "length_penalty", "use_beam_search",
)  # fmt: skip
"""Keys that are refused unless they are empty, false, "none", "auto" or neutral (see `reading.NEUTRAL`)."""


class ChatMessage(Body):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    tool_calls: list[ToolCall] | None = Field(None, max_length=MANY, description="Calls of an earlier answer.")
    tool_call_id: str | None = Field(None, description="The call whose result this message is.")
    # Ignored: fields of answers that clients send back unchanged.
    name: Any = None
    refusal: Any = None
    annotations: Any = None
    audio: Any = None
    function_call: Any = None
    reasoning_content: Any = None


class VideoLoading(Part):
    """vLLM's options of videos."""

    num_frames: int | None = Field(None, ge=1, description="Frames of each video; with fps, at most so many.")
    fps: float | None = Field(None, gt=0)


class MediaLoading(Part):
    """vLLM's options of media, by kind."""

    video: VideoLoading | None = None


class ChatRequest(SamplingFields, StructuredFields):
    """A request for a chat completion."""

    OF_OTHERS: ClassVar[Mapping[str, str]] = {
        "input": "messages",
        "max_output_tokens": "max_tokens",
        "stop_sequences": "stop",
        "text": "response_format",
        "output_config": "response_format",
    }

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MANY, fail_fast=True)]
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=1, description="The older name of max_completion_tokens.")
    stop: StopStrings | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: list[ToolDefinition] | None = Field(None, max_length=MANY)
    tool_choice: str | dict[str, Any] | None = Field(
        None, description="none, auto (default), required, a named function, or allowed_tools."
    )
    parallel_tool_calls: bool | None = Field(None, description="Whether an answer may have several calls (default).")
    prompt_logprobs: int | None = Field(None, ge=0, le=20)
    # Of the prompt.
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    media_io_kwargs: MediaLoading | None = None
    mm_processor_kwargs: dict[str, Any] | None = None
    request_id: Annotated[str, Field(pattern=r"^[!-~]{1,100}$")] | None = None
    # Accepted and ignored.
    modalities: Any = None
    reasoning_effort: Any = None
    verbosity: Any = None
    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    # Refused (see `UNSUPPORTED`).
    functions: Any = None
    function_call: Any = None
    best_of: Any = None
    length_penalty: Any = None
    use_beam_search: Any = None
    audio: Any = None
    prediction: Any = None
    web_search_options: Any = None
