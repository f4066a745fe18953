"""What mossvl-tiny loses with quantized weights: answers, and how far its next tokens are from the plain ones'.

The bounds leave room over what was measured on more samples; docs/quantization.md has the figures.
"""

import pytest
import torch

import mossvl
from mossvl.processing.pixels import PatchLayout
from mossvl.synthetic.world import Split
from mossvl.tiny.validation import questions
from mossvl.training.accuracy import exact_answers

BOUNDS = {"fp8": (5e-5, 0.998, 0), "int4": (3e-4, 0.99, 1), "nf4": (3e-4, 0.99, 1)}
"""By quantization: mean KL divergence of next tokens, share of equal likeliest tokens, answers that are lost."""


@pytest.fixture(scope="module")
def asked():
    """Batches of two samples of each task: pictures, clips, conversations."""
    processor = mossvl.load(device="cpu")[1]
    batches = [batch for batch, _ in questions(processor, Split.TEST, 7, 2)]
    return [{**one, "pixel_values": one["pixel_values"].patches(PatchLayout())} for one in batches]


def answered(quantization, batches):
    """(log probabilities of the tokens of all answers, whether each answer is the expected one)."""
    model, _ = mossvl.load(device="cpu", dtype="float32", quantization=quantization)
    told, right = [], []
    for batch in batches:
        with torch.no_grad():
            logits = model(**batch).logits[0]
        told.append(logits.log_softmax(-1))
        right += exact_answers(logits, batch["logits_to_keep"], batch["labels"][0])
    return torch.cat(told), right


@pytest.fixture(scope="module")
def plain(asked):
    return answered(None, asked)


@pytest.mark.parametrize("quantization", BOUNDS)
def test_answers_are_nearly_those_of_plain_weights(quantization, asked, plain):
    most, least, lost = BOUNDS[quantization]
    (expected, right), (told, quantized) = plain, answered(quantization, asked)
    divergence = (expected.exp() * (expected - told)).sum(-1).mean().item()
    agreement = (expected.argmax(-1) == told.argmax(-1)).float().mean().item()
    assert len(right) > 60 and sum(right) > 0.9 * len(right)
    assert 0 < divergence < most
    assert agreement > least
    assert sum(right) - sum(quantized) <= lost
