"""Samples of a batch do not know of each other."""

import inspect

import pytest
import torch
from golden_cases import CASES

from mossvl import MossVLCache
from mossvl.errors import OptionError

NAMES = ["text_only", "interleaved", "video", "one_image", "multi_turn"]


def build(names, reference, side):
    """Cases as one batch, padded on one side."""
    longest = max(len(CASES[name]["input_ids"]) for name in names)
    ids, mask = torch.zeros(2, len(names), longest, dtype=torch.long)
    for row, name in enumerate(names):
        tokens = torch.tensor(CASES[name]["input_ids"])
        columns = slice(longest - len(tokens), None) if side == "left" else slice(0, len(tokens))
        ids[row, columns], mask[row, columns] = tokens, 1
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "pixel_values": torch.cat([reference[f"{name}.pixel_values"] for name in names]).float() / 255 * 2 - 1,
        "grid_thw": torch.tensor([grid for name in names for grid in CASES[name]["grid_thw"]]),
        "media_nums_per_sample": [len(CASES[name]["grid_thw"]) for name in names],
    }


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_of_a_padded_batch_are_those_of_each_sample(side, model, reference):
    batch = build(NAMES, reference, side)
    logits = model(**batch).logits
    for row, name in enumerate(NAMES):
        own = logits[row, batch["attention_mask"][row].bool()]
        torch.testing.assert_close(own, reference[f"{name}.prefill_logits"], atol=1e-4, rtol=0)


def test_a_left_padded_batch_generates_what_each_sample_does(model, reference):
    batch = build(NAMES, reference, "left")
    output = model.generate(**batch, max_new_tokens=8, do_sample=False)[:, batch["input_ids"].shape[1] :]
    assert output.tolist() == [CASES[name]["tokens"][:8] for name in NAMES]


@torch.no_grad()
def test_samples_that_join_and_leave_a_cache_go_on_as_before(model, reference):
    shared = MossVLCache(model.config.text_config)
    for name in NAMES:
        own = MossVLCache(model.config.text_config)
        model(**{**build([name], reference, "right"), "past_key_values": own})
        shared.extend(own)
    shared.select([4, 0, 2, 1])
    left = [NAMES[i] for i in (4, 0, 2, 1)]
    for step in range(4):
        ids = torch.tensor([[CASES[name]["tokens"][step]] for name in left])
        logits = model(input_ids=ids, past_key_values=shared).logits[:, 0]
        for row, name in enumerate(left):
            expected = reference[f"{name}.decode_logits"][step + 1]
            torch.testing.assert_close(logits[row], expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_a_second_turn_with_its_own_image_continues_a_cache(model, reference):
    case = CASES["multi_turn"]
    ids = torch.tensor([case["input_ids"]])
    pixels = (reference["multi_turn.pixel_values"].float() / 255 * 2 - 1).split([120, 96])
    cache = MossVLCache(model.config.text_config)
    cut = 23
    grids = torch.tensor(case["grid_thw"])
    first = model(input_ids=ids[:, :cut], pixel_values=pixels[0], grid_thw=grids[:1], past_key_values=cache).logits
    rest = model(input_ids=ids[:, cut:], pixel_values=pixels[1], grid_thw=grids[1:], past_key_values=cache).logits
    torch.testing.assert_close(
        torch.cat((first, rest), dim=1)[0], reference["multi_turn.prefill_logits"], atol=1e-4, rtol=0
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"media_nums_per_sample": None}, "media_nums_per_sample"),
        ({"media_nums_per_sample": [1, 1, 1, 1, 1]}, "adds up to 5"),
        ({"pixel_values": None}, "0 were given"),
        ({"grid_thw": None, "media_nums_per_sample": None}, "image tokens"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(change, words, model, reference):
    with pytest.raises(ValueError, match=words):
        model(**{**build(NAMES, reference, "right"), **change})


def test_a_mask_that_contradicts_the_prompt_is_refused(model, reference):
    batch = build(["video"], reference, "right")
    mask = reference["video.cross_attention_mask"].bool()
    with pytest.raises(ValueError, match="does not follow"):
        model(**batch, cross_attention_mask=~mask)


def test_another_kind_of_cache_is_refused(model):
    from transformers import DynamicCache

    with pytest.raises(OptionError, match="MossVLCache"):
        model(input_ids=torch.tensor([[1, 2]]), past_key_values=DynamicCache())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"media_nums_per_sample": [3]}, "1 entries for 5 samples"),
        ({"vision_index": [0, 1, 2, 3, 9]}, "vision_index"),
        ({"vision_index": [0, 1, 2, 3, 3]}, "1 image tokens|image tokens, but grid_thw"),
    ],
)
def test_counts_and_indices_are_checked(change, words, model, reference):
    with pytest.raises(ValueError, match=words):
        model(**{**build(NAMES, reference, "right"), **change})


def test_samples_share_media_only_at_the_same_positions(model, reference):
    batch = build(["one_image", "one_image"], reference, "right")
    shared = {
        "pixel_values": batch["pixel_values"][:120],
        "grid_thw": batch["grid_thw"][:1],
        "media_nums_per_sample": [1],
        "vision_index": [0, 0],
    }
    with torch.no_grad():
        logits = model(**{**batch, **shared}).logits
    torch.testing.assert_close(logits[1], reference["one_image.prefill_logits"], atol=1e-4, rtol=0)
    moved = batch["input_ids"].clone()
    moved[1] = moved[1].roll(1)
    with pytest.raises(ValueError, match="same positions"):
        model(**{**batch, **shared, "input_ids": moved})


@torch.no_grad()
def test_media_encoded_before_give_the_same(model, reference):
    batch = build(NAMES, reference, "right")
    expected = model(**batch).logits
    embeds = model.model.encode_vision(batch.pop("pixel_values"), batch["grid_thw"])
    torch.testing.assert_close(model(**batch, vision_embeds=embeds).logits, expected, atol=1e-5, rtol=1e-5)


def test_generating_after_right_padding_is_refused(model, reference):
    with pytest.raises(OptionError, match="on the left"):
        model.generate(**build(NAMES, reference, "right"), max_new_tokens=2)


def test_the_loss_does_not_depend_on_the_side_of_the_padding(model, processor):
    texts, spans = ["short", "a longer prompt than that"], [[[0, 5]], [[2, 20]]]
    losses = [
        model(**processor(texts, labels_spans=spans, padding_side=side)).loss.item() for side in ("left", "right")
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


@torch.no_grad()
def test_both_models_take_the_same_inputs_by_place_or_by_name_and_say_so(model, reference):
    batch = build(NAMES[:1], reference, "right")
    ids, mask = batch["input_ids"], batch["attention_mask"].clone()
    mask[:, :3] = 0
    expected = model(input_ids=ids, attention_mask=mask).logits
    assert torch.equal(model(ids, mask).logits, expected)
    assert not torch.allclose(model(ids).logits, expected)
    inner, outer = (inspect.signature(one.forward).parameters for one in (model.model, model))
    assert list(outer)[: len(inner)] == list(inner)
    assert set(outer) - set(inner) >= {"labels", "loss", "logits_to_keep", "past_key_values"}
    with pytest.raises(TypeError, match="unknown"):
        model(ids, unknown=1)
