"""Packing: the collators' batches, whose examples follow each other without padding."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mossvl.model.packed_batch import PackedBatch
from mossvl.processing.labels import IGNORED_LABEL
from mossvl.training.examples import Example

Batch = dict[str, Any]
"""Arguments of the model's forward pass, labels included; and keys that the training loop removes first."""


def pack(examples: Sequence[Example[Any]], image_token_id: int, merge_size: int) -> Batch:
    """Pack examples into arguments of a model's forward pass, all but the pixels.

    Returns:
        `input_ids` and `labels` (1, rows) int64; `logits_to_keep` (answer rows,) int64, the rows whose next token has
        loss; `packed`, the layout. No row sees another example.
    """
    labels = torch.cat([example.labels for example in examples])
    return {
        "input_ids": torch.cat([example.input_ids for example in examples])[None],
        "labels": labels[None],
        "logits_to_keep": (labels[1:] != IGNORED_LABEL).nonzero().squeeze(1),
        "packed": PackedBatch.pack(
            [example.input_ids == image_token_id for example in examples],
            [example.grids for example in examples],
            range(len(examples)),
            merge_size,
            None,
        ),
    }


@dataclass(frozen=True)
class Packer:
    """Collator of examples from files, for a DataLoader.

    A batch without media gets a blank image without loss: ranks that share weights or gradients must run all parts of
    the model in every step.

    Args:
        image_token_id, merge_size: of the model.
        vision_chunk: frames encoded at a time; None for all.
    """

    image_token_id: int
    merge_size: int
    vision_chunk: int | None = None

    def __call__(self, examples: Sequence[Example[Tensor]]) -> Batch:
        if not any(example.grids for example in examples):
            examples = [*examples, self._blank(examples[0].pixels)]
        return {
            **pack(examples, self.image_token_id, self.merge_size),
            "pixel_values": torch.cat([example.pixels for example in examples]),
            "vision_chunked_length": self.vision_chunk,
            "skipped": [line for example in examples for line in example.skipped],
        }

    def _blank(self, pixels: Tensor) -> Example[Tensor]:
        """An image token and its image: one merge block of zeros, of the dtype and width of `pixels`."""
        grid = (1, self.merge_size, self.merge_size)
        token, label = torch.tensor([self.image_token_id]), torch.tensor([IGNORED_LABEL])
        return Example(token, label, [grid], pixels.new_zeros(self.merge_size**2, pixels.shape[1]))
