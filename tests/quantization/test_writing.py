"""`mossvl quantize` writes what `load(…, quantization=…)` computes, in the format of compressed-tensors."""

import json

import pytest
import torch
from golden_cases import CHECKPOINT
from published import FOREIGN
from safetensors.torch import load_file

import mossvl
from mossvl import quantizing
from mossvl.checkpoints.default import CHECKPOINT as TINY
from mossvl.errors import CheckpointError, OptionError, ResourceError
from mossvl.quantization import schemes
from mossvl.quantization.schemes import quantized_maps
from mossvl.quantizing import quantize


@pytest.fixture(params=["fp8", "int4"])
def kind(request):
    return request.param


def same(one, other):
    """Whether two models have the same maps, and weights of the same bytes."""
    first, second = one.state_dict(), other.state_dict()
    kinds = [{name: type(linear) for name, linear in quantized_maps(model)} for model in (one, other)]
    return (
        kinds[0] == kinds[1]
        and first.keys() == second.keys()
        and all(torch.equal(first[name].view(torch.uint8), second[name].view(torch.uint8)) for name in first)
    )


@pytest.mark.parametrize("checkpoint", [CHECKPOINT, TINY], ids=["head", "tied"])
def test_a_written_checkpoint_loads_as_the_plain_one_quantized(kind, checkpoint, tmp_path):
    quantize(checkpoint, tmp_path / "out", kind, "cpu")
    written, processor = mossvl.load(tmp_path / "out", "cpu", "bfloat16")
    expected, _ = mossvl.load(checkpoint, "cpu", "bfloat16", quantization=kind)
    assert same(written, expected)
    assert written.generation_config.to_dict() == expected.generation_config.to_dict()
    own = {file.name for file in checkpoint.iterdir() if file.is_file()}
    assert {file.name for file in (tmp_path / "out").iterdir()} == own
    for name in own - {"config.json", "model.safetensors"}:
        assert (tmp_path / "out" / name).read_bytes() == (checkpoint / name).read_bytes()
    assert processor.image_token_id == written.config.image_token_id


def test_fp8_bytes_in_files_are_those_of_compressed_tensors(tmp_path):
    quantize(CHECKPOINT, tmp_path / "out", "fp8", "cpu")
    ours, theirs = load_file(tmp_path / "out" / "model.safetensors"), load_file(FOREIGN / "fp8.safetensors")
    names = [name for name in theirs if not name.endswith(".dequantized")]
    assert len(names) == 28
    for name in names:
        assert ours[name].dtype == theirs[name].dtype and ours[name].shape == theirs[name].shape
        assert torch.equal(ours[name].view(torch.uint8), theirs[name].view(torch.uint8)), name


def test_the_configuration_says_what_is_quantized(kind, tmp_path):
    quantize(CHECKPOINT, tmp_path / "out", kind, "cpu")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    told = config.pop("quantization_config")
    assert config == json.loads((CHECKPOINT / "config.json").read_text())
    groups = list(told["config_groups"].values())
    if kind == "fp8":
        assert told["format"] == "float-quantized" and len(groups) == 1
        assert groups[0]["weights"] == {
            "num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel", "dynamic": False
        }  # fmt: skip
        assert groups[0]["targets"][1:] == ["lm_head"]
    else:
        assert told["format"] == "mixed-precision"
        assert [group["format"] for group in groups] == ["pack-quantized", "float-quantized"]
        assert groups[0]["weights"]["group_size"] == 32 and groups[1]["targets"] == ["lm_head"]
    assert told["quant_method"] == "compressed-tensors" and told["quantization_status"] == "compressed"
    assert told["ignore"] == []


def test_maps_that_do_not_divide_are_written_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(schemes, "GROUPS", (64,))
    quantize(CHECKPOINT, tmp_path / "out", "int4", "cpu")
    told = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert told["ignore"] == [f"model.language_model.layers.{layer}.mlp.down_proj" for layer in range(6)]  # of 160
    written, _ = mossvl.load(tmp_path / "out", "cpu", "bfloat16")
    assert same(written, mossvl.load(CHECKPOINT, "cpu", "bfloat16", quantization="int4")[0])
    monkeypatch.setattr(schemes, "GROUPS", (1000,))
    with pytest.raises(OptionError, match=r"no map of .* divides into blocks of int4"):
        quantize(TINY, tmp_path / "none", "int4", "cpu")
    assert not (tmp_path / "none").exists()


def test_large_weights_are_written_in_shards(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(quantizing, "SHARD_BYTES", 500_000)
    quantize(CHECKPOINT, tmp_path / "out", kind, "cpu")
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    shards = sorted(tmp_path.glob("out/*.safetensors"))
    assert len(shards) >= 3 and {shard.name for shard in shards} == set(index["weight_map"].values())
    assert same(mossvl.load(tmp_path / "out", "cpu")[0], mossvl.load(CHECKPOINT, "cpu", quantization=kind)[0])


def test_what_is_quantized_is_not_quantized_again(kind, tmp_path, publish):
    quantize(CHECKPOINT, tmp_path / "out", kind, "cpu")
    told = {"fp8": "FP8", "int4": "INT4 and FP8"}[kind]
    with pytest.raises(
        OptionError, match=rf"is quantized already \({told}, compressed-tensors\); give what it was mad"
    ):
        quantize(tmp_path / "out", tmp_path / "again", kind, "cpu")
    with pytest.raises(OptionError, match=r"is quantized already \(NF4, bitsandbytes\)"):
        quantize(publish("nf4").folder, tmp_path / "again", kind, "cpu")
    assert not (tmp_path / "again").exists()


def test_a_sharded_checkpoint_is_quantized_without_its_index(tmp_path):
    mossvl.load(CHECKPOINT, "cpu", "bfloat16")[0].save_pretrained(tmp_path / "plain", max_shard_size="500KB")
    for file in CHECKPOINT.glob("*.json"):
        if file.name not in ("config.json", "model.safetensors.index.json"):
            (tmp_path / "plain" / file.name).write_bytes(file.read_bytes())
    quantize(tmp_path / "plain", tmp_path / "out", "fp8", "cpu")
    assert [file.name for file in tmp_path.glob("out/*safetensors*")] == ["model.safetensors"]
    assert same(mossvl.load(tmp_path / "out", "cpu")[0], mossvl.load(CHECKPOINT, "cpu", quantization="fp8")[0])


def test_a_folder_appears_only_when_it_is_complete(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr(quantizing, "save_torch_state_dict", full)
    with pytest.raises(ResourceError, match=r"out cannot be written .No space left on device.; make room"):
        quantize(CHECKPOINT, tmp_path / "out", "fp8", "cpu")
    assert not list(tmp_path.iterdir())
    (tmp_path / "out").mkdir()
    with pytest.raises(CheckpointError, match="out exists already; give a new folder"):
        quantize(CHECKPOINT, tmp_path / "out", "fp8", "cpu")
    with pytest.raises(OptionError, match="kind='nf4' must be 'fp8' or 'int4'"):
        quantize(CHECKPOINT, tmp_path / "other", "nf4", "cpu")


def test_a_quantized_model_is_not_saved_as_a_plain_one(kind, tmp_path):
    model, _ = mossvl.load(CHECKPOINT, "cpu", quantization=kind)
    with pytest.raises(OptionError, match=r"save_pretrained would write quantized weights .* mossvl quantize"):
        model.save_pretrained(tmp_path / "out")
