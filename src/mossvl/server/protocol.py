"""What clients send, in OpenAI's form."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from mossvl.options import Timestamps

MANY = 4096
"""Entries of any list of a request."""
LONGEST_FORM = 50_000
"""Characters of a pattern, or of a schema as JSON."""
UNSUPPORTED = (
    "tools", "tool_choice", "functions", "function_call", "logit_bias", "audio", "prediction", "web_search_options",
)  # fmt: skip
"""Keys that are refused as long as they ask for something."""
StopText = Annotated[str, Field(min_length=1, max_length=256)]


class Part(BaseModel):
    """Of these objects, unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", strict=True)


def named(key: str) -> Callable[[Any], Any]:
    """A validator that takes {key: value} for a value that is a text alone."""
    return lambda given: {key: given} if isinstance(given, str) else given


class ImageSource(Part):
    """An image."""

    url: str = Field(description="http(s):, data:, upload: or, where it is allowed, file:")
    detail: str | None = Field(None, description="Ignored; say max_pixels instead.")
    min_pixels: int | None = Field(None, ge=1)
    max_pixels: int | None = Field(None, ge=1)


class VideoOptions(Part):
    fps: float | None = Field(None, gt=0, description="Frames taken of a second.")
    min_frames: int | None = Field(None, ge=1)
    max_frames: int | None = Field(None, ge=1)
    min_pixels: int | None = Field(None, ge=1, description="Of a frame.")
    max_pixels: int | None = Field(None, ge=1, description="Of a frame.")
    timestamps: Timestamps | None = Field(
        None, description="Times told of frames; published: counted by the average rate. Default: actual."
    )


class VideoSource(VideoOptions):
    """A video, or parts of it."""

    url: str = Field(description="http(s):, data:, upload: or, where it is allowed, file:")
    segments: list[list[float]] | None = Field(
        None,
        min_length=1,
        max_length=MANY,
        description="Seconds: [start, end] or [instant]. Each is seen as a video of its own.",
    )


class TimedFrame(Part):
    timestamp: float = Field(ge=0, description="Seconds.")
    url: str


class FramesSource(VideoOptions):
    """A video as a list of pictures of one size, each with its time."""

    frames: Annotated[list[TimedFrame], Field(min_length=1, max_length=MANY, fail_fast=True)]


class TextPart(Part):
    type: Literal["text"]
    text: str


class ImagePart(Part):
    type: Literal["image_url"]
    image_url: Annotated[ImageSource, BeforeValidator(named("url"))]


class VideoPart(Part):
    type: Literal["video_url"]
    video_url: Annotated[VideoSource, BeforeValidator(named("url"))]


class FramesPart(Part):
    type: Literal["video_frames"]
    video_frames: FramesSource


MediumPart = Annotated[ImagePart | VideoPart | FramesPart, Field(discriminator="type")]
ContentPart = Annotated[TextPart | ImagePart | VideoPart | FramesPart, Field(discriminator="type")]


Content = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[ContentPart], Field(max_length=MANY, fail_fast=True), Tag("parts")],
    Discriminator(lambda given: "text" if isinstance(given, str) else "parts"),
]


class ChatMessage(BaseModel):
    """One turn."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "developer", "user", "assistant"]
    content: Content | None = None
    # Of answers that clients send back as they got them; of no effect here.
    name: Any = None
    refusal: Any = None
    annotations: Any = None
    audio: Any = None
    function_call: Any = None
    tool_calls: Any = None
    reasoning_content: Any = None


class StreamOptions(BaseModel):
    include_usage: bool | None = None
    include_obfuscation: Any = None


class JsonSchema(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = "answer"
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """The form of the answer; `regex` (with `pattern`) is an extension."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text", "json_object", "json_schema", "regex"]
    json_schema: JsonSchema | None = None
    pattern: str | None = Field(None, max_length=LONGEST_FORM)


class ChatRequest(BaseModel):
    """A request for a chat completion."""

    model_config = ConfigDict(extra="forbid")

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MANY, fail_fast=True)]
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=1, description="The older name of max_completion_tokens.")
    temperature: float | None = Field(None, ge=0, le=2, description="0, the default, takes the likeliest token.")
    top_p: float | None = Field(None, gt=0, le=1)
    stop: StopText | Annotated[list[StopText], Field(max_length=16)] | None = None
    seed: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    response_format: ResponseFormat | None = None
    # Extensions.
    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0)
    stop_token_ids: list[int] | None = Field(None, max_length=1000)
    ignore_eos: bool | None = None
    timeout: float | None = Field(None, gt=0, description="Seconds.")
    # Accepted, and of no effect here.
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
    # Refused, unless they are empty.
    tools: Any = None
    tool_choice: Any = None
    functions: Any = None
    function_call: Any = None
    logit_bias: Any = None
    audio: Any = None
    prediction: Any = None
    web_search_options: Any = None


class FramesRequest(Part):
    """A request for what the model would see of a medium."""

    part: MediumPart
    thumbnails: int = Field(0, ge=0, le=512, description="Longest side of the pictures, in pixels; 0 for none.")
