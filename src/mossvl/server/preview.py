"""Preview of a medium as the model would see it: frames, timestamps, sizes and token counts."""

import base64
import io
from contextlib import ExitStack
from typing import Any

from PIL import Image
from torch import Tensor

from mossvl.options import MediaOptions
from mossvl.processing import prompt
from mossvl.processing.messages import check_messages, media_of
from mossvl.processing.pixels import num_vision_tokens
from mossvl.processing.plan import MediumPlan, VideoPlan
from mossvl.processing.processor import MossVLProcessor
from mossvl.processing.tensors import grid_of

QUALITY = 75
"""JPEG quality of thumbnails."""


def preview(processor: MossVLProcessor, part: dict[str, Any], options: MediaOptions, side: int) -> dict[str, Any]:
    """Describe a medium as the model would see it.

    Args:
        part: content part of a message.
        options: media options of the prompt.
        side: longest side of thumbnails, in pixels; 0 for none.

    Returns:
        sizes in pixels, durations and times in seconds. Each frame of a video has a `time`, its timestamp in the
            prompt, and a `seek`, its time in a player; for an image both are None.

    Raises:
        MediaError: the medium cannot be read.
        OptionError: the medium's options cannot be used.
    """
    messages = check_messages([{"role": "user", "content": [part]}])
    with ExitStack() as stack:
        text = processor.render(messages)
        plans = processor.plan_media(text, *media_of(messages), options, stack)
        frames = [frame for plan in plans for frame in _frames(plan, side)]
    first = plans[0]
    layout = processor.image_processor.layout
    grids = [grid_of(plan, layout) for plan in plans]
    written = [prompt.IMAGE_TOKEN if plan.timestamps is None else prompt.video_text(plan.timestamps) for plan in plans]
    return {
        "kind": part["type"],
        "width": first.source.width,
        "height": first.source.height,
        "model_width": first.width,
        "model_height": first.height,
        "vision_tokens": num_vision_tokens(grids, layout.merge_size),
        "text_tokens": len(processor.tokenizer("".join(written))["input_ids"]),
        "duration": first.source.duration if isinstance(first, VideoPlan) else None,
        "frames": frames,
    }


def _frames(plan: MediumPlan, side: int) -> list[dict[str, Any]]:
    frames: list[dict[str, Any]] = [{"time": None, "seek": None}]
    if isinstance(plan, VideoPlan):
        clip = plan.source
        shown = [round(clip.player_start + time, 6) for time in clip.shown_times(plan.indices)]
        frames = [{"time": time, "seek": seek} for time, seek in zip(plan.timestamps, shown, strict=True)]
    if not side:
        return frames
    return [
        frame | {"thumbnail": _thumbnail(pixels, side)} for frame, pixels in zip(frames, plan.frames(), strict=True)
    ]


def _thumbnail(picture: Tensor, side: int) -> str:
    """Return an image, uint8 (3, height, width), scaled down, as a data URL."""
    image = Image.fromarray(picture.permute(1, 2, 0).numpy())
    image.thumbnail((side, side))
    written = io.BytesIO()
    image.save(written, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(written.getvalue()).decode()}"
