"""Keyword arguments of transformers' processors: each is applied, has no effect, or is refused by name."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from mossvl.errors import OptionError
from mossvl.options import MediaOptions
from mossvl.options.checks import check_names, whole
from mossvl.processing.plan import Medium

ALL_FRAMES = 2**31
"""`min_frames` and `max_frames` that sample every frame."""
ANY = object()
NO_EFFECT: dict[str, tuple[Any, ...]] = {
    "add_special_tokens": (True, False),
    "data_format": ("channels_first",),
    "device": ("cpu",),
    "disable_grouping": (True, False),
    "do_center_crop": (False,),
    "do_convert_rgb": (True,),
    "do_normalize": (True,),
    "do_pad": (False,),
    "do_rescale": (True,),
    "do_resize": (True,),
    "is_split_into_words": (False,),
    "load_audio_from_video": (False,),
    "pad_to_multiple_of": (1,),
    "resample": (3,),
    "rescale_factor": (1 / 255,),
    "return_attention_mask": (True,),
    "return_length": (False,),
    "return_metadata": (False,),
    "return_mm_token_type_ids": (False,),
    "return_offsets_mapping": (False,),
    "return_overflowing_tokens": (False,),
    "return_special_tokens_mask": (False,),
    "return_text_replacement_offsets": (False,),
    "return_token_type_ids": (False,),
    "sanitize_control_tokens": (True, False),
    "stride": (0,),
    "verbose": (True, False),
}
"""Values that ask for what the processor always does; other values of these arguments are refused."""
GROUPS = {"text_kwargs": "text", "images_kwargs": "image", "videos_kwargs": "video", "common_kwargs": None}
OF_MEDIA = ("fps", "num_frames", "size")
"""transformers' names of media options."""
NAMES = frozenset(option.name for option in fields(MediaOptions))
OF_CALL = ("padding", "padding_side", "return_tensors", "truncation", "max_length")


@dataclass
class Keywords:
    """Keyword arguments of transformers' processors, as this package's options.

    Attributes:
        media: options of all media of a prompt.
        own: options of its images alone ("image"), and of its videos alone ("video").
        call: `padding`, `padding_side` and `return_tensors`, if given; `max_length`, if prompts are truncated to it.
        video_metadata: times of the frames of decoded videos (see `with_times`).
    """

    media: MediaOptions = field(default_factory=MediaOptions)
    own: dict[str, MediaOptions] = field(default_factory=dict)
    call: dict[str, Any] = field(default_factory=dict)
    video_metadata: Any = None

    @classmethod
    def of(
        cls, given: Mapping[str, Any], pixel_scale: Mapping[str, Any], told: Iterable[str] = (*NAMES, *OF_MEDIA)
    ) -> "Keywords":
        """Sort keyword arguments; None is as if the argument were not given.

        Args:
            pixel_scale: the processor's `image_mean` and `image_std`, the only values supported for these arguments.
            told: media options to name where one is unknown.

        Raises:
            OptionError: an argument is unknown, or its value is not supported.
        """
        found = cls()
        groups: dict[str | None, dict[str, Any]] = {None: {}, "text": {}, "image": {}, "video": {}}
        for name, value in given.items():
            if name in GROUPS:
                if value is not None and not isinstance(value, Mapping):
                    raise OptionError(f"{{{name}=}} must be a dict of options", given={name: value})
                groups[GROUPS[name]] |= dict(value or {})
            elif name == "audio_kwargs":
                _refuse_audio(name, value)
            else:
                groups[None][name] = value
        options: dict[str | None, dict[str, Any]] = {None: {}, "image": {}, "video": {}}
        for kind, group in groups.items():
            for name, value in group.items():
                if value is not None:
                    # Only sizes apply to images and to videos; every other option names its kind.
                    of_kind = name in ("size", "min_pixels", "max_pixels") and kind in ("image", "video")
                    found._take(name, value, options[kind if of_kind else None], pixel_scale)
        given_media = {name for own in options.values() for name in own}
        check_names(sorted(given_media - NAMES - MediaOptions.OLDER_NAMES.keys()), told, "media option")
        found._set_truncation()
        found.media = MediaOptions.from_dict(options.pop(None))
        found.own = {str(kind): MediaOptions.from_dict(own) for kind, own in options.items() if own}
        return found

    def medium(self, kind: str, source: Any) -> Any:
        """A medium with the options of its kind; the medium's own options take precedence."""
        if (options := self.own.get(kind)) is None:
            return source
        if isinstance(source, Medium):
            return Medium(source.source, source.options.over(options))
        return Medium(source, options)

    def _set_truncation(self) -> None:
        """Keep `max_length` only if prompts are to be truncated."""
        truncation, longest = self.call.pop("truncation", False), self.call.pop("max_length", None)
        if truncation not in (True, False) or (truncation and longest is None):
            raise OptionError(
                "{truncation=} is not supported without max_length, or as another value than true and "
                "false; leave it out, or give truncation=True and max_length in tokens",
                given={"truncation": truncation},
            )
        if truncation:
            self.call["max_length"] = whole("max_length", longest)

    def _take(self, name: str, value: Any, options: dict[str, Any], pixel_scale: Mapping[str, Any]) -> None:
        if name in OF_CALL:
            self.call[name] = value
        elif name == "video_metadata":
            self.video_metadata = value
        elif name == "fps":
            options["video_fps"] = value
        elif name == "num_frames":
            count = whole(name, value)
            options |= {"min_frames": count, "max_frames": count}
        elif name == "do_sample_frames":
            if not isinstance(value, bool):
                raise OptionError("{do_sample_frames=} must be true or false", given={"do_sample_frames": value})
            if not value:
                options |= {"min_frames": ALL_FRAMES, "max_frames": ALL_FRAMES}
        elif name == "size":
            options |= _areas(value)
        elif name in ("audio", "sampling_rate"):
            _refuse_audio(name, value)
        elif name in pixel_scale:
            if ([value] * 3 if isinstance(value, float | int) else value) not in (
                kept := pixel_scale[name],
                tuple(kept),
            ):
                raise OptionError(f"{{{name}=}} is not supported; this processor's is {kept}", given={name: value})
        elif name in NO_EFFECT:
            if not any(same is ANY or value == same for same in NO_EFFECT[name]):
                kept = NO_EFFECT[name][0]
                raise OptionError(f"{{{name}=}} is not supported; leave it out, or give {kept!r}", given={name: value})
        else:
            options[name] = value  # `of` refuses unknown names.


def _areas(size: Any) -> dict[str, Any]:
    """transformers' `size` as `min_pixels` and `max_pixels`: as in published files, its edges are areas in pixels."""
    names = {"shortest_edge": "min_pixels", "longest_edge": "max_pixels"}
    given = size if isinstance(size, Mapping) else None
    if given is None or not given or not given.keys() <= names.keys():
        raise OptionError(
            "{size=} is not supported; give areas in pixels, "
            '{"shortest_edge": least, "longest_edge": most}, or min_pixels and max_pixels',
            given={"size": size},
        )
    return {names[name]: value for name, value in given.items()}


def _refuse_audio(name: str, value: Any) -> None:
    if value is not None and not (isinstance(value, list | tuple | Mapping) and not value):
        raise OptionError(f"{name} is not supported: the model takes no audio; leave it out")
