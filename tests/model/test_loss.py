import pytest
import torch
import torch.nn.functional as F

from mossvl.model import loss
from mossvl.model.loss import next_token_loss, token_logprobs

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


@pytest.mark.parametrize("at_a_time", [3, 100])
def test_log_probabilities_are_of_each_rows_token_and_0_where_there_is_none(monkeypatch, logits, labels, at_a_time):
    monkeypatch.setattr(loss, "FLOATS", at_a_time * VOCABULARY)
    expected = logits.log_softmax(-1).gather(1, labels.clamp(min=0)[:, None])[:, 0] * (labels != -100)
    found = token_logprobs(logits, labels)
    torch.testing.assert_close(found, expected)
    weights = torch.rand(ROWS, generator=torch.Generator().manual_seed(2))
    gradients = [torch.autograd.grad(one @ weights, logits) for one in (found, expected)]
    torch.testing.assert_close(*gradients)
    assert token_logprobs(logits.bfloat16(), labels).dtype == torch.float32


def test_the_model_is_given_its_loss(model):
    """A loss sees the kept columns in order, with what follows each, and how many are learned in all."""
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    seen = []

    def mine(logits, labels, count):
        seen.append((logits, labels.tolist(), count))
        return logits.sum()

    mask = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1]])
    kept = torch.tensor([0, 2, 3])
    asked = {"input_ids": ids, "attention_mask": mask, "labels": ids, "logits_to_keep": kept}
    with torch.no_grad():
        output = model(**asked, loss=mine, num_items_in_batch=9)
    ((logits, labels, count),) = seen
    assert (
        labels == [6, 8, -100, -100, 12, -100] and count == 9
    )  # no first token of a padded row, nothing after the last
    assert torch.equal(logits, output.logits.flatten(0, 1))
    assert output.loss == logits.sum()
