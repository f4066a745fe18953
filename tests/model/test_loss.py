import pytest
import torch
import torch.nn.functional as F

from mossvl.model import loss
from mossvl.model.loss import next_token_loss

ROWS, VOCABULARY = 10, 32


@pytest.fixture
def logits():
    return torch.randn(ROWS, VOCABULARY, generator=torch.Generator().manual_seed(0)).requires_grad_()


@pytest.fixture
def labels():
    labels = torch.randint(VOCABULARY, (ROWS,), generator=torch.Generator().manual_seed(1))
    labels[2:5] = -100
    return labels


@pytest.mark.parametrize("at_a_time", [1, 3, 10, 100])
@pytest.mark.parametrize("count", [None, 7, torch.tensor(7)])
def test_loss_and_gradient_are_those_of_all_rows_at_once(monkeypatch, logits, labels, at_a_time, count):
    monkeypatch.setattr(loss, "FLOATS", at_a_time * VOCABULARY)
    expected = F.cross_entropy(logits, labels, reduction="sum") / 7
    found = next_token_loss(logits, labels, count)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, logits), torch.autograd.grad(expected, logits))


def test_beside_the_logits_nothing_of_their_size_is_kept(monkeypatch, logits, labels):
    monkeypatch.setattr(loss, "FLOATS", 2 * VOCABULARY)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one) or one, lambda one: one):
        next_token_loss(logits, labels)
    own = logits.untyped_storage().data_ptr()
    assert not any(one.numel() >= VOCABULARY and one.untyped_storage().data_ptr() != own for one in kept)


def test_where_nothing_is_to_be_learned_the_sum_is_0(logits):
    assert next_token_loss(logits[:0], torch.zeros(0, dtype=torch.long), 3) == 0
