"""`mossvl frames`: the frames of a video that the model will see, their tokens and memory."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mossvl.cli.checkpoint import check_checkpoint, prepare, read
from mossvl.cli.contact_sheet import draw_sheet, save_png
from mossvl.cli.media_arguments import parse_video
from mossvl.cli.memory import kv_bytes, readable_bytes
from mossvl.cli.options import LimitFlags, MediaFlags
from mossvl.cli.places import CHECKPOINT, MEDIUM, NEW_FILE
from mossvl.errors import OptionError
from mossvl.media.fetch import source_name
from mossvl.media.limits import MediaLimits
from mossvl.options import MediaOptions

if TYPE_CHECKING:
    from PIL import Image

    from mossvl.model.configuration import MossVLTextConfig
    from mossvl.processing.plan import VideoPlan
    from mossvl.processing.video_processor import MossVLVideoProcessor


def frames(
    video: Annotated[
        str,
        typer.Argument(
            help="Video: a file or http(s) URL. video.mp4#t=10,20 is a segment, #t=4.5 one frame (seconds)."
        ),
        MEDIUM,
    ],
    media: MediaFlags,
    limits: LimitFlags,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="PNG", help="Draw the frames as a contact sheet."), NEW_FILE
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            "--checkpoint",
            "-c",
            metavar="FOLDER",
            help="Checkpoint whose settings apply; text tokens are counted, too. Default: the published 11B model.",
        ),
        CHECKPOINT,
    ] = None,
) -> None:
    """Show the frames of a video that the model will see: timestamps, size, vision tokens, memory.

    Without -c, the settings are those of the published model of 11 billion parameters, not of mossvl-tiny.
    """
    seen = parse_video(video)
    options, allowed = MediaOptions.from_dict(media), MediaLimits(**limits)
    if output is not None and output.suffix.lower() != ".png":
        raise OptionError(f"--output {output}: the sheet is a PNG file; let its name end in .png")
    folder = None if checkpoint is None else check_checkpoint(checkpoint)
    prepare()
    processor, config = _settings(folder)
    with ExitStack() as stack:
        (plan,) = processor.plan([seen.video], options, allowed, stack)
        if output is not None:
            title = source_name(seen.source).rpartition("/")[2]
            # The font that comes with Pillow has no ×.
            facts = f"{_span(plan)}, {plan.width} x {plan.height} for the model"
            save_png(draw_sheet(_pictures(plan), plan.timestamps, (plan.width, plan.height), title, facts), output)
    model = checkpoint or "the published one of 11 billion parameters; -c takes another"
    _print_table([("video", source_name(seen.source)), ("model", model), *_rows(plan, processor, config, folder)])


def _settings(folder: str | None) -> "tuple[MossVLVideoProcessor, MossVLTextConfig]":
    """Read the video processor and configuration of a checkpoint; return the published ones without a checkpoint.

    Raises:
        CheckpointError: a file of the checkpoint is missing or malformed.
    """
    from mossvl.checkpoints.headers import require_model_type
    from mossvl.model.configuration import MossVLConfig
    from mossvl.processing.video_processor import MossVLVideoProcessor

    if folder is None:
        return MossVLVideoProcessor(), MossVLConfig().text_config
    if Path(folder).is_dir():
        require_model_type(Path(folder))
    return read(MossVLVideoProcessor, folder), read(MossVLConfig, folder).text_config


def _span(plan: "VideoPlan") -> str:
    times = plan.timestamps
    if len(times) == 1:
        return f"1 frame, at {times[0]:.1f} s"
    return f"{_counted(len(times))}, from {times[0]:.1f} to {times[-1]:.1f} s"


def _counted(frames: int) -> str:
    return "1 frame" if frames == 1 else f"{frames} frames"


def _pictures(plan: "VideoPlan") -> "Iterator[Image.Image]":
    from PIL import Image

    for frame in plan.frames():
        yield Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy())


def _rows(
    plan: "VideoPlan", processor: "MossVLVideoProcessor", config: "MossVLTextConfig", folder: str | None
) -> Iterator[tuple[str, str]]:
    from mossvl.processing.pixels import num_vision_tokens

    clip, layout = plan.source, processor.layout
    yield "length", f"{clip.duration:.2f} s, {_counted(clip.num_frames)}, {clip.average_fps:.2f} a second"
    yield "seen", _span(plan)
    yield "frame size", f"{clip.width} × {clip.height}, seen at {plan.width} × {plan.height}"
    tokens = num_vision_tokens([(1, *layout.grid(plan.height, plan.width))], layout.merge_size)
    yield "vision tokens", f"{plan.num_frames * tokens:,} ({tokens:,} a frame)"
    text, vision = kv_bytes(config)
    layers = len(config.cross_attention_layers)
    yield "their KV memory", f"{readable_bytes(plan.num_frames * tokens * vision)} ({layers} layers, bfloat16)"
    if folder is not None:
        count = _text_tokens(folder, plan.timestamps)
        yield "text tokens", f"{count:,}, KV memory {readable_bytes(count * text)}"


def _text_tokens(folder: str, times: Sequence[float]) -> int:
    from transformers import AutoTokenizer

    from mossvl.processing.prompt import video_text

    return len(read(AutoTokenizer, folder)(video_text(times))["input_ids"])


def _print_table(rows: Iterable[tuple[str, str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(value))
    Console().print(table)
