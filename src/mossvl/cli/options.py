"""Flags shared by the commands. Their names and defaults are those of the option dataclasses."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, get_type_hints

import typer

from mossvl.errors import MossVLError, OptionError
from mossvl.media.limits import MediaLimits
from mossvl.options import GenerationOptions, MediaOptions
from mossvl.options.engine import EngineConfig
from mossvl.processing.system_prompt import THINKING_MODES, TYPES_TOLD, SystemPrompt
from mossvl.server.config import ServerConfig

CHECKPOINT_HELP = "The model's checkpoint; mossvl-tiny, which comes with the package, if none is given."
Checkpoint = Annotated[
    str | None,
    typer.Option("--checkpoint", "-c", envvar="MOSSVL_CHECKPOINT", metavar="FOLDER", help=CHECKPOINT_HELP),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, …; a GPU if there is one.", show_default=False)]
Dtype = Annotated[
    str | None,
    typer.Option(help="bfloat16, float32 or float16; bfloat16 on a GPU and float32 on a CPU.", show_default=False),
]


MediaDir = Annotated[
    Path | None,
    typer.Option(
        "--media-dir",
        metavar="FOLDER",
        help="Where relative paths of media start; by default beside the file that has them.",
        show_default=False,
    ),
]


@dataclass(frozen=True)
class Flag:
    """A flag's description.

    Attributes:
        names: where they do not follow from the option's.
        kind: what it takes, where that is not what the option is; a list is given by repeating the flag.
    """

    help: str
    names: tuple[str, ...] = ()
    kind: Any = None


class Flags(dict[str, Any]):
    """Those options of a dataclass that were given.

    Attributes:
        options: the dataclass.
        panel: the heading of its flags in a command's help.
        flags: by the option's name.
    """

    options: ClassVar[type]
    panel: ClassVar[str]
    flags: ClassVar[dict[str, Flag]]


class GenerationFlags(Flags):
    """Those of `GenerationOptions` that were given. One answer a question, and text alone: no `n` and no `logprobs`."""

    options, panel = GenerationOptions, "Generation"
    flags = {
        "max_new_tokens": Flag("Most tokens of the answer."),
        "do_sample": Flag("Draw tokens at random instead of taking the likeliest.", ("--sample", "--do-sample")),
        "temperature": Flag("With --sample: below 1 for less random, above 1 for more random answers."),
        "top_k": Flag("With --sample: draw from so many of the likeliest tokens; 0 or -1 for all."),
        "top_p": Flag("With --sample: draw from the likeliest tokens that make up this probability."),
        "min_p": Flag("With --sample: draw from tokens at least so likely, compared with the likeliest."),
        "repetition_penalty": Flag("Above 1, tokens that were there already become less likely."),
        "presence_penalty": Flag("Above 0, tokens that the answer has already become less likely."),
        "frequency_penalty": Flag("The same, more so the more often they came."),
        "seed": Flag("Makes drawn answers repeatable."),
        "stop": Flag("Text that ends the answer; may be given several times.", kind=list[str]),
        "stop_token_ids": Flag(
            "Token that ends the answer; may be given several times.", ("--stop-token-id",), kind=list[int]
        ),
        "min_tokens": Flag("Tokens before which nothing ends the answer."),
        "logit_bias": Flag('Added to the logits of these tokens, as JSON: {"TOKEN": BIAS}.', kind=str),
        "ignore_eos": Flag("Go on after the model's own end token.", ("--ignore-eos",)),
        "skip_special_tokens": Flag(
            "Leave special tokens out of the answer.", ("--skip-special-tokens/--no-skip-special-tokens",)
        ),
        "json_schema": Flag("The answer is JSON of this JSON schema.", kind=str),
        "regex": Flag("The answer matches this regular expression."),
        "choice": Flag("A text that the answer may be; given once for each.", kind=list[str]),
        "grammar": Flag("The answer is of this grammar, in Lark's syntax or GBNF."),
        "timeout": Flag("Seconds after which a query fails."),
        "vision_chunked_length": Flag("Frames encoded at a time; changes the memory needed, not the answer."),
    }


class MediaFlags(Flags):
    """Those of `MediaOptions` that were given."""

    options, panel = MediaOptions, "Media"
    flags = {
        "min_pixels": Flag("Least area of an image or video frame."),
        "max_pixels": Flag("Most area of an image or video frame."),
        "multi_image_max_pixels": Flag("Area that the images of a prompt share."),
        "video_max_pixels": Flag("Area that all frames of the videos of a prompt share."),
        "video_fps": Flag("Frames taken of a second of video."),
        "min_frames": Flag("Least frames of a video."),
        "max_frames": Flag("Most frames, shared by the videos of a prompt."),
        "timestamps": Flag(
            "Times told of frames. Published: counted by the average rate, even where frames are not evenly spaced. "
            "Default: actual."
        ),
    }


class SystemFlags(Flags):
    """Those of `SystemPrompt` that were given."""

    options, panel = SystemPrompt, "System prompt"
    flags = {
        "system_prompt": Flag("The system prompt.", ("--system",)),
        "thinking_mode": Flag(f"In place of one, the fixed one of this mode: {', '.join(THINKING_MODES)}."),
        "system_prompt_type": Flag(
            f"The fixed one for this: {', '.join(TYPES_TOLD)}. Default: video where there is a video, else text_image."
        ),
        "use_default_system_prompt": Flag(
            "A fixed one, whether or not a mode or a type is given.", ("--use-default-system-prompt",)
        ),
    }


class LimitFlags(Flags):
    """Those of `MediaLimits` that were given."""

    options, panel = MediaLimits, "Limits"
    flags = {
        "image_pixels": Flag("Largest image or video frame that is opened, in pixels.", ("--max-image-pixels",)),
        "download_bytes": Flag("Largest download of an image or a video."),
        "timeout": Flag("Seconds that loading an image or a video may take; inf for no limit.", ("--media-timeout",)),
        "duration": Flag("Seconds of the longest video; inf for no limit.", ("--max-duration",)),
        "redirects": Flag("How often a download may be sent on to another URL.", ("--max-redirects",)),
    }


class EngineFlags(Flags):
    """Those of `EngineConfig` that were given."""

    options, panel = EngineConfig, "Engine"
    flags = {
        "memory": Flag(
            "For keys and values: up to 1, the part of a GPU that weights and pages may fill; above, bytes."
        ),
        "max_batch": Flag("Most requests that are computed together."),
        "page_size": Flag("Tokens of a page of keys and values."),
        "prefill_tokens": Flag("Most prompt tokens computed in one step."),
        "vision_patches": Flag("Most patches encoded in one step."),
        "mixed_prefill_tokens": Flag("The same, of prompt tokens, beside requests that are generating."),
        "mixed_vision_patches": Flag("The same, of patches, beside requests that are generating."),
        "prefix_cache": Flag(
            "Keep what was computed for requests that begin alike.", ("--prefix-cache/--no-prefix-cache",)
        ),
        "vision_cache": Flag("Bytes for encoded pictures that are kept; 0 for none."),
        "media_cache": Flag("Clips whose frames are remembered; 0 for none."),
        "media_workers": Flag("Requests whose media are loaded at the same time."),
        "media_bytes": Flag("Decoded pixels that may wait in memory, in bytes."),
        "eager": Flag("No CUDA graphs: a faster start, and slower answers.", ("--eager",)),
    }


class ServerFlags(Flags):
    """Those of `ServerConfig` that were given."""

    options, panel = ServerConfig, "Server"
    flags = {
        "host": Flag("Address to listen on. Default: 127.0.0.1."),
        "port": Flag("Port to listen on; 0 for a free one."),
        "api_keys": Flag(
            "Key that requests must bring; may be given several times. Also MOSSVL_API_KEY.",
            ("--api-key",),
            kind=list[str],
        ),
        "open_to_all": Flag("Listen beyond this machine without a key.", ("--open-to-all",)),
        "origins": Flag(
            "Site (https://example.org, or *) whose pages may ask, too; may be given several times.",
            ("--allow-origin",),
            kind=list[str],
        ),
        "model_name": Flag("The model's name in answers; the checkpoint's by default.", kind=str),
        "media_dirs": Flag(
            "Folder whose files may be asked about; may be given several times.", ("--allow-media-dir",), kind=list[str]
        ),
        "media_domains": Flag(
            "Host, with its subdomains, that media may be fetched from; may be given several times. Default: any.",
            ("--allow-media-domain",),
            kind=list[str],
        ),
        "private_media": Flag("Media may be fetched from private addresses, too.", ("--allow-private-media",)),
        "max_queue": Flag("Requests that may wait beside those that are computed; others get 503."),
        "max_media": Flag("Images and videos of a request."),
        "max_frames": Flag("Frames of all videos of a request."),
        "max_pixels": Flag(
            "Most pixels of a picture that the model sees. Default: 16,777,216; 1,048,576 where it runs on a CPU."
        ),
        "max_image_pixels": Flag("Largest image or video frame that is decoded, in pixels."),
        "max_duration": Flag("Seconds of the longest video."),
        "max_text": Flag("Characters of the texts of a request."),
        "max_tokens": Flag("Tokens of an answer."),
        "max_answers": Flag("Answers to one request (n)."),
        "max_body": Flag("Bytes of a request, data: URLs included."),
        "body_space": Flag("Bytes of the bodies of all running requests together."),
        "max_download": Flag("Bytes of a file that is fetched or uploaded."),
        "upload_space": Flag("Bytes of all uploaded files together; the oldest go first."),
        "upload_seconds": Flag("How long an uploaded file is kept after its last use."),
        "timeout": Flag("Seconds that a request may take; it may ask for less."),
        "media_timeout": Flag("Seconds that fetching, opening or reading a medium may take."),
        "stall_timeout": Flag("Seconds that a client may take to send or to read the next piece."),
        "shutdown_timeout": Flag("Seconds that running requests get when the server is stopped."),
        "decoders": Flag("Processes that decode media."),
        "decoder_memory": Flag("Bytes that each of them may use."),
        "log_content": Flag("Write texts of requests and answers to the log.", ("--log-content",)),
    }


GROUPS = (GenerationFlags, MediaFlags, SystemFlags, LimitFlags, EngineFlags, ServerFlags)


def with_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command, in place of each parameter whose type is one of `Flags`, one flag for each of its options."""
    plain: list[inspect.Parameter] = []
    expanded: dict[str, tuple[type[Flags], dict[str, str]]] = {}
    for parameter in inspect.signature(command).parameters.values():
        group = parameter.annotation
        if not (isinstance(group, type) and issubclass(group, Flags)):
            plain.append(parameter)
            continue
        hints = get_type_hints(group.options)
        known = {option.name: option for option in fields(group.options)}
        options = [known[name] for name in group.flags]
        names = {f"{parameter.name}_{option.name}": option.name for option in options}
        expanded[parameter.name] = group, names
        for name, option in zip(names, options, strict=True):
            annotation = _flag(option, hints[option.name], group.flags[option.name], group.panel)
            plain.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation))

    def flagged(**given: Any) -> None:
        for parameter, (group, names) in expanded.items():
            values = {option: given.pop(name) for name, option in names.items()}
            given[parameter] = group({option: value for option, value in values.items() if value not in (None, [])})
        try:
            command(**given)
        except MossVLError as error:
            error.names = flags_of(*(group for group, _ in expanded.values()))
            raise

    plain = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in plain]
    flagged.__name__, flagged.__doc__ = command.__name__, command.__doc__
    flagged.__annotations__ = {parameter.name: parameter.annotation for parameter in plain}
    flagged.__signature__ = inspect.Signature(plain)  # type: ignore[attr-defined]
    return flagged


def flags_of(*groups: type[Flags]) -> dict[str, str]:
    """Flags by the settings that they set, as errors name settings: {"MediaLimits.timeout": "--media-timeout"}."""
    return {
        f"{group.options.__name__}.{name}": _names(name, flag)[0]
        for group in groups
        for name, flag in group.flags.items()
    }


def _names(option: str, flag: Flag) -> tuple[str, ...]:
    return flag.names or (f"--{option.replace('_', '-')}",)


def _flag(option: "Field[Any]", hint: Any, flag: Flag, panel: str) -> Any:
    """An annotation for typer: the option's type, or None where the flag is not given."""
    kind = hint if flag.kind is None else flag.kind
    names = _names(option.name, flag)
    default = None if option.default is MISSING else option.default
    shown = f" Default: {default:.12g}." if isinstance(default, int | float) and not isinstance(default, bool) else ""
    info = typer.Option(*names, help=flag.help + shown, rich_help_panel=panel, show_default=False)
    return Annotated[kind | None, info]


def check_effect(flags: GenerationFlags) -> None:
    """Refuse flags that shape random draws where nothing is drawn.

    Raises:
        OptionError: there is such a flag, but no --sample.
    """
    idle = [name for name in ("temperature", "top_k", "top_p", "min_p", "seed") if name in flags]
    if idle and not flags.get("do_sample") and flags.get("temperature", 1) > 0:
        given = ", ".join(f"--{name.replace('_', '-')}" for name in idle)
        raise OptionError(f"{given} without --sample would change nothing; add --sample")
