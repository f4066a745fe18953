"""Exact match of greedy answers, by teacher forcing: without generating them.

A greedy answer equals the expected one if and only if the likeliest token after each of its prefixes is the expected
next token. One forward pass over a conversation tests all its answers.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from mossvl.evaluation import Tally, tallied
from mossvl.training.batches import Batch


def exact_answers(logits: Tensor, rows: Tensor, labels: Tensor) -> list[bool]:
    """Whether each greedy answer of a packed batch equals the expected one, in order.

    Args:
        logits: (answer rows, vocabulary), of any floating dtype.
        rows: (answer rows,) int64: rows of the batch whose next token has loss. Those of one answer are consecutive; a
            gap separates two answers.
        labels: (rows of the batch,) int64.
    """
    right = logits.argmax(-1) == labels[rows + 1]
    answer = (rows.diff(prepend=rows[:1]) > 1).cumsum(0)
    count = int(answer[-1]) + 1 if len(answer) else 0
    wrong = torch.zeros(count, dtype=torch.long, device=logits.device).index_add_(0, answer, (~right).long())
    return (wrong == 0).tolist()


def accuracy(model: nn.Module, batches: Iterable[tuple[Batch, Sequence[str]]]) -> dict[str, Tally]:
    """For each name, the number of exact answers, and of all answers.

    Gradients are not switched off: layers that were compiled for training would be compiled again.

    Args:
        batches: arguments of the model, on its device, and a name for each of their answers, such as its task's.
    """
    was_training = model.training
    model.eval()
    try:
        return tallied(_scored(model, batches))
    finally:
        model.train(was_training)


def _scored(model: nn.Module, batches: Iterable[tuple[Batch, Sequence[str]]]) -> Iterator[tuple[str, float]]:
    for batch, names in batches:
        logits = model(**batch).logits[0].detach()
        yield from zip(names, exact_answers(logits, batch["logits_to_keep"], batch["labels"][0]), strict=True)
