"""A model that is cut among processes has its adapters cut with it."""

import torch
from adapted_models import PARAMS, SHAPES, TEXT, logprobs_of
from golden_cases import CHECKPOINT

import mossvl


def test_ranks_answer_with_adapters_as_one_process_does(adapters, make):
    adapters.add("one", r=3)
    adapters.add("merger", target_modules=rf"{TEXT}|model\.visual\.merger\.linear_fc\d")
    cases = [
        ({"prompt": "Why?"}, None),
        (SHAPES, "one"),
        (SHAPES, None),
        (SHAPES, "merger"),
        ({"prompt": "Why?"}, "one"),
    ]
    options = {"lora": adapters.folders, "memory": 1 << 24}
    with mossvl.MossVL(CHECKPOINT, device="cpu", dtype="float32", tensor_parallel_size=2, **options) as llm:
        handles = [
            handle
            for llm in (make(**options), llm)
            for handle in [llm.submit({**query, "lora": name}, PARAMS) for query, name in cases]
        ]
        results = [handle.result(120) for handle in handles]
    for one, cut in zip(results[: len(cases)], results[len(cases) :], strict=True):
        assert cut.token_ids == one.token_ids
        torch.testing.assert_close(logprobs_of(cut), logprobs_of(one), rtol=1e-4, atol=1e-4)
