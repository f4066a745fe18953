"""Schemas of requests, in OpenAI's format with extensions."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from mossvl.options import Timestamps

MANY = 4096
"""Most entries of any list in a request."""
LONGEST_FORM = 50_000
"""Most characters of a pattern, or of a JSON schema."""
UNSUPPORTED = (
    "tools", "tool_choice", "functions", "function_call", "logit_bias", "audio", "prediction", "web_search_options",
)  # fmt: skip
"""Keys that are refused unless they are empty, "none" or "auto"."""
StopText = Annotated[str, Field(min_length=1, max_length=256)]


class Part(BaseModel):
    """An object in which unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", strict=True)


def named(key: str) -> Callable[[Any], Any]:
    """Return a validator that expands a string to {key: string}."""
    return lambda given: {key: given} if isinstance(given, str) else given


class ImageSource(Part):
    """An image."""

    url: str = Field(description="http(s):, data:, upload: or, where it is allowed, file:")
    detail: str | None = Field(None, description="Ignored; use max_pixels instead.")
    min_pixels: int | None = Field(None, ge=1)
    max_pixels: int | None = Field(None, ge=1)


class VideoOptions(Part):
    fps: float | None = Field(None, gt=0, description="Sampled frames per second.")
    min_frames: int | None = Field(None, ge=1)
    max_frames: int | None = Field(None, ge=1)
    min_pixels: int | None = Field(None, ge=1, description="Pixels of a frame.")
    max_pixels: int | None = Field(None, ge=1, description="Pixels of a frame.")
    timestamps: Timestamps | None = Field(
        None, description="Frames' timestamps: actual (default), or published, which assume a constant frame rate."
    )


class VideoSource(VideoOptions):
    """A video, or segments of it."""

    url: str = Field(description="http(s):, data:, upload: or, where it is allowed, file:")
    segments: list[list[float]] | None = Field(
        None,
        min_length=1,
        max_length=MANY,
        description="[start, end] or [instant], in seconds; each is a video of its own for the model.",
    )


class TimedFrame(Part):
    timestamp: float = Field(ge=0, description="Seconds.")
    url: str


class FramesSource(VideoOptions):
    """A video as a list of images of one size, each with its timestamp."""

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
    # Ignored: fields of answers that clients send back unchanged.
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
    """The constraint on an answer; `regex` (with `pattern`) is an extension."""

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
    temperature: float | None = Field(None, ge=0, le=2, description="0, the default, is greedy decoding.")
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


class FramesRequest(Part):
    """A request for a preview of a medium."""

    part: MediumPart
    thumbnails: int = Field(0, ge=0, le=512, description="Longest side of thumbnails, in pixels; 0 for none.")
