"""Examples: encoded conversations, with labels and pixels."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from mossvl.options import MediaOptions
from mossvl.processing.labels import Span
from mossvl.processing.messages import Message, check_messages, media_of
from mossvl.processing.pixels import Grid
from mossvl.processing.plan import MediumPlan
from mossvl.processing.processor import MossVLProcessor
from mossvl.processing.prompt import PlannedPrompt
from mossvl.processing.tensors import chunks
from mossvl.training.supervised import supervised_text

P = TypeVar("P")


@dataclass(frozen=True)
class Example(Generic[P]):
    """One encoded conversation.

    Attributes:
        input_ids: (tokens,) int64.
        labels: (tokens,) int64, -100 for tokens without loss.
        grids: frames, patch rows and patch columns of each medium.
        pixels: uint8 (patches, 3 · patch_size²) of all media; or their substitute until a batch is on its device.
        times: seconds of each frame of a live stream; () for other examples.
        cut: number of tokens that were cut off at the end.
        skipped: "FILE: line 3: why" of each bad record that this example replaces.
    """

    input_ids: Tensor
    labels: Tensor
    grids: list[Grid]
    pixels: P
    times: tuple[float, ...] = ()
    cut: int = 0
    skipped: tuple[str, ...] = ()

    @classmethod
    def of(cls, processor: MossVLProcessor, planned: PlannedPrompt, spans: Sequence[Span], pixels: P) -> "Example[P]":
        """From a prompt, and the spans of its text that have loss."""
        grids = [(t, h, w) for t, h, w in planned.grid_thw.tolist()]
        return cls(planned.input_ids, processor.labels_of(planned, spans), grids, pixels)


def encode(processor: MossVLProcessor, messages: Sequence[Message], options: MediaOptions) -> Example[Tensor]:
    """Encode messages, and decode their media.

    Raises:
        DataError: no token has loss.
        MediaError: a medium cannot be used.
        OptionError: an option of a medium is invalid.
        PromptError: the messages are malformed.
    """
    checked = check_messages(messages)
    text, spans = supervised_text(processor, checked)
    with ExitStack() as stack:
        planned = processor.plan(text, *media_of(checked), options, stack)
        pixels = decoded(processor, planned.plans)
    return Example.of(processor, planned, spans, pixels)


def decoded(processor: MossVLProcessor, plans: Sequence[MediumPlan]) -> Tensor:
    """uint8 (patches, 3 · patch_size²): the pixels of media, in order.

    Raises:
        GenerationTimeout: decoding takes longer than the processor's limits allow.
        MediaError: a medium cannot be decoded.
    """
    frames = sum(plan.num_frames for plan in plans)
    none = torch.empty(0, 3 * processor.image_processor.patch_size**2, dtype=torch.uint8)
    return next((part for part, _ in chunks(plans, processor.image_processor, max(1, frames))), none)
