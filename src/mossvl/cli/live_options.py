"""Flags of live sessions."""

from mossvl.cli.flags import Flag, Flags
from mossvl.cli.options import OF_CHECKPOINT, GenerationFlags
from mossvl.live.options import LiveOptions


class LiveFlags(Flags):
    """Flags of `LiveOptions`; of those that may have no limit, 0 is none."""

    options, panel = LiveOptions, "Live session"
    flags = {
        "window_seconds": Flag("Seconds of the stream that the model sees; 0: no limit.", ("--window",)),
        "window_frames": Flag("Maximum number of frames that the model sees. Default: no limit."),
        "tokens_per_second": Flag("Tokens drawn in a second of the stream at most; 0: no limit."),
        "max_new_tokens": Flag("Maximum number of tokens drawn after each frame or question. Default: no limit."),
        "max_context": Flag(
            "Text tokens of the session before it goes on in a new, shorter context. Default: 8,192, or a sixteenth of "
            "what the model and the memory hold, if that is less."
        ),
        "when_behind": Flag(
            "Frames that come faster than they are seen: drop_oldest, latest (all but the newest are dropped), block."
        ),
        "queue": Flag("Maximum number of frames that wait."),
        "frames": Flag("one_per_slot: the model decides after each frame; drain: after all frames that wait."),
        "idle_timeout": Flag("Seconds without a frame or question after which the session ends. Default: none."),
        "ignore_eos": Flag("Go on after an end token; otherwise the model falls silent.", ("--ignore-eos",)),
        **{name: GenerationFlags.flags[name] for name in ("do_sample", "temperature", "top_k", "top_p", "min_p")},
        "repetition_penalty": Flag("Above 1: make tokens of the stream less likely; control tokens and times are not."),
        "seed": GenerationFlags.flags["seed"],
        "min_pixels": Flag("Minimum area of a frame, in pixels; smaller ones are enlarged." + OF_CHECKPOINT),
        "max_pixels": Flag("Maximum area of a frame, in pixels; larger ones are scaled down." + OF_CHECKPOINT),
    }
