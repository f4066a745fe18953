"""Answers count as right only if every one of their tokens is."""

import pytest
import torch

from mossvl.training.accuracy import accuracy, exact_answers

LABELS = torch.tensor([-100, -100, 3, 4, -100, -100, 5, -100, 6, 7])
COLUMNS = torch.tensor([1, 2, 5, 7, 8])


def logits_of(tokens):
    return torch.nn.functional.one_hot(torch.tensor(tokens), 10).float()


def test_answers_are_told_apart_and_judged_whole():
    assert exact_answers(logits_of([3, 4, 5, 6, 7]), COLUMNS, LABELS) == [True, True, True]
    assert exact_answers(logits_of([3, 9, 5, 6, 7]), COLUMNS, LABELS) == [False, True, True]
    assert exact_answers(logits_of([9, 9, 5, 6, 1]), COLUMNS, LABELS) == [False, True, False]
    assert exact_answers(logits_of([3])[:0], COLUMNS[:0], LABELS) == []


def test_answers_are_counted_by_name():
    class Model(torch.nn.Module):
        def forward(self, logits_to_keep, labels, said):
            return type("Output", (), {"logits": logits_of(said)[None]})

    batch = {"logits_to_keep": COLUMNS, "labels": LABELS[None]}
    batches = [({**batch, "said": [3, 4, 5, 6, 7]}, "aab"), ({**batch, "said": [0, 4, 5, 6, 0]}, "aab")]
    model = Model()
    assert accuracy(model, batches) == {"a": (3, 4), "b": (1, 2)}
    with pytest.raises(RuntimeError):
        accuracy(model, [({**batch, "said": None}, "aab")])
    assert model.training
