"""Adapters are trained on quantized weights as on any others: QLoRA."""

import json
import subprocess
import sys

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn

import mossvl
from mossvl.checkpoints.default import CHECKPOINT
from mossvl.errors import CheckpointError, OptionError
from mossvl.options import MediaOptions
from mossvl.processing.pixels import PatchLayout
from mossvl.quantization.linear import QuantizedLinear
from mossvl.quantization.schemes import quantized_maps
from mossvl.synthetic.world import Split
from mossvl.training.batches import Packer
from mossvl.training.examples import encode
from mossvl.training.merge import merge
from mossvl.training.options import Part, TrainOptions
from mossvl.training.parts import lora
from mossvl.training.run import train
from mossvl.training.synthetic import Phase, SyntheticExamples, SyntheticPacker

PARTS = (Part.SELF_ATTENTION, Part.CROSS_ATTENTION, Part.MERGER)


@pytest.fixture(params=["fp8", "int4", "nf4"])
def kind(request):
    return request.param


def pictures(processor, number=0):
    """A batch of examples of mossvl-tiny's training."""
    examples = SyntheticExamples(processor, Split.TRAIN, 3, 4, [Phase(0, {"when": 1.0, "describe": 1.0})], run=4)
    packed = SyntheticPacker(processor.image_token_id, 2)([examples[number + one] for one in range(2)])
    return {**packed, "pixel_values": packed["pixel_values"].patches(PatchLayout())}


def adapted(model):
    """The model with adapters that are not zero."""
    torch.manual_seed(0)
    trained = get_peft_model(model, lora(model, PARTS, 4, 8, 0.0)).train()
    for name, parameter in trained.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.02)
    return trained


def dense(model):
    """The model with the weights that its maps dequantize to."""
    plain, _ = mossvl.load(device="cpu", dtype="float32")
    for name, linear in quantized_maps(model):
        plain.get_submodule(name).weight.data.copy_(linear.dequantized(torch.float32))
    return plain


@pytest.mark.parametrize("checkpointing", [False, True])
def test_adapters_have_the_gradients_of_a_base_with_dequantized_weights(kind, checkpointing):
    model, processor = mossvl.load(device="cpu", dtype="float32", quantization=kind)
    plain, batch = dense(model), pictures(processor)
    gradients = []
    for base in (model, plain):
        trained = adapted(base)
        if checkpointing:
            base.gradient_checkpointing_enable({"use_reentrant": False})
        loss = trained(**batch).loss
        loss.backward()
        learned = {name: one.grad for name, one in trained.named_parameters() if one.requires_grad}
        gradients.append((loss.detach(), learned))
    (one, ours), (other, theirs) = gradients
    assert torch.equal(one, other) and ours.keys() == theirs.keys() and len(ours) > 100
    for name, gradient in ours.items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(gradient, theirs[name], msg=name)


def test_steps_on_the_data_of_mossvl_tiny_lower_the_loss(kind):
    model, processor = mossvl.load(device="cpu", dtype="float32", quantization=kind)
    before = {name: one.clone() for name, one in model.named_buffers()}
    trained = get_peft_model(model, lora(model, PARTS, 8, 16, 0.0)).train()
    optimizer = torch.optim.AdamW([one for one in trained.parameters() if one.requires_grad], lr=3e-3)
    packer = Packer(processor.image_token_id, 2)
    turns = [{"role": "user", "content": "What are you?"}, {"role": "assistant", "content": "A large red circle."}]
    losses = []
    for _ in range(6):
        batch = packer([encode(processor, turns, MediaOptions())])
        batch.pop("skipped")
        loss = trained(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0], losses
    after = dict(model.named_buffers())
    for name, one in before.items():
        name = name if name in after else name.replace("_proj.", "_proj.base_layer.")
        assert torch.equal(after[name].view(torch.uint8), one.view(torch.uint8)), name


@pytest.mark.parametrize("stored", ["fp8", "nf4"])
def test_products_of_training_can_be_compiled_whole(stored):
    model, _ = mossvl.load(device="cpu", dtype="float32", quantization=stored)
    linear = next(one for _, one in quantized_maps(model))
    x = torch.randn(3, linear.in_features).requires_grad_()
    compiled = torch.compile(linear.forward, backend="eager", fullgraph=True, dynamic=True)
    compiled(x).sum().backward()
    expected = torch.ones(3, linear.out_features) @ linear.dequantized(torch.float32)
    torch.testing.assert_close(x.grad, expected)


def test_under_autocast_products_are_of_its_dtype(kind):
    model, _ = mossvl.load(device="cpu", dtype="float32", quantization=kind)
    linear = next(one for _, one in quantized_maps(model))
    x = torch.randn(3, linear.in_features).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = linear(x)
    assert torch.equal(y, nn.functional.linear(x.bfloat16(), linear.dequantized(torch.bfloat16)))
    y.sum().backward()
    assert x.grad.dtype == torch.float32 and x.grad.abs().max() > 0


@pytest.fixture
def options(tmp_path):
    records = [{"prompt": f"Question {n}?", "response": f"Answer {n}."} for n in range(3)]
    (tmp_path / "records.jsonl").write_text("\n".join(map(json.dumps, records)))
    return {
        "checkpoint": str(CHECKPOINT),
        "data": tmp_path / "records.jsonl",
        "output": tmp_path / "out",
        "device": "cpu",
        "learning_rate": 3e-3,
        "save_every": 3,
        "log_every": 1,
        "workers": 0,
        "rank": 2,
    }


def test_a_run_on_quantized_weights_gives_an_adapter(kind, options, tmp_path):
    adapter = train(TrainOptions(**options, quantization=kind, max_steps=6))
    state = json.loads((options["output"] / "checkpoint-6" / "trainer_state.json").read_text())
    losses = [line["loss"] for line in state["log_history"] if "loss" in line]
    assert sum(losses[3:]) < sum(losses[:3])
    model, _ = mossvl.load(device="cpu", quantization=kind)
    applied = PeftModel.from_pretrained(model, adapter)
    assert any(isinstance(one.get_base_layer(), QuantizedLinear) for one in applied.modules() if hasattr(one, "lora_A"))
    merge(adapter, tmp_path / "merged", dtype="float32")  # Into the weights that were quantized.
    assert not any(quantized_maps(mossvl.load(tmp_path / "merged", "cpu")[0]))
    with pytest.raises(OptionError, match=rf"quantization=None \(was {kind}\)"):
        train(TrainOptions(**options, max_steps=9, resume=True))


def test_quantized_weights_are_not_trained_themselves(options, golden):
    with pytest.raises(OptionError, match="quantization='nf4' is for adapters"):
        TrainOptions(**options, quantization="nf4", adapt=False)
    given = {**options, "checkpoint": str(golden / "checkpoint"), "quantization": "fp8"}
    with pytest.raises(OptionError, match="lm-head is trained whole, but it is quantized here"):
        train(TrainOptions(**given, parts=[Part.LM_HEAD, Part.MERGER]))


def test_an_adapter_is_not_merged_into_a_quantized_checkpoint(options, tmp_path, publish):
    adapter = train(TrainOptions(**{**options, "checkpoint": str(publish("fp8").folder)}, max_steps=1))
    with pytest.raises(CheckpointError, match="is quantized, so that no adapter can be merged into it; name what it"):
        merge(adapter, tmp_path / "merged")
    full = TrainOptions(
        **{**options, "checkpoint": str(publish("nf4").folder), "output": tmp_path / "full"}, adapt=False
    )
    with pytest.raises(OptionError, match="q_proj is quantized: train adapters, or the checkpoint that it was made of"):
        train(full)


def test_two_processes_train_on_quantized_weights(options, tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "mossvl"]
    flags = ["-q", "nf4", "--device", "cpu", "--workers", "0", "--rank", "2", "--max-steps", "2"]
    ended = subprocess.run(
        [*launcher, "train", options["data"], "-o", tmp_path / "two", *flags], capture_output=True, timeout=300
    )
    assert ended.returncode == 0, ended.stderr.decode()
    assert (tmp_path / "two" / "adapter" / "adapter_model.safetensors").is_file()
