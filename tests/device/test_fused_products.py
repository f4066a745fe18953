"""A kind of weight that is no plain tensor: products, engine and loading take it like any other."""

import copy

import pytest
import torch
from golden_cases import MEDIA
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from mossvl import SamplingParams
from mossvl.checkpoints.weights import load_weights
from mossvl.device.fused_products import FusedProducts, FusedWeights
from mossvl.llm import MossVL
from mossvl.model.layers import CrossAttentionLayer, PlainProducts, RMSNorm, SelfAttentionLayer
from mossvl.offline.empty import cast


class ByteLinear(nn.Module):
    """A linear map of int8 weights with a float32 scale for each output."""

    keeps_dtypes = True

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.out_features, self.in_features = linear.weight.shape
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(1, keepdim=True).clamp(min=1e-8) / 127
        self.register_buffer("data", (weight / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        return ByteWeight([self]).project(x, None)


class ByteWeight:
    """The `FusedWeight` of such maps; counts its products."""

    products = 0

    def __init__(self, maps) -> None:
        self.data, self.scale = (torch.cat([getattr(one, name) for one in maps]) for name in ("data", "scale"))

    def project(self, x: Tensor, norm: RMSNorm | None) -> Tensor:
        ByteWeight.products += 1
        x = x if norm is None else norm(x)
        return (x.float() @ self.data.float().T * self.scale[:, 0]).to(x.dtype)

    def swiglu(self, x: Tensor, norm: RMSNorm) -> Tensor:
        gate, up = self.project(x, norm).chunk(2, dim=-1)
        return nn.functional.silu(gate) * up

    def add(self, residual: Tensor, x: Tensor, gate: Tensor | None = None, sees: Tensor | None = None) -> Tensor:
        product = self.project(x, None)
        return residual + (product if gate is None or sees is None else gate.tanh() * sees * product)


def in_bytes(model: nn.Module) -> nn.Module:
    """The decoder layers with maps of bytes."""
    for layer in model.modules():
        if isinstance(layer, SelfAttentionLayer | CrossAttentionLayer):
            attn = layer.self_attn if isinstance(layer, SelfAttentionLayer) else layer.cross_attn
            for part in (attn, layer.mlp):
                for name, one in list(part.named_children()):
                    if isinstance(one, nn.Linear):
                        setattr(part, name, ByteLinear(one))
    return model


@pytest.fixture
def quantized(model):
    return in_bytes(copy.deepcopy(model))


def test_fused_products_of_another_kind_are_those_of_its_maps(quantized):
    layer = next(one for one in quantized.modules() if isinstance(one, SelfAttentionLayer))
    attn, mlp, norm = layer.self_attn, layer.mlp, layer.input_layernorm
    x = torch.randn(5, attn.q_proj.in_features, generator=torch.Generator().manual_seed(0))
    wide = torch.randn(5, mlp.down_proj.in_features, generator=torch.Generator().manual_seed(1))
    gate, sees = torch.tensor([0.3]), torch.tensor([[1.0], [0], [1], [1], [0]])
    fused, plain = FusedProducts(FusedWeights({ByteLinear: ByteWeight})), PlainProducts()
    maps = attn.q_proj, attn.k_proj, attn.v_proj
    before = ByteWeight.products
    projected = fused.project(x, maps, norm)
    assert ByteWeight.products == before + 1  # Of all three.
    for one, same in zip(projected, plain.project(x, maps, norm), strict=True):
        torch.testing.assert_close(one, same)
    torch.testing.assert_close(fused.swiglu(x, norm, mlp), plain.swiglu(x, norm, mlp))
    torch.testing.assert_close(fused.add(x, wide, mlp.down_proj), plain.add(x, wide, mlp.down_proj))
    torch.testing.assert_close(
        fused.add_gated(x, wide, mlp.down_proj, gate, sees), plain.add_gated(x, wide, mlp.down_proj, gate, sees)
    )


def test_maps_of_several_kinds_compute_themselves(quantized):
    attn = next(one for one in quantized.modules() if isinstance(one, SelfAttentionLayer)).self_attn
    plain = nn.Linear(attn.q_proj.in_features, 4, bias=False)
    weights = FusedWeights({ByteLinear: ByteWeight})
    assert weights.of(attn.q_proj, plain) is None and weights.of(plain) is None
    assert weights.of(attn.q_proj, attn.k_proj) is weights.of(attn.q_proj, attn.k_proj) is not None


@pytest.mark.parametrize("images", [[], [MEDIA / "shapes.png"]], ids=["text", "image"])
def test_the_engine_answers_as_the_model_with_another_kind_of_weight(quantized, processor, images):
    query = {"prompt": "What is there?", "images": [str(one) for one in images]}
    with MossVL(quantized, processor) as llm:
        answer = llm.submit(query, SamplingParams(max_new_tokens=8, ignore_eos=True)).result(60)
    pictures = [Image.open(one) for one in images] or None
    inputs = processor(text=answer.input_text, images=pictures, return_tensors="pt")
    ids = quantized.generate(**inputs, max_new_tokens=8, min_new_tokens=8, do_sample=False)
    assert answer.token_ids == ids[0, inputs["input_ids"].shape[1] :].tolist()


def test_weights_of_another_kind_are_loaded_and_not_cast(quantized, model, tmp_path, golden):
    expected = {name: one.clone() for name, one in quantized.state_dict().items()}
    save_file({name: one.contiguous() for name, one in expected.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((golden / "checkpoint" / "config.json").read_text())
    other = in_bytes(copy.deepcopy(model))
    cast(other, torch.bfloat16)
    for one in other.state_dict().values():
        one.zero_()
    load_weights(other, tmp_path)
    for name, one in other.state_dict().items():
        kept = name.endswith((".data", ".scale"))
        assert one.dtype == (expected[name].dtype if kept else torch.bfloat16)
        assert torch.equal(one, expected[name].to(one.dtype))
