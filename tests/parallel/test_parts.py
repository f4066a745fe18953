"""Each rank reads its own part of the weights, and no more; the parts together are the whole."""

import json

import pytest
import torch
from cut_models import random_checkpoint
from safetensors.torch import load_file, save_file

import mossvl
from mossvl.checkpoints import weights
from mossvl.errors import CheckpointError, OptionError
from mossvl.loading import _loaded
from mossvl.parallel.ranks import Ranks
from mossvl.parallel.share import BY_COLUMNS, Share, even_runs
from mossvl.quantization.nf4 import CODES, Nf4Linear
from mossvl.quantization.schemes import quantized_maps
from mossvl.quantizing import quantize

CPU = torch.device("cpu")
CUT = ("_proj.weight", "q_proj.bias", "k_proj.bias", "v_proj.bias", "embed_tokens.weight", "lm_head.weight")


def part(folder, rank, size, quantization=None):
    return _loaded(Ranks(Share(rank, size), CPU), CPU, folder, torch.float32, quantization, "")


def is_cut(name):
    return name.endswith(CUT) and "visual" not in name


def joined(name, parts):
    return torch.cat(parts, dim=1 if BY_COLUMNS.match(name) else 0)


@pytest.mark.parametrize("size", [2, 4])
def test_the_parts_of_all_ranks_are_the_whole(quartered, size):
    whole = dict(mossvl.load(quartered, "cpu", "float32")[0].named_parameters())
    parts = [dict(part(quartered, rank, size).named_parameters()) for rank in range(size)]
    for name, values in whole.items():
        own = [one[name] for one in parts]
        if is_cut(name):
            assert torch.equal(joined(name, own), values), name
        elif name.endswith("o_proj.bias"):  # Added once.
            assert torch.equal(own[0], values) and not any(one.any() for one in own[1:])
        else:
            assert all(torch.equal(one, values) for one in own), name


@pytest.mark.parametrize("size", [2, 4])
def test_no_rank_reads_more_than_its_part_of_a_tensor_that_is_cut(quartered, size, monkeypatch):
    places = weights._offsets(quartered / "model.safetensors")
    found = weights.read_headers(quartered)
    read = []
    fill = weights._fill_run

    def counting(left, file):
        read[-1].append((file.tell(), len(left)))
        fill(left, file)

    monkeypatch.setattr(weights, "_fill_run", counting)
    for rank in range(size):
        read.append([])
        part(quartered, rank, size)
    for name, info in found.items():
        begin, end = places[name], places[name] + info.bytes
        by_rank = [bytes_within(runs, begin, end) for runs in read]
        if is_cut(name):
            assert [len(one) for one in by_rank] == [info.bytes // size] * size, name
            assert len(set().union(*by_rank)) == info.bytes, name


def bytes_within(runs, begin, end):
    return {
        place for start, length in runs for place in range(max(begin, start), min(end, start + length)) if start < end
    }


def bitsandbytes(folder, target, nested):
    """Write a checkpoint as of bitsandbytes, whose magnitudes are quantized in turn if `nested`."""
    model, _ = mossvl.load(folder, "cpu", "float32", quantization="nf4")
    tensors = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    for name, linear in quantized_maps(model):
        if not isinstance(linear, Nf4Linear):
            continue
        state = {"quant_type": "nf4", "blocksize": 64, "shape": [linear.out_features, linear.in_features]}
        own = {
            "weight": linear.weight.view(-1, 1),
            "weight.absmax": linear.absmax,
            "weight.quant_map": torch.tensor(CODES),
        }
        if nested:
            blocks = len(linear.absmax)
            state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.125}
            own |= {
                "weight.absmax": torch.randint(0, 256, (blocks,), generator=generator).to(torch.uint8),
                "weight.nested_absmax": torch.rand(-(-blocks // 256), generator=generator),
                "weight.nested_quant_map": torch.rand(256, generator=generator),
            }
        told = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
        own["weight.quant_state.bitsandbytes__nf4"] = told
        tensors |= {f"{name}.{end}": tensor.clone() for end, tensor in own.items()}
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    target.mkdir()
    (target / "config.json").write_text(json.dumps(config))
    save_file(tensors, target / "model.safetensors")
    return target


@pytest.fixture(params=["fp8", "int4", "nf4", "nf4, nested"])
def quantized(request, plain, tmp_path):
    """A checkpoint with quantized weights."""
    target = tmp_path / "quantized"
    if request.param.startswith("nf4"):
        return bitsandbytes(plain, target, "nested" in request.param)
    quantize(plain, target, request.param)
    return target


def dequantized(model):
    return {name: linear.dequantized(torch.float32) for name, linear in quantized_maps(model)}


def test_quantized_checkpoints_are_cut_without_a_change_of_values(quantized):
    whole = _loaded(None, CPU, quantized, torch.float32, None, "")
    parts = [part(quantized, rank, 2) for rank in range(2)]
    for name, values in dequantized(whole).items():
        assert torch.equal(joined(name, [dequantized(one)[name] for one in parts]), values), name
    assert len(dequantized(whole)) >= 30


@pytest.mark.parametrize(("kind", "most"), [("fp8", 0.07), ("int8", 0.02), ("int4", 0.0), ("nf4", 0.0)])
def test_weights_that_are_quantized_at_load_are_those_of_one_process(kind, most, plain):
    whole = dequantized(_loaded(None, CPU, plain, torch.float32, kind, ""))
    parts = [dequantized(part(plain, rank, 2, kind)) for rank in range(2)]
    for name, values in whole.items():
        cut = joined(name, [one[name] for one in parts])
        near = most if BY_COLUMNS.match(name) else 0.0  # Scales of a part of a row are the part's.
        assert (cut - values).abs().max() <= near * values.abs().max(), name


@pytest.mark.parametrize(
    ("size", "told"),
    [(3, "8 heads"), (8, "4 key-value heads"), (0, "must be"), (True, "must be"), ("2", "must be"), (2.0, "must be")],
)
def test_a_size_that_does_not_divide_is_refused_with_those_that_do(size, told, plain):
    with pytest.raises(OptionError, match=told) as refused:
        mossvl.load(plain, "cpu", tensor_parallel_size=size)
    assert str(refused.value).startswith("tensor_parallel_size=")
    assert "must be" in told or str(refused.value).endswith("possible are 1, 2, 4")


def test_blocks_of_quantized_weights_are_not_cut(tmp_path):
    folder = random_checkpoint(tmp_path, num_key_value_heads=8)
    with pytest.raises(
        OptionError, match=r"256 in features of .*o_proj into whole blocks of 64.*possible are 1, 2, 4$"
    ):
        mossvl.load(folder, "cpu", quantization="int4", tensor_parallel_size=8)


def test_more_gpus_than_there_are_are_refused(plain, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    with pytest.raises(OptionError, match="needs as many GPUs, from cuda:2 on; there are 1"):
        mossvl.load(plain, "cuda:2", tensor_parallel_size=2)


def test_a_pytorch_that_cannot_exchange_tensors_is_refused(plain, monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_available", lambda: False)
    with pytest.raises(OptionError, match=r"without torch\.distributed"):
        mossvl.load(plain, "cpu", tensor_parallel_size=2)


def test_a_tensor_of_another_shape_is_named(plain, tmp_path):
    tensors = load_file(plain / "model.safetensors")
    tensors["lm_head.weight"] = tensors["lm_head.weight"][:256]
    (tmp_path / "config.json").write_text((plain / "config.json").read_text())
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lm_head.weight is \[256, 64\], expected \[512, 64\]"):
        part(tmp_path, 0, 2)


@pytest.mark.parametrize("parts", [1, 2, 4, 8])
@pytest.mark.parametrize("works", [[], [5], [1] * 7, [100, 1, 1, 1], [1, 1, 1, 100], [3, 9, 2, 7, 7, 1]])
def test_frames_are_shared_out_in_order_and_evenly(works, parts):
    runs = even_runs(works, parts)
    assert [place for run in runs for place in run] == list(range(len(works))) and len(runs) == parts
    if works:
        assert max(sum(works[place] for place in run) for run in runs) <= sum(works) / parts + max(works)
