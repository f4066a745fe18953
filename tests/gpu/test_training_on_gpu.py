"""Training on a GPU: all samples at once give what each gives, gradients included, and no step waits for the GPU."""

import pytest
import torch
from peft import get_peft_model
from torch import nn

from mossvl.checkpoints.default import CHECKPOINT
from mossvl.model import modeling
from mossvl.model.packed_backend import PackedAttention
from mossvl.processing.pixels import PatchLayout
from mossvl.processing.processor import MossVLProcessor
from mossvl.synthetic.tasks import TASKS
from mossvl.synthetic.world import Split
from mossvl.tiny.train import untrained
from mossvl.training.options import INNER
from mossvl.training.parts import lora, train_only
from mossvl.training.synthetic import Phase, SyntheticExamples, SyntheticPacker
from mossvl.training.trainer import compile_layers

pytestmark = [pytest.mark.gpu, pytest.mark.xdist_group("gpu")]


def packed_batches(count, examples=8):
    """Batches of the procedural world in pinned memory."""
    processor = MossVLProcessor.from_pretrained(CHECKPOINT)
    phases = [Phase(0, dict.fromkeys(TASKS, 1.0))]
    dataset = SyntheticExamples(processor, Split.TRAIN, 1, count * examples, phases, run=examples)
    packer = SyntheticPacker(processor.image_token_id, processor.image_processor.merge_size)
    loader = torch.utils.data.DataLoader(dataset, batch_size=examples, collate_fn=packer, pin_memory=True)
    return list(loader)


def on_gpu(batch):
    tensors = {name: batch[name].to("cuda", non_blocking=True) for name in ("input_ids", "labels", "logits_to_keep")}
    pixels = batch["pixel_values"].to("cuda", non_blocking=True).patches(PatchLayout())
    return {**tensors, "packed": batch["packed"], "pixel_values": pixels}


def loss_and_gradients(model, batch):
    model.zero_grad()
    loss = model(**on_gpu(batch)).loss
    loss.backward()
    return loss.detach(), {name: one.grad.clone() for name, one in model.named_parameters() if one.requires_grad}


def check_same(found, expected):
    """That a loss and gradients are the expected ones, up to the order of sums."""
    (loss, gradients), (expected_loss, expected_gradients) = found, expected
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=1e-5)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        largest = expected_gradients[name].abs().max()
        assert (gradient - expected_gradients[name]).abs().max() <= 1e-3 * largest + 1e-8, name


def sample_by_sample(packed, cache, device):
    return PackedAttention(packed.lengths, packed.visible, packed.vision_lengths, packed.reads, cache)


@pytest.mark.parametrize("compiled", [False, True], ids=["layers", "compiled layers"])
def test_all_samples_at_once_learn_what_each_learns(compiled, monkeypatch):
    model = untrained(0).cuda().train()
    batches = packed_batches(2)
    with monkeypatch.context() as patched:
        patched.setattr(modeling, "backend_for", sample_by_sample)
        expected = [loss_and_gradients(model, batch) for batch in batches]
    if compiled:
        compile_layers(model)
    for batch, one in zip(batches, expected, strict=True):
        check_same(loss_and_gradients(model, batch), one)


@pytest.mark.parametrize("compiled", [False, True], ids=["layers", "compiled layers"])
def test_adapters_computed_together_learn_what_each_learns(compiled, monkeypatch):
    model = untrained(0).cuda()
    trained = get_peft_model(model, lora(model, INNER, 4, 6, 0.0)).train()
    for name, parameter in trained.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.05)
    batches = packed_batches(2)
    with monkeypatch.context() as patched:
        patched.setattr(modeling, "backend_for", sample_by_sample)
        expected = [loss_and_gradients(trained, batch) for batch in batches]
    if compiled:
        model.enable_input_require_grads()
        compile_layers(model)
    for batch, one in zip(batches, expected, strict=True):
        check_same(loss_and_gradients(trained, batch), one)


def test_a_frozen_tower_gives_what_plain_operations_give():
    from mossvl.device.triton_vision import TritonOps

    model = untrained(0).cuda().train()
    train_only(model, INNER)
    batches = packed_batches(2)
    expected = [loss_and_gradients(model, batch) for batch in batches]
    model.model.visual.frozen_ops = TritonOps()
    for batch, one in zip(batches, expected, strict=True):
        check_same(loss_and_gradients(model, batch), one)


def test_no_step_waits_for_the_gpu():
    model = untrained(0).cuda().train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)

    def step(batch):
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(**on_gpu(batch)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    first, *others = packed_batches(3)
    step(first)  # compiles, and keeps what is kept
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in others:
            step(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
