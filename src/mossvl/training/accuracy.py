"""How many answers a model would give exactly, without generating them.

A greedy answer is the expected one if and only if, after every beginning of the expected one, the likeliest next token
is the expected next one. One pass over the whole conversation tells, for all its answers at once.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from mossvl.evaluation import Tally, tallied
from mossvl.training.batches import Batch


def exact_answers(logits: Tensor, columns: Tensor, labels: Tensor) -> list[bool]:
    """Whether each answer of a packed batch is exactly as expected, in order.

    Args:
        logits: (columns, vocabulary) of the columns whose next token is learned.
        columns: (columns,) int64; an answer's are next to each other, and no two answers touch.
        labels: (rows,) int64.
    """
    right = logits.argmax(-1) == labels[columns + 1]
    answer = (columns.diff(prepend=columns[:1]) > 1).cumsum(0)
    count = int(answer[-1]) + 1 if len(answer) else 0
    wrong = torch.zeros(count, dtype=torch.long, device=logits.device).index_add_(0, answer, (~right).long())
    return (wrong == 0).tolist()


def accuracy(model: nn.Module, batches: Iterable[tuple[Batch, Sequence[str]]]) -> dict[str, Tally]:
    """For each name, how many answers were right, and of how many.

    Whether gradients are recorded is left as it is: layers that were compiled for training are not compiled once more.

    Args:
        batches: arguments of the model, on its device, and a name for each answer in them, as the task it belongs to.
    """
    learning = model.training
    model.eval()
    try:
        return tallied(_scored(model, batches))
    finally:
        model.train(learning)


def _scored(model: nn.Module, batches: Iterable[tuple[Batch, Sequence[str]]]) -> Iterator[tuple[str, float]]:
    for batch, names in batches:
        logits = model(**batch).logits[0].detach()
        yield from zip(names, exact_answers(logits, batch["logits_to_keep"], batch["labels"][0]), strict=True)
