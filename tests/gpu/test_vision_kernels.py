"""The vision tower's kernels, and the tower that uses them, against plain PyTorch."""

import math

import pytest
import torch
import torch.nn.functional as F
from golden_cases import CASES

import mossvl
from mossvl.model.configuration import MossVLVisionConfig
from mossvl.model.vision import VisionTower
from mossvl.model.vision_ops import PLAIN, equal_runs
from mossvl.model.xrope import rotate
from mossvl.processing.pixels import normalise

pytestmark = [pytest.mark.gpu, pytest.mark.xdist_group("gpu")]

TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
MIXED = [(2, 4, 6), (1, 6, 4), (1, 2, 2), (3, 8, 8), (1, 20, 34)]
SMALL = MossVLVisionConfig(depth=4, deepstack_visual_indexes=[1, 3], out_hidden_size=256)
"""Published widths, less depth; its last block is a deepstack block too."""


@pytest.fixture(scope="module", autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def kernels():
    return pytest.importorskip("mossvl.kernels.vision")


@pytest.fixture(scope="module")
def vision_ops():
    return pytest.importorskip("mossvl.device.triton_vision")


@pytest.fixture(scope="module")
def towers():
    """The small tower in float32 and bfloat16; weights so large that every part counts."""
    torch.manual_seed(0)
    tower = VisionTower(SMALL).cuda()
    for name, parameter in tower.named_parameters():
        parameter.normal_(std=0.3 if parameter.ndim == 1 or "pos_embed" in name else 0.03)
        if "norm" in name and name.endswith("weight"):
            parameter.add_(1)
    low = VisionTower(SMALL).cuda().bfloat16()
    low.load_state_dict(tower.state_dict())
    return {torch.float32: tower, torch.bfloat16: low}


def random(*shape, dtype=torch.float32, seed=0):
    generator = torch.Generator("cuda").manual_seed(seed)
    return torch.randn(shape, device="cuda", generator=generator).to(dtype)


def error(actual, expected):
    assert actual.shape == expected.shape
    return ((actual.double() - expected.double()).norm() / expected.double().norm()).item()


def pixels_for(grids, config=SMALL, dtype=torch.float32):
    return random(sum(t * h * w for t, h, w in grids), 3 * config.patch_size**2, dtype=dtype)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(("rows", "width"), [(1, 1152), (301, 1152), (7, 48), (5, 64), (3, 1000)])
@pytest.mark.parametrize("shifted", [False, True])
def test_norm(rows, width, shifted, dtype, kernels):
    norm = torch.nn.LayerNorm(width, eps=1e-6, device="cuda", dtype=dtype)
    norm.weight.copy_(random(width, seed=1))
    norm.bias.copy_(random(width, seed=2))
    x, shift = random(rows, width, dtype=dtype) * 3 + 1, random(width, seed=3) if shifted else None
    out = torch.full((rows, 3, width), torch.nan, device="cuda", dtype=dtype)
    kernels.layer_norm(x, norm, shift, out[:, 1])
    exact = x.double() + (shift.double() if shifted else 0)
    exact = F.layer_norm(exact, (width,), norm.weight.double(), norm.bias.double(), norm.eps)
    assert error(out[:, 1], exact) < TOLERANCES[dtype]
    assert out[:, [0, 2]].isnan().all()
    assert torch.equal(kernels.layer_norm(x, norm, shift), out[:, 1])


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(("heads", "width"), [(16, 72), (3, 16)])
def test_rotation_in_place(heads, width, dtype, kernels, vision_ops):
    table = random(49, heads * width, dtype=dtype)
    config = MossVLVisionConfig(hidden_size=heads * width, num_heads=heads, num_position_embeddings=49)
    frames = vision_ops.TritonOps().frames(table, MIXED, config)
    plain = PLAIN.frames(table, MIXED, config)
    rows = sum(t * h * w for t, h, w in MIXED)
    qkv = random(rows, 3, heads, width, dtype=dtype)
    exact = [rotate(part.double(), [angle.double() for angle in plain.rope]) for part in qkv.unbind(1)[:2]]
    exact = torch.stack([*exact, qkv[:, 2].double()], dim=1)
    kernels.rotate_in_place(qkv, *frames.rope, frames.entry)
    assert error(qkv, exact) < TOLERANCES[dtype]
    assert torch.equal(qkv[:, 2].double(), exact[:, 2])
    x = random(rows, heads * width, dtype=dtype)
    exact = x.double() + plain.positions.double()
    kernels.add_entries(x, frames.positions, frames.entry)
    assert error(x, exact) < TOLERANCES[dtype]


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_pixels_are_normalised(dtype, kernels):
    patches = torch.randint(0, 256, (77, 768), dtype=torch.uint8, device="cuda")
    mean, std = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
    exact = (patches.double().view(77, 3, -1) / 255 - torch.tensor(mean, device="cuda").double()[:, None]).flatten(1)
    exact = (exact.view(77, 3, -1) / torch.tensor(std, device="cuda").double()[:, None]).flatten(1)
    actual = kernels.normalise_patches(patches, kernels.channel_values(mean, std, patches.device), dtype)
    assert actual.dtype == dtype
    assert error(actual, exact) < (1e-6 if dtype == torch.float32 else 4e-3)
    assert error(actual, normalise(patches, mean, std, dtype)) < (1e-6 if dtype == torch.float32 else 4e-3)


def test_activation_in_the_products_epilogue_is_gelu_tanh(vision_ops):
    linear = torch.nn.Linear(1152, 4304, device="cuda", dtype=torch.bfloat16)
    x = random(300, 1152, dtype=torch.bfloat16) * 3
    act = VisionTower(MossVLVisionConfig(depth=1, deepstack_visual_indexes=[])).blocks[0].mlp.act_fn
    exact = F.linear(x.double(), linear.weight.double(), linear.bias.double())
    exact = F.gelu(exact, approximate="tanh")
    plain = error(F.gelu(linear(x), approximate="tanh"), exact)
    fused = error(vision_ops.TritonOps().activated(linear, act, x), exact)
    assert fused <= max(plain, 3e-3)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("grids", [MIXED, [(1, 2, 2)], [(3, 22, 40)]], ids=["mixed", "one block", "video"])
def test_attention_is_within_frames(grids, dtype, vision_ops):
    ops, table = vision_ops.TritonOps(), random(49, 1152, dtype=dtype)
    config = MossVLVisionConfig(num_position_embeddings=49)
    plain = PLAIN.frames(table, grids, config)
    qkv = random(sum(t * h * w for t, h, w in grids), 3, 16, 72, dtype=dtype)
    q, k, v = (part.double() for part in qkv.unbind(1))
    q, k = (rotate(part, [angle.double() for angle in plain.rope]) for part in (q, k))
    lengths = [h * w for t, h, w in grids for _ in range(t)]
    exact = [
        F.scaled_dot_product_attention(*(part.transpose(0, 1) for part in parts)).transpose(0, 1)
        for parts in zip(*(part.split(lengths) for part in (q, k, v)), strict=True)
    ]
    assert error(ops.attention(qkv, ops.frames(table, grids, config)), torch.cat(exact)) < TOLERANCES[dtype]


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("grids", [MIXED, [(1, 2, 2)], [(5, 28, 28)]], ids=["mixed", "one block", "video"])
def test_the_tower_is_the_plain_tower(grids, dtype, vision_ops, towers):
    tower, ops = towers[dtype], vision_ops.TritonOps()
    pixels = pixels_for(grids)
    expected = towers[torch.float32](pixels, grids)
    for chunk in (None, 2):
        actual = tower(pixels, grids, chunk, ops)
        assert actual.dtype == dtype
        assert error(actual, expected) < (1e-5 if dtype == torch.float32 else 1e-2)
    assert torch.equal(tower(pixels, grids, 2, ops), actual)


def test_bytes_give_what_normalised_pixels_give(vision_ops, towers):
    patches = torch.randint(0, 256, (24, 768), dtype=torch.uint8)
    mean, std = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
    tower = towers[torch.float32]
    expected = tower(normalise(patches, mean, std).cuda(), [(1, 4, 6)])
    assert error(tower(patches, [(1, 4, 6)], ops=vision_ops.TritonOps(mean, std)), expected) < 1e-5
    assert error(tower(patches, [(1, 4, 6)], ops=type(PLAIN)(mean, std)), expected) < 1e-5


def test_tables_of_recent_grids_are_kept_within_bounds(vision_ops, towers, monkeypatch):
    tower, ops = towers[torch.float32], vision_ops.TritonOps()
    table = tower.pos_embed.weight
    first = ops.frames(table, MIXED, SMALL)
    assert ops.frames(table, list(MIXED), SMALL) is first
    assert first.runs == vision_ops.binary_runs(equal_runs(MIXED))
    monkeypatch.setattr(vision_ops, "TABLE_BYTES", 1)
    last = ops.frames(table, [(1, 4, 4)], SMALL)
    assert ops.frames(table, [(1, 4, 4)], SMALL) is last
    assert ops.frames(table, MIXED, SMALL) is not first


def test_runs_are_cut_into_powers_of_two(vision_ops):
    assert vision_ops.binary_runs([(1, 4), (41, 784), (64, 880)]) == ((1, 4), (32, 784), (8, 784), (1, 784), (64, 880))


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_captured_batches_give_what_others_give(dtype, vision_ops, towers, monkeypatch):
    """More sizes than there are graphs, in turn: graphs are thrown away, made anew and used with other pixels."""
    from mossvl.device import vision_graphs
    from mossvl.device.set_ups import SetUps

    monkeypatch.setattr(vision_graphs, "MOST_GRAPHS", 2)
    monkeypatch.setattr(vision_graphs, "PATIENCE", 0)
    tower, set_ups = towers[dtype], SetUps()
    encode = vision_graphs.VisionGraphs(
        lambda pixels, grids, ops: tower(pixels, grids, ops=ops),
        lambda often: vision_ops.TritonOps(often=often),
        set_ups,
    )
    sizes = [MIXED, [(3, 8, 8)], [(1, 6, 4), (5, 2, 2)]]
    results = []
    for number in range(3 * (vision_graphs.OFTEN + 4)):
        grids = sizes[number % 3]
        rows = sum(t * h * w for t, h, w in grids)
        pixels = torch.randint(0, 256, (rows, 768), dtype=torch.uint8, device="cuda")
        set_ups.begin_step(math.inf)
        results.append((encode(pixels, grids), tower(pixels, grids, ops=vision_ops.TritonOps())))
    assert len(encode._graphs) == 2
    for actual, expected in results:  # only now: no result lies where a later one is put
        assert error(actual, expected) < TOLERANCES[dtype]


def test_gradients_are_refused(vision_ops, towers):
    with torch.enable_grad(), pytest.raises(RuntimeError, match="no gradients"):
        towers[torch.float32](pixels_for([(1, 2, 2)]), [(1, 2, 2)], ops=vision_ops.TritonOps())


@pytest.fixture(scope="module")
def golden_model(golden):
    return mossvl.load(golden / "checkpoint", device="cuda", dtype="float32")[0]


@pytest.mark.parametrize("name", [name for name in CASES if name != "text_only"])
def test_golden_vision_sequences(name, golden_model, reference, vision_ops):
    pixels, grids = reference[f"{name}.pixel_values"], torch.tensor(CASES[name]["grid_thw"])
    expected = reference[f"{name}.vision_embeds"]
    for given in (pixels, pixels.float() / 255 * 2 - 1):
        encoded = golden_model.model.encode_vision(given, grids, 2, vision_ops.TritonOps())
        torch.testing.assert_close(encoded.cpu(), expected, atol=1e-4, rtol=0)
