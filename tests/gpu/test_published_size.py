"""The published size, 11.34 B parameters, with random weights made on the GPU."""

import gc

import pytest
import torch

import mossvl
from mossvl.loading import random_model

pytestmark = [pytest.mark.gpu, pytest.mark.xdist_group("gpu")]

IMAGE = [[1, 64, 64]]
VIDEO = [[64, 28, 28]]
FULL_HD = [[256, 40, 74]]  # 256 frames of 1920 × 1080 within the default budget


@pytest.fixture(scope="module")
def large():
    """A bf16 model whose gates are open, so that vision counts."""
    model = random_model(device="cuda", dtype=torch.bfloat16)
    yield model
    del model
    gc.collect()
    torch.cuda.empty_cache()


def inputs(grid, model, text=48):
    """Random pixels, and a prompt with an image token for every frame."""
    generator = torch.Generator("cuda").manual_seed(1)
    frames, rows, columns = grid[0]
    pixels = torch.rand(frames * rows * columns, 768, device="cuda", generator=generator) * 2 - 1
    per_frame = [*range(100, 109), model.config.image_token_id] if frames > 1 else [model.config.image_token_id]
    ids = [*range(10), *per_frame * frames, *range(200, 200 + text)]
    return {
        "input_ids": torch.tensor([ids], device="cuda"),
        "pixel_values": pixels,
        "grid_thw": torch.tensor(grid),
        "vision_chunked_length": 32,
    }


def generate(model, batch):
    """Eight tokens and their logits; no end token cuts them short."""
    return model.generate(
        **batch, max_new_tokens=8, min_new_tokens=8, do_sample=False, output_logits=True, return_dict_in_generate=True
    )


@torch.no_grad()
@pytest.mark.parametrize("grid", [IMAGE, VIDEO], ids=["image", "64 frames"])
def test_forward_and_generate_stay_within_memory(grid, large):
    batch = inputs(grid, large)
    weights = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    out = generate(large, batch)
    peak = torch.cuda.max_memory_allocated() - weights
    print(f"\n{grid}: {batch['input_ids'].shape[1]} tokens, {peak / 2**30:.2f} GiB above {weights / 2**30:.2f} GiB")
    assert all(torch.isfinite(logits).all() for logits in out.logits)
    assert peak < 4 * 2**30


@torch.no_grad()
def test_256_frames_of_full_hd_cost_their_vision_sequence(large):
    batch = inputs(FULL_HD, large)
    batch["pixel_values"] = batch["pixel_values"].bfloat16()
    config = large.config.text_config
    tokens = 256 * (40 * 74 // 4 + 1)
    sequence = 2 * tokens * config.hidden_size
    keys_values = 2 * 2 * tokens * config.num_key_value_heads * config.head_dim * len(config.cross_attention_layers)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    output = large(**batch, logits_to_keep=1)
    peak = torch.cuda.max_memory_allocated() - before
    print(f"\n{tokens} vision tokens: peak {peak / 2**30:.2f} GiB above weights and pixels; the vision sequence is")
    print(f"{sequence / 2**30:.2f} and its keys and values {keys_values / 2**30:.2f}")
    assert torch.isfinite(output.logits).all()
    assert peak < keys_values + 4 * sequence


@torch.no_grad()
def test_precision(large):
    """One test, because the float32 copy takes the place of the model: bf16 is close to it, and steps equal a pass."""
    batch = inputs(VIDEO, large)
    rounded = large(**batch, logits_to_keep=32).logits.float()
    large.float()
    exact = large(**batch, logits_to_keep=32).logits
    out = generate(large, batch)
    full = large(**{**batch, "input_ids": out.sequences}, logits_to_keep=9).logits[0, :-1]
    large.bfloat16()
    error = ((rounded - exact).norm() / exact.norm()).item()
    print(f"\nbf16 against float32: {error:.2e}")
    assert error < 2e-2
    torch.testing.assert_close(torch.cat(out.logits), full, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_model_spread_over_two_gpus(golden, model, processor):
    first, second = "cuda:0", "cuda:1"
    layers = {f"model.language_model.layers.{i}": first if i < 3 else second for i in range(6)}
    device_map = {
        "model.visual": second,
        "model.separator_token": second,
        "model.language_model.embed_tokens": first,
        **layers,
        "model.language_model.norm": second,
        "lm_head": second,
    }
    spread = mossvl.MossVLForConditionalGeneration.from_pretrained(golden / "checkpoint", device_map=device_map)
    video = str(golden / "media" / "clip_10fps_6s.mp4")
    query = {"prompt": "Describe the video.", "videos": [video], "generate_kwargs": {"max_new_tokens": 10}}
    answers = [one.float().offline_batch_generate(processor, [query])["results"][0] for one in (model, spread)]
    assert answers[0]["text"] == answers[1]["text"]


def test_automatic_device_map(golden):
    model = mossvl.MossVLForConditionalGeneration.from_pretrained(
        golden / "checkpoint", device_map="auto", dtype=torch.bfloat16, attn_implementation="flash_attention_2"
    )
    assert model.device.type == "cuda"
