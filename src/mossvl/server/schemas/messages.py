"""Requests for messages, in Anthropic's format."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag

from mossvl.server.schemas.body import Body
from mossvl.server.schemas.parts import MANY, FramesPart, ImagePart, Part, VideoOptions, VideoPart
from mossvl.server.schemas.sampling import SamplingFields, StopString


class Base64Source(Part):
    type: Literal["base64"]
    media_type: str
    data: str


class UrlSource(Part):
    type: Literal["url"]
    url: str


class FileSource(Part):
    """An uploaded file."""

    type: Literal["file"]
    file_id: str


Source = Annotated[Base64Source | UrlSource | FileSource, Field(discriminator="type")]


class TextBlock(Part):
    type: Literal["text"]
    text: str
    # Ignored.
    cache_control: Any = None
    citations: Any = None


class ImageBlock(Part):
    type: Literal["image"]
    source: Source
    min_pixels: int | None = Field(None, ge=1)
    max_pixels: int | None = Field(None, ge=1)
    cache_control: Any = None  # Ignored.


class VideoBlock(VideoOptions):
    """An extension: a video."""

    type: Literal["video"]
    source: Source
    segments: list[list[float]] | None = Field(None, min_length=1, max_length=MANY)
    cache_control: Any = None  # Ignored.


class ToolUseBlock(Part):
    """A call of an earlier answer."""

    type: Literal["tool_use"]
    id: str
    name: str = Field(min_length=1)
    input: dict[str, Any]
    # Ignored.
    cache_control: Any = None
    caller: Any = None


class ThinkingBlock(Body):
    """Reasoning of another model's answer; ignored."""

    model_config = ConfigDict(extra="ignore")

    type: Literal["thinking", "redacted_thinking"]


Medium = ImageBlock | VideoBlock | ImagePart | VideoPart | FramesPart
ResultPart = Annotated[TextBlock | Medium, Field(discriminator="type")]


def _is_text(given: Any) -> str:
    return "string" if isinstance(given, str) else "blocks"


class ToolResultBlock(Part):
    """What a called function has returned."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: (
        Annotated[
            Annotated[str, Tag("string")]
            | Annotated[list[ResultPart], Field(max_length=MANY, fail_fast=True), Tag("blocks")],
            Discriminator(_is_text),
        ]
        | None
    ) = None
    # Ignored.
    is_error: Any = None
    cache_control: Any = None


Block = Annotated[TextBlock | Medium | ToolUseBlock | ToolResultBlock | ThinkingBlock, Field(discriminator="type")]


class InputMessage(Body):
    """A turn."""

    role: Literal["user", "assistant", "system"]
    content: Annotated[
        Annotated[str, Tag("string")] | Annotated[list[Block], Field(max_length=MANY, fail_fast=True), Tag("blocks")],
        Discriminator(_is_text),
    ]


class Tool(Body):
    """A function that the model may call."""

    name: str
    description: str | None = None
    input_schema: dict[str, Any]
    type: Literal["custom"] | None = None
    # Ignored.
    strict: Any = None
    cache_control: Any = None
    eager_input_streaming: Any = None
    input_examples: Any = None


class ToolChoice(Body):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = Field(None, description="Of the function, for the type tool.")
    disable_parallel_tool_use: bool | None = None


class OutputFormat(Body):
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Body):
    format: OutputFormat | None = None
    effort: Any = None  # Ignored.


class CountRequest(Body):
    """What makes a prompt."""

    OF_OTHERS: ClassVar[Mapping[str, str]] = {
        "input": "messages",
        "prompt": "messages",
        "instructions": "system",
        "response_format": "output_config.format",
        "text": "output_config.format",
    }

    messages: Annotated[list[InputMessage], Field(min_length=1, max_length=MANY, fail_fast=True)]
    model: str | None = None
    system: (
        Annotated[
            Annotated[str, Tag("string")] | Annotated[list[TextBlock], Field(max_length=MANY), Tag("blocks")],
            Discriminator(_is_text),
        ]
        | None
    ) = None
    tools: list[Tool] | None = Field(None, max_length=MANY)
    tool_choice: ToolChoice | None = None
    output_config: OutputConfig | None = None
    # Accepted and ignored.
    thinking: Any = None
    cache_control: Any = None


class MessagesRequest(CountRequest, SamplingFields):
    """A request for a message."""

    OF_OTHERS: ClassVar[Mapping[str, str]] = {
        **CountRequest.OF_OTHERS,
        "max_output_tokens": "max_tokens",
        "max_completion_tokens": "max_tokens",
        "stop": "stop_sequences",
    }

    max_tokens: int = Field(ge=1)
    stop_sequences: list[StopString] | None = Field(None, max_length=16)
    stream: bool | None = None
    # Accepted and ignored.
    metadata: Any = None
    service_tier: Any = None
