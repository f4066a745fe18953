"""`mossvl inspect`"""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from mossvl import MossVLConfig, load
from mossvl.cli.fitting import fits

WEIGHTS = "model.safetensors"


@pytest.fixture
def copy(checkpoint, tmp_path):
    return shutil.copytree(checkpoint, tmp_path / "copy")


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_checkpoint_that_fits(command, checkpoint):
    result = command("inspect", checkpoint)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "cross-attention layers" in result.stdout and "Names and shapes are those" in result.stdout


def test_json_adds_up(command, checkpoint):
    told = json.loads(command("inspect", checkpoint, "--json").stdout)
    tensors = load_file(checkpoint / WEIGHTS)
    parts = told["parameters"]
    assert parts.pop("total") == sum(parts.values()) == sum(tensor.numel() for tensor in tensors.values())
    assert told["weight_bytes"] == sum(tensor.nbytes for tensor in tensors.values())
    assert parts["merger"] == sum(t.numel() for name, t in tensors.items() if name.startswith("model.visual.merger."))
    assert "unknown" not in parts
    assert told["dtypes"] == {"bfloat16": sum(parts.values())}
    # 4 self-attention and 2 cross-attention layers; keys and values of 2 heads of 32 numbers of 2 bytes.
    assert told["kv_bytes_per_1000_text_tokens"] == 1000 * 4 * 2 * 2 * 32 * 2
    assert told["kv_bytes_per_1000_vision_tokens"] == 1000 * 2 * 2 * 2 * 32 * 2
    assert told["differences"] == []


def test_every_difference_is_listed(command, copy):
    tensors = load_file(copy / WEIGHTS)
    missing = [name for name in tensors if ".blocks.0." in name]
    for name in missing:
        del tensors[name]
    tensors["model.extra"] = tensors["model.separator_token"].clone()
    tensors["lm_head.weight"] = tensors["lm_head.weight"][:8].clone()
    save_file(tensors, copy / WEIGHTS)
    result = command("inspect", copy)
    assert result.exit_code == 1
    assert len(missing) > 10
    assert all(f"missing: {name} " in result.stdout for name in missing)
    assert "unexpected: model.extra" in result.stdout
    assert "misshapen: lm_head.weight is [8, 64], expected [512, 64]" in result.stdout
    assert len(json.loads(command("inspect", copy, "--json").stdout)["differences"]) == len(missing) + 2


def test_shards_are_read_together(command, copy, checkpoint):
    tensors = load_file(copy / WEIGHTS)
    (copy / WEIGHTS).unlink()
    names = {name: f"model-0000{1 + index % 2}-of-00002.safetensors" for index, name in enumerate(tensors)}
    for file in set(names.values()):
        save_file({name: tensor for name, tensor in tensors.items() if names[name] == file}, copy / file)
    (copy / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": names}))
    sharded, single = (json.loads(command("inspect", folder, "--json").stdout) for folder in (copy, checkpoint))
    assert sharded["files"] == 2
    assert {**sharded, "files": 1, "checkpoint": ""} == {**single, "checkpoint": ""}
    (copy / "model-00002-of-00002.safetensors").unlink()
    result = command("inspect", copy)
    assert result.exit_code == 2 and "model-00002-of-00002.safetensors is missing" in result.stderr


def test_tied_embeddings_need_no_head(command, copy):
    tensors = load_file(copy / WEIGHTS)
    del tensors["lm_head.weight"]
    save_file(tensors, copy / WEIGHTS)
    assert command("inspect", copy).exit_code == 1
    edit_config(copy, tie_word_embeddings=True)
    assert command("inspect", copy).exit_code == 0


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json"),
        (lambda folder: edit_config(folder, model_type="other"), "'other'"),
        (lambda folder: edit_config(folder, text_config={"num_hidden_layers": "six"}), "num_hidden_layers"),
        (lambda folder: edit_config(folder, vision_config={"out_hidden_size": 3}), "out_hidden_size"),
        (lambda folder: (folder / WEIGHTS).unlink(), "model.safetensors is missing"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"\x08"), "broken or cut off"),
        (lambda folder: shutil.rmtree(folder), "not a folder"),
    ],
)
def test_what_is_no_checkpoint_is_one_line_and_exit_code_2(command, copy, spoil, message):
    spoil(copy)
    result = command("inspect", copy)
    assert (result.exit_code, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 1
    assert message in result.stderr


@pytest.mark.parametrize(
    ("form", "told", "kind"),
    [
        ("fp8", "FP8, compressed-tensors", "fp8"),
        ("int4", "INT4, compressed-tensors", "int4"),
        ("nf4", "NF4, bitsandbytes", "nf4"),
    ],
)
def test_quantized_weights_are_told_and_counted(form, told, kind, command, checkpoint, publish):
    published = publish(form)
    found = json.loads(command("inspect", published.folder, "--json").stdout)
    plain = json.loads(command("inspect", checkpoint, "--json").stdout)
    assert (found["quantization"], plain["quantization"]) == (told, None)
    assert found["parameters"] == plain["parameters"] and found["differences"] == []
    assert sum(found["dtypes"].values()) == found["parameters"]["total"]
    quantized = sum(one.numel() for name, one in load_file(checkpoint / WEIGHTS).items() if name in maps_of(published))
    assert found["dtypes"][kind] == quantized > 0
    assert found["weight_bytes"] == sum(one.nbytes for one in published.tensors().values()) < plain["weight_bytes"]
    assert found["fits"].keys() == {kind} and plain["fits"].keys() == {"bfloat16", "fp8", "int4", "nf4"}
    assert told in command("inspect", published.folder).stdout


def maps_of(published):
    return {name.partition("_proj.")[0] + "_proj.weight" for name in published.tensors() if "_proj.weight" in name} - {
        name for name, one in published.tensors().items() if one.dtype == torch.bfloat16
    }


def test_weights_of_the_published_size_fit_cards():
    found = fits(MossVLConfig(), {})
    assert {name: one["card_gb"] for name, one in found.items()} == {"bfloat16": 32, "fp8": 24, "int4": 16, "nf4": 16}
    gib = {name: one["weight_bytes"] / 2**30 for name, one in found.items()}
    assert gib == pytest.approx({"bfloat16": 21.1, "fp8": 12.0, "int4": 7.9, "nf4": 8.3}, abs=0.05)


@pytest.mark.parametrize("kind", ["bfloat16", "fp8", "int4", "nf4"])
def test_bytes_of_weights_are_those_of_a_loaded_model(kind, checkpoint):
    model, _ = load(checkpoint, "cpu", "bfloat16", quantization=None if kind == "bfloat16" else kind)
    told = fits(MossVLConfig.from_pretrained(checkpoint), {})[kind]["weight_bytes"]
    assert told == sum(one.nbytes for one in model.state_dict().values())


def test_quantized_weights_are_refused_in_one_line(command, copy):
    edit_config(copy, quantization_config={"quant_method": "compressed-tensors", "format": "float-quantized"})
    (copy / "q.jsonl").write_text('{"prompt": "hello"}')
    for arguments in (
        ["inspect", copy],
        ["ask", "-c", copy, "hello"],
        ["run", copy / "q.jsonl", "-o", copy / "a", "-c", copy],
    ):
        result = command(*arguments)
        assert result.exit_code == 2
        (line,) = result.stderr.splitlines()
        assert f"{copy} is quantized (quantization_config: FP8, compressed-tensors)" in line


def test_a_realtime_checkpoint_fits_and_answers(command, copy):
    edit_config(copy, architectures=["MossVLRealtimeForConditionalGeneration"], vision_seq_pad_multiple=8)
    assert command("inspect", copy).exit_code == 0
    assert command("ask", "-c", copy, "hello", "--max-new-tokens", 2).exit_code == 0
