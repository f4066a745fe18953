"""The golden cases on a GPU."""

import pytest
import torch
from golden_cases import CASES

import mossvl

pytestmark = [pytest.mark.gpu, pytest.mark.xdist_group("gpu")]


@pytest.fixture(scope="module")
def on_gpu(golden):
    return mossvl.load(golden / "checkpoint", device="cuda", dtype="float32")


@torch.no_grad()
@pytest.mark.parametrize("name", CASES)
def test_logits(name, on_gpu, reference):
    model, _ = on_gpu
    pixels = (reference[f"{name}.pixel_values"].float() / 255 * 2 - 1).cuda()
    ids = torch.tensor([CASES[name]["input_ids"]], device="cuda")
    logits = model(input_ids=ids, pixel_values=pixels, grid_thw=torch.tensor(CASES[name]["grid_thw"])).logits[0]
    torch.testing.assert_close(logits.cpu(), reference[f"{name}.prefill_logits"], atol=1e-4, rtol=0)


def test_offline_answers(on_gpu):
    model, processor = on_gpu
    queries = [
        {**case["query"], "generate_kwargs": {"max_new_tokens": case["max_new_tokens"]}} for case in CASES.values()
    ]
    results = model.offline_batch_generate(processor, queries)["results"]
    assert [result["text"] for result in results] == [case["text"] for case in CASES.values()]
