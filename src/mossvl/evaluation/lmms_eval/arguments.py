"""Arguments of the model in lmms-eval (`--model_args`), by which its cache goes: what changes answers is one."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from mossvl.errors import OptionError
from mossvl.media.limits import MediaLimits
from mossvl.options import EngineConfig, MediaOptions, SamplingParams
from mossvl.options.checks import check_names, choice, present, switch, whole
from mossvl.processing.system_prompt import SYSTEM_PROMPT_KEYS, SystemPrompt

ENGINE = frozenset(option.name for option in fields(EngineConfig))
MEDIA = frozenset(option.name for option in fields(MediaOptions)) - {"video_fps"}
SAMPLING = frozenset({"max_new_tokens", "seed"})
OWN = frozenset({"checkpoint", "pretrained", "fps", "nframes", "clip_times", "media_timeout", "strict"})
HARNESS = frozenset({"batch_size", "max_batch_size"})
KNOWN = ENGINE | MEDIA | SAMPLING | OWN | HARNESS | frozenset(SYSTEM_PROMPT_KEYS)


@dataclass(frozen=True)
class Arguments:
    """The model's arguments, checked.

    Attributes:
        checkpoint: a folder, or the name of a repository; None for mossvl-tiny.
        engine: settings of the engine.
        media: `media_kwargs` of every query.
        system: keys of `SystemPrompt` for conversations without a system prompt of their own.
        limits: of media.
        sampling: `max_new_tokens` and `seed` where a task gives none.
        clip_times: timestamps of a segment of a clip: "segment" counts from the start of the segment, "clip" from that
            of the clip.
        strict: a request that cannot be answered ends the run, instead of having an empty answer.
    """

    checkpoint: str | None
    engine: EngineConfig
    media: Mapping[str, Any]
    system: Mapping[str, Any]
    limits: MediaLimits
    sampling: Mapping[str, Any]
    clip_times: str
    strict: bool

    @classmethod
    def of(cls, given: Mapping[str, Any], device: str | None = None) -> Self:
        """Check arguments as lmms-eval passes them.

        Args:
            device: where the model is loaded, if `given` names no device or "cuda" alone.

        Raises:
            OptionError: an argument is unknown (the nearest known one is named) or out of range, or two of them exclude
                each other.
        """
        check_names(given, KNOWN, "model argument")
        given = present(given)
        if "checkpoint" in given and "pretrained" in given:
            raise OptionError("checkpoint and pretrained are two names of one argument; give one of them")
        checkpoint = given.get("checkpoint", given.get("pretrained"))
        system = {name: given[name] for name in SYSTEM_PROMPT_KEYS if name in given}
        SystemPrompt(**system).text(video=False)  # Refuses here what cannot be used.
        sampling = {name: given[name] for name in SAMPLING if name in given}
        SamplingParams(**sampling)
        return cls(
            checkpoint=None if checkpoint is None else str(checkpoint),
            engine=_engine(given, device),
            media=_media(given),
            system=system,
            limits=MediaLimits(timeout=given.get("media_timeout", MediaLimits.timeout)),
            sampling=sampling,
            clip_times=choice("clip_times", given.get("clip_times", "segment"), ("segment", "clip")),
            strict=switch("strict", given.get("strict", False)),
        )


def _engine(given: Mapping[str, Any], device: str | None) -> EngineConfig:
    """Settings of the engine. A `batch_size` above 1 is its `max_batch`; 1, which lmms-eval passes if nobody gives
    any, and "auto" leave that to the engine: requests are submitted together anyway."""
    settings = {name: value for name, value in given.items() if name in ENGINE}
    if device is not None and settings.get("device") in (None, "cuda"):
        settings["device"] = device
    size = given.get("batch_size", 1)
    if not str(size).startswith("auto"):
        size = whole("batch_size", int(size) if str(size).isdecimal() else size)
        if size > 1:
            settings.setdefault("max_batch", size)
    return EngineConfig(**settings)


def _media(given: Mapping[str, Any]) -> dict[str, Any]:
    """Media options: `fps` is `video_fps`, and `nframes` a number of frames, whatever the length of the clip."""
    media = {name: value for name, value in given.items() if name in MEDIA}
    if "fps" in given:
        media["video_fps"] = given["fps"]
    if "nframes" in given:
        other = next((name for name in ("fps", "min_frames", "max_frames") if name in given), None)
        if other is not None:
            raise OptionError(f"nframes={given['nframes']} is the number of frames of every clip; leave {other} out")
        media["min_frames"] = media["max_frames"] = whole("nframes", given["nframes"])
    MediaOptions.from_dict(media)
    return media
