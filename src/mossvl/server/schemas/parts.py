"""Content parts of messages: texts, images and videos."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag

from mossvl.options import Timestamps
from mossvl.server.schemas.body import Body
from mossvl.server.schemas.spellings import spelled

MANY = 4096
"""Most entries of any list in a request."""


class Part(Body):
    """An object whose values are of the types of the schema."""

    model_config = ConfigDict(strict=True)


def named(key: str) -> Callable[[Any], Any]:
    """Return a validator that expands a string to {key: string}."""
    return lambda given: {key: given} if isinstance(given, str) else given


class ImageSource(Part):
    """An image."""

    url: str = Field(description="http(s):, data:, upload: or, where it is allowed, file:; or base64.")
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


class FileSource(Part):
    """A file, in one of three ways."""

    file_id: str | None = Field(None, description="Of an uploaded file.")
    file_data: str | None = Field(None, description="A data: URL, or base64.")
    file_url: str | None = None
    filename: str | None = None


class AnyPart(Part):
    """Fields of all parts."""

    uuid: Any = Field(None, description="Ignored: media are known by their content.")
    cache_control: Any = Field(None, description="Ignored: the prefix cache holds all prompts.")


class TextPart(AnyPart):
    type: Literal["text"]
    text: str


class ImagePart(AnyPart):
    type: Literal["image_url"]
    image_url: Annotated[ImageSource, BeforeValidator(named("url"), json_schema_input_type=str | ImageSource)]


class VideoPart(AnyPart):
    type: Literal["video_url"]
    video_url: Annotated[VideoSource, BeforeValidator(named("url"), json_schema_input_type=str | VideoSource)]


class FramesPart(AnyPart):
    type: Literal["video_frames"]
    video_frames: FramesSource


class FilePart(AnyPart):
    """A file that is an image or a video."""

    type: Literal["file"]
    file: FileSource


MediumPart = Annotated[ImagePart | VideoPart | FramesPart, Field(discriminator="type")]
ContentPart = Annotated[
    Annotated[TextPart | ImagePart | VideoPart | FramesPart | FilePart, Field(discriminator="type")],
    BeforeValidator(spelled),
]

Content = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[ContentPart], Field(max_length=MANY, fail_fast=True), Tag("parts")],
    Discriminator(lambda given: "text" if isinstance(given, str) else "parts"),
]
