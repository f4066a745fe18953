"""Options of a live session: names, defaults and limits, defined once for Python, the command line and the server."""

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from mossvl.options import GenerationOptions, MediaOptions
from mossvl.options.checks import Choice, Count, Number, Positive, Switch, Whole, check_options, named_options, text
from mossvl.options.sampling import MIN_SCALE

FramePace = Literal["one_per_slot", "drain"]
WhenBehind = Literal["drop_oldest", "latest", "block"]
InsertedSilence = Literal["always", "published"]

MOST_FPS = 1000.0
"""The highest rate at which a source is sampled, in frames a second."""
ENDLESS = 1 << 40
"""Tokens that a session may draw in all."""


@named_options("option of a live session")
@dataclass(frozen=True)
class LiveOptions:
    """How a live session watches and speaks.

    Attributes:
        tokens_per_second: tokens drawn in a second at most, as the model was trained; None for as fast as possible.
        tokens_per_slot: tokens drawn between two frames at most; a reply that is longer waits for the next frame, but
            not after the final input.
        frames: "one_per_slot": the model decides after each frame, as it was trained; "drain": all waiting frames are
            given at once (as published).
        when_behind: what becomes of frames that come faster than they are seen: "drop_oldest" of more than `queue`;
            "latest": all but the newest are dropped; "block": `push` waits.
        queue: frames that wait at most.
        window_seconds, window_frames: how long, and how many, frames are seen; older ones leave. None for no limit.
        max_context: text tokens of the session before it rolls over into a new, shorter context; by default 8,192, or
            a sixteenth of what the model or the engine's memory holds.
        inserted_silence: whether `<|silence|>` follows every prompt ("always"), or only one that comes with a frame
            ("published").
        max_new_tokens: tokens drawn after each input at most; None for no limit, but for those of a context
            after the last input.
        idle_timeout: seconds without input after which the session is closed; None for never.
        ignore_eos: end tokens have no effect (as published); otherwise the model falls silent after one.
        do_sample, temperature, top_k, top_p, min_p, repetition_penalty, seed: see `GenerationOptions`. The penalty
            spares control tokens and the times of frames.
        min_pixels, max_pixels: minimum and maximum area of a frame, in pixels.
        lora: name of the adapter that watches and speaks; None for the model as it is.

    Raises:
        OptionError: an option is unknown or out of range.
    """

    tokens_per_second: Positive | None = 12.0
    tokens_per_slot: Count | None = None
    frames: Annotated[FramePace, Choice(get_args(FramePace))] = "one_per_slot"
    when_behind: Annotated[WhenBehind, Choice(get_args(WhenBehind))] = "drop_oldest"
    queue: Count = 256
    window_seconds: Positive | None = 60.0
    window_frames: Count | None = None
    max_context: Annotated[int, Whole(256)] | None = None
    inserted_silence: Annotated[InsertedSilence, Choice(get_args(InsertedSilence))] = "always"
    max_new_tokens: Count | None = None
    idle_timeout: Positive | None = None
    ignore_eos: Switch = False
    do_sample: Switch = False
    temperature: Annotated[float, Number()] = 1.0
    top_k: Annotated[int, Whole(-1)] = 50
    top_p: Annotated[float, Number(above=0, most=1)] = 1.0
    min_p: Annotated[float, Number(least=0, most=1)] = 0.0
    repetition_penalty: Annotated[float, Number(above=MIN_SCALE)] = 1.0
    seed: Annotated[int, Whole(float("-inf"))] | None = None
    min_pixels: Count | None = None
    max_pixels: Count | None = None
    lora: Annotated[str, text] | None = None

    def __post_init__(self) -> None:
        check_options(self)
        self.media  # A minimum above its maximum is told now.  # noqa: B018

    @property
    def media(self) -> MediaOptions:
        """How frames are sized."""
        return MediaOptions(min_pixels=self.min_pixels, max_pixels=self.max_pixels)

    @property
    def generation(self) -> GenerationOptions:
        """How tokens are sampled; what ends a reply is for the session to decide."""
        return GenerationOptions(
            max_new_tokens=ENDLESS,
            ignore_eos=True,
            do_sample=self.do_sample,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            seed=self.seed,
        )
