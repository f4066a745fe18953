"""Which part of a model a rank has.

Heads, the columns of the MLP and the vocabulary are divided evenly. A weight is cut by rows (its out features) or by
columns (its in features); norms, gates, the vision tower and the merger are whole on every rank.
"""

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed
from torch import nn

from mossvl.errors import OptionError
from mossvl.quantization.formats import Whole
from mossvl.quantization.int4 import Int4Linear
from mossvl.quantization.nf4 import BLOCK, Nf4Linear
from mossvl.quantization.schemes import quantized_maps

Text = TypeVar("Text")

DIVIDED = {
    "num_attention_heads": "heads",
    "num_key_value_heads": "key-value heads",
    "intermediate_size": "columns of the MLP",
    "vocab_size": "tokens",
}
"""Settings of the language model that are divided, and what they count."""
BY_COLUMNS = re.compile(r"(.*\.)?(o_proj|down_proj)(\.|$)")
"""Names of the maps whose in features are divided, and of their tensors; every other divided one is cut by rows."""
MOST = 64
"""Sizes of groups that an error names are not above this."""


@dataclass(frozen=True)
class Share:
    """One of `size` equal parts: that of `rank`, from 0."""

    rank: int
    size: int

    def of(self, part: int) -> range:
        """The places of this rank's `part` rows, tokens, … in the whole."""
        return range(self.rank * part, (self.rank + 1) * part)

    def whole(self, name: str, linear: nn.Linear) -> Whole:
        """The weight of which that of a map of the rank's model is a part."""
        height, width = linear.out_features, linear.in_features
        if not is_cut(name):
            return Whole(height, width)
        if BY_COLUMNS.match(name):
            return Whole(height, width * self.size, column=width * self.rank)
        return Whole(height * self.size, width, row=height * self.rank)


def is_cut(name: str) -> bool:
    """Return whether a linear map is cut, by its name: those of the vision tower are not."""
    return ".visual." not in f".{name}"


def part_of(text: Text, size: int) -> Text:
    """Return the configuration of a rank's part of a language model, which has `size` parts."""
    part = copy.deepcopy(text)
    for name in DIVIDED:
        setattr(part, name, getattr(part, name) // size)
    return part


def devices_of_ranks(first: torch.device, size: int) -> list[torch.device]:
    """The device of each rank: `first` and those after it.

    Raises:
        OptionError: the size is not a number of ranks, there are fewer GPUs, or PyTorch cannot exchange tensors.
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise OptionError(
            "{tensor_parallel_size=} must be a whole number of 1 or more", given={"tensor_parallel_size": size}
        )
    if size == 1:
        return [first]
    if not torch.distributed.is_available():
        raise OptionError(
            "{tensor_parallel_size=}: this PyTorch is built without torch.distributed; install one that has it",
            given={"tensor_parallel_size": size},
        )
    if first.type == "cpu":
        return [first] * size
    if first.type != "cuda":
        raise OptionError(
            f"{{tensor_parallel_size=}}: layers are cut among GPUs or CPUs, not on {first.type}",
            given={"tensor_parallel_size": size},
        )
    index, there = first.index or 0, torch.cuda.device_count()
    if index + size > there:
        raise OptionError(
            f"{{tensor_parallel_size=}} needs as many GPUs, from cuda:{index} on; there are {there - index}",
            given={"tensor_parallel_size": size},
        )
    return [torch.device("cuda", index + rank) for rank in range(size)]


def check_size(size: int, text: Any, model: nn.Module) -> None:
    """Refuse a number of ranks that does not divide a model.

    Args:
        text: the configuration of the language model.
        model: the whole model, with its quantized maps; it may be on the meta device.

    Raises:
        OptionError: heads, key-value heads, columns or tokens do not divide, or a block of quantized weights would be
            cut; the message names the sizes that are possible.
    """
    if not (reasons := _reasons(size, text, model)):
        return
    sizes = [one for one in range(1, MOST + 1) if not _reasons(one, text, model)]
    raise OptionError(
        f"{{tensor_parallel_size=}} does not divide {reasons[0]}; possible are {', '.join(map(str, sizes))}",
        given={"tensor_parallel_size": size},
    )


def _reasons(size: int, text: Any, model: nn.Module) -> list[str]:
    """What `size` ranks cannot divide."""
    reasons = [
        f"the model's {getattr(text, name)} {what}" for name, what in DIVIDED.items() if getattr(text, name) % size
    ]
    for name, linear in quantized_maps(model):
        if not is_cut(name):
            continue
        if isinstance(linear, Int4Linear):
            block = linear.group
        elif isinstance(linear, Nf4Linear):
            block = BLOCK
        else:
            continue
        features = linear.in_features
        # Blocks of NF4 may go beyond a row.
        divided = features if BY_COLUMNS.match(name) else linear.out_features * features
        if divided % (size * block) and size > 1:
            reasons.append(f"the {features} in features of {name} into whole blocks of {block} quantized weights")
    return reasons


def even_runs(works: Sequence[int], parts: int) -> list[range]:
    """Cut a sequence of works into consecutive runs, `parts` of them, of about the same total; a run may be empty."""
    total, runs, start, done = sum(works), [], 0, 0
    for number in range(1, parts + 1):
        stop = start
        while stop < len(works) and (done + works[stop] / 2) * parts <= total * number:
            done += works[stop]
            stop += 1
        stop = len(works) if number == parts else stop
        runs.append(range(start, stop))
        start = stop
    return runs
