"""Messages of clients of live sessions: of the simple protocol, and of the video protocol."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from mossvl.live.options import MOST_FPS
from mossvl.server.schemas.body import Body

Seconds = Annotated[float, Field(ge=0, le=1e8, allow_inf_nan=False)]
"""Seconds of a stream."""
Above0 = Annotated[float, Field(gt=0, allow_inf_nan=False)]
UNLIMITED = 86_400.0
"""Tokens per second by default, as published: as fast as possible."""


# --- the simple protocol: WS /v1/realtime ----------------------------------------------------------------------------


class Start(Body):
    """The first message: what the session is asked, and how it answers."""

    type: Literal["start"]
    system_prompt: str | None = None
    prompt: str = ""
    frame_queue_size: int = Field(256, ge=1, le=4096)
    max_tokens_per_second: Above0 = 12.0
    max_new_tokens: int | None = Field(None, ge=1)
    do_sample: bool = False
    temperature: float = Field(1.0, ge=0, le=2)
    top_k: int = Field(50, ge=-1)
    top_p: float = Field(1.0, gt=0, le=1)
    repetition_penalty: float = Field(1.0, gt=0)


class SimpleFrame(Body):
    """Announces a frame: the next binary message is its JPEG or PNG."""

    type: Literal["frame"]
    timestamp: Seconds | None = None
    prompt: str | None = None
    text: str | None = None


class SimplePrompt(Body):
    OF_OTHERS: ClassVar = {"prompt": "text"}

    type: Literal["prompt"]
    text: str


class PlayVideo(Body):
    """Plays a file of the server as if it were live."""

    type: Literal["video"]
    path: str = Field(min_length=1)
    sample_fps: float = Field(1.0, gt=0, le=MOST_FPS)
    playback_speed: float = Field(1.0, ge=0, allow_inf_nan=False)
    max_frames: int = Field(0, ge=0)
    timestamps: Annotated[list[Seconds], Field(min_length=1, max_length=100_000)] | None = None
    decode_batch_size: Any = None  # Ignored.


class StopVideo(Body):
    type: Literal["stop_video"]


class Ping(Body):
    type: Literal["ping"]


class InterruptSpeech(Body):
    """Ours: the model falls silent."""

    type: Literal["interrupt"]


class Stop(Body):
    type: Literal["stop"]


# --- the video protocol: WS /v1/video/realtime -----------------------------------------------------------------------


class StrictBody(Body):
    """No text stands for a number, and no number for true or false."""

    model_config = ConfigDict(extra="forbid", strict=True)


class PrefillMessage(StrictBody):
    role: Literal["system", "user", "assistant"]
    content: str = Field(max_length=131_072)


class Configure(StrictBody):
    """The first message."""

    type: Literal["session.configure"]
    prompt: str = ""
    system_prompt: str | None = None
    prefill_messages: Annotated[list[PrefillMessage], Field(min_length=1, max_length=64)] | None = None
    max_new_tokens: int = Field(4096, gt=0)
    max_tokens_per_turn: float = Field(UNLIMITED, gt=0, allow_inf_nan=False, description="Tokens per second.")
    temperature: float = Field(0.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    input_queue_capacity: int = Field(4, ge=1, le=256)
    benchmark_ignore_eos: bool = False
    include_usage: bool = False


class InputFrame(StrictBody):
    """Announces a frame: after `input.frame.ready`, the next binary message is its image."""

    type: Literal["input.frame"]
    seq_no: int = Field(ge=0)
    timestamp: Seconds
    mime_type: Literal["image/jpeg", "image/png", "image/webp"]
    prompt: str | None = None
    final: bool = False


class InputPrompt(StrictBody):
    OF_OTHERS: ClassVar = {"text": "prompt"}

    type: Literal["input.prompt"]
    seq_no: int = Field(ge=0)
    prompt: str
    final: bool = False


class InterruptResponse(StrictBody):
    """Ours: the model falls silent; it watches on."""

    type: Literal["response.interrupt"]


class Abort(StrictBody):
    type: Literal["session.abort"]
