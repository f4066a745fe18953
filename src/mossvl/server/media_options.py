"""vLLM's options of all images and videos of a request, as media options of each that has none of its own."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

from mossvl.errors import OptionError
from mossvl.options import MediaOptions
from mossvl.options.checks import present
from mossvl.processing.keywords import OF_MEDIA, Keywords
from mossvl.server.schemas.chat import ChatRequest

Defaults = Mapping[str, Mapping[str, Any]]
"""Media options by kind of medium, "image" or "video"."""
RENAMED = {"video_fps": "fps"}
"""Media options with other names in requests: {ours: theirs}."""
NAMES = {RENAMED.get(name, name) for name in MediaOptions.OF_PARTS["video"]} | {*OF_MEDIA}
"""Media options in `mm_processor_kwargs`; others of ours are settings of the server."""
BOUNDS = (("min_pixels", "max_pixels"), ("min_frames", "max_frames"))


def media_defaults(request: ChatRequest) -> Defaults:
    """Return the options that `mm_processor_kwargs` and, before these, `media_io_kwargs` give to media.

    Raises:
        OptionError: an option is unknown or out of range, or is the server's alone.
    """
    with _told_of("mm_processor_kwargs"):
        given = Keywords.of(request.mm_processor_kwargs or {}, {}, NAMES)
        options = {kind: given.own.get(kind, MediaOptions()).over(given.media) for kind in MediaOptions.OF_PARTS}
    if loading := request.media_io_kwargs and request.media_io_kwargs.video:
        least = loading.num_frames if loading.fps is None else None
        own = {"video_fps": loading.fps, "min_frames": least, "max_frames": loading.num_frames}
        with _told_of("media_io_kwargs", RENAMED):
            options["video"] = MediaOptions(**_over(present(own), present(vars(options["video"]))))
    for name in present(vars(options["video"])):
        if name not in MediaOptions.OF_PARTS["video"]:
            raise OptionError(
                f"{{mm_processor_kwargs}}: {name} is a setting of the server; leave it out",
                option="mm_processor_kwargs",
            )
    return {
        kind: {name: value for name in names if (value := getattr(options[kind], name)) is not None}
        for kind, names in MediaOptions.OF_PARTS.items()
    }


@contextmanager
def _told_of(field: str, names: Mapping[str, str] = MappingProxyType({})) -> Iterator[None]:
    """Tell an `OptionError` of the request's field, with options by these names."""
    try:
        yield
    except OptionError as error:
        raise OptionError(f"{field}: {error.named(names)}", option=field) from error


def own_over(defaults: Defaults, kind: str, own: Mapping[str, Any]) -> dict[str, Any]:
    """Return a medium's own options, and others by default; a bound of its own replaces both of the defaults."""
    return _over(own, defaults.get(kind, {}))


def _over(own: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    replaced = {name for pair in BOUNDS if any(bound in own for bound in pair) for name in pair}
    return {name: value for name, value in others.items() if name not in replaced} | dict(own)
