"""Requests for responses, in OpenAI's format."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag

from mossvl.server.schemas.body import Body
from mossvl.server.schemas.parts import MANY, FramesPart, ImagePart, Part, VideoOptions, VideoPart
from mossvl.server.schemas.sampling import SamplingFields, StopStrings, StreamOptions

INCLUDABLE = Literal[
    "message.output_text.logprobs",
    "message.input_image.image_url",
    "reasoning.encrypted_content",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
]
"""What `include` may name; all but log-probabilities are of items that this server's answers never have."""


class TextInput(Part):
    type: Literal["input_text", "output_text", "text"]
    text: str
    # Ignored.
    annotations: Any = None
    logprobs: Any = None
    prompt_cache_breakpoint: Any = None


class ImageInput(Part):
    """An image: either its URL or an uploaded file."""

    type: Literal["input_image"]
    image_url: str | None = None
    file_id: str | None = None
    min_pixels: int | None = Field(None, ge=1)
    max_pixels: int | None = Field(None, ge=1)
    # Ignored.
    detail: Any = None
    prompt_cache_breakpoint: Any = None


class VideoInput(VideoOptions):
    """An extension: a video, by its URL or as an uploaded file."""

    type: Literal["input_video"]
    video_url: str | None = None
    file_id: str | None = None
    segments: list[list[float]] | None = Field(None, min_length=1, max_length=MANY)


class FileInput(Part):
    """An image or a video; its media type or its name tells which."""

    type: Literal["input_file"]
    file_data: str | None = Field(None, description="A data: URL; or base64, with a filename.")
    file_id: str | None = None
    file_url: str | None = None
    filename: str | None = None
    # Ignored.
    detail: Any = None
    prompt_cache_breakpoint: Any = None


InputPart = Annotated[
    TextInput | ImageInput | VideoInput | FileInput | ImagePart | VideoPart | FramesPart, Field(discriminator="type")
]
Content = Annotated[
    Annotated[str, Tag("string")] | Annotated[list[InputPart], Field(max_length=MANY, fail_fast=True), Tag("parts")],
    Discriminator(lambda given: "string" if isinstance(given, str) else "parts"),
]


class MessageItem(Body):
    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    # Ignored.
    id: Any = None
    status: Any = None
    phase: Any = None


class CallItem(Body):
    """A function call of an earlier answer."""

    type: Literal["function_call"]
    call_id: str
    name: str = Field(min_length=1)
    arguments: str
    # Ignored.
    id: Any = None
    status: Any = None
    caller: Any = None
    namespace: Any = None


class CallOutputItem(Body):
    """What a called function has returned."""

    type: Literal["function_call_output"]
    call_id: str
    output: Content
    # Ignored.
    id: Any = None
    status: Any = None
    caller: Any = None


class ReasoningItem(Body):
    """Reasoning of another model's answer; ignored."""

    model_config = ConfigDict(extra="ignore")

    type: Literal["reasoning"]


class ReferenceItem(Body):
    """An item of a stored response, by its id."""

    type: Literal["item_reference"] = "item_reference"
    id: str


def kind_of_item(given: Any) -> Any:
    """Return an item's type, which messages and references may leave out."""
    if isinstance(given, dict):
        return given.get("type") or ("item_reference" if set(given) == {"id"} else "message")
    return getattr(given, "type", None)


Item = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[CallItem, Tag("function_call")]
    | Annotated[CallOutputItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")]
    | Annotated[ReferenceItem, Tag("item_reference")],
    Discriminator(kind_of_item),
]


class TextFormat(Body):
    """The form of an answer; `regex` (with `pattern`) is an extension."""

    type: Literal["text", "json_object", "json_schema", "regex"]
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None
    pattern: str | None = None


class TextConfig(Body):
    format: TextFormat | None = None
    verbosity: Any = None  # Ignored.


class FunctionTool(Body):
    """A function that the model may call."""

    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class NamedTool(Body):
    type: Literal["function"]
    name: str


class AllowedTools(Body):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[NamedTool]


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("string")]
    | Annotated[NamedTool, Tag("function")]
    | Annotated[AllowedTools, Tag("allowed_tools")],
    Discriminator(lambda given: "string" if isinstance(given, str) else kind_of_item(given)),
]


class ResponsesRequest(SamplingFields):
    """A request for a response."""

    OF_OTHERS: ClassVar[Mapping[str, str]] = {
        "messages": "input",
        "prompt": "input",
        "system": "instructions",
        "max_tokens": "max_output_tokens",
        "max_completion_tokens": "max_output_tokens",
        "stop_sequences": "stop",
        "response_format": "text.format",
        "output_config": "text.format",
    }

    input: Annotated[
        Annotated[str, Tag("string")]
        | Annotated[list[Item], Field(min_length=1, max_length=MANY, fail_fast=True), Tag("items")],
        Discriminator(lambda given: "string" if isinstance(given, str) else "items"),
    ]
    model: str | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = Field(None, description="Keep the response for later requests; true by default.")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    text: TextConfig | None = None
    tools: list[FunctionTool] | None = Field(None, max_length=MANY)
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    include: list[INCLUDABLE] | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    truncation: Literal["disabled"] | None = None
    background: Literal[False] | None = None
    metadata: dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] | None = Field(
        None, max_length=16
    )
    stop: StopStrings | None = Field(None, description="An extension.")
    # Accepted and ignored.
    reasoning: Any = None
    max_tool_calls: Any = None
    user: Any = None
    safety_identifier: Any = None
    service_tier: Any = None
    prompt_cache_key: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
