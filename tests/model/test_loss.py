import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mossvl.model import loss
from mossvl.model.loss import next_token_loss

ROWS, HIDDEN, VOCABULARY = 10, 8, 32


@pytest.mark.parametrize("at_a_time", [1, 3, 10, 100])
@pytest.mark.parametrize("count", [None, 7, torch.tensor(7)])
def test_loss_and_gradients_are_those_of_all_rows_at_once(monkeypatch, at_a_time, count):
    monkeypatch.setattr(loss, "LOGITS", at_a_time * VOCABULARY)
    torch.manual_seed(0)
    head = nn.Linear(HIDDEN, VOCABULARY, bias=False)
    states = torch.randn(ROWS, HIDDEN, requires_grad=True)
    labels = torch.randint(VOCABULARY, (ROWS,))
    labels[2:5] = -100
    expected = F.cross_entropy(head(states), labels, reduction="sum") / 7
    wanted = torch.autograd.grad(expected, (states, head.weight))
    found = next_token_loss(states, head, labels, VOCABULARY, count)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, (states, head.weight)), wanted)


def test_logits_are_not_kept(monkeypatch):
    monkeypatch.setattr(loss, "LOGITS", 2 * VOCABULARY)
    head = nn.Linear(HIDDEN, VOCABULARY, bias=False)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one.numel()) or one, lambda one: one):
        next_token_loss(
            torch.randn(ROWS, HIDDEN, requires_grad=True), head, torch.zeros(ROWS, dtype=torch.long), VOCABULARY
        )
    assert sum(kept) < ROWS * VOCABULARY
