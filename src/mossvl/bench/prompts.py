"""Prompts of random tokens and pixels for benchmarks."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mossvl.checkpoints.default import CHECKPOINT
from mossvl.loading import random_model
from mossvl.model.configuration import MossVLConfig
from mossvl.offline.interface import MossVLForConditionalGeneration
from mossvl.processing.image_processor import MossVLImageProcessor
from mossvl.processing.processor import MossVLProcessor
from mossvl.processing.video_processor import MossVLVideoProcessor
from mossvl.sources.source import Frame, Loaded, Planned, Report

TOKENS_PER_FRAME = 9
"""Tokens of a frame's timestamp, without the image token after them."""


@dataclass(frozen=True)
class Shape:
    """The size of a prompt: frames of (`rows`, `columns`) patches, then `question` text tokens."""

    name: str
    frames: int
    rows: int
    columns: int
    question: int = 72

    @property
    def text_tokens(self) -> int:
        return self.question + self.frames * (1 if self.frames == 1 else 1 + TOKENS_PER_FRAME)

    @property
    def vision_tokens(self) -> int:
        return self.frames * (self.rows * self.columns // 4 + 1)

    @property
    def patches(self) -> int:
        return self.frames * self.rows * self.columns


IMAGE = Shape("image 1024 × 1024", 1, 64, 64)
SMALL_IMAGE = Shape("image 448 × 448", 1, 28, 28)
VIDEO_64 = Shape("64 frames of 448 × 448", 64, 28, 28)
VIDEO_256 = Shape("256 frames of 640 × 352", 256, 22, 40)


class NoText:
    """A stand-in for a tokenizer that decodes to no text."""

    def decode(self, tokens: Sequence[int], **_: Any) -> str:
        return ""


@dataclass
class RandomPrompt:
    """A `Source` with patches in memory: benchmarks exclude decoding and resizing.

    Args:
        pixels: uint8 patches of each frame, (patches, 768), shared between prompts.
        digests: digest of each frame; the engine's caches miss frames with new digests.
        input_ids: (tokens,) int64, the question's tokens last.
        known: whether the prompt gives its digests up front, so that cached frames need no pixels.
    """

    shape: Shape
    config: MossVLConfig
    pixels: list[Tensor]
    digests: list[bytes]
    input_ids: Tensor
    known: bool = False
    tokenizer: Any = field(default_factory=NoText)
    pixel_scale: tuple[tuple[float, ...], tuple[float, ...]] = ((0.5,) * 3, (0.5,) * 3)
    patience: float = 600.0
    held: int = 0
    repeatable: bool = True

    @classmethod
    def new(cls, shape: Shape, config: MossVLConfig, pixels: list[Tensor]) -> "RandomPrompt":
        digests = [secrets.token_bytes(16) for _ in range(shape.frames)]
        return cls(shape, config, pixels, digests, random_prompt(shape, config))

    def again(self) -> "RandomPrompt":
        """Return a prompt with another question about the same frames, now known."""
        count = self.shape.question
        ids = torch.cat((self.input_ids[:-count], random_tokens(self.config, count)))
        return RandomPrompt(self.shape, self.config, self.pixels, self.digests, ids, known=True)

    def start(self, report: Report, first: int | None = None) -> None:
        shape = self.shape
        known: list[bytes | None] = [digest if self.known else None for digest in self.digests]
        if first is None:
            grids = [(shape.frames, shape.rows, shape.columns)]
            report(Planned("", self.input_ids, grids, [], known, streams=False))
        if first is not None or not self.known:
            for number in range(first or 0, shape.frames):
                report(Frame(number, self.pixels[number], self.digests[number]))
        report(Loaded())

    def release(self, patches: Tensor) -> None: ...

    def stop(self) -> None: ...


def random_weights(
    device: str | None, dtype: str | None, quantization: str | None = None, tensor_parallel_size: int = 1
) -> tuple[MossVLForConditionalGeneration, MossVLProcessor]:
    """Return a model of the published size with random weights, and a processor with mossvl-tiny's tokenizer.

    The tokenizer knows only the first of the model's tokens; only these are drawn, so that each becomes text.
    """
    tiny = MossVLProcessor.from_pretrained(CHECKPOINT)
    parts = MossVLImageProcessor(), tiny.tokenizer, MossVLVideoProcessor()
    processor = MossVLProcessor(*parts, chat_template=tiny.chat_template)
    config = MossVLConfig(image_token_id=tiny.image_token_id)
    model = random_model(config, device, dtype, quantization=quantization, tensor_parallel_size=tensor_parallel_size)
    if type(model.lm_head) is nn.Linear:
        model.lm_head.weight.data[min(tiny.tokenizer.added_tokens_decoder) :] = 0
    return model, processor


def random_pixels(shape: Shape) -> list[Tensor]:
    """Return uint8 (patches, 768) for each frame."""
    return [torch.randint(0, 256, (shape.rows * shape.columns, 768), dtype=torch.uint8) for _ in range(shape.frames)]


def random_prompt(shape: Shape, config: MossVLConfig) -> Tensor:
    """Return (tokens,) int64: for each frame its timestamp (if there are several) and image token, then a question."""
    image, question = torch.tensor([config.image_token_id]), random_tokens(config, shape.question)
    if shape.frames == 1:
        return torch.cat((image, question))
    generator = torch.Generator().manual_seed(0)
    times = random_tokens(config, TOKENS_PER_FRAME * shape.frames, generator).split(TOKENS_PER_FRAME)
    return torch.cat([part for time in times for part in (time, image)] + [question])


def random_tokens(config: MossVLConfig, count: int, generator: torch.Generator | None = None) -> Tensor:
    """Return (count,) int64 token ids below all special tokens of the published vocabulary."""
    return torch.randint(
        0, min(config.text_config.vocab_size, config.image_token_id) - 16, (count,), generator=generator
    )
