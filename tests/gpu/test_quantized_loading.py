"""Weights that are quantized on a GPU while they are read are those that a CPU makes of them."""

import pytest
import torch
from golden_cases import CHECKPOINT
from published import FORMS

import mossvl
from mossvl.checkpoints import weights
from mossvl.checkpoints.default import CHECKPOINT as TINY
from mossvl.quantization.int4 import Int4Linear
from mossvl.quantization.schemes import quantized_maps

pytestmark = [pytest.mark.gpu, pytest.mark.xdist_group("gpu")]


@pytest.mark.parametrize("part_bytes", [1000, weights.PART_BYTES])
@pytest.mark.parametrize("checkpoint", [CHECKPOINT, TINY], ids=["golden", "tiny"])
@pytest.mark.parametrize("kind", ["fp8", "int4", "nf4"])
def test_weights_are_quantized_as_on_a_cpu(kind, checkpoint, part_bytes, monkeypatch):
    monkeypatch.setattr(weights, "PART_BYTES", part_bytes)
    ours, theirs = (
        dict(quantized_maps(mossvl.load(checkpoint, device, "bfloat16", quantization=kind)[0]))
        for device in ("cuda", "cpu")
    )
    assert ours.keys() == theirs.keys()
    for name, linear in ours.items():
        one, other = linear.dequantized(torch.float32).cpu(), theirs[name].dequantized(torch.float32)
        if isinstance(linear, Int4Linear):  # Sums of squares in another order may prefer the scale beside.
            assert (one - other).norm() < 0.02 * other.norm(), name
        else:
            assert torch.equal(one, other), name


@pytest.mark.parametrize("form", FORMS)
def test_published_weights_are_read_as_on_a_cpu(form, publish):
    folder = publish(form).folder
    ours, theirs = (mossvl.load(folder, device, "bfloat16")[0].state_dict() for device in ("cuda", "cpu"))
    assert ours.keys() == theirs.keys()
    for name, one in ours.items():
        if name.endswith("absmax"):  # Of nested magnitudes, products and sums may be one operation.
            torch.testing.assert_close(one.cpu(), theirs[name])
        else:
            assert torch.equal(one.cpu().view(torch.uint8), theirs[name].view(torch.uint8)), name
