"""Flags that commands share; names and defaults come from the option dataclasses."""

from pathlib import Path
from typing import Annotated

import typer

from mossvl.cli.flags import Flag, Flags
from mossvl.cli.places import ADAPTER, CHECKPOINT, FOLDER, NEW_FOLDER, named_adapter
from mossvl.errors import OptionError
from mossvl.media.limits import MediaLimits
from mossvl.options import GenerationOptions, MediaOptions
from mossvl.options.engine import QUANTIZATIONS, EngineConfig, adapter_paths
from mossvl.processing.system_prompt import THINKING_MODES, TYPES_TOLD, SystemPrompt
from mossvl.server.config import ServerConfig

CHECKPOINT_HELP = (
    "Checkpoint: a folder, or a repository on the model hub (OWNER/NAME or OWNER/NAME@REVISION). Default: mossvl-tiny, "
    "part of the package."
)
Checkpoint = Annotated[
    str | None,
    typer.Option("--checkpoint", "-c", envvar="MOSSVL_CHECKPOINT", metavar="FOLDER", help=CHECKPOINT_HELP),
    CHECKPOINT,
]
LORA_HELP = "Adapter (LoRA) as NAME=PATH: a folder that PEFT or mossvl train wrote, or a repository on the model hub."
Loras = Annotated[
    list[str] | None,
    typer.Option("--lora", metavar="NAME=PATH", help=LORA_HELP + " Queries choose it by lora; repeatable."),
    ADAPTER,
]
Lora = Annotated[
    str | None,
    typer.Option(
        "--lora",
        metavar="PATH",
        help="Adapter (LoRA) that answers: a folder that PEFT or mossvl train wrote, or a repository on the model hub.",
        show_default=False,
    ),
    ADAPTER,
]
DataParallel = Annotated[
    int,
    typer.Option(
        "--data-parallel-size",
        "-dp",
        metavar="N",
        help="Replicas of the checkpoint, each in a process of its own with a GPU of its own, or with its share of the "
        "CPU's threads.",
    ),
]


MediaDir = Annotated[
    Path | None,
    typer.Option(
        "--media-dir",
        metavar="FOLDER",
        help="Base folder of relative media paths. Default: the folder of the file that names them.",
        show_default=False,
    ),
    FOLDER,
]


NewFolder = Annotated[
    Path,
    typer.Option("--output", "-o", metavar="FOLDER", help="New folder for the checkpoint."),
    NEW_FOLDER,
]


OF_CHECKPOINT = " Default: the checkpoint's."


class GenerationFlags(Flags):
    """Flags of `GenerationOptions`, without those of several answers and log-probabilities: commands print text."""

    options, panel = GenerationOptions, "Generation"
    flags = {
        "max_new_tokens": Flag("Maximum number of tokens of an answer."),
        "do_sample": Flag("Sample tokens instead of decoding greedily.", ("--sample", "--do-sample")),
        "temperature": Flag("With --sample: sampling temperature; below 1 less random, above 1 more."),
        "top_k": Flag("With --sample: sample from this number of likeliest tokens; 0 or -1: all."),
        "top_p": Flag("With --sample: sample from the likeliest tokens with this total probability."),
        "min_p": Flag(
            "With --sample: sample from tokens with this fraction of the likeliest one's probability, or more."
        ),
        "repetition_penalty": Flag("Above 1: make tokens of the prompt and the answer less likely."),
        "presence_penalty": Flag("Subtract this from the logits of tokens that the answer contains; from -2 to 2."),
        "frequency_penalty": Flag(
            "Subtract this from a token's logit for each of its occurrences in the answer; from -2 to 2."
        ),
        "seed": Flag("With --sample: random seed, for reproducible answers. Default: none."),
        "stop": Flag("Stop string, which ends the answer and is not part of it; repeatable.", kind=list[str]),
        "stop_token_ids": Flag(
            "Stop token, which ends the answer and is not part of it; repeatable.", ("--stop-token-id",), kind=list[int]
        ),
        "min_tokens": Flag("Minimum number of tokens of an answer; nothing ends the answer before."),
        "logit_bias": Flag('Add these to the logits of tokens, as JSON: {"TOKEN": BIAS}.', kind=str),
        "ignore_eos": Flag("Continue after the model's end token.", ("--ignore-eos",)),
        "skip_special_tokens": Flag(
            "Leave special tokens out of the answer. Default: on.",
            ("--skip-special-tokens/--no-skip-special-tokens",),
        ),
        "json_schema": Flag('Constrain the answer to JSON of this schema; that of a file is "$(cat FILE)".', kind=str),
        "regex": Flag("Constrain the answer to this regular expression (Rust's syntax)."),
        "choice": Flag("Constrain the answer to this text, or to one of several; repeatable.", kind=list[str]),
        "grammar": Flag("Constrain the answer to this grammar (Lark's syntax or GBNF)."),
        "timeout": Flag("Time limit of a query, in seconds. Default: none."),
        "vision_chunked_length": Flag("Frames encoded at a time; affects memory, not answers."),
    }


class MediaFlags(Flags):
    """Flags of `MediaOptions`."""

    options, panel = MediaOptions, "Media"
    flags = {
        "min_pixels": Flag("Minimum area of an image or frame, in pixels; smaller ones are enlarged." + OF_CHECKPOINT),
        "max_pixels": Flag(
            "Maximum area of an image or frame, in pixels; larger ones are scaled down." + OF_CHECKPOINT
        ),
        "multi_image_max_pixels": Flag("Maximum total area of several images of a prompt, in pixels." + OF_CHECKPOINT),
        "video_max_pixels": Flag("Maximum total area of all frames of a prompt, in pixels." + OF_CHECKPOINT),
        "video_fps": Flag("Sampled frames per second of video." + OF_CHECKPOINT),
        "min_frames": Flag("Minimum number of frames of a video." + OF_CHECKPOINT),
        "max_frames": Flag("Maximum number of frames of all videos of a prompt." + OF_CHECKPOINT),
        "timestamps": Flag(
            "Timestamps of frames: their actual times, or as the published code computes them, by the average frame "
            "rate. Default: actual."
        ),
    }


class SystemFlags(Flags):
    """Flags of `SystemPrompt`."""

    options, panel = SystemPrompt, "System prompt"
    flags = {
        "system_prompt": Flag("System prompt; overrides the other flags here.", ("--system",)),
        "thinking_mode": Flag(f"Fixed system prompt of this mode: {', '.join(THINKING_MODES)}."),
        "system_prompt_type": Flag(
            f"Fixed system prompt of this type: {', '.join(TYPES_TOLD)}. Default: video if there is a video, else "
            "text_image."
        ),
        "use_default_system_prompt": Flag(
            "Fixed system prompt, also without a mode or type.", ("--use-default-system-prompt",)
        ),
    }


class LimitFlags(Flags):
    """Flags of `MediaLimits`."""

    options, panel = MediaLimits, "Limits"
    flags = {
        "image_pixels": Flag(
            "Maximum area of an image or frame, in pixels; larger ones are refused.", ("--max-image-pixels",)
        ),
        "download_bytes": Flag("Maximum size of a download, in bytes."),
        "timeout": Flag(
            "Time limit of one download, scan or read of a medium, in seconds; inf: none.", ("--media-timeout",)
        ),
        "duration": Flag("Maximum duration of a video, in seconds; inf: no limit.", ("--max-duration",)),
        "redirects": Flag("Maximum number of redirects of a download.", ("--max-redirects",)),
    }


class WeightFlags(Flags):
    """Flags of `EngineConfig` that say how weights are loaded."""

    options, panel = EngineConfig, "Weights"
    flags = {
        "device": Flag("Device: cpu, cuda, cuda:1, … Default: cuda if there is a GPU, else cpu."),
        "dtype": Flag("Dtype of weights: bfloat16, float32 or float16. Default: bfloat16 on a GPU, float32 on a CPU."),
        "quantization": Flag(
            f"Quantize weights while they are read: {', '.join(QUANTIZATIONS)}. Default: weights as the checkpoint has "
            "them.",
            ("--quantization", "-q"),
        ),
        "tensor_parallel_size": Flag(
            "GPUs among which the language model is cut; on a CPU, processes.", ("--tensor-parallel-size", "-tp")
        ),
    }


class EngineFlags(Flags):
    """The other flags of `EngineConfig`."""

    options, panel = EngineConfig, "Engine"
    flags = {
        "memory": Flag(
            "Memory for keys and values: up to 1, fraction of the device's memory for weights and pages together; "
            "above 1, bytes of pages. Default: 0.88 of a GPU, 2 GiB on a CPU."
        ),
        "max_batch": Flag("Maximum number of running requests; others wait (FIFO)."),
        "max_sessions": Flag("Live sessions that may be open. Default: nine tenths of --max-batch, as memory allows."),
        "page_size": Flag("Text tokens of a page of keys and values, and of a prefix cache block; a power of two."),
        "kv_cache_dtype": Flag("Dtype of keys and values: auto (the model's), or fp8: about half the memory."),
        "vision_kv_cache_dtype": Flag("The same for vision tokens alone. Default: as --kv-cache-dtype."),
        "prefill_tokens": Flag("Maximum number of prompt tokens of a step. Default: 4,096 on a GPU, less on a CPU."),
        "vision_patches": Flag("Maximum number of patches of a step. Default: 57,344 on a GPU, less on a CPU."),
        "max_token_gap": Flag(
            "Seconds that may pass between two tokens of an answer while prompts are computed; what decoding leaves of "
            "them goes to prompts."
        ),
        "mixed_prefill_tokens": Flag(
            "Maximum number of prompt tokens of a step that also decodes. Default: as --max-token-gap allows."
        ),
        "mixed_vision_patches": Flag(
            "Maximum number of patches of a step that also decodes. Default: as --max-token-gap allows."
        ),
        "prefix_cache": Flag(
            "Reuse keys and values of prompts that begin alike. Default: on.", ("--prefix-cache/--no-prefix-cache",)
        ),
        "vision_cache": Flag("Maximum size of the cache of encoded frames, in bytes; 0: no cache."),
        "media_cache": Flag("Media whose digests are cached, so that a known file is not decoded again; 0: no cache."),
        "media_workers": Flag("Requests whose media load at a time; of a server by default 64 more than decoders."),
        "media_bytes": Flag("Maximum size of decoded pixels that wait for encoding, in bytes."),
        "eager": Flag("Disable CUDA graphs: faster start, slower answers.", ("--eager",)),
        "lora": Flag(LORA_HELP + " Requests choose it as their model; repeatable.", kind=list[str], checked=ADAPTER),
    }


class ServerFlags(Flags):
    """Flags of `ServerConfig`."""

    options, panel = ServerConfig, "Server"
    flags = {
        "host": Flag("Address to listen on. Default: 127.0.0.1."),
        "port": Flag("Port to listen on; 0: a free port."),
        "api_keys": Flag(
            "API key: requests must bring one of the keys; repeatable. Also MOSSVL_API_KEY.",
            ("--api-key",),
            kind=list[str],
        ),
        "open_to_all": Flag("Allow listening beyond this machine without an API key.", ("--open-to-all",)),
        "origins": Flag(
            "Origin (https://example.org, or * for all) that CORS allows; repeatable.",
            ("--allow-origin",),
            kind=list[str],
        ),
        "model_name": Flag("Model name in responses. Default: the checkpoint's name.", kind=str),
        "media_dirs": Flag(
            "Folder whose files requests may name; repeatable. Default: none.", ("--allow-media-dir",), kind=list[str]
        ),
        "media_domains": Flag(
            "Domain, subdomains included, from which media may be fetched; repeatable. Default: any.",
            ("--allow-media-domain",),
            kind=list[str],
        ),
        "private_media": Flag("Allow fetching media from private addresses.", ("--allow-private-media",)),
        "max_queue": Flag("Maximum number of waiting requests, beside the running ones; others get 503."),
        "max_media": Flag("Maximum number of images and videos of a request."),
        "max_frames": Flag("Maximum number of frames of all videos of a request."),
        "max_pixels": Flag(
            "Maximum area of an image or frame for the model, in pixels; larger ones are scaled down. Default: "
            "16,777,216; 1,048,576 on a CPU."
        ),
        "max_image_pixels": Flag("Maximum area of an image or frame that is decoded, in pixels."),
        "max_duration": Flag("Maximum duration of a video, in seconds."),
        "max_text": Flag("Maximum number of characters of all texts of a request."),
        "max_tokens": Flag("Maximum number of tokens of an answer; also the default of a request."),
        "max_answers": Flag("Maximum number of answers to a request (n)."),
        "max_body": Flag("Maximum size of a request's body, data: URLs included, in bytes."),
        "body_space": Flag("Maximum size of the bodies of all running requests, in bytes; others get 503."),
        "max_download": Flag("Maximum size of a file that is fetched or uploaded, in bytes."),
        "upload_space": Flag(
            "Maximum size of all uploaded files, in bytes; the least recently used are removed first."
        ),
        "upload_seconds": Flag("Seconds that an uploaded file is kept after its last use."),
        "max_responses": Flag("Maximum number of stored responses; the least recently used are removed first."),
        "response_space": Flag(
            "Maximum size of all stored responses, in bytes; the least recently used are removed first."
        ),
        "response_seconds": Flag("Seconds that a stored response is kept after its last use."),
        "live_sessions": Flag("Maximum number of live sessions; one client more is refused."),
        "live_idle": Flag("Seconds that a live session may be without input."),
        "live_frame_bytes": Flag("Maximum size of a frame of a live session, as an encoded image, in bytes."),
        "timeout": Flag("Time limit of a request, waiting included, in seconds; a request may set a shorter one."),
        "media_timeout": Flag("Time limit of fetching, opening or reading a medium, in seconds."),
        "stall_timeout": Flag("Time limit of a client to send or read the next chunk, in seconds."),
        "shutdown_timeout": Flag("Seconds that running requests have to end at shutdown."),
        "decoders": Flag("Number of decoder processes, which load media."),
        "decoder_memory": Flag("Maximum memory of a decoder process, beyond its memory at start, in bytes (Linux)."),
        "log_content": Flag("Write texts of requests and answers to the log.", ("--log-content",)),
    }


def only_adapter(given: str | None) -> dict[str, str] | None:
    """Return the adapter of `Lora` with a name, which `NAME=PATH` may give."""
    if given is None:
        return None
    name, path = named_adapter(given)
    return adapter_paths("lora", {"adapter" if name is None else name: path})


GROUPS = (GenerationFlags, MediaFlags, SystemFlags, LimitFlags, WeightFlags, EngineFlags, ServerFlags)


def check_effect(flags: Flags) -> None:
    """Refuse flags of sampling if decoding is greedy.

    Raises:
        OptionError: such a flag is given without --sample.
    """
    idle = [name for name in ("temperature", "top_k", "top_p", "min_p", "seed") if name in flags]
    if idle and not flags.get("do_sample") and flags.get("temperature", 1) > 0:
        given = ", ".join(f"--{name.replace('_', '-')}" for name in idle)
        raise OptionError(f"{given} without --sample would change nothing; add --sample")
