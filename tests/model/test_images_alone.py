"""Batches whose media are all images, by the names of trainers for any model: media counts follow from the prompts."""

import pytest
import torch
from golden_cases import CASES

from mossvl.model.loss import followers, token_logprobs

NAMES = ["one_image", "text_only", "multi_turn"]
COUNTS = [1, 0, 2]
LISTED = ("input_ids", "attention_mask", "pixel_values", "image_grid_thw")


def build(reference, side, names=NAMES):
    """Cases as one batch, padded on one side."""
    longest = max(len(CASES[name]["input_ids"]) for name in names)
    ids, mask = torch.zeros(2, len(names), longest, dtype=torch.long)
    for row, name in enumerate(names):
        tokens = torch.tensor(CASES[name]["input_ids"])
        columns = slice(longest - len(tokens), None) if side == "left" else slice(0, len(tokens))
        ids[row, columns], mask[row, columns] = tokens, 1
    names = [name for name in names if name != "text_only"]  # Its blank image is seen by no token.
    pixels = torch.cat([reference[f"{name}.pixel_values"] for name in names]).float() / 255 * 2 - 1
    grids = torch.tensor([grid for name in names for grid in CASES[name]["grid_thw"]])
    return dict(zip(LISTED, (ids, mask, pixels, grids), strict=True))


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_states_and_logits_are_those_of_each_sample(side, model, reference):
    batch = build(reference, side)
    states = model.base_model(**batch, use_cache=False).last_hidden_state
    for logits in (model.lm_head(states), model(**batch).logits):
        for row, name in enumerate(NAMES):
            own = logits[row, batch["attention_mask"][row].bool()]
            torch.testing.assert_close(own, reference[f"{name}.prefill_logits"], atol=1e-4, rtol=0)


@torch.no_grad()
def test_answers_after_left_padded_prompts_have_the_log_probabilities_of_each_sample_alone(model, reference):
    batch = build(reference, "left")
    answers = torch.tensor([CASES[name]["tokens"][:5] for name in NAMES])
    batch["input_ids"] = torch.cat((batch["input_ids"], answers), dim=1)
    batch["attention_mask"] = torch.cat((batch["attention_mask"], torch.ones_like(answers)), dim=1)
    logits = model(**batch, logits_to_keep=6).logits[:, :-1]
    for row, name in enumerate(NAMES):
        alone = torch.cat((torch.tensor(CASES[name]["input_ids"]), answers[row]))
        media = build(reference, "left", [name]) if COUNTS[row] else {}
        media = {key: media[key] for key in media if key in ("pixel_values", "image_grid_thw")}
        expected = model(input_ids=alone[None], **media).logits[0, -6:-1]
        torch.testing.assert_close(
            token_logprobs(logits[row], answers[row]), token_logprobs(expected, answers[row]), atol=1e-4, rtol=0
        )


def test_the_loss_is_that_of_the_published_names(model, reference):
    batch = build(reference, "right")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    published = {**batch, "grid_thw": batch["image_grid_thw"], "media_nums_per_sample": COUNTS}
    published.pop("image_grid_thw")
    with torch.no_grad():
        loss, expected = (model(**one, labels=labels).loss for one in (batch, published))
    assert torch.equal(loss, expected)
    assert (followers(labels) != -100).sum() > 20


@pytest.mark.parametrize("options", [{}, {"num_return_sequences": 2, "num_beams": 2}])
def test_generating_takes_these_names(options, model, reference):
    batch = build(reference, "left")
    output = model.generate(**batch, max_new_tokens=8, do_sample=False, **options)
    if not options:
        assert output[:, batch["input_ids"].shape[1] :].tolist() == [CASES[name]["tokens"][:8] for name in NAMES]
        return
    batch["grid_thw"] = batch.pop("image_grid_thw")
    batch["media_nums_per_sample"] = COUNTS
    assert torch.equal(output, model.generate(**batch, max_new_tokens=8, do_sample=False, **options))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda batch: {"image_grid_thw": batch["image_grid_thw"].repeat(2, 1)}, "but image_grid_thw has 6 rows"),
        (lambda batch: {"image_grid_thw": batch["image_grid_thw"] * torch.tensor([3, 1, 1])}, "of several frames"),
        (lambda batch: {"grid_thw": batch["image_grid_thw"]}, "give either grid_thw or image_grid_thw"),
        (lambda batch: {"image_grid_thw": None, "pixel_values": None}, "trainers for images alone drop videos"),
        (lambda batch: {"media_nums_per_sample": [1, 1, 2]}, "adds up to 4"),
    ],
)
def test_media_that_do_not_fit_are_refused(change, words, model, reference):
    batch = build(reference, "left")
    with pytest.raises(ValueError, match=words):
        model(**{**batch, **change(batch)})
