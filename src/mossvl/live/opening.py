"""How a session begins: its first messages, the size of its context, the memory that it reserves."""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch

from mossvl.engine.engine import Engine
from mossvl.errors import OptionError, PromptError, shown
from mossvl.live.director import Bounds
from mossvl.live.kept import Messages
from mossvl.live.options import LiveOptions
from mossvl.processing.processor import MossVLProcessor
from mossvl.processing.stream import REALTIME
from mossvl.sources.source import Loaded, Planned, Report

RESERVED_TOKENS = 1536
"""Text tokens that memory is reserved for: at one frame and twelve tokens a second, about a minute's."""
MAX_CONTEXT = 8192
"""Text tokens of a session before it rolls over, or a sixteenth of what the model or the memory holds."""
WINDOW_FRAMES, FRAME_PIXELS = 60, 512 * 288
"""Frames that memory is reserved for, at one a second, and their area, unless the options say less or more."""


class Opening:
    """The source of a session's first prompt, which has no frames."""

    patience, held, repeatable = 60.0, 0, False

    def __init__(self, processor: MossVLProcessor, ids: list[int]) -> None:
        self.tokenizer, self.pixel_scale = processor.tokenizer, processor.pixel_scale
        self._ids = torch.tensor(ids, dtype=torch.long)

    def start(self, report: Report, first: int | None = None) -> None:
        report(Planned("", self._ids, [], [], [], streams=False))
        report(Loaded())

    def release(self, patches: torch.Tensor) -> None: ...

    def stop(self) -> None: ...


def bounds_of(engine: Engine, processor: MossVLProcessor, options: LiveOptions) -> Bounds:
    """How large the session's context may become; memory is reserved for a minute's text, and the window's frames.

    Raises:
        OptionError: `max_context` is more than the model or the memory holds.
    """
    positions, memory = engine.model.config.text_config.max_position_embeddings, engine.scheduler.allocator.capacity(0)
    most = min(positions - 1, memory - 1)
    if options.max_context is not None and options.max_context > most:
        raise OptionError(
            f"{{max_context=}} is more than the {most} text tokens that this model and the engine's "
            "memory hold; lower it",
            given={"max_context": options.max_context},
        )
    tokens = options.max_context or min(MAX_CONTEXT, max(256, most // 16))
    allocator = engine.scheduler.allocator
    pages = engine.loop.reservations.num_pages - allocator.blocks(tokens) * allocator.pages_per_block
    vision = min(max(0, pages) * allocator.vision_page_size, engine.runner.executor.tables.max_vision)
    return Bounds(tokens, positions, vision, min(tokens, RESERVED_TOKENS), window_tokens(processor, options))


def window_tokens(processor: MossVLProcessor, options: LiveOptions) -> int:
    """Vision tokens of a window of frames of usual area."""
    images = processor.image_processor
    given = images.settings(options.media)
    pixels = min(max(FRAME_PIXELS, given.min_pixels), given.max_pixels)
    frames = options.window_frames or WINDOW_FRAMES
    if options.window_seconds is not None:
        frames = min(frames, math.ceil(options.window_seconds) + 1)
    return frames * (pixels // images.layout.factor**2 + 1)


def pages_of(engine: Engine, bounds: Bounds) -> int:
    """Pages that a session reserves. It may have more while there are more; where memory is short, it rolls over."""
    allocator = engine.scheduler.allocator
    text = allocator.blocks(bounds.reserved_tokens) * allocator.pages_per_block
    return text + allocator.vision_pages(bounds.reserved_vision)


def checked_messages(prompt: str, system_prompt: str | None, prefill: Sequence[Mapping[str, str]] | None) -> Messages:
    """The messages with which a session begins.

    Raises:
        OptionError: `prefill` is given beside prompts.
        PromptError: a message is malformed.
    """
    if prefill is None:
        given = REALTIME if system_prompt is None else system_prompt
        for name, text in (("prompt", prompt), ("system_prompt", given)):
            if not isinstance(text, str):
                raise PromptError(f"{name}={text!r:.100} must be a text")
        return [{"role": "system", "content": given}, {"role": "user", "content": prompt}]
    if prompt or system_prompt is not None:
        raise OptionError("give prefill, or prompt and system_prompt; not both", option="prefill")
    if not isinstance(prefill, Iterable):
        raise PromptError(f"prefill={shown(prefill, 100)} must be a list of messages")
    messages = []
    for message in prefill:
        known = isinstance(message, Mapping) and message.get("role") in ("system", "user", "assistant")
        if not known or not isinstance(message.get("content"), str):
            raise PromptError(
                f"prefill: {shown(message, 100)} is no message; give a role, 'system', 'user' or 'assistant', and a "
                "text as content"
            )
        messages.append({"role": message["role"], "content": message["content"]})
    if not any(message["role"] == "user" for message in messages):
        raise PromptError("prefill has no user's message; give one, which may be empty")
    return messages
