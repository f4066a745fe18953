"""The model computes what the reference implementation computes."""

import pytest
import torch
from golden_cases import CASES

from mossvl import MossVLCache

TOLERANCE = 1e-4


@pytest.fixture(params=CASES)
def name(request):
    return request.param


@pytest.fixture
def inputs(name, reference):
    return {
        "input_ids": torch.tensor([CASES[name]["input_ids"]]),
        "pixel_values": reference[f"{name}.pixel_values"].float() / 255 * 2 - 1,
        "grid_thw": torch.tensor(CASES[name]["grid_thw"]),
        "cross_attention_mask": reference[f"{name}.cross_attention_mask"],
    }


@torch.no_grad()
def test_prefill_logits(name, inputs, model, reference):
    logits = model(**inputs).logits[0]
    torch.testing.assert_close(logits, reference[f"{name}.prefill_logits"], atol=TOLERANCE, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in CASES if name != "text_only"])  # its blank image is never seen
def test_vision_sequence(name, inputs, model, reference):
    encoded = model.model.encode_vision(inputs["pixel_values"], inputs["grid_thw"], chunk=2)
    torch.testing.assert_close(encoded, reference[f"{name}.vision_embeds"], atol=TOLERANCE, rtol=0)


def test_positions(name, model, reference):
    from mossvl.model.xrope import text_layout

    is_image = torch.tensor(CASES[name]["input_ids"]) == model.config.image_token_id
    sizes = [(h // 2, w // 2) for t, h, w in CASES[name]["grid_thw"] for _ in range(t)]
    if not is_image.any():
        sizes = []
    layout = text_layout(is_image, torch.tensor(sizes, dtype=torch.long).view(-1, 2))
    assert torch.equal(layout.text.expand(3, -1), reference[f"{name}.text_position_ids"].long())
    if sizes:
        assert torch.equal(layout.vision(), reference[f"{name}.vision_position_ids"].long())


@torch.no_grad()
def test_generated_tokens_and_their_logits(name, inputs, model, reference):
    new = CASES[name]["max_new_tokens"]
    output = model.generate(
        **inputs, max_new_tokens=new, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    assert output.sequences[0, inputs["input_ids"].shape[1] :].tolist() == CASES[name]["tokens"]
    expected = reference[f"{name}.decode_logits"]
    torch.testing.assert_close(torch.cat(output.logits)[: len(expected)], expected, atol=TOLERANCE, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("step", [1, 7])
def test_decoding_in_steps_equals_one_full_pass(name, inputs, model, step):
    full = torch.cat((inputs["input_ids"], torch.tensor([CASES[name]["tokens"]])), dim=1)
    media = {key: inputs[key] for key in ("pixel_values", "grid_thw")}
    expected = model(input_ids=full, **media).logits
    cache = MossVLCache(model.config.text_config)
    prompt = inputs["input_ids"].shape[1]
    parts = [model(**inputs, past_key_values=cache).logits]
    parts += [model(input_ids=part, past_key_values=cache).logits for part in full[:, prompt:].split(step, dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), expected, atol=TOLERANCE, rtol=0)
